/* Futexes while there are child processes: a waiter in private memory is woken although its page was copied meanwhile, and
   one in shared memory by another process; one process's word is not the other's. */
#include "check.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int first, second;

static long futex(int *word, int operation, int value, long fourth, int *other, int last)
{
    return syscall(SYS_futex, word, operation, value, fourth, other, last);
}

static void *wait_private(void *flag)
{
    return (void *)futex(&first, FUTEX_WAIT | (int)(long)flag, 0, 0, NULL, 0);
}

static void *wait_shared(void *word)
{
    return (void *)futex(word, FUTEX_WAIT, 0, 0, NULL, 0);
}

/* Moves the waiter of `from` to `to` as soon as it waits. */
static void wait_until_moved(int *from, int *to, int flag)
{
    while (futex(from, FUTEX_CMP_REQUEUE | flag, 0, 1, to, 0) != 1)
        sched_yield();
}

static void in_private_memory(int flag)
{
    pthread_t thread;
    int stop[2], status;
    void *result;
    first = second = 0;
    pipe(stop);
    pthread_create(&thread, NULL, wait_private, (void *)(long)flag);
    wait_until_moved(&first, &second, flag);
    pid_t child = fork();
    if (!child) {
        second = 2;
        _exit((int)futex(&second, FUTEX_WAKE | flag, INT_MAX, 0, NULL, 0) + (int)read(stop[0], &status, 1));
    }
    second = 1;
    SAY(futex(&second, FUTEX_WAKE | flag, INT_MAX, 0, NULL, 0));
    write(stop[1], "x", 1);
    pthread_join(thread, &result);
    SAY((long)result);
    waitpid(child, &status, 0);
    SAY(WEXITSTATUS(status));
    SAY(second);
}

static void in_shared_memory(void)
{
    int *words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status;
    pid_t child = fork();
    if (!child)
        _exit((int)(long)wait_shared(words) + 5);
    wait_until_moved(words, words + 1, 0);
    pid_t bystander = fork();
    if (!bystander)
        _exit((int)futex(words, FUTEX_WAKE, INT_MAX, 0, NULL, 0));
    waitpid(bystander, &status, 0);
    SAY(WEXITSTATUS(status));
    SAY(futex(words + 1, FUTEX_WAKE, INT_MAX, 0, NULL, 0));
    waitpid(child, &status, 0);
    SAY(WEXITSTATUS(status));
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    in_private_memory(0);
    in_private_memory(FUTEX_PRIVATE_FLAG);
    in_shared_memory();
    return 0;
}
