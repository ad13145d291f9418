/* test_swapped.c - another file under the name of a session's model. */
#include "tests/daemon/genrig.h"

static int32_t ids[400];
static struct answer a;
static struct rig g;

static void up(const struct mk_llama *o)
{
    struct mk m = {0};

    mk_llama(&m, o);
    rig_model(&g, &m);
    free(m.p);
    rig_up(&g);
}
/* Does the last reply of the answer, or of STATUS, warn of that? */
static bool warns(const cJSON *j, const char *of)
{
    const cJSON *w;

    cJSON_ArrayForEach(
        w, cJSON_GetObjectItem(j, "warnings")) if (strstr(w->valuestring, of)) return true;
    return false;
}
static bool status_warns(const char *of)
{
    struct wire_reply r = rig_call(&g, HRT_STATUS, NULL, 0, "{}");
    bool yes = warns(r.json, of);

    wire_reply_fini(&r);
    return yes;
}
/* The weights are hashed behind the load. */
static void keyed(void)
{
    uint64_t until = now_ns() + 10000000000u * T_SLOWER;
    bool yes = false;

    while (!yes && now_ns() < until) {
        struct wire_reply r = rig_call(&g, HRT_MODEL_SHOW, NULL, 0, "{\"model\":\"m\"}");

        yes = cJSON_IsString(cJSON_GetObjectItem(r.json, "fingerprint"));
        wire_reply_fini(&r);
        usleep(10000);
    }
    CHECK(yes);
}

static void tokens_of_another_tokenizer_are_not_shown_as_text(void)
{
    struct mk_llama o = rig_tiny(2048);
    struct wire_reply r;
    char id[33];

    some_ids(ids, 400, 3);
    rig_make(&g, "");
    rig_up(&g);
    rig_run(&g, ids, 50, ",\"session\":\"s\",\"params\":{\"max_tokens\":4}", &a);
    r = rig_call(&g, HRT_DETOKENIZE, ids, 40, "{\"model\":\"m\",\"session\":\"s\"}");
    CHECK_EQ(r.f.status, HRT_OK);
    wire_reply_fini(&r);
    r = rig_call(&g, HRT_DETOKENIZE, ids, 40, "{\"model\":\"m\",\"session\":\"t\"}");
    CHECK_EQ(r.f.status, HRT_NOT_FOUND);
    wire_reply_fini(&r);
    /* Without a model it is the session's, and no other. */
    r = rig_call(&g, HRT_DETOKENIZE, ids, 40, "{\"session\":\"s\"}");
    CHECK_EQ(r.f.status, HRT_OK);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);

    o.pre = "llama-bpe";
    up(&o);
    for (int i = 0; i < 2; i++) { /* waiting for the model's load, and with it loaded */
        r = rig_call(&g, HRT_DETOKENIZE, ids, 40, "{\"model\":\"m\",\"session\":\"s\"}");
        CHECK_EQ(r.f.status, HRT_FAILED_PRECONDITION);
        CHECK_STR(wire_str(&r, "slug"), "session_read_only");
        CHECK(strstr(wire_str(&r, "message"), "--model m=FILE"));
        wire_reply_fini(&r);
    }
    r = rig_call(&g, HRT_DETOKENIZE, ids, 40, "{\"model\":\"m\"}"); /* only ids: nobody's */
    CHECK_EQ(r.f.status, HRT_OK);
    wire_reply_fini(&r);
    rig_id(id);
    r = rig_call(&g, HRT_START, ids, 40,
                 "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"tokens\",\"session\":\"s\"}", id);
    CHECK_STR(wire_str(&r, "slug"), "session_read_only");
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
}

static void other_weights_are_said_once_in_each_session(void)
{
    struct mk_llama o = rig_tiny(2048);

    some_ids(ids, 400, 3);
    rig_make(&g, "");
    rig_up(&g);
    rig_run(&g, ids, 300, ",\"session\":\"s\",\"params\":{\"max_tokens\":4}", &a);
    CHECK(!warns(a.last.json, "is not what it was"));
    rig_run(&g, ids, 300, ",\"session\":\"t\",\"params\":{\"max_tokens\":4}", &a);
    keyed();
    rig_down(&g, SIGTERM);
    rig_up(&g); /* the same file */
    rig_run(&g, ids, 10, ",\"session\":\"s\",\"params\":{\"max_tokens\":4}", &a);
    CHECK(!warns(a.last.json, "is not what it was"));
    keyed();
    CHECK(!status_warns("other weights"));
    rig_down(&g, SIGTERM);

    o.seed = 8;
    up(&o);
    rig_run(&g, ids, 3, ",\"session\":\"new\",\"params\":{\"max_tokens\":1}", &a);
    CHECK(!warns(a.last.json, "is not what it was"));
    keyed();
    CHECK(status_warns("other weights"));
    rig_run(&g, ids, 10, ",\"session\":\"s\",\"params\":{\"max_tokens\":4}", &a);
    CHECK(warns(a.last.json, "is not what it was"));
    rig_run(&g, ids, 10, ",\"session\":\"s\",\"params\":{\"max_tokens\":4}", &a);
    CHECK(!warns(a.last.json, "is not what it was"));
    rig_run(&g, ids, 3, ",\"session\":\"new\",\"params\":{\"max_tokens\":1}", &a);
    CHECK(!warns(a.last.json, "is not what it was")); /* it never knew another */
    rig_down(&g, SIGTERM);
    rig_up(&g); /* the other session hears of it later, too */
    rig_run(&g, ids, 3, ",\"session\":\"new\",\"params\":{\"max_tokens\":1}", &a);
    keyed();
    rig_run(&g, ids, 10, ",\"session\":\"t\",\"params\":{\"max_tokens\":4}", &a);
    CHECK(warns(a.last.json, "is not what it was"));
    rig_run(&g, ids, 10, ",\"session\":\"s\",\"params\":{\"max_tokens\":4}", &a);
    CHECK(!warns(a.last.json, "is not what it was"));
    rig_down(&g, SIGTERM);
}

static void a_session_whose_model_is_gone_says_how_to_name_its_file(void)
{
    struct wire_reply r;
    char id[33];

    rig_make(&g, "");
    rig_up(&g);
    some_ids(ids, 400, 3);
    rig_run(&g, ids, 50, ",\"session\":\"s\",\"params\":{\"max_tokens\":4}", &a);
    rig_down(&g, SIGTERM);
    g.name = "o"; /* the same file under another name */
    rig_up(&g);
    rig_id(id);
    r = rig_call(&g, HRT_START, ids, 40,
                 "{\"id\":\"%s\",\"input\":\"tokens\",\"session\":\"s\"}", id);
    CHECK_STR(wire_str(&r, "slug"), "model_not_found");
    CHECK(strstr(wire_str(&r, "message"), "--model m=FILE"));
    wire_reply_fini(&r);
    r = rig_call(&g, HRT_START, ids, 40,
                 "{\"id\":\"%s\",\"model\":\"o\",\"input\":\"tokens\",\"session\":\"s\"}", id);
    CHECK_STR(wire_str(&r, "slug"), "bad_field");
    CHECK(strstr(wire_str(&r, "message"), "--model m=FILE"));
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
}

T_MAIN({"tokens_of_another_tokenizer_are_not_shown_as_text",
        tokens_of_another_tokenizer_are_not_shown_as_text},
       {"other_weights_are_said_once_in_each_session",
        other_weights_are_said_once_in_each_session},
       {"a_session_whose_model_is_gone_says_how_to_name_its_file",
        a_session_whose_model_is_gone_says_how_to_name_its_file})
