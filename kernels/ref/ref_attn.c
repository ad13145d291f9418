/* ref_attn.c - oracle: rotation, row store, attention. */
#include "kernels/num.h"
#include "kernels/ref/ref.h"
#include "kernels/rows.h"
#include <errno.h>
#include <stdlib.h>

static void store(struct kern_ref *k, const struct k_rows *rows, void *to, const float *x,
                  uint32_t dim)
{
    bool clipped = false;
    for (uint32_t i = 0; i < dim; i++) {
        if (rows->fmt == K_ROW_F16) {
            uint16_t h = num_to_f16(x[i], &clipped);
            memcpy((uint8_t *)to + 2 * (size_t)i, &h, 2);
        } else {
            memcpy((uint8_t *)to + 4 * (size_t)i, &x[i], 4);
        }
    }
    k->saturations += clipped;
}

static float load(const struct k_rows *rows, const void *from, uint32_t i)
{
    float f;
    uint16_t h;
    if (rows->fmt == K_ROW_F16) {
        memcpy(&h, (const uint8_t *)from + 2 * (size_t)i, 2);
        return num_f16(h);
    }
    memcpy(&f, (const uint8_t *)from + 4 * (size_t)i, 4);
    return f;
}

static void rotate(float *x, uint64_t pos, const struct k_rope_store *a)
{
    uint32_t half = a->rope_dims / 2;
    for (uint32_t i = 0; i < half && a->kind != K_ROPE_NONE; i++) {
        uint32_t p = a->kind == K_ROPE_PAIRS ? 2 * i : i,
                 q = a->kind == K_ROPE_PAIRS ? 2 * i + 1 : i + half;
        float angle = (float)pos * a->inv_freq[i];
        double s, c, u = x[p], v = x[q];
        num_sincos(angle, &s, &c);
        x[p] = (float)((u * c - v * s) * a->mscale);
        x[q] = (float)((u * s + v * c) * a->mscale);
    }
}

int ref_rope_store(struct kern *kern, const struct k_rope_store *a)
{
    struct kern_ref *k = (struct kern_ref *)kern;
    int r = rows_check_store(a);
    if (r < 0)
        return r;
    float *t = malloc((size_t)a->head_dim * 4);
    if (!t)
        return -ENOMEM;
    for (uint32_t s = 0; s < a->n_seqs; s++)
        for (uint32_t i = 0; i < a->seq[s].n; i++) {
            const struct k_seq *q = &a->seq[s];
            uint64_t tok = q->first + i, pos = q->pos + i;
            for (uint32_t h = 0; h < a->n_head; h++)
                rotate(a->q + (tok * a->n_head + h) * a->head_dim, pos, a);
            for (uint32_t h = 0; h < a->n_kv_head && pos >= q->store_from; h++) {
                size_t at = (tok * a->n_kv_head + h) * a->head_dim;
                memcpy(t, a->k + at, (size_t)a->head_dim * 4);
                rotate(t, pos, a);
                store(k, &a->krows, rows_at(&a->krows, q, pos, h), t, a->head_dim);
                store(k, &a->vrows, rows_at(&a->vrows, q, pos, h), a->v + at, a->head_dim);
            }
        }
    free(t);
    return 0;
}

/* One query, all sources: scores, their maximum, then weights and sums. */
static void attend(const struct k_attn *a, const struct k_seq *q, uint64_t pos, uint32_t head,
                   const float *x, float *y, double *score, double *sum)
{
    uint32_t kv = head / (a->n_head / a->n_kv_head);
    double most = a->sink ? a->sink[head] : -1e300, den = 0;

    for (uint32_t s = 0; s < a->n_src; s++)
        for (uint64_t p = rows_from(&a->src[s], pos); p <= pos; p++) {
            const void *row = rows_at(&a->src[s].k, q, p, kv);
            double d = 0;
            for (uint32_t i = 0; i < a->head_dim; i++)
                d += (double)x[i] * load(&a->src[s].k, row, i);
            score[s * (pos + 1) + p] = d * a->scale;
            most = d * a->scale > most ? d * a->scale : most;
        }
    memset(sum, 0, a->head_dim * sizeof *sum);
    if (a->sink)
        den = num_exp(a->sink[head] - most);
    for (uint32_t s = 0; s < a->n_src; s++)
        for (uint64_t p = rows_from(&a->src[s], pos); p <= pos; p++) {
            const void *row = rows_at(&a->src[s].v, q, p, kv);
            double e = num_exp(score[s * (pos + 1) + p] - most);
            den += e;
            for (uint32_t i = 0; i < a->head_dim; i++)
                sum[i] += e * load(&a->src[s].v, row, i);
        }
    for (uint32_t i = 0; i < a->head_dim; i++)
        y[i] = (float)(sum[i] / den);
}

int ref_attn(struct kern *kern, const struct k_attn *a)
{
    uint64_t last = 0;
    int r = rows_check_attn(a);
    (void)kern;
    if (r < 0)
        return r;
    for (uint32_t s = 0; s < a->n_seqs; s++)
        if (a->seq[s].pos + a->seq[s].n > last)
            last = a->seq[s].pos + a->seq[s].n;
    double *score = malloc((last * a->n_src + 1) * sizeof *score),
           *sum = malloc(a->head_dim * sizeof *sum);
    if (!score || !sum)
        r = -ENOMEM;
    for (uint32_t s = 0; s < a->n_seqs && r == 0; s++)
        for (uint32_t i = 0; i < a->seq[s].n; i++)
            for (uint32_t h = 0; h < a->n_head; h++) {
                size_t at = ((size_t)(a->seq[s].first + i) * a->n_head + h) * a->head_dim;
                attend(a, &a->seq[s], a->seq[s].pos + i, h, a->q + at, a->y + at, score, sum);
            }
    free(score);
    free(sum);
    return r;
}
