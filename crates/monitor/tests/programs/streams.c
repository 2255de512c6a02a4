// Does with its streams what its first argument says.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    static char block[65536];
    if (strcmp(what, "hello") == 0) {
        printf("hello %s\n", getenv("NAME"));
        fprintf(stderr, "to stderr\n");
        return 3;
    }
    if (strcmp(what, "copy") == 0) {
        ssize_t length;
        while ((length = read(0, block, sizeof block)) > 0)
            for (ssize_t done = 0; done < length;) {
                ssize_t written = write(1, block + done, length - done);
                if (written < 0) return 1;
                done += written;
            }
        return length < 0;
    }
    if (strcmp(what, "flood") == 0) {
        memset(block, 'x', sizeof block);
        for (;;)
            if (write(1, block, sizeof block) < 0) return 1;
    }
    if (strcmp(what, "spin") == 0) {
        write(1, "spinning\n", 9);
        for (volatile int i = 0;; i++) {}
    }
    if (strcmp(what, "hog") == 0)
        for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    if (strcmp(what, "segfault") == 0) *(volatile int *)8 = 1;
    return 0;
}
