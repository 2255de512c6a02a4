//! Waiting for children: `wait4(2)`, `waitid(2)`.

use std::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use crate::call::Call;
use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::lifecycle::{CODE_CONTINUED, CODE_EXITED, CODE_KILLED, CODE_STOPPED};
use crate::outcome::{Stop, SysResult, Wait, WaitKey};
use crate::process::{Ending, JobChange, Life, Pid, Process, Usage};
use crate::signal::Signal;
use crate::sys::entry;
use crate::sys::system::usage_record;
use crate::table::SystemCall;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(61, "wait4", wait4).supports("`__WNOTHREAD` changes nothing"),
    entry(247, "waitid", waitid).supports("`__WNOTHREAD` changes nothing"),
];

const NO_HANG: u32 = 1;
const STOPPED: u32 = 2;
const EXITED: u32 = 4;
const CONTINUED: u32 = 8;
const NO_WAIT: u32 = 0x0100_0000;
const NO_THREAD: u32 = 0x2000_0000;
const ALL: u32 = 0x4000_0000;
const CLONE: u32 = 0x8000_0000;

/// Which children are meant.
enum Who {
    Any,
    Process(Pid),
    Group(Pid),
    Life(Arc<Life>),
}

/// What has happened to a child.
struct Report {
    pid: Pid,
    uid: u32,
    code: i32,
    /// As `waitid` gives it: a status or a signal's number.
    status: i32,
    /// As `wait4` gives it.
    wait_status: u32,
    usage: Usage,
}

impl Who {
    fn means(&self, process: &Process) -> bool {
        match self {
            Who::Any => true,
            Who::Process(pid) => process.pid == *pid,
            Who::Group(group) => process.group == *group,
            Who::Life(life) => life.pid() == Some(process.pid),
        }
    }
}

fn is_kind(process: &Process, options: u32) -> bool {
    let is_clone = process.exit_signal != Some(Signal::CHLD);
    options & ALL != 0 || is_clone == (options & CLONE != 0)
}

/// What a child has to tell, of what `options` ask for.
fn look(process: &Process, options: u32) -> Option<Report> {
    let report = |code, status: i32, wait_status, usage| Report {
        pid: process.pid,
        uid: process.credentials.uid,
        code,
        status,
        wait_status,
        usage,
    };
    if let Some(end) = process.end.filter(|end| end.is_zombie) {
        let wait_status = end.ending.wait_status();
        let (code, status) = match end.ending {
            Ending::Status(status) => (CODE_EXITED, status.into()),
            Ending::Signal(_) | Ending::OutOfMemory => (CODE_KILLED, (wait_status & 0x7f) as i32),
        };
        let mut usage = end.usage;
        usage.add(process.children_usage);
        return (options & EXITED != 0).then(|| report(code, status, wait_status, usage));
    }
    let usage = Usage { time: process.time, ..Usage::default() };
    match process.job.report {
        Some(JobChange::Stopped(signal)) if options & STOPPED != 0 => {
            let signal = u32::from(signal.number());
            Some(report(CODE_STOPPED, signal as i32, signal << 8 | 0x7f, usage))
        }
        Some(JobChange::Continued) if options & CONTINUED != 0 => {
            Some(report(CODE_CONTINUED, Signal::CONT.number().into(), 0xffff, usage))
        }
        _ => None,
    }
}

/// A report of a child; what it tells is told once unless `WNOWAIT` is among `options`. `ECHILD` if no child is meant.
fn take(kernel: &mut Kernel, parent: Pid, who: &Who, options: u32) -> Result<Option<Report>, Errno> {
    let is_child = |process: &&Process| process.parent == parent && who.means(process) && is_kind(process, options);
    let mut children = kernel.processes.values().filter(is_child).peekable();
    if children.peek().is_none() {
        return Err(Errno::ECHILD);
    }
    let Some(report) = children.find_map(|child| look(child, options)) else { return Ok(None) };
    if options & NO_WAIT != 0 {
        return Ok(Some(report));
    }
    if matches!(report.code, CODE_EXITED | CODE_KILLED) {
        kernel.process_mut(parent).children_usage.add(report.usage);
        kernel.forget_process(report.pid);
    } else {
        kernel.process_mut(report.pid).job.report = None;
    }
    Ok(Some(report))
}

