/* index_trust.c - whether the index's file is still what LMDB made of it, and which rows are not.
 *
 * LMDB maps its file and believes every offset in it: bytes that others wrote there send it
 * beside its pages, and a file that was cut is a SIGBUS.  Its own writes all fall between
 * index_begin and the end of that transaction, so at any other moment a length or a time of
 * change that it has not left belongs to somebody else, and nothing is touched until the file
 * was walked.  Two fstats a transaction; bytes that change without a write (the disk's doing)
 * are not seen by it, but what LMDB then meets is.
 *
 * A file may be sound and still not ours: an older copy of it, put back, or another store's.
 * So the number of the newest transaction has to be the one that was committed last, and so
 * has what its rows say of store and log. */
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/index.h"
#include "kvstore/index_env.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file system may set times late: after so many commits in a row that were each followed by a
 * walk which found nothing, times do not count for a while.  What happens with no commit before
 * it is no lateness. */
enum { ALARMS_MAX = 8 };
static const uint64_t ALARM_REST_NS = 60000000000u;

static bool look(const struct index *i, struct index_seen *ret)
{
    mdb_filehandle_t fd;
    struct stat st;

    if (!i->env || mdb_env_get_fd(i->env, &fd) || fstat(fd, &st) < 0)
        return false;
    *ret = (struct index_seen){(uint64_t)st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
    return true;
}

static void lock_path(const struct index *i, char ret[PATH_MAX + 8])
{
    snprintf(ret, PATH_MAX + 8, "%s-lock", i->path);
}

/* By a descriptor that only names it: a path is looked up at each read, and closing any other
 * would drop LMDB's locks. */
static void lock_known(struct index *i)
{
    char path[PATH_MAX + 8];
    struct stat st;

    lock_path(i, path);
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0) {
        close(fd);
        return;
    }
    i->lock_fd = fd;
    i->lock_bytes = (uint64_t)st.st_size;
}

/* One that was deleted or has another name goes on as it is: it is what is mapped. */
static bool lock_cut(const struct index *i)
{
    struct stat st;

    return i->lock_bytes && fstat(i->lock_fd, &st) == 0 && (uint64_t)st.st_size < i->lock_bytes;
}

/* Looks into both maps: neither file may have been cut. */
static uint64_t last_txn(const struct index *i)
{
    MDB_envinfo info;

    return mdb_env_info(i->env, &info) ? 0 : info.me_last_txnid;
}

static bool differs(const struct index *i, const struct index_seen *now)
{
    const struct index_seen *was = &i->seen;

    if (now->bytes < was->bytes || last_txn(i) != i->last.txn)
        return true;
    return now_ns() > i->alarm_ns &&
           (now->bytes != was->bytes || now->sec != was->sec || now->nsec != was->nsec);
}

/* Between begin and end the file is LMDB's to change. */
void index_writes(struct index *i, bool begin)
{
    struct index_seen now;
    bool known = !begin && look(i, &now);

    pthread_mutex_lock(&i->hurt_lock);
    i->writing = begin;
    if (known)
        i->seen = now;
    if (known && !i->lock_bytes)
        lock_known(i);
    pthread_mutex_unlock(&i->hurt_lock);
}

enum index_trust index_trust(struct index *i)
{
    struct index_seen now;

    must_be(i, INDEX_MAGIC);
    pthread_mutex_lock(&i->hurt_lock);
    /* Under the lock: a transaction that begins or ends meanwhile would be taken for others. */
    if (i->trust == INDEX_FINE && !i->writing && look(i, &now) &&
        (lock_cut(i) || differs(i, &now)))
        i->trust = INDEX_TOUCHED;
    enum index_trust t = i->trust;
    pthread_mutex_unlock(&i->hurt_lock);
    return t;
}

/* --- the newest transaction --------------------------------------------------------------- */

static uint32_t row_read(const struct index *i, MDB_txn *txn, const char *name, uint8_t *ret,
                         uint32_t bytes)
{
    MDB_val k = {strlen(name), (void *)name}, v;

    if (mdb_get(txn, i->db[DB_META], &k, &v) || index_value_ok(&k, &v) < 0 ||
        v.mv_size != bytes)
        return 0;
    memcpy(ret, v.mv_data, bytes);
    return bytes;
}

void index_last_read(const struct index *i, MDB_txn *txn, struct index_last *ret)
{
    *ret = (struct index_last){0};
    ret->n_uuid = row_read(i, txn, "uuid", ret->uuid, sizeof ret->uuid);
    ret->n_seq = row_read(i, txn, "logseq", ret->seq, sizeof ret->seq);
}

static void last_keep(struct index *i, const struct index_last *last)
{
    if (i->calm)
        i->alarms = 0;
    i->calm = true;
    i->last = *last;
    i->last.txn = last_txn(i);
}

void index_last_keep(struct index *i, const struct index_last *last)
{
    pthread_mutex_lock(&i->hurt_lock);
    last_keep(i, last);
    pthread_mutex_unlock(&i->hurt_lock);
}

void index_opened(struct index *i, MDB_env *env, const struct index_last *last)
{
    pthread_mutex_lock(&i->hurt_lock);
    i->env = env;
    i->lock_new = false;
    lock_known(i);
    if (last) {
        (void)look(i, &i->seen);
        last_keep(i, last);
        i->trust = INDEX_FINE;
    }
    pthread_mutex_unlock(&i->hurt_lock);
}

