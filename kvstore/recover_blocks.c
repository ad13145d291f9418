/* recover_blocks.c - opening: which blocks there are, from the index or from the slots.
 *
 * The table and the free maps are filled from the index.  A row that names no slot is dropped;
 * one whose segment could not be read stays in the index, and its block is back once it can.
 * When the index was lost, the slots' own headers say what they hold; a segment that could not
 * be read then is remembered (meta "unread") and asked at the first open that can. */
#include "base/bytes.h"
#include "base/check.h"
#include "kvstore/store.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { VERIFY_NEWEST = 64, UNREAD_MAX = 4096, UNREAD_BYTES = 12 };

/* Rows on their way into the index, a transaction's worth at a time. */
struct rows {
    struct kvstore *s;
    struct index_block *put, *del; /* TXN_BLOCKS_MAX each */
    uint32_t n_put, n_del;
};

static int rows_init(struct rows *x, struct kvstore *s)
{
    *x = (struct rows){.s = s};
    x->put = malloc(2 * TXN_BLOCKS_MAX * sizeof *x->put);
    x->del = x->put + TXN_BLOCKS_MAX;
    return x->put ? 0 : -ENOMEM;
}

static int row_drop(struct index *i, const struct index_block *row)
{
    struct index_place p = {.variant = row->variant,
                            .layout = row->layout,
                            .segment = row->segment,
                            .slot = row->slot};

    memcpy(p.key, row->key.b, sizeof p.key);
    return index_block_drop(i, &p);
}

static int rows_flush(struct rows *x)
{
    struct index *i = x->s->idx;
    int r = x->n_put + x->n_del ? index_begin(i) : 0;

    if (r < 0 || x->n_put + x->n_del == 0)
        return r;
    for (uint32_t k = 0; k < x->n_put && r == 0; k++)
        r = index_block_put(i, &x->put[k]);
    for (uint32_t k = 0; k < x->n_del && r == 0; k++)
        r = row_drop(i, &x->del[k]);
    x->n_put = x->n_del = 0;
    if (r < 0) {
        index_abort(i);
        return r;
    }
    return index_commit(i);
}

static int rows_put(struct rows *x, const struct index_block *row)
{
    x->put[x->n_put++] = *row;
    return x->n_put == TXN_BLOCKS_MAX ? rows_flush(x) : 0;
}

static int rows_del(struct rows *x, const struct index_block *row)
{
    x->del[x->n_del++] = *row;
    return x->n_del == TXN_BLOCKS_MAX ? rows_flush(x) : 0;
}

/* --- from the index ------------------------------------------------------------------------------ */

/* 0 taken, -ENOENT: names nothing of ours, -EAGAIN: cannot be asked now, -ENOMEM. */
static int row_take(struct kvstore *s, const struct index_block *row)
{
    struct layout *l = recover_layout(s, row->layout);
    struct seg *g = l ? layout_seg(l, row->segment) : NULL;

    if (!g)
        return recover_unread(s, row->layout, row->segment) ? -EAGAIN : -ENOENT;
    if (row->slot >= g->n_slots)
        return row->slot - g->n_slots < g->n_cut ? -EAGAIN : -ENOENT;
    if (shelf_find(&s->shelf, row->key.b, row->variant) || slot_claim(l, g, row->slot) < 0)
        return -ENOENT;
    uint64_t depth = row->first_pos / BLOCK_TOKENS;
    struct shelf_blk x = {.segment = row->segment,
                          .slot = row->slot & 0xffffff,
                          .layout = (uint8_t)l->index,
                          .head_crc = row->head_crc,
                          .used = (uint32_t)(kvs_lived_ns(s, row->time_ns) / USED_UNIT_NS),
                          .depth = (uint16_t)(depth < UINT16_MAX ? depth : UINT16_MAX)};
    memcpy(x.parent, row->parent.b, sizeof x.parent);
    return room_shelve(s, &row->key, row->variant, &x) ? 0 : -ENOMEM;
}

/* Its file is not there: others took it, since a segment goes only when no row names it. */
static bool file_gone(const struct kvstore *s, const struct index_block *row,
                      char ret_first[PATH_MAX])
{
    struct layout *l = recover_layout(s, row->layout);

    if ((l && layout_seg(l, row->segment)) || recover_aside(s, row->layout, row->segment))
        return false;
    if (!ret_first[0] && l)
        seg_path(s->dir, l->id, row->segment, ret_first, PATH_MAX);
    else if (!ret_first[0])
        (void)snprintf(ret_first, PATH_MAX, "a folder in %.200s/kv", s->dir);
    return true;
}

