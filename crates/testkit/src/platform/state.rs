//! State besides the general registers: segment bases, floating point and vectors, the clock.

#![allow(missing_docs, reason = "the names of the tests say what they check")]

use calypte_platform::Exit;

use super::Platform;
use super::guest::{DATA, DATA_FRAME, Guest, program};

program!(read_bases: "mov rax, fs:[8]", "mov rbx, gs:[16]", "syscall");

pub fn segment_bases_are_those_of_the_registers(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "segment_bases_are_those_of_the_registers", read_bases()) else {
        return;
    };
    guest.memory.copy_in(DATA_FRAME, 0x108, &5_u64.to_le_bytes());
    guest.memory.copy_in(DATA_FRAME, 0x210, &6_u64.to_le_bytes());
    guest.registers.fs_base = DATA + 0x100;
    guest.registers.gs_base = DATA + 0x200;
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!((guest.registers.rax, guest.registers.rbx), (5, 6));
}

program!(write_bases: "wrfsbase rdi", "wrgsbase rsi", "syscall", "rdfsbase rdi", "rdgsbase rsi", "syscall");

pub fn bases_written_by_user_code_are_seen_and_kept(platform: &Platform) {
    let name = "bases_written_by_user_code_are_seen_and_kept";
    let Some(mut guest) = Guest::new(platform, name, write_bases()) else { return };
    (guest.registers.rdi, guest.registers.rsi) = (0x1234_5000, 0x6789_a000);
    if guest.run() == (Exit::Exception { vector: 6, error_code: 0 }) {
        eprintln!("SKIP {name}: the processor has no wrfsbase");
        return;
    }
    assert_eq!((guest.registers.fs_base, guest.registers.gs_base), (0x1234_5000, 0x6789_a000));
    let saved = guest.registers;
    // Another thread on the same virtual CPU, then the first again.
    guest.registers = super::guest::start_registers();
    (guest.registers.rdi, guest.registers.rsi) = (1, 2);
    assert_eq!(guest.run(), Exit::SystemCall);
    guest.registers = saved;
    (guest.registers.rdi, guest.registers.rsi) = (0, 0);
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!((guest.registers.rdi, guest.registers.rsi), (0x1234_5000, 0x6789_a000));
}

program!(
    fill_vectors:
    "movq xmm0, rdi",
    "movq xmm15, rsi",
    "fldpi",
    "syscall",
    "movq rdi, xmm0",
    "movq rsi, xmm15",
    "fnstsw ax",
    "stmxcsr [0x600000]",
    "fnstcw [0x600008]",
    "syscall",
);

pub fn vector_state_belongs_to_the_thread(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "vector_state_belongs_to_the_thread", fill_vectors()) else { return };
    (guest.registers.rdi, guest.registers.rsi) = (0x1111_2222_3333_4444, u64::MAX);
    assert_eq!(guest.run(), Exit::SystemCall);
    let first = guest.registers;
    let first_fpu = guest.vcpu.fpu().unwrap();

    let initial = guest.vcpu.initial_fpu();
    guest.vcpu.set_fpu(&initial).unwrap();
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!((guest.registers.rdi, guest.registers.rsi), (0, 0), "registers of a new program");
    assert_eq!(guest.registers.rax & 0x3800, 0, "top of the x87 stack");
    assert_eq!(guest.read_u64(DATA_FRAME, 0) as u32, 0x1f80, "MXCSR");
    assert_eq!(guest.read_u64(DATA_FRAME, 8) as u16, 0x37f, "x87 control word");

    guest.registers = first;
    guest.vcpu.set_fpu(&first_fpu).unwrap();
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!((guest.registers.rdi, guest.registers.rsi), (0x1111_2222_3333_4444, u64::MAX));
    assert_eq!(guest.registers.rax & 0x3800, 0x3800, "one value on the x87 stack");
}

program!(fill_upper: "vpcmpeqd ymm7, ymm7, ymm7", "syscall", "vmovdqu [0x600020], ymm7", "syscall");

pub fn the_upper_halves_of_vectors_are_kept(platform: &Platform) {
    let name = "the_upper_halves_of_vectors_are_kept";
    let Some(mut guest) = Guest::new(platform, name, fill_upper()) else { return };
    if !std::arch::is_x86_feature_detected!("avx2") {
        eprintln!("SKIP {name}: the processor has no AVX2");
        return;
    }
    assert_eq!(guest.run(), Exit::SystemCall);
    let state = guest.vcpu.fpu().unwrap();
    let mut other = guest.machine.create_vcpu().unwrap();
    other.set_fpu(&state).unwrap();
    assert_eq!(other.run(guest.space.token(), &mut guest.registers).unwrap(), Exit::SystemCall);
    for offset in [0x20, 0x28, 0x30, 0x38] {
        assert_eq!(guest.read_u64(DATA_FRAME, offset), u64::MAX, "{offset:#x}");
    }
}

pub fn state_of_another_size_is_refused(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "state_of_another_size_is_refused", fill_vectors()) else { return };
    let short = calypte_platform::FpuState(vec![0; 512].into());
    let error = guest.vcpu.set_fpu(&short).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("512 bytes of state given"), "{error}");
}

program!(read_clock: "rdtsc", "shl rdx, 32", "or rax, rdx", "syscall");

pub fn the_time_stamp_counter_is_the_hosts(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "the_time_stamp_counter_is_the_hosts", read_clock()) else { return };
    // SAFETY: every 64-bit x86 processor has the instruction.
    #[allow(unsafe_code)]
    let now = || unsafe { std::arch::x86_64::_rdtsc() };
    let before = now();
    assert_eq!(guest.run(), Exit::SystemCall);
    let after = now();
    assert!((before..=after).contains(&guest.registers.rax), "{before} ≤ {} ≤ {after}", guest.registers.rax);
}
