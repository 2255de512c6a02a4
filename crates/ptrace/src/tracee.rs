//! One traced process: the requests of `ptrace(2)` that are needed, and waiting.
//!
//! Requests must come from the thread that traces; that is the thread of the virtual CPU which made the stub. The kernel
//! refuses them to others.

use std::io;
use std::mem::offset_of;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use calypte_platform::{PlatformError, Registers};

use crate::host::{checked, host_error};

/// Requests (`linux/ptrace.h`). Their type in `libc` differs between C libraries.
mod request {
    pub(super) const TRACEME: libc::c_long = 0;
    pub(super) const CONT: libc::c_long = 7;
    pub(super) const GETREGS: libc::c_long = 12;
    pub(super) const SETREGS: libc::c_long = 13;
    pub(super) const SYSEMU: libc::c_long = 31;
    pub(super) const SETOPTIONS: libc::c_long = 0x4200;
    pub(super) const GETEVENTMSG: libc::c_long = 0x4201;
    pub(super) const GETSIGINFO: libc::c_long = 0x4202;
    pub(super) const GETREGSET: libc::c_long = 0x4204;
    pub(super) const SETREGSET: libc::c_long = 0x4205;
    pub(super) const GET_RSEQ_CONFIGURATION: libc::c_long = 0x420f;
}

/// General registers (`linux/elf.h`).
const NT_PRSTATUS: u64 = 1;
/// Floating-point and vector registers.
const NT_X86_XSTATE: u64 = 0x202;
/// More than the largest `XSAVE` area of today's processors (11 KiB, with matrix registers).
const XSTATE_BYTES_MAX: usize = 64 * 1024;

/// `PTRACE_O_TRACESYSGOOD`, `TRACEFORK`, `TRACEVFORK`, `TRACECLONE`, `EXITKILL`.
const OPTIONS: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 20;
/// `PTRACE_EVENT_FORK`, `VFORK`, `CLONE`.
const EVENTS_OF_A_CHILD: [i32; 3] = [1, 2, 3];

/// Why a process stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was about to make a system call, which did not happen.
    SystemCall,
    /// It has made a child.
    Child,
    /// It is about to receive this signal.
    Signal(i32),
}

/// What the kernel tells about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignalInfo {
    /// Positive if the kernel sent it because of what the process did.
    pub(crate) code: i32,
    /// The address concerned; for `SIGSYS` that of the call.
    pub(crate) address: u64,
}

/// Restartable sequences of the thread that a process was forked from (`struct ptrace_rseq_configuration`).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct RestartableSequences {
    /// Address of the registered structure, zero if there is none.
    pub(crate) address: u64,
    /// Its size.
    pub(crate) bytes: u32,
    /// The signature that it was registered with.
    pub(crate) signature: u32,
    flags: u32,
    padding: u32,
}

/// General registers as the kernel has them.
pub(crate) type HostRegisters = libc::user_regs_struct;

/// A traced process. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Tracee {
    pid: libc::pid_t,
    /// False once it is reaped: its id may then belong to somebody else. Locked for whatever other threads do to it.
    is_there: Mutex<bool>,
}

