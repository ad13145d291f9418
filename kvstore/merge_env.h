/* merge_env.h - what the two halves of a merge share: merge.c, which takes records and rows, and
 * merge_settle.c, which fits them together.  Not for anyone else. */
#ifndef KVSTORE_MERGE_ENV_H
#define KVSTORE_MERGE_ENV_H
#include "base/bytes.h"
#include "kvstore/codec.h"
#include "kvstore/merge.h"
#include "kvstore/store.h"

enum {
    MERGE_PIECE = 2,
    LOG_KEY = 25,
    HURT_MAX = 4096
}; /* MERGE_PIECE: a kind of row of DB_LOG */
static const struct kvs_id MERGE_NONE;

struct hurt { /* a row of the old index of which only the key is left */
    uint8_t db, bytes, key[32];
};
struct merge {
    struct kvstore *s;
    struct index *idx;   /* the new one */
    bool have_l, behind; /* L is known; frames behind L are on */
    bool stale;          /* the old index may have rows older than L */
    bool current;        /* no row of the old index is older than another of the same key */
    uint64_t l, seq;
    uint64_t schema; /* of the old index, where it is one that is not known here */
    uint32_t in_txn;
    struct ids {
        struct kvs_id *id;
        uint64_t *what, cap, n; /* cap: a power of two; zero ids are empty places */
    } ids;                      /* sessions: removed, or behind which hole they were seen */
    uint64_t holes;             /* in the log: what was in them is not known */
    bool hole_ahead, log_behind;
    bool hole_behind;  /* one of these is behind L: the old index is not the newest there is */
    uint64_t base_seq; /* of the checkpoint that the log begins with; 0: none */
    bool base_hurt;
    struct index_sums found, said; /* the old index's rows, and what it says of them */
    bool have_sums;
    uint64_t log_ns; /* the latest time in the log */
    bool ahead;      /* L is not known, and the old index has what is not in the log */
    bool old_counts; /* the old index may have what the log has not */
    bool end_known;  /* the log says which file was its newest */
    bool sound;      /* the old index has what lies in holes before L */
    struct hurt *hurt;
    uint32_t n_hurt;
    uint8_t uuid[16];
    char lost[LOST_BYTES]; /* what the old index had to say of earlier losses */
    bool lossy; /* the log is hurt as well, or ends too early: look for what is missing */
    struct codec_rec rec;
    struct merge_report *rep;
};

/* What is kept of an id besides the number of the hole. */
static const uint64_t MERGE_REMOVED = UINT64_MAX, MERGE_FROM_INDEX = UINT64_MAX - 1,
                      MERGE_SAID = UINT64_MAX - 2; /* to be lost */

/* Space for one more change in the open transaction. */
int merge_step(struct merge *m);
void merge_log_key(uint8_t k[LOG_KEY], const struct kvs_id *branch, uint8_t kind,
                   uint64_t first);
bool merge_row_is(struct merge *m, enum index_db db, const void *key, size_t n);
int merge_ids_set(struct ids *x, const struct kvs_id *id, uint64_t what);
bool merge_ids_is(const struct ids *x, const struct kvs_id *id, uint64_t what);
/* The place before the first row of this branch and kind with first or more; is it in them? */
void merge_at_before(struct index_at *at, const struct kvs_id *branch, uint8_t kind,
                     uint64_t first);
bool merge_at_in(const struct index_at *at, const struct kvs_id *branch, uint8_t kind);
/* A branch's row; in its last field, until settle, how many tokens it is known to have had. */
int merge_branch_note(struct merge *m, const struct kvs_branch *b, uint64_t end);
/* Ids into one aligned run.  What does not touch those that are there is kept apart. */
int merge_run_put(struct merge *m, const struct kvs_id *branch, uint64_t first, uint32_t n,
                  const uint8_t *ids);
/* merge_settle.c.  old: the old index, for the names in it. */
int merge_settle(struct merge *m, const char *old, struct errbuf *eb);

#endif
