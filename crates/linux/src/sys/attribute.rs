//! Changes to files but for their names: modes, owners, times, lengths; flushing.

use crate::call::Call;
use crate::errno::Errno;
use crate::file::Body;
use crate::fs::Location;
use crate::fs::change;
use crate::fs::metadata::Time;
use crate::fs::pages::FILE_BYTES_MAX;
use crate::fs::tmp::Content;
use crate::limits::Resource;
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

const FLUSHED: &str = "arguments are checked; there is nothing to do: what is written is in memory at once";
const LENGTHS: &str = "up to 1 TiB (EFBIG)";
const CHECKED: &str = "arguments are checked; there is nothing to do";

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(74, "fsync", fsync).supports(FLUSHED),
    entry(75, "fdatasync", fsync).supports(FLUSHED),
    entry(76, "truncate", truncate).supports(LENGTHS),
    entry(77, "ftruncate", ftruncate).supports(LENGTHS),
    entry(90, "chmod", chmod),
    entry(91, "fchmod", fchmod),
    entry(92, "chown", chown),
    entry(93, "fchown", fchown),
    entry(94, "lchown", lchown),
    entry(95, "umask", umask),
    entry(132, "utime", utime),
    entry(162, "sync", sync).supports("there is nothing to do"),
    entry(187, "readahead", readahead).supports(CHECKED),
    entry(221, "fadvise64", fadvise64).supports(CHECKED),
    entry(235, "utimes", utimes),
    entry(260, "fchownat", fchownat),
    entry(261, "futimesat", futimesat),
    entry(268, "fchmodat", fchmodat),
    entry(277, "sync_file_range", sync_file_range).supports(CHECKED),
    entry(280, "utimensat", utimensat),
    entry(285, "fallocate", fallocate)
        .supports("0, KEEP_SIZE, PUNCH_HOLE with KEEP_SIZE, as on tmpfs; others are EOPNOTSUPP"),
    entry(306, "syncfs", syncfs).supports(CHECKED),
    entry(452, "fchmodat2", fchmodat2),
];

fn located(call: &mut Call<'_>, fd: i32, path_address: u64, flags: i32) -> Result<Location, Errno> {
    let path = call.read_path(path_address)?;
    call.locate(fd, &path, flags)
}

/// The file behind a descriptor argument whose metadata is to change.
fn of_descriptor(call: &mut Call<'_>) -> Result<Location, Errno> {
    call.usable_file(0)?;
    call.location_of(call.int(0))
}

fn chmod(call: &mut Call<'_>) -> SysResult {
    let location = located(call, libc::AT_FDCWD, call.args[0], 0)?;
    change::change_mode(call.kernel, call.pid, &location, call.args[1] as u32)?;
    Ok(0)
}

fn fchmod(call: &mut Call<'_>) -> SysResult {
    let location = of_descriptor(call)?;
    change::change_mode(call.kernel, call.pid, &location, call.args[1] as u32)?;
    Ok(0)
}

fn change_mode_at(call: &mut Call<'_>, flags: i32) -> SysResult {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let location = located(call, call.int(0), call.args[1], flags)?;
    if location.metadata(call.kernel)?.is_link() {
        return Err(Errno::EOPNOTSUPP.into());
    }
    change::change_mode(call.kernel, call.pid, &location, call.args[2] as u32)?;
    Ok(0)
}

fn fchmodat(call: &mut Call<'_>) -> SysResult {
    change_mode_at(call, 0)
}

fn fchmodat2(call: &mut Call<'_>) -> SysResult {
    change_mode_at(call, call.int(3))
}

/// -1 leaves an id as it is.
fn id(argument: u64) -> Option<u32> {
    Some(argument as u32).filter(|id| *id != u32::MAX)
}

fn change_owner(call: &mut Call<'_>, location: &Location, uid: u64, gid: u64) -> SysResult {
    change::change_owner(call.kernel, call.pid, location, id(uid), id(gid))?;
    Ok(0)
}

fn chown(call: &mut Call<'_>) -> SysResult {
    let location = located(call, libc::AT_FDCWD, call.args[0], 0)?;
    change_owner(call, &location, call.args[1], call.args[2])
}

fn lchown(call: &mut Call<'_>) -> SysResult {
    let location = located(call, libc::AT_FDCWD, call.args[0], libc::AT_SYMLINK_NOFOLLOW)?;
    change_owner(call, &location, call.args[1], call.args[2])
}

