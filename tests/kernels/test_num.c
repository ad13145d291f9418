/* test_num.c - halves, fma, exp, sin and cos; and that vectors say the same as scalars. */
#include "kernels/cpu/cpu.h"
#include "tests/kernels/cases.h"
#include "tests/t.h"

static void every_half_survives_the_round_trip(void)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = num_f16((uint16_t)h);
        bool clipped = false;
        uint32_t e = h >> 10 & 31, m = h & 1023;
        uint16_t back = num_to_f16(f, &clipped);
        double want = e == 0 ? m * 0x1p-24 : (1024 + m) * 0x1p-25 * (double)(1u << e);
        if (e < 31 && f != (h & 0x8000 ? -want : want))
            t_fail(__FILE__, __LINE__, "half %04x reads as %g", h, f);
        if (e < 31 && (back != h || clipped))
            t_fail(__FILE__, __LINE__, "half %04x comes back as %04x", h, back);
        if (e == 31 && !m && !(clipped && (back & 0x7fff) == 0x7bff))
            t_fail(__FILE__, __LINE__, "infinity %04x becomes %04x", h, back);
        if (e == 31 && m && !(back & 0x3ff))
            t_fail(__FILE__, __LINE__, "NaN %04x becomes %04x", h, back);
    }
}

/* Between every two neighbouring halves: the midpoint goes to the even one, its neighbours
 * to the nearer; every vector set agrees with the scalar. */
static void halves_round_to_nearest_even(void)
{
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float lo = num_f16((uint16_t)h), hi = num_f16((uint16_t)(h + 1)), mid = (lo + hi) / 2;
        float x[8] = {lo, mid,  num_float(num_bits(mid) - 1),  num_float(num_bits(mid) + 1),
                      hi, -mid, -num_float(num_bits(mid) + 1), 0};
        uint32_t even = h & 1 ? h + 1 : h;
        uint32_t want[8] = {h, even, h, h + 1, h + 1, even | 0x8000, (h + 1) | 0x8000, 0};
        bool clipped = false;
        uint16_t got[8];
        for (int i = 0; i < 8; i++)
            if (num_to_f16(x[i], &clipped) != want[i])
                t_fail(__FILE__, __LINE__, "%a becomes %04x, want %04x", x[i],
                       num_to_f16(x[i], &clipped), want[i]);
        CHECK(!clipped);
        for (const struct cpu_vec *const *v = cpu_vec_list(); *v; v++) {
            (*v)->store(K_ROW_F16, x, got, 8);
            for (int i = 0; i < 8; i++)
                if (got[i] != want[i])
                    t_fail(__FILE__, __LINE__, "%s: %a becomes %04x", (*v)->name, x[i], got[i]);
        }
    }
}

static void large_and_strange_floats_store_alike(void)
{
    static const uint32_t bits[] = {0x477fe000, 0x477fefff, 0x477ff000, 0x477ff001,
                                    0x7f7fffff, 0x7f800000, 0x7fc00000, 0x7fc12345,
                                    0xffc00001, 1,          0x00800000, 0x33000000,
                                    0x33000001, 0x337fffff, 0x387fe000, 0x387fffff};
    enum { N = sizeof bits / sizeof *bits };
    float x[N];
    uint16_t c[N], v[N];
    for (int i = 0; i < N; i++)
        x[i] = num_float(bits[i]);
    bool a = cpu_vec_c.store(K_ROW_F16, x, c, N);
    for (const struct cpu_vec *const *s = cpu_vec_list(); *s; s++) {
        CHECK_EQ((*s)->store(K_ROW_F16, x, v, N), a);
        for (int i = 0; i < N; i++)
            CHECK_EQ(v[i], c[i]);
    }
    CHECK_EQ(c[0], 0x7bff);
    CHECK_EQ(c[4], 0x7bff);
    CHECK_EQ(c[9], 0);
    CHECK_EQ(c[11], 0);
    CHECK_EQ(c[12], 1);
}

static void fma_rounds_once(void)
{
    uint64_t s = 99;
    int split = 0; /* cases where two roundings would differ: the test must see some */
    for (int i = 0; i < 300000; i++) {
        float a = case_unit(&s), b = case_unit(&s), c = case_unit(&s) * (i % 3 ? 1 : 0x1p-20f);
        if (i % 5 == 0)
            c = -a * b + (float)(int)(case_next(&s) % 3) * 0x1p-30f;
        if (i % 7 == 0)
            a *= 0x1p-70f, b *= 0x1p-70f, c *= 0x1p-126f;
        float want = (float)((__float128)a * b + c), got = num_fma(a, b, c);
        split += (float)((double)a * b + c) != want || a * b + c != want;
        if (num_bits(want) != num_bits(got))
            t_fail(__FILE__, __LINE__, "fma(%a, %a, %a) = %a, want %a", a, b, c, got, want);
    }
    CHECK(split > 100);
}

