//! Guest frames: consecutive guest-physical pages from [`FRAMES_BASE`] on, backed as they are needed.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use calypte_platform::{FILE_PARTS_MAX, FilePages, Frame, FramePart, FrameRange, Memory, PAGE_SIZE, PlatformError};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use crate::layout::{FRAME_SLOT, FRAME_SLOTS_MAX, FRAMES_BASE, PAGE};
use crate::mapping::{HostMapping, ioctl_error};

/// Frames backed by the first slot: 32 MiB, enough for small programs and cheap to set up.
const FRAMES_FIRST: u32 = (32 << 20) / PAGE_SIZE as u32;
/// Runs of pages of a file from which on they are mapped; shorter ones are copied. A mapping costs as much as two copies,
/// and pages that lie alone among others are mostly those that will be written.
const MAPPED_FRAMES_MIN: u32 = 8;
/// Most mappings of files: the host allows 65,530 mappings of a process.
const MAPPINGS_MAX: usize = 16_384;

/// The frames of one machine.
#[derive(Debug)]
pub(crate) struct Frames {
    vm: Arc<VmFd>,
    mapping: HostMapping,
    maximum: u32,
    /// Frames that may be used. Grows only, under `slots`.
    count: AtomicU32,
    /// Slots in use.
    slots: Mutex<u32>,
    /// `/proc/self/pagemap`, opened before a jail takes its name away.
    pagemap: Option<File>,
    pages_per_fault: u64,
}

impl Frames {
    /// Room for `maximum` frames, none backed.
    pub(crate) fn new(vm: Arc<VmFd>, maximum: u32) -> Result<Self, PlatformError> {
        let mapping = HostMapping::reserve(u64::from(maximum) * PAGE)?;
        let pagemap = File::open("/proc/self/pagemap").ok();
        Ok(Self {
            vm,
            mapping,
            maximum,
            count: AtomicU32::new(0),
            slots: Mutex::new(0),
            pagemap,
            pages_per_fault: pages_per_fault(),
        })
    }

    /// Makes KVM forget every translation to these frames; see [`HostMapping::flush_translations`].
    pub(crate) fn flush_translations(&self, frames: FrameRange) {
        self.check(frames);
        self.mapping.flush_translations(offset_of(frames.first), u64::from(frames.count) * PAGE);
    }

    /// Returns when no flush is in progress.
    pub(crate) fn wait_for_flush(&self) {
        self.mapping.wait_for_flush();
    }

    /// Panics unless all of `frames` are backed.
    pub(crate) fn check(&self, frames: FrameRange) {
        let count = self.count.load(Ordering::Acquire);
        let end = u64::from(frames.first.0) + u64::from(frames.count);
        assert!(end <= u64::from(count), "{frames:?} reaches past the {count} frames backed");
    }

    /// The host address of `length` bytes in a frame. Panics when they are not inside one backed frame.
    fn pointer(&self, frame: Frame, offset: usize, length: usize) -> *mut u8 {
        self.check(FrameRange::one(frame));
        assert!(offset <= PAGE_SIZE && length <= PAGE_SIZE - offset, "{length} bytes at {offset} leave the frame");
        self.mapping.pointer(offset_of(frame) + offset as u64, length)
    }

    fn word(&self, frame: Frame, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "a 32-bit word at {offset} is not aligned");
        let pointer = self.pointer(frame, offset, 4);
        // SAFETY: the four bytes are inside the mapping, which lives as long as `self`, aligned (checked above, and
        // frames are page-aligned) and accessed here by atomic operations or raw copies only.
        unsafe { AtomicU32::from_ptr(pointer.cast()) }
    }
}

fn offset_of(frame: Frame) -> u64 {
    u64::from(frame.0) * PAGE
}

/// See [`Memory::pages_per_fault`]. With nested page tables the host follows its own pages. Without, KVM shadows those of the
/// guest, and looks at the entries around one (`PTE_PREFETCH_NUM`), as far as there are host pages that it may write.
fn pages_per_fault() -> u64 {
    const SHADOWED: u64 = 8;
    let nested = ["/sys/module/kvm_intel/parameters/ept", "/sys/module/kvm_amd/parameters/npt"];
    let is_on = |path: &&str| std::fs::read(path).is_ok_and(|value| matches!(value.first(), Some(b'Y' | b'1')));
    if nested.iter().any(is_on) { 1 } else { SHADOWED }
}

