//! A zygote, an egress and monitors that are real processes and run no guest: the test binary itself, started with the name of one of
//! the "tests" below. What a monitor does is chosen by the function's first argument (from its start on) and by the
//! event (during an invocation), so that every kind of misbehaviour can be ordered through the worker's public interface.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calypte_types::limits::PAYLOAD_BYTES_MAX;
use calypte_wire::descriptor::Descriptor;
use calypte_wire::egress::{Counts, FromEgress, QUESTION_BYTES_MAX, ToEgress};
use calypte_wire::frame::{Decoder, encode};
use calypte_wire::monitor::{
    ExitCause, Invoke, LOG_BYTES_MAX, Start, TO_MONITOR_BYTES_MAX, TO_WORKER_BYTES_MAX, ToMonitor, ToWorker, Usage,
};
use calypte_wire::zygote::{FromZygote, MESSAGE_BYTES_MAX, ToZygote};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use rustix::process::{Signal, getpid, getppid, kill_process};

/// Name of the test that is the zygote.
pub(crate) const ZYGOTE: &str = "fake::zygote_process";
const MONITOR: &str = "fake::monitor_process";
/// Name of the test that is egress.
pub(crate) const EGRESS: &str = "fake::egress_process";
/// What a monitor asks an egress for that is to break the rules.
const GARBAGE: &[u8] = b"garbage";
const FLOOD: &[u8] = b"flood";

/// Arguments that make the test binary run one test only.
pub(crate) fn arguments(test: &str) -> Vec<String> {
    [test, "--exact", "--nocapture", "--test-threads=1"].map(str::to_owned).to_vec()
}

/// Whether this process was started by [`arguments`] and not by somebody who runs all tests.
fn is_ordered(test: &str) -> bool {
    std::env::args().skip(1).eq(arguments(test))
}

fn stdin_as_owned() -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).unwrap()
}

/// The zygote, when it was started as one. It spawns instead of forking, which needs no unsafe code.
#[test]
fn zygote_process() {
    if !is_ordered(ZYGOTE) {
        return;
    }
    let socket = Arc::new(stdin_as_owned());
    let lock = Arc::new(Mutex::new(()));
    while let Some((message, [messages, descriptors, errors])) = receive(&socket) {
        let ToZygote::Fork { environment_id } = message;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(arguments(MONITOR))
            .stdin(messages)
            // The test harness prints a line or two there, which a worker has to bear.
            .stdout(descriptors)
            .stderr(errors)
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        answer(&socket, &FromZygote::Forked { environment_id, pid });
        let (socket, lock) = (socket.clone(), lock.clone());
        std::thread::spawn(move || {
            let status = child.wait().unwrap().code().unwrap_or(137);
            let _one_at_a_time = lock.lock();
            answer(&socket, &FromZygote::Ended { environment_id, status });
        });
    }
    std::process::exit(0);
}

fn answer(socket: &OwnedFd, message: &FromZygote) {
    // The worker may have gone.
    let _ = rustix::net::send(socket, &calypte_wire::zygote::encode(message), SendFlags::NOSIGNAL);
}

fn receive(socket: &OwnedFd) -> Option<(ToZygote, [OwnedFd; 3])> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let attached = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>().try_into().ok(),
        _ => None,
    });
    (received.bytes > 0).then(|| (calypte_wire::zygote::decode(&bytes[..received.bytes]).unwrap(), attached.unwrap()))
}

/// A monitor, when it was started as one.
#[test]
fn monitor_process() {
    if is_ordered(MONITOR) {
        let mut monitor = Monitor {
            socket: UnixStream::from(stdin_as_owned()),
            descriptors: rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).unwrap(),
            decoder: Decoder::new(TO_MONITOR_BYTES_MAX),
        };
        // Only the copies are to keep the sockets open, so that closing them can be tried.
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null").unwrap()).unwrap();
        rustix::stdio::dup2_stdout(std::fs::File::options().write(true).open("/dev/null").unwrap()).unwrap();
        monitor.run();
        std::process::exit(0);
    }
}

