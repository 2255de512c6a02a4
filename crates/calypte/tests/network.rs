//! The way out and the way in of `calypte run`: real processes, and servers of this test on this machine.

#![allow(missing_docs)]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

mod harness;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use harness::outside::{BODY_BYTES, name_server, web_server};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An interpreter of this host; `None`, printed as a skip, if it is not installed or there is no KVM.
fn interpreter(test: &str, program: &str, question: &[&str]) -> Option<PathBuf> {
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        eprintln!("SKIP {test}: /dev/kvm cannot be opened");
        return None;
    }
    let Ok(printed) = Command::new(program).args(question).output() else {
        eprintln!("SKIP {test}: {program} is not installed");
        return None;
    };
    Some(PathBuf::from(String::from_utf8(printed.stdout).unwrap().trim()))
}

fn python(test: &str) -> Option<PathBuf> {
    interpreter(test, "python3", &["-c", "import os, sys; print(os.path.realpath(sys.executable))"])
}

fn command(options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calypte"));
    command.args(["run", "--rootfs", "/", "--memory", "512", "--timeout", "120"]).args(options).arg("--");
    command
}

fn run(options: &[&str], program: &PathBuf, script: &str) -> Output {
    command(options).arg(program).args(["-S", "-c", script]).output().unwrap()
}

fn stdout(output: &Output) -> String {
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{}{shown}", output.status, String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_program_downloads_from_an_allowed_address() {
    let Some(python) = python("a download") else { return };
    let (web, names) = (web_server(), name_server());
    let (allowed, names) = (format!("{}/32:{}", web.ip(), web.port()), names.to_string());
    let script = format!(
        "import socket, urllib.request\n\
         for host in ['192.0.0.1', 'host.example']:\n\
         \tbody = urllib.request.urlopen('http://%s:{port}/file' % host).read()\n\
         \tprint(len(body), body == b'x' * len(body))\n\
         s = socket.create_connection(('192.0.0.1', {port}))\n\
         print(s.getpeername(), s.getsockname()[0])\n\
         s.sendall(b'GET /file HTTP/1.0\\r\\n\\r\\n')\n\
         print(len(s.recv(15, socket.MSG_PEEK)), s.recv(15, socket.MSG_WAITALL))\n\
         print(open('/etc/resolv.conf').read().split()[-1])\n\
         for name in ['missing.example', 'broken.example']:\n\
         \ttry: socket.getaddrinfo(name, 80)\n\
         \texcept socket.gaierror as error: print(name, error.errno)\n",
        port = web.port()
    );
    let output = run(&["--egress-allow", &allowed, "--egress-name-server", &names], &python, &script);
    let expected = format!(
        "{BODY_BYTES} True\n{BODY_BYTES} True\n('192.0.0.1', {}) 192.0.0.2\n15 b'HTTP/1.0 200 OK'\n127.0.0.53\n\
         missing.example -2\nbroken.example -3\n",
        web.port()
    );
    assert_eq!(stdout(&output), expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn datagrams_go_out_and_come_back() {
    let Some(python) = python("datagrams") else { return };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut datagram = [0; 2000];
        while let Ok((length, client)) = socket.recv_from(&mut datagram) {
            datagram[..length].reverse();
            socket.send_to(&datagram[..length], client).unwrap();
        }
    });
    let script = format!(
        "import socket, select\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.sendto(b'abc', ('192.0.0.1', {port}))\n\
         print(select.select([s], [], [], 30)[0] == [s], s.recvfrom(10))\n\
         c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         c.connect(('192.0.0.1', {port}))\n\
         c.send(b'connected')\n\
         print(c.recv(4), c.getsockname()[0])\n\
         try: s.sendto(b'x', ('239.1.1.1', 9))\n\
         except OSError as error: print(error.strerror)\n"
    );
    let output = run(&["--egress-allow", &format!("127.0.0.1:{port}")], &python, &script);
    let expected = format!("True (b'cba', ('192.0.0.1', {port}))\nb'detc' 192.0.0.2\nPermission denied\n");
    assert_eq!(stdout(&output), expected);
}

