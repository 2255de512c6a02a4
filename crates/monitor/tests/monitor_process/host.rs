//! What the tests need of the host: a zygote, environments, compiled programs, files to show to guests.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use calypte_wire::descriptor::Descriptor;
use calypte_wire::frame::{self, Decoder};
use calypte_wire::monitor::{Invoke, Platform, Start, TO_WORKER_BYTES_MAX, ToMonitor, ToWorker};
use calypte_wire::zygote::{FromZygote, MESSAGE_BYTES_MAX, ToZygote, decode, encode};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv,
    sendmsg, socketpair,
};

/// Nothing here takes as long; a wait that does has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The zygote's socket, which is standard input when this program is started as one.
pub(crate) fn stdin_socket() -> OwnedFd {
    std::io::stdin().as_fd().try_clone_to_owned().unwrap()
}

/// A zygote and the worker's end of its socket.
pub(crate) struct Zygote {
    pub(crate) process: Child,
    socket: Option<OwnedFd>,
    environments: u64,
}

impl Zygote {
    pub(crate) fn start() -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .arg("become-zygote")
            .stdin(Stdio::from(theirs))
            .spawn()
            .unwrap();
        rustix::net::sockopt::set_socket_timeout(&ours, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
        Self { process, socket: Some(ours), environments: 0 }
    }

    fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().expect("the socket is open")
    }

    /// Closes the socket and waits for the zygote; its exit status.
    pub(crate) fn close(mut self) -> Option<i32> {
        self.socket = None;
        self.process.wait().unwrap().code()
    }

    pub(crate) fn receive(&self) -> FromZygote {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let (length, _) = recv(self.socket(), &mut bytes, RecvFlags::empty()).unwrap();
        decode(&bytes[..length]).unwrap()
    }

    /// Sends a request together with the monitor's ends of a new socket and of a pipe for its messages; the worker's ends.
    pub(crate) fn request_fork(&mut self) -> (u64, UnixStream, OwnedFd, File) {
        self.environments += 1;
        let environment_id = self.environments;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (descriptors, their_descriptors) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let (messages, their_messages) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let monitor_ends = [theirs.as_fd(), their_descriptors.as_fd(), their_messages.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&monitor_ends)));
        let bytes = encode(&ToZygote::Fork { environment_id });
        sendmsg(self.socket(), &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty()).unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        (environment_id, ours, descriptors, messages.into())
    }

    pub(crate) fn fork(&mut self) -> Environment {
        let (environment_id, stream, descriptors, messages) = self.request_fork();
        let FromZygote::Forked { environment_id: answered, pid } = self.receive() else {
            panic!("the zygote did not fork");
        };
        assert_eq!(answered, environment_id);
        let decoder = Decoder::new(TO_WORKER_BYTES_MAX);
        Environment { id: environment_id, pid, stream: Some(stream), descriptors, messages, decoder }
    }

    /// The exit status of the only environment that ends.
    pub(crate) fn wait_ended(&self, environment: &Environment) -> i32 {
        match self.receive() {
            FromZygote::Ended { environment_id, status } if environment_id == environment.id => status,
            other => panic!("{other:?} instead of the end of environment {}", environment.id),
        }
    }
}

/// The worker's side of one environment.
pub(crate) struct Environment {
    pub(crate) id: u64,
    pub(crate) pid: i32,
    stream: Option<UnixStream>,
    descriptors: OwnedFd,
    messages: File,
    decoder: Decoder,
}

impl Environment {
    pub(crate) fn stream(&mut self) -> &mut UnixStream {
        self.stream.as_mut().expect("the socket is open")
    }

    /// The pipe that the monitor's messages to people come from, as `/proc` shows it.
    pub(crate) fn messages(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/self/fd/{}", self.messages.as_raw_fd())).unwrap()
    }

    pub(crate) fn close(&mut self) {
        self.stream = None;
    }

    pub(crate) fn send(&mut self, message: &ToMonitor) {
        self.stream().write_all(&frame::encode(message)).unwrap();
    }

