/* Named pipes: how their two ends open, and what each sees of the other. */
#include "directory.h"
#include <poll.h>
#include <signal.h>

static void *open_later(void *flags)
{
    usleep(20000);
    return (void *)(long)open("fifo", (long)flags);
}

static void *write_later(void *fd)
{
    usleep(20000);
    return (void *)write((long)fd, "x", 1);
}

static void nothing(int signal)
{
    (void)signal;
}

static int polled(int fd)
{
    struct pollfd entry = {fd, POLLIN | POLLOUT, 0};
    poll(&entry, 1, 0);
    return entry.revents;
}

/* A pipe without a name, opened again by way of /proc: nobody is waited for. */
static void open_again(void)
{
    int ends[2];
    char path[64], bytes[4];
    SAY(pipe(ends));
    SAY(write(ends[1], "abc", 3));
    SAY(close(ends[1]));
    sprintf(path, "/proc/self/fd/%d", ends[0]);
    int again = open(path, O_RDONLY);
    TELL("again: %d %x", again >= 0, polled(again));
    SAY(read(again, bytes, 2));
    SAY(read(ends[0], bytes, 2));
    SAY(read(again, bytes, 2));
    int writer = open(path, O_WRONLY);
    TELL("a writer again: %d %x %x", writer >= 0, polled(writer), polled(again));
    SAY(close(ends[0]));
    SAY(close(again));
    SAY(write(writer, "x", 1));
    sprintf(path, "/dev/fd/%d", writer);
    again = open(path, O_WRONLY);
    TELL("without a reader: %d %x", again >= 0, polled(again));
    SAY(close(again));
    again = open(path, O_RDWR | O_NONBLOCK);
    SAY(write(writer, "y", 1));
    SAY(read(again, bytes, 2));
    SAY(close(again));
    SAY(close(writer));
}

int main(void)
{
    char byte;
    pthread_t thread;
    void *other;
    fresh_directory();
    signal(SIGPIPE, SIG_IGN);
    SAY(mkfifo("fifo", 0640));
    SAY(mkfifo("fifo", 0640));
    SAY(open("fifo", O_WRONLY | O_NONBLOCK));
    int reader = open("fifo", O_RDONLY | O_NONBLOCK);
    SAY(read(reader, &byte, 1));
    TELL("before a writer: %x", polled(reader));
    int writer = open("fifo", O_WRONLY | O_NONBLOCK);
    TELL("with a writer: %x %x", polled(reader), polled(writer));
    SAY(read(reader, &byte, 1));
    SAY(write(writer, "y", 1));
    TELL("with data: %x", polled(reader));
    SAY(read(reader, &byte, 1));
    SAY(close(writer));
    TELL("after the writer: %x", polled(reader));
    SAY(read(reader, &byte, 1));
    writer = open("fifo", O_WRONLY);
    TELL("with another writer: %x", polled(reader));
    SAY(close(reader));
    TELL("without a reader: %x", polled(writer));
    SAY(write(writer, "y", 1));
    SAY(close(writer));

    pthread_create(&thread, NULL, open_later, (void *)(long)O_WRONLY);
    reader = open("fifo", O_RDONLY);
    pthread_join(thread, &other);
    writer = (long)other;
    TELL("both open: %d %d", reader >= 0, writer >= 0);
    SAY(write(writer, "abc", 3));
    SAY(close(writer));
    SAY(read(reader, (char[9]){}, 9));
    SAY(read(reader, (char[9]){}, 9));
    close(reader);

    pthread_create(&thread, NULL, open_later, (void *)(long)O_RDONLY);
    writer = open("fifo", O_WRONLY);
    pthread_join(thread, &other);
    reader = (long)other;
    SAY(fcntl(writer, F_GETFL) & O_ACCMODE);
    SAY(lseek(reader, 0, SEEK_SET));
    pthread_create(&thread, NULL, write_later, (void *)(long)writer);
    SAY(read(reader, &byte, 1));
    pthread_join(thread, NULL);
    close(reader);
    close(writer);

    int both = open("fifo", O_RDWR);
    SAY(write(both, "z", 1));
    SAY(read(both, &byte, 1));
    TELL("both: %x", polled(both));
    close(both);

    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGALRM, &action, NULL);
    /* Again and again: the first may come before the call. */
    ualarm(20000, 20000);
    SAY(open("fifo", O_RDONLY));
    ualarm(0, 0);
    SAY(open("fifo", O_WRONLY | O_NONBLOCK));
    ualarm(20000, 20000);
    SAY(open("fifo", O_WRONLY));
    ualarm(0, 0);
    struct stat status;
    SAY(stat("fifo", &status));
    TELL("mode %o size %ld", status.st_mode, (long)status.st_size);
    SAY(truncate("fifo", 0));
    SAY(open("fifo", O_RDONLY | O_DIRECTORY));
    SAY(mknod("socket", S_IFSOCK | 0600, 0));
    SAY(open("socket", O_RDONLY));
    SAY(mknod("plain", S_IFREG | 0600, 0));
    SAY(mknod("plain2", 0600, 0));
    SAY(open("plain2", O_RDONLY) >= 0);
    SAY(mknod("dir", S_IFDIR | 0700, 0));
    SAY(mknod("odd", 0150000, 0));
    SAY(open("fifo", O_PATH) >= 0);
    SAY(unlink("fifo"));
    open_again();
    return 0;
}
