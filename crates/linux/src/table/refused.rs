//! The system calls that are not offered: with which errno, and why. Together with [`super::all`] these are all calls of
//! x86-64 Linux 6.1; other numbers give `ENOSYS`.

use crate::errno::Errno;

/// Calls that are refused for one reason.
pub struct Group {
    /// What they give.
    pub errno: Errno,
    /// Why, for the documentation and the log.
    pub why: &'static str,
    /// Number and name of each.
    pub calls: &'static [(u16, &'static str)],
}

/// All of them.
pub static GROUPS: &[Group] = &[
    Group {
        errno: Errno::ENOSYS,
        why: "System V IPC is not offered: use POSIX semaphores and shared memory",
        calls: &[
            (29, "shmget"),
            (30, "shmat"),
            (31, "shmctl"),
            (64, "semget"),
            (65, "semop"),
            (66, "semctl"),
            (67, "shmdt"),
            (68, "msgget"),
            (69, "msgsnd"),
            (70, "msgrcv"),
            (71, "msgctl"),
            (220, "semtimedop"),
        ],
    },
    Group {
        errno: Errno::ENOSYS,
        why: "POSIX message queues are not offered",
        calls: &[
            (240, "mq_open"),
            (241, "mq_unlink"),
            (242, "mq_timedsend"),
            (243, "mq_timedreceive"),
            (244, "mq_notify"),
            (245, "mq_getsetattr"),
        ],
    },
    Group { errno: Errno::EPERM, why: "no process may trace another", calls: &[(101, "ptrace")] },
    Group {
        errno: Errno::ENOSYS,
        why: "removed from Linux, or never there for 64-bit programs",
        calls: &[
            (134, "uselib"),
            (156, "_sysctl"),
            (174, "create_module"),
            (177, "get_kernel_syms"),
            (178, "query_module"),
            (180, "nfsservctl"),
            (181, "getpmsg"),
            (182, "putpmsg"),
            (183, "afs_syscall"),
            (184, "tuxcall"),
            (185, "security"),
            (205, "set_thread_area"),
            (211, "get_thread_area"),
            (212, "lookup_dcookie"),
            (214, "epoll_ctl_old"),
            (215, "epoll_wait_old"),
            (236, "vserver"),
        ],
    },
    Group {
        errno: Errno::ENOSYS,
        why: "old interfaces that nobody uses",
        calls: &[(136, "ustat"), (139, "sysfs"), (216, "remap_file_pages")],
    },
    Group {
        errno: Errno::EPERM,
        why: "needs a privilege that no guest has",
        calls: &[
            (103, "syslog"),
            (153, "vhangup"),
            (155, "pivot_root"),
            (161, "chroot"),
            (163, "acct"),
            (165, "mount"),
            (166, "umount2"),
            (167, "swapon"),
            (168, "swapoff"),
            (169, "reboot"),
            (170, "sethostname"),
            (171, "setdomainname"),
            (172, "iopl"),
            (173, "ioperm"),
            (175, "init_module"),
            (176, "delete_module"),
            (179, "quotactl"),
            (246, "kexec_load"),
            (300, "fanotify_init"),
            (301, "fanotify_mark"),
            (304, "open_by_handle_at"),
            (308, "setns"),
            (313, "finit_module"),
            (320, "kexec_file_load"),
            (428, "open_tree"),
            (429, "move_mount"),
            (430, "fsopen"),
            (431, "fsconfig"),
            (432, "fsmount"),
            (433, "fspick"),
            (442, "mount_setattr"),
            (443, "quotactl_fd"),
        ],
    },
    Group { errno: Errno::ENOSYS, why: "16-bit and 32-bit segments are not offered", calls: &[(154, "modify_ldt")] },
    Group {
        errno: Errno::ENOSYS,
        why: "the kernel's own restart mechanism: interrupted calls are restarted without it",
        calls: &[(219, "restart_syscall")],
    },
    Group {
        errno: Errno::ENOSYS,
        why: "asynchronous I/O: programs fall back to threads",
        calls: &[
            (206, "io_setup"),
            (207, "io_destroy"),
            (208, "io_getevents"),
            (209, "io_submit"),
            (210, "io_cancel"),
            (333, "io_pgetevents"),
            (425, "io_uring_setup"),
            (426, "io_uring_enter"),
            (427, "io_uring_register"),
        ],
    },
    Group {
        errno: Errno::ENOSYS,
        why: "one memory node: there is no policy to set",
        calls: &[
            (237, "mbind"),
            (238, "set_mempolicy"),
            (239, "get_mempolicy"),
            (256, "migrate_pages"),
            (279, "move_pages"),
            (450, "set_mempolicy_home_node"),
        ],
    },
    Group {
        errno: Errno::ENOSYS,
        why: "kernel key rings are not offered",
        calls: &[(248, "add_key"), (249, "request_key"), (250, "keyctl")],
    },
    Group { errno: Errno::ENOSYS, why: "I/O priorities", calls: &[(251, "ioprio_set"), (252, "ioprio_get")] },
    Group {
        errno: Errno::EPERM,
        why: "performance counters, BPF and fault handling in user space are closed, as for unprivileged programs",
        calls: &[(298, "perf_event_open"), (321, "bpf"), (323, "userfaultfd")],
    },
    Group { errno: Errno::EOPNOTSUPP, why: "no file system has handles", calls: &[(303, "name_to_handle_at")] },
    Group {
        errno: Errno::ENOSYS,
        why: "hints about the memory of other processes",
        calls: &[(440, "process_madvise"), (448, "process_mrelease")],
    },
    Group {
        errno: Errno::EINVAL,
        why: "filters of system calls: programs take this for a kernel without them",
        calls: &[(317, "seccomp")],
    },
    Group {
        errno: Errno::ENOSYS,
        why: "protection keys: programs take this for a processor without them",
        calls: &[(329, "pkey_mprotect"), (330, "pkey_alloc"), (331, "pkey_free")],
    },
    Group {
        errno: Errno::ENOSYS,
        why: "restartable sequences: C libraries go on without them",
        calls: &[(334, "rseq")],
    },
    Group {
        errno: Errno::ENOSYS,
        why: "Landlock: programs take this for a kernel without it",
        calls: &[(444, "landlock_create_ruleset"), (445, "landlock_add_rule"), (446, "landlock_restrict_self")],
    },
    Group {
        errno: Errno::ENOSYS,
        why: "secret memory: programs fall back to locked memory",
        calls: &[(447, "memfd_secret")],
    },
];

/// A call that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub name: &'static str,
    /// What it gives.
    pub errno: Errno,
    /// Why.
    pub why: &'static str,
}

/// What a call gives that is not offered.
pub fn find(number: u64) -> Refused {
    let listed = GROUPS.iter().find_map(|group| {
        let (_, name) = group.calls.iter().find(|(listed, _)| u64::from(*listed) == number)?;
        Some(Refused { name, errno: group.errno, why: group.why })
    });
    listed.unwrap_or(Refused { name: "?", errno: Errno::ENOSYS, why: "no such system call" })
}
