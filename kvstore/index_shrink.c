/* index_shrink.c - an index that holds more free pages than others, copied smaller.
 *
 * LMDB's file never shrinks by itself.  The copy is made beside it, synced, and takes its name;
 * a kill at any instant leaves the one or the other. */
#include "base/check.h"
#include "base/dirlist.h"
#include "kvstore/index.h"
#include "kvstore/index_env.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WORTH_BYTES = 1 << 20, DEPTH_MAX = 4 };

uint64_t index_used_bytes(MDB_txn *txn)
{
    uint64_t used = 2; /* the two heads */
    MDB_stat st;
    MDB_dbi dbi;

    /* The free list's own pages and the root of names come first; then every table. */
    for (int d = -2; d < DB_; d++) {
        if (d < 0)
            dbi = (MDB_dbi)(d + 2);
        else if (mdb_dbi_open(txn, index_db_names[d], 0, &dbi))
            continue;
        if (mdb_stat(txn, dbi, &st) == 0)
            used += st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages;
    }
    return used * 4096;
}

uint64_t index_table_bytes(struct index *i, enum index_db db)
{
    uint64_t n = 0;
    MDB_stat st;

    if (index_view(i, INDEX_COMMIT) == 0) {
        if (mdb_stat(i->txn[INDEX_COMMIT], i->db[db], &st) == 0)
            n = (st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages) * 4096;
        index_unview(i, INDEX_COMMIT);
    }
    return n;
}

struct taken {
    const char *dir;
    int depth;
    uint64_t bytes;
};

static int taken_one(void *ctx, const char *name)
{
    struct taken *t = ctx;
    struct stat st;
    char path[PATH_MAX];

    if (index_path(path, t->dir, name) < 0 || lstat(path, &st) < 0)
        return 0;
    if (!S_ISDIR(st.st_mode)) {
        t->bytes += (uint64_t)st.st_blocks * 512;
        return 0;
    }
    struct taken sub = {path, t->depth + 1, 0};
    int r = sub.depth < DEPTH_MAX ? dir_list(path, taken_one, &sub) : 0;
    t->bytes += sub.bytes;
    return r == -EIO ? r
                     : 0; /* of what this user may not read nobody knows how much it takes */
}

static int sync_file(struct sys *y, const char *path)
{
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC), r = 0;

    if (fd < 0)
        return -errno;
    if (!y->no_fsync && fsync(fd) < 0)
        r = -errno;
    close(fd);
    return r;
}

void index_lock_away(const char *path)
{
    char lock[PATH_MAX + 8];

    snprintf(lock, sizeof lock, "%s-lock", path);
    if (unlink(lock) == 0)
        (void)sys_take(lock, 8192);
}

void index_shrink(struct sys *y, const char *dir, const char *path, uint64_t disk_bytes)
{
    char tmp[PATH_MAX + 8];
    uint64_t taken, used = UINT64_MAX;
    MDB_env *env;
    MDB_txn *txn;

    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    if ((unlink(tmp) < 0 && errno != ENOENT) || (taken = sys_taken_bytes(path)) < WORTH_BYTES)
        return;
    if (index_env_open(&env, path, 0) < 0)
        return; /* whoever opens it next says why */
    if (mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) == 0) {
        used = index_used_bytes(txn);
        mdb_txn_abort(txn);
    }
    /* Over the limit already (it was lowered): this is a way back. */
    struct taken all = {.dir = dir};
    bool worth = used < taken / 2 && dir_list(dir, taken_one, &all) == 0 &&
                 (all.bytes > disk_bytes || all.bytes + used <= disk_bytes);
    int r = worth ? index_err(mdb_env_copy2(env, tmp, MDB_CP_COMPACT)) : -ENOENT;
    mdb_env_close(env);
    if (r == 0)
        r = sync_file(y, tmp);
    if (r == 0 && rename(tmp, path) < 0) /* in place of the one it was copied from */
        r = -errno;
    if (r < 0) {
        (void)unlink(tmp);
        return;
    }
    index_lock_away(path);
    (void)sys_sync_parent(y, path);
}

