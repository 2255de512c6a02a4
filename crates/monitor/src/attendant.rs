//! The attendant of `calypte run`: a process outside the jail that does what the worker does for environments. It starts
//! egress, again when that has died, and accepts connections to published ports; all that it has to give is sent to the
//! monitor as descriptors ([`calypte_wire::descriptor`]). It ends with the monitor's end of their socket.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use calypte_wire::descriptor::Descriptor;
use calypte_wire::egress::ToEgress;
use calypte_wire::zygote::{MESSAGE_BYTES_MAX, decode, encode};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::process;

/// Shortest time between two starts of egress, and how long a port is left alone on which accepting has failed.
const PAUSE: Duration = Duration::from_millis(200);
/// The one environment that egress serves.
const ENVIRONMENT_ID: u64 = 1;
/// Whose it is.
const ACCOUNT: &str = "local";

/// How the attendant is started.
#[derive(Debug, Clone)]
pub struct AttendantCommand {
    /// The program: normally the running binary itself.
    pub program: PathBuf,
    /// Its first arguments, those of egress follow.
    pub arguments: Vec<OsString>,
    /// Arguments with which the same program is egress; without any there is no way out.
    pub egress_arguments: Option<Vec<OsString>>,
}

/// Starts the attendant; the socket on which descriptors come from it.
pub(crate) fn start(command: &AttendantCommand, listeners: &[(TcpListener, u16)]) -> io::Result<OwnedFd> {
    let (ours, theirs) = pair()?;
    Command::new(&command.program)
        .args(&command.arguments)
        .args(command.egress_arguments.iter().flatten())
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    for (listener, port) in listeners {
        send(ours.as_fd(), &encode(&Some(*port)), Some(listener.as_fd()))?;
    }
    send(ours.as_fd(), &encode(&None::<u16>), None)?;
    Ok(ours)
}

/// Is the attendant, until the monitor's end of the socket closes. `egress` is how that is started, if it is.
pub fn attend(socket: OwnedFd, egress: Option<(PathBuf, Vec<OsString>)>) -> io::Result<()> {
    let socket = Arc::new(socket);
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    loop {
        let Some((length, attached)) = receive(socket.as_fd(), &mut buffer)? else { return Ok(()) };
        match (decode(&buffer[..length]).map_err(io::Error::other)?, attached) {
            (Some(port), Some(listener)) => {
                let (socket, listener) = (Arc::clone(&socket), TcpListener::from(listener));
                process::spawn("publish", move || welcome(&socket, &listener, port));
            }
            _ => break,
        }
    }
    if let Some((program, arguments)) = egress {
        let socket = Arc::clone(&socket);
        process::spawn("egress", move || supervise(&program, &arguments, &socket));
    }
    // The monitor says nothing more, until it is gone.
    while receive(socket.as_fd(), &mut buffer)?.is_some() {}
    Ok(())
}

/// Sends everybody who connects to the monitor.
fn welcome(socket: &OwnedFd, listener: &TcpListener, port: u16) {
    loop {
        let sent = listener.accept().and_then(|(stream, visitor)| {
            send(socket.as_fd(), &encode(&Descriptor::Visit { port, visitor }), Some(stream.as_fd()))
        });
        if let Err(error) = sent {
            tracing::debug!(%error, port, "a connection to a published port was lost");
            // Too many open files, most likely: accepting at once would only fail again.
            std::thread::sleep(PAUSE);
        }
    }
}

/// Keeps egress running, and the monitor connected with it.
fn supervise(program: &PathBuf, arguments: &[OsString], socket: &OwnedFd) {
    loop {
        match start_egress(program, arguments, socket) {
            Ok((mut child, _control)) => {
                let status = child.wait();
                tracing::warn!(?status, "egress has ended; another one is started");
            }
            Err(error) => tracing::error!(%error, "egress cannot be started"),
        }
        std::thread::sleep(PAUSE);
    }
}

/// The process, and the socket whose end ends it.
fn start_egress(program: &PathBuf, arguments: &[OsString], monitor: &OwnedFd) -> io::Result<(Child, OwnedFd)> {
    let ((control, theirs), (for_monitor, for_egress)) = (pair()?, pair()?);
    let child = Command::new(program).args(arguments).stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
    let register = ToEgress::Register { environment_id: ENVIRONMENT_ID, account: ACCOUNT.to_owned() };
    send(control.as_fd(), &encode(&register), Some(for_egress.as_fd()))?;
    send(monitor.as_fd(), &encode(&Descriptor::Egress), Some(for_monitor.as_fd()))?;
    Ok((child, control))
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn send(socket: BorrowedFd<'_>, packet: &[u8], attached: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let attached: Vec<BorrowedFd<'_>> = attached.into_iter().collect();
    if !attached.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&attached)), "the buffer has the size of this message");
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next packet and what came with it; `None` when the other end is closed.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(usize, Option<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            result => break result?,
        }
    };
    let attached = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes > 0).then_some((received.bytes, attached)))
}
