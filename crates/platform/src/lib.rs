//! The contract between the monitor and whatever executes guest instructions.
//!
//! A [`Machine`] is one guest: frames of memory, address spaces that map them, and virtual CPUs that run user-mode code
//! in an address space until something needs the monitor. The `linux` crate holds frame numbers and registers and
//! knows only this crate; `kvm` implements it on `/dev/kvm`.
//!
//! What the contract asks of every implementation:
//!
//! - **Frames are zero when first backed** and keep their content until written; an implementation never hands out a
//!   frame by itself, allocation is the caller's.
//! - **A mapping change is in force when the call returns**, on every virtual CPU, also for a removed or downgraded
//!   mapping. (KVM needs help for that: see `kvm`'s address space.)
//! - **Nothing that the guest can write is read back as truth**: an implementation keeps its own record of mappings.
//! - Between two calls of [`Vcpu::run`] all architectural state of a thread is in [`Registers`] and [`FpuState`], so a
//!   thread can be moved to another virtual CPU, or saved, whenever it is not running.

#![deny(unsafe_code)]

mod exit;
mod frame;
mod registers;
pub mod timestamp;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use exit::{Access, Exit};
pub use frame::{FILE_PARTS_MAX, FilePages, Frame, FramePart, FrameRange, PAGE_SIZE, Protection};
pub use registers::{FpuState, Registers};

/// What an implementation could not do. None of these is caused by guest code alone.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The host refused an operation.
    #[error("{operation}")]
    Host {
        /// What was attempted, for example `KVM_CREATE_VM`.
        operation: &'static str,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// More frames were asked for than the machine was created with as its maximum.
    #[error("the machine's {maximum} frames are all in use")]
    OutOfFrames {
        /// Most frames the machine may have.
        maximum: u32,
    },
    /// No room is left for the implementation's own tables (page tables of the guest).
    #[error("no room left for page tables")]
    OutOfTables,
    /// The virtual CPU left guest mode for a reason that user code cannot cause on working hardware.
    #[error("the virtual CPU stopped: {0}")]
    VcpuFailed(String),
}

/// One guest.
pub trait Machine: Send + Sync {
    /// The implementation's name, for example `kvm`: a saved guest goes on on the one that it was saved on.
    fn platform(&self) -> &'static str;
    /// The guest's frames.
    fn memory(&self) -> Arc<dyn Memory>;
    /// A new, empty address space.
    fn create_address_space(&self) -> Result<Box<dyn AddressSpace>, PlatformError>;
    /// The next virtual CPU. Call once for each thread of the monitor that will run guest code, from that thread.
    fn create_vcpu(&self) -> Result<Box<dyn Vcpu>, PlatformError>;
    /// The address at which system pages of the implementation begin and the one where they end. Guest mappings
    /// must lie outside, below [`Machine::user_end`].
    fn reserved(&self) -> std::ops::Range<u64>;
    /// One past the highest address that guest mappings may use.
    fn user_end(&self) -> u64;
    /// Returns true when every virtual CPU has been outside guest code after the call began, having seen all writes to
    /// guest memory from before it: the barrier of `membarrier(2)`. False where that is not offered.
    fn synchronize(&self) -> bool {
        false
    }
    /// Whether the time that guest code runs is processor time of the calling process.
    fn runs_guest_in_this_process(&self) -> bool {
        true
    }
    /// The counter that guest code reads with `rdtsc`, now. `None` where it is no clock: it stops, changes speed or
    /// differs between virtual CPUs.
    fn timestamp(&self) -> Option<Timestamp>;
}

/// A reading of the time-stamp counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// What the counter shows.
    pub ticks: u64,
    /// How fast it counts. Not zero; precise to a few millionths.
    pub ticks_per_ms: u64,
}

