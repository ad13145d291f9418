/* stream.h - the records of an answer: tokens, log probabilities and the text they make.
 *
 * One record per token (proto.h).  Text is held back while it may be the beginning of a stop
 * string or of a code point, and joins a later record; the newest record stays out of sight
 * while something is held, since the end of the answer may still have to put it there.
 * What a record says is a pure function of the tokens up to it and of whether the answer
 * ended there, so records can be made again from stored tokens.  No I/O, one owner. */
#ifndef DAEMON_STREAM_H
#define DAEMON_STREAM_H
#include "base/err.h"
#include "engine/sampler.h"
#include "engine/tokenizer.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STREAM_STOPS_MAX = 16, STREAM_STOP_BYTES_MAX = 1024 };

struct stream {
    uint8_t *buf; /* the records, back to back */
    size_t n, cap;
    size_t *off; /* off[i]: where record i begins; off[n_rec] = n */
    uint32_t n_rec, rec_cap;
    uint32_t visible; /* records that may be handed out: they will not change */
    struct tok_stream utf;
    char *held; /* whole code points that may begin a stop string */
    size_t n_held, held_cap;
    char *const *stop; /* borrowed */
    uint32_t n_stop;
    bool stopped;        /* a stop string was met; nothing may follow */
    struct smp_top *top; /* n_top per record, when asked for */
    uint8_t *n_tops;
    uint32_t top_want, top_cap;
    uint8_t *piece; /* of each record its own bytes, then its alternatives' (stream_pieces) */
    size_t *piece_at, n_piece, piece_cap;
    size_t fed;     /* bytes of text that were made of tokens so far */
    size_t *begins; /* of each record: fed before it */
};

void stream_init(struct stream *s, char *const *stop, uint32_t n_stop, uint32_t top_want);
void stream_fini(struct stream *s);
/* Adds a token.  last: the answer ends with it whatever it says.  -ENOMEM. */
int stream_token(struct stream *s, const struct tokenizer *t, int32_t id, float logprob,
                 const struct smp_top *top, uint32_t n_top, bool last);
/* The answer ended without another token: what was held comes out in the last record. */
int stream_end(struct stream *s);
/* Records [from, ret_to) whole and within bytes_max (one at least); NULL when there is none. */
const uint8_t *stream_read(const struct stream *s, uint32_t from, size_t bytes_max,
                           uint32_t *ret_to, size_t *ret_bytes);
float stream_logprob(const struct stream *s, uint32_t i);
/* The alternatives of record i, when they were asked for. */
const struct smp_top *stream_tops(const struct stream *s, uint32_t i, uint32_t *ret_n);
/* When alternatives were asked for: the bytes that token i adds to the text (none: it is not
 * text), then those of each alternative.  Each is a u16 length and so many bytes, which need
 * not be whole characters. */
const uint8_t *stream_pieces(const struct stream *s, uint32_t i);
/* Where in the answer's text the first of its bytes comes out; a token whose place is not
 * below the end of the text lies behind a stop string. */
size_t stream_begins(const struct stream *s, uint32_t i);
size_t stream_bytes(const struct stream *s, uint32_t from, uint32_t to); /* of these records */
size_t stream_unread(const struct stream *s, uint32_t from); /* bytes, visible or not */

#endif
