/* nn.h - the nanomsg face: REQ/REP on ipc:// for libhearth and its like.
 *
 * Raw REP, so that many requests are open at once; each keeps its control header until its
 * reply.  libnanomsg aborts the process on some malformed bytes: accepted, whoever started
 * this process starts it again and clients resend. */
#ifndef FRONT_NN_H
#define FRONT_NN_H
#include "base/err.h"
#include "daemon/front/corelink.h"

/* Serves url ("ipc://PATH") until *stop is set by a signal or the core is gone for good.
 * 0; < 0 with words.  Blocks; this thread only. */
int nnface_run(const char *url, const struct corelink_opts *core, const volatile int *stop,
               struct errbuf *eb);
/* Refuses what would make libnanomsg abort or delete a file: too long a path, something that
 * is there and no socket, a directory others may enter or that is not ours. */
int nnface_check_path(const char *path, struct errbuf *eb);

#endif
