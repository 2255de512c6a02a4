/* Waiting: pipes, eventfd, timerfd, poll, select, epoll (level, edge, one-shot, nested), from several threads. */
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];

static long milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void pipes(void)
{
    int ends[2], waiting;
    pipe2(ends, O_NONBLOCK);
    SAY(read(ends[0], buffer, 10));
    SAY(write(ends[1], buffer, 100000));
    SAY(write(ends[1], buffer, 1));
    SAY(ioctl(ends[0], FIONREAD, &waiting));
    SAY(waiting);
    SAY(read(ends[0], buffer, 4095));
    SAY(write(ends[1], buffer, 4096));
    SAY(read(ends[0], buffer, 1));
    SAY(write(ends[1], buffer, 4096));
    SAY(write(ends[0], buffer, 1));
    SAY(read(ends[1], buffer, 1));
    SAY(lseek(ends[0], 0, SEEK_SET));
    SAY(pread(ends[0], buffer, 1, 0));
    SAY(fcntl(ends[0], F_GETPIPE_SZ));
    close(ends[0]);
    SAY(write(ends[1], buffer, 1));
    close(ends[1]);
    pipe(ends);
    close(ends[1]);
    SAY(read(ends[0], buffer, 1));
    close(ends[0]);
    SAY(pipe2(ends, 12345));
    SAY(ioctl(0, TCGETS, buffer));
}

static void *write_slowly(void *argument)
{
    int fd = (int)(long)argument;
    for (int i = 0; i < 5; i++) {
        usleep(2000);
        write(fd, "tick", 4);
    }
    close(fd);
    return NULL;
}

static void *read_all(void *argument)
{
    long total = 0, count;
    while ((count = read((int)(long)argument, buffer, sizeof buffer)) > 0)
        total += count;
    return (void *)total;
}

static void blocking(void)
{
    int ends[2];
    pthread_t thread;
    long total = 0, count;
    void *result;
    char small[16];
    pipe(ends);
    pthread_create(&thread, NULL, write_slowly, (void *)(long)ends[1]);
    while ((count = read(ends[0], small, sizeof small)) > 0)
        total += count;
    pthread_join(thread, NULL);
    SAY(total);
    pipe(ends);
    pthread_create(&thread, NULL, read_all, (void *)(long)ends[0]);
    static char big[1 << 20];
    for (total = 0; total < (long)sizeof big; total += count)
        count = write(ends[1], big + total, sizeof big - total);
    close(ends[1]);
    pthread_join(thread, &result);
    SAY((long)result);
}

static void polling(void)
{
    int ends[2];
    pipe(ends);
    struct pollfd polled[] = {{ends[0], POLLIN, 0}, {ends[1], POLLOUT, 0}, {-1, POLLIN, 7}, {999, POLLIN, 0}};
    SAY(poll(polled, 4, 0));
    printf("%x %x %x %x\n", polled[0].revents, polled[1].revents, polled[2].revents, polled[3].revents);
    SAY(poll(polled, 1, 20));
    pthread_t thread;
    long started = milliseconds();
    pthread_create(&thread, NULL, write_slowly, (void *)(long)dup(ends[1]));
    SAY(poll(polled, 1, 5000));
    SAY(milliseconds() - started < 1000);
    pthread_join(thread, NULL);
    close(ends[1]);
    SAY(poll(polled, 1, -1));
    printf("%x\n", polled[0].revents);
    read(ends[0], buffer, sizeof buffer);
    SAY(poll(polled, 1, -1));
    printf("%x\n", polled[0].revents);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    struct timeval timeout = {0, 20000};
    SAY(select(ends[0] + 1, &set, NULL, NULL, &timeout));
    SAY(FD_ISSET(ends[0], &set));
    FD_ZERO(&set);
    started = milliseconds();
    timeout.tv_usec = 20000;
    timeout.tv_sec = 0;
    SAY(select(0, NULL, NULL, NULL, &timeout));
    SAY(milliseconds() - started >= 19);
    FD_SET(40, &set);
    SAY(select(41, &set, NULL, NULL, NULL));
    unsigned long too_many = 1 << 24;
    SAY(poll(polled, too_many, 0));
    close(ends[0]);
}

static void wait_events(int epoll, int timeout)
{
    struct epoll_event events[10];
    int count = epoll_wait(epoll, events, 10, timeout);
    printf("%d:", count);
    for (int i = 0; i < count; i++)
        printf(" %x/%ld", events[i].events, (long)events[i].data.u64);
    printf("\n");
}

static void control(int epoll, int operation, int fd, unsigned events, long data)
{
    struct epoll_event event = {events, {.u64 = data}};
    errno = 0;
    int result = epoll_ctl(epoll, operation, fd, &event);
    printf("ctl %d %x = %d %s\n", operation, events, result, result ? strerrorname_np(errno) : "");
}

