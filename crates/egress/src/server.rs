//! The process: one thread that serves the worker and every environment.
//!
//! An environment has a task that reads its questions, and one for each question that waits for somebody else. It ends with
//! its socket. The process ends with the worker's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use calypte_wire::egress::{
    Answer, Counts, FromEgress, MESSAGE_BYTES_MAX, QUESTION_BYTES_MAX, Question, ToEgress, Transport, decode,
};
use calypte_wire::frame::FrameError;
use calypte_wire::zygote::encode;
use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::limit::{ACCOUNT, ENVIRONMENT, Meter};
use crate::names::{Names, NamesError};
use crate::packet::{Packet, PacketSocket};
use crate::policy::{Allowance, EnvironmentId, Policy};

/// How long the other side of a connection may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a question about a name may take in all.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of one environment that are being opened or wait for their monitor to take them.
const CONNECTIONS_AT_ONCE: usize = 128;
/// What a monitor may leave unread, in bytes as the kernel counts them. An answer must be shorter.
const UNREAD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 1024;
/// How long a monitor may leave an answer unread for which there is no room, before it is not served any more.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a monitor that asks for too much waits for each further refusal.
const LIMITED_PAUSE: Duration = Duration::from_millis(5);
/// Lines about refused connections of one environment, in one second; more are counted.
const LINES_PER_SECOND: u32 = 50;

/// What is configured.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Ranges that are allowed besides public addresses.
    pub allowed: Vec<Allowance>,
    /// Name servers; those of the host if there are none.
    pub name_servers: Vec<SocketAddr>,
}

/// Why egress cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The host refused something.
    #[error("egress could not {operation}")]
    Host {
        /// What was attempted.
        operation: &'static str,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// There is no resolver.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// The worker sent what is no message.
    #[error("the worker sent something that is not a message to egress")]
    Message(#[from] FrameError),
}

/// What a monitor that was taken over may send and no other does.
#[derive(Debug, thiserror::Error)]
enum Violation {
    #[error("a packet is no question")]
    Message(#[from] FrameError),
    #[error("a packet is longer than {QUESTION_BYTES_MAX} bytes, or comes with several descriptors")]
    Truncated,
    #[error("a packet comes with a descriptor")]
    Descriptor,
}

/// The question in a packet of a monitor.
fn question(packet: &Packet, buffer: &[u8]) -> Result<Question, Violation> {
    match packet {
        Packet { is_truncated: true, .. } => Err(Violation::Truncated),
        Packet { descriptor: Some(_), .. } => Err(Violation::Descriptor),
        Packet { length, .. } => Ok(decode(&buffer[..*length], QUESTION_BYTES_MAX)?),
    }
}

fn refused(operation: &'static str) -> impl Fn(io::Error) -> EgressError {
    move |source| EgressError::Host { operation, source }
}

/// What all environments share.
struct Shared {
    policy: Policy,
    names: Names,
    worker: PacketSocket,
    accounts: RefCell<BTreeMap<String, Rc<RefCell<Meter>>>>,
}

/// An egress that has read all that it needs of the host's files. It has one thread and has looked at no message, so that
/// its process can be jailed now.
#[derive(Debug)]
pub struct Prepared {
    runtime: Runtime,
    policy: Policy,
    names: Names,
}

impl Prepared {
    /// Reads the host's resolver configuration, if there are no name servers in `config`.
    pub fn new(config: Config) -> Result<Self, EgressError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(refused("start"))?;
        let names = {
            let _inside = runtime.enter();
            Names::new(&config.name_servers)?
        };
        Ok(Self { runtime, policy: Policy::new(config.allowed), names })
    }

    /// Runs egress on its socket to the worker until that closes.
    pub fn serve(self, socket: OwnedFd) -> Result<(), EgressError> {
        let Self { runtime, policy, names } = self;
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let worker = PacketSocket::new(socket).map_err(refused("use its socket"))?;
            let shared = Rc::new(Shared { policy, names, worker, accounts: RefCell::default() });
            serve_worker(&shared).await
        })
    }
}

