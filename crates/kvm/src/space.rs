//! Address spaces: page tables that the guest's processor walks, with our own record of what they say.
//!
//! The tables in guest memory are written and never read: the record beside each of them is the truth. Accessed and
//! dirty bits are set in advance, so that walks do not write to tables either.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use calypte_platform::{AddressSpace, Frame, FrameRange, PlatformError, Protection, SpaceToken};

use crate::arena::{TableArena, TablePage};
use crate::layout::{FRAMES_BASE, PAGE, SYSTEM_END, USER_END};
use crate::memory::Frames;
use crate::quiesce::VcpuSet;
use crate::system_pages;

/// Bits of page-table entries (AMD64 Architecture Programmer's Manual, volume 2, section 5.4).
pub(crate) mod entry {
    /// The entry translates.
    pub(crate) const PRESENT: u64 = 1;
    /// Writes are allowed.
    pub(crate) const WRITE: u64 = 1 << 1;
    /// User code may use it.
    pub(crate) const USER: u64 = 1 << 2;
    /// Accessed and dirty, so that the processor has nothing to write back.
    pub(crate) const USED: u64 = 1 << 5 | 1 << 6;
    /// No instruction fetches.
    pub(crate) const NO_EXECUTE: u64 = 1 << 63;
    /// The guest-physical address.
    pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// Entries of one table.
const ENTRIES: usize = 512;
/// Level of the root; leaves are at level 1.
const ROOT_LEVEL: u32 = 4;
/// Runs of frames to flush are joined over gaps up to this size: to flush a few frames too many costs less than
/// another pair of system calls.
const FLUSH_GAP_FRAMES: u32 = 4;
/// Most runs flushed one by one. With more of them gaps are wider: at some tens of microseconds each, scattered frames of
/// a large process would take longer than to have all of it translated anew.
const FLUSH_RUNS_MAX: usize = 64;

/// One table and the record of its content.
struct Table {
    page: TablePage,
    /// In leaf tables the entry, also when its protection is empty and the guest's copy is zero. In others one more
    /// than the index of the table below. Zero: nothing.
    record: Box<[u64; ENTRIES]>,
}

/// An address space of a [`crate::machine::KvmMachine`].
pub(crate) struct KvmAddressSpace {
    arena: Arc<TableArena>,
    frames: Arc<Frames>,
    vcpus: Arc<VcpuSet>,
    /// The root first. Those at the places of `unused` are nobody's.
    tables: Vec<Table>,
    unused: Vec<usize>,
}

impl KvmAddressSpace {
    /// An address space with the system pages in it.
    pub(crate) fn new(arena: Arc<TableArena>, frames: Arc<Frames>, vcpus: Arc<VcpuSet>) -> Result<Self, PlatformError> {
        let mut space = Self { arena, frames, vcpus, tables: Vec::new(), unused: Vec::new() };
        space.add_table()?;
        let table = space.ensure_leaf_table(0)?;
        for (address, flags) in system_pages::mappings() {
            space.set_leaf(table, slot(address, 1), address | flags);
        }
        Ok(space)
    }

    fn add_table(&mut self) -> Result<usize, PlatformError> {
        let table = Table { page: self.arena.allocate()?, record: Box::new([0; ENTRIES]) };
        if let Some(place) = self.unused.pop() {
            self.tables[place] = table;
            return Ok(place);
        }
        self.tables.push(table);
        Ok(self.tables.len() - 1)
    }

    /// Makes the leaf tables of a range. Tables that say nothing any more are kept until there is no room for others: a
    /// program that unmaps something often maps something at the same place.
    fn ensure_leaf_tables(&mut self, range: &Range<u64>) -> Result<(), PlatformError> {
        let ensure = |space: &mut Self| {
            let mut region = range.start;
            while region < range.end {
                space.ensure_leaf_table(region)?;
                region = next_boundary(region, 2);
            }
            Ok(())
        };
        match ensure(self) {
            Err(PlatformError::OutOfTables) if self.reclaim_tables() => ensure(self),
            result => result,
        }
    }

