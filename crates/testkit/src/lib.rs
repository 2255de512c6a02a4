//! Tools of tests: the conformance suite of platforms ([`platform`]). Binaries of this crate: the load generator.

#![deny(unsafe_code)]

pub mod platform;
