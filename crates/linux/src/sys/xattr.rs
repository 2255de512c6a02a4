//! Extended attributes: `setxattr(2)` and its relatives.

use std::sync::Arc;

use crate::call::Call;
use crate::errno::Errno;
use crate::fs::metadata::{MAY_READ, MAY_WRITE};
use crate::fs::tmp::{State, TmpInode};
use crate::fs::walk::Walker;
use crate::fs::xattr::{NAME_BYTES_MAX, Namespace, VALUE_BYTES_MAX};
use crate::fs::{Location, Node};
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

const SUPPORTED: &str = "user.* of regular files and directories and trusted.* for root, on file systems in memory; other \
                         namespaces are EOPNOTSUPP; read-only file systems have none";

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(188, "setxattr", setxattr).supports(SUPPORTED),
    entry(189, "lsetxattr", lsetxattr).supports(SUPPORTED),
    entry(190, "fsetxattr", fsetxattr).supports(SUPPORTED),
    entry(191, "getxattr", getxattr).supports(SUPPORTED),
    entry(192, "lgetxattr", lgetxattr).supports(SUPPORTED),
    entry(193, "fgetxattr", fgetxattr).supports(SUPPORTED),
    entry(194, "listxattr", listxattr).supports(SUPPORTED),
    entry(195, "llistxattr", llistxattr).supports(SUPPORTED),
    entry(196, "flistxattr", flistxattr).supports(SUPPORTED),
    entry(197, "removexattr", removexattr).supports(SUPPORTED),
    entry(198, "lremovexattr", lremovexattr).supports(SUPPORTED),
    entry(199, "fremovexattr", fremovexattr).supports(SUPPORTED),
];

/// Which file a call means by its first argument.
#[derive(Debug, Clone, Copy)]
enum By {
    Path,
    Link,
    Descriptor,
}

fn file(call: &mut Call<'_>, by: By) -> Result<Location, Errno> {
    let flags = match by {
        By::Path => 0,
        By::Link => libc::AT_SYMLINK_NOFOLLOW,
        By::Descriptor => {
            call.usable_file(0)?;
            return call.location_of(call.int(0));
        }
    };
    let path = call.read_path(call.args[0])?;
    call.locate(libc::AT_FDCWD, &path, flags)
}

