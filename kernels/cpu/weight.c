/* weight.c - weight handles of the cpu backend, and look-ups by row.
 *
 * A re-laid matrix is a copy in huge pages; a mapped one stays where it lies and is laid out
 * strip by strip each time it is used: slow for one row, but the same bits. */
#include "base/bytes.h"
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

/* A source that must be read comes in pieces that stay in a core's cache until they are laid
 * out, so that the copy costs little.  All workers take the next piece of one run: the file is
 * read in its order, and while one waits for the disk another lays out. */
enum { PIECE_BYTES = 256 << 10 };
struct lay_result {
    int r;
    struct errbuf eb;
};
struct lay_job {
    struct kern_cpu *k;
    struct k_weight *w;
    uint8_t *piece; /* one a worker, NULL: the source is in memory */
    uint64_t piece_bytes;
    struct lay_result *result; /* by worker */
};

static void lay_some(void *ctx, uint32_t worker)
{
    struct lay_job *j = ctx;
    uint32_t from, to;
    while (cpu_share_take(&j->k->share, worker, &from, &to))
        cpu_lay_groups(&j->w->src, j->w->row_bytes, from, to - from,
                       j->w->lay + from * j->w->group_bytes);
}

static void read_some(void *ctx, uint32_t worker)
{
    struct lay_job *j = ctx;
    const struct k_weight *w = j->w;
    struct k_weight_src part = w->src;
    struct lay_result *res = &j->result[worker];
    uint32_t from, to;

    part.data = j->piece + worker * j->piece_bytes;
    while (cpu_share_take(&j->k->share, 0, &from, &to)) {
        uint64_t first = (uint64_t)from * CPU_ROWS, end = (uint64_t)to * CPU_ROWS;
        part.rows = (uint32_t)((end < w->src.rows ? end : w->src.rows) - first);
        res->r = part.read(part.ctx, first * w->row_bytes, (void *)(uintptr_t)part.data,
                           part.rows * w->row_bytes, &res->eb);
        if (res->r < 0) {
            cpu_share_stop(&j->k->share);
            return;
        }
        cpu_lay_groups(&part, w->row_bytes, 0, to - from, w->lay + from * w->group_bytes);
    }
}

static int read_matrix(struct lay_job *j, struct errbuf *eb)
{
    struct kern_cpu *k = j->k;
    uint64_t each = CPU_ROWS * j->w->row_bytes;
    uint32_t chunk = each < PIECE_BYTES ? (uint32_t)(PIECE_BYTES / each) : 1;
    int r = 0;

    chunk = chunk < j->w->groups ? chunk : j->w->groups;
    j->piece_bytes = chunk * each;
    j->piece = malloc(j->piece_bytes * k->threads);
    j->result = calloc(k->threads, sizeof *j->result);
    if (!j->piece || !j->result)
        r = err_set(eb, -ENOMEM, "%s: no memory for %u pieces of %llu bytes", j->w->src.name,
                    k->threads, (unsigned long long)j->piece_bytes);
    if (r == 0) {
        cpu_share_init(&k->share, j->w->groups, chunk, 1);
        cpu_pool_run(k->pool, read_some, j);
    }
    for (uint32_t i = 0; r == 0 && i < k->threads; i++)
        if (j->result[i].r < 0)
            r = err_set(eb, j->result[i].r, "%s", j->result[i].eb.s);
    free(j->piece);
    free(j->result);
    return r;
}

static int lay_matrix(struct kern_cpu *k, struct k_weight *w, struct errbuf *eb)
{
    struct lay_job j = {.k = k, .w = w};
    uint64_t bytes = w->groups * w->group_bytes;

    if (!(w->lay = cpu_huge_take(k, bytes, &w->chunk)))
        return err_set(eb, -ENOMEM, "%s: no memory for %llu bytes of weights", w->src.name,
                       (unsigned long long)bytes);
    w->bytes += bytes;
    if (!w->src.data)
        return read_matrix(&j, eb);
    cpu_share_init(&k->share, w->groups, 8, k->threads);
    cpu_pool_run(k->pool, lay_some, &j);
    return 0;
}

