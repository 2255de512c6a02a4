//! The process of one microVM: it connects a guest ([`calypte_linux`]) with what executes guest code
//! ([`calypte_kvm`]) and with the outside.
//!
//! - [`zygote`] forks monitors for the worker, `session` is such a monitor: it speaks with the worker over one socket.
//! - [`runtime_api`] is the Lambda Runtime API inside the guest, over [`http`].
//! - `outside` is the guest's way out: the socket to egress, connections, visitors.
//! - [`run`] runs one program with the streams of the calling process, without a server.
//!
//! Whatever comes from the guest is hostile: bounded, checked, never a reason to panic. A panic nevertheless ends this
//! process, and so one environment, only.
//!
//! Neighbours: `worker` is the other end of the sockets, with the messages of `calypte_wire`; `calypte` wires
//! [`zygote::zygote_main`] and [`run::run_program`] to its verbs.

#![deny(unsafe_code)]

pub mod attendant;
mod flag;
mod fork;
pub mod fuzz;
pub mod http;
pub mod jail_probe;
mod launch;
mod outbox;
mod outside;
pub mod platform;
mod process;
pub mod run;
pub mod runtime_api;
pub(crate) mod session;
pub mod zygote;
