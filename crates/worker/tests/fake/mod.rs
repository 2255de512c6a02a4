//! A zygote and monitors that are real processes and run no guest: the test binary itself, started with the name of one of
//! the two "tests" below. What a monitor does is chosen by the function's first argument (from its start on) and by the
//! event (during an invocation), so that every kind of misbehaviour can be ordered through the worker's public interface.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calypte_types::limits::PAYLOAD_BYTES_MAX;
use calypte_wire::frame::{Decoder, encode};
use calypte_wire::monitor::{
    ExitCause, Invoke, LOG_BYTES_MAX, Start, TO_MONITOR_BYTES_MAX, TO_WORKER_BYTES_MAX, ToMonitor, ToWorker, Usage,
};
use calypte_wire::zygote::{FromZygote, MESSAGE_BYTES_MAX, ToZygote};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use rustix::process::{Signal, getpid, getppid, kill_process};

/// Name of the test that is the zygote.
pub(crate) const ZYGOTE: &str = "fake::zygote_process";
const MONITOR: &str = "fake::monitor_process";

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
    while let Some((message, attached)) = receive(&socket) {
        let ToZygote::Fork { environment_id } = message;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(arguments(MONITOR))
            .stdin(attached)
            .stdout(Stdio::null())
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

fn receive(socket: &OwnedFd) -> Option<(ToZygote, OwnedFd)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let attached = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (received.bytes > 0).then(|| (calypte_wire::zygote::decode(&bytes[..received.bytes]).unwrap(), attached.unwrap()))
}

/// A monitor, when it was started as one.
#[test]
fn monitor_process() {
    if is_ordered(MONITOR) {
        let mut monitor =
            Monitor { socket: UnixStream::from(stdin_as_owned()), decoder: Decoder::new(TO_MONITOR_BYTES_MAX) };
        // Only the copy is to keep the socket open, so that closing it can be tried.
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null").unwrap()).unwrap();
        monitor.run();
        std::process::exit(0);
    }
}

struct Monitor {
    socket: UnixStream,
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
