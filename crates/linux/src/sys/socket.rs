//! Sockets but for their messages: `socket(2)`, `bind(2)`, `connect(2)`, `accept(2)`, `getsockopt(2)` and so on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::call::Call;
use crate::clock::SECOND_NS;
use crate::errno::Errno;
use crate::file::{Body, OpenFile, READABLE, WRITABLE};
use crate::fs::Node;
use crate::fs::change::{self, Made};
use crate::fs::tmp::Content;
use crate::net::address::{ADDRESS_BYTES_MAX, Address, Family, UnixName, canonical, is_local};
use crate::net::egress::Opening;
use crate::net::options::{self, RECEIVE_TIMEOUTS, SEND_TIMEOUTS};
use crate::net::{Kind, Maker, Peer, Shutdown, Socket, own_address};
use crate::outcome::{Stop, SysResult, Wait, WaitKey};
use crate::sys::entry;
use crate::sys::pipe::install_pair;
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(41, "socket", socket).supports("AF_UNIX, AF_INET, AF_INET6, AF_NETLINK for NETLINK_ROUTE; other families are EAFNOSUPPORT, SOCK_RAW is EPERM"),
    entry(42, "connect", connect).supports("loopback, services of the monitor, and through egress what its policy allows; other addresses are EACCES, ENETUNREACH without egress"),
    entry(43, "accept", accept),
    entry(48, "shutdown", shutdown),
    entry(49, "bind", bind).supports("loopback and unspecified addresses, paths, abstract names; other addresses are EADDRNOTAVAIL"),
    entry(50, "listen", listen).supports(
        "a backlog of at most 4096",
    ),
    entry(51, "getsockname", getsockname),
    entry(52, "getpeername", getpeername),
    entry(53, "socketpair", socketpair).supports(
        "AF_UNIX; others are EOPNOTSUPP",
    ),
    entry(54, "setsockopt", setsockopt).supports(options::SET),
    entry(55, "getsockopt", getsockopt).supports(options::TOLD),
    entry(288, "accept4", accept4),
];

