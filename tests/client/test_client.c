/* test_client.c - libhearth on both carriers: deadlines, restarts, wrong addresses. */
#include "tests/t.h"
#include "client/client.h"
#include "tests/front/fakecore.h"
#include <sys/prctl.h>

static char dir[64], core[100], core_url[120], ipc_url[120];
static pid_t core_pid, front_pid;

static pid_t start_front(void)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = open("/dev/null", O_RDWR);
        dup2(fd, 2);
        execl(built("hearth-front"), "hearth-front", "--nn", ipc_url, "--core", core,
              (char *)NULL);
        _exit(127);
    }
    return pid;
}
static void up(bool front)
{
    snprintf(dir, sizeof dir, "%s", fresh_dir());
    snprintf(core, sizeof core, "%s/core.sock", dir);
    snprintf(core_url, sizeof core_url, "unix://%s", core);
    snprintf(ipc_url, sizeof ipc_url, "ipc://%s/hearth.ipc", dir);
    core_pid = fakecore(core);
    front_pid = front ? start_front() : 0;
    for (int i = 0; front && i < 500 && access(ipc_url + 6, F_OK) != 0; i++)
        poll(NULL, 0, 10);
}
static void down(void)
{
    char cmd[100];
    fakecore_kill(core_pid);
    fakecore_kill(front_pid);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    CHECK(system(cmd) == 0);
}
static const char *url(int i)
{
    return i ? ipc_url : core_url;
}

static void a_call_has_its_reply_on_both_carriers(void)
{
    up(true);
    for (int i = 0; i < 2; i++) {
        struct hearth_conn *c = NULL;
        struct hearth_reply r = {0};
        struct errbuf eb;
        CHECK_EQ(hearth_connect(&c, url(i), &eb), 0);
        CHECK_EQ(hearth_call(c, HRT_TOKENIZE, NULL, "x", 1, 5000, &r, &eb), 0);
        CHECK_EQ(r.status, HRT_OK);
        CHECK(strstr(r.json, "\"count\":3"));
        CHECK_EQ(r.tail_bytes, 12);
        hearth_reply_fini(&r);
        CHECK_EQ(hearth_call(c, HRT_WHY, "{}", NULL, 0, 5000, &r, &eb),
                 0); /* a refusal is a reply */
        CHECK_EQ(r.status, HRT_UNIMPLEMENTED);
        hearth_reply_fini(&r);
        hearth_close(c);
    }
    down();
}

static void wrong_addresses_are_refused(void)
{
    char deep[300] = "unix:///";
    static const char *const rows[] = {"",       "unix://", "ipc://", "tcp://127.0.0.1:1",
                                       "/tmp/x", "http://x"};
    struct hearth_conn *c = NULL;
    struct errbuf eb;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK_EQ(hearth_connect(&c, rows[i], &eb), -EINVAL);
    memset(deep + 8, 'x', 200);
    CHECK_EQ(hearth_connect(&c, deep, &eb), -EINVAL);
    CHECK(strstr(eb.s, "107"));
    CHECK(c == NULL);
    hearth_close(NULL);
}

static void a_socket_of_the_other_kind_is_said_to_be_one(void)
{
    up(true);
    char other[2][140];
    snprintf(other[0], sizeof other[0], "unix://%s", ipc_url + 6);
    snprintf(other[1], sizeof other[1], "ipc://%s", core_url + 7);
    for (int i = 0; i < 2; i++) {
        struct hearth_conn *c = NULL;
        struct hearth_reply r = {0};
        struct errbuf eb = {""};
        uint64_t t0 = now_ns();
        CHECK_EQ(hearth_connect(&c, other[i], &eb), 0);
        CHECK_EQ(hearth_call(c, HRT_PING, NULL, NULL, 0, 20000, &r, &eb), -EINVAL);
        CHECK(strstr(eb.s, i ? "name it with unix://" : "name it with ipc://"));
        CHECK((now_ns() - t0) / 1000000 < 3000 * T_SLOWER);
        hearth_close(c);
    }
    CHECK_EQ(waitpid(front_pid, NULL, WNOHANG), 0); /* it bears being asked so */
    down();
}

