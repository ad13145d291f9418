/* test_gen.c - sessions and answers on the real daemon with a tiny model: what comes out is
 * the same whatever happens in between. */
#include "kvstore/kvstore.h"
#include "tests/daemon/genrig.h"
#include <sodium.h>

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
#define SAMPLED                                                                                \
    "\"params\":{\"max_tokens\":40,\"temperature\":0.9,\"seed\":5,\"ignore_eos\":true}"

static int32_t ids[2048];
static struct answer a, b;

/* --- a store as another program left it -------------------------------------------------------- */
/* Changes o, the record's JSON, or q; fills ret with one more record of the same JSON. */
typedef void edit_fn(cJSON *o, struct kvs_req *q, struct kvs_req *ret);
static struct kvstore *edited_store;
struct edited {
    edit_fn *edit;
    struct kvs_rec rec[16];
    struct kvs_req req[16];
    char *text[16];
    uint32_t n;
};

static void edited_add(struct edited *e, const struct kvs_req *q, const cJSON *o)
{
    e->text[e->n] = cJSON_PrintUnformatted(o);
    e->req[e->n] = *q;
    e->req[e->n].reply = e->text[e->n];
    e->req[e->n].reply_bytes = (uint32_t)strlen(e->text[e->n]);
    e->rec[e->n].kind = KVS_REC_REQ;
    e->rec[e->n].req = &e->req[e->n];
    e->n++;
}

static int edit_each(void *ctx, const struct kvs_req *q)
{
    struct edited *e = ctx;
    struct kvs_req as = *q, more = {0};
    cJSON *o = cJSON_ParseWithLength(q->reply, q->reply_bytes);

    if (q->type == HRT_START && e->n < 14) {
        e->edit(o, &as, &more);
        edited_add(e, &as, o);
        if (more.type)
            edited_add(e, &more, o);
    }
    cJSON_Delete(o);
    return 0;
}

static void edited_done(struct kvs_batch *x)
{
    (void)x;
}

/* Every START in the store of a daemon that is down. */
static void edit_requests(struct rig *g, edit_fn *edit)
{
    struct edited e = {.edit = edit};
    struct kvs_opts o = {.disk_bytes = 1 << 30, .host_bytes = 64 << 20};
    struct kvs_batch batch = {.rec = e.rec, .done = edited_done};
    struct errbuf eb = {{0}};
    char dir[200];

    snprintf(dir, sizeof dir, "%s/state", g->base);
    o.dir = dir;
    if (kvs_open(&edited_store, &o, NULL, &eb) < 0) {
        t_fail(__FILE__, __LINE__, "%s", eb.s);
        return;
    }
    CHECK_EQ(kvs_reqs(edited_store, edit_each, &e), 0);
    CHECK(e.n > 0);
    batch.n_rec = e.n;
    CHECK_EQ(kvs_batch_submit(edited_store, &batch), 0);
    while (kvs_in_flight(edited_store)) {
        kvs_commit_turn(edited_store, 1000000);
        kvs_loop_turn(edited_store);
    }
    CHECK_EQ(batch.res, 0);
    kvs_close(edited_store);
    for (uint32_t i = 0; i < e.n; i++)
        free(e.text[i]);
}

struct kept {
    uint32_t sessions, brief;
};
static int kept_each(void *ctx, const struct kvs_session *x)
{
    struct kept *k = ctx;

    k->sessions++;
    k->brief += strstr(x->settings, "\"keep\":\"no\"") != NULL;
    return 0;
}

static void what_one_question_began_is_kept_when_it_goes_on(void)
{
    static const char more[] = ",\"params\":{\"max_tokens\":4,\"temperature\":0}";
    struct kvs_opts o = {.disk_bytes = 1 << 30, .host_bytes = 64 << 20};
    struct errbuf eb = {{0}};
    struct kept k = {0};
    char dir[200], brief[sizeof more + 32];
    struct kvstore *s = NULL;
    struct rig g;

    some_ids(ids, 400, 7);
    rig_make(&g, "");
    rig_up(&g);
    snprintf(brief, sizeof brief, ",\"keep\":false%s", more);
    rig_run(&g, ids, 300, brief, &a);
    CHECK(a.n > 0);
    memcpy(ids + 300, a.id, a.n * sizeof *ids);
    rig_run(&g, ids, 300 + a.n + 9, more, &b);
    CHECK(usage(&b, "usage", "reused") >= 300);
    rig_down(&g, SIGTERM);
    snprintf(dir, sizeof dir, "%s/state", g.base);
    o.dir = dir;
    CHECK_EQ(kvs_open(&s, &o, NULL, &eb), 0);
    CHECK_EQ(kvs_sessions(s, kept_each, &k), 0);
    kvs_close(s);
    CHECK_EQ(k.sessions, 1);
    CHECK_EQ(k.brief, 0);
    answer_clear(&a);
    answer_clear(&b);
}

