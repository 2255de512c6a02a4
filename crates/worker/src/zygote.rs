//! The worker's end of the zygote's socket: it starts the zygote, asks it for monitors, and starts another one when it
//! has died. Monitors do not depend on it once they run.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calypte_wire::zygote::{FromZygote, MESSAGE_BYTES_MAX, ToZygote, decode, encode};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::egress::pair;
use crate::messages;
use crate::placement::EnvironmentId;
use crate::polled_fd::polled;
use crate::process::MonitorProcess;

/// Buffer of the socket on which a monitor is sent descriptors. The kernel doubles it, and counts a packet as 768 bytes: there
/// is room for some forty.
const DESCRIPTORS_BUFFER_BYTES: usize = 16 * 1024;
/// How long the zygote may take to fork.
const FORK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the zygote may take to end after its socket was closed.
const EXIT_WAIT_MAX: Duration = Duration::from_secs(2);
/// Zygotes that one start of an environment may wear out.
const ATTEMPTS_MAX: u32 = 2;

/// The zygote's environment: how it logs.
const ENVIRONMENT_PASSED_ON: [&str; 3] = ["CALYPTE_LOG", "RUST_BACKTRACE", "NO_COLOR"];

/// Why no monitor was started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The zygote's program does not run.
    #[error("the zygote {program:?} cannot be started")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// It ended, or closed its socket, before it answered.
    #[error("the zygote ended before it had started a monitor; the server's log has its messages")]
    Gone,
    /// It did not answer.
    #[error("the zygote has not answered within {} s", FORK_WAIT_MAX.as_secs())]
    Silent,
    /// `fork` failed.
    #[error("the zygote could not fork")]
    Fork(#[source] io::Error),
    /// A socket or process handle could not be made.
    #[error("a monitor's socket or process handle cannot be made; is the limit of open files reached?")]
    Socket(#[from] io::Error),
    /// The worker is shutting down.
    #[error("the worker is shutting down")]
    Closed,
}

/// A monitor that has been started.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) socket: tokio::net::UnixStream,
    /// Where the monitor is sent descriptors.
    pub(crate) descriptors: Arc<OwnedFd>,
    /// Passes on what the monitor says to people, until its end.
    pub(crate) messages: JoinHandle<()>,
    /// `None` if it has ended already.
    pub(crate) process: Option<MonitorProcess>,
}

/// Starts monitors.
#[derive(Debug)]
pub(crate) struct Zygote {
    program: PathBuf,
    arguments: Vec<OsString>,
    slot: tokio::sync::Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    current: Option<(Arc<Connection>, JoinHandle<()>)>,
    is_closed: bool,
}

/// Who asked for a fork gets the pid.
type ForkWaiter = oneshot::Sender<Result<i32, LaunchError>>;

/// One zygote process.
#[derive(Debug)]
struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// Who waits for a fork; `None` when the zygote is gone.
    waiting: Mutex<Option<HashMap<u64, ForkWaiter>>>,
}

impl Zygote {
    /// Starts the first zygote, so that a wrong command is noticed now.
    pub(crate) async fn start(program: PathBuf, arguments: Vec<OsString>) -> Result<Self, LaunchError> {
        let zygote = Self { program, arguments, slot: tokio::sync::Mutex::default() };
        zygote.connection().await?;
        Ok(zygote)
    }

