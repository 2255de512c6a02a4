/* Files in /tmp: creation, positions, holes, names, links, renaming, metadata, and the errors of all of these. */
#include "check.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char buffer[1 << 16];

static const char *text(int fd, off_t offset, size_t length)
{
    ssize_t count = pread(fd, buffer, length, offset);
    buffer[count < 0 ? 0 : count] = 0;
    return buffer;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char **)a, *(char **)b);
}

static void list(const char *path)
{
    char *names[100];
    int count = 0;
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && count < 100 && (entry = readdir(directory));) {
        char line[300];
        snprintf(line, sizeof line, "%s/%d", entry->d_name, entry->d_type);
        names[count++] = strdup(line);
    }
    qsort(names, count, sizeof *names, by_name);
    printf("%s:", path);
    for (int i = 0; i < count; i++)
        printf(" %s", names[i]);
    printf("\n");
    if (directory)
        closedir(directory);
}

static void positions(void)
{
    int fd = open("a", O_RDWR | O_CREAT | O_EXCL, 0640);
    struct stat status;
    SAY(open("a", O_RDWR | O_CREAT | O_EXCL, 0640));
    SAY(write(fd, "hello world", 11));
    SAY(lseek(fd, 0, SEEK_CUR));
    SAY(lseek(fd, -5, SEEK_END));
    SAY(read(fd, buffer, 100));
    SAY(read(fd, buffer, 100));
    SAY(lseek(fd, -1, SEEK_SET));
    SAY(lseek(fd, 0, 77));
    SAY(pwrite(fd, "HELLO", 5, 0));
    printf("%s\n", text(fd, 0, 100));
    struct iovec parts[] = {{"one", 3}, {"", 0}, {"two", 3}};
    SAY(pwritev(fd, parts, 3, 11));
    printf("%s\n", text(fd, 0, 100));
    int count = -1;
    SAY(writev(fd, parts, count));
    SAY(pwrite(fd, "x", 1, -1));
    SAY(ftruncate(fd, 5));
    printf("%s\n", text(fd, 0, 100));
    SAY(ftruncate(fd, 10000));
    SAY(memcmp(text(fd, 5, 4995), calloc(5000, 1), 4995));
    SAY(pwrite(fd, "end", 3, 1 << 20));
    fstat(fd, &status);
    printf("size %ld mode %o links %ld\n", (long)status.st_size, status.st_mode, (long)status.st_nlink);
    SAY(lseek(fd, 20000, SEEK_DATA) == 1 << 20);
    SAY(lseek(fd, 2 << 20, SEEK_DATA));
    SAY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 3));
    SAY(memcmp(text(fd, 0, 5), "\0\0\0LO", 5));
    SAY(fallocate(fd, 0, 2 << 20, 4096));
    fstat(fd, &status);
    printf("size %ld\n", (long)status.st_size);
    SAY(fallocate(fd, 0, 0, 0));
    SAY(fallocate(fd, 0, -1, 5));
    close(fd);
    SAY(write(fd, "x", 1));
    fd = open("a", O_RDONLY);
    SAY(write(fd, "x", 1));
    SAY(ftruncate(fd, 0));
    close(fd);
    fd = open("a", O_WRONLY | O_TRUNC | O_APPEND);
    SAY(read(fd, buffer, 1));
    SAY(write(fd, "abc", 3));
    SAY(lseek(fd, 0, SEEK_SET));
    SAY(write(fd, "def", 3));
    SAY(lseek(fd, 0, SEEK_CUR));
    close(fd);
    SAY(truncate("a", 4));
    SAY(truncate("missing", 4));
    SAY(truncate(".", 4));
}

