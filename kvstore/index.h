/* index.h - what is where: sessions, branches, tokens, turns, requests, blocks, in LMDB.
 *
 * Only index.c, index_rows.c, index_walk.c, index_trust.c and index_shrink.c know LMDB.  One writer (the commit
 * thread, or whoever opens
 * the store before threads run); each reading thread has its own view.  Reads copy out and
 * end their transaction before they return; nothing calls back, waits or does other I/O
 * inside one.  Every value ends in a CRC32C over key and value: a wrong one is E_CORRUPT.
 *
 * The index can always be rebuilt (turn log, slot headers), so damage is never repaired in
 * place: index_verify() says whether to trust it. */
#ifndef KVSTORE_INDEX_H
#define KVSTORE_INDEX_H
#include "base/err.h"
#include "kvstore/record.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct index;
struct sys;
/* Whose view a read uses.  SNAP sees one moment, WRITE the open write transaction. */
enum index_who { INDEX_LOOP, INDEX_COMMIT, INDEX_SNAP, INDEX_WRITE, INDEX_WHO_ };

enum index_db { DB_META, DB_SESSION, DB_NAME, DB_BRANCH, DB_LOG, DB_REQ, DB_BLOCK, DB_ };

/* What the rows of each table come to (index_sum.c); the row that says so is left out. */
struct index_sums {
    uint64_t rows[DB_], sum[DB_];
};
enum { INDEX_SUMS_BYTES = 16 * DB_ };
bool index_sum_is(enum index_db db, const void *key, size_t n); /* that row */
bool index_sum_get(const void *v, size_t bytes, struct index_sums *ret);
void index_sum_add(struct index_sums *x, enum index_db db, const void *key, size_t n,
                   const void *v, size_t bytes); /* v without its CRC */
bool index_sum_same(const struct index_sums *a, const struct index_sums *b, enum index_db db);

struct index_opts {
    const char *dir;
    const char *path;        /* of the file; NULL: index.mdb in dir */
    struct sys *sys;         /* borrowed */
    uint64_t prealloc_bytes; /* taken on disk beforehand, so that a full disk still commits */
    bool no_fsync;
};
int index_open(struct index **ret, const struct index_opts *o, struct errbuf *eb);
void index_close(struct index *i);
/* Walks everything, checking CRCs, order, look-ups and that no page is both used and free.
 * Damaged files may crash it: call it in a child process (index_check.h).  0, -ENOENT (no
 * index, or an empty file), E_CORRUPT, -errno when it could not be read.  1: closed cleanly and
 * above quick_bytes (0: never), so it was not walked.  beside: others have it open and write.
 * hurt: told of each row whose CRC is wrong, and the walk goes on; NULL: that is E_CORRUPT. */
int index_verify(const char *path, bool beside, uint64_t quick_bytes,
                 int (*hurt)(void *ctx, enum index_db db, const void *key, size_t n),
                 void *ctx);
/* Of one without sums (an older store's, or a hurt row was written over) that has been walked and
 * takes no more than bytes_max on disk: they are made and committed. */
int index_sum_make(struct index *i, uint64_t bytes_max);
/* Copied smaller when over half of it is free and the copy fits the limit beside it, or the
 * limit is passed anyhow; before
 * open.  Whatever goes wrong, it is as it was. */
void index_shrink(struct sys *y, const char *dir, const char *path, uint64_t disk_bytes);
/* When another file takes the place of the index at path: LMDB keeps the number of the last
 * transaction in the lock file while any process has it open, and the other file counts for
 * itself, so that of a process that still walks the old one must not be believed. */
void index_lock_away(const char *path);
/* The same while it is open: commit thread, with no transaction and no snap open.  -EIO: it
 * could not be opened again, and is of no use from here on. */
