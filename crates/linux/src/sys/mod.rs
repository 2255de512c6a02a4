//! The system calls, a file for each family. A family's `CALLS` is its part of [`crate::table`].

pub mod access;
pub mod advice;
pub mod attribute;
pub mod barrier;
pub mod clone;
pub mod descriptor;
pub mod directory;
pub mod epoll;
pub mod exec;
pub mod futex;
mod futex_lock;
pub mod group;
pub mod identity;
pub mod inotify;
mod interface;
pub mod ioctl;
pub mod link;
pub mod lock;
pub mod memory;
pub mod message;
pub mod open;
pub mod peer;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod prctl;
pub mod process;
pub mod read_write;
pub mod schedule;
pub mod signal;
pub mod signal_file;
pub mod socket;
pub mod splice;
pub mod stat;
pub mod system;
pub mod terminal;
pub mod thread;
pub mod time;
pub mod timer;
pub mod timer_file;
pub mod vector;
pub mod wait;
pub mod xattr;

use crate::call::Call;
use crate::outcome::SysResult;
use crate::table::SystemCall;

/// An entry of a family's list.
const fn entry(number: u16, name: &'static str, handler: fn(&mut Call<'_>) -> SysResult) -> SystemCall {
    SystemCall { number, name, handler, supports: "" }
}
