//! New threads and processes: `clone`, `clone3`, `fork`, `vfork`.

use calypte_platform::Registers;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::errno::Errno;
use crate::file::pidfd;
use crate::limits::Resource;
use crate::mm::SpaceId;
use crate::outcome::{SysResult, Wait, WaitKey};
use crate::process::{Pid, Process, Sharing};
use crate::signal::{AlternateStack, Signal};
use crate::sys::entry;
use crate::sys::schedule::POLICY_RESET_ON_FORK;
use crate::sys::thread::checked_base;
use crate::table::SystemCall;
use crate::thread::Thread;
use crate::waits::Tid;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(56, "clone", clone).supports(
        "all flags but these: namespaces (`CLONE_NEW*`) give `EPERM`; `CLONE_IO`, `CLONE_PTRACE`, `CLONE_UNTRACED` and \
         `CLONE_SYSVSEM` change nothing; threads without `CLONE_FS` and `CLONE_FILES` give `EINVAL`",
    ),
    entry(57, "fork", fork),
    entry(58, "vfork", vfork),
    entry(272, "unshare", unshare).supports(
        "CLONE_FILES, CLONE_FS and CLONE_SYSVSEM of a process with one thread, CLONE_THREAD, CLONE_SIGHAND and CLONE_VM where \
         nothing is shared; EINVAL otherwise; namespaces are EPERM",
    ),
    entry(435, "clone3", clone3).supports(
        "as `clone`, and `CLONE_CLEAR_SIGHAND`; `set_tid` and `CLONE_INTO_CGROUP` give `EPERM`; a larger `struct clone_args` \
         than Linux 6.1's with anything in it gives `E2BIG`",
    ),
];

const EXIT_SIGNAL_MASK: u64 = 0xff;
const CLONE_NEWTIME: u64 = 0x80;
const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_NEWNS: u64 = 0x2_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_SYSVSEM: u64 = 0x4_0000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
/// `CLONE_NEWCGROUP`, `UTS`, `IPC`, `USER`, `PID`, `NET`.
const CLONE_NAMESPACES: u64 = CLONE_NEWNS | 0x7e00_0000;
/// All that `unshare` knows.
const UNSHARE_FLAGS: u64 =
    CLONE_NAMESPACES | CLONE_NEWTIME | CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// All of `clone3`.
const CLONE3_FLAGS: u64 = 0x3_ffff_ffff;
/// Smallest and largest `struct clone_args` that are understood (`CLONE_ARGS_SIZE_VER0`, a page).
const CLONE3_BYTES: std::ops::RangeInclusive<u64> = 64..=4096;

/// What is asked for, in whichever form.
#[derive(Default)]
struct Request {
    flags: u64,
    exit_signal: u64,
    /// Stack pointer of the new thread; 0: that of the caller.
    stack_pointer: u64,
    pidfd_address: u64,
    parent_tid_address: u64,
    child_tid_address: u64,
    tls: u64,
}

/// `struct clone_args` of Linux 6.1; older versions end before.
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
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn clone(call: &mut Call<'_>) -> SysResult {
    let [flags, stack_pointer, parent_tid_address, child_tid_address, tls, _] = call.args;
    let flags = u64::from(flags as u32);
    let request = Request {
        flags: flags & !EXIT_SIGNAL_MASK,
        exit_signal: flags & EXIT_SIGNAL_MASK,
        stack_pointer,
        pidfd_address: parent_tid_address,
        parent_tid_address,
        child_tid_address,
        tls,
    };
    if flags & CLONE_PIDFD != 0 && flags & (CLONE_DETACHED | CLONE_PARENT_SETTID) != 0 {
        return Err(Errno::EINVAL.into());
    }
    start(call, &request)
}

fn fork(call: &mut Call<'_>) -> SysResult {
    start(call, &Request { exit_signal: Signal::CHLD.number().into(), ..Request::default() })
}

fn vfork(call: &mut Call<'_>) -> SysResult {
    let exit_signal = Signal::CHLD.number().into();
    start(call, &Request { flags: CLONE_VFORK | CLONE_VM, exit_signal, ..Request::default() })
}

