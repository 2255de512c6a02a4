//! The Lambda Runtime API, served to the guest on 127.0.0.1:[`PORT`].
//!
//! Specification: "Using the Lambda runtime API for custom runtimes" in the AWS Lambda developer guide; status codes and
//! error documents are those of AWS's own runtime interface emulator.
//!
//! [`RuntimeApi`] is a state machine without I/O. Bytes of connections and invocations go in, bytes and
//! [`RuntimeEvent`]s come out:
//!
//! ```text
//!            next                  invoke                 response | error
//! Starting ───────▶ Idle ─────────────────────▶ Running ─────────────────▶ Responded ──┐
//!     │              ▲  (waits for both `next`                                         │ next
//!     │ init/error   │   and an invocation)                                            │
//!     ▼              └─────────────────────────────────────────────────────────────────┘
//! InitFailed
//! ```
//!
//! A runtime with something to do in each copy of a saved guest asks for `restore/next` before its first `next`:
//!
//! ```text
//!          restore/next                     begin_generation                next
//! Starting ────────────▶ RestoreReady ────────────────────────▶ Restoring ──────▶ Idle
//!     │                  (waits, and is saved)    answers          ▲    │
//!     │ restore/next, and the guest is not to be saved: answered   │    │ restore/error
//!     └────────────────────────────────────────────────────────────┘    ▼
//!                                                                     RestoreFailed
//! ```
//!
//! [`RuntimeEvent::Ready`] is reported at each step into `Idle` and into `RestoreReady`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use calypte_linux::service::{BadServiceState, ConnectionId, LoopbackService, ServiceOutput};
use calypte_types::limits::PAYLOAD_BYTES_MAX;
use calypte_wire::monitor::Invoke;
use serde::{Deserialize, Serialize};

use crate::http::{self, BadRequest, Decoder, Request, StatusCode, Step};

/// Port of the Runtime API inside the guest.
pub const PORT: u16 = 9001;
/// Value of `AWS_LAMBDA_RUNTIME_API`.
pub const ADDRESS: &str = "127.0.0.1:9001";
/// Longest response or error document: what Lambda accepts, which is a little more than it says.
pub const RESPONSE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 100;
/// Most connections at a time.
pub const CONNECTIONS_MAX: usize = 64;
/// Most bytes that a client may send behind a `next` which is not answered yet.
pub const PIPELINED_BYTES_MAX: usize = 64 * 1024;
/// Most bytes kept for incomplete requests of all connections together.
pub const KEPT_BYTES_MAX: usize = 2 * RESPONSE_BYTES_MAX;
/// Longest error type and content type that is passed on; the rest is cut off.
pub const LABEL_BYTES_MAX: usize = 256;

/// Field of the answers to `restore/next` and `next` by which a program sees that it is a copy of a saved one: each copy has
/// another value. What it has made of random numbers before the first such event, other copies have too.
pub const GENERATION_FIELD: &str = "Calypte-Generation";
/// Random bytes in a generation's name.
const GENERATION_BYTES: usize = 16;

/// Version of what [`LoopbackService::save`] gives.
const STATE_VERSION: u32 = 2;

const VERSION_PREFIX: &str = "/2018-06-01/runtime/";
const ERROR_TYPE_FIELD: &str = "lambda-runtime-function-error-type";
const ERROR_BODY_FIELD: &str = "lambda-runtime-function-error-body";
/// What Lambda reports when a runtime does not name the type of an error.
const ERROR_TYPE_UNKNOWN: &str = "Runtime.Unknown";

/// What the program has told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimeEvent {
    /// It waits for an invocation, or to be saved.
    Ready,
    /// It has answered one.
    Response {
        /// Which one.
        request_id: String,
        /// As the program gave it.
        content_type: Option<String>,
        /// The answer.
        payload: Vec<u8>,
    },
    /// It has failed one.
    Failure {
        /// Which one.
        request_id: String,
        /// For programs.
        error_type: String,
        /// Normally `{errorMessage, errorType, stackTrace}`.
        payload: Vec<u8>,
    },
    /// Its answer was over [`RESPONSE_BYTES_MAX`].
    ResponseTooLarge {
        /// Which one.
        request_id: String,
        /// Length of the answer.
        payload_bytes: u64,
    },
    /// It could not initialise, or not do what is to be done in each copy.
    InitError {
        /// For programs.
        error_type: String,
        /// Normally `{errorMessage, errorType, stackTrace}`.
        payload: Vec<u8>,
    },
}

