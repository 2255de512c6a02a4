/* Unusual ends. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
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
