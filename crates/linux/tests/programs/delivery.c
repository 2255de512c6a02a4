/* The finer rules of signals: order, values, masks in handlers, restarts, waiting, faults, timers of processor time. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static int order[64], values[64];
static volatile sig_atomic_t count;
static volatile sig_atomic_t depth, deepest;

static void note(int signal, siginfo_t *info, void *context)
{
    if (count < 64) {
        order[count] = signal;
        values[count] = info->si_value.sival_int;
    }
    count++;
}

static void set(int signal, void *function, int flags)
{
    struct sigaction action = { .sa_flags = flags | SA_SIGINFO, .sa_sigaction = function };
    sigaction(signal, &action, 0);
}

static void print_order(const char *name)
{
    printf("%s:", name);
    for (int i = 0; i < count && i < 64; i++)
        printf(" %d/%d", order[i], values[i]);
    printf("\n");
    count = 0;
}

static void queues(void)
{
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    int signals[] = { SIGRTMIN + 3, SIGUSR2, SIGRTMIN, SIGRTMIN + 3, SIGHUP, SIGRTMIN, SIGUSR2, SIGTERM };
    for (unsigned i = 0; i < 8; i++) {
        set(signals[i], note, 0);
        union sigval value = { .sival_int = i + 1 };
        sigqueue(getpid(), signals[i], value);
    }
    sigset_t pending;
    sigpending(&pending);
    printf("pending: %d %d %d %d\n", sigismember(&pending, SIGHUP), sigismember(&pending, SIGUSR2),
           sigismember(&pending, SIGRTMIN + 3), sigismember(&pending, SIGUSR1));
    /* Those of the thread come before those of the process. */
    union sigval value = { .sival_int = 50 };
    siginfo_t info = { .si_code = SI_QUEUE, .si_value = value, .si_pid = getpid() };
    SAY(syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGRTMIN + 1, &info));
    set(SIGRTMIN + 1, note, 0);
    /* With handlers that block everything, one after the other. */
    siginfo_t taken;
    sigset_t some;
    sigemptyset(&some);
    sigaddset(&some, SIGRTMIN);
    sigaddset(&some, SIGTERM);
    SAY(sigwaitinfo(&some, &taken));
    SAY(taken.si_value.sival_int);
    SAY(taken.si_code);
    SAY(taken.si_pid == getpid());
    SAY(sigwaitinfo(&some, &taken));
    SAY(taken.si_value.sival_int);
    for (unsigned i = 0; i < 8; i++) {
        struct sigaction action = { .sa_flags = SA_SIGINFO, .sa_sigaction = note };
        sigfillset(&action.sa_mask);
        sigaction(signals[i], &action, 0);
    }
    sigprocmask(SIG_SETMASK, &old, 0);
    int sum = 0;
    for (int i = 0; i < count; i++)
        sum += values[i];
    printf("handled %d, sum %d\n", count, sum);
    count = 0;
    struct timespec none = { 0, 0 }, bad = { 0, 1000000000 };
    SAY(sigtimedwait(&some, &taken, &none));
    SAY(sigtimedwait(&some, &taken, &bad));
    SAY(syscall(SYS_rt_sigtimedwait, &some, 0, &none, 4));
    SAY(sigqueue(getpid(), 65, value));
    SAY(sigqueue(999999, SIGUSR1, value));
    SAY(sigqueue(getpid(), 0, value));
    info.si_code = SI_USER;
    SAY(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &info));
    info.si_code = SI_TKILL;
    SAY(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &info));
    SAY(syscall(SYS_rt_sigprocmask, 7, &some, 0, 8));
    SAY(syscall(SYS_rt_sigprocmask, 7, 0, 0, 8));
    SAY(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &some, 0, 16));
    SAY(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 16, 0, 8));
    SAY(syscall(SYS_rt_sigaction, SIGUSR1, 0, 0, 4));
    SAY(syscall(SYS_rt_sigaction, 0, 0, 0, 8));
    SAY(syscall(SYS_rt_sigaction, SIGKILL, 0, &(char[100]){ 0 }, 8));
    SAY(syscall(SYS_rt_sigsuspend, &some, 4));
    SAY(syscall(SYS_rt_sigpending, &some, 9));
}

static void nested(int signal, siginfo_t *info, void *context)
{
    sigset_t now;
    sigprocmask(SIG_BLOCK, 0, &now);
    order[count] = sigismember(&now, signal);
    values[count++] = sigismember(&now, SIGUSR2);
    if (++depth > deepest)
        deepest = depth;
    if (count < 3)
        raise(signal);
    depth--;
}