static void nobody_there_is_said_soon(void)
{
    snprintf(dir, sizeof dir, "%s", fresh_dir());
    snprintf(core_url, sizeof core_url, "unix://%s/none.sock", dir);
    snprintf(ipc_url, sizeof ipc_url, "ipc://%s/none.ipc", dir);
    for (int i = 0; i < 2; i++) {
        struct hearth_conn *c = NULL;
        struct hearth_reply r = {0};
        struct errbuf eb;
        uint64_t t0 = now_ns();
        CHECK_EQ(hearth_connect(&c, url(i), &eb), 0);
        CHECK_EQ(hearth_call(c, HRT_PING, NULL, NULL, 0, 60000, &r, &eb), -ECONNREFUSED);
        CHECK(strstr(eb.s, "none."));
        CHECK((now_ns() - t0) / 1000000 < 3000);
        hearth_close(c);
    }
    rmdir(dir);
}

static void a_call_outlives_a_restart(void)
{
    up(true);
    for (int i = 0; i < 2; i++) {
        struct hearth_conn *c = NULL;
        struct hearth_reply r = {0};
        struct errbuf eb;
        CHECK_EQ(hearth_connect(&c, url(i), &eb), 0);
        CHECK_EQ(hearth_call(c, HRT_PING, NULL, NULL, 0, 5000, &r, &eb), 0);
        hearth_reply_fini(&r);
        fakecore_kill(core_pid);
        if (i) {
            fakecore_kill(front_pid); /* and its face with it */
            front_pid = 0;
        }
        fflush(NULL);
        int pids[2];
        CHECK_EQ(pipe(pids), 0);
        pid_t later = fork();
        if (later == 0) {
            poll(NULL, 0, 400);
            pid_t p[2] = {fakecore(core), i ? start_front() : 0};
            (void)!write(pids[1], p, sizeof p);
            poll(NULL, 0, 5000);
            _exit(0);
        }
        CHECK_EQ(hearth_call(c, HRT_STATUS, NULL, NULL, 0, 20000, &r, &eb), 0);
        CHECK_EQ(r.status, HRT_OK);
        hearth_reply_fini(&r);
        hearth_close(c);
        /* What the child started ends with it. */
        kill(later, SIGKILL);
        waitpid(later, NULL, 0);
        close(pids[0]);
        close(pids[1]);
        core_pid = 0;
        if (!i) {
            core_pid = fakecore(core);
        }
    }
    down();
}

/* Accepts for ms; each peer gets the header and the end at once, as from a front that is killed
 * while it is reached.  libnanomsg forgets such a connection instead of making another. */
static void greet_and_end(const char *path, int ms)
{
    static const uint8_t hello[8] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(path);
    CHECK_EQ(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    CHECK_EQ(listen(fd, 16), 0);
    uint64_t until = now_ns() + (uint64_t)ms * 1000000;
    while (now_ns() < until) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, 10) <= 0)
            continue;
        int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        (void)!send(peer, hello, sizeof hello, MSG_NOSIGNAL);
        close(peer);
    }
    close(fd);
    unlink(path);
}

static void a_call_outlives_fronts_that_end_as_they_are_reached(void)
{
    up(true);
    for (int i = 0; i < 8; i++) {
        struct hearth_conn *c = NULL;
        struct hearth_reply r = {0};
        struct errbuf eb;
        CHECK_EQ(hearth_connect(&c, ipc_url, &eb), 0);
        CHECK_EQ(hearth_call(c, HRT_PING, NULL, NULL, 0, 5000, &r, &eb), 0);
        hearth_reply_fini(&r);
        fakecore_kill(front_pid);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            greet_and_end(ipc_url + 6, 200);
            execl(built("hearth-front"), "hearth-front", "--nn", ipc_url, "--core", core,
                  (char *)NULL);
            _exit(127);
        }
        front_pid = pid;
        uint64_t t0 = now_ns();
        CHECK_EQ(hearth_call(c, HRT_STATUS, NULL, NULL, 0, 20000, &r, &eb), 0);
        CHECK((now_ns() - t0) / 1000000 < 2000); /* SLICE_MS has not come to help */
        hearth_reply_fini(&r);
        hearth_close(c);
    }
    down();
}

