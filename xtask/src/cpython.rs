//! CPython's own regression suite in the microVM, module by module, against the same on this host: a fixed list of modules
//! in the gate, all of them in `cargo xtask soak cpython`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::command::{output, root};
use crate::gate::Outcome;
use crate::server::{self, Profile};

/// Debian's Python: its package brings the regression suite.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// Modules that must pass in the gate: one a line.
const GATE_MODULES: &str = "tests/cpython/gate.txt";
/// Why a module that passes on the host does not pass in the microVM: `module: reason` lines.
const EXCEPTIONS: &str = "tests/cpython/exceptions.txt";
/// Modules that run at once.
const WORKERS: usize = 2;
const HOST_TIMEOUT: Duration = Duration::from_secs(300);
const GATE_TIMEOUT: Duration = Duration::from_secs(180);
/// Least share of the modules that pass on the host which must pass in the microVM, per cent (`SPECIFICATION.md`).
const PASSING_PERCENT_MIN: usize = 80;
/// Failing tests of a module that a table names.
const SHOWN_TESTS_MAX: usize = 3;

/// Options of `cargo xtask soak cpython`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these modules; no table is written.
    #[arg(long)]
    only: Vec<String>,
    /// Do not run again what passed in the microVM before: to go on with a run that was interrupted.
    #[arg(long)]
    resume: bool,
    /// Time a module has in the microVM, in seconds.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// The `calypte` program to use instead of building one.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// How a module ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped,
    Failed,
    Crashed(i32),
    Hung,
}

impl Verdict {
    fn of(status: i32, log: &str, module: &str) -> Self {
        match status {
            124 | 137 => Self::Hung,
            _ if log.contains("Timeout (") => Self::Hung,
            0 | 4 if log.lines().any(|line| line.starts_with(&format!("{module} skipped"))) => Self::Skipped,
            0 => Self::Passed,
            1..=4 => Self::Failed,
            status => Self::Crashed(status),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Skipped => f.write_str("skipped"),
            Self::Failed => f.write_str("failed"),
            Self::Crashed(status) => write!(f, "crashed with status {status}"),
            Self::Hung => f.write_str("hung"),
        }
    }
}

/// Runs the fixed list in the microVM: every module must pass.
pub(crate) fn check() -> anyhow::Result<Outcome> {
    if let Some(reason) = missing_suite() {
        return Ok(Outcome { skipped: vec![format!("cpython: {reason}")] });
    }
    let program = server::build(Profile::Development)?;
    let listed = fs::read_to_string(root().join(GATE_MODULES))?;
    let modules: Vec<String> = listed.lines().map(str::to_owned).collect();
    let machine = Place::Vm { program, timeout: GATE_TIMEOUT, resume: false };
    let verdicts = run_all(&machine, &modules)?;
    let failed: Vec<String> = verdicts
        .iter()
        .filter(|(_, verdict)| **verdict != Verdict::Passed)
        .map(|(module, verdict)| format!("{module} {verdict}: {}", machine.reason(module)))
        .collect();
    if !failed.is_empty() {
        bail!("modules that must pass (logs in {}):\n  {}", machine.folder().display(), failed.join("\n  "));
    }
    println!("cpython: {} modules passed in the microVM", verdicts.len());
    Ok(Outcome::default())
}

/// Runs every module on the host (once; the results are kept) and in the microVM, and writes the table.
pub(crate) fn soak(options: &Options) -> anyhow::Result<()> {
    if let Some(reason) = missing_suite() {
        bail!("{reason}");
    }
    let program = match &options.program {
        Some(program) => program.clone(),
        None => server::build(Profile::Release)?,
    };
    let modules = if options.only.is_empty() { all_modules()? } else { options.only.clone() };
    let on_host = run_all(&Place::Host, &modules)?;
    println!(
        "on the host {} of {} pass",
        on_host.values().filter(|verdict| **verdict == Verdict::Passed).count(),
        on_host.len()
    );
    let passing: Vec<String> = modules.iter().filter(|module| on_host[*module] == Verdict::Passed).cloned().collect();
    let machine = Place::Vm { program, timeout: Duration::from_secs(options.timeout), resume: options.resume };
    let in_vm = run_all(&machine, &passing)?;
    let report = Report { machine: &machine, on_host: &on_host, in_vm: &in_vm };
    if options.only.is_empty() {
        let date = output(Command::new("date").args(["--utc", "+%F"]))?;
        let path = root().join("docs/soak").join(format!("{}-cpython.md", date.trim()));
        fs::write(&path, report.table()?)?;
        println!("written: {}", path.display());
    }
    report.judge()
}

fn missing_suite() -> Option<String> {
    let is_there = Command::new(PYTHON).args(["-c", "import test.test_os"]).output();
    match is_there {
        Ok(output) if output.status.success() => None,
        Ok(_) => Some(format!("{PYTHON} has no regression suite; Debian's package is libpython3.X-testsuite")),
        Err(error) => Some(format!("{PYTHON}: {error}")),
    }
}