static void masks(void)
{
    struct sigaction action = { .sa_flags = SA_SIGINFO, .sa_sigaction = nested };
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);
    SHOW("deferred", "%d", deepest);
    print_order("masks");
    action.sa_flags |= SA_NODEFER;
    deepest = 0;
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);
    SHOW("not deferred", "%d", deepest);
    print_order("masks");
    action.sa_flags = SA_SIGINFO | SA_RESETHAND;
    action.sa_sigaction = note;
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);
    struct sigaction found;
    sigaction(SIGUSR1, 0, &found);
    SAY(found.sa_handler == SIG_DFL);
    count = 0;
    sigset_t mask, seen;
    sigemptyset(&mask);
    sigaddset(&mask, SIGKILL);
    sigaddset(&mask, SIGSTOP);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_SETMASK, &mask, 0);
    sigprocmask(SIG_BLOCK, 0, &seen);
    printf("blocked: %d %d %d\n", sigismember(&seen, SIGKILL), sigismember(&seen, SIGSTOP), sigismember(&seen, SIGUSR2));
    /* Ignoring a pending signal forgets it. */
    set(SIGUSR2, note, 0);
    raise(SIGUSR2);
    signal(SIGUSR2, SIG_IGN);
    sigpending(&seen);
    SAY(sigismember(&seen, SIGUSR2));
    raise(SIGUSR2);
    sigpending(&seen);
    SAY(sigismember(&seen, SIGUSR2));
    set(SIGUSR2, note, 0);
    sigemptyset(&mask);
    sigprocmask(SIG_SETMASK, &mask, 0);
    SAY(count);
    count = 0;
}

/* Until a process sleeps, as /proc tells. */
static void await_sleep(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    for (;;) {
        int fd = open(path, O_RDONLY);
        ssize_t length = read(fd, text, sizeof text - 1);
        close(fd);
        text[length > 0 ? length : 0] = 0;
        char *name_end = strrchr(text, ')');
        if (name_end && name_end[2] == 'S')
            return;
    }
}

/* Sends the caller a signal when it sleeps, and later a byte. */
static pid_t prodder(int signal, const void *bytes, int fd)
{
    pid_t parent = getpid(), pid = fork();
    if (!pid) {
        await_sleep(parent);
        kill(parent, signal);
        usleep(50000);
        if (fd >= 0)
            write(fd, bytes, 1);
        _exit(0);
    }
    return pid;
}

#define PRODDED(name, fd, expression)                                          \
    do {                                                                       \
        pid_t child = prodder(SIGUSR1, "x", fd);                           \
        errno = 0;                                                             \
        count = 0;                                                             \
        long outcome = (long)(expression);                                     \
        int error = errno;                                                     \
        while (!count)                                                         \
            usleep(1000);                                                      \
        int status;                                                            \
        while (waitpid(child, &status, 0) == -1) { }                           \
        printf("%s: %ld%s%s\n", name, outcome, outcome < 0 ? " " : "",        \
               outcome < 0 ? strerrorname_np(error) : "");                     \
        char byte;                                                             \
        if (fd >= 0)                                                           \
            recv(pair[0], &byte, 1, MSG_DONTWAIT);                             \
    } while (0)

static void restarts(void)
{
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    char byte;
    sigset_t empty;
    sigemptyset(&empty);
    struct timespec spec = { 3, 0 };
    struct timeval interval = { 3, 0 };
    int epoll = epoll_create1(0);
    struct epoll_event event;
    for (int restart = 0; restart < 2; restart++) {
        printf("%s SA_RESTART\n", restart ? "with" : "without");
        set(SIGUSR1, note, restart ? SA_RESTART : 0);
        PRODDED("read of a socket", pair[1], read(pair[0], &byte, 1));
        PRODDED("recv", pair[1], recv(pair[0], &byte, 1, 0));
        PRODDED("poll", -1, poll(0, 0, 3000));
        PRODDED("ppoll", -1, ppoll(0, 0, &spec, &empty));
        PRODDED("select", -1, select(0, 0, 0, 0, &interval));
        interval = (struct timeval){ 3, 0 };
        PRODDED("epoll_wait", -1, epoll_wait(epoll, &event, 1, 3000));
        PRODDED("nanosleep", -1, nanosleep(&spec, 0));
        PRODDED("clock_nanosleep", -1, -clock_nanosleep(CLOCK_MONOTONIC, 0, &spec, 0));
        PRODDED("pause", -1, pause());
        PRODDED("sigsuspend", -1, sigsuspend(&empty));
    }
    int word = 0;
    PRODDED("futex", -1, syscall(SYS_futex, &word, 0, 0, &spec, 0, 0));
    struct timeval timeout = { 3, 0 };
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    PRODDED("recv with a time-out", -1, recv(pair[0], &byte, 1, 0));
    /* An ignored signal interrupts nothing. */
    signal(SIGUSR2, SIG_IGN);
    pid_t child = prodder(SIGUSR2, "y", pair[1]);
    SAY(read(pair[0], &byte, 1));
    waitpid(child, 0, 0);
    close(pair[0]);
    close(pair[1]);
    close(epoll);
}

