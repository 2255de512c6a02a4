//! Timers that send signals: `alarm`, `setitimer`, `timer_create` and the rest.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::clock::SECOND_NS;
use crate::errno::Errno;
use crate::outcome::SysResult;
use crate::signal::Signal;
use crate::sys::entry;
use crate::sys::time::{ClockName, Timespec, Timeval};
use crate::table::SystemCall;
use crate::timers::{PosixTimer, Setting, TimerClock};

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(36, "getitimer", getitimer),
    entry(37, "alarm", alarm),
    entry(38, "setitimer", setitimer),
    entry(222, "timer_create", timer_create).supports(
        "CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI, alarm clocks (as those without alarm), \
         processor time of the caller; raw and coarse clocks are EOPNOTSUPP, others EINVAL; at most 256 timers a \
         process (EAGAIN)",
    ),
    entry(223, "timer_settime", timer_settime),
    entry(224, "timer_gettime", timer_gettime),
    entry(225, "timer_getoverrun", timer_getoverrun),
    entry(226, "timer_delete", timer_delete),
];

const ITIMER_REAL: i32 = 0;
const ITIMER_VIRTUAL: i32 = 1;
const ITIMER_PROF: i32 = 2;

/// `struct itimerval`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IntervalValue {
    interval: Timeval,
    value: Timeval,
}

/// `struct itimerspec`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IntervalSpec {
    interval: Timespec,
    value: Timespec,
}

/// `struct sigevent`, the part that is used.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SignalEvent {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    padding: i32,
}

fn write_setting(call: &mut Call<'_>, address: u64, setting: Setting, now_ns: u64) -> Result<(), Errno> {
    let interval = Timeval::from_ns(setting.interval_ns);
    // Less than a microsecond left is a microsecond: zero would mean that the timer is off.
    let remaining_ns = setting.remaining_ns(now_ns);
    let value = Timeval::from_ns(if remaining_ns == 0 { 0 } else { remaining_ns.max(1000) });
    call.write(address, &IntervalValue { interval, value })
}

fn getitimer(call: &mut Call<'_>) -> SysResult {
    let (setting, now_ns) = interval_timer(call)?;
    let setting = *setting;
    write_setting(call, call.args[1], setting, now_ns)?;
    Ok(0)
}

/// The timer that the first argument names, and what its clock shows.
fn interval_timer<'c>(call: &'c mut Call<'_>) -> Result<(&'c mut Setting, u64), Errno> {
    let (which, monotonic_ns) = (call.int(0), call.kernel.clock.monotonic_ns());
    let process = call.process();
    match which {
        ITIMER_REAL => Ok((&mut process.timers.real, monotonic_ns)),
        ITIMER_VIRTUAL => Ok((&mut process.timers.virtual_time, process.time.user_ns)),
        ITIMER_PROF => Ok((&mut process.timers.profile, process.time.total_ns())),
        _ => Err(Errno::EINVAL),
    }
}

fn setitimer(call: &mut Call<'_>) -> SysResult {
    let [_, new_address, old_address, ..] = call.args;
    let (value_ns, interval_ns) = if new_address == 0 {
        (0, 0)
    } else {
        let new: IntervalValue = call.read(new_address)?;
        (new.value.to_ns()?, new.interval.to_ns()?)
    };
    let (timer, now_ns) = interval_timer(call)?;
    let at_ns = (value_ns > 0).then(|| now_ns.saturating_add(value_ns));
    let old = std::mem::replace(timer, Setting { at_ns, interval_ns });
    if old_address != 0 {
        write_setting(call, old_address, old, now_ns)?;
    }
    Ok(0)
}

fn set_real(call: &mut Call<'_>, value_ns: u64, interval_ns: u64) -> Setting {
    let at_ns = (value_ns > 0).then(|| call.kernel.clock.monotonic_ns().saturating_add(value_ns));
    std::mem::replace(&mut call.process().timers.real, Setting { at_ns, interval_ns })
}

fn alarm(call: &mut Call<'_>) -> SysResult {
    let seconds = call.args[0] as u32;
    let now_ns = call.kernel.clock.monotonic_ns();
    let old = set_real(call, u64::from(seconds) * SECOND_NS, 0);
    Ok(old.remaining_ns(now_ns).div_ceil(SECOND_NS))
}

fn is_own_thread(call: &Call<'_>, tid: u32) -> bool {
    call.kernel.threads.get(&tid).is_some_and(|thread| thread.pid == call.pid)
}

