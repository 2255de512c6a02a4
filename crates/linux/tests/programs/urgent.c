/* Urgent data of TCP: MSG_OOB, SO_OOBINLINE, SIOCATMARK, POLLPRI. */
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

static char bytes[64];
static int client, server;

static void begin(const char *what)
{
    printf("-- %s\n", what);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (void *)&address, sizeof address);
    getsockname(listener, (void *)&address, &length);
    listen(listener, 1);
    client = socket(AF_INET, SOCK_STREAM, 0);
    connect(client, (void *)&address, sizeof address);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    server = accept(listener, NULL, NULL);
    SAY(recv(listener, bytes, 1, MSG_OOB));
    close(listener);
}

static void end(void) { close(client), close(server); }

/* Waits until one of the events is there: the host's network takes a moment. */
static int wait_for(int events)
{
    struct pollfd polled = {server, events, 0};
    poll(&polled, 1, 5000);
    return polled.revents;
}

static int ready(void)
{
    struct pollfd polled = {server, POLLIN | POLLPRI, 0};
    poll(&polled, 1, 0);
    return polled.revents;
}

static int at_mark(void)
{
    int is_at = -1;
    return ioctl(server, SIOCATMARK, &is_at) < 0 ? -1 : is_at;
}

static int waiting(void)
{
    int count = -1;
    ioctl(server, FIONREAD, &count);
    return count;
}

static void take(int flags)
{
    memset(bytes, 0, sizeof bytes);
    long count = recv(server, bytes, sizeof bytes - 1, flags | MSG_DONTWAIT);
    printf("read with %#x: %ld \"%s\" %s\n", flags, count, bytes, count < 0 ? strerrorname_np(errno) : "");
}

static void apart(void)
{
    begin("apart from the others");
    SAY(at_mark());
    take(MSG_OOB);
    SAY(send(client, "ab", 2, 0));
    SAY(send(client, "cU", 2, MSG_OOB));
    SAY(wait_for(POLLPRI));
    SAY(send(client, "de", 2, 0));
    SAY(at_mark());
    fd_set exceptions;
    FD_ZERO(&exceptions);
    FD_SET(server, &exceptions);
    struct timeval now = {0, 0};
    SAY(select(server + 1, NULL, NULL, &exceptions, &now));
    SAY(FD_ISSET(server, &exceptions) != 0);
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLPRI};
    epoll_ctl(epoll, EPOLL_CTL_ADD, server, &event);
    SAY(epoll_wait(epoll, &event, 1, 0));
    SAY(event.events);
    close(epoll);
    take(MSG_OOB | MSG_PEEK);
    SAY(waiting());
    take(MSG_PEEK);
    take(0);
    SAY(at_mark());
    SAY(waiting());
    take(MSG_OOB);
    take(MSG_OOB);
    SAY(ready() & POLLPRI);
    SAY(wait_for(POLLIN));
    take(MSG_PEEK);
    take(0);
    SAY(at_mark());
    take(0);
    take(MSG_OOB);
    end();
}

static void alone(void)
{
    begin("alone");
    SAY(send(client, "U", 1, MSG_OOB));
    SAY(wait_for(POLLPRI));
    SAY(ready());
    SAY(at_mark());
    struct iovec part = {bytes, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    SAY(recvmsg(server, &message, MSG_OOB));
    SAY(message.msg_flags);
    SAY(ready());
    take(0);
    SAY(send(client, "V", 1, MSG_OOB));
    SAY(wait_for(POLLPRI));
    shutdown(client, SHUT_WR);
    SAY(wait_for(POLLIN) & POLLIN);
    take(MSG_OOB);
    SAY(recv(server, bytes, 1, 0));
    end();
}

static void twice(void)
{
    begin("twice");
    SAY(send(client, "aU", 2, MSG_OOB));
    SAY(wait_for(POLLPRI));
    SAY(send(client, "bV", 2, MSG_OOB));
    do
        wait_for(POLLPRI), recv(server, bytes, 1, MSG_OOB | MSG_PEEK);
    while (bytes[0] != 'V');
    take(MSG_OOB);
    take(0);
    SAY(at_mark());
    end();
}

static void among(void)
{
    int on = 1;
    begin("among the others");
    SAY(setsockopt(server, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
    SAY(send(client, "abU", 3, MSG_OOB));
    SAY(wait_for(POLLPRI));
    SAY(waiting());
    take(MSG_OOB);
    take(0);
    SAY(at_mark());
    SAY(ready());
    take(0);
    SAY(at_mark());
    SAY(ready());
    end();
}

static void elsewhere(void)
{
    printf("-- elsewhere\n");
    int udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = 9};
    SAY(sendto(udp, "x", 1, MSG_OOB, (void *)&address, sizeof address));
    SAY(send(tcp, "x", 1, MSG_OOB | MSG_NOSIGNAL));
    SAY(recv(tcp, bytes, 1, MSG_OOB));
    close(udp), close(tcp);
}

int main(void)
{
    apart();
    alone();
    twice();
    among();
    elsewhere();
}
