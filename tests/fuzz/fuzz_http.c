/* fuzz_http.c - an HTTP request that may hold anything: whole and byte by byte it is the same. */
#include "daemon/front/httpin.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The body of p in pieces of at most step bytes; what httpin_chunk said last. */
static int decode(const char *p, size_t n, size_t step, char *out, size_t *ret_n,
                  size_t *ret_used)
{
    struct httpin_chunks s = {0};
    struct errbuf eb = {""};
    size_t at = 0, got = 0;
    int r = 0;

    while (r == 0 && at < n) {
        const char *d;
        size_t used = 0, k, most = n - at < step ? n - at : step;

        r = httpin_chunk(&s, p + at, most, &used, &d, &k, &eb);
        if (r < 0 && !eb.s[0])
            abort();
        if (r < 0)
            break;
        if (used == 0 || used > most || k > used)
            abort();
        memcpy(out + got, d, k);
        got += k;
        at += used;
    }
    *ret_n = got;
    *ret_used = at;
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *p = (const char *)data;
    struct errbuf eb = {""};
    struct httpin_head h = {0};
    size_t seen = 0, slow = 0;
    int whole = httpin_scan(p, n, &seen, &eb), piece = 0;

    for (size_t k = 1; k <= n && piece == 0; k++)
        piece = httpin_scan(p, k, &slow, &eb);
    if (whole != piece || (whole < 0 && !eb.s[0]))
        abort();
    if (whole <= 0)
        return 0;
    eb.s[0] = 0;
    int r = httpin_parse(&h, p, (size_t)whole, &eb);
    if (r < 0) {
        if (!eb.s[0] || h.text)
            abort();
        return 0;
    }
    if (!h.method[0] || (h.path[0] != '/' && h.path[0] != '*') || (h.chunked && h.body_bytes))
        abort();
    for (uint32_t i = 0; i < h.n_fields; i++)
        if (!h.field[i].name[0] || strpbrk(h.field[i].value, "\r\n"))
            abort();
    free(httpin_unescape(h.path));
    httpin_fini(&h);

    char *a = malloc(n + 1), *b = malloc(n + 1);
    size_t an, bn, au, bu, rest = n - (size_t)whole;
    if (a && b) {
        int ra = decode(p + whole, rest, rest, a, &an, &au);
        int rb = decode(p + whole, rest, 1, b, &bn, &bu);

        if (ra != rb || (ra == 1 && au != bu) ||
            (ra >= 0 && (an != bn || memcmp(a, b, an) != 0)))
            abort();
    }
    free(a);
    free(b);
    return 0;
}
