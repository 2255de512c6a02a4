/* flock, record locks of processes and of open files: conflicts, ranges, waiting, and when they go. */
#include "directory.h"
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

static struct flock lock(short type, long start, long length)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return lock;
}

static int set(int fd, int command, short type, long start, long length)
{
    struct flock wanted = lock(type, start, length);
    return fcntl(fd, command, &wanted);
}

/* What another open file sees from `start` on. */
static void probe(int fd, short type, long start, long length)
{
    struct flock found = lock(type, start, length);
    int result = fcntl(fd, F_OFD_GETLK, &found);
    TELL("probe %ld+%ld: %d type %d from %ld length %ld whence %d owner %s", start, length, result, found.l_type,
         (long)found.l_start, (long)found.l_len, found.l_whence,
         found.l_type == F_UNLCK ? "none" : found.l_pid == -1 ? "open file" : found.l_pid == getpid() ? "self" : "other");
}

static void whole_files(void)
{
    int a = open("whole", O_RDWR | O_CREAT, 0600), b = open("whole", O_RDONLY), c = dup(a);
    SAY(flock(a, LOCK_SH));
    SAY(flock(b, LOCK_SH | LOCK_NB));
    SAY(flock(a, LOCK_EX | LOCK_NB));
    SAY(flock(b, LOCK_UN));
    SAY(flock(a, LOCK_EX | LOCK_NB));
    SAY(flock(b, LOCK_SH | LOCK_NB));
    SAY(flock(c, LOCK_SH | LOCK_NB));
    SAY(flock(b, LOCK_SH | LOCK_NB));
    SAY(flock(b, LOCK_UN));
    SAY(flock(c, LOCK_EX | LOCK_NB));
    SAY(close(a));
    SAY(flock(b, LOCK_EX | LOCK_NB));
    SAY(close(c));
    SAY(flock(b, LOCK_EX | LOCK_NB));
    SAY(flock(b, 0));
    SAY(flock(b, LOCK_NB));
    SAY(flock(b, LOCK_SH | LOCK_EX));
    SAY(flock(99, LOCK_EX));
    int path = open("whole", O_PATH);
    SAY(flock(path, LOCK_EX));
    int directory = open(".", O_RDONLY), again = open(".", O_RDONLY);
    SAY(flock(directory, LOCK_EX));
    SAY(flock(again, LOCK_EX | LOCK_NB));
    close(again);
    close(directory);
    close(path);
    close(b);
}

static void ranges(void)
{
    int a = open("ranges", O_RDWR | O_CREAT, 0600), b = open("ranges", O_RDWR);
    SAY(set(a, F_OFD_SETLK, F_WRLCK, 0, 100));
    SAY(set(b, F_OFD_SETLK, F_RDLCK, 50, 10));
    SAY(set(b, F_OFD_SETLK, F_RDLCK, 100, 10));
    SAY(set(a, F_OFD_SETLK, F_WRLCK, 105, 1));
    SAY(set(a, F_OFD_SETLK, F_RDLCK, 105, 1));
    SAY(set(a, F_OFD_SETLK, F_UNLCK, 40, 20));
    probe(b, F_WRLCK, 0, 0);
    probe(b, F_WRLCK, 40, 20);
    probe(b, F_WRLCK, 40, 21);
    probe(b, F_RDLCK, 70, 100);
    probe(a, F_WRLCK, 70, 0);
    SAY(set(a, F_OFD_SETLK, F_RDLCK, 0, 20));
    probe(b, F_WRLCK, 0, 0);
    probe(b, F_RDLCK, 0, 0);
    SAY(set(a, F_OFD_SETLK, F_WRLCK, 40, 60));
    probe(b, F_WRLCK, 30, 0);
    SAY(set(a, F_OFD_SETLK, F_WRLCK, 50, -10));
    SAY(set(a, F_OFD_SETLK, F_WRLCK, 5, -10));
    SAY(set(a, F_OFD_SETLK, F_WRLCK, -5, 10));
    SAY(set(a, F_OFD_SETLK, 7, 0, 10));
    SAY(set(a, F_OFD_SETLK, F_UNLCK, 0, 0));
    probe(b, F_WRLCK, 0, 0);
    SAY(set(a, F_OFD_SETLK, F_WRLCK, 1000, 0));
    probe(b, F_RDLCK, 0, 0);
    probe(b, F_RDLCK, 1L << 60, 1);
    struct flock odd = lock(F_WRLCK, 0, 0);
    odd.l_pid = 5;
    SAY(fcntl(a, F_OFD_SETLK, &odd));
    odd.l_pid = 0;
    odd.l_whence = 9;
    SAY(fcntl(a, F_OFD_SETLK, &odd));
    SAY(fcntl(a, F_OFD_SETLK, (void *)8));
    int reader = open("ranges", O_RDONLY), writer = open("ranges", O_WRONLY);
    SAY(set(reader, F_OFD_SETLK, F_WRLCK, 0, 1));
    SAY(set(writer, F_OFD_SETLK, F_RDLCK, 0, 1));
    SAY(set(reader, F_SETLK, F_WRLCK, 0, 1));
    SAY(set(reader, F_SETLK, F_RDLCK, 0, 1));
    SAY(close(a));
    SAY(set(writer, F_OFD_SETLK, F_WRLCK, 1000, 0));
    close(b);
    close(reader);
    close(writer);
}

