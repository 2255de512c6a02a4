//! What a socket has received, as it is saved.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Attached, DATAGRAM_BYTES_MAX, Datagram, Datagrams, Files, Queue, Stream, Urgent};
use crate::net::address::Address;
use crate::net::socket::Maker;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// A [`Queue`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SavedQueue {
    Stream {
        bytes: ByteBuf,
        capacity: u64,
        taken: u64,
        pushed: u64,
        files: Vec<(u64, u64, SavedFiles)>,
        sender: Maker,
        urgent: Option<(u64, Option<u8>)>,
    },
    Datagrams(Vec<(ByteBuf, Address, SavedFiles)>),
}

/// [`Files`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedFiles {
    /// Numbers of open files.
    files: Vec<u32>,
    sender: Maker,
}

impl Files {
    fn save(&self, saver: &mut Saver<'_>) -> SavedFiles {
        let Self { files, count: _, sender } = self;
        SavedFiles { files: files.iter().map(|file| saver.file(file)).collect(), sender: *sender }
    }

    fn restore(saved: &SavedFiles, restorer: &Restorer<'_>) -> Result<Self, StateError> {
        let files = saved.files.iter().map(|number| restorer.file(*number).cloned()).collect::<Result<_, _>>()?;
        let too_many =
            |_| StateError::broken(SectionId::Network, "more files on their way through sockets than may be");
        Ok(Files::new(files, &restorer.in_flight).map_err(too_many)?.sent_by(saved.sender))
    }
}

impl Queue {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedQueue {
        match self {
            Queue::Stream(Stream { buffer, taken, pushed, files, sender, urgent }) => SavedQueue::Stream {
                bytes: ByteBuf::from(buffer.peek(usize::MAX)),
                capacity: buffer.capacity() as u64,
                taken: *taken,
                pushed: *pushed,
                files: files.iter().map(|Attached { start, end, files }| (*start, *end, files.save(saver))).collect(),
                sender: *sender,
                urgent: urgent.map(|Urgent { at, byte }| (at, byte)),
            },
            Queue::Datagrams(Datagrams { messages, charged: _, budget: _ }) => {
                let message = |Datagram { bytes, from, files, _memory }: &Datagram| {
                    (ByteBuf::from(bytes.clone()), from.clone(), files.save(saver))
                };
                SavedQueue::Datagrams(messages.iter().map(message).collect())
            }
        }
    }

    /// Puts into this queue, which is new, what was in the one that was saved.
    pub(crate) fn restore(&mut self, saved: SavedQueue, restorer: &Restorer<'_>) -> Result<(), StateError> {
        let broken = |rule| StateError::broken(SectionId::Network, rule);
        match (self, saved) {
            (Queue::Stream(stream), SavedQueue::Stream { bytes, capacity, taken, pushed, files, sender, urgent }) => {
                if taken.checked_add(bytes.len() as u64) != Some(pushed) {
                    return Err(broken("a stream whose length is not that of its bytes"));
                }
                stream.buffer.set_capacity(usize::try_from(capacity).unwrap_or(usize::MAX));
                stream.buffer.push_all(&bytes);
                (stream.taken, stream.pushed, stream.sender) = (taken, pushed, sender);
                if urgent.is_some_and(|(at, _)| !(taken..pushed).contains(&at)) {
                    return Err(broken("an urgent byte that is not in its stream"));
                }
                stream.urgent = urgent.map(|(at, byte)| Urgent { at, byte });
                let mut from = taken;
                for (start, end, attached) in files {
                    // The first ones may have been sent with bytes of which some are read.
                    if start >= end || end <= from || end > pushed {
                        return Err(broken("files at a place of a stream where they cannot be"));
                    }
                    from = end;
                    stream.files.push_back(Attached { start, end, files: Files::restore(&attached, restorer)? });
                }
            }
            (Queue::Datagrams(datagrams), SavedQueue::Datagrams(messages)) => {
                for (bytes, from, attached) in messages {
                    if bytes.len() > DATAGRAM_BYTES_MAX {
                        return Err(broken("a datagram longer than datagrams may be"));
                    }
                    datagrams.add(bytes.into_vec(), from, Files::restore(&attached, restorer)?);
                }
            }
            _ => return Err(broken("a queue that is not of the socket's kind")),
        }
        Ok(())
    }
}
