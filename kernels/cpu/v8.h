/* v8.h - eight floats, eight ints: the vector unit that the float kernels are written for.
 *
 * Two units with the same answers, bit for bit: AVX2 (in files built for it) and plain C.
 * Every operation is lane-wise IEEE, rounded once; v8_fma is a true fma in both (num.h);
 * minima and maxima return their second argument when either is NaN, as the instructions
 * do; the order of v8_sum is fixed. */
#ifndef KERNELS_CPU_V8_H
#define KERNELS_CPU_V8_H
#include "kernels/num.h"
#include <stddef.h>

#ifdef __AVX2__
#    include <immintrin.h>
typedef __m256 v8f;
typedef __m256i v8i;
#    define V8(name) static inline __attribute__((always_inline)) name

V8(v8f) v8_set(float x)
{
    return _mm256_set1_ps(x);
}
V8(v8f) v8_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
V8(void) v8_store(float *p, v8f x)
{
    _mm256_storeu_ps(p, x);
}
V8(v8f) v8_add(v8f a, v8f b)
{
    return _mm256_add_ps(a, b);
}
V8(v8f) v8_sub(v8f a, v8f b)
{
    return _mm256_sub_ps(a, b);
}
V8(v8f) v8_mul(v8f a, v8f b)
{
    return _mm256_mul_ps(a, b);
}
V8(v8f) v8_div(v8f a, v8f b)
{
    return _mm256_div_ps(a, b);
}
V8(v8f) v8_fma(v8f a, v8f b, v8f c)
{
    return _mm256_fmadd_ps(a, b, c);
}
V8(v8f) v8_min(v8f a, v8f b)
{
    return _mm256_min_ps(a, b);
}
V8(v8f) v8_max(v8f a, v8f b)
{
    return _mm256_max_ps(a, b);
}
V8(v8i) v8_round(v8f x)
{
    return _mm256_cvtps_epi32(x);
} /* nearest even */
V8(v8f) v8_float(v8i x)
{
    return _mm256_cvtepi32_ps(x);
}
V8(v8i) v8_abs_bits(v8f x)
{
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}
V8(v8i) v8i_set(int32_t x)
{
    return _mm256_set1_epi32(x);
}
V8(v8i) v8i_load(const int32_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
V8(void) v8i_store(int32_t *p, v8i x)
{
    _mm256_storeu_si256((__m256i *)p, x);
}
V8(v8i) v8i_max(v8i a, v8i b)
{
    return _mm256_max_epi32(a, b);
}
/* x * 2^n for results that stay normal */
V8(v8f) v8_scale2(v8f x, v8i n)
{
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(n, 23)));
}
/* 0 where a < b, else x (also where either is NaN) */
V8(v8f) v8_unless_less(v8f a, v8f b, v8f x)
{
    return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ), x);
}
/* x where lane + at < n, else y */
V8(v8f) v8_first(int32_t n, v8f x, v8f y)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_blendv_ps(
        y, x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)));
}
V8(v8f) v8_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
/* The halves nearest to x, |x| clipped to 65504. */
V8(void) v8_to_f16(uint16_t *p, v8f x)
{
    x = _mm256_max_ps(_mm256_set1_ps(-65504.f), _mm256_min_ps(_mm256_set1_ps(65504.f), x));
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
V8(v8f) v8_from_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
/* ((0+1)+(2+3)) + ((4+5)+(6+7)) */
V8(float) v8_sum(v8f x)
{
    x = _mm256_hadd_ps(x, x);
    x = _mm256_hadd_ps(x, x);
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}
/* The largest lane. */
V8(int32_t) v8i_top(v8i x)
{
    __m128i a = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1));
    return _mm_cvtsi128_si32(a);
}
/* 32 ints of int8 range to bytes; ret_h: the sums of the first and the second 16. */
V8(void) v8i_pack(const v8i t[4], int8_t *q, int32_t ret_h[2])
{
    __m256i a = _mm256_packs_epi32(t[0], t[1]), b = _mm256_packs_epi32(t[2], t[3]);
    __m256i c = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b),
                                            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    __m256i s =
        _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), c), _mm256_set1_epi16(1));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
    _mm256_storeu_si256((__m256i *)q, c);
    ret_h[0] = _mm256_extract_epi32(s, 0);
    ret_h[1] = _mm256_extract_epi32(s, 4);
}
/* Rows to columns. */
V8(void) v8_transpose(v8f r[8])
{
    v8f a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        b[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
        b[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xee);
        b[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
        b[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x20);
        r[4 + i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x31);
    }
}

#else

typedef struct v8f {
    float f[8];
} v8f;
typedef struct v8i {
    int32_t i[8];
} v8i;
#    define V8(name) static inline name
#    define V8_LANES(T, r, member, expr)                                                       \
        T r;                                                                                   \
        for (int l = 0; l < 8; l++)                                                            \
            r.member[l] = expr;                                                                \
        return r

static inline float v8_lane_min(float a, float b)
{
    return a < b ? a : b;
}
static inline float v8_lane_max(float a, float b)
{
    return a > b ? a : b;
}
/* Nearest even for |x| < 2^22; what is larger or NaN becomes INT32_MIN. */
static inline int32_t v8_lane_round(float x)
{
    const float magic = 0x1.8p23f;
    if (!(x > -0x1p22f && x < 0x1p22f))
        return INT32_MIN;
    return (int32_t)((x + magic) - magic);
}

V8(v8f) v8_set(float x)
{
    V8_LANES(v8f, r, f, x);
}
V8(v8f) v8_load(const float *p)
{
    V8_LANES(v8f, r, f, p[l]);
}
V8(void) v8_store(float *p, v8f x)
{
    memcpy(p, x.f, sizeof x.f);
}
V8(v8f) v8_add(v8f a, v8f b)
{
    V8_LANES(v8f, r, f, a.f[l] + b.f[l]);
}
V8(v8f) v8_sub(v8f a, v8f b)
{
    V8_LANES(v8f, r, f, a.f[l] - b.f[l]);
}
V8(v8f) v8_mul(v8f a, v8f b)
{
    V8_LANES(v8f, r, f, a.f[l] * b.f[l]);
}
V8(v8f) v8_div(v8f a, v8f b)
{
    V8_LANES(v8f, r, f, a.f[l] / b.f[l]);
}
V8(v8f) v8_fma(v8f a, v8f b, v8f c)
{
    V8_LANES(v8f, r, f, num_fma(a.f[l], b.f[l], c.f[l]));
}
V8(v8f) v8_min(v8f a, v8f b)
{
    V8_LANES(v8f, r, f, v8_lane_min(a.f[l], b.f[l]));
}
V8(v8f) v8_max(v8f a, v8f b)
{
    V8_LANES(v8f, r, f, v8_lane_max(a.f[l], b.f[l]));
}
V8(v8i) v8_round(v8f x)
{
    V8_LANES(v8i, r, i, v8_lane_round(x.f[l]));
}
V8(v8f) v8_float(v8i x)
{
    V8_LANES(v8f, r, f, (float)x.i[l]);
}
V8(v8i) v8_abs_bits(v8f x)
{
    V8_LANES(v8i, r, i, (int32_t)(num_bits(x.f[l]) & 0x7fffffff));
}
V8(v8i) v8i_set(int32_t x)
{
    V8_LANES(v8i, r, i, x);
}
V8(v8i) v8i_load(const int32_t *p)
{
    V8_LANES(v8i, r, i, p[l]);
}
V8(void) v8i_store(int32_t *p, v8i x)
{
    memcpy(p, x.i, sizeof x.i);
}
V8(v8i) v8i_max(v8i a, v8i b)
{
    V8_LANES(v8i, r, i, a.i[l] > b.i[l] ? a.i[l] : b.i[l]);
}
V8(v8f) v8_scale2(v8f x, v8i n)
{
    V8_LANES(v8f, r, f, num_float(num_bits(x.f[l]) + ((uint32_t)n.i[l] << 23)));
}
V8(v8f) v8_unless_less(v8f a, v8f b, v8f x)
{
    V8_LANES(v8f, r, f, a.f[l] < b.f[l] ? 0 : x.f[l]);
}
V8(v8f) v8_first(int32_t n, v8f x, v8f y)
{
    V8_LANES(v8f, r, f, l < n ? x.f[l] : y.f[l]);
}
V8(v8f) v8_from_f16(const uint16_t *p)
{
    V8_LANES(v8f, r, f, num_f16(p[l]));
}
V8(void) v8_to_f16(uint16_t *p, v8f x)
{
    bool clipped;
    for (int l = 0; l < 8; l++)
        p[l] = num_to_f16(x.f[l], &clipped);
}
V8(v8f) v8_from_bf16(const uint16_t *p)
{
    V8_LANES(v8f, r, f, num_bf16(p[l]));
}
V8(float) v8_sum(v8f x)
{
    return ((x.f[0] + x.f[1]) + (x.f[2] + x.f[3])) + ((x.f[4] + x.f[5]) + (x.f[6] + x.f[7]));
}
V8(int32_t) v8i_top(v8i x)
{
    int32_t top = x.i[0];
    for (int l = 1; l < 8; l++)
        top = x.i[l] > top ? x.i[l] : top;
    return top;
}
V8(void) v8i_pack(const v8i t[4], int8_t *q, int32_t ret_h[2])
{
    ret_h[0] = ret_h[1] = 0;
    for (int i = 0; i < 32; i++) {
        q[i] = (int8_t)t[i / 8].i[i % 8];
        ret_h[i / 16] += q[i];
    }
}
V8(void) v8_transpose(v8f r[8])
{
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < i; j++) {
            float t = r[i].f[j];
            r[i].f[j] = r[j].f[i];
            r[j].f[i] = t;
        }
}
#endif

