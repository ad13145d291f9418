/* logfile.c - see logfile.h.
 *
 * A file is walked frame by frame (logbytes.c).  A frame is believed when its CRC fits and it names the frame before it.  In salvage a frame behind damage is believed
 * by its CRC alone: where it belongs, its sequence number and its records say. */
#include "kvstore/logfile.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/dirlist.h"
#include "kvstore/logend.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char SEG_MAGIC[8] = "HRTHLOG1";
enum { CRC_OLD = 12, CRC_AT = 64 };

/* --- headers ---------------------------------------------------------------------------------- */

/* Of one copy: all of it but the two CRCs. */
static uint32_t copy_crc(const uint8_t *b)
{
    uint32_t c = crc32c(crc32c(0, b, CRC_OLD), b + CRC_OLD + 4, CRC_AT - CRC_OLD - 4);

    return crc32c(c, b + CRC_AT + 4, LOG_COPY_AT - CRC_AT - 4);
}

static uint32_t old_crc(const uint8_t *b)
{
    return crc32c(0, b + 16, LOG_HEAD_BYTES - 16);
}

void log_head_put(uint8_t b[LOG_HEAD_BYTES], const struct log_head *h)
{
    memset(b, 0, LOG_HEAD_BYTES);
    memcpy(b, SEG_MAGIC, 8);
    st32(b + 8, LOG_FORMAT);
    memcpy(b + 16, h->uuid, 16);
    st32(b + 32, h->number);
    st32(b + 36, h->base);
    st64(b + 40, h->seq);
    st32(b + 48, h->prev_crc);
    st64(b + 56, h->bytes);
    st32(b + CRC_AT, copy_crc(b));
    memcpy(b + LOG_COPY_AT, b, LOG_COPY_AT);
    st32(b + CRC_OLD, old_crc(b)); /* a program of version 2 sees a newer one, not damage */
}

static void head_fields(const uint8_t *b, struct log_head *h)
{
    h->version = ld32(b + 8);
    memcpy(h->uuid, b + 16, 16);
    h->number = ld32(b + 32);
    h->base = ld32(b + 36) == 1;
    h->seq = ld64(b + 40);
    h->prev_crc = ld32(b + 48);
    h->bytes = ld64(b + 56);
}

/* Versions 1 and 2: one copy, whose CRC leaves the version out; zeros from byte 52 on. */
static bool head_is_old(const uint8_t *b)
{
    uint32_t v = ld32(b + 8);

    return !memcmp(b, SEG_MAGIC, 8) && (v == 1 || v == 2) && ld32(b + CRC_AT) == 0 &&
           ld64(b + LOG_COPY_AT) == 0 && ld32(b + CRC_OLD) == old_crc(b);
}

int log_head_get(const uint8_t b[LOG_HEAD_BYTES], struct log_head *ret)
{
    for (const uint8_t *c = b; c < b + LOG_HEAD_BYTES; c += LOG_COPY_AT) {
        if (memcmp(c, SEG_MAGIC, 8) || ld32(c + CRC_AT) != copy_crc(c))
            continue;
        if (ld32(c + 8) != LOG_FORMAT)
            return E_VERSION;
        head_fields(c, ret);
        return 0;
    }
    if (!head_is_old(b))
        return E_CORRUPT;
    head_fields(b, ret);
    return 0;
}

/* --- files ------------------------------------------------------------------------------------ */

void log_path(const char *dir, uint32_t number, const char *suffix, char ret[PATH_MAX])
{
    snprintf(ret, PATH_MAX, "%s/seg-%04u%s", dir, number, suffix);
}

bool log_named(const char *name, const char *suffix, uint32_t *ret)
{
    char want[64];
    unsigned long number = 0;

    if (strncmp(name, "seg-", 4) == 0)
        number = strtoul(name + 4, NULL, 10);
    if (number > UINT32_MAX)
        return false;
    *ret = (uint32_t)number;
    snprintf(want, sizeof want, "seg-%04u%s", *ret, suffix);
    return strcmp(name, want) == 0;
}

/* A file that nothing but its name makes one of the log counts where it is near: it may have lost
 * its header.  Behind one that is far off the numbers would end. */
