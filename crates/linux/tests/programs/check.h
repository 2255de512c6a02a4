/* What the test programs print. A line is an assertion: it must be the same on the host and in every virtual machine, so
   it holds no address, process id, time or other chance value. */
#pragma once
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The expression and its value; after a negative value the error's name. */
#define SAY(expression)                                                        \
    do {                                                                       \
        errno = 0;                                                             \
        long result = (long)(expression);                                      \
        printf("%s = %ld%s%s\n", #expression, result, result < 0 ? " " : "",   \
               result < 0 ? strerrorname_np(errno) : "");                      \
    } while (0)

/* The name and a formatted value: SHOW("mode", "%o", status.st_mode). */
#define SHOW(name, format, ...) printf("%s: " format "\n", name, __VA_ARGS__)
