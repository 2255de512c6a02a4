//! What a guest can make its monitor keep on its own heap: of everything as much as there can be, and never much. In a
//! process of its own, which the memory of other tests does not disturb.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

#[allow(dead_code, reason = "other tests need the rest")]
#[path = "../programs/guest.rs"]
mod guest;
#[allow(dead_code, reason = "other tests need the rest")]
#[path = "../programs/program.rs"]
mod program;

use calypte_linux::fs::RootMode;
use guest::{Platform, Shape, run_in_guest};
use program::Linking;

const MEMORY_MIB: u32 = 64;
/// Most memory of this process while one guest hoards, MiB: the guest's own, its `/tmp`, and what the monitor keeps.
const RESIDENT_MIB_MAX: u64 = 64 + 64 + 96;

/// Most memory that this process has had since the last call.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak is in it");
    // 5 resets the peak (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5").expect("our own peak can be reset");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[test]
fn a_hoarding_guest_is_bounded() {
    let hoards = [
        "pipes",
        "sockets",
        "passed",
        "unreachable",
        "connections",
        "watchers",
        "files",
        "fifos",
        "paths",
        "areas",
        "pages",
        "threads",
        "proc",
        "ways",
    ];
    let platform = Platform::Kvm;
    if let Some(reason) = platform.unavailable() {
        eprintln!("SKIP a_hoarding_guest_is_bounded: {reason}");
        return;
    }
    peak_mib();
    for hoard in hoards {
        let shape = Shape { platform, vcpu_count: 1, memory_mib: MEMORY_MIB, root: RootMode::ReadOnly };
        let run = run_in_guest("hoards", Linking::Static, &[hoard], shape);
        let peak = peak_mib();
        assert_eq!(run.status, 0, "{run:?}");
        assert!(peak <= RESIDENT_MIB_MAX, "{hoard}: {peak} MiB, {run:?}");
    }
}
