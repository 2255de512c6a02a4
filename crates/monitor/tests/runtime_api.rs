//! The Runtime API as a program sees it: bytes in, bytes and events out.

use calypte_linux::service::{ConnectionId, LoopbackService, ServiceOutput};
use calypte_monitor::fuzz::fuzz_runtime_api;
use calypte_monitor::runtime_api::{
    CONNECTIONS_MAX, NotReady, PIPELINED_BYTES_MAX, RESPONSE_BYTES_MAX, RuntimeApi, RuntimeEvent,
};
use calypte_wire::monitor::Invoke;
use proptest::prelude::*;

const NEXT: &str = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n";
const RESTORE_NEXT: &str = "GET /2018-06-01/runtime/restore/next HTTP/1.1\r\nHost: x\r\n\r\n";
const MAIN: ConnectionId = ConnectionId(1);
const OTHER: ConnectionId = ConnectionId(2);
const ACCEPTED: &str =
    "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\":\"OK\"}\n";

fn invocation(request_id: &str) -> Invoke {
    Invoke {
        request_id: request_id.into(),
        deadline_ms: 1_700_000_000_123,
        function_arn: "arn:aws:lambda:eu-west-1:123456789012:function:f".into(),
        trace_id: None,
        client_context: None,
        payload: br#"{"a":1}"#.to_vec(),
    }
}

