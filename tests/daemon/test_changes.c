/* test_changes.c - sessions that are changed, found by what they begin with, and kept. */
#include "kvstore/kvstore.h"
#include "tests/daemon/genrig.h"

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
#define SAMPLED                                                                                \
    "\"params\":{\"max_tokens\":40,\"temperature\":0.9,\"seed\":5,\"ignore_eos\":true}"

static int32_t ids[2048];
static struct answer a, b;

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

/* What the holder of a key asks, as a front does. */
#define KEY "\"as\":\"00112233445566778899aabbccddeeff\","

/* Both are under way at once, or nearly: many times. */
static void an_id_is_its_owners_also_of_a_change_under_way(void)
{
    struct rig g;

    rig_make(&g, "");
    rig_up(&g);
    for (int i = 0; i < 20; i++) {
        char id[33], sess[2][33] = {"", ""};

        rig_id(id);
        for (int k = 0; k < 2; k++) {
            char json[300];

            snprintf(json, sizeof json, "{%s\"id\":\"%s\",\"model\":\"m\",\"name\":\"n%d\"}",
                     k ? KEY : "", id, i);
            CHECK(wire_send(g.fd, HRT_SESSION_OPEN, ++g.n_calls, json, NULL, 0));
        }
        for (int k = 0; k < 2; k++) {
            struct wire_reply r = {0};

            CHECK(wire_recv(g.fd, &r) && r.f.status == HRT_OK);
            snprintf(sess[k], sizeof sess[k], "%s", wire_str(&r, "id"));
            wire_reply_fini(&r);
        }
        CHECK(sess[0][0] && sess[1][0] && strcmp(sess[0], sess[1]) != 0);
    }
    rig_down(&g, SIGTERM);
}

static void a_sessions_name_is_its_owners_also_to_cancel_it(void)
{
    struct wire_reply r;
    struct rig g;
    char id[33];

    rig_make(&g, "");
    rig_up(&g);
    for (int k = 0; k < 2; k++) {
        rig_id(id);
        r = rig_call(&g, HRT_SESSION_OPEN, NULL, 0,
                     "{%s\"id\":\"%s\",\"model\":\"m\",\"name\":\"%s\"}", k ? KEY : "", id,
                     k ? "key" : "own");
        CHECK_EQ(r.f.status, HRT_OK);
        wire_reply_fini(&r);
    }
    for (int k = 0; k < 2; k++)
        for (int of = 0; of < 2; of++) {
            r = rig_call(&g, HRT_CANCEL, NULL, 0, "{%s\"session\":\"%s\"}", k ? KEY : "",
                         of ? "key" : "own");
            CHECK_EQ(r.f.status, k == of ? HRT_OK : HRT_NOT_FOUND);
            CHECK_STR(wire_str(&r, k == of ? "state" : "slug"),
                      k == of ? "idle" : "session_not_found");
            wire_reply_fini(&r);
        }
    rig_down(&g, SIGTERM);
}

T_MAIN(CASE(an_id_is_its_owners_also_of_a_change_under_way),
       CASE(a_sessions_name_is_its_owners_also_to_cancel_it),
       CASE(a_fork_and_a_rewind_go_on_as_if_nothing_else_had_been),
       CASE(without_a_session_the_longest_stored_beginning_is_found),
       CASE(what_one_question_began_is_kept_when_it_goes_on),
       CASE(sessions_change_once_per_id_and_say_why_not))
