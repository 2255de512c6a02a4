//! The binary under test and servers made of it.

#![allow(dead_code, reason = "every test program uses a part of it")]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

pub(crate) mod outside;
pub(crate) mod vm;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_calypte");
/// Variables that would lead the program to somebody's server or data.
const FOREIGN_VARIABLES: &[&str] = &[
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_LAMBDA",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "CALYPTE_DATA",
    "CALYPTE_LOG",
    "CALYPTE_PLATFORM",
    "CALYPTE_REGION",
];

pub(crate) fn calypte(data: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--data").arg(data);
    for variable in FOREIGN_VARIABLES {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run(data: &Path, arguments: &[&str]) -> Output {
    calypte(data).args(arguments).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs what must succeed and gives what it prints.
pub(crate) fn good(data: &Path, arguments: &[&str]) -> String {
    let output = run(data, arguments);
    assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, stderr(&output));
    stdout(&output)
}

/// Runs what must fail with this status and a message with these texts.
pub(crate) fn bad(data: &Path, arguments: &[&str], status: i32, texts: &[&str]) {
    let output = run(data, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {message}");
    for text in texts {
        assert!(message.contains(text), "{arguments:?}: no {text:?} in: {message}");
    }
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A running `calypte dev`.
pub(crate) struct Server {
    pub(crate) child: Child,
    ready: Value,
}

impl Server {
    /// A server whose data folder may be new.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// As [`Server::start`], with further options.
    pub(crate) fn start_with(data: &Path, options: &[&str]) -> Self {
        let arguments = ["dev", "--port", "0", "--json", "--no-host-pythons"];
        let mut command = calypte(data);
        let mut child =
            command.args(arguments).args(options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut message = String::new();
            child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
            panic!("the server ended: {message}");
        }
        Self { child, ready: json(&line) }
    }

    /// What it said when it was ready.
    pub(crate) fn text(&self, member: &str) -> &str {
        self.ready[member].as_str().unwrap()
    }

    /// Its child processes: the zygote.
    pub(crate) fn children(&self) -> Vec<u32> {
        children(self.child.id())
    }

    /// The children of its zygotes: monitors.
    pub(crate) fn monitors(&self) -> Vec<u32> {
        self.children().into_iter().flat_map(children).collect()
    }

    /// Ends the server as a service manager does; its messages.
    pub(crate) fn stop(mut self) -> String {
        signal(self.child.id(), "-TERM");
        let mut messages = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut messages).unwrap();
        assert!(self.child.wait().unwrap().success(), "{messages}");
        messages
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Has ended unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// The children of all threads of a process; none if it has ended.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

/// The program as somebody who has a server's address and a key (as `key add --json` prints it), and no data folder.
pub(crate) fn as_account(server: &Server, key: &Value) -> Command {
    let mut command = Command::new(PROGRAM);
    for variable in FOREIGN_VARIABLES {
        command.env_remove(variable);
    }
    command
        .env("HOME", "/nonexistent")
        .env("AWS_ENDPOINT_URL_LAMBDA", server.text("endpoint"))
        .env("AWS_ACCESS_KEY_ID", key["access_key_id"].as_str().unwrap())
        .env("AWS_SECRET_ACCESS_KEY", key["secret_access_key"].as_str().unwrap());
    command
}

/// Whether the test can run here; says so if not.
pub(crate) fn has_kvm(test: &str) -> bool {
    let is_usable = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !is_usable {
        eprintln!("SKIP {test}: /dev/kvm cannot be opened");
    }
    is_usable
}
