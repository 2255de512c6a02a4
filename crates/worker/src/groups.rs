//! Control groups: what an environment may use of the host, enforced by the host's kernel. Where the server may not make any,
//! the bounds of the monitor's jail remain, and the monitor keeps to its share of the processors itself: by its priority,
//! and with [`CpuLimit::Cap`] by holding its guest back ([`Bounds::share_without_group`]).
//!
//! Processor time: an environment of less than one processor's worth of memory ([`MEMORY_MIB_PER_VCPU`]) has a weight in
//! proportion when processors are short. With [`CpuLimit::Cap`] it also gets no more than that when they are idle, but
//! only after its initialisation.
//!
//! A server's groups are named `calypte-PID-NUMBER`, and it holds a lock (`flock(2)`) on each for as long as it lives. So
//! what a server that was killed has left is known by its lock being free, and removed by the next one.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use calypte_types::limits::MONITOR_OVERHEAD_MIB;
use calypte_wire::monitor::ProcessorShare;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::invocation::FunctionSpec;

/// Memory for which a function gets one processor, as on Lambda.
pub(crate) const MEMORY_MIB_PER_VCPU: u32 = 1769;
/// Period over which a cap holds, in microseconds.
const CAP_PERIOD_US: u64 = 100_000;
/// Smallest cap that the kernel takes.
const CAP_US_MIN: u64 = 1_000;
/// Weight of one processor's share: `cpu.shares` of version 1, `cpu.weight` of version 2.
const SHARES_PER_VCPU: u64 = 1024;
const WEIGHT_PER_VCPU: u64 = 100;
/// Weight of a process that is less nice by one (`sched(7)`), and the most that one can be.
const NICE_STEP: f64 = 1.25;
const NICE_MAX: f64 = 19.0;
/// A monitor's page tables and the host's kernel's own, in proportion to the guest's memory: one part in so many.
const TABLES_PART: u64 = 8;
/// Names that are tried for a server's groups. One can be in use by a process of the same id in another namespace.
const NAMES_TRIED_MAX: u32 = 16;
/// Processes and threads of a monitor, generously.
const PIDS_MAX: u32 = 256;

/// What a share of the processors means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CpuLimit {
    /// A weight when processors are short.
    #[default]
    Weight,
    /// That, and a bound at all times.
    Cap,
}

impl std::str::FromStr for CpuLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "weight" => Ok(Self::Weight),
            "cap" => Ok(Self::Cap),
            _ => Err("expected `weight` or `cap`".to_owned()),
        }
    }
}

impl std::fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Weight => "weight",
            Self::Cap => "cap",
        })
    }
}

/// Where groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchy {
    /// A folder for each controller.
    V1 { cpu: PathBuf, memory: PathBuf, pids: PathBuf },
    /// One folder.
    V2(PathBuf),
}

/// The groups of one server.
#[derive(Debug)]
pub struct Groups {
    hierarchy: Hierarchy,
    /// Say that the server lives. No other process has these descriptors: they are closed by `exec`.
    _locks: Vec<OwnedFd>,
}

/// The group of one environment; removed when dropped, which must be after the end of its process.
#[derive(Debug)]
pub(crate) struct Group {
    hierarchy: Hierarchy,
    cap_us: u64,
}

/// Bounds of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    memory_mib: u64,
    /// Thousandths of a processor.
    share: u64,
}

impl Bounds {
    /// Those of an environment for this function.
    pub(crate) fn of(spec: &FunctionSpec) -> Self {
        let guest_mib = u64::from(spec.memory_mib) + u64::from(spec.tmp_mib);
        Self {
            memory_mib: guest_mib + guest_mib / TABLES_PART + u64::from(MONITOR_OVERHEAD_MIB),
            share: u64::from(spec.memory_mib) * 1000 / u64::from(MEMORY_MIB_PER_VCPU),
        }
    }

