/* Waiting for children: wait4 and waitid with their options, what SIGCHLD says, orphans and zombies, stop and go. */
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t signals;
static volatile siginfo_t said;

static void on_child(int signal, siginfo_t *info, void *context)
{
    signals++;
    said = *info;
}

static void handle_children(int flags)
{
    struct sigaction action = { .sa_sigaction = on_child, .sa_flags = SA_SIGINFO | flags };
    sigaction(SIGCHLD, &action, 0);
}

static pid_t ending(int status)
{
    pid_t pid = fork();
    if (!pid)
        _exit(status);
    return pid;
}

static pid_t waiting(void)
{
    pid_t pid = fork();
    if (!pid)
        for (;;)
            pause();
    return pid;
}

/* Waits until a child has something to tell, and leaves it to be told. */
static void settle(pid_t pid, int events)
{
    siginfo_t info;
    while (waitid(P_PID, pid, &info, events | WNOWAIT) == -1 && errno == EINTR) { }
}

static void show_wait(const char *name, pid_t expected, pid_t pid, int options)
{
    int status = 0;
    pid_t result = waitpid(pid, &status, options);
    printf("%s: pid %d exited %d %d signalled %d %d core %d stopped %d %d continued %d\n", name, result == expected,
           WIFEXITED(status), WIFEXITED(status) ? WEXITSTATUS(status) : 0, WIFSIGNALED(status),
           WIFSIGNALED(status) ? WTERMSIG(status) : 0, WIFSIGNALED(status) ? WCOREDUMP(status) : 0, WIFSTOPPED(status),
           WIFSTOPPED(status) ? WSTOPSIG(status) : 0, WIFCONTINUED(status));
}

static void show_info(const char *name, int result, siginfo_t *info, pid_t pid)
{
    printf("%s: %d signal %d code %d pid %d uid %d status %d\n", name, result, info->si_signo, info->si_code,
           info->si_pid == pid, info->si_uid == getuid(), info->si_status);
}

static void statuses(void)
{
    pid_t pid = ending(0);
    show_wait("exit 0", pid, pid, 0);
    pid = ending(255);
    show_wait("exit 255", pid, -1, 0);
    pid = ending(256 + 7);
    show_wait("exit 263", pid, 0, 0);
    int signals_to_send[] = { SIGTERM, SIGKILL, SIGUSR1, SIGALRM, SIGPIPE, 40 };
    for (unsigned i = 0; i < sizeof signals_to_send / sizeof *signals_to_send; i++) {
        pid = waiting();
        kill(pid, signals_to_send[i]);
        show_wait("ended by a signal", pid, pid, 0);
    }
    setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
    pid = fork();
    if (!pid)
        abort();
    show_wait("abort", pid, pid, 0);
    pid = fork();
    if (!pid)
        *(volatile int *)0 = 1;
    show_wait("segmentation fault", pid, pid, 0);
    pid = fork();
    if (!pid) {
        signal(SIGTERM, SIG_IGN);
        raise(SIGTERM);
        _exit(3);
    }
    show_wait("ignored", pid, pid, 0);
    pid = ending(1);
    SAY(waitpid(pid, 0, 0) == pid);
    SAY(waitpid(pid, 0, 0));
    SAY(waitpid(-1, 0, 0));
    SAY(waitpid(0, 0, WNOHANG));
    SAY(wait4(-1, 0, 64, 0));
    SAY(wait4(INT_MIN, 0, 0, 0));
    SAY(waitpid(getpid(), 0, 0));
    SAY(waitpid(1, 0, 0));
    SAY(waitpid(-999999, 0, 0));
    pid = ending(1);
    settle(pid, WEXITED);
    SAY(wait4(pid, (int *)16, 0, 0));
    SAY(wait4(pid, 0, 0, 0));
}

static void choices(void)
{
    pid_t one = waiting(), two = ending(2);
    SAY(waitpid(one, 0, WNOHANG));
    show_wait("any", two, -1, 0);
    SAY(waitpid(-1, 0, WNOHANG));
    SAY(setpgid(one, one));
    SAY(waitpid(0, 0, WNOHANG));
    SAY(waitpid(-one, 0, WNOHANG));
    kill(one, SIGTERM);
    show_wait("group", one, -one, 0);
    SAY(waitpid(-1, 0, WNOHANG));
}