async fn serve_worker(shared: &Rc<Shared>) -> Result<(), EgressError> {
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        let received = shared.worker.receive(&mut buffer).await.map_err(refused("receive from the worker"))?;
        let Some(Packet { length, descriptor, .. }) = received else { return Ok(()) };
        let ToEgress::Register { environment_id, account } = decode(&buffer[..length], QUESTION_BYTES_MAX)?;
        let Some(socket) = descriptor.and_then(|descriptor| PacketSocket::new(descriptor).ok()) else {
            tracing::error!(environment = environment_id, "the worker registered an environment without a socket");
            continue;
        };
        if let Err(error) = socket.bound_unread(UNREAD_BYTES_MAX) {
            tracing::warn!(environment = environment_id, %error, "what a monitor leaves unread cannot be bounded");
        }
        let environment = Environment::new(environment_id, &account, socket, shared);
        tokio::task::spawn_local(environment.run());
    }
}

/// One environment.
struct Environment {
    id: EnvironmentId,
    account: String,
    socket: PacketSocket,
    shared: Rc<Shared>,
    meter: RefCell<Meter>,
    account_meter: Rc<RefCell<Meter>>,
    counts: Cell<Counts>,
    outstanding: RefCell<BTreeMap<u64, JoinHandle<()>>>,
    connections: Semaphore,
    /// The monitor has not read an answer in time.
    is_deaf: Notify,
    lines: Cell<(Instant, u32)>,
}

impl Environment {
    fn new(id: u64, account: &str, socket: PacketSocket, shared: &Rc<Shared>) -> Rc<Self> {
        let now = Instant::now();
        let mut accounts = shared.accounts.borrow_mut();
        // Accounts without an environment need not be remembered.
        accounts.retain(|_, meter| Rc::strong_count(meter) > 1);
        let account_meter =
            accounts.entry(account.to_owned()).or_insert_with(|| Rc::new(RefCell::new(Meter::new(ACCOUNT, now))));
        Rc::new(Self {
            id: EnvironmentId(id),
            account: account.to_owned(),
            socket,
            account_meter: account_meter.clone(),
            meter: RefCell::new(Meter::new(ENVIRONMENT, now)),
            shared: shared.clone(),
            counts: Cell::default(),
            outstanding: RefCell::default(),
            connections: Semaphore::new(CONNECTIONS_AT_ONCE),
            is_deaf: Notify::new(),
            lines: Cell::new((now, 0)),
        })
    }