fn clone3(call: &mut Call<'_>) -> SysResult {
    let [address, size, ..] = call.args;
    if !CLONE3_BYTES.contains(&size) {
        return Err(if size > *CLONE3_BYTES.end() { Errno::E2BIG } else { Errno::EINVAL }.into());
    }
    let known = size_of::<CloneArguments>();
    let mut bytes = call.read_bytes(address, size as usize)?;
    bytes.resize(known.max(bytes.len()), 0);
    let (arguments, rest) = CloneArguments::read_from_prefix(&bytes).map_err(|_| Errno::EFAULT)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let is_valid = arguments.flags & !CLONE3_FLAGS == 0
        && arguments.flags & (CLONE_DETACHED | (EXIT_SIGNAL_MASK & !CLONE_NEWTIME)) == 0
        && arguments.flags & (CLONE_SIGHAND | CLONE_CLEAR_SIGHAND) != CLONE_SIGHAND | CLONE_CLEAR_SIGHAND
        && (arguments.flags & (CLONE_THREAD | CLONE_PARENT) == 0 || arguments.exit_signal == 0)
        && (arguments.stack == 0) == (arguments.stack_size == 0)
        && arguments.exit_signal <= 64;
    if !is_valid || (arguments.set_tid == 0) != (arguments.set_tid_size == 0) {
        return Err(Errno::EINVAL.into());
    }
    if arguments.set_tid != 0 || arguments.flags & (CLONE_NEWTIME | CLONE_INTO_CGROUP) != 0 {
        return Err(Errno::EPERM.into());
    }
    let request = Request {
        flags: arguments.flags,
        exit_signal: arguments.exit_signal,
        stack_pointer: arguments.stack.wrapping_add(arguments.stack_size),
        pidfd_address: arguments.pidfd,
        parent_tid_address: arguments.parent_tid,
        child_tid_address: arguments.child_tid,
        tls: arguments.tls,
    };
    start(call, &request)
}

/// What a process has of its own from now on. Threads have nothing of their own: where there are several, the call fails.
fn unshare(call: &mut Call<'_>) -> SysResult {
    let flags = call.args[0];
    if flags & !UNSHARE_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let has = |any: u64| flags & any != 0;
    let pid = call.pid;
    let is_threaded = call.kernel.threads_of(pid).len() > 1;
    if is_threaded && has(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD) {
        return Err(Errno::EINVAL.into());
    }
    let own = &call.kernel.processes[&pid];
    let mut others = call.kernel.processes.values().filter(|other| other.pid != pid);
    let is_shared = others.any(|other| {
        let shares_space = has(CLONE_VM) && other.space == own.space && !other.is_zombie();
        shares_space || has(CLONE_VM | CLONE_SIGHAND) && own.shares_actions_with(other)
    });
    if is_shared {
        return Err(Errno::EINVAL.into());
    }
    if has(CLONE_NAMESPACES | CLONE_NEWTIME) {
        return Err(Errno::EPERM.into());
    }
    let process = call.process();
    if has(CLONE_FILES) {
        process.files.unshare();
    }
    if has(CLONE_FS) {
        process.unshare_surroundings();
    }
    Ok(0)
}

/// Whether flags go together (`clone(2)`, "Errors").
fn check(flags: u64) -> Result<(), Errno> {
    let has = |all: u64| flags & all == all;
    let is_contradictory = (has(CLONE_SIGHAND) && !has(CLONE_VM))
        || (has(CLONE_THREAD) && !has(CLONE_SIGHAND))
        || has(CLONE_NEWNS | CLONE_FS)
        || (has(CLONE_THREAD) && !has(CLONE_FS | CLONE_FILES))
        || has(CLONE_THREAD | CLONE_PIDFD);
    if is_contradictory {
        return Err(Errno::EINVAL);
    }
    if flags & CLONE_NAMESPACES != 0 { Err(Errno::EPERM) } else { Ok(()) }
}

fn start(call: &mut Call<'_>, request: &Request) -> SysResult {
    // A `vfork` whose child was made before the caller began to wait for it.
    if let Ok(child @ 1..) = Pid::try_from(call.progress()) {
        return await_release(call, child);
    }
    check(request.flags)?;
    let fs_base = match request.flags & CLONE_SETTLS {
        0 => None,
        _ => Some(checked_base(call.kernel, request.tls)?),
    };
    let tid = call.kernel.new_tid()?;
    check_limit(call)?;
    let thread = new_thread(call, request, tid, fs_base);
    if request.flags & CLONE_THREAD != 0 {
        return start_thread(call, request, tid, thread);
    }
    start_process(call, request, tid, thread)
}

