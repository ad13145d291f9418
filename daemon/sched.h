/* sched.h - which sequences the next step runs, and how many tokens of each; decided, not done.
 *
 * sched_plan() is a pure function: no clock, no I/O, no allocation, no globals; the same view
 * always gives the same plan.  The loop carries it out and may fail to; the next view shows
 * what is true then.  That makes the policy testable with tables and safe to fuzz.
 *
 * Policy.  A step holds every sequence that is decoding (one token each) and then prefill, in
 * one batch (results do not depend on the batch, ENGINE.md §1).  While somebody decodes, the
 * prefill part is bounded by time: what fits into goal_us beside the decode rows, by measured
 * cost.  With nobody decoding, prefill takes up to chunk_max tokens (so that a cancel or a
 * newcomer waits for one chunk at most).  Prefill time is given to the sequence that has had
 * least of it per round: the one that waited longest since it last ran.  A chunk ends at an
 * absolute multiple of BLOCK_TOKENS or at the input's end whenever it reaches that far.
 *
 * When more than one user has something to run, each gets the same time of the step: while
 * somebody decodes as much as the cheapest decode takes alone, so that beside one other user a
 * token takes twice as long at most, however many requests he has; else an equal part of
 * chunk_max.  Who comes waits for the step that runs: while another was here lately, no step takes
 * longer than cap_ns, whoever it is for.  And who has rested begins with a tenth of that time,
 * eight steps' at most, of prefill beside it, one such user in a step: a short question is not
 * spread over many steps.  Between keys of one user that is part of cap_ns while another user was
 * here lately.  When one row of who waited longest costs more than his part, his user lets the
 * others work until he has waited for the difference.  Who has had least of the model's time
 * goes first.  A user's part goes to his keys in the same order, and no prefill of one takes
 * what the others of his would have in this step.  When only one user has something to run, his
 * keys are to each other what users are. */
#ifndef DAEMON_SCHED_H
#define DAEMON_SCHED_H
#include "base/bounds.h"
#include <stdbool.h>
#include <stdint.h>

struct sched_seq { /* one running request, as the scheduler sees it */
    uint32_t id;
    bool ready;    /* may run now: pages are here, nothing is being fetched, not paused */
    bool decoding; /* todo is 1 and a token is wanted */
    struct sched_who {
        uint32_t n;        /* a small number, below REQ_MAX */
        uint64_t spent_ns; /* what he has had */
        uint64_t idle_ns;  /* since he last took part in a step */
    } user, key;           /* whose it is, and by which of his keys (ident.h) */
    uint64_t row_ns;       /* what one token of it adds to a step; >= 1 */
    uint64_t pos;          /* of its next token to evaluate */
    uint64_t todo;         /* tokens known and not evaluated, >= 1 */
    uint64_t wait_us;      /* since it last ran, or arrived */
};
struct sched_view {
    const struct sched_seq *seq;
    uint32_t seqs;
    uint32_t pages_free;         /* device pages a step may still take */
    uint32_t chunk_max;          /* prefill tokens of a step with nobody decoding */
    uint32_t goal_us;            /* longest step while somebody decodes */
    uint32_t step_us;            /* measured: a step's cost with no prefill */
    uint32_t prefill_ns_per_tok; /* measured; 0: not known yet */
    uint64_t base_ns;            /* measured: what a step costs before its first row */
    uint64_t cap_ns;             /* longest step while another may come; 0: none may */
    bool users_come;             /* another user, not only another of his keys */
};
struct sched_plan {
    struct {
        uint32_t seq; /* index into the view */
        uint32_t n;   /* tokens */
    } run[STEP_SEQS_MAX];
    uint32_t runs;
};

void sched_plan(const struct sched_view *v, struct sched_plan *ret);
/* chunk_max of a view: at most `most` tokens, and of a slow model as many as it evaluates in
 * alone_us, since a cancel waits for the step that runs.  ns_per_tok 0: not measured yet. */
uint32_t sched_chunk(uint32_t most, uint32_t alone_us, uint32_t ns_per_tok);
/* What every plan obeys, whatever the policy: NULL, or the rule that was broken. */
const char *sched_check(const struct sched_view *v, const struct sched_plan *p);

#endif
