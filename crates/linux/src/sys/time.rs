//! Clocks and sleeping.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::clock::SECOND_NS;
use crate::errno::Errno;
use crate::outcome::{Stop, SysResult, Wait, Woken};
use crate::sys::entry;
use crate::table::SystemCall;

const SETTING: &str = "EPERM once the arguments are right: the clocks are the monitor's";

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(35, "nanosleep", nanosleep),
    entry(34, "pause", pause),
    entry(96, "gettimeofday", gettimeofday).supports("the time zone is UTC"),
    entry(159, "adjtimex", adjtimex)
        .supports("reading, of a clock that is not synchronised (TIME_ERROR); changes are EPERM"),
    entry(164, "settimeofday", settimeofday).supports(SETTING),
    entry(201, "time", time),
    entry(227, "clock_settime", clock_settime).supports(SETTING),
    entry(228, "clock_gettime", clock_gettime).supports(
        "all clocks but those of devices (EINVAL); the raw clock is the monotonic one, CLOCK_TAI the real-time one, \
         coarse clocks are as fine as the others",
    ),
    entry(229, "clock_getres", clock_getres).supports("1 ns, of every clock"),
    entry(230, "clock_nanosleep", clock_nanosleep).supports(
        "CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI, alarm clocks (as those without alarm); others \
         are EOPNOTSUPP, unknown ones EINVAL",
    ),
    entry(305, "clock_adjtime", clock_adjtime).supports(
        "reading, of a clock that is not synchronised (TIME_ERROR); changes are EPERM; other clocks are EOPNOTSUPP",
    ),
];

/// `struct timespec`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanoseconds: i64,
}

impl Timespec {
    /// From nanoseconds.
    pub fn from_ns(ns: u64) -> Self {
        Self { seconds: (ns / SECOND_NS).cast_signed(), nanoseconds: (ns % SECOND_NS).cast_signed() }
    }

    /// In nanoseconds, at most what a `u64` holds. `EINVAL` if it is not a time.
    pub fn to_ns(self) -> Result<u64, Errno> {
        let nanoseconds = u64::try_from(self.nanoseconds).ok().filter(|ns| *ns < SECOND_NS).ok_or(Errno::EINVAL)?;
        let seconds = u64::try_from(self.seconds).map_err(|_| Errno::EINVAL)?;
        Ok(seconds.saturating_mul(SECOND_NS).saturating_add(nanoseconds))
    }
}

/// `struct timeval`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug)]
#[repr(C)]
pub struct Timeval {
    /// Seconds.
    pub seconds: i64,
    /// Microseconds, 0 to 999,999.
    pub microseconds: i64,
}

impl Timeval {
    /// From nanoseconds.
    pub fn from_ns(ns: u64) -> Self {
        Self { seconds: (ns / SECOND_NS).cast_signed(), microseconds: (ns % SECOND_NS / 1000).cast_signed() }
    }

    /// In nanoseconds.
    pub fn to_ns(self) -> Result<u64, Errno> {
        let nanoseconds = self.microseconds.checked_mul(1000).ok_or(Errno::EINVAL)?;
        Timespec { seconds: self.seconds, nanoseconds }.to_ns()
    }
}

/// Reads a `struct timespec` in nanoseconds; `None` for a null pointer.
pub fn read_optional_timespec(call: &mut Call<'_>, address: u64) -> Result<Option<u64>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    call.read::<Timespec>(address)?.to_ns().map(Some)
}

/// A clock that programs can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockName {
    /// `CLOCK_REALTIME` and its coarse, alarm and TAI forms.
    Realtime,
    /// `CLOCK_MONOTONIC` and its raw and coarse forms, `CLOCK_BOOTTIME`: a guest is never suspended without its clocks
    /// going on.
    Monotonic,
    /// A process's time on processors; 0 for the caller's.
    ProcessCpu(u32),
    /// A thread's time on processors; 0 for the caller.
    ThreadCpu(u32),
}

