//! Files of `/proc/<pid>`, and of `/proc/<pid>/task/<tid>`.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

use calypte_platform::{PAGE_SIZE, Protection};

use crate::errno::Errno;
use crate::exec::NS_PER_TICK;
use crate::fs::devpts::SLAVE_MAJOR;
use crate::fs::metadata::{PERMISSION_MASK, device_number};
use crate::fs::node::Target;
use crate::fs::proc::{Owner, Proc};
use crate::fs::walk::{Follow, Walker};
use crate::kernel::Kernel;
use crate::limits::{Resource, UNLIMITED};
use crate::process::{Process, ProcessorTime};
use crate::signal::{HANDLER_IGNORE, QUEUED_MAX, SIGNAL_MAX, Signal, SignalSet};
use crate::thread::{Thread, ThreadState};

/// A file.
pub(super) struct ProcessFile {
    /// Its name.
    pub(super) name: &'static str,
    /// Makes the content.
    pub(super) content: fn(&Kernel, Owner) -> Result<Vec<u8>, Errno>,
    /// Whether writes are accepted.
    pub(super) is_writable: bool,
}

const fn readable(name: &'static str, content: fn(&Kernel, Owner) -> Result<Vec<u8>, Errno>) -> ProcessFile {
    ProcessFile { name, content, is_writable: false }
}

const fn writable(name: &'static str, content: fn(&Kernel, Owner) -> Result<Vec<u8>, Errno>) -> ProcessFile {
    ProcessFile { name, content, is_writable: true }
}

/// The one file that only a thread's directory has.
const CHILDREN: &str = "children";

/// Every file, sorted by name.
pub(super) const FILES: &[ProcessFile] = &[
    readable("auxv", |kernel, owner| Ok(owner.process(kernel)?.program.auxiliary.clone())),
    readable("cgroup", |_, _| Ok(b"0::/\n".to_vec())),
    readable(CHILDREN, children_of),
    readable("cmdline", |kernel, owner| Ok(owner.process(kernel)?.program.arguments.clone())),
    readable("comm", comm),
    readable("environ", |kernel, owner| Ok(owner.process(kernel)?.program.environment.clone())),
    readable("io", |_, _| Ok(b"rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\n".to_vec())),
    readable("limits", limits),
    readable("maps", maps),
    readable("mountinfo", mountinfo),
    readable("mounts", mounts),
    readable("oom_score", |_, _| Ok(b"0\n".to_vec())),
    writable("oom_score_adj", |_, _| Ok(b"0\n".to_vec())),
    readable("personality", |kernel, owner| {
        Ok(format!("{:08x}\n", owner.process(kernel)?.settings.personality).into_bytes())
    }),
    readable("smaps_rollup", smaps_rollup),
    readable("stat", stat),
    readable("statm", statm),
    readable("status", status),
];

/// Links to files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    /// The working directory.
    Cwd,
    /// The executable file.
    Exe,
    /// `/`.
    Root,
}

impl Link {
    const ALL: [Link; 3] = [Link::Cwd, Link::Exe, Link::Root];

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Link::Cwd => "cwd",
            Link::Exe => "exe",
            Link::Root => "root",
        }
    }
}

/// Everything in a process's directory.
pub(super) fn children(owner: Owner) -> Vec<Proc> {
    let is_here = |index: &usize| FILES[*index].name != CHILDREN || owner.tid.is_some();
    let mut children: Vec<Proc> =
        (0..FILES.len()).filter(is_here).map(|index| Proc::ProcessFile(owner, index)).collect();
    children.extend(Link::ALL.map(|link| Proc::Link(owner, link)));
    children.extend([Proc::Descriptors(owner), Proc::DescriptorInfos(owner)]);
    if owner.tid.is_none() {
        children.push(Proc::Tasks(owner.pid));
    }
    children
}

/// Looks a name up in a process's directory.
pub(super) fn lookup(kernel: &Kernel, owner: Owner, name: &[u8]) -> Option<Proc> {
    kernel.processes.get(&owner.pid)?;
    children(owner).into_iter().find(|child| child.parent().is_some_and(|(_, found)| found == name))
}