    /// What the monitor does itself where there can be no group. What guest code that has taken over its monitor cannot
    /// change is the priority only.
    pub(crate) fn share_without_group(self, limit: CpuLimit) -> ProcessorShare {
        // Each step is worth a quarter more or less (`sched(7)`).
        let steps = (1000.0 / self.share.max(1) as f64).ln() / NICE_STEP.ln();
        let share_max = u32::try_from(self.share).unwrap_or(u32::MAX);
        ProcessorShare {
            nice: steps.round().clamp(0.0, NICE_MAX) as u8,
            share_max: (limit == CpuLimit::Cap).then_some(share_max),
        }
    }

    fn cap_us(self) -> u64 {
        (self.share * CAP_PERIOD_US / 1000).max(CAP_US_MIN)
    }
}

impl Groups {
    /// Makes this process's own group the parent of others, and removes what servers that are no more have left there. An
    /// error says what the host does not allow.
    pub fn open() -> Result<Self, String> {
        let read = |file: &str| fs::read_to_string(file).map_err(|error| format!("{file}: {error}"));
        let places = Places::parse(&read("/proc/self/cgroup")?, &read("/proc/self/mounts")?);
        let v1 = ["cpu", "memory", "pids"].map(|controller| places.v1(controller));
        let parents = match v1 {
            [Some(cpu), Some(memory), Some(pids)] => Hierarchy::V1 { cpu, memory, pids },
            _ => Hierarchy::V2(places.v2().ok_or("no control groups are mounted")?),
        };
        Self::open_below(&parents)
    }

    fn open_below(parents: &Hierarchy) -> Result<Self, String> {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        parents.folders().into_iter().for_each(remove_abandoned);
        for _ in 0..NAMES_TRIED_MAX {
            let name = format!("calypte-{}-{}", std::process::id(), SERVERS.fetch_add(1, Ordering::Relaxed));
            let (hierarchy, mut folders) = match parents {
                Hierarchy::V1 { cpu, memory, pids } => {
                    let at = |parent: &Path| make(&parent.join(&name));
                    let (cpu, memory, pids) = (at(cpu)?, at(memory)?, at(pids)?);
                    (
                        Hierarchy::V1 { cpu: cpu.clone(), memory: memory.clone(), pids: pids.clone() },
                        vec![cpu, memory, pids],
                    )
                }
                Hierarchy::V2(own) => {
                    let environments = open_v2(own, &name)?;
                    (Hierarchy::V2(environments.clone()), vec![environments, server_folder(own, &name)])
                }
            };
            // Controllers may share a folder.
            folders.sort();
            folders.dedup();
            let locks: Result<Option<Vec<OwnedFd>>, String> = folders.iter().map(|folder| lock(folder)).collect();
            if let Some(locks) = locks? {
                return Ok(Self { hierarchy, _locks: locks });
            }
        }
        Err(format!("no name of {NAMES_TRIED_MAX} for a control group is free"))
    }

    /// The version of the interface by which [`Groups::open`] would make groups; nothing is left behind.
    pub fn check() -> Result<u32, String> {
        let read = |file: &str| fs::read_to_string(file).map_err(|error| format!("{file}: {error}"));
        let places = Places::parse(&read("/proc/self/cgroup")?, &read("/proc/self/mounts")?);
        if ["cpu", "memory", "pids"].iter().all(|controller| places.v1(controller).is_some()) {
            return Self::open().map(|_| 1);
        }
        let own = places.v2().ok_or("no control groups are mounted")?;
        check_delegated(&own)?;
        rustix::fs::access(own.join("cgroup.subtree_control"), rustix::fs::Access::WRITE_OK)
            .map(|()| 2)
            .map_err(|error| format!("{} cannot be changed: {error}", own.display()))
    }

