/* Mappings of files that become shorter: pages past the end fault with SIGBUS in every mapping of every process, however the
   file was cut and whatever was in them. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { PAGE = 4096, RW = PROT_READ | PROT_WRITE };

static sigjmp_buf back;
static volatile int code;
static void *volatile address;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)context;
    code = info->si_code;
    address = info->si_addr;
    siglongjmp(back, signal);
}

/* What a touch of a byte gives: its value, or the signal with its code. */
static const char *touch(volatile char *at, int is_write)
{
    static char texts[8][64];
    static int next;
    char *text = texts[next++ % 8];
    int signal = sigsetjmp(back, 1);
    if (signal) {
        const char *name = signal == SIGBUS ? "SIGBUS" : signal == SIGSEGV ? "SIGSEGV" : "another signal";
        sprintf(text, "%s code %d%s", name, code, address == at ? "" : ", another address");
        return text;
    }
    if (is_write)
        *at = 'w';
    sprintf(text, "%d", *at);
    return text;
}

static int file_of_pages(const char *path, int pages)
{
    int fd = path ? open(path, O_RDWR | O_CREAT | O_TRUNC, 0600) : memfd_create("memory", 0);
    char page[PAGE];
    for (int i = 0; i < pages; i++) {
        memset(page, 'a' + i, PAGE);
        if (write(fd, page, PAGE) != PAGE)
            perror("write");
    }
    return fd;
}

static void show(const char *name, char *view, int first, int end)
{
    for (int i = first; i < end; i++)
        printf("%s, page %d: read %s, write %s\n", name, i, touch(view + i * PAGE + 5, 0), touch(view + i * PAGE + 6, 1));
}

/* All ways to map a file, each with pages that were read, written, and never touched. */
static void every_mapping(const char *name, const char *path)
{
    int fd = file_of_pages(path, 6);
    char *shared = mmap(0, 8 * PAGE, RW, MAP_SHARED, fd, 0);
    char *private = mmap(0, 8 * PAGE, RW, MAP_PRIVATE, fd, 0);
    char *tail = mmap(0, 3 * PAGE, PROT_READ, MAP_SHARED, fd, 3 * PAGE);
    char *populated = mmap(0, 6 * PAGE, RW, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    printf("== %s\n", name);
    printf("past the end from the start: %s\n", touch(shared + 6 * PAGE, 0));
    (void)touch(shared + 3 * PAGE, 0);
    (void)touch(shared + 4 * PAGE, 1);
    (void)touch(private + 3 * PAGE, 0);
    (void)touch(private + 4 * PAGE, 1);
    (void)touch(tail, 0);
    SAY(ftruncate(fd, 2 * PAGE + 100));
    show("shared", shared, 1, 7);
    show("private", private, 1, 7);
    show("populated", populated, 1, 6);
    printf("tail: %s %s %s\n", touch(tail, 0), touch(tail + PAGE, 0), touch(tail + 2 * PAGE, 0));
    printf("within the last page, past the end: %s\n", touch(shared + 2 * PAGE + 200, 0));
    char byte = 0;
    SAY(pread(fd, &byte, 1, 2 * PAGE + 200));
    int pipes[2];
    SAY(pipe(pipes));
    SAY(write(pipes[1], shared + 4 * PAGE, 1));
    SAY(write(pipes[1], shared + 2 * PAGE, 1));
    SAY(read(pipes[0], private + 4 * PAGE, 1));
    struct iovec local = { &byte, 1 }, remote = { shared + 5 * PAGE, 1 };
    SAY(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
    SAY(ftruncate(fd, 5 * PAGE));
    show("shared, grown", shared, 2, 6);
    show("private, grown", private, 2, 6);
    SAY(pread(fd, &byte, 1, 3 * PAGE + 6));
    SHOW("written through the mapping", "%d", byte);
    SAY(ftruncate(fd, 0));
    printf("empty: %s %s\n", touch(shared, 0), touch(private, 1));
    char *moved = mremap(shared, 8 * PAGE, 10 * PAGE, MREMAP_MAYMOVE);
    printf("moved: %s\n", touch(moved + 9 * PAGE, 1));
    SAY(pwrite(fd, "xyz", 3, PAGE));
    printf("after a write makes it longer: %s %s %s\n", touch(moved, 0), touch(moved + PAGE, 0), touch(moved + 2 * PAGE, 0));
    SAY(munmap(private, 8 * PAGE));
    close(fd);
}

static void by_others(void)
{
    int fd = file_of_pages("/tmp/truncation", 4);
    char *view = mmap(0, 4 * PAGE, RW, MAP_SHARED, fd, 0);
    char *private = mmap(0, 4 * PAGE, RW, MAP_PRIVATE, fd, 0);
    for (int i = 0; i < 4; i++)
        printf("%s%s", touch(view + i * PAGE, 0), i < 3 ? " " : "\n");
    (void)touch(private + PAGE, 1);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(truncate("/tmp/truncation", 3 * PAGE));
    int status;
    waitpid(child, &status, 0);
    SHOW("a child cuts it", "%d", status);
    printf("%s %s\n", touch(view + 2 * PAGE, 0), touch(view + 3 * PAGE, 0));
    close(open("/tmp/truncation", O_WRONLY | O_TRUNC));
    printf("opened with O_TRUNC: %s, %s\n", touch(view, 0), touch(private + PAGE, 0));
    SAY(ftruncate(fd, 4 * PAGE));
    fflush(stdout);
    child = fork();
    if (child == 0) {
        (void)touch(view + PAGE, 1);
        signal(SIGBUS, SIG_DFL);
        (void)ftruncate(fd, PAGE);
        view[PAGE] = 'n';
        _exit(0);
    }
    waitpid(child, &status, 0);
    SHOW("an unhandled one ends the child with signal", "%d", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    printf("the parent: %s %s\n", touch(view, 0), touch(view + PAGE, 0));
    SAY(unlink("/tmp/truncation"));
    SAY(ftruncate(fd, 2 * PAGE));
    SAY(ftruncate(fd, PAGE));
    printf("without a name: %s %s\n", touch(view, 0), touch(view + PAGE, 1));
    close(fd);
}

static void protection_comes_first(void)
{
    int fd = file_of_pages(NULL, 1);
    char *view = mmap(0, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    printf("a write to read-only past the end: %s\n", touch(view + PAGE, 1));
    printf("a read: %s\n", touch(view + PAGE, 0));
    SAY(mprotect(view, 2 * PAGE, PROT_NONE));
    printf("no access: %s\n", touch(view + PAGE, 0));
    close(fd);
}

int main(void)
{
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    every_mapping("memfd", NULL);
    every_mapping("a file", "/tmp/truncation");
    SAY(unlink("/tmp/truncation"));
    by_others();
    protection_comes_first();
    return 0;
}
