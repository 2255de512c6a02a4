//! Scheduling: affinity, policies and priorities. There is one policy; what would change it is refused or remembered.

use crate::call::Call;
use crate::errno::Errno;
use crate::outcome::SysResult;
use crate::process::Pid;
use crate::sys::entry;
use crate::sys::time::Timespec;
use crate::table::SystemCall;
use crate::thread::ThreadState;
use crate::waits::Tid;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(24, "sched_yield", sched_yield),
    entry(140, "getpriority", getpriority),
    entry(141, "setpriority", setpriority),
    entry(142, "sched_setparam", sched_setparam),
    entry(143, "sched_getparam", sched_getparam),
    entry(144, "sched_setscheduler", sched_setscheduler),
    entry(145, "sched_getscheduler", sched_getscheduler),
    entry(146, "sched_get_priority_max", sched_get_priority_max),
    entry(147, "sched_get_priority_min", sched_get_priority_min),
    entry(148, "sched_rr_get_interval", sched_rr_get_interval),
    entry(203, "sched_setaffinity", sched_setaffinity)
        .supports("remembered, inherited and told; where threads run does not follow it"),
    entry(204, "sched_getaffinity", sched_getaffinity),
    entry(309, "getcpu", getcpu),
];

const POLICY_OTHER: i32 = 0;
const POLICY_FIFO: i32 = 1;
const POLICY_ROUND_ROBIN: i32 = 2;
const POLICY_BATCH: i32 = 3;
const POLICY_IDLE: i32 = 5;
const POLICY_RESET_ON_FORK: i32 = 0x4000_0000;
/// Bytes of a processor mask that are looked at.
const MASK_BYTES_MAX: usize = 128;
/// Nice values.
const NICE: std::ops::RangeInclusive<i32> = -20..=19;

fn sched_yield(call: &mut Call<'_>) -> SysResult {
    call.kernel.scheduler.request_yield();
    Ok(0)
}

/// Checks an argument that names a thread, 0 for the caller.
fn check_thread(call: &Call<'_>, index: usize) -> Result<(), Errno> {
    match call.int(index) {
        0 => Ok(()),
        tid if tid < 0 => Err(Errno::EINVAL),
        tid if call.kernel.threads.contains_key(&tid.cast_unsigned()) => Ok(()),
        _ => Err(Errno::ESRCH),
    }
}

/// The processes whose priority is meant: one, a group's or a user's; `ESRCH` if there are none.
fn prioritised(call: &mut Call<'_>) -> Result<Vec<Pid>, Errno> {
    const PROCESS: i32 = 0;
    const GROUP: i32 = 1;
    const USER: i32 = 2;
    let id = call.args[1] as u32;
    let (own_group, own_uid) = (call.process().group, call.process().credentials.uid);
    let or_own = |own: u32| if id == 0 { own } else { id };
    let meant = match call.int(0) {
        PROCESS => call.kernel.process_of(or_own(call.pid)).into_iter().collect(),
        GROUP => call.kernel.processes_where(|process| process.group == or_own(own_group)),
        USER => call.kernel.processes_where(|process| process.credentials.uid == or_own(own_uid)),
        _ => return Err(Errno::EINVAL),
    };
    if meant.is_empty() { Err(Errno::ESRCH) } else { Ok(meant) }
}

fn getpriority(call: &mut Call<'_>) -> SysResult {
    let meant = prioritised(call)?;
    let nice = meant.iter().map(|pid| call.kernel.processes[pid].settings.nice).min().unwrap_or(0);
    // The call gives 20 less the nice value, so that no result looks like an error.
    Ok(u64::from((20 - nice).cast_unsigned()))
}

fn setpriority(call: &mut Call<'_>) -> SysResult {
    let nice = call.int(2).clamp(*NICE.start(), *NICE.end());
    for pid in prioritised(call)? {
        let settings = &mut call.kernel.process_mut(pid).settings;
        if nice < settings.nice {
            return Err(Errno::EACCES.into());
        }
        settings.nice = nice;
    }
    Ok(0)
}

