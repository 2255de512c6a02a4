//! The part of a node that owns environments: it starts them, keeps them warm, gives them invocations one at a time,
//! and ends them. Also the node's runtime images ([`image`]) and extracted function code ([`code`]).
//!
//! Neighbours: `control` calls [`Worker::invoke`]; `monitor` is the other end of each environment's socket, with the
//! messages of `calypte_wire::monitor`. No byte from a monitor is trusted here.

#![forbid(unsafe_code)]

pub mod code;
pub mod image;
mod invocation;
mod trees;

pub use invocation::{
    FunctionError, FunctionSpec, InvokeError, InvokeOutcome, InvokeRequest, PlacementRung, Report, ThrottleReason,
};
pub use trees::{FileError, TreePin, writer::EntryError};
