//! The conformance suite of platforms on ptrace.

use calypte_platform::{Access, Exit, Frame, FrameRange, Registers};
use calypte_ptrace::{Config, create_machine, probe};
use calypte_testkit::platform::Platform;
use calypte_testkit::platform::guest::{Guest, PAGE, READ, SPARE, STACK_TOP, start_registers};
use calypte_testkit::program;

fn platform() -> Platform {
    Platform {
        create: |memory_frames_max| create_machine(&Config { memory_frames_max }),
        missing: probe().err().map(|reason| reason.to_string()),
    }
}

calypte_testkit::platform_tests!(crate::platform());

program!(call_vsyscall: "mov rdi, 0xffffffffff600000", "call rdi", "ud2");

/// Unlike a jump there, whose return address cannot be read, a call is one that the kernel would emulate.
#[test]
fn the_vsyscall_page_is_not_there() {
    let Some(mut guest) = Guest::new(&platform(), "the_vsyscall_page_is_not_there", call_vsyscall()) else { return };
    let address = 0xffff_ffff_ff60_0000;
    assert_eq!(guest.run(), Exit::PageFault { address, access: Access::Execute });
    assert_eq!((guest.registers.rip, guest.registers.rsp), (address, STACK_TOP - 8));
}

program!(far_jump: "push rdi", "lea rax, [rip + 2f]", "push rax", "retfq", "2: nop", "int 0x80", "ud2");

/// 32-bit code is there for other processes of the host.
#[test]
fn code_of_other_widths_is_a_protection_fault() {
    let name = "code_of_other_widths_is_a_protection_fault";
    let Some(mut guest) = Guest::new(&platform(), name, far_jump()) else { return };
    for selector in [0x23, 0x2b, 0x1b, 0x08, 0x33] {
        guest.registers = Registers { rdi: selector, ..start_registers() };
        assert!(matches!(guest.run(), Exit::Exception { vector: 10..=13, .. }), "{selector:#x}");
    }
    assert_eq!(guest.run_program(call()), Exit::SystemCall, "and leaves nothing behind");
}

program!(call: "syscall");
program!(load: "mov rax, [rdi]", "syscall");

/// A process of the host has at most 65,530 areas, and a guest may have more.
#[test]
fn more_mappings_than_a_process_of_the_host_may_have() {
    let name = "more_mappings_than_a_process_of_the_host_may_have";
    const COUNT: u32 = 80_000;
    let Some(machine) = platform().machine(name, COUNT) else { return };
    let mut guest = Guest::on(machine, load());
    guest.memory.grow(COUNT).unwrap();
    let address_of = |index: u32| (1 << 32) + u64::from(index) * PAGE;
    let frame_of = |index: u32| Frame(SPARE.0 + (index * 7) % (COUNT - SPARE.0));
    for index in 0..COUNT {
        guest.space.map(address_of(index), FrameRange::one(frame_of(index)), READ).unwrap();
    }
    for index in (0..COUNT).step_by(997) {
        guest.memory.copy_in(frame_of(index), 0, &u64::from(index).to_le_bytes());
        guest.registers = Registers { rdi: address_of(index), ..start_registers() };
        assert_eq!(guest.run(), Exit::SystemCall);
        assert_eq!(guest.registers.rax, u64::from(index));
    }
}
