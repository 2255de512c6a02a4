//! monitor.

#![deny(unsafe_code)]

pub mod fuzz;
pub mod http;
pub mod runtime_api;
