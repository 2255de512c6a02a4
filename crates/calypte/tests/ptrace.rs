//! The platform for hosts without `/dev/kvm`: programs, functions, and what a server refuses there.

#![allow(missing_docs)]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

mod harness;

use std::path::Path;
use std::process::Command;

use harness::{Server, bad, calypte, children, good, json, signal, stderr, stdout};

const FUNCTION: &str = r#"
import threading
calls = []
def handler(event, context):
    thread = threading.Thread(target=calls.append, args=(event,))
    thread.start()
    thread.join()
    return calls
"#;

/// The interpreter behind `python3`, which may be a shim script. None, printed as a skip, where the test cannot run.
fn python(test: &str) -> Option<String> {
    let refusal = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() == "3");
    if refusal {
        eprintln!("SKIP {test}: kernel.yama.ptrace_scope is 3");
        return None;
    }
    let code = "import os, sys; print(os.path.realpath(sys.executable))";
    let Ok(printed) = Command::new("python3").args(["-c", code]).output() else {
        eprintln!("SKIP {test}: python3 is not installed");
        return None;
    };
    Some(stdout(&printed).trim().to_owned())
}

#[test]
fn programs_run_as_on_the_host() {
    let Some(python) = python("programs_run_as_on_the_host") else { return };
    let parent = tempfile::tempdir().unwrap();
    for script in [
        "print(1 + 1)",
        "import sys; sys.stderr.write('to stderr'); sys.exit(9)",
        "import json, ssl, hashlib; print(hashlib.sha256(json.dumps([1, 2.5]).encode()).hexdigest())",
        "import threading\nt = [threading.Thread(target=sum, args=(range(100000),)) for _ in range(8)]\n\
         [x.start() for x in t]\n[x.join() for x in t]\nprint('joined', len(t))",
    ] {
        let on_host = Command::new(&python).args(["-c", script]).current_dir("/").output().unwrap();
        let options = ["run", "--platform", "ptrace", "--cpus", "2", "--rootfs", "/", "--timeout", "120", "--"];
        let here = calypte(parent.path()).args(options).args([&python, "-c", script]).output().unwrap();
        assert_eq!(here.status.code(), on_host.status.code(), "{script}: {}", stderr(&here));
        assert_eq!(stdout(&here), stdout(&on_host), "{script}");
    }
}

/// A server with a function, both of one account.
fn server_with_function(parent: &Path, data: &Path) -> Server {
    good(data, &["runtime", "add", "python", "--from-host", "python3"]);
    let server = Server::start_with(data, &["--platform", "ptrace"]);
    let folder = parent.join("function");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("app.py"), FUNCTION).unwrap();
    // Its environment is to be the only one.
    let options = ["--runtime", "python", "--handler", "app.handler", "--template", "off"];
    good(data, &[&["deploy", folder.to_str().unwrap()], &options[..]].concat());
    server
}

#[test]
fn functions_run_and_leave_no_process_behind() {
    if python("functions_run_and_leave_no_process_behind").is_none() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let server = server_with_function(parent.path(), &data);
    let invoke = |event| json(&good(&data, &["invoke", "function", event]));
    assert_eq!(invoke("1"), serde_json::json!([1]));
    assert_eq!(invoke("2"), serde_json::json!([1, 2]), "the environment was reused");

    let monitors = server.monitors();
    let stubs: Vec<u32> = monitors.iter().copied().flat_map(children).collect();
    assert!(monitors.len() == 1 && stubs.len() >= 2, "{monitors:?} {stubs:?}");
    signal(monitors[0], "-KILL");
    let is_ours =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.contains("vcpu"));
    while stubs.iter().any(is_ours) {
        std::thread::yield_now();
    }
    server.stop();
}

#[test]
fn a_server_has_one_account_unless_told_otherwise() {
    if python("a_server_has_one_account_unless_told_otherwise").is_none() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let server = Server::start_with(&data, &["--platform", "ptrace"]);
    bad(&data, &["account", "add", "second"], 1, &["one account only", "--ptrace-accounts many"]);
    server.stop();

    let many = ["--platform", "ptrace", "--ptrace-accounts", "many"];
    let server = Server::start_with(&data, &many);
    good(&data, &["account", "add", "second"]);
    server.stop();

    let refused = ["serve", "--port", "0", "--platform", "ptrace"];
    bad(&data, &refused, 1, &["one account only", "dev, second", "--ptrace-accounts many"]);
    Server::start_with(&data, &many).stop();
}
