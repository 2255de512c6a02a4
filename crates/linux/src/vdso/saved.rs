//! The vDSO as it is saved: the guest keeps the code it has, since a thread may be in it.

use calypte_platform::{Frame, FrameRange};
use serde::{Deserialize, Serialize};

use super::Vdso;
use crate::state::{Restorer, SectionId, StateError};

/// A [`Vdso`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedVdso {
    data: u32,
    /// First frame and how many.
    code: Vec<(u32, u32)>,
}

impl Vdso {
    pub(crate) fn save(&self) -> SavedVdso {
        let Self { data, code } = self;
        SavedVdso { data: data.0, code: code.iter().map(|range| (range.first.0, range.count)).collect() }
    }

    /// The frame of the clock data.
    pub(crate) fn data(&self) -> Frame {
        self.data
    }
}

impl SavedVdso {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<Vdso, StateError> {
        let Self { data, code } = self;
        restorer.claims.claim(data, 1, SectionId::Kernel)?;
        let mut ranges = Vec::new();
        for (first, count) in code {
            restorer.claims.claim(first, count, SectionId::Kernel)?;
            ranges.push(FrameRange { first: Frame(first), count });
        }
        Ok(Vdso { data: Frame(data), code: ranges })
    }
}
