/* splice, tee, vmsplice, sendfile, copy_file_range between pipes, files and sockets; preadv2 and pwritev2. */
#include "directory.h"
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

static char buffer[1 << 21] __attribute__((aligned(4096)));

static const char *text(int fd, off_t offset, size_t length)
{
    ssize_t count = pread(fd, buffer, length, offset);
    buffer[count < 0 ? 0 : count] = 0;
    return buffer;
}

static const char *drain(int fd)
{
    ssize_t count = read(fd, buffer, 1000);
    buffer[count < 0 ? 0 : count] = 0;
    return buffer;
}

static void *write_later(void *fd)
{
    usleep(20000);
    return (void *)write((long)fd, "late", 4);
}

static void pipes(void)
{
    int a[2], b[2], file = open("file", O_CREAT | O_RDWR, 0600);
    SAY(pipe(a) | pipe(b));
    SAY(write(file, "0123456789", 10));
    loff_t offset = 2;
    SAY(splice(file, &offset, a[1], NULL, 5, 0));
    TELL("offset %ld", (long)offset);
    SAY(tee(a[0], b[1], 3, 0));
    TELL("%s", drain(b[0]));
    SAY(splice(a[0], NULL, b[1], NULL, 2, 0));
    TELL("%s", drain(b[0]));
    offset = 100;
    SAY(splice(a[0], NULL, file, &offset, 100, 0));
    TELL("offset %ld %s", (long)offset, text(file, 100, 10));
    SAY(lseek(file, 0, SEEK_CUR));
    SAY(lseek(file, 1, SEEK_SET));
    SAY(splice(file, NULL, a[1], NULL, 3, 0));
    SAY(lseek(file, 0, SEEK_CUR));
    TELL("%s", drain(a[0]));
    SAY(splice(a[0], NULL, b[1], NULL, 10, SPLICE_F_NONBLOCK));
    SAY(tee(a[0], b[1], 10, SPLICE_F_NONBLOCK));
    SAY(splice(a[0], NULL, a[1], NULL, 10, 0));
    SAY(tee(a[0], a[1], 10, 0));
    SAY(splice(a[0], &offset, b[1], NULL, 10, 0));
    SAY(splice(file, NULL, file, NULL, 10, 0));
    SAY(splice(a[1], NULL, b[1], NULL, 10, 0));
    SAY(splice(file, NULL, a[0], NULL, 10, 0));
    SAY(splice(99, NULL, a[1], NULL, 10, 0));
    SAY(splice(file, NULL, a[1], NULL, 10, 1 << 20));
    SAY(splice(file, NULL, a[1], NULL, 0, 0));
    SAY(tee(file, a[1], 10, 0));
    int append = open("file", O_WRONLY | O_APPEND);
    SAY(write(a[1], "x", 1));
    SAY(splice(a[0], NULL, append, NULL, 10, 0));
    TELL("%s", drain(a[0]));
    offset = 1000;
    SAY(splice(file, &offset, a[1], NULL, 10, 0));
    pthread_t thread;
    pthread_create(&thread, NULL, write_later, (void *)(long)a[1]);
    SAY(splice(a[0], NULL, file, NULL, 10, 0));
    pthread_join(thread, NULL);
    SAY(ftruncate(file, 1 << 20));
    offset = 0;
    SAY(splice(file, &offset, a[1], NULL, 1 << 20, 0));
    SAY(splice(file, &offset, a[1], NULL, 1 << 20, SPLICE_F_NONBLOCK));
    int waiting;
    SAY(ioctl(a[0], FIONREAD, &waiting));
    TELL("waiting %d", waiting);
    close(a[1]);
    SAY(splice(a[0], NULL, file, NULL, 1 << 20, 0));
    SAY(splice(a[0], NULL, file, NULL, 1 << 20, 0));
    SAY(tee(a[0], b[1], 10, 0));
    close(b[0]);
    signal(SIGPIPE, SIG_IGN);
    SAY(splice(file, NULL, b[1], NULL, 10, 0));
    close(file);
}