/// An invocation came while another one was not over. The worker sends one only after `Ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an invocation arrived while the program was not ready for it")]
pub struct NotReady;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Starting,
    InitFailed,
    RestoreReady,
    Restoring,
    RestoreFailed,
    Idle,
    Running { request_id: String },
    Responded { request_id: String },
}

impl Phase {
    /// The names that AWS's emulator uses in its messages.
    fn name(&self) -> &'static str {
        match self {
            Self::Starting => "Started",
            Self::InitFailed => "InitError",
            Self::RestoreReady => "RestoreReady",
            Self::Restoring => "Restoring",
            Self::RestoreFailed => "RestoreError",
            Self::Idle => "Ready",
            Self::Running { .. } => "Running",
            Self::Responded { .. } => "ResponseSent",
        }
    }
}

/// The service. See the module's documentation.
#[derive(Debug, Serialize, Deserialize)]
pub struct RuntimeApi {
    phase: Phase,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Connections whose `next` or `restore/next` is not answered, in the order in which they asked.
    waiting: VecDeque<ConnectionId>,
    /// An invocation that no `next` has fetched yet.
    invocation: Option<Invoke>,
    outputs: Vec<ServiceOutput>,
    events: Vec<RuntimeEvent>,
    /// Names this copy of a program that goes on from a saved one; nothing where it has been started here.
    #[serde(skip)]
    generation: Option<String>,
    /// Whether the guest is to be saved. Never so in a copy.
    #[serde(skip)]
    is_to_be_saved: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Connection {
    decoder: Decoder,
    /// Whether its `next` or `restore/next` is not answered yet; bytes behind it wait in `backlog`.
    is_waiting: bool,
    is_keep_alive: bool,
    /// The answer to the request before `next`, when both arrived together: it is sent together with the event, so
    /// that a client which sends its requests so receives once.
    held: Vec<u8>,
    backlog: Vec<u8>,
}

/// What to answer at once. `None`: the answer comes with an invocation.
struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn accepted() -> Self {
        Self { status: StatusCode::Accepted, content_type: "application/json", body: "{\"status\":\"OK\"}\n".into() }
    }

    fn text(status: StatusCode, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// An error document. Neither text holds a character that JSON escapes.
    fn error(status: StatusCode, error_type: &str, message: &str) -> Self {
        let body = format!("{{\"errorMessage\":\"{message}\",\"errorType\":\"{error_type}\"}}\n");
        Self { status, content_type: "application/json", body }
    }

    fn invalid_request_id() -> Self {
        Self::error(StatusCode::BadRequest, "InvalidRequestID", "Invalid request ID")
    }

    fn invalid_transition(from: &Phase, to: &str) -> Self {
        let message = format!(
            "Transition from {} to {to} failed for runtime. Error: State transition is not allowed",
            from.name()
        );
        Self::error(StatusCode::Forbidden, "InvalidStateTransition", &message)
    }

    fn too_large() -> Self {
        let message = format!("Exceeded maximum allowed payload size ({RESPONSE_BYTES_MAX} bytes).");
        Self::error(StatusCode::ContentTooLarge, "RequestEntityTooLarge", &message)
    }
}

impl Default for RuntimeApi {
    fn default() -> Self {
        Self::new()
    }
}

impl RuntimeApi {
    /// The service of a program that has not called yet.
    pub fn new() -> Self {
        Self {
            phase: Phase::Starting,
            connections: BTreeMap::new(),
            waiting: VecDeque::new(),
            invocation: None,
            outputs: Vec::new(),
            events: Vec::new(),
            generation: None,
            is_to_be_saved: false,
        }
    }