#[test]
fn other_addresses_are_refused_at_once_and_the_log_says_why() {
    let Some(python) = python("refusals") else { return };
    let (web, names) = (web_server(), name_server());
    let (allowed, names) = (format!("127.0.0.1:{}", web.port()), names.to_string());
    let classes = [
        ("10.0.0.1", "10.0.0.0/8 (private)"),
        ("172.16.0.1", "172.16.0.0/12 (private)"),
        ("192.168.0.1", "192.168.0.0/16 (private)"),
        ("100.64.0.1", "100.64.0.0/10 (shared by carriers)"),
        ("169.254.169.254", "169.254.0.0/16 (link-local, metadata services)"),
        ("192.0.0.1", "127.0.0.0/8 (loopback)"),
        ("192.0.2.2", "192.0.2.0/24 (documentation)"),
        ("224.0.0.1", "224.0.0.0/4 (multicast)"),
        ("255.255.255.255", "255.255.255.255/32 (broadcast)"),
        ("240.0.0.1", "240.0.0.0/4 (reserved)"),
        ("::ffff:10.0.0.2", "10.0.0.0/8 (private)"),
        ("::10.0.0.1", "::/96 (IPv4-compatible)"),
        ("64:ff9b::a00:1", "64:ff9b::/96 (NAT64)"),
        ("2002:a00:1::1", "2002::/16 (6to4)"),
        ("2001:0:a00:1::1", "2001::/32 (Teredo)"),
        ("2001:db8::1", "2001:db8::/32 (documentation)"),
        ("fd00::2", "fc00::/7 (private)"),
        ("fe80::1", "fe80::/10 (link-local)"),
        ("ff02::1", "ff00::/8 (multicast)"),
        ("inside.example", "10.0.0.0/8 (private)"),
    ];
    let hosts: Vec<&str> = classes.iter().map(|(host, _)| *host).collect();
    let script = format!(
        "import errno, socket, time, urllib.request\n\
         began = time.monotonic()\n\
         for host in {hosts:?}:\n\
         \ttry: socket.create_connection((host, 80), 20); print(host, 'connected')\n\
         \texcept OSError as error: print(host, errno.errorcode.get(error.errno, error))\n\
         s = socket.socket(); s.setblocking(False)\n\
         print(s.connect_ex(('10.9.9.9', 80)) == errno.EINPROGRESS)\n\
         import select; print(len(select.select([], [s], [], 20)[1]))\n\
         print(errno.errorcode[s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])\n\
         try: urllib.request.urlopen('http://192.0.0.1:{port}/away')\n\
         except OSError as error: print(errno.errorcode[error.reason.errno])\n\
         print(time.monotonic() - began < 20)\n",
        port = web.port()
    );
    let output = run(&["--egress-allow", &allowed, "--egress-name-server", &names], &python, &script);
    let refused: String = hosts.iter().map(|host| format!("{host} EACCES\n")).collect();
    assert_eq!(stdout(&output), format!("{refused}True\n1\nEACCES\nEACCES\nTrue\n"));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    for (host, rule) in classes {
        assert!(log.contains(&format!("connection refused by {rule}")), "{host}: {log}");
    }
}

/// Every way in which programs ask which interfaces there are. The hardware address is random.
const INTERFACES_SCRIPT: &str = r#"
import array, fcntl, socket, struct
print(socket.if_nameindex())
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def ask(request, name):
    return fcntl.ioctl(s, request, struct.pack("16s24x", name.encode()))
for _, name in socket.if_nameindex():
    address, mask, broadcast = (socket.inet_ntoa(ask(request, name)[20:24]) for request in (0x8915, 0x891b, 0x8919))
    print(name, address, mask, broadcast, hex(struct.unpack_from("H", ask(0x8913, name), 16)[0]),
        *struct.unpack_from("i", ask(0x8921, name), 16), struct.unpack_from("H6s", ask(0x8927, name), 16)[1][0])
