//! `calypte egress`: the process that opens connections for microVMs. Its standard input is the socket of whoever started
//! it.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, bail};
use calypte_egress::policy::Allowance;
use calypte_egress::server::{Config, Prepared};
use calypte_jail::Policy;

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Addresses that are allowed besides public ones
    #[arg(long, value_name = "RANGE[:PORT]")]
    allow: Vec<Allowance>,
    /// Name server to ask instead of those of this machine
    #[arg(long, value_name = "ADDRESS:PORT")]
    name_server: Vec<SocketAddr>,
    #[arg(long, default_value_t = Policy::BestEffort)]
    require_jail: Policy,
    /// User id that it gets when it is started by root
    #[arg(long)]
    jail_uid: u32,
}

/// Runs until the socket closes.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("no standard input")?;
    if rustix::net::sockopt::socket_type(&socket).is_err() {
        bail!("`calypte egress` is started by the server and cannot be used by hand; try `calypte dev`");
    }
    if let Err(error) = rustix::thread::set_name(c"calypte-egress") {
        tracing::debug!(%error, "the process keeps its name");
    }
    // Files are read before the jail, in which there are none, and messages after.
    let prepared = Prepared::new(Config { allowed: arguments.allow, name_servers: arguments.name_server })?;
    let report = calypte_jail::egress(arguments.jail_uid, arguments.require_jail)?;
    for step in report.missing() {
        tracing::debug!(step = step.feature.name(), reason = step.detail, "not part of the jail of egress");
    }
    prepared.serve(socket)?;
    Ok(ExitCode::SUCCESS)
}