void index_shut(struct index *i)
{
    MDB_env *env = i->env;

    must(!i->txn[INDEX_WRITE] && !i->txn[INDEX_SNAP]);
    (void)index_lock_mend(i);
    for (int w = 0; w < INDEX_SNAP; w++) {
        if (i->txn[w])
            mdb_txn_abort(i->txn[w]);
        i->txn[w] = NULL;
    }
    /* Others ask for the files' state meanwhile: they see env and lock file under hurt_lock. */
    pthread_mutex_lock(&i->hurt_lock);
    i->env = NULL;
    if (i->lock_bytes)
        close(i->lock_fd);
    i->lock_bytes = 0;
    pthread_mutex_unlock(&i->hurt_lock);
    if (env)
        mdb_env_close(env);
}

int index_env_open(MDB_env **ret, const char *path, unsigned flags)
{
    MDB_env *env = NULL;
    char lock[PATH_MAX + 8];

    /* LMDB follows a link there, and writes. */
    snprintf(lock, sizeof lock, "%s-lock", path);
    int r = flags & MDB_NOLOCK ? 0 : sys_plain(lock);
    if (r < 0)
        return r;
    int rc = mdb_env_create(&env);
    if (rc == 0 && (rc = mdb_env_set_mapsize(env, INDEX_MAP_BYTES)) == 0 &&
        (rc = mdb_env_set_maxdbs(env, DB_ + 4)) == 0 &&
        (rc = mdb_env_set_maxreaders(env, 64)) == 0)
        rc = mdb_env_open(env, path, MDB_NOTLS | MDB_NORDAHEAD | MDB_NOSUBDIR | flags, 0600);
    if (rc) {
        if (env)
            mdb_env_close(env);
        return index_err(rc);
    }
    *ret = env;
    return 0;
}

int index_open_env(struct index *i, bool same)
{
    MDB_env *env = NULL;
    MDB_txn *txn = NULL;
    struct index_last last;
    int r = index_env_open(&env, i->path, i->sys->no_fsync ? MDB_NOSYNC : 0);

    if (r == 0)
        r = index_err(mdb_txn_begin(env, NULL, 0, &txn));
    for (int d = 0; d < DB_ && r == 0; d++)
        r = index_err(mdb_dbi_open(txn, index_db_names[d], 0, &i->db[d]));
    if (r == 0) {
        index_last_read(i, txn, &last);
        r = index_err(mdb_txn_commit(txn));
    } else if (txn) {
        mdb_txn_abort(txn);
    }
    if (r < 0) {
        if (env)
            mdb_env_close(env);
        return same ? r : -EIO;
    }
    i->taken_bytes = 0; /* taken anew with the next commit */
    index_opened(i, env, same ? NULL : &last);
    return 0;
}

int index_shrink_open(struct index *i)
{
    char tmp[PATH_MAX + 8];
    int r;

    snprintf(tmp, sizeof tmp, "%s.tmp", i->path);
    if (unlink(tmp) < 0 && errno != ENOENT)
        return -errno;
    if (index_trust(i) != INDEX_FINE)
        return E_CORRUPT;
    must(i->env); /* else it is not believed */
    /* The loop reads on meanwhile; who writes is the caller. */
    r = index_rc(i, mdb_env_copy2(i->env, tmp, MDB_CP_COMPACT));
    if (r == 0)
        r = sync_file(i->sys, tmp);
    if (r == 0 && index_trust(i) != INDEX_FINE) /* and so may be what was copied */
        r = E_CORRUPT;
    if (r < 0) {
        (void)unlink(tmp);
        return r == -EIO ? -EAGAIN : r;
    }
    pthread_mutex_lock(&i->swap);
    index_shut(i);
    bool same = rename(tmp, i->path) < 0; /* in place of the one it was copied from */
    if (same)
        (void)unlink(tmp); /* it stays as it was */
    else
        (void)sys_sync_parent(i->sys, i->path);
    index_lock_away(i->path);
    r = index_open_env(i, same);
    /* What is the matter passes (no descriptor, no memory): it is walked and opened later. */
    if (r < 0 && same)
        index_trust_less(i, INDEX_TOUCHED);
    pthread_mutex_unlock(&i->swap);
    return r;
}

bool index_in_place(const struct index *i, const char *name)
{
    mdb_filehandle_t fd;

    return mdb_env_get_fd(i->env, &fd) || sys_same(name, fd);
}
