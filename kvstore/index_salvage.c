/* index_salvage.c - what can still be read of a damaged index; see index.h and dbpage.h.
 *
 * No page is trusted and no tree is walked: every page that is not known to be free is tried
 * as a leaf, and a row counts when the CRC over its key and value holds.  So damage costs the
 * rows that it hit.  The file is read with plain reads, whose errors are errors and not
 * damage. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "kvstore/codec.h"
#include "kvstore/dbpage.h"
#include "kvstore/index.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = DBPAGE_BYTES, P_BRANCH = 1, P_LEAF = 2, P_LARGE = 4, P_META = 8, HEAD = 16 };
enum { NODE_HEAD = 8, IS_LARGE = 1, DEPTH_MAX = 32, BATCH = 256, KEY_MAX = 512 };
/* A meta page, behind its head: magic, version, address, map, the free list's and the main
 * database's record (48 bytes, the root in the last 8), last page, transaction. */
enum { META_MAGIC_AT = 16, META_FREE_ROOT = 80, META_LAST = 136, META_TXN = DBPAGE_META_TXN };
static const uint32_t META_MAGIC = 0xbeefc0de;

struct salvage {
    int fd;
    uint64_t pages; /* of the file, the last one perhaps not whole */
    uint8_t *free;  /* a bit a page; NULL: not known */
    uint8_t *big;   /* a large value */
    uint64_t big_cap;
    int (*each)(void *ctx, bool ok, enum index_db db, const uint8_t *key, size_t n,
                const uint8_t *v, size_t bytes);
    void *ctx;
};

