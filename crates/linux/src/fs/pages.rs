//! The bytes of a regular file in memory: frames by page number, holes where nothing was written.

pub(crate) mod saved;

use std::collections::BTreeMap;
use std::sync::Arc;

use calypte_platform::{Frame, FrameRange, PAGE_SIZE};

use crate::errno::Errno;
use crate::frames::{Charge, ContentId, Cut, DroppedFrames, Frames};
use crate::fs::host::{HostEntry, HostFile, HostTrees};

/// Longest file, holes included.
pub const FILE_BYTES_MAX: u64 = 1 << 40;

const PAGE: u64 = PAGE_SIZE as u64;

/// The content of a file.
#[derive(Debug)]
pub struct Pages {
    id: ContentId,
    size: u64,
    frames: BTreeMap<u64, Frame>,
    /// Whether address spaces may have some of the frames.
    was_mapped: bool,
    charge: Charge,
    dropped: DroppedFrames,
    /// What holes show that nothing was written to yet.
    below: Option<Below>,
}

/// A file of the host of which a file in memory is a changed copy: pages are copied when they are first written.
#[derive(Debug)]
pub struct Below {
    trees: Arc<HostTrees>,
    entry: Arc<HostEntry>,
    /// Bytes of it that still show.
    length: u64,
}

impl Below {
    /// All of a regular file.
    pub fn new(trees: Arc<HostTrees>, entry: Arc<HostEntry>) -> Self {
        let length = entry.known_metadata().size;
        Self { trees, entry, length }
    }

    /// Bytes at an offset; zeros where it shows nothing.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let shown = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let read = if shown > 0 { self.trees.file(&self.entry)?.read_at(offset, &mut buffer[..shown])? } else { 0 };
        buffer[read..].fill(0);
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.dropped.extend(std::mem::take(&mut self.frames).into_values());
    }
}

impl Pages {
    /// An empty file.
    pub fn new(charge: Charge, dropped: DroppedFrames) -> Self {
        let id = dropped.new_content();
        Self { id, size: 0, frames: BTreeMap::new(), was_mapped: false, charge, dropped, below: None }
    }

    /// The content of a file of the host.
    pub fn over(below: Below, charge: Charge, dropped: DroppedFrames) -> Self {
        let size = below.length;
        let mut pages = Self::new(charge, dropped);
        (pages.size, pages.below) = (size, Some(below));
        pages
    }

    /// The file of the host that this one still is, if nothing was changed.
    pub fn unchanged(&self) -> Option<Result<Arc<HostFile>, Errno>> {
        let below = self.below.as_ref()?;
        let is_whole = self.size == below.length && below.length == below.entry.known_metadata().size;
        if !is_whole || !self.frames.is_empty() {
            return None;
        }
        Some(below.trees.file(&below.entry))
    }

    /// How many pages the file below shows.
    fn pages_below(&self) -> u64 {
        self.below.as_ref().map_or(0, |below| below.length.div_ceil(PAGE))
    }

    /// The content's identity.
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// The frame of a page for a mapping; a hole is filled if `is_filled`. `ENXIO` beyond the end.
    pub fn map_frame(&mut self, frames: &mut Frames, page: u64, is_filled: bool) -> Result<Option<Frame>, Errno> {
        if page >= self.size.div_ceil(PAGE) {
            return Err(Errno::ENXIO);
        }
        if is_filled { self.frame(frames, page).map(Some) } else { Ok(self.frames.get(&page).copied()) }
    }

    /// Notes that address spaces have pages of the file; whether these are to be its frames.
    pub fn note_mapped(&mut self, has_writer: bool) -> bool {
        self.was_mapped = true;
        has_writer || self.unchanged().is_none()
    }

