/* kvstore.h - blocks by key in tiers, sessions by name, across restarts and power cuts.
 *
 * Knows neither engine nor daemon: a block is an opaque payload of a layout's size, and the
 * caller supplies the copy between its device page and a host page as a callback.
 *
 * THREADS.  Three threads of the daemon each own a part, and only that part:
 *   loop    everything below without another mark: submits, reads the index, gets completions
 *   io      kvs_io_turn(): the ring, the host tier, file slots
 *   commit  kvs_commit_turn(): fdatasync, turn log, index write transactions
 * Submissions travel by bounded queues; completions come back through kvs_event_fd() and run
 * inside kvs_loop_turn(), on the loop thread, once per accepted request.  A request and all
 * it points at belong to the store from submit to done.
 *
 * ORDER (both proved with negative controls, tests/kvstore/):
 *   a batch (tokens, the truth): turn log append -> fdatasync -> index commit -> done
 *   a block (derived): payload and header to free slots, whole -> one fdatasync per touched
 *   segment -> index commit -> done; a freed slot is reused only after the commit that freed
 *   it and with no read in flight.
 * A failed fsync stops persistence for good (-EROFS from then on), reads go on.  Any mismatch
 * on load is a miss: dropped, counted, -ENOENT.  See kvstore/README.md for the rules. */
#ifndef KVSTORE_KVSTORE_H
#define KVSTORE_KVSTORE_H
#include "base/err.h"
#include "kvstore/record.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvstore;

enum kvs_io { KVS_IO_AUTO, KVS_IO_URING, KVS_IO_THREADS };
struct kvs_opts {
    const char *dir; /* made 0700 when missing */
    enum kvs_io io;
    uint64_t host_bytes; /* budget of the host tier's pages */
    uint64_t disk_bytes; /* limit: segments + log + index; never exceeded */
    uint64_t day_bytes;  /* write budget per day, 0: none; past it blocks do not go down */
    bool no_fsync;       /* tests and benchmarks only */
    /* Deliberately wrong orders, for the tests that prove the tests see them. */
    enum { KVS_RIGHT, KVS_WRONG_INDEX_FIRST, KVS_WRONG_ACK_FIRST } wrong;
};
struct kvs_open_report { /* said to the log and to `hearth status` */
    bool clean, rebuilt; /* closed cleanly last time; index was rebuilt */
    uint64_t sessions, blocks, blocks_dropped, log_bytes, log_torn_bytes;
    uint64_t segs_unread, blocks_unread; /* files left alone, and the blocks in them */
    uint64_t file_largest;               /* bytes of the largest file of blocks */
    uint64_t sessions_hurt;              /* that have lost something, or all, in this open */
    uint32_t format_was, format;         /* raised from the one to the other; 0: it was not */
    const char *io;                      /* "uring" | "threads" */
    char warning
        [256]; /* a state from the start on: io_uring refused, O_DIRECT refused ...; "" */
};
/* -EBUSY: another process has it (eb names its pid when known), after retrying for 2 s. */
int kvs_open(struct kvstore **ret, const struct kvs_opts *o, struct kvs_open_report *rep,
             struct errbuf *eb);
/* Forgets what is still being forgotten, marks clean and closes.  Call with both threads stopped
 * and nothing in flight. */
void kvs_close(struct kvstore *s);

/* Thread bodies: one round, waiting at most wait_ns for work.  Returns < 0 never; faults are
 * states of the store.  kvs_wake() makes both return early, for shutdown; any thread. */
void kvs_io_turn(struct kvstore *s, uint64_t wait_ns);     /* io thread */
void kvs_commit_turn(struct kvstore *s, uint64_t wait_ns); /* commit thread */
void kvs_wake(struct kvstore *s);
int kvs_event_fd(const struct kvstore *s); /* readable: call kvs_loop_turn */
/* 16 random bytes, the same as long as anything of the store is there; nobody else's to know. */
const uint8_t *kvs_uuid(const struct kvstore *s);
void kvs_loop_turn(struct kvstore *s);
uint64_t kvs_in_flight(const struct kvstore *s); /* accepted and not done */

/* --- blocks ------------------------------------------------------------------------------- */
struct kvs_layout {
    char id[64];        /* folder kv/ID */
    uint64_t hot_bytes; /* IO_ALIGN multiples; payload = hot, then cold */
    uint64_t cold_bytes;
};
/* Makes a layout known; *ret is its number for this run.  Reuses the folder when present,
 * E_SHAPE when it holds other sizes. */
int kvs_layout_add(struct kvstore *s, const struct kvs_layout *l, uint32_t *ret,
                   struct errbuf *eb);

