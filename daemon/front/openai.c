/* openai.c - a chat completion request, field by field, becomes a START. */
#include "daemon/front/openai.h"
#include "daemon/front/fjson.h"
#include "proto.h"
#include <errno.h>
#include <math.h>
#include <sodium.h>
#include <stdlib.h>

enum { STOPS_MAX = 16, TOP_LOGPROBS_MAX = 20, METADATA_MAX = 16 };
#define INT_EXACT_MAX 9007199254740991.0 /* the largest integer a JSON number carries exactly */
#define TWO_63        9223372036854775808.0

__attribute__((format(printf, 4, 5))) static int bad(struct openai_error *e, const char *slug,
                                                     const char *param, const char *fmt, ...)
{
    va_list ap;
    e->code = 400;
    e->slug = slug;
    snprintf(e->param, sizeof e->param, "%s", param);
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return -EINVAL;
}

/* The value as it came, short enough for a sentence. */
static const char *shown(const cJSON *v, char *buf, size_t cap)
{
    char *s = cJSON_PrintUnformatted(v);
    int n = front_cut(s ? s : "?", 40);
    snprintf(buf, cap, "%.*s%s", n, s ? s : "?", s && s[n] ? "..." : "");
    free(s);
    return buf;
}

/* --- fields of a number, one row each -------------------------------------------------- */
struct num_field {
    const char *name, *start; /* its name in START's params */
    double min, max;
    bool min_open, integer;
};
static const struct num_field num_fields[] = {
    {"temperature", "temperature", 0, 2, false, false},
    {"top_p", "top_p", 0, 1, false, false},
    {"presence_penalty", "presence_penalty", -2, 2, false, false},
    {"frequency_penalty", "frequency_penalty", -2, 2, false, false},
    {"max_tokens", "max_tokens", 1, 1 << 30, false, true},
    {"max_completion_tokens", "max_tokens", 1, 1 << 30, false, true},
    {"seed", "seed", -TWO_63, TWO_63, false, true},
    {"top_k", "top_k", -1, 1 << 30, false, true},
    {"min_p", "min_p", 0, 1, false, false},
    {"repeat_penalty", "repeat_penalty", 0, 10, true, false},
};

static int want_number(const cJSON *v, const struct num_field *f, struct openai_error *e)
{
    char got[64], most[32];
    double d = v->valuedouble;
    if (!cJSON_IsNumber(v) || !isfinite(d) || d < f->min || d > f->max ||
        (f->min_open && d == f->min) || (f->integer && d != floor(d))) {
        /* All bounds are whole; the greatest seed is no double. */
        if (f->max < TWO_63)
            snprintf(most, sizeof most, "%.0f", f->max);
        else
            snprintf(most, sizeof most, "%lld", (long long)INT64_MAX);
        return bad(e, "bad_field", f->name, "%s: want %s in %c%.0f,%s], got %s", f->name,
                   f->integer ? "an integer" : "a number", f->min_open ? '(' : '[', f->min,
                   most, shown(v, got, sizeof got));
    }
    return 0;
}

/* Into START's params, whose ranges are not the dialect's everywhere.  cJSON prints 15 digits,
 * and a seed may have more. */
static void add_number(cJSON *params, const struct num_field *f, double v)
{
    char digits[32];
    if (strcmp(f->start, "top_p") == 0 && v == 0)
        v = 1e-6; /* nothing but the likeliest */
    if (strcmp(f->start, "top_k") == 0 && v < 0)
        v = 0; /* off */
    if (!f->integer) {
        cJSON_AddNumberToObject(params, f->start, v);
        return;
    }
    if (v < 0 || v > INT_EXACT_MAX) { /* a seed: its 64 bits */
        int64_t bits = v >= TWO_63 ? INT64_MAX : (int64_t)v;
        snprintf(digits, sizeof digits, "%llu", (unsigned long long)bits);
        cJSON_AddStringToObject(params, f->start, digits);
        return;
    }
    snprintf(digits, sizeof digits, "%.0f", v);
    cJSON_AddRawToObject(params, f->start, digits);
}

/* Where the value of the member of that name begins; NULL: there is none, or its name is escaped.
 * text is one object, and has been checked. */