fn sched_setscheduler(call: &mut Call<'_>) -> SysResult {
    check_thread(call, 0)?;
    let policy = call.int(1) & !POLICY_RESET_ON_FORK;
    let priority: i32 = call.read(call.args[2])?;
    match (policy, priority) {
        (POLICY_OTHER | POLICY_BATCH | POLICY_IDLE, 0) => Ok(0),
        (POLICY_FIFO | POLICY_ROUND_ROBIN, 1..=99) => Err(Errno::EPERM.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn sched_setparam(call: &mut Call<'_>) -> SysResult {
    check_thread(call, 0)?;
    let priority: i32 = call.read(call.args[1])?;
    if priority == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

fn sched_getparam(call: &mut Call<'_>) -> SysResult {
    check_thread(call, 0)?;
    call.write(call.args[1], &0_i32)?;
    Ok(0)
}

fn sched_getscheduler(call: &mut Call<'_>) -> SysResult {
    check_thread(call, 0)?;
    Ok(0)
}

fn sched_get_priority_max(call: &mut Call<'_>) -> SysResult {
    match call.int(0) {
        POLICY_FIFO | POLICY_ROUND_ROBIN => Ok(99),
        POLICY_OTHER | POLICY_BATCH | POLICY_IDLE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn sched_get_priority_min(call: &mut Call<'_>) -> SysResult {
    match call.int(0) {
        POLICY_FIFO | POLICY_ROUND_ROBIN => Ok(1),
        POLICY_OTHER | POLICY_BATCH | POLICY_IDLE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn sched_rr_get_interval(call: &mut Call<'_>) -> SysResult {
    check_thread(call, 0)?;
    call.write(call.args[1], &Timespec::from_ns(crate::sched::SLICE_NS))?;
    Ok(0)
}

/// A mask with a bit for each virtual CPU.
fn all_processors(call: &Call<'_>) -> u64 {
    u64::MAX >> (64 - call.kernel.scheduler.vcpu_count())
}

/// Checks an argument that names a thread; which that is.
fn named_thread(call: &Call<'_>, index: usize) -> Result<Tid, Errno> {
    check_thread(call, index).map_err(|_| Errno::ESRCH)?;
    Ok(if call.int(index) == 0 { call.tid } else { call.int(index).cast_unsigned() })
}

/// A mask is remembered and told, and taken as a hint: every thread may run everywhere.
fn sched_setaffinity(call: &mut Call<'_>) -> SysResult {
    let length = usize::try_from(call.args[1]).unwrap_or(MASK_BYTES_MAX).min(MASK_BYTES_MAX);
    let mut bytes = call.read_bytes(call.args[2], length)?;
    bytes.resize(MASK_BYTES_MAX, 0);
    let tid = named_thread(call, 0)?;
    let mask = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) & all_processors(call);
    if mask == 0 {
        return Err(Errno::EINVAL.into());
    }
    let thread = call.kernel.threads.get(&tid).ok_or(Errno::ESRCH)?;
    let caller = call.kernel.processes[&call.pid].credentials.uid_effective;
    let owner = &call.kernel.processes[&thread.pid].credentials;
    if caller != 0 && ![owner.uid, owner.uid_effective].contains(&caller) {
        return Err(Errno::EPERM.into());
    }
    call.kernel.threads.get_mut(&tid).ok_or(Errno::ESRCH)?.affinity = mask;
    Ok(0)
}

fn sched_getaffinity(call: &mut Call<'_>) -> SysResult {
    let length = call.args[1];
    if length < 8 || !length.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let tid = named_thread(call, 0)?;
    let mask = call.kernel.threads.get(&tid).ok_or(Errno::ESRCH)?.affinity & all_processors(call);
    call.write(call.args[2], &mask)?;
    Ok(8)
}

fn getcpu(call: &mut Call<'_>) -> SysResult {
    let [cpu_address, node_address, ..] = call.args;
    let cpu = match call.thread().state {
        ThreadState::Running(vcpu) => vcpu as u32,
        ThreadState::Ready | ThreadState::Parked | ThreadState::Stopped => 0,
    };
    if cpu_address != 0 {
        call.write(cpu_address, &cpu)?;
    }
    if node_address != 0 {
        call.write(node_address, &0_u32)?;
    }
    Ok(0)
}
