//! Options about the way out that `run`, `dev` and `serve` share.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use calypte_egress::policy::Allowance;
use calypte_jail::Policy;

/// Options.
#[derive(clap::Args)]
pub(crate) struct EgressOptions {
    /// Give programs no way out: only their own loopback network
    #[arg(long, conflicts_with_all = ["egress_allow", "egress_name_server"])]
    no_network: bool,
    /// Addresses that programs may connect to besides public ones, for example 10.1.0.0/16:5432; may be repeated
    #[arg(long, value_name = "RANGE[:PORT]")]
    egress_allow: Vec<Allowance>,
    /// Name server to ask instead of those of this machine; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    egress_name_server: Vec<SocketAddr>,
}

impl EgressOptions {
    /// The program that opens connections, and its arguments; `None` if nothing is to open any. `uid_first` is the first
    /// user id of monitors: egress has the one after theirs.
    pub(crate) fn command(&self, policy: Policy, uid_first: u32) -> anyhow::Result<Option<(PathBuf, Vec<OsString>)>> {
        if self.no_network {
            return Ok(None);
        }
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let uid = uid_first.saturating_add(calypte_monitor::zygote::UIDS).to_string();
        let mut arguments: Vec<OsString> = vec!["egress".into(), "--jail-uid".into(), uid.into()];
        arguments.extend(["--require-jail".into(), policy.to_string().into()]);
        for allowance in &self.egress_allow {
            arguments.extend(["--allow".into(), allowance.to_string().into()]);
        }
        for address in &self.egress_name_server {
            arguments.extend(["--name-server".into(), address.to_string().into()]);
        }
        Ok(Some((program, arguments)))
    }
}
