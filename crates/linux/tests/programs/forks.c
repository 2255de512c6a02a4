/* New processes: what a child has of its own, what it shares, how it is made. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static int shared_number = 1;
static volatile int *common; /* a page that all processes see */

static int status_of(pid_t pid)
{
    int status = -1;
    if (waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int status_of_clone(pid_t pid)
{
    int status = -1;
    if (waitpid(pid, &status, __WALL) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static pid_t plain_clone(unsigned long flags, void *stack, int *parent_tid, int *child_tid, unsigned long tls)
{
    return syscall(SYS_clone, flags, stack, parent_tid, child_tid, tls);
}

static void memory(void)
{
    int own = 5;
    char *heap = malloc(100000);
    memset(heap, 'p', 100000);
    char *private = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    private[0] = private[70000] = 'p';
    pid_t pid = fork();
    if (!pid) {
        int good = own == 5 && shared_number == 1 && heap[99999] == 'p' && private[70000] == 'p';
        own = shared_number = 6;
        memset(heap, 'c', 100000);
        memset(private, 'c', 1 << 20);
        *common = 7;
        _exit(good ? own : 99);
    }
    printf("fork: status %d\n", status_of(pid));
    printf("stack is private: %d\n", own);
    printf("data is private: %d\n", shared_number);
    printf("heap is private: %c%c\n", heap[0], heap[99999]);
    printf("mapping is private: %c%c\n", private[0], private[70000]);
    printf("shared mapping is shared: %d\n", *common);
    /* The other way round, and a child of a child. */
    int ends[2], back[2];
    pipe(ends);
    pipe(back);
    pid = fork();
    if (!pid) {
        char byte;
        read(ends[0], &byte, 1);
        int seen = shared_number;
        pid_t grandchild = fork();
        if (!grandchild) {
            shared_number += 20;
            _exit(shared_number);
        }
        int of_grandchild = status_of(grandchild);
        char answer[2] = { seen, of_grandchild };
        write(back[1], answer, 2);
        _exit(0);
    }
    shared_number = 40;
    write(ends[1], "g", 1);
    char answer[2];
    read(back[0], answer, 2);
    printf("writes of the parent are private: %d\n", answer[0]);
    printf("grandchild: %d\n", answer[1]);
    printf("its parent: %d\n", status_of(pid));
    shared_number = 1;
    free(heap);
    munmap(private, 1 << 20);
}

static void ids(void)
{
    pid_t me = getpid();
    pid_t pid = fork();
    if (!pid)
        _exit((getppid() == me) | (getpid() != me) << 1 | ((int)syscall(SYS_gettid) == getpid()) << 2
              | (getpgrp() == getpgid(me)) << 3 | (getsid(0) == getsid(me)) << 4);
    printf("ids of a child: %d\n", status_of(pid));
    printf("id is gone: %d", kill(pid, 0));
    printf(" %d\n", errno);
}

static void descriptors(void)
{
    int ends[2];
    pipe(ends);
    FILE *file = tmpfile();
    int fd = fileno(file);
    write(fd, "abcdef", 6);
    lseek(fd, 0, SEEK_SET);
    pid_t pid = fork();
    if (!pid) {
        char two[2];
        read(fd, two, 2);
        close(ends[0]);
        write(ends[1], "x", 1);
        _exit(dup2(ends[1], 100) == 100 ? two[1] : 0);
    }
    printf("child reads: %c\n", status_of(pid));
    printf("offset is shared: %d\n", (int)lseek(fd, 0, SEEK_CUR));
    char byte = 0;
    printf("pipe from child: %d", (int)read(ends[0], &byte, 1));
    printf(" %c\n", byte);
    printf("descriptors are its own: %d", fcntl(100, F_GETFD));
    printf(" %d\n", errno);
    pid = plain_clone(CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (!pid) {
        close(ends[0]);
        _exit(dup2(ends[1], 101) == 101 ? 3 : 0);
    }
    printf("CLONE_FILES: %d", status_of(pid));
    printf(" new one %d", fcntl(101, F_GETFD));
    printf(" closed one %d\n", fcntl(ends[0], F_GETFD));
    close(101);
    close(ends[1]);
    fclose(file);
    mkdir("/tmp/forks", 0700);
    umask(022);
    pid = fork();
    if (!pid) {
        umask(077);
        _exit(chdir("/tmp/forks"));
    }
    char cwd[200];
    status_of(pid);
    printf("directory is its own: %s", getcwd(cwd, sizeof cwd));
    printf(" umask %o\n", umask(022));
    pid = plain_clone(CLONE_FS | SIGCHLD, 0, 0, 0, 0);
    if (!pid) {
        umask(077);
        _exit(chdir("/tmp/forks"));
    }
    status_of(pid);
    printf("CLONE_FS: %s", getcwd(cwd, sizeof cwd));
    printf(" umask %o\n", umask(022));
    chdir("/");
    rmdir("/tmp/forks");
}

static void on_signal(int signal) { *common += 100; }

static int ignoring(void *argument)
{
    struct sigaction ignore = { .sa_handler = SIG_IGN };
    sigaction(SIGUSR1, &ignore, 0);
    return 4;
}

static void signals(void)
{
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, SIG_IGN);
    sigset_t set, found;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    raise(SIGUSR1);
    *common = 0;
    alarm(100);
    pid_t pid = fork();
    if (!pid) {
        struct sigaction action;
        sigpending(&found);
        int is_pending = sigismember(&found, SIGUSR1);
        sigprocmask(SIG_UNBLOCK, &set, &found);
        int was_blocked = sigismember(&found, SIGUSR1);
        sigaction(SIGUSR2, 0, &action);
        int is_ignored = action.sa_handler == SIG_IGN;
        raise(SIGUSR1);
        signal(SIGUSR1, SIG_DFL);
        _exit(is_pending | was_blocked << 1 | is_ignored << 2 | (*common == 100) << 3 | (alarm(0) != 0) << 4);
    }
    printf("signals of a child: %d\n", status_of(pid));
    printf("alarm of the parent: %d\n", alarm(0) > 90);
    struct sigaction action;
    sigaction(SIGUSR1, 0, &action);
    printf("handlers are its own: %d\n", action.sa_handler == on_signal);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    printf("pending in the parent: %d\n", *common);
    static char stack[65536] __attribute__((aligned(16)));
    pid = clone(ignoring, stack + sizeof stack, CLONE_VM | CLONE_SIGHAND | SIGCHLD, 0);
    printf("CLONE_SIGHAND: %d", status_of(pid));
    sigaction(SIGUSR1, 0, &action);
    printf(" ignored %d\n", action.sa_handler == SIG_IGN);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
}

static int in_shared_memory(void *argument)
{
    shared_number = 50;
    *(int *)argument = getpid();
    return 9;
}

static void vforks(void)
{
    volatile int seen = 0;
    pid_t pid = vfork();
    if (!pid) {
        seen = 1;
        shared_number = 2;
        _exit(8);
    }
    printf("vfork shares memory: %d %d", seen, shared_number);
    printf(" status %d\n", status_of(pid));
    shared_number = 1;
    pid = vfork();
    if (!pid) {
        execl("/bin/sh", "sh", "-c", "exit 21", (char *)0);
        _exit(127);
    }
    printf("vfork and exec: %d\n", status_of(pid));
    pid = vfork();
    if (!pid) {
        execl("/nothing/there", "x", (char *)0);
        _exit(errno);
    }
    printf("vfork and failed exec: %d\n", status_of(pid));
    pid = vfork();
    if (!pid) {
        kill(getpid(), SIGKILL);
        _exit(1);
    }
    printf("vfork and kill: %d\n", status_of(pid));
    char *stack = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int told = 0;
    pid = clone(in_shared_memory, stack + 65536, CLONE_VM | CLONE_VFORK | SIGCHLD, &told);
    printf("clone with VM and VFORK: %d %d", told == pid, shared_number);
    printf(" status %d\n", status_of(pid));
    shared_number = 1;
    pid = clone(in_shared_memory, stack + 65536, CLONE_VM | SIGCHLD, &told);
    printf("clone with VM: status %d", status_of(pid));
    printf(" %d\n", shared_number);
    shared_number = 1;
    char *arguments[] = { "sh", "-c", "exit $NUMBER", 0 }, *environment[] = { "NUMBER=33", 0 };
    int result = posix_spawn(&pid, "/bin/sh", 0, 0, arguments, environment);
    printf("posix_spawn: %d status %d\n", result, status_of(pid));
    printf("posix_spawn of nothing: %d\n", posix_spawn(&pid, "/nothing", 0, 0, arguments, environment));
    result = system("exit 5");
    printf("system: %d\n", WEXITSTATUS(result));
    FILE *pipe = popen("echo from the shell", "r");
    char line[100] = "";
    fgets(line, sizeof line, pipe);
    printf("popen: %s", line);
    result = pclose(pipe);
    printf("pclose: %d\n", result);
}

static void tids(void)
{
    int parent_tid = 0, child_tid = 0;
    pid_t pid = plain_clone(CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, &parent_tid, &child_tid, 0);
    if (!pid)
        _exit(child_tid == getpid() ? 1 : 2);
    printf("CHILD_SETTID in the child: %d", status_of(pid));
    printf(" in the parent %d %d\n", parent_tid == pid, child_tid);
    *common = 77;
    static char stack[65536] __attribute__((aligned(16)));
    pid = clone(in_shared_memory, stack + sizeof stack, CLONE_CHILD_CLEARTID | CLONE_VM | CLONE_VFORK | SIGCHLD, &child_tid, 0, 0, common);
    status_of(pid);
    shared_number = 1;
    printf("CHILD_CLEARTID: %d\n", *common);
    pid = plain_clone(0, 0, 0, 0, 0);
    if (!pid)
        _exit(6);
    printf("without a signal: %d", (int)waitpid(pid, 0, 0));
    printf(" %d", errno);
    printf(" as a clone %d\n", status_of_clone(pid));
    pid = plain_clone(SIGUSR1, 0, 0, 0, 0);
    if (!pid)
        for (;;)
            pause();
    signal(SIGUSR1, on_signal);
    *common = 0;
    kill(pid, SIGTERM);
    printf("with another signal: %d", status_of_clone(pid));
    printf(" %d\n", *common);
    signal(SIGUSR1, SIG_DFL);
    pid_t me = getpid();
    pid = fork();
    if (!pid) {
        pid_t parent = getppid();
        pid_t sibling = plain_clone(CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
        if (!sibling)
            _exit(getppid() == parent ? 44 : 45);
        int gone = waitpid(sibling, 0, 0) == -1 && errno == ECHILD;
        _exit(gone && parent == me ? 43 : 46);
    }
    printf("CLONE_PARENT: %d", status_of(pid));
    int status = 0;
    waitpid(-1, &status, 0);
    printf(" sibling %d\n", WEXITSTATUS(status));
}

static long clone3_of(struct clone_args *arguments, size_t size) { return syscall(SYS_clone3, arguments, size); }

static void clone3s(void)
{
    int pidfd = -1;
    struct clone_args arguments = { .flags = CLONE_PIDFD, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD };
    long pid = clone3_of(&arguments, sizeof arguments);
    if (!pid)
        _exit(12);
    printf("clone3 with a descriptor: %d cloexec %d", pidfd >= 0, fcntl(pidfd, F_GETFD));
    printf(" status %d\n", status_of(pid));
    close(pidfd);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, SIG_IGN);
    arguments = (struct clone_args){ .flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD };
    pid = clone3_of(&arguments, sizeof arguments);
    if (!pid) {
        struct sigaction one, two;
        sigaction(SIGUSR1, 0, &one);
        sigaction(SIGUSR2, 0, &two);
        _exit((one.sa_handler == SIG_DFL) | (two.sa_handler == SIG_IGN) << 1);
    }
    printf("CLONE_CLEAR_SIGHAND: %d\n", status_of(pid));
    signal(SIGUSR1, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
    struct { const char *name; struct clone_args arguments; size_t size; } bad[] = {
        { "unknown flag", { .flags = 1ULL << 40 }, 88 },
        { "signal in the flags", { .flags = SIGCHLD }, 88 },
        { "bad signal", { .exit_signal = 65 }, 88 },
        { "stack without size", { .stack = 4096 }, 88 },
        { "size without stack", { .stack_size = 4096 }, 88 },
        { "short", { .flags = 0 }, 63 },
        { "long", { .flags = 0 }, 5000 },
        { "thread with a signal", { .flags = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND, .exit_signal = SIGCHLD }, 88 },
        { "handlers without memory", { .flags = CLONE_SIGHAND }, 88 },
        { "thread without handlers", { .flags = CLONE_THREAD | CLONE_VM }, 88 },
        { "handlers shared and cleared", { .flags = CLONE_SIGHAND | CLONE_VM | CLONE_CLEAR_SIGHAND }, 88 },
        { "thread with a descriptor", { .flags = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND | CLONE_DETACHED }, 88 },
        { "tid count without tids", { .set_tid_size = 1 }, 88 },
    };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        char room[5000] = { 0 };
        memcpy(room, &bad[i].arguments, sizeof bad[i].arguments);
        long result = syscall(SYS_clone3, room, bad[i].size);
        printf("clone3, %s: %ld %d\n", bad[i].name, result, errno);
    }
    printf("clone3 of nothing: %ld", clone3_of((void *)16, 88));
    printf(" %d\n", errno);
    printf("clone with contradictions: %d", plain_clone(CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0));
    printf(" %d", errno);
    printf(" %d", plain_clone(CLONE_THREAD | CLONE_VM, 0, 0, 0, 0));
    printf(" %d\n", errno);
}

static void *forking(void *argument)
{
    pid_t pid = fork();
    if (!pid)
        _exit(17);
    return (void *)(long)status_of(pid);
}

static void *spinning(void *argument)
{
    while (*(volatile int *)argument) { }
    return 0;
}

static void from_threads(void)
{
    int run = 1;
    pthread_t forker, spinner;
    pthread_create(&spinner, 0, spinning, &run);
    pthread_create(&forker, 0, forking, 0);
    void *status;
    pthread_join(forker, &status);
    printf("fork by a thread: %ld\n", (long)status);
    run = 0;
    pthread_join(spinner, 0);
    pid_t pids[20];
    for (int i = 0; i < 20; i++)
        if (!(pids[i] = fork())) {
            volatile long sum = 0;
            for (long n = 0; n < 100000; n++)
                sum += n;
            _exit(sum == 4999950000 ? i : 99);
        }
    int right = 0;
    for (int i = 0; i < 20; i++)
        right += status_of(pids[i]) == i;
    printf("twenty at once: %d\n", right);
    /* Vector registers go along. */
    double in = 2.5, out = 0;
    long pid;
    __asm__ volatile("movsd %2, %%xmm7\n syscall\n movsd %%xmm7, %1\n" : "=a"(pid), "=m"(out) : "m"(in), "a"(57L) : "rcx", "r11", "xmm7", "memory");
    if (!pid)
        _exit(out == 2.5 ? 14 : 15);
    printf("vector registers: %d %g\n", status_of(pid), out);
}

static void limits(void)
{
    struct rlimit limit, again;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 77;
    setrlimit(RLIMIT_NOFILE, &limit);
    pid_t pid = fork();
    if (!pid) {
        getrlimit(RLIMIT_NOFILE, &again);
        limit.rlim_cur = 55;
        setrlimit(RLIMIT_NOFILE, &limit);
        _exit(again.rlim_cur);
    }
    printf("limit of a child: %d", status_of(pid));
    getrlimit(RLIMIT_NOFILE, &again);
    printf(" of the parent %d\n", (int)again.rlim_cur);
    nice(3);
    pid = fork();
    if (!pid)
        _exit(getpriority(PRIO_PROCESS, 0));
    printf("nice value of a child: %d\n", status_of(pid));
}

int main(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    common = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memory();
    ids();
    descriptors();
    signals();
    vforks();
    tids();
    clone3s();
    from_threads();
    limits();
    return 0;
}