uint32_t log_number_next(const struct log_file *v, uint32_t n)
{
    uint32_t last = 0;

    for (uint32_t i = 0; i < n; i++)
        if (v[i].number > last && v[i].number < LOG_NUMBER_MAX &&
            (v[i].own || v[i].number - last <= LOG_NUMBER_FAR))
            last = v[i].number;
    return last + 1;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = ((const struct log_file *)a)->number, y = ((const struct log_file *)b)->number;
    return x < y ? -1 : x > y;
}

int log_length(const char *path, uint64_t *ret)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return -errno;
    *ret = (uint64_t)st.st_size;
    return 0;
}

struct listing {
    const char *dir;
    bool tidy;
    struct log_file *v;
    uint32_t n, cap;
    int said; /* what eb has words for already */
    struct errbuf *eb;
};

static int list_one(void *ctx, const char *name)
{
    struct listing *l = ctx;
    uint32_t number;
    char path[PATH_MAX];

    /* A file that never became one. */
    if (log_named(name, ".tmp", &number)) {
        if (l->tidy && snprintf(path, sizeof path, "%s/%s", l->dir, name) < PATH_MAX)
            l->said = sys_clear(path, l->eb);
        return l->said;
    }
    if (!log_named(name, "", &number))
        return 0;
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        struct log_file *more = realloc(l->v, l->cap * sizeof *more);
        if (!more)
            return -ENOMEM;
        l->v = more;
    }
    log_path(l->dir, number, "", path);
    struct log_file f = {.number = number, .taken = sys_taken_bytes(path)};
    int r = log_length(path, &f.bytes);
    if (r < 0 && r != -ENOENT) /* a link to what is not there: whoever reads it says so */
        return l->said = sys_unread(l->eb, r, path);
    l->v[l->n++] = f;
    return 0;
}

int log_files(const char *dir, bool tidy, struct log_file **ret, uint32_t *ret_n,
              struct errbuf *eb)
{
    struct listing l = {.dir = dir, .tidy = tidy, .eb = eb};
    int r = dir_list(dir, list_one, &l);

    if (r < 0) { /* not all of them: nobody may take that for the log */
        free(l.v);
        return l.said < 0 ? r : sys_unread(eb, r, dir);
    }
    if (l.n)
        qsort(l.v, l.n, sizeof *l.v, by_number);
    *ret = l.v;
    *ret_n = l.n;
    return 0;
}

bool log_lacks_end(const char *dir, uint32_t newest)
{
    return logend_get(dir) > newest;
}

int log_head_read(const char *dir, uint32_t number, struct log_head *ret)
{
    uint8_t b[LOG_HEAD_BYTES];
    char path[PATH_MAX];

    log_path(dir, number, "", path);
    int fd = sys_open_plain(path);
    if (fd < 0)
        return fd;
    int r = sys_read(fd, b, sizeof b, 0);
    close(fd);
    if (r == -ENODATA)
        return E_CORRUPT; /* cut short */
    if (r == 0)
        r = log_head_get(b, ret);
    return r == 0 && ret->number != number ? E_CORRUPT : r;
}

/* --- frames ----------------------------------------------------------------------------------- */

/* Salvage: here something is missing, behind w->seq. */
static int gap(struct log_walk *w, bool base)
{
    return w->salvage && w->each ? w->each(w->ctx, base, w->seq, NULL, 0) : 0;
}

int log_seen(struct log_walk *w, uint64_t seq, uint32_t crc)
{
    if (w->seen_seq == 0 || w->damaged || seq != w->seen_seq || crc == w->seen_crc)
        return 0;
    w->other = true;
    return E_STALE;
}

