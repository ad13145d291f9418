/* lay.c - weights from GGUF order to groups of 8 interleaved rows, and back.  See cpu.h. */
#include "base/bytes.h"
#include "base/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/num.h"

const struct cpu_lay *cpu_lay(enum k_type t)
{
    enum { NO = CPU_NO };
    /*                                head unit per  sc  mn  nib  qh   two */
    static const struct cpu_lay lay[K_TYPE_] = {
        [K_Q4_0] = {16, 128, 1, NO, NO, 0, NO, NO},
        [K_Q4_1] = {32, 128, 1, NO, NO, 0, NO, NO},
        [K_Q5_0] = {16, 160, 1, NO, NO, 0, 128, NO},
        [K_Q5_1] = {32, 160, 1, NO, NO, 0, 128, NO},
        [K_Q8_0] = {16, 256, 1, NO, NO, NO, NO, NO},
        [K_Q2_K] = {32, 96, 8, 0, 16, NO, NO, 32},
        [K_Q3_K] = {16, 112, 8, 0, NO, NO, 80, 16},
        [K_Q4_K] = {32, 144, 8, 0, 8, 16, NO, NO},
        [K_Q5_K] = {32, 176, 8, 0, 8, 16, 144, NO},
        [K_Q6_K] = {16, 208, 8, 0, NO, 16, NO, 144},
    };
    return lay[t].per ? &lay[t] : NULL;
}

uint64_t cpu_lay_group_bytes(enum k_type t, uint32_t cols)
{
    const struct cpu_lay *l = cpu_lay(t);
    if (!l)
        return (uint64_t)cols * CPU_ROWS * k_type_info(t)->block_bytes;
    return (uint64_t)(cols / 32 / l->per) * (l->head + (uint64_t)l->per * l->unit);
}

/* The 32 codes of one row's unit, four at a time: no part of a layout is finer than that. */
static void put_codes(const struct cpu_lay *l, uint8_t *u, uint32_t r, const uint8_t q[32])
{
    uint8_t *p = u + 4 * r;
    uint32_t w[8]; /* w[g]: codes 4 g + j, a byte each */
    memcpy(w, q, sizeof w);
    if (l->nib == CPU_NO && l->two == CPU_NO) { /* signed again */
        for (uint32_t g = 0; g < 8; g++)
            st32(p + 32 * g, w[g] ^ 0x80808080u);
        return;
    }
    if (l->nib != CPU_NO)
        for (uint32_t i = 0; i < 4; i++)
            st32(p + l->nib + 32 * i, (w[i] & 0x0f0f0f0fu) | (w[i + 4] & 0x0f0f0f0fu) << 4);
    if (l->two != CPU_NO)
        for (uint32_t h = 0; h < 2; h++) {
            uint32_t v = 0;
            for (uint32_t i = 0; i < 4; i++)
                v |= (w[4 * h + i] >> (l->nib != CPU_NO ? 4 : 0) & 0x03030303u) << 2 * i;
            st32(p + l->two + 32 * h, v);
        }
    if (l->qh != CPU_NO) {
        uint32_t v = 0;
        for (uint32_t g = 0; g < 8; g++)
            v |= (w[g] >> (l->nib != CPU_NO ? 4 : 2) & 0x01010101u) << g;
        st32(p + l->qh, v);
    }
}

static uint8_t get_code(const struct cpu_lay *l, const uint8_t *u, uint32_t r, uint32_t k)
{
    uint32_t g = k / 4, at = 4 * r + k % 4, q = 0;
    if (l->nib == CPU_NO && l->two == CPU_NO)
        return u[32 * g + at] ^ 0x80;
    if (l->nib != CPU_NO)
        q = u[l->nib + 32 * (g % 4) + at] >> 4 * (g / 4) & 15;
    if (l->two != CPU_NO)
        q |= (u[l->two + 32 * (g / 4) + at] >> 2 * (g % 4) & 3) << (l->nib != CPU_NO ? 4 : 0);
    if (l->qh != CPU_NO)
        q |= (u[l->qh + at] >> g & 1) << (l->nib != CPU_NO ? 4 : 2);
    return (uint8_t)q;
}

