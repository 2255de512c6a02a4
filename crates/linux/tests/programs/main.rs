//! Small Linux programs, run on this host and in a virtual machine: the same output and the same end are expected. That the
//! host agrees proves the test.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

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
    check_end("end", "return-nowhere", 128 + 11);
    check_end("end", "return-with-garbage", 128 + 11);
    check_end("end", "stack-nowhere", 128 + 7);
    check_end("end", "streams-closed", 17);
    check_end("end", "much-at-once", 21);
}

#[test]
fn memory_beyond_the_limit_ends_the_guest() {
    let Some(run) = run_in_guest("end", Linking::Static, &["hog"], 1, 64) else { return };
    assert_eq!(run.status, guest::OUT_OF_MEMORY, "{run:?}");
}

#[test]
fn a_thread_ends_although_no_memory_is_left() {
    let Some(run) = run_in_guest("end", Linking::Static, &["exit-without-memory"], 1, 64) else { return };
    assert_eq!(run.status, 18, "{run:?}");
}

/// Every byte of the headers changed in some way: whatever that makes of the program, loading it ends well or with an error.
#[test]
fn mutated_programs_load_or_are_refused() {
    let Some(sound) = guest::program_bytes("start", Linking::Dynamic) else { return };
    let headers = 64 + 56 * 13;
    let mut refused = 0;
    for position in (0..headers).step_by(3) {
        let mut mutated = sound.clone();
        for (distance, change) in [(0, 0x80), (7, 0x01), (19, 0xff)] {
            mutated[(position + distance * (position % 5)) % headers] ^= change;
        }
        refused += usize::from(!guest::can_load(&mutated));
    }
    assert!(refused > 10, "only {refused} were refused");
    assert!(guest::can_load(&sound));
}
