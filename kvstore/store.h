/* store.h - the inside of a store: what its three threads share, and who may touch it.
 *
 * Messages: loop -> io (block requests), loop -> commit (batches, meta), io -> commit (jobs),
 * commit -> io (the same jobs, done), io and commit -> loop (requests and batches, done).
 * Every one is an intrusive list under a mutex that is held for pointer moves only; their
 * lengths are bounded by what kvs_block_submit and kvs_batch_submit accept. */
#ifndef KVSTORE_STORE_H
#define KVSTORE_STORE_H
#include "base/bounds.h"
#include "kvstore/accept.h"
#include "kvstore/env.h"
#include "kvstore/helper.h"
#include "kvstore/host.h"
#include "kvstore/index.h"
#include "kvstore/index_check.h"
#include "kvstore/kvstore.h"
#include "kvstore/lived.h"
#include "kvstore/ring.h"
#include "kvstore/seg.h"
#include "kvstore/shelf.h"
#include "kvstore/sys.h"
#include "kvstore/table.h"
#include "kvstore/turnlog.h"
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
    STORE_MAGIC = 0x6b767374,
    BLOCK_REQS_MAX = 4096, /* block requests accepted and not done */
    BATCHES_MAX = 4096,    /* batches likewise */
    TASKS_MAX = 128,       /* blocks being read, written or committed */
    CHUNK_BYTES = 4 << 20, /* largest single transfer */
    DROPS_PER_JOB = 64,
    CHECK_APART_BYTES = 128 << 10, /* blocks from this size are checked by the helper */
    GROUP_BATCHES_MAX = 64,
    NOTES_MAX = 24, /* said and not fetched */
    NOTE_BYTES = KVS_WORDS,
    HEALS_MAX = 4,       /* indexes made anew within an hour */
    GATHER_NS = 5000000, /* blocks alone wait this long for company in a commit */
};
/* States that people should know of as long as they stand. */
enum say {
    SAY_FAULT, /* nothing is written any more */
    SAY_FULL,
    SAY_RESERVE, /* given up */
    SAY_LOST,    /* by damage */
    SAY_KEPT,    /* files, damaged */
    SAY_INDEX,   /* cannot be checked */
    SAY_LOG,     /* is not compacted */
    SAY_TRIM,    /* its old files stay */
    SAY_FILES,   /* of blocks, cannot be made */
    SAY_RING,    /* is not there, or slow */
    SAY_DIRECT,  /* O_DIRECT likewise */
    SAY_SEEN,    /* those from here on are in the statistics as such */
    SAY_TURNS = SAY_SEEN,
    SAY_
};
_Static_assert((int)SAY_SEEN == (int)KVS_WARNINGS_MAX, "room for each");
static const uint64_t ROOM_AGAIN_NS = 3000000000u; /* a full store asks whether there is room */
static const uint64_t REQ_KEEP_NS = 86400000000000u; /* a request after it was last written */

/* --- io <-> commit ------------------------------------------------------------------------ */
enum job_kind { JOB_BLOCK, JOB_DROP, JOB_GROW, JOB_UNLINK, JOB_CHECKED, JOB_FORGET };
struct job {
    struct job *next;
    uint8_t kind;
    int res;
};
struct io_task {    /* one block on its way */
    struct job job; /* JOB_BLOCK; first */
    struct kvstore *s;
    struct blk *b;
    struct layout *l;
    struct seg *seg;
    uint32_t slot;
    struct host_page *page;
    struct kvs_block_req *req;
    bool write, indexed, pinned; /* the last: its segment's file stays open */
    uint64_t issued, chunk, slot_bytes;
    uint32_t out;
    int res;
    struct index_block row; /* what the commit thread writes */
    struct helper_job check;
    struct io_task *next;
};
struct drop_job {
    struct job job;
    struct layout *l;
    uint32_t n;
    struct {
        struct index_place place;
        struct seg *seg;
    } v[DROPS_PER_JOB];
};
struct seg_job { /* GROW and UNLINK */
    struct job job;
    struct layout *l;
    struct seg *seg;
    uint32_t number, n_slots;
    uint64_t bytes;
};
struct forget_job { /* loop -> io */
    struct job job;
    uint64_t variant;
    uint32_t n;
    struct kvs_key key[];
};
struct meta_job {
    struct meta_job *next;
    uint32_t bytes;
    char name[64];
    uint8_t v[];
};
#define LIST(T)                                                                                \
    struct {                                                                                   \
        T *head, **tail;                                                                       \
    }
