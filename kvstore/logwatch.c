/* logwatch.c - a turn log that others write to while the store is open.
 *
 * Its files change by the commit thread alone: a length or a time of change that this has not left
 * is somebody else's doing.  Then all of it is read as a start would read it, and what lacks
 * something is made anew from the index (ckpt_look), before that is damaged too.  Bytes that
 * change without a write are for the next start to find.
 *
 * A log that cannot be looked at is nobody's doing: a disk that fails ends writing, with that
 * said, and nothing is renamed.  Commit thread. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/dirlist.h"
#include "kvstore/logfile.h"
#include "kvstore/store.h"
#include <sys/stat.h>

struct stamp {
    const char *dir;
    uint64_t sum;
};

static int stamp_one(void *ctx, const char *name)
{
    struct stamp *t = ctx;
    char path[PATH_MAX];
    uint32_t number;
    uint8_t b[40];
    struct stat st;

    if (!log_named(name, "", &number))
        return 0;
    log_path(t->dir, number, "", path);
    if (stat(path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    st64(b, number);
    st64(b + 8, (uint64_t)st.st_ino);
    st64(b + 16, (uint64_t)st.st_size);
    st64(b + 24, (uint64_t)st.st_mtim.tv_sec);
    st64(b + 32, (uint64_t)st.st_mtim.tv_nsec);
    t->sum += (uint64_t)crc32c(0, b, sizeof b) << 16 | 1;
    return 0;
}

/* Of all its files, in whatever order; 0: there are none.  -errno: nobody can tell. */
static int stamp(const struct kvstore *s, uint64_t *ret)
{
    char dir[PATH_MAX];
    struct stamp t = {.dir = dir};

    snprintf(dir, sizeof dir, "%s/log", s->dir);
    int r = dir_list(dir, stamp_one, &t);
    if (r == 0)
        *ret = t.sum;
    return r;
}

/* Too little memory or too few descriptors pass, a directory that is gone is guard.c's, and a right
 * that was taken hinders looking only: what is written still goes where it went. */
void logwatch_failed(struct kvstore *s, int why)
{
    char path[PATH_MAX];

    switch (why) {
    case -ENOMEM:
    case -EMFILE:
    case -ENFILE:
    case -EINTR:
    case -EACCES:
    case -EPERM:
    case -ENOENT:
    case -ENOTDIR: return;
    default: break;
    }
    snprintf(path, sizeof path, "%s/log", s->dir);
    store_fault(s, why, "looking at the turn log", path);
}

void logwatch_look(struct kvstore *s)
{
    uint64_t now;
    int r = stamp(s, &now);

    if (r < 0)
        logwatch_failed(s, r);
    else if (s->log_stamp && now != s->log_stamp)
        s->log_touched = true;
}

void logwatch_keep(struct kvstore *s)
{
    if (stamp(s, &s->log_stamp) == 0)
        return;
    /* What it was left as is not known: there is nothing to compare with, so it is read. */
    s->log_stamp = 0;
    s->log_touched = true;
}

bool logwatch_hurt(struct kvstore *s)
{
    struct turnlog_report rep;
    char dir[PATH_MAX];

    if (!s->log_touched)
        return false;
    snprintf(dir, sizeof dir, "%s/log", s->dir);
    int r = log_salvage(dir, NULL, NULL, &rep, NULL);
    if (r < 0) { /* cannot be told now */
        logwatch_failed(s, r);
        return false;
    }
    s->log_touched = false;
    return rep.damaged || rep.last_seq < turnlog_seq(s->log);
}
