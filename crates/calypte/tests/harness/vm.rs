//! Programs of this host in a microVM over the host's files, compared with the same on the host.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a command on the host and in a microVM over the host's files, and compares.
pub(crate) fn check(name: &str, program: &Path, arguments: &[&str]) {
    check_with(name, &[], program, arguments);
}

/// [`check`] with options of `calypte run`.
pub(crate) fn check_with(name: &str, options: &[&str], program: &Path, arguments: &[&str]) {
    let on_host = Command::new(program).args(arguments).current_dir("/").output().unwrap();
    let in_vm = in_vm(options, program, arguments);
    let shown = |output: &Output| {
        format!(
            "{}\n--- stdout\n{}--- stderr\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    assert!(
        on_host.status.code() == in_vm.status.code() && on_host.stdout == in_vm.stdout,
        "{name}\n=== on the host: {}\n=== in the microVM: {}",
        shown(&on_host),
        shown(&in_vm)
    );
}

/// Runs a command in a microVM over the host's files.
pub(crate) fn in_vm(options: &[&str], program: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calypte"))
        .args(["run", "--rootfs", "/", "--memory", "1024", "--timeout", "120"])
        .args(options)
        .arg("--")
        .arg(program)
        .args(arguments)
        .output()
        .unwrap()
}

/// Where a program of the host lies; `None`, printed as a skip, if it is not installed or there is no KVM.
pub(crate) fn host_program(test: &str, program: &str) -> Option<PathBuf> {
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        eprintln!("SKIP {test}: /dev/kvm cannot be opened");
        return None;
    }
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("SKIP {test}: {program} is not installed");
    }
    found
}

/// The interpreter behind `python3`, which may be a shim script.
pub(crate) fn python(test: &str) -> Option<PathBuf> {
    let shim = host_program(test, "python3")?;
    let printed = Command::new(shim).args(["-c", "import os, sys; print(os.path.realpath(sys.executable))"]).output();
    Some(PathBuf::from(String::from_utf8(printed.unwrap().stdout).unwrap().trim()))
}

/// A program where the guest sees it too: its `/tmp` is its own, so a program below `/tmp` is copied.
pub(crate) struct Visible {
    /// Where it lies.
    pub(crate) program: PathBuf,
    _copied_to: Option<tempfile::TempDir>,
}

impl Visible {
    pub(crate) fn new(program: &Path) -> Self {
        if !program.starts_with("/tmp") {
            return Self { program: program.to_owned(), _copied_to: None };
        }
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let copy = folder.path().join(program.file_name().unwrap());
        std::fs::copy(program, &copy).unwrap();
        Self { program: copy, _copied_to: Some(folder) }
    }
}