int log_walk_file(struct log_walk *w, const struct log_head *h, struct log_bytes *file,
                  uint64_t *ret_end, bool *ret_bad)
{
    uint64_t at = LOG_HEAD_BYTES, whole, used = log_used(file);
    uint32_t crc = h->base ? 0 : h->prev_crc;
    bool stop = w->damaged && !w->salvage, ended = false;
    bool bad = file->bytes < h->bytes || file->bytes < file->size;
    struct log_frame f;

    *ret_end = at;
    while (!stop && at < used) {
        int r = log_frame_at(file, at, &f, &whole);
        bool next = r == 0 && f.prev_crc == crc && (h->base || f.seq == w->seq + 1);
        bool any = r == 0 && w->salvage && (h->base || f.seq > w->seq);
        if (next || any) {
            bad |= !next;
            ended = f.bytes == 0;
            if (!next)
                r = gap(w, h->base);
            if (r == 0 && !h->base)
                r = log_seen(w, f.seq, f.crc);
            if (w->each && f.bytes && r == 0)
                r = w->each(w->ctx, h->base, h->base ? h->seq : f.seq, f.recs, f.bytes);
            if (r < 0)
                return r;
            w->frames++;
            crc = f.crc;
            if (!h->base) {
                w->seq = f.seq;
                w->crc = crc;
            }
            at += whole;
            *ret_end = at;
            continue;
        }
        if (r == 0 && w->salvage && !h->base) { /* in a file before this one: a copy */
            bad = true;
            crc = f.crc;
            at += whole;
            *ret_end = at;
            continue;
        }
        /* Not a frame, or not the next one.  Is this the torn end, or damage inside? */
        uint64_t on = log_frame_after(file, at + 8, used);
        w->frames_torn = on < used;
        bad |= w->salvage && on < used;
        if (!w->salvage)
            break;
        at = on;
    }
    if (file->why < 0)
        return file->why;
    if (used > *ret_end)
        w->torn_bytes += used - *ret_end;
    /* A checkpoint is whole or has been hurt; a newer one says where it ends. */
    if (h->base && (used > *ret_end || (h->version >= 3 && !ended)))
        bad = true;
    w->damaged |= bad;
    *ret_bad = bad;
    /* Torn, cut short, or no end: what else was there?  And no file is made without need. */
    return used > *ret_end || file->bytes < h->bytes || (bad && h->base) ||
                   *ret_end == LOG_HEAD_BYTES
               ? gap(w, h->base)
               : 0;
}

/* --- saving what can be saved ------------------------------------------------------------------- */

struct saved {
    uint32_t number; /* its name's; its header may say another */
    bool headless;
    bool placed; /* its header, or a frame in it, says where it belongs */
    struct log_head h;
    struct log_bytes b;
};

/* A file whose header is gone: its frames say what it is.  Those of a checkpoint count from 0. */
static void head_guess(struct saved *f)
{
    struct log_frame one;
    uint64_t whole, used = log_used(&f->b), at = log_frame_after(&f->b, LOG_HEAD_BYTES, used);

    f->headless = true;
    f->h = (struct log_head){.version = LOG_FORMAT, .number = f->number};
    if (at < used && log_frame_at(&f->b, at, &one, &whole) == 0) {
        f->h.base = one.seq == 0;
        f->h.seq = one.seq ? one.seq - 1 : 0;
        f->h.prev_crc = one.prev_crc;
        f->placed = !f->h.base;
    }
}

/* What it is; it is closed again. */
static int saved_look(const char *dir, struct saved *f, struct errbuf *eb)
{
    char path[PATH_MAX];
    const uint8_t *b = NULL;

    log_path(dir, f->number, "", path);
    int r = log_open(path, &f->b);
    if (r == 0 && f->b.size >= LOG_HEAD_BYTES)
        r = log_get(&f->b, 0, LOG_HEAD_BYTES, &b);
    int head = r == 0 && b ? log_head_get(b, &f->h) : E_CORRUPT;
    f->placed = head == 0;
    if (r == 0 && head == E_CORRUPT) {
        head_guess(f);
        r = f->b.why;
    }
    log_shut(&f->b);
    if (r == 0 && head == E_VERSION)
        return err_set(eb, head, "%s is of a newer version of the store; " LOG_NEWER_DO, path);
    return r < 0 ? sys_unread(eb, r, path) : 0;
}

static int saved_walk(const char *dir, struct saved *f, struct log_walk *w, bool *ret_bad,
                      struct errbuf *eb)
{
    char path[PATH_MAX];
    uint64_t end;

    log_path(dir, f->number, "", path);
    int r = log_open(path, &f->b);
    if (r < 0)
        return sys_unread(eb, r, path);
    r = log_walk_file(w, &f->h, &f->b, &end, ret_bad);
    int why = f->b.why;
    log_shut(&f->b);
    return why < 0 ? sys_unread(eb, why, path) : r;
}

