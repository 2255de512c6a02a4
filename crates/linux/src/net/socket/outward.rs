//! The side of a socket that is connected to the outside: a stream has one connection there, a datagram socket one for each
//! address that it talks to (a *flow*). What arrives is moved to the socket's own queue when somebody looks for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Peer, Socket, State};
use crate::errno::Errno;
use crate::net::address::{Address, canonical};
use crate::net::egress::{GUEST_ADDRESS, GUEST_ADDRESS6, Opening, RequestId};
use crate::net::outside::{Outside, Outsides};
use crate::net::queue::{DATAGRAM_BYTES_MAX, Files};
use crate::net::{Kind, Shutdown};

/// Addresses of the outside that one datagram socket talks to at a time; the one that it has begun with first is forgotten.
const FLOWS_MAX: usize = 32;
/// Openings of one socket that have failed and nobody has asked about.
const FAILURES_MAX: usize = 16;
/// Bytes of a stream taken from the host at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces and datagrams taken at once: looking must end, however fast the other side sends.
const PIECES_MAX: usize = 64;

/// What a socket has outside.
#[derive(Debug, Default)]
pub(super) struct Outward {
    stream: Option<Outside>,
    /// In the order in which they were opened.
    flows: Vec<(SocketAddr, Outside)>,
    openings: BTreeMap<SocketAddr, RequestId>,
    failures: BTreeMap<SocketAddr, Errno>,
}

impl Outward {
    pub(super) fn is_opening(&self) -> bool {
        !self.openings.is_empty()
    }

    pub(super) fn shut_down(&self, how: Shutdown) {
        if let Some(stream) = &self.stream {
            stream.shut_down(how);
        }
    }

    pub(super) fn set_option(&self, level: i32, name: i32, value: i32) {
        if let Some(stream) = &self.stream {
            stream.set_option(level, name, value);
        }
    }

    pub(super) fn break_off(&self) {
        if let Some(stream) = &self.stream {
            stream.break_off();
        }
    }

    /// Whether a stream's connection takes bytes.
    pub(super) fn has_room(&self) -> bool {
        self.stream.as_ref().is_none_or(Outside::is_writable)
    }

    /// Sends on the stream's connection.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.stream.as_mut().ok_or(Errno::EPIPE)?.send(bytes)
    }
}

impl State {
    /// Moves what has arrived from the outside into the queue, as much as fits.
    pub(super) fn pump(&mut self) {
        if self.outward.stream.as_ref().is_some_and(Outside::is_readable) {
            self.pump_stream();
        }
        if self.outward.flows.iter().any(|(_, flow)| flow.is_readable()) {
            self.pump_flows();
        }
    }

    fn pump_stream(&mut self) {
        let Some(stream) = &mut self.outward.stream else { return };
        for _ in 0..PIECES_MAX {
            let room = self.queue.room().min(PIECE_BYTES);
            if room == 0 || self.is_peer_write_shut || !stream.is_readable() {
                return;
            }
            let mut piece = vec![0; room];
            match stream.receive(&mut piece) {
                None => return,
                Some(Ok(0)) => self.is_peer_write_shut = true,
                Some(Ok(length)) => {
                    let pushed = self.queue.push(&piece[..length], Address::None, Files::default());
                    debug_assert_eq!(pushed, Ok(length), "there was room");
                }
                Some(Err(errno)) => {
                    self.error = Some(errno);
                    self.is_reset = true;
                    self.is_peer_write_shut = true;
                    self.is_peer_read_shut = true;
                }
            }
        }
    }

    fn pump_flows(&mut self) {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        for (remote, flow) in &mut self.outward.flows {
            for _ in 0..PIECES_MAX {
                let has_room = self.queue.is_empty() || self.queue.room() >= DATAGRAM_BYTES_MAX;
                if !has_room || !flow.is_readable() {
                    break;
                }
                match flow.receive(&mut datagram) {
                    None => break,
                    Some(Ok(length)) => {
                        let from = Address::Inet(remote.ip(), remote.port());
                        // A datagram for which there is no memory is lost, as datagrams are.
                        let _ = self.queue.push(&datagram[..length], from, Files::default());
                    }
                    Some(Err(errno)) if self.has_been_connected => self.error = Some(errno),
                    Some(Err(_)) => {}
                }
            }
        }
    }
}

