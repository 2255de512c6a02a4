//! What user code must not do with what KVM needs: the system pages, segments.

use calypte_platform::{Access, Exit, Registers};
use calypte_testkit::platform::guest::start_registers;
use calypte_testkit::program;

use crate::guest;

const PROTECTION_FAULT: Exit = Exit::Exception { vector: 13, error_code: 0 };

/// The address of the system call stub, as `layout.rs` has it.
const STUB: u64 = 0x3000;

program!(load: "mov rax, [rdi]", "ud2");
program!(store: "mov [rdi], rax", "ud2");
program!(jump: "jmp rdi");

#[test]
fn system_pages_are_out_of_reach() {
    let Some(mut guest) = guest::guest("system_pages_are_out_of_reach", &[]) else { return };
    for page in (0..0x10000).step_by(4096).filter(|&page| page != STUB) {
        for offset in [0, 0x10, 0x800, 0xff0] {
            let address = page + offset;
            for (code, access) in [(load(), Access::Read), (store(), Access::Write), (jump(), Access::Execute)] {
                guest.memory.copy_in(calypte_platform::Frame(0), 0, code);
                guest.registers = Registers { rdi: address, ..start_registers() };
                assert_eq!(guest.run(), Exit::PageFault { address, access }, "{address:#x}");
            }
        }
    }
    // The stub's page may be read and run, not written.
    guest.memory.copy_in(calypte_platform::Frame(0), 0, store());
    guest.registers = Registers { rdi: STUB, ..start_registers() };
    assert_eq!(guest.run(), Exit::PageFault { address: STUB, access: Access::Write });
}

#[test]
fn a_jump_to_the_stub_is_a_system_call_and_no_more() {
    let Some(mut guest) = guest::guest("a_jump_to_the_stub_is_a_system_call_and_no_more", jump()) else { return };
    let hostile = Registers { rdi: STUB, rcx: 0x1234_5000, r11: u64::MAX, ..start_registers() };
    // Second: a return address that is not canonical.
    for (rcx, then) in [
        (0x1234_5000, Exit::PageFault { address: 0x1234_5000, access: Access::Execute }),
        (0x8000_0000_0000, PROTECTION_FAULT),
    ] {
        guest.registers = Registers { rcx, ..hostile };
        match guest.run() {
            Exit::SystemCall => {
                assert_eq!(guest.registers.rip, rcx);
                assert_eq!(guest.registers.rflags & 0x3000, 0, "I/O privilege level");
                assert_eq!(guest.run(), then);
            }
            // QEMU's software processor refuses the port to all user code.
            exit => assert_eq!((exit, guest.registers.rip), (PROTECTION_FAULT, STUB)),
        }
    }
    // Into the middle: the second byte of its first instruction, its second instruction, the zeros after it.
    for offset in [1, 2, 3, 4, 0x800] {
        guest.registers = Registers { rdi: STUB + offset, ..hostile };
        let exit = guest.run();
        assert!(matches!(exit, Exit::Exception { .. } | Exit::PageFault { .. }), "{offset}: {exit:?}");
    }
}

#[test]
fn segments_of_other_kinds_are_not_there() {
    let Some(mut guest) = guest::guest("segments_of_other_kinds_are_not_there", &[]) else { return };
    program!(far_return: "push rdi", "lea rax, [rip + 2f]", "push rax", "retfq", "2: syscall");
    guest.memory.copy_in(calypte_platform::Frame(0), 0, far_return());
    // Kernel code, kernel data, the 32-bit code of other systems, data, the task segment, beyond the table.
    for selector in [0, 0x08, 0x0b, 0x13, 0x1b, 0x23, 0x30, 0x33, 0x3b, 0xfffb] {
        guest.registers = Registers { rdi: selector, ..start_registers() };
        let exit = guest.run();
        // Without hardware virtualisation user code sees the host's descriptors, and 0x33 is its 64-bit user code.
        let is_fine = matches!(exit, Exit::Exception { vector: 10..=13, .. }) || selector == 0x33;
        assert!(is_fine, "{selector:#x}: {exit:?}");
    }
    guest.registers = Registers { rdi: 0x2b, ..start_registers() };
    assert_eq!(guest.run(), Exit::SystemCall, "its own code segment");
}
