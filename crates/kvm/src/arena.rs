//! Pages for the guest's page tables.
//!
//! KVM may keep what it derived from a page table for as long as it likes, keyed by the table's guest-physical page, and
//! does not see our writes. A table page that is freed and used for another table could therefore bring back
//! translations of the first, to frames that now belong to somebody else. So pages come in chunks of one memory slot
//! each, a page is handed out once in the life of its slot, and when all pages of a chunk are free the slot is deleted,
//! which makes KVM drop everything derived from it, before the chunk is used again:
//!
//! ```text
//!  absent ──(slot created)──▶ open: pages handed out in order ──(all handed out)──▶ closed
//!     ▲                                                                               │ all freed
//!     └────────(slot deleted, when no absent chunk is left)──── drained ◀─────────────┘
//! ```
//!
//! Deleting a slot makes KVM rebuild its tables for the whole machine, so it waits until it must.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use calypte_platform::PlatformError;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use crate::layout::{FRAMES_BASE, PAGE, TABLE_SLOT, TABLES_BASE};
use crate::mapping::{HostMapping, ioctl_error};

/// Table pages of one chunk: 512 KiB. Small, because one table of a long-lived process holds a chunk.
const CHUNK_PAGES: u32 = 128;
/// Chunks that fit below the frames.
const CHUNKS_MAX: u32 = ((FRAMES_BASE - TABLES_BASE) / PAGE / CHUNK_PAGES as u64) as u32;
/// Chunks for each chunk's worth of tables that may be in use at once, if there is room. They cost address space; more of
/// them mean fewer slot deletions, and room for long-lived processes.
const CHUNKS_PER_LIVE_CHUNK: u32 = 64;
/// The same where there is less room.
const CHUNKS_PER_LIVE_CHUNK_MIN: u32 = 4;
/// Most slots deleted in a row: each takes some tens of microseconds.
const DELETIONS_MAX: usize = 64;

/// Most table pages in use at once, whatever a machine's configuration says.
pub(crate) const TABLES_MAX: u32 = (CHUNKS_MAX / CHUNKS_PER_LIVE_CHUNK_MIN - 1) * CHUNK_PAGES;
/// Memory slots that an arena needs at least, however small.
pub(crate) const CHUNKS_MIN: u32 = 2 * CHUNKS_PER_LIVE_CHUNK_MIN;

/// One page of the arena, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TablePage(u32);

impl TablePage {
    /// Its guest-physical address.
    pub(crate) fn guest_physical(self) -> u64 {
        TABLES_BASE + self.offset()
    }

