/* test_asks.c - requests by their ids, and as the store has them: of another version, or damaged. */
#include "kvstore/kvstore.h"
#include "tests/daemon/genrig.h"
#include <sodium.h>

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }

static int32_t ids[2048];
static struct answer a, b;

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

T_MAIN(CASE(a_session_that_went_on_is_not_taken_back_to_an_old_answer),
       CASE(an_id_means_what_it_was_first_sent_with), CASE(an_open_answer_of_version_1_goes_on))
