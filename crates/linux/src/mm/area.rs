//! Memory areas: what a process has asked for, whether or not pages stand behind it yet.

use std::collections::BTreeMap;

use calypte_platform::{PAGE_SIZE, Protection};
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::file::Mapping;

/// Most areas of one address space (`vm.max_map_count`'s default).
pub const AREAS_MAX: usize = 65_530;

/// What stays free below an area that grows downwards, so that running over its end does not reach the next one (the
/// default of Linux's `stack_guard_gap`).
pub(super) const GUARD_GAP_BYTES: u64 = 256 * PAGE_SIZE as u64;

/// Where the content of an area's pages comes from.
#[derive(Clone)]
pub(super) enum Backing {
    /// Zeros.
    Anonymous,
    /// A file, from this byte on (a multiple of the page size).
    File { mapping: Mapping, offset: u64 },
    /// Frames of the monitor (vDSO and its data): populated when mapped, never writable by the guest.
    Monitor,
}

/// What a child process gets of an area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum OnFork {
    /// The area with its content.
    Inherit,
    /// Nothing (`MADV_DONTFORK`).
    Omit,
    /// The area, holding zeros (`MADV_WIPEONFORK`).
    Wipe,
}

/// One area; its start is the key in [`Areas`].
#[derive(Clone)]
pub(super) struct Area {
    pub(super) end: u64,
    pub(super) protection: Protection,
    pub(super) is_shared: bool,
    /// Whether a shared file area may be made writable (the file was open for writing).
    pub(super) may_write: bool,
    pub(super) backing: Backing,
    pub(super) on_fork: OnFork,
    /// Whether an access below makes it longer (`MAP_GROWSDOWN`).
    pub(super) grows_down: bool,
    /// Whether `mlock` counts it.
    pub(super) is_locked: bool,
    /// Name shown in `/proc/self/maps` for areas without a file.
    pub(super) name: &'static str,
    /// Where the last fault's population ended, and how many pages it took: a fault there goes on with more.
    pub(super) fault_end: u64,
    pub(super) fault_pages: u64,
}

impl Area {
    /// A private anonymous area.
    pub(super) fn anonymous(end: u64, protection: Protection, name: &'static str) -> Self {
        Self {
            end,
            protection,
            is_shared: false,
            may_write: true,
            backing: Backing::Anonymous,
            on_fork: OnFork::Inherit,
            grows_down: false,
            is_locked: false,
            name,
            fault_end: 0,
            fault_pages: 0,
        }
    }

    /// Whether writes to it are the process's own.
    pub(super) fn is_private(&self) -> bool {
        !self.is_shared && !matches!(self.backing, Backing::Monitor)
    }

    /// Where others may end below it, which starts at `start`: an area that grows keeps its distance.
    fn border(&self, start: u64) -> u64 {
        if self.grows_down { start.saturating_sub(GUARD_GAP_BYTES) } else { start }
    }

    /// The part of it that begins `distance` bytes later.
    fn tail(&self, distance: u64) -> Self {
        let mut tail = self.clone();
        tail.advance(distance);
        tail
    }

    /// Makes it begin `distance` bytes later.
    pub(super) fn advance(&mut self, distance: u64) {
        if let Backing::File { offset, .. } = &mut self.backing {
            *offset += distance;
        }
    }

    /// Whether `next`, which starts where this area ends, is more of the same.
    fn continues_with(&self, next: &Area) -> bool {
        self.protection == next.protection
            && self.is_shared == next.is_shared
            && self.on_fork == next.on_fork
            && self.grows_down == next.grows_down
            && self.is_locked == next.is_locked
            && self.name == next.name
            && matches!((&self.backing, &next.backing), (Backing::Anonymous, Backing::Anonymous))
            && !self.is_shared
    }
}

/// The areas of an address space by start address. They do not overlap.
#[derive(Default, Clone)]
pub(super) struct Areas {
    map: BTreeMap<u64, Area>,
}