static void a_deadline_is_kept(void)
{
    up(true);
    for (int i = 0; i < 2; i++) {
        struct hearth_conn *c = NULL;
        struct hearth_reply r = {0};
        struct errbuf eb;
        CHECK_EQ(hearth_connect(&c, url(i), &eb), 0);
        const char *slow = "{\"id\":\"00000000000000000000000000000001\",\"input\":\"prompt\"}";
        uint64_t t0 = now_ns();
        CHECK_EQ(hearth_call(c, HRT_START, slow, "slow", 4, 300, &r, &eb), -ETIMEDOUT);
        uint64_t ms = (now_ns() - t0) / 1000000;
        CHECK(ms >= 290 && ms < 2000);
        /* The late reply must not be taken for that of the next call. */
        CHECK_EQ(hearth_call(c, HRT_STATUS, NULL, NULL, 0, 10000, &r, &eb), 0);
        CHECK(strstr(r.json, "\"pid\":1"));
        hearth_reply_fini(&r);
        hearth_close(c);
    }
    down();
}

static void on_alarm(int sig)
{
    (void)sig;
}
static void a_signal_brings_a_call_back(void)
{
    up(true);
    struct sigaction sa = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &sa, NULL);
    for (int i = 0; i < 2; i++) {
        struct hearth_conn *c = NULL;
        struct hearth_reply r = {0};
        struct errbuf eb;
        CHECK_EQ(hearth_connect(&c, url(i), &eb), 0);
        CHECK_EQ(hearth_call(c, HRT_PING, NULL, NULL, 0, 5000, &r, &eb), 0);
        hearth_reply_fini(&r);
        alarm(1);
        const char *slow = "{\"id\":\"00000000000000000000000000000002\",\"input\":\"prompt\"}";
        CHECK_EQ(hearth_call(c, HRT_START, slow, "slow", 4, 20000, &r, &eb), -EINTR);
        alarm(1); /* twice on one connection */
        CHECK_EQ(hearth_call(c, HRT_START, slow, "slow", 4, 20000, &r, &eb), -EINTR);
        CHECK_EQ(hearth_call(c, HRT_PING, NULL, NULL, 0, 5000, &r, &eb), 0);
        hearth_reply_fini(&r);
        hearth_close(c);
    }
    down();
}

static void too_long_a_request_is_refused_here(void)
{
    struct hearth_conn *c = NULL;
    struct hearth_reply r = {0};
    struct errbuf eb;
    CHECK_EQ(hearth_connect(&c, "unix:///nobody.sock", &eb), 0);
    char *big = calloc(1, TAIL_BYTES_MAX + 1);
    CHECK_EQ(hearth_call(c, HRT_PING, NULL, big, TAIL_BYTES_MAX + 1, 100, &r, &eb), E_LIMIT);
    free(big);
    hearth_close(c);
}

/* What a call comes to when the socket's directory has this owner and mode. */
static int asks(const char *in, mode_t mode, uid_t owner, uid_t sock_owner, struct errbuf *eb)
{
    int worst = 0;
    CHECK(chown(in, owner, (gid_t)-1) == 0 && chmod(in, mode) == 0);
    for (int i = 0; i < 2; i++) {
        struct hearth_conn *c = NULL;
        struct hearth_reply r = {0};
        CHECK(lchown(url(i) + (i ? 6 : 7), sock_owner, (gid_t)-1) == 0);
        CHECK_EQ(hearth_connect(&c, url(i), eb), 0);
        int got = hearth_call(c, HRT_PING, NULL, NULL, 0, 5000, &r, eb);
        if (i && got != worst)
            t_fail(__FILE__, __LINE__, "carriers differ: %d and %d", worst, got);
        worst = got;
        hearth_reply_fini(&r);
        hearth_close(c);
    }
    return worst;
}