static const char *value_of(const char *text, size_t n, const char *name)
{
    const char *end = text + n;
    size_t len = strlen(name);
    int depth = 0;
    for (const char *p = text; p < end; p++) {
        if (*p == '{' || *p == '[')
            depth++;
        else if (*p == '}' || *p == ']')
            depth--;
        if (*p != '"')
            continue;
        const char *from = ++p;
        while (p < end && *p != '"')
            p += *p == '\\' ? 2 : 1;
        const char *v = p + 1; /* behind the name, or a string that is a value */
        while (v < end && strchr(" \t\r\n", *v))
            v++;
        if (depth == 1 && v < end && *v == ':' && (size_t)(p - from) == len &&
            memcmp(from, name, len) == 0) {
            for (v++; v < end && strchr(" \t\r\n", *v); v++)
                ;
            return v < end ? v : NULL;
        }
    }
    return NULL;
}

void openai_exact(cJSON *body, const char *text, size_t n)
{
    const cJSON *seed = cJSON_GetObjectItemCaseSensitive(body, "seed");
    const char *v = cJSON_IsNumber(seed) && fabs(seed->valuedouble) > INT_EXACT_MAX
                        ? value_of(text, n, "seed")
                        : NULL;
    char digits[64];
    size_t k = 0;
    while (v && k < sizeof digits - 1 && v + k < text + n && strchr("-0123456789", v[k]))
        k++;
    if (!v || v + k == text + n || !strchr(" \t\r\n,}", v[k])) /* 1e18 is a double's */
        return;
    snprintf(digits, sizeof digits, "%.*s", (int)k, v);
    cJSON_ReplaceItemInObjectCaseSensitive(body, "seed", cJSON_CreateRaw(digits));
}

/* A seed with all its digits: 64 bits of it, as START has them.  false: it has more. */
static bool exact_seed(cJSON *params, const cJSON *v)
{
    char *end, digits[32];
    errno = 0;
    long long seed = strtoll(v->valuestring, &end, 10);
    if (errno || *end)
        return false;
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)seed);
    cJSON_AddStringToObject(params, "seed", digits);
    return true;
}

/* --- what changes nothing ------------------------------------------------------------------ */

