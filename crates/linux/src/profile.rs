//! Where a guest's exits go: how often it left guest code and why, which system calls it made, and how long the monitor
//! took to serve them. Kept only when asked for: of a whole run as a table, of an invocation as one line.

use std::fmt;

use calypte_platform::Exit;

use crate::kernel::Kernel;
use crate::table;

/// Kinds of exits in a [`Profile::summary`].
const SUMMARY_KINDS: usize = 10;

/// What a guest has done, by kind.
#[derive(Debug, Clone)]
pub struct Profile {
    calls: Box<[Count; table::NUMBERS]>,
    page_faults: Count,
    exceptions: u64,
    preemptions: u64,
}

/// How often something was served and how long that took.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    times: u64,
    /// Runs of a handler: more than `times` when calls were blocked and run again.
    runs: u64,
    served_ns: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            calls: Box::new([Count::default(); table::NUMBERS]),
            page_faults: Count::default(),
            exceptions: 0,
            preemptions: 0,
        }
    }
}

impl Profile {
    /// A return from guest code.
    pub(crate) fn add_exit(&mut self, exit: &Exit, number: u64) {
        match exit {
            Exit::SystemCall => {
                if let Some(count) = self.call(number) {
                    count.times += 1;
                }
            }
            Exit::PageFault { .. } => self.page_faults.times += 1,
            Exit::Exception { .. } => self.exceptions += 1,
            Exit::Preempted => self.preemptions += 1,
        }
    }

    /// A run of a system call's handler.
    pub(crate) fn add_call(&mut self, number: u64, served_ns: u64) {
        if let Some(count) = self.call(number) {
            count.runs += 1;
            count.served_ns += served_ns;
        }
    }

    /// A page fault that was served.
    pub(crate) fn add_page_fault(&mut self, served_ns: u64) {
        self.page_faults.served_ns += served_ns;
    }

    fn call(&mut self, number: u64) -> Option<&mut Count> {
        usize::try_from(number).ok().and_then(|number| self.calls.get_mut(number))
    }

    /// What there was, by name, the most frequent first.
    fn rows(&self) -> Vec<(&'static str, Count)> {
        let name = |number| table::find(number).map_or_else(|| table::refused::find(number).name, |call| call.name);
        let mut rows: Vec<_> = (0_u64..).zip(self.calls.iter()).map(|(number, count)| (name(number), *count)).collect();
        rows.push(("(page fault)", self.page_faults));
        rows.push(("(exception)", Count { times: self.exceptions, ..Count::default() }));
        rows.push(("(pre-emption)", Count { times: self.preemptions, ..Count::default() }));
        rows.retain(|(_, count)| count.times > 0);
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(count.times));
        rows
    }

    /// The number of exits and the most frequent kinds of them, in one line.
    pub fn summary(&self) -> String {
        let rows = self.rows();
        let total: u64 = rows.iter().map(|(_, count)| count.times).sum();
        let kinds = rows.iter().take(SUMMARY_KINDS).map(|(name, count)| format!("\t{name}: {}", count.times));
        format!("Exits: {total}{}", kinds.collect::<String>())
    }
}

impl Kernel {
    /// Does some work: its result and, when there is a profile, how long it took, nanoseconds.
    pub(crate) fn time_for_profile<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> (T, u64) {
        if self.profile.is_none() {
            return (work(self), 0);
        }
        let started_ns = self.clock.monotonic_ns();
        let result = work(self);
        (result, self.clock.monotonic_ns().saturating_sub(started_ns))
    }
}

impl fmt::Display for Profile {
    /// A table, the most frequent first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let total: u64 = rows.iter().map(|(_, count)| count.times).sum();
        writeln!(f, "{:<20} {:>9} {:>9} {:>12} {:>10}", "exits", "times", "resumed", "served ms", "each us")?;
        for (name, count) in rows {
            let resumed = count.runs.saturating_sub(count.times);
            let (ms, each) = (count.served_ns as f64 / 1e6, count.served_ns as f64 / 1e3 / count.times as f64);
            writeln!(f, "{name:<20} {:>9} {resumed:>9} {ms:>12.2} {each:>10.1}", count.times)?;
        }
        write!(f, "{:<20} {total:>9}", "all")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_come_first() {
        let mut profile = Profile::default();
        profile.add_exit(&Exit::SystemCall, 0);
        for _ in 0..2 {
            profile.add_exit(&Exit::SystemCall, 39);
            profile.add_call(39, 1500);
        }
        profile.add_exit(&Exit::SystemCall, u64::MAX);
        let text = profile.to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["getpid", "2", "0", "0.00", "1.5"]);
        assert_eq!(lines[2][..2], ["read", "1"]);
        assert_eq!(lines[3], ["all", "3"]);
        assert_eq!(profile.summary(), "Exits: 3\tgetpid: 2\tread: 1");
    }
}
