/* Unix sockets: pairs of each type, names, credentials, and files that travel. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char buffer[1 << 18];

static int ready(int fd)
{
    struct pollfd polled = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    poll(&polled, 1, 0);
    return polled.revents;
}

static void types(void)
{
    int ends[2];
    printf("-- types\n");
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    SAY(write(ends[0], "abc", 3));
    SAY(write(ends[0], "def", 3));
    SAY(read(ends[1], buffer, 4));
    SAY(read(ends[1], buffer, 4));
    close(ends[0]), close(ends[1]);
    SAY(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    SAY(write(ends[0], "abc", 3));
    SAY(write(ends[0], "def", 3));
    SAY(recv(ends[1], buffer, 2, MSG_PEEK | MSG_TRUNC));
    SAY(recv(ends[1], buffer, 2, 0));
    SAY(read(ends[1], buffer, 10));
    struct iovec part = {buffer, 2};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    write(ends[0], "long", 4);
    SAY(recvmsg(ends[1], &message, 0));
    SAY(message.msg_flags);
    SAY(ready(ends[1]));
    close(ends[0]);
    SAY(ready(ends[1]));
    SAY(read(ends[1], buffer, 10));
    SAY(send(ends[1], "x", 1, MSG_NOSIGNAL));
    close(ends[1]);
    SAY(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    SAY(write(ends[0], "", 0));
    SAY(write(ends[0], "one", 3));
    SAY(read(ends[1], buffer, 10));
    SAY(read(ends[1], buffer, 1));
    SAY(recv(ends[1], buffer, 10, MSG_DONTWAIT));
    SAY(shutdown(ends[0], SHUT_WR));
    SAY(send(ends[0], "x", 1, MSG_NOSIGNAL));
    close(ends[1]);
    SAY(send(ends[0], "x", 1, MSG_NOSIGNAL));
    close(ends[0]);
    SAY(socketpair(AF_INET, SOCK_STREAM, 0, ends));
    SAY(socketpair(AF_UNIX, SOCK_RAW + 40, 0, ends));
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 6, ends));
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, NULL));
    SAY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
    SAY(fcntl(ends[0], F_GETFD));
    SAY(fcntl(ends[1], F_GETFL) & O_NONBLOCK);
    SAY(read(ends[0], buffer, 1));
    struct stat status;
    SAY(fstat(ends[0], &status));
    SAY((status.st_mode & S_IFMT) == S_IFSOCK);
    SAY(lseek(ends[0], 0, SEEK_SET));
    SAY(ftruncate(ends[0], 0));
    close(ends[0]), close(ends[1]);
}

static int name(struct sockaddr_un *address, const char *text, int length)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, text, length);
    return offsetof(struct sockaddr_un, sun_path) + length;
}

static void names(void)
{
    struct sockaddr_un address, found;
    socklen_t length, size;
    printf("-- names\n");
    size = name(&address, "\0calypte/test/unix", 18);
    int a = socket(AF_UNIX, SOCK_STREAM, 0), b = socket(AF_UNIX, SOCK_STREAM, 0), c;
    SAY(bind(a, (void *)&address, size));
    SAY(bind(b, (void *)&address, size));
    length = sizeof found;
    SAY(getsockname(a, (void *)&found, &length));
    SAY(length == size && !memcmp(&found, &address, size));
    length = sizeof found;
    SAY(getsockname(b, (void *)&found, &length));
    SAY(length);
    SAY(connect(b, (void *)&address, size));
    SAY(listen(a, 0));
    SAY(connect(b, (void *)&address, size));
    c = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    SAY(connect(c, (void *)&address, size));
    close(c);
    c = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(connect(c, (void *)&address, size - 1));
    SAY(write(b, "early", 5));
    int accepted = accept(a, NULL, NULL);
    SAY(read(accepted, buffer, 10));
    close(a);
    a = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(bind(a, (void *)&address, size));
    SAY(write(accepted, "on", 2));
    SAY(read(b, buffer, 10));
    close(a), close(b), close(c), close(accepted);
    char folder[] = "/tmp/unix-XXXXXX";
    mkdtemp(folder);
    chdir(folder);
    size = name(&address, "here", 5);
    a = socket(AF_UNIX, SOCK_DGRAM, 0);
    SAY(bind(a, (void *)&address, size));
    SAY(bind(a, (void *)&address, size));
    struct stat status;
    SAY(stat("here", &status));
    SAY((status.st_mode & S_IFMT) == S_IFSOCK);
    SAY(open("here", O_RDONLY));
    b = socket(AF_UNIX, SOCK_DGRAM, 0);
    SAY(bind(b, (void *)&address, size));
    SAY(sendto(b, "to", 2, 0, (void *)&address, size));
    length = sizeof found;
    SAY(recvfrom(a, buffer, 10, 0, (void *)&found, &length));
    SAY(length);
    SAY(connect(b, (void *)&address, size));
    SAY(send(b, "by connection", 13, 0));
    SAY(recv(a, buffer, 20, 0));
    SAY(rename("here", "there"));
    SAY(send(b, "renamed", 7, 0));
    SAY(recv(a, buffer, 20, 0));
    SAY(sendto(b, "to", 2, 0, (void *)&address, size));
    SAY(unlink("there"));
    SAY(send(b, "without a name", 14, 0));
    SAY(recv(a, buffer, 20, 0));
    close(a);
    SAY(send(b, "nobody", 6, 0));
    close(b);
    a = socket(AF_UNIX, SOCK_STREAM, 0);
    size = name(&address, "no/such/folder", 15);
    SAY(bind(a, (void *)&address, size));
    SAY(connect(a, (void *)&address, size));
    size = name(&address, "", 0);
    SAY(connect(a, (void *)&address, size));
    close(creat("file", 0600));
    size = name(&address, "file", 5);
    SAY(connect(a, (void *)&address, size));
    SAY(bind(a, (void *)&address, size));
    SAY(bind(a, (void *)&address, 1));
    SAY(listen(a, 1));
    unlink("file");
    chdir("/tmp");
    rmdir(folder);
    close(a);
}

/* Sends bytes with files; how many were sent. */
static long send_files(int socket, const char *bytes, int length, const int *files, int count)
{
    char control[CMSG_SPACE(sizeof(int) * 300)] = {0};
    struct iovec part = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
    message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(header), files, sizeof(int) * count);
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

