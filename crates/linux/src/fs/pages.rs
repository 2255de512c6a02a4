//! The bytes of a regular file in memory: frames by page number, holes where nothing was written.

use std::collections::BTreeMap;

use calypte_platform::{Frame, PAGE_SIZE};

use crate::errno::Errno;
use crate::frames::{Charge, DroppedFrames, Frames};

/// Longest file, holes included.
pub const FILE_BYTES_MAX: u64 = 1 << 40;

const PAGE: u64 = PAGE_SIZE as u64;

/// The content of a file.
#[derive(Debug)]
pub struct Pages {
    size: u64,
    frames: BTreeMap<u64, Frame>,
    charge: Charge,
    dropped: DroppedFrames,
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.dropped.extend(std::mem::take(&mut self.frames).into_values());
    }
}

impl Pages {
    /// An empty file.
    pub fn new(charge: Charge, dropped: DroppedFrames) -> Self {
        Self { size: 0, frames: BTreeMap::new(), charge, dropped }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pages that have a frame.
    pub fn count(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Reads at an offset; short only at the end of the file.
    pub fn read(&self, frames: &Frames, offset: u64, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let part = (PAGE_SIZE - within).min(length - done);
            let target = &mut buffer[done..done + part];
            match self.frames.get(&(at / PAGE)) {
                Some(frame) => frames.memory().copy_out(*frame, within, target),
                None => target.fill(0),
            }
            done += part;
        }
        length
    }

    /// Writes at an offset, as many bytes as there is room for; an error if there is none for any.
    pub fn write(&mut self, frames: &mut Frames, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if offset >= FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        let length = bytes.len().min((FILE_BYTES_MAX - offset) as usize);
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let part = (PAGE_SIZE - within).min(length - done);
            match self.frame(frames, at / PAGE) {
                Ok(frame) => frames.memory().copy_in(frame, within, &bytes[done..done + part]),
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
            done += part;
            self.size = self.size.max(offset + done as u64);
        }
        Ok(done)
    }

    /// The frame of a page, allocated if it was a hole.
    pub fn frame(&mut self, frames: &mut Frames, page: u64) -> Result<Frame, Errno> {
        if let Some(frame) = self.frames.get(&page) {
            return Ok(*frame);
        }
        let frame = frames.allocate(self.charge)?;
        self.frames.insert(page, frame);
        Ok(frame)
    }

    /// Whether a page has any byte before the end of the file.
    pub fn has_page(&self, page: u64) -> bool {
        page < self.size.div_ceil(PAGE)
    }

    /// Changes the length: frees what is cut off, and zeroes the rest of the last page.
    pub fn truncate(&mut self, frames: &mut Frames, size: u64) -> Result<(), Errno> {
        if size > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        if size < self.size {
            for frame in self.frames.split_off(&size.div_ceil(PAGE)).into_values() {
                frames.release(frame);
            }
            self.zero_within_page(frames, size, size.next_multiple_of(PAGE));
        }
        self.size = size;
        Ok(())
    }

    /// Makes a range read as zeros and frees its whole pages.
    pub fn punch_hole(&mut self, frames: &mut Frames, offset: u64, length: u64) {
        let end = offset.saturating_add(length);
        let (first_whole, end_whole) = (offset.div_ceil(PAGE), end / PAGE);
        if first_whole > end_whole {
            self.zero_within_page(frames, offset, end);
            return;
        }
        self.zero_within_page(frames, offset, first_whole * PAGE);
        self.zero_within_page(frames, end_whole * PAGE, end);
        let pages: Vec<u64> = self.frames.range(first_whole..end_whole).map(|(page, _)| *page).collect();
        for page in pages {
            if let Some(frame) = self.frames.remove(&page) {
                frames.release(frame);
            }
        }
    }

    /// Allocates every page of a range; `size` grows unless it is to be kept.
    pub fn reserve(&mut self, frames: &mut Frames, offset: u64, length: u64, is_size_kept: bool) -> Result<(), Errno> {
        let end = offset.checked_add(length).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        let missing = (offset / PAGE..end.div_ceil(PAGE)).count() as u64;
        frames.reclaim();
        let room = u64::from(frames.limit(self.charge) - frames.used(self.charge));
        if missing > room + self.count() {
            return Err(Errno::ENOSPC);
        }
        for page in offset / PAGE..end.div_ceil(PAGE) {
            self.frame(frames, page)?;
        }
        if !is_size_kept {
            self.size = self.size.max(end);
        }
        Ok(())
    }

    /// The first offset from `offset` on that holds data (or is a hole), as `SEEK_DATA` and `SEEK_HOLE` look for.
    pub fn seek(&self, offset: u64, is_data_wanted: bool) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        if is_data_wanted {
            let (page, _) = self.frames.range(offset / PAGE..).next()?;
            let found = offset.max(page * PAGE);
            return (found < self.size).then_some(found);
        }
        let mut page = offset / PAGE;
        while self.frames.contains_key(&page) {
            page += 1;
        }
        Some(offset.max(page * PAGE).min(self.size))
    }

    /// Zeroes bytes of one page.
    fn zero_within_page(&mut self, frames: &Frames, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if let Some(frame) = self.frames.get(&(start / PAGE)) {
            let zeros = vec![0; (end - start) as usize];
            frames.memory().copy_in(*frame, (start % PAGE) as usize, &zeros);
        }
    }
}
