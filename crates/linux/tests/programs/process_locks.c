/* Locks between processes: record locks are a process's, those of open files are inherited; both go with their owner. */
#include "directory.h"
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

static int fd;

static int set(int command, short type, long start, long length)
{
    struct flock wanted = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &wanted);
}

static void probe(const char *who, pid_t owner)
{
    struct flock found = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int result = fcntl(fd, F_GETLK, &found);
    TELL("%s: %d type %d from %ld length %ld %s", who, result, found.l_type, (long)found.l_start, (long)found.l_len,
         found.l_type == F_UNLCK ? "nobody" : found.l_pid == owner ? "expected owner" : found.l_pid == -1 ? "-1" : "?");
}

/* Runs a part in a child and waits for it. */
static void child(void (*part)(void))
{
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        part();
        _exit(0);
    }
    int status;
    TELL("child ended: %d", waitpid(pid, &status, 0) == pid && !status);
}

static void conflicts(void)
{
    probe("child", getppid());
    SAY(set(F_SETLK, F_WRLCK, 0, 10));
    SAY(set(F_SETLK, F_RDLCK, 5, 10));
    SAY(set(F_SETLK, F_WRLCK, 20, 10));
    SAY(set(F_OFD_SETLK, F_WRLCK, 0, 10));
}

static void opens_and_closes(void)
{
    close(open("file", O_RDONLY));
    SAY(set(F_SETLK, F_WRLCK, 100, 10));
}

static void inherited(void)
{
    int other = open("file", O_RDWR);
    SAY(flock(fd, LOCK_EX | LOCK_NB));
    SAY(flock(other, LOCK_SH | LOCK_NB));
    SAY(set(F_OFD_SETLK, F_WRLCK, 200, 10));
    struct flock wanted = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 200, .l_len = 1};
    SAY(fcntl(other, F_OFD_SETLK, &wanted));
}

static void lets_go(void)
{
    SAY(flock(fd, LOCK_UN));
}

static void waiting(void)
{
    int ready[2], status;
    char byte;
    if (pipe(ready))
        abort();
    SAY(set(F_SETLK, F_WRLCK, 0, 1));
    pid_t pid = fork();
    if (!pid) {
        set(F_SETLK, F_WRLCK, 1, 1);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        /* Waits until the parent, which waits for us in turn, is told that it must not. */
        _exit(set(F_SETLKW, F_WRLCK, 0, 1) ? 2 : 0);
    }
    if (read(ready[0], &byte, 1) != 1)
        abort();
    usleep(50000);
    SAY(set(F_SETLKW, F_WRLCK, 1, 1));
    SAY(set(F_SETLK, F_UNLCK, 0, 1));
    SAY(waitpid(pid, &status, 0) == pid);
    TELL("child got it: %d", WIFEXITED(status) && !WEXITSTATUS(status));
    /* Its end has given everything back. */
    SAY(set(F_SETLKW, F_WRLCK, 0, 0));
    SAY(set(F_SETLK, F_UNLCK, 0, 0));
}

static void killed(void)
{
    int ready[2];
    char byte;
    if (pipe(ready))
        abort();
    pid_t pid = fork();
    if (!pid) {
        set(F_SETLK, F_WRLCK, 0, 0);
        flock(open("file", O_RDWR), LOCK_EX);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        pause();
    }
    if (read(ready[0], &byte, 1) != 1)
        abort();
    probe("parent", pid);
    SAY(flock(fd, LOCK_SH | LOCK_NB));
    SAY(set(F_SETLK, F_RDLCK, 7, 1));
    kill(pid, SIGKILL);
    SAY(flock(fd, LOCK_SH));
    SAY(set(F_SETLKW, F_RDLCK, 7, 1));
    SAY(waitpid(pid, NULL, 0) == pid);
    probe("parent", pid);
}

int main(void)
{
    fresh_directory();
    fd = open("file", O_RDWR | O_CREAT, 0600);
    SAY(set(F_SETLK, F_WRLCK, 5, 10));
    child(conflicts);
    child(opens_and_closes);
    child(conflicts);
    probe("parent", getpid());
    close(open("file", O_RDONLY));
    child(conflicts);
    SAY(flock(fd, LOCK_EX));
    SAY(set(F_OFD_SETLK, F_WRLCK, 200, 10));
    child(inherited);
    child(lets_go);
    int other = open("file", O_RDWR);
    SAY(flock(other, LOCK_EX | LOCK_NB));
    SAY(flock(other, LOCK_UN));
    SAY(set(F_OFD_SETLK, F_UNLCK, 0, 0));
    waiting();
    killed();
    return 0;
}
