/* engd.h - the engine thread of one model: loads it, runs steps, samples.
 *
 * One command at a time: the loop submits, the thread runs it, done() comes back on the loop
 * thread (eventfd).  The step in flight belongs to the thread until done. */
#ifndef DAEMON_ENGD_H
#define DAEMON_ENGD_H
#include "base/bounds.h"
#include "base/err.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include <stdbool.h>
#include <stdint.h>

struct loop;
struct engd;

struct engd_load {
    struct eng_opts opts;
    void (*progress)(void *user, double done);                              /* loop thread */
    void (*done)(void *user, int res, struct engine *e, const char *words); /* loop thread */
    void *user;
};
/* What to do with one sequence's last logits. */
struct engd_pick {
    const struct smp_params *params; /* NULL: no token wanted of this sequence */
    const int32_t *recent;
    uint32_t n_recent;
    uint64_t pos;
    struct smp_result result;
    int res; /* filled when the step's is 0: 0, E_NAN (the logits are no numbers), -EINVAL (no
                token is left to pick) */
};
struct engd_step {        /* caller's memory until done */
    struct eng_step step; /* seq[i].logits is supplied by the thread when pick[i].params */
    struct eng_seq seq[STEP_SEQS_MAX];
    struct engd_pick pick[STEP_SEQS_MAX];
    uint64_t started_ns, ended_ns;
    int res;
    void (*done)(struct engd_step *s); /* loop thread */
    void *user;
};
/* Starts the thread and the load. */
int engd_open(struct engd **ret, struct loop *l, const struct engd_load *load);
int engd_submit(struct engd *g, struct engd_step *s); /* 0, -EAGAIN: one is in flight */
void engd_abort(struct engd *g);                      /* the step in flight ends early */
bool engd_busy(const struct engd *g);
/* Whether its thread has no step, also one whose end the loop has not heard of: then no page is
 * written to. */
bool engd_rests(struct engd *g);
/* Waits for the step in flight, closes the engine, joins.  Blocks: shutdown and unload only
 * when idle. */
void engd_close(struct engd *g);

#endif
