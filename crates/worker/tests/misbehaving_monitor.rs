//! The worker against monitors that do everything a monitor may not do. After each misdeed the invocation has a clear
//! answer, the next call works, and no process is left.

mod fake;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use calypte_types::{Arn, RequestId};
use calypte_worker::{
    EgressConfig, EnvironmentId, FunctionError, FunctionSpec, InvokeError, InvokeOutcome, InvokeRequest,
    MESSAGES_TARGET, PlacementRung, Stats, ThrottleReason, VisitError, Worker, WorkerConfig,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// A function whose monitor does `behaviour` from its start on.
fn spec(behaviour: &str) -> FunctionSpec {
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
        arguments: vec![behaviour.to_owned()],
        environment: Vec::new(),
        memory_mib: 128,
        tmp_mib: 512,
        timeout_s: 1,
        has_template: false,
        isolation: Default::default(),
    }
}

fn request(spec: &FunctionSpec, event: &str) -> InvokeRequest {
    InvokeRequest {
        request_id: RequestId::new(),
        spec: spec.clone(),
        invoked_arn: spec.arn.to_string(),
        payload: event.into(),
        client_context: None,
        trace_id: None,
    }
}

struct Bench {
    worker: Arc<Worker>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new(adjust: impl FnOnce(&mut WorkerConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = WorkerConfig::new(folder.path().to_owned(), std::env::current_exe().unwrap());
        config.zygote_arguments = fake::arguments(fake::ZYGOTE).into_iter().map(Into::into).collect();
        config.memory_mib_max = 4096;
        adjust(&mut config);
        Self { worker: Worker::start(config).await.unwrap(), _folder: folder }
    }

    async fn invoke(&self, spec: &FunctionSpec, event: &str) -> InvokeOutcome {
        let invocation = self.worker.invoke(request(spec, event));
        tokio::time::timeout(Duration::from_secs(30), invocation).await.expect("an answer").unwrap()
    }

    /// Invokes, and expects the event back.
    async fn echo(&self, spec: &FunctionSpec) -> InvokeOutcome {
        let outcome = self.invoke(spec, r#"{"a":1}"#).await;
        assert_eq!(text(&outcome), r#"{"a":1}"#);
        assert_eq!(outcome.error, None);
        outcome
    }

    /// The pids of an environment's monitor and of its zygote.
    async fn pids(&self, spec: &FunctionSpec) -> (Pid, Pid) {
        let pids = text(&self.invoke(spec, "pids").await);
        let mut pids = pids.split(' ').map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap());
        (pids.next().unwrap(), pids.next().unwrap())
    }

    /// The one environment of a function.
    fn environment(&self, spec: &FunctionSpec) -> EnvironmentId {
        let all = self.worker.environments(&spec.account, &spec.arn.function);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }

    /// Sends a visitor to an environment; the visitor's end.
    fn visit(&self, environment: EnvironmentId) -> Result<UnixStream, VisitError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let visitor = "192.0.2.7:1234".parse().unwrap();
        self.worker.visit(environment, 8080, visitor, OwnedFd::from(theirs)).map(|()| ours)
    }

    /// Waits until there is no environment.
    async fn until_empty(&self) {
        let empty = async {
            while self.worker.stats() != Stats::default() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), empty).await.expect("the environments end");
    }

    async fn shutdown(self) {
        tokio::time::timeout(Duration::from_secs(30), self.worker.shutdown()).await.expect("an end");
        assert_eq!(self.worker.stats(), Stats::default());
    }
}

fn text(outcome: &InvokeOutcome) -> String {
    String::from_utf8(outcome.payload.clone()).unwrap()
}

fn log(outcome: &InvokeOutcome) -> String {
    String::from_utf8(outcome.log_tail.clone()).unwrap()
}

