//! Language runtimes by `calypte run`, on two virtual CPUs: one program each that uses threads, garbage collection, compiled
//! code, files, child processes, signals and sockets. It must print what it prints on the host, and end as it does there.

#![allow(missing_docs)]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::vm::{Visible, check_with, host_program, python};

/// Holds the programs.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/runtimes")
}

/// Runs a program by its interpreter.
fn check_script(program: &Path, script: &str) {
    let script = Visible::new(&sources().join(script));
    check(program, &[&script.program.to_string_lossy()]);
}

fn check(program: &Path, arguments: &[&str]) {
    check_with(&program.to_string_lossy(), &["--cpus", "2"], program, arguments);
}

#[test]
fn cpython() {
    let Some(python) = python("cpython") else { return };
    check_script(&python, "runtime.py");
}

#[test]
fn node() {
    let Some(node) = host_program("node", "node") else { return };
    check_script(&node, "runtime.js");
}

#[test]
fn go() {
    let Some(go) = host_program("go", "go") else { return };
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = folder.path().join("runtime");
    let mut build = Command::new(go);
    build.args(["build", "-o"]).arg(&program).arg(sources().join("runtime.go"));
    assert!(build.env("GOFLAGS", "-mod=mod").env("GOCACHE", folder.path().join("cache")).status().unwrap().success());
    check(&program, &[]);
}

#[test]
fn tokio() {
    if host_program("tokio", "cat").is_none() {
        return;
    }
    let example = Path::new(env!("CARGO_BIN_EXE_calypte")).with_file_name("examples").join("tokio_threads");
    check(&Visible::new(&example).program, &[]);
}

#[test]
fn openjdk() {
    let (Some(java), Some(javac)) = (host_program("openjdk", "java"), host_program("openjdk", "javac")) else { return };
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let compiled = Command::new(javac).arg("-d").arg(folder.path()).arg(sources().join("Runtime.java")).status();
    assert!(compiled.unwrap().success());
    check(&java, &["-cp", &folder.path().to_string_lossy(), "Runtime"]);
}

#[test]
fn ruby() {
    let Some(ruby) = host_program("ruby", "ruby") else { return };
    check_script(&ruby, "runtime.rb");
}

#[test]
fn php() {
    let Some(php) = host_program("php", "php") else { return };
    check_script(&php, "runtime.php");
}

#[test]
fn perl() {
    let Some(perl) = host_program("perl", "perl") else { return };
    check_script(&perl, "runtime.pl");
}