/// Lets the calling process be traced by the thread that forked it. For a child between `fork` and its first stop.
pub(crate) fn trace_me() -> io::Result<()> {
    // SAFETY: no memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, request::TRACEME, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Tracee {
    /// The process `pid`, a child or tracee of the calling thread's process that nobody else waits for.
    pub(crate) fn new(pid: libc::pid_t) -> Self {
        Self { pid, is_there: Mutex::new(true) }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it stop for [`INTERRUPT_SIGNAL`], now or when it goes on. Any thread may.
    pub(crate) fn interrupt(&self) {
        let is_there = self.lock();
        if *is_there {
            // SAFETY: no memory is involved; the lock keeps the process from being reaped.
            unsafe { libc::kill(self.pid, INTERRUPT_SIGNAL) };
        }
    }

    /// Ends it, and returns when it is gone. Any thread may.
    pub(crate) fn end(&self) {
        let mut is_there = self.lock();
        if std::mem::replace(&mut *is_there, false) {
            reap(self.pid);
        }
    }

    /// Makes a request whose data is a number or a pointer that the kernel uses during the call only.
    ///
    /// # Safety
    ///
    /// Where `data` is a pointer it must be valid for what the request reads and writes.
    unsafe fn request(
        &self,
        operation: &'static str,
        request: libc::c_long,
        address: u64,
        data: u64,
    ) -> Result<libc::c_long, PlatformError> {
        // SAFETY: the caller answers for `data`; requests do not touch other memory of this process.
        checked(operation, unsafe { libc::syscall(libc::SYS_ptrace, request, self.pid, address, data) })
    }

    /// Sets how it is traced. It dies with the tracing thread, and its children are traced too.
    pub(crate) fn set_options(&self) -> Result<(), PlatformError> {
        // SAFETY: the data is a number.
        unsafe { self.request("PTRACE_SETOPTIONS", request::SETOPTIONS, 0, OPTIONS) }.map(drop)
    }

    /// Lets it go on, with a signal if `signal` is not zero.
    pub(crate) fn resume(&self, signal: i32) -> Result<(), PlatformError> {
        // SAFETY: the data is a number.
        unsafe { self.request("PTRACE_CONT", request::CONT, 0, signal as u64) }.map(drop)
    }

    /// Lets it go on; system calls stop it and do not happen.
    pub(crate) fn resume_user_code(&self) -> Result<(), PlatformError> {
        // SAFETY: the data is a number.
        unsafe { self.request("PTRACE_SYSEMU", request::SYSEMU, 0, 0) }.map(drop)
    }

    /// Waits until it stops.
    pub(crate) fn wait(&self) -> Result<Stop, PlatformError> {
        let mut status = 0;
        loop {
            // SAFETY: `status` is a valid place for the result.
            let result = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
            if result == self.pid {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(host_error("waitpid of a stub", error));
            }
        }
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            return Err(PlatformError::VcpuFailed(format!("the host ended its stub process by signal {signal}")));
        }
        if libc::WIFEXITED(status) {
            let status = libc::WEXITSTATUS(status);
            return Err(PlatformError::VcpuFailed(format!("its stub process has exited with status {status}")));
        }
        const OF_SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80;
        Ok(match (libc::WSTOPSIG(status), status >> 16) {
            (OF_SYSTEM_CALL, _) => Stop::SystemCall,
            (_, event) if EVENTS_OF_A_CHILD.contains(&event) => Stop::Child,
            (signal, _) => Stop::Signal(signal),
        })
    }

    /// The child that [`Stop::Child`] is about.
    pub(crate) fn new_child(&self) -> Result<Self, PlatformError> {
        let mut message: libc::c_ulong = 0;
        // SAFETY: the request writes one unsigned long.
        unsafe { self.request("PTRACE_GETEVENTMSG", request::GETEVENTMSG, 0, &raw mut message as u64)? };
        Ok(Self::new(message as libc::pid_t))
    }

    /// What is known about the signal that it stopped for.
    pub(crate) fn signal_info(&self) -> Result<SignalInfo, PlatformError> {
        // SAFETY: all zeros is a valid siginfo.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes one siginfo.
        unsafe { self.request("PTRACE_GETSIGINFO", request::GETSIGINFO, 0, &raw mut info as u64)? };
        // SAFETY: for signals sent because of a fault, and for `SIGSYS`, the address is the first field of the union; for
        // others these are other plain bytes and nobody uses them.
        Ok(SignalInfo { code: info.si_code, address: unsafe { info.si_addr() } as u64 })
    }

    /// How its restartable sequences are set up. None where the kernel does not say (before 5.13).
    pub(crate) fn restartable_sequences(&self) -> Option<RestartableSequences> {
        let mut found = RestartableSequences::default();
        let size = size_of::<RestartableSequences>() as u64;
        let (operation, request) = ("PTRACE_GET_RSEQ_CONFIGURATION", request::GET_RSEQ_CONFIGURATION);
        // SAFETY: the request writes at most `size` bytes.
        unsafe { self.request(operation, request, size, &raw mut found as u64) }.ok().map(|_| found)
    }

    fn register_set(
        &self,
        operation: &'static str,
        request: libc::c_long,
        set: u64,
        area: &mut [u8],
    ) -> Result<usize, PlatformError> {
        let mut vector = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: area.len() };
        // SAFETY: the request reads or writes at most `iov_len` bytes of `area`, and sets `iov_len`.
        unsafe { self.request(operation, request, set, &raw mut vector as u64)? };
        Ok(vector.iov_len)
    }

    /// Its general registers.
    pub(crate) fn registers(&self) -> Result<HostRegisters, PlatformError> {
        // SAFETY: the structure is plain integers.
        let mut registers: HostRegisters = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes one structure.
        unsafe { self.request("PTRACE_GETREGS", request::GETREGS, 0, &raw mut registers as u64)? };
        Ok(registers)
    }

    /// Replaces its general registers; the segment bases only on demand, and the data segments never. It must be in 64-bit
    /// code, since the kernel takes registers of 32-bit code otherwise.
    pub(crate) fn set_registers(&self, registers: &HostRegisters, with_bases: bool) -> Result<(), PlatformError> {
        let mut registers = *registers;
        let end = if with_bases { offset_of!(HostRegisters, ds) } else { offset_of!(HostRegisters, fs_base) };
        // SAFETY: the bytes of a structure of plain integers, borrowed exclusively.
        let area = unsafe { bytes_of(&mut registers) };
        self.register_set("PTRACE_SETREGSET", request::SETREGSET, NT_PRSTATUS, &mut area[..end]).map(drop)
    }

    /// Replaces its general registers, segment bases and selectors, whatever code it is in.
    pub(crate) fn reset_registers(&self, registers: &HostRegisters) -> Result<(), PlatformError> {
        // SAFETY: the request reads one structure.
        unsafe { self.request("PTRACE_SETREGS", request::SETREGS, 0, &raw const *registers as u64) }.map(drop)
    }

    /// Its floating-point and vector registers, of which there are `bytes`, or as many as there are.
    pub(crate) fn fpu(&self, bytes: Option<usize>) -> Result<Box<[u8]>, PlatformError> {
        let mut area = vec![0; bytes.unwrap_or(XSTATE_BYTES_MAX)];
        let length = self.register_set("PTRACE_GETREGSET", request::GETREGSET, NT_X86_XSTATE, &mut area)?;
        area.truncate(length);
        Ok(area.into_boxed_slice())
    }

    /// Replaces its floating-point and vector registers.
    pub(crate) fn set_fpu(&self, state: &[u8]) -> Result<(), PlatformError> {
        let mut area = state.to_vec();
        self.register_set("PTRACE_SETREGSET", request::SETREGSET, NT_X86_XSTATE, &mut area).map(drop)
    }

    /// Lets only these processors run it.
    pub(crate) fn set_affinity(&self, set: &libc::cpu_set_t) {
        // SAFETY: `set` is read only. A refusal costs speed and nothing else.
        let _ = unsafe { libc::sched_setaffinity(self.pid, size_of::<libc::cpu_set_t>(), set) };
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        self.end();
    }
}

