/* ask.c - what a request asks of the sampler: parsed, checked, saved and read back. */
#include "base/check.h"
#include "daemon/call.h"
#include "daemon/req.h"
#include "proto.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BIAS_MAX = 1024 };
#define EXACT_MAX 9007199254740992.0 /* 2^53: integers a JSON number carries exactly */

void ask_fini(struct ask *a)
{
    for (uint32_t i = 0; i < a->n_stop; i++)
        free(a->stop[i]);
    free(a->bias);
    memset(a, 0, sizeof *a);
}

static int read_float(struct call *c, const cJSON *o, const char *path, double min, double max,
                      bool open, float *ret)
{
    double v;
    int r = want_num(c, o, path, min, max, open, &v);

    if (r > 0)
        *ret = (float)v;
    if (r > 0 && open && *ret <= (float)min) /* it is above, if only as a double */
        *ret = nextafterf((float)min, INFINITY);
    return r < 0 ? r : 0;
}

static int read_u32(struct call *c, const cJSON *o, const char *path, uint64_t max,
                    uint32_t *ret)
{
    uint64_t v;
    int r = want_u64(c, o, path, 0, max, &v);

    if (r > 0)
        *ret = (uint32_t)v;
    return r < 0 ? r : 0;
}

/* Names with ';' between them; "" is none. */
static int ask_order_set(struct smp_params *p, const char *names, struct errbuf *eb)
{
    char *copy = strdup(names), *save = NULL;
    const char *name[SMP_STEP_ + 1];
    uint32_t n = 0;

    if (!copy)
        return err_set(eb, -ENOMEM, "samplers: no memory");
    for (char *w = strtok_r(copy, ";", &save); w && n <= SMP_STEP_;
         w = strtok_r(NULL, ";", &save))
        name[n++] = w;
    int r = smp_order_set(p, name, n, eb);
    free(copy);
    return r;
}

static int read_bias(struct call *c, const cJSON *o, struct ask *a)
{
    const cJSON *map = NULL, *v;
    int r = want_obj(c, o, "params.logit_bias", &map);
    int n = map ? cJSON_GetArraySize(map) : 0;

    if (r <= 0 || n == 0)
        return r < 0 ? r : 0;
    if (n > BIAS_MAX) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                  "params.logit_bias: want at most %d members, got %d", BIAS_MAX, n);
        return -EINVAL;
    }
    a->bias = calloc((size_t)n, sizeof *a->bias);
    if (!a->bias) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return -ENOMEM;
    }
    cJSON_ArrayForEach(v, map)
    {
        char *end = NULL;
        long id = strtol(v->string, &end, 10);

        if (v->string[0] < '0' || v->string[0] > '9' || *end || id < 0 || id > INT32_MAX ||
            !cJSON_IsNumber(v) || !(fabs(v->valuedouble) <= 100)) {
            call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                      "params.logit_bias.%s: want \"token id\": number in [-100,100]",
                      v->string);
            return -EINVAL;
        }
        a->bias[a->smp.n_bias++] =
            (struct smp_bias){.id = (int32_t)id, .add = (float)v->valuedouble};
    }
    a->smp.bias = a->bias;
    return 0;
}

static int read_stop(struct call *c, const cJSON *o, struct ask *a)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "stop"), *v;

    if (!list || cJSON_IsNull(list))
        return 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > STREAM_STOPS_MAX) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                  "params.stop: want a list of at most %d strings", STREAM_STOPS_MAX);
        return -EINVAL;
    }
    cJSON_ArrayForEach(v, list)
    {
        size_t n = cJSON_IsString(v) ? strlen(v->valuestring) : 0;

        if (n == 0 || n > STREAM_STOP_BYTES_MAX) {
            call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                      "params.stop[%u]: want a string of 1 to %d bytes", a->n_stop,
                      STREAM_STOP_BYTES_MAX);
            return -EINVAL;
        }
        a->stop[a->n_stop] = strdup(v->valuestring);
        if (!a->stop[a->n_stop]) {
            call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
            return -ENOMEM;
        }
        a->n_stop++;
    }
    return 0;
}

/* A seed is a number, or a string of digits where 53 bits are not enough. */
static int read_seed(struct call *c, const cJSON *o, struct ask *a)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, "seed");
    char *end;

    if (!v || cJSON_IsNull(v))
        return 0;
    if (cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble <= EXACT_MAX &&
        floor(v->valuedouble) == v->valuedouble) {
        a->smp.seed = (uint64_t)v->valuedouble;
        return 0;
    }
    if (cJSON_IsString(v) && v->valuestring[0] >= '0' && v->valuestring[0] <= '9') {
        errno = 0;
        a->smp.seed = strtoull(v->valuestring, &end, 10);
        if (!*end && !errno)
            return 0;
    }
    call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
              "params.seed: want an integer of 0 to 2^53, or a string of decimal digits");
    return -EINVAL;
}

