//! Scheduling: affinity, policies and priorities. There is one policy; others are remembered or refused.

use calypte_platform::PAGE_SIZE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
    entry(140, "getpriority", getpriority).supports("as `setpriority` has left it"),
    entry(141, "setpriority", setpriority)
        .supports("of whole processes, remembered without an effect; nobody, not even root, makes it less (EACCES)"),
    entry(142, "sched_setparam", sched_setparam).supports("priority 0, which every policy offered has"),
    entry(143, "sched_getparam", sched_getparam),
    entry(144, "sched_setscheduler", sched_setscheduler).supports(POLICIES),
    entry(145, "sched_getscheduler", sched_getscheduler).supports(POLICIES),
    entry(146, "sched_get_priority_max", sched_get_priority_max),
    entry(147, "sched_get_priority_min", sched_get_priority_min),
    entry(148, "sched_rr_get_interval", sched_rr_get_interval).supports("the time slice that every thread has"),
    entry(203, "sched_setaffinity", sched_setaffinity)
        .supports("remembered, inherited and told; where threads run does not follow it"),
    entry(204, "sched_getaffinity", sched_getaffinity),
    entry(309, "getcpu", getcpu),
    entry(314, "sched_setattr", sched_setattr).supports(POLICIES),
    entry(315, "sched_getattr", sched_getattr).supports(POLICIES),
];

const POLICIES: &str = "SCHED_OTHER, SCHED_BATCH, SCHED_IDLE with SCHED_RESET_ON_FORK, remembered without an effect; \
                        SCHED_FIFO, SCHED_RR and SCHED_DEADLINE are EPERM, also for root";

const POLICY_OTHER: i32 = 0;
const POLICY_FIFO: i32 = 1;
const POLICY_ROUND_ROBIN: i32 = 2;
const POLICY_BATCH: i32 = 3;
const POLICY_IDLE: i32 = 5;
/// `SCHED_RESET_ON_FORK`, a flag of the policy.
pub(super) const POLICY_RESET_ON_FORK: i32 = 0x4000_0000;
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
    let mut result = Ok(0);
    for pid in prioritised(call)? {
        let is_own = may_change(call, pid);
        let settings = &mut call.kernel.process_mut(pid).settings;
        match nice {
            _ if !is_own => result = Err(Errno::EPERM.into()),
            nice if nice < settings.nice => result = Err(Errno::EACCES.into()),
            nice => settings.nice = nice,
        }
    }
    result
}

/// Whether the caller may change how a process is scheduled.
fn may_change(call: &mut Call<'_>, pid: Pid) -> bool {
    let caller = call.process().credentials.uid_effective;
    let owner = &call.kernel.process_mut(pid).credentials;
    caller == 0 || [owner.uid, owner.uid_effective].contains(&caller)
}

/// Gives a thread a policy. Real-time ones would need `RLIMIT_RTPRIO`, which is zero, and deadlines a privilege.
fn set_policy(call: &mut Call<'_>, tid: Tid, policy: i32, priority: i32) -> Result<(), Errno> {
    let kind = |policy: i32| policy & !POLICY_RESET_ON_FORK;
    match (kind(policy), priority) {
        (POLICY_OTHER | POLICY_BATCH | POLICY_IDLE, 0) => {}
        (POLICY_FIFO | POLICY_ROUND_ROBIN, 1..=99) => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    }
    let thread = call.kernel.threads.get(&tid).ok_or(Errno::ESRCH)?;
    let (pid, old) = (thread.pid, thread.policy);
    let is_looser =
        old & !policy & POLICY_RESET_ON_FORK != 0 || kind(old) == POLICY_IDLE && kind(policy) != POLICY_IDLE;
    if !may_change(call, pid) || is_looser && call.process().credentials.uid_effective != 0 {
        return Err(Errno::EPERM);
    }
    call.kernel.threads.get_mut(&tid).ok_or(Errno::ESRCH)?.policy = policy;
    Ok(())
}

/// The thread that an argument names, 0 for the caller.
fn scheduled(call: &Call<'_>, index: usize) -> Result<Tid, Errno> {
    check_thread(call, index)?;
    Ok(if call.int(index) == 0 { call.tid } else { call.int(index).cast_unsigned() })
}

fn sched_setscheduler(call: &mut Call<'_>) -> SysResult {
    if call.int(1) < 0 || call.args[2] == 0 {
        return Err(Errno::EINVAL.into());
    }
    let tid = scheduled(call, 0)?;
    let priority: i32 = call.read(call.args[2])?;
    set_policy(call, tid, call.int(1), priority)?;
    Ok(0)
}

