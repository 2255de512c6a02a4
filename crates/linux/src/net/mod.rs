//! The guest's network: loopback TCP and UDP, Unix sockets, and the monitor's services on 127.0.0.1. Nothing of that leaves
//! the monitor. Other addresses are reached through [`egress`], if the guest has been given one; visitors come in through
//! [`Network::visit`].

pub mod address;
pub mod egress;
pub mod interface;
pub mod netlink;
pub mod options;
pub mod outside;
pub mod queue;
mod resolver;
pub(crate) mod saved;
pub(crate) mod socket;
mod way_out;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub(crate) use socket::own_address;
pub use socket::{Kind, Maker, Peer, Shutdown, Socket};
pub use way_out::WayOut;

use crate::errno::Errno;
use crate::net::address::{canonical, is_local};
use crate::net::egress::{GUEST_ADDRESS, RESOLVER_PORT};
use crate::net::queue::InFlight;
use crate::notifier::Notifier;
use crate::service::{ConnectionId, LoopbackService, ServiceOutput};

/// Ports that are given to sockets without one.
const EPHEMERAL_PORTS: std::ops::Range<u16> = 32_768..61_000;

/// Connections to services that the program has closed and the services do not know of yet.
pub(crate) type ClosedConnections = Arc<Mutex<Vec<(u16, ConnectionId)>>>;

/// The network of one guest.
pub struct Network {
    notifier: Notifier,
    services: BTreeMap<u16, Box<dyn LoopbackService>>,
    connections: BTreeMap<ConnectionId, Weak<Socket>>,
    last_connection: u64,
    closed: ClosedConnections,
    bound: BTreeMap<(Protocol, u16), Vec<Bound>>,
    /// By the number of their kind and their name.
    abstract_names: BTreeMap<(i32, Vec<u8>), Weak<Socket>>,
    next_ephemeral: u16,
    in_flight: InFlight,
    way_out: Option<WayOut>,
    requests: way_out::Requests,
}

/// What has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A socket that has a port.
#[derive(Debug)]
struct Bound {
    address: IpAddr,
    is_v6_only: bool,
    is_port_shared: bool,
    socket: Weak<Socket>,
}

impl Bound {
    /// Whether a message to `address` reaches it.
    fn accepts(&self, address: IpAddr) -> bool {
        match self.address {
            IpAddr::V4(own) if own.is_unspecified() => address.is_ipv4(),
            IpAddr::V6(own) if own.is_unspecified() => address.is_ipv6() || !self.is_v6_only,
            own => own == address,
        }
    }

    fn conflicts(&self, address: IpAddr, is_v6_only: bool) -> bool {
        let other = Bound { address, is_v6_only, is_port_shared: false, socket: Weak::new() };
        self.accepts(address) || other.accepts(self.address)
    }
}

impl Network {
    /// A network with these services on ports of 127.0.0.1.
    pub fn new(services: Vec<(u16, Box<dyn LoopbackService>)>, notifier: &Notifier) -> Self {
        Self {
            notifier: notifier.clone(),
            services: services.into_iter().collect(),
            connections: BTreeMap::new(),
            last_connection: 0,
            closed: ClosedConnections::default(),
            bound: BTreeMap::new(),
            abstract_names: BTreeMap::new(),
            next_ephemeral: EPHEMERAL_PORTS.start,
            in_flight: InFlight::default(),
            way_out: None,
            requests: way_out::Requests::default(),
        }
    }

    /// Where sockets ring.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Where sockets tell that a connection to a service is closed.
    pub(crate) fn closed_connections(&self) -> ClosedConnections {
        self.closed.clone()
    }

    /// The count of files on their way through sockets.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Whether a service listens on a port of this address.
    pub fn has_service(&self, address: IpAddr, port: u16) -> bool {
        let is_reserved = port != RESOLVER_PORT || self.is_resolver(address, port);
        is_local(address) && is_reserved && self.services.contains_key(&port)
    }