/* Zeros behind the file's end. */
static int pages_read(struct salvage *x, uint64_t page, uint64_t n, uint8_t *ret)
{
    uint64_t at = 0, want = n * PAGE;

    while (at < want) {
        ssize_t got = pread(x->fd, ret + at, want - at, (off_t)(page * PAGE + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        at += (uint64_t)got;
    }
    memset(ret + at, 0, want - at);
    return 0;
}

/* --- the free list ------------------------------------------------------------------------------ */

static int free_ids(struct salvage *x, const uint8_t *page, const uint8_t *node)
{
    const uint8_t *v = node + NODE_HEAD + ld16(node + 6);
    uint64_t bytes = ld32(node);
    uint8_t *big = NULL;

    if (ld16(node + 6) != 8)
        return E_CORRUPT;
    if (ld16(node + 4) & IS_LARGE) {
        uint64_t first = v + 8 <= page + PAGE ? ld64(v) : UINT64_MAX;
        uint64_t n = (HEAD + bytes + PAGE - 1) / PAGE;
        if (first >= x->pages || n > x->pages - first)
            return E_CORRUPT;
        big = malloc(n * PAGE);
        int r = big ? pages_read(x, first, n, big) : -ENOMEM;
        if (r < 0 || ld64(big) != first || ld16(big + 10) != P_LARGE) {
            free(big);
            return r < 0 ? r : E_CORRUPT;
        }
        v = big + HEAD;
    } else if (v + bytes > page + PAGE) {
        return E_CORRUPT;
    }
    uint64_t n = bytes >= 8 ? ld64(v) : UINT64_MAX;
    int r = n <= bytes / 8 - (bytes >= 8) ? 0 : E_CORRUPT;
    for (uint64_t i = 1; i <= n && r == 0; i++) {
        uint64_t p = ld64(v + 8 * i);
        if (p < DBPAGE_METAS)
            r = E_CORRUPT;
        else if (p < x->pages)
            x->free[p / 8] |= (uint8_t)(1 << p % 8);
    }
    free(big);
    return r;
}

static int free_walk(struct salvage *x, uint64_t number, int depth)
{
    uint8_t page[PAGE];

    if (number >= x->pages || number < DBPAGE_METAS || depth > DEPTH_MAX)
        return E_CORRUPT;
    int r = pages_read(x, number, 1, page);
    uint16_t type = ld16(page + 10), lower = ld16(page + 12);
    if (r < 0)
        return r;
    if (ld64(page) != number || (type != P_LEAF && type != P_BRANCH) || lower < HEAD ||
        lower > ld16(page + 14) || ld16(page + 14) > PAGE)
        return E_CORRUPT;
    for (uint32_t at = HEAD; at + 2 <= lower && r == 0; at += 2) {
        uint32_t off = ld16(page + at);
        if (off < lower || off > PAGE - NODE_HEAD)
            return E_CORRUPT;
        const uint8_t *node = page + off;
        r = type == P_LEAF
                ? free_ids(x, page, node)
                : free_walk(x, ld32(node) | (uint64_t)ld16(node + 4) << 32, depth + 1);
    }
    return r;
}

/* The list is believed when both meta pages follow each other and all of it can be read. */
static int free_list(struct salvage *x)
{
    uint8_t m[DBPAGE_METAS * PAGE];
    int r = pages_read(x, 0, DBPAGE_METAS, m);

    for (int i = 0; i < DBPAGE_METAS && r == 0; i++) {
        const uint8_t *p = m + i * PAGE;
        if (ld16(p + 10) != P_META || ld32(p + META_MAGIC_AT) != META_MAGIC ||
            ld64(p + META_LAST) >= x->pages)
            return 0;
    }
    if (r < 0)
        return r;
    uint64_t a = ld64(m + META_TXN), b = ld64(m + PAGE + META_TXN);
    if (a > b + 1 || b > a + 1)
        return 0;
    uint64_t root = ld64((a > b ? m : m + PAGE) + META_FREE_ROOT);
    x->free = calloc(1, x->pages / 8 + 1);
    if (!x->free)
        return -ENOMEM;
    r = root == UINT64_MAX ? 0 : free_walk(x, root, 0);
    if (r < 0) {
        free(x->free);
        x->free = NULL;
    }
    return r == E_CORRUPT ? 0 : r;
}

/* --- rows ----------------------------------------------------------------------------------------- */

/* Which database a row is of; DB_: none of ours.  bytes: of the value without its CRC. */
static enum index_db kind_of(const uint8_t *k, size_t n, const uint8_t *v, size_t bytes)
{
    struct codec_rec *c = NULL;
    enum index_db db = DB_;

    if (n == 25 && k[16] <= 1)
        return DB_LOG;
    if (n == 28 && memchr(k + 20, 0, 8))
        return DB_REQ;
    if (n == CODEC_BLOCK_KEY && bytes == CODEC_BLOCK_BYTES)
        return DB_BLOCK;
    if (n > 5 && memcmp(k, "user.", 5) == 0)
        return DB_META;
    if (n > 4 && bytes == 16 && !memchr(k + 4, 0, n - 4))
        return DB_NAME;
    if (n < 16 && !memchr(k, 0, n))
        return DB_META;
    if (n == 16 && bytes == CODEC_BRANCH_BYTES)
        return memcmp(k, v, 16) ? DB_ : DB_BRANCH;
    c = malloc(sizeof *c);
    if (c && n == 16 && codec_session_get(v, bytes, &c->u.session) == 0 &&
        memcmp(c->u.session.id.b, k, 16) == 0)
        db = DB_SESSION;
    if (c && n == 20 && codec_req_get(v, bytes, &c->u.req) == 0 &&
        memcmp(c->u.req.id.b, k + 4, 16) == 0)
        db = DB_REQ;
    free(c);
    return db;
}

/* The same by the key alone, of a row that is hurt. */
static enum index_db kind_of_key(const uint8_t *k, size_t n)
{
    return n == 25 && k[16] <= 1 ? DB_LOG : n == 16 ? DB_SESSION : n == 20 ? DB_REQ : DB_;
}

static bool crc_ok(const uint8_t *k, size_t n, const uint8_t *v, uint64_t bytes)
{
    return bytes >= 4 && ld32(v + bytes - 4) == crc32c(crc32c(0, k, n), v, bytes - 4);
}

static int big_read(struct salvage *x, uint64_t first, uint64_t bytes)
{
    uint64_t n = (HEAD + bytes + PAGE - 1) / PAGE;

    if (first < DBPAGE_METAS || first >= x->pages || n > x->pages - first)
        return E_CORRUPT;
    if (n * PAGE > x->big_cap) {
        uint8_t *b = realloc(x->big, n * PAGE);
        if (!b)
            return -ENOMEM;
        x->big = b;
        x->big_cap = n * PAGE;
    }
    return pages_read(x, first, n, x->big);
}

static int node(struct salvage *x, const uint8_t *page, uint32_t off, bool sure)
{
    const uint8_t *p = page + off, *k = p + NODE_HEAD;
    uint32_t left = PAGE - off, n = ld16(p + 6);
    uint64_t bytes = ld32(p);
    int r;

    if (n == 0 || n > KEY_MAX || NODE_HEAD + n > left)
        return 0;
    const uint8_t *v = k + n;
    if (bytes <= left - NODE_HEAD - n && crc_ok(k, n, v, bytes)) {
        enum index_db db = kind_of(k, n, v, bytes - 4);
        return db == DB_ ? 0 : x->each(x->ctx, true, db, k, n, v, bytes - 4);
    }
    if (NODE_HEAD + n + 8 <= left && (r = big_read(x, ld64(v), bytes)) != E_CORRUPT) {
        if (r < 0)
            return r;
        v = x->big + HEAD;
        if (crc_ok(k, n, v, bytes)) {
            enum index_db db = kind_of(k, n, v, bytes - 4);
            return db == DB_ ? 0 : x->each(x->ctx, true, db, k, n, v, bytes - 4);
        }
    }
    enum index_db db = kind_of_key(k, n);
    return sure && db != DB_ ? x->each(x->ctx, false, db, k, n, NULL, 0) : 0;
}

/* A page's head may be hurt and its rows whole. */
static int leaf(struct salvage *x, const uint8_t *page)
{
    uint32_t lower = ld16(page + 12), upper = ld16(page + 14);
    bool sane = lower >= HEAD && lower % 2 == 0 && lower <= upper && upper <= PAGE;
    bool sure = sane && ld16(page + 10) == P_LEAF;
    int r = 0;

    if (!sane)
        lower = PAGE - NODE_HEAD;
    for (uint32_t at = HEAD; at + 2 <= lower && r == 0; at += 2) {
        uint32_t off = ld16(page + at);
        if (off >= HEAD && off <= PAGE - NODE_HEAD && off % 2 == 0)
            r = node(x, page, off, sure);
        else if (!sane)
            break;
    }
    return r;
}

static int scan(struct salvage *x)
{
    uint8_t *b = malloc(BATCH * PAGE);
    uint64_t skip = DBPAGE_METAS;
    int r = b ? 0 : -ENOMEM;

    for (uint64_t at = 0; at < x->pages && r == 0; at += BATCH) {
        uint64_t n = x->pages - at < BATCH ? x->pages - at : BATCH;
        r = pages_read(x, at, n, b);
        for (uint64_t p = at; p < at + n && r == 0; p++) {
            const uint8_t *page = b + (p - at) * PAGE;
            uint16_t type = ld16(page + 10);
            uint32_t large = ld32(page + 12);
            if (p < skip || (x->free && x->free[p / 8] >> p % 8 & 1))
                continue;
            if (ld64(page) == p && type == P_LARGE && large && large <= x->pages - p)
                skip = p + large; /* its bytes are somebody's value */
            else if (ld64(page) != p || type != P_BRANCH)
                r = leaf(x, page);
        }
    }
    free(b);
    return r;
}

int index_salvage(const char *path,
                  int (*each)(void *ctx, bool ok, enum index_db db, const uint8_t *key,
                              size_t n, const uint8_t *v, size_t bytes),
                  void *ctx, bool *ret_current, struct errbuf *eb)
{
    struct salvage x = {.each = each, .ctx = ctx, .fd = sys_open_plain(path)};
    struct stat st;
    int r = 0;

    if (x.fd < 0)
        return sys_unread(eb, x.fd, path);
    if (fstat(x.fd, &st) < 0)
        r = -errno;
    x.pages = r == 0 ? ((uint64_t)st.st_size + PAGE - 1) / PAGE : 0;
    if (r == 0 && x.pages > DBPAGE_METAS)
        r = free_list(&x);
    if (r == 0)
        r = scan(&x);
    *ret_current = x.free != NULL;
    close(x.fd);
    free(x.free);
    free(x.big);
    return r < 0 && r > -4096 && eb && !eb->s[0] ? sys_unread(eb, r, path) : r;
}
