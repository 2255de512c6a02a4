/* mmap in all its forms: placement, growth, files in memory and what becomes of their mappings, mremap, madvise, locking,
 * residency, barriers. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static sigjmp_buf escape;
static volatile int last_signal, last_code, is_probing;

static void caught(int signal, siginfo_t *info, void *context)
{
    if (!is_probing)
        _exit(99);
    last_signal = signal;
    last_code = info->si_code;
    siglongjmp(escape, 1);
}

static const char *probe(volatile char *address, int write)
{
    static char text[4][40];
    static int next;
    char *result = text[next++ % 4];
    is_probing = 1;
    if (sigsetjmp(escape, 1)) {
        is_probing = 0;
        snprintf(result, 40, "signal %d code %d", last_signal, last_code);
        return result;
    }
    if (write)
        *address = 1;
    else
        (void)*address;
    is_probing = 0;
    return "ok";
}

static void line(const char *name, long result)
{
    printf("%s: %ld", name, result);
    if (result == -1)
        printf(" errno %d", errno);
    printf("\n");
}

/* The result of mmap as a name of what happened. */
static void *mapped(const char *name, void *result)
{
    if (result == MAP_FAILED)
        printf("%s: errno %d\n", name, errno);
    else
        printf("%s: mapped\n", name);
    return result;
}

static char *map(size_t length, int flags)
{
    return mmap(0, length, RW, flags, -1, 0);
}

static int file(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    unlink(name);
    return fd;
}

static void placement(void)
{
    char *area = map(16 * PAGE, PRIVATE);
    munmap(area, 16 * PAGE);
    char *there = mmap(area + 4 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0);
    printf("fixed without replacing, free: %d\n", there == area + 4 * PAGE);
    mapped("fixed without replacing, taken", mmap(area, 16 * PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0));
    mapped("fixed without replacing, tail taken", mmap(area + 3 * PAGE, 2 * PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0));
    char *hinted = mmap(area + 6 * PAGE, PAGE, RW, PRIVATE, -1, 0);
    printf("a free hint is taken: %d\n", hinted == area + 6 * PAGE);
    char *odd = mmap(area + 8 * PAGE + 123, PAGE, RW, PRIVATE, -1, 0);
    printf("an odd hint is rounded down: %d\n", odd == area + 8 * PAGE);
    char *other = mmap(area + 6 * PAGE, PAGE, RW, PRIVATE, -1, 0);
    printf("a taken hint is not: %d\n", other != MAP_FAILED && other != area + 6 * PAGE);
    mapped("fixed, not aligned", mmap(area + 1, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0));
    mapped("fixed, beyond the end", mmap((void *)0x7ffffffff000, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0));
    mapped("nothing", mmap(0, 0, RW, PRIVATE, -1, 0));
    mapped("too much", mmap(0, 1UL << 47, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0));
    mapped("length that overflows", mmap(0, -1UL, RW, PRIVATE, -1, 0));
    mapped("no type", mmap(0, PAGE, RW, MAP_ANONYMOUS, -1, 0));
    mapped("no file", mmap(0, PAGE, RW, MAP_PRIVATE, -1, 0));
    mapped("offset not aligned", mmap(0, PAGE, RW, PRIVATE, -1, 5));
    mapped("validated, unknown flag", mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_ANONYMOUS | 0x4000000, -1, 0));
    mapped("unknown flag", mmap(0, PAGE, RW, PRIVATE | 0x8000000, -1, 0));
    mapped("unknown protection", mmap(0, PAGE, RW | 0x100, PRIVATE, -1, 0));
    char *low = mapped("in 32 bits", mmap(0, PAGE, RW, PRIVATE | MAP_32BIT, -1, 0));
    printf("below 2 GiB: %d\n", (uintptr_t)low < 1UL << 31);
    char *zero = mmap((void *)1, PAGE, RW, PRIVATE, -1, 0);
    printf("a hint that is too low gives another: %d\n", zero != MAP_FAILED && (uintptr_t)zero >= 0x10000);
}

