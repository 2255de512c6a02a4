//! Ending a run from another thread.

#![allow(missing_docs, reason = "the names of the tests say what they check")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use calypte_platform::{Access, Exit, Registers};

use super::Platform;
use super::guest::{CODE, DATA, DATA_FRAME, Guest, PAGE, program, start_registers};

program!(spin: "2: inc qword ptr [rdi]", "jmp 2b");

pub fn a_kick_ends_a_spinning_guest(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "a_kick_ends_a_spinning_guest", spin()) else { return };
    guest.registers.rdi = DATA;
    for _ in 0..50 {
        let (kicker, memory) = (guest.vcpu.kicker(), guest.memory.clone());
        let seen = memory.load_u32(DATA_FRAME, 0);
        let kicking = thread::spawn(move || {
            while memory.load_u32(DATA_FRAME, 0) == seen {
                thread::yield_now();
            }
            kicker.kick();
        });
        assert_eq!(guest.run(), Exit::Preempted);
        assert!([CODE, CODE + 3].contains(&guest.registers.rip), "{:#x}", guest.registers.rip);
        kicking.join().unwrap();
    }
}

pub fn a_kick_before_the_run_ends_it_before_it_begins(platform: &Platform) {
    let name = "a_kick_before_the_run_ends_it_before_it_begins";
    let Some(mut guest) = Guest::new(platform, name, call_and_trap()) else { return };
    let before = guest.registers;
    guest.vcpu.kicker().kick();
    guest.vcpu.kicker().kick();
    assert_eq!(guest.run(), Exit::Preempted);
    assert_eq!(guest.registers, before);
    assert_eq!(guest.run(), Exit::SystemCall, "two kicks before a run end one run");
}

pub fn a_kick_is_never_lost_however_it_meets_the_run(platform: &Platform) {
    let name = "a_kick_is_never_lost_however_it_meets_the_run";
    let Some(mut guest) = Guest::new(platform, name, spin()) else { return };
    guest.registers.rdi = DATA;
    let (kicker, barrier) = (guest.vcpu.kicker(), Arc::new(Barrier::new(2)));
    const ROUNDS: u32 = 1500;
    let other_side = Arc::clone(&barrier);
    let kicking = thread::spawn(move || {
        for round in 0..ROUNDS {
            other_side.wait();
            // From before the ioctl to well inside the guest.
            for _ in 0..round % 300 * 10 {
                std::hint::spin_loop();
            }
            kicker.kick();
        }
    });
    for _ in 0..ROUNDS {
        barrier.wait();
        assert_eq!(guest.run(), Exit::Preempted);
    }
    kicking.join().unwrap();
}

program!(
    call_and_trap: // a system call, a fault, a trap and a fault of another kind; r8 counts the steps done
    "2: inc r8",
    "syscall",
    "inc r8",
    "mov rax, [rdi]", // three bytes
    "inc r8",
    "int3",
    "inc r8",
    "ud2",
    "jmp 2b",
);

/// Kicks hit the stub, the handlers and the moments of delivery; no event may be lost, doubled or altered.
pub fn kicks_disturb_no_event(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "kicks_disturb_no_event", call_and_trap()) else { return };
    guest.registers.rdi = DATA + PAGE;
    let (kicker, stop) = (guest.vcpu.kicker(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let kicking = thread::spawn(move || {
        let mut pause = 0;
        while !stopped.load(Ordering::Relaxed) {
            kicker.kick();
            pause = (pause + 37) % 1000;
            (0..pause * 20).for_each(|_| std::hint::spin_loop());
        }
    });
    let mut preemptions = 0;
    for step in 1..=6000_u64 {
        let exit = loop {
            match guest.run() {
                Exit::Preempted => {
                    preemptions += 1;
                    assert!(guest.registers.rip >= CODE, "{:#x}", guest.registers.rip);
                }
                exit => break exit,
            }
        };
        let registers = &mut guest.registers;
        assert_eq!(registers.r8, step, "{exit:?}");
        let expected = match step % 4 {
            1 => Exit::SystemCall,
            2 => Exit::PageFault { address: DATA + PAGE, access: Access::Read },
            3 => Exit::Exception { vector: 3, error_code: 0 },
            _ => Exit::Exception { vector: 6, error_code: 0 },
        };
        assert_eq!(exit, expected, "step {step}");
        registers.rip += match step % 4 {
            2 => 3,
            0 => 2,
            _ => 0,
        };
    }
    stop.store(true, Ordering::Relaxed);
    kicking.join().unwrap();
    assert!(preemptions > 0, "the kicks came through");
}

/// The registers of a pre-empted thread are complete: it goes on elsewhere.
pub fn a_preempted_thread_goes_on_where_it_was(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "a_preempted_thread_goes_on_where_it_was", spin()) else { return };
    guest.registers.rdi = DATA;
    let mut other = guest.machine.create_vcpu().unwrap();
    let kickers = [guest.vcpu.kicker(), other.kicker()];
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let kicking = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            kickers.iter().for_each(|kicker| kicker.kick());
            thread::yield_now();
        }
    });
    let mut registers = Registers { rdi: DATA, ..start_registers() };
    for round in 0..1000 {
        let vcpu = if round % 2 == 0 { &mut guest.vcpu } else { &mut other };
        assert_eq!(vcpu.run(guest.space.token(), &mut registers).unwrap(), Exit::Preempted);
        assert_eq!(registers.rdi, DATA);
        assert!([CODE, CODE + 3].contains(&registers.rip), "{:#x}", registers.rip);
    }
    stop.store(true, Ordering::Relaxed);
    kicking.join().unwrap();
}

pub fn a_kick_of_a_virtual_cpu_that_is_gone_does_nothing(platform: &Platform) {
    let name = "a_kick_of_a_virtual_cpu_that_is_gone_does_nothing";
    let Some(guest) = Guest::new(platform, name, spin()) else { return };
    let kicker = guest.vcpu.kicker();
    drop(guest);
    kicker.kick();
}
