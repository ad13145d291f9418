/* test_reader.c - answers whose reader has gone: his process ended, or his link closed. */
#include "tests/daemon/genrig.h"

static int32_t ids[2048];
static struct answer a;
static struct rig g;

/* How many requests wait or run. */
static int busy(void)
{
    struct wire_reply r = rig_call(&g, HRT_STATUS, NULL, 0, "{}");
    const cJSON *q = cJSON_GetObjectItem(r.json, "queue");
    int n = (int)(cJSON_GetNumberValue(cJSON_GetObjectItem(q, "running")) +
                  cJSON_GetNumberValue(cJSON_GetObjectItem(q, "waiting")));

    wire_reply_fini(&r);
    return n;
}
static bool idle_within(double s)
{
    uint64_t until = now_ns() + (uint64_t)(s * 1e9) * T_SLOWER;

    while (busy() && now_ns() < until)
        usleep(20000);
    return busy() == 0;
}
/* Does that request still run in session s? */
static bool runs_in_s(const char *id)
{
    struct wire_reply r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
    bool runs = strcmp(wire_str(&r, "request"), id) == 0;

    CHECK_EQ(r.f.status, HRT_OK);
    wire_reply_fini(&r);
    return runs;
}
/* A process that only is there. */
static pid_t somebody(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        pause();
        _exit(0);
    }
    return pid;
}
/* So long that it waits for its reader before it ends. */
#define LONG ",\"params\":{\"max_tokens\":32000,\"ignore_eos\":true}"

static void an_answer_ends_with_the_process_that_reads_it(void)
{
    char id[33], more[200];
    pid_t pid = somebody();

    some_ids(ids, 2000, 3);
    rig_make_ctx(&g, "", 32768);
    rig_up(&g);
    rig_id(id);
    answer_clear(&a);
    snprintf(more, sizeof more, LONG ",\"session\":\"s\",\"pid\":%d", (int)pid);
    CHECK(rig_start(&g, id, ids, 100, more));
    usleep(700000); /* more than a look at the readers */
    CHECK_EQ(busy(), 1);
    kill(pid, SIGKILL); /* and its parent does not wait for it yet */
    CHECK(idle_within(1.5));
    /* What there was of it is kept, and the same id finds it. */
    struct wire_reply r;
    do {
        r = rig_call(&g, HRT_NEXT, NULL, 0,
                     "{\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":5000}", id, a.n);
        a.n = (uint32_t)wire_num(&r, "cursor");
        if (strcmp(wire_str(&r, "state"), "done") == 0)
            break;
        wire_reply_fini(&r);
    } while (r.f.status == 0);
    CHECK_STR(wire_str(&r, "finish"), "cancelled");
    CHECK(a.n > 0 && a.n < 32000);
    wire_reply_fini(&r);
    waitpid(pid, NULL, 0);
    rig_down(&g, SIGTERM);
}

/* It waits for the session, whose answer gives way; its link stays open, as a front's does. */
static void a_start_that_waits_ends_with_its_process(void)
{
    char id[33], other[33], json[400];
    pid_t pid = somebody();

    rig_make_ctx(&g, "", 32768);
    rig_up(&g);
    rig_id(id);
    rig_id(other);
    CHECK(rig_start(&g, id, ids, 100, LONG ",\"session\":\"s\""));
    usleep(5200000); /* nobody reads for longer than such an answer keeps its session */
    CHECK(runs_in_s(id));
    int fd = wire_connect(g.core);
    snprintf(
        json, sizeof json,
        "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"tokens\",\"session\":\"s\",\"pid\":%d" LONG
        "}",
        other, (int)pid);
    CHECK(wire_send(fd, HRT_START, 1, json, ids, 400));
    uint64_t until = now_ns() + WIRE_WAIT_MS * 1000000ull;
    while (runs_in_s(id) && now_ns() < until)
        usleep(1000);
    CHECK(!runs_in_s(id)); /* the other has come */
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK(idle_within(1.5));
    close(fd);
    rig_down(&g, SIGTERM);
}