static void reservations(void)
{
    char *huge = mapped("300 GiB without access", mmap(0, 300UL << 30, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0));
    printf("no access: %s\n", probe(huge + (100UL << 30), 0));
    line("a part becomes usable", mprotect(huge + (100UL << 30), 16 * PAGE, RW));
    printf("usable: %s %s\n", probe(huge + (100UL << 30) + 15 * PAGE, 1), probe(huge + (100UL << 30) + 16 * PAGE, 1));
    char *aligned = (char *)(((uintptr_t)huge + (4UL << 30)) & -(4UL << 30));
    munmap(huge, aligned - huge);
    munmap(aligned + (4UL << 30), huge + (300UL << 30) - (aligned + (4UL << 30)));
    printf("outside is gone: %s\n", probe(aligned - 1, 0));
    line("the rest too", munmap(aligned, 4UL << 30));
    char *writable = mapped("64 GiB without reserve", mmap(0, 64UL << 30, RW, PRIVATE | MAP_NORESERVE, -1, 0));
    printf("both ends: %s %s\n", probe(writable, 1), probe(writable + (64UL << 30) - 1, 1));
    line("gone", munmap(writable, 64UL << 30));
    char *populated = mmap(0, 64 * PAGE, RW, PRIVATE | MAP_POPULATE, -1, 0);
    unsigned char resident[64];
    int count = 0;
    mincore(populated, 64 * PAGE, resident);
    for (int i = 0; i < 64; i++)
        count += resident[i] & 1;
    printf("populated: %d of 64\n", count);
}

