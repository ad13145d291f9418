/* ref_mm.c - oracle: look-up, norm, matmul, gated feed-forward. */
#include "kernels/num.h"
#include "kernels/ref/ref.h"
#include "kernels/types.h"
#include <errno.h>
#include <stdlib.h>

/* Row r of w as floats: in place, or through tmp when the source is used as it lies. */
static const float *row_of(const struct k_weight *w, uint32_t r, float *tmp)
{
    if (w->f)
        return w->f + (size_t)r * w->cols;
    k_dequant_row(w->type, w->raw + r * w->row_bytes, tmp, w->cols);
    return tmp;
}

int ref_embed(struct kern *kern, const struct k_embed *a)
{
    (void)kern;
    for (uint32_t i = 0; i < a->n; i++) {
        if (a->ids[i] < 0 || (uint32_t)a->ids[i] >= a->w->rows)
            return -EINVAL;
        float *y = a->y + (size_t)i * a->w->cols;
        const float *r = row_of(a->w, (uint32_t)a->ids[i], y);
        if (r != y)
            memcpy(y, r, (size_t)a->w->cols * 4);
    }
    return 0;
}

static void rms(const float *x, const float *w, float *y, uint32_t cols, float eps)
{
    double sum = 0;
    for (uint32_t i = 0; i < cols; i++)
        sum += (double)x[i] * x[i];
    double v = sum / cols + eps, s = 1 / __builtin_sqrt(v);
    for (uint32_t i = 0; i < cols; i++)
        y[i] = (float)(x[i] * s * w[i]);
}

int ref_norm(struct kern *kern, const struct k_norm *a)
{
    (void)kern;
    if (!a->w->f || a->w->rows != 1 || a->w->cols != a->cols)
        return -EINVAL;
    for (uint32_t i = 0; i < a->n; i++)
        rms(a->x + (size_t)i * a->cols, a->w->f, a->y + (size_t)i * a->cols, a->cols, a->eps);
    return 0;
}

/* To the int8 blocks every backend agrees on, and back to the floats they stand for. */
static void round_act(float *x, uint32_t cols)
{
    for (uint32_t b = 0; b < cols; b += 32) {
        float most = 0;
        for (int i = 0; i < 32; i++) {
            float v = x[b + i] < 0 ? -x[b + i] : x[b + i];
            most = v > most || v != v ? v : most;
        }
        float d = most / 127;
        if (most != most || most > 0x1.fffffep127f)
            d = num_float(0x7fc00000);
        for (int i = 0; i < 32; i++)
            x[b + i] = most >= 0x1p-100f ? d * (float)num_rint(x[b + i] / d) : d * 0;
    }
}

static double dot(const float *w, const float *x, uint32_t n)
{
    double s[8] = {0}, t = 0;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            s[j] += (double)w[i + j] * x[i + j];
    for (; i < n; i++)
        t += (double)w[i] * x[i];
    for (int j = 0; j < 8; j++)
        t += s[j];
    return t;
}

/* y[i * ldy + r] (+)= w x.  x: n rows of cols, already normalised and rounded. */
static void mm(const struct k_weight *w, const float *x, float *y, size_t ldy, uint32_t n,
               bool add, float *tmp)
{
    for (uint32_t r = 0; r < w->rows; r++) {
        const float *p = row_of(w, r, tmp);
        for (uint32_t i = 0; i < n; i++) {
            float v = (float)dot(p, x + (size_t)i * w->cols, w->cols);
            y[i * ldy + r] = add ? y[i * ldy + r] + v : v;
        }
    }
}

static bool wants_int8(const struct kern *kern, const struct k_weight *w)
{
    return !((const struct kern_ref *)kern)->act_f32 && k_unit_info(w->type)->bits;
}

/* The input of a matmul: gathered, normalised, and rounded where the weight wants it. */
static int input(struct kern *kern, const float *x, const uint32_t *rows, uint32_t n,
                 const struct k_weight *w, const struct k_weight *norm, float eps, float **ret)
{
    uint32_t cols = w->cols;
    if (norm && (!norm->f || norm->rows != 1 || norm->cols != cols))
        return -EINVAL;
    float *t = malloc((size_t)n * cols * 4 + 4);
    if (!t)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        const float *s = x + (size_t)(rows ? rows[i] : i) * cols;
        if (norm)
            rms(s, norm->f, t + (size_t)i * cols, cols, eps);
        else
            memcpy(t + (size_t)i * cols, s, (size_t)cols * 4);
        if (wants_int8(kern, w))
            round_act(t + (size_t)i * cols, cols);
    }
    *ret = t;
    return 0;
}

int ref_matmul(struct kern *kern, const struct k_matmul *a)
{
    int r = 0;
    if (!a->n_w || a->n_w > 3)
        return -EINVAL;
    for (uint32_t j = 0; j < a->n_w && r == 0; j++) {
        const struct k_weight *w = a->w[j];
        float *x = NULL, *tmp = malloc((size_t)w->cols * 4);
        r = !tmp ? -ENOMEM : w->cols != a->w[0]->cols ? -EINVAL : 0;
        if (r == 0)
            r = input(kern, a->x, a->rows, a->n, w, a->norm, a->eps, &x);
        if (r == 0)
            mm(w, x, a->y[j], a->ldy[j] ? a->ldy[j] : w->rows, a->n, a->add, tmp);
        free(x);
        free(tmp);
    }
    return r;
}

static double act(enum k_act f, double g)
{
    double u = f == K_ACT_SILU ? g : 2 * 0.79788456080286535588 * g * (1 + 0.044715 * g * g);
    return g / (1 + num_exp(-u));
}

int ref_ffn(struct kern *kern, const struct k_ffn *a)
{
    uint32_t hidden = a->gate->rows, cols = a->gate->cols;
    if (a->up->rows != hidden || a->up->cols != cols || a->down->cols != hidden)
        return -EINVAL;
    float *x = NULL, *xu = NULL, *g = malloc((size_t)a->n * hidden * 4 + 4),
          *u = malloc((size_t)a->n * hidden * 4 + 4),
          *tmp = malloc((size_t)(cols > hidden ? cols : hidden) * 4);
    int r = g && u && tmp ? 0 : -ENOMEM;

    if (r == 0)
        r = input(kern, a->x, NULL, a->n, a->gate, a->norm, a->eps, &x);
    if (r == 0)
        r = input(kern, a->x, NULL, a->n, a->up, a->norm, a->eps, &xu);
    if (r == 0) {
        mm(a->gate, x, g, hidden, a->n, false, tmp);
        mm(a->up, xu, u, hidden, a->n, false, tmp);
        for (size_t i = 0; i < (size_t)a->n * hidden; i++)
            g[i] = (float)(act(a->act, g[i]) * u[i]);
        for (uint32_t i = 0; i < a->n && wants_int8(kern, a->down); i++)
            round_act(g + (size_t)i * hidden, hidden);
        mm(a->down, g, a->y, a->down->rows, a->n, a->add, tmp);
    }
    free(x);
    free(xu);
    free(g);
    free(u);
    free(tmp);
    return r;
}
