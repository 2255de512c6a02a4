//! What `madvise`, `mlock` and `mincore` do to an address space, and what becomes of mappings of a file that is cut.

use calypte_platform::{PAGE_SIZE, Protection};

use super::area::{Area, Backing, OnFork};
use super::change::POPULATE_PAGES_MAX;
use super::fault::Holes;
use super::{AddressSpaces, Fault, Space, page_of};
use crate::errno::Errno;
use crate::frames::{Cut, Frames};

/// What `fork` is to do with a range from now on, by `madvise`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForkAdvice {
    /// `MADV_DOFORK` and `MADV_KEEPONFORK`.
    Inherit,
    /// `MADV_DONTFORK`.
    Omit,
    /// `MADV_WIPEONFORK`.
    Wipe,
}

impl AddressSpaces {
    /// Takes pages from all mappings that files have lost since the last call. Before guest code runs on.
    pub(crate) fn carry_out_cuts(&mut self, frames: &mut Frames) {
        for cut in frames.dropped().take_cuts() {
            for space in self.spaces.values_mut() {
                space.carry_out_cut(frames, cut);
            }
        }
    }
}

impl Space {
    fn carry_out_cut(&mut self, frames: &mut Frames, cut: Cut) {
        let mut ranges = Vec::new();
        for (start, area) in self.areas.iter() {
            let Backing::File { mapping, offset } = &area.backing else { continue };
            if mapping.content() != Some(cut.content) {
                continue;
            }
            // Page numbers of the file and of the address space differ by a constant within an area.
            let (first, base) = (offset / PAGE_SIZE as u64, page_of(start));
            let length = page_of(area.end) - base;
            let from = cut.pages.0.saturating_sub(first).min(length) + base;
            let to = cut.pages.1.saturating_sub(first).min(length) + base;
            let runs = self.pages.runs(from, to).into_iter();
            ranges.extend(
                runs.filter(|run| cut.has_copies || area.is_shared || run.is_borrowed)
                    .map(|run| (run.page * PAGE_SIZE as u64, run.end() * PAGE_SIZE as u64)),
            );
        }
        for (from, to) in ranges {
            self.drop_pages(frames, from, to);
        }
    }

    /// `MADV_DONTNEED` and `MADV_FREE`: pages go, areas stay. `ENOMEM` if the range has holes, after the work.
    pub(crate) fn discard(
        &mut self,
        frames: &mut Frames,
        start: u64,
        length: u64,
        refuses: impl Fn(bool, bool) -> bool,
    ) -> Result<(), Errno> {
        self.advise(start, length, |space, from, to, area| {
            let is_anonymous = area.is_private() && matches!(area.backing, Backing::Anonymous);
            if matches!(area.backing, Backing::Monitor) || refuses(is_anonymous, area.is_locked) {
                return Err(Errno::EINVAL);
            }
            space.drop_pages(frames, from, to);
            Ok(())
        })
    }

    /// `MADV_REMOVE`: the range becomes a hole of the file that is mapped there. Its pages go from the mappings with
    /// [`AddressSpaces::carry_out_cuts`].
    pub(crate) fn remove(&mut self, frames: &mut Frames, start: u64, length: u64) -> Result<(), Errno> {
        self.advise(start, length, |space, from, to, area| {
            let Backing::File { mapping, offset } = &area.backing else { return Err(Errno::EINVAL) };
            if !area.is_shared || !area.may_write || area.is_locked {
                return Err(if area.is_shared && !area.is_locked { Errno::EACCES } else { Errno::EINVAL });
            }
            let (area_start, _) = space.areas.at(from).ok_or(Errno::ENOMEM)?;
            mapping.punch_hole(frames, offset + (from - area_start), to - from)
        })
    }

    /// `MADV_DONTFORK` and its like.
    pub(crate) fn set_on_fork(&mut self, start: u64, length: u64, advice: ForkAdvice) -> Result<(), Errno> {
        let on_fork = match advice {
            ForkAdvice::Inherit => OnFork::Inherit,
            ForkAdvice::Omit => OnFork::Omit,
            ForkAdvice::Wipe => OnFork::Wipe,
        };
        self.advise(start, length, |space, from, to, area| {
            let can_wipe = area.is_private() && matches!(area.backing, Backing::Anonymous);
            if on_fork == OnFork::Wipe && !can_wipe {
                return Err(Errno::EINVAL);
            }
            space.areas.change(from, to, |area| area.on_fork = on_fork)
        })
    }

    /// Advice without an effect: only the range is checked.
    pub(crate) fn check_advised(&mut self, start: u64, length: u64) -> Result<(), Errno> {
        self.advise(start, length, |_, _, _, _| Ok(()))
    }

