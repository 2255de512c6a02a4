/* epoll, poll and select: rules of EPOLLEXCLUSIVE, edges and one-shots over sockets, nesting, limits. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* What the compiler would warn about if it saw it. */
static volatile long minus_one = -1;
static void *volatile nowhere;

static int control(int epoll, int operation, int fd, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(epoll, operation, fd, &event);
}

static int wait_now(int epoll, unsigned *events)
{
    struct epoll_event found[4];
    int count = epoll_wait(epoll, found, 4, 0);
    *events = count > 0 ? found[0].events : 0;
    return count;
}

static void rules(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), inner = epoll_create(1), event = eventfd(0, 0), file;
    unsigned got;
    printf("-- rules\n");
    SAY(fcntl(epoll, F_GETFD));
    SAY(epoll_create(0));
    SAY(epoll_create1(1));
    SAY(control(epoll, EPOLL_CTL_ADD, event, EPOLLIN | EPOLLEXCLUSIVE));
    SAY(control(epoll, EPOLL_CTL_MOD, event, EPOLLIN));
    SAY(control(epoll, EPOLL_CTL_DEL, event, 0));
    SAY(control(epoll, EPOLL_CTL_ADD, event, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT));
    SAY(control(epoll, EPOLL_CTL_ADD, event, EPOLLIN | EPOLLEXCLUSIVE | EPOLLRDHUP));
    SAY(control(epoll, EPOLL_CTL_ADD, inner, EPOLLIN | EPOLLEXCLUSIVE));
    SAY(control(epoll, EPOLL_CTL_ADD, event, EPOLLIN));
    SAY(control(epoll, EPOLL_CTL_MOD, event, EPOLLIN | EPOLLEXCLUSIVE));
    SAY(control(epoll, EPOLL_CTL_ADD, event, EPOLLIN));
    SAY(control(epoll, 9, event, EPOLLIN));
    SAY(control(epoll, EPOLL_CTL_MOD, 0, EPOLLIN) < 0);
    SAY(control(epoll, EPOLL_CTL_ADD, epoll, EPOLLIN));
    SAY(control(epoll, EPOLL_CTL_ADD, -1, EPOLLIN));
    SAY(control(event, EPOLL_CTL_ADD, epoll, EPOLLIN));
    file = open("/proc/self/exe", O_RDONLY);
    SAY(control(epoll, EPOLL_CTL_ADD, file, EPOLLIN));
    close(file);
    struct epoll_event found;
    SAY(epoll_wait(epoll, &found, 0, 0));
    SAY(epoll_wait(epoll, &found, minus_one, 0));
    SAY(epoll_wait(event, &found, 1, 0));
    SAY(epoll_wait(epoll, &found, 1, 0));
    SAY(eventfd_write(event, 1));
    SAY(epoll_wait(epoll, nowhere, 1, 0));
    SAY(wait_now(epoll, &got));
    SAY(got);
    SAY(read(epoll, &found, 10));
    SAY(control(inner, EPOLL_CTL_ADD, epoll, EPOLLIN));
    SAY(control(epoll, EPOLL_CTL_ADD, inner, EPOLLIN));
    SAY(wait_now(inner, &got));
    eventfd_t value;
    SAY(eventfd_read(event, &value));
    SAY(wait_now(inner, &got));
    close(event);
    SAY(wait_now(epoll, &got));
    close(epoll), close(inner);
}

static void edges(void)
{
    int ends[2], epoll = epoll_create1(0);
    unsigned got;
    char bytes[10];
    printf("-- edges\n");
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    SAY(control(epoll, EPOLL_CTL_ADD, ends[0], EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET));
    SAY(wait_now(epoll, &got));
    SAY(got);
    SAY(wait_now(epoll, &got));
    SAY(write(ends[1], "ab", 2));
    SAY(wait_now(epoll, &got));
    SAY(got);
    SAY(read(ends[0], bytes, 1));
    SAY(wait_now(epoll, &got));
    SAY(control(epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLET));
    SAY(wait_now(epoll, &got));
    SAY(control(epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLONESHOT));
    SAY(wait_now(epoll, &got));
    SAY(wait_now(epoll, &got));
    SAY(write(ends[1], "c", 1));
    SAY(wait_now(epoll, &got));
    SAY(control(epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLONESHOT));
    SAY(wait_now(epoll, &got));
    SAY(control(epoll, EPOLL_CTL_MOD, ends[0], EPOLLRDHUP));
    SAY(wait_now(epoll, &got));
    SAY(shutdown(ends[1], SHUT_WR));
    SAY(wait_now(epoll, &got));
    SAY(got);
    close(ends[1]);
    SAY(wait_now(epoll, &got));
    SAY(got);
    SAY(control(epoll, EPOLL_CTL_MOD, ends[0], 0));
    SAY(wait_now(epoll, &got));
    SAY(got);
    int again = dup(ends[0]);
    close(ends[0]);
    SAY(wait_now(epoll, &got));
    SAY(control(epoll, EPOLL_CTL_DEL, ends[0], 0));
    close(again);
    SAY(wait_now(epoll, &got));
    close(epoll);
}

static void polls(void)
{
    int ends[2], event = eventfd(0, 0), timer = timerfd_create(CLOCK_MONOTONIC, 0), file;
    printf("-- polls\n");
    pipe(ends);
    file = open("/proc/self/exe", O_RDONLY);
    struct pollfd all[6] = {{ends[0], POLLIN}, {ends[1], POLLOUT}, {event, POLLIN | POLLOUT}, {timer, POLLIN}, {file, POLLIN | POLLOUT}, {-5, POLLIN}};
    SAY(poll(all, 6, 0));
    for (int i = 0; i < 6; i++)
        SAY(all[i].revents);
    all[5].fd = 999;
    SAY(poll(all, 6, 0));
    SAY(all[5].revents);
    close(ends[0]);
    all[0].fd = -1;
    SAY(poll(all, 2, 0));
    SAY(all[1].revents);
    SAY(poll(NULL, 0, 1));
    SAY(poll(nowhere, 1, 0));
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    SAY(poll(all, minus_one, 0));
    struct timespec bad = {0, 1000000000}, none = {0, 0};
    SAY(ppoll(all, 1, &bad, NULL));
    SAY(ppoll(all, 1, &none, NULL));
    fd_set read, write;
    FD_ZERO(&read);
    FD_ZERO(&write);
    FD_SET(event, &read);
    FD_SET(event, &write);
    FD_SET(ends[1], &write);
    struct timeval now = {0, 0}, wrong = {-1, 0};
    SAY(select(20, &read, &write, NULL, &now));
    SAY(FD_ISSET(event, &read));
    SAY(FD_ISSET(event, &write));
    SAY(FD_ISSET(ends[1], &write));
    SAY(select(20, &read, NULL, NULL, &wrong));
    SAY(select(-1, &read, NULL, NULL, &now));
    FD_SET(19, &read);
    SAY(select(20, &read, NULL, NULL, &now));
    SAY(select(0, NULL, NULL, NULL, &now));
    close(ends[1]), close(event), close(timer), close(file);
}

int main(void)
{
    rules();
    edges();
    polls();
}