static void gone_said(struct kvstore *s, uint64_t n, const char *first)
{
    if (n)
        store_note(s,
                   "files of blocks are not there any more (%.300s, perhaps others): %llu "
                   "blocks were removed or moved with them since the last run; they are "
                   "computed again when they are asked for, no session lacks a turn",
                   first, (unsigned long long)n);
}

static int rows_load(struct rows *x, struct kvs_open_report *rep)
{
    struct index_block *row = malloc(TXN_BLOCKS_MAX * sizeof *row);
    struct index_at at = {0};
    uint64_t bad = 0, gone = 0;
    char first[PATH_MAX] = "";
    int n = row ? 1 : -ENOMEM, r = 0;

    while (n > 0 && r == 0) {
        n = index_blocks(x->s->idx, INDEX_LOOP, &at, row, TXN_BLOCKS_MAX, &bad);
        for (int i = 0; i < n && r == 0; i++) {
            r = row_take(x->s, &row[i]);
            if (r == -EAGAIN) {
                rep->blocks_unread++;
                r = 0;
            } else if (r == -ENOENT) {
                if (file_gone(x->s, &row[i], first))
                    gone++;
                else
                    rep->blocks_dropped++;
                r = rows_del(x, &row[i]);
            }
        }
    }
    free(row);
    gone_said(x->s, gone, first);
    return r < 0 ? r : n < 0 ? n : rows_flush(x);
}

/* --- from the slots ------------------------------------------------------------------------------ */

static int head_read(struct kvstore *s, const struct layout *l, struct seg *g, uint32_t slot,
                     uint8_t *buf, struct slot_head *ret, uint32_t *ret_crc)
{
    int r = seg_wake(s->dir, l, g);

    if (r == 0)
        r = sys_read(g->fd, buf, SLOT_HEAD_BYTES, slot_off(l, slot));

    return r < 0 ? r : slot_head_get(buf, ret, ret_crc);
}

/* Whether a read failed for a reason that says nothing about what is there. */
static bool not_read(int r)
{
    return r == E_VERSION || (r < 0 && r > -4096 && r != -ENOENT && r != -ENODATA);
}

/* Whether the copy in h was written after the one that is known. */
static bool newer(struct kvstore *s, uint32_t had, const struct slot_head *h, uint8_t *buf)
{
    const struct shelf_blk *b = shelf_at(&s->shelf, had);
    struct layout *l = s->layout[b->layout];
    struct slot_head old;
    uint32_t crc;

    struct seg *g = layout_seg(l, b->segment);
    int r = head_read(s, l, g, b->slot, buf, &old, &crc);

    seg_rest(g); /* the one that is being asked wakes again */
    return r == 0 && h->time_ns > old.time_ns;
}

/* Every slot that says it is a block of this store and layout becomes one again, unless a row
 * has it already.  1: some could not be asked; they are kept out of use. */
static int slots_scan(struct rows *x, struct layout *l, struct seg *g, bool merge, uint8_t *buf)
{
    struct kvstore *s = x->s;
    uint8_t *again = buf + SLOT_HEAD_BYTES; /* a second header's worth */
    struct slot_head h;
    uint32_t crc;
    int missed = 0;

    for (uint32_t i = 0; i < g->n_slots; i++) {
        if (g->taken[i / 64] & 1ull << i % 64)
            continue;
        int r = head_read(s, l, g, i, buf, &h, &crc);
        if (not_read(r)) {
            must(slot_claim(l, g, i) == 0);
            g->stuck = true;
            missed = 1;
        }
        if (r < 0 || memcmp(h.uuid, s->uuid, 16) || strcmp(h.layout, l->id) ||
            h.hot_bytes != l->hot_bytes || h.cold_bytes != l->cold_bytes)
            continue;
        struct index_block row = {.key = h.key,
                                  .parent = h.parent,
                                  .variant = h.variant,
                                  .layout = l->tag,
                                  .first_pos = h.first_pos,
                                  .time_ns = h.time_ns,
                                  .segment = g->number,
                                  .slot = i,
                                  .head_crc = crc,
                                  .n_tokens = h.n_tokens};
        memcpy(row.hash, h.hash, 16);
        uint32_t had = shelf_find(&s->shelf, h.key.b, h.variant);
        if (had && (merge || !newer(s, had, &h, again)))
            continue; /* an older copy in a slot that was given back */
        if (had) {
            const struct shelf_blk *b = shelf_at(&s->shelf, had);
            struct layout *bl = s->layout[b->layout];
            slot_give(bl, layout_seg(bl, b->segment), b->slot);
            room_unshelve(s, had);
        }
        r = row_take(s, &row);
        if (r < 0)
            return r;
        r = rows_put(x, &row);
        if (r < 0)
            return r;
    }
    seg_rest(g);
    return missed;
}

/* --- segments whose slots are still to be asked ------------------------------------------------- */

