/* tokfix.h - what the tokenizer and template tests share: model files, made and remade. */
#ifndef TESTS_TOKFIX_H
#define TESTS_TOKFIX_H
#include "base/bytes.h"
#include "engine/chat.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "tests/t.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct blob { /* growable bytes */
    uint8_t *p;
    size_t n, cap;
};

static inline void blob_put(struct blob *b, const void *p, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = (b->n + n) * 2;
        b->p = realloc(b->p, b->cap);
        if (b->p == NULL)
            abort();
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
}
static inline void blob_u32(struct blob *b, uint32_t v)
{
    blob_put(b, &v, 4);
}
static inline void blob_u64(struct blob *b, uint64_t v)
{
    blob_put(b, &v, 8);
}
static inline void blob_str(struct blob *b, const char *p, size_t n)
{
    blob_u64(b, n);
    blob_put(b, p, n);
}
static inline struct blob blob_file(const char *path)
{
    struct blob b = {0};
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return b;
    fseek(f, 0, SEEK_END);
    b.n = b.cap = (size_t)ftell(f);
    rewind(f);
    b.p = malloc(b.n + 1);
    if (b.p == NULL || fread(b.p, 1, b.n, f) != b.n)
        abort();
    fclose(f);
    return b;
}

/* --- a GGUF of metadata alone, built pair by pair -------------------------------------------- */
static inline void meta_begin(struct blob *b)
{
    blob_put(b, "GGUF", 4);
    blob_u32(b, 3);
    blob_u64(b, 0); /* tensors */
    blob_u64(b, 0); /* pairs, counted by meta_key */
}
static inline void meta_key(struct blob *b, const char *key, enum gguf_kv_type type)
{
    st64(b->p + 16, ld64(b->p + 16) + 1);
    blob_str(b, key, strlen(key));
    blob_u32(b, type);
}
static inline void meta_str(struct blob *b, const char *key, const char *v)
{
    meta_key(b, key, GGUF_STR);
    blob_str(b, v, strlen(v));
}
static inline void meta_u32(struct blob *b, const char *key, uint32_t v)
{
    meta_key(b, key, GGUF_U32);
    blob_u32(b, v);
}
static inline void meta_bool(struct blob *b, const char *key, bool v)
{
    uint8_t byte = v;
    meta_key(b, key, GGUF_BOOL);
    blob_put(b, &byte, 1);
}
static inline void meta_arr(struct blob *b, const char *key, enum gguf_kv_type type, uint64_t n)
{
    meta_key(b, key, GGUF_ARR);
    blob_u32(b, type);
    blob_u64(b, n);
}

/* Where a pair's value ends; bytes from a file that gguf.c has accepted. */
static inline const uint8_t *meta_skip(const uint8_t *v, uint32_t type)
{
    static const uint8_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == GGUF_STR)
        return v + 8 + ld64(v);
    if (type != GGUF_ARR)
        return v + size[type];
    uint32_t elem = ld32(v);
    uint64_t n = ld64(v + 4);
    for (v += 12; n; n--)
        v = meta_skip(v, elem);
    return v;
}

/* A copy of a file's metadata, without its tensors, in which string `key` has another value
 * (NULL: taken out). */
static inline struct blob meta_with(const uint8_t *file, const char *key, const char *value)
{
    struct blob b = {0};
    uint64_t n = ld64(file + 16);
    const uint8_t *p = file + 24;
    meta_begin(&b);
    for (; n; n--) {
        const uint8_t *pair = p;
        uint64_t bytes = ld64(p);
        uint32_t type = ld32(p + 8 + bytes);
        bool hit = bytes == strlen(key) && memcmp(p + 8, key, bytes) == 0;
        p = meta_skip(p + 12 + bytes, type);
        if (!hit) {
            blob_put(&b, pair, (size_t)(p - pair));
            st64(b.p + 16, ld64(b.p + 16) + 1);
        } else if (value) {
            meta_str(&b, key, value);
        }
    }
    return b;
}

struct fix { /* a parsed metadata blob and its tokenizer; keep until fix_close */
    struct blob b;
    struct gguf *g;
    struct tokenizer *t;
    struct errbuf eb;
};
static inline int fix_open(struct fix *f, struct blob b)
{
    *f = (struct fix){.b = b};
    int r = gguf_parse(&f->g, b.p, b.n, &f->eb);
    if (r == 0)
        r = tok_open(&f->t, f->g, &f->eb);
    return r;
}
static inline void fix_close(struct fix *f)
{
    tok_close(f->t);
    gguf_close(f->g);
    free(f->b.p);
    *f = (struct fix){0};
}

static inline struct blob test_model(void)
{
    const char *path = getenv("HEARTH_TEST_MODEL");
    if (path == NULL)
        t_skip("HEARTH_TEST_MODEL names no GGUF");
    struct blob b = blob_file(path);
    if (b.p == NULL)
        t_skip("HEARTH_TEST_MODEL cannot be read");
    return b;
}

/* Bytes for a failure message, everything odd as \xNN. */
static inline const char *shown(const char *p, size_t n)
{
    static char s[4][400];
    static int turn;
    char *o = s[turn++ & 3];
    size_t k = 0;
    for (size_t i = 0; i < n && k < 380; i++)
        k += (size_t)snprintf(o + k, 8, p[i] >= 0x20 && p[i] < 0x7f ? "%c" : "\\x%02x",
                              (uint8_t)p[i]);
    o[k] = 0;
    return o;
}

#endif
