//! What is mapped where in an address space: the truth that stubs are made to follow. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use calypte_platform::{Frame, FrameRange, Protection};

use crate::layout::PAGE;

/// Consecutive pages on consecutive frames with one protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Address of the first page.
    pub(crate) address: u64,
    /// Its frames.
    pub(crate) frames: FrameRange,
    /// What user code may do.
    pub(crate) protection: Protection,
}

impl Run {
    /// One past its last address.
    pub(crate) fn end(&self) -> u64 {
        self.address + u64::from(self.frames.count) * PAGE
    }

    /// The part of it inside `range`, which it meets.
    fn clipped(&self, range: &Range<u64>) -> Self {
        let start = self.address.max(range.start);
        let skipped = ((start - self.address) / PAGE) as u32;
        let count = ((self.end().min(range.end) - start) / PAGE) as u32;
        Self {
            address: start,
            frames: FrameRange { first: Frame(self.frames.first.0 + skipped), count },
            protection: self.protection,
        }
    }

    /// Whether `next` continues this run.
    fn is_continued_by(&self, next: &Self) -> bool {
        self.end() == next.address
            && u64::from(self.frames.first.0) + u64::from(self.frames.count) == u64::from(next.frames.first.0)
            && self.protection == next.protection
    }
}

/// Runs by address; they do not overlap.
#[derive(Debug, Default)]
pub(crate) struct Record(BTreeMap<u64, Run>);

impl Record {
    /// The runs that meet a range, cut to it, in order.
    pub(crate) fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Run> {
        let first = self.0.range(..range.start).next_back().map_or(range.start, |(&address, _)| address);
        let runs = self.0.range(first..range.end.max(first)).map(|(_, run)| run);
        runs.filter(move |run| run.end() > range.start).map(move |run| run.clipped(&range))
    }

    /// The run that covers an address, in full.
    pub(crate) fn at(&self, address: u64) -> Option<Run> {
        self.0.range(..=address).next_back().map(|(_, run)| *run).filter(|run| run.end() > address)
    }

    /// Adds a run, which is not empty. Panics if any of its pages is mapped already.
    pub(crate) fn insert(&mut self, run: Run) {
        if let Some(other) = self.runs(run.address..run.end()).next() {
            panic!("the page at {:#x} is mapped already", other.address);
        }
        self.join(run);
    }

    /// Removes whatever is in a range.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        self.split(range.start);
        self.split(range.end);
        let addresses: Vec<u64> = self.0.range(range).map(|(&address, _)| address).collect();
        for address in addresses {
            self.0.remove(&address);
        }
    }

    /// Changes the protection of whatever is in a range.
    pub(crate) fn protect(&mut self, range: Range<u64>, protection: Protection) {
        let runs: Vec<Run> = self.runs(range.clone()).collect();
        self.remove(range);
        for run in runs {
            self.join(Run { protection, ..run });
        }
    }

    /// Adds a run to free addresses, as one with the neighbours that it continues.
    fn join(&mut self, mut run: Run) {
        if let Some((_, before)) = self.0.range(..run.address).next_back()
            && before.is_continued_by(&run)
        {
            run = Run {
                frames: FrameRange { count: before.frames.count + run.frames.count, ..before.frames },
                ..*before
            };
        }
        if let Some(after) = self.0.get(&run.end()).copied()
            && run.is_continued_by(&after)
        {
            self.0.remove(&after.address);
            run.frames.count += after.frames.count;
        }
        self.0.insert(run.address, run);
    }

    /// Makes an address a border between runs.
    fn split(&mut self, address: u64) {
        let Some(run) = self.at(address).filter(|run| run.address < address) else { return };
        self.0.insert(run.address, run.clipped(&(run.address..address)));
        self.0.insert(address, run.clipped(&(address..run.end())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Protection = Protection::READ;
    const WRITE: Protection = Protection::READ.union(Protection::WRITE);

    fn run(page: u64, first: u32, count: u32, protection: Protection) -> Run {
        Run { address: page * PAGE, frames: FrameRange { first: Frame(first), count }, protection }
    }

    fn all(record: &Record) -> Vec<(u64, u32, u32, Protection)> {
        record
            .runs(0..1 << 40)
            .map(|run| (run.address / PAGE, run.frames.first.0, run.frames.count, run.protection))
            .collect()
    }

    #[test]
    fn neighbours_on_neighbouring_frames_are_one_run() {
        let mut record = Record::default();
        record.insert(run(10, 100, 2, WRITE));
        record.insert(run(14, 104, 2, WRITE));
        record.insert(run(12, 102, 2, WRITE));
        record.insert(run(16, 106, 1, READ));
        record.insert(run(17, 300, 1, READ));
        assert_eq!(all(&record), [(10, 100, 6, WRITE), (16, 106, 1, READ), (17, 300, 1, READ)]);
    }

    #[test]
    fn changes_cut_runs() {
        let mut record = Record::default();
        record.insert(run(10, 100, 10, WRITE));
        record.protect(12 * PAGE..14 * PAGE, READ);
        record.remove(18 * PAGE..40 * PAGE);
        record.remove(0..10 * PAGE);
        assert_eq!(all(&record), [(10, 100, 2, WRITE), (12, 102, 2, READ), (14, 104, 4, WRITE)]);
        let inside: Vec<Run> = record.runs(11 * PAGE..13 * PAGE).collect();
        assert_eq!(inside, [run(11, 101, 1, WRITE), run(12, 102, 1, READ)]);
        assert_eq!(record.at(13 * PAGE + 5), Some(run(12, 102, 2, READ)));
        assert_eq!(record.at(18 * PAGE), None);
        record.protect(0..1 << 40, WRITE);
        assert_eq!(all(&record), [(10, 100, 8, WRITE)]);
        record.remove(0..1 << 40);
        assert_eq!(all(&record), []);
    }

    #[test]
    #[should_panic(expected = "the page at 0xc000 is mapped already")]
    fn a_page_is_mapped_once() {
        let mut record = Record::default();
        record.insert(run(12, 0, 1, READ));
        record.insert(run(10, 1, 3, READ));
    }
}
