/* types.c - the element types of GGUF: sizes, blocks taken apart, rows to floats.
 *
 * Blocks, little-endian (offset: field):
 *   Q4_0   18  0: d f16   2: 16 bytes, element i low nibble, i + 16 high nibble; minus 8
 *   Q4_1   20  0: d   2: m   4: as Q4_0, no offset
 *   Q5_0   22  0: d   2: fifth bits, one word   6: nibbles; minus 16
 *   Q5_1   24  0: d   2: m   4: fifth bits   8: nibbles
 *   Q8_0   34  0: d   2: 32 signed bytes
 *   Q2_K   84  0: 16 x (scale low, min high nibble)   16: 64 bytes of 2 bits   80: d   82: dmin
 *   Q3_K  110  0: 32 bytes of third bits (clear: minus 4)  32: 64 bytes of 2 bits
 *              96: 12 bytes, 16 scales of 6 bits, minus 32   108: d
 *   Q4_K  144  0: d   2: dmin   4: 12 bytes, 8 scales and 8 mins of 6 bits   16: 128 bytes
 *   Q5_K  176  as Q4_K with 16: 32 bytes of fifth bits   48: 128 bytes
 *   Q6_K  210  0: 128 bytes low nibbles  128: 64 bytes of 2 bits  192: 16 signed scales  208: d */
#include "kernels/types.h"
#include "base/bytes.h"
#include "base/check.h"
#include "kernels/num.h"

const struct k_type_info *k_type_info(uint32_t t)
{
    static const struct k_type_info info[K_TYPE_] = {
        [K_F32] = {"F32", 1, 4},       [K_F16] = {"F16", 1, 2},
        [K_Q4_0] = {"Q4_0", 32, 18},   [K_Q4_1] = {"Q4_1", 32, 20},
        [K_Q5_0] = {"Q5_0", 32, 22},   [K_Q5_1] = {"Q5_1", 32, 24},
        [K_Q8_0] = {"Q8_0", 32, 34},   [K_Q2_K] = {"Q2_K", 256, 84},
        [K_Q3_K] = {"Q3_K", 256, 110}, [K_Q4_K] = {"Q4_K", 256, 144},
        [K_Q5_K] = {"Q5_K", 256, 176}, [K_Q6_K] = {"Q6_K", 256, 210},
        [K_BF16] = {"BF16", 1, 2},
    };
    return t < K_TYPE_ && info[t].name ? &info[t] : NULL;
}

const struct k_unit_info *k_unit_info(enum k_type t)
{
    static const struct k_unit_info info[K_TYPE_] = {
        [K_Q4_0] = {.bits = 4, .off = 8},
        [K_Q4_1] = {.bits = 4, .min = true},
        [K_Q5_0] = {.bits = 5, .off = 16},
        [K_Q5_1] = {.bits = 5, .min = true},
        [K_Q8_0] = {.bits = 8, .off = 128},
        [K_Q2_K] = {.bits = 2, .super = true, .scaled = true, .halves = true, .min = true},
        [K_Q3_K] = {.bits = 3, .off = 4, .super = true, .scaled = true, .halves = true},
        [K_Q4_K] = {.bits = 4, .super = true, .scaled = true, .min = true},
        [K_Q5_K] = {.bits = 5, .super = true, .scaled = true, .min = true},
        [K_Q6_K] = {.bits = 6, .off = 32, .super = true, .scaled = true, .halves = true},
    };
    return &info[t];
}

static void nibbles(const uint8_t *qs, uint8_t *q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = qs[i] & 15;
        q[i + 16] = qs[i] >> 4;
    }
}

/* The 6-bit scale and minimum j of Q4_K and Q5_K. */
static void scale_min(const uint8_t *s, uint32_t j, struct k_unit *u)
{
    uint8_t sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    u->sc[0] = u->sc[1] = (int8_t)sc;
    u->mn[0] = u->mn[1] = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
}

