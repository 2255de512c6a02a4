//! `calypte jail-probe`: a process enters the jail of a monitor and prints what became of each layer. There is no other
//! way to know, and none out of it, so it is a process of its own.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use calypte_jail::Report;

use super::zygote::UID_FIRST_DEFAULT;

/// Enters the jail.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let report = calypte_monitor::jail_probe::report(UID_FIRST_DEFAULT)?;
    if let Some(report) = report {
        let mut text = serde_json::to_vec(&report)?;
        text.push(b'\n');
        std::io::stdout().write_all(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What becomes of a monitor's jail on this host.
pub(crate) fn report() -> anyhow::Result<Report> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let output = Command::new(program).arg("jail-probe").stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("the probe failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("the probe printed something else than a report")
}
