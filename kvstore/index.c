/* index.c - the index in LMDB; see index.h and docs/FORMATS.md.
 *
 * LMDB 0.9.24 has no checksums, leaks in corners we stay out of (no DUPSORT, no nested
 * transactions, no cursor kept across a delete), and its map must never be outgrown.  Map and
 * flags are fixed here: 16 GiB of address space, default sync, no WRITEMAP (SIGBUS on a full
 * disk).  Tokens lie in chunks of BLOCK_TOKENS positions, so an append rewrites at most one
 * short value. */
#include "kvstore/index.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "kvstore/codec.h"
#include "kvstore/index_env.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

enum { CHUNK = BLOCK_TOKENS, TOKENS_KIND = 0, TURN_KIND = 1 };
enum { REQ_KEY = 20, PART_KEY = 28, LOG_KEY = 25 };

const char *const index_db_names[DB_] = {"meta", "session", "name", "branch",
                                         "log",  "req",     "block"};

int index_err(int rc)
{
    switch (rc) {
    case 0: return 0;
    case MDB_NOTFOUND: return -ENOENT;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL: return -ENOSPC;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
    case MDB_CURSOR_FULL:
    case MDB_PAGE_FULL:
    case MDB_BAD_TXN:
    case MDB_BAD_VALSIZE: return E_CORRUPT;
    default: return rc > 0 ? -rc : -EIO;
    }
}

/* --- values with their check ------------------------------------------------------------ */

static uint32_t value_crc(const MDB_val *k, const void *v, size_t n)
{
    return crc32c(crc32c(0, k->mv_data, k->mv_size), v, n);
}

int index_value_ok(const MDB_val *k, MDB_val *v)
{
    if (v->mv_size < 4)
        return E_CORRUPT;
    v->mv_size -= 4;
    return ld32((uint8_t *)v->mv_data + v->mv_size) == value_crc(k, v->mv_data, v->mv_size)
               ? 0
               : E_CORRUPT;
}

int index_get(struct index *i, enum index_who w, enum index_db db, const void *key, size_t n,
              MDB_val *ret)
{
    MDB_val k = {n, (void *)key};
    int r = index_rc(i, mdb_get(i->txn[w], i->db[db], &k, ret));

    return r < 0 ? r : index_value_take(i, db, &k, ret);
}

int index_put(struct index *i, enum index_db db, const void *key, size_t n, const void *v,
              size_t bytes)
{
    MDB_val k = {n, (void *)key}, d = {bytes + 4, NULL};

    index_sum_less(i, db, &k);
    index_sum_more(i, db, &k, v, bytes);
    int r = index_rc(i, mdb_put(i->txn[INDEX_WRITE], i->db[db], &k, &d, MDB_RESERVE));

    if (r < 0)
        return r;
    if (bytes)
        memcpy(d.mv_data, v, bytes);
    st32((uint8_t *)d.mv_data + bytes, value_crc(&k, v, bytes));
    return 0;
}

int index_del(struct index *i, enum index_db db, const void *key, size_t n)
{
    MDB_val k = {n, (void *)key};

    index_sum_less(i, db, &k);
    return index_rc(i, mdb_del(i->txn[INDEX_WRITE], i->db[db], &k, NULL));
}

/* A view is held only between these two: a reader that stays keeps every page freed since
 * alive, and the file grows without bound. */
int index_view(struct index *i, enum index_who w)
{
    must_be(i, INDEX_MAGIC);
    if (w == INDEX_WRITE) {
        must(i->txn[w]);
        return 0; /* looked at when it began */
    }
    if (w == INDEX_SNAP) {
        must(i->txn[w]);
        return index_trust(i) == INDEX_FINE ? 0 : E_CORRUPT;
    }
    if (w == INDEX_LOOP)
        pthread_mutex_lock(&i->swap);
    int r = index_trust(i) != INDEX_FINE ? E_CORRUPT
            : !i->env                    ? -EIO
            : !i->txn[w] ? index_rc(i, mdb_txn_begin(i->env, NULL, MDB_RDONLY, &i->txn[w]))
                         : index_rc(i, mdb_txn_renew(i->txn[w]));
    if (r < 0 && w == INDEX_LOOP)
        pthread_mutex_unlock(&i->swap);
    return r;
}

