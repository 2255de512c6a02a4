//! Filling pages on demand: for page faults of the guest and for copies by the monitor.

use calypte_platform::{Frame, FramePart, FrameRange, PAGE_SIZE, Protection};

use super::area::{Area, Backing, GUARD_GAP_BYTES};
use super::pages::Run;
use super::{Space, page_of};
use crate::errno::Errno;
use crate::file::Mapping;
use crate::frames::{Charge, Frames};
use crate::limits::STACK_BYTES;

/// Pages of zeros filled around a first touch: few, since the stacks of threads pay for them.
const PAGES_AROUND_ANONYMOUS: u64 = 16;
/// Pages of a file filled around a first touch. A fault costs an exit (26 µs and more where exits are dear), an
/// additional page about one.
const PAGES_AROUND_FILE: u64 = 64;
/// Most pages filled by one fault of a run of faults that goes upwards.
const PAGES_AHEAD_MAX: u64 = 512;
/// Most pages copied for one write to a borrowed page.
const PAGES_COPIED_MAX: u64 = 16;
/// Pages of a file that are read at a time.
const PAGES_READ: u32 = 16;

/// Why an access cannot be made good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No area there (`SEGV_MAPERR`).
    NoArea,
    /// The area does not allow it (`SEGV_ACCERR`).
    NotAllowed,
    /// A page past the end of the mapped file, or one that cannot be read (`SIGBUS`).
    NoContent,
    /// The memory limit is reached.
    OutOfMemory,
}

/// How much is done for pages: for those that somebody needs all that is possible, for a guess only what costs little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holes {
    /// Holes of a file in guest memory get pages, and memory that has run out is looked for.
    Filled,
    /// Holes stay.
    Kept,
}

impl Space {
    /// Whether the processor would find a page there that user code may read: what the error code of a fault says.
    pub(crate) fn is_present(&self, address: u64) -> bool {
        let is_readable = self.areas.at(address).is_some_and(|(_, area)| !area.protection.is_empty());
        is_readable && self.pages.get(page_of(address)).is_some()
    }

    /// Makes one access possible, and likely next ones.
    pub(crate) fn fault(&mut self, frames: &mut Frames, address: u64, needed: Protection) -> Result<(), Fault> {
        let (start, area) = self.area_at(address)?;
        let area = area.clone();
        if !area.protection.contains(needed) {
            return Err(Fault::NotAllowed);
        }
        let page = page_of(address);
        let backed = self.pages.get(page);
        let is_copy = backed.is_some_and(|backed| backed.is_borrowed) && needed.contains(Protection::WRITE);
        if backed.is_some() && !is_copy {
            return Ok(()); // Another virtual CPU was faster.
        }
        let (first, end) = window(start, &area, page);
        if let Some((_, area)) = self.areas.at_mut(address) {
            area.fault_end = end;
            area.fault_pages = end - first;
        }
        if is_copy {
            // Pages of a file show what is written to it for as long as they are not written themselves.
            let is_file = matches!(area.backing, Backing::File { .. });
            let pages = if is_file { 1 } else { PAGES_COPIED_MAX };
            return self.own(frames, &area, page, end.min(page + pages));
        }
        self.fill(frames, start, &area, (page, page + 1), Holes::Filled)?;
        if needed.contains(Protection::WRITE) {
            self.own(frames, &area, page, page + 1)?;
        }
        // What lies around the page is a guess: no reason to fail if it cannot be had.
        if self.fill(frames, start, &area, (page + 1, end), Holes::Kept).is_ok() {
            let _ = self.fill(frames, start, &area, (first, page), Holes::Kept);
        }
        Ok(())
    }

    /// The area of an address; one above that grows downwards is extended to it.
    fn area_at(&mut self, address: u64) -> Result<(u64, &Area), Fault> {
        if self.areas.at(address).is_none() {
            self.grow_down(address)?;
        }
        self.areas.at(address).ok_or(Fault::NoArea)
    }

    /// Extends the area above `address` down to it, if it is one that grows and there is room.
    fn grow_down(&mut self, address: u64) -> Result<(), Fault> {
        let (above, below_end) = self.areas.around(address).ok_or(Fault::NoArea)?;
        let (_, area) = self.areas.at(above).ok_or(Fault::NoArea)?;
        let start = address / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        let has_gap = below_end == 0 || start.checked_sub(below_end).is_some_and(|gap| gap >= GUARD_GAP_BYTES);
        if !area.grows_down || area.end - start > STACK_BYTES || start < self.layout.lowest || !has_gap {
            return Err(Fault::NoArea);
        }
        self.areas.extend_down(above, start);
        Ok(())
    }

