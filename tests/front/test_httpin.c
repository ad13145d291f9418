/* test_httpin.c - heads and chunks of HTTP requests, by the functions that read them. */
#include "daemon/front/httpin.h"
#include "tests/t.h"
#include <stdlib.h>
#include <string.h>

#define LINE "POST /x HTTP/1.1\r\n"
#define HEAD LINE "Host: h\r\n"

/* The head of these bytes: 0 and it is in *h, or the code. */
static int head_of(const char *s, struct httpin_head *h)
{
    struct errbuf eb = {""};
    size_t seen = 0;
    int n = httpin_scan(s, strlen(s), &seen, &eb), r;

    *h = (struct httpin_head){0};
    r = n > 0 ? httpin_parse(h, s, (size_t)n, &eb) : n == 0 ? 1 : n;
    CHECK_EQ(r < 0, eb.s[0] != 0);
    return r;
}

static void a_head_means_one_thing_or_is_refused(void)
{
    static const struct {
        const char *s;
        int want;
    } c[] = {
        {HEAD "\r\n", 0},
        {HEAD "Content-Length: 15\r\n\r\n", 0},
        {HEAD "Transfer-Encoding: chunked\r\n\r\n", 0},
        {HEAD "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n", -400},
        {HEAD "Content-Length: 15\r\nContent-Length: 15\r\n\r\n", -400},
        {HEAD "Host: h\r\n\r\n", -400},
        {HEAD "Authorization: a\r\nauthorization: b\r\n\r\n", -400},
        {HEAD "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n\r\n", -400},
        {HEAD "Sec-Fetch-Mode: navigate\r\nsec-fetch-mode: cors\r\n\r\n", -400},
        {"GET http://h/x HTTP/1.1\r\nHost: h\r\n\r\n", 0},
        {"GET HTTP://H/x HTTP/1.1\r\nHost: h\r\n\r\n", 0},
        {"GET http://evil.example/x HTTP/1.1\r\nHost: h\r\n\r\n", -400},
        {"GET http://h.evil.example/x HTTP/1.1\r\nHost: h\r\n\r\n", -400},
        {"GET http://h@evil.example/x HTTP/1.1\r\nHost: h\r\n\r\n", -400},
        {HEAD "X: a\r\nX: b\r\n\r\n", 0}, /* of what means nothing here */
        {HEAD "Content-Length: 0x0f\r\n\r\n", -400},
        {HEAD "Content-Length: 1234567890123456789\r\n\r\n", -400},
        {HEAD "Transfer-Encoding: gzip\r\n\r\n", -501},
        {HEAD "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", -400},
        {HEAD "Transfer-Encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n", -400},
        {"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", -400},
        {LINE "\r\n", -400}, /* no Host */
        {"GET /x HTTP/1.0\r\n\r\n", 0},
        {LINE "Host : h\r\n\r\n", -400},
        {HEAD "X y: z\r\n\r\n", -400},
        {HEAD " folded: z\r\n\r\n", -400},
        {"POST /x HTTP/1.1\nHost: h\n\n", -400},
        {LINE "Host: h\nX: y\r\n\r\n", -400},
        {LINE "Host: h\rX: y\r\n\r\n", -400},
        {HEAD "Expect: 200-ok\r\n\r\n", -417},
        {"POST /x HTTP/2.0\r\nHost: h\r\n\r\n", -505},
        {HEAD, 1}, /* it is not all there */
    };

    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        struct httpin_head h;
        int r = head_of(c[i].s, &h);
        if (r != c[i].want)
            t_fail(__FILE__, __LINE__, "line %zu: got %d, want %d", i, r, c[i].want);
        httpin_fini(&h);
    }
}

static void a_list_is_read_in_all_its_lines(void)
{
    static const struct {
        const char *s;
        bool keep;
    } c[] = {
        {HEAD "Connection: keep-alive\r\nConnection: close\r\n\r\n", false},
        {HEAD "Connection: close\r\nX: y\r\nconnection: keep-alive\r\n\r\n", false},
        {HEAD "Connection: x\r\nConnection: y\r\n\r\n", true},
        {"GET / HTTP/1.0\r\nConnection: x\r\nConnection: keep-alive\r\n\r\n", true},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false},
    };

    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        struct httpin_head h;
        CHECK_EQ(head_of(c[i].s, &h), 0);
        if (h.keep != c[i].keep)
            t_fail(__FILE__, __LINE__, "line %zu: keep %d", i, h.keep);
        httpin_fini(&h);
    }
}

