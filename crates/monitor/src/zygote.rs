//! The zygote: a process of one thread that forks monitors for the worker, which is full of threads and must not fork
//! itself. Messages: [`calypte_wire::zygote`].
//!
//! It knows its children by file descriptors (`pidfd_open(2)`), so reaping needs no signal handler.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use calypte_jail::{Begun, Identity, Policy};
use calypte_wire::frame::FrameError;
use calypte_wire::zygote::{FromZygote, MESSAGE_BYTES_MAX, ToZygote, decode, encode};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, kill_process, pidfd_open, set_child_subreaper, waitid,
};

use crate::fork::{Separated, fork_separated};
use crate::launch::Confinement;
use crate::process;
use crate::session;

/// Children whose end is noticed at once.
const EVENTS_AT_ONCE: usize = 64;
/// What `epoll` says about the worker's socket; environment ids are other numbers.
const SOCKET_EVENT: u64 = u64::MAX;
/// Room for the ancillary data of a message with three file descriptors.
const ANCILLARY_BYTES: usize = rustix::cmsg_space!(ScmRights(3));

/// User ids for monitors. Environments are numbered, so one is used again after as many further starts.
pub const UIDS: u32 = 65_536;

/// How monitors are jailed.
#[derive(Debug, Clone, Copy)]
pub struct JailConfig {
    /// What is done when a layer of the jail is not possible.
    pub policy: Policy,
    /// First of the user and group ids that monitors get when the zygote runs as root; there must be 65,536 from
    /// here on that nobody else uses.
    pub uid_first: u32,
}

