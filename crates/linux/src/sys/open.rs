//! `open(2)` and its relatives, `memfd_create(2)`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::errno::Errno;
use crate::file::{Body, OpenFile, READABLE, WRITABLE};
use crate::fs::open::{OpenHow, open as open_path, owner};
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(2, "open", open),
    entry(85, "creat", creat),
    entry(257, "openat", openat),
    entry(319, "memfd_create", memfd_create),
    entry(437, "openat2", openat2),
];

/// Longest name of a memfd.
const MEMFD_NAME_BYTES_MAX: usize = 249;
/// `RESOLVE_*` flags whose promise our path resolution keeps anyway: there are no mounts to cross into other trees by
/// magic, and no magic links but those of `/proc`.
const RESOLVE_HARMLESS: u64 = libc::RESOLVE_NO_MAGICLINKS;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn open_at(call: &mut Call<'_>, fd: i32, path_address: u64, flags: i32, mode: u64) -> SysResult {
    let path = call.read_path(path_address)?;
    let permissions = call.permissions(mode);
    let base = call.base(fd, &path)?;
    let file = open_path(call.kernel, call.pid, &base, &path, OpenHow::new(flags, permissions))?;
    let fd = call.install(file, flags & libc::O_CLOEXEC != 0)?;
    Ok(fd as u64)
}

fn open(call: &mut Call<'_>) -> SysResult {
    open_at(call, libc::AT_FDCWD, call.args[0], call.int(1), call.args[2])
}

fn creat(call: &mut Call<'_>) -> SysResult {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    open_at(call, libc::AT_FDCWD, call.args[0], flags, call.args[1])
}

fn openat(call: &mut Call<'_>) -> SysResult {
    open_at(call, call.int(0), call.args[1], call.int(2), call.args[3])
}

fn openat2(call: &mut Call<'_>) -> SysResult {
    let size = call.args[3] as usize;
    if size < size_of::<How>() {
        return Err(Errno::EINVAL.into());
    }
    if size > calypte_platform::PAGE_SIZE {
        return Err(Errno::E2BIG.into());
    }
    let bytes = call.read_bytes(call.args[2], size)?;
    let (how, rest) = How::read_from_prefix(&bytes).map_err(|_| Errno::EINVAL)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    // The other RESOLVE flags change which file is meant: callers fall back to openat(2) when there is no openat2(2).
    if how.resolve & !RESOLVE_HARMLESS != 0 {
        return Err(Errno::ENOSYS.into());
    }
    let flags = i32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    open_at(call, call.int(0), call.args[1], flags, how.mode)
}

fn memfd_create(call: &mut Call<'_>) -> SysResult {
    let flags = call.args[1] as u32;
    if flags & !(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = call.kernel.read_user_string(call.pid, call.args[0], MEMFD_NAME_BYTES_MAX + 1)?.ok_or(Errno::EINVAL)?;
    let owner = owner(call.kernel, call.pid)?;
    let permissions = if flags & libc::MFD_NOEXEC_SEAL != 0 { 0o666 } else { 0o777 };
    let inode = call.kernel.files.scratch().clone().create_regular(permissions, owner)?;
    let path = format!("/memfd:{} (deleted)", String::from_utf8_lossy(&name));
    let file = OpenFile::anonymous(Body::Tmp(inode), &path, READABLE | WRITABLE, libc::O_RDWR as u32);
    let fd = call.install(file, flags & libc::MFD_CLOEXEC != 0)?;
    Ok(fd as u64)
}
