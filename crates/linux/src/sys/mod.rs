//! The system calls, a file for each family. A family's `CALLS` is its part of [`crate::table`].

pub mod futex;
pub mod identity;
pub mod memory;
pub mod process;
pub mod schedule;
pub mod signal;
pub mod system;
pub mod thread;
pub mod time;
pub mod timer;

use crate::call::Call;
use crate::outcome::SysResult;
use crate::table::SystemCall;

/// An entry of a family's list.
const fn entry(number: u16, name: &'static str, handler: fn(&mut Call<'_>) -> SysResult) -> SystemCall {
    SystemCall { number, name, handler }
}
