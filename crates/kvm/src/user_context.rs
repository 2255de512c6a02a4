//! Registers on the way into and out of user mode: what may be entered, and who caused an exit.

use calypte_platform::{Access, Registers};
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use crate::layout::{
    EXCEPTION_PORT, GDT, HANDLER_STRIDE, HANDLERS, IDT, STUB, SYSTEM_CALL_PORT, TASK, TSS_LIMIT, USER_CODE, USER_DATA,
    USER_END, VECTORS, vcpu_page,
};
use crate::system_pages::{GDT_LIMIT, IDT_LIMIT};

/// Flags a program may set: status flags, trap, direction, nested task, resume, alignment check, identification. Above
/// all not the I/O privilege level, which would override the permission bitmap.
const USER_FLAGS: u64 = 0x0025_4dd5;
/// Flags that user code always runs with: the reserved one and interrupts.
const FIXED_FLAGS: u64 = 0x202;

/// `CR0`: paging, alignment checks, write protection, numeric errors, monitor coprocessor, protected mode.
const CR0: u64 = 0x8005_0033;
/// `CR4`: physical address extension, `FXSAVE`, SIMD exceptions, `XSAVE`.
const CR4: u64 = 0x4_0620;
/// `CR4`: the instructions that read and write segment bases.
const CR4_FSGSBASE: u64 = 1 << 16;
/// `EFER`: system call extensions, long mode (enabled and active), no-execute.
const EFER: u64 = 0xd01;

/// What made a virtual CPU write to or read from an I/O port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The system call stub.
    SystemCall,
    /// The handler of an exception.
    Exception(u8),
    /// User code that used the stub's port itself. On hardware with a stricter bitmap it would be a protection fault.
    UserCode,
}

impl Origin {
    /// Decides by the instruction, not by the port alone. Hosts differ in whether `rip` is at the instruction or after it.
    pub(crate) fn of(port: u16, is_write: bool, rip: u64, privilege_level: u8) -> Self {
        const OUT_LENGTH: u64 = 2;
        if is_write && port == SYSTEM_CALL_PORT && (rip == STUB || rip == STUB + OUT_LENGTH) {
            return Self::SystemCall;
        }
        let offset = rip.wrapping_sub(HANDLERS);
        if is_write && port == EXCEPTION_PORT && privilege_level == 0 && offset < VECTORS * HANDLER_STRIDE {
            return Self::Exception((offset / HANDLER_STRIDE) as u8);
        }
        Self::UserCode
    }
}

/// Whether an address has the form that processors ask of instruction pointers and segment bases.
pub(crate) fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

/// Whether the processor would accept `registers`. Where it would not, user code gets a protection fault, which is what
/// loading such a value does on hardware.
pub(crate) fn is_enterable(registers: &Registers) -> bool {
    [registers.rip, registers.fs_base, registers.gs_base].into_iter().all(is_canonical)
}

/// Flags as user code may have them.
pub(crate) fn user_flags(rflags: u64) -> u64 {
    rflags & USER_FLAGS | FIXED_FLAGS
}

/// The access that a page fault's error code describes.
pub(crate) fn access_of(error_code: u64) -> Access {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    if error_code & FETCH != 0 {
        Access::Execute
    } else if error_code & WRITE != 0 {
        Access::Write
    } else {
        Access::Read
    }
}

/// Special registers of user mode for virtual CPU `index`: `initial` with everything set that matters. The address space
/// and the segment bases are zero.
pub(crate) fn user_sregs(initial: kvm_sregs, index: u32, has_fsgsbase: bool) -> kvm_sregs {
    let code = kvm_segment {
        limit: u32::MAX,
        selector: USER_CODE,
        type_: 11,
        present: 1,
        dpl: 3,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: USER_DATA, type_: 3, l: 0, db: 1, ..code };
    let mut sregs = initial;
    (sregs.cs, sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs) = (code, data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: vcpu_page(index),
        limit: TSS_LIMIT as u32,
        selector: TASK,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, GDT_LIMIT);
    (sregs.idt.base, sregs.idt.limit) = (IDT, IDT_LIMIT);
    (sregs.cr0, sregs.cr4, sregs.efer) = (CR0, CR4, EFER);
    if has_fsgsbase {
        sregs.cr4 |= CR4_FSGSBASE;
    }
    (sregs.cr2, sregs.cr3) = (0, 0);
    sregs
}

/// Whether a virtual CPU with special registers `current` would run on in user mode as `wanted` says.
pub(crate) fn is_same_context(current: &kvm_sregs, wanted: &kvm_sregs) -> bool {
    current.cs == wanted.cs && current.ss == wanted.ss && is_same_memory(current, wanted)
}

/// Whether address space and segment bases are the same.
pub(crate) fn is_same_memory(current: &kvm_sregs, wanted: &kvm_sregs) -> bool {
    current.cr3 == wanted.cr3 && current.fs.base == wanted.fs.base && current.gs.base == wanted.gs.base
}