int index_shrink_open(struct index *i);
uint64_t index_bytes(const struct index *i); /* taken on disk */
/* Of what is taken: pages that hold nothing, before the file's end and behind it. */
uint64_t index_spare_bytes(struct index *i);
uint64_t index_table_bytes(struct index *i, enum index_db db); /* of the pages it has */
bool index_near_full(const struct index *i);                   /* past 70 % of the map */
/* Whether that name still leads to its file. */
bool index_in_place(const struct index *i, const char *name);
void index_reader_check(struct index *i); /* forget readers that died */

/* What the file is believed to be.  TOUCHED: somebody else has written to it or cut it; BROKEN:
 * LMDB has met what cannot be.  Then reads and writes are E_CORRUPT until it was walked and is
 * believed again, or another has taken its name and is opened (commit thread, both). */
enum index_trust { INDEX_FINE, INDEX_TOUCHED, INDEX_BROKEN };
enum index_trust index_trust(struct index *i); /* any thread: looks */
/* Of one that is not FINE, in this order and with no transaction open: begin; a walk; is_last;
 * believe.  What is written to it from begin on counts as others'.
 * begin: 1, its lock file had been cut and is another now; 0, it had not; -errno.
 * is_last: 0, it is what was committed last; E_STALE, an older copy or another store's index;
 * E_CORRUPT, -errno: it could not be opened again. */
int index_walk_begin(struct index *i);
int index_is_last(struct index *i);
void index_believe(struct index *i, bool alarm); /* alarm: it was nothing */
void index_doubt(struct index *i);     /* BROKEN, by what a walk beside it has found */
int index_open_again(struct index *i); /* believed, whatever it is; -EIO: see above */

/* --- reads ----------------------------------------------------------------------------- */
int index_meta_get(struct index *i, enum index_who w, const char *name, void *ret, size_t cap);
int index_session_get(struct index *i, enum index_who w, const struct kvs_id *id,
                      struct kvs_session *ret);
int index_name_get(struct index *i, enum index_who w, uint32_t owner, const char *name,
                   struct kvs_id *ret);
int index_branch_get(struct index *i, enum index_who w, const struct kvs_id *id,
                     struct kvs_branch *ret, uint64_t *ret_end);
/* Tokens [from, to) that the branch itself holds (not its parents). */
int index_tokens(struct index *i, enum index_who w, const struct kvs_id *branch, uint64_t from,
                 uint64_t to, int32_t *ret);
/* Pages of a listing: up to n items after *at (zeroed for the first page), which is moved.
 * Returns how many; 0 at the end.  A damaged item is skipped and counted in *ret_bad. */
struct index_at {
    uint8_t key[512];
    uint32_t bytes;
};
int index_sessions(struct index *i, enum index_who w, struct index_at *at,
                   struct kvs_session *ret, uint32_t n, uint64_t *ret_bad);
int index_branches(struct index *i, enum index_who w, struct index_at *at,
                   struct kvs_branch *ret, uint64_t *ret_end, uint32_t n, uint64_t *ret_bad);
/* Of one branch, ascending by first position; at is set up by index_at_turns. */
void index_at_turns(struct index_at *at, const struct kvs_id *branch);
int index_turns(struct index *i, enum index_who w, struct index_at *at,
                const struct kvs_id *branch, struct kvs_turn *ret, uint32_t n,
                uint64_t *ret_bad);
/* reply: malloc'ed copy in *ret_reply (NULL when there is none), always the caller's. */
int index_req_get(struct index *i, enum index_who w, uint32_t owner, const struct kvs_id *id,
                  struct kvs_req *ret, char **ret_reply);
int index_reqs(struct index *i, enum index_who w, struct index_at *at, struct kvs_req *ret,
               char **ret_reply, uint64_t *ret_bad); /* one at a time */
/* Parts of one request, ascending by first, one at a time; at is set up by index_at_parts.
 * data: malloc'ed in *ret_data, the caller's. */
void index_at_parts(struct index_at *at, uint32_t owner, const struct kvs_id *id);
int index_parts(struct index *i, enum index_who w, struct index_at *at, struct kvs_part *ret,
                uint8_t **ret_data, uint64_t *ret_bad);