static void names(void)
{
    char long_name[300];
    memset(long_name, 'n', 299);
    long_name[299] = 0;
    SAY(mkdir("d", 0755));
    SAY(mkdir("d", 0755));
    SAY(mkdir("d/e/f", 0755));
    SAY(mkdir("a/x", 0755));
    SAY(mkdir("d/e/", 0755));
    SAY(rmdir("d"));
    SAY(rmdir("a"));
    SAY(rmdir("d/e/."));
    SAY(rmdir("missing"));
    SAY(rmdir("/"));
    SAY(unlink("d"));
    SAY(unlink("missing"));
    SAY(open(long_name, O_CREAT | O_WRONLY, 0600));
    SAY(open("", O_RDONLY));
    SAY(open("d", O_WRONLY));
    SAY(open("d", O_RDONLY | O_CREAT, 0600));
    SAY(open("a", O_RDONLY | O_DIRECTORY));
    SAY(open("a/", O_RDONLY));
    SAY(open("new/", O_CREAT | O_WRONLY, 0600));
    SAY(link("a", "d/b"));
    SAY(link("a", "d/b"));
    SAY(link("d", "dd"));
    SAY(symlink("d/b", "l"));
    SAY(symlink("x", "l"));
    SAY(symlink("", "empty"));
    SAY(readlink("l", buffer, 2));
    SAY(readlink("l", buffer, 100));
    SAY(readlink("a", buffer, 100));
    SAY(symlink("loop", "loop"));
    SAY(open("loop", O_RDONLY));
    SAY(open("loop", O_RDONLY | O_NOFOLLOW));
    SAY(open("l", O_RDONLY | O_NOFOLLOW));
    SAY(symlink("dangling", "to"));
    int fd = open("to", O_CREAT | O_WRONLY, 0600);
    SAY(close(fd));
    SAY(access("dangling", F_OK));
    SAY(open("to", O_CREAT | O_EXCL, 0600));
    SAY(unlink("to"));
    SAY(unlink("dangling"));
    SAY(rename("a", "d/c"));
    SAY(access("a", F_OK));
    SAY(rename("missing", "x"));
    SAY(rename("d", "d/e/inside"));
    SAY(rename("d/e", "d/c"));
    SAY(rename("d/c", "d/e"));
    SAY(mkdir("g", 0700));
    SAY(rename("d/e", "g"));
    SAY(rename("d", "g/d"));
    SAY(rename("g/d", "d"));
    SAY(renameat2(AT_FDCWD, "d/c", AT_FDCWD, "d/b", RENAME_NOREPLACE));
    SAY(rename("d/c", "d/b"));
    SAY(renameat2(AT_FDCWD, "d", AT_FDCWD, "g", RENAME_EXCHANGE));
    list("g");
    list("d");
    list(".");
    SAY(mkfifo("fifo", 0600));
    SAY(mknod("device", S_IFCHR | 0600, 0) < 0 ? 0 : 0);
    fd = open("g", O_RDONLY | O_DIRECTORY);
    SAY(openat(fd, "../g/../g/b", O_RDONLY) >= 0);
    SAY(mkdirat(fd, "sub", 0777));
    SAY(unlinkat(fd, "sub", 0));
    SAY(unlinkat(fd, "sub", AT_REMOVEDIR));
    SAY(unlinkat(fd, "sub", 12345));
    SAY(fchdir(fd));
    SAY(access("b", R_OK));
    SAY(chdir(".."));
    SAY(openat(fd, "missing", O_RDONLY));
    close(fd);
    SAY(openat(fd, "b", O_RDONLY));
    SAY(chdir("fifo"));
}

static void removed(void)
{
    struct stat status;
    int fd = open("gone", O_RDWR | O_CREAT, 0600);
    SAY(unlink("gone"));
    SAY(write(fd, "still", 5));
    fstat(fd, &status);
    printf("links %ld size %ld %s\n", (long)status.st_nlink, (long)status.st_size, text(fd, 0, 10));
    close(fd);
    SAY(mkdir("cwd", 0700));
    SAY(chdir("cwd"));
    SAY(rmdir("../cwd"));
    SAY(getcwd(buffer, sizeof buffer) ? 0 : -1);
    SAY(open("file", O_CREAT | O_WRONLY, 0600));
    SAY(mkdir("sub", 0700));
    fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    SAY(write(fd, "tmpfile", 7));
    fstat(fd, &status);
    printf("links %ld\n", (long)status.st_nlink);
    close(fd);
}

