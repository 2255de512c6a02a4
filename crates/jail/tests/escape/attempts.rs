//! What a prisoner tries. System calls are made directly, as hostile code would.

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

/// How an attempt must end.
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

type Run = fn(&Place, &OwnedFd) -> Result<String>;

/// One way out.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    pub(crate) expected: Expected,
    /// `Ok` with the evidence if it worked.
    pub(crate) run: Run,
}

const fn refused(name: &'static str, run: Run) -> Attempt {
    Attempt { name, expected: Expected::Refused, run }
}

const fn killed(name: &'static str, run: Run) -> Attempt {
    Attempt { name, expected: Expected::Killed, run }
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

const CLONE_PROCESS: c_long = libc::SIGCHLD as c_long;
const CLONE_NAMESPACE: c_long =
    (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_NEWNET) as c_long;
const EXECUTABLE: c_long = (libc::PROT_READ | libc::PROT_EXEC) as c_long;
const ANONYMOUS: c_long = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as c_long;
const CREATE: c_long = (libc::O_RDWR | libc::O_CREAT) as c_long;
const AF_UNIX: c_long = libc::AF_UNIX as c_long;
const AF_INET: c_long = libc::AF_INET as c_long;
const STREAM: c_long = libc::SOCK_STREAM as c_long;
const SIGKILL: c_long = libc::SIGKILL as c_long;

/// Every way out that is tried.
pub(crate) const ATTEMPTS: &[Attempt] = &[
    // Files.
    refused("reads /etc/passwd", |_, _| read("/etc/passwd")),
    refused("asks for /etc/passwd", |_, _| std::fs::metadata("/etc/passwd").map(|_| "it is there".to_owned())),
    refused("lists the root", |_, _| list("/")),
    refused("lists the folder of others", |place, _| list(place.directory.parent().unwrap().to_str().unwrap())),
    refused("reads a file of others", |place, _| read(place.directory.join("secret").to_str().unwrap())),
    refused("opens beside its directory", |_, directory| open_at(directory, "../secret")),
    refused("looks beside its directory", |_, directory| stat_at(directory, "../secret")),
    refused("climbs to the host's root", |_, directory| open_at(directory, "../../../../../../etc/passwd")),
    refused("looks at the host's root", |_, directory| stat_at(directory, "../../../../../../etc/passwd")),
    refused("reads the environment of process 1", |_, _| read("/proc/1/environ")),
    refused("reads its own memory as a file", |_, _| read("/proc/self/mem")),
    refused("reads another process's memory as a file", |place, _| read(&format!("/proc/{}/mem", place.victim))),
    refused("opens /dev/kvm again", |_, _| read("/dev/kvm")),
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
    killed("makes a file in memory", |_, _| call(libc::SYS_memfd_create, [c"x".as_ptr() as c_long, 0, 0, 0, 0, 0])),
    // Other processes.
    killed("traces a process", |place, _| {
        call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), place.victim.into(), 0, 0, 0, 0])
    }),
    killed("kills a process", |place, _| call(libc::SYS_kill, [place.victim.into(), SIGKILL, 0, 0, 0, 0])),
    killed("kills every process", |_, _| call(libc::SYS_kill, [-1, SIGKILL, 0, 0, 0, 0])),
    killed("signals a thread of a process", |place, _| {
        call(libc::SYS_tgkill, [place.victim.into(), place.victim.into(), SIGKILL, 0, 0, 0])
    }),
    killed("signals its parent's group", |_, _| call(libc::SYS_tkill, [1, SIGKILL, 0, 0, 0, 0])),
    killed("gets a handle of a process", |place, _| call(libc::SYS_pidfd_open, [place.victim.into(), 0, 0, 0, 0, 0])),
    killed("reads a process's memory", |place, _| {
        call(libc::SYS_process_vm_readv, [place.victim.into(), 0, 0, 0, 0, 0])
    }),
    killed("starts a program", |_, _| call(libc::SYS_execve, [c"/bin/sh".as_ptr() as c_long, 0, 0, 0, 0, 0])),
    killed("starts a process", |_, _| simple(libc::SYS_fork)),
    killed("clones a process", |_, _| call(libc::SYS_clone, [CLONE_PROCESS, 0, 0, 0, 0, 0])),
    refused("clones in the new way", |_, _| simple(libc::SYS_clone3)),
    // Network.
    killed("makes a TCP socket", |_, _| call(libc::SYS_socket, [AF_INET, STREAM, 0, 0, 0, 0])),
    killed("makes a Unix socket", |_, _| call(libc::SYS_socket, [AF_UNIX, STREAM, 0, 0, 0, 0])),
    killed("connects", |_, _| call(libc::SYS_connect, [0; 6])),
    killed("listens", |_, _| call(libc::SYS_listen, [0; 6])),
    killed("sends a message that may have an address", |_, _| call(libc::SYS_sendmsg, [0; 6])),
    killed("fixes the route of a socket", |_, _| {
        call(libc::SYS_setsockopt, [0, c_long::from(libc::IPPROTO_IP), c_long::from(libc::IP_OPTIONS), 0, 0, 0])
    }),
    killed("sends to an address", |_, _| call(libc::SYS_sendto, [0, 0, 0, 0, c"address".as_ptr() as c_long, 7])),
    // Namespaces, mounts, privileges.
    killed("makes a namespace", |_, _| call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0])),
    killed("makes a namespace with a thread", |_, _| call(libc::SYS_clone, [CLONE_NAMESPACE, 0, 0, 0, 0, 0])),
    killed("joins a namespace", |_, _| simple(libc::SYS_setns)),
    killed("mounts", |_, _| simple(libc::SYS_mount)),
    killed("unmounts", |_, _| call(libc::SYS_umount2, [c"/".as_ptr() as c_long, 2, 0, 0, 0, 0])),
    killed("changes its root", |_, _| call(libc::SYS_chroot, [c"/".as_ptr() as c_long, 0, 0, 0, 0, 0])),
    killed("opens by handle", |_, _| simple(libc::SYS_open_by_handle_at)),
    killed("becomes root", |_, _| simple(libc::SYS_setresuid)),
    killed("takes capabilities", |_, _| simple(libc::SYS_capset)),
    killed("raises its limits", |_, _| simple(libc::SYS_prlimit64)),
    killed("becomes dumpable", |_, _| call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0])),
    killed("adds a list of system calls", |_, _| simple(libc::SYS_seccomp)),
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
    killed("maps executable memory", |_, _| call(libc::SYS_mmap, [0, 4096, EXECUTABLE, ANONYMOUS, -1, 0])),
    // Amounts.
    refused("takes much memory", |_, _| much_memory()),
    refused("opens many files", |_, directory| many_descriptors(directory)),
    refused("starts many threads", |_, _| many_threads()),
];
