//! Fuzz targets as plain functions: `tests/` replays them with fixed seeds, a fuzzer may call them with anything.

use std::collections::BTreeSet;

use calypte_linux::service::{ConnectionId, LoopbackService, ServiceOutput};
use calypte_wire::monitor::Invoke;

use crate::runtime_api::{CONNECTIONS_MAX, RuntimeApi, RuntimeEvent};

/// Well-formed pieces, so that a script reaches further than the first error.
const PHRASES: &[&str] = &[
    "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n",
    "GET /2018-06-01/runtime/invocation/next HTTP/1.0\r\n\r\n",
    "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nContent-Length: 2\r\n\r\nok",
    "POST /2018-06-01/runtime/invocation/2/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "POST /2018-06-01/runtime/invocation/1/error HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    "POST /2018-06-01/runtime/invocation/2/error HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "GET /2018-06-01/runtime/restore/next HTTP/1.1\r\n\r\n",
    "POST /2018-06-01/runtime/restore/error HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "HEAD /ping HTTP/1.1\r\n\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 18446744073709551615\r\n\r\n",
    "0\r\nLambda-Runtime-Function-Error-Type: x\r\nLambda-Runtime-Function-Error-Body: e30=\r\n\r\n",
    "\r\n\r\n",
];

/// Runs a script of connections, bytes, invocations and changes to a copy against the Runtime API and checks what must always
/// hold: nothing is sent to a connection that is not open, `Ready` and answers alternate, and each answer is for the
/// invocation that is outstanding.
pub fn fuzz_runtime_api(script: &[u8]) {
    let mut driver =
        Driver { api: RuntimeApi::new(), open: BTreeSet::new(), last_connection: 0, model: Model::default() };
    if script.len() % 2 == 1 {
        driver.api.expect_saving();
        driver.model.may_wait_for_saving = true;
    }
    let mut script = script.iter().copied();
    while let Some(operation) = script.next() {
        let argument = script.next().unwrap_or(0);
        match operation % 8 {
            0 => driver.connect(),
            1 => driver.disconnect(argument),
            2 | 3 => driver.invoke(),
            4 => {
                let bytes: Vec<u8> = script.by_ref().take(usize::from(argument)).collect();
                driver.send(argument, &bytes);
            }
            5 => {
                let phrase = PHRASES[usize::from(argument) % PHRASES.len()].as_bytes();
                for piece in phrase.chunks(1 + usize::from(operation >> 3)) {
                    driver.send(argument / 16, piece);
                }
            }
            7 => driver.copy(),
            _ => driver.send(argument / 16, PHRASES[usize::from(argument) % PHRASES.len()].as_bytes()),
        }
        driver.check();
    }
}

struct Driver {
    api: RuntimeApi,
    open: BTreeSet<ConnectionId>,
    last_connection: u64,
    model: Model,
}

/// What the worker may rely on.
#[derive(Debug, Default)]
struct Model {
    is_ready: bool,
    outstanding: Option<String>,
    invocations: u64,
    /// Whether it may be ready to be saved and not for an invocation.
    may_wait_for_saving: bool,
}

impl Driver {
    fn connect(&mut self) {
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        self.open.insert(id);
        self.api.connected(id);
    }

    fn nth(&self, n: u8) -> Option<ConnectionId> {
        self.open.iter().nth(usize::from(n) % self.open.len().max(1)).copied()
    }

    fn disconnect(&mut self, n: u8) {
        if let Some(id) = self.nth(n) {
            self.api.closed(id);
        }
    }

    fn send(&mut self, n: u8, bytes: &[u8]) {
        if let Some(id) = self.nth(n) {
            self.api.received(id, bytes);
            self.check();
        }
    }

    fn invoke(&mut self) {
        let request_id = (self.model.invocations + 1).to_string();
        let invocation = Invoke {
            request_id: request_id.clone(),
            deadline_ms: 1,
            function_arn: "arn:aws:lambda:a:1:function:f".into(),
            trace_id: None,
            client_context: Some("{\n}".into()),
            payload: b"{}".to_vec(),
        };
        let is_accepted = self.api.invoke(invocation).is_ok();
        let is_saved_only = self.model.may_wait_for_saving && !is_accepted;
        assert!(is_accepted == self.model.is_ready || is_saved_only, "{:?}", self.model);
        if is_accepted {
            self.model.is_ready = false;
            self.model.outstanding = Some(request_id);
            self.model.invocations += 1;
            self.model.may_wait_for_saving = false;
        }
    }

    /// Goes on with a copy of a guest that waits.
    fn copy(&mut self) {
        assert_eq!(self.api.is_idle(), self.model.is_ready, "{:?}", self.model);
        if self.model.is_ready {
            let mut copy = RuntimeApi::new();
            copy.restore(&self.api.save()).expect("its own state");
            copy.begin_generation();
            self.api = copy;
            self.model.is_ready = false;
            self.model.may_wait_for_saving = false;
        }
    }

    fn check(&mut self) {
        for output in self.api.drain() {
            match output {
                ServiceOutput::Send(id, bytes) => assert!(self.open.contains(&id) && !bytes.is_empty()),
                ServiceOutput::Close(id) => assert!(self.open.remove(&id)),
            }
        }
        assert!(self.open.len() <= CONNECTIONS_MAX);
        for event in self.api.take_events() {
            match event {
                RuntimeEvent::Ready => {
                    assert!(!self.model.is_ready && self.model.outstanding.is_none(), "{:?}", self.model);
                    self.model.is_ready = true;
                }
                RuntimeEvent::Response { request_id, .. }
                | RuntimeEvent::Failure { request_id, .. }
                | RuntimeEvent::ResponseTooLarge { request_id, .. } => {
                    assert_eq!(self.model.outstanding.take(), Some(request_id));
                }
                RuntimeEvent::InitError { .. } => assert_eq!((self.model.is_ready, self.model.invocations), (false, 0)),
            }
        }
    }
}
