//! Extended attributes as they are saved.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Attributes, BYTES_MAX, COUNT_MAX};
use crate::state::{Restorer, SectionId, StateError};

/// The [`Attributes`] of a file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedAttributes(Vec<(ByteBuf, ByteBuf)>);

impl Attributes {
    pub(crate) fn save(&self) -> SavedAttributes {
        let Self { values, memory: _ } = self;
        let pair = |(name, value): (&Vec<u8>, &Vec<u8>)| (name.clone().into(), value.clone().into());
        SavedAttributes(values.iter().map(pair).collect())
    }
}

impl SavedAttributes {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Attributes, StateError> {
        let values = self.0.into_iter().map(|(name, value)| (name.into_vec(), value.into_vec())).collect();
        let mut attributes = Attributes { values, memory: None };
        let bytes = attributes.bytes();
        if attributes.values.len() > COUNT_MAX || bytes > BYTES_MAX {
            return Err(StateError::broken(SectionId::Files, "more extended attributes than a file may have"));
        }
        attributes.memory = (bytes > 0).then(|| restorer.buffers.take(bytes));
        Ok(attributes)
    }
}
