//! Descriptions of open files as they are saved.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::epoll::saved::{SavedEpoll, SavedItems};
use super::event::saved::SavedEvent;
use super::lock::OpenLocks;
use super::lock::saved::SavedOpenLocks;
use super::pidfd::PidFd;
use super::pipe::saved::SavedPipeEnd;
use super::signalfd::SignalFd;
use super::timer::saved::SavedTimer;
use super::{Body, Listing, OpenFile, Text};
use crate::console::Stream;
use crate::file::owner::Ownership;
use crate::fs::fixed::Device;
use crate::fs::listing::Entry;
use crate::fs::node::saved::SavedLocation;
use crate::signal::SignalSet;
use crate::state::{Restorer, Saver, SectionId, StateError};
use crate::tty::saved::SavedTerminalEnd;

/// An [`OpenFile`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedFile {
    body: SavedBody,
    location: Option<SavedLocation>,
    path: ByteBuf,
    access: u32,
    flags: u32,
    offset: u64,
    locks: Option<SavedOpenLocks>,
    ownership: Ownership,
    /// Whether those who watch are told of what happens through it.
    is_told_of: bool,
}

/// A [`Body`].
#[derive(Debug, Serialize, Deserialize)]
enum SavedBody {
    Host(u32),
    Tmp(u32),
    Directory(Option<Vec<Entry>>),
    Text { bytes: ByteBuf, is_own: bool },
    Device(Device),
    ConsoleInput,
    ConsoleOutput(Stream),
    Pipe(SavedPipeEnd),
    Event(SavedEvent),
    Inotify(u32),
    Timer(SavedTimer),
    Epoll(SavedEpoll),
    Socket(u32),
    Signal(SignalSet),
    Process(u32),
    Terminal(SavedTerminalEnd),
    Path,
}

impl OpenFile {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedFile {
        let Self { body, location, path, access, flags, offset, locks, ownership, watches } = self;
        SavedFile {
            body: body.save(saver),
            location: location.as_ref().map(|location| location.save(saver)),
            path: ByteBuf::from(path.to_vec()),
            access: *access,
            flags: flags.load(Ordering::Relaxed),
            offset: *offset.lock(),
            locks: locks.get().map(OpenLocks::save),
            ownership: *ownership.lock(),
            is_told_of: watches.get().is_some(),
        }
    }
}

impl Body {
    fn save(&self, saver: &mut Saver<'_>) -> SavedBody {
        match self {
            Body::Host(file) => SavedBody::Host(saver.host_file(file)),
            Body::Tmp(inode) => SavedBody::Tmp(saver.inodes.number(inode)),
            Body::Directory(listing) => {
                let listing = listing.lock();
                SavedBody::Directory(listing.as_ref().map(|Listing { entries, _memory }| entries.clone()))
            }
            Body::Text(Text { bytes, _memory: memory }) => {
                SavedBody::Text { bytes: ByteBuf::from(bytes.to_vec()), is_own: memory.is_some() }
            }
            Body::Device(device) => SavedBody::Device(*device),
            Body::ConsoleInput => SavedBody::ConsoleInput,
            Body::ConsoleOutput(stream) => SavedBody::ConsoleOutput(*stream),
            Body::Pipe(end) => SavedBody::Pipe(end.save(saver)),
            Body::Event(event) => SavedBody::Event(event.save()),
            Body::Inotify(inotify) => SavedBody::Inotify(saver.inotifies.number(inotify)),
            Body::Timer(timer) => SavedBody::Timer(timer.save()),
            Body::Epoll(epoll) => SavedBody::Epoll(epoll.save(saver)),
            Body::Socket(socket) => SavedBody::Socket(saver.sockets.number(socket)),
            Body::Signal(SignalFd { accepted }) => SavedBody::Signal(*accepted.lock()),
            Body::Process(PidFd { life }) => SavedBody::Process(saver.lives.number(life)),
            Body::Terminal(end) => SavedBody::Terminal(end.save(saver)),
            Body::Path => SavedBody::Path,
        }
    }
}

impl SavedFile {
    /// The file; with what it watches, if it is an epoll instance, to be restored when all files exist.
    pub(crate) fn restore(
        self,
        restorer: &mut Restorer<'_>,
    ) -> Result<(Arc<OpenFile>, Option<SavedItems>), StateError> {
        let Self { body, location, path, access, flags, offset, locks, ownership, is_told_of } = self;
        let (body, items) = match body {
            SavedBody::Epoll(epoll) => {
                let (epoll, items) = epoll.restore(restorer)?;
                (Body::Epoll(epoll), Some(items))
            }
            body => (body.restore(restorer)?, None),
        };
        let location = location.map(|location| location.restore(restorer)).transpose()?;
        if i64::try_from(offset).is_err() {
            return Err(StateError::broken(SectionId::Files, "an offset beyond the largest"));
        }
        let file = OpenFile {
            body,
            location,
            path: Arc::from(path.into_vec()),
            access,
            flags: AtomicU32::new(flags),
            offset: Mutex::new(offset),
            locks: locks.map_or_else(OnceLock::new, |locks| OnceLock::from(locks.restore(restorer))),
            ownership: Mutex::new(ownership),
            watches: is_told_of.then(|| restorer.tree.watches().clone()).map_or_else(OnceLock::new, OnceLock::from),
        };
        Ok((Arc::new(file), items))
    }
}

impl SavedBody {
    fn restore(self, restorer: &mut Restorer<'_>) -> Result<Body, StateError> {
        Ok(match self {
            SavedBody::Host(file) => Body::Host(restorer.host_file(file)?.clone()),
            SavedBody::Tmp(inode) => Body::Tmp(restorer.inode(inode)?.clone()),
            SavedBody::Directory(entries) => {
                let listing =
                    entries.map(|entries| Listing { _memory: restorer.buffers.take(Listing::size(&entries)), entries });
                Body::Directory(Mutex::new(listing))
            }
            SavedBody::Text { bytes, is_own } => Body::Text(Text {
                _memory: is_own.then(|| restorer.buffers.take(bytes.len())),
                bytes: Arc::from(bytes.into_vec()),
            }),
            SavedBody::Device(device) => Body::Device(device),
            SavedBody::ConsoleInput => Body::ConsoleInput,
            SavedBody::ConsoleOutput(stream) => Body::ConsoleOutput(stream),
            SavedBody::Pipe(end) => Body::Pipe(end.restore(restorer)?),
            SavedBody::Event(event) => Body::Event(event.restore(restorer)?),
            SavedBody::Inotify(inotify) => Body::Inotify(restorer.inotify(inotify)?.clone()),
            SavedBody::Timer(timer) => Body::Timer(timer.restore(restorer)?),
            SavedBody::Epoll(epoll) => Body::Epoll(epoll.restore(restorer)?.0),
            SavedBody::Socket(socket) => Body::Socket(restorer.socket(socket)?.clone()),
            SavedBody::Signal(accepted) => Body::Signal(SignalFd::new(accepted)),
            SavedBody::Process(life) => Body::Process(PidFd { life: restorer.life(life)?.clone() }),
            SavedBody::Terminal(end) => Body::Terminal(end.restore(restorer)?),
            SavedBody::Path => Body::Path,
        })
    }
}
