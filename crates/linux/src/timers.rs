//! Timers of a process that send signals (`setitimer(2)`, `timer_create(2)`). Plain data; the kernel asks for the earliest
//! and lets them expire.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::errno::Errno;
use crate::process::ProcessorTime;
use crate::signal::{Info, Signal};

/// Most POSIX timers of a process.
pub const TIMERS_MAX: usize = 256;
/// `SI_TIMER`.
const CODE_TIMER: i32 = -2;

/// When a timer expires next, and how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Setting {
    /// Next expiration, nanoseconds of the monotonic clock or of processor time; `None`: the timer is off.
    pub at_ns: Option<u64>,
    /// Time between later ones; 0: there are none.
    pub interval_ns: u64,
}

impl Setting {
    /// Expirations up to `now_ns`, and the setting after them.
    pub fn expire(self, now_ns: u64) -> (u64, Self) {
        let Some(at) = self.at_ns.filter(|at| *at <= now_ns) else { return (0, self) };
        if self.interval_ns == 0 {
            return (1, Self::default());
        }
        let times = (now_ns - at) / self.interval_ns + 1;
        let next = at.saturating_add(times.saturating_mul(self.interval_ns));
        (times, Self { at_ns: Some(next), ..self })
    }

    /// Time until the next expiration, at least 1 while the timer is on; 0 when it is off.
    pub fn remaining_ns(self, now_ns: u64) -> u64 {
        self.at_ns.map_or(0, |at| at.saturating_sub(now_ns).max(1))
    }
}

/// What a timer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimerClock {
    /// The monotonic clock.
    Monotonic,
    /// The real-time clock.
    Realtime,
    /// The processor time of the process.
    Process,
    /// The processor time of a thread.
    Thread(u32),
}

impl TimerClock {
    fn is_processor_time(self) -> bool {
        matches!(self, Self::Process | Self::Thread(_))
    }
}

/// A timer made by `timer_create`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PosixTimer {
    /// What it sends; `None` for `SIGEV_NONE`.
    pub signal: Option<Signal>,
    /// The thread it sends to; `None`: the process.
    pub thread: Option<u32>,
    /// `sigev_value`.
    pub value: u64,
    /// What it counts.
    pub clock: TimerClock,
    /// Its state.
    pub setting: Setting,
    /// Expirations that the last signal stands for, beyond the first.
    pub overrun: u64,
}

/// The timers of one process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Timers {
    /// `ITIMER_REAL`, which sends `SIGALRM`.
    pub real: Setting,
    /// `ITIMER_VIRTUAL`, which sends `SIGVTALRM`, of processor time.
    pub virtual_time: Setting,
    /// `ITIMER_PROF`, which sends `SIGPROF`, of processor time.
    pub profile: Setting,
    posix: BTreeMap<u32, PosixTimer>,
    last_id: u32,
}

impl Timers {
    /// Adds a timer; its id.
    pub fn create(&mut self, timer: PosixTimer) -> Result<u32, Errno> {
        if self.posix.len() >= TIMERS_MAX {
            return Err(Errno::EAGAIN);
        }
        let id = self.last_id;
        self.last_id = self.last_id.wrapping_add(1);
        self.posix.insert(id, timer);
        Ok(id)
    }

    /// A timer by its id.
    pub fn get(&mut self, id: u32) -> Result<&mut PosixTimer, Errno> {
        self.posix.get_mut(&id).ok_or(Errno::EINVAL)
    }

    /// Removes a timer.
    pub fn delete(&mut self, id: u32) -> Result<(), Errno> {
        self.posix.remove(&id).map(|_| ()).ok_or(Errno::EINVAL)
    }

    /// Removes the timers that `execve` does not keep.
    pub fn delete_all(&mut self) {
        self.posix.clear();
    }

    /// When the next one expires.
    pub fn next_ns(&self) -> Option<u64> {
        let posix = self.posix.values().filter(|timer| !timer.clock.is_processor_time());
        posix.filter_map(|timer| timer.setting.at_ns).chain(self.real.at_ns).min()
    }

    /// Whether any timer of processor time is on.
    pub fn has_processor_timers(&self) -> bool {
        let is_on = |timer: &PosixTimer| timer.clock.is_processor_time() && timer.setting.at_ns.is_some();
        self.virtual_time.at_ns.is_some() || self.profile.at_ns.is_some() || self.posix.values().any(is_on)
    }

    /// Lets timers of processor time expire; what they send, each with the thread it is for.
    pub fn expire_processor_time(
        &mut self,
        process_time: ProcessorTime,
        of_thread: impl Fn(u32) -> Option<u64>,
    ) -> Vec<(Option<u32>, Info)> {
        let mut sent = Vec::new();
        let settings = [
            (&mut self.virtual_time, process_time.user_ns, Signal::VTALRM),
            (&mut self.profile, process_time.total_ns(), Signal::PROF),
        ];
        for (setting, now_ns, signal) in settings {
            let (times, next) = setting.expire(now_ns);
            *setting = next;
            if times > 0 {
                sent.push((None, Info::from_kernel(signal)));
            }
        }
        for (id, timer) in &mut self.posix {
            let now_ns = match timer.clock {
                TimerClock::Process => Some(process_time.total_ns()),
                TimerClock::Thread(tid) => of_thread(tid),
                TimerClock::Monotonic | TimerClock::Realtime => None,
            };
            sent.extend(now_ns.and_then(|now_ns| timer.expire(*id, now_ns)));
        }
        sent
    }

    /// Lets timers expire; what they send, each with the thread it is for.
    pub fn expire(&mut self, now_ns: u64) -> Vec<(Option<u32>, Info)> {
        let mut sent = Vec::new();
        let (times, next) = self.real.expire(now_ns);
        self.real = next;
        if times > 0 {
            sent.push((None, Info::from_kernel(Signal::ALRM)));
        }
        let of_clocks = self.posix.iter_mut().filter(|(_, timer)| !timer.clock.is_processor_time());
        sent.extend(of_clocks.filter_map(|(id, timer)| timer.expire(*id, now_ns)));
        sent
    }
}

impl PosixTimer {
    /// What it sends, if it expires, and to which thread.
    fn expire(&mut self, id: u32, now_ns: u64) -> Option<(Option<u32>, Info)> {
        let (times, next) = self.setting.expire(now_ns);
        self.setting = next;
        self.overrun = times.checked_sub(1)?;
        let signal = self.signal?;
        let fields = [u64::from(id) | (self.overrun.min(i32::MAX as u64) << 32), self.value, 0, 0];
        Some((self.thread, Info { signal, code: CODE_TIMER, fields }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_expirations_are_counted_and_the_phase_is_kept() {
        let setting = Setting { at_ns: Some(100), interval_ns: 10 };
        assert_eq!(setting.expire(99), (0, setting));
        assert_eq!(setting.expire(100), (1, Setting { at_ns: Some(110), interval_ns: 10 }));
        assert_eq!(setting.expire(135), (4, Setting { at_ns: Some(140), interval_ns: 10 }));
        let once = Setting { at_ns: Some(100), interval_ns: 0 };
        assert_eq!(once.expire(u64::MAX), (1, Setting::default()));
        let fastest = Setting { at_ns: Some(0), interval_ns: 1 };
        assert_eq!(fastest.expire(u64::MAX - 1).1.at_ns, Some(u64::MAX));
    }
}
