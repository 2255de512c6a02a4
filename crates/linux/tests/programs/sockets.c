/* Sockets: pairs, Unix and loopback TCP and UDP, with and without waiting, and files sent through them. */
#include "check.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];

static int ready(int fd)
{
    struct pollfd polled = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    poll(&polled, 1, 0);
    return polled.revents;
}

static void pairs(int type)
{
    int ends[2];
    printf("-- pair of type %d\n", type);
    SAY(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, ends));
    SAY(recv(ends[0], buffer, 10, 0));
    SAY(send(ends[1], "hello", 5, 0));
    SAY(send(ends[1], "again", 5, 0));
    SAY(ready(ends[0]));
    SAY(recv(ends[0], buffer, 3, MSG_PEEK));
    SAY(recv(ends[0], buffer, 3, MSG_TRUNC));
    SAY(recv(ends[0], buffer, 100, 0));
    SAY(recv(ends[0], buffer, 100, 0));
    SAY(write(ends[0], "back", 4));
    SAY(read(ends[1], buffer, 100));
    SAY(shutdown(ends[1], SHUT_WR));
    SAY(ready(ends[0]));
    SAY(send(ends[1], "x", 1, MSG_NOSIGNAL));
    close(ends[1]);
    SAY(ready(ends[0]));
    SAY(send(ends[0], "x", 1, MSG_NOSIGNAL));
    close(ends[0]);
}

static void files_through_sockets(void)
{
    int ends[2], pipes[2], got;
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    pipe(pipes);
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {"f", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &pipes[1], sizeof(int));
    write(ends[0], "ab", 2);
    SAY(sendmsg(ends[0], &message, 0));
    close(pipes[1]);
    char byte[10];
    part = (struct iovec){byte, 10};
    SAY(recv(ends[1], byte, 1, 0));
    memset(control, 0, sizeof control);
    SAY(recvmsg(ends[1], &message, 0));
    SAY(byte[0] == 'b' && byte[1] == 'f');
    SAY(message.msg_controllen == CMSG_SPACE(sizeof(int)));
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof got);
    SAY(write(got, "through", 7));
    SAY(read(pipes[0], buffer, 10));
    close(got);
    SAY(read(pipes[0], buffer, 10));
    struct ucred peer;
    socklen_t length = sizeof peer;
    SAY(getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &peer, &length));
    SAY(peer.pid == getpid());
}

static struct sockaddr_in any = {.sin_family = AF_INET};

static void *echo(void *argument)
{
    int server = (int)(long)argument;
    int client = accept4(server, NULL, NULL, SOCK_CLOEXEC);
    long total = 0, count;
    while ((count = read(client, buffer, sizeof buffer)) > 0) {
        for (long sent = 0; sent < count;) {
            long part = write(client, buffer + sent, count - sent);
            if (part < 0)
                return (void *)-1;
            sent += part;
        }
        total += count;
    }
    close(client);
    return (void *)total;
}

static void *pour(void *argument)
{
    static char bytes[100000];
    int fd = (int)(long)argument;
    for (int i = 0; i < 20; i++)
        for (long sent = 0; sent < (long)sizeof bytes;)
            sent += write(fd, bytes + sent, sizeof bytes - sent);
    shutdown(fd, SHUT_WR);
    return NULL;
}