    /// The guest is to be saved once the program waits: in `restore/next`, or in `next` if it does not ask for that.
    pub fn expect_saving(&mut self) {
        self.is_to_be_saved = true;
    }

    /// The program is another copy of a saved one from now on. Its next event says so, in the field
    /// [`GENERATION_FIELD`], with a value that no other copy has. If it was saved in `restore/next`, that is answered;
    /// otherwise it is ready.
    pub fn begin_generation(&mut self) {
        let mut bytes = [0; GENERATION_BYTES];
        calypte_linux::random::fill(&mut bytes);
        self.generation = Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        match self.phase {
            Phase::RestoreReady => {
                self.phase = Phase::Restoring;
                for id in std::mem::take(&mut self.waiting) {
                    self.answer_restore_next(id);
                }
            }
            Phase::Idle => self.events.push(RuntimeEvent::Ready),
            _ => {}
        }
    }

    fn answer_restore_next(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.is_waiting = false;
        let is_last = !connection.is_keep_alive;
        let mut bytes = std::mem::take(&mut connection.held);
        let headers: Vec<_> = self.generation.as_deref().map(|id| (GENERATION_FIELD, id)).into_iter().collect();
        bytes.append(&mut http::response(StatusCode::Ok, &headers, b"", is_last));
        self.send(id, bytes, is_last);
        self.read_backlog(id);
    }

    /// Gives the program an invocation; the bytes for it are in [`LoopbackService::drain`].
    pub fn invoke(&mut self, invocation: Invoke) -> Result<(), NotReady> {
        if self.phase != Phase::Idle || self.invocation.is_some() {
            return Err(NotReady);
        }
        self.invocation = Some(invocation);
        self.hand_over();
        Ok(())
    }

    /// Whether the program waits for an invocation, and none is on its way to it, or waits to be saved.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::RestoreReady || self.phase == Phase::Idle && self.invocation.is_none()
    }

    /// Whether the program does what is to be done in each copy, and has not asked for an invocation.
    pub fn is_restoring(&self) -> bool {
        self.phase == Phase::Restoring
    }

    /// What the program has told since the last call, in order.
    pub fn take_events(&mut self) -> Vec<RuntimeEvent> {
        std::mem::take(&mut self.events)
    }

    /// Whether [`RuntimeApi::take_events`] would give any.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Answers the oldest waiting `next` when there is an invocation for it.
    fn hand_over(&mut self) {
        if self.invocation.is_none() {
            return;
        }
        let Some(id) = self.waiting.pop_front() else { return };
        let Some(invocation) = self.invocation.take() else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.is_waiting = false;
        let is_last = !connection.is_keep_alive;
        let deadline = invocation.deadline_ms.to_string();
        let mut headers = vec![
            ("Content-Type", "application/json"),
            ("Lambda-Runtime-Aws-Request-Id", invocation.request_id.as_str()),
            ("Lambda-Runtime-Deadline-Ms", deadline.as_str()),
            ("Lambda-Runtime-Invoked-Function-Arn", invocation.function_arn.as_str()),
        ];
        headers.extend(invocation.trace_id.as_deref().map(|id| ("Lambda-Runtime-Trace-Id", id)));
        headers.extend(self.generation.as_deref().map(|id| (GENERATION_FIELD, id)));
        headers.extend(invocation.client_context.as_deref().map(|json| ("Lambda-Runtime-Client-Context", json)));
        let mut bytes = std::mem::take(&mut connection.held);
        bytes.append(&mut http::response(StatusCode::Ok, &headers, &invocation.payload, is_last));
        self.phase = Phase::Running { request_id: invocation.request_id };
        self.send(id, bytes, is_last);
        self.read_backlog(id);
    }

