//! The network interfaces that a guest sees: `lo`, and with a way out `eth0`, as in a container. Nothing goes through them;
//! programs ask for them to find out whether there is a network and which address they have (`AI_ADDRCONFIG` of
//! `getaddrinfo(3)` leaves out the kinds of addresses that no interface but the loopback one has).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::kernel::Kernel;
use crate::net::egress::{GUEST_ADDRESS, GUEST_PREFIX_BITS, HOST_ADDRESS};

/// What there is to know about an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// From one.
    pub index: u32,
    /// Without the final zero.
    pub name: &'static str,
    /// `IFF_…`.
    pub flags: u32,
    /// The most that it carries in one piece.
    pub mtu_bytes: u32,
    /// `ARPHRD_…`.
    pub hardware_kind: u16,
    /// What identifies it on its link.
    pub hardware_address: [u8; 6],
    /// Reaches all on its link.
    pub hardware_broadcast: [u8; 6],
    /// Its address.
    pub address4: Ipv4Addr,
    /// Leading bits of [`Self::address4`] that all on its link have in common.
    pub prefix4_bits: u8,
    /// Its second address.
    pub address6: Option<Ipv6Addr>,
    /// `RT_SCOPE_…` of its addresses.
    pub scope: u8,
}

const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_HOST: u8 = 254;
/// Up, running, and the link is up below.
const FLAGS_UP: u32 = 0x1 | 0x40 | 0x10000;
const IFF_BROADCAST: u32 = 0x2;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_MULTICAST: u32 = 0x1000;
/// First byte of hardware addresses that nobody assigns.
const LOCALLY_ADMINISTERED: u8 = 2;

/// Length of a line of `/proc/net/route`, without its end.
const ROUTE_LINE_BYTES: usize = 127;

impl Interface {
    /// The bits of the netmask.
    pub fn netmask4(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix4_bits)).unwrap_or(0))
    }

    /// The address that reaches all on its link; none on a loopback interface.
    pub fn broadcast4(&self) -> Option<Ipv4Addr> {
        let is_loopback = self.flags & IFF_LOOPBACK != 0;
        (!is_loopback).then(|| Ipv4Addr::from_bits(self.address4.to_bits() | !self.netmask4().to_bits()))
    }
}

/// The interfaces of a guest, by index.
pub fn all(kernel: &Kernel) -> Vec<Interface> {
    let mut interfaces = vec![loopback()];
    if kernel.network.has_egress() {
        interfaces.push(ethernet(kernel.files.boot_id()));
    }
    interfaces
}

pub(super) fn loopback() -> Interface {
    Interface {
        index: 1,
        name: "lo",
        flags: FLAGS_UP | IFF_LOOPBACK,
        mtu_bytes: 65_536,
        hardware_kind: ARPHRD_LOOPBACK,
        hardware_address: [0; 6],
        hardware_broadcast: [0; 6],
        address4: Ipv4Addr::LOCALHOST,
        prefix4_bits: 8,
        address6: Some(Ipv6Addr::LOCALHOST),
        scope: RT_SCOPE_HOST,
    }
}

/// It has no address of IPv6: a program would then try such addresses of others first, on hosts that have no IPv6 too.
fn ethernet(boot_id: &str) -> Interface {
    Interface {
        index: 2,
        name: "eth0",
        flags: FLAGS_UP | IFF_BROADCAST | IFF_MULTICAST,
        mtu_bytes: 1500,
        hardware_kind: ARPHRD_ETHER,
        hardware_address: hardware_address(boot_id),
        hardware_broadcast: [0xff; 6],
        address4: GUEST_ADDRESS,
        prefix4_bits: GUEST_PREFIX_BITS,
        address6: None,
        scope: RT_SCOPE_UNIVERSE,
    }
}

/// Each guest has one of its own, because UUIDs of version 1 are made of it.
fn hardware_address(boot_id: &str) -> [u8; 6] {
    let mut digits = boot_id.chars().filter_map(|digit| digit.to_digit(16));
    let mut address = [LOCALLY_ADMINISTERED; 6];
    for byte in &mut address[1..] {
        *byte = digits.by_ref().take(2).fold(0, |byte, digit| byte << 4 | digit as u8);
    }
    address
}

/// `/proc/net/dev`. Traffic is not counted.
pub fn traffic_table(kernel: &Kernel) -> String {
    let mut text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
"
    .to_owned();
    for interface in all(kernel) {
        text.push_str(&format!(
            "{:>6}:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n",
            interface.name
        ));
    }
    text
}

/// `/proc/net/route`: everything over the host, and the link. Addresses are numbers in the order of bytes of this machine.
pub fn route_table(kernel: &Kernel) -> String {
    let number = |address: Ipv4Addr| u32::from_le_bytes(address.octets());
    let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT".to_owned();
    let mut lines = vec![head];
    // The routes of loopback are in a table that this file does not show.
    for interface in all(kernel).iter().filter(|interface| interface.broadcast4().is_some()) {
        let (name, mask, gateway) = (interface.name, number(interface.netmask4()), number(HOST_ADDRESS));
        let link = number(interface.address4) & mask;
        lines.push(format!("{name}\t00000000\t{gateway:08X}\t0003\t0\t0\t0\t00000000\t0\t0\t0"));
        lines.push(format!("{name}\t{link:08X}\t00000000\t0001\t0\t0\t0\t{mask:08X}\t0\t0\t0"));
    }
    lines.iter().map(|line| format!("{line:<ROUTE_LINE_BYTES$}\n")).collect()
}

/// `/proc/net/if_inet6`.
pub fn address6_table(kernel: &Kernel) -> String {
    let line = |interface: &Interface| {
        let address = interface.address6?.to_bits();
        // One address alone, of the host, permanent.
        Some(format!("{address:032x} {:02x} 80 10 80 {:>8}\n", interface.index, interface.name))
    };
    all(kernel).iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_an_address() {
        let (lo, eth0) = (loopback(), ethernet("0123456789-abcdef"));
        assert_eq!((lo.netmask4(), lo.broadcast4()), (Ipv4Addr::new(255, 0, 0, 0), None));
        assert_eq!(eth0.netmask4(), Ipv4Addr::new(255, 255, 255, 248));
        assert_eq!(eth0.broadcast4(), Some(Ipv4Addr::new(192, 0, 0, 7)));
        assert_eq!(eth0.hardware_address, [2, 0x01, 0x23, 0x45, 0x67, 0x89]);
    }
}
