/* test_many.c - a hundred thousand sessions: the daemon opens, answers and forgets among them. */
#include "daemon/ident.h"
#include "kvstore/env.h"
#include "tests/daemon/genrig.h"
#include <errno.h>

enum { SESSIONS = 100000, ANONYMOUS = 3600, PER_BATCH = 200, TOKENS = 40, KEPT = 1024 };

static int batch_res;
static bool batch_over;
static void batch_done(struct kvs_batch *b)
{
    batch_res = b->res;
    batch_over = true;
}

/* Sets owner, name, flags and settings of session `at`. */
typedef void each_fn(struct kvs_session *s, uint32_t at);

/* The last ANONYMOUS have no name, and one in three of them is brief.  Every
 * second of those is of one of three keys, which nobody uses here.  Without the brief ones, which
 * are too old to stay, he still has more than KEPT, and so have the keys. */
static void of_many(struct kvs_session *s, uint32_t at)
{
    bool named = at < SESSIONS - ANONYMOUS;

    s->owner = !named && at % 2 ? IDENT_FIRST + 1 + at / 2 % 3 : getuid();
    if (named)
        snprintf(s->name, sizeof s->name, "session number %u", at);
    else
        s->flags = KVS_SESS_ANONYMOUS;
    snprintf(s->settings, sizeof s->settings, "{\"date\":\"2026-11-27\"%s}",
             !named && at % 3 == 0 ? ",\"keep\":\"no\"" : "");
}

/* Those from `from` on. */
static void put(struct kvstore *s, each_fn *each, uint32_t from, uint32_t n, uint64_t wall)
{
    struct kvs_session *ses = calloc(n, sizeof *ses);
    struct kvs_branch *br = calloc(n, sizeof *br);
    struct kvs_turn *turn = calloc(n, sizeof *turn);
    struct kvs_rec *rec = calloc(4 * n, sizeof *rec);
    static int32_t ids[TOKENS];
    struct kvs_batch b = {.rec = rec, .n_rec = 4 * n, .done = batch_done};

    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = from + i;
        kvs_id_new(&br[i].id);
        kvs_id_new(&ses[i].id);
        each(&ses[i], at);
        br[i].owner = ses[i].owner;
        ses[i].branch = br[i].id;
        ses[i].head = TOKENS;
        /* Used within the last hour; older ones come first. */
        ses[i].created_ns = ses[i].used_ns = wall - 3600000000000u + at * 1000000ull;
        snprintf(ses[i].model, sizeof ses[i].model, "m");
        turn[i] = (struct kvs_turn){.branch = br[i].id,
                                    .n_tokens = TOKENS,
                                    .role = KVS_ROLE_USER,
                                    .time_ns = wall,
                                    .params = "{}"};
        rec[4 * i] = (struct kvs_rec){.kind = KVS_REC_BRANCH, .branch = &br[i]};
        rec[4 * i + 1] =
            (struct kvs_rec){.kind = KVS_REC_TOKENS, .tokens = {br[i].id, 0, ids, TOKENS}};
        rec[4 * i + 2] = (struct kvs_rec){.kind = KVS_REC_TURN, .turn = &turn[i]};
        rec[4 * i + 3] = (struct kvs_rec){.kind = KVS_REC_SESSION, .session = &ses[i]};
    }
    batch_over = false;
    CHECK_EQ(kvs_batch_submit(s, &b), 0);
    while (!batch_over) {
        kvs_commit_turn(s, 0);
        kvs_loop_turn(s);
    }
    CHECK_EQ(batch_res, 0);
    free(ses);
    free(br);
    free(turn);
    free(rec);
}