static void infos(void)
{
    siginfo_t info;
    pid_t pid = waiting();
    memset(&info, 77, sizeof info);
    int result = waitid(P_PID, pid, &info, WEXITED | WNOHANG);
    printf("nothing yet: %d %d %d %d\n", result, info.si_signo, info.si_pid, info.si_code);
    SAY(waitid(P_PID, pid, &info, 0));
    SAY(waitid(P_PID, pid, &info, WNOHANG));
    SAY(waitid(P_PID, pid, &info, WEXITED | 0x100));
    SAY(waitid(9, pid, &info, WEXITED));
    SAY(waitid(P_PID, 0, &info, WEXITED));
    SAY(waitid(P_PID, -5, &info, WEXITED));
    SAY(waitid(P_PGID, -5, &info, WEXITED));
    SAY(waitid(P_PID, getpid(), &info, WEXITED));
    SAY(waitid(P_ALL, 0, (siginfo_t *)16, WEXITED | WNOHANG));
    kill(pid, SIGSTOP);
    result = waitid(P_PID, pid, &info, WSTOPPED | WNOWAIT);
    show_info("stopped, kept", result, &info, pid);
    result = waitid(P_ALL, 0, &info, WSTOPPED | WEXITED | WNOHANG);
    show_info("stopped", result, &info, pid);
    info.si_pid = 5;
    result = waitid(P_ALL, 0, &info, WSTOPPED | WNOHANG);
    printf("told once: %d %d\n", result, info.si_pid);
    kill(pid, SIGCONT);
    result = waitid(P_PID, pid, &info, WCONTINUED);
    show_info("continued", result, &info, pid);
    kill(pid, SIGTERM);
    result = waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
    show_info("killed, kept", result, &info, pid);
    struct rusage usage;
    memset(&usage, 77, sizeof usage);
    result = syscall(SYS_waitid, P_PGID, getpgrp(), &info, WEXITED, &usage);
    show_info("killed", result, &info, pid);
    printf("usage: %d\n", usage.ru_utime.tv_sec == 0 && usage.ru_stime.tv_sec == 0);
    pid = ending(200);
    result = waitid(P_PGID, 0, &info, WEXITED);
    show_info("exited", result, &info, pid);
    SAY(waitid(P_ALL, 0, 0, WEXITED));
    pid = ending(5);
    SAY(waitid(P_ALL, 0, 0, WEXITED));
}

static void job_control(void)
{
    int status;
    pid_t pid = waiting();
    int stops[] = { SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU };
    setpgid(pid, pid);
    for (unsigned i = 0; i < 4; i++) {
        kill(pid, stops[i]);
        show_wait("stop", pid, pid, WUNTRACED);
        SAY(waitpid(pid, &status, WUNTRACED | WNOHANG));
        kill(pid, stops[i]);
        kill(pid, SIGCONT);
        show_wait("go on", pid, pid, WCONTINUED);
        SAY(waitpid(pid, &status, WCONTINUED | WNOHANG));
    }
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    kill(pid, SIGTERM);
    SAY(waitpid(pid, &status, WNOHANG));
    kill(pid, SIGCONT);
    show_wait("signal of a stopped one", pid, pid, 0);
    pid = waiting();
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    kill(pid, SIGKILL);
    show_wait("kill of a stopped one", pid, pid, 0);
    /* A stopped process does nothing. */
    volatile long *count = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid = fork();
    if (!pid)
        for (;;)
            ++*count;
    while (*count < 1000) { }
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    long before = *count;
    usleep(20000);
    printf("stands still: %d\n", before == *count);
    kill(pid, SIGCONT);
    while (*count == before) { }
    printf("moves again: 1\n");
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    /* A child that stops itself, with a handler for SIGCONT. */
    pid = fork();
    if (!pid) {
        handle_children(0);
        struct sigaction action = { .sa_sigaction = on_child, .sa_flags = SA_SIGINFO };
        sigaction(SIGCONT, &action, 0);
        raise(SIGSTOP);
        _exit(signals);
    }
    show_wait("stops itself", pid, pid, WUNTRACED);
    kill(pid, SIGCONT);
    show_wait("handler after it", pid, pid, 0);
    /* A sleep that is stopped goes on for the time that is left. */
    pid = fork();
    if (!pid) {
        struct timespec nap = { 0, 200000000 }, start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        int result = nanosleep(&nap, 0);
        clock_gettime(CLOCK_MONOTONIC, &end);
        long took = (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000;
        _exit(result ? 50 : took < 200 ? 51 : 0);
    }
    usleep(50000);
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    kill(pid, SIGCONT);
    show_wait("sleep", pid, pid, 0);
}

static void told_by_signal(void)
{
    sigset_t child, old;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &old);
    handle_children(0);
    signals = 0;
    pid_t pid = ending(9);
    sigsuspend(&old);
    siginfo_t copy = *(siginfo_t *)&said;
    show_info("SIGCHLD of an exit", signals, &copy, pid);
    waitpid(pid, 0, 0);
    pid = waiting();
    kill(pid, SIGKILL);
    sigsuspend(&old);
    copy = *(siginfo_t *)&said;
    show_info("SIGCHLD of a kill", signals, &copy, pid);
    waitpid(pid, 0, 0);
    pid = waiting();
    kill(pid, SIGSTOP);
    sigsuspend(&old);
    copy = *(siginfo_t *)&said;
    show_info("SIGCHLD of a stop", signals, &copy, pid);
    kill(pid, SIGCONT);
    sigsuspend(&old);
    copy = *(siginfo_t *)&said;
    show_info("SIGCHLD of a go", signals, &copy, pid);
    handle_children(SA_NOCLDSTOP);
    kill(pid, SIGSTOP);
    waitpid(pid, 0, WUNTRACED);
    kill(pid, SIGCONT);
    waitpid(pid, 0, WCONTINUED);
    sigset_t pending;
    sigpending(&pending);
    printf("SA_NOCLDSTOP: %d\n", sigismember(&pending, SIGCHLD));
    kill(pid, SIGKILL);
    sigsuspend(&old);
    printf("and its end: %d\n", signals);
    waitpid(pid, 0, 0);
    sigprocmask(SIG_SETMASK, &old, 0);

    /* Nobody wants to know. */
    handle_children(SA_NOCLDWAIT);
    signals = 0;
    pid = ending(1);
    errno = 0;
    int result;
    while ((result = waitpid(pid, 0, 0)) == -1 && errno == EINTR) { }
    printf("SA_NOCLDWAIT: %d %d signals %d\n", result, errno, signals);
    signal(SIGCHLD, SIG_IGN);
    pid_t other = waiting();
    pid = ending(1);
    while (kill(pid, 0) == 0) { }
    printf("ignored children vanish: %d\n", errno);
    kill(other, SIGKILL);
    SAY(waitpid(-1, 0, 0));
    signal(SIGCHLD, SIG_DFL);
    pid = ending(1);
    settle(pid, WEXITED);
    SAY(kill(pid, 0));
    SAY(kill(pid, SIGKILL));
    SAY(getpgid(pid) == getpgrp());
    show_wait("a zombie is not killed", pid, pid, 0);
    /* A handler interrupts a wait, or not. */
    struct sigaction action = { .sa_sigaction = on_child, .sa_flags = SA_SIGINFO };
    sigaction(SIGALRM, &action, 0);
    pid = waiting();
    ualarm(10000, 10000);
    SAY(waitpid(pid, 0, 0));
    ualarm(0, 0);
    action.sa_flags |= SA_RESTART;
    sigaction(SIGALRM, &action, 0);
    signals = 0;
    pid_t killer = fork();
    if (!killer) {
        kill(getppid(), SIGALRM);
        usleep(30000);
        kill(pid, SIGTERM);
        _exit(0);
    }
    show_wait("restarted", pid, pid, 0);
    printf("handled meanwhile: %d\n", signals);
    waitpid(killer, 0, 0);
}

