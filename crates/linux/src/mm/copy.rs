//! Copies of borrowed pages, made when somebody writes.

use calypte_platform::{FrameRange, PAGE_SIZE};

use super::area::Area;
use super::pages::Run;
use super::{Fault, Space, release};
use crate::frames::{Charge, Frames};

impl Space {
    /// Makes the page `page` of `area` the process's own if it is borrowed, and the borrowed ones that follow it up to `end`,
    /// as long as there is memory for them.
    pub(super) fn own(&mut self, frames: &mut Frames, area: &Area, page: u64, end: u64) -> Result<(), Fault> {
        if self.pages.get(page).is_none_or(|backed| !backed.is_borrowed) {
            return Ok(());
        }
        let mut next = page;
        for run in self.pages.runs(page, end) {
            if !run.is_borrowed || run.page != next {
                break;
            }
            let owned = self.own_run(frames, area, run);
            next += owned;
            if owned < u64::from(run.frames.count) {
                break;
            }
        }
        if next > page { Ok(()) } else { Err(Fault::OutOfMemory) }
    }

    /// As [`Space::own`] for a run: how many of its first pages could be had.
    fn own_run(&mut self, frames: &mut Frames, area: &Area, run: Run) -> u64 {
        let is_last = |frames: &Frames, frame| frames.references(frame) == 1 && frames.charge(frame) == Charge::Memory;
        let mut rest = run;
        while rest.frames.count > 0 {
            let is_kept = is_last(frames, rest.frames.first);
            let count = rest.frames.iter().take_while(|frame| is_last(frames, *frame) == is_kept).count() as u32;
            let part = Run { frames: FrameRange { count, ..rest.frames }, ..rest };
            let owned = if is_kept { Ok(self.keep(area, part)) } else { self.copy(frames, area, part) };
            let Ok(owned) = owned else { break };
            rest.page += u64::from(owned);
            rest.frames.first.0 += owned;
            rest.frames.count -= owned;
        }
        rest.page - run.page
    }

    /// Nobody else has these frames any more: no copy is needed.
    fn keep(&mut self, area: &Area, run: Run) -> u32 {
        self.pages.set_borrowed(run.page, run.end(), false);
        let bytes = u64::from(run.frames.count) * PAGE_SIZE as u64;
        self.platform.protect(run.page * PAGE_SIZE as u64, bytes, area.protection);
        run.frames.count
    }

    /// Copies one page or more from the start of a run: how many.
    fn copy(&mut self, frames: &mut Frames, area: &Area, run: Run) -> Result<u32, Fault> {
        let copies = self.allocate_run(frames, run.frames.count).map_err(|_| Fault::OutOfMemory)?;
        let mut content = [0; PAGE_SIZE];
        for (from, to) in run.frames.iter().zip(copies.iter()) {
            frames.memory().copy_out(from, 0, &mut content);
            frames.memory().copy_in(to, 0, &content);
        }
        let end = run.page + u64::from(copies.count);
        let replaced = self.pages.remove(run.page, end);
        self.platform.unmap(run.page * PAGE_SIZE as u64, u64::from(copies.count) * PAGE_SIZE as u64);
        release(frames, &replaced);
        let own = Run { page: run.page, frames: copies, is_borrowed: false };
        self.back(frames, own, area.protection).map_err(|_| Fault::OutOfMemory)?;
        Ok(copies.count)
    }
}
