/* Path resolution: links, "..", long names, loops, trailing slashes, magic links, and the rules of openat2. */
#include "directory.h"
#include <linux/openat2.h>

static int open2(int directory, const char *path, long flags, long resolve)
{
    struct open_how how = {.flags = flags, .resolve = resolve};
    int fd = syscall(SYS_openat2, directory, path, &how, sizeof how);
    if (fd >= 0)
        close(fd);
    return fd < 0 ? -1 : 0;
}

static void links(void)
{
    mkdir("a", 0755);
    mkdir("a/b", 0755);
    close(open("a/b/file", O_CREAT | O_RDWR, 0644));
    symlink("a/b", "into");
    symlink("into/", "into_slash");
    symlink("a/b/file", "to_file");
    symlink("to_file", "chain");
    symlink("/", "root");
    symlink("..", "up");
    symlink("self", "self");
    symlink("y", "x");
    symlink("x", "y");
    symlink("missing/", "missing_slash");
    symlink("/proc/self/fd/0", "magic");
    for (int i = 0; i < 41; i++) {
        char name[20], target[20];
        snprintf(name, sizeof name, "l%d", i);
        snprintf(target, sizeof target, "l%d", i + 1);
        symlink(i == 40 ? "a" : target, name);
    }
    const char *paths[] = {"into/file", "into_slash/file", "to_file", "chain", "chain/", "to_file/.", "to_file/..",
        "into/../b/file", "a/../a/./b//file", "root/proc/self", "root/../../..", "up/x", "self", "x", "x/y",
        "missing_slash", "missing", "missing/..", "a/missing/..", "a/b/file/..", "a/b/file/x", "l1", "l0", "",
        "/../../proc/self", "//proc//self//", "/proc/self/root/proc/self/cwd/to_file", "/proc/self/cwd/into/file",
        "/proc/self/exe/..", "/proc/self/exe/", "/proc/self/fd/999", "/proc/thread-self/root", "/dev/fd/0/x",
        "/proc/self/root/../../proc"};
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct stat status;
        int followed = stat(paths[i], &status) ? errno : 0;
        int kind = followed ? 0 : (status.st_mode & S_IFMT) >> 12;
        int unfollowed = lstat(paths[i], &status) ? errno : 0;
        TELL("%s: %s %d, %s %d", paths[i], followed ? strerrorname_np(followed) : "ok", kind,
             unfollowed ? strerrorname_np(unfollowed) : "ok", unfollowed ? 0 : (status.st_mode & S_IFMT) >> 12);
    }
}

static void slashes(void)
{
    SAY(mkdir("new/", 0755));
    SAY(rmdir("new/"));
    SAY(mkdir("new/.", 0755));
    SAY(mkdir("new/..", 0755));
    SAY(mkdir("missing_slash", 0755));
    SAY(open("new/", O_CREAT | O_RDWR, 0644));
    SAY(open("new/.", O_CREAT | O_RDWR, 0644));
    SAY(mknod("new/", S_IFREG | 0644, 0));
    SAY(symlink("x", "new/"));
    SAY(link("to_file", "new/"));
    SAY(unlink("to_file/"));
    SAY(unlink("into/"));
    SAY(unlink("a/"));
    SAY(unlink("a/."));
    SAY(unlink("a/.."));
    SAY(rmdir("a/.."));
    SAY(rmdir("a/."));
    SAY(rmdir("into"));
    SAY(rmdir("into/"));
    SAY(rename("a/b/file", "a/b/other/"));
    SAY(rename("a/b/file/", "a/b/other"));
    SAY(rename("a/.", "c"));
    SAY(rename("a", "c/"));
    SAY(rename("c/", "a"));
    SAY(rename("a", "a/b/c"));
    SAY(rename("a/b", "a"));
    SAY(open("to_file", O_RDONLY | O_NOFOLLOW));
    SAY(open("to_file", O_PATH | O_NOFOLLOW) >= 0);
    SAY(open("a/b/file", O_CREAT | O_DIRECTORY | O_RDWR, 0644));
    SAY(open("chain", O_CREAT | O_EXCL | O_RDWR, 0644));
    SAY(readlink("into/", (char[9]){}, 9));
    SAY(readlink("root", (char[9]){}, 9));
    SAY(open("magic", O_PATH) >= 0);
}

static void lengths(void)
{
    char name[300], path[5000];
    memset(name, 'n', 256);
    name[256] = 0;
    SAY(mkdir(name, 0755));
    name[255] = 0;
    SAY(mkdir(name, 0755));
    memset(path, '/', 4096);
    strcpy(path + 4090, "proc");
    SAY(access(path, F_OK));
    memset(path, '/', 4097);
    strcpy(path + 4091, "proc/");
    SAY(access(path, F_OK));
    strcpy(path + 4091, "procx");
    SAY(access(path, F_OK));
    memset(path, 'a', 4999);
    path[4999] = 0;
    SAY(access(path, F_OK));
    SAY(symlink(path, "too_long"));
    path[4095] = 0;
    SAY(symlink(path, "long"));
    SAY(access("long", F_OK));
    int depth = 0;
    for (; depth < 30; depth++)
        if (mkdir(name, 0755) && errno != EEXIST)
            break;
        else if (chdir(name))
            break;
    TELL("depth %d", depth);
    SAY(getcwd(path, sizeof path) ? 0 : -1);
    SAY(syscall(SYS_getcwd, path, sizeof path));
    for (; depth; depth--)
        if (chdir(".."))
            abort();
    SAY(access("a", F_OK));
}

