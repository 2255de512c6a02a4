//! Tests on AMD's virtualisation (SVM), emulated by QEMU: the path of ordinary machines, which the software KVM of a cloud
//! machine does not take. A Debian kernel, an initial file system with static test programs, and a serial line to read.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::command::{self, cargo, find, output, root};
use crate::gate::Outcome;
use crate::setup::MUSL_TARGET;

/// Debian's name for its newest kernel.
const KERNEL_PACKAGE: &str = "linux-image-amd64";
/// Modules in the order in which they are loaded. What a kernel has built in it has not as a module.
const MODULES: &[&str] = &["irqbypass", "rng-core", "ccp", "kvm", "kvm-amd"];
/// Files of this host that test programs need, besides themselves: the C library, and programs that they start.
const HOST_FILES: &[&str] = &[
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libm.so.6",
    "/bin/sh",
    "/bin/sleep",
    "/etc/passwd",
    "/etc/group",
];
/// A platform test that is left out, and why. Programs that are left out of both extents say so themselves.
const LEFT_OUT: &str = "whatever_bytes_it_runs";
const LEFT_OUT_REASON: &str = "QEMU's translator ends at some bytes by an assertion of its own (`gen_pinsr` in 7.2)";
/// Programs that the smoke set leaves out: as the name of their tests begins. Each of the three makes 14,400 calls, half of
/// which map or unmap memory (`calypte run --profile`).
const SLOW: &str = "garbage ";
/// The initial file system, in the stage's folder.
const ARCHIVE: &str = "initrd";
/// The mode in which the smoke set runs the test programs, a part of the names of their tests.
const SMOKE: &str = "kvm, Static, 2 vCPU";
/// Longest run of the smoke set with one setting of nested paging; a minute and a half on a busy machine.
const SMOKE_TIMEOUT: Duration = Duration::from_secs(240);
/// The same of everything.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Lines of the serial console that an error shows.
const SHOWN_LINES_MAX: usize = 40;

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The platform's tests, and the conformance suite in one mode: minutes.
    Smoke,
    /// The platform's tests, and the conformance suite in every mode.
    Whole,
}

/// Runs the tests with nested page tables and without.
pub(crate) fn run(extent: Extent) -> anyhow::Result<Outcome> {
    let folder = root().join("target/svm");
    fs::create_dir_all(&folder)?;
    let kernel = match kernel(&folder) {
        Ok(kernel) => kernel,
        Err(error) => return Ok(Outcome { skipped: vec![format!("svm: no kernel can be had here: {error:#}")] }),
    };
    if find("qemu-system-x86_64").is_none() {
        return Ok(Outcome { skipped: vec!["svm: qemu-system-x86_64 is not installed".to_owned()] });
    }
    make_archive(&folder, &kernel, extent)?;
    println!("   svm: left out: {LEFT_OUT}: {LEFT_OUT_REASON}");
    if extent == Extent::Smoke {
        println!("   svm: left out: programs {SLOW}*: too slow for the gate; `cargo xtask soak svm` runs them");
    }
    let timeout = if extent == Extent::Smoke { SMOKE_TIMEOUT } else { WHOLE_TIMEOUT };
    // Both at once: each machine has one processor.
    let run = |npt| {
        let begun = Instant::now();
        boot(&folder, &kernel.image, npt, timeout)?;
        println!("   npt={}: {} s", u8::from(npt), begun.elapsed().as_secs());
        Ok(())
    };
    let results: [anyhow::Result<()>; 2] = std::thread::scope(|scope| {
        let without = scope.spawn(|| run(false));
        [run(true), without.join().expect("a boot does not panic")]
    });
    let [with, without] = results;
    with.context("with nested page tables (npt=1)")?;
    without.context("without nested page tables (npt=0)")?;
    Ok(Outcome::default())
}

/// A kernel that was unpacked, not installed.
struct Kernel {
    image: PathBuf,
    modules: Vec<PathBuf>,
}