    /// Does something to each part of an area in a range. `ENOMEM` if the range has holes, after the work.
    fn advise(
        &mut self,
        start: u64,
        length: u64,
        mut work: impl FnMut(&mut Self, u64, u64, &Area) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let end = self.range_end(start, length).map_err(|errno| match errno {
            Errno::ENOMEM
                if start.checked_add(length).is_some_and(|end| end.checked_add(PAGE_SIZE as u64).is_some()) =>
            {
                Errno::ENOMEM
            }
            _ => Errno::EINVAL,
        })?;
        let parts: Vec<(u64, u64, Area)> =
            self.areas.within(start, end).map(|(from, to, area)| (from, to, area.clone())).collect();
        for (from, to, area) in parts {
            work(self, from, to, &area)?;
        }
        if self.areas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Backs pages of a range for an access as `needed`, from `done` bytes on: how many bytes are done after a bounded part
    /// of the work. `ENOMEM` at a hole and when memory is short, `EINVAL` where the access is not allowed, `EFAULT` where
    /// there is no content.
    pub(crate) fn populate(
        &mut self,
        frames: &mut Frames,
        (start, length): (u64, u64),
        done: u64,
        needed: Protection,
    ) -> Result<u64, Errno> {
        let end = self.range_end(start, length)?;
        let (mut at, mut budget) = (start + done, POPULATE_PAGES_MAX);
        while at < end && budget > 0 {
            let (area_start, area) = self.areas.at(at).ok_or(Errno::ENOMEM)?;
            if !area.protection.contains(needed) {
                return Err(Errno::EINVAL);
            }
            let area = area.clone();
            let (first, last) = (page_of(at), page_of(area.end.min(end)).min(page_of(at) + budget));
            self.populate_pages(frames, area_start, &area, (first, last), needed).map_err(|fault| match fault {
                Fault::OutOfMemory => Errno::ENOMEM,
                _ => Errno::EFAULT,
            })?;
            budget -= last - first;
            at = last * PAGE_SIZE as u64;
        }
        Ok(at - start)
    }

    fn populate_pages(
        &mut self,
        frames: &mut Frames,
        start: u64,
        area: &Area,
        (first, last): (u64, u64),
        needed: Protection,
    ) -> Result<(), Fault> {
        self.fill(frames, start, area, (first, last), Holes::Filled)?;
        if needed.contains(Protection::WRITE) && area.is_private() {
            let borrowed: Vec<(u64, u64)> = self
                .pages
                .runs(first, last)
                .iter()
                .filter(|run| run.is_borrowed)
                .map(|run| (run.page, run.end()))
                .collect();
            for page in borrowed.into_iter().flat_map(|(first, end)| first..end) {
                self.own(frames, area, page, page + 1)?;
            }
        }
        Ok(())
    }

    /// `mlock` and `munlock`: whether a range counts as locked. `ENOMEM` if it has holes.
    pub(crate) fn set_locked(&mut self, start: u64, length: u64, is_locked: bool) -> Result<(), Errno> {
        let end = self.range_end(start, length)?;
        if start < end && !self.areas.covers(start, end) {
            return Err(Errno::ENOMEM);
        }
        self.areas.change(start, end, |area| area.is_locked = is_locked)
    }

    /// `mlockall` and `munlockall`.
    pub(crate) fn set_all_locked(&mut self, now: Option<bool>, future: bool) -> Result<(), Errno> {
        self.layout.locks_future = future;
        match now {
            Some(is_locked) => self.areas.change(0, self.highest(), |area| area.is_locked = is_locked),
            None => Ok(()),
        }
    }

    /// Whether new areas are locked (`MCL_FUTURE`).
    pub(crate) fn locks_future(&self) -> bool {
        self.layout.locks_future
    }

    /// Bytes of the areas that are locked, in `[start, end)`.
    pub(crate) fn locked_bytes(&self, start: u64, end: u64) -> u64 {
        self.areas.within(start, end).filter(|(_, _, area)| area.is_locked).map(|(from, to, _)| to - from).sum()
    }

    /// `ENOMEM` unless areas cover the whole range.
    pub(crate) fn check_mapped(&self, start: u64, length: u64) -> Result<(), Errno> {
        let end = self.range_end(start, length)?;
        if self.areas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `mincore`: a byte for each page, 1 for those in memory.
    pub(crate) fn residency(&self, start: u64, pages: u64) -> Vec<u8> {
        let (first, end) = (page_of(start), page_of(start) + pages);
        let mut resident = vec![0; pages as usize];
        let parts = self.areas.within(first * PAGE_SIZE as u64, end * PAGE_SIZE as u64);
        for (from, to, area) in parts {
            let area_first = self.areas.at(from).map_or(from, |(start, _)| start);
            for page in page_of(from)..page_of(to) {
                let is_in_file = || match &area.backing {
                    Backing::File { mapping, offset } => {
                        mapping.is_resident(offset / PAGE_SIZE as u64 + page - page_of(area_first))
                    }
                    _ => false,
                };
                resident[(page - first) as usize] = u8::from(self.pages.get(page).is_some() || is_in_file());
            }
        }
        resident
    }
}
