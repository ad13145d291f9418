/* detok.c - the streaming detokenizer of tokenizer.h.
 *
 * A token may end inside a code point.  What could still become one is held; what cannot is
 * one U+FFFD per maximal broken part, so that any cutting of the same bytes gives the same
 * text as reading them at once. */
#include "base/check.h"
#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include <string.h>

static size_t put_bad(char *out)
{
    return utf8_put(0xfffd, out);
}

size_t tok_stream_feed(struct tok_stream *s, const char *piece, size_t bytes, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < bytes; i++) {
        must(s->n_held < 4);
        s->held[s->n_held++] = (uint8_t)piece[i];
        int status = utf8_status(s->held, s->n_held);
        if (status < 0 && s->n_held > 1) {
            /* The new byte broke what was held; by itself it may begin something. */
            n += put_bad(out + n);
            s->held[0] = (uint8_t)piece[i];
            s->n_held = 1;
            status = utf8_status(s->held, 1);
        }
        if (status < 0) {
            n += put_bad(out + n);
            s->n_held = 0;
        } else if (status > 0) {
            memcpy(out + n, s->held, s->n_held);
            n += s->n_held;
            s->n_held = 0;
        }
    }
    return n;
}

size_t tok_stream_end(struct tok_stream *s, char *out)
{
    size_t n = s->n_held ? put_bad(out) : 0;
    s->n_held = 0;
    return n;
}
