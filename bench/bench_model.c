/* bench_model.c - hearth-bench model: prefill and decode of one model, median and best.
 *
 * Prefill: -p tokens from nothing, the last one's logits.  Decode: -n tokens one by one after
 * a prompt of 16, and with -d again after -d tokens.  Tokens are pseudo-random: their values
 * do not matter to a dense model's speed.  Decoding reads all weights of a token once, so its
 * share of the measured read rate says how far from the ceiling it is. */
#include "base/bounds.h"
#include "base/clock.h"
#include "bench/bench.h"
#include "bench/membw.h"
#include "bench/snapshot.h"
#include "engine/engine.h"
#include "kernels/kern.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REPS_MAX = 99, PROMPT = 16, PREFILL_STEP = 512 };

struct opts {
    const char *model;
    uint32_t prompt, n, threads, depth, reps;
    bool json;
    const struct kern_ops *kern;
    bool plain_c;
};
struct rate {
    double median, best;
};

static int usage(const char *why, const char *what)
{
    fprintf(
        stderr,
        "hearth-bench: %s%s\n"
        "usage: hearth-bench model FILE [-p 512] [-n 64] [-t THREADS] [-d DEPTH] [-r REPS]\n"
        "         [--backend ref|cpu|cpu-c] [--json]\n",
        why, what);
    return 2;
}

static bool number(const char *s, uint32_t lo, uint32_t hi, uint32_t *ret)
{
    char *end = NULL;

    errno = 0;
    unsigned long long v = strtoull(s, &end, 10);
    if (errno || end == s || *end || s[0] == '-' || v < lo || v > hi)
        return false;
    *ret = (uint32_t)v;
    return true;
}

static int parse(struct opts *o, int argc, char **argv)
{
    const struct {
        const char *name;
        uint32_t lo, hi, *to;
    } nums[] = {{"-p", 1, CTX_TOKENS_MAX, &o->prompt},
                {"-n", 1, 65536, &o->n},
                {"-t", 1, 1024, &o->threads},
                {"-d", 1, CTX_TOKENS_MAX, &o->depth},
                {"-r", 1, REPS_MAX, &o->reps}};

    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        size_t k = 0;
        while (k < sizeof nums / sizeof *nums && strcmp(argv[i], nums[k].name) != 0)
            k++;
        if (k < sizeof nums / sizeof *nums) {
            if (!number(v, nums[k].lo, nums[k].hi, nums[k].to))
                return usage("a number out of range after ", argv[i]);
            i++;
        } else if (strcmp(argv[i], "--backend") == 0) {
            if (strcmp(v, "ref") != 0 && strcmp(v, "cpu") != 0 && strcmp(v, "cpu-c") != 0)
                return usage("--backend takes ref, cpu or cpu-c, not ", v);
            o->kern = strcmp(v, "ref") == 0 ? &kern_ref : &kern_cpu;
            o->plain_c = strcmp(v, "cpu-c") == 0;
            i++;
        } else if (strcmp(argv[i], "--json") == 0) {
            o->json = true;
        } else if (argv[i][0] == '-' || o->model) {
            return usage("unknown argument ", argv[i]);
        } else {
            o->model = argv[i];
        }
    }
    return o->model ? 0 : usage("which model?", "");
}

/* Tokens [from, to), in steps of at most `step`, each with the last one's logits. */
static int run(struct engine *e, const struct snap *s, uint64_t from, uint64_t to,
               uint32_t step, float *logits)
{
    int r = 0;

    for (uint64_t at = from; r == 0 && at < to; at += step) {
        struct eng_seq q = {.tokens = s->ids + at,
                            .n = to - at < step ? (uint32_t)(to - at) : step,
                            .pos = at,
                            .pages = {s->pages[0], s->pages[1], NULL},
                            .n_pages = s->n_pages,
                            .n_logits = 1,
                            .logits = logits};
        struct eng_step st = {.seq = &q, .n_seqs = 1};
        r = eng_step(e, &st);
    }
    return r;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* One warm-up, then reps timed runs. */
static int measure(struct engine *e, const struct opts *o, const struct snap *s, uint64_t from,
                   uint64_t to, uint32_t step, float *logits, struct rate *ret)
{
    double v[REPS_MAX];
    int r = run(e, s, from, to, step, logits);

    for (uint32_t i = 0; r == 0 && i < o->reps; i++) {
        uint64_t t0 = now_ns();
        r = run(e, s, from, to, step, logits);
        v[i] = (double)(to - from) / ((double)(now_ns() - t0) / 1e9);
    }
    if (r < 0)
        return r;
    qsort(v, o->reps, sizeof *v, by_value);
    ret->median = o->reps % 2 ? v[o->reps / 2] : (v[o->reps / 2 - 1] + v[o->reps / 2]) / 2;
    ret->best = v[o->reps - 1];
    return 0;
}

struct results {
    struct rate prefill, decode, deep;
    double bandwidth;
    uint32_t threads;
};

static void print_json(const struct engine *e, const struct opts *o, const struct results *r)
{
    const struct eng_info *in = eng_info(e);
    cJSON *j = cJSON_CreateObject();
    const struct {
        const char *name;
        const struct rate *v;
    } rates[] = {{"prefill_tok_s", &r->prefill},
                 {"decode_tok_s", &r->decode},
                 {"decode_deep_tok_s", o->depth ? &r->deep : NULL}};

    cJSON_AddStringToObject(j, "model", in->name);
    cJSON_AddStringToObject(j, "quant", in->quant);
    cJSON_AddStringToObject(j, "backend", in->backend);
    cJSON_AddNumberToObject(j, "threads", r->threads);
    cJSON_AddNumberToObject(j, "prompt", o->prompt);
    cJSON_AddNumberToObject(j, "n", o->n);
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        cJSON *v = rates[i].v ? cJSON_AddObjectToObject(j, rates[i].name) : NULL;
        if (v) {
            cJSON_AddNumberToObject(v, "median", rates[i].v->median);
            cJSON_AddNumberToObject(v, "best", rates[i].v->best);
        }
    }
    if (o->depth)
        cJSON_AddNumberToObject(j, "depth", o->depth);
    cJSON_AddNumberToObject(j, "token_bytes", (double)in->token_bytes);
    cJSON_AddNumberToObject(j, "weight_bytes", (double)in->weight_bytes);
    cJSON_AddNumberToObject(j, "read_bytes_s", r->bandwidth);
    cJSON_AddNumberToObject(
        j, "decode_share",
        r->bandwidth > 0 ? r->decode.best * (double)in->token_bytes / r->bandwidth : 0);
    char *text = cJSON_PrintUnformatted(j);
    if (text)
        puts(text);
    cJSON_free(text);
    cJSON_Delete(j);
}