    fn send(&mut self, id: ConnectionId, bytes: Vec<u8>, is_last: bool) {
        self.outputs.push(ServiceOutput::Send(id, bytes));
        if is_last {
            self.close(id);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        if self.forget(id) {
            self.outputs.push(ServiceOutput::Close(id));
        }
    }

    fn forget(&mut self, id: ConnectionId) -> bool {
        self.waiting.retain(|waiting| *waiting != id);
        self.connections.remove(&id).is_some()
    }

    /// Serves what a client sent behind a `next` that has been answered now.
    fn read_backlog(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let bytes = std::mem::take(&mut connection.backlog);
            self.read(id, &bytes);
        }
    }

    fn read(&mut self, id: ConnectionId, mut bytes: &[u8]) {
        while let Some(connection) = self.connections.get_mut(&id) {
            if connection.is_waiting {
                if connection.backlog.len() + bytes.len() > PIPELINED_BYTES_MAX {
                    self.close(id);
                } else {
                    connection.backlog.extend_from_slice(bytes);
                }
                return;
            }
            match connection.decoder.next(&mut bytes) {
                Ok(None) => return,
                Ok(Some(Step::Continue)) => self.outputs.push(ServiceOutput::Send(id, http::CONTINUE.to_vec())),
                Ok(Some(Step::Request(request))) => self.serve(id, request),
                Err(error) => {
                    self.refuse(id, &error);
                    return;
                }
            }
        }
    }

    fn refuse(&mut self, id: ConnectionId, error: &BadRequest) {
        let body = format!("400 Bad Request: {error}\n");
        let headers = [("Content-Type", "text/plain; charset=utf-8")];
        self.send(id, http::response(StatusCode::BadRequest, &headers, body.as_bytes(), true), true);
    }

    fn serve(&mut self, id: ConnectionId, request: Request) {
        let is_last = !request.is_keep_alive;
        let is_head = request.method == "HEAD";
        if let Some(answer) = self.route(id, request) {
            let headers = [("Content-Type", answer.content_type)];
            let mut bytes = http::response(answer.status, &headers, answer.body.as_bytes(), is_last);
            if is_head {
                bytes.truncate(bytes.len() - answer.body.len());
            }
            self.send(id, bytes, is_last);
        }
    }

    fn route(&mut self, id: ConnectionId, request: Request) -> Option<Answer> {
        let Some(route) = request.path.strip_prefix(VERSION_PREFIX) else {
            return Some(Answer::text(StatusCode::NotFound, "404 page not found\n"));
        };
        let (expected_method, path) = match route.split('/').collect::<Vec<_>>().as_slice() {
            ["invocation", "next"] => ("GET", Route::Next),
            ["init", "error"] => ("POST", Route::InitError),
            ["restore", "next"] => ("GET", Route::RestoreNext),
            ["restore", "error"] => ("POST", Route::RestoreError),
            ["invocation", request_id, "response"] => ("POST", Route::Response((*request_id).to_owned())),
            ["invocation", request_id, "error"] => ("POST", Route::Error((*request_id).to_owned())),
            _ => return Some(Answer::text(StatusCode::NotFound, "404 page not found\n")),
        };
        if request.method != expected_method {
            return Some(Answer::text(StatusCode::MethodNotAllowed, ""));
        }
        match path {
            Route::Next => self.next(id, request.is_keep_alive),
            Route::InitError => Some(self.init_error(request)),
            Route::RestoreNext => self.restore_next(id, request.is_keep_alive),
            Route::RestoreError => Some(self.restore_error(request)),
            Route::Response(request_id) => Some(self.response(&request_id, request)),
            Route::Error(request_id) => Some(self.error(&request_id, request)),
        }
    }

    fn next(&mut self, id: ConnectionId, is_keep_alive: bool) -> Option<Answer> {
        match self.phase {
            Phase::Starting | Phase::Restoring | Phase::Responded { .. } => {
                self.phase = Phase::Idle;
                self.events.push(RuntimeEvent::Ready);
            }
            Phase::Idle => {}
            Phase::InitFailed | Phase::RestoreReady | Phase::RestoreFailed | Phase::Running { .. } => {
                return Some(Answer::invalid_transition(&self.phase, "Ready"));
            }
        }
        self.wait(id, is_keep_alive);
        self.hand_over();
        None
    }

