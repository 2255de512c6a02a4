//! The zygote forks, watches and reaps; nobody's end harms somebody else.

use calypte_wire::monitor::{ExitCause, ToWorker};
use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::host::{Environment, Zygote};

pub(crate) const TESTS: &[Test] = &[
    ("zygote::a_monitor_ends_with_its_socket", false, a_monitor_ends_with_its_socket),
    ("zygote::nonsense_ends_a_monitor_with_a_reason", false, nonsense_ends_a_monitor_with_a_reason),
    ("zygote::a_killed_monitor_is_reaped", false, a_killed_monitor_is_reaped),
    ("zygote::monitors_outlive_the_zygote", false, monitors_outlive_the_zygote),
    ("zygote::a_monitor_has_only_its_own_files", false, a_monitor_has_only_its_own_files),
    ("zygote::a_monitor_gives_up_what_it_does_not_need", false, a_monitor_gives_up_what_it_does_not_need),
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

/// Waits until a monitor has given up what it does not need: taking its name is the last step of that.
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
                // The standard streams are whatever the server was started with.
                let paths = files.map(|file| file.unwrap().path());
                let own = paths.filter(|path| !["fd/0", "fd/1", "fd/2"].iter().any(|stream| path.ends_with(stream)));
                let targets = own.filter_map(|path| std::fs::read_link(path).ok());
                let others = targets.filter(|target| {
                    !["/dev/", "pipe:"].iter().any(|start| target.to_string_lossy().starts_with(start))
                });
                let count = others.count();
                assert!(
                    count <= 2,
                    "{count} sockets and files: its one socket, for reading and for writing, is expected"
                );
            }
            // An ordinary user may not look into a process that is not dumpable, even one of their own.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
        }
        assert_alive(&mut environment);
    }
}

fn a_monitor_gives_up_what_it_does_not_need() {
    let mut zygote = Zygote::start();
    let environment = settled(&mut zygote);
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", environment.pid)).unwrap();
    assert!(read("status").contains("NoNewPrivs:\t1\n"));
    assert_eq!(read("oom_score_adj"), "500\n");
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
}
