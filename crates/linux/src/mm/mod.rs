//! Memory of processes: areas (`area`), the pages behind them (`pages`), what fills pages on demand (`fault`), the
//! changes that `mmap` and its family make (`change`), what is backed before it is touched (`ahead`), what `fork` shares
//! (`fork`) and the copies that are made when somebody writes (`copy`).
//!
//! Invariant: every page recorded in an address space's `Pages` lies in an area and is mapped on the platform with that
//! area's protection, less the right to write if its frame is borrowed; it holds one reference to its frame.

mod advice;
mod ahead;
mod area;
mod change;
mod copy;
mod fault;
mod fork;
mod pages;
mod remap;
pub(crate) mod saved;

use std::collections::BTreeMap;

use calypte_platform::{AddressSpace, Frame, FramePart, Machine, PAGE_SIZE, PlatformError, Protection, SpaceToken};
use serde::{Deserialize, Serialize};

pub(crate) use advice::ForkAdvice;
pub use area::AREAS_MAX;
pub use change::{MapRequest, Placement, Source};
pub use fault::Fault;
pub(crate) use remap::RemapRequest;

use crate::errno::Errno;
use crate::frames::{ContentId, Frames};
use ahead::Ahead;
use area::{Area, Areas, Backing};
use pages::{Pages, Run};

/// Lowest address that a process may map (`vm.mmap_min_addr`).
pub const LOWEST_ADDRESS: u64 = 0x1_0000;

/// The identity of an address space, unique within one guest for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpaceId(pub u32);

impl SpaceId {
    /// No address space: that of a process that has ended.
    pub const NONE: SpaceId = SpaceId(0);
}

/// The address spaces of all processes.
#[derive(Default)]
pub struct AddressSpaces {
    spaces: BTreeMap<SpaceId, Space>,
    last_id: u32,
    /// Set when a copy to or from guest memory failed for want of memory; the kernel kills the process then.
    out_of_memory: bool,
}

/// The memory of a process, or of several (`CLONE_VM`).
pub(crate) struct Space {
    /// Processes that use it.
    users: u32,
    platform: Box<dyn AddressSpace>,
    areas: Areas,
    pages: Pages,
    ahead: Ahead,
    layout: Layout,
}

/// Where things are in an address space.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Layout {
    /// First address that may be mapped, and one past the last.
    lowest: u64,
    highest: u64,
    /// Where `mmap` without an address begins to look, downwards.
    mmap_top: u64,
    /// The heap that `brk` grows.
    break_start: u64,
    break_end: u64,
    /// Whether new areas are locked (`MCL_FUTURE`).
    locks_future: bool,
    /// What `membarrier` has been told to be ready for: its commands' bits.
    barriers: u32,
}

/// A line of `/proc/<pid>/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AreaDescription {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// What may be done with it.
    pub protection: Protection,
    /// Whether writes are seen by others who map the same.
    pub is_shared: bool,
    /// Offset into the file, bytes.
    pub offset: u64,
    /// Device and inode of the file, zero without one.
    pub device: u64,
    /// See [`AreaDescription::device`].
    pub inode: u64,
    /// Path of the file, or a name such as `[heap]`, or nothing.
    pub path: Vec<u8>,
    /// Bytes of it that are in memory.
    pub resident: u64,
}

impl AddressSpaces {
    /// A new address space without areas.
    pub fn create(&mut self, machine: &dyn Machine) -> Result<SpaceId, PlatformError> {
        let reserved = machine.reserved();
        let platform = machine.create_address_space()?;
        // The platform's own pages lie at one end of the address space; what is left is the process's.
        let (lowest, highest) = if reserved.start <= LOWEST_ADDRESS {
            (reserved.end.max(LOWEST_ADDRESS).next_multiple_of(PAGE_SIZE as u64), machine.user_end())
        } else {
            (LOWEST_ADDRESS, machine.user_end().min(reserved.start))
        };
        let highest = highest / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        Ok(self.add(Space {
            users: 1,
            platform,
            areas: Areas::default(),
            pages: Pages::default(),
            ahead: Ahead::default(),
            layout: Layout {
                lowest,
                highest,
                mmap_top: highest,
                break_start: 0,
                break_end: 0,
                locks_future: false,
                barriers: 0,
            },
        }))
    }

    fn add(&mut self, space: Space) -> SpaceId {
        self.last_id += 1;
        let id = SpaceId(self.last_id);
        self.spaces.insert(id, space);
        id
    }

    /// Notes one more process that uses an address space.
    pub fn share(&mut self, id: SpaceId) {
        self.space(id).users += 1;
    }

