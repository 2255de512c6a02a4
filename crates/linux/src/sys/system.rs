//! The system and what a process may use of it: `uname`, `sysinfo`, `prctl`, limits, usage, randomness.

use calypte_platform::PAGE_SIZE;
use zerocopy::{Immutable, IntoBytes};

use crate::call::Call;
use crate::clock::SECOND_NS;
use crate::errno::Errno;
use crate::exec::TICKS_PER_SECOND;
use crate::frames::Charge;
use crate::limits::{Limit, Resource};
use crate::outcome::SysResult;
use crate::process::{Pid, Usage};
use crate::random;
use crate::sys::entry;
use crate::sys::time::Timeval;
use crate::table::SystemCall;
use crate::thread::NAME_BYTES;
use crate::version::{KERNEL_RELEASE, KERNEL_VERSION};

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(63, "uname", uname),
    entry(97, "getrlimit", getrlimit),
    entry(98, "getrusage", getrusage),
    entry(99, "sysinfo", sysinfo),
    entry(100, "times", times),
    entry(103, "syslog", refused),
    entry(135, "personality", personality),
    entry(157, "prctl", prctl),
    entry(160, "setrlimit", setrlimit),
    entry(161, "chroot", refused),
    entry(169, "reboot", refused),
    entry(170, "sethostname", refused),
    entry(171, "setdomainname", refused),
    entry(302, "prlimit64", prlimit64),
    entry(317, "seccomp", seccomp),
    entry(318, "getrandom", getrandom),
];

/// Most random bytes given by one call.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
const NAME_FIELD_BYTES: usize = 65;

fn uname(call: &mut Call<'_>) -> SysResult {
    let fields = ["Linux", &call.kernel.host_name, KERNEL_RELEASE, KERNEL_VERSION, "x86_64", "(none)"];
    let mut bytes = vec![0; fields.len() * NAME_FIELD_BYTES];
    for (field, text) in bytes.chunks_exact_mut(NAME_FIELD_BYTES).zip(fields) {
        let length = text.len().min(NAME_FIELD_BYTES - 1);
        field[..length].copy_from_slice(&text.as_bytes()[..length]);
    }
    call.write_bytes(call.args[0], &bytes)?;
    Ok(0)
}

/// `struct sysinfo`.
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
struct SystemInfo {
    uptime: i64,
    loads: [u64; 3],
    total_ram: u64,
    free_ram: u64,
    shared_ram: u64,
    buffer_ram: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    padding: [u16; 3],
    total_high: u64,
    free_high: u64,
    unit: u32,
    end: u32,
}

fn sysinfo(call: &mut Call<'_>) -> SysResult {
    let page = PAGE_SIZE as u64;
    let frames = &call.kernel.frames;
    let (limit, used) = (u64::from(frames.limit(Charge::Memory)), u64::from(frames.used(Charge::Memory)));
    let info = SystemInfo {
        uptime: (call.kernel.clock.uptime_ns() / SECOND_NS).cast_signed(),
        total_ram: limit * page,
        free_ram: (limit - used) * page,
        processes: u16::try_from(call.kernel.threads.len()).unwrap_or(u16::MAX),
        unit: 1,
        ..SystemInfo::default()
    };
    call.write(call.args[0], &info)?;
    Ok(0)
}

/// What only a real root may do.
fn refused(_call: &mut Call<'_>) -> SysResult {
    Err(Errno::EPERM.into())
}

fn personality(call: &mut Call<'_>) -> SysResult {
    const QUERY: u32 = u32::MAX;
    let wanted = call.args[0] as u32;
    let settings = &mut call.process().settings;
    let old = settings.personality;
    if wanted != QUERY {
        settings.personality = wanted;
    }
    Ok(u64::from(old))
}

