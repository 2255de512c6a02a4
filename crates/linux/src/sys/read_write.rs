//! `read(2)`, `write(2)` and their relatives, `lseek(2)`.

use std::sync::Arc;

use crate::call::Call;
use crate::errno::Errno;
use crate::file::{Body, OpenFile};
use crate::fs::host::HostFile;
use crate::limits::{Resource, UNLIMITED};
use crate::outcome::{Stop, SysResult, Wait};
use crate::signal::Signal;
use crate::sys::access::count;
use crate::sys::vector::{BYTES_MAX, Vector};
use crate::sys::{entry, terminal};
use crate::table::SystemCall;

/// Most bytes that one call moves to or from a regular file, in pieces of [`BYTES_MAX`]: programs expect those to be
/// whole.
const REGULAR_BYTES_MAX: usize = 32 * BYTES_MAX;

/// Most bytes that are read from a file of the host while the kernel is locked.
const HOST_STEP_BYTES: usize = 1024 * 1024;

/// Bits of `preadv2(2)` that change nothing here, or that Linux lets file systems ignore.
const FLAGS_IGNORED: i32 = libc::RWF_HIPRI | libc::RWF_DSYNC | libc::RWF_SYNC;

const READING: &str =
    "at most 64 MiB a call of regular files and devices, 2 MiB of others; times of access in memory do not change";
const WRITING: &str = "at most 64 MiB a call of regular files and devices, 2 MiB of others";

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(0, "read", read).supports(READING),
    entry(1, "write", write).supports(WRITING),
    entry(8, "lseek", lseek)
        .supports("all of it; files of the host have no holes; offsets in memory end at 1 TiB (EINVAL)"),
    entry(17, "pread64", pread64).supports(READING),
    entry(18, "pwrite64", pwrite64).supports(WRITING),
    entry(19, "readv", readv).supports(READING),
    entry(20, "writev", writev).supports(WRITING),
    entry(295, "preadv", preadv).supports(READING),
    entry(296, "pwritev", pwritev).supports(WRITING),
    entry(327, "preadv2", preadv2).supports(
        "as `preadv`; RWF_HIPRI, RWF_DSYNC, RWF_SYNC (no effect), RWF_NOWAIT, RWF_APPEND; others are EOPNOTSUPP",
    ),
    entry(328, "pwritev2", pwritev2).supports(
        "as `pwritev`; RWF_HIPRI, RWF_DSYNC, RWF_SYNC (no effect), RWF_NOWAIT, RWF_APPEND; others are EOPNOTSUPP",
    ),
];

fn limit(file: &OpenFile) -> usize {
    match file.body {
        Body::Host(_) | Body::Tmp(_) | Body::Device(_) => REGULAR_BYTES_MAX,
        _ => BYTES_MAX,
    }
}

pub(super) fn position(offset: u64) -> Result<Option<u64>, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL).map(|_| Some(offset))
}

/// Reads into parts of guest memory. Regular files are read in pieces.
fn read_into(
    call: &mut Call<'_>,
    file: &Arc<OpenFile>,
    vector: &Vector,
    position: Option<u64>,
    is_nonblocking: bool,
) -> SysResult {
    let result = read_parts(call, file, vector, position, is_nonblocking);
    if result.as_ref().is_ok_and(|read| *read > 0) {
        file.tell(libc::IN_ACCESS);
    }
    result
}

fn read_parts(
    call: &mut Call<'_>,
    file: &Arc<OpenFile>,
    vector: &Vector,
    position: Option<u64>,
    is_nonblocking: bool,
) -> SysResult {
    if let Some(host) = file.host_file() {
        return read_host(call, file, &*host?, vector, position);
    }
    if let (Body::Terminal(end), None) = (&file.body, position) {
        return terminal::read(call, file, end, vector);
    }
    let mut done = 0;
    loop {
        let piece = (vector.length() - done).min(BYTES_MAX);
        let at = position.map(|position| position + done as u64);
        let result = file.read(call.kernel, at, piece);
        if done > 0 && !matches!(&result, Ok(bytes) if !bytes.is_empty()) {
            return count(done);
        }
        let bytes = call.or_wait(file, result, is_nonblocking, file.receive_timeout_ns())?;
        vector.scatter(call, done, &bytes)?;
        done += bytes.len();
        if bytes.len() < piece || done == vector.length() {
            return count(done);
        }
    }
}

