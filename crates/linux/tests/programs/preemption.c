/* Threads that never call the system must be pre-empted, and each keeps its own vector registers. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <time.h>
#include <fenv.h>
#include <math.h>

static volatile int flag, started;

static void *spin(void *argument)
{
    __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
    while (!flag) { }
    return 0;
}

static void *vector(void *argument)
{
    double seed = (double)(long)argument, got[2];
    double pattern[2] = { seed, -seed };
    unsigned control = 0x1f80 | ((unsigned)(long)argument & 3) << 13, back = 0;
    __asm__ volatile("ldmxcsr %0" : : "m"(control));
    for (int i = 0; i < 20; i++) {
        __asm__ volatile(
            "movupd %2, %%xmm7\n movq $3000000, %%rcx\n 1: dec %%rcx\n jnz 1b\n"
            "movupd %%xmm7, %0\n stmxcsr %1\n"
            : "=m"(got), "=m"(back) : "m"(pattern) : "rcx", "xmm7", "memory");
        if (got[0] != seed || got[1] != -seed || (back & 0xe000 & ~0x8000) != (control & 0x6000))
            return (void *)1;
    }
    return 0;
}

int main(void)
{
    pthread_t spinners[3], vectors[4];
    for (int i = 0; i < 3; i++)
        pthread_create(&spinners[i], 0, spin, 0);
    while (started < 3) { }
    printf("all spin\n");
    flag = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(spinners[i], 0);
    long failures = 0;
    for (long i = 0; i < 4; i++)
        pthread_create(&vectors[i], 0, vector, (void *)(i + 1));
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(vectors[i], &result);
        failures += (long)result;
    }
    printf("vector failures %ld\n", failures);
    /* A sleeper wakes in time although another thread spins. */
    flag = 0;
    pthread_create(&spinners[0], 0, spin, 0);
    struct timespec before, after, nap = { 0, 20000000 };
    clock_gettime(CLOCK_MONOTONIC, &before);
    nanosleep(&nap, 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
    printf("slept %d\n", ms >= 20 && ms < 2000);
    flag = 1;
    pthread_join(spinners[0], 0);
    /* The rounding mode is inherited by new threads. */
    fesetround(FE_UPWARD);
    pthread_create(&spinners[0], 0, (void *(*)(void *))fegetround, 0);
    void *mode;
    pthread_join(spinners[0], &mode);
    printf("rounding %d\n", (int)(long)mode == FE_UPWARD);
    return 0;
}