void index_unview(struct index *i, enum index_who w)
{
    if (w < INDEX_SNAP)
        mdb_txn_reset(i->txn[w]);
    if (w == INDEX_LOOP)
        pthread_mutex_unlock(&i->swap);
}

int index_snap(struct index *i)
{
    must(!i->txn[INDEX_SNAP]);
    return index_trust(i) != INDEX_FINE ? E_CORRUPT
           : !i->env
               ? -EIO
               : index_rc(i, mdb_txn_begin(i->env, NULL, MDB_RDONLY, &i->txn[INDEX_SNAP]));
}

void index_unsnap(struct index *i)
{
    if (i->txn[INDEX_SNAP]) {
        (void)index_lock_mend(i);
        mdb_txn_abort(i->txn[INDEX_SNAP]);
    }
    i->txn[INDEX_SNAP] = NULL;
}

/* --- keys ----------------------------------------------------------------------------------- */

static size_t key_name(uint8_t *k, uint32_t owner, const char *name)
{
    size_t n = strlen(name);

    st32be(k, owner);
    memcpy(k + 4, name, n);
    return 4 + n;
}
static size_t key_req(uint8_t *k, uint32_t owner, const struct kvs_id *id)
{
    st32be(k, owner);
    memcpy(k + 4, id->b, 16);
    return REQ_KEY;
}
static size_t key_part(uint8_t *k, uint32_t owner, const struct kvs_id *id, uint64_t first)
{
    (void)key_req(k, owner, id);
    st64be(k + REQ_KEY, first);
    return PART_KEY;
}
static size_t key_log(uint8_t *k, const struct kvs_id *branch, uint8_t kind, uint64_t first)
{
    memcpy(k, branch->b, 16);
    k[16] = kind;
    st64be(k + 17, first);
    return LOG_KEY;
}

/* --- open and close --------------------------------------------------------------------------- */

