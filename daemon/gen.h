/* gen.h - requests and their streams, and the clockwork that runs steps.
 *
 * A request lives from START until ten minutes after its end.  It is admitted (rendered,
 * tokenised, matched, made durable), gets its pages (kvflow.h), takes part in steps
 * (sched.h, engd.h), and ends with a durable turn; its stream is read with NEXT.  After a
 * restart a request is found again by its id and goes on where its tokens are durable.
 * Loop thread only. */
#ifndef DAEMON_GEN_H
#define DAEMON_GEN_H
#include "base/err.h"
#include "kvstore/key.h"
#include <stdbool.h>
#include <stdint.h>

struct call;
struct daemon;
struct model;
struct sess;

/* After sess_open and models_open. */
int gen_open(struct daemon *d, struct errbuf *eb);
/* The daemon ends: no more steps; what was generated is committed with its turn left open
 * (the same id goes on after the restart), finished blocks go down.  Runs the store's loop
 * turn itself, at most stop_timeout_s.  The io and commit threads must still run; the loop
 * need not.  Order at the end: gen_stop, links_close, stored_close, models_close (engd_close
 * inside), gen_close, sess_close, kvs_close. */
void gen_stop(struct daemon *d);
void gen_close(struct daemon *d);

struct gen_counts {
    uint32_t running; /* in steps or being restored */
    uint32_t waiting; /* queued, for a model, or for pages */
    uint32_t streams; /* kept in memory, ended ones too */
};
void gen_counts(struct daemon *d, struct gen_counts *ret);
/* Does a request use the model now? */
bool gen_uses(struct daemon *d, const struct model *m);
/* m is no model any more: what is known of its steps goes.  false: a request refers to it. */
bool gen_model_forget(struct daemon *d, const struct model *m);
/* Is a request of anybody but uid (the kernel's) at work in a model? */
bool gen_others(const struct daemon *d, uint32_t uid);
/* One request that does, in words for an error to uid: one of his by its session's name, else by
 * ids; of another's only that there is one.  False: none. */
bool gen_user(struct daemon *d, const struct model *m, uint32_t uid, char *ret, size_t cap);

/* The link (call.h's, compared only) has closed: what it read has no reader (reader.c). */
void readers_link_gone(struct daemon *d, const void *link);
/* The store asks which branches are held in memory alone (kvs_on_collect). */
void gen_hold(struct daemon *d);

/* The session goes out of the table: ended requests forget it. */
void gen_session_gone(struct daemon *d, const struct sess *s);

/* MODEL_LOAD's stream: NEXT on id tells the model's progress until it is loaded or failed.
 * -EEXIST: the id is another operation's, or another model's load. */
int gen_load_stream(struct daemon *d, uint32_t uid, const struct kvs_id *id, struct model *m);

#endif