/// What a timer's clock shows.
fn now_ns(call: &mut Call<'_>, clock: TimerClock) -> u64 {
    match clock {
        TimerClock::Monotonic | TimerClock::Realtime => call.kernel.clock.monotonic_ns(),
        TimerClock::Process => call.process().time.total_ns(),
        TimerClock::Thread(tid) => call.kernel.threads.get(&tid).map_or(0, |thread| thread.time.total_ns()),
    }
}

fn timer_create(call: &mut Call<'_>) -> SysResult {
    const NOTIFY_SIGNAL: i32 = 0;
    const NOTIFY_NONE: i32 = 1;
    /// `SIGEV_THREAD`: for the kernel a signal too.
    const NOTIFY_THREAD: i32 = 2;
    const NOTIFY_THREAD_ID: i32 = 4;
    let [_, event_address, id_address, ..] = call.args;
    let clock = match ClockName::waking(call.int(0))? {
        ClockName::Realtime => TimerClock::Realtime,
        ClockName::Monotonic => TimerClock::Monotonic,
        ClockName::ProcessCpu(0) => TimerClock::Process,
        ClockName::ProcessCpu(pid) if pid == call.pid => TimerClock::Process,
        ClockName::ThreadCpu(0) => TimerClock::Thread(call.tid),
        ClockName::ThreadCpu(tid) if is_own_thread(call, tid) => TimerClock::Thread(tid),
        ClockName::ProcessCpu(_) | ClockName::ThreadCpu(_) => return Err(Errno::EINVAL.into()),
    };
    let mut timer = PosixTimer {
        signal: Some(Signal::ALRM),
        thread: None,
        value: 0,
        clock,
        setting: Setting::default(),
        overrun: 0,
    };
    if event_address != 0 {
        let event: SignalEvent = call.read(event_address)?;
        timer.value = event.value;
        match event.notify {
            NOTIFY_NONE => timer.signal = None,
            NOTIFY_SIGNAL | NOTIFY_THREAD => timer.signal = Some(Signal::new(event.signal).ok_or(Errno::EINVAL)?),
            NOTIFY_THREAD_ID => {
                let tid = event.thread.cast_unsigned();
                timer.thread = Some(if is_own_thread(call, tid) { tid } else { return Err(Errno::EINVAL.into()) });
                timer.signal = Some(Signal::new(event.signal).ok_or(Errno::EINVAL)?);
            }
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    let id = call.process().timers.create(timer)?;
    if event_address == 0 {
        call.process().timers.get(id)?.value = u64::from(id);
    }
    if let Err(errno) = call.write(id_address, &id) {
        call.process().timers.delete(id)?;
        return Err(errno.into());
    }
    Ok(0)
}

fn write_spec(call: &mut Call<'_>, address: u64, setting: Setting, now_ns: u64) -> Result<(), Errno> {
    let interval = Timespec::from_ns(setting.interval_ns);
    call.write(address, &IntervalSpec { interval, value: Timespec::from_ns(setting.remaining_ns(now_ns)) })
}

fn timer_settime(call: &mut Call<'_>) -> SysResult {
    const ABSOLUTE: i32 = 1;
    let [_, _, new_address, old_address, ..] = call.args;
    let id = call.args[0] as u32;
    let new: IntervalSpec = call.read(new_address)?;
    let (value_ns, interval_ns) = (new.value.to_ns()?, new.interval.to_ns()?);
    let clock = call.process().timers.get(id)?.clock;
    let now_ns = now_ns(call, clock);
    let at_ns = match (value_ns, call.int(1) & ABSOLUTE != 0) {
        (0, _) => None,
        (_, false) => Some(now_ns.saturating_add(value_ns)),
        (_, true) if clock == TimerClock::Realtime => Some(call.kernel.clock.monotonic_of_realtime(value_ns)),
        (_, true) => Some(value_ns),
    };
    let timer = call.process().timers.get(id)?;
    let old = std::mem::replace(&mut timer.setting, Setting { at_ns, interval_ns });
    if old_address != 0 {
        write_spec(call, old_address, old, now_ns)?;
    }
    Ok(0)
}

fn timer_gettime(call: &mut Call<'_>) -> SysResult {
    let id = call.args[0] as u32;
    let timer = *call.process().timers.get(id)?;
    let now_ns = now_ns(call, timer.clock);
    write_spec(call, call.args[1], timer.setting, now_ns)?;
    Ok(0)
}

fn timer_getoverrun(call: &mut Call<'_>) -> SysResult {
    let id = call.args[0] as u32;
    Ok(call.process().timers.get(id)?.overrun.min(i32::MAX as u64))
}

fn timer_delete(call: &mut Call<'_>) -> SysResult {
    let id = call.args[0] as u32;
    call.process().timers.delete(id)?;
    Ok(0)
}
