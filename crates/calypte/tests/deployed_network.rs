//! The way out of deployed functions, and the way in to programs that listen: a real server, real microVMs, and servers of
//! this test on this machine.

#![allow(missing_docs)]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calypte_types::{Arn, RequestId};
use calypte_worker::image::{Images, RuntimeImage};
use calypte_worker::{EnvironmentId, FunctionSpec, InvokeRequest, VisitError, Worker, WorkerConfig};
use harness::outside::{BODY_BYTES, name_server, web_server};
use harness::{PROGRAM, Server, good, has_kvm, json, vm};
use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connects to what the event says and tells how that ended.
const CONNECTING_FUNCTION: &str = r#"
import errno, socket, urllib.request

def name_of(error):
    return errno.errorcode.get(error.errno, str(error))

def stream(host, port):
    try:
        socket.create_connection((host, port), 20).close()
        return "connected"
    except OSError as error:
        return name_of(error)

def datagram(host, port):
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as s:
            s.connect(address)
            s.send(b"x")
        return "sent"
    except OSError as error:
        return name_of(error)

def handler(event, context):
    if "url" in event:
        try:
            body = urllib.request.urlopen(event["url"], timeout=20).read()
            return [len(body), body == b"x" * len(body)]
        except OSError as error:
            return name_of(getattr(error, "reason", error))
    connect = datagram if event["kind"] == "datagram" else stream
    return {host: connect(host, event["port"]) for host in event["hosts"]}
"#;

fn server_with_python(test: &str, data: &Path, options: &[&str]) -> Option<Server> {
    if !has_kvm(test) {
        return None;
    }
    vm::python(test)?;
    good(data, &["runtime", "add", "python", "--from-host", "python3"]);
    Some(Server::start_with(data, options))
}

fn deploy(parent: &Path, data: &Path, name: &str, code: &str) {
    let folder = parent.join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("app.py"), code).unwrap();
    let options = ["--runtime", "python", "--handler", "app.handler", "--timeout", "60"];
    good(data, &[&["deploy", folder.to_str().unwrap()], &options[..]].concat());
}

fn invoke(data: &Path, name: &str, event: &Value) -> Value {
    json(&good(data, &["invoke", name, &event.to_string()]))
}

/// Addresses and names with the error of a connection to them. This machine's web server, which they must not reach,
/// listens at the port; the function's own loopback has nothing there.
const REFUSED: &[(&str, &str)] = &[
    ("169.254.169.254", "EACCES"),
    ("10.0.0.1", "EACCES"),
    ("172.16.0.1", "EACCES"),
    ("192.168.1.1", "EACCES"),
    ("100.64.0.1", "EACCES"),
    ("0.0.0.0", "ECONNREFUSED"),
    ("127.0.0.1", "ECONNREFUSED"),
    ("127.1.2.3", "ECONNREFUSED"),
    ("::1", "ECONNREFUSED"),
    ("::ffff:127.0.0.1", "ECONNREFUSED"),
    ("::ffff:169.254.169.254", "EACCES"),
    ("64:ff9b::a9fe:a9fe", "EACCES"),
    ("fd00:ec2::254", "EACCES"),
    ("fe80::1", "EACCES"),
    ("inside.example", "EACCES"),
    ("metadata.example", "EACCES"),
    ("loopback.example", "ECONNREFUSED"),
    ("mapped.example", "EACCES"),
    ("unique.example", "EACCES"),
    ("metadata6.example", "EACCES"),
    ("translated.example", "EACCES"),
];

