//! Socket options: a table of those that exist, with what they are at first. Most are only remembered: on a loopback
//! network they have nothing to change.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::errno::Errno;
use crate::net::address::Family;
use crate::net::queue::STREAM_BYTES_MAX;

/// What `setsockopt(2)` takes, for the documentation.
pub const SET: &str = "SO_REUSEADDR, SO_REUSEPORT, SO_LINGER, SO_RCVTIMEO, SO_SNDTIMEO, SO_OOBINLINE, SO_PASSCRED, IPV6_V6ONLY; \
    remembered, without an effect within the guest: SO_KEEPALIVE, SO_BROADCAST, SO_DONTROUTE, SO_PRIORITY, SO_TIMESTAMP, \
    SO_INCOMING_CPU, SO_BUSY_POLL, SO_MARK, SO_RCVLOWAT, SO_SNDLOWAT, TCP_NODELAY, TCP_CORK, TCP_QUICKACK, \
    TCP_DEFER_ACCEPT, TCP_LINGER2, TCP_SYNCNT, TCP_USER_TIMEOUT, TCP_FASTOPEN, TCP_NOTSENT_LOWAT, TCP_WINDOW_CLAMP, \
    TCP_MAXSEG, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_CONGESTION (cubic, reno), IP_TTL, IP_TOS, IP_RECVERR, \
    IP_MTU_DISCOVER, IP_BIND_ADDRESS_NO_PORT, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IPV6_UNICAST_HOPS, IPV6_TCLASS, \
    IPV6_RECVERR, IPV6_MTU_DISCOVER, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP; SO_RCVBUF and SO_SNDBUF stay what they are; \
    membership of multicast groups and others are ENOPROTOOPT";
/// What `getsockopt(2)` takes.
pub const TOLD: &str = "what `setsockopt` takes, SO_ERROR, SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ACCEPTCONN, SO_PEERCRED of Unix \
    sockets, TCP_INFO (state, and the queue of a listening socket; the rest is zero); others are ENOPROTOOPT";

/// Options that are plain numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Options(BTreeMap<(i32, i32), i32>);

/// `SO_RCVTIMEO_NEW` and `SO_SNDTIMEO_NEW` have the same layout as the old ones on x86-64.
pub const RECEIVE_TIMEOUTS: [i32; 2] = [libc::SO_RCVTIMEO, 66];
/// See [`RECEIVE_TIMEOUTS`].
pub const SEND_TIMEOUTS: [i32; 2] = [libc::SO_SNDTIMEO, 67];

/// Options that are on or off: whatever is not zero sets them to one.
fn is_switch(level: i32, name: i32) -> bool {
    match level {
        libc::SOL_SOCKET => matches!(
            name,
            libc::SO_REUSEADDR
                | libc::SO_REUSEPORT
                | libc::SO_KEEPALIVE
                | libc::SO_BROADCAST
                | libc::SO_OOBINLINE
                | libc::SO_DONTROUTE
                | libc::SO_PASSCRED
                | libc::SO_TIMESTAMP
        ),
        libc::IPPROTO_TCP => matches!(name, libc::TCP_NODELAY | libc::TCP_CORK),
        libc::IPPROTO_IP => matches!(name, libc::IP_RECVERR | libc::IP_MULTICAST_LOOP | libc::IP_BIND_ADDRESS_NO_PORT),
        libc::IPPROTO_IPV6 => matches!(name, libc::IPV6_V6ONLY | libc::IPV6_RECVERR | libc::IPV6_MULTICAST_LOOP),
        _ => false,
    }
}

/// The values that an option may be set to; `None` for any.
fn range(level: i32, name: i32) -> Option<std::ops::RangeInclusive<i32>> {
    match (level, name) {
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL) => Some(1..=32_767),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT | libc::TCP_SYNCNT) => Some(1..=127),
        (libc::IPPROTO_IP, libc::IP_TTL) => Some(1..=255),
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => Some(0..=255),
        _ => None,
    }
}

