//! Which frame stands behind which page of an address space.

use std::collections::BTreeMap;

use calypte_platform::{Frame, FrameRange};

/// Pages per chunk of the record: as many as one x86 page table covers.
const CHUNK_PAGES: u64 = 512;
const ABSENT: u32 = u32::MAX;
/// Set in the record of a page whose frame is only borrowed. Frame numbers are below it.
const BORROWED: u32 = 1 << 31;

struct Chunk {
    frames: Box<[u32; CHUNK_PAGES as usize]>,
    used: u16,
}

/// The monitor's own record of an address space's pages. Page numbers are addresses divided by the page size. Cheap for
/// huge reservations: only chunks that hold a page exist.
#[derive(Default)]
pub(super) struct Pages {
    chunks: BTreeMap<u64, Chunk>,
    count: u64,
}

/// What stands behind one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backed {
    pub(super) frame: Frame,
    /// Others may see the frame's content as their own: it must not be written for this page, but copied first.
    pub(super) is_borrowed: bool,
}

impl Backed {
    fn of(record: u32) -> Option<Self> {
        (record != ABSENT).then_some(Self { frame: Frame(record & !BORROWED), is_borrowed: record & BORROWED != 0 })
    }
}

/// Consecutive pages backed by consecutive frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) page: u64,
    pub(super) frames: FrameRange,
    /// See [`Backed::is_borrowed`].
    pub(super) is_borrowed: bool,
}

impl Run {
    /// One past its last page.
    pub(super) fn end(&self) -> u64 {
        self.page + u64::from(self.frames.count)
    }
}

impl Pages {
    pub(super) fn get(&self, page: u64) -> Option<Backed> {
        Backed::of(self.chunks.get(&(page / CHUNK_PAGES))?.frames[(page % CHUNK_PAGES) as usize])
    }

    /// Records `frames` behind the absent pages from `page` on.
    pub(super) fn insert(&mut self, page: u64, frames: FrameRange, is_borrowed: bool) {
        let mark = if is_borrowed { BORROWED } else { 0 };
        for (page, frame) in (page..).zip(frames.iter()) {
            let chunk = self
                .chunks
                .entry(page / CHUNK_PAGES)
                .or_insert_with(|| Chunk { frames: Box::new([ABSENT; CHUNK_PAGES as usize]), used: 0 });
            let slot = &mut chunk.frames[(page % CHUNK_PAGES) as usize];
            debug_assert_eq!(*slot, ABSENT, "page {page:#x} is backed already");
            *slot = frame.0 | mark;
            chunk.used += 1;
        }
        self.count += u64::from(frames.count);
    }

    /// Forgets the pages of `[first, end)` and gives what stood behind them, in order, in runs.
    pub(super) fn remove(&mut self, first: u64, end: u64) -> Vec<Run> {
        let mut runs = Runs::default();
        let keys: Vec<u64> =
            self.chunks.range(first / CHUNK_PAGES..end.div_ceil(CHUNK_PAGES)).map(|(key, _)| *key).collect();
        for key in keys {
            let chunk = self.chunks.get_mut(&key).expect("the key was just found");
            for page in first.max(key * CHUNK_PAGES)..end.min((key + 1) * CHUNK_PAGES) {
                let slot = &mut chunk.frames[(page % CHUNK_PAGES) as usize];
                if let Some(backed) = Backed::of(*slot) {
                    runs.push(page, backed);
                    *slot = ABSENT;
                    chunk.used -= 1;
                    self.count -= 1;
                }
            }
            if chunk.used == 0 {
                self.chunks.remove(&key);
            }
        }
        runs.0
    }

    /// What stands behind the pages of `[first, end)`, in order, in runs.
    pub(super) fn runs(&self, first: u64, end: u64) -> Vec<Run> {
        let mut runs = Runs::default();
        for (key, chunk) in self.chunks.range(first / CHUNK_PAGES..end.div_ceil(CHUNK_PAGES)) {
            for page in first.max(key * CHUNK_PAGES)..end.min((key + 1) * CHUNK_PAGES) {
                if let Some(backed) = Backed::of(chunk.frames[(page % CHUNK_PAGES) as usize]) {
                    runs.push(page, backed);
                }
            }
        }
        runs.0
    }