struct index_block {
    struct kvs_key key, parent;
    uint64_t variant, layout, first_pos, time_ns;
    uint32_t segment, slot, head_crc, n_tokens;
    uint8_t hash[16];
};
int index_blocks(struct index *i, enum index_who w, struct index_at *at,
                 struct index_block *ret, uint32_t n, uint64_t *ret_bad);

/* From snap to unsnap the reads of INDEX_SNAP see the state as it was then.  No page that is
 * freed meanwhile is used again: for seconds, not for ever.  Commit thread. */
int index_snap(struct index *i);
void index_unsnap(struct index *i);

/* The key of one row that somebody read and that failed its check, oldest first; its bytes, 0:
 * none.  Any thread. */
size_t index_hurt_take(struct index *i, enum index_db *ret_db, uint8_t ret_key[512]);

/* --- rows as bytes, for recovery (index_rows.c) ------------------------------------------- */
/* In the open write transaction; *ret_v (without its CRC) lies there until the next write.
 * get: -ENOENT, E_CORRUPT.  next: the row behind *at, which is moved to it, also past one
 * whose CRC is wrong (E_CORRUPT). */
int index_row_get(struct index *i, enum index_db db, const void *key, size_t n,
                  const uint8_t **ret_v, size_t *ret_bytes);
int index_row_put(struct index *i, enum index_db db, const void *key, size_t n, const void *v,
                  size_t bytes);
int index_row_del(struct index *i, enum index_db db, const void *key, size_t n);
int index_row_next(struct index *i, enum index_db db, struct index_at *at,
                   const uint8_t **ret_v, size_t *ret_bytes);
int index_sync(struct index *i); /* of one opened with no_fsync: all of it is on disk now */

/* Rows of a file that LMDB may not be trusted with (index_salvage.c): reads pages as bytes,
 * calls each() for every row whose CRC holds, by whatever page it is reached, and, with ok
 * false and no value, for those whose key can be read.  Where the list of free pages is sound,
 * pages on it are left out (*ret_current); else old rows turn up too, in any order.  -errno when the file
 * could not be read (eb); each() < 0 stops and is returned. */
int index_salvage(const char *path,
                  int (*each)(void *ctx, bool ok, enum index_db db, const uint8_t *key,
                              size_t n, const uint8_t *v, size_t bytes),
                  void *ctx, bool *ret_current, struct errbuf *eb);

/* --- writes: begin, any of these, commit or abort ---------------------------------------- */
int index_begin(struct index *i);
int index_room(struct index *i); /* in a transaction: 0, the file can grow */
/* -ENOSPC: the disk, the map, a quota or a limit of file sizes is full; -EIO: the disk fails. */
int index_commit(struct index *i);
void index_abort(struct index *i);
/* Applies one record that check.h has accepted. */
int index_apply(struct index *i, const struct kvs_rec *r);
int index_block_put(struct index *i, const struct index_block *b);
/* The row of a block of which half the key is known (SHELF_KEY bytes of it), if it names this
 * place: another has been put meanwhile where it does not. */
struct index_place {
    uint8_t key[16];
    uint64_t variant, layout;
    uint32_t segment, slot;
};
int index_block_drop(struct index *i, const struct index_place *p);
int index_meta_put(struct index *i, const char *name, const void *v, size_t bytes);
/* One step of dropping a branch with all it holds: 1 more to do, 0 gone.  Counts off *rows
 * what it takes, at most all. */
int index_branch_del(struct index *i, const struct kvs_id *id, uint32_t *rows);
/* The same of a request and its parts, and of the parts alone. */
int index_req_del(struct index *i, uint32_t owner, const struct kvs_id *id, uint32_t *rows);
int index_parts_del(struct index *i, uint32_t owner, const struct kvs_id *id, uint32_t *rows);

#endif
