/* merge.h - an index made anew out of two copies of the truth, each perhaps hurt.
 *
 * Goes into STATE/index.mdb.new, which nobody takes for an index before it is whole, synced
 * and renamed; a start may be killed at any instant.  Neither the old index nor the log is
 * changed: the old file stays as index.mdb.bad-TIME.  At open before threads run, or on the commit
 * thread while it alone may touch the index (heal.c). */
#ifndef KVSTORE_MERGE_H
#define KVSTORE_MERGE_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct kvstore;
enum { SCHEMA_OLDEST = 1, SCHEMA = 3 };
/* The row `whole` of the index: all of a merge is there; the blocks are as well. */
enum { MERGE_ROWS = 1, MERGE_BLOCKS_TOO = 2, LOST_BYTES = 720 };

struct merge_report {
    uint64_t sessions; /* that have lost something */
    uint64_t tokens;   /* missing of them */
    uint64_t unsure;   /* sessions whose newest record may be among what is missing */
    uint64_t requests; /* of which nothing is left */
    uint64_t gone;     /* sessions of which nothing is left but a name */
    uint64_t maybe;   /* ids that other records have and that were sessions: lost, or removed */
    uint64_t seq;     /* of the newest frame that is in any copy, or was acknowledged: */
    uint64_t missing; /* so many of these, at the end, are in neither */
    bool other;       /* they are of two histories: the log's counts, the other is kept aside */
    bool torn;        /* only perhaps: what is left of them was never whole, or was hurt */
    bool blind;       /* both copies have places nothing is known of: more may be gone */
    bool empty;      /* the log holds nothing, and no damage either: there may have been none */
    bool endless;    /* nothing but the log's own files says where it ended */
    bool lost;       /* any of these; said in the index's row `lost` from now on */
    char named[300]; /* which, as many as fit; */
    bool more;       /* and there are others */
};
/* Row by row: what is intact in the log, or in the file that is the index now (there may be
 * none), is in the new one; where both have it the newer wins, by the log's sequence numbers.
 * What neither has is counted, and a session that lacks tokens or turns is marked; in an open
 * store, which knows the newest frame that was acknowledged, so is each that may.  why: what
 * was the matter, for the words about it; NULL: a new store.  sound: the old index has all
 * that it ever had. */
int merge_index(struct kvstore *s, const char *why, bool sound, struct merge_report *rep,
                struct errbuf *eb);
/* The words for an index of a format that is not known here: E_VERSION. */
int merge_unknown(const struct kvstore *s, uint64_t schema, struct errbuf *eb);
/* A new index that a killed start left: put in place when the old one is gone already and it
 * is whole, else thrown away.  What is no file under its names refuses. */
int merge_leftover(struct kvstore *s, struct errbuf *eb);

#endif