static void rules(void)
{
    int a = open("a", O_RDONLY | O_DIRECTORY), here = open(".", O_RDONLY | O_DIRECTORY), root = open("/", O_PATH);
    symlink("../to_file", "a/out");
    symlink("/b/file", "a/absolute");
    symlink("b/file", "a/inside");
    SAY(open2(a, "b/file", O_RDONLY, 0));
    SAY(open2(a, "out", O_RDONLY, 0));
    SAY(open2(a, "out", O_RDONLY, RESOLVE_BENEATH));
    SAY(open2(a, "../a/b", O_RDONLY, RESOLVE_BENEATH));
    SAY(open2(a, "b/../b/file", O_RDONLY, RESOLVE_BENEATH));
    SAY(open2(a, "inside", O_RDONLY, RESOLVE_BENEATH));
    SAY(open2(a, "absolute", O_RDONLY, RESOLVE_BENEATH));
    SAY(open2(a, "/b/file", O_RDONLY, RESOLVE_BENEATH));
    SAY(open2(a, ".", O_RDONLY, RESOLVE_BENEATH));
    SAY(open2(a, "..", O_RDONLY, RESOLVE_BENEATH));
    SAY(open2(a, "absolute", O_RDONLY, RESOLVE_IN_ROOT));
    SAY(open2(a, "/b/file", O_RDONLY, RESOLVE_IN_ROOT));
    SAY(open2(a, "../../../b/file", O_RDONLY, RESOLVE_IN_ROOT));
    SAY(open2(a, "out", O_RDONLY, RESOLVE_IN_ROOT));
    SAY(open2(a, "inside", O_RDONLY, RESOLVE_NO_SYMLINKS));
    SAY(open2(a, "inside", O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS));
    SAY(open2(here, "into/file", O_RDONLY, RESOLVE_NO_SYMLINKS));
    SAY(open2(root, "proc/self/cwd", O_RDONLY, RESOLVE_NO_MAGICLINKS));
    SAY(open2(root, "proc/self/stat", O_RDONLY, RESOLVE_NO_MAGICLINKS));
    SAY(open2(root, "proc/self/cwd", O_RDONLY, RESOLVE_BENEATH));
    SAY(open2(root, "proc/self/stat", O_RDONLY, RESOLVE_NO_XDEV));
    SAY(open2(root, "proc", O_RDONLY, RESOLVE_NO_XDEV));
    SAY(open2(root, "dev/null", O_RDONLY, RESOLVE_NO_XDEV));
    SAY(open2(a, "b/file", O_RDONLY, RESOLVE_NO_XDEV));
    SAY(open2(open("/proc", O_RDONLY), "..", O_RDONLY, RESOLVE_NO_XDEV));
    SAY(open2(a, "b/file", O_RDONLY, RESOLVE_BENEATH | RESOLVE_IN_ROOT));
    SAY(open2(a, "b/file", O_RDONLY, 1 << 20));
    SAY(open2(a, "b/file", 1L << 40, 0));
    SAY(open2(a, "b/file", O_PATH | O_RDWR, 0));
    SAY(open2(a, "new", O_CREAT | O_RDWR, RESOLVE_CACHED));
    struct open_how how = {.flags = O_RDONLY, .mode = 0600};
    SAY(syscall(SYS_openat2, a, "b/file", &how, sizeof how));
    how.flags = O_CREAT | O_RDWR, how.mode = 010000;
    SAY(syscall(SYS_openat2, a, "b/file", &how, sizeof how));
    how.mode = 0600;
    SAY(syscall(SYS_openat2, a, "b/file", &how, 8));
    struct { struct open_how how; long more; } larger = {{.flags = O_RDONLY}, 0};
    SAY(syscall(SYS_openat2, a, "b/file", &larger, sizeof larger) >= 0);
    larger.more = 1;
    SAY(syscall(SYS_openat2, a, "b/file", &larger, sizeof larger));
    SAY(open2(open("to_file", O_RDONLY), "x", O_RDONLY, RESOLVE_BENEATH));
    SAY(openat(open("to_file", O_RDONLY), "x", O_RDONLY));
    SAY(openat(open("a", O_PATH), "b/file", O_RDONLY) >= 0);
    SAY(openat(12345, "/proc/self/stat", O_RDONLY) >= 0);
}

int main(void)
{
    fresh_directory();
    links();
    slashes();
    lengths();
    rules();
    return 0;
}
