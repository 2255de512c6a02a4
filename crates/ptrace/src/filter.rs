//! The second line of defence around a stub: a seccomp filter (`seccomp(2)`).
//!
//! The first line is `PTRACE_SYSEMU`, under which no system call of user code happens. Should one ever get past it, it
//! meets this filter, which serves only the loop of our own code, and of that only what it needs.

use crate::control::return_address;
use crate::layout::FRAMES_FD;

/// `AUDIT_ARCH_X86_64`.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const INSTRUCTION_LOW: u32 = 8;
const INSTRUCTION_HIGH: u32 = 12;

/// How stubs map frames.
pub(crate) const MAP_FLAGS: i32 = libc::MAP_SHARED | libc::MAP_FIXED;
/// How a stub makes another one: a process of its own that belongs to the monitor.
pub(crate) const CLONE_FLAGS: i32 = libc::CLONE_PARENT | libc::SIGCHLD;
const PROTECTIONS: i32 = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;

/// Where the low half of an argument is.
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

const fn answer(action: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: action }
}

/// Skips one instruction if the accumulator is `value`.
const fn skip_if(value: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 1, jf: 0, k: value }
}

/// Skips one instruction if the accumulator has none of these bits.
const fn skip_without(bits: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16, jt: 0, jf: 1, k: bits }
}

/// Refused calls raise `SIGSYS`, which the tracer sees: the only ones that get here are those of the vsyscall page.
const REFUSE: libc::sock_filter = answer(libc::SECCOMP_RET_TRAP);

/// Instructions that allow a call if its arguments are as demanded, and go on after themselves for other calls.
fn rule(number: libc::c_long, demands: &[[libc::sock_filter; 2]]) -> Vec<libc::sock_filter> {
    let mut body = Vec::new();
    for [load, test] in demands {
        body.extend([*load, *test, REFUSE]);
    }
    body.push(answer(libc::SECCOMP_RET_ALLOW));
    let jump = libc::sock_filter { jt: 0, jf: body.len() as u8, ..skip_if(number as u32) };
    [vec![jump], body].concat()
}

/// The program.
pub(crate) fn program() -> Vec<libc::sock_filter> {
    let address = return_address();
    let equals = |index: u32, value: i32| [load(argument(index)), skip_if(value as u32)];
    [
        vec![load(ARCH), skip_if(ARCHITECTURE), REFUSE],
        vec![load(INSTRUCTION_LOW), skip_if(address as u32), REFUSE],
        vec![load(INSTRUCTION_HIGH), skip_if((address >> 32) as u32), REFUSE],
        vec![load(NUMBER)],
        rule(libc::SYS_munmap, &[]),
        rule(
            libc::SYS_mmap,
            &[[load(argument(2)), skip_without(!PROTECTIONS as u32)], equals(3, MAP_FLAGS), equals(4, FRAMES_FD)],
        ),
        rule(libc::SYS_clone, &[equals(0, CLONE_FLAGS)]),
        vec![REFUSE],
    ]
    .concat()
}
