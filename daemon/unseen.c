/* unseen.c - the end of an answer that its reader never saw.
 *
 * A stop string ends an answer's text before it; the tokens that said it are on the path.  A
 * client that sends its whole conversation back has the text up to there, and means the same
 * conversation: it goes on from where the text agrees, and what nobody saw is left behind. */
#include "base/check.h"
#include "daemon/req.h"
#include "proto.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { UNSEEN_TOKENS_MAX = 4096 }; /* of a stop string, and of text the client cut at its end */

void unseen_of(const struct stream *st, const struct tokenizer *tok, const int32_t *ids,
               uint64_t n, uint32_t *ret_seen, uint32_t *ret_bytes)
{
    size_t text = st->n - (size_t)st->n_rec * HRT_REC_BYTES, at = 0;
    struct tok_stream u = {{0}, 0};
    char *out = NULL;
    uint64_t i;

    *ret_seen = *ret_bytes = 0;
    for (i = 0; i < n; i++) {
        size_t bytes = 0, made;
        const char *piece = tok_piece(tok, ids[i], false, &bytes);
        char *p = realloc(out, bytes * 3 + 64);

        if (!p)
            break;
        out = p;
        made = piece ? tok_stream_feed(&u, piece, bytes, out) : 0;
        if (at + made > text)
            break;
        at += made;
    }
    free(out);
    *ret_seen = (uint32_t)i;
    *ret_bytes = (uint32_t)(text - at);
}

/* Appends the bytes of ids to *at, until there are max. */
static void pieces(const struct tokenizer *tok, const int32_t *ids, uint64_t n, bool special,
                   char *p, size_t *at, size_t max)
{
    for (uint64_t i = 0; i < n && *at < max; i++) {
        size_t bytes = 0;
        const char *piece = tok_piece(tok, ids[i], special, &bytes);

        if (bytes > max - *at)
            bytes = max - *at;
        if (piece)
            memcpy(p + *at, piece, bytes);
        *at += piece ? bytes : 0;
    }
}

bool unseen_behind(const struct sess *s, const struct prepared *p, const int32_t *path)
{
    enum { MAX = 1 << 16 };
    const struct turn *t = s->n_turns ? &s->turns[s->n_turns - 1] : NULL;
    size_t n = 0, m = 0;
    uint64_t seen;
    char *text;
    bool same;

    if (!t || !t->stopped || t->first + t->n_tokens != s->head || p->base < t->first ||
        p->base >= s->head || s->head - p->base > UNSEEN_TOKENS_MAX)
        return false;
    seen = t->first + t->seen;
    if (seen >= s->head || !(text = malloc(2 * MAX)))
        return false;
    /* What was seen behind the place, and what the client says there. */
    if (p->base <= seen) {
        pieces(p->tok, path + p->base, seen - p->base, false, text, &n, MAX);
        pieces(p->tok, path + seen, 1, false, text, &n,
               n + t->seen_bytes < MAX ? n + t->seen_bytes : MAX);
    }
    /* Many a client takes the spaces off an answer's end. */
    while (n && isspace((unsigned char)text[n - 1]))
        n--;
    pieces(p->tok, p->out.p, p->out.n, true, text + MAX, &m, n);
    same = m == n && memcmp(text, text + MAX, n) == 0;
    free(text);
    return same;
}
