//! HTTP/1.1 as far as a local service needs it: requests out of a byte stream that is split anywhere, and responses as
//! bytes. No I/O. Everything that arrives is written by a guest: each length has a limit, nothing is trusted.
//!
//! Framing follows RFC 9112 (sections 6 and 7); the parsing of heads is `httparse`'s.

use httparse::{EMPTY_HEADER, Status};
use serde::{Deserialize, Serialize};

/// Longest request head: room for `Lambda-Runtime-Function-XRay-Error-Cause`, which AWS's Python client sends with up
/// to 1 MiB.
pub const HEAD_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;
/// Most header fields of a request, and most trailer fields.
pub const FIELDS_MAX: usize = 64;
/// Longest line that gives the size of a chunk, extensions included.
pub const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;
/// Longest trailer section: room for the base64 text of a streaming error.
pub const TRAILER_BYTES_MAX: usize = 1024 * 1024;

/// Why bytes are not a request. The connection cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The head is too long.
    #[error("the request head is longer than {HEAD_BYTES_MAX} bytes")]
    HeadTooLong,
    /// The head is not HTTP/1.
    #[error("the request head is not HTTP/1.1: {0}")]
    Head(httparse::Error),
    /// The length of the body cannot be told.
    #[error("the length of the request body is not clear: {0}")]
    Framing(&'static str),
    /// The chunks of the body are malformed.
    #[error("the chunked request body is malformed: {0}")]
    Chunk(&'static str),
}

/// One complete request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Method, as sent.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Header fields in order; names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Trailer fields in order; names in lower case.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// The body, up to the decoder's limit.
    pub body: Vec<u8>,
    /// Length of the whole body; more than `body` holds when it was over the limit.
    pub body_bytes: u64,
    /// Whether the client wants to go on using the connection.
    pub is_keep_alive: bool,
}

impl Request {
    /// The first header field of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        find(&self.headers, name)
    }

    /// The first trailer field of that name (lower case).
    pub fn trailer(&self, name: &str) -> Option<&[u8]> {
        find(&self.trailers, name)
    }
}

fn find<'f>(fields: &'f [(String, Vec<u8>)], name: &str) -> Option<&'f [u8]> {
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_slice())
}

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The client waits for `100 Continue` before it sends the body.
    Continue,
    /// A complete request.
    Request(Request),
}

/// Turns the bytes of one connection into requests.
#[derive(Debug, Serialize, Deserialize)]
pub struct Decoder {
    body_bytes_max: usize,
    state: State,
    /// The head, line or trailer section read so far.
    pending: Vec<u8>,
    request: Request,
}

/// ```text
/// Head ─▶ Sized ───────────────────────────▶ request complete
///    └──▶ ChunkSize ─▶ ChunkData ─▶ ChunkEnd ─┐    ▲
///             ▲  └─(size 0)─▶ Trailers ───────┼────┘
///             └───────────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Head,
    Sized { remaining: u64 },
    ChunkSize,
    ChunkData { remaining: u64 },
    ChunkEnd,
    Trailers,
}

impl Decoder {
    /// A decoder that keeps at most `body_bytes_max` bytes of a body.
    pub fn new(body_bytes_max: usize) -> Self {
        Self { body_bytes_max, state: State::Head, pending: Vec::new(), request: Request::default() }
    }

    /// Most bytes of a body that it keeps.
    pub fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// Bytes that are kept for an incomplete request.
    pub fn kept_bytes(&self) -> usize {
        self.pending.len() + self.request.body.len()
    }

    /// Consumes `input` up to the next step. `None`: all of it was consumed and more is needed. After an error the
    /// connection is to be closed.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Step>, BadRequest> {
        loop {
            match self.state {
                State::Head => {
                    if !self.take_section(input, HEAD_BYTES_MAX).map_err(|TooLong| BadRequest::HeadTooLong)? {
                        return Ok(None);
                    }
                    // RFC 9112, 2.2: empty lines before a request are ignored.
                    if self.pending.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                        self.pending.clear();
                        continue;
                    }
                    let is_expecting_continue = self.parse_head()?;
                    self.pending.clear();
                    if is_expecting_continue && input.is_empty() && !self.is_complete() {
                        return Ok(Some(Step::Continue));
                    }
                }
                State::Sized { remaining } => {
                    let left = self.take_body(input, remaining);
                    self.state = State::Sized { remaining: left };
                    if left > 0 {
                        return Ok(None);
                    }
                    return Ok(Some(self.finish()));
                }
                State::ChunkSize => {
                    if !self.take_line(input)? {
                        return Ok(None);
                    }
                    let size = parse_chunk_size(&self.pending)?;
                    self.pending.clear();
                    self.state = if size == 0 { State::Trailers } else { State::ChunkData { remaining: size } };
                }
                State::ChunkData { remaining } => {
                    let left = self.take_body(input, remaining);
                    self.state = if left > 0 { State::ChunkData { remaining: left } } else { State::ChunkEnd };
                    if left > 0 {
                        return Ok(None);
                    }
                }
                State::ChunkEnd => {
                    if !self.take_line(input)? {
                        return Ok(None);
                    }
                    if !matches!(self.pending.as_slice(), b"\r\n" | b"\n") {
                        return Err(BadRequest::Chunk("no line end after a chunk"));
                    }
                    self.pending.clear();
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let too_long = |TooLong| BadRequest::Chunk("the trailers are too long");
                    if !self.take_section(input, TRAILER_BYTES_MAX).map_err(too_long)? {
                        return Ok(None);
                    }
                    self.parse_trailers()?;
                    self.pending.clear();
                    return Ok(Some(self.finish()));
                }
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.state == State::Sized { remaining: 0 }
    }

