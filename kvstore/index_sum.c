/* index_sum.c - what all rows of each table come to, kept in a row of its own.
 *
 * A row's CRC tells that the row is whole, not that it is the newest: a page that an older state
 * of it was written over (a write that the disk lost, a backup that put back a part) has nothing
 * but good rows.  So each transaction also keeps, for each table, how many rows there are and the
 * sum of their hashes, whatever their order; the walk (index_walk.c) adds up what it finds.
 *
 * Where a row that was hurt is written over, what it had come to is not known any more: the sums
 * are given up, and made anew at the next open that has walked the index. */
#include "base/bytes.h"
#include "kvstore/index_env.h"
#include <errno.h>
#include <string.h>
#include <xxhash.h>

static const char NAME[] = "sums";
enum { NAME_BYTES = sizeof NAME - 1 };

bool index_sum_is(enum index_db db, const void *key, size_t n)
{
    return db == DB_META && n == NAME_BYTES && memcmp(key, NAME, n) == 0;
}

void index_sum_add(struct index_sums *x, enum index_db db, const void *key, size_t n,
                   const void *v, size_t bytes)
{
    if (index_sum_is(db, key, n))
        return;
    x->rows[db]++;
    x->sum[db] += XXH3_64bits_withSeed(v, bytes, XXH3_64bits(key, n));
}

static void less(struct index_sums *x, enum index_db db, const MDB_val *k, const MDB_val *v)
{
    struct index_sums one = {0};

    index_sum_add(&one, db, k->mv_data, k->mv_size, v->mv_data, v->mv_size);
    x->rows[db] -= one.rows[db];
    x->sum[db] -= one.sum[db];
}

bool index_sum_get(const void *v, size_t bytes, struct index_sums *ret)
{
    if (bytes != INDEX_SUMS_BYTES)
        return false;
    for (int d = 0; d < DB_; d++) {
        ret->rows[d] = ld64((const uint8_t *)v + 16 * (size_t)d);
        ret->sum[d] = ld64((const uint8_t *)v + 16 * (size_t)d + 8);
    }
    return true;
}

/* The row as it is in a transaction: -ENOENT, or E_CORRUPT where it says nothing. */
static int sums_read(MDB_txn *txn, MDB_dbi meta, struct index_sums *ret)
{
    MDB_val k = {NAME_BYTES, (void *)(uintptr_t)NAME}, v;
    int r = index_err(mdb_get(txn, meta, &k, &v));

    if (r == 0)
        r = index_value_ok(&k, &v);
    return r < 0 ? r : index_sum_get(v.mv_data, v.mv_size, ret) ? 0 : E_CORRUPT;
}

static bool is_new(struct index *i)
{
    MDB_stat st;

    for (int d = 0; d < DB_; d++)
        if (mdb_stat(i->txn[INDEX_WRITE], i->db[d], &st) || st.ms_entries)
            return false;
    return true;
}

void index_sum_begin(struct index *i)
{
    int r = sums_read(i->txn[INDEX_WRITE], i->db[DB_META], &i->sums);

    i->summed = r == 0;
    i->sums_row = r != -ENOENT;
    i->sums_moved = false;
    if (r == -ENOENT && is_new(i)) {
        i->sums = (struct index_sums){0};
        i->summed = true;
    }
}

void index_sum_less(struct index *i, enum index_db db, const MDB_val *k)
{
    MDB_val key = *k, v;

    i->sums_moved = true;
    if (!i->summed || index_sum_is(db, k->mv_data, k->mv_size))
        return;
    int r = index_err(mdb_get(i->txn[INDEX_WRITE], i->db[db], &key, &v));
    if (r == -ENOENT)
        return;
    if (r == 0)
        r = index_value_ok(k, &v);
    if (r == 0)
        less(&i->sums, db, k, &v);
    else
        i->summed = false;
}

void index_sum_more(struct index *i, enum index_db db, const MDB_val *k, const void *v,
                    size_t bytes)
{
    if (i->summed)
        index_sum_add(&i->sums, db, k->mv_data, k->mv_size, v, bytes);
}

int index_sum_commit(struct index *i)
{
    uint8_t v[INDEX_SUMS_BYTES];
    int r = 0;

    if (!i->sums_moved) /* nothing was written, and nothing is */
        return 0;
    if (i->summed) {
        for (int d = 0; d < DB_; d++) {
            st64(v + 16 * (size_t)d, i->sums.rows[d]);
            st64(v + 16 * (size_t)d + 8, i->sums.sum[d]);
        }
        r = index_put(i, DB_META, NAME, NAME_BYTES, v, sizeof v);
    } else if (i->sums_row) {
        r = index_del(i, DB_META, NAME, NAME_BYTES);
    }
    return r == -ENOENT ? 0 : r;
}

bool index_sum_same(const struct index_sums *a, const struct index_sums *b, enum index_db db)
{
    return a->rows[db] == b->rows[db] && a->sum[db] == b->sum[db];
}

int index_sum_fits(MDB_txn *txn, MDB_dbi meta, const struct index_sums *found,
                   const bool hurt[DB_])
{
    struct index_sums said;
    int r = sums_read(txn, meta, &said);

    if (r < 0) /* an older store has none; a hurt row of its own is said already */
        return 0;
    for (int d = 0; d < DB_; d++)
        if (!hurt[d] && !index_sum_same(&said, found, (enum index_db)d))
            return E_CORRUPT;
    return 0;
}

int index_sum_make(struct index *i, uint64_t bytes_max)
{
    struct index_sums all = {0};
    struct index_at at;
    MDB_val k, v;
    int r = index_begin(i);

    if (r < 0 || i->summed || index_bytes(i) > bytes_max) {
        if (r == 0)
            index_abort(i);
        return r;
    }
    for (int d = 0; d < DB_ && r == 0; d++) {
        at = (struct index_at){0};
        while ((r = index_next(i, INDEX_WRITE, (enum index_db)d, &at, &k, &v)) == 0 &&
               (r = index_value_ok(&k, &v)) == 0)
            index_sum_add(&all, (enum index_db)d, k.mv_data, k.mv_size, v.mv_data, v.mv_size);
        r = r == -ENOENT ? 0 : r;
    }
    if (r < 0) {
        index_abort(i);
        return r;
    }
    i->sums = all;
    i->summed = i->sums_moved = true;
    return index_commit(i);
}
