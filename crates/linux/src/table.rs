//! Every system call: number, name, handler. Dispatch, the log of unknown calls and the documentation derive from it.

use std::sync::LazyLock;

use crate::call::Call;
use crate::outcome::SysResult;
use crate::sys;

/// One system call.
#[derive(Clone, Copy)]
pub struct SystemCall {
    /// Number in `rax` (`arch/x86/entry/syscalls/syscall_64.tbl`).
    pub number: u16,
    /// Name as in section 2 of the manual.
    pub name: &'static str,
    /// Serves it.
    pub handler: fn(&mut Call<'_>) -> SysResult,
}

/// Numbers of system calls are below this.
pub const NUMBERS: usize = 512;

/// The families, each with its calls. Adding a family is a file under [`sys`] and a line here.
static FAMILIES: &[&[SystemCall]] = &[
    sys::attribute::CALLS,
    sys::descriptor::CALLS,
    sys::directory::CALLS,
    sys::epoll::CALLS,
    sys::futex::CALLS,
    sys::identity::CALLS,
    sys::ioctl::CALLS,
    sys::link::CALLS,
    sys::memory::CALLS,
    sys::message::CALLS,
    sys::open::CALLS,
    sys::pipe::CALLS,
    sys::poll::CALLS,
    sys::process::CALLS,
    sys::read_write::CALLS,
    sys::schedule::CALLS,
    sys::signal::CALLS,
    sys::socket::CALLS,
    sys::stat::CALLS,
    sys::system::CALLS,
    sys::thread::CALLS,
    sys::time::CALLS,
    sys::timer::CALLS,
    sys::timer_file::CALLS,
];

static BY_NUMBER: LazyLock<[Option<SystemCall>; NUMBERS]> = LazyLock::new(|| {
    let mut table = [None; NUMBERS];
    for call in all() {
        table[usize::from(call.number)] = Some(*call);
    }
    table
});

/// All system calls, family by family.
pub fn all() -> impl Iterator<Item = &'static SystemCall> {
    FAMILIES.iter().copied().flatten()
}

/// The call with a number.
pub fn find(number: u64) -> Option<SystemCall> {
    usize::try_from(number).ok().and_then(|number| BY_NUMBER.get(number).copied()).flatten()
}

/// The name of a call that programs are known to try and that is not offered, for the log.
pub fn name_of_missing(number: u64) -> &'static str {
    match number {
        57 => "fork",
        58 => "vfork",
        101 => "ptrace",
        165 => "mount",
        206 => "io_setup",
        237 => "mbind",
        238 => "set_mempolicy",
        239 => "get_mempolicy",
        248 => "add_key",
        250 => "keyctl",
        253 => "inotify_init",
        272 => "unshare",
        294 => "inotify_init1",
        298 => "perf_event_open",
        300 => "fanotify_init",
        308 => "setns",
        310 => "process_vm_readv",
        321 => "bpf",
        323 => "userfaultfd",
        329 => "pkey_mprotect",
        330 => "pkey_alloc",
        334 => "rseq",
        425 => "io_uring_setup",
        434 => "pidfd_open",
        444 => "landlock_create_ruleset",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_listed_once_and_fits() {
        let mut seen = std::collections::BTreeMap::new();
        for call in all() {
            assert!(usize::from(call.number) < NUMBERS, "{}", call.name);
            if let Some(other) = seen.insert(call.number, call.name) {
                panic!("{} and {other} are both number {}", call.name, call.number);
            }
        }
    }
}
