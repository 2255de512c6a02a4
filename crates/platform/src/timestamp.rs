//! The host's time-stamp counter, which the virtual CPUs of every platform show to their guests unchanged.

#![allow(unsafe_code)]

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::Timestamp;

/// Shortest time over which the counter's speed is measured: an error of 50 ns at either end is 200 millionths of it.
const MEASURE_MIN: Duration = Duration::from_micros(500);

/// Begins to measure the counter's speed; the longer before the first [`read`], the better the measurement. A process
/// forked later goes on with the same measurement.
pub fn start_measuring() {
    begin();
}

/// A counter value and the time of it.
fn begin() -> (u64, Instant) {
    static BEGIN: OnceLock<(u64, Instant)> = OnceLock::new();
    *BEGIN.get_or_init(now)
}

/// The counter and the time of the same moment: of several attempts the one that took the fewest ticks, since a thread may
/// lose its processor in the middle of one.
fn now() -> (u64, Instant) {
    const ATTEMPTS: usize = 5;
    let attempt = || {
        let before = counter();
        let time = Instant::now();
        (counter().saturating_sub(before), before, time)
    };
    let best = (0..ATTEMPTS).map(|_| attempt()).min_by_key(|(took, ..)| *took).expect("there is more than no attempt");
    (best.1 + best.0 / 2, best.2)
}

/// The counter now. `None` if it stops or changes speed with the processor's power states.
pub fn read() -> Option<Timestamp> {
    static TICKS_PER_MS: OnceLock<Option<u64>> = OnceLock::new();
    let ticks_per_ms = (*TICKS_PER_MS.get_or_init(|| is_invariant().then(measure)))?;
    Some(Timestamp { ticks: counter(), ticks_per_ms })
}

fn counter() -> u64 {
    // SAFETY: every 64-bit x86 processor has the instruction.
    unsafe { _rdtsc() }
}

fn measure() -> u64 {
    let (begin_ticks, begin_time) = begin();
    loop {
        let (ticks, time) = now();
        let (ticks, elapsed) = (ticks.saturating_sub(begin_ticks), time - begin_time);
        if elapsed >= MEASURE_MIN {
            let per_ms = u128::from(ticks) * 1_000_000 / elapsed.as_nanos();
            return u64::try_from(per_ms).unwrap_or(u64::MAX).max(1);
        }
        std::hint::spin_loop();
    }
}

/// AMD64 Architecture Programmer's Manual, volume 3, appendix E.4.5: function 8000_0007h, EDX bit 8.
fn is_invariant() -> bool {
    const POWER_MANAGEMENT: u32 = 0x8000_0007;
    __cpuid(0x8000_0000).eax >= POWER_MANAGEMENT && __cpuid(POWER_MANAGEMENT).edx & (1 << 8) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_as_fast_as_measured() {
        let Some(speed) = read().map(|timestamp| timestamp.ticks_per_ms) else {
            eprintln!("SKIP the_counter_is_as_fast_as_measured: this processor's time-stamp counter is not invariant");
            return;
        };
        let (before_ticks, before) = now();
        while before.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let (after_ticks, after) = now();
        let expected = (after - before).as_secs_f64() * 1e3 * speed as f64;
        let ratio = (after_ticks - before_ticks) as f64 / expected;
        assert!((0.99..1.01).contains(&ratio), "{ratio}");
    }
}