struct due {
    struct seg_unread v[UNREAD_MAX];
    uint32_t n;
};

static bool due_has(const struct due *d, uint64_t tag, uint32_t number)
{
    for (uint32_t i = 0; i < d->n; i++)
        if ((d->v[i].tag == tag || d->v[i].tag == 0) &&
            (d->v[i].number == number || d->v[i].number == SEG_ANY))
            return true;
    return false;
}

/* Too many to be told apart are all of them. */
static void due_add(struct due *d, uint64_t tag, uint32_t number)
{
    if (d->n == UNREAD_MAX) {
        d->n = 0;
        tag = 0;
        number = SEG_ANY;
    }
    d->v[d->n++] = (struct seg_unread){tag, number, 0};
}

static void due_get(struct kvstore *s, struct due *d)
{
    static const uint32_t cap = UNREAD_MAX * UNREAD_BYTES;
    uint8_t *b = malloc(cap);
    int n = b ? index_meta_get(s->idx, INDEX_LOOP, "unread", b, cap) : 0;

    d->n = 0;
    for (int at = 0; at + UNREAD_BYTES <= n; at += UNREAD_BYTES)
        due_add(d, ld64(b + at), ld32(b + at + 8));
    free(b);
}

static int due_put(struct kvstore *s, const struct due *d)
{
    uint8_t *b = malloc(d->n * UNREAD_BYTES + 1);
    int r = b ? index_begin(s->idx) : -ENOMEM;

    for (uint32_t i = 0; i < d->n && b; i++) {
        st64(b + (uint64_t)i * UNREAD_BYTES, d->v[i].tag);
        st32(b + (uint64_t)i * UNREAD_BYTES + 8, d->v[i].number);
    }
    if (r == 0) {
        r = index_meta_put(s->idx, "unread", b, d->n * UNREAD_BYTES);
        if (r < 0)
            index_abort(s->idx);
        else
            r = index_commit(s->idx);
    }
    free(b);
    return r;
}

/* Asks the slots of what is due; afterwards due is what could not be asked. */
static int due_scan(struct rows *x, struct due *d, bool merge)
{
    struct kvstore *s = x->s;
    struct due *left = calloc(1, sizeof *left);
    uint8_t *buf = NULL;
    int r =
        left && posix_memalign((void **)&buf, IO_ALIGN, 2 * SLOT_HEAD_BYTES) == 0 ? 0 : -ENOMEM;

    for (uint32_t i = 0; i < s->n_layouts && r >= 0; i++)
        for (uint32_t k = 0; k < s->layout[i]->n_seg && r >= 0; k++) {
            struct layout *l = s->layout[i];
            struct seg *g = l->seg[k];
            if (!due_has(d, l->tag, g->number))
                continue;
            r = slots_scan(x, l, g, merge, buf);
            if (r == 1)
                due_add(left, l->tag, g->number);
        }
    if (s->kv_unread)
        *left = *d;
    for (uint32_t i = 0; i < s->n_unread && r >= 0; i++)
        if (due_has(d, s->unread[i].tag, s->unread[i].number))
            due_add(left, s->unread[i].tag, s->unread[i].number);
    if (r >= 0)
        r = rows_flush(x);
    if (r == 0)
        *d = *left;
    if (r == 0)
        r = due_put(s, d);
    free(left);
    free(buf);
    return r;
}

/* --- the two ways ---------------------------------------------------------------------------------- */

int recover_blocks_load(struct kvstore *s, struct kvs_open_report *rep)
{
    struct due *d = calloc(1, sizeof *d);
    struct rows x;
    int r = rows_init(&x, s);

    if (!d)
        r = -ENOMEM;
    if (r == 0)
        r = rows_load(&x, rep);
    if (r == 0)
        due_get(s, d);
    if (r == 0 && d->n)
        r = due_scan(&x, d, true);
    free(x.put);
    free(d);
    return r;
}

int recover_blocks_rebuild(struct kvstore *s)
{
    struct due *d = calloc(1, sizeof *d);
    struct rows x;
    int r = rows_init(&x, s);

    if (!d)
        r = -ENOMEM;
    if (r == 0) { /* said first: one that is killed on its way is gone on with */
        due_add(d, 0, SEG_ANY);
        r = due_put(s, d);
    }
    if (r == 0)
        r = due_scan(&x, d, false);
    free(x.put);
    free(d);
    return r;
}

struct aged {
    uint32_t used, h;
    uint16_t depth;
};

static int by_age(const void *a, const void *b)
{
    const struct aged *x = a, *y = b;

    if (x->used != y->used)
        return x->used > y->used ? -1 : 1;
    return x->depth > y->depth ? -1 : x->depth < y->depth;
}