enum kvs_from { KVS_FROM_NONE, KVS_FROM_HOST, KVS_FROM_FILE };
struct kvs_block_req {
    bool put;
    uint32_t layout;
    struct kvs_key key, parent;
    uint64_t variant;
    uint64_t first_pos;        /* of the block's first token */
    int32_t ids[BLOCK_TOKENS]; /* put: written into the header; get: compared with it */
    uint32_t n_tokens; /* of them, fewer than BLOCK_TOKENS: rows of an unfinished block, */
                       /* whose key is of that many; 0: all */
    bool last;         /* get: once handed up it is forgotten, the caller goes on from it */
    /* On the io thread: put fills the host page from the device; get hands a *verified*
     * payload to the device.  Nonzero fails the request with that code. */
    int (*copy)(struct kvs_block_req *r, void *payload);
    /* On the loop thread.  get: 0, -ENOENT (absent or dropped as corrupt), another code.
     * put: 0 durable; -ENOSPC, -EFBIG, E_LIMIT (disk_bytes), -EDQUOT (day budget), -EROFS, or what keeps
     * kv/ from being listed or written: not on disk, and why; in_host says whether the host tier
     * keeps it.  -EEXIST counts as 0: equal bytes are there. */
    void (*done)(struct kvs_block_req *r);
    int res;
    uint8_t from; /* get: enum kvs_from */
    bool in_host;
    bool corrupt; /* get: a copy was found and failed its check */
    void *user;
    struct kvs_block_req *next; /* the store's */
};
/* 0, or -EAGAIN when the queue is full. */
int kvs_block_submit(struct kvstore *s, struct kvs_block_req *r);
/* How many leading keys have a copy in host or file (a claim, checked again by get). */
uint32_t kvs_match(struct kvstore *s, const struct kvs_key *keys, uint32_t n, uint64_t variant);
/* How many of the keys, wherever they stand, have a copy in host and how many in file. */
void kvs_where(struct kvstore *s, const struct kvs_key *keys, uint32_t n, uint64_t variant,
               uint32_t *ret_host, uint32_t *ret_file);

/* A path that nobody needs any more, or the end of one, leaf last: the file copies are given
 * back, from the leaf up to the first that was used after it (somebody else has it too).  Not
 * waited for; what cannot go now, a put that is not done above all, is left to be evicted. */
void kvs_forget(struct kvstore *s, const struct kvs_key *keys, uint32_t n, uint64_t variant);

/* --- sessions, branches, turns, requests ---------------------------------------------------- */
struct kvs_batch {
    const struct kvs_rec *rec;
    uint32_t n_rec;
    void (*done)(struct kvs_batch *b); /* loop thread; res 0: durable */
    int res;
    void *user;
    struct kvs_batch *next; /* the store's */
    uint64_t seen;          /* likewise: refusals that the loop knew of */
};
/* Batches become durable in the order submitted; several share one sync and one commit.
 *
 * res of one that found no room: -EDQUOT (o.disk_bytes has none for turns), -ENOSPC (the file
 * system has none), -EFBIG (a file may not grow), -ENOMEM, -EAGAIN (the index waits to be checked or
 * made anew).  What was submitted after it and before its
 * done() ran is -ECANCELED, nothing of it was looked at: so whoever submits the same batches again
 * in the same order finds nothing of a later one ahead of an earlier.  Other codes say that a
 * batch fits the store at no time (accept.h), or that nothing is written any more (-EROFS). */
int kvs_batch_submit(struct kvstore *s, struct kvs_batch *b);

/* Branches that no session and no request leads to are dropped while the store is open.  The
 * loop is asked first, inside kvs_loop_turn: hold() calls kvs_hold for every branch that a
 * batch may yet name and that only the loop's memory leads to. */
void kvs_on_collect(struct kvstore *s, void (*hold)(void *ctx), void *ctx);
void kvs_hold(struct kvstore *s, const struct kvs_id *branch);
/* Turns, log and index have all the room the limit gives them: what is begun can be ended,
 * nothing should be begun before something was removed. */
bool kvs_turns_full(const struct kvstore *s);
/* An eighth of the limit (128 MiB at most) is left before that, or less: who has more than his
 * share should begin nothing. */
bool kvs_turns_short(const struct kvstore *s);
/* The day's write budget (0: none), what was written of it, and which count that is: another when
 * a new day began. */
uint64_t kvs_day(const struct kvstore *s, uint64_t *ret_today, uint64_t *ret_count);

/* Reads see everything done.  Callbacks copy out; nonzero from one stops and is returned.
 * E_CORRUPT: damaged, and nothing could mend it.  -ENOSPC, -EFBIG, -ENOMEM, -EAGAIN: it is there, and
 * cannot be read until the index was checked or made anew, which waits for that; -EROFS: until
 * a restart (kvs_stopped says why). */
