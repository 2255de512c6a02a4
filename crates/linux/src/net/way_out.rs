//! The network's side of connections to the outside: requests to egress and their answers, questions about names, and
//! visitors, whose connections the monitor brings in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use crate::errno::Errno;
use crate::file::buffers::Buffers;
use crate::net::address::{Address, canonical};
use crate::net::egress::{
    Egress, GUEST_ADDRESS, HOST_ADDRESS, Opening, QUERY_BYTES_MAX, REQUESTS_MAX, RESOLVER_ADDRESS, RESOLVER_PORT,
    RequestId, Transport,
};
use crate::net::outside::Outsides;
use crate::net::queue::Files;
use crate::net::{Kind, Maker, Network, Protocol, Socket};
use crate::service::ConnectionId;

/// Longest answer to a question by datagram that does not say how much its sender takes (RFC 1035).
const DATAGRAM_ANSWER_BYTES: usize = 512;
/// Bytes of a DNS header; the third has the bit that says that the message was cut.
const DNS_HEADER_BYTES: usize = 12;
const DNS_TRUNCATED: u8 = 2;

/// What a guest has beyond itself.
pub struct WayOut {
    /// Who opens connections; without it only visitors come in.
    pub egress: Option<Box<dyn Egress>>,
    /// Where connections are watched.
    pub outsides: Outsides,
}

/// Requests that have not been answered.
#[derive(Default)]
pub(super) struct Requests {
    last: u64,
    pending: BTreeMap<RequestId, Pending>,
}

enum Pending {
    Connection { socket: Weak<Socket>, target: SocketAddr },
    Question { socket: Weak<Socket>, answer_bytes_max: usize },
    StreamQuestion(ConnectionId),
}

impl Network {
    /// Gives the guest a way out.
    pub fn set_way_out(&mut self, way_out: WayOut) {
        if way_out.egress.is_some() {
            self.services.insert(RESOLVER_PORT, Box::<super::resolver::Resolver>::default());
        }
        self.way_out = Some(way_out);
    }

    /// Whether connections to the outside can be asked for.
    pub fn has_egress(&self) -> bool {
        self.way_out.as_ref().is_some_and(|way_out| way_out.egress.is_some())
    }

    /// Whether this is the address at which names are resolved.
    pub(crate) fn is_resolver(&self, address: IpAddr, port: u16) -> bool {
        self.has_egress() && port == RESOLVER_PORT && canonical(address) == IpAddr::V4(RESOLVER_ADDRESS)
    }

