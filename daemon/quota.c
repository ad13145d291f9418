/* quota.c - see quota.h. */
#include "daemon/quota.h"
#include "base/log.h"
#include "base/share.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/ident.h"
#include "daemon/sess.h"
#include "kvstore/kvstore.h"
#include <stdio.h>

/* Are there, or may there be, other users? */
static bool others(const struct daemon *d)
{
    return d->conf->system || d->sess->n_holders > 1;
}

/* Alone on his daemon a user has all of it, and his keys share that. */
bool quota_turns(struct daemon *d, uint32_t uid, char *words, size_t cap)
{
    const struct sess_table *t = d->sess;
    const struct sess_user *u;
    const struct sess_group *g;
    uint32_t users;
    bool user_over;
    uint64_t his, have;

    if (!t || !kvs_turns_short(d->store) || !(u = sess_user(d->sess, uid, false)))
        return true;
    g = u->group;
    users = others(d) ? t->n_holders : 0;
    if (!share_over2(u->disk_bytes, g->disk_bytes, t->disk_bytes, users, g->holders))
        return true;
    his = t->disk_bytes / ((uint64_t)users + 1);
    user_over = g->disk_bytes > his;
    have = user_over ? g->disk_bytes : u->disk_bytes;
    snprintf(words, cap,
             "sessions nearly fill the disk limit, and yours are about %llu KiB of their %llu, "
             "more than a share (%llu): what is left is for others; remove some of yours "
             "(`hearth sessions rm NAME`)",
             (unsigned long long)(have + 1023) >> 10,
             (unsigned long long)(t->disk_bytes + 1023) >> 10,
             (unsigned long long)((user_over ? his : his / (g->holders + 1)) + 1023) >> 10);
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
    if (u && u->group->put_count != count) {
        u->group->put_count = count;
        u->group->put_bytes = 0;
    }
    if (u && u->put_count != count) {
        u->put_count = count;
        u->put_bytes = 0;
        u->put_past = false;
    }
    return u;
}

static void put_add(struct daemon *d, struct sess_user *u, uint64_t bytes)
{
    u->put_bytes += bytes;
    u->group->put_bytes += bytes;
    d->sess->put_bytes += bytes;
}

bool quota_put(struct daemon *d, uint32_t uid, uint64_t bytes)
{
    uint64_t today, count, max = kvs_day(d->store, &today, &count), all;
    bool more, keys;
    struct sess_user *u;

    if (!max || !d->sess)
        return true;
    keys = ident_keys(d->idents, ident_uid(d->idents, uid));
    if ((!keys && !others(d)) || !(u = putter(d, uid, count, true)))
        return true;
    all = today > d->sess->put_bytes ? today : d->sess->put_bytes; /* some are under way */
    more = all + bytes > max ||
           (others(d) ? share_more2(u->put_bytes, u->group->put_bytes, all, max, keys)
                      : share_more(u->put_bytes, all, max));
    if (!more && !u->put_past)
        log_at(LOG_INFO_, "a user's blocks have written his share of the day's write budget");
    u->put_past = !more;
    if (more)
        put_add(d, u, bytes);
    return more;
}

void quota_back(struct daemon *d, uint32_t uid, uint64_t bytes)
{
    uint64_t today, count, max = kvs_day(d->store, &today, &count);
    struct sess_user *u = max && d->sess ? putter(d, uid, count, false) : NULL;

    if (!u || u->put_bytes < bytes) /* it was counted yesterday */
        return;
    put_add(d, u, -bytes);
}

bool quota_puts(struct daemon *d, uint32_t uid, char *words, size_t cap)
{
    uint64_t today, count, max = kvs_day(d->store, &today, &count);
    const struct sess_user *u = max && d->sess ? putter(d, uid, count, false) : NULL;

    if (!u || !u->put_past)
        return true;
    snprintf(words, cap,
             "your blocks have written your share of the day's write budget, %llu MiB of %llu: "
             "until midnight UTC what is not kept in memory is computed again",
             (unsigned long long)u->put_bytes >> 20, (unsigned long long)max >> 20);
    return false;
}
