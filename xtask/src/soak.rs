//! `cargo xtask soak`: what takes too long for the gate. Its results, with the date, belong under `docs/soak/`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::command::{cargo, output, root, run as run_command};
use crate::server::{self, Profile, Server};
use crate::svm;
use crate::{cpython, fuzz};

/// The long runs.
#[derive(Subcommand)]
pub(crate) enum Soak {
    /// Load against a server while its monitors and its zygote are killed.
    Load(LoadOptions),
    /// The fuzz targets, with coverage counters.
    Fuzz(fuzz::Options),
    /// A guest that makes random system calls, on every platform of this host.
    Calls(CallsOptions),
    /// The whole conformance suite on AMD's virtualisation, emulated by QEMU.
    Svm,
    /// The whole of CPython's regression suite in the microVM and on this host; writes a table under `docs/soak/`.
    Cpython(cpython::Options),
}

/// Options of `cargo xtask soak load`.
#[derive(Args)]
pub(crate) struct LoadOptions {
    /// How long it runs, in minutes.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
}

/// Options of `cargo xtask soak calls`.
#[derive(Args)]
pub(crate) struct CallsOptions {
    /// How long it runs on each platform, in minutes: each seed gets one.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The first seed; odd ones have two virtual CPUs. A seed that has failed is printed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs one of them.
pub(crate) fn run(soak: &Soak) -> anyhow::Result<()> {
    match soak {
        Soak::Load(options) => load(options),
        Soak::Fuzz(options) => fuzz::soak(options),
        Soak::Cpython(options) => cpython::soak(options),
        Soak::Calls(options) => calls(options),
        Soak::Svm => whole_suite_on_svm(),
    }
}

/// Runs load against a server while its monitors and its zygote are killed, then checks that it is whole.
fn load(options: &LoadOptions) -> anyhow::Result<()> {
    let program = server::build(Profile::Release)?;
    run_command(cargo().args(["build", "--release", "--package", "calypte-testkit", "--bin", "load"]))?;
    let folder = std::env::temp_dir().join(format!("calypte-soak-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = load_with_faults(&program, &folder, Duration::from_secs(options.minutes * 60));
    std::fs::remove_dir_all(&folder)?;
    result
}

/// Runs the gate's test of random system calls for longer, with seeds that the gate does not try.
fn calls(options: &CallsOptions) -> anyhow::Result<()> {
    let mut test = cargo();
    test.args([
        "test",
        "--package",
        "calypte-linux",
        "--test",
        "hostile",
        "--",
        "--nocapture",
        "random_calls_are_borne",
    ]);
    test.env("CALYPTE_CALLS_SECONDS", "60").env("CALYPTE_CALLS_SEEDS", options.minutes.to_string());
    run_command(test.env("CALYPTE_CALLS_SEED", options.seed.to_string()))
}

fn whole_suite_on_svm() -> anyhow::Result<()> {
    let outcome = svm::run(svm::Extent::Whole)?;
    match outcome.skipped.first() {
        Some(reason) => bail!("not run: {reason}"),
        None => Ok(()),
    }
}

fn load_with_faults(program: &Path, folder: &Path, duration: Duration) -> anyhow::Result<()> {
    let server = Server::start(&[], program, &folder.join("data"), 0)?;
    let runtime = server.newest_python()?.context("the soak run needs a Python on the host")?;
    let example = root().join("examples/hello-python");
    let configuration = ["--name", "soak", "--runtime", &runtime, "--handler", "handler.handler"];
    server.calypte(&[&["deploy", &*example.to_string_lossy()], configuration.as_slice()].concat())?;
    let mut victims = Victims::default();
    let deadline = Instant::now() + duration;
    let (mut requests, mut failed, mut kills) = (0, 0, 0);
    while Instant::now() < deadline {
        let load = Command::new(program.with_file_name("load"))
            .args(["--function", "soak", "--connections", "8", "--requests", "2000", "--warm-up", "0"])
            .envs(server.environment.clone())
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        kills += victims.kill_one(&server, kills)?;
        let printed = load.wait_with_output()?;
        let summary: Value = serde_json::from_slice(&printed.stdout)?;
        requests += summary["requests"].as_u64().unwrap_or(0);
        failed +=
            summary["errors"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum::<u64>();
        println!("{requests} requests, {failed} failed, {kills} processes killed");
    }
    if kills == 0 {
        bail!("nothing was killed: this run shows nothing");
    }
    // Each kill may fail the invocation that its monitor was running, and nothing else.
    if failed > kills {
        bail!("{failed} requests failed but only {kills} processes were killed");
    }
    Ok(())
}

/// The server's processes as far as they have been seen: monitors that lost their zygote are nobody's descendants.
#[derive(Default)]
struct Victims {
    seen: BTreeSet<u32>,
}

impl Victims {
    /// Kills a process: the zygote at every fifth time, a monitor otherwise. How many it were.
    fn kill_one(&mut self, server: &Server, so_far: u64) -> anyhow::Result<u64> {
        let family = server.descendants()?;
        self.seen.extend(&family);
        // The zygote is the server's child and comes first; monitors are the zygote's.
        let zygote = family.first().copied();
        // A process id may have gone to somebody else meanwhile; ours still have the zygote's command line.
        let is_ours = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.ends_with("calypte\0zygote\0"))
        };
        let is_monitor = |pid: &u32| Some(*pid) != zygote && is_ours(pid);
        let victim = if so_far % 5 == 4 { zygote } else { None };
        let Some(victim) = victim.or_else(|| self.seen.iter().copied().find(is_monitor)) else { return Ok(0) };
        self.seen.remove(&victim);
        Ok(u64::from(output(Command::new("kill").args(["-KILL", &victim.to_string()])).is_ok()))
    }
}