static void a_cut_anywhere_does_not_show_after_a_restart(void)
{
    static const uint32_t cut[] = {1, 2, 17, 255, 256, 257, 300, 511, 512, 513, 769, 1024};
    struct rig g;
    char more[256];

    some_ids(ids, 2048, 1);
    rig_make(&g, "");
    rig_up(&g);
    for (uint32_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        uint32_t n = cut[i], head = n > 2 ? n - 2 : n - 1;

        snprintf(more, sizeof more, ",\"session\":\"ref%u\"," SAMPLED, n);
        rig_run(&g, ids, n, more, &a);
        /* The same in two parts: ingest, die, go on with the rest. */
        if (head) {
            snprintf(more, sizeof more, ",\"session\":\"cut%u\",\"params\":{\"max_tokens\":0}",
                     n);
            rig_run(&g, ids, head, more, &b);
            CHECK_EQ(b.n, 0);
        }
        rig_down(&g, i % 2 ? SIGKILL : SIGTERM);
        rig_up(&g);
        snprintf(more, sizeof more, ",\"session\":\"cut%u\"," SAMPLED, n);
        rig_run(&g, ids + head, n - head, more, &b);
        CHECK(same(&a, &b));
        CHECK_EQ(usage(&b, "usage", "context"), n);
        if (head >= 256)
            CHECK(usage(&b, "usage", "reused") >= head / 256 * 256);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

static void killed_in_the_middle_the_same_id_goes_on(void)
{
    struct rig g;
    char id[33];

    some_ids(ids, 300, 2);
    rig_make(&g, "");
    rig_up(&g);
    const char *more = ",\"params\":{\"max_tokens\":700,\"temperature\":3,\"seed\":9,"
                       "\"top_p\":0.6,\"samplers\":\"temperature;top_p\","
                       "\"ignore_eos\":true},\"session\":\"x\"";
    const char *ref = ",\"params\":{\"max_tokens\":700,\"temperature\":3,\"seed\":9,"
                      "\"top_p\":0.6,\"samplers\":\"temperature;top_p\","
                      "\"ignore_eos\":true},\"session\":\"ref\"";
    rig_run(&g, ids, 300, ref, &a);
    rig_id(id);
    answer_clear(&b);
    CHECK(rig_start(&g, id, ids, 300, more));
    for (uint32_t i = 0; i < 6; i++) {
        rig_read(&g, id, &b, b.n + (i == 0 ? 1 : 100));
        rig_down(&g, i % 2 ? SIGTERM : SIGKILL);
        rig_up(&g);
        if (i % 3 == 1) /* a resend attaches, a bare NEXT does too */
            CHECK(rig_start(&g, id, ids, 300, more));
    }
    CHECK(rig_read(&g, id, &b, UINT32_MAX));
    CHECK(same(&a, &b));
    CHECK_STR(wire_str(&b.last, "finish"), "length");
    /* And again from the beginning, from memory and from the store. */
    for (int i = 0; i < 2; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, id, &b, UINT32_MAX));
        CHECK(same(&a, &b));
        rig_down(&g, SIGKILL);
        rig_up(&g);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* What damage can leave: the record that says how the first request ended is gone, the one that
 * says that it runs is there. */
static void first_runs_again(cJSON *o, struct kvs_req *q, struct kvs_req *ret)
{
    (void)o;
    (void)ret;
    if (q->pos == 30)
        q->state = KVS_REQ_RUNNING;
}

static void a_session_that_went_on_is_not_taken_back_to_an_old_answer(void)
{
    static const char more[] = ",\"session\":\"x\",\"params\":{\"max_tokens\":6,"
                               "\"temperature\":0,\"ignore_eos\":true}";
    struct rig g;
    double before, after;

    some_ids(ids, 100, 11);
    rig_make(&g, "");
    rig_up(&g);
    rig_run(&g, ids, 30, more, &a);
    rig_run(&g, ids + 50, 20, more, &a);
    struct wire_reply r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"x\"}");
    before = wire_num(&r, "tokens");
    CHECK_EQ(before, 30 + 6 + 20 + 6);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    edit_requests(&g, first_runs_again);
    rig_up(&g);
    r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"x\"}");
    after = wire_num(&r, "tokens");
    CHECK_EQ(after, before);
    wire_reply_fini(&r);
    /* Nor on to one that it was taken back from. */
    char id[33];
    rig_id(id);
    r = rig_call(&g, HRT_SESSION_REWIND, NULL, 0,
                 "{\"id\":\"%s\",\"session\":\"x\",\"to_tokens\":20}", id);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    edit_requests(&g, first_runs_again);
    rig_up(&g);
    r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"x\"}");
    CHECK_EQ(wire_num(&r, "tokens"), 20);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

static void forget_asked(cJSON *o, struct kvs_req *q, struct kvs_req *ret)
{
    (void)q;
    (void)ret;
    cJSON_DeleteItemFromObjectCaseSensitive(o, "asked");
}

static void start_says(struct rig *g, const char *id, const int32_t *in, uint32_t n,
                       const char *more, uint32_t status, int line)
{
    struct wire_reply r = rig_call(g, HRT_START, in, n * 4u, "{\"id\":\"%s\"%s}", id, more);

    if (r.f.status != status)
        t_fail(__FILE__, line, "%s: status %u, want %u: %s", more, r.f.status, status,
               wire_str(&r, "message"));
    if (status)
        CHECK_STR(wire_str(&r, "slug"), "id_reused");
    wire_reply_fini(&r);
}

