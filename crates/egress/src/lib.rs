//! The process that opens connections to the outside, the only one of a node that does. It runs no guest code, keeps no
//! secret and needs no privilege; monitors, which run guest code, need no network because of it.
//!
//! - [`policy`] decides which addresses an environment may talk to: pure, and the one place to change that.
//! - [`server`] takes environments from the worker, questions from monitors, and answers them.
//! - [`names`] answers questions about names with the host's resolver configuration.
//! - [`limit`] bounds how much an environment and an account may ask for.
//!
//! A monitor names addresses, never names: what the policy has seen is what is connected to. Whose question it is follows
//! from the socket on which it comes.
//!
//! Neighbours: `worker` starts this process and gives it a socket for each environment; `monitor` holds the other end.
//! Messages: [`calypte_wire::egress`].

#![forbid(unsafe_code)]

pub mod limit;
pub mod names;
mod packet;
pub mod policy;
pub mod server;
