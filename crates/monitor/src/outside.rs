//! What a guest has beyond its own network: the socket to egress, the connections that egress has opened, and visitors.
//!
//! One thread waits for all of them in one `epoll` instance. Questions are sent by the thread of the virtual CPU that asks;
//! they are kept until they are answered, so that an egress that has died is followed by another one without the guest
//! noticing more than a delay.
//!
//! Lock order: kernel, then the link's.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use calypte_linux::errno::Errno;
use calypte_linux::guest::Guest;
use calypte_linux::net::WayOut;
use calypte_linux::net::egress::{Egress, RequestId, Transport};
use calypte_linux::net::outside::{Outsides, TOKENS};
use calypte_wire::descriptor::Descriptor;
use calypte_wire::egress::{self as wire, Answer, MESSAGE_BYTES_MAX, Question, decode};
use calypte_wire::zygote::{self, encode};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg};

use crate::process;

/// What `epoll` says about the socket to egress. Connections have smaller tokens.
const EGRESS: u64 = TOKENS;
/// What `epoll` says about the socket on which descriptors come.
const DESCRIPTORS: u64 = TOKENS + 1;
/// Events taken at once.
const EVENTS_AT_ONCE: usize = 64;
/// How long questions wait for an egress to be started anew.
const RESTART_PATIENCE: Duration = Duration::from_secs(10);
/// How often that is looked at while there is no egress.
const RESTART_CHECK: Duration = Duration::from_secs(1);

/// The way out of one guest.
#[derive(Debug)]
pub(crate) struct Outside {
    poller: Arc<OwnedFd>,
    link: Option<Link>,
    descriptors: Option<OwnedFd>,
}

