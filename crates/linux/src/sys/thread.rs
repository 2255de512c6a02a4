//! Threads: `exit`, and what a thread has of its own. They are made in [`crate::sys::clone`].

use crate::call::Call;
use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::outcome::{Stop, SysResult, WaitKey};
use crate::process::Ending;
use crate::sys::{entry, futex};
use crate::table::SystemCall;
use crate::waits::Tid;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(60, "exit", exit),
    entry(158, "arch_prctl", arch_prctl)
        .supports("ARCH_SET_FS, ARCH_GET_FS, ARCH_SET_GS, ARCH_GET_GS; others are EINVAL"),
    entry(186, "gettid", gettid),
    entry(218, "set_tid_address", set_tid_address),
];

/// A segment base must be an address of user code, or the processor would refuse it.
pub(super) fn checked_base(kernel: &Kernel, base: u64) -> Result<u64, Errno> {
    if base < kernel.machine.user_end() { Ok(base) } else { Err(Errno::EPERM) }
}

fn exit(call: &mut Call<'_>) -> SysResult {
    let status = call.args[0] as u8;
    if call.tid == call.pid {
        call.process().first_thread_status = Some(status);
    }
    if call.kernel.threads_of(call.pid).len() == 1 {
        let status = call.process().first_thread_status.unwrap_or(status);
        call.kernel.end_process(call.pid, Ending::Status(status));
    }
    call.kernel.end_thread(call.tid);
    Err(Stop::Replaced)
}

impl Kernel {
    /// Ends a thread that no virtual CPU runs, or the caller; with the last one the process.
    pub(crate) fn end_thread(&mut self, tid: Tid) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let pid = thread.pid;
        let (robust_list, clear_child_tid) = (thread.robust_list, thread.clear_child_tid);
        futex::leave_robust_list(self, pid, tid, robust_list);
        futex::clear_and_wake(self, pid, clear_child_tid);
        self.waits.forget(tid);
        self.scheduler.forget(tid);
        let name = self.threads.remove(&tid).map(|thread| thread.name);
        self.waits.notify_key(WaitKey::Exit(pid), usize::MAX);
        if !self.threads.values().any(|thread| thread.pid == pid) {
            self.finish_process(pid, name.unwrap_or_default());
        }
    }

    /// Ends every thread of a process but one. Those that a virtual CPU runs end when they are off it: whether there are
    /// none of them.
    pub(crate) fn end_other_threads(&mut self, survivor: Tid) -> bool {
        let mut is_alone = true;
        for tid in self.threads_of(self.threads[&survivor].pid) {
            if tid != survivor {
                is_alone &= self.end_or_mark(tid);
            }
        }
        is_alone
    }
}

fn gettid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.tid))
}

fn set_tid_address(call: &mut Call<'_>) -> SysResult {
    let address = call.args[0];
    call.thread().clear_child_tid = address;
    Ok(u64::from(call.tid))
}

fn arch_prctl(call: &mut Call<'_>) -> SysResult {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let [code, address, ..] = call.args;
    let registers = call.thread().registers;
    match code {
        SET_FS | SET_GS => {
            let base = checked_base(call.kernel, address)?;
            let registers = &mut call.thread().registers;
            if code == SET_FS {
                registers.fs_base = base;
            } else {
                registers.gs_base = base;
            }
        }
        GET_FS => call.write(address, &registers.fs_base)?,
        GET_GS => call.write(address, &registers.gs_base)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}
