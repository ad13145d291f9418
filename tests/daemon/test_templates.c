/* test_templates.c - templates run in a process of their own: what it may do, and that its end
 * costs one request. */
#include "tests/daemon/genrig.h"
#include <dirent.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>

static const char tmpl[] = "{% for m in messages %}{% if m.content == 'no' %}{{ "
                           "raise_exception('not that') }}{% endif %}"
                           "<{{ m.role }}>{{ m.content }}{% endfor %}";

static void make(struct rig *g)
{
    const struct mk_key keys[] = {{"tokenizer.chat_template", GGUF_STR, 0, tmpl},
                                  {NULL, 0, 0, NULL}};
    const struct mk_llama tiny = {.layers = 1,
                                  .embd = 32,
                                  .ff = 32,
                                  .head = 2,
                                  .kv = 1,
                                  .dim = 16,
                                  .ctx = 2048,
                                  .type = K_Q4_1,
                                  .tied = true,
                                  .seed = 7,
                                  .keys = keys};
    struct mk m = {0};

    rig_make(g, "");
    mk_llama(&m, &tiny);
    rig_model(g, &m);
    free(m.p);
}

static struct wire_reply say(struct rig *g, const char *text, char id[33])
{
    rig_id(id);
    return rig_call(g, HRT_START, NULL, 0,
                    "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"messages\",\"messages\":[{"
                    "\"role\":\"user\",\"content\":\"%s\"}],\"params\":{\"max_tokens\":3}}",
                    id, text);
}

/* A small file of /proc/PID. */
static void slurp(char *to, size_t cap, int pid, const char *file)
{
    char path[64];
    size_t n = 0;

    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    FILE *f = fopen(path, "r");
    if (f) {
        n = fread(to, 1, cap - 1, f);
        fclose(f);
    }
    to[n] = 0;
}

/* The daemon's child that renders; 0: none. */
static int renderer(const struct rig *g)
{
    DIR *d = opendir("/proc");
    int found = 0;

    for (struct dirent *e; d && (e = readdir(d));) {
        char stat[512], name[64];
        int pid = atoi(e->d_name), parent = 0;
        if (pid <= 0)
            continue;
        slurp(stat, sizeof stat, pid, "stat");
        slurp(name, sizeof name, pid, "cmdline");
        const char *p = strrchr(stat, ')');
        if (p && sscanf(p + 1, " %*c %d", &parent) == 1 && parent == g->pid &&
            strcmp(name, "hearthd-templates") == 0)
            found = pid;
    }
    if (d)
        closedir(d);
    return found;
}

/* Has the daemon written something that nobody has read: a request to its stopped child? */
static bool asked(const struct rig *g)
{
    char path[64];
    int pidfd = pidfd_open(g->pid, 0);
    bool found = false;

    snprintf(path, sizeof path, "/proc/%d/fd", g->pid);
    DIR *d = opendir(path);
    CHECK(pidfd >= 0 && d != NULL);
    for (struct dirent *e; d && (e = readdir(d));) {
        int fd = e->d_name[0] == '.' ? -1 : pidfd_getfd(pidfd, atoi(e->d_name), 0), n = 0;
        found |= fd >= 0 && ioctl(fd, SIOCOUTQ, &n) == 0 && n > 0;
        if (fd >= 0)
            close(fd);
    }
    if (d)
        closedir(d);
    close(pidfd);
    return found;
}

static bool asked_soon(const struct rig *g)
{
    uint64_t until = now_ns() + WIRE_WAIT_MS * 1000000ull;

    while (!asked(g) && now_ns() < until)
        usleep(1000);
    return asked(g);
}

static void answers(struct rig *g, const char *text)
{
    struct answer a = {0};
    char id[33];
    struct wire_reply r = say(g, text, id);

    CHECK_EQ(r.f.status, HRT_OK);
    wire_reply_fini(&r);
    (void)rig_read(g, id, &a, UINT32_MAX);
    CHECK_STR(wire_str(&a.last, "state"), "done");
    CHECK(a.n > 0);
    wire_reply_fini(&a.last);
}

