//! Files of `/proc` about the whole guest.

use std::fmt::Write as _;

use calypte_platform::PAGE_SIZE;

use crate::errno::Errno;
use crate::exec::NS_PER_TICK;
use crate::file::inotify;
use crate::file::pipe::CAPACITY_MAX;
use crate::frames::Charge;
use crate::fs::proc::Proc;
use crate::kernel::Kernel;
use crate::limits::{FILES_MAX, THREADS_MAX};
use crate::net::interface;
use crate::random;
use crate::version::{KERNEL_RELEASE, KERNEL_VERSION};

/// A file.
pub(super) struct SystemFile {
    /// Path below `/proc`.
    pub(super) path: &'static str,
    /// Makes the content.
    pub(super) content: fn(&Kernel) -> Result<Vec<u8>, Errno>,
}

/// Most mapped areas, as `vm.max_map_count` shows it.
const MAP_COUNT_MAX: u64 = 65_530;
/// Most ids of processes and threads: `pid_max`.
const PID_MAX: u32 = 4_194_304;
/// Longest queue of connections that wait to be accepted.
const SOMAXCONN: u32 = 4096;

/// Every file, sorted by path.
pub(super) const FILES: &[SystemFile] = &[
    SystemFile { path: "cgroups", content: |_| text("#subsys_name\thierarchy\tnum_cgroups\tenabled\n") },
    SystemFile { path: "cmdline", content: |_| text("\n") },
    SystemFile { path: "cpuinfo", content: cpuinfo },
    SystemFile { path: "diskstats", content: |_| text("") },
    SystemFile { path: "filesystems", content: |_| text("nodev\tproc\nnodev\ttmpfs\nnodev\tsysfs\n\text4\n") },
    SystemFile { path: "loadavg", content: loadavg },
    SystemFile { path: "meminfo", content: meminfo },
    SystemFile { path: "net/dev", content: |kernel| text(interface::traffic_table(kernel)) },
    SystemFile { path: "net/if_inet6", content: |kernel| text(interface::address6_table(kernel)) },
    SystemFile { path: "net/route", content: |kernel| text(interface::route_table(kernel)) },
    SystemFile { path: "stat", content: stat },
    SystemFile { path: "swaps", content: |_| text("Filename\tType\tSize\tUsed\tPriority\n") },
    SystemFile { path: "sys/fs/file-max", content: |_| value(FILES_MAX) },
    SystemFile { path: "sys/fs/file-nr", content: |_| value(format!("0\t0\t{FILES_MAX}")) },
    SystemFile { path: "sys/fs/inotify/max_queued_events", content: |_| value(inotify::EVENTS_MAX) },
    SystemFile { path: "sys/fs/inotify/max_user_instances", content: |_| value(inotify::INSTANCES_MAX) },
    SystemFile { path: "sys/fs/inotify/max_user_watches", content: |_| value(inotify::WATCHES_MAX) },
    SystemFile { path: "sys/fs/nr_open", content: |_| value(FILES_MAX) },
    SystemFile { path: "sys/fs/pipe-max-size", content: |_| value(CAPACITY_MAX) },
    SystemFile { path: "sys/fs/protected_fifos", content: |_| value(0) },
    SystemFile { path: "sys/fs/protected_hardlinks", content: |_| value(1) },
    SystemFile { path: "sys/fs/protected_regular", content: |_| value(0) },
    SystemFile { path: "sys/fs/protected_symlinks", content: |_| value(0) },
    SystemFile { path: "sys/kernel/cap_last_cap", content: |_| value(40) },
    SystemFile { path: "sys/kernel/core_pattern", content: |_| value("core") },
    SystemFile { path: "sys/kernel/domainname", content: |_| value("(none)") },
    SystemFile { path: "sys/kernel/hostname", content: |kernel| value(&kernel.host_name) },
    SystemFile { path: "sys/kernel/ngroups_max", content: |_| value(crate::credentials::GROUPS_MAX) },
    SystemFile { path: "sys/kernel/osrelease", content: |_| value(KERNEL_RELEASE) },
    SystemFile { path: "sys/kernel/ostype", content: |_| value("Linux") },
    SystemFile { path: "sys/kernel/overflowgid", content: |_| value(65534) },
    SystemFile { path: "sys/kernel/overflowuid", content: |_| value(65534) },
    SystemFile { path: "sys/kernel/perf_event_paranoid", content: |_| value(3) },
    SystemFile { path: "sys/kernel/pid_max", content: |_| value(PID_MAX) },
    SystemFile { path: "sys/kernel/random/boot_id", content: |kernel| value(kernel.files.boot_id()) },
    SystemFile { path: "sys/kernel/random/entropy_avail", content: |_| value(256) },
    SystemFile { path: "sys/kernel/random/poolsize", content: |_| value(256) },
    SystemFile { path: "sys/kernel/random/uuid", content: |_| value(random_uuid()) },
    SystemFile { path: "sys/kernel/randomize_va_space", content: |_| value(2) },
    SystemFile { path: "sys/kernel/threads-max", content: |_| value(THREADS_MAX) },
    SystemFile { path: "sys/kernel/version", content: |_| value(KERNEL_VERSION) },
    SystemFile { path: "sys/net/core/somaxconn", content: |_| value(SOMAXCONN) },
    SystemFile { path: "sys/net/ipv4/ip_local_port_range", content: |_| value("32768\t60999") },
    SystemFile { path: "sys/net/ipv6/conf/all/disable_ipv6", content: |_| value(0) },
    SystemFile { path: "sys/vm/max_map_count", content: |_| value(MAP_COUNT_MAX) },
    SystemFile { path: "sys/vm/mmap_min_addr", content: |_| value(65536) },
    SystemFile { path: "sys/vm/overcommit_memory", content: |_| value(1) },
    SystemFile { path: "sys/vm/overcommit_ratio", content: |_| value(50) },
    SystemFile { path: "sys/vm/swappiness", content: |_| value(60) },
    SystemFile { path: "uptime", content: uptime },
    SystemFile {
        path: "version",
        content: |_| value(format!("Linux version {KERNEL_RELEASE} (calypte) {KERNEL_VERSION}")),
    },
    SystemFile { path: "vmstat", content: |_| text("pgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n") },
];

