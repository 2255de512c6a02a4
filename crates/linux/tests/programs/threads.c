/* Threads: creation, joining, thread-local storage, mutexes, condition variables, barriers, many of them. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int turn;
static long count;
static _Thread_local long mine;

static void *player(void *argument)
{
    int me = (int)(long)argument;
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != me)
            pthread_cond_wait(&changed, &mutex);
        turn = !me;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return 0;
}

static void *adder(void *argument)
{
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&mutex);
        count++;
        mine++;
        pthread_mutex_unlock(&mutex);
    }
    return (void *)mine;
}

static pthread_barrier_t barrier;
static int arrived;

static void *meet(void *argument)
{
    for (int i = 0; i < 20; i++) {
        __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
        pthread_barrier_wait(&barrier);
        if (__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) < 8 * (i + 1))
            return (void *)1;
        pthread_barrier_wait(&barrier);
    }
    return 0;
}

static void *die(void *argument)
{
    pthread_mutex_lock(argument);
    return 0; /* with the robust mutex held */
}

static void *own_mask(void *result)
{
    *(int *)result = sched_getaffinity(0, sizeof(cpu_set_t), (cpu_set_t *)((char *)result + 64));
    return 0;
}

/* The mask of processors is remembered, and given to new threads. */
static void processors(void)
{
    cpu_set_t all, one, none, read;
    struct {
        int result;
        char padding[60];
        cpu_set_t mask;
    } of_thread;
    CPU_ZERO(&one);
    CPU_ZERO(&none);
    sched_getaffinity(0, sizeof all, &all);
    int first = 0;
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_SET(first, &one);
    printf("one processor: %d\n", sched_setaffinity(0, sizeof one, &one));
    sched_getaffinity(0, sizeof read, &read);
    printf("is remembered: %d\n", CPU_EQUAL(&read, &one));
    pthread_t thread;
    pthread_create(&thread, 0, own_mask, &of_thread);
    pthread_join(thread, 0);
    printf("is inherited: %d %d\n", of_thread.result, CPU_EQUAL(&of_thread.mask, &one));
    printf("none: %d\n", sched_setaffinity(0, sizeof none, &none) < 0 ? errno : 0);
    printf("of nobody: %d\n", sched_setaffinity(999999, sizeof one, &one) < 0 ? errno : 0);
    printf("all again: %d\n", sched_setaffinity(0, sizeof all, &all));
    sched_getaffinity(0, sizeof read, &read);
    printf("are remembered: %d\n", CPU_EQUAL(&read, &all));
}

int main(void)
{
    pthread_t threads[8];
    for (long i = 0; i < 2; i++)
        pthread_create(&threads[i], 0, player, (void *)i);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], 0);
    printf("ping-pong done\n");

    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], 0, adder, 0);
    long total = 0;
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(threads[i], &result);
        total += (long)result;
    }
    printf("counted %ld, of threads %ld\n", count, total);

    pthread_barrier_init(&barrier, 0, 8);
    long failures = 0;
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], 0, meet, 0);
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(threads[i], &result);
        failures += (long)result;
    }
    printf("barrier failures %ld\n", failures);

    for (int i = 0; i < 100; i++) {
        pthread_t one;
        if (pthread_create(&one, 0, adder, 0))
            return 1;
        pthread_join(one, 0);
    }
    printf("counted %ld\n", count);

    pthread_mutex_t robust;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_create(&threads[0], 0, die, &robust);
    pthread_join(threads[0], 0);
    printf("owner died: %d\n", pthread_mutex_lock(&robust) == 130 /* EOWNERDEAD */);
    processors();
    printf("main is first: %d\n", getpid() == syscall(SYS_gettid));
    /* The process ends although a thread waits for ever. */
    turn = 2;
    pthread_create(&threads[0], 0, player, (void *)0);
    printf("end\n");
    return 0;
}
