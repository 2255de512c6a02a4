//! Messages of sockets: `send(2)`, `recv(2)` and their relatives.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::errno::Errno;
use crate::file::OpenFile;
use crate::net::address::{ADDRESS_BYTES_MAX, Address, Family, UnixName, is_local};
use crate::net::queue::{FILES_MAX, Files, Message};
use crate::net::{Kind, Maker, Socket};
use crate::net::{interface, netlink};
use crate::outcome::{Stop, SysResult};
use crate::sys::entry;
use crate::sys::poll::timeout_spec;
use crate::sys::socket::{bind_any, find_unix, open_flow, read_address, write_address};
use crate::sys::vector::{BYTES_MAX, Vector};
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(44, "sendto", sendto).supports(
        "MSG_DONTWAIT, MSG_NOSIGNAL, MSG_OOB (TCP within the guest); MSG_MORE, MSG_EOR, MSG_DONTROUTE and \
         MSG_CONFIRM have no effect; MSG_FASTOPEN, MSG_ZEROCOPY and others are EINVAL; at most 2 MiB a call",
    ),
    entry(45, "recvfrom", recvfrom).supports(
        "MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, MSG_OOB (TCP within the guest), MSG_TRUNC (of streams without an \
         effect); MSG_ERRQUEUE is EAGAIN, others are EINVAL; at most 2 MiB a call",
    ),
    entry(46, "sendmsg", sendmsg)
        .supports("flags as `sendto`; SCM_RIGHTS and SCM_CREDENTIALS of Unix sockets; other ancillary data is EINVAL"),
    entry(47, "recvmsg", recvmsg).supports(
        "flags as `recvfrom`, MSG_CMSG_CLOEXEC; SCM_RIGHTS and SCM_CREDENTIALS; no other ancillary data comes",
    ),
    entry(299, "recvmmsg", recvmmsg).supports(
        "as `recvmsg`, MSG_WAITFORONE; at most 1024 messages a call; the time-out bounds the wait for the first \
         message too",
    ),
    entry(307, "sendmmsg", sendmmsg).supports("as `sendmsg`; at most 1024 messages a call"),
];

/// Most messages of `sendmmsg(2)` and `recvmmsg(2)`.
const MESSAGES_MAX: usize = 1024;
/// Most bytes of ancillary data that are looked at.
const CONTROL_BYTES_MAX: usize = 4096;
/// Bytes of `struct cmsghdr`.
const CONTROL_HEADER_BYTES: usize = 16;
/// Bytes of `struct ucred`.
const CREDENTIALS_BYTES: usize = 12;
/// Bytes of `struct mmsghdr`.
const MULTIPLE_BYTES: u64 = 64;

const SEND_FLAGS: i32 =
    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE | libc::MSG_EOR | libc::MSG_DONTROUTE | libc::MSG_CONFIRM;
const RECEIVE_FLAGS: i32 = libc::MSG_DONTWAIT
    | libc::MSG_PEEK
    | libc::MSG_WAITALL
    | libc::MSG_TRUNC
    | libc::MSG_CMSG_CLOEXEC
    | libc::MSG_NOSIGNAL
    | libc::MSG_WAITFORONE;

/// Where messages of sockets without a name come from: programs get no address.
const UNNAMED: Address = Address::Unix(UnixName::Unnamed);

/// `struct msghdr` (`struct user_msghdr` of the kernel).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    name: u64,
    name_length: u32,
    padding: u32,
    parts: u64,
    part_count: u64,
    control: u64,
    control_length: u64,
    flags: u32,
    padding_end: u32,
}

const _: () = assert!(size_of::<Header>() == 56);

