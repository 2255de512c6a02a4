//! What `mmap`, `munmap`, `mprotect`, `mremap`, `madvise` and `brk` do to an address space.

use calypte_platform::{FrameRange, PAGE_SIZE, Protection};

use super::area::{Area, Backing, is_page_aligned, page_up};
use super::pages::Run;
use super::{Space, page_of};
use crate::errno::Errno;
use crate::file::Mapping;
use crate::frames::Frames;

/// Anonymous areas up to this size are backed at once: 128 KiB. They are about to be used, and cost no fault then.
const EAGER_BYTES_MAX: u64 = 128 * 1024;
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
        let start = self.place(request.address, length, request.placement)?;
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
        let is_small = length <= EAGER_BYTES_MAX && matches!(area.backing, Backing::Anonymous);
        if !request.protection.is_empty() && (request.populate || is_small) {
            // As for Linux, a page that cannot be had now is no reason to fail.
            let _ = self.fill(frames, start, &area, page_of(start), page_of(end));
        }
        Ok(start)
    }

    fn place(&self, address: u64, length: u64, placement: Placement) -> Result<u64, Errno> {
        let fits = |start: u64| {
            start >= self.layout.lowest && start.checked_add(length).is_some_and(|end| end <= self.layout.highest)
        };
        match placement {
            Placement::Hint => {
                let hint = address / PAGE_SIZE as u64 * PAGE_SIZE as u64;
                if hint != 0 && fits(hint) && self.areas.is_free(hint, hint + length) {
                    return Ok(hint);
                }
                self.areas.find_gap(length, self.layout.lowest, self.layout.mmap_top).ok_or(Errno::ENOMEM)
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
    fn range_end(&self, start: u64, length: u64) -> Result<u64, Errno> {
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
    pub(crate) fn protect(&mut self, start: u64, length: u64, protection: Protection) -> Result<(), Errno> {
        let end = self.range_end(start, length)?;
        if start == end {
            return Ok(());
        }
        if !self.areas.covers(start, end) {
            return Err(Errno::ENOMEM);
        }
        let refuses = |area: &Area| protection.contains(Protection::WRITE) && !area.may_write;
        if self.areas.within(start, end).any(|(_, _, area)| refuses(area)) {
            return Err(Errno::EACCES);
        }
        let changed: Vec<(u64, u64)> = self
            .areas
            .within(start, end)
            .filter(|(_, _, area)| area.protection != protection)
            .map(|(from, to, _)| (from, to))
            .collect();
        self.areas.change(start, end, |area| area.protection = protection)?;
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
        Ok(())
    }

    /// `mremap`; `fixed` is the new address for `MREMAP_FIXED`.
    pub(crate) fn remap(
        &mut self,
        frames: &mut Frames,
        old: u64,
        old_length: u64,
        new_length: u64,
        may_move: bool,
        fixed: Option<u64>,
    ) -> Result<u64, Errno> {
        let old_end = self.range_end(old, old_length).map_err(|_| Errno::EINVAL)?;
        let old_length = old_end - old;
        let new_length =
            page_up(new_length).filter(|length| *length > 0 && *length <= self.layout.highest).ok_or(Errno::EINVAL)?;
        if old_length == 0 {
            return Err(Errno::EINVAL); // Duplicating a shared mapping this way is deprecated and not offered.
        }
        let (_, area) = self.areas.at(old).ok_or(Errno::EFAULT)?;
        if area.end < old + new_length.min(old_length) {
            return Err(Errno::EFAULT); // The range spans several areas.
        }
        if matches!(area.backing, Backing::Monitor) {
            return Err(Errno::EINVAL);
        }
        if let Some(new) = fixed {
            return self.move_area(frames, old, old_length, new, new_length, Placement::Fixed);
        }
        if new_length <= old_length {
            if new_length < old_length {
                self.unmap(frames, old + new_length, old_length - new_length)?;
            }
            return Ok(old);
        }
        let new_end = old.checked_add(new_length).ok_or(Errno::ENOMEM)?;
        if area.end == old_end && new_end <= self.layout.highest && self.areas.is_free(old_end, new_end) {
            self.areas.at_mut(old).expect("just found").1.end = new_end;
            return Ok(old);
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        self.move_area(frames, old, old_length, 0, new_length, Placement::Hint)
    }

    /// Moves an area and the pages behind it.
    fn move_area(
        &mut self,
        frames: &mut Frames,
        old: u64,
        old_length: u64,
        new: u64,
        new_length: u64,
        placement: Placement,
    ) -> Result<u64, Errno> {
        let new = self.place(new, new_length, placement)?;
        let (old_end, new_end) = (old + old_length, new + new_length);
        if placement == Placement::Fixed {
            if new < old_end && old < new_end {
                return Err(Errno::EINVAL);
            }
            self.unmap(frames, new, new_length)?;
        }
        if new_length < old_length {
            self.unmap(frames, old + new_length, old_length - new_length)?;
        }
        let old_end = old_end.min(old + new_length);
        let parts = self.areas.take(old, old_end)?;
        let [(_, area)] = <[_; 1]>::try_from(parts).map_err(|_| Errno::EFAULT)?;
        let protection = area.protection;
        self.areas.insert(new, Area { end: new_end, fault_end: 0, fault_pages: 0, ..area })?;
        let runs = self.pages.remove(page_of(old), page_of(old_end));
        self.platform.unmap(old, old_end - old);
        for run in runs {
            let page = page_of(new) + (run.page - page_of(old));
            self.back(frames, Run { page, ..run }, protection).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(new)
    }

    /// `madvise(MADV_DONTNEED)` and `MADV_FREE`: pages go, areas stay. `ENOMEM` if the range has holes, after the work.
    pub(crate) fn discard(&mut self, frames: &mut Frames, start: u64, length: u64) -> Result<(), Errno> {
        let end = self.range_end(start, length)?;
        let parts: Vec<(u64, u64, bool)> = self
            .areas
            .within(start, end)
            .map(|(from, to, area)| (from, to, matches!(area.backing, Backing::Monitor)))
            .collect();
        if parts.iter().any(|(_, _, is_monitors)| *is_monitors) {
            return Err(Errno::EINVAL);
        }
        for (from, to, _) in parts {
            self.drop_pages(frames, from, to);
        }
        if self.areas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `MADV_WILLNEED`, `MADV_POPULATE_READ` and `_WRITE`, `mlock`: backs the pages of a range, as many as can be had.
    pub(crate) fn populate(&mut self, frames: &mut Frames, start: u64, length: u64) -> Result<(), Errno> {
        let end = self.range_end(start, length)?;
        let parts: Vec<(u64, u64)> = self.areas.within(start, end).map(|(from, to, _)| (from, to)).collect();
        for (from, to) in parts {
            let (area_start, area) = self.areas.at(from).expect("just found");
            let area = area.clone();
            if !area.protection.is_empty()
                && self.fill(frames, area_start, &area, page_of(from), page_of(to)) == Err(super::Fault::OutOfMemory)
            {
                return Err(Errno::ENOMEM);
            }
        }
        if self.areas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `ENOMEM` unless areas cover the whole range.
    pub(crate) fn check_mapped(&self, start: u64, length: u64) -> Result<(), Errno> {
        let end = self.range_end(start, length)?;
        if self.areas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `mincore`: a byte for each page, 1 for those in memory.
    pub(crate) fn residency(&self, start: u64, pages: u64) -> Vec<u8> {
        (page_of(start)..page_of(start) + pages).map(|page| u8::from(self.pages.get(page).is_some())).collect()
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
            name: "[heap]",
        };
        self.map(frames, request).map(|_| ())
    }
}
