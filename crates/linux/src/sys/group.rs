//! Process groups and sessions (`credentials(7)`).

use crate::call::Call;
use crate::errno::Errno;
use crate::outcome::SysResult;
use crate::process::{Pid, Process};
use crate::sys::entry;
use crate::table::SystemCall;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(109, "setpgid", setpgid),
    entry(111, "getpgrp", getpgrp),
    entry(112, "setsid", setsid),
    entry(121, "getpgid", getpgid),
    entry(124, "getsid", getsid),
];

/// The process that an argument names, 0 for the caller. A thread's id names its process.
fn named<'c>(call: &'c Call<'_>, index: usize) -> Result<&'c Process, Errno> {
    let pid = match call.int(index) {
        0 => call.pid,
        other => u32::try_from(other).map_err(|_| Errno::ESRCH)?,
    };
    let of_thread = || call.kernel.processes.get(&call.kernel.threads.get(&pid)?.pid);
    call.kernel.processes.get(&pid).or_else(of_thread).ok_or(Errno::ESRCH)
}

fn getpgrp(call: &mut Call<'_>) -> SysResult {
    Ok(call.process().group.into())
}

fn getpgid(call: &mut Call<'_>) -> SysResult {
    Ok(named(call, 0)?.group.into())
}

fn getsid(call: &mut Call<'_>) -> SysResult {
    Ok(named(call, 0)?.session.into())
}

fn setpgid(call: &mut Call<'_>) -> SysResult {
    let group = match (call.int(0), call.int(1)) {
        (pid, 0) => pid, // The call itself takes 0 for the caller once more below.
        (_, group) => group,
    };
    let group = Pid::try_from(group).map_err(|_| Errno::EINVAL)?;
    let own_session = call.process().session;
    let pid = match call.int(0) {
        0 => call.pid,
        other => Pid::try_from(other).map_err(|_| Errno::ESRCH)?,
    };
    let is_own = pid == call.pid;
    let process = call.kernel.processes.get(&pid).filter(|process| is_own || process.parent == call.pid);
    let process = process.ok_or(Errno::ESRCH)?;
    if process.session != own_session || process.session == pid {
        return Err(Errno::EPERM.into());
    }
    if !is_own && process.has_called_exec {
        return Err(Errno::EACCES.into());
    }
    let group = if group == 0 { pid } else { group };
    let is_member = |process: &Process| process.group == group && process.session == own_session;
    if group != pid && !call.kernel.processes.values().any(is_member) {
        return Err(Errno::EPERM.into());
    }
    call.kernel.process_mut(pid).group = group;
    Ok(0)
}

fn setsid(call: &mut Call<'_>) -> SysResult {
    let pid = call.pid;
    if call.kernel.processes.values().any(|process| process.group == pid) {
        return Err(Errno::EPERM.into());
    }
    let process = call.process();
    process.session = pid;
    process.group = pid;
    process.terminal = None;
    Ok(pid.into())
}
