//! `calypte zygote`: the process that forks monitors. Its standard input is the worker's socket.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, bail};
use calypte_jail::Policy;
use calypte_monitor::zygote::JailConfig;

/// First user id of monitors when none is given.
pub(crate) const UID_FIRST_DEFAULT: u32 = 200_000;

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = Policy::BestEffort)]
    require_jail: Policy,
    #[arg(long, default_value_t = UID_FIRST_DEFAULT)]
    jail_uids: u32,
}

/// The command line of a zygote.
pub(crate) fn arguments(policy: Policy, uid_first: u32) -> Vec<OsString> {
    let (policy, uid_first) = (policy.to_string(), uid_first.to_string());
    ["zygote", "--require-jail", &policy, "--jail-uids", &uid_first].into_iter().map(OsString::from).collect()
}

/// Runs until the worker's socket closes.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("no standard input")?;
    if rustix::net::sockopt::socket_type(&socket).is_err() {
        bail!("`calypte zygote` is started by the server and cannot be used by hand; try `calypte dev`");
    }
    calypte_monitor::zygote::zygote_main(
        socket,
        JailConfig { policy: arguments.require_jail, uid_first: arguments.jail_uids },
    )
}