    /// Sends a file for the state of the guest, or with it.
    pub(crate) fn send_state(&self, file: &File) {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let file = [file.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&file)));
        let bytes = encode(&Descriptor::State);
        sendmsg(&self.descriptors, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty()).unwrap();
    }

    pub(crate) fn start(&mut self, start: Start) {
        self.send(&ToMonitor::Start(Box::new(start)));
    }

    pub(crate) fn invoke(&mut self, request_id: &str, payload: &str) {
        self.send(&ToMonitor::Invoke(Invoke {
            request_id: request_id.into(),
            deadline_ms: 1_800_000_000_000,
            function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f".into(),
            trace_id: None,
            client_context: None,
            payload: payload.into(),
        }));
    }

    /// The next message; `None` after the last.
    pub(crate) fn receive(&mut self) -> Option<ToWorker> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                return Some(message);
            }
            let length = self.stream.as_mut().unwrap().read(&mut buffer).unwrap();
            if length == 0 {
                return None;
            }
            self.decoder.push(&buffer[..length]);
        }
    }

    /// Takes this much output, which must be what comes next. A program that is held back may write it in pieces.
    pub(crate) fn receive_output(&mut self, expected: &str) {
        let mut log = Vec::new();
        while log.len() < expected.len() {
            match self.receive() {
                Some(ToWorker::Log { bytes, dropped_bytes: 0 }) => log.extend(bytes),
                other => panic!("{other:?} instead of {expected:?}, after {log:?}"),
            }
        }
        assert_eq!(String::from_utf8(log).as_deref(), Ok(expected));
    }

    /// The next message that is not output, and the output before it.
    pub(crate) fn receive_with_log(&mut self) -> (String, ToWorker) {
        let mut log = Vec::new();
        loop {
            match self.receive().expect("the monitor says something else before it ends") {
                ToWorker::Log { bytes, .. } => log.extend(bytes),
                message => return (String::from_utf8(log).unwrap(), message),
            }
        }
    }
}

/// Where guests see the compiled programs.
const PROGRAMS: &str = "/opt";

/// The same for this process and those it starts.
fn programs_directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("monitor-programs")
}

/// A program of `tests/programs`, compiled once for each run of the tests; its path inside guests that see [`mounts`].
pub(crate) fn program(name: &str) -> String {
    static COMPILED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if COMPILED.lock().unwrap().insert(name.to_owned()) {
        let directory = programs_directory();
        std::fs::create_dir_all(&directory).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(format!("{name}.c"));
        let new = directory.join(format!("{name}.{}", std::process::id()));
        let status = Command::new("cc").args(["-O1", "-static", "-w", "-o"]).arg(&new).arg(source).status().unwrap();
        assert!(status.success(), "{name}.c does not compile");
        std::fs::rename(new, directory.join(name)).unwrap();
    }
    format!("{PROGRAMS}/{name}")
}

/// The host's files, and the programs.
pub(crate) fn mounts() -> Vec<(String, PathBuf)> {
    vec![("/".into(), "/".into()), (PROGRAMS.into(), programs_directory())]
}

pub(crate) fn start(arguments: &[&str]) -> Start {
    Start {
        platform: Platform::Kvm,
        mounts: mounts(),
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        working_directory: "/".into(),
        memory_mib: 128,
        tmp_mib: 512,
        host_name: "guest".into(),
        vcpu_count: 1,
        has_egress: false,
        share: Default::default(),
        is_restored: false,
        is_to_be_saved: false,
        working_set: None,
    }
}

/// The program behind a name in `PATH`, which may be a script that starts the real one.
pub(crate) fn resolve(program: &str) -> Option<String> {
    let question: &[&str] = match program {
        "python3" => &["-c", "import sys; print(sys.executable)"],
        "node" => &["-p", "process.execPath"],
        _ => &["which", "busybox"],
    };
    let output = Command::new(program).args(question).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|path| !path.is_empty())
}
