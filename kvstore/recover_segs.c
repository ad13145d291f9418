/* recover_segs.c - opening: segments, and the blocks in them.
 *
 * Segments are opened, synced after a crash, and the table and the free maps filled from the
 * index, or, when that was lost, from the slots' own headers.  A row that names no slot of
 * ours is dropped. */
#include "base/check.h"
#include "kvstore/store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VERIFY_NEWEST = 64 };

/* A segment whose own header is hurt: any slot in it says the same things again. */
static int seg_repair(struct kvstore *s, const char *path, uint32_t number)
{
    uint8_t head[SLOT_HEAD_BYTES];
    struct slot_head h;
    struct stat st;
    uint32_t crc;
    int fd = open(path, O_RDWR | O_CLOEXEC), r;

    if (fd < 0)
        return -errno;
    r = fstat(fd, &st) < 0 ? -errno : sys_read(fd, head, sizeof head, SEG_HEAD_BYTES);
    if (r == 0)
        r = slot_head_get(head, &h, &crc) < 0 ? E_CORRUPT : 0;
    if (r == 0 && memcmp(h.uuid, s->uuid, 16))
        r = E_CORRUPT;
    if (r == 0) {
        struct seg_head g = {.hot_bytes = h.hot_bytes,
                             .cold_bytes = h.cold_bytes,
                             .slot_bytes = SLOT_HEAD_BYTES + h.hot_bytes + h.cold_bytes,
                             .number = number};
        g.n_slots = (uint32_t)(((uint64_t)st.st_size - SEG_HEAD_BYTES) / g.slot_bytes);
        memcpy(g.uuid, h.uuid, 16);
        memcpy(g.layout, h.layout, LAYOUT_ID_BYTES);
        seg_head_put(head, &g);
        r = sys_write(&s->sys, fd, head, sizeof head, 0);
        if (r == 0)
            r = sys_sync(&s->sys, fd);
    }
    close(fd);
    return r;
}

static struct layout *layout_of(struct kvstore *s, uint64_t tag)
{
    for (uint32_t i = 0; i < s->n_layouts; i++)
        if (s->layout[i]->tag == tag)
            return s->layout[i];
    return NULL;
}

static int layout_from(struct kvstore *s, const struct seg_head *h, struct layout **ret)
{
    struct layout *l = layout_of(s, layout_tag(h->layout));

    if (l) {
        *ret = l;
        return l->hot_bytes == h->hot_bytes && l->cold_bytes == h->cold_bytes ? 0 : E_SHAPE;
    }
    if (s->n_layouts == LAYOUTS_MAX)
        return E_LIMIT;
    l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    memcpy(l->id, h->layout, LAYOUT_ID_BYTES);
    l->tag = layout_tag(l->id);
    l->hot_bytes = h->hot_bytes;
    l->cold_bytes = h->cold_bytes;
    l->slot_bytes = h->slot_bytes;
    l->next_number = 1;
    l->index = (uint16_t)s->n_layouts;
    s->layout[s->n_layouts++] = l;
    *ret = l;
    return 0;
}

static int seg_take(struct kvstore *s, const char *folder, const char *name,
                    struct kvs_open_report *rep)
{
    char path[PATH_MAX], end;
    uint32_t number;
    struct seg *g;
    struct seg_head h;
    struct layout *l;

    if (snprintf(path, sizeof path, "%s/kv/%s/%s", s->dir, folder, name) >= PATH_MAX)
        return 0;
    if (strstr(name, ".tmp")) {
        (void)unlink(path);
        return 0;
    }
    if (sscanf(name, "seg-%u%c", &number, &end) != 1)
        return 0;
    int r = seg_open(path, &g, &h);
    if (r == E_CORRUPT && seg_repair(s, path, number) == 0)
        r = seg_open(path, &g, &h);
    if (r == E_CORRUPT) {
        store_warn(s, "%s is not readable as a segment: removed, its blocks are recomputed",
                   path);
        rep->blocks_dropped++;
        return sys_unlink(&s->sys, path);
    }
    if (r < 0)
        return r;
    if (sodium_is_zero(s->uuid, 16))
        memcpy(s->uuid, h.uuid, 16);
    r = memcmp(h.uuid, s->uuid, 16) || strcmp(h.layout, folder) || h.number != number
            ? E_SHAPE
            : layout_from(s, &h, &l);
    if (r == 0)
        r = layout_add_seg(l, g);
    if (r < 0) {
        seg_close(g);
        if (r == -ENOMEM)
            return r;
        store_warn(s, "%s belongs to another store or layout: left alone", path);
        s->file_bytes += sys_taken_bytes(path);
        return 0;
    }
    s->file_bytes += g->bytes;
    if (!g->direct)
        s->direct = false;
    return rep->clean ? 0 : sys_sync(&s->sys, g->fd); /* writes of a killed predecessor */
}

