//! The `ioctl(2)` requests about network interfaces that sockets take: `netdevice(7)`. There is the loopback one.

use std::net::Ipv4Addr;

use crate::call::Call;
use crate::errno::Errno;
use crate::net::address::{Address, Family};
use crate::net::netlink::{INTERFACE, INTERFACE_FLAGS, INTERFACE_NAME, MTU_BYTES};

/// Bytes of `struct ifreq`, and of the name at its beginning.
const REQUEST_BYTES: usize = 40;
const NAME_BYTES: usize = 16;
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 0, 0, 0);
/// `ARPHRD_LOOPBACK`.
const HARDWARE_LOOPBACK: u16 = 772;

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;

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
    ];
    if !known.contains(&request) {
        return Err(Errno::ENOTTY);
    }
    let mut bytes = call.read::<[u8; REQUEST_BYTES]>(argument)?;
    let (name, value) = bytes.split_at_mut(NAME_BYTES);
    if request == SIOCGIFNAME {
        if value[..4] != INTERFACE.to_ne_bytes() {
            return Err(Errno::ENODEV);
        }
        name.fill(0);
        name[..INTERFACE_NAME.len()].copy_from_slice(INTERFACE_NAME);
        return call.write(argument, &bytes);
    }
    if !name.starts_with(INTERFACE_NAME) {
        return Err(Errno::ENODEV);
    }
    let answer = match request {
        SIOCGIFFLAGS => (INTERFACE_FLAGS as u16).to_ne_bytes().to_vec(),
        SIOCGIFADDR => inet(Ipv4Addr::LOCALHOST),
        SIOCGIFBRDADDR => inet(Ipv4Addr::UNSPECIFIED),
        SIOCGIFNETMASK => inet(NETMASK),
        SIOCGIFMTU => MTU_BYTES.to_ne_bytes().to_vec(),
        SIOCGIFINDEX => INTERFACE.to_ne_bytes().to_vec(),
        _ => {
            let mut hardware = HARDWARE_LOOPBACK.to_ne_bytes().to_vec();
            hardware.resize(16, 0);
            hardware
        }
    };
    value[..answer.len()].copy_from_slice(&answer);
    call.write(argument, &bytes)
}

fn inet(address: Ipv4Addr) -> Vec<u8> {
    Address::Inet(address.into(), 0).encode(Family::Inet)
}

/// `SIOCGIFCONF`: the interfaces that have an address, as many as there is room for.
fn list(call: &mut Call<'_>, argument: u64) -> Result<(), Errno> {
    let [room, address] = call.read::<[u64; 2]>(argument)?;
    let mut entry = INTERFACE_NAME.to_vec();
    entry.resize(NAME_BYTES, 0);
    entry.extend_from_slice(&inet(Ipv4Addr::LOCALHOST));
    entry.resize(REQUEST_BYTES, 0);
    let mut length = REQUEST_BYTES;
    // Without an address the caller only asks how much room it needs.
    if address != 0 {
        let room = usize::try_from(room as u32 as i32).map_err(|_| Errno::EINVAL)?;
        length = if room < REQUEST_BYTES { 0 } else { REQUEST_BYTES };
        call.write_bytes(address, &entry[..length])?;
    }
    call.write(argument, &(length as i32))
}