/// The kernel that is there, else Debian's newest.
fn kernel(folder: &Path) -> anyhow::Result<Kernel> {
    let mut unpacked: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.join("complete").is_file())
        .collect();
    unpacked.sort();
    let place = match unpacked.pop() {
        Some(place) => place,
        None => download_kernel(folder)?,
    };
    let files = output(Command::new("find").arg(&place).args(["-name", "vmlinuz-*", "-o", "-name", "*.ko*"]))?;
    let files: Vec<PathBuf> = files.lines().map(PathBuf::from).collect();
    let named = |wanted: &str| {
        let is_wanted =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(wanted));
        files.iter().find(is_wanted).cloned()
    };
    let image = named("vmlinuz-").with_context(|| format!("no kernel below {}", place.display()))?;
    let modules = MODULES.iter().filter_map(|module| named(&format!("{module}.ko"))).collect();
    Ok(Kernel { image, modules })
}

fn download_kernel(folder: &Path) -> anyhow::Result<PathBuf> {
    let package = match newest_kernel_package() {
        Ok(package) => package,
        Err(_) => {
            crate::setup::apt_get(&["update", "-q"])?;
            newest_kernel_package()?
        }
    };
    let place = folder.join(&package);
    fs::create_dir_all(&place)?;
    let download = || command::run(Command::new("apt-get").args(["download", "-q", &package]).current_dir(&place));
    if download().is_err() {
        // The package list may be older than the archive.
        crate::setup::apt_get(&["update", "-q"])?;
        download()?;
    }
    let archive = fs::read_dir(&place)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    command::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&place))?;
    fs::remove_file(archive)?;
    fs::write(place.join("complete"), "")?;
    Ok(place)
}

fn newest_kernel_package() -> anyhow::Result<String> {
    let shown = output(Command::new("apt-cache").args(["show", "--no-all-versions", KERNEL_PACKAGE]))?;
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).context("it depends on no kernel")?;
    Ok(depends.split([' ', ',']).next().unwrap_or_default().to_owned())
}

/// Makes the initial file system.
fn make_archive(folder: &Path, kernel: &Kernel, extent: Extent) -> anyhow::Result<()> {
    let [machine, programs] = build_tests()?;
    let files = folder.join("root");
    if files.exists() {
        fs::remove_dir_all(&files)?;
    }
    for directory in ["bin", "proc", "sys", "dev", "tmp", "etc", "usr/bin", "var", "lib/modules", "conformance"] {
        fs::create_dir_all(files.join(directory))?;
    }
    install(&machine, &files.join("bin/machine"))?;
    install(&programs, &files.join("bin/programs"))?;
    for file in HOST_FILES {
        let to = files.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a file lies in a folder"))?;
        fs::copy(file, to)?;
    }
    let mut modules = String::new();
    for module in &kernel.modules {
        modules += &install_module(module, &files)?;
    }
    fs::write(files.join("modules"), modules)?;
    fs::write(files.join("tests"), tests(extent))?;
    let init = root().join("tests/svm/init.c");
    command::run(Command::new("cc").args(["-O1", "-Wall", "-static", "-o"]).arg(files.join("init")).arg(init))?;
    // What the programs do on this machine is what they must do there.
    command::run(Command::new(&programs).env("CALYPTE_CONFORMANCE_RECORD", files.join("conformance")))?;
    let pack = "find . | cpio --quiet --create --format=newc --owner=0:0";
    let archive = fs::File::create(folder.join(ARCHIVE))?;
    command::run(Command::new("sh").args(["-c", pack]).current_dir(&files).stdout(archive))
}

/// The test programs of `calypte-kvm` and `calypte-linux` as static programs.
fn build_tests() -> anyhow::Result<[PathBuf; 2]> {
    // Of the whole workspace, as everything that the gate builds: the features of dependencies are the same then.
    let which = ["--workspace", "--test", "machine", "--test", "programs"];
    let mut build = cargo();
    build.args(["test", "--quiet", "--no-run", "--message-format=json", "--target", MUSL_TARGET]).args(which);
    let built = output(&mut build)?;
    let messages: Vec<Value> = built.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let executable = |source: &str| {
        let is_it = |message: &&Value| {
            let is_of = message["target"]["src_path"].as_str().is_some_and(|path| path.ends_with(source));
            is_of && message["executable"].is_string()
        };
        let found = messages.iter().find(is_it).and_then(|message| message["executable"].as_str());
        found.map(PathBuf::from).with_context(|| format!("cargo built no test {source}"))
    };
    Ok([executable("kvm/tests/machine/main.rs")?, executable("linux/tests/programs/main.rs")?])
}

/// Copies a program without what debuggers need, which would fill the machine's memory.
fn install(program: &Path, to: &Path) -> anyhow::Result<()> {
    command::run(Command::new("strip").arg("-o").arg(to).arg(program))
}

