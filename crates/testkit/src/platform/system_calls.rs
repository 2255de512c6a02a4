//! System calls and the registers around them.

#![allow(missing_docs, reason = "the names of the tests say what they check")]

use calypte_platform::{Exit, Registers};

use super::Platform;
use super::guest::{CODE, Guest, STACK_TOP, program};

program!(call_forever: "2: syscall", "jmp 2b");

pub fn registers_pass_through_a_system_call_both_ways(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "registers_pass_through_a_system_call_both_ways", call_forever()) else {
        return;
    };
    let given = Registers {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rbp: 7,
        rsp: STACK_TOP - 8,
        r8: 8,
        r9: 9,
        r10: 10,
        r11: 11,
        r12: 12,
        r13: 13,
        r14: 14,
        r15: u64::MAX,
        rip: CODE,
        rflags: 0x0c95, // direction, overflow, sign, parity (and bit 4), carry
        fs_base: 0x7000_1234_5678,
        gs_base: 0x7fff_ffff_efff,
    };
    guest.registers = given;
    assert_eq!(guest.run(), Exit::SystemCall);
    let after = CODE + 2;
    let rflags = given.rflags | 0x202;
    let expected = Registers { rcx: after, r11: rflags, rip: after, rflags, ..given };
    assert_eq!(guest.registers, expected);
    // Everything the monitor changes arrives, including what `syscall` itself clobbers.
    guest.registers = Registers { rax: u64::MAX, rbx: 0, r12: 0x1234, rflags: 0x246, rsp: STACK_TOP, ..expected };
    let given = guest.registers;
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!(guest.registers, Registers { r11: 0x246, ..given });
}

program!(
    count_down:
    "mov ebx, 2000",
    "2: mov rax, rbx",
    "syscall",
    "cmp rax, 77", // the monitor's answer
    "jne 3f",
    "dec ebx",
    "jnz 2b",
    "3: mov eax, 0",
    "syscall",
);

pub fn a_loop_of_system_calls_resumes_each_time(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "a_loop_of_system_calls_resumes_each_time", count_down()) else {
        return;
    };
    for number in (1..=2000).rev() {
        assert_eq!(guest.run(), Exit::SystemCall);
        assert_eq!(guest.registers.rax, number);
        guest.registers.rax = 77;
    }
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!((guest.registers.rax, guest.registers.rbx), (0, 0));
}

program!(
    flags:
    "stc", "std",
    "mov eax, 1",
    "syscall",
    "pushfq",
    "pop rbx",
    "mov eax, 2",
    "syscall",
);

pub fn flags_survive_a_system_call_although_the_stub_runs_without_some(platform: &Platform) {
    let name = "flags_survive_a_system_call_although_the_stub_runs_without_some";
    let Some(mut guest) = Guest::new(platform, name, flags()) else { return };
    assert_eq!(guest.run(), Exit::SystemCall);
    const CARRY_AND_DIRECTION: u64 = 0x401;
    assert_eq!(guest.registers.rflags & CARRY_AND_DIRECTION, CARRY_AND_DIRECTION);
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!(guest.registers.rbx & CARRY_AND_DIRECTION, CARRY_AND_DIRECTION);
    assert_eq!(guest.registers.rbx & 0x3000, 0, "I/O privilege level");
}

pub fn a_thread_moves_between_virtual_cpus(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "a_thread_moves_between_virtual_cpus", count_down()) else { return };
    let mut other = guest.machine.create_vcpu().unwrap();
    for number in (1..=200).rev() {
        let number = 1800 + number;
        let exit =
            if number % 2 == 0 { guest.run() } else { other.run(guest.space.token(), &mut guest.registers).unwrap() };
        assert_eq!((exit, guest.registers.rax), (Exit::SystemCall, number));
        guest.registers.rax = 77;
    }
}
