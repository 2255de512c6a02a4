/* Prints how long work of the kernel takes, a line each: name, seconds. Arguments: scale, and a file of some MiB
 * to be read. Without arguments it does nothing, which is what it runs itself for. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK (64 * 1024)
#define MIB (1024 * 1024)

static int scale;
static const char *file;
static char block[MIB];

static void check(int is_right, const char *what)
{
    if (!is_right) {
        perror(what);
        exit(1);
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void *write_all(void *fd)
{
    static char bytes[BLOCK];
    for (int i = 0; i < 16 * scale; i++)
        for (int done = 0; done < BLOCK;) {
            int count = write(*(int *)fd, bytes + done, BLOCK - done);
            check(count > 0, "write");
            done += count;
        }
    close(*(int *)fd);
    return 0;
}

static void transfer(int from, int to)
{
    pthread_t writer;
    pthread_create(&writer, 0, write_all, &to);
    long total = 0, count;
    while ((count = read(from, block, BLOCK)) > 0)
        total += count;
    check(total == 16L * scale * BLOCK, "read");
    pthread_join(writer, 0);
    close(from);
}

/* scale MiB through a pipe. */
static void through_pipe(void)
{
    int ends[2];
    check(!pipe(ends), "pipe");
    transfer(ends[0], ends[1]);
}

/* scale MiB through a TCP connection. */
static void loopback(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    check(!bind(listener, (void *)&address, length) && !listen(listener, 1), "listen");
    getsockname(listener, (void *)&address, &length);
    check(!connect(client, (void *)&address, length), "connect");
    int server = accept(listener, 0, 0);
    check(server >= 0, "accept");
    transfer(server, client);
    close(listener);
}

/* 20 * scale bytes there and back between two threads. */
static int there[2], back[2];
static void *answer(void *unused)
{
    char byte;
    while (read(there[0], &byte, 1) == 1)
        check(write(back[1], &byte, 1) == 1, "write");
    return 0;
}
static void ping_pong(void)
{
    pthread_t other;
    char byte = 0;
    check(!pipe(there) && !pipe(back), "pipe");
    pthread_create(&other, 0, answer, 0);
    for (int i = 0; i < 20 * scale; i++)
        check(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "ping");
    close(there[1]);
    pthread_join(other, 0);
}

/* 2 * scale times fork, exec and wait. */
static void spawn(void)
{
    for (int i = 0; i < 2 * scale; i++) {
        int status, child = fork();
        if (!child) {
            execl("/proc/self/exe", "kernel", (char *)0);
            _exit(1);
        }
        check(child > 0 && wait(&status) == child && status == 0, "fork");
    }
}

/* scale MiB of a file, a MiB at a time, from its start whenever it ends. */
static void file_read(void)
{
    int fd = open(file, O_RDONLY);
    check(fd >= 0, file);
    for (int i = 0; i < scale; i++) {
        long count = read(fd, block, MIB);
        check(count >= 0, "read");
        if (count < MIB)
            lseek(fd, 0, SEEK_SET);
    }
    close(fd);
}

/* 100 * scale of the shortest system call. */
static void system_calls(void)
{
    for (int i = 0; i < 100 * scale; i++)
        getppid();
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*work)(void);
    } works[] = { { "system_calls", system_calls }, { "pipe", through_pipe }, { "loopback", loopback },
                  { "ping_pong", ping_pong }, { "spawn", spawn }, { "file_read", file_read } };
    if (count < 3)
        return 0;
    scale = atoi(arguments[1]);
    file = arguments[2];
    for (unsigned i = 0; i < sizeof works / sizeof *works; i++) {
        double started = now();
        works[i].work();
        printf("%s %f\n", works[i].name, now() - started);
    }
    return 0;
}