    /// A process uses an address space no more. With the last one it ends, and what only it used is freed.
    pub fn release(&mut self, id: SpaceId, frames: &mut Frames) {
        let space = self.space(id);
        space.users -= 1;
        if space.users == 0 {
            let space = self.spaces.remove(&id).expect("just found");
            space.end(frames);
        }
    }

    pub(crate) fn space(&mut self, id: SpaceId) -> &mut Space {
        self.spaces.get_mut(&id).expect("a process's address space exists")
    }

    /// What [`calypte_platform::Vcpu::run`] needs to run a thread in it.
    pub fn token(&self, id: SpaceId) -> SpaceToken {
        self.spaces[&id].platform.token()
    }

    /// Copies from a process's memory. `EFAULT` if any byte may not be read.
    pub fn read(&mut self, id: SpaceId, frames: &mut Frames, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let result = self.space(id).read(frames, address, buffer);
        self.note(result)
    }

    /// As [`AddressSpaces::read`], but only as far as bytes may be read: how many, an error if that is none.
    pub fn read_some(
        &mut self,
        id: SpaceId,
        frames: &mut Frames,
        address: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Errno> {
        let (space, mut done) = (self.space(id), 0);
        while done < buffer.len() {
            match space.read_run(frames, address, buffer, done) {
                Ok(count) => done += count,
                Err(_) if done > 0 => break,
                Err(fault) => return self.note(Err(fault)),
            }
        }
        Ok(done)
    }

    /// Copies to a process's memory. `EFAULT` if any byte may not be written.
    pub fn write(&mut self, id: SpaceId, frames: &mut Frames, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let result = self.space(id).write(frames, address, bytes);
        self.note(result)
    }

    /// The frame behind an address that may be accessed so, and the offset in it. For words that several threads
    /// change at once (futexes).
    pub fn locate(
        &mut self,
        id: SpaceId,
        frames: &mut Frames,
        address: u64,
        is_write: bool,
    ) -> Result<(Frame, usize), Errno> {
        let needed = if is_write { Protection::WRITE } else { Protection::READ };
        let result = self.space(id).locate(frames, address, needed, is_write);
        self.note(result)
    }

    /// As [`AddressSpaces::locate`] for the first byte of a buffer, not an empty one, and those that follow it in
    /// consecutive frames.
    pub fn locate_run(
        &mut self,
        id: SpaceId,
        frames: &mut Frames,
        buffer: (u64, usize),
        is_write: bool,
    ) -> Result<FramePart, Errno> {
        let needed = if is_write { Protection::WRITE } else { Protection::READ };
        let result = self.space(id).locate_run(frames, buffer, needed, is_write);
        self.note(result)
    }

    /// What a word at an address is known by when it is shared: the content of a file in memory, and the offset in it. `None`
    /// for a word of the process's own. `EFAULT` where nothing is mapped.
    pub(crate) fn shared_word(&mut self, id: SpaceId, address: u64) -> Result<Option<(ContentId, u64)>, Errno> {
        let (start, area) = self.space(id).areas.at(address).ok_or(Errno::EFAULT)?;
        let Backing::File { mapping, offset } = &area.backing else { return Ok(None) };
        let content = mapping.content().filter(|_| area.is_shared);
        Ok(content.map(|content| (content, offset + (address - start))))
    }

    fn note<T>(&mut self, result: Result<T, Fault>) -> Result<T, Errno> {
        result.map_err(|fault| {
            self.out_of_memory |= fault == Fault::OutOfMemory;
            Errno::EFAULT
        })
    }

    /// Whether a copy since the last call failed for want of memory.
    pub(crate) fn take_out_of_memory(&mut self) -> bool {
        std::mem::take(&mut self.out_of_memory)
    }

    /// The areas of an address space, in order, for `/proc`. There can be many with long paths: one at a time.
    pub fn describe(&self, id: SpaceId) -> impl Iterator<Item = AreaDescription> {
        self.spaces.get(&id).into_iter().flat_map(Space::describe)
    }

    /// Bytes of an address space that are in memory, and bytes of all its areas.
    pub fn sizes(&self, id: SpaceId) -> (u64, u64) {
        let Some(space) = self.spaces.get(&id) else { return (0, 0) };
        (space.pages.count() * PAGE_SIZE as u64, space.size())
    }
}

impl Space {
    /// Ends all mappings and frees what nobody else uses.
    fn end(mut self, frames: &mut Frames) {
        let runs = self.pages.remove(0, u64::MAX / PAGE_SIZE as u64);
        drop(self);
        release(frames, &runs);
    }

