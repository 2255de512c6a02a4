/* The futex operations, one by one. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint32_t a, b, waiting;

static long futex(uint32_t *word, int operation, uint32_t value, const void *timeout, uint32_t *second, uint32_t third)
{
    long result = syscall(SYS_futex, word, operation, value, timeout, second, third);
    return result < 0 ? -errno : result;
}

static void *wait_on(void *bits)
{
    __atomic_add_fetch(&waiting, 1, __ATOMIC_SEQ_CST);
    return (void *)futex(&a, FUTEX_WAIT_BITSET_PRIVATE, 0, 0, 0, (uint32_t)(long)bits);
}

/* Wakes until as many as wanted have been woken: a thread may not wait yet. */
static int wake_all(uint32_t *word, int operation, int wanted, uint32_t bits)
{
    int woken = 0;
    while (woken < wanted) {
        woken += futex(word, operation, wanted - woken, 0, 0, bits);
        sched_yield();
    }
    return woken;
}

int main(void)
{
    struct timespec short_time = { 0, 2000000 }, bad = { 0, 1000000000 }, past = { 1, 0 };
    printf("mismatch %ld\n", futex(&a, FUTEX_WAIT, 1, 0, 0, 0));
    printf("timeout %ld\n", futex(&a, FUTEX_WAIT, 0, &short_time, 0, 0));
    printf("bad time %ld\n", futex(&a, FUTEX_WAIT, 0, &bad, 0, 0));
    printf("past %ld\n", futex(&a, FUTEX_WAIT_BITSET, 0, &past, 0, ~0u));
    printf("past real %ld\n", futex(&a, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &past, 0, ~0u));
    printf("no bits %ld\n", futex(&a, FUTEX_WAIT_BITSET, 0, 0, 0, 0));
    printf("unaligned %ld\n", futex((uint32_t *)((char *)&a + 1), FUTEX_WAIT, 0, 0, 0, 0));
    printf("bad address %ld\n", futex((uint32_t *)0x10, FUTEX_WAIT, 0, 0, 0, 0));
    printf("nobody %ld\n", futex(&a, FUTEX_WAKE, 1, 0, 0, 0));
    printf("unknown %ld\n", futex(&a, 77, 1, 0, 0, 0));

    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], 0, wait_on, (void *)(i < 2 ? 1L : 2L));
    printf("bits 2: %d\n", wake_all(&a, FUTEX_WAKE_BITSET_PRIVATE, 2, 2));
    printf("bits 2 again: %ld\n", futex(&a, FUTEX_WAKE_BITSET_PRIVATE, 9, 0, 0, 2));
    printf("bits 1: %d\n", wake_all(&a, FUTEX_WAKE_BITSET_PRIVATE, 2, 1));
    long results = 0;
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        results |= (long)result;
    }
    printf("results %ld\n", results);

    printf("requeue mismatch %ld\n", futex(&a, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)9, &b, 5));
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], 0, wait_on, (void *)-1L);
    int moved = 0, woken = 0;
    while (woken < 1) {
        woken += futex(&a, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
        sched_yield();
    }
    while (moved < 3) {
        moved += futex(&a, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)9, &b, 0);
        sched_yield();
    }
    printf("woken %d, moved %d, left %ld\n", woken, moved, futex(&a, FUTEX_WAKE_PRIVATE, 9, 0, 0, 0));
    printf("second %ld\n", futex(&b, FUTEX_WAKE_PRIVATE, 9, 0, 0, 0));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], 0);

    b = 5;
    printf("wake op %ld", futex(&a, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 5)));
    printf(" -> %u\n", b);
    printf("wake op andn %ld", futex(&a, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_ANDN, 8, FUTEX_OP_CMP_LT, 0)));
    printf(" -> %u\n", b);
    printf("wake op shift %ld", futex(&a, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &b, FUTEX_OP((FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT), 4, FUTEX_OP_CMP_GE, 0)));
    printf(" -> %u\n", b);
    return 0;
}
