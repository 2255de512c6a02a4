//! What user code must not do: privileged instructions, ports.

#![allow(missing_docs, reason = "the names of the tests say what they check")]

use calypte_platform::{Exit, Registers};

use super::Platform;
use super::guest::{CODE, Guest, program, start_registers};

const PROTECTION: &[u8] = &[13];
/// Hosts without hardware virtualisation report some as undefined instructions. Either way they do nothing.
const PROTECTION_OR_UNDEFINED: &[u8] = &[13, 6];

const PROTECTION_FAULT: Exit = Exit::Exception { vector: 13, error_code: 0 };

pub fn privileged_instructions_are_refused(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "privileged_instructions_are_refused", &[]) else { return };
    let cases: &[(&str, &[u8], &[u8])] = &[
        ("hlt", &[0xf4], PROTECTION),
        ("cli", &[0xfa], PROTECTION),
        ("sti", &[0xfb], PROTECTION),
        ("mov rax, cr0", &[0x0f, 0x20, 0xc0], PROTECTION),
        ("mov rax, cr3", &[0x0f, 0x20, 0xd8], PROTECTION),
        ("mov cr3, rax", &[0x0f, 0x22, 0xd8], PROTECTION),
        ("mov cr4, rax", &[0x0f, 0x22, 0xe0], PROTECTION),
        ("mov cr8, rax", &[0x44, 0x0f, 0x22, 0xc0], PROTECTION),
        ("mov rax, dr7", &[0x0f, 0x21, 0xf8], PROTECTION),
        ("mov dr7, rax", &[0x0f, 0x23, 0xf8], PROTECTION),
        ("rdmsr", &[0x0f, 0x32], PROTECTION),
        ("wrmsr", &[0x0f, 0x30], PROTECTION),
        ("rdpmc", &[0x0f, 0x33], PROTECTION),
        ("lgdt [rsp-16]", &[0x0f, 0x01, 0x54, 0x24, 0xf0], PROTECTION),
        ("lidt [rsp-16]", &[0x0f, 0x01, 0x5c, 0x24, 0xf0], PROTECTION),
        ("lldt ax", &[0x0f, 0x00, 0xd0], PROTECTION),
        ("ltr ax", &[0x0f, 0x00, 0xd8], PROTECTION),
        ("lmsw ax", &[0x0f, 0x01, 0xf0], PROTECTION),
        ("clts", &[0x0f, 0x06], PROTECTION),
        ("invd", &[0x0f, 0x08], PROTECTION),
        ("wbinvd", &[0x0f, 0x09], PROTECTION),
        ("invlpg [rax]", &[0x0f, 0x01, 0x38], PROTECTION),
        ("swapgs", &[0x0f, 0x01, 0xf8], PROTECTION_OR_UNDEFINED),
        ("sysretq", &[0x48, 0x0f, 0x07], PROTECTION_OR_UNDEFINED),
        ("sysenter", &[0x0f, 0x34], PROTECTION_OR_UNDEFINED),
        ("sysexit", &[0x0f, 0x35], PROTECTION_OR_UNDEFINED),
        ("xsetbv", &[0x0f, 0x01, 0xd1], PROTECTION_OR_UNDEFINED),
        ("monitor", &[0x0f, 0x01, 0xc8], PROTECTION_OR_UNDEFINED),
        ("mwait", &[0x0f, 0x01, 0xc9], PROTECTION_OR_UNDEFINED),
        ("vmlaunch", &[0x0f, 0x01, 0xc2], PROTECTION_OR_UNDEFINED),
        ("vmxoff", &[0x0f, 0x01, 0xc4], PROTECTION_OR_UNDEFINED),
        ("vmrun", &[0x0f, 0x01, 0xd8], PROTECTION_OR_UNDEFINED),
        ("vmload", &[0x0f, 0x01, 0xda], PROTECTION_OR_UNDEFINED),
        ("vmsave", &[0x0f, 0x01, 0xdb], PROTECTION_OR_UNDEFINED),
        ("stgi", &[0x0f, 0x01, 0xdc], PROTECTION_OR_UNDEFINED),
        ("clgi", &[0x0f, 0x01, 0xdd], PROTECTION_OR_UNDEFINED),
        ("invlpga", &[0x0f, 0x01, 0xdf], PROTECTION_OR_UNDEFINED),
        ("rsm", &[0x0f, 0xaa], PROTECTION_OR_UNDEFINED),
        ("xsaves [rsp-64]", &[0x0f, 0xc7, 0x6c, 0x24, 0xc0], PROTECTION_OR_UNDEFINED),
        ("encls", &[0x0f, 0x01, 0xcf], PROTECTION_OR_UNDEFINED),
        ("in al, 0x60", &[0xe4, 0x60], PROTECTION),
        ("in al, 0x40", &[0xe4, 0x40], PROTECTION),
        ("in eax, 0x40", &[0xe5, 0x40], PROTECTION),
        ("in al, dx", &[0xec], PROTECTION),
        ("out 0x60, al", &[0xe6, 0x60], PROTECTION),
        ("out 0x3f, ax", &[0x66, 0xe7, 0x3f], PROTECTION),
        ("out 0x41, al", &[0xe6, 0x41], PROTECTION),
        ("out 0x40, al", &[0xe6, 0x40], PROTECTION),
        ("out 0x40, ax", &[0x66, 0xe7, 0x40], PROTECTION),
        ("out 0x40, eax", &[0xe7, 0x40], PROTECTION),
        ("int 0x80", &[0xcd, 0x80], PROTECTION_OR_UNDEFINED),
        ("int 14", &[0xcd, 14], PROTECTION_OR_UNDEFINED),
        ("int 0x40", &[0xcd, 0x40], PROTECTION_OR_UNDEFINED),
        ("jmp far 0x08 (kernel code)", &[0x48, 0xff, 0x2c, 0x24], PROTECTION),
    ];
    for (name, code, vectors) in cases {
        // Memory operands of the far jump: offset 0, selector 8. It reads as a harmless operand for the others.
        guest.memory.copy_in(calypte_platform::Frame(1), 4096 - 64, &[0; 64]);
        guest.memory.copy_in(calypte_platform::Frame(1), 4096 - 16 + 8, &[8]);
        guest.memory.copy_in(calypte_platform::Frame(0), 0, &[code, &[0x0f, 0x0b][..]].concat());
        guest.registers = Registers { rsp: start_registers().rsp - 16, rcx: 0xc000_0082, ..start_registers() };
        match guest.run() {
            Exit::Exception { vector, .. } => {
                assert!(vectors.contains(&vector), "{name}: vector {vector}");
                // Of this one the processor keeps no address, and the host's kernel looks at the stack before it gives up.
                if *name == "sysenter" && vector == 13 {
                    continue;
                }
                assert!((CODE..=CODE + code.len() as u64).contains(&guest.registers.rip), "{name}");
                // The undefined instruction after it was not reached. (An access to the stub's port may be reported
                // with the address after it.)
                let is_past = guest.registers.rip == CODE + code.len() as u64;
                assert!(!is_past || vector == 13, "{name}: it was executed");
            }
            exit => panic!("{name}: {exit:?}"),
        }
        assert_eq!(guest.registers.rax, 0, "{name}");
    }
}