impl Areas {
    /// The area that holds `address`, with its start.
    pub(super) fn at(&self, address: u64) -> Option<(u64, &Area)> {
        self.map
            .range(..=address)
            .next_back()
            .filter(|(_, area)| address < area.end)
            .map(|(start, area)| (*start, area))
    }

    /// As [`Areas::at`], to change it. The caller keeps it from overlapping.
    pub(super) fn at_mut(&mut self, address: u64) -> Option<(u64, &mut Area)> {
        self.map
            .range_mut(..=address)
            .next_back()
            .filter(|(_, area)| address < area.end)
            .map(|(start, area)| (*start, area))
    }

    /// All areas in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Area)> {
        self.map.iter().map(|(start, area)| (*start, area))
    }

    /// Parts of areas within `[start, end)`, in order: start, end, area.
    pub(super) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, &Area)> {
        let first = self.at(start).map_or(start, |(first, _)| first);
        self.map.range(first..end.max(first)).map(move |(at, area)| ((*at).max(start), area.end.min(end), area))
    }

    /// Whether areas cover every byte of `[start, end)`.
    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for (from, to, _) in self.within(start, end) {
            if from != at {
                return false;
            }
            at = to;
        }
        at >= end
    }

    /// Whether nothing is in `[start, end)`.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        self.within(start, end).next().is_none()
    }

    /// Adds an area where there is none, as it is.
    pub(super) fn put(&mut self, start: u64, area: Area) {
        debug_assert!(self.is_free(start, area.end));
        self.map.insert(start, area);
    }

    /// As [`Areas::is_free`], keeping the distance to an area that grows downwards.
    pub(super) fn has_room(&self, start: u64, end: u64) -> bool {
        let above = self.map.range(end..).next();
        self.is_free(start, end) && above.is_none_or(|(above, area)| end <= area.border(*above))
    }

    /// The first area that starts above `address`, and the end of the accessible one below it, 0 if there is none.
    pub(super) fn around(&self, address: u64) -> Option<(u64, u64)> {
        let above = self.map.range(address..).next().map(|(start, _)| *start)?;
        let below = self.map.range(..address).next_back();
        let below = below.filter(|(_, area)| !area.protection.is_empty() && !area.grows_down);
        Some((above, below.map_or(0, |(_, area)| area.end)))
    }

    /// Gives an area a lower start.
    pub(super) fn extend_down(&mut self, start: u64, new_start: u64) {
        let area = self.map.remove(&start).expect("the caller has found it");
        self.map.insert(new_start, area);
    }

    /// Adds an area where there is none, joining it with neighbours of the same kind.
    pub(super) fn insert(&mut self, start: u64, area: Area) -> Result<(), Errno> {
        debug_assert!(self.is_free(start, area.end));
        if let Some((before_start, before)) = start.checked_sub(1).and_then(|last| self.at(last))
            && before.end == start
            && before.continues_with(&area)
        {
            self.map.get_mut(&before_start).expect("just found").end = area.end;
            self.join(area.end, area.end);
            return Ok(());
        }
        if self.map.len() >= AREAS_MAX {
            return Err(Errno::ENOMEM);
        }
        let end = area.end;
        self.map.insert(start, area);
        self.join(end, end);
        Ok(())
    }

    /// Makes `address` a border if it lies inside an area.
    pub(super) fn split(&mut self, address: u64) -> Result<(), Errno> {
        let length = self.map.len();
        let Some((start, area)) = self.at_mut(address) else { return Ok(()) };
        if start == address {
            return Ok(());
        }
        if length >= AREAS_MAX {
            return Err(Errno::ENOMEM);
        }
        let tail = area.tail(address - start);
        area.end = address;
        self.map.insert(address, tail);
        Ok(())
    }

    /// Takes everything in `[start, end)` out; the parts with their starts.
    pub(super) fn take(&mut self, start: u64, end: u64) -> Result<Vec<(u64, Area)>, Errno> {
        self.split(start)?;
        self.split(end)?;
        let keys: Vec<u64> = self.map.range(start..end).map(|(key, _)| *key).collect();
        Ok(keys.into_iter().map(|key| (key, self.map.remove(&key).expect("just found"))).collect())
    }

    /// Changes every area in `[start, end)`.
    pub(super) fn change(&mut self, start: u64, end: u64, change: impl Fn(&mut Area)) -> Result<(), Errno> {
        self.split(start)?;
        self.split(end)?;
        for (_, area) in self.map.range_mut(start..end) {
            change(area);
        }
        self.join(start, end);
        Ok(())
    }

    /// Joins neighbours of the same kind at the borders from `start` to `end`, so that repeated changes of small parts do
    /// not leave as many areas behind.
    fn join(&mut self, start: u64, end: u64) {
        let first = start.checked_sub(1).and_then(|last| self.at(last)).map_or(start, |(first, _)| first);
        let keys: Vec<u64> = self.map.range(first..=end).map(|(key, _)| *key).collect();
        let mut last = None::<u64>;
        for key in keys {
            if let Some(before_key) = last {
                let (before, area) = (&self.map[&before_key], &self.map[&key]);
                if before.end == key && before.continues_with(area) {
                    let end = area.end;
                    self.map.remove(&key);
                    self.map.get_mut(&before_key).expect("kept").end = end;
                    continue;
                }
            }
            last = Some(key);
        }
    }

    /// The highest free range of `length` bytes below `top` and not below `bottom`.
    pub(super) fn find_gap(&self, length: u64, bottom: u64, top: u64) -> Option<u64> {
        let mut gap_end = top;
        for (start, area) in self.map.range(..top).rev() {
            if area.end < gap_end && gap_end - area.end >= length {
                break;
            }
            gap_end = gap_end.min(area.border(*start));
        }
        let start = gap_end.checked_sub(length)?;
        (start >= bottom).then_some(start)
    }
}

