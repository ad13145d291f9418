/* turnlog.c - see turnlog.h; offset tables in docs/FORMATS.md.
 *
 * Reading maps a whole segment into memory and walks it; a segment is some megabytes.  A
 * frame is believed when its CRC fits and it names the frame before it; behind the first one
 * that does not, nothing is believed unless the caller is salvaging. */
#include "kvstore/turnlog.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "kvstore/codec.h"
#include "kvstore/sys.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOG_MAGIC = 0x746c6f67, FORMAT_OLDEST = 1, FORMAT_VERSION = 2, SEGS_MAX = 100000 };
enum { CKPT_BUF_BYTES = 1 << 20, CKPT_SYNC_BYTES = 4 << 20 };
static const char SEG_MAGIC[8] = "HRTHLOG1";
static const uint32_t FRAME_MAGIC = 0x4d524648; /* "HFRM" */

struct lseg {
    uint32_t number;
    uint64_t taken; /* bytes on disk */
};
struct lhead {
    uint8_t uuid[16];
    uint32_t number;
    uint32_t version;
    bool base;
    uint64_t seq; /* of the last frame before this file; of a checkpoint: its state's */
    uint32_t prev_crc;
};
struct lbuf { /* frames not yet written */
    uint8_t *p;
    uint64_t cap, used;
};
struct turnlog {
    uint32_t magic;
    struct sys *sys;
    char dir[PATH_MAX - 32];
    uint8_t uuid[16];
    uint64_t seg_bytes;
    struct lseg *seg;
    uint32_t n_seg;
    /* The file that takes the next frame. */
    int fd;
    bool old;          /* it is of an older version: it takes none, another file is begun */
    uint64_t at, size; /* next byte; of the file */
    uint64_t seq;      /* of the last frame in it */
    uint32_t crc;
    /* The group being made. */
    struct lbuf group;
    uint64_t group_at, group_seq;
    uint32_t group_crc;
    uint64_t grown, base_bytes;
    /* A checkpoint being written, beside the frames that go on coming. */
    int ckpt_fd;
    struct lbuf ckpt;
    uint32_t ckpt_number, ckpt_old; /* its file; how many files it replaces */
    uint64_t ckpt_at, ckpt_n, ckpt_grown, ckpt_unsynced;
    uint32_t ckpt_crc;
    uint32_t n_trim; /* files in front that a checkpoint has replaced */
};

static void seg_path(const struct turnlog *l, uint32_t number, const char *suffix,
                     char ret[PATH_MAX])
{
    snprintf(ret, PATH_MAX, "%s/seg-%04u%s", l->dir, number, suffix);
}

/* --- headers and frames ------------------------------------------------------------------- */

static void head_put(uint8_t *b, const struct lhead *h)
{
    memset(b, 0, LOG_HEAD_BYTES);
    memcpy(b, SEG_MAGIC, 8);
    st32(b + 8, FORMAT_VERSION);
    memcpy(b + 16, h->uuid, 16);
    st32(b + 32, h->number);
    st32(b + 36, h->base);
    st64(b + 40, h->seq);
    st32(b + 48, h->prev_crc);
    st32(b + 12, crc32c(0, b + 16, LOG_HEAD_BYTES - 16));
}

static int head_get(const uint8_t *b, struct lhead *h)
{
    if (memcmp(b, SEG_MAGIC, 8) || ld32(b + 12) != crc32c(0, b + 16, LOG_HEAD_BYTES - 16))
        return E_CORRUPT;
    h->version = ld32(b + 8);
    if (h->version < FORMAT_OLDEST || h->version > FORMAT_VERSION)
        return E_VERSION;
    memcpy(h->uuid, b + 16, 16);
    h->number = ld32(b + 32);
    h->base = ld32(b + 36) == 1;
    h->seq = ld64(b + 40);
    h->prev_crc = ld32(b + 48);
    return 0;
}