/* Of a member whose meaning is not known what is empty asks for nothing that we could miss. */
static bool is_empty(const cJSON *v)
{
    return ((cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child) ||
           (cJSON_IsString(v) && !v->valuestring[0]);
}

/* A hint without effect: the answer will name it. */
static void ignore(struct openai_req *q, const char *of, const char *name)
{
    char quoted[100];
    size_t n = strlen(q->ignored);
    struct fbuf b = {0};
    snprintf(quoted, sizeof quoted, "%s%.*s", of, front_cut(name, 60), name);
    fbuf_json_str(&b, quoted, strlen(quoted));
    if (!b.bad && !strstr(q->ignored, b.p) && n + b.n + 2 <= sizeof q->ignored)
        snprintf(q->ignored + n, sizeof q->ignored - n, "%s%s", n ? "," : "", b.p);
    fbuf_fini(&b);
}

/* Members of which only some values can be had, and those as if they were not there.  values:
 * a JSON list; NULL: any, it is a hint; NOTHING: none, for also an empty one asks for something (any
 * JSON, a search of the web). */
static const char NOTHING[] = "[]";
static const struct {
    const char *name, *values;
} idle_fields[] = {
    {"tools", "[[]]"},
    {"tool_choice", "[\"none\",\"auto\"]"},
    {"functions", "[[]]"},
    {"function_call", "[\"none\",\"auto\"]"},
    {"parallel_tool_calls", "[false,true]"},
    {"modalities", "[[\"text\"]]"},
    {"reasoning_effort", "[\"none\"]"},
    {"verbosity", "[\"medium\"]"},
    {"service_tier", "[\"auto\",\"default\"]"},
    {"audio", NOTHING},
    {"web_search_options", NOTHING},
    {"prediction", NULL},
    {"prompt_cache_key", NULL},
    {"prompt_cache_retention", NULL},
    {"safety_identifier", NULL},
    /* what servers like this one have beside, as they have it by default */
    {"json_schema", NOTHING},
    {"guided_json", NOTHING},
    {"structured_outputs", NOTHING},
    {"grammar", "[\"\"]"},
    {"best_of", "[1]"},
    {"echo", "[false]"},
    {"use_beam_search", "[false]"},
    {"length_penalty", "[1]"},
    {"early_stopping", "[false]"},
    {"min_tokens", "[0]"},
    {"stop_token_ids", "[[]]"},
    {"include_stop_str_in_output", "[false]"},
    {"skip_special_tokens", "[true]"},
    {"spaces_between_special_tokens", "[true,false]"},
    {"add_generation_prompt", "[true]"},
    {"repetition_penalty", "[1]"},
    {"typical_p", "[1]"},
    {"tfs_z", "[1]"},
    {"top_a", "[0]"},
    {"mirostat", "[0]"},
    {"dry_multiplier", "[0]"},
    {"xtc_probability", "[0]"},
    {"dynatemp_range", "[0]"},
    {"repeat_last_n", "[64]"},
    {"n_keep", "[0]"},
    {"n_probs", "[0]"},
    {"id_slot", "[-1]"},
    {"return_tokens", "[false]"},
    {"timings_per_token", "[false]"},
};

/* 0: taken; -ENOENT: not of these; -EINVAL. */
static int idle_field(struct openai_req *q, const cJSON *v, struct openai_error *e)
{
    for (size_t i = 0; i < sizeof idle_fields / sizeof *idle_fields; i++) {
        const char *name = idle_fields[i].name, *values = idle_fields[i].values;
        char got[64];
        bool fits = !values;
        if (strcmp(v->string, name) != 0)
            continue;
        if (!values)
            ignore(q, "", name);
        cJSON *list = values ? cJSON_Parse(values) : NULL;
        const cJSON *w;
        cJSON_ArrayForEach(w, list) fits |= cJSON_Compare(v, w, true) != 0;
        cJSON_Delete(list);
        if (values == NOTHING)
            return bad(e, "unsupported_field", name, "%s is not supported", name);
        /* The list as it stands, without its brackets. */
        return fits ? 0
                    : bad(e, "unsupported_field", name,
                          "%s is not supported: want %.*s, or leave it out; got %s", name,
                          (int)strlen(values) - 2, values + 1, shown(v, got, sizeof got));
    }
    return -ENOENT;
}

/* --- messages ---------------------------------------------------------------------------- */

/* A string, or a list of text parts. */
static int content(struct openai_req *req, cJSON *to, const cJSON *v, int i,
                   struct openai_error *e)
{
    char path[64], got[64];
    snprintf(path, sizeof path, "messages[%d].content", i);
    if (cJSON_IsString(v)) {
        cJSON_AddItemToObject(to, "content", cJSON_CreateString(v->valuestring));
        return 0;
    }
    if (!cJSON_IsArray(v))
        return bad(e, "bad_field", path, "%s: want a string or a list of text parts, got %s",
                   path, v ? shown(v, got, sizeof got) : "nothing");
    cJSON *parts = cJSON_AddArrayToObject(to, "content");
    int k = 0;
    const cJSON *p;
    cJSON_ArrayForEach(p, v)
    {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(p, "type");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(p, "text");
        snprintf(path, sizeof path, "messages[%d].content[%d]", i, k++);
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0)
            return bad(e, "unsupported_field", path,
                       "%s: only parts of type \"text\" are supported, got %s", path,
                       type ? shown(type, got, sizeof got) : "no type");
        if (!cJSON_IsString(text))
            return bad(e, "bad_field", path, "%s.text: want a string, got %s", path,
                       text ? shown(text, got, sizeof got) : "nothing");
        const cJSON *m;
        cJSON_ArrayForEach(m, p)
        {
            if (strcmp(m->string, "type") != 0 && strcmp(m->string, "text") != 0 &&
                !cJSON_IsNull(m))
                ignore(req, "messages[].content[].", m->string);
        }
        cJSON *q = cJSON_CreateObject();
        cJSON_AddStringToObject(q, "type", "text");
        cJSON_AddStringToObject(q, "text", text->valuestring);
        cJSON_AddItemToArray(parts, q);
    }
    return 0;
}

