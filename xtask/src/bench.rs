//! `cargo xtask bench`: what Calypte promises, measured on this machine. Ratios compare two things in one run, since
//! absolute times do not carry between machines; the load generator shares the processors with what it measures.

mod ratios;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::command::{cargo, output, root, run as run_command};
use crate::server::{self, Profile, Server};

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Options {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Do everything once with few repetitions: to see that it works, not to learn figures.
    #[arg(long)]
    smoke: bool,
    /// Optimisation of the program; `development` takes no extra build but its figures mean little.
    #[arg(long)]
    development: bool,
}

/// Runs every benchmark and prints the results.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let profile = if options.development { Profile::Development } else { Profile::Release };
    let bench = Bench::prepare(profile, options.smoke)?;
    let results = bench.run();
    std::fs::remove_dir_all(&bench.folder)?;
    let results = results?;
    if options.json {
        println!("{}", json!({ "machine": machine()?, "results": results }));
        return Ok(());
    }
    println!("\n{}\n", machine()?);
    println!("{:<44} {:>14}  detail", "measured", "value");
    for result in &results {
        println!("{:<44} {:>14}  {}", text(&result["name"]), text(&result["value"]), text(&result["detail"]));
    }
    Ok(())
}

/// The benchmarks as part of the gate: they must work.
pub(crate) fn check() -> anyhow::Result<()> {
    run(&Options { json: false, smoke: true, development: true })
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn machine() -> anyhow::Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let memory = memory.lines().next().unwrap_or_default().replace("MemTotal:", "").trim().to_owned();
    let kernel = output(Command::new("uname").arg("-r"))?;
    Ok(format!("{cores} × {}, {memory}, Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim()))
}

struct Bench {
    program: PathBuf,
    load: PathBuf,
    folder: PathBuf,
    /// Divides the numbers of repetitions.
    divisor: usize,
}

/// Names that the results are quoted by in SPECIFICATION.md.
fn result(name: &str, value: impl Into<Value>, detail: impl Into<String>) -> Value {
    json!({ "name": name, "value": value.into(), "detail": detail.into() })
}

impl Bench {
    fn prepare(profile: Profile, is_smoke: bool) -> anyhow::Result<Self> {
        let program = server::build(profile)?;
        let flags: &[&str] = match profile {
            Profile::Development => &["--workspace"],
            Profile::Release => &["--package", "calypte-testkit", "--release"],
        };
        run_command(cargo().args(["build", "--bin", "load"]).args(flags))?;
        let load = program.with_file_name("load");
        let folder = std::env::temp_dir().join(format!("calypte-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self { program, load, folder, divisor: if is_smoke { 50 } else { 1 } })
    }

    fn run(&self) -> anyhow::Result<Vec<Value>> {
        let mut results = self.invocations()?;
        results.extend(ratios::measure(self)?);
        results.push(self.clock()?);
        results.push(self.python_start()?);
        Ok(results)
    }

    /// Warm and cold invocations of a Python function through the signed API.
    fn invocations(&self) -> anyhow::Result<Vec<Value>> {
        let server = Server::start(&[], &self.program, &self.folder.join("data"), 0)?;
        let runtime = server.newest_python()?.context("these benchmarks need a Python on the host")?;
        let example = root().join("examples/hello-python").to_string_lossy().into_owned();
        let options = ["--runtime", &runtime, "--handler", "handler.handler", "--memory", "1769"];
        // Without a template: a cold start is to be a full boot, and nothing to be done beside it.
        let plain = ["deploy", &example, "--name", "bench", "--template", "off"];
        server.calypte(&[&plain[..], &options[..]].concat())?;
        let fresh = ["deploy", &example, "--name", "bench-fresh", "--env", "CALYPTE_ISOLATION=fresh"];
        server.calypte(&[&fresh[..], &options[..]].concat())?;
        let repetitions = |count: usize| (count / self.divisor).max(5).to_string();
        let load_of = |function: &str, arguments: &[&str]| -> anyhow::Result<Value> {
            let printed = output(
                Command::new(&self.load)
                    .args(["--function", function])
                    .args(arguments)
                    .envs(server.environment.clone()),
            )?;
            let summary: Value = serde_json::from_str(&printed)?;
            if summary["errors"].as_object().is_none_or(|errors| !errors.is_empty()) {
                bail!("invocations failed: {summary}");
            }
            Ok(summary)
        };
        let load = |arguments: &[&str]| load_of("bench", arguments);
        let one = load(&["--connections", "1", "--requests", &repetitions(2000)])?;
        let memory = monitor_memory(&server)?;
        let many = load(&["--connections", "16", "--requests", &repetitions(10_000), "--warm-up", &repetitions(800)])?;
        let cold = load(&["--before", "update", "--requests", &repetitions(100), "--warm-up", "3"])?;
        if cold["placements"]["boot"] != cold["requests"] {
            bail!("cold starts were to boot: {cold}");
        }
        // Every call needs a new environment: the next one is often not there yet, and starts when its call comes.
        let fresh = load_of("bench-fresh", &["--requests", &repetitions(500), "--warm-up", "50"])?;
        let fresh_many =
            load_of("bench-fresh", &["--connections", "4", "--requests", &repetitions(1000), "--warm-up", "8"])?;
        let median_of = |placement: &str| fresh["p50_us_by_placement"][placement].clone();
        let percentiles = |summary: &Value| {
            format!("p90 {} µs, p99 {} µs, max {} µs", summary["p90_us"], summary["p99_us"], summary["max_us"])
        };
        Ok(vec![
            result("warm invoke, 1 connection, p50 µs", one["p50_us"].clone(), percentiles(&one)),
            memory,
            result("warm invoke, 16 connections, requests/s", many["requests_per_s"].clone(), percentiles(&many)),
            result("cold start by full boot, p50 µs", cold["p50_us"].clone(), percentiles(&cold)),
            result("start from a template, p50 µs", median_of("template"), percentiles(&fresh)),
            result("environment prepared before its call, p50 µs", median_of("prepared"), String::new()),
            result(
                "fresh invocations, 4 connections, requests/s",
                fresh_many["requests_per_s"].clone(),
                percentiles(&fresh_many),
            ),
        ])
    }

    /// One `clock_gettime` in a microVM, by a static C program.
    fn clock(&self) -> anyhow::Result<Value> {
        let source = root().join("benches/clock.c");
        // A root of its own: with the host's, the temporary folder would be hidden by the guest's /tmp.
        let folder = self.folder.join("clock");
        std::fs::create_dir_all(&folder)?;
        let program = folder.join("clock");
        run_command(Command::new("gcc").args(["-O2", "-static", "-o"]).arg(&program).arg(&source))?;
        let native = printed_numbers(&mut Command::new(&program))?[0];
        let virtualised = printed_numbers(self.run_in_vm(&folder, "128").arg("/clock"))?[0];
        Ok(result("clock_gettime in the VM, µs", format!("{virtualised:.3}"), format!("native {native:.3} µs")))
    }

    /// A whole `python3 -c` by `calypte run` against fork and exec on the host.
    fn python_start(&self) -> anyhow::Result<Value> {
        let python = host_python()?;
        let script = "import json, datetime, urllib.request";
        let time = |command: &mut Command| -> anyhow::Result<f64> {
            let started = std::time::Instant::now();
            run_command(command)?;
            Ok(started.elapsed().as_secs_f64() * 1000.0)
        };
        let (mut native, mut virtualised) = (Vec::new(), Vec::new());
        for _ in 0..(20 / self.divisor.min(20)).max(1) {
            native.push(time(Command::new(&python).args(["-c", script]))?);
            virtualised.push(time(self.run_in_vm(Path::new("/"), "256").arg(&python).args(["-c", script]))?);
        }
        let (native, virtualised) = (median(&mut native), median(&mut virtualised));
        let detail = format!("{virtualised:.1} ms against {native:.1} ms");
        Ok(result("python3 with imports, VM / native", format!("{:.1}", virtualised / native), detail))
    }

    fn run_in_vm(&self, root: &Path, memory_mib: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["run", "--rootfs"]).arg(root).args(["--memory", memory_mib, "--"]);
        command
    }
}

/// The memory of the one environment that is alive, with its share of what it shares.
fn monitor_memory(server: &Server) -> anyhow::Result<Value> {
    let is_monitor =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "calypte-monitor\n");
    let monitor = server.descendants()?.into_iter().find(is_monitor).context("no environment is alive")?;
    let rollup = std::fs::read_to_string(format!("/proc/{monitor}/smaps_rollup"))?;
    let kib = |name: &str| -> anyhow::Result<f64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let detail = format!("private {:.1} MiB", (kib("Private_Dirty:")? + kib("Private_Clean:")?) / 1024.0);
    Ok(result("idle Python environment, PSS MiB", format!("{:.1}", kib("Pss:")? / 1024.0), detail))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The interpreter behind `python3`, which may be a shim.
fn host_python() -> anyhow::Result<String> {
    let printed =
        output(Command::new("python3").args(["-c", "import os, sys; print(os.path.realpath(sys.executable))"]))?;
    Ok(printed.trim().to_owned())
}

/// Runs a program that prints numbers separated by blanks.
fn printed_numbers(command: &mut Command) -> anyhow::Result<Vec<f64>> {
    let printed = output(command)?;
    printed.split_whitespace().map(|word| word.parse().with_context(|| format!("not a number: {printed}"))).collect()
}