static void fill(struct rig *g, each_fn *each, uint32_t n)
{
    char dir[200];
    struct kvs_opts o = {.dir = dir,
                         .io = KVS_IO_THREADS,
                         .host_bytes = 16 << 20,
                         .disk_bytes = 1 << 30,
                         .no_fsync = true};
    struct kvs_open_report rep;
    struct errbuf eb = {""};
    struct kvstore *s;
    uint64_t wall = wall_ns();

    snprintf(dir, sizeof dir, "%s/state", g->base);
    /* Another store, that is not of today: else all in it is of this minute. */
    char cmd[300];
    struct kvs_env env = {.lived_ns = 30 * 86400ull * 1000000000u};
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    if (system(cmd) != 0 || kvs_open_env(&s, &o, &env, &rep, &eb) < 0) {
        t_fail(__FILE__, __LINE__, "%s", eb.s);
        return;
    }
    for (uint32_t at = 0; at < n; at += PER_BATCH)
        put(s, each, at, PER_BATCH, wall);
    kvs_close(s);
}

/* Its own: what is mapped of the index comes and goes with the page cache. */
static uint64_t resident(pid_t pid)
{
    char path[64], line[256];
    unsigned long long kb = 0;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        (void)sscanf(line, "RssAnon: %llu", &kb);
    if (f)
        fclose(f);
    return kb << 10;
}

static double number(const struct wire_reply *r, const char *a, const char *b)
{
    const cJSON *o = cJSON_GetObjectItem(r->json, a);
    const cJSON *v = b ? cJSON_GetObjectItem(o, b) : o;

    return cJSON_IsNumber(v) ? v->valuedouble : -1;
}

/* How many there are once there are no more than `want`. */
static double anonymous(struct rig *g, double want)
{
    double n = -1;

    for (int i = 0; i < 600 * T_SLOWER && (n < 0 || n > want); i++) {
        struct wire_reply r = rig_call(g, HRT_STATUS, NULL, 0, "{}");
        n = number(&r, "sessions", "anonymous");
        wire_reply_fini(&r);
        usleep(n > want ? 100000 : 0);
    }
    return n;
}

/* Pages until there are no more; how many sessions, each once and in order.  ret_before: by how much
 * the oldest that has no name is younger than the youngest that has one. */
static uint32_t list_all(struct rig *g, uint64_t *ret_longest, double *ret_before)
{
    char next[64] = "";
    uint32_t n = 0;
    double used = 1e300, nameless = 1e300;

    *ret_longest = 0;
    *ret_before = -1;
    do {
        struct wire_reply r = next[0]
                                  ? rig_call(g, HRT_SESSION_LIST, NULL, 0,
                                             "{\"all\":true,\"after\":\"%s\"}", next)
                                  : rig_call(g, HRT_SESSION_LIST, NULL, 0, "{\"all\":true}");
        const cJSON *s;
        CHECK_EQ(r.f.status, 0);
        cJSON_ArrayForEach(s, cJSON_GetObjectItem(r.json, "sessions"))
        {
            double u = cJSON_GetObjectItem(s, "used")->valuedouble;
            bool named = !cJSON_IsTrue(cJSON_GetObjectItem(s, "anonymous"));
            n++;
            CHECK(u <= used);
            if (!named)
                nameless = u;
            else if (*ret_before < 0)
                *ret_before = nameless - u;
            CHECK(cJSON_GetObjectItem(s, "tokens")->valuedouble >= TOKENS);
            used = u;
        }
        snprintf(next, sizeof next, "%s", wire_str(&r, "next"));
        CHECK((number(&r, "left", NULL) > 0) == (next[0] != 0));
        *ret_longest = r.f.json_len > *ret_longest ? r.f.json_len : *ret_longest;
        wire_reply_fini(&r);
    } while (next[0]);
    return n;
}

