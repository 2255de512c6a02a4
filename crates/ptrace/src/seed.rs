//! The first stub of a virtual CPU: forked from the monitor, emptied and locked up. The others are its copies.
//!
//! ```text
//!  monitor's thread                     child
//!  fork                                 is traced; stops
//!  tells it of restartable sequences    maps the shared pages, gives up all else, stops at a breakpoint
//!  has it unmap the monitor's memory,   (in our code, as everything from here on)
//!  map the shared pages in their place
//!  and filter its system calls
//! ```
//!
//! Between `fork` and the breakpoint the child, a copy of one thread of many, makes system calls and nothing else: it
//! allocates no memory, takes no lock and does not panic.

use std::io;
use std::ptr;

use calypte_platform::PlatformError;

use crate::calls::{make_calls, make_calls_at};
use crate::control::{BREAKPOINT, Call, Control};
use crate::filter;
use crate::host::{checked, host_error};
use crate::layout::{
    CALLS, CODE, CONTROL_BYTES, CONTROL_FD, FRAMES_FD, PAGE, RESERVED_END, SIGNAL_STACK, SIGNAL_STACK_BYTES, STAGING,
};
use crate::memory::Frames;
use crate::space::unmap_call;
use crate::tracee::{RestartableSequences, Stop, Tracee, trace_me};

/// The user that stubs run as when the monitor is root: the kernel's overflow id, "nobody".
const NOBODY: u32 = 65534;
/// Signals that describe an exception.
pub(crate) const EXCEPTION_SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
/// `RSEQ_FLAG_UNREGISTER`.
const RSEQ_UNREGISTER: i32 = 1;
const FAILED_STATUS: i32 = 1;

/// The shared pages: address, length and protection.
const CONTROL_PARTS: [(u64, u64, i32); 3] = [
    (CODE, PAGE, libc::PROT_READ | libc::PROT_EXEC),
    (CALLS, PAGE, libc::PROT_READ),
    (SIGNAL_STACK, SIGNAL_STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE),
];

/// What the child does, in order. A failure is told by the position.
const STEPS: [(&str, Step); 10] = [
    ("be traced", |_| trace_me()),
    ("stop", |_| stop()),
    ("end restartable sequences", end_restartable_sequences),
    ("be ready for signals", |_| reset_signals()),
    ("map the shared pages", map_control),
    ("handle exceptions", |_| handle_exceptions()),
    ("close files", close_files),
    ("limit its resources", |_| limit_resources()),
    ("give up privileges", |_| give_up_privileges()),
    ("end with the monitor", |_| end_with_monitor()),
];
type Step = fn(&Plan<'_>) -> io::Result<()>;

struct Plan<'a> {
    control: &'a Control,
    frames: &'a Frames,
}

/// Makes a first stub, traced by the calling thread. It is stopped in our code, with nothing mapped but the shared pages.
pub(crate) fn create(control: &Control, frames: &Frames) -> Result<Tracee, PlatformError> {
    let plan = Plan { control, frames };
    control.write_words([0, 0]);
    // SAFETY: the child runs `become_stub` only, which keeps to what a copy of one thread of many may do.
    let pid = checked("fork of a stub", unsafe { libc::syscall(libc::SYS_fork) })?;
    if pid == 0 {
        become_stub(&plan);
    }
    let tracee = Tracee::new(pid as libc::pid_t);
    expect(&tracee, control, libc::SIGSTOP)?;
    tracee.set_options()?;
    let RestartableSequences { address, bytes, signature, .. } = tracee.restartable_sequences().unwrap_or_default();
    control.write_words([address, u64::from(bytes) << 32 | u64::from(signature)]);
    tracee.resume(0)?;
    expect(&tracee, control, libc::SIGTRAP)?;
    settle(&tracee, control)?;
    Ok(tracee)
}

/// Removes what is left of the monitor in a stub, moves the shared pages to their place and closes the door.
fn settle(tracee: &Tracee, control: &Control) -> Result<(), PlatformError> {
    let refused = |error| host_error("mapping of the shared pages in a stub", error);
    let selectors = tracee.registers()?;
    let staging_end = STAGING + CONTROL_BYTES;
    let mut calls = vec![unmap_call(staging_end..RESERVED_END)];
    calls.extend(CONTROL_PARTS.map(|(address, length, protection)| {
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        let arguments = [address, length, protection as u64, flags, CONTROL_FD as u64, address - CODE];
        Call { number: libc::SYS_mmap, arguments }
    }));
    make_calls_at(STAGING, tracee, control, &selectors, &calls)?.map_err(refused)?;

    let filter = filter::program();
    let instructions: Vec<u8> = filter.iter().flat_map(instruction_bytes).collect();
    // `struct sock_fprog`: the number of instructions and where they are.
    let head = [filter.len() as u64, control.write_data(&[]) + 2 * size_of::<u64>() as u64];
    let program = control.write_data(&[head.map(u64::to_ne_bytes).as_flattened(), &instructions[..]].concat());
    let set_filter = [u64::from(libc::SECCOMP_SET_MODE_FILTER), 0, program, 0, 0, 0];
    let calls = [
        unmap_call(0..staging_end),
        Call { number: libc::SYS_close, arguments: [CONTROL_FD as u64, 0, 0, 0, 0, 0] },
        Call { number: libc::SYS_seccomp, arguments: set_filter },
    ];
    make_calls(tracee, control, &selectors, &calls)?
        .map_err(|error| host_error("installation of a stub's seccomp filter", error))
}

