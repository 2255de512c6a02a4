//! A stub and the thread of its virtual CPU take turns: never does one run while the other does. On the same processor a
//! change of turns costs a fifth of what it costs between two.

use crate::tracee::Tracee;

/// The processor to which a stub is bound, if it is.
#[derive(Debug, Default)]
pub(crate) struct Processor(Option<usize>);

impl Processor {
    /// Binds the stub to the processor of the calling thread.
    pub(crate) fn follow(&mut self, stub: &Tracee) {
        // SAFETY: no memory is involved.
        let Ok(current) = usize::try_from(unsafe { libc::sched_getcpu() }) else { return };
        if self.0 != Some(current) {
            self.0 = Some(current);
            // SAFETY: all zeros is the empty set; the macro checks the number.
            let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
            // SAFETY: as above.
            unsafe { libc::CPU_SET(current, &mut set) };
            stub.set_affinity(&set);
        }
    }
}
