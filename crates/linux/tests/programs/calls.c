/* Random system calls, from threads and processes that share everything: `calls SEED MILLISECONDS`.

   The first process starts rounds one after the other and stays apart. A round is a process with a few descriptors of
   every kind, memory that all its threads use for arguments, a thread that changes this memory all the time, so that
   arguments change while a call is served, and one that interrupts waits. Its calls may fork, exec, block, kill and
   destroy it: when its time is over or it is gone, all that it has left is killed. What is printed last says that the
   monitor has borne it, and that enough calls did something.

   A round does not send signals to the first process: that would end the run and show nothing. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define ARENA_PAGES 64
#define ARENA_BYTES (ARENA_PAGES * PAGE)
#define GUARD_BYTES (16L << 20)
#define CALLERS 4
#define ROUND_MS 400
#define FDS 48
/* The process that starts rounds; in a guest the first one always has this id. */
#define FIRST 2

/* Arguments of a call, a letter each: f descriptor, p path, s any memory, n length, i small number, x flags or anything,
   t time, g signal, P process, A page, L length in pages, o offset, v vectors, m message header, a socket address,
   l pointer to a length, e events, c command, 0 nothing. */
struct call {
    short number;
    const char *arguments;
};

static const struct call calls[] = {
    { SYS_read, "fsn" }, { SYS_write, "fsn" }, { SYS_open, "pxi" }, { SYS_close, "f" }, { SYS_stat, "ps" },
    { SYS_fstat, "fs" }, { SYS_lstat, "ps" }, { SYS_poll, "eii" }, { SYS_lseek, "foi" }, { SYS_mmap, "ALixfo" },
    { SYS_mprotect, "ALi" }, { SYS_munmap, "AL" }, { SYS_brk, "A" }, { SYS_rt_sigaction, "gss8" },
    { SYS_rt_sigprocmask, "iss8" }, { SYS_rt_sigreturn, "" }, { SYS_ioctl, "fcs" }, { SYS_pread64, "fsno" },
    { SYS_pwrite64, "fsno" }, { SYS_readv, "fvi" }, { SYS_writev, "fvi" }, { SYS_access, "pi" }, { SYS_pipe, "s" },
    { SYS_select, "issst" }, { SYS_sched_yield, "" }, { SYS_mremap, "ALLiA" }, { SYS_msync, "ALi" },
    { SYS_mincore, "ALs" }, { SYS_madvise, "ALi" }, { SYS_dup, "f" }, { SYS_dup2, "ff" }, { SYS_pause, "" },
    { SYS_nanosleep, "ts" }, { SYS_getitimer, "is" }, { SYS_alarm, "i" }, { SYS_setitimer, "iss" },
    { SYS_sendfile, "ffsn" }, { SYS_socket, "iii" }, { SYS_connect, "fal" }, { SYS_accept, "fsl" },
    { SYS_sendto, "fsnxan" }, { SYS_recvfrom, "fsnxsl" }, { SYS_sendmsg, "fmx" }, { SYS_recvmsg, "fmx" },
    { SYS_shutdown, "fi" }, { SYS_bind, "fan" }, { SYS_listen, "fi" }, { SYS_getsockname, "fsl" },
    { SYS_getpeername, "fsl" }, { SYS_socketpair, "iiis" }, { SYS_setsockopt, "fiisn" }, { SYS_getsockopt, "fiisl" },
    { SYS_clone, "xsssx" }, { SYS_fork, "" }, { SYS_vfork, "" }, { SYS_execve, "pss" }, { SYS_exit, "i" },
    { SYS_wait4, "Psxs" }, { SYS_kill, "Pg" }, { SYS_uname, "s" }, { SYS_fcntl, "fix" }, { SYS_flock, "fi" },
    { SYS_fsync, "f" }, { SYS_fdatasync, "f" }, { SYS_truncate, "po" }, { SYS_ftruncate, "fo" },
    { SYS_getdents, "fsn" }, { SYS_getcwd, "sn" }, { SYS_chdir, "p" }, { SYS_fchdir, "f" }, { SYS_rename, "pp" },
    { SYS_mkdir, "pi" }, { SYS_rmdir, "p" }, { SYS_creat, "pi" }, { SYS_link, "pp" }, { SYS_unlink, "p" },
    { SYS_symlink, "pp" }, { SYS_readlink, "psn" }, { SYS_chmod, "pi" }, { SYS_fchmod, "fi" }, { SYS_chown, "pii" },
    { SYS_fchown, "fii" }, { SYS_umask, "i" }, { SYS_getrlimit, "is" }, { SYS_getrusage, "is" }, { SYS_sysinfo, "s" },
    { SYS_times, "s" }, { SYS_setuid, "i" }, { SYS_setgid, "i" }, { SYS_setpgid, "PP" }, { SYS_setsid, "" },
    { SYS_setreuid, "ii" }, { SYS_getgroups, "is" }, { SYS_setgroups, "is" }, { SYS_setresuid, "iii" },
    { SYS_getresuid, "sss" }, { SYS_capget, "ss" }, { SYS_capset, "ss" }, { SYS_rt_sigpending, "s8" },
    { SYS_rt_sigtimedwait, "sst8" }, { SYS_rt_sigqueueinfo, "Pgs" }, { SYS_rt_sigsuspend, "s8" },
    { SYS_sigaltstack, "ss" }, { SYS_mknod, "pxi" }, { SYS_statfs, "ps" }, { SYS_fstatfs, "fs" },
    { SYS_setpriority, "iPi" }, { SYS_sched_setscheduler, "Pis" }, { SYS_sched_getparam, "Ps" }, { SYS_mlock, "AL" },
    { SYS_munlock, "AL" }, { SYS_mlockall, "i" }, { SYS_prctl, "isiii" }, { SYS_arch_prctl, "xs" },
    { SYS_adjtimex, "s" }, { SYS_setrlimit, "is" }, { SYS_chroot, "p" }, { SYS_sethostname, "sn" },
    { SYS_readahead, "fon" }, { SYS_setxattr, "pssni" }, { SYS_getxattr, "pssn" }, { SYS_fsetxattr, "fssni" },
    { SYS_flistxattr, "fsn" }, { SYS_fremovexattr, "fs" }, { SYS_tkill, "Pg" }, { SYS_futex, "sxitsi" },
    { SYS_sched_setaffinity, "Pns" }, { SYS_sched_getaffinity, "Pns" }, { SYS_epoll_create, "i" },
    { SYS_getdents64, "fsn" }, { SYS_set_tid_address, "s" }, { SYS_fadvise64, "foni" }, { SYS_timer_create, "iss" },
    { SYS_timer_settime, "iiss" }, { SYS_timer_gettime, "is" }, { SYS_timer_getoverrun, "i" }, { SYS_timer_delete, "i" },
    { SYS_clock_settime, "is" }, { SYS_clock_gettime, "is" }, { SYS_clock_nanosleep, "iits" },
    { SYS_epoll_wait, "fsii" }, { SYS_epoll_ctl, "fifs" }, { SYS_tgkill, "PPg" }, { SYS_utimes, "ps" },
    { SYS_waitid, "iPsxs" }, { SYS_inotify_init, "" }, { SYS_inotify_add_watch, "fpx" }, { SYS_inotify_rm_watch, "fi" },
    { SYS_openat, "fpxi" }, { SYS_mkdirat, "fpi" }, { SYS_mknodat, "fpxi" }, { SYS_fchownat, "fpiix" },
    { SYS_newfstatat, "fpsx" }, { SYS_unlinkat, "fpx" }, { SYS_renameat, "fpfp" }, { SYS_linkat, "fpfpx" },
    { SYS_symlinkat, "pfp" }, { SYS_readlinkat, "fpsn" }, { SYS_fchmodat, "fpi" }, { SYS_faccessat, "fpi" },
    { SYS_pselect6, "issst" }, { SYS_ppoll, "eits8" }, { SYS_set_robust_list, "sn" }, { SYS_get_robust_list, "Pss" },
    { SYS_splice, "fsfsnx" }, { SYS_tee, "ffnx" }, { SYS_sync_file_range, "foni" }, { SYS_vmsplice, "fvix" },
    { SYS_utimensat, "fpsx" }, { SYS_epoll_pwait, "fsiis8" }, { SYS_signalfd, "fs8" }, { SYS_timerfd_create, "ix" },
    { SYS_eventfd, "i" }, { SYS_fallocate, "fxoo" }, { SYS_timerfd_settime, "fiss" }, { SYS_timerfd_gettime, "fs" },
    { SYS_accept4, "fslx" }, { SYS_signalfd4, "fs8x" }, { SYS_eventfd2, "ix" }, { SYS_epoll_create1, "x" },
    { SYS_dup3, "ffx" }, { SYS_pipe2, "sx" }, { SYS_inotify_init1, "x" }, { SYS_preadv, "fvio0" },
    { SYS_pwritev, "fvio0" }, { SYS_rt_tgsigqueueinfo, "PPgs" }, { SYS_recvmmsg, "fmixt" }, { SYS_prlimit64, "Piss" },
    { SYS_sendmmsg, "fmix" }, { SYS_process_vm_readv, "Pvivi0" }, { SYS_process_vm_writev, "Pvivi0" },
    { SYS_kcmp, "PPiff" }, { SYS_renameat2, "fpfpi" }, { SYS_seccomp, "iis" }, { SYS_getrandom, "snx" },
    { SYS_memfd_create, "px" }, { SYS_execveat, "fpssx" }, { SYS_membarrier, "xii" }, { SYS_mlock2, "ALi" },
    { SYS_copy_file_range, "fsfsn0" }, { SYS_preadv2, "fvio0x" }, { SYS_pwritev2, "fvio0x" }, { SYS_statx, "fpxxs" },
    { SYS_pidfd_send_signal, "fgs0" }, { SYS_pidfd_open, "Px" }, { SYS_clone3, "sn" }, { SYS_close_range, "iix" },
    { SYS_openat2, "fpsn" }, { SYS_pidfd_getfd, "fi0" }, { SYS_faccessat2, "fpix" }, { SYS_epoll_pwait2, "fsits8" },
};

