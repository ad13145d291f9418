/* index_rows.c - the index's rows as bytes, for recovery; see index.h. */
#include "base/check.h"
#include "kvstore/codec.h"
#include "kvstore/index_env.h"
#include <errno.h>

int index_row_get(struct index *i, enum index_db db, const void *key, size_t n,
                  const uint8_t **ret_v, size_t *ret_bytes)
{
    MDB_val k = {n, (void *)(uintptr_t)key}, v;

    must_be(i, INDEX_MAGIC);
    int r = index_rc(i, mdb_get(i->txn[INDEX_WRITE], i->db[db], &k, &v));
    if (r == 0)
        r = index_value_ok(&k, &v);
    if (r == 0) {
        *ret_v = v.mv_data;
        *ret_bytes = v.mv_size;
    }
    return r;
}

int index_row_put(struct index *i, enum index_db db, const void *key, size_t n, const void *v,
                  size_t bytes)
{
    must_be(i, INDEX_MAGIC);
    return index_put(i, db, key, n, v, bytes);
}

int index_row_del(struct index *i, enum index_db db, const void *key, size_t n)
{
    must_be(i, INDEX_MAGIC);
    int r = index_del(i, db, key, n);
    return r == -ENOENT ? 0 : r;
}

int index_row_next(struct index *i, enum index_db db, struct index_at *at,
                   const uint8_t **ret_v, size_t *ret_bytes)
{
    MDB_val k, v;

    must_be(i, INDEX_MAGIC);
    int r = index_next(i, INDEX_WRITE, db, at, &k, &v);
    if (r == 0)
        r = index_value_ok(&k, &v);
    if (r == 0) {
        *ret_v = v.mv_data;
        *ret_bytes = v.mv_size;
    }
    return r;
}

int index_sync(struct index *i)
{
    must_be(i, INDEX_MAGIC);
    return index_rc(i, mdb_env_sync(i->env, 1));
}

int index_block_put(struct index *i, const struct index_block *b)
{
    uint8_t k[CODEC_BLOCK_KEY], v[CODEC_BLOCK_BYTES];

    codec_block_put(k, v, b);
    return index_put(i, DB_BLOCK, k, sizeof k, v, sizeof v);
}

int index_block_drop(struct index *i, const struct index_place *p)
{
    uint8_t key[CODEC_BLOCK_KEY] = {0};
    MDB_val k = {sizeof key, key}, v;
    struct index_block row;
    MDB_cursor *c;
    bool found = false;

    memcpy(key, p->key, sizeof p->key);
    int rc = mdb_cursor_open(i->txn[INDEX_WRITE], i->db[DB_BLOCK], &c);
    if (rc)
        return index_rc(i, rc);
    for (rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
         rc == 0 && !found && k.mv_size == sizeof key &&
         memcmp(k.mv_data, p->key, sizeof p->key) == 0;
         rc = found ? 0 : mdb_cursor_get(c, &k, &v, MDB_NEXT)) {
        found = index_value_ok(&k, &v) == 0 &&
                codec_block_get(k.mv_data, k.mv_size, v.mv_data, v.mv_size, &row) == 0 &&
                row.variant == p->variant && row.layout == p->layout &&
                row.segment == p->segment && row.slot == p->slot;
        if (found)
            memcpy(key, k.mv_data, sizeof key);
    }
    mdb_cursor_close(c);
    if (rc && rc != MDB_NOTFOUND)
        return index_rc(i, rc);
    return found ? index_del(i, DB_BLOCK, key, sizeof key) : 0;
}
