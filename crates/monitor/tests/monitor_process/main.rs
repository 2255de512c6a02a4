//! Monitors as processes: the zygote and the worker's protocol played over sockets, and `run_program` over pipes.
//!
//! Without the standard test harness, because this program is also what it tests: started with `become-zygote` or `become-run` it
//! becomes one, and those must not have the harness's threads.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test program reports to people")]

mod host;
mod run;
mod session;
mod zygote;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// A test's name, whether it needs virtual machines, and the test.
type Test = (&'static str, bool, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("become-zygote") => calypte_monitor::zygote::zygote_main(
            host::stdin_socket(),
            calypte_monitor::zygote::JailConfig { policy: calypte_jail::Policy::BestEffort, uid_first: 200_000 },
        ),
        Some("become-run") => run::child(&arguments[1..]),
        _ => run_tests(&arguments),
    }
}

fn run_tests(arguments: &[String]) -> ExitCode {
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let tests: Vec<Test> = [zygote::TESTS, session::TESTS, run::TESTS].concat();
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let unusable = calypte_kvm::probe().err();
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), 0);
    for (name, needs_kvm, test) in tests {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        if let Some(reason) = unusable.as_ref().filter(|_| needs_kvm) {
            println!("SKIP {name}: {reason}");
            skipped += 1;
        } else if catch_unwind(AssertUnwindSafe(test)).is_ok() {
            println!("test {name} ... ok");
            passed += 1;
        } else {
            println!("test {name} ... FAILED");
            failed.push(name);
        }
    }
    println!("\ntest result: {passed} passed; {} failed; {skipped} skipped", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