static const char *paths[] = {
    "a", "b", "a/b", "a/b/c", "/tmp", "/tmp/x", ".", "..", "../..", "/", "/proc/self/maps", "/proc/self/fd",
    "/proc/self/fd/5", "/proc/self/status", "/proc/self/exe", "/proc/self/mem", "/proc/self/task", "/proc/meminfo",
    "/proc/self/cwd/a", "/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/ptmx", "/dev/pts/0", "/dev/tty",
    "/dev/shm/x", "/sys", "/etc/passwd", "/bin/true", "", "//a//./b/", "link", "link/b", "fifo", "socket",
};

static const unsigned long commands[] = {
    0x5401, 0x5402, 0x5403, 0x5404, 0x5409, 0x540a, 0x540b, 0x540e, 0x540f, 0x5410, 0x5411, 0x5412, 0x5413, 0x5414,
    0x541b, 0x5420, 0x5421, 0x5422, 0x5423, 0x5424, 0x5429, 0x5430, 0x5431, 0x5441, 0x5450, 0x5451, 0x5452, 0x8901,
    0x8904, 0x8912, 0x8913, 0x8927, 0x8933, 0x80045430, 0x40045431, 0x80045438, 0x80045439,
};

static const uint64_t edges[] = {
    0, 1, 2, 3, 7, 8, 100, 4095, 4096, 4097, 65536, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffff,
    0x800000000000, 0x7ffffffff000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0xfffffffffffff000,
    0xffffffffffffff9c, 0x1000, 0x6000, 0x8000, 0xffff800000000000,
};