    fn restore_next(&mut self, id: ConnectionId, is_keep_alive: bool) -> Option<Answer> {
        match self.phase {
            Phase::Starting if self.is_to_be_saved => {
                self.phase = Phase::RestoreReady;
                self.events.push(RuntimeEvent::Ready);
            }
            Phase::RestoreReady => {}
            // Asked for again after the connection was lost on which it was not answered, or nothing is to be waited for.
            Phase::Starting | Phase::Restoring => self.phase = Phase::Restoring,
            _ => return Some(Answer::invalid_transition(&self.phase, "RestoreReady")),
        }
        self.wait(id, is_keep_alive);
        if self.phase == Phase::Restoring {
            self.waiting.pop_back();
            self.answer_restore_next(id);
        }
        None
    }

    /// The answer comes later.
    fn wait(&mut self, id: ConnectionId, is_keep_alive: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.is_waiting = true;
        connection.is_keep_alive = is_keep_alive;
        if let Some(ServiceOutput::Send(_, held)) = self.outputs.pop_if(|output| is_answer_to(output, id)) {
            connection.held = held;
        }
        self.waiting.push_back(id);
    }

    fn init_error(&mut self, request: Request) -> Answer {
        if self.phase != Phase::Starting {
            return Answer::invalid_transition(&self.phase, "InitError");
        }
        self.failed(request, Phase::InitFailed)
    }

    fn restore_error(&mut self, request: Request) -> Answer {
        if self.phase != Phase::Restoring {
            return Answer::invalid_transition(&self.phase, "RestoreError");
        }
        self.failed(request, Phase::RestoreFailed)
    }

    fn failed(&mut self, request: Request, phase: Phase) -> Answer {
        if request.body_bytes > request.body.len() as u64 {
            return Answer::too_large();
        }
        self.phase = phase;
        self.events.push(RuntimeEvent::InitError { error_type: error_type(&request), payload: request.body });
        Answer::accepted()
    }

    fn response(&mut self, request_id: &str, request: Request) -> Answer {
        if let Some(refusal) = self.check_outstanding(request_id, "InvocationResponse") {
            return refusal;
        }
        let request_id = request_id.to_owned();
        self.phase = Phase::Responded { request_id: request_id.clone() };
        if request.body_bytes > request.body.len() as u64 {
            self.events.push(RuntimeEvent::ResponseTooLarge { request_id, payload_bytes: request.body_bytes });
            return Answer::too_large();
        }
        self.events.push(match midstream_error(&request) {
            Some((error_type, payload)) => RuntimeEvent::Failure { request_id, error_type, payload },
            None => RuntimeEvent::Response {
                request_id,
                content_type: request.header("content-type").map(label),
                payload: request.body,
            },
        });
        Answer::accepted()
    }

    fn error(&mut self, request_id: &str, request: Request) -> Answer {
        if let Some(refusal) = self.check_outstanding(request_id, "InvocationErrorResponse") {
            return refusal;
        }
        let request_id = request_id.to_owned();
        self.phase = Phase::Responded { request_id: request_id.clone() };
        if request.body_bytes > request.body.len() as u64 {
            self.events.push(RuntimeEvent::ResponseTooLarge { request_id, payload_bytes: request.body_bytes });
            return Answer::too_large();
        }
        let error_type = error_type(&request);
        self.events.push(RuntimeEvent::Failure { request_id, error_type, payload: request.body });
        Answer::accepted()
    }

    /// Why the invocation of that id cannot be answered now.
    fn check_outstanding(&self, request_id: &str, transition: &str) -> Option<Answer> {
        match &self.phase {
            Phase::Running { request_id: current } if current == request_id => None,
            Phase::Responded { request_id: current } if current == request_id => {
                Some(Answer::invalid_transition(&self.phase, transition))
            }
            _ => Some(Answer::invalid_request_id()),
        }
    }
}

