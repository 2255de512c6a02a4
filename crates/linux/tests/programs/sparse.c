/* Holes, lengths, allocation, appending, directories that change while they are read, memory of files. */
#include "directory.h"
#include <dirent.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

static char buffer[1 << 16];

static void holes(void)
{
    int fd = open("holes", O_CREAT | O_RDWR, 0600);
    SAY(pwrite(fd, "data", 4, 1 << 20));
    SAY(lseek(fd, 0, SEEK_DATA));
    SAY(lseek(fd, 0, SEEK_HOLE));
    SAY(lseek(fd, 1 << 20, SEEK_DATA));
    SAY(lseek(fd, 1 << 20, SEEK_HOLE));
    SAY(lseek(fd, (1 << 20) + 2, SEEK_DATA));
    SAY(lseek(fd, (1 << 20) + 4, SEEK_DATA));
    SAY(lseek(fd, (1 << 20) + 4, SEEK_HOLE));
    SAY(lseek(fd, -1, SEEK_DATA));
    SAY(pread(fd, buffer, 100, 1000));
    SAY(buffer[50]);
    SAY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 4096));
    SAY(lseek(fd, 0, SEEK_DATA));
    SAY(lseek(fd, 0, SEEK_END));
    SAY(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096));
    SAY(fallocate(fd, FALLOC_FL_KEEP_SIZE, 2 << 20, 4096));
    SAY(lseek(fd, 0, SEEK_END));
    SAY(fallocate(fd, 0, 2 << 20, 4096));
    SAY(lseek(fd, 0, SEEK_END));
    SAY(posix_fallocate(fd, 0, 100));
    SAY(fallocate(fd, 1 << 20, 0, 100));
    SAY(fallocate(fd, 0, 1L << 62, 1L << 62));
    SAY(ftruncate(fd, -1));
    SAY(ftruncate(fd, 3));
    SAY(ftruncate(fd, 10));
    SAY(pread(fd, buffer, 100, 0));
    int reader = open("holes", O_RDONLY), pipes[2];
    SAY(fallocate(reader, 0, 0, 100));
    SAY(ftruncate(reader, 1));
    SAY(pipe(pipes));
    SAY(fallocate(pipes[1], 0, 0, 100));
    SAY(ftruncate(pipes[1], 0));
    SAY(fallocate(open(".", O_RDONLY), 0, 0, 100));
    SAY(ftruncate(open(".", O_RDONLY), 0));
    SAY(lseek(pipes[0], 0, SEEK_CUR));
    SAY(lseek(fd, 5, 9));
    SAY(lseek(fd, 0, SEEK_SET));
    struct stat status;
    SAY(ftruncate(fd, 1L << 30));
    SAY(fstat(fd, &status));
    TELL("size %ld blocks are few: %d", (long)status.st_size, status.st_blocks < 100);
}

static void *append(void *character)
{
    int fd = open("appended", O_WRONLY | O_APPEND);
    char line[100];
    memset(line, (int)(long)character, sizeof line);
    line[99] = '\n';
    for (int i = 0; i < 200; i++)
        if (write(fd, line, sizeof line) != sizeof line)
            abort();
    close(fd);
    return NULL;
}

static void appending(void)
{
    pthread_t threads[4];
    close(open("appended", O_CREAT | O_RDWR, 0600));
    for (long i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, append, (void *)('a' + i));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    FILE *file = fopen("appended", "r");
    int lines = 0, torn = 0;
    while (fgets(buffer, sizeof buffer, file)) {
        lines++;
        for (int i = 1; i < 99; i++)
            torn += buffer[i] != buffer[0];
    }
    TELL("lines %d torn %d", lines, torn);
    fclose(file);
}

static void changing_directory(void)
{
    int seen_old = 0, doubled = 0, removed = 0;
    static int seen[300];
    mkdir("many", 0755);
    for (int i = 0; i < 300; i++) {
        char name[30];
        snprintf(name, sizeof name, "many/%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0600));
    }
    DIR *directory = opendir("many");
    for (struct dirent *entry; (entry = readdir(directory));) {
        char name[300];
        if (entry->d_name[0] == '.')
            continue;
        int index = atoi(entry->d_name);
        if (index < 300)
            doubled += seen[index]++;
        snprintf(name, sizeof name, "many/%s", entry->d_name);
        removed += !unlink(name);
    }
    for (int i = 0; i < 300; i++)
        seen_old += seen[i];
    TELL("seen %d twice %d removed %d", seen_old, doubled, removed);
    rewinddir(directory);
    int left = 0;
    while (readdir(directory))
        left++;
    TELL("left %d", left);
    closedir(directory);
    SAY(rmdir("many"));
    SAY(syscall(SYS_getdents64, open(".", O_RDONLY), buffer, 10));
    SAY(syscall(SYS_getdents64, open("appended", O_RDONLY), buffer, 1000));
    SAY(syscall(SYS_getdents64, 99, buffer, 1000));
}

static void mapped(void)
{
    int fd = open("mapped", O_CREAT | O_RDWR, 0600);
    SAY(ftruncate(fd, 10000));
    char *a = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    a[9999] = 'z';
    a[10001] = 'y';
    SAY(pread(fd, buffer, 100, 9990));
    SAY(buffer[9]);
    SAY(ftruncate(fd, 20000));
    SAY(pread(fd, buffer, 100, 9990));
    SAY(msync(a, 12288, MS_SYNC));
    SAY(ftruncate(fd, 5000));
    SAY(a[4999]);
    SAY(ftruncate(fd, 10000));
    SAY(a[9999]);
    a[9998] = 'w';
    SAY(pread(fd, buffer, 100, 9990));
    SAY(buffer[8]);
    SAY(write(fd, "written", 7));
    TELL("%.7s", a);
    SAY(unlink("mapped"));
    SAY(close(fd));
    a[1] = 'R';
    TELL("%.7s", a);
    SAY(munmap(a, 12288));
}

int main(void)
{
    fresh_directory();
    holes();
    appending();
    changing_directory();
    mapped();
    return 0;
}
