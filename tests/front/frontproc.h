/* frontproc.h - starts a hearth-front over a fake core, for tests. */
#ifndef TESTS_FRONTPROC_H
#define TESTS_FRONTPROC_H
#include "tests/front/fakecore.h"
#include "tests/t.h"
#include <arpa/inet.h>
#include <netinet/in.h>

struct frontproc {
    char dir[64], core[100], ipc[100];
    pid_t core_pid, front_pid;
    int port;
};

__attribute__((unused)) static pid_t spawn(const char *const *argv)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        int fd = open("/dev/null", O_RDWR);
        if (!getenv("VERBOSE"))
            dup2(fd, 2);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    return pid;
}

/* Until path is there and can be connected. */
__attribute__((unused)) static bool wait_socket(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
    for (int i = 0; i < 500; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool ok = connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0;
        close(fd);
        if (ok)
            return true;
        poll(NULL, 0, 10);
    }
    return false;
}

/* Arguments after the common ones, NULL-ended. */
__attribute__((unused)) static void front_start(struct frontproc *f, bool nn, bool http,
                                                const char *const *more)
{
    const char *argv[24], *dir = fresh_dir();
    char ipc[140], port[200];
    int n = 0;
    snprintf(f->dir, sizeof f->dir, "%s", dir);
    snprintf(f->core, sizeof f->core, "%s/core.sock", dir);
    snprintf(f->ipc, sizeof f->ipc, "%s/hearth.ipc", dir);
    snprintf(ipc, sizeof ipc, "ipc://%s", f->ipc);
    f->core_pid = fakecore(f->core);
    argv[n++] = built("hearth-front");
    argv[n++] = "--runtime";
    argv[n++] = f->dir;
    if (nn) {
        argv[n++] = "--nn";
        argv[n++] = ipc;
    }
    if (http) {
        argv[n++] = "--http";
        argv[n++] = "127.0.0.1:0";
    }
    while (more && *more)
        argv[n++] = *more++;
    argv[n] = NULL;
    f->front_pid = spawn(argv);
    if (nn)
        CHECK(wait_socket(f->ipc));
    snprintf(port, sizeof port, "%s/http.port", f->dir);
    for (int i = 0; http && i < 500 && !f->port; i++) {
        FILE *p = fopen(port, "re");
        if (p && fscanf(p, "%d", &f->port) != 1)
            f->port = 0;
        if (p)
            fclose(p);
        poll(NULL, 0, 10);
    }
    CHECK(!http || f->port > 0);
}

__attribute__((unused)) static void front_stop(struct frontproc *f)
{
    char cmd[200];
    if (f->front_pid > 0) {
        kill(f->front_pid, SIGTERM);
        waitpid(f->front_pid, NULL, 0);
    }
    fakecore_kill(f->core_pid);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", f->dir);
    CHECK(system(cmd) == 0);
}

/* --- HTTP by hand ------------------------------------------------------------------------- */
__attribute__((unused)) static int http_connect(int port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval tv = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}
/* Everything until the other side closes, or cap. */
__attribute__((unused)) static size_t read_all(int fd, char *ret, size_t cap)
{
    size_t n = 0;
    ssize_t k;
    while (n + 1 < cap && (k = recv(fd, ret + n, cap - 1 - n, 0)) > 0)
        n += (size_t)k;
    ret[n] = 0;
    return n;
}
/* One request on its own connection; the status code, the whole reply in ret. */
__attribute__((unused)) static int http(int port, const char *method, const char *path,
                                        const char *headers, const char *body, char *ret,
                                        size_t cap)
{
    size_t n = body ? strlen(body) : 0;
    char *req = malloc(n + 40000);
    int fd = http_connect(port);
    int len = sprintf(req, "%s %s HTTP/1.1\r\n%sConnection: close\r\n", method, path,
                      headers ? headers : "Host: 127.0.0.1\r\n");
    if (body)
        len +=
            sprintf(req + len, "Content-Type: application/json\r\nContent-Length: %zu\r\n", n);
    len += sprintf(req + len, "\r\n%s", body ? body : "");
    CHECK(fd >= 0);
    CHECK(send(fd, req, (size_t)len, MSG_NOSIGNAL) == len);
    free(req);
    read_all(fd, ret, cap);
    close(fd);
    return strncmp(ret, "HTTP/1.1 ", 9) == 0 ? atoi(ret + 9) : -1;
}

#endif
