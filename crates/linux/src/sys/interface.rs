//! The `ioctl(2)` requests about network interfaces that sockets take: `netdevice(7)`.

use std::net::Ipv4Addr;

use crate::call::Call;
use crate::errno::Errno;
use crate::net::address::{Address, Family};
use crate::net::interface::{self, Interface};

/// Bytes of `struct ifreq`, and of the name at its beginning.
const REQUEST_BYTES: usize = 40;
const NAME_BYTES: usize = 16;

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
/// What `SIOCGIFTXQLEN` says: the queue of devices that have one.
const QUEUE_PACKETS: u32 = 1000;

/// Serves a request. `ENOTTY` if it is none about interfaces.
pub(super) fn request(call: &mut Call<'_>, request: u32, argument: u64) -> Result<(), Errno> {
    if request == SIOCGIFCONF {
        return list(call, argument);
    }
    let known = [
        SIOCGIFNAME,
        SIOCGIFFLAGS,
        SIOCGIFADDR,
        SIOCGIFBRDADDR,
        SIOCGIFNETMASK,
        SIOCGIFMTU,
        SIOCGIFHWADDR,
        SIOCGIFINDEX,
        SIOCGIFTXQLEN,
    ];
    if !known.contains(&request) {
        return Err(Errno::ENOTTY);
    }
    let mut bytes = call.read::<[u8; REQUEST_BYTES]>(argument)?;
    let (name, value) = bytes.split_at_mut(NAME_BYTES);
    let interfaces = interface::all(call.kernel);
    let found = interfaces.iter().find(|interface| match request {
        SIOCGIFNAME => value[..4] == interface.index.to_ne_bytes(),
        _ => name.starts_with(&padded_name(interface)[..=interface.name.len()]),
    });
    let interface = found.ok_or(Errno::ENODEV)?;
    if request == SIOCGIFNAME {
        name.copy_from_slice(&padded_name(interface));
        return call.write(argument, &bytes);
    }
    let answer = match request {
        SIOCGIFFLAGS => (interface.flags as u16).to_ne_bytes().to_vec(),
        SIOCGIFADDR => inet(interface.address4),
        SIOCGIFBRDADDR => inet(interface.broadcast4().unwrap_or(Ipv4Addr::UNSPECIFIED)),
        SIOCGIFNETMASK => inet(interface.netmask4()),
        SIOCGIFMTU => interface.mtu_bytes.to_ne_bytes().to_vec(),
        SIOCGIFINDEX => interface.index.to_ne_bytes().to_vec(),
        SIOCGIFTXQLEN => QUEUE_PACKETS.to_ne_bytes().to_vec(),
        _ => {
            let mut hardware = interface.hardware_kind.to_ne_bytes().to_vec();
            hardware.extend_from_slice(&interface.hardware_address);
            hardware.resize(16, 0);
            hardware
        }
    };
    value[..answer.len()].copy_from_slice(&answer);
    call.write(argument, &bytes)
}

fn padded_name(interface: &Interface) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    name[..interface.name.len()].copy_from_slice(interface.name.as_bytes());
    name
}

fn inet(address: Ipv4Addr) -> Vec<u8> {
    Address::Inet(address.into(), 0).encode(Family::Inet)
}

/// `SIOCGIFCONF`: the interfaces that have an address, as many as there is room for.
fn list(call: &mut Call<'_>, argument: u64) -> Result<(), Errno> {
    let [room, address] = call.read::<[u64; 2]>(argument)?;
    let interfaces = interface::all(call.kernel);
    let mut count = interfaces.len();
    // Without an address the caller only asks how much room it needs.
    if address != 0 {
        let room = usize::try_from(room as u32 as i32).map_err(|_| Errno::EINVAL)?;
        count = count.min(room / REQUEST_BYTES);
        let mut entries = Vec::new();
        for interface in &interfaces[..count] {
            entries.extend_from_slice(&padded_name(interface));
            entries.extend_from_slice(&inet(interface.address4));
            entries.resize(entries.len().next_multiple_of(REQUEST_BYTES), 0);
        }
        call.write_bytes(address, &entries)?;
    }
    call.write(argument, &((count * REQUEST_BYTES) as i32))
}