    fn finish(&mut self) -> Step {
        self.state = State::Head;
        Step::Request(std::mem::take(&mut self.request))
    }

    /// Moves bytes to `pending` up to and including an empty line; whether that was reached.
    fn take_section(&mut self, input: &mut &[u8], bytes_max: usize) -> Result<bool, TooLong> {
        while !input.is_empty() {
            let line_end = input.iter().position(|byte| *byte == b'\n');
            let (line, rest) = input.split_at(line_end.map_or(input.len(), |end| end + 1));
            if self.pending.len() + line.len() > bytes_max {
                return Err(TooLong);
            }
            self.pending.extend_from_slice(line);
            *input = rest;
            if ends_with_empty_line(&self.pending) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves bytes to `pending` up to and including a line end; whether that was reached.
    fn take_line(&mut self, input: &mut &[u8]) -> Result<bool, BadRequest> {
        let line_end = input.iter().position(|byte| *byte == b'\n');
        let (line, rest) = input.split_at(line_end.map_or(input.len(), |end| end + 1));
        if self.pending.len() + line.len() > CHUNK_LINE_BYTES_MAX {
            return Err(BadRequest::Chunk("a line is too long"));
        }
        self.pending.extend_from_slice(line);
        *input = rest;
        Ok(line_end.is_some())
    }

    /// Moves at most `remaining` bytes to the body, counting those beyond the limit without keeping them; what remains.
    fn take_body(&mut self, input: &mut &[u8], remaining: u64) -> u64 {
        let taken = usize::try_from(remaining).unwrap_or(usize::MAX).min(input.len());
        let (bytes, rest) = input.split_at(taken);
        let room = self.body_bytes_max - self.request.body.len();
        self.request.body.extend_from_slice(&bytes[..taken.min(room)]);
        self.request.body_bytes = self.request.body_bytes.saturating_add(taken as u64);
        *input = rest;
        remaining - taken as u64
    }

    /// Reads the head in `pending` and chooses the state for the body; whether the client expects `100 Continue`.
    fn parse_head(&mut self) -> Result<bool, BadRequest> {
        let mut fields = [EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Request::new(&mut fields);
        match head.parse(&self.pending).map_err(BadRequest::Head)? {
            Status::Complete(_) => {}
            Status::Partial => return Err(BadRequest::Head(httparse::Error::NewLine)),
        }
        let method = head.method.unwrap_or_default();
        let target = head.path.unwrap_or_default();
        let headers: Vec<_> =
            head.headers.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect();
        let is_http_1_1 = head.version == Some(1);
        let connection = find(&headers, "connection").unwrap_or_default();
        self.request = Request {
            method: method.to_owned(),
            path: path_of(target).to_owned(),
            is_keep_alive: if is_http_1_1 {
                !has_token(connection, "close")
            } else {
                has_token(connection, "keep-alive")
            },
            headers,
            ..Request::default()
        };
        self.state = framing(&self.request.headers, is_http_1_1)?;
        if let State::Sized { remaining } = self.state {
            let expected = usize::try_from(remaining).unwrap_or(usize::MAX).min(self.body_bytes_max);
            self.request.body.reserve(expected.min(RESERVED_BODY_BYTES_MAX));
        }
        Ok(is_http_1_1
            && self.request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")))
    }

    fn parse_trailers(&mut self) -> Result<(), BadRequest> {
        let mut fields = [EMPTY_HEADER; FIELDS_MAX];
        let malformed = BadRequest::Chunk("the trailers are malformed");
        match httparse::parse_headers(&self.pending, &mut fields) {
            Ok(Status::Complete((_, fields))) => {
                self.request.trailers =
                    fields.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect();
                Ok(())
            }
            Ok(Status::Partial) | Err(_) => Err(malformed),
        }
    }
}

/// Memory set aside for a body before any of it has arrived.
const RESERVED_BODY_BYTES_MAX: usize = 64 * 1024;

/// A section that does not end within its limit.
struct TooLong;

fn ends_with_empty_line(section: &[u8]) -> bool {
    matches!(section, b"\n" | b"\r\n") || section.ends_with(b"\n\n") || section.ends_with(b"\n\r\n")
}

/// The path of a request target in origin or absolute form.
fn path_of(target: &str) -> &str {
    let origin_form = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => target,
    };
    origin_form.split(['?', '#']).next().unwrap_or_default()
}

fn has_token(list: &[u8], token: &str) -> bool {
    list.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// How the body is delimited (RFC 9112, section 6.3). What two readers might understand differently is refused.
fn framing(headers: &[(String, Vec<u8>)], is_http_1_1: bool) -> Result<State, BadRequest> {
    let values = |name: &'static str| headers.iter().filter(move |(field, _)| field == name).map(|(_, value)| value);
    let mut codings = values("transfer-encoding");
    let mut lengths = values("content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(State::Sized { remaining: 0 }),
        (Some(_), Some(_)) => Err(BadRequest::Framing("both Transfer-Encoding and Content-Length are given")),
        (Some(coding), None) => {
            if !is_http_1_1 || codings.next().is_some() || !coding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(BadRequest::Framing("the only transfer coding that is understood is `chunked`"));
            }
            Ok(State::ChunkSize)
        }
        (None, Some(length)) => {
            if lengths.any(|other| other != length) {
                return Err(BadRequest::Framing("several Content-Length fields differ"));
            }
            let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(length).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
            let remaining = number.ok_or(BadRequest::Framing("Content-Length is not a number"))?;
            Ok(State::Sized { remaining })
        }
    }
}

fn parse_chunk_size(line: &[u8]) -> Result<u64, BadRequest> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number);
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(BadRequest::Chunk("a chunk's size is not a number"))
}

/// Status of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of RFC 9110, section 15")]
pub enum StatusCode {
    Ok,
    Accepted,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    ContentTooLarge,
}

impl StatusCode {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "HTTP/1.1 200 OK\r\n",
            Self::Accepted => "HTTP/1.1 202 Accepted\r\n",
            Self::BadRequest => "HTTP/1.1 400 Bad Request\r\n",
            Self::Forbidden => "HTTP/1.1 403 Forbidden\r\n",
            Self::NotFound => "HTTP/1.1 404 Not Found\r\n",
            Self::MethodNotAllowed => "HTTP/1.1 405 Method Not Allowed\r\n",
            Self::ContentTooLarge => "HTTP/1.1 413 Request Entity Too Large\r\n",
        }
    }
}

