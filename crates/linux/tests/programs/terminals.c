/* Pseudo-terminals: opening them, the line discipline, job control, hanging up. */
#include "directory.h"
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <utmp.h>

static volatile sig_atomic_t caught[65];

static void catch(int signal)
{
    caught[signal]++;
}

static void on(int signal)
{
    struct sigaction action = {.sa_handler = catch};
    sigaction(signal, &action, NULL);
}

static int polled(int fd)
{
    struct pollfd entry = {fd, POLLIN | POLLOUT, 0};
    poll(&entry, 1, 0);
    return entry.revents;
}

/* Waits until something can be read; on the host it takes a moment. */
static void await(int fd)
{
    struct pollfd entry = {fd, POLLIN, 0};
    poll(&entry, 1, 5000);
}

/* Prints what is read in a form that can be seen: one read, or as many as bring so many bytes. (The host hands over what
   one write makes in pieces, if it is busy.) */
static void show_all(const char *name, int fd, long size)
{
    unsigned char bytes[200];
    errno = 0;
    long count = 0, more;
    do {
        await(fd);
        more = read(fd, bytes + count, sizeof bytes - count);
        if (more > 0 || !count)
            count += more;
    } while (more > 0 && count < size);
    printf("%s: %ld", name, count);
    if (count < 0)
        printf(" %s", strerrorname_np(errno));
    for (long i = 0; i < count; i++)
        printf(bytes[i] < 32 || bytes[i] > 126 ? " <%02x>" : " %c", bytes[i]);
    printf("\n");
}

static void show(const char *name, int fd)
{
    show_all(name, fd, 1);
}

/* Types, and shows the echo, of which the size is known. */
static void type(int master, const char *text, long size)
{
    SAY(write(master, text, strlen(text)));
    show_all(" echo", master, size);
}

/* Waits for a signal, whether it comes now or came a moment ago. */
static void await_signal(int signal)
{
    while (!caught[signal])
        usleep(1000);
}

static void quiet(int slave)
{
    struct termios settings;
    tcgetattr(slave, &settings);
    settings.c_lflag &= ~(ECHO | ECHONL);
    tcsetattr(slave, TCSANOW, &settings);
}

static int status_of(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void opening(void)
{
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY), locked = 0;
    SHOW("master", "%d", master >= 0);
    SHOW("terminal", "%d", isatty(master));
    char name[64] = "", expected[64] = "";
    unsigned number = 0;
    SAY(ioctl(master, TIOCGPTN, &number));
    SAY(ioctl(master, TIOCGPTLCK, &locked));
    SHOW("locked", "%d", locked);
    SAY(grantpt(master));
    SAY(ptsname_r(master, name, sizeof name));
    sprintf(expected, "/dev/pts/%u", number);
    SHOW("name", "%d", !strcmp(name, expected));
    SAY(open(name, O_RDWR | O_NOCTTY));
    SAY(unlockpt(master));
    SHOW("before the slave", "%x", polled(master));
    int slave = open(name, O_RDWR | O_NOCTTY);
    SHOW("slave", "%d", slave >= 0);
    SAY(isatty(slave));
    SAY(ioctl(slave, TIOCGPTN, &number));
    struct stat status;
    fstat(slave, &status);
    SHOW("mode", "%o", status.st_mode);
    SHOW("owner", "%d", status.st_uid == getuid());
    SHOW("device", "%d %d", (int)(status.st_rdev >> 8), (status.st_rdev & 0xff) == number);
    fstat(master, &status);
    SHOW("master's device", "%lx %o", (long)status.st_rdev, status.st_mode);
    char other[64] = "";
    SAY(ttyname_r(slave, other, sizeof other));
    SHOW("same name", "%d", !strcmp(name, other));
    SAY(lseek(slave, 0, SEEK_SET));
    SAY(pread(slave, other, 1, 0));
    int peer = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    SHOW("peer", "%d", peer >= 0);
    SAY(close(peer));
    SHOW("idle", "%x %x", polled(master), polled(slave));
    SAY(close(slave));
    SHOW("no slave", "%x", polled(master));
    show("no slave", master);
    slave = open(name, O_RDWR | O_NOCTTY);
    SHOW("slave again", "%x", polled(master));
    SAY(close(master));
    SHOW("no master", "%x", polled(slave));
    show("no master", slave);
    SAY(write(slave, "x", 1));
    struct termios settings;
    SAY(tcgetattr(slave, &settings));
    SAY(open(name, O_RDWR));
    SAY(close(slave));
    SAY(access("/dev/ptmx", R_OK | W_OK));
    SAY(open("/dev/pts/none", O_RDWR));
}

