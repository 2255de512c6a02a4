//! An environment whose monitor is the test: any bytes may come, in any order, cut anywhere. Whatever they are, the
//! invocation is answered, the environment ends, and nothing panics.

use std::sync::Mutex;

use calypte_types::{Arn, RequestId};
use calypte_wire::frame;
use calypte_wire::monitor::{ToWorker, Usage};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::logs::Logs;
use crate::transcript::RateLimit;

/// Longer than any of these environments lives; a test that needs it has failed.
const HANG: Duration = Duration::from_secs(20);

fn spec() -> FunctionSpec {
    let account: calypte_types::AccountId = "123456789012".parse().unwrap();
    FunctionSpec {
        arn: Arn {
            region: "us-east-1".into(),
            account: account.clone(),
            function: "hello".parse().unwrap(),
            qualifier: None,
        },
        account,
        version: "$LATEST".into(),
        revision_id: "r1".into(),
        mounts: Vec::new(),
        arguments: Vec::new(),
        environment: Vec::new(),
        memory_mib: 128,
        tmp_mib: 512,
        timeout_s: 1,
        has_template: false,
        isolation: Default::default(),
    }
}

/// What the test's monitor sends.
#[derive(Debug, Clone)]
enum Piece {
    Bytes(Vec<u8>),
    Message(ToWorker),
    /// A message with one byte changed.
    Damaged(ToWorker, usize, u8),
}

fn usage() -> impl Strategy<Value = Usage> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(memory_peak_bytes, exits, cpu_us)| Usage {
        memory_peak_bytes,
        exits,
        cpu_us,
    })
}

fn message(request_id: &str) -> impl Strategy<Value = ToWorker> + use<> {
    let id = prop_oneof![8 => Just(request_id.to_owned()), 1 => ".{0,40}"];
    let payload = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        3 => usage().prop_map(|usage| ToWorker::Ready { usage }),
        3 => (payload(), any::<u64>()).prop_map(|(bytes, dropped_bytes)| ToWorker::Log { bytes, dropped_bytes }),
        3 => (id.clone(), payload(), usage()).prop_map(|(request_id, payload, usage)| {
            ToWorker::Response { request_id, content_type: None, payload, usage }
        }),
        1 => (id.clone(), ".{0,40}", payload(), usage()).prop_map(|(request_id, error_type, payload, usage)| {
            ToWorker::Failure { request_id, error_type, payload, usage }
        }),
        1 => (id, any::<u64>(), usage()).prop_map(|(request_id, payload_bytes, usage)| {
            ToWorker::ResponseTooLarge { request_id, payload_bytes, usage }
        }),
        1 => (".{0,40}", payload()).prop_map(|(error_type, payload)| ToWorker::InitError { error_type, payload }),
        1 => (any::<u8>(), usage()).prop_map(|(status, usage)| {
            ToWorker::Exited { cause: ExitCause::Status(status), usage }
        }),
    ]
}

fn pieces(request_id: &str) -> impl Strategy<Value = Vec<Piece>> + use<> {
    let piece = prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..64).prop_map(Piece::Bytes),
        12 => message(request_id).prop_map(Piece::Message),
        1 => (message(request_id), any::<usize>(), any::<u8>()).prop_map(|(m, at, by)| Piece::Damaged(m, at, by)),
    ];
    proptest::collection::vec(piece, 0..12)
}

fn bytes(pieces: &[Piece]) -> Vec<u8> {
    let encode = |piece: &Piece| match piece {
        Piece::Bytes(bytes) => bytes.clone(),
        Piece::Message(message) => frame::encode(message),
        Piece::Damaged(message, at, by) => {
            let mut bytes = frame::encode(message);
            let at = at % bytes.len();
            bytes[at] ^= by;
            bytes
        }
    };
    pieces.iter().flat_map(encode).collect()
}

