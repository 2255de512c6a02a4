//! Signals: sending, waiting, masks and handlers. Delivery is in [`crate::signal`].

use zerocopy::IntoBytes;

use crate::call::Call;
use crate::errno::Errno;
use crate::outcome::{Stop, SysResult, Wait};
use crate::process::Pid;
use crate::signal::{Action, AlternateStack, FLAGS_KNOWN, Info, Signal, SignalSet};
use crate::signal_frame::{self, SignalInfo};
use crate::sys::{entry, time};
use crate::table::SystemCall;
use crate::waits::Tid;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(13, "rt_sigaction", rt_sigaction),
    entry(14, "rt_sigprocmask", rt_sigprocmask),
    entry(15, "rt_sigreturn", rt_sigreturn),
    entry(62, "kill", kill),
    entry(127, "rt_sigpending", rt_sigpending),
    entry(128, "rt_sigtimedwait", rt_sigtimedwait),
    entry(129, "rt_sigqueueinfo", rt_sigqueueinfo),
    entry(130, "rt_sigsuspend", rt_sigsuspend),
    entry(131, "sigaltstack", sigaltstack),
    entry(200, "tkill", tkill),
    entry(234, "tgkill", tgkill),
    entry(297, "rt_tgsigqueueinfo", rt_tgsigqueueinfo),
];

/// Bytes of a signal set as the kernel knows it.
const SET_BYTES: u64 = 8;
/// Smallest alternate stack (`MINSIGSTKSZ`).
const ALTERNATE_STACK_BYTES_MIN: u64 = 2048;

