/* Memory of a process and its children: what is copied when somebody writes, what is shared, what is left out. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)
#define MANY 5000

static int data = 1, bss;

static char *map(size_t length, int flags)
{
    return mmap(0, length, RW, flags, -1, 0);
}

/* Waits for a child: its status, or the negative signal. */
static int end_of(pid_t pid)
{
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static long futex(uint32_t *word, int operation, uint32_t value)
{
    long result = syscall(SYS_futex, word, operation, value, 0, 0, 0);
    return result < 0 ? -errno : result;
}

/* Both directions, word by word: a pipe each way lets the two take turns. */
static void turns(void)
{
    char *heap = malloc(3 * PAGE), *area = map(64 * PAGE, PRIVATE), *shared = map(4 * PAGE, SHARED);
    int there[2], back[2], stack = 1;
    char token = 0;
    pipe(there);
    pipe(back);
    memset(area, 1, 64 * PAGE);
    memset(heap, 1, 3 * PAGE);
    shared[0] = 1;
    pid_t child = fork();
    if (child == 0) {
        read(there[0], &token, 1);
        printf("child, before: %d %d %d %d %d %d\n", data, bss, stack, heap[PAGE], area[9 * PAGE], shared[0]);
        data = bss = stack = 3;
        heap[PAGE] = area[9 * PAGE] = shared[0] = 3;
        area[10 * PAGE] = 4;
        printf("child, after: %d %d %d %d %d %d\n", data, bss, stack, heap[PAGE], area[9 * PAGE], shared[0]);
        printf("child, what the parent wrote: %d %d\n", area[20 * PAGE], shared[PAGE]);
        write(back[1], &token, 1);
        read(there[0], &token, 1);
        printf("child, later: %d %d\n", area[9 * PAGE], area[30 * PAGE]);
        _exit(area[10 * PAGE]);
    }
    area[20 * PAGE] = shared[PAGE] = 2;
    write(there[1], &token, 1);
    read(back[0], &token, 1);
    printf("parent: %d %d %d %d %d %d\n", data, bss, stack, heap[PAGE], area[9 * PAGE], shared[0]);
    area[9 * PAGE] = area[30 * PAGE] = 5;
    write(there[1], &token, 1);
    printf("the child's end: %d\n", end_of(child));
    area[31 * PAGE] = 6;
    printf("alone again: %d %d %d\n", area[31 * PAGE], area[10 * PAGE], area[32 * PAGE]);
}

/* Grandchildren, and pages that more than two have. */
static void generations(void)
{
    char *area = map(8 * PAGE, PRIVATE);
    for (int i = 0; i < 8; i++)
        area[i * PAGE] = 10 + i;
    pid_t child = fork();
    if (child == 0) {
        area[PAGE] = 30;
        pid_t grandchild = fork();
        if (grandchild == 0) {
            area[2 * PAGE] = 40;
            printf("grandchild: %d %d %d\n", area[0], area[PAGE], area[2 * PAGE]);
            _exit(0);
        }
        end_of(grandchild);
        printf("child: %d %d %d\n", area[0], area[PAGE], area[2 * PAGE]);
        _exit(0);
    }
    end_of(child);
    printf("parent: %d %d %d\n", area[0], area[PAGE], area[2 * PAGE]);
    int sum = 0;
    pid_t children[8];
    for (int i = 0; i < 8; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            area[i * PAGE] += 100;
            int total = 0;
            for (int j = 0; j < 8; j++)
                total += area[j * PAGE] & 0xff;
            _exit(total - 100 == 10 + 11 + 12 + 13 + 14 + 15 + 16 + 17 ? i : 77);
        }
    }
    for (int i = 0; i < 8; i++)
        sum += end_of(children[i]);
    printf("eight at once: %d, parent %d\n", sum, area[7 * PAGE]);
}

/* Calls that write into borrowed memory. */
static void calls(void)
{
    char *area = map(4 * PAGE, PRIVATE);
    memset(area, 'p', 4 * PAGE);
    pid_t child = fork();
    if (child == 0) {
        int zero = open("/dev/zero", O_RDONLY);
        read(zero, area + PAGE - 2, 4);
        printf("child: %d %d %c\n", area[PAGE - 1], area[PAGE + 1], area[PAGE + 2]);
        _exit(0);
    }
    end_of(child);
    printf("parent: %c %c\n", area[PAGE - 1], area[PAGE + 1]);
    child = fork();
    if (child == 0)
        _exit(0);
    int status = 99;
    waitpid(child, &status, 0);
    printf("the parent's own: %d\n", status);
}

