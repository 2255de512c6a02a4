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
use crate::timers::{PosixTimer, Setting};

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(36, "getitimer", getitimer),
    entry(37, "alarm", alarm),
    entry(38, "setitimer", setitimer),
    entry(222, "timer_create", timer_create),
    entry(223, "timer_settime", timer_settime),
    entry(224, "timer_gettime", timer_gettime),
    entry(225, "timer_getoverrun", timer_getoverrun),
    entry(226, "timer_delete", timer_delete),
];

const ITIMER_REAL: i32 = 0;
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

fn write_setting(call: &mut Call<'_>, address: u64, setting: Setting) -> Result<(), Errno> {
    let now_ns = call.kernel.clock.monotonic_ns();
    let interval = Timeval::from_ns(setting.interval_ns);
    // Less than a microsecond left is a microsecond: zero would mean that the timer is off.
    let remaining_ns = setting.remaining_ns(now_ns);
    let value = Timeval::from_ns(if remaining_ns == 0 { 0 } else { remaining_ns.max(1000) });
    call.write(address, &IntervalValue { interval, value })
}

fn getitimer(call: &mut Call<'_>) -> SysResult {
    let setting = match call.int(0) {
        ITIMER_REAL => call.process().timers.real,
        which if (ITIMER_REAL..=ITIMER_PROF).contains(&which) => Setting::default(),
        _ => return Err(Errno::EINVAL.into()),
    };
    write_setting(call, call.args[1], setting)?;
    Ok(0)
}

/// Timers of processor time (`ITIMER_VIRTUAL`, `ITIMER_PROF`) are not offered: `EINVAL`.
fn setitimer(call: &mut Call<'_>) -> SysResult {
    let [_, new_address, old_address, ..] = call.args;
    if call.int(0) != ITIMER_REAL {
        return Err(Errno::EINVAL.into());
    }
    let (value_ns, interval_ns) = if new_address == 0 {
        (0, 0)
    } else {
        let new: IntervalValue = call.read(new_address)?;
        (new.value.to_ns()?, new.interval.to_ns()?)
    };
    let old = set_real(call, value_ns, interval_ns);
    if old_address != 0 {
        write_setting(call, old_address, old)?;
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

fn timer_create(call: &mut Call<'_>) -> SysResult {
    const NOTIFY_SIGNAL: i32 = 0;
    const NOTIFY_NONE: i32 = 1;
    const NOTIFY_THREAD_ID: i32 = 4;
    let [_, event_address, id_address, ..] = call.args;
    let clock = ClockName::from_number(call.int(0))?;
    if !matches!(clock, ClockName::Realtime | ClockName::Monotonic) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut timer = PosixTimer {
        signal: Some(Signal::ALRM),
        thread: None,
        value: 0,
        is_realtime: clock == ClockName::Realtime,
        setting: Setting::default(),
        overrun: 0,
    };
    if event_address != 0 {
        let event: SignalEvent = call.read(event_address)?;
        timer.value = event.value;
        match event.notify {
            NOTIFY_NONE => timer.signal = None,
            NOTIFY_SIGNAL => timer.signal = Some(Signal::new(event.signal).ok_or(Errno::EINVAL)?),
            NOTIFY_THREAD_ID => {
                let tid = event.thread.cast_unsigned();
                let is_own = call.kernel.threads.get(&tid).is_some_and(|thread| thread.pid == call.pid);
                timer.thread = Some(if is_own { tid } else { return Err(Errno::EINVAL.into()) });
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

fn write_spec(call: &mut Call<'_>, address: u64, setting: Setting) -> Result<(), Errno> {
    let now_ns = call.kernel.clock.monotonic_ns();
    let interval = Timespec::from_ns(setting.interval_ns);
    call.write(address, &IntervalSpec { interval, value: Timespec::from_ns(setting.remaining_ns(now_ns)) })
}

fn timer_settime(call: &mut Call<'_>) -> SysResult {
    const ABSOLUTE: i32 = 1;
    let [_, _, new_address, old_address, ..] = call.args;
    let id = call.args[0] as u32;
    let new: IntervalSpec = call.read(new_address)?;
    let (value_ns, interval_ns) = (new.value.to_ns()?, new.interval.to_ns()?);
    let is_realtime = call.process().timers.get(id)?.is_realtime;
    let clock = &call.kernel.clock;
    let at_ns = match (value_ns, call.int(1) & ABSOLUTE != 0) {
        (0, _) => None,
        (_, false) => Some(clock.monotonic_ns().saturating_add(value_ns)),
        (_, true) if is_realtime => Some(clock.monotonic_of_realtime(value_ns)),
        (_, true) => Some(value_ns),
    };
    let timer = call.process().timers.get(id)?;
    let old = std::mem::replace(&mut timer.setting, Setting { at_ns, interval_ns });
    if old_address != 0 {
        write_spec(call, old_address, old)?;
    }
    Ok(0)
}

fn timer_gettime(call: &mut Call<'_>) -> SysResult {
    let setting = call.args[0] as u32;
    let setting = call.process().timers.get(setting)?.setting;
    write_spec(call, call.args[1], setting)?;
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
