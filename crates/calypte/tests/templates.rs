//! Environments that start from a template: that they are what a fresh start would be, and share nothing that must differ.

#![allow(missing_docs)]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

mod harness;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Server, bad, calypte, good, has_kvm, json as parse, run, signal, stderr, stdout};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a template may take to be made, generously.
const TEMPLATE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Copies that exist at the same time.
const COPIES: usize = 6;

/// Gives everything random that Python and the system have, and what calls before have left.
const RANDOM_FUNCTION: &str = r#"
import mmap, os, random, secrets, ssl, tempfile, time, uuid
seen = []
# Of memory that is only reserved nothing has been used: it must cost nothing, however much it is.
reserved = mmap.mmap(-1, 1 << 45, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ)
started = time.monotonic()
random.random()
ssl.RAND_bytes(1)
tempfile.mktemp()
def handler(event, context):
    seen.append(context.aws_request_id)
    time.sleep(event.get("seconds", 0))
    with open("/proc/sys/kernel/random/uuid") as file:
        kernel = file.read().strip()
    return {
        "calls": len(seen),
        "unique": [
            str(random.random()), str(random.getrandbits(64)), secrets.token_hex(), ssl.RAND_bytes(16).hex(),
            str(uuid.uuid4()), str(uuid.uuid1()), tempfile.mktemp(), os.urandom(16).hex(), kernel,
            os.getrandom(16).hex(),
        ],
        "time": time.time(),
        "uptime": time.monotonic() - started,
        "pid": os.getpid(),
    }
"#;

const DEPLOY_OPTIONS: [&str; 8] =
    ["--runtime", "python", "--handler", "app.handler", "--memory", "256", "--timeout", "30"];