fn instruction_bytes(instruction: &libc::sock_filter) -> [u8; 8] {
    let libc::sock_filter { code, jt, jf, k } = *instruction;
    let [code_low, code_high] = code.to_ne_bytes();
    let [k0, k1, k2, k3] = k.to_ne_bytes();
    [code_low, code_high, jt, jf, k0, k1, k2, k3]
}

/// Waits for a stop, and explains an end.
fn expect(tracee: &Tracee, control: &Control, signal: i32) -> Result<(), PlatformError> {
    let stop = tracee.wait().map_err(|error| {
        let [step, errno] = control.read_words();
        let failed = (step as usize).checked_sub(1).and_then(|step| STEPS.get(step));
        match failed {
            Some((name, _)) => {
                let source = io::Error::from_raw_os_error(errno as i32);
                let text = format!("a stub process could not {name}: {source}");
                host_error("creation of a stub process", io::Error::new(source.kind(), text))
            }
            None => error,
        }
    })?;
    if stop == Stop::Signal(signal) {
        return Ok(());
    }
    Err(PlatformError::VcpuFailed(format!("a stub process stopped for {stop:?} while it was being made")))
}

/// The child's part.
fn become_stub(plan: &Plan<'_>) -> ! {
    for (position, (_, step)) in STEPS.iter().enumerate() {
        if let Err(error) = step(plan) {
            plan.control.write_words([position as u64 + 1, error.raw_os_error().unwrap_or(0) as u64]);
            // SAFETY: ends this process without running anything of the monitor's.
            unsafe { libc::_exit(FAILED_STATUS) };
        }
    }
    // SAFETY: stops this process; the tracer sets all registers before it goes on, and nothing of this function is used then.
    unsafe { std::arch::asm!("jmp {breakpoint}", breakpoint = in(reg) STAGING, options(noreturn)) }
}

fn result(value: libc::c_long) -> io::Result<()> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn stop() -> io::Result<()> {
    // SAFETY: no memory is involved.
    result(unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) }.into())
}

/// The C library has registered a structure that the kernel writes to whenever the thread is pre-empted. It is about to
/// be unmapped.
fn end_restartable_sequences(plan: &Plan<'_>) -> io::Result<()> {
    let [address, rest] = plan.control.read_words();
    plan.control.write_words([0, 0]);
    if address == 0 {
        return Ok(());
    }
    let (bytes, signature) = (rest >> 32, rest as u32);
    // SAFETY: ends the registration which the C library made, as the kernel described it; nothing here relies on it.
    result(unsafe { libc::syscall(libc::SYS_rseq, address, bytes as u32, RSEQ_UNREGISTER, signature) })
}

/// All signals get through to the tracer, and those of the monitor's terminal do not come.
fn reset_signals() -> io::Result<()> {
    // SAFETY: the calls use the set, which is theirs, and change this process only. Being a session leader already is fine.
    unsafe {
        libc::setsid();
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        result(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()).into())
    }
}

fn map_control(plan: &Plan<'_>) -> io::Result<()> {
    for (address, length, protection) in CONTROL_PARTS {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
        let (fd, offset) = (plan.control.file().fd(), address - CODE);
        let address = (STAGING + offset) as *mut _;
        // SAFETY: nothing is replaced.
        let found = unsafe { libc::mmap(address, length as usize, protection, flags, fd, offset as libc::off_t) };
        if found == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Exceptions are described on the signal stack and end at the breakpoint. What follows it is not run: the tracer knows
/// the registers from before.
fn handle_exceptions() -> io::Result<()> {
    let stack = libc::stack_t { ss_sp: SIGNAL_STACK as *mut _, ss_flags: 0, ss_size: SIGNAL_STACK_BYTES as usize };
    // SAFETY: the stack will be mapped before the first exception, and nothing else uses it.
    result(unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) }.into())?;
    for signal in EXCEPTION_SIGNALS {
        // SAFETY: all zeros is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = BREAKPOINT as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: the handler stops the process, so it is safe at any point.
        result(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }.into())?;
    }
    Ok(())
}

/// Keeps the frames and the shared pages only.
fn close_files(plan: &Plan<'_>) -> io::Result<()> {
    const MOVED_MIN: i32 = CONTROL_FD + 1;
    // SAFETY: file descriptors of this process only, which uses no others afterwards. The first copy is for the case that one
    // of the two is where the other belongs.
    unsafe {
        let control = libc::fcntl(plan.control.file().fd(), libc::F_DUPFD, MOVED_MIN);
        result(control.into())?;
        result(libc::dup2(plan.frames.file().fd(), FRAMES_FD).into())?;
        result(libc::dup2(control, CONTROL_FD).into())?;
        result(libc::syscall(libc::SYS_close_range, MOVED_MIN, u32::MAX, 0))
    }
}

fn limit_resources() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    for resource in [libc::RLIMIT_CORE, libc::RLIMIT_NOFILE, libc::RLIMIT_MEMLOCK, libc::RLIMIT_MSGQUEUE] {
        // SAFETY: `none` is read only.
        result(unsafe { libc::setrlimit(resource, &raw const none) }.into())?;
    }
    Ok(())
}

/// An ordinary user without capabilities, who can get none. Inside a user namespace there may be no other user.
fn give_up_privileges() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let none = [0_u32; 6];
    // SAFETY: the calls change this process only; `header` and `none` are laid out as `capget(2)` says.
    unsafe {
        if libc::geteuid() == 0 {
            libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>());
            libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY);
            libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY);
        }
        result(libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()))?;
        result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        result(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0).into())
    }
}

/// The tracing thread's end ends this process (`PTRACE_O_EXITKILL`); this is for the time before that is set, and twice is safe.
fn end_with_monitor() -> io::Result<()> {
    // SAFETY: no memory is involved.
    result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into())
}