static void a_hundred_thousand_sessions_are_opened_and_used(void)
{
    struct wire_reply r;
    struct answer *a = calloc(1, sizeof *a);
    const int32_t few[] = {1, 2, 3};
    uint64_t longest;
    double before;
    struct rig g;
    char id[33];

    rig_make(&g, "");
    (void)same, (void)usage, (void)some_ids; /* of the rig, not needed here */
    rig_up(&g);
    uint64_t bare = resident(g.pid);
    rig_down(&g, SIGTERM);
    fill(&g, of_many, SESSIONS);
    for (int again = 0; again < 2; again++) {
        uint64_t t0 = now_ns();
        rig_up(&g);
        printf("    open in %.2f s\n", (double)(now_ns() - t0) / 1e9);
        r = rig_call(&g, HRT_STATUS, NULL, 0, "{}");
        double count = number(&r, "sessions", "count"),
               memory = number(&r, "sessions", "memory");
        printf("    %.0f sessions in %.0f bytes, %.0f each; resident %llu MiB, bare %llu\n",
               count, memory, memory / count, (unsigned long long)resident(g.pid) >> 20,
               (unsigned long long)bare >> 20);
        CHECK(memory > 0 && memory / count < 768);
        if (T_SLOWER == 1) /* sanitizers keep what was freed */
            CHECK(resident(g.pid) < bare + SESSIONS * 2048ull);
        wire_reply_fini(&r);
        /* Brief ones go by their age, then others above the bound, oldest first, some at a time:
         * his, and those of the keys together. */
        CHECK_EQ(anonymous(&g, 2 * KEPT), 2 * KEPT);
        /* By name, by id, in a list. */
        r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"session number 77777\"}");
        CHECK_EQ(r.f.status, 0);
        snprintf(id, sizeof id, "%s", wire_str(&r, "id"));
        wire_reply_fini(&r);
        r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"%s\"}", id);
        CHECK_EQ(r.f.status, 0);
        CHECK_STR(wire_str(&r, "name"), "session number 77777");
        wire_reply_fini(&r);
        CHECK_EQ(list_all(&g, &longest, &before), SESSIONS - ANONYMOUS + KEPT);
        CHECK(longest < 4 << 20);
        /* Of his that are not brief, two in each six, the oldest went. */
        CHECK_EQ((int)(before * 1000 + 0.5), 3 * (ANONYMOUS / 3 - KEPT) + 1);
        /* Goes on, makes another, removes one. */
        rig_id(id);
        CHECK(rig_start(
            &g, id, few, 3,
            ",\"session\":\"one more\",\"create\":true,\"params\":{\"max_tokens\":3}"));
        CHECK(rig_read(&g, id, a, 100));
        answer_clear(a);
        rig_id(id);
        r = rig_call(&g, HRT_SESSION_REMOVE, NULL, 0,
                     "{\"id\":\"%s\",\"session\":\"one more\"}", id);
        CHECK_EQ(r.f.status, 0);
        wire_reply_fini(&r);
        rig_id(id);
        CHECK(rig_start(
            &g, id, few, 3,
            ",\"session\":\"one more\",\"create\":true,\"params\":{\"max_tokens\":3}"));
        CHECK(rig_read(&g, id, a, 100));
        answer_clear(a);
        rig_id(id);
        r = rig_call(&g, HRT_SESSION_REMOVE, NULL, 0,
                     "{\"id\":\"%s\",\"session\":\"one more\"}", id);
        wire_reply_fini(&r);
        rig_down(&g, SIGTERM);
    }
    free(a);
}

/* Blocks on disk, once there are so many of them. */
static int blocks(struct rig *g, int want)
{
    int n = -1;

    for (int i = 0; i < 200 * T_SLOWER && n != want; i++) {
        struct wire_reply r = rig_call(g, HRT_STATUS, NULL, 0, "{}");
        n = (int)number(&r, "blocks", "file");
        wire_reply_fini(&r);
        usleep(n == want ? 0 : 50000);
    }
    return n;
}

static void rm(struct rig *g, const char *name)
{
    struct wire_reply r;
    char id[33];

    rig_id(id);
    r = rig_call(g, HRT_SESSION_REMOVE, NULL, 0, "{\"id\":\"%s\",\"session\":\"%s\"}", id,
                 name);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
}