fn prctl(call: &mut Call<'_>) -> SysResult {
    const SET_PARENT_DEATH_SIGNAL: i32 = 1;
    const GET_PARENT_DEATH_SIGNAL: i32 = 2;
    const GET_DUMPABLE: i32 = 3;
    const SET_DUMPABLE: i32 = 4;
    const GET_KEEP_CAPABILITIES: i32 = 7;
    const SET_KEEP_CAPABILITIES: i32 = 8;
    const SET_NAME: i32 = 15;
    const GET_NAME: i32 = 16;
    const GET_SECCOMP: i32 = 21;
    const CAPABILITY_BOUND_READ: i32 = 23;
    const GET_SECURE_BITS: i32 = 27;
    const AMBIENT_CAPABILITIES: i32 = 47;
    const AMBIENT_IS_SET: u64 = 1;
    const AMBIENT_RAISE: u64 = 2;
    const AMBIENT_LOWER: u64 = 3;
    const AMBIENT_CLEAR_ALL: u64 = 4;
    const SET_TIMER_SLACK: i32 = 29;
    const GET_TIMER_SLACK: i32 = 30;
    const SET_SUBREAPER: i32 = 36;
    const GET_SUBREAPER: i32 = 37;
    const SET_NO_NEW_PRIVILEGES: i32 = 38;
    const GET_NO_NEW_PRIVILEGES: i32 = 39;
    const GET_TID_ADDRESS: i32 = 40;
    const SET_HUGE_PAGES_DISABLED: i32 = 41;
    const GET_HUGE_PAGES_DISABLED: i32 = 42;
    /// `PR_SET_PTRACER`: whom a debugger may be; there is none.
    const SET_TRACER: i32 = 0x5961_6d61;
    const TIMER_SLACK_NS: u64 = 50_000;
    let [_, value, ..] = call.args;
    match call.int(0) {
        SET_NAME => {
            let name = call.kernel.read_user_string(call.pid, value, NAME_BYTES)?;
            let name = match name {
                Some(name) => name,
                None => call.read_bytes(value, NAME_BYTES - 1)?,
            };
            call.thread().set_name(&name);
        }
        GET_NAME => {
            let name = call.thread().name;
            call.write_bytes(value, &name)?;
        }
        SET_PARENT_DEATH_SIGNAL if value <= 64 => call.process().settings.parent_death_signal = value as i32,
        GET_PARENT_DEATH_SIGNAL => {
            let signal = call.process().settings.parent_death_signal;
            call.write(value, &signal)?;
        }
        GET_DUMPABLE => return Ok(u64::from(call.process().settings.is_dumpable)),
        SET_DUMPABLE if value <= 1 => call.process().settings.is_dumpable = value == 1,
        GET_KEEP_CAPABILITIES => return Ok(u64::from(call.process().settings.keeps_capabilities)),
        SET_KEEP_CAPABILITIES if value <= 1 => call.process().settings.keeps_capabilities = value == 1,
        GET_SECCOMP => return Ok(0),
        CAPABILITY_BOUND_READ if value <= 40 => return Ok(0),
        SET_TIMER_SLACK => {
            call.process().settings.timer_slack_ns = if value == 0 { TIMER_SLACK_NS } else { value };
        }
        GET_TIMER_SLACK => return Ok(call.process().settings.timer_slack_ns),
        SET_SUBREAPER => call.process().settings.is_subreaper = value != 0,
        GET_SUBREAPER => {
            let is_subreaper = i32::from(call.process().settings.is_subreaper);
            call.write(value, &is_subreaper)?;
        }
        SET_NO_NEW_PRIVILEGES if value == 1 => call.process().settings.has_no_new_privileges = true,
        GET_NO_NEW_PRIVILEGES => return Ok(u64::from(call.process().settings.has_no_new_privileges)),
        GET_TID_ADDRESS => {
            let address = call.thread().clear_child_tid;
            call.write(value, &address)?;
        }
        SET_HUGE_PAGES_DISABLED => call.process().settings.has_huge_pages_disabled = value != 0,
        GET_HUGE_PAGES_DISABLED => return Ok(u64::from(call.process().settings.has_huge_pages_disabled)),
        SET_TRACER => {}
        GET_SECURE_BITS => return Ok(0),
        AMBIENT_CAPABILITIES => match value {
            AMBIENT_IS_SET if call.args[2] <= 40 => return Ok(0),
            AMBIENT_CLEAR_ALL => {}
            AMBIENT_LOWER if call.args[2] <= 40 => {}
            AMBIENT_RAISE if call.args[2] <= 40 => return Err(Errno::EPERM.into()),
            _ => return Err(Errno::EINVAL.into()),
        },
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

fn getrlimit(call: &mut Call<'_>) -> SysResult {
    let resource = Resource::from_number(u64::from(call.args[0] as u32)).ok_or(Errno::EINVAL)?;
    let limit = call.process().limits.get(resource);
    call.write(call.args[1], &limit)?;
    Ok(0)
}

fn set_limit(call: &mut Call<'_>, pid: Pid, resource: Resource, limit: Limit) -> Result<(), Errno> {
    let process = call.kernel.process_mut(pid);
    process.limits.set(resource, limit)?;
    if resource == Resource::Files {
        process.files.set_limit(usize::try_from(limit.soft).unwrap_or(usize::MAX));
    }
    Ok(())
}

fn setrlimit(call: &mut Call<'_>) -> SysResult {
    let resource = Resource::from_number(u64::from(call.args[0] as u32)).ok_or(Errno::EINVAL)?;
    let limit: Limit = call.read(call.args[1])?;
    set_limit(call, call.pid, resource, limit)?;
    Ok(0)
}

fn prlimit64(call: &mut Call<'_>) -> SysResult {
    let [_, _, new_address, old_address, ..] = call.args;
    let pid = match call.int(0) {
        0 => call.pid,
        id => call.kernel.process_of(id.cast_unsigned()).ok_or(Errno::ESRCH)?,
    };
    call.accessible(pid)?;
    let resource = Resource::from_number(u64::from(call.args[1] as u32)).ok_or(Errno::EINVAL)?;
    let old = call.kernel.process_mut(pid).limits.get(resource);
    if new_address != 0 {
        let new: Limit = call.read(new_address)?;
        set_limit(call, pid, resource, new)?;
    }
    if old_address != 0 {
        call.write(old_address, &old)?;
    }
    Ok(0)
}

/// `struct rusage`; the fields that Linux leaves at zero are one array.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct UsageRecord {
    user: Timeval,
    system: Timeval,
    resident_max_kib: u64,
    rest: [u64; 13],
}

/// What was used, as programs are told.
pub(super) fn usage_record(usage: Usage) -> UsageRecord {
    UsageRecord {
        user: Timeval::from_ns(usage.time.user_ns),
        system: Timeval::from_ns(usage.time.system_ns),
        resident_max_kib: usage.resident_max_kib,
        rest: [0; 13],
    }
}

fn getrusage(call: &mut Call<'_>) -> SysResult {
    const THREAD: i32 = 1;
    const SELF: i32 = 0;
    const CHILDREN: i32 = -1;
    let resident_max_kib = call.kernel.frames.peak_bytes() / 1024;
    let usage = match call.int(0) {
        SELF => Usage { time: call.process().time, resident_max_kib },
        THREAD => Usage { time: call.thread().time, resident_max_kib },
        CHILDREN => call.process().children_usage,
        _ => return Err(Errno::EINVAL.into()),
    };
    call.write(call.args[1], &usage_record(usage))?;
    Ok(0)
}

fn times(call: &mut Call<'_>) -> SysResult {
    let tick_ns = SECOND_NS / TICKS_PER_SECOND;
    if call.args[0] != 0 {
        let process = call.process();
        let (own, children) = (process.time, process.children_usage.time);
        let times = [own.user_ns, own.system_ns, children.user_ns, children.system_ns];
        call.write(call.args[0], &times.map(|time_ns| time_ns / tick_ns))?;
    }
    Ok(call.kernel.clock.monotonic_ns() / tick_ns)
}

/// Filters are not offered, as by a kernel built without them.
fn seccomp(_call: &mut Call<'_>) -> SysResult {
    Err(Errno::EINVAL.into())
}

fn getrandom(call: &mut Call<'_>) -> SysResult {
    const KNOWN: u64 = 7; // GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE
    let [address, length, flags, ..] = call.args;
    if flags & !KNOWN != 0 || flags & 6 == 6 {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0; length.min(RANDOM_BYTES_MAX) as usize];
    random::fill(&mut bytes);
    call.write_bytes(address, &bytes)?;
    Ok(bytes.len() as u64)
}