/// The connection with egress, whichever process that is at the moment. Clones are the same.
#[derive(Debug, Clone)]
struct Link(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    poller: Arc<OwnedFd>,
    socket: Option<OwnedFd>,
    /// Since when there is none.
    lost_at: Instant,
    /// Questions that have not been answered, encoded.
    outstanding: BTreeMap<u64, Pending>,
    /// Packets that the socket did not take at once.
    unsent: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct Pending {
    packet: Vec<u8>,
    is_connection: bool,
}

/// What is done with a file for the state of the guest.
pub(crate) type OnState = Box<dyn Fn(OwnedFd) + Send>;

/// Why there is no file with the state of a guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoState {
    /// The worker sent something else.
    #[error("the worker did not send the file that the guest is to be restored from")]
    Missing,
    /// The socket.
    #[error("the file that the guest is to be restored from cannot be received")]
    Socket(#[from] rustix::io::Errno),
}

/// Waits for the file with the state of the guest, which is the first descriptor that comes.
pub(crate) fn receive_state(descriptors: BorrowedFd<'_>) -> Result<OwnedFd, NoState> {
    let mut buffer = [0; zygote::MESSAGE_BYTES_MAX];
    loop {
        rustix::event::poll(&mut [PollFd::new(&descriptors, PollFlags::IN)], None)?;
        match receive(descriptors, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok((length, descriptor)) => {
                let is_state = matches!(zygote::decode(&buffer[..length]), Ok(Descriptor::State));
                return descriptor.filter(|_| is_state).ok_or(NoState::Missing);
            }
        }
    }
}

/// An answer, with what came with it.
struct Received {
    answer: Answer,
    descriptor: Option<OwnedFd>,
}

impl Outside {
    /// A way out without anything yet: with `has_egress` questions may be asked, and wait for the socket. Further
    /// descriptors come on `descriptors`.
    pub(crate) fn new(has_egress: bool, descriptors: Option<OwnedFd>) -> rustix::io::Result<Self> {
        let poller = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        if let Some(descriptors) = &descriptors {
            epoll::add(&poller, descriptors, EventData::new_u64(DESCRIPTORS), EventFlags::IN)?;
        }
        let link = has_egress.then(|| Link::new(poller.clone()));
        Ok(Self { poller, link, descriptors })
    }

    /// What the guest is given.
    pub(crate) fn way_out(&self) -> WayOut {
        let egress = self.link.clone().map(|link| Box::new(link) as Box<dyn Egress>);
        WayOut { egress, outsides: Outsides::new(self.poller.clone()) }
    }

    /// Starts the thread that moves everything.
    pub(crate) fn serve(self, guest: &Arc<Guest>, on_state: OnState) {
        let guest = Arc::clone(guest);
        process::spawn("outside", move || self.run(&guest, &on_state));
    }

    fn run(mut self, guest: &Guest, on_state: &OnState) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            events.clear();
            let is_lost = self.link.as_ref().is_some_and(Link::is_lost);
            let pause = is_lost.then(|| RESTART_CHECK.try_into().expect("a second is a time"));
            match epoll::wait(&self.poller, rustix::buffer::spare_capacity(&mut events), pause.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the guest's connections are not watched any more");
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    EGRESS => self.take_answers(guest),
                    DESCRIPTORS => self.take_descriptors(guest, on_state),
                    _ => {}
                }
            }
            wake(guest, &events);
            if let Some(link) = &self.link {
                link.give_up(guest);
            }
        }
    }

    fn take_answers(&self, guest: &Guest) {
        let Some(link) = &self.link else { return };
        for received in link.receive() {
            let mut kernel = guest.lock();
            match received.answer {
                Answer::Connected { request } => {
                    let answer = received.descriptor.ok_or(Errno::EIO);
                    kernel.network.connection_answered(RequestId(request), answer);
                }
                Answer::Refused { request, errno } => {
                    let errno = Errno(u16::try_from(errno).unwrap_or(Errno::EIO.0));
                    kernel.network.connection_answered(RequestId(request), Err(errno));
                    kernel.network.question_answered(RequestId(request), None);
                }
                Answer::Resolved { request, answer } => {
                    let answer = (!answer.is_empty()).then_some(answer);
                    kernel.network.question_answered(RequestId(request), answer);
                }
            }
        }
    }

    /// Takes one descriptor that the worker sent.
    fn take_descriptors(&mut self, guest: &Guest, on_state: &OnState) {
        let Some(descriptors) = &self.descriptors else { return };
        let mut buffer = [0; zygote::MESSAGE_BYTES_MAX];
        let received = receive(descriptors.as_fd(), &mut buffer);
        let (length, Some(descriptor)) = (match received {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Err(_) => (0, None),
        }) else {
            // The worker has gone, and this process ends; or it is confused.
            self.descriptors = None;
            return;
        };
        match zygote::decode(&buffer[..length]) {
            Ok(Descriptor::Egress) => {
                if let Some(link) = &self.link {
                    link.connect(descriptor);
                }
            }
            Ok(Descriptor::State) => on_state(descriptor),
            Ok(Descriptor::Visit { port, visitor }) => visit(guest, port, visitor, descriptor),
            Err(error) => tracing::error!(%error, "the worker sent a descriptor without saying what for"),
        }
    }
}

/// Lets a visitor in, or turns it away by closing the connection.
fn visit(guest: &Guest, port: u16, visitor: SocketAddr, descriptor: OwnedFd) {
    let mut guard = guest.lock();
    let kernel = &mut *guard;
    let budget = kernel.files.buffers().clone();
    if let Err(errno) = kernel.network.visit(port, visitor, descriptor, &budget) {
        tracing::debug!(port, %visitor, errno = errno.name(), "a visitor was turned away");
    }
}

/// Tells sockets that their connections may be ready.
fn wake(guest: &Guest, events: &[epoll::Event]) {
    if events.iter().all(|event| event.data.u64() >= TOKENS) {
        return;
    }
    let mut kernel = guest.lock();
    for event in events.iter().filter(|event| event.data.u64() < TOKENS) {
        let (token, flags) = (event.data.u64(), event.flags);
        let is_over = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let is_readable = is_over || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        kernel.network.outside_ready(token, is_readable, is_over || flags.contains(EventFlags::OUT));
    }
}

