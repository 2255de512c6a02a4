//! The pages that are part of every address space and belong to us: descriptor tables, the system call stub, exception
//! handlers, and for each virtual CPU a task state segment and a stack for exception frames.

use std::ptr;
use std::sync::Arc;

use calypte_platform::PlatformError;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use crate::layout::{
    EXCEPTION_PORT, GDT, HANDLER_STRIDE, HANDLERS, IDT, KERNEL_CODE, PAGE, STUB, SYSTEM_CALL_PORT, SYSTEM_END,
    SYSTEM_SLOT, TSS_BITMAP, TSS_LIMIT, VCPUS_MAX, VECTORS, vcpu_page,
};
use crate::mapping::{HostMapping, ioctl_error};
use crate::space::entry;

/// Descriptors of 64-bit kernel code, kernel data, (none), user data and 64-bit user code, from selector 0 on. All are
/// marked accessed, so the processor never writes to the table.
const DESCRIPTORS: [u64; 6] =
    [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff];

/// Bytes of [`DESCRIPTORS`], less one: what a GDT limit is.
pub(crate) const GDT_LIMIT: u16 = (DESCRIPTORS.len() * 8 - 1) as u16;
/// Last valid offset in the interrupt descriptor table.
pub(crate) const IDT_LIMIT: u16 = (VECTORS * 16 - 1) as u16;

/// Vector of the breakpoint exception, the only one that user code may raise by an instruction of its own (`int3`).
const BREAKPOINT: u64 = 3;

/// What the processor pushes on an exception from user code, and the error code of vectors that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExceptionFrame {
    pub(crate) error_code: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
}

/// The system pages of one machine. User code can read and execute the stub, and nothing else of them.
#[derive(Debug)]
pub(crate) struct SystemPages {
    mapping: HostMapping,
}

impl SystemPages {
    /// Fills the pages in and gives them to the VM.
    pub(crate) fn new(vm: &Arc<VmFd>) -> Result<Self, PlatformError> {
        let mapping = HostMapping::reserve(SYSTEM_END)?;
        mapping.enable(0, SYSTEM_END)?;
        let pages = Self { mapping };
        pages.fill();
        let region = kvm_userspace_memory_region {
            slot: SYSTEM_SLOT,
            flags: 0,
            guest_phys_addr: GDT,
            memory_size: SYSTEM_END - GDT,
            userspace_addr: pages.mapping.pointer(GDT, (SYSTEM_END - GDT) as usize) as u64,
        };
        // SAFETY: the host range is ours and lives as long as the machine, which owns `pages`.
        unsafe { vm.set_user_memory_region(region) }.map_err(ioctl_error("KVM_SET_USER_MEMORY_REGION"))?;
        Ok(pages)
    }

    /// The frame of the exception that virtual CPU `index` has just reported, if it can be one.
    ///
    /// User code cannot write to the page, and only frames of user code are ever pushed there, always from the top.
    pub(crate) fn exception_frame(&self, index: u32, vector: u8) -> ExceptionFrame {
        let top = vcpu_page(index) + PAGE;
        let read = |depth: u64| {
            let source = self.mapping.pointer(top - depth * 8, 8);
            // SAFETY: eight aligned bytes inside the mapping; the virtual CPU that writes them is not running.
            unsafe { source.cast::<u64>().read() }
        };
        let error_code = if has_error_code(vector) { read(6) } else { 0 };
        ExceptionFrame { error_code, rip: read(5), cs: read(4), rflags: read(3), rsp: read(2) }
    }

    fn fill(&self) {
        for (index, descriptor) in (0u64..).zip(DESCRIPTORS) {
            self.write(GDT + index * 8, &descriptor.to_le_bytes());
        }
        for vector in 0..VECTORS {
            let handler = HANDLERS + vector * HANDLER_STRIDE;
            self.write(IDT + vector * 16, &gate(handler, vector == BREAKPOINT).to_le_bytes());
            // out EXCEPTION_PORT, al; hlt. The monitor never lets it get to the hlt.
            self.write(handler, &[0xe6, EXCEPTION_PORT as u8, 0xf4]);
        }
        // out SYSTEM_CALL_PORT, al; sysretq.
        self.write(STUB, &[0xe6, SYSTEM_CALL_PORT as u8, 0x48, 0x0f, 0x07]);
        for index in 0..VCPUS_MAX {
            let page = vcpu_page(index);
            let mut task = [0xff; TSS_LIMIT as usize + 1];
            task[..TSS_BITMAP as usize].fill(0);
            task[0x04..0x0c].copy_from_slice(&(page + PAGE).to_le_bytes());
            task[0x66..0x68].copy_from_slice(&(TSS_BITMAP as u16).to_le_bytes());
            task[TSS_BITMAP as usize + usize::from(SYSTEM_CALL_PORT / 8)] &= !(1 << (SYSTEM_CALL_PORT % 8));
            self.write(page, &task);
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let target = self.mapping.pointer(address, bytes.len());
        // SAFETY: `target` is valid for the length (checked) and the guest does not exist yet.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }
}

/// Address (virtual and physical) and entry flags of each system page.
pub(crate) fn mappings() -> impl Iterator<Item = (u64, u64)> {
    use entry::{NO_EXECUTE, PRESENT, USED, USER, WRITE};
    let shared = [
        (GDT, PRESENT | USED | NO_EXECUTE),
        (HANDLERS, PRESENT | USED),
        // For users as well: where KVM runs without hardware virtualisation, `syscall` leaves the privilege level at 3.
        (STUB, PRESENT | USED | USER),
    ];
    let own = (0..VCPUS_MAX).map(|index| (vcpu_page(index), PRESENT | USED | WRITE | NO_EXECUTE));
    shared.into_iter().chain(own)
}

/// Whether the processor pushes an error code (AMD64 Architecture Programmer's Manual, volume 2, table 8-1).
fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// An interrupt gate to `handler`.
fn gate(handler: u64, is_user_callable: bool) -> u128 {
    let attributes = if is_user_callable { 0xee00 } else { 0x8e00 };
    let low = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | attributes << 32 | (handler >> 16 & 0xffff) << 48;
    u128::from(low) | u128::from(handler >> 32) << 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stub_is_for_users_and_nothing_of_ours_is_both_writable_and_executable() {
        for (address, flags) in mappings() {
            assert_eq!(flags & entry::USER != 0, address == STUB, "{address:#x}");
            assert!(flags & entry::WRITE == 0 || flags & entry::NO_EXECUTE != 0, "{address:#x}");
            assert!((GDT..SYSTEM_END).contains(&address));
        }
    }

    #[test]
    fn gates_hold_the_whole_address() {
        assert_eq!(gate(0x1234_5678_9abc_def0, false), 0x1234_5678_9abc_8e00_0008_def0);
        assert_eq!(gate(0x2030, true), 0xee00_0008_2030);
    }
}
