//! The server on a real socket: sizes, misbehaving clients, its end.

use std::sync::Arc;
use std::time::SystemTime;

use calypte_types::limits::PAYLOAD_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::{FUNCTIONS, Server};

struct Running {
    server: Server,
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn start() -> Running {
    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move { stopped.await.unwrap_or_default() };
    let task = tokio::spawn(calypte_api::serve(listener, Arc::clone(&server.control), shutdown));
    Running { server, address, stop, task }
}

impl Running {
    /// The bytes of a signed request; the connection is closed after it unless `keep`.
    fn bytes(&self, method: &str, path: &str, body: Vec<u8>, keep: bool) -> Vec<u8> {
        let mut request = self.server.request(method, path, &[], body);
        self.server.signer().sign(&mut request, SystemTime::now()).unwrap();
        let mut bytes = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
        for (name, value) in request.headers() {
            bytes.extend_from_slice(format!("{name}: {}\r\n", value.to_str().unwrap()).as_bytes());
        }
        let connection = if keep { "keep-alive" } else { "close" };
        let end = format!("connection: {connection}\r\ncontent-length: {}\r\n\r\n", request.body().len());
        bytes.extend_from_slice(end.as_bytes());
        bytes.extend_from_slice(request.body());
        bytes
    }

    /// Sends bytes and reads until the server closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn expect_ready(&self) {
        let answer = self.exchange(&self.bytes("GET", FUNCTIONS, vec![], false)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_sends_too_much_reads_why() {
    let running = start().await;
    running.server.create("hello").await;
    let path = format!("{FUNCTIONS}/hello/invocations");
    let answer = running.exchange(&running.bytes("POST", &path, vec![b'1'; PAYLOAD_BYTES_MAX + 1], false)).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("RequestTooLargeException"), "{answer}");
    let body = vec![b' '; 80 * 1024 * 1024];
    let answer = running.exchange(&running.bytes("POST", FUNCTIONS, body, false)).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("RequestEntityTooLargeException"), "{answer}");
    assert!(
        answer.contains("Request must be smaller than 70167211 bytes for the CreateFunction operation"),
        "{answer}"
    );
    running.expect_ready().await;
}

#[tokio::test]
async fn a_large_event_arrives_whole() {
    let running = start().await;
    running.server.create("hello").await;
    let event = format!("\"{}\"", "x".repeat(PAYLOAD_BYTES_MAX - 2));
    let path = format!("{FUNCTIONS}/hello/invocations");
    let answer = running.exchange(&running.bytes("POST", &path, event.clone().into(), false)).await;
    assert!(answer.ends_with(&format!("{{\"echo\":{event}}}")), "{}", &answer[..500]);
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let mut bytes = running.bytes("GET", FUNCTIONS, vec![], true);
    bytes.extend(running.bytes("GET", "/nothing", vec![b'x'; 1000], true));
    bytes.extend(running.bytes("GET", FUNCTIONS, vec![], false));
    stream.write_all(&bytes).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|rest| &rest[..3]).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
}

#[tokio::test]
async fn what_is_not_http_harms_nobody() {
    let running = start().await;
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000));
    for bytes in
        [&b"\0\0\0\0"[..], b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", many_headers.as_bytes()]
    {
        let answer = running.exchange(bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    // The server may close before all of it is sent.
    let _ = stream.write_all(long_path.as_bytes()).await;
    drop(stream);
    // A client that leaves in the middle of a body.
    let mut half = running.bytes("POST", FUNCTIONS, vec![b' '; 1000], false);
    half.truncate(half.len() - 500);
    TcpStream::connect(running.address).await.unwrap().write_all(&half).await.unwrap();
    running.expect_ready().await;
}

#[tokio::test]
async fn the_end_waits_for_requests_and_not_for_idle_connections() {
    let running = start().await;
    running.expect_ready().await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    idle.write_all(&running.bytes("GET", FUNCTIONS, vec![], true)).await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    running.stop.send(()).unwrap();
    running.task.await.unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}
