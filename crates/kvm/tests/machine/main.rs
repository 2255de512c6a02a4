//! What the platform contract promises, checked with small guest programs in real virtual machines.
//!
//! Without a usable `/dev/kvm` every test prints `SKIP name: reason` and passes.

#![allow(clippy::print_stderr, reason = "skips and seeds are for the reader of the test's output")]

mod boundary;
mod exceptions;
mod frames;
mod guest;
mod kicks;
mod mappings;
mod state;
mod system_calls;
mod tables;
mod vcpus;