const TYPE_FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// Family, kind and flags from the first three arguments.
fn read_type(call: &Call<'_>) -> Result<(Family, Kind, i32), Errno> {
    let family = Family::from_number(call.int(0))?;
    let (kind, flags) = (call.int(1) & !TYPE_FLAGS, call.int(1) & TYPE_FLAGS);
    if family == Family::Netlink {
        return match (kind, call.int(2)) {
            (libc::SOCK_RAW | libc::SOCK_DGRAM, libc::NETLINK_ROUTE) => Ok((family, Kind::Datagram, flags)),
            (libc::SOCK_RAW | libc::SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        };
    }
    let kind = match Kind::from_number(kind)? {
        Kind::Sequenced if family != Family::Unix => return Err(Errno::ESOCKTNOSUPPORT),
        kind => kind,
    };
    let fits = match (call.int(2), kind) {
        (0, _) => true,
        (libc::PF_UNIX, _) if family == Family::Unix => true,
        (libc::IPPROTO_TCP, Kind::Stream) | (libc::IPPROTO_UDP, Kind::Datagram) => family != Family::Unix,
        _ => false,
    };
    if fits { Ok((family, kind, flags)) } else { Err(Errno::EPROTONOSUPPORT) }
}

fn new_socket(call: &mut Call<'_>, family: Family, kind: Kind) -> Result<Arc<Socket>, Errno> {
    let pid = call.pid;
    let credentials = &call.process().credentials;
    let maker = Maker { pid, uid: credentials.uid_effective, gid: credentials.gid_effective };
    Socket::new(family, kind, maker, call.kernel.network.notifier(), call.kernel.files.buffers())
}

fn open_socket(socket: Arc<Socket>, flags: i32) -> Arc<OpenFile> {
    let status = (flags & libc::SOCK_NONBLOCK) as u32;
    OpenFile::anonymous(Body::Socket(socket), "socket:", READABLE | WRITABLE, status)
}

fn socket(call: &mut Call<'_>) -> SysResult {
    let (family, kind, flags) = read_type(call)?;
    let socket = new_socket(call, family, kind)?;
    Ok(call.install(open_socket(socket, flags), flags & libc::SOCK_CLOEXEC != 0)? as u64)
}

fn socketpair(call: &mut Call<'_>) -> SysResult {
    let (family, kind, flags) = read_type(call)?;
    if family != Family::Unix {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let (a, b) = (new_socket(call, family, kind)?, new_socket(call, family, kind)?);
    Socket::pair(&a, &b);
    let (a, b) = (open_socket(a, flags), open_socket(b, flags));
    install_pair(call, a, b, flags & libc::SOCK_CLOEXEC != 0, call.args[3])
}

/// Reads an address argument.
pub(super) fn read_address(call: &mut Call<'_>, family: Family, at: u64, length: u64) -> Result<Address, Errno> {
    let length = usize::try_from(length as u32 as i32).map_err(|_| Errno::EINVAL)?;
    if length > ADDRESS_BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    let bytes = call.read_bytes(at, length)?;
    Address::decode(family, &bytes)
}

/// Writes an address to where a program wants it: as much as there is room for, and the length it has.
pub(super) fn write_address(
    call: &mut Call<'_>,
    family: Family,
    address: &Address,
    at: u64,
    length_at: u64,
) -> Result<(), Errno> {
    let room = usize::try_from(call.read::<i32>(length_at)?).map_err(|_| Errno::EINVAL)?;
    let bytes = address.encode(family);
    call.write_bytes(at, &bytes[..room.min(bytes.len())])?;
    call.write(length_at, &(bytes.len() as u32))
}

fn bind(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let socket = file.socket()?;
    let address = match read_address(call, socket.family(), call.args[1], call.args[2])? {
        // Linux takes AF_UNSPEC for AF_INET when the address is unspecified.
        Address::None if socket.family() == Family::Inet => Address::Inet(Ipv4Addr::UNSPECIFIED.into(), 0),
        Address::None => return Err(Errno::EAFNOSUPPORT.into()),
        address => address,
    };
    if socket.is_bound() {
        // A name that exists is noticed first.
        let is_taken = match &address {
            Address::Unix(UnixName::Path(path)) => call.locate(libc::AT_FDCWD, path, 0).is_ok(),
            _ => false,
        };
        return Err(if is_taken { Errno::EADDRINUSE } else { Errno::EINVAL }.into());
    }
    let bound = match address {
        Address::Inet(address, port) => Address::Inet(address, call.kernel.network.bind(socket, address, port)?),
        Address::Unix(UnixName::Path(path)) => {
            let permissions = call.permissions(0o777);
            let base = call.base(libc::AT_FDCWD, &path)?;
            let made = Made::Socket(Arc::downgrade(socket));
            match change::make(call.kernel, call.pid, &base, &path, made, permissions) {
                Err(Errno::EEXIST) => return Err(Errno::EADDRINUSE.into()),
                result => result?,
            };
            Address::Unix(UnixName::Path(path))
        }
        Address::Unix(UnixName::Abstract(name)) => {
            call.kernel.network.bind_abstract(socket, name.clone())?;
            Address::Unix(UnixName::Abstract(name))
        }
        Address::Unix(UnixName::Unnamed) => {
            let name = format!("{:05x}", socket.beacon().object().0).into_bytes();
            call.kernel.network.bind_abstract(socket, name.clone())?;
            Address::Unix(UnixName::Abstract(name))
        }
        Address::Netlink(0) => Address::Netlink(call.pid),
        Address::Netlink(port) => Address::Netlink(port),
        Address::None => return Err(Errno::EINVAL.into()),
    };
    socket.set_local(bound);
    Ok(0)
}

/// Gives a socket of the Internet a port if it has none.
pub(super) fn bind_any(call: &mut Call<'_>, socket: &Arc<Socket>) -> Result<(), Errno> {
    if socket.is_bound() || !socket.family().is_inet() {
        return Ok(());
    }
    let address: IpAddr = match socket.family() {
        Family::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let port = call.kernel.network.bind(socket, address, 0)?;
    socket.set_local(Address::Inet(address, port));
    Ok(())
}

fn listen(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let socket = file.socket()?;
    if socket.family() == Family::Unix && !socket.is_bound() {
        return Err(Errno::EINVAL.into());
    }
    if socket.is_connection_oriented() {
        bind_any(call, socket)?;
    }
    // A negative length is the largest, as Linux takes it for unsigned.
    socket.listen(usize::try_from(call.int(1)).unwrap_or(usize::MAX))?;
    Ok(0)
}

/// The Unix socket that has a name; one of another kind may be found by its path.
pub(super) fn find_unix(call: &mut Call<'_>, kind: Kind, name: &UnixName) -> Result<Arc<Socket>, Errno> {
    match name {
        UnixName::Unnamed => Err(Errno::EINVAL),
        UnixName::Abstract(name) => call.kernel.network.find_abstract(kind, name).ok_or(Errno::ECONNREFUSED),
        UnixName::Path(path) => {
            let location = call.locate(libc::AT_FDCWD, path, 0)?;
            let Node::Tmp(inode) = &location.node else { return Err(Errno::ECONNREFUSED) };
            let state = inode.state();
            match &state.content {
                Content::Socket(socket) => socket.upgrade().ok_or(Errno::ECONNREFUSED),
                _ => Err(Errno::ECONNREFUSED),
            }
        }
    }
}

fn connect(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let socket = file.socket()?;
    let address = read_address(call, socket.family(), call.args[1], call.args[2])?;
    if !socket.is_connection_oriented() {
        associate(call, socket, address)?;
        return Ok(0);
    }
    if socket.is_opening() {
        return wait_for_opening(call, &file, socket);
    }
    if let Some(error) = socket.take_error() {
        return Err(error.into());
    }
    let was_connecting = socket.take_connecting();
    if socket.is_connected() {
        return if was_connecting { Ok(0) } else { Err(Errno::EISCONN.into()) };
    }
    if socket.is_listening() {
        return Err(if socket.family().is_inet() { Errno::EISCONN } else { Errno::EINVAL }.into());
    }
    if let Address::Inet(address, port) = address
        && !is_local(address)
        && call.kernel.network.has_egress()
    {
        bind_any(call, socket)?;
        return match call.kernel.network.open(socket, SocketAddr::new(canonical(address), port)) {
            Opening::Failed(errno) => Err(errno.into()),
            Opening::Done | Opening::UnderWay => {
                socket.set_connecting(None);
                if file.is_nonblocking() {
                    return Err(Errno::EINPROGRESS.into());
                }
                wait_for_opening(call, &file, socket)
            }
        };
    }
    // As on Linux, where even the loopback network takes a moment: programs count on it.
    let is_inet = socket.family().is_inet();
    let result = match address {
        Address::Unix(name) => connect_unix(call, socket, name),
        Address::Inet(address, port) => connect_tcp(call, socket, address, port),
        Address::Netlink(_) | Address::None => Err(Errno::EAFNOSUPPORT.into()),
    };
    match result {
        // A full backlog: the connection waits until the server accepts another one.
        Err((Errno::EAGAIN, Some(listener))) => {
            let listening = open_socket(listener, 0);
            call.or_wait(&listening, Err(Errno::EAGAIN), file.is_nonblocking(), socket.send_timeout_ns())
        }
        Err((Errno::ECONNREFUSED, _)) if is_inet && file.is_nonblocking() => {
            socket.set_connecting(Some(Errno::ECONNREFUSED));
            Err(Errno::EINPROGRESS.into())
        }
        Err((errno, _)) => Err(errno.into()),
        Ok(()) if is_inet && file.is_nonblocking() => {
            socket.set_connecting(None);
            Err(Errno::EINPROGRESS.into())
        }
        Ok(()) => Ok(0),
    }
}

/// Waits until a connection to the outside is made or refused; the call then looks at what it has come to.
fn wait_for_opening(call: &mut Call<'_>, file: &OpenFile, socket: &Socket) -> SysResult {
    if file.is_nonblocking() {
        return Err(Errno::EALREADY.into());
    }
    match call.or_wait(file, Err(Errno::EAGAIN), false, socket.send_timeout_ns()) {
        Err(Stop::Errno(Errno::EAGAIN)) => Err(Errno::EINPROGRESS.into()),
        result => result,
    }
}

/// Sees to it that a datagram socket can send to an address outside. The call waits for that even if it does not wait
/// otherwise: on Linux, where nobody has to be asked, it would take no time.
pub(super) fn open_flow(
    call: &mut Call<'_>,
    socket: &Arc<Socket>,
    address: IpAddr,
    port: u16,
) -> Result<SocketAddr, Stop> {
    let target = SocketAddr::new(canonical(address), port);
    if !call.kernel.network.has_egress() {
        return Err(Errno::ENETUNREACH.into());
    }
    match call.kernel.network.open(socket, target) {
        Opening::Done => Ok(target),
        Opening::Failed(errno) => Err(errno.into()),
        Opening::UnderWay if call.is_interrupted() => Err(Errno::EINTR.into()),
        Opening::UnderWay => Err(Stop::Block(Wait::on(WaitKey::Object(socket.beacon().object())))),
    }
}

/// Why a connection was not made; with the listening socket if its backlog was full.
type ConnectError = (Errno, Option<Arc<Socket>>);

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> Self {
        (errno, None)
    }
}

fn connect_unix(call: &mut Call<'_>, socket: &Arc<Socket>, name: UnixName) -> Result<(), ConnectError> {
    let listener = find_unix(call, socket.kind(), &name)?;
    if listener.kind() != socket.kind() {
        return Err(Errno::EPROTOTYPE.into());
    }
    listener.connect_from(socket, Address::Unix(name)).map_err(|errno| (errno, Some(listener)))
}

fn connect_tcp(call: &mut Call<'_>, socket: &Arc<Socket>, address: IpAddr, port: u16) -> Result<(), ConnectError> {
    if !is_local(address) {
        return Err(Errno::ENETUNREACH.into());
    }
    let target: IpAddr = match address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    bind_any(call, socket)?;
    if let Address::Inet(own, port) = socket.local()
        && own.is_unspecified()
    {
        let own: IpAddr = if target.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { target };
        socket.set_local(Address::Inet(own, port));
    }
    if call.kernel.network.has_service(address, port) {
        socket.set_remote(Address::Inet(target, port));
        call.kernel.network.connect_service(socket, port);
        return Ok(());
    }
    let listener = call.kernel.network.find(crate::net::Protocol::Tcp, target, port).ok_or(Errno::ECONNREFUSED)?;
    let server_address = Address::Inet(canonical(target), port);
    listener.connect_from(socket, server_address).map_err(|errno| (errno, Some(listener)))
}

/// `connect(2)` of a datagram socket: what it sends to, and hears from, by itself.
fn associate(call: &mut Call<'_>, socket: &Arc<Socket>, address: Address) -> Result<(), Stop> {
    match address {
        Address::None => socket.associate(None, None),
        // The kernel is the only one there to talk to.
        Address::Netlink(_) => {}
        Address::Unix(name) => {
            let peer = find_unix(call, Kind::Datagram, &name)?;
            if peer.kind() != Kind::Datagram {
                return Err(Errno::EPROTOTYPE.into());
            }
            socket.associate(Some(Address::Unix(name)), Some(Peer::Socket(Arc::downgrade(&peer))));
        }
        Address::Inet(address, port) if !is_local(address) => {
            bind_any(call, socket)?;
            open_flow(call, socket, address, port)?;
            if let Address::Inet(own, own_port) = socket.local()
                && own.is_unspecified()
            {
                socket.set_local(own_address(address, own_port));
            }
            socket.associate(Some(Address::Inet(address, port)), None);
        }
        Address::Inet(address, port) => {
            bind_any(call, socket)?;
            if let Address::Inet(own, own_port) = socket.local()
                && own.is_unspecified()
            {
                let own: IpAddr = match canonical(address) {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                socket.set_local(Address::Inet(own, own_port));
            }
            socket.associate(Some(Address::Inet(address, port)), None);
        }
    }
    Ok(())
}

fn accept_connection(call: &mut Call<'_>, flags: i32) -> SysResult {
    if flags & !TYPE_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = call.file(0)?;
    // Before a connection is taken, which would be lost.
    call.process().files.check_room()?;
    let socket = file.socket()?;
    if !socket.is_connection_oriented() {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let result = socket.accept();
    let accepted = call.or_wait(&file, result, file.is_nonblocking(), socket.receive_timeout_ns())?;
    // Others may wait for the place in the backlog.
    socket.beacon().ring();
    let remote = accepted.remote()?;
    let family = accepted.family();
    let fd = call.install(open_socket(accepted, flags), flags & libc::SOCK_CLOEXEC != 0)?;
    if call.args[1] != 0
        && let Err(errno) = write_address(call, family, &remote, call.args[1], call.args[2])
    {
        call.process().files.remove(fd)?;
        return Err(errno.into());
    }
    Ok(fd as u64)
}

fn accept(call: &mut Call<'_>) -> SysResult {
    accept_connection(call, 0)
}

fn accept4(call: &mut Call<'_>) -> SysResult {
    accept_connection(call, call.int(3))
}

fn shutdown(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let how = match call.int(1) {
        libc::SHUT_RD => Shutdown { read: true, write: false },
        libc::SHUT_WR => Shutdown { read: false, write: true },
        libc::SHUT_RDWR => Shutdown { read: true, write: true },
        _ => return Err(Errno::EINVAL.into()),
    };
    file.socket()?.shut_down(how)?;
    call.kernel.network.settle();
    Ok(0)
}

fn getsockname(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let socket = file.socket()?;
    write_address(call, socket.family(), &socket.local(), call.args[1], call.args[2])?;
    Ok(0)
}

fn getpeername(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let socket = file.socket()?;
    write_address(call, socket.family(), &socket.remote()?, call.args[1], call.args[2])?;
    Ok(0)
}

/// A `timeval` as a time-out; zero is none.
fn timeout([seconds, microseconds]: [i64; 2]) -> Result<Option<u64>, Errno> {
    if !(0..1_000_000).contains(&microseconds) {
        return Err(Errno::EDOM);
    }
    let ns = u64::try_from(seconds).unwrap_or(0).saturating_mul(SECOND_NS);
    let ns = ns.saturating_add(microseconds.cast_unsigned() * 1000);
    Ok((ns > 0).then_some(ns))
}

fn setsockopt(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let socket = file.socket()?;
    let (level, name, at) = (call.int(1), call.int(2), call.args[3]);
    let length = usize::try_from(call.int(4)).map_err(|_| Errno::EINVAL)?;
    let is_receive_timeout = RECEIVE_TIMEOUTS.contains(&name);
    match (level, name) {
        (libc::SOL_SOCKET, _) if is_receive_timeout || SEND_TIMEOUTS.contains(&name) => {
            if length < 16 {
                return Err(Errno::EINVAL.into());
            }
            let timeout_ns = timeout(call.read(at)?)?;
            if is_receive_timeout {
                socket.set_receive_timeout(timeout_ns);
            } else {
                socket.set_send_timeout(timeout_ns);
            }
        }
        (libc::SOL_SOCKET, libc::SO_LINGER) if length >= 8 => socket.set_linger(call.read(at)?),
        (libc::SOL_SOCKET, libc::SO_LINGER) => return Err(Errno::EINVAL.into()),
        // Only the one congestion control that Linux always has.
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
            let name = call.read_bytes(at, length.min(16))?;
            if !matches!(&*name, b"cubic" | b"reno") {
                return Err(Errno::ENOENT.into());
            }
        }
        _ => {
            let value = match length {
                0 => return Err(Errno::EINVAL.into()),
                1..4 if level != libc::IPPROTO_IP => return Err(Errno::EINVAL.into()),
                1..4 => i32::from(call.read::<u8>(at)?),
                _ => call.read::<i32>(at)?,
            };
            socket.set_option(level, name, value)?;
        }
    }
    Ok(0)
}

fn timeval(timeout_ns: Option<u64>) -> Vec<u8> {
    let ns = timeout_ns.unwrap_or(0);
    let parts = [ns / SECOND_NS, ns % SECOND_NS / 1000];
    parts.iter().flat_map(|part| part.to_ne_bytes()).collect()
}

/// `struct tcp_info` of Linux 6.1: the state, and the queue of a socket that listens. A network that loses and delays nothing
/// has no more to tell.
fn connection_info(socket: &Socket) -> Vec<u8> {
    const BYTES: usize = 232;
    const ESTABLISHED: u8 = 1;
    const CLOSED: u8 = 7;
    const LISTENING: u8 = 10;
    /// `tcpi_unacked`, which counts the connections that wait, and `tcpi_sacked`, their bound.
    const QUEUE: usize = 24;
    let mut info = vec![0; BYTES];
    match socket.waiting_connections() {
        Some((waiting, limit)) => {
            info[0] = LISTENING;
            info[QUEUE..QUEUE + 4].copy_from_slice(&(waiting as u32).to_ne_bytes());
            info[QUEUE + 4..QUEUE + 8].copy_from_slice(&(limit as u32).to_ne_bytes());
        }
        None => info[0] = if socket.is_connected() { ESTABLISHED } else { CLOSED },
    }
    info
}

fn getsockopt(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let socket = file.socket()?;
    let (level, name) = (call.int(1), call.int(2));
    let room = usize::try_from(call.read::<i32>(call.args[4])?).map_err(|_| Errno::EINVAL)?;
    let number = |number: i32| number.to_ne_bytes().to_vec();
    let value = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) => number(socket.take_error().map_or(0, |errno| i32::from(errno.0))),
        (libc::SOL_SOCKET, libc::SO_TYPE) => number(socket.kind().number()),
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => number(socket.family().number()),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => number(match (socket.family(), socket.kind()) {
            (Family::Unix | Family::Netlink, _) => 0,
            (_, Kind::Datagram) => libc::IPPROTO_UDP,
            _ => libc::IPPROTO_TCP,
        }),
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => number(i32::from(socket.is_listening())),
        (libc::SOL_SOCKET, libc::SO_LINGER) => socket.linger().iter().flat_map(|part| part.to_ne_bytes()).collect(),
        (libc::SOL_SOCKET, libc::SO_PEERCRED) if socket.family() == Family::Unix => {
            let maker = socket.peer_maker();
            [maker.pid, maker.uid, maker.gid].iter().flat_map(|id| id.to_ne_bytes()).collect()
        }
        (libc::SOL_SOCKET, _) if RECEIVE_TIMEOUTS.contains(&name) => timeval(socket.receive_timeout_ns()),
        (libc::SOL_SOCKET, _) if SEND_TIMEOUTS.contains(&name) => timeval(socket.send_timeout_ns()),
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => b"cubic\0".to_vec(),
        (libc::IPPROTO_TCP, libc::TCP_INFO) if socket.family().is_inet() && socket.kind() == Kind::Stream => {
            connection_info(socket)
        }
        _ => number(socket.option(level, name)?),
    };
    let length = room.min(value.len());
    call.write_bytes(call.args[3], &value[..length])?;
    call.write(call.args[4], &(length as i32))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_are_checked_and_bounded() {
        let cases = [
            ([0, 0], Ok(None)),
            ([-1, 0], Ok(None)),
            ([1, 500_000], Ok(Some(1_500_000_000))),
            ([i64::MAX, 999_999], Ok(Some(u64::MAX))),
            ([0, 1_000_000], Err(Errno::EDOM)),
            ([0, -1], Err(Errno::EDOM)),
        ];
        for (value, expected) in cases {
            assert_eq!(timeout(value), expected, "{value:?}");
        }
    }
}
