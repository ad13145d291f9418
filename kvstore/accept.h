/* accept.h - whether a batch fits the state it would change, decided before it is logged.
 *
 * A frame in the turn log must apply without failing, now and at every replay.  So each batch
 * is checked against the index and against what earlier batches of the same group, not yet
 * applied, will have changed.  Owner: the commit thread. */
#ifndef KVSTORE_ACCEPT_H
#define KVSTORE_ACCEPT_H
#include "kvstore/record.h"
#include <stdbool.h>

struct index;
enum { ACCEPT_BRANCHES_MAX = 512, ACCEPT_SESSIONS_MAX = 256 };
struct accept {
    struct index *idx;
    uint32_t n_branch, n_session;
    struct {
        struct kvs_id id;
        uint64_t begin, end;
    } branch[ACCEPT_BRANCHES_MAX];
    struct {
        struct kvs_id id;
        uint32_t owner;
        bool gone;
        char name[NAME_BYTES_MAX + 1];
    } session[ACCEPT_SESSIONS_MAX];
    int who; /* enum index_who */
};
void accept_begin(struct accept *a, struct index *idx, int who);
/* 0, or why not: -EINVAL (not at the branch's end; a session that would stand behind it), -ENOENT
 * (no such branch, a session's own included), -EEXIST (a branch twice, a name taken), -EMSGSIZE (more than a frame holds), E_LIMIT (more than this group can hold: try in the next),
 * E_CORRUPT (a row that it would change is damaged).
 * On failure the batch leaves no trace here. */
int accept_batch(struct accept *a, const struct kvs_rec *rec, uint32_t n);

#endif