    async fn run(self: Rc<Self>) {
        let mut buffer = vec![0; QUESTION_BYTES_MAX];
        loop {
            let received = tokio::select! {
                biased;
                () = self.is_deaf.notified() => {
                    tracing::error!(environment = self.id.0, "a monitor does not read its answers: it is not served any more");
                    break;
                }
                received = self.socket.receive(&mut buffer) => received,
            };
            match received {
                Ok(Some(packet)) => match question(&packet, &buffer) {
                    Ok(question) => self.serve(question).await,
                    Err(error) => {
                        let environment = self.id.0;
                        tracing::error!(environment, %error, "a monitor broke the rules: it is not served any more");
                        break;
                    }
                },
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(environment = self.id.0, %error, "the socket of an environment failed");
                    break;
                }
            }
        }
        for task in std::mem::take(&mut *self.outstanding.borrow_mut()).into_values() {
            task.abort();
            self.end();
        }
        let ended = FromEgress::Ended { environment_id: self.id.0, counts: self.counts.get() };
        if let Err(error) = self.shared.worker.send(&encode(&ended), None).await {
            tracing::debug!(%error, "the worker is not told of an environment's end");
        }
    }

    async fn serve(self: &Rc<Self>, question: Question) {
        let request = match question {
            Question::Connect { request, .. } | Question::Resolve { request, .. } => request,
            Question::Cancel { request } => {
                let task = self.outstanding.borrow_mut().remove(&request);
                match task {
                    Some(task) => {
                        task.abort();
                        self.end();
                    }
                    // The answer may have crossed it; otherwise it is nonsense, of which there shall not be much.
                    None => sleep(LIMITED_PAUSE).await,
                }
                return;
            }
        };
        if self.outstanding.borrow().contains_key(&request) || !self.begin() {
            self.count(|counts| counts.limited += 1);
            let (account, environment) = (&self.account, self.id.0);
            if self.may_log() {
                tracing::warn!(environment, account, "a request of an environment is over the limit of its rate");
            }
            self.refuse(request, Errno::NOBUFS.raw_os_error()).await;
            return sleep(LIMITED_PAUSE).await;
        }
        let (environment, inner) = (self.clone(), self.clone());
        let task = tokio::task::spawn_local(async move {
            match question {
                Question::Connect { transport, target, .. } => environment.connect(request, transport, target).await,
                Question::Resolve { query, .. } => environment.resolve(request, &query).await,
                Question::Cancel { .. } => {}
            }
            if environment.outstanding.borrow_mut().remove(&request).is_some() {
                environment.end();
            }
        });
        inner.outstanding.borrow_mut().insert(request, task);
    }

    fn begin(&self) -> bool {
        let now = Instant::now();
        let (mut own, mut account) = (self.meter.borrow_mut(), self.account_meter.borrow_mut());
        let has_room = own.has_room(now) && account.has_room(now);
        if has_room {
            own.begin();
            account.begin();
        }
        has_room
    }

    fn end(&self) {
        self.meter.borrow_mut().end();
        self.account_meter.borrow_mut().end();
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Whether one more line may be logged for this environment in this second.
    fn may_log(&self) -> bool {
        let (since, count) = self.lines.get();
        let (since, count) =
            if since.elapsed() >= Duration::from_secs(1) { (Instant::now(), 0) } else { (since, count) };
        self.lines.set((since, count + 1));
        count < LINES_PER_SECOND
    }

    async fn connect(&self, request: u64, transport: Transport, target: SocketAddr) {
        let destination = self.shared.policy.destination(target);
        if let Err(rule) = self.shared.policy.check(self.id, destination) {
            self.count(|counts| counts.refused += 1);
            if self.may_log() {
                let (environment, account) = (self.id.0, &self.account);
                tracing::warn!(environment, account, %target, "connection refused by {rule}; --egress-allow may allow it");
            }
            return self.refuse(request, Errno::ACCESS.raw_os_error()).await;
        }
        // Kept until the monitor's socket has taken the connection.
        let Ok(_turn) = self.connections.acquire().await else { return };
        let opened = match transport {
            Transport::Tcp => match timeout(CONNECT_TIMEOUT, TcpStream::connect(destination)).await {
                Ok(stream) => stream.and_then(TcpStream::into_std).map(OwnedFd::from),
                Err(_) => Err(Errno::TIMEDOUT.into()),
            },
            Transport::Udp => associate(destination),
        };
        match opened {
            Ok(socket) => {
                self.count(|counts| counts.connected += 1);
                if let Err(error) = self.answer(&Answer::Connected { request }, Some(socket)).await {
                    // Most likely too many descriptors are on their way to monitors (ETOOMANYREFS).
                    tracing::warn!(environment = self.id.0, %error, "a connection could not be passed to a monitor");
                    self.refuse(request, Errno::NOBUFS.raw_os_error()).await;
                }
            }
            Err(error) => {
                self.count(|counts| counts.failed += 1);
                tracing::debug!(environment = self.id.0, %target, %error, "connection failed");
                let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
                self.refuse(request, errno).await;
            }
        }
    }

    async fn resolve(&self, request: u64, query: &[u8]) {
        self.count(|counts| counts.resolved += 1);
        let answer = timeout(RESOLVE_TIMEOUT, self.shared.names.answer(query)).await.ok().flatten();
        let answer = Answer::Resolved { request, answer: answer.unwrap_or_default() };
        if let Err(error) = self.answer(&answer, None).await {
            tracing::debug!(environment = self.id.0, %error, "an environment is not there any more to be answered");
        }
    }

    async fn refuse(&self, request: u64, errno: i32) {
        if let Err(error) = self.answer(&Answer::Refused { request, errno }, None).await {
            tracing::debug!(environment = self.id.0, %error, "an environment is not there any more to be refused something");
        }
    }

    /// Sends an answer. One that the monitor leaves no room for is dropped in the end, and so is the monitor.
    async fn answer(&self, answer: &Answer, attached: Option<OwnedFd>) -> io::Result<()> {
        let attached = attached.as_ref().map(AsFd::as_fd);
        match timeout(ANSWER_PATIENCE, self.socket.send(&encode(answer), attached)).await {
            Ok(result) => result,
            Err(_) => {
                self.is_deaf.notify_one();
                Ok(())
            }
        }
    }
}

/// A socket for datagrams to and from one address.
fn associate(destination: SocketAddr) -> io::Result<OwnedFd> {
    let any: SocketAddr = match destination {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(destination)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