int log_frame_get(const uint8_t *b, uint64_t n, struct log_frame *ret, uint64_t *ret_bytes)
{
    if (n < LOG_FRAME_HEAD_BYTES + 8)
        return -ENOENT;
    if (ld32(b) != FRAME_MAGIC)
        return ld32(b) == 0 && ld32(b + 4) == 0 ? -ENOENT : E_CORRUPT;
    uint32_t bytes = ld32(b + 4);
    uint64_t whole = round_up(LOG_FRAME_HEAD_BYTES + (uint64_t)bytes + 4, 8);
    if (bytes > LOG_FRAME_BYTES_MAX || bytes % 8 || whole > n)
        return E_CORRUPT;
    uint32_t crc = crc32c(0, b, LOG_FRAME_HEAD_BYTES + (size_t)bytes);
    if (ld32(b + LOG_FRAME_HEAD_BYTES + bytes) != crc)
        return E_CORRUPT;
    *ret = (struct log_frame){.seq = ld64(b + 8),
                              .bytes = bytes,
                              .n_rec = ld32(b + 16),
                              .prev_crc = ld32(b + 20),
                              .crc = crc,
                              .recs = b + LOG_FRAME_HEAD_BYTES};
    *ret_bytes = whole;
    return 0;
}

static int buf_room(struct lbuf *f, uint64_t more)
{
    if (f->used + more <= f->cap)
        return 0;
    uint64_t cap = f->cap ? f->cap : 1 << 16;
    while (cap < f->used + more)
        cap *= 2;
    uint8_t *b = realloc(f->p, cap);
    if (!b)
        return -ENOMEM;
    f->p = b;
    f->cap = cap;
    return 0;
}

/* Appends one frame. */
static int frame_add(struct lbuf *f, const struct kvs_rec *r, uint32_t n, uint64_t seq,
                     uint32_t prev_crc, uint32_t *ret_crc)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < n; i++) {
        size_t one = codec_size(&r[i]);
        if (!one)
            return -EINVAL;
        bytes += one;
        if (bytes > LOG_FRAME_BYTES_MAX)
            return E_LIMIT;
    }
    uint64_t whole = round_up(LOG_FRAME_HEAD_BYTES + bytes + 4, 8);
    int e = buf_room(f, whole);
    if (e < 0)
        return e;
    uint8_t *b = f->p + f->used, *p = b + LOG_FRAME_HEAD_BYTES;
    st32(b, FRAME_MAGIC);
    st32(b + 4, (uint32_t)bytes);
    st64(b + 8, seq);
    st32(b + 16, n);
    st32(b + 20, prev_crc);
    for (uint32_t i = 0; i < n; i++) {
        codec_put(p, &r[i]);
        p += codec_size(&r[i]);
    }
    uint32_t crc = crc32c(0, b, LOG_FRAME_HEAD_BYTES + bytes);
    memset(p, 0, (size_t)(b + whole - p));
    st32(p, crc);
    f->used += whole;
    *ret_crc = crc;
    return 0;
}

/* --- opening ------------------------------------------------------------------------------- */

void turnlog_close(struct turnlog *l)
{
    if (!l)
        return;
    l->magic = 0;
    turnlog_checkpoint_abort(l);
    if (l->fd >= 0)
        close(l->fd);
    free(l->seg);
    free(l->group.p);
    free(l->ckpt.p);
    free(l);
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = ((const struct lseg *)a)->number, y = ((const struct lseg *)b)->number;
    return x < y ? -1 : x > y;
}

static int list_segs(struct turnlog *l)
{
    DIR *d = opendir(l->dir);
    int r = 0;

    if (!d)
        return -errno;
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        uint32_t number;
        char end, path[PATH_MAX];
        if (strstr(e->d_name, ".tmp")) { /* a file that never became one */
            if (snprintf(path, sizeof path, "%s/%s", l->dir, e->d_name) < PATH_MAX)
                (void)unlink(path);
            continue;
        }
        if (sscanf(e->d_name, "seg-%u%c", &number, &end) != 1 || number > SEGS_MAX)
            continue;
        struct lseg *s = realloc(l->seg, (l->n_seg + 1) * sizeof *s);
        if (!s) {
            r = -ENOMEM;
            break;
        }
        l->seg = s;
        seg_path(l, number, "", path);
        l->seg[l->n_seg++] = (struct lseg){number, sys_taken_bytes(path)};
    }
    closedir(d);
    if (l->n_seg)
        qsort(l->seg, l->n_seg, sizeof *l->seg, by_number);
    return r;
}

