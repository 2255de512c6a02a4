//! What a monitor, or the zygote, does to its own process.

use std::error::Error;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit};

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

/// Makes this the standard error stream, in place of the zygote's: what a monitor says can be told from what others say.
pub(crate) fn speak_to(errors: OwnedFd) {
    if let Err(error) = rustix::stdio::dup2_stderr(errors) {
        tracing::warn!(%error, "a monitor speaks with its zygote's voice");
    }
}

/// Allows as many open files as the host does.
pub(crate) fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// Makes a forked process known as a monitor, to people and to the host's kernel. To be called before it is jailed, which
/// takes its /proc files away.
pub(crate) fn become_monitor() {
    if let Err(error) = rustix::thread::set_name(c"calypte-monitor") {
        tracing::warn!(%error, "could not name the monitor");
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT) {
        tracing::warn!(%error, "could not make the monitor end before others when memory runs out");
    }
}

/// Lets processes of others go first, for good: taking it back is a privilege. Threads that are started later inherit it.
pub(crate) fn be_nicer(by: u8) {
    if let Err(error) = rustix::process::nice(by.into()) {
        tracing::warn!(%error, by, "could not lower the monitor's priority");
    }
}

/// Writable private address space of this process, in bytes: what `RLIMIT_DATA` counts (`proc_pid_statm(5)`).
pub(crate) fn data_bytes() -> Option<u64> {
    const FIELD: usize = 5;
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(FIELD)?.parse().ok()?;
    pages.checked_mul(calypte_platform::PAGE_SIZE as u64)
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
