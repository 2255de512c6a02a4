//! `read(2)`, `write(2)` and their relatives, `lseek(2)`, `sendfile(2)`, `copy_file_range(2)`.

use std::sync::Arc;

use crate::call::Call;
use crate::errno::Errno;
use crate::file::{Body, OpenFile};
use crate::outcome::{Stop, SysResult};
use crate::sys::access::count;
use crate::sys::entry;
use crate::sys::vector::{BYTES_MAX, Vector};
use crate::table::SystemCall;

/// Most bytes that one call moves to or from a regular file, in pieces of [`BYTES_MAX`]: programs expect those to be
/// whole.
const REGULAR_BYTES_MAX: usize = 32 * BYTES_MAX;

/// Bits of `preadv2(2)` that change nothing here, or that Linux lets file systems ignore.
const FLAGS_IGNORED: i32 = libc::RWF_HIPRI | libc::RWF_DSYNC | libc::RWF_SYNC;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(0, "read", read),
    entry(1, "write", write),
    entry(8, "lseek", lseek),
    entry(17, "pread64", pread64),
    entry(18, "pwrite64", pwrite64),
    entry(19, "readv", readv),
    entry(20, "writev", writev),
    entry(40, "sendfile", sendfile),
    entry(295, "preadv", preadv),
    entry(296, "pwritev", pwritev),
    entry(326, "copy_file_range", copy_file_range),
    entry(327, "preadv2", preadv2),
    entry(328, "pwritev2", pwritev2),
];

fn limit(file: &OpenFile) -> usize {
    match file.body {
        Body::Host(_) | Body::Tmp(_) | Body::Device(_) => REGULAR_BYTES_MAX,
        _ => BYTES_MAX,
    }
}

fn position(offset: u64) -> Result<Option<u64>, Errno> {
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

/// Writes parts of guest memory. Regular files are written in pieces; into pipes, sockets and streams that block, all is
/// written before the call returns, unless a signal comes (`write(2)`, `pipe(7)`).
fn write_from(
    call: &mut Call<'_>,
    file: &Arc<OpenFile>,
    vector: &Vector,
    position: Option<u64>,
    is_nonblocking: bool,
) -> SysResult {
    let mut done = call.progress().min(vector.length());
    loop {
        let piece = (vector.length() - done).min(BYTES_MAX);
        let gathered = vector.gather_piece(call, done, piece);
        let at = position.map(|position| position + done as u64);
        let result = gathered.and_then(|bytes| file.write(call.kernel, at, &bytes));
        call.signal_broken_pipe(&result);
        let written = match call.or_wait(file, result, is_nonblocking, file.send_timeout_ns()) {
            Ok(written) => written,
            Err(Stop::Block(wait)) => return Err(call.block_with_progress(wait, done)),
            Err(_) if done > 0 => return count(done),
            Err(stop) => return Err(stop),
        };
        done += written;
        let is_room_awaited = !is_nonblocking && file.is_stream() && written > 0;
        if done == vector.length() || (written < piece && !is_room_awaited) {
            return count(done);
        }
    }
}

fn read(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = Vector::one(call.args[1], call.args[2], limit(&file));
    read_into(call, &file, &vector, None, file.is_nonblocking())
}

fn write(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = Vector::one(call.args[1], call.args[2], limit(&file));
    write_from(call, &file, &vector, None, file.is_nonblocking())
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
    write_from(call, &file, &vector, position, file.is_nonblocking())
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
    write_from(call, &file, &vector, None, file.is_nonblocking())
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
    write_from(call, &file, &vector, position, file.is_nonblocking())
}

/// The position of `preadv2(2)` (-1: the file's own) and whether it must not wait.
fn position_and_flags(call: &Call<'_>) -> Result<(Option<u64>, bool), Errno> {
    let flags = call.int(5);
    if flags & !(FLAGS_IGNORED | libc::RWF_NOWAIT) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let position = if call.args[3] == u64::MAX { None } else { position(call.args[3])? };
    Ok((position, flags & libc::RWF_NOWAIT != 0))
}

fn preadv2(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = read_vector(call, &file)?;
    let (position, is_nowait) = position_and_flags(call)?;
    read_into(call, &file, &vector, position, file.is_nonblocking() || is_nowait)
}

fn pwritev2(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = read_vector(call, &file)?;
    let (position, is_nowait) = position_and_flags(call)?;
    write_from(call, &file, &vector, position, file.is_nonblocking() || is_nowait)
}

fn lseek(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    Ok(file.seek(call.args[1].cast_signed(), call.int(2))?)
}

/// Copies up to `length` bytes from one file to another. Only regular files are read from, so nothing read is lost when
/// the target takes less: the position moves by what was written.
fn copy(
    call: &mut Call<'_>,
    source: &Arc<OpenFile>,
    position: Option<u64>,
    target: &Arc<OpenFile>,
    target_position: Option<u64>,
    length: u64,
) -> Result<usize, Stop> {
    if !matches!(source.body, Body::Host(_) | Body::Tmp(_) | Body::Text(_)) {
        return Err(Errno::EINVAL.into());
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(BYTES_MAX);
    let start = position.unwrap_or_else(|| source.offset());
    let bytes = source.read(call.kernel, Some(start), length)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let result = target.write(call.kernel, target_position, &bytes);
    call.signal_broken_pipe(&result);
    let written = call.or_wait(target, result, target.is_nonblocking(), target.send_timeout_ns())?;
    if position.is_none() {
        source.set_offset(start + written as u64);
    }
    Ok(written)
}

/// An offset that is passed by pointer; `None` if there is none.
fn offset_at(call: &mut Call<'_>, address: u64) -> Result<Option<u64>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let offset = call.read::<u64>(address)?;
    position(offset)
}

fn store_offset(call: &mut Call<'_>, address: u64, offset: Option<u64>, moved: usize) -> Result<(), Errno> {
    match offset {
        Some(offset) => call.write(address, &(offset + moved as u64)),
        None => Ok(()),
    }
}

fn sendfile(call: &mut Call<'_>) -> SysResult {
    let (target, source) = (call.usable_file(0)?, call.usable_file(1)?);
    if target.flags() & libc::O_APPEND as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let offset = offset_at(call, call.args[2])?;
    let moved = copy(call, &source, offset, &target, None, call.args[3])?;
    store_offset(call, call.args[2], offset, moved)?;
    count(moved)
}

fn copy_file_range(call: &mut Call<'_>) -> SysResult {
    let (source, target) = (call.usable_file(0)?, call.usable_file(2)?);
    if call.args[5] != 0 {
        return Err(Errno::EINVAL.into());
    }
    match target.body {
        Body::Tmp(_) if target.flags() & libc::O_APPEND as u32 != 0 => return Err(Errno::EBADF.into()),
        Body::Tmp(_) => {}
        Body::Host(_) => return Err(Errno::EBADF.into()),
        Body::Directory(_) => return Err(Errno::EISDIR.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    let source_offset = offset_at(call, call.args[1])?;
    let target_offset = offset_at(call, call.args[3])?;
    let moved = copy(call, &source, source_offset, &target, target_offset, call.args[4])?;
    store_offset(call, call.args[1], source_offset, moved)?;
    store_offset(call, call.args[3], target_offset, moved)?;
    count(moved)
}
