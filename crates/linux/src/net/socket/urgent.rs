//! Urgent data of TCP between sockets of the guest (`tcp(7)`, "Sockets API"; `MSG_OOB`): one byte, fetched by itself or, with
//! `SO_OOBINLINE`, read among the others.

use std::sync::Arc;

use super::{Kind, Peer, Socket, State};
use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::net::queue::{Files, Message};

impl Socket {
    /// Sends bytes of which the last is urgent. `EOPNOTSUPP` but for TCP within the guest.
    pub fn send_urgent(self: &Arc<Self>, kernel: &mut Kernel, bytes: &[u8]) -> Result<usize, Errno> {
        let is_elsewhere = matches!(self.state.lock().peer, Some(Peer::Service { .. } | Peer::Outside));
        if !self.has_urgent_data() || is_elsewhere {
            return Err(Errno::EOPNOTSUPP);
        }
        let sent = self.send(kernel, bytes, Files::default().sent_by(self.maker))?;
        let peer = self.state.lock().peer_socket();
        if let (Some(last), Some(peer)) = (bytes.last().filter(|_| sent == bytes.len()), peer) {
            peer.take_in_mark(*last);
        }
        Ok(sent)
    }

    /// The byte that has just come is urgent.
    fn take_in_mark(&self, byte: u8) {
        {
            let mut state = self.state.lock();
            let is_inline = state.is_urgent_inline();
            // What is sent to a side that does not read is lost.
            if !state.is_read_shut && !state.queue.is_empty() {
                state.queue.mark_urgent(byte, is_inline);
            }
        }
        self.beacon.ring();
    }

    /// `recv(2)` with `MSG_OOB`. `EINVAL` if there is no urgent byte, or if it is read among the others.
    pub fn receive_urgent(&self, length: usize, is_peeking: bool) -> Result<Message, Errno> {
        let mut state = self.state.lock();
        if !self.has_urgent_data() {
            return Err(if self.kind == Kind::Datagram { Errno::EAGAIN } else { Errno::EOPNOTSUPP });
        }
        if state.backlog.is_some() {
            return Err(Errno::ENOTCONN);
        }
        if state.is_urgent_inline() {
            return Err(Errno::EINVAL);
        }
        let byte = if is_peeking { state.queue.urgent() } else { state.queue.take_urgent() };
        let bytes: Vec<u8> = byte.into_iter().take(length).collect();
        match byte {
            Some(_) => Ok(Message { full_length: bytes.len(), bytes, ..Message::nothing() }),
            None => Err(Errno::EINVAL),
        }
    }

    /// Whether the next byte is the urgent one (`SIOCATMARK`). `EOPNOTSUPP` of other sockets than TCP.
    pub fn is_at_mark(&self) -> Result<bool, Errno> {
        if self.has_urgent_data() { Ok(self.state.lock().queue.is_at_mark()) } else { Err(Errno::EOPNOTSUPP) }
    }

    fn has_urgent_data(&self) -> bool {
        self.family.is_inet() && self.kind == Kind::Stream
    }
}

impl State {
    /// Whether the urgent byte is read among the others.
    pub(super) fn is_urgent_inline(&self) -> bool {
        self.options.is_on(libc::SOL_SOCKET, libc::SO_OOBINLINE)
    }

    /// Whether a plain read finds bytes: the urgent one alone does not count.
    pub(super) fn has_plain_bytes(&self) -> bool {
        let is_hidden = self.queue.is_at_mark() && !self.is_urgent_inline();
        self.queue.length() > usize::from(is_hidden) || !self.queue.is_empty() && !self.queue.has_mark()
    }
}
