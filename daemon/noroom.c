/* noroom.c - see noroom.h. */
#include "daemon/noroom.h"
#include "base/err.h"
#include "daemon/call.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/kvflow.h"
#include "daemon/sess.h"
#include "kvstore/kvstore.h"
#include "proto.h"
#include <errno.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

/* Less than this is nothing: a file system keeps some for itself. */
enum { NOTHING_BYTES = 8 << 20 };

static const char *by_size(const struct daemon *d, char ret[NOROOM_WORDS])
{
    struct rlimit lim = {.rlim_cur = RLIM_INFINITY};

    (void)getrlimit(RLIMIT_FSIZE, &lim);
    if (lim.rlim_cur != RLIM_INFINITY)
        snprintf(ret, NOROOM_WORDS,
                 "a file of hearthd may have %llu KiB at most (ulimit -f, LimitFSIZE=): raise "
                 "that limit",
                 (unsigned long long)lim.rlim_cur >> 10);
    else
        snprintf(ret, NOROOM_WORDS,
                 "a file has the largest size that the file system of %.300s allows: move the "
                 "store to another one",
                 d->conf->state);
    return ret;
}

static const char *by_system(const struct daemon *d, char ret[NOROOM_WORDS])
{
    struct statvfs v;
    uint64_t left = 0;

    if (statvfs(d->conf->state, &v) == 0)
        left = (uint64_t)v.f_bavail * v.f_frsize;
    if (left > NOTHING_BYTES)
        snprintf(
            ret, NOROOM_WORDS,
            "the file system of %.300s had no room (%llu MiB are left now): it is tried again",
            d->conf->state, (unsigned long long)left >> 20);
    else
        snprintf(ret, NOROOM_WORDS,
                 "the file system of %.300s is full (%llu KiB left): free some space there",
                 d->conf->state, (unsigned long long)left >> 10);
    return ret;
}

/* What is taken and what is kept come to the limit. */
static const char *by_limit(const struct daemon *d, char ret[NOROOM_WORDS])
{
    struct kvs_stats k;

    kvs_stats(d->store, &k);
    snprintf(
        ret, NOROOM_WORDS,
        "sessions fill the disk limit of %.*f MiB (--disk): %.1f MiB are taken and %.1f MiB "
        "kept free, since compacting the turn log takes a second copy of it; remove some "
        "(`hearth sessions rm NAME`), or raise --disk and restart",
        k.file_limit % (1 << 20) != 0, (double)k.file_limit / (1 << 20),
        (double)k.file_allocated / (1 << 20), (double)k.file_kept / (1 << 20));
    return ret;
}

const char *noroom_words(struct daemon *d, uint32_t uid, int res, char ret[NOROOM_WORDS])
{
    if (res == -EDQUOT)
        return by_limit(d, ret);
    else if (res == -EFBIG)
        return by_size(d, ret);
    else if (res == -ENOSPC)
        return by_system(d, ret);
    else if (res == -ENOMEM)
        snprintf(ret, NOROOM_WORDS, "hearthd has no memory left for it");
    else if (res == -EAGAIN)
        snprintf(ret, NOROOM_WORDS,
                 "what is stored waits to be checked (`hearth status` says why): it is tried "
                 "again");
    else if ((res == -EMFILE || res == -ENFILE) && !kvs_stopped(d->store, ret, NOROOM_WORDS))
        snprintf(ret, NOROOM_WORDS,
                 "hearthd cannot open more files (%s; ulimit -n, LimitNOFILE=): it is tried "
                 "again",
                 err_str(res));
    else
        return daemon_why(d, uid, res, ret);
    return ret;
}

bool noroom_is(int res)
{
    return res == -ENOSPC || res == -EDQUOT || res == -EFBIG || res == -ENOMEM ||
           res == -EAGAIN;
}

bool noroom_later(int res)
{
    return noroom_is(res) || res == -EROFS;
}

void noroom_unread(struct daemon *d, uint32_t uid, const struct sess *s, int res,
                   struct unread *ret)
{
    char why[NOROOM_WORDS], what[NAME_BYTES_MAX + 32] = "what is stored", own[33];

    if (s)
        snprintf(what, sizeof what, "session \"%s\"", sess_label(s, own));
    ret->status = HRT_RESOURCE_EXHAUSTED;
    ret->slug = "disk_full";
    if (res == -EROFS) {
        ret->status = HRT_FAILED_PRECONDITION;
        ret->slug = "store_read_only";
    } else if (!noroom_later(res)) {
        ret->status = HRT_DATA_LOSS;
        ret->slug = "data_loss";
        snprintf(ret->words, sizeof ret->words, "%s cannot be read: %s", what, err_str(res));
        return;
    }
    snprintf(ret->words, sizeof ret->words, "%s; %s cannot be read before",
             noroom_words(d, uid, res, why), what);
}

void noroom_fail(struct call *c, const struct sess *s, int res)
{
    struct unread no;

    noroom_unread(c->d, c->uid, s, res, &no);
    call_fail(c, no.status, no.slug, NULL, "%s", no.words);
}

/* The least limit that has room for one block of m beside the log and the index of a small store. */
static uint64_t disk_least(const struct model *m)
{
    uint64_t slot = kvflow_block_bytes(m) + 3 * 4096; /* with its head, and those of the file */

    return round_up(slot + slot / 9 + (2 << 20), 1 << 20);
}

const char *noroom_block(struct daemon *d, uint32_t uid, const struct model *m, int res,
                         char ret[NOROOM_WORDS])
{
    uint64_t least = res == E_LIMIT ? disk_least(m) : 0;

    if (least > d->conf->disk_bytes)
        snprintf(
            ret, NOROOM_WORDS,
            "one of them takes %.1f MiB, for which the disk limit of %llu MiB (--disk) has "
            "no room beside the turns: raise it to %llu MiB or more, and restart",
            (double)kvflow_block_bytes(m) / (1 << 20),
            (unsigned long long)d->conf->disk_bytes >> 20, (unsigned long long)least >> 20);
    else if (res == E_LIMIT)
        snprintf(ret, NOROOM_WORDS,
                 "they find no room in the disk limit of %llu MiB (--disk): remove sessions "
                 "(`hearth "
                 "sessions rm NAME`), or raise it and restart",
                 (unsigned long long)d->conf->disk_bytes >> 20);
    else if (res == -EDQUOT)
        snprintf(ret, NOROOM_WORDS, "the day's write budget is spent, until midnight UTC");
    else
        return noroom_words(d, uid, res, ret);
    return ret;
}