/// Reads a file of the host straight into the guest's memory. After each [`HOST_STEP_BYTES`] the kernel is left to others:
/// the disk may be slow.
fn read_host(
    call: &mut Call<'_>,
    file: &Arc<OpenFile>,
    host: &HostFile,
    vector: &Vector,
    position: Option<u64>,
) -> SysResult {
    if !file.is_readable() {
        return Err(Errno::EBADF.into());
    }
    let done = call.progress().min(vector.length());
    if done > 0 && call.is_interrupted() {
        return count(done);
    }
    let wanted = (vector.length() - done).min(HOST_STEP_BYTES);
    let start = position.map_or_else(|| file.offset(), |position| position + done as u64);
    let result = vector.frames(call, done, wanted).and_then(|parts| {
        let room: usize = parts.iter().map(|part| part.length).sum();
        host.read_into(call.kernel.frames.memory(), start, &parts).map(|read| (read, read == room))
    });
    let (read, is_more) = match result {
        Ok(read) => read,
        Err(_) if done > 0 => return count(done),
        Err(errno) => return Err(errno.into()),
    };
    if position.is_none() {
        file.set_offset(start + read as u64);
    }
    let done = done + read;
    if done == vector.length() || !is_more || read == 0 {
        return count(done);
    }
    Err(call.block_with_progress(Wait { keys: Vec::new(), deadline_ns: Some(0) }, done))
}

/// How a write is done.
#[derive(Debug, Clone, Copy, Default)]
struct Writing {
    position: Option<u64>,
    is_nonblocking: bool,
    is_appending: bool,
}

impl Writing {
    /// As the file's flags say.
    fn of(file: &OpenFile, position: Option<u64>) -> Self {
        Self { position, is_nonblocking: file.is_nonblocking(), is_appending: false }
    }
}

/// How many bytes `RLIMIT_FSIZE` allows to be written at a position of a regular file: none are `EFBIG` and a signal.
pub(super) fn room_in_file(call: &mut Call<'_>, file: &OpenFile, at: u64) -> Result<usize, Errno> {
    let limit = call.process().limits.get(Resource::FileSize).soft;
    if limit == UNLIMITED || !matches!(file.body, Body::Tmp(_)) {
        return Ok(usize::MAX);
    }
    if at < limit {
        return Ok(usize::try_from(limit - at).unwrap_or(usize::MAX));
    }
    call.signal_file_too_large();
    Err(Errno::EFBIG)
}

/// A file that somebody else than root changes does not lend its owner's rights any more.
fn drop_set_ids(call: &mut Call<'_>, file: &OpenFile) {
    if let (Body::Tmp(inode), false) = (&file.body, call.process().credentials.is_file_root()) {
        inode.state().drop_set_ids();
    }
}

/// Writes parts of guest memory. Regular files are written in pieces; into pipes, sockets and streams that block, all is
/// written before the call returns, unless a signal comes (`write(2)`, `pipe(7)`).
fn write_from(call: &mut Call<'_>, file: &Arc<OpenFile>, vector: &Vector, how: Writing) -> SysResult {
    let result = write_parts(call, file, vector, how);
    if result.as_ref().is_ok_and(|written| *written > 0) {
        file.tell(libc::IN_MODIFY);
    }
    result
}