impl ClockName {
    /// The clock with a number (`clock_gettime(2)`).
    pub fn from_number(number: i32) -> Result<Self, Errno> {
        match number {
            0 | 5 | 8 | 11 => Ok(Self::Realtime),
            1 | 4 | 6 | 7 | 9 => Ok(Self::Monotonic),
            2 => Ok(Self::ProcessCpu(0)),
            3 => Ok(Self::ThreadCpu(0)),
            // Dynamic clocks: the complement of an id, three bits of kind, of which bit 2 means a thread
            // (`pthread_getcpuclockid`, `clock_getcpuclockid`).
            number if number < 0 && number & 3 != 3 => {
                let id = (!(number >> 3)).cast_unsigned();
                if number & 4 != 0 { Ok(Self::ThreadCpu(id)) } else { Ok(Self::ProcessCpu(id)) }
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// The clock with a number, if it can wake somebody: raw and coarse clocks cannot.
    pub fn waking(number: i32) -> Result<Self, Errno> {
        match number {
            libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_MONOTONIC_COARSE => {
                Err(Errno::EOPNOTSUPP)
            }
            number => Self::from_number(number),
        }
    }

    /// What it shows, nanoseconds.
    pub fn now_ns(self, call: &mut Call<'_>) -> Result<u64, Errno> {
        match self {
            Self::Realtime => Ok(call.kernel.clock.realtime_ns()),
            Self::Monotonic => Ok(call.kernel.clock.monotonic_ns()),
            Self::ProcessCpu(0) => Ok(call.process().time.total_ns()),
            Self::ProcessCpu(pid) => {
                call.kernel.processes.get(&pid).map(|process| process.time.total_ns()).ok_or(Errno::EINVAL)
            }
            Self::ThreadCpu(0) => Ok(call.thread().time.total_ns()),
            Self::ThreadCpu(tid) => {
                call.kernel.threads.get(&tid).map(|thread| thread.time.total_ns()).ok_or(Errno::EINVAL)
            }
        }
    }

    /// The time of the monotonic clock at which this clock will show `time_ns`. `EINVAL` for clocks of processor time.
    pub fn deadline_ns(self, call: &Call<'_>, time_ns: u64) -> Result<u64, Errno> {
        match self {
            Self::Realtime => Ok(call.kernel.clock.monotonic_of_realtime(time_ns)),
            Self::Monotonic => Ok(time_ns),
            Self::ProcessCpu(_) | Self::ThreadCpu(_) => Err(Errno::EINVAL),
        }
    }
}

fn clock_gettime(call: &mut Call<'_>) -> SysResult {
    let clock = ClockName::from_number(call.int(0))?;
    let now_ns = clock.now_ns(call)?;
    call.write(call.args[1], &Timespec::from_ns(now_ns))?;
    Ok(0)
}

fn clock_getres(call: &mut Call<'_>) -> SysResult {
    ClockName::from_number(call.int(0))?.now_ns(call)?;
    if call.args[1] != 0 {
        call.write(call.args[1], &Timespec::from_ns(1))?;
    }
    Ok(0)
}

fn gettimeofday(call: &mut Call<'_>) -> SysResult {
    let [time_address, zone_address, ..] = call.args;
    if time_address != 0 {
        let now_ns = call.kernel.clock.realtime_ns();
        call.write(time_address, &Timeval::from_ns(now_ns))?;
    }
    if zone_address != 0 {
        call.write(zone_address, &[0_i32; 2])?;
    }
    Ok(0)
}

fn time(call: &mut Call<'_>) -> SysResult {
    let seconds = call.kernel.clock.realtime_ns() / SECOND_NS;
    if call.args[0] != 0 {
        call.write(call.args[0], &seconds)?;
    }
    Ok(seconds)
}

/// The guest's clocks are the monitor's: nobody sets them.
fn clock_settime(call: &mut Call<'_>) -> SysResult {
    match call.int(0) {
        libc::CLOCK_REALTIME => _ = call.read::<Timespec>(call.args[1])?.to_ns()?,
        clock @ ..0 => _ = ClockName::from_number(clock)?.now_ns(call)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Err(Errno::EPERM.into())
}

fn settimeofday(call: &mut Call<'_>) -> SysResult {
    if call.args[0] != 0 {
        call.read::<Timeval>(call.args[0])?.to_ns()?;
    }
    Err(Errno::EPERM.into())
}

/// `struct timex`, the part that is told: a clock that nobody disciplines (`STA_UNSYNC`).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Timex {
    modes: u64,
    offset: i64,
    frequency: i64,
    error_max: i64,
    error_estimated: i64,
    status: u64,
    constant: i64,
    precision: i64,
    tolerance: i64,
    time: Timeval,
    tick: i64,
    rest: [u64; 14],
}

const _: () = assert!(size_of::<Timex>() == 208);

fn adjtimex(call: &mut Call<'_>) -> SysResult {
    tell_discipline(call, call.args[0])
}

fn clock_adjtime(call: &mut Call<'_>) -> SysResult {
    match ClockName::from_number(call.int(0))? {
        _ if call.int(0) == libc::CLOCK_REALTIME => tell_discipline(call, call.args[1]),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

fn tell_discipline(call: &mut Call<'_>, address: u64) -> SysResult {
    const ERROR_MAX_US: i64 = 16_000_000;
    const TICK_US: i64 = 10_000;
    /// 500 parts in a million, 2^16 units each.
    const TOLERANCE: i64 = 500 << 16;
    const UNSYNCHRONIZED: u64 = 0x40;
    const STATE_ERROR: u64 = 5;
    let asked: Timex = call.read(address)?;
    if asked.modes as u32 != 0 {
        return Err(Errno::EPERM.into());
    }
    let time = Timeval::from_ns(call.kernel.clock.realtime_ns());
    let told = Timex {
        modes: 0,
        offset: 0,
        frequency: 0,
        error_max: ERROR_MAX_US,
        error_estimated: ERROR_MAX_US,
        status: UNSYNCHRONIZED,
        constant: 2,
        precision: 1,
        tolerance: TOLERANCE,
        time,
        tick: TICK_US,
        rest: [0; 14],
    };
    call.write(address, &told)?;
    Ok(STATE_ERROR)
}

fn nanosleep(call: &mut Call<'_>) -> SysResult {
    let [duration_address, remaining_address, ..] = call.args;
    let duration_ns = call.read::<Timespec>(duration_address)?.to_ns()?;
    sleep(call, Some(duration_ns), None, remaining_address)
}

fn clock_nanosleep(call: &mut Call<'_>) -> SysResult {
    const ABSOLUTE: i32 = 1;
    let [_, _, time_address, remaining_address, ..] = call.args;
    let clock = ClockName::waking(call.int(0))?;
    match clock {
        ClockName::Realtime | ClockName::Monotonic => {}
        ClockName::ThreadCpu(0) | ClockName::ProcessCpu(_) => return Err(Errno::EOPNOTSUPP.into()),
        ClockName::ThreadCpu(_) => return Err(Errno::EINVAL.into()),
    }
    let time_ns = call.read::<Timespec>(time_address)?.to_ns()?;
    if call.int(1) & ABSOLUTE != 0 {
        let deadline_ns = clock.deadline_ns(call, time_ns)?;
        return sleep(call, None, Some(deadline_ns), 0);
    }
    sleep(call, Some(time_ns), None, remaining_address)
}

fn sleep(call: &mut Call<'_>, duration_ns: Option<u64>, absolute_ns: Option<u64>, remaining_address: u64) -> SysResult {
    let deadline_ns = absolute_ns.or_else(|| call.deadline(duration_ns)).unwrap_or(u64::MAX);
    match call.woken {
        Some(Woken::Deadline) => Ok(0),
        Some(Woken::Signal) => {
            if remaining_address != 0 {
                let remaining_ns = deadline_ns.saturating_sub(call.kernel.clock.monotonic_ns());
                call.write(remaining_address, &Timespec::from_ns(remaining_ns))?;
            }
            Err(Errno::EINTR.into())
        }
        _ if call.kernel.clock.monotonic_ns() >= deadline_ns => Ok(0),
        _ => Err(Stop::Block(Wait { keys: Vec::new(), deadline_ns: Some(deadline_ns) })),
    }
}

fn pause(call: &mut Call<'_>) -> SysResult {
    if call.is_interrupted() {
        return Err(Errno::EINTR.into());
    }
    Err(Stop::Block(Wait::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_checked() {
        let cases = [
            (0, 0, Ok(0)),
            (1, 999_999_999, Ok(1_999_999_999)),
            (1, 1_000_000_000, Err(Errno::EINVAL)),
            (-1, 0, Err(Errno::EINVAL)),
            (0, -1, Err(Errno::EINVAL)),
            (i64::MAX, 999_999_999, Ok(u64::MAX)),
        ];
        for (seconds, nanoseconds, expected) in cases {
            assert_eq!(Timespec { seconds, nanoseconds }.to_ns(), expected, "{seconds} {nanoseconds}");
        }
        assert!(Timeval { seconds: 0, microseconds: i64::MAX }.to_ns().is_err());
    }
}
