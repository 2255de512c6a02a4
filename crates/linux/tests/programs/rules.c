/* Rules that manual pages give in passing: which ids follow which, what a call refuses, what it leaves behind. */
#include "check.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

/* Runs a part in a process of its own: what it changes is gone with it. */
static void apart(void (*part)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        part();
        fflush(stdout);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    SHOW("ended", "%x", status);
}

static void users(const char *when)
{
    int ids[3];
    syscall(SYS_getresuid, ids, ids + 1, ids + 2);
    printf("%s: %d %d %d\n", when, ids[0], ids[1], ids[2]);
}

static void groups(const char *when)
{
    int ids[3];
    syscall(SYS_getresgid, ids, ids + 1, ids + 2);
    printf("%s: %d %d %d\n", when, ids[0], ids[1], ids[2]);
}

/* The wrappers of C libraries act on all threads; here it is the calls themselves. */
static void real_and_effective(void)
{
    SAY(syscall(SYS_setresgid, 10, 20, 30));
    SAY(syscall(SYS_setregid, -1, 10));
    groups("effective group is the real one");
    SAY(syscall(SYS_setregid, 11, -1));
    groups("real group set");
    SAY(syscall(SYS_setregid, -1, 40));
    groups("effective group set");
    SAY(syscall(SYS_setresuid, 1000, 0, 0));
    SAY(syscall(SYS_setreuid, -1, 1000));
    users("effective user is the real one");
    SAY(syscall(SYS_setreuid, 0, -1));
    SAY(syscall(SYS_setreuid, -1, 0));
    users("effective user is the saved one");
    SAY(syscall(SYS_setresuid, 1, 2, 3));
    SAY(syscall(SYS_setuid, 2));
    SAY(syscall(SYS_setreuid, 3, -1));
    SAY(syscall(SYS_setreuid, -1, 3));
    users("saved id taken up");
    SAY(syscall(SYS_setreuid, 3, -1));
    users("real user set");
    SAY(syscall(SYS_setreuid, -1, 1));
    SAY(syscall(SYS_setregid, 40, 11));
    groups("groups swapped");
    SAY(syscall(SYS_setregid, -1, 30));
    SAY(syscall(SYS_setgid, 40));
    groups("group set");
}

static void processes_of_others(void)
{
    unsigned version[2] = {0x20080522, -5}, sets[6];
    SAY(syscall(SYS_capget, version, sets));
    pid_t other = getppid();
    void *head;
    size_t length;
    SAY(syscall(SYS_setresuid, 1000, 1000, 1000));
    SAY(setpriority(PRIO_PROCESS, other, 5));
    SAY(setpriority(PRIO_PROCESS, 0, 5));
    SAY(getpriority(PRIO_PROCESS, 0));
    SAY(setpriority(PRIO_PROCESS, 0, 4));
    SAY(syscall(SYS_get_robust_list, other, &head, &length));
    SAY(syscall(SYS_get_robust_list, 0, &head, &length));
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 1));
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SAY(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 1));
    SAY(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SAY(prctl(PR_GET_TIMING));
    SAY(prctl(PR_SET_TIMING, PR_TIMING_STATISTICAL));
    SAY(prctl(PR_SET_TIMING, PR_TIMING_TIMESTAMP));
    SAY(prctl(PR_CAPBSET_DROP, 1));
    SAY(prctl(PR_SET_SECUREBITS, 0));
    SAY(prctl(PR_SET_THP_DISABLE, 0, 1, 0, 0));
    SAY(prctl(PR_GET_THP_DISABLE, 1, 0, 0, 0));
    SAY(prctl(9999));
}

static void opened(const char *name, int fd)
{
    printf("%s\n", name);
    SAY(fsync(fd));
    SAY(fdatasync(fd));
    SAY(syncfs(fd));
    SAY(sync_file_range(fd, 0, 0, 0));
    SAY(sync_file_range(fd, -1, 0, 0));
    SAY(sync_file_range(fd, 0, 0, 8));
    SAY(readahead(fd, 0, 10));
    SAY(syscall(SYS_fadvise64, fd, 0L, 0L, 0));
    SAY(syscall(SYS_fadvise64, fd, 0L, -1L, 0));
    SAY(syscall(SYS_fadvise64, fd, 0L, 0L, 6));
    close(fd);
}