/// Plays `sent` in parts of `step` bytes to an environment and closes the socket. Returns the answer and the notices.
async fn play(request_id: RequestId, sent: Vec<u8>, step: usize, logs: &Logs) -> (InvokeOutcome, Vec<&'static str>) {
    let spec = Arc::new(spec());
    let (ours, mut monitor) = UnixStream::pair().unwrap();
    let (reply, answered) = oneshot::channel();
    let (_commands, receiver) = mpsc::channel(2);
    let notices = Arc::new(Mutex::new(Vec::new()));
    let seen = notices.clone();
    let notify = move |notice| {
        seen.lock().unwrap().push(match notice {
            Notice::Initialised => "initialised",
            Notice::Finishing => "finishing",
            Notice::Ready => "ready",
            Notice::Ending => "ending",
            Notice::Orphaned(_) => "orphaned",
            Notice::NotRestored(_) => "not restored",
        });
    };
    let transcript = Transcript::new(
        logs.sink(&spec.account, &spec.arn.function),
        RateLimit::new(1_000_000, 1_000_000, Instant::now()),
    );
    let request = InvokeRequest {
        request_id,
        spec: (*spec).clone(),
        invoked_arn: spec.arn.to_string(),
        payload: b"{}".to_vec(),
        client_context: None,
        trace_id: None,
    };
    let offer = Offer { platform: Platform::Kvm, has_egress: false, share: ProcessorShare::default() };
    let setup = Setup { id: EnvironmentId(1), spec, offer, origin: Origin::Program };
    let environment = Environment::new(setup, ours, receiver, notify, transcript);
    let run = environment.run(Some(Job { request, reply }), Instant::now(), HANG, None);
    let sending = async move {
        for part in sent.chunks(step) {
            // The environment may have had enough.
            if monitor.write_all(part).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // Unread messages of the worker would turn the end of the stream into an error on its side; both must do.
        drop(monitor);
    };
    tokio::time::timeout(HANG, async { tokio::join!(run, sending) }).await.expect("the environment ends");
    let notices = notices.lock().unwrap().clone();
    (answered.await.expect("every invocation is answered").expect("nobody asked it to end"), notices)
}

fn check(request_id: RequestId, sent: Vec<u8>, step: usize) -> (InvokeOutcome, Vec<&'static str>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::open(folder.path().to_owned()).unwrap();
    runtime.block_on(play(request_id, sent, step, &logs))
}

/// Lines that only the worker may write; programs' output is not in these tests' way because it has no such lines.
fn count(outcome: &InvokeOutcome, word: &str) -> usize {
    String::from_utf8_lossy(&outcome.log_tail).lines().filter(|line| line.starts_with(word)).count()
}

fn messages(request_id: RequestId) -> Vec<Piece> {
    let usage = Usage::default();
    let response =
        ToWorker::Response { request_id: request_id.to_string(), content_type: None, payload: b"[1]".to_vec(), usage };
    vec![
        Piece::Message(ToWorker::Log { bytes: b"hello\n".to_vec(), dropped_bytes: 0 }),
        Piece::Message(ToWorker::Ready { usage }),
        Piece::Message(response),
        Piece::Message(ToWorker::Ready { usage }),
    ]
}

#[test]
fn messages_cut_anywhere_are_the_same_messages() {
    let request_id = RequestId::new();
    let sent = bytes(&messages(request_id));
    // A monitor that answers before it was asked is refused, so the answer is held back by one byte at a time at most.
    let (outcome, notices) = check(request_id, sent, 1);
    assert_eq!((outcome.payload.as_slice(), outcome.error), (&b"[1]"[..], None));
    assert_eq!(notices.last(), Some(&"ending"));
    assert!(notices.contains(&"ready"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_end_in_an_answer_and_an_end(
        (request_id, pieces) in Just(RequestId::new()).prop_flat_map(|id| (Just(id), pieces(&id.to_string()))),
        step in 1..300usize,
    ) {
        let (outcome, notices) = check(request_id, bytes(&pieces), step);
        prop_assert_eq!(notices.iter().filter(|notice| **notice == "ending").count() >= 1, true);
        prop_assert_eq!(count(&outcome, "REPORT RequestId: "), 1);
        prop_assert!(outcome.report.memory_peak_bytes <= 128 * 1024 * 1024);
        if outcome.error.is_none() {
            let answered = pieces.iter().any(|piece| !matches!(piece, Piece::Bytes(_)));
            prop_assert!(answered, "an answer out of nothing");
        }
    }
}