fn write_parts(call: &mut Call<'_>, file: &Arc<OpenFile>, vector: &Vector, how: Writing) -> SysResult {
    let mut done = call.progress().min(vector.length());
    if let Body::Terminal(end) = &file.body
        && done == 0
        && end.with(|discipline| discipline.termios().has_local(libc::TOSTOP))
    {
        call.check_foreground(end, Signal::TTOU)?;
    }
    loop {
        let piece = (vector.length() - done).min(BYTES_MAX);
        let at = how.position.map(|position| position + done as u64);
        let result = write_piece(call, file, vector, (done, piece), at, how.is_appending);
        call.signal_broken_pipe(&result);
        let written = match call.or_wait(file, result, how.is_nonblocking, file.send_timeout_ns()) {
            Ok(written) => written,
            Err(Stop::Block(wait)) => return Err(call.block_with_progress(wait, done)),
            Err(_) if done > 0 => return count(done),
            Err(stop) => return Err(stop),
        };
        done += written;
        let is_room_awaited = !how.is_nonblocking && file.is_stream() && written > 0;
        if done == vector.length() || (written < piece && !is_room_awaited) {
            return count(done);
        }
    }
}

fn write_piece(
    call: &mut Call<'_>,
    file: &Arc<OpenFile>,
    vector: &Vector,
    (done, length): (usize, usize),
    position: Option<u64>,
    is_appending: bool,
) -> Result<usize, Errno> {
    let mut bytes = vector.gather_piece(call, done, length)?;
    if !bytes.is_empty() && file.is_writable() {
        let room = room_in_file(call, file, file.write_position(position, is_appending))?;
        bytes.truncate(room);
        drop_set_ids(call, file);
    }
    file.write_or_append(call.kernel, position, &bytes, is_appending)
}

fn read(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = Vector::one(call.args[1], call.args[2], limit(&file));
    read_into(call, &file, &vector, None, file.is_nonblocking())
}

fn write(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = Vector::one(call.args[1], call.args[2], limit(&file));
    write_from(call, &file, &vector, Writing::of(&file, None))
}

fn pread64(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = Vector::one(call.args[1], call.args[2], limit(&file));
    let position = position(call.args[3])?;
    read_into(call, &file, &vector, position, file.is_nonblocking())
}

fn pwrite64(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = Vector::one(call.args[1], call.args[2], limit(&file));
    let position = position(call.args[3])?;
    write_from(call, &file, &vector, Writing::of(&file, position))
}

fn read_vector(call: &mut Call<'_>, file: &OpenFile) -> Result<Vector, Errno> {
    Vector::read(call, call.args[1], call.args[2], limit(file))
}

fn readv(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = read_vector(call, &file)?;
    read_into(call, &file, &vector, None, file.is_nonblocking())
}

fn writev(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = read_vector(call, &file)?;
    write_from(call, &file, &vector, Writing::of(&file, None))
}

fn preadv(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = read_vector(call, &file)?;
    let position = position(call.args[3])?;
    read_into(call, &file, &vector, position, file.is_nonblocking())
}

fn pwritev(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = read_vector(call, &file)?;
    let position = position(call.args[3])?;
    write_from(call, &file, &vector, Writing::of(&file, position))
}

/// The position of `preadv2(2)` (-1: the file's own), whether it must not wait, whether it means the end of the file.
fn position_and_flags(call: &Call<'_>, file: &OpenFile) -> Result<Writing, Errno> {
    let flags = call.int(5);
    if flags & !(FLAGS_IGNORED | libc::RWF_NOWAIT | libc::RWF_APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let position = if call.args[3] == u64::MAX { None } else { position(call.args[3])? };
    Ok(Writing {
        position,
        is_nonblocking: file.is_nonblocking() || flags & libc::RWF_NOWAIT != 0,
        is_appending: flags & libc::RWF_APPEND != 0,
    })
}

fn preadv2(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = read_vector(call, &file)?;
    let how = position_and_flags(call, &file)?;
    read_into(call, &file, &vector, how.position, how.is_nonblocking)
}

fn pwritev2(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = read_vector(call, &file)?;
    let how = position_and_flags(call, &file)?;
    write_from(call, &file, &vector, how)
}

fn lseek(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    Ok(file.seek(call.args[1].cast_signed(), call.int(2))?)
}
