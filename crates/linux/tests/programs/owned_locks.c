/* Locks that the kernel knows the owners of (PTHREAD_PRIO_INHERIT), and waiting for several futexes at a time. */
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { ROUNDS = 2000, THREADS = 4 };

static const char *name(int error) { return error ? strerrorname_np(error) : "0"; }

static pthread_mutex_t *new_mutex(int type, int robustness, int shared)
{
    pthread_mutex_t *mutex = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    printf("inherit: %s\n", name(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT)));
    pthread_mutexattr_settype(&attributes, type);
    pthread_mutexattr_setrobust(&attributes, robustness);
    pthread_mutexattr_setpshared(&attributes, shared);
    printf("init: %s\n", name(pthread_mutex_init(mutex, &attributes)));
    return mutex;
}

static long counter;
static pthread_mutex_t *shared_mutex;

static void *count(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(shared_mutex);
        long seen = counter;
        if (i % 50 == 0)
            sched_yield();
        counter = seen + 1;
        pthread_mutex_unlock(shared_mutex);
    }
    return NULL;
}

static void *lock_and_end(void *mutex)
{
    return (void *)(intptr_t)pthread_mutex_lock(mutex);
}

static void *try_it(void *mutex)
{
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 5000000;
    if (soon.tv_nsec >= 1000000000)
        soon.tv_sec++, soon.tv_nsec -= 1000000000;
    printf("taken: try %s", name(pthread_mutex_trylock(mutex)));
    printf(", timed %s", name(pthread_mutex_timedlock(mutex, &soon)));
    printf(", unlock %s\n", name(pthread_mutex_unlock(mutex)));
    return NULL;
}

static void mutexes(void)
{
    pthread_t threads[THREADS];
    shared_mutex = new_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_PRIVATE);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, count, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("counted: %ld\n", counter);

    pthread_mutex_t *checked = new_mutex(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_PRIVATE);
    printf("unlock what is not locked: %s\n", name(pthread_mutex_unlock(checked)));
    printf("lock: %s\n", name(pthread_mutex_lock(checked)));
    printf("again: %s\n", name(pthread_mutex_lock(checked)));
    pthread_create(&threads[0], NULL, try_it, checked);
    pthread_join(threads[0], NULL);
    printf("unlock: %s\n", name(pthread_mutex_unlock(checked)));

    pthread_mutex_t *robust = new_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ROBUST, PTHREAD_PROCESS_PRIVATE);
    void *result;
    pthread_create(&threads[0], NULL, lock_and_end, robust);
    pthread_join(threads[0], &result);
    printf("a thread locks and ends: %s\n", name((int)(intptr_t)result));
    printf("next: %s\n", name(pthread_mutex_lock(robust)));
    printf("consistent: %s\n", name(pthread_mutex_consistent(robust)));
    printf("unlock: %s\n", name(pthread_mutex_unlock(robust)));
    printf("lock: %s\n", name(pthread_mutex_lock(robust)));
}

/* The owner, a process, ends while another one waits for its lock. */
static void processes(void)
{
    pthread_mutex_t *mutex = new_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ROBUST, PTHREAD_PROCESS_SHARED);
    int pipes[2], status;
    pipe(pipes);
    fflush(stdout);
    pid_t owner = fork();
    if (owner == 0) {
        pthread_mutex_lock(mutex);
        write(pipes[1], "l", 1);
        pause();
    }
    char byte;
    read(pipes[0], &byte, 1);
    pid_t waiter = fork();
    if (waiter == 0) {
        write(pipes[1], "w", 1);
        int error = pthread_mutex_lock(mutex);
        pthread_mutex_consistent(mutex);
        pthread_mutex_unlock(mutex);
        _exit(error == EOWNERDEAD);
    }
    read(pipes[0], &byte, 1);
    volatile uint32_t *word = (uint32_t *)mutex;
    while (!(*word & FUTEX_WAITERS))
        sched_yield();
    kill(owner, SIGKILL);
    waitpid(owner, NULL, 0);
    waitpid(waiter, &status, 0);
    printf("who waits learns of the owner's end: %d\n", WEXITSTATUS(status));
    printf("and leaves it free: %s\n", name(pthread_mutex_lock(mutex)));
}

static uint32_t word, other;

static long futex(uint32_t *at, int operation, struct timespec *timeout)
{
    return syscall(SYS_futex, at, operation, 0, timeout, NULL, 0);
}

static int steps[2];

