//! Packets with a descriptor on sockets with message boundaries.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// A socket in Tokio's poll loop. Tokio's type is for datagrams; what differs with `SOCK_SEQPACKET` is that an empty packet
/// means that the other end is closed.
#[derive(Debug)]
pub(crate) struct PacketSocket(UnixDatagram);

impl PacketSocket {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(UnixDatagram::from_std(fd.into())?))
    }

    /// The next packet, and the descriptor that came with it; `None` when the other end is closed.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Option<OwnedFd>)>> {
        let received = self.0.async_io(Interest::READABLE, || receive(self.0.as_fd(), buffer)).await;
        match received {
            Ok((0, _)) => Ok(None),
            Ok(received) => Ok(Some(received)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a packet, with a descriptor if there is one.
    pub(crate) async fn send(&self, packet: &[u8], attached: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, || send(self.0.as_fd(), packet, attached)).await
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptor))
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