static int got[300], got_count, got_flags;

/* Receives bytes with files; how many bytes. */
static long receive_files(int socket, int length, int room, int flags)
{
    char control[CMSG_SPACE(sizeof(int) * 300)];
    struct iovec part = {buffer, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
    long result = recvmsg(socket, &message, flags);
    got_count = 0;
    got_flags = message.msg_flags;
    struct cmsghdr *header = result < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_type == SCM_RIGHTS) {
        got_count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(got, CMSG_DATA(header), sizeof(int) * got_count);
    }
    return result;
}

static void files(void)
{
    int ends[2], pipes[2], many[300];
    printf("-- files\n");
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    pipe(pipes);
    SAY(send_files(ends[0], "x", 1, pipes, 2));
    SAY(receive_files(ends[1], 10, CMSG_SPACE(sizeof(int) * 2), 0));
    SAY(got_count);
    SAY(got_flags);
    SAY(write(got[1], "through", 7));
    SAY(read(pipes[0], buffer, 10));
    SAY(fcntl(got[0], F_GETFD));
    close(got[0]), close(got[1]);
    SAY(send_files(ends[0], "x", 1, pipes, 2));
    SAY(receive_files(ends[1], 10, CMSG_SPACE(sizeof(int)), MSG_CMSG_CLOEXEC));
    SAY(got_count > 0);
    SAY((got_flags & MSG_CTRUNC) != 0 || got_count == 2);
    SAY(fcntl(got[0], F_GETFD));
    for (int i = 0; i < got_count; i++)
        close(got[i]);
    SAY(send_files(ends[0], "x", 1, pipes, 2));
    SAY(receive_files(ends[1], 10, 0, 0));
    SAY(got_flags & MSG_CTRUNC);
    SAY(send_files(ends[0], "peeked", 6, pipes, 1));
    SAY(receive_files(ends[1], 3, sizeof buffer, MSG_PEEK));
    SAY(got_count);
    close(got[0]);
    SAY(receive_files(ends[1], 3, CMSG_SPACE(sizeof(int) * 2), 0));
    SAY(got_count);
    close(got[0]);
    SAY(receive_files(ends[1], 10, CMSG_SPACE(sizeof(int) * 2), 0));
    SAY(got_count);
    SAY(write(ends[0], "ab", 2));
    SAY(send_files(ends[0], "cd", 2, pipes, 1));
    SAY(write(ends[0], "ef", 2));
    SAY(receive_files(ends[1], 10, CMSG_SPACE(sizeof(int) * 2), 0));
    SAY(got_count);
    for (int i = 0; i < got_count; i++)
        close(got[i]);
    SAY(receive_files(ends[1], 10, CMSG_SPACE(sizeof(int) * 2), 0));
    SAY(got_count);
    int wrong = 12345;
    SAY(send_files(ends[0], "x", 1, &wrong, 1));
    for (int i = 0; i < 300; i++)
        many[i] = pipes[0];
    SAY(send_files(ends[0], "x", 1, many, 253));
    SAY(receive_files(ends[1], 10, CMSG_SPACE(sizeof(int) * 253), 0));
    SAY(got_count);
    for (int i = 0; i < got_count; i++)
        close(got[i]);
    SAY(send_files(ends[0], "x", 1, many, 254));
    /* A socket sent through itself, and one that is closed while files are on their way to it. */
    SAY(send_files(ends[0], "self", 4, ends, 2));
    close(ends[0]), close(ends[1]);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
    SAY(send_files(ends[0], "d", 1, &pipes[1], 1));
    close(pipes[1]);
    SAY(fcntl(pipes[0], F_SETFL, O_NONBLOCK));
    SAY(read(pipes[0], buffer, 1));
    close(ends[0]), close(ends[1]);
    SAY(read(pipes[0], buffer, 1));
    close(pipes[0]);
}