void k_unit(enum k_type t, const void *row, uint32_t b, struct k_unit *u)
{
    const struct k_type_info *ti = k_type_info(t);
    uint32_t j = b % (ti->block / 32), half = j / 4, f = 2 * (j % 4);
    const uint8_t *p =
        (const uint8_t *)row + (uint64_t)(b / (ti->block / 32)) * ti->block_bytes;

    u->m = 0;
    u->sc[0] = u->sc[1] = 1;
    u->mn[0] = u->mn[1] = 0;
    switch (t) {
    case K_Q4_0:
        u->d = ld16(p);
        nibbles(p + 2, u->q);
        break;
    case K_Q4_1:
        u->d = ld16(p), u->m = ld16(p + 2);
        nibbles(p + 4, u->q);
        break;
    case K_Q5_0:
    case K_Q5_1: {
        const uint8_t *h = p + (t == K_Q5_1 ? 4 : 2);
        u->d = ld16(p);
        if (t == K_Q5_1)
            u->m = ld16(p + 2);
        nibbles(h + 4, u->q);
        for (int i = 0; i < 32; i++)
            u->q[i] |= (ld32(h) >> i & 1) << 4;
        break;
    }
    case K_Q8_0:
        u->d = ld16(p);
        for (int i = 0; i < 32; i++)
            u->q[i] = p[2 + i] ^ 0x80;
        break;
    case K_Q2_K:
        u->d = ld16(p + 80), u->m = ld16(p + 82);
        for (int h = 0; h < 2; h++) {
            u->sc[h] = p[2 * j + h] & 15;
            u->mn[h] = p[2 * j + h] >> 4;
        }
        for (int i = 0; i < 32; i++)
            u->q[i] = p[16 + 32 * half + i] >> f & 3;
        break;
    case K_Q3_K:
        u->d = ld16(p + 108);
        for (uint32_t h = 0; h < 2; h++) {
            uint32_t s = 2 * j + h;
            int lo = s < 8 ? p[96 + s] & 15 : p[96 + s - 8] >> 4;
            u->sc[h] = (int8_t)((lo | (p[104 + s % 4] >> 2 * (s / 4) & 3) << 4) - 32);
        }
        for (int i = 0; i < 32; i++)
            u->q[i] = (p[32 + 32 * half + i] >> f & 3) | (p[i] >> j & 1) << 2;
        break;
    case K_Q4_K:
    case K_Q5_K: {
        const uint8_t *qs = p + (t == K_Q5_K ? 48 : 16) + 32 * (j / 2);
        u->d = ld16(p), u->m = ld16(p + 2);
        scale_min(p + 4, j, u);
        for (int i = 0; i < 32; i++)
            u->q[i] = qs[i] >> 4 * (j & 1) & 15;
        for (int i = 0; t == K_Q5_K && i < 32; i++)
            u->q[i] |= (p[16 + i] >> j & 1) << 4;
        break;
    }
    case K_Q6_K:
        u->d = ld16(p + 208);
        for (int h = 0; h < 2; h++)
            u->sc[h] = (int8_t)p[192 + 2 * j + h];
        for (int i = 0; i < 32;
             i++) /* 4 units share 64 bytes: j & 1 picks 32, j & 2 the nibble */
            u->q[i] = (p[64 * half + 32 * (j & 1) + i] >> 2 * (j & 2) & 15) |
                      (p[128 + 32 * half + i] >> f & 3) << 4;
        break;
    default: must(!"a type without units");
    }
}

void k_unit_values(enum k_type t, const struct k_unit *u, float *dst)
{
    const struct k_unit_info *ui = k_unit_info(t);
    float d = num_f16(u->d), m = num_f16(u->m);

    for (int i = 0; i < 32; i++) {
        float wd = ui->scaled ? d * (float)u->sc[i / 16] : d;
        float v = wd * (float)(u->q[i] - ui->off);
        if (ui->min)
            v = ui->scaled ? v - m * (float)u->mn[i / 16] : v + m;
        dst[i] = v;
    }
}

void k_dequant_row(enum k_type t, const void *src, float *dst, uint32_t cols)
{
    const uint8_t *p = src;
    struct k_unit u;

    switch (t) {
    case K_F32: memcpy(dst, src, (size_t)cols * 4); return;
    case K_F16:
        for (uint32_t i = 0; i < cols; i++)
            dst[i] = num_f16(ld16(p + 2 * (size_t)i));
        return;
    case K_BF16:
        for (uint32_t i = 0; i < cols; i++)
            dst[i] = num_bf16(ld16(p + 2 * (size_t)i));
        return;
    default: break;
    }
    for (uint32_t b = 0; b < cols / 32; b++) {
        k_unit(t, src, b, &u);
        k_unit_values(t, &u, dst + 32 * (size_t)b);
    }
}

/* --- values that are no numbers --------------------------------------------------------------- */
/* Every bit of the exponent is set: infinity or not a number. */
static inline bool full16(uint16_t v, uint16_t exponent)
{
    return (v & exponent) == exponent;
}

/* n words of 16 bits, `step` bytes apart.  The loop has no way out in its middle: it takes a
 * model file at the speed of memory, and the rare hit is looked for a second time. */
static uint64_t find16(const uint8_t *p, uint64_t n, uint64_t step, uint16_t exponent)
{
    enum { RUN = 1024 };
    for (uint64_t at = 0; at < n; at += RUN) {
        uint64_t end = n - at < RUN ? n : at + RUN;
        bool any = false;
        for (uint64_t i = at; i < end; i++)
            any |= full16(ld16(p + i * step), exponent);
        for (uint64_t i = at; any && i < end; i++)
            if (full16(ld16(p + i * step), exponent))
                return i;
    }
    return n;
}

static uint64_t find32(const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if ((ld32(p + 4 * i) & 0x7f800000u) == 0x7f800000u)
            return i;
    return n;
}

uint64_t k_not_finite(enum k_type t, const void *src, uint64_t n)
{
    enum { HALF = 0x7c00, BRAIN = 0x7f80 }; /* exponents of f16 and bf16 */
    static const struct {
        uint8_t n, at[2]; /* halves in a block, and where */
    } scales[K_TYPE_] = {
        [K_F16] = {1, {0}},       [K_Q4_0] = {1, {0}},    [K_Q4_1] = {2, {0, 2}},
        [K_Q5_0] = {1, {0}},      [K_Q5_1] = {2, {0, 2}}, [K_Q8_0] = {1, {0}},
        [K_Q2_K] = {2, {80, 82}}, [K_Q3_K] = {1, {108}},  [K_Q4_K] = {2, {0, 2}},
        [K_Q5_K] = {2, {0, 2}},   [K_Q6_K] = {1, {208}},
    };
    const struct k_type_info *ti = k_type_info(t);
    uint64_t first = n;

    if (t == K_F32)
        return find32(src, n);
    if (t == K_BF16)
        return find16(src, n, 2, BRAIN);
    must(ti && scales[t].n);
    for (int i = 0; i < scales[t].n; i++)
        first = find16((const uint8_t *)src + scales[t].at[i], first, ti->block_bytes, HALF);
    return first;
}