/// Whether `sysretq` leads to exactly this context. It takes `rip` from `rcx` and the flags from `r11`. Processors differ
/// in when the trap flag takes effect, and Intel's fault at privilege level 0 on a return address that is not canonical.
pub(crate) fn is_reached_by_sysret(registers: &Registers) -> bool {
    const TRAP_FLAG: u64 = 0x100;
    const RESUME_FLAG: u64 = 0x1_0000;
    let flags = user_flags(registers.rflags);
    registers.rip == registers.rcx
        && registers.r11 == flags
        && flags & (TRAP_FLAG | RESUME_FLAG) == 0
        && registers.rip < USER_END
}

/// General registers for KVM.
pub(crate) fn to_kvm(registers: &Registers) -> kvm_regs {
    kvm_regs {
        rax: registers.rax,
        rbx: registers.rbx,
        rcx: registers.rcx,
        rdx: registers.rdx,
        rsi: registers.rsi,
        rdi: registers.rdi,
        rsp: registers.rsp,
        rbp: registers.rbp,
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        r11: registers.r11,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rip: registers.rip,
        rflags: user_flags(registers.rflags),
    }
}

/// General registers and segment bases as KVM reports them.
pub(crate) fn from_kvm(regs: &kvm_regs, sregs: &kvm_sregs) -> Registers {
    Registers {
        rax: regs.rax,
        rbx: regs.rbx,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        rbp: regs.rbp,
        rsp: regs.rsp,
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        rip: regs.rip,
        rflags: user_flags(regs.rflags),
        fs_base: sregs.fs.base,
        gs_base: sregs.gs.base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_decided_by_the_instruction() {
        let cases = [
            (SYSTEM_CALL_PORT, true, STUB, 0, Origin::SystemCall),
            (SYSTEM_CALL_PORT, true, STUB + 2, 3, Origin::SystemCall),
            (SYSTEM_CALL_PORT, false, STUB, 3, Origin::UserCode),
            (SYSTEM_CALL_PORT, true, STUB + 1, 3, Origin::UserCode),
            (SYSTEM_CALL_PORT, true, 0x40_0000, 3, Origin::UserCode),
            (SYSTEM_CALL_PORT, true, HANDLERS, 0, Origin::UserCode),
            (EXCEPTION_PORT, true, HANDLERS + 14 * 16, 0, Origin::Exception(14)),
            (EXCEPTION_PORT, true, HANDLERS + 14 * 16 + 2, 0, Origin::Exception(14)),
            (EXCEPTION_PORT, true, HANDLERS, 3, Origin::UserCode),
            (EXCEPTION_PORT, true, HANDLERS - 1, 0, Origin::UserCode),
            (EXCEPTION_PORT, true, HANDLERS + 32 * 16, 0, Origin::UserCode),
            (EXCEPTION_PORT, true, STUB, 0, Origin::UserCode),
        ];
        for (port, is_write, rip, level, expected) in cases {
            assert_eq!(Origin::of(port, is_write, rip, level), expected, "{port:#x} {is_write} {rip:#x} {level}");
        }
    }

    #[test]
    fn canonical_addresses() {
        for address in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
            assert!(is_canonical(address), "{address:#x}");
        }
        for address in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63] {
            assert!(!is_canonical(address), "{address:#x}");
        }
    }

    #[test]
    fn flags_never_grant_port_access() {
        assert_eq!(user_flags(u64::MAX) & 0x3000, 0, "I/O privilege level");
        assert_eq!(user_flags(u64::MAX) & 0x1a_8000, 0, "virtual-8086 and virtual interrupt flags");
        assert_eq!(user_flags(0), 0x202);
        assert_eq!(user_flags(0xcd5), 0xed7);
    }

    #[test]
    fn sysret_is_used_only_for_contexts_it_restores() {
        let plain = Registers { rip: 0x40_0000, rcx: 0x40_0000, r11: 0x246, rflags: 0x246, ..Registers::default() };
        assert!(is_reached_by_sysret(&plain));
        for other in [
            Registers { rip: 0x40_0001, ..plain },
            Registers { r11: 0x202, ..plain },
            Registers { r11: 0x3246, rflags: 0x3246, ..plain },
            Registers { r11: 0x346, rflags: 0x346, ..plain },
            Registers { r11: 0x1_0246, rflags: 0x1_0246, ..plain },
            Registers { rip: 0x8000_0000_0000, rcx: 0x8000_0000_0000, ..plain },
            Registers { rip: u64::MAX, rcx: u64::MAX, ..plain },
        ] {
            assert!(!is_reached_by_sysret(&other), "{other:x?}");
        }
    }

    #[test]
    fn page_fault_accesses() {
        assert_eq!(access_of(0x4), Access::Read);
        assert_eq!(access_of(0x7), Access::Write);
        assert_eq!(access_of(0x15), Access::Execute);
    }
}
