//! A stub and the thread of its virtual CPU take turns: never does one run while the other does. On the same processor a
//! change of turns costs a fifth of what it costs between two. A stub that computes for long changes turns rarely, and is
//! left to the host's scheduler instead: others may want the processor of its virtual CPU's thread.

use std::time::Duration;

use crate::tracee::Tracee;

/// A run from this length on is one that computes.
const LONG: Duration = Duration::from_millis(1);

/// Where a stub may run.
#[derive(Debug, Default)]
pub(crate) struct Processor {
    /// The one processor to which it is bound, if it is.
    bound: Option<usize>,
    /// How long its last run was.
    last_run: Duration,
}

impl Processor {
    /// Notes how long a run was.
    pub(crate) fn note(&mut self, run: Duration) {
        self.last_run = run;
    }

    /// Before a run: binds the stub to the processor of the calling thread, or lets it run wherever that thread may.
    pub(crate) fn follow(&mut self, stub: &Tracee) {
        // SAFETY: no memory is involved.
        let current = usize::try_from(unsafe { libc::sched_getcpu() }).ok();
        let wanted = current.filter(|_| self.last_run < LONG);
        if self.bound == wanted {
            return;
        }
        self.bound = wanted;
        // SAFETY: all zeros is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        match wanted {
            // SAFETY: the number is that of a processor of this host, and the function checks it against the set's size.
            Some(current) => unsafe { libc::CPU_SET(current, &mut set) },
            // SAFETY: `set` is a valid place for the answer. Without one the stub stays where it is.
            None => unsafe {
                if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
                    return;
                }
            },
        }
        stub.set_affinity(&set);
    }
}