room = array.array("B", bytes(400))
print(struct.unpack("iL", fcntl.ioctl(s, 0x8912, struct.pack("iL", 400, room.buffer_info()[0])))[0] // 40)
print([line.split(":")[0].strip() for line in open("/proc/net/dev")][2:])
print([line.split()[:4] for line in open("/proc/net/route")][1:])
print([line.split()[-1] for line in open("/proc/net/if_inet6")])
"#;

#[test]
fn interfaces_are_those_of_a_container() {
    let Some(python) = python("interfaces") else { return };
    let lo = "lo 127.0.0.1 255.0.0.0 0.0.0.0 0x49 65536 0\n";
    assert_eq!(
        stdout(&run(&[], &python, INTERFACES_SCRIPT)),
        format!(
            "[(1, 'lo'), (2, 'eth0')]\n{lo}eth0 192.0.0.2 255.255.255.248 192.0.0.7 0x1043 1500 2\n2\n['lo', 'eth0']\n\
             [['eth0', '00000000', '010000C0', '0003'], ['eth0', '000000C0', '00000000', '0001']]\n['lo']\n"
        )
    );
    assert_eq!(
        stdout(&run(&["--no-network"], &python, INTERFACES_SCRIPT)),
        format!("[(1, 'lo')]\n{lo}1\n['lo']\n[]\n['lo']\n")
    );
}

#[test]
fn names_have_the_addresses_for_which_there_is_an_interface() {
    let Some(python) = python("names and interfaces") else { return };
    let names = name_server().to_string();
    let script = "import socket\n\
                  for name in ['host.example', 'unique.example']:\n\
                  \tfor flags in [0, socket.AI_ADDRCONFIG]:\n\
                  \t\ttry: print(sorted({r[4][0] for r in socket.getaddrinfo(name, 80, flags=flags)}))\n\
                  \t\texcept socket.gaierror as error: print(error.errno)\n\
                  s = socket.socket(); s.bind(('192.0.0.2', 0)); print(s.getsockname()[0])\n";
    let output = run(&["--egress-name-server", &names], &python, script);
    // -5: it has no address of a kind that is asked for (`EAI_NODATA`).
    let expected = "['192.0.0.1']\n['192.0.0.1']\n['fd00::1']\n-5\n192.0.0.2\n";
    assert_eq!(stdout(&output), expected);
    let Some(node) = interpreter("names in Node", "node", &["-p", "process.execPath"]) else { return };
    let script = "const dns = require('dns');\n\
                  console.log(Object.values(require('os').networkInterfaces()).flat().map(one => one.cidr).join());\n\
                  dns.lookup('host.example', { hints: dns.ADDRCONFIG }, (error, address) => {\n\
                    console.log(error, address);\n\
                    dns.resolve4('host.example', (error, addresses) => console.log(error, addresses));\n\
                  });\n";
    let output = command(&["--egress-name-server", &names]).arg(node).args(["-e", script]).output().unwrap();
    assert_eq!(stdout(&output), "127.0.0.1/8,::1/128,192.0.0.2/29\nnull 192.0.0.1\nnull [ '192.0.0.1' ]\n");
}

#[test]
fn without_a_network_there_is_only_the_programs_own() {
    let Some(python) = python("no network") else { return };
    let script = "import errno, socket\n\
                  s = socket.socket()\n\
                  print(errno.errorcode[s.connect_ex(('8.8.8.8', 53))])\n\
                  print(errno.errorcode[s.connect_ex(('127.0.0.1', 53))])\n";
    assert_eq!(stdout(&run(&["--no-network"], &python, script)), "ENETUNREACH\nECONNREFUSED\n");
}

/// A program that runs until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process that opens connections for a `calypte run`: a child of a child.
fn egress_of(parent: u32) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<u32> =
        children.flat_map(|text| text.split_whitespace().map(str::parse).collect::<Vec<_>>()).flatten().collect();
    pids.into_iter().find_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let verb = line.split(|byte| *byte == 0).nth(1)?;
        if verb == b"egress" { Some(pid) } else { egress_of(pid) }
    })
}

#[test]
fn a_killed_egress_is_replaced_and_connections_work_again() {
    let Some(python) = python("a killed egress") else { return };
    let web = web_server();
    let script = format!(
        "import sys, urllib.request\n\
         for line in sys.stdin:\n\
         \tprint(len(urllib.request.urlopen('http://192.0.0.1:{}/file').read()), flush=True)\n",
        web.port()
    );
    let child = command(&["--egress-allow", &format!("127.0.0.1:{}", web.port())])
        .arg(python)
        .args(["-S", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let mut input = running.0.stdin.take().unwrap();
    let mut output = BufReader::new(running.0.stdout.take().unwrap());
    let mut download = || {
        input.write_all(b"\n").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line
    };
    for _ in 0..3 {
        assert_eq!(download(), format!("{BODY_BYTES}\n"));
        let pid = egress_of(running.0.id()).expect("egress runs");
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    }
    assert_eq!(download(), format!("{BODY_BYTES}\n"));
}

/// A port of this machine that is free.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asks a server that may not listen yet until it answers.
fn get(port: u16, path: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let asked = stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes());
            if asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && !answer.is_empty() {
                return answer;
            }
        }
        assert!(Instant::now() < until, "no answer on port {port}");
        std::thread::yield_now();
    }
}

fn serve(options: &[&str], program: PathBuf, arguments: &[&str]) -> Running {
    Running(command(options).arg(program).args(arguments).stdin(Stdio::null()).spawn().unwrap())
}

#[test]
fn a_python_server_is_published() {
    let Some(python) = python("a Python server") else { return };
    let port = free_port();
    let script = "import http.server\n\
                  class H(http.server.BaseHTTPRequestHandler):\n\
                  \tdef do_GET(self):\n\
                  \t\tself.send_response(200); self.end_headers()\n\
                  \t\tself.wfile.write(('%s from %s\\n' % (self.path, self.client_address[0])).encode() * 20000)\n\
                  \tdef log_message(self, *_): pass\n\
                  http.server.ThreadingHTTPServer(('0.0.0.0', 8000), H).serve_forever()\n";
    let _server = serve(&["--no-network", "--publish", &format!("{port}:8000")], python, &["-S", "-c", script]);
    for path in ["/first", "/second"] {
        let answer = get(port, path);
        assert!(answer.starts_with("HTTP/1.0 200"), "{}", &answer[..answer.len().min(300)]);
        assert_eq!(answer.matches(&format!("{path} from 192.0.0.1\n")).count(), 20_000);
    }
}

#[test]
fn a_node_server_is_published() {
    let Some(node) = interpreter("a Node server", "node", &["-p", "process.execPath"]) else { return };
    let port = free_port();
    let script = "require('http').createServer((request, answer) => answer.end('node ' + request.url)).listen(3000)";
    let _server = serve(&["--publish", &format!("{port}:3000")], node, &["-e", script]);
    assert!(get(port, "/hello").ends_with("node /hello"));
}