static void growth(void)
{
    char *room = map(8 << 20, PRIVATE);
    munmap(room, 8 << 20);
    char *stack = mmap(room + (6 << 20), 4 * PAGE, RW, PRIVATE | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
    printf("mapped where asked for: %d\n", stack == room + (6 << 20));
    printf("just below: %s\n", probe(stack - 1, 1));
    printf("far below: %s\n", probe(stack - 100 * PAGE, 1));
    printf("what lies between: %s\n", probe(stack - 50 * PAGE, 0));
    line("a call writes below it", read(open("/dev/zero", O_RDONLY), stack - 200 * PAGE, 10));
    char *near = mmap(stack - 300 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
    printf("a mapping in the way: %d\n", near != MAP_FAILED);
    printf("not into its guard gap: %s\n", probe(near + 3 * PAGE, 1));
    printf("the stack itself stays: %s\n", probe(stack - 200 * PAGE, 1));
    mapped("shared and growing", mmap(0, PAGE, RW, SHARED | MAP_GROWSDOWN, -1, 0));
    char *plain = map(PAGE, PRIVATE);
    line("protect downwards, not growing", mprotect(plain, PAGE, PROT_READ | PROT_GROWSDOWN));
    line("protect downwards, growing", mprotect(stack, PAGE, PROT_READ | PROT_GROWSDOWN));
    printf("all of it changed: %s\n", probe(stack - 60 * PAGE, 1));
    munmap(near, stack - near + 4 * PAGE);
}

static void private_file(void)
{
    int fd = file("/tmp/mappings-private");
    char page[PAGE];
    memset(page, 'a', PAGE);
    for (int i = 0; i < 4; i++)
        write(fd, page, PAGE);
    char *view = mmap(0, 6 * PAGE, RW, MAP_PRIVATE, fd, 0);
    printf("read: %c\n", view[0]);
    pwrite(fd, "b", 1, 0);
    printf("a later write is seen: %c\n", view[0]);
    view[1] = 'x';
    pwrite(fd, "cc", 2, 0);
    printf("not after the page was written: %c%c\n", view[0], view[1]);
    pread(fd, page, 2, 0);
    printf("the file does not have it: %.2s\n", page);
    pwrite(fd, "d", 1, PAGE);
    printf("another page is still the file's: %c\n", view[PAGE]);
    printf("beyond the end: %s\n", probe(view + 4 * PAGE, 0));
    view[2 * PAGE] = 'y';
    line("cut", ftruncate(fd, PAGE + 10));
    printf("the rest of the last page is zero: %d %d\n", view[PAGE + 9], view[PAGE + 10]);
    printf("cut pages: %s, copied ones too: %s\n", probe(view + 3 * PAGE, 0), probe(view + 2 * PAGE, 0));
    line("longer again", ftruncate(fd, 4 * PAGE));
    printf("a hole reads as zero: %d\n", view[3 * PAGE]);
    pwrite(fd, "h", 1, 3 * PAGE + 7);
    printf("and follows the file: %c\n", view[3 * PAGE + 7]);
    char *second = mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, 3 * PAGE);
    printf("by offset: %c\n", second[7]);
    line("a read-only private mapping becomes writable", mprotect(second, PAGE, RW));
    second[7] = 'z';
    pread(fd, page, 8, 3 * PAGE);
    printf("and is copied: %c %c\n", page[7], second[7]);
    line("a call writes into a mapping", pread(fd, view + 3 * PAGE, 3, 0));
    pread(fd, page, 8, 3 * PAGE);
    printf("not into the file: %d\n", page[0]);
    close(fd);
    printf("without a descriptor: %c\n", view[PAGE]);
}

static void shared_file(void)
{
    int fd = file("/tmp/mappings-shared"), read_only = open("/proc/self/exe", O_RDONLY);
    ftruncate(fd, 8 * PAGE);
    char *one = mmap(0, 8 * PAGE, RW, MAP_SHARED, fd, 0);
    char *two = mmap(0, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 4 * PAGE);
    char buffer[8] = "";
    strcpy(one + 5 * PAGE, "both");
    printf("two mappings: %s\n", two + PAGE);
    pread(fd, buffer, 4, 5 * PAGE);
    printf("the file: %s\n", buffer);
    pwrite(fd, "file", 4, 4 * PAGE);
    printf("written: %s %s\n", one + 4 * PAGE, two);
    line("cut", ftruncate(fd, 2 * PAGE));
    printf("both mappings: %s, %s\n", probe(one + 4 * PAGE, 0), probe(two, 0));
    line("grown", ftruncate(fd, 8 * PAGE));
    printf("empty: %d %d\n", one[5 * PAGE], two[PAGE]);
    one[6 * PAGE] = 'q';
    line("hole", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 6 * PAGE, PAGE));
    printf("punched: %d\n", one[6 * PAGE]);
    one[7 * PAGE] = 'r';
    line("remove", madvise(one + 7 * PAGE, PAGE, MADV_REMOVE));
    printf("removed: %d %d\n", one[7 * PAGE], two[3 * PAGE]);
    line("remove, private", madvise(map(PAGE, PRIVATE), PAGE, MADV_REMOVE));
    one[0] = 'k';
    line("don't need", madvise(one, PAGE, MADV_DONTNEED));
    printf("kept by the file: %c\n", one[0]);
    line("sync", msync(one, 8 * PAGE, MS_SYNC));
    line("sync both ways", msync(one, PAGE, MS_SYNC | MS_ASYNC));
    line("sync, not aligned", msync(one + 1, PAGE, MS_SYNC));
    line("sync a hole", msync(one + (1UL << 40), PAGE, MS_ASYNC));
    mapped("shared writable, file read-only", mmap(0, PAGE, RW, MAP_SHARED, read_only, 0));
    char *shared_read = mapped("shared readable", mmap(0, PAGE, PROT_READ, MAP_SHARED, read_only, 0));
    line("made writable", mprotect(shared_read, PAGE, RW));
    int write_only = open("/tmp/mappings-write-only", O_WRONLY | O_CREAT, 0600);
    mapped("file write-only", mmap(0, PAGE, PROT_READ, MAP_PRIVATE, write_only, 0));
    unlink("/tmp/mappings-write-only");
    mapped("a directory", mmap(0, PAGE, PROT_READ, MAP_PRIVATE, open("/tmp", O_RDONLY), 0));
    int pipes[2];
    pipe(pipes);
    mapped("a pipe", mmap(0, PAGE, PROT_READ, MAP_PRIVATE, pipes[0], 0));
    mapped("offset and length overflow", mmap(0, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0x7ffffffffffff000));
    char *zeros = mapped("/dev/zero", mmap(0, PAGE, RW, MAP_PRIVATE, open("/dev/zero", O_RDWR), 0));
    printf("zeros: %d\n", zeros[17]);
}