impl Link {
    fn new(poller: Arc<OwnedFd>) -> Self {
        let lost_at = Instant::now();
        let (outstanding, unsent) = Default::default();
        Self(Arc::new(Mutex::new(State { poller, socket: None, lost_at, outstanding, unsent })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_lost(&self) -> bool {
        self.lock().socket.is_none()
    }

    /// Speaks with another egress from now on, and asks it what has not been answered.
    fn connect(&self, socket: OwnedFd) {
        let mut state = self.lock();
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        let added = epoll::add(&state.poller, &socket, EventData::new_u64(EGRESS), flags);
        if let Err(error) = added {
            tracing::error!(%error, "the socket to egress cannot be watched");
            return;
        }
        state.socket = Some(socket);
        state.unsent = state.outstanding.values().map(|pending| pending.packet.clone()).collect();
        state.flush();
    }

    /// Takes the answers that have arrived.
    fn receive(&self) -> Vec<Received> {
        let mut state = self.lock();
        state.flush();
        let mut all = Vec::new();
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        while let Some(socket) = &state.socket {
            match receive(socket.as_fd(), &mut buffer) {
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Ok((0, _)) | Err(_) => {
                    tracing::debug!("egress is gone");
                    state.socket = None;
                    state.lost_at = Instant::now();
                }
                Ok((length, descriptor)) => match decode(&buffer[..length], MESSAGE_BYTES_MAX) {
                    Ok(answer) => {
                        let (Answer::Connected { request }
                        | Answer::Refused { request, .. }
                        | Answer::Resolved { request, .. }) = &answer;
                        state.outstanding.remove(request);
                        all.push(Received { answer, descriptor });
                    }
                    Err(error) => tracing::error!(%error, "egress sent what is no answer"),
                },
            }
        }
        all
    }

    /// Answers questions itself that no egress will answer.
    fn give_up(&self, guest: &Guest) {
        let failed = {
            let mut state = self.lock();
            if state.socket.is_some() || state.lost_at.elapsed() < RESTART_PATIENCE {
                return;
            }
            std::mem::take(&mut state.outstanding)
        };
        if failed.is_empty() {
            return;
        }
        let mut kernel = guest.lock();
        for (request, pending) in failed {
            if pending.is_connection {
                kernel.network.connection_answered(RequestId(request), Err(Errno::ENETUNREACH));
            } else {
                kernel.network.question_answered(RequestId(request), None);
            }
        }
    }

    fn ask(&self, request: u64, question: &Question, is_connection: bool) {
        let packet = encode(question);
        let mut state = self.lock();
        state.unsent.push_back(packet.clone());
        state.outstanding.insert(request, Pending { packet, is_connection });
        state.flush();
    }
}

impl State {
    /// Sends what the socket takes.
    fn flush(&mut self) {
        let Some(socket) = &self.socket else {
            self.unsent.clear();
            return;
        };
        while let Some(packet) = self.unsent.front() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(socket, packet, flags) {
                Ok(_) => drop(self.unsent.pop_front()),
                Err(rustix::io::Errno::INTR) => {}
                // There will be an event: room for more, or the end.
                Err(_) => return,
            }
        }
    }
}

impl Egress for Link {
    fn connect(&mut self, request: RequestId, transport: Transport, target: SocketAddr) {
        let transport = match transport {
            Transport::Tcp => wire::Transport::Tcp,
            Transport::Udp => wire::Transport::Udp,
        };
        self.ask(request.0, &Question::Connect { request: request.0, transport, target }, true);
    }

    fn resolve(&mut self, request: RequestId, query: &[u8]) {
        self.ask(request.0, &Question::Resolve { request: request.0, query: query.to_vec() }, false);
    }

    fn cancel(&mut self, request: RequestId) {
        let mut state = self.lock();
        if state.outstanding.remove(&request.0).is_some() {
            state.unsent.push_back(encode(&Question::Cancel { request: request.0 }));
            state.flush();
        }
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptor))
}