/// The value that an option has before it is set; `None` if there is no such option.
fn initial(family: Family, is_stream: bool, level: i32, name: i32) -> Option<i32> {
    let buffer = STREAM_BYTES_MAX as i32;
    let is_inet = family.is_inet();
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_SNDBUF | libc::SO_RCVBUF) => Some(buffer),
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT | libc::SO_SNDLOWAT) => Some(1),
        (
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR
            | libc::SO_REUSEPORT
            | libc::SO_KEEPALIVE
            | libc::SO_BROADCAST
            | libc::SO_OOBINLINE
            | libc::SO_DONTROUTE
            | libc::SO_PRIORITY
            | libc::SO_PASSCRED
            | libc::SO_TIMESTAMP
            | libc::SO_INCOMING_CPU
            | libc::SO_BUSY_POLL
            | libc::SO_MARK,
        ) => Some(0),
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG) if is_stream && is_inet => Some(65_483),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) if is_stream && is_inet => Some(7200),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) if is_stream && is_inet => Some(75),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) if is_stream && is_inet => Some(9),
        (
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY
            | libc::TCP_CORK
            | libc::TCP_QUICKACK
            | libc::TCP_DEFER_ACCEPT
            | libc::TCP_LINGER2
            | libc::TCP_SYNCNT
            | libc::TCP_USER_TIMEOUT
            | libc::TCP_FASTOPEN
            | libc::TCP_NOTSENT_LOWAT
            | libc::TCP_WINDOW_CLAMP,
        ) if is_stream && is_inet => Some(0),
        (libc::IPPROTO_IP, libc::IP_TTL) if is_inet => Some(64),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL | libc::IP_MULTICAST_LOOP) if is_inet => Some(1),
        (libc::IPPROTO_IP, libc::IP_TOS | libc::IP_RECVERR | libc::IP_MTU_DISCOVER | libc::IP_BIND_ADDRESS_NO_PORT)
            if is_inet =>
        {
            Some(0)
        }
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) if family == Family::Inet6 => Some(64),
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_V6ONLY
            | libc::IPV6_RECVERR
            | libc::IPV6_TCLASS
            | libc::IPV6_MTU_DISCOVER
            | libc::IPV6_MULTICAST_HOPS
            | libc::IPV6_MULTICAST_LOOP,
        ) if family == Family::Inet6 => Some(0),
        _ => None,
    }
}

/// Sockets without a protocol have options of their own level only.
fn check_level(family: Family, level: i32) -> Result<(), Errno> {
    if family == Family::Unix && level != libc::SOL_SOCKET { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

impl Options {
    /// An option's value. `ENOPROTOOPT` if there is none of that number.
    pub fn get(&self, family: Family, is_stream: bool, level: i32, name: i32) -> Result<i32, Errno> {
        check_level(family, level)?;
        if level == libc::IPPROTO_TCP && !is_stream {
            return Err(Errno::EOPNOTSUPP); // Linux asks the network layer, and only setting gives `ENOPROTOOPT`.
        }
        let initial = initial(family, is_stream, level, name).ok_or(Errno::ENOPROTOOPT)?;
        Ok(self.0.get(&(level, name)).copied().unwrap_or(initial))
    }

    /// Sets an option. Buffer sizes stay what they are, as if a limit of the system had been met.
    pub fn set(&mut self, family: Family, is_stream: bool, level: i32, name: i32, value: i32) -> Result<(), Errno> {
        check_level(family, level)?;
        let initial = initial(family, is_stream, level, name).ok_or(Errno::ENOPROTOOPT)?;
        let value = match range(level, name) {
            // Takes the option back.
            Some(_) if value == -1 && level != libc::IPPROTO_TCP => initial,
            Some(range) if !range.contains(&value) => return Err(Errno::EINVAL),
            _ if is_switch(level, name) => i32::from(value != 0),
            _ => value,
        };
        if level != libc::SOL_SOCKET || !matches!(name, libc::SO_SNDBUF | libc::SO_RCVBUF) {
            self.0.insert((level, name), value);
        }
        Ok(())
    }

    /// All that have been set: level, name and value.
    pub fn all(&self) -> impl Iterator<Item = (i32, i32, i32)> + '_ {
        self.0.iter().map(|((level, name), value)| (*level, *name, *value))
    }

    /// Whether an option is set that is a switch.
    pub fn is_on(&self, level: i32, name: i32) -> bool {
        self.0.get(&(level, name)).is_some_and(|value| *value != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of what [`SET`] names, beyond what has a layout of its own.
    #[test]
    fn the_documentation_names_every_option_that_is_a_number() {
        let named = SET.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named =
            named.filter(|word| ["SO_", "TCP_", "IP_", "IPV6_"].iter().any(|start| word.starts_with(start))).count();
        // A linger, two time-outs and a name.
        let others = 4;
        let levels = [libc::SOL_SOCKET, libc::IPPROTO_TCP, libc::IPPROTO_IP, libc::IPPROTO_IPV6];
        let exists = |level: i32, name: i32| initial(Family::Inet6, true, level, name).is_some();
        let known: usize = levels.iter().map(|level| (0..256).filter(|name| exists(*level, *name)).count()).sum();
        assert_eq!(named, known + others);
    }
}