/* Sequence numbers first: they say what was written when, whatever a file is called now. */
static int by_place(const void *a, const void *b)
{
    const struct saved *x = a, *y = b;

    if (x->h.seq != y->h.seq)
        return x->h.seq < y->h.seq ? -1 : 1;
    if (x->h.base != y->h.base) /* frames behind a checkpoint's state */
        return x->h.base ? -1 : 1;
    if (x->h.number != y->h.number)
        return x->h.number < y->h.number ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* The log's files in the order in which they were written.  One that says nothing itself stands
 * where its name puts it. */
static int saved_list(const char *dir, struct saved **ret, uint32_t *ret_n, struct errbuf *eb)
{
    struct log_file *v = NULL;
    uint32_t n = 0, k = 0;
    int r = log_files(dir, false, &v, &n, eb);
    struct saved *f = r == 0 ? calloc(n + 1, sizeof *f) : NULL, one;

    if (r == 0 && !f)
        r = -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        f[i].number = v[i].number;
        r = saved_look(dir, &f[i], eb);
        if (r == 0 && f[i].placed) { /* to the front */
            one = f[i];
            memmove(f + k + 1, f + k, (i - k) * sizeof *f);
            f[k++] = one;
        }
    }
    free(v);
    if (r < 0) {
        free(f);
        return r;
    }
    qsort(f, k, sizeof *f, by_place);
    for (; k < n; k++) {
        uint32_t at = k;
        one = f[k];
        while (at > 0 && f[at - 1].h.number > one.number)
            at--;
        memmove(f + at + 1, f + at, (k - at) * sizeof *f);
        f[at] = one;
    }
    *ret = f;
    *ret_n = n;
    return 0;
}

/* Where to begin: the newest checkpoint that is whole, else the first file. */
static int salvage_start(const char *dir, struct saved *f, uint32_t n, uint32_t *ret,
                         struct errbuf *eb)
{
    int r = 0;

    *ret = 0;
    for (uint32_t i = n; i-- > 0 && r == 0;) {
        struct log_walk w = {0};
        bool bad = true;
        if (f[i].headless || !f[i].h.base)
            continue;
        r = saved_walk(dir, &f[i], &w, &bad, eb);
        if (r == 0 && !bad) {
            *ret = i;
            return 0;
        }
    }
    return r;
}

/* One more file.  The log's beginning may be missing, or frames between the files; a file without a
 * header may have lost any. */
static int salvage_file(const char *dir, struct saved *f, bool first, bool last,
                        struct log_walk *w, struct errbuf *eb)
{
    const struct log_head *h = &f->h;
    bool other = h->seq == w->seq && h->prev_crc != w->crc, bad = false;
    bool hole = f->headless || (!h->base && (h->seq > w->seq || (!first && other)));
    uint64_t torn = w->torn_bytes;
    int r = hole ? gap(w, h->base) : 0;

    w->damaged |= hole || h->number != f->number || (!h->base && h->seq < w->seq);
    if (h->base || h->seq > w->seq) {
        w->seq = h->seq;
        w->crc = h->prev_crc;
    }
    if (r == 0)
        r = saved_walk(dir, f, w, &bad, eb);
    if (!last && w->torn_bytes > torn && !h->base)
        w->damaged = true; /* torn bytes are only torn at the very end */
    return r;
}

int log_salvage(const char *dir,
                int (*each)(void *ctx, bool base, uint64_t seq, const uint8_t *recs,
                            uint32_t bytes),
                void *ctx, struct turnlog_report *rep, struct errbuf *eb)
{
    struct log_walk w = {.salvage = true, .each = each, .ctx = ctx};
    struct saved *f = NULL;
    uint32_t n = 0, start = 0, newest = 0;

    memset(rep, 0, sizeof *rep);
    int r = saved_list(dir, &f, &n, eb);
    if (r == 0)
        r = salvage_start(dir, f, n, &start, eb);
    for (uint32_t i = start; r == 0 && i < n; i++) {
        r = salvage_file(dir, &f[i], i == start, i + 1 == n, &w, eb);
        newest = f[i].number > newest ? f[i].number : newest;
        newest = !f[i].headless && f[i].h.number > newest ? f[i].h.number : newest;
        if (!f[i].headless) {
            memcpy(rep->uuid, f[i].h.uuid, 16);
            rep->have_uuid = true;
        }
    }
    if (r == 0 && log_lacks_end(dir, newest)) {
        w.damaged = true;
        r = gap(&w, false);
    }
    free(f);
    if (r < 0 && eb && !eb->s[0])
        return sys_unread(eb, r, dir);
    rep->end_known = logend_get(dir) != 0;
    rep->damaged = w.damaged;
    rep->last_seq = w.seq;
    rep->frames = w.frames;
    rep->torn_bytes = w.torn_bytes;
    return r;
}