int index_path(char *ret, const char *dir, const char *name)
{
    return snprintf(ret, PATH_MAX, "%s/%s", dir, name) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

int index_open(struct index **ret, const struct index_opts *o, struct errbuf *eb)
{
    struct index *i = calloc(1, sizeof *i);
    char lock[PATH_MAX + 8];
    int r = i ? 0 : -ENOMEM;

    if (r == 0 && o->path)
        r = snprintf(i->path, sizeof i->path, "%s", o->path) < PATH_MAX ? 0 : -ENAMETOOLONG;
    else if (r == 0)
        r = index_path(i->path, o->dir, "index.mdb");

    if (r == 0) {
        i->magic = INDEX_MAGIC;
        pthread_mutex_init(&i->swap, NULL);
        pthread_mutex_init(&i->hurt_lock, NULL);
        i->sys = o->sys;
        i->ahead_bytes = o->prealloc_bytes;
        /* Before LMDB opens the file: closing any descriptor of it later drops LMDB's locks. */
        if (o->prealloc_bytes)
            sys_reserve(i->path, o->prealloc_bytes);
        /* LMDB writes to its reader table before it has blocks: on a full disk a SIGBUS. */
        snprintf(lock, sizeof lock, "%s-lock", i->path);
        r = sys_lock_ok(lock, eb);
        if (r == 0 && (r = sys_take(lock, 8192)) < 0) /* 64 readers and the file's head */
            (void)sys_refuse(eb, r, "make", lock);
    }
    if (r == 0) {
        r = index_env_open(&i->env, i->path, o->no_fsync ? MDB_NOSYNC : 0);
        if (r == 0)
            index_last_keep(i, &(struct index_last){0});
        index_writes(i, false); /* as it is now */
    }
    if (r == 0)
        r = index_begin(i);
    for (int d = 0; d < DB_ && r == 0; d++)
        r = index_rc(
            i, mdb_dbi_open(i->txn[INDEX_WRITE], index_db_names[d], MDB_CREATE, &i->db[d]));
    if (r == 0)
        r = index_commit(i);
    if (r < 0) {
        if (!eb || !eb->s[0])
            (void)sys_refuse(eb, r, "open the index", i ? i->path : o->dir);
        index_close(i);
        return r;
    }
    index_reader_check(i);
    *ret = i;
    return 0;
}

void index_close(struct index *i)
{
    if (!i)
        return;
    i->magic = 0;
    index_abort(i);
    index_unsnap(i);
    index_shut(i);
    free(i);
}

uint64_t index_bytes(const struct index *i)
{
    return sys_taken_bytes(i->path);
}

uint64_t index_spare_bytes(struct index *i)
{
    uint64_t taken = index_bytes(i), used = taken;

    if (index_view(i, INDEX_COMMIT) == 0) {
        used = index_used_bytes(i->txn[INDEX_COMMIT]);
        index_unview(i, INDEX_COMMIT);
    }
    return taken > used ? taken - used : 0;
}

bool index_near_full(const struct index *i)
{
    MDB_envinfo info = {0}; /* env may be shut */

    mdb_env_info(i->env, &info);
    return (uint64_t)info.me_last_pgno * 4096 > INDEX_MAP_BYTES / 10 * 7;
}

void index_reader_check(struct index *i)
{
    int dead;

    if (i->env && index_trust(i) == INDEX_FINE)
        (void)mdb_reader_check(i->env, &dead);
}

int index_begin(struct index *i)
{
    must_be(i, INDEX_MAGIC);
    must(!i->txn[INDEX_WRITE]);
    if (index_trust(i) != INDEX_FINE)
        return E_CORRUPT;
    if (!i->env)
        return -EIO;
    index_writes(i, true);
    int r = index_rc(i, mdb_txn_begin(i->env, NULL, 0, &i->txn[INDEX_WRITE]));
    if (r < 0) {
        index_writes(i, false);
        return r;
    }
    if (index_last_is(i, i->txn[INDEX_WRITE])) {
        index_sum_begin(i);
        return 0;
    }
    index_trust_less(i, INDEX_TOUCHED);
    index_abort(i);
    return E_CORRUPT;
}

void index_abort(struct index *i)
{
    if (!i->txn[INDEX_WRITE])
        return;
    mdb_txn_abort(i->txn[INDEX_WRITE]);
    i->txn[INDEX_WRITE] = NULL;
    index_writes(i, false);
}

/* LMDB says EIO of a write that ended short, as of a disk that fails: one more at the end of the
 * file finds no room either, and is told so. */
static int no_room(struct index *i, int r)
{
    mdb_filehandle_t fd;

    if (r != -EIO || mdb_env_get_fd(i->env, &fd))
        return r;
    int g = sys_grows(fd);
    return sys_full(g) ? g : sys_free_bytes(i->path) < 1 << 20 ? -ENOSPC : r;
}

int index_room(struct index *i)
{
    mdb_filehandle_t fd;

    must(i->txn[INDEX_WRITE]);
    return mdb_env_get_fd(i->env, &fd) ? -EIO : sys_grows(fd);
}

/* The file has grown into its reserve: take more while there is some to be had.  On LMDB's
 * own descriptor, because closing any other would drop LMDB's locks. */
static void stay_ahead(struct index *i)
{
    MDB_envinfo info;
    mdb_filehandle_t fd;

    mdb_env_info(i->env, &info);
    uint64_t end = ((uint64_t)info.me_last_pgno + 1) * 4096;
    if (end + i->ahead_bytes / 2 <= i->taken_bytes || mdb_env_get_fd(i->env, &fd))
        return;
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)(end + i->ahead_bytes)) == 0)
        i->taken_bytes = end + i->ahead_bytes;
}

int index_commit(struct index *i)
{
    uint64_t wrote = sys_thread_wrote();
    int r = sys_hook(i->sys, SYS_COMMIT, false, -1, i->path, NULL, 0, 0);
    struct index_last last;

    must(i->txn[INDEX_WRITE]);
    if (r < 0) {
        index_abort(i);
        return r;
    }
    r = index_sum_commit(i);
    if (r < 0) {
        index_abort(i);
        return no_room(i, r);
    }
    index_last_read(i, i->txn[INDEX_WRITE], &last);
    r = index_rc(i, mdb_txn_commit(i->txn[INDEX_WRITE]));
    i->txn[INDEX_WRITE] = NULL;
    r = no_room(i, r);
    if (r == 0) {
        i->sys->syncs += i->sys->no_fsync ? 0 : 2;
        i->sys->bytes_written += sys_thread_wrote() - wrote;
        (void)sys_hook(i->sys, SYS_COMMIT, true, -1, i->path, NULL, 0, 0);
        stay_ahead(i);
        index_last_keep(i, &last);
    }
    index_writes(i, false);
    return r;
}

