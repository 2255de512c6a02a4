//! Moving bytes between files without passing them through the program: `splice(2)`, `tee(2)`, `vmsplice(2)`,
//! `sendfile(2)`, `copy_file_range(2)`.

use std::sync::Arc;

use crate::call::Call;
use crate::errno::Errno;
use crate::file::pipe::PipeEnd;
use crate::file::{Body, OpenFile};
use crate::outcome::{Stop, SysResult};
use crate::sys::access::count;
use crate::sys::entry;
use crate::sys::read_write::{position, room_in_file};
use crate::sys::vector::{BYTES_MAX, Vector};
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(40, "sendfile", sendfile).supports("regular files as source; at most 2 MiB a call"),
    entry(275, "splice", splice).supports("all flags; bytes are copied; at most 2 MiB a call"),
    entry(276, "tee", tee).supports("all flags; bytes are copied"),
    entry(278, "vmsplice", vmsplice).supports("all flags; bytes are copied"),
    entry(326, "copy_file_range", copy_file_range).supports("regular files; bytes are copied; at most 2 MiB a call"),
];

const FLAGS: u32 = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;

fn pipe(file: &OpenFile) -> Option<&PipeEnd> {
    match &file.body {
        Body::Pipe(end) => Some(end),
        _ => None,
    }
}

