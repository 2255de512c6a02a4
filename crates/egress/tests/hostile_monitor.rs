//! Egress against monitors that guest code has taken over: they send what is no question, or far too many of them, never
//! read, and ask for what is none of their business. The one that does it is cut off or refused; others notice nothing.

#![allow(missing_docs)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use calypte_egress::limit;
use calypte_egress::server::{Config, Prepared};
use calypte_wire::egress::{
    Answer, Counts, FromEgress, MESSAGE_BYTES_MAX, QUESTION_BYTES_MAX, Question, ToEgress, Transport, decode,
};
use calypte_wire::zygote::encode;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_timeout;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections that egress may have open for a monitor that takes none: those that wait for their turn, and those in the
/// socket's buffer, a packet of which the kernel counts as 768 bytes at least.
const UNTAKEN_MAX: usize = 128 + MESSAGE_BYTES_MAX / 4 / 768 + 2;

/// A running egress, seen by the worker.
struct Bench {
    worker: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// One end of an environment's socket, as a monitor has it.
struct Monitor(OwnedFd);

fn pair() -> (OwnedFd, OwnedFd) {
    let ends = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    for end in [&ends.0, &ends.1] {
        set_socket_timeout(end, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
    }
    ends
}

fn send(socket: &OwnedFd, packet: &[u8], attached: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(attached.is_empty() || control.push(SendAncillaryMessage::ScmRights(attached)));
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

impl Bench {
    fn new(allowed: &[&str], name_server: SocketAddr) -> Self {
        let (worker, socket) = pair();
        let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
        let thread = std::thread::spawn(move || {
            let prepared = Prepared::new(Config { allowed, name_servers: vec![name_server] }).unwrap();
            prepared.serve(socket).unwrap();
        });
        Self { worker: Some(worker), thread: Some(thread) }
    }

    fn monitor(&self, environment_id: u64, account: &str) -> Monitor {
        let (ours, theirs) = pair();
        let register = ToEgress::Register { environment_id, account: account.to_owned() };
        send(self.worker.as_ref().unwrap(), &encode(&register), &[theirs.as_fd()]).unwrap();
        Monitor(ours)
    }

    /// Waits for the next environment that egress says has ended.
    fn ended(&self) -> (u64, Counts) {
        let mut buffer = [0; QUESTION_BYTES_MAX];
        let length = rustix::net::recv(self.worker.as_ref().unwrap(), &mut buffer[..], RecvFlags::empty()).unwrap().0;
        let FromEgress::Ended { environment_id, counts } = decode(&buffer[..length], QUESTION_BYTES_MAX).unwrap();
        (environment_id, counts)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.worker.take());
        // A failed assertion is not to be hidden by another one.
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "egress ends with the worker");
    }
}

impl Monitor {
    /// Sends a question; `false` if egress has closed the socket.
    fn ask(&self, question: &Question) -> bool {
        send(&self.0, &encode(question), &[]).is_ok()
    }

    fn connect(&self, request: u64, target: SocketAddr) -> bool {
        self.ask(&Question::Connect { request, transport: Transport::Tcp, target })
    }

    fn resolve(&self, request: u64) -> bool {
        // A question about the name `a`, type A.
        let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01".to_vec();
        self.ask(&Question::Resolve { request, query })
    }

    /// The next answer; `None` if egress has closed the socket.
    fn answer(&self) -> Option<(Answer, Option<OwnedFd>)> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let received = match received {
            Err(Errno::CONNRESET) => return None,
            received => received.unwrap(),
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        (received.bytes > 0).then(|| (decode(&buffer[..received.bytes], MESSAGE_BYTES_MAX).unwrap(), descriptor))
    }

    /// Connects as an honest monitor does.
    fn assert_served(&self, request: u64, target: SocketAddr) {
        assert!(self.connect(request, target));
        let (answer, descriptor) = self.answer().expect("an honest monitor is served");
        assert_eq!(answer, Answer::Connected { request });
        assert!(descriptor.is_some());
    }
}

/// A server that takes every connection and counts them.
fn listener() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counter = count.clone();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            kept.push(stream);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, count)
}

