//! `cargo xtask test`: every check that a change must pass, in stages that are timed and named.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::command::{self, cargo, output, root};
use crate::{bench, clients, cpython, demo, fuzz, setup, svm, tidy};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Options {
    /// Run only these stages.
    #[arg(long, value_enum)]
    only: Vec<Stage>,
}

/// The stages, in their order: what fails fast comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Stage {
    /// Install what is missing.
    Setup,
    /// `cargo fmt`.
    Format,
    /// Rules of this project.
    Tidy,
    /// `cargo clippy`, warnings refused.
    Clippy,
    /// Releases are static programs: one is built, and runs something.
    Static,
    /// `cargo deny`: licences, sources, duplicates; advisories when their database can be reached.
    Deny,
    /// `cargo doc`, warnings refused.
    Docs,
    /// Unit and integration tests of every crate, on real KVM.
    Tests,
    /// The platform and some programs on AMD's virtualisation, emulated by QEMU.
    Svm,
    /// Modules of CPython's own regression suite in the microVM.
    Cpython,
    /// The Python bootstrap on this host's Python.
    Bootstrap,
    /// boto3, the AWS CLI, `awslambdaric` and a `lambda_runtime` function against a real server.
    Clients,
    /// `cargo xtask demo --once`, as this user and, when this one is root, as an ordinary user.
    Demo,
    /// The fuzz targets build, and bear a few thousand inputs each.
    Fuzz,
    /// The benchmarks run once at their smallest size: they must work, their figures are not judged here.
    Bench,
}

const STAGES: &[Stage] = &[
    Stage::Setup,
    Stage::Format,
    Stage::Tidy,
    Stage::Clippy,
    Stage::Static,
    Stage::Deny,
    Stage::Docs,
    Stage::Tests,
    Stage::Svm,
    Stage::Cpython,
    Stage::Bootstrap,
    Stage::Clients,
    Stage::Demo,
    Stage::Fuzz,
    Stage::Bench,
];

/// What a stage says besides having passed.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Checks that were not made, each with its reason.
    pub(crate) skipped: Vec<String>,
}

/// Runs the stages; stops at the first that fails.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let wanted: BTreeSet<Stage> =
        if options.only.is_empty() { STAGES.iter().copied().collect() } else { options.only.iter().copied().collect() };
    let started = Instant::now();
    let mut durations: Vec<(Stage, Duration)> = Vec::new();
    let mut skipped = Vec::new();
    for stage in STAGES.iter().copied().filter(|stage| wanted.contains(stage)) {
        println!("== {}", name(stage));
        let begun = Instant::now();
        let outcome = run_stage(stage).with_context(|| {
            format!("stage {0} failed; run it alone with: cargo xtask test --only {0}", name(stage))
        })?;
        skipped.extend(outcome.skipped);
        durations.push((stage, begun.elapsed()));
    }
    println!("== passed in {}", minutes(started.elapsed()));
    for (stage, duration) in &durations {
        println!("   {:<10} {}", name(*stage), minutes(*duration));
    }
    println!("   skipped checks: {}", skipped.len());
    for reason in skipped {
        println!("   SKIP {reason}");
    }
    Ok(())
}

fn run_stage(stage: Stage) -> anyhow::Result<Outcome> {
    match stage {
        Stage::Setup => setup::run().map(|_| Outcome::default()),
        Stage::Format => quiet(cargo().args(["fmt", "--all", "--check"])),
        Stage::Tidy => tidy::run().map(|()| Outcome::default()),
        Stage::Clippy => {
            quiet(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
        }
        Stage::Static => static_program(),
        Stage::Deny => deny(),
        Stage::Docs => {
            quiet(cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
        }
        Stage::Tests => quiet(cargo().args(["test", "--workspace"])),
        Stage::Svm => svm::run(svm::Extent::Smoke),
        Stage::Cpython => cpython::check(),
        Stage::Bootstrap => quiet(
            Command::new("python3")
                .args(["-m", "unittest", "-q", "test_bootstrap"])
                .current_dir(root().join("runtimes/python")),
        ),
        Stage::Clients => clients::run_clients(),
        Stage::Demo => demo::check(),
        Stage::Fuzz => fuzz::check().map(|()| Outcome::default()),
        Stage::Bench => bench::check().map(|()| Outcome::default()),
    }
}

fn quiet(command: &mut Command) -> anyhow::Result<Outcome> {
    command::run(command).map(|()| Outcome::default())
}

/// Releases are static programs, whose C library makes other system calls than this host's: the jail must bear them.
fn static_program() -> anyhow::Result<Outcome> {
    // Of the whole workspace, as everything that the gate builds: the features of dependencies are the same then.
    let which = ["build", "--quiet", "--workspace", "--bin", "calypte", "--target", setup::MUSL_TARGET];
    command::run(cargo().args(which))?;
    let program = command::target_folder()?.join(setup::MUSL_TARGET).join("debug/calypte");
    let mut run = Command::new(program);
    run.args(["run", "--rootfs", "/", "--", "/bin/sh", "-c", "echo one two | wc -w"]);
    let printed = output(&mut run)?;
    if printed.trim() != "2" {
        bail!("the static program ran a pipeline in a microVM and printed {printed:?}");
    }
    Ok(Outcome::default())
}

fn deny() -> anyhow::Result<Outcome> {
    command::run(cargo().args(["deny", "--all-features", "check", "bans", "licenses", "sources"]))?;
    // The advisory database comes from the network, which a build machine may not have.
    if output(cargo().args(["deny", "fetch", "db"])).is_err() {
        let skipped = vec!["advisories: the advisory database cannot be reached from here".to_owned()];
        return Ok(Outcome { skipped });
    }
    if command::run(cargo().args(["deny", "--all-features", "check", "advisories"])).is_err() {
        bail!("a dependency has an advisory: update it, or say in deny.toml why it does not concern us");
    }
    Ok(Outcome::default())
}

fn name(stage: Stage) -> String {
    format!("{stage:?}").to_lowercase()
}

fn minutes(duration: Duration) -> String {
    format!("{}:{:02} min", duration.as_secs() / 60, duration.as_secs() % 60)
}
