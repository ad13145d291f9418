/* gone.c - files of blocks that others took away while the store is open (io thread).
 *
 * Every second each segment's name is looked at.  One that leads nowhere, or to another file,
 * costs its blocks for this run: they are forgotten, some of the shelf at a time, their rows stay,
 * and what stands in the place is not touched.  Put back, it is there again at the next open. */
#include "base/clock.h"
#include "kvstore/store.h"
#include <sys/stat.h>

enum { SLICE = 16384 }; /* of the shelf, in one turn */
static const uint64_t LOOK_NS = 1000000000u;

/* What cannot be asked is not gone. */
static bool is_gone(const struct kvstore *s, const struct layout *l, const struct seg *g)
{
    char path[PATH_MAX];

    seg_path(s->dir, l->id, g->number, path, sizeof path);
    return !seg_there(path, g);
}

/* One in transfer stays until the next walk. */
static void block_forget(struct kvstore *s, uint32_t h)
{
    const struct shelf_blk *b = shelf_at(&s->shelf, h);
    struct seg *g = b->at == SHELF_IDLE ? NULL : layout_seg(s->layout[b->layout], b->segment);

    if (!g || !g->gone)
        return;
    struct blk *live =
        table_find_part(&s->table, b->key, SHELF_KEY, shelf_variant(&s->shelf, b));
    if (live && live->task) {
        g->held = true;
        return;
    }
    if (live)
        live->on_file = false;
    room_unshelve(s, h);
}

/* Nothing leads to it any more. */
static void segs_close(struct kvstore *s)
{
    for (uint32_t i = 0; i < s->n_layouts; i++) {
        struct layout *l = s->layout[i];
        for (uint32_t k = 0; k < l->n_seg; k++) {
            struct seg *g = l->seg[k];
            if (!g->gone || g->held || g->tasks || l->dropping || s->io.retire.g == g)
                continue;
            io_seg_forget(s, g);
            layout_del_seg(l, g);
            s->file_bytes -= g->bytes;
            seg_close(g);
            s->io.n_gone--;
            k--;
        }
    }
}

static void walk(struct kvstore *s)
{
    uint32_t end = shelf_end(&s->shelf), stop = s->io.gone_at + SLICE;

    for (; s->io.gone_at < end && s->io.gone_at < stop; s->io.gone_at++)
        block_forget(s, s->io.gone_at);
    if (s->io.gone_at < end)
        return;
    s->io.gone_at = 0;
    segs_close(s);
    room_count(s);
}

static void gone_said(struct kvstore *s, uint32_t n, uint64_t blocks, const char *first)
{
    store_note(s,
               "%.300s%s removed, moved or replaced while in use: %llu blocks are computed "
               "again when they are asked for, no session lacks a turn; put back what was "
               "moved and restart to have them again",
               first, n > 1 ? " and more files of blocks were" : " was",
               (unsigned long long)blocks);
}

static void look(struct kvstore *s)
{
    char first[PATH_MAX] = "";
    uint64_t blocks = 0;
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->n_layouts; i++)
        for (uint32_t k = 0; k < s->layout[i]->n_seg; k++) {
            struct seg *g = s->layout[i]->seg[k];
            if (!g->gone && is_gone(s, s->layout[i], g)) {
                /* Also of one that was to go anyhow: what stands there now is not ours. */
                s->io.n_dying -= g->dying;
                g->dying = false;
                g->gone = g->lost = g->stuck = true;
                s->io.n_gone++;
                blocks += g->n_taken;
                if (n++ == 0)
                    seg_path(s->dir, s->layout[i]->id, g->number, first, sizeof first);
            }
            /* What is being written there now comes to the shelf behind the walk's back. */
            g->held = g->tasks > 0;
        }
    if (n)
        gone_said(s, n, blocks, first);
}

void gone_turn(struct kvstore *s)
{
    if (!s->io.gone_at && now_ns() >= s->io.look_ns) {
        s->io.look_ns = now_ns() + LOOK_NS;
        look(s);
        s->io.gone_at = s->io.n_gone > 0; /* handles begin with 1 */
    }
    if (s->io.gone_at)
        walk(s);
}
