/* Unusual ends. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static int deeper(volatile char *above)
{
    volatile char room[1000];
    room[0] = above ? above[0] : 1;
    return deeper(room) + room[0];
}

static void return_nowhere(int signal, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    u->uc_mcontext.gregs[REG_RIP] = (long long)0x8000000000000000;
}

static void return_with_garbage(int signal, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    memset(u->uc_mcontext.fpregs, 0xff, 512 + 64);
    u->uc_mcontext.gregs[REG_EFL] = -1;
}

static void handle(void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);
}

/* Memory that is in use. */
static void take(long mebibytes)
{
    long size = mebibytes << 20;
    char *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        _exit(1);
    memset(p, 1, size);
}

/* A child takes much memory, then its parent more than is left: it is the child that is killed. */
static int outlive_largest(void)
{
    int ready[2], status = 0;
    char byte;
    pipe(ready);
    pid_t child = fork();
    if (!child) {
        take(36);
        write(ready[1], "x", 1);
        for (;;)
            pause();
    }
    read(ready[0], &byte, 1);
    for (int i = 0; i < 40 && !waitpid(child, &status, WNOHANG); i++)
        take(1);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 19 : 1;
}

/* The first process has most of the memory when its child needs more than is left. */
static int be_largest(void)
{
    int ready[2];
    char byte;
    pipe(ready);
    pid_t child = fork();
    if (!child) {
        read(ready[0], &byte, 1);
        take(40);
        _exit(0);
    }
    take(36);
    write(ready[1], "x", 1);
    waitpid(child, 0, 0);
    return 1;
}

int main(int argc, char **argv)
{
    struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    char *what = argv[1];
    if (!strcmp(what, "segv"))
        *(volatile int *)8 = 1;
    if (!strcmp(what, "recursion"))
        return deeper(0);
    if (!strcmp(what, "abort"))
        abort();
    if (!strcmp(what, "illegal"))
        __asm__ volatile("ud2");
    if (!strcmp(what, "divide")) {
        __asm__ volatile("xor %%ecx, %%ecx\n div %%ecx" : : "a"(1), "d"(0) : "rcx");
    }
    if (!strcmp(what, "return-nowhere"))
        handle(return_nowhere);
    if (!strcmp(what, "return-with-garbage"))
        handle(return_with_garbage);
    if (!strcmp(what, "stack-nowhere"))
        __asm__ volatile("mov $0x8000000000000000, %rax\n mov %rax, %rsp\n push %rax");
    if (!strcmp(what, "much-at-once"))
        return malloc(1UL << 40) == NULL ? 21 : 0;
    if (!strcmp(what, "hog")) {
        for (;;) {
            char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED)
                return 1;
            memset(p, 1, 1 << 20);
        }
    }
    if (!strcmp(what, "outlive-largest"))
        return outlive_largest();
    if (!strcmp(what, "be-largest"))
        return be_largest();
    if (!strcmp(what, "exit-without-memory")) {
        /* What is told of the thread's end has no page, and there is none left for it. */
        long size = 1 << 30;
        char *end = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mmap(0, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_NORESERVE, -1, 0);
        syscall(SYS_set_tid_address, end + (1 << 19));
        syscall(SYS_exit, 18);
    }
    close(0);
    close(1);
    close(2);
    _exit(17);
}