int recover_segs(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb)
{
    char path[PATH_MAX];
    int r = 0;

    snprintf(path, sizeof path, "%s/kv", s->dir);
    DIR *d = opendir(path);
    if (!d)
        return err_set(eb, -errno, "cannot read %s: %s", path, strerror(errno));
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        if (e->d_name[0] == '.' || strlen(e->d_name) >= LAYOUT_ID_BYTES)
            continue;
        if (snprintf(path, sizeof path, "%s/kv/%s", s->dir, e->d_name) >= PATH_MAX)
            continue;
        DIR *f = opendir(path);
        for (struct dirent *g; f && r == 0 && (g = readdir(f));)
            if (g->d_name[0] != '.') {
                r = seg_take(s, e->d_name, g->d_name, rep);
                if (r < 0)
                    (void)err_set(eb, r, "cannot open segment %s/%s: %s", path, g->d_name,
                                  err_str(r));
            }
        if (f)
            closedir(f);
    }
    closedir(d);
    return r;
}

static void blk_fill(struct blk *b, const struct layout *l, const struct index_block *row)
{
    b->parent = row->parent;
    b->first_pos = row->first_pos;
    b->time_ns = row->time_ns;
    b->segment = row->segment;
    b->slot = row->slot;
    b->head_crc = row->head_crc;
    b->n_tokens = row->n_tokens;
    b->used = (uint32_t)(row->time_ns / USED_UNIT_NS);
    b->layout = l->index;
    b->on_file = true;
    memcpy(b->hash, row->hash, 16);
}

/* 0 taken, -ENOENT: names nothing of ours, -ENOMEM. */
static int row_take(struct kvstore *s, const struct index_block *row)
{
    struct layout *l = layout_of(s, row->layout);
    struct seg *g = l ? layout_seg(l, row->segment) : NULL;

    if (!g || row->slot >= g->n_slots || slot_claim(l, g, row->slot) < 0)
        return -ENOENT;
    struct blk *b = table_add(&s->table, &row->key, row->variant);
    if (!b)
        return -ENOMEM;
    blk_fill(b, l, row);
    s->n.blocks++;
    return 0;
}

static int rows_write(struct kvstore *s, const struct index_block *put, uint32_t n_put,
                      const struct index_block *del, uint32_t n_del)
{
    int r = n_put + n_del ? index_begin(s->idx) : 0;

    if (r < 0 || n_put + n_del == 0)
        return r;
    for (uint32_t i = 0; i < n_put && r == 0; i++)
        r = index_block_put(s->idx, &put[i]);
    for (uint32_t i = 0; i < n_del && r == 0; i++)
        r = index_block_del(s->idx, &del[i].key, del[i].variant);
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    return index_commit(s->idx);
}

int recover_blocks_load(struct kvstore *s, struct kvs_open_report *rep)
{
    struct index_block *row = malloc(2 * TXN_BLOCKS_MAX * sizeof *row);
    struct index_at at = {0};
    uint64_t bad = 0;
    int n = row ? 1 : -ENOMEM, r = 0;

    while (n > 0 && r == 0) {
        uint32_t gone = 0;
        n = index_blocks(s->idx, INDEX_LOOP, &at, row, TXN_BLOCKS_MAX, &bad);
        for (int i = 0; i < n && r == 0; i++) {
            r = row_take(s, &row[i]);
            if (r == -ENOENT) {
                row[TXN_BLOCKS_MAX + gone++] = row[i];
                r = 0;
            }
        }
        rep->blocks_dropped += gone;
        if (r == 0)
            r = rows_write(s, NULL, 0, row + TXN_BLOCKS_MAX, gone);
    }
    free(row);
    return r < 0 ? r : n < 0 ? n : 0;
}

static int head_read(const struct layout *l, const struct seg *g, uint32_t slot, uint8_t *buf,
                     struct slot_head *ret, uint32_t *ret_crc)
{
    int r = sys_read(g->fd, buf, SLOT_HEAD_BYTES, slot_off(l, slot));

    return r < 0 ? r : slot_head_get(buf, ret, ret_crc);
}