/// Why the zygote cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    /// The host refused an operation.
    #[error("the zygote could not {operation}")]
    Host {
        /// What was attempted.
        operation: &'static str,
        /// The host's reason.
        #[source]
        source: Errno,
    },
    /// The worker sent something that is not a message.
    #[error("the worker sent something that is not a message to the zygote")]
    Message(#[from] FrameError),
    /// The worker sent a request that makes no sense.
    #[error("the worker sent a request to the zygote that makes no sense: {0}")]
    Request(&'static str),
}

fn refused(operation: &'static str) -> impl Fn(Errno) -> ZygoteError {
    move |source| ZygoteError::Host { operation, source }
}

/// Runs the zygote on its socket to the worker until that closes. The process must have one thread only.
///
/// Monitors are forked from here and never return.
pub fn zygote_main(socket: OwnedFd, jail: JailConfig) -> ! {
    match Zygote::new(socket).and_then(Zygote::serve) {
        Ok(Turn::SocketClosed) => std::process::exit(0),
        Ok(Turn::Monitor { environment_id, sockets, begun }) => {
            let id = jail.uid_first.saturating_add((environment_id % u64::from(UIDS)) as u32);
            let identity = Identity::Own { id };
            let Sockets { messages, descriptors, errors } = sockets;
            process::speak_to(errors);
            session::monitor_main(messages, descriptors, Confinement { begun, identity, policy: jail.policy })
        }
        Err(error) => {
            process::report(&error);
            std::process::exit(1)
        }
    }
}

/// Why serving has ended.
enum Turn {
    /// The worker has gone.
    SocketClosed,
    /// This is a forked child: it is to become the monitor of this environment.
    Monitor { environment_id: u64, sockets: Sockets, begun: Begun },
}

/// What a monitor is given.
struct Sockets {
    messages: OwnedFd,
    descriptors: OwnedFd,
    /// What becomes its standard error.
    errors: OwnedFd,
}

struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

struct Zygote {
    socket: OwnedFd,
    events: OwnedFd,
    children: BTreeMap<u64, Child>,
}

impl Zygote {
    fn new(socket: OwnedFd) -> Result<Self, ZygoteError> {
        let socket = process::take_from_stdin(socket).map_err(refused("move its socket"))?;
        process::raise_descriptor_limit();
        // A monitor's parent is a process that ends at once; see `fork_separated`.
        set_child_subreaper(Some(getpid())).map_err(refused("adopt monitors"))?;
        // Monitors are copies of this process: what they all need to know of the host is read once.
        calypte_linux::guest::learn_host();
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(refused("create an epoll instance"))?;
        epoll::add(&events, &socket, EventData::new_u64(SOCKET_EVENT), EventFlags::IN)
            .map_err(refused("watch its socket"))?;
        Ok(Self { socket, events, children: BTreeMap::new() })
    }

    /// Consumes the zygote, so that a child that returns from here holds none of its file descriptors.
    fn serve(mut self) -> Result<Turn, ZygoteError> {
        let mut ready = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            ready.clear();
            match epoll::wait(&self.events, rustix::buffer::spare_capacity(&mut ready), None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(refused("wait")(error)),
            }
            for event in &ready {
                match event.data.u64() {
                    SOCKET_EVENT => {
                        if let Some(turn) = self.answer()? {
                            return Ok(turn);
                        }
                    }
                    environment_id => self.reap(environment_id)?,
                }
            }
        }
    }

    /// Serves one message. `Some`: there will be no more.
    fn answer(&mut self) -> Result<Option<Turn>, ZygoteError> {
        let Some((message, attached)) = self.receive()? else { return Ok(Some(Turn::SocketClosed)) };
        let ToZygote::Fork { environment_id } = message;
        let sockets = attached.ok_or(ZygoteError::Request("it comes without three file descriptors"))?;
        if environment_id == SOCKET_EVENT || self.children.contains_key(&environment_id) {
            return Err(ZygoteError::Request("the environment id is in use"));
        }
        match fork_separated() {
            Ok(Separated::Child(begun)) => {
                return Ok(Some(Turn::Monitor { environment_id, sockets, begun }));
            }
            Ok(Separated::Parent(pid)) => self.adopt(environment_id, pid)?,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
                self.send(&FromZygote::ForkFailed { environment_id, errno })?;
            }
        }
        Ok(None)
    }

    fn receive(&self) -> Result<Option<(ToZygote, Option<Sockets>)>, ZygoteError> {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other.map_err(refused("receive"))?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let sockets = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut attached) => {
                Some(Sockets { messages: attached.next()?, descriptors: attached.next()?, errors: attached.next()? })
            }
            _ => None,
        });
        let message = decode(&bytes[..received.bytes])?;
        Ok(Some((message, sockets)))
    }

    /// Takes note of a new child. One that cannot be watched is ended, as nobody would reap it.
    fn adopt(&mut self, environment_id: u64, pid: Pid) -> Result<(), ZygoteError> {
        let watched = pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
            epoll::add(&self.events, &pidfd, EventData::new_u64(environment_id), EventFlags::IN)?;
            Ok(pidfd)
        });
        match watched {
            Ok(pidfd) => {
                self.children.insert(environment_id, Child { pid, pidfd });
                self.send(&FromZygote::Forked { environment_id, pid: pid.as_raw_nonzero().get() })
            }
            Err(errno) => {
                kill_process(pid, Signal::KILL).map_err(refused("end a child"))?;
                waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).map_err(refused("reap a child"))?;
                self.send(&FromZygote::ForkFailed { environment_id, errno: errno.raw_os_error() })
            }
        }
    }

    fn reap(&mut self, environment_id: u64) -> Result<(), ZygoteError> {
        let Some(child) = self.children.remove(&environment_id) else { return Ok(()) };
        // Not left to dropping it: children forked meanwhile hold copies until they have dropped theirs.
        epoll::delete(&self.events, &child.pidfd).map_err(refused("stop watching a child"))?;
        let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
            .map_err(refused("reap a child"))?
            .map_or(0, |status| {
                status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(0)
            });
        tracing::debug!(environment_id, pid = child.pid.as_raw_nonzero().get(), status, "monitor ended");
        self.send(&FromZygote::Ended { environment_id, status })
    }

    fn send(&self, message: &FromZygote) -> Result<(), ZygoteError> {
        let bytes = encode(message);
        loop {
            match send(&self.socket, &bytes, SendFlags::NOSIGNAL) {
                // A worker that has gone shows as the end of its messages.
                Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(refused("answer")(error)),
            }
        }
    }
}