/// Sends bytes, to an address if there is one.
fn send(
    call: &mut Call<'_>,
    file: &Arc<OpenFile>,
    bytes: &[u8],
    address: Option<Address>,
    control: Control,
    flags: i32,
) -> Result<usize, Stop> {
    let socket = file.socket()?;
    let is_urgent = flags & libc::MSG_OOB != 0;
    if is_urgent && (socket.kind() != Kind::Stream || !socket.family().is_inet()) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if flags & !(SEND_FLAGS | libc::MSG_OOB) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let is_nonblocking = file.is_nonblocking() || flags & libc::MSG_DONTWAIT != 0;
    let sender = control.sender.unwrap_or_else(|| own_sender(call));
    let files = Files::new(control.files, call.kernel.network.in_flight())?.sent_by(sender);
    if socket.family() == Family::Netlink {
        return Ok(ask_kernel(call, socket, bytes)?);
    }
    if socket.kind() == Kind::Datagram {
        bind_any(call, socket)?;
    }
    let remote = if socket.is_connection_oriented() { None } else { address.clone().or(socket.remote().ok()) };
    if let Some(Address::Inet(address, port)) = remote
        && !is_local(address)
    {
        open_flow(call, socket, address, port)?;
    }
    let result = match address {
        Some(Address::Inet(address, port)) if socket.kind() == Kind::Datagram => {
            socket.send_to_inet(call.kernel, address, port, bytes)
        }
        Some(Address::Unix(name)) if socket.kind() == Kind::Datagram => {
            let receiver = find_unix(call, Kind::Datagram, &name)?;
            if receiver.kind() != Kind::Datagram {
                return Err(Errno::EPROTOTYPE.into());
            }
            let result = receiver.take_in(bytes, socket.local(), files);
            let waited_for = OpenFile::anonymous(crate::file::Body::Socket(receiver), "", 0, 0);
            return call.or_wait(&waited_for, result, is_nonblocking, socket.send_timeout_ns());
        }
        Some(_) if socket.is_connected() && socket.family() == Family::Unix => Err(Errno::EISCONN),
        _ if is_urgent => socket.send_urgent(call.kernel, bytes),
        _ => socket.send(call.kernel, bytes, files),
    };
    if flags & libc::MSG_NOSIGNAL == 0 && socket.is_connection_oriented() {
        call.signal_broken_pipe(&result);
    }
    call.or_wait(file, result, is_nonblocking, socket.send_timeout_ns())
}

/// Who the caller is.
fn own_sender(call: &mut Call<'_>) -> Maker {
    let pid = call.pid;
    let credentials = &call.process().credentials;
    Maker { pid, uid: credentials.uid_effective, gid: credentials.gid_effective }
}

/// Sends a netlink message: the answers wait in the socket's own queue at once.
fn ask_kernel(call: &Call<'_>, socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
    let port = match socket.local() {
        Address::Netlink(port) if port != 0 => port,
        _ => call.pid,
    };
    for answer in netlink::answer(bytes, port, &interface::all(call.kernel))? {
        socket.take_in(&answer, Address::Netlink(0), Files::default()).map_err(|_| Errno::ENOBUFS)?;
    }
    Ok(bytes.len())
}

fn sendto(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let socket = file.socket()?;
    let address = match call.args[4] {
        0 => None,
        at => Some(read_address(call, socket.family(), at, call.args[5])?),
    };
    let bytes = Vector::one(call.args[1], call.args[2], BYTES_MAX).gather(call)?;
    let flags = call.int(3);
    Ok(send(call, &file, &bytes, address, Control::default(), flags)? as u64)
}

/// What the ancillary data of a message says: the files that it sends, and who says that it is the sender.
#[derive(Debug, Default)]
struct Control {
    files: Vec<Arc<OpenFile>>,
    sender: Option<Maker>,
}

fn read_control(call: &mut Call<'_>, header: &Header) -> Result<Control, Errno> {
    let mut read = Control::default();
    if header.control == 0 || header.control_length == 0 {
        return Ok(read);
    }
    let length = usize::try_from(header.control_length).ok().filter(|length| *length <= CONTROL_BYTES_MAX);
    let control = call.read_bytes(header.control, length.ok_or(Errno::ENOBUFS)?)?;
    let mut rest = &control[..];
    while rest.len() >= CONTROL_HEADER_BYTES {
        let (length, level, kind) = control_header(rest);
        if length < CONTROL_HEADER_BYTES || length > rest.len() {
            return Err(Errno::EINVAL);
        }
        let content = &rest[CONTROL_HEADER_BYTES..length];
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for fd in content.chunks_exact(4) {
                    let fd = i32::from_ne_bytes(fd.try_into().map_err(|_| Errno::EINVAL)?);
                    read.files.push(call.file_of(fd)?);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => read.sender = Some(claimed_sender(call, content)?),
            _ => return Err(Errno::EINVAL),
        }
        rest = &rest[length.next_multiple_of(8).min(rest.len())..];
    }
    if read.files.len() > FILES_MAX { Err(Errno::EINVAL) } else { Ok(read) }
}

/// Who a program says it is: only root may say something else than the truth.
fn claimed_sender(call: &mut Call<'_>, content: &[u8]) -> Result<Maker, Errno> {
    let content: [u8; CREDENTIALS_BYTES] = content.try_into().map_err(|_| Errno::EINVAL)?;
    let word = |at: usize| u32::from_ne_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]]);
    let claimed = Maker { pid: word(0), uid: word(4), gid: word(8) };
    let pid = call.pid;
    let own = &call.process().credentials;
    let is_true = claimed.pid == pid
        && [own.uid, own.uid_effective, own.uid_saved].contains(&claimed.uid)
        && [own.gid, own.gid_effective, own.gid_saved].contains(&claimed.gid);
    if is_true || own.uid_effective == 0 { Ok(claimed) } else { Err(Errno::EPERM) }
}

