//! Descriptors for processes: `pidfd_open(2)`, `pidfd_send_signal(2)`, `pidfd_getfd(2)`.

use std::sync::Arc;

use crate::call::Call;
use crate::errno::Errno;
use crate::file::{Body, pidfd};
use crate::fs::node::Node;
use crate::fs::proc::{Owner, Proc};
use crate::outcome::SysResult;
use crate::process::{Life, Pid};
use crate::signal::Info;
use crate::sys::entry;
use crate::sys::signal::{check_permission, optional_signal, read_info};
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(424, "pidfd_send_signal", pidfd_send_signal).supports("descriptors of `/proc/<pid>` directories too"),
    entry(434, "pidfd_open", pidfd_open).supports("`PIDFD_NONBLOCK`"),
    entry(438, "pidfd_getfd", pidfd_getfd),
];

impl Call<'_> {
    /// The process behind a descriptor. `EBADF` if it is for something else.
    pub(super) fn life_of(&mut self, fd: i32) -> Result<(Arc<Life>, bool), Errno> {
        let file = self.file_of(fd)?;
        match &file.body {
            Body::Process(process) => Ok((process.life().clone(), file.is_nonblocking())),
            _ => Err(Errno::EBADF),
        }
    }

    /// The process that a signal through a descriptor is for, also one of a directory `/proc/<pid>`; `None` once it is gone.
    fn target_of(&mut self, fd: i32) -> Result<Option<Pid>, Errno> {
        let file = self.file_of(fd)?;
        if let Some(Node::Proc(Proc::Process(Owner { pid, tid: None }))) = file.location.as_ref().map(|at| &at.node)
            && !file.is_path_only()
        {
            return Ok(Some(*pid).filter(|pid| self.kernel.processes.contains_key(pid)));
        }
        Ok(self.life_of(fd)?.0.pid())
    }

    /// A process that has not ended and that the caller may look into (`ptrace(2)`, "access mode checking").
    pub(super) fn accessible(&mut self, pid: Pid) -> Result<(), Errno> {
        let caller = self.process().credentials.clone();
        let process = self.kernel.processes.get(&pid).filter(|process| !process.is_zombie()).ok_or(Errno::ESRCH)?;
        let other = &process.credentials;
        let is_same_user = [other.uid, other.uid_effective, other.uid_saved].iter().all(|uid| *uid == caller.uid);
        let is_same_group = [other.gid, other.gid_effective, other.gid_saved].iter().all(|gid| *gid == caller.gid);
        let is_open = is_same_user && is_same_group && process.settings.is_dumpable;
        if pid == self.pid || caller.uid_effective == 0 || is_open { Ok(()) } else { Err(Errno::EPERM) }
    }
}

fn pidfd_open(call: &mut Call<'_>) -> SysResult {
    let flags = call.int(1);
    if flags & !libc::O_NONBLOCK != 0 || call.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let pid = call.int(0).cast_unsigned();
    let notifier = call.kernel.waits.notifier().clone();
    let Some(process) = call.kernel.processes.get_mut(&pid) else {
        // Only whole processes have descriptors.
        let is_thread = call.kernel.threads.contains_key(&pid);
        return Err(if is_thread { Errno::EINVAL } else { Errno::ESRCH }.into());
    };
    let file = pidfd::open(process.life(&notifier), flags as u32);
    Ok(call.install(file, true)? as u64)
}

fn pidfd_send_signal(call: &mut Call<'_>) -> SysResult {
    let [_, _, info_address, flags, ..] = call.args;
    if flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let pid = call.target_of(call.int(0))?;
    let signal = optional_signal(call.int(1))?;
    let pid = pid.ok_or(Errno::ESRCH)?;
    let info = match (signal, info_address) {
        (Some(signal), 0) => Some(Info::from_process(signal, call.pid, false).by_user(call.process().credentials.uid)),
        (None, 0) => None,
        (signal, address) => read_info(call, address, signal, pid == call.pid)?,
    };
    check_permission(call, pid, signal)?;
    if let Some(info) = info {
        call.kernel.signal_process(pid, info)?;
    }
    Ok(0)
}

fn pidfd_getfd(call: &mut Call<'_>) -> SysResult {
    if call.args[2] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (life, _) = call.life_of(call.int(0))?;
    let pid = life.pid().ok_or(Errno::ESRCH)?;
    call.accessible(pid)?;
    let fd = call.int(1);
    let file = call.kernel.processes.get(&pid).ok_or(Errno::ESRCH)?.files.get(fd)?;
    Ok(call.install(file, true)? as u64)
}
