/* mm.c - matmul, gated feed-forward and norm, driven over the pool.
 *
 * Threads share weight rows, never columns, so no sum is ever split.  One pass per matmul:
 * rows are normalised and quantised once (by the caller alone when they are few, since a
 * barrier costs more), then groups of all weights of the call are shared out.  The gated
 * feed-forward has two: gate and up of 32 hidden rows, activated and quantised at once by
 * whoever has them; then down. */
#include "base/check.h"
#include "kernels/cpu/cpu.h"
#include <errno.h>
#include <string.h>

enum { FEW = 8 }; /* rows that one thread prepares faster than a barrier takes */

struct input {
    struct kern_cpu *k;
    const float *x;
    const uint32_t *rows;
    uint32_t n, cols;
    const struct k_weight *norm;
    float eps;
    bool want_q, want_f;
    const float *xf; /* where the floats are in the end */
};

static void input_some(void *ctx, uint32_t worker)
{
    struct input *in = ctx;
    struct kern_cpu *k = in->k;
    uint32_t from, to, units = in->cols / 32;
    while (cpu_share_take(&in->k->share, worker, &from, &to))
        for (uint32_t i = from; i < to; i++) {
            const float *x = in->x + (size_t)(in->rows ? in->rows[i] : i) * in->cols;
            float *f = k->xf[0] + (size_t)i * in->cols;
            if (in->norm)
                k->vec->rms(x, in->norm->vec, f, in->cols, in->eps);
            else if (in->want_f && in->rows)
                memcpy(f, x, (size_t)in->cols * 4);
            if (in->want_q)
                k->vec->quant(in->norm ? f : x, k->xq[0] + (size_t)i * units, units);
        }
}

/* Fills xq[0] and, where float weights want it, in->xf. */
static int prepare(struct input *in)
{
    struct kern_cpu *k = in->k;
    if (in->norm && (!in->norm->vec || in->norm->src.cols != in->cols))
        return -EINVAL;
    in->xf = in->norm || in->rows ? k->xf[0] : in->x;
    if (!in->norm && !in->rows && !in->want_q)
        return 0;
    cpu_share_init(&in->k->share, in->n, FEW, k->threads);
    if (in->n > FEW)
        cpu_pool_run(k->pool, input_some, in);
    else
        cpu_pool_alone(input_some, in);
    return 0;
}

/* Rows of groups [g, g + n) of w, from wherever w lies. */
static void mm_groups(const struct kern_cpu *k, const struct cpu_worker *me,
                      const struct k_weight *w, uint32_t g, uint32_t n, struct cpu_mm *a)
{
    float *y = a->y;
    uint32_t rows = w->src.rows - g * CPU_ROWS;

    a->type = w->src.type;
    a->group_bytes = w->group_bytes;
    a->cols = w->src.cols;
    a->panel = me->panel;
    if (w->lay) {
        a->w = w->lay + g * w->group_bytes;
        a->groups = n;
        a->rows = rows;
        k->vec->mm(a);
        return;
    }
    for (uint32_t i = 0; i < n; i += 2) {
        a->groups = n - i < 2 ? 1 : 2;
        a->w = me->strip;
        a->rows = rows - i * CPU_ROWS;
        a->y = y + i * CPU_ROWS;
        cpu_lay_groups(&w->src, w->row_bytes, g + i, a->groups, me->strip);
        k->vec->mm(a);
    }
    a->y = y;
}

static uint32_t chunk_of(uint32_t groups, uint32_t threads)
{
    uint32_t c = groups / (threads * 8) / 2 * 2;
    return c < 2 ? 2 : c > 16 ? 16 : c;
}

struct matmul_job {
    struct kern_cpu *k;
    const struct k_matmul *a;
    const float *xf;
    uint32_t chunk, chunks[3];
};

static void matmul_some(void *ctx, uint32_t worker)
{
    struct matmul_job *j = ctx;
    const struct k_matmul *a = j->a;
    struct cpu_worker me;
    uint32_t from, to;

    cpu_worker(j->k, worker, &me);
    while (cpu_share_take(&j->k->share, worker, &from, &to)) {
        uint32_t i = 0, c = from;
        while (c >= j->chunks[i])
            c -= j->chunks[i++];
        const struct k_weight *w = a->w[i];
        uint32_t g = c * j->chunk, left = w->groups - g;
        struct cpu_mm m = {.xq = j->k->xq[0],
                           .xf = j->xf,
                           .n = a->n,
                           .y = a->y[i] + (size_t)g * CPU_ROWS,
                           .ldy = a->ldy[i] ? a->ldy[i] : w->src.rows,
                           .add = a->add};
        mm_groups(j->k, &me, w, g, left < j->chunk ? left : j->chunk, &m);
    }
}

int cpu_matmul(struct kern *kern, const struct k_matmul *a)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    struct matmul_job j = {.k = k, .a = a};
    uint32_t groups = 0, chunks = 0;
    int r;

    if (!a->n_w || a->n_w > 3)
        return -EINVAL;
    struct input in = {.k = k,
                       .x = a->x,
                       .rows = a->rows,
                       .n = a->n,
                       .norm = a->norm,
                       .eps = a->eps,
                       .cols = a->w[0]->src.cols};
    for (uint32_t i = 0; i < a->n_w; i++) {
        const struct k_weight *w = a->w[i];
        if (w->src.cols != in.cols || (!w->lay && !w->raw) ||
            (a->ldy[i] && a->ldy[i] < w->src.rows))
            return -EINVAL;
        bool quant = k_unit_info(w->src.type)->bits;
        in.want_q |= quant;
        in.want_f |= !quant;
        groups += w->groups;
    }
    if (!a->n)
        return 0;
    if ((r = cpu_reserve(k, a->n, in.cols)) < 0 || (r = prepare(&in)) < 0)
        return r;
    j.xf = in.xf;
    j.chunk = chunk_of(groups, k->threads);
    for (uint32_t i = 0; i < a->n_w; i++)
        chunks += j.chunks[i] = (a->w[i]->groups + j.chunk - 1) / j.chunk;
    cpu_share_init(&k->share, chunks, 1, k->threads);
    cpu_pool_run(k->pool, matmul_some, &j);
    return 0;
}

