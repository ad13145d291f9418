/* req.h - one request, as the files around gen.c share it.  Not for anyone else.
 *
 * A request's way:
 *   LOADING  the model is being loaded (or its state is read back after a restart)
 *   PREP     the worker renders, tokenises and looks for the longest stored prefix
 *   QUEUED   admitted: its beginning is on its way to the disk; waits for pages
 *   RESTORING  blocks come up from the store
 *   PREFILL, DECODE  takes part in steps
 *   COMMITTING  ended; its last batch is on the way to the disk
 *   DONE     kept for ten minutes
 * Loop thread only, but for the prep job's run (render.c), which touches struct prepared
 * alone. */
#ifndef DAEMON_REQ_H
#define DAEMON_REQ_H
#include "daemon/asked.h"
#include "daemon/chores.h"
#include "daemon/gen.h"
#include "daemon/kvflow.h"
#include "daemon/loop.h"
#include "daemon/prep.h"
#include "daemon/said.h"
#include "daemon/sess.h"
#include "daemon/stream.h"
#include "daemon/turns.h"
#include "engine/sampler.h"
#include "engine/tokenizer.h"
#include "kvstore/record.h"
#include <cjson/cJSON.h>

struct call;
struct chat;
struct engd_step;
struct engine;

enum req_state {
    REQ_LOADING,
    REQ_PREP,
    REQ_QUEUED,
    REQ_RESTORING,
    REQ_PREFILL,
    REQ_DECODE,
    REQ_COMMITTING,
    REQ_DONE,
};
enum req_input { IN_MESSAGES, IN_PROMPT, IN_TOKENS, IN_DOCUMENTS };

/* What was asked for, once parsed; serialised with the request so that it survives. */
struct ask {
    struct smp_params smp; /* bias points at bias */
    struct smp_bias *bias;
    char *stop[STREAM_STOPS_MAX];
    uint32_t n_stop;
    int64_t max_tokens; /* -1: until the model ends or the context is full */
    bool ignore_eos;
    uint32_t n_top;
};
/* params of START over the model's own defaults.  0, or the call has been failed. */
int ask_parse(struct call *c, const cJSON *params, const cJSON *defaults,
              const struct kvs_id *id, struct ask *ret);
void ask_fini(struct ask *a);
cJSON *ask_save(const struct ask *a);
int ask_load(struct ask *a, const cJSON *o); /* E_CORRUPT */

/* One message; texts belong to the prepared. */
struct msg {
    char *role, *text;
};
struct cand { /* a stored path that may begin as the prompt does */
    struct kvs_id session;
    struct toks *toks;
    uint64_t head;
};
enum { CANDS_MAX = 64 };

/* What the worker is given, and what it hands back. */
struct prepared {
    struct prep_job job;
    struct req *r; /* NULL: the request is gone, nobody wants the result */
    /* in */
    struct prep_job *turn; /* the job that is being run: its own, or COUNT's */
    const struct tokenizer *tok;
    const struct chat *chat;
    const char *chat_why; /* the template that is there cannot be run; NULL: none is there */
    uint32_t n_vocab;
    uint8_t input; /* enum req_input */
    bool raw, special, generate;
    char *system, *text;
    size_t text_bytes;
    struct msg *msg;
    uint32_t n_msg;
    int32_t *ids;
    uint64_t n_ids;
    char date[11];
    struct toks *path; /* the session's tokens, or NULL */
    uint64_t head;
    struct turn last, before; /* its last turns; n_turns says how many there are */
    uint32_t n_turns;
    struct cand cand[CANDS_MAX];
    uint32_t n_cand;
    /* out */
    uint32_t status; /* enum hrt_status: 0 fine */
    const char *slug;
    char words[512];
    struct tok_ids out; /* follows the first base tokens */
    int32_t base_cand;  /* whose: -1 the session's (or nobody's) */
    uint64_t base;
    bool user_open;    /* ends inside a user turn */
    bool opened;       /* ends with the assistant's opening */
    bool again;        /* the same documents as the ingest that was cut: nothing new */
    struct said *said; /* its messages, when there are several and they were found */
    uint32_t n_said;
    uint64_t took_ns;
};
void prepared_free(struct prepared *p);
void prepared_model(struct prepared *p, const struct engine *e); /* what it needs of e */
void render_run(struct prep_job *j);                             /* worker thread */

/* A call that waits: for admission (START) or for news (NEXT). */
struct wait {
    struct call *call; /* NULL once the peer has gone */
    struct req *r;
    bool start;
    uint32_t cursor;
    size_t bytes_max;
    struct loop_timer timer;
    struct wait *next;
};

