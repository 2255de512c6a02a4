//! How much environments and accounts may ask for: so many requests at a time and, in the long run, in a second. Pure.

use std::time::{Duration, Instant};

/// A limit on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// At a time.
    pub outstanding_max: u32,
    /// In a second, in the long run.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// Of one environment.
pub const ENVIRONMENT: Limit = Limit { outstanding_max: 256, per_second: 200, burst: 1000 };
/// Of all environments of one account together.
pub const ACCOUNT: Limit = Limit { outstanding_max: 1024, per_second: 2000, burst: 5000 };

const _: () = assert!(ENVIRONMENT.outstanding_max <= ACCOUNT.outstanding_max && ENVIRONMENT.burst <= ACCOUNT.burst);

/// Counts requests against a [`Limit`].
#[derive(Debug)]
pub struct Meter {
    limit: Limit,
    outstanding: u32,
    /// Thousandths of requests that may be made at once.
    credit_milli: u64,
    counted_at: Instant,
}

impl Meter {
    /// A meter of requests from `now` on.
    pub fn new(limit: Limit, now: Instant) -> Self {
        Self { limit, outstanding: 0, credit_milli: u64::from(limit.burst) * 1000, counted_at: now }
    }

    /// Whether there may be one more request now.
    pub fn has_room(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.counted_at).min(Duration::from_secs(3600));
        let earned = u64::try_from(elapsed.as_millis()).unwrap_or(0) * u64::from(self.limit.per_second);
        if earned > 0 {
            self.counted_at = now;
            self.credit_milli = (self.credit_milli + earned).min(u64::from(self.limit.burst) * 1000);
        }
        self.outstanding < self.limit.outstanding_max && self.credit_milli >= 1000
    }

    /// Counts a request for which there is room.
    pub fn begin(&mut self) {
        self.outstanding += 1;
        self.credit_milli -= 1000;
    }

    /// A request has been answered.
    pub fn end(&mut self) {
        self.outstanding -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_bounded_at_a_time_and_by_rate() {
        let start = Instant::now();
        let mut meter = Meter::new(Limit { outstanding_max: 2, per_second: 10, burst: 3 }, start);
        for _ in 0..2 {
            assert!(meter.has_room(start));
            meter.begin();
        }
        assert!(!meter.has_room(start), "two at a time");
        meter.end();
        assert!(meter.has_room(start));
        meter.begin();
        meter.end();
        meter.end();
        assert!(!meter.has_room(start), "three at once");
        assert!(!meter.has_room(start + Duration::from_millis(99)));
        assert!(meter.has_room(start + Duration::from_millis(100)));
        meter.begin();
        assert!(!meter.has_room(start + Duration::from_millis(150)));
        assert!(meter.has_room(start + Duration::from_secs(100)));
        assert_eq!(meter.credit_milli, 3000);
    }
}