static void *hold(void *unused)
{
    char byte;
    futex(&word, FUTEX_LOCK_PI_PRIVATE, NULL);
    read(steps[0], &byte, 1);
    futex(&word, FUTEX_UNLOCK_PI_PRIVATE, NULL);
    return unused;
}

static void calls(void)
{
    pid_t tid = (pid_t)syscall(SYS_gettid);
    struct timespec past = { 1, 0 };
    SAY(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, NULL));
    SAY(futex(&word, FUTEX_LOCK_PI_PRIVATE, NULL));
    SHOW("the owner", "%d", word == (uint32_t)tid);
    SAY(futex(&word, FUTEX_LOCK_PI_PRIVATE, NULL));
    SAY(futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, NULL));
    SAY(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, NULL));
    SHOW("free", "%x", word);
    SAY(futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, NULL));
    SAY(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, NULL));
    pthread_t thread;
    pipe(steps);
    pthread_create(&thread, NULL, hold, NULL);
    while (!(*(volatile uint32_t *)&word & FUTEX_TID_MASK))
        sched_yield();
    SAY(futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, NULL));
    SAY(futex(&word, FUTEX_LOCK_PI_PRIVATE, &past));
    SAY(futex(&word, FUTEX_LOCK_PI2 | FUTEX_PRIVATE_FLAG, &past));
    SAY(futex(&word, FUTEX_LOCK_PI2 | FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME, &past));
    SHOW("somebody has waited", "%d", (word & FUTEX_WAITERS) != 0);
    SAY(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, NULL));
    close(steps[1]);
    SAY(futex(&word, FUTEX_LOCK_PI_PRIVATE, NULL));
    SHOW("handed over", "%d", (word & FUTEX_TID_MASK) == (uint32_t)tid);
    pthread_join(thread, NULL);
    SAY(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, NULL));
    word = 0x3ffffff0;
    SAY(futex(&word, FUTEX_LOCK_PI_PRIVATE, &past));
    SAY(futex((uint32_t *)((char *)&word + 1), FUTEX_LOCK_PI_PRIVATE, NULL));
    SAY(futex(NULL, FUTEX_LOCK_PI_PRIVATE, NULL));
}

struct waiter { uint64_t value, address; uint32_t flags, reserved; };
enum { PRIVATE_32 = 2 | 128 };

static long wait_for(struct waiter *waiters, unsigned count, unsigned flags, struct timespec *until, int clock)
{
    return syscall(449, waiters, count, flags, until, clock);
}

static void *wake_other(void *unused)
{
    while (syscall(SYS_futex, &other, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 0)
        sched_yield();
    return unused;
}

static void several(void)
{
    word = other = 7;
    struct waiter both[2] = { { 7, (uintptr_t)&word, PRIVATE_32, 0 }, { 7, (uintptr_t)&other, PRIVATE_32, 0 } };
    struct timespec past = { 1, 0 };
    SAY(wait_for(both, 2, 0, &past, CLOCK_MONOTONIC));
    SAY(wait_for(both, 2, 0, &past, CLOCK_REALTIME));
    SAY(wait_for(both, 2, 0, &past, CLOCK_THREAD_CPUTIME_ID));
    SAY(wait_for(both, 0, 0, NULL, CLOCK_MONOTONIC));
    SAY(wait_for(both, 129, 0, NULL, CLOCK_MONOTONIC));
    SAY(wait_for(both, 2, 1, NULL, CLOCK_MONOTONIC));
    SAY(wait_for(NULL, 2, 0, NULL, CLOCK_MONOTONIC));
    pthread_t thread;
    pthread_create(&thread, NULL, wake_other, NULL);
    SAY(wait_for(both, 2, 0, NULL, CLOCK_MONOTONIC));
    pthread_join(thread, NULL);
    other = 8;
    SAY(wait_for(both, 2, 0, NULL, CLOCK_MONOTONIC));
    both[1].reserved = 1;
    SAY(wait_for(both, 2, 0, NULL, CLOCK_MONOTONIC));
    both[1].reserved = 0;
    both[1].flags = 128;
    SAY(wait_for(both, 2, 0, NULL, CLOCK_MONOTONIC));
    both[1].flags = 2;
    both[1].address = 8;
    SAY(wait_for(both, 2, 0, NULL, CLOCK_MONOTONIC));
}

int main(void)
{
    mutexes();
    processes();
    calls();
    several();
    return 0;
}