    /// Works on a service, then delivers what it has to say.
    pub fn with_service<T>(&mut self, port: u16, work: impl FnOnce(&mut dyn LoopbackService) -> T) -> Option<T> {
        let result = self.services.get_mut(&port).map(|service| work(&mut **service));
        self.settle();
        result
    }

    /// Tells services which connections are closed, and delivers what they have to say. To be called after a service has
    /// changed.
    pub fn settle(&mut self) {
        for (port, connection) in std::mem::take(&mut *self.closed.lock()) {
            if let Some(service) = self.services.get_mut(&port) {
                service.closed(connection);
            }
        }
        self.ask_by_streams();
        self.connections.retain(|_, socket| socket.strong_count() > 0);
        for service in self.services.values_mut() {
            for output in service.drain() {
                let (connection, bytes) = match &output {
                    ServiceOutput::Send(connection, bytes) => (connection, Some(bytes)),
                    ServiceOutput::Close(connection) => (connection, None),
                };
                let Some(socket) = self.connections.get(connection).and_then(Weak::upgrade) else { continue };
                match bytes {
                    Some(bytes) => socket.receive_from_service(bytes),
                    None => socket.closed_by_service(),
                }
            }
        }
    }

    /// Tells services about connections that have been closed, if there are any: after calls that close descriptors.
    pub fn settle_closed(&mut self) {
        if !self.closed.lock().is_empty() {
            self.settle();
        }
    }

    /// Connects a socket to a service.
    pub(crate) fn connect_service(&mut self, socket: &Arc<Socket>, port: u16) {
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        self.connections.insert(connection, Arc::downgrade(socket));
        socket.set_peer(Peer::Service { port, connection, closed: self.closed.clone() });
        if let Some(service) = self.services.get_mut(&port) {
            service.connected(connection);
        }
        self.settle();
    }

    /// Gives a service bytes of a connection.
    pub(crate) fn send_to_service(&mut self, port: u16, connection: ConnectionId, bytes: &[u8]) {
        if let Some(service) = self.services.get_mut(&port) {
            service.received(connection, bytes);
        }
        self.settle();
    }

