/* probs.h - what is kept of each token of an answer beside its id: its log probability, and
 * the alternatives when they were asked for.
 *
 * With every batch of tokens goes a part of the request (kvstore/record.h) that says it of
 * these tokens and of no others: what is written is what is new.  `first` counts from the
 * answer's beginning, so the parts together say which tokens are the request's own.  Layout:
 * docs/FORMATS.md.  Loop thread only. */
#ifndef DAEMON_PROBS_H
#define DAEMON_PROBS_H
#include "daemon/stream.h"
#include "kvstore/record.h"
#include <cjson/cJSON.h>

struct daemon;

/* The part for tokens [from, to) of s; the caller frees its data, and names the request. */
int probs_make(const struct stream *s, uint32_t from, uint32_t to, struct kvs_part *ret);

/* Reading: saved is the JSON of the request's record.  One of an older version carries
 * everything itself. */
bool probs_old(const cJSON *saved);
/* How many tokens are the request's.  E_CORRUPT: parts are missing or make no sense. */
int probs_count(struct daemon *d, uint32_t owner, const struct kvs_id *id, const cJSON *saved,
                uint64_t *ret);
/* Of each of these tokens, in order; NAN where it is not known.  Nonzero from each stops. */
typedef int probs_each_fn(void *ctx, uint64_t i, float logprob, const struct smp_top *top,
                          uint32_t n_top);
int probs_each(struct daemon *d, uint32_t owner, const struct kvs_id *id, const cJSON *saved,
               probs_each_fn *each, void *ctx);

#endif