static void a_head_says_how_its_body_comes_and_what_follows(void)
{
    struct httpin_head h;

    CHECK_EQ(head_of(HEAD "Content-Length: 15\r\nExpect: 100-continue\r\n\r\n", &h), 0);
    CHECK(h.body_bytes == 15 && !h.chunked && h.expects && h.keep);
    httpin_fini(&h);
    CHECK_EQ(head_of(HEAD "Transfer-Encoding: Chunked\r\nConnection: x, Close\r\n\r\n", &h), 0);
    CHECK(h.chunked && h.body_bytes == 0 && !h.keep);
    CHECK_STR(h.path, "/x");
    httpin_fini(&h);
    CHECK_EQ(head_of("GET http://h/y?a#b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &h), 0);
    CHECK(h.keep);
    CHECK_STR(h.path, "/y");
    httpin_fini(&h);
}

static void headers_have_a_bound(void)
{
    size_t n = 2 * HTTPIN_HEAD_MAX, seen = 0;
    struct errbuf eb = {""};
    char *s = malloc(n);

    memset(s, 'a', n);
    CHECK_EQ(httpin_scan(s, HTTPIN_HEAD_MAX, &seen, &eb), 0);
    CHECK_EQ(httpin_scan(s, n, &seen, &eb), -431);
    free(s);
}

/* 1: all of it, with these bytes of it as the body; 0: more is to come; -400. */
static int chunks_of(const char *s, char *ret, size_t cap)
{
    struct httpin_chunks c = {0};
    struct errbuf eb = {""};
    size_t at = 0, n = 0, got = 0, used;
    const char *p;
    int r = 0;

    while (r == 0 && at < strlen(s)) {
        r = httpin_chunk(&c, s + at, strlen(s) - at, &used, &p, &n, &eb);
        if (r < 0)
            break;
        CHECK(got + n < cap);
        memcpy(ret + got, p, n);
        got += n;
        at += used;
    }
    ret[got] = 0;
    return r;
}

static void chunks_end_where_they_say(void)
{
    char b[64];

    CHECK_EQ(chunks_of("3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n", b, sizeof b), 1);
    CHECK_STR(b, "abcd");
    CHECK_EQ(chunks_of("3\r\nabc\r\n", b, sizeof b), 0);
    CHECK_EQ(chunks_of("3\r\nabcd\r\n0\r\n\r\n", b, sizeof b), -400);
    CHECK_EQ(chunks_of("3\r\nabcX\n0\r\n\r\n", b, sizeof b), -400);
    CHECK_EQ(chunks_of("3\nabc\r\n0\r\n\r\n", b, sizeof b), -400);
    CHECK_EQ(chunks_of("00000000a\r\n", b, sizeof b), -400); /* nine digits */
    CHECK_EQ(chunks_of("\r\nabc\r\n", b, sizeof b), -400);
}

static void trailers_and_blanks_are_passed_over(void)
{
    static char b[100], s[3 * HTTPIN_TRAILER_MAX];
    CHECK_EQ(chunks_of("2 \r\nab\r\n1\t ;x=y\r\nc\r\n0\t\r\n\r\n", b, sizeof b), 1);
    CHECK_STR(b, "abc");
    CHECK_EQ(chunks_of("1\r\na\r\n0\r\nX-Sum: 1 2\r\nY:\r\n\r\n", b, sizeof b), 1);
    CHECK_STR(b, "a");
    CHECK_EQ(chunks_of("0\r\nX: 1\r\n", b, sizeof b), 0); /* not whole */
    static const char *const bad[] = {
        " 2\r\nab\r\n",     "2 x\r\nab\r\n",    "2 1\r\nab\r\n",       "2 \nab\r\n",
        "0\r\nX\r\n\r\n",   "0\r\n: x\r\n\r\n", "0\r\n X: folded\r\n", "0\r\nX: a\n\r\n",
        "0\r\nX: \x01\r\n", "0\r\nX y: a\r\n",  "0\r\nX: a\r\r\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (chunks_of(bad[i], b, sizeof b) != -400)
            t_fail(__FILE__, __LINE__, "%zu: taken", i);
    memset(s, ' ', 1000);
    memcpy(s, "2", 1);
    strcpy(s + HTTPIN_CHUNK_LINE_MAX + 10, "\r\nab\r\n");
    CHECK_EQ(chunks_of(s, b, sizeof b), -400);
    strcpy(s, "0\r\nX: ");
    memset(s + 6, 'x', HTTPIN_TRAILER_MAX);
    strcpy(s + 6 + HTTPIN_TRAILER_MAX, "\r\n\r\n");
    CHECK_EQ(chunks_of(s, b, sizeof b), -400);
    strcpy(s, "0\r\n");
    for (int i = 0; i < HTTPIN_TRAILER_MAX / 2; i++)
        strcat(s, "x:\r\n"); /* short lines add up */
    CHECK_EQ(chunks_of(s, b, sizeof b), -400);
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(a_head_means_one_thing_or_is_refused), C(a_list_is_read_in_all_its_lines),
       C(a_head_says_how_its_body_comes_and_what_follows), C(headers_have_a_bound),
       C(chunks_end_where_they_say), C(trailers_and_blanks_are_passed_over))
