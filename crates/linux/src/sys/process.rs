//! Processes: who they are, and their end. They are made in [`crate::sys::clone`] and waited for in [`crate::sys::wait`].

use crate::call::Call;
use crate::outcome::{Stop, SysResult};
use crate::process::Ending;
use crate::sys::entry;
use crate::table::SystemCall;

/// The family's calls.
pub const CALLS: &[SystemCall] =
    &[entry(39, "getpid", getpid), entry(110, "getppid", getppid), entry(231, "exit_group", exit_group)];

fn getpid(call: &mut Call<'_>) -> SysResult {
    Ok(call.pid.into())
}

fn getppid(call: &mut Call<'_>) -> SysResult {
    Ok(call.process().parent.into())
}

fn exit_group(call: &mut Call<'_>) -> SysResult {
    let status = call.args[0] as u8;
    call.kernel.end_process(call.pid, Ending::Status(status));
    Err(Stop::Replaced)
}
