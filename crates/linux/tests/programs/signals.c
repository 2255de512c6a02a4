/* Signals: handlers and what they see, masks, stacks, interrupted calls, timers, waiting. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t count, last, code, on_stack;
static volatile long trap, error;
static char *volatile stack_low, *volatile stack_high;

static void handler(int signal)
{
    count++;
    last = signal;
    char here;
    on_stack = &here > stack_low && &here < stack_high;
}

static void informed(int signal, siginfo_t *info, void *context)
{
    count++;
    last = signal;
    code = info->si_code;
}

static void set(int signal, void *function, int flags)
{
    struct sigaction action = { .sa_flags = flags };
    if (flags & SA_SIGINFO)
        action.sa_sigaction = function;
    else
        action.sa_handler = function;
    sigaction(signal, &action, 0);
}

static void skip_instruction(int signal, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    last = signal;
    code = info->si_code;
    trap = u->uc_mcontext.gregs[REG_TRAPNO];
    error = u->uc_mcontext.gregs[REG_ERR];
    u->uc_mcontext.gregs[REG_RIP] += signal == SIGTRAP ? 0 : 2;
    u->uc_mcontext.gregs[REG_RAX] = 1234;
}

static void spoil_vectors(int signal)
{
    count++;
    __asm__ volatile("pcmpeqd %%xmm5, %%xmm5\n fldz\n fldz\n" : : : "xmm5");
}

static void *sender(void *argument)
{
    struct timespec nap = { 0, 20000000 };
    nanosleep(&nap, 0);
    pthread_kill(*(pthread_t *)argument, SIGUSR1);
    return 0;
}

static pthread_t send_later(pthread_t *to)
{
    pthread_t thread;
    pthread_create(&thread, 0, sender, to);
    return thread;
}

static void *write_later(void *ends)
{
    struct timespec nap = { 0, 60000000 };
    nanosleep(&nap, 0);
    write(((int *)ends)[1], "w", 1);
    return 0;
}

static void *read_all(void *ends)
{
    char part[1000];
    long total = 0;
    while (total < 200000)
        total += read(((int *)ends)[0], part, sizeof part);
    return (void *)total;
}

int main(void)
{
    pthread_t me = pthread_self(), other;
    setvbuf(stdout, 0, _IOLBF, 0);
    set(SIGUSR1, handler, 0);
    raise(SIGUSR1);
    printf("raised: %d of %d\n", count, last);
    kill(getpid(), SIGUSR1);
    printf("killed: %d\n", count);
    set(SIGUSR2, informed, SA_SIGINFO);
    kill(getpid(), SIGUSR2);
    printf("code of kill %d", code);
    raise(SIGUSR2);
    printf(", of tgkill %d\n", code);

    sigset_t mask, old, pending;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &mask, &old);
    count = 0;
    raise(SIGUSR1);
    raise(SIGUSR1);
    set(SIGRTMIN, informed, SA_SIGINFO);
    union sigval value = { .sival_int = 5 };
    sigqueue(getpid(), SIGRTMIN, value);
    sigqueue(getpid(), SIGRTMIN, value);
    sigpending(&pending);
    printf("blocked: %d, pending %d %d %d\n", count, sigismember(&pending, SIGUSR1), sigismember(&pending, SIGRTMIN), sigismember(&pending, SIGUSR2));
    sigprocmask(SIG_SETMASK, &old, 0);
    printf("unblocked: %d\n", count);

    sigprocmask(SIG_BLOCK, &mask, 0);
    siginfo_t info;
    struct timespec soon = { 0, 3000000 };
    printf("wait in vain %d", sigtimedwait(&mask, &info, &soon));
    printf(" %d\n", errno);
    value.sival_int = 77;
    sigqueue(getpid(), SIGRTMIN, value);
    int taken = sigwaitinfo(&mask, &info);
    printf("waited %d value %d code %d\n", taken == SIGRTMIN, info.si_value.sival_int, info.si_code);
    other = send_later(&me);
    printf("waited for a thread %d\n", sigwaitinfo(&mask, &info) == SIGUSR1);
    pthread_join(other, 0);
    count = 0;
    other = send_later(&me);
    printf("suspended %d", sigsuspend(&old));
    printf(" %d, handled %d\n", errno, count);
    pthread_join(other, 0);
    sigprocmask(SIG_SETMASK, &old, 0);

    /* Interrupted and restarted calls. */
    struct timespec nap = { 1, 0 }, left;
    other = send_later(&me);
    printf("sleep %d", nanosleep(&nap, &left));
    printf(" %d, left %d\n", errno, left.tv_nsec > 0 && left.tv_sec == 0);
    pthread_join(other, 0);
    int ends[2];
    char byte;
    pipe(ends);
    other = send_later(&me);
    printf("read %d", (int)read(ends[0], &byte, 1));
    printf(" %d\n", errno);
    pthread_join(other, 0);
    set(SIGUSR1, handler, SA_RESTART);
    set(SIGALRM, handler, SA_RESTART);
    count = 0;
    other = send_later(&me);
    pthread_t writer;
    pthread_join(other, 0);
    other = send_later(&me);
    pthread_create(&writer, 0, write_later, ends);
    printf("restarted read %d", (int)read(ends[0], &byte, 1));
    printf(" [%c]\n", byte);
    pthread_join(other, 0);
    pthread_join(writer, 0);
    printf("handled %d\n", count);

    /* A write that blocks writes all of it, unless it is interrupted. */
    static char much[200000];
    pthread_t reader;
    pthread_create(&reader, 0, read_all, ends);
    printf("whole write %d", (int)write(ends[1], much, sizeof much));
    void *taken_by_reader;
    pthread_join(reader, &taken_by_reader);
    printf(", read %ld\n", (long)taken_by_reader);
    set(SIGUSR1, handler, 0);
    other = send_later(&me);
    printf("interrupted write %d\n", (int)write(ends[1], much, sizeof much));
    pthread_join(other, 0);

    /* Alternate stack. */
    stack_t stack = { .ss_size = 65536, .ss_sp = malloc(65536) }, found;
    stack_low = stack.ss_sp;
    stack_high = stack_low + 65536;
    sigaltstack(&stack, 0);
    set(SIGUSR1, handler, SA_ONSTACK);
    raise(SIGUSR1);
    sigaltstack(0, &found);
    printf("on the other stack %d, size %d flags %d\n", on_stack, (int)found.ss_size, found.ss_flags);
    set(SIGUSR1, handler, 0);
    raise(SIGUSR1);
    printf("on the own stack %d\n", !on_stack);
    stack.ss_size = 10;
    printf("small stack %d", sigaltstack(&stack, 0));
    printf(" %d\n", errno);

    /* Faults that a handler repairs. */
    set(SIGSEGV, skip_instruction, SA_SIGINFO);
    set(SIGILL, skip_instruction, SA_SIGINFO);
    set(SIGFPE, skip_instruction, SA_SIGINFO);
    set(SIGTRAP, skip_instruction, SA_SIGINFO);
    long result = 0;
    __asm__ volatile("xor %%eax, %%eax\n movb (%%rax), %%al\n" : "=a"(result) : : "memory");
    printf("segv repaired %ld, code %d, trap %ld error %ld\n", result, code, trap, error);
    __asm__ volatile("ud2\n" : "=a"(result));
    printf("ill repaired %ld, code %d\n", result, code);
    __asm__ volatile("mov $1, %%eax\n xor %%edx, %%edx\n xor %%ecx, %%ecx\n div %%ecx\n" : "=a"(result) : : "rcx", "rdx");
    printf("fpe repaired %ld, code %d, trap %ld\n", result, code, trap);
    __asm__ volatile("int3\n" : "=a"(result));
    printf("trap %d repaired %ld\n", last, result);

    /* Vector registers and the x87 stack survive a handler. */
    set(SIGUSR1, spoil_vectors, 0);
    double in[2] = { 1.5, 2.5 }, out[2];
    long pid = getpid(), tid = syscall(SYS_gettid);
    __asm__ volatile("movupd %1, %%xmm5\n syscall\n movupd %%xmm5, %0\n"
                     : "=m"(out), "+m"(in) : "a"(SYS_tgkill), "D"(pid), "S"(tid), "d"((long)SIGUSR1) : "rcx", "r11", "xmm5", "memory");
    printf("vectors %g %g\n", out[0], out[1]);

    /* Timers. */
    set(SIGALRM, handler, 0);
    count = 0;
    struct itimerval timer = { { 0, 5000 }, { 0, 5000 } };
    setitimer(ITIMER_REAL, &timer, 0);
    while (count < 3) { } /* spins: the timer must interrupt it */
    memset(&timer, 0, sizeof timer);
    setitimer(ITIMER_REAL, &timer, 0);
    printf("interval timer %d\n", count >= 3);
    timer_t id;
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 9 };
    printf("timer_create %d\n", timer_create(CLOCK_MONOTONIC, &event, &id));
    struct itimerspec spec = { { 0, 0 }, { 0, 3000000 } };
    count = 0;
    timer_settime(id, 0, &spec, 0);
    while (!count)
        usleep(1000);
    printf("timer %d code %d\n", count, code);
    printf("timer_delete %d", timer_delete(id));
    printf(" %d\n", timer_delete(id) == -1);
    printf("alarm %d", alarm(10));
    printf(" %d\n", alarm(0));

    set(SIGUSR1, SIG_IGN, 0);
    raise(SIGUSR1);
    set(SIGUSR1, SIG_DFL, SA_RESETHAND);
    raise(SIGCHLD);
    raise(SIGWINCH);
    printf("bad signals %d %d\n", kill(getpid(), 65) == -1, sigaction(SIGKILL, &(struct sigaction){ 0 }, 0) == -1);
    printf("no process %d", kill(999999, 0));
    printf(" %d, own %d\n", errno, kill(getpid(), 0));
    fflush(stdout);
    raise(SIGUSR1); /* the default ends the process */
    return 0;
}
