//! Small Linux programs, run on this host and in guests: the same output and the same end are expected. That the host
//! agrees proves the test. Each printed line is one assertion, and so is each end.
//!
//! A new program is a file `NAME.c` in this folder and a line of [`PROGRAMS`]. One alone:
//! `cargo test -p calypte-linux --test programs -- NAME`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test harness speaks to its user")]

mod conformance;
mod damaged;
mod guest;
mod program;
mod saved;

use std::path::Path;
use std::process::ExitCode;

use conformance::{Conformance, Program};
use libtest_mimic::{Arguments, Trial};

/// Names a folder: the programs and what they do on this host are put there, for a machine without a compiler.
const RECORD: &str = "CALYPTE_CONFORMANCE_RECORD";

const PROGRAMS: &[Program] = &[
    Program::new("start").arguments(&["one", "two words", ""]),
    Program::new("threads"),
    Program::new("preemption"),
    Program::new("futexes"),
    Program::new("forked_futexes"),
    Program::new("owned_locks"),
    Program::new("memory"),
    Program::new("mappings"),
    Program::new("truncation"),
    Program::new("chunks").memory_mib(64),
    Program::new("cow"),
    Program::new("races"),
    Program::new("spread"),
    Program::new("descriptors"),
    Program::new("clocks"),
    Program::new("accounting"),
    Program::new("signals").ends_with(128 + 10),
    Program::new("exec"),
    Program::new("forks"),
    Program::new("groups"),
    Program::new("waits"),
    Program::new("pidfds"),
    Program::new("execs"),
    Program::new("delivery"),
    Program::new("files"),
    Program::new("attributes"),
    Program::new("fifo"),
    Program::new("inotify"),
    Program::new("locks"),
    Program::new("process_locks"),
    Program::new("rename"),
    Program::new("sparse"),
    Program::new("overlay").in_overlay(),
    Program::new("paths"),
    Program::new("permissions"),
    Program::new("splice"),
    Program::new("events"),
    Program::new("sockets"),
    Program::new("connections"),
    Program::new("unix"),
    Program::new("polling"),
    Program::new("terminals"),
    Program::new("urgent"),
    Program::new("rules"),
    Program::new("end").arguments(&["segv"]).ends_with(128 + 11),
    Program::new("end").arguments(&["recursion"]).ends_with(128 + 11),
    Program::new("end").arguments(&["abort"]).ends_with(128 + 6),
    Program::new("end").arguments(&["illegal"]).ends_with(128 + 4),
    Program::new("end").arguments(&["divide"]).ends_with(128 + 8),
    Program::new("end").arguments(&["return-nowhere"]).ends_with(128 + 11),
    Program::new("end").arguments(&["return-with-garbage"]).ends_with(128 + 11),
    Program::new("end").arguments(&["stack-nowhere"]).ends_with(128 + 7).wrong_when_emulated("QEMU raises #GP for #SS"),
    Program::new("end").arguments(&["streams-closed"]).ends_with(17),
    Program::new("end").arguments(&["much-at-once"]).ends_with(21),
    // A thread ends although no memory is left.
    Program::new("end").arguments(&["exit-without-memory"]).memory_mib(64).only_in_guests(18, None),
    Program::new("end").arguments(&["hog"]).memory_mib(64).only_in_guests(guest::OUT_OF_MEMORY, None),
    // Whoever runs out of memory, the process that has most of it is killed.
    Program::new("end").arguments(&["outlive-largest"]).memory_mib(64).only_in_guests(19, None),
    Program::new("end").arguments(&["be-largest"]).memory_mib(64).only_in_guests(guest::OUT_OF_MEMORY, None),
    // On the host their numbers would do harm.
    Program::new("storms").memory_mib(512).only_in_guests(0, Some("all storms are over")),
    Program::new("garbage").arguments(&["1"]).memory_mib(64).only_in_guests(0, Some("all calls made")),
    Program::new("garbage").arguments(&["2"]).memory_mib(64).only_in_guests(0, Some("all calls made")),
    Program::new("garbage").arguments(&["3"]).memory_mib(64).only_in_guests(0, Some("all calls made")),
];

fn main() -> ExitCode {
    if let Some(folder) = std::env::var_os(RECORD) {
        conformance::record(PROGRAMS, Path::new(&folder));
        return ExitCode::SUCCESS;
    }
    if let Some(state) = std::env::var_os(saved::GO_ON) {
        return ExitCode::from(saved::go_on(&state, guest::SMALL));
    }
    let arguments = Arguments::from_args();
    let conformance = Conformance::new(PROGRAMS);
    let mut trials = conformance.trials();
    if guest::Platform::Kvm.unavailable().is_none() {
        trials.push(Trial::test("mutated programs load or are refused", || {
            mutated_programs_load_or_are_refused();
            Ok(())
        }));
        trials.push(Trial::test("a state crosses into another process", || {
            saved::a_state_crosses_into_another_process(guest::SMALL);
            Ok(())
        }));
        trials.push(Trial::test("damaged states are refused or harmless", || {
            damaged::damaged_states_are_refused_or_harmless(guest::SMALL);
            Ok(())
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if conclusion.has_failed() { conclusion.exit_code() } else { conformance.report() }
}

/// Every byte of the headers changed in some way: whatever that makes of the program, loading it ends well or with an error.
fn mutated_programs_load_or_are_refused() {
    let file = program::file("start", program::Linking::Dynamic);
    let sound = std::fs::read(program::folder().join(file)).expect("it was just compiled");
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
