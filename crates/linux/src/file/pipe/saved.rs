//! Pipes as they are saved.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{CAPACITY_MAX, Pipe, PipeEnd, State};
use crate::file::buffers::Buffer;
use crate::notifier::saved::SavedBeacon;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// A [`Pipe`]. Who has it open is told by the ends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedPipe {
    bytes: ByteBuf,
    capacity: u64,
    opened: [u64; 2],
    read_side: SavedBeacon,
    write_side: SavedBeacon,
}

/// A [`PipeEnd`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedPipeEnd {
    pipe: u32,
    can_read: bool,
    can_write: bool,
    opened_before: [u64; 2],
}

impl Pipe {
    pub(crate) fn save(&self) -> SavedPipe {
        let Self { state, read_side, write_side } = self;
        let State { buffer, readers: _, writers: _, opened } = &*state.lock();
        SavedPipe {
            bytes: ByteBuf::from(buffer.peek(usize::MAX)),
            capacity: buffer.capacity() as u64,
            opened: *opened,
            read_side: read_side.save(),
            write_side: write_side.save(),
        }
    }
}

impl SavedPipe {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<Arc<Pipe>, StateError> {
        let Self { bytes, capacity, opened, read_side, write_side } = self;
        let capacity = usize::try_from(capacity).ok().filter(|capacity| *capacity <= CAPACITY_MAX);
        let capacity = capacity.filter(|capacity| bytes.len() <= *capacity);
        let capacity =
            capacity.ok_or_else(|| StateError::broken(SectionId::Files, "a pipe larger than pipes may be"))?;
        let mut buffer = Buffer::new(&restorer.buffers, capacity);
        buffer.push_all(&bytes);
        let state = State { buffer, readers: 0, writers: 0, opened };
        let (read_side, write_side) = (read_side.restore(restorer)?, write_side.restore(restorer)?);
        Ok(Arc::new(Pipe { state: Mutex::new(state), read_side, write_side }))
    }
}

impl PipeEnd {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedPipeEnd {
        let Self { pipe, can_read, can_write, opened_before } = self;
        SavedPipeEnd {
            pipe: saver.pipes.number(pipe),
            can_read: *can_read,
            can_write: *can_write,
            opened_before: *opened_before,
        }
    }
}

impl SavedPipeEnd {
    /// As [`Pipe::open`], but nobody is told: the pipe was open before.
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<PipeEnd, StateError> {
        let Self { pipe, can_read, can_write, opened_before } = self;
        let pipe = restorer.pipe(pipe)?.clone();
        {
            let mut state = pipe.state.lock();
            state.readers += usize::from(can_read);
            state.writers += usize::from(can_write);
        }
        Ok(PipeEnd { pipe, can_read, can_write, opened_before })
    }
}