fn control_header(bytes: &[u8]) -> (usize, i32, i32) {
    let word = |at: usize| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let length = bytes.first_chunk().map_or(0, |length| u64::from_ne_bytes(*length));
    (usize::try_from(length).unwrap_or(usize::MAX), word(8), word(12))
}

fn send_message(call: &mut Call<'_>, file: &Arc<OpenFile>, header_at: u64, flags: i32) -> Result<usize, Stop> {
    let header: Header = call.read(header_at)?;
    let socket = file.socket()?;
    let address = match header.name {
        0 => None,
        _ if header.name_length == 0 => None,
        at => Some(read_address(call, socket.family(), at, header.name_length.into())?),
    };
    let vector = Vector::read(call, header.parts, header.part_count, BYTES_MAX)?;
    let control = read_control(call, &header)?;
    if !control.files.is_empty() && socket.family() != Family::Unix {
        return Err(Errno::EINVAL.into());
    }
    let bytes = vector.gather(call)?;
    send(call, file, &bytes, address, control, flags)
}

fn sendmsg(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    Ok(send_message(call, &file, call.args[1], call.int(2))? as u64)
}

fn message_count(call: &Call<'_>) -> usize {
    usize::try_from(call.args[2] as u32).unwrap_or(usize::MAX).min(MESSAGES_MAX)
}

fn sendmmsg(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let flags = call.int(3);
    for index in call.progress()..message_count(call) {
        let at = message_at(call, index)?;
        match send_message(call, &file, at, flags) {
            Ok(sent) => call.write(at + MULTIPLE_BYTES - 8, &(sent as u32))?,
            Err(Stop::Block(wait)) => return Err(call.block_with_progress(wait, index)),
            Err(stop) if index == 0 => return Err(stop),
            Err(_) => return Ok(index as u64),
        }
    }
    Ok(message_count(call) as u64)
}

fn message_at(call: &Call<'_>, index: usize) -> Result<u64, Errno> {
    call.args[1].checked_add(index as u64 * MULTIPLE_BYTES).ok_or(Errno::EFAULT)
}

/// Receives a message of up to `length` bytes, waiting for it if that is wanted.
fn receive(
    call: &mut Call<'_>,
    file: &Arc<OpenFile>,
    length: usize,
    flags: i32,
    timeout_ns: Option<u64>,
) -> Result<Message, Stop> {
    let socket = file.socket()?;
    if flags & libc::MSG_ERRQUEUE != 0 {
        return Err(Errno::EAGAIN.into());
    }
    if flags & libc::MSG_OOB != 0 {
        return Ok(socket.receive_urgent(length, flags & libc::MSG_PEEK != 0)?);
    }
    if flags & !RECEIVE_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let is_nonblocking = file.is_nonblocking() || flags & libc::MSG_DONTWAIT != 0;
    let is_over = call.has_timed_out() || call.is_interrupted();
    let waits_for_all = flags & libc::MSG_WAITALL != 0 && !is_nonblocking && !is_over;
    let minimum = if waits_for_all { length } else { 1 };
    let result = socket.receive(length, flags & libc::MSG_PEEK != 0, minimum);
    call.or_wait(file, result, is_nonblocking, timeout_ns.or(socket.receive_timeout_ns()))
}

fn recvfrom(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let vector = Vector::one(call.args[1], call.args[2], BYTES_MAX);
    let flags = call.int(3);
    let message = receive(call, &file, vector.length(), flags, None)?;
    vector.scatter(call, 0, &message.bytes)?;
    let socket = file.socket()?;
    if call.args[4] != 0 {
        match message.from.as_ref().filter(|from| **from != UNNAMED) {
            Some(from) => write_address(call, socket.family(), from, call.args[4], call.args[5])?,
            None if call.args[5] != 0 => call.write(call.args[5], &0_u32)?,
            None => {}
        }
    }
    Ok(received_length(socket, &message, flags))
}

/// What a receiving call returns: with `MSG_TRUNC` the length that a message had.
fn received_length(socket: &Socket, message: &Message, flags: i32) -> u64 {
    let is_full = flags & libc::MSG_TRUNC != 0 && socket.kind() != Kind::Stream;
    (if is_full { message.full_length } else { message.bytes.len() }) as u64
}