    /// Backs the absent pages from the first of `pages` to the one before the second, which lie in `area`. On failure the
    /// ones before are backed.
    pub(super) fn fill(
        &mut self,
        frames: &mut Frames,
        start: u64,
        area: &Area,
        (first, end): (u64, u64),
        holes: Holes,
    ) -> Result<(), Fault> {
        let mut page = first;
        while page < end {
            let absent = self.pages.absent_from(page, end.min(page + PAGES_AHEAD_MAX));
            if absent == 0 {
                page += 1;
                continue;
            }
            let count = match &area.backing {
                Backing::Anonymous => self.fill_anonymous(frames, area, (page, absent), holes)?,
                Backing::File { mapping, offset } => {
                    let index = (offset / PAGE_SIZE as u64) + (page - page_of(start));
                    if mapping.is_in_memory() {
                        self.fill_from_memory(frames, area, (page, absent), (mapping, index), holes)?
                    } else {
                        self.fill_from_host(frames, area, (page, absent), (mapping, index), holes)?
                    }
                }
                Backing::Monitor => return Err(Fault::NoContent),
            };
            page += count;
        }
        Ok(())
    }

    fn fill_anonymous(
        &mut self,
        frames: &mut Frames,
        area: &Area,
        (page, wanted): (u64, u64),
        holes: Holes,
    ) -> Result<u64, Fault> {
        let range = self.frames_for(frames, wanted, holes)?;
        let run = Run { page, frames: range, is_borrowed: false };
        self.back(frames, run, area.protection).map_err(|_| Fault::OutOfMemory)?;
        self.ahead.push(page, u64::from(range.count));
        Ok(u64::from(range.count))
    }

    /// Between one frame and as many as are wanted. Nothing is taken from elsewhere for pages that are only a guess.
    fn frames_for(&mut self, frames: &mut Frames, wanted: u64, holes: Holes) -> Result<FrameRange, Fault> {
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let range = match holes {
            Holes::Filled => self.allocate_run(frames, wanted),
            Holes::Kept => frames.allocate_run(wanted, Charge::Memory),
        };
        range.map_err(|_| Fault::OutOfMemory)
    }

    /// Backs absent pages with those of a file in guest memory, which private areas borrow: how many pages have been dealt
    /// with.
    fn fill_from_memory(
        &mut self,
        frames: &mut Frames,
        area: &Area,
        (page, wanted): (u64, u64),
        (mapping, index): (&Mapping, u64),
        holes: Holes,
    ) -> Result<u64, Fault> {
        let is_filled = holes == Holes::Filled;
        let Some(first) = mapping.frame(index, frames, is_filled).map_err(content_fault)? else { return Ok(1) };
        let mut range = FrameRange::one(first);
        // Further pages as long as their frames happen to be consecutive.
        while u64::from(range.count) < wanted
            && let Ok(Some(next)) = mapping.frame(index + u64::from(range.count), frames, is_filled)
            && next.0 == first.0 + range.count
        {
            range.count += 1;
        }
        range.iter().for_each(|frame| frames.share(frame));
        let run = Run { page, frames: range, is_borrowed: area.is_private() };
        self.back(frames, run, area.protection).map_err(|_| Fault::OutOfMemory)?;
        Ok(u64::from(range.count))
    }

    fn fill_from_host(
        &mut self,
        frames: &mut Frames,
        area: &Area,
        (page, wanted): (u64, u64),
        (mapping, index): (&Mapping, u64),
        holes: Holes,
    ) -> Result<u64, Fault> {
        let mut range = self.frames_for(frames, wanted, holes)?;
        let read = read_pages(frames, mapping, index, range);
        let filled = *read.as_ref().unwrap_or(&0);
        if filled < range.count {
            let unused = FrameRange { first: Frame(range.first.0 + filled), count: range.count - filled };
            frames.release_run(unused);
            range.count = filled;
        }
        if filled == 0 {
            return Err(read.err().unwrap_or(Fault::NoContent));
        }
        let run = Run { page, frames: range, is_borrowed: false };
        self.back(frames, run, area.protection).map_err(|_| Fault::OutOfMemory)?;
        Ok(u64::from(filled))
    }

    /// Copies from the process. Protection is checked as for an access of its own.
    pub(crate) fn read(&mut self, frames: &mut Frames, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < buffer.len() {
            done += self.read_run(frames, address, buffer, done)?;
        }
        Ok(())
    }

    /// Copies what follows the first `done` bytes and lies in consecutive frames: how many bytes.
    pub(crate) fn read_run(
        &mut self,
        frames: &mut Frames,
        address: u64,
        buffer: &mut [u8],
        done: usize,
    ) -> Result<usize, Fault> {
        let at = address.checked_add(done as u64).ok_or(Fault::NoArea)?;
        let part = self.locate_run(frames, (at, buffer.len() - done), Protection::READ, false)?;
        let piece = &mut buffer[done..done + part.length];
        part.pieces().for_each(|(frame, offset, range)| frames.memory().copy_out(frame, offset, &mut piece[range]));
        Ok(part.length)
    }

    /// Copies to the process. Protection is checked as for an access of its own.
    pub(crate) fn write(&mut self, frames: &mut Frames, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.write_checked(frames, address, bytes, Protection::WRITE)
    }