enum { REQ_MAGIC = 0x52455131 };
struct req {
    uint32_t magic;
    struct daemon *d;
    struct kvs_id id;
    uint32_t uid;          /* its owner */
    uint32_t user;         /* ident_uid of it */
    uint64_t sess_used_ns; /* its session was last used then, before this; wall clock, 0: new */
    uint64_t arrived_ns, admitted_ns, wall_ns;
    uint8_t state;  /* enum req_state */
    bool load_only; /* MODEL_LOAD's stream */
    struct model *m;
    bool using_model;
    struct sess *s; /* where it runs; NULL before admission without one, and after removal */
    struct branch *br;
    struct ask ask;
    bool ingest, fork, keep, prefix;
    bool
        goes_on; /* its session is what the conversation goes on with: it keeps room for more */
    bool bounded; /* ask.max_tokens is not what was asked for, but a session's default */
    uint8_t asked[ASKED_BYTES]; /* what its START said */
    bool asked_known;           /* false: written before that was kept */
    struct prepared *prep;
    struct cJSON *back; /* read back after a restart: what was saved with the request */

    /* tokens */
    struct toks *toks;   /* the whole path, what is generated at its end */
    uint64_t n_prompt;   /* position of the first token generated */
    uint64_t base;       /* tokens that were in the log before this request */
    uint64_t turn_first; /* where the turn it adds as input begins */
    uint64_t sent;       /* tokens on their way to the log, or there */
    uint32_t n_gen;
    uint32_t probs_sent; /* of these: what probs.h keeps of them */
    uint8_t saved[16];   /* hash of the record as it was last written, and when */
    uint64_t saved_ns;
    bool user_open, opened, raw_turn;
    uint32_t role;           /* enum kvs_role: of the turn it adds as input */
    const struct said *said; /* turns before it, until its beginning is submitted */
    uint32_t n_said;
    bool new_branch;  /* br is this request's own: its record goes with the beginning */
    bool begun;       /* the record that it began is durable (or the store is off) */
    bool durable;     /* no batch of this request failed, or waits for room */
    bool behind;      /* one waits, or did */
    uint32_t batches; /* on their way */
    uint32_t kept;    /* in the outbox until there is room; those it does not wait for */
    bool end_waits;   /* turn_end found no memory */
    uint64_t sent_ns;
    uint32_t turn_no;

    /* steps */
    struct kvf_seq q;
    bool in_step, cancel, paused, preempted;
    uint64_t evaluated; /* rows there, for progress */
    uint64_t reused;
    uint64_t resumed; /* rows that were there when it began to run */
    uint64_t found_device, found_host, found_file; /* tokens, by where they were found */
    uint64_t prefilled;
    uint64_t ran_ns;

    /* the stream */
    struct stream st;
    uint32_t acked;
    uint64_t read_ns;   /* somebody last asked for news */
    const void *reader; /* his link, to be compared only */
    int32_t reader_pid; /* as he said it; 0: he did not, or its end cannot be seen */
    bool reader_unseen; /* the latter */
    uint64_t left_ns;   /* his link closed then; 0: it is open, or another has come */
    struct wait *waits;
    struct call *asker; /* who had it read back, until recover returns: hears why not */
    char warn[4][640];
    uint32_t n_warn, warn_said;
    uint64_t news_ns, told_done; /* progress last told */
    uint8_t told_state;

    /* the end */
    uint8_t finish; /* enum finish */
    bool eot;       /* the last token closed the turn */
    uint32_t err_status;
    const char *err_slug;
    char err_words[800];
    /* With context_length_exceeded: tokens, the context, what its session has of them. */
    uint64_t err_a, err_b, err_held;
    int64_t err_turn; /* a rewind to this turn would make room; -1: none would */
    uint64_t ended_ns;
    cJSON *done_json; /* usage, timings ...: made once */

    /* times, ns */
    uint64_t load_ns, queue_from_ns, queue_ns, restore_from_ns, restore_ns, prefill_from_ns,
        prefill_ns, first_token_ns, decode_from_ns, decode_ns;
    struct req *next, *prev;
};

struct run_item {
    struct req *r;
    uint64_t pos;
    uint32_t n;
    bool picks;
};
struct gmodel { /* one model's clockwork; lives until gen_close */
    struct gen *gen;
    struct model *m;
    struct engd_step *step;
    struct run_item item[64];
    uint32_t n_items;
    uint32_t n_prefill; /* prefill tokens of the step in flight */
    uint32_t step_us, prefill_ns_per_tok, mixed_ns_per_tok; /* measured */
    struct turns turns;
};
struct gen {
    struct daemon *d;
    struct req *reqs; /* newest first */
    uint32_t n_reqs, n_active;
    struct gmodel *gm[16];
    struct loop_timer timer; /* every half second: idle readers, commits, expiry */
    struct loop_timer kick;
    uint64_t swept_ns;
    struct gen_expiry {
        struct chore chore; /* first */
        struct gen *gen;
        bool on;
    } expiry;                /* sessions that are due go, a few at a time */
    struct call *parked[64]; /* STARTs that wait for a session that somebody left */
    uint32_t n_parked;
    bool freed; /* a session is, since they were last looked at */
    bool stopping;
};

