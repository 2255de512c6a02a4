//! Which pages of its state a restored guest uses: so that those of the next copy are brought in at once.
//!
//! Where a page comes when it is touched, each costs a fault of the virtual machine, and these are most of what a start
//! costs.

use calypte_platform::{Frame, FrameRange};

use crate::guest::Guest;
use crate::kernel::Kernel;

/// Frames of a state that was restored from a file ([`super::State::open`]), as runs of first frame and count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkingSet {
    /// Those of which a copy has one of its own: the program can write them, or they come sooner so.
    pub written: Vec<(u32, u32)>,
    /// Those that are only read.
    pub read: Vec<(u32, u32)>,
}

impl Kernel {
    /// What the guest has used of its state so far, at most so many runs of each kind. Empty if it does not come from a file,
    /// or on a platform that does not know.
    pub fn working_set(&self, runs_max: usize) -> WorkingSet {
        let mut set = WorkingSet::default();
        let touched: Vec<Frame> = self.frames.memory().touched().iter().flat_map(|run| run.iter()).collect();
        for (frame, is_writable) in self.spaces.to_fetch(&touched, self.frames.memory().pages_per_fault()) {
            push(if is_writable { &mut set.written } else { &mut set.read }, frame, runs_max);
        }
        set
    }
}

impl Guest {
    /// Brings pages in that the guest, which has just been restored, is expected to use. Another guest has said which, so
    /// frames that this one does not have are left out, and runs that are not in order: no frame comes twice.
    pub fn fetch(&self, set: &WorkingSet) {
        let kernel = self.lock();
        for (runs, will_write) in [(&set.written, true), (&set.read, false)] {
            let mut end = 0;
            for (first, count) in runs {
                let next = first.checked_add(*count).filter(|next| *next <= kernel.frames.memory().frame_count());
                let Some(next) = next.filter(|_| *first >= end) else { continue };
                kernel.frames.memory().fetch(FrameRange { first: Frame(*first), count: *count }, will_write);
                end = next;
            }
        }
    }
}

fn push(runs: &mut Vec<(u32, u32)>, frame: Frame, runs_max: usize) {
    let is_full = runs.len() == runs_max;
    match runs.last_mut() {
        Some((first, count)) if *first + *count == frame.0 => *count += 1,
        _ if is_full => {}
        _ => runs.push((frame.0, 1)),
    }
}