#[test]
fn a_deployed_function_reaches_what_is_allowed_and_nothing_else() {
    let test = "a_deployed_function_reaches_what_is_allowed_and_nothing_else";
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let (web, other, names) = (web_server(), web_server(), name_server().to_string());
    let allowed = format!("127.0.0.1:{}", web.port());
    let options = ["--egress-allow", &allowed, "--egress-name-server", &names];
    let Some(server) = server_with_python(test, &data, &options) else { return };
    deploy(parent.path(), &data, "connect", CONNECTING_FUNCTION);
    let fetch = |url: String| invoke(&data, "connect", &json!({ "url": url }));

    for host in ["192.0.0.1", "host.example"] {
        assert_eq!(fetch(format!("http://{host}:{}/file", web.port())), json!([BODY_BYTES, true]), "{host}");
    }
    assert_eq!(fetch(format!("http://192.0.0.1:{}/file", other.port())), "EACCES", "another port of the same address");
    assert_eq!(fetch(format!("http://192.0.0.1:{}/away", web.port())), "EACCES", "where the answer leads");
    assert!(fetch("http://missing.example/".to_owned()).as_str().unwrap().contains("Name or service not known"));

    let hosts: Vec<&str> = REFUSED.iter().map(|(host, _)| *host).collect();
    for port in [web.port(), 80] {
        let answers = invoke(&data, "connect", &json!({ "kind": "stream", "hosts": hosts, "port": port }));
        for (host, errno) in REFUSED {
            assert_eq!(answers[host], *errno, "a stream to {host}, port {port}");
        }
    }
    let outside: Vec<&str> = REFUSED.iter().filter(|(_, errno)| *errno == "EACCES").map(|(host, _)| *host).collect();
    let answers = invoke(&data, "connect", &json!({ "kind": "datagram", "hosts": outside, "port": web.port() }));
    for host in outside {
        assert_eq!(answers[host], "EACCES", "datagrams to {host}");
    }
    let messages = server.stop();
    assert!(
        messages.contains("169.254.0.0/16 (link-local, metadata services)"),
        "the server names no rule: {messages}"
    );
}

#[test]
fn a_deployed_function_without_a_network_has_only_its_own() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let test = "a_deployed_function_without_a_network_has_only_its_own";
    let Some(server) = server_with_python(test, &data, &["--no-network"]) else { return };
    deploy(parent.path(), &data, "connect", CONNECTING_FUNCTION);
    for kind in ["stream", "datagram"] {
        let hosts = ["8.8.8.8", "169.254.169.254", "192.0.0.1", "2001:4860:4860::8888"];
        let answers = invoke(&data, "connect", &json!({ "kind": kind, "hosts": hosts, "port": 53 }));
        for host in hosts {
            assert_eq!(answers[host], "ENETUNREACH", "{kind} to {host}");
        }
    }
    let answers = invoke(&data, "connect", &json!({ "kind": "stream", "hosts": ["127.0.0.1"], "port": 53 }));
    assert_eq!(answers["127.0.0.1"], "ECONNREFUSED");
    server.stop();
}

/// A bootstrap of its own with a web server beside it: an invocation ends when as many requests as its event says have been
/// answered since the start.
const LISTENING_BOOTSTRAP: &str = r#"
import http.server, os, threading, urllib.request
answered, changed = 0, threading.Condition()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global answered
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = ("%s:%s %s %d\n" % (*self.client_address, self.path, len(body))).encode() + body[::-1]
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        with changed:
            answered += 1
            changed.notify_all()
    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = "http://%s/2018-06-01/runtime/invocation/" % os.environ["AWS_LAMBDA_RUNTIME_API"]
while True:
    event = urllib.request.urlopen(base + "next")
    wanted = int(event.read())
    with changed:
        changed.wait_for(lambda: answered >= wanted)
    request = event.headers["Lambda-Runtime-Aws-Request-Id"]
    urllib.request.urlopen(base + request + "/response", str(answered).encode()).read()
"#;

fn listening_spec(runtime: &RuntimeImage, code: &Path) -> FunctionSpec {
    let account: calypte_types::AccountId = "123456789012".parse().unwrap();
    let function = "listener".parse().unwrap();
    FunctionSpec {
        arn: Arn { region: "us-east-1".into(), account: account.clone(), function, qualifier: None },
        account,
        version: "$LATEST".into(),
        revision_id: "r1".into(),
        mounts: vec![("/".to_owned(), runtime.root.clone()), ("/var/task".to_owned(), code.to_owned())],
        arguments: [runtime.bootstrap[0].as_str(), "-S", "-c", LISTENING_BOOTSTRAP].map(str::to_owned).to_vec(),
        environment: runtime.environment.clone(),
        memory_mib: 256,
        tmp_mib: 512,
        timeout_s: 60,
        has_template: false,
        isolation: Default::default(),
    }
}