/* --- reads -------------------------------------------------------------------------------------- */

int index_meta_get(struct index *i, enum index_who w, const char *name, void *ret, size_t cap)
{
    MDB_val v;
    int r = index_view(i, w);

    if (r < 0)
        return r;
    r = index_get(i, w, DB_META, name, strlen(name), &v);
    if (r == 0) {
        size_t n = v.mv_size < cap ? v.mv_size : cap;
        memcpy(ret, v.mv_data, n);
        r = (int)n;
    }
    index_unview(i, w);
    return r;
}

int index_session_get(struct index *i, enum index_who w, const struct kvs_id *id,
                      struct kvs_session *ret)
{
    MDB_val v;
    int r = index_view(i, w);

    if (r < 0)
        return r;
    r = index_get(i, w, DB_SESSION, id->b, 16, &v);
    if (r == 0)
        r = codec_session_get(v.mv_data, v.mv_size, ret);
    index_unview(i, w);
    return r;
}

int index_name_get(struct index *i, enum index_who w, uint32_t owner, const char *name,
                   struct kvs_id *ret)
{
    uint8_t k[512];
    MDB_val v;
    int r = index_view(i, w);

    if (r < 0)
        return r;
    r = index_get(i, w, DB_NAME, k, key_name(k, owner, name), &v);
    if (r == 0 && v.mv_size != 16)
        r = E_CORRUPT;
    if (r == 0)
        memcpy(ret->b, v.mv_data, 16);
    index_unview(i, w);
    return r;
}

static int branch_item(const MDB_val *v, struct kvs_branch *ret, uint64_t *ret_end)
{
    int r = codec_branch_get(v->mv_data, v->mv_size, ret);

    if (r == 0)
        *ret_end = ld64((uint8_t *)v->mv_data + CODEC_BRANCH_BYTES - 8);
    return r;
}

static int branch_get(struct index *i, enum index_who w, const struct kvs_id *id,
                      struct kvs_branch *ret, uint64_t *ret_end)
{
    MDB_val v;
    int r = index_get(i, w, DB_BRANCH, id->b, 16, &v);

    return r < 0 ? r : branch_item(&v, ret, ret_end);
}

static int branch_put(struct index *i, const struct kvs_branch *b, uint64_t end)
{
    uint8_t v[CODEC_BRANCH_BYTES];

    codec_branch_put(v, b);
    st64(v + CODEC_BRANCH_BYTES - 8, end);
    return index_put(i, DB_BRANCH, b->id.b, 16, v, sizeof v);
}

int index_branch_get(struct index *i, enum index_who w, const struct kvs_id *id,
                     struct kvs_branch *ret, uint64_t *ret_end)
{
    int r = index_view(i, w);

    if (r < 0)
        return r;
    r = branch_get(i, w, id, ret, ret_end);
    index_unview(i, w);
    return r;
}

static int chunk_get(struct index *i, enum index_who w, const struct kvs_id *branch,
                     uint64_t pos, uint64_t *ret_first, uint32_t *ret_n, int32_t ids[CHUNK])
{
    uint8_t k[32];
    MDB_val v;
    uint64_t base = pos - pos % CHUNK;
    int r = index_get(i, w, DB_LOG, k, key_log(k, branch, TOKENS_KIND, base), &v);

    return r < 0 ? r : codec_chunk_get(v.mv_data, v.mv_size, base, ret_first, ret_n, ids);
}

static int chunk_put(struct index *i, const struct kvs_id *branch, uint64_t first, uint32_t n,
                     const int32_t *ids)
{
    uint8_t k[32], v[CODEC_CHUNK_MAX];

    return index_put(i, DB_LOG, k, key_log(k, branch, TOKENS_KIND, first - first % CHUNK), v,
                     codec_chunk_put(v, first, n, ids));
}