    /// Bytes of all areas.
    pub(crate) fn size(&self) -> u64 {
        self.areas.iter().map(|(start, area)| area.end - start).sum()
    }

    /// Bytes of the areas that hold data of the process's own (`RLIMIT_DATA`).
    pub(crate) fn data_size(&self) -> u64 {
        let is_data =
            |area: &Area| area.is_private() && area.protection.contains(Protection::WRITE) && !area.grows_down;
        self.areas.iter().filter(|(_, area)| is_data(area)).map(|(start, area)| area.end - start).sum()
    }

    /// Where the area that holds `address` and grows downwards begins (`PROT_GROWSDOWN`).
    pub(crate) fn start_of_growing(&self, address: u64) -> Result<u64, Errno> {
        let (start, area) = self.areas.at(address).ok_or(Errno::ENOMEM)?;
        if area.grows_down { Ok(start) } else { Err(Errno::EINVAL) }
    }

    /// One past the highest address that may be mapped.
    pub(crate) fn highest(&self) -> u64 {
        self.layout.highest
    }

    /// Sets where `mmap` without an address begins to look, downwards.
    pub(crate) fn set_mmap_top(&mut self, top: u64) {
        self.layout.mmap_top = top;
    }

    /// Where the heap ends.
    pub(crate) fn break_end(&self) -> u64 {
        self.layout.break_end
    }

    /// Sets where the heap that `brk` grows begins.
    pub(crate) fn set_break(&mut self, start: u64) {
        self.layout.break_start = start;
        self.layout.break_end = start;
    }

    /// The bits of `membarrier`'s commands that the process has registered for.
    pub(crate) fn barriers(&mut self) -> &mut u32 {
        &mut self.layout.barriers
    }

    fn describe(&self) -> impl Iterator<Item = AreaDescription> {
        self.areas.iter().map(|(start, area)| self.describe_area(start, area))
    }

    fn describe_area(&self, start: u64, area: &Area) -> AreaDescription {
        let (offset, (device, inode), path) = match &area.backing {
            Backing::File { mapping, offset } => (*offset, mapping.device_and_inode(), mapping.path().to_vec()),
            _ => (0, (0, 0), area.name.as_bytes().to_vec()),
        };
        let resident =
            self.pages.runs(page_of(start), page_of(area.end)).iter().map(|run| run.frames.count).sum::<u32>();
        AreaDescription {
            start,
            end: area.end,
            protection: area.protection,
            is_shared: area.is_shared,
            offset,
            device,
            inode,
            path,
            resident: u64::from(resident) * PAGE_SIZE as u64,
        }
    }

    /// Maps the frames of a run behind its pages, which are absent. The caller's references become the address space's, or
    /// are given back on failure.
    fn back(&mut self, allocator: &mut Frames, run: Run, protection: Protection) -> Result<(), PlatformError> {
        match self.platform.map(run.page * PAGE_SIZE as u64, run.frames, run.allowed(protection)) {
            Ok(()) => {
                self.pages.insert(run.page, run.frames, run.is_borrowed);
                Ok(())
            }
            Err(error) => {
                // A program may bring about the first as often as it likes: that is nothing for the log.
                if !matches!(error, PlatformError::OutOfTables) {
                    tracing::warn!(%error, "guest pages cannot be mapped");
                }
                allocator.release_run(run.frames);
                Err(error)
            }
        }
    }

    /// Takes the pages of `[start, end)` away and frees what nobody else uses.
    fn drop_pages(&mut self, allocator: &mut Frames, start: u64, end: u64) {
        let runs = self.pages.remove(page_of(start), page_of(end));
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return };
        // A process may unmap more than it can have, down to address 0; the platform only takes what it was given.
        let (first, end) = (first.page, last.end());
        self.platform.unmap(first * PAGE_SIZE as u64, (end - first) * PAGE_SIZE as u64);
        release(allocator, &runs);
    }
}

impl Run {
    /// What of an area's protection its pages get.
    fn allowed(&self, protection: Protection) -> Protection {
        if self.is_borrowed { protection - Protection::WRITE } else { protection }
    }
}

fn release(frames: &mut Frames, runs: &[Run]) {
    for run in runs.iter().rev() {
        frames.release_run(run.frames);
    }
}

/// The number of the page that holds an address; for an end that is page-aligned, one past the last page.
fn page_of(address: u64) -> u64 {
    address / PAGE_SIZE as u64
}