/// Starts an invocation; its answer is the number of requests that had been answered at its end.
fn start_invocation(worker: &Arc<Worker>, spec: &FunctionSpec, wanted: u32) -> tokio::task::JoinHandle<u32> {
    let request = InvokeRequest {
        request_id: RequestId::new(),
        spec: spec.clone(),
        invoked_arn: spec.arn.to_string(),
        payload: wanted.to_string().into(),
        client_context: None,
        trace_id: None,
    };
    let worker = worker.clone();
    tokio::spawn(async move {
        let outcome = tokio::time::timeout(PATIENCE, worker.invoke(request)).await.expect("an answer").unwrap();
        let payload = String::from_utf8(outcome.payload).unwrap();
        assert_eq!(outcome.error, None, "{payload}\n{}", String::from_utf8_lossy(&outcome.log_tail));
        payload.parse().unwrap()
    })
}

/// A connection of a client on this machine that has been handed to an environment.
fn visit(worker: &Worker, environment: EnvironmentId, port: u16) -> (TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (connection, visitor) = listener.accept().unwrap();
    worker.visit(environment, port, visitor, connection.into()).unwrap();
    (client, visitor)
}

fn ask(client: &mut TcpStream, path: &str, body: &[u8]) {
    let head = format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(body).unwrap();
}

fn check_answer(client: &mut TcpStream, visitor: SocketAddr, path: &str, body: &[u8]) {
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    let head_end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    let (head, answer) = answer.split_at(head_end);
    assert!(head.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(head));
    // A visitor from this machine has the address that programs know it by.
    let first_line = format!("192.0.0.1:{} {path} {}\n", visitor.port(), body.len());
    let reversed: Vec<u8> = body.iter().rev().copied().collect();
    assert!(answer == [first_line.as_bytes(), &reversed].concat(), "{path}: {} bytes", answer.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_handed_to_a_program_that_listens() {
    let test = "connections_are_handed_to_a_program_that_listens";
    if !has_kvm(test) || vm::python(test).is_none() {
        return;
    }
    let (folder, code) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = WorkerConfig::new(folder.path().to_owned(), PROGRAM.into());
    let worker = Worker::start(config).await.unwrap();
    let images = Images::open(folder.path().join("runtimes")).unwrap();
    let runtime = images.add_from_host(None, "python3", &mut |_| ()).unwrap();
    let spec = listening_spec(&runtime, code.path());
    assert_eq!(start_invocation(&worker, &spec, 0).await.unwrap(), 0);
    let environments = worker.environments(&spec.account, &spec.arn.function);
    let [environment] = environments[..] else { panic!("one environment, not {environments:?}") };

    // Three at once while an invocation runs, each more than a socket's buffer holds.
    let invocation = start_invocation(&worker, &spec, 3);
    let body: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
    let visits: Vec<_> = ["/first", "/second", "/third"]
        .into_iter()
        .map(|path| {
            let (mut client, visitor) = visit(&worker, environment, 8000);
            let body = body.clone();
            std::thread::spawn(move || {
                ask(&mut client, path, &body);
                check_answer(&mut client, visitor, path, &body);
            })
        })
        .collect();
    assert_eq!(invocation.await.unwrap(), 3);
    for visit in visits {
        visit.join().unwrap();
    }

    // Nobody listens on this port: the connection ends at once, with or without a reset.
    let (mut client, _) = visit(&worker, environment, 8001);
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "a port without a listener answers");

    // Between invocations a program may be frozen: a visitor waits for the next one.
    let (mut client, visitor) = visit(&worker, environment, 8000);
    ask(&mut client, "/waiting", b"patience");
    assert_eq!(start_invocation(&worker, &spec, 4).await.unwrap(), 4);
    check_answer(&mut client, visitor, "/waiting", b"patience");

    // An environment that has ended has no visitors.
    worker.retire(&spec.account, &spec.arn.function, None);
    worker.shutdown().await;
    let (connection, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let refused = worker.visit(environment, 8000, visitor, connection.into());
    assert!(matches!(refused, Err(VisitError::NoEnvironment { .. })), "{refused:?}");
}
