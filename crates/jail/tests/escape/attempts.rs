//! What a prisoner tries. System calls are made directly, as hostile code would.
//!
//! Each attempt says how it ends in the jail of a monitor on KVM, and where that is different in the two others: that of a
//! monitor on `ptrace`, which has more calls on its list, and that of egress, which has no files and the network. Some are
//! for a monitor that is shown the whole host, as `calypte run --rootfs /` does, and keeps its user.

use std::ffi::{CString, c_long};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `KVM_RUN` and `KVM_CREATE_VM` of `linux/kvm.h`.
pub(crate) const KVM_RUN: u64 = 0xae80;
const KVM_CREATE_VM: u64 = 0xae01;
/// Limits of the jail.
pub(crate) const MEMORY_BYTES_MAX: u64 = 256 << 20;
pub(crate) const DESCRIPTORS_MAX: u64 = 64;
pub(crate) const THREADS_MAX: u64 = 16;
/// That of egress, which is fixed.
const EGRESS_DESCRIPTORS_MAX: u64 = 16_384;

/// Which jail a prisoner is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Jail {
    /// A monitor on KVM.
    Kvm,
    /// A monitor on `ptrace`.
    Ptrace,
    /// The process that opens connections.
    Egress,
    /// A monitor of `calypte run --rootfs /`.
    Run,
}

impl Jail {
    pub(crate) const ALL: [Self; 4] = [Self::Kvm, Self::Ptrace, Self::Egress, Self::Run];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Ptrace => "ptrace",
            Self::Egress => "egress",
            Self::Run => "run",
        }
    }
}

/// How an attempt must end.
#[derive(Clone, Copy)]
pub(crate) enum Expected {
    /// The host says no, or there is nothing there.
    Refused,
    /// The process is killed for a system call that is not on its list.
    Killed,
}

impl Expected {
    /// As the prisoner's parent reports it.
    pub(crate) fn status(&self) -> i32 {
        match self {
            Self::Refused => super::REFUSED,
            Self::Killed => 128 + libc::SIGSYS,
        }
    }
}

/// What a prisoner knows of the outside.
pub(crate) struct Place {
    directory: PathBuf,
    victim: i32,
    kvm: Option<std::fs::File>,
}

impl Place {
    /// Descriptors are opened here that a prisoner should have no use for.
    pub(crate) fn new(directory: &Path, victim: i32) -> Self {
        let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").ok();
        Self { directory: directory.to_owned(), victim, kvm }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

use Expected::{Killed, Refused};

type Run = fn(&Place, &OwnedFd) -> Result<String>;

/// One way out.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    kvm: Option<Expected>,
    ptrace: Option<Expected>,
    egress: Option<Expected>,
    in_run: Option<Expected>,
    /// `Ok` with the evidence if it worked.
    pub(crate) run: Run,
}

impl Attempt {
    const fn new(name: &'static str, expected: Option<Expected>, run: Run) -> Self {
        Self { name, kvm: expected, ptrace: expected, egress: expected, in_run: None, run }
    }

    const fn ptrace(self, expected: Expected) -> Self {
        Self { ptrace: Some(expected), ..self }
    }

    const fn egress(self, expected: Expected) -> Self {
        Self { egress: Some(expected), ..self }
    }

    /// It is no way out there, but what the process is for.
    const fn but_on_ptrace(self) -> Self {
        Self { ptrace: None, ..self }
    }

    const fn but_in_egress(self) -> Self {
        Self { egress: None, ..self }
    }

    /// What the prisoner does itself, outside any jail.
    pub(crate) fn without_namespaces() -> Self {
        let run: Run = |_, _| unreachable!("made by the prisoner itself");
        Self { ptrace: None, egress: None, ..refused("where-namespaces-are-refused", run) }
    }

