//! `mremap`.

use calypte_platform::PAGE_SIZE;

use super::area::{Area, Backing, page_up};
use super::change::Placement;
use super::pages::Run;
use super::{Space, page_of};
use crate::errno::Errno;
use crate::frames::Frames;

/// A request of `mremap`, its flags checked.
pub(crate) struct RemapRequest {
    /// What is mapped now: address and bytes. No bytes: a second mapping of a shared area is made.
    pub(crate) old: u64,
    pub(crate) old_length: u64,
    pub(crate) new_length: u64,
    /// `MREMAP_MAYMOVE`.
    pub(crate) may_move: bool,
    /// Where to (`MREMAP_FIXED`), or where to try (`MREMAP_DONTUNMAP` with an address).
    pub(crate) target: Option<u64>,
    pub(crate) is_fixed: bool,
    /// Whether the old area stays, empty (`MREMAP_DONTUNMAP`).
    pub(crate) keeps_old: bool,
}

impl Space {
    /// `mremap`: where the area is now.
    pub(crate) fn remap(&mut self, frames: &mut Frames, request: &RemapRequest) -> Result<u64, Errno> {
        let RemapRequest { old, may_move, is_fixed, keeps_old, .. } = *request;
        let old_end = self.range_end(old, request.old_length).map_err(|_| Errno::EINVAL)?;
        let old_length = old_end - old;
        let new_length = page_up(request.new_length)
            .filter(|length| *length > 0 && *length <= self.highest())
            .ok_or(Errno::EINVAL)?;
        if is_fixed || keeps_old {
            self.check_target(request, old_length, new_length)?;
        }
        let (_, area) = self.areas.at(old).ok_or(Errno::EFAULT)?;
        if matches!(area.backing, Backing::Monitor) {
            return Err(Errno::EINVAL);
        }
        if is_fixed && old_length == new_length && area.end < old_end {
            return self.move_areas(frames, request, old_length);
        }
        if old_length == 0 && (!area.is_shared || !may_move) {
            return Err(Errno::EINVAL);
        }
        if area.end < old_end && (new_length >= old_length || is_fixed) {
            return Err(Errno::EFAULT); // The range spans several areas.
        }
        if is_fixed || keeps_old || old_length == 0 {
            return self.move_area(frames, request, old_length, new_length);
        }
        if new_length <= old_length {
            if new_length < old_length {
                self.unmap(frames, old + new_length, old_length - new_length)?;
            }
            return Ok(old);
        }
        let new_end = old.checked_add(new_length).ok_or(Errno::ENOMEM)?;
        if area.end == old_end && new_end <= self.highest() && self.areas.is_free(old_end, new_end) {
            self.areas.at_mut(old).expect("just found").1.end = new_end;
            return Ok(old);
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        self.move_area(frames, request, old_length, new_length)
    }

    fn check_target(&self, request: &RemapRequest, old_length: u64, new_length: u64) -> Result<(), Errno> {
        if request.keeps_old && old_length != new_length {
            return Err(Errno::EINVAL);
        }
        let Some(new) = request.target else { return Ok(()) };
        let new_end = new.checked_add(new_length).filter(|end| *end <= self.highest()).ok_or(Errno::EINVAL)?;
        let is_overlapping = new < request.old + old_length && request.old < new_end;
        if is_overlapping || !new.is_multiple_of(PAGE_SIZE as u64) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Moves a range of several areas, which keeps its length (since Linux 6.17); holes stay holes.
    fn move_areas(&mut self, frames: &mut Frames, request: &RemapRequest, length: u64) -> Result<u64, Errno> {
        let new = request.target.ok_or(Errno::EINVAL)?;
        let parts: Vec<(u64, u64)> =
            self.areas.within(request.old, request.old + length).map(|(from, to, _)| (from, to)).collect();
        for (from, to) in parts {
            let part = RemapRequest { old: from, target: Some(new + (from - request.old)), ..*request };
            self.move_area(frames, &part, to - from, to - from)?;
        }
        Ok(new)
    }

    /// Moves an area and the pages behind it.
    fn move_area(
        &mut self,
        frames: &mut Frames,
        request: &RemapRequest,
        old_length: u64,
        new_length: u64,
    ) -> Result<u64, Errno> {
        let old = request.old;
        let placement = if request.is_fixed { Placement::Fixed } else { Placement::Hint };
        let new = self.place(request.target.unwrap_or(0), new_length, placement, u64::MAX)?;
        if request.is_fixed {
            self.unmap(frames, new, new_length)?;
        }
        if old_length == 0 {
            return self.duplicate(old, new, new_length);
        }
        if new_length < old_length {
            self.unmap(frames, old + new_length, old_length - new_length)?;
        }
        let old_end = old + old_length.min(new_length);
        let parts = self.areas.take(old, old_end)?;
        let [(_, area)] = <[_; 1]>::try_from(parts).map_err(|_| Errno::EFAULT)?;
        let protection = area.protection;
        if request.keeps_old {
            self.areas.insert(old, Area { is_locked: false, ..area.clone() })?;
        }
        self.areas.insert(new, Area { end: new + new_length, fault_end: 0, fault_pages: 0, ..area })?;
        let runs = self.pages.remove(page_of(old), page_of(old_end));
        self.platform.unmap(old, old_end - old);
        let mut outcome = Ok(new);
        for run in runs {
            let page = page_of(new) + (run.page - page_of(old));
            if self.back(frames, Run { page, ..run }, protection).is_err() {
                outcome = Err(Errno::ENOMEM);
            }
        }
        outcome
    }

    /// A second mapping of what a shared area shows from `old` on.
    fn duplicate(&mut self, old: u64, new: u64, length: u64) -> Result<u64, Errno> {
        let (start, area) = self.areas.at(old).ok_or(Errno::EFAULT)?;
        let mut copy = area.clone();
        copy.advance(old - start);
        self.areas.insert(new, Area { end: new + length, fault_end: 0, fault_pages: 0, ..copy })?;
        Ok(new)
    }
}