/* Norms: floats of the only row. */
static int take_vector(struct k_weight *w, struct errbuf *eb)
{
    void *row = malloc(w->row_bytes);
    int r = 0;

    w->vec = malloc((size_t)w->src.cols * 4);
    if (!row || !w->vec)
        r = err_set(eb, -ENOMEM, "%s: no memory for %u floats", w->src.name, w->src.cols);
    if (r == 0)
        r = k_src_read(&w->src, 0, row, w->row_bytes, eb);
    if (r == 0)
        k_dequant_row(w->src.type, row, w->vec, w->src.cols);
    w->bytes += (uint64_t)w->src.cols * 4;
    free(row);
    return r;
}

/* Rows for look-ups only: a plain copy serves them best. */
static int take_rows(struct k_weight *w, struct errbuf *eb)
{
    uint64_t bytes = w->src.rows * w->row_bytes;

    if (!(w->raw = malloc(bytes)))
        return err_set(eb, -ENOMEM, "%s: no memory for %llu bytes", w->src.name,
                       (unsigned long long)bytes);
    w->own_raw = true;
    w->bytes += bytes;
    return k_src_read(&w->src, 0, w->raw, bytes, eb);
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
    if (!src->data && (res == K_RES_MAPPED || !src->read))
        return err_set(eb, -EINVAL, "%s: weights used as they lie must lie in memory",
                       src->name);
    if (!(w = calloc(1, sizeof *w)))
        return err_set(eb, -ENOMEM, "%s: no memory", src->name);
    k->n_weight++;
    w->src = *src;
    w->row_bytes = (uint64_t)src->cols / ti->block * ti->block_bytes;
    w->groups = (src->rows + CPU_ROWS - 1) / CPU_ROWS;
    w->group_bytes = cpu_lay_group_bytes(src->type, src->cols);

    if (use & K_USE_VECTOR)
        r = take_vector(w, eb);
    if (r == 0 && res == K_RES_MAPPED)
        w->raw = (uint8_t *)(uintptr_t)src->data;
    else if (r == 0 && (use & K_USE_MATMUL))
        r = lay_matrix(k, w, eb);
    else if (r == 0 && !(use & K_USE_VECTOR))
        r = take_rows(w, eb);
    if (r < 0) {
        cpu_weight_free(kern, w);
        return r;
    }
    w->src.name = NULL;
    w->src.read = NULL;
    w->src.ctx = NULL;
    if (res == K_RES_RELAID)
        w->src.data = NULL;
    *ret = w;
    return 0;
}

uint64_t cpu_weight_bytes(const struct k_weight *w)
{
    return w->bytes;
}

uint64_t cpu_weight_need(enum k_type t, uint64_t rows, uint64_t cols, uint32_t use)
{
    const struct k_type_info *ti = k_type_info(t);
    const struct cpu_lay *l = cpu_lay(t);
    uint64_t vec = 0, n = 0;
    bool ok = true;

    if (use & K_USE_VECTOR)
        ok = mul_ok(cols, 4, &vec);
    if (use & K_USE_MATMUL) {
        uint64_t groups = rows / CPU_ROWS + (rows % CPU_ROWS != 0);
        uint64_t part = l ? l->head + (uint64_t)l->per * l->unit : CPU_ROWS * ti->block_bytes;
        ok = ok && mul_ok(l ? cols / 32 / l->per : cols, part, &n) && mul_ok(n, groups, &n);
    } else if (!(use & K_USE_VECTOR)) {
        ok = ok && mul_ok(cols / ti->block, ti->block_bytes, &n) && mul_ok(n, rows, &n);
    }
    return ok && add_ok(n, vec, &n) ? n : UINT64_MAX;
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
