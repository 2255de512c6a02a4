//! `calypte completions`: completion scripts, derived from the verbs themselves.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::CommandLine;

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The shell, for example: `source <(calypte completions bash)`
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "calypte", &mut script);
    crate::output::Output::new(false).bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
