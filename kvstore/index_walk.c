/* index_walk.c - index_verify(): in a child process, on a file that may be anything.
 *
 * Every row's CRC, the order of keys, look-ups that find what the walk found, that every page is
 * whole and has one use (dbpage.h), and that no row is an older one (index_sum.c). */
#include "base/bytes.h"
#include "kvstore/dbpage.h"
#include "kvstore/index.h"
#include "kvstore/index_env.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A head of LMDB's, in its page: number, flags of the page (10); magic, version, address, size of the
 * map; the record of the free list: size of a page, its flags, which are the environment's, too
 * (MDB_NOSUBDIR and MDB_INTEGERKEY), its root (80); that of the main database (88): none, 0, its root
 * (128); the last page. */
enum { P_META = 8, META_VERSION = 1, META_FLAGS = 0x4008 };
static const uint32_t META_MAGIC = 0xbeefc0de;

struct walk {
    int (*hurt)(void *ctx, enum index_db db, const void *key, size_t n);
    void *ctx;
    MDB_txn *txn;
    struct dbpages pages;
    uint64_t counted;
    struct index_sums sums;
    bool hurts[DB_]; /* a row of it could not be read */
};

/* ours: DB_ when it is none of our databases. */
static int walk_db(struct walk *x, MDB_dbi dbi, enum index_db ours)
{
    MDB_cursor *c;
    MDB_stat st;
    MDB_val k, v, again;
    uint8_t last[512];
    size_t n_last = 0;
    uint64_t n = 0, large = 0;
    unsigned flags = 0;

    if (mdb_stat(x->txn, dbi, &st) || mdb_cursor_open(x->txn, dbi, &c) ||
        (dbi > 0 && (mdb_dbi_flags(x->txn, dbi, &flags) || flags)))
        return E_CORRUPT;
    x->counted += st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages;
    while (mdb_cursor_get(c, &k, &v, n ? MDB_NEXT : MDB_FIRST) == 0) {
        if (++n > st.ms_entries || k.mv_size > sizeof last)
            return E_CORRUPT;
        if (!dbpages_leaf(&x->pages, k.mv_data, dbi == 1) ||
            !dbpages_value(&x->pages, v.mv_data, v.mv_size, &large))
            return E_CORRUPT;
        size_t m = n_last < k.mv_size ? n_last : k.mv_size;
        int order = memcmp(last, k.mv_data, m);
        if (n > 1 && dbi > 0 && (order > 0 || (order == 0 && n_last >= k.mv_size)))
            return E_CORRUPT;
        memcpy(last, k.mv_data, k.mv_size);
        n_last = k.mv_size;
        /* What the walk finds, a look-up must find at the same place. */
        if (dbi > 0 && (mdb_get(x->txn, dbi, &k, &again) || again.mv_data != v.mv_data))
            return E_CORRUPT;
        if (ours == DB_)
            continue;
        if (index_value_ok(&k, &v) == 0)
            index_sum_add(&x->sums, ours, k.mv_data, k.mv_size, v.mv_data, v.mv_size);
        else if (!x->hurt || x->hurt(x->ctx, ours, k.mv_data, k.mv_size) < 0)
            return E_CORRUPT;
        else
            x->hurts[ours] = true;
    }
    mdb_cursor_close(c);
    return n == st.ms_entries && large == st.ms_overflow_pages ? 0 : E_CORRUPT;
}

/* A free page that is also in use would be overwritten by the next transaction. */
static int walk_free(struct walk *x)
{
    MDB_cursor *c;
    MDB_val k, v;
    uint64_t n_free = 0;

    if (walk_db(x, 0, DB_) < 0 || mdb_cursor_open(x->txn, 0, &c))
        return E_CORRUPT;
    for (bool first = true; mdb_cursor_get(c, &k, &v, first ? MDB_FIRST : MDB_NEXT) == 0;
         first = false) {
        uint64_t n = v.mv_size >= 8 ? ld64(v.mv_data) : UINT64_MAX, last = UINT64_MAX;
        if (n > v.mv_size / 8 - 1)
            return E_CORRUPT;
        for (uint64_t j = 1; j <= n; j++) {
            uint64_t p = ld64((uint8_t *)v.mv_data + 8 * j);
            if (p >= last || !dbpages_free(&x->pages, p))
                return E_CORRUPT;
            last = p;
        }
        n_free += n;
    }
    mdb_cursor_close(c);
    return x->counted + n_free + DBPAGE_METAS == x->pages.n && dbpages_rest(&x->pages)
               ? 0
               : E_CORRUPT;
}

static bool page_ok(uint64_t page, uint64_t last)
{
    return page == UINT64_MAX || page <= last; /* the first: an empty tree has none */
}