fn fchown(call: &mut Call<'_>) -> SysResult {
    let location = of_descriptor(call)?;
    change_owner(call, &location, call.args[1], call.args[2])
}

fn fchownat(call: &mut Call<'_>) -> SysResult {
    let flags = call.int(4);
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let location = located(call, call.int(0), call.args[1], flags)?;
    change_owner(call, &location, call.args[2], call.args[3])
}

fn umask(call: &mut Call<'_>) -> SysResult {
    let new = call.args[0] as u32 & 0o777;
    Ok(call.process().replace_umask(new).into())
}

/// A `timespec` of `utimensat(2)`: `None` for `UTIME_OMIT`, and whether it was `UTIME_NOW`.
fn time_of(spec: [i64; 2], now: Time) -> Result<(Option<Time>, bool), Errno> {
    match spec[1] {
        libc::UTIME_NOW => Ok((Some(now), true)),
        libc::UTIME_OMIT => Ok((None, false)),
        nanoseconds @ 0..1_000_000_000 => Ok((Some(Time { seconds: spec[0], nanoseconds: nanoseconds as u32 }), false)),
        _ => Err(Errno::EINVAL),
    }
}

fn change_times(call: &mut Call<'_>, location: &Location, specs: Option<[[i64; 2]; 2]>) -> SysResult {
    let now = call.now();
    let ((accessed, is_now), (modified, is_modified_now)) = match specs {
        None => ((Some(now), true), (Some(now), true)),
        Some([accessed, modified]) => (time_of(accessed, now)?, time_of(modified, now)?),
    };
    if accessed.is_none() && modified.is_none() {
        return Ok(0);
    }
    change::change_times(call.kernel, call.pid, location, accessed, modified, is_now && is_modified_now)?;
    Ok(0)
}

fn utimensat(call: &mut Call<'_>) -> SysResult {
    let flags = call.int(3);
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let specs = if call.args[2] == 0 { None } else { Some(call.read::<[[i64; 2]; 2]>(call.args[2])?) };
    if specs.is_some_and(|[accessed, modified]| [accessed[1], modified[1]] == [libc::UTIME_OMIT; 2]) {
        return Ok(0); // Linux does not even look at the path.
    }
    let location = match call.args[1] {
        0 if call.int(0) == libc::AT_FDCWD => return Err(Errno::EFAULT.into()),
        0 => of_descriptor(call)?,
        address => located(call, call.int(0), address, flags)?,
    };
    change_times(call, &location, specs)
}

/// Two `timeval`s as `timespec`s.
fn read_timevals(call: &mut Call<'_>, address: u64) -> Result<Option<[[i64; 2]; 2]>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let values = call.read::<[[i64; 2]; 2]>(address)?;
    if values.iter().any(|value| !(0..1_000_000).contains(&value[1])) {
        return Err(Errno::EINVAL);
    }
    Ok(Some(values.map(|[seconds, microseconds]| [seconds, microseconds * 1000])))
}

fn utimes(call: &mut Call<'_>) -> SysResult {
    let specs = read_timevals(call, call.args[1])?;
    let location = located(call, libc::AT_FDCWD, call.args[0], 0)?;
    change_times(call, &location, specs)
}

fn futimesat(call: &mut Call<'_>) -> SysResult {
    let specs = read_timevals(call, call.args[2])?;
    let location = located(call, call.int(0), call.args[1], 0)?;
    change_times(call, &location, specs)
}

fn utime(call: &mut Call<'_>) -> SysResult {
    let specs = match call.args[1] {
        0 => None,
        address => Some(call.read::<[i64; 2]>(address)?.map(|seconds| [seconds, 0])),
    };
    let location = located(call, libc::AT_FDCWD, call.args[0], 0)?;
    change_times(call, &location, specs)
}

fn length(argument: u64) -> Result<u64, Errno> {
    i64::try_from(argument).map_err(|_| Errno::EINVAL)?;
    if argument > FILE_BYTES_MAX { Err(Errno::EFBIG) } else { Ok(argument) }
}

/// `EFBIG` and a signal beyond `RLIMIT_FSIZE`.
fn check_file_limit(call: &mut Call<'_>, size: u64) -> Result<(), Errno> {
    if size <= call.process().limits.get(Resource::FileSize).soft {
        return Ok(());
    }
    call.signal_file_too_large();
    Err(Errno::EFBIG)
}

fn truncate(call: &mut Call<'_>) -> SysResult {
    let size = length(call.args[1])?;
    check_file_limit(call, size)?;
    let location = located(call, libc::AT_FDCWD, call.args[0], 0)?;
    change::truncate(call.kernel, call.pid, &location, size)?;
    Ok(0)
}