static int slurp(const char *path, uint8_t **ret, uint64_t *ret_bytes)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;
    uint8_t *b = NULL;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        r = -errno;
    else if (!(b = malloc((size_t)st.st_size + 8)))
        r = -ENOMEM;
    else
        r = sys_read(fd, b, (uint64_t)st.st_size, 0);
    close(fd);
    if (r < 0) {
        free(b);
        return r;
    }
    *ret = b;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

static uint64_t last_nonzero(const uint8_t *b, uint64_t from, uint64_t n)
{
    while (n > from && b[n - 1] == 0)
        n--;
    return n;
}

/* Frames of one file.  *ret_end: behind the last whole one. */
static int read_frames(struct turnlog *l, const struct turnlog_opts *o, const struct lhead *h,
                       const uint8_t *b, uint64_t n, uint64_t *ret_end,
                       struct turnlog_report *rep)
{
    uint64_t at = LOG_HEAD_BYTES, whole, gap = 0;
    uint32_t crc = h->base ? 0 : h->prev_crc;
    struct log_frame f;
    bool stop = rep->damaged && !o->salvage; /* an earlier file already broke the chain */

    *ret_end = at;
    while (!stop && at < n) {
        int r = log_frame_get(b + at, n - at, &f, &whole);
        bool fits = r == 0 && f.prev_crc == crc && (h->base || f.seq == l->seq + 1);
        if (r == 0 && (fits || (o->salvage && (h->base || f.seq > l->seq)))) {
            rep->damaged |= !fits || gap;
            gap = 0;
            r = o->each(o->ctx, h->base, h->base ? h->seq : f.seq, f.recs, f.bytes);
            if (r < 0)
                return r;
            rep->frames++;
            crc = f.crc;
            if (!h->base)
                l->seq = f.seq;
            at += whole;
            *ret_end = at;
        } else {
            /* Not a frame, or not the next one: look on, frame by frame of 8 bytes, only to
             * learn whether this is the torn end or damage inside. */
            gap++;
            at += 8;
            if (!o->salvage)
                break;
        }
    }
    if (!h->base)
        l->crc = crc;
    uint64_t end = last_nonzero(b, *ret_end, n);
    rep->torn_bytes += end - *ret_end;
    if (h->base && end > *ret_end)
        rep->damaged = true; /* a checkpoint is whole or has been hurt */
    return 0;
}

int turnlog_open(struct turnlog **ret, const struct turnlog_opts *o, struct turnlog_report *rep,
                 struct errbuf *eb)
{
    struct turnlog *l = calloc(1, sizeof *l);
    int r = l ? 0 : -ENOMEM;
    char path[PATH_MAX] = "";

