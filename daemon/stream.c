/* stream.c - see stream.h. */
#include "daemon/stream.h"
#include "base/bytes.h"
#include "base/check.h"
#include "proto.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void stream_init(struct stream *s, char *const *stop, uint32_t n_stop, uint32_t top_want)
{
    memset(s, 0, sizeof *s);
    s->stop = stop;
    s->n_stop = n_stop;
    s->top_want = top_want;
}

void stream_fini(struct stream *s)
{
    free(s->buf);
    free(s->off);
    free(s->held);
    free(s->top);
    free(s->n_tops);
    free(s->piece);
    free(s->piece_at);
    free(s->begins);
    memset(s, 0, sizeof *s);
}

static int room(struct stream *s, size_t bytes, size_t held)
{
    if (s->n + bytes > s->cap) {
        size_t cap = (s->n + bytes) * 2 + 256;
        uint8_t *p = realloc(s->buf, cap);

        if (!p)
            return -ENOMEM;
        s->buf = p;
        s->cap = cap;
    }
    if (s->n_rec + 2 > s->rec_cap) {
        uint32_t cap = s->rec_cap ? s->rec_cap * 2 : 64;
        size_t *p = realloc(s->off, cap * sizeof *p);

        if (!p)
            return -ENOMEM;
        s->off = p;
        s->rec_cap = cap;
    }
    if (s->n_held + held > s->held_cap) {
        size_t cap = (s->n_held + held) * 2 + 64;
        char *p = realloc(s->held, cap);

        if (!p)
            return -ENOMEM;
        s->held = p;
        s->held_cap = cap;
    }
    if (s->top_want && s->n_rec + 1 > s->top_cap) {
        uint32_t cap = s->top_cap ? s->top_cap * 2 : 64;
        struct smp_top *t = realloc(s->top, (size_t)cap * s->top_want * sizeof *t);
        uint8_t *n;
        size_t *at, *from;

        if (t)
            s->top = t;
        n = t ? realloc(s->n_tops, cap) : NULL;
        if (n)
            s->n_tops = n;
        at = n ? realloc(s->piece_at, cap * sizeof *at) : NULL;
        if (at)
            s->piece_at = at;
        from = at ? realloc(s->begins, cap * sizeof *from) : NULL;
        if (!from)
            return -ENOMEM;
        s->begins = from;
        s->top_cap = cap;
    }
    return 0;
}

static int put_piece(struct stream *s, const char *p, size_t n)
{
    if (!p || n > UINT16_MAX)
        n = 0;
    if (s->n_piece + n + 2 > s->piece_cap) {
        size_t cap = (s->n_piece + n + 2) * 2 + 256;
        uint8_t *q = realloc(s->piece, cap);

        if (!q)
            return -ENOMEM;
        s->piece = q;
        s->piece_cap = cap;
    }
    st16(s->piece + s->n_piece, (uint16_t)n);
    if (n)
        memcpy(s->piece + s->n_piece + 2, p, n);
    s->n_piece += n + 2;
    return 0;
}

/* The model may be gone when they are read. */
static int put_pieces(struct stream *s, const struct tokenizer *t, const char *own,
                      size_t own_bytes, const struct smp_top *top, uint32_t n)
{
    size_t from = s->n_piece;
    int r = put_piece(s, own, own_bytes);

    for (uint32_t k = 0; r == 0 && k < n; k++) {
        size_t bytes = 0;
        const char *p = tok_piece(t, top[k].id, true, &bytes);

        r = put_piece(s, p, bytes);
    }
    if (r < 0)
        s->n_piece = from;
    s->piece_at[s->n_rec] = from;
    s->begins[s->n_rec] = s->fed;
    return r;
}

/* Where the first stop string begins in what is held; n_held: nowhere. */
static size_t stop_at(const struct stream *s)
{
    size_t at = s->n_held;

    for (uint32_t i = 0; i < s->n_stop; i++) {
        size_t len = strlen(s->stop[i]);
        const char *p = len ? memmem(s->held, s->n_held, s->stop[i], len) : NULL;

        if (p && (size_t)(p - s->held) < at)
            at = (size_t)(p - s->held);
    }
    return at;
}

/* How much of what is held can be let go: all but the longest end that begins a stop. */
static size_t safe_bytes(const struct stream *s)
{
    for (size_t at = 0; at < s->n_held; at++)
        for (uint32_t i = 0; i < s->n_stop; i++)
            if (s->n_held - at < strlen(s->stop[i]) &&
                memcmp(s->held + at, s->stop[i], s->n_held - at) == 0)
                return at;
    return s->n_held;
}

