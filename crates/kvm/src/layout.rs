//! Where things are in guest-virtual and guest-physical memory, and the selectors and ports that the pages there use.
//!
//! ```text
//!  guest-virtual                          guest-physical
//!  0                not mapped            0                  not used
//!  0x1000           GDT, IDT              0x1000 … 0xffff    system pages, same addresses
//!  0x2000           exception handlers    256 MiB …          page tables, in chunks
//!  0x3000           system call stub      4 GiB …            frame 0, frame 1, …
//!  0x4000 … 0xbfff  one page per vCPU: TSS and kernel stack
//!  0x10000 …        guest mappings
//! ```

use calypte_platform::PAGE_SIZE;

/// [`PAGE_SIZE`] as an address difference.
pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

/// GDT at the start of this page, IDT in its second half.
pub(crate) const GDT: u64 = 0x1000;
/// Bytes from the page's start to the interrupt descriptor table.
pub(crate) const IDT: u64 = GDT + 0x800;
/// Exception handlers, [`HANDLER_STRIDE`] bytes apart.
pub(crate) const HANDLERS: u64 = 0x2000;
/// Bytes from one exception handler to the next.
pub(crate) const HANDLER_STRIDE: u64 = 16;
/// The page that `syscall` enters.
pub(crate) const STUB: u64 = 0x3000;
/// In it, the instruction that returns from a system call.
pub(crate) const STUB_RETURN: u64 = STUB + 2;
/// First of the pages that hold a vCPU's TSS (from the page's start) and kernel stack (from its end down).
pub(crate) const VCPU_PAGES: u64 = 0x4000;
/// Most virtual CPUs of one machine.
pub(crate) const VCPUS_MAX: u32 = 8;
/// One past the last system address; guest mappings start here, as with Linux's default `vm.mmap_min_addr`.
pub(crate) const SYSTEM_END: u64 = 0x10000;
const _: () = assert!(VCPU_PAGES + VCPUS_MAX as u64 * PAGE <= SYSTEM_END);

/// Exceptions the processor defines; the IDT has no more entries, so any other vector is a protection fault.
pub(crate) const VECTORS: u64 = 32;
const _: () = assert!(IDT + VECTORS * 16 <= HANDLERS && VECTORS * HANDLER_STRIDE <= PAGE);

/// One past the last address of guest mappings. The last page of the lower half stays free, as in Linux: a `syscall`
/// at its end would have a return address that is not canonical.
pub(crate) const USER_END: u64 = 0x7fff_ffff_f000;

/// Guest-physical address of the page-table arena.
pub(crate) const TABLES_BASE: u64 = 256 << 20;
/// Guest-physical address of frame 0. Aligned for any page size.
pub(crate) const FRAMES_BASE: u64 = 4 << 30;

/// The port to which the system call stub writes. User code may write to it too (the stub runs at user privilege on
/// some hosts); see [`crate::user_context::Origin`].
pub(crate) const SYSTEM_CALL_PORT: u16 = 0x40;
/// The port to which exception handlers write. User code may not.
pub(crate) const EXCEPTION_PORT: u16 = 0x41;

/// Selector of the 64-bit kernel code segment.
pub(crate) const KERNEL_CODE: u16 = 0x08;
/// Selector of user data and stack segments, with user privilege.
pub(crate) const USER_DATA: u16 = 0x23;
/// Selector of the 64-bit user code segment, with user privilege.
pub(crate) const USER_CODE: u16 = 0x2b;
/// Selector of the task state segment.
pub(crate) const TASK: u16 = 0x30;
/// Value of `IA32_STAR`: `syscall` loads kernel segments from 0x08 on. (The base of `sysret` is 0x18 with user
/// privilege, whose descriptor is absent: there is no 32-bit user code.)
pub(crate) const STAR: u64 = (KERNEL_CODE as u64) << 32 | 0x1b << 48;
/// Flags that `syscall` clears: trap, interrupt, direction, I/O privilege, nested task, alignment check.
pub(crate) const SYSCALL_FLAG_MASK: u64 = 0x47700;

/// Offset of the I/O permission bitmap in a TSS.
pub(crate) const TSS_BITMAP: u64 = 0x68;
/// Highest valid offset in a TSS: the bitmap covers ports 0 to 0xff and ends in the byte of ones that the architecture
/// asks for. Ports beyond the limit are refused by the processor.
pub(crate) const TSS_LIMIT: u64 = TSS_BITMAP + 0x20;

/// KVM memory slot of the system pages.
pub(crate) const SYSTEM_SLOT: u32 = 0;
/// First slot of guest frames.
pub(crate) const FRAME_SLOT: u32 = 1;
/// Most slots of guest frames. Each at least doubles the number of frames, so 32 are never reached.
pub(crate) const FRAME_SLOTS_MAX: u32 = 32;
/// First slot of page-table chunks.
pub(crate) const TABLE_SLOT: u32 = FRAME_SLOT + FRAME_SLOTS_MAX;

/// Where the TSS and kernel stack page of a virtual CPU is.
pub(crate) fn vcpu_page(index: u32) -> u64 {
    VCPU_PAGES + u64::from(index) * PAGE
}
