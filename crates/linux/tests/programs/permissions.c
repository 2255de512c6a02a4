/* Who may do what to files: root, owner, group, others; set-id and sticky bits; times; extended attributes. */
#include "directory.h"
#include <grp.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <signal.h>
#include <utime.h>

static void mode(const char *path)
{
    struct stat status;
    if (lstat(path, &status))
        TELL("%s: %s", path, strerrorname_np(errno));
    else
        TELL("%s: mode %o owner %d:%d", path, status.st_mode, status.st_uid, status.st_gid);
}

static void become(int uid, int gid)
{
    if (seteuid(0) || setegid(gid) || seteuid(uid))
        abort();
}

static void files(void)
{
    close(open("secret", O_CREAT | O_RDWR, 0600));
    close(open("shared", O_CREAT | O_RDWR, 0640));
    close(open("program", O_CREAT | O_RDWR, 0644));
    mkdir("closed", 0700);
    mkdir("listed", 0744);
    mkdir("passed", 0711);
    close(open("passed/file", O_CREAT | O_RDWR, 0644));
    close(open("closed/file", O_CREAT | O_RDWR, 0644));
    SAY(chown("shared", 0, 100));
    SAY(access("program", X_OK));
    SAY(chmod("program", 0001));
    SAY(access("program", X_OK));
    become(1000, 1000);
    SAY(open("secret", O_RDONLY));
    SAY(open("secret", O_WRONLY));
    SAY(open("shared", O_RDONLY));
    SAY(open("passed/file", O_RDONLY) >= 0);
    SAY(open("passed/file", O_WRONLY));
    SAY(open("passed", O_RDONLY));
    SAY(open("listed", O_RDONLY) >= 0);
    SAY(open("closed/file", O_RDONLY));
    SAY(open("closed/../secret", O_RDONLY));
    SAY(stat("closed/missing", &(struct stat){}));
    SAY(chdir("closed"));
    SAY(chdir("listed"));
    SAY(open("new", O_CREAT | O_WRONLY, 0600));
    SAY(mkdir("new", 0700));
    SAY(symlink("a", "new"));
    SAY(link("program", "new"));
    SAY(unlink("secret"));
    SAY(rename("secret", "new"));
    SAY(rmdir("closed"));
    SAY(chmod("secret", 0644));
    SAY(chown("secret", 1000, 1000));
    SAY(truncate("secret", 0));
    SAY(truncate("passed/file", 0));
    SAY(mknod("fifo", S_IFIFO | 0600, 0));
    SAY(utimes("secret", NULL));
    struct timeval times[2] = {{1, 0}, {2, 0}};
    SAY(utimes("program", times));
    SAY(utimes("program", NULL));
    /* access asks for the real user. */
    SAY(access("secret", R_OK | W_OK));
    SAY(faccessat(AT_FDCWD, "secret", R_OK, AT_EACCESS));
    SAY(open("passed/file", O_RDONLY | O_NOATIME));
    become(1000, 100);
    SAY(open("shared", O_RDONLY) >= 0);
    SAY(open("shared", O_WRONLY));
    become(0, 0);
    gid_t groups[] = {100, 200};
    SAY(setgroups(2, groups));
    become(1000, 1000);
    SAY(open("shared", O_RDONLY) >= 0);
    become(0, 0);
    SAY(setgroups(0, NULL));
}

static void set_ids(void)
{
    mkdir("group", 0777);
    chown("group", 0, 300);
    SAY(chmod("group", 02777));
    SAY(mkdir("group/sub", 0755));
    close(open("group/file", O_CREAT | O_RDWR, 0644));
    mode("group/sub");
    mode("group/file");
    close(open("own", O_CREAT | O_RDWR, 0644));
    SAY(chmod("own", 06777));
    mode("own");
    SAY(chown("own", 1000, 1000));
    mode("own");
    SAY(chmod("own", 06777));
    SAY(chown("own", 1000, 300));
    SAY(chmod("own", 06767));
    SAY(chown("own", 1000, 300));
    mode("own");
    SAY(chmod("own", 06777));
    become(1000, 1000);
    int fd = open("own", O_WRONLY);
    SAY(write(fd, "x", 1));
    mode("own");
    SAY(chmod("own", 06755));
    mode("own");
    SAY(chown("own", 1000, 300));
    SAY(chown("own", 1000, 1000));
    mode("own");
    SAY(chmod("own", 06755));
    mode("own");
    SAY(ftruncate(fd, 0));
    mode("own");
    SAY(chown("own", 0, -1));
    SAY(chown("own", -1, -1));
    SAY(chmod("own", 0));
    SAY(open("own", O_RDONLY));
    SAY(write(fd, "x", 1));
    SAY(fchmod(fd, 0600));
    close(fd);
    SAY(mkdir("group/mine", 0755));
    mode("group/mine");
    become(0, 0);
}

