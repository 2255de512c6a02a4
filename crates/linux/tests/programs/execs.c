/* execve and execveat in child processes: which file, scripts, descriptors, signals, threads, what /proc says. */
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char *self;
static char *volatile bad = (char *)16;
extern char **environ;

static int at(int fd, const char *path, int flags, char **arguments)
{
    return syscall(SYS_execveat, fd, path, arguments, environ, flags);
}

static int status_of(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void write_file(const char *path, const char *text, int mode)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    write(fd, text, strlen(text));
    fchmod(fd, mode);
    close(fd);
}

/* Runs in a child: the status of what it becomes, or 200 and the error. */
#define IN_CHILD(...)                                                         \
    ({                                                                         \
        fflush(stdout);                                                        \
        pid_t pid = fork();                                                    \
        if (!pid) {                                                            \
            __VA_ARGS__;                                                       \
            printf("error %s\n", strerrorname_np(errno));                      \
            fflush(stdout);                                                    \
            _exit(200);                                                        \
        }                                                                      \
        status_of(pid);                                                        \
    })

static void files(void)
{
    char *arguments[] = { "name", "say", "hello", 0 };
    int program = open(self, O_RDONLY | O_CLOEXEC), path = open(self, O_PATH), etc = open("/bin", O_RDONLY);
    SAY(IN_CHILD(at(program, "", AT_EMPTY_PATH, arguments)));
    SAY(IN_CHILD(at(path, "", AT_EMPTY_PATH, arguments)));
    SAY(IN_CHILD(at(AT_FDCWD, self, 0, arguments)));
    SAY(IN_CHILD(fexecve(program, arguments, environ)));
    SAY(IN_CHILD(at(program, "", 0, arguments)));
    SAY(IN_CHILD(at(-1, "", AT_EMPTY_PATH, arguments)));
    SAY(IN_CHILD(at(-1, "relative", 0, arguments)));
    SAY(IN_CHILD(at(program, "relative", 0, arguments)));
    SAY(IN_CHILD(at(etc, "", AT_EMPTY_PATH, arguments)));
    SAY(IN_CHILD(at(AT_FDCWD, self, 1, arguments)));
    symlink(self, "/tmp/execs-link");
    SAY(IN_CHILD(at(AT_FDCWD, "/tmp/execs-link", 0, arguments)));
    SAY(IN_CHILD(at(AT_FDCWD, "/tmp/execs-link", AT_SYMLINK_NOFOLLOW, arguments)));
    unlink("/tmp/execs-link");
    char *shell[] = { "sh", "-c", "exit 31", 0 };
    SAY(IN_CHILD(at(etc, "sh", 0, shell)));
    SAY(IN_CHILD(execve("/bin/sh", shell, environ)));
    SAY(IN_CHILD(execve("/bin/sh/x", shell, environ)));
    SAY(IN_CHILD(execve("", shell, environ)));
    SAY(IN_CHILD(execve("/tmp", shell, environ)));
    SAY(IN_CHILD(execve("/bin/sh", (char **)bad, environ)));
    SAY(IN_CHILD(execve("/bin/sh", shell, (char **)bad)));
    int memory = memfd_create("program", 0);
    char block[65536];
    ssize_t count;
    while ((count = read(program, block, sizeof block)) > 0)
        write(memory, block, count);
    SAY(IN_CHILD(fexecve(memory, arguments, environ)));
    close(memory);
    close(program);
    close(path);
    close(etc);
}

static void scripts(void)
{
    char line[300];
    snprintf(line, sizeof line, "#!%s say\n", self);
    write_file("/tmp/execs-script", line, 0755);
    char *arguments[] = { "name", "more", 0 };
    SAY(IN_CHILD(execve("/tmp/execs-script", arguments, environ)));
    chdir("/tmp");
    SAY(IN_CHILD(execve("execs-script", arguments, environ)));
    chdir("/");
    int folder = open("/tmp", O_RDONLY);
    SAY(IN_CHILD(dup2(folder, 20); at(20, "execs-script", 0, arguments)));
    int script = open("/tmp/execs-script", O_RDONLY);
    SAY(IN_CHILD(dup2(script, 21); at(21, "", AT_EMPTY_PATH, arguments)));
    SAY(IN_CHILD(fcntl(script, F_SETFD, FD_CLOEXEC); at(script, "", AT_EMPTY_PATH, arguments)));
    close(script);
    close(folder);
    write_file("/tmp/execs-script", "#!/bin/sh\nexit 41\n", 0755);
    SAY(IN_CHILD(execve("/tmp/execs-script", arguments, environ)));
    write_file("/tmp/execs-script", "#!/bin/sh\nexit 41\n", 0644);
    SAY(IN_CHILD(execve("/tmp/execs-script", arguments, environ)));
    write_file("/tmp/execs-script", "exit 42\n", 0755);
    SAY(IN_CHILD(execve("/tmp/execs-script", arguments, environ)));
    SAY(IN_CHILD(execvp("/tmp/execs-script", arguments)));
    write_file("/tmp/execs-script", "#!/nothing\n", 0755);
    SAY(IN_CHILD(execve("/tmp/execs-script", arguments, environ)));
    write_file("/tmp/execs-script", "#!\n", 0755);
    SAY(IN_CHILD(execve("/tmp/execs-script", arguments, environ)));
    write_file("/tmp/execs-script", "#!/tmp/execs-script\n", 0755);
    SAY(IN_CHILD(execve("/tmp/execs-script", arguments, environ)));
    write_file("/tmp/execs-script", "", 0755);
    SAY(IN_CHILD(execve("/tmp/execs-script", arguments, environ)));
    unlink("/tmp/execs-script");
}