    memset(rep, 0, sizeof *rep);
    if (r == 0) {
        l->fd = l->ckpt_fd = -1;
        l->sys = o->sys;
        l->seg_bytes = round_up(o->seg_bytes, LOG_HEAD_BYTES);
        if ((size_t)snprintf(l->dir, sizeof l->dir, "%s", o->dir) >= sizeof l->dir)
            r = -ENAMETOOLONG;
    }
    if (r == 0)
        r = list_segs(l);
    /* The newest checkpoint begins the log; files before it are leftovers of its making. */
    uint32_t start = 0;
    struct lhead *head = r == 0 ? calloc(l->n_seg + 1, sizeof *head) : NULL;
    if (r == 0 && !head)
        r = -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < l->n_seg; i++) {
        uint8_t b[LOG_HEAD_BYTES];
        seg_path(l, l->seg[i].number, "", path);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        int e = fd < 0 ? -errno : sys_read(fd, b, sizeof b, 0);
        if (fd >= 0)
            close(fd);
        if (e == 0)
            e = head_get(b, &head[i]);
        if (e == 0 && head[i].number != l->seg[i].number)
            e = E_CORRUPT;
        if (e == E_VERSION)
            r = err_set(eb, e, "%s is of a newer version of the store", path);
        else if (e < 0)
            head[i].number = UINT32_MAX; /* unreadable: not part of the log */
        else if (head[i].base)
            start = i;
    }
    for (uint32_t i = start; r == 0 && i < l->n_seg; i++) {
        uint8_t *b = NULL;
        uint64_t n = 0, end;
        if (head[i].number == UINT32_MAX) {
            rep->damaged = true;
            continue;
        }
        memcpy(rep->uuid, head[i].uuid, 16);
        rep->have_uuid = true;
        seg_path(l, l->seg[i].number, "", path);
        r = slurp(path, &b, &n);
        if (r < 0)
            break;
        if (i == start || head[i].base || (o->salvage && head[i].seq > l->seq)) {
            rep->damaged |= i == start && !head[i].base && head[i].seq > 0;
            l->seq = head[i].seq; /* the first file there is says where it begins */
            l->crc = head[i].prev_crc;
        } else if (head[i].seq != l->seq || head[i].prev_crc != l->crc) {
            /* Frames are missing between the files. */
            rep->damaged = true;
        }
        r = read_frames(l, o, &head[i], b, n, &end, rep);
        if (head[i].base) {
            l->base_bytes = end;
            l->grown = 0;
        } else {
            l->grown += end - LOG_HEAD_BYTES;
        }
        /* Torn bytes are only torn at the very end. */
        if (r == 0 && i + 1 < l->n_seg && last_nonzero(b, end, n) > end && !head[i].base)
            rep->damaged = true;
        l->at = end;
        l->size = n;
        free(b);
    }
    if (r == 0 && l->n_seg && head[l->n_seg - 1].number != UINT32_MAX &&
        !head[l->n_seg - 1].base) {
        seg_path(l, l->seg[l->n_seg - 1].number, "", path);
        l->fd = open(path, O_RDWR | O_CLOEXEC);
        if (l->fd < 0)
            r = -errno;
        l->old = head[l->n_seg - 1].version < FORMAT_VERSION;
    }
    free(head);
    if (r < 0) {
        if (eb && !eb->s[0])
            r = err_set(eb, r, "cannot read the turn log %s: %s", path[0] ? path : o->dir,
                        err_str(r));
        turnlog_close(l);
        return r;
    }
    rep->last_seq = l->seq;
    l->magic = LOG_MAGIC;
    *ret = l;
    return 0;
}

int turnlog_start(struct turnlog *l, const uint8_t uuid[16], uint64_t last_seq)
{
    must_be(l, LOG_MAGIC);
    memcpy(l->uuid, uuid, 16);
    if (last_seq > l->seq) { /* the index knows more than the log: go on behind it */
        l->seq = last_seq;
        if (l->fd >= 0)
            close(l->fd);
        l->fd = -1;
        return 0;
    }
    if (l->fd < 0 || (l->at >= l->size && !l->old))
        return 0;
    uint8_t *zero = calloc(1, 1 << 16);
    uint8_t *have = malloc(1 << 16);
    int r = zero && have ? 0 : -ENOMEM;
    bool wrote = false;
    for (uint64_t at = l->at; r == 0 && at < l->size;) {
        uint64_t n = l->size - at < 1 << 16 ? l->size - at : 1 << 16;
        r = sys_read(l->fd, have, n, at);
        if (r == 0 && memcmp(have, zero, n)) {
            r = sys_write(l->sys, l->fd, zero, n, at);
            wrote = true;
        }
        at += n;
    }
    if (r == 0 && wrote)
        r = sys_sync(l->sys, l->fd);
    free(zero);
    free(have);
    if (r == 0 && l->old) {
        close(l->fd);
        l->fd = -1;
    }
    return r;
}

/* --- appending -------------------------------------------------------------------------------- */

static int seg_add(struct turnlog *l, uint32_t number)
{
    char path[PATH_MAX];
    struct lseg *s = realloc(l->seg, (l->n_seg + 1) * sizeof *s);

    if (!s)
        return -ENOMEM;
    l->seg = s;
    seg_path(l, number, "", path);
    l->seg[l->n_seg++] = (struct lseg){number, sys_taken_bytes(path)};
    return 0;
}

static uint32_t next_number(const struct turnlog *l)
{
    uint32_t last = l->n_seg ? l->seg[l->n_seg - 1].number : 0;

    return (l->ckpt_fd >= 0 && l->ckpt_number > last ? l->ckpt_number : last) + 1;
}