    fn new_request(&mut self, pending: Pending) -> Result<RequestId, Errno> {
        let egress = self.way_out.as_mut().and_then(|way_out| way_out.egress.as_mut()).ok_or(Errno::ENETUNREACH)?;
        if self.requests.pending.len() >= REQUESTS_MAX {
            let is_wanted = |pending: &Pending| match pending {
                Pending::Connection { socket, .. } | Pending::Question { socket, .. } => socket.strong_count() > 0,
                Pending::StreamQuestion(_) => true,
            };
            let (kept, forgotten): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut self.requests.pending).into_iter().partition(|(_, pending)| is_wanted(pending));
            self.requests.pending = kept;
            forgotten.into_keys().for_each(|request| egress.cancel(request));
        }
        if self.requests.pending.len() >= REQUESTS_MAX {
            return Err(Errno::ENOBUFS);
        }
        self.requests.last += 1;
        let request = RequestId(self.requests.last);
        self.requests.pending.insert(request, pending);
        Ok(request)
    }

    fn egress(&mut self) -> Option<&mut dyn Egress> {
        Some(&mut **self.way_out.as_mut()?.egress.as_mut()?)
    }

    /// Opens a connection of a socket to the outside, or says how far that has come.
    pub(crate) fn open(&mut self, socket: &Arc<Socket>, target: SocketAddr) -> Opening {
        if let Some(opening) = socket.opening(target) {
            return opening;
        }
        let request = match self.new_request(Pending::Connection { socket: Arc::downgrade(socket), target }) {
            Ok(request) => request,
            Err(errno) => return Opening::Failed(errno),
        };
        socket.set_opening(target, request);
        let transport = if socket.kind() == Kind::Datagram { Transport::Udp } else { Transport::Tcp };
        if let Some(egress) = self.egress() {
            egress.connect(request, transport, target);
        }
        Opening::UnderWay
    }

    /// A request for a connection has been answered.
    pub fn connection_answered(&mut self, request: RequestId, answer: Result<OwnedFd, Errno>) {
        let Some(Pending::Connection { socket, target }) = self.requests.pending.remove(&request) else { return };
        // A socket that was closed meanwhile wants none.
        if let (Some(socket), Some(way_out)) = (socket.upgrade(), &self.way_out) {
            socket.opened(target, answer, &way_out.outsides);
        }
    }

    /// A connection may be ready for something: what `epoll` has said about a token.
    pub fn outside_ready(&mut self, token: u64, is_readable: bool, is_writable: bool) {
        if let Some(socket) = self.way_out.as_ref().and_then(|way_out| way_out.outsides.socket(token)) {
            socket.outside_ready(token, is_readable, is_writable);
        }
    }

    /// Asks a question about a name for a datagram socket. What cannot be asked is lost, as datagrams are.
    pub(crate) fn ask(&mut self, socket: &Arc<Socket>, query: &[u8]) {
        if query.len() > QUERY_BYTES_MAX {
            return;
        }
        let answer_bytes_max = announced_bytes(query);
        let pending = Pending::Question { socket: Arc::downgrade(socket), answer_bytes_max };
        if let Ok(request) = self.new_request(pending)
            && let Some(egress) = self.egress()
        {
            egress.resolve(request, query);
        }
    }

    /// Asks the questions that have arrived by streams.
    pub(super) fn ask_by_streams(&mut self) {
        if !self.has_egress() {
            return;
        }
        let Some(resolver) = self.services.get_mut(&RESOLVER_PORT) else { return };
        for (connection, query) in resolver.take_questions() {
            if let Ok(request) = self.new_request(Pending::StreamQuestion(connection))
                && let Some(egress) = self.egress()
            {
                egress.resolve(request, &query);
            }
        }
    }

    /// A question has been answered, or cannot be.
    pub fn question_answered(&mut self, request: RequestId, answer: Option<Vec<u8>>) {
        let (pending, Some(mut answer)) = (self.requests.pending.remove(&request), answer) else { return };
        match pending {
            Some(Pending::Question { socket, answer_bytes_max }) => {
                let Some(socket) = socket.upgrade() else { return };
                if answer.len() > answer_bytes_max && answer.len() >= DNS_HEADER_BYTES {
                    cut(&mut answer);
                }
                let from = Address::Inet(RESOLVER_ADDRESS.into(), RESOLVER_PORT);
                // An answer for which there is no room is lost, as datagrams are.
                let _ = socket.take_in(&answer, from, Files::default());
            }
            Some(Pending::StreamQuestion(connection)) => {
                if let Some(resolver) = self.services.get_mut(&RESOLVER_PORT) {
                    resolver.answered(connection, &answer);
                }
                self.settle();
            }
            Some(Pending::Connection { .. }) | None => {}
        }
    }

    /// Lets a visitor in: a connection that the monitor has been given, to a port that a program listens on. `ECONNREFUSED`
    /// if none does, `EAGAIN` if it is too slow in accepting.
    pub fn visit(&mut self, port: u16, visitor: SocketAddr, fd: OwnedFd, budget: &Buffers) -> Result<(), Errno> {
        let outsides = self.way_out.as_ref().ok_or(Errno::ENETUNREACH)?.outsides.clone();
        let listener = [IpAddr::from(GUEST_ADDRESS), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            .into_iter()
            .find_map(|address| self.find(Protocol::Tcp, address, port))
            .ok_or(Errno::ECONNREFUSED)?;
        let ip = canonical(visitor.ip());
        let ip = if ip.is_loopback() { HOST_ADDRESS.into() } else { ip };
        let (local, remote) = (Address::Inet(GUEST_ADDRESS.into(), port), Address::Inet(ip, visitor.port()));
        let server = Socket::new(listener.family(), Kind::Stream, Maker::default(), &self.notifier, budget)?;
        server.welcome(local, remote, fd, &outsides)?;
        listener.take_visitor(server)
    }
}

/// How long an answer may be that a question by datagram asks for: what its OPT record says (RFC 6891), which is the last
/// record of a question.
fn announced_bytes(query: &[u8]) -> usize {
    const OPT_BYTES: usize = 11;
    let additional_count = query.get(10..12).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]));
    let at = (DNS_HEADER_BYTES..query.len().saturating_sub(OPT_BYTES - 1)).find(|at| query[*at..*at + 3] == [0, 0, 41]);
    match at {
        Some(at) if additional_count > 0 => {
            usize::from(u16::from_be_bytes([query[at + 3], query[at + 4]])).max(DATAGRAM_ANSWER_BYTES)
        }
        _ => DATAGRAM_ANSWER_BYTES,
    }
}

/// Makes an answer its header only, which says that it was cut: whoever asked then asks by a stream.
fn cut(answer: &mut Vec<u8>) {
    answer.truncate(DNS_HEADER_BYTES);
    answer[2] |= DNS_TRUNCATED;
    answer[4..].fill(0);
}

impl std::fmt::Debug for WayOut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WayOut").field("has_egress", &self.egress.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_that_a_question_announces_is_found() {
        let mut query = vec![0; DNS_HEADER_BYTES];
        query.extend_from_slice(b"\x01a\x00\x00\x01\x00\x01");
        assert_eq!(announced_bytes(&query), 512);
        query[11] = 1;
        query.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(announced_bytes(&query), 1232);
        assert_eq!(announced_bytes(&[]), 512);
    }

    #[test]
    fn a_cut_answer_is_a_header_without_records() {
        let mut answer: Vec<u8> = (1..=40).collect();
        cut(&mut answer);
        assert_eq!(answer, [1, 2, 3 | 2, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
