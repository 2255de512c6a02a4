/* Clocks go forward, agree with each other, and cost no system call. */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long ns(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }
static long long now(int clock) { struct timespec t; clock_gettime(clock, &t); return ns(t); }
static long long asked(int clock) { struct timespec t; syscall(SYS_clock_gettime, clock, &t); return ns(t); }

/* Without one, a clock costs a system call here and there. */
static int has_invariant_counter(void)
{
    unsigned a, b, c, d = 0;
    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & 256);
}

int main(void)
{
    int clocks[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME };
    for (int c = 0; c < 4; c++) {
        long long last = now(clocks[c]);
        int backwards = 0, disagree = 0;
        for (int i = 0; i < 2000; i++) {
            long long t = now(clocks[c]);
            backwards += t < last;
            last = t;
        }
        for (int i = 0; i < 50; i++) {
            long long before = now(clocks[c]), call = asked(clocks[c]), after = now(clocks[c]);
            disagree += call < before || call > after;
        }
        printf("clock %d: backwards %d, disagree %d\n", clocks[c], backwards, disagree);
    }
    /* Without a system call: in the best of many batches, since a busy host interrupts some. */
    long long best = 1000000;
    for (int batch = 0; batch < 100; batch++) {
        long long begin = now(CLOCK_MONOTONIC);
        for (int i = 0; i < 100; i++)
            now(CLOCK_MONOTONIC);
        long long each = (now(CLOCK_MONOTONIC) - begin) / 100;
        best = each < best ? each : best;
    }
    printf("cheap %d\n", best < 2000 || !has_invariant_counter());
    struct timeval tv;
    gettimeofday(&tv, 0);
    long long real = now(CLOCK_REALTIME);
    printf("gettimeofday %d\n", real - (tv.tv_sec * 1000000000LL + tv.tv_usec * 1000LL) < 1000000000LL);
    /* Linux tells it by the last tick, so at the change of a second it is one behind. */
    printf("time %d\n", time(0) >= tv.tv_sec - 1 && time(0) - tv.tv_sec < 2);
    printf("plausible %d\n", tv.tv_sec > 1700000000);
    struct timespec nap = { 0, 5000000 }, resolution;
    long long begin = now(CLOCK_MONOTONIC);
    nanosleep(&nap, 0);
    printf("slept %d\n", now(CLOCK_MONOTONIC) - begin >= 5000000);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 3000000;
    if (until.tv_nsec >= 1000000000) { until.tv_sec++; until.tv_nsec -= 1000000000; }
    printf("absolute %d ", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, 0));
    printf("%d\n", now(CLOCK_MONOTONIC) >= ns(until));
    printf("past %d\n", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &nap, 0));
    nap.tv_nsec = -1;
    int result = nanosleep(&nap, 0);
    printf("bad %d %d\n", result, errno);
    result = clock_gettime(99, &nap);
    printf("bad clock %d %d\n", result, errno);
    result = clock_getres(CLOCK_MONOTONIC, &resolution);
    printf("resolution %d %d\n", result, resolution.tv_sec == 0 && resolution.tv_nsec < 20000000);
    long long cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    for (volatile int i = 0; i < 30000000; i++) { }
    printf("processor time %d %d\n", now(CLOCK_PROCESS_CPUTIME_ID) > cpu + 1000000, now(CLOCK_THREAD_CPUTIME_ID) > 1000000);
    return 0;
}