/// Egress, when it was started as one: it knows its environments and opens nothing. What a monitor sends it comes back,
/// unless it orders a misdeed.
#[test]
fn egress_process() {
    if !is_ordered(EGRESS) {
        return;
    }
    let worker = Arc::new(stdin_as_owned());
    while let Some((register, environment)) = take_packet(&worker) {
        let ToEgress::Register { environment_id, .. } =
            calypte_wire::egress::decode(&register, QUESTION_BYTES_MAX).unwrap();
        let (worker, environment) = (worker.clone(), environment.expect("its socket comes with it"));
        std::thread::spawn(move || {
            while let Some((packet, _)) = take_packet(&environment) {
                // First: the worker may end this process for the misdeed.
                send_packet(&environment, &packet, None);
                match packet.as_slice() {
                    GARBAGE => send_packet(&worker, b"\xff\xff\xff", None),
                    FLOOD => flood_of_ends(&worker, environment_id),
                    _ => {}
                }
            }
        });
    }
    std::process::exit(0);
}

/// Says that environments have ended which are not there, and an own one over and over again.
fn flood_of_ends(worker: &OwnedFd, own: u64) {
    let most = u64::MAX;
    let counts = Counts { connected: most, refused: most, failed: most, limited: most, resolved: most };
    for environment_id in (1_000_000..1_010_000).chain([own; 10]) {
        let ended = calypte_wire::zygote::encode(&FromEgress::Ended { environment_id, counts });
        // The worker may have gone.
        let _ = rustix::net::send(worker, &ended, SendFlags::NOSIGNAL);
    }
}

/// The next packet and what came with it; `None` when the other end is closed.
fn take_packet(socket: &OwnedFd) -> Option<(Vec<u8>, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; QUESTION_BYTES_MAX];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let attached = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    bytes.truncate(received.bytes);
    (received.bytes > 0).then_some((bytes, attached))
}

fn send_packet(socket: &OwnedFd, packet: &[u8], attached: Option<&OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let attached: Vec<_> = attached.iter().map(|fd| fd.as_fd()).collect();
    assert!(attached.is_empty() || control.push(SendAncillaryMessage::ScmRights(&attached)));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    // The other end may have gone, or take no more.
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags);
}

struct Monitor {
    socket: UnixStream,
    /// Where descriptors come from the worker.
    descriptors: OwnedFd,
    decoder: Decoder,
}

impl Monitor {
    fn run(&mut self) {
        // None when the worker has shut down meanwhile.
        let Some(ToMonitor::Start(start)) = self.receive() else { return };
        self.initialise(&start);
        while let Some(ToMonitor::Invoke(invoke)) = self.receive() {
            self.invoke(&invoke);
        }
        if start.arguments.first().is_some_and(|argument| argument == "stubborn") {
            hang();
        }
    }

