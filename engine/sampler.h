/* sampler.h - logits to one token; randomness is a function of (seed, position).
 *
 * Logit bias, then the steps in params.order, as llama.cpp's users know them: penalties, top-k,
 * top-p, min-p, temperature.  A filter sees what the steps before it left: with temperature
 * last, the filters look at the model's own distribution.  temp 0 is greedy (ties: the smaller
 * id), and so is one below 3e-39, whose inverse is no float.  No state between calls: the same inputs give the same token, which is what lets a
 * killed answer go on. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

struct smp_bias {
    int32_t id;
    float add; /* -100: never */
};
enum smp_step { SMP_PENALTIES, SMP_TOP_K, SMP_TOP_P, SMP_MIN_P, SMP_TEMPERATURE, SMP_STEP_ };
struct smp_params {
    uint8_t
        order[SMP_STEP_]; /* enum smp_step, each at most once; what is not there is not done */
    uint32_t n_order;
    float temp;           /* 0: greedy */
    uint32_t top_k;       /* 0: off */
    float top_p;          /* (0, 1]; 1: off */
    float min_p;          /* [0, 1]; 0: off */
    float repeat_penalty; /* 1: off; over the last repeat_last tokens */
    uint32_t repeat_last; /* default 64 */
    float presence_penalty,
        frequency_penalty; /* 0: off; over generated and prompt tail alike */
    const struct smp_bias *bias;
    uint32_t n_bias;
    uint64_t seed;
    uint32_t n_top; /* alternatives wanted in top[], <= SMP_TOP_MAX */
};
enum { SMP_TOP_MAX = 20, SMP_SCRATCH = 12 };
struct smp_top {
    int32_t id;
    float logprob;
};
struct smp_result {
    int32_t id;
    float logprob; /* log softmax of the raw logits, as peers report it */
    struct smp_top top[SMP_TOP_MAX];
    uint32_t n_top;
};
void smp_defaults(struct smp_params *p);
const char *smp_step_name(enum smp_step s); /* "top_k" */
/* n names become the order.  -EINVAL with words: a name there is not, one that comes twice,
 * penalties anywhere but first. */
int smp_order_set(struct smp_params *p, const char *const *names, uint32_t n,
                  struct errbuf *eb);
/* The only order there was before there was a choice: temperature before the filters.  For
 * answers that began with it. */
void smp_order_first(struct smp_params *p);
/* 0, or -EINVAL with the member's name and range in eb. */
int smp_check(const struct smp_params *p, uint32_t n_vocab, struct errbuf *eb);
/* recent: the last n_recent ids of the context, newest last.  pos: the position the new token
 * will have.  mask: NULL, or n_vocab bits, 0 = forbidden (grammars).  scratch: SMP_SCRATCH bytes
 * for each token of the vocabulary, aligned as floats.  All three penalties look at the last repeat_last of recent.  -EINVAL when
 * no token is left: every one is masked, -infinity or not a number (that one is never picked). */
int smp_pick(const struct smp_params *p, const float *logits, uint32_t n_vocab,
             const int32_t *recent, uint32_t n_recent, uint64_t pos, const uint8_t *mask,
             void *scratch, struct smp_result *ret);

#endif