    /// Gives the arena the tables that say nothing; whether there were any.
    fn reclaim_tables(&mut self) -> bool {
        let mut empty = Vec::new();
        self.unlink_empty(0, ROOT_LEVEL, &mut empty);
        if empty.is_empty() {
            return false;
        }
        // A virtual CPU that is just now walking through such a table must be done with it.
        self.vcpus.interrupt_and_wait();
        self.arena.free(empty.iter().map(|&table| self.tables[table].page).collect());
        self.unused.append(&mut empty);
        true
    }

    /// Unlinks the tables below one that say nothing, and tells whether it says nothing itself then.
    fn unlink_empty(&mut self, table: usize, level: u32, empty: &mut Vec<usize>) -> bool {
        if level == 1 {
            return self.tables[table].record.iter().all(|entry| *entry == 0);
        }
        let mut is_empty = true;
        for slot in 0..ENTRIES {
            let below = match self.tables[table].record[slot] {
                0 => continue,
                below => below as usize - 1,
            };
            if self.unlink_empty(below, level - 1, empty) {
                self.tables[table].record[slot] = 0;
                self.arena.entry(self.tables[table].page, slot).store(0, Ordering::Release);
                empty.push(below);
            } else {
                is_empty = false;
            }
        }
        is_empty
    }

    /// The leaf table of an address, or the level of the first missing entry on the way.
    fn leaf_table(&self, address: u64) -> Result<usize, u32> {
        let mut table = 0;
        for level in (2..=ROOT_LEVEL).rev() {
            table = match self.tables[table].record[slot(address, level)] {
                0 => return Err(level),
                below => below as usize - 1,
            };
        }
        Ok(table)
    }

    fn ensure_leaf_table(&mut self, address: u64) -> Result<usize, PlatformError> {
        let mut table = 0;
        for level in (2..=ROOT_LEVEL).rev() {
            let slot = slot(address, level);
            table = match self.tables[table].record[slot] {
                0 => {
                    let below = self.add_table()?;
                    self.tables[table].record[slot] = below as u64 + 1;
                    let flags = entry::PRESENT | entry::WRITE | entry::USER | entry::USED;
                    let value = self.tables[below].page.guest_physical() | flags;
                    self.arena.entry(self.tables[table].page, slot).store(value, Ordering::Release);
                    below
                }
                below => below as usize - 1,
            };
        }
        Ok(table)
    }

    /// Records a leaf entry and shows it to the guest's processor, as zero when it does not translate: processors have
    /// speculated on addresses in such entries.
    fn set_leaf(&mut self, table: usize, slot: usize, value: u64) {
        let Table { page, record } = &mut self.tables[table];
        record[slot] = value;
        let visible = if value & entry::PRESENT == 0 { 0 } else { value };
        self.arena.entry(*page, slot).store(visible, Ordering::Release);
    }

    /// Replaces every mapped entry of a range by `change` of it. The frames of translations that allowed more before than
    /// now are added to `stale`. (Where more is allowed than before, the processor finds out by itself: a fault makes it,
    /// and KVM, look again, and at worst reaches the monitor, which has it repeated.)
    fn update(&mut self, range: Range<u64>, stale: &mut FrameRuns, change: impl Fn(u64) -> u64) {
        let mut address = range.start;
        while address < range.end {
            let table = match self.leaf_table(address) {
                Ok(table) => table,
                Err(level) => {
                    address = next_boundary(address, level);
                    continue;
                }
            };
            let end = next_boundary(address, 2).min(range.end);
            while address < end {
                let slot = slot(address, 1);
                let old = self.tables[table].record[slot];
                let new = if old == 0 { 0 } else { change(old) };
                if new != old {
                    self.set_leaf(table, slot, new);
                    if allows_less(old, new) {
                        stale.push(frame_of(old));
                    }
                }
                address += PAGE;
            }
        }
    }

    fn flush(&self, stale: FrameRuns) {
        if stale.0.is_empty() {
            return;
        }
        // A virtual CPU that is just now turning an old entry into a translation must be done with it before the flush.
        self.vcpus.interrupt_and_wait();
        for run in stale.join() {
            self.frames.flush_translations(run);
        }
    }
}

impl AddressSpace for KvmAddressSpace {
    fn token(&self) -> SpaceToken {
        SpaceToken(self.tables[0].page.guest_physical())
    }