/// Gives the program who has sent a message, if it wants to know, and its files; the bytes of ancillary data that it got, and
/// whether some did not fit.
fn write_control(
    call: &mut Call<'_>,
    socket: &Socket,
    header: &Header,
    message: &Message,
    flags: i32,
) -> Result<(u64, bool), Errno> {
    let room = if header.control == 0 { 0 } else { usize::try_from(header.control_length).unwrap_or(usize::MAX) };
    let (mut control, mut is_cut) = (Vec::new(), false);
    if socket.passes_credentials() {
        let Maker { pid, uid, gid } = message.sender;
        let content: Vec<u8> = [pid, uid, gid].iter().flat_map(|id| id.to_ne_bytes()).collect();
        if room >= CONTROL_HEADER_BYTES + content.len() {
            push_control(&mut control, libc::SCM_CREDENTIALS, &content, room);
        } else {
            is_cut = true;
        }
    }
    if !message.files.is_empty() {
        let fitting = room.saturating_sub(control.len() + CONTROL_HEADER_BYTES) / 4;
        let mut descriptors = Vec::new();
        for file in message.files.iter().take(fitting) {
            match call.install(file.clone(), flags & libc::MSG_CMSG_CLOEXEC != 0) {
                Ok(fd) => descriptors.push(fd),
                Err(_) => break,
            }
        }
        is_cut |= descriptors.len() < message.files.len();
        if !descriptors.is_empty() {
            let content: Vec<u8> = descriptors.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
            push_control(&mut control, libc::SCM_RIGHTS, &content, room);
        }
    }
    call.write_bytes(header.control, &control)?;
    Ok((control.len() as u64, is_cut))
}

/// Adds a `struct cmsghdr` and its content, with as much padding as there is room for.
fn push_control(control: &mut Vec<u8>, kind: i32, content: &[u8], room: usize) {
    control.extend_from_slice(&((CONTROL_HEADER_BYTES + content.len()) as u64).to_ne_bytes());
    control.extend_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control.extend_from_slice(&kind.to_ne_bytes());
    control.extend_from_slice(content);
    control.resize(control.len().next_multiple_of(8).min(room), 0);
}

fn receive_message(
    call: &mut Call<'_>,
    file: &Arc<OpenFile>,
    header_at: u64,
    flags: i32,
    timeout_ns: Option<u64>,
) -> Result<u64, Stop> {
    let mut header: Header = call.read(header_at)?;
    let vector = Vector::read(call, header.parts, header.part_count, BYTES_MAX)?;
    let message = receive(call, file, vector.length(), flags, timeout_ns)?;
    vector.scatter(call, 0, &message.bytes)?;
    let socket = file.socket()?;
    if header.name != 0 {
        let address = message
            .from
            .as_ref()
            .filter(|from| **from != UNNAMED)
            .map_or_else(Vec::new, |from| from.encode(socket.family()));
        let room = (header.name_length as usize).min(ADDRESS_BYTES_MAX);
        call.write_bytes(header.name, &address[..room.min(address.len())])?;
        header.name_length = address.len() as u32;
    }
    let (control_length, is_cut) = write_control(call, socket, &header, &message, flags)?;
    header.control_length = control_length;
    header.flags = flags.cast_unsigned() & libc::MSG_OOB.cast_unsigned();
    if message.full_length > message.bytes.len() && socket.kind() != Kind::Stream {
        header.flags |= libc::MSG_TRUNC.cast_unsigned();
    }
    if is_cut {
        header.flags |= libc::MSG_CTRUNC.cast_unsigned();
    }
    if flags & libc::MSG_CMSG_CLOEXEC != 0 {
        header.flags |= libc::MSG_CMSG_CLOEXEC.cast_unsigned();
    }
    call.write(header_at, &header)?;
    Ok(received_length(socket, &message, flags))
}

fn recvmsg(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    receive_message(call, &file, call.args[1], call.int(2), None)
}

fn recvmmsg(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let flags = call.int(3);
    let timeout_ns = timeout_spec(call, call.args[4])?;
    for index in call.progress()..message_count(call) {
        let at = message_at(call, index)?;
        let has_enough = index > 0 && flags & libc::MSG_WAITFORONE != 0;
        let flags = if has_enough { flags | libc::MSG_DONTWAIT } else { flags };
        match receive_message(call, &file, at, flags, timeout_ns) {
            Ok(received) => call.write(at + MULTIPLE_BYTES - 8, &(received as u32))?,
            Err(Stop::Block(wait)) => return Err(call.block_with_progress(wait, index)),
            Err(stop) if index == 0 => return Err(stop),
            Err(_) => return Ok(index as u64),
        }
    }
    Ok(message_count(call) as u64)
}
