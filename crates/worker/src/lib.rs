//! The part of a node that owns environments: it starts them, keeps them warm, gives them invocations one at a time,
//! and ends them. Also the node's runtime images ([`image`]) and extracted function code ([`code`]).
//!
//! An invocation goes through `placement` (pure: which environment), `environment` (one task for each: the conversation
//! with its monitor, checked by `protocol`), `transcript` and [`logs`] (what is written about it). `zygote` starts monitors,
//! `egress` the process that opens connections for them; `messages` are what these processes say to people.
//!
//! Neighbours: `control` calls [`Worker::invoke`]; `monitor` is the other end of each environment's socket, with the
//! messages of `calypte_wire::monitor`. No byte from a monitor is trusted here.

#![deny(unsafe_code)]

pub mod code;
mod config;
mod egress;
mod environment;
mod fault;
mod groups;
pub mod image;
mod invocation;
pub mod logs;
mod messages;
mod placement;
mod polled_fd;
mod process;
mod protocol;
mod templates;
mod timestamp;
mod transcript;
mod trees;
mod worker;
mod zygote;

pub use config::WorkerConfig;
pub use egress::{EgressConfig, VisitError};
pub use groups::{CpuLimit, Groups};
pub use invocation::{
    FunctionError, FunctionSpec, InvokeError, InvokeOutcome, InvokeRequest, Isolation, PlacementRung, Report,
    ThrottleReason,
};
pub use messages::TARGET as MESSAGES_TARGET;
pub use placement::{EnvironmentId, Stats};
pub use trees::{FileError, TreePin, writer::EntryError};
pub use worker::{StartError, Worker};
pub use zygote::LaunchError;
