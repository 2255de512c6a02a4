//! The fuzz targets under `fuzz/`: a few inputs in the gate, hours in `cargo xtask soak fuzz`.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::command::{cargo, output, root, run as run_command, target_folder};

/// The targets: programs `fuzz_<name>`, seeds under `fuzz/seeds/<name>`, and the longest input worth trying, bytes.
const TARGETS: &[(&str, u32)] = &[
    ("egress", 2048),
    ("elf", 8192),
    ("messages", 4096),
    ("names", 2048),
    ("runtime_api", 4096),
    ("signature", 4096),
    ("state", 2048),
    ("system_calls", 4096),
];
/// Inputs of each target that the gate tries.
const GATE_RUNS: u32 = 2000;
/// A target with more memory than this has a defect.
const MEMORY_MIB_MAX: u32 = 2048;
/// An input that takes longer than this, seconds, has found a hang.
const INPUT_SECONDS_MAX: u32 = 20;
/// Coverage counters as libFuzzer reads them; the compiler needs no other options for them, and no nightly.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks --cfg fuzzing";
/// Named, so that the counters are not built into build scripts.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Options of `cargo xtask soak fuzz`.
#[derive(Args)]
pub(crate) struct Options {
    /// How long each target runs, in minutes.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Run only these targets.
    #[arg(long)]
    only: Vec<String>,
    /// How many targets run at once.
    #[arg(long, default_value_t = 1)]
    at_once: usize,
}

/// The gate's part: the targets build and bear their seeds and a few thousand other inputs.
pub(crate) fn check() -> anyhow::Result<()> {
    run_command(cargo().args(["build", "--quiet", "--workspace", "--bin", "fuzz_*"]))?;
    let programs = target_folder()?.join("debug");
    for (name, bytes_max) in TARGETS {
        let mut command = Command::new(programs.join(format!("fuzz_{name}")));
        // Without coverage nothing is ever found to be new, so lengths would not grow.
        command
            .args(["-seed=1", "-len_control=0", &format!("-runs={GATE_RUNS}")])
            .args(limits(*bytes_max))
            .arg(seeds(name));
        // It prints every new input; what matters is whether it ends well.
        output(&mut command).with_context(|| format!("fuzz target {name}"))?;
        println!("   {name}: seeds and {GATE_RUNS} inputs");
    }
    Ok(())
}

/// Runs the targets with coverage counters. Inputs that found something new stay under `target/fuzz/corpus`.
pub(crate) fn soak(options: &Options) -> anyhow::Result<()> {
    let folder = target_folder()?.join("fuzz");
    let mut build = cargo();
    build.args(["build", "--release", "--package", "calypte-fuzz", "--target", HOST, "--target-dir"]).arg(&folder);
    run_command(build.env("RUSTFLAGS", COVERAGE))?;
    let wanted: Vec<&(&str, u32)> = TARGETS
        .iter()
        .filter(|(name, _)| options.only.is_empty() || options.only.iter().any(|only| only == name))
        .collect();
    let mut failed = Vec::new();
    for batch in wanted.chunks(options.at_once.max(1)) {
        let mut running: Vec<(&str, PathBuf, Child)> = Vec::new();
        for (name, bytes_max) in batch {
            let corpus = folder.join("corpus").join(name);
            let log = folder.join(format!("{name}.log"));
            std::fs::create_dir_all(&corpus)?;
            let duration = Duration::from_secs(options.minutes * 60);
            println!("{name}: {} min, log in {}", options.minutes, log.display());
            let child = Command::new(folder.join(HOST).join("release").join(format!("fuzz_{name}")))
                .args([&format!("-max_total_time={}", duration.as_secs()), "-print_final_stats=1"])
                .arg(format!("-artifact_prefix={}/{name}-", folder.display()))
                .args(limits(*bytes_max))
                .args([corpus, seeds(name)])
                .stderr(std::fs::File::create(&log)?)
                .spawn()
                .with_context(|| format!("fuzz target {name} cannot be run"))?;
            running.push((name, log, child));
        }
        for (name, log, mut child) in running {
            let status = child.wait()?;
            let text = std::fs::read_to_string(&log)?;
            let stat = |stat: &str| text.lines().find_map(|line| line.strip_prefix(stat)).unwrap_or("?").trim();
            let (runs, peak) = (stat("stat::number_of_executed_units:"), stat("stat::peak_rss_mb:"));
            println!("{name}: {runs} inputs, at most {peak} MiB, {status}");
            if !status.success() {
                failed.push(format!("{name} (see {})", log.display()));
            }
        }
    }
    if !failed.is_empty() {
        bail!("inputs that must not be: {}", failed.join(", "));
    }
    Ok(())
}

fn limits(bytes_max: u32) -> [String; 3] {
    [
        format!("-max_len={bytes_max}"),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
    ]
}

fn seeds(name: &str) -> PathBuf {
    root().join("fuzz/seeds").join(name)
}