/// Kills a process of ours that is not reaped yet, and waits for its end.
fn reap(pid: libc::pid_t) {
    // SAFETY: no memory is involved; the id is that of our process.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the result.
        let result = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        let is_interrupted = result == -1 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        let is_stopped = result == pid && libc::WIFSTOPPED(status);
        if !is_interrupted && !is_stopped {
            return;
        }
    }
}

/// The signal for which a stub stops because somebody wants it to. It is never delivered.
pub(crate) const INTERRUPT_SIGNAL: i32 = libc::SIGUSR1;

/// # Safety
///
/// `T` must consist of plain integers without padding.
unsafe fn bytes_of<T>(value: &mut T) -> &mut [u8] {
    // SAFETY: any byte pattern is a `T`, and the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// Our registers from the kernel's.
pub(crate) fn from_host(host: &HostRegisters) -> Registers {
    Registers {
        rax: host.rax,
        rbx: host.rbx,
        rcx: host.rcx,
        rdx: host.rdx,
        rsi: host.rsi,
        rdi: host.rdi,
        rbp: host.rbp,
        rsp: host.rsp,
        r8: host.r8,
        r9: host.r9,
        r10: host.r10,
        r11: host.r11,
        r12: host.r12,
        r13: host.r13,
        r14: host.r14,
        r15: host.r15,
        rip: host.rip,
        rflags: host.eflags,
        fs_base: host.fs_base,
        gs_base: host.gs_base,
    }
}

/// The kernel's registers from ours; selectors are those of `selectors`. No system call is in progress, so that the
/// kernel restarts none.
pub(crate) fn to_host(registers: &Registers, selectors: &HostRegisters) -> HostRegisters {
    HostRegisters {
        rax: registers.rax,
        rbx: registers.rbx,
        rcx: registers.rcx,
        rdx: registers.rdx,
        rsi: registers.rsi,
        rdi: registers.rdi,
        rbp: registers.rbp,
        rsp: registers.rsp,
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        r11: registers.r11,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rip: registers.rip,
        eflags: registers.rflags,
        fs_base: registers.fs_base,
        gs_base: registers.gs_base,
        orig_rax: u64::MAX,
        ..*selectors
    }
}