    /// Gives a socket a port; zero stands for any. The port it got.
    pub(crate) fn bind(&mut self, socket: &Arc<Socket>, address: IpAddr, port: u16) -> Result<u16, Errno> {
        let is_own = self.way_out.is_some() && canonical(address) == IpAddr::V4(GUEST_ADDRESS);
        if !is_local(address) && !is_own {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let address = canonical(address);
        let protocol = socket.protocol();
        for sockets in self.bound.values_mut() {
            sockets.retain(|bound| bound.socket.strong_count() > 0);
        }
        self.bound.retain(|_, sockets| !sockets.is_empty());
        let port = if port == 0 { self.free_port(protocol)? } else { port };
        if protocol == Protocol::Tcp && port != RESOLVER_PORT && self.services.contains_key(&port) {
            return Err(Errno::EADDRINUSE);
        }
        let (is_v6_only, is_port_shared) = (socket.is_v6_only(), socket.is_port_shared());
        let sockets = self.bound.entry((protocol, port)).or_default();
        let is_taken = sockets
            .iter()
            .any(|bound| bound.conflicts(address, is_v6_only) && !(bound.is_port_shared && is_port_shared));
        if is_taken {
            return Err(Errno::EADDRINUSE);
        }
        sockets.push(Bound { address, is_v6_only, is_port_shared, socket: Arc::downgrade(socket) });
        Ok(port)
    }

    fn free_port(&mut self, protocol: Protocol) -> Result<u16, Errno> {
        for _ in EPHEMERAL_PORTS {
            let port = self.next_ephemeral;
            self.next_ephemeral = if port + 1 < EPHEMERAL_PORTS.end { port + 1 } else { EPHEMERAL_PORTS.start };
            if !self.bound.contains_key(&(protocol, port)) && !self.services.contains_key(&port) {
                return Ok(port);
            }
        }
        Err(Errno::EADDRINUSE)
    }

    /// The socket that a message to an address reaches.
    pub(crate) fn find(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<Arc<Socket>> {
        let address = match canonical(address) {
            IpAddr::V4(address) if address.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(address) if address.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        let sockets = self.bound.get(&(protocol, port))?;
        let exact = sockets.iter().filter(|bound| bound.address == address);
        let general = sockets.iter().filter(|bound| bound.accepts(address));
        let is_usable = |socket: &Arc<Socket>| protocol == Protocol::Udp || socket.is_listening();
        exact.chain(general).filter_map(|bound| bound.socket.upgrade()).find(is_usable)
    }

    /// Gives a Unix socket a name in the abstract space.
    pub(crate) fn bind_abstract(&mut self, socket: &Arc<Socket>, name: Vec<u8>) -> Result<(), Errno> {
        self.abstract_names.retain(|_, socket| socket.strong_count() > 0);
        let name = (socket.kind().number(), name);
        if self.abstract_names.contains_key(&name) {
            return Err(Errno::EADDRINUSE);
        }
        self.abstract_names.insert(name, Arc::downgrade(socket));
        Ok(())
    }

    /// The Unix socket of this kind and name in the abstract space.
    pub(crate) fn find_abstract(&self, kind: Kind, name: &[u8]) -> Option<Arc<Socket>> {
        self.abstract_names.get(&(kind.number(), name.to_vec()))?.upgrade()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::Errno;
    use crate::file::buffers::Buffers;
    use crate::file::readiness;
    use crate::net::address::{Address, Family};
    use crate::service::BadServiceState;

    const PORT: u16 = 9001;

    /// Answers every byte string with itself doubled; closes after `bye`.
    #[derive(Default)]
    struct Doubling {
        output: Vec<ServiceOutput>,
        closed: Arc<Mutex<Vec<ConnectionId>>>,
    }

    impl LoopbackService for Doubling {
        fn connected(&mut self, _connection: ConnectionId) {}

        fn received(&mut self, connection: ConnectionId, bytes: &[u8]) {
            self.output.push(ServiceOutput::Send(connection, bytes.repeat(2)));
            if bytes == b"bye" {
                self.output.push(ServiceOutput::Close(connection));
            }
        }

        fn closed(&mut self, connection: ConnectionId) {
            self.closed.lock().push(connection);
        }

        fn drain(&mut self) -> Vec<ServiceOutput> {
            std::mem::take(&mut self.output)
        }

        fn save(&self) -> Vec<u8> {
            Vec::new()
        }

        fn restore(&mut self, _state: &[u8]) -> Result<(), BadServiceState> {
            Ok(())
        }
    }

    fn stream(notifier: &Notifier) -> Arc<Socket> {
        Socket::new(Family::Inet, Kind::Stream, Maker::default(), notifier, &Buffers::default()).unwrap()
    }

    fn read(socket: &Socket) -> Result<Vec<u8>, Errno> {
        socket.receive(100, false, 1).map(|message| message.bytes)
    }

    #[test]
    fn a_service_answers_closes_and_learns_of_closed_connections() {
        let notifier = Notifier::default();
        let closed = Arc::new(Mutex::new(Vec::new()));
        let service = Doubling { closed: closed.clone(), ..Doubling::default() };
        let mut network = Network::new(vec![(PORT, Box::new(service))], &notifier);
        let client = stream(&notifier);
        network.connect_service(&client, PORT);
        let connection = ConnectionId(1);
        assert_eq!(read(&client), Err(Errno::EAGAIN));
        notifier.take_rung();
        network.send_to_service(PORT, connection, b"ab");
        assert!(notifier.take_rung().contains(&client.beacon().object()), "whoever waits for the answer is woken");
        assert_eq!(read(&client).as_deref(), Ok(&b"abab"[..]));
        network.send_to_service(PORT, connection, b"bye");
        assert_eq!(read(&client).as_deref(), Ok(&b"byebye"[..]), "what was sent before the end is read first");
        assert_eq!(read(&client).as_deref(), Ok(&b""[..]));
        assert_ne!(client.readiness() & readiness::READ_HANG_UP, 0);
        drop(client);
        network.settle_closed();
        assert_eq!(*closed.lock(), [connection]);
        network.send_to_service(PORT, connection, b"nobody hears this");
    }

    #[test]
    fn the_monitor_makes_a_service_speak() {
        let notifier = Notifier::default();
        let mut network = Network::new(vec![(PORT, Box::<Doubling>::default())], &notifier);
        let client = stream(&notifier);
        network.connect_service(&client, PORT);
        assert_eq!(network.with_service(PORT, |service| service.received(ConnectionId(1), b"x")), Some(()));
        assert_eq!(read(&client).as_deref(), Ok(&b"xx"[..]));
        assert_eq!(network.with_service(1, |_| ()), None);
    }

    #[test]
    fn a_program_that_does_not_read_answers_is_kept_from_asking() {
        let client =
            Socket::new(Family::Inet, Kind::Stream, Maker::default(), &Notifier::default(), &Buffers::default());
        let client = client.unwrap();
        let mut network = Network::new(vec![(PORT, Box::<Doubling>::default())], &Notifier::default());
        network.connect_service(&client, PORT);
        let mut asked = 0;
        while client.readiness() & readiness::OUT != 0 && asked < 1000 {
            network.send_to_service(PORT, ConnectionId(1), &vec![0; 64 * 1024]);
            asked += 1;
        }
        assert!((50..100).contains(&asked), "{asked} questions of 64 KiB");
        client.receive(client.readable_bytes(), false, 1).unwrap();
        assert_ne!(client.readiness() & readiness::OUT, 0);
    }

    #[test]
    fn ports_conflict_where_their_addresses_meet() {
        let any4 = "0.0.0.0".parse::<IpAddr>().unwrap();
        let any6 = "::".parse::<IpAddr>().unwrap();
        let one = "127.0.0.1".parse::<IpAddr>().unwrap();
        let other = "127.0.0.2".parse::<IpAddr>().unwrap();
        let six = "::1".parse::<IpAddr>().unwrap();
        for (first, second, expected) in [
            (one, one, Err(Errno::EADDRINUSE)),
            (one, other, Ok(80)),
            (one, any4, Err(Errno::EADDRINUSE)),
            (any4, other, Err(Errno::EADDRINUSE)),
            (any6, one, Err(Errno::EADDRINUSE)),
            (one, six, Ok(80)),
            ("10.0.0.1".parse().unwrap(), one, Ok(80)),
        ] {
            let notifier = Notifier::default();
            let mut network = Network::new(Vec::new(), &notifier);
            let (a, b) = (stream(&notifier), stream(&notifier));
            let _ = network.bind(&a, first, 80);
            assert_eq!(network.bind(&b, second, 80), expected, "{first} and {second}");
        }
        let notifier = Notifier::default();
        let mut network = Network::new(vec![(PORT, Box::<Doubling>::default())], &notifier);
        assert_eq!(network.bind(&stream(&notifier), one, PORT), Err(Errno::EADDRINUSE), "a service has it");
        assert_eq!(network.bind(&stream(&notifier), "8.8.8.8".parse().unwrap(), 1), Err(Errno::EADDRNOTAVAIL));
    }

    #[test]
    fn a_dropped_listener_refuses_those_who_wait() {
        let notifier = Notifier::default();
        let mut network = Network::new(Vec::new(), &notifier);
        let (server, client, late) = (stream(&notifier), stream(&notifier), stream(&notifier));
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let port = network.bind(&server, address, 0).unwrap();
        assert!(network.find(Protocol::Tcp, address, port).is_none(), "it does not listen yet");
        server.listen(1).unwrap();
        let found = network.find(Protocol::Tcp, address, port).unwrap();
        assert_eq!(found.connect_from(&client, Address::Inet(address, port)), Ok(()));
        assert_eq!(found.connect_from(&late, Address::Inet(address, port)), Err(Errno::EAGAIN), "the backlog is full");
        drop(found);
        drop(server);
        assert_eq!(read(&client).as_deref(), Ok(&b""[..]));
        assert!(network.find(Protocol::Tcp, address, port).is_none());
    }
}
