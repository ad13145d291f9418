/* index_env.h - what the two halves of the index share of LMDB.  Not for anyone else. */
#ifndef KVSTORE_INDEX_ENV_H
#define KVSTORE_INDEX_ENV_H
#include "kvstore/index.h"
#include <limits.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdint.h>

extern const char *const index_db_names[DB_];
#define INDEX_MAP_BYTES (16ull << 30)

enum { INDEX_MAGIC = 0x696e6478, INDEX_HURT_MAX = 32 };
struct index {
    uint32_t magic;
    MDB_env *env; /* NULL: it could not be opened again, nothing can be had */
    MDB_dbi db[DB_];
    MDB_txn *txn[INDEX_WHO_]; /* the first two are reset between uses */
    struct sys *sys;
    uint64_t ahead_bytes, taken_bytes; /* space to keep before the file's end; taken so far */
    pthread_mutex_t swap; /* held over each of the loop's views, and a swap of env */
    char path[PATH_MAX];
    /* Under hurt_lock, any thread: whether the file is as LMDB left it (index_trust.c), and
     * rows whose check failed, noted by whoever read them. */
    pthread_mutex_t hurt_lock;
    enum index_trust trust;
    bool writing;
    struct index_seen {
        uint64_t bytes;
        int64_t sec, nsec;
    } seen;
    struct index_last { /* of the newest transaction: LMDB's number for it, and what it said */
        uint64_t txn;
        uint32_t n_uuid, n_seq; /* 0: no such row, or a hurt one */
        uint8_t uuid[16], seq[8];
    } last;
    int lock_fd;         /* O_PATH: of the lock file, which is mapped as well; */
    uint64_t lock_bytes; /* its length; 0: there is no descriptor */
    bool lock_new;       /* another has its name by now, and waits for env to be opened again */
    uint32_t alarms;     /* commits in a row, each with a walk behind it that found nothing: */
    bool calm;           /* no walk since the last */
    uint64_t alarm_ns;   /* when there were too many: not looked at times until then */
    /* Of the transaction that writes (index_sum.c); summed: they are known.  row: it was there.
     * moved: some row was changed. */
    struct index_sums sums;
    bool summed, sums_row, sums_moved;
    uint32_t n_hurt;
    struct {
        enum index_db db;
        size_t n;
        uint8_t key[512];
    } hurt[INDEX_HURT_MAX];
};
/* Checks what was read, and notes it when it is damaged. */
int index_value_take(struct index *i, enum index_db db, const MDB_val *k, MDB_val *v);

int index_err(int rc);                          /* LMDB's code as one of ours */
int index_rc(struct index *i, int rc);          /* the same; damage is noted in index_trust */
void index_writes(struct index *i, bool begin); /* a transaction begins or has ended */
/* What the newest transaction is known by: read in txn, kept once that is committed. */
void index_last_read(const struct index *i, MDB_txn *txn, struct index_last *ret);
bool index_last_is(const struct index *i, MDB_txn *txn); /* the same again */
void index_last_keep(struct index *i, const struct index_last *last);
/* The file closed, and opened by its name; the caller holds swap.  same: it is to be the one that
 * was closed, so what is known of that one stays, and it is believed no more than before; else it
 * is believed.  -EIO, or why (same): it cannot be had. */
void index_shut(struct index *i);
int index_open_env(struct index *i, bool same);
/* This is its env from now on; last: what it says, and it is believed.  NULL: as above. */
void index_opened(struct index *i, MDB_env *env, const struct index_last *last);
int index_path(char *ret, const char *dir, const char *name); /* ret: PATH_MAX */
int index_env_open(MDB_env **ret, const char *path, unsigned flags);
uint64_t index_used_bytes(MDB_txn *txn); /* of the pages that hold something */
/* Takes the check off a value; E_CORRUPT when it does not fit. */
int index_value_ok(const MDB_val *k, MDB_val *v);
int index_get(struct index *i, enum index_who w, enum index_db db, const void *key, size_t n,
              MDB_val *ret);
int index_put(struct index *i, enum index_db db, const void *key, size_t n, const void *v,
              size_t bytes);
int index_del(struct index *i, enum index_db db, const void *key, size_t n);
/* Around each change of a row, and around a transaction of them. */
void index_sum_begin(struct index *i);
void index_sum_less(struct index *i, enum index_db db, const MDB_val *k);
void index_sum_more(struct index *i, enum index_db db, const MDB_val *k, const void *v,
                    size_t bytes);
int index_sum_commit(struct index *i);
/* Is what a walk found what the row says?  hurt: tables of which a row could not be read.  0;
 * E_CORRUPT. */
int index_sum_fits(MDB_txn *txn, MDB_dbi meta, const struct index_sums *found,
                   const bool hurt[DB_]);
void index_trust_less(struct index *i, enum index_trust t);
/* Before what needs the lock file as it was mapped: 1, it had been cut; 0; -errno. */
int index_lock_mend(struct index *i);
/* A view is held only between these two. */
int index_view(struct index *i, enum index_who w);
void index_unview(struct index *i, enum index_who w);
/* The first entry behind *at, which is moved to it. */
int index_next(struct index *i, enum index_who w, enum index_db db, struct index_at *at,
               MDB_val *k, MDB_val *v);

#endif