int index_tokens(struct index *i, enum index_who w, const struct kvs_id *branch, uint64_t from,
                 uint64_t to, int32_t *ret)
{
    int32_t ids[CHUNK];
    int r = index_view(i, w);

    if (r < 0)
        return r;
    for (uint64_t pos = from; pos < to && r == 0;) {
        uint64_t first;
        uint32_t n;
        r = chunk_get(i, w, branch, pos, &first, &n, ids);
        if (r == 0 && (pos < first || pos >= first + n))
            r = E_CORRUPT;
        if (r == 0) {
            uint64_t end = first + n < to ? first + n : to;
            memcpy(ret + (pos - from), ids + (pos - first), 4 * (size_t)(end - pos));
            pos = end;
        }
    }
    index_unview(i, w);
    return r == -ENOENT ? E_CORRUPT : r; /* the branch says it has them */
}

/* The first entry of db after *at; the cursor lives for this call only. */
int index_next(struct index *i, enum index_who w, enum index_db db, struct index_at *at,
               MDB_val *k, MDB_val *v)
{
    MDB_cursor *c;
    int r = index_rc(i, mdb_cursor_open(i->txn[w], i->db[db], &c));

    if (r < 0)
        return r;
    *k = (MDB_val){at->bytes, at->key};
    r = index_rc(i, mdb_cursor_get(c, k, v, at->bytes ? MDB_SET_RANGE : MDB_FIRST));
    if (r == 0 && k->mv_size == at->bytes && memcmp(k->mv_data, at->key, at->bytes) == 0)
        r = index_rc(i, mdb_cursor_get(c, k, v, MDB_NEXT));
    mdb_cursor_close(c);
    if (r == 0) {
        if (k->mv_size > sizeof at->key)
            return E_CORRUPT;
        at->bytes = (uint32_t)k->mv_size;
        memcpy(at->key, k->mv_data, k->mv_size);
    }
    return r;
}

/* Every listing is this loop around a decoder. */
#define LISTING(db, decode)                                                                    \
    MDB_val k, v;                                                                              \
    uint32_t got = 0;                                                                          \
    int r = index_view(i, w);                                                                  \
    if (r < 0)                                                                                 \
        return r;                                                                              \
    while (got < n && (r = index_next(i, w, db, at, &k, &v)) == 0) {                           \
        r = index_value_take(i, db, &k, &v);                                                   \
        if (r == 0)                                                                            \
            r = (decode);                                                                      \
        if (r == -ENOENT)                                                                      \
            break;                                                                             \
        if (r == 0)                                                                            \
            got++;                                                                             \
        else                                                                                   \
            (*ret_bad)++;                                                                      \
    }                                                                                          \
    index_unview(i, w);                                                                        \
    return got || r == -ENOENT ? (int)got : r

int index_sessions(struct index *i, enum index_who w, struct index_at *at,
                   struct kvs_session *ret, uint32_t n, uint64_t *ret_bad)
{
    LISTING(DB_SESSION, codec_session_get(v.mv_data, v.mv_size, &ret[got]));
}

int index_branches(struct index *i, enum index_who w, struct index_at *at,
                   struct kvs_branch *ret, uint64_t *ret_end, uint32_t n, uint64_t *ret_bad)
{
    LISTING(DB_BRANCH, branch_item(&v, &ret[got], &ret_end[got]));
}

void index_at_turns(struct index_at *at, const struct kvs_id *branch)
{
    /* Just before the first turn: all of the branch's tokens come earlier. */
    at->bytes = (uint32_t)key_log(at->key, branch, TOKENS_KIND, UINT64_MAX);
}

static int turn_item(const MDB_val *k, const MDB_val *v, const struct kvs_id *branch,
                     struct kvs_turn *ret)
{
    const uint8_t *b = k->mv_data;

    if (k->mv_size != LOG_KEY || memcmp(b, branch->b, 16) || b[16] != TURN_KIND)
        return -ENOENT;
    return codec_turn_get(v->mv_data, v->mv_size, ret);
}

