//! A guest that makes random system calls from threads and processes which share everything: it comes to its end, and
//! the monitor stays within its memory. In a process of its own, which other tests do not disturb.
//!
//! `cargo xtask soak calls` runs it for minutes.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "says which seed has failed, and what was not run")]

#[allow(dead_code, reason = "other tests need the rest")]
#[path = "../programs/guest.rs"]
mod guest;
#[allow(dead_code, reason = "other tests need the rest")]
#[path = "../programs/program.rs"]
mod program;

use std::str::FromStr;
use std::sync::mpsc;
use std::time::Duration;

use calypte_linux::fs::RootMode;
use guest::{OUT_OF_MEMORY, Platform, Shape, run_in_guest};
use program::Linking;

/// Names how long each seed is tried, seconds.
const SECONDS: &str = "CALYPTE_CALLS_SECONDS";
/// Names the first seed.
const SEED: &str = "CALYPTE_CALLS_SEED";
/// Names how many seeds are tried on each platform.
const SEEDS: &str = "CALYPTE_CALLS_SEEDS";
/// A guest that takes this much longer than it was told hangs: the slowest thing that it may do is to end its last round.
const PATIENCE: Duration = Duration::from_secs(60);
const MEMORY_MIB: u32 = 128;
/// Most memory of this process: the guest's own, its `/tmp`, and what the monitor keeps, as for hoards.
const RESIDENT_MIB_MAX: u64 = 128 + 64 + 96;

fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Most memory that this process has had since the last call, MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak is in it");
    // 5 resets the peak (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5").expect("our own peak can be reset");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

fn make_calls(platform: Platform, vcpu_count: usize, seed: u64, duration: Duration) {
    let name = format!("{}, {vcpu_count} vCPUs, seed {seed}", platform.name());
    // Ending the process is the only way to end a thread that hangs.
    let (alive, end) = mpsc::channel::<()>();
    let hung = name.clone();
    let watchdog = std::thread::spawn(move || {
        if end.recv_timeout(duration + PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{hung}: hangs");
            std::process::abort();
        }
    });
    peak_mib();
    let shape = Shape { platform, vcpu_count, memory_mib: MEMORY_MIB, root: RootMode::ReadOnly };
    let arguments = [seed.to_string(), duration.as_millis().to_string()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run = run_in_guest("calls", Linking::Static, &arguments, shape);
    drop(alive);
    watchdog.join().expect("it only waits");
    let peak = peak_mib();
    println!("{name}: status {}, at most {peak} MiB, {}", run.status, run.output.trim().replace('\n', "; "));
    // A guest may use up its memory; what ends then is the process that has most of it, never the first one.
    assert_ne!(run.status, OUT_OF_MEMORY, "{name}: {run:?}");
    assert_eq!(run.status, 0, "{name}: {run:?}");
    assert!(run.output.ends_with("borne: yes\n"), "{name}: {run:?}");
    assert!(peak <= RESIDENT_MIB_MAX, "{name}: {peak} MiB are more than {RESIDENT_MIB_MAX}");
}

#[test]
fn random_calls_are_borne() {
    let duration = Duration::from_secs(setting(SECONDS, 3));
    let first: u64 = setting(SEED, 1);
    for &platform in Platform::ALL {
        if let Some(reason) = platform.unavailable() {
            eprintln!("SKIP random_calls_are_borne on {}: {reason}", platform.name());
            continue;
        }
        for seed in first..first + setting(SEEDS, 2) {
            make_calls(platform, 1 + (seed % 2) as usize, seed, duration);
        }
    }
}
