//! Names of files: `readlink(2)`, `link(2)`, `symlink(2)`, `unlink(2)`, `rename(2)`, `mknod(2)`.

use crate::call::Call;
use crate::errno::Errno;
use crate::fs::Node;
use crate::fs::change::{self, Existing, Made};
use crate::fs::node::Target;
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(82, "rename", rename),
    entry(86, "link", link),
    entry(87, "unlink", unlink),
    entry(88, "symlink", symlink),
    entry(89, "readlink", readlink),
    entry(133, "mknod", mknod).supports("regular files, FIFOs, sockets; devices are EPERM"),
    entry(259, "mknodat", mknodat).supports("regular files, FIFOs, sockets; devices are EPERM"),
    entry(263, "unlinkat", unlinkat),
    entry(264, "renameat", renameat),
    entry(265, "linkat", linkat),
    entry(266, "symlinkat", symlinkat),
    entry(267, "readlinkat", readlinkat),
    entry(316, "renameat2", renameat2).supports("NOREPLACE, EXCHANGE; WHITEOUT is EINVAL"),
];

fn read_link_at(call: &mut Call<'_>, fd: i32, path_address: u64, buffer: u64, size: i32) -> SysResult {
    if size <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = call.read_path(path_address)?;
    let location = call.locate(fd, &path, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    let text = match &location.node {
        Node::Proc(entry) => entry.link_text(call.kernel)?,
        _ => None,
    };
    let mut text = match text {
        Some(text) => text,
        None => match location.link_target(call.kernel, call.pid)? {
            Some(Target::Path(target)) => target,
            // An empty path names the descriptor itself, which is no link: `ENOENT`.
            _ if path.is_empty() => return Err(Errno::ENOENT.into()),
            _ => return Err(Errno::EINVAL.into()),
        },
    };
    text.truncate(size as usize);
    call.write_bytes(buffer, &text)?;
    Ok(text.len() as u64)
}

fn readlink(call: &mut Call<'_>) -> SysResult {
    read_link_at(call, libc::AT_FDCWD, call.args[0], call.args[1], call.int(2))
}

fn readlinkat(call: &mut Call<'_>) -> SysResult {
    read_link_at(call, call.int(0), call.args[1], call.args[2], call.int(3))
}

fn symlink_at(call: &mut Call<'_>, target_address: u64, fd: i32, path_address: u64) -> SysResult {
    let target = call.read_path(target_address)?;
    let path = call.read_path(path_address)?;
    let base = call.base(fd, &path)?;
    change::make(call.kernel, call.pid, &base, &path, Made::Link(target), 0o777)?;
    Ok(0)
}

fn symlink(call: &mut Call<'_>) -> SysResult {
    symlink_at(call, call.args[0], libc::AT_FDCWD, call.args[1])
}

fn symlinkat(call: &mut Call<'_>) -> SysResult {
    symlink_at(call, call.args[0], call.int(1), call.args[2])
}

fn link_at(
    call: &mut Call<'_>,
    (old_fd, old_path): (i32, u64),
    (new_fd, new_path): (i32, u64),
    flags: i32,
) -> SysResult {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let old_path = call.read_path(old_path)?;
    let new_path = call.read_path(new_path)?;
    let no_follow = if flags & libc::AT_SYMLINK_FOLLOW != 0 { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    let source = call.locate(old_fd, &old_path, flags & libc::AT_EMPTY_PATH | no_follow)?;
    let base = call.base(new_fd, &new_path)?;
    change::link(call.kernel, call.pid, &source, &base, &new_path)?;
    Ok(0)
}

fn link(call: &mut Call<'_>) -> SysResult {
    link_at(call, (libc::AT_FDCWD, call.args[0]), (libc::AT_FDCWD, call.args[1]), 0)
}

fn linkat(call: &mut Call<'_>) -> SysResult {
    link_at(call, (call.int(0), call.args[1]), (call.int(2), call.args[3]), call.int(4))
}

fn unlink(call: &mut Call<'_>) -> SysResult {
    let path = call.read_path(call.args[0])?;
    let base = call.base(libc::AT_FDCWD, &path)?;
    change::unlink(call.kernel, call.pid, &base, &path)?;
    Ok(0)
}

fn unlinkat(call: &mut Call<'_>) -> SysResult {
    let path = call.read_path(call.args[1])?;
    let base = call.base(call.int(0), &path)?;
    match call.int(2) {
        0 => change::unlink(call.kernel, call.pid, &base, &path)?,
        libc::AT_REMOVEDIR => change::remove_directory(call.kernel, call.pid, &base, &path)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

fn rename_at(
    call: &mut Call<'_>,
    (old_fd, old_path): (i32, u64),
    (new_fd, new_path): (i32, u64),
    existing: Existing,
) -> SysResult {
    let old_path = call.read_path(old_path)?;
    let new_path = call.read_path(new_path)?;
    let old_base = call.base(old_fd, &old_path)?;
    let new_base = call.base(new_fd, &new_path)?;
    change::rename(call.kernel, call.pid, (&old_base, &old_path), (&new_base, &new_path), existing)?;
    Ok(0)
}

fn rename(call: &mut Call<'_>) -> SysResult {
    rename_at(call, (libc::AT_FDCWD, call.args[0]), (libc::AT_FDCWD, call.args[1]), Existing::Replace)
}

fn renameat(call: &mut Call<'_>) -> SysResult {
    rename_at(call, (call.int(0), call.args[1]), (call.int(2), call.args[3]), Existing::Replace)
}

fn renameat2(call: &mut Call<'_>) -> SysResult {
    let existing = match call.args[4] as u32 {
        0 => Existing::Replace,
        libc::RENAME_NOREPLACE => Existing::Refuse,
        libc::RENAME_EXCHANGE => Existing::Exchange,
        _ => return Err(Errno::EINVAL.into()),
    };
    rename_at(call, (call.int(0), call.args[1]), (call.int(2), call.args[3]), existing)
}

fn make_node(call: &mut Call<'_>, fd: i32, path_address: u64, mode: u64) -> SysResult {
    let made = match mode as u32 & libc::S_IFMT {
        0 | libc::S_IFREG => Made::Regular,
        libc::S_IFIFO => Made::Fifo,
        libc::S_IFSOCK => Made::Socket(std::sync::Weak::new()),
        libc::S_IFCHR | libc::S_IFBLK | libc::S_IFDIR => return Err(Errno::EPERM.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    let path = call.read_path(path_address)?;
    let permissions = call.permissions(mode);
    let base = call.base(fd, &path)?;
    change::make(call.kernel, call.pid, &base, &path, made, permissions)?;
    Ok(0)
}

fn mknod(call: &mut Call<'_>) -> SysResult {
    make_node(call, libc::AT_FDCWD, call.args[0], call.args[1])
}

fn mknodat(call: &mut Call<'_>) -> SysResult {
    make_node(call, call.int(0), call.args[1], call.args[2])
}
