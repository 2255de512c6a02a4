//! Worker → monitor: file descriptors, on a Unix socket with message boundaries (`SOCK_SEQPACKET`) of their own, since they
//! travel towards monitors only. Each packet is one [`Descriptor`] ([`crate::zygote::encode`]) with one descriptor
//! (`SCM_RIGHTS`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Descriptor {
    /// A file for the state of the guest. Before all other descriptors, if the guest goes on from a saved one: a file with
    /// its state, which does not change any more.
    State,
    /// The environment's socket to egress. Another one follows when egress had to be started anew.
    Egress,
    /// A connection to a port that a program of the guest listens on. It is closed if none does.
    Visit {
        /// The port.
        port: u16,
        /// Who has connected.
        visitor: SocketAddr,
    },
}