/// `RLIMIT_NPROC` counts threads and zombies of the caller's user. Root is exempt.
fn check_limit(call: &mut Call<'_>) -> Result<(), Errno> {
    let (uid, limit) = {
        let process = call.process();
        (process.credentials.uid, process.limits.get(Resource::Processes).soft)
    };
    if uid == 0 {
        return Ok(());
    }
    let is_own = |pid: &Pid| call.kernel.processes.get(pid).is_some_and(|process| process.credentials.uid == uid);
    let threads = call.kernel.threads.values().filter(|thread| is_own(&thread.pid)).count();
    let zombies = call.kernel.processes.values().filter(|process| process.is_zombie() && is_own(&process.pid)).count();
    if (threads + zombies) as u64 >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// A copy of the calling thread that is about to return 0 from this call.
fn new_thread(call: &mut Call<'_>, request: &Request, pid: Pid, fs_base: Option<u64>) -> Thread {
    let parent = call.thread();
    let mut registers = Registers { rax: 0, ..parent.registers };
    if request.stack_pointer != 0 {
        registers.rsp = request.stack_pointer;
    }
    registers.fs_base = fs_base.unwrap_or(registers.fs_base);
    let mut thread = Thread::new(pid, registers, parent.fpu.clone());
    thread.name = parent.name;
    thread.blocked = parent.blocked;
    thread.affinity = parent.affinity;
    thread.policy = parent.policy & !POLICY_RESET_ON_FORK;
    if request.flags & CLONE_CHILD_CLEARTID != 0 {
        thread.clear_child_tid = request.child_tid_address;
    }
    thread
}

fn start_thread(call: &mut Call<'_>, request: &Request, tid: Tid, mut thread: Thread) -> SysResult {
    thread.pid = call.pid;
    if request.flags & CLONE_PARENT_SETTID != 0 {
        call.write(request.parent_tid_address, &tid)?;
    }
    if request.flags & CLONE_CHILD_SETTID != 0 {
        // As on Linux, where the child writes it, a bad address is no reason to fail.
        let _ = call.write(request.child_tid_address, &tid);
    }
    call.kernel.start_thread(tid, thread);
    Ok(u64::from(tid))
}

fn start_process(call: &mut Call<'_>, request: &Request, pid: Pid, mut thread: Thread) -> SysResult {
    let flags = request.flags;
    if flags & (CLONE_VM | CLONE_VFORK) != CLONE_VM {
        thread.alternate_stack = call.thread().alternate_stack;
    } else {
        thread.alternate_stack = AlternateStack::DISABLED;
    }
    let space = new_space(call, flags)?;
    let started_ns = call.kernel.clock.monotonic_ns();
    let sharing = Sharing {
        files: flags & CLONE_FILES != 0,
        surroundings: flags & CLONE_FS != 0,
        actions: flags & CLONE_SIGHAND != 0,
    };
    let mut child = call.process().child(pid, space, sharing, started_ns);
    if flags & CLONE_CLEAR_SIGHAND != 0 {
        child.reset_handlers();
    }
    child.exit_signal = Signal::new(request.exit_signal as i32);
    if flags & CLONE_PARENT != 0 {
        let caller = call.process();
        (child.parent, child.exit_signal) = (caller.parent, caller.exit_signal);
    }
    child.is_holding_parent = flags & CLONE_VFORK != 0;
    if let Err(errno) = announce(call, request, &mut child) {
        call.kernel.spaces.release(space, &mut call.kernel.frames);
        return Err(errno.into());
    }
    call.kernel.processes.insert(pid, child);
    if flags & CLONE_CHILD_SETTID != 0 {
        let _ = call.kernel.write_user(pid, request.child_tid_address, &pid.to_le_bytes());
    }
    call.kernel.start_thread(pid, thread);
    if flags & CLONE_VFORK != 0 {
        return await_release(call, pid);
    }
    Ok(u64::from(pid))
}

fn new_space(call: &mut Call<'_>, flags: u64) -> Result<SpaceId, Errno> {
    let own = call.process().space;
    if flags & CLONE_VM != 0 {
        call.kernel.spaces.share(own);
        return Ok(own);
    }
    let machine = call.kernel.machine.clone();
    call.kernel.spaces.fork(own, &*machine, &mut call.kernel.frames)
}

/// Tells the caller the child's id and gives it a descriptor, where it wants them. The child does not exist yet.
fn announce(call: &mut Call<'_>, request: &Request, child: &mut Process) -> Result<(), Errno> {
    if request.flags & CLONE_PARENT_SETTID != 0 {
        call.write(request.parent_tid_address, &child.pid)?;
    }
    if request.flags & CLONE_PIDFD != 0 {
        let file = pidfd::open(child.life(call.kernel.waits.notifier()), 0);
        let fd = call.install(file, true)?;
        if let Err(errno) = call.write(request.pidfd_address, &fd) {
            call.process().files.remove(fd)?;
            return Err(errno);
        }
    }
    Ok(())
}

/// The caller of `vfork` waits until its child has memory of its own or has ended. No signal but one that ends the caller
/// ends the wait.
fn await_release(call: &mut Call<'_>, child: Pid) -> SysResult {
    if call.kernel.processes.get(&child).is_some_and(|process| process.is_holding_parent) {
        return Err(call.block_with_progress(Wait::on(WaitKey::Release(child)), child as usize));
    }
    Ok(u64::from(child))
}