static void a_fault_costs_the_request_that_met_it(void)
{
    static const int ends[] = {SIGSEGV, SIGKILL};
    struct rig g;

    make(&g);
    rig_up(&g);
    answers(&g, "hello");
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        int before = renderer(&g), fd = wire_connect(g.core);
        char id[33], json[400];
        struct wire_reply r = {0};
        CHECK(before > 0 && fd >= 0);
        rig_id(id);
        snprintf(
            json, sizeof json,
            "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"messages\",\"messages\":[{\"role\":"
            "\"user\",\"content\":\"late\"}],\"params\":{\"max_tokens\":3}}",
            id);
        CHECK_EQ(kill(before, SIGSTOP), 0); /* so that it ends with the request in its hands */
        CHECK(wire_send(fd, HRT_START, 1, json, NULL, 0));
        CHECK(asked_soon(&g));
        CHECK_EQ(kill(before, ends[i]), 0);
        /* The signal waits for that, but for SIGKILL, after which it may be gone already. */
        CHECK(kill(before, SIGCONT) == 0 || (ends[i] == SIGKILL && errno == ESRCH));
        CHECK(wire_recv(fd, &r));
        CHECK_EQ(r.f.status, HRT_INTERNAL);
        CHECK_STR(wire_str(&r, "slug"), "internal");
        /* A sanitizer makes an exit of a crash. */
        CHECK(strstr(wire_str(&r, "message"), strsignal(ends[i])) != NULL ||
              (T_SLOWER > 1 && strstr(wire_str(&r, "message"), "ended in the middle")));
        wire_reply_fini(&r);
        close(fd);
        answers(&g, "hello again");
        CHECK(renderer(&g) > 0 && renderer(&g) != before);
    }
    rig_down(&g, SIGTERM);
}

/* Whoever ended it: the next request has another. */
static void one_that_ended_while_idle_costs_nothing(void)
{
    struct rig g;

    make(&g);
    rig_up(&g);
    answers(&g, "hello");
    for (int i = 0; i < 3; i++) {
        int before = renderer(&g), pidfd = pidfd_open(before, 0);
        struct pollfd f = {.fd = pidfd, .events = POLLIN};
        CHECK(before > 0 && kill(before, SIGKILL) == 0);
        CHECK_EQ(poll(&f, 1, WIRE_WAIT_MS), 1); /* it has ended */
        close(pidfd);
        answers(&g, "hello again");
        CHECK(renderer(&g) > 0 && renderer(&g) != before);
    }
    rig_down(&g, SIGTERM);
}

/* Its own words come back as the template wrote them. */
static void what_a_template_raises_is_the_clients_to_hear(void)
{
    struct rig g;
    char id[33];

    make(&g);
    rig_up(&g);
    answers(&g, "hello");
    int before = renderer(&g);
    struct wire_reply r = say(&g, "no", id);
    CHECK_EQ(r.f.status, HRT_INVALID_ARGUMENT);
    CHECK(strstr(wire_str(&r, "message"), "not that") != NULL);
    wire_reply_fini(&r);
    CHECK_EQ(renderer(&g), before);
    rig_down(&g, SIGTERM);
}

static void it_can_open_and_reach_nothing_and_ends_with_the_daemon(void)
{
    struct rig g;
    char status[4096], path[64];
    int n = 0;

    make(&g);
    rig_up(&g);
    answers(&g, "hello");
    int pid = renderer(&g);
    CHECK(pid > 0);
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    CHECK(d != NULL);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            CHECK(atoi(e->d_name) <= 3);
            n++;
        }
    if (d)
        closedir(d);
    CHECK_EQ(n, 4); /* the standard three and its socket */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    slurp(status, sizeof status, pid, "status");
    CHECK(strstr(status, "NoNewPrivs:\t1") && strstr(status, "Seccomp:\t2"));
#else
    (void)status;
#endif
    rig_down(&g, SIGKILL);
    for (int i = 0; i < 2000 && kill(pid, 0) == 0; i++)
        usleep(1000);
    slurp(status, sizeof status, pid, "stat");
    CHECK(kill(pid, 0) < 0 || strstr(status, ") Z "));
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(a_fault_costs_the_request_that_met_it),
       CASE(one_that_ended_while_idle_costs_nothing),
       CASE(what_a_template_raises_is_the_clients_to_hear),
       CASE(it_can_open_and_reach_nothing_and_ends_with_the_daemon))