/* Others than this user and root could have put the socket there: nothing is sent to it. */
static void a_socket_others_could_have_made_is_not_asked(void)
{
    struct errbuf eb = {""};
    char above[64];
    uid_t me = geteuid();
    snprintf(above, sizeof above, "%s", fresh_dir());
    up(true);
    CHECK_EQ(asks(dir, 0700, me, me, &eb), 0);
    CHECK_EQ(asks(dir, 0777, me, me, &eb), -EPERM);
    CHECK(strstr(eb.s, dir) && strstr(eb.s, "0777") && strstr(eb.s, "--socket"));
    CHECK_EQ(asks(dir, 0775, me, me, &eb), -EPERM);
    CHECK_EQ(asks(dir, 01777, me, me, &eb), 0); /* as /tmp: it is ours, and stays so */
    if (me != 0) {
        down();
        t_skip("the rest wants root, to make files of another user");
    }
    CHECK_EQ(asks(dir, 01777, me, 12345, &eb), -EPERM);
    CHECK(strstr(eb.s, "12345"));
    CHECK_EQ(asks(dir, 0700, 12345, 12345, &eb), -EPERM); /* in /tmp anybody could make it */
    CHECK(strstr(eb.s, "12345") && strstr(eb.s, "XDG_RUNTIME_DIR"));
    CHECK_EQ(asks(dir, 0700, me, me, &eb), 0);
    /* A service's directory, where root made it: /run/hearth. */
    char moved[80], was[64];
    snprintf(was, sizeof was, "%s", dir);
    snprintf(moved, sizeof moved, "%s/hearth", above);
    CHECK_EQ(symlink(dir, moved), 0);
    snprintf(core_url, sizeof core_url, "unix://%s/core.sock", moved);
    snprintf(ipc_url, sizeof ipc_url, "ipc://%s/hearth.ipc", moved);
    CHECK_EQ(asks(dir, 0700, me, me, &eb), 0); /* by a link of ours */
    CHECK_EQ(lchown(moved, 12345, 12345), 0);
    CHECK_EQ(asks(dir, 0700, me, me, &eb), -EPERM);
    CHECK(strstr(eb.s, "link"));
    unlink(moved);
    CHECK_EQ(rename(was, moved), 0);
    CHECK_EQ(asks(moved, 0750, 12345, 12345, &eb), 0);
    CHECK_EQ(asks(moved, 0770, 12345, 12345, &eb), -EPERM);
    chmod(above, 0777);
    CHECK_EQ(asks(moved, 0750, 12345, 12345, &eb), -EPERM);
    snprintf(dir, sizeof dir, "%s", above);
    down();
}

static void ids_differ_and_are_hex(void)
{
    char a[33], b[33];
    hearth_new_id(a);
    hearth_new_id(b);
    CHECK(strlen(a) == 32 && strspn(a, "0123456789abcdef") == 32 && strcmp(a, b) != 0);
}

T_MAIN({"a_call_has_its_reply_on_both_carriers", a_call_has_its_reply_on_both_carriers},
       {"wrong_addresses_are_refused", wrong_addresses_are_refused},
       {"a_socket_of_the_other_kind_is_said_to_be_one",
        a_socket_of_the_other_kind_is_said_to_be_one},
       {"nobody_there_is_said_soon", nobody_there_is_said_soon},
       {"a_call_outlives_a_restart", a_call_outlives_a_restart},
       {"a_call_outlives_fronts_that_end_as_they_are_reached",
        a_call_outlives_fronts_that_end_as_they_are_reached},
       {"a_deadline_is_kept", a_deadline_is_kept},
       {"a_signal_brings_a_call_back", a_signal_brings_a_call_back},
       {"too_long_a_request_is_refused_here", too_long_a_request_is_refused_here},
       {"a_socket_others_could_have_made_is_not_asked",
        a_socket_others_could_have_made_is_not_asked},
       {"ids_differ_and_are_hex", ids_differ_and_are_hex})
