//! The list of system calls of a jailed process (`seccomp(2)`). Everything else ends the process.
//!
//! Where the number alone would allow too much, the arguments are checked. Memory cannot be: what a pointer leads to may
//! change after the check. So calls that name a file by a path are harmless by the empty root and Landlock, not here.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Which process the list is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// A monitor that runs its guest on KVM, with the requests of `ioctl` that it makes of its virtual machine.
    KvmMonitor {
        /// Request numbers.
        requests: Vec<u64>,
    },
    /// A monitor that runs its guest in processes that it traces. The list holds for these too while they are made; before
    /// guest code runs in them they are given a far shorter one of their own.
    PtraceMonitor,
    /// The process that opens outbound connections: it may use the network, and no files.
    Egress,
}

/// When a call is allowed.
enum Rule {
    Always,
    /// When all conditions of one of the alternatives hold.
    When(Vec<Vec<Condition>>),
}

/// A condition on one argument.
struct Condition {
    argument: u8,
    is: Is,
}

enum Is {
    /// The lower 32 bits, which is all that the kernel takes of flags and numbers.
    Equal(u64),
    /// All 64 bits.
    Zero,
    /// The bits of the first that are set are those of the second.
    Masked(u64, u64),
}

const fn equal(argument: u8, value: u64) -> Condition {
    Condition { argument, is: Is::Equal(value) }
}

const fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    Condition { argument, is: Is::Masked(mask, value) }
}

/// One alternative for each value of an argument.
fn any_of(argument: u8, values: impl IntoIterator<Item = u64>) -> Rule {
    Rule::When(values.into_iter().map(|value| vec![equal(argument, value)]).collect())
}

/// Calls of every profile, without conditions: memory, waiting, threads' own affairs, descriptors that are there already.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The standard library lets a thread wait so that ends the process while another one does.
    libc::SYS_pause,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // What the standard library asks in a panic's message.
    libc::SYS_getcwd,
];

/// Further calls of a monitor: reading files beneath descriptors of directories.
const FILES: &[i64] = &[
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_ioctl,
];

/// Further calls of a monitor that traces: making, running and ending the traced processes, and what a new one does to
/// give up what it has from the monitor.
const TRACING: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_ptrace,
    libc::SYS_wait4,
    // Of its own processes: others cannot be named, and Landlock lets no signal out.
    libc::SYS_kill,
    libc::SYS_sched_setaffinity,
    libc::SYS_getcpu,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_setsid,
    libc::SYS_dup2,
    libc::SYS_close_range,
    libc::SYS_prlimit64,
    libc::SYS_setrlimit,
    libc::SYS_geteuid,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_capset,
    libc::SYS_seccomp,
    // Pages of the guest are executed as they are mapped there.
    libc::SYS_mmap,
];

/// Further calls of `egress`.
const NETWORK: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_setsockopt,
    libc::SYS_recvmmsg,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

/// `PR_GET_AUXV` of `linux/prctl.h`: the standard library asks what the processor can do.
const PR_GET_AUXV: u64 = 0x4155_5856;
/// Requests of `ioctl` that concern descriptors in general.
#[allow(clippy::unnecessary_cast, reason = "their type is the C library's choice")]
const GENERAL_REQUESTS: [u64; 4] =
    [libc::FIONBIO as u64, libc::FIOCLEX as u64, libc::FIONREAD as u64, libc::TIOCGWINSZ as u64];

/// Installs the list for the calling thread and those that it will start.
pub(crate) fn install(profile: &Profile) -> Result<String, String> {
    // Its flags are in memory, where they cannot be checked: the C library does without.
    let refused = [(libc::SYS_clone3, Rule::Always)].into_iter().collect();
    let action = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let refused = compile(refused, SeccompAction::Allow, action)?;
    let rules = rules(profile);
    let count = rules.len();
    let allowed = compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)?;
    for program in [&refused, &allowed] {
        seccompiler::apply_filter(program).map_err(|error| error.to_string())?;
    }
    Ok(format!("{count} calls are allowed, any other ends the process"))
}

/// A flag or number as system calls take it.
fn bits(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}

