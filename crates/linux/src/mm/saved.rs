//! Memory of processes as it is saved: areas, and which frames stand behind which pages.

use std::collections::BTreeMap;

use calypte_platform::{Frame, FrameRange, Machine, PAGE_SIZE, Protection};
use serde::{Deserialize, Serialize};

use super::area::{AREAS_MAX, Area, Areas, Backing, OnFork};
use super::pages::Run;
use super::{AddressSpaces, Layout, Space, SpaceId, page_of};
use crate::file::mapping::saved::SavedMapping;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// Pages in use of a group that becomes accessible at one fault, from which on it is worth copying all of it though the
/// program only reads there.
const GROUP_READ_MIN: usize = 4;
/// Names of areas without a file: they are not data of the guest's.
const NAMES: [&str; 5] = ["", "[heap]", "[stack]", "[vvar]", "[vdso]"];

/// The [`AddressSpaces`] of a guest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedSpaces {
    spaces: Vec<(SpaceId, SavedSpace)>,
    last_id: u32,
}

/// A [`Space`].
#[derive(Debug, Serialize, Deserialize)]
struct SavedSpace {
    users: u32,
    areas: Vec<(u64, SavedArea)>,
    pages: Vec<SavedRun>,
    layout: Layout,
}

/// A [`Run`]: first page, first frame, how many, and whether the frames are borrowed.
#[derive(Debug, Serialize, Deserialize)]
struct SavedRun(u64, u32, u32, bool);

/// An [`Area`].
#[derive(Debug, Serialize, Deserialize)]
struct SavedArea {
    end: u64,
    protection: u8,
    is_shared: bool,
    may_write: bool,
    backing: SavedBacking,
    on_fork: OnFork,
    grows_down: bool,
    is_locked: bool,
    name: String,
    fault_end: u64,
    fault_pages: u64,
}

/// A [`Backing`].
#[derive(Debug, Serialize, Deserialize)]
enum SavedBacking {
    Anonymous,
    File { mapping: SavedMapping, offset: u64 },
    Monitor,
}

impl AddressSpaces {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedSpaces {
        // Who runs out of memory is killed before anything else happens.
        let Self { spaces, last_id, out_of_memory: _ } = self;
        SavedSpaces { spaces: spaces.iter().map(|(id, space)| (*id, space.save(saver))).collect(), last_id: *last_id }
    }

    /// The frames to be brought in so that few faults follow when the pages behind `touched` (in order) are used again, in
    /// order, and for each whether it is to be a copy.
    ///
    /// Where a fault makes a group of pages accessible ([`calypte_platform::Memory::pages_per_fault`]), that holds for copies
    /// only, and for a group of which none is missing.
    pub(crate) fn to_fetch(&self, touched: &[Frame], pages_per_fault: u64) -> BTreeMap<Frame, bool> {
        let mut frames = BTreeMap::new();
        for space in self.spaces.values() {
            for (start, area) in space.areas.iter() {
                let is_writable = area.protection.contains(Protection::WRITE);
                let runs = space.pages.runs(page_of(start), page_of(area.end));
                let backed: Vec<(u64, Frame)> =
                    runs.iter().flat_map(|run| (run.page..).zip(run.frames.iter())).collect();
                for group in backed.chunk_by(|(a, _), (b, _)| a / pages_per_fault == b / pages_per_fault) {
                    let is_used = |frame: &Frame| touched.binary_search(frame).is_ok();
                    let used = group.iter().filter(|(_, frame)| is_used(frame)).count();
                    let is_whole = used > 0 && is_writable || used >= GROUP_READ_MIN;
                    for (_, frame) in group.iter().filter(|(_, frame)| is_whole || is_used(frame)) {
                        *frames.entry(*frame).or_default() |= is_whole;
                    }
                }
            }
        }
        frames
    }

    /// The address spaces that exist.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (SpaceId, u32)> {
        self.spaces.iter().map(|(id, space)| (*id, space.users))
    }
}

impl Space {
    fn save(&self, saver: &mut Saver<'_>) -> SavedSpace {
        // When restored, all pages count as backed ahead.
        let Self { users, platform: _, areas, pages, ahead: _, layout } = self;
        let runs = pages.runs(0, u64::MAX / PAGE_SIZE as u64);
        SavedSpace {
            users: *users,
            areas: areas.iter().map(|(start, area)| (start, area.save(saver))).collect(),
            pages: runs.iter().map(Run::save).collect(),
            layout: *layout,
        }
    }
}

impl Run {
    fn save(&self) -> SavedRun {
        let Self { page, frames, is_borrowed } = self;
        SavedRun(*page, frames.first.0, frames.count, *is_borrowed)
    }
}

impl Area {
    fn save(&self, saver: &mut Saver<'_>) -> SavedArea {
        let Self {
            end,
            protection,
            is_shared,
            may_write,
            backing,
            on_fork,
            grows_down,
            is_locked,
            name,
            fault_end,
            fault_pages,
        } = self;
        SavedArea {
            end: *end,
            protection: protection.bits(),
            is_shared: *is_shared,
            may_write: *may_write,
            backing: match backing {
                Backing::Anonymous => SavedBacking::Anonymous,
                Backing::File { mapping, offset } => {
                    SavedBacking::File { mapping: mapping.save(saver), offset: *offset }
                }
                Backing::Monitor => SavedBacking::Monitor,
            },
            on_fork: *on_fork,
            grows_down: *grows_down,
            is_locked: *is_locked,
            name: (*name).to_owned(),
            fault_end: *fault_end,
            fault_pages: *fault_pages,
        }
    }
}