/* The header in its slot is not the one that was written: 0 dropped, or why not. */
static int settle_drop(struct rows *x, uint32_t h)
{
    struct kvstore *s = x->s;
    const struct shelf_blk *b = shelf_at(&s->shelf, h);
    struct layout *l = s->layout[b->layout];
    struct index_block row = {.variant = shelf_variant(&s->shelf, b),
                              .layout = l->tag,
                              .segment = b->segment,
                              .slot = b->slot};

    memcpy(row.key.b, b->key, SHELF_KEY);
    slot_give(l, layout_seg(l, b->segment), b->slot);
    room_unshelve(s, h);
    s->n.corrupt++;
    return rows_del(x, &row);
}

static void age_up(struct kvstore *s, uint32_t h, uint32_t used)
{
    const struct shelf_blk *b = shelf_at(&s->shelf, h);

    if (used && b->depth)
        (void)room_touch(s, b->parent, shelf_variant(&s->shelf, b), used);
}

enum { ROOT_UNKNOWN, ROOTED, ROOTLESS };

static uint32_t parent_of(const struct kvstore *s, uint32_t h)
{
    const struct shelf_blk *b = shelf_at(&s->shelf, h);

    return shelf_by_tag(&s->shelf, b->parent, shelf_variant(&s->shelf, b));
}

/* Is all there that h follows?  What was found is noted for all of them. */
static uint8_t root_of(const struct kvstore *s, uint8_t *known, uint32_t h)
{
    uint8_t is = ROOT_UNKNOWN;
    uint32_t at = h;

    for (uint32_t n = 0; is == ROOT_UNKNOWN; n++) {
        if (known[at] || shelf_at(&s->shelf, at)->depth == 0)
            is = known[at] ? known[at] : ROOTED;
        else if (n == CTX_TOKENS_MAX || !(at = parent_of(s, at)))
            is = ROOTLESS;
    }
    for (at = h; at && !known[at]; at = parent_of(s, at)) {
        known[at] = is;
        if (shelf_at(&s->shelf, at)->depth == 0)
            break;
    }
    return is;
}

/* What serves nobody, since something it follows is gone, goes first. */
static int orphans_down(struct kvstore *s)
{
    uint32_t end = shelf_end(&s->shelf);
    uint8_t *known = calloc(end + 1ull, 1);

    if (!known)
        return -ENOMEM;
    for (uint32_t h = 1; h < end; h++)
        if (shelf_at(&s->shelf, h)->at != SHELF_IDLE && root_of(s, known, h) == ROOTLESS)
            shelf_age(&s->shelf, h, 0);
    free(known);
    return 0;
}

/* Youngest first: each carries its age up to its ancestors, and after a crash the newest
 * slots are looked at, since they are what a lying disk would have lost. */
int recover_blocks_settle(struct kvstore *s, struct kvs_open_report *rep)
{
    struct aged *v = malloc((s->shelf.n + 1ull) * sizeof *v);
    uint32_t n = 0;
    uint8_t *buf = NULL;
    struct rows x;
    int r = rows_init(&x, s);

    if (!v || posix_memalign((void **)&buf, IO_ALIGN, SLOT_HEAD_BYTES))
        r = -ENOMEM;
    if (r == 0)
        r = orphans_down(s);
    for (uint32_t h = 1; r == 0 && h < shelf_end(&s->shelf); h++) {
        const struct shelf_blk *b = shelf_at(&s->shelf, h);
        if (b->at != SHELF_IDLE)
            v[n++] = (struct aged){b->used, h, b->depth};
    }
    if (n)
        qsort(v, n, sizeof *v, by_age);
    for (uint32_t i = 0; i < n && r == 0; i++)
        age_up(s, v[i].h, v[i].used);
    for (uint32_t i = 0; i < n && i < VERIFY_NEWEST && !rep->clean && r == 0; i++) {
        const struct shelf_blk *b = shelf_at(&s->shelf, v[i].h);
        struct layout *l = s->layout[b->layout];
        struct seg *g = layout_seg(l, b->segment);
        struct slot_head h;
        uint32_t crc;
        int e = head_read(s, l, g, b->slot, buf, &h, &crc);
        seg_rest(g);
        if (e == 0 && crc == b->head_crc && memcmp(h.key.b, b->key, SHELF_KEY) == 0)
            continue;
        if (not_read(e)) { /* the row stays, and the slot with it */
            g->stuck = true;
            rep->blocks_unread++;
            room_unshelve(s, v[i].h);
        } else {
            rep->blocks_dropped++;
            r = settle_drop(&x, v[i].h);
        }
    }
    if (r == 0)
        r = rows_flush(&x);
    free(x.put);
    free(v);
    free(buf);
    return r;
}
