/* quota.c - see quota.h. */
#include "daemon/quota.h"
#include "base/log.h"
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

/* --- the day's write budget --------------------------------------------------------------------- */
static struct sess_user *putter(struct daemon *d, uint32_t uid, uint64_t count, bool make)
{
    struct sess_user *u = sess_user(d->sess, uid, make);

    if (d->sess->put_count != count) {
        d->sess->put_count = count;
        d->sess->put_bytes = 0;
    }
    if (u && u->put_count != count) {
        u->put_count = count;
        u->put_bytes = 0;
        u->put_past = false;
    }
    return u;
}

bool quota_put(struct daemon *d, uint32_t uid, uint64_t bytes)
{
    uint64_t today, count, max = kvs_day(d->store, &today, &count), all;
    struct sess_user *u = max && others(d) ? putter(d, uid, count, true) : NULL;
    bool more;

    if (!u)
        return true;
    all = today > d->sess->put_bytes ? today : d->sess->put_bytes; /* some are under way */
    more = all + bytes > max || share_more(u->put_bytes, all, max);
    if (!more && !u->put_past)
        log_at(LOG_INFO_, "a user's blocks have written his share of the day's write budget");
    u->put_past = !more;
    if (more) {
        u->put_bytes += bytes;
        d->sess->put_bytes += bytes;
    }
    return more;
}

void quota_back(struct daemon *d, uint32_t uid, uint64_t bytes)
{
    uint64_t today, count, max = kvs_day(d->store, &today, &count);
    struct sess_user *u = max && d->sess ? putter(d, uid, count, false) : NULL;

    if (!u || u->put_bytes < bytes || d->sess->put_bytes < bytes) /* it was counted yesterday */
        return;
    u->put_bytes -= bytes;
    d->sess->put_bytes -= bytes;
}

bool quota_puts(struct daemon *d, uint32_t uid, char *words, size_t cap)
{
    uint64_t today, count, max = kvs_day(d->store, &today, &count);
    const struct sess_user *u = max && others(d) ? putter(d, uid, count, false) : NULL;

    if (!u || !u->put_past)
        return true;
    snprintf(words, cap,
             "your blocks have written your share of the day's write budget, %llu MiB of %llu: "
             "until midnight UTC what is not kept in memory is computed again",
             (unsigned long long)u->put_bytes >> 20, (unsigned long long)max >> 20);
    return false;
}
