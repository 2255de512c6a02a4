//! `timerfd_create(2)` and its relatives.

use crate::call::Call;
use crate::clock::SECOND_NS;
use crate::errno::Errno;
use crate::file::timer::{Setting, TimerFd};
use crate::file::{Body, OpenFile, READABLE};
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(283, "timerfd_create", timerfd_create)
        .supports("all clocks that Linux takes, alarm clocks as those without alarm"),
    entry(286, "timerfd_settime", timerfd_settime)
        .supports("TFD_TIMER_ABSTIME; nobody sets the clock, so TFD_TIMER_CANCEL_ON_SET never cancels"),
    entry(287, "timerfd_gettime", timerfd_gettime),
];

/// `struct itimerspec`: interval and value, each in seconds and nanoseconds.
type TimerSpec = [[i64; 2]; 2];

fn nanoseconds([seconds, nanoseconds]: [i64; 2]) -> Result<u64, Errno> {
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let nanoseconds = u64::try_from(nanoseconds).ok().filter(|ns| *ns < SECOND_NS).ok_or(Errno::EINVAL)?;
    Ok(seconds.saturating_mul(SECOND_NS).saturating_add(nanoseconds))
}

fn timespec(ns: u64) -> [i64; 2] {
    [(ns / SECOND_NS) as i64, (ns % SECOND_NS) as i64]
}

fn timerfd_create(call: &mut Call<'_>) -> SysResult {
    let is_realtime = match call.int(0) {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => true,
        libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => false,
        _ => return Err(Errno::EINVAL.into()),
    };
    let flags = call.int(1);
    if flags & !(libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let timer = TimerFd::new(call.kernel.waits.notifier(), is_realtime);
    let status = (flags & libc::TFD_NONBLOCK) as u32;
    let file = OpenFile::anonymous(Body::Timer(timer), "anon_inode:[timerfd]", READABLE, status);
    Ok(call.install(file, flags & libc::TFD_CLOEXEC != 0)? as u64)
}

fn encode(timer: &TimerFd, now_ns: u64) -> TimerSpec {
    let setting = timer.get(now_ns);
    [timespec(setting.interval_ns), timespec(setting.next_ns.map_or(0, |next| next - now_ns))]
}

fn timerfd_settime(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let Body::Timer(timer) = &file.body else { return Err(Errno::EINVAL.into()) };
    let flags = call.int(1);
    if flags & !(libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let [interval, value] = call.read::<TimerSpec>(call.args[2])?;
    let (interval_ns, value_ns) = (nanoseconds(interval)?, nanoseconds(value)?);
    let now_ns = call.kernel.clock.monotonic_ns();
    let next_ns = match (value_ns, flags & libc::TFD_TIMER_ABSTIME != 0) {
        (0, _) => None,
        (value, true) if timer.is_realtime() => Some(call.kernel.clock.monotonic_of_realtime(value)),
        (value, true) => Some(value),
        (value, false) => Some(now_ns.saturating_add(value)),
    };
    let old = encode(timer, now_ns);
    if call.args[3] != 0 {
        call.write(call.args[3], &old)?;
    }
    timer.set(Setting { next_ns, interval_ns });
    Ok(0)
}

fn timerfd_gettime(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let Body::Timer(timer) = &file.body else { return Err(Errno::EINVAL.into()) };
    let current = encode(timer, call.kernel.clock.monotonic_ns());
    call.write(call.args[1], &current)?;
    Ok(0)
}
