//! Questions about network interfaces: `rtnetlink(7)`, as far as `getifaddrs(3)` and language runtimes ask them.

use crate::errno::Errno;
use crate::net::interface::Interface;

/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_MULTI: u16 = 2;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_F_PERMANENT: u8 = 0x80;
/// `IF_OPER_UNKNOWN` and `IF_OPER_UP`.
const OPERATION_UNKNOWN: u8 = 0;
const OPERATION_UP: u8 = 6;

/// The header of a request.
#[derive(Debug, Clone, Copy)]
struct Request<'b> {
    kind: u16,
    flags: u16,
    sequence: u32,
    header: &'b [u8],
    /// Which addresses are asked for; `AF_UNSPEC` for all.
    family: i32,
}

impl<'b> Request<'b> {
    fn read(bytes: &'b [u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES)?;
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let family = bytes.get(HEADER_BYTES).copied().unwrap_or(0);
        Some(Self { kind: half(4), flags: half(6), sequence, header, family: family.into() })
    }
}

/// What the kernel answers to what a socket with the address `port` sends: messages, each to be received on its own.
pub fn answer(bytes: &[u8], port: u32, interfaces: &[Interface]) -> Result<Vec<Vec<u8>>, Errno> {
    let request = Request::read(bytes).ok_or(Errno::EINVAL)?;
    let is_wanted = |family: i32| request.family == libc::AF_UNSPEC || request.family == family;
    let parts: Vec<Vec<u8>> = match request.kind {
        RTM_GETLINK | RTM_GETADDR if request.flags & NLM_F_DUMP == 0 => return Ok(vec![refusal(request, port)]),
        RTM_GETLINK => {
            interfaces.iter().map(|interface| message(RTM_NEWLINK, request, port, &link(interface))).collect()
        }
        RTM_GETADDR => {
            let inet = interfaces.iter().filter(|_| is_wanted(libc::AF_INET)).map(address4);
            let inet6 = interfaces.iter().filter(|_| is_wanted(libc::AF_INET6)).filter_map(address6);
            inet.chain(inet6).map(|body| message(RTM_NEWADDR, request, port, &body)).collect()
        }
        _ => return Ok(vec![refusal(request, port)]),
    };
    Ok(vec![parts.concat(), message(NLMSG_DONE, request, port, &[0; 4])])
}

fn refusal(request: Request<'_>, port: u32) -> Vec<u8> {
    let mut body = (-i32::from(Errno::EOPNOTSUPP.0)).to_ne_bytes().to_vec();
    body.extend_from_slice(request.header);
    let mut refusal = message(NLMSG_ERROR, request, port, &body);
    refusal[6..8].fill(0);
    refusal
}

fn message(kind: u16, request: Request<'_>, port: u32, body: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + body.len();
    let mut message = (length as u32).to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&NLM_F_MULTI.to_ne_bytes());
    message.extend_from_slice(&request.sequence.to_ne_bytes());
    message.extend_from_slice(&port.to_ne_bytes());
    message.extend_from_slice(body);
    message.resize(length.next_multiple_of(4), 0);
    message
}

/// Adds a `struct rtattr`.
fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Adds a `struct rtattr` with a name and its final zero.
fn push_name(body: &mut Vec<u8>, kind: u16, name: &str) {
    push_attribute(body, kind, &[name.as_bytes(), b"\0"].concat());
}

/// `struct ifinfomsg` and its attributes.
fn link(interface: &Interface) -> Vec<u8> {
    let mut body = vec![0; 2];
    body.extend_from_slice(&interface.hardware_kind.to_ne_bytes());
    body.extend_from_slice(&interface.index.to_ne_bytes());
    body.extend_from_slice(&interface.flags.to_ne_bytes());
    body.extend_from_slice(&[0; 4]);
    push_name(&mut body, libc::IFLA_IFNAME, interface.name);
    push_attribute(&mut body, libc::IFLA_MTU, &interface.mtu_bytes.to_ne_bytes());
    let operation = if interface.broadcast4().is_some() { OPERATION_UP } else { OPERATION_UNKNOWN };
    push_attribute(&mut body, libc::IFLA_OPERSTATE, &[operation]);
    push_attribute(&mut body, libc::IFLA_ADDRESS, &interface.hardware_address);
    push_attribute(&mut body, libc::IFLA_BROADCAST, &interface.hardware_broadcast);
    body
}

/// `struct ifaddrmsg`.
fn address_header(interface: &Interface, family: i32, prefix_bits: u8) -> Vec<u8> {
    let mut body = vec![family as u8, prefix_bits, IFA_F_PERMANENT, interface.scope];
    body.extend_from_slice(&interface.index.to_ne_bytes());
    body
}

fn address4(interface: &Interface) -> Vec<u8> {
    let mut body = address_header(interface, libc::AF_INET, interface.prefix4_bits);
    push_attribute(&mut body, libc::IFA_ADDRESS, &interface.address4.octets());
    push_attribute(&mut body, libc::IFA_LOCAL, &interface.address4.octets());
    if let Some(broadcast) = interface.broadcast4() {
        push_attribute(&mut body, libc::IFA_BROADCAST, &broadcast.octets());
    }
    push_name(&mut body, libc::IFA_LABEL, interface.name);
    body
}

fn address6(interface: &Interface) -> Option<Vec<u8>> {
    let mut body = address_header(interface, libc::AF_INET6, 128);
    push_attribute(&mut body, libc::IFA_ADDRESS, &interface.address6?.octets());
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::interface;

    fn request(kind: u16, flags: u16, family: u8) -> Vec<u8> {
        let mut bytes = 17_u32.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&7_u32.to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.push(family);
        bytes
    }

    fn kinds(answers: &[Vec<u8>]) -> Vec<u16> {
        let mut kinds = Vec::new();
        for mut bytes in answers.iter().map(Vec::as_slice) {
            while !bytes.is_empty() {
                let length = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
                assert_eq!(bytes[8..16], [7_u32.to_ne_bytes(), 42_u32.to_ne_bytes()].concat());
                kinds.push(u16::from_ne_bytes(bytes[4..6].try_into().unwrap()));
                bytes = &bytes[length.next_multiple_of(4)..];
            }
        }
        kinds
    }

    #[test]
    fn questions_are_answered_or_refused() {
        let (inet, all) = (libc::AF_INET as u8, 0);
        let interfaces = [interface::loopback()];
        for (kind, flags, family, expected) in [
            (RTM_GETLINK, NLM_F_DUMP, all, &[RTM_NEWLINK, NLMSG_DONE][..]),
            (RTM_GETADDR, NLM_F_DUMP, all, &[RTM_NEWADDR, RTM_NEWADDR, NLMSG_DONE]),
            (RTM_GETADDR, NLM_F_DUMP, inet, &[RTM_NEWADDR, NLMSG_DONE]),
            (RTM_GETLINK, 0, all, &[NLMSG_ERROR]),
            (26, NLM_F_DUMP, all, &[NLMSG_ERROR]),
        ] {
            assert_eq!(kinds(&answer(&request(kind, flags, family), 42, &interfaces).unwrap()), expected, "{kind}");
        }
        assert_eq!(answer(&[0; 15], 1, &interfaces), Err(Errno::EINVAL));
    }
}