/* One row of floats of `width` bytes, a constant where it is called: moves, not calls. */
static inline void lay_floats(uint8_t *dst, const uint8_t *row, uint32_t cols, uint32_t width)
{
    for (uint32_t c = 0; c < cols; c++)
        memcpy(dst + (uint64_t)c * CPU_ROWS * width, row + (uint64_t)c * width, width);
}

static void lay_units(const struct k_weight_src *src, const struct cpu_lay *l,
                      const uint8_t *row, uint32_t r, uint8_t *dst)
{
    const struct k_unit_info *ui = k_unit_info(src->type);

    for (uint32_t b = 0; b < src->cols / 32; b++) {
        struct k_unit u;
        const uint8_t *head;
        uint8_t *p = (uint8_t *)cpu_lay_at(l, dst, b, &head);
        k_unit(src->type, row, b, &u);
        st16((uint8_t *)head + 2 * r, u.d);
        if (ui->min)
            st16((uint8_t *)head + 16 + 2 * r, u.m);
        for (uint32_t h = 0; h < (ui->halves ? 2 : 1); h++) {
            if (l->sc != CPU_NO)
                p[l->sc + 8 * h + r] = (uint8_t)u.sc[h];
            if (l->mn != CPU_NO)
                p[l->mn + 8 * h + r] = u.mn[h];
        }
        put_codes(l, p, r, u.q);
    }
}

static void lay_group(const struct k_weight_src *src, uint64_t row_bytes, uint32_t g,
                      uint8_t *dst)
{
    const struct cpu_lay *l = cpu_lay(src->type);
    uint32_t width = k_type_info(src->type)->block_bytes, rows = src->rows - g * CPU_ROWS;

    if (rows < CPU_ROWS) /* eight rows write every byte */
        memset(dst, 0, cpu_lay_group_bytes(src->type, src->cols));
    for (uint32_t r = 0; r < CPU_ROWS && r < rows; r++) {
        const uint8_t *row =
            (const uint8_t *)src->data + (uint64_t)(g * CPU_ROWS + r) * row_bytes;
        if (l)
            lay_units(src, l, row, r, dst);
        else if (width == 4)
            lay_floats(dst + r * 4, row, src->cols, 4);
        else
            lay_floats(dst + r * 2, row, src->cols, 2);
    }
}

void cpu_lay_groups(const struct k_weight_src *src, uint64_t row_bytes, uint32_t g, uint32_t n,
                    uint8_t *dst)
{
    uint64_t bytes = cpu_lay_group_bytes(src->type, src->cols);
    for (uint32_t i = 0; i < n; i++)
        lay_group(src, row_bytes, g + i, dst + i * bytes);
}

void cpu_lay_unit(enum k_type t, const uint8_t *group, uint32_t r, uint32_t b, struct k_unit *u)
{
    const struct cpu_lay *l = cpu_lay(t);
    const struct k_unit_info *ui = k_unit_info(t);
    const uint8_t *head, *p = cpu_lay_at(l, group, b, &head);

    u->d = ld16(head + 2 * r);
    u->m = ui->min ? ld16(head + 16 + 2 * r) : 0;
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t at = ui->halves ? 8 * h + r : r;
        u->sc[h] = l->sc != CPU_NO ? (int8_t)p[l->sc + at] : 1;
        u->mn[h] = l->mn != CPU_NO ? p[l->mn + at] : 0;
    }
    for (uint32_t k = 0; k < 32; k++)
        u->q[k] = get_code(l, p, r, k);
}

void cpu_lay_row(enum k_type t, const uint8_t *group, uint32_t r, float *dst, uint32_t cols)
{
    uint32_t width = k_type_info(t)->block_bytes;
    struct k_unit u;

    if (!cpu_lay(t)) {
        for (uint32_t c = 0; c < cols; c++)
            k_dequant_row(t, group + ((uint64_t)c * CPU_ROWS + r) * width, dst + c, 1);
        return;
    }
    for (uint32_t b = 0; b < cols / 32; b++) {
        cpu_lay_unit(t, group, r, b, &u);
        k_unit_values(t, &u, dst + 32 * (size_t)b);
    }
}
