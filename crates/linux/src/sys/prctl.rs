//! `prctl(2)`: what a process or thread wants for itself.

use crate::call::Call;
use crate::errno::Errno;
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;
use crate::thread::NAME_BYTES;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[entry(157, "prctl", prctl).supports(
    "SET_ and GET_ of NAME, PDEATHSIG, DUMPABLE, KEEPCAPS, NO_NEW_PRIVS, CHILD_SUBREAPER, TIMERSLACK (remembered), \
     THP_DISABLE (remembered), TIMING (statistical); GET_TID_ADDRESS; there are no capabilities and no filters: CAPBSET_READ, \
     GET_SECUREBITS, GET_SECCOMP and CAP_AMBIENT say so, CAPBSET_DROP and SET_SECUREBITS are EPERM; SET_PTRACER has no effect; \
     SET_SECCOMP, SET_MM, SET_VMA and others are EINVAL",
)];

const SET_PARENT_DEATH_SIGNAL: i32 = 1;
const GET_PARENT_DEATH_SIGNAL: i32 = 2;
const GET_DUMPABLE: i32 = 3;
const SET_DUMPABLE: i32 = 4;
const GET_KEEP_CAPABILITIES: i32 = 7;
const SET_KEEP_CAPABILITIES: i32 = 8;
const GET_TIMING: i32 = 13;
const SET_TIMING: i32 = 14;
const SET_NAME: i32 = 15;
const GET_NAME: i32 = 16;
const GET_SECCOMP: i32 = 21;
const CAPABILITY_BOUND_READ: i32 = 23;
const CAPABILITY_BOUND_DROP: i32 = 24;
const GET_SECURE_BITS: i32 = 27;
const SET_SECURE_BITS: i32 = 28;
const SET_TIMER_SLACK: i32 = 29;
const GET_TIMER_SLACK: i32 = 30;
const SET_SUBREAPER: i32 = 36;
const GET_SUBREAPER: i32 = 37;
const SET_NO_NEW_PRIVILEGES: i32 = 38;
const GET_NO_NEW_PRIVILEGES: i32 = 39;
const GET_TID_ADDRESS: i32 = 40;
const SET_HUGE_PAGES_DISABLED: i32 = 41;
const GET_HUGE_PAGES_DISABLED: i32 = 42;
const AMBIENT_CAPABILITIES: i32 = 47;
/// `PR_SET_PTRACER`: whom a debugger may be; there is none.
const SET_TRACER: i32 = 0x5961_6d61;

/// `PR_TIMING_STATISTICAL`, the one that Linux has.
const TIMING_STATISTICAL: u64 = 0;
const TIMER_SLACK_NS: u64 = 50_000;
/// Highest number of a capability (`CAP_CHECKPOINT_RESTORE`).
const CAPABILITY_MAX: u64 = 40;

fn prctl(call: &mut Call<'_>) -> SysResult {
    let [_, value, rest @ ..] = call.args;
    let is_alone = rest[..3] == [0; 3];
    let is_bare = value == 0 && is_alone;
    match call.int(0) {
        SET_NAME => set_name(call, value)?,
        GET_NAME => {
            let name = call.thread().name;
            call.write_bytes(value, &name)?;
        }
        SET_PARENT_DEATH_SIGNAL if value <= 64 => call.process().settings.parent_death_signal = value as i32,
        GET_PARENT_DEATH_SIGNAL => {
            let signal = call.process().settings.parent_death_signal;
            call.write(value, &signal)?;
        }
        GET_DUMPABLE => return Ok(u64::from(call.process().settings.is_dumpable)),
        SET_DUMPABLE if value <= 1 => call.process().settings.is_dumpable = value == 1,
        GET_KEEP_CAPABILITIES => return Ok(u64::from(call.process().settings.keeps_capabilities)),
        SET_KEEP_CAPABILITIES if value <= 1 => call.process().settings.keeps_capabilities = value == 1,
        GET_TIMING => return Ok(TIMING_STATISTICAL),
        SET_TIMING if value == TIMING_STATISTICAL => {}
        SET_TIMER_SLACK => {
            call.process().settings.timer_slack_ns = if value == 0 { TIMER_SLACK_NS } else { value };
        }
        GET_TIMER_SLACK => return Ok(call.process().settings.timer_slack_ns),
        SET_SUBREAPER => call.process().settings.is_subreaper = value != 0,
        GET_SUBREAPER => {
            let is_subreaper = i32::from(call.process().settings.is_subreaper);
            call.write(value, &is_subreaper)?;
        }
        SET_NO_NEW_PRIVILEGES if value == 1 && is_alone => call.process().settings.has_no_new_privileges = true,
        GET_NO_NEW_PRIVILEGES if is_bare => return Ok(u64::from(call.process().settings.has_no_new_privileges)),
        GET_TID_ADDRESS => {
            let address = call.thread().clear_child_tid;
            call.write(value, &address)?;
        }
        SET_HUGE_PAGES_DISABLED if is_alone => call.process().settings.has_huge_pages_disabled = value != 0,
        GET_HUGE_PAGES_DISABLED if is_bare => return Ok(u64::from(call.process().settings.has_huge_pages_disabled)),
        SET_TRACER | GET_SECCOMP | GET_SECURE_BITS => {}
        CAPABILITY_BOUND_READ if value <= CAPABILITY_MAX => {}
        CAPABILITY_BOUND_DROP | SET_SECURE_BITS => return Err(Errno::EPERM.into()),
        AMBIENT_CAPABILITIES => ambient(value, rest[0])?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

fn set_name(call: &mut Call<'_>, address: u64) -> Result<(), Errno> {
    let name = match call.kernel.read_user_string(call.pid, address, NAME_BYTES)? {
        Some(name) => name,
        None => call.read_bytes(address, NAME_BYTES - 1)?,
    };
    call.thread().set_name(&name);
    Ok(())
}

/// `PR_CAP_AMBIENT`: no capability is in the set, and none can be put there.
fn ambient(operation: u64, capability: u64) -> Result<(), Errno> {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    match operation {
        CLEAR_ALL => Ok(()),
        IS_SET | LOWER if capability <= CAPABILITY_MAX => Ok(()),
        RAISE if capability <= CAPABILITY_MAX => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}
