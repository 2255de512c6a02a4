//! A bound of the processor time of a whole guest: so much in each period, over all virtual CPUs. When it is used up, no
//! thread runs before the next period. What was used beyond it is taken off the periods that follow; what was not used
//! is not kept (the rules of `cpu.max` of control groups). Plain data; the ticker of [`crate::vcpu`] acts on it.

/// Period over which the bound holds: that of control groups.
pub(crate) const PERIOD_NS: u64 = 100_000_000;
/// Smallest amount for one period.
const QUOTA_NS_MIN: u64 = 1_000_000;
/// How often time is counted at most.
const COUNT_NS_MIN: u64 = 1_000_000;
/// Most periods that a guest pays back for, so that one late count does not stop it for long.
const DEBT_PERIODS_MAX: u64 = 10;

/// What a guest may use and has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quota {
    /// For each period.
    quota_ns: u64,
    /// How many virtual CPUs may use it up together.
    vcpu_count: u64,
    period_end_ns: u64,
    /// Processor time at which the period has begun, less what it has to pay back.
    begun_at_ns: u64,
    count_at_ns: u64,
    is_used_up: bool,
}

impl Quota {
    /// A bound that begins now. `share`: thousandths of a processor. `used_ns`: processor time until now.
    pub(crate) fn new(share: u32, vcpu_count: usize, now_ns: u64, used_ns: u64) -> Self {
        Self {
            quota_ns: (u64::from(share) * PERIOD_NS / 1000).max(QUOTA_NS_MIN),
            vcpu_count: (vcpu_count as u64).max(1),
            period_end_ns: now_ns + PERIOD_NS,
            begun_at_ns: used_ns,
            count_at_ns: now_ns,
            is_used_up: false,
        }
    }

    /// When time has to be counted again, if anything runs until then or is held back.
    pub(crate) fn count_at_ns(&self) -> u64 {
        self.count_at_ns
    }

    /// Whether nothing may run.
    pub(crate) fn is_used_up(&self) -> bool {
        self.is_used_up
    }

    /// Takes note of the processor time that the guest has used in all.
    pub(crate) fn count(&mut self, now_ns: u64, used_ns: u64) {
        if now_ns >= self.period_end_ns {
            let periods = (now_ns - self.period_end_ns) / PERIOD_NS + 1;
            let used = used_ns.saturating_sub(self.begun_at_ns);
            let debt = used.saturating_sub(self.quota_ns.saturating_mul(periods));
            self.begun_at_ns = used_ns.saturating_sub(debt.min(self.quota_ns.saturating_mul(DEBT_PERIODS_MAX)));
            self.period_end_ns += periods * PERIOD_NS;
        }
        let left_ns = self.quota_ns.saturating_sub(used_ns.saturating_sub(self.begun_at_ns));
        self.is_used_up = left_ns == 0;
        self.count_at_ns = match self.is_used_up {
            true => self.period_end_ns,
            // Not earlier than all virtual CPUs together can have used up what is left.
            false => self.period_end_ns.min(now_ns + (left_ns / self.vcpu_count).max(COUNT_NS_MIN)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_a_period_allows_is_used_up_and_comes_back() {
        let mut quota = Quota::new(250, 1, 0, 7 * MS);
        assert!(!quota.is_used_up());
        quota.count(10 * MS, 17 * MS);
        assert!(!quota.is_used_up());
        assert_eq!(quota.count_at_ns(), 25 * MS, "then the other 15 ms can be used up");
        quota.count(25 * MS, 32 * MS);
        assert!(quota.is_used_up());
        assert_eq!(quota.count_at_ns(), PERIOD_NS);
        quota.count(PERIOD_NS, 32 * MS);
        assert!(!quota.is_used_up());
        assert_eq!(quota.count_at_ns(), PERIOD_NS + 25 * MS);
    }

    #[test]
    fn several_virtual_cpus_share_it() {
        let mut quota = Quota::new(500, 4, 0, 0);
        quota.count(0, 0);
        assert_eq!(quota.count_at_ns(), 50 * MS / 4);
        quota.count(50 * MS / 4, 49 * MS);
        assert_eq!(quota.count_at_ns(), 50 * MS / 4 + COUNT_NS_MIN);
    }

    #[test]
    fn what_was_used_beyond_is_paid_back_and_what_was_not_used_is_lost() {
        let mut quota = Quota::new(250, 1, 0, 0);
        quota.count(60 * MS, 60 * MS);
        assert!(quota.is_used_up());
        quota.count(PERIOD_NS, 60 * MS);
        assert!(quota.is_used_up(), "35 ms beyond: the second period pays");
        quota.count(2 * PERIOD_NS, 60 * MS);
        assert_eq!((quota.is_used_up(), quota.count_at_ns()), (false, 2 * PERIOD_NS + 15 * MS));
        quota.count(9 * PERIOD_NS, 60 * MS);
        assert_eq!(quota.count_at_ns(), 9 * PERIOD_NS + 25 * MS);
    }

    #[test]
    fn a_debt_has_a_bound() {
        let mut quota = Quota::new(10, 1, 0, 0);
        quota.count(PERIOD_NS, 100 * PERIOD_NS);
        let mut periods = 1;
        while quota.is_used_up() {
            periods += 1;
            quota.count(periods * PERIOD_NS, 100 * PERIOD_NS);
        }
        assert_eq!(periods, DEBT_PERIODS_MAX + 1);
    }

    #[test]
    fn a_busy_guest_gets_its_share_whenever_it_is_counted() {
        for (share, vcpu_count, late_ns) in [(72, 1, 0), (250, 1, 3 * MS), (500, 2, 700_000), (2500, 4, 2 * MS)] {
            let mut quota = Quota::new(share, vcpu_count, 0, 0);
            let (mut now_ns, mut used_ns) = (0, 0);
            while now_ns < 100 * PERIOD_NS {
                let next_ns = quota.count_at_ns().max(now_ns) + late_ns + 1;
                used_ns += if quota.is_used_up() { 0 } else { (next_ns - now_ns) * vcpu_count as u64 };
                now_ns = next_ns;
                quota.count(now_ns, used_ns);
            }
            let expected = u64::from(share) * now_ns / 1000;
            // The last period may have been paid for in advance.
            assert!(used_ns.abs_diff(expected) < expected / 20, "{share}: {used_ns} of {expected}");
        }
    }
}