fn all_modules() -> anyhow::Result<Vec<String>> {
    let listed = output(Command::new(PYTHON).args(["-m", "test", "--list-tests"]))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Where modules run.
enum Place {
    Host,
    Vm { program: PathBuf, timeout: Duration, resume: bool },
}

impl Place {
    /// Holds a log for each module.
    fn folder(&self) -> PathBuf {
        root().join("target/cpython").join(match self {
            Self::Host => "host",
            Self::Vm { .. } => "vm",
        })
    }

    fn timeout(&self) -> Duration {
        match self {
            Self::Host => HOST_TIMEOUT,
            Self::Vm { timeout, .. } => *timeout,
        }
    }

    /// Runs a module. Its log starts with a line for the exit status.
    fn run(&self, module: &str) -> anyhow::Result<Verdict> {
        let path = self.folder().join(format!("{module}.log"));
        if let Some(verdict) = self.known(&path, module)? {
            return Ok(verdict);
        }
        let seconds = self.timeout().as_secs();
        let mut command = Command::new("timeout");
        // Python says where it hangs; if it does not, it is ended.
        command.args(["--kill-after=10", &(seconds + 20).to_string()]);
        match self {
            Self::Host => {
                command.args([
                    "env",
                    "--ignore-environment",
                    "PATH=/usr/local/bin:/usr/bin:/bin",
                    "HOME=/tmp",
                    "LANG=C.UTF-8",
                ]);
            }
            Self::Vm { program, .. } => {
                command.arg(program).args(["run", "--rootfs", "/", "--memory", "2048", "--tmp", "2048", "--cpus", "2"]);
                command.args(["--env", "HOME=/tmp", "--env", "LANG=C.UTF-8", "--workdir", "/tmp", "--"]);
            }
        }
        command.args([PYTHON, "-m", "test", "-v", "--timeout", &seconds.to_string(), module]).current_dir("/tmp");
        let ran = command.stdin(std::process::Stdio::null()).output().context("cannot start timeout")?;
        let status = ran.status.code().unwrap_or(137);
        let printed = [ran.stdout, ran.stderr].concat();
        let log = format!("status {status}\n{}", String::from_utf8_lossy(&printed));
        fs::write(&path, &log)?;
        verdict_of_log(&log, module)
    }

    /// The verdict of an earlier run that need not be repeated.
    fn known(&self, log: &Path, module: &str) -> anyhow::Result<Option<Verdict>> {
        let Ok(log) = fs::read_to_string(log) else { return Ok(None) };
        let verdict = verdict_of_log(&log, module)?;
        let is_kept = match self {
            // What this host's Python does changes with its version, and with nothing that is worked on here.
            Self::Host => true,
            Self::Vm { resume, .. } => *resume && verdict == Verdict::Passed,
        };
        Ok(is_kept.then_some(verdict))
    }

    /// Why a module did not pass, from its log.
    fn reason(&self, module: &str) -> String {
        let log = fs::read_to_string(self.folder().join(format!("{module}.log"))).unwrap_or_default();
        reason_of_log(&log)
    }
}

fn verdict_of_log(log: &str, module: &str) -> anyhow::Result<Verdict> {
    let status = log.lines().next().and_then(|line| line.strip_prefix("status ")).context("a log without a status")?;
    Ok(Verdict::of(status.parse()?, log, module))
}

/// Runs modules, several at once, and says how each ends.
fn run_all(place: &Place, modules: &[String]) -> anyhow::Result<BTreeMap<String, Verdict>> {
    fs::create_dir_all(place.folder())?;
    let waiting: Mutex<VecDeque<&String>> = Mutex::new(modules.iter().collect());
    let verdicts = Mutex::new(BTreeMap::new());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || -> anyhow::Result<()> {
        while let Some(module) = next() {
            let begun = Instant::now();
            let verdict = place.run(module)?;
            if matches!(place, Place::Vm { .. }) {
                println!("   {module}: {verdict} after {} s", begun.elapsed().as_secs());
            }
            verdicts.lock().unwrap_or_else(PoisonError::into_inner).insert(module.clone(), verdict);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    Ok(verdicts.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The failing tests and their exceptions, shortened.
fn reason_of_log(log: &str) -> String {
    let mut failures: Vec<(&str, &str)> = Vec::new();
    let mut in_traceback = false;
    for line in log.lines() {
        let header = line.strip_prefix("ERROR: ").or(line.strip_prefix("FAIL: "));
        if let Some(header) = header {
            failures.push((header.split(' ').next().unwrap_or(header), ""));
        } else if line.starts_with("Traceback (") {
            in_traceback = true;
        } else if in_traceback && !line.starts_with(' ') && !line.is_empty() {
            in_traceback = false;
            if let Some(failure) = failures.last_mut() {
                failure.1 = line;
            }
        }
    }
    if failures.is_empty() {
        return log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output").to_owned();
    }
    let shown: Vec<String> =
        failures.iter().take(SHOWN_TESTS_MAX).map(|(test, why)| format!("{test}: {why}")).collect();
    let more = failures.len().saturating_sub(SHOWN_TESTS_MAX);
    if more == 0 { shown.join("; ") } else { format!("{}; {more} more", shown.join("; ")) }
}

struct Report<'a> {
    machine: &'a Place,
    on_host: &'a BTreeMap<String, Verdict>,
    in_vm: &'a BTreeMap<String, Verdict>,
}

impl Report<'_> {
    fn passing(&self) -> Vec<&str> {
        self.in_vm
            .iter()
            .filter(|(_, verdict)| **verdict == Verdict::Passed)
            .map(|(module, _)| module.as_str())
            .collect()
    }

    fn percent(&self) -> usize {
        self.passing().len() * 100 / self.in_vm.len().max(1)
    }

    fn table(&self) -> anyhow::Result<String> {
        let known = fs::read_to_string(root().join(EXCEPTIONS)).unwrap_or_default();
        let known = exceptions(&known);
        let version = output(Command::new(PYTHON).arg("--version"))?;
        let user = output(Command::new("id").arg("-un"))?;
        let passing = self.passing();
        let mut text = format!(
            "# CPython's regression suite\n\n`cargo xtask soak cpython`, {}, as user {}, on the host and in a microVM of 2 virtual \
             CPUs and 2 GiB.\n\n{} modules; {} pass on the host; of these {} ({} %) pass in the microVM.\n\n",
            version.trim(),
            user.trim(),
            self.on_host.len(),
            self.in_vm.len(),
            passing.len(),
            self.percent(),
        );
        text += "| passes on the host, not in the microVM | there | reason | failing tests |\n|---|---|---|---|\n";
        for (module, verdict) in self.in_vm.iter().filter(|(_, verdict)| **verdict != Verdict::Passed) {
            let reason = known.get(module.as_str()).copied().unwrap_or("not known yet");
            let found = self.machine.reason(module).replace('|', "\\|");
            writeln!(text, "| {module} | {verdict} | {reason} | {found} |")?;
        }
        text += "\n| does not pass on the host | there |\n|---|---|\n";
        for (module, verdict) in self.on_host.iter().filter(|(_, verdict)| **verdict != Verdict::Passed) {
            writeln!(text, "| {module} | {verdict} |")?;
        }
        writeln!(text, "\nPassed in the microVM: {}.", passing.join(", "))?;
        Ok(text)
    }

    fn judge(&self) -> anyhow::Result<()> {
        println!("{} of {} modules pass in the microVM: {} %", self.passing().len(), self.in_vm.len(), self.percent());
        let mut bad: Vec<String> = Vec::new();
        for (module, verdict) in self.in_vm {
            match verdict {
                Verdict::Passed => {}
                Verdict::Failed | Verdict::Skipped => {
                    println!("   {module} {verdict}: {}", self.machine.reason(module));
                }
                Verdict::Crashed(_) | Verdict::Hung => bad.push(format!("{module} {verdict}")),
            }
        }
        if !bad.is_empty() {
            bail!("no module may hang or crash: {}", bad.join(", "));
        }
        if self.percent() < PASSING_PERCENT_MIN {
            bail!("at least {PASSING_PERCENT_MIN} % are promised");
        }
        Ok(())
    }
}

/// `module: reason` lines.
fn exceptions(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(": ")).collect()
}

/// Debian's package of the regression suite of [`PYTHON`], unless the suite is there.
pub(crate) fn missing_package() -> Option<String> {
    if !Path::new(PYTHON).exists() || missing_suite().is_none() {
        return None;
    }
    let version = "import sys; print('%d.%d' % sys.version_info[:2])";
    let version = output(Command::new(PYTHON).args(["-c", version])).ok()?;
    Some(format!("libpython{}-testsuite", version.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gives_verdict_and_reason() {
        let log = "status 2\ntest_a (test.test_x.T.test_a) ... ERROR\n\n====\nERROR: test_a (test.test_x.T.test_a)\n----\n\
                   Traceback (most recent call last):\n  File \"x\", line 1\nOSError: [Errno 38] Function not implemented\n\n\
                   ----\nRan 1 test\n";
        assert_eq!(verdict_of_log(log, "test_x").unwrap(), Verdict::Failed);
        assert_eq!(reason_of_log(log), "test_a: OSError: [Errno 38] Function not implemented");
        assert_eq!(verdict_of_log("status 0\ntest_x skipped -- no\n", "test_x").unwrap(), Verdict::Skipped);
        assert_eq!(verdict_of_log("status 0\n", "test_x").unwrap(), Verdict::Passed);
        assert_eq!(verdict_of_log("status 1\nTimeout (0:01:00)!\n", "test_x").unwrap(), Verdict::Hung);
        assert_eq!(verdict_of_log("status 139\n", "test_x").unwrap(), Verdict::Crashed(139));
    }
}