static void settings(int master, int slave)
{
    struct termios settings;
    SAY(tcgetattr(slave, &settings));
    SHOW("input", "%x", settings.c_iflag);
    SHOW("output", "%x", settings.c_oflag);
    SHOW("control", "%x", settings.c_cflag);
    SHOW("local", "%x", settings.c_lflag);
    for (int i = 0; i < 19; i++)
        printf("%02x ", settings.c_cc[i]);
    printf("\n");
    settings.c_cc[VEOL] = '!';
    cfsetspeed(&settings, B9600);
    SAY(tcsetattr(master, TCSADRAIN, &settings));
    memset(&settings, 0, sizeof settings);
    SAY(tcgetattr(slave, &settings));
    SHOW("changed", "%c %d", settings.c_cc[VEOL], cfgetospeed(&settings) == B9600);
    settings.c_cc[VEOL] = 0;
    cfsetspeed(&settings, B38400);
    SAY(tcsetattr(slave, TCSAFLUSH, &settings));
    struct winsize size = {0};
    SAY(ioctl(slave, TIOCGWINSZ, &size));
    SHOW("size", "%d %d", size.ws_row, size.ws_col);
    size.ws_row = 24, size.ws_col = 80;
    SAY(ioctl(master, TIOCSWINSZ, &size));
    memset(&size, 0, sizeof size);
    SAY(ioctl(slave, TIOCGWINSZ, &size));
    SHOW("size", "%d %d", size.ws_row, size.ws_col);
    int value = -1;
    SAY(ioctl(slave, TIOCOUTQ, &value));
    SAY(ioctl(slave, TIOCGSID, &value));
    SAY(ioctl(slave, TIOCGPGRP, &value));
    SAY(ioctl(slave, TIOCSPGRP, &value));
    SAY(ioctl(slave, TIOCNOTTY));
    SAY(ioctl(master, TIOCGPGRP, &value));
    SHOW("group", "%d", value);
    SAY(ioctl(master, TIOCGSID, &value));
    SAY(tcdrain(slave));
    SAY(tcflush(slave, 7));
    SAY(ioctl(slave, 0x54ff, &value));
}

static void lines(int master, int slave)
{
    char bytes[10];
    int waiting = -1;
    fcntl(slave, F_SETFL, O_NONBLOCK);
    SAY(read(slave, bytes, 10));
    type(master, "one", 3);
    SAY(read(slave, bytes, 10));
    SHOW("incomplete", "%x", polled(slave));
    type(master, "\r", 2);
    SHOW("complete", "%x", polled(slave));
    SAY(ioctl(slave, FIONREAD, &waiting));
    SHOW("waiting", "%d", waiting);
    SAY(read(slave, bytes, 2));
    show("rest", slave);
    type(master, "ab\177c\n", 8);
    show("erased", slave);
    type(master, "two words\027x\n", 27);
    show("word erased", slave);
    type(master, "gone\025kept\n", 22);
    show("killed", slave);
    type(master, "a\001\177b\n", 12);
    show("control character", slave);
    type(master, "a\026\003\n", 7);
    show("literal", slave);
    type(master, "end\004", 3);
    show("end", slave);
    SAY(write(master, "\004", 1));
    show("end of file", slave);
    SAY(write(slave, "a\nb\tc", 5));
    show_all("output", master, 6);
    quiet(slave);
    SAY(write(master, "first\nsecond\n", 13));
    await(slave);
    show("one line", slave);
    show("other line", slave);
    SHOW("no echo", "%x", polled(master));
    SAY(write(master, "thrown\n", 7));
    await(slave);
    SAY(tcflush(slave, TCIFLUSH));
    SAY(read(slave, bytes, 10));
}

