/* test_sick.c - a step in which one sequence fails: that request is told, the others go on. */
#include "tests/daemon/genrig.h"
#include "tests/engine/poison.h"

static int32_t ids[2048];
static struct answer alone, beside, c;

/* The rig's model, but with a token that leads nowhere. */
static void make_sick(struct rig *g)
{
    const struct mk_llama tiny = {.layers = 2,
                                  .embd = 96,
                                  .ff = 96,
                                  .head = 4,
                                  .kv = 2,
                                  .dim = 16,
                                  .ctx = 2048,
                                  .seed = 7};
    struct mk m = {0};

    rig_make(g, "");
    poison_llama(&m, tiny);
    rig_model(g, &m);
    free(m.p);
}

#define LONG                                                                                   \
    ",\"params\":{\"max_tokens\":300,\"temperature\":0,\"ignore_eos\":true,"                   \
    "\"logit_bias\":{\"7\":-100}}"

static void a_sequence_without_logits_fails_alone(void)
{
    struct rig g;
    char id[33], bad[33];

    some_ids(ids, 100, 3);
    for (int i = 0; i < 100; i++)
        ids[i] = ids[i] == POISON ? 8 : ids[i];
    make_sick(&g);
    rig_up(&g);
    rig_run(&g, ids, 100, LONG, &alone);
    CHECK_EQ(alone.n, 300);

    rig_id(id);
    rig_id(bad);
    CHECK(rig_start(&g, id, ids, 99, LONG)); /* another prompt: it is computed */
    (void)rig_read(&g, id, &beside, 3);
    ids[59] = POISON;
    CHECK(rig_start(&g, bad, ids, 60, LONG));
    (void)rig_read(&g, bad, &c, UINT32_MAX);
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(c.last.json, "error");
    CHECK_STR(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "slug")), "internal");
    const char *words = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "message"));
    CHECK(words && strstr(words, "after 60 tokens") && strstr(words, "not a number"));
    CHECK_EQ(c.n, 0);
    (void)rig_read(&g, id, &beside, UINT32_MAX);
    CHECK_STR(wire_str(&beside.last, "finish"), "length");
    CHECK_EQ(beside.n, 300);
    rig_down(&g, SIGTERM);
}

/* A banned token is never chosen, and who bans them all is told so and harms nobody. */
static void a_request_that_bans_every_token_fails_alone(void)
{
    static char all[8192];
    struct rig g;
    int n = snprintf(all, sizeof all, ",\"params\":{\"max_tokens\":9,\"logit_bias\":{");

    some_ids(ids, 100, 4);
    rig_make(&g, "");
    rig_up(&g);
    for (int i = 0; i < MK_VOCAB; i++)
        n += snprintf(all + n, sizeof all - (size_t)n, "%s\"%d\":-100", i ? "," : "", i);
    snprintf(all + n, sizeof all - (size_t)n, "}}");
    rig_run(&g, ids, 100, all, &c);
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(c.last.json, "error");
    CHECK_STR(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "slug")), "bad_field");
    CHECK(strstr(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "message")),
                 "params.logit_bias"));
    CHECK_EQ(c.n, 0);
    rig_run(&g, ids, 100, ",\"params\":{\"max_tokens\":9,\"ignore_eos\":true}", &c);
    CHECK_EQ(c.n, 9);
    rig_down(&g, SIGTERM);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(a_sequence_without_logits_fails_alone),
       CASE(a_request_that_bans_every_token_fails_alone))