static int roll(struct turnlog *l, uint64_t need)
{
    uint8_t head[LOG_HEAD_BYTES];
    char path[PATH_MAX];
    uint64_t size = round_up(need + LOG_HEAD_BYTES, LOG_HEAD_BYTES);
    struct lhead h = {.number = next_number(l), .seq = l->group_seq, .prev_crc = l->group_crc};

    if (size < l->seg_bytes)
        size = l->seg_bytes;
    memcpy(h.uuid, l->uuid, 16);
    head_put(head, &h);
    seg_path(l, h.number, "", path);
    int r = sys_make(l->sys, path, head, sizeof head, size);
    if (r < 0)
        return r;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = seg_add(l, h.number);
    if (r < 0) {
        close(fd);
        return r;
    }
    if (l->fd >= 0)
        close(l->fd);
    l->fd = fd;
    l->at = LOG_HEAD_BYTES;
    l->size = size;
    return 0;
}

void turnlog_begin(struct turnlog *l)
{
    must_be(l, LOG_MAGIC);
    l->group.used = 0;
    l->group_seq = l->seq;
    l->group_crc = l->crc;
}

int turnlog_add(struct turnlog *l, const struct kvs_rec *r, uint32_t n)
{
    uint32_t crc;
    int e = frame_add(&l->group, r, n, l->seq + 1, l->crc, &crc);

    if (e == 0) {
        l->seq++;
        l->crc = crc;
    }
    return e;
}

const uint8_t *turnlog_group(const struct turnlog *l, uint64_t *ret_bytes)
{
    *ret_bytes = l->group.used;
    return l->group.p;
}

static void group_back(struct turnlog *l)
{
    l->seq = l->group_seq;
    l->crc = l->group_crc;
}

int turnlog_sync(struct turnlog *l)
{
    return l->fd < 0 ? 0 : sys_sync(l->sys, l->fd);
}

int turnlog_write(struct turnlog *l, bool sync)
{
    int r = 0;

    must_be(l, LOG_MAGIC);
    if (l->group.used == 0)
        return 0;
    if (l->fd < 0 || l->at + l->group.used > l->size)
        r = roll(l, l->group.used);
    if (r == 0) {
        l->group_at = l->at;
        r = sys_write(l->sys, l->fd, l->group.p, l->group.used, l->at);
    }
    if (r == 0 && sync)
        r = turnlog_sync(l);
    if (r < 0) {
        group_back(l);
        return r;
    }
    l->at += l->group.used;
    l->grown += l->group.used;
    return 0;
}

int turnlog_undo(struct turnlog *l)
{
    must_be(l, LOG_MAGIC);
    if (l->group.used == 0)
        return 0;
    memset(l->group.p, 0, l->group.used);
    int r = sys_write(l->sys, l->fd, l->group.p, l->group.used, l->group_at);
    if (r == 0)
        r = turnlog_sync(l);
    l->at = l->group_at;
    l->grown -= l->group.used;
    l->group.used = 0;
    group_back(l);
    return r;
}

uint64_t turnlog_seq(const struct turnlog *l)
{
    return l->seq;
}

uint64_t turnlog_bytes(const struct turnlog *l)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < l->n_seg; i++)
        n += l->seg[i].taken;
    return n + (l->ckpt_fd >= 0 ? l->ckpt_at : 0);
}

uint64_t turnlog_ahead_bytes(const struct turnlog *l)
{
    return l->size > l->at ? l->size - l->at : 0;
}

uint64_t turnlog_grown_bytes(const struct turnlog *l)
{
    return l->grown;
}

uint64_t turnlog_base_bytes(const struct turnlog *l)
{
    return l->base_bytes;
}

uint64_t turnlog_need(const struct turnlog *l, uint64_t bytes)
{
    uint64_t file = round_up(bytes + LOG_HEAD_BYTES, LOG_HEAD_BYTES);

    if (bytes == 0 || (l->fd >= 0 && l->at + bytes <= l->size))
        return 0;
    return file < l->seg_bytes ? l->seg_bytes : file;
}

/* --- checkpoints --------------------------------------------------------------------------------- */

void turnlog_checkpoint_abort(struct turnlog *l)
{
    char tmp[PATH_MAX];

    if (l->ckpt_fd < 0)
        return;
    close(l->ckpt_fd);
    l->ckpt_fd = -1;
    l->ckpt.used = 0;
    seg_path(l, l->ckpt_number, ".tmp", tmp);
    (void)unlink(tmp);
}

