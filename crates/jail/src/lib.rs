//! The jail around a process that guest code may have taken over: a monitor, or `egress`.
//!
//! [`begin`] gives the process namespaces that need no knowledge of its task, [`enter`] does the rest once it is known what
//! the process must see: directories of the host, a [`Profile`] of system calls, [`Limits`]. Both are called by a
//! process of one thread, before the first byte of a guest is looked at. What the host does not allow is left out
//! and stands in the [`Report`] with the reason, unless the [`Policy`] asks for a full jail: then it is an error that
//! names the step.
//!
//! The layers, each of which holds alone: an empty root directory ([`Feature::EmptyRoot`]), no network, processes or IPC
//! objects of others in sight (namespaces), no privileges and a user of its own, limits of resources, Landlock, and a
//! list of system calls ([`Feature::SystemCalls`]). `docs/security.md` says what each keeps out.
//!
//! Neighbours: `monitor` enters it before it loads a guest, `egress` before it reads a message, `calypte doctor` shows
//! what [`enter`] reports.

#![deny(unsafe_code)]

mod filter;
mod identity;
mod landlock;
mod limits;
mod namespace;
mod raw;
mod root;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use crate::filter::Profile;
pub use crate::identity::Identity;
pub use crate::limits::Limits;

/// One layer of the jail, in the order in which they are put around the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// A process id namespace: no process but its own can be named.
    Processes,
    /// A mount namespace whose root is an empty read-only file system with nothing but the directories it needs.
    EmptyRoot,
    /// A network namespace without any interface that is up.
    Network,
    /// A namespace for System V IPC and POSIX message queues.
    Ipc,
    /// A namespace for host and domain names.
    HostName,
    /// A namespace for control groups.
    ControlGroups,
    /// A user of its own (root) or a user namespace (everybody else).
    Identity,
    /// No capability, nor a way to one.
    Privileges,
    /// Bounds of memory, descriptors and threads.
    Limits,
    /// Landlock: nothing but reading beneath its directories, no TCP, no signals or abstract sockets to the outside.
    Landlock,
    /// seccomp: system calls outside the list end the process.
    SystemCalls,
}

impl Feature {
    /// Every layer.
    pub const ALL: [Self; 11] = [
        Self::Processes,
        Self::EmptyRoot,
        Self::Network,
        Self::Ipc,
        Self::HostName,
        Self::ControlGroups,
        Self::Identity,
        Self::Privileges,
        Self::Limits,
        Self::Landlock,
        Self::SystemCalls,
    ];

    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Processes => "process id namespace",
            Self::EmptyRoot => "empty root directory",
            Self::Network => "network namespace",
            Self::Ipc => "IPC namespace",
            Self::HostName => "host name namespace",
            Self::ControlGroups => "cgroup namespace",
            Self::Identity => "own user",
            Self::Privileges => "no privileges",
            Self::Limits => "resource limits",
            Self::Landlock => "Landlock",
            Self::SystemCalls => "system call filter",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is done when the host does not allow a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// The process goes on without it.
    #[default]
    BestEffort,
    /// The process does not go on.
    Full,
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best-effort" => Ok(Self::BestEffort),
            "full" => Ok(Self::Full),
            _ => Err("expected `full` or `best-effort`".to_owned()),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BestEffort => "best-effort",
            Self::Full => "full",
        })
    }
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The layer.
    pub feature: Feature,
    /// Whether it is there.
    pub is_active: bool,
    /// What it is like, or why it is not there.
    pub detail: String,
}

/// What became of every layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which they were attempted.
    pub steps: Vec<Step>,
}

impl Report {
    /// The layers that are not there.
    pub fn missing(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| !step.is_active)
    }

    fn add(&mut self, feature: Feature, outcome: Result<String, String>) {
        let is_active = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|reason| reason);
        self.steps.push(Step { feature, is_active, detail });
    }
}

/// Why a process is not jailed.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A layer is not possible and the policy asks for all of them.
    #[error(
        "the jail is not complete: {feature}: {reason}. A full jail is required (--require-jail full); `calypte doctor` \
         shows what this host allows"
    )]
    Incomplete {
        /// The first one that is missing.
        feature: Feature,
        /// Why.
        reason: String,
    },
    /// A directory that the process needs cannot be opened.
    #[error("the directory {} cannot be shown to the guest", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// The process was changed only in part, so that it cannot go on.
    #[error("could not {operation}")]
    Broken {
        /// What was attempted.
        operation: &'static str,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
}

