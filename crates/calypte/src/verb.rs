//! The verbs of the command line: one file each, one line each in [`Verb`] and [`Verb::run`].

mod account;
mod attend;
mod completions;
mod deploy;
mod dev;
mod doctor;
mod egress;
mod invoke;
pub(crate) mod jail_probe;
mod key;
mod logs;
mod ls;
mod rm;
mod run;
mod runtime;
mod serve;
pub(crate) mod zygote;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::data::DataFolder;
use crate::output::Output;

/// Options of every verb.
#[derive(Args)]
pub(crate) struct Global {
    /// Data folder [default: $XDG_DATA_HOME/calypte, or ~/.local/share/calypte]
    #[arg(long, global = true, value_name = "FOLDER", env = "CALYPTE_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Global {
    /// The data folder, whether it exists or not.
    pub(crate) fn data_folder(&self) -> anyhow::Result<DataFolder> {
        match &self.data {
            Some(path) => Ok(DataFolder::new(path.clone())),
            None => DataFolder::of_user(),
        }
    }

    /// Where results go.
    pub(crate) fn output(&self) -> Output {
        Output::new(self.json)
    }
}

/// Every verb, in the order of the help text.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Start a server for this machine, with an account, keys and the host's Pythons ready to use
    Dev(dev::Arguments),
    /// Start a server on the data folder as it is
    Serve(serve::Arguments),
    /// Create a function from a folder or zip file, or update it
    Deploy(deploy::Arguments),
    /// Call a function and print its answer
    Invoke(invoke::Arguments),
    /// List functions
    Ls(ls::Arguments),
    /// Show what a function logged
    Logs(logs::Arguments),
    /// Remove functions
    Rm(rm::Arguments),
    /// Run any program in a microVM, with your input and output; no server needed
    #[command(args_override_self = true)]
    Run(run::Arguments),
    /// Import, list and remove runtimes; no server needed
    #[command(subcommand)]
    Runtime(runtime::Action),
    /// Make and list accounts
    #[command(subcommand)]
    Account(account::Action),
    /// Make, list, disable and remove access keys
    #[command(subcommand)]
    Key(key::Action),
    /// Check that this machine can run microVMs, and what is installed
    Doctor(doctor::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
    /// The process that opens connections for microVMs; started by the server and by `run`
    #[command(hide = true)]
    Egress(egress::Arguments),
    /// The process that starts egress and accepts connections for `run`, whose own is jailed
    #[command(hide = true)]
    Attend(attend::Arguments),
    /// The process that forks monitors; started by the server
    #[command(hide = true)]
    Zygote(zygote::Arguments),
    /// Enters the jail of a monitor and prints what became of it; used by the server and by `doctor`
    #[command(hide = true)]
    JailProbe,
}

impl Verb {
    /// Whether this process is one that another one starts and listens to.
    pub(crate) fn is_inner(&self) -> bool {
        matches!(self, Self::Egress(_) | Self::Zygote(_))
    }

    /// Runs the verb; the code is the process's exit status.
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Dev(arguments) => block_on(dev::run(arguments, global)),
            Self::Serve(arguments) => block_on(serve::run(arguments, global)),
            Self::Deploy(arguments) => block_on(deploy::run(arguments, global)),
            Self::Invoke(arguments) => block_on(invoke::run(arguments, global)),
            Self::Ls(arguments) => block_on(ls::run(arguments, global)),
            Self::Logs(arguments) => block_on(logs::run(arguments, global)),
            Self::Rm(arguments) => block_on(rm::run(arguments, global)),
            Self::Run(arguments) => run::run(arguments, global),
            Self::Runtime(action) => runtime::run(action, global),
            Self::Account(action) => block_on(account::run(action, global)),
            Self::Key(action) => block_on(key::run(action, global)),
            Self::Doctor(arguments) => block_on(doctor::run(arguments, global)),
            Self::Completions(arguments) => completions::run(&arguments),
            Self::Zygote(arguments) => zygote::run(&arguments),
            Self::JailProbe => jail_probe::run(),
            Self::Egress(arguments) => egress::run(arguments),
            Self::Attend(arguments) => attend::run(arguments),
        }
    }
}

/// Runs an asynchronous verb. Only these start threads: `run` and `zygote` need a process of one.
fn block_on(verb: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let result = runtime.block_on(verb);
    // Whatever still runs reads a file or follows a log: nothing to wait for.
    runtime.shutdown_background();
    result
}