bool index_last_is(const struct index *i, MDB_txn *txn)
{
    const struct index_last *was = &i->last; /* the commit thread's to change */
    struct index_last now;

    index_last_read(i, txn, &now);
    /* A row that is hurt says nothing, and is mended. */
    return (!now.n_uuid || !was->n_uuid || !memcmp(now.uuid, was->uuid, sizeof now.uuid)) &&
           (!now.n_seq || !was->n_seq || !memcmp(now.seq, was->seq, sizeof now.seq));
}

/* Closed, and opened by its name. */
static int open_anew(struct index *i, bool same)
{
    pthread_mutex_lock(&i->swap);
    index_shut(i);
    int r = index_open_env(i, same);
    pthread_mutex_unlock(&i->swap);
    return r;
}

int index_open_again(struct index *i)
{
    return open_anew(i, false);
}

int index_is_last(struct index *i)
{
    int r = i->lock_new || !i->env ? open_anew(i, true) : 0;
    MDB_txn *txn;

    if (r == 0 && last_txn(i) != i->last.txn)
        return E_STALE;
    if (r == 0)
        r = index_err(mdb_txn_begin(i->env, NULL, MDB_RDONLY, &txn));
    if (r < 0)
        return r;
    bool is = index_last_is(i, txn);
    mdb_txn_abort(txn);
    return is ? 0 : E_STALE;
}

void index_believe(struct index *i, bool alarm)
{
    pthread_mutex_lock(&i->hurt_lock);
    if (alarm && i->calm && ++i->alarms == ALARMS_MAX) {
        i->alarms = 0;
        i->alarm_ns = now_ns() + ALARM_REST_NS;
    }
    i->calm = false;
    i->trust = INDEX_FINE;
    pthread_mutex_unlock(&i->hurt_lock);
}

void index_trust_less(struct index *i, enum index_trust t)
{
    pthread_mutex_lock(&i->hurt_lock);
    i->trust = t > i->trust ? t : i->trust;
    pthread_mutex_unlock(&i->hurt_lock);
}

void index_doubt(struct index *i)
{
    index_trust_less(i, INDEX_BROKEN);
}

int index_rc(struct index *i, int rc)
{
    switch (rc) {
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_CURSOR_FULL:
    case MDB_PAGE_FULL: index_trust_less(i, INDEX_BROKEN); break;
    case MDB_BAD_TXN: index_trust_less(i, INDEX_TOUCHED); break; /* of something said before */
    default: break;
    }
    return index_err(rc);
}

/* What is mapped of a lock file that was cut has its length again and can be let go of, and another
 * takes its name, which LMDB fills: a walk needs that.  The index itself is opened again when it
 * was walked (index_is_last), as it may be any file by now. */
int index_lock_mend(struct index *i)
{
    char path[64];

    if (!lock_cut(i))
        return 0;
    index_trust_less(i, INDEX_TOUCHED);
    snprintf(path, sizeof path, "/proc/self/fd/%d", i->lock_fd);
    if (truncate(path, (off_t)i->lock_bytes) < 0)
        return errno == ENOENT ? -EIO : -errno; /* -ENOENT is said of an index */
    index_lock_away(i->path);
    i->lock_new = true;
    return 1;
}

int index_walk_begin(struct index *i)
{
    pthread_mutex_lock(&i->hurt_lock);
    (void)look(i, &i->seen);
    pthread_mutex_unlock(&i->hurt_lock);
    int r = index_lock_mend(i), dead;
    /* A walk ends with its process, which keeps its place among LMDB's readers; there are 126,
     * and nobody else looks while the index is not believed. */
    if (r == 0 && i->env)
        (void)mdb_reader_check(i->env, &dead);
    return r;
}

/* --- rows that are hurt ----------------------------------------------------------------------- */

int index_value_take(struct index *i, enum index_db db, const MDB_val *k, MDB_val *v)
{
    int r = index_value_ok(k, v);
    bool known = false;

    if (r == 0)
        return 0;
    pthread_mutex_lock(&i->hurt_lock);
    for (uint32_t j = 0; j < i->n_hurt; j++)
        known |= i->hurt[j].db == db && i->hurt[j].n == k->mv_size &&
                 !memcmp(i->hurt[j].key, k->mv_data, k->mv_size);
    if (!known && i->n_hurt < INDEX_HURT_MAX && k->mv_size <= sizeof i->hurt[0].key) {
        i->hurt[i->n_hurt].db = db;
        i->hurt[i->n_hurt].n = k->mv_size;
        memcpy(i->hurt[i->n_hurt++].key, k->mv_data, k->mv_size);
    }
    pthread_mutex_unlock(&i->hurt_lock);
    return r;
}

size_t index_hurt_take(struct index *i, enum index_db *ret_db, uint8_t ret_key[512])
{
    size_t n = 0;

    pthread_mutex_lock(&i->hurt_lock);
    if (i->n_hurt) {
        *ret_db = i->hurt[0].db;
        n = i->hurt[0].n;
        memcpy(ret_key, i->hurt[0].key, n);
        memmove(i->hurt, i->hurt + 1, --i->n_hurt * sizeof *i->hurt);
    }
    pthread_mutex_unlock(&i->hurt_lock);
    return n;
}