/* What changes of areas do to borrowed pages. */
static void changes(void)
{
    char *area = map(16 * PAGE, PRIVATE);
    memset(area, 7, 16 * PAGE);
    mprotect(area + PAGE, PAGE, PROT_READ);
    pid_t child = fork();
    if (child == 0) {
        mprotect(area + PAGE, PAGE, RW);
        area[PAGE] = 8;
        mprotect(area + 2 * PAGE, PAGE, PROT_READ);
        mprotect(area + 2 * PAGE, PAGE, RW);
        area[2 * PAGE] = 8;
        char *moved = mremap(area + 4 * PAGE, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE);
        moved[PAGE] = 8;
        printf("child: moved %d %d %d\n", moved[0], moved[PAGE], moved[2 * PAGE]);
        madvise(area + 8 * PAGE, PAGE, MADV_DONTNEED);
        munmap(area + 9 * PAGE, PAGE);
        printf("child: dropped %d\n", area[8 * PAGE]);
        _exit(0);
    }
    end_of(child);
    printf("parent: %d %d %d %d %d %d\n", area[PAGE], area[2 * PAGE], area[4 * PAGE], area[5 * PAGE], area[8 * PAGE],
           area[9 * PAGE]);
    child = fork();
    if (child == 0) {
        *(volatile char *)(area + PAGE) = 1;
        _exit(0);
    }
    printf("read-only in the child too: %d\n", end_of(child));
}

/* Areas that a child gets otherwise. */
static void advice(void)
{
    char *omitted = map(PAGE, PRIVATE), *wiped = map(PAGE, PRIVATE), *both = map(2 * PAGE, PRIVATE);
    omitted[0] = wiped[0] = both[0] = both[PAGE] = 9;
    madvise(omitted, PAGE, MADV_DONTFORK);
    madvise(wiped, PAGE, MADV_WIPEONFORK);
    madvise(both, 2 * PAGE, MADV_WIPEONFORK);
    madvise(both + PAGE, PAGE, MADV_KEEPONFORK);
    pid_t child = fork();
    if (child == 0) {
        printf("wiped: %d, half of it: %d %d\n", wiped[0], both[0], both[PAGE]);
        wiped[0] = 1;
        pid_t grandchild = fork();
        if (grandchild == 0) {
            printf("wiped again: %d\n", wiped[0]);
            _exit(0);
        }
        end_of(grandchild);
        _exit(*(volatile char *)omitted);
    }
    printf("omitted: %d, parent %d %d\n", end_of(child), omitted[0], wiped[0]);
}