    fn map(&mut self, address: u64, frames: FrameRange, protection: Protection) -> Result<(), PlatformError> {
        let range = checked_range(address, u64::from(frames.count) * PAGE);
        self.frames.check(frames);
        // All tables first, so that a failure leaves the mappings as they were.
        self.ensure_leaf_tables(&range)?;
        let mut frame_iter = frames.iter();
        let mut page = range.start;
        while page < range.end {
            let table = self.leaf_table(page).expect("its table was made above");
            let end = next_boundary(page, 2).min(range.end);
            while page < end {
                let slot = slot(page, 1);
                assert_eq!(self.tables[table].record[slot], 0, "the page at {page:#x} is mapped already");
                let frame = frame_iter.next().expect("as many frames as pages");
                self.set_leaf(table, slot, leaf_entry(frame, protection));
                page += PAGE;
            }
        }
        Ok(())
    }

    fn unmap(&mut self, address: u64, length: u64) {
        let mut stale = FrameRuns::default();
        self.update(checked_range(address, length), &mut stale, |_| 0);
        self.flush(stale);
    }

    fn protect(&mut self, address: u64, length: u64, protection: Protection) {
        self.protect_all(&[(address, length, protection)]);
    }

    fn protect_all(&mut self, ranges: &[(u64, u64, Protection)]) {
        let mut stale = FrameRuns::default();
        for &(address, length, protection) in ranges {
            let range = checked_range(address, length);
            self.update(range, &mut stale, |old| leaf_entry(frame_of(old), protection));
        }
        self.flush(stale);
    }
}

impl Drop for KvmAddressSpace {
    /// Frees the tables. Translations need no flush: nothing enters this root again, and its pages are not used for other
    /// tables before KVM has forgotten them.
    fn drop(&mut self) {
        self.unused.sort_unstable();
        let is_used = |place: &usize| self.unused.binary_search(place).is_err();
        self.arena.free((0..self.tables.len()).filter(is_used).map(|place| self.tables[place].page).collect());
    }
}

/// Frames whose translations are out of date.
#[derive(Default)]
struct FrameRuns(Vec<FrameRange>);

impl FrameRuns {
    fn push(&mut self, frame: Frame) {
        match self.0.last_mut() {
            Some(run) if run.first.0 + run.count == frame.0 => run.count += 1,
            _ => self.0.push(FrameRange::one(frame)),
        }
    }

    /// The runs in order, joined over small gaps, and over larger ones if there are too many.
    fn join(mut self) -> Vec<FrameRange> {
        self.0.sort_unstable_by_key(|run| run.first);
        let mut gap = FLUSH_GAP_FRAMES;
        let mut joined = join_over(self.0, gap);
        while joined.len() > FLUSH_RUNS_MAX {
            gap = gap.saturating_mul(4);
            joined = join_over(joined, gap);
        }
        joined
    }
}

/// Joins runs, given in order, over gaps of up to `gap` frames.
fn join_over(runs: Vec<FrameRange>, gap: u32) -> Vec<FrameRange> {
    let mut joined: Vec<FrameRange> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last) if run.first.0 <= (last.first.0 + last.count).saturating_add(gap) => {
                last.count = last.count.max(run.first.0 + run.count - last.first.0);
            }
            _ => joined.push(run),
        }
    }
    joined
}

/// The entry number of an address in its table of a level.
fn slot(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * (level - 1))) as usize % ENTRIES
}

/// The first address after `address` that another entry of `level` translates.
fn next_boundary(address: u64, level: u32) -> u64 {
    let span = PAGE << (9 * (level - 1));
    (address / span + 1) * span
}

fn leaf_entry(frame: Frame, protection: Protection) -> u64 {
    let mut value = FRAMES_BASE + u64::from(frame.0) * PAGE;
    if !protection.is_empty() {
        value |= entry::PRESENT | entry::USER | entry::USED;
    }
    if protection.contains(Protection::WRITE) {
        value |= entry::WRITE;
    }
    if !protection.contains(Protection::EXECUTE) {
        value |= entry::NO_EXECUTE;
    }
    value
}

