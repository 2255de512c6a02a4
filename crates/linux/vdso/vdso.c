/*
 * The vDSO: clock functions that run in the guest without a system call (vdso(7)).
 *
 * The monitor maps `struct clock_data` read-only one page below this object and updates it under a sequence lock:
 * `sequence` is odd while it writes. Where the guest's time-stamp counter is no good clock, `is_counter_usable` is zero
 * and everything is a system call.
 */

typedef unsigned int u32;
typedef unsigned long u64;

struct timespec64 { long seconds, nanoseconds; };
struct timeval64 { long seconds, microseconds; };

/* Layout shared with src/clock.rs. */
struct clock_data {
    volatile u32 sequence;
    volatile u32 is_counter_usable;
    volatile u64 counter;
    volatile u64 multiplier; /* nanoseconds per tick, 32 fractional bits */
    volatile u64 monotonic;
    volatile u64 realtime;
};

extern const struct clock_data clock_data __attribute__((visibility("hidden")));

enum {
    CLOCK_REALTIME = 0, CLOCK_MONOTONIC = 1, CLOCK_MONOTONIC_RAW = 4, CLOCK_REALTIME_COARSE = 5,
    CLOCK_MONOTONIC_COARSE = 6, CLOCK_BOOTTIME = 7,
    CALL_GETTIMEOFDAY = 96, CALL_TIME = 201, CALL_CLOCK_GETTIME = 228, CALL_CLOCK_GETRES = 229, CALL_GETCPU = 309,
};

static inline long call(long number, long first, long second, long third)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second), "d"(third)
                     : "rcx", "r11", "memory");
    return result;
}

static inline u64 read_counter(void)
{
    u32 low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return low | (u64)high << 32;
}

static inline int is_realtime(int clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

static inline int is_served(int clock)
{
    return is_realtime(clock) || clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW
        || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME;
}

/* Nanoseconds of a clock that is_served; 0 if the counter is not usable. */
static inline u64 now(int clock)
{
    u32 sequence;
    u64 base, ticks, multiplier;
    do {
        sequence = clock_data.sequence;
        if (!clock_data.is_counter_usable)
            return 0;
        base = is_realtime(clock) ? clock_data.realtime : clock_data.monotonic;
        multiplier = clock_data.multiplier;
        ticks = read_counter() - clock_data.counter;
    } while ((sequence & 1) || sequence != clock_data.sequence);
    /* Counters of several processors may differ by a little: a tick before the base is the base. */
    if ((long)ticks < 0)
        ticks = 0;
    return base + (u64)(((unsigned __int128)ticks * multiplier) >> 32);
}

int __vdso_clock_gettime(int clock, struct timespec64 *result)
{
    u64 time = is_served(clock) ? now(clock) : 0;
    if (!time)
        return call(CALL_CLOCK_GETTIME, clock, (long)result, 0);
    result->seconds = time / 1000000000;
    result->nanoseconds = time % 1000000000;
    return 0;
}

int __vdso_clock_getres(int clock, struct timespec64 *result)
{
    if (!is_served(clock))
        return call(CALL_CLOCK_GETRES, clock, (long)result, 0);
    if (result) {
        result->seconds = 0;
        result->nanoseconds = 1;
    }
    return 0;
}

int __vdso_gettimeofday(struct timeval64 *result, void *zone)
{
    u64 time = zone ? 0 : now(CLOCK_REALTIME);
    if (!time)
        return call(CALL_GETTIMEOFDAY, (long)result, (long)zone, 0);
    if (result) {
        result->seconds = time / 1000000000;
        result->microseconds = time % 1000000000 / 1000;
    }
    return 0;
}

long __vdso_time(long *result)
{
    u64 time = now(CLOCK_REALTIME);
    if (!time)
        return call(CALL_TIME, (long)result, 0, 0);
    long seconds = time / 1000000000;
    if (result)
        *result = seconds;
    return seconds;
}

long __vdso_getcpu(u32 *cpu, u32 *node, void *unused)
{
    return call(CALL_GETCPU, (long)cpu, (long)node, (long)unused);
}

int clock_gettime(int, struct timespec64 *) __attribute__((weak, alias("__vdso_clock_gettime")));
int clock_getres(int, struct timespec64 *) __attribute__((weak, alias("__vdso_clock_getres")));
int gettimeofday(struct timeval64 *, void *) __attribute__((weak, alias("__vdso_gettimeofday")));
long time(long *) __attribute__((weak, alias("__vdso_time")));
long getcpu(u32 *, u32 *, void *) __attribute__((weak, alias("__vdso_getcpu")));