V8(v8f) v8_zero(void)
{
    return v8_set(0);
}

/* The first n < 8 floats of p, the other lanes 0; and back. */
V8(v8f) v8_load_n(const float *p, uint32_t n)
{
    float t[8] = {0};
    for (uint32_t i = 0; i < n; i++)
        t[i] = p[i];
    return v8_load(t);
}
V8(void) v8_store_n(float *p, v8f x, uint32_t n)
{
    float t[8];
    v8_store(t, x);
    for (uint32_t i = 0; i < n; i++)
        p[i] = t[i];
}

/* e^x within 1.5 ulp of float; 0 below -80 (a weight of e^-80 cannot be seen beside one of
 * 1, and what stays is far from subnormal); above 88, e^88. */
V8(v8f) v8_exp(v8f x)
{
    v8f z = v8_min(v8_set(88.f), v8_max(v8_set(-81.f), x));
    v8i n = v8_round(v8_mul(z, v8_set(1.44269504f)));
    v8f m = v8_float(n);
    v8f r = v8_fma(m, v8_set(-0x1.62e4p-1f), z); /* 16 bits of ln 2: exact */
    r = v8_fma(m, v8_set(-0x1.7f7d1cp-20f), r);
    v8f p = v8_set(1.f / 5040);
    p = v8_fma(p, r, v8_set(1.f / 720));
    p = v8_fma(p, r, v8_set(1.f / 120));
    p = v8_fma(p, r, v8_set(1.f / 24));
    p = v8_fma(p, r, v8_set(1.f / 6));
    p = v8_fma(p, r, v8_set(.5f));
    p = v8_fma(p, r, v8_set(1.f));
    p = v8_fma(p, r, v8_set(1.f));
    p = v8_scale2(p, n);
    return v8_unless_less(x, v8_set(-80.f), p);
}
#endif
