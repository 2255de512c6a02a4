/* Changes to a tree that shows another one, which stays as it is: copies at the first write, names that are hidden,
   directories that show nothing. On a host it is a real overlayfs where that can be mounted, else a copy. */
#include "directory.h"
#include <dirent.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

#define OVERLAYFS 0x794c7630

static char buffer[1 << 16];

static const char *content(const char *path)
{
    int fd = open(path, O_RDONLY);
    ssize_t count = fd < 0 ? -1 : read(fd, buffer, 60);
    if (count < 0)
        return strerrorname_np(errno);
    close(fd);
    buffer[count] = 0;
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

static void enter(const char *lower)
{
    struct statfs status;
    char command[1000], options[1000];
    if (!statfs(lower, &status) && status.f_type == OVERLAYFS && !chdir(lower))
        return;
    char upper[] = "/tmp/overlay-XXXXXX";
    if (!mkdtemp(upper))
        abort();
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, upper, upper);
    snprintf(command, sizeof command, "mkdir %s/upper %s/work %s/merged", upper, upper, upper);
    if (!unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
        !mount("upper", upper, "tmpfs", 0, NULL) && !system(command)) {
        snprintf(command, sizeof command, "%s/merged", upper);
        if (!mount("overlay", command, "overlay", 0, options) && !chdir(command))
            return;
    }
    snprintf(command, sizeof command, "cp -a %s %s/copy", lower, upper);
    if (system(command))
        abort();
    snprintf(command, sizeof command, "%s/copy", upper);
    if (chdir(command))
        abort();
}

static void files(void)
{
    struct stat status;
    TELL("%s", content("file"));
    int old = open("file", O_RDONLY);
    int fd = open("file", O_RDWR);
    SAY(pwrite(fd, "UPPER", 5, 0));
    TELL("%s", content("file"));
    SAY(pread(fd, buffer, 100, 0));
    close(fd);
    close(old);
    fd = open("file", O_WRONLY | O_APPEND);
    SAY(write(fd, "more\n", 5));
    close(fd);
    TELL("%s", content("file"));
    fd = open("big", O_RDWR);
    SAY(lseek(fd, 0, SEEK_END));
    SAY(pwrite(fd, "x", 1, 5000));
    SAY(pread(fd, buffer, sizeof buffer, 0));
    int wrong = 0;
    for (int i = 0; i < 10000; i++)
        wrong += buffer[i] != (i == 5000 ? 'x' : 'a' + i % 26);
    TELL("wrong %d", wrong);
    SAY(ftruncate(fd, 6000));
    SAY(ftruncate(fd, 9000));
    SAY(pread(fd, buffer, sizeof buffer, 0));
    TELL("%c %d %d", buffer[5999], buffer[6000], buffer[8999]);
    SAY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 4096));
    SAY(pread(fd, buffer, sizeof buffer, 0));
    TELL("%c %d %d %c", buffer[99], buffer[100], buffer[4195], buffer[4196]);
    char *map = mmap(NULL, 9000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    SAY(map == MAP_FAILED ? -1 : 0);
    strcpy(map + 10, "mapped");
    SAY(pread(fd, buffer, 20, 10));
    TELL("%.6s", buffer);
    SAY(pwrite(fd, "W", 1, 10));
    TELL("%.6s", map + 10);
    close(fd);
    fd = open("other", O_RDONLY);
    map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    TELL("%.5s", map);
    close(fd);
    SAY(truncate("other", 2));
    TELL("%s", content("other"));
    SAY(chmod("program", 0700));
    SAY(chown("program", 5, 6));
    SAY(stat("program", &status));
    TELL("%o %d %d %ld", status.st_mode, status.st_uid, status.st_gid, (long)status.st_size);
    TELL("%s", content("program"));
    struct timespec times[2] = {{11, 0}, {22, 0}};
    SAY(utimensat(AT_FDCWD, "program", times, 0));
    SAY(stat("program", &status));
    TELL("%ld", (long)status.st_mtim.tv_sec);
    fd = open("dir/a", O_WRONLY | O_TRUNC);
    SAY(write(fd, "new a", 5));
    close(fd);
    TELL("%s", content("dir/a"));
    SAY(open("dir/a", O_CREAT | O_EXCL | O_RDWR, 0644));
    SAY(readlink("link", buffer, 100));
    SAY(unlink("link"));
    SAY(readlink("link", buffer, 100));
}