static int read_sampling(struct call *c, const cJSON *o, struct ask *a)
{
    struct smp_params *p = &a->smp;
    int r = read_float(c, o, "params.temperature", 0, 100, false, &p->temp);

    if (r == 0)
        r = read_u32(c, o, "params.top_k", UINT32_MAX, &p->top_k);
    if (r == 0)
        r = read_float(c, o, "params.top_p", 0, 1, true, &p->top_p);
    if (r == 0)
        r = read_float(c, o, "params.min_p", 0, 1, false, &p->min_p);
    if (r == 0)
        r = read_float(c, o, "params.repeat_penalty", 0, 100, true, &p->repeat_penalty);
    if (r == 0)
        r = read_u32(c, o, "params.repeat_last", 4096, &p->repeat_last);
    if (r == 0)
        r = read_float(c, o, "params.presence_penalty", -2, 2, false, &p->presence_penalty);
    if (r == 0)
        r = read_float(c, o, "params.frequency_penalty", -2, 2, false, &p->frequency_penalty);
    return r;
}

/* The order of the sampler's steps: a list of names, or names with ';' between them. */
static int read_order(struct call *c, const cJSON *o, struct ask *a)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "samplers"), *v;
    const char *name[SMP_STEP_ + 1];
    struct errbuf eb = {""};
    uint32_t n = 0;
    bool text = true;
    int r;

    if (!list || cJSON_IsNull(list))
        return 0;
    if (cJSON_IsString(list)) {
        r = ask_order_set(&a->smp, list->valuestring, &eb);
    } else {
        cJSON_ArrayForEach(v, list)
        {
            text &= cJSON_IsString(v);
            if (n <= SMP_STEP_ && text)
                name[n++] = v->valuestring;
        }
        r = cJSON_IsArray(list) && text
                ? smp_order_set(&a->smp, name, n, &eb)
                : err_set(&eb, -EINVAL, "samplers: want a list of names");
    }
    if (r < 0)
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "params.%s", eb.s);
    return r;
}

/* The model's own defaults; a member of another type is not a user's mistake: skipped. */
static void take_defaults(const cJSON *o, struct smp_params *p)
{
    const struct {
        const char *name;
        float *f;
    } row[] = {{"temperature", &p->temp},
               {"top_p", &p->top_p},
               {"min_p", &p->min_p},
               {"repeat_penalty", &p->repeat_penalty},
               {"presence_penalty", &p->presence_penalty},
               {"frequency_penalty", &p->frequency_penalty}};
    const cJSON *v;

    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if ((v = cJSON_GetObjectItemCaseSensitive(o, row[i].name)) && cJSON_IsNumber(v))
            *row[i].f = (float)v->valuedouble;
    if ((v = cJSON_GetObjectItemCaseSensitive(o, "top_k")) && cJSON_IsNumber(v) &&
        v->valuedouble >= 0)
        p->top_k = (uint32_t)v->valuedouble;
    if ((v = cJSON_GetObjectItemCaseSensitive(o, "repeat_last")) && cJSON_IsNumber(v) &&
        v->valuedouble >= 0)
        p->repeat_last = (uint32_t)v->valuedouble;
}

int ask_parse(struct call *c, const cJSON *params, const cJSON *defaults,
              const struct kvs_id *id, struct ask *ret)
{
    struct ask a;
    uint64_t n = 0;
    int r;

    memset(&a, 0, sizeof a);
    smp_defaults(&a.smp);
    take_defaults(defaults, &a.smp);
    a.smp.seed = kvs_id_seed(id);
    a.max_tokens = -1;
    r = params ? read_sampling(c, params, &a) : 0;
    if (r == 0 && params) {
        r = want_u64(c, params, "params.max_tokens", 0, INT32_MAX, &n);
        if (r > 0)
            a.max_tokens = (int64_t)n;
        r = r < 0 ? r : 0;
    }
    if (r == 0 && params)
        r = read_u32(c, params, "params.logprobs", SMP_TOP_MAX, &a.n_top);
    if (r == 0 && params)
        r = want_bool(c, params, "params.ignore_eos", &a.ignore_eos);
    if (r >= 0 && params)
        r = read_bias(c, params, &a);
    if (r == 0 && params)
        r = read_order(c, params, &a);
    if (r == 0 && params)
        r = read_stop(c, params, &a);
    if (r == 0 && params)
        r = read_seed(c, params, &a);
    if (r < 0) {
        ask_fini(&a);
        return r;
    }
    a.smp.n_top = a.n_top;
    *ret = a;
    return 0;
}

