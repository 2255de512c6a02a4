//! The bytes of a file in memory as they are saved: which frames they are in.

use std::collections::BTreeMap;

use calypte_platform::Frame;
use serde::{Deserialize, Serialize};

use super::{Below, FILE_BYTES_MAX, Pages};
use crate::frames::{Charge, ContentId};
use crate::state::{Restorer, Saver, SectionId, StateError};

/// The [`Pages`] of a file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedPages {
    id: ContentId,
    size: u64,
    was_mapped: bool,
    /// Page number, first frame, how many.
    runs: Vec<(u64, u32, u32)>,
    charge: Charge,
    below: Option<SavedBelow>,
}

/// A [`Below`]: the file of the host, and how much of it shows.
#[derive(Debug, Serialize, Deserialize)]
struct SavedBelow {
    entry: u32,
    length: u64,
}

impl Pages {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedPages {
        let Self { id, size, frames, was_mapped, charge, dropped: _, below } = self;
        let below = below
            .as_ref()
            .map(|Below { trees: _, entry, length }| SavedBelow { entry: saver.host_entry(entry), length: *length });
        let mut runs: Vec<(u64, u32, u32)> = Vec::new();
        for (page, frame) in frames {
            match runs.last_mut() {
                Some((first, start, count)) if *first + u64::from(*count) == *page && *start + *count == frame.0 => {
                    *count += 1;
                }
                _ => runs.push((*page, frame.0, 1)),
            }
        }
        SavedPages { id: *id, size: *size, was_mapped: *was_mapped, runs, charge: *charge, below }
    }
}

impl SavedPages {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<Pages, StateError> {
        let Self { id, size, was_mapped, runs, charge, below } = self;
        let broken = |rule| StateError::broken(SectionId::Files, rule);
        let dropped = restorer.frames.dropped().clone();
        let mut pages = Pages { id, size, frames: BTreeMap::new(), was_mapped, charge, dropped, below: None };
        if size > FILE_BYTES_MAX {
            return Err(broken("a file longer than files may be"));
        }
        if let Some(SavedBelow { entry, length }) = below {
            let (trees, entry) = (restorer.tree.host_trees().clone(), restorer.host_entry(entry)?.clone());
            if length > entry.known_metadata().size {
                return Err(broken("more of a file of the host than there is"));
            }
            pages.below = Some(Below { trees, entry, length });
        }
        for (page, first, count) in runs {
            if page.checked_add(count.into()).is_none_or(|end| end > FILE_BYTES_MAX / super::PAGE) {
                return Err(broken("a page beyond the longest file"));
            }
            restorer.claims.claim(first, count, SectionId::Files)?;
            for (page, frame) in (page..).zip(first..first + count) {
                if pages.frames.insert(page, Frame(frame)).is_some() {
                    return Err(broken("a page of a file that is there twice"));
                }
            }
        }
        Ok(pages)
    }
}