/// Whether a translation made from `old` may do what one made from `new` must not.
fn allows_less(old: u64, new: u64) -> bool {
    let is_other = (old ^ new) & entry::ADDRESS != 0;
    let lost = old & !new & (entry::PRESENT | entry::WRITE) != 0 || new & !old & entry::NO_EXECUTE != 0;
    old & entry::PRESENT != 0 && (is_other || lost)
}

fn frame_of(value: u64) -> Frame {
    Frame((((value & entry::ADDRESS) - FRAMES_BASE) / PAGE) as u32)
}

/// The range of a request; panics when the caller let something through that guest mappings may not be.
fn checked_range(address: u64, length: u64) -> Range<u64> {
    assert!(address.is_multiple_of(PAGE) && length.is_multiple_of(PAGE), "{length:#x} at {address:#x} is not pages");
    let end = address.checked_add(length).filter(|&end| end <= USER_END && address >= SYSTEM_END);
    address..end.unwrap_or_else(|| panic!("{length:#x} at {address:#x} is outside guest mappings"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_over_small_gaps_only() {
        let check = |frames: &[u32], expected: &[(u32, u32)]| {
            let mut runs = FrameRuns::default();
            frames.iter().for_each(|&frame| runs.push(Frame(frame)));
            let joined: Vec<_> = runs.join().iter().map(|run| (run.first.0, run.count)).collect();
            assert_eq!(joined, expected, "{frames:?}");
        };
        check(&[], &[]);
        check(&[7], &[(7, 1)]);
        check(&[1, 2, 3], &[(1, 3)]);
        check(&[3, 2, 1], &[(1, 3)]);
        check(&[10, 1, 10], &[(1, 1), (10, 1)]);
        check(&[1, 6], &[(1, 6)]);
        check(&[1, 7], &[(1, 1), (7, 1)]);
    }

    #[test]
    fn many_runs_are_joined_until_few_are_left() {
        let mut runs = FrameRuns::default();
        (0..1000).for_each(|run| runs.push(Frame(run * 100)));
        let joined = runs.join();
        assert!(joined.len() <= FLUSH_RUNS_MAX);
        assert_eq!(joined.iter().map(|run| run.count).max(), Some(99_901));
    }

    #[test]
    fn only_what_is_taken_away_needs_a_flush() {
        let (read, write) = (Protection::READ, Protection::READ | Protection::WRITE);
        let execute = Protection::READ | Protection::EXECUTE;
        let check = |old, new, expected| {
            assert_eq!(allows_less(leaf_entry(Frame(1), old), leaf_entry(Frame(1), new)), expected, "{old:?} {new:?}");
        };
        check(read, write, false);
        check(read, execute, false);
        check(Protection::empty(), write, false);
        check(write, read, true);
        check(execute, read, true);
        check(read, Protection::empty(), true);
        assert!(allows_less(leaf_entry(Frame(1), read), leaf_entry(Frame(2), read)));
    }

    #[test]
    fn entries_keep_frame_and_protection() {
        for frame in [Frame(0), Frame(1), Frame(u32::MAX)] {
            assert_eq!(frame_of(leaf_entry(frame, Protection::empty())), frame);
            assert_eq!(frame_of(leaf_entry(frame, Protection::all())), frame);
        }
        let none = leaf_entry(Frame(0), Protection::empty());
        assert!(none != 0 && none & entry::PRESENT == 0);
        let text = leaf_entry(Frame(0), Protection::READ | Protection::EXECUTE);
        assert_eq!(text & (entry::PRESENT | entry::WRITE | entry::NO_EXECUTE), entry::PRESENT);
    }

    #[test]
    fn boundaries() {
        assert_eq!(next_boundary(0, 1), 0x1000);
        assert_eq!(next_boundary(0x1f_f000, 2), 0x20_0000);
        assert_eq!(next_boundary(0x20_0000, 2), 0x40_0000);
        assert_eq!(next_boundary(5 << 39, 4), 6 << 39);
    }
}
