//! `calypte egress`: the process that opens connections for microVMs. Its standard input is the socket of whoever started
//! it.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, bail};
use calypte_egress::policy::Allowance;
use calypte_egress::server::{Config, serve};
use rustix::process::DumpableBehavior;

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Addresses that are allowed besides public ones
    #[arg(long, value_name = "RANGE[:PORT]")]
    allow: Vec<Allowance>,
    /// Name server to ask instead of those of this machine
    #[arg(long, value_name = "ADDRESS:PORT")]
    name_server: Vec<SocketAddr>,
}

/// Runs until the socket closes.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("no standard input")?;
    if rustix::net::sockopt::socket_type(&socket).is_err() {
        bail!("`calypte egress` is started by the server and cannot be used by hand; try `calypte dev`");
    }
    harden();
    serve(socket, Config { allowed: arguments.allow, name_servers: arguments.name_server })?;
    Ok(ExitCode::SUCCESS)
}

/// Gives up what is never needed. A step that the host refuses is reported and left out.
fn harden() {
    for (step, result) in [
        ("no new privileges", rustix::thread::set_no_new_privs(true)),
        ("non-dumpable", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        ("name", rustix::thread::set_name(c"calypte-egress")),
    ] {
        if let Err(error) = result {
            tracing::warn!(step, %error, "a hardening step of egress is not possible here");
        }
    }
}
