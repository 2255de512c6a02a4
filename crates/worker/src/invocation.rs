//! What `control` asks of the worker and what it gets back.

use std::path::PathBuf;
use std::time::Duration;

use calypte_types::{AccountId, Arn, RequestId};

/// Everything that determines an environment. Two invocations may share an environment only if their specs are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FunctionSpec {
    /// The owner; an environment never serves two.
    pub account: AccountId,
    /// The function's unqualified ARN.
    pub arn: Arn,
    /// `$LATEST` or a version number.
    pub version: String,
    /// Changes with every update of code or configuration.
    pub revision_id: String,
    /// Read-only directories that the guest sees: `(path in the guest, directory on the host)`, `/` first.
    pub mounts: Vec<(String, PathBuf)>,
    /// Program and arguments: the runtime's bootstrap.
    pub arguments: Vec<String>,
    /// All environment variables of the program, those of Lambda (`_HANDLER`, `AWS_LAMBDA_FUNCTION_NAME`, …) included.
    pub environment: Vec<(String, String)>,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Size of `/tmp`, in MiB.
    pub tmp_mib: u32,
    /// Time limit of one invocation, in seconds.
    pub timeout_s: u32,
    /// Whether environments may start from a saved one.
    pub has_template: bool,
    /// What invocations may find of those before them.
    pub isolation: Isolation,
}

/// What an invocation may find of those before it, besides nothing of other functions and accounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// An environment runs one invocation after the other, as on Lambda.
    #[default]
    Reuse,
    /// An environment runs one invocation. The next one starts from the template.
    Fresh,
}

/// One synchronous invocation.
#[derive(Debug, Clone)]
pub struct InvokeRequest {
    /// Its id, chosen by the API.
    pub request_id: RequestId,
    /// What to run.
    pub spec: FunctionSpec,
    /// The ARN as invoked, with its qualifier.
    pub invoked_arn: String,
    /// The event.
    pub payload: Vec<u8>,
    /// Decoded `X-Amz-Client-Context`: JSON text.
    pub client_context: Option<String>,
    /// `X-Amzn-Trace-Id`.
    pub trace_id: Option<String>,
}

/// What became of an invocation that was given to an environment.
#[derive(Debug, Clone)]
pub struct InvokeOutcome {
    /// The response, or the error document when `error` is set.
    pub payload: Vec<u8>,
    /// Set when the function failed.
    pub error: Option<FunctionError>,
    /// Figures of the `REPORT` line.
    pub report: Report,
    /// The last lines of the log of this invocation, at most `limits::LOG_TAIL_BYTES`.
    pub log_tail: Vec<u8>,
}

/// The values of `X-Amz-Function-Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionError {
    /// The runtime reported the error.
    Handled,
    /// The runtime could not: time-out, exit, out of memory.
    Unhandled,
}

impl FunctionError {
    /// The header's value. As Lambda does today, an error that the runtime reports is `Unhandled` as well.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handled | Self::Unhandled => "Unhandled",
        }
    }
}

/// How the environment of an invocation was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementRung {
    /// An idle environment of this function version.
    Reuse,
    /// An environment that was started before the invocation came, and has run none.
    Prepared,
    /// A new environment, started from a saved one of this function version.
    Template,
    /// A new environment, started from nothing.
    Boot,
}

impl PlacementRung {
    /// The word used in log lines, headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reuse => "reuse",
            Self::Prepared => "prepared",
            Self::Template => "template",
            Self::Boot => "boot",
        }
    }
}

/// Figures of one invocation.
#[derive(Debug, Clone)]
pub struct Report {
    /// From handing over the event to the end of the answer.
    pub duration: Duration,
    /// Time of the function's initialisation, when this invocation had to wait for it.
    pub init_duration: Option<Duration>,
    /// Time that it took to restore the environment from its template, when this invocation had to wait for that.
    pub restore_duration: Option<Duration>,
    /// Most guest memory in use, in bytes.
    pub memory_peak_bytes: u64,
    /// How the environment was found.
    pub rung: PlacementRung,
}

/// Why an invocation did not run (it may be repeated without harm).
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// A limit of concurrency or of waiting was reached.
    #[error("{reason}")]
    Throttled {
        /// Which one.
        reason: ThrottleReason,
    },
    /// The node could not start an environment.
    #[error("no environment could be started")]
    Environment(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The worker is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ThrottleReason {
    /// The account's concurrency is used up and the wait queue is full.
    #[error("the wait queue is full: {waiting} invocations wait for capacity")]
    QueueFull {
        /// Invocations waiting.
        waiting: usize,
    },
    /// No capacity came free within the longest wait.
    #[error("no capacity within {waited_ms} ms")]
    QueueTimeout {
        /// How long it waited.
        waited_ms: u64,
    },
}