/// The guest's frames. All methods may be called while virtual CPUs run: copies are made byte by byte in an
/// unspecified order relative to guest accesses, as on real hardware.
///
/// Offsets and lengths are in bytes within one frame; a call that leaves the frame, or names one that is not backed,
/// is a bug of the caller and panics.
pub trait Memory: Send + Sync {
    /// Frames backed so far.
    fn frame_count(&self) -> u32;
    /// Backs frames up to `frame_count` (rounded up as the implementation likes). New frames read as zero.
    fn grow(&self, frame_count: u32) -> Result<(), PlatformError>;
    /// Copies `bytes` into a frame.
    fn copy_in(&self, frame: Frame, offset: usize, bytes: &[u8]);
    /// Copies from a frame into `buffer`.
    fn copy_out(&self, frame: Frame, offset: usize, buffer: &mut [u8]);
    /// Reads bytes of a file of the host, from a position of it on, into parts of frames, in their order: how many bytes
    /// were read, fewer than there is room for only at the end of the file or as `pread(2)` may.
    ///
    /// At most [`FILE_PARTS_MAX`] parts. What is given here copies through a buffer; an implementation whose frames are
    /// in its own address space reads straight into them.
    fn read_file(&self, file: BorrowedFd<'_>, position: u64, parts: &[FramePart]) -> std::io::Result<usize> {
        let length = parts.iter().map(|part| part.length).sum();
        let mut buffer = vec![0; length];
        let count = rustix::io::pread(file, &mut buffer, position)?;
        let mut rest = &buffer[..count];
        for part in parts {
            let (bytes, after) = rest.split_at(rest.len().min(part.length));
            for (frame, offset, range) in (FramePart { length: bytes.len(), ..*part }).pieces() {
                self.copy_in(frame, offset, &bytes[range]);
            }
            rest = after;
        }
        Ok(count)
    }
    /// Gives frames the content of pages of a file. None of the frames has been mapped or written yet.
    ///
    /// The file must never change or become shorter again (a memfd with seals): an implementation whose frames are in its
    /// own address space shares the file's pages with whoever else uses them, until they are written. What is given here
    /// copies.
    fn map_file(&self, file: BorrowedFd<'_>, pages: &[FilePages]) -> std::io::Result<()> {
        pages.iter().try_for_each(|pages| self.copy_file(file, *pages))
    }
    /// As [`Memory::map_file`] for one run of pages, copying.
    fn copy_file(&self, file: BorrowedFd<'_>, pages: FilePages) -> std::io::Result<()> {
        let (mut at, end) = (0, pages.frames.count as usize * PAGE_SIZE);
        while at < end {
            let frame = Frame(pages.frames.first.0 + (at / PAGE_SIZE) as u32);
            let part = FramePart { frame, offset: at % PAGE_SIZE, length: end - at };
            match self.read_file(file, pages.position + at as u64, &[part]) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => at += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
    /// The frames with pages of files ([`Memory::map_file`]) that have been used since, by the guest or for it. Empty where
    /// that is not known.
    fn touched(&self) -> Vec<FrameRange> {
        Vec::new()
    }
    /// How many pages, of those behind which there is memory of this guest's own, become accessible at one fault of the virtual
    /// machine: those around the one that is touched, as a group whose first page is a multiple of this. A power of two.
    fn pages_per_fault(&self) -> u64 {
        1
    }
    /// Says that frames with pages of files will be used soon, and whether they will be written: a hint, as
    /// [`Memory::prepare`] is.
    fn fetch(&self, _frames: FrameRange, _will_write: bool) {}
    /// Fills whole frames with zeros.
    fn zero(&self, frames: FrameRange);
    /// Says that frames will be used soon, so that an implementation can put host memory behind them all at once. A hint:
    /// content does not change, and nothing happens where it is of no use.
    fn prepare(&self, _frames: FrameRange) {}
    /// Gives the host memory behind whole frames back; they read as zero afterwards. The frames must not be mapped.
    fn discard(&self, frames: FrameRange);
    /// Reads an aligned 32-bit word in one access.
    fn load_u32(&self, frame: Frame, offset: usize) -> u32;
    /// Replaces an aligned 32-bit word if it holds `current`; the value found either way.
    fn compare_exchange_u32(&self, frame: Frame, offset: usize, current: u32, new: u32) -> Result<u32, u32>;
}

/// One set of mappings from guest addresses to frames. Dropping it ends all of them.
///
/// Addresses are page-aligned and below [`Machine::user_end`]; the caller checks guest input, a violation panics.
pub trait AddressSpace: Send {
    /// What [`Vcpu::run`] needs to enter this address space. Stable for the life of the address space.
    fn token(&self) -> SpaceToken;
    /// Maps the pages from `address` on to consecutive frames. No page of the range may be mapped already. A failure leaves
    /// the mappings as they were.
    fn map(&mut self, address: u64, frames: FrameRange, protection: Protection) -> Result<(), PlatformError>;
    /// Removes whatever is mapped in `[address, address + length)`.
    fn unmap(&mut self, address: u64, length: u64);
    /// Changes the protection of whatever is mapped in `[address, address + length)`.
    fn protect(&mut self, address: u64, length: u64, protection: Protection);
    /// As [`AddressSpace::protect`] for many ranges, given as address, length and protection: an implementation to which
    /// a change has a cost of its own pays it once.
    fn protect_all(&mut self, ranges: &[(u64, u64, Protection)]) {
        for (address, length, protection) in ranges {
            self.protect(*address, *length, *protection);
        }
    }
}

/// Names an address space to [`Vcpu::run`]; its meaning is the implementation's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceToken(pub u64);

/// A virtual CPU, used by one thread of the monitor.
pub trait Vcpu {
    /// Runs user code in `space` from `registers` until it needs the monitor. On return `registers` are those of the
    /// guest thread at the exit (see [`Exit`] for where `rip` stands).
    fn run(&mut self, space: SpaceToken, registers: &mut Registers) -> Result<Exit, PlatformError>;
    /// The floating-point and vector state as the last run left it.
    fn fpu(&mut self) -> Result<FpuState, PlatformError>;
    /// Replaces the floating-point and vector state for the next run.
    fn set_fpu(&mut self, state: &FpuState) -> Result<(), PlatformError>;
    /// The state of a program that has just been started.
    fn initial_fpu(&self) -> FpuState;
    /// A handle that ends a run from another thread.
    fn kicker(&self) -> Arc<dyn Kicker>;
}

/// Ends a run of one virtual CPU from any thread.
pub trait Kicker: Send + Sync {
    /// Makes the run in progress, or the next one, return [`Exit::Preempted`]. Not lost when no run is in progress.
    fn kick(&self);
}