int turnlog_checkpoint_begin(struct turnlog *l)
{
    char tmp[PATH_MAX];
    uint8_t head[LOG_HEAD_BYTES];
    struct lhead h = {
        .number = next_number(l), .base = true, .seq = l->seq, .prev_crc = l->crc};

    must_be(l, LOG_MAGIC);
    must(l->ckpt_fd < 0);
    memcpy(h.uuid, l->uuid, 16);
    head_put(head, &h);
    seg_path(l, h.number, ".tmp", tmp);
    int fd = open(tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    l->ckpt_fd = fd;
    l->ckpt_number = h.number;
    l->ckpt_old = l->n_seg;
    l->ckpt_grown = l->grown;
    l->ckpt.used = l->ckpt_n = l->ckpt_unsynced = 0;
    l->ckpt_crc = 0;
    l->ckpt_at = LOG_HEAD_BYTES;
    /* What comes from here on lies in files behind the checkpoint's. */
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->at = l->size = 0;
    return sys_write(l->sys, fd, head, sizeof head, 0);
}

int turnlog_checkpoint_add(struct turnlog *l, const struct kvs_rec *r)
{
    int e = frame_add(&l->ckpt, r, 1, l->ckpt_n, l->ckpt_crc, &l->ckpt_crc);

    if (e == 0)
        l->ckpt_n++;
    return e == 0 && l->ckpt.used > CKPT_BUF_BYTES ? turnlog_checkpoint_flush(l) : e;
}

int turnlog_checkpoint_flush(struct turnlog *l)
{
    uint64_t n = l->ckpt.used;
    int r = n ? sys_write(l->sys, l->ckpt_fd, l->ckpt.p, n, l->ckpt_at) : 0;

    l->ckpt.used = 0;
    if (r < 0)
        return r;
    l->ckpt_at += n;
    l->ckpt_unsynced += n;
    /* A little at a time: one sync of it all would hold up every turn. */
    if (l->ckpt_unsynced < CKPT_SYNC_BYTES)
        return 0;
    l->ckpt_unsynced = 0;
    return sys_sync(l->sys, l->ckpt_fd);
}

uint64_t turnlog_checkpoint_bytes(const struct turnlog *l)
{
    return l->ckpt_fd < 0 ? 0 : l->ckpt_at + l->ckpt.used;
}

int turnlog_checkpoint_end(struct turnlog *l)
{
    char tmp[PATH_MAX], path[PATH_MAX];
    uint32_t at = l->ckpt_old;
    int r = turnlog_checkpoint_flush(l);

    seg_path(l, l->ckpt_number, ".tmp", tmp);
    seg_path(l, l->ckpt_number, "", path);
    if (r == 0)
        r = sys_sync(l->sys, l->ckpt_fd);
    if (r == 0)
        r = seg_add(l, l->ckpt_number); /* at the end, for now */
    if (r == 0 && rename(tmp, path) < 0) {
        r = -errno;
        l->n_seg--;
    }
    if (r < 0) {
        turnlog_checkpoint_abort(l);
        return r;
    }
    struct lseg own = {l->ckpt_number, sys_taken_bytes(path)};
    memmove(l->seg + at + 1, l->seg + at, (l->n_seg - 1 - at) * sizeof *l->seg);
    l->seg[at] = own;
    close(l->ckpt_fd);
    l->ckpt_fd = -1;
    l->base_bytes = l->ckpt_at;
    l->grown -= l->ckpt_grown;
    r = sys_sync_dir(l->sys, l->dir);
    if (r < 0)
        return r; /* both logs are whole; the next open finds the checkpoint */
    (void)sys_hook(l->sys, SYS_MAKE, true, -1, path, NULL, 0, 0);
    l->n_trim = at;
    return 0;
}

int turnlog_trim(struct turnlog *l)
{
    char path[PATH_MAX];

    if (l->n_trim == 0)
        return 0;
    seg_path(l, l->seg[0].number, "", path);
    int r = sys_unlink(l->sys, path);
    if (r < 0) {
        l->n_trim = 0; /* with the next checkpoint's */
        return r;
    }
    memmove(l->seg, l->seg + 1, --l->n_seg * sizeof *l->seg);
    return --l->n_trim > 0;
}
