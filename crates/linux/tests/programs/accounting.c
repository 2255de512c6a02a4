/* Who has used the processor, and which processor and terminal a process has: getrusage, times, /proc/self/stat and status. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { LIMIT_MS = 20000 };

static long milliseconds(struct timeval time) { return time.tv_sec * 1000 + time.tv_usec / 1000; }

static long now_ms(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static struct rusage used(int who)
{
    struct rusage usage;
    getrusage(who, &usage);
    return usage;
}

/* Makes system calls until the kernel has worked for so long. */
static int use_system(int who, long ms)
{
    char byte;
    int zero = open("/dev/zero", O_RDONLY);
    long until = now_ms(CLOCK_MONOTONIC) + LIMIT_MS;
    while (milliseconds(used(who).ru_stime) < ms && now_ms(CLOCK_MONOTONIC) < until)
        for (int i = 0; i < 100; i++)
            read(zero, &byte, 1);
    close(zero);
    return milliseconds(used(who).ru_stime) >= ms;
}

static int use_user(int who, long ms)
{
    long until = now_ms(CLOCK_MONOTONIC) + LIMIT_MS;
    while (milliseconds(used(who).ru_utime) < ms && now_ms(CLOCK_MONOTONIC) < until)
        for (volatile int i = 0; i < 100000; i++)
            ;
    return milliseconds(used(who).ru_utime) >= ms;
}

/* Fields of /proc/self/stat from the third on, which has number 3 as in proc_pid_stat(5). */
static long stat_field(int number)
{
    char text[1024], *rest;
    int fd = open("/proc/self/stat", O_RDONLY);
    text[read(fd, text, sizeof text - 1)] = 0;
    close(fd);
    rest = strrchr(text, ')') + 2;
    for (int i = 3; i < number; i++)
        rest = strchr(rest, ' ') + 1;
    return atol(rest);
}

static void *in_a_thread(void *unused)
{
    (void)unused;
    SHOW("a new thread has used the system less than its process", "%d",
         milliseconds(used(RUSAGE_THREAD).ru_stime) < milliseconds(used(RUSAGE_SELF).ru_stime));
    SHOW("system time of the thread", "%d", use_system(RUSAGE_THREAD, 10));
    return NULL;
}

static void times_of_all_kinds(void)
{
    SHOW("system time", "%d", use_system(RUSAGE_SELF, 30));
    SHOW("user time", "%d", use_user(RUSAGE_SELF, 30));
    long clock_before = now_ms(CLOCK_PROCESS_CPUTIME_ID);
    struct rusage usage = used(RUSAGE_SELF);
    long clock_after = now_ms(CLOCK_PROCESS_CPUTIME_ID);
    long both = milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime);
    SHOW("the clock of the process shows both", "%d", both >= clock_before - 2 && both <= clock_after + 2);
    struct tms ticks;
    SHOW("times() goes on", "%d", times(&ticks) > 0);
    SHOW("ticks of system time", "%d", ticks.tms_stime >= 3);
    SHOW("ticks of user time", "%d", ticks.tms_utime >= 3);
    SHOW("none of children", "%ld %ld", (long)ticks.tms_cutime, (long)ticks.tms_cstime);
    SHOW("utime and stime of /proc", "%d %d", stat_field(14) >= 3, stat_field(15) >= 3);
    pthread_t thread;
    pthread_create(&thread, NULL, in_a_thread, NULL);
    pthread_join(thread, NULL);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int is_reset = milliseconds(used(RUSAGE_SELF).ru_stime) < 20;
        _exit(!(is_reset && use_system(RUSAGE_SELF, 20)));
    }
    int status;
    SHOW("a child's own time begins with nothing", "%d", wait4(child, &status, 0, &usage) == child ? status : -1);
    SHOW("what wait4 tells of it", "%d", milliseconds(usage.ru_stime) >= 20);
    SHOW("children's system time", "%d", milliseconds(used(RUSAGE_CHILDREN).ru_stime) >= 20);
    times(&ticks);
    SHOW("in ticks", "%d", ticks.tms_cstime >= 2);
    SHOW("in /proc", "%d", stat_field(17) >= 2);
}

static volatile sig_atomic_t virtual_count, profile_count;
static void on_virtual(int signal) { (void)signal, virtual_count++; }
static void on_profile(int signal) { (void)signal, profile_count++; }

/* ITIMER_PROF counts system time, ITIMER_VIRTUAL does not. */
static void timers(void)
{
    signal(SIGVTALRM, on_virtual);
    signal(SIGPROF, on_profile);
    struct itimerval soon = { .it_value.tv_usec = 40000 }, never = { 0 };
    SAY(setitimer(ITIMER_PROF, &soon, NULL));
    long until = now_ms(CLOCK_MONOTONIC) + LIMIT_MS;
    while (!profile_count && now_ms(CLOCK_MONOTONIC) < until)
        use_system(RUSAGE_SELF, milliseconds(used(RUSAGE_SELF).ru_stime) + 5);
    SHOW("a profiling timer", "%d", profile_count);
    SAY(setitimer(ITIMER_VIRTUAL, &soon, NULL));
    until = now_ms(CLOCK_MONOTONIC) + LIMIT_MS;
    while (!virtual_count && now_ms(CLOCK_MONOTONIC) < until)
        use_user(RUSAGE_SELF, milliseconds(used(RUSAGE_SELF).ru_utime) + 5);
    SHOW("a timer of user time", "%d", virtual_count);
    SAY(setitimer(ITIMER_VIRTUAL, &never, NULL));
}

static void processors(void)
{
    char line[256];
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    SAY(sched_setaffinity(0, sizeof set, &set));
    FILE *file = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, "Cpus_allowed_list:", 18))
            fputs(line, stdout);
    fclose(file);
}

static void terminal(void)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        setsid();
        SHOW("no terminal", "%ld, foreground %ld", stat_field(7), stat_field(8));
        int master = posix_openpt(O_RDWR | O_NOCTTY);
        grantpt(master);
        unlockpt(master);
        int slave = open(ptsname(master), O_RDWR);
        struct stat status;
        fstat(slave, &status);
        SHOW("tty_nr is its device", "%d", stat_field(7) == (long)status.st_rdev);
        SHOW("the foreground is its group", "%d", stat_field(8) == getpgrp());
        signal(SIGHUP, SIG_IGN);
        SAY(ioctl(slave, TIOCNOTTY));
        SHOW("given up", "%ld, foreground %ld", stat_field(7), stat_field(8));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

int main(void)
{
    times_of_all_kinds();
    timers();
    processors();
    terminal();
    return 0;
}