static void a_process_that_was_never_seen_ends_nothing(void)
{
    char id[33], more[200];
    pid_t pid = somebody();

    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    rig_make_ctx(&g, "", 32768);
    rig_up(&g);
    rig_id(id);
    snprintf(more, sizeof more, LONG ",\"pid\":%d", (int)pid);
    CHECK(rig_start(&g, id, ids, 100, more)); /* from another pid namespace, say */
    usleep(1200000);
    CHECK_EQ(busy(), 1);
    rig_down(&g, SIGTERM);
}

/* How far it has come, without reading it. */
static uint64_t made_so_far(void)
{
    struct wire_reply r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
    const cJSON *turns = cJSON_GetObjectItem(r.json, "turns");
    const cJSON *last = cJSON_GetArrayItem(turns, cJSON_GetArraySize(turns) - 1);
    uint64_t n = (uint64_t)cJSON_GetNumberValue(cJSON_GetObjectItem(last, "tokens"));

    wire_reply_fini(&r);
    return n;
}
/* It lives elsewhere: the process of that number here may end, and has nothing to do with it.  Nor is
 * anything computed for a reader who may have ended unseen. */
static void not_seen_to_end(const char *ns, pid_t pid)
{
    char id[33], more[240];

    struct mk_llama slow =
        rig_tiny(32768); /* enough for unread tokens not to be what ends it */
    struct mk m = {0};

    rig_make(&g, "");
    slow.layers = 16;
    slow.embd = 768;
    slow.ff = 2048;
    mk_llama(&m, &slow);
    rig_model(&g, &m);
    free(m.p);
    rig_up(&g);
    rig_id(id);
    answer_clear(&a);
    snprintf(more, sizeof more, LONG ",\"session\":\"s\",\"pid\":%d%s", (int)pid, ns);
    CHECK(rig_start(&g, id, ids, 100, more));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    usleep(1500000);
    CHECK_EQ(busy(), 1);
    usleep(3500000 * T_SLOWER);
    uint64_t n = made_so_far();
    usleep(700000);
    CHECK_EQ(busy(), 1);
    if (n == 0 || n >= 9000)
        t_fail(__FILE__, __LINE__, "%llu tokens", (unsigned long long)n);
    CHECK_EQ(made_so_far(), n);
    CHECK(!rig_read(&g, id, &a, (uint32_t)n + 10)); /* and goes on when he asks again */
    rig_down(&g, SIGTERM);
}
static void a_pid_of_another_namespace_is_nobodys_here(void)
{
    some_ids(ids, 2000, 3);
    not_seen_to_end(",\"pid_ns\":7", somebody());
}
static void a_pid_of_another_users_process_is_not_the_readers(void)
{
    pid_t pid;

    if (geteuid() != 0)
        t_skip("only root can be two users");
    pid = fork();
    if (pid == 0) {
        if (setuid(65534) == 0)
            pause();
        _exit(1);
    }
    usleep(200000);
    some_ids(ids, 2000, 3);
    not_seen_to_end("", pid);
}
static void a_pid_of_this_namespace_is_the_readers(void)
{
    char id[33], more[240];
    pid_t pid = somebody();
    struct stat st;

    CHECK_EQ(stat("/proc/self/ns/pid", &st), 0);
    some_ids(ids, 2000, 3);
    rig_make_ctx(&g, "", 32768);
    rig_up(&g);
    rig_id(id);
    snprintf(more, sizeof more, LONG ",\"session\":\"s\",\"pid\":%d,\"pid_ns\":%lu", (int)pid,
             (unsigned long)st.st_ino);
    CHECK(rig_start(&g, id, ids, 100, more));
    usleep(700000);
    CHECK_EQ(busy(), 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK(idle_within(1.5));
    rig_down(&g, SIGTERM);
}

/* Whose START said a process that lives: a look from another pid namespace is no end of it. */
static void a_process_that_reads_on_and_was_never_seen_ends_nothing(void)
{
    char id[33], more[200];
    pid_t reads = somebody(), unseen = somebody();

    kill(unseen, SIGKILL);
    waitpid(unseen, NULL, 0);
    rig_make_ctx(&g, "", 32768);
    rig_up(&g);
    rig_id(id);
    snprintf(more, sizeof more, LONG ",\"pid\":%d", (int)reads);
    CHECK(rig_start(&g, id, ids, 100, more));
    struct wire_reply r = rig_call(
        &g, HRT_NEXT, NULL, 0,
        "{\"stream\":\"%s\",\"cursor\":0,\"max_wait_ms\":2000,\"pid\":%d}", id, (int)unseen);
    CHECK_EQ(r.f.status, HRT_OK);
    wire_reply_fini(&r);
    usleep(1200000);
    CHECK_EQ(busy(), 1);
    kill(reads, SIGKILL); /* nor does the one before him, who reads no more */
    waitpid(reads, NULL, 0);
    usleep(1200000);
    CHECK_EQ(busy(), 1);
    rig_down(&g, SIGTERM);
}

static void what_is_no_pid_is_refused_and_nothing_else(void)
{
    static const char *const bad[] = {"\"pid\":0",
                                      "\"pid\":-1",
                                      "\"pid\":\"x\"",
                                      "\"pid_ns\":-1",
                                      "\"pid_ns\":4294967296",
                                      "\"pid_ns\":1.5",
                                      "\"pid_ns\":\"x\""};
    char id[33];

    some_ids(ids, 2000, 3);
    rig_make_ctx(&g, "", 32768);
    rig_up(&g);
    for (size_t i = 0; i < 5 * (sizeof bad / sizeof *bad); i++) {
        rig_id(id);
        struct wire_reply r = rig_call(
            &g, HRT_START, ids, 400,
            "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"tokens\",\"session\":\"s\",%s}", id,
            bad[i % (sizeof bad / sizeof *bad)]);
        CHECK_EQ(r.f.status, HRT_INVALID_ARGUMENT);
        wire_reply_fini(&r);
        r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
        CHECK_EQ(r.f.status, HRT_NOT_FOUND);
        wire_reply_fini(&r);
    }
    CHECK_EQ(busy(), 0);
    rig_down(&g, SIGTERM);
}

static void an_answer_ends_some_seconds_after_its_link(void)
{
    char id[33];

    rig_make_ctx(&g, "", 32768);
    rig_up(&g);
    rig_id(id);
    answer_clear(&a);
    CHECK(rig_start(&g, id, ids, 100, LONG));
    rig_read(&g, id, &a, 5);
    close(g.fd);
    g.fd = wire_connect(g.core);
    usleep(2500000);
    CHECK_EQ(busy(), 1); /* a front that died may be back yet */
    rig_read(&g, id, &a, a.n + 5);
    CHECK_EQ(busy(), 1);
    usleep(2200000); /* he is back: the time since his first link counts no more */
    CHECK_EQ(busy(), 1);
    close(g.fd);
    g.fd = wire_connect(g.core);
    CHECK(idle_within(5));
    rig_down(&g, SIGTERM);
}

T_MAIN(
    {"an_answer_ends_with_the_process_that_reads_it",
     an_answer_ends_with_the_process_that_reads_it},
    {"a_start_that_waits_ends_with_its_process", a_start_that_waits_ends_with_its_process},
    {"a_process_that_was_never_seen_ends_nothing", a_process_that_was_never_seen_ends_nothing},
    {"a_process_that_reads_on_and_was_never_seen_ends_nothing",
     a_process_that_reads_on_and_was_never_seen_ends_nothing},
    {"a_pid_of_another_namespace_is_nobodys_here", a_pid_of_another_namespace_is_nobodys_here},
    {"a_pid_of_another_users_process_is_not_the_readers",
     a_pid_of_another_users_process_is_not_the_readers},
    {"what_is_no_pid_is_refused_and_nothing_else", what_is_no_pid_is_refused_and_nothing_else},
    {"a_pid_of_this_namespace_is_the_readers", a_pid_of_this_namespace_is_the_readers},
    {"an_answer_ends_some_seconds_after_its_link", an_answer_ends_some_seconds_after_its_link})
