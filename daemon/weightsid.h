/* weightsid.h - hashes of model files, one at a time, on a thread of low priority.
 *
 * A file of 16 GB takes seconds to minutes; nothing waits for it but the reuse of KV.  The
 * file is looked at (stat) before and after: one that changed meanwhile gives no id.
 * Loop thread only; done comes back there. */
#ifndef DAEMON_WEIGHTSID_H
#define DAEMON_WEIGHTSID_H
#include "base/err.h"
#include "base/stamp.h"
#include <stdint.h>

struct loop;
struct weightsid;

int weightsid_open(struct weightsid **ret, struct loop *l);
void weightsid_close(struct weightsid *w); /* stops in the middle; no done after. NULL ok */
/* Queues path; file is what the caller saw.  res: 0, -ESTALE (it changed), or why it cannot be
 * read, in words.  -ENOMEM. */
int weightsid_submit(struct weightsid *w, const char *path, const struct file_stamp *file,
                     void (*done)(void *user, int res, const uint8_t id[16], const char *words),
                     void *user);

#endif