fn sched_setparam(call: &mut Call<'_>) -> SysResult {
    if call.args[1] == 0 {
        return Err(Errno::EINVAL.into());
    }
    check_thread(call, 0)?;
    let priority: i32 = call.read(call.args[1])?;
    if priority == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

fn sched_getparam(call: &mut Call<'_>) -> SysResult {
    if call.args[1] == 0 {
        return Err(Errno::EINVAL.into());
    }
    check_thread(call, 0)?;
    call.write(call.args[1], &0_i32)?;
    Ok(0)
}

fn sched_getscheduler(call: &mut Call<'_>) -> SysResult {
    let tid = scheduled(call, 0)?;
    Ok(call.kernel.threads.get(&tid).ok_or(Errno::ESRCH)?.policy.cast_unsigned().into())
}

/// `struct sched_attr`, its first version (`linux/sched/types.h`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

const ATTRIBUTES_BYTES: usize = size_of::<Attributes>();
const _: () = assert!(ATTRIBUTES_BYTES == 48);
const ATTRIBUTE_RESET_ON_FORK: u64 = 1;
const ATTRIBUTE_KEEP_POLICY: u64 = 8;
const ATTRIBUTE_KEEP_PARAMETERS: u64 = 0x10;
const POLICY_DEADLINE: i32 = 6;

/// Reads attributes of any size: what is beyond those that are known must be zero, or the caller learns how many are.
fn read_attributes(call: &mut Call<'_>, address: u64) -> Result<Attributes, Errno> {
    let size = match call.read::<u32>(address)? as usize {
        0 => ATTRIBUTES_BYTES,
        size => size,
    };
    if (ATTRIBUTES_BYTES..=PAGE_SIZE).contains(&size) {
        let bytes = call.read_bytes(address, size)?;
        let (attributes, rest) = Attributes::read_from_prefix(&bytes).map_err(|_| Errno::EFAULT)?;
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(attributes);
        }
    }
    call.write(address, &(ATTRIBUTES_BYTES as u32))?;
    Err(Errno::E2BIG)
}

fn sched_setattr(call: &mut Call<'_>) -> SysResult {
    let [_, address, flags, ..] = call.args;
    if address == 0 || call.int(0) < 0 || flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let wanted = read_attributes(call, address)?;
    let tid = scheduled(call, 0)?;
    let thread = call.kernel.threads.get(&tid).ok_or(Errno::ESRCH)?;
    let (pid, old) = (thread.pid, thread.policy);
    if wanted.flags & !(ATTRIBUTE_RESET_ON_FORK | ATTRIBUTE_KEEP_POLICY | ATTRIBUTE_KEEP_PARAMETERS) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let policy = match wanted.policy as i32 {
        _ if wanted.flags & ATTRIBUTE_KEEP_POLICY != 0 => old & !POLICY_RESET_ON_FORK,
        POLICY_DEADLINE => return Err(Errno::EPERM.into()),
        policy if policy & POLICY_RESET_ON_FORK != 0 => return Err(Errno::EINVAL.into()),
        policy => policy,
    };
    let reset = if wanted.flags & ATTRIBUTE_RESET_ON_FORK != 0 { POLICY_RESET_ON_FORK } else { 0 };
    let nice = match wanted.flags & ATTRIBUTE_KEEP_PARAMETERS {
        0 => wanted.nice.clamp(*NICE.start(), *NICE.end()),
        _ => call.kernel.process_mut(pid).settings.nice,
    };
    let is_fair = matches!(policy, POLICY_OTHER | POLICY_BATCH);
    if is_fair && wanted.priority == 0 && nice < call.kernel.process_mut(pid).settings.nice {
        return Err(Errno::EPERM.into());
    }
    set_policy(call, tid, policy | reset, i32::try_from(wanted.priority).map_err(|_| Errno::EINVAL)?)?;
    if is_fair {
        call.kernel.process_mut(pid).settings.nice = nice;
    }
    Ok(0)
}

fn sched_getattr(call: &mut Call<'_>) -> SysResult {
    let [_, address, size, flags, ..] = call.args;
    let size = size as u32 as usize;
    let is_size = (ATTRIBUTES_BYTES..=PAGE_SIZE).contains(&size);
    if address == 0 || call.int(0) < 0 || !is_size || flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let tid = scheduled(call, 0)?;
    let thread = call.kernel.threads.get(&tid).ok_or(Errno::ESRCH)?;
    let told = Attributes {
        size: ATTRIBUTES_BYTES as u32,
        policy: (thread.policy & !POLICY_RESET_ON_FORK).cast_unsigned(),
        flags: if thread.policy & POLICY_RESET_ON_FORK != 0 { ATTRIBUTE_RESET_ON_FORK } else { 0 },
        nice: call.kernel.processes[&thread.pid].settings.nice,
        priority: 0,
        runtime_ns: 0,
        deadline_ns: 0,
        period_ns: 0,
    };
    call.write(address, &told)?;
    Ok(0)
}

fn sched_get_priority_max(call: &mut Call<'_>) -> SysResult {
    match call.int(0) {
        POLICY_FIFO | POLICY_ROUND_ROBIN => Ok(99),
        POLICY_OTHER | POLICY_BATCH | POLICY_IDLE | POLICY_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn sched_get_priority_min(call: &mut Call<'_>) -> SysResult {
    match call.int(0) {
        POLICY_FIFO | POLICY_ROUND_ROBIN => Ok(1),
        POLICY_OTHER | POLICY_BATCH | POLICY_IDLE | POLICY_DEADLINE => Ok(0),
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
