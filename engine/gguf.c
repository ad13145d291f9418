/* gguf.c - see gguf.h.
 *
 * One pass over the head of the file with a cursor that cannot leave it; the head is read as
 * the cursor comes to it, and kept.  The two counts in it are bounded by what it could hold
 * before anything is allocated, and its own size is bounded too: a hostile file, sparse and
 * huge or not, costs a few hundred MiB at most.  Keys and tensor names are found by
 * binary search in sorted tables: no input makes that slow, and equal names come to lie side
 * by side, which is how duplicates are found. */
#include "engine/gguf.h"
#include "base/bytes.h"
#include "base/check.h"
#include "engine/source.h"
#include "kernels/kern.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
    GGUF_MAGIC = 0x46554747, /* "GGUF" */
    GGUF_VERSION = 3,
    GGUF_ALIGN_DEFAULT = 32,
    GGUF_ALIGN_MIN = 8,
    GGUF_ALIGN_MAX = 1 << 20,
    KEY_BYTES_MAX = 65535,
    NAME_MAX_ = 64, /* bytes of a tensor's name, the format's own limit */
    DIMS_MAX = 4,
    KV_BYTES_MIN = 14,     /* key length, one byte of key, type, one byte of value */
    TENSOR_BYTES_MIN = 33, /* name length, one byte of name, n_dims, one dim, type, offset */
    HEAD_BYTES_MAX = 128 << 20, /* metadata and directory; large vocabularies take 20 MiB */
    HEAD_PIECE = 1 << 20,
    OBJ_MAGIC = 0x66756767,
};

struct pair {
    struct gguf_str key;
    const uint8_t *val; /* scalar, string bytes, or first array element */
    uint64_t n;         /* string bytes, array elements; 1 for scalars */
    uint64_t *str_at;   /* string arrays: where each length field lies */
    uint8_t type, elem; /* enum gguf_kv_type; elem: of arrays */
};
struct gguf {
    uint32_t magic;
    struct source *src; /* NULL after gguf_detach */
    uint64_t bytes;
    struct file_stamp stamp;
    const uint8_t *base; /* the head: of it, `have` bytes are there */
    uint64_t have;
    uint8_t *head; /* base, of a file: address space for all it may become, filled as needed */
    uint64_t head_bytes;
    uint64_t data_at;
    uint32_t n_kv, n_tensors;
    struct pair *kv;
    struct gguf_tensor *tensor;
    uint32_t *kv_sorted, *tensor_sorted;
};

/* The cursor: `what` names the thing being read, for errors. */
struct cur {
    struct gguf *g;
    const uint8_t *base;
    uint64_t at, end;
    struct errbuf *eb;
};