static void metadata(void)
{
    struct stat status;
    struct statx extended;
    struct timespec times[2] = {{1000, 5}, {2000, 6}};
    int fd = open("m", O_CREAT | O_RDWR, 0777);
    fstat(fd, &status);
    printf("mode %o\n", status.st_mode);
    SAY(umask(077));
    close(open("m2", O_CREAT | O_RDWR, 0777));
    stat("m2", &status);
    printf("mode %o\n", status.st_mode);
    SAY(fchmod(fd, 04755));
    SAY(chmod("m2", 0));
    stat("m", &status);
    printf("mode %o\n", status.st_mode);
    SAY(futimens(fd, times));
    SAY(utimensat(AT_FDCWD, "missing", times, 0));
    times[0].tv_nsec = UTIME_OMIT;
    times[1].tv_sec = 3000;
    SAY(utimensat(AT_FDCWD, "m", times, 0));
    fstat(fd, &status);
    printf("%ld.%ld %ld.%ld\n", (long)status.st_atim.tv_sec, status.st_atim.tv_nsec, (long)status.st_mtim.tv_sec,
           status.st_mtim.tv_nsec);
    times[1].tv_nsec = 1000000000;
    SAY(futimens(fd, times));
    SAY(statx(AT_FDCWD, "m", 0, STATX_BASIC_STATS, &extended));
    printf("%o %ld\n", extended.stx_mode, (long)extended.stx_mtime.tv_sec);
    SAY(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &extended));
    SAY(fstatat(fd, "", &status, AT_EMPTY_PATH));
    SAY(fstatat(fd, "", &status, 0));
    SAY(fstatat(-1, "x", &status, 0));
    SAY(faccessat(AT_FDCWD, "m", X_OK, 0));
    SAY(access("m", 99));
    SAY(fsync(fd));
    SAY(fdatasync(fd));
    SAY(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    SAY(chown("m", -1, -1));
    SAY(flock(fd, 2));
    SAY(lseek(fd, 0, SEEK_SET));
    SAY(write(fd, "0123456789", 10));
    int to = open("copy", O_CREAT | O_RDWR | O_TRUNC, 0600);
    off_t from = 2;
    SAY(sendfile(to, fd, &from, 5));
    printf("from %ld %s\n", (long)from, text(to, 0, 100));
    from = 0;
    SAY(copy_file_range(fd, &from, to, NULL, 100, 0));
    printf("%s\n", text(to, 0, 100));
    close(to);
    close(fd);
    SAY(readlink("/proc/self/cwd", buffer, 5));
}

static void mappings(void)
{
    int fd = open("map", O_CREAT | O_RDWR, 0600);
    ftruncate(fd, 8192);
    char *shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *private = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    strcpy(shared, "through the mapping");
    printf("%s, %s\n", text(fd, 0, 19), private);
    pwrite(fd, "T", 1, 0);
    printf("%s\n", shared);
    strcpy(private, "own");
    printf("%s\n", shared);
    close(fd);
    unlink("map");
    strcpy(shared + 4096, "after unlink");
    printf("%s\n", shared + 4096);
    munmap(shared, 8192);
    int memory = memfd_create("name", MFD_CLOEXEC);
    ftruncate(memory, 4096);
    char *a = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    char *b = mmap(NULL, 4096, PROT_READ, MAP_SHARED, memory, 0);
    strcpy(a, "one memory");
    printf("%s\n", b);
    printf("%s\n", text(memory, 0, 10));
}

static void descriptors(void)
{
    int fd = open("m", O_RDONLY | O_CLOEXEC);
    SAY(fcntl(fd, F_GETFD));
    SAY(fcntl(fd, F_SETFD, 0));
    SAY(fcntl(fd, F_GETFD));
    SAY(fcntl(fd, F_GETFL) & ~0100000);
    SAY(fcntl(fd, F_DUPFD, 100));
    SAY(fcntl(fd, F_DUPFD, -1));
    SAY(fcntl(fd, F_DUPFD, 100000));
    SAY(dup2(fd, 50));
    SAY(dup2(fd, fd) == fd);
    SAY(dup2(99, 50));
    SAY(dup3(fd, fd, 0));
    SAY(dup3(fd, 51, O_CLOEXEC));
    SAY(fcntl(51, F_GETFD));
    SAY(lseek(50, 3, SEEK_SET));
    SAY(lseek(fd, 0, SEEK_CUR));
    SAY(close_range(50, 60, 0));
    SAY(close(51));
    SAY(close_range(60, 50, 0));
    SAY(fcntl(fd, 9999));
    SAY(close(-1));
    int path = open("m", O_PATH);
    struct stat status;
    SAY(read(path, buffer, 1));
    SAY(fstat(path, &status));
    SAY(fchmod(path, 0600));
    SAY(isatty(fd));
}

int main(void)
{
    char directory[] = "/tmp/files-XXXXXX";
    setvbuf(stdout, NULL, _IONBF, 0);
    umask(022);
    mkdtemp(directory);
    chdir(directory);
    positions();
    names();
    removed();
    chdir(directory);
    metadata();
    mappings();
    descriptors();
    SAY(open("/etc/missing/x", O_RDONLY));
    SAY(open("/etc/passwd/x", O_RDONLY));
    SAY(read(open("/dev/zero", O_RDONLY), buffer, 10));
    SAY(read(open("/dev/null", O_RDONLY), buffer, 10));
    SAY(write(open("/dev/full", O_WRONLY), buffer, 10));
    SAY(getcwd(buffer, 3) ? 0 : -1);
    return 0;
}
