//! Where a test program's file and its expected run come from: compiled and run here, or recorded on the machine that made
//! this folder, for a machine without a compiler.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

/// Names a folder made by [`record`]: its programs and expected runs are used instead of this machine's.
const RECORDED: &str = "CALYPTE_CONFORMANCE_RECORDED";
/// How programs are compiled, besides `-static`.
const FLAGS: &[&str] = &[
    "-O1",
    "-g",
    "-pthread",
    "-Wall",
    "-Wno-infinite-recursion",
    "-Wno-stringop-overflow",
    "-Wno-stringop-overread",
    "-D_GNU_SOURCE",
];

/// How a program is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Linking {
    /// Without an interpreter.
    Static,
    /// Against the host's C library.
    Dynamic,
}

/// What a program has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// What it printed: standard output, then standard error.
    pub(crate) output: String,
    /// Exit status as shells tell it.
    pub(crate) status: i32,
}

/// Holds the programs' files.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = recorded().unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs"));
        std::fs::create_dir_all(&folder).expect("a folder for test programs");
        folder
    });
    &FOLDER
}

/// Whether programs and expected runs were recorded on another machine, whose processor this one may only emulate.
pub(crate) fn is_recorded() -> bool {
    recorded().is_some()
}

/// Where [`lower`] is: not below `/tmp`, where a guest has its own files, and kept. The number changes with the content.
const LOWER: &str = "/var/tmp/calypte-lower-1";

/// A small tree for programs about changing one: in their environment as `LOWER`.
pub(crate) fn lower() -> &'static str {
    static MADE: LazyLock<()> = LazyLock::new(|| {
        let lower = PathBuf::from(format!("{LOWER}.{}", std::process::id()));
        let write = |path: &str, content: &[u8]| {
            let path = lower.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder above")).expect("a folder of ours");
            std::fs::write(path, content).expect("a folder of ours");
        };
        if !Path::new(LOWER).exists() {
            for path in ["file", "other", "dir/a", "dir/b", "dir/c", "dir/sub/deep", "tree/one/leaf", "program"] {
                write(path, format!("lower {path}\n").as_bytes());
            }
            write("big", &(0..10_000_u32).map(|index| b'a' + (index % 26) as u8).collect::<Vec<u8>>());
            for path in ["empty", "tree/one/two/three"] {
                std::fs::create_dir_all(lower.join(path)).expect("a folder of ours");
            }
            std::os::unix::fs::symlink("file", lower.join("link")).expect("a folder of ours");
            // Written aside: another test process may do the same, and the first one wins.
            let _ = std::fs::rename(&lower, LOWER);
        }
    });
    LazyLock::force(&MADE);
    LOWER
}

fn recorded() -> Option<PathBuf> {
    std::env::var_os(RECORDED).map(PathBuf::from)
}

/// Makes a program, if it is not there or its source has changed. The name of its file in [`folder`].
pub(crate) fn file(name: &str, linking: Linking) -> String {
    static MADE: LazyLock<Mutex<HashMap<String, Arc<OnceLock<()>>>>> = LazyLock::new(Mutex::default);
    let file = format!("{name}-{linking:?}").to_lowercase();
    let made = MADE.lock().unwrap_or_else(PoisonError::into_inner).entry(file.clone()).or_default().clone();
    made.get_or_init(|| {
        if recorded().is_none() {
            compile(name, linking, &folder().join(&file));
        }
    });
    file
}

fn compile(name: &str, linking: Linking, output: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let source = sources.join(format!("{name}.c"));
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    // This file holds the flags.
    let inputs = [&source, &sources.join("check.h"), &sources.join("directory.h"), &sources.join("program.rs")];
    let newest: Option<SystemTime> = inputs.into_iter().filter_map(|input| changed(input)).max();
    if changed(output) > newest {
        return;
    }
    // Written aside: another test process may be running the old one.
    let aside = output.with_extension(std::process::id().to_string());
    let mut command = Command::new("cc");
    command.args(FLAGS).arg("-o").arg(&aside).arg(&source);
    if let Linking::Static = linking {
        command.arg("-static");
    }
    let status = command.arg("-lm").status().expect("a C compiler named cc");
    assert!(status.success(), "{name}.c does not compile");
    std::fs::rename(&aside, output).expect("a folder of ours");
}

/// What a program does on the host; run once for each set of arguments.
pub(crate) fn run_on_host(name: &str, linking: Linking, arguments: &[&str]) -> Run {
    static RUNS: LazyLock<Mutex<HashMap<String, Arc<OnceLock<Run>>>>> = LazyLock::new(Mutex::default);
    let key = run_name(name, linking, arguments);
    let run = RUNS.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone();
    run.get_or_init(|| match recorded() {
        Some(folder) => read_run(&folder.join(format!("{key}.expected"))),
        None => run_here(&file(name, linking), arguments),
    })
    .clone()
}

fn run_name(name: &str, linking: Linking, arguments: &[&str]) -> String {
    let words: Vec<&str> = arguments.iter().copied().filter(|word| !word.is_empty()).collect();
    [&[name], words.as_slice(), &[&format!("{linking:?}").to_lowercase()]].concat().join("-").replace(' ', "_")
}

fn run_here(file: &str, arguments: &[&str]) -> Run {
    use std::os::unix::process::ExitStatusExt;
    let output = Command::new(folder().join(file))
        .args(arguments)
        .env_clear()
        .env("GREETING", "hello")
        .env("LOWER", lower())
        .current_dir("/")
        .output()
        .expect("the program was just compiled");
    let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Run { output: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(), status }
}

fn read_run(path: &Path) -> Run {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (status, output) = text.split_once('\n').expect("a status and an output");
    Run { output: output.to_owned(), status: status.parse().expect("a status") }
}

/// Puts a program and, unless it only runs in guests, what it does here into a folder for another machine.
pub(crate) fn record(name: &str, linking: Linking, arguments: &[&str], runs_on_host: bool, to: &Path) {
    let file = file(name, linking);
    std::fs::copy(folder().join(&file), to.join(&file)).expect("a folder to record to");
    if runs_on_host {
        let run = run_on_host(name, linking, arguments);
        let text = format!("{}\n{}", run.status, run.output);
        let path = to.join(format!("{}.expected", run_name(name, linking, arguments)));
        std::fs::write(path, text).expect("a folder to record to");
    }
}
