/* Every system call with hostile arguments. Prints and survives: the monitor must too. Calls that end or block the caller
   by design are left out. */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t state;

static uint64_t random64(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Two pages, and after them none: what a call writes beyond does not reach our own data. */
#define BUFFER_BYTES 8192
static char *buffer;

static long argument(void)
{
    static const uint64_t values[] = {
        0, 1, 2, 3, 7, 8, 100, 4095, 4096, 4097, 65536, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
        0x7fffffffffff, 0x800000000000, 0x7ffffffff000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
        0xfffffffffffff000, 0xffffffffffffff9c, 0x1000, 0x6000, 0x8000, 0xffff800000000000,
    };
    uint64_t r = random64();
    switch (r % 6) {
    case 0: return (long)values[(r >> 8) % (sizeof values / sizeof *values)];
    case 1: return (long)buffer + (long)(r >> 8) % 4096;
    case 2: return (long)buffer + BUFFER_BYTES - (long)((r >> 8) % 16);
    case 3: return (long)((r >> 8) % 64);
    case 4: return (long)((r >> 8) % 6) * 4096;
    default: return (long)r;
    }
}

static int is_left_out(int number)
{
    switch (number) {
    case SYS_exit: case SYS_exit_group: case SYS_rt_sigreturn: case SYS_pause: case SYS_rt_sigsuspend:
    case SYS_execve: case SYS_execveat: case SYS_clone: case SYS_clone3: case SYS_fork: case SYS_vfork:
    case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo:
    case SYS_rt_sigtimedwait: case SYS_nanosleep: case SYS_clock_nanosleep:
    case SYS_alarm: case SYS_setitimer: case SYS_timer_create:
    case SYS_arch_prctl: /* moves our own thread-local storage */
    case SYS_munmap: case SYS_mprotect: case SYS_mremap: case SYS_brk: case SYS_madvise: /* our own memory */
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    state = strtoull(argv[1], 0, 10) * 0x9e3779b97f4a7c15;
    for (int s = 1; s < 65; s++)
        if (s != SIGALRM)
            signal(s, SIG_IGN);
    buffer = mmap(0, 2 * BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(buffer + BUFFER_BYTES, BUFFER_BYTES, PROT_NONE);
    int errors[200] = { 0 };
    for (int round = 0; round < 12; round++) {
        for (int number = 0; number < 470; number++) {
            if (is_left_out(number))
                continue;
            for (unsigned i = 0; i < BUFFER_BYTES / 8; i += 37)
                ((uint64_t *)buffer)[i] = random64();
            long a = argument(), b = argument(), c = argument(), d = argument(), e = argument(), f = argument();
            if (number == SYS_mmap)
                d &= ~(long)(MAP_FIXED); /* not over our own memory */
            if (number == SYS_close || number == SYS_dup2 || number == SYS_dup3 || number == SYS_close_range || number == SYS_fcntl) {
                /* not our own streams */
                a |= 8;
                b |= 8;
            }
            static long no_time[2];
            switch (number) { /* these must not wait */
            case SYS_futex:
                b = (b & ~0x7fL) | (long)(1 + (unsigned long)b % 5); /* wake, requeue, wake with an operation */
                break;
            case SYS_poll: c = 0; break;
            case SYS_ppoll: c = (long)no_time; break;
            case SYS_select: case SYS_pselect6: e = (long)no_time; break;
            case SYS_epoll_wait: case SYS_epoll_pwait: d = 0; break;
            case SYS_epoll_pwait2: d = (long)no_time; break;
            }
            if (number == SYS_read || number == SYS_readv || number == SYS_recvfrom || number == SYS_accept || number == SYS_accept4)
                a = -1;
            long result = syscall(number, a, b, c, d, e, f);
            if (result < 0 && errno < 200)
                errors[errno]++;
        }
    }
    /* Memory calls with ranges that do not touch ours. */
    for (int round = 0; round < 3000; round++) {
        char *p = mmap(0, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            continue;
        long at = (long)p + (long)(random64() % 16) * 4096, length = (long)(random64() % 17) * 4096;
        if (at + length > (long)p + 16 * 4096)
            length = (long)p + 16 * 4096 - at;
        switch (random64() % 5) {
        case 0: mprotect((void *)at, length, (int)(random64() % 8)); break;
        case 1: munmap((void *)at, length); break;
        case 2: madvise((void *)at, length, (int)(random64() % 30)); break;
        case 3: mremap((void *)at, length, (random64() % 40) * 4096, MREMAP_MAYMOVE); break;
        default: mlock((void *)at, length);
        }
        munmap(p, 16 * 4096);
    }
    printf("EFAULT seen %d, EINVAL seen %d\n", errors[EFAULT] > 50, errors[EINVAL] > 50);
    printf("all calls made\n");
    return 0;
}