static void modes(int master, int slave)
{
    struct termios settings;
    tcgetattr(slave, &settings);
    settings.c_lflag |= ECHO;
    settings.c_lflag &= ~(ECHOE | ECHOKE | ECHOCTL);
    settings.c_iflag |= INLCR | ISTRIP;
    settings.c_iflag &= ~ICRNL;
    settings.c_oflag &= ~ONLCR;
    settings.c_oflag |= OCRNL;
    SAY(tcsetattr(slave, TCSANOW, &settings));
    type(master, "ab\177\025\001\xc1\n\004", 8);
    show("swapped", slave);
    SAY(write(slave, "a\rb\n", 4));
    show_all("output", master, 4);
    settings.c_iflag |= IGNCR;
    settings.c_iflag &= ~INLCR;
    settings.c_oflag = OPOST | XTABS;
    settings.c_lflag = ICANON | ECHONL;
    tcsetattr(slave, TCSANOW, &settings);
    type(master, "a\rb\n", 1);
    show("ignored", slave);
    SAY(write(slave, "\r1\t2", 4));
    show_all("tabs", master, 10);
    settings.c_oflag = 0;
    settings.c_lflag = 0;
    settings.c_iflag = 0;
    settings.c_cc[VMIN] = 0;
    settings.c_cc[VTIME] = 0;
    tcsetattr(slave, TCSANOW, &settings);
    fcntl(slave, F_SETFL, 0);
    char bytes[10];
    SAY(read(slave, bytes, 10));
    settings.c_cc[VTIME] = 1;
    tcsetattr(slave, TCSANOW, &settings);
    SAY(read(slave, bytes, 10));
    settings.c_cc[VTIME] = 0;
    settings.c_cc[VMIN] = 3;
    tcsetattr(slave, TCSANOW, &settings);
    SAY(write(master, "\003\r", 2));
    SHOW("too few", "%x", polled(slave));
    SAY(write(master, "\177z", 2));
    show("raw", slave);
    settings.c_cc[VMIN] = 5;
    settings.c_cc[VTIME] = 1;
    tcsetattr(slave, TCSANOW, &settings);
    SAY(write(master, "xy", 2));
    show("after a time", slave);
    settings.c_lflag = ICANON;
    tcsetattr(slave, TCSANOW, &settings);
}

