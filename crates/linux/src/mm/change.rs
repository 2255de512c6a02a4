//! What `mmap`, `munmap`, `mprotect` and `brk` do to an address space.

use calypte_platform::{FrameRange, PAGE_SIZE, Protection};

use super::ahead::eager_bytes;
use super::area::{Area, Backing, is_page_aligned, page_up};
use super::fault::Holes;
use super::pages::Run;
use super::{Space, page_of};
use crate::errno::Errno;
use crate::file::Mapping;
use crate::frames::Frames;

/// Most pages that one call backs: 64 MiB. The lock is held meanwhile.
pub(super) const POPULATE_PAGES_MAX: u64 = (64 << 20) / PAGE_SIZE as u64;
/// Lowest address at which the heap may end below the mappings: room of `brk`.
const BREAK_BYTES_MAX: u64 = 1 << 40;

/// A new area, already checked for what does not concern memory.
pub struct MapRequest {
    /// Wanted address.
    pub address: u64,
    /// Bytes, not zero.
    pub length: u64,
    /// How the address is meant.
    pub placement: Placement,
    /// What the process may do.
    pub protection: Protection,
    /// Whether writes are seen by others who map the same.
    pub is_shared: bool,
    /// Whether a shared area may be made writable later.
    pub may_write: bool,
    /// Content.
    pub source: Source,
    /// Whether all pages are to be backed at once (`MAP_POPULATE`).
    pub populate: bool,
    /// Whether an access below it makes it longer (`MAP_GROWSDOWN`).
    pub grows_down: bool,
    /// Whether it counts as locked (`MAP_LOCKED`).
    pub is_locked: bool,
    /// One past the highest address it may get where no address is asked for.
    pub top: u64,
    /// Name for `/proc/self/maps` of an area without a file.
    pub name: &'static str,
}

/// How the address of a [`MapRequest`] is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// There if free, elsewhere otherwise.
    Hint,
    /// There; what is mapped there goes.
    Fixed,
    /// There; `EEXIST` if something is mapped there.
    FixedNoReplace,
}

/// What a new area holds.
#[derive(Clone)]
pub enum Source {
    /// Zeros.
    Anonymous,
    /// A file from an offset (a multiple of the page size).
    File {
        /// The file.
        mapping: Mapping,
        /// First byte.
        offset: u64,
    },
    /// Frames that the monitor keeps; the area has as many pages and the guest never writes them.
    Monitor(Vec<FrameRange>),
}

impl Space {
    /// Adds an area; its address.
    pub(crate) fn map(&mut self, frames: &mut Frames, request: MapRequest) -> Result<u64, Errno> {
        let length = page_up(request.length).filter(|length| *length <= self.layout.highest).ok_or(Errno::ENOMEM)?;
        let start = self.place(request.address, length, request.placement, request.top)?;
        let end = start + length;
        if request.placement == Placement::Fixed {
            self.unmap(frames, start, length)?;
        }
        let (backing, monitor_frames) = match request.source {
            Source::Anonymous => (Backing::Anonymous, Vec::new()),
            Source::File { mapping, offset } => (Backing::File { mapping, offset }, Vec::new()),
            Source::Monitor(ranges) => (Backing::Monitor, ranges),
        };
        let area = Area {
            is_shared: request.is_shared,
            may_write: request.may_write && !matches!(backing, Backing::Monitor),
            backing,
            grows_down: request.grows_down,
            is_locked: request.is_locked || self.layout.locks_future,
            ..Area::anonymous(end, request.protection, request.name)
        };
        self.areas.insert(start, area.clone())?;
        let mut page = page_of(start);
        for range in monitor_frames {
            range.iter().for_each(|frame| frames.share(frame));
            let run = Run { page, frames: range, is_borrowed: false };
            self.back(frames, run, request.protection).map_err(|_| Errno::ENOMEM)?;
            page += u64::from(range.count);
        }
        let is_small = matches!(area.backing, Backing::Anonymous) && length <= eager_bytes(frames);
        if !request.protection.is_empty() && (request.populate || is_small || area.is_locked) {
            // As for Linux, a page that cannot be had now is no reason to fail. Very many are left to come on demand.
            let populated = page_of(end).min(page_of(start) + POPULATE_PAGES_MAX);
            let holes = if request.populate || area.is_locked { Holes::Filled } else { Holes::Kept };
            let _ = self.fill(frames, start, &area, (page_of(start), populated), holes);
        }
        Ok(start)
    }

