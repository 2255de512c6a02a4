//! Programs in a microVM against the same on the host, alternating: how many times as long each piece of work takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use super::{Bench, host_python, result};
use crate::command::{find, output, root, run as run_command};

/// MiB of the file that is read.
const FILE_MIB: usize = 64;
/// Times that each program runs, here and there; the fastest counts.
const ROUNDS: usize = 5;

/// A program that prints lines `name seconds`.
struct Workload {
    name: &'static str,
    /// Folder that the microVM shows as `/`.
    root: std::path::PathBuf,
    /// The program and its arguments on the host, and in the microVM.
    native: Vec<String>,
    virtualised: Vec<String>,
}

/// Runs all of them.
pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Value>> {
    let mut results = Vec::new();
    for workload in workloads(bench)? {
        let (mut native, mut virtualised) = (Fastest::default(), Fastest::default());
        for _ in 0..(ROUNDS / bench.divisor.min(ROUNDS)).max(1) {
            native.add(Command::new(&workload.native[0]).args(&workload.native[1..]))?;
            virtualised.add(bench.run_in_vm(&workload.root, "1024").args(&workload.virtualised))?;
        }
        for name in native.order {
            let (here, there) = (native.seconds[&name], virtualised.seconds[&name]);
            let shown = format!("{} {}, VM / native", workload.name, name.replace('_', " "));
            let detail = format!("{:.1} ms against {:.1} ms", there * 1e3, here * 1e3);
            results.push(result(&shown, format!("{:.2}", there / here), detail));
        }
    }
    Ok(results)
}

/// The shortest time of each piece of work.
#[derive(Default)]
struct Fastest {
    order: Vec<String>,
    seconds: BTreeMap<String, f64>,
}

impl Fastest {
    fn add(&mut self, command: &mut Command) -> anyhow::Result<()> {
        for line in output(command)?.lines() {
            let (name, seconds) = line.split_once(' ').with_context(|| format!("not a name and seconds: {line}"))?;
            let seconds: f64 = seconds.parse().with_context(|| format!("not seconds: {line}"))?;
            if !self.seconds.contains_key(name) {
                self.order.push(name.to_owned());
            }
            let fastest = self.seconds.entry(name.to_owned()).or_insert(f64::INFINITY);
            *fastest = fastest.min(seconds);
        }
        Ok(())
    }
}

fn workloads(bench: &Bench) -> anyhow::Result<Vec<Workload>> {
    // A root of its own for what is compiled: with the host's, a temporary folder would be hidden by the guest's /tmp.
    let folder = bench.folder.join("programs");
    std::fs::create_dir_all(&folder)?;
    let scale = |full: usize| (full / bench.divisor.min(full)).max(1).to_string();
    let source = |name: &str| root().join("benches").join(name);
    let script = |name: &str| std::fs::read_to_string(source(name)).with_context(|| format!("benches/{name}"));
    let everywhere = |name, command: Vec<String>| Workload {
        name,
        root: Path::new("/").to_owned(),
        native: command.clone(),
        virtualised: command,
    };
    let compiled = |name, program: &str, arguments: &[String]| {
        let file = |prefix: &Path, name: &str| prefix.join(name).to_string_lossy().into_owned();
        let with = |prefix: &Path| {
            let arguments = arguments.iter().map(|argument| match argument.strip_prefix("file:") {
                Some(name) => file(prefix, name),
                None => argument.clone(),
            });
            std::iter::once(file(prefix, program)).chain(arguments).collect()
        };
        Workload { name, root: folder.clone(), native: with(&folder), virtualised: with(Path::new("/")) }
    };
    run_command(
        Command::new("gcc")
            .args(["-O2", "-static", "-pthread", "-o"])
            .arg(folder.join("kernel"))
            .arg(source("kernel.c")),
    )?;
    std::fs::write(folder.join("file"), vec![b'x'; FILE_MIB << 20])?;
    let mut workloads = vec![
        everywhere("Python", vec![host_python()?, "-c".to_owned(), script("compute.py")?, scale(20)]),
        compiled("kernel", "kernel", &[scale(200), "file:file".to_owned()]),
    ];
    if let Some(node) = find("node") {
        let node = std::fs::canonicalize(node)?.to_string_lossy().into_owned();
        workloads.push(everywhere("Node", vec![node, "-e".to_owned(), script("compute.js")?, scale(10)]));
    }
    if let Some(go) = find("go") {
        let mut build = Command::new(go);
        build.env("CGO_ENABLED", "0").args(["build", "-o"]).arg(folder.join("compute")).arg(source("compute.go"));
        run_command(&mut build)?;
        workloads.push(compiled("Go", "compute", &[scale(10)]));
    }
    Ok(workloads)
}
