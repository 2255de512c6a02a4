//! The project's automation: `cargo xtask demo`, `test`, `bench`, `soak`. Everything that CI or a newcomer runs is here.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program speaks to its user")]

mod bench;
mod clients;
mod command;
mod cpython;
mod demo;
mod documents;
mod fuzz;
mod gate;
mod server;
mod setup;
mod soak;
mod svm;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Automation of the Calypte project.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build, start a server with nothing to configure, deploy an example function, call it, and leave it running.
    Demo(demo::Options),
    /// Install what the tests need and run the whole gate: the same that CI runs.
    Test(gate::Options),
    /// Measure and print ratios, memory and the machine.
    Bench(bench::Options),
    /// The long runs: load, faults, fuzzing. Results belong under `docs/soak/`.
    #[command(subcommand)]
    Soak(soak::Soak),
    /// Write the documents that are made from the code: `docs/system-calls.md`.
    Docs,
    /// Install what the tests need, and nothing else.
    Setup,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> anyhow::Result<()> {
    std::env::set_current_dir(command::root())?;
    match task {
        Task::Demo(options) => demo::run(options),
        Task::Test(options) => gate::run(options),
        Task::Bench(options) => bench::run(options),
        Task::Soak(soak) => soak::run(soak),
        Task::Docs => documents::run(),
        Task::Setup => setup::run().map(|_| ()),
    }
}
