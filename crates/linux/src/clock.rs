//! The guest's clocks. One `Scale` turns the processor's time-stamp counter into time; system calls, deadlines and the
//! vDSO all use it, so they agree to the nanosecond.

pub(crate) mod saved;

use std::sync::Arc;

use calypte_platform::{Frame, Machine, Memory};
use rustix::time::ClockId;
use zerocopy::IntoBytes;

/// Nanoseconds of a second.
pub const SECOND_NS: u64 = 1_000_000_000;
/// `CLOCK_MONOTONIC` when the guest starts: not zero, which programs take for "never".
const MONOTONIC_AT_START_NS: u64 = SECOND_NS;
/// How long a scale is used before it is compared with the host's clocks again.
const REFRESH_NS: u64 = SECOND_NS / 2;
/// Most that the monotonic clock is made faster or slower to follow the host's, in millionths.
const SLEW_MAX_PPM: i64 = 500;
/// A measurement of the counter's speed changes what is known by at most a thousandth: more is a mistake.
const RATE_CHANGE_DIVISOR: u64 = 1000;
/// A difference of the real-time clock that is stepped over at once.
const REALTIME_STEP_NS: u64 = 100_000;

/// The guest's clocks, running.
pub struct Clock {
    machine: Arc<dyn Machine>,
    scale: Scale,
    /// Nanoseconds per tick as measured, with 32 fractional bits.
    rate: u64,
    started: HostTime,
    /// What `CLOCK_MONOTONIC` showed at `started`: more than at a guest's start if it was restored.
    monotonic_at_start_ns: u64,
    published: Option<Frame>,
}

#[derive(Debug, Clone, Copy)]
struct HostTime {
    counter: u64,
    monotonic_ns: u64,
    realtime_ns: u64,
}

/// A straight line from counter values to time.
#[derive(Debug, Clone, Copy)]
struct Scale {
    counter: u64,
    /// Nanoseconds per tick with 32 fractional bits.
    multiplier: u64,
    monotonic_ns: u64,
    realtime_ns: u64,
}

/// Where in the page that the vDSO reads, `struct clock_data` of `vdso/vdso.c`, its parts are.
const SEQUENCE_OFFSET: usize = 0;
const IS_COUNTER_USABLE_OFFSET: usize = 4;
const SCALE_OFFSET: usize = 8;

impl Scale {
    fn elapsed_ns(&self, counter: u64) -> u64 {
        let ticks = counter.saturating_sub(self.counter);
        ((u128::from(ticks) * u128::from(self.multiplier)) >> 32) as u64
    }

    fn monotonic_ns(&self, counter: u64) -> u64 {
        self.monotonic_ns + self.elapsed_ns(counter)
    }

    fn realtime_ns(&self, counter: u64) -> u64 {
        self.realtime_ns + self.elapsed_ns(counter)
    }

    /// The scale from `now` on that starts where this one is and meets the host's clocks soon. `rate` is nanoseconds per
    /// tick as measured since the start.
    fn follow(&self, now: HostTime, host_monotonic_ns: u64, rate: u64) -> Self {
        let monotonic_ns = self.monotonic_ns(now.counter);
        let realtime_ns = self.realtime_ns(now.counter);
        let error_ns = host_monotonic_ns.cast_signed() - monotonic_ns.cast_signed();
        let slew_ppm = (error_ns / (REFRESH_NS / 1_000_000).cast_signed()).clamp(-SLEW_MAX_PPM, SLEW_MAX_PPM);
        let slew = i128::from(rate) * i128::from(slew_ppm) / 1_000_000;
        let is_realtime_near = realtime_ns.abs_diff(now.realtime_ns) < REALTIME_STEP_NS;
        Self {
            counter: now.counter,
            multiplier: u64::try_from(i128::from(rate) + slew).unwrap_or(rate),
            monotonic_ns,
            realtime_ns: if is_realtime_near { realtime_ns } else { now.realtime_ns },
        }
    }
}

impl Clock {
    /// Starts the clocks.
    pub fn new(machine: Arc<dyn Machine>) -> Self {
        let started = host_time(&*machine);
        let multiplier = match machine.timestamp() {
            Some(timestamp) => ((1_000_000_u128 << 32) / u128::from(timestamp.ticks_per_ms.max(1))) as u64,
            None => 1 << 32,
        };
        let scale = Scale {
            counter: started.counter,
            multiplier,
            monotonic_ns: MONOTONIC_AT_START_NS,
            realtime_ns: started.realtime_ns,
        };
        Self {
            machine,
            scale,
            rate: multiplier,
            started,
            monotonic_at_start_ns: MONOTONIC_AT_START_NS,
            published: None,
        }
    }

    fn counter(&self) -> u64 {
        self.machine.timestamp().map_or_else(|| host_clock(ClockId::Monotonic), |timestamp| timestamp.ticks)
    }

    /// `CLOCK_MONOTONIC`, nanoseconds. Deadlines are in this clock.
    pub fn monotonic_ns(&self) -> u64 {
        self.scale.monotonic_ns(self.counter())
    }

    /// `CLOCK_REALTIME`, nanoseconds since 1970.
    pub fn realtime_ns(&self) -> u64 {
        self.scale.realtime_ns(self.counter())
    }

