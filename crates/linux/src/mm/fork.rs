//! What `fork` does to memory: the child gets the parent's areas and the frames behind them. Private pages are borrowed in
//! both from then on; whoever writes first copies.

use calypte_platform::{Machine, Protection};

use super::ahead::Ahead;
use super::area::{Area, Areas, OnFork};
use super::pages::{Pages, Run};
use super::{AddressSpaces, Layout, Space, SpaceId, page_of};
use crate::errno::Errno;
use crate::frames::Frames;

impl AddressSpaces {
    /// A copy of an address space for a child process. `ENOMEM` if there is no room for its page tables.
    pub fn fork(&mut self, parent: SpaceId, machine: &dyn Machine, frames: &mut Frames) -> Result<SpaceId, Errno> {
        let platform = machine.create_address_space().map_err(|error| {
            tracing::warn!(%error, "no address space for a child process");
            Errno::ENOMEM
        })?;
        let parent = self.space(parent);
        parent.lend();
        let mut child = Space {
            users: 1,
            platform,
            areas: Areas::default(),
            pages: Pages::default(),
            ahead: Ahead::default(),
            layout: Layout { locks_future: false, ..parent.layout },
        };
        for (start, area) in parent.areas.iter().filter(|(_, area)| area.on_fork != OnFork::Omit) {
            let mut copied = child.areas.insert(start, Area { is_locked: false, ..area.clone() });
            if copied.is_ok() && area.on_fork != OnFork::Wipe {
                let runs = parent.pages.runs(page_of(start), page_of(area.end));
                copied = runs.into_iter().try_for_each(|run| child.borrow_run(frames, area, run));
            }
            if let Err(errno) = copied {
                child.end(frames);
                return Err(errno);
            }
        }
        Ok(self.add(child))
    }
}

impl AddressSpaces {
    /// Empties what a child process would find empty (`MADV_WIPEONFORK`): one copy of a saved guest is to another as a
    /// child to its parent. Generators of random numbers see by that that they must be seeded again.
    pub(crate) fn wipe(&mut self, frames: &mut Frames) {
        for space in self.spaces.values_mut() {
            let is_wiped = |(_, area): &(u64, &Area)| area.on_fork == OnFork::Wipe;
            let ranges: Vec<_> = space.areas.iter().filter(is_wiped).map(|(start, area)| (start, area.end)).collect();
            ranges.into_iter().for_each(|(start, end)| space.drop_pages(frames, start, end));
        }
    }
}

impl Space {
    /// Makes all private pages borrowed ones.
    fn lend(&mut self) {
        let mut changes = Vec::new();
        for (start, area) in self.areas.iter().filter(|(_, area)| area.is_lent()) {
            let (first, end) = (page_of(start), page_of(area.end));
            if area.protection.contains(Protection::WRITE)
                && self.pages.runs(first, end).iter().any(|run| !run.is_borrowed)
            {
                changes.push((start, area.end - start, area.protection - Protection::WRITE));
            }
            self.pages.set_borrowed(first, end, true);
        }
        self.platform.protect_all(&changes);
    }

    /// Takes over pages of the parent.
    fn borrow_run(&mut self, frames: &mut Frames, area: &Area, run: Run) -> Result<(), Errno> {
        run.frames.iter().for_each(|frame| frames.share(frame));
        self.back(frames, run, area.protection).map_err(|_| Errno::ENOMEM)
    }
}

impl Area {
    /// Whether its pages are borrowed after a fork.
    fn is_lent(&self) -> bool {
        self.is_private() && self.on_fork == OnFork::Inherit
    }
}