static void orphans(void)
{
    int ends[2];
    pipe(ends);
    pid_t me = getpid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t pid = fork();
    if (!pid) {
        pid_t parent = getpid();
        if (!fork()) {
            while (getppid() == parent)
                usleep(1000);
            char answer = getppid() == me;
            write(ends[1], &answer, 1);
            _exit(66);
        }
        _exit(0);
    }
    SAY(waitpid(pid, 0, 0) == pid);
    char answer = 9;
    read(ends[0], &answer, 1);
    printf("adopted by the subreaper: %d\n", answer);
    int status = 0;
    SAY(waitpid(-1, &status, 0) > 0);
    printf("its status: %d\n", WEXITSTATUS(status));
    /* A zombie is adopted too. */
    pid = fork();
    if (!pid) {
        pid_t child = ending(67);
        settle(child, WEXITED);
        _exit(0);
    }
    waitpid(pid, 0, 0);
    SAY(waitpid(-1, &status, 0) > 0);
    printf("status of the adopted zombie: %d\n", WEXITSTATUS(status));
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    /* A child that dies with its parent. */
    pid = fork();
    if (!pid) {
        if (!fork()) {
            sigset_t none;
            sigemptyset(&none);
            struct sigaction action = { .sa_sigaction = on_child, .sa_flags = SA_SIGINFO };
            sigaction(SIGUSR1, &action, 0);
            prctl(PR_SET_PDEATHSIG, SIGUSR1);
            write(ends[1], "r", 1);
            while (!signals)
                usleep(1000);
            write(ends[1], "d", 1);
            _exit(0);
        }
        read(ends[0], &answer, 1);
        _exit(0);
    }
    signals = 0;
    waitpid(pid, 0, 0);
    read(ends[0], &answer, 1);
    printf("told of its parent's death: %c\n", answer);
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    printf("children have used memory: %d\n", usage.ru_maxrss > 0);
}

int main(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    statuses();
    choices();
    infos();
    job_control();
    told_by_signal();
    orphans();
    return 0;
}
