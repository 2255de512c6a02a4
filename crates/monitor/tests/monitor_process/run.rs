//! `run_program` with its streams attached to pipes.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::Duration;

use calypte_monitor::run::{AttendantCommand, Program, RunConfig, run_program};
use calypte_wire::monitor::Platform;
use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::host::{mounts, program, resolve};

pub(crate) const TESTS: &[Test] = &[
    ("run::streams_and_status_are_the_programs", true, streams_and_status_are_the_programs),
    ("run::input_reaches_the_program", true, input_reaches_the_program),
    ("run::input_that_nobody_reads_is_left_alone", true, input_that_nobody_reads_is_left_alone),
    ("run::ends_from_outside_have_their_status", true, ends_from_outside_have_their_status),
    ("run::a_closed_output_ends_the_program", true, a_closed_output_ends_the_program),
    ("run::programs_of_the_host_run", true, programs_of_the_host_run),
];

/// This program as one that runs another in a virtual machine. Arguments: virtual CPUs, time limit in milliseconds (0:
/// none), program and its arguments.
pub(crate) fn child(arguments: &[String]) -> ExitCode {
    let timeout_ms: u64 = arguments[1].parse().unwrap();
    let program = Program {
        platform: Platform::Kvm,
        mounts: mounts(),
        is_root_writable: false,
        arguments: arguments[2..].to_vec(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into()), ("NAME".into(), "you".into())],
        working_directory: "/".into(),
        memory_mib: 256,
        tmp_mib: 64,
        host_name: "guest".into(),
        vcpu_count: arguments[0].parse().unwrap(),
    };
    let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
    let jail_policy = calypte_jail::Policy::BestEffort;
    // Nothing that these programs do needs one.
    let attendant = AttendantCommand { program: "/".into(), arguments: Vec::new(), egress_arguments: None };
    let publications = Vec::new();
    let config = RunConfig { program, timeout, has_profile: false, jail_policy, attendant, publications };
    match run_program(config) {
        Ok(status) => ExitCode::from(status.code()),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(125)
        }
    }
}

fn spawn(timeout_ms: u64, arguments: &[&str]) -> Child {
    spawn_on(1, timeout_ms, arguments)
}

fn spawn_on(vcpu_count: u32, timeout_ms: u64, arguments: &[&str]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["become-run", &vcpu_count.to_string(), &timeout_ms.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn check(output: &Output, status: i32, stdout: &str, stderr: &str) {
    let texts = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &*texts.0, &*texts.1), (Some(status), stdout, stderr));
}

fn streams_and_status_are_the_programs() {
    let output = spawn(0, &[&program("streams"), "hello"]).wait_with_output().unwrap();
    check(&output, 3, "hello you\n", "to stderr\n");
}

fn input_reaches_the_program() {
    let input: Vec<u8> = (0..3_000_000u32).map(|index| (index % 251) as u8).collect();
    let mut child = spawn(0, &[&program("streams"), "copy"]);
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn({
        let input = input.clone();
        move || stdin.write_all(&input).unwrap()
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == input, "the copy differs");
}

fn input_that_nobody_reads_is_left_alone() {
    let (mut ours, theirs) = std::io::pipe().unwrap();
    let mut theirs = theirs;
    theirs.write_all(b"for somebody else").unwrap();
    drop(theirs);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["become-run", "1", "0", &program("streams"), "hello"])
        .stdin(ours.try_clone().unwrap())
        .output()
        .unwrap();
    check(&output, 3, "hello you\n", "to stderr\n");
    let mut left = String::new();
    ours.read_to_string(&mut left).unwrap();
    assert_eq!(left, "for somebody else");
}

fn ends_from_outside_have_their_status() {
    let streams = program("streams");
    let output = spawn(300, &[&streams, "spin"]).wait_with_output().unwrap();
    check(&output, 124, "spinning\n", "calypte: the program was ended after 0.3 s: allow more with --timeout\n");
    let output = spawn(0, &[&streams, "segfault"]).wait_with_output().unwrap();
    check(&output, 139, "", "calypte: the program was ended by SIGSEGV\n");
    let output = spawn(0, &[&streams, "hog"]).wait_with_output().unwrap();
    let message = "calypte: the program needed more than its 256 MiB of memory: give it more with --memory\n";
    check(&output, 137, "", message);
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut child = spawn(0, &[&streams, "spin"]);
        let mut stdout = child.stdout.take().unwrap();
        let mut line = [0; 9];
        stdout.read_exact(&mut line).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        check(&child.wait_with_output().unwrap(), status, "", "");
    }
}

fn a_closed_output_ends_the_program() {
    let mut child = spawn(0, &[&program("streams"), "flood"]);
    let mut stdout = child.stdout.take().unwrap();
    let mut bytes = vec![0; 1_000_000];
    stdout.read_exact(&mut bytes).unwrap();
    drop(stdout);
    check(&child.wait_with_output().unwrap(), 141, "", "");
}

/// The same output and status as on the host, of whatever the host has.
fn programs_of_the_host_run() {
    for (program, arguments) in [
        ("busybox", &["sh", "-c", "echo $((6 * 7)); exit 5"][..]),
        ("python3", &["-c", "import json, sys; print(json.dumps({'a': [1, 2]})); sys.exit(4)"][..]),
        ("node", &["-e", "console.log([1, 2].map(x => x * 2)); process.exit(6)"][..]),
    ] {
        let Some(path) = resolve(program) else {
            println!("SKIP {program}: not on this host");
            continue;
        };
        let expected = Command::new(&path).args(arguments).output().unwrap();
        let stdout = String::from_utf8_lossy(&expected.stdout).into_owned();
        for vcpu_count in [1, 2] {
            let child = spawn_on(vcpu_count, 0, &[&[path.as_str()], arguments].concat());
            check(&child.wait_with_output().unwrap(), expected.status.code().unwrap(), &stdout, "");
        }
    }
}