/* Floats pass through double and 17 digits: they come back as they were. */
cJSON *ask_save(const struct ask *a)
{
    const struct smp_params *p = &a->smp;
    cJSON *o = cJSON_CreateObject(), *list;
    char seed[24], order[80] = "";

    cJSON_AddNumberToObject(o, "max_tokens", (double)a->max_tokens);
    cJSON_AddNumberToObject(o, "temperature", (double)p->temp);
    cJSON_AddNumberToObject(o, "top_k", p->top_k);
    cJSON_AddNumberToObject(o, "top_p", (double)p->top_p);
    cJSON_AddNumberToObject(o, "min_p", (double)p->min_p);
    cJSON_AddNumberToObject(o, "repeat_penalty", (double)p->repeat_penalty);
    cJSON_AddNumberToObject(o, "repeat_last", p->repeat_last);
    cJSON_AddNumberToObject(o, "presence_penalty", (double)p->presence_penalty);
    cJSON_AddNumberToObject(o, "frequency_penalty", (double)p->frequency_penalty);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)p->seed);
    cJSON_AddStringToObject(o, "seed", seed);
    for (uint32_t i = 0; i < p->n_order; i++)
        snprintf(order + strlen(order), sizeof order - strlen(order), "%s%s", i ? ";" : "",
                 smp_step_name(p->order[i]));
    cJSON_AddStringToObject(o, "samplers", order);
    cJSON_AddBoolToObject(o, "ignore_eos", a->ignore_eos);
    cJSON_AddNumberToObject(o, "logprobs", a->n_top);
    if (a->n_stop) {
        list = cJSON_AddArrayToObject(o, "stop");
        for (uint32_t i = 0; i < a->n_stop; i++)
            cJSON_AddItemToArray(list, cJSON_CreateString(a->stop[i]));
    }
    if (p->n_bias) {
        list = cJSON_AddArrayToObject(o, "logit_bias");
        for (uint32_t i = 0; i < p->n_bias; i++) {
            cJSON_AddItemToArray(list, cJSON_CreateNumber(p->bias[i].id));
            cJSON_AddItemToArray(list, cJSON_CreateNumber((double)p->bias[i].add));
        }
    }
    return o;
}

int ask_load(struct ask *ret, const cJSON *o)
{
    struct ask a;
    const cJSON *v, *bias = cJSON_GetObjectItemCaseSensitive(o, "logit_bias");
    const cJSON *seed = cJSON_GetObjectItemCaseSensitive(o, "seed");
    int n = bias ? cJSON_GetArraySize(bias) / 2 : 0;

    memset(&a, 0, sizeof a);
    smp_defaults(&a.smp);
    v = cJSON_GetObjectItemCaseSensitive(o, "max_tokens");
    if (!cJSON_IsNumber(v) || !cJSON_IsString(seed))
        return E_CORRUPT;
    a.max_tokens = (int64_t)v->valuedouble;
    take_defaults(o, &a.smp);
    a.smp.seed = strtoull(seed->valuestring, NULL, 10);
    v = cJSON_GetObjectItemCaseSensitive(o, "samplers");
    if (!v) /* of a daemon that knew one order */
        smp_order_first(&a.smp);
    else if (!cJSON_IsString(v) || ask_order_set(&a.smp, v->valuestring, NULL) < 0)
        return E_CORRUPT;
    a.ignore_eos = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "ignore_eos"));
    v = cJSON_GetObjectItemCaseSensitive(o, "logprobs");
    if (cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble <= SMP_TOP_MAX)
        a.n_top = a.smp.n_top = (uint32_t)v->valuedouble;
    cJSON_ArrayForEach(
        v, cJSON_GetObjectItemCaseSensitive(
               o, "stop")) if (cJSON_IsString(v) && a.n_stop < STREAM_STOPS_MAX &&
                               (a.stop[a.n_stop] = strdup(v->valuestring))) a.n_stop++;
    if (n) {
        a.bias = calloc((size_t)n, sizeof *a.bias);
        if (!a.bias) {
            ask_fini(&a);
            return -ENOMEM;
        }
        for (v = bias->child; v && v->next; v = v->next->next)
            a.bias[a.smp.n_bias++] = (struct smp_bias){.id = (int32_t)v->valuedouble,
                                                       .add = (float)v->next->valuedouble};
        a.smp.bias = a.bias;
    }
    *ret = a;
    return 0;
}
