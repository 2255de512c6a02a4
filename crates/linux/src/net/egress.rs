//! The way out: how sockets ask for connections beyond the guest. The monitor implements [`Egress`], which passes what is
//! asked on to a process that may open connections; answers come later, as calls of [`super::Network`].

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::errno::Errno;

/// The guest's own address on the way out (RFC 7335: for translators on the machine itself, so it is nobody else's).
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// Leading bits of the range of addresses that RFC 7335 reserves.
pub const GUEST_PREFIX_BITS: u8 = 29;
/// As [`GUEST_ADDRESS`], for IPv6.
pub const GUEST_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xc000, 2);
/// Where the guest reaches the machine that it runs on, if that is allowed at all; also where visitors from there come from.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// Where names are resolved: the address that `systemd-resolved` has too.
pub const RESOLVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
/// The port of [`RESOLVER_ADDRESS`].
pub const RESOLVER_PORT: u16 = 53;
/// What `/etc/resolv.conf` says in a guest with a way out.
pub const RESOLVER_CONFIGURATION: &[u8] = b"# Served by Calypte.\nnameserver 127.0.0.53\n";
/// Most questions and connections of a guest that wait for an answer.
pub const REQUESTS_MAX: usize = 256;
/// Most open connections of a guest to the outside, those for datagrams included.
pub const CONNECTIONS_MAX: usize = 1024;
/// Longest question about a name: a name has at most 255 bytes.
pub const QUERY_BYTES_MAX: usize = 1024;

/// One question to the outside, unique within the guest for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A stream.
    Tcp,
    /// Datagrams to and from one address.
    Udp,
}

/// The way out. None of its methods blocks; every request but a cancelled one is answered by
/// [`super::Network::connection_answered`] or [`super::Network::question_answered`].
pub trait Egress: Send {
    /// Asks for a connection.
    fn connect(&mut self, request: RequestId, transport: Transport, target: SocketAddr);
    /// Asks about a name: a DNS message.
    fn resolve(&mut self, request: RequestId, query: &[u8]);
    /// The answer is not wanted any more.
    fn cancel(&mut self, request: RequestId);
}

/// How far an opening has come that a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It is there.
    Done,
    /// It is under way.
    UnderWay,
    /// It cannot be.
    Failed(Errno),
}
