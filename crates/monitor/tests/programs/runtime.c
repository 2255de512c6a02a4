// A Lambda runtime in C: one connection, kept alive. The event says what to do.
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];
static size_t filled;

static void fail(const char *what) {
    perror(what);
    exit(99);
}

static void send_all(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, 0);
        if (sent < 0) fail("send");
        bytes += sent;
        length -= sent;
    }
}

// Reads one response into `buffer`, zero-terminated; its body.
static char *receive(int fd) {
    filled = 0;
    for (;;) {
        buffer[filled] = 0;
        char *end = strstr(buffer, "\r\n\r\n");
        char *length = strstr(buffer, "Content-Length: ");
        if (end && length && filled >= (size_t)(end + 4 - buffer) + atol(length + 16)) return end + 4;
        ssize_t received = recv(fd, buffer + filled, sizeof buffer - 1 - filled, 0);
        if (received <= 0) fail("recv");
        filled += received;
    }
}

static void post(int fd, const char *path, const char *id, const char *headers, const char *body, size_t length) {
    char head[1024];
    int head_length = snprintf(head, sizeof head,
        "POST /2018-06-01/runtime/%s%s%s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n",
        id ? "invocation/" : "", id ? id : "", path, headers, length);
    send_all(fd, head, head_length);
    send_all(fd, body, length);
    receive(fd);
    if (strncmp(buffer, "HTTP/1.1 202", 12) != 0) printf("answer: %.12s\n", buffer);
}

static void *burn(void *unused) {
    for (volatile int i = 0;; i++) {}
    return unused;
}

int main(int argc, char **argv) {
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    setvbuf(stdout, NULL, _IONBF, 0);
    if (!api || strcmp(api, "127.0.0.1:9001") != 0) fail("AWS_LAMBDA_RUNTIME_API");
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9001)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    printf("started\n");
    if (argc > 1 && strcmp(argv[1], "init-error") == 0) {
        post(fd, "init/error", NULL, "Lambda-Runtime-Function-Error-Type: Runtime.Test\r\n", "{}", 2);
        return 1;
    }
    if (argc > 2 && strcmp(argv[1], "init-ms") == 0) {
        while (clock() < atol(argv[2]) * (CLOCKS_PER_SEC / 1000)) {}
    }
    if (argc > 2 && strcmp(argv[1], "restore") == 0) {
        const char *restore = "GET /2018-06-01/runtime/restore/next HTTP/1.1\r\nHost: x\r\n\r\n";
        send_all(fd, restore, strlen(restore));
        receive(fd);
        printf("restored: %.12s%s\n", buffer, strstr(buffer, "Calypte-Generation: ") ? " a copy" : "");
        if (strcmp(argv[2], "exit") == 0) return 5;
        if (strcmp(argv[2], "error") == 0) {
            post(fd, "restore/error", NULL, "Lambda-Runtime-Function-Error-Type: Runtime.Test\r\n", "{}", 2);
            return 1;
        }
    }
    static char event[1 << 16], id[64];
    for (;;) {
        const char *next = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n";
        send_all(fd, next, strlen(next));
        strncpy(event, receive(fd), sizeof event - 1);
        sscanf(strstr(buffer, "Aws-Request-Id: ") + 16, "%63[^\r]", id);
        if (strcmp(event, "error") == 0) {
            post(fd, "/error", id, "Lambda-Runtime-Function-Error-Type: Function.Test\r\n", "{\"a\":1}", 7);
        } else if (strcmp(event, "exit") == 0) {
            printf("leaving\n");
            exit(7);
        } else if (strcmp(event, "abort") == 0) {
            raise(SIGKILL);
        } else if (strcmp(event, "spin") == 0) {
            printf("spinning\n");
            for (volatile int i = 0;; i++) {}
        } else if (strcmp(event, "burn") == 0) {
            pthread_t thread;
            pthread_create(&thread, NULL, burn, NULL);
            post(fd, "/response", id, "", "burning", 7);
        } else if (strcmp(event, "print") == 0) {
            for (int i = 0; i < 100; i++) printf("line %d\n", i);
            post(fd, "/response", id, "", "printed", 7);
        } else if (strncmp(event, "large ", 6) == 0) {
            size_t length = atol(event + 6);
            char *body = malloc(length);
            memset(body, 'x', length);
            post(fd, "/response", id, "Content-Type: text/plain\r\n", body, length);
            free(body);
        } else if (strcmp(event, "hog") == 0) {
            for (;;) memset(malloc(1 << 20), 1, 1 << 20);
        } else {
            post(fd, "/response", id, "Content-Type: application/json\r\n", event, strlen(event));
        }
    }
}
