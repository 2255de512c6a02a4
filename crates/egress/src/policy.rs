//! Which addresses environments may talk to. Everything here is pure.
//!
//! By default: public ones. What the table [`REFUSED`] lists is refused, and of IPv6 also whatever is not globally routed
//! (`2000::/3`). Addresses of IPv6 that stand for one of IPv4 (mapped, compatible, NAT64, 6to4, Teredo) are refused
//! altogether: a program that means the IPv4 address can name it. A server may allow ranges and ports in addition.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

/// Where a guest reaches the loopback addresses of the host: `linux` tells guests the same.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);

/// An environment, as the worker names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvironmentId(pub u64);

/// Ranges that are refused, and what they are (the special-purpose registries of IANA, RFC 6890). The first that fits is
/// the one that is named.
pub const REFUSED: &[(&str, &str)] = &[
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by carriers"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, metadata services"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "6to4 relays"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarks"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("::/96", "IPv4-compatible"),
    ("64:ff9b::/96", "NAT64"),
    ("64:ff9b:1::/48", "NAT64"),
    ("100::/64", "discarded"),
    ("2001::/32", "Teredo"),
    ("2001::/23", "protocol assignments"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("3fff::/20", "documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
];

/// All that is routed globally of IPv6.
const GLOBAL6: &str = "2000::/3";

/// Why an address is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    range: IpNet,
    name: &'static str,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.range, self.name)
    }
}

/// A range of addresses, and a port of them, that is allowed in addition: `10.1.0.0/16:5432`, `10.1.2.3:443`,
/// `[fd00::/8]:443`; without a port, every one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    range: IpNet,
    port: Option<u16>,
}

/// Why a text is no [`Allowance`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a range of addresses; write for example 10.1.0.0/16:5432, 10.1.2.3:443 or [fd00::/8]:443")]
pub struct AllowanceError {
    text: String,
}

impl FromStr for Allowance {
    type Err = AllowanceError;

    fn from_str(text: &str) -> Result<Self, AllowanceError> {
        let error = || AllowanceError { text: text.to_owned() };
        let (range, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (range, rest) = rest.split_once(']').ok_or_else(error)?;
                (range, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(error)?) })
            }
            // More than one colon: IPv6 without a port.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(range, port)| (range, Some(port))),
        };
        let range = range.parse().or_else(|_| range.parse::<IpAddr>().map(IpNet::from)).map_err(|_| error())?;
        let port = port.map(str::parse).transpose().map_err(|_| error())?;
        Ok(Self { range, port })
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.range, self.port) {
            (range, None) => write!(formatter, "{range}"),
            (IpNet::V4(range), Some(port)) => write!(formatter, "{range}:{port}"),
            (IpNet::V6(range), Some(port)) => write!(formatter, "[{range}]:{port}"),
        }
    }
}

/// The policy of a node.
#[derive(Debug, Clone)]
pub struct Policy {
    allowed: Vec<Allowance>,
    refused: Vec<Rule>,
    global6: IpNet,
}

impl Policy {
    /// Public addresses, and what is allowed in addition.
    pub fn new(allowed: Vec<Allowance>) -> Self {
        let range = |text: &str| text.parse::<IpNet>().expect("the table holds ranges");
        let refused = REFUSED.iter().map(|(text, name)| Rule { range: range(text), name }).collect();
        Self { allowed, refused, global6: range(GLOBAL6) }
    }

    /// Where a question for `target` leads: the addresses of the host have one of their own inside a guest.
    pub fn destination(&self, target: SocketAddr) -> SocketAddr {
        if target.ip() == HOST_ADDRESS {
            return SocketAddr::new(Ipv4Addr::LOCALHOST.into(), target.port());
        }
        target
    }

