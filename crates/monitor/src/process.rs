//! What a monitor, or the zygote, does to its own process.

use std::error::Error;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// How much sooner than others the host's kernel ends a monitor when memory runs out (`proc_pid_oom_score_adj(5)`).
const OOM_SCORE_ADJUSTMENT: &str = "500";

/// Exit status after a failure of the monitor itself (`EX_SOFTWARE` of `sysexits.h`).
pub(crate) const STATUS_FAILED: i32 = 70;

/// Moves a socket away from the standard streams, and puts `/dev/null` where the input was: whatever else a child does
/// with its standard input, the socket is not it.
pub(crate) fn take_from_stdin(socket: OwnedFd) -> rustix::io::Result<OwnedFd> {
    let moved = rustix::io::fcntl_dupfd_cloexec(&socket, 3)?;
    drop(socket);
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(nothing.as_fd())?;
    Ok(moved)
}

/// Allows as many open files as the host does.
pub(crate) fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// Gives up what a monitor never needs. To be called before the process starts threads. A step that the host refuses is
/// reported and left out.
pub(crate) fn harden() {
    let attempt = |step: &str, result: rustix::io::Result<()>| {
        if let Err(error) = result {
            tracing::warn!(step, %error, "a hardening step of the monitor is not possible here");
        }
    };
    // Before the process becomes non-dumpable, which takes its /proc files away from an ordinary user.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT) {
        tracing::warn!(%error, "could not make the monitor end before others when memory runs out");
    }
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    attempt("no core dumps", rustix::process::setrlimit(Resource::Core, no_core));
    attempt("non-dumpable", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
    attempt("no new privileges", rustix::thread::set_no_new_privs(true));
    attempt("name", rustix::thread::set_name(c"calypte-monitor"));
}

/// Starts a thread. Without threads there is no monitor, so a refusal is a panic, which the worker is told about.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    thread.expect("a monitor's few threads can be started");
}

/// An error with its causes, as one line.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Writes an error to the standard error stream, for the case that nobody else can be told.
pub(crate) fn report(error: &dyn Error) {
    let line = format!("calypte: {}\n", describe(error));
    // There is nothing left to do if this fails.
    drop(std::io::stderr().write_all(line.as_bytes()));
}