static const uint8_t val_bytes[GGUF_KV_TYPE_] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
    [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
    [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

/* Names are outside bytes: shown in errors with anything odd replaced. */
struct shown {
    char s[80];
};
static const char *show(struct shown *b, struct gguf_str s)
{
    size_t n = s.bytes < sizeof b->s - 4 ? (size_t)s.bytes : sizeof b->s - 4;

    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        b->s[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    memcpy(b->s + n, s.bytes > n ? "..." : "", s.bytes > n ? 4 : 1);
    return b->s;
}

static int cut(const struct cur *c, const char *what, uint64_t want)
{
    if (c->end < c->g->bytes)
        return err_set(c->eb, E_LIMIT,
                       "%s at byte %llu needs %llu bytes; metadata and directory may take %d",
                       what, (unsigned long long)c->at, (unsigned long long)want,
                       HEAD_BYTES_MAX);
    return err_set(c->eb, E_CORRUPT,
                   "%s at byte %llu needs %llu bytes, the file ends after %llu", what,
                   (unsigned long long)c->at, (unsigned long long)want,
                   (unsigned long long)(c->end - c->at));
}

/* Reads on until the head holds `upto` bytes. */
static int fill(struct gguf *g, const char *what, uint64_t upto, struct errbuf *eb)
{
    struct errbuf why;
    uint64_t n = round_up(upto, HEAD_PIECE) - g->have;

    n = n < g->head_bytes - g->have ? n : g->head_bytes - g->have;
    int r = source_read(g->src, g->have, g->head + g->have, n, &why);
    if (r < 0)
        return err_set(eb, r, "%s: %s", what, why.s);
    g->have += n;
    return 0;
}

static int take(struct cur *c, const char *what, uint64_t n, const uint8_t **ret)
{
    if (n > c->end - c->at)
        return cut(c, what, n);
    int r = c->at + n > c->g->have ? fill(c->g, what, c->at + n, c->eb) : 0;
    if (r < 0)
        return r;
    *ret = c->base + c->at;
    c->at += n;
    return 0;
}
static int take32(struct cur *c, const char *what, uint32_t *ret)
{
    const uint8_t *p = NULL;
    int r = take(c, what, 4, &p);

    if (r == 0)
        *ret = ld32(p);
    return r;
}
static int take64(struct cur *c, const char *what, uint64_t *ret)
{
    const uint8_t *p = NULL;
    int r = take(c, what, 8, &p);

    if (r == 0)
        *ret = ld64(p);
    return r;
}
static int take_str(struct cur *c, const char *what, struct gguf_str *ret)
{
    uint64_t n = 0;
    const uint8_t *p = NULL;
    int r = take64(c, what, &n);

    if (r == 0)
        r = take(c, what, n, &p);
    if (r == 0)
        *ret = (struct gguf_str){(const char *)p, n};
    return r;
}
/* A key or tensor name: bounded, not empty, and free of NUL, so that C strings can find it. */
static int take_name(struct cur *c, const char *what, uint32_t i, uint64_t max,
                     struct gguf_str *ret)
{
    struct gguf_str s = {0};
    int r = take_str(c, what, &s);

    if (r < 0)
        return r;
    if (s.bytes == 0 || s.bytes > max)
        return err_set(c->eb, E_CORRUPT, "%s %u is %llu bytes long, allowed are 1 to %llu",
                       what, i, (unsigned long long)s.bytes, (unsigned long long)max);
    if (memchr(s.p, 0, (size_t)s.bytes))
        return err_set(c->eb, E_CORRUPT, "%s %u contains a NUL byte", what, i);
    *ret = s;
    return 0;
}

/* --- metadata ---------------------------------------------------------------------------- */

static int read_bool(const struct cur *c, const struct pair *p, const uint8_t *v, uint64_t n)
{
    struct shown b;

    for (uint64_t i = 0; i < n; i++)
        if (v[i] > 1)
            return err_set(c->eb, E_CORRUPT, "key %s holds %u as a bool, allowed are 0 and 1",
                           show(&b, p->key), v[i]);
    return 0;
}

static int read_array(struct cur *c, struct pair *p)
{
    struct shown b;
    uint32_t elem = 0;
    int r = take32(c, "array element type", &elem);

    if (r == 0)
        r = take64(c, "array length", &p->n);
    if (r < 0)
        return r;
    if (elem == GGUF_ARR)
        return err_set(c->eb, E_UNSUPP, "key %s is an array of arrays, which is not supported",
                       show(&b, p->key));
    if (elem >= GGUF_KV_TYPE_)
        return err_set(c->eb, E_CORRUPT, "key %s has array element type %u, the last is %d",
                       show(&b, p->key), elem, GGUF_KV_TYPE_ - 1);
    p->elem = (uint8_t)elem;
    p->val = c->base + c->at;

    /* The smallest element bounds the count before anything is multiplied or allocated. */
    uint64_t each = elem == GGUF_STR ? 8 : val_bytes[elem];
    if (p->n > (c->end - c->at) / each)
        return err_set(c->eb, E_CORRUPT,
                       "key %s claims an array of %llu elements, the file has room for %llu",
                       show(&b, p->key), (unsigned long long)p->n,
                       (unsigned long long)((c->end - c->at) / each));
    if (elem != GGUF_STR) {
        r = take(c, "array", p->n * each, &p->val);
        return r == 0 && elem == GGUF_BOOL ? read_bool(c, p, p->val, p->n) : r;
    }
    p->str_at = calloc((size_t)p->n + 1, sizeof *p->str_at);
    if (!p->str_at)
        return -ENOMEM;
    for (uint64_t i = 0; i < p->n; i++) {
        struct gguf_str s;
        p->str_at[i] = c->at;
        r = take_str(c, "string in an array", &s);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_pair(struct cur *c, struct pair *p, uint32_t i)
{
    struct shown b;
    uint32_t type = 0;
    int r = take_name(c, "key", i, KEY_BYTES_MAX, &p->key);

    if (r == 0)
        r = take32(c, "value type", &type);
    if (r < 0)
        return r;
    if (type >= GGUF_KV_TYPE_)
        return err_set(c->eb, E_CORRUPT, "key %s has value type %u, the last is %d",
                       show(&b, p->key), type, GGUF_KV_TYPE_ - 1);
    p->type = (uint8_t)type;
    p->n = 1;
    if (type == GGUF_ARR)
        return read_array(c, p);
    if (type == GGUF_STR) {
        struct gguf_str s = {0};
        r = take_str(c, "string value", &s);
        p->val = (const uint8_t *)s.p;
        p->n = s.bytes;
        return r;
    }
    r = take(c, "value", val_bytes[type], &p->val);
    if (r == 0 && type == GGUF_BOOL)
        r = read_bool(c, p, p->val, 1);
    return r;
}

/* --- tensors ------------------------------------------------------------------------------ */

static int read_tensor(struct cur *c, struct gguf_tensor *t, uint32_t i, uint64_t *ret_off)
{
    struct shown b;
    uint64_t elems = 1;
    int r = take_name(c, "tensor name", i, NAME_MAX_, &t->name);

    if (r == 0)
        r = take32(c, "n_dims", &t->n_dims);
    if (r < 0)
        return r;
    if (t->n_dims < 1 || t->n_dims > DIMS_MAX)
        return err_set(c->eb, E_CORRUPT, "tensor %s has n_dims %u, allowed are 1 to %d",
                       show(&b, t->name), t->n_dims, DIMS_MAX);
    for (uint32_t d = 0; d < DIMS_MAX; d++) {
        t->dims[d] = 1;
        if (d < t->n_dims)
            r = take64(c, "dimension", &t->dims[d]);
        if (r < 0)
            return r;
        if (t->dims[d] == 0 || !mul_ok(elems, t->dims[d], &elems) || elems > INT64_MAX)
            return err_set(c->eb, E_CORRUPT,
                           "tensor %s has dims[%u] = %llu: dimensions are at least 1 and their "
                           "product at most 2^63 - 1",
                           show(&b, t->name), d, (unsigned long long)t->dims[d]);
    }
    r = take32(c, "tensor type", &t->type);
    if (r == 0)
        r = take64(c, "tensor offset", ret_off);
    if (r < 0)
        return r;

    const struct k_type_info *ti = k_type_info(t->type);
    if (!ti)
        return err_set(c->eb, E_UNSUPP,
                       "tensor %s has type %u, which is not supported (F32, F16, BF16, Q4_0, "
                       "Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K are)",
                       show(&b, t->name), t->type);
    if (t->dims[0] % ti->block)
        return err_set(c->eb, E_CORRUPT,
                       "tensor %s has rows of %llu elements, type %s needs a multiple of %u",
                       show(&b, t->name), (unsigned long long)t->dims[0], ti->name, ti->block);
    if (!mul_ok(elems / ti->block, ti->block_bytes, &t->bytes))
        return err_set(c->eb, E_CORRUPT, "tensor %s has %llu elements, more than can be stored",
                       show(&b, t->name), (unsigned long long)elems);
    return 0;
}

/* --- order: by name for searching, by offset for overlaps --------------------------------- */

static int str_cmp(struct gguf_str a, struct gguf_str b)
{
    int d = memcmp(a.p, b.p, (size_t)(a.bytes < b.bytes ? a.bytes : b.bytes));

    return d ? d : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}
static int by_key(const void *a, const void *b, void *ctx)
{
    const struct gguf *g = ctx;

    return str_cmp(g->kv[*(const uint32_t *)a].key, g->kv[*(const uint32_t *)b].key);
}
static int by_name(const void *a, const void *b, void *ctx)
{
    const struct gguf *g = ctx;

    return str_cmp(g->tensor[*(const uint32_t *)a].name, g->tensor[*(const uint32_t *)b].name);
}
static int by_data(const void *a, const void *b, void *ctx)
{
    const struct gguf *g = ctx;
    uint64_t x = g->tensor[*(const uint32_t *)a].at, y = g->tensor[*(const uint32_t *)b].at;

    return (x > y) - (x < y);
}

static uint32_t *order(struct gguf *g, uint32_t n,
                       int (*cmp)(const void *, const void *, void *))
{
    uint32_t *v = calloc((size_t)n + 1, sizeof *v);

    for (uint32_t i = 0; v && i < n; i++)
        v[i] = i;
    if (v)
        qsort_r(v, n, sizeof *v, cmp, g);
    return v;
}

static int check_duplicates(const struct gguf *g, struct errbuf *eb)
{
    struct shown b;

    for (uint32_t i = 1; i < g->n_tensors; i++)
        if (str_cmp(g->tensor[g->tensor_sorted[i - 1]].name,
                    g->tensor[g->tensor_sorted[i]].name) == 0)
            return err_set(eb, E_CORRUPT, "tensor name %s occurs twice",
                           show(&b, g->tensor[g->tensor_sorted[i]].name));
    return 0;
}

/* Offsets count from the start of the data, which the directory's end and the alignment give. */
static int place_tensors(struct gguf *g, const uint64_t *off, uint64_t align, struct errbuf *eb)
{
    uint64_t room = g->bytes - g->data_at;
    struct shown b, b2;

    for (uint32_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensor[i];
        if (off[i] % align)
            return err_set(
                eb, E_CORRUPT,
                "tensor %s has offset %llu, not a multiple of general.alignment %llu",
                show(&b, t->name), (unsigned long long)off[i], (unsigned long long)align);
        if (off[i] > room || t->bytes > room - off[i])
            return err_set(
                eb, E_CORRUPT,
                "tensor %s at offset %llu needs %llu bytes, the file has %llu of data: "
                "it is truncated or damaged",
                show(&b, t->name), (unsigned long long)off[i], (unsigned long long)t->bytes,
                (unsigned long long)room);
        t->at = g->data_at + off[i];
    }
    uint32_t *at = order(g, g->n_tensors, by_data);
    if (!at)
        return -ENOMEM;
    int r = 0;
    for (uint32_t i = 1; r == 0 && i < g->n_tensors; i++) {
        const struct gguf_tensor *lo = &g->tensor[at[i - 1]], *hi = &g->tensor[at[i]];
        if (lo->at + lo->bytes > hi->at)
            r = err_set(eb, E_CORRUPT, "tensors %s and %s overlap at offset %llu",
                        show(&b, lo->name), show(&b2, hi->name),
                        (unsigned long long)off[at[i]]);
    }
    free(at);
    return r;
}

static int read_align(const struct gguf *g, uint64_t *ret, struct errbuf *eb)
{
    static const struct gguf_str key = {"general.alignment", sizeof "general.alignment" - 1};
    uint64_t a = GGUF_ALIGN_DEFAULT;

    for (uint32_t i = 0; i < g->n_kv; i++) {
        if (str_cmp(g->kv[i].key, key) != 0)
            continue;
        if (g->kv[i].type != GGUF_U32)
            return err_set(eb, E_CORRUPT,
                           "general.alignment has value type %u, it must be %d (u32)",
                           g->kv[i].type, GGUF_U32);
        a = ld32(g->kv[i].val);
    }
    if (a < GGUF_ALIGN_MIN || a > GGUF_ALIGN_MAX || (a & (a - 1)))
        return err_set(eb, E_CORRUPT,
                       "general.alignment is %llu, allowed are powers of two from %d to %d",
                       (unsigned long long)a, GGUF_ALIGN_MIN, GGUF_ALIGN_MAX);
    *ret = a;
    return 0;
}

/* --- opening ------------------------------------------------------------------------------- */

static int read_header(struct gguf *g, struct cur *c)
{
    uint32_t magic = 0, version = 0;
    uint64_t n_tensors = 0, n_kv = 0;
    int r = take32(c, "magic", &magic);

    if (r < 0)
        return r;
    if (magic != GGUF_MAGIC)
        return err_set(c->eb, E_CORRUPT, "magic is 0x%08x, a GGUF file begins with 0x%08x",
                       magic, GGUF_MAGIC);
    r = take32(c, "version", &version);
    if (r < 0)
        return r;
    if (version == __builtin_bswap32(GGUF_VERSION))
        return err_set(c->eb, E_VERSION, "the file is big-endian, only little-endian is read");
    if (version != GGUF_VERSION)
        return err_set(c->eb, E_VERSION, "version is %u, only %d is read", version,
                       GGUF_VERSION);
    r = take64(c, "n_tensors", &n_tensors);
    if (r == 0)
        r = take64(c, "n_kv", &n_kv);
    if (r < 0)
        return r;
    if (n_tensors > (c->end - c->at) / TENSOR_BYTES_MIN || n_tensors > UINT32_MAX - 1)
        return err_set(c->eb, E_CORRUPT, "n_tensors is %llu, the file has room for %llu",
                       (unsigned long long)n_tensors,
                       (unsigned long long)((c->end - c->at) / TENSOR_BYTES_MIN));
    if (n_kv > (c->end - c->at) / KV_BYTES_MIN || n_kv > UINT32_MAX - 1)
        return err_set(c->eb, E_CORRUPT, "n_kv is %llu, the file has room for %llu",
                       (unsigned long long)n_kv,
                       (unsigned long long)((c->end - c->at) / KV_BYTES_MIN));
    g->kv = calloc((size_t)n_kv + 1, sizeof *g->kv);
    g->tensor = calloc((size_t)n_tensors + 1, sizeof *g->tensor);
    if (!g->kv || !g->tensor)
        return -ENOMEM;
    g->n_kv = (uint32_t)n_kv;
    g->n_tensors = (uint32_t)n_tensors;
    return 0;
}

static int read_all(struct gguf *g, struct errbuf *eb)
{
    struct cur c = {g, g->base, 0, g->bytes < HEAD_BYTES_MAX ? g->bytes : HEAD_BYTES_MAX, eb};
    struct shown b;
    uint64_t align = 0, *off = NULL;
    int r = read_header(g, &c);

    for (uint32_t i = 0; r == 0 && i < g->n_kv; i++)
        r = read_pair(&c, &g->kv[i], i);
    if (r < 0)
        return r;
    g->kv_sorted = order(g, g->n_kv, by_key);
    if (!g->kv_sorted)
        return -ENOMEM;
    for (uint32_t i = 1; i < g->n_kv; i++)
        if (by_key(&g->kv_sorted[i - 1], &g->kv_sorted[i], g) == 0)
            return err_set(eb, E_CORRUPT, "key %s occurs twice",
                           show(&b, g->kv[g->kv_sorted[i]].key));
    r = read_align(g, &align, eb);
    if (r < 0)
        return r;

    off = calloc((size_t)g->n_tensors + 1, sizeof *off);
    r = off ? 0 : -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < g->n_tensors; i++)
        r = read_tensor(&c, &g->tensor[i], i, &off[i]);
    if (r == 0) {
        g->tensor_sorted = order(g, g->n_tensors, by_name);
        r = g->tensor_sorted ? check_duplicates(g, eb) : -ENOMEM;
    }
    if (r == 0) {
        /* A file without tensors may end before the padding does. */
        g->data_at = round_up(c.at, align);
        if (g->data_at > g->bytes)
            g->data_at = g->bytes;
        r = place_tensors(g, off, align, eb);
    }
    free(off);
    return r;
}

/* The head of a file: address space now, memory as it is read; a pointer into it stays good. */
static int head_open(struct gguf *g)
{
    uint64_t n = g->bytes < HEAD_BYTES_MAX ? g->bytes : HEAD_BYTES_MAX;

    if (n == 0)
        return 0;
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        return -errno;
    g->base = g->head = p;
    g->head_bytes = n;
    return 0;
}

/* Read as far as it goes: the rest of the addresses is given back, and nobody writes to it. */
static void head_close(struct gguf *g)
{
    uint64_t n = round_up(g->have, IO_ALIGN);

    if (n < g->head_bytes) {
        munmap(g->head + n, (size_t)(g->head_bytes - n));
        g->head_bytes = n;
    }
    (void)mprotect(g->head, (size_t)g->head_bytes, PROT_READ);
}

static int gguf_build(struct gguf **ret, struct source *src, const void *mem, struct errbuf *eb)
{
    struct gguf *g = calloc(1, sizeof *g);
    int r = g ? 0 : -ENOMEM;

    if (r == 0) {
        g->src = src;
        g->bytes = source_bytes(src);
        g->stamp = *source_stamp(src);
        g->base = mem;
        g->have = mem ? g->bytes : 0;
        g->magic = OBJ_MAGIC;
        r = mem ? 0 : head_open(g);
    }
    if (r == 0)
        r = read_all(g, eb);
    if (r == -ENOMEM)
        err_set(eb, r, "no memory for the directory of a file of %llu bytes",
                (unsigned long long)source_bytes(src));
    if (r < 0) {
        if (g)
            g->src = NULL; /* on failure the caller still owns it */
        gguf_close(g);
        return r;
    }
    if (g->head)
        head_close(g);
    *ret = g;
    return 0;
}

int gguf_parse(struct gguf **ret, const void *data, size_t bytes, struct errbuf *eb)
{
    struct source *src = NULL;
    const void *mem = data ? data : "";
    int r = source_memory(&src, mem, bytes);

    if (r < 0)
        return err_set(eb, r, "no memory");
    r = gguf_build(ret, src, mem, eb);
    if (r < 0)
        source_close(src);
    return r;
}

int gguf_open(struct gguf **ret, const char *path, struct errbuf *eb)
{
    struct errbuf why = {""};
    struct source *src = NULL;
    int r = source_open(&src, path, eb);

    if (r < 0)
        return r;
    r = gguf_build(ret, src, NULL, &why);
    if (r < 0) {
        source_close(src);
        return err_set(eb, r, "%s: %s", path, why.s[0] ? why.s : err_str(r));
    }
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    must_be(g, OBJ_MAGIC);
    g->magic = 0;
    for (uint32_t i = 0; i < g->n_kv; i++)
        free(g->kv[i].str_at);
    free(g->kv);
    free(g->tensor);
    free(g->kv_sorted);
    free(g->tensor_sorted);
    if (g->head)
        munmap(g->head, (size_t)g->head_bytes);
    source_close(g->src);
    free(g);
}

int gguf_detach(struct gguf *g, struct errbuf *eb)
{
    must_be(g, OBJ_MAGIC);
    int r = g->src ? source_same(g->src, eb) : 0;
    source_close(g->src);
    g->src = NULL;
    return r;
}

/* --- reading ------------------------------------------------------------------------------- */

int gguf_read(const struct gguf *g, const struct gguf_tensor *t, uint64_t off, void *to,
              uint64_t bytes, struct errbuf *eb)
{
    must_be(g, OBJ_MAGIC);
    must(g->src && off <= t->bytes && bytes <= t->bytes - off);
    return source_read(g->src, t->at + off, to, bytes, eb);
}

uint64_t gguf_bytes(const struct gguf *g)
{
    must_be(g, OBJ_MAGIC);
    return g->bytes;
}

const struct file_stamp *gguf_stamp(const struct gguf *g)
{
    must_be(g, OBJ_MAGIC);
    return &g->stamp;
}

uint32_t gguf_n_tensors(const struct gguf *g)
{
    must_be(g, OBJ_MAGIC);
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint32_t i)
{
    must_be(g, OBJ_MAGIC);
    must(i < g->n_tensors);
    return &g->tensor[i];
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
    struct gguf_str s = {name, strlen(name)};

    must_be(g, OBJ_MAGIC);
    for (uint32_t lo = 0, hi = g->n_tensors; lo < hi;) {
        uint32_t mid = lo + (hi - lo) / 2;
        const struct gguf_tensor *t = &g->tensor[g->tensor_sorted[mid]];
        int d = str_cmp(s, t->name);
        if (d == 0)
            return t;
        if (d < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

static const struct pair *find(const struct gguf *g, const char *key)
{
    struct gguf_str s = {key, strlen(key)};

    must_be(g, OBJ_MAGIC);
    for (uint32_t lo = 0, hi = g->n_kv; lo < hi;) {
        uint32_t mid = lo + (hi - lo) / 2;
        const struct pair *p = &g->kv[g->kv_sorted[mid]];
        int d = str_cmp(s, p->key);
        if (d == 0)
            return p;
        if (d < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

/* One integer of any width; false for other types and for negative values. */
static bool int_at(enum gguf_kv_type type, const uint8_t *v, int64_t *ret_i, uint64_t *ret_u)
{
    int64_t i = 0;

    switch (type) {
    case GGUF_U8: i = v[0]; break;
    case GGUF_I8: i = (int8_t)v[0]; break;
    case GGUF_U16: i = ld16(v); break;
    case GGUF_I16: i = (int16_t)ld16(v); break;
    case GGUF_U32: i = ld32(v); break;
    case GGUF_I32: i = (int32_t)ld32(v); break;
    case GGUF_I64: i = (int64_t)ld64(v); break;
    case GGUF_U64:
        *ret_u = ld64(v);
        *ret_i = *ret_u > INT64_MAX ? INT64_MAX : (int64_t)*ret_u;
        return true;
    default: return false;
    }
    *ret_i = i;
    *ret_u = i < 0 ? 0 : (uint64_t)i;
    return true;
}
static double float_at(enum gguf_kv_type type, const uint8_t *v)
{
    float f = 0;
    double d = 0;

    if (type == GGUF_F64)
        memcpy(&d, v, sizeof d);
    else
        memcpy(&f, v, sizeof f);
    return type == GGUF_F64 ? d : (double)f;
}

bool gguf_u64(const struct gguf *g, const char *key, uint64_t *ret)
{
    const struct pair *p = find(g, key);
    int64_t i = 0;
    uint64_t u = 0;

    if (!p || !int_at(p->type, p->val, &i, &u) || i < 0)
        return false;
    *ret = u;
    return true;
}

bool gguf_f64(const struct gguf *g, const char *key, double *ret)
{
    const struct pair *p = find(g, key);

    if (!p || (p->type != GGUF_F32 && p->type != GGUF_F64))
        return false;
    *ret = float_at(p->type, p->val);
    return true;
}

bool gguf_bool(const struct gguf *g, const char *key, bool *ret)
{
    const struct pair *p = find(g, key);

    if (!p || p->type != GGUF_BOOL)
        return false;
    *ret = p->val[0] == 1;
    return true;
}

bool gguf_str(const struct gguf *g, const char *key, struct gguf_str *ret)
{
    const struct pair *p = find(g, key);

    if (!p || p->type != GGUF_STR)
        return false;
    *ret = (struct gguf_str){(const char *)p->val, p->n};
    return true;
}

int64_t gguf_arr(const struct gguf *g, const char *key, enum gguf_kv_type type)
{
    const struct pair *p = find(g, key);

    return p && p->type == GGUF_ARR && p->elem == (uint8_t)type ? (int64_t)p->n : -1;
}

struct gguf_str gguf_arr_str(const struct gguf *g, const char *key, uint64_t i)
{
    const struct pair *p = find(g, key);

    must(p && p->type == GGUF_ARR && p->elem == GGUF_STR && i < p->n);
    const uint8_t *at = g->base + p->str_at[i];
    return (struct gguf_str){(const char *)at + 8, ld64(at)};
}

double gguf_arr_num(const struct gguf *g, const char *key, uint64_t i)
{
    const struct pair *p = find(g, key);
    int64_t n = 0;
    uint64_t u = 0;

    must(p && p->type == GGUF_ARR && p->elem != GGUF_STR && i < p->n);
    const uint8_t *v = p->val + i * val_bytes[p->elem];
    if (p->elem == GGUF_BOOL)
        return v[0];
    if (p->elem == GGUF_U64)
        return (double)ld64(v);
    return int_at(p->elem, v, &n, &u) ? (double)n : float_at(p->elem, v);
}

uint32_t gguf_n_kv(const struct gguf *g)
{
    must(g != NULL);
    return g->n_kv;
}

struct gguf_str gguf_key_at(const struct gguf *g, uint32_t i, enum gguf_kv_type *ret_type)
{
    must(g != NULL && i < g->n_kv);
    *ret_type = g->kv[i].type;
    return g->kv[i].key;
}