fn check_size(size: u64) -> Result<(), Errno> {
    if size == SET_BYTES { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A signal number, or nothing for 0, which only checks.
pub(super) fn optional_signal(number: i32) -> Result<Option<Signal>, Errno> {
    if number == 0 { Ok(None) } else { Signal::new(number).map(Some).ok_or(Errno::EINVAL) }
}

fn rt_sigaction(call: &mut Call<'_>) -> SysResult {
    let [_, new_address, old_address, size, ..] = call.args;
    check_size(size)?;
    let signal = Signal::new(call.int(0)).ok_or(Errno::EINVAL)?;
    let new = if new_address == 0 { None } else { Some(call.read::<Action>(new_address)?) };
    if new.is_some() && (signal == Signal::KILL || signal == Signal::STOP) {
        return Err(Errno::EINVAL.into());
    }
    let process = call.process();
    let old = process.action(signal);
    if let Some(new) = new {
        process.set_action(signal, Action { mask: new.mask.as_mask(), flags: new.flags & FLAGS_KNOWN, ..new });
        if process.is_ignored(signal) {
            process.pending.forget(signal);
            for tid in call.kernel.threads_of(call.pid) {
                call.kernel.threads.get_mut(&tid).expect("just listed").pending.forget(signal);
            }
        }
    }
    if old_address != 0 {
        call.write(old_address, &old)?;
    }
    Ok(0)
}

fn rt_sigprocmask(call: &mut Call<'_>) -> SysResult {
    const BLOCK: i32 = 0;
    const UNBLOCK: i32 = 1;
    const SET: i32 = 2;
    let [_, new_address, old_address, size, ..] = call.args;
    check_size(size)?;
    let old = call.thread().blocked;
    if new_address != 0 {
        let set: SignalSet = call.read(new_address)?;
        let new = match call.int(0) {
            BLOCK => SignalSet(old.0 | set.0),
            UNBLOCK => SignalSet(old.0 & !set.0),
            SET => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        call.thread().blocked = new.as_mask();
    }
    if old_address != 0 {
        call.write(old_address, &old)?;
    }
    Ok(0)
}

fn rt_sigpending(call: &mut Call<'_>) -> SysResult {
    let [address, size, ..] = call.args;
    if size > SET_BYTES {
        return Err(Errno::EINVAL.into());
    }
    let blocked = call.thread().blocked;
    let pending = SignalSet(call.kernel.pending_signals(call.tid).0 & blocked.0);
    call.write_bytes(address, &pending.as_bytes()[..size as usize])?;
    Ok(0)
}

fn rt_sigreturn(call: &mut Call<'_>) -> SysResult {
    if signal_frame::pop(call.kernel, call.tid).is_err() {
        call.kernel.force_signal(call.tid, Info::from_kernel(Signal::SEGV));
    }
    Err(Stop::Replaced)
}

fn rt_sigsuspend(call: &mut Call<'_>) -> SysResult {
    let [address, size, ..] = call.args;
    check_size(size)?;
    if call.is_interrupted() {
        return Err(Errno::EINTR.into());
    }
    let mask: SignalSet = call.read(address)?;
    call.replace_blocked_signals(mask);
    Err(Stop::Block(Wait::default()))
}

impl Call<'_> {
    /// Replaces the thread's signal mask until the call is over (`sigsuspend`, `ppoll`, `pselect6`, `epoll_pwait`). Calling
    /// it again when the call runs again changes nothing.
    pub fn replace_blocked_signals(&mut self, mask: SignalSet) {
        let thread = self.thread();
        if thread.saved_blocked.is_none() {
            thread.saved_blocked = Some(thread.blocked);
        }
        thread.blocked = mask.as_mask();
    }
}

fn rt_sigtimedwait(call: &mut Call<'_>) -> SysResult {
    let [set_address, info_address, timeout_address, size, ..] = call.args;
    check_size(size)?;
    let set = call.read::<SignalSet>(set_address)?.as_mask();
    let timeout_ns = time::read_optional_timespec(call, timeout_address)?;
    if let Some(info) = call.kernel.take_signal(call.tid, set) {
        call.thread().awaited = SignalSet::EMPTY;
        if info_address != 0 {
            call.write_bytes(info_address, SignalInfo::from(info).as_bytes())?;
        }
        return Ok(u64::from(info.signal.number()));
    }
    if call.has_timed_out() || timeout_ns == Some(0) {
        call.thread().awaited = SignalSet::EMPTY;
        return Err(Errno::EAGAIN.into());
    }
    if call.is_interrupted() {
        call.thread().awaited = SignalSet::EMPTY;
        return Err(Errno::EINTR.into());
    }
    call.thread().awaited = set;
    let deadline_ns = call.deadline(timeout_ns);
    Err(Stop::Block(Wait { keys: Vec::new(), deadline_ns }))
}

fn sigaltstack(call: &mut Call<'_>) -> SysResult {
    let [new_address, old_address, ..] = call.args;
    let stack_pointer = call.thread().registers.rsp;
    let old = call.thread().alternate_stack;
    let is_on_it = old.holds(stack_pointer);
    if new_address != 0 {
        let mut new: AlternateStack = call.read(new_address)?;
        if is_on_it {
            return Err(Errno::EPERM.into());
        }
        let mode = new.flags & !AlternateStack::AUTO_DISARM;
        if mode & !(AlternateStack::DISABLE | AlternateStack::IN_USE) != 0 || mode == 3 {
            return Err(Errno::EINVAL.into());
        }
        if mode & AlternateStack::DISABLE != 0 {
            new = AlternateStack::DISABLED;
        } else if new.size < ALTERNATE_STACK_BYTES_MIN {
            return Err(Errno::ENOMEM.into());
        } else {
            new.flags &= AlternateStack::AUTO_DISARM;
        }
        call.thread().alternate_stack = new;
    }
    if old_address != 0 {
        let flags = old.flags | if is_on_it { AlternateStack::IN_USE } else { 0 };
        call.write(old_address, &AlternateStack { flags, ..old })?;
    }
    Ok(0)
}

fn kill(call: &mut Call<'_>) -> SysResult {
    let signal = optional_signal(call.int(1))?;
    let target = call.int(0);
    let own_group = call.process().group;
    let members: Vec<Pid> = match target {
        i32::MIN => return Err(Errno::ESRCH.into()),
        0 => call.kernel.processes_where(|process| process.group == own_group),
        -1 => call.kernel.processes_where(|process| process.pid != call.pid),
        group if group < 0 => call.kernel.processes_where(|process| process.group == group.unsigned_abs()),
        // The id of any thread names its process.
        pid => vec![call.kernel.process_of(pid.cast_unsigned()).ok_or(Errno::ESRCH)?],
    };
    // It is enough if one of them takes the signal.
    let mut result = Err(Errno::ESRCH);
    for pid in members {
        match send_to_process(call, pid, signal) {
            Ok(()) => result = Ok(0),
            Err(errno) if result.is_err() => result = Err(errno),
            Err(_) => {}
        }
    }
    Ok(result?)
}

fn send_to_process(call: &mut Call<'_>, pid: Pid, signal: Option<Signal>) -> Result<(), Errno> {
    check_permission(call, pid, signal)?;
    let Some(signal) = signal else { return Ok(()) };
    let uid = call.process().credentials.uid;
    call.kernel.signal_process(pid, Info::from_process(signal, call.pid, false).by_user(uid))
}

/// Whether the caller may send a process a signal (`kill(2)`).
pub(super) fn check_permission(call: &mut Call<'_>, pid: Pid, signal: Option<Signal>) -> Result<(), Errno> {
    let (sender, session) = {
        let process = call.process();
        ([process.credentials.uid, process.credentials.uid_effective], process.session)
    };
    let target = call.kernel.processes.get(&pid).ok_or(Errno::ESRCH)?;
    let receiver = [target.credentials.uid, target.credentials.uid_saved];
    let is_permitted = pid == call.pid
        || sender[1] == 0
        || sender.iter().any(|uid| receiver.contains(uid))
        || (signal == Some(Signal::CONT) && target.session == session);
    if is_permitted { Ok(()) } else { Err(Errno::EPERM) }
}

fn tkill(call: &mut Call<'_>) -> SysResult {
    let (tid, signal) = (call.int(0), call.int(1));
    send_to_thread(call, None, tid, signal)
}

fn tgkill(call: &mut Call<'_>) -> SysResult {
    let (pid, tid, signal) = (call.int(0), call.int(1), call.int(2));
    if pid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    send_to_thread(call, Some(pid.cast_unsigned()), tid, signal)
}

fn find_thread(call: &Call<'_>, pid: Option<Pid>, tid: i32) -> Result<Tid, Errno> {
    let tid = u32::try_from(tid).ok().filter(|tid| *tid > 0).ok_or(Errno::EINVAL)?;
    let thread = call.kernel.threads.get(&tid).ok_or(Errno::ESRCH)?;
    if pid.is_some_and(|pid| pid != thread.pid) { Err(Errno::ESRCH) } else { Ok(tid) }
}

fn send_to_thread(call: &mut Call<'_>, pid: Option<Pid>, tid: i32, signal: i32) -> SysResult {
    let signal = optional_signal(signal)?;
    let tid = find_thread(call, pid, tid)?;
    check_permission(call, call.kernel.threads[&tid].pid, signal)?;
    if let Some(signal) = signal {
        let uid = call.process().credentials.uid;
        call.kernel.signal_thread(tid, Info::from_process(signal, call.pid, true).by_user(uid))?;
    }
    Ok(0)
}

/// Reads the `siginfo_t` that a program sends along. To others it must not look as if the kernel or `kill` had sent it.
pub(super) fn read_info(
    call: &mut Call<'_>,
    address: u64,
    signal: Option<Signal>,
    is_own: bool,
) -> Result<Option<Info>, Errno> {
    let [_, _, code, _] = call.read::<[i32; 4]>(address)?;
    let fields: [u64; 4] = call.read(address.wrapping_add(16))?;
    if !is_own && (code >= 0 || code == Info::CODE_THREAD) {
        return Err(Errno::EPERM);
    }
    Ok(signal.map(|signal| Info { signal, code, fields }))
}

fn rt_sigqueueinfo(call: &mut Call<'_>) -> SysResult {
    let signal = optional_signal(call.int(1))?;
    let id = u32::try_from(call.int(0)).map_err(|_| Errno::ESRCH)?;
    let info = read_info(call, call.args[2], signal, id == call.pid)?;
    let pid = call.kernel.process_of(id).ok_or(Errno::ESRCH)?;
    check_permission(call, pid, signal)?;
    if let Some(info) = info {
        call.kernel.signal_process(pid, info)?;
    }
    Ok(0)
}

fn rt_tgsigqueueinfo(call: &mut Call<'_>) -> SysResult {
    let (pid, tid) = (call.int(0).cast_unsigned(), call.int(1));
    let signal = optional_signal(call.int(2))?;
    let info = read_info(call, call.args[3], signal, pid == call.pid)?;
    let tid = find_thread(call, Some(pid), tid)?;
    check_permission(call, pid, signal)?;
    if let Some(info) = info {
        call.kernel.signal_thread(tid, info)?;
    }
    Ok(0)
}