static void *wait_for_ever(void *argument)
{
    for (;;)
        pause();
    return 0;
}

static void *spin(void *argument)
{
    for (;;) { }
    return 0;
}

static void *become(void *argument)
{
    char *arguments[] = { self, "facts", 0 };
    execve(self, arguments, environ);
    return 0;
}

static void with_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    raise(SIGUSR1);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGTERM, (void (*)(int))wait_for_ever);
    umask(0123);
    alarm(50);
    stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
    sigaltstack(&stack, 0);
    become(0);
}

static void with_threads(void)
{
    pthread_t thread;
    for (int i = 0; i < 5; i++)
        pthread_create(&thread, 0, i % 2 ? spin : wait_for_ever, 0);
    become(0);
}

static void by_another_thread(void)
{
    pthread_t thread;
    pthread_create(&thread, 0, spin, 0);
    pthread_create(&thread, 0, become, 0);
    pthread_exit(0);
}

static void in_vain(void)
{
    pthread_t thread;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pthread_create(&thread, 0, spin, 0);
    execl("/nothing", "x", (char *)0);
    _exit(fcntl(fd, F_GETFD) == FD_CLOEXEC && pthread_kill(thread, 0) == 0 ? 51 : 52);
}

static void kept(void)
{
    /* What the program that is started sees of the one before. */
    SAY(IN_CHILD(with_signals()));
    SAY(IN_CHILD(with_threads()));
    SAY(IN_CHILD(by_another_thread()));
    /* A failed attempt changes nothing. */
    SAY(IN_CHILD(in_vain()));
    /* With the memory of the parent. */
    volatile int mark = 1;
    pid_t pid = vfork();
    if (!pid) {
        mark = 2;
        execl(self, "x", "say", "after vfork", (char *)0);
        _exit(1);
    }
    SAY(status_of(pid));
    SAY(mark);
}

static int facts(void)
{
    char text[1000];
    sigset_t set, pending;
    struct sigaction action;
    sigprocmask(SIG_BLOCK, 0, &set);
    sigpending(&pending);
    SAY(sigismember(&set, SIGUSR1));
    SAY(sigismember(&pending, SIGUSR1));
    sigaction(SIGUSR2, 0, &action);
    SAY(action.sa_handler == SIG_IGN);
    sigaction(SIGTERM, 0, &action);
    SAY(action.sa_handler == SIG_DFL);
    SHOW("umask", "%o", umask(0));
    SAY(alarm(0) > 0);
    stack_t stack;
    sigaltstack(0, &stack);
    SAY(stack.ss_flags);
    SAY(getpid() == gettid());
    int fd = open("/proc/self/comm", O_RDONLY);
    int count = read(fd, text, sizeof text - 1);
    text[count] = 0;
    close(fd);
    printf("comm: %s", text);
    fd = open("/proc/self/cmdline", O_RDONLY);
    count = read(fd, text, sizeof text);
    SAY(count == (int)strlen(self) + 1 + 6);
    close(fd);
    count = readlink("/proc/self/exe", text, sizeof text - 1);
    text[count < 0 ? 0 : count] = 0;
    SAY(strcmp(text, self));
    SAY(strcmp((char *)getauxval(AT_EXECFN), self));
    return 61;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    self = argv[0];
    if (argc > 1 && !strcmp(argv[1], "say")) {
        for (int i = 2; i < argc; i++)
            printf("%s%s", i == 2 ? "say: " : " ", argv[i]);
        printf(" (%s)\n", strncmp((char *)getauxval(AT_EXECFN), "/dev/fd/", 8) ? "by path" : "by descriptor");
        return 11;
    }
    if (argc > 1 && !strcmp(argv[1], "facts"))
        return facts();
    files();
    scripts();
    kept();
    return 0;
}