impl Memory for Frames {
    fn frame_count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    fn grow(&self, frame_count: u32) -> Result<(), PlatformError> {
        if frame_count > self.maximum {
            return Err(PlatformError::OutOfFrames { maximum: self.maximum });
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.count.load(Ordering::Acquire);
        if frame_count <= count {
            return Ok(());
        }
        // At least doubling keeps the number of slots small; the reservation costs address space only.
        let new_count = frame_count.max(count.saturating_mul(2)).max(FRAMES_FIRST).min(self.maximum);
        let (offset, length) = (u64::from(count) * PAGE, u64::from(new_count - count) * PAGE);
        assert!(*slots < FRAME_SLOTS_MAX, "doubling cannot need this many slots");
        self.mapping.enable(offset, length)?;
        let region = kvm_userspace_memory_region {
            slot: FRAME_SLOT + *slots,
            flags: 0,
            guest_phys_addr: FRAMES_BASE + offset,
            memory_size: length,
            userspace_addr: self.mapping.pointer(offset, length as usize) as u64,
        };
        // SAFETY: the host range is ours, was just made accessible, and is unmapped only when `self` goes: the guest can
        // reach nothing else through this slot.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(ioctl_error("KVM_SET_USER_MEMORY_REGION"))?;
        *slots += 1;
        self.count.store(new_count, Ordering::Release);
        Ok(())
    }

    fn copy_in(&self, frame: Frame, offset: usize, bytes: &[u8]) {
        let target = self.pointer(frame, offset, bytes.len());
        // SAFETY: `target` is valid for the length (checked) and cannot overlap `bytes`: no reference into the mapping
        // exists. Concurrent guest accesses may see any mixture, as the contract says.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    fn copy_out(&self, frame: Frame, offset: usize, buffer: &mut [u8]) {
        let source = self.pointer(frame, offset, buffer.len());
        // SAFETY: as in `copy_in`, the other way; the bytes copied are whatever the guest has there, and plain bytes.
        unsafe { ptr::copy_nonoverlapping(source, buffer.as_mut_ptr(), buffer.len()) };
    }

    fn read_file(&self, file: BorrowedFd<'_>, position: u64, parts: &[FramePart]) -> std::io::Result<usize> {
        assert!(parts.len() <= FILE_PARTS_MAX, "{} parts of one read", parts.len());
        let vector = parts.iter().map(|part| {
            self.check(part.frames());
            let start = offset_of(part.frame) + part.offset as u64;
            let iov_base = self.mapping.pointer(start, part.length).cast();
            libc::iovec { iov_base, iov_len: part.length }
        });
        let vector: Vec<libc::iovec> = vector.collect();
        let position = libc::off_t::try_from(position).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        // SAFETY: every part is inside the mapping (checked by `pointer`), which lives as long as `self` and to which no
        // references exist; the vector has as many entries as said, at most `IOV_MAX`. The kernel writes there as the
        // guest might.
        let count = unsafe { libc::preadv(file.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int, position) };
        usize::try_from(count).map_err(|_| std::io::Error::last_os_error())
    }

    fn map_file(&self, file: BorrowedFd<'_>, pages: &[FilePages]) -> std::io::Result<()> {
        let mut mappings = 0;
        for run in pages {
            self.check(run.frames);
            if run.frames.count < MAPPED_FRAMES_MIN || mappings == MAPPINGS_MAX {
                self.copy_file(file, *run)?;
            } else {
                let length = u64::from(run.frames.count) * PAGE;
                self.mapping.map_file(offset_of(run.frames.first), length, file, run.position)?;
                mappings += 1;
            }
        }
        Ok(())
    }

    fn touched(&self) -> Vec<FrameRange> {
        let Some(pagemap) = &self.pagemap else { return Vec::new() };
        let mut runs: Vec<FrameRange> = Vec::new();
        let present = self.mapping.present_file_pages(pagemap).unwrap_or_default();
        for frame in (0..).zip(present).filter_map(|(frame, is_present)| is_present.then_some(frame)) {
            match runs.last_mut() {
                Some(run) if run.first.0 + run.count == frame => run.count += 1,
                _ => runs.push(FrameRange::one(Frame(frame))),
            }
        }
        runs
    }

    fn pages_per_fault(&self) -> u64 {
        self.pages_per_fault
    }

    fn fetch(&self, frames: FrameRange, will_write: bool) {
        self.check(frames);
        let (offset, length) = (offset_of(frames.first), u64::from(frames.count) * PAGE);
        if will_write { self.mapping.populate_pages(offset, length) } else { self.mapping.read_ahead(offset, length) }
    }

    fn zero(&self, frames: FrameRange) {
        self.check(frames);
        let length = frames.count as usize * PAGE_SIZE;
        let target = self.mapping.pointer(offset_of(frames.first), length);
        // SAFETY: `target` is valid for `length` bytes (checked) and no reference into the mapping exists.
        unsafe { ptr::write_bytes(target, 0, length) };
    }

    fn prepare(&self, frames: FrameRange) {
        self.check(frames);
        self.mapping.populate(offset_of(frames.first), u64::from(frames.count) * PAGE);
    }

    fn discard(&self, frames: FrameRange) {
        self.check(frames);
        self.mapping.discard(offset_of(frames.first), u64::from(frames.count) * PAGE);
    }

    fn load_u32(&self, frame: Frame, offset: usize) -> u32 {
        self.word(frame, offset).load(Ordering::SeqCst)
    }

    fn compare_exchange_u32(&self, frame: Frame, offset: usize, current: u32, new: u32) -> Result<u32, u32> {
        self.word(frame, offset).compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }
}
