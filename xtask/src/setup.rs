//! Installs what the tests need: Debian packages, the musl target, `cargo-deny`, the Python clients of AWS in a virtual
//! environment under `target/`, and the packages of functions under test. Quick when everything is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::command::{self, cargo, find, output, root};
use crate::cpython;

/// Programs that must be there, with the Debian package that brings each.
const PROGRAMS: &[(&str, &str)] = &[
    ("gcc", "gcc"),
    ("c++", "g++"),
    ("musl-gcc", "musl-tools"),
    ("go", "golang-go"),
    ("node", "nodejs"),
    ("busybox", "busybox"),
    ("python3", "python3"),
    ("setfacl", "acl"),
    ("ps", "procps"),
    ("javac", "openjdk-17-jdk-headless"),
    ("ruby", "ruby"),
    ("php", "php-cli"),
    ("perl", "perl"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
];

/// Packages from PyPI, in the versions that the tests were written against.
const PYTHON_PACKAGES: &[&str] = &["boto3==1.44.5", "awscli==1.46.3", "awslambdaric==4.2.2"];

const CARGO_DENY_VERSION: &str = "0.20";
/// What static programs are built for.
pub(crate) const MUSL_TARGET: &str = "x86_64-unknown-linux-musl";

/// What the tests can use after [`run`].
pub(crate) struct Tools {
    /// `bin` folder of the virtual environment with boto3, the AWS CLI and `awslambdaric`.
    pub(crate) python_bin: PathBuf,
    /// Folder with numpy alone, as a function's author installs it to put it into a zip.
    pub(crate) numpy: PathBuf,
}

/// Installs what is missing.
pub(crate) fn run() -> anyhow::Result<Tools> {
    install_debian_packages()?;
    install_rust_target()?;
    install_cargo_deny()?;
    let python_bin = install_python_packages()?;
    let numpy = install_function_packages(&python_bin)?;
    Ok(Tools { python_bin, numpy })
}

fn install_debian_packages() -> anyhow::Result<()> {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if !has_venv_module() {
        missing.push("python3-venv");
    }
    let regression_suite = cpython::missing_package();
    missing.extend(regression_suite.as_deref());
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing packages: {}", missing.join(" "));
    if find("apt-get").is_none() {
        bail!("these programs are missing and there is no apt-get to install them: {}", missing.join(" "));
    }
    apt_get(&["update", "-q"])?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(missing);
    apt_get(&arguments)
}

/// Runs `apt-get` as root.
pub(crate) fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let is_root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
    if !is_root {
        command.arg("apt-get");
    }
    command::run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
        .context("installing Debian packages needs root: run the apt-get line above by hand and try again")
}

fn has_venv_module() -> bool {
    find("python3").is_some() && output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_ok()
}

fn install_rust_target() -> anyhow::Result<()> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(MUSL_TARGET).is_dir() {
        return Ok(());
    }
    command::run(Command::new("rustup").args(["target", "add", MUSL_TARGET]))
}

fn install_cargo_deny() -> anyhow::Result<()> {
    let is_current = output(cargo().args(["deny", "--version"]))
        .is_ok_and(|version| version.trim().starts_with(&format!("cargo-deny {CARGO_DENY_VERSION}.")));
    if is_current {
        return Ok(());
    }
    // A debug build checks the same and compiles in a third of the time.
    command::run(cargo().args([
        "install",
        "--locked",
        "--debug",
        "--version",
        &format!("^{CARGO_DENY_VERSION}"),
        "cargo-deny",
    ]))
}

/// Whether the file that is written after an installation says that it was this one.
fn is_installed(stamp: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|installed| installed == wanted)
}

fn install_python_packages() -> anyhow::Result<PathBuf> {
    let folder = root().join("target/python-clients");
    let stamp = folder.join("packages.txt");
    let wanted = PYTHON_PACKAGES.join("\n");
    if is_installed(&stamp, &wanted) {
        return Ok(folder.join("bin"));
    }
    command::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    command::run(Command::new(folder.join("bin/pip")).args(["install", "--quiet"]).args(PYTHON_PACKAGES))?;
    std::fs::write(&stamp, wanted)?;
    Ok(folder.join("bin"))
}

/// Packages of the functions under test, for the host's Python, in a folder of their own and by their hashes.
fn install_function_packages(python_bin: &Path) -> anyhow::Result<PathBuf> {
    let requirements = root().join("tests/clients/function-packages.txt");
    let folder = root().join("target/python-functions");
    let stamp = folder.with_extension("txt");
    let wanted = std::fs::read_to_string(&requirements)?;
    if is_installed(&stamp, &wanted) {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let options = ["install", "--quiet", "--no-compile", "--only-binary", ":all:", "--no-deps", "--require-hashes"];
    command::run(
        Command::new(python_bin.join("pip"))
            .args(options)
            .arg("--target")
            .arg(&folder)
            .arg("--requirement")
            .arg(&requirements),
    )?;
    std::fs::write(&stamp, wanted)?;
    Ok(folder)
}