/// What a process needs inside its jail.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directories of the host that it reads.
    pub directories: Vec<PathBuf>,
    /// The system calls that it makes.
    pub profile: Profile,
    /// As whom it goes on.
    pub identity: Identity,
    /// How much it may use.
    pub limits: Limits,
    /// What is done when a layer is not possible.
    pub policy: Policy,
}

/// A process that has its first namespaces; see [`begin`].
#[derive(Debug, Clone)]
pub struct Begun {
    report: Report,
    /// `None`: not needed.
    user_namespace: Option<Result<(), String>>,
    children: Children,
}

/// Inside the jail.
#[derive(Debug)]
pub struct Inside {
    /// The directories of [`Config::directories`], in that order, opened with `O_PATH`.
    pub directories: Vec<OwnedFd>,
    /// What became of every layer.
    pub report: Report,
}

/// Whether [`begin`] also makes a process id namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// The caller forks next: its child is the first process of a namespace of its own, and is to call [`enter`].
    Separate,
    /// The caller itself is to call [`enter`]. It keeps its process id namespace; no other process can be named from
    /// inside all the same, by the list of system calls.
    None,
}

/// First part: where the process has no privileges, a user namespace in which it has some.
pub fn begin(children: Children) -> Begun {
    let mut report = Report::default();
    let user_namespace = match namespace::is_privileged() {
        true => None,
        false => Some(namespace::enter_user_namespace()),
    };
    if children == Children::Separate {
        report.add(Feature::Processes, namespace::separate_children());
    }
    Begun { report, user_namespace, children }
}

/// Second part: everything else. Afterwards the process can do what its profile says and nothing more, and so can every
/// thread that it starts.
pub fn enter(begun: Begun, config: &Config) -> Result<Inside, JailError> {
    let Begun { mut report, user_namespace, children } = begun;
    if children == Children::Separate {
        // A signal to one's process group reaches its members in other process id namespaces too. The first process of a
        // namespace leads no group, so this cannot fail; the children of a process that does are not its concern.
        let _ = rustix::process::setsid();
    }
    let has_network = config.profile == Profile::Egress;
    let is_mount_namespace = namespace::separate(&mut report, has_network);
    let (directories, outcome) = root::open_directories(&config.directories, is_mount_namespace)?;
    report.add(Feature::EmptyRoot, outcome);
    identity::close_capabilities();
    let outcome = identity::change(config.identity, user_namespace.as_ref());
    let has_own_user = outcome.is_ok() && matches!(config.identity, Identity::Own { .. });
    report.add(Feature::Identity, outcome);
    report.add(Feature::Privileges, identity::drop_privileges());
    report.add(Feature::Limits, config.limits.apply(has_own_user, matches!(user_namespace, Some(Ok(())))));
    report.add(Feature::Landlock, landlock::restrict(&directories, has_network));
    report.add(Feature::SystemCalls, filter::install(&config.profile));
    if config.policy == Policy::Full {
        refuse_incomplete(&report)?;
    }
    Ok(Inside { directories, report })
}

/// The jail of the process that opens outbound connections: everything but a network namespace. It sees no files, so what
/// it needs to know of the host (`/etc/resolv.conf`, `/etc/hosts`) must have been read before. To be called by a process
/// of one thread. `id`: the user that it becomes when it is root's.
pub fn egress(id: u32, policy: Policy) -> Result<Report, JailError> {
    /// Connections that may be open at the same time, with their sockets to monitors.
    const DESCRIPTORS_MAX: u64 = 16_384;
    const THREADS_MAX: u64 = 64;
    let config = Config {
        directories: Vec::new(),
        profile: Profile::Egress,
        identity: Identity::Own { id },
        limits: Limits { memory_bytes: None, descriptors: DESCRIPTORS_MAX, threads: THREADS_MAX, file_bytes: None },
        policy,
    };
    Ok(enter(begin(Children::None), &config)?.report)
}

fn refuse_incomplete(report: &Report) -> Result<(), JailError> {
    match report.missing().next() {
        Some(step) => Err(JailError::Incomplete { feature: step.feature, reason: step.detail.clone() }),
        None => Ok(()),
    }
}