    /// How it ends; `None` if it is not to be tried there.
    pub(crate) fn expected(&self, jail: Jail) -> Option<Expected> {
        match jail {
            Jail::Kvm => self.kvm,
            Jail::Ptrace => self.ptrace,
            Jail::Egress => self.egress,
            Jail::Run => self.in_run,
        }
    }
}

const fn refused(name: &'static str, run: Run) -> Attempt {
    Attempt::new(name, Some(Refused), run)
}

const fn killed(name: &'static str, run: Run) -> Attempt {
    Attempt::new(name, Some(Killed), run)
}

/// What only the list of one jail lets come to be tried.
const fn only_on_ptrace(name: &'static str, expected: Expected, run: Run) -> Attempt {
    Attempt::new(name, None, run).ptrace(expected)
}

const fn only_in_egress(name: &'static str, expected: Expected, run: Run) -> Attempt {
    Attempt::new(name, None, run).egress(expected)
}

/// What could be tried where the whole host is shown: the directory is its root.
const fn refused_in_run(name: &'static str, run: Run) -> Attempt {
    Attempt { in_run: Some(Refused), ..Attempt::new(name, None, run) }
}

const fn killed_in_run(name: &'static str, run: Run) -> Attempt {
    Attempt { in_run: Some(Killed), ..Attempt::new(name, None, run) }
}

/// An attempt to open a file by name, which egress has no call for.
const fn file(name: &'static str, run: Run) -> Attempt {
    refused(name, run).egress(Killed)
}

fn call(number: c_long, arguments: [c_long; 6]) -> Result<String> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: not safe in general; a prisoner that harms its own memory harms nobody else, which is the point.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(Error::last_os_error()) } else { Ok(format!("system call {number} gave {result}")) }
}

fn simple(number: c_long) -> Result<String> {
    call(number, [0; 6])
}