static bool head_ok(const uint8_t *h, uint64_t number)
{
    uint64_t last = ld64(h + 136);

    return ld64(h) == number && ld16(h + 10) == P_META && ld32(h + 16) == META_MAGIC &&
           ld32(h + 20) == META_VERSION && ld64(h + 24) == 0 &&
           ld64(h + 32) == INDEX_MAP_BYTES && ld32(h + 40) == DBPAGE_BYTES &&
           ld16(h + 44) == META_FLAGS && ld32(h + 88) == 0 && ld16(h + 92) == 0 &&
           last < INDEX_MAP_BYTES / DBPAGE_BYTES && page_ok(ld64(h + 80), last) &&
           page_ok(ld64(h + 128), last);
}

/* LMDB has two heads, writes them by turns, and goes by the one with the higher number.  It believes
 * what stands there: another size of a page or of the map is an error that looks like want of
 * memory, another kind of database ends the process, even from the head that it does not go by.
 * None of that ever changes.  And where damage has made the newer head the older one, all else is
 * sound, and what the last transaction had is missing: so they have to follow each other (not
 * asked beside others, who may be writing one). */
static int heads_ok(const char *path, bool beside)
{
    uint8_t head[DBPAGE_METAS][DBPAGE_META_TXN + 8];
    int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;

    if (fd < 0)
        return -errno;
    for (int i = 0; i < DBPAGE_METAS && r == 0; i++) {
        ssize_t n = pread(fd, head[i], sizeof head[i], i * DBPAGE_BYTES);

        r = n < 0                                                 ? -errno
            : n == (ssize_t)sizeof head[i] && head_ok(head[i], i) ? 0
                                                                  : E_CORRUPT;
    }
    close(fd);
    if (r < 0 || beside)
        return r;
    uint64_t even = ld64(head[0] + DBPAGE_META_TXN), odd = ld64(head[1] + DBPAGE_META_TXN);
    bool fresh = even == 0 && odd == 0;
    return fresh || even == odd + 1 || odd == even + 1 ? 0 : E_CORRUPT;
}

int index_verify(const char *path, bool beside, uint64_t quick_bytes,
                 int (*hurt)(void *ctx, enum index_db db, const void *key, size_t n), void *ctx)
{
    struct stat st;
    struct walk x = {.hurt = hurt, .ctx = ctx};
    MDB_env *env;
    MDB_envinfo info;
    MDB_dbi dbi;
    MDB_stat ds;
    uint64_t clean = 0;
    int r;

    if (stat(path, &st) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (st.st_size == 0)
        return -ENOENT;
    r = heads_ok(path, beside);
    if (r < 0)
        return r;
    r = index_env_open(&env, path, MDB_RDONLY | (beside ? 0 : MDB_NOLOCK));
    if (r == 0)
        r = index_err(mdb_txn_begin(env, NULL, MDB_RDONLY, &x.txn));
    if (r < 0)
        return r == -ENOENT ? E_CORRUPT : r;
    mdb_env_info(env, &info);
    mdb_env_stat(env, &ds);
    uint64_t pages = (uint64_t)info.me_last_pgno + 1;
    /* LMDB writes whole pages: a file that ends before the last one has lost some. */
    if (ds.ms_psize != DBPAGE_BYTES ||
        pages * DBPAGE_BYTES > (uint64_t)st.st_size + DBPAGE_BYTES * 64 ||
        pages * DBPAGE_BYTES > INDEX_MAP_BYTES || info.me_mapsize != INDEX_MAP_BYTES)
        return E_CORRUPT;
    MDB_val k = {5, (void *)"clean"}, v;
    if (mdb_dbi_open(x.txn, index_db_names[DB_META], 0, &dbi) == 0 &&
        mdb_get(x.txn, dbi, &k, &v) == 0 && index_value_ok(&k, &v) == 0 && v.mv_size == 8)
        clean = ld64(v.mv_data);
    if (quick_bytes && clean == 1 && (uint64_t)st.st_size > quick_bytes)
        return 1;
    r = dbpages_init(&x.pages, pages);
    if (r == 0)
        r = walk_db(&x, 1, DB_); /* the unnamed one, which holds the others' roots */
    for (int d = 0; d < DB_ && r == 0; d++) {
        r = index_err(mdb_dbi_open(x.txn, index_db_names[d], 0, &dbi));
        if (r == 0)
            r = walk_db(&x, dbi, (enum index_db)d);
    }
    if (r == 0)
        r = walk_free(&x);
    if (r == 0)
        r = index_err(mdb_dbi_open(x.txn, index_db_names[DB_META], 0, &dbi));
    if (r == 0)
        r = index_sum_fits(x.txn, dbi, &x.sums, x.hurts);
    /* The process ends here: nothing is closed. */
    return r == 0 || r == -ENOMEM ? r : E_CORRUPT;
}