/* A session of its own with a terminal: what it finds is told by its status. */
static void sessions(void)
{
    int master, slave;
    char name[64];
    SAY(openpty(&master, &slave, name, NULL, NULL));
    pid_t pid = fork();
    if (!pid) {
        close(master);
        setsid();
        int value = 0;
        SAY(open("/dev/tty", O_RDWR));
        SAY(tcgetpgrp(slave));
        SAY(ioctl(slave, TIOCSCTTY, 0));
        SAY(ioctl(slave, TIOCSCTTY, 0));
        SHOW("group", "%d", tcgetpgrp(slave) == getpid());
        SHOW("session", "%d", tcgetsid(slave) == getpid());
        int tty = open("/dev/tty", O_RDWR);
        SHOW("tty", "%d", tty >= 0 && isatty(tty));
        SHOW("name of tty", "%s", ttyname(tty));
        on(SIGWINCH), on(SIGINT), on(SIGTTIN), on(SIGTTOU);
        struct winsize size = {30, 90, 0, 0};
        ioctl(slave, TIOCSWINSZ, &size);
        SHOW("window", "%d", caught[SIGWINCH]);
        ioctl(slave, TIOCSWINSZ, &size);
        SHOW("same window", "%d", caught[SIGWINCH]);
        /* In the background of its own terminal. */
        pid_t child = fork();
        if (!child) {
            char byte;
            setpgid(0, 0);
            SAY(read(tty, &byte, 1));
            SHOW("reading", "%d", caught[SIGTTIN]);
            SAY(write(tty, "!", 1));
            struct termios settings;
            tcgetattr(tty, &settings);
            SAY(tcsetattr(tty, TCSANOW, &settings));
            SHOW("changing", "%d", caught[SIGTTOU]);
            SAY(tcsetpgrp(tty, getpid()));
            SHOW("coming to the foreground", "%d", caught[SIGTTOU]);
            signal(SIGTTOU, SIG_IGN);
            settings.c_lflag |= TOSTOP;
            SAY(tcsetattr(tty, TCSANOW, &settings));
            SAY(write(tty, "?", 1));
            on(SIGTTOU);
            SAY(write(tty, "?", 1) < 0);
            signal(SIGTTIN, SIG_IGN);
            SAY(read(tty, &byte, 1));
            signal(SIGTTOU, SIG_IGN);
            SAY(tcsetpgrp(tty, getpid()));
            SHOW("in the foreground", "%d", tcgetpgrp(tty) == getpid());
            SAY(tcsetpgrp(tty, 4000000));
            SAY(tcsetpgrp(tty, getpgid(getppid())));
            fflush(stdout);
            _exit(0);
        }
        SHOW("child", "%d", status_of(child));
        /* A default reader in the background stops. */
        child = fork();
        if (!child) {
            char byte;
            signal(SIGTTIN, SIG_DFL);
            setpgid(0, 0);
            read(tty, &byte, 1);
            _exit(byte == 'k' ? 5 : 6);
        }
        int status = 0;
        waitpid(child, &status, WUNTRACED);
        SHOW("stopped", "%d %d", WIFSTOPPED(status), WSTOPSIG(status) == SIGTTIN);
        signal(SIGTTOU, SIG_IGN);
        SAY(tcsetpgrp(tty, child));
        kill(child, SIGCONT);
        SAY(write(1, "", 0));
        value = write(tty, "R", 1);
        SHOW("told", "%d", value);
        SHOW("reader", "%d", status_of(child));
        SAY(tcsetpgrp(tty, getpid()));
        write(tty, "I", 1);
        await_signal(SIGINT);
        SHOW("interrupted", "%d", caught[SIGINT]);
        on(SIGHUP), on(SIGCONT);
        SAY(ioctl(tty, TIOCNOTTY));
        SHOW("left", "%d %d", caught[SIGHUP], caught[SIGCONT]);
        caught[SIGHUP] = 0;
        SAY(open("/dev/tty", O_RDWR));
        int again = open(name, O_RDWR);
        SHOW("acquired by opening", "%d", tcgetpgrp(again) == getpid());
        write(again, "H", 1);
        await_signal(SIGHUP);
        SHOW("hung up", "%d", caught[SIGHUP]);
        char byte;
        SAY(read(again, &byte, 1));
        SAY(write(again, &byte, 1));
        SAY(open("/dev/tty", O_RDWR));
        _exit(44);
    }
    close(slave);
    char byte = 0;
    while (read(master, &byte, 1) == 1) {
        if (byte == 'R')
            write(master, "kill\n", 5);
        if (byte == 'I')
            write(master, "\003", 1);
        if (byte == 'H')
            close(master);
    }
    SHOW("leader", "%d", status_of(pid));
    /* The end of a leader hangs up who is in the foreground. */
    openpty(&master, &slave, NULL, NULL, NULL);
    pid = fork();
    if (!pid) {
        login_tty(slave);
        pid_t child = fork();
        if (!child) {
            close(master);
            signal(SIGHUP, SIG_DFL);
            for (;;)
                pause();
        }
        _exit(7);
    }
    close(slave);
    SHOW("leader", "%d", status_of(pid));
    char rest;
    SAY(read(master, &rest, 1));
    close(master);
}

int main(void)
{
    int master, slave;
    setvbuf(stdout, NULL, _IONBF, 0);
    alarm(30);
    signal(SIGHUP, SIG_DFL); /* Whoever runs this may ignore it. */
    opening();
    SAY(openpty(&master, &slave, NULL, NULL, NULL));
    settings(master, slave);
    lines(master, slave);
    modes(master, slave);
    SAY(close(slave));
    SAY(close(master));
    sessions();
    return 0;
}
