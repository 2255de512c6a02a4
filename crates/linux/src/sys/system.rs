//! The system and what a process may use of it: `uname`, `sysinfo`, limits, usage, randomness.

use calypte_platform::PAGE_SIZE;
use zerocopy::{Immutable, IntoBytes};

use crate::call::Call;
use crate::clock::SECOND_NS;
use crate::errno::Errno;
use crate::exec::NS_PER_TICK;
use crate::frames::Charge;
use crate::limits::{Limit, Resource};
use crate::outcome::SysResult;
use crate::process::{Pid, Usage};
use crate::random;
use crate::sys::entry;
use crate::sys::time::Timeval;
use crate::table::SystemCall;
use crate::version::{KERNEL_RELEASE, KERNEL_VERSION};

const LIMITS: &str = "AS, CPU, DATA, FSIZE, MEMLOCK, NOFILE (at most 4096), NPROC and STACK (at `execve`, at most 8 MiB) hold; the \
     others are only remembered; nobody, not even root, raises a hard limit (EPERM)";

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(63, "uname", uname),
    entry(97, "getrlimit", getrlimit).supports(LIMITS),
    entry(98, "getrusage", getrusage)
        .supports("processor time and the greatest memory, which is the guest's; other fields are zero"),
    entry(99, "sysinfo", sysinfo)
        .supports("uptime, memory, number of threads; loads, buffers, shared memory and swap are zero"),
    entry(100, "times", times),
    entry(135, "personality", personality).supports("remembered, inherited and told, without an effect"),
    entry(160, "setrlimit", setrlimit).supports(LIMITS),
    entry(302, "prlimit64", prlimit64).supports(LIMITS),
    entry(318, "getrandom", getrandom).supports("one source for all flags; at most 1 MiB a call"),
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
    if call.args[0] != 0 {
        let process = call.process();
        let times = [process.time.ticks(), process.children_usage.time.ticks()];
        call.write(call.args[0], &times)?;
    }
    Ok(call.kernel.clock.monotonic_ns() / NS_PER_TICK)
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