/* gen.c */
struct req *req_new(struct daemon *d, uint32_t uid, const struct kvs_id *id);
struct req *req_find(struct daemon *d, uint32_t uid, const struct kvs_id *id);
/* Is there room for one more of uid?  Else the call is failed with the numbers. */
bool req_room(struct call *c);
void req_free(struct req *r);
void req_finish(struct req *r, enum finish fin);
__attribute__((format(printf, 4, 5))) void req_fail(struct req *r, uint32_t status,
                                                    const char *slug, const char *fmt, ...);
__attribute__((format(printf, 2, 3))) void req_warn(struct req *r, const char *fmt, ...);
void req_done(struct req *r);  /* its last batch is durable, or will never be */
void req_queue(struct req *r); /* admitted: from here on the clockwork has it */
void req_state(struct req *r, enum req_state to);
bool req_active(const struct req *r);
void req_cancel(struct req *r); /* in whatever state; frees r when it was not admitted yet */
void req_pause(struct req *r);  /* or goes on, as its reader does */
/* A START came for r's session.  true: nobody has read r for a while, it is cancelled and
 * saved (or ends just now), so the START may wait for that; else ret_ms says when that would
 * be so, 0: r has a reader. */
bool req_gives_way(struct req *r, uint64_t *ret_ms);
/* c, a START, is carried out anew once a session is free.  -EAGAIN: too many wait. */
int gen_park(struct gen *g, struct call *c);
void load_failed(struct req *r); /* MODEL_LOAD's stream ends with the model's error */
struct gmodel *gen_model(struct gen *g, struct model *m);
void gen_kick(struct daemon *d); /* something changed outside the loop's events */

/* admit.c */
/* A new request; answers c.  asked: asked_hash of c. */
void admit_start(struct call *c, const struct kvs_id *id, const uint8_t asked[ASKED_BYTES]);
void admit_model_ready(struct req *r);

/* turn.c */
cJSON *req_save(struct req *r, bool done); /* its record: what is kept with its id */
int turn_begin(struct req *r);             /* durable before the first token */
void turn_commit(struct req *r);           /* what was generated so far */
/* The open request of a session a crash cut short, as ended; first: of the turn it left open.
 * text is the caller's to free and carries ret->reply. */
int turn_interrupted(struct daemon *d, struct sess *s, struct kvs_req *ret, char **ret_text,
                     uint64_t *ret_first);
void turn_end(struct req *r); /* the last batch; req_done follows */

/* unseen.c */
/* Of an answer of these n tokens that a stop string ended: how many its text has whole, and
 * how many bytes of the next. */
void unseen_of(const struct stream *st, const struct tokenizer *tok, const int32_t *ids,
               uint64_t n, uint32_t *ret_seen, uint32_t *ret_bytes);
/* Does s, whose turns are known and whose tokens are path, agree with all of p that anybody
 * has seen: is what lies behind p->base behind a stop string? */
bool unseen_behind(const struct sess *s, const struct prepared *p, const int32_t *path);

/* recover.c */
/* From the store: a request of c's user that ended lately or is open.  asked: what c asks for
 * with the id (NULL: c only names it).  0: req_find finds it, or it could not be and c has been
 * failed; -ENOENT; -ESTALE: it ended too long ago, or its session has gone on; -EBUSY: its
 * session is about to; -EEXIST: the id was another operation's, or asked for something else;
 * E_CORRUPT: what is stored is not what it left. */
int recover(struct call *c, const struct kvs_id *id, const uint8_t *asked);
void recover_ready(struct req *r); /* its model is loaded; frees r if it cannot go on */

/* reader.c */
/* A START or NEXT of r: c's sender reads it from now on. < 0: c has been failed. */
int reader_came(struct req *r, struct call *c);
/* What it says of its process, as far as it does. < 0: c has been failed. */
int reader_said(struct call *c, uint64_t *ret_pid, uint64_t *ret_ns);
bool reader_gone(const struct req *r, uint64_t now); /* for good, as far as can be known */

/* ops_stream.c */
void wait_start(struct req *r, struct call *c);
void waits_wake(struct req *r, bool news); /* answers those that have something to hear */
void wait_drop(struct wait *w);
void waits_progress(struct gen *g, struct model *m); /* a load or a prefill has moved */
void waits_fail(struct req *r);      /* not admitted: every START waiting hears why */
cJSON *req_done_json(struct req *r); /* what `done` adds; borrowed */

#endif