static void sticky(void)
{
    mkdir("sticky", 0777);
    SAY(chmod("sticky", 01777));
    close(open("sticky/roots", O_CREAT | O_RDWR, 0666));
    become(1000, 1000);
    SAY(close(open("sticky/mine", O_CREAT | O_RDWR, 0666)));
    SAY(unlink("sticky/roots"));
    SAY(rename("sticky/roots", "sticky/other"));
    SAY(rename("sticky/mine", "sticky/roots"));
    SAY(rename("sticky/mine", "sticky/mine2"));
    become(1001, 1001);
    SAY(unlink("sticky/mine2"));
    SAY(symlink("roots", "sticky/link"));
    SAY(mkdir("sticky/dir", 0755));
    become(1000, 1000);
    SAY(rmdir("sticky/dir"));
    SAY(open("sticky/link", O_RDONLY));
    SAY(readlink("sticky/link", (char[9]){}, 9));
    SAY(unlink("sticky/mine2"));
    become(0, 0);
    SAY(open("sticky/link", O_RDONLY));
    SAY(rename("sticky/dir", "sticky/dir2"));
    mkdir("open", 0777);
    chmod("open", 0777);
    mkdir("open/fixed", 0755);
    mkdir("open/to", 0777);
    chmod("open/to", 0777);
    become(1000, 1000);
    SAY(rename("open/fixed", "open/same_parent"));
    SAY(rename("open/same_parent", "open/to/other_parent"));
    become(0, 0);
}

static void file_ids(void)
{
    int uid = setfsuid(1000), gid = setfsgid(1000);
    TELL("before %d %d, now %d %d", uid, gid, setfsuid(-1), setfsgid(-1));
    SAY(open("secret", O_RDONLY));
    SAY(access("secret", R_OK));
    SAY(setfsuid(0));
    setfsgid(0);
    SAY(open("secret", O_RDONLY) >= 0);
    become(1000, 1000);
    SAY(setfsuid(5));
    SAY(setfsuid(-1));
    SAY(setfsuid(0));
    SAY(setfsuid(-1));
    become(0, 0);
}

static void times(void)
{
    struct stat before, after;
    struct timespec specs[2] = {{5, 6}, {7, 8}};
    close(open("times", O_CREAT | O_RDWR, 0666));
    chmod("times", 0666);
    stat("times", &before);
    usleep(20000);
    SAY(utimensat(AT_FDCWD, "times", specs, 0));
    stat("times", &after);
    TELL("%ld.%ld %ld.%ld changed %d", (long)after.st_atim.tv_sec, after.st_atim.tv_nsec, (long)after.st_mtim.tv_sec,
         after.st_mtim.tv_nsec, after.st_ctim.tv_sec != before.st_ctim.tv_sec || after.st_ctim.tv_nsec != before.st_ctim.tv_nsec);
    become(1000, 1000);
    SAY(utimensat(AT_FDCWD, "times", specs, 0));
    SAY(utimensat(AT_FDCWD, "times", NULL, 0));
    specs[0].tv_nsec = UTIME_NOW;
    SAY(utimensat(AT_FDCWD, "times", specs, 0));
    specs[1].tv_nsec = UTIME_NOW;
    SAY(utimensat(AT_FDCWD, "times", specs, 0));
    specs[0].tv_nsec = UTIME_OMIT;
    SAY(utimensat(AT_FDCWD, "times", specs, 0));
    specs[1].tv_nsec = UTIME_OMIT;
    SAY(utimensat(AT_FDCWD, "missing", specs, 0));
    SAY(utimensat(AT_FDCWD, "times", specs, 0));
    become(0, 0);
    SAY(symlink("times", "symlink"));
    specs[0] = specs[1] = (struct timespec){77, 0};
    SAY(utimensat(AT_FDCWD, "symlink", specs, AT_SYMLINK_NOFOLLOW));
    lstat("symlink", &after);
    TELL("link %ld", (long)after.st_mtim.tv_sec);
    stat("times", &after);
    TELL("target is newer: %d", after.st_mtim.tv_sec > 1000);
}

static void sizes(void)
{
    struct rlimit limit = {1000, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    int fd = open("limited", O_CREAT | O_RDWR, 0600);
    SAY(setrlimit(RLIMIT_FSIZE, &limit));
    SAY(pwrite(fd, "x", 1, 1000));
    SAY(pwrite(fd, "abcdef", 6, 997));
    SAY(pwrite(fd, "", 0, 2000));
    SAY(ftruncate(fd, 1001));
    SAY(ftruncate(fd, 1000));
    SAY(fallocate(fd, 0, 900, 200));
    SAY(truncate("limited", 5000));
    limit.rlim_cur = RLIM_INFINITY;
    SAY(setrlimit(RLIMIT_FSIZE, &limit));
    SAY(ftruncate(fd, 5000));
}

int main(void)
{
    fresh_directory();
    files();
    set_ids();
    sticky();
    file_ids();
    times();
    sizes();
    return 0;
}
