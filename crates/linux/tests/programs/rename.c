/* Renaming and linking: what replaces what, exchanges, directories, open files, racing renames. */
#include "directory.h"

static void make(const char *path, const char *content)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (write(fd, content, strlen(content)) < 0)
        abort();
    close(fd);
}

static const char *content(const char *path)
{
    static char buffer[100];
    int fd = open(path, O_RDONLY);
    ssize_t count = fd < 0 ? -1 : read(fd, buffer, 99);
    if (count < 0)
        return strerrorname_np(errno);
    close(fd);
    buffer[count] = 0;
    return buffer;
}

static int links(const char *path)
{
    struct stat status;
    return lstat(path, &status) ? -1 : (int)status.st_nlink;
}

static int move(const char *from, const char *to, unsigned flags)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

static void replacing(void)
{
    make("a", "a");
    make("b", "b");
    mkdir("d", 0755);
    mkdir("e", 0755);
    mkdir("e/full", 0755);
    SAY(move("a", "a", 0));
    SAY(move("a", "b", RENAME_NOREPLACE));
    SAY(move("a", "a", RENAME_NOREPLACE));
    SAY(move("a", "c", RENAME_NOREPLACE));
    SAY(move("c", "b", 0));
    TELL("%s", content("b"));
    SAY(move("b", "d", 0));
    SAY(move("d", "b", 0));
    SAY(move("d", "e", 0));
    SAY(move("e", "d", 0));
    TELL("%d %d", links("d"), links("d/full"));
    SAY(move("d", "d/full/x", 0));
    SAY(move("d/full", "d", 0));
    SAY(move("missing", "d", 0));
    SAY(move("b", "missing/x", 0));
    SAY(move("b", "b/x", 0));
    SAY(move("b/x", "y", 0));
    SAY(move("", "y", 0));
    SAY(move("b", "", 0));
    SAY(move("b", "y", 1 << 10));
    SAY(move("b", "y", RENAME_NOREPLACE | RENAME_EXCHANGE));
    SAY(move("b", "/proc/y", 0));
    SAY(move("b", "/dev/shm/y", 0));
    SAY(move("/proc/self/stat", "y", 0));
    SAY(move(".", "y", 0));
    SAY(move("d/..", "y", 0));
    SAY(move("b", ".", 0));
    SAY(move("/", "y", 0));
    SAY(move("b", "/", 0));
}

static void exchanging(void)
{
    make("x", "x");
    mkdir("t", 0755);
    mkdir("t/u", 0755);
    make("t/u/v", "v");
    SAY(move("x", "missing", RENAME_EXCHANGE));
    SAY(move("x", "t/u", RENAME_EXCHANGE));
    TELL("%s %s", content("t/u"), content("x/v"));
    TELL("links %d %d", links("t"), links("x"));
    SAY(move("t", "t/u", RENAME_EXCHANGE));
    SAY(move("x", "x", RENAME_EXCHANGE));
    SAY(move("t/u", "t", RENAME_EXCHANGE));
    SAY(move("x", "t", RENAME_EXCHANGE));
    TELL("%s %s", content("t/v"), content("x/u"));
}

static void linking(void)
{
    make("one", "content");
    SAY(link("one", "two"));
    SAY(link("two", "t/three"));
    TELL("links %d", links("one"));
    SAY(move("one", "two", 0));
    TELL("links %d %s", links("one"), content("two"));
    SAY(unlink("one"));
    TELL("links %d", links("two"));
    SAY(symlink("two", "soft"));
    SAY(link("soft", "soft2"));
    TELL("links %d", links("soft2"));
    SAY(linkat(AT_FDCWD, "soft", AT_FDCWD, "hard", AT_SYMLINK_FOLLOW));
    TELL("links %d", links("two"));
    SAY(link("t", "dir"));
    SAY(link("two", "t/three"));
    SAY(link("two", "missing/three"));
    SAY(link("two", "/proc/three"));
    SAY(link("two", "/dev/shm/three"));
    SAY(link("/proc/self/stat", "three"));
    SAY(move("soft", "two", 0));
    SAY(readlink("two", (char[10]){}, 10));
    SAY(open("two", O_RDONLY));
    int fd = open("hard", O_RDONLY);
    SAY(unlink("hard"));
    SAY(unlink("t/three"));
    SAY(read(fd, (char[10]){}, 10));
    struct stat status;
    SAY(fstat(fd, &status));
    TELL("links %ld", (long)status.st_nlink);
    SAY(mkdir("deep", 0755));
    TELL("links %d", links("deep"));
    SAY(mkdir("deep/er", 0755));
    TELL("links %d", links("deep"));
    SAY(rename("deep/er", "er"));
    TELL("links %d", links("deep"));
}

static void *swap(void *count)
{
    for (long i = 0; i < (long)count; i++)
        if (move("left", "right", RENAME_EXCHANGE))
            abort();
    return NULL;
}

static void racing(void)
{
    pthread_t thread;
    int wrong = 0, failed = 0;
    mkdir("left", 0755);
    mkdir("right", 0755);
    make("left/name", "L");
    make("right/name", "R");
    pthread_create(&thread, NULL, swap, (void *)2000L);
    for (int i = 0; i < 500; i++) {
        const char *found = content(i % 2 ? "left/name" : "right/../left/name");
        wrong += strcmp(found, "L") && strcmp(found, "R");
    }
    pthread_join(thread, NULL);
    for (int i = 0; i < 100; i++) {
        make("next", "new");
        failed += rename("next", "current") || strcmp(content("current"), "new");
    }
    TELL("wrong %d failed %d", wrong, failed);
    TELL("%s", content("left/name"));
}

int main(void)
{
    fresh_directory();
    replacing();
    exchanging();
    linking();
    racing();
    return 0;
}