static void flushing(void)
{
    char path[] = "/tmp/rules-XXXXXX";
    int pipes[2], sockets[2], file = mkstemp(path);
    if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
        abort();
    opened("file", file);
    opened("only written", open(path, O_WRONLY));
    opened("directory", open("/tmp", O_RDONLY));
    opened("pipe", pipes[0]);
    opened("socket", sockets[0]);
    opened("event", eventfd(0, 0));
    opened("null", open("/dev/null", O_RDWR));
    opened("process", open("/proc/self/stat", O_RDONLY));
    opened("name", open(path, O_PATH));
    struct statx found;
    SAY(statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_SIZE, &found));
    SAY(statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, STATX_SIZE, &found));
    unlink(path);
}

static void left(const char *when, long seconds, long parts)
{
    printf("%s: %s\n", when, seconds == 0 && parts == 0 ? "none" : seconds < 50 ? "less" : "much");
}

static void no_one(int signal)
{
    (void)signal;
}

static void remaining(void)
{
    int ends[2];
    if (pipe(ends))
        abort();
    struct timeval limit = {100, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[1], &set);
    SAY(syscall(SYS_select, ends[1] + 1, 0, &set, 0, &limit));
    left("select at once", limit.tv_sec, limit.tv_usec);
    limit = (struct timeval){0, 3000};
    FD_ZERO(&set);
    SAY(syscall(SYS_select, 0, 0, 0, 0, &limit));
    left("select later", limit.tv_sec, limit.tv_usec);
    struct timespec until = {100, 0};
    FD_SET(ends[1], &set);
    SAY(syscall(SYS_pselect6, ends[1] + 1, 0, &set, 0, &until, 0));
    left("pselect at once", until.tv_sec, until.tv_nsec);
    until = (struct timespec){0, 3000000};
    SAY(syscall(SYS_pselect6, 0, 0, 0, 0, &until, 0));
    left("pselect later", until.tv_sec, until.tv_nsec);
    struct pollfd polled = {ends[0], POLLIN, 0};
    until = (struct timespec){0, 3000000};
    SAY(syscall(SYS_ppoll, &polled, 1, &until, 0, 8));
    left("poll later", until.tv_sec, until.tv_nsec);
    until = (struct timespec){40, 0};
    struct itimerval alarm = {{0, 5000}, {0, 5000}}, none = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = no_one}, 0);
    setitimer(ITIMER_REAL, &alarm, 0);
    SAY(syscall(SYS_ppoll, &polled, 1, &until, 0, 8));
    setitimer(ITIMER_REAL, &none, 0);
    left("poll interrupted", until.tv_sec, until.tv_nsec);
    SHOW("by seconds", "%d", until.tv_sec == 39);
}

