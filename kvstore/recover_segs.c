/* recover_segs.c - opening: the files that blocks lie in.
 *
 * A header that is damaged is written again from its copy at the file's end or from any slot.
 * Where nothing speaks the file is set aside under another name.  What cannot be read is left
 * as it is: it costs its blocks for this run, and only those. */
#include "base/dirlist.h"
#include "kvstore/store.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SAID_MAX = 8, PIECE = 1 << 20 };

struct scan {
    struct kvstore *s;
    struct kvs_open_report *rep;
    uint32_t said;  /* files named one by one so far */
    uint64_t quiet; /* those that were not */
    const char *folder;
    int ended; /* the first code that ends the scan */
};

/* --- what is not ours to touch ------------------------------------------------------------------ */

static int by_number(const void *a, const void *b)
{
    const struct seg_unread *x = a, *y = b;

    if (x->tag != y->tag)
        return x->tag < y->tag ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static int unread_add(struct kvstore *s, uint64_t tag, uint32_t number, int why)
{
    if (s->n_unread == s->cap_unread) {
        uint32_t cap = s->cap_unread ? 2 * s->cap_unread : 16;
        struct seg_unread *v = realloc(s->unread, cap * sizeof *v);
        if (!v)
            return -ENOMEM;
        s->unread = v;
        s->cap_unread = cap;
    }
    s->unread[s->n_unread++] = (struct seg_unread){tag, number, why};
    return 0;
}

bool recover_unread(const struct kvstore *s, uint64_t tag, uint32_t number)
{
    struct seg_unread one = {tag, number, 0}, all = {tag, SEG_ANY, 0};

    return s->kv_unread ||
           (s->n_unread && (bsearch(&one, s->unread, s->n_unread, sizeof one, by_number) ||
                            bsearch(&all, s->unread, s->n_unread, sizeof all, by_number)));
}

bool recover_aside(const struct kvstore *s, uint64_t tag, uint32_t number)
{
    for (uint32_t i = 0; i < s->n_aside; i++)
        if (s->aside[i].tag == tag && s->aside[i].number == number)
            return true;
    return false;
}

void recover_numbers(const struct kvstore *s, struct layout *l)
{
    l->barred = s->kv_unread;
    for (uint32_t i = 0; i < s->n_unread; i++) {
        if (s->unread[i].tag != l->tag)
            continue;
        if (s->unread[i].number == SEG_ANY)
            l->barred = s->unread[i].why;
        else if (s->unread[i].number >= l->next_number)
            l->next_number = s->unread[i].number + 1;
    }
}

static const char *remedy(int r)
{
    switch (r) {
    case -EACCES:
    case -EPERM: return "give the daemon's user the right to read and write it";
    case -EMFILE:
    case -ENFILE: return "raise the limit of open files";
    case -EISDIR:
    case -ENOTDIR:
    case -ENXIO:
    case -ELOOP:
    case -ENOENT: return "put the file back in its place";
    case -EROFS: return "mount the file system for writing";
    case E_VERSION: return "a newer program has written it: use that one";
    case E_SHAPE:
    case E_LIMIT: return "it belongs to another store or layout: move it away";
    default: return "check the disk and its cable";
    }
}

static const char *why_words(int r)
{
    return r == E_SHAPE ? "another store's, or another layout's" : err_str(r);
}

static int leave_alone(struct scan *c, const char *folder, uint32_t number, const char *path,
                       int why)
{
    if (why == -ENOMEM)
        return why;
    c->rep->segs_unread++;
    if (c->said++ < SAID_MAX)
        store_note(c->s,
                   "%s cannot be read (%s) and is left alone, its blocks are recomputed for "
                   "now: %s, then restart",
                   path, why_words(why), remedy(why));
    else
        c->quiet++;
    return unread_add(c->s, layout_tag(folder), number, why);
}

/* --- headers that are hurt -------------------------------------------------------------------- */

static bool head_fits(const struct kvstore *s, const struct seg_head *h, const char *folder,
                      uint32_t number)
{
    return (sodium_is_zero(s->uuid, 16) || memcmp(h->uuid, s->uuid, 16) == 0) &&
           strcmp(h->layout, folder) == 0 && h->number == number;
}

/* Its copy in the last bytes of the file: 0, E_CORRUPT, -errno. */
static int head_from_end(int fd, uint64_t size, struct seg_head *ret)
{
    uint8_t b[SEG_HEAD_BYTES];
    struct seg_head h;

    if (size < 2 * SEG_HEAD_BYTES)
        return E_CORRUPT;
    int r = sys_read(fd, b, sizeof b, size - SEG_HEAD_BYTES);
    if (r == 0)
        r = seg_head_get(b, &h) < 0 || seg_bytes(h.n_slots, h.slot_bytes) != size ? E_CORRUPT
                                                                                  : 0;
    if (r == 0)
        *ret = h;
    return r;
}

/* Any slot says what its segment is.  Where slots begin is not known: every page is asked. */
static int head_from_slot(int fd, uint64_t size, const char *folder, uint32_t number,
                          struct seg_head *ret)
{
    uint8_t *b = malloc(PIECE);
    struct slot_head h;
    uint32_t crc;
    int r = b ? E_CORRUPT : -ENOMEM;

    for (uint64_t at = SEG_HEAD_BYTES; r == E_CORRUPT && at + SLOT_HEAD_BYTES <= size;) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break; /* a hole up to the end */
        if (data > (off_t)at)
            at = (uint64_t)data / SLOT_HEAD_BYTES * SLOT_HEAD_BYTES;
        uint64_t n =
            size - at < PIECE ? (size - at) / SLOT_HEAD_BYTES * SLOT_HEAD_BYTES : PIECE;
        int e = n ? sys_read(fd, b, n, at) : -ENODATA;
        if (e < 0) {
            r = e == -ENODATA ? E_CORRUPT : e;
            break;
        }
        for (uint64_t i = 0; i < n && r == E_CORRUPT; i += SLOT_HEAD_BYTES) {
            if (slot_head_get(b + i, &h, &crc) < 0 || strcmp(h.layout, folder))
                continue;
            uint64_t slot = SLOT_HEAD_BYTES + h.hot_bytes + h.cold_bytes;
            if ((at + i - SEG_HEAD_BYTES) % slot)
                continue;
            *ret = (struct seg_head){.hot_bytes = h.hot_bytes,
                                     .cold_bytes = h.cold_bytes,
                                     .slot_bytes = slot,
                                     .n_slots = (uint32_t)((size - SEG_HEAD_BYTES) / slot),
                                     .number = number};
            memcpy(ret->uuid, h.uuid, 16);
            memcpy(ret->layout, h.layout, LAYOUT_ID_BYTES);
            r = 0;
        }
        at += n;
    }
    free(b);
    return r;
}

