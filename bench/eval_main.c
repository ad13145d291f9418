/* eval_main.c - hearth-eval: the engine without the daemon; logits and perplexity of a text. */
#include "base/bounds.h"
#include "base/clock.h"
#include "bench/snapshot.h"
#include "engine/engine.h"
#include "engine/tokenizer.h"
#include "kernels/kern.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_USAGE_ = 2, EXIT_NO_MODEL = 4, CHUNK_DEFAULT = 512 };

struct args {
    const char *model, *ids, *text, *logits, *from, *save;
    uint32_t chunk;
    struct eng_opts eng;
};

static const char usage_text[] =
    "usage: hearth-eval MODEL (--ids FILE | --text FILE) [--logits OUT] [--chunk N]\n"
    "         [--threads N] [--device auto|cpu|cuda:N] [--backend ref|cpu|cpu-c]\n"
    "         [--rows f16|f32] [--act f32|q8] [--from SNAPSHOT] [--save SNAPSHOT] [--json]\n";

static int usage(const char *why, const char *what)
{
    fprintf(stderr, "hearth-eval: %s%s\n%s", why, what ? what : "", usage_text);
    return EXIT_USAGE_;
}
static int failed(const char *what)
{
    fprintf(stderr, "hearth-eval: %s\n", what);
    return 1;
}

static bool number(const char *s, uint32_t lo, uint32_t hi, uint32_t *ret)
{
    char *end = NULL;
    unsigned long long v;

    errno = 0;
    v = strtoull(s, &end, 10);
    if (errno || end == s || *end || s[0] == '-' || v < lo || v > hi)
        return false;
    *ret = (uint32_t)v;
    return true;
}

/* One option with its value; NULL or what is wrong with it. */
static const char *option(struct args *a, const char *o, const char *v, bool *act_given)
{
    const struct {
        const char *name;
        const char **to;
    } paths[] = {{"--ids", &a->ids},
                 {"--text", &a->text},
                 {"--logits", &a->logits},
                 {"--from", &a->from},
                 {"--save", &a->save}};

    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (strcmp(o, paths[i].name) == 0) {
            *paths[i].to = v;
            return NULL;
        }
    if (strcmp(o, "--chunk") == 0)
        return number(v, 1, STEP_TOKENS_MAX, &a->chunk) ? NULL
                                                        : "--chunk takes 1 to 8192, not ";
    if (strcmp(o, "--threads") == 0)
        return number(v, 1, 1024, &a->eng.threads) ? NULL : "--threads takes 1 to 1024, not ";
    if (strcmp(o, "--device") == 0) {
        if (strncmp(v, "cuda:", 5) == 0 && v[5])
            a->eng.kern = &kern_cuda;
        else if (strcmp(v, "cpu") != 0 && strcmp(v, "auto") != 0)
            return "--device takes auto, cpu or cuda:N, not ";
        return NULL;
    }
    if (strcmp(o, "--backend") == 0) {
        if (strcmp(v, "ref") == 0)
            a->eng.kern = &kern_ref;
        else if (strcmp(v, "cpu") == 0 || strcmp(v, "cpu-c") == 0)
            a->eng.kern = &kern_cpu;
        else
            return "--backend takes ref, cpu or cpu-c, not ";
        a->eng.plain_c = strcmp(v, "cpu-c") == 0;
        return NULL;
    }
    if (strcmp(o, "--rows") == 0) {
        a->eng.rows_f32 = strcmp(v, "f32") == 0;
        return a->eng.rows_f32 || strcmp(v, "f16") == 0 ? NULL
                                                        : "--rows takes f16 or f32, not ";
    }
    if (strcmp(o, "--act") == 0) {
        *act_given = a->eng.act_f32 = strcmp(v, "f32") == 0;
        return a->eng.act_f32 || strcmp(v, "q8") == 0 ? NULL : "--act takes f32 or q8, not ";
    }
    return "unknown option ";
}