#define LIST_INIT(l)    ((l)->head = NULL, (l)->tail = &(l)->head)
#define LIST_PUSH(l, x) ((x)->next = NULL, *(l)->tail = (x), (l)->tail = &(x)->next)
#define LIST_POP(l)                                                                            \
    ((l)->head = (l)->head->next, (l)->head ? (void)0 : (void)((l)->tail = &(l)->head))

struct chunk {
    struct io_req q; /* first */
    struct io_task *t;
    struct chunk *next;
};
struct io_side { /* the io thread's own */
    const struct io_ops *ops;
    struct io_ring *ring;
    struct io_task task[TASKS_MAX], *idle_tasks;
    struct chunk chunk[IO_INFLIGHT_MAX], *idle_chunks;
    LIST(struct kvs_block_req) gets, puts;
    LIST(struct io_task) slot_wait, reads, writes; /* slotless; with bytes to transfer */
    uint32_t reads_out, writes_out;                /* transfers */
    struct seg *open[SEGS_OPEN_MAX];               /* files open now */
    uint32_t n_open;
    uint64_t tick;
    uint32_t n_dying;
    struct { /* a segment whose blocks are being forgotten, so many at a time */
        struct layout *l;
        struct seg *g;
        uint32_t at;
        bool again;
    } retire;
    struct job *drops_wait; /* DROPs, for the index to be healed */
    uint64_t retire_ns;     /* not before: giving a segment back */
    uint64_t look_ns;       /* likewise: looking whether all are there; */
    uint64_t files_ns;      /* trying whether one can be opened again */
    uint32_t n_gone;        /* that are not; */
    uint32_t gone_at;       /* how far their blocks are forgotten: a handle; 0: none are now */
};

/* What a full disk asks of the io thread, and its answer. */
enum space { SPACE_FINE, SPACE_WANTED, SPACE_MADE, SPACE_NONE };

/* The commit thread's own; see ckpt.c. */
enum { CKPT_NONE, CKPT_BRANCHES, CKPT_SESSIONS, CKPT_REQS, CKPT_END };
struct ckpt {
    uint8_t phase;
    bool trim;                 /* files that the last one replaced are being removed */
    struct index_at at, turns; /* of the branch under way: */
    bool in_branch;
    struct kvs_branch branch;
    uint64_t pos, end;
    uint64_t again_ns; /* not before, after a failure */
};

/* The commit thread's own; see collect.c. */
enum {
    COLLECT_NONE,
    COLLECT_SESSIONS,
    COLLECT_REQS,
    COLLECT_ASK,
    COLLECT_ASKED,
    COLLECT_SWEEP,
    COLLECT_END,
    COLLECT_MAX = 64
};
struct idset {
    struct kvs_id *v;
    uint64_t cap, n; /* power of two; zero ids are empty places */
};
struct collect {
    uint8_t phase;
    bool wanted;
    struct index_at at;
    struct idset keep; /* what something on disk leads to */
    struct idset held; /* what the loop and the batches since name; the rest goes */
    uint64_t bad, began_ns, due_ns, rest_ns; /* a round is due; and not before */
    uint64_t freed_bytes; /* of tokens, sessions and requests, since the log was compacted */
    uint32_t n_gone, n_done, n_parts, n_parts_done;
    struct {
        struct kvs_id id;
        uint64_t bytes;
    } gone[COLLECT_MAX]; /* branches found, to be dropped */
    struct {
        uint32_t owner;
        struct kvs_id id;
    } parts[COLLECT_MAX]; /* requests likewise, that lose their parts */
};

