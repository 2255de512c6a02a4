/* All descriptors are in use: every way to get one says so, leaves nothing behind, and works again afterwards. */
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include "directory.h"

#define FILES_MAX 40

static int lowest(void)
{
    int fd = dup(0);
    close(fd);
    return fd;
}

static int listener, sender;

static int a_file(void) { return open("file", O_RDWR | O_CREAT, 0600); }
static int a_folder(void) { return open(".", O_RDONLY | O_DIRECTORY); }
static int a_path(void) { return open(".", O_PATH); }
static int a_new_file(void) { return open(".", O_RDWR | O_TMPFILE, 0600); }
static int a_proc_file(void) { return open("/proc/self/status", O_RDONLY); }
static int a_device(void) { return open("/dev/null", O_RDWR); }
static int a_terminal(void) { return open("/dev/ptmx", O_RDWR | O_NOCTTY); }
static int a_socket(void) { return socket(AF_INET, SOCK_STREAM, 0); }
static int a_unix_socket(void) { return socket(AF_UNIX, SOCK_DGRAM, 0); }
static int an_epoll(void) { return epoll_create1(0); }
static int an_eventfd(void) { return eventfd(0, 0); }
static int a_timerfd(void) { return timerfd_create(CLOCK_MONOTONIC, 0); }
static int an_inotify(void) { return inotify_init1(0); }
static int a_memfd(void) { return memfd_create("m", 0); }
static int a_copy(void) { return dup(0); }
static int a_high_copy(void) { return fcntl(0, F_DUPFD_CLOEXEC, 5); }
static int a_pidfd(void) { return (int)syscall(SYS_pidfd_open, getpid(), 0); }

static int a_signalfd(void)
{
    sigset_t none;
    sigemptyset(&none);
    return signalfd(-1, &none, 0);
}

static int a_pair(int made, int *ends)
{
    return made ? -1 : ends[0] < ends[1] ? ends[0] : ends[1];
}

static int a_pipe(void)
{
    int ends[2];
    return a_pair(pipe(ends), ends);
}

static int a_socket_pair(void)
{
    int ends[2];
    return a_pair(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), ends);
}

/* A connection that waits and cannot be accepted goes on waiting. */
static int an_accepted(void)
{
    return accept(listener, 0, 0);
}

/* A descriptor that has been passed and does not fit is lost; the message says so. */
static int a_passed(void)
{
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec vector = { &byte, 1 };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    if (sendmsg(sender, &message, 0) != 1)
        return -1;
    struct msghdr got = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    if (recvmsg(sender + 1, &got, 0) != 1)
        return -1;
    part = CMSG_FIRSTHDR(&got);
    if (part)
        return *(int *)CMSG_DATA(part);
    errno = got.msg_flags & MSG_CTRUNC ? EMFILE : EPROTO;
    return -1;
}

static void exhaust(const char *name, int (*make)(void))
{
    int before = lowest(), made = 0, fd;
    while ((fd = make()) >= 0 && made < 1000)
        made++;
    int error = errno;
    /* With two at once there may be one place left. */
    int left = 0;
    while (dup(0) >= 0)
        left++;
    close_range(before, ~0U, 0);
    int again = make();
    printf("%s: %s, made %d, left %d, again %d\n", name, strerrorname_np(error), made, left, again == before);
    close_range(before, ~0U, 0);
}

int main(void)
{
    fresh_directory();
    int low = open("/dev/null", O_RDWR);
    dup2(low, 0);
    close_range(3, ~0U, 0);
    struct rlimit most = { FILES_MAX, FILES_MAX };
    SAY(setrlimit(RLIMIT_NOFILE, &most));
    struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "socket" };
    int ends[2];
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SAY(bind(listener, (struct sockaddr *)&name, sizeof name));
    SAY(listen(listener, 100));
    SAY(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends));
    sender = ends[0];
    exhaust("file", a_file);
    exhaust("folder", a_folder);
    exhaust("path", a_path);
    exhaust("new file", a_new_file);
    exhaust("proc file", a_proc_file);
    exhaust("device", a_device);
    exhaust("terminal", a_terminal);
    exhaust("socket", a_socket);
    exhaust("unix socket", a_unix_socket);
    exhaust("epoll", an_epoll);
    exhaust("eventfd", an_eventfd);
    exhaust("timerfd", a_timerfd);
    exhaust("signalfd", a_signalfd);
    exhaust("inotify", an_inotify);
    exhaust("memfd", a_memfd);
    exhaust("copy", a_copy);
    exhaust("high copy", a_high_copy);
    exhaust("pidfd", a_pidfd);
    exhaust("pipe", a_pipe);
    exhaust("socket pair", a_socket_pair);
    exhaust("passed", a_passed);
    for (int i = 0; i < 80; i++) {
        int client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(client, (struct sockaddr *)&name, sizeof name))
            printf("connection %d: %s\n", i, strerrorname_np(errno));
        close(client);
    }
    exhaust("accepted", an_accepted);
    int rest = 0;
    while (close(accept(listener, 0, 0)) == 0)
        rest++;
    SHOW("connections that had not been taken", "%d", rest);

    /* What cannot be opened is neither made nor cut off. */
    int content = open("content", O_RDWR | O_CREAT, 0600);
    SAY(write(content, "content", 7));
    while (dup(0) >= 0) { }
    SAY(open("made", O_RDWR | O_CREAT, 0600));
    SAY(access("made", F_OK));
    SAY(open("content", O_RDWR | O_TRUNC));
    SAY(open("nothing", O_RDWR));
    SAY(open("", O_RDWR));
    SAY(accept(0, 0, 0));
    SAY(accept(listener, 0, 0));
    SAY(accept(sender, 0, 0));
    struct stat status_of_content;
    SAY(fstat(content, &status_of_content));
    SHOW("size", "%ld", (long)status_of_content.st_size);

    /* A child has them all too, and frees its own only. */
    while (dup(0) >= 0) { }
    pid_t child = fork();
    if (!child) {
        int full = dup(0) == -1 && errno == EMFILE;
        close(20);
        _exit(full && dup(0) == 20 ? 7 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    SHOW("child", "%d", WEXITSTATUS(status));
    SAY(dup(0));
    /* What holds is the limit of the moment, for numbers, not for what is open. */
    most.rlim_cur = 10;
    SAY(setrlimit(RLIMIT_NOFILE, &most));
    close(30);
    SAY(dup(0));
    close(8);
    SAY(dup(0));
    SAY(dup2(0, 10));
    SAY(dup2(0, 35));
    SAY(fcntl(35, F_GETFD));
    most.rlim_cur = 0;
    SAY(setrlimit(RLIMIT_NOFILE, &most));
    SAY(dup(0));
    SAY(open(".", O_RDONLY));
    SAY(fcntl(0, F_DUPFD, 0));
    SAY(fcntl(0, F_DUPFD, 50));
    return 0;
}
