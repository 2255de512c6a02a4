//! The platform on `/dev/kvm`: user-mode code of a virtual machine that has no kernel in it.
//!
//! A [`Machine`](calypte_platform::Machine) made by [`create_machine`] owns one VM. Guest frames are slots of one
//! reserved host mapping (`memory`), address spaces are page tables that the guest's processor walks (`space`,
//! `arena`), and a virtual CPU (`vcpu`) enters user mode directly. Two things bring it back to the monitor: the
//! `syscall` instruction, which lands on a stub of two instructions, and exceptions, which land on handlers of one
//! instruction each (`system_pages`). Both write to an I/O port, and KVM reports that to us.
//!
//! What holds the boundary:
//!
//! - Guest code never runs at privilege level 0, except for the stub and the handlers, which are ours and read-only.
//! - The I/O permission bitmap refuses every port but the stub's, and an access to that port from anywhere else is
//!   reported as the general protection fault that it would be.
//! - Page tables are in memory that no guest address maps, and our own copy of them is the truth (`space`).
//! - KVM does not see our writes to page tables. Each removed or downgraded mapping is therefore flushed through the
//!   host's own mapping (`mapping`), and table pages are not used twice without a flush (`arena`).
//!
//! Almost all of Calypte's `unsafe` code is here.

mod arena;
mod kick;
mod layout;
mod machine;
mod mapping;
mod memory;
mod probe;
mod quiesce;
mod requests;
mod space;
mod system_pages;
mod user_context;
mod vcpu;

pub use machine::{Config, create_machine};
pub use probe::{ProbeError, probe};
pub use requests::REQUESTS;
