/* turnlog.c - see turnlog.h; reading is logfile.c's, offset tables are in docs/FORMATS.md. */
#include "kvstore/turnlog.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "kvstore/codec.h"
#include "kvstore/logend.h"
#include "kvstore/logfile.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

enum { LOG_MAGIC = 0x746c6f67 };
static const uint32_t FRAME_MAGIC = 0x4d524648; /* "HFRM" */

enum { CKPT_BUF_BYTES = 1 << 20, CKPT_SYNC_BYTES = 4 << 20 };

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
    struct log_file *seg;
    uint32_t n_seg;
    /* The file that takes the next frame. */
    int fd;
    bool old;          /* it is of an older version: it takes none, another file is begun */
    uint64_t at, size; /* next byte; of the file */
    uint64_t seq;      /* of the last frame in it */
    uint32_t crc;
    uint64_t skipped; /* up to this number the index knows more than the log; or 0 */
    /* The group being made. */
    struct lbuf group;
    uint64_t group_at, group_seq;
    uint32_t group_crc;
    uint64_t refused; /* bytes of the last group, when it could not be written */
    uint64_t grown, base_bytes;
    /* A checkpoint being written, beside the frames that go on coming. */
    int ckpt_fd;
    struct lbuf ckpt;
    uint32_t ckpt_number, ckpt_old; /* its file; how many files it replaces */
    uint64_t ckpt_at, ckpt_n, ckpt_grown, ckpt_unsynced;
    uint32_t ckpt_crc;
    uint32_t end, end_was; /* what logend.h says; said at the start */
    uint32_t n_trim;       /* files in front that a checkpoint has replaced */
};

static void seg_path(const struct turnlog *l, uint32_t number, const char *suffix,
                     char ret[PATH_MAX])
{
    log_path(l->dir, number, suffix, ret);
}

/* --- headers and frames ------------------------------------------------------------------- */

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

/* Nothing is changed on disk: whatever cannot be read fails the open as it is. */
static int open_files(struct turnlog *l, const struct turnlog_opts *o,
                      struct turnlog_report *rep, struct errbuf *eb)
{
    struct log_walk w = {
        .each = o->each, .ctx = o->ctx, .seen_seq = o->seen_seq, .seen_crc = o->seen_crc};
    char path[PATH_MAX];
    uint32_t start = 0;
    struct log_head *head = calloc(l->n_seg + 1, sizeof *head);
    int r = head ? 0 : -ENOMEM;

    /* The newest checkpoint begins the log; files before it are leftovers of its making. */
    for (uint32_t i = 0; r == 0 && i < l->n_seg; i++) {
        int e = log_head_read(l->dir, l->seg[i].number, &head[i]);
        seg_path(l, l->seg[i].number, "", path);
        l->seg[i].own = e == 0;
        if (e == E_VERSION)
            r = err_set(eb, e, "%s is of a newer version of the store; " LOG_NEWER_DO, path);
        else if (e == E_CORRUPT)
            l->seg[i].bad = true;
        else if (e < 0)
            r = sys_unread(eb, e, path);
        else if (head[i].base)
            start = i;
    }
    for (uint32_t i = start; r == 0 && i < l->n_seg; i++) {
        struct log_bytes b;
        uint64_t end;
        bool bad = false;
        if (l->seg[i].bad) {
            w.damaged = true;
            continue;
        }
        memcpy(rep->uuid, head[i].uuid, 16);
        rep->have_uuid = true;
        seg_path(l, l->seg[i].number, "", path);
        r = log_open(path, &b);
        if (r < 0) {
            r = sys_unread(eb, r, path);
            break;
        }
        if (i == start || head[i].base) {
            w.damaged |= i == start && !head[i].base && head[i].seq > 0;
            w.seq = head[i].seq; /* the first file there is says where it begins */
            w.crc = head[i].prev_crc;
        } else if (head[i].seq != w.seq || head[i].prev_crc != w.crc) {
            w.damaged = true; /* frames are missing between the files */
        }
        uint64_t torn = w.torn_bytes;
        w.frames_torn = false;
        r = log_seen(&w, head[i].seq, head[i].prev_crc);
        if (r == 0)
            r = log_walk_file(&w, &head[i], &b, &end, &bad);
        log_shut(&b);
        if (r < 0) {
            r = b.why < 0 ? sys_unread(eb, b.why, path) : r;
            break;
        }
        if (head[i].base) {
            l->base_bytes = end;
            l->grown = 0;
        } else {
            l->grown += end - LOG_HEAD_BYTES;
            /* Torn bytes are only torn at the very end. */
            bad |= w.torn_bytes > torn && i + 1 < l->n_seg;
        }
        w.damaged |= bad;
        l->seg[i].bad = bad;
        l->at = end;
        l->size = b.bytes;
    }
    w.damaged |= r == 0 && log_lacks_end(l->dir, l->n_seg ? l->seg[l->n_seg - 1].number : 0);
    /* Behind damage nothing is appended: the next frame begins a file of its own. */
    const struct log_head *last = l->n_seg ? &head[l->n_seg - 1] : NULL;
    if (r == 0 && last && !w.damaged && !last->base) {
        seg_path(l, last->number, "", path);
        l->fd = open(path, O_RDWR | O_CLOEXEC);
        if (l->fd < 0)
            r = sys_unread(eb, -errno, path);
        l->old = last->version < LOG_FORMAT;
    }
    free(head);
    l->seq = w.seq;
    l->crc = w.crc;
    rep->damaged = w.damaged;
    rep->other = w.other;
    rep->frames_torn = w.frames_torn && !w.damaged;
    rep->frames = w.frames;
    rep->torn_bytes = w.torn_bytes;
    rep->last_seq = l->seq;
    return r;
}

