//! What `fork` does to memory.

use calypte_platform::{FrameRange, Machine, PAGE_SIZE};

use super::area::{Area, Areas, Backing};
use super::pages::{Pages, Run};
use super::{AddressSpaces, Space, SpaceId, page_of};
use crate::errno::Errno;
use crate::frames::{Charge, Frames};

impl AddressSpaces {
    /// A copy of an address space for a child process. `ENOMEM` if there is no room for it.
    pub fn fork(&mut self, parent: SpaceId, machine: &dyn Machine, frames: &mut Frames) -> Result<SpaceId, Errno> {
        let platform = machine.create_address_space().map_err(|error| {
            tracing::warn!(%error, "no address space for a child process");
            Errno::ENOMEM
        })?;
        let parent = self.space(parent);
        let mut child =
            Space { users: 1, platform, areas: Areas::default(), pages: Pages::default(), layout: parent.layout };
        for (start, area) in parent.areas.iter() {
            let copied = child.areas.insert(start, area.clone()).and_then(|()| {
                let runs = parent.pages.runs(page_of(start), page_of(area.end));
                runs.into_iter().try_for_each(|run| child.copy_run(frames, area, run))
            });
            if let Err(errno) = copied {
                child.end(frames);
                return Err(errno);
            }
        }
        Ok(self.add(child))
    }
}

impl Space {
    /// Takes over pages of the parent: the frames themselves where both are to see the same, else copies.
    fn copy_run(&mut self, frames: &mut Frames, area: &Area, run: Run) -> Result<(), Errno> {
        if area.is_shared || matches!(area.backing, Backing::Monitor) {
            run.frames.iter().for_each(|frame| frames.share(frame));
            return self.back(frames, run.page, run.frames, area.protection).map_err(|_| Errno::ENOMEM);
        }
        for (page, frame) in (run.page..).zip(run.frames.iter()) {
            let copy = frames.allocate(Charge::Memory)?;
            let mut content = [0; PAGE_SIZE];
            frames.memory().copy_out(frame, 0, &mut content);
            frames.memory().copy_in(copy, 0, &content);
            self.back(frames, page, FrameRange::one(copy), area.protection).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(())
    }
}
