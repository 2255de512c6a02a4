/* execve: arguments and environment, what is kept and what is not, from another thread, and the errors. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *self;

static void *exec_elsewhere(void *argument)
{
    char *arguments[] = { self, "third", 0 }, *environment[] = { "A=1", 0 };
    execve(self, arguments, environment);
    return 0;
}

static void *wait_for_ever(void *argument)
{
    for (;;)
        pause();
    return 0;
}

int main(int argc, char **argv)
{
    self = argv[0];
    if (argc == 1) {
        char *arguments[] = { self, "second", "", 0 }, *environment[] = { "A=2", "B=", 0 };
        errno = 0;
        execve("/nonexistent", arguments, environment);
        printf("missing %d", errno);
        execve("/", arguments, environment);
        printf(", directory %d", errno);
        execve("/etc/passwd", arguments, environment);
        printf(", not executable %d", errno);
        execve((char *)8, arguments, environment);
        printf(", bad pointer %d\n", errno);
        fflush(stdout);
        signal(SIGUSR1, SIG_IGN);
        signal(SIGUSR2, (void (*)(int))wait_for_ever);
        int kept = open("/dev/null", O_RDONLY), closed = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (kept != 3 || closed != 4)
            printf("descriptors %d %d\n", kept, closed);
        execve(self, arguments, environment);
        printf("failed %d\n", errno);
        return 1;
    }
    printf("%s, %d arguments, A=%s B=%s\n", argv[1], argc, getenv("A"), getenv("B") ? getenv("B") : "none");
    if (!strcmp(argv[1], "second")) {
        printf("kept %d closed %d\n", fcntl(3, F_GETFD), fcntl(4, F_GETFD));
        struct sigaction one, two;
        sigaction(SIGUSR1, 0, &one);
        sigaction(SIGUSR2, 0, &two);
        printf("ignored %d, default %d\n", one.sa_handler == SIG_IGN, two.sa_handler == SIG_DFL);
        fflush(stdout);
        pthread_t thread;
        pthread_create(&thread, 0, wait_for_ever, 0);
        pthread_create(&thread, 0, exec_elsewhere, 0);
        volatile int spin = 1;
        while (spin) { }
    }
    printf("first thread %d\n", getpid() == gettid());
    return 9;
}
