/* test_lost.c - sessions that damage took turns from: who goes on with one is told so. */
#include "daemon/daemon.h"
#include "daemon/sess.h"
#include "kvstore/kvstore.h"
#include "tests/daemon/genrig.h"
#include <sys/resource.h>

#define SAYS ",\"params\":{\"max_tokens\":3,\"temperature\":0,\"ignore_eos\":true}"

static int32_t ids[300];
static struct answer a;
static struct rig g;

struct marks {
    const char *name;
    struct kvs_session found;
};

static int find_each(void *ctx, const struct kvs_session *s)
{
    struct marks *m = ctx;

    if (strcmp(s->name, m->name) == 0)
        m->found = *s;
    return 0;
}

static void marks_done(struct kvs_batch *b)
{
    *(bool *)b->user = true;
}

static struct kvs_session row_of(struct kvstore *s, const char *name)
{
    struct marks m = {.name = name};

    CHECK_EQ(kvs_sessions(s, find_each, &m), 0);
    CHECK_STR(m.found.name, name);
    return m.found;
}

static struct kvstore *store_up(void)
{
    struct kvs_opts o = {.disk_bytes = 1 << 30, .host_bytes = 64 << 20};
    struct errbuf eb = {{0}};
    struct kvstore *s = NULL;
    char dir[200];

    snprintf(dir, sizeof dir, "%s/state", g.base);
    o.dir = dir;
    if (kvs_open(&s, &o, NULL, &eb) < 0)
        t_fail(__FILE__, __LINE__, "%s", eb.s);
    return s;
}

static void store_put(struct kvstore *s, const struct kvs_rec *rec, uint32_t n)
{
    bool done = false;
    struct kvs_batch b = {.rec = rec, .n_rec = n, .done = marks_done, .user = &done};

    CHECK_EQ(kvs_batch_submit(s, &b), 0);
    while (!done) {
        kvs_commit_turn(s, 1000000);
        kvs_loop_turn(s);
    }
    CHECK_EQ(b.res, 0);
}

/* As a merge of two damaged copies leaves it. */
static void mark(const char *name)
{
    struct kvstore *s = store_up();
    struct kvs_session x = row_of(s, name);
    struct kvs_rec rec = {.kind = KVS_REC_SESSION, .session = &x};

    x.flags |= KVS_SESS_LOST;
    store_put(s, &rec, 1);
    kvs_close(s);
}

/* Of its branch nothing is left behind `at`. */
static void hurt(const char *name, uint64_t at)
{
    struct kvstore *s = store_up();
    struct kvs_rec rec = {.kind = KVS_REC_CUT,
                          .tokens = {.branch = row_of(s, name).branch, .first = at}};

    store_put(s, &rec, 1);
    kvs_close(s);
}

static bool shown_lost(const char *name)
{
    struct wire_reply r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"%s\"}", name);
    bool lost = cJSON_GetObjectItem(r.json, "lost") != NULL;

    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    return lost;
}

/* Goes on with it: is that said in the answer? */
static bool said_lost(const char *name)
{
    char more[200];

    snprintf(more, sizeof more, ",\"session\":\"%s\"" SAYS, name);
    rig_run(&g, ids + 100, 5, more, &a);
    CHECK_EQ(a.n, 3);
    char *s = cJSON_PrintUnformatted(a.last.json);
    bool said = s && strstr(s, "lost to damage");
    free(s);
    return said;
}

static void begin(void)
{
    some_ids(ids, 300, 3);
    rig_make(&g, "");
    rig_up(&g);
    rig_run(&g, ids, 100, ",\"session\":\"a\"" SAYS, &a);
    rig_run(&g, ids, 100, ",\"session\":\"b\"" SAYS, &a);
    rig_down(&g, SIGTERM);
}

