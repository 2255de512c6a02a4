//! What programs in microVMs connect to: servers of the test on this machine's loopback addresses.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

/// What the web server serves.
pub(crate) const BODY_BYTES: usize = 3_000_000;

/// What the name server knows, by the name's first label: everything is in `example`.
const NAMES: &[(&str, &str)] = &[
    ("inside", "10.1.2.3"),
    // This machine, as guests see it.
    ("host", "192.0.0.1"),
    ("loopback", "127.0.0.1"),
    ("metadata", "169.254.169.254"),
    ("mapped", "::ffff:10.1.2.3"),
    ("unique", "fd00::1"),
    ("metadata6", "fd00:ec2::254"),
    ("translated", "64:ff9b::a9fe:a9fe"),
];

/// Serves every request in a thread: `/file` is the body, `/away` leads to a metadata service.
pub(crate) fn web_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            reader.read_line(&mut request).unwrap();
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            // A client that goes away early is no concern of the server.
            let _ = if request.contains("/away") {
                stream.write_all(b"HTTP/1.0 302 Found\r\nLocation: http://169.254.169.254/latest/\r\n\r\n")
            } else {
                let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; BODY_BYTES]))
            };
        }
    });
    address
}

/// A name server that knows [`NAMES`], says that there is no `missing.example`, and fails for everything else.
pub(crate) fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            socket.send_to(&answer(&query[..length]), client).unwrap();
        }
    });
    address
}

/// The answer to a question of one name (RFC 1035).
fn answer(query: &[u8]) -> Vec<u8> {
    let question_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let label_end = 13 + usize::from(query[12]);
    let label = String::from_utf8_lossy(&query[13..label_end]).to_ascii_lowercase();
    let known = NAMES.iter().find(|(name, _)| *name == label).map(|(_, address)| address.parse::<IpAddr>().unwrap());
    let code = match known {
        Some(_) => 0,
        None if label == "missing" => 3,
        None => 2,
    };
    let mut answer = query[..question_end].to_vec();
    answer[2] = 0x81;
    answer[3] = 0x80 | code;
    answer[6..12].fill(0);
    let (kind, bytes) = match known {
        Some(IpAddr::V4(address)) => (1, address.octets().to_vec()),
        Some(IpAddr::V6(address)) => (28, address.octets().to_vec()),
        None => return answer,
    };
    if query[question_end - 3] == kind {
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(bytes.len()).unwrap()]);
        answer.extend_from_slice(&bytes);
    }
    answer
}
