//! Bounds of what a jailed process can use of the host, by `setrlimit(2)`. Control groups, where the worker can make any,
//! bound memory and processor time more exactly.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How much a jailed process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Private writable memory, in bytes. `None`: as much as the host has.
    pub memory_bytes: Option<u64>,
    /// File descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Longest file that it may write, in bytes. `None`: any, for a process whose output may be a file.
    pub file_bytes: Option<u64>,
}

impl Limits {
    /// Sets them. That of threads counts those of all processes of the user, so it can be set only where there are no
    /// others: for a user of its own, and in a user namespace.
    pub(crate) fn apply(&self, has_own_user: bool, has_user_namespace: bool) -> Result<String, String> {
        let is_counted_apart = has_own_user || (has_user_namespace && has_user_counts_of_namespaces());
        let mut bounds = vec![
            (Resource::Core, Some(0)),
            (Resource::Memlock, Some(0)),
            (Resource::Msgqueue, Some(0)),
            (Resource::Rtprio, Some(0)),
            (Resource::Nofile, Some(self.descriptors)),
            (Resource::Data, self.memory_bytes),
            (Resource::Fsize, self.file_bytes),
        ];
        if is_counted_apart {
            bounds.push((Resource::Nproc, Some(self.threads)));
        }
        for (resource, bound) in bounds {
            let Some(bound) = bound else { continue };
            let bound = getrlimit(resource).maximum.map_or(bound, |maximum| maximum.min(bound));
            setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })
                .map_err(|error| format!("{resource:?}: {error}"))?;
        }
        Ok(match is_counted_apart {
            true => "memory, descriptors, threads, no core dumps".to_owned(),
            false => {
                "memory, descriptors, no core dumps; not threads, which the kernel counts for the whole user".to_owned()
            }
        })
    }
}

/// Since Linux 5.14 a user's processes are counted for each user namespace apart.
fn has_user_counts_of_namespaces() -> bool {
    let release = rustix::system::uname();
    let mut numbers = release.release().to_str().unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 14)
}