#[track_caller]
fn assert_error(event: &str, outcome: &InvokeOutcome, error_type: &str, message: &str) {
    let document = text(outcome);
    assert_eq!(outcome.error.map(FunctionError::as_str), Some("Unhandled"), "{event}: {document}");
    assert!(document.contains(&format!(r#""errorType":"{error_type}""#)), "{event}: {document}");
    assert!(document.contains(message), "{event}: {document}");
    assert!(log(outcome).contains("END RequestId: "), "{event}: {}", log(outcome));
}

#[tokio::test]
async fn an_invocation_in_an_environment_of_its_own_and_again_in_the_same() {
    let bench = Bench::new(|_| ()).await;
    let spec = spec("");
    let first = bench.invoke(&spec, "prints").await;
    assert_eq!((text(&first).as_str(), first.report.rung), ("printed", PlacementRung::Boot));
    assert!(first.report.init_duration.is_some());
    let log = log(&first);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "initialised");
    assert!(lines[1].starts_with("START RequestId: ") && lines[1].ends_with(" Version: $LATEST"));
    assert_eq!(lines[2..4], ["hello world", "unfinished"]);
    assert!(lines[4].starts_with("END RequestId: "));
    assert!(lines[5].contains("\tMax Memory Used: 40 MB\tInit Duration: ") && lines[5].ends_with("Placement: boot"));

    let second = bench.echo(&spec).await;
    assert_eq!((second.report.rung, second.report.init_duration), (PlacementRung::Reuse, None));
    let tail = bench.worker.logs().tail(&spec.account, &spec.arn.function, 100).await.unwrap();
    assert_eq!(String::from_utf8(tail.lines).unwrap().lines().count(), 6 + 3);
    bench.shutdown().await;
}

#[tokio::test]
async fn misdeeds_during_an_invocation() {
    let cases = [
        ("unknown request", "Sandbox.Failure", "answered request"),
        ("ready out of turn", "Sandbox.Failure", "the monitor sent Ready while an invocation runs"),
        ("init error out of turn", "Sandbox.Failure", "the monitor sent InitError while an invocation runs"),
        ("oversized frame", "Sandbox.Failure", "not a message"),
        ("frame over the limit", "Sandbox.Failure", "not a message"),
        ("malformed frame", "Sandbox.Failure", "not a message"),
        ("response over the limit", "Sandbox.Failure", "6291457 bytes of response"),
        ("output over the limit", "Sandbox.Failure", "bytes of output"),
        ("closes and stays", "Runtime.ExitError", "Runtime exited without providing a reason"),
        ("vanishes", "Runtime.ExitError", "Runtime exited without providing a reason"),
        ("is killed", "Runtime.ExitError", "Runtime exited without providing a reason"),
        ("exit 0", "Runtime.ExitError", "Error: Runtime exited without providing a reason"),
        ("exit 1", "Runtime.ExitError", "Error: Runtime exited with error: exit status 1"),
        ("segmentation fault", "Runtime.ExitError", "signal: segmentation fault"),
        ("out of memory", "Runtime.OutOfMemory", "Error: Runtime exited with error: signal: killed"),
    ];
    let bench = Bench::new(|_| ()).await;
    let spec = spec("");
    for (event, error_type, message) in cases {
        let outcome = bench.invoke(&spec, event).await;
        assert_error(event, &outcome, error_type, message);
        assert_eq!(bench.echo(&spec).await.report.rung, PlacementRung::Boot, "{event}: the environment was reused");
    }
    bench.shutdown().await;
}

#[tokio::test]
async fn what_does_not_end_is_timed_out() {
    let bench = Bench::new(|_| ()).await;
    let spec = spec("");
    for event in ["silence", "half a frame", "endless output"] {
        let began = Instant::now();
        let outcome = bench.invoke(&spec, event).await;
        assert!(began.elapsed() >= Duration::from_secs(1));
        assert_error(event, &outcome, "Sandbox.Timedout", "Error: Task timed out after 1.00 seconds");
        assert!(log(&outcome).contains(" Task timed out after 1.00 seconds\nEND RequestId: "), "{}", log(&outcome));
        assert!(log(&outcome).ends_with("\tStatus: timeout\n"));
        assert_eq!(bench.echo(&spec).await.report.rung, PlacementRung::Boot);
    }
    bench.shutdown().await;
}

#[tokio::test]
async fn a_monitor_that_does_not_read_blocks_nobody() {
    let bench = Bench::new(|_| ()).await;
    let event = format!("{:?}", "x".repeat(6_000_000));
    let outcome = bench.invoke(&spec("deaf"), &event).await;
    assert_error("deaf", &outcome, "Sandbox.Timedout", "Task timed out after 1.00 seconds");
    assert_eq!(text(&bench.invoke(&spec(""), &event).await), event);
    bench.shutdown().await;
}

#[tokio::test]
async fn misdeeds_after_the_answer() {
    let cases = [
        ("two responses", "first"),
        ("exits when idle", "answer"),
        ("garbage when idle", "answer"),
        ("never ready", "answer"),
    ];
    let bench = Bench::new(|_| ()).await;
    let spec = spec("");
    for (event, answer) in cases {
        let outcome = bench.invoke(&spec, event).await;
        assert_eq!((text(&outcome).as_str(), outcome.error), (answer, None), "{event}");
        // Until the misdeed is seen the environment may look idle, and a call would share its fate.
        bench.until_empty().await;
        assert_eq!(bench.echo(&spec).await.report.rung, PlacementRung::Boot, "{event}");
    }
    bench.shutdown().await;
}

#[tokio::test]
async fn errors_that_the_program_reports() {
    let bench = Bench::new(|_| ()).await;
    let spec = spec("");
    assert_error("raises", &bench.invoke(&spec, "raises").await, "ValueError", "no");
    let outcome = bench.invoke(&spec, "too large").await;
    let message = "Response payload size exceeded maximum allowed payload size (6291556 bytes).";
    assert_error("too large", &outcome, "Function.ResponseSizeTooLarge", message);
    assert_eq!(bench.echo(&spec).await.report.rung, PlacementRung::Reuse);
    bench.shutdown().await;
}

#[tokio::test]
async fn initialisations_that_fail() {
    let cases = [
        ("init-error", "\"errorMessage\":\"bad import\""),
        ("init-exit", "Error: Runtime exited with error: exit status 1"),
        ("init-cannot-start", "Runtime.InvalidEntrypoint"),
        ("init-vanishes", "Runtime exited without providing a reason"),
        ("init-garbage", "not a message"),
        ("init-answers", "the monitor sent Response while the program starts"),
    ];
    let bench = Bench::new(|_| ()).await;
    for (behaviour, message) in cases {
        for _ in 0..2 {
            let outcome = bench.invoke(&spec(behaviour), "{}").await;
            assert!(outcome.error.is_some() && text(&outcome).contains(message), "{behaviour}: {}", text(&outcome));
            assert_eq!(outcome.report.rung, PlacementRung::Boot);
            let log = log(&outcome);
            assert!(log.contains("START RequestId: ") && log.contains("\tStatus: error\tError Type: "), "{log}");
        }
    }
    bench.shutdown().await;
}

#[tokio::test]
async fn an_initialisation_over_its_time_uses_the_time_of_the_invocation() {
    let bench = Bench::new(|config| config.init_timeout = Duration::from_millis(100)).await;
    // With time to spare on a busy machine.
    let slow = FunctionSpec { timeout_s: 20, ..spec("init-slow") };
    assert_eq!(text(&bench.invoke(&slow, "waits").await), "waited");
    let began = Instant::now();
    let outcome = bench.invoke(&spec("init-hangs"), "{}").await;
    assert_error("init-hangs", &outcome, "Sandbox.Timedout", "Task timed out after 1.00 seconds");
    assert!(began.elapsed() >= Duration::from_millis(1100));
    bench.shutdown().await;
}

#[tokio::test]
async fn much_output_is_kept_in_part_and_delays_no_answer() {
    let bench = Bench::new(|_| ()).await;
    let spec = FunctionSpec { timeout_s: 20, ..spec("") };
    let outcome = bench.invoke(&spec, "much output").await;
    assert_eq!(text(&outcome), "done");
    assert!(log(&outcome).contains(" bytes of output were dropped: "), "{}", log(&outcome));
    bench.shutdown().await;
}

/// What inner processes have said, in all tests.
static SAID: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Said;

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SAID.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has the log of this process written to [`SAID`].
fn listen() {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    static ONCE: Once = Once::new();
    let targets = tracing_subscriber::filter::Targets::new().with_target(MESSAGES_TARGET, tracing::Level::TRACE);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Said);
    ONCE.call_once(|| tracing_subscriber::registry().with(lines).with(targets).init());
}

fn said() -> String {
    String::from_utf8(SAID.lock().unwrap().clone()).unwrap()
}

#[tokio::test]
async fn a_panic_of_a_monitor_is_in_the_servers_log_with_its_name() {
    listen();
    let bench = Bench::new(|_| ()).await;
    let spec = spec("");
    let outcome = bench.invoke(&spec, "panics").await;
    assert_error("panics", &outcome, "Runtime.ExitError", "Runtime exited without providing a reason");
    bench.until_empty().await;
    let said = said();
    let line = said.lines().find(|line| line.contains("the fake monitor panics now"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("ERROR") && line.contains("process=\"monitor of environment "), "{line}");
    bench.shutdown().await;
}

#[tokio::test]
async fn a_monitor_that_floods_the_log_fills_it_little_and_does_nothing_to_a_terminal() {
    const KEPT_BYTES_MAX: usize = 2 * 1024 * 1024;
    listen();
    let bench = Bench::new(|_| ()).await;
    let spec = FunctionSpec { timeout_s: 30, ..spec("") };
    assert_eq!(text(&bench.invoke(&spec, "floods the log").await), "flooded");
    bench.echo(&spec).await;
    bench.shutdown().await;
    let said = said();
    let flood: Vec<&str> = said.lines().filter(|line| line.contains("the flood")).collect();
    let bytes: usize = flood.iter().map(|line| line.len()).sum();
    assert!(!flood.is_empty() && bytes < KEPT_BYTES_MAX, "{bytes} bytes");
    assert!(!said.contains(['\x1b', '\x07']), "control characters are replaced");
}

#[tokio::test]
async fn visitors_get_in_and_monitors_that_take_none_keep_few_waiting() {
    /// See `DESCRIPTORS_BUFFER_BYTES`.
    const WAITING_MAX: usize = 64;
    let bench = Bench::new(|_| ()).await;
    let (spec, other) = (spec(""), FunctionSpec { revision_id: "r2".into(), ..spec("takes none") });
    bench.echo(&spec).await;
    let environment = bench.environment(&spec);
    let mut visitor = bench.visit(environment).unwrap();
    assert_eq!(text(&bench.invoke(&spec, "takes a visitor").await), "8080");
    let mut greeting = String::new();
    visitor.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "welcome");

    let waiting: Vec<_> = (0..10 * WAITING_MAX).map_while(|_| bench.visit(environment).ok()).collect();
    assert!((1..=WAITING_MAX).contains(&waiting.len()), "{} visitors wait", waiting.len());
    let refused = bench.visit(environment).unwrap_err();
    assert!(matches!(&refused, VisitError::Monitor(error) if error.kind() == io::ErrorKind::WouldBlock), "{refused:?}");
    // The one environment is no worse for it, nor is another.
    bench.echo(&spec).await;
    bench.echo(&other).await;
    // They are turned away with the environment.
    let (monitor, _) = bench.pids(&spec).await;
    kill_process(monitor, Signal::KILL).unwrap();
    for mut visitor in waiting {
        assert_eq!(visitor.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    let gone = async {
        while !matches!(bench.visit(environment), Err(VisitError::NoEnvironment { .. })) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("the environment ends");
    bench.shutdown().await;
}

#[tokio::test]
async fn what_monitors_send_where_nothing_is_expected_is_not_read() {
    let bench = Bench::new(|_| ()).await;
    let spec = FunctionSpec { timeout_s: 30, ..spec("") };
    assert_eq!(text(&bench.invoke(&spec, "unasked for").await), "sent");
    // It can still be visited.
    let mut visitor = bench.visit(bench.environment(&spec)).unwrap();
    assert_eq!(text(&bench.invoke(&spec, "takes a visitor").await), "8080");
    let mut greeting = String::new();
    visitor.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "welcome");
    assert_eq!(text(&bench.invoke(&spec, "closes its descriptors").await), "closed");
    let refused = bench.visit(bench.environment(&spec)).unwrap_err();
    assert!(matches!(refused, VisitError::Monitor(_)), "{refused:?}");
    assert_eq!(bench.echo(&spec).await.report.rung, PlacementRung::Reuse);
    bench.shutdown().await;
}

#[tokio::test]
async fn an_egress_that_breaks_the_rules_is_replaced_and_counts_nothing_wrong() {
    let bench = Bench::new(|config| {
        let arguments = fake::arguments(fake::EGRESS).into_iter().map(Into::into).collect();
        config.egress = Some(EgressConfig { program: std::env::current_exe().unwrap(), arguments });
    })
    .await;
    let of = |revision: &str| FunctionSpec { timeout_s: 30, revision_id: revision.into(), ..spec("") };
    assert_eq!(text(&bench.invoke(&of("r1"), "asks egress").await), "question");
    // One that says that environments have ended, whatever they are, with counts that do not add up.
    assert_eq!(text(&bench.invoke(&of("r2"), "has egress flood").await), "flood");
    let account = of("r1").account;
    let counted = async {
        while bench.worker.egress_counts(&account).connected == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted).await.expect("the counts arrive");
    assert_eq!(bench.worker.egress_counts(&account).connected, u64::MAX);
    // One that sends what is no message. Everybody gets another one.
    let before = bench.worker.egress_pid();
    assert_eq!(text(&bench.invoke(&of("r3"), "has egress break the rules").await), "garbage");
    let after = bench.worker.egress_pid();
    assert!(before.is_some() && after.is_some() && before != after, "{before:?} {after:?}");
    assert_eq!(text(&bench.invoke(&of("r1"), "asks egress").await), "question");
    bench.shutdown().await;
}

#[tokio::test]
async fn monitors_that_ignore_the_end_are_killed() {
    let bench = Bench::new(|_| ()).await;
    let (monitor, zygote) = bench.pids(&spec("stubborn")).await;
    bench.shutdown().await;
    for pid in [monitor, zygote] {
        assert!(test_kill_process(pid).is_err(), "process {} is left", pid.as_raw_pid());
    }
}

#[tokio::test]
async fn the_death_of_the_zygote_ends_no_environment_and_prevents_no_new_one() {
    let bench = Bench::new(|_| ()).await;
    let (old, new) = (spec(""), FunctionSpec { revision_id: "r2".into(), ..spec("") });
    let (monitor, zygote) = bench.pids(&old).await;
    kill_process(zygote, Signal::KILL).unwrap();
    let (other_monitor, other_zygote) = bench.pids(&new).await;
    assert!(other_monitor != monitor && other_zygote != zygote);
    assert_eq!(bench.pids(&old).await.0, monitor);
    assert_eq!(bench.echo(&old).await.report.rung, PlacementRung::Reuse);
    bench.shutdown().await;
}

#[tokio::test]
async fn a_killed_idle_monitor_is_replaced() {
    let bench = Bench::new(|_| ()).await;
    let spec = spec("");
    let (monitor, _) = bench.pids(&spec).await;
    kill_process(monitor, Signal::KILL).unwrap();
    bench.until_empty().await;
    assert_eq!(bench.echo(&spec).await.report.rung, PlacementRung::Boot);
    bench.shutdown().await;
}

#[tokio::test]
async fn a_wrong_zygote_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let error = Worker::start(WorkerConfig::new(folder.path().to_owned(), "/no/such/program".into())).await;
    assert!(error.is_err());
    let bench = Bench::new(|config| config.zygote_program = "/bin/true".into()).await;
    let error = bench.worker.invoke(request(&spec(""), "{}")).await.unwrap_err();
    assert!(matches!(error, InvokeError::Environment(_)), "{error:?}");
    bench.shutdown().await;
}

#[tokio::test]
async fn concurrent_calls_get_environments_up_to_the_limit_and_wait_beyond_it() {
    let bench = Bench::new(|config| {
        config.account_concurrency_max = 2;
        config.queue_account_max = 2;
    })
    .await;
    let spec = spec("");
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let (worker, request) = (bench.worker.clone(), request(&spec, "waits"));
            tokio::spawn(async move { worker.invoke(request).await })
        })
        .collect();
    let (mut ok, mut throttled) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(outcome) => ok += usize::from(text(&outcome) == "waited"),
            Err(InvokeError::Throttled { reason: ThrottleReason::QueueFull { waiting: 2 } }) => throttled += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((ok, throttled), (4, 1));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_functions_than_fit_take_turns_in_memory() {
    let bench = Bench::new(|config| config.memory_mib_max = 2 * (128 + 512 + config.memory_mib_overhead)).await;
    let calls: Vec<_> = (0..24)
        .map(|call| {
            let function = FunctionSpec { revision_id: format!("r{}", call % 6), ..spec("") };
            let worker = bench.worker.clone();
            tokio::spawn(async move { worker.invoke(request(&function, "prints")).await })
        })
        .collect();
    for call in calls {
        assert_eq!(text(&call.await.unwrap().unwrap()), "printed");
    }
    let stats = bench.worker.stats();
    assert!(stats.memory_mib_reserved <= 2 * (128 + 512 + 8), "{stats:?}");
    bench.shutdown().await;
}

#[tokio::test]
async fn a_caller_who_leaves_the_queue_is_not_served_and_one_whose_invocation_runs_is() {
    let bench = Bench::new(|config| config.account_concurrency_max = 1).await;
    let spec = spec("");
    let call = |event: &str| {
        let (worker, request) = (bench.worker.clone(), request(&spec, event));
        tokio::spawn(async move { worker.invoke(request).await })
    };
    let running = call("prints");
    let waiting = call("exit 1");
    while bench.worker.stats().waiting < 1 {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    running.abort();
    assert!(waiting.await.unwrap_err().is_cancelled() && running.await.unwrap_err().is_cancelled());
    assert_eq!(bench.worker.stats().waiting, 0);
    assert_eq!(bench.echo(&spec).await.report.rung, PlacementRung::Reuse);
    let tail = bench.worker.logs().tail(&spec.account, &spec.arn.function, 100).await.unwrap();
    let lines = String::from_utf8(tail.lines).unwrap();
    assert!(lines.contains("hello world") && !lines.contains("exit status"), "{lines}");
    bench.shutdown().await;
}

#[tokio::test]
async fn retired_and_idle_environments_end() {
    let bench = Bench::new(|config| config.idle_timeout = Duration::from_millis(200)).await;
    let (old, new) = (spec(""), FunctionSpec { revision_id: "r2".into(), ..spec("") });
    let (monitor, _) = bench.pids(&old).await;
    bench.worker.retire(&old.account, &old.arn.function, Some("r2"));
    assert_ne!(bench.pids(&old).await.0, monitor);
    bench.echo(&new).await;
    bench.until_empty().await;
    bench.shutdown().await;
}

#[tokio::test]
async fn shutting_down_answers_everybody() {
    let bench = Bench::new(|config| config.account_concurrency_max = 1).await;
    let spec = FunctionSpec { timeout_s: 60, ..spec("") };
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let (worker, request) = (bench.worker.clone(), request(&spec, "silence"));
            tokio::spawn(async move { worker.invoke(request).await })
        })
        .collect();
    while bench.worker.stats().waiting < 2 {
        tokio::task::yield_now().await;
    }
    let worker = bench.worker.clone();
    bench.shutdown().await;
    for call in calls {
        assert!(matches!(call.await.unwrap(), Err(InvokeError::ShuttingDown)));
    }
    assert!(matches!(worker.invoke(request(&spec, "{}")).await, Err(InvokeError::ShuttingDown)));
}