static void whence(void)
{
    int a = open("whence", O_RDWR | O_CREAT, 0600), b = open("whence", O_RDWR);
    SAY(write(a, "0123456789", 10));
    struct flock end = {.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = -4, .l_len = 2};
    SAY(fcntl(a, F_SETLK, &end));
    probe(b, F_RDLCK, 0, 0);
    SAY(lseek(a, 3, SEEK_SET));
    struct flock current = {.l_type = F_RDLCK, .l_whence = SEEK_CUR, .l_start = 0, .l_len = 1};
    SAY(fcntl(a, F_SETLK, &current));
    probe(b, F_WRLCK, 0, 0);
    struct flock own = lock(F_WRLCK, 0, 0);
    SAY(fcntl(b, F_GETLK, &own));
    TELL("own locks are not in the way: %d", own.l_type);
    /* Closing any descriptor of the file ends all locks of the process on it. */
    int c = open("whence", O_RDONLY);
    close(c);
    probe(b, F_WRLCK, 0, 0);
    own = lock(F_UNLCK, 0, 0);
    SAY(fcntl(b, F_GETLK, &own));
    close(a);
    close(b);
}

static int contended;

static void *take_later(void *fd)
{
    return (void *)(long)(flock((long)fd, LOCK_EX) ?: set(contended, F_OFD_SETLKW, F_WRLCK, 0, 0));
}

static void waiting(void)
{
    int a = open("wait", O_RDWR | O_CREAT, 0600), b = open("wait", O_RDWR);
    contended = b;
    pthread_t thread;
    void *result;
    SAY(flock(a, LOCK_EX));
    SAY(set(a, F_OFD_SETLK, F_WRLCK, 0, 0));
    pthread_create(&thread, NULL, take_later, (void *)(long)b);
    usleep(20000);
    SAY(flock(b, LOCK_SH | LOCK_NB));
    SAY(flock(a, LOCK_UN));
    usleep(20000);
    SAY(set(a, F_OFD_SETLK, F_UNLCK, 0, 0));
    pthread_join(thread, &result);
    TELL("taken: %ld", (long)result);
    SAY(flock(a, LOCK_EX | LOCK_NB));
    SAY(set(a, F_OFD_SETLK, F_RDLCK, 0, 0));
    close(a);
    close(b);
}

static void nothing(int signal)
{
    (void)signal;
}

static void interrupted(void)
{
    int a = open("wait", O_RDWR | O_CREAT, 0600), b = open("wait", O_RDWR);
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGALRM, &action, NULL);
    SAY(flock(a, LOCK_EX));
    /* Again and again: the first may come before the call. */
    ualarm(20000, 20000);
    SAY(flock(b, LOCK_EX));
    ualarm(0, 0);
    SAY(set(a, F_OFD_SETLK, F_WRLCK, 0, 0));
    ualarm(20000, 20000);
    SAY(set(b, F_OFD_SETLKW, F_WRLCK, 0, 0));
    ualarm(0, 0);
    ualarm(20000, 20000);
    SAY(set(b, F_SETLKW, F_WRLCK, 0, 0));
    ualarm(0, 0);
    close(a);
    close(b);
}

int main(void)
{
    fresh_directory();
    whole_files();
    ranges();
    whence();
    waiting();
    interrupted();
    return 0;
}