static void what_a_removed_session_has_alone_is_given_back(void)
{
    struct answer *a = calloc(1, sizeof *a);
    struct wire_reply r;
    static int32_t ids[1600];
    struct rig g;
    char id[33];

    some_ids(ids, 1600, 5);
    rig_make(&g, "");
    rig_up(&g);
    rig_run(&g, ids, 1000, ",\"session\":\"s\",\"create\":true,\"params\":{\"max_tokens\":0}",
            a);
    answer_clear(a);
    rig_id(id);
    r = rig_call(&g, HRT_SESSION_FORK, NULL, 0,
                 "{\"id\":\"%s\",\"session\":\"s\",\"name\":\"f\",\"at\":800}", id);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    rig_run(&g, ids + 1000, 600, ",\"session\":\"f\",\"params\":{\"max_tokens\":0}", a);
    answer_clear(a);
    /* s: 3 whole blocks, f: those and 2 of its own. */
    CHECK_EQ(blocks(&g, 5), 5);
    for (int again = 0; again < 2; again++) {
        rm(&g, again ? "s" : "f");
        CHECK_EQ(blocks(&g, again ? 0 : 3), again ? 0 : 3);
        rig_down(&g, SIGTERM);
        rig_up(&g);
        /* A clean stop has kept the unfinished block that s rests in, too. */
        CHECK_EQ(blocks(&g, again ? 0 : 4), again ? 0 : 4);
        r = rig_call(&g, HRT_MODEL_SHOW, NULL, 0, "{\"model\":\"m\"}");
        wire_reply_fini(&r);
        /* The fingerprint is known once the model is loaded. */
        rig_id(id);
        CHECK(
            rig_start(&g, id, ids + 1500, 3, ",\"keep\":false,\"params\":{\"max_tokens\":1}"));
        CHECK(rig_read(&g, id, a, 100));
        answer_clear(a);
    }
    rig_down(&g, SIGTERM);
    free(a);
}

/* Not a fork of it: it was told the same. */
static void what_another_session_has_by_the_same_text_stays(void)
{
    static const char *const more[] = {
        ",\"session\":\"a\",\"create\":true,\"params\":{\"max_tokens\":0}",
        ",\"session\":\"b\",\"create\":true,\"params\":{\"max_tokens\":0}",
        ",\"session\":\"c\",\"create\":true,\"params\":{\"max_tokens\":0}"};
    struct answer *a = calloc(1, sizeof *a);
    static int32_t ids[2000], other[2000];
    struct rig g;

    some_ids(ids, 2000, 7);
    some_ids(other, 2000, 8);
    memcpy(other, ids, 600 * sizeof *ids);
    rig_make(&g, "");
    rig_up(&g);
    /* a and b: 3 whole blocks; c: 2 of these, and 2 of its own. */
    rig_run(&g, ids, 900, more[0], a);
    answer_clear(a);
    rig_run(&g, ids, 900, more[1], a);
    answer_clear(a);
    rig_run(&g, other, 1100, more[2], a);
    answer_clear(a);
    CHECK_EQ(blocks(&g, 5), 5);
    /* The rests are kept by a clean stop; the tokens are on the disk alone then. */
    rig_down(&g, SIGTERM);
    rig_up(&g);
    CHECK_EQ(blocks(&g, 7), 7);
    rig_run(&g, ids + 1900, 3, ",\"keep\":false,\"params\":{\"max_tokens\":1}", a);
    answer_clear(a);
    rm(&g, "b");
    rm(&g, "c");
    /* All that a has, its rest as well: what c had alone went after b's had. */
    CHECK_EQ(blocks(&g, 4), 4);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    rig_run(&g, ids + 900, 10, ",\"session\":\"a\",\"params\":{\"max_tokens\":0}", a);
    CHECK(usage(a, "usage", "reused") >= 768);
    answer_clear(a);
    rm(&g, "a");
    CHECK_EQ(blocks(&g, 0), 0);
    rig_down(&g, SIGTERM);
    free(a);
}

