/* Descriptors for processes and for signals: pidfd_open and its relatives, signalfd; with poll and epoll. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int pidfd_open_of(pid_t pid, unsigned flags) { return syscall(SYS_pidfd_open, pid, flags); }

static int pidfd_signal(int fd, int signal, siginfo_t *info, unsigned flags)
{
    return syscall(SYS_pidfd_send_signal, fd, signal, info, flags);
}

static int pidfd_getfd_of(int fd, int target, unsigned flags) { return syscall(SYS_pidfd_getfd, fd, target, flags); }

static pid_t waiting(void)
{
    pid_t pid = fork();
    if (!pid)
        for (;;)
            pause();
    return pid;
}

static int ready(int fd, int events, int timeout)
{
    struct pollfd one = { .fd = fd, .events = events };
    int result = poll(&one, 1, timeout);
    return result == 1 ? one.revents : result;
}

static void processes(void)
{
    SAY(pidfd_open_of(0, 0));
    SAY(pidfd_open_of(-1, 0));
    SAY(pidfd_open_of(999999, 0));
    SAY(pidfd_open_of(getpid(), 1));
    pid_t pid = waiting();
    int fd = pidfd_open_of(pid, 0);
    SAY(fd >= 0);
    SAY(fcntl(fd, F_GETFD));
    SAY(fcntl(fd, F_GETFL) & O_NONBLOCK);
    char byte;
    SAY(read(fd, &byte, 1));
    SAY(write(fd, &byte, 1));
    SAY(ready(fd, POLLIN, 0));
    SAY(pidfd_signal(fd, 0, 0, 0));
    SAY(pidfd_signal(fd, 65, 0, 0));
    SAY(pidfd_signal(fd, 0, 0, 64));
    SAY(pidfd_signal(0, 0, 0, 0));
    SAY(pidfd_signal(-1, 0, 0, 0));
    siginfo_t info = { .si_signo = SIGUSR1, .si_code = SI_USER };
    SAY(pidfd_signal(fd, SIGUSR1, &info, 0));
    siginfo_t waited;
    int quick = pidfd_open_of(pid, O_NONBLOCK);
    SAY(waitid(P_PIDFD, quick, &waited, WEXITED));
    SAY(waitid(P_PIDFD, fd, &waited, WEXITED | WNOHANG));
    SAY(waitid(P_PIDFD, 0, &waited, WEXITED));
    SAY(waitid(P_PIDFD, -1, &waited, WEXITED));
    int epoll = epoll_create1(0);
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = 7 };
    SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    SAY(epoll_wait(epoll, &event, 1, 0));
    SAY(pidfd_signal(fd, SIGTERM, 0, 0));
    SAY(epoll_wait(epoll, &event, 1, -1));
    SAY(event.data.u32);
    SAY(ready(fd, POLLIN, -1) & POLLIN);
    SAY(pidfd_signal(fd, SIGTERM, 0, 0));
    SAY(waitid(P_PIDFD, quick, &waited, WEXITED | WNOWAIT));
    SAY(waited.si_pid == pid);
    SAY(waitid(P_PIDFD, fd, &waited, WEXITED));
    SAY(waited.si_status);
    SAY(waited.si_code);
    SAY(pidfd_signal(fd, 0, 0, 0));
    SAY(waitid(P_PIDFD, fd, &waited, WEXITED));
    SAY(ready(fd, POLLIN, 0) & POLLIN);
    close(fd);
    close(quick);
    close(epoll);
    int own = pidfd_open_of(getpid(), 0);
    SAY(waitid(P_PIDFD, own, &waited, WEXITED | WNOHANG));
    close(own);
    /* A zombie has a descriptor that is ready at once. */
    pid = fork();
    if (!pid)
        _exit(3);
    waitid(P_PID, pid, &waited, WEXITED | WNOWAIT);
    fd = pidfd_open_of(pid, 0);
    SAY(ready(fd, POLLIN, 0) & POLLIN);
    SAY(pidfd_getfd_of(fd, 0, 0));
    SAY(waitpid(pid, 0, 0) == pid);
    SAY(pidfd_getfd_of(fd, 0, 0));
    close(fd);
}

/* A directory of /proc stands for its process, for signals only. */
static void directories(void)
{
    pid_t pid = waiting();
    char path[64];
    snprintf(path, sizeof path, "/proc/%d", pid);
    int fd = open(path, O_DIRECTORY), named = open(path, O_PATH), root = open("/proc", O_DIRECTORY);
    strcat(path, "/task");
    int tasks = open(path, O_DIRECTORY);
    SAY(pidfd_signal(fd, 0, 0, 0));
    SAY(pidfd_signal(named, 0, 0, 0));
    SAY(pidfd_signal(root, 0, 0, 0));
    SAY(pidfd_signal(tasks, 0, 0, 0));
    SAY(pidfd_getfd_of(fd, 0, 0));
    siginfo_t info;
    SAY(waitid(P_PIDFD, fd, &info, WEXITED));
    SAY(pidfd_signal(fd, SIGKILL, 0, 0));
    int status = 0;
    SAY(waitpid(pid, &status, 0) == pid);
    SAY(WTERMSIG(status));
    SAY(pidfd_signal(fd, 0, 0, 0));
    close(fd), close(named), close(root), close(tasks);
}