/// Puts a module in its place, uncompressed. Its line in the list of modules.
fn install_module(module: &Path, files: &Path) -> anyhow::Result<String> {
    let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let line = format!("/lib/modules/{}", name.trim_end_matches(".xz"));
    let to = files.join(line.trim_start_matches('/'));
    if name.ends_with(".xz") {
        command::run(Command::new("xz").args(["--decompress", "--stdout"]).arg(module).stdout(fs::File::create(to)?))?;
    } else {
        fs::copy(module, to)?;
    }
    Ok(line + "\n")
}

/// What the machine runs: a line each, words separated by tabs.
fn tests(extent: Extent) -> String {
    let programs = match extent {
        Extent::Smoke => format!("\t{SMOKE}\t--skip\t{SLOW}"),
        Extent::Whole => String::new(),
    };
    let machine = format!("/bin/machine\t--test-threads=2\t--skip\t{LEFT_OUT}");
    format!("{machine}\n/bin/programs\t--test-threads=2\t--color=never{programs}\n")
}

/// Boots the machine, shows what it prints and judges it.
fn boot(folder: &Path, image: &Path, npt: bool, timeout: Duration) -> anyhow::Result<()> {
    let npt = u8::from(npt);
    // What QEMU itself says.
    let emulator_log = folder.join(format!("qemu-npt{npt}.log"));
    // One processor: with two, the emulation of nested SVM now and then corrupts a stack of the machine's own kernel.
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=single", "-cpu", "EPYC", "-smp", "1", "-m", "3G"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(folder.join(ARCHIVE))
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 mitigations=off npt={npt}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&emulator_log)?)
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let mut log = Vec::new();
    let ended = read_console(&mut machine, npt, &mut log, timeout);
    machine.kill().ok();
    machine.wait()?;
    let said = fs::read_to_string(&emulator_log)?;
    log.extend(said.lines().filter(|line| !line.contains("warning: TCG doesn't support")).map(str::to_owned));
    let shown = log[log.len().saturating_sub(SHOWN_LINES_MAX)..].join("\n");
    if !ended {
        let running = log.iter().rev().find_map(|line| line.strip_prefix("svm: begin ")).unwrap_or("the boot");
        bail!("no end after {} s, in: {running}\n{shown}", timeout.as_secs());
    }
    match fault(&log) {
        Some(fault) => bail!("{fault}\n{shown}"),
        None => Ok(()),
    }
}

/// Collects the machine's console until it is switched off. `false` if it took too long.
fn read_console(machine: &mut Child, npt: u8, log: &mut Vec<String>, timeout: Duration) -> bool {
    let console = BufReader::new(machine.stdout.take().expect("it is piped"));
    let (sender, lines) = mpsc::sync_channel(1000);
    let reader = std::thread::spawn(move || {
        for line in console.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + timeout;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if ["svm: ", "test result", "conformance: left out"].iter().any(|shown| line.starts_with(shown))
                    || line.contains(" assertions on ")
                {
                    println!("   npt={npt}: {line}");
                }
                log.push(line);
            }
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    reader.join().is_ok()
}

/// What is wrong with a run that ended.
fn fault(log: &[String]) -> Option<String> {
    if !log.iter().any(|line| line == "svm: done") {
        return Some("the machine ended before its tests".to_owned());
    }
    let skipped = log.iter().find(|line| line.contains("SKIP "));
    let failed = log.iter().find(|line| line.starts_with("svm: end ") && !line.starts_with("svm: end 0 "));
    let empty = log.iter().find(|line| line.starts_with("running 0 tests"));
    let unloaded = log.iter().find(|line| line.starts_with("svm: cannot load"));
    skipped.or(failed).or(empty).or(unloaded).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn a_run_is_judged_by_its_console() {
        let good = ["svm: begin /bin/x", "running 3 tests", "svm: end 0 after 1 s: /bin/x", "svm: done"];
        assert_eq!(fault(&log(&good)), None);
        assert!(fault(&log(&good[..3])).is_some());
        for bad in
            ["SKIP machine: no device", "svm: end 101 after 1 s: /bin/x", "running 0 tests", "svm: cannot load x"]
        {
            assert_eq!(fault(&log(&[&good[..], &[bad]].concat())), Some(bad.to_owned()));
        }
    }
}