    /// Marks the backed pages of `[first, end)` as borrowed or not.
    pub(super) fn set_borrowed(&mut self, first: u64, end: u64, is_borrowed: bool) {
        for (key, chunk) in self.chunks.range_mut(first / CHUNK_PAGES..end.div_ceil(CHUNK_PAGES)) {
            for page in first.max(key * CHUNK_PAGES)..end.min((key + 1) * CHUNK_PAGES) {
                let record = &mut chunk.frames[(page % CHUNK_PAGES) as usize];
                if *record != ABSENT {
                    *record = if is_borrowed { *record | BORROWED } else { *record & !BORROWED };
                }
            }
        }
    }

    /// The number of absent pages from `page` on, at most up to `end`.
    pub(super) fn absent_from(&self, page: u64, end: u64) -> u64 {
        (page..end).take_while(|page| self.get(*page).is_none()).count() as u64
    }

    /// The number of pages from `page` on, at most up to `end`, that consecutive frames stand behind; for a write none
    /// that is borrowed.
    pub(super) fn consecutive(&self, page: u64, end: u64, is_write: bool) -> u64 {
        let Some(Backed { frame: first, .. }) = self.get(page) else { return 0 };
        let is_next = |(record, number): (&u32, u32)| {
            let fits = |backed: Backed| backed.frame.0 == number && !(is_write && backed.is_borrowed);
            Backed::of(*record).is_some_and(fits)
        };
        let mut next = page;
        while next < end
            && let Some(chunk) = self.chunks.get(&(next / CHUNK_PAGES))
        {
            let start = next % CHUNK_PAGES;
            let records = &chunk.frames[start as usize..(start + (end - next)).min(CHUNK_PAGES) as usize];
            let numbers = first.0 + (next - page) as u32..;
            let count = records.iter().zip(numbers).take_while(|pair| is_next(*pair)).count();
            next += count as u64;
            if count < records.len() {
                break;
            }
        }
        next - page
    }

    /// How many pages are backed.
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

#[derive(Default)]
struct Runs(Vec<Run>);

impl Runs {
    fn push(&mut self, page: u64, backed: Backed) {
        let Backed { frame, is_borrowed } = backed;
        if let Some(last) = self.0.last_mut()
            && last.end() == page
            && last.frames.first.0 + last.frames.count == frame.0
            && last.is_borrowed == is_borrowed
        {
            last.frames.count += 1;
            return;
        }
        self.0.push(Run { page, frames: FrameRange::one(frame), is_borrowed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_in_runs_across_chunks() {
        let mut pages = Pages::default();
        let run = |page, first, count, is_borrowed| Run {
            page,
            frames: FrameRange { first: Frame(first), count },
            is_borrowed,
        };
        pages.insert(510, FrameRange { first: Frame(7), count: 4 }, false);
        pages.insert(1 << 30, FrameRange::one(Frame(100)), true);
        assert_eq!(pages.get(513), Some(Backed { frame: Frame(10), is_borrowed: false }));
        assert_eq!(pages.get(1 << 30), Some(Backed { frame: Frame(100), is_borrowed: true }));
        assert_eq!(pages.absent_from(500, 600), 10);
        assert_eq!(pages.runs(0, 512), [run(510, 7, 2, false)]);
        let lengths = |page, end| (pages.consecutive(page, end, false), pages.consecutive(page, end, true));
        assert_eq!([lengths(510, 600), lengths(511, 513), lengths(500, 600)], [(4, 4), (2, 2), (0, 0)]);
        assert_eq!(lengths(1 << 30, u64::MAX / 4096), (1, 0));
        pages.set_borrowed(511, 513, true);
        assert_eq!(pages.runs(0, 600), [run(510, 7, 1, false), run(511, 8, 2, true), run(513, 10, 1, false)]);
        let lengths = |page| (pages.consecutive(page, 600, false), pages.consecutive(page, 600, true));
        assert_eq!([lengths(510), lengths(511), lengths(513)], [(4, 1), (3, 0), (1, 1)]);
        assert_eq!(pages.remove(511, 513), [run(511, 8, 2, true)]);
        pages.insert(511, FrameRange::one(Frame(9)), false);
        assert_eq!(pages.consecutive(510, 600, false), 1);
        pages.remove(511, 512);
        assert_eq!(pages.remove(0, u64::MAX / 4096).len(), 3);
        assert_eq!((pages.count(), pages.chunks.len()), (0, 0));
    }
}