static void fork_of(const char *name, const char *fork, const char *more)
{
    char id[33];

    rig_id(id);
    struct wire_reply r =
        rig_call(&g, HRT_SESSION_FORK, NULL, 0,
                 "{\"id\":\"%s\",\"session\":\"%s\",\"name\":\"%s\"%s}", id, name, fork, more);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
}

static void lost_turns_are_said_by_the_next_answer_and_by_that_of_a_fork(void)
{
    begin();
    mark("a");
    rig_up(&g);
    fork_of("a", "f", "");
    CHECK(shown_lost("a") && shown_lost("f") && !shown_lost("b"));
    CHECK(said_lost("f"));
    CHECK(!shown_lost("f") && shown_lost("a")); /* told by its own answer, not by another's */
    CHECK(!said_lost("f"));
    CHECK(!said_lost("b"));
    rig_down(&g, SIGTERM);
    rig_up(&g);
    CHECK(!shown_lost("f") && shown_lost("a"));
    CHECK(said_lost("a"));
    CHECK(!said_lost("a"));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

static void before_what_was_lost_a_fork_lacks_nothing(void)
{
    begin();
    mark("a");
    rig_up(&g);
    fork_of("a", "f", ",\"at\":50");
    CHECK(shown_lost("a") && !shown_lost("f"));
    CHECK(!said_lost("f"));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* Whether a call about session a is told to come again, in these words. */
static bool unread(uint8_t type, const char *more, const char *words, uint32_t status,
                   const char *why)
{
    char id[33];

    rig_id(id);
    struct wire_reply r =
        rig_call(&g, type, NULL, 0, "{\"id\":\"%s\",\"session\":\"a\",%s}", id, more);
    char *s = cJSON_PrintUnformatted(r.json);
    bool is = r.f.status == status && s && strstr(s, why) && strstr(s, words);

    if (!is && r.f.status)
        printf("    %s\n", s ? s : "");
    free(s);
    wire_reply_fini(&r);
    return is;
}

/* The index was written to and cannot be walked, as no more files may be opened: a while later it
 * can, and nothing is missing. */
static void what_cannot_be_read_now_is_not_called_lost(void)
{
    bool refused = false;
    struct rlimit was, none;
    char path[300];

    begin();
    /* A touch that falls into a write of the daemon's own is not to be told from it; what was shown
     * then is in memory and shown again, so it is another daemon that is asked. */
    for (int i = 1; i < 10 && !refused; i++) {
        const struct timespec other[2] = {{i, 0}, {i, 0}};
        if (i > 1) {
            CHECK_EQ(prlimit(g.pid, RLIMIT_NOFILE, &was, NULL), 0);
            rig_down(&g, SIGTERM);
        }
        rig_up(&g);
        rig_run(&g, ids + 100, 5, ",\"session\":\"b\"" SAYS, &a); /* the model is there */
        answer_clear(&a);
        snprintf(path, sizeof path, "%s/state/index.mdb", g.base);
        CHECK_EQ(prlimit(g.pid, RLIMIT_NOFILE, NULL, &was), 0);
        none = (struct rlimit){3, was.rlim_max};
        CHECK_EQ(prlimit(g.pid, RLIMIT_NOFILE, &none, NULL), 0);
        usleep(i * 20000);
        CHECK_EQ(utimensat(AT_FDCWD, path, other, 0), 0);
        refused =
            unread(HRT_SESSION_SHOW, "\"ids\":true", "session \\\"a\\\" cannot be read before",
                   HRT_RESOURCE_EXHAUSTED, "waits to be checked");
    }
    CHECK(refused);
    CHECK(unread(HRT_SESSION_REWIND, "\"to_turn\":1", "what is stored cannot be read before",
                 HRT_RESOURCE_EXHAUSTED, "waits to be checked"));
    CHECK_EQ(prlimit(g.pid, RLIMIT_NOFILE, &was, NULL), 0);
    uint64_t until = now_ns() + 20000000000u * T_SLOWER;
    while (unread(HRT_SESSION_SHOW, "\"ids\":true", "", HRT_RESOURCE_EXHAUSTED,
                  "waits to be checked") &&
           now_ns() < until)
        usleep(1000);
    CHECK(!shown_lost("a"));
    rig_run(&g, ids + 100, 5, ",\"session\":\"a\"" SAYS, &a);
    CHECK_EQ(a.n, 3);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* A new index cannot be made, whatever room there is: the store has to be started again. */
static void what_waits_for_a_restart_is_not_called_lost(void)
{
    static const uint8_t zeros[65536];
    char path[300];

    begin();
    rig_up(&g);
    CHECK(!shown_lost("b"));
    snprintf(path, sizeof path, "%s/state/index.mdb.new", g.base);
    CHECK_EQ(mkdir(path, 0700), 0);
    *strrchr(path, '.') = 0;
    int fd = open(path, O_WRONLY);
    CHECK_EQ(pwrite(fd, zeros, sizeof zeros, 8192), (ssize_t)sizeof zeros);
    close(fd);
    CHECK(unread(HRT_SESSION_SHOW, "\"ids\":true", "session \\\"a\\\" cannot be read before",
                 HRT_FAILED_PRECONDITION, "cannot be made anew"));
    CHECK(unread(HRT_SESSION_SHOW, "\"ids\":true", "store_read_only", HRT_FAILED_PRECONDITION,
                 "then restart"));
    CHECK(unread(HRT_SESSION_SHOW, "\"ids\":false", "store_read_only", HRT_FAILED_PRECONDITION,
                 "then restart"));
    CHECK(unread(HRT_SESSION_REWIND, "\"to_turn\":1", "store_read_only",
                 HRT_FAILED_PRECONDITION, "what is stored cannot be read before"));
    rig_down(&g, SIGTERM);
    strcat(path, ".new");
    CHECK_EQ(rmdir(path), 0);
    rig_up(&g);
    CHECK(!shown_lost("a"));
    rig_run(&g, ids + 100, 5, ",\"session\":\"a\"" SAYS, &a);
    CHECK_EQ(a.n, 3);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* Nobody may begin it anew by way of a fork, and not know that there was something. */
static void a_fork_of_what_is_all_lost_is_all_lost(void)
{
    struct daemon d = {0};
    struct sess *s, *f;
    char words[512];
    bool none = false;

    CHECK_EQ(sess_table_new(&d.sess), 0);
    CHECK_EQ(sess_make(&d, 7, "a", "m", &s), 0);
    s->rec.flags |= KVS_SESS_LOST;
    s->lost_to = 103;
    CHECK_EQ(sess_fork(&d, s, 0, "f", &f), 0);
    CHECK(sess_lost(f, words, sizeof words, &none) && none);
    CHECK(strstr(words, "\"f\": all of its 103 tokens"));
    sess_close(&d);
}

/* Where it stands, with so many of ids before what comes then, and what it lost. */
static bool stands(const char *name, uint64_t at, uint32_t of_ids, uint64_t lost_to)
{
    struct wire_reply r =
        rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"%s\",\"ids\":true}", name);
    const cJSON *lost = cJSON_GetObjectItem(r.json, "lost");
    double from = lost ? cJSON_GetObjectItem(lost, "from")->valuedouble : 0;
    double to = lost ? cJSON_GetObjectItem(lost, "to")->valuedouble : 0;
    bool is = r.f.status == 0 && cJSON_GetObjectItem(r.json, "tokens")->valuedouble == at &&
              r.f.tail_len >= of_ids * 4 && memcmp(r.tail, ids, of_ids * 4) == 0 &&
              to == lost_to && (!lost || from == at);

    char *all = cJSON_PrintUnformatted(r.json);
    if (!is)
        printf("    %s\n", all ? all : "");
    free(all);
    wire_reply_fini(&r);
    return is;
}

/* Goes on with so many of ids from 100 on, and three of its own. */
static void go_on(const char *name, uint32_t n)
{
    char more[200];

    snprintf(more, sizeof more, ",\"session\":\"%s\"" SAYS, name);
    rig_run(&g, ids + 100, n, more, &a);
}

/* Three at the same place of one branch, and a fork made there later: whoever goes on does so for
 * himself, in this run and in the next. */
static void who_was_cut_stays_where_that_was_whoever_goes_on_there(void)
{
    begin();
    rig_up(&g);
    fork_of("a", "twin", "");
    rig_down(&g, SIGTERM);
    hurt("a", 50);
    rig_up(&g);
    CHECK(stands("a", 50, 50, 103) && stands("twin", 50, 50, 103));
    fork_of("a", "still", "");
    fork_of("a", "f", "");
    go_on("f", 5);
    CHECK(stands("f", 58, 50, 0) && stands("a", 50, 50, 103));
    rig_down(&g, SIGKILL);
    rig_up(&g);
    CHECK(stands("f", 58, 50, 0) && stands("a", 50, 50, 103));
    CHECK(stands("twin", 50, 50, 103) && stands("still", 50, 50, 103));
    CHECK(said_lost("a") && stands("a", 58, 50, 0));
    go_on("a", 90);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    CHECK(stands("twin", 50, 50, 103) && stands("still", 50, 50, 103));
    CHECK(stands("f", 58, 50, 0) && stands("a", 151, 50, 0));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* Nothing was changed, so nothing was looked at either. */
static void a_rewind_that_is_refused_takes_no_mark_away(void)
{
    struct rlimit lim, was;
    char id[33];

    begin();
    hurt("a", 50);
    rig_up(&g);
    CHECK(stands("a", 50, 50, 103));
    CHECK_EQ(prlimit(g.pid, RLIMIT_FSIZE, NULL, &was), 0);
    lim = was;
    lim.rlim_cur = 4096;
    CHECK_EQ(prlimit(g.pid, RLIMIT_FSIZE, &lim, NULL), 0);
    for (int i = 0; i < 2; i++) {
        rig_id(id);
        struct wire_reply r =
            rig_call(&g, HRT_SESSION_REWIND, NULL, 0,
                     "{\"id\":\"%s\",\"session\":\"a\",\"to_tokens\":40}", id);
        CHECK(r.f.status != 0);
        wire_reply_fini(&r);
        CHECK(stands("a", 50, 50, 103));
    }
    CHECK_EQ(prlimit(g.pid, RLIMIT_FSIZE, &was, NULL), 0);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    CHECK(stands("a", 50, 50, 103));
    CHECK(said_lost("a"));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* Rewound it has nothing to be told of any more, and a fork from before it has not either: nor do
 * they when damage marks them again. */
static void what_was_told_once_is_not_told_of_later_damage(void)
{
    begin();
    hurt("a", 50);
    rig_up(&g);
    fork_of("a", "f", ",\"at\":20");
    fork_of("a", "told", "");
    CHECK(said_lost("told"));
    char id[33];
    rig_id(id);
    struct wire_reply r = rig_call(&g, HRT_SESSION_REWIND, NULL, 0,
                                   "{\"id\":\"%s\",\"session\":\"a\",\"to_tokens\":40}", id);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    CHECK(stands("a", 40, 40, 0) && stands("f", 20, 20, 0) && stands("told", 58, 50, 0));
    rig_down(&g, SIGTERM);
    mark("a");
    mark("f");
    mark("told");
    rig_up(&g);
    CHECK(stands("a", 40, 40, 40) && stands("f", 20, 20, 20) && stands("told", 58, 50, 58));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* Its record says the place from before the damage, and behind what is left another has gone on:
 * not as far, and further. */
static void what_others_said_in_its_place_is_not_taken_for_its_own(void)
{
    struct kvs_session was;

    begin();
    struct kvstore *s = store_up();
    was = row_of(s, "a");
    kvs_close(s);
    was.flags |= KVS_SESS_LOST;
    hurt("a", 50);
    rig_up(&g);
    fork_of("a", "f", "");
    for (int i = 0; i < 2; i++) {
        struct kvs_rec rec = {.kind = KVS_REC_SESSION, .session = &was};

        go_on("f", i ? 90 : 5);
        rig_down(&g, SIGTERM);
        s = store_up();
        struct kvs_rec cut = {.kind = KVS_REC_CUT,
                              .tokens = {.branch = was.branch, .first = 58}};
        if (i == 0) { /* the store takes a place where there is something */
            int32_t some[45] = {0};
            struct kvs_rec more = {.kind = KVS_REC_TOKENS,
                                   .tokens = {was.branch, 58, some, 45}};
            store_put(s, &more, 1);
        }
        store_put(s, &rec, 1);
        if (i == 0)
            store_put(s, &cut, 1);
        kvs_close(s);
        rig_up(&g);
        CHECK(stands("a", 50, 50, 103));
        CHECK(stands("f", i ? 151 : 58, 50, 0));
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* Its record may be an older one, as a merge marks it: what it said since stays, whoever went on
 * behind that; and a fork that stands in it has lost as much. */
static void what_it_said_itself_after_its_record_stays(void)
{
    struct kvs_session was;

    begin();
    struct kvstore *s = store_up();
    was = row_of(s, "a");
    kvs_close(s);
    rig_up(&g);
    go_on("a", 5);
    fork_of("a", "f", "");
    go_on("f", 5);
    rig_down(&g, SIGTERM);
    s = store_up();
    struct kvs_rec rec = {.kind = KVS_REC_SESSION, .session = &was};
    was.flags |= KVS_SESS_LOST;
    was.head = 119; /* the branch's end */
    store_put(s, &rec, 1);
    kvs_close(s);
    rig_up(&g);
    CHECK(stands("a", 111, 100, 119));
    fork_of("a", "g", "");
    fork_of("a", "h", ",\"at\":110");
    CHECK(stands("g", 111, 100, 119) && stands("h", 110, 100, 0));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* Its later turns say that an answer which began before them is over: the record that said so is
 * lost. */
static void a_session_does_not_go_back_to_an_answer_that_it_left(void)
{
    begin();
    struct kvstore *s = store_up();
    struct kvs_session x = row_of(s, "a");
    struct kvs_req q = {.owner = x.owner,
                        .session = x.id,
                        .branch = x.branch,
                        .pos = 50,
                        .type = HRT_START,
                        .state = KVS_REQ_RUNNING,
                        .time_ns = wall_ns(),
                        .reply = "{\"v\":2}",
                        .reply_bytes = 7};
    struct kvs_rec rec = {.kind = KVS_REC_REQ, .req = &q};
    kvs_id_new(&q.id);
    store_put(s, &rec, 1);
    kvs_close(s);
    rig_up(&g);
    CHECK(stands("a", 103, 100, 0));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(who_was_cut_stays_where_that_was_whoever_goes_on_there),
       CASE(what_was_told_once_is_not_told_of_later_damage),
       CASE(a_rewind_that_is_refused_takes_no_mark_away),
       CASE(what_others_said_in_its_place_is_not_taken_for_its_own),
       CASE(what_it_said_itself_after_its_record_stays),
       CASE(a_session_does_not_go_back_to_an_answer_that_it_left),
       CASE(lost_turns_are_said_by_the_next_answer_and_by_that_of_a_fork),
       CASE(before_what_was_lost_a_fork_lacks_nothing),
       CASE(a_fork_of_what_is_all_lost_is_all_lost),
       CASE(what_cannot_be_read_now_is_not_called_lost),
       CASE(what_waits_for_a_restart_is_not_called_lost))