/// Where a link leads.
pub(super) fn link_target(kernel: &Kernel, owner: Owner, link: Link) -> Result<Target, Errno> {
    let process = owner.process(kernel)?;
    match link {
        Link::Cwd => Ok(Target::Jump(process.cwd())),
        Link::Root => Ok(Target::Jump(kernel.files.root())),
        Link::Exe => {
            let walker = Walker::new(kernel, owner.pid)?;
            Ok(Target::Jump(walker.existing(&kernel.files.root(), &process.program.path, Follow::No)?))
        }
    }
}

/// What `readlink(2)` gives.
pub(super) fn link_text(kernel: &Kernel, owner: Owner, link: Link) -> Result<Vec<u8>, Errno> {
    let process = owner.process(kernel)?;
    match link {
        Link::Cwd => process.cwd().path(&kernel.files).ok_or(Errno::ENOENT),
        Link::Root => Ok(b"/".to_vec()),
        Link::Exe if process.program.path.is_empty() => Err(Errno::ENOENT),
        Link::Exe => Ok(process.program.path.clone()),
    }
}

fn thread(kernel: &Kernel, owner: Owner) -> Option<&Thread> {
    let own = kernel.threads.get(&owner.thread());
    own.or_else(|| kernel.threads.values().find(|thread| thread.pid == owner.pid))
}

fn name(kernel: &Kernel, owner: Owner) -> String {
    let name = match thread(kernel, owner) {
        Some(thread) => thread.name,
        None => owner.process(kernel).ok().and_then(|process| process.end).map(|end| end.name).unwrap_or_default(),
    };
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..length]).into_owned()
}

/// Which of a process's threads has made a child is not kept: all are the first one's.
fn children_of(kernel: &Kernel, owner: Owner) -> Result<Vec<u8>, Errno> {
    owner.process(kernel)?;
    if owner.tid != Some(owner.pid) {
        return Ok(Vec::new());
    }
    let children = kernel.processes_where(|process| process.parent == owner.pid);
    Ok(children.into_iter().map(|pid| format!("{pid} ")).collect::<String>().into_bytes())
}

fn comm(kernel: &Kernel, owner: Owner) -> Result<Vec<u8>, Errno> {
    Ok(format!("{}\n", name(kernel, owner)).into_bytes())
}

fn state_letter(kernel: &Kernel, owner: Owner) -> char {
    if owner.process(kernel).is_ok_and(|process| process.job.stopped_by.is_some()) {
        return 'T';
    }
    match thread(kernel, owner).map(|thread| thread.state) {
        Some(ThreadState::Ready | ThreadState::Running(_)) => 'R',
        Some(_) => 'S',
        None => 'Z',
    }
}

fn maps(kernel: &Kernel, owner: Owner) -> Result<Vec<u8>, Errno> {
    let mut content = Vec::new();
    let bytes_max = kernel.files.buffers().room();
    for area in kernel.spaces.describe(owner.process(kernel)?.space) {
        let bit = |bit, letter| if area.protection.contains(bit) { letter } else { '-' };
        let line = format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
            area.start,
            area.end,
            bit(Protection::READ, 'r'),
            bit(Protection::WRITE, 'w'),
            bit(Protection::EXECUTE, 'x'),
            if area.is_shared { 's' } else { 'p' },
            area.offset,
            libc::major(area.device),
            libc::minor(area.device),
            area.inode,
        );
        content.extend_from_slice(line.as_bytes());
        if !area.path.is_empty() {
            content.resize(content.len() + 73_usize.saturating_sub(line.len()), b' ');
            content.extend_from_slice(&area.path);
        }
        content.push(b'\n');
        if content.len() > bytes_max {
            return Err(Errno::ENOMEM);
        }
    }
    Ok(content)
}

fn smaps_rollup(kernel: &Kernel, owner: Owner) -> Result<Vec<u8>, Errno> {
    let (mut start, mut end, mut resident) = (u64::MAX, 0, 0);
    for area in kernel.spaces.describe(owner.process(kernel)?.space) {
        start = start.min(area.start);
        end = area.end;
        resident += area.resident / 1024;
    }
    let start = start.min(end);
    let lines = format!(
        "{start:08x}-{end:08x} ---p 00000000 00:00 0                          [rollup]\n\
         Rss:            {resident:>8} kB\nPss:            {resident:>8} kB\nPrivate_Dirty:  {resident:>8} kB\n\
         Swap:                  0 kB\n"
    );
    Ok(lines.into_bytes())
}

