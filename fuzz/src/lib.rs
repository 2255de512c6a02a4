//! Fuzz targets: programs under `src/bin/`, one for each parser of bytes that somebody else controls, and one that makes
//! system calls. `cargo xtask soak fuzz` builds them with coverage counters and runs them; the gate builds them and
//! runs a few inputs.
//!
//! [`machine`] is a platform without guest code: its virtual CPU makes the system calls of a [`script`], in a [`guest`]
//! from its start, or in one that is restored from a [`state`]. [`egress`] has hostile monitors and name servers.

#![forbid(unsafe_code)]

pub mod egress;
pub mod guest;
pub mod machine;
pub mod script;
pub mod state;
