//! A socket: `socket(7)`, `unix(7)`, `tcp(7)`, `udp(7)`, as far as a network inside one guest needs them.
//!
//! Connected sockets know each other weakly: what one sends is put straight into the other's queue, and dropping one tells
//! the other. No method holds the states of two sockets at once.

pub(crate) mod saved;

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::Errno;
use crate::file::buffers::{Buffers, GUARANTEED_BYTES, Reservation};
use crate::file::readiness;
use crate::kernel::Kernel;
use crate::net::address::{Address, Family, UnixName, canonical, is_local};
use crate::net::options::Options;
use crate::net::queue::{Files, Message, Queue};
use crate::net::{ClosedConnections, Protocol};
use crate::notifier::{Beacon, Notifier};
use crate::service::ConnectionId;

mod outward;
mod urgent;

use outward::Outward;
pub(crate) use outward::own_address;

/// Most connections that wait to be accepted.
const BACKLOG_MAX: usize = 4096;

/// What a socket counts on the monitor's heap, with what its queue may hold in any case. Those that wait to be accepted have
/// no descriptor that would bound them.
const SOCKET_BYTES: usize = 1024 + GUARANTEED_BYTES;

/// Bytes of a service's answers that wait to be read, beyond which it is sent no more: a program that does not read must
/// not fill the monitor's memory. More than the largest answer, so that a program may speak before it has read that.
const ANSWERS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes given to a service at a time. Its answers may be some ten times as long.
const SERVICE_PIECE_BYTES: usize = 64 * 1024;

/// How a socket delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A stream of bytes.
    Stream,
    /// Messages without a connection.
    Datagram,
    /// Messages over a connection.
    Sequenced,
}

