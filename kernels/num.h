/* num.h - scalar numbers that every backend agrees on: halves, exact fma, exp, sin, cos.
 *
 * Nothing here calls libm, and nothing depends on the compiler's idea of a*b+c: sources of
 * kernels/ are built with -ffp-contract=off.  Any thread. */
#ifndef KERNELS_NUM_H
#define KERNELS_NUM_H
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t num_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static inline float num_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* IEEE half to float: exact; NaNs come out quiet, as the hardware conversion does it. */
static inline float num_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3ff;
    if (e == 31)
        return num_float(sign | 0x7f800000 | m << 13 | (m ? 0x400000 : 0));
    if (e == 0) /* zero or subnormal: m * 2^-24, exact in float */
        return num_float(sign | num_bits((float)m * 0x1p-24f));
    return num_float(sign | (e + 112) << 23 | m << 13);
}

/* Float to IEEE half, nearest even; beyond the largest half it saturates, and *clipped is
 * set when the nearest half would have been infinite.  NaN stays NaN. */
static inline uint16_t num_to_f16(float f, bool *clipped)
{
    uint32_t u = num_bits(f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | ((a >> 13) & 0x3ff));
    if (a >= 0x477ff000) { /* >= 65520 */
        *clipped = true;
        return (uint16_t)(sign | 0x7bff);
    }
    if (a < 0x38800000) { /* below 2^-14: the unit is 2^-24, and adding 0.5 rounds to it */
        uint32_t r = num_bits(num_float(a) + 0.5f);
        return (uint16_t)(sign | (r - 0x3f000000));
    }
    a += 0xfff + ((a >> 13) & 1);
    return (uint16_t)(sign | ((a >> 13) - (112 << 10)));
}

static inline float num_bf16(uint16_t h)
{
    return num_float((uint32_t)h << 16);
}

/* a * b + c, rounded once.  Without the instruction: the product is exact in double, the
 * sum is rounded to odd, and a double rounded to odd rounds correctly to float. */
static inline float num_fma(float a, float b, float c)
{
#if defined(__FMA__) || defined(__FP_FAST_FMAF)
    return __builtin_fmaf(a, b, c);
#else
    double p = (double)a * b, s = p + c, t = s - p, err = (p - (s - t)) + (c - t);
    uint64_t u;
    memcpy(&u, &s, sizeof u);
    if (err != 0 && !(u & 1) && (u >> 52 & 0x7ff) != 0x7ff) {
        u += (err > 0) == (s > 0) ? 1 : -1;
        memcpy(&s, &u, sizeof s);
    }
    return (float)s;
#endif
}

/* Nearest-even integer of |x| < 2^51. */
static inline double num_rint(double x)
{
    const double magic = 0x1.8p52; /* its unit in the last place is 1 */
    return (x + magic) - magic;
}

/* e^x to about 1 ulp of double; 0 below -700, and nothing above 700 is asked for. */
static inline double num_exp(double x)
{
    if (!(x > -700))
        return x != x ? x : 0;
    if (x > 700)
        x = 700;
    double n = num_rint(x * 1.4426950408889634), r = x - n * 0x1.62e42fefa38p-1;
    r -= n * 0x1.ef35793c7673p-45;
    double p = 1, scale;
    for (int i = 14; i > 0; i--)
        p = 1 + p * r / i;
    uint64_t u = (uint64_t)((int64_t)n + 1023) << 52;
    memcpy(&scale, &u, sizeof scale);
    return p * scale;
}

/* sin and cos of x, |x| <= 1.6e6, to about 1 ulp of double: pi/2 in two parts, of which the
 * first has 33 bits, so that its product with the quadrant is exact. */
static inline void num_sincos(double x, double *ret_sin, double *ret_cos)
{
    double n = num_rint(x * 0.63661977236758134308);
    double r = (x - n * 1.57079632673412561417e+00) - n * 6.07710050650619224932e-11;
    double z = r * r, s = 0, c = 0;
    for (int i = 17; i > 1; i -= 2)
        s = (1 + s) * -z / (i * (i - 1.0));
    for (int i = 18; i > 0; i -= 2)
        c = (1 + c) * -z / (i * (i - 1.0));
    s = r + r * s;
    c = 1 + c;
    switch ((int64_t)n & 3) {
    case 0: *ret_sin = s, *ret_cos = c; break;
    case 1: *ret_sin = c, *ret_cos = -s; break;
    case 2: *ret_sin = -s, *ret_cos = -c; break;
    default: *ret_sin = -c, *ret_cos = s; break;
    }
}

#endif