/* What is on its way down with the model is not of the book any more. */
static void nothing_of_a_session_removed_as_its_model_goes_stays(void)
{
    enum { N = 40 };
    struct answer *a = calloc(1, sizeof *a);
    static int32_t ids[200];
    struct wire_reply r;
    struct rig g;
    char more[100], id[33];

    rig_make(&g, "");
    rig_up(&g);
    for (int i = 0; i < N; i++) {
        some_ids(ids, 200, 50 + (uint64_t)i);
        snprintf(more, sizeof more,
                 ",\"session\":\"s%d\",\"create\":true,\"params\":{\"max_tokens\":0}", i);
        rig_run(&g, ids, 200, more, a); /* no block is whole */
        answer_clear(a);
    }
    CHECK_EQ(blocks(&g, 0), 0);
    rig_id(id);
    r = rig_call(&g, HRT_MODEL_UNLOAD, NULL, 0, "{\"id\":\"%s\",\"model\":\"m\"}", id);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    for (int i = N; i-- > 0;) { /* the last ones first: they are not there yet */
        snprintf(more, sizeof more, "s%d", i);
        rm(&g, more);
    }
    CHECK_EQ(blocks(&g, 0), 0);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    CHECK_EQ(blocks(&g, 0), 0);
    rig_down(&g, SIGTERM);
    free(a);
}

/* Nobody waits for the blocks before the session goes: some are on their way down then. */
static void nothing_of_a_session_removed_at_once_stays(void)
{
    struct answer *a = calloc(1, sizeof *a);
    static int32_t ids[1600];
    struct rig g;
    char more[100];

    rig_make(&g, "");
    rig_up(&g);
    for (int i = 0; i < 20; i++) {
        some_ids(ids, 1600, 50 + (uint64_t)i);
        snprintf(more, sizeof more,
                 ",\"session\":\"s%d\",\"create\":true,\"params\":{\"max_tokens\":0}", i);
        rig_run(&g, ids, 1537, more, a); /* the last block ends with it */
        answer_clear(a);
        snprintf(more, sizeof more, "s%d", i);
        rm(&g, more);
    }
    CHECK_EQ(blocks(&g, 0), 0);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    CHECK_EQ(blocks(&g, 0), 0);
    rig_down(&g, SIGTERM);
    free(a);
}

/* Sixty keys', as many of each: only those of one may go. */
enum { KEYS = 60, OF_KEY = 20 };
static void of_keys(struct kvs_session *s, uint32_t at)
{
    s->owner = IDENT_FIRST + 1 + at % KEYS;
    s->flags = KVS_SESS_ANONYMOUS | (at % KEYS == KEYS / 2 ? 0 : KVS_SESS_PINNED);
    snprintf(s->settings, sizeof s->settings, "{\"date\":\"2026-11-27\"}");
}

static void of_keys_with_as_many_each_any_may_give_way(void)
{
    enum { WANT = (KEYS - 1) * OF_KEY };
    struct rig g;

    rig_make(&g, "");
    fill(&g, of_keys, KEYS * OF_KEY);
    rig_up(&g);
    CHECK_EQ(anonymous(&g, WANT), WANT);
    rig_down(&g, SIGTERM);
}

T_MAIN({"of_keys_with_as_many_each_any_may_give_way",
        of_keys_with_as_many_each_any_may_give_way},
       {"what_a_removed_session_has_alone_is_given_back",
        what_a_removed_session_has_alone_is_given_back},
       {"what_another_session_has_by_the_same_text_stays",
        what_another_session_has_by_the_same_text_stays},
       {"nothing_of_a_session_removed_at_once_stays",
        nothing_of_a_session_removed_at_once_stays},
       {"nothing_of_a_session_removed_as_its_model_goes_stays",
        nothing_of_a_session_removed_as_its_model_goes_stays},
       {"a_hundred_thousand_sessions_are_opened_and_used",
        a_hundred_thousand_sessions_are_opened_and_used})