static void tcp(void)
{
    int server = socket(AF_INET, SOCK_STREAM, 0), one = 1, value;
    socklen_t length = sizeof any;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    printf("-- tcp\n");
    SAY(ready(server));
    SAY(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    SAY(setsockopt(server, SOL_SOCKET, 9999, &one, sizeof one));
    SAY(setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    SAY(accept(server, NULL, NULL));
    SAY(bind(server, (void *)&any, sizeof any));
    SAY(bind(server, (void *)&any, sizeof any));
    SAY(getsockname(server, (void *)&any, &length));
    SAY(any.sin_port != 0 && any.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    int early = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connect(early, (void *)&any, sizeof any));
    SAY(send(early, "x", 1, MSG_NOSIGNAL));
    SAY(recv(early, buffer, 1, 0));
    SAY(getpeername(early, (void *)&any, &length));
    close(early);
    SAY(listen(server, 5));
    int other = socket(AF_INET, SOCK_STREAM, 0);
    SAY(bind(other, (void *)&any, sizeof any));
    close(other);
    length = sizeof value;
    SAY(getsockopt(server, SOL_SOCKET, SO_ACCEPTCONN, &value, &length));
    SAY(value);
    pthread_t echoing, pouring;
    pthread_create(&echoing, NULL, echo, (void *)(long)server);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connect(client, (void *)&any, sizeof any));
    SAY(connect(client, (void *)&any, sizeof any));
    pthread_create(&pouring, NULL, pour, (void *)(long)client);
    static char received[65536];
    long total = 0, count;
    while ((count = read(client, received, sizeof received)) > 0)
        total += count;
    SAY(total);
    pthread_join(pouring, NULL);
    void *result;
    pthread_join(echoing, &result);
    SAY((long)result);
    close(client);
    fcntl(server, F_SETFL, O_NONBLOCK);
    SAY(accept(server, NULL, NULL));
    client = socket(AF_INET, SOCK_STREAM, 0);
    connect(client, (void *)&any, sizeof any);
    SAY(ready(server) & POLLIN);
    int accepted = accept(server, NULL, NULL);
    struct timeval timeout = {0, 20000};
    SAY(setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
    SAY(recv(client, buffer, 1, 0));
    SAY(write(accepted, "12345", 5));
    SAY(recv(client, buffer, 5, MSG_WAITALL));
    SAY(write(client, "unread", 6));
    usleep(1000);
    close(accepted);
    SAY(recv(client, buffer, 1, 0));
    SAY(recv(client, buffer, 1, 0));
    close(client);
    close(server);
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connect(client, (void *)&any, sizeof any));
    SAY(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    SAY(socket(AF_INET, 77, 0));
    SAY(socket(99, SOCK_STREAM, 0));
    SAY(listen(0, 1) < 0);
    SAY(bind(client, (void *)&any, 5));
}

static void without_waiting(void)
{
    int server = socket(AF_INET, SOCK_STREAM, 0), value;
    socklen_t length = sizeof any;
    any.sin_port = 0;
    printf("-- without waiting\n");
    bind(server, (void *)&any, sizeof any);
    getsockname(server, (void *)&any, &length);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SAY(connect(client, (void *)&any, sizeof any));
    usleep(1000);
    SAY(ready(client) & (POLLERR | POLLHUP));
    length = sizeof value;
    SAY(getsockopt(client, SOL_SOCKET, SO_ERROR, &value, &length));
    SAY(value == ECONNREFUSED);
    SAY(getsockopt(client, SOL_SOCKET, SO_ERROR, &value, &length));
    SAY(value);
    close(client);
    listen(server, 1);
    client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SAY(connect(client, (void *)&any, sizeof any));
    usleep(1000);
    SAY(ready(client));
    SAY(connect(client, (void *)&any, sizeof any));
    SAY(connect(client, (void *)&any, sizeof any));
    SAY(recv(client, buffer, 1, 0));
    int accepted = accept(server, NULL, NULL);
    SAY(close(accepted));
    usleep(1000);
    SAY(send(client, "first", 5, MSG_NOSIGNAL));
    usleep(1000);
    SAY(send(client, "second", 6, MSG_NOSIGNAL));
    SAY(recv(client, buffer, 1, 0));
    close(client);
    client = socket(AF_INET, SOCK_STREAM, 0);
    connect(client, (void *)&any, sizeof any);
    accepted = accept(server, NULL, NULL);
    struct linger linger = {1, 0};
    SAY(setsockopt(accepted, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    SAY(send(accepted, "last", 4, 0));
    SAY(close(accepted));
    usleep(1000);
    SAY(getpeername(client, (void *)&any, &length));
    SAY(recv(client, buffer, 10, 0));
    SAY(recv(client, buffer, 10, 0));
    SAY(recv(client, buffer, 10, 0));
    SAY(send(client, "x", 1, MSG_NOSIGNAL));
    close(client);
    close(server);
}

static void tcp6(void)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in from;
    socklen_t length = sizeof address;
    printf("-- tcp6\n");
    int server = socket(AF_INET6, SOCK_STREAM, 0);
    SAY(bind(server, (void *)&address, sizeof address));
    SAY(listen(server, 5));
    SAY(getsockname(server, (void *)&address, &length));
    any.sin_port = address.sin6_port;
    int client = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connect(client, (void *)&any, sizeof any));
    SAY(accept(server, (void *)&address, &length) >= 0);
    char text[100];
    printf("%s\n", inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text));
    length = sizeof from;
    SAY(getpeername(client, (void *)&from, &length));
    printf("%s\n", inet_ntop(AF_INET, &from.sin_addr, text, sizeof text));
}

static void udp(void)
{
    struct sockaddr_in address = any, from;
    socklen_t length = sizeof address;
    int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    printf("-- udp\n");
    address.sin_port = 0;
    SAY(bind(a, (void *)&address, sizeof address));
    getsockname(a, (void *)&address, &length);
    SAY(sendto(b, "datagram", 8, 0, (void *)&address, sizeof address));
    SAY(sendto(b, "", 0, 0, (void *)&address, sizeof address));
    SAY(recvfrom(a, buffer, 4, MSG_TRUNC, (void *)&from, &length));
    SAY(recvfrom(a, buffer, 4, 0, NULL, NULL));
    SAY(from.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    SAY(recv(b, buffer, 10, 0));
    SAY(sendto(a, "back", 4, 0, (void *)&from, sizeof from));
    SAY(recv(b, buffer, 10, 0));
    SAY(send(b, "x", 1, 0));
    SAY(connect(b, (void *)&address, sizeof address));
    SAY(send(b, "connected", 9, 0));
    SAY(recv(a, buffer, 100, 0));
    SAY(listen(a, 1));
    SAY(sendto(b, buffer, 70000, 0, NULL, 0));
    struct mmsghdr messages[2] = {0};
    struct iovec parts[2] = {{"first", 5}, {"second!", 7}};
    messages[0].msg_hdr = (struct msghdr){.msg_iov = &parts[0], .msg_iovlen = 1};
    messages[1].msg_hdr = (struct msghdr){.msg_iov = &parts[1], .msg_iovlen = 1};
    SAY(sendmmsg(b, messages, 2, 0));
    SAY(messages[1].msg_len);
    static char first[10], second[10];
    parts[0] = (struct iovec){first, 10};
    parts[1] = (struct iovec){second, 10};
    SAY(recvmmsg(a, messages, 2, 0, NULL));
    printf("%s %s\n", first, second);
    close(a);
    SAY(send(b, "x", 1, 0));
    usleep(1000);
    SAY(send(b, "x", 1, 0));
}

static void unix_names(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX}, found;
    socklen_t length;
    char directory[] = "/tmp/sockets-XXXXXX";
    mkdtemp(directory);
    chdir(directory);
    printf("-- unix\n");
    strcpy(address.sun_path, "name");
    int server = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(listen(server, 1));
    SAY(connect(server, (void *)&address, sizeof address));
    SAY(bind(server, (void *)&address, sizeof address));
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(connect(client, (void *)&address, sizeof address));
    SAY(listen(server, 1));
    SAY(connect(client, (void *)&address, sizeof address));
    length = sizeof found;
    SAY(getpeername(client, (void *)&found, &length));
    SAY(length == offsetof(struct sockaddr_un, sun_path) + 5);
    int accepted = accept(server, NULL, NULL);
    length = sizeof found;
    SAY(getpeername(accepted, (void *)&found, &length));
    SAY(length);
    SAY(write(client, "via name", 8));
    int waiting = 0;
    SAY(ioctl(accepted, FIONREAD, &waiting));
    SAY(waiting);
    SAY(open("name", O_RDWR));
    int second = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(bind(second, (void *)&address, sizeof address));
    close(server);
    SAY(connect(second, (void *)&address, sizeof address));
    int datagram = socket(AF_UNIX, SOCK_DGRAM, 0);
    SAY(connect(datagram, (void *)&address, sizeof address));
    unlink("name");
    SAY(connect(second, (void *)&address, sizeof address));
    memcpy(address.sun_path, "\0abstract-of-this-test", 22);
    length = offsetof(struct sockaddr_un, sun_path) + 22;
    SAY(bind(datagram, (void *)&address, length));
    int sender = socket(AF_UNIX, SOCK_DGRAM, 0);
    SAY(sendto(sender, "abstract", 8, 0, (void *)&address, length));
    SAY(recv(datagram, buffer, 100, 0));
    SAY(sendto(sender, "abstract", 8, 0, (void *)&address, length - 1));
    chdir("/tmp");
    rmdir(directory);
}

/* Only the loopback interface is on every machine. */
static void interfaces(void)
{
    struct ifaddrs *all;
    char text[100];
    printf("-- interfaces\n");
    SAY(getifaddrs(&all));
    for (struct ifaddrs *each = all; each; each = each->ifa_next) {
        if (strcmp(each->ifa_name, "lo") || !each->ifa_addr || each->ifa_addr->sa_family != AF_INET)
            continue;
        struct sockaddr_in *address = (void *)each->ifa_addr, *mask = (void *)each->ifa_netmask;
        printf("%s %x %s", each->ifa_name, each->ifa_flags, inet_ntop(AF_INET, &address->sin_addr, text, sizeof text));
        printf(" %s\n", inet_ntop(AF_INET, &mask->sin_addr, text, sizeof text));
    }
    freeifaddrs(all);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = {.ifr_name = "lo"};
    SAY(ioctl(fd, SIOCGIFINDEX, &request));
    SAY(request.ifr_ifindex);
    SAY(ioctl(fd, SIOCGIFNAME, &request));
    printf("%s\n", request.ifr_name);
    SAY(ioctl(fd, SIOCGIFFLAGS, &request));
    SAY(request.ifr_flags);
    SAY(ioctl(fd, SIOCGIFADDR, &request));
    printf("%s\n", inet_ntoa(((struct sockaddr_in *)&request.ifr_addr)->sin_addr));
    SAY(ioctl(fd, SIOCGIFNETMASK, &request));
    printf("%s\n", inet_ntoa(((struct sockaddr_in *)&request.ifr_netmask)->sin_addr));
    SAY(ioctl(fd, SIOCGIFMTU, &request));
    SAY(request.ifr_mtu);
    SAY(ioctl(fd, SIOCGIFHWADDR, &request));
    SAY(request.ifr_hwaddr.sa_family);
    strcpy(request.ifr_name, "none");
    SAY(ioctl(fd, SIOCGIFFLAGS, &request));
    SAY(ioctl(fd, TCGETS, &request));
    struct ifreq found[20];
    struct ifconf list = {.ifc_len = -1};
    SAY(ioctl(fd, SIOCGIFCONF, &list));
    SAY(list.ifc_len >= (int)sizeof *found);
    list = (struct ifconf){.ifc_len = sizeof found, .ifc_req = found};
    SAY(ioctl(fd, SIOCGIFCONF, &list));
    SAY(list.ifc_len >= (int)sizeof *found && !strcmp(found[0].ifr_name, "lo"));
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    signal(SIGPIPE, SIG_IGN);
    pairs(SOCK_STREAM);
    pairs(SOCK_DGRAM);
    pairs(SOCK_SEQPACKET);
    files_through_sockets();
    tcp();
    without_waiting();
    tcp6();
    udp();
    unix_names();
    interfaces();
    return 0;
}
