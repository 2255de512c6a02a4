//! Small Linux programs, run on this host and in a virtual machine: the same output and the same end are expected. That the
//! host agrees proves the test.

mod guest;

use guest::{Linking, check, check_end, run_in_guest};

#[test]
fn start_of_a_program() {
    check("start", &["one", "two words", ""]);
}

#[test]
fn threads() {
    check("threads", &[]);
}

#[test]
fn preemption_and_vector_state() {
    check("preemption", &[]);
}

#[test]
fn futexes() {
    check("futexes", &[]);
}

#[test]
fn memory() {
    check("memory", &[]);
}

#[test]
fn clocks() {
    check("clocks", &[]);
}

#[test]
fn signals() {
    check("signals", &[]);
}

#[test]
fn execve() {
    check("exec", &[]);
}

#[test]
fn files() {
    check("files", &[]);
}

#[test]
fn events() {
    check("events", &[]);
}

#[test]
fn sockets() {
    check("sockets", &[]);
}

/// On the host the numbers and garbage of this test would do harm, so it runs in the guest only.
#[test]
fn garbage_in_every_system_call() {
    for seed in ["1", "2", "3"] {
        let Some(run) = run_in_guest("garbage", Linking::Static, &[seed], 1, 64) else { return };
        assert_eq!(run.output.lines().last(), Some("all calls made"), "seed {seed}: {run:?}");
        assert_eq!(run.status, 0, "seed {seed}: {run:?}");
    }
}

#[test]
fn ends_by_signals_and_limits() {
    check_end("end", "segv", 128 + 11);
    check_end("end", "recursion", 128 + 11);
    check_end("end", "abort", 128 + 6);
    check_end("end", "illegal", 128 + 4);
    check_end("end", "divide", 128 + 8);
    check_end("end", "pipe-less", 17);
}

#[test]
fn memory_beyond_the_limit_ends_the_guest() {
    let Some(run) = run_in_guest("end", Linking::Static, &["hog"], 1, 64) else { return };
    assert_eq!(run.status, guest::OUT_OF_MEMORY, "{run:?}");
}