/* Members of a message that hold something of the conversation: it would be lost. */
static bool has_part_of_it(const char *name)
{
    static const char *const names[] = {"tool_calls", "function_call", "tool_call_id", "audio",
                                        "refusal"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static int message(struct openai_req *req, cJSON *to, const cJSON *m, int i,
                   struct openai_error *e)
{
    char path[64], got[64];
    snprintf(path, sizeof path, "messages[%d]", i);
    if (!cJSON_IsObject(m))
        return bad(e, "bad_field", path, "%s: want an object, got %s", path,
                   shown(m, got, sizeof got));
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(m, "role");
    snprintf(path, sizeof path, "messages[%d].role", i);
    const char *r = cJSON_IsString(role) ? role->valuestring : NULL;
    if (r && strcmp(r, "developer") == 0)
        r = "system"; /* the newer name of the same thing */
    if (!r ||
        (strcmp(r, "system") != 0 && strcmp(r, "user") != 0 && strcmp(r, "assistant") != 0))
        return bad(e, r ? "unsupported_field" : "bad_field", path,
                   "%s: want \"system\", \"developer\", \"user\" or \"assistant\", got %s",
                   path, role ? shown(role, got, sizeof got) : "nothing");
    /* A client sends an answer back with all its members, and with what its own libraries hung
     * on it. */
    const cJSON *f;
    cJSON_ArrayForEach(f, m)
    {
        if (strcmp(f->string, "role") == 0 || strcmp(f->string, "content") == 0 ||
            cJSON_IsNull(f))
            continue;
        if (has_part_of_it(f->string)) {
            if (is_empty(f)) /* there is no such part */
                continue;
            snprintf(path, sizeof path, "messages[%d].%.32s", i, f->string);
            return bad(e, "unsupported_field", path, "%s is not supported", path);
        }
        ignore(req, "messages[].", f->string);
    }
    cJSON_AddStringToObject(to, "role", r);
    return content(req, to, cJSON_GetObjectItemCaseSensitive(m, "content"), i, e);
}

static int messages(struct openai_req *req, cJSON *start, const cJSON *v,
                    struct openai_error *e)
{
    char got[64];
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) == 0)
        return bad(e, "bad_field", "messages",
                   "messages: want a list with at least one message, got %s",
                   v ? shown(v, got, sizeof got) : "nothing");
    cJSON *to = cJSON_AddArrayToObject(start, "messages");
    int i = 0, r = 0;
    const cJSON *m;
    cJSON_ArrayForEach(m, v)
    {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToArray(to, one);
        r = message(req, one, m, i++, e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- the fields that are neither numbers nor messages ------------------------------------ */
struct parse {
    struct openai_req *req;
    cJSON *start, *params;
    struct openai_error *e;
};
static int f_model(struct parse *p, const cJSON *v)
{
    char got[64];
    if (!cJSON_IsString(v) || strlen(v->valuestring) >= sizeof p->req->model)
        return bad(p->e, "bad_field", "model",
                   "model: want a name of at most %zu bytes, got %s", sizeof p->req->model - 1,
                   shown(v, got, sizeof got));
    snprintf(p->req->model, sizeof p->req->model, "%s", v->valuestring);
    if (p->req->model[0])
        cJSON_AddStringToObject(p->start, "model", p->req->model);
    return 0;
}
static int f_messages(struct parse *p, const cJSON *v)
{
    return messages(p->req, p->start, v, p->e);
}
static int f_stream(struct parse *p, const cJSON *v)
{
    char got[64];
    if (!cJSON_IsBool(v))
        return bad(p->e, "bad_field", "stream", "stream: want true or false, got %s",
                   shown(v, got, sizeof got));
    p->req->stream = cJSON_IsTrue(v);
    return 0;
}
static int f_stream_options(struct parse *p, const cJSON *v)
{
    char got[64];
    const cJSON *m;
    if (!cJSON_IsObject(v))
        return bad(p->e, "bad_field", "stream_options",
                   "stream_options: want an object, got %s", shown(v, got, sizeof got));
    cJSON_ArrayForEach(m, v)
    {
        if (cJSON_IsNull(m))
            continue;
        if (cJSON_IsFalse(m) && strcmp(m->string, "include_usage") != 0) {
            /* an option that is not wanted */
            if (strcmp(m->string, "include_obfuscation") != 0)
                ignore(p->req, "stream_options.", m->string);
            continue;
        }
        if (strcmp(m->string, "include_usage") != 0)
            return bad(p->e, "unsupported_field", "stream_options",
                       "stream_options.%.*s is not supported", front_cut(m->string, 40),
                       m->string);
        if (!cJSON_IsBool(m))
            return bad(p->e, "bad_field", "stream_options.include_usage",
                       "stream_options.include_usage: want true or false, got %s",
                       shown(m, got, sizeof got));
        p->req->include_usage = cJSON_IsTrue(m);
    }
    return 0;
}
static int f_n(struct parse *p, const cJSON *v)
{
    char got[64];
    return cJSON_IsNumber(v) && v->valuedouble == 1
               ? 0
               : bad(p->e, "unsupported_field", "n", "n: only 1 is supported, got %s",
                     shown(v, got, sizeof got));
}
static int f_stop(struct parse *p, const cJSON *v)
{
    char got[64];
    cJSON *to = cJSON_AddArrayToObject(p->params, "stop");
    bool list = cJSON_IsArray(v);
    int n = list ? cJSON_GetArraySize(v) : 1;
    if (n > STOPS_MAX)
        return bad(p->e, "bad_field", "stop", "stop: want at most %d strings, got %d",
                   STOPS_MAX, n);
    for (int i = 0; i < n; i++) {
        const cJSON *s = list ? cJSON_GetArrayItem(v, i) : v;
        if (!cJSON_IsString(s) || !s->valuestring[0])
            return bad(p->e, "bad_field", "stop",
                       "stop: want a string of at least one byte, or a list of such, got %s",
                       shown(s, got, sizeof got));
        cJSON_AddItemToArray(to, cJSON_CreateString(s->valuestring));
    }
    return 0;
}
static int f_logit_bias(struct parse *p, const cJSON *v)
{
    char got[64];
    const cJSON *m;
    if (!cJSON_IsObject(v))
        return bad(p->e, "bad_field", "logit_bias", "logit_bias: want an object, got %s",
                   shown(v, got, sizeof got));
    cJSON *to = cJSON_AddObjectToObject(p->params, "logit_bias");
    cJSON_ArrayForEach(m, v)
    {
        size_t n = strlen(m->string);
        /* One spelling each, so that no token is there twice: "01" would be another's 1. */
        if (n == 0 || n > 9 || strspn(m->string, "0123456789") != n ||
            (n > 1 && m->string[0] == '0'))
            return bad(p->e, "bad_field", "logit_bias",
                       "logit_bias: want token ids as names, got \"%.*s\"",
                       front_cut(m->string, 40), m->string);
        if (!cJSON_IsNumber(m) || !(fabs(m->valuedouble) <= 100))
            return bad(p->e, "bad_field", "logit_bias",
                       "logit_bias.%s: want a number in [-100,100], got %s", m->string,
                       shown(m, got, sizeof got));
        cJSON_AddNumberToObject(to, m->string, m->valuedouble);
    }
    return 0;
}
/* As llama-server has it: names, which the core knows. */
static int f_samplers(struct parse *p, const cJSON *v)
{
    char got[64];
    const cJSON *s;
    bool names = cJSON_IsArray(v) || cJSON_IsString(v);
    cJSON_ArrayForEach(s, v) names &= cJSON_IsString(s);
    if (!names)
        return bad(p->e, "bad_field", "samplers", "samplers: want a list of names, got %s",
                   shown(v, got, sizeof got));
    cJSON_AddItemToObject(p->params, "samplers", cJSON_Duplicate(v, true));
    return 0;
}
static int f_logprobs(struct parse *p, const cJSON *v)
{
    char got[64];
    if (!cJSON_IsBool(v))
        return bad(p->e, "bad_field", "logprobs", "logprobs: want true or false, got %s",
                   shown(v, got, sizeof got));
    p->req->logprobs = cJSON_IsTrue(v);
    return 0;
}
static int f_top_logprobs(struct parse *p, const cJSON *v)
{
    int r = want_number(
        v, &(struct num_field){"top_logprobs", NULL, 0, TOP_LOGPROBS_MAX, false, true}, p->e);
    if (r == 0)
        p->req->top_logprobs = (uint32_t)v->valuedouble;
    return r;
}
static int f_user(struct parse *p, const cJSON *v)
{
    char got[64];
    if (!cJSON_IsString(v))
        return bad(p->e, "bad_field", "user", "user: want a string, got %s",
                   shown(v, got, sizeof got));
    ignore(p->req, "", "user");
    return 0;
}
/* Given back with the answer, as OpenAI does, which takes strings alone. */
static int f_metadata(struct parse *p, const cJSON *v)
{
    char got[64];
    const cJSON *m;
    if (!cJSON_IsObject(v) || cJSON_GetArraySize(v) > METADATA_MAX)
        return bad(p->e, "bad_field", "metadata",
                   "metadata: want an object of at most %d members, got %s", METADATA_MAX,
                   shown(v, got, sizeof got));
    cJSON_ArrayForEach(m, v)
    {
        if (!cJSON_IsString(m))
            return bad(p->e, "bad_field", "metadata", "metadata.%.*s: want a string, got %s",
                       front_cut(m->string, 64), m->string, shown(m, got, sizeof got));
    }
    p->req->metadata = cJSON_PrintUnformatted(v);
    return p->req->metadata ? 0 : bad(p->e, "out_of_memory", "", "no memory for this request");
}
/* false: the conversation is not kept.  true would let it be fetched by its id later. */
static int f_store(struct parse *p, const cJSON *v)
{
    char got[64];
    if (!cJSON_IsFalse(v))
        return bad(p->e, "unsupported_field", "store", "store: only false is supported, got %s",
                   shown(v, got, sizeof got));
    cJSON_AddFalseToObject(p->start, "keep");
    return 0;
}
/* false: nothing of what is stored is to be used. */
static int f_cache_prompt(struct parse *p, const cJSON *v)
{
    char got[64];
    if (!cJSON_IsBool(v))
        return bad(p->e, "bad_field", "cache_prompt",
                   "cache_prompt: want true or false, got %s", shown(v, got, sizeof got));
    if (cJSON_IsFalse(v))
        cJSON_AddFalseToObject(cJSON_AddObjectToObject(p->start, "hints"), "prefix");
    return 0;
}
static int f_ignore_eos(struct parse *p, const cJSON *v)
{
    char got[64];
    if (!cJSON_IsBool(v))
        return bad(p->e, "bad_field", "ignore_eos", "ignore_eos: want true or false, got %s",
                   shown(v, got, sizeof got));
    cJSON_AddBoolToObject(p->params, "ignore_eos", cJSON_IsTrue(v));
    return 0;
}
static int f_response_format(struct parse *p, const cJSON *v)
{
    char got[64];
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(v, "type");
    return cJSON_IsString(type) && strcmp(type->valuestring, "text") == 0
               ? 0
               : bad(p->e, "unsupported_field", "response_format",
                     "response_format: only {\"type\":\"text\"} is supported, got %s",
                     shown(v, got, sizeof got));
}

static const struct {
    const char *name;
    int (*take)(struct parse *p, const cJSON *v);
} fields[] = {
    {"model", f_model},
    {"messages", f_messages},
    {"stream", f_stream},
    {"stream_options", f_stream_options},
    {"n", f_n},
    {"stop", f_stop},
    {"logit_bias", f_logit_bias},
    {"samplers", f_samplers},
    {"logprobs", f_logprobs},
    {"user", f_user},
    {"top_logprobs", f_top_logprobs},
    {"store", f_store},
    {"metadata", f_metadata},
    {"response_format", f_response_format},
    {"cache_prompt", f_cache_prompt},
    {"ignore_eos", f_ignore_eos},
};

static int field(struct parse *p, const cJSON *v)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (strcmp(v->string, fields[i].name) == 0)
            return fields[i].take(p, v);
    for (size_t i = 0; i < sizeof num_fields / sizeof *num_fields; i++)
        if (strcmp(v->string, num_fields[i].name) == 0) {
            if (cJSON_IsRaw(v) && exact_seed(p->params, v))
                return 0;
            int r = want_number(v, &num_fields[i], p->e);
            const cJSON *had = cJSON_GetObjectItem(p->params, num_fields[i].start);
            if (r == 0 && !had)
                add_number(p->params, &num_fields[i], v->valuedouble);
            else if (r == 0 && strtod(had->valuestring, NULL) != v->valuedouble)
                return bad(p->e, "bad_field", v->string,
                           "max_tokens and max_completion_tokens: want one of them, got both");
            return r;
        }
    int r = idle_field(p->req, v, p->e);
    if (r != -ENOENT)
        return r;
    if (is_empty(v)) {
        ignore(p->req, "", v->string);
        return 0;
    }
    char name[96];
    snprintf(name, sizeof name, "%.*s", front_cut(v->string, 90), v->string);
    return bad(p->e, "unsupported_field", name, "%s is not supported", name);
}

int openai_parse(const cJSON *body, struct openai_req *ret, struct openai_error *err)
{
    struct openai_req q = {0};
    uint8_t id[16];
    randombytes_buf(id, sizeof id);
    sodium_bin2hex(q.id, sizeof q.id, id, sizeof id);
    struct parse p = {.req = &q, .start = cJSON_CreateObject(), .e = err};
    p.params = cJSON_CreateObject();
    int r = 0;
    const cJSON *v;
    *err = (struct openai_error){.code = 500, .slug = "internal"};
    cJSON_AddStringToObject(p.start, "id", q.id);
    cJSON_AddStringToObject(p.start, "input", "messages");
    for (v = body->child; v && r == 0; v = v->next) {
        if (!cJSON_IsNull(v))
            r = field(&p, v);
    }
    if (r == 0 && !cJSON_HasObjectItem(p.start, "messages"))
        r = messages(&q, p.start, NULL, err);
    if (r == 0 && q.include_usage && !q.stream)
        r = bad(err, "bad_field", "stream_options", "stream_options: only with stream:true");
    if (r == 0 && q.top_logprobs && !q.logprobs)
        r = bad(err, "bad_field", "top_logprobs", "top_logprobs: only with logprobs:true");
    if (r == 0) {
        if (q.logprobs) /* one at least: the token's own bytes come with them */
            cJSON_AddNumberToObject(p.params, "logprobs", q.top_logprobs ? q.top_logprobs : 1);
        cJSON_AddItemToObject(p.start, "params", p.params);
        p.params = NULL;
        q.start = cJSON_PrintUnformatted(p.start);
        if (!q.start)
            r = bad(err, "out_of_memory", "", "no memory for this request");
        else if (strlen(q.start) > JSON_BYTES_MAX) {
            r = bad(err, "bad_field", "messages",
                    "messages: %zu bytes are above the limit of %d", strlen(q.start),
                    JSON_BYTES_MAX);
            err->code = 413;
            free(q.start);
        }
    }
    cJSON_Delete(p.start);
    cJSON_Delete(p.params);
    if (r == 0)
        *ret = q;
    else
        free(q.metadata);
    return r;
}

void openai_req_fini(struct openai_req *q)
{
    free(q->start);
    free(q->metadata);
    *q = (struct openai_req){0};
}

char *openai_error_json(int code, const char *slug, const char *param, const char *message)
{
    const char *type = code == 401   ? "authentication_error"
                       : code == 403 ? "permission_error"
                       : code == 429 ? "rate_limit_error"
                       : code == 499 ? "request_cancelled"
                       : code >= 500 ? "server_error"
                                     : "invalid_request_error";
    struct fbuf b = {0};
    fbuf_puts(&b, "{\"error\":{\"message\":");
    fbuf_json_str(&b, message, strlen(message));
    fbuf_printf(&b, ",\"type\":\"%s\",\"code\":", type);
    fbuf_json_str(&b, slug, strlen(slug));
    fbuf_puts(&b, ",\"param\":");
    if (param && param[0])
        fbuf_json_str(&b, param, strlen(param));
    else
        fbuf_puts(&b, "null");
    fbuf_puts(&b, "}}");
    if (b.bad)
        fbuf_fini(&b);
    return b.p;
}
