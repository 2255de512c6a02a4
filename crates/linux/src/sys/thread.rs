//! Threads: `clone`, `clone3`, `exit`, and what a thread has of its own.

use calypte_platform::Registers;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::errno::Errno;
use crate::kernel::{GuestExit, Kernel};
use crate::outcome::{Stop, SysResult};
use crate::process::Pid;
use crate::sys::{entry, futex};
use crate::table::SystemCall;
use crate::thread::{Thread, ThreadState};
use crate::waits::Tid;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(56, "clone", clone),
    entry(60, "exit", exit),
    entry(158, "arch_prctl", arch_prctl),
    entry(186, "gettid", gettid),
    entry(218, "set_tid_address", set_tid_address),
    entry(435, "clone3", clone3),
];

const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_SYSVSEM: u64 = 0x4_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
/// A new thread of the same process shares all of these.
const THREAD_FLAGS: u64 = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;
const THREAD_FLAGS_KNOWN: u64 = THREAD_FLAGS
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID
    | CLONE_DETACHED
    | CLONE_CHILD_SETTID;
/// Smallest and largest `struct clone_args` that are understood (`CLONE_ARGS_SIZE_VER0`, a page).
const CLONE3_BYTES: std::ops::RangeInclusive<u64> = 64..=4096;

/// A `clone` in either form.
struct CloneRequest {
    flags: u64,
    /// Stack pointer of the new thread; 0: that of the caller.
    stack_pointer: u64,
    parent_tid_address: u64,
    child_tid_address: u64,
    tls: u64,
}

/// `struct clone_args`, the part that every version has.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

fn clone(call: &mut Call<'_>) -> SysResult {
    let [flags, stack_pointer, parent_tid_address, child_tid_address, tls, _] = call.args;
    let request = CloneRequest { flags: flags & !0xff, stack_pointer, parent_tid_address, child_tid_address, tls };
    start(call, &request)
}

fn clone3(call: &mut Call<'_>) -> SysResult {
    let [address, size, ..] = call.args;
    if !CLONE3_BYTES.contains(&size) {
        return Err(if size > *CLONE3_BYTES.end() { Errno::E2BIG } else { Errno::EINVAL }.into());
    }
    let arguments: CloneArguments = call.read(address)?;
    let known = size_of::<CloneArguments>() as u64;
    let rest = call.read_bytes(address + known, (size - known) as usize)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into()); // `set_tid`, `cgroup` and what comes after them.
    }
    if arguments.flags & 0xff != 0 || (arguments.stack == 0) != (arguments.stack_size == 0) {
        return Err(Errno::EINVAL.into());
    }
    let request = CloneRequest {
        flags: arguments.flags,
        stack_pointer: arguments.stack.wrapping_add(arguments.stack_size),
        parent_tid_address: arguments.parent_tid,
        child_tid_address: arguments.child_tid,
        tls: arguments.tls,
    };
    start(call, &request)
}

/// Starts a thread. Child processes are not offered yet: `ENOSYS`, which programs take for an old kernel.
fn start(call: &mut Call<'_>, request: &CloneRequest) -> SysResult {
    let flags = request.flags;
    if flags & THREAD_FLAGS != THREAD_FLAGS {
        let is_contradictory = flags & CLONE_THREAD != 0 || flags & (CLONE_SIGHAND | CLONE_VM) == CLONE_SIGHAND;
        if is_contradictory {
            return Err(Errno::EINVAL.into());
        }
        call.kernel.has_refused_child = true;
        return Err(Errno::ENOSYS.into());
    }
    let is_sharing_files = flags & (CLONE_FS | CLONE_FILES) == CLONE_FS | CLONE_FILES;
    if flags & !THREAD_FLAGS_KNOWN != 0 || !is_sharing_files {
        return Err(Errno::EINVAL.into());
    }
    let mut fs_base = None;
    if flags & CLONE_SETTLS != 0 {
        fs_base = Some(checked_base(call.kernel, request.tls)?);
    }
    let tid = call.kernel.new_tid()?;
    let parent = call.thread();
    let mut registers = Registers { rax: 0, ..parent.registers };
    if request.stack_pointer != 0 {
        registers.rsp = request.stack_pointer;
    }
    registers.fs_base = fs_base.unwrap_or(registers.fs_base);
    let (name, blocked, fpu) = (parent.name, parent.blocked, parent.fpu.clone());
    let mut thread = Thread::new(call.pid, registers, fpu);
    thread.name = name;
    thread.blocked = blocked;
    if flags & CLONE_CHILD_CLEARTID != 0 {
        thread.clear_child_tid = request.child_tid_address;
    }
    if flags & CLONE_PARENT_SETTID != 0 {
        call.write(request.parent_tid_address, &tid)?;
    }
    if flags & CLONE_CHILD_SETTID != 0 {
        // As on Linux, where the child writes it, a bad address is no reason to fail.
        let _ = call.write(request.child_tid_address, &tid);
    }
    call.kernel.start_thread(tid, thread);
    Ok(u64::from(tid))
}

