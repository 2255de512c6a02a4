/* Extended attributes, seals, files without a name. */
#include "directory.h"
#include <sys/mman.h>
#include <sys/xattr.h>

static char value[1 << 17];

static void shown(const char *path)
{
    char names[1000];
    ssize_t length = listxattr(path, names, sizeof names);
    printf("%s:", path);
    for (ssize_t at = 0; at < length; at += strlen(names + at) + 1)
        if (!strncmp(names + at, "user.", 5))
            printf(" %s", names + at);
    printf("\n");
}

static void extended(void)
{
    char long_name[300] = "user.";
    memset(long_name + 5, 'n', 251);
    int fd = open("file", O_CREAT | O_RDWR, 0644);
    mkdir("directory", 0755);
    symlink("file", "link");
    mkfifo("fifo", 0600);
    SAY(getxattr("file", "user.a", value, 10));
    SAY(setxattr("file", "user.a", "one", 3, XATTR_REPLACE));
    SAY(setxattr("file", "user.a", "one", 3, 0));
    SAY(setxattr("file", "user.a", "two", 3, XATTR_CREATE));
    SAY(setxattr("file", "user.a", "three", 5, XATTR_REPLACE));
    SAY(getxattr("file", "user.a", NULL, 0));
    SAY(getxattr("file", "user.a", value, 2));
    SAY(getxattr("file", "user.a", value, 5));
    SAY(memcmp(value, "three", 5));
    SAY(fsetxattr(fd, "user.empty", "", 0, 0));
    SAY(fgetxattr(fd, "user.empty", value, 10));
    SAY(lgetxattr("link", "user.a", value, 10));
    SAY(getxattr("link", "user.a", value, 10));
    SAY(lsetxattr("link", "user.a", "x", 1, 0));
    SAY(setxattr("fifo", "user.a", "x", 1, 0));
    SAY(setxattr("directory", "user.d", "x", 1, 0));
    shown("file");
    shown("directory");
    SAY(listxattr("file", value, 3));
    SAY(setxattr("file", "a", "x", 1, 0));
    SAY(setxattr("file", "", "x", 1, 0));
    SAY(setxattr("file", "user.", "x", 1, 0));
    SAY(setxattr("file", "other.a", "x", 1, 0));
    SAY(setxattr("file", "user.b", "x", 1, 99));
    SAY(setxattr("file", "user.b", value, 65537, 0));
    SAY(setxattr("file", long_name, "x", 1, 0));
    long_name[255] = 0;
    SAY(setxattr("file", long_name, "x", 1, 0));
    SAY(removexattr("file", long_name));
    SAY(removexattr("file", "user.a"));
    SAY(removexattr("file", "user.a"));
    SAY(fremovexattr(fd, "user.empty"));
    SAY(listxattr("missing", value, 3));
    SAY(fgetxattr(99, "user.a", value, 3));
    int path = open("file", O_PATH);
    SAY(fgetxattr(path, "user.a", value, 3));
    SAY(setxattr("/proc/self/stat", "user.a", "x", 1, 0));
    chmod("file", 0444);
    if (seteuid(1000))
        abort();
    SAY(setxattr("file", "user.a", "x", 1, 0));
    SAY(getxattr("file", "user.a", value, 3));
    SAY(setxattr("file", "trusted.a", "x", 1, 0));
    SAY(getxattr("file", "trusted.a", value, 3));
    if (seteuid(0))
        abort();
    SAY(setxattr("file", "trusted.a", "x", 1, 0));
    SAY(getxattr("file", "trusted.a", value, 3));
    SAY(rename("file", "renamed"));
    SAY(getxattr("renamed", "trusted.a", value, 3));
    close(fd);
    close(path);
}

static void seals(void)
{
    int plain = memfd_create("plain", 0);
    int fd = memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    SAY(fcntl(plain, F_GET_SEALS));
    SAY(fcntl(plain, F_ADD_SEALS, F_SEAL_WRITE));
    SAY(fcntl(fd, F_GET_SEALS));
    SAY(write(fd, "0123456789", 10));
    SAY(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    SAY(ftruncate(fd, 5));
    SAY(ftruncate(fd, 20));
    SAY(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    SAY(ftruncate(fd, 30));
    SAY(pwrite(fd, "x", 1, 20));
    SAY(pwrite(fd, "xyz", 3, 5));
    SAY(fallocate(fd, 0, 10, 100));
    SAY(fcntl(fd, F_ADD_SEALS, 1 << 20));
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    SAY(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    SAY(munmap(map, 4096));
    SAY(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    SAY(pwrite(fd, "x", 1, 0));
    SAY(pwrite(fd, "", 0, 0));
    SAY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 10));
    SAY(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
    SAY(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
    map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    SAY(map == MAP_FAILED ? -1 : 0);
    SAY(mprotect(map, 4096, PROT_READ | PROT_WRITE));
    TELL("%.10s", map);
    SAY(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    SAY(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    SAY(fcntl(fd, F_GET_SEALS));
    SAY(fcntl(0, F_GET_SEALS));
    int pipes[2];
    SAY(pipe(pipes));
    SAY(fcntl(pipes[1], F_GET_SEALS));
    SAY(memfd_create("x", 1 << 20));
}

static void unnamed(void)
{
    char path[40];
    int fd = open(".", O_TMPFILE | O_RDWR, 0640);
    SAY(write(fd, "hello", 5));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    SAY(linkat(AT_FDCWD, path, AT_FDCWD, "by_path", AT_SYMLINK_FOLLOW));
    SAY(linkat(fd, "", AT_FDCWD, "by_descriptor", AT_EMPTY_PATH));
    struct stat status;
    SAY(stat("by_path", &status));
    TELL("links %ld mode %o size %ld", (long)status.st_nlink, status.st_mode, (long)status.st_size);
    close(fd);
    fd = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0640);
    SAY(linkat(fd, "", AT_FDCWD, "never", AT_EMPTY_PATH));
    close(fd);
    SAY(open(".", O_TMPFILE | O_RDONLY, 0640));
    SAY(open("by_path", O_TMPFILE | O_RDWR, 0640));
    SAY(open("missing", O_TMPFILE | O_RDWR, 0640));
    fd = open("by_path", O_RDONLY);
    SAY(unlink("by_path"));
    SAY(unlink("by_descriptor"));
    SAY(linkat(fd, "", AT_FDCWD, "again", AT_EMPTY_PATH));
    SAY(linkat(fd, "", AT_FDCWD, "again", 0));
    SAY(linkat(AT_FDCWD, "missing", AT_FDCWD, "again", 0));
    SAY(linkat(AT_FDCWD, "missing", AT_FDCWD, "again", 12345));
}

int main(void)
{
    fresh_directory();
    extended();
    seals();
    unnamed();
    return 0;
}