static void borrowed(void)
{
    int ends[2], told[2];
    pipe(ends);
    pipe(told);
    pid_t pid = fork();
    if (!pid) {
        int kept = dup2(ends[1], 50);
        close(ends[1]);
        write(told[1], "k", 1);
        char byte;
        read(told[0], &byte, kept ? 0 : 1);
        for (;;)
            pause();
    }
    char byte;
    read(told[0], &byte, 1);
    close(ends[1]);
    int fd = pidfd_open_of(pid, 0);
    int mine = pidfd_getfd_of(fd, 50, 0);
    SAY(mine >= 0);
    SAY(fcntl(mine, F_GETFD));
    SAY(write(mine, "b", 1));
    SAY(read(ends[0], &byte, 1));
    SAY(byte);
    SAY(pidfd_getfd_of(fd, 51, 0));
    SAY(pidfd_getfd_of(fd, 50, 1));
    SAY(pidfd_getfd_of(0, 50, 0));
    close(mine);
    kill(pid, SIGKILL);
    waitpid(pid, 0, 0);
    SAY(read(ends[0], &byte, 1)); /* everybody who could write is gone */
    close(fd);
    close(ends[0]);
}

static void show(const char *name, struct signalfd_siginfo *info, int result)
{
    printf("%s: %d signal %u code %d own %d uid %d int %d status %d\n", name, result, info->ssi_signo, info->ssi_code,
           info->ssi_pid == getpid(), info->ssi_uid == getuid(), info->ssi_int, info->ssi_status);
}

static void signals(void)
{
    sigset_t set, all;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_BLOCK, &set, 0);
    sigfillset(&all);
    SAY(signalfd(-1, &set, 1));
    SAY(syscall(SYS_signalfd4, -1, &set, 4, 0));
    SAY(signalfd(0, &set, 0));
    SAY(signalfd(500, &set, 0));
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    SAY(fd >= 0);
    SAY(fcntl(fd, F_GETFD));
    struct signalfd_siginfo infos[4];
    SAY(read(fd, infos, sizeof infos));
    SAY(ready(fd, POLLIN, 0));
    raise(SIGUSR1);
    raise(SIGUSR1);
    SAY(ready(fd, POLLIN | POLLOUT, 0));
    SAY(read(fd, infos, 127));
    show("raised", infos, read(fd, infos, sizeof infos));
    SAY(read(fd, infos, sizeof infos));
    union sigval value = { .sival_int = 41 };
    sigqueue(getpid(), SIGRTMIN, value);
    value.sival_int = 42;
    sigqueue(getpid(), SIGRTMIN, value);
    kill(getpid(), SIGUSR1);
    int result = read(fd, infos, sizeof infos);
    show("three at once", infos, result);
    show("the second", infos + 1, result);
    show("the third", infos + 2, result);
    sigqueue(getpid(), SIGRTMIN, value);
    sigqueue(getpid(), SIGRTMIN, value);
    SAY(read(fd, infos, 200));
    SAY(read(fd, infos, 128));
    SAY(write(fd, infos, 128));
    pid_t pid = fork();
    if (!pid)
        _exit(23);
    SAY(ready(fd, POLLIN, -1));
    show("of a child", infos, read(fd, infos, sizeof infos));
    SAY(infos[0].ssi_pid == pid);
    waitpid(pid, 0, 0);
    /* A child reads its own. */
    raise(SIGUSR1);
    pid = fork();
    if (!pid) {
        int none = read(fd, infos, sizeof infos) == -1 && errno == EAGAIN;
        raise(SIGUSR1);
        _exit(none && read(fd, infos, sizeof infos) == 128 && infos[0].ssi_pid == getpid() ? 4 : 5);
    }
    int status;
    waitpid(pid, &status, 0);
    SAY(WEXITSTATUS(status));
    result = read(fd, infos, sizeof infos);
    printf("own one is left: %d\n", result);
    /* Blocking reads, epoll, changes of the set. */
    fcntl(fd, F_SETFL, 0);
    pid_t me = getpid();
    pid = fork();
    if (!pid) {
        usleep(20000);
        kill(me, SIGUSR1);
        _exit(0);
    }
    result = read(fd, infos, 128);
    printf("waited for: %d signal %u from the child %d\n", result, infos[0].ssi_signo, infos[0].ssi_pid == pid);
    waitpid(pid, 0, 0);
    read(fd, infos, 128);
    int epoll = epoll_create1(0);
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u32 = 8 };
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    SAY(epoll_wait(epoll, &event, 1, 0));
    timer_t timer;
    struct sigevent on_expiry = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM, .sigev_value.sival_int = 99 };
    timer_create(CLOCK_MONOTONIC, &on_expiry, &timer);
    struct itimerspec soon = { .it_value.tv_nsec = 10000000 };
    timer_settime(timer, 0, &soon, 0);
    SAY(epoll_wait(epoll, &event, 1, -1));
    SAY(epoll_wait(epoll, &event, 1, 0));
    result = read(fd, infos, 128);
    printf("of a timer: %d signal %u code %d int %d overrun %u\n", result, infos[0].ssi_signo, infos[0].ssi_code,
           infos[0].ssi_int, infos[0].ssi_overrun);
    timer_delete(timer);
    sigdelset(&set, SIGUSR1);
    SAY(signalfd(fd, &set, 0) == fd);
    raise(SIGUSR1);
    SAY(ready(fd, POLLIN, 0));
    sigset_t pending;
    sigpending(&pending);
    SAY(sigismember(&pending, SIGUSR1));
    SAY(lseek(fd, 0, SEEK_SET));
    close(epoll);
    close(fd);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    siginfo_t info;
    SAY(sigwaitinfo(&set, &info));
}

int main(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    processes();
    directories();
    borrowed();
    signals();
    return 0;
}