static void an_id_means_what_it_was_first_sent_with(void)
{
#define BASE  ",\"model\":\"m\",\"input\":\"tokens\",\"session\":\"x\""
#define ASKED "\"temperature\":0.9,\"seed\":5,\"max_tokens\":600,\"ignore_eos\":true"
    static const char first[] =
        BASE ",\"params\":{" ASKED ",\"logit_bias\":{\"7\":1,\"8\":-2}}";
    static const char *const same_thing[] = {
        first,
        ",\"params\":{\"ignore_eos\":true,\"logit_bias\":{\"8\":-2.0,\"7\":1e0},"
        "\"max_tokens\":6e2,\"seed\":\"5\",\"temperature\":0.90,\"top_k\":null}" BASE,
        BASE ",\"params\":{" ASKED ",\"logit_bias\":{\"7\":1,\"8\":-2},\"stop\":[]},"
             "\"create\":true,\"raw\":false,\"hints\":{\"prefix\":false},\"mark\":3",
    };
    static const char *const other[] = {
        BASE ",\"params\":{" ASKED ",\"logit_bias\":{\"7\":1,\"8\":-3}}",
        BASE ",\"params\":{" ASKED ",\"logit_bias\":{\"7\":1}}",
        BASE ",\"params\":{" ASKED "}",
        BASE ",\"params\":{" ASKED ",\"logit_bias\":{\"7\":1,\"8\":-2},\"logprobs\":1}",
        BASE ",\"params\":{" ASKED ",\"logit_bias\":{\"7\":1,\"8\":-2},\"stop\":[\"a\"]}",
        BASE ",\"raw\":true,\"params\":{" ASKED ",\"logit_bias\":{\"7\":1,\"8\":-2}}",
        BASE ",\"keep\":false,\"params\":{" ASKED ",\"logit_bias\":{\"7\":1,\"8\":-2}}",
        ",\"model\":\"m\",\"input\":\"tokens\",\"session\":\"y\",\"params\":{" ASKED
        ",\"logit_bias\":{\"7\":1,\"8\":-2}}",
        ",\"model\":\"m2\",\"input\":\"tokens\",\"session\":\"x\",\"params\":{" ASKED
        ",\"logit_bias\":{\"7\":1,\"8\":-2}}",
        ",\"model\":\"m\",\"input\":\"prompt\",\"prompt\":\"?\",\"session\":\"x\"",
        "",
    };
    enum {
        SAME = sizeof same_thing / sizeof *same_thing,
        OTHER = sizeof other / sizeof *other
    };
    struct wire_reply r;
    struct rig g;
    char id[33];

    some_ids(ids, 300, 4);
    rig_make(&g, "");
    rig_up(&g);
    rig_id(id);
    answer_clear(&a);
    start_says(&g, id, ids, 300, first, HRT_OK, __LINE__);
    /* While it runs, after a kill in the middle, at its end, and after another kill. */
    for (int when = 0; when < 4; when++) {
        if (when == 1)
            rig_read(&g, id, &a, 300);
        if (when == 2)
            CHECK(rig_read(&g, id, &a, UINT32_MAX));
        if (when % 2) {
            rig_down(&g, SIGKILL);
            rig_up(&g);
        }
        for (int i = 0; i < OTHER; i++)
            start_says(&g, id, ids, 300, other[i], HRT_ALREADY_EXISTS, __LINE__);
        start_says(&g, id, ids + 1, 299, first, HRT_ALREADY_EXISTS, __LINE__);
        for (int i = 0; i < SAME; i++)
            start_says(&g, id, ids, 300, same_thing[i], HRT_OK, __LINE__);
    }
    CHECK_EQ(a.n, 600);
    answer_clear(&b);
    CHECK(rig_read(&g, id, &b, UINT32_MAX));
    CHECK(same(&a, &b));
    /* Nor is it another operation's, in memory or in the store. */
    for (int when = 0; when < 2; when++) {
        r = rig_call(&g, HRT_SESSION_PIN, NULL, 0, "{\"id\":\"%s\",\"session\":\"x\"}", id);
        CHECK_EQ(r.f.status, HRT_ALREADY_EXISTS);
        CHECK_STR(wire_str(&r, "slug"), "id_reused");
        wire_reply_fini(&r);
        r = rig_call(&g, HRT_MODEL_LOAD, NULL, 0, "{\"id\":\"%s\",\"model\":\"m\"}", id);
        CHECK_EQ(r.f.status, HRT_ALREADY_EXISTS);
        wire_reply_fini(&r);
        rig_down(&g, SIGKILL);
        rig_up(&g);
    }
    r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"x\"}");
    CHECK_EQ(wire_num(&r, "tokens"), 900);
    wire_reply_fini(&r);
    /* A record that does not say what was asked for attaches as it always did. */
    rig_down(&g, SIGTERM);
    edit_requests(&g, forget_asked);
    rig_up(&g);
    start_says(&g, id, ids, 300, other[0], HRT_OK, __LINE__);
    answer_clear(&b);
    CHECK(rig_read(&g, id, &b, UINT32_MAX));
    CHECK(same(&a, &b));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
#undef BASE
#undef ASKED
}

