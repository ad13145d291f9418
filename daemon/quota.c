/* quota.c - see quota.h. */
#include "daemon/quota.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/sess.h"
#include "daemon/share.h"
#include "kvstore/kvstore.h"
#include <stdio.h>

static bool others(const struct daemon *d)
{
    return d->sess && (d->conf->system || d->sess->n_holders > 1);
}

bool quota_turns(struct daemon *d, uint32_t uid, char *words, size_t cap)
{
    const struct sess_table *t = d->sess;
    const struct sess_user *u;

    if (!others(d) || !kvs_turns_short(d->store) || !(u = sess_user(d->sess, uid, false)) ||
        !share_over(u->disk_bytes, t->disk_bytes, t->n_holders))
        return true;
    snprintf(words, cap,
             "sessions nearly fill the disk limit, and yours are about %llu KiB of their %llu, "
             "more than a share (%llu): what is left is for others; remove some of yours "
             "(`hearth sessions rm NAME`)",
             (unsigned long long)(u->disk_bytes + 1023) >> 10,
             (unsigned long long)(t->disk_bytes + 1023) >> 10,
             (unsigned long long)(t->disk_bytes / (t->n_holders + 1) + 1023) >> 10);
    return false;
}
