//! `cargo xtask docs`: the documents that are made from the code. Tests beside the code hold them up to date.

use anyhow::Context;

use crate::command;

/// Where the table of system calls is.
const SYSTEM_CALLS: &str = "docs/system-calls.md";

/// Writes them.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut print = command::cargo();
    print.args(["run", "--quiet", "--package", "calypte-linux", "--example", "system_calls"]);
    std::fs::write(SYSTEM_CALLS, command::output(&mut print)?)
        .with_context(|| format!("cannot write {SYSTEM_CALLS}"))?;
    println!("{SYSTEM_CALLS} written");
    Ok(())
}
