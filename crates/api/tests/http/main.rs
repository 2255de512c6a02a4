//! The Lambda API through HTTP: signed requests, real store, real code cache; only the environments are played.

mod connections;
mod functions;
mod invocations;
mod support;
