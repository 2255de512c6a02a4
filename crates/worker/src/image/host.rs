//! The Pythons of this host. A candidate such as `python3` may be a wrapper script (pyenv, asdf), so it is run and asked
//! where its interpreter and library are.

use std::collections::HashSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{ImageError, RuntimeImage, python};

/// Oldest version whose bootstrap is tested.
const VERSION_MIN: (u32, u32) = (3, 8);
/// Newest `python3.N` that is looked for.
const MINOR_MAX: u32 = 20;
/// Longest that a candidate may take to answer: wrapper scripts are slow, hanging ones are given up.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// What a Python is asked; isolated, without `site`, so that no package of the user's answers instead.
const QUESTION: &str = r"
import json, os, platform, sys, sysconfig
paths = sysconfig.get_paths()
try:
    import ssl
    certificates = ssl.get_default_verify_paths().openssl_cafile
except Exception:
    certificates = None
print(json.dumps({
    'executable': os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable),
    'version': list(sys.version_info[:3]),
    'implementation': sys.implementation.name,
    'machine': platform.machine(),
    'is_64_bit': sys.maxsize > 2 ** 32,
    'libraries': [paths['stdlib'], paths['platstdlib']],
    'certificates': certificates,
}))
";

/// A Python interpreter of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPython {
    /// The real interpreter: no wrapper, no link.
    pub executable: PathBuf,
    /// Major, minor, micro.
    pub version: (u32, u32, u32),
    /// Directories of the standard library, as the interpreter names them.
    pub(super) libraries: Vec<PathBuf>,
    /// Where its `ssl` module looks for the bundle of certificates.
    pub(super) certificates: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Answer {
    executable: PathBuf,
    version: (u32, u32, u32),
    implementation: String,
    machine: String,
    is_64_bit: bool,
    libraries: Vec<PathBuf>,
    certificates: Option<PathBuf>,
}

impl HostPython {
    /// Asks a program (a path, or a name in `PATH`) what it is.
    pub fn of_program(program: &str) -> Result<Self, ImageError> {
        let refuse = |problem: String| ImageError::Program { program: program.to_owned(), problem };
        let output = answer_of(program).map_err(refuse)?;
        let Ok(answer) = serde_json::from_slice::<Answer>(&output) else {
            return Err(refuse("it is not a Python 3; give a Python interpreter such as python3".to_owned()));
        };
        if answer.implementation != "cpython" || answer.machine != "x86_64" || !answer.is_64_bit {
            let kind = format!("{} for {}", answer.implementation, answer.machine);
            return Err(refuse(format!("it is {kind}; only 64-bit x86 CPython is supported")));
        }
        let (major, minor, _) = answer.version;
        if (major, minor) < VERSION_MIN || major != 3 {
            return Err(refuse(format!("it is Python {major}.{minor}; 3.8 or later is needed")));
        }
        let is_absolute = answer.executable.is_absolute() && answer.libraries.iter().all(|path| path.is_absolute());
        if !is_absolute {
            return Err(refuse("it does not say where its files are".to_owned()));
        }
        let Answer { executable, version, mut libraries, certificates, .. } = answer;
        libraries.dedup();
        Ok(Self { executable, version, libraries, certificates })
    }

    /// The name of its runtime: `python3.11`.
    pub fn runtime_name(&self) -> String {
        format!("python{}.{}", self.version.0, self.version.1)
    }

    /// What [`RuntimeImage::source`] says of an import of this interpreter.
    pub(super) fn source(&self) -> String {
        format!("host {}", self.executable.display())
    }

    /// Whether an image was imported from this interpreter, in whatever version.
    pub fn is_source_of(&self, image: &RuntimeImage) -> bool {
        image.source == self.source()
    }

    /// Whether an image was imported from this interpreter as it is now, with the bootstrap of this version of Calypte.
    /// If not, the host's Python or Calypte was upgraded since, and importing it again is right.
    pub fn is_imported_as(&self, image: &RuntimeImage) -> bool {
        self.is_source_of(image)
            && image.python_version.as_deref() == Some(&*self.version_text())
            && python::has_current_bootstrap(image)
    }

    /// `3.11.7`.
    pub fn version_text(&self) -> String {
        format!("{}.{}.{}", self.version.0, self.version.1, self.version.2)
    }
}

/// The Pythons in `PATH`, one for each `python3.N`: the one that a shell would start. Candidates that do not work are
/// left out.
pub fn discover_host_pythons() -> Vec<HostPython> {
    let names = std::iter::once("python3".to_owned()).chain((8..=MINOR_MAX).rev().map(|n| format!("python3.{n}")));
    let directories: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let candidates = names.flat_map(|name| {
        directories.iter().map(|directory| directory.join(&name)).filter(|path| is_executable(path)).collect::<Vec<_>>()
    });
    let mut asked = HashSet::new();
    let mut pythons: Vec<HostPython> = Vec::new();
    for candidate in candidates {
        // `/bin` is `/usr/bin` on most hosts; wrappers of different names are often one file and still differ.
        let directory = candidate.parent().and_then(|directory| directory.canonicalize().ok());
        if !asked.insert((directory, candidate.file_name().map(ToOwned::to_owned))) {
            continue;
        }
        let Some(python) = candidate.to_str().and_then(|path| HostPython::of_program(path).ok()) else { continue };
        if !pythons.iter().any(|known| known.runtime_name() == python.runtime_name()) {
            pythons.push(python);
        }
    }
    pythons
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// What the program prints to the question.
fn answer_of(program: &str) -> Result<Vec<u8>, String> {
    let mut child = Command::new(program)
        .args(["-I", "-S", "-c", QUESTION])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("it cannot be started ({error}); give a path or a program in PATH"))?;
    let (pid, started) = (rustix::process::Pid::from_child(&child), Instant::now());
    // The answer is far below what a pipe holds, so the program ends without being read from.
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    let has_ended = match pidfd {
        Ok(pidfd) => {
            let left = ANSWER_TIME_MAX.saturating_sub(started.elapsed());
            let timeout = rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: 0 };
            let mut waited = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut waited, Some(&timeout)).is_ok_and(|ready| ready > 0)
        }
        // A kernel without pidfds: wait without a limit.
        Err(_) => true,
    };
    if !has_ended {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("it gave no answer within {} seconds", ANSWER_TIME_MAX.as_secs()));
    }
    let output = child.wait_with_output().map_err(|error| format!("its answer cannot be read ({error})"))?;
    if !output.status.success() {
        return Err(format!("it ended with {} instead of saying what it is", output.status));
    }
    Ok(output.stdout)
}