int kvs_sessions(struct kvstore *s, int (*each)(void *ctx, const struct kvs_session *x),
                 void *ctx);
int kvs_branch_get(struct kvstore *s, const struct kvs_id *id, struct kvs_branch *ret);
/* Tokens [from, to) of the path that ends in branch, parents walked.  -ENOENT, E_CORRUPT. */
int kvs_tokens(struct kvstore *s, const struct kvs_id *branch, uint64_t from, uint64_t to,
               int32_t *ret);
/* Number of tokens stored in the path that ends in branch. */
int kvs_branch_end(struct kvstore *s, const struct kvs_id *branch, uint64_t *ret);
/* Turns of the path that ends in branch with first < to, ascending, and those without tokens
 * that stand at `to` or where a branch leaves (a later turn may begin at the same place). */
int kvs_turns(struct kvstore *s, const struct kvs_id *branch, uint64_t to,
              int (*each)(void *ctx, const struct kvs_turn *t), void *ctx);
/* reply is malloc'ed into *ret_reply when there is one. */
int kvs_req_get(struct kvstore *s, uint32_t owner, const struct kvs_id *id, struct kvs_req *ret,
                char **ret_reply);
int kvs_reqs(struct kvstore *s, int (*each)(void *ctx, const struct kvs_req *r), void *ctx);
/* What was added to a request, ascending by first.  A damaged part is left out: its owner
 * counts. */
int kvs_parts(struct kvstore *s, uint32_t owner, const struct kvs_id *id,
              int (*each)(void *ctx, const struct kvs_part *p), void *ctx);
/* Small facts that must outlive a restart (weights ids by file identity).  put is durable by
 * the next commit, not waited for.  get: bytes copied, or -ENOENT. */
int kvs_meta_get(struct kvstore *s, const char *name, void *ret, size_t cap);
int kvs_meta_put(struct kvstore *s, const char *name, const void *v, size_t bytes);

/* Ages, by the time that has passed while the store could know (lived.h), whatever the wall
 * clock was set to meanwhile: of something that happened at this wall time; and its place on
 * that clock, for comparing.  Any thread. */
uint64_t kvs_age_ns(struct kvstore *s, uint64_t wall_ns);
uint64_t kvs_lived_ns(struct kvstore *s, uint64_t wall_ns);

enum { KVS_WARNINGS_MAX = 11, KVS_WORDS = 1024 };
struct kvs_stats {
    uint64_t host_used, host_limit;
    /* On disk, turn log and index included: what is there; with the room reserved for what
     * is to come; the limit of the latter. */
    uint64_t file_used, file_allocated, file_limit;
    uint64_t file_kept; /* of what is left of the limit: kept free, so that the turn log can be
                         * compacted (a second copy of it) and what is under way can end */
    uint64_t log_bytes, index_bytes;
    uint64_t blocks, blocks_dirty;
    uint64_t blocks_memory; /* bytes of memory that knowing where blocks lie takes */
    uint64_t segs_unread;   /* files of blocks that could not be read at the open */
    uint64_t bytes_written, bytes_read, new_state_bytes, today_bytes, day_limit;
    uint64_t hits_host, hits_file, misses, corrupt, evicted;
    uint64_t syncs, commits;
    uint64_t rows_repaired, rows_unrepaired; /* of the index, that failed their check */
    bool files_off;                          /* no file of blocks can be had (kv/) */
    bool index_hurt;                         /* and nothing has mended it so far */
    bool turns_full;                         /* see kvs_turns_full */
    int fault;    /* 0; -EROFS after a failed fsync; -ENOSPC while the disk is full: */
    int full_why; /* -EFBIG: it is not, but no file may be larger; else -ENOSPC */
    bool uring, direct;
    uint32_t n_warnings; /* states that stand */
    char warning[KVS_WARNINGS_MAX][KVS_WORDS];
    int warning_fault[KVS_WARNINGS_MAX]; /* the code of `fault` that it is about, or 0 */
};
void kvs_stats(struct kvstore *s, struct kvs_stats *ret);
/* The next thing that happened and that people should know (a file left alone, a row made anew),
 * oldest first, each once.  Also after the open.  BEGINS and OVER: a state of the statistics'
 * warnings, which stand there as long as it does. */
enum kvs_note { KVS_NOTE_NONE, KVS_NOTE_STANDS, KVS_NOTE_BEGINS, KVS_NOTE_OVER };
enum kvs_note kvs_note(struct kvstore *s, char *ret, size_t cap);
/* Why nothing is written any more (fault: -EROFS), and what to do: one sentence.  false: it is. */
bool kvs_stopped(struct kvstore *s, char *ret, size_t cap);

#endif