fn broken(rule: &'static str) -> StateError {
    StateError::broken(SectionId::Memory, rule)
}

impl SavedSpaces {
    pub(crate) fn restore(
        self,
        machine: &dyn Machine,
        restorer: &mut Restorer<'_>,
    ) -> Result<AddressSpaces, StateError> {
        let Self { spaces, last_id } = self;
        StateError::check_last_number(SectionId::Memory, last_id.into(), u32::BITS)?;
        let mut restored = AddressSpaces::default();
        for (id, saved) in spaces {
            // As a new one, but with the identity that it had.
            let new = restored.create(machine).map_err(StateError::Platform)?;
            let mut space = restored.spaces.remove(&new).expect("it was just made");
            saved.restore(&mut space, restorer)?;
            if id.0 > last_id || restored.spaces.insert(id, space).is_some() {
                return Err(broken("an address space with an impossible identity"));
            }
            restored.last_id = last_id;
        }
        restored.last_id = last_id;
        Ok(restored)
    }
}

impl SavedSpace {
    fn restore(self, space: &mut Space, restorer: &mut Restorer<'_>) -> Result<(), StateError> {
        let Self { users, areas, pages, layout } = self;
        let (lowest, highest) = (space.layout.lowest, space.layout.highest);
        let Layout {
            lowest: saved_lowest,
            highest: saved_highest,
            mmap_top,
            break_start,
            break_end,
            locks_future: _,
            barriers: _,
        } = layout;
        if (saved_lowest, saved_highest) != (lowest, highest) {
            return Err(StateError::OtherAddresses);
        }
        if mmap_top > highest || break_start > break_end || break_end > highest {
            return Err(broken("a heap or a place for mappings outside the address space"));
        }
        space.users = users;
        space.layout = layout;
        space.areas = restore_areas(areas, lowest, highest, restorer)?;
        space.restore_pages(pages, restorer)
    }
}

fn restore_areas(
    saved: Vec<(u64, SavedArea)>,
    lowest: u64,
    highest: u64,
    restorer: &Restorer<'_>,
) -> Result<Areas, StateError> {
    if saved.len() > AREAS_MAX {
        return Err(broken("more memory areas than a process may have"));
    }
    let mut areas = Areas::default();
    let mut before = lowest;
    for (start, area) in saved {
        let is_aligned = |address: u64| address.is_multiple_of(PAGE_SIZE as u64);
        let area = area.restore(restorer)?;
        if start < before || area.end <= start || area.end > highest || !is_aligned(start) || !is_aligned(area.end) {
            return Err(broken("memory areas that are not in order"));
        }
        before = area.end;
        areas.put(start, area);
    }
    Ok(areas)
}

impl SavedArea {
    fn restore(self, restorer: &Restorer<'_>) -> Result<Area, StateError> {
        let Self {
            end,
            protection,
            is_shared,
            may_write,
            backing,
            on_fork,
            grows_down,
            is_locked,
            name,
            fault_end,
            fault_pages,
        } = self;
        let backing = match backing {
            SavedBacking::Anonymous => Backing::Anonymous,
            SavedBacking::File { mapping, offset } => {
                if !offset.is_multiple_of(PAGE_SIZE as u64) || i64::try_from(offset).is_err() {
                    return Err(broken("a mapped file that does not begin with a page"));
                }
                Backing::File { mapping: mapping.restore(restorer)?, offset }
            }
            SavedBacking::Monitor => Backing::Monitor,
        };
        let protection = Protection::from_bits(protection).ok_or_else(|| broken("a protection that does not exist"))?;
        let name =
            NAMES.into_iter().find(|known| *known == name).ok_or_else(|| broken("an area of an unknown name"))?;
        if matches!(backing, Backing::Monitor) && (may_write || protection.contains(Protection::WRITE)) {
            return Err(broken("a page of the monitor's that the guest may write"));
        }
        Ok(Area {
            end,
            protection,
            is_shared,
            may_write,
            backing,
            on_fork,
            grows_down,
            is_locked,
            name,
            fault_end,
            fault_pages,
        })
    }
}

impl Space {
    /// Maps frames, whose content is there, behind pages.
    fn restore_pages(&mut self, saved: Vec<SavedRun>, restorer: &mut Restorer<'_>) -> Result<(), StateError> {
        let mut before = 0;
        for SavedRun(page, first, count, is_borrowed) in saved {
            let end = page.checked_add(count.into()).filter(|end| *end <= page_of(self.layout.highest));
            let end = end.filter(|_| page >= before).ok_or_else(|| broken("pages that are not in order"))?;
            before = end;
            restorer.claims.claim(first, count, SectionId::Memory)?;
            let mut at = page;
            while at < end {
                let (_, area) =
                    self.areas.at(at * PAGE_SIZE as u64).ok_or_else(|| broken("a page outside all areas"))?;
                let to = end.min(page_of(area.end));
                let first = Frame(first + (at - page) as u32);
                let frames = FrameRange { first, count: (to - at) as u32 };
                let allowed = Run { page: at, frames, is_borrowed }.allowed(area.protection);
                self.platform.map(at * PAGE_SIZE as u64, frames, allowed).map_err(StateError::Platform)?;
                self.pages.insert(at, frames, is_borrowed);
                self.ahead.push(at, to - at);
                at = to;
            }
        }
        Ok(())
    }
}
