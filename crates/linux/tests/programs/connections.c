/* Connections over the loopback network: options, halves, breaking off, what is read without being taken. */
#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 16];

static int ready(int fd)
{
    struct pollfd polled = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    poll(&polled, 1, 0);
    return polled.revents;
}

/* Waits until one of the events is there: the host's network takes a moment. */
static int wait_for(int fd, int events)
{
    struct pollfd polled = {fd, events, 0};
    poll(&polled, 1, 5000);
    return polled.revents;
}

static struct sockaddr_in bound(int fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    bind(fd, (void *)&address, sizeof address);
    getsockname(fd, (void *)&address, &length);
    return address;
}

static void pair(int *client, int *server)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = bound(listener);
    listen(listener, 1);
    *client = socket(AF_INET, SOCK_STREAM, 0);
    connect(*client, (void *)&address, sizeof address);
    *server = accept(listener, NULL, NULL);
    close(listener);
}

static int get(int fd, int level, int name)
{
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, name, &value, &length) < 0 ? -1 : value;
}

static int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

static void options(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), datagrams = socket(AF_INET, SOCK_DGRAM, 0);
    int local = socket(AF_UNIX, SOCK_STREAM, 0), six = socket(AF_INET6, SOCK_STREAM, 0);
    printf("-- options\n");
    SAY(get(fd, SOL_SOCKET, SO_TYPE));
    SAY(get(datagrams, SOL_SOCKET, SO_TYPE));
    SAY(get(fd, SOL_SOCKET, SO_DOMAIN));
    SAY(get(six, SOL_SOCKET, SO_DOMAIN));
    SAY(get(local, SOL_SOCKET, SO_DOMAIN));
    SAY(get(fd, SOL_SOCKET, SO_PROTOCOL));
    SAY(get(datagrams, SOL_SOCKET, SO_PROTOCOL));
    SAY(get(local, SOL_SOCKET, SO_PROTOCOL));
    SAY(get(fd, SOL_SOCKET, SO_ERROR));
    SAY(get(fd, SOL_SOCKET, SO_ACCEPTCONN));
    SAY(get(fd, SOL_SOCKET, SO_REUSEADDR));
    SAY(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    SAY(get(fd, SOL_SOCKET, SO_REUSEADDR));
    SAY(set(fd, SOL_SOCKET, SO_REUSEADDR, 5));
    SAY(get(fd, SOL_SOCKET, SO_REUSEADDR));
    SAY(set(fd, SOL_SOCKET, SO_REUSEPORT, 1));
    SAY(get(fd, SOL_SOCKET, SO_REUSEPORT));
    SAY(set(fd, SOL_SOCKET, SO_KEEPALIVE, 7));
    SAY(get(fd, SOL_SOCKET, SO_KEEPALIVE));
    SAY(set(datagrams, SOL_SOCKET, SO_BROADCAST, 1));
    SAY(get(datagrams, SOL_SOCKET, SO_BROADCAST));
    SAY(get(fd, IPPROTO_TCP, TCP_NODELAY));
    SAY(set(fd, IPPROTO_TCP, TCP_NODELAY, 3));
    SAY(get(fd, IPPROTO_TCP, TCP_NODELAY));
    SAY(get(fd, IPPROTO_TCP, TCP_KEEPIDLE));
    SAY(set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30));
    SAY(get(fd, IPPROTO_TCP, TCP_KEEPIDLE));
    SAY(set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 0));
    SAY(get(fd, IPPROTO_TCP, TCP_KEEPINTVL));
    SAY(get(fd, IPPROTO_TCP, TCP_KEEPCNT));
    SAY(set(fd, IPPROTO_TCP, TCP_KEEPCNT, 128));
    SAY(set(datagrams, IPPROTO_TCP, TCP_NODELAY, 1));
    SAY(set(local, IPPROTO_TCP, TCP_NODELAY, 1));
    SAY(get(fd, IPPROTO_IP, IP_TTL));
    SAY(set(fd, IPPROTO_IP, IP_TTL, 300));
    SAY(set(fd, IPPROTO_IP, IP_TTL, 10));
    SAY(get(fd, IPPROTO_IP, IP_TTL));
    SAY(get(six, IPPROTO_IPV6, IPV6_V6ONLY));
    SAY(set(six, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    SAY(get(six, IPPROTO_IPV6, IPV6_V6ONLY));
    SAY(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    SAY(set(fd, SOL_SOCKET, 12345, 1));
    SAY(get(fd, SOL_SOCKET, 12345));
    SAY(set(fd, 99, 1, 1));
    SAY(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, buffer, 2));
    SAY(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, NULL, 4));
    SAY(set(0, SOL_SOCKET, SO_REUSEADDR, 1) < 0);
    SAY(set(-1, SOL_SOCKET, SO_REUSEADDR, 1));
    struct linger linger = {0, 0};
    socklen_t length = sizeof linger;
    SAY(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    SAY(linger.l_onoff);
    linger = (struct linger){1, 9};
    SAY(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    SAY(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    SAY(linger.l_linger);
    struct timeval time = {1, 500000};
    length = sizeof time;
    SAY(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    time.tv_sec = 0;
    SAY(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, &length));
    SAY(time.tv_sec);
    time.tv_usec = 1000000;
    SAY(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time));
    SAY(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, 4));
    close(fd);
    close(datagrams);
    close(local);
    close(six);
}

static void halves(void)
{
    int client, server, waiting;
    printf("-- halves\n");
    pair(&client, &server);
    SAY(ready(client));
    SAY(shutdown(client, 3));
    SAY(shutdown(client, SHUT_WR));
    SAY(shutdown(client, SHUT_WR));
    SAY(wait_for(server, POLLRDHUP));
    SAY(ready(server));
    SAY(ready(client));
    SAY(recv(server, buffer, 10, 0));
    SAY(recv(server, buffer, 10, 0));
    SAY(send(client, "x", 1, MSG_NOSIGNAL));
    SAY(send(server, "still", 5, MSG_NOSIGNAL));
    SAY(wait_for(client, POLLIN) & POLLIN);
    SAY(ioctl(client, FIONREAD, &waiting));
    SAY(waiting);
    SAY(recv(client, buffer, 10, MSG_PEEK));
    SAY(recv(client, buffer, 2, MSG_PEEK));
    SAY(recv(client, buffer, 10, MSG_DONTWAIT));
    SAY(recv(client, buffer, 10, MSG_DONTWAIT));
    SAY(shutdown(server, SHUT_RDWR));
    SAY(wait_for(client, POLLHUP) & POLLHUP);
    SAY(ready(client));
    SAY(recv(client, buffer, 10, 0));
    close(client);
    close(server);
    pair(&client, &server);
    SAY(shutdown(client, SHUT_RD));
    SAY(recv(client, buffer, 10, 0));
    SAY(ready(client));
    SAY(send(client, "on", 2, MSG_NOSIGNAL));
    SAY(recv(server, buffer, 10, 0));
    close(client);
    close(server);
    int alone = socket(AF_INET, SOCK_STREAM, 0);
    SAY(shutdown(alone, SHUT_RD));
    SAY(send(alone, "x", 1, MSG_NOSIGNAL));
    SAY(recv(alone, buffer, 1, 0));
    SAY(ready(alone));
    close(alone);
}

static void breaking(void)
{
    int client, server;
    struct linger now = {1, 0};
    printf("-- breaking off\n");
    pair(&client, &server);
    setsockopt(server, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(server);
    SAY(wait_for(client, POLLHUP) & (POLLERR | POLLHUP));
    SAY(get(client, SOL_SOCKET, SO_ERROR) == ECONNRESET);
    SAY(get(client, SOL_SOCKET, SO_ERROR));
    SAY(recv(client, buffer, 10, 0));
    SAY(send(client, "x", 1, MSG_NOSIGNAL));
    close(client);
    pair(&client, &server);
    setsockopt(server, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(server);
    wait_for(client, POLLHUP);
    SAY(recv(client, buffer, 10, 0));
    SAY(recv(client, buffer, 10, 0));
    close(client);
    pair(&client, &server);
    send(client, "unread", 6, 0);
    wait_for(server, POLLIN);
    close(server);
    wait_for(client, POLLHUP);
    SAY(recv(client, buffer, 10, 0));
    close(client);
    pair(&client, &server);
    close(server);
    SAY(wait_for(client, POLLRDHUP) & POLLRDHUP);
    SAY(send(client, "first", 5, MSG_NOSIGNAL));
    SAY(wait_for(client, POLLHUP) & POLLHUP);
    SAY(send(client, "second", 6, MSG_NOSIGNAL));
    close(client);
}

static void whole_messages(void)
{
    int client, server;
    struct timeval little = {0, 10000};
    printf("-- whole messages\n");
    pair(&client, &server);
    send(client, "12345", 5, 0);
    wait_for(server, POLLIN);
    SAY(recv(server, buffer, 5, MSG_WAITALL));
    send(client, "123", 3, 0);
    setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &little, sizeof little);
    SAY(recv(server, buffer, 5, MSG_WAITALL));
    SAY(recv(server, buffer, 5, 0));
    SAY(recv(server, buffer, 5, MSG_OOB));
    SAY(recv(server, buffer, 5, MSG_ERRQUEUE));
    send(client, "tail", 4, 0);
    shutdown(client, SHUT_WR);
    SAY(recv(server, buffer, 100, MSG_WAITALL));
    SAY(recv(server, buffer, 100, MSG_WAITALL));
    struct iovec parts[2] = {{buffer, 2}, {buffer + 100, 10}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    send(server, "abcdef", 6, MSG_MORE);
    send(server, "g", 1, 0);
    wait_for(client, POLLIN);
    SAY(recvmsg(client, &message, MSG_WAITALL | MSG_DONTWAIT));
    SAY(!memcmp(buffer, "ab", 2) && !memcmp(buffer + 100, "cdefg", 5));
    SAY(message.msg_flags);
    SAY(message.msg_namelen);
    close(client);
    close(server);
}

static void names(void)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address, other, any = {.sin_family = AF_INET};
    socklen_t length = sizeof other;
    printf("-- names\n");
    SAY(getsockname(listener, (void *)&other, &length));
    SAY(other.sin_port);
    SAY(length);
    SAY(getpeername(listener, (void *)&other, &length));
    address = bound(listener);
    listen(listener, 2);
    SAY(bind(listener, (void *)&address, sizeof address));
    SAY(listen(listener, 3));
    SAY(connect(listener, (void *)&address, sizeof address));
    SAY(recv(listener, buffer, 1, 0));
    SAY(send(listener, buffer, 1, MSG_NOSIGNAL));
    int client = socket(AF_INET, SOCK_STREAM, 0);
    any.sin_port = address.sin_port;
    SAY(connect(client, (void *)&any, sizeof any));
    length = sizeof other;
    SAY(getpeername(client, (void *)&other, &length));
    SAY(other.sin_addr.s_addr == htonl(INADDR_LOOPBACK) && other.sin_port == address.sin_port);
    length = 4;
    memset(&other, 0x55, sizeof other);
    SAY(getpeername(client, (void *)&other, &length));
    SAY(length);
    SAY(other.sin_addr.s_addr == 0x55555555);
    length = -1;
    SAY(getpeername(client, (void *)&other, &length));
    SAY(getsockname(client, NULL, &length));
    length = sizeof other;
    int server = accept(listener, (void *)&other, &length);
    SAY(length);
    struct sockaddr_in own;
    length = sizeof own;
    getsockname(client, (void *)&own, &length);
    SAY(own.sin_port == other.sin_port);
    SAY(accept4(listener, NULL, NULL, 1));
    SAY(accept(client, NULL, NULL));
    SAY(fcntl(server, F_GETFL) & O_NONBLOCK);
    SAY(listen(client, 1));
    int taken = socket(AF_INET, SOCK_STREAM, 0);
    SAY(bind(taken, (void *)&address, sizeof address));
    address.sin_addr.s_addr = htonl(0x08080808);
    SAY(bind(taken, (void *)&address, sizeof address));
    address.sin_family = AF_UNIX;
    SAY(bind(taken, (void *)&address, sizeof address));
    address.sin_family = AF_INET;
    SAY(bind(taken, (void *)&address, 4));
    SAY(connect(taken, (void *)&address, 4));
    SAY(connect(taken, NULL, 16));
    close(taken);
    close(client);
    close(server);
    close(listener);
}

static void shared_ports(void)
{
    int a = socket(AF_INET, SOCK_STREAM, 0), b = socket(AF_INET, SOCK_STREAM, 0);
    printf("-- shared ports\n");
    set(a, SOL_SOCKET, SO_REUSEPORT, 1);
    struct sockaddr_in address = bound(a);
    SAY(bind(b, (void *)&address, sizeof address));
    set(b, SOL_SOCKET, SO_REUSEPORT, 1);
    SAY(bind(b, (void *)&address, sizeof address));
    SAY(listen(a, 1));
    SAY(listen(b, 1));
    close(a);
    close(b);
    int server = socket(AF_INET, SOCK_STREAM, 0), client, accepted;
    address = bound(server);
    listen(server, 1);
    client = socket(AF_INET, SOCK_STREAM, 0);
    connect(client, (void *)&address, sizeof address);
    accepted = accept(server, NULL, NULL);
    close(server);
    int again = socket(AF_INET, SOCK_STREAM, 0);
    SAY(set(again, SOL_SOCKET, SO_REUSEADDR, 1));
    close(again);
    close(accepted);
    close(client);
}

int main(void)
{
    options();
    halves();
    breaking();
    whole_messages();
    names();
    shared_ports();
}