    pub(super) fn place(&self, address: u64, length: u64, placement: Placement, top: u64) -> Result<u64, Errno> {
        let fits = |start: u64| {
            start >= self.layout.lowest && start.checked_add(length).is_some_and(|end| end <= self.layout.highest)
        };
        match placement {
            Placement::Hint => {
                let hint = address / PAGE_SIZE as u64 * PAGE_SIZE as u64;
                if hint != 0 && fits(hint) && self.areas.has_room(hint, hint + length) {
                    return Ok(hint);
                }
                let top = self.layout.mmap_top.min(top);
                self.areas.find_gap(length, self.layout.lowest, top).ok_or(Errno::ENOMEM)
            }
            Placement::Fixed | Placement::FixedNoReplace => {
                if !is_page_aligned(address) {
                    return Err(Errno::EINVAL);
                }
                if !fits(address) {
                    return Err(if address < self.layout.lowest { Errno::EPERM } else { Errno::ENOMEM });
                }
                if placement == Placement::FixedNoReplace && !self.areas.is_free(address, address + length) {
                    return Err(Errno::EEXIST);
                }
                Ok(address)
            }
        }
    }

    /// The page-aligned end of a range that a process has named, within its address space.
    pub(super) fn range_end(&self, start: u64, length: u64) -> Result<u64, Errno> {
        if !is_page_aligned(start) {
            return Err(Errno::EINVAL);
        }
        page_up(length)
            .and_then(|length| start.checked_add(length))
            .filter(|end| *end <= self.layout.highest)
            .ok_or(Errno::ENOMEM)
    }

    /// `munmap`: whatever is in the range goes.
    pub(crate) fn unmap(&mut self, frames: &mut Frames, start: u64, length: u64) -> Result<(), Errno> {
        let end = self.range_end(start, length).map_err(|_| Errno::EINVAL)?;
        if start == end {
            return Err(Errno::EINVAL);
        }
        self.areas.take(start, end)?;
        self.drop_pages(frames, start, end);
        Ok(())
    }

    /// `mprotect`.
    pub(crate) fn protect(
        &mut self,
        frames: &mut Frames,
        start: u64,
        length: u64,
        protection: Protection,
    ) -> Result<(), Errno> {
        let end = self.range_end(start, length)?;
        if start == end {
            return Ok(());
        }
        // Areas are changed in order up to the first that cannot be.
        let (mut at, mut changed, mut outcome) = (start, Vec::new(), Ok(()));
        let is_chunk = self.is_chunk_opened(frames, start, end, protection);
        for (from, to, area) in self.areas.within(start, end) {
            if from != at {
                break;
            }
            if protection.contains(Protection::WRITE) && !area.may_write {
                outcome = Err(Errno::EACCES);
                break;
            }
            if area.protection != protection {
                changed.push((from, to));
            }
            at = to;
        }
        if at < end && outcome.is_ok() {
            outcome = Err(Errno::ENOMEM);
        }
        self.areas.change(start, at, |area| area.protection = protection)?;
        let mut ranges: Vec<(u64, u64, Protection)> = Vec::new();
        for run in changed.iter().flat_map(|(from, to)| self.pages.runs(page_of(*from), page_of(*to))) {
            let (start, end) = (run.page * PAGE_SIZE as u64, run.end() * PAGE_SIZE as u64);
            match ranges.last_mut() {
                Some((at, length, allowed)) if *at + *length == start && *allowed == run.allowed(protection) => {
                    *length = end - *at;
                }
                _ => ranges.push((start, end - start, run.allowed(protection))),
            }
        }
        self.platform.protect_all(&ranges);
        if is_chunk && let Some((area_start, area)) = self.areas.at(start) {
            let area = area.clone();
            // As in `map`, a page that cannot be had now is no reason to fail.
            let _ = self.fill(frames, area_start, &area, (page_of(start), page_of(end)), Holes::Kept);
        }
        outcome
    }

    /// `brk`: the new end of the heap, which is the old one if it cannot be as asked for.
    pub(crate) fn set_break_end(&mut self, frames: &mut Frames, wanted: u64, bytes_max: u64) -> u64 {
        let limit = self.layout.break_start.saturating_add(bytes_max.min(BREAK_BYTES_MAX));
        if wanted < self.layout.break_start || wanted > limit {
            return self.layout.break_end;
        }
        let (Some(old_end), Some(new_end)) = (page_up(self.layout.break_end), page_up(wanted)) else {
            return self.layout.break_end;
        };
        let result = match new_end.cmp(&old_end) {
            std::cmp::Ordering::Less => self.unmap(frames, new_end, old_end - new_end),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => self.grow_break(frames, old_end, new_end),
        };
        if result.is_ok() {
            self.layout.break_end = wanted;
        }
        self.layout.break_end
    }

    fn grow_break(&mut self, frames: &mut Frames, start: u64, end: u64) -> Result<(), Errno> {
        let request = MapRequest {
            address: start,
            length: end - start,
            placement: Placement::FixedNoReplace,
            protection: Protection::READ | Protection::WRITE,
            is_shared: false,
            may_write: true,
            source: Source::Anonymous,
            populate: false,
            grows_down: false,
            is_locked: false,
            top: u64::MAX,
            name: "[heap]",
        };
        self.map(frames, request).map(|_| ())
    }
}
