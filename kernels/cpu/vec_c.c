/* vec_c.c - the plain C twin: float kernels of vec.inc, and matmuls spelled out.
 *
 * Runs where AVX2 does not exist, and in tests as the other side of "equal bits". */
#include "base/bounds.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/v8.h"
/* */
#include "kernels/cpu/vec.inc"

/* A unit of 8 rows, as numbers. */
struct plain {
    float wd[8], wm[8];
    int16_t sc[2][8], mn[2][8];
    int8_t q[8][32]; /* offset taken off */
};
bound(sizeof(struct plain) <= 640, "a thread's panel has room for a group taken apart");

static void take_apart(enum k_type t, const struct k_unit_info *ui, const uint8_t *group,
                       uint32_t b, struct plain *p)
{
    for (uint32_t r = 0; r < 8; r++) {
        struct k_unit u;
        cpu_lay_unit(t, group, r, b, &u);
        float d = num_f16(u.d), m = num_f16(u.m);
        p->wd[r] = ui->scaled && !ui->halves ? d * (float)u.sc[0] : d;
        p->wm[r] = ui->scaled && !ui->halves ? -(m * (float)u.mn[0]) : m;
        for (int h = 0; h < 2; h++) {
            p->sc[h][r] = ui->halves ? u.sc[h] : 1;
            p->mn[h][r] = u.mn[h];
        }
        for (int k = 0; k < 32; k++)
            p->q[r][k] = (int8_t)(u.q[k] - ui->off);
    }
}

static void mm_c(const struct cpu_mm *a)
{
    const struct k_unit_info *ui = k_unit_info(a->type);
    struct plain *panel = (struct plain *)a->panel;
    uint32_t units = a->cols / 32;

    if (!ui->bits) {
        mm_float(a);
        return;
    }
    for (uint32_t g = 0; g < a->groups && g * 8 < a->rows; g++) {
        for (uint32_t b = 0; b < units; b++)
            take_apart(a->type, ui, a->w + g * a->group_bytes, b, &panel[b]);
        for (uint32_t i = 0; i < a->n; i++)
            for (uint32_t r = 0; r < 8 && g * 8 + r < a->rows; r++) {
                float acc = 0, acm = 0, *y = a->y + i * a->ldy + g * 8 + r;
                for (uint32_t b = 0; b < units; b++) {
                    const struct plain *p = &panel[b];
                    const struct cpu_xq *x = &a->xq[(size_t)i * units + b];
                    int32_t half[2] = {0, 0};
                    for (int k = 0; k < 32; k++)
                        half[k / 16] += p->q[r][k] * x->q[k];
                    int32_t isum = half[0] * p->sc[0][r] + half[1] * p->sc[1][r];
                    acc = num_fma(p->wd[r] * x->d, (float)isum, acc);
                    if (ui->min && ui->halves) {
                        int32_t imin = p->mn[0][r] * x->h[0] + p->mn[1][r] * x->h[1];
                        acm = num_fma(-(p->wm[r] * x->d), (float)imin, acm);
                    } else if (ui->min) {
                        acm = num_fma(p->wm[r], x->s, acm);
                    }
                }
                float v = ui->min ? acc + acm : acc;
                *y = a->add ? *y + v : v;
            }
    }
}

const struct cpu_vec cpu_vec_c = {
    .name = "cpu-c",
    .mm = mm_c,
    .quant = vec_quant,
    .rms = vec_rms,
    .act = vec_act,
    .rotate = vec_rotate,
    .store = vec_store,
    .attn_block = vec_attn_block,
    .attn_join = vec_attn_join,
};
