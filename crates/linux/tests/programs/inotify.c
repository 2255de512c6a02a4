/* inotify: which events come, in which order, with which names and cookies, and when watches end. */
#include "directory.h"
#include <dirent.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

static int watcher;

static void names(char *text, unsigned mask)
{
    static const char *const bits[] = {"ACCESS", "MODIFY", "ATTRIB", "CLOSE_WRITE", "CLOSE_NOWRITE", "OPEN", "MOVED_FROM",
        "MOVED_TO", "CREATE", "DELETE", "DELETE_SELF", "MOVE_SELF", "0x1000", "UNMOUNT", "Q_OVERFLOW", "IGNORED"};
    *text = 0;
    for (unsigned i = 0; i < 16; i++)
        if (mask >> i & 1)
            strcat(strcat(text, *text ? "|" : ""), bits[i]);
    if (mask & IN_ISDIR)
        strcat(text, "|ISDIR");
}

static void events(const char *what)
{
    static char buffer[1 << 16] __attribute__((aligned(8)));
    static unsigned first_cookie;
    ssize_t length;
    printf("%s:\n", what);
    while ((length = read(watcher, buffer, sizeof buffer)) > 0)
        for (char *at = buffer; at < buffer + length;) {
            struct inotify_event *event = (void *)at;
            char text[200];
            names(text, event->mask);
            if (event->cookie && !first_cookie)
                first_cookie = event->cookie;
            printf("  watch %d %s %s", event->wd, text, event->len ? event->name : "-");
            if (event->cookie)
                printf(" cookie %u", event->cookie - first_cookie);
            printf(" length %u\n", event->len);
            at += sizeof *event + event->len;
        }
}

static void everything(void)
{
    char byte;
    SAY(mkdir("d", 0755));
    SAY(inotify_add_watch(watcher, "d", IN_ALL_EVENTS));
    int fd = open("d/file", O_CREAT | O_RDWR, 0644);
    events("created");
    SAY(write(fd, "x", 1));
    SAY(write(fd, "y", 1));
    events("written twice");
    SAY(pread(fd, &byte, 1, 0));
    SAY(pread(fd, &byte, 1, 100));
    events("read");
    SAY(ftruncate(fd, 10));
    SAY(fchmod(fd, 0600));
    events("truncated, mode changed");
    SAY(inotify_add_watch(watcher, "d/file", IN_ALL_EVENTS));
    SAY(write(fd, "x", 1));
    events("written, both watched");
    SAY(close(fd));
    events("closed");
    close(open("d/file", O_RDONLY));
    events("opened for reading");
    close(open("d/file", O_WRONLY | O_TRUNC));
    events("opened with truncation");
    SAY(chmod("d/file", 0644));
    SAY(setxattr("d/file", "user.a", "x", 1, 0));
    SAY(truncate("d/file", 5));
    events("by path");
    SAY(link("d/file", "d/second"));
    events("linked");
    SAY(unlink("d/second"));
    events("unlinked one of two");
    SAY(rename("d/file", "d/renamed"));
    events("renamed");
    SAY(rename("d/renamed", "outside"));
    events("moved out");
    SAY(rename("outside", "d/back"));
    events("moved in");
    SAY(close(open("d/other", O_CREAT | O_WRONLY, 0600)));
    events("another");
    SAY(rename("d/other", "d/back"));
    events("renamed over the watched");
    SAY(inotify_add_watch(watcher, "d/back", IN_DELETE_SELF | IN_ATTRIB));
    fd = open("d/back", O_RDONLY);
    events("opened");
    SAY(unlink("d/back"));
    events("unlinked while open");
    SAY(close(fd));
    events("closed for good");
    SAY(mkdir("d/sub", 0755));
    SAY(inotify_add_watch(watcher, "d/sub", IN_ALL_EVENTS));
    events("directory made");
    DIR *directory = opendir("d/sub");
    events("directory opened");
    readdir(directory);
    events("directory read");
    closedir(directory);
    events("directory closed");
    SAY(rename("d/sub", "d/sub2"));
    events("directory renamed");
    SAY(symlink("x", "d/link"));
    SAY(mkfifo("d/fifo", 0600));
    events("link and fifo");
    SAY(rmdir("d/sub2"));
    events("directory removed");
    SAY(unlink("d/link"));
    SAY(unlink("d/fifo"));
    events("removed");
    SAY(rmdir("d"));
    events("the watched directory removed");
}

static void masks(void)
{
    SAY(mkdir("m", 0755));
    int wd = inotify_add_watch(watcher, "m", IN_CREATE);
    SAY(inotify_add_watch(watcher, "m", IN_DELETE) == wd);
    SAY(close(open("m/a", O_CREAT | O_WRONLY, 0600)));
    events("mask replaced");
    SAY(inotify_add_watch(watcher, "m", IN_CREATE | IN_MASK_ADD) == wd);
    SAY(close(open("m/b", O_CREAT | O_WRONLY, 0600)));
    SAY(unlink("m/b"));
    events("mask added");
    SAY(inotify_add_watch(watcher, "m", IN_CREATE | IN_MASK_CREATE));
    SAY(inotify_rm_watch(watcher, wd));
    events("removed");
    SAY(inotify_rm_watch(watcher, wd));
    SAY(inotify_add_watch(watcher, "m", IN_CREATE | IN_ONESHOT) > wd);
    SAY(mkdir("m/c", 0755));
    SAY(mkdir("m/d", 0755));
    events("one shot");
    SAY(inotify_add_watch(watcher, "m/a", IN_OPEN | IN_ONLYDIR));
    SAY(symlink("a", "m/link"));
    SAY(inotify_add_watch(watcher, "m/link", IN_OPEN | IN_DONT_FOLLOW) > 0);
    SAY(inotify_add_watch(watcher, "m/link", IN_OPEN) > 0);
    SAY(close(open("m/link", O_RDONLY)));
    events("through a link");
    SAY(inotify_add_watch(watcher, "missing", IN_OPEN));
    SAY(inotify_add_watch(watcher, "m", 0));
    SAY(inotify_add_watch(0, "m", IN_OPEN));
    SAY(inotify_add_watch(99, "m", IN_OPEN));
    SAY(inotify_rm_watch(watcher, 12345));
    SAY(inotify_init1(1));
    chmod("m/a", 0);
    if (seteuid(1000))
        abort();
    SAY(inotify_add_watch(watcher, "m/a", IN_OPEN));
    if (seteuid(0))
        abort();
}

static void waiting(void)
{
    int waiting, epoll = epoll_create1(0);
    char small[8];
    struct epoll_event event = {.events = EPOLLIN};
    struct pollfd entry = {watcher, POLLIN | POLLOUT, 0};
    SAY(mkdir("w", 0755));
    SAY(inotify_add_watch(watcher, "w", IN_CREATE) > 0);
    SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, watcher, &event));
    SAY(epoll_wait(epoll, &event, 1, 0));
    SAY(poll(&entry, 1, 0));
    SAY(read(watcher, small, sizeof small));
    SAY(mkdir("w/a", 0755));
    SAY(epoll_wait(epoll, &event, 1, 1000));
    SAY(poll(&entry, 1, 0));
    TELL("%x", entry.revents);
    SAY(ioctl(watcher, FIONREAD, &waiting));
    TELL("waiting %d", waiting);
    SAY(read(watcher, small, sizeof small));
    SAY(write(watcher, small, sizeof small));
    SAY(lseek(watcher, 0, SEEK_SET));
    events("after all");
}

int main(void)
{
    fresh_directory();
    watcher = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    everything();
    masks();
    waiting();
    return 0;
}