/* Counted by rounds, read by the first process. */
static struct { long made, done; } *counts;
/* What arguments point to, and what memory calls are about; around both there is nothing for GUARD_BYTES. */
static char *arena, *target;
static char folder[40];

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t below(uint64_t *state, uint64_t end)
{
    return (next(state) >> 11) % end;
}

static long somewhere(uint64_t *state)
{
    switch (below(state, 16)) {
    case 0: return (long)arena + ARENA_BYTES - (long)below(state, 64);
    case 1: return 0;
    case 2: return (long)target + (long)below(state, ARENA_BYTES);
    case 3: return (long)edges[below(state, sizeof edges / sizeof *edges)];
    default: return (long)arena + (long)below(state, ARENA_BYTES / 8 - 16) * 8;
    }
}

/* Puts vectors, as readv(2) and others take them, to where others write too. */
static long vectors(uint64_t *state)
{
    long at = somewhere(state);
    if (at < (long)arena || at + 128 > (long)arena + ARENA_BYTES)
        return at;
    for (int i = 0; i < 4; i++) {
        ((long *)at)[i * 2] = somewhere(state);
        ((long *)at)[i * 2 + 1] = (long)below(state, below(state, 4) ? 300 : 100000);
    }
    return at;
}

static long address(uint64_t *state)
{
    long at = somewhere(state);
    if (at < (long)arena || at + 128 > (long)arena + ARENA_BYTES)
        return at;
    switch (below(state, 4)) {
    case 0:
        *(struct sockaddr_in *)at = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(4000 + below(state, 4)),
                                                          .sin_addr.s_addr = htonl(0x7f000001) };
        break;
    case 1:
        *(struct sockaddr_in6 *)at = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(4000 + below(state, 4)),
                                                            .sin6_addr.s6_addr[15] = 1 };
        break;
    default:
        *(short *)at = AF_UNIX;
        memcpy((char *)at + 2, below(state, 2) ? "socket\0\0" : "\0name\0\0\0", 8);
    }
    return at;
}

