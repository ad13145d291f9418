/* genflags.c - the flags of run, chat and ask that say how to generate, as START's members. */
#include "client/answer.h"
#include "client/encoding.h"
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PIPE_SAID_MS = 3000
}; /* a pipe that gives nothing for that long: say what we wait for */

const struct flag flags_gen[] = {
    {"max-tokens", 'n', "N",
     "at most N tokens of answer (default: until the model ends; in a session half of the "
     "room)"},
    {"temp", 0, "T", "temperature, 0 is greedy (default: the model's own)"},
    {"top-k", 0, "K", "only the K likeliest tokens, 0 is off"},
    {"top-p", 0, "P", "only the likeliest tokens that add up to P"},
    {"min-p", 0, "P", "only tokens of at least P times the likeliest one's probability"},
    {"samplers", 0, "A;B;…",
     "which steps choose, in what order (default: penalties;top_k;top_p;min_p;temperature)"},
    {"repeat-penalty", 0, "R", "divide the logits of recent tokens by R, 1 is off"},
    {"presence-penalty", 0, "X", "subtract X from tokens that occurred"},
    {"frequency-penalty", 0, "X", "subtract X per occurrence"},
    {"seed", 0, "N", "the same seed gives the same answer"},
    {"stop", 0, "STR...", "end before this string (repeatable)"},
    {"system", 0, "TEXT", "system message of a conversation that begins"},
    {"raw", 0, NULL, "plain text, no chat template"},
    {"greedy", 0, NULL, "the same as --temp 0"},
    {"logprobs", 0, "[N]", "log probabilities in --json; =N adds the N likeliest alternatives"},
    {"ignore-eos", 0, NULL, "go on past the end the model gives"},
    {"ids", 0, NULL, "the input is token ids, not text"},
    {0},
};

static const struct {
    const char *flag, *param;
    double min, max;
    bool integer;
} rows[] = {
    {"max-tokens", "max_tokens", 1, 1 << 30, true},
    {"temp", "temperature", 0, 100, false},
    {"top-k", "top_k", 0, 1 << 30, true},
    {"top-p", "top_p", 0, 1, false},
    {"min-p", "min_p", 0, 1, false},
    {"repeat-penalty", "repeat_penalty", 0, 100, false},
    {"presence-penalty", "presence_penalty", -2, 2, false},
    {"frequency-penalty", "frequency_penalty", -2, 2, false},
    {"seed", "seed", 0, 9007199254740991.0, true},
    {"logprobs", "logprobs", 0, 20, true},
};

int gen_flags(struct cli *c, const struct args *a, cJSON *start)
{
    struct errbuf eb;
    cJSON *p = cJSON_GetObjectItemCaseSensitive(start, "params");
    if (!p)
        p = cJSON_AddObjectToObject(start, "params");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double v;
        int r = args_num(a, rows[i].flag, rows[i].min, rows[i].max, rows[i].integer, &v, &eb);
        if (r < 0)
            return cli_usage(c, eb.s);
        if (r > 0 && rows[i].integer) { /* cJSON prints 15 digits, a seed may have 16 */
            char digits[32];
            snprintf(digits, sizeof digits, "%.0f", v);
            cJSON_AddRawToObject(p, rows[i].param, digits);
        } else if (r > 0) {
            cJSON_AddNumberToObject(p, rows[i].param, v);
        }
    }
    if (args_has(a, "greedy")) {
        if (args_has(a, "temp"))
            return cli_usage(c, "--greedy is --temp 0: give one of them");
        cJSON_AddNumberToObject(p, "temperature", 0);
    }
    for (int i = 0; i < a->n_given; i++) {
        if (strcmp(a->given[i].flag->name, "stop") != 0)
            continue;
        if (!a->given[i].value[0])
            return cli_usage(c, "--stop: want at least one character");
        cJSON *s = cJSON_GetObjectItemCaseSensitive(p, "stop");
        if (!s)
            s = cJSON_AddArrayToObject(p, "stop");
        cJSON_AddItemToArray(s, cJSON_CreateString(a->given[i].value));
    }
    if (args_str(a, "samplers"))
        cJSON_AddStringToObject(p, "samplers", args_str(a, "samplers"));
    if (args_has(a, "ignore-eos"))
        cJSON_AddTrueToObject(p, "ignore_eos");
    if (args_has(a, "raw"))
        cJSON_AddTrueToObject(start, "raw");
    if (args_str(a, "system"))
        cJSON_AddStringToObject(start, "system", args_str(a, "system"));
    return CLI_OK;
}

