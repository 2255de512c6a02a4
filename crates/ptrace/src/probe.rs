//! Whether this host lets us trace processes, and what to do if not.

use std::io;

/// Where the Yama security module says who may trace whom (`Documentation/admin-guide/LSM/Yama.rst`).
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";
/// Only administrators may trace.
const YAMA_ADMINISTRATORS: u32 = 2;
/// Nobody may, until the next boot.
const YAMA_NOBODY: u32 = 3;
/// Where Linux says below which address nobody may map anything.
const LOWEST_ADDRESS: &str = "/proc/sys/vm/mmap_min_addr";

/// Why processes cannot be traced. Each message ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The Yama security module forbids it.
    #[error("the host forbids processes to trace their children ({YAMA} is {scope}): {fix}")]
    Forbidden {
        /// Its setting.
        scope: u32,
        /// How to allow it.
        fix: &'static str,
    },
    /// Low addresses cannot be mapped.
    #[error("the host keeps addresses below {lowest:#x} free: run `sudo sysctl vm.mmap_min_addr=65536`")]
    LowestAddress {
        /// The lowest address that can be mapped.
        lowest: u64,
    },
}

/// Checks that this process can make stubs, as far as that can be told without making one.
pub fn probe() -> Result<(), ProbeError> {
    // SAFETY: no memory is involved.
    let is_root = unsafe { libc::geteuid() } == 0;
    check(read(YAMA), read(LOWEST_ADDRESS), is_root)
}

fn read(path: &str) -> Option<u64> {
    let text: io::Result<String> = std::fs::read_to_string(path);
    text.ok()?.trim().parse().ok()
}

fn check(scope: Option<u64>, lowest: Option<u64>, is_root: bool) -> Result<(), ProbeError> {
    let scope = scope.map_or(0, |scope| scope as u32);
    if scope >= YAMA_NOBODY {
        return Err(ProbeError::Forbidden { scope, fix: "set it to 1 at boot (`sysctl.d(5)`)" });
    }
    if scope == YAMA_ADMINISTRATORS && !is_root {
        return Err(ProbeError::Forbidden { scope, fix: "run `sudo sysctl kernel.yama.ptrace_scope=1`" });
    }
    match lowest {
        Some(lowest) if lowest > crate::layout::STAGING && !is_root => Err(ProbeError::LowestAddress { lowest }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_names_the_fix() {
        let message = |scope, lowest, is_root| check(scope, lowest, is_root).map_err(|error| error.to_string());
        assert_eq!(message(None, None, false), Ok(()));
        assert_eq!(message(Some(1), Some(65536), false), Ok(()));
        assert_eq!(message(Some(2), Some(65536), true), Ok(()));
        assert!(message(Some(2), None, false).unwrap_err().contains("sudo sysctl kernel.yama.ptrace_scope=1"));
        assert!(message(Some(3), None, true).unwrap_err().contains("at boot"));
        assert!(message(None, Some(1 << 20), false).unwrap_err().contains("vm.mmap_min_addr=65536"));
    }
}
