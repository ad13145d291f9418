/* env.h - what a test may put in place of the machine when it opens a store. */
#ifndef KVSTORE_ENV_H
#define KVSTORE_ENV_H
#include "kvstore/kvstore.h"
#include "kvstore/ring.h"
#include "kvstore/sys.h"

struct kvs_env {
    const struct io_ops *ring; /* NULL: as kvs_opts.io says */
    int (*io_fault)(void *user, const struct io_req *q, uint32_t *len);
    void *io_user;
    int (*sys_hook)(void *user, const struct sys_event *e);
    void *sys_user;
    /* An index above this is not walked at open after a clean stop; 0: 64 MiB. */
    uint64_t quick_bytes;
    uint64_t lived_ns;                  /* a new store's clock begins here (lived.h) */
    const _Atomic int64_t *wall_off_ns; /* the wall clock is wrong by this; NULL: right */
    uint64_t
        forget_ns; /* between looks for requests to forget; 0: ten minutes, or seconds when sessions find no room.  Else what a
                         * removed session leaves is collected at once, too */
};
int kvs_open_env(struct kvstore **ret, const struct kvs_opts *o, const struct kvs_env *env,
                 struct kvs_open_report *rep, struct errbuf *eb);

#endif