fn mounts(kernel: &Kernel, _owner: Owner) -> Result<Vec<u8>, Errno> {
    let mut content = Vec::new();
    for (path, mount) in kernel.files.mounts() {
        content.extend_from_slice(format!("{} ", mount.kind).as_bytes());
        content.extend_from_slice(&path);
        content.extend_from_slice(format!(" {} {} 0 0\n", mount.kind, mount.options).as_bytes());
    }
    Ok(content)
}

fn mountinfo(kernel: &Kernel, _owner: Owner) -> Result<Vec<u8>, Errno> {
    let mut content = Vec::new();
    for (id, (path, mount)) in (1..).zip(kernel.files.mounts()) {
        let parent = if id == 1 { 0 } else { 1 };
        content.extend_from_slice(format!("{id} {parent} 0:{id} / ").as_bytes());
        content.extend_from_slice(&path);
        let access = &mount.options[..2];
        content.extend_from_slice(format!(" {} - {} {} {access}\n", mount.options, mount.kind, mount.kind).as_bytes());
    }
    Ok(content)
}

fn limits(kernel: &Kernel, owner: Owner) -> Result<Vec<u8>, Errno> {
    const ROWS: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let limits = &owner.process(kernel)?.limits;
    let shown = |value: u64| if value == UNLIMITED { "unlimited".to_owned() } else { value.to_string() };
    let mut content = format!("{:<26}{:<21}{:<21}{:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (resource, (name, unit)) in Resource::ALL.into_iter().zip(ROWS) {
        let limit = limits.get(resource);
        let _ = writeln!(content, "{name:<26}{:<21}{:<21}{unit:<10}", shown(limit.soft), shown(limit.hard));
    }
    Ok(content.into_bytes())
}

/// Resident and virtual size, bytes.
fn sizes(kernel: &Kernel, owner: Owner) -> Result<(u64, u64), Errno> {
    Ok(kernel.spaces.sizes(owner.process(kernel)?.space))
}

fn thread_count(kernel: &Kernel, owner: Owner) -> usize {
    kernel.threads.values().filter(|thread| thread.pid == owner.pid).count()
}

fn statm(kernel: &Kernel, owner: Owner) -> Result<Vec<u8>, Errno> {
    let (resident, size) = sizes(kernel, owner)?;
    let page = PAGE_SIZE as u64;
    Ok(format!("{} {} 0 0 0 {} 0\n", size / page, resident / page, size / page).into_bytes())
}

/// Field by field as in `proc_pid_stat(5)`.
fn stat(kernel: &Kernel, owner: Owner) -> Result<Vec<u8>, Errno> {
    let process = owner.process(kernel)?;
    let (resident, size) = sizes(kernel, owner)?;
    let time = match owner.tid {
        Some(_) => thread(kernel, owner).map_or(ProcessorTime::default(), |thread| thread.time),
        None => process.time,
    };
    let terminal = kernel.terminal_of(owner.pid);
    let fields: [u64; 49] = {
        let mut fields = [0; 49];
        fields[0] = process.parent.into();
        fields[1] = process.group.into();
        fields[2] = process.session.into();
        fields[3] = terminal.as_ref().map_or(0, |terminal| device_number(SLAVE_MAJOR, terminal.index()));
        fields[10..12].copy_from_slice(&time.ticks());
        fields[12..14].copy_from_slice(&process.children_usage.time.ticks());
        fields[14] = 20;
        fields[16] = thread_count(kernel, owner) as u64;
        fields[18] = process.started_ns / NS_PER_TICK;
        fields[19] = size;
        fields[20] = resident / PAGE_SIZE as u64;
        fields[21] = UNLIMITED;
        fields[24] = process.program.stack_start;
        fields[34] = 17;
        fields
    };
    let mut content = format!("{} ({}) {}", owner.thread(), name(kernel, owner), state_letter(kernel, owner));
    for (index, field) in fields.into_iter().enumerate() {
        // tpgid: the group in the foreground of the controlling terminal.
        let foreground = || terminal.as_ref().and_then(|terminal| terminal.foreground()).map_or(-1, i64::from);
        let _ = if index == 4 { write!(content, " {}", foreground()) } else { write!(content, " {field}") };
    }
    content.push('\n');
    Ok(content.into_bytes())
}

