//! Timers that are read: `timerfd_create(2)`.

pub(crate) mod saved;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::file::readiness;
use crate::notifier::{Beacon, Notifier};

/// A timer. Times are of the guest's monotonic clock, in nanoseconds.
#[derive(Debug)]
pub struct TimerFd {
    setting: Mutex<Setting>,
    beacon: Beacon,
    is_realtime: bool,
}

/// When a timer expires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Next expiry; `None` while disarmed.
    pub next_ns: Option<u64>,
    /// Time between expiries; zero for a timer that expires once.
    pub interval_ns: u64,
}

impl TimerFd {
    /// A disarmed timer.
    pub fn new(notifier: &Notifier, is_realtime: bool) -> Self {
        Self { setting: Mutex::default(), beacon: Beacon::new(notifier), is_realtime }
    }

    /// Whether absolute times are of the realtime clock.
    pub fn is_realtime(&self) -> bool {
        self.is_realtime
    }

    /// Arms or disarms it.
    pub fn set(&self, setting: Setting) {
        *self.setting.lock() = setting;
        self.beacon.set_alarm(setting.next_ns);
        self.beacon.ring();
    }

    /// Its setting, with the next expiry after `now_ns` if it repeats; a single one that has passed is disarmed.
    pub fn get(&self, now_ns: u64) -> Setting {
        let setting = *self.setting.lock();
        let next_ns = setting.next_ns.and_then(|next| match (next > now_ns, setting.interval_ns) {
            (true, _) => Some(next),
            (false, 0) => None,
            (false, interval) => Some(next.saturating_add(((now_ns - next) / interval + 1).saturating_mul(interval))),
        });
        Setting { next_ns, ..setting }
    }

    /// Takes the number of expiries, as eight bytes. `EAGAIN` if there were none.
    pub fn read(&self, now_ns: u64, length: usize) -> Result<Vec<u8>, Errno> {
        if length < 8 {
            return Err(Errno::EINVAL);
        }
        let mut setting = self.setting.lock();
        let next = setting.next_ns.filter(|next| *next <= now_ns).ok_or(Errno::EAGAIN)?;
        let expiries = match setting.interval_ns {
            0 => {
                setting.next_ns = None;
                1
            }
            interval => {
                let expiries = (now_ns - next) / interval + 1;
                setting.next_ns = Some(next.saturating_add(expiries.saturating_mul(interval)));
                expiries
            }
        };
        self.beacon.set_alarm(setting.next_ns);
        Ok(expiries.to_ne_bytes().to_vec())
    }

    /// What can be done at `now_ns`.
    pub fn readiness(&self, now_ns: u64) -> u32 {
        readiness::from(self.setting.lock().next_ns.is_some_and(|next| next <= now_ns), false)
    }

    /// Changes as edge-triggered epoll counts them: settings, and each expiry that waits to be read.
    pub fn changes(&self, now_ns: u64) -> u64 {
        let next_ns = self.setting.lock().next_ns.unwrap_or(0);
        let expired = if next_ns <= now_ns { next_ns } else { 0 };
        self.beacon.changes().wrapping_add(expired)
    }

    /// The bell to wait for; it rings by itself at the next expiry.
    pub fn beacon(&self) -> &Beacon {
        &self.beacon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_are_counted_once() {
        let notifier = Notifier::default();
        let timer = TimerFd::new(&notifier, false);
        assert_eq!(timer.read(5, 8), Err(Errno::EAGAIN));
        timer.set(Setting { next_ns: Some(10), interval_ns: 5 });
        assert_eq!(timer.readiness(9), 0);
        assert_eq!(timer.read(22, 8), Ok(3u64.to_ne_bytes().to_vec()));
        assert_eq!(timer.read(24, 8), Err(Errno::EAGAIN));
        assert_eq!(notifier.next_alarm_ns(), Some(25));
        assert_eq!(timer.get(41).next_ns, Some(45));
    }

    #[test]
    fn a_single_expiry_disarms() {
        let timer = TimerFd::new(&Notifier::default(), false);
        timer.set(Setting { next_ns: Some(10), interval_ns: 0 });
        assert_eq!(timer.get(11).next_ns, None);
        assert_eq!(timer.read(11, 8), Ok(1u64.to_ne_bytes().to_vec()));
        assert_eq!(timer.readiness(20), 0);
    }
}