static long message(uint64_t *state)
{
    long at = somewhere(state);
    if (at < (long)arena || at + 256 > (long)arena + ARENA_BYTES)
        return at;
    struct msghdr *header = (void *)at;
    header->msg_name = below(state, 2) ? (void *)address(state) : 0;
    header->msg_namelen = below(state, 130);
    header->msg_iov = (void *)vectors(state);
    header->msg_iovlen = below(state, 5);
    header->msg_control = below(state, 2) ? (char *)at + 64 : 0;
    header->msg_controllen = below(state, 3) ? 24 : below(state, 200);
    struct cmsghdr *control = (void *)(at + 64);
    control->cmsg_len = below(state, 3) ? 20 : below(state, 64);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = 1 + below(state, 2);
    *(int *)CMSG_DATA(control) = below(state, FDS);
    return at;
}

static long a_time(uint64_t *state)
{
    long at = somewhere(state);
    if (at >= (long)arena && at + 16 <= (long)arena + ARENA_BYTES) {
        ((long *)at)[0] = 0;
        ((long *)at)[1] = below(state, 2000000);
    }
    return at;
}

static long events(uint64_t *state)
{
    long at = somewhere(state);
    if (at >= (long)arena && at + 128 <= (long)arena + ARENA_BYTES)
        for (int i = 0; i < 16; i++)
            ((long *)at)[i] = below(state, FDS) | below(state, 256) << 32;
    return at;
}

static long a_path(uint64_t *state)
{
    if (!below(state, 8))
        return somewhere(state);
    long at = (long)arena + (long)below(state, ARENA_BYTES - 64);
    strcpy((char *)at, paths[below(state, sizeof paths / sizeof *paths)]);
    return at;
}

static long argument(uint64_t *state, char kind)
{
    if (!below(state, 24))
        return below(state, 2) ? (long)edges[below(state, sizeof edges / sizeof *edges)] : (long)next(state);
    switch (kind) {
    case 'f': return below(state, 12) ? (long)below(state, FDS) : AT_FDCWD;
    case 'p': return a_path(state);
    case 's': return somewhere(state);
    case 'n': return (long)below(state, below(state, 6) ? 600 : 300000);
    case 'i': return (long)below(state, below(state, 4) ? 10 : 70);
    case 'x': return below(state, 3) ? (1L << below(state, 32)) | (1L << below(state, 32)) : (long)below(state, 16);
    case 't': return a_time(state);
    case 'g': return (long)below(state, 66);
    case 'P': return below(state, 3) ? 0 : (long)below(state, 40);
    case 'A': return (long)(below(state, 30) ? target : arena) + (long)below(state, ARENA_PAGES) * PAGE;
    case 'L': return (long)below(state, below(state, 8) ? 8 : 4096) * PAGE;
    case 'o': return (long)below(state, 20000);
    case 'v': return vectors(state);
    case 'm': return message(state);
    case 'a': return address(state);
    case 'l': return ((long)somewhere(state) & ~3L);
    case 'e': return events(state);
    case 'c': return (long)commands[below(state, sizeof commands / sizeof *commands)];
    case '8': return 8;
    default: return 0;
    }
}

/* Whether the call would end or stop the first process. Arguments are made harmless where that is possible. */
static int is_spared(long number, long *a)
{
    switch (number) {
    case SYS_kill: case SYS_rt_sigqueueinfo: case SYS_tkill: case SYS_pidfd_open: case SYS_prlimit64:
    case SYS_process_vm_writev: case SYS_sched_setscheduler: case SYS_sched_setaffinity:
        if ((int)a[0] == FIRST || (int)a[0] == -1 || (int)a[0] == -FIRST)
            a[0] = syscall(SYS_getpid);
        return 0;
    case SYS_tgkill: case SYS_rt_tgsigqueueinfo:
        if ((int)a[0] == FIRST || (int)a[1] == FIRST)
            a[0] = a[1] = syscall(SYS_getpid);
        return 0;
    case SYS_setpriority:
        return (int)a[1] == FIRST || (int)a[0] == 2;
    case SYS_fcntl:
        if (a[1] == F_SETOWN || a[1] == 15 /* F_SETOWN_EX */)
            a[2] = syscall(SYS_getpid);
        return 0;
    case SYS_ioctl: /* FIOSETOWN, SIOCSPGRP */
        return (unsigned)a[1] == 0x8901 || (unsigned)a[1] == 0x8902;
    case SYS_setpgid: /* nor into its group */
        if ((int)a[1] == FIRST)
            a[1] = 0;
        return 0;
    }
    return 0;
}

