/* What the programs about files have in common: a printed result for each call, in a fresh directory. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "check.h"

/* A line made of values. */
#define TELL(format, ...) printf(format "\n", __VA_ARGS__)

static inline void fresh_directory(void)
{
    static char directory[] = "/tmp/program-XXXXXX";
    setvbuf(stdout, NULL, _IONBF, 0);
    umask(022);
    if (!mkdtemp(directory) || chdir(directory))
        abort();
    chmod(directory, 0755);
}