impl Socket {
    /// Whether `connect(2)` of a stream has been asked for outside and not been answered.
    pub fn is_opening(&self) -> bool {
        self.state.lock().outward.is_opening()
    }

    /// How far the opening to an address has come; `None` if it has not been asked for.
    pub(in crate::net) fn opening(&self, target: SocketAddr) -> Option<Opening> {
        let mut state = self.state.lock();
        let outward = &mut state.outward;
        if outward.flows.iter().any(|(remote, _)| *remote == target) {
            return Some(Opening::Done);
        }
        if let Some(errno) = outward.failures.remove(&target) {
            return Some(Opening::Failed(errno));
        }
        outward.openings.contains_key(&target).then_some(Opening::UnderWay)
    }

    /// Takes note of a request.
    pub(in crate::net) fn set_opening(&self, target: SocketAddr, request: RequestId) {
        self.state.lock().outward.openings.insert(target, request);
    }

    /// An opening has been answered.
    pub(in crate::net) fn opened(
        self: &Arc<Self>,
        target: SocketAddr,
        answer: Result<OwnedFd, Errno>,
        outsides: &Outsides,
    ) {
        let outside = answer.and_then(|fd| outsides.open(self, fd));
        {
            let mut state = self.state.lock();
            state.outward.openings.remove(&target);
            match (outside, self.kind) {
                (Ok(outside), Kind::Stream) => {
                    let port = if let Address::Inet(_, port) = state.local { port } else { 0 };
                    state.local = own_address(target.ip(), port);
                    state.remote = Some(Address::Inet(target.ip(), target.port()));
                    state.attach(outside);
                }
                (Ok(outside), _) => {
                    if state.outward.flows.len() >= FLOWS_MAX {
                        let associated = state.remote.clone();
                        let is_kept =
                            |remote: &SocketAddr| associated == Some(Address::Inet(remote.ip(), remote.port()));
                        let oldest = state.outward.flows.iter().position(|(remote, _)| !is_kept(remote));
                        state.outward.flows.remove(oldest.unwrap_or(0));
                    }
                    state.outward.flows.push((target, outside));
                }
                (Err(errno), Kind::Stream) => state.error = Some(errno),
                (Err(errno), _) => {
                    if state.outward.failures.len() >= FAILURES_MAX {
                        state.outward.failures.clear();
                    }
                    state.outward.failures.insert(target, errno);
                }
            }
        }
        self.beacon.ring();
    }

    /// Makes this socket, which is new, the guest's side of a visitor's connection.
    pub(in crate::net) fn welcome(
        self: &Arc<Self>,
        local: Address,
        remote: Address,
        fd: OwnedFd,
        outsides: &Outsides,
    ) -> Result<(), Errno> {
        let outside = outsides.open(self, fd)?;
        let mut state = self.state.lock();
        state.local = local;
        state.is_bound = true;
        state.remote = Some(remote);
        state.attach(outside);
        Ok(())
    }

    /// The connection with this token may be ready for something.
    pub(in crate::net) fn outside_ready(&self, token: u64, is_readable: bool, is_writable: bool) {
        {
            let mut state = self.state.lock();
            let Outward { stream, flows, .. } = &mut state.outward;
            let all = stream.iter_mut().chain(flows.iter_mut().map(|(_, flow)| flow));
            for outside in all.filter(|outside| outside.token() == token) {
                outside.set_ready(is_readable, is_writable);
            }
        }
        self.beacon.ring();
    }

    /// Sends a datagram to an address outside to which there is a flow.
    pub(super) fn send_on_flow(&self, target: SocketAddr, bytes: &[u8]) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let flow = state.outward.flows.iter_mut().find(|(remote, _)| *remote == target);
        flow.ok_or(Errno::ENETUNREACH)?.1.send(bytes)
    }
}

impl State {
    fn attach(&mut self, outside: Outside) {
        for (level, name, value) in self.options.all() {
            outside.set_option(level, name, value);
        }
        self.outward.stream = Some(outside);
        self.peer = Some(Peer::Outside);
        self.has_been_connected = true;
    }
}

/// The guest's own address on the way to another one.
pub(crate) fn own_address(target: IpAddr, port: u16) -> Address {
    match canonical(target) {
        IpAddr::V4(_) => Address::Inet(GUEST_ADDRESS.into(), port),
        IpAddr::V6(_) => Address::Inet(GUEST_ADDRESS6.into(), port),
    }
}
