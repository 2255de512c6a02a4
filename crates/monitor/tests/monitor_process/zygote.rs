//! The zygote forks, watches and reaps; nobody's end harms somebody else.

use calypte_wire::monitor::{ExitCause, ToWorker};
use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::host::{Environment, Zygote, program, start};

pub(crate) const TESTS: &[Test] = &[
    ("zygote::a_monitor_ends_with_its_socket", false, a_monitor_ends_with_its_socket),
    ("zygote::nonsense_ends_a_monitor_with_a_reason", false, nonsense_ends_a_monitor_with_a_reason),
    ("zygote::a_killed_monitor_is_reaped", false, a_killed_monitor_is_reaped),
    ("zygote::monitors_outlive_the_zygote", false, monitors_outlive_the_zygote),
    ("zygote::a_monitor_has_only_its_own_files", false, a_monitor_has_only_its_own_files),
    ("zygote::a_monitor_with_a_guest_is_jailed", true, a_monitor_with_a_guest_is_jailed),
];

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Provokes a last message.
fn assert_alive(environment: &mut Environment) {
    environment.invoke("1", "{}");
    let Some(ToWorker::Exited { cause: ExitCause::Failed(reason), .. }) = environment.receive() else {
        panic!("no farewell");
    };
    assert_eq!(reason, "the worker did not begin with `Start`");
    assert_eq!(environment.receive(), None);
}

fn a_monitor_ends_with_its_socket() {
    let mut zygote = Zygote::start();
    let mut environment = zygote.fork();
    environment.close();
    assert_eq!(zygote.wait_ended(&environment), 0);
    assert_eq!(zygote.close(), Some(0));
}

fn nonsense_ends_a_monitor_with_a_reason() {
    use std::io::Write;
    let mut zygote = Zygote::start();
    for (bytes, expected) in [
        (&[1, 0, 0, 0, 99][..], "the worker sent something that is not a message: the message cannot be decoded"),
        (&[255; 4][..], "the worker sent something that is not a message: a message of 4294967295 bytes is over"),
    ] {
        let mut environment = zygote.fork();
        environment.stream().write_all(bytes).unwrap();
        let Some(ToWorker::Exited { cause: ExitCause::Failed(reason), .. }) = environment.receive() else {
            panic!("no farewell");
        };
        assert!(reason.starts_with(expected), "{reason}");
        assert_eq!(zygote.wait_ended(&environment), 70);
    }
}

fn a_killed_monitor_is_reaped() {
    let mut zygote = Zygote::start();
    let (mut first, mut second) = (zygote.fork(), zygote.fork());
    kill(first.pid);
    assert_eq!(zygote.wait_ended(&first), 128 + 9);
    assert_eq!(first.receive(), None);
    assert_alive(&mut second);
    assert_eq!(zygote.wait_ended(&second), 70);
    let mut third = zygote.fork();
    assert_alive(&mut third);
}

fn monitors_outlive_the_zygote() {
    let mut zygote = Zygote::start();
    let mut environment = zygote.fork();
    assert_eq!(zygote.close(), Some(0));
    assert_alive(&mut environment);

    let mut zygote = Zygote::start();
    let mut environment = zygote.fork();
    zygote.process.kill().unwrap();
    assert_eq!(zygote.close(), None);
    assert_alive(&mut environment);
}

/// Waits until a forked process has become a monitor.
fn settled(zygote: &mut Zygote) -> Environment {
    let environment = zygote.fork();
    while std::fs::read_to_string(format!("/proc/{}/comm", environment.pid)).unwrap() != "calypte-monitor\n" {}
    environment
}

fn a_monitor_has_only_its_own_files() {
    let mut zygote = Zygote::start();
    for mut environment in [settled(&mut zygote), settled(&mut zygote)] {
        match std::fs::read_dir(format!("/proc/{}/fd", environment.pid)) {
            Ok(files) => {
                // Not the zygote's: what guest code may take over must not speak to a terminal.
                let errors = std::fs::read_link(format!("/proc/{}/fd/2", environment.pid)).unwrap();
                assert_eq!(errors, environment.messages());
                // The others are whatever the zygote was started with.
                let paths = files.map(|file| file.unwrap().path());
                let own = paths.filter(|path| !["fd/0", "fd/1", "fd/2"].iter().any(|stream| path.ends_with(stream)));
                let targets = own.filter_map(|path| std::fs::read_link(path).ok());
                let others = targets.filter(|target| {
                    !["/dev/", "pipe:"].iter().any(|start| target.to_string_lossy().starts_with(start))
                });
                let count = others.count();
                assert!(
                    count <= 3,
                    "{count} sockets and files: its socket, for reading and for writing, and that for descriptors are expected"
                );
            }
            // An ordinary user may not look into a process that is not dumpable, even one of their own.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
        }
        assert_alive(&mut environment);
    }
}

/// What the jail keeps in is shown where it is made; here, that a monitor is in it when its guest runs.
fn a_monitor_with_a_guest_is_jailed() {
    let mut zygote = Zygote::start();
    let mut environment = zygote.fork();
    environment.start(start(&[&program("runtime")]));
    let (_, message) = environment.receive_with_log();
    assert!(matches!(message, ToWorker::Ready { .. }), "{message:?}");
    let folder = format!("/proc/{}", environment.pid);
    let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
    let field = |name: &str| {
        let mut fields = status.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned())
    };
    assert_eq!(field("NoNewPrivs").as_deref(), Some("1"));
    assert_eq!(field("CapEff").as_deref(), Some("0000000000000000"));
    assert_eq!(field("CapBnd").as_deref(), Some("0000000000000000"));
    assert_eq!(field("Seccomp").as_deref(), Some("2"));
    assert_eq!(std::fs::read_to_string(format!("{folder}/oom_score_adj")).unwrap(), "500\n");
    // The rest is for root to see.
    if let Ok(limits) = std::fs::read_to_string(format!("{folder}/limits")) {
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
        assert_eq!(field("Uid").as_deref(), Some("200001\t200001\t200001\t200001"));
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        assert_ne!(namespace("self"), namespace(&environment.pid.to_string()));
    }
}