/// Gives back what earlier invocations have left wherever one can leave something, and leaves something there.
const CANARY_FUNCTION: &str = r#"
import os, signal, subprocess, sys, threading
kept = []
def handler(event, context):
    found = kept + os.listdir("/tmp") + os.listdir("/dev/shm") + os.environ.get("CANARY", "").split()
    found += [thread.name for thread in threading.enumerate() if thread.name.startswith("canary")]
    found += [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    found += [os.readlink("/proc/self/fd/" + name) for name in os.listdir("/proc/self/fd") if int(name) > 50]
    if signal.getsignal(signal.SIGALRM) != signal.SIG_DFL or signal.setitimer(signal.ITIMER_REAL, 0)[0]:
        found.append("a timer")
    if os.getcwd() != "/var/task":
        found.append(os.getcwd())
    kept.append("memory")
    open("/tmp/file", "w").close()
    open("/dev/shm/file", "w").close()
    os.environ["CANARY"] = "variable"
    threading.Thread(target=threading.Event().wait, name="canary thread", daemon=True).start()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    os.dup2(os.open("/tmp/file", os.O_RDONLY), 77)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    os.chdir("/tmp")
    return found
"#;
/// Invocations of it.
const FRESH_CALLS: usize = 12;

/// Tells which of its hooks have run, and what the last one has drawn.
const HOOKED_FUNCTION: &str = r#"
import os, random, ssl
from snapshot_restore_py import register_before_snapshot, register_after_restore
calls = []
register_before_snapshot(calls.append, "before")
@register_after_restore
def draw():
    calls.extend(["after", str(random.random()), ssl.RAND_bytes(16).hex()])
def handler(event, context):
    return {"calls": calls, "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}
"#;

/// A server with a function.
struct Deployed {
    server: Server,
    data: PathBuf,
    /// The function's code.
    folder: PathBuf,
    _parent: TempDir,
}

/// A server with a function; none, printed as a skip, if there is no Python or no KVM.
fn deployed(test: &str, code: &str) -> Option<Deployed> {
    if !has_kvm(test) {
        return None;
    }
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP {test}: python3 is not installed");
        return None;
    }
    let parent = tempfile::tempdir().unwrap();
    let (data, folder) = (parent.path().join("data"), parent.path().join("function"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("app.py"), code).unwrap();
    good(&data, &["runtime", "add", "python", "--from-host", "python3"]);
    let server = Server::start_with(&data, &[]);
    good(&data, &[&["deploy", folder.to_str().unwrap(), "--name", "function"], &DEPLOY_OPTIONS[..]].concat());
    Some(Deployed { server, data, folder, _parent: parent })
}

fn invoke(data: &Path, event: &str) -> Value {
    parse(&good(data, &["invoke", "function", event, "--json"]))
}

/// Kills the environment that has just answered, and calls the function until another one has answered: the server may
/// assign a call to the first before it has heard of its end.
fn invoke_in_another(server: &Server, data: &Path) -> Value {
    // There may be one more, of which the template is made at this moment.
    if let [monitor] = server.monitors()[..] {
        signal(monitor, "-KILL");
    }
    let deadline = Instant::now() + TEMPLATE_WAIT_MAX;
    loop {
        let output = run(data, &["invoke", "function", "{}", "--json"]);
        assert!(Instant::now() < deadline, "no call succeeds: {}", stdout(&output));
        let answer = parse(&stdout(&output));
        if answer["function_error"].is_null() {
            return answer;
        }
    }
}

/// Calls the function in new environments until one starts from the template.
fn until_template(server: &Server, data: &Path) -> Value {
    let deadline = Instant::now() + TEMPLATE_WAIT_MAX;
    let mut answer = invoke(data, "{}");
    while answer["placement"] != "template" {
        assert!(Instant::now() < deadline, "there is no template: {answer}");
        answer = invoke_in_another(server, data);
    }
    answer
}

#[test]
fn copies_of_a_template_share_no_random_value_and_no_history() {
    let test = "copies_of_a_template_share_no_random_value_and_no_history";
    let Some(Deployed { server, data, _parent, .. }) = deployed(test, RANDOM_FUNCTION) else { return };
    let first = until_template(&server, &data);
    assert_eq!(first["payload"]["calls"], 1, "a copy has not handled what others have: {first}");
    let calls: Vec<_> = (0..COPIES)
        .map(|_| {
            let mut call = calypte(&data);
            call.args(["invoke", "function", r#"{"seconds": 1}"#, "--json"]);
            call.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut answers = vec![first];
    for call in calls {
        let output = call.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        answers.push(parse(&stdout(&output)));
    }
    let copies = answers.iter().filter(|answer| answer["placement"] == "template").count();
    assert!(copies >= COPIES, "they were to be there at the same time: {answers:#?}");
    let mut values = HashSet::new();
    for answer in &answers {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let payload = &answer["payload"];
        for value in payload["unique"].as_array().unwrap() {
            assert!(values.insert(value.as_str().unwrap().to_owned()), "two copies share {value}: {answers:#?}");
        }
        assert!((payload["time"].as_f64().unwrap() - now).abs() < 30.0, "the clock is right: {payload}");
        assert!((0.0..30.0).contains(&payload["uptime"].as_f64().unwrap()), "time went on: {payload}");
    }
    server.stop();
}

#[test]
fn an_environment_from_a_template_is_reused_and_outlived_by_the_template() {
    let test = "an_environment_from_a_template_is_reused_and_outlived_by_the_template";
    let Some(Deployed { server, data, folder, _parent }) = deployed(test, RANDOM_FUNCTION) else { return };
    until_template(&server, &data);
    for calls in 2..5 {
        let answer = invoke(&data, "{}");
        assert_eq!((&answer["placement"], &answer["payload"]["calls"]), (&"reuse".into(), &calls.into()), "{answer}");
    }
    let answer = invoke_in_another(&server, &data);
    assert_eq!((&answer["placement"], &answer["payload"]["calls"]), (&"template".into(), &1.into()), "{answer}");
    // Another revision has another template.
    fs::write(folder.join("app.py"), RANDOM_FUNCTION.replace("len(seen)", "100 + len(seen)")).unwrap();
    good(&data, &["deploy", folder.to_str().unwrap(), "--name", "function"]);
    let answer = invoke(&data, "{}");
    assert_eq!((&answer["placement"], &answer["payload"]["calls"]), (&"boot".into(), &101.into()), "{answer}");
    let answer = until_template(&server, &data);
    assert_eq!(answer["payload"]["calls"], 101, "{answer}");
    let log = good(&data, &["logs", "function"]);
    assert!(log.contains("Restore Duration: ") && log.contains("Placement: template"), "{log}");
    server.stop();
}

#[test]
fn a_fresh_invocation_finds_nothing_of_the_one_before() {
    let test = "a_fresh_invocation_finds_nothing_of_the_one_before";
    let Some(Deployed { server, data, folder, _parent }) = deployed(test, CANARY_FUNCTION) else { return };
    // The canary sings: with reuse everything that is left is found.
    assert_eq!(invoke(&data, "{}")["payload"], json!([]));
    let found = invoke(&data, "{}")["payload"].to_string();
    for left in ["memory", "file", "variable", "canary thread", "a timer", "/tmp"] {
        assert!(found.contains(left), "{left:?} is not in {found}");
    }
    let deploy = ["deploy", folder.to_str().unwrap(), "--name", "function", "--env", "CALYPTE_ISOLATION=fresh"];
    good(&data, &[&deploy[..], &DEPLOY_OPTIONS[..]].concat());
    let deadline = Instant::now() + TEMPLATE_WAIT_MAX;
    let mut placements = HashSet::new();
    for call in 0.. {
        let answer = invoke(&data, "{}");
        assert_eq!(answer["payload"], json!([]), "call {call} found something: {answer}");
        placements.insert(answer["placement"].as_str().unwrap().to_owned());
        if call >= FRESH_CALLS && placements.contains("prepared") {
            break;
        }
        assert!(Instant::now() < deadline, "no environment was there before its call: {placements:?}");
    }
    assert!(!placements.contains("reuse"), "{placements:?}");
    server.stop();
    let bad_policy = [&deploy[..5], &["CALYPTE_ISOLATION=frosh"], &DEPLOY_OPTIONS[..]].concat();
    let server = Server::start_with(&data, &[]);
    bad(&data, &bad_policy, 1, &["CALYPTE_ISOLATION=frosh", "CALYPTE_ISOLATION=fresh"]);
    server.stop();
}

#[test]
fn hooks_run_before_the_snapshot_and_in_each_copy() {
    let test = "hooks_run_before_the_snapshot_and_in_each_copy";
    let Some(Deployed { server, data, _parent, .. }) = deployed(test, HOOKED_FUNCTION) else { return };
    let answer = invoke(&data, "{}");
    assert_eq!(answer["placement"], "boot");
    assert_eq!(answer["payload"], json!({"calls": [], "type": "on-demand"}), "nothing is saved here");
    let answers = [until_template(&server, &data), invoke_in_another(&server, &data)];
    let mut drawn = HashSet::new();
    for answer in &answers {
        assert_eq!((&answer["placement"], &answer["payload"]["type"]), (&"template".into(), &"snap-start".into()));
        let calls: Vec<_> = answer["payload"]["calls"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!((calls[..2].to_vec(), calls.len()), (vec!["before", "after"], 4), "{answer}");
        for value in &calls[2..] {
            assert!(drawn.insert(*value), "two copies have drawn {value}: {answers:?}");
        }
    }
    // The same environment goes on without them.
    let answer = invoke(&data, "{}");
    assert_eq!((&answer["placement"], answer["payload"]["calls"].as_array().unwrap().len()), (&"reuse".into(), 4));
    server.stop();
}

#[test]
fn a_hook_that_fails_in_a_copy_fails_the_call() {
    let test = "a_hook_that_fails_in_a_copy_fails_the_call";
    let code = HOOKED_FUNCTION.replace("calls.extend(", "1 / 0, (");
    let Some(Deployed { server, data, _parent, .. }) = deployed(test, &code) else { return };
    let deadline = Instant::now() + TEMPLATE_WAIT_MAX;
    invoke(&data, "{}");
    loop {
        assert!(Instant::now() < deadline, "no copy has failed");
        if let [monitor] = server.monitors()[..] {
            signal(monitor, "-KILL");
        }
        let answer = parse(&stdout(&run(&data, &["invoke", "function", "{}", "--json"])));
        if answer["payload"]["errorType"] == "ZeroDivisionError" {
            assert_eq!(answer["placement"], "template", "{answer}");
            break;
        }
    }
    let log = good(&data, &["logs", "function"]);
    assert!(
        log.contains("[ERROR] ZeroDivisionError") && log.contains("Error Type: Runtime.AfterRestoreError"),
        "{log}"
    );
    server.stop();
}