int turnlog_open(struct turnlog **ret, const struct turnlog_opts *o, struct turnlog_report *rep,
                 struct errbuf *eb)
{
    struct turnlog *l = calloc(1, sizeof *l);
    int r = l ? 0 : -ENOMEM;

    memset(rep, 0, sizeof *rep);
    if (r == 0) {
        l->fd = l->ckpt_fd = -1;
        l->sys = o->sys;
        l->seg_bytes = round_up(o->seg_bytes, LOG_HEAD_BYTES);
        if ((size_t)snprintf(l->dir, sizeof l->dir, "%s", o->dir) >= sizeof l->dir)
            r = -ENAMETOOLONG;
    }
    if (r == 0)
        r = log_files(l->dir, true, &l->seg, &l->n_seg, eb);
    if (r == 0)
        r = open_files(l, o, rep, eb);
    if (r < 0) {
        if (eb && !eb->s[0])
            r = sys_refuse(eb, r, "read the turn log", o->dir);
        turnlog_close(l);
        return r;
    }
    l->magic = LOG_MAGIC;
    *ret = l;
    return 0;
}

void turnlog_keep_old(struct turnlog *l)
{
    must_be(l, LOG_MAGIC);
    for (uint32_t i = 0; i < l->n_seg; i++)
        l->seg[i].bad = true;
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

/* Where it cannot be written down it lags behind, and says less than it could.  It is never taken
 * back: until a file is behind one that is missing each start finds that it is. */
static void end_now(struct turnlog *l)
{
    uint32_t number = log_number_next(l->seg, l->n_seg) - 1;

    if (number > l->end && logend_put(l->sys, l->dir, number) == 0)
        l->end = number;
}

int turnlog_start(struct turnlog *l, const uint8_t uuid[16], uint64_t last_seq)
{
    must_be(l, LOG_MAGIC);
    l->end = logend_get(l->dir);
    l->end_was = l->end;
    end_now(l);
    memcpy(l->uuid, uuid, 16);
    if (last_seq > l->seq) { /* the index knows more than the log: go on behind it */
        l->seq = l->skipped = last_seq;
        must(l->fd < 0); /* turnlog_keep_old: frames are missing */
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

/* Its length, at least: 0 where nobody can tell, and then it is never found to be cut. */
static struct log_file file_now(uint32_t number, const char *path)
{
    struct log_file f = {.number = number, .taken = sys_taken_bytes(path), .own = true};

    (void)log_length(path, &f.bytes);
    return f;
}

static int seg_add(struct turnlog *l, uint32_t number)
{
    char path[PATH_MAX];
    struct log_file *s = realloc(l->seg, (l->n_seg + 1) * sizeof *s);

    if (!s)
        return -ENOMEM;
    l->seg = s;
    seg_path(l, number, "", path);
    l->seg[l->n_seg++] = file_now(number, path);
    return 0;
}

static uint32_t next_number(const struct turnlog *l)
{
    uint32_t next = log_number_next(l->seg, l->n_seg);

    /* One that is missing may be put back. */
    next = next > l->end_was || l->end_was >= LOG_NUMBER_MAX ? next : l->end_was + 1;
    return l->ckpt_fd >= 0 && l->ckpt_number >= next ? l->ckpt_number + 1 : next;
}

/* Another file, with the group in it: one without frames is damage to whoever reads it. */
static int roll(struct turnlog *l)
{
    char path[PATH_MAX];
    uint64_t used = LOG_HEAD_BYTES + l->group.used, size = round_up(used, LOG_HEAD_BYTES);
    uint8_t *b = malloc(used);
    struct log_head h = {
        .number = next_number(l), .seq = l->group_seq, .prev_crc = l->group_crc};
    int fd = -1, r = b ? 0 : -ENOMEM;

    if (size < l->seg_bytes)
        size = l->seg_bytes;
    h.bytes = size;
    memcpy(h.uuid, l->uuid, 16);
    seg_path(l, h.number, "", path);
    if (r == 0) {
        log_head_put(b, &h);
        memcpy(b + LOG_HEAD_BYTES, l->group.p, l->group.used);
        r = sys_make(l->sys, path, b, used, size);
    }
    free(b);
    if (r < 0)
        return r; /* what stands there, if anything, is not ours */
    if ((fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
        r = -errno;
    if (r == 0)
        r = seg_add(l, h.number);
    if (r < 0) {
        if (fd >= 0)
            close(fd);
        (void)unlink(path); /* its frames are refused */
        return r;
    }
    if (l->fd >= 0)
        close(l->fd);
    l->fd = fd;
    l->at = LOG_HEAD_BYTES;
    l->size = size;
    end_now(l);
    return 0;
}

bool turnlog_in_place(const struct turnlog *l)
{
    char path[PATH_MAX];

    for (uint32_t i = l->n_seg; l->fd >= 0 && i-- > 0;) { /* the last one, nearly always */
        seg_path(l, l->seg[i].number, "", path);
        if (sys_same(path, l->fd))
            return true;
    }
    return l->fd < 0;
}

int turnlog_cut(const struct turnlog *l)
{
    char path[PATH_MAX];

    for (uint32_t i = l->n_trim; i < l->n_seg; i++) {
        uint64_t bytes = 0;
        seg_path(l, l->seg[i].number, "", path);
        int r = l->seg[i].bad ? -ENOENT : log_length(path, &bytes);
        if (r < 0 && r != -ENOENT) /* one that is gone is no shorter: guard.c sees to it */
            return r;
        if (r == 0 && bytes < l->seg[i].bytes)
            return 1;
    }
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
        r = roll(l);
    else
        r = sys_write(l->sys, l->fd, l->group.p, l->group.used, l->at);
    l->group_at = l->at;
    if (r == 0 && sync)
        r = turnlog_sync(l);
    l->refused = r < 0 ? l->group.used : 0;
    if (r < 0) {
        group_back(l);
        return r;
    }
    l->at += l->group.used;
    l->grown += l->group.used;
    return 0;
}

int turnlog_room(struct turnlog *l)
{
    const uint8_t none[4096] = {0};
    uint64_t want = l->refused > sizeof none ? l->refused : sizeof none;
    uint64_t file = turnlog_need(l, want);
    char path[PATH_MAX];

    if (file == 0)
        return sys_write(l->sys, l->fd, none, sizeof none, l->at); /* as it is there */
    /* The name is one that an open takes away. */
    seg_path(l, next_number(l), ".tmp", path);
    int r = sys_make(l->sys, path, NULL, 0, file);
    int gone = sys_unlink(l->sys, path);
    return r < 0 ? r : gone;
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

bool turnlog_crc(const struct turnlog *l, uint32_t *ret)
{
    *ret = l->crc;
    return l->seq != l->skipped;
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
    struct log_head h = {
        .number = next_number(l), .base = true, .seq = l->seq, .prev_crc = l->crc};

    must_be(l, LOG_MAGIC);
    must(l->ckpt_fd < 0);
    memcpy(h.uuid, l->uuid, 16);
    log_head_put(head, &h);
    seg_path(l, h.number, ".tmp", tmp);
    int fd = sys_fresh(tmp);
    if (fd < 0)
        return fd;
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
    /* An empty frame says that nothing is missing behind the last one. */
    int r = frame_add(&l->ckpt, NULL, 0, l->ckpt_n, l->ckpt_crc, &l->ckpt_crc);

    if (r == 0)
        r = turnlog_checkpoint_flush(l);

    seg_path(l, l->ckpt_number, ".tmp", tmp);
    seg_path(l, l->ckpt_number, "", path);
    if (r == 0)
        r = sys_sync(l->sys, l->ckpt_fd);
    if (r == 0)
        r = seg_add(l, l->ckpt_number); /* at the end, for now */
    if (r == 0 && (r = sys_rename_new(tmp, path)) < 0)
        l->n_seg--;
    if (r < 0) {
        turnlog_checkpoint_abort(l);
        return r;
    }
    struct log_file own = file_now(l->ckpt_number, path);
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

static bool seg_gone(const struct turnlog *l, uint32_t i)
{
    char path[PATH_MAX];
    uint64_t bytes;

    seg_path(l, l->seg[i].number, "", path);
    return log_length(path, &bytes) == -ENOENT;
}

bool turnlog_keeps(const struct turnlog *l)
{
    for (uint32_t i = 0; i < l->n_trim; i++)
        if (l->seg[i].bad && !seg_gone(l, i))
            return true;
    return false;
}

bool turnlog_lacks(const struct turnlog *l)
{
    for (uint32_t i = l->n_trim; i < l->n_seg; i++)
        if (seg_gone(l, i))
            return true;
    return false;
}

int turnlog_trim(struct turnlog *l)
{
    char path[PATH_MAX], aside[PATH_MAX];

    if (l->n_trim == 0)
        return 0;
    seg_path(l, l->seg[0].number, "", path);
    int r = l->seg[0].bad ? sys_set_aside(l->sys, path, aside, sizeof aside)
                          : sys_unlink(l->sys, path);
    if (r < 0 && r != -ENOENT) { /* one that somebody else removed is gone */
        l->n_trim = 0;           /* with the next checkpoint's */
        return r;
    }
    memmove(l->seg, l->seg + 1, --l->n_seg * sizeof *l->seg);
    return --l->n_trim > 0;
}
