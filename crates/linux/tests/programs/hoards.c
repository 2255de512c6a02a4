/* Makes as much of one thing as the system lets it, or as takes a second, and says how much. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char bytes[1 << 16];

static long all_descriptors(int (*make)(void))
{
    long count = 0;
    while (make() >= 0)
        count++;
    return count;
}

static void fill(int fd)
{
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (write(fd, bytes, sizeof bytes) > 0 || write(fd, bytes, 1) > 0)
        ;
}

static int filled_pipe(void)
{
    int ends[2];
    if (pipe(ends))
        return -1;
    fcntl(ends[0], F_SETPIPE_SZ, 1 << 20);
    fill(ends[1]);
    return ends[0];
}

static int filled_sockets(void)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends))
        return -1;
    fill(ends[0]);
    fill(ends[1]);
    return ends[0];
}

static long pass(int socket, const int *descriptors, int count, long bytes_sent)
{
    static char control[CMSG_SPACE(253 * sizeof(int))];
    struct iovec vector = { bytes, bytes_sent };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control };
    struct cmsghdr *part = (struct cmsghdr *)control;
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(count * sizeof(int));
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    memcpy(CMSG_DATA(part), descriptors, count * sizeof(int));
    return sendmsg(socket, &message, MSG_DONTWAIT);
}

/* Descriptors on their way, as many with each message as there may be. */
static int passed_descriptors(void)
{
    static int all[253];
    for (int i = 0; i < 253; i++)
        all[i] = i % 3;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends))
        return -1;
    while (pass(ends[0], all, 253, 1) > 0)
        ;
    return ends[0];
}

/* Sockets on their way in themselves, full, which nobody can reach any more. */
static long unreachable_sockets(void)
{
    long count = 0;
    for (int i = 0; i < 5000; i++) {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
            break;
        count += pass(ends[0], &ends[1], 1, sizeof bytes) > 0;
        count += pass(ends[1], &ends[0], 1, sizeof bytes) > 0;
        close(ends[0]);
        close(ends[1]);
    }
    return count;
}

static long waiting_connections(void)
{
    long count = 0;
    for (int i = 0; i < 20; i++) {
        struct sockaddr_un name = { .sun_family = AF_UNIX };
        snprintf(name.sun_path + 1, 20, "%d", i);
        int listener = socket(AF_UNIX, SOCK_STREAM, 0);
        if (listener < 0 || bind(listener, (struct sockaddr *)&name, 12) || listen(listener, 4096))
            return count;
        for (;; count++) {
            int client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
            if (client < 0 || connect(client, (struct sockaddr *)&name, 12)) {
                close(client);
                break;
            }
            write(client, bytes, 4096);
            close(client);
        }
    }
    return count;
}

/* Every descriptor watched by every instance, and instances by instances. */
static long watchers(void)
{
    static int instances[100], count;
    long items = 0;
    for (; count < 100; count++)
        instances[count] = epoll_create1(0);
    int event = eventfd(0, 0);
    for (int fd = event; fd < event + 200; fd++)
        dup2(event, fd);
    for (int i = 0; i < count; i++) {
        struct epoll_event wanted = { .events = EPOLLIN };
        for (int fd = event; fd < event + 200; fd++)
            items += epoll_ctl(instances[i], EPOLL_CTL_ADD, fd, &wanted) == 0;
        for (int j = 0; j < 8 && i >= 8; j++)
            epoll_ctl(instances[i], EPOLL_CTL_ADD, instances[j], &wanted);
    }
    static struct pollfd polled[1000];
    for (int i = 0; i < 1000; i++)
        polled[i] = (struct pollfd){ .fd = instances[i % count], .events = POLLIN };
    poll(polled, 1000, 1);
    return items;
}

static long fifos(void)
{
    char path[300] = "/tmp/";
    long count = 0;
    for (; count < 20000; count++) {
        memset(path + 5, 'n', 240);
        sprintf(path + 245, "%ld", count);
        if (mkfifo(path, 0644))
            break;
    }
    for (int i = 0; i < 20; i++) {
        DIR *directory = opendir("/tmp");
        if (directory)
            readdir(directory);
    }
    return count;
}

static long deep_paths(void)
{
    char name[256];
    memset(name, 'd', 255);
    name[255] = 0;
    chdir("/tmp");
    for (int i = 0; i < 400; i++)
        if (mkdir(name, 0755) || chdir(name))
            break;
    long count = 0;
    int fd = 0;
    while ((fd = open("file", O_RDWR | O_CREAT, 0644)) >= 0)
        count++;
    close(100);
    close(101);
    fd = open("file", O_RDWR);
    ftruncate(fd, 1 << 20);
    for (int i = 0; i < 4000; i++)
        mmap(0, 4096, i % 2 ? PROT_READ : PROT_NONE, MAP_SHARED, fd, 0);
    open("/proc/self/maps", O_RDONLY);
    return count;
}

/* A page in every two mebibytes: each needs page tables of its own. They go again before memory is used up. */
static long scattered_pages(void)
{
    long size = 1L << 40, count = 0;
    char *start = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (long at = 0; at + (2 << 20) < size && count < 100000; at += 2 << 20, count++) {
        if (madvise(start + at, 4096, MADV_POPULATE_WRITE))
            break;
        madvise(start + at, 4096, MADV_DONTNEED);
    }
    return count;
}

static void *wait_for_ever(void *unused)
{
    pause();
    return unused;
}

static long threads(void)
{
    long count = 0;
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 16);
    while (!pthread_create(&thread, &attributes, wait_for_ever, 0))
        count++;
    return count;
}

static int system_file(void)
{
    return open("/proc/self/status", O_RDONLY);
}

static int path_only(void)
{
    static int last = 0;
    char path[40];
    sprintf(path, "/proc/self/fd/%d", last);
    int next = open(path, O_PATH);
    if (last > 2)
        close(last);
    last = next;
    static long count;
    return count++ < 20000 ? next : -1;
}

int main(int argc, char **argv)
{
    struct rlimit most = { 4096, 4096 };
    setrlimit(RLIMIT_NOFILE, &most);
    char *what = argv[1];
    long count = -1;
    if (!strcmp(what, "pipes"))
        count = all_descriptors(filled_pipe);
    if (!strcmp(what, "sockets"))
        count = all_descriptors(filled_sockets);
    if (!strcmp(what, "passed"))
        count = all_descriptors(passed_descriptors);
    if (!strcmp(what, "unreachable"))
        count = unreachable_sockets();
    if (!strcmp(what, "connections"))
        count = waiting_connections();
    if (!strcmp(what, "watchers"))
        count = watchers();
    if (!strcmp(what, "fifos"))
        count = fifos();
    if (!strcmp(what, "paths"))
        count = deep_paths();
    if (!strcmp(what, "pages"))
        count = scattered_pages();
    if (!strcmp(what, "threads"))
        count = threads();
    if (!strcmp(what, "proc"))
        count = all_descriptors(system_file);
    if (!strcmp(what, "ways"))
        count = all_descriptors(path_only);
    printf("%s %ld\n", what, count);
    fflush(stdout);
    _exit(0);
}