/* --- feed-forward ---------------------------------------------------------------------------- */
struct ffn_job {
    struct kern_cpu *k;
    const struct k_ffn *a;
    const float *xf;
    bool down_q;
};

/* Hidden rows by 32: four groups of gate and up give whole units of down's input. */
static void hidden_some(void *ctx, uint32_t worker)
{
    struct ffn_job *j = ctx;
    struct kern_cpu *k = j->k;
    const struct k_ffn *a = j->a;
    uint32_t from, to, hidden = a->gate->src.rows, cols = a->gate->src.cols;
    struct cpu_worker me;

    cpu_worker(k, worker, &me);
    while (cpu_share_take(&j->k->share, worker, &from, &to))
        for (uint32_t i = 0; i < a->n; i += CPU_FFN_TOKENS) {
            uint32_t n = a->n - i < CPU_FFN_TOKENS ? a->n - i : CPU_FFN_TOKENS;
            uint32_t g = from * 4, left = a->gate->groups - g, rows = hidden - from * 32;
            struct cpu_mm m = {.xq = k->xq[0] + (size_t)i * (cols / 32),
                               .xf = j->xf + (size_t)i * cols,
                               .n = n,
                               .ldy = 32};
            m.y = me.g;
            mm_groups(k, &me, a->gate, g, left < 4 ? left : 4, &m);
            m.y = me.u;
            mm_groups(k, &me, a->up, g, left < 4 ? left : 4, &m);
            rows = rows < 32 ? rows : 32;
            for (uint32_t t = 0; t < n; t++) {
                float *gt = me.g + 32 * t;
                k->vec->act(a->act, gt, me.u + 32 * t, gt, rows);
                if (j->down_q)
                    k->vec->quant(gt, k->xq[1] + (size_t)(i + t) * (hidden / 32) + from, 1);
                else
                    memcpy(k->xf[1] + (size_t)(i + t) * hidden + from * 32, gt, rows * 4);
            }
        }
}

static void down_some(void *ctx, uint32_t worker)
{
    struct ffn_job *j = ctx;
    const struct k_ffn *a = j->a;
    uint32_t from, to;
    struct cpu_worker me;

    cpu_worker(j->k, worker, &me);
    while (cpu_share_take(&j->k->share, worker, &from, &to)) {
        struct cpu_mm m = {.xq = j->k->xq[1],
                           .xf = j->k->xf[1],
                           .n = a->n,
                           .y = a->y + (size_t)from * CPU_ROWS,
                           .ldy = a->down->src.rows,
                           .add = a->add};
        mm_groups(j->k, &me, a->down, from, to - from, &m);
    }
}

int cpu_ffn(struct kern *kern, const struct k_ffn *a)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    const struct k_weight *w[3] = {a->gate, a->up, a->down};
    uint32_t hidden = a->gate->src.rows, cols = a->gate->src.cols;
    struct ffn_job j = {.k = k, .a = a, .down_q = k_unit_info(a->down->src.type)->bits};
    int r;

    for (int i = 0; i < 3; i++)
        if (!w[i]->lay && !w[i]->raw)
            return -EINVAL;
    if (a->up->src.rows != hidden || a->up->src.cols != cols || a->down->src.cols != hidden)
        return -EINVAL;
    struct input in = {
        .k = k, .x = a->x, .n = a->n, .norm = a->norm, .eps = a->eps, .cols = cols};
    for (int i = 0; i < 2; i++) {
        bool quant = k_unit_info(w[i]->src.type)->bits;
        in.want_q |= quant;
        in.want_f |= !quant;
    }
    if (!a->n)
        return 0;
    if ((r = cpu_reserve(k, a->n, cols > hidden ? cols : hidden)) < 0 || (r = prepare(&in)) < 0)
        return r;
    j.xf = in.xf;
    cpu_share_init(&k->share, (hidden + 31) / 32, 1, k->threads);
    cpu_pool_run(k->pool, hidden_some, &j);
    cpu_share_init(&k->share, a->down->groups, chunk_of(a->down->groups, k->threads),
                   k->threads);
    cpu_pool_run(k->pool, down_some, &j);
    return 0;
}

/* --- norm ------------------------------------------------------------------------------------- */
struct norm_job {
    struct kern_cpu *k;
    const struct k_norm *a;
};

static void norm_some(void *ctx, uint32_t worker)
{
    struct norm_job *j = ctx;
    const struct k_norm *a = j->a;
    uint32_t from, to;
    while (cpu_share_take(&j->k->share, worker, &from, &to))
        for (uint32_t i = from; i < to; i++)
            j->k->vec->rms(a->x + (size_t)i * a->cols, a->w->vec, a->y + (size_t)i * a->cols,
                           a->cols, a->eps);
}

int cpu_norm(struct kern *kern, const struct k_norm *a)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    struct norm_job j = {.k = k, .a = a};
    if (!a->w->vec || a->w->src.cols != a->cols)
        return -EINVAL;
    cpu_share_init(&k->share, a->n, FEW, k->threads);
    if (a->n > FEW)
        cpu_pool_run(k->pool, norm_some, &j);
    else
        cpu_pool_alone(norm_some, &j);
    return 0;
}