    /// Whether a page has a frame.
    pub fn is_resident(&self, page: u64) -> bool {
        self.frames.contains_key(&page)
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pages that take space: those that have a frame, and those of the file below.
    pub fn count(&self) -> u64 {
        let below = self.pages_below();
        below + self.frames.range(below..).count() as u64
    }

    /// Reads at an offset; short only at the end of the file.
    pub fn read(&self, frames: &Frames, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let length = buffer.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let part = (PAGE_SIZE - within).min(length - done);
            let target = &mut buffer[done..done + part];
            match self.frames.get(&(at / PAGE)) {
                Some(frame) => frames.memory().copy_out(*frame, within, target),
                None => match &self.below {
                    Some(below) => below.read(at, target)?,
                    None => target.fill(0),
                },
            }
            done += part;
        }
        Ok(length)
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
        if page < self.pages_below()
            && let Some(below) = &self.below
        {
            let mut content = [0; PAGE_SIZE];
            if let Err(errno) = below.read(page * PAGE, &mut content) {
                frames.release(frame);
                return Err(errno);
            }
            frames.memory().copy_in(frame, 0, &content);
        }
        self.frames.insert(page, frame);
        Ok(frame)
    }

    /// Changes the length: frees what is cut off, and zeroes the rest of the last page.
    pub fn truncate(&mut self, frames: &mut Frames, size: u64) -> Result<(), Errno> {
        if size > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        if size < self.size {
            for (page, frame) in self.frames.split_off(&size.div_ceil(PAGE)) {
                self.give_back(frames, page, frame);
            }
            self.zero_within_page(frames, size, size.next_multiple_of(PAGE));
            self.cut(size.div_ceil(PAGE), u64::MAX, true);
        }
        if let Some(below) = &mut self.below {
            below.length = below.length.min(size);
        }
        self.size = size;
        Ok(())
    }

    /// Makes a range read as zeros and frees its whole pages.
    pub fn punch_hole(&mut self, frames: &mut Frames, offset: u64, length: u64) -> Result<(), Errno> {
        let end = offset.saturating_add(length);
        self.cover(frames, offset, end)?;
        let (first_whole, end_whole) = (offset.div_ceil(PAGE), end / PAGE);
        if first_whole > end_whole {
            self.zero_within_page(frames, offset, end);
            return Ok(());
        }
        self.zero_within_page(frames, offset, first_whole * PAGE);
        self.zero_within_page(frames, end_whole * PAGE, end);
        let first_whole = first_whole.max(self.pages_below());
        let end_whole = end_whole.max(first_whole);
        let pages: Vec<u64> = self.frames.range(first_whole..end_whole).map(|(page, _)| *page).collect();
        self.cut(first_whole, end_whole, false);
        for page in pages {
            if let Some(frame) = self.frames.remove(&page) {
                self.give_back(frames, page, frame);
            }
        }
        Ok(())
    }

    /// A page is a hole from now on. One that is mapped somewhere stays, zeroed: what is written through the mapping and
    /// what the file holds there later must be the same.
    fn give_back(&mut self, frames: &mut Frames, page: u64, frame: Frame) {
        if frames.references(frame) > 1 {
            frames.memory().zero(FrameRange::one(frame));
            self.frames.insert(page, frame);
        } else {
            frames.release(frame);
        }
    }

    /// Puts frames over the pages of the file below in a range that is to read as zeros, and zeroes them.
    fn cover(&mut self, frames: &mut Frames, offset: u64, end: u64) -> Result<(), Errno> {
        for page in offset / PAGE..end.div_ceil(PAGE).min(self.pages_below()) {
            self.frame(frames, page)?;
            self.zero_within_page(frames, offset.max(page * PAGE), end.min((page + 1) * PAGE));
        }
        Ok(())
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
        let below = self.below.as_ref().map_or(0, |below| below.length);
        if is_data_wanted {
            if offset < below {
                return Some(offset);
            }
            let (page, _) = self.frames.range(offset / PAGE..).next()?;
            let found = offset.max(page * PAGE);
            return (found < self.size).then_some(found);
        }
        let mut page = (offset / PAGE).max(self.pages_below());
        while self.frames.contains_key(&page) {
            page += 1;
        }
        Some(offset.max(page * PAGE).min(self.size))
    }

    /// Has pages taken from the mappings of the file.
    fn cut(&self, first: u64, end: u64, has_copies: bool) {
        if self.was_mapped && first < end {
            self.dropped.cut(Cut { content: self.id, pages: (first, end), has_copies });
        }
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