static void memory_files(void)
{
    int fd = memfd_create("name", MFD_CLOEXEC);
    ftruncate(fd, 2 * PAGE);
    char *view = mmap(0, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    strcpy(view, "in memory");
    char buffer[16] = "";
    read(fd, buffer, 9);
    printf("memfd: %s\n", buffer);
    printf("close-on-exec: %d\n", fcntl(fd, F_GETFD));
    line("unknown flag", memfd_create("name", 0x1000));
    line("no name", memfd_create(NULL, 0));
    char long_name[300];
    memset(long_name, 'n', 299);
    long_name[299] = 0;
    line("long name", memfd_create(long_name, 0));
    long_name[249] = 0;
    printf("longest name: %d\n", memfd_create(long_name, 0) >= 0);
    line("both executable and not", memfd_create("x", 0x10 | 0x8));
}

static void moves(void)
{
    char *area = map(8 * PAGE, PRIVATE), *target = map(16 * PAGE, PRIVATE);
    for (int i = 0; i < 8; i++)
        area[i * PAGE] = 'a' + i;
    char *moved = mremap(area, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    printf("fixed: %d %c%c\n", moved == target, moved[0], moved[PAGE]);
    printf("the old place: %s, the rest: %s\n", probe(area, 0), probe(area + 2 * PAGE, 0));
    printf("beyond the target: %s\n", probe(target + 2 * PAGE, 0));
    mapped("grown in place, no room", mremap(area + 2 * PAGE, 2 * PAGE, 20 * PAGE, 0));
    char *grown = mremap(area + 2 * PAGE, 6 * PAGE, 32 * PAGE, MREMAP_MAYMOVE);
    printf("grown: %c%c %d\n", grown[0], grown[5 * PAGE], grown[31 * PAGE]);
    printf("shrunk: %d\n", mremap(grown, 32 * PAGE, 2 * PAGE, 0) == grown);
    printf("the tail: %s\n", probe(grown + 2 * PAGE, 0));
    printf("same length: %d\n", mremap(grown, 2 * PAGE, 2 * PAGE, 0) == grown);
    mapped("to nothing", mremap(grown, PAGE, 0, MREMAP_MAYMOVE));
    mapped("not aligned", mremap(grown + 1, PAGE, PAGE, 0));
    mapped("not mapped", mremap(area, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    mapped("unknown flag", mremap(grown, PAGE, PAGE, 64));
    mapped("fixed without may-move", mremap(grown, PAGE, PAGE, MREMAP_FIXED, target));
    mapped("overlapping", mremap(target, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target + PAGE));
    mapped("beyond its end", mremap(grown, 3 * PAGE, 5 * PAGE, MREMAP_MAYMOVE));
    mapped("private, from nothing", mremap(grown, 0, PAGE, MREMAP_MAYMOVE));
    char *kept = mremap(grown, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    printf("without unmapping: %c%c, old %d %s\n", kept[0], kept[PAGE], grown[0], probe(grown, 1));
    mapped("without unmapping, other length", mremap(grown, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0));
    mapped("without unmapping, may not move", mremap(grown, PAGE, PAGE, MREMAP_DONTUNMAP, 0));
    char *placed = mremap(kept, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, target + 8 * PAGE);
    printf("without unmapping, fixed: %d %c %d\n", placed == target + 8 * PAGE, placed[0], kept[0]);

    char *shared = map(4 * PAGE, SHARED);
    strcpy(shared + PAGE, "shared");
    char *twin = mremap(shared + PAGE, 0, PAGE, MREMAP_MAYMOVE);
    printf("twin: %s\n", twin);
    strcpy(twin, "through the twin");
    printf("twin written: %s\n", shared + PAGE);
    char *longer = mremap(shared, 4 * PAGE, 6 * PAGE, MREMAP_MAYMOVE);
    printf("a shared area grown beyond its object: %s %s\n", longer + PAGE, probe(longer + 4 * PAGE, 0));

    char *several = map(4 * PAGE, PRIVATE), *place = map(8 * PAGE, PRIVATE);
    for (int i = 0; i < 4; i++)
        several[i * PAGE] = '0' + i;
    mprotect(several + PAGE, PAGE, PROT_READ);
    mapped("several areas grown", mremap(several, 4 * PAGE, 6 * PAGE, MREMAP_MAYMOVE));
    printf("several areas shrunk: %d\n", mremap(several, 4 * PAGE, 3 * PAGE, 0) == several);
    char *together = mremap(several, 3 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    printf("several areas moved: %c%c%c\n", together[0], together[PAGE], together[2 * PAGE]);
    printf("their protection: %s %s\n", probe(together + PAGE, 1), probe(together + 2 * PAGE, 1));
}

static void advice(void)
{
    char *area = map(8 * PAGE, PRIVATE), *shared = map(2 * PAGE, SHARED);
    memset(area, 5, 8 * PAGE);
    shared[0] = 5;
    line("don't need", madvise(area, 2 * PAGE, MADV_DONTNEED));
    printf("gone and kept: %d %d\n", area[0], area[2 * PAGE]);
    line("don't need, shared", madvise(shared, PAGE, MADV_DONTNEED));
    printf("kept: %d\n", shared[0]);
    line("free, shared", madvise(shared, PAGE, MADV_FREE));
    line("free", madvise(area + 7 * PAGE, PAGE, MADV_FREE));
    int harmless[] = {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
                      MADV_DONTDUMP, MADV_DODUMP, MADV_DONTFORK, MADV_DOFORK, MADV_WIPEONFORK, MADV_KEEPONFORK, 20, 21};
    for (unsigned i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        char name[40];
        snprintf(name, sizeof name, "advice %d", harmless[i]);
        line(name, madvise(area, 4 * PAGE, harmless[i]));
    }
    printf("content kept: %d\n", area[2 * PAGE]);
    line("wipe, shared", madvise(shared, PAGE, MADV_WIPEONFORK));
    line("unknown", madvise(area, PAGE, 77));
    line("unknown, nothing", madvise(area, 0, 77));
    line("nothing", madvise(area, 0, MADV_DONTNEED));
    line("not aligned", madvise(area + 1, PAGE, MADV_DONTNEED));
    line("overflow", madvise(area, -PAGE, MADV_DONTNEED));
    munmap(area + 4 * PAGE, PAGE);
    area[5 * PAGE] = 6;
    line("over a hole", madvise(area + 3 * PAGE, 4 * PAGE, MADV_DONTNEED));
    printf("done on both sides: %d %d\n", area[3 * PAGE], area[5 * PAGE]);
    line("harmless over a hole", madvise(area + 3 * PAGE, 4 * PAGE, MADV_SEQUENTIAL));
    line("populate", madvise(area, 4 * PAGE, 23));
    line("populate over a hole", madvise(area, 6 * PAGE, 22));
    mprotect(area, PAGE, PROT_READ);
    line("populate for reading", madvise(area, PAGE, 22));
    line("populate for writing, read-only", madvise(area, PAGE, 23));
    mprotect(area, PAGE, PROT_NONE);
    line("populate for reading, no access", madvise(area, PAGE, 22));
}

static void protections(void)
{
    char *area = map(6 * PAGE, PRIVATE);
    memset(area, 3, 6 * PAGE);
    line("unknown bits", mprotect(area, PAGE, 0x40));
    line("not aligned", mprotect(area + 1, PAGE, PROT_READ));
    line("nothing", mprotect(area, 0, PROT_NONE));
    munmap(area + 3 * PAGE, PAGE);
    line("over a hole", mprotect(area, 6 * PAGE, PROT_READ));
    printf("before the hole: %s, after: %s\n", probe(area + 2 * PAGE, 1), probe(area + 4 * PAGE, 1));
    line("each page its own", mprotect(area + PAGE, PAGE, PROT_NONE));
    printf("neighbours: %s %s %s\n", probe(area, 0), probe(area + PAGE, 0), probe(area + 2 * PAGE, 0));
    line("execute only", mprotect(area, PAGE, PROT_EXEC));
    int fd = open("/proc/self/exe", O_RDONLY);
    char *shared = mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    char *neighbour = mmap(shared - PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
    line("refused in the second area", mprotect(neighbour, 2 * PAGE, PROT_READ | PROT_WRITE));
    line("beyond the end", mprotect((void *)0x7ffffffff000, PAGE, PROT_READ));
    line("unmap, not aligned", munmap(area + 1, PAGE));
    line("unmap nothing", munmap(area, 0));
    line("unmap beyond the end", munmap((void *)0x7fffffffe000, 8 * PAGE));
    line("unmap what is not mapped", munmap(area + 3 * PAGE, PAGE));
}

static void residency(void)
{
    char *area = map(4 * PAGE, PRIVATE | MAP_NORESERVE);
    unsigned char resident[8] = {9, 9, 9, 9, 9, 9, 9, 9};
    area[0] = 1;
    line("residency", mincore(area, PAGE, resident));
    printf("resident: %d, the next is not looked at: %d\n", resident[0] & 1, resident[1]);
    line("not aligned", mincore(area + 1, PAGE, resident));
    munmap(area + 2 * PAGE, PAGE);
    line("over a hole", mincore(area, 4 * PAGE, resident));
    line("nowhere to put it", mincore(area, PAGE, (void *)8));
    int fd = memfd_create("resident", 0);
    ftruncate(fd, 2 * PAGE);
    pwrite(fd, "x", 1, PAGE);
    char *view = mmap(0, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    mincore(view, 2 * PAGE, resident);
    printf("a file's pages: %d %d\n", resident[0] & 1, resident[1] & 1);
}

static void locking(void)
{
    char *area = map(8 * PAGE, PRIVATE | MAP_NORESERVE);
    unsigned char resident[8] = {0};
    line("lock", mlock(area + 10, PAGE));
    mincore(area, 2 * PAGE, resident);
    printf("both pages are there: %d %d\n", resident[0] & 1, resident[1] & 1);
    line("don't need, locked", madvise(area, PAGE, MADV_DONTNEED));
    line("free, locked", madvise(area, PAGE, MADV_FREE));
    line("invalidate, locked", msync(area, PAGE, MS_INVALIDATE));
    line("unlock", munlock(area, 2 * PAGE));
    line("don't need, unlocked", madvise(area, PAGE, MADV_DONTNEED));
    line("lock on fault", syscall(SYS_mlock2, area, PAGE, 1));
    line("lock, unknown flag", syscall(SYS_mlock2, area, PAGE, 2));
    munmap(area + 4 * PAGE, PAGE);
    line("lock over a hole", mlock(area, 8 * PAGE));
    line("unlock over a hole", munlock(area, 8 * PAGE));
    line("lock overflow", mlock(area, -PAGE));
    line("all, no flags", mlockall(0));
    line("all, unknown flags", mlockall(64));
    line("all, on fault only", mlockall(4));
    line("future", mlockall(MCL_FUTURE));
    char *later = map(4 * PAGE, PRIVATE);
    mincore(later, 4 * PAGE, resident);
    printf("new areas are there: %d\n", resident[3] & 1);
    line("new areas are locked", madvise(later, PAGE, MADV_DONTNEED));
    line("none", munlockall());
    line("not locked any more", madvise(later, PAGE, MADV_DONTNEED));
}

static void limits(void)
{
    struct rlimit old, limit;
    getrlimit(RLIMIT_AS, &old);
    limit = old;
    limit.rlim_cur = 1UL << 30;
    setrlimit(RLIMIT_AS, &limit);
    mapped("more addresses than allowed", mmap(0, 2UL << 30, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0));
    char *part = mapped("fewer", mmap(0, 64 << 20, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0));
    mapped("grown beyond", mremap(part, 64 << 20, 1UL << 30, MREMAP_MAYMOVE));
    setrlimit(RLIMIT_AS, &old);
    getrlimit(RLIMIT_DATA, &old);
    limit = old;
    limit.rlim_cur = 64 << 20;
    setrlimit(RLIMIT_DATA, &limit);
    mapped("more data than allowed", mmap(0, 128 << 20, RW, PRIVATE, -1, 0));
    mapped("read-only is no data", mmap(0, 128 << 20, PROT_READ, PRIVATE, -1, 0));
    mapped("shared is no data", mmap(0, 128 << 20, RW, SHARED, -1, 0));
    void *start = sbrk(0);
    printf("the heap neither: %d\n", sbrk(128 << 20) == (void *)-1 && sbrk(0) == start);
    setrlimit(RLIMIT_DATA, &old);
    printf("the heap grows: %d\n", sbrk(PAGE) == start);
    memset(start, 1, PAGE);
    printf("and shrinks: %d\n", sbrk(-PAGE) == (char *)start + PAGE);
    sbrk(PAGE);
    printf("what comes back is zero: %d\n", *(char *)start);
}

static void barriers(void)
{
    long query = syscall(SYS_membarrier, 0, 0, 0);
    printf("commands: global %ld, private expedited %ld, instructions %ld\n", query & 1, query & 8, query & 32);
    line("global", syscall(SYS_membarrier, 1, 0, 0));
    line("private, not registered", syscall(SYS_membarrier, 8, 0, 0));
    line("instructions, not registered", syscall(SYS_membarrier, 32, 0, 0));
    line("register", syscall(SYS_membarrier, 16, 0, 0));
    line("private", syscall(SYS_membarrier, 8, 0, 0));
    line("register instructions", syscall(SYS_membarrier, 64, 0, 0));
    line("instructions", syscall(SYS_membarrier, 32, 0, 0));
    line("register global expedited", syscall(SYS_membarrier, 4, 0, 0));
    line("global expedited", syscall(SYS_membarrier, 2, 0, 0));
    line("two at once", syscall(SYS_membarrier, 9, 0, 0));
    line("unknown", syscall(SYS_membarrier, 1 << 20, 0, 0));
    line("flags", syscall(SYS_membarrier, 1, 2, 0));
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    setbuf(stdout, 0);
    placement();
    reservations();
    growth();
    private_file();
    shared_file();
    memory_files();
    moves();
    advice();
    protections();
    residency();
    locking();
    limits();
    barriers();
    return 0;
}