/// A file's content as `proc_pid_status(5)` describes it, as far as we have the facts.
fn status(kernel: &Kernel, owner: Owner) -> Result<Vec<u8>, Errno> {
    let process = owner.process(kernel)?;
    let credentials = &process.credentials;
    let (resident, size) = sizes(kernel, owner)?;
    let groups: String = credentials.groups.iter().map(|group| format!("{group} ")).collect();
    let state = match state_letter(kernel, owner) {
        'R' => "R (running)",
        'S' => "S (sleeping)",
        'T' => "T (stopped)",
        _ => "Z (zombie)",
    };
    let all_processors = u64::MAX >> (64 - kernel.files.vcpu_count().clamp(1, 64));
    let processors = thread(kernel, owner).map_or(u64::MAX, |thread| thread.affinity) & all_processors;
    let ids = |ids: [u32; 4]| ids.map(|id| id.to_string()).join("\t");
    let content = format!(
        "Name:\t{}\nUmask:\t{:04o}\nState:\t{state}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t0\n\
         Uid:\t{}\nGid:\t{}\nFDSize:\t{}\nGroups:\t{groups}\nVmPeak:\t{:>8} kB\nVmSize:\t{:>8} kB\nVmLck:\t       0 kB\n\
         VmHWM:\t{:>8} kB\nVmRSS:\t{:>8} kB\nRssAnon:\t{:>8} kB\nRssFile:\t       0 kB\nRssShmem:\t       0 kB\n\
         VmData:\t{:>8} kB\nVmSwap:\t       0 kB\nThreads:\t{}\n{}NoNewPrivs:\t{}\nSeccomp:\t0\n\
         Cpus_allowed:\t{:x}\nCpus_allowed_list:\t{}\nvoluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n",
        name(kernel, owner),
        process.umask() & PERMISSION_MASK,
        owner.pid,
        owner.thread(),
        process.parent,
        ids([credentials.uid, credentials.uid_effective, credentials.uid_saved, credentials.uid_file]),
        ids([credentials.gid, credentials.gid_effective, credentials.gid_saved, credentials.gid_file]),
        process.files.descriptors().count(),
        size / 1024,
        size / 1024,
        resident / 1024,
        resident / 1024,
        resident / 1024,
        size / 1024,
        thread_count(kernel, owner),
        signal_lines(kernel, owner, process),
        u8::from(process.settings.has_no_new_privileges),
        processors,
        processor_list(processors),
    );
    Ok(content.into_bytes())
}

/// A mask of processors as a list of ranges, for example `0-2,5`.
fn processor_list(mask: u64) -> String {
    let is_set = |index: u32| index < u64::BITS && mask >> index & 1 == 1;
    let starts = (0..u64::BITS).filter(|index| is_set(*index) && (*index == 0 || !is_set(index - 1)));
    let ranges = starts.map(|first| {
        let last = (first..u64::BITS).find(|index| !is_set(index + 1)).unwrap_or(first);
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    });
    ranges.collect::<Vec<_>>().join(",")
}

/// The lines about signals in `status`.
fn signal_lines(kernel: &Kernel, owner: Owner, process: &Process) -> String {
    let thread = thread(kernel, owner);
    let set_of = |is_meant: &dyn Fn(u64) -> bool| {
        let signals = (1..=i32::from(SIGNAL_MAX)).filter_map(Signal::new);
        signals.filter(|signal| is_meant(process.action(*signal).handler)).fold(SignalSet::EMPTY, SignalSet::with).0
    };
    format!(
        "SigQ:\t{}/{QUEUED_MAX}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\n\
         SigCgt:\t{:016x}\n",
        kernel.queued_signals(),
        thread.map_or(0, |thread| thread.pending.set().0),
        process.pending.set().0,
        thread.map_or(0, |thread| thread.blocked.0),
        set_of(&|handler| handler == HANDLER_IGNORE),
        set_of(&|handler| handler > HANDLER_IGNORE),
    )
}
