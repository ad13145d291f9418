/* cmd_run.c - run and ask: one question, one answer. */
#include "client/answer.h"
#include "client/named.h"
#include <stdlib.h>

/* Runs START and prints its end; takes start. */
static int finish(struct cli *c, const struct args *a, cJSON *start, const char *words,
                  const char *what)
{
    void *tail = NULL;
    size_t n = 0;
    int code = gen_flags(c, a, start);
    if (code == CLI_OK)
        code = gen_prompt(c, a, words, start, &tail, &n);
    if (code != CLI_OK) {
        cJSON_Delete(start);
        return code;
    }
    struct answer_opts o = {.what = what, .logprobs = args_has(a, "logprobs")};
    struct answer ans;
    code = answer_run(c, start, tail, n, &o, &ans);
    if (ans.last && (code == CLI_OK || code == CLI_INTERRUPTED)) {
        if (c->json)
            answer_print_done(&ans, args_str(a, "logprobs") != NULL);
        else
            answer_print_stats(c, &ans, "");
    }
    answer_fini(&ans);
    free(tail);
    return code;
}

int cmd_run(struct cli *c, const struct args *a)
{
    cJSON *start = j_req();
    cJSON_AddStringToObject(start, "model", a->pos[0]);
    cJSON_AddFalseToObject(start, "keep");
    c->parts = !args_has(a, "ids");
    return finish(c, a, start, a->n > 1 ? a->pos[1] : NULL, "");
}

int cmd_ask(struct cli *c, const struct args *a)
{
    const char *name = args_str(a, "session");
    if (!name || !name[0])
        return cli_usage(c, "--session: which one? hearth ask -s NAME QUESTION");
    char whole[NAME_BYTES_MAX + 1];
    int code = named_session(c, name, args_has(a, "create") ? NAMED_LEAST_SURE : NAMED_LEAST,
                             false, whole);
    if (code != CLI_OK)
        return code;
    cJSON *start = j_req();
    cJSON_AddStringToObject(start, "session", whole);
    cJSON_AddBoolToObject(start, "create", args_has(a, "create"));
    c->parts = !args_has(a, "ids");
    if (args_has(a, "fork")) {
        cJSON_AddTrueToObject(start, "fork");
        c->forked = name;
    }
    if (args_str(a, "model"))
        cJSON_AddStringToObject(start, "model", args_str(a, "model"));
    return finish(c, a, start, a->n ? a->pos[0] : NULL, name);
}
