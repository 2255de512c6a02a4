//! The conformance suite of platforms on KVM, and what only KVM has: system pages, page tables, a limit of virtual CPUs.
//!
//! Without a usable `/dev/kvm` every test prints `SKIP name: reason` and passes.

mod boundary;
mod guest;
mod state;
mod tables;
mod vcpus;

calypte_testkit::platform_tests!(crate::guest::platform());