static int head_write(struct kvstore *s, int fd, const struct seg_head *h, uint64_t size)
{
    uint8_t b[SEG_HEAD_BYTES];
    int r;

    seg_head_put(b, h);
    r = sys_write(&s->sys, fd, b, sizeof b, 0);
    if (r == 0 && seg_bytes(h->n_slots, h->slot_bytes) == size)
        r = sys_write(&s->sys, fd, b, sizeof b, size - SEG_HEAD_BYTES);
    return r < 0 ? r : sys_sync(&s->sys, fd);
}

/* 0: the header is as it was; E_CORRUPT: nothing in the file says what it was; E_SHAPE: *h says so,
 * and it is not this one; -errno. */
static int seg_repair(struct kvstore *s, const char *path, const char *folder, uint32_t number,
                      struct seg_head *h)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_CLOEXEC), r;

    if (fd < 0)
        return -errno;
    r = fstat(fd, &st) < 0 ? -errno : head_from_end(fd, (uint64_t)st.st_size, h);
    const char *from = r == 0 ? "its copy" : "a slot";
    if (r == E_CORRUPT)
        r = head_from_slot(fd, (uint64_t)st.st_size, folder, number, h);
    if (r == 0 && !head_fits(s, h, folder, number))
        r = E_SHAPE;
    if (r == 0)
        r = head_write(s, fd, h, (uint64_t)st.st_size);
    if (r == 0)
        store_note(s, "%s: its header was damaged and is made anew from %s", path, from);
    close(fd);
    return r;
}

/* After a crash the copy is looked at as well: it is of no use once it is needed. */
static int tail_mend(struct kvstore *s, const char *path, const struct seg *g,
                     const struct seg_head *h)
{
    struct seg_head copy;

    if (g->n_cut || seg_bytes(h->n_slots, h->slot_bytes) != g->bytes)
        return 0; /* from a program that kept one header only */
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = head_from_end(fd, g->bytes, &copy);
    if (r == E_CORRUPT)
        r = head_write(s, fd, h, g->bytes);
    close(fd);
    return r;
}

/* --- segments ----------------------------------------------------------------------------------- */