fn at(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

/// `openat` relative to the directory that is shown, for reading.
fn open_at(directory: &OwnedFd, path: &str) -> Result<String> {
    let path = at(Path::new(path));
    call(libc::SYS_openat, [directory.as_raw_fd().into(), path.as_ptr() as c_long, 0, 0, 0, 0])
}

fn stat_at(directory: &OwnedFd, path: &str) -> Result<String> {
    let (path, mut space) = (at(Path::new(path)), [0_u8; 256]);
    let number = libc::SYS_newfstatat;
    call(number, [directory.as_raw_fd().into(), path.as_ptr() as c_long, space.as_mut_ptr() as c_long, 0, 0, 0])
}

fn list(path: &str) -> Result<String> {
    let names: Vec<_> = std::fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    if names.is_empty() { Err(ErrorKind::NotFound.into()) } else { Ok(format!("{path}: {names:?}")) }
}

fn read(path: &str) -> Result<String> {
    Ok(format!("{path} has {} bytes", std::fs::read(path)?.len()))
}

/// Counts how often something works; it must stop working at `maximum`.
fn until_refused(maximum: u64, mut once: impl FnMut() -> Result<()>) -> Result<String> {
    for _ in 0..=maximum {
        once()?;
    }
    Ok(format!("more than {maximum}"))
}

fn many_threads() -> Result<String> {
    until_refused(THREADS_MAX, || std::thread::Builder::new().spawn(std::thread::park).map(drop))
}

fn much_memory() -> Result<String> {
    let step: usize = 16 << 20;
    until_refused(MEMORY_BYTES_MAX / step as u64, || {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        call(libc::SYS_mmap, [0, step as c_long, protection.into(), flags.into(), -1, 0]).map(drop)
    })
}

fn many_descriptors(directory: &OwnedFd) -> Result<String> {
    until_refused(DESCRIPTORS_MAX, || open_at(directory, "file").map(drop))
}

fn many_events() -> Result<String> {
    until_refused(EGRESS_DESCRIPTORS_MAX, || simple(libc::SYS_eventfd2).map(drop))
}

/// Forks as the `ptrace` platform does; the C library's own way has other flags. The child does not return.
fn start(mut child: impl FnMut() -> Result<String>) -> Result<c_long> {
    // SAFETY: the process has one thread. The child uses nothing but system calls and its own copy of the memory.
    match unsafe { libc::syscall(libc::SYS_fork) } {
        -1 => Err(Error::last_os_error()),
        0 => {
            let status = if child().is_ok() { super::ESCAPED } else { super::REFUSED };
            // SAFETY: ends the process.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid),
    }
}

/// Makes an attempt in a process of its own.
fn in_a_process(child: impl FnMut() -> Result<String>) -> Result<String> {
    let (pid, mut status) = (start(child)?, 0_i32);
    call(libc::SYS_wait4, [pid, (&raw mut status) as c_long, 0, 0, 0, 0])?;
    match status {
        0 => Err(ErrorKind::PermissionDenied.into()),
        status if libc::WIFSIGNALED(status) => Err(Error::other(format!("signal {}", libc::WTERMSIG(status)))),
        status => Ok(format!("wait status {status}")),
    }
}

fn many_processes() -> Result<String> {
    let forever = libc::timespec { tv_sec: 600, tv_nsec: 0 };
    until_refused(THREADS_MAX, || {
        start(|| call(libc::SYS_nanosleep, [(&raw const forever) as c_long, 0, 0, 0, 0, 0])).map(drop)
    })
}

/// `capset` with everything.
fn all_capabilities() -> Result<String> {
    // `_LINUX_CAPABILITY_VERSION_3` and this thread; effective, permitted and inheritable, twice.
    let (header, data) = ([0x2008_0522_u32, 0], [u32::MAX, u32::MAX, 0, 0x1ff, 0x1ff, 0]);
    call(libc::SYS_capset, [header.as_ptr() as c_long, data.as_ptr() as c_long, 0, 0, 0, 0])
}

/// Sets a limit of a process (0: this one) to more than a jail allows.
fn raise_limit(process: c_long) -> Result<String> {
    let limit = [1_u64 << 20; 2];
    call(libc::SYS_prlimit64, [process, libc::RLIMIT_NOFILE.into(), limit.as_ptr() as c_long, 0, 0, 0])
}

fn socket(family: i32, kind: i32) -> Result<String> {
    call(libc::SYS_socket, [family.into(), kind.into(), 0, 0, 0, 0])
}

/// Sets an option of a new socket that takes a privilege.
fn privileged_option(level: i32, option: i32) -> Result<String> {
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::syscall(libc::SYS_socket, AF_INET, STREAM, 0) };
    let value = 1_i32;
    call(libc::SYS_setsockopt, [socket, level.into(), option.into(), (&raw const value) as c_long, 4, 0])
}

const CLONE_PROCESS: c_long = libc::SIGCHLD as c_long;
const CLONE_NAMESPACE: c_long =
    (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_NEWNET) as c_long;
const EXECUTABLE: c_long = (libc::PROT_READ | libc::PROT_EXEC) as c_long;
const ANONYMOUS: c_long = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as c_long;
const CREATE: c_long = (libc::O_RDWR | libc::O_CREAT) as c_long;
const AF_INET: c_long = libc::AF_INET as c_long;
const STREAM: c_long = libc::SOCK_STREAM as c_long;
const SIGKILL: c_long = libc::SIGKILL as c_long;

/// Every way out that is tried.
pub(crate) const ATTEMPTS: &[Attempt] = &[
    // Files.
    file("reads /etc/passwd", |_, _| read("/etc/passwd")),
    file("asks for /etc/passwd", |_, _| std::fs::metadata("/etc/passwd").map(|_| "it is there".to_owned())),
    file("lists the root", |_, _| list("/")),
    file("lists the folder of others", |place, _| list(place.directory.parent().unwrap().to_str().unwrap())),
    file("reads a file of others", |place, _| read(place.directory.join("secret").to_str().unwrap())),
    file("opens beside its directory", |_, directory| open_at(directory, "../secret")),
    file("looks beside its directory", |_, directory| stat_at(directory, "../secret")),
    file("climbs to the host's root", |_, directory| open_at(directory, "../../../../../../etc/passwd")),
    file("looks at the host's root", |_, directory| stat_at(directory, "../../../../../../etc/passwd")),
    file("reads the environment of process 1", |_, _| read("/proc/1/environ")),
    file("reads its own memory as a file", |_, _| read("/proc/self/mem")),
    file("reads another process's memory as a file", |place, _| read(&format!("/proc/{}/mem", place.victim))),
    file("opens /dev/kvm again", |_, _| read("/dev/kvm")),
    killed("makes a file", |_, directory| {
        let name = c"new".as_ptr() as c_long;
        call(libc::SYS_openat, [directory.as_raw_fd().into(), name, CREATE, 0o666, 0, 0])
    }),
    killed("removes a file", |_, directory| {
        call(libc::SYS_unlinkat, [directory.as_raw_fd().into(), c"file".as_ptr() as c_long, 0, 0, 0, 0])
    }),
    killed("changes permissions", |_, directory| {
        call(libc::SYS_fchmodat, [directory.as_raw_fd().into(), c"file".as_ptr() as c_long, 0o777, 0, 0, 0])
    }),
    killed("makes a file in memory", |_, _| call(libc::SYS_memfd_create, [c"x".as_ptr() as c_long, 0, 0, 0, 0, 0]))
        .but_on_ptrace(),
    // The whole host: its files, but nothing of its kernel.
    refused_in_run("reads /etc/passwd from its own root", |_, _| read("/etc/passwd")),
    refused_in_run("reads the host's list of mounts", |_, root| open_at(root, "proc/mounts")),
    refused_in_run("reads the environment of the host's process 1", |_, root| open_at(root, "proc/1/environ")),
    refused_in_run("reads the command line of a process", |place, root| {
        open_at(root, &format!("proc/{}/cmdline", place.victim))
    }),
    refused_in_run("reads the memory of a process", |place, root| open_at(root, &format!("proc/{}/mem", place.victim))),
    refused_in_run("finds the host's root in another process", |place, root| {
        open_at(root, &format!("proc/{}/root/etc/passwd", place.victim))
    }),
    refused_in_run("reads the kernel's symbols", |_, root| open_at(root, "proc/kallsyms")),
    refused_in_run("reads the kernel's settings", |_, root| open_at(root, "proc/sys/kernel/hostname")),
    refused_in_run("reads the kernel's list of modules", |_, root| open_at(root, "proc/modules")),
    refused_in_run("looks at devices in /sys", |_, root| open_at(root, "sys/class/net")),
    refused_in_run("looks at control groups", |_, root| open_at(root, "sys/fs/cgroup/cgroup.procs")),
    refused_in_run("opens a device of the host", |_, root| open_at(root, "dev/null")),
    refused_in_run("opens the host's /dev/kvm", |_, root| open_at(root, "dev/kvm")),
    killed_in_run("writes to a file of the host", |_, root| {
        call(libc::SYS_openat, [root.as_raw_fd().into(), c"etc/passwd".as_ptr() as c_long, CREATE, 0o666, 0, 0])
    }),
    killed_in_run("types into the user's terminal", |_, _| {
        call(libc::SYS_ioctl, [0, libc::TIOCSTI as c_long, 0, 0, 0, 0])
    }),
    killed_in_run("changes the user's terminal", |_, _| call(libc::SYS_ioctl, [0, libc::TCSETS as c_long, 0, 0, 0, 0])),
    killed_in_run("kills a process of the user", |place, _| {
        call(libc::SYS_kill, [place.victim.into(), SIGKILL, 0, 0, 0, 0])
    }),
    killed_in_run("traces a process of the user", |place, _| {
        call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), place.victim.into(), 0, 0, 0, 0])
    }),
    // Other processes.
    killed("traces a process", |place, _| {
        call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), place.victim.into(), 0, 0, 0, 0])
    })
    .ptrace(Refused),
    only_on_ptrace("traces a process without stopping it", Refused, |place, _| {
        call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), place.victim.into(), 0, 0, 0, 0])
    }),
    killed("kills a process", |place, _| call(libc::SYS_kill, [place.victim.into(), SIGKILL, 0, 0, 0, 0]))
        .ptrace(Refused),
    killed("kills every process", |_, _| call(libc::SYS_kill, [-1, SIGKILL, 0, 0, 0, 0])).ptrace(Refused),
    // The signal ends the guard of this test and not the first process of a namespace, which is to ignore it.
    killed("signals its process group", |_, _| {
        call(libc::SYS_kill, [0, libc::SIGUSR1.into(), 0, 0, 0, 0])?;
        Err(ErrorKind::NotFound.into())
    })
    .ptrace(Refused),
    only_on_ptrace("moves a process to another processor", Refused, |place, _| {
        let processors = [1_u64];
        call(libc::SYS_sched_setaffinity, [place.victim.into(), 8, processors.as_ptr() as c_long, 0, 0, 0])
    }),
    only_on_ptrace("waits for a process of others", Refused, |place, _| {
        call(libc::SYS_wait4, [place.victim.into(), 0, 0, 0, 0, 0])
    }),
    killed("signals a thread of a process", |place, _| {
        call(libc::SYS_tgkill, [place.victim.into(), place.victim.into(), SIGKILL, 0, 0, 0])
    }),
    killed("signals its parent's group", |_, _| call(libc::SYS_tkill, [1, SIGKILL, 0, 0, 0, 0])),
    killed("gets a handle of a process", |place, _| call(libc::SYS_pidfd_open, [place.victim.into(), 0, 0, 0, 0, 0])),
    killed("reads a process's memory", |place, _| {
        call(libc::SYS_process_vm_readv, [place.victim.into(), 0, 0, 0, 0, 0])
    }),
    killed("starts a program", |_, _| call(libc::SYS_execve, [c"/bin/sh".as_ptr() as c_long, 0, 0, 0, 0, 0])),
    killed("starts a process", |_, _| simple(libc::SYS_fork)).but_on_ptrace(),
    only_on_ptrace("starts a program in a process of its own", Refused, |_, _| {
        in_a_process(|| call(libc::SYS_execve, [c"/bin/sh".as_ptr() as c_long, 0, 0, 0, 0, 0]))
    }),
    only_on_ptrace("reads /etc/passwd in a process of its own", Refused, |_, _| in_a_process(|| read("/etc/passwd"))),
    only_on_ptrace("kills a process from a process of its own", Refused, |place, _| {
        in_a_process(|| call(libc::SYS_kill, [place.victim.into(), SIGKILL, 0, 0, 0, 0]))
    }),
    only_on_ptrace("becomes root in a process of its own", Refused, |_, _| {
        in_a_process(|| simple(libc::SYS_setresuid))
    }),
    killed("clones a process", |_, _| call(libc::SYS_clone, [CLONE_PROCESS, 0, 0, 0, 0, 0])),
    refused("clones in the new way", |_, _| simple(libc::SYS_clone3)),
    // Network.
    killed("makes a TCP socket", |_, _| socket(libc::AF_INET, libc::SOCK_STREAM)).but_in_egress(),
    killed("makes a Unix socket", |_, _| socket(libc::AF_UNIX, libc::SOCK_STREAM)),
    killed("makes two Unix sockets", |_, _| call(libc::SYS_socketpair, [0; 6])),
    killed("makes a netlink socket", |_, _| socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    killed("makes a socket for whole packets", |_, _| socket(libc::AF_PACKET, libc::SOCK_RAW)),
    killed("makes a socket to the hypervisor", |_, _| socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    killed("makes a socket for ciphers", |_, _| socket(libc::AF_ALG, libc::SOCK_SEQPACKET)),
    killed("makes a raw socket", |_, _| socket(libc::AF_INET, libc::SOCK_RAW)).egress(Refused),
    only_in_egress("marks packets for routing", Refused, |_, _| privileged_option(libc::SOL_SOCKET, libc::SO_MARK)),
    only_in_egress("takes others' addresses", Refused, |_, _| {
        privileged_option(libc::IPPROTO_IP, libc::IP_TRANSPARENT)
    }),
    killed("connects", |_, _| call(libc::SYS_connect, [0; 6])).but_in_egress(),
    killed("listens", |_, _| call(libc::SYS_listen, [0; 6])),
    killed("accepts", |_, _| call(libc::SYS_accept4, [0; 6])),
    killed("sends a message that may have an address", |_, _| call(libc::SYS_sendmsg, [0; 6])).but_in_egress(),
    killed("fixes the route of a socket", |_, _| {
        call(libc::SYS_setsockopt, [0, c_long::from(libc::IPPROTO_IP), c_long::from(libc::IP_OPTIONS), 0, 0, 0])
    })
    .but_in_egress(),
    killed("sends to an address", |_, _| call(libc::SYS_sendto, [0, 0, 0, 0, c"address".as_ptr() as c_long, 7]))
        .but_in_egress(),
    // Namespaces, mounts, privileges.
    killed("makes a namespace", |_, _| call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0])),
    killed("makes a namespace with a thread", |_, _| call(libc::SYS_clone, [CLONE_NAMESPACE, 0, 0, 0, 0, 0])),
    killed("joins a namespace", |_, _| simple(libc::SYS_setns)),
    killed("mounts", |_, _| simple(libc::SYS_mount)),
    killed("unmounts", |_, _| call(libc::SYS_umount2, [c"/".as_ptr() as c_long, 2, 0, 0, 0, 0])),
    killed("changes its root", |_, _| call(libc::SYS_chroot, [c"/".as_ptr() as c_long, 0, 0, 0, 0, 0])),
    killed("opens by handle", |_, _| simple(libc::SYS_open_by_handle_at)),
    killed("becomes root", |_, _| simple(libc::SYS_setresuid)).ptrace(Refused),
    killed("joins the group of root", |_, _| simple(libc::SYS_setresgid)).ptrace(Refused),
    killed("takes capabilities", |_, _| all_capabilities()).ptrace(Refused),
    killed("raises its limits", |_, _| raise_limit(0)).ptrace(Refused),
    killed("raises the limits of others", |place, _| raise_limit(place.victim.into())).ptrace(Refused),
    killed("becomes dumpable", |_, _| call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0])),
    // In place of the one that it has, which is not possible.
    killed("sets a list of system calls", |_, _| simple(libc::SYS_seccomp)).ptrace(Refused),
    // The host's kernel.
    killed("loads a module", |_, _| simple(libc::SYS_init_module)),
    killed("loads a program into the kernel", |_, _| simple(libc::SYS_bpf)),
    killed("opens a performance counter", |_, _| simple(libc::SYS_perf_event_open)),
    killed("makes a ring", |_, _| simple(libc::SYS_io_uring_setup)),
    killed("handles page faults", |_, _| simple(libc::SYS_userfaultfd)),
    killed("asks for keys", |_, _| simple(libc::SYS_keyctl)),
    killed("makes a second virtual machine", |place, _| {
        let kvm = place.kvm.as_ref().map_or(0, AsRawFd::as_raw_fd);
        call(libc::SYS_ioctl, [kvm.into(), KVM_CREATE_VM as c_long, 0, 0, 0, 0])
    }),
    killed("types into the terminal", |_, _| call(libc::SYS_ioctl, [0, libc::TIOCSTI as c_long, 0, 0, 0, 0])),
    killed("makes memory executable", |_, _| call(libc::SYS_mprotect, [0, 0, EXECUTABLE, 0, 0, 0])),
    killed("maps executable memory", |_, _| call(libc::SYS_mmap, [0, 4096, EXECUTABLE, ANONYMOUS, -1, 0]))
        .but_on_ptrace(),
    // Amounts.
    refused("takes much memory", |_, _| much_memory()).but_in_egress(),
    refused("opens many files", |_, directory| many_descriptors(directory)).but_in_egress(),
    only_in_egress("makes many descriptors", Refused, |_, _| many_events()),
    // In egress the C library opens a file for them, which ends it.
    refused("starts many threads", |_, _| many_threads()).but_in_egress(),
    only_on_ptrace("starts many processes", Refused, |_, _| many_processes()),
];
