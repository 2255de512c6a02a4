/* Hostile guests: as many processes and signals as there can be. What it prints last says that it came to an end. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int *common;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* Everybody makes children until there can be no more, and does not wait. */
static void bomb(double until)
{
    while (now() < until) {
        pid_t pid = fork();
        if (pid == -1) {
            if (errno != EAGAIN && errno != ENOMEM)
                __atomic_store_n(common, errno, __ATOMIC_SEQ_CST);
            __atomic_fetch_add(common + 1, 1, __ATOMIC_SEQ_CST);
        }
    }
    _exit(0);
}

static void fork_storm(void)
{
    pid_t pid = fork();
    if (!pid)
        bomb(now() + 1);
    waitpid(pid, 0, 0);
    /* All others end by themselves; then there is room again. */
    for (;;) {
        pid = fork();
        if (!pid)
            _exit(7);
        if (pid > 0) {
            int status;
            waitpid(pid, &status, 0);
            if (WIFEXITED(status) && WEXITSTATUS(status) == 7)
                break;
        }
        usleep(10000);
    }
    printf("fork storm: other errors %d, refused %d\n", common[0], common[1] > 0);
}

/* Zombies that nobody waits for. */
static void zombies(void)
{
    int made = 0;
    pid_t pid;
    while ((pid = fork()) != -1) {
        if (!pid)
            _exit(0);
        made++;
    }
    int error = errno, gone = 0;
    while (waitpid(-1, 0, 0) > 0)
        gone++;
    printf("zombies: %s, all waited for %d, many %d\n", strerror(error), made == gone, made > 500);
}

static void on_signal(int signal) { common[2]++; }

static void signal_storm(void)
{
    struct sigaction action = { .sa_handler = on_signal };
    for (int signal = 34; signal <= 64; signal++)
        sigaction(signal, &action, 0);
    pid_t group[8], me = getpid();
    for (int i = 0; i < 8; i++)
        if (!(group[i] = fork())) {
            double until = now() + 1;
            unsigned seed = i;
            union sigval value = { 0 };
            while (now() < until)
                for (int n = 0; n < 50; n++) {
                    sigqueue(me, 34 + rand_r(&seed) % 31, value);
                    kill(me, SIGCONT);
                    kill(0, SIGWINCH);
                    kill(getppid(), 34 + rand_r(&seed) % 31);
                }
            _exit(0);
        }
    int left = 8;
    while (left > 0)
        if (waitpid(-1, 0, 0) > 0)
            left--;
    printf("signal storm: handled %d\n", common[2] > 0);
}

/* Stopped, continued and killed while they run, fork and exec on every processor. */
static void mixed(void)
{
    for (int round = 0; round < 6; round++) {
        pid_t pids[10];
        for (int i = 0; i < 10; i++)
            if (!(pids[i] = fork())) {
                if (i % 3 == 0)
                    execl("/bin/sh", "sh", "-c", "while :; do :; done", (char *)0);
                for (;;)
                    if (i % 3 == 1) {
                        pid_t child = vfork();
                        if (!child)
                            _exit(0);
                        waitpid(child, 0, 0);
                    }
            }
        for (int i = 0; i < 30; i++)
            kill(pids[i % 10], i % 2 ? SIGCONT : SIGSTOP);
        for (int i = 0; i < 10; i++)
            kill(pids[i], SIGKILL);
        for (int i = 0; i < 10; i++)
            if (waitpid(pids[i], 0, 0) != pids[i])
                printf("lost a child\n");
    }
    printf("mixed: done\n");
}

/* Long arguments and many descriptors in many processes: the monitor holds them too. */
static void hoards(void)
{
    for (int fd = 3; fd < 900; fd++)
        dup2(0, fd);
    char *large = malloc(100000), *arguments[] = { "sh", "-c", "exec sleep 1", large, large, large, large, large, large, large, large, 0 };
    memset(large, 'x', 99999);
    large[99999] = 0;
    int refused = 0, made = 0;
    for (int i = 0; i < 100; i++) {
        pid_t pid = fork();
        if (pid == -1)
            refused++;
        else if (!pid) {
            close(2); /* a shell tells what has killed its children */
            execv("/bin/sh", arguments);
            _exit(1);
        } else
            made++;
    }
    while (waitpid(-1, 0, 0) > 0) { }
    printf("hoards: %d\n", made + refused == 100);
}

int main(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    common = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    signal_storm();
    mixed();
    zombies();
    fork_storm();
    hoards();
    printf("all storms are over\n");
    return 0;
}