static void epolling(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), ends[2], event = eventfd(0, EFD_NONBLOCK);
    pipe(ends);
    control(epoll, EPOLL_CTL_ADD, ends[0], EPOLLIN, 1);
    control(epoll, EPOLL_CTL_ADD, ends[0], EPOLLIN, 1);
    control(epoll, EPOLL_CTL_MOD, event, EPOLLIN, 1);
    control(epoll, EPOLL_CTL_DEL, event, 0, 0);
    control(epoll, EPOLL_CTL_ADD, epoll, EPOLLIN, 1);
    control(epoll, EPOLL_CTL_ADD, open("/etc/passwd", O_RDONLY), EPOLLIN, 1);
    control(epoll, EPOLL_CTL_ADD, 999, EPOLLIN, 1);
    control(epoll, 77, event, EPOLLIN, 1);
    wait_events(epoll, 0);
    write(ends[1], "x", 1);
    wait_events(epoll, -1);
    wait_events(epoll, -1);
    control(epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLET, 2);
    wait_events(epoll, 10);
    wait_events(epoll, 10);
    write(ends[1], "x", 1);
    wait_events(epoll, 10);
    wait_events(epoll, 10);
    control(epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLONESHOT, 3);
    wait_events(epoll, 10);
    wait_events(epoll, 10);
    control(epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN, 4);
    wait_events(epoll, 10);
    int outer = epoll_create1(0);
    control(outer, EPOLL_CTL_ADD, epoll, EPOLLIN, 5);
    control(epoll, EPOLL_CTL_ADD, outer, EPOLLIN, 6);
    wait_events(outer, 10);
    read(ends[0], buffer, 10);
    wait_events(outer, 10);
    control(epoll, EPOLL_CTL_ADD, event, EPOLLIN | EPOLLET, 7);
    eventfd_write(event, 1);
    wait_events(outer, -1);
    wait_events(epoll, 10);
    wait_events(epoll, 10);
    eventfd_write(event, 1);
    wait_events(epoll, 10);
    control(epoll, EPOLL_CTL_DEL, event, 0, 0);
    pthread_t thread;
    pthread_create(&thread, NULL, write_slowly, (void *)(long)ends[1]);
    wait_events(epoll, 5000);
    pthread_join(thread, NULL);
    wait_events(epoll, -1);
    close(ends[0]);
    wait_events(epoll, 10);
    SAY(epoll_wait(epoll, NULL, 0, 0));
    SAY(epoll_wait(event, (void *)buffer, 1, 0));
    SAY(epoll_create(0));
}

static void counters(void)
{
    eventfd_t value;
    int event = eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE);
    SAY(eventfd_read(event, &value));
    SAY(eventfd_read(event, &value));
    SAY(eventfd_read(event, &value));
    event = eventfd(0, EFD_NONBLOCK);
    SAY(eventfd_write(event, -2));
    SAY(eventfd_write(event, 1));
    SAY(eventfd_write(event, -1));
    SAY(eventfd_read(event, &value));
    SAY((long)value);
    SAY(read(event, buffer, 4));
    SAY(eventfd(0, 12345));
}

static void timers(void)
{
    struct itimerspec setting = {{0, 5000000}, {0, 10000000}}, old;
    unsigned long count = 0;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    SAY(read(timer, &count, 8));
    SAY(timerfd_settime(timer, 0, &setting, NULL));
    struct pollfd polled = {timer, POLLIN, 0};
    SAY(poll(&polled, 1, 1000));
    SAY(read(timer, &count, 8));
    SAY(count >= 1);
    usleep(30000);
    SAY(read(timer, &count, 8));
    SAY(count >= 4);
    memset(&setting, 0, sizeof setting);
    SAY(timerfd_settime(timer, 0, &setting, &old));
    SAY(old.it_interval.tv_nsec);
    SAY(old.it_value.tv_sec == 0 && old.it_value.tv_nsec <= 5000000);
    SAY(poll(&polled, 1, 20));
    fcntl(timer, F_SETFL, 0);
    setting.it_value.tv_nsec = 10000000;
    timerfd_settime(timer, 0, &setting, NULL);
    SAY(read(timer, &count, 8));
    SAY(count);
    clock_gettime(CLOCK_REALTIME, &setting.it_value);
    int wall = timerfd_create(CLOCK_REALTIME, 0);
    SAY(timerfd_settime(wall, TFD_TIMER_ABSTIME, &setting, NULL));
    SAY(read(wall, &count, 8));
    setting.it_value.tv_nsec = 1000000000;
    SAY(timerfd_settime(wall, 0, &setting, NULL));
    SAY(timerfd_create(99, 0));
    SAY(timerfd_settime(0, 0, &old, NULL));
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    signal(SIGPIPE, SIG_IGN);
    pipes();
    blocking();
    polling();
    epolling();
    counters();
    timers();
    return 0;
}