static sigjmp_buf back;
static volatile int fault_code;
static volatile long fault_error, fault_trap;
static void *volatile fault_address, *volatile fault_cr2;

static void fault(int signal, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    fault_code = info->si_code;
    fault_address = info->si_addr;
    fault_error = u->uc_mcontext.gregs[REG_ERR];
    fault_trap = u->uc_mcontext.gregs[REG_TRAPNO];
    fault_cr2 = (void *)u->uc_mcontext.gregs[REG_CR2];
    siglongjmp(back, signal);
}

#define FAULTS(name, address, statement)                                       \
    do {                                                                       \
        int signal = sigsetjmp(back, 1);                                       \
        if (!signal) {                                                         \
            statement;                                                         \
        }                                                                      \
        printf("%s: signal %d code %d address %d cr2 %d error %ld trap %ld\n", name, signal, fault_code,                   \
               fault_address == (void *)(address), fault_cr2 == (void *)(address), fault_error, fault_trap);               \
    } while (0)

static void faults(void)
{
    static char stack_room[65536];
    stack_t stack = { .ss_sp = stack_room, .ss_size = sizeof stack_room };
    sigaltstack(&stack, 0);
    set(SIGSEGV, fault, SA_ONSTACK);
    set(SIGBUS, fault, SA_ONSTACK);
    set(SIGILL, fault, 0);
    set(SIGFPE, fault, 0);
    char *page = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *none = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)*(volatile char *)page;
    FAULTS("write to read-only", page + 6, page[6] = 1);
    FAULTS("read of nothing", 0x1234, (void)*(volatile char *)0x1234);
    FAULTS("write of nothing", 0x4321, *(volatile char *)0x4321 = 1);
    FAULTS("read of PROT_NONE", none + 7, (void)*(volatile char *)(none + 7));
    FAULTS("jump to nothing", 0x5678, ((void (*)(void))0x5678)());
    FAULTS("jump to data", page, ((void (*)(void))page)());
    char *volatile wild = (char *)0x8000000000000000;
    int signal = sigsetjmp(back, 1);
    if (!signal)
        *wild = 1;
    printf("address that is none: signal %d code %d address %d error %ld trap %ld\n", signal, fault_code,
           fault_address == 0, fault_error, fault_trap);
    int fd = memfd_create("short", 0);
    ftruncate(fd, 4096);
    char *mapped = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    FAULTS("beyond the end of a file", mapped + 4099, mapped[4099] = 1);
    signal = sigsetjmp(back, 1);
    if (!signal)
        __asm__ volatile("ud2");
    printf("ud2: signal %d code %d trap %ld\n", signal, fault_code, fault_trap);
    signal = sigsetjmp(back, 1);
    if (!signal)
        __asm__ volatile("xor %%eax, %%eax\n div %%eax\n" ::: "rax", "rdx");
    printf("division: signal %d code %d trap %ld\n", signal, fault_code, fault_trap);
    signal = sigsetjmp(back, 1);
    if (!signal)
        __asm__ volatile("hlt");
    printf("hlt: signal %d code %d address %d trap %ld\n", signal, fault_code, fault_address == 0, fault_trap);
    /* A fault that is blocked or ignored ends the process. */
    pid_t pid = fork();
    if (!pid) {
        sigset_t mask;
        sigemptyset(&mask);
        sigaddset(&mask, SIGSEGV);
        sigprocmask(SIG_BLOCK, &mask, 0);
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        *(volatile char *)16 = 1;
        _exit(1);
    }
    int status;
    waitpid(pid, &status, 0);
    SHOW("blocked fault", "%d", WTERMSIG(status));
    pid = fork();
    if (!pid) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        set(SIGSEGV, SIG_IGN, 0);
        struct sigaction ignore = { .sa_handler = SIG_IGN };
        sigaction(SIGSEGV, &ignore, 0);
        *(volatile char *)16 = 1;
        _exit(1);
    }
    waitpid(pid, &status, 0);
    SHOW("ignored fault", "%d", WTERMSIG(status));
}

