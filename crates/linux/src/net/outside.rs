//! Connections to the outside: descriptors of the host that egress, or a visitor, has given us. They never block, and only
//! `recv(2)`, `send(2)` without an address, `shutdown(2)` and options are used on them.
//!
//! One `epoll` instance of the host, edge-triggered, watches them all; a thread of the monitor waits for it and calls
//! [`super::Network::outside_ready`]. Between two events a connection remembers what it is ready for, so that looking costs
//! no system call of the host.
//!
//! They cannot be saved: a socket that had one reads `ECONNRESET` after it was restored.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};

use crate::errno::Errno;
use crate::net::Socket;
use crate::net::egress::CONNECTIONS_MAX;

/// Tokens of connections are below this; the monitor may watch descriptors of its own with larger ones.
pub const TOKENS: u64 = u64::MAX / 2;

/// The connections that are watched. Clones are the same.
#[derive(Debug, Clone)]
pub struct Outsides(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    poller: Arc<OwnedFd>,
    sockets: Mutex<Sockets>,
}

#[derive(Debug, Default)]
struct Sockets {
    last_token: u64,
    by_token: BTreeMap<u64, Weak<Socket>>,
}

impl Outsides {
    /// No connections yet; `poller` is an `epoll` instance of the host.
    pub fn new(poller: Arc<OwnedFd>) -> Self {
        Self(Arc::new(Inner { poller, sockets: Mutex::default() }))
    }

    /// Watches a connection of a socket. `ENOBUFS` beyond [`CONNECTIONS_MAX`].
    pub(super) fn open(&self, socket: &Arc<Socket>, fd: OwnedFd) -> Result<Outside, Errno> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let token = {
            let mut sockets = self.0.sockets.lock();
            if sockets.by_token.len() >= CONNECTIONS_MAX {
                return Err(Errno::ENOBUFS);
            }
            sockets.last_token += 1;
            let token = sockets.last_token;
            sockets.by_token.insert(token, Arc::downgrade(socket));
            token
        };
        let outside = Outside { fd, token, outsides: self.clone(), is_readable: true, is_writable: true };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.0.poller, &outside.fd, EventData::new_u64(token), flags)?;
        Ok(outside)
    }

    /// The socket whose connection has this token.
    pub(super) fn socket(&self, token: u64) -> Option<Arc<Socket>> {
        self.0.sockets.lock().by_token.get(&token)?.upgrade()
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Outside {
    fd: OwnedFd,
    token: u64,
    outsides: Outsides,
    is_readable: bool,
    is_writable: bool,
}

impl Outside {
    pub(super) fn token(&self) -> u64 {
        self.token
    }

    /// There may be something to do again.
    pub(super) fn set_ready(&mut self, is_readable: bool, is_writable: bool) {
        self.is_readable |= is_readable;
        self.is_writable |= is_writable;
    }

    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Whether [`Outside::receive`] may give anything.
    pub(super) fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Receives; `None` if there is nothing now.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<Result<usize, Errno>> {
        loop {
            match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Some(Ok(length)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.is_readable = false;
                    return None;
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// Sends as much as there is room for. `EAGAIN` if there is none.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(length) => return Ok(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => {
                    self.is_writable = false;
                    return Err(Errno::EAGAIN);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Shuts directions down. A connection that is gone already needs no telling.
    pub(super) fn shut_down(&self, how: super::Shutdown) {
        let how = match how {
            super::Shutdown { read: true, write: true } => Shutdown::Both,
            super::Shutdown { write: true, .. } => Shutdown::Write,
            super::Shutdown { read: true, .. } => Shutdown::Read,
            super::Shutdown { .. } => return,
        };
        let _ = rustix::net::shutdown(&self.fd, how);
    }

    /// Passes an option on that changes what the other side notices. Others are only remembered.
    pub(super) fn set_option(&self, level: i32, name: i32, value: i32) {
        let seconds = std::time::Duration::from_secs(u64::try_from(value).unwrap_or(0));
        let fd = &self.fd;
        let result = match (level, name) {
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => sockopt::set_tcp_nodelay(fd, value != 0),
            (libc::IPPROTO_TCP, libc::TCP_CORK) => sockopt::set_tcp_cork(fd, value != 0),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => sockopt::set_tcp_keepidle(fd, seconds),
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => sockopt::set_tcp_keepintvl(fd, seconds),
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => sockopt::set_tcp_keepcnt(fd, value.cast_unsigned()),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => sockopt::set_socket_keepalive(fd, value != 0),
            _ => Ok(()),
        };
        if let Err(error) = result {
            tracing::debug!(level, name, value, %error, "an option of a connection was refused by the host");
        }
    }

    /// Makes closing break the connection off.
    pub(super) fn break_off(&self) {
        let _ = sockopt::set_socket_linger(&self.fd, Some(std::time::Duration::ZERO));
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.outsides.0.sockets.lock().by_token.remove(&self.token);
        // Another process may still hold a copy for a moment, which would keep it watched.
        let _ = epoll::delete(&self.outsides.0.poller, &self.fd);
    }
}