fn rules(profile: &Profile) -> BTreeMap<i64, Rule> {
    let own_pid = u64::try_from(rustix::process::getpid().as_raw_nonzero().get()).unwrap_or_default();
    let thread = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    let executable = libc::PROT_EXEC.unsigned_abs().into();
    let mut rules: BTreeMap<i64, Rule> = COMMON.iter().map(|call| (*call, Rule::Always)).collect();
    rules.extend([
        // Refused by the other list, which must not be overruled by this one.
        (libc::SYS_clone3, Rule::Always),
        (libc::SYS_clone, Rule::When(vec![vec![masked(0, bits(thread | namespaces), bits(thread))]])),
        (libc::SYS_mmap, Rule::When(vec![vec![masked(2, executable, 0)]])),
        (libc::SYS_mprotect, Rule::When(vec![vec![masked(2, executable, 0)]])),
        (libc::SYS_tgkill, any_of(0, [own_pid])),
        (libc::SYS_prctl, any_of(0, [bits(libc::PR_SET_NAME), bits(libc::PR_SET_VMA), PR_GET_AUXV])),
        (
            libc::SYS_fcntl,
            any_of(1, [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC].map(bits)),
        ),
    ]);
    match profile {
        Profile::KvmMonitor { requests } => {
            rules.extend(reading_rules());
            rules.insert(libc::SYS_ioctl, any_of(1, requests.iter().copied().chain(GENERAL_REQUESTS)));
        }
        Profile::PtraceMonitor => {
            rules.extend(reading_rules());
            rules.insert(libc::SYS_ioctl, any_of(1, GENERAL_REQUESTS));
            rules.extend(TRACING.iter().map(|call| (*call, Rule::Always)));
            let copy = bits(libc::CLONE_PARENT | libc::SIGCHLD);
            let thread = vec![masked(0, bits(thread | namespaces), bits(thread))];
            rules.insert(libc::SYS_clone, Rule::When(vec![thread, vec![equal(0, copy)]]));
            let options = [libc::PR_SET_NAME, libc::PR_SET_VMA, libc::PR_SET_NO_NEW_PRIVS, libc::PR_SET_PDEATHSIG];
            let options = options.map(bits).into_iter().chain([PR_GET_AUXV]).map(|option| vec![equal(0, option)]);
            let not_dumpable = vec![equal(0, bits(libc::PR_SET_DUMPABLE)), equal(1, 0)];
            rules.insert(libc::SYS_prctl, Rule::When(options.chain([not_dumpable]).collect()));
            let commands =
                [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC, libc::F_DUPFD];
            rules.insert(libc::SYS_fcntl, any_of(1, commands.map(bits)));
        }
        Profile::Egress => {
            rules.extend(NETWORK.iter().map(|call| (*call, Rule::Always)));
            rules.insert(libc::SYS_sendto, Rule::Always);
            rules.insert(libc::SYS_socket, any_of(0, [libc::AF_INET, libc::AF_INET6].map(bits)));
            rules.insert(libc::SYS_ioctl, any_of(1, GENERAL_REQUESTS));
        }
    }
    rules
}

/// Options of connections that a monitor may set: none of them changes where a connection leads to.
const CONNECTION_OPTIONS: [(i32, i32); 7] = [
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
];

/// What a monitor may do with files, and with the sockets that it was given.
fn reading_rules() -> Vec<(i64, Rule)> {
    let mut rules: Vec<(i64, Rule)> = FILES.iter().map(|call| (*call, Rule::Always)).collect();
    // Nothing is opened for writing or made. (`O_ACCMODE` of musl has `O_PATH` in it.)
    let modes = libc::O_WRONLY | libc::O_RDWR;
    let writing = u64::from((modes | libc::O_CREAT | libc::O_TRUNC).cast_unsigned());
    let reading = u64::from(libc::O_RDONLY.cast_unsigned());
    rules.push((libc::SYS_openat, Rule::When(vec![vec![masked(2, writing, reading)]])));
    // musl's own form of it.
    rules.push((libc::SYS_open, Rule::When(vec![vec![masked(1, writing, reading)]])));
    // Not to an address, which a connected socket for datagrams would take and `MSG_FASTOPEN` too: egress has checked whom
    // the sockets that a monitor is given are connected to. `sendmsg(2)` has the address in memory, and is not on the list.
    rules.push((libc::SYS_sendto, Rule::When(vec![vec![Condition { argument: 4, is: Is::Zero }, equal(5, 0)]])));
    let options = CONNECTION_OPTIONS.map(|(level, name)| vec![equal(1, bits(level)), equal(2, bits(name))]);
    rules.push((libc::SYS_setsockopt, Rule::When(options.into())));
    rules
}

fn compile(
    rules: BTreeMap<i64, Rule>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, String> {
    let rules = rules
        .into_iter()
        .map(|(call, rule)| {
            let alternatives = match rule {
                Rule::Always => Vec::new(),
                Rule::When(alternatives) => alternatives
                    .into_iter()
                    .map(|all| SeccompRule::new(all.into_iter().map(condition).collect::<Result<_, _>>()?))
                    .collect::<Result<Vec<_>, _>>()?,
            };
            Ok((call, alternatives))
        })
        .collect::<Result<BTreeMap<_, _>, seccompiler::BackendError>>();
    let describe = |error: seccompiler::BackendError| error.to_string();
    let filter = SeccompFilter::new(rules.map_err(describe)?, otherwise, matching, TargetArch::x86_64);
    filter.and_then(TryInto::try_into).map_err(describe)
}

fn condition(condition: Condition) -> Result<SeccompCondition, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    let (length, operator, value) = match condition.is {
        Is::Equal(value) => (Dword, SeccompCmpOp::Eq, value),
        Is::Zero => (Qword, SeccompCmpOp::Eq, 0),
        Is::Masked(mask, value) => (Dword, SeccompCmpOp::MaskedEq(mask), value),
    };
    SeccompCondition::new(condition.argument, length, operator, value)
}
