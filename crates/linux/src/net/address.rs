//! Socket addresses as programs pass them: `struct sockaddr` of each family.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::errno::Errno;

/// Longest address that is looked at (`struct sockaddr_storage`).
pub const ADDRESS_BYTES_MAX: usize = 128;
/// Longest path of a Unix socket, with its final zero.
const UNIX_PATH_BYTES_MAX: usize = 108;
const INET_BYTES: usize = 16;
const NETLINK_BYTES: usize = 12;
const INET6_BYTES: usize = 28;
/// The shortest IPv6 address that Linux accepts: without the scope.
const INET6_BYTES_MIN: usize = 24;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// `AF_UNIX`.
    Unix,
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`.
    Inet6,
    /// `AF_NETLINK`: talks to the kernel.
    Netlink,
}

impl Family {
    /// The family of a number; `EAFNOSUPPORT` for others.
    pub fn from_number(number: i32) -> Result<Self, Errno> {
        match number {
            libc::AF_UNIX => Ok(Family::Unix),
            libc::AF_INET => Ok(Family::Inet),
            libc::AF_INET6 => Ok(Family::Inet6),
            libc::AF_NETLINK => Ok(Family::Netlink),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// Its number.
    pub fn number(self) -> i32 {
        match self {
            Family::Unix => libc::AF_UNIX,
            Family::Inet => libc::AF_INET,
            Family::Inet6 => libc::AF_INET6,
            Family::Netlink => libc::AF_NETLINK,
        }
    }

    /// The address of a socket that has none yet.
    pub fn unspecified(self) -> Address {
        match self {
            Family::Unix => Address::Unix(UnixName::Unnamed),
            Family::Inet => Address::Inet(Ipv4Addr::UNSPECIFIED.into(), 0),
            Family::Inet6 => Address::Inet(Ipv6Addr::UNSPECIFIED.into(), 0),
            Family::Netlink => Address::Netlink(0),
        }
    }

    /// Whether its sockets have addresses and ports of the Internet.
    pub fn is_inet(self) -> bool {
        matches!(self, Family::Inet | Family::Inet6)
    }
}

/// The name of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UnixName {
    /// None.
    Unnamed,
    /// A path, as it was given.
    Path(Vec<u8>),
    /// A name in the abstract space.
    Abstract(Vec<u8>),
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// Of `AF_UNIX`.
    Unix(UnixName),
    /// Of `AF_INET` and `AF_INET6`, and a port.
    Inet(IpAddr, u16),
    /// Of `AF_NETLINK`: the kernel is 0.
    Netlink(u32),
    /// `AF_UNSPEC`: ends the association of a datagram socket.
    None,
}

impl Address {
    /// Reads an address given to a socket of `family`.
    pub fn decode(family: Family, bytes: &[u8]) -> Result<Self, Errno> {
        let (number, rest) = bytes.split_first_chunk().ok_or(Errno::EINVAL)?;
        let number = i32::from(u16::from_ne_bytes(*number));
        if number == libc::AF_UNSPEC {
            return Ok(Address::None);
        }
        if number != family.number() {
            return Err(Errno::EAFNOSUPPORT);
        }
        match family {
            Family::Unix => Self::decode_unix(rest),
            Family::Netlink if bytes.len() < NETLINK_BYTES => Err(Errno::EINVAL),
            Family::Netlink => Ok(Address::Netlink(u32::from_ne_bytes([rest[2], rest[3], rest[4], rest[5]]))),
            Family::Inet if bytes.len() < INET_BYTES => Err(Errno::EINVAL),
            Family::Inet => {
                let address: [u8; 4] = rest[2..6].try_into().map_err(|_| Errno::EINVAL)?;
                Ok(Address::Inet(Ipv4Addr::from(address).into(), u16::from_be_bytes([rest[0], rest[1]])))
            }
            Family::Inet6 if bytes.len() < INET6_BYTES_MIN => Err(Errno::EINVAL),
            Family::Inet6 => {
                let address: [u8; 16] = rest[6..22].try_into().map_err(|_| Errno::EINVAL)?;
                Ok(Address::Inet(Ipv6Addr::from(address).into(), u16::from_be_bytes([rest[0], rest[1]])))
            }
        }
    }

    fn decode_unix(path: &[u8]) -> Result<Self, Errno> {
        if path.len() > UNIX_PATH_BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        Ok(Address::Unix(match path.split_first() {
            None => UnixName::Unnamed,
            Some((0, name)) => UnixName::Abstract(name.to_vec()),
            Some(_) => UnixName::Path(path.split(|byte| *byte == 0).next().unwrap_or(path).to_vec()),
        }))
    }

    /// The address as a socket of `family` gives it.
    pub fn encode(&self, family: Family) -> Vec<u8> {
        let mut bytes = (family.number() as u16).to_ne_bytes().to_vec();
        match self {
            Address::Unix(UnixName::Unnamed) | Address::None => {}
            Address::Netlink(port) => {
                bytes.extend_from_slice(&[0; 2]);
                bytes.extend_from_slice(&port.to_ne_bytes());
                bytes.resize(NETLINK_BYTES, 0);
            }
            Address::Unix(UnixName::Abstract(name)) => {
                bytes.push(0);
                bytes.extend_from_slice(name);
            }
            Address::Unix(UnixName::Path(path)) => {
                bytes.extend_from_slice(path);
                bytes.push(0);
            }
            Address::Inet(address, port) => {
                bytes.extend_from_slice(&port.to_be_bytes());
                match (family, address) {
                    (Family::Inet6, address) => {
                        let address = match address {
                            IpAddr::V4(address) if address.is_unspecified() => Ipv6Addr::UNSPECIFIED,
                            IpAddr::V4(address) => address.to_ipv6_mapped(),
                            IpAddr::V6(address) => *address,
                        };
                        bytes.extend_from_slice(&[0; 4]);
                        bytes.extend_from_slice(&address.octets());
                        bytes.resize(INET6_BYTES, 0);
                    }
                    (_, IpAddr::V4(address)) => {
                        bytes.extend_from_slice(&address.octets());
                        bytes.resize(INET_BYTES, 0);
                    }
                    (_, IpAddr::V6(_)) => bytes.resize(INET_BYTES, 0),
                }
            }
        }
        bytes
    }
}

/// The address without the wrapping of IPv4 in IPv6.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether the guest has this address: everything but the loopback network is elsewhere.
pub fn is_local(address: IpAddr) -> bool {
    let address = canonical(address);
    address.is_loopback() || address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_both_ways() {
        let addresses = [
            (Family::Unix, Address::Unix(UnixName::Path(b"/tmp/socket".to_vec()))),
            (Family::Unix, Address::Unix(UnixName::Abstract(b"a\0b".to_vec()))),
            (Family::Unix, Address::Unix(UnixName::Unnamed)),
            (Family::Inet, Address::Inet(Ipv4Addr::LOCALHOST.into(), 9001)),
            (Family::Inet6, Address::Inet(Ipv6Addr::LOCALHOST.into(), 80)),
            (Family::Netlink, Address::Netlink(42)),
        ];
        for (family, address) in addresses {
            assert_eq!(Address::decode(family, &address.encode(family)), Ok(address));
        }
    }

    #[test]
    fn short_and_foreign_addresses_are_refused() {
        for (family, bytes, expected) in [
            (Family::Inet, &[2_u8, 0, 0, 80, 127, 0][..], Errno::EINVAL),
            (Family::Inet, &[1, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], Errno::EAFNOSUPPORT),
            (Family::Inet6, &[10, 0, 0, 80], Errno::EINVAL),
            (Family::Unix, &[1], Errno::EINVAL),
            (Family::Unix, &[1; 200], Errno::EAFNOSUPPORT),
        ] {
            assert_eq!(Address::decode(family, bytes), Err(expected), "{bytes:?}");
        }
    }
}
