//! Every system call: number, name, handler, what of it is supported. Dispatch, the log of unknown calls and the
//! documentation (`docs/system-calls.md`) derive from it.

pub mod refused;

use std::fmt::Write;
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
    /// What of it is supported, and what the rest gives, for the documentation. Empty: all of it, as the manual page says.
    pub supports: &'static str,
}

impl SystemCall {
    /// Says what of the call is supported: flags, commands, and the errno of the others. Markdown without `|` and line breaks.
    pub const fn supports(self, what: &'static str) -> Self {
        Self { supports: what, ..self }
    }
}

/// Numbers of system calls are below this.
pub const NUMBERS: usize = 512;

/// The families, each with its calls. Adding a family is a file under [`sys`] and a line here.
static FAMILIES: &[&[SystemCall]] = &[
    sys::advice::CALLS,
    sys::attribute::CALLS,
    sys::barrier::CALLS,
    sys::clone::CALLS,
    sys::descriptor::CALLS,
    sys::directory::CALLS,
    sys::epoll::CALLS,
    sys::exec::CALLS,
    sys::futex::CALLS,
    sys::group::CALLS,
    sys::identity::CALLS,
    sys::inotify::CALLS,
    sys::ioctl::CALLS,
    sys::link::CALLS,
    sys::lock::CALLS,
    sys::memory::CALLS,
    sys::message::CALLS,
    sys::open::CALLS,
    sys::peer::CALLS,
    sys::pidfd::CALLS,
    sys::pipe::CALLS,
    sys::poll::CALLS,
    sys::prctl::CALLS,
    sys::process::CALLS,
    sys::read_write::CALLS,
    sys::schedule::CALLS,
    sys::signal::CALLS,
    sys::signal_file::CALLS,
    sys::socket::CALLS,
    sys::splice::CALLS,
    sys::stat::CALLS,
    sys::system::CALLS,
    sys::thread::CALLS,
    sys::time::CALLS,
    sys::timer::CALLS,
    sys::timer_file::CALLS,
    sys::wait::CALLS,
    sys::xattr::CALLS,
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

/// The documentation's table of all system calls, in Markdown.
pub fn document() -> String {
    let mut calls: Vec<&SystemCall> = all().collect();
    calls.sort_by_key(|call| call.number);
    let mut text = String::from(DOCUMENT_HEAD);
    for call in &calls {
        let supports = if call.supports.is_empty() { "all of it" } else { call.supports };
        let _ = writeln!(text, "| {} | `{}` | {supports} |", call.number, call.name);
    }
    text.push_str(REFUSED_HEAD);
    let mut rows: Vec<(u16, &str, &refused::Group)> = refused::GROUPS
        .iter()
        .flat_map(|group| group.calls.iter().map(move |(number, name)| (*number, *name, group)))
        .collect();
    rows.sort_by_key(|(number, ..)| *number);
    for (number, name, group) in rows {
        let _ = writeln!(text, "| {number} | `{name}` | `{}` | {} |", group.errno.name(), group.why);
    }
    text
}

const DOCUMENT_HEAD: &str = "\
# System calls

Made from the table in `crates/linux/src/table.rs` by `cargo xtask docs`; a test holds it to the code.

\"All of it\" means what the manual page says for x86-64 Linux 6.1. Where the last column names flags or commands, the
others give `EINVAL`, or what it says; what Linux ignores is ignored. A bound that it names ends a call early, as a signal
would, or gives the errno that stands with it.

For all calls: memory of the program that is not there gives `EFAULT`. File systems of the host are read-only: what would
change them gives `EROFS`. No process has capabilities, but user 0 may do with files and processes of the guest what root
may.

## Served

| number | name | what is supported |
|---|---|---|
";

const REFUSED_HEAD: &str = "
## Not served

| number | name | gives | why |
|---|---|---|---|
";

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
        for (number, name) in refused::GROUPS.iter().flat_map(|group| group.calls) {
            if let Some(other) = seen.insert(*number, name) {
                panic!("{name} is refused, and number {number} is served as {other}");
            }
        }
        // `x86_64` of Linux 6.1: 0 to 334 and 424 to 450.
        let missing: Vec<u16> = (0..=334).chain(424..=450).filter(|number| !seen.contains_key(number)).collect();
        assert!(missing.is_empty(), "neither served nor refused: {missing:?}");
    }

    #[test]
    fn the_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/system-calls.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == document(), "docs/system-calls.md is out of date: run `cargo xtask docs`");
    }

    #[test]
    fn the_document_has_a_row_for_every_call() {
        let rows = document().lines().filter(|line| line.starts_with("| ") && !line.starts_with("| number")).count();
        assert_eq!(rows, all().count() + refused::GROUPS.iter().map(|group| group.calls.len()).sum::<usize>());
        for call in all() {
            assert!(!call.supports.contains(['|', '\n']), "{}: the text would break the table", call.name);
        }
    }
}
