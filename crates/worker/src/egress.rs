//! The worker's end of egress: it starts the process, registers every environment with it, hands each monitor its socket to
//! it, and does all that again when it has died. Environments live on meanwhile; what they ask for waits.
//!
//! Each environment has a socket on which its monitor is sent descriptors; it is kept here for that.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use calypte_types::{AccountId, FunctionName};
use calypte_wire::descriptor::Descriptor;
use calypte_wire::egress::{Counts, FromEgress, QUESTION_BYTES_MAX, ToEgress, decode};
use calypte_wire::zygote::encode;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::messages;
use crate::placement::EnvironmentId;
use crate::polled_fd::polled;

/// Shortest time between two starts.
const RESTART_DELAY: Duration = Duration::from_millis(200);
/// How long egress may take to end after its socket was closed.
const EXIT_WAIT_MAX: Duration = Duration::from_secs(2);
/// Accounts whose counts are kept; beyond, those that have no environment are forgotten.
const ACCOUNTS_MAX: usize = 10_000;

/// How egress is started.
#[derive(Debug, Clone)]
pub struct EgressConfig {
    /// The program: normally the running binary itself.
    pub program: PathBuf,
    /// Its arguments: normally `egress`, and what is allowed in addition.
    pub arguments: Vec<OsString>,
}

/// Why a connection could not be handed to an environment.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// There is no environment of that id.
    #[error("environment {environment_id} is not there any more")]
    NoEnvironment {
        /// The id.
        environment_id: u64,
    },
    /// Its monitor does not take it.
    #[error("the environment's monitor does not take the connection")]
    Monitor(#[from] io::Error),
}

/// The worker's end.
#[derive(Debug, Default)]
pub(crate) struct Egress {
    state: Mutex<State>,
    /// There are environments to be registered.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    environments: HashMap<EnvironmentId, Member>,
    /// Environments that the present egress does not know of yet.
    unregistered: Vec<EnvironmentId>,
    counts: HashMap<AccountId, Counts>,
    /// Whose environments have ended here before egress has said what they had asked for.
    departed: HashMap<u64, AccountId>,
    pid: Option<u32>,
    /// Whether there is to be an egress at all.
    is_supervised: bool,
}

#[derive(Debug, Clone)]
struct Member {
    account: AccountId,
    function: FunctionName,
    descriptors: Arc<OwnedFd>,
}