    fn offset(self) -> u64 {
        u64::from(self.0) * PAGE
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Chunk {
    has_slot: bool,
    handed_out: u32,
    live: u32,
}

impl Chunk {
    fn is_drained(self) -> bool {
        self.has_slot && self.handed_out == CHUNK_PAGES && self.live == 0
    }
}

#[derive(Debug)]
struct State {
    chunks: Vec<Chunk>,
    /// The open chunk.
    open: Option<usize>,
    live: u32,
}

/// The page-table pages of one machine.
#[derive(Debug)]
pub(crate) struct TableArena {
    vm: Arc<VmFd>,
    mapping: HostMapping,
    live_max: u32,
    state: Mutex<State>,
}

impl TableArena {
    /// An arena of at most `live_max` pages in use at once, in at most `slots_max` memory slots.
    pub(crate) fn new(vm: Arc<VmFd>, live_max: u32, slots_max: u32) -> Result<Self, PlatformError> {
        assert!(live_max <= TABLES_MAX, "{live_max} page tables do not fit below the frames");
        let live_chunks = live_max.div_ceil(CHUNK_PAGES) + 1;
        let chunk_count = (live_chunks * CHUNKS_PER_LIVE_CHUNK).min(CHUNKS_MAX).min(slots_max);
        let length = u64::from(chunk_count * CHUNK_PAGES) * PAGE;
        let mapping = HostMapping::reserve(length)?;
        mapping.enable(0, length)?;
        let chunks = vec![Chunk::default(); chunk_count as usize];
        Ok(Self { vm, mapping, live_max, state: Mutex::new(State { chunks, open: None, live: 0 }) })
    }

    /// A page of zeros that KVM has derived nothing from.
    pub(crate) fn allocate(&self) -> Result<TablePage, PlatformError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.live == self.live_max {
            return Err(PlatformError::OutOfTables);
        }
        let index = match state.open {
            Some(index) => index,
            None => self.open_chunk(&mut state)?,
        };
        let chunk = &mut state.chunks[index];
        let page = TablePage(index as u32 * CHUNK_PAGES + chunk.handed_out);
        chunk.handed_out += 1;
        chunk.live += 1;
        let is_closed = chunk.handed_out == CHUNK_PAGES;
        state.open = (!is_closed).then_some(index);
        state.live += 1;
        Ok(page)
    }

    /// Takes pages back that are no part of an address space any more: no virtual CPU will enter it again, or none walks
    /// through them. What KVM keeps of them, it may go on using for what other tables say at the same place; it says
    /// nothing by itself.
    pub(crate) fn free(&self, mut pages: Vec<TablePage>) {
        pages.sort_unstable();
        for run in pages.chunk_by(|a, b| a.0 + 1 == b.0) {
            self.mapping.discard(run[0].offset(), run.len() as u64 * PAGE);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for page in pages {
            let chunk = &mut state.chunks[(page.0 / CHUNK_PAGES) as usize];
            chunk.live = chunk.live.checked_sub(1).expect("a table page is freed once");
            state.live -= 1;
        }
    }

    /// Entry `index` of a table, as the guest's processor sees it.
    pub(crate) fn entry(&self, page: TablePage, index: usize) -> &AtomicU64 {
        assert!(index < 512, "a page table has 512 entries");
        let pointer = self.mapping.pointer(page.offset() + index as u64 * 8, 8);
        // SAFETY: the eight bytes are inside the mapping, which lives as long as `self`; they are aligned, and the monitor
        // reaches them only through this function.
        unsafe { AtomicU64::from_ptr(pointer.cast()) }
    }

    fn open_chunk(&self, state: &mut State) -> Result<usize, PlatformError> {
        if state.chunks.iter().all(|chunk| chunk.has_slot) {
            self.delete_drained_slots(state)?;
        }
        let index = state.chunks.iter().position(|chunk| !chunk.has_slot).ok_or(PlatformError::OutOfTables)?;
        self.set_slot(index, u64::from(CHUNK_PAGES) * PAGE)?;
        state.chunks[index] = Chunk { has_slot: true, handed_out: 0, live: 0 };
        state.open = Some(index);
        Ok(index)
    }

    fn delete_drained_slots(&self, state: &mut State) -> Result<(), PlatformError> {
        let drained = (0..state.chunks.len()).filter(|&index| state.chunks[index].is_drained());
        for index in drained.take(DELETIONS_MAX).collect::<Vec<_>>() {
            self.set_slot(index, 0)?;
            state.chunks[index].has_slot = false;
        }
        Ok(())
    }

    /// Creates a chunk's slot, or deletes it when `length` is zero.
    fn set_slot(&self, index: usize, length: u64) -> Result<(), PlatformError> {
        let first = TablePage(index as u32 * CHUNK_PAGES);
        let region = kvm_userspace_memory_region {
            slot: TABLE_SLOT + index as u32,
            flags: 0,
            guest_phys_addr: first.guest_physical(),
            memory_size: length,
            userspace_addr: self.mapping.pointer(first.offset(), (u64::from(CHUNK_PAGES) * PAGE) as usize) as u64,
        };
        // SAFETY: the host range belongs to this arena, which outlives every use of its machine's tables.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(ioctl_error("KVM_SET_USER_MEMORY_REGION"))
    }
}