int index_turns(struct index *i, enum index_who w, struct index_at *at,
                const struct kvs_id *branch, struct kvs_turn *ret, uint32_t n,
                uint64_t *ret_bad)
{
    LISTING(DB_LOG, turn_item(&k, &v, branch, &ret[got]));
}

static int req_item(const MDB_val *v, struct kvs_req *ret, char **ret_reply)
{
    struct kvs_req q;
    int r = codec_req_get(v->mv_data, v->mv_size, &q);

    if (r < 0)
        return r;
    char *copy = NULL;
    if (q.reply) {
        copy = malloc((size_t)q.reply_bytes + 1);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, q.reply, q.reply_bytes);
        copy[q.reply_bytes] = 0;
    }
    q.reply = copy;
    *ret = q;
    *ret_reply = copy;
    return 0;
}

int index_req_get(struct index *i, enum index_who w, uint32_t owner, const struct kvs_id *id,
                  struct kvs_req *ret, char **ret_reply)
{
    uint8_t k[32];
    MDB_val v;
    int r = index_view(i, w);

    if (r < 0)
        return r;
    r = index_get(i, w, DB_REQ, k, key_req(k, owner, id), &v);
    if (r == 0)
        r = req_item(&v, ret, ret_reply);
    index_unview(i, w);
    return r;
}

int index_reqs(struct index *i, enum index_who w, struct index_at *at, struct kvs_req *ret,
               char **ret_reply, uint64_t *ret_bad)
{
    const uint32_t n = 1;

    if (at->bytes == REQ_KEY) { /* past the parts of the one before */
        memset(at->key + REQ_KEY, 0xff, PART_KEY - REQ_KEY);
        at->bytes = PART_KEY;
    }
    LISTING(DB_REQ, req_item(&v, ret, ret_reply));
}

void index_at_parts(struct index_at *at, uint32_t owner, const struct kvs_id *id)
{
    at->bytes = (uint32_t)key_req(at->key, owner, id); /* comes just before its parts */
}

static int part_item(const MDB_val *k, const MDB_val *v, const struct index_at *of,
                     struct kvs_part *ret, uint8_t **ret_data)
{
    const uint8_t *b = k->mv_data;

    if (k->mv_size != PART_KEY || memcmp(b, of->key, REQ_KEY))
        return -ENOENT;
    *ret_data = malloc(v->mv_size + 1);
    if (!*ret_data)
        return -ENOMEM;
    memcpy(*ret_data, v->mv_data, v->mv_size);
    ret->owner = ld32be(b);
    memcpy(ret->id.b, b + 4, 16);
    ret->first = ld64be(b + REQ_KEY);
    ret->data = *ret_data;
    ret->bytes = (uint32_t)v->mv_size;
    return 0;
}

int index_parts(struct index *i, enum index_who w, struct index_at *at, struct kvs_part *ret,
                uint8_t **ret_data, uint64_t *ret_bad)
{
    const struct index_at of = *at; /* its first REQ_KEY bytes name the request */
    const uint32_t n = 1;

    LISTING(DB_REQ, part_item(&k, &v, &of, ret, ret_data));
}

int index_blocks(struct index *i, enum index_who w, struct index_at *at,
                 struct index_block *ret, uint32_t n, uint64_t *ret_bad)
{
    LISTING(DB_BLOCK, codec_block_get(k.mv_data, k.mv_size, v.mv_data, v.mv_size, &ret[got]));
}

/* --- writes --------------------------------------------------------------------------------------- */

int index_meta_put(struct index *i, const char *name, const void *v, size_t bytes)
{
    return index_put(i, DB_META, name, strlen(name), v, bytes);
}

static int apply_session(struct index *i, const struct kvs_session *s)
{
    struct kvs_session old;
    uint8_t k[512], v[CODEC_FIXED_MAX];
    MDB_val got;
    int r = index_get(i, INDEX_WRITE, DB_SESSION, s->id.b, 16, &got);

    if (r == 0)
        r = codec_session_get(got.mv_data, got.mv_size, &old);
    if (r == 0 && old.name[0] && (strcmp(old.name, s->name) || old.owner != s->owner)) {
        r = index_del(i, DB_NAME, k, key_name(k, old.owner, old.name));
    }
    if (r < 0 && r != -ENOENT)
        return r;
    r = index_put(i, DB_SESSION, s->id.b, 16, v, codec_session_put(v, s));
    if (r == 0 && s->name[0])
        r = index_put(i, DB_NAME, k, key_name(k, s->owner, s->name), s->id.b, 16);
    return r;
}

