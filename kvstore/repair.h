/* repair.h - a row of the index that fails its check while the store is open.
 *
 * Whoever reads one notes its key (index_hurt); the commit thread makes the row anew from the
 * turn log, or from what else knows it, before its next group.  A reader waits for that and
 * looks again.  What the log does not have, or has only before a hole in it, where it may be
 * stale, stays damaged, is said, and is left to the merge of the next start.  An index that was believed without a walk is walked beside the open store,
 * by a child process of the lowest priority. */
#ifndef KVSTORE_REPAIR_H
#define KVSTORE_REPAIR_H
#include "kvstore/index.h"

struct kvstore;
/* One row, on the commit thread. */
void repair_row(struct kvstore *s, enum index_db db, const uint8_t *key, size_t n);
/* Commit thread, or any when that one does not run: all rows noted so far. */
void repair_turn(struct kvstore *s);
/* The loop, after E_CORRUPT: true when a row, or all, was made anew since it last asked: read
 * again.  Some seconds at most for one healing, however many reads wait for it. */
bool repair_wait(struct kvstore *s);
/* r, but for E_CORRUPT of an index that waits to be walked or made anew: what it waits for,
 * -ENOSPC, -ENOMEM, -EAGAIN, also while it is made anew, or -EROFS: a restart.  The thread that waited. */
int repair_why(struct kvstore *s, int r);
/* Open: the walk beside it begins.  close: it ends. */
void repair_scrub(struct kvstore *s);
void repair_close(struct kvstore *s);

#endif