    /// A group for an environment, with its process in it.
    pub(crate) fn create(&self, id: u64, bounds: Bounds, pid: i32) -> io::Result<Group> {
        let name = format!("environment-{id}");
        let hierarchy = match &self.hierarchy {
            Hierarchy::V1 { cpu, memory, pids } => {
                Hierarchy::V1 { cpu: cpu.join(&name), memory: memory.join(&name), pids: pids.join(&name) }
            }
            Hierarchy::V2(parent) => Hierarchy::V2(parent.join(&name)),
        };
        let group = Group { hierarchy, cap_us: bounds.cap_us() };
        for folder in group.folders() {
            fs::create_dir(folder)?;
        }
        group.bound(bounds)?;
        for folder in group.folders() {
            fs::write(folder.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(group)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for folder in self.hierarchy.folders() {
            // A group that still has processes stays; so does that of version 2 which holds the server itself.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Hierarchy {
    fn folders(&self) -> Vec<&Path> {
        match self {
            Self::V1 { cpu, memory, pids } => vec![cpu, memory, pids],
            Self::V2(folder) => vec![folder],
        }
    }
}

impl Group {
    fn folders(&self) -> Vec<&Path> {
        self.hierarchy.folders()
    }

    fn bound(&self, bounds: Bounds) -> io::Result<()> {
        let memory_bytes = bounds.memory_mib << 20;
        match &self.hierarchy {
            Hierarchy::V1 { cpu, memory, pids } => {
                let shares = (bounds.share * SHARES_PER_VCPU / 1000).max(2);
                fs::write(cpu.join("cpu.shares"), shares.to_string())?;
                fs::write(memory.join("memory.limit_in_bytes"), memory_bytes.to_string())?;
                fs::write(pids.join("pids.max"), PIDS_MAX.to_string())
            }
            Hierarchy::V2(folder) => {
                let weight = (bounds.share * WEIGHT_PER_VCPU / 1000).clamp(1, 10_000);
                fs::write(folder.join("cpu.weight"), weight.to_string())?;
                fs::write(folder.join("memory.max"), memory_bytes.to_string())?;
                fs::write(folder.join("pids.max"), PIDS_MAX.to_string())
            }
        }
    }

    /// From now on the environment gets its share of the processors and no more.
    pub(crate) fn cap(&self) {
        let cap_us = self.cap_us;
        let written = match &self.hierarchy {
            Hierarchy::V1 { cpu, .. } => fs::write(cpu.join("cpu.cfs_period_us"), CAP_PERIOD_US.to_string())
                .and_then(|()| fs::write(cpu.join("cpu.cfs_quota_us"), cap_us.to_string())),
            Hierarchy::V2(folder) => fs::write(folder.join("cpu.max"), format!("{cap_us} {CAP_PERIOD_US}")),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "an environment's processor time cannot be capped");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in self.folders() {
            if let Err(error) = fs::remove_dir(folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(folder = %folder.display(), %error, "a control group is left behind");
            }
        }
    }
}

fn make(folder: &Path) -> Result<PathBuf, String> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("{} cannot be made: {error}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(folder.to_owned()),
    }
}

/// Takes the lock that says that a group's server lives. `None` if somebody else has it, or the group is no more.
fn lock(folder: &Path) -> Result<Option<OwnedFd>, String> {
    let failed = |error: Errno| format!("{} cannot be locked: {error}", folder.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor = match rustix::fs::open(folder, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked.map_err(failed)?,
    }
    // Who had the lock before may have removed the folder.
    let locked = rustix::fs::fstat(&descriptor).map_err(failed)?;
    let is_there =
        rustix::fs::stat(folder).is_ok_and(|there| (there.st_dev, there.st_ino) == (locked.st_dev, locked.st_ino));
    Ok(is_there.then_some(descriptor))
}

/// Removes the groups of servers that were killed. One that still has processes stays for the next time.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(is_name_of_server) {
            continue;
        }
        let folder = entry.path();
        let Ok(Some(_lock)) = lock(&folder) else { continue };
        let environments = fs::read_dir(&folder).into_iter().flatten().flatten();
        for environment in environments {
            // Only folders are removed so, and only empty ones.
            let _ = fs::remove_dir(environment.path());
        }
        if fs::remove_dir(&folder).is_ok() {
            tracing::debug!(folder = %folder.display(), "a control group of a server that is no more has been removed");
        }
    }
}

/// Whether a group is named as [`Groups::open`] names them.
fn is_name_of_server(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name.strip_prefix("calypte-").map(|rest| rest.strip_suffix("-server").unwrap_or(rest));
    numbers.and_then(|numbers| numbers.split_once('-')).is_some_and(|(pid, number)| is_number(pid) && is_number(number))
}

/// Where a server's own process is, beside the groups of its environments (version 2).
fn server_folder(own: &Path, name: &str) -> PathBuf {
    own.join(format!("{name}-server"))
}

/// A group of version 2 may have processes or groups with controllers, not both. So this process moves into one beside.
fn open_v2(own: &Path, name: &str) -> Result<PathBuf, String> {
    let attempt = |file: PathBuf, text: &str| {
        fs::write(&file, text).map_err(|error| format!("{} cannot be written: {error}", file.display()))
    };
    check_delegated(own)?;
    let server = make(&server_folder(own, name))?;
    attempt(server.join("cgroup.procs"), "0")?;
    attempt(own.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
    let environments = make(&own.join(name))?;
    attempt(environments.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
    Ok(environments)
}

fn check_delegated(own: &Path) -> Result<(), String> {
    let offered = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    for controller in ["cpu", "memory", "pids"] {
        if !offered.split_whitespace().any(|other| other == controller) {
            return Err(format!("the controller `{controller}` is not delegated to {}", own.display()));
        }
    }
    Ok(())
}

/// Where this process's groups are.
#[derive(Debug)]
struct Places {
    /// Controllers (none: version 2) and the folder.
    groups: Vec<(Vec<String>, PathBuf)>,
}

impl Places {
    /// From the contents of `/proc/self/cgroup` and `/proc/self/mounts`.
    fn parse(own: &str, mounts: &str) -> Self {
        let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
        let groups = own.lines().filter_map(|line| {
            let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
            let controllers: Vec<String> =
                controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            let mount = mounts.iter().find(|fields| match (fields.get(2), controllers.first()) {
                (Some(&"cgroup2"), None) => true,
                (Some(&"cgroup"), Some(name)) => fields.get(3).is_some_and(|o| o.split(',').any(|other| other == name)),
                _ => false,
            })?;
            Some((controllers, Path::new(mount.get(1)?).join(path.trim_start_matches('/'))))
        });
        Self { groups: groups.collect() }
    }

    fn v1(&self, controller: &str) -> Option<PathBuf> {
        let is_of = |controllers: &Vec<String>| controllers.iter().any(|name| name == controller);
        self.groups.iter().find(|(controllers, _)| is_of(controllers)).map(|(_, folder)| folder.clone())
    }

    fn v2(&self) -> Option<PathBuf> {
        self.groups.iter().find(|(controllers, _)| controllers.is_empty()).map(|(_, folder)| folder.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let places = Places::parse("5:cpu,cpuacct:/\n4:memory:/a/b\n0::/c\n", mounts);
        assert_eq!(places.v1("cpu"), Some("/sys/fs/cgroup/cpu,cpuacct/".into()));
        assert_eq!(places.v1("memory"), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(places.v1("pids"), None);
        assert_eq!(places.v2(), Some("/sys/fs/cgroup/unified/c".into()));
    }

    #[test]
    fn shares_are_in_proportion_to_memory() {
        for (memory_mib, share, cap_us) in [(128, 72, 7_200), (1769, 1000, 100_000), (3538, 2000, 200_000)] {
            let bounds = Bounds { memory_mib: 0, share: memory_mib * 1000 / u64::from(MEMORY_MIB_PER_VCPU) };
            assert_eq!((bounds.share, bounds.cap_us()), (share, cap_us));
        }
        for (share, nice) in [(72, 12), (500, 3), (1000, 0), (2000, 0), (0, 19)] {
            let bounds = Bounds { memory_mib: 0, share };
            let expected = ProcessorShare { nice, share_max: None };
            assert_eq!(bounds.share_without_group(CpuLimit::Weight), expected);
            let expected = ProcessorShare { nice, share_max: Some(share as u32) };
            assert_eq!(bounds.share_without_group(CpuLimit::Cap), expected);
        }
    }

    /// What is written, in folders that only look like control groups: the kernel of a development machine may have one
    /// version of the interface only.
    fn check_files(hierarchy: Hierarchy, expected: &[(&str, &str)]) {
        let bounds = Bounds { memory_mib: 64, share: 250 };
        let groups = Groups { hierarchy, _locks: Vec::new() };
        let group = groups.create(7, bounds, 4711).unwrap();
        let read = |file: &str| {
            let folders = group.folders();
            folders.iter().find_map(|folder| fs::read_to_string(folder.join(file)).ok())
        };
        for file in ["cpu.max", "cpu.cfs_quota_us"] {
            assert_eq!(read(file), None, "{file}: initialisation has no cap");
        }
        group.cap();
        for (file, text) in expected {
            assert_eq!(read(file).as_deref(), Some(*text), "{file}");
        }
        for folder in group.folders() {
            assert!(folder.ends_with("environment-7"), "{}", folder.display());
            assert_eq!(fs::read_to_string(folder.join("cgroup.procs")).unwrap(), "4711");
        }
    }

    #[test]
    fn both_versions_of_the_interface_get_what_they_understand() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| make(&folder.path().join(name)).unwrap();
        let v1 = Hierarchy::V1 { cpu: at("cpu"), memory: at("memory"), pids: at("pids") };
        check_files(
            v1,
            &[
                ("cpu.shares", "256"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "25000"),
                ("memory.limit_in_bytes", "67108864"),
                ("pids.max", "256"),
            ],
        );
        check_files(
            Hierarchy::V2(at("v2")),
            &[("cpu.weight", "25"), ("cpu.max", "25000 100000"), ("memory.max", "67108864"), ("pids.max", "256")],
        );
    }

    #[test]
    fn version_2_is_set_up_only_where_it_is_delegated() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path();
        let error = open_v2(own, "calypte-1-0").unwrap_err();
        assert!(error.contains("`cpu` is not delegated"), "{error}");
        fs::write(own.join("cgroup.controllers"), "cpuset cpu memory\n").unwrap();
        let error = open_v2(own, "calypte-1-0").unwrap_err();
        assert!(error.contains("`pids` is not delegated"), "{error}");
        assert_eq!(fs::read_dir(own).unwrap().count(), 1, "nothing was made");

        fs::write(own.join("cgroup.controllers"), "cpuset cpu memory pids\n").unwrap();
        let environments = open_v2(own, "calypte-1-0").unwrap();
        assert_eq!(environments, own.join("calypte-1-0"));
        // The server itself leaves the group that gets controllers: it may not have both.
        assert_eq!(fs::read_to_string(own.join("calypte-1-0-server/cgroup.procs")).unwrap(), "0");
        for group in [own, &environments] {
            assert_eq!(fs::read_to_string(group.join("cgroup.subtree_control")).unwrap(), "+cpu +memory +pids");
        }
    }

    #[test]
    fn what_dead_servers_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path();
        fs::write(own.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let stay =
            ["calypte-12-0", "calypte-", "calypte-1", "calypte-1-x", "calypte-1-2-servers", "x-calypte-1-2", "user"];
        let abandoned =
            ["calypte-10-0/environment-1", "calypte-10-0/environment-2", "calypte-10-0-server", "calypte-11-7"];
        for name in stay.iter().chain(&abandoned) {
            fs::create_dir_all(own.join(name)).unwrap();
        }
        // Still has something in it, as a group that has processes.
        fs::create_dir(own.join("calypte-13-0")).unwrap();
        fs::write(own.join("calypte-13-0/in-use"), "").unwrap();
        let live = lock(&own.join("calypte-12-0")).unwrap().unwrap();
        let groups = Groups::open_below(&Hierarchy::V2(own.to_owned())).unwrap();
        let mut expected: Vec<String> = stay.iter().map(|name| (*name).to_owned()).collect();
        let own_name = groups.hierarchy.folders()[0].file_name().unwrap().to_str().unwrap().to_owned();
        expected.extend([format!("{own_name}-server"), own_name, "calypte-13-0".into(), "cgroup.controllers".into()]);
        expected.push("cgroup.subtree_control".into());
        expected.sort();
        let mut there: Vec<String> =
            fs::read_dir(own).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        assert_eq!(there, expected);
        drop(live);
        remove_abandoned(own);
        assert!(!own.join("calypte-12-0").exists(), "its server has ended");
        assert!(groups.hierarchy.folders()[0].is_dir(), "its server lives");
    }

    /// In a process of its own, to be killed: makes groups and waits for its end.
    const HOLD_GROUPS: &str = "CALYPTE_TEST_HOLD_GROUPS";

    #[test]
    fn groups_of_a_killed_server_go_with_the_next_one() {
        let bounds = Bounds { memory_mib: 64, share: 250 };
        let groups = match Groups::open() {
            Ok(groups) => groups,
            Err(reason) => {
                eprintln!("SKIP groups_of_a_killed_server_go_with_the_next_one: {reason}");
                return;
            }
        };
        if std::env::var_os(HOLD_GROUPS).is_some() {
            let _group = groups.create(0, bounds, std::process::id().cast_signed()).unwrap();
            println!(
                "\nmade {}",
                groups.hierarchy.folders().iter().map(|f| f.to_str().unwrap()).collect::<Vec<_>>().join(" ")
            );
            loop {
                std::thread::park();
            }
        }
        drop(groups);
        let name = "groups::tests::groups_of_a_killed_server_go_with_the_next_one";
        let mut server = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(HOLD_GROUPS, "1")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = io::BufRead::lines(io::BufReader::new(server.stdout.take().unwrap()));
        let made = lines.find_map(|line| line.unwrap().strip_prefix("made ").map(str::to_owned)).unwrap();
        let folders: Vec<&Path> = made.split(' ').map(Path::new).collect();
        let are_there = || folders.iter().all(|folder| folder.join("environment-0").is_dir());
        drop(Groups::open().unwrap());
        assert!(are_there(), "the server lives: {made}");
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(are_there(), "nobody has removed them: {made}");
        drop(Groups::open().unwrap());
        assert!(!folders.iter().any(|folder| folder.exists()), "{made}");
    }

    /// Microseconds of processor time that a process has used.
    fn used_us(pid: u32) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks * 1_000_000 / rustix::param::clock_ticks_per_second()
    }

    #[test]
    fn a_capped_process_gets_its_share() {
        let groups = match Groups::open() {
            Ok(groups) => groups,
            Err(reason) => {
                eprintln!("SKIP a_capped_process_gets_its_share: {reason}");
                return;
            }
        };
        let mut busy = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let group = groups.create(0, Bounds { memory_mib: 64, share: 250 }, busy.id().cast_signed()).unwrap();
        // Uncapped until told otherwise, as during initialisation: it uses time, however little it gets of a busy machine.
        while used_us(busy.id()) < 100_000 {
            std::thread::yield_now();
        }
        group.cap();
        let (before_us, begin) = (used_us(busy.id()), std::time::Instant::now());
        // The time over which it is measured.
        std::thread::sleep(std::time::Duration::from_secs(2));
        let capped_us = used_us(busy.id()) - before_us;
        busy.kill().unwrap();
        busy.wait().unwrap();
        let periods = begin.elapsed().as_micros() as f64 / CAP_PERIOD_US as f64;
        // One period more than passed may be in it, and some of the last before the cap.
        let share = capped_us as f64 / ((periods + 2.0) * CAP_PERIOD_US as f64);
        assert!(share < 0.30, "{share} of a processor");
        assert!(share > 0.02, "{share} of a processor");
        let folders: Vec<PathBuf> = group.folders().into_iter().map(Path::to_owned).collect();
        drop(group);
        assert!(folders.iter().all(|folder| !folder.exists()), "{folders:?}");
    }
}