/* Calls after which little happens in this round are made less often. */
static int is_rare(long number)
{
    switch (number) {
    case SYS_exit: case SYS_exit_group: case SYS_rt_sigreturn: case SYS_execve: case SYS_execveat: case SYS_seccomp:
    case SYS_chroot: case SYS_fork: case SYS_vfork: case SYS_clone: case SYS_clone3: case SYS_close_range: case SYS_kill:
    case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo: case SYS_arch_prctl:
    case SYS_setrlimit: case SYS_prlimit64: case SYS_setuid: case SYS_setreuid: case SYS_setresuid: case SYS_munmap:
    case SYS_pause: case SYS_rt_sigsuspend: case SYS_rt_sigtimedwait: case SYS_brk:
        return 1;
    }
    return 0;
}

static void *make_calls(void *seed)
{
    uint64_t state = (uint64_t)seed;
    for (;;) {
        const char *arguments = "xsxsxs";
        long number = (long)below(&state, 470);
        if (below(&state, 10)) {
            const struct call *call = &calls[below(&state, sizeof calls / sizeof *calls)];
            number = call->number;
            arguments = call->arguments;
        }
        if (is_rare(number) && below(&state, 40))
            continue;
        long a[6] = { 0 };
        for (int i = 0; i < 6 && arguments[i]; i++)
            a[i] = argument(&state, arguments[i]);
        if (is_spared(number, a))
            continue;
        long result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        __atomic_fetch_add(&counts->made, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&counts->done, result >= 0, __ATOMIC_RELAXED);
        if (result == 0 && (number == SYS_fork || number == SYS_vfork || number == SYS_clone || number == SYS_clone3))
            state += (uint64_t)syscall(SYS_gettid) * 0x9e3779b97f4a7c15; /* a child goes its own way */
    }
    return 0;
}

/* Changes arguments while calls are served. */
static void *scribble(void *seed)
{
    uint64_t state = (uint64_t)seed;
    for (;;) {
        long *word = (long *)(arena + below(&state, ARENA_BYTES / 8) * 8);
        switch (below(&state, 4)) {
        case 0: *word = somewhere(&state); break;
        case 1: *word = (long)below(&state, 64); break;
        case 2: *word ^= 1L << below(&state, 64); break;
        default: *word = *(long *)(arena + below(&state, ARENA_BYTES / 8) * 8);
        }
    }
    return 0;
}

static void on_signal(int signal) { }

/* The memory of arguments comes back where a call has taken it away. Where something else faults, the round is over. */
static void on_fault(int signal, siginfo_t *info, void *context)
{
    char *page = (char *)((long)info->si_addr & -PAGE);
    if (page < arena || page >= arena + ARENA_BYTES ||
        mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
}

/* Pages with nothing around them. */
static char *lonely_pages(int flags)
{
    char *all = mmap(0, ARENA_BYTES + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return mmap(all + GUARD_BYTES, ARENA_BYTES, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_ANONYMOUS, -1, 0);
}

static pthread_t callers[CALLERS];

/* Ends waits: they would keep the callers from calling. */
static void *interrupt(void *unused)
{
    for (unsigned n = 0;; n++) {
        struct timespec pause = { 0, 3000000 };
        nanosleep(&pause, 0);
        pthread_kill(callers[n % CALLERS], SIGUSR1);
    }
    return 0;
}

static void make_descriptors(void)
{
    int null = open("/dev/null", O_RDWR), pair[2];
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    close_range(3, ~0U, 0);
    pipe(pair);
    pipe2(pair, O_NONBLOCK);
    for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++)
        socketpair(AF_UNIX, type, 0, pair);
    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair);
    open("a", O_RDWR | O_CREAT, 0600);
    open("b", O_RDWR | O_CREAT | O_APPEND, 0600);
    open(".", O_RDONLY | O_DIRECTORY);
    open(".", O_PATH);
    open("/etc/passwd", O_RDONLY);
    open("/proc/self/maps", O_RDONLY);
    open("/proc/self/mem", O_RDWR);
    open("/dev/zero", O_RDWR);
    symlink("..", "link");
    mkfifo("fifo", 0600);
    open("fifo", O_RDWR);
    eventfd(1, EFD_NONBLOCK);
    timerfd_create(CLOCK_MONOTONIC, 0);
    sigset_t all;
    sigfillset(&all);
    signalfd(-1, &all, SFD_NONBLOCK);
    int epoll = epoll_create1(0);
    for (int fd = 3; fd < epoll; fd++) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.fd = fd };
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
    inotify_add_watch(inotify_init1(IN_NONBLOCK), ".", IN_ALL_EVENTS);
    ftruncate(memfd_create("m", MFD_ALLOW_SEALING), 5 * PAGE);
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    unlockpt(terminal);
    ioctl(terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    struct sockaddr_in local = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    for (int port = 4000; port < 4002; port++) {
        local.sin_port = htons(port);
        int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
        bind(listener, (void *)&local, sizeof local);
        listen(listener, 4);
        connect(client, (void *)&local, sizeof local);
        int datagrams = socket(AF_INET, SOCK_DGRAM, 0);
        bind(datagrams, (void *)&local, sizeof local);
    }
    struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "socket" };
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(listener, (void *)&name, sizeof name);
    listen(listener, 4);
    syscall(SYS_pidfd_open, getpid(), 0);
}