    /// The time of `CLOCK_MONOTONIC` at which `CLOCK_REALTIME` will be `realtime_ns`.
    pub fn monotonic_of_realtime(&self, realtime_ns: u64) -> u64 {
        let counter = self.counter();
        let now_ns = self.scale.realtime_ns(counter);
        let monotonic_ns = self.scale.monotonic_ns(counter);
        if realtime_ns >= now_ns {
            monotonic_ns.saturating_add(realtime_ns - now_ns)
        } else {
            monotonic_ns.saturating_sub(now_ns - realtime_ns)
        }
    }

    /// Time since the guest started, nanoseconds.
    pub fn uptime_ns(&self) -> u64 {
        self.monotonic_ns() - MONOTONIC_AT_START_NS
    }

    /// Writes the clocks to a frame for the vDSO, now and at every refresh.
    pub fn publish(&mut self, memory: &dyn Memory, frame: Frame) {
        self.published = Some(frame);
        self.write_shared(memory);
    }

    /// Compares with the host's clocks if that has not been done for a while.
    pub fn refresh(&mut self, memory: &dyn Memory) {
        let counter = self.counter();
        if self.machine.timestamp().is_none() || self.scale.elapsed_ns(counter) < REFRESH_NS {
            return;
        }
        let now = host_time(&*self.machine);
        let host_elapsed_ns = now.monotonic_ns - self.started.monotonic_ns;
        let ticks = now.counter.saturating_sub(self.started.counter).max(1);
        let measured = ((u128::from(host_elapsed_ns) << 32) / u128::from(ticks)) as u64;
        let rate =
            measured.clamp(self.rate - self.rate / RATE_CHANGE_DIVISOR, self.rate + self.rate / RATE_CHANGE_DIVISOR);
        self.rate = rate;
        self.scale = self.scale.follow(now, self.monotonic_at_start_ns + host_elapsed_ns, rate);
        self.write_shared(memory);
    }

    fn write_shared(&self, memory: &dyn Memory) {
        let Some(frame) = self.published else { return };
        let is_counter_usable = u32::from(self.machine.timestamp().is_some());
        let Scale { counter, multiplier, monotonic_ns, realtime_ns } = self.scale;
        // The sequence number is a word of its own, changed by atomic operations: odd while the rest is written.
        let sequence = memory.load_u32(frame, SEQUENCE_OFFSET);
        let writing = sequence.wrapping_add(1);
        let _ = memory.compare_exchange_u32(frame, SEQUENCE_OFFSET, sequence, writing);
        memory.copy_in(frame, IS_COUNTER_USABLE_OFFSET, is_counter_usable.as_bytes());
        memory.copy_in(frame, SCALE_OFFSET, [counter, multiplier, monotonic_ns, realtime_ns].as_bytes());
        let _ = memory.compare_exchange_u32(frame, SEQUENCE_OFFSET, writing, writing.wrapping_add(1));
    }
}

/// The host's clocks and the counter at the same moment: of several attempts the one that took the fewest ticks, since a
/// thread may lose its processor in the middle of one.
fn host_time(machine: &dyn Machine) -> HostTime {
    const ATTEMPTS: usize = 5;
    let clocks = || (host_clock(ClockId::Monotonic), host_clock(ClockId::Realtime));
    let attempt = || {
        let before = machine.timestamp()?.ticks;
        let (monotonic_ns, realtime_ns) = clocks();
        let took = machine.timestamp()?.ticks.saturating_sub(before);
        Some((took, HostTime { counter: before + took / 2, monotonic_ns, realtime_ns }))
    };
    let best = (0..ATTEMPTS).filter_map(|_| attempt()).min_by_key(|(took, _)| *took);
    best.map_or_else(
        || {
            let (monotonic_ns, realtime_ns) = clocks();
            HostTime { counter: monotonic_ns, monotonic_ns, realtime_ns }
        },
        |(_, time)| time,
    )
}

/// A clock of the host, nanoseconds.
fn host_clock(clock: ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec.cast_unsigned() * SECOND_NS + time.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ticks per nanosecond, as measured; the first guess may be wrong.
    #[test]
    fn a_wrong_first_guess_is_made_good_without_going_back() {
        let right = 1_u64 << 31;
        for guess_ppm in [-400_i64, 0, 400] {
            let multiplier = right.strict_add_signed(right.cast_signed() / 1_000_000 * guess_ppm);
            let mut scale = Scale { counter: 0, multiplier, monotonic_ns: 0, realtime_ns: 0 };
            let mut last = 0;
            for step in 1..=20_u64 {
                let true_ns = step * REFRESH_NS;
                let now = HostTime { counter: true_ns * 2, monotonic_ns: true_ns, realtime_ns: true_ns };
                scale = scale.follow(now, true_ns, right);
                assert!(scale.monotonic_ns >= last);
                last = scale.monotonic_ns;
            }
            let end_ns = 20 * REFRESH_NS;
            assert!(scale.monotonic_ns(end_ns * 2).abs_diff(end_ns) < 1000, "{guess_ppm}: {scale:?}");
            assert!(scale.realtime_ns(end_ns * 2).abs_diff(end_ns) < REALTIME_STEP_NS);
        }
    }
}
