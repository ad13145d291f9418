/* index_rows.c - the index's rows as bytes, for recovery; see index.h. */
#include "base/check.h"
#include "kvstore/index_env.h"
#include <errno.h>

int index_row_get(struct index *i, enum index_db db, const void *key, size_t n,
                  const uint8_t **ret_v, size_t *ret_bytes)
{
    MDB_val k = {n, (void *)(uintptr_t)key}, v;

    must_be(i, INDEX_MAGIC);
    int r = index_err(mdb_get(i->txn[INDEX_WRITE], i->db[db], &k, &v));
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
    return index_err(mdb_env_sync(i->env, 1));
}
