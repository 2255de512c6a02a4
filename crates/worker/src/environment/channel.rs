//! The bytes between worker and monitor: both directions at once, so that neither side can block the other.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Poll;

use calypte_wire::frame::{self, Decoder, FrameError};
use calypte_wire::monitor::{TO_WORKER_BYTES_MAX, ToMonitor, ToWorker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// Bytes taken from the socket at once.
const READ_BYTES: usize = 16 * 1024;

/// The worker's end of a monitor's socket.
#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    decoder: Decoder,
    /// What is being sent, and how much of it has been.
    outgoing: Vec<u8>,
    sent: usize,
}

impl Channel {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, decoder: Decoder::new(TO_WORKER_BYTES_MAX), outgoing: Vec::new(), sent: 0 }
    }

    /// Puts a message behind what is being sent; [`Channel::transfer`] sends it.
    pub(super) fn send(&mut self, message: &ToMonitor) {
        let bytes = frame::encode(message);
        if self.is_sent() {
            (self.outgoing, self.sent) = (bytes, 0);
        } else {
            self.outgoing.extend_from_slice(&bytes);
        }
    }

    /// Whether the socket has taken everything.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.outgoing.len()
    }

    /// A message that has arrived already.
    pub(super) fn received(&mut self) -> Result<Option<ToWorker>, FrameError> {
        self.decoder.next()
    }

    /// Sends what can be sent and returns when something has arrived. An error means that nothing more will; the cause is
    /// missing when the monitor has closed its end. May be dropped at any point.
    pub(super) async fn transfer(&mut self) -> Result<(), Option<io::Error>> {
        let mut write_error = None;
        poll_fn(|context| {
            while write_error.is_none() && self.sent < self.outgoing.len() {
                match Pin::new(&mut self.socket).poll_write(context, &self.outgoing[self.sent..]) {
                    Poll::Ready(Ok(count)) => self.sent += count,
                    // Read on: the monitor's last words may explain it.
                    Poll::Ready(Err(error)) => write_error = Some(error),
                    Poll::Pending => break,
                }
            }
            if self.is_sent() && !self.outgoing.is_empty() {
                (self.outgoing, self.sent) = (Vec::new(), 0);
            }
            let mut storage = [MaybeUninit::uninit(); READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut storage);
            match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(write_error.take())),
                Poll::Ready(Ok(())) => {
                    self.decoder.push(buffer.filled());
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(Some(error))),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}
