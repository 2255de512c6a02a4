//! `open(2)` and its relatives, `memfd_create(2)`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::errno::Errno;
use crate::file::{Body, OpenFile, READABLE, WRITABLE};
use crate::fs::open::{OpenHow, open as open_path, owner};
use crate::fs::seal::{SEAL_EXEC, SEAL_SEAL, Seals};
use crate::fs::walk::Resolve;
use crate::outcome::{Stop, SysResult, Wait};
use crate::sys::entry;
use crate::table::SystemCall;

const OPENING: &str = "all flags; O_DIRECT, O_SYNC, O_DSYNC, O_NOATIME and O_LARGEFILE have no effect, O_ASYNC is dropped, access \
     mode 3 is EINVAL; O_TMPFILE in memory only (EOPNOTSUPP)";

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(2, "open", open).supports(OPENING),
    entry(85, "creat", creat).supports("as `open`"),
    entry(257, "openat", openat).supports(OPENING),
    entry(319, "memfd_create", memfd_create).supports("CLOEXEC, ALLOW_SEALING, NOEXEC_SEAL, EXEC; HUGETLB is EINVAL"),
    entry(437, "openat2", openat2)
        .supports("as `open`, all RESOLVE flags; RESOLVE_CACHED never has to give EAGAIN but for creation"),
];

/// Longest name of a memfd.
const MEMFD_NAME_BYTES_MAX: usize = 249;
/// Flags of `open(2)`: `openat2(2)` refuses others, `open(2)` ignores them.
const FLAGS_KNOWN: u64 = (libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_ASYNC
    | libc::O_DIRECT
    | LARGE_FILE
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_PATH
    | libc::O_TMPFILE) as u64;
/// `O_LARGEFILE` as the kernel has it.
const LARGE_FILE: i32 = 0o100_000;

/// What `O_TMPFILE` has besides `O_DIRECTORY`.
const O_TMPFILE_BIT: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn open_at(call: &mut Call<'_>, fd: i32, path_address: u64, flags: i32, mode: u64) -> SysResult {
    open_resolving(call, fd, path_address, OpenHow::new(flags, 0), mode, Resolve::default())
}

fn open_resolving(
    call: &mut Call<'_>,
    fd: i32,
    path_address: u64,
    how: OpenHow,
    mode: u64,
    resolve: Resolve,
) -> SysResult {
    let file = match call.thread().opening.take() {
        Some(file) => file,
        None => {
            let path = call.read_path(path_address)?;
            if path.is_empty() {
                return Err(Errno::ENOENT.into());
            }
            // Before a file is made or cut off.
            call.process().files.check_room()?;
            let permissions = call.permissions(mode);
            let base = if resolve.is_confined() { call.location_of_directory(fd)? } else { call.base(fd, &path)? };
            open_path(call.kernel, call.pid, &base, &path, how.with(permissions, resolve))?
        }
    };
    if let Body::Pipe(end) = &file.body
        && !file.is_nonblocking()
        && !end.has_met_partner()
    {
        if call.is_interrupted() {
            return Err(Errno::EINTR.into());
        }
        let keys = end.pipe().open_keys().to_vec();
        call.thread().opening = Some(file);
        return Err(Stop::Block(Wait { keys, deadline_ns: None }));
    }
    let fd = call.install(file, how.is_closed_on_exec())?;
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
    let resolve = Resolve::from_bits(how.resolve)?;
    let may_create = how.flags & (libc::O_CREAT | O_TMPFILE_BIT) as u64 != 0;
    if how.flags & !FLAGS_KNOWN != 0 || how.mode & !0o7777 != 0 || how.mode != 0 && !may_create {
        return Err(Errno::EINVAL.into());
    }
    let flags = i32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    if flags & libc::O_PATH != 0
        && flags & !(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC | LARGE_FILE) != 0
    {
        return Err(Errno::EINVAL.into());
    }
    if resolve.is_cached && flags & (libc::O_CREAT | libc::O_TRUNC | O_TMPFILE_BIT) != 0 {
        return Err(Errno::EAGAIN.into());
    }
    open_resolving(call, call.int(0), call.args[1], OpenHow::new(flags, 0), how.mode, resolve)
}

fn memfd_create(call: &mut Call<'_>) -> SysResult {
    let flags = call.args[1] as u32;
    if flags & !(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & (libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC) == libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC {
        return Err(Errno::EINVAL.into());
    }
    let name = call.kernel.read_user_string(call.pid, call.args[0], MEMFD_NAME_BYTES_MAX + 1)?.ok_or(Errno::EINVAL)?;
    let owner = owner(call.kernel, call.pid)?;
    let permissions = if flags & libc::MFD_NOEXEC_SEAL != 0 { 0o666 } else { 0o777 };
    let inode = call.kernel.files.scratch().clone().create_regular(permissions, owner)?;
    let is_sealable = flags & (libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL) != 0;
    let initial = if flags & libc::MFD_NOEXEC_SEAL != 0 { SEAL_EXEC } else { 0 };
    inode.state().seals = Seals::of_memfd(if is_sealable { initial } else { SEAL_SEAL });
    let path = format!("/memfd:{} (deleted)", String::from_utf8_lossy(&name));
    let file = OpenFile::anonymous(Body::Tmp(inode), &path, READABLE | WRITABLE, libc::O_RDWR as u32);
    let fd = call.install(file, flags & libc::MFD_CLOEXEC != 0)?;
    Ok(fd as u64)
}
