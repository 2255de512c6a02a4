/* Unusual ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static int deeper(volatile char *above)
{
    volatile char room[1000];
    room[0] = above ? above[0] : 1;
    return deeper(room) + room[0];
}

int main(int argc, char **argv)
{
    struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    char *what = argv[1];
    if (!strcmp(what, "segv"))
        *(volatile int *)8 = 1;
    if (!strcmp(what, "recursion"))
        return deeper(0);
    if (!strcmp(what, "abort"))
        abort();
    if (!strcmp(what, "illegal"))
        __asm__ volatile("ud2");
    if (!strcmp(what, "divide")) {
        __asm__ volatile("xor %%ecx, %%ecx\n div %%ecx" : : "a"(1), "d"(0) : "rcx");
    }
    if (!strcmp(what, "hog")) {
        for (;;) {
            char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED)
                return 1;
            memset(p, 1, 1 << 20);
        }
    }
    close(0);
    close(1);
    close(2);
    _exit(17);
}
