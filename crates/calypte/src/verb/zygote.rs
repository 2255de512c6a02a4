//! `calypte zygote`: the process that forks monitors. Its standard input is the worker's socket.

use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, bail};

/// Runs until the worker's socket closes.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("no standard input")?;
    if rustix::net::sockopt::socket_type(&socket).is_err() {
        bail!("`calypte zygote` is started by the server and cannot be used by hand; try `calypte dev`");
    }
    calypte_monitor::zygote::zygote_main(socket)
}