fn post(path: &str, body: &str) -> String {
    format!("POST /2018-06-01/runtime/{path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A service with two connections.
struct Guest(RuntimeApi);

impl Guest {
    fn new() -> Self {
        let mut api = RuntimeApi::new();
        api.connected(MAIN);
        api.connected(OTHER);
        Self(api)
    }

    /// One whose program runs the invocation `request_id`.
    fn running(request_id: &str) -> Self {
        let mut guest = Self::new();
        assert_eq!(guest.send(MAIN, NEXT), "");
        guest.0.invoke(invocation(request_id)).unwrap();
        guest.0.drain();
        guest.0.take_events();
        guest
    }

    /// Sends bytes; what came back on any connection, `<closed>` for an end.
    fn send(&mut self, connection: ConnectionId, text: &str) -> String {
        self.0.received(connection, text.as_bytes());
        self.output()
    }

    fn output(&mut self) -> String {
        let text = |output| match output {
            ServiceOutput::Send(_, bytes) => String::from_utf8(bytes).unwrap(),
            ServiceOutput::Close(_) => "<closed>".to_owned(),
        };
        self.0.drain().into_iter().map(text).collect()
    }

    /// The status line and the body.
    fn exchange(&mut self, text: &str) -> (String, String) {
        let output = self.send(MAIN, text);
        let (head, body) = output.split_once("\r\n\r\n").unwrap_or((&output, ""));
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }
}

#[test]
fn an_invocation_goes_round() {
    let mut guest = Guest::new();
    assert_eq!(guest.0.invoke(invocation("early")), Err(NotReady));
    assert_eq!(guest.send(MAIN, NEXT), "");
    assert_eq!(guest.0.take_events(), [RuntimeEvent::Ready]);
    let full = Invoke {
        trace_id: Some("Root=1-2-3".into()),
        client_context: Some("{\"custom\":\r\n{\"ä\":1}}".into()),
        ..invocation("id-1")
    };
    guest.0.invoke(full).unwrap();
    assert_eq!(
        guest.output(),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: id-1\r\n\
         Lambda-Runtime-Deadline-Ms: 1700000000123\r\n\
         Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-west-1:123456789012:function:f\r\n\
         Lambda-Runtime-Trace-Id: Root=1-2-3\r\nLambda-Runtime-Client-Context: {\"custom\":  {\"ä\":1}}\r\n\
         Content-Length: 7\r\n\r\n{\"a\":1}"
    );
    assert_eq!(guest.0.invoke(invocation("id-2")), Err(NotReady));
    assert_eq!(guest.send(OTHER, &post("invocation/id-1/response", "[1]")), ACCEPTED);
    let payload = b"[1]".to_vec();
    let response = RuntimeEvent::Response { request_id: "id-1".into(), content_type: None, payload };
    assert_eq!(guest.0.take_events(), [response]);
    assert_eq!(guest.0.invoke(invocation("id-2")), Err(NotReady));
    assert_eq!(guest.send(MAIN, NEXT), "");
    assert_eq!(guest.0.take_events(), [RuntimeEvent::Ready]);
    guest.0.invoke(invocation("id-2")).unwrap();
    assert!(guest.output().contains("Lambda-Runtime-Aws-Request-Id: id-2\r\n"));
}

#[test]
fn errors_are_reported_with_their_type() {
    let mut guest = Guest::running("7");
    let request = "POST /2018-06-01/runtime/invocation/7/error HTTP/1.1\r\nContent-Length: 2\r\n\
                   Lambda-Runtime-Function-Error-Type: Function.Oops\r\n\r\n{}";
    assert_eq!(guest.send(MAIN, request), ACCEPTED);
    let failure = |error_type: &str| RuntimeEvent::Failure {
        request_id: "7".into(),
        error_type: error_type.into(),
        payload: b"{}".to_vec(),
    };
    assert_eq!(guest.0.take_events(), [failure("Function.Oops")]);

    let mut guest = Guest::running("7");
    assert_eq!(guest.send(MAIN, &post("invocation/7/error", "{}")), ACCEPTED);
    assert_eq!(guest.0.take_events(), [failure("Runtime.Unknown")]);

    let mut guest = Guest::running("7");
    let request = "POST /2018-06-01/runtime/invocation/7/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\
                   Lambda-Runtime-Function-Response-Mode: streaming\r\n\r\n3\r\nabc\r\n0\r\n\
                   Lambda-Runtime-Function-Error-Type: Function.Late\r\nLambda-Runtime-Function-Error-Body: e30=\r\n\r\n";
    assert_eq!(guest.send(MAIN, request), ACCEPTED);
    assert_eq!(guest.0.take_events(), [failure("Function.Late")]);

    let mut guest = Guest::new();
    let request = "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 2\r\n\
                   Lambda-Runtime-Function-Error-Type: Runtime.ImportModuleError\r\n\r\n{}";
    assert_eq!(guest.send(MAIN, request), ACCEPTED);
    let error_type = "Runtime.ImportModuleError".into();
    assert_eq!(guest.0.take_events(), [RuntimeEvent::InitError { error_type, payload: b"{}".to_vec() }]);
}

/// The guest is saved and goes on in a copy.
fn copy_of(guest: &Guest) -> Guest {
    let mut api = RuntimeApi::new();
    api.restore(&guest.0.save()).unwrap();
    api.begin_generation();
    Guest(api)
}

/// The generation that an answer names.
fn generation(answer: &str) -> &str {
    let field = answer.split("Calypte-Generation: ").nth(1).unwrap_or_else(|| panic!("no generation in {answer:?}"));
    field.lines().next().unwrap()
}

#[test]
fn a_copy_is_told_before_its_first_event() {
    let mut saved = Guest::new();
    saved.0.expect_saving();
    assert_eq!(saved.send(MAIN, RESTORE_NEXT), "");
    assert_eq!(saved.0.take_events(), [RuntimeEvent::Ready]);
    assert!(saved.0.is_idle());
    assert_eq!(saved.0.invoke(invocation("1")), Err(NotReady), "it waits for being saved, and not for an event");
    let mut generations = std::collections::HashSet::new();
    for _ in 0..2 {
        let mut copy = copy_of(&saved);
        let answer = copy.output();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("Content-Length: 0\r\n"), "{answer}");
        assert_eq!(copy.0.take_events(), [], "it is not ready yet");
        assert!(copy.0.is_restoring() && !copy.0.is_idle());
        assert_eq!(copy.0.invoke(invocation("1")), Err(NotReady));
        assert_eq!(copy.send(MAIN, NEXT), "");
        assert_eq!(copy.0.take_events(), [RuntimeEvent::Ready]);
        copy.0.invoke(invocation("1")).unwrap();
        assert_eq!(generation(&copy.output()), generation(&answer), "the first event names the same copy");
        assert!(generations.insert(generation(&answer).to_owned()), "another copy has that name");
        assert_eq!(copy.exchange(RESTORE_NEXT).0, "HTTP/1.1 403 Forbidden");
    }
}

#[test]
fn what_comes_behind_restore_next_waits_with_it() {
    let mut saved = Guest::new();
    saved.0.expect_saving();
    assert_eq!(saved.send(MAIN, &[RESTORE_NEXT, NEXT].concat()), "");
    assert_eq!(saved.send(OTHER, RESTORE_NEXT), "", "more than one may wait");
    assert_eq!(saved.0.take_events(), [RuntimeEvent::Ready]);
    let mut copy = copy_of(&saved);
    assert_eq!(copy.output().matches("HTTP/1.1 200 OK\r\n").count(), 1, "the other answer comes with the event");
    assert_eq!(copy.0.take_events(), [RuntimeEvent::Ready]);
    copy.0.invoke(invocation("1")).unwrap();
    assert_eq!(copy.output().matches("HTTP/1.1 200 OK\r\n").count(), 2);
    // The connection that waits may be lost; the program asks again.
    saved.0.closed(MAIN);
    saved.0.closed(OTHER);
    let mut copy = copy_of(&saved);
    assert_eq!(copy.output(), "<closed><closed>", "nobody is answered");
    copy.0.connected(MAIN);
    generation(&copy.send(MAIN, RESTORE_NEXT));
}

#[test]
fn a_copy_reports_that_it_cannot_do_its_part() {
    let mut saved = Guest::new();
    saved.0.expect_saving();
    let error = "POST /2018-06-01/runtime/restore/error HTTP/1.1\r\nContent-Length: 2\r\n\
                 Lambda-Runtime-Function-Error-Type: Runtime.AfterRestoreError\r\n\r\n{}";
    assert_eq!(saved.exchange(error).0, "HTTP/1.1 403 Forbidden", "not before");
    assert_eq!(saved.send(MAIN, RESTORE_NEXT), "");
    let refusal = saved.send(OTHER, NEXT);
    assert!(refusal.contains("Transition from RestoreReady to Ready failed"), "{refusal}");
    saved.0.take_events();
    let mut copy = copy_of(&saved);
    copy.output();
    assert_eq!(copy.send(MAIN, error), ACCEPTED);
    let error_type = "Runtime.AfterRestoreError".into();
    assert_eq!(copy.0.take_events(), [RuntimeEvent::InitError { error_type, payload: b"{}".to_vec() }]);
    for request in [NEXT, RESTORE_NEXT, error] {
        assert_eq!(copy.exchange(request).0, "HTTP/1.1 403 Forbidden", "{request}");
    }
    assert_eq!(copy.0.take_events(), []);
}

#[test]
fn where_nothing_is_saved_restore_next_is_answered_at_once() {
    let mut guest = Guest::new();
    for _ in 0..2 {
        assert_eq!(guest.send(MAIN, RESTORE_NEXT), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    assert_eq!(guest.0.take_events(), []);
    assert_eq!(guest.send(MAIN, NEXT), "");
    assert_eq!(guest.0.take_events(), [RuntimeEvent::Ready]);
    assert_eq!(copy_of(&guest).0.take_events(), [RuntimeEvent::Ready], "saved in `next` it is ready at once");
}

#[test]
fn a_streamed_response_is_taken_as_a_whole() {
    let mut guest = Guest::running("7");
    let request = "POST /2018-06-01/runtime/invocation/7/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\
                   Content-Type: text/plain\r\nLambda-Runtime-Function-Response-Mode: streaming\r\n\r\n\
                   2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    assert_eq!(guest.send(MAIN, request), ACCEPTED);
    let content_type = Some("text/plain".into());
    let response = RuntimeEvent::Response { request_id: "7".into(), content_type, payload: b"abc".to_vec() };
    assert_eq!(guest.0.take_events(), [response]);
}

#[test]
fn calls_out_of_turn_are_refused_and_change_nothing() {
    let forbidden = |from: &str, to: &str| {
        let message =
            format!("Transition from {from} to {to} failed for runtime. Error: State transition is not allowed");
        let body = format!("{{\"errorMessage\":\"{message}\",\"errorType\":\"InvalidStateTransition\"}}\n");
        ("HTTP/1.1 403 Forbidden".to_owned(), body)
    };
    let invalid_id = {
        let body = "{\"errorMessage\":\"Invalid request ID\",\"errorType\":\"InvalidRequestID\"}\n";
        ("HTTP/1.1 400 Bad Request".to_owned(), body.to_owned())
    };
    let mut guest = Guest::new();
    assert_eq!(guest.exchange(&post("invocation/7/response", "")), invalid_id);
    let mut guest = Guest::running("7");
    assert_eq!(guest.exchange(NEXT), forbidden("Running", "Ready"));
    assert_eq!(guest.exchange(&post("init/error", "{}")), forbidden("Running", "InitError"));
    assert_eq!(guest.exchange(&post("invocation/6/response", "")), invalid_id);
    assert_eq!(guest.exchange(&post("invocation/6/error", "")), invalid_id);
    assert_eq!(guest.0.take_events(), []);
    assert_eq!(guest.send(MAIN, &post("invocation/7/response", "1")), ACCEPTED);
    assert_eq!(guest.0.take_events().len(), 1);
    assert_eq!(guest.exchange(&post("invocation/7/response", "2")), forbidden("ResponseSent", "InvocationResponse"));
    assert_eq!(guest.exchange(&post("invocation/7/error", "{}")), forbidden("ResponseSent", "InvocationErrorResponse"));
    assert_eq!(guest.0.take_events(), []);
    let mut guest = Guest::new();
    assert_eq!(guest.send(MAIN, &post("init/error", "{}")), ACCEPTED);
    assert_eq!(guest.exchange(NEXT), forbidden("InitError", "Ready"));
}

#[test]
fn unknown_paths_and_methods_are_told_apart() {
    let mut guest = Guest::new();
    for (request, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ("GET /2018-06-01/runtime/invocation HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ("POST /2020-01-01/extension/register HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ("POST /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        ("GET /2018-06-01/runtime/invocation/7/response HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
    ] {
        assert_eq!(guest.exchange(request).0, expected, "{request:?}");
    }
    let (status, body) = guest.exchange("HEAD /ping HTTP/1.1\r\n\r\n");
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 404 Not Found", ""));
}

#[test]
fn a_response_over_the_limit_is_refused_and_reported() {
    for length in [RESPONSE_BYTES_MAX, RESPONSE_BYTES_MAX + 1] {
        let mut guest = Guest::running("7");
        let output = guest.send(MAIN, &post("invocation/7/response", &"x".repeat(length)));
        let events = guest.0.take_events();
        if length == RESPONSE_BYTES_MAX {
            assert_eq!(output, ACCEPTED);
            assert!(matches!(&events[..], [RuntimeEvent::Response { payload, .. }] if payload.len() == length));
        } else {
            assert!(output.starts_with("HTTP/1.1 413 "), "{output}");
            assert!(output.contains("Exceeded maximum allowed payload size (6291556 bytes)."), "{output}");
            let expected = RuntimeEvent::ResponseTooLarge { request_id: "7".into(), payload_bytes: length as u64 };
            assert_eq!(events, [expected]);
        }
        assert_eq!(guest.send(MAIN, NEXT), "", "the connection is still in step");
        assert_eq!(guest.0.take_events(), [RuntimeEvent::Ready]);
    }
}

#[test]
fn a_response_and_the_next_may_arrive_together() {
    let mut guest = Guest::running("7");
    let together = post("invocation/7/response", "1") + NEXT;
    assert_eq!(guest.send(MAIN, &together), "");
    assert!(matches!(&guest.0.take_events()[..], [RuntimeEvent::Response { .. }, RuntimeEvent::Ready]));
    guest.0.invoke(invocation("8")).unwrap();
    let outputs = guest.0.drain();
    let [ServiceOutput::Send(MAIN, bytes)] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(bytes.starts_with(format!("{ACCEPTED}HTTP/1.1 200 OK\r\n").as_bytes()), "both answers come at once");
}

#[test]
fn requests_behind_a_waiting_next_wait_too_up_to_a_limit() {
    let mut guest = Guest::new();
    assert_eq!(guest.send(MAIN, &(NEXT.to_owned() + &post("invocation/7/response", "1"))), "");
    guest.0.invoke(invocation("7")).unwrap();
    let output = guest.output();
    assert!(output.starts_with("HTTP/1.1 200 OK\r\n") && output.ends_with(ACCEPTED), "{output}");
    assert_eq!(guest.send(MAIN, NEXT), "");
    assert_eq!(guest.send(MAIN, &"x".repeat(PIPELINED_BYTES_MAX + 1)), "<closed>");
}

#[test]
fn an_invocation_survives_the_connection_that_waited_for_it() {
    let mut guest = Guest::new();
    assert_eq!(guest.send(MAIN, NEXT), "");
    guest.0.closed(MAIN);
    assert_eq!(guest.output(), "<closed>");
    assert_eq!(guest.0.take_events(), [RuntimeEvent::Ready]);
    guest.0.invoke(invocation("7")).unwrap();
    assert_eq!(guest.output(), "");
    assert!(guest.send(OTHER, NEXT).contains("Lambda-Runtime-Aws-Request-Id: 7\r\n"));
    assert_eq!(guest.0.take_events(), []);
}

#[test]
fn bad_requests_and_too_many_connections_are_closed() {
    let mut guest = Guest::new();
    let output = guest.send(MAIN, "nonsense\r\n\r\n");
    assert!(output.starts_with("HTTP/1.1 400 Bad Request\r\n") && output.ends_with("<closed>"), "{output}");
    assert_eq!(guest.send(MAIN, NEXT), "", "a closed connection is not listened to");
    assert_eq!(guest.0.take_events(), []);
    for id in 10..10 + CONNECTIONS_MAX as u64 - 1 {
        guest.0.connected(ConnectionId(id));
    }
    assert_eq!(guest.output(), "");
    guest.0.connected(ConnectionId(1000));
    assert_eq!(guest.output(), "<closed>");
}

#[test]
fn incomplete_requests_of_many_connections_are_bounded() {
    let mut api = RuntimeApi::new();
    let half = "x".repeat(RESPONSE_BYTES_MAX - 1);
    for id in 1..=3 {
        api.connected(ConnectionId(id));
        let head = format!("POST / HTTP/1.1\r\nContent-Length: {RESPONSE_BYTES_MAX}\r\n\r\n");
        api.received(ConnectionId(id), head.as_bytes());
        api.received(ConnectionId(id), half.as_bytes());
    }
    assert_eq!(api.drain(), [ServiceOutput::Close(ConnectionId(3))]);
}

#[test]
fn fixed_scripts_hold_the_invariants() {
    let corpus: [&[u8]; 6] = [
        &[0, 0, 6, 7, 7, 0, 6, 0, 2, 0, 6, 2, 6, 0, 7, 0, 0],
        &[0, 0, 6, 7, 7, 0, 6, 8, 6, 7, 0],
        &[0, 0, 6, 0, 2, 0, 6, 2, 6, 0, 2, 0, 6, 3, 6, 0],
        &[0, 0, 0, 0, 6, 6, 1, 0, 6, 6, 2, 0],
        &[0, 0, 6, 0, 1, 0, 2, 0, 0, 0, 6, 0, 6, 4],
        &[0, 0, 6, 0, 2, 0, 29, 5, 4, 3, b'{', b'}', b'x'],
    ];
    corpus.into_iter().for_each(fuzz_runtime_api);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_scripts_hold_the_invariants(script in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz_runtime_api(&script);
    }

    /// A stream gives the same answers and events however it is cut.
    #[test]
    fn splits_do_not_matter(cuts in proptest::collection::vec(0usize..1000, 0..12), noise in "[ -~\r\n]{0,40}") {
        let stream = [
            post("invocation/7/response", "12345"),
            "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nA: b\r\n\r\n".into(),
            "GET /2018-06-01/runtime/x HTTP/1.1\r\n\r\n".into(),
            noise,
            NEXT.into(),
        ]
        .concat();
        let run = |cuts: &[usize]| {
            let mut guest = Guest::running("7");
            let mut output = String::new();
            let mut rest = stream.as_str();
            for cut in cuts {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                output += &guest.send(MAIN, piece);
                rest = after;
            }
            output += &guest.send(MAIN, rest);
            let events = guest.0.take_events();
            let is_ready = guest.0.invoke(invocation("8")).is_ok();
            output += &guest.output();
            (output, events, is_ready)
        };
        prop_assert_eq!(run(&cuts), run(&[]));
    }
}
