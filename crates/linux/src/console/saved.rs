//! The standard streams as they are saved.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Console, INPUT_BYTES_MAX, OUTPUT_BYTES_MAX, Stream};
use crate::notifier::saved::SavedBeacon;
use crate::state::{Restorer, SectionId, StateError};

/// A [`Console`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedConsole {
    beacon: SavedBeacon,
    output: Vec<(Stream, ByteBuf)>,
    input: ByteBuf,
    is_input_closed: bool,
    is_input_wanted: bool,
}

impl Console {
    pub(crate) fn save(&self) -> SavedConsole {
        let Self { beacon, output, output_bytes: _, input, is_input_closed, is_input_wanted } = self;
        SavedConsole {
            beacon: beacon.save(),
            output: output.iter().map(|(stream, bytes)| (*stream, ByteBuf::from(bytes.clone()))).collect(),
            input: ByteBuf::from(input.iter().copied().collect::<Vec<u8>>()),
            is_input_closed: *is_input_closed,
            is_input_wanted: is_input_wanted.get(),
        }
    }
}

impl SavedConsole {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<Console, StateError> {
        let Self { beacon, output, input, is_input_closed, is_input_wanted } = self;
        let output_bytes = output.iter().map(|(_, bytes)| bytes.len()).sum();
        if output_bytes > OUTPUT_BYTES_MAX || input.len() > INPUT_BYTES_MAX {
            return Err(StateError::broken(SectionId::Kernel, "more input or output than a console holds"));
        }
        Ok(Console {
            beacon: beacon.restore(restorer)?,
            output: output.into_iter().map(|(stream, bytes)| (stream, bytes.into_vec())).collect(),
            output_bytes,
            input: input.into_vec().into(),
            is_input_closed,
            is_input_wanted: Cell::new(is_input_wanted),
        })
    }
}