static void round_of(uint64_t seed)
{
    setpgid(0, 0);
    mkdir(folder, 0777);
    chdir(folder);
    struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGUSR1, &action, 0);
    sigaction(SIGALRM, &action, 0);
    sigaction(SIGIO, &action, 0);
    struct sigaction fault = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };
    sigaction(SIGSEGV, &fault, 0);
    sigaction(SIGBUS, &fault, 0);
    signal(SIGPIPE, SIG_IGN);
    make_descriptors();
    arena = lonely_pages(seed & 1 ? MAP_SHARED : MAP_PRIVATE);
    target = lonely_pages(seed & 2 ? MAP_SHARED : MAP_PRIVATE);
    pthread_t thread;
    for (uint64_t i = 0; i < CALLERS; i++)
        pthread_create(&callers[i], 0, make_calls, (void *)((seed + i + 1) * 0x9e3779b97f4a7c15));
    if (seed % 3)
        pthread_create(&thread, 0, scribble, (void *)(seed * 0x9e3779b97f4a7c15 + 7));
    pthread_create(&thread, 0, interrupt, 0);
    for (;;)
        pause();
}

static int remove_it(const char *path, const struct stat *status, int flag, struct FTW *place)
{
    remove(path);
    return 0;
}

static long now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Waits for a round until its time is over, then ends whatever is left of it. */
static void end_round(pid_t pid)
{
    long until = now_ms() + ROUND_MS;
    while (now_ms() < until && waitpid(pid, 0, WNOHANG) == 0) {
        struct timespec pause = { 0, 10000000 };
        nanosleep(&pause, 0);
    }
    kill(-1, SIGKILL);
    do
        errno = 0;
    while (waitpid(-1, 0, 0) > 0 || errno == EINTR);
}

int main(int argc, char **argv)
{
    struct utsname name;
    uname(&name);
    /* It kills every process that it can see. */
    if (argc != 3 || getpid() != FIRST || strcmp(name.nodename, "guest")) {
        fprintf(stderr, "use: calls SEED MILLISECONDS, as the first process of a guest\n");
        return 2;
    }
    setvbuf(stdout, 0, _IOLBF, 0);
    for (int signal_number = 1; signal_number < 65; signal_number++)
        if (signal_number != SIGCHLD)
            signal(signal_number, SIG_IGN);
    uint64_t seed = strtoull(argv[1], 0, 10);
    printf("seed %lu\n", seed);
    counts = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    long end = now_ms() + atol(argv[2]), rounds = 0, refused = 0;
    for (; now_ms() < end; rounds++) {
        sprintf(folder, "/tmp/round.%ld", rounds);
        pid_t pid = fork();
        if (!pid)
            round_of(seed * 1000003 + rounds);
        if (pid < 0)
            refused++;
        else
            end_round(pid);
        chmod(folder, 0700);
        nftw(folder, remove_it, 20, FTW_DEPTH | FTW_PHYS);
    }
    printf("%ld rounds, %ld without a process, %ld calls, %ld did something\n", rounds, refused, counts->made, counts->done);
    printf("borne: %s\n", refused == 0 && counts->done > rounds * 20 && counts->made > counts->done ? "yes" : "no");
    return 0;
}