/* Moves the first n bytes held into the newest record. */
static void let_go(struct stream *s, size_t n)
{
    uint8_t *rec = s->buf + s->off[s->n_rec - 1];

    must(s->n_rec > 0 && s->n + n <= s->cap);
    memcpy(s->buf + s->n, s->held, n);
    s->n += n;
    s->off[s->n_rec] = s->n;
    st16(rec + 12, (uint16_t)(ld16(rec + 12) + n));
    memmove(s->held, s->held + n, s->n_held - n);
    s->n_held -= n;
}

int stream_token(struct stream *s, const struct tokenizer *t, int32_t id, float logprob,
                 const struct smp_top *top, uint32_t n_top, bool last)
{
    size_t bytes = 0, at;
    const char *piece = tok_piece(t, id, false, &bytes);
    uint8_t *rec;
    int r;

    must(!s->stopped);
    if (!piece)
        bytes = 0;
    r = room(s, HRT_REC_BYTES + s->n_held + bytes * 3 + 64, bytes * 3 + 64);
    if (r == 0 && s->top_want)
        r = put_pieces(s, t, piece, bytes, top, n_top < s->top_want ? n_top : s->top_want);
    if (r < 0)
        return r;
    rec = s->buf + s->n;
    s->off[s->n_rec] = s->n;
    s->n += HRT_REC_BYTES;
    s->off[s->n_rec + 1] = s->n;
    st32(rec, s->n_rec);
    st32(rec + 4, (uint32_t)id);
    memcpy(rec + 8, &logprob, 4);
    st16(rec + 12, 0);
    rec[14] = HRT_KIND_TEXT;
    rec[15] = 0;
    if (s->top_want) {
        uint32_t n = n_top < s->top_want ? n_top : s->top_want;

        if (n)
            memcpy(s->top + (size_t)s->n_rec * s->top_want, top, n * sizeof *top);
        s->n_tops[s->n_rec] = (uint8_t)n;
    }
    s->n_rec++;
    if (piece) {
        size_t made = tok_stream_feed(&s->utf, piece, bytes, s->held + s->n_held);

        s->n_held += made;
        s->fed += made;
    }
    at = stop_at(s);
    if (at < s->n_held) {
        let_go(s, at);
        s->n_held = 0;
        s->utf.n_held = 0;
        s->stopped = true;
    } else if (!last) {
        let_go(s, safe_bytes(s));
    }
    s->visible = s->n_held || s->utf.n_held ? s->n_rec - 1 : s->n_rec;
    return last && !s->stopped ? stream_end(s) : 0;
}

int stream_end(struct stream *s)
{
    int r = room(s, s->n_held + 64, 64);

    if (r < 0)
        return r;
    s->n_held += tok_stream_end(&s->utf, s->held + s->n_held);
    if (s->n_rec)
        let_go(s, s->n_held);
    s->n_held = 0;
    s->visible = s->n_rec;
    return 0;
}

const uint8_t *stream_read(const struct stream *s, uint32_t from, size_t bytes_max,
                           uint32_t *ret_to, size_t *ret_bytes)
{
    uint32_t to = from;

    *ret_to = from;
    *ret_bytes = 0;
    if (from >= s->visible)
        return NULL;
    while (to < s->visible && (to == from || s->off[to + 1] - s->off[from] <= bytes_max))
        to++;
    *ret_to = to;
    *ret_bytes = s->off[to] - s->off[from];
    return s->buf + s->off[from];
}

float stream_logprob(const struct stream *s, uint32_t i)
{
    float v;

    must(i < s->n_rec);
    memcpy(&v, s->buf + s->off[i] + 8, sizeof v);
    return v;
}

const struct smp_top *stream_tops(const struct stream *s, uint32_t i, uint32_t *ret_n)
{
    must(i < s->n_rec);
    *ret_n = s->top_want ? s->n_tops[i] : 0;
    return s->top_want ? s->top + (size_t)i * s->top_want : NULL;
}

const uint8_t *stream_pieces(const struct stream *s, uint32_t i)
{
    must(i < s->n_rec && s->top_want);
    return s->piece + s->piece_at[i];
}

size_t stream_begins(const struct stream *s, uint32_t i)
{
    must(i < s->n_rec && s->top_want);
    return s->begins[i];
}

size_t stream_bytes(const struct stream *s, uint32_t from, uint32_t to)
{
    must(from <= to && to <= s->n_rec);
    return s->off[to] - s->off[from];
}

size_t stream_unread(const struct stream *s, uint32_t from)
{
    return from < s->n_rec ? s->n - s->off[from] : 0;
}