impl Egress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Starts egress and keeps it running; the first start has happened when this returns.
    pub(crate) fn start(self: &Arc<Self>, config: EgressConfig) -> io::Result<JoinHandle<()>> {
        self.lock().is_supervised = true;
        let first = self.spawn(&config)?;
        Ok(tokio::spawn(self.clone().supervise(config, first)))
    }

    /// An environment has begun.
    pub(crate) fn add(&self, id: EnvironmentId, account: AccountId, function: FunctionName, descriptors: Arc<OwnedFd>) {
        let mut state = self.lock();
        state.environments.insert(id, Member { account, function, descriptors });
        if state.is_supervised {
            state.unregistered.push(id);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// An environment has ended.
    pub(crate) fn remove(&self, id: EnvironmentId) {
        let mut state = self.lock();
        let Some(member) = state.environments.remove(&id) else { return };
        if state.pid.is_some() {
            state.departed.insert(id.0, member.account);
        }
    }

    /// The environments of a function.
    pub(crate) fn environments(&self, account: &AccountId, function: &FunctionName) -> Vec<EnvironmentId> {
        let state = self.lock();
        let is_of = |member: &Member| member.account == *account && member.function == *function;
        let mut ids: Vec<EnvironmentId> =
            state.environments.iter().filter(|(_, member)| is_of(member)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Hands a connection to an environment, for a port that a program there listens on.
    pub(crate) fn visit(
        &self,
        id: EnvironmentId,
        port: u16,
        visitor: SocketAddr,
        connection: OwnedFd,
    ) -> Result<(), VisitError> {
        let member = self.lock().environments.get(&id).cloned();
        let member = member.ok_or(VisitError::NoEnvironment { environment_id: id.0 })?;
        let visit = Descriptor::Visit { port, visitor };
        Ok(send_descriptor(member.descriptors.as_fd(), visit, connection.as_fd())?)
    }

    /// What the environments of an account that have ended have asked for.
    pub(crate) fn counts(&self, account: &AccountId) -> Counts {
        self.lock().counts.get(account).copied().unwrap_or_default()
    }

    /// The process that runs at the moment.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.lock().pid
    }

    fn spawn(&self, config: &EgressConfig) -> io::Result<(Child, AsyncFd<OwnedFd>)> {
        let (ours, theirs) = pair()?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let (messages, their_messages) = messages::pipe()?;
        let child = Command::new(&config.program)
            .args(&config.arguments)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Not the server's own, which may be a terminal.
            .stderr(Stdio::from(their_messages))
            // Not the terminal's foreground group: Ctrl-C is for the server, which then ends everything in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        tracing::debug!(pid = child.id(), "egress started");
        messages::pass_on("egress".to_owned(), messages)?;
        let socket = polled(ours, Interest::READABLE | Interest::WRITABLE)?;
        let mut state = self.lock();
        state.pid = child.id();
        state.unregistered = state.environments.keys().copied().collect();
        state.departed.clear();
        Ok((child, socket))
    }

    async fn supervise(self: Arc<Self>, config: EgressConfig, first: (Child, AsyncFd<OwnedFd>)) {
        let mut running = Some(first);
        loop {
            if let Some((mut child, socket)) = running.take() {
                self.serve(&socket).await;
                drop(socket);
                self.lock().pid = None;
                match timeout(EXIT_WAIT_MAX, child.wait()).await {
                    Ok(status) => tracing::warn!(?status, "egress has ended; another one is started"),
                    Err(_) => drop(child.kill().await),
                }
            }
            sleep(RESTART_DELAY).await;
            match self.spawn(&config) {
                Ok(started) => running = Some(started),
                Err(error) => tracing::error!(%error, "egress cannot be started"),
            }
        }
    }

    /// Serves one egress process until it is gone.
    async fn serve(&self, socket: &AsyncFd<OwnedFd>) {
        let mut buffer = [0; QUESTION_BYTES_MAX];
        loop {
            if let Err(error) = self.register_all(socket).await {
                tracing::debug!(%error, "egress takes no more environments");
                return;
            }
            let received = socket.async_io(Interest::READABLE, |socket| {
                Ok(rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?.0)
            });
            let length = tokio::select! {
                received = received => match received {
                    Ok(0) | Err(_) => return,
                    Ok(length) => length,
                },
                () = self.changed.notified() => continue,
            };
            match decode(&buffer[..length], QUESTION_BYTES_MAX) {
                Ok(FromEgress::Ended { environment_id, counts }) => self.count(environment_id, counts),
                Err(error) => {
                    tracing::error!(%error, "egress sent what is no message; it is replaced");
                    return;
                }
            }
        }
    }

    /// Registers the environments that egress does not know of, and hands their monitors the other ends.
    async fn register_all(&self, egress: &AsyncFd<OwnedFd>) -> io::Result<()> {
        loop {
            let (id, member) = {
                let mut state = self.lock();
                let Some(id) = state.unregistered.pop() else { return Ok(()) };
                // It may have ended already.
                let Some(member) = state.environments.get(&id).cloned() else { continue };
                (id, member)
            };
            let (for_egress, for_monitor) = pair()?;
            let account = member.account.to_string();
            let packet = encode(&ToEgress::Register { environment_id: id.0, account });
            egress.async_io(Interest::WRITABLE, |egress| send(egress.as_fd(), &packet, for_egress.as_fd())).await?;
            if let Err(error) = send_descriptor(member.descriptors.as_fd(), Descriptor::Egress, for_monitor.as_fd()) {
                tracing::debug!(environment = id.0, %error, "a monitor does not take its socket to egress");
            }
        }
    }

    fn count(&self, environment_id: u64, counts: Counts) {
        let mut state = self.lock();
        let account = state.departed.remove(&environment_id).or_else(|| {
            // Its monitor has gone, and the worker has not noticed yet.
            state.environments.get(&EnvironmentId(environment_id)).map(|member| member.account.clone())
        });
        let Some(account) = account else { return };
        tracing::debug!(environment_id, %account, ?counts, "connections of an environment");
        if state.counts.len() >= ACCOUNTS_MAX && !state.counts.contains_key(&account) {
            let living: Vec<AccountId> = state.environments.values().map(|member| member.account.clone()).collect();
            state.counts.retain(|account, _| living.contains(account));
        }
        let sum = state.counts.entry(account).or_default();
        sum.connected = sum.connected.saturating_add(counts.connected);
        sum.refused = sum.refused.saturating_add(counts.refused);
        sum.failed = sum.failed.saturating_add(counts.failed);
        sum.limited = sum.limited.saturating_add(counts.limited);
        sum.resolved = sum.resolved.saturating_add(counts.resolved);
    }
}

/// Two ends with message boundaries.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a monitor a descriptor, without waiting.
pub(crate) fn send_descriptor(
    monitor: BorrowedFd<'_>,
    purpose: Descriptor,
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    send(monitor, &encode(&purpose), descriptor)
}

/// Sends a packet with a descriptor, without waiting.
fn send(socket: BorrowedFd<'_>, packet: &[u8], attached: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let attached = [attached];
    assert!(control.push(SendAncillaryMessage::ScmRights(&attached)), "the buffer has the size of this message");
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags)?;
    Ok(())
}