struct layout *recover_layout(const struct kvstore *s, uint64_t tag)
{
    for (uint32_t i = 0; i < s->n_layouts; i++)
        if (s->layout[i]->tag == tag)
            return s->layout[i];
    return NULL;
}

static int layout_from(struct kvstore *s, const struct seg_head *h, struct layout **ret)
{
    struct layout *l = recover_layout(s, layout_tag(h->layout));

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

static int set_aside(struct scan *c, const char *path, const char *folder, uint32_t number)
{
    struct kvstore *s = c->s;
    char to[PATH_MAX];
    int r = sys_set_aside(&c->s->sys, path, to, sizeof to);

    if (r == 0 && s->n_aside < sizeof s->aside / sizeof *s->aside)
        s->aside[s->n_aside++] = (struct seg_unread){layout_tag(folder), number, E_CORRUPT};
    if (r == 0) {
        store_note(c->s,
                   "%s is damaged from its header on, nothing in it says what it was: set "
                   "aside as %s, its blocks are recomputed; delete it when it is of no use",
                   path, strrchr(to, '/') + 1);
        c->s->file_bytes += sys_taken_bytes(to);
    }
    return r;
}

/* One that was never finished goes; whatever else has its name would be in the way of the next. */
static void clear_unfinished(struct kvstore *s, const char *path)
{
    char to[PATH_MAX];

    if (sys_clear(path, NULL) < 0 && sys_set_aside(&s->sys, path, to, sizeof to) == 0)
        store_note(s, "%s is no file and was in the way of one: set aside as %s", path,
                   strrchr(to, '/') + 1);
}

/* Opens it, with what repair there is.  0, or why it is not ours to touch: E_SHAPE by what *h says. */
static int seg_try(struct kvstore *s, const char *path, const char *folder, uint32_t number,
                   bool clean, struct seg **ret, struct layout **ret_l, struct seg_head *h)
{
    int r = seg_open(path, ret, h);

    if (r == E_CORRUPT && (r = seg_repair(s, path, folder, number, h)) == 0)
        r = seg_open(path, ret, h);
    if (r < 0)
        return r;
    if (sodium_is_zero(s->uuid, 16))
        memcpy(s->uuid, h->uuid, 16);
    r = head_fits(s, h, folder, number) ? layout_from(s, h, ret_l) : E_SHAPE;
    if (r == 0 && !clean) { /* writes of a killed predecessor */
        r = sys_sync(&s->sys, (*ret)->fd);
        if (r == 0)
            r = tail_mend(s, path, *ret, h);
    }
    if (r == 0)
        r = layout_add_seg(*ret_l, *ret);
    if (r < 0)
        seg_close(*ret);
    else
        seg_rest(*ret);
    return r;
}

enum { PLACE_FREE, PLACE_SAME, PLACE_OTHER };

static int place_of(const struct kvstore *s, const struct seg_head *h, const char *path)
{
    uint8_t b[SEG_HEAD_BYTES];
    struct seg_head has;
    struct stat st;

    if (lstat(path, &st) < 0 && errno == ENOENT)
        return PLACE_FREE;
    int fd = sys_open_plain(path);
    bool same = fd >= 0 && fstat(fd, &st) == 0 && sys_read(fd, b, sizeof b, 0) == 0 &&
                (seg_head_get(b, &has) == 0 ||
                 head_from_end(fd, (uint64_t)st.st_size, &has) == 0) && /* it is mended */
                head_fits(s, &has, h->layout, h->number);
    if (fd >= 0)
        close(fd);
    return same ? PLACE_SAME : PLACE_OTHER;
}

/* This store's own under another name.  Unless it is a copy, the rows of the place that it belongs in
 * stay: it may be back there at the next open. */
static int misnamed(struct scan *c, const char *folder, uint32_t number, const char *path,
                    const struct seg_head *h)
{
    struct kvstore *s = c->s;
    char to[PATH_MAX];

    seg_path(s->dir, h->layout, h->number, to, sizeof to);
    int place = place_of(s, h, to);
    c->rep->segs_unread++;
    if (c->said++ >= SAID_MAX)
        c->quiet++;
    else if (place == PLACE_SAME)
        store_note(s,
                   "%.350s is a copy of this store's %.350s, which is in its place: it is left "
                   "alone and of no use, delete it or move it away",
                   path, to);
    else
        store_note(
            s,
            "%.350s is this store's own %.350s under another name and is left alone, its "
            "blocks are recomputed for now: rename it back%s, then restart",
            path, to,
            place == PLACE_OTHER ? " (what has that name now is another one: first move "
                                   "that to its own)"
                                 : "");
    int r = place == PLACE_SAME ? 0 : unread_add(s, layout_tag(h->layout), h->number, E_SHAPE);
    return r < 0 ? r : unread_add(s, layout_tag(folder), number, E_SHAPE);
}

static int seg_take(struct scan *c, const char *folder, const char *name)
{
    struct kvstore *s = c->s;
    char path[PATH_MAX], want[32];
    uint32_t number = 0;
    struct seg_head h = {0};
    struct layout *l;
    struct seg *g;

    if (snprintf(path, sizeof path, "%s/kv/%s/%s", s->dir, folder, name) >= PATH_MAX)
        return 0;
    (void)sscanf(name, "seg-%u", &number);
    snprintf(want, sizeof want, "seg-%04u", number);
    if (strncmp(name, want, strlen(want)) == 0 && strcmp(name + strlen(want), ".tmp") == 0) {
        clear_unfinished(s, path);
        return 0;
    }
    if (strcmp(name, want)) { /* not ours, or set aside: it takes its space all the same */
        s->file_bytes += sys_taken_bytes(path);
        return 0;
    }
    int r = seg_try(s, path, folder, number, c->rep->clean, &g, &l, &h);
    if (r == E_CORRUPT)
        r = set_aside(c, path, folder, number);
    else if (r == 0) {
        s->file_bytes += g->bytes;
        if (g->bytes > c->rep->file_largest)
            c->rep->file_largest = g->bytes;
        if (!g->direct)
            s->direct = false;
        if (g->n_cut)
            store_note(s,
                       "%s was cut short: %u of its %u slots are missing, their blocks are "
                       "recomputed",
                       path, g->n_cut, g->n_cut + g->n_slots);
        return 0;
    }
    if (r == 0)
        return 0;
    s->file_bytes += sys_taken_bytes(path);
    if (r == E_SHAPE && memcmp(h.uuid, s->uuid, 16) == 0 &&
        (strcmp(h.layout, folder) != 0 || h.number != number))
        return misnamed(c, folder, number, path, &h);
    return leave_alone(c, folder, number, path, r);
}

/* What ends a listing on its own account is kept apart from what could not be listed. */
static int name_take(void *ctx, const char *name)
{
    struct scan *c = ctx;

    if (name[0] != '.')
        c->ended = seg_take(c, c->folder, name);
    return c->ended;
}

static int folder_take(void *ctx, const char *folder)
{
    struct scan *c = ctx;
    char path[PATH_MAX];

    if (folder[0] == '.' || strlen(folder) >= LAYOUT_ID_BYTES ||
        snprintf(path, sizeof path, "%s/kv/%s", c->s->dir, folder) >= PATH_MAX)
        return 0;
    c->folder = folder;
    int why = dir_list(path, name_take, c);
    if (c->ended == 0 && why < 0)
        c->ended = leave_alone(c, folder, SEG_ANY, path, why);
    return c->ended;
}

/* All of it: nothing is put into it either, since nobody knows what is there. */
static int kv_leave_alone(struct scan *c, const char *path, int why)
{
    if (why == -ENOMEM)
        return why;
    c->s->kv_unread = why;
    c->rep->segs_unread++;
    store_note(c->s,
               "%s cannot be read (%s) and is left alone: no block is read from it or kept in "
               "it, what is needed is computed again; %s, then restart",
               path, why_words(why),
               why == -ENOTDIR || why == -ENOENT || why == -ELOOP
                   ? "put the directory back in its place, or move away what stands there "
                     "(then a new one is made)"
                   : remedy(why));
    return 0;
}

int recover_segs(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb)
{
    struct scan c = {.s = s, .rep = rep};
    char path[PATH_MAX];

    guard_clock_open(s); /* before the first age is asked for */
    snprintf(path, sizeof path, "%s/kv", s->dir);
    int why = dir_list(path, folder_take, &c), r = c.ended;
    if (r == 0 && why)
        r = kv_leave_alone(&c, path, why);
    if (r < 0)
        return err_set(eb, r, "cannot read %s: %s; %s, then start again", path, err_str(r),
                       r == -ENOMEM ? "free some memory" : remedy(r));
    if (c.quiet)
        store_note(s, "%llu more files of blocks cannot be read and are left alone",
                   (unsigned long long)c.quiet);
    if (s->n_unread)
        qsort(s->unread, s->n_unread, sizeof *s->unread, by_number);
    for (uint32_t i = 0; i < s->n_layouts; i++)
        recover_numbers(s, s->layout[i]);
    return 0;
}