    /// Whether an environment may talk to an address. The one hook through which every connection goes: environments are
    /// all alike yet.
    pub fn check(&self, _environment: EnvironmentId, destination: SocketAddr) -> Result<(), Rule> {
        let (address, port) = (destination.ip(), destination.port());
        let is_allowed = |allowance: &Allowance| {
            allowance.range.contains(&address) && allowance.port.is_none_or(|allowed| allowed == port)
        };
        if self.allowed.iter().any(is_allowed) {
            return Ok(());
        }
        if let Some(rule) = self.refused.iter().find(|rule| rule.range.contains(&address)) {
            return Err(rule.clone());
        }
        if address.is_ipv6() && !self.global6.contains(&address) {
            return Err(Rule { range: IpNet::from(address), name: "not routed globally" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &Policy, address: &str) -> String {
        let destination = policy.destination(address.parse().unwrap());
        policy.check(EnvironmentId(1), destination).err().map_or_else(String::new, |rule| rule.to_string())
    }

    #[test]
    fn public_addresses_are_allowed() {
        let policy = Policy::new(Vec::new());
        for address in
            ["8.8.8.8:53", "1.1.1.1:443", "172.15.255.255:80", "172.32.0.0:80", "100.128.0.1:80", "11.0.0.0:1"]
        {
            assert_eq!(check(&policy, address), "", "{address}");
        }
        for address in ["[2606:4700:4700::1111]:443", "[2a00:1450:4001:82a::200e]:80", "[2001:4860:4860::8888]:53"] {
            assert_eq!(check(&policy, address), "", "{address}");
        }
    }

    #[test]
    fn every_class_of_other_addresses_is_refused_and_named() {
        let policy = Policy::new(Vec::new());
        for (address, rule) in [
            ("0.0.0.0:80", "0.0.0.0/8 (unspecified)"),
            ("10.255.255.255:80", "10.0.0.0/8 (private)"),
            ("100.64.0.1:80", "100.64.0.0/10 (shared by carriers)"),
            ("127.0.0.1:80", "127.0.0.0/8 (loopback)"),
            ("127.255.255.254:80", "127.0.0.0/8 (loopback)"),
            ("169.254.169.254:80", "169.254.0.0/16 (link-local, metadata services)"),
            ("172.16.0.1:80", "172.16.0.0/12 (private)"),
            ("172.31.255.255:80", "172.16.0.0/12 (private)"),
            ("192.0.0.1:80", "127.0.0.0/8 (loopback)"),
            ("192.0.0.8:80", "192.0.0.0/24 (protocol assignments)"),
            ("192.0.2.2:80", "192.0.2.0/24 (documentation)"),
            ("192.168.1.1:80", "192.168.0.0/16 (private)"),
            ("198.18.0.1:80", "198.18.0.0/15 (benchmarks)"),
            ("198.51.100.1:80", "198.51.100.0/24 (documentation)"),
            ("203.0.113.1:80", "203.0.113.0/24 (documentation)"),
            ("224.0.0.1:80", "224.0.0.0/4 (multicast)"),
            ("239.255.255.250:1900", "224.0.0.0/4 (multicast)"),
            ("255.255.255.255:80", "255.255.255.255/32 (broadcast)"),
            ("250.0.0.1:80", "240.0.0.0/4 (reserved)"),
            ("[::]:80", "::/128 (unspecified)"),
            ("[::1]:80", "::1/128 (loopback)"),
            ("[::ffff:8.8.8.8]:80", "::ffff:0.0.0.0/96 (IPv4-mapped)"),
            ("[::ffff:127.0.0.1]:80", "::ffff:0.0.0.0/96 (IPv4-mapped)"),
            ("[::10.0.0.1]:80", "::/96 (IPv4-compatible)"),
            ("[64:ff9b::a9fe:a9fe]:80", "64:ff9b::/96 (NAT64)"),
            ("[64:ff9b:1::a00:1]:80", "64:ff9b:1::/48 (NAT64)"),
            ("[2001:0:1:2::]:80", "2001::/32 (Teredo)"),
            ("[2001:db8::1]:80", "2001:db8::/32 (documentation)"),
            ("[2002:a00:1::]:80", "2002::/16 (6to4)"),
            ("[3fff:0:1::]:80", "3fff::/20 (documentation)"),
            ("[fd00::2]:80", "fc00::/7 (private)"),
            ("[fe80::1]:80", "fe80::/10 (link-local)"),
            ("[fec0::1]:80", "fec0::/10 (site-local)"),
            ("[ff02::1]:80", "ff00::/8 (multicast)"),
            ("[100::1]:80", "100::/64 (discarded)"),
            ("[4000::1]:80", "4000::1/128 (not routed globally)"),
            ("[5f00::1]:80", "5f00::1/128 (not routed globally)"),
        ] {
            assert_eq!(check(&policy, address), rule, "{address}");
        }
    }

    #[test]
    fn what_is_allowed_in_addition_is_a_range_and_a_port() {
        let allowed = ["127.0.0.1/32:8080", "10.1.0.0/16", "[fd00::/8]:443", "192.168.0.7:22"];
        let policy = Policy::new(allowed.iter().map(|text| text.parse().unwrap()).collect());
        for (address, is_allowed) in [
            ("127.0.0.1:8080", true),
            ("192.0.0.1:8080", true),
            ("127.0.0.1:8081", false),
            ("127.0.0.2:8080", false),
            ("10.1.255.1:1", true),
            ("10.2.0.1:1", false),
            ("[fd00::1]:443", true),
            ("[fd00::1]:80", false),
            ("[fc00::1]:443", false),
            ("192.168.0.7:22", true),
            ("192.168.0.8:22", false),
        ] {
            assert_eq!(check(&policy, address).is_empty(), is_allowed, "{address}");
        }
    }

    #[test]
    fn allowances_are_read_as_they_are_written() {
        for (text, shown) in [
            ("10.0.0.0/8:80", "10.0.0.0/8:80"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.1:1", "10.0.0.1/32:1"),
            ("fd00::/8", "fd00::/8"),
            ("[fd00::1]:1", "[fd00::1/128]:1"),
            ("[fd00::/8]", "fd00::/8"),
        ] {
            assert_eq!(text.parse::<Allowance>().unwrap().to_string(), shown, "{text}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0.0/8:", "10.0.0.0/8:65536", "localhost:80", "[fd00::1", "[fd00::1]80"] {
            assert!(text.parse::<Allowance>().is_err(), "{text}");
        }
    }
}
