//! What becomes of a monitor's jail on this host, found out by entering it.

use std::io;

use calypte_jail::{Config, Identity, JailError, Limits, Policy, Profile, Report};
use calypte_types::limits::MONITOR_DESCRIPTORS_MAX;
use rustix::process::{WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};

use crate::fork::{Separated, fork_separated};

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No process can be made.
    #[error("a process for the probe cannot be made")]
    Fork(#[from] io::Error),
    /// The process could not enter any jail.
    #[error(transparent)]
    Jail(#[from] JailError),
}

/// Enters the jail in a child process, where this returns the report. `None` in the process that called, which must have
/// one thread only, after the child's end.
pub fn report(uid: u32) -> Result<Option<Report>, ProbeError> {
    // The child's parent is a process that ends at once; see `fork_separated`.
    set_child_subreaper(Some(getpid())).map_err(io::Error::from)?;
    match fork_separated()? {
        Separated::Parent(pid) => {
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).map_err(io::Error::from)?;
            Ok(None)
        }
        Separated::Child(begun) => {
            let config = Config {
                directories: Vec::new(),
                profile: Profile::KvmMonitor { requests: calypte_kvm::REQUESTS.to_vec() },
                identity: Identity::Own { id: uid },
                limits: Limits {
                    memory_bytes: None,
                    descriptors: MONITOR_DESCRIPTORS_MAX,
                    threads: 1,
                    file_bytes: None,
                },
                policy: Policy::BestEffort,
            };
            Ok(Some(calypte_jail::enter(begun, &config)?.report))
        }
    }
}