pub fn every_port_is_refused_in_every_width(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "every_port_is_refused_in_every_width", &[]) else { return };
    let accesses: [(&str, &[u8]); 8] = [
        ("in al, dx", &[0xec]),
        ("in ax, dx", &[0x66, 0xed]),
        ("in eax, dx", &[0xed]),
        ("out dx, al", &[0xee]),
        ("out dx, ax", &[0x66, 0xef]),
        ("out dx, eax", &[0xef]),
        ("rep outsb", &[0xf3, 0x6e]),
        ("insb", &[0x6c]),
    ];
    let ports = [0, 0x3d, 0x3e, 0x3f, 0x40, 0x41, 0x42, 0x60, 0xfc, 0xff, 0x100, 0x3f8, 0xcf8, 0x8000, 0xfffd, 0xffff];
    for (name, code) in accesses {
        for port in ports {
            guest.memory.copy_in(calypte_platform::Frame(0), 0, &[code, &[0x0f, 0x0b][..]].concat());
            let (rsi, rdi, rcx) = (CODE, start_registers().rsp - 64, 3);
            guest.registers = Registers { rdx: port, rsi, rdi, rcx, ..start_registers() };
            // Without privilege, and with the I/O privilege level that the monitor must not let through.
            guest.registers.rflags = 0x3000;
            assert_eq!(guest.run(), PROTECTION_FAULT, "{name}, port {port:#x}");
            assert_eq!(guest.registers.rax, 0, "{name}, port {port:#x}");
            let code_end = CODE + code.len() as u64;
            assert!((CODE..=code_end).contains(&guest.registers.rip), "{name}, port {port:#x}");
        }
    }
}

pub fn whatever_bytes_it_runs_the_guest_only_harms_itself(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "whatever_bytes_it_runs_the_guest_only_harms_itself", &[]) else {
        return;
    };
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    eprintln!("seed {seed}");
    let mut state = seed;
    let mut random = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let kicker = guest.vcpu.kicker();
    for _ in 0..2000 {
        let code: Vec<u8> = (0..8).flat_map(|_| random().to_le_bytes()).collect();
        guest.memory.copy_in(calypte_platform::Frame(0), 0, &code);
        guest.registers = Registers {
            rcx: random(),
            rdx: 0x40,
            rsi: start_registers().rsp - 256,
            rdi: start_registers().rsp - 512,
            r11: random(),
            rflags: random(),
            ..start_registers()
        };
        // Jumps to itself are ended by a kick.
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let kicker = kicker.clone();
        let watch = std::thread::spawn(move || {
            if is_done.recv_timeout(std::time::Duration::from_millis(50))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                kicker.kick();
            }
        });
        let result = guest.vcpu.run(guest.space.token(), &mut guest.registers);
        drop(done);
        watch.join().unwrap();
        assert!(result.is_ok(), "{result:?} for {code:x?}, seed {seed}");
    }
    program!(call: "syscall");
    while guest.run_program(call()) == Exit::Preempted {}
    assert_eq!(guest.run_program(call()), Exit::SystemCall);
}