/// A report, or nothing with `WNOHANG`, or a wait.
fn wait(call: &mut Call<'_>, who: &Who, options: u32) -> Result<Option<Report>, Stop> {
    if let Some(report) = take(call.kernel, call.pid, who, options)? {
        return Ok(Some(report));
    }
    if options & NO_HANG != 0 {
        return Ok(None);
    }
    if call.is_interrupted() {
        return Err(Errno::EINTR.into());
    }
    Err(Stop::Block(Wait::on(WaitKey::Child(call.pid))))
}

fn wait4(call: &mut Call<'_>) -> SysResult {
    let [_, status_address, options, usage_address, ..] = call.args;
    let options = options as u32;
    if options & !(NO_HANG | STOPPED | CONTINUED | NO_THREAD | ALL | CLONE) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let who = match call.int(0) {
        i32::MIN => return Err(Errno::ESRCH.into()),
        -1 => Who::Any,
        0 => Who::Group(call.process().group),
        group if group < 0 => Who::Group(group.unsigned_abs()),
        pid => Who::Process(pid.cast_unsigned()),
    };
    let Some(report) = wait(call, &who, options | EXITED)? else { return Ok(0) };
    if status_address != 0 {
        call.write(status_address, &report.wait_status)?;
    }
    if usage_address != 0 {
        call.write_bytes(usage_address, usage_record(report.usage).as_bytes())?;
    }
    Ok(report.pid.into())
}

fn waitid(call: &mut Call<'_>) -> SysResult {
    const P_ALL: i32 = 0;
    const P_PID: i32 = 1;
    const P_PGID: i32 = 2;
    const P_PIDFD: i32 = 3;
    let [_, _, info_address, options, usage_address, _] = call.args;
    let mut options = options as u32;
    let wanted = options & (EXITED | STOPPED | CONTINUED);
    if wanted == 0 || options & !(NO_HANG | NO_WAIT | NO_THREAD | ALL | CLONE | wanted) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = call.int(1);
    let positive = |id: i32| u32::try_from(id).ok().filter(|id| *id > 0).ok_or(Errno::EINVAL);
    let mut is_nonblocking = false;
    let who = match call.int(0) {
        P_ALL => Who::Any,
        P_PID => Who::Process(positive(id)?),
        P_PGID if id == 0 => Who::Group(call.process().group),
        P_PGID => Who::Group(positive(id)?),
        P_PIDFD if id < 0 => return Err(Errno::EINVAL.into()),
        P_PIDFD => {
            let (life, does_not_wait) = call.life_of(id)?;
            is_nonblocking = does_not_wait && options & NO_HANG == 0;
            options |= if does_not_wait { NO_HANG } else { 0 };
            Who::Life(life)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let report = wait(call, &who, options)?;
    if report.is_none() && is_nonblocking {
        return Err(Errno::EAGAIN.into());
    }
    if let Some(report) = &report
        && usage_address != 0
    {
        call.write_bytes(usage_address, usage_record(report.usage).as_bytes())?;
    }
    if info_address != 0 {
        write_info(call, info_address, report.as_ref())?;
    }
    Ok(0)
}

/// The fields of `siginfo_t` that `waitid` sets, and no others.
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
struct ChildInfo {
    signal: i32,
    errno: i32,
    code: i32,
}

fn write_info(call: &mut Call<'_>, address: u64, report: Option<&Report>) -> Result<(), Errno> {
    let head = report.map_or_else(ChildInfo::default, |report| ChildInfo {
        signal: Signal::CHLD.number().into(),
        errno: 0,
        code: report.code,
    });
    let fields = report.map_or([0; 3], |report| [report.pid, report.uid, report.status.cast_unsigned()]);
    call.write(address, &head)?;
    call.write(address.wrapping_add(16), &fields)
}