static void clocks(void)
{
    int names[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
                   CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_TAI, 10, 12};
    struct timespec nap = {0, 1000};
    for (unsigned c = 0; c < sizeof names / sizeof *names; c++) {
        int timer;
        SHOW("clock", "%d", names[c]);
        SAY(syscall(SYS_clock_nanosleep, names[c], 0, &nap, 0));
        SAY(syscall(SYS_timer_create, names[c], 0, &timer));
        SAY(syscall(SYS_clock_settime, names[c], &(struct timespec){0, -1}));
    }
    int timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_signo = SIGUSR1};
    SAY(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
    event.sigev_signo = 0;
    SAY(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
    event.sigev_notify = 3;
    SAY(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
    struct timex times = {0};
    SAY(adjtimex(&times) >= 0);
    SHOW("tick", "%d", times.tick > 9000 && times.tick < 11000);
    SHOW("time", "%d", times.time.tv_sec >= time(0) - 2 && times.time.tv_sec <= time(0));
    SAY(clock_adjtime(CLOCK_REALTIME, &times) >= 0);
    SAY(clock_adjtime(CLOCK_MONOTONIC, &times));
    SAY(syscall(SYS_adjtimex, 0));
    syscall(SYS_setresuid, 1000, 1000, 1000);
    times.modes = ADJ_FREQUENCY;
    SAY(adjtimex(&times));
    SAY(clock_settime(CLOCK_REALTIME, &nap));
    SAY(settimeofday(&(struct timeval){1, -1}, 0));
    SAY(settimeofday(&(struct timeval){1, 1}, 0));
}

static void *send_three(void *end)
{
    for (int i = 0; i < 3; i++) {
        usleep(3000);
        if (write((int)(long)end, "message", i + 1) < 0)
            abort();
    }
    return 0;
}

static void messages(int flags, int expected)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends))
        abort();
    char bytes[3][10];
    struct iovec parts[3];
    struct mmsghdr headers[3] = {0};
    for (int i = 0; i < 3; i++) {
        parts[i] = (struct iovec){bytes[i], 10};
        headers[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    pthread_t sender;
    pthread_create(&sender, 0, send_three, (void *)(long)ends[1]);
    int count = recvmmsg(ends[0], headers, 3, flags, 0);
    SHOW("as many as expected", "%d", count == expected);
    printf("lengths");
    for (int i = 0; i < count; i++)
        printf(" %u", headers[i].msg_len);
    printf("\n");
    pthread_join(sender, 0);
    /* Two are there or come no more: the time is looked at after each message. */
    if (write(ends[1], "x", 1) < 0)
        abort();
    struct timespec limit = {0, 0};
    SAY(recvmmsg(ends[0], headers, 1, flags, &limit));
    close(ends[0]);
    close(ends[1]);
}

static void receiving(void)
{
    messages(0, 3);
    messages(MSG_WAITFORONE, 1);
}

static int sharing_child(void *fd)
{
    close_range(*(int *)fd, ~0, CLOSE_RANGE_UNSHARE);
    return fcntl(*(int *)fd, F_GETFD) == -1 ? 7 : 8;
}

static void unsharing(void)
{
    static char stack[65536];
    int fd = dup(1), status;
    fcntl(fd, F_DUPFD, fd + 1);
    pid_t child = clone(sharing_child, stack + sizeof stack, CLONE_FILES | CLONE_VM | CLONE_VFORK | SIGCHLD, &fd);
    waitpid(child, &status, 0);
    SHOW("closed in the child", "%d", WEXITSTATUS(status));
    SAY(fcntl(fd, F_GETFD));
    SAY(unshare(0));
    SAY(unshare(CLONE_FILES));
    SAY(unshare(CLONE_FS));
    SAY(unshare(CLONE_FS | CLONE_FILES | CLONE_SYSVSEM));
    SAY(unshare(CLONE_THREAD));
    SAY(unshare(CLONE_VM | CLONE_SIGHAND));
    SAY(unshare(CLONE_VFORK));
    SAY(unshare(1));
    syscall(SYS_setresuid, 1000, 1000, 1000);
    SAY(unshare(CLONE_NEWNET));
    SAY(unshare(CLONE_NEWNS | CLONE_FILES));
}

struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static void told(int pid)
{
    struct attributes found = {0};
    printf("attributes: %ld,", syscall(SYS_sched_getattr, pid, &found, sizeof found, 0));
    printf(" size %u policy %u flags %lx nice %d priority %u\n", found.size, found.policy, (long)found.flags, found.nice,
           found.priority);
}

static void policies(void)
{
    syscall(SYS_setresuid, 1000, 1000, 1000);
    struct sched_param none = {0}, one = {1};
    struct attributes wanted = {.size = sizeof wanted, .nice = 3}, found;
    told(0);
    told(getpid());
    SAY(sched_setscheduler(0, SCHED_BATCH, &none));
    SAY(sched_getscheduler(0));
    SAY(sched_setscheduler(0, SCHED_OTHER, &none));
    SAY(sched_getscheduler(0));
    SAY(sched_setscheduler(0, SCHED_FIFO, &one));
    SAY(sched_setscheduler(0, SCHED_FIFO, &none));
    SAY(sched_setscheduler(0, 4, &none));
    SAY(sched_setscheduler(0, SCHED_BATCH, 0));
    SAY(sched_setscheduler(-1, SCHED_BATCH, &none));
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 0));
    told(0);
    SAY(getpriority(PRIO_PROCESS, 0));
    wanted.nice = 2;
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 0));
    wanted.nice = 3;
    wanted.flags = 0x1000;
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 0));
    wanted.flags = 0;
    wanted.priority = 1;
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 0));
    wanted.policy = SCHED_FIFO;
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 0));
    wanted.priority = 0;
    wanted.policy = 99;
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 0));
    wanted.policy = SCHED_BATCH;
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 1));
    wanted.size = 20;
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 0));
    wanted.size = 48;
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 0));
    told(0);
    SAY(syscall(SYS_sched_getattr, 0, &found, 40, 0));
    SAY(syscall(SYS_sched_getattr, 0, &found, sizeof found, 1));
    SAY(syscall(SYS_sched_getattr, -1, &found, sizeof found, 0));
    SAY(syscall(SYS_sched_getattr, 0, 0, sizeof found, 0));
    wanted.flags = 8;
    wanted.policy = 99;
    wanted.nice = 4;
    SAY(syscall(SYS_sched_setattr, 0, &wanted, 0));
    told(0);
    SAY(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none));
    SAY(sched_getscheduler(0));
    told(0);
    SAY(sched_setscheduler(0, SCHED_BATCH, &none));
    fflush(stdout);
    pid_t child = fork();
    if (!child)
        _exit(sched_getscheduler(0));
    int status;
    waitpid(child, &status, 0);
    SHOW("policy of a child", "%d", WEXITSTATUS(status));
    SAY(sched_setscheduler(0, SCHED_IDLE | SCHED_RESET_ON_FORK, &none));
    SAY(sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &none));
    SAY(sched_getparam(0, &one));
    SAY(sched_getparam(0, 0));
    SAY(sched_setparam(0, &none));
    SAY(sched_setparam(0, 0));
}

