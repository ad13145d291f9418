/* weight.c - weight handles of the cpu backend, and look-ups by row.
 *
 * A re-laid matrix is a copy in huge pages; a mapped one stays where it lies and is laid out
 * strip by strip each time it is used: slow for one row, but the same bits. */
#include "base/check.h"
#include "kernels/cpu/cpu.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void cpu_weight_free(struct kern *kern, struct k_weight *w)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    if (!w)
        return;
    k->n_weight--;
    if (w->lay)
        cpu_huge_drop(k, w->chunk);
    if (w->own_raw)
        free(w->raw);
    free(w->vec);
    free(w);
}

struct lay_job {
    struct kern_cpu *k;
    struct k_weight *w;
};

static void lay_some(void *ctx, uint32_t worker)
{
    struct lay_job *j = ctx;
    uint32_t from, to;
    while (cpu_share_take(&j->k->share, worker, &from, &to))
        cpu_lay_groups(&j->w->src, j->w->row_bytes, from, to - from,
                       j->w->lay + from * j->w->group_bytes);
}

static int lay_matrix(struct kern_cpu *k, struct k_weight *w, struct errbuf *eb)
{
    struct lay_job j = {.k = k, .w = w};
    uint64_t bytes = w->groups * w->group_bytes;

    if (!(w->lay = cpu_huge_take(k, bytes, &w->chunk)))
        return err_set(eb, -ENOMEM, "%s: no memory for %llu bytes of weights", w->src.name,
                       (unsigned long long)bytes);
    w->bytes += bytes;
    cpu_share_init(&k->share, w->groups, 8, k->threads);
    cpu_pool_run(k->pool, lay_some, &j);
    return 0;
}

int cpu_weight(struct kern *kern, struct k_weight **ret, const struct k_weight_src *src,
               uint32_t use, enum k_residency res, struct errbuf *eb)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    const struct k_type_info *ti = k_type_info(src->type);
    struct k_weight *w;
    int r = 0;

    if (!ti)
        return err_set(eb, E_UNSUPP, "%s: type %d is unknown", src->name, (int)src->type);
    if (!src->rows || !src->cols || src->cols % ti->block)
        return err_set(eb, E_SHAPE, "%s: %u rows of %u columns; %s needs a multiple of %u",
                       src->name, src->rows, src->cols, ti->name, ti->block);
    if ((use & K_USE_VECTOR) && src->rows != 1)
        return err_set(eb, E_SHAPE, "%s: a vector of %u rows, want 1", src->name, src->rows);
    if (!(w = calloc(1, sizeof *w)))
        return err_set(eb, -ENOMEM, "%s: no memory", src->name);
    k->n_weight++;
    w->src = *src;
    w->row_bytes = (uint64_t)src->cols / ti->block * ti->block_bytes;
    w->groups = (src->rows + CPU_ROWS - 1) / CPU_ROWS;
    w->group_bytes = cpu_lay_group_bytes(src->type, src->cols);

    if (use & K_USE_VECTOR) {
        if ((w->vec = malloc((size_t)src->cols * 4)))
            k_dequant_row(src->type, src->data, w->vec, src->cols);
        else
            r = err_set(eb, -ENOMEM, "%s: no memory for %u floats", src->name, src->cols);
        w->bytes += (uint64_t)src->cols * 4;
    }
    if (r == 0 && res == K_RES_RELAID && (use & K_USE_MATMUL))
        r = lay_matrix(k, w, eb);
    if (r == 0 && (res == K_RES_MAPPED || !(use & (K_USE_MATMUL | K_USE_VECTOR)))) {
        w->raw = (uint8_t *)(uintptr_t)src->data;
        if (res == K_RES_RELAID) { /* rows for look-ups only: a plain copy serves them best */
            w->bytes += src->rows * w->row_bytes;
            w->own_raw = (w->raw = malloc(src->rows * w->row_bytes)) != NULL;
            if (w->own_raw)
                memcpy(w->raw, src->data, src->rows * w->row_bytes);
            else
                r = err_set(eb, -ENOMEM, "%s: no memory for %llu bytes", src->name,
                            (unsigned long long)(src->rows * w->row_bytes));
        }
    }
    if (r < 0) {
        cpu_weight_free(kern, w);
        return r;
    }
    w->src.name = NULL;
    if (res == K_RES_RELAID)
        w->src.data = NULL;
    *ret = w;
    return 0;
}

uint64_t cpu_weight_bytes(const struct k_weight *w)
{
    return w->bytes;
}

/* --- look-ups -------------------------------------------------------------------------------- */
struct embed_job {
    struct kern_cpu *k;
    const struct k_embed *a;
};

static void embed_some(void *ctx, uint32_t worker)
{
    struct embed_job *j = ctx;
    const struct k_weight *w = j->a->w;
    uint32_t from, to;
    while (cpu_share_take(&j->k->share, worker, &from, &to))
        for (uint32_t i = from; i < to; i++) {
            uint32_t id = (uint32_t)j->a->ids[i];
            float *y = j->a->y + (size_t)i * w->src.cols;
            if (w->raw)
                k_dequant_row(w->src.type, w->raw + id * w->row_bytes, y, w->src.cols);
            else
                cpu_lay_row(w->src.type, w->lay + id / CPU_ROWS * w->group_bytes, id % CPU_ROWS,
                            y, w->src.cols);
        }
}

int cpu_embed(struct kern *kern, const struct k_embed *a)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    struct embed_job j = {.k = k, .a = a};
    if (!a->w->raw && !a->w->lay)
        return -EINVAL;
    for (uint32_t i = 0; i < a->n; i++)
        if (a->ids[i] < 0 || (uint32_t)a->ids[i] >= a->w->src.rows)
            return -EINVAL;
    cpu_share_init(&k->share, a->n, 8, k->threads);
    if (a->n > 8)
        cpu_pool_run(k->pool, embed_some, &j);
    else
        cpu_pool_alone(embed_some, &j);
    return 0;
}