    /// A new monitor. A zygote that has died is replaced, once.
    pub(crate) async fn launch(&self, id: EnvironmentId) -> Result<Launched, LaunchError> {
        let mut attempt = 1;
        loop {
            let connection = self.connection().await?;
            // A new pair for each attempt: a monitor of the dead zygote may hold the end of the last one.
            let (ours, theirs) = UnixStream::pair()?;
            let (descriptors, their_descriptors) = pair()?;
            // A monitor that takes none may not keep many on their way.
            set_socket_send_buffer_size(&descriptors, DESCRIPTORS_BUFFER_BYTES).map_err(io::Error::from)?;
            let (messages, their_messages) = messages::pipe()?;
            let monitor_ends = [theirs.as_fd(), their_descriptors.as_fd(), their_messages.as_fd()];
            match connection.fork(id, monitor_ends).await {
                Ok(pid) => {
                    drop(their_messages);
                    let messages = messages::pass_on(format!("monitor of environment {}", id.0), messages)?;
                    ours.set_nonblocking(true)?;
                    let process = MonitorProcess::open(pid)?;
                    let socket = tokio::net::UnixStream::from_std(ours)?;
                    return Ok(Launched { socket, descriptors: Arc::new(descriptors), messages, process });
                }
                Err(error @ (LaunchError::Gone | LaunchError::Silent)) if attempt < ATTEMPTS_MAX => {
                    tracing::warn!(%error, "starting another zygote");
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the zygote.
    pub(crate) async fn close(&self) {
        let mut slot = self.slot.lock().await;
        slot.is_closed = true;
        if let Some((connection, reader)) = slot.current.take() {
            connection.close();
            if let Err(error) = reader.await {
                tracing::error!(%error, "the task that reads from the zygote has failed");
            }
        }
    }

    /// The present zygote, or a new one.
    async fn connection(&self) -> Result<Arc<Connection>, LaunchError> {
        let mut slot = self.slot.lock().await;
        if slot.is_closed {
            return Err(LaunchError::Closed);
        }
        if let Some((connection, _)) = slot.current.as_ref().filter(|(connection, _)| connection.is_open()) {
            return Ok(connection.clone());
        }
        let started = self.spawn().map_err(|source| LaunchError::Spawn { program: self.program.clone(), source })?;
        let connection = started.0.clone();
        slot.current = Some(started);
        Ok(connection)
    }

    fn spawn(&self) -> io::Result<(Arc<Connection>, JoinHandle<()>)> {
        let packets = SocketType::SEQPACKET;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, packets, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let (messages, their_messages) = messages::pipe()?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            // Monitors are copies of it: what guest code may get hold of must not hold the server's secrets.
            .env_clear()
            .envs(ENVIRONMENT_PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Not the server's own, which may be a terminal.
            .stderr(Stdio::from(their_messages))
            // Not the terminal's foreground group: Ctrl-C is for the server, which then ends everything in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        tracing::debug!(pid = child.id(), "zygote started");
        messages::pass_on("zygote".to_owned(), messages)?;
        let socket = polled(ours, Interest::READABLE | Interest::WRITABLE)?;
        let connection = Arc::new(Connection { socket, waiting: Mutex::new(Some(HashMap::new())) });
        let reader = tokio::spawn(connection.clone().read(child));
        Ok((connection, reader))
    }
}

impl Connection {
    fn is_open(&self) -> bool {
        self.waiting.lock().expect("no panic while it is held").is_some()
    }

    /// Nobody uses it any more, even if the task that reads from it has not heard of its end yet.
    fn abandon(&self) {
        self.waiting.lock().expect("no panic while it is held").take();
        self.close();
    }

    fn close(&self) {
        // It may be closed from the other side already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    async fn fork(&self, id: EnvironmentId, monitor_ends: [BorrowedFd<'_>; 3]) -> Result<i32, LaunchError> {
        let (answer, answered) = oneshot::channel();
        match self.waiting.lock().expect("no panic while it is held").as_mut() {
            Some(waiting) => waiting.insert(id.0, answer),
            None => return Err(LaunchError::Gone),
        };
        let packet = encode(&ToZygote::Fork { environment_id: id.0 });
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), &packet, monitor_ends)).await;
        if sent.is_err() {
            self.abandon();
            return Err(LaunchError::Gone);
        }
        match timeout(FORK_WAIT_MAX, answered).await {
            Ok(answer) => answer.unwrap_or(Err(LaunchError::Gone)),
            Err(_) => {
                self.abandon();
                Err(LaunchError::Silent)
            }
        }
    }

    /// Handles the zygote's messages until it ends, and sees to it that it does end.
    async fn read(self: Arc<Self>, mut child: Child) {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        loop {
            let received = self.socket.async_io(Interest::READABLE, |socket| {
                Ok(rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?.0)
            });
            match received.await {
                Ok(0) => break,
                Ok(length) => match decode(&buffer[..length]) {
                    Ok(message) => self.handle(message),
                    Err(error) => {
                        tracing::error!(%error, "the zygote sent what is no message; it is replaced");
                        break;
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "the zygote's socket is closed");
                    break;
                }
            }
        }
        // Dropping the senders tells everybody who waits.
        self.waiting.lock().expect("no panic while it is held").take();
        self.close();
        if timeout(EXIT_WAIT_MAX, child.wait()).await.is_err() {
            tracing::warn!("the zygote does not end by itself: killing it");
            if let Err(error) = child.kill().await {
                tracing::error!(%error, "the zygote cannot be killed");
            }
        }
    }

    fn handle(&self, message: FromZygote) {
        let (environment_id, answer) = match message {
            FromZygote::Forked { environment_id, pid } => (environment_id, Ok(pid)),
            FromZygote::ForkFailed { environment_id, errno } => {
                (environment_id, Err(LaunchError::Fork(io::Error::from_raw_os_error(errno))))
            }
            FromZygote::Ended { environment_id, status } => {
                // 137 is our own SIGKILL, 0 an orderly end.
                if matches!(status, 0 | 137) {
                    tracing::debug!(environment_id, status, "monitor ended");
                } else {
                    tracing::warn!(environment_id, status, "monitor ended abnormally");
                }
                return;
            }
        };
        let waiter = self
            .waiting
            .lock()
            .expect("no panic while it is held")
            .as_mut()
            .and_then(|waiting| waiting.remove(&environment_id));
        match waiter {
            // Whoever asked may have given up.
            Some(waiter) => drop(waiter.send(answer)),
            None => tracing::warn!(environment_id, "the zygote answered what nobody had asked"),
        }
    }
}

fn send(socket: BorrowedFd<'_>, packet: &[u8], attached: [BorrowedFd<'_>; 3]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&attached)), "the buffer has the size of this message");
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?)
}