/// A name server that never answers.
fn silent_name_server() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn what_is_no_question_ends_the_environment_and_no_other() {
    let ((_names, names), (target, _)) = (silent_name_server(), listener());
    let bench = Bench::new(&["127.0.0.1"], names);
    let honest = bench.monitor(0, "a");
    let connect = encode(&Question::Connect { request: 1, transport: Transport::Tcp, target });
    let long = encode(&Question::Resolve { request: 1, query: vec![0; QUESTION_BYTES_MAX] });
    let stdin = std::io::stdin();
    let descriptors = [stdin.as_fd(); 3];
    let packets: [(&str, &[u8], &[BorrowedFd<'_>]); 8] = [
        ("no message", b"\xff\xff\xff\xff", &[]),
        ("half a message", &connect[..connect.len() - 1], &[]),
        ("a message and more", &[&connect[..], b"more"].concat(), &[]),
        ("a message over the limit", &long, &[]),
        ("a packet of 100,000 bytes", &vec![0; 100_000], &[]),
        ("a message with a descriptor", &connect, &descriptors[..1]),
        ("a message with three descriptors", &connect, &descriptors),
        ("nothing", b"", &[]),
    ];
    for (number, (misdeed, packet, attached)) in (1..).zip(packets) {
        let monitor = bench.monitor(number, "a");
        send(&monitor.0, packet, attached).unwrap();
        assert!(monitor.answer().is_none(), "{misdeed}: egress closes the socket");
        assert_eq!(bench.ended(), (number, Counts::default()), "{misdeed}");
        honest.assert_served(number, target);
    }
}

#[test]
fn a_monitor_that_never_reads_has_few_connections_open() {
    let ((_names, names), (target, count), (honest_target, _)) = (silent_name_server(), listener(), listener());
    let bench = Bench::new(&["127.0.0.1"], names);
    let (deaf, honest) = (bench.monitor(1, "a"), bench.monitor(2, "a"));
    let asking = std::thread::spawn(move || {
        // Blocks when egress takes no more questions, until that ends.
        let asked = (0..100_000).take_while(|request| deaf.connect(*request, target)).count();
        (deaf, asked)
    });
    let until = Instant::now() + PATIENCE;
    while count.load(Ordering::SeqCst) < 128 {
        assert!(Instant::now() < until, "{} connections", count.load(Ordering::SeqCst));
        std::thread::yield_now();
    }
    // Egress goes round all that it can do for the other one many times.
    for request in 0..300 {
        honest.assert_served(request, honest_target);
    }
    let opened = count.load(Ordering::SeqCst);
    assert!(opened <= UNTAKEN_MAX, "{opened} connections for a monitor that takes none");
    drop(bench);
    let (deaf, asked) = asking.join().unwrap();
    assert!(asked < 100_000);
    // What it could have had at any time is what it finds now.
    let taken = std::iter::from_fn(|| deaf.answer()).filter(|(_, descriptor)| descriptor.is_some()).count();
    assert!((1..=UNTAKEN_MAX - 128).contains(&taken), "{taken} connections in the socket's buffer");
}

#[test]
fn refused_addresses_stay_refused_however_they_are_asked_for() {
    let ((_names, names), (target, count)) = (silent_name_server(), listener());
    let bench = Bench::new(&[], names);
    let monitor = bench.monitor(1, "a");
    let port = target.port();
    let addresses = [
        format!("127.0.0.1:{port}"),
        format!("127.255.0.1:{port}"),
        format!("0.0.0.0:{port}"),
        format!("192.0.0.1:{port}"),
        format!("[::1]:{port}"),
        format!("[::]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::7f00:1]:{port}"),
        format!("[64:ff9b::7f00:1]:{port}"),
        format!("[fe80::1%1]:{port}"),
        "169.254.169.254:80".to_owned(),
        "[fd00:ec2::254]:80".to_owned(),
        "10.0.0.1:22".to_owned(),
        "192.168.0.1:80".to_owned(),
        "255.255.255.255:9".to_owned(),
        "224.0.0.1:9".to_owned(),
        names.to_string(),
    ];
    let mut request = 0;
    for address in &addresses {
        for transport in [Transport::Tcp, Transport::Udp] {
            request += 1;
            assert!(monitor.ask(&Question::Connect { request, transport, target: address.parse().unwrap() }));
            let (answer, descriptor) = monitor.answer().unwrap();
            assert_eq!(answer, Answer::Refused { request, errno: Errno::ACCESS.raw_os_error() }, "{address}");
            assert!(descriptor.is_none(), "{address}");
        }
    }
    assert_eq!(count.load(Ordering::SeqCst), 0, "nobody has connected");
    drop(monitor);
    let counts = Counts { refused: request, ..Counts::default() };
    assert_eq!(bench.ended(), (1, counts));
}

#[test]
fn floods_are_refused_and_slow_down_nobody_else() {
    let ((_names, names), (target, _)) = (silent_name_server(), listener());
    let bench = Bench::new(&["127.0.0.1"], names);
    let (flooding, honest) = (bench.monitor(1, "a"), bench.monitor(2, "b"));
    // The same request again while it waits.
    assert!(flooding.resolve(7) && flooding.resolve(7));
    let refusal = Answer::Refused { request: 7, errno: Errno::NOBUFS.raw_os_error() };
    assert_eq!(flooding.answer().unwrap().0, refusal);
    // Its end, over and over again.
    assert!((0..50).all(|_| flooding.ask(&Question::Cancel { request: 7 })));
    // More at a time than may be.
    let most = u64::from(limit::ENVIRONMENT.outstanding_max);
    assert!((100..100 + most).all(|request| flooding.resolve(request)));
    assert!(flooding.resolve(5000));
    let refusal = Answer::Refused { request: 5000, errno: Errno::NOBUFS.raw_os_error() };
    assert_eq!(flooding.answer().unwrap().0, refusal);
    let began = Instant::now();
    for request in 0..100 {
        honest.assert_served(request, target);
    }
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

#[test]
fn what_an_ended_environment_had_asked_for_counts_no_more() {
    let ((_names, names), (target, _)) = (silent_name_server(), listener());
    let bench = Bench::new(&["127.0.0.1"], names);
    let honest = bench.monitor(0, "a");
    let each = u64::from(limit::ENVIRONMENT.outstanding_max);
    let environments = u64::from(limit::ACCOUNT.outstanding_max) / each + 1;
    for id in 1..=environments {
        let monitor = bench.monitor(id, "a");
        assert!((0..each).all(|request| monitor.resolve(request)));
        drop(monitor);
        // All that was asked has been begun by then: packets come in their order, and so does the end.
        assert_eq!(bench.ended().0, id);
    }
    honest.assert_served(1, target);
}
