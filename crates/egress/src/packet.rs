//! Packets with a descriptor on sockets with message boundaries.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// A socket in Tokio's poll loop. Tokio's type is for datagrams; what differs with `SOCK_SEQPACKET` is that an empty packet
/// means that the other end is closed.
#[derive(Debug)]
pub(crate) struct PacketSocket(UnixDatagram);

/// What was received.
#[derive(Debug)]
pub(crate) struct Packet {
    /// Its bytes in the buffer.
    pub(crate) length: usize,
    /// What came with it.
    pub(crate) descriptor: Option<OwnedFd>,
    /// Whether it was longer than the buffer, or came with more descriptors than one.
    pub(crate) is_truncated: bool,
}

impl PacketSocket {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(UnixDatagram::from_std(fd.into())?))
    }

    /// Bounds what the other end may leave unread, in bytes as the kernel counts them: with its own record of each packet,
    /// which is larger than most. Descriptors are sent up to a quarter of that.
    pub(crate) fn bound_unread(&self, bytes: usize) -> io::Result<()> {
        // The kernel doubles what it is given (`socket(7)`).
        Ok(rustix::net::sockopt::set_socket_send_buffer_size(&self.0, bytes / 2)?)
    }

    /// The next packet; `None` when the other end is closed.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
        let received = self.0.async_io(Interest::READABLE, || receive(self.0.as_fd(), buffer)).await;
        match received {
            Ok(packet) if packet.length == 0 => Ok(None),
            Ok(packet) => Ok(Some(packet)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a packet, with a descriptor if there is one. That waits until the other end has read most of what it was sent
    /// before: descriptors on their way are a limited good.
    pub(crate) async fn send(&self, packet: &[u8], attached: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let send = || {
            if attached.is_some() && !is_mostly_read(self.0.as_fd())? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            send(self.0.as_fd(), packet, attached)
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }
}

/// Whether no more than a quarter of the send buffer is in use, which is when a Unix socket is called writable
/// (`unix_writable` of the kernel). There will be an event when it comes to be so.
fn is_mostly_read(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec::default()))?;
    // What is wrong with the socket is for the call to say.
    Ok(!polled[0].revents().is_empty())
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let is_truncated = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Packet { length: received.bytes, descriptor, is_truncated })
}

fn send(socket: BorrowedFd<'_>, packet: &[u8], attached: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let attached: Vec<BorrowedFd<'_>> = attached.into_iter().collect();
    if !attached.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&attached)), "the buffer has the size of this message");
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