impl Kind {
    /// The kind of a number, without the flags that come with it.
    pub fn from_number(number: i32) -> Result<Self, Errno> {
        match number {
            libc::SOCK_STREAM => Ok(Kind::Stream),
            libc::SOCK_DGRAM => Ok(Kind::Datagram),
            libc::SOCK_SEQPACKET => Ok(Kind::Sequenced),
            libc::SOCK_RAW => Err(Errno::EPERM),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Its number.
    pub fn number(self) -> i32 {
        match self {
            Kind::Stream => libc::SOCK_STREAM,
            Kind::Datagram => libc::SOCK_DGRAM,
            Kind::Sequenced => libc::SOCK_SEQPACKET,
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Another socket of the guest.
    Socket(Weak<Socket>),
    /// A service of the monitor.
    Service {
        /// Its port.
        port: u16,
        /// The connection.
        connection: ConnectionId,
        /// Where to tell that it is closed.
        closed: ClosedConnections,
    },
    /// Somebody outside.
    Outside,
}

/// Which directions `shutdown(2)` closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// Nothing is received any more.
    pub read: bool,
    /// Nothing is sent any more.
    pub write: bool,
}

/// Who has made a socket, for `SO_PEERCRED`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A socket.
#[derive(Debug)]
pub struct Socket {
    family: Family,
    kind: Kind,
    maker: Maker,
    beacon: Beacon,
    budget: Buffers,
    _memory: Reservation,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    local: Address,
    remote: Option<Address>,
    peer: Option<Peer>,
    peer_maker: Maker,
    backlog: Option<Backlog>,
    queue: Queue,
    error: Option<Errno>,
    options: Options,
    receive_timeout_ns: Option<u64>,
    send_timeout_ns: Option<u64>,
    is_bound: bool,
    has_been_connected: bool,
    is_read_shut: bool,
    is_write_shut: bool,
    /// The other side will send no more.
    is_peer_write_shut: bool,
    /// The other side takes no more.
    is_peer_read_shut: bool,
    /// It has said so, or has broken the connection off.
    is_reset: bool,
    /// `SO_LINGER`: on or off, and seconds.
    linger: [i32; 2],
    /// `connect(2)` has said that it is under way, and not yet that it is done.
    is_connecting: bool,
    outward: Outward,
}

#[derive(Debug)]
struct Backlog {
    waiting: VecDeque<Arc<Socket>>,
    limit: usize,
}

impl Socket {
    /// A socket that is not connected. `ENOMEM` when the guest has too many.
    pub fn new(
        family: Family,
        kind: Kind,
        maker: Maker,
        notifier: &Notifier,
        budget: &Buffers,
    ) -> Result<Arc<Self>, Errno> {
        let memory = budget.reserve(SOCKET_BYTES)?;
        let state = State {
            local: family.unspecified(),
            remote: None,
            peer: None,
            peer_maker: Maker::default(),
            backlog: None,
            queue: Queue::new(kind == Kind::Stream, budget),
            error: None,
            options: Options::default(),
            receive_timeout_ns: None,
            send_timeout_ns: None,
            is_bound: false,
            has_been_connected: false,
            is_read_shut: false,
            is_write_shut: false,
            is_peer_write_shut: false,
            is_peer_read_shut: false,
            is_reset: false,
            linger: [0; 2],
            is_connecting: false,
            outward: Outward::default(),
        };
        let beacon = Beacon::new(notifier);
        let budget = budget.clone();
        Ok(Arc::new(Self { family, kind, maker, beacon, budget, _memory: memory, state: Mutex::new(state) }))
    }

    /// Connects two sockets with each other (`socketpair(2)`, and `connect(2)` with the accepting side's new socket).
    pub fn pair(a: &Arc<Socket>, b: &Arc<Socket>) {
        for (one, other) in [(a, b), (b, a)] {
            let remote = other.state.lock().local.clone();
            let mut state = one.state.lock();
            state.peer = Some(Peer::Socket(Arc::downgrade(other)));
            state.peer_maker = other.maker;
            state.remote = Some(remote);
            state.has_been_connected = true;
        }
        a.beacon.ring();
        b.beacon.ring();
    }

    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// How it delivers.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Which ports it uses.
    pub fn protocol(&self) -> Protocol {
        if self.kind == Kind::Datagram { Protocol::Udp } else { Protocol::Tcp }
    }

    /// Whether it needs a connection to send.
    pub fn is_connection_oriented(&self) -> bool {
        self.kind != Kind::Datagram
    }

    /// The bell to wait for.
    pub fn beacon(&self) -> &Beacon {
        &self.beacon
    }

    /// Remembers that a connection that does not wait is reported as under way, with what it has come to already.
    pub fn set_connecting(&self, error: Option<Errno>) {
        {
            let mut state = self.state.lock();
            state.is_connecting = true;
            state.error = error;
        }
        self.beacon.ring();
    }

    /// Whether a connection was under way; from now on it is done.
    pub fn take_connecting(&self) -> bool {
        std::mem::take(&mut self.state.lock().is_connecting)
    }

    /// Its own address.
    pub fn local(&self) -> Address {
        self.state.lock().local.clone()
    }

    /// The address of the other end. `ENOTCONN` without one.
    pub fn remote(&self) -> Result<Address, Errno> {
        let state = self.state.lock();
        let is_broken = state.is_reset && self.family.is_inet();
        if state.peer.is_none() && !state.has_been_connected || is_broken {
            return Err(Errno::ENOTCONN);
        }
        state.remote.clone().ok_or(Errno::ENOTCONN)
    }

    /// Gives it an address of its own.
    pub fn set_local(&self, address: Address) {
        let mut state = self.state.lock();
        state.local = address;
        state.is_bound = true;
    }

    /// Whether it has an address of its own.
    pub fn is_bound(&self) -> bool {
        self.state.lock().is_bound
    }

    /// Whether it is, or was, connected.
    pub fn is_connected(&self) -> bool {
        self.state.lock().has_been_connected
    }

    /// Sets what a datagram socket sends to by itself; `None` ends that.
    pub fn associate(&self, remote: Option<Address>, peer: Option<Peer>) {
        let mut state = self.state.lock();
        state.has_been_connected = remote.is_some();
        state.remote = remote;
        state.peer = peer;
    }

    /// Connects it to a service.
    pub(super) fn set_peer(&self, peer: Peer) {
        {
            let mut state = self.state.lock();
            state.peer = Some(peer);
            state.has_been_connected = true;
        }
        self.beacon.ring();
    }

    /// The other end's address, for a connection to a service.
    pub fn set_remote(&self, remote: Address) {
        self.state.lock().remote = Some(remote);
    }

    /// The other end's maker.
    pub fn peer_maker(&self) -> Maker {
        self.state.lock().peer_maker
    }

    /// `listen(2)`.
    pub fn listen(&self, limit: usize) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if !self.is_connection_oriented() {
            return Err(Errno::EOPNOTSUPP);
        }
        if state.has_been_connected {
            return Err(Errno::EINVAL);
        }
        let limit = limit.clamp(1, BACKLOG_MAX);
        match &mut state.backlog {
            Some(backlog) => backlog.limit = limit,
            None => {
                state.backlog = Some(Backlog { waiting: VecDeque::new(), limit });
                state.peer_maker = self.maker;
            }
        }
        Ok(())
    }

    /// Whether it accepts connections.
    pub fn is_listening(&self) -> bool {
        self.state.lock().backlog.is_some()
    }

    /// How many connections wait to be accepted, and how many may, if it accepts any.
    pub fn waiting_connections(&self) -> Option<(usize, usize)> {
        self.state.lock().backlog.as_ref().map(|backlog| (backlog.waiting.len(), backlog.limit))
    }

    /// Connects `client` to this listening socket: the accepting side waits in the backlog. `EAGAIN` if that is full,
    /// `ENOMEM` if the guest has too many sockets.
    pub fn connect_from(self: &Arc<Self>, client: &Arc<Socket>, local: Address) -> Result<(), Errno> {
        {
            let state = self.state.lock();
            let backlog = state.backlog.as_ref().ok_or(Errno::ECONNREFUSED)?;
            if backlog.waiting.len() >= backlog.limit {
                return Err(Errno::EAGAIN);
            }
        }
        let server = Socket::new(self.family, self.kind, self.maker, self.beacon.notifier(), &self.budget)?;
        server.set_local(local);
        Socket::pair(&server, client);
        self.take_visitor(server)
    }

    /// Puts a connection into the backlog of this listening socket. `EAGAIN` if that is full.
    pub(super) fn take_visitor(&self, server: Arc<Socket>) -> Result<(), Errno> {
        {
            let mut state = self.state.lock();
            let backlog = state.backlog.as_mut().ok_or(Errno::ECONNREFUSED)?;
            if backlog.waiting.len() >= backlog.limit {
                return Err(Errno::EAGAIN);
            }
            backlog.waiting.push_back(server);
        }
        self.beacon.ring();
        Ok(())
    }

    /// `accept(2)`: the next connection. `EAGAIN` if none waits.
    pub fn accept(&self) -> Result<Arc<Socket>, Errno> {
        let mut state = self.state.lock();
        let is_shut = state.is_read_shut;
        match &mut state.backlog {
            None => Err(Errno::EINVAL),
            Some(_) if is_shut => Err(Errno::EINVAL),
            Some(backlog) => backlog.waiting.pop_front().ok_or(Errno::EAGAIN),
        }
    }

    /// `read(2)`.
    pub fn read(&self, _kernel: &mut Kernel, length: usize) -> Result<Vec<u8>, Errno> {
        self.receive(length, false, 1).map(|message| message.bytes)
    }

    /// Receives the next message, or bytes of a stream: at least `minimum` unless the other side ends before. `EAGAIN` if
    /// they are not there.
    pub fn receive(&self, length: usize, is_peeking: bool, minimum: usize) -> Result<Message, Errno> {
        let (message, peer) = {
            let mut state = self.state.lock();
            state.pump();
            // What a connection has brought before it broke is read first.
            if !self.is_connection_oriented() || state.queue.is_empty() {
                state.error.take().map_or(Ok(()), Err)?;
            }
            if self.is_connection_oriented() && !state.has_been_connected {
                return match self.family {
                    Family::Unix => Err(Errno::EINVAL),
                    _ if state.is_read_shut => Ok(Message::nothing()),
                    _ => Err(Errno::ENOTCONN),
                };
            }
            let is_ended = state.is_read_shut || state.is_peer_write_shut;
            if length == 0 && self.kind == Kind::Stream {
                return Ok(Message::nothing());
            }
            let is_short = self.kind == Kind::Stream && state.queue.length() < minimum && !state.queue.has_mark();
            if state.queue.is_empty() || is_short && !is_ended && state.queue.room() > 0 {
                if is_ended && state.queue.is_empty() {
                    return Ok(Message::nothing());
                }
                return Err(Errno::EAGAIN);
            }
            let is_inline = state.is_urgent_inline();
            let message = match state.queue.pop_around_urgent(length, is_peeking, is_inline) {
                Some(message) => message,
                None if is_ended => return Ok(Message::nothing()),
                None => return Err(Errno::EAGAIN),
            };
            (message, state.peer_socket())
        };
        if let Some(peer) = peer {
            peer.beacon.ring();
        }
        if self.kind == Kind::Datagram {
            // Senders without an association wait for this socket.
            self.beacon.ring();
        }
        Ok(message)
    }

    /// `write(2)`.
    pub fn write(self: &Arc<Self>, kernel: &mut Kernel, bytes: &[u8]) -> Result<usize, Errno> {
        self.send(kernel, bytes, Files::default().sent_by(self.maker))
    }

    /// Sends to the other end. `EAGAIN` if there is no room, `EPIPE` if it is closed.
    pub fn send(self: &Arc<Self>, kernel: &mut Kernel, bytes: &[u8], files: Files) -> Result<usize, Errno> {
        let (peer, from) = {
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            if state.is_write_shut {
                return Err(Errno::EPIPE);
            }
            if !state.has_been_connected {
                return Err(match (self.kind, self.family) {
                    (Kind::Datagram, Family::Unix) => Errno::ENOTCONN,
                    (Kind::Datagram, _) => Errno::EDESTADDRREQ,
                    (_, Family::Unix) => Errno::ENOTCONN,
                    _ => Errno::EPIPE,
                });
            }
            if state.is_peer_read_shut {
                // A TCP peer that is gone says so in its answer to the first bytes sent to it.
                if self.family.is_inet() && !state.is_reset {
                    state.is_reset = !bytes.is_empty();
                    return Ok(bytes.len());
                }
                return Err(Errno::EPIPE);
            }
            (state.peer.clone(), state.local.clone())
        };
        match peer {
            Some(Peer::Service { port, connection, .. }) => {
                let mut taken = 0;
                for piece in bytes.chunks(SERVICE_PIECE_BYTES) {
                    if !self.state.lock().has_room_for_answers() {
                        break;
                    }
                    kernel.network.send_to_service(port, connection, piece);
                    taken += piece.len();
                }
                if taken == 0 && !bytes.is_empty() { Err(Errno::EAGAIN) } else { Ok(taken) }
            }
            Some(Peer::Outside) => self.state.lock().outward.send(bytes),
            Some(Peer::Socket(peer)) => match peer.upgrade() {
                Some(peer) => peer.take_in(bytes, from, files),
                None if self.is_connection_oriented() => Err(Errno::EPIPE),
                None => Err(Errno::ECONNREFUSED),
            },
            None if self.is_connection_oriented() => Err(Errno::EPIPE),
            None => {
                // A datagram socket that is associated with a port: whoever has it now.
                let remote = self.state.lock().remote.clone();
                match remote {
                    Some(Address::Inet(address, port)) => self.send_to_inet(kernel, address, port, bytes),
                    _ => Err(Errno::ECONNREFUSED),
                }
            }
        }
    }

    /// Sends a datagram to a port. What nobody receives is lost.
    pub fn send_to_inet(
        self: &Arc<Self>,
        kernel: &mut Kernel,
        address: IpAddr,
        port: u16,
        bytes: &[u8],
    ) -> Result<usize, Errno> {
        if kernel.network.is_resolver(address, port) {
            kernel.network.ask(self, bytes);
            return Ok(bytes.len());
        }
        if !is_local(address) {
            return self.send_on_flow(SocketAddr::new(canonical(address), port), bytes);
        }
        let from = self.source_address(address);
        match kernel.network.find(Protocol::Udp, address, port) {
            Some(receiver) => match receiver.take_in(bytes, from, Files::default()) {
                Err(Errno::EAGAIN) => Ok(bytes.len()),
                result => result,
            },
            None => {
                let mut state = self.state.lock();
                if state.has_been_connected {
                    state.error = Some(Errno::ECONNREFUSED);
                }
                Ok(bytes.len())
            }
        }
    }

    /// The address that a datagram comes from: an unspecified one becomes that of the loopback network.
    fn source_address(&self, target: IpAddr) -> Address {
        match self.local() {
            Address::Inet(own, port) if own.is_unspecified() => {
                let own: IpAddr = match target.to_canonical() {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                Address::Inet(own, port)
            }
            address => address,
        }
    }

    /// Puts a message into this socket's queue.
    pub fn take_in(&self, bytes: &[u8], from: Address, files: Files) -> Result<usize, Errno> {
        let count = {
            let mut state = self.state.lock();
            if state.is_read_shut {
                return if self.is_connection_oriented() { Err(Errno::EPIPE) } else { Ok(bytes.len()) };
            }
            if self.kind == Kind::Stream && bytes.is_empty() {
                return Ok(0);
            }
            state.queue.push(bytes, from, files)?
        };
        self.beacon.ring();
        Ok(count)
    }

    /// Bytes from a service.
    pub(super) fn receive_from_service(&self, bytes: &[u8]) {
        self.state.lock().queue.push_from_service(bytes);
        self.beacon.ring();
    }

    /// The service has closed the connection.
    pub(super) fn closed_by_service(&self) {
        {
            let mut state = self.state.lock();
            state.is_peer_write_shut = true;
            state.is_peer_read_shut = true;
        }
        self.beacon.ring();
    }

    /// `shutdown(2)`.
    pub fn shut_down(&self, how: Shutdown) -> Result<(), Errno> {
        let peer = {
            let mut state = self.state.lock();
            if state.backlog.is_some() && how.read {
                state.is_read_shut = true;
            } else if !state.has_been_connected {
                // Linux shuts a TCP socket down all the same, for those who wait for it.
                if self.family.is_inet() && self.is_connection_oriented() {
                    state.is_read_shut |= how.read;
                    state.is_write_shut |= how.write;
                    drop(state);
                    self.beacon.ring();
                }
                return Err(Errno::ENOTCONN);
            }
            state.is_read_shut |= how.read;
            state.is_write_shut |= how.write;
            state.outward.shut_down(how);
            state.peer.clone()
        };
        self.beacon.ring();
        match peer {
            Some(Peer::Socket(peer)) if self.is_connection_oriented() => {
                if let Some(peer) = peer.upgrade() {
                    peer.peer_shut(how, None);
                }
            }
            Some(Peer::Service { port, connection, closed }) if how.write => closed.lock().push((port, connection)),
            _ => {}
        }
        Ok(())
    }

    /// The other side has shut directions down, or is gone with an error.
    fn peer_shut(&self, how: Shutdown, error: Option<Errno>) {
        {
            let mut state = self.state.lock();
            state.is_peer_write_shut |= how.write;
            // A TCP peer that stops reading does not say so; it is noticed when it is gone.
            state.is_peer_read_shut |= how.read && (self.family == Family::Unix || error.is_some() || how.write);
            state.error = error.or(state.error);
            state.is_reset |= error.is_some();
        }
        self.beacon.ring();
    }

    /// What can be done now.
    pub fn readiness(&self) -> u32 {
        let mut state = self.state.lock();
        state.pump();
        let error = if state.error.is_some() || state.is_reset { readiness::ERROR } else { 0 };
        if let Some(backlog) = &state.backlog {
            return readiness::from(!backlog.waiting.is_empty() || state.is_read_shut, false) | error;
        }
        if !self.is_connection_oriented() {
            return readiness::from(!state.queue.is_empty() || state.is_read_shut, true) | error;
        }
        if state.outward.is_opening() {
            return 0;
        }
        if !state.has_been_connected {
            let read_hang_up = if state.is_read_shut { readiness::READ_HANG_UP } else { 0 };
            return readiness::from(state.is_read_shut, true) | readiness::HANG_UP | read_hang_up | error;
        }
        let is_ended = state.is_read_shut || state.is_peer_write_shut;
        let is_readable = state.has_plain_bytes() || is_ended || state.error.is_some();
        let urgent = if state.queue.urgent().is_some() { readiness::PRIORITY } else { 0 };
        let is_broken = state.is_write_shut || state.is_peer_read_shut;
        let peer = state.peer_socket();
        let hang_up = if is_ended { readiness::READ_HANG_UP } else { 0 };
        let is_dead = state.is_peer_write_shut && is_broken || state.is_read_shut && state.is_write_shut;
        let dead = if is_dead { readiness::HANG_UP } else { 0 };
        let has_room_for_answers = match &state.peer {
            Some(Peer::Service { .. }) => state.has_room_for_answers(),
            _ => state.outward.has_room(),
        };
        drop(state);
        let has_room = is_broken || peer.map_or(has_room_for_answers, |peer| peer.has_room());
        readiness::from(is_readable, has_room) | error | hang_up | dead | urgent
    }

    fn has_room(&self) -> bool {
        self.state.lock().queue.room() >= GUARANTEED_BYTES
    }

    /// Bytes that can be read (`FIONREAD`).
    pub fn readable_bytes(&self) -> usize {
        let mut state = self.state.lock();
        state.pump();
        if state.is_urgent_inline() { state.queue.length() } else { state.queue.length_to_mark() }
    }

    /// Takes the pending error (`SO_ERROR`).
    pub fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    /// An option that is a number.
    pub fn option(&self, level: i32, name: i32) -> Result<i32, Errno> {
        self.state.lock().options.get(self.family, self.kind == Kind::Stream, level, name)
    }

    /// Sets an option that is a number.
    pub fn set_option(&self, level: i32, name: i32, value: i32) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.options.set(self.family, self.kind == Kind::Stream, level, name, value)?;
        state.outward.set_option(level, name, value);
        Ok(())
    }

    /// Whether its receiver is told who has sent (`SO_PASSCRED`).
    pub fn passes_credentials(&self) -> bool {
        self.family == Family::Unix && self.state.lock().options.is_on(libc::SOL_SOCKET, libc::SO_PASSCRED)
    }

    /// Whether IPv4 does not reach it (`IPV6_V6ONLY`).
    pub fn is_v6_only(&self) -> bool {
        self.state.lock().options.is_on(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)
    }

    /// Whether it shares its port (`SO_REUSEPORT`).
    pub fn is_port_shared(&self) -> bool {
        let state = self.state.lock();
        let is_shared_address =
            self.kind == Kind::Datagram && state.options.is_on(libc::SOL_SOCKET, libc::SO_REUSEADDR);
        is_shared_address || state.options.is_on(libc::SOL_SOCKET, libc::SO_REUSEPORT)
    }

    /// `SO_LINGER`: on or off, and seconds.
    pub fn linger(&self) -> [i32; 2] {
        self.state.lock().linger
    }

    /// Sets `SO_LINGER`. There is nothing to linger for, since what was sent has been received; but lingering for no
    /// time means that closing breaks the connection off.
    pub fn set_linger(&self, linger: [i32; 2]) {
        self.state.lock().linger = linger;
    }

    /// How long receiving waits (`SO_RCVTIMEO`).
    pub fn receive_timeout_ns(&self) -> Option<u64> {
        self.state.lock().receive_timeout_ns
    }

    /// How long sending waits (`SO_SNDTIMEO`).
    pub fn send_timeout_ns(&self) -> Option<u64> {
        self.state.lock().send_timeout_ns
    }

    /// Sets how long receiving waits.
    pub fn set_receive_timeout(&self, timeout_ns: Option<u64>) {
        self.state.lock().receive_timeout_ns = timeout_ns;
    }

    /// Sets how long sending waits.
    pub fn set_send_timeout(&self, timeout_ns: Option<u64>) {
        self.state.lock().send_timeout_ns = timeout_ns;
    }

    /// The path or abstract name that it has; `None` for other families.
    pub fn unix_name(&self) -> Option<UnixName> {
        match self.local() {
            Address::Unix(name) => Some(name),
            _ => None,
        }
    }
}

impl State {
    /// Whether a service at the other end may be made to answer.
    fn has_room_for_answers(&self) -> bool {
        let waiting = self.queue.length();
        waiting < GUARANTEED_BYTES || waiting < ANSWERS_BYTES_MAX && self.queue.room_of_budget() > 0
    }

    fn peer_socket(&self) -> Option<Arc<Socket>> {
        match &self.peer {
            Some(Peer::Socket(peer)) => peer.upgrade(),
            _ => None,
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        match state.peer.take() {
            Some(Peer::Socket(peer)) if self.kind != Kind::Datagram => {
                if let Some(peer) = peer.upgrade() {
                    let breaks_off = state.linger[0] != 0 && state.linger[1] == 0 && self.family.is_inet();
                    let error = (breaks_off || !state.queue.is_empty()).then_some(Errno::ECONNRESET);
                    peer.peer_shut(Shutdown { read: true, write: true }, error);
                }
            }
            Some(Peer::Service { port, connection, closed }) => closed.lock().push((port, connection)),
            Some(Peer::Outside) => {
                let is_lingering = state.linger[0] != 0 && state.linger[1] == 0;
                if is_lingering || !state.queue.is_empty() {
                    state.outward.break_off();
                }
            }
            _ => {}
        }
    }
}