static void credentials(void)
{
    int ends[2], on = 1, value = 7;
    struct ucred who = {0};
    socklen_t length = sizeof who;
    printf("-- credentials\n");
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    SAY(getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &who, &length));
    SAY(who.pid == getpid() && who.uid == geteuid() && who.gid == getegid());
    length = sizeof value;
    SAY(getsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &value, &length));
    SAY(value);
    SAY(setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    SAY(write(ends[0], "hello", 5));
    char control[CMSG_SPACE(sizeof who)];
    struct iovec part = {buffer, 10};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    SAY(recvmsg(ends[1], &message, 0));
    SAY(message.msg_controllen == CMSG_SPACE(sizeof who));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    SAY(header && header->cmsg_type == SCM_CREDENTIALS);
    SAY(header && header->cmsg_len == CMSG_LEN(sizeof who));
    memset(&who, 0, sizeof who);
    if (header)
        memcpy(&who, CMSG_DATA(header), sizeof who);
    SAY(who.pid == getpid() && who.uid == geteuid() && who.gid == getegid());
    memset(control, 0, sizeof control);
    message.msg_controllen = sizeof control;
    header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_CREDENTIALS;
    header->cmsg_len = CMSG_LEN(sizeof who);
    who = (struct ucred){getpid(), geteuid(), getegid()};
    memcpy(CMSG_DATA(header), &who, sizeof who);
    part.iov_len = 3;
    SAY(sendmsg(ends[0], &message, 0));
    header->cmsg_len = CMSG_LEN(4);
    SAY(sendmsg(ends[0], &message, 0));
    header->cmsg_type = 77;
    SAY(sendmsg(ends[0], &message, 0));
    header->cmsg_len = 3;
    SAY(sendmsg(ends[0], &message, 0));
    close(ends[0]), close(ends[1]);
}

static void full(void)
{
    int ends[2];
    long count = 0, sent;
    printf("-- full\n");
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends);
    while ((sent = write(ends[0], buffer, 4096)) > 0)
        count += sent;
    SAY(errno == EAGAIN);
    SAY(count > 65536);
    SAY(ready(ends[0]) & POLLOUT);
    while (read(ends[1], buffer, sizeof buffer) > 0)
        ;
    SAY(ready(ends[0]) & POLLOUT);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int epoll = epoll_create1(0);
    SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[1], &event));
    SAY(epoll_wait(epoll, &event, 1, 0));
    write(ends[0], "1", 1);
    SAY(epoll_wait(epoll, &event, 1, 0));
    SAY(epoll_wait(epoll, &event, 1, 0));
    write(ends[0], "2", 1);
    SAY(epoll_wait(epoll, &event, 1, 0));
    SAY(read(ends[1], buffer, 1));
    SAY(epoll_wait(epoll, &event, 1, 0));
    close(ends[0]);
    SAY(epoll_wait(epoll, &event, 1, 0));
    SAY(event.events);
    close(ends[1]), close(epoll);
}

int main(void)
{
    types();
    names();
    files();
    credentials();
    full();
}