static int parse(struct args *a, int argc, char **argv)
{
    bool act = false;

    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-') {
            if (a->model)
                return usage("one model only, not also ", argv[i]);
            a->model = argv[i];
            continue;
        }
        if (strcmp(argv[i], "--json") == 0)
            continue; /* there is no other output; every program takes it */
        const char *v = i + 1 < argc ? argv[i + 1] : NULL;
        const char *why = v ? option(a, argv[i], v, &act) : NULL;
        if (!v)
            return usage("unknown option, or one without its value: ", argv[i]);
        if (why)
            return usage(why, strcmp(why, "unknown option ") == 0 ? argv[i] : v);
        i++;
    }
    if (!a->model)
        return usage("which model?", NULL);
    if (!a->ids == !a->text)
        return usage("exactly one of --ids and --text is needed", NULL);
    if (act && a->eng.kern != &kern_ref)
        return usage("--act f32 needs --backend ref", NULL);
    return 0;
}

static int read_file(const char *path, uint8_t **ret, size_t *ret_n, struct errbuf *eb)
{
    FILE *f = fopen(path, "rb");
    size_t cap = 1 << 16, n = 0, got;
    uint8_t *p = f ? malloc(cap) : NULL;

    if (!f)
        return err_set(eb, -errno, "%s: %s", path, strerror(errno));
    while (p && (got = fread(p + n, 1, cap - n, f)) > 0) {
        n += got;
        if (n == cap) {
            uint8_t *q = realloc(p, cap *= 2);
            if (!q)
                free(p);
            p = q;
        }
    }
    int r = !p ? -ENOMEM : ferror(f) ? -EIO : 0;
    fclose(f);
    if (r < 0) {
        free(p);
        return err_set(eb, r, "%s: %s", path, err_str(r));
    }
    *ret = p;
    *ret_n = n;
    return 0;
}

/* Appends the input's tokens to s, which has room for one context. */
static int read_input(const struct args *a, struct engine *e, struct snap *s, struct errbuf *eb)
{
    const char *path = a->ids ? a->ids : a->text;
    struct tok_ids ids = {0};
    uint8_t *p = NULL;
    size_t n = 0;
    int r = read_file(path, &p, &n, eb);

    if (r < 0)
        return r;
    if (a->text) {
        r = tok_encode(eng_tokenizer(e), (const char *)p, n, NULL, s->n == 0, &ids);
        if (r < 0)
            err_set(eb, r, "%s: cannot tokenise: %s", path, err_str(r));
    } else if (n % 4) {
        r = err_set(eb, -EINVAL, "%s: %zu bytes are not a whole number of int32 ids", path, n);
    }
    const int32_t *v = a->text ? ids.p : (const int32_t *)(const void *)p;
    n = a->text ? ids.n : n / 4;
    if (r == 0 && n > eng_info(e)->ctx_max - s->n)
        r = err_set(eb, E_LIMIT, "%s: %zu tokens after %llu, the context is %u", path, n,
                    (unsigned long long)s->n, eng_info(e)->ctx_max);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (v[i] < 0 || (uint32_t)v[i] >= eng_info(e)->n_vocab)
            r = err_set(eb, -EINVAL, "%s: token %zu is %d, the vocabulary is 0 to %u", path, i,
                        v[i], eng_info(e)->n_vocab - 1);
    if (r == 0 && n)
        memcpy(s->ids + s->n, v, n * sizeof *v);
    if (r == 0)
        s->n += n;
    tok_ids_fini(&ids);
    free(p);
    return r;
}