/* Files. */
static void files(void)
{
    int fd = open("/tmp/cow-file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    unlink("/tmp/cow-file");
    ftruncate(fd, 4 * PAGE);
    char *private = mmap(0, 4 * PAGE, RW, MAP_PRIVATE, fd, 0), *shared = mmap(0, 4 * PAGE, RW, MAP_SHARED, fd, 0);
    private[0] = 'a';
    pid_t child = fork();
    if (child == 0) {
        shared[PAGE] = 's';
        printf("child: %c %c\n", private[0], private[PAGE]);
        private[0] = 'c';
        private[PAGE] = 'd';
        shared[2 * PAGE] = 't';
        _exit(0);
    }
    end_of(child);
    printf("parent: %c %c %c\n", private[0], private[PAGE], shared[2 * PAGE]);
    child = fork();
    if (child == 0) {
        ftruncate(fd, PAGE);
        _exit(0);
    }
    end_of(child);
    child = fork();
    if (child == 0)
        _exit(*(volatile char *)(shared + PAGE));
    printf("cut by a child: %d\n", end_of(child));
    int memory = memfd_create("between", 0);
    ftruncate(memory, PAGE);
    child = fork();
    if (child == 0) {
        char *mine = mmap(0, PAGE, RW, MAP_SHARED, memory, 0);
        strcpy(mine, "mapped after the fork");
        _exit(0);
    }
    end_of(child);
    printf("%s\n", (char *)mmap(0, PAGE, PROT_READ, MAP_SHARED, memory, 0));
}

/* Many pages, again and again. */
static void many(void)
{
    char *area = map(MANY * PAGE, PRIVATE);
    int wrong = 0;
    for (int i = 0; i < MANY; i++)
        *(int *)(area + i * PAGE) = i;
    for (int round = 0; round < 5; round++) {
        pid_t child = fork();
        if (child == 0) {
            for (int i = round; i < MANY; i += 7)
                *(int *)(area + i * PAGE) = -1;
            for (int i = 0; i < MANY; i++)
                wrong += *(int *)(area + i * PAGE) != (i % 7 == round ? -1 : i + round);
            _exit(wrong != 0);
        }
        wrong += end_of(child);
        for (int i = 0; i < MANY; i++) {
            wrong += *(int *)(area + i * PAGE) != i + round;
            ++*(int *)(area + i * PAGE);
        }
    }
    printf("pages that were wrong: %d\n", wrong);
    munmap(area, MANY * PAGE);
}

/* A thread writes while another forks: every child sees two words that were written one after the other, in order. */
static volatile uint32_t *counters;
static volatile int is_over;

static void *count(void *unused)
{
    while (!is_over) {
        counters[0]++;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        counters[1024]++;
    }
    return 0;
}

static void concurrent(void)
{
    counters = (void *)map(2 * PAGE, PRIVATE);
    pthread_t thread;
    pthread_create(&thread, 0, count, 0);
    int wrong = 0;
    for (int i = 0; i < 30; i++) {
        pid_t child = fork();
        if (child == 0) {
            uint32_t second = counters[1024], first = counters[0];
            _exit(first - second > 1);
        }
        wrong += end_of(child);
    }
    is_over = 1;
    pthread_join(thread, 0);
    printf("snapshots out of order: %d, in step %d\n", wrong, counters[0] == counters[1024]);
}

/* Futexes: shared ones reach the other process, private ones keep their waiter when the page is copied. */
static uint32_t own_word, ready;

static void *waiter(void *unused)
{
    __atomic_store_n(&ready, 1, __ATOMIC_SEQ_CST);
    return (void *)futex(&own_word, FUTEX_WAIT_PRIVATE, 0);
}

static int wake(uint32_t *word, int operation)
{
    for (;;) {
        long woken = futex(word, operation, 1);
        if (woken)
            return woken;
        usleep(1000);
    }
}

static void futexes(void)
{
    uint32_t *shared = (void *)map(PAGE, SHARED);
    pid_t child = fork();
    if (child == 0)
        _exit(futex(shared, FUTEX_WAIT, 0) == 0 ? 5 : 6);
    printf("woken in the child: %d\n", wake(shared, FUTEX_WAKE));
    printf("the child's wait: %d\n", end_of(child));
    child = fork();
    if (child == 0) {
        uint32_t *elsewhere = mremap(shared, 0, PAGE, MREMAP_MAYMOVE);
        _exit(futex(elsewhere + 1, FUTEX_WAIT, 0) == 0 ? 5 : 6);
    }
    printf("woken at another address: %d\n", wake(shared + 1, FUTEX_WAKE));
    printf("its wait: %d\n", end_of(child));
    pthread_t thread;
    pthread_create(&thread, 0, waiter, 0);
    while (!__atomic_load_n(&ready, __ATOMIC_SEQ_CST))
        usleep(1000);
    child = fork();
    if (child == 0)
        _exit(futex(&own_word, FUTEX_WAKE_PRIVATE, 9));
    printf("a child's private wake: %d\n", end_of(child));
    child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    own_word = 1; /* the page is copied while the thread waits */
    own_word = 0;
    printf("woken after the copy: %d\n", wake(&own_word, FUTEX_WAKE_PRIVATE));
    void *result;
    pthread_join(thread, &result);
    printf("its result: %ld\n", (long)result);
    kill(child, 9);
    printf("the other child: %d\n", end_of(child));

    pthread_mutex_t *mutex = (void *)map(PAGE, SHARED);
    int *total = (int *)(mutex + 1);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &attributes);
    pid_t children[4];
    for (int i = 0; i < 4; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            for (int j = 0; j < 1000; j++) {
                pthread_mutex_lock(mutex);
                ++*total;
                pthread_mutex_unlock(mutex);
            }
            _exit(0);
        }
    }
    for (int i = 0; i < 4; i++)
        end_of(children[i]);
    printf("counted under a shared mutex: %d\n", *total);
    child = fork();
    if (child == 0) {
        pthread_mutex_lock(mutex);
        _exit(0);
    }
    end_of(child);
    printf("the owner has died: %d\n", pthread_mutex_lock(mutex) == EOWNERDEAD);
    printf("consistent: %d\n", pthread_mutex_consistent(mutex));
    pthread_mutex_unlock(mutex);
}

int main(void)
{
    setbuf(stdout, 0);
    turns();
    generations();
    calls();
    changes();
    advice();
    files();
    many();
    concurrent();
    futexes();
    return 0;
}