fn name(call: &mut Call<'_>) -> Result<Vec<u8>, Errno> {
    let address = call.args[1];
    let name = call.kernel.read_user_string(call.pid, address, NAME_BYTES_MAX + 1)?.ok_or(Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

/// The file in memory behind a location, if it is one.
fn inode(location: &Location) -> Option<Arc<TmpInode>> {
    match &location.node {
        Node::Tmp(inode) => Some(inode.clone()),
        Node::Open(file) => file.location.as_ref().and_then(inode),
        _ => None,
    }
}

/// Whether a process may use attributes of a namespace.
fn check(call: &Call<'_>, state: &State, namespace: Namespace, wanted: u32, errno: Errno) -> Result<(), Errno> {
    let credentials = Walker::new(call.kernel, call.pid)?.credentials();
    let is_root = credentials.is_file_root();
    match namespace {
        Namespace::Trusted if is_root => Ok(()),
        Namespace::Trusted => Err(errno),
        Namespace::User => {
            let kind = state.mode & libc::S_IFMT;
            let is_sticky = kind == libc::S_IFDIR && state.mode & libc::S_ISVTX != 0;
            if kind != libc::S_IFREG && kind != libc::S_IFDIR {
                return Err(errno);
            }
            if is_sticky && wanted == MAY_WRITE && !is_root && credentials.uid_file != state.uid {
                return Err(Errno::EPERM);
            }
            state.check(credentials, wanted)
        }
    }
}

fn set(call: &mut Call<'_>, by: By) -> SysResult {
    let flags = call.int(4);
    if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = name(call)?;
    let size = usize::try_from(call.args[3]).ok().filter(|size| *size <= VALUE_BYTES_MAX).ok_or(Errno::E2BIG)?;
    let value = call.read_bytes(call.args[2], size)?;
    let location = file(call, by)?;
    let Some(inode) = inode(&location) else { return Err(refused(&location).into()) };
    let namespace = Namespace::of(&name)?;
    let now = call.now();
    inode.pin()?;
    let mut state = inode.state();
    check(call, &state, namespace, MAY_WRITE, Errno::EPERM)?;
    state.attributes.set(name, value, flags, call.kernel.files.buffers())?;
    state.changed = now;
    drop(state);
    location.tell(call.kernel.files.watches(), libc::IN_ATTRIB);
    Ok(0)
}

/// Why a file that is not in memory gets no attributes.
fn refused(location: &Location) -> Errno {
    match location.node {
        Node::Host(_) => Errno::EROFS,
        _ => Errno::EOPNOTSUPP,
    }
}

/// Copies a result to the guest's buffer; a buffer of no bytes asks only for the length.
fn answer(call: &mut Call<'_>, bytes: &[u8], (address, room): (u64, u64)) -> SysResult {
    if room == 0 {
        return Ok(bytes.len() as u64);
    }
    if room < bytes.len() as u64 {
        return Err(Errno::ERANGE.into());
    }
    call.write_bytes(address, bytes)?;
    Ok(bytes.len() as u64)
}

fn get(call: &mut Call<'_>, by: By) -> SysResult {
    let name = name(call)?;
    let location = file(call, by)?;
    let Some(inode) = inode(&location) else { return Err(Errno::EOPNOTSUPP.into()) };
    let namespace = Namespace::of(&name)?;
    let value = {
        let state = inode.state();
        check(call, &state, namespace, MAY_READ, Errno::ENODATA)?;
        state.attributes.get(&name)?.to_vec()
    };
    answer(call, &value, (call.args[2], call.args[3]))
}

fn list(call: &mut Call<'_>, by: By) -> SysResult {
    let location = file(call, by)?;
    let Some(inode) = inode(&location) else { return Ok(0) };
    let is_root = Walker::new(call.kernel, call.pid)?.credentials().is_file_root();
    let mut names = Vec::new();
    for name in inode.state().attributes.names(is_root) {
        names.extend_from_slice(name);
        names.push(0);
    }
    answer(call, &names, (call.args[1], call.args[2]))
}

fn remove(call: &mut Call<'_>, by: By) -> SysResult {
    let name = name(call)?;
    let location = file(call, by)?;
    let Some(inode) = inode(&location) else { return Err(refused(&location).into()) };
    let namespace = Namespace::of(&name)?;
    let now = call.now();
    let mut state = inode.state();
    check(call, &state, namespace, MAY_WRITE, Errno::EPERM)?;
    state.attributes.remove(&name, call.kernel.files.buffers())?;
    state.changed = now;
    drop(state);
    location.tell(call.kernel.files.watches(), libc::IN_ATTRIB);
    Ok(0)
}

fn setxattr(call: &mut Call<'_>) -> SysResult {
    set(call, By::Path)
}

fn lsetxattr(call: &mut Call<'_>) -> SysResult {
    set(call, By::Link)
}

fn fsetxattr(call: &mut Call<'_>) -> SysResult {
    set(call, By::Descriptor)
}

fn getxattr(call: &mut Call<'_>) -> SysResult {
    get(call, By::Path)
}

fn lgetxattr(call: &mut Call<'_>) -> SysResult {
    get(call, By::Link)
}

fn fgetxattr(call: &mut Call<'_>) -> SysResult {
    get(call, By::Descriptor)
}

fn listxattr(call: &mut Call<'_>) -> SysResult {
    list(call, By::Path)
}

fn llistxattr(call: &mut Call<'_>) -> SysResult {
    list(call, By::Link)
}

fn flistxattr(call: &mut Call<'_>) -> SysResult {
    list(call, By::Descriptor)
}

fn removexattr(call: &mut Call<'_>) -> SysResult {
    remove(call, By::Path)
}

fn lremovexattr(call: &mut Call<'_>) -> SysResult {
    remove(call, By::Link)
}

fn fremovexattr(call: &mut Call<'_>) -> SysResult {
    remove(call, By::Descriptor)
}