struct fpstate_tail { uint32_t magic, extended_size; uint64_t features; uint32_t size; };

static void look_at_frame(int signal, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    char *state = (char *)u->uc_mcontext.fpregs;
    struct fpstate_tail *tail = (void *)(state + 464);
    uint32_t end = 0;
    if (tail->magic == 0x46505853)
        memcpy(&end, state + tail->size, 4);
    order[0] = tail->magic == 0x46505853;
    order[1] = end == 0x46505845;
    order[2] = (uintptr_t)state % 64 == 0;
    order[3] = tail->extended_size >= tail->size + 4;
    order[4] = (tail->features & 3) == 3;
    order[5] = (int)((uintptr_t)__builtin_frame_address(0) % 16);
    order[6] = u->uc_flags & 1;
    order[7] = u->uc_link == 0;
    order[8] = u->uc_mcontext.gregs[REG_CSGSFS] & 0xffff;
    order[9] = sigismember(&u->uc_sigmask, SIGHUP);
    /* What the handler changes there is what the thread goes on with. */
    double *xmm6 = (double *)&u->uc_mcontext.fpregs->_xmm[6];
    *xmm6 *= 2;
}

static void frames(void)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGHUP);
    sigprocmask(SIG_SETMASK, &mask, 0);
    set(SIGUSR1, look_at_frame, 0);
    double in = 1.25, out = 0;
    long pid = getpid(), tid = gettid();
    __asm__ volatile("movsd %1, %%xmm6\n syscall\n movsd %%xmm6, %0\n"
                     : "=m"(out) : "m"(in), "a"((long)SYS_tgkill), "D"(pid), "S"(tid), "d"((long)SIGUSR1) : "rcx", "r11", "xmm6", "memory");
    printf("frame: magic %d %d aligned %d size %d features %d stack %d flags %d link %d code segment %d mask %d\n", order[0],
           order[1], order[2], order[3], order[4], order[5], order[6], order[7], order[8], order[9]);
    printf("changed by the handler: %g\n", out);
    sigemptyset(&mask);
    sigprocmask(SIG_SETMASK, &mask, 0);
}

static void processor_time(void)
{
    count = 0;
    set(SIGVTALRM, note, 0);
    set(SIGPROF, note, 0);
    struct itimerval timer = { { 0, 0 }, { 0, 20000 } }, old;
    SAY(setitimer(ITIMER_VIRTUAL, &timer, 0));
    while (count < 1) { }
    SAY(order[0]);
    count = 0;
    timer.it_interval.tv_usec = 10000;
    SAY(setitimer(ITIMER_PROF, &timer, 0));
    while (count < 3) { }
    SAY(order[2]);
    SAY(getitimer(ITIMER_PROF, &old));
    SAY(old.it_interval.tv_usec);
    memset(&timer, 0, sizeof timer);
    SAY(setitimer(ITIMER_PROF, &timer, &old));
    SAY(setitimer(3, &timer, &old));
    count = 0;
    clockid_t clocks[] = { CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID };
    set(SIGUSR2, note, 0);
    for (int i = 0; i < 2; i++) {
        timer_t id;
        struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 70 + i };
        SAY(timer_create(clocks[i], &event, &id));
        struct itimerspec spec = { { 0, 0 }, { 0, 300000000 } };
        timer_settime(id, 0, &spec, 0);
        usleep(30000);
        printf("not while sleeping: %d\n", count);
        while (!count) { }
        SAY(values[0]);
        SAY(timer_delete(id));
        count = 0;
    }
    pid_t pid = fork();
    if (!pid) {
        setrlimit(RLIMIT_CPU, &(struct rlimit){ 1, 2 });
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        for (;;) { }
    }
    int status;
    waitpid(pid, &status, 0);
    SHOW("soft limit of processor time", "%d", WTERMSIG(status));
    clockid_t other;
    SAY(clock_getcpuclockid(getpid(), &other));
    struct timespec time;
    SAY(clock_gettime(other, &time));
    SAY(clock_getcpuclockid(999999, &other));
}

int main(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    queues();
    masks();
    restarts();
    faults();
    frames();
    processor_time();
    return 0;
}