fn ftruncate(call: &mut Call<'_>) -> SysResult {
    let size = length(call.args[1])?;
    let file = call.usable_file(0)?;
    match &file.body {
        Body::Tmp(inode) if file.is_writable() => {
            check_file_limit(call, size)?;
            change::truncate_inode(call.kernel, call.pid, inode, size)?;
            file.tell(libc::IN_MODIFY);
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// Modes of `fallocate(2)` that files in memory know, as on Linux's tmpfs.
const FALLOCATE_MODES: i32 = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;

fn fallocate(call: &mut Call<'_>) -> SysResult {
    let file = call.usable_file(0)?;
    let mode = call.int(1);
    let (offset, size) = (call.args[2], call.args[3]);
    if i64::try_from(offset).is_err() || i64::try_from(size).is_err() || size == 0 {
        return Err(Errno::EINVAL.into());
    }
    if !file.is_writable() {
        return Err(Errno::EBADF.into());
    }
    let Body::Tmp(inode) = &file.body else {
        let is_pipe = matches!(file.body, Body::Pipe(_) | Body::ConsoleOutput(_));
        return Err(if is_pipe { Errno::ESPIPE } else { Errno::ENODEV }.into());
    };
    let is_size_kept = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    if mode & !FALLOCATE_MODES != 0 || mode & libc::FALLOC_FL_PUNCH_HOLE != 0 && !is_size_kept {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let end = offset.checked_add(size).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EFBIG)?;
    if !is_size_kept {
        check_file_limit(call, end)?;
    }
    let now = call.now();
    let mut state = inode.state();
    let seals = state.seals;
    let Content::Regular(pages) = &mut state.content else { return Err(Errno::ENODEV.into()) };
    let frames = &mut call.kernel.frames;
    if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 {
        seals.check_write(pages.size(), 0)?;
    } else if !is_size_kept {
        seals.check_size(pages.size(), pages.size().max(end))?;
    }
    match mode {
        0 => pages.reserve(frames, offset, size, false)?,
        libc::FALLOC_FL_KEEP_SIZE => pages.reserve(frames, offset, size, true)?,
        _ if mode == libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE => {
            pages.punch_hole(frames, offset, size)?;
        }
        _ => return Err(Errno::EOPNOTSUPP.into()),
    }
    state.modified = now;
    state.changed = now;
    drop(state);
    file.tell(libc::IN_MODIFY);
    Ok(0)
}

/// There is nothing to flush: file systems are in memory or read-only.
fn fsync(call: &mut Call<'_>) -> SysResult {
    match call.usable_file(0)?.body {
        Body::Host(_) | Body::Tmp(_) | Body::Directory(_) => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// Any open file names its file system.
fn syncfs(call: &mut Call<'_>) -> SysResult {
    call.usable_file(0)?;
    Ok(0)
}

fn sync_file_range(call: &mut Call<'_>) -> SysResult {
    const FLAGS: u32 =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let file = call.usable_file(0)?;
    let [_, offset, size, flags, ..] = call.args;
    let is_range = offset.checked_add(size).is_some_and(|end| i64::try_from(end).is_ok());
    if flags as u32 & !FLAGS != 0 || !is_range {
        return Err(Errno::EINVAL.into());
    }
    match file.body {
        Body::Host(_) | Body::Tmp(_) | Body::Text(_) | Body::Directory(_) => Ok(0),
        _ => Err(Errno::ESPIPE.into()),
    }
}

/// What the host reads ahead is its own affair.
fn readahead(call: &mut Call<'_>) -> SysResult {
    let file = call.usable_file(0)?;
    match file.body {
        _ if !file.is_readable() => Err(Errno::EBADF.into()),
        Body::Host(_) | Body::Tmp(_) | Body::Text(_) => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn sync(_call: &mut Call<'_>) -> SysResult {
    Ok(0)
}

fn fadvise64(call: &mut Call<'_>) -> SysResult {
    let file = call.usable_file(0)?;
    match (&file.body, call.int(3)) {
        (Body::Pipe(_) | Body::ConsoleInput | Body::ConsoleOutput(_), _) => Err(Errno::ESPIPE.into()),
        _ if call.args[2].cast_signed() < 0 => Err(Errno::EINVAL.into()),
        (_, libc::POSIX_FADV_NORMAL..=libc::POSIX_FADV_NOREUSE) => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}
