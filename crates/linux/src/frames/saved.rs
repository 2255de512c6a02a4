//! Which frames are in use, as it is saved.

use std::sync::Arc;

use calypte_platform::{Frame, Memory};
use serde::{Deserialize, Serialize};

use super::{Charge, Dropped, DroppedFrames, Entry, Frames};
use crate::state::{SectionId, StateError};

/// The [`Frames`] of a guest. Limits are the configuration's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedFrames {
    /// How many frames have ever been used.
    count: u32,
    used: Vec<SavedRun>,
    peak: u32,
    /// The last identity that a file's content has got.
    last_content: u64,
}

/// Consecutive frames of the same kind.
#[derive(Debug, Serialize, Deserialize)]
struct SavedRun {
    first: u32,
    count: u32,
    references: u32,
    charge: Charge,
}

impl Frames {
    pub(crate) fn save(&self) -> SavedFrames {
        let Self { memory: _, entries, free: _, used: _, limit: _, peak, dropped } = self;
        let Dropped { frames: left, cuts, last_content } = &*dropped.0.lock();
        debug_assert!(left.is_empty() && cuts.is_empty(), "they are dealt with before");
        let mut runs: Vec<SavedRun> = Vec::new();
        for (frame, entry) in (0..).zip(entries) {
            let Some(Entry { references, charge }) = entry else { continue };
            match runs.last_mut() {
                Some(run)
                    if run.first + run.count == frame && run.references == *references && run.charge == *charge =>
                {
                    run.count += 1;
                }
                _ => runs.push(SavedRun { first: frame, count: 1, references: *references, charge: *charge }),
            }
        }
        SavedFrames { count: entries.len() as u32, used: runs, peak: *peak, last_content: *last_content }
    }

    /// The frames in use, in runs.
    pub(crate) fn used_runs(&self) -> Vec<(u32, u32)> {
        self.save().used.iter().map(|run| (run.first, run.count)).collect()
    }

    /// Whether there is such a frame and somebody uses it.
    pub(crate) fn is_used(&self, frame: Frame) -> bool {
        self.entries.get(frame.0 as usize).is_some_and(Option::is_some)
    }

    /// Checks that every frame in use has exactly the users that it says it has.
    pub(crate) fn check_claims(&self, claims: &Claims) -> Result<(), StateError> {
        let claimed = claims.0.iter().copied();
        let counted = self.entries.iter().map(|entry| entry.map_or(0, |entry| entry.references));
        if claimed.eq(counted) {
            return Ok(());
        }
        Err(StateError::broken(SectionId::Memory, "a frame whose users are not as many as it says"))
    }
}

impl SavedFrames {
    /// The allocator, and an account of its frames' users in which there are none yet.
    pub(crate) fn restore(self, memory: Arc<dyn Memory>, limit: [u32; 2]) -> Result<(Frames, Claims), StateError> {
        let Self { count, used: runs, peak, last_content } = self;
        let broken = |rule| StateError::broken(SectionId::Memory, rule);
        StateError::check_last_number(SectionId::Memory, last_content, u64::BITS)?;
        // Frames beyond the limits have never been used, but for a few that a larger guest had.
        if count > limit[0].saturating_add(limit[1]) {
            return Err(StateError::TooLarge { frames: count, frames_max: limit[0].saturating_add(limit[1]) });
        }
        let mut entries: Vec<Option<Entry>> = vec![None; count as usize];
        let mut used = [0_u32; 2];
        let mut end = 0;
        for SavedRun { first, count: length, references, charge } in runs {
            let next = first.checked_add(length).filter(|next| first >= end && *next <= count && length > 0);
            let next = next.filter(|_| references > 0).ok_or_else(|| broken("frames that are not in order"))?;
            entries[first as usize..next as usize].fill(Some(Entry { references, charge }));
            used[charge as usize] += length;
            end = next;
        }
        for (used, limit) in used.iter().zip(limit) {
            if *used > limit {
                return Err(StateError::TooLarge { frames: *used, frames_max: limit });
            }
        }
        memory.grow(count).map_err(StateError::Platform)?;
        // Descending, as frames that are freed in a run are: the lowest is given out first.
        let free = (0..count).rev().filter(|frame| entries[*frame as usize].is_none()).map(Frame).collect();
        let claims = Claims(vec![0; count as usize]);
        let dropped = DroppedFrames::default();
        dropped.0.lock().last_content = last_content;
        let frames = Frames { memory, entries, free, used, limit, peak, dropped };
        Ok((frames, claims))
    }
}

/// How many users of each frame have been found.
#[derive(Debug)]
pub(crate) struct Claims(Vec<u32>);

impl Claims {
    /// Notes one more user of frames, which `section` names.
    pub(crate) fn claim(&mut self, first: u32, count: u32, section: SectionId) -> Result<(), StateError> {
        let end = first.checked_add(count).map(|end| end as usize);
        let claimed = end.and_then(|end| self.0.get_mut(first as usize..end)).filter(|claimed| !claimed.is_empty());
        let claimed = claimed.ok_or_else(|| StateError::broken(section, "a frame that does not exist"))?;
        claimed.iter_mut().for_each(|count| *count = count.saturating_add(1));
        Ok(())
    }
}
