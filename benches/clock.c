// Prints the microseconds of one clock_gettime, the mean of a million.
#include <stdio.h>
#include <time.h>

int main(void)
{
    struct timespec first, now;
    const int count = 1000000;
    clock_gettime(CLOCK_MONOTONIC, &first);
    for (int i = 0; i < count; i++)
        clock_gettime(CLOCK_MONOTONIC, &now);
    double ns = (now.tv_sec - first.tv_sec) * 1e9 + (now.tv_nsec - first.tv_nsec);
    printf("%.4f\n", ns / count / 1000);
    return 0;
}