    /// Copies to the process pages that it may not write itself: for the program loader, into private pages only.
    pub(crate) fn write_checked(
        &mut self,
        frames: &mut Frames,
        address: u64,
        bytes: &[u8],
        needed: Protection,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.checked_add(done as u64).ok_or(Fault::NoArea)?;
            let part = self.locate_run(frames, (at, bytes.len() - done), needed, true)?;
            let piece = &bytes[done..done + part.length];
            part.pieces().for_each(|(frame, offset, range)| frames.memory().copy_in(frame, offset, &piece[range]));
            done += part.length;
        }
        Ok(())
    }

    /// The frame and offset behind an address that the process may access so, to be read or written by the monitor.
    pub(crate) fn locate(
        &mut self,
        frames: &mut Frames,
        address: u64,
        needed: Protection,
        is_write: bool,
    ) -> Result<(Frame, usize), Fault> {
        let (_, area) = self.area_at(address)?;
        if !area.protection.contains(needed) {
            return Err(Fault::NotAllowed);
        }
        let page = page_of(address);
        let mut backed = self.pages.get(page);
        if backed.is_none() {
            self.fault(frames, address, needed)?;
            backed = self.pages.get(page);
        }
        if is_write && backed.is_some_and(|backed| backed.is_borrowed) {
            let (_, area) = self.areas.at(address).ok_or(Fault::NoArea)?;
            let area = area.clone();
            self.own(frames, &area, page, page + 1)?;
            backed = self.pages.get(page);
        }
        let backed = backed.expect("the fault has filled it");
        Ok((backed.frame, (address % PAGE_SIZE as u64) as usize))
    }

    /// As [`Space::locate`] for the first byte of a buffer and all that follow it in its area and in consecutive frames:
    /// one byte at least, none past the buffer. What is missing is filled at once; a failure there is left to who asks for
    /// those bytes.
    pub(crate) fn locate_run(
        &mut self,
        frames: &mut Frames,
        (address, length): (u64, usize),
        needed: Protection,
        is_write: bool,
    ) -> Result<FramePart, Fault> {
        let (frame, offset) = self.locate(frames, address, needed, is_write)?;
        let (start, area) = self.areas.at(address).ok_or(Fault::NoArea)?;
        let bytes = (area.end - address).min(length as u64);
        let (page, end) = (page_of(address), page_of(address + bytes - 1) + 1);
        let mut count = self.pages.consecutive(page, end, is_write);
        if page + count < end {
            let area = area.clone();
            self.make_ready(frames, (start, &area), (page + count, end), is_write);
            count = self.pages.consecutive(page, end, is_write);
        }
        let room = count as usize * PAGE_SIZE - offset;
        Ok(FramePart { frame, offset, length: room.min(bytes as usize) })
    }

    /// Fills the pages of an area, or copies borrowed ones, as far as the first of them needs it and there is memory.
    fn make_ready(
        &mut self,
        frames: &mut Frames,
        (start, area): (u64, &Area),
        (first, end): (u64, u64),
        is_write: bool,
    ) {
        let _ = match self.pages.get(first) {
            None => self.fill(frames, start, area, (first, end), Holes::Filled),
            Some(_) if is_write => self.own(frames, area, first, end),
            Some(_) => Ok(()),
        };
    }
}

/// Fills frames with consecutive pages of a file: how many lie (partly) before its end. Many at a time, because the file
/// may be one of the host.
fn read_pages(frames: &mut Frames, mapping: &Mapping, index: u64, range: FrameRange) -> Result<u32, Fault> {
    let mut buffer = vec![0; (range.count.min(PAGES_READ) as usize) * PAGE_SIZE];
    let mut filled = 0;
    while filled < range.count {
        let wanted = (range.count - filled).min(PAGES_READ) as usize * PAGE_SIZE;
        let read = match mapping.read_pages(index + u64::from(filled), frames, &mut buffer[..wanted]) {
            Ok(read) => read,
            Err(_) if filled > 0 => break,
            Err(errno) => return Err(content_fault(errno)),
        };
        for page in buffer[..read].chunks(PAGE_SIZE) {
            frames.memory().copy_in(Frame(range.first.0 + filled), 0, page);
            filled += 1;
        }
        if read < wanted {
            break;
        }
    }
    Ok(filled)
}

fn content_fault(errno: Errno) -> Fault {
    match errno {
        Errno::ENOMEM => Fault::OutOfMemory,
        _ => Fault::NoContent,
    }
}

/// The pages to fill for a fault on `page`: the aligned block around it, or, when faults go upwards through the area, four
/// times as many as last time.
fn window(start: u64, area: &Area, page: u64) -> (u64, u64) {
    let (area_first, area_end) = (page_of(start), page_of(area.end));
    if area.fault_end == page && area.fault_pages > 0 {
        let pages = (area.fault_pages * 4).min(PAGES_AHEAD_MAX);
        return (page, (page + pages).min(area_end));
    }
    let around = match area.backing {
        Backing::File { .. } => PAGES_AROUND_FILE,
        Backing::Anonymous | Backing::Monitor => PAGES_AROUND_ANONYMOUS,
    };
    let first = page / around * around;
    (first.max(area_first), (first + around).min(area_end))
}