/// What makes a client that waits for it send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The bytes of a response. Control characters in values become spaces, as they would end the field.
pub fn response(status: StatusCode, headers: &[(&str, &str)], body: &[u8], is_last: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512 + body.len());
    bytes.extend_from_slice(status.line().as_bytes());
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
        bytes.extend_from_slice(b"\r\n");
    }
    if is_last {
        bytes.extend_from_slice(b"Connection: close\r\n");
    }
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY_BYTES_MAX: usize = 16;

    /// All requests of a stream that arrives in pieces of `step` bytes.
    fn decode(stream: &[u8], step: usize) -> Result<Vec<Request>, BadRequest> {
        let mut decoder = Decoder::new(BODY_BYTES_MAX);
        let mut requests = Vec::new();
        for mut piece in stream.chunks(step) {
            loop {
                match decoder.next(&mut piece)? {
                    Some(Step::Request(request)) => requests.push(request),
                    Some(Step::Continue) => {}
                    None => break,
                }
            }
            assert!(piece.is_empty());
        }
        Ok(requests)
    }

    fn check(stream: &str, expected: Result<&[(&str, &str)], BadRequest>) {
        for step in 1..=stream.len() {
            let decoded = decode(stream.as_bytes(), step).map(|requests| {
                requests
                    .iter()
                    .map(|request| (request.path.clone(), String::from_utf8(request.body.clone()).unwrap()))
                    .collect::<Vec<_>>()
            });
            let expected = expected.clone().map(|requests| {
                requests.iter().map(|(path, body)| ((*path).to_owned(), (*body).to_owned())).collect::<Vec<_>>()
            });
            assert_eq!(decoded, expected, "{stream:?} in pieces of {step}");
        }
    }

    #[test]
    fn requests_survive_any_split() {
        check("GET /a HTTP/1.1\r\n\r\n", Ok(&[("/a", "")]));
        check("GET /a?b=c HTTP/1.1\nHost: x\n\n", Ok(&[("/a", "")]));
        check("\r\n\r\nGET /a HTTP/1.1\r\n\r\n\r\nGET /b HTTP/1.0\r\n\r\n", Ok(&[("/a", ""), ("/b", "")]));
        check("GET http://127.0.0.1:9001/a?b HTTP/1.1\r\n\r\n", Ok(&[("/a", "")]));
        check(
            "POST /a HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\nabcPOST /b HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            Ok(&[("/a", "abc"), ("/b", "")]),
        );
        check(
            "POST /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
            Ok(&[("/a", "abcde"), ("/b", "")]),
        );
        check(
            "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nLambda-X: y\r\n\r\n",
            Ok(&[("/a", "a")]),
        );
        check("POST /a HTTP/1.1\r\nContent-Length: 18\r\n\r\n0123456789abcdefgh", Ok(&[("/a", "0123456789abcdef")]));
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        let framing = |text| Err(BadRequest::Framing(text));
        check("GET\r\n\r\n", Err(BadRequest::Head(httparse::Error::Token)));
        check("GET /a HTTP/3.1\r\n\r\n", Err(BadRequest::Head(httparse::Error::Version)));
        check(
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            framing("both Transfer-Encoding and Content-Length are given"),
        );
        check(
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            framing("several Content-Length fields differ"),
        );
        for length in ["-1", "+1", "1 2", "", "0x1", "99999999999999999999"] {
            let stream = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            check(&stream, framing("Content-Length is not a number"));
        }
        check(
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            framing("the only transfer coding that is understood is `chunked`"),
        );
        for (body, problem) in [
            ("x\r\n", "a chunk's size is not a number"),
            ("\r\n", "a chunk's size is not a number"),
            ("11111111111111111\r\n", "a chunk's size is not a number"),
            ("1\r\nabc\r\n", "no line end after a chunk"),
            ("0\r\nno colon\r\n\r\n", "the trailers are malformed"),
        ] {
            let stream = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            check(&stream, Err(BadRequest::Chunk(problem)));
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let endless = |start: &str| {
            let mut decoder = Decoder::new(BODY_BYTES_MAX);
            let mut kept = 0;
            let mut pieces = std::iter::once(start.as_bytes()).chain(std::iter::repeat_n(&[b'a'; 8192][..], 1000));
            let error = pieces.find_map(|mut piece| {
                let result = decoder.next(&mut piece);
                kept = kept.max(decoder.kept_bytes());
                result.err()
            });
            (error, kept)
        };
        let (error, kept) = endless("GET /");
        assert_eq!(error, Some(BadRequest::HeadTooLong));
        assert!(kept <= HEAD_BYTES_MAX);
        let (error, kept) = endless("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;");
        assert_eq!(error, Some(BadRequest::Chunk("a line is too long")));
        assert!(kept <= CHUNK_LINE_BYTES_MAX);
        let (error, kept) = endless("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: ");
        assert_eq!(error, Some(BadRequest::Chunk("the trailers are too long")));
        assert!(kept <= TRAILER_BYTES_MAX);
        let (error, kept) = endless("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n");
        assert_eq!(error, None);
        assert!(kept <= BODY_BYTES_MAX);
    }

    #[test]
    fn a_body_that_is_held_back_is_asked_for() {
        let mut decoder = Decoder::new(BODY_BYTES_MAX);
        let head = b"POST /a HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(decoder.next(&mut &head[..]), Ok(Some(Step::Continue)));
        assert!(matches!(decoder.next(&mut &b"ab"[..]), Ok(Some(Step::Request(_)))));
        let both = [&head[..], b"ab"].concat();
        assert!(matches!(decoder.next(&mut &both[..]), Ok(Some(Step::Request(_)))), "it has been sent already");
    }

    #[test]
    fn connections_close_as_the_client_wants() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: foo, Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            assert_eq!(decode(head.as_bytes(), head.len()).unwrap()[0].is_keep_alive, expected, "{head:?}");
        }
    }

    #[test]
    fn values_cannot_end_their_field() {
        let bytes = response(StatusCode::Ok, &[("A", "b\r\nC: d")], b"e", true);
        assert_eq!(bytes, b"HTTP/1.1 200 OK\r\nA: b  C: d\r\nConnection: close\r\nContent-Length: 1\r\n\r\ne");
    }
}