impl LoopbackService for RuntimeApi {
    fn connected(&mut self, connection: ConnectionId) {
        if self.connections.len() >= CONNECTIONS_MAX {
            self.outputs.push(ServiceOutput::Close(connection));
            return;
        }
        let state = Connection {
            decoder: Decoder::new(RESPONSE_BYTES_MAX),
            is_waiting: false,
            is_keep_alive: true,
            held: Vec::new(),
            backlog: Vec::new(),
        };
        self.connections.insert(connection, state);
    }

    fn received(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.read(connection, bytes);
        let kept = |connection: &Connection| connection.decoder.kept_bytes();
        if self.connections.get(&connection).is_some_and(|connection| kept(connection) > 0)
            && self.connections.values().map(kept).sum::<usize>() > KEPT_BYTES_MAX
        {
            self.close(connection);
        }
    }

    fn closed(&mut self, connection: ConnectionId) {
        self.close(connection);
    }

    fn drain(&mut self) -> Vec<ServiceOutput> {
        std::mem::take(&mut self.outputs)
    }

    fn save(&self) -> Vec<u8> {
        postcard::to_stdvec(&(STATE_VERSION, self)).expect("everything in it has a length")
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), BadServiceState> {
        let bad = |error: postcard::Error| BadServiceState(format!("its state cannot be decoded: {error}"));
        let (version, content) = postcard::take_from_bytes::<u32>(state).map_err(bad)?;
        if version != STATE_VERSION {
            return Err(BadServiceState(format!("its state has version {version}; {STATE_VERSION} is read here")));
        }
        let saved: Self = postcard::from_bytes(content).map_err(bad)?;
        let is_bounded = |connection: &Connection| connection.decoder.body_bytes_max() == RESPONSE_BYTES_MAX;
        if saved.connections.len() > CONNECTIONS_MAX || !saved.connections.values().all(is_bounded) {
            return Err(BadServiceState("its state is beyond its limits".to_owned()));
        }
        *self = saved;
        Ok(())
    }
}

enum Route {
    Next,
    InitError,
    RestoreNext,
    RestoreError,
    Response(String),
    Error(String),
}

/// Whether an output that is not yet on its way answers a client, and is not `100 Continue`.
fn is_answer_to(output: &ServiceOutput, id: ConnectionId) -> bool {
    matches!(output, ServiceOutput::Send(to, bytes) if *to == id && bytes != http::CONTINUE)
}

/// A field's value as text of bounded length.
fn label(value: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(value).into_owned();
    text.truncate(text.floor_char_boundary(LABEL_BYTES_MAX));
    text
}

fn error_type(request: &Request) -> String {
    request.header(ERROR_TYPE_FIELD).map_or_else(|| ERROR_TYPE_UNKNOWN.to_owned(), label)
}

/// The error that a streaming response ended with: its type, and its document, which is sent as base64.
fn midstream_error(request: &Request) -> Option<(String, Vec<u8>)> {
    let error_type = label(request.trailer(ERROR_TYPE_FIELD)?);
    let encoded = request.trailer(ERROR_BODY_FIELD).unwrap_or_default();
    Some((error_type, BASE64_STANDARD.decode(encoded).unwrap_or_else(|_| encoded.to_vec())))
}

/// A [`RuntimeApi`] for two owners: the guest's kernel, to which it is a service, and the session, which gives it
/// invocations and takes its events. The kernel's lock is taken before this one.
#[derive(Debug, Clone, Default)]
pub struct SharedRuntimeApi(Arc<Mutex<RuntimeApi>>);

impl SharedRuntimeApi {
    /// Exclusive access. A panic elsewhere ends the process, so what it left behind does not matter.
    pub fn lock(&self) -> MutexGuard<'_, RuntimeApi> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoopbackService for SharedRuntimeApi {
    fn connected(&mut self, connection: ConnectionId) {
        self.lock().connected(connection);
    }

    fn received(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.lock().received(connection, bytes);
    }

    fn closed(&mut self, connection: ConnectionId) {
        self.lock().closed(connection);
    }

    fn drain(&mut self) -> Vec<ServiceOutput> {
        self.lock().drain()
    }

    fn save(&self) -> Vec<u8> {
        self.lock().save()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), BadServiceState> {
        self.lock().restore(state)
    }
}