/// A segment base must be an address of user code, or the processor would refuse it.
fn checked_base(kernel: &Kernel, base: u64) -> Result<u64, Errno> {
    if base < kernel.machine.user_end() { Ok(base) } else { Err(Errno::EPERM) }
}

fn exit(call: &mut Call<'_>) -> SysResult {
    let status = call.args[0] as u8;
    if call.tid == call.pid {
        call.process().first_thread_status = Some(status);
    }
    if call.kernel.threads_of(call.pid).len() == 1 {
        let status = call.process().first_thread_status.unwrap_or(status);
        call.kernel.end_process(call.pid, GuestExit::Status(status));
    }
    call.kernel.end_thread(call.tid);
    Err(Stop::Replaced)
}

impl Kernel {
    /// Ends a thread that no virtual CPU runs, or the caller.
    pub(crate) fn end_thread(&mut self, tid: Tid) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let pid = thread.pid;
        let (robust_list, clear_child_tid) = (thread.robust_list, thread.clear_child_tid);
        futex::leave_robust_list(self, pid, tid, robust_list);
        futex::clear_and_wake(self, pid, clear_child_tid);
        self.waits.forget(tid);
        self.scheduler.forget(tid);
        if let Some(thread) = self.threads.remove(&tid)
            && let Some(process) = self.processes.get_mut(&pid)
        {
            process.ended_threads_cpu_ns += thread.cpu_ns;
        }
        self.notify_exit(pid);
    }

    /// Ends every thread of a process but one. Those that a virtual CPU runs end when they are off it: whether there are
    /// none of them.
    pub(crate) fn end_other_threads(&mut self, survivor: Tid) -> bool {
        let pid = self.threads[&survivor].pid;
        let mut is_alone = true;
        for tid in self.threads_of(pid) {
            if tid == survivor {
                continue;
            }
            let thread = self.threads.get_mut(&tid).expect("just listed");
            if let ThreadState::Running(vcpu) = thread.state {
                thread.is_killed = true;
                self.scheduler.kick(vcpu);
                is_alone = false;
            } else {
                self.end_thread(tid);
            }
        }
        is_alone
    }

    /// Time that a process's threads have had virtual CPUs, nanoseconds.
    pub fn process_cpu_ns(&self, pid: Pid) -> u64 {
        let alive: u64 = self.threads.values().filter(|thread| thread.pid == pid).map(|thread| thread.cpu_ns).sum();
        alive + self.processes.get(&pid).map_or(0, |process| process.ended_threads_cpu_ns)
    }
}

fn gettid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.tid))
}

fn set_tid_address(call: &mut Call<'_>) -> SysResult {
    let address = call.args[0];
    call.thread().clear_child_tid = address;
    Ok(u64::from(call.tid))
}

fn arch_prctl(call: &mut Call<'_>) -> SysResult {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let [code, address, ..] = call.args;
    let registers = call.thread().registers;
    match code {
        SET_FS | SET_GS => {
            let base = checked_base(call.kernel, address)?;
            let registers = &mut call.thread().registers;
            if code == SET_FS {
                registers.fs_base = base;
            } else {
                registers.gs_base = base;
            }
        }
        GET_FS => call.write(address, &registers.fs_base)?,
        GET_GS => call.write(address, &registers.gs_base)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}