static void names(void)
{
    list(".");
    list("dir");
    SAY(close(open("dir/new", O_CREAT | O_WRONLY, 0600)));
    SAY(unlink("dir/b"));
    SAY(access("dir/b", F_OK));
    SAY(unlink("dir/b"));
    list("dir");
    SAY(rmdir("dir"));
    SAY(rmdir("dir/sub"));
    SAY(unlink("dir/sub/deep"));
    SAY(rmdir("dir/sub"));
    SAY(mkdir("dir/sub", 0755));
    list("dir/sub");
    SAY(close(open("dir/sub/deep", O_CREAT | O_WRONLY, 0600)));
    list("dir/sub");
    SAY(unlink("dir/sub/deep"));
    SAY(close(open("dir/b", O_CREAT | O_WRONLY, 0600)));
    TELL("%s", content("dir/b"));
    SAY(rename("dir/c", "dir/a"));
    TELL("%s", content("dir/a"));
    SAY(rename("dir/a", "moved"));
    TELL("%s", content("moved"));
    list("dir");
    SAY(link("moved", "linked"));
    int fd = open("linked", O_WRONLY);
    SAY(pwrite(fd, "L", 1, 0));
    close(fd);
    TELL("%s", content("moved"));
    SAY(unlink("moved"));
    TELL("%s", content("linked"));
    SAY(rename("linked", "tree/one/two/file"));
    TELL("%s", content("tree/one/two/file"));
    SAY(rename("missing", "file"));
    SAY(rename("file", "empty"));
    SAY(rename("empty", "file"));
    SAY(mkdir("fresh", 0755));
    SAY(rename("fresh", "empty"));
    list("empty");
    SAY(rename("empty", "tree"));
    SAY(renameat2(AT_FDCWD, "file", AT_FDCWD, "other", RENAME_NOREPLACE));
    SAY(renameat2(AT_FDCWD, "file", AT_FDCWD, "other", RENAME_EXCHANGE));
    TELL("%s", content("other"));
    SAY(rmdir("empty"));
    SAY(mkdir("empty", 0700));
    SAY(symlink("other", "empty/link"));
    SAY(rename("empty/link", "link"));
    TELL("%s", content("link"));
    list(".");
}

static void deep(void)
{
    int directory = open("tree/one/two", O_RDONLY | O_DIRECTORY);
    SAY(chdir("tree/one/two"));
    SAY(access("../../one/two/three", F_OK));
    SAY(mkdir("three/four", 0755));
    SAY(access("../two/three/four", F_OK));
    SAY(mkdirat(directory, "five", 0755));
    list("../two");
    SAY(chdir("../../.."));
    list("tree/one/two");
    SAY(setxattr("tree/one/leaf", "user.a", "1", 1, 0));
    SAY(getxattr("tree/one/leaf", "user.a", buffer, 10));
    TELL("%s", content("tree/one/leaf"));
    SAY(unlinkat(directory, "three", AT_REMOVEDIR));
    SAY(unlinkat(directory, "three/four", AT_REMOVEDIR));
    SAY(unlinkat(directory, "three", AT_REMOVEDIR));
    SAY(unlinkat(directory, "five", AT_REMOVEDIR));
    SAY(unlinkat(directory, "file", 0));
    SAY(rmdir("tree/one/two"));
    SAY(mkdirat(directory, "six", 0755));
    list("tree/one");
    int fd = open("tree/one/leaf", O_RDWR);
    SAY(unlink("tree/one/leaf"));
    SAY(write(fd, "gone", 4));
    SAY(pread(fd, buffer, 100, 0));
    TELL("%.4s", buffer);
    SAY(rmdir("tree/one"));
    SAY(rmdir("tree"));
    SAY(mkdir("tree", 0755));
    list("tree");
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    umask(022);
    enter(getenv("LOWER"));
    files();
    names();
    deep();
    return 0;
}
