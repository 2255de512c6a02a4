/* Threads that change what other threads are using at the moment: mappings, and arguments of calls that are being served.
   What each may see is bounded: its own bytes, an error that fits, or a signal; never anything of another mapping. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include "check.h"
#include "directory.h"

#define PAGE 4096L
#define THREADS 4

static volatile int is_over;

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t below(uint64_t *state, uint64_t end)
{
    return (next(state) >> 11) % end;
}

static void run(int count, void *(*start)(void *))
{
    pthread_t threads[THREADS];
    for (long i = 0; i < count; i++)
        pthread_create(&threads[i], 0, start, (void *)(i + 1));
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], 0);
}

/* Everybody maps, unmaps, protects and moves the same pages. */
#define STORM_PAGES 64
#define STORM_STEPS 150
static char *storm;
static int unexpected, refused;

static void *storming(void *number)
{
    uint64_t state = (uint64_t)number * 0x9e3779b97f4a7c15;
    for (int step = 0; step < STORM_STEPS; step++) {
        char *at = storm + below(&state, STORM_PAGES) * PAGE;
        long length = (1 + (long)below(&state, 16)) * PAGE;
        if (at + length > storm + STORM_PAGES * PAGE)
            length = storm + STORM_PAGES * PAGE - at;
        int protection = (int)below(&state, 4);
        long result = 0;
        switch (below(&state, 7)) {
        case 0: result = (long)mmap(at, length, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
        case 1: result = (long)mmap(at, length, protection, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
        case 2: result = munmap(at, length); break;
        case 3: result = mprotect(at, length, protection); break;
        case 4: result = madvise(at, length, below(&state, 2) ? MADV_DONTNEED : MADV_POPULATE_WRITE); break;
        case 5: {
            void *moved = mremap(at, length, length + PAGE, MREMAP_MAYMOVE);
            if (moved == MAP_FAILED)
                result = -1;
            else if ((char *)moved < storm || (char *)moved >= storm + STORM_PAGES * PAGE)
                munmap(moved, length + PAGE);
            break;
        }
        case 6: {
            int ends[2];
            if (pipe(ends))
                break;
            /* The monitor reads and writes there too. */
            result = write(ends[1], at, PAGE);
            if (result > 0)
                result = read(ends[0], at + length - PAGE, PAGE);
            close(ends[0]);
            close(ends[1]);
        }
        }
        if (result == -1) {
            __atomic_fetch_add(&refused, 1, __ATOMIC_RELAXED);
            if (errno != ENOMEM && errno != EINVAL && errno != EFAULT)
                __atomic_store_n(&unexpected, errno, __ATOMIC_RELAXED);
        }
    }
    return 0;
}

static void mapping_storm(void)
{
    storm = mmap(0, STORM_PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    run(THREADS, storming);
    SHOW("mapping storm, unexpected error", "%d", unexpected);
    SHOW("mapping storm, some were refused", "%d", refused > 0);
    char *whole = mmap(storm, STORM_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    long wrong = 0;
    for (long i = 0; i < STORM_PAGES * PAGE; i++)
        wrong += whole[i] != 0;
    for (long i = 0; i < STORM_PAGES; i++)
        *(long *)(whole + i * PAGE) = i;
    for (long i = 0; i < STORM_PAGES; i++)
        wrong += *(long *)(whole + i * PAGE) != i;
    SHOW("mapping storm, wrong afterwards", "%ld", wrong);
    munmap(whole, STORM_PAGES * PAGE);
}

/* One thread maps and unmaps a page, and gives its memory to others; two use the page all the time. */
#define OWN 0x1111111111111111
#define WRITTEN 0x2222222222222222
#define SECRET 0x7777777777777777
#define REMAPS 200
static volatile uint64_t *shared_page;
static _Thread_local sigjmp_buf on_fault;
static long others_seen, faults, uses;

static void faulted(int signal)
{
    siglongjmp(on_fault, signal);
}

static void *using_page(void *number)
{
    if (sigsetjmp(on_fault, 1))
        __atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
    while (!is_over) {
        if ((long)number == 1) {
            uint64_t seen = shared_page[(uint64_t)uses % 512];
            if (seen != 0 && seen != OWN && seen != WRITTEN)
                __atomic_fetch_add(&others_seen, 1, __ATOMIC_RELAXED);
        } else
            shared_page[(uint64_t)uses % 512] = WRITTEN;
        __atomic_fetch_add(&uses, 1, __ATOMIC_RELAXED);
    }
    return 0;
}

static void remap_under_use(const char *name, int flags)
{
    /* Nothing else fits between its neighbours. */
    char *page = (char *)mmap(0, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + PAGE;
    mmap(page, PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    shared_page = (void *)page;
    is_over = others_seen = faults = uses = 0;
    pthread_t users[2];
    for (long i = 0; i < 2; i++)
        pthread_create(&users[i], 0, using_page, (void *)(i + 1));
    while (uses < 100)
        sched_yield();
    long changed = 0;
    for (int round = 0; round < REMAPS; round++) {
        for (int i = 0; i < 512; i += 64)
            shared_page[i] = OWN;
        munmap(page, PAGE);
        /* Whoever still had a translation of the page would see this, or change it. */
        volatile uint64_t *secret = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; i < 1024; i++)
            secret[i] = SECRET;
        for (int i = 0; i < 1024; i++)
            changed += secret[i] != SECRET;
        munmap((void *)secret, 2 * PAGE);
        mmap(page, PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    }
    /* A use takes a page that has come back; there will be one. */
    for (long before = uses; uses == before;)
        sched_yield();
    is_over = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(users[i], 0);
    printf("%s: other memory seen %ld, changed %ld\n", name, others_seen, changed);
    munmap(page - PAGE, 3 * PAGE);
}

/* A page that may be read only does not change, whoever has written to it until then. */
static void protect_under_use(const char *name, int flags)
{
    char *page = mmap(0, PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    shared_page = (void *)page;
    is_over = others_seen = faults = uses = 0;
    pthread_t writers[2];
    for (long i = 0; i < 2; i++)
        pthread_create(&writers[i], 0, using_page, (void *)2L);
    while (uses < 100)
        sched_yield();
    long changed = 0;
    for (int round = 0; round < REMAPS; round++) {
        memset(page, 0x11, PAGE);
        mprotect(page, PAGE, PROT_READ);
        uint64_t before[512];
        memcpy(before, page, PAGE);
        for (int again = 0; again < 3; again++)
            changed += memcmp(before, page, PAGE) != 0;
        mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    }
    is_over = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(writers[i], 0);
    printf("%s: changed %ld\n", name, changed);
    munmap(page, PAGE);
}

/* Arguments that change while calls use them: so often at least, and until something has come of it. */
#define TRIES 200
#define CHANGES 500
#define TRIES_MAX 1000000
#define GOES_ON(tries, came) ((tries) < TRIES || ((changes < CHANGES || !(came)) && (tries) < TRIES_MAX))
static volatile unsigned changes;
static char path[64];
static struct iovec vectors[2];
static struct msghdr header;
static struct sigaction action;
static char letters_a[64], letters_b[64], control[CMSG_SPACE(sizeof(int))];
static struct pollfd polled[2];

static void *change_path(void *unused)
{
    for (unsigned n = 0; !is_over; changes = ++n)
        memset(path + 2, n & 1 ? 'a' : 'b', 4);
    return unused;
}

static void paths(void)
{
    for (int name = 'a'; name <= 'b'; name++) {
        char text[7] = { '.', '/', name, name, name, name };
        int fd = open(text, O_RDWR | O_CREAT, 0600);
        write(fd, text + 2, 4);
        close(fd);
    }
    strcpy(path, "./aaaa");
    is_over = changes = 0;
    pthread_t changer;
    pthread_create(&changer, 0, change_path, 0);
    int strange = 0, opened = 0;
    for (int i = 0; GOES_ON(i, opened); i++) {
        int fd = open(path, O_RDONLY);
        char content[5] = { 0 };
        if (fd < 0) {
            strange += errno != ENOENT;
            continue;
        }
        opened++;
        read(fd, content, 4);
        strange += strcmp(content, "aaaa") && strcmp(content, "bbbb");
        close(fd);
    }
    is_over = 1;
    pthread_join(changer, 0);
    printf("paths: strange %d, opened some %d\n", strange, opened > 0);
}

static void *change_vectors(void *unused)
{
    for (unsigned n = 0; !is_over; changes = ++n) {
        *(void *volatile *)&vectors[0].iov_base = n & 1 ? letters_a : letters_b;
        *(volatile size_t *)&vectors[1].iov_len = n & 2 ? 0 : n & 4 ? 16 : (size_t)-1;
    }
    return unused;
}

static void vectors_change(void)
{
    memset(letters_a, 'a', sizeof letters_a);
    memset(letters_b, 'b', sizeof letters_b);
    vectors[0] = (struct iovec){ letters_a, 16 };
    vectors[1] = (struct iovec){ letters_a, 0 };
    int ends[2];
    pipe(ends);
    is_over = changes = 0;
    pthread_t changer;
    pthread_create(&changer, 0, change_vectors, 0);
    int strange = 0;
    for (int i = 0; GOES_ON(i, 1); i++) {
        long sent = writev(ends[1], vectors, 2);
        if (sent < 0) {
            strange += errno != EINVAL;
            continue;
        }
        char taken[64] = { 0 };
        strange += sent != 16 && sent != 32;
        strange += read(ends[0], taken, sizeof taken) != sent;
        strange += memcmp(taken, letters_a, 16) && memcmp(taken, letters_b, 16);
    }
    is_over = 1;
    pthread_join(changer, 0);
    printf("vectors: strange %d\n", strange);
    close(ends[0]);
    close(ends[1]);
}

static void *change_message(void *unused)
{
    struct cmsghdr *part = (void *)control;
    for (unsigned n = 0; !is_over; changes = ++n) {
        *(volatile size_t *)&header.msg_controllen = n % 3 ? sizeof control : n % 7;
        *(volatile size_t *)&part->cmsg_len = n % 5 ? CMSG_LEN(sizeof(int)) : n % 64;
        *(volatile int *)CMSG_DATA(part) = n % 4 ? 1 : (int)(n % 100) - 50;
        *(volatile int *)&part->cmsg_type = n % 11 ? SCM_RIGHTS : (int)(n % 6);
    }
    return unused;
}

static void messages(void)
{
    int ends[2], before = dup(0);
    close(before);
    socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends);
    struct iovec vector = { letters_a, 8 };
    struct cmsghdr *part = (void *)control;
    part->cmsg_level = SOL_SOCKET;
    header = (struct msghdr){ .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control };
    is_over = changes = 0;
    pthread_t changer;
    pthread_create(&changer, 0, change_message, 0);
    int strange = 0, passed = 0;
    for (int i = 0; GOES_ON(i, passed); i++) {
        if (sendmsg(ends[0], &header, 0) < 0) {
            strange += errno != EINVAL && errno != EBADF && errno != EPERM && errno != ETOOMANYREFS && errno != ESRCH;
            continue;
        }
        char space[256], taken[16];
        struct iovec into = { taken, sizeof taken };
        struct msghdr got = { .msg_iov = &into, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
        strange += recvmsg(ends[1], &got, 0) != 8;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&got); c; c = CMSG_NXTHDR(&got, c))
            for (int *fd = (int *)CMSG_DATA(c); c->cmsg_type == SCM_RIGHTS && (char *)(fd + 1) <= (char *)c + c->cmsg_len; fd++) {
                passed++;
                strange += close(*fd) != 0;
            }
    }
    is_over = 1;
    pthread_join(changer, 0);
    close(ends[0]);
    close(ends[1]);
    int after = dup(0);
    close(after);
    printf("messages: strange %d, passed some %d, descriptors left %d\n", strange, passed > 0, after - before);
}

static volatile int handled[2];
static void handler_a(int signal) { handled[0]++; }
static void handler_b(int signal) { handled[1]++; }

static void *change_action(void *unused)
{
    for (unsigned n = 0; !is_over; changes = ++n)
        *(void (*volatile *)(int))&action.sa_handler = n & 1 ? handler_a : handler_b;
    return unused;
}

static void actions(void)
{
    action.sa_handler = handler_a;
    is_over = changes = 0;
    pthread_t changer;
    pthread_create(&changer, 0, change_action, 0);
    int raised = 0;
    for (; GOES_ON(raised, 1); raised++) {
        sigaction(SIGUSR1, &action, 0);
        raise(SIGUSR1);
    }
    is_over = 1;
    pthread_join(changer, 0);
    printf("actions: not handled %d\n", raised - handled[0] - handled[1]);
}

static void *change_polled(void *unused)
{
    for (int n = 0; !is_over; changes = ++n) {
        *(volatile int *)&polled[1].fd = n % 3 - 1;
        *(volatile short *)&polled[1].events = (short)n;
    }
    return unused;
}

static void polls(void)
{
    int ends[2];
    pipe(ends);
    polled[0] = (struct pollfd){ ends[1], POLLOUT, 0 };
    is_over = changes = 0;
    pthread_t changer;
    pthread_create(&changer, 0, change_polled, 0);
    int strange = 0;
    for (int i = 0; GOES_ON(i, 1); i++) {
        int ready = poll(polled, 2, 0);
        strange += ready < 1 || ready > 2 || polled[0].revents != POLLOUT;
    }
    is_over = 1;
    pthread_join(changer, 0);
    printf("polls: strange %d\n", strange);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    fresh_directory();
    signal(SIGSEGV, faulted);
    signal(SIGBUS, faulted);
    mapping_storm();
    remap_under_use("private page unmapped under use", MAP_PRIVATE);
    remap_under_use("shared page unmapped under use", MAP_SHARED);
    protect_under_use("private page protected under use", MAP_PRIVATE);
    protect_under_use("shared page protected under use", MAP_SHARED);
    paths();
    vectors_change();
    messages();
    actions();
    polls();
    return 0;
}
