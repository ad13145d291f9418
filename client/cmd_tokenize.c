/* cmd_tokenize.c - text to token ids, and back. */
#include "client/encoding.h"
#include "client/say.h"
#include <stdlib.h>

static int back_to_text(struct cli *c, cJSON *req, const char *text)
{
    int32_t *ids = NULL;
    size_t n = 0;
    cJSON *o = NULL;
    struct hearth_reply rep = {0};
    int code = cli_ids(c, text, &ids, &n);
    if (code != CLI_OK) {
        cJSON_Delete(req);
        return code;
    }
    code = cli_call(c, HRT_DETOKENIZE, req, ids, n * sizeof *ids, &o, &rep);
    free(ids);
    if (code != CLI_OK)
        return code;
    if (c->json) {
        rep.tail[rep.tail_bytes] = 0; /* one byte more than the tail is always there */
        cJSON_AddStringToObject(o, "text", (const char *)rep.tail);
        out_json(o);
    } else {
        cli_text(stdout, c->out_tty, (const char *)rep.tail, rep.tail_bytes);
        if (c->out_tty && (!rep.tail_bytes || rep.tail[rep.tail_bytes - 1] != '\n'))
            putchar('\n'); /* into a file go the bytes as they are */
    }
    cJSON_Delete(o);
    hearth_reply_fini(&rep);
    return CLI_OK;
}

int cmd_tokenize(struct cli *c, const struct args *a)
{
    const char *words = a->n ? a->pos[0] : "-";
    char *text = NULL;
    size_t bytes = 0;
    cJSON *o = NULL;
    struct hearth_reply rep = {0};
    int code = CLI_OK;
    if (strcmp(words, "-") != 0)
        code = encoding_typed(c, "the text", words);
    if (code == CLI_OK && strcmp(words, "-") != 0)
        bytes = strlen(text = strdup(words));
    else if (code == CLI_OK)
        code = cli_read(c, "-", TAIL_BYTES_MAX, &text, &bytes);
    if (code == CLI_OK && strcmp(words, "-") == 0 && !args_has(a, "ids"))
        code = encoding_take(c, a, "standard input", TAIL_BYTES_MAX, false, &text, &bytes);
    if (code != CLI_OK)
        return code;
    cJSON *req = cJSON_CreateObject();
    if (args_str(a, "model"))
        cJSON_AddStringToObject(req, "model", args_str(a, "model"));
    if (args_has(a, "ids")) {
        code = back_to_text(c, req, text);
        free(text);
        return code;
    }
    cJSON_AddBoolToObject(req, "special", args_has(a, "special"));
    cJSON_AddBoolToObject(req, "bos", args_has(a, "bos"));
    code = cli_call(c, HRT_TOKENIZE, req, text, bytes, &o, &rep);
    free(text);
    if (code != CLI_OK)
        return code;
    size_t n = rep.tail_bytes / sizeof(int32_t);
    if (c->json) {
        cJSON *list = cJSON_AddArrayToObject(o, "tokens");
        for (size_t i = 0; i < n; i++)
            cJSON_AddItemToArray(list, cJSON_CreateNumber((int32_t)ld32(rep.tail + 4 * i)));
        out_json(o);
    } else if (args_has(a, "count")) {
        say_out("%zu\n", n);
    } else {
        for (size_t i = 0; i < n; i++)
            say_out("%d%s", (int32_t)ld32(rep.tail + 4 * i), i + 1 < n ? " " : "");
        putchar('\n');
    }
    cJSON_Delete(o);
    hearth_reply_fini(&rep);
    return CLI_OK;
}