static double nll(const float *logits, uint32_t n, int32_t id)
{
    double max = logits[0], sum = 0;

    for (uint32_t i = 1; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    return log(sum) + max - logits[id];
}

struct result {
    double nll, seconds;
    uint64_t predicted;
};

static int evaluate(struct engine *e, const struct args *a, const struct snap *s, uint64_t from,
                    FILE *out, struct result *ret, struct errbuf *eb)
{
    uint32_t nv = eng_info(e)->n_vocab;
    float *logits = malloc((uint64_t)a->chunk * nv * sizeof *logits);
    int r =
        logits ? 0 : err_set(eb, -ENOMEM, "no memory for the logits of %u tokens", a->chunk);

    for (uint64_t at = from; r == 0 && at < s->n;) {
        uint32_t n = s->n - at < a->chunk ? (uint32_t)(s->n - at) : a->chunk;
        struct eng_seq q = {.tokens = s->ids + at,
                            .n = n,
                            .pos = at,
                            .pages = {s->pages[0], s->pages[1], NULL},
                            .n_pages = s->n_pages,
                            .n_logits = n,
                            .logits = logits};
        struct eng_step st = {.seq = &q, .n_seqs = 1};
        uint64_t t0 = now_ns();
        r = eng_step(e, &st);
        r = r == 0 ? q.res : r;
        ret->seconds += (double)(now_ns() - t0) / 1e9;
        if (r < 0)
            err_set(eb, r, "step at token %llu: %s", (unsigned long long)at, err_str(r));
        else if (out && fwrite(logits, (size_t)nv * sizeof *logits, n, out) != n)
            r = err_set(eb, -errno, "%s: %s", a->logits, strerror(errno));
        for (uint32_t i = 0; r == 0 && i < n && at + i + 1 < s->n; i++) {
            ret->nll += nll(logits + (uint64_t)i * nv, nv, s->ids[at + i + 1]);
            ret->predicted++;
        }
        at += n;
    }
    free(logits);
    return r;
}

static int work(struct engine *e, const struct args *a, struct snap *s, struct errbuf *eb)
{
    uint8_t weights[16], fp[32];
    struct result res = {0};
    FILE *out = NULL;
    uint64_t from = 0;
    int r = snap_init(s, e);

    if (r == 0 && (a->from || a->save))
        r = eng_weights_id(a->model, NULL, weights, eb);
    if (r == 0 && (a->from || a->save))
        eng_fingerprint(e, weights, fp);
    if (r == 0 && a->from)
        r = snap_load(s, e, fp, a->from, eb);
    from = s->n;
    if (r == 0)
        r = read_input(a, e, s, eb);
    if (r == 0 && snap_room(s, e, s->n) < 0)
        r = err_set(eb, -EAGAIN, "%llu tokens do not fit the page pool",
                    (unsigned long long)s->n);
    if (r == 0 && a->logits && !(out = fopen(a->logits, "wb")))
        r = err_set(eb, -errno, "%s: %s", a->logits, strerror(errno));
    if (r == 0)
        r = evaluate(e, a, s, from, out, &res, eb);
    if (out && fclose(out) != 0 && r == 0)
        r = err_set(eb, -errno, "%s: %s", a->logits, strerror(errno));
    if (r == 0 && a->save)
        r = snap_save(s, e, fp, a->save, eb);
    if (r < 0)
        return r;
    printf("{\"tokens\":%llu,\"perplexity\":", (unsigned long long)(s->n - from));
    if (res.predicted && isfinite(res.nll))
        printf("%.6f", exp(res.nll / (double)res.predicted));
    else
        printf("null");
    printf(",\"prefill_tok_s\":%.1f,\"from\":%llu,\"backend\":\"%s\",\"epoch\":\"%016llx\"}\n",
           res.seconds > 0 ? (double)(s->n - from) / res.seconds : 0, (unsigned long long)from,
           eng_info(e)->backend, (unsigned long long)eng_info(e)->epoch);
    return 0;
}

int main(int argc, char **argv)
{
    struct args a = {.chunk = CHUNK_DEFAULT};
    struct engine *e = NULL;
    struct snap s = {0};
    struct errbuf eb = {""};

    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(usage_text, stdout);
        return 0;
    }
    int r = parse(&a, argc, argv);
    if (r)
        return r;
    if (access(a.model, F_OK) < 0 && errno == ENOENT) {
        fprintf(stderr, "hearth-eval: no such model: %s\n", a.model);
        return EXIT_NO_MODEL;
    }
    a.eng.path = a.model;
    r = eng_open(&e, &a.eng, &eb);
    if (r < 0)
        return failed(eb.s);
    r = work(e, &a, &s, &eb);
    snap_fini(&s, e);
    eng_close(e);
    return r < 0 ? failed(eb.s[0] ? eb.s : err_str(r)) : 0;
}