static void memory(void)
{
    int a[2];
    SAY(pipe(a));
    struct iovec parts[] = {{"one", 3}, {"", 0}, {"two", 3}};
    SAY(vmsplice(a[1], parts, 3, 0));
    char first[2], second[10] = {};
    struct iovec targets[] = {{first, 2}, {second, 10}};
    SAY(vmsplice(a[0], targets, 2, 0));
    TELL("%.2s %s", first, second);
    SAY(vmsplice(a[0], targets, 2, SPLICE_F_NONBLOCK));
    SAY(vmsplice(a[1], parts, 0, 0));
    SAY(vmsplice(a[1], parts, 2000, 0));
    SAY(vmsplice(99, parts, 1, 0));
    SAY(vmsplice(open("file", O_RDWR), parts, 1, 0));
    struct iovec big = {buffer, 1 << 20};
    SAY(vmsplice(a[1], &big, 1, SPLICE_F_NONBLOCK));
}

static void sockets(void)
{
    int s[2], a[2];
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, s) | pipe(a));
    SAY(write(s[0], "through", 7));
    SAY(splice(s[1], NULL, a[1], NULL, 100, 0));
    TELL("%s", drain(a[0]));
    SAY(write(a[1], "back", 4));
    SAY(splice(a[0], NULL, s[1], NULL, 100, 0));
    TELL("%s", drain(s[0]));
    int file = open("sent", O_CREAT | O_RDWR, 0600);
    SAY(write(file, "0123456789", 10));
    off_t from = 4;
    SAY(sendfile(s[1], file, &from, 100));
    TELL("from %ld %s", (long)from, drain(s[0]));
    SAY(sendfile(s[1], file, &from, 100));
    SAY(lseek(file, 8, SEEK_SET));
    SAY(sendfile(s[1], file, NULL, 100));
    TELL("%s", drain(s[0]));
    SAY(lseek(file, 0, SEEK_CUR));
    from = -1;
    SAY(sendfile(s[1], file, &from, 100));
    SAY(sendfile(s[1], s[0], NULL, 100));
    int target = open("target", O_CREAT | O_RDWR, 0600);
    from = 0;
    SAY(sendfile(target, file, &from, 3));
    SAY(sendfile(open("target", O_RDONLY), file, &from, 3));
    SAY(sendfile(open("target", O_WRONLY | O_APPEND), file, &from, 3));
    TELL("%s", text(target, 0, 100));
    loff_t in = 1, out = 5;
    SAY(copy_file_range(file, &in, target, &out, 4, 0));
    TELL("%ld %ld", (long)in, (long)out);
    SAY(pread(target, buffer, 100, 0));
    SAY(memcmp(buffer, "012\0\0001234", 9));
    in = 0, out = 2;
    SAY(copy_file_range(file, &in, file, &out, 4, 0));
    out = 4;
    SAY(copy_file_range(file, &in, file, &out, 4, 0));
    SAY(copy_file_range(file, &in, target, &out, 4, 1));
    SAY(copy_file_range(a[0], NULL, target, &out, 4, 0));
    SAY(copy_file_range(file, &in, open(".", O_RDONLY), NULL, 4, 0));
    SAY(copy_file_range(file, &in, open("target", O_WRONLY | O_APPEND), NULL, 4, 0));
    in = 100;
    SAY(copy_file_range(file, &in, target, &out, 4, 0));
}

static void flags(void)
{
    int fd = open("flags", O_CREAT | O_RDWR, 0600), a[2];
    struct iovec part = {"abc", 3}, into = {buffer, 10};
    SAY(pwritev2(fd, &part, 1, -1, 0));
    SAY(lseek(fd, 0, SEEK_CUR));
    SAY(pwritev2(fd, &part, 1, 0, RWF_APPEND));
    SAY(lseek(fd, 0, SEEK_CUR));
    SAY(pwritev2(fd, &part, 1, -1, RWF_APPEND | RWF_DSYNC));
    SAY(lseek(fd, 0, SEEK_CUR));
    TELL("%s", text(fd, 0, 100));
    SAY(preadv2(fd, &into, 1, 7, RWF_HIPRI));
    SAY(preadv2(fd, &into, 1, 7, 1 << 20));
    SAY(preadv2(fd, &into, 1, -2, 0));
    SAY(pipe(a));
    SAY(preadv2(a[0], &into, 1, -1, RWF_NOWAIT));
    SAY(preadv2(a[0], &into, 1, 0, 0));
    SAY(pwrite(a[1], "x", 1, 0));
    int other = open("flags", O_WRONLY | O_APPEND);
    SAY(pwrite(other, "X", 1, 0));
    TELL("%s", text(fd, 0, 100));
}

int main(void)
{
    fresh_directory();
    pipes();
    memory();
    sockets();
    flags();
    return 0;
}
