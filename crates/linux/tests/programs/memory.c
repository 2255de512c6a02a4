/* mmap and its family: what is mapped, what faults, what is kept, and the errors. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
static sigjmp_buf escape;
static volatile int last_signal, last_code;

static void caught(int signal, siginfo_t *info, void *context)
{
    last_signal = signal;
    last_code = info->si_code;
    siglongjmp(escape, 1);
}

/* "ok", or the signal that reading or writing there causes. */
static const char *probe(volatile char *address, int write)
{
    static char text[40];
    if (sigsetjmp(escape, 1)) {
        snprintf(text, sizeof text, "signal %d code %d", last_signal, last_code);
        return text;
    }
    if (write)
        *address = 1;
    else
        (void)*address;
    return "ok";
}

static char *map(void *at, size_t length, int protection, int flags)
{
    char *result = mmap(at, length, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (result == MAP_FAILED)
        printf("mmap failed: %d\n", errno);
    return result;
}

static void protection(void)
{
    char *p = map(0, 16 * PAGE, PROT_READ | PROT_WRITE, 0);
    memset(p, 7, 16 * PAGE);
    mprotect(p + 4 * PAGE, PAGE, PROT_READ);
    printf("read-only: read %s", probe(p + 4 * PAGE, 0));
    printf(", write %s\n", probe(p + 4 * PAGE, 1));
    mprotect(p + 5 * PAGE, PAGE, PROT_NONE);
    printf("none: read %s", probe(p + 5 * PAGE, 0));
    mprotect(p + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE);
    printf(", again %s, kept %d\n", probe(p + 5 * PAGE, 1), p[5 * PAGE + 1]);
    for (int i = 0; i < 200; i++) { /* stale translations would let one of these through */
        mprotect(p, PAGE, PROT_READ);
        if (!strcmp(probe(p, 1), "ok"))
            printf("stale write in round %d\n", i);
        mprotect(p, PAGE, PROT_READ | PROT_WRITE);
        if (strcmp(probe(p, 1), "ok"))
            printf("refused write in round %d\n", i);
    }
    munmap(p + 2 * PAGE, PAGE);
    printf("hole %s, neighbours %d %d\n", probe(p + 2 * PAGE, 0), p[PAGE + 1], p[3 * PAGE + 1]);
    for (int i = 0; i < 100; i++) {
        char *q = map(p + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_FIXED);
        for (unsigned j = 0; j < PAGE; j++)
            if (q[j]) {
                printf("not zero in round %d\n", i);
                break;
            }
        memset(q, 9, PAGE);
        munmap(q, PAGE);
        if (!strcmp(probe(q, 0), "ok"))
            printf("stale read in round %d\n", i);
    }
    printf("protect a hole %d", mprotect(p, 16 * PAGE, PROT_READ));
    printf(" %d\n", errno);
    printf("unaligned %d", mprotect(p + 1, PAGE, PROT_READ));
    printf(" %d\n", errno);
    unsigned char code[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
    char *x = map(0, PAGE, PROT_READ | PROT_WRITE, 0);
    memcpy(x, code, sizeof code);
    mprotect(x, PAGE, PROT_READ | PROT_EXEC);
    printf("code gives %d\n", ((int (*)(void))x)());
    mprotect(x, PAGE, PROT_READ);
    if (sigsetjmp(escape, 1))
        printf("not executable: signal %d code %d\n", last_signal, last_code);
    else
        printf("executed %d\n", ((int (*)(void))x)());
}

static void reservations(void)
{
    size_t tera = 1UL << 40;
    char *p = map(0, tera, PROT_NONE, MAP_NORESERVE);
    printf("1 TiB %d\n", p != MAP_FAILED);
    printf("commit %d\n", mprotect(p + tera / 2, 64 * PAGE, PROT_READ | PROT_WRITE));
    memset(p + tera / 2, 1, 64 * PAGE);
    printf("ends %s", probe(p, 0));
    printf(" %s\n", probe(p + tera - 1, 0));
    printf("give back %d\n", munmap(p, tera));
    printf("gone %s\n", probe(p + tera / 2, 0));
    p = map(0, 64UL << 30, PROT_READ | PROT_WRITE, MAP_NORESERVE);
    for (int i = 0; i < 64; i++)
        p[(size_t)i << 30] = i;
    int sum = 0;
    for (int i = 0; i < 64; i++)
        sum += p[(size_t)i << 30];
    printf("sparse %d\n", sum);
    munmap(p, 64UL << 30);
}

static void fixed(void)
{
    char *p = map(0, 4 * PAGE, PROT_READ | PROT_WRITE, 0);
    memset(p, 1, 4 * PAGE);
    map(p + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_FIXED);
    printf("replaced %d %d %d\n", p[0], p[PAGE], p[2 * PAGE]);
    printf("no replacement %d", mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED);
    printf(" %d\n", errno);
    munmap(p, 4 * PAGE);
    char *q = map(p, PAGE, PROT_READ, 0);
    printf("hint %d\n", q == p);
    q = map(p, PAGE, PROT_READ, 0);
    printf("hint taken %d\n", q != p && q != MAP_FAILED);
    struct { void *at; size_t length; int protection, flags, fd; off_t offset; } bad[] = {
        { 0, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 },
        { 0, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0 },
        { 0, PAGE, PROT_READ, MAP_PRIVATE, -1, 0 },
        { 0, PAGE, PROT_READ, MAP_PRIVATE, 99, 0 },
        { 0, -PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 },
        { (void *)1, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0 },
        { (void *)-PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0 },
        { 0, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 77 },
    };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        errno = 0;
        mmap(bad[i].at, bad[i].length, bad[i].protection, bad[i].flags, bad[i].fd, bad[i].offset);
        printf("bad %u: %d\n", i, errno);
    }
    printf("munmap %d", munmap((void *)1, PAGE));
    printf(" %d", errno);
    printf(" %d", munmap(p, 0));
    printf(" %d\n", errno);
}

static void moving(void)
{
    char *p = map(0, 8 * PAGE, PROT_READ | PROT_WRITE, 0);
    for (int i = 0; i < 8; i++)
        p[i * PAGE] = i + 1;
    char *q = mremap(p, 8 * PAGE, 4000 * PAGE, MREMAP_MAYMOVE);
    printf("grown %d %d %d\n", q != MAP_FAILED, q[7 * PAGE], q[3999 * PAGE]);
    q = mremap(q, 4000 * PAGE, 2 * PAGE, 0);
    printf("shrunk %d %s\n", q[PAGE], probe(q + 2 * PAGE, 0));
    char *room = map(0, 64 * PAGE, PROT_NONE, 0);
    char *r = mremap(q, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room + 8 * PAGE);
    printf("placed %d %d %d, old %s\n", r == room + 8 * PAGE, r[PAGE], r[2 * PAGE], probe(q, 0));
    printf("no way %d", mremap(r, 3 * PAGE, 60 * PAGE, 0) == MAP_FAILED);
    printf(" %d\n", errno);
    printf("unmapped %d", mremap(q, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED);
    printf(" %d\n", errno);
    printf("flags %d", mremap(r, PAGE, PAGE, MREMAP_FIXED, room) == MAP_FAILED);
    printf(" %d\n", errno);
    for (int i = 0; i < 100; i++) { /* moved pages must not be seen at the old place */
        char *from = map(0, PAGE, PROT_READ | PROT_WRITE, 0);
        *from = 5;
        char *to = map(0, PAGE, PROT_NONE, 0);
        mremap(from, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        if (!strcmp(probe(from, 0), "ok") || *to != 5)
            printf("stale move in round %d\n", i);
        munmap(to, PAGE);
    }
}

static void advice(void)
{
    char *p = map(0, 64 * PAGE, PROT_READ | PROT_WRITE, 0);
    memset(p, 3, 64 * PAGE);
    printf("dontneed %d", madvise(p + PAGE, PAGE, MADV_DONTNEED));
    printf(" -> %d %d\n", p[PAGE], p[0]);
    printf("willneed %d, huge %d\n", madvise(p, 4 * PAGE, MADV_WILLNEED), madvise(p, 4 * PAGE, MADV_SEQUENTIAL));
    printf("unknown %d", madvise(p, PAGE, 9999));
    printf(" %d\n", errno);
    munmap(p + PAGE, PAGE);
    printf("over a hole %d", madvise(p, 4 * PAGE, MADV_DONTNEED));
    printf(" %d, done %d\n", errno, p[2 * PAGE]);
    unsigned char resident[4] = { 9, 9, 9, 9 };
    p = map(0, 1024 * PAGE, PROT_READ | PROT_WRITE, MAP_NORESERVE);
    p[0] = 1;
    printf("mincore %d", mincore(p, PAGE, resident));
    printf(" %d\n", resident[0] & 1);
    printf("mincore of nothing %d", mincore(0, PAGE, resident));
    printf(" %d\n", errno);
    printf("locks %d %d\n", mlock(p, PAGE), munlock(p, PAGE));
    printf("msync %d", msync(p, PAGE, MS_SYNC));
    printf(" %d", msync(p, PAGE, MS_SYNC | MS_ASYNC));
    printf(" %d\n", errno);
}

static void heap(void)
{
    char *start = sbrk(0);
    char *old = sbrk(1000000);
    printf("heap grows %d\n", old == start);
    memset(start, 5, 1000000);
    sbrk(-900000);
    printf("heap shrinks %s\n", probe(start + 999999, 0));
    sbrk(900000);
    printf("heap is zero again %d %d\n", start[999999], start[5000]);
    printf("heap end %d\n", brk((void *)1) );
    char *blocks[200];
    for (int i = 0; i < 200; i++) {
        blocks[i] = malloc(1 << (i % 20));
        memset(blocks[i], i, 1 << (i % 20));
    }
    int wrong = 0;
    for (int i = 0; i < 200; i++) {
        wrong += blocks[i][0] != (char)i;
        free(blocks[i]);
    }
    printf("malloc wrong %d\n", wrong);
}

static void files(char *self)
{
    int fd = open(self, O_RDONLY);
    char header[4096];
    read(fd, header, sizeof header);
    char *p = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    printf("file %d\n", memcmp(p, header, sizeof header) == 0);
    p[0] = 'x';
    char again;
    pread(fd, &again, 1, 0);
    printf("private %d\n", again == 127);
    printf("shared writable %d", mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    printf(" %d\n", errno);
    char *s = mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    printf("shared %d", memcmp(s, header, PAGE) == 0);
    printf(", made writable %d", mprotect(s, PAGE, PROT_READ | PROT_WRITE));
    printf(" %d\n", errno);
    off_t size = lseek(fd, 0, SEEK_END);
    char *end = mmap(0, (size / PAGE + 4) * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    printf("beyond the end %s", probe(end + (size / PAGE + 2) * PAGE, 0));
    printf(", tail %d\n", size % PAGE ? end[size] : 0);
    printf("offset %d", mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, 100) == MAP_FAILED);
    printf(" %d\n", errno);
    close(fd);
    int memory = memfd_create("m", 0);
    ftruncate(memory, 2 * PAGE);
    char *a = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    char *b = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    a[PAGE + 5] = 77;
    char c = 0;
    pread(memory, &c, 1, PAGE + 5);
    pwrite(memory, "z", 1, 3);
    printf("shared memory %d %d %c\n", b[PAGE + 5], c, b[3]);
    close(memory);
    printf("kept %d\n", a[PAGE + 5]);
}

/* Reads and writes of long buffers: untouched in part, shared with a child in part, and not all of it allowed. */
static void buffers(char *self)
{
    int fd = open(self, O_RDONLY), ends[2], status;
    char *expected = map(0, 64 * PAGE, PROT_READ | PROT_WRITE, 0), *p = map(0, 64 * PAGE, PROT_READ | PROT_WRITE, 0);
    long size = pread(fd, expected, 4 * PAGE, 0);
    printf("whole %d", size == 4 * PAGE);
    for (int page = 0; page < 64; page += 3)
        p[page * PAGE] = 1;
    for (int at = 0; at < 60; at += 5)
        printf(" %d", pread(fd, p + at * PAGE + 9, size, 0) == size && !memcmp(p + at * PAGE + 9, expected, size));
    printf("\n");
    fflush(stdout);
    memset(p, 5, 64 * PAGE);
    if (!fork()) { /* what the child reads into its memory is not seen here */
        p[3 * PAGE] = 6;
        printf("child %d", pread(fd, p + 1, size, 0) == size && !memcmp(p + 1, expected, size) && p[0] == 5);
        printf(" %d %d\n", p[4 * PAGE], p[4 * PAGE + 1]);
        fflush(stdout);
        _exit(0);
    }
    wait(&status);
    for (size_t i = 0; i < 64 * PAGE; i++)
        if (p[i] != 5)
            printf("changed %zu\n", i);
    mprotect(p + 2 * PAGE, PAGE, PROT_READ);
    printf("up to what may not be written %ld", (long)pread(fd, p + PAGE / 2, size, 0));
    printf(" %d %d", !memcmp(p + PAGE / 2, expected, PAGE + PAGE / 2), p[2 * PAGE]);
    printf(" %ld %d\n", (long)pread(fd, p + 2 * PAGE, size, 0), errno);
    pipe(ends);
    munmap(p + 4 * PAGE, PAGE);
    printf("up to what is not there %ld", (long)write(ends[1], p, 8 * PAGE));
    printf(" %ld %d", (long)write(ends[1], p + 4 * PAGE, PAGE), errno);
    printf(" %ld", (long)read(ends[0], p + 8 * PAGE, 8 * PAGE));
    printf(" %d\n", !memcmp(p + 8 * PAGE, p, 4 * PAGE));
    char *file = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    printf("private pages of a file %d", pread(fd, file + 1, 3 * PAGE, 0) == 3 * PAGE);
    printf(" %d %d\n", !memcmp(file + 1, expected, 3 * PAGE), file[0] == expected[0]);
    close(fd);
    close(ends[0]);
    close(ends[1]);
}

/* More than a program can have, from address 0 on. */
static void from_zero(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    char *lowest = mmap((void *)0x10000, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    printf("lowest %d", lowest == (char *)0x10000);
    lowest[0] = 1;
    printf(" %d", munmap(0, 0x20000));
    printf(" %s\n", probe(lowest, 0));
}

static void huge_offset(char *self)
{
    int fd = open(self, O_RDONLY);
    for (int pages = 1; pages < 3; pages++) {
        printf("huge offset %d", mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, -pages * PAGE) == MAP_FAILED);
        printf(" %d\n", errno);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    protection();
    reservations();
    fixed();
    moving();
    advice();
    heap();
    files(argv[0]);
    from_zero();
    huge_offset(argv[0]);
    buffers(argv[0]);
    return 0;
}
