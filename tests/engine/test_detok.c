/* test_detok.c - streamed bytes against the same bytes read at once. */
#include "base/clock.h"
#include "engine/utf8.h"
#include "tests/engine/tokfix.h"

/* The text as a reader sees it who has it all: each maximal broken part is one U+FFFD
 * (Unicode 15, section 3.9, table 3-8), written here without the streaming code. */
static struct blob at_once(const uint8_t *p, size_t n)
{
    struct blob b = {0};
    for (size_t i = 0; i < n;) {
        int whole = utf8_status(p + i, n - i);
        if (whole > 0) {
            blob_put(&b, p + i, (size_t)whole);
            i += (size_t)whole;
            continue;
        }
        /* The longest prefix that could have become a code point, at least one byte. */
        size_t k = 1;
        while (k < n - i && utf8_status(p + i, k + 1) == 0)
            k++;
        blob_put(&b, "\xef\xbf\xbd", 3);
        i += k;
    }
    return b;
}

static struct blob streamed(const uint8_t *p, size_t n, uint64_t *rng, size_t most)
{
    struct blob b = {0};
    struct tok_stream s = {0};
    char out[256];
    for (size_t i = 0; i < n;) {
        size_t k = most;
        if (rng) {
            *rng = *rng * 6364136223846793005u + 1442695040888963407u;
            k = (*rng >> 33) % (most + 1);
        }
        k = k < n - i ? k : n - i;
        size_t got = tok_stream_feed(&s, (const char *)p + i, k, out);
        CHECK(got <= k * 3 + 16);
        CHECK(utf8_is_strict(out, got)); /* never half a code point */
        blob_put(&b, out, got);
        i += k;
    }
    blob_put(&b, out, tok_stream_end(&s, out));
    CHECK_EQ(s.n_held, 0);
    return b;
}

static void compare(const uint8_t *p, size_t n, uint64_t *rng, size_t most)
{
    struct blob want = at_once(p, n), got = streamed(p, n, rng, most);
    if (want.n != got.n || (want.n && memcmp(want.p, got.p, want.n) != 0))
        t_fail(__FILE__, __LINE__, "\"%s\" by %zu: got \"%s\", want \"%s\"",
               shown((const char *)p, n), most, shown((char *)got.p, got.n),
               shown((char *)want.p, want.n));
    free(want.p);
    free(got.p);
}

static void known_cases_come_out_as_the_standard_says(void)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"", ""},
        {"plain", "plain"},
        {"\xe4\xb8\x96", "\xe4\xb8\x96"},
        {"\xe4\xb8", "\xef\xbf\xbd"},
        {"\xe4\xb8x", "\xef\xbf\xbdx"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x91\x92\x93", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41",
         "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
         "A"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct blob got = streamed((const uint8_t *)cases[i].in, strlen(cases[i].in), NULL, 1);
        if (got.n != strlen(cases[i].out) ||
            memcmp(got.p ? got.p : (uint8_t *)"", cases[i].out, got.n) != 0)
            t_fail(__FILE__, __LINE__, "\"%s\" gave \"%s\"",
                   shown(cases[i].in, strlen(cases[i].in)), shown((char *)got.p, got.n));
        free(got.p);
    }
}

static void every_pair_and_triple_of_edge_bytes_streams_as_read_at_once(void)
{
    static const uint8_t edge[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f,
                                   0xa0, 0xbf, 0xc0, 0xc2, 0xdf, 0xe0, 0xe1,
                                   0xed, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff};
    enum { N = sizeof edge };
    for (int i = 0; i < N * N * N * N; i++) {
        uint8_t p[4] = {edge[i % N], edge[i / N % N], edge[i / N / N % N], edge[i / N / N / N]};
        compare(p, 4, NULL, 1);
    }
}

static void random_bytes_stream_as_read_at_once_however_cut(void)
{
    const char *env = getenv("SEED");
    uint64_t s = env ? strtoull(env, NULL, 10) : now_ns();
    printf("      SEED=%llu\n", (unsigned long long)s);
    for (int i = 0; i < 20000; i++) {
        uint8_t p[64];
        size_t n = 0;
        while (n < 60) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            uint32_t x = (uint32_t)(s >> 33);
            if (x & 1)
                p[n++] = (uint8_t)(x >> 8);
            else
                n += utf8_put((x >> 4) % 0x110000, (char *)p + n);
        }
        compare(p, n, &s, 1 + (s >> 60));
    }
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(known_cases_come_out_as_the_standard_says),
       CASE(every_pair_and_triple_of_edge_bytes_streams_as_read_at_once),
       CASE(random_bytes_stream_as_read_at_once_however_cut))
