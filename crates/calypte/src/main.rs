//! The `calypte` program: its command line, and the wiring of everything else.
//!
//! - [`verb`] has one file for each verb of the command line;
//! - [`server`] is what `dev` and `serve` run: worker, control, API, administration socket;
//! - [`lambda`] is a client of the Lambda API, [`administration`] both ends of the socket in the data folder;
//! - [`data`] knows the data folder's layout, [`output`] how results are shown.

#![forbid(unsafe_code)]

mod administration;
mod connection;
mod data;
mod egress_options;
mod environment_variable;
mod lambda;
mod output;
mod platform;
mod progress;
mod server;
mod suggestion;
mod verb;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Variable that says what is logged, for example `debug` or `calypte_worker=debug,info`.
const LOG_VARIABLE: &str = "CALYPTE_LOG";

/// Run code on demand on your own machines, each function in its own virtual machine.
///
/// `calypte dev` starts a server that speaks the AWS Lambda API; `calypte deploy` and `calypte invoke` use it, and so do
/// the AWS CLI and SDKs. `calypte run` runs any program in a microVM, without a server.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    global: verb::Global,
    #[command(subcommand)]
    verb: verb::Verb,
}

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let global = command_line.global;
    if let Err(error) = start_logging(command_line.verb.is_inner()) {
        return output::fail(&error, global.json);
    }
    match command_line.verb.run(&global) {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => output::fail(&error, global.json),
    }
}

/// Warnings and worse go to standard error unless the variable asks for more; so does what the server has to say. What an
/// inner process writes gets its time when the server logs it.
fn start_logging(is_inner: bool) -> anyhow::Result<()> {
    let targets = match std::env::var(LOG_VARIABLE) {
        Ok(text) => text.parse::<Targets>().map_err(|error| {
            anyhow::anyhow!("{LOG_VARIABLE}={text:?}: {error}; use for example `debug` or `calypte_worker=debug,info`")
        })?,
        Err(_) => Targets::new()
            .with_default(LevelFilter::WARN)
            .with_target("calypte", LevelFilter::INFO)
            // A name server that does not answer is the program's to notice.
            .with_target("hickory_resolver", LevelFilter::ERROR)
            .with_target("hickory_net", LevelFilter::ERROR)
            // What a guest asks for in vain is of interest to who looks for it only.
            .with_target("calypte_linux", LevelFilter::WARN),
    };
    // The processes that wrote these lines go by the same variable.
    let targets = targets.with_target(calypte_worker::MESSAGES_TARGET, LevelFilter::TRACE);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // The message first: a request's own facts follow it.
    let lines = tracing_subscriber::fmt::layer()
        .compact()
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_target(false);
    let lines = if is_inner { lines.without_time().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(lines).with(targets).init();
    Ok(())
}
