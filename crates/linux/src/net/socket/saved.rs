//! Sockets as they are saved.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{BACKLOG_MAX, Backlog, Kind, Maker, Peer, SOCKET_BYTES, Socket, State, outward::Outward};
use crate::errno::Errno;
use crate::net::address::{Address, Family};
use crate::net::options::Options;
use crate::net::queue::Queue;
use crate::net::queue::saved::SavedQueue;
use crate::notifier::saved::SavedBeacon;
use crate::service::ConnectionId;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// A [`Socket`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedSocket {
    family: Family,
    kind: Kind,
    maker: Maker,
    beacon: SavedBeacon,
    local: Address,
    remote: Option<Address>,
    peer_maker: Maker,
    error: Option<Errno>,
    options: Options,
    receive_timeout_ns: Option<u64>,
    send_timeout_ns: Option<u64>,
    is_bound: bool,
    has_been_connected: bool,
    is_read_shut: bool,
    is_write_shut: bool,
    is_peer_write_shut: bool,
    is_peer_read_shut: bool,
    is_reset: bool,
    linger: [i32; 2],
    is_connecting: bool,
    /// Whether it has lost a connection to the outside by being saved.
    is_cut: bool,
    links: SavedLinks,
}

/// What a socket has of others.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedLinks {
    peer: Option<SavedPeer>,
    backlog: Option<(Vec<u32>, u64)>,
    queue: SavedQueue,
}

/// A [`Peer`]; of a socket that is gone nothing is left.
#[derive(Debug, Serialize, Deserialize)]
enum SavedPeer {
    Socket(Option<u32>),
    Service { port: u16, connection: ConnectionId },
}

impl Peer {
    fn save(&self, saver: &mut Saver<'_>) -> SavedPeer {
        match self {
            Peer::Socket(socket) => SavedPeer::Socket(socket.upgrade().map(|socket| saver.sockets.number(&socket))),
            Peer::Service { port, connection, closed: _ } => {
                SavedPeer::Service { port: *port, connection: *connection }
            }
            // Nobody is there after a restore.
            Peer::Outside => SavedPeer::Socket(None),
        }
    }
}

impl SavedPeer {
    fn restore(self, restorer: &Restorer<'_>) -> Result<Peer, StateError> {
        Ok(match self {
            SavedPeer::Socket(None) => Peer::Socket(Weak::new()),
            SavedPeer::Socket(Some(number)) => Peer::Socket(Arc::downgrade(restorer.socket(number)?)),
            SavedPeer::Service { port, connection } => {
                Peer::Service { port, connection, closed: restorer.closed_connections.clone() }
            }
        })
    }
}

impl Socket {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedSocket {
        let Self { family, kind, maker, beacon, budget: _, _memory, state } = self;
        let State {
            local,
            remote,
            peer,
            peer_maker,
            backlog,
            queue,
            error,
            options,
            receive_timeout_ns,
            send_timeout_ns,
            is_bound,
            has_been_connected,
            is_read_shut,
            is_write_shut,
            is_peer_write_shut,
            is_peer_read_shut,
            is_reset,
            linger,
            is_connecting,
            outward,
        } = &*state.lock();
        // A connection to the outside cannot be saved: the program reads that it was reset.
        let is_cut = outward.is_opening() || matches!(peer, Some(Peer::Outside));
        let links = SavedLinks {
            peer: peer.as_ref().map(|peer| peer.save(saver)),
            backlog: backlog.as_ref().map(|Backlog { waiting, limit }| {
                (waiting.iter().map(|socket| saver.sockets.number(socket)).collect(), *limit as u64)
            }),
            queue: queue.save(saver),
        };
        SavedSocket {
            family: *family,
            kind: *kind,
            maker: *maker,
            beacon: beacon.save(),
            local: local.clone(),
            remote: remote.clone(),
            peer_maker: *peer_maker,
            error: if is_cut { Some(Errno::ECONNRESET) } else { *error },
            options: options.clone(),
            receive_timeout_ns: *receive_timeout_ns,
            send_timeout_ns: *send_timeout_ns,
            is_bound: *is_bound,
            has_been_connected: *has_been_connected,
            is_read_shut: *is_read_shut,
            is_write_shut: *is_write_shut,
            is_peer_write_shut: *is_peer_write_shut || is_cut,
            is_peer_read_shut: *is_peer_read_shut || is_cut,
            is_reset: *is_reset || is_cut,
            linger: *linger,
            is_connecting: *is_connecting,
            is_cut,
            links,
        }
    }
}

impl SavedSocket {
    /// The socket without what it has of others, and that, to be restored when all sockets and files exist.
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<(Arc<Socket>, SavedLinks), StateError> {
        let Self {
            family,
            kind,
            maker,
            beacon,
            local,
            remote,
            peer_maker,
            error,
            options,
            receive_timeout_ns,
            send_timeout_ns,
            is_bound,
            has_been_connected,
            is_read_shut,
            is_write_shut,
            is_peer_write_shut,
            is_peer_read_shut,
            is_reset,
            linger,
            is_connecting,
            is_cut,
            links,
        } = self;
        let budget = restorer.buffers.clone();
        let state = State {
            local,
            remote,
            peer: None,
            peer_maker,
            backlog: None,
            queue: Queue::new(kind == Kind::Stream, &budget),
            error,
            options,
            receive_timeout_ns,
            send_timeout_ns,
            is_bound,
            has_been_connected,
            is_read_shut,
            is_write_shut,
            is_peer_write_shut,
            is_peer_read_shut,
            is_reset,
            linger,
            is_connecting,
            outward: Outward::default(),
        };
        let beacon = beacon.restore(restorer)?;
        let memory = budget.take(SOCKET_BYTES);
        let socket = Socket { family, kind, maker, beacon, budget, _memory: memory, state: Mutex::new(state) };
        let socket = Arc::new(socket);
        restorer.cut.extend(is_cut.then(|| socket.clone()));
        Ok((socket, links))
    }
}

impl SavedLinks {
    pub(crate) fn restore(self, socket: &Socket, restorer: &Restorer<'_>) -> Result<(), StateError> {
        let Self { peer, backlog, queue } = self;
        let peer = peer.map(|peer| peer.restore(restorer)).transpose()?;
        let backlog = backlog.map(|(waiting, limit)| restore_backlog(waiting, limit, restorer)).transpose()?;
        let mut state = socket.state.lock();
        state.peer = peer;
        state.backlog = backlog;
        state.queue.restore(queue, restorer)
    }
}

fn restore_backlog(waiting: Vec<u32>, limit: u64, restorer: &Restorer<'_>) -> Result<Backlog, StateError> {
    let limit = usize::try_from(limit).ok().filter(|limit| (1..=BACKLOG_MAX).contains(limit));
    let rule = "a listening socket with an impossible backlog";
    let limit = limit.ok_or_else(|| StateError::broken(SectionId::Network, rule))?;
    let waiting: Result<VecDeque<_>, _> = waiting.into_iter().map(|number| restorer.socket(number).cloned()).collect();
    Ok(Backlog { waiting: waiting?, limit })
}
