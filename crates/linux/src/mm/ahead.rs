//! Pages that are backed before anybody touches them, and how they are had back.
//!
//! A fault of the guest costs as much as the zeros of hundreds of pages, so areas that are about to be used are backed at
//! once. That is a guess. It must not make a program fail that has enough memory for what it uses: when memory runs out,
//! pages of zeros among those backed ahead are taken away again. A private anonymous page of zeros and none at all
//! are the same to the program.

use std::collections::VecDeque;

use calypte_platform::{FrameRange, PAGE_SIZE, Protection};

use super::area::{Area, Backing};
use super::pages::Run;
use super::{Space, page_of, release};
use crate::errno::Errno;
use crate::frames::{Charge, Frames};

/// Anonymous areas up to this size are backed at once, however small the program: 128 KiB.
const EAGER_BYTES_MIN: u64 = 128 << 10;
/// The same of programs that have grown: the chunks in which allocators take memory (V8's have 256 KiB, Python's 1 MiB).
const EAGER_BYTES_MAX: u64 = 1 << 20;
/// In between, an area may have this part of the memory that is in use already.
const EAGER_SHARE: u64 = 8;
/// Most ranges remembered as backed ahead; the oldest are forgotten first.
const RANGES_MAX: usize = 4096;
/// Most pages looked at when memory has run out: 64 MiB. The lock is held meanwhile.
const PAGES_SEARCHED_MAX: u64 = (64 << 20) / PAGE_SIZE as u64;

/// Ranges of pages that have been backed ahead of their use since memory was last short: first page, and how many. What
/// has become of them since is looked up when it matters.
#[derive(Default)]
pub(super) struct Ahead(VecDeque<(u64, u64)>);

impl Ahead {
    pub(super) fn push(&mut self, page: u64, count: u64) {
        if let Some((last, length)) = self.0.back_mut()
            && *last + *length == page
        {
            *length += count;
            return;
        }
        if self.0.len() == RANGES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((page, count));
    }
}

/// Bytes up to which a new anonymous area is backed at once.
pub(super) fn eager_bytes(frames: &Frames) -> u64 {
    let (used, limit) = (frames.used(Charge::Memory), frames.limit(Charge::Memory));
    if used > limit / 2 {
        return EAGER_BYTES_MIN;
    }
    (u64::from(used) * PAGE_SIZE as u64 / EAGER_SHARE).clamp(EAGER_BYTES_MIN, EAGER_BYTES_MAX)
}

impl Space {
    /// Whether making `[start, end)` accessible as `protection` gives an allocator a chunk to use: memory that could not be
    /// accessed, and all of an area unless it is little. (The stack of a thread is an area less its guard page.)
    pub(super) fn is_chunk_opened(&self, frames: &Frames, start: u64, end: u64, protection: Protection) -> bool {
        let Some((area_start, area)) = self.areas.at(start) else { return false };
        let is_closed = area.is_private()
            && matches!(area.backing, Backing::Anonymous)
            && area.protection.is_empty()
            && protection.contains(Protection::WRITE)
            && end <= area.end;
        let length = end - start;
        let is_whole = area_start == start && area.end == end;
        is_closed && (length <= EAGER_BYTES_MIN || is_whole && length <= eager_bytes(frames))
    }

    /// Frames for pages of this address space, as [`Frames::allocate_run`] gives them. When there are none left, pages that
    /// were backed ahead and never used make room.
    pub(super) fn allocate_run(&mut self, frames: &mut Frames, count: u32) -> Result<FrameRange, Errno> {
        match frames.allocate_run(count, Charge::Memory) {
            Err(Errno::ENOMEM) if self.release_unused(frames) => frames.allocate_run(count, Charge::Memory),
            result => result,
        }
    }

    /// Frees pages that were backed ahead and hold zeros: whether there were any.
    fn release_unused(&mut self, frames: &mut Frames) -> bool {
        let (mut searched, mut is_any) = (0, false);
        while searched < PAGES_SEARCHED_MAX
            && let Some((page, count)) = self.ahead.0.pop_front()
        {
            searched += count;
            for run in self.pages.runs(page, page + count) {
                is_any |= self.release_zeros(frames, run);
            }
        }
        is_any
    }

    /// Frees the pages of zeros in a run, unless they are not the process's own or locked.
    fn release_zeros(&mut self, frames: &mut Frames, run: Run) -> bool {
        let Some((_, area)) = self.areas.at(run.page * PAGE_SIZE as u64) else { return false };
        let is_own = area.is_private() && matches!(area.backing, Backing::Anonymous) && !run.is_borrowed;
        if !is_own || area.is_locked || page_of(area.end) < run.end() {
            return false;
        }
        let area = area.clone();
        let mut is_any = false;
        for part in zeros(frames, run) {
            is_any |= self.release_if_zeros(frames, &area, part);
        }
        is_any
    }

    /// Takes pages away that held zeros a moment ago, and puts those back to which the guest has written meanwhile.
    fn release_if_zeros(&mut self, frames: &mut Frames, area: &Area, run: Run) -> bool {
        let bytes = u64::from(run.frames.count) * PAGE_SIZE as u64;
        self.platform.unmap(run.page * PAGE_SIZE as u64, bytes);
        let removed = self.pages.remove(run.page, run.end());
        let mut unused = Vec::new();
        for (page, frame) in (run.page..).zip(run.frames.iter()) {
            let one = Run { page, frames: FrameRange::one(frame), is_borrowed: false };
            if is_zero(frames, one) {
                unused.push(one);
            } else if self.back(frames, one, area.protection).is_err() {
                // Its tables are there, since it was mapped just now.
                tracing::error!(page, "a page could not be mapped again");
            }
        }
        debug_assert_eq!(removed, [run]);
        release(frames, &unused);
        !unused.is_empty()
    }
}

/// The parts of a run whose pages hold zeros.
fn zeros(frames: &Frames, run: Run) -> Vec<Run> {
    let mut parts: Vec<Run> = Vec::new();
    for (page, frame) in (run.page..).zip(run.frames.iter()) {
        let one = Run { page, frames: FrameRange::one(frame), is_borrowed: false };
        if !is_zero(frames, one) {
            continue;
        }
        match parts.last_mut() {
            Some(last) if last.end() == page => last.frames.count += 1,
            _ => parts.push(one),
        }
    }
    parts
}

/// Whether the first page of a run holds zeros.
fn is_zero(frames: &Frames, run: Run) -> bool {
    let mut content = [0; PAGE_SIZE];
    frames.memory().copy_out(run.frames.first, 0, &mut content);
    content == [0; PAGE_SIZE]
}
