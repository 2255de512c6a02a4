//! `membarrier(2)`: one thread's barrier stands for those of all.

use crate::call::Call;
use crate::errno::Errno;
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::sys::memory::memory;
use crate::table::SystemCall;

/// The family's calls.
pub const CALLS: &[SystemCall] =
    &[entry(324, "membarrier", membarrier).supports("all commands but those for restartable sequences (`EINVAL`)")];

const QUERY: i32 = 0;
const GLOBAL: i32 = 1;
const GLOBAL_EXPEDITED: i32 = 2;
const REGISTER_GLOBAL_EXPEDITED: i32 = 4;
const PRIVATE_EXPEDITED: i32 = 8;
const REGISTER_PRIVATE_EXPEDITED: i32 = 16;
const PRIVATE_EXPEDITED_SYNC_CORE: i32 = 32;
const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: i32 = 64;
const GET_REGISTRATIONS: i32 = 512;
const SUPPORTED: i32 = GLOBAL
    | GLOBAL_EXPEDITED
    | REGISTER_GLOBAL_EXPEDITED
    | PRIVATE_EXPEDITED
    | REGISTER_PRIVATE_EXPEDITED
    | PRIVATE_EXPEDITED_SYNC_CORE
    | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
    | GET_REGISTRATIONS;

fn membarrier(call: &mut Call<'_>) -> SysResult {
    let command = call.int(0);
    if call.args[1] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let has_barriers = call.kernel.scheduler.vcpu_count() == 1 || call.kernel.machine.synchronize();
    let registered = memory(call).0.barriers();
    match command {
        QUERY if has_barriers => Ok(SUPPORTED as u64),
        QUERY => Ok(0),
        _ if !has_barriers => Err(Errno::EINVAL.into()),
        GLOBAL | GLOBAL_EXPEDITED => Ok(0),
        REGISTER_GLOBAL_EXPEDITED | REGISTER_PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE => {
            *registered |= command.cast_unsigned();
            Ok(0)
        }
        GET_REGISTRATIONS => Ok(u64::from(*registered)),
        // The register command of each follows it.
        PRIVATE_EXPEDITED | PRIVATE_EXPEDITED_SYNC_CORE => {
            if *registered & (command.cast_unsigned() << 1) == 0 {
                Err(Errno::EPERM.into())
            } else {
                Ok(0)
            }
        }
        _ => Err(Errno::EINVAL.into()),
    }
}
