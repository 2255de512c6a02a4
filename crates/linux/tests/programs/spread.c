/* Pages that lie far from each other, so that each needs page tables of its own: as many at once as there can
   be, and then everywhere in turn by several threads. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "check.h"

#define PAGE 4096L
#define GIB (1L << 30)
#define FIRST (64 * GIB)
#define PLACES 6000
#define THREADS 3

static long refused, wrong;

static char *place(long number)
{
    return (char *)(FIRST + number * 7 * GIB);
}

/* Each thread has places of its own, and a few that it keeps. */
static void *sweep(void *number)
{
    long first = (long)number, kept[4] = { 0 };
    for (long i = first; i < PLACES; i += THREADS) {
        char *page = mmap(place(i), PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (page == MAP_FAILED || madvise(page, PAGE, MADV_POPULATE_WRITE)) {
            __atomic_fetch_add(&refused, 1, __ATOMIC_RELAXED);
            continue;
        }
        wrong += *(volatile long *)page != 0;
        *(long *)page = i;
        long *slot = &kept[i / THREADS % 4];
        if (*slot) {
            wrong += *(volatile long *)place(*slot) != *slot;
            munmap(place(*slot), PAGE);
        }
        *slot = i;
    }
    for (int i = 0; i < 4; i++)
        if (kept[i])
            munmap(place(kept[i]), PAGE);
    return 0;
}

static void in_turn(void)
{
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++)
        pthread_create(&threads[i], 0, sweep, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], 0);
    printf("everywhere in turn: refused %ld, wrong %ld\n", refused, wrong);
}

/* Until there is no more; then all of it goes. How many there are is the machine's affair. */
static long at_once(void)
{
    long count = 0;
    for (; count < 18000; count++) {
        char *page = mmap(place(count), PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (page == MAP_FAILED || madvise(page, PAGE, MADV_POPULATE_WRITE))
            break;
        *(long *)page = count;
    }
    for (long i = 0; i < count; i++)
        wrong += *(volatile long *)place(i) != i;
    for (long i = 0; i <= count; i++)
        munmap(place(i), PAGE);
    return count;
}

int main(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    long count = at_once();
    printf("at once: many %d, wrong %ld\n", count > 100, wrong);
    in_turn();
    char *memory = malloc(16 << 20);
    memset(memory, 1, 16 << 20);
    long sum = 0;
    for (long i = 0; i < 16 << 20; i += PAGE)
        sum += memory[i];
    SHOW("memory afterwards", "%ld", sum);
    return 0;
}