/// Rounds up to a page border. `None` on overflow.
pub(super) fn page_up(value: u64) -> Option<u64> {
    value.checked_next_multiple_of(PAGE_SIZE as u64)
}

/// Whether a value is a multiple of the page size.
pub(super) fn is_page_aligned(value: u64) -> bool {
    value.is_multiple_of(PAGE_SIZE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(end: u64, protection: Protection) -> Area {
        Area::anonymous(end, protection, "")
    }

    #[test]
    fn changing_a_part_and_back_leaves_one_area() {
        let mut areas = Areas::default();
        areas.insert(0x10000, area(0x20000, Protection::READ)).unwrap();
        areas.change(0x12000, 0x13000, |area| area.protection = Protection::empty()).unwrap();
        assert_eq!(areas.map.len(), 3);
        assert!(areas.covers(0x10000, 0x20000));
        areas.change(0x12000, 0x13000, |area| area.protection = Protection::READ).unwrap();
        assert_eq!(areas.map.len(), 1);
    }

    #[test]
    fn gaps_are_found_from_the_top() {
        let mut areas = Areas::default();
        areas.insert(0x50000, area(0x60000, Protection::READ)).unwrap();
        areas.insert(0x61000, area(0x70000, Protection::READ)).unwrap();
        let cases = [
            (0x1000, 0x70000, Some(0x60000)),
            (0x2000, 0x70000, Some(0x4e000)),
            (0x1000, 0x80000, Some(0x7f000)),
            (0x60000, 0x70000, None),
            (0x40000, 0x58000, Some(0x10000)),
            (0x41000, 0x58000, None),
        ];
        for (length, top, expected) in cases {
            assert_eq!(areas.find_gap(length, 0x10000, top), expected, "{length:#x} below {top:#x}");
        }
    }

    #[test]
    fn taking_a_part_keeps_the_rest() {
        let mut areas = Areas::default();
        areas.insert(0x1000, area(0x9000, Protection::READ)).unwrap();
        let taken = areas.take(0x3000, 0x5000).unwrap();
        assert_eq!(taken.iter().map(|(start, area)| (*start, area.end)).collect::<Vec<_>>(), [(0x3000, 0x5000)]);
        assert!(!areas.covers(0x1000, 0x9000) && areas.covers(0x5000, 0x9000) && areas.is_free(0x3000, 0x5000));
    }
}