enum { FORGET_AGES = 40 };
struct forget {                /* the commit thread's own; see forget.c */
    uint64_t next_ns;          /* when the next round begins */
    uint64_t look_ns;          /* and not before, when turns find no room */
    uint64_t keep_ns;          /* what is younger stays in this round */
    struct index_at at;        /* how far this one has come; nothing: none is under way */
    bool counts;               /* this round drops nothing, it counts them by their age */
    uint64_t age[FORGET_AGES]; /* bytes of each */
    uint32_t n, done;
    struct {
        uint32_t owner;
        struct kvs_id id;
    } v[64]; /* found, to be dropped */
};

/* A file that is there and is not ours to touch: it could not be read, or belongs to another
 * store.  Rows of the index that name it stay, its number is not given out again. */
struct seg_unread {
    uint64_t tag; /* of the layout; 0: of any */
    uint32_t number;
    int why;
};
static const uint32_t SEG_ANY = UINT32_MAX; /* as a number: every one of the layout */

struct repair_wait { /* the loop's own; see repair.c */
    uint64_t until_ns;
    uint64_t of;   /* which healing of the index, or turn of the commit thread, until then */
    bool broken;   /* the first of these */
    uint64_t seen; /* how much was mended when it last looked */
};

struct kvstore {
    uint32_t magic;
    struct kvs_opts o;
    struct kvs_env env;
    char dir[PATH_MAX - 256];
    char index[PATH_MAX - 128]; /* index.mdb in it, or the file that a link there led to at the
                                 * open: what is made anew takes that one's place, beside it */
    int lock_fd, dir_fd, event_fd;
    struct lived lived;
    bool clock_set;   /* between the last run and this one */
    bool lock_said;   /* commit, with the four below */
    uint64_t room_ns; /* not before: a full store tries whether there is room */
    uint64_t guard_ns, clock_put_ns,
        clock_idle_ns; /* not before: a look around; putting the clock down */
    uint8_t uuid[16];
    struct sys sys;
    struct index *idx;
    struct turnlog *log;
    struct table table;
    struct shelf shelf; /* under table.lock, as the table */
    struct host *host;  /* io */
    struct helper *helper;
    struct layout *layout[LAYOUTS_MAX]; /* added by the loop under table.lock */
    _Atomic uint32_t n_layouts;
    struct seg_unread *unread;   /* from the open on, sorted */
    struct seg_unread aside[16]; /* damaged, and set aside in this open: the first of them */
    uint32_t n_aside;
    int kv_unread; /* why kv/ could not be listed, or 0: all of it is unread */
    uint32_t n_unread, cap_unread;
    struct io_side io;
    struct accept accept; /* commit */
    struct forget forget;
    struct ckpt ckpt;
    uint64_t acked_seq; /* commit: the newest frame that log and index have both had */
    bool log_other;     /* open: index and log are of two histories of one store */
    bool acked_torn;  /* open: the last of these may have been acknowledged, and is not whole */
    bool acked_lost;  /* commit: some of what was acknowledged is in neither */
    bool log_hurt;    /* commit: a checkpoint is to take the place of all of it */
    bool log_touched; /* commit, with the next: others have written to it (logwatch.c) */
    uint64_t log_stamp;
    struct collect collect;
    /* The loop's: what it has in mind and nothing on disk leads to, when it is asked. */
    void (*hold)(void *ctx);
    void *hold_ctx;

    struct {
        pthread_mutex_t lock;
        LIST(struct kvs_block_req) reqs;
        LIST(struct job) back;
    } to_io;
    pthread_mutex_t ring_lock; /* wake against a change of ring */
    struct {
        pthread_mutex_t lock;
        pthread_cond_t cond;
        LIST(struct kvs_batch) batches;
        LIST(struct job) jobs;
        LIST(struct meta_job) metas;
        bool woken;
        bool jobs_waited; /* while a group of turns went: they go with the next */
        bool answered;    /* the loop was asked, and has held what it holds: */
        struct kvs_id *held;
        uint32_t n_held, cap_held;
        bool held_short; /* no memory for all of them */
    } to_commit;
    struct {
        pthread_mutex_t lock;
        LIST(struct kvs_block_req) reqs;
        LIST(struct kvs_batch) batches;
        bool asked;
        char state[SAY_][KVS_WORDS]; /* that stand */
        struct note {
            enum kvs_note kind;
            char words[NOTE_BYTES];
        } note[NOTES_MAX]; /* the oldest first; see kvs_note */
        uint32_t n_notes, notes_over;
    } to_loop;
    uint32_t n_reqs, n_batches; /* the loop's: accepted and not done */
    uint64_t refusals;          /* commit: groups in which a batch found no room */
    uint64_t refusals_seen;     /* loop: of these, as of the last batch done */
    _Atomic uint64_t in_flight;