static void print_text(const struct engine *e, const struct opts *o, const struct results *r)
{
    const struct eng_info *in = eng_info(e);

    printf("%s %s, %s, %u threads; tokens/s, median and best of %u\n", in->name, in->quant,
           in->backend, r->threads, o->reps);
    printf("prefill %-6u %9.1f %9.1f\n", o->prompt, r->prefill.median, r->prefill.best);
    printf("decode  %-6u %9.1f %9.1f\n", o->n, r->decode.median, r->decode.best);
    if (o->depth)
        printf("at %-9u  %9.1f %9.1f\n", o->depth, r->deep.median, r->deep.best);
    printf("weights read per token %.1f MB; memory reads %.1f GB/s; decode's share %.0f %%\n",
           (double)in->token_bytes / 1e6, r->bandwidth / 1e9,
           r->bandwidth > 0 ? 100 * r->decode.best * (double)in->token_bytes / r->bandwidth
                            : 0);
}

static int work(struct engine *e, const struct opts *o, struct snap *s, struct results *res,
                struct errbuf *eb)
{
    uint64_t need = o->prompt > PROMPT + o->n ? o->prompt : PROMPT + o->n;
    float *logits = malloc(eng_info(e)->n_vocab * sizeof *logits);
    int r = logits ? snap_init(s, e) : -ENOMEM;

    if (o->depth && o->depth + o->n > need)
        need = o->depth + o->n;
    if (r == 0 && need > eng_info(e)->ctx_max)
        r = err_set(eb, E_LIMIT, "%llu tokens are needed, the model's context is %u",
                    (unsigned long long)need, eng_info(e)->ctx_max);
    if (r == 0)
        r = snap_room(s, e, need);
    for (uint64_t i = 0; r == 0 && i < need; i++)
        s->ids[i] = (int32_t)((i * 7919 + 100) % eng_info(e)->n_vocab);
    if (r == 0)
        r = measure(e, o, s, 0, o->prompt, PREFILL_STEP, logits, &res->prefill);
    if (r == 0)
        r = measure(e, o, s, PROMPT, PROMPT + o->n, 1, logits, &res->decode);
    if (r == 0 && o->depth)
        r = run(e, s, 0, o->depth, PREFILL_STEP, logits);
    if (r == 0 && o->depth)
        r = measure(e, o, s, o->depth, o->depth + o->n, 1, logits, &res->deep);
    free(logits);
    return r;
}

int bench_model(int argc, char **argv)
{
    struct opts o = {.prompt = 512, .n = 64, .reps = 5};
    struct results res = {0};
    struct errbuf eb = {""};
    struct engine *e = NULL;
    struct snap s = {0};
    int r = parse(&o, argc, argv);

    if (r)
        return r;
    if (access(o.model, F_OK) < 0 && errno == ENOENT) {
        fprintf(stderr, "hearth-bench: no such model: %s\n", o.model);
        return 4;
    }
    /* Before the engine: its idle workers may still be spinning down. */
    res.threads = o.threads ? o.threads : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    res.bandwidth = membw_read(res.threads);
    struct eng_opts eo = {
        .path = o.model, .threads = res.threads, .kern = o.kern, .plain_c = o.plain_c};
    r = eng_open(&e, &eo, &eb);
    if (r == 0)
        r = work(e, &o, &s, &res, &eb);
    if (r == 0 && o.json)
        print_json(e, &o, &res);
    else if (r == 0)
        print_text(e, &o, &res);
    if (e)
        snap_fini(&s, e);
    eng_close(e);
    if (r < 0)
        fprintf(stderr, "hearth-bench: %s\n", eb.s[0] ? eb.s : err_str(r));
    return r < 0;
}
