//! Worker ↔ monitor: one Unix stream socket for each environment.
//!
//! ```text
//! worker                                   monitor
//!   │ Start ──────────────────────────────────▶│ assemble the root, load the program, run it
//!   │◀──────────────────────────────── Log … ──│ what the program prints, at any time
//!   │◀────────────────────────────────── Ready ─│ its first `next` (or InitError, or Exited)
//!   │ Invoke ─────────────────────────────────▶│ answers the pending `next`
//!   │◀─────────────────── Response or Failure ──│ what the program posted for that request
//!   │◀────────────────────────────────── Ready ─│ its next `next`
//!   │ closes the socket ──────────────────────▶│ ends, whatever the guest does
//! ```
//!
//! While the program waits in `next`, the worker may send a file on the other socket ([`crate::descriptor`]): the monitor
//! saves its guest to it and sends `Saved`. The guest stays frozen. A monitor whose `Start` says so takes its guest from such a
//! file, which comes first on the other socket, and sends `Ready` at once, or, if the program was saved in `restore/next`, when
//! it asks for its first event (or `InitError`, or `Exited`). A monitor whose `Start` says that its guest is to be saved sends
//! `Ready` also when the program waits in `restore/next`; that one takes no `Invoke`.
//!
//! The monitor trusts the worker. The worker trusts nothing: it accepts [`ToWorker`] messages up to
//! [`TO_WORKER_BYTES_MAX`], only for the outstanding request, and drops log bytes over its rate limit.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest message that a monitor may send: a response of the largest payload and its envelope.
pub const TO_WORKER_BYTES_MAX: usize = calypte_types::limits::PAYLOAD_BYTES_MAX + 64 * 1024;
/// Longest message that a worker may send: an event of the largest payload and its envelope.
pub const TO_MONITOR_BYTES_MAX: usize = calypte_types::limits::PAYLOAD_BYTES_MAX + 64 * 1024;
/// Most bytes of output in one [`ToWorker::Log`].
pub const LOG_BYTES_MAX: usize = 32 * 1024;

/// From the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToMonitor {
    /// The first message, once.
    Start(Box<Start>),
    /// Run one invocation. Only sent after [`ToWorker::Ready`].
    Invoke(Invoke),
}

/// What to run and in which surroundings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What executes guest code.
    pub platform: Platform,
    /// Directories of the host that the guest sees read-only: `(path in the guest, directory on the host)`. The first
    /// is `/`; later ones cover what is below their path.
    pub mounts: Vec<(String, PathBuf)>,
    /// Program and arguments; a program without `/` is looked up in the guest's `PATH`.
    pub arguments: Vec<String>,
    /// Environment, without what the monitor adds (`AWS_LAMBDA_RUNTIME_API`).
    pub environment: Vec<(String, String)>,
    /// Working directory in the guest.
    pub working_directory: String,
    /// Memory of the guest.
    pub memory_mib: u32,
    /// Size of `/tmp`.
    pub tmp_mib: u32,
    /// Host name that the guest sees.
    pub host_name: String,
    /// Virtual CPUs, at least one.
    pub vcpu_count: u32,
    /// Whether there is a way out: a socket to egress follows as a descriptor ([`crate::descriptor`]).
    pub has_egress: bool,
    /// What the monitor does about its part of the processors.
    pub share: ProcessorShare,
    /// Whether the guest goes on from a saved one: a file with its state comes as a descriptor before all others
    /// ([`crate::descriptor::Descriptor::State`]). Program, arguments and environment are not looked at then.
    pub is_restored: bool,
    /// Whether the guest is to be saved once it is ready: a runtime that asks for `restore/next` waits there.
    pub is_to_be_saved: bool,
    /// What earlier copies of that state have used of it. `None`: nobody has said yet, and this one is to.
    pub working_set: Option<WorkingSet>,
}

/// Most runs of frames of each kind in a [`WorkingSet`].
pub const WORKING_SET_RUNS_MAX: usize = 16 * 1024;

/// The pages of a state that a guest uses: runs of first frame and count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSet {
    /// Those that the program can write.
    pub written: Vec<(u32, u32)>,
    /// Those that are only read.
    pub read: Vec<(u32, u32)>,
}

/// What a monitor itself does about its part of the processors: where the worker cannot make control groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessorShare {
    /// By how much it is nicer than the worker (`nice(2)`).
    pub nice: u8,
    /// Most processor time that it and its guest may use after initialisation, in thousandths of a processor. `None`: no
    /// bound.
    pub share_max: Option<u32>,
}

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Platform {
    /// A virtual machine of `/dev/kvm`.
    Kvm,
    /// Processes of the host under `ptrace(2)`.
    Ptrace,
}

/// One invocation: the fields of the Runtime API's `next` response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invoke {
    /// `Lambda-Runtime-Aws-Request-Id`.
    pub request_id: String,
    /// `Lambda-Runtime-Deadline-Ms`: milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// `Lambda-Runtime-Invoked-Function-Arn`.
    pub function_arn: String,
    /// `Lambda-Runtime-Trace-Id`.
    pub trace_id: Option<String>,
    /// `Lambda-Runtime-Client-Context`: JSON text.
    pub client_context: Option<String>,
    /// The event.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// From the monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The program waits in `next`: initialisation, or the invocation before, is over. Or it waits in `restore/next`.
    Ready {
        /// What the environment has used so far.
        usage: Usage,
    },
    /// Output of the program, in order, split anywhere.
    Log {
        /// At most [`LOG_BYTES_MAX`].
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        /// Bytes that the monitor dropped before these because the worker did not keep up.
        dropped_bytes: u64,
    },
    /// The program posted its response.
    Response {
        /// Of which invocation.
        request_id: String,
        /// `Content-Type` that the program gave.
        content_type: Option<String>,
        /// The body.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
        /// What the environment has used so far.
        usage: Usage,
    },
    /// The program posted an error for an invocation.
    Failure {
        /// Of which invocation.
        request_id: String,
        /// `Lambda-Runtime-Function-Error-Type`.
        error_type: String,
        /// The body: normally `{errorMessage, errorType, stackTrace}`.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
        /// What the environment has used so far.
        usage: Usage,
    },
    /// The response was longer than the limit; the program has been told so (413).
    ResponseTooLarge {
        /// Of which invocation.
        request_id: String,
        /// Its length.
        payload_bytes: u64,
        /// What the environment has used so far.
        usage: Usage,
    },
    /// The program posted an error of its initialisation, or of what is to be done in each copy.
    InitError {
        /// `Lambda-Runtime-Function-Error-Type`.
        error_type: String,
        /// The body.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    /// What the guest has used of the state that it was restored from: once, after its first invocation and before it is
    /// ready for the next.
    Used(WorkingSet),
    /// The guest has been saved.
    Saved {
        /// How long the state is.
        bytes: u64,
    },
    /// The guest could not be saved.
    NotSaved {
        /// Why, for a person.
        reason: String,
    },
    /// The program has ended. The monitor ends after this.
    Exited {
        /// How.
        cause: ExitCause,
        /// What the environment has used in all.
        usage: Usage,
    },
}

/// How a guest program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCause {
    /// `exit_group` with this status.
    Status(u8),
    /// A signal that ends the process.
    Signal(u8),
    /// More memory than the environment has.
    OutOfMemory,
    /// It could not be started, or the monitor failed: the text says why, for a person.
    Failed(String),
}

/// What an environment has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Most guest memory in use at any time, in bytes.
    pub memory_peak_bytes: u64,
    /// Exits to the monitor so far.
    pub exits: u64,
    /// Time spent running guest code, in microseconds.
    pub cpu_us: u64,
}