    /* Sizes in one account; written by their owner, read by all. */
    uint64_t reserve_bytes, index_budget, log_budget;
    _Atomic uint64_t file_bytes, log_bytes, index_bytes;
    _Atomic uint64_t ahead_bytes; /* of log and index: holding nothing, as of the last commit */
    _Atomic uint64_t slot_bytes;  /* of file_bytes: slots in use, as of io's last turn */
    /* Today is what was written since sys.bytes_written was this (it may be less than
     * nothing: what was written before the open counts too).  The commit thread sets both;
     * a stale read counts a round of yesterday's. */
    _Atomic uint64_t day, day_mark;
    _Atomic uint64_t log_want; /* what the log takes, and will to be compacted */
    _Atomic bool turns_full;   /* turns have all the room there is */
    _Atomic bool turns_short;  /* or nearly so */
    bool limit_hold;           /* commit: turns wait for the log to be compacted */
    uint64_t hold_ns;          /* since then; 0: they do not */
    bool reserve_held;         /* commit */
    uint64_t reserve_ns, reader_check_ns, shrink_ns;
    _Atomic int fault;    /* 0, -EROFS, -ENOSPC */
    _Atomic int full_why; /* of the last: that, or -EFBIG */
    _Atomic int space;    /* enum space */
    uint64_t group;       /* commit: number of the group being synced */
    bool direct;
    _Atomic int files_off; /* why no file of blocks can be made or read, or 0 */
    /* Open: the index was believed without a walk; its rows of blocks are not there yet. */
    bool scrub_due, slots_due;
    /* repair.c: the commit thread's, but for the lock and what is read beside it. */
    struct index_scrub scrub;
    bool kept, lost; /* commit: there are, or may be, damaged files; and what was lost with them
                      * is on record; not looked for before: */
    uint64_t kept_ns;
    uint64_t heal_ns; /* not before; 0: nothing to wait for */
    /* What the index waits for to be read again: -ENOSPC, -ENOMEM; -EROFS a restart; -EAGAIN
     * anything else; or 0. */
    _Atomic int heal_why;
    uint32_t heals;                      /* indexes made anew in this run: */
    uint64_t heal_at[HEALS_MAX];         /* when, the last so many */
    _Atomic bool index_bad, commit_runs; /* not to be marked clean, nor compacted from */
    pthread_t commit_thread;
    pthread_mutex_t repair_lock;
    pthread_cond_t repair_cond;
    uint64_t repairs;        /* rounds, under the lock */
    _Atomic uint64_t healed; /* how often the index was believed again */
    _Atomic bool healing;    /* from before it is believed until that is counted */
    struct repair_wait wait;
    uint32_t gave_up[16];

    struct {
        _Atomic uint64_t blocks, memory, dirty, read, state, hits_host, hits_file, misses,
            corrupt, evicted, commits, repaired, unrepaired;
    } n;
};