/* Is something piped in?  A terminal is not read beside a question, nor is /dev/null; and a
 * socket is what services and remote shells leave open. */
static bool piped(void)
{
    struct stat st;
    return fstat(0, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode));
}

static int read_stdin(struct cli *c, const struct args *a, char **ret, size_t *ret_n)
{
    int code = cli_read(c, "-", TAIL_BYTES_MAX, ret, ret_n);
    if (code == CLI_OK && !args_has(a, "ids"))
        code = encoding_take(c, a, "standard input", TAIL_BYTES_MAX, false, ret, ret_n);
    return code;
}

/* words, and what is piped in after a blank line; malloc'd. An exit code. */
static int words_and_pipe(struct cli *c, const struct args *a, const char *words, char **ret,
                          size_t *ret_n)
{
    char *data = NULL;
    size_t n = strlen(words), more = 0;
    int typed = encoding_typed(c, "the question", words);
    if (typed != CLI_OK)
        return typed;
    if (piped()) {
        struct pollfd p = {0, POLLIN, 0};
        if (poll(&p, 1, PIPE_SAID_MS) == 0)
            cli_note(c, "reading standard input, too, until it ends; </dev/null leaves it out");
        int code = read_stdin(c, a, &data, &more);
        if (code != CLI_OK)
            return code;
    }
    size_t all = n + (more ? 2 + more : 0);
    if (all > TAIL_BYTES_MAX) {
        free(data);
        return cli_mistake(
            c, "standard input",
            "the question and standard input have %zu bytes, one request may carry "
            "%d; " CLI_SPLIT_FILE,
            all, TAIL_BYTES_MAX);
    }
    char *text = malloc(all + 1);
    if (!text) {
        free(data);
        return cli_fail(c, CLI_FAILED, "no memory for the question");
    }
    memcpy(text, words, n);
    if (more) {
        memcpy(text + n, "\n\n", 2);
        memcpy(text + n + 2, data, more);
    }
    text[all] = 0;
    free(data);
    *ret = text;
    *ret_n = all;
    return CLI_OK;
}

int gen_prompt(struct cli *c, const struct args *a, const char *words, cJSON *start,
               void **ret_tail, size_t *ret_bytes)
{
    char *text = NULL;
    size_t n = 0;
    int code = CLI_OK;
    if (!words && isatty(0))
        return cli_usage(c, "there is no question: give it as an argument, or pipe it in");
    if (words && !words[0] && !args_has(a, "raw"))
        return cli_usage(c, "the question is empty");
    if (!words || strcmp(words, "-") == 0) {
        code = read_stdin(c, a, &text, &n);
        if (code != CLI_OK)
            return code;
        if (n == 0) {
            free(text);
            return cli_usage(c, "there is no question: stdin is empty");
        }
    } else {
        code = words_and_pipe(c, a, words, &text, &n);
        if (code != CLI_OK)
            return code;
    }
    if (!args_has(a, "ids")) {
        cJSON_AddStringToObject(start, "input", "prompt");
        *ret_tail = text;
        *ret_bytes = n;
        return CLI_OK;
    }
    int32_t *ids = NULL;
    code = cli_ids(c, text, &ids, &n);
    free(text);
    if (code != CLI_OK)
        return code;
    cJSON_AddStringToObject(start, "input", "tokens");
    *ret_tail = ids;
    *ret_bytes = n * sizeof *ids;
    return CLI_OK;
}