    fn receive(&mut self) -> Option<ToMonitor> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                return Some(message);
            }
            match self.socket.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
            }
        }
    }

    /// An ended worker is no error here.
    fn send(&mut self, message: &ToWorker) {
        self.send_bytes(&encode(message));
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        if self.socket.write_all(bytes).is_err() {
            std::process::exit(0);
        }
    }

    fn print(&mut self, text: &str) {
        self.send(&ToWorker::Log { bytes: text.as_bytes().to_vec(), dropped_bytes: 0 });
    }

    fn exited(&mut self, cause: ExitCause) {
        self.send(&ToWorker::Exited { cause, usage: usage() });
        std::process::exit(0);
    }

    fn initialise(&mut self, start: &Start) {
        match start.arguments.first().map_or("", String::as_str) {
            "init-error" => {
                self.print("traceback\n");
                let payload = br#"{"errorMessage":"bad import"}"#.to_vec();
                self.send(&ToWorker::InitError { error_type: "Runtime.ImportModuleError".into(), payload });
                self.exited(ExitCause::Status(1));
            }
            "init-exit" => self.exited(ExitCause::Status(1)),
            "init-cannot-start" => self.exited(ExitCause::Failed("/var/task/bootstrap: no such file".into())),
            "init-vanishes" => std::process::exit(1),
            "init-hangs" => hang(),
            "init-garbage" => self.send_bytes(b"\x05\0\0\0\xff\xff\xff\xff\xff"),
            "init-answers" => self.respond("no-request", b"{}".to_vec()),
            "init-slow" => std::thread::sleep(Duration::from_millis(700)),
            "deaf" => {
                self.send(&ToWorker::Ready { usage: usage() });
                hang();
            }
            _ => self.print("initialised\n"),
        }
        self.send(&ToWorker::Ready { usage: usage() });
    }

    fn invoke(&mut self, invoke: &Invoke) {
        let id = invoke.request_id.as_str();
        let event = String::from_utf8_lossy(&invoke.payload).into_owned();
        match event.as_str() {
            "unknown request" => self.respond("00000000-0000-4000-8000-000000000000", b"{}".to_vec()),
            "two responses" => {
                self.respond(id, b"first".to_vec());
                self.respond(id, b"second".to_vec());
            }
            "ready out of turn" => self.send(&ToWorker::Ready { usage: usage() }),
            "init error out of turn" => {
                self.send(&ToWorker::InitError { error_type: String::new(), payload: Vec::new() });
            }
            "oversized frame" => self.send_bytes(&u32::MAX.to_le_bytes()),
            "frame over the limit" => {
                let length = TO_WORKER_BYTES_MAX + 1;
                self.send_bytes(&u32::try_from(length).unwrap().to_le_bytes());
                self.send_bytes(&vec![0; length]);
            }
            "malformed frame" => self.send_bytes(b"\x04\0\0\0\xff\xff\xff\xff"),
            "half a frame" => {
                self.send_bytes(b"\x04\0\0\0\xff");
                hang();
            }
            "response over the limit" => self.respond(id, vec![b' '; PAYLOAD_BYTES_MAX + 1]),
            "output over the limit" => {
                self.send(&ToWorker::Log { bytes: vec![b'x'; LOG_BYTES_MAX + 1], dropped_bytes: 0 });
            }
            "silence" => hang(),
            "closes and stays" => {
                rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap();
                hang();
            }
            "vanishes" => std::process::exit(1),
            "is killed" => kill_process(getpid(), Signal::KILL).unwrap(),
            "endless output" => loop {
                self.print(&"x\n".repeat(LOG_BYTES_MAX / 2));
            },
            "much output" => {
                for _ in 0..2048 {
                    self.print(&"0123456789abcde\n".repeat(LOG_BYTES_MAX / 16));
                }
                self.respond(id, b"done".to_vec());
            }
            "never ready" => {
                self.respond(id, b"answer".to_vec());
                hang();
            }
            "exits when idle" => {
                self.respond(id, b"answer".to_vec());
                self.send(&ToWorker::Ready { usage: usage() });
                self.exited(ExitCause::Status(0));
            }
            "garbage when idle" => {
                self.respond(id, b"answer".to_vec());
                self.send(&ToWorker::Ready { usage: usage() });
                self.respond(id, b"another".to_vec());
                hang();
            }
            "exit 0" => self.exited(ExitCause::Status(0)),
            "exit 1" => self.exited(ExitCause::Status(1)),
            "segmentation fault" => self.exited(ExitCause::Signal(11)),
            "out of memory" => self.exited(ExitCause::OutOfMemory),
            "raises" => {
                let payload = br#"{"errorMessage":"no","errorType":"ValueError"}"#.to_vec();
                let (request_id, error_type) = (id.to_owned(), "ValueError".to_owned());
                self.send(&ToWorker::Failure { request_id, error_type, payload, usage: usage() });
            }
            "too large" => {
                let (request_id, payload_bytes) = (id.to_owned(), 7_000_000);
                self.send(&ToWorker::ResponseTooLarge { request_id, payload_bytes, usage: usage() });
            }
            "unasked for" => {
                // On the socket on which the worker only sends: garbage, and descriptors.
                for _ in 0..10_000 {
                    send_packet(&self.descriptors, b"\xff\xff\xff", None);
                    send_packet(&self.descriptors, b"take this", Some(&stdin_as_owned()));
                }
                self.respond(id, b"sent".to_vec());
            }
            "closes its descriptors" => {
                self.descriptors = stdin_as_owned();
                self.respond(id, b"closed".to_vec());
            }
            "takes a visitor" => {
                let (port, connection) = self.take_descriptor(|descriptor| match descriptor {
                    Descriptor::Visit { port, .. } => Some(port),
                    Descriptor::Egress | Descriptor::State => None,
                });
                UnixStream::from(connection).write_all(b"welcome").unwrap();
                self.respond(id, port.to_string().into_bytes());
            }
            "asks egress" | "has egress flood" | "has egress break the rules" => {
                let take = |monitor: &Self| monitor.take_descriptor(|to| (to == Descriptor::Egress).then_some(())).1;
                let egress = take(self);
                let packet = match event.as_str() {
                    "asks egress" => &b"question"[..],
                    "has egress flood" => FLOOD,
                    _ => GARBAGE,
                };
                send_packet(&egress, packet, None);
                assert_eq!(take_packet(&egress).map(|(bytes, _)| bytes).as_deref(), Some(packet));
                if packet == GARBAGE {
                    // The worker starts another one and says so.
                    let egress = take(self);
                    send_packet(&egress, b"question", None);
                    assert!(take_packet(&egress).is_some());
                }
                self.respond(id, packet.to_vec());
            }
            "panics" => panic!("the fake monitor panics now"),
            "floods the log" => {
                let line = format!("\x1b[2J\x1b]0;owned\x07 WARN the flood {}\n", "x".repeat(100));
                for _ in 0..200_000 {
                    // What is not taken is lost, as for any monitor.
                    let _ = std::io::stderr().write(line.as_bytes());
                }
                self.respond(id, b"flooded".to_vec());
            }
            "pids" => {
                let pids = format!("{} {}", getpid().as_raw_pid(), getppid().unwrap().as_raw_pid());
                self.respond(id, pids.into_bytes());
            }
            "waits" => {
                std::thread::sleep(Duration::from_millis(300));
                self.respond(id, b"waited".to_vec());
            }
            "prints" => {
                self.print("hello ");
                self.print("world\nunfinished");
                self.respond(id, b"printed".to_vec());
            }
            _ => self.respond(id, invoke.payload.clone()),
        }
        self.send(&ToWorker::Ready { usage: usage() });
    }

    /// The first descriptor from the worker that is wanted.
    fn take_descriptor<T>(&self, wanted: impl Fn(Descriptor) -> Option<T>) -> (T, OwnedFd) {
        loop {
            let (packet, attached) = take_packet(&self.descriptors).expect("the worker is there");
            if let Some(found) = wanted(calypte_wire::zygote::decode(&packet).unwrap()) {
                return (found, attached.expect("a descriptor comes with it"));
            }
        }
    }

    fn respond(&mut self, request_id: &str, payload: Vec<u8>) {
        let request_id = request_id.to_owned();
        self.send(&ToWorker::Response { request_id, content_type: None, payload, usage: usage() });
    }
}

fn usage() -> Usage {
    Usage { memory_peak_bytes: 40 * 1024 * 1024, exits: 1, cpu_us: 1 }
}

/// Whatever happens: only a signal ends this while its test runs. The bound is for tests that fail before they clean up.
fn hang() -> ! {
    std::thread::sleep(Duration::from_secs(60));
    std::process::exit(0);
}
