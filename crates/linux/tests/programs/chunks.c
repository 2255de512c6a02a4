/* Memory as allocators take it: chunks that may be backed before they are touched. What was backed for nothing is no
   memory that the program has used: with 64 MiB there is room for what it does use. */
#include "check.h"
#include <stdlib.h>
#include <sys/mman.h>

#define MIB (1L << 20)
#define PAGE 4096L
#define CHUNKS 64
#define ACCESS (PROT_READ | PROT_WRITE)

static char *reserve(long bytes, int protection)
{
    return mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static void touch(char *from, long bytes, char value)
{
    for (long at = 0; at < bytes; at += PAGE)
        from[at] = value;
}

/* Pages whose first byte is not the value. */
static long others(const char *from, long bytes, char value)
{
    long count = 0;
    for (long at = 0; at < bytes; at += PAGE)
        count += from[at] != value;
    return count;
}

/* As V8 does it: too much without access, less what is not aligned, then access. */
static char *open_chunk(void)
{
    char *chunk = reserve(512 << 10, PROT_NONE);
    if (munmap(chunk + (256 << 10), 256 << 10) || mprotect(chunk, 256 << 10, ACCESS))
        abort();
    return chunk;
}

int main(void)
{
    static char *chunks[CHUNKS], *opened[CHUNKS];
    char *first = reserve(12 * MIB, ACCESS);
    touch(first, 12 * MIB, 1);
    for (int i = 0; i < CHUNKS; i++) {
        chunks[i] = reserve(MIB, ACCESS);
        opened[i] = open_chunk();
    }
    /* A few are used, a page of each. */
    for (int i = 0; i < CHUNKS; i += 4) {
        chunks[i][5 * PAGE] = 2;
        opened[i][7 * PAGE] = 3;
    }
    SAY(mprotect(chunks[4], MIB, PROT_READ));
    SAY(mprotect(chunks[8], MIB, PROT_NONE));
    SAY(mlock(opened[4], 16 * PAGE));
    char *last = reserve(38 * MIB, ACCESS);
    touch(last, 38 * MIB, 4);
    SHOW("pages lost of those used first", "%ld", others(first, 12 * MIB, 1));
    SHOW("pages lost of those used last", "%ld", others(last, 38 * MIB, 4));
    SAY(mprotect(chunks[8], MIB, ACCESS));
    long used = 0, zeros = 0, wrong = 0;
    for (int i = 0; i < CHUNKS; i++) {
        for (long page = 0; page < 64; page++) {
            char in_chunk = i % 4 == 0 && page == 5 ? 2 : 0, in_opened = i % 4 == 0 && page == 7 ? 3 : 0;
            /* Reading one page of many backs few of them: the rest of the memory does not hold all. */
            if (page != 5 && page != 7 && (page || i > 8))
                continue;
            char *of_chunk = chunks[i] + page * PAGE, *of_opened = opened[i] + page * PAGE;
            wrong += *of_chunk != in_chunk;
            wrong += *of_opened != in_opened;
            used += (*of_chunk != 0) + (*of_opened != 0);
            zeros += (*of_chunk == 0) + (*of_opened == 0);
        }
        SAY(munmap(chunks[i], MIB));
        SAY(munmap(opened[i], 256 << 10));
    }
    SHOW("pages as they were left", "%ld used, %ld of zeros, %ld wrong", used, zeros, wrong);
    SAY(munmap(last, 38 * MIB));
    /* The memory is there for others. */
    last = reserve(44 * MIB, ACCESS);
    SHOW("pages of zeros", "%d", others(last, 44 * MIB, 0) == 0);
    touch(last, 44 * MIB, 5);
    SHOW("pages lost", "%ld", others(last, 44 * MIB, 5) + others(first, 12 * MIB, 1));
    SAY(mprotect(last, MIB, PROT_NONE));
    SAY(mprotect(last, MIB, ACCESS));
    SHOW("pages lost without access", "%ld", others(last, MIB, 5));
    return 0;
}