static int apply_session_rm(struct index *i, const struct kvs_id *id)
{
    struct kvs_session old;
    uint8_t k[512];
    MDB_val got;
    int r = index_get(i, INDEX_WRITE, DB_SESSION, id->b, 16, &got);

    if (r == 0)
        r = codec_session_get(got.mv_data, got.mv_size, &old);
    if (r == -ENOENT)
        return 0; /* removing twice is removing */
    if (r == 0 && old.name[0])
        r = index_del(i, DB_NAME, k, key_name(k, old.owner, old.name));
    if (r == -ENOENT)
        r = 0;
    return r < 0 ? r : index_del(i, DB_SESSION, id->b, 16);
}

static int apply_tokens(struct index *i, const struct kvs_id *branch, uint64_t first,
                        const int32_t *ids, uint32_t n)
{
    struct kvs_branch b;
    uint64_t end;
    int32_t chunk[CHUNK];
    int r = branch_get(i, INDEX_WRITE, branch, &b, &end);

    if (r == 0 && end != first)
        r = -EINVAL;
    for (uint32_t done = 0; done < n && r == 0;) {
        uint64_t pos = first + done, at = pos;
        uint32_t have = 0;
        if (pos % CHUNK && pos > b.parent_pos)
            r = chunk_get(i, INDEX_WRITE, branch, pos, &at, &have, chunk);
        if (r == 0 && at + have != pos)
            r = E_CORRUPT;
        if (r < 0)
            break;
        uint32_t room = CHUNK - (uint32_t)(pos % CHUNK);
        uint32_t take = n - done < room ? n - done : room;
        memcpy(chunk + have, (const uint8_t *)ids + 4 * (size_t)done, 4 * (size_t)take);
        r = chunk_put(i, branch, at, have + take, chunk);
        done += take;
    }
    return r < 0 ? r : branch_put(i, &b, first + n);
}

/* Deletes up to *rows rows, and counts them off, whose keys are as long as from, do not come
 * before it and share its beginning: all but the last 8 bytes.  1: more may be left. */
static int rows_del(struct index *i, enum index_db db, const uint8_t *from, size_t bytes,
                    uint32_t *rows)
{
    uint8_t key[32];
    MDB_val k, v;

    must(bytes <= sizeof key);
    for (; *rows; (*rows)--) {
        MDB_cursor *c;
        k = (MDB_val){bytes, (void *)(uintptr_t)from};
        int r = index_rc(i, mdb_cursor_open(i->txn[INDEX_WRITE], i->db[db], &c));
        if (r < 0)
            return r;
        r = index_rc(i, mdb_cursor_get(c, &k, &v, MDB_SET_RANGE));
        mdb_cursor_close(c);
        if (r == -ENOENT ||
            (r == 0 && (k.mv_size != bytes || memcmp(k.mv_data, from, bytes - 8))))
            return 0;
        if (r < 0)
            return r;
        memcpy(key, k.mv_data, bytes); /* the page under it changes in the delete */
        r = index_del(i, db, key, bytes);
        if (r < 0)
            return r;
    }
    return 1;
}

static int log_del(struct index *i, const struct kvs_id *branch, uint8_t kind, uint64_t first,
                   uint32_t *rows)
{
    uint8_t k[32];
    size_t n = key_log(k, branch, kind, first);

    return rows_del(i, DB_LOG, k, n, rows);
}

