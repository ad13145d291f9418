/* weights.c - see weights.h. */
#include "engine/weights.h"
#include "base/bytes.h"
#include "base/check.h"
#include "engine/gguf.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int weights_init(struct weights *w, const struct gguf *g, struct kern *k,
                 const struct kern_ops *ops)
{
    uint32_t n = gguf_n_tensors(g);

    w->g = g;
    w->k = k;
    w->ops = ops;
    /* One handle a tensor is the most a family can take. */
    w->cap = n;
    w->w = calloc((size_t)n + 1, sizeof *w->w);
    w->used = calloc((size_t)n + 1, sizeof *w->used);
    if (!w->w || !w->used)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++)
        w->total += gguf_tensor_at(g, i)->bytes;
    return 0;
}

uint64_t weights_need(const struct gguf *g, const struct kern_ops *ops)
{
    uint64_t all = 0;

    for (uint32_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        /* The product of the dimensions was checked when the file was opened. */
        uint64_t rows = t->dims[1] * t->dims[2] * t->dims[3];
        uint64_t n = ops->weight_need(t->type, rows, t->dims[0],
                                      t->n_dims == 1 ? K_USE_VECTOR : K_USE_MATMUL);
        if (!add_ok(all, n, &all))
            return UINT64_MAX;
    }
    return all;
}

void weights_fini(struct weights *w)
{
    for (uint32_t i = 0; i < w->n; i++)
        w->ops->weight_free(w->k, w->w[i]);
    free(w->w);
    free(w->used);
    memset(w, 0, sizeof *w);
}

bool weights_has(const struct weights *w, const char *name)
{
    return gguf_tensor(w->g, name) != NULL;
}

static void mark(struct weights *w, const struct gguf_tensor *t)
{
    w->used[t - gguf_tensor_at(w->g, 0)] = true;
    w->done += t->bytes;
    if (w->progress)
        w->progress(w->progress_ctx, w->done, w->total);
}

static int find(const struct weights *w, const char *name, uint32_t rows, uint32_t cols,
                const struct gguf_tensor **ret, struct errbuf *eb)
{
    const struct gguf_tensor *t = gguf_tensor(w->g, name);

    if (!t)
        return err_set(eb, E_SHAPE, "tensor %s is missing", name);
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1)
        return err_set(
            eb, E_SHAPE, "tensor %s is [%llu][%llu][%llu][%llu], the model needs [%u][%u]",
            name, (unsigned long long)t->dims[3], (unsigned long long)t->dims[2],
            (unsigned long long)t->dims[1], (unsigned long long)t->dims[0], rows, cols);
    *ret = t;
    return 0;
}

/* A tensor as its backend reads it. */
struct tensor_of {
    const struct gguf *g;
    const struct gguf_tensor *t;
};
/* One value that is no number spoils every answer it takes part in, and the reader of a
 * quantised row may hide it: what holds one is not a model.  Backends read whole rows. */
static int read_tensor(void *ctx, uint64_t off, void *to, uint64_t bytes, struct errbuf *eb)
{
    const struct tensor_of *of = ctx;
    const struct k_type_info *ti = k_type_info(of->t->type);
    uint64_t n = bytes / ti->block_bytes, bad;
    int r = gguf_read(of->g, of->t, off, to, bytes, eb);

    must(off % ti->block_bytes == 0 && bytes % ti->block_bytes == 0);
    if (r < 0 || (bad = k_not_finite(of->t->type, to, n)) == n)
        return r;
    uint64_t at = (off / ti->block_bytes + bad) * ti->block;
    return err_set(eb, E_CORRUPT,
                   "row %llu has NaN or infinity at column %llu%s: the file is damaged, or its "
                   "conversion went wrong",
                   (unsigned long long)(at / of->t->dims[0]),
                   (unsigned long long)(at % of->t->dims[0]),
                   ti->block > 1 ? " (the scale of a block)" : "");
}

static int make(struct weights *w, const struct k_weight_src *src, uint32_t use,
                struct k_weight **ret, struct errbuf *eb)
{
    struct errbuf why = {""};
    must(w->n < w->cap);
    int r = w->ops->weight(w->k, &w->w[w->n], src, use, K_RES_RELAID, &why);

    if (r < 0)
        return err_set(eb, r, "tensor %s: %s", src->name, why.s[0] ? why.s : err_str(r));
    w->bytes += w->ops->weight_bytes(w->w[w->n]);
    if (use == K_USE_EMBED)
        w->lookup_bytes += w->ops->weight_bytes(w->w[w->n]);
    *ret = w->w[w->n++];
    return 0;
}

int weights_take(struct weights *w, const char *name, uint32_t rows, uint32_t cols,
                 uint32_t use, struct k_weight **ret, struct errbuf *eb)
{
    const struct gguf_tensor *t = NULL;
    int r = find(w, name, rows, cols, &t, eb);

    if (r < 0)
        return r;
    struct tensor_of of = {w->g, t};
    struct k_weight_src src = {.name = name,
                               .type = t->type,
                               .rows = rows,
                               .cols = cols,
                               .read = read_tensor,
                               .ctx = &of};
    r = make(w, &src, use, ret, eb);
    if (r == 0)
        mark(w, t);
    return r;
}

int weights_take_floats(struct weights *w, const char *name, uint32_t n, float *dst,
                        struct errbuf *eb)
{
    const struct gguf_tensor *t = NULL;
    int r = find(w, name, 1, n, &t, eb);

    if (r < 0)
        return r;
    struct errbuf why = {""};
    struct tensor_of of = {w->g, t};
    void *row = malloc(t->bytes);
    r = row ? read_tensor(&of, 0, row, t->bytes, &why) : -ENOMEM;
    if (r == 0) {
        k_dequant_row(t->type, row, dst, n);
        mark(w, t);
    } else {
        err_set(eb, r, "tensor %s: %s", name, why.s[0] ? why.s : err_str(r));
    }
    free(row);
    return r;
}

int weights_take_bias(struct weights *w, const char *name, uint32_t rows, struct k_weight **ret,
                      struct errbuf *eb)
{
    float *m = calloc((size_t)rows * BIAS_COLS, sizeof *m), *v = calloc(rows, sizeof *v);
    int r = m && v ? weights_take_floats(w, name, rows, v, eb) : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < rows; i++)
        m[(size_t)i * BIAS_COLS] = v[i];
    if (r == 0) {
        struct k_weight_src src = {
            .name = name, .data = m, .type = K_F32, .rows = rows, .cols = BIAS_COLS};
        r = make(w, &src, K_USE_MATMUL, ret, eb);
    }
    free(m);
    free(v);
    return r;
}

void weights_skip(struct weights *w, const char *name)
{
    const struct gguf_tensor *t = gguf_tensor(w->g, name);

    if (t)
        mark(w, t);
}

int weights_all_used(const struct weights *w, struct errbuf *eb)
{
    for (uint32_t i = 0; i < gguf_n_tensors(w->g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(w->g, i);
        if (!w->used[i])
            return err_set(
                eb, E_UNSUPP,
                "tensor %.*s is not part of this architecture as it is supported here; "
                "ignoring it would change the model",
                (int)t->name.bytes, t->name.p);
    }
    return 0;
}