static __float128 exp_ref(__float128 x)
{
    __float128 p = 1;
    __float128 r = x / 1024;
    for (int i = 24; i > 0; i--)
        p = 1 + p * r / i;
    for (int i = 0; i < 10; i++)
        p *= p;
    return p;
}

/* act(SILU, g, u = 1) = g / (1 + e^-g) is how the vectors' exp can be seen from outside. */
static void exp_is_good_to_two_ulp(void)
{
    double worst = 0, worst_act = 0;
    for (double x = -79; x < 87; x += 0.0137) {
        double want = (double)exp_ref(x), e = num_exp(x) / want - 1;
        worst = e > worst ? e : -e > worst ? -e : worst;
        float g[8], u[8], h[8], c[8];
        for (int i = 0; i < 8; i++)
            g[i] = (float)(x + i * 0.0017), u[i] = 1;
        cpu_vec_c.act(K_ACT_SILU, g, u, c, 8);
        for (const struct cpu_vec *const *v = cpu_vec_list(); *v; v++) {
            (*v)->act(K_ACT_SILU, g, u, h, 8);
            CHECK(!memcmp(h, c, sizeof h));
        }
        for (int i = 0; i < 8; i++) {
            double d = c[i] / (double)(g[i] / (1 + exp_ref(-(__float128)g[i]))) - 1;
            worst_act = d > worst_act ? d : -d > worst_act ? -d : worst_act;
        }
    }
    if (worst > 4e-16 || worst_act > 3e-7)
        t_fail(__FILE__, __LINE__, "relative error %g in double, %g in SiLU", worst, worst_act);
}

static void sine_and_cosine_hold_to_a_million(void)
{
    const __float128 pi2 =
        (__float128)6.283185307179586232 + (__float128)2.4492935982947064e-16;
    double worst = 0;
    uint64_t s = 3;
    for (int i = 0; i < 4000; i++) {
        double x = i < 100 ? i * 0.7853981633974483 : case_unit(&s) * (i % 2 ? 10 : 1.0e6), sn,
               cn;
        num_sincos(x, &sn, &cn);
        __float128 r = x - pi2 * (int64_t)(x / 6.283185307179586), a = 0, b = 0, t = 1;
        for (int k = 0; k < 60; k++) {
            if (k % 2)
                a += k % 4 == 1 ? t : -t;
            else
                b += k % 4 == 0 ? t : -t;
            t *= r / (k + 1);
        }
        double e = (double)(a - sn), f = (double)(b - cn);
        e = e < 0 ? -e : e, f = f < 0 ? -f : f;
        worst = e > worst ? e : worst;
        worst = f > worst ? f : worst;
    }
    if (worst > 1e-14)
        t_fail(__FILE__, __LINE__, "worst error %g", worst);
}

static void activations_round_to_the_nearest_even_code(void)
{
    float x[32 * 4] = {0};
    struct cpu_xq c[4], q[4];
    x[0] = 127;
    for (int i = 1; i < 32; i++)
        x[i] = (float)i - 16.5f; /* ties: d is 1 */
    x[40] = 0x1p-110f;           /* a unit below 2^-100 is zero */
    x[70] = -3, x[71] = 1.5f;
    x[100] = __builtin_inff();
    cpu_vec_c.quant(x, c, 4);
    for (const struct cpu_vec *const *v = cpu_vec_list(); *v; v++) {
        (*v)->quant(x, q, 4);
        CHECK(!memcmp(c, q, sizeof c));
    }
    CHECK(c[0].d == 1 && c[0].q[0] == 127);
    CHECK_EQ(c[0].q[1], -16); /* -15.5 */
    CHECK_EQ(c[0].q[2], -14); /* -14.5 */
    CHECK_EQ(c[0].q[17], 0);  /* 0.5 */
    CHECK_EQ(c[0].q[18], 2);  /* 1.5 */
    CHECK(c[1].d == 0 && c[1].s == 0 && c[1].q[8] == 0);
    CHECK_EQ(c[2].q[6], -127);
    CHECK_EQ(c[2].q[7], 64); /* 63.5 */
    CHECK_EQ(c[2].sum, -63);
    CHECK(c[3].d != c[3].d && c[3].q[4] == 0);
}

T_MAIN({"every_half_survives_the_round_trip", every_half_survives_the_round_trip},
       {"halves_round_to_nearest_even", halves_round_to_nearest_even},
       {"large_and_strange_floats_store_alike", large_and_strange_floats_store_alike},
       {"fma_rounds_once", fma_rounds_once}, {"exp_is_good_to_two_ulp", exp_is_good_to_two_ulp},
       {"sine_and_cosine_hold_to_a_million", sine_and_cosine_hold_to_a_million},
       {"activations_round_to_the_nearest_even_code",
        activations_round_to_the_nearest_even_code})