static int apply_cut(struct index *i, const struct kvs_id *branch, uint64_t first)
{
    struct kvs_branch b;
    uint64_t end = 0, at;
    uint32_t n;
    int32_t chunk[CHUNK];
    uint32_t all = UINT32_MAX;
    int r = branch_get(i, INDEX_WRITE, branch, &b, &end);

    if (r < 0)
        return r;
    if (first < b.parent_pos || first > end)
        return -EINVAL;
    if (first % CHUNK && first > b.parent_pos && first < end) {
        r = chunk_get(i, INDEX_WRITE, branch, first, &at, &n, chunk);
        if (r == 0 && first > at)
            r = chunk_put(i, branch, at, (uint32_t)(first - at), chunk);
    }
    /* The chunk that first lies in stays only when something before first is in it. */
    uint64_t from = first % CHUNK && first > b.parent_pos ? first - first % CHUNK + CHUNK
                                                          : first - first % CHUNK;
    if (r == 0)
        r = log_del(i, branch, TOKENS_KIND, from, &all);
    if (r == 0)
        r = log_del(i, branch, TURN_KIND, first, &all);
    return r < 0 ? r : branch_put(i, &b, first);
}

/* Empty first, then gone: in between it is a branch that holds nothing. */
int index_branch_del(struct index *i, const struct kvs_id *id, uint32_t *rows)
{
    struct kvs_branch b;
    uint64_t end;
    int r = branch_get(i, INDEX_WRITE, id, &b, &end);

    if (r == 0 && end != b.parent_pos)
        r = branch_put(i, &b, b.parent_pos);
    if (r == 0 || r == -ENOENT || r == E_CORRUPT)
        r = log_del(i, id, TOKENS_KIND, 0, rows);
    if (r == 0)
        r = log_del(i, id, TURN_KIND, 0, rows);
    if (r == 0)
        r = index_del(i, DB_BRANCH, id->b, 16);
    return r == -ENOENT ? 0 : r;
}

int index_parts_del(struct index *i, uint32_t owner, const struct kvs_id *id, uint32_t *rows)
{
    uint8_t k[32];
    size_t n = key_part(k, owner, id, 0);

    return rows_del(i, DB_REQ, k, n, rows);
}

/* Parts first: none is ever without its request. */
int index_req_del(struct index *i, uint32_t owner, const struct kvs_id *id, uint32_t *rows)
{
    uint8_t k[32];
    int r = index_parts_del(i, owner, id, rows);

    if (r)
        return r;
    r = index_del(i, DB_REQ, k, key_req(k, owner, id));
    if (r == 0)
        (*rows)--; /* rows_del left one */
    return r == -ENOENT ? 0 : r;
}

static int apply_part(struct index *i, const struct kvs_part *a)
{
    uint8_t k[32];
    MDB_val v;
    int r = index_get(i, INDEX_WRITE, DB_REQ, k, key_req(k, a->owner, &a->id), &v);

    if (r < 0 && r != E_CORRUPT)     /* hurt, it is there */
        return r == -ENOENT ? 0 : r; /* forgotten meanwhile */
    return index_put(i, DB_REQ, k, key_part(k, a->owner, &a->id, a->first), a->data, a->bytes);
}

int index_apply(struct index *i, const struct kvs_rec *r)
{
    uint8_t k[32], v[CODEC_FIXED_MAX];

    must_be(i, INDEX_MAGIC);
    switch (r->kind) {
    case KVS_REC_SESSION: return apply_session(i, r->session);
    case KVS_REC_SESSION_RM: return apply_session_rm(i, &r->session->id);
    case KVS_REC_BRANCH: return branch_put(i, r->branch, r->branch->parent_pos);
    case KVS_REC_TOKENS:
        return apply_tokens(i, &r->tokens.branch, r->tokens.first, r->tokens.ids, r->tokens.n);
    case KVS_REC_TURN:
        return index_put(i, DB_LOG, k, key_log(k, &r->turn->branch, TURN_KIND, r->turn->first),
                         v, codec_turn_put(v, r->turn));
    case KVS_REC_REQ: {
        size_t n = 128 + (r->req->reply ? r->req->reply_bytes : 0);
        uint8_t *big = n > sizeof v ? malloc(n) : v;
        if (!big)
            return -ENOMEM;
        int e = index_put(i, DB_REQ, k, key_req(k, r->req->owner, &r->req->id), big,
                          codec_req_put(big, r->req));
        if (big != v)
            free(big);
        return e;
    }
    case KVS_REC_CUT: return apply_cut(i, &r->tokens.branch, r->tokens.first);
    case KVS_REC_PART: return apply_part(i, r->part);
    default: return -EINVAL;
    }
}