static void alternatives_come_back_with_the_tokens(void)
{
    struct rig g;
    char id[33];

    some_ids(ids, 30, 6);
    rig_make(&g, "");
    rig_up(&g);
    const char *more = ",\"params\":{\"max_tokens\":600,\"temperature\":1,\"seed\":9,"
                       "\"logprobs\":3,\"ignore_eos\":true},\"session\":\"x\"";
    const char *ref = ",\"params\":{\"max_tokens\":600,\"temperature\":1,\"seed\":9,"
                      "\"logprobs\":3,\"ignore_eos\":true},\"session\":\"ref\"";
    rig_run(&g, ids, 30, ref, &a);
    CHECK_EQ(a.n_top, 600);
    CHECK_EQ(a.top[0].n, 3);
    rig_id(id);
    answer_clear(&b);
    CHECK(rig_start(&g, id, ids, 30, more));
    rig_read(&g, id, &b, 400);
    for (int i = 0; i < 2; i++) { /* while it is open, and when it has ended */
        rig_down(&g, SIGKILL);
        rig_up(&g);
        answer_clear(&b);
        CHECK(rig_read(&g, id, &b, UINT32_MAX));
        CHECK(same(&a, &b));
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* From the beginning of a stream to its end; how many replies that took. */
static int read_all(struct rig *g, const char *id, uint32_t n)
{
    uint32_t cursor = 0;

    for (int replies = 1;; replies++) {
        struct wire_reply r =
            rig_call(g, HRT_NEXT, NULL, 0,
                     "{\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":5000}", id, cursor);
        const cJSON *list = r.json ? cJSON_GetObjectItem(r.json, "logprobs") : NULL;
        uint32_t to = (uint32_t)wire_num(&r, "cursor"), at = 0, in_tail = 0;
        bool done = strcmp(wire_str(&r, "state"), "done") == 0, failed = r.f.status != HRT_OK;

        if (failed)
            t_fail(__FILE__, __LINE__, "NEXT at %u: %s", cursor, wire_str(&r, "message"));
        for (; at + HRT_REC_BYTES <= r.f.tail_len; in_tail++)
            at += HRT_REC_BYTES + ld16(r.tail + at + 12);
        if (!failed) {
            CHECK_EQ(cJSON_GetArraySize(list), to - cursor);
            CHECK_EQ(in_tail, to - cursor);
        }
        wire_reply_fini(&r);
        if (done)
            CHECK_EQ(to, n);
        if (done || failed)
            return replies;
        cursor = to;
    }
}

static void alternatives_of_a_long_answer_come_in_several_replies(void)
{
    enum { N = 9000 };
    struct rig g;
    char id[33];

    some_ids(ids, 30, 9);
    rig_make_ctx(&g, "", 16384);
    rig_up(&g);
    rig_id(id);
    CHECK(rig_start(&g, id, ids, 30,
                    ",\"params\":{\"max_tokens\":9000,\"temperature\":1,\"seed\":9,"
                    "\"logprobs\":20,\"ignore_eos\":true}"));
    (void)read_all(&g, id, N);
    CHECK(read_all(&g, id, N) > 1); /* all of it is more than the JSON of one frame */
    rig_down(&g, SIGTERM);
}

/* As version 1 of the log had it: everything in the record, under another id, because parts
 * cannot be taken away from this one. */
static struct kvs_id old_id;
static const struct answer *old_answer;

/* What there was before there was a choice; version 1 does not say so. */
#define FIRST_ORDER "penalties;temperature;top_k;top_p;min_p"

static void into_version_1(cJSON *o, struct kvs_req *q, struct kvs_req *ret)
{
    uint64_t n = 0;
    char text[32768];

    if (q->state != 1) /* the reference has ended */
        return;
    CHECK_EQ(kvs_branch_end(edited_store, &q->branch, &n), 0);
    n -= q->pos;
    CHECK(n >= 350 && n < 4000);
    sodium_bin2base64(text, sizeof text, (const unsigned char *)old_answer->lp, n * 4,
                      sodium_base64_VARIANT_ORIGINAL);
    cJSON_AddNumberToObject(o, "generated", (double)n);
    cJSON_AddStringToObject(o, "lp", text);
    cJSON_DeleteItemFromObjectCaseSensitive(o, "asked");
    cJSON *params = cJSON_GetObjectItemCaseSensitive(o, "ask");
    CHECK(cJSON_IsString(cJSON_GetObjectItemCaseSensitive(params, "samplers")));
    cJSON_DeleteItemFromObjectCaseSensitive(params, "samplers");
    *ret = *q;
    ret->id = old_id;
    q->state = 2;
}

static void an_open_answer_of_version_1_goes_on(void)
{
    struct rig g;
    char id[33], old[33];

    some_ids(ids, 30, 7);
    rig_make_ctx(&g, "", 8192);
    rig_up(&g);
    const char *more = ",\"params\":{\"max_tokens\":4000,\"temperature\":3,\"seed\":9,"
                       "\"top_p\":0.6,\"samplers\":\"" FIRST_ORDER "\","
                       "\"ignore_eos\":true},\"session\":\"x\"";
    const char *ref = ",\"params\":{\"max_tokens\":4000,\"temperature\":3,\"seed\":9,"
                      "\"top_p\":0.6,\"samplers\":\"" FIRST_ORDER "\","
                      "\"ignore_eos\":true},\"session\":\"ref\"";
    rig_run(&g, ids, 30, ref, &a);
    rig_id(id);
    rig_id(old);
    for (int i = 0; i < 16; i++) {
        unsigned v;

        CHECK_EQ(sscanf(old + 2 * i, "%2x", &v), 1);
        old_id.b[i] = (uint8_t)v;
    }
    old_answer = &a;
    answer_clear(&b);
    CHECK(rig_start(&g, id, ids, 30, more));
    rig_read(&g, id, &b, 350);
    rig_down(&g, SIGTERM); /* writes what there is, and leaves it open */
    edit_requests(&g, into_version_1);
    rig_up(&g);
    answer_clear(&b);
    rig_read(&g, old, &b, 2500); /* it has been written anew by now */
    rig_down(&g, SIGKILL);
    rig_up(&g);
    CHECK(rig_read(&g, old, &b, UINT32_MAX));
    CHECK(same(&a, &b));
    rig_down(&g, SIGKILL);
    rig_up(&g);
    answer_clear(&b);
    CHECK(rig_read(&g, old, &b, UINT32_MAX));
    CHECK(same(&a, &b));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Bytes in the log's files up to the zeros behind the last frame. */
static uint64_t log_bytes(const struct rig *g)
{
    static uint8_t buf[64 << 20];
    uint64_t sum = 0;

    for (int i = 1; i < 100; i++) {
        char path[300];

        snprintf(path, sizeof path, "%s/state/log/seg-%04d", g->base, i);
        FILE *f = fopen(path, "rb");
        size_t n = f ? fread(buf, 1, sizeof buf, f) : 0;

        while (n && !buf[n - 1])
            n--;
        sum += n;
        if (f)
            fclose(f);
    }
    return sum;
}

static void a_long_answer_costs_the_log_what_its_tokens_cost(void)
{
    static const uint32_t n[] = {1000, 2000, 4000};
    uint64_t cost[3];
    struct rig g;
    char more[200];

    some_ids(ids, 30, 8);
    rig_make_ctx(&g, "", 8192);
    rig_up(&g);
    rig_run(&g, ids, 10, ",\"params\":{\"max_tokens\":1}", &a); /* the log has a file */
    for (int i = 0; i < 3; i++) {
        uint64_t before = log_bytes(&g);

        snprintf(more, sizeof more,
                 ",\"params\":{\"max_tokens\":%u,\"temperature\":1,\"seed\":9,"
                 "\"ignore_eos\":true},\"session\":\"%u\"",
                 n[i], n[i]);
        rig_run(&g, ids, 30, more, &a);
        CHECK_EQ(a.n, n[i]);
        cost[i] = log_bytes(&g) - before;
        printf("    %u tokens: %llu bytes\n", n[i], (unsigned long long)cost[i]);
    }
    /* Four for the id, four for the logarithm, and a frame for each block of them. */
    CHECK(cost[2] - cost[1] < 2000 * 12);
    CHECK(cost[2] - cost[1] < (cost[1] - cost[0]) * 5 / 2);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

static void many_at_once_say_what_each_says_alone(void)
{
    enum { N = 6 };
    static struct answer alone[N];
    struct rig g;
    char id[N][33], more[300];

    rig_make(&g, "");
    rig_up(&g);
    for (uint32_t i = 0; i < N; i++) {
        some_ids(ids, 700, 100 + i);
        snprintf(more, sizeof more, ",\"session\":\"a%u\"," SAMPLED, i);
        rig_run(&g, ids, 50 + i * 120, more, &alone[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        some_ids(ids, 700, 100 + i);
        rig_id(id[i]);
        /* Another owner of the same tokens would find their pages: begin with one more. */
        snprintf(more, sizeof more, ",\"session\":\"b%u\"," SAMPLED, i);
        CHECK(rig_start(&g, id[i], ids, 50 + i * 120, more));
    }
    for (uint32_t i = 0; i < N; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, id[i], &b, UINT32_MAX));
        CHECK(same(&alone[i], &b));
        answer_clear(&alone[i]);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Pages for one context only: the others wait, or are sent back and come again. */
static void with_few_pages_sessions_take_turns(void)
{
    enum { N = 5 };
    static struct answer alone[N];
    struct rig g;
    char id[N][33], more[300];

    rig_make(&g, "--page-memory 1MiB");
    rig_up(&g);
    for (uint32_t i = 0; i < N; i++) {
        some_ids(ids, 1500, 200 + i);
        snprintf(more, sizeof more,
                 ",\"session\":\"a%u\",\"params\":{\"max_tokens\":150,\"temperature\":0.9,"
                 "\"seed\":5,\"ignore_eos\":true}",
                 i);
        rig_run(&g, ids, 900 + i * 100, more, &alone[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        some_ids(ids, 1500, 200 + i);
        rig_id(id[i]);
        snprintf(more, sizeof more,
                 ",\"session\":\"b%u\",\"params\":{\"max_tokens\":150,\"temperature\":0.9,"
                 "\"seed\":5,\"ignore_eos\":true}",
                 i);
        CHECK(rig_start(&g, id[i], ids, 900 + i * 100, more));
    }
    for (uint32_t i = 0; i < N; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, id[i], &b, UINT32_MAX));
        CHECK(same(&alone[i], &b));
        answer_clear(&alone[i]);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Twelve long answers of one user have all pages and wait for more; another comes, and need not
 * wait for them.  They say the same after. */
static void a_user_who_holds_all_pages_gives_some_to_another(void)
{
    enum { N = 12, SAME = 2 };
    static struct answer alone[SAME];
    static const char as[] = "\"as\":\"00112233445566778899aabbccddeeff\"";
    struct wire_reply r = {0};
    struct rig g;
    char id[N][33], mine[33], more[300];
    uint32_t ended = 0, got = 0;

    rig_make_ctx(&g, "--page-memory 1MiB", 4096);
    rig_up(&g);
    for (uint32_t k = 0; k < SAME + N; k++) {
        uint32_t i = k < SAME ? k : k - SAME;

        some_ids(ids, 1000, 300 + i);
        snprintf(more, sizeof more,
                 ",\"session\":\"%c%u\",\"params\":{\"max_tokens\":3000,\"temperature\":0.9,"
                 "\"seed\":5,\"ignore_eos\":true}",
                 k < SAME ? 'a' : 'b', i);
        if (k < SAME) {
            rig_run(&g, ids, 700 + i * 20, more, &alone[i]);
        } else {
            rig_id(id[i]);
            CHECK(rig_start(&g, id[i], ids, 700 + i * 20, more));
        }
    }
    answer_clear(&b);
    some_ids(ids, 900, 400);
    rig_id(mine);
    snprintf(more, sizeof more, ",%s,\"params\":{\"max_tokens\":5,\"ignore_eos\":true}", as);
    CHECK(rig_start(&g, mine, ids, 900, more));
    do {
        wire_reply_fini(&r);
        r = rig_call(&g, HRT_NEXT, NULL, 0,
                     "{%s,\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":5000}", as, mine,
                     got);
        got = (uint32_t)wire_num(&r, "cursor");
    } while (r.f.status == 0 && strcmp(wire_str(&r, "state"), "done") != 0);
    CHECK_EQ(r.f.status, 0);
    CHECK_EQ(got, 5);
    wire_reply_fini(&r);
    for (uint32_t i = 0; i < N; i++) {
        r = rig_call(&g, HRT_NEXT, NULL, 0,
                     "{\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":0}", id[i], i ? 0 : b.n);
        ended += strcmp(wire_str(&r, "state"), "done") == 0;
        wire_reply_fini(&r);
    }
    printf("      %u of %u had ended when the other's answer had\n", ended, N);
    /* Some that began before may end while this process waits for a core. */
    CHECK(ended <= N / 2);
    for (uint32_t i = 0; i < SAME; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, id[i], &b, UINT32_MAX));
        CHECK(same(&alone[i], &b));
        answer_clear(&alone[i]);
    }
    for (uint32_t i = SAME; i < N; i++) {
        r = rig_call(&g, HRT_CANCEL, NULL, 0, "{\"stream\":\"%s\"}", id[i]);
        wire_reply_fini(&r);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&b);
}

static void a_fork_and_a_rewind_go_on_as_if_nothing_else_had_been(void)
{
    struct wire_reply r;
    struct rig g;
    char id[33];

    some_ids(ids, 1000, 3);
    rig_make(&g, "");
    rig_up(&g);
    rig_run(&g, ids, 600, ",\"session\":\"ref\"," SAMPLED, &a);
    rig_run(&g, ids, 900, ",\"session\":\"s\",\"params\":{\"max_tokens\":0}", &b);
    rig_id(id);
    r = rig_call(&g, HRT_SESSION_FORK, NULL, 0,
                 "{\"id\":\"%s\",\"session\":\"s\",\"name\":\"f\",\"at\":599}", id);
    CHECK_EQ(wire_num(&r, "tokens"), 599);
    wire_reply_fini(&r);
    rig_run(&g, ids + 599, 1, ",\"session\":\"f\"," SAMPLED, &b);
    CHECK(same(&a, &b));
    rig_id(id);
    for (int i = 0; i < 2; i++) { /* the same id changes it once */
        r = rig_call(&g, HRT_SESSION_REWIND, NULL, 0,
                     "{\"id\":\"%s\",\"session\":\"s\",\"to_tokens\":%d}", id, 598 - i * 10);
        CHECK_EQ(wire_num(&r, "tokens"), 598);
        wire_reply_fini(&r);
    }
    rig_down(&g, SIGKILL);
    rig_up(&g);
    rig_run(&g, ids + 598, 2, ",\"session\":\"s\"," SAMPLED, &b);
    CHECK(same(&a, &b));
    r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\",\"ids\":true}");
    CHECK_EQ(r.f.tail_len, 640 * 4);
    CHECK(memcmp(r.tail, ids, 600 * 4) == 0 && memcmp(r.tail + 2400, a.id, 160) == 0);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* So many turns, of which the first begins with the session and has n tokens. */
static void turns_are(struct rig *g, const struct answer *of, int turns, int n)
{
    const cJSON *s = cJSON_GetObjectItem(of->last.json, "session"), *t;
    struct wire_reply r = rig_call(g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"%s\"}",
                                   cJSON_GetStringValue(cJSON_GetObjectItem(s, "id")));

    t = cJSON_GetObjectItem(r.json, "turns");
    CHECK_EQ(cJSON_GetArraySize(t), turns);
    CHECK_EQ(wire_num(&of->last, "turn"), turns);
    t = cJSON_GetArrayItem(t, 0);
    CHECK_EQ(cJSON_GetNumberValue(cJSON_GetObjectItem(t, "position")), 0);
    CHECK_EQ(cJSON_GetNumberValue(cJSON_GetObjectItem(t, "tokens")), n);
    wire_reply_fini(&r);
}

static void without_a_session_the_longest_stored_beginning_is_found(void)
{
    static int32_t all[1100];
    struct rig g;

    some_ids(ids, 1000, 4);
    rig_make(&g, "");
    rig_up(&g);
    rig_run(&g, ids, 500, "," SAMPLED, &a);
    CHECK_EQ(usage(&a, "usage", "reused"), 0);
    char first[64];
    snprintf(first, sizeof first, "%s",
             cJSON_GetStringValue(
                 cJSON_GetObjectItem(cJSON_GetObjectItem(a.last.json, "session"), "id")));
    /* The whole of it and more: the same session goes on. */
    memcpy(all, ids, 500 * 4);
    memcpy(all + 500, a.id, 40 * 4);
    memcpy(all + 540, ids + 500, 60 * 4);
    rig_run(&g, all, 600, "," SAMPLED, &b);
    CHECK_EQ(usage(&b, "usage", "reused"), 539);
    CHECK_STR(cJSON_GetStringValue(
                  cJSON_GetObjectItem(cJSON_GetObjectItem(b.last.json, "session"), "id")),
              first);
    turns_are(&g, &b, 4, 500);
    /* A part of it: another session, the shared blocks reused. */
    all[520] ^= 1;
    rig_run(&g, all, 600, "," SAMPLED, &b);
    CHECK(usage(&b, "usage", "reused") >= 512);
    CHECK(strcmp(cJSON_GetStringValue(
                     cJSON_GetObjectItem(cJSON_GetObjectItem(b.last.json, "session"), "id")),
                 first) != 0);
    turns_are(&g, &b, 2, 600);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

static void what_was_cut_short_can_be_closed_by_another_request(void)
{
    struct wire_reply r;
    struct rig g;
    char id[33];

    some_ids(ids, 400, 5);
    rig_make(&g, "");
    rig_up(&g);
    rig_id(id);
    answer_clear(&a);
    CHECK(rig_start(&g, id, ids, 300,
                    ",\"session\":\"s\",\"params\":{\"max_tokens\":1500,\"ignore_eos\":true}"));
    rig_read(&g, id, &a, 300);
    /* While it runs nobody else may. */
    char other[33];
    rig_id(other);
    r = rig_call(&g, HRT_START, ids, 4,
                 "{\"id\":\"%s\",\"session\":\"s\",\"input\":\"tokens\"}", other);
    CHECK_EQ(r.f.status, HRT_FAILED_PRECONDITION);
    CHECK_STR(wire_str(&r, "slug"), "session_busy");
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    rig_run(&g, ids + 300, 10, ",\"session\":\"s\"," SAMPLED, &b);
    CHECK(usage(&b, "usage", "context") >= 610);
    r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
    const cJSON *t = cJSON_GetArrayItem(cJSON_GetObjectItem(r.json, "turns"), 1);
    CHECK(cJSON_IsTrue(cJSON_GetObjectItem(t, "interrupted")));
    wire_reply_fini(&r);
    /* The one that was cut off says so. */
    a.n = 0;
    a.bytes = 0;
    CHECK(rig_read(&g, id, &a, UINT32_MAX));
    CHECK_STR(cJSON_GetStringValue(
                  cJSON_GetObjectItem(cJSON_GetObjectItem(a.last.json, "error"), "slug")),
              "interrupted");
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

static void a_cancelled_answer_is_kept_and_a_cancelled_ingest_goes_on(void)
{
    struct wire_reply r;
    struct rig g;
    char id[33];

    some_ids(ids, 1800, 6);
    rig_make(&g, "");
    rig_up(&g);
    rig_id(id);
    answer_clear(&a);
    CHECK(rig_start(&g, id, ids, 100,
                    ",\"session\":\"s\",\"params\":{\"max_tokens\":1800,\"ignore_eos\":true}"));
    rig_read(&g, id, &a, 20);
    r = rig_call(&g, HRT_CANCEL, NULL, 0, "{\"stream\":\"%s\"}", id);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    CHECK(rig_read(&g, id, &a, UINT32_MAX));
    CHECK_STR(wire_str(&a.last, "finish"), "cancelled");
    CHECK(cJSON_IsTrue(cJSON_GetObjectItem(a.last.json, "durable")));
    r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
    CHECK_EQ(wire_num(&r, "tokens"), 100 + (int)a.n);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

static void the_context_is_a_limit_that_is_said(void)
{
    struct wire_reply r;
    struct rig g;
    char id[33];

    some_ids(ids, 2048, 7);
    rig_make(&g, "");
    rig_up(&g);
    rig_id(id);
    r = rig_call(&g, HRT_START, ids, 2048 * 4,
                 "{\"id\":\"%s\",\"session\":\"s\",\"input\":\"tokens\"}", id);
    CHECK_EQ(r.f.status, HRT_OUT_OF_RANGE);
    CHECK_STR(wire_str(&r, "slug"), "context_length_exceeded");
    CHECK_EQ(wire_num(&r, "tokens"), 2048);
    CHECK_EQ(wire_num(&r, "context"), 2048);
    wire_reply_fini(&r);
    r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
    CHECK_EQ(r.f.status, HRT_NOT_FOUND); /* nothing was changed */
    wire_reply_fini(&r);
    rig_run(&g, ids, 2000,
            ",\"session\":\"s\",\"params\":{\"ignore_eos\":true,\"max_tokens\":2048}", &a);
    CHECK_EQ(a.n, 48);
    CHECK_STR(wire_str(&a.last, "finish"), "length");
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

static void sessions_change_once_per_id_and_say_why_not(void)
{
    static const struct {
        uint8_t type;
        const char *json;
        uint32_t status;
    } row[] = {
        {HRT_SESSION_OPEN, "\"name\":\"a\",\"model\":\"m\"", HRT_OK},
        {HRT_SESSION_OPEN, "\"name\":\"b\",\"create\":false", HRT_NOT_FOUND},
        {HRT_SESSION_OPEN, "\"name\":\"a\\u0007\"", HRT_INVALID_ARGUMENT},
        {HRT_SESSION_OPEN, "\"name\":\"z\",\"model\":\"nope\"", HRT_NOT_FOUND},
        {HRT_SESSION_FORK, "\"session\":\"a\",\"name\":\"b\"", HRT_OK},
        {HRT_SESSION_FORK, "\"session\":\"a\",\"name\":\"b\"", HRT_ALREADY_EXISTS},
        {HRT_SESSION_FORK, "\"session\":\"a\",\"name\":\"c\",\"at\":5", HRT_OUT_OF_RANGE},
        {HRT_SESSION_RENAME, "\"session\":\"b\",\"name\":\"a\"", HRT_ALREADY_EXISTS},
        {HRT_SESSION_RENAME, "\"session\":\"b\",\"name\":\"c\"", HRT_OK},
        {HRT_SESSION_REWIND, "\"session\":\"c\",\"to_turn\":3", HRT_OUT_OF_RANGE},
        {HRT_SESSION_REWIND, "\"session\":\"c\"", HRT_INVALID_ARGUMENT},
        {HRT_SESSION_PIN, "\"session\":\"c\",\"pinned\":true", HRT_OK},
        {HRT_SESSION_PIN, "\"session\":\"c\",\"pinned\":3", HRT_INVALID_ARGUMENT},
        {HRT_SESSION_REMOVE, "\"session\":\"a\"", HRT_OK},
        {HRT_SESSION_REMOVE, "\"session\":\"a\"", HRT_NOT_FOUND},
    };
    char id[33], first[2048];
    struct wire_reply r;
    struct rig g;

    rig_make(&g, "");
    rig_up(&g);
    for (uint32_t i = 0; i < sizeof row / sizeof *row; i++) {
        rig_id(id);
        r = rig_call(&g, row[i].type, NULL, 0, "{\"id\":\"%s\",%s}", id, row[i].json);
        if (r.f.status != row[i].status)
            t_fail(__FILE__, __LINE__, "row %u: status %u, want %u: %s", i, r.f.status,
                   row[i].status, wire_str(&r, "message"));
        char *s = cJSON_PrintUnformatted(r.json);
        snprintf(first, sizeof first, "%s", s);
        free(s);
        wire_reply_fini(&r);
        if (row[i].status)
            continue;
        if (i % 2) { /* also after a restart */
            rig_down(&g, SIGKILL);
            rig_up(&g);
        }
        r = rig_call(&g, row[i].type, NULL, 0, "{\"id\":\"%s\",%s}", id, row[i].json);
        s = cJSON_PrintUnformatted(r.json);
        CHECK_STR(s, first);
        free(s);
        wire_reply_fini(&r);
    }
    r = rig_call(&g, HRT_SESSION_LIST, NULL, 0, "{}");
    CHECK_EQ(cJSON_GetArraySize(cJSON_GetObjectItem(r.json, "sessions")), 1);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Jobs of every kind wait for the worker, of requests that are there and that are not. */
static void told_to_stop_with_work_at_the_worker_it_ends_well(void)
{
    enum { TEXT_BYTES = 1 << 20, ROUNDS = 6 };
    char *text = malloc(TEXT_BYTES), json[256], id[33];
    struct wire_reply r;
    struct rig g;

    for (uint32_t i = 0; i < TEXT_BYTES; i++)
        text[i] = i % 7 == 6 ? ' ' : (char)('a' + i % 23);
    rig_make(&g, "");
    rig_up(&g);
    r = rig_call(&g, HRT_COUNT, "a", 1, "{\"model\":\"m\",\"raw\":true}"); /* loads it */
    CHECK_EQ(r.f.status, HRT_OK);
    wire_reply_fini(&r);
    for (uint64_t n = 1; n <= ROUNDS; n++) {
        CHECK(wire_send(g.fd, HRT_COUNT, 100 + n, "{\"model\":\"m\",\"raw\":true}", text,
                        TEXT_BYTES));
        rig_id(id);
        snprintf(json, sizeof json,
                 "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"prompt\",\"raw\":true}", id);
        CHECK(wire_send(g.fd, HRT_START, 200 + n, json, text, TEXT_BYTES));
        snprintf(json, sizeof json, "{\"stream\":\"%s\"}", id);
        if (n % 2)
            CHECK(wire_send(g.fd, HRT_CANCEL, 300 + n, json, NULL, 0));
        CHECK(wire_send(g.fd, HRT_TOKENIZE, 400 + n, "{\"model\":\"m\"}", text, 1000));
    }
    /* Its reply says that the frames before it were taken up. */
    CHECK(wire_send(g.fd, HRT_PING, 999, "{}", NULL, 0));
    for (uint64_t got = 0; got != 999;) {
        if (!wire_recv(g.fd, &r)) {
            t_fail(__FILE__, __LINE__, "no reply to PING");
            break;
        }
        got = r.f.id;
        wire_reply_fini(&r);
    }
    free(text);
    rig_down(&g, SIGTERM);
}

T_MAIN(CASE(a_cut_anywhere_does_not_show_after_a_restart),
       CASE(a_session_that_went_on_is_not_taken_back_to_an_old_answer),
       CASE(killed_in_the_middle_the_same_id_goes_on),
       CASE(an_id_means_what_it_was_first_sent_with),
       CASE(alternatives_come_back_with_the_tokens),
       CASE(alternatives_of_a_long_answer_come_in_several_replies),
       CASE(an_open_answer_of_version_1_goes_on),
       CASE(a_long_answer_costs_the_log_what_its_tokens_cost),
       CASE(many_at_once_say_what_each_says_alone), CASE(with_few_pages_sessions_take_turns),
       CASE(a_user_who_holds_all_pages_gives_some_to_another),
       CASE(a_fork_and_a_rewind_go_on_as_if_nothing_else_had_been),
       CASE(without_a_session_the_longest_stored_beginning_is_found),
       CASE(what_was_cut_short_can_be_closed_by_another_request),
       CASE(a_cancelled_answer_is_kept_and_a_cancelled_ingest_goes_on),
       CASE(what_one_question_began_is_kept_when_it_goes_on),
       CASE(the_context_is_a_limit_that_is_said),
       CASE(sessions_change_once_per_id_and_say_why_not),
       CASE(told_to_stop_with_work_at_the_worker_it_ends_well))
