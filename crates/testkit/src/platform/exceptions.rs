//! Exceptions and page faults of user code.

#![allow(missing_docs, reason = "the names of the tests say what they check")]

use calypte_platform::{Access, Exit, FrameRange};

use super::Platform;
use super::guest::{CODE, DATA, EXECUTE, Guest, PAGE, SPARE, STACK_TOP, WRITE, program, start_registers};

program!(breakpoint: "nop", "int3");
program!(undefined: "nop", "ud2");
program!(divide: "xor edx, edx", "xor ecx, ecx", "div ecx");
program!(halt: "hlt");
program!(load_non_canonical: "mov rax, 0x8000000000000000", "mov rax, [rax]");
program!(jump_non_canonical: "mov rax, 0x8000000000000000", "jmp rax");
program!(push_non_canonical: "mov rsp, 0x8000000000000000", "push rax");
program!(nothing: "nop", "nop", "nop");
program!(misaligned: "pushfq", "or dword ptr [rsp], 0x40000", "popfq", "mov eax, [0x600001]", "ud2");
program!(simd: "mov dword ptr [rsp - 8], 0x1f00", "ldmxcsr [rsp - 8]", "xorps xmm0, xmm0", "divss xmm0, xmm0", "ud2");

pub fn exceptions_report_vector_and_address(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "exceptions_report_vector_and_address", &[]) else { return };
    let cases = [
        ("int3", breakpoint(), 3, CODE + 2),
        ("ud2", undefined(), 6, CODE + 1),
        ("div by zero", divide(), 0, CODE + 4),
        ("hlt", halt(), 13, CODE),
        ("load, not canonical", load_non_canonical(), 13, CODE + 10),
        ("push, not canonical", push_non_canonical(), 12, CODE + 10),
        ("alignment check", misaligned(), 17, CODE + 9),
        ("0.0 / 0.0, unmasked", simd(), 19, CODE + 16),
    ];
    for (name, code, vector, rip) in cases {
        match guest.run_program(code) {
            // QEMU's software processor reports a stack fault as a protection fault, and it knows neither alignment checks
            // nor exceptions of vector instructions.
            Exit::Exception { vector: 13, error_code: 0 } if vector == 12 => {}
            Exit::Exception { vector: 6, error_code: 0 } if [17, 19].contains(&vector) => continue,
            exit => assert_eq!(exit, Exit::Exception { vector, error_code: 0 }, "{name}"),
        }
        assert_eq!(guest.registers.rip, rip, "{name}");
        // The same thread may go on elsewhere, as after a signal.
        assert_eq!(guest.run_program(breakpoint()), Exit::Exception { vector: 3, error_code: 0 }, "after {name}");
    }
}

pub fn an_address_that_is_not_canonical_is_a_protection_fault(platform: &Platform) {
    let name = "an_address_that_is_not_canonical_is_a_protection_fault";
    let Some(mut guest) = Guest::new(platform, name, nothing()) else { return };
    let fault = Exit::Exception { vector: 13, error_code: 0 };
    assert_eq!(guest.run_program(jump_non_canonical()), fault);
    for bad in [0x8000_0000_0000, 1 << 63, u64::MAX >> 1] {
        guest.registers = start_registers();
        guest.registers.rip = bad;
        assert_eq!(guest.run(), fault);
        assert_eq!(guest.registers.rip, bad);
        guest.registers = start_registers();
        guest.registers.fs_base = bad;
        assert_eq!(guest.run(), fault);
        guest.registers = start_registers();
        guest.registers.gs_base = bad;
        assert_eq!(guest.run(), fault);
    }
    assert_eq!(guest.run_program(breakpoint()), Exit::Exception { vector: 3, error_code: 0 });
}

pub fn the_trap_flag_steps_through_a_program(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "the_trap_flag_steps_through_a_program", nothing()) else { return };
    guest.registers.rflags = 0x100;
    for step in 1..=3 {
        assert_eq!(guest.run(), Exit::Exception { vector: 1, error_code: 0 });
        assert_eq!(guest.registers.rip, CODE + step);
        assert_eq!(guest.registers.rflags & 0x100, 0x100);
    }
}

program!(load: "mov eax, [rdi]", "ud2");
program!(store: "mov [rdi], eax", "ud2");
program!(jump: "jmp rdi");

pub fn page_faults_report_address_and_access(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "page_faults_report_address_and_access", &[]) else { return };
    guest.space.map(DATA + 8 * PAGE, FrameRange { first: SPARE, count: 1 }, EXECUTE).unwrap();
    let cases = [
        (load(), 0x50_0ff8, Access::Read),
        (store(), 0x50_0ff8, Access::Write),
        (jump(), 0x50_0ff8, Access::Execute),
        (store(), CODE + 0x800, Access::Write),
        (store(), DATA + 8 * PAGE + 4, Access::Write),
        (jump(), DATA + 0x10, Access::Execute),
        (load(), 0, Access::Read),
        (store(), 0, Access::Write),
        (load(), guest.machine.user_end() - 4, Access::Read),
        (load(), 0xffff_8000_0000_0000, Access::Read),
        (store(), u64::MAX - 7, Access::Write),
        (jump(), 0xffff_ffff_ff60_0000, Access::Execute),
        (load(), STACK_TOP, Access::Read),
    ];
    for (code, address, access) in cases {
        guest.memory.copy_in(calypte_platform::Frame(0), 0, code);
        guest.registers = start_registers();
        guest.registers.rdi = address;
        assert_eq!(guest.run(), Exit::PageFault { address, access }, "{address:#x} {access:?}");
        let rip = if access == Access::Execute { address } else { CODE };
        assert_eq!(guest.registers.rip, rip, "{address:#x} {access:?}");
    }
}

pub fn a_faulting_instruction_runs_again_once_its_page_is_there(platform: &Platform) {
    let name = "a_faulting_instruction_runs_again_once_its_page_is_there";
    let Some(mut guest) = Guest::new(platform, name, store()) else { return };
    guest.registers.rdi = DATA + PAGE + 16;
    guest.registers.rax = 0x1234;
    let fault = Exit::PageFault { address: DATA + PAGE + 16, access: Access::Write };
    assert_eq!(guest.run(), fault);
    assert_eq!(guest.run(), fault, "nothing has changed");
    guest.space.map(DATA + PAGE, FrameRange::one(SPARE), WRITE).unwrap();
    assert_eq!(guest.run(), Exit::Exception { vector: 6, error_code: 0 });
    assert_eq!(guest.read_u64(SPARE, 16), 0x1234);
}
