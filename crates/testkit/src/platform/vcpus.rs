//! Several virtual CPUs at once.

#![allow(missing_docs, reason = "the names of the tests say what they check")]

use std::thread;

use calypte_platform::{Exit, Registers};

use super::Platform;
use super::guest::{DATA, DATA_FRAME, Guest, program, start_registers};

program!(add: "2: lock inc qword ptr [rdi]", "dec rcx", "jnz 2b", "syscall");

pub fn virtual_cpus_share_memory_with_atomic_access(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "virtual_cpus_share_memory_with_atomic_access", add()) else { return };
    const EACH: u64 = 1_000_000;
    let start = Registers { rdi: DATA, rcx: EACH, ..start_registers() };
    let (machine, token) = (guest.machine.clone(), guest.space.token());
    let other = thread::spawn(move || {
        let mut registers = start;
        machine.create_vcpu().unwrap().run(token, &mut registers).unwrap()
    });
    guest.registers = start;
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!(other.join().unwrap(), Exit::SystemCall);
    assert_eq!(guest.read_u64(DATA_FRAME, 0), 2 * EACH);
}

program!(fault: "mov rax, [rdi]", "ud2");

pub fn each_virtual_cpu_reports_its_own_faults(platform: &Platform) {
    let Some(guest) = Guest::new(platform, "each_virtual_cpu_reports_its_own_faults", fault()) else { return };
    let (machine, token) = (&guest.machine, guest.space.token());
    thread::scope(|scope| {
        for number in 1..8_u64 {
            scope.spawn(move || {
                let mut vcpu = machine.create_vcpu().unwrap();
                for round in 0..200 {
                    let address = number << 32 | round << 12;
                    let rsp = number << 24 | round;
                    let mut registers = Registers { rdi: address, rsp, ..start_registers() };
                    let exit = vcpu.run(token, &mut registers).unwrap();
                    assert!(matches!(exit, Exit::PageFault { address: at, .. } if at == address), "{exit:x?}");
                    assert_eq!((registers.rsp, registers.rdi), (rsp, address));
                }
            });
        }
    });
}
