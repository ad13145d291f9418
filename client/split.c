/* split.c - see split.h.  The daemon counts the tokens: it has the model. */
#include "client/split.h"
#include "base/text.h"
#include <stdlib.h>

enum { COUNT_BYTES = 1 << 20, PARTS_MAX = 4096, ROUNDS_MAX = 20 };

size_t split_at(const char *text, size_t from, size_t at, size_t n)
{
    size_t least = at - (at - from) / 4;
    static const char *const ends[] = {"\n\n", "\n", " "};
    for (size_t k = 0; k < sizeof ends / sizeof *ends; k++) {
        size_t len = strlen(ends[k]);
        for (size_t i = at; i >= least && i >= from + len; i--)
            if (memcmp(text + i - len, ends[k], len) == 0)
                return i;
    }
    while (at < n && ((unsigned char)text[at] & 0xc0) == 0x80)
        at++;
    return at;
}

/* How many tokens they are, and of which model; in pieces, since a reply is bounded, too. */
static int count(struct cli *c, const char *model, const char *text, size_t n, double *ret,
                 char ret_model[NAME_BYTES_MAX + 1])
{
    *ret = 0;
    for (size_t at = 0, end; at < n; at = end) {
        cJSON *req = cJSON_CreateObject(), *o = NULL;
        end = n - at > COUNT_BYTES ? split_at(text, at, at + COUNT_BYTES, n) : n;
        if (model)
            cJSON_AddStringToObject(req, "model", model);
        cJSON_AddFalseToObject(req, "special");
        int code = cli_call(c, HRT_TOKENIZE, req, text + at, end - at, &o, NULL);
        if (code != CLI_OK)
            return code;
        *ret += j_num(o, "count", 0);
        snprintf(ret_model, NAME_BYTES_MAX + 1, "%s", j_str(o, "model", ""));
        cJSON_Delete(o);
    }
    return CLI_OK;
}

/* k parts of about equal length. */
static void cut(const char *text, size_t n, size_t k, struct part *p)
{
    size_t from = 0;
    for (size_t i = 0; i < k; i++) {
        size_t to = i + 1 < k ? split_at(text, from, from + (n - from) / (k - i), n) : n;
        p[i] = (struct part){from, to - from};
        from = to;
    }
}

int split_text(struct cli *c, const char *model, const char *what, const char *text, size_t n,
               struct part **ret, size_t *ret_n)
{
    char name[NAME_BYTES_MAX + 1] = "";
    cJSON *req, *o = NULL;
    double all = 0, one = 0;
    int code = count(c, model, text, n, &all, name);
    if (code != CLI_OK)
        return code;
    req = cJSON_CreateObject();
    cJSON_AddStringToObject(req, "model", name);
    code = cli_call(c, HRT_MODEL_SHOW, req, NULL, 0, &o, NULL);
    double room = j_num(o, "context", 0) * 3 / 4;
    cJSON_Delete(o);
    if (code != CLI_OK)
        return code;
    if (room < 1)
        return cli_fail(c, CLI_FAILED, "--split: the context of model %s is not known", name);
    size_t k = (size_t)(all / room) + (all > room * (double)(size_t)(all / room));
    struct part *p = NULL;
    for (int round = 0; round < ROUNDS_MAX; round++, k += k / 8 + 1) {
        k = k ? k : 1;
        if (k > PARTS_MAX || k > n)
            break;
        free(p);
        p = calloc(k, sizeof *p);
        if (!p)
            return cli_fail(c, CLI_FAILED, "no memory for %zu parts", k);
        cut(text, n, k, p);
        bool fits = k > 1 || all <= room;
        for (size_t i = 0; i < k && k > 1 && fits; i++) {
            code = count(c, name, text + p[i].from, p[i].n, &one, name);
            if (code != CLI_OK) {
                free(p);
                return code;
            }
            fits = one <= room;
        }
        if (fits) {
            *ret = p;
            *ret_n = k;
            return CLI_OK;
        }
    }
    free(p);
    return cli_fail(c, CLI_FAILED,
                    "--split: %s does not come apart into at most %d parts of %.0f tokens",
                    what, PARTS_MAX, room);
}
