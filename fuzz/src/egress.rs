//! Egress as monitors and name servers see it, if they are hostile: questions that are none, and answers about names of
//! any kind. Nothing of it leaves this machine.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use calypte_egress::names::Names;
use calypte_egress::policy::{EnvironmentId, Policy};
use calypte_egress::server::{Config, Prepared};
use calypte_wire::egress::{FromEgress, QUESTION_BYTES_MAX, Question, ToEgress, decode};
use calypte_wire::zygote::encode;
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Most packets of one input.
const PACKETS_MAX: usize = 24;
/// DNS: the bytes of a message's header, and those of its id.
const HEADER_BYTES: usize = 12;
const ID_BYTES: usize = 2;
/// A question is at most as long.
const QUERY_BYTES_MAX: usize = 4096;

/// What is known to every input: a name server that says what the input has said, and a port that may be connected to.
struct Outside {
    name_server: SocketAddr,
    listener: SocketAddr,
    answer: Mutex<Vec<u8>>,
}

static OUTSIDE: LazyLock<Outside> = LazyLock::new(|| {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket for datagrams");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket for connections");
    let (name_server, listening) = (socket.local_addr().expect("bound"), listener.local_addr().expect("bound"));
    std::thread::spawn(move || serve_names(&socket));
    std::thread::spawn(move || listener.incoming().flatten().for_each(|mut stream| drop(stream.read(&mut [0]))));
    Outside { name_server, listener: listening, answer: Mutex::default() }
});

/// Answers with the input's bytes, and then properly that there is no answer: nobody has to wait for more.
fn serve_names(socket: &UdpSocket) {
    let mut query = [0; QUERY_BYTES_MAX];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        let Some(query) = query.get(..length).filter(|query| query.len() >= HEADER_BYTES) else { continue };
        let answer = OUTSIDE.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut hostile = query.to_vec();
        hostile.truncate(ID_BYTES);
        hostile.extend(answer);
        let mut failure = query.to_vec();
        (failure[2], failure[3]) = (0x81, 0x82); // a response; SERVFAIL
        for packet in [hostile, failure] {
            _ = socket.send_to(&packet, from);
        }
    }
}

/// Asks a question of the input's bytes about a name; the name server answers with others of them.
pub fn ask(input: &[u8]) {
    let Some((length, rest)) = input.split_first() else { return };
    let (query, answer) = rest.split_at(usize::from(*length).min(rest.len()));
    *OUTSIDE.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer.to_vec();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let answer = runtime.block_on(async {
        let names = Names::new(&[OUTSIDE.name_server]).expect("a resolver");
        names.answer(query).await
    });
    if let Some(answer) = answer {
        assert_eq!(answer[..ID_BYTES], query[..ID_BYTES], "the answer to another question");
        assert!(answer[2] & 0x80 > 0, "an answer that is none");
    }
}

/// Serves an environment whose monitor sends packets of the input's bytes.
pub fn serve(input: &[u8]) {
    let outside = &*OUTSIDE;
    let allowed = format!("127.0.0.1:{}", outside.listener.port()).parse().expect("a range and a port");
    let config = Config { allowed: vec![allowed], name_servers: vec![outside.name_server] };
    let policy = Policy::new(config.allowed.clone());
    let prepared = Prepared::new(config).expect("an egress");
    let (worker, at_worker) = pair();
    let (monitor, at_monitor) = pair();
    let environment = ToEgress::Register { environment_id: 1, account: "account".to_owned() };
    send(&worker, &encode(&environment), Some(at_monitor));
    for packet in packets(input) {
        send(&monitor, &harmless(packet, &policy, outside.listener), None);
    }
    drop(monitor);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| prepared.serve(at_worker));
        // It closes the environment's socket when all has been read.
        let mut buffer = [0; QUESTION_BYTES_MAX];
        let (length, _) =
            retry_on_intr(|| rustix::net::recv(&worker, &mut buffer, RecvFlags::empty())).expect("our own socket");
        let ended = decode::<FromEgress>(&buffer[..length], QUESTION_BYTES_MAX);
        assert!(matches!(ended, Ok(FromEgress::Ended { environment_id: 1, .. })), "{ended:?}");
        drop(worker);
        assert!(served.join().is_ok_and(|served| served.is_ok()), "egress failed");
    });
}

/// The input in pieces, each with its length before it; a bit of that says that the piece is of the kind that is expected.
fn packets(input: &[u8]) -> Vec<&[u8]> {
    let mut rest = input;
    let mut packets = Vec::new();
    while let Some((length, bytes)) = rest.split_first()
        && packets.len() < PACKETS_MAX
    {
        let (packet, others) = bytes.split_at(usize::from(*length).min(bytes.len()));
        packets.push(packet);
        rest = others;
    }
    packets
}

/// The packet, but for connections that would be made to somewhere else: they go to our own port.
fn harmless(packet: &[u8], policy: &Policy, listener: SocketAddr) -> Vec<u8> {
    match decode(packet, QUESTION_BYTES_MAX) {
        Ok(Question::Connect { request, transport, target })
            if policy.check(EnvironmentId(1), policy.destination(target)).is_ok() =>
        {
            encode(&Question::Connect { request, transport, target: listener })
        }
        _ => packet.to_vec(),
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    let ends = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket pair");
    let patience = Some(Duration::from_secs(15));
    rustix::net::sockopt::set_socket_timeout(&ends.0, rustix::net::sockopt::Timeout::Recv, patience).expect("a socket");
    ends
}

fn send(socket: &OwnedFd, packet: &[u8], attached: Option<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let attached: Vec<_> = attached.iter().map(AsFd::as_fd).collect();
    if !attached.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&attached)), "the buffer has the size of this message");
    }
    // An empty packet would be an end; it is one of the things that a monitor may send.
    let parts = [IoSlice::new(packet)];
    retry_on_intr(|| rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)).expect("our own socket");
}