fn length(argument: u64) -> usize {
    usize::try_from(argument).unwrap_or(usize::MAX).min(BYTES_MAX)
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

/// The two files of a call that moves bytes, each of which must be open in its direction.
fn ends(call: &mut Call<'_>, source: usize, target: usize) -> Result<(Arc<OpenFile>, Arc<OpenFile>), Errno> {
    let (source, target) = (call.usable_file(source)?, call.usable_file(target)?);
    if source.is_readable() && target.is_writable() { Ok((source, target)) } else { Err(Errno::EBADF) }
}

/// Writes as `RLIMIT_FSIZE` allows; a broken pipe is signalled.
fn write(call: &mut Call<'_>, target: &OpenFile, at: Option<u64>, bytes: &[u8]) -> Result<usize, Errno> {
    let room = room_in_file(call, target, target.write_position(at, false))?;
    let result = target.write(call.kernel, at, &bytes[..bytes.len().min(room)]);
    call.signal_broken_pipe(&result);
    result
}

/// Copies up to `length` bytes from one file to another. Only regular files are read from, so nothing read is lost when
/// the target takes less: the position moves by what was written.
fn copy(
    call: &mut Call<'_>,
    (source, from): (&Arc<OpenFile>, Option<u64>),
    (target, to): (&Arc<OpenFile>, Option<u64>),
    length: usize,
    is_nonblocking: bool,
) -> Result<usize, Stop> {
    if !matches!(source.body, Body::Host(_) | Body::Tmp(_) | Body::Text(_) | Body::Device(_)) {
        return Err(Errno::EINVAL.into());
    }
    let start = from.unwrap_or_else(|| source.offset());
    let bytes = source.read(call.kernel, Some(start), length)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let result = write(call, target, to, &bytes);
    let written = call.or_wait(target, result, is_nonblocking, target.send_timeout_ns())?;
    if from.is_none() {
        source.set_offset(start + written as u64);
    }
    source.tell(libc::IN_ACCESS);
    target.tell(libc::IN_MODIFY);
    Ok(written)
}

fn sendfile(call: &mut Call<'_>) -> SysResult {
    let (source, target) = ends(call, 1, 0)?;
    let offset = offset_at(call, call.args[2])?;
    if offset.is_some() && pipe(&source).is_some() {
        return Err(Errno::ESPIPE.into());
    }
    if target.flags() & libc::O_APPEND as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let length = length(call.args[3]);
    let moved = copy(call, (&source, offset), (&target, None), length, target.is_nonblocking())?;
    store_offset(call, call.args[2], offset, moved)?;
    count(moved)
}

fn copy_file_range(call: &mut Call<'_>) -> SysResult {
    if call.args[5] != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (source, target) = (call.usable_file(0)?, call.usable_file(2)?);
    let source_offset = offset_at(call, call.args[1])?;
    let target_offset = offset_at(call, call.args[3])?;
    for file in [&source, &target] {
        match file.body {
            Body::Host(_) | Body::Tmp(_) | Body::Text(_) => {}
            Body::Directory(_) => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    if !source.is_readable() || !target.is_writable() || target.flags() & libc::O_APPEND as u32 != 0 {
        return Err(Errno::EBADF.into());
    }
    let length = length(call.args[4]);
    if source.key(call.kernel)? == target.key(call.kernel)? {
        let from = source_offset.unwrap_or_else(|| source.offset());
        let to = target_offset.unwrap_or_else(|| target.offset());
        if from.abs_diff(to) < call.args[4] {
            return Err(Errno::EINVAL.into());
        }
    }
    let moved = copy(call, (&source, source_offset), (&target, target_offset), length, true)?;
    store_offset(call, call.args[1], source_offset, moved)?;
    store_offset(call, call.args[3], target_offset, moved)?;
    count(moved)
}

/// Moves bytes out of a pipe: those that the target does not take stay.
fn from_pipe(
    call: &mut Call<'_>,
    source: &Arc<OpenFile>,
    (target, to): (&Arc<OpenFile>, Option<u64>),
    length: usize,
    is_nonblocking: bool,
) -> Result<usize, Stop> {
    let Some(end) = pipe(source) else { return Err(Errno::EINVAL.into()) };
    let wanted = match pipe(target) {
        // Blocks for room before there is anything to move, as Linux does.
        Some(target_end) => {
            let room = target_end.room();
            call.signal_broken_pipe(&room);
            length.min(call.or_wait(target, room, is_nonblocking || target.is_nonblocking(), None)?)
        }
        None => length,
    };
    let waiting = end.peek(wanted);
    let bytes = call.or_wait(source, waiting, is_nonblocking || source.is_nonblocking(), None)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let result = match pipe(target) {
        Some(target_end) => target_end.write(&bytes).or_else(|errno| match errno {
            // Small writes are not split, but what is spliced need not stay together.
            Errno::EAGAIN => target_end.write_some(&bytes),
            errno => Err(errno),
        }),
        None => write(call, target, to, &bytes),
    };
    let written = call.or_wait(target, result, is_nonblocking || target.is_nonblocking(), target.send_timeout_ns())?;
    end.consume(written);
    Ok(written)
}

/// Moves bytes into a pipe.
fn into_pipe(
    call: &mut Call<'_>,
    (source, from): (&Arc<OpenFile>, Option<u64>),
    target: &Arc<OpenFile>,
    length: usize,
    is_nonblocking: bool,
) -> Result<usize, Stop> {
    let Some(end) = pipe(target) else { return Err(Errno::EINVAL.into()) };
    let room = end.room();
    call.signal_broken_pipe(&room);
    let room = call.or_wait(target, room, is_nonblocking || target.is_nonblocking(), None)?;
    let bytes = match source.body {
        Body::Host(_) | Body::Tmp(_) | Body::Text(_) | Body::Device(_) | Body::Socket(_) | Body::ConsoleInput => {
            let result = source.read(call.kernel, from, length.min(room));
            let is_nonblocking = is_nonblocking || source.is_nonblocking();
            call.or_wait(source, result, is_nonblocking, source.receive_timeout_ns())?
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(end.write_some(&bytes)?)
}

fn splice(call: &mut Call<'_>) -> SysResult {
    let flags = call.args[5] as u32;
    if call.args[4] == 0 {
        return Ok(0);
    }
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (source, target) = ends(call, 0, 2)?;
    for (file, address) in [(&source, call.args[1]), (&target, call.args[3])] {
        if pipe(file).is_some() && address != 0 {
            return Err(Errno::ESPIPE.into());
        }
    }
    let is_nonblocking = flags & libc::SPLICE_F_NONBLOCK != 0;
    let from = offset_at(call, call.args[1])?;
    let to = offset_at(call, call.args[3])?;
    let length = length(call.args[4]);
    let moved = match (pipe(&source), pipe(&target)) {
        (Some(a), Some(b)) if Arc::ptr_eq(a.pipe(), b.pipe()) => return Err(Errno::EINVAL.into()),
        (Some(_), _) => {
            if target.flags() & libc::O_APPEND as u32 != 0 {
                return Err(Errno::EINVAL.into());
            }
            from_pipe(call, &source, (&target, to), length, is_nonblocking)?
        }
        (None, Some(_)) => into_pipe(call, (&source, from), &target, length, is_nonblocking)?,
        (None, None) => return Err(Errno::EINVAL.into()),
    };
    store_offset(call, call.args[1], from, moved)?;
    store_offset(call, call.args[3], to, moved)?;
    count(moved)
}

fn tee(call: &mut Call<'_>) -> SysResult {
    let flags = call.args[3] as u32;
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    if call.args[2] == 0 {
        return Ok(0);
    }
    let (source, target) = ends(call, 0, 1)?;
    let (Some(from), Some(to)) = (pipe(&source), pipe(&target)) else { return Err(Errno::EINVAL.into()) };
    if Arc::ptr_eq(from.pipe(), to.pipe()) {
        return Err(Errno::EINVAL.into());
    }
    let is_nonblocking = flags & libc::SPLICE_F_NONBLOCK != 0;
    let waiting = from.peek(length(call.args[2]));
    let bytes = call.or_wait(&source, waiting, is_nonblocking || source.is_nonblocking(), None)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let room = to.room();
    call.signal_broken_pipe(&room);
    call.or_wait(&target, room, is_nonblocking || target.is_nonblocking(), None)?;
    count(to.write_some(&bytes)?)
}

fn vmsplice(call: &mut Call<'_>) -> SysResult {
    let flags = call.args[3] as u32;
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = call.usable_file(0)?;
    let Some(end) = pipe(&file) else { return Err(Errno::EBADF.into()) };
    let vector = Vector::read(call, call.args[1], call.args[2], BYTES_MAX)?;
    let is_nonblocking = flags & libc::SPLICE_F_NONBLOCK != 0 || file.is_nonblocking();
    if vector.length() == 0 {
        return Ok(0);
    }
    if !file.is_writable() {
        let result = end.read(vector.length());
        let bytes = call.or_wait(&file, result, is_nonblocking, None)?;
        vector.scatter(call, 0, &bytes)?;
        return count(bytes.len());
    }
    let mut done = call.progress().min(vector.length());
    while done < vector.length() {
        let bytes = vector.gather_piece(call, done, vector.length() - done)?;
        let room = end.room();
        call.signal_broken_pipe(&room);
        match call.or_wait(&file, room, is_nonblocking, None) {
            Ok(_) => done += end.write_some(&bytes)?,
            Err(Stop::Block(wait)) => return Err(call.block_with_progress(wait, done)),
            Err(_) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    count(done)
}
