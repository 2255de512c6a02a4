/* Process groups, sessions, and to whom kill sends. */
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int *common;

static void count(int signal) { __atomic_fetch_add(common, signal == SIGUSR1 ? 1 : 100, __ATOMIC_SEQ_CST); }

static int status_of(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* A child that waits for signals, once it has said that it does. */
static pid_t waiting(pid_t group)
{
    int ends[2];
    char byte;
    pipe(ends);
    pid_t pid = fork();
    if (!pid) {
        if (group >= 0)
            setpgid(0, group);
        write(ends[1], "r", 1);
        close(ends[0]);
        close(ends[1]);
        for (;;)
            pause();
    }
    read(ends[0], &byte, 1);
    close(ends[0]);
    close(ends[1]);
    return pid;
}

static void expect(const char *name, int value)
{
    for (int i = 0; i < 2000 && *common != value; i++)
        usleep(1000);
    usleep(20000);
    SHOW(name, "%d", *common);
    *common = 0;
}

static void groups(void)
{
    SAY(getpgid(0) == getpgrp());
    SAY(getpgid(getpid()) == getpgrp());
    SAY(getpgid(-1));
    SAY(getpgid(999999));
    SAY(getsid(999999));
    SAY(setpgid(-1, 0));
    SAY(setpgid(0, -1));
    SAY(setpgid(999999, 0));
    SAY(setpgid(getppid(), 0));
    SAY(setpgid(0, 999999));
    pid_t pid = waiting(-1);
    SAY(getpgid(pid) == getpgrp());
    SAY(getsid(pid) == getsid(0));
    SAY(setpgid(pid, 999999));
    SAY(setpgid(pid, pid));
    SAY(getpgid(pid) == pid);
    pid_t other = waiting(-1);
    SAY(setpgid(other, pid));
    SAY(getpgid(other) == pid);
    SAY(setpgid(other, getpgrp()));
    SAY(getpgid(other) == getpgrp());
    SAY(setpgid(other, 0));
    SAY(getpgid(other) == other);
    kill(pid, SIGKILL);
    kill(other, SIGKILL);
    SAY(status_of(pid));
    SAY(status_of(other));
    SAY(setpgid(pid, pid));
    /* Not after exec. */
    int ends[2];
    pipe2(ends, O_CLOEXEC);
    pid = fork();
    if (!pid) {
        execl("/bin/sleep", "sleep", "100", (char *)0);
        _exit(127);
    }
    close(ends[1]);
    char byte;
    read(ends[0], &byte, 1);
    close(ends[0]);
    SAY(setpgid(pid, pid));
    SAY(getpgid(pid) == getpgrp());
    kill(pid, SIGTERM);
    SAY(status_of(pid));
}

static void sessions(void)
{
    pid_t pid = fork();
    if (!pid) {
        pid_t old = getsid(0);
        int good = setsid() == getpid();
        good = good && getsid(0) == getpid() && getpgrp() == getpid() && old != getpid();
        good = good && setsid() == -1 && errno == EPERM;
        good = good && setpgid(0, 0) == -1 && errno == EPERM;
        pid_t child = waiting(-1);
        good = good && getsid(child) == getpid() && getpgid(child) == getpid();
        good = good && setpgid(child, old) == -1 && errno == EPERM;
        kill(child, SIGKILL);
        good = good && status_of(child) == 1009;
        int terminal = open("/dev/tty", O_RDWR);
        good = good && terminal == -1 && errno == ENXIO;
        _exit(good ? 10 : 11);
    }
    SAY(status_of(pid));
    /* A group leader cannot make a session. */
    pid = fork();
    if (!pid) {
        setpgid(0, 0);
        int result = setsid();
        _exit(result == -1 && errno == EPERM ? 12 : 13);
    }
    SAY(status_of(pid));
    /* Nor one whose id is a group's. */
    pid = fork();
    if (!pid) {
        setpgid(0, 0);
        pid_t member = waiting(-1);
        setpgid(0, getpgid(getppid()));
        int result = setsid();
        int wrong = errno;
        kill(member, SIGKILL);
        status_of(member);
        int later = setsid() == getpid();
        _exit(result == -1 && wrong == EPERM && later ? 14 : 15);
    }
    SAY(status_of(pid));
    /* A child in another session. */
    int ends[2];
    char byte;
    pipe(ends);
    pid = fork();
    if (!pid) {
        setsid();
        write(ends[1], "s", 1);
        for (;;)
            pause();
    }
    read(ends[0], &byte, 1);
    SAY(setpgid(pid, getpgrp()));
    SAY(getsid(pid) == pid);
    kill(pid, SIGTERM);
    SAY(status_of(pid));
}

static void kills(void)
{
    signal(SIGUSR1, count);
    signal(SIGUSR2, count);
    *common = 0;
    SAY(kill(0, 0));
    SAY(kill(-999999, 0));
    SAY(kill(-999999, SIGTERM));
    SAY(kill(getpid(), 65));
    SAY(kill(getpid(), -1));
    SAY(kill(0x80000000, 0));
    /* All of this runs in a group of its own, not to reach anybody else. */
    pid_t first = waiting(0), second = waiting(first), third = waiting(first), stranger = waiting(0);
    SAY(kill(-first, SIGUSR1));
    expect("to a group", 3);
    SAY(kill(stranger, SIGUSR1));
    expect("to one", 1);
    SAY(kill(-first, 0));
    kill(second, SIGKILL);
    status_of(second);
    SAY(kill(-first, SIGUSR2));
    expect("to the rest of the group", 200);
    kill(first, SIGKILL);
    status_of(first);
    SAY(kill(first, 0));
    SAY(kill(-first, SIGUSR1));
    expect("the group outlives its leader", 1);
    kill(third, SIGKILL);
    status_of(third);
    SAY(kill(-first, SIGUSR1));
    kill(stranger, SIGKILL);
    status_of(stranger);
    pid_t pid = fork();
    if (!pid) {
        setsid();
        pid_t one = waiting(-1), two = waiting(-1);
        kill(0, SIGUSR1);
        for (int i = 0; i < 2000 && *common != 3; i++)
            usleep(1000);
        int seen = *common;
        kill(one, SIGKILL);
        kill(two, SIGKILL);
        status_of(one);
        status_of(two);
        _exit(seen);
    }
    SHOW("to the own group", "%d", status_of(pid));
    /* A process that has ended and was not waited for. */
    pid = fork();
    if (!pid)
        _exit(0);
    siginfo_t info;
    waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
    SAY(kill(pid, SIGUSR1));
    SAY(kill(-getpgrp(), 0));
    SAY(status_of(pid));
    SAY(kill(pid, SIGUSR1));
    SAY(syscall(SYS_tkill, pid, 0));
    SAY(syscall(SYS_tgkill, getpid(), 999999, 0));
    SAY(syscall(SYS_tgkill, getpid(), 0, 0));
    SAY(syscall(SYS_tgkill, 999999, getpid(), 0));
    SAY(syscall(SYS_tgkill, getpid(), getpid(), 0));
    signal(SIGUSR1, SIG_DFL);
}

/* The stopped members of a group that loses its last guardian get SIGHUP and SIGCONT; others in such a group do not stop at
   SIGTSTP. */
static void orphaned_groups(void)
{
    int ends[2];
    char byte = 0;
    pipe(ends);
    pid_t pid = fork();
    if (!pid) {
        setsid();
        pid_t guardian = fork();
        if (!guardian) {
            pid_t stopped = fork();
            if (!stopped) {
                setpgid(0, 0);
                signal(SIGHUP, SIG_IGN);
                signal(SIGUSR1, count);
                raise(SIGSTOP);
                write(ends[1], "c", 1);
                raise(SIGTSTP);
                write(ends[1], "t", 1);
                _exit(0);
            }
            waitpid(stopped, 0, WUNTRACED);
            _exit(0);
        }
        waitpid(guardian, 0, 0);
        _exit(16);
    }
    SAY(status_of(pid));
    read(ends[0], &byte, 1);
    SHOW("continued by the end of its guardian", "%c", byte);
    read(ends[0], &byte, 1);
    SHOW("not stopped in an orphaned group", "%c", byte);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    common = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    /* A session of its own, which on the host keeps everybody else out of it; the first process has one already. */
    if (getpgrp() != getpid())
        setsid();
    else if (fork() == 0)
        setsid();
    else
        return status_of(-1);
    groups();
    sessions();
    kills();
    orphaned_groups();
    return 0;
}