fn text(text: impl Into<String>) -> Result<Vec<u8>, Errno> {
    Ok(text.into().into_bytes())
}

fn value(value: impl std::fmt::Display) -> Result<Vec<u8>, Errno> {
    text(format!("{value}\n"))
}

/// A random UUID of version 4, as text.
pub(crate) fn random_uuid() -> String {
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn meminfo(kernel: &Kernel) -> Result<Vec<u8>, Errno> {
    let kib = |frames: u32| u64::from(frames) * (PAGE_SIZE as u64 / 1024);
    let total = kib(kernel.frames.limit(Charge::Memory));
    let used = kib(kernel.frames.used(Charge::Memory));
    let free = total.saturating_sub(used);
    let shared = kib(kernel.frames.used(Charge::Tmp));
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", shared),
        ("Slab", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
        ("VmallocTotal", 0),
        ("VmallocUsed", 0),
        ("Hugepagesize", 2048),
    ];
    let line = |(name, kib): (&str, u64)| format!("{:<16}{kib:>8} kB\n", format!("{name}:"));
    text(rows.into_iter().map(line).collect::<String>())
}

fn cpuinfo(kernel: &Kernel) -> Result<Vec<u8>, Errno> {
    let count = kernel.files.vcpu_count();
    text((0..count).map(|index| kernel.files.processor().section(index, count)).collect::<String>())
}

/// Hundredths of a second that all processes have run.
fn cpu_ticks(kernel: &Kernel) -> u64 {
    kernel.statistics.guest_ns / NS_PER_TICK
}

fn stat(kernel: &Kernel) -> Result<Vec<u8>, Errno> {
    let user = cpu_ticks(kernel);
    let count = kernel.files.vcpu_count();
    let idle = (kernel.clock.uptime_ns() / NS_PER_TICK * u64::from(count)).saturating_sub(user);
    let mut content = format!("cpu  {user} 0 0 {idle} 0 0 0 0 0 0\n");
    for index in 0..count {
        let share = u64::from(count);
        let _ = writeln!(content, "cpu{index} {} 0 0 {} 0 0 0 0 0 0", user / share, idle / share);
    }
    let _ = write!(
        content,
        "intr 0\nctxt 0\nbtime {}\nprocesses {}\nprocs_running 1\nprocs_blocked 0\n",
        kernel.files.started().seconds,
        kernel.processes.len(),
    );
    text(content)
}

fn loadavg(kernel: &Kernel) -> Result<Vec<u8>, Errno> {
    let last = kernel.threads.keys().next_back().copied().unwrap_or(1);
    text(format!("0.00 0.00 0.00 1/{} {last}\n", kernel.threads.len()))
}

fn uptime(kernel: &Kernel) -> Result<Vec<u8>, Errno> {
    let hundredths = kernel.clock.uptime_ns() / 10_000_000;
    let idle = (hundredths * u64::from(kernel.files.vcpu_count())).saturating_sub(cpu_ticks(kernel));
    let shown = |hundredths: u64| format!("{}.{:02}", hundredths / 100, hundredths % 100);
    text(format!("{} {}\n", shown(hundredths), shown(idle)))
}

/// Looks a name up below a directory of the table.
pub(super) fn lookup(directory: &str, name: &[u8]) -> Option<Proc> {
    children(directory).into_iter().find(|child| child.parent().is_some_and(|(_, found)| found == name))
}

/// The files and directories in a directory of the table, which is the empty path for `/proc` itself.
pub(super) fn children(directory: &str) -> Vec<Proc> {
    let mut children = Vec::new();
    for (index, file) in FILES.iter().enumerate() {
        let Some(rest) = below(directory, file.path) else { continue };
        let child = match rest.find('/') {
            None => Proc::System(index),
            Some(end) => Proc::SystemDirectory(&file.path[..file.path.len() - rest.len() + end]),
        };
        if children.last() != Some(&child) {
            children.push(child);
        }
    }
    children
}

fn below<'p>(directory: &str, path: &'p str) -> Option<&'p str> {
    if directory.is_empty() {
        return Some(path);
    }
    path.strip_prefix(directory)?.strip_prefix('/')
}

/// The directory of a path of the table, and the name in it.
pub(super) fn parent(path: &'static str) -> (Proc, String) {
    match path.rsplit_once('/') {
        Some((directory, name)) => (Proc::SystemDirectory(directory), name.to_owned()),
        None => (Proc::Root, path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_forms_a_tree() {
        assert!(FILES.is_sorted_by_key(|file| file.path));
        for (index, file) in FILES.iter().enumerate() {
            let mut at = None;
            for name in file.path.split('/') {
                let directory = match at {
                    Some(Proc::SystemDirectory(path)) => path,
                    _ => "",
                };
                at = lookup(directory, name.as_bytes());
            }
            assert_eq!(at, Some(Proc::System(index)), "{}", file.path);
        }
    }

    #[test]
    fn random_uuids_are_of_version_4() {
        let uuid = random_uuid();
        assert_eq!((uuid.len(), &uuid[14..15], &uuid[8..9]), (36, "4", "-"));
        assert_ne!(uuid, random_uuid());
    }
}