/* Every slot that says it is a block of this store and layout becomes one again. */
static int slots_scan(struct kvstore *s, struct layout *l, struct seg *g, uint8_t *buf)
{
    struct slot_head h;
    uint32_t crc;

    for (uint32_t i = 0; i < g->n_slots; i++) {
        int r = head_read(l, g, i, buf, &h, &crc);
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
        struct blk *b = table_find(&s->table, &h.key, h.variant);
        if (b && b->time_ns >= h.time_ns)
            continue; /* an older copy in a slot that was given back */
        if (b) {
            struct layout *bl = s->layout[b->layout];
            slot_give(bl, layout_seg(bl, b->segment), b->slot);
            must(slot_claim(l, g, i) == 0);
            blk_fill(b, l, &row);
        } else if ((r = row_take(s, &row)) < 0) {
            return r;
        }
    }
    return 0;
}

int recover_blocks_rebuild(struct kvstore *s)
{
    struct index_block *row = malloc(TXN_BLOCKS_MAX * sizeof *row);
    uint8_t *buf = NULL;
    uint32_t n = 0;
    int r = row && posix_memalign((void **)&buf, IO_ALIGN, SLOT_HEAD_BYTES) == 0 ? 0 : -ENOMEM;

    for (uint32_t i = 0; i < s->n_layouts && r == 0; i++)
        for (uint32_t k = 0; k < s->layout[i]->n_seg && r == 0; k++)
            r = slots_scan(s, s->layout[i], s->layout[i]->seg[k], buf);
    for (uint64_t i = 0; i < s->table.n_buckets && r == 0; i++)
        for (struct blk *b = s->table.bucket[i]; b && r == 0; b = b->next) {
            row[n] = (struct index_block){.key = b->key,
                                          .parent = b->parent,
                                          .variant = b->variant,
                                          .layout = s->layout[b->layout]->tag,
                                          .first_pos = b->first_pos,
                                          .time_ns = b->time_ns,
                                          .segment = b->segment,
                                          .slot = b->slot,
                                          .head_crc = b->head_crc,
                                          .n_tokens = b->n_tokens};
            memcpy(row[n++].hash, b->hash, 16);
            if (n == TXN_BLOCKS_MAX) {
                r = rows_write(s, row, n, NULL, 0);
                n = 0;
            }
        }
    if (r == 0)
        r = rows_write(s, row, n, NULL, 0);
    free(row);
    free(buf);
    return r;
}

static int by_age(const void *a, const void *b)
{
    const struct blk *x = *(struct blk *const *)a, *y = *(struct blk *const *)b;

    if (x->time_ns != y->time_ns)
        return x->time_ns > y->time_ns ? -1 : 1;
    return 0;
}

/* Youngest first: each carries its age up to its ancestors, and after a crash the newest
 * slots are looked at, since they are what a lying disk would have lost. */
int recover_blocks_settle(struct kvstore *s, struct kvs_open_report *rep)
{
    struct blk **v = malloc((s->table.n + 1) * sizeof(void *));
    struct index_block gone[VERIFY_NEWEST];
    uint32_t n_gone = 0;
    uint64_t n = 0;
    uint8_t *buf = NULL;

    if (!v || posix_memalign((void **)&buf, IO_ALIGN, SLOT_HEAD_BYTES)) {
        free(v);
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < s->table.n_buckets; i++)
        for (struct blk *b = s->table.bucket[i]; b; b = b->next)
            v[n++] = b;
    qsort(v, n, sizeof *v, by_age);
    for (uint64_t i = 0; i < n; i++) {
        struct blk *up = table_find(&s->table, &v[i]->parent, v[i]->variant);
        if (up)
            table_touch(&s->table, up, v[i]->used * USED_UNIT_NS);
    }
    for (uint64_t i = 0; i < n && i < VERIFY_NEWEST && !rep->clean; i++) {
        struct layout *l = s->layout[v[i]->layout];
        struct seg *g = layout_seg(l, v[i]->segment);
        struct slot_head h;
        uint32_t crc;
        if (head_read(l, g, v[i]->slot, buf, &h, &crc) == 0 && crc == v[i]->head_crc &&
            memcmp(h.key.b, v[i]->key.b, 32) == 0)
            continue;
        gone[n_gone].key = v[i]->key;
        gone[n_gone++].variant = v[i]->variant;
        slot_give(l, g, v[i]->slot);
        table_del(&s->table, v[i]);
        s->n.blocks--;
        s->n.corrupt++;
    }
    free(v);
    free(buf);
    rep->blocks_dropped += n_gone;
    return rows_write(s, NULL, 0, gone, n_gone);
}