static void locked(void)
{
    struct rlimit limit = {4096, 4096}, none = {0, 0};
    char *pages = mmap(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    syscall(SYS_setresuid, 1000, 1000, 1000);
    SAY(setrlimit(RLIMIT_MEMLOCK, &limit));
    SAY(mlock(pages, 4096));
    SAY(mlock(pages, 4096));
    SAY(mlock(pages + 4096, 1));
    SAY(mlockall(MCL_CURRENT));
    SAY(mlockall(MCL_FUTURE));
    SAY(mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EAGAIN);
    SAY(munlockall());
    SAY(setrlimit(RLIMIT_MEMLOCK, &none));
    SAY(mlock(pages, 4096));
    SAY(mlock(pages, 0));
    SAY(mlockall(MCL_CURRENT));
    SAY(mlockall(0));
    SAY(mlockall(8));
    SAY(mlockall(MCL_ONFAULT));
    SAY(mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0) == MAP_FAILED && errno == EPERM);
    SAY(munlock(pages, 4096));
}

static void somebody_else(void)
{
    int wish = 0;
    SAY(prctl(PR_SET_PDEATHSIG, SIGTERM));
    SAY(prctl(PR_GET_DUMPABLE));
    SAY(syscall(SYS_setresuid, 1000, 0, 0));
    SAY(prctl(PR_GET_DUMPABLE));
    SAY(syscall(SYS_setresuid, -1, 1000, 0));
    SAY(prctl(PR_GET_DUMPABLE) == 1);
    SAY(prctl(PR_GET_PDEATHSIG, &wish));
    SHOW("wish", "%d", wish);
    SAY(prctl(PR_SET_DUMPABLE, 1));
    SAY(prctl(PR_GET_DUMPABLE));
}

struct action {
    void *handler;
    unsigned long flags;
    void *restorer;
    unsigned long mask;
};

static void probed(void)
{
    struct action all = {no_one, ~0UL, no_one, ~0UL}, found = {0};
    SAY(syscall(SYS_rt_sigaction, SIGUSR2, &all, 0, 8));
    SAY(syscall(SYS_rt_sigaction, SIGUSR2, 0, &found, 8));
    SHOW("flags", "%lx", found.flags);
    SHOW("mask", "%lx", found.mask);
    unsigned version[2] = {0x20080522, getppid()}, none[6] = {0};
    SAY(syscall(SYS_capset, version, none));
    version[1] = getpid();
    SAY(syscall(SYS_capset, version, none));
    none[0] = 1;
    SAY(syscall(SYS_capset, version, none));
}

static sigset_t input;

/* Whether the signal comes in some time, or has come already. */
static void awaited(const char *when, long seconds)
{
    siginfo_t info = {0};
    int signal = sigtimedwait(&input, &info, &(struct timespec){seconds, 0});
    if (signal < 0)
        printf("%s: %s\n", when, strerrorname_np(errno));
    else
        printf("%s: %d code %d\n", when, signal, info.si_code);
}