/* io.c */
int io_open(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb);
void io_close(struct kvstore *s);
void io_wake(struct kvstore *s);                                     /* any thread */
int io_seg_open(struct kvstore *s, struct layout *l, struct seg *g); /* -EAGAIN: too many */
void io_seg_forget(struct kvstore *s, struct seg *g); /* the ring does; its fd stays */
void io_job_back(struct kvstore *s, struct job *j);   /* commit and helper threads */
uint64_t seg_limit(const struct kvstore *s);          /* bytes segments may take in all */
/* room.c: slots for what has none, and segments given back (io thread) */
int room_make(struct kvstore *s, struct layout *l, const struct blk *b);
void room_drop(struct kvstore *s, struct blk *b);          /* forget a file copy, row and all */
void room_lose(struct kvstore *s, struct blk *b);          /* in this run; its row stays */
void room_forget(struct kvstore *s, struct forget_job *f); /* frees f */
void room_settle(struct kvstore *s); /* at the end, both threads stopped: drops go through */
/* Used now, and so are those it follows: an ancestor is never older than what hangs on it, so
 * evicting the oldest, deepest first, never orphans a block that is kept.  false: one of them is
 * not there, and nothing was touched. */
bool room_touch(struct kvstore *s, const uint8_t tag[8], uint64_t variant, uint32_t used);
void room_use(struct kvstore *s, struct blk *b); /* now; it stays as old as it is likewise */
uint32_t room_now(struct kvstore *s);            /* as `used` is counted */
/* On file, where like says: its handle, or 0. */
uint32_t room_shelve(struct kvstore *s, const struct kvs_key *key, uint64_t variant,
                     const struct shelf_blk *like);
void room_unshelve(struct kvstore *s, uint32_t h);
bool room_busy(const struct kvstore *s); /* in the middle of something: do not sleep */
void room_drop_done(struct kvstore *s, struct drop_job *d);
int room_shut(const struct kvstore *s); /* why nothing new goes down or is forgotten, or 0 */
/* That code of opening one of its files says nothing about the file and is over some time: then
 * nothing is given up, and what a person can do about it is said. */
bool room_passes(struct kvstore *s, const struct layout *l, int r);
/* Of another: that t's file cannot be what, and what that costs. */
void room_seg_said(struct kvstore *s, const struct io_task *t, const char *what,
                   const char *costs);
void room_grow_done(struct kvstore *s, struct seg_job *g);
void room_unlink_done(struct kvstore *s, struct seg_job *u);
void room_turn(struct kvstore *s);
void room_count(struct kvstore *s); /* slot_bytes, from the layouts */
void gone_turn(struct kvstore *s);  /* gone.c: segments that others took away (io thread) */
/* commit.c */
void commit_job(struct kvstore *s, struct job *j); /* io thread */
void commit_wake(struct kvstore *s);
void commit_sizes(struct kvstore *s); /* log_bytes, index_bytes, ahead_bytes */
int commit_day(struct kvstore *s);    /* into the open transaction: what today has cost */
/* How far the index has come, and the CRC of that frame: another of its number is another history's. */
enum { LOGCRC_BYTES = 12 };
int commit_seq(struct kvstore *s); /* into the open transaction */
int commit_apply_frame(struct kvstore *s, const uint8_t *recs, uint32_t bytes);
void reserve_make(struct kvstore *s);
/* guard.c: what happens from outside */
int guard_take(struct kvstore *s, struct errbuf *eb); /* the locks */
void guard_drop(struct kvstore *s);
/* Whether the names in the directory still lead to what was written; else the store stops. */
bool guard_holds(struct kvstore *s);
void guard_turn(struct kvstore *s);       /* commit thread, now and then */
void guard_clock_open(struct kvstore *s); /* once the index is there */
int guard_clock_put(struct kvstore *s);   /* into the open transaction */
bool guard_clock_due(struct kvstore *s);  /* whether to: then it counts as done */
/* forget.c: requests nobody can ask for any more (commit thread) */
bool forget_due(struct kvstore *s, enum index_who w, const struct kvs_req *q);
bool forget_busy(const struct kvstore *s); /* in the middle of a round: do not sleep long */
void forget_turn(struct kvstore *s);       /* a little of it */
/* ckpt.c: the log compacted (commit thread) */
int ckpt_begin(struct kvstore *s);
bool ckpt_busy(const struct kvstore *s);
void ckpt_turn(struct kvstore *s); /* a little of it */
int ckpt_all(struct kvstore *s);   /* at open */
void ckpt_look(struct kvstore *s); /* now and then: a log that others have cut is made anew */
/* logwatch.c: the log's files are looked at before the commit thread writes to them, and kept in
 * mind as it has left them; hurt: others have written to them since, and something is missing. */
