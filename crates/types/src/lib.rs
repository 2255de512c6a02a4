//! Ids, names, ARNs, limits and units that every crate of Calypte agrees on. No I/O, no clock.
//!
//! Neighbours: everything. A type belongs here when two crates that may not depend on each other exchange it.

#![forbid(unsafe_code)]

mod arn;
mod id;
mod key;
pub mod limits;

pub use arn::{Arn, ArnError};
pub use id::{AccountId, BlobId, FunctionName, IdError, RequestId};
pub use key::{ACCESS_KEY_ID_ENTROPY_BYTES, AccessKeyId, SECRET_ENTROPY_BYTES, SecretAccessKey};