static void owned(void)
{
    int ends[2], pipes[2], on = 1, off = 0, event = eventfd(0, 0);
    struct f_owner_ex owner = {-1, -1};
    char bytes[10];
    setpgid(0, 0);
    sigemptyset(&input);
    sigaddset(&input, SIGIO);
    sigprocmask(SIG_BLOCK, &input, 0);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || pipe(pipes))
        abort();
    SAY(fcntl(ends[0], F_GETOWN_EX, &owner));
    SHOW("nobody", "%d", owner.pid);
    SAY(fcntl(ends[0], F_GETOWN));
    SAY(ioctl(ends[0], FIOASYNC, &on));
    SAY(fcntl(ends[0], F_GETFL) & O_ASYNC);
    SAY(write(ends[1], "a", 1));
    awaited("nobody told", 0);
    SAY(fcntl(ends[0], F_SETOWN, getpid()));
    SAY(fcntl(ends[0], F_GETOWN) == getpid());
    SAY(fcntl(ends[0], F_GETOWN_EX, &owner));
    SHOW("a process", "%d %d", owner.type, owner.pid == getpid());
    SAY(read(ends[0], bytes, sizeof bytes));
    awaited("after reading", 0);
    SAY(write(ends[1], "b", 1));
    awaited("something to read", 5);
    SAY(read(ends[0], bytes, sizeof bytes));
    awaited("after reading", 0);
    SAY(ioctl(ends[0], FIOASYNC, &off));
    SAY(fcntl(ends[0], F_GETFL) & O_ASYNC);
    SAY(write(ends[1], "c", 1));
    awaited("switched off", 0);
    SAY(fcntl(pipes[0], F_SETOWN, -getpgrp()));
    SAY(fcntl(pipes[0], F_SETFL, O_ASYNC | O_NONBLOCK));
    SAY(fcntl(pipes[0], F_GETFL));
    SAY(fcntl(pipes[0], F_GETOWN_EX, &owner));
    SHOW("a group", "%d %d", owner.type, owner.pid == getpgrp());
    SAY(write(pipes[1], "d", 1));
    awaited("a pipe", 5);
    SAY(read(pipes[0], bytes, sizeof bytes));
    owner = (struct f_owner_ex){F_OWNER_TID, gettid()};
    SAY(fcntl(pipes[0], F_SETOWN_EX, &owner));
    SAY(write(pipes[1], "e", 1));
    awaited("a thread", 5);
    SAY(read(pipes[0], bytes, sizeof bytes));
    close(pipes[1]);
    awaited("the end", 5);
    owner.type = 9;
    SAY(fcntl(pipes[0], F_SETOWN_EX, &owner));
    SAY(fcntl(pipes[0], F_SETOWN, 4194303));
    SAY(fcntl(pipes[0], F_SETOWN, -4194303));
    SAY(fcntl(pipes[0], F_SETOWN, 0x80000000));
    SAY(fcntl(pipes[0], F_SETOWN, 0));
    SAY(fcntl(pipes[0], F_GETOWN));
    SAY(fcntl(pipes[0], F_GETSIG));
    SAY(fcntl(pipes[0], F_SETSIG, 0));
    SAY(ioctl(event, FIOASYNC, &on));
    SAY(fcntl(event, F_SETFL, O_ASYNC));
    SAY(fcntl(event, F_GETFL) & O_ASYNC);
    SAY(ioctl(open("/dev/null", O_RDWR), FIOASYNC, &on));
    SAY(ioctl(ends[0], FIOASYNC, 1));
}

static void connection(const char *name, int fd)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    SAY(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
    printf("%s: state %d", name, info.tcpi_state);
    if (info.tcpi_state == TCP_LISTEN)
        printf(", %u of %u wait", info.tcpi_unacked, info.tcpi_sacked);
    printf("\n");
}

static void connections(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listening = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    int datagrams = socket(AF_INET, SOCK_DGRAM, 0), local = socket(AF_UNIX, SOCK_STREAM, 0);
    connection("new", client);
    if (bind(listening, (struct sockaddr *)&address, length) || listen(listening, 5)
        || getsockname(listening, (struct sockaddr *)&address, &length))
        abort();
    connection("listening", listening);
    if (connect(client, (struct sockaddr *)&address, length))
        abort();
    connection("client", client);
    connection("one waits", listening);
    connection("server", accept(listening, 0, 0));
    connection("none waits", listening);
    connection("datagrams", datagrams);
    connection("local", local);
    char state[1];
    length = 1;
    SAY(getsockopt(client, IPPROTO_TCP, TCP_INFO, state, &length));
    SHOW("first byte", "%u %d", length, state[0]);
    SAY(sched_get_priority_max(6));
    SAY(sched_get_priority_min(6));
}

int main(int count, char **arguments)
{
    if (count > 1 && !strcmp(arguments[1], "again")) {
        users("after execve");
        return 0;
    }
    apart(real_and_effective);
    apart(processes_of_others);
    apart(flushing);
    apart(remaining);
    apart(clocks);
    apart(receiving);
    apart(unsharing);
    apart(policies);
    apart(locked);
    apart(probed);
    apart(owned);
    apart(connections);
    apart(somebody_else);
    fflush(stdout);
    SAY(syscall(SYS_setresuid, 0, 0, 1000));
    fflush(stdout);
    execl("/proc/self/exe", "rules", "again", NULL);
    return 1;
}
