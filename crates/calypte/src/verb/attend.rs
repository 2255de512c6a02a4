//! `calypte attend`: what `calypte run` needs outside its jail. Its standard input is the socket of `run`.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, bail};

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments with which this program is egress
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    egress: Vec<OsString>,
}

/// Runs until the socket closes.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("no standard input")?;
    if rustix::net::sockopt::socket_type(&socket).is_err() {
        bail!("`calypte attend` is started by `calypte run` and cannot be used by hand");
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let egress = (!arguments.egress.is_empty()).then_some((program, arguments.egress));
    calypte_monitor::attendant::attend(socket, egress)?;
    Ok(ExitCode::SUCCESS)
}
