//! Buffers scattered over guest memory: the `iovec` arrays of `readv(2)` and its relatives.

use calypte_platform::{FILE_PARTS_MAX, FramePart, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::errno::Errno;

/// Most parts of one array (`UIO_MAXIOV`).
pub const PARTS_MAX: usize = 1024;
/// Most bytes that one call moves: more is left for the next call, as with signals. Bounds what a call copies while the
/// kernel is locked.
pub const BYTES_MAX: usize = 2 * 1024 * 1024;

/// One part.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Part {
    /// Where it begins.
    pub address: u64,
    /// How many bytes it has.
    pub length: u64,
}

/// Parts of guest memory, used as one buffer.
#[derive(Debug, Clone, Default)]
pub struct Vector {
    parts: Vec<Part>,
    length: usize,
}

impl Vector {
    /// One contiguous buffer, cut to `limit` bytes.
    pub fn one(address: u64, length: u64, limit: usize) -> Self {
        let mut vector = Self::default();
        vector.push(Part { address, length }, limit);
        vector
    }

    /// Reads an array of `count` parts, cut to `limit` bytes together.
    pub fn read(call: &mut Call<'_>, address: u64, count: u64, limit: usize) -> Result<Self, Errno> {
        let count = usize::try_from(count).ok().filter(|count| *count <= PARTS_MAX).ok_or(Errno::EINVAL)?;
        let bytes = call.read_bytes(address, count * size_of::<Part>())?;
        let mut vector = Self::default();
        let mut total: u64 = 0;
        for part in bytes.chunks_exact(size_of::<Part>()) {
            let part = Part::read_from_bytes(part).map_err(|_| Errno::EFAULT)?;
            total =
                total.checked_add(part.length).filter(|total| i64::try_from(*total).is_ok()).ok_or(Errno::EINVAL)?;
            vector.push(part, limit);
        }
        Ok(vector)
    }

    fn push(&mut self, part: Part, limit: usize) {
        let length = usize::try_from(part.length).unwrap_or(usize::MAX).min(limit - self.length);
        if length > 0 {
            self.parts.push(Part { address: part.address, length: length as u64 });
            self.length += length;
        }
    }

    /// The parts, none of them empty.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Bytes of all parts.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Copies everything from the guest, or nothing: a message is not cut.
    pub fn gather(&self, call: &mut Call<'_>) -> Result<Vec<u8>, Errno> {
        let bytes = self.gather_piece(call, 0, self.length)?;
        if bytes.len() == self.length { Ok(bytes) } else { Err(Errno::EFAULT) }
    }

    /// Copies `length` bytes from the guest, beginning `skip` bytes into the buffer: fewer where some cannot be read, an
    /// error if that is so for the first.
    pub fn gather_piece(&self, call: &mut Call<'_>, skip: usize, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length.min(self.length - skip)];
        let (mut skip, mut done) = (skip, 0);
        for part in &self.parts {
            let part_length = part.length as usize;
            if skip >= part_length {
                skip -= part_length;
                continue;
            }
            let count = (part_length - skip).min(bytes.len() - done);
            let at = part.address.wrapping_add(skip as u64);
            match call.kernel.read_user_some(call.pid, at, &mut bytes[done..done + count]) {
                Ok(read) => {
                    done += read;
                    if read < count {
                        break;
                    }
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
            skip = 0;
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    /// The frames behind up to `length` bytes of the buffer, beginning `skip` bytes into it, made ready to be written:
    /// fewer where some cannot be, an error if that is so for the first. At most [`FILE_PARTS_MAX`] parts.
    pub fn frames(&self, call: &mut Call<'_>, skip: usize, length: usize) -> Result<Vec<FramePart>, Errno> {
        let (mut skip, mut rest) = (skip, length.min(self.length - skip));
        let mut found: Vec<FramePart> = Vec::new();
        for part in &self.parts {
            let part_length = part.length as usize;
            if skip >= part_length {
                skip -= part_length;
                continue;
            }
            while skip < part_length && rest > 0 {
                let at = part.address.checked_add(skip as u64).ok_or(Errno::EFAULT)?;
                let wanted = (part_length - skip).min(rest);
                let located = match call.kernel.locate_run(call.pid, at, wanted) {
                    Ok(located) => located,
                    Err(errno) if found.is_empty() => return Err(errno),
                    Err(_) => return Ok(found),
                };
                if !extend(&mut found, located) {
                    return Ok(found);
                }
                skip += located.length;
                rest -= located.length;
            }
            skip = 0;
        }
        Ok(found)
    }

    /// Copies bytes to the guest, beginning `skip` bytes into the buffer; at most as many as fit are used.
    pub fn scatter(&self, call: &mut Call<'_>, skip: usize, bytes: &[u8]) -> Result<(), Errno> {
        let (mut skip, mut rest) = (skip, bytes);
        for part in &self.parts {
            let length = part.length as usize;
            if rest.is_empty() {
                break;
            }
            if skip >= length {
                skip -= length;
                continue;
            }
            let (piece, after) = rest.split_at(rest.len().min(length - skip));
            call.write_bytes(part.address.wrapping_add(skip as u64), piece)?;
            (skip, rest) = (0, after);
        }
        Ok(())
    }
}

/// Adds a part, to the one before where it follows that directly; `false` if there are too many.
fn extend(parts: &mut Vec<FramePart>, part: FramePart) -> bool {
    if let Some(last) = parts.last_mut() {
        let end = last.offset + last.length;
        let is_next = part.offset == 0 && end.is_multiple_of(PAGE_SIZE);
        if is_next && last.frame.0 + (end / PAGE_SIZE) as u32 == part.frame.0 {
            last.length += part.length;
            return true;
        }
    }
    let fits = parts.len() < FILE_PARTS_MAX;
    if fits {
        parts.push(part);
    }
    fits
}
