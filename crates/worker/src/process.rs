//! The process of one monitor, by pidfd: a pid that is used again can never be hit.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use crate::polled_fd::polled;

/// How long a killed process may take to be gone.
const KILL_WAIT_MAX: Duration = Duration::from_secs(30);

/// A process that is not necessarily a child of this one.
#[derive(Debug)]
pub(crate) struct MonitorProcess {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl MonitorProcess {
    /// The process with this pid, `None` if there is none any more.
    pub(crate) fn open(pid: i32) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(pid).filter(|pid| !pid.is_init()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the zygote named a pid that no monitor has"));
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Self { pid, pidfd: polled(pidfd, Interest::READABLE)? })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Its id, which is its own until [`MonitorProcess::end`] has returned.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Waits until the process is gone; kills it when that takes longer than `grace`.
    pub(crate) async fn end(self, grace: Duration) {
        if timeout(grace, self.pidfd.readable()).await.is_ok() {
            return;
        }
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(pid = self.pid.as_raw_pid(), ?error, "a monitor cannot be killed");
        }
        if timeout(KILL_WAIT_MAX, self.pidfd.readable()).await.is_err() {
            let pid = self.pid.as_raw_pid();
            tracing::error!(pid, "a killed monitor is still there: its memory is counted as free all the same");
        }
    }
}