void logwatch_look(struct kvstore *s);
void logwatch_keep(struct kvstore *s);
bool logwatch_hurt(struct kvstore *s);
void logwatch_failed(struct kvstore *s,
                     int why); /* it cannot be looked at: ends writing, or passes */
/* collect.c: branches nobody leads to (commit thread) */
int collect_open(struct kvstore *s, struct kvs_open_report *rep); /* counts the sessions */
bool collect_busy(const struct kvstore *s);
bool collect_gains(const struct kvstore *s); /* a round is under way, or due soon */
void collect_turn(struct kvstore *s);
void collect_asked(struct kvstore *s);                                       /* loop thread */
void collect_seen(struct kvstore *s, const struct kvs_rec *rec, uint32_t n); /* accepted */
void ckpt_stop(struct kvstore *s); /* the old log stays */
/* heal.c: an index that is not to be trusted any more (commit thread) */
void heal_turn(struct kvstore *s);
/* limit.c: may turns take more? (commit thread) */
bool limit_takes(const struct kvstore *s, const struct kvs_batch *b, uint64_t *sum);
bool limit_wants_segments(const struct kvstore *s, uint64_t bytes);
bool limit_log_due(const struct kvstore *s, bool pressed);
bool limit_index_due(const struct kvstore *s, bool idle);
bool limit_passed(const struct kvstore *s);
void limit_look(struct kvstore *s); /* log_want, turns_full, turns_short */
/* recover.c: everything of open that reads the disk */
int recover_open(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb);
/* kept.c: damaged files that are kept, and what was lost with them, are said; rebuilt: just now */
int kept_look(struct kvstore *s, bool rebuilt);
void kept_turn(struct kvstore *s); /* commit thread: until they are gone */
/* recover_segs.c, recover_blocks.c: its part about segments and blocks, in this order: the
 * files; then the table from the index or from the slots; then ages, and a look at the newest
 * after a crash. */
int recover_segs(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb);
int recover_blocks_load(struct kvstore *s, struct kvs_open_report *rep);
int recover_blocks_rebuild(struct kvstore *s);
int recover_blocks_settle(struct kvstore *s, struct kvs_open_report *rep);
struct layout *recover_layout(const struct kvstore *s, uint64_t tag); /* or NULL */
bool recover_aside(const struct kvstore *s, uint64_t tag, uint32_t number);
bool recover_unread(const struct kvstore *s, uint64_t tag, uint32_t number);
/* For a layout that is made known: numbers that are taken, or that nobody knows. */
void recover_numbers(const struct kvstore *s, struct layout *l);
/* kvstore.c */
void store_req_done(struct kvstore *s, struct kvs_block_req *r, int res);
void store_batch_done(struct kvstore *s, struct kvs_batch *b, int res);
uint64_t store_wall(const struct kvstore *s);
uint64_t store_day_now(const struct kvstore *s); /* days since 1970, UTC */
uint64_t store_today(const struct kvstore *s);   /* bytes written today, of any kind */
/* say.c (any thread) */
/* A note is something that happened once: each is kept until the loop has fetched it.  A state
 * stands until it is over; both ends are said once. */
void store_note(struct kvstore *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void store_state(struct kvstore *s, enum say k, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void store_over(struct kvstore *s, enum say k, const char *words);
/* How many; of each the fault that it is about. */
uint32_t store_states(struct kvstore *s, char ret[SAY_SEEN][KVS_WORDS], int fault[SAY_SEEN]);
void store_event(struct kvstore *s); /* the loop has something to do */
/* Nothing is written any more, for good, and these are the words for it. */
void store_stop(struct kvstore *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same because a write failed: why, doing what, to which file (or NULL). */
void store_fault(struct kvstore *s, int why, const char *doing, const char *file);
/* Until a write succeeds again: */
void store_full(struct kvstore *s, int why, const char *doing);
void store_recovered(struct kvstore *s);

#endif
