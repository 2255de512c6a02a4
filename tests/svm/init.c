/* First program of the machine in which `cargo xtask test --only svm` runs tests on AMD's virtualisation: loads the modules
   of /modules, runs each line of /tests (words separated by tabs) and switches the machine off. `npt` comes from the kernel's
   command line. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char line[4096];

static char *without_newline(char *text)
{
    text[strcspn(text, "\n")] = 0;
    return text;
}

static void load_modules(void)
{
    FILE *modules = fopen("/modules", "r");
    while (fgets(line, sizeof line, modules)) {
        char parameters[40] = "";
        if (!strcmp(without_newline(line), "/lib/modules/kvm-amd.ko"))
            snprintf(parameters, sizeof parameters, "npt=%s", getenv("npt"));
        int module = open(line, O_RDONLY);
        if (syscall(SYS_finit_module, module, parameters, 0))
            printf("svm: cannot load %s: %s\n", line, strerror(errno));
        close(module);
    }
    fclose(modules);
}

static void run(char *words)
{
    static char shown[sizeof line];
    char *arguments[64];
    int count = 0;
    strcpy(shown, words);
    for (char *at = shown; *at; at++)
        if (*at == '\t')
            *at = ' ';
    for (char *word = strtok(words, "\t"); word && count < 63; word = strtok(NULL, "\t"))
        arguments[count++] = word;
    arguments[count] = NULL;
    printf("svm: begin %s\n", shown);
    time_t begun = time(NULL);
    pid_t child = fork();
    if (!child) {
        execv(arguments[0], arguments);
        _exit(127);
    }
    int status = -1;
    waitpid(child, &status, 0);
    printf("svm: end %d after %ld s: %s\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
           (long)(time(NULL) - begun), shown);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sys", "/sys", "sysfs", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("tmp", "/tmp", "tmpfs", 0, NULL);
    load_modules();
    setenv("PATH", "/bin", 1);
    setenv("CALYPTE_CONFORMANCE_RECORDED", "/conformance", 1);
    FILE *tests = fopen("/tests", "r");
    while (fgets(line, sizeof line, tests))
        run(without_newline(line));
    printf("svm: done\n");
    sync();
    reboot(RB_POWER_OFF);
    return 1;
}
