/* chat_value.c - memory and values of a template: strings with their masks, lists, dicts
 * (chat_jinja.h). */
#include "base/check.h"
#include "base/clock.h"
#include "engine/chat_jinja.h"
#include <errno.h>
#include <stdlib.h>

struct jchunk {
    struct jchunk *next;
    uint64_t used, size;
};

void *jmem_take(struct jmem *m, uint64_t bytes)
{
    enum { CHUNK = 16384, HEAD = (sizeof(struct jchunk) + 15) & ~15u };
    bytes = (bytes + 15) & ~(uint64_t)15;
    m->over = bytes > m->max - m->used;
    if (m->over)
        return NULL;
    if (m->chunks == NULL || m->chunks->size - m->chunks->used < bytes) {
        uint64_t size = bytes > CHUNK ? bytes : CHUNK;
        struct jchunk *c = calloc(1, HEAD + size);
        if (c == NULL)
            return NULL;
        c->size = size;
        c->next = m->chunks;
        m->chunks = c;
    }
    void *p = (char *)m->chunks + HEAD + m->chunks->used;
    m->chunks->used += bytes;
    m->used += bytes;
    return p;
}

void jmem_fini(struct jmem *m)
{
    while (m->chunks) {
        struct jchunk *next = m->chunks->next;
        free(m->chunks);
        m->chunks = next;
    }
    m->used = 0;
}

struct jval jfail(struct jeval *j, int code, const char *fmt, ...)
{
    char why[300];
    va_list ap;
    if (j->err == 0) {
        va_start(ap, fmt);
        vsnprintf(why, sizeof why, fmt, ap);
        va_end(ap);
        j->err = err_set(j->eb, code, "the chat template, line %u: %s", j->line, why);
    }
    return (struct jval){0};
}

struct jval jnomem(struct jeval *j)
{
    if (!j->mem.over)
        return jfail(j, -ENOMEM, "out of memory");
    return jfail(j, E_LIMIT, "more than %llu bytes of text on the way",
                 (unsigned long long)j->mem.max);
}

struct jval jval_str(struct jstr s)
{
    return (struct jval){J_STR, {.s = s}};
}

struct jval jval_int(int64_t i)
{
    return (struct jval){J_INT, {.i = i}};
}

struct jval jval_bool(bool b)
{
    return (struct jval){J_BOOL, {.i = b}};
}

struct jstr jtext(const char *s)
{
    return (struct jstr){s, NULL, strlen(s)};
}

bool jstr_is(struct jstr s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

bool jtrue(struct jval v)
{
    switch (v.kind) {
    case J_UNDEF:
    case J_NONE: return false;
    case J_BOOL:
    case J_INT: return v.i != 0;
    case J_STR: return v.s.n != 0;
    case J_LIST: return v.list->n != 0;
    case J_DICT: return v.dict->space || v.dict->n != 0;
    case J_CALL: return true;
    }
    return false;
}

bool jwork(struct jeval *j, uint64_t n)
{
    if (j->err)
        return false;
    if (n > j->work_max - j->work) {
        jfail(j, E_LIMIT, "more than %llu bytes are copied, compared or searched",
              (unsigned long long)j->work_max);
        return false;
    }
    j->work += n;
    if (j->work < j->look_at)
        return true;
    j->look_at = j->work + (1u << 20);
    if (now_ns() < j->until_ns)
        return true;
    jfail(j, E_LIMIT, "it takes longer than %u ms",
          j->vars->wall_ms ? j->vars->wall_ms : JINJA_WALL_MS_MAX);
    return false;
}

/* A namespace may hold itself, and lists of lists of lists may be exponentially larger than
 * their memory: every pair that is looked at costs, and depth ends a circle. */
static bool equal_at(struct jeval *j, struct jval a, struct jval b, uint32_t depth)
{
    bool num_a = a.kind == J_INT || a.kind == J_BOOL,
         num_b = b.kind == J_INT || b.kind == J_BOOL;
    if (!jwork(j, sizeof a))
        return false;
    if (num_a && num_b)
        return a.i == b.i;
    if (a.kind != b.kind)
        return false;
    if (depth == JINJA_DEPTH_MAX) {
        jfail(j, E_LIMIT, "values nested deeper than %d are compared", JINJA_DEPTH_MAX);
        return false;
    }
    switch (a.kind) {
    case J_UNDEF:
    case J_NONE: return true;
    case J_STR:
        return a.s.n == b.s.n && jwork(j, a.s.n) &&
               (a.s.n == 0 || memcmp(a.s.p, b.s.p, a.s.n) == 0);
    case J_LIST:
        if (a.list->n != b.list->n)
            return false;
        for (uint64_t i = 0; i < a.list->n; i++)
            if (!equal_at(j, a.list->v[i], b.list->v[i], depth + 1))
                return false;
        return true;
    case J_DICT:
        if (a.dict->n != b.dict->n)
            return false;
        for (uint32_t i = 0; i < a.dict->n; i++) {
            struct jval *v = jdict_at(j, b.dict, a.dict->key[i]);
            if (v == NULL || !equal_at(j, a.dict->v[i], *v, depth + 1))
                return false;
        }
        return true;
    default: return false;
    }
}

bool jequal(struct jeval *j, struct jval a, struct jval b)
{
    return equal_at(j, a, b, 0) && j->err == 0;
}

/* --- strings -------------------------------------------------------------------------------- */
struct jstr jstr_room(struct jeval *j, uint64_t n, char **ret_p, uint8_t **ret_mask)
{
    char *p = jwork(j, 2 * n) ? jmem_take(&j->mem, 2 * n + 1) : NULL;
    if (p == NULL) {
        jnomem(j);
        return (struct jstr){0};
    }
    *ret_p = p;
    *ret_mask = (uint8_t *)p + n;
    return (struct jstr){p, (uint8_t *)p + n, n};
}

static void mask_copy(uint8_t *to, struct jstr s)
{
    if (s.n == 0)
        return;
    if (s.mask)
        memcpy(to, s.mask, s.n);
    else
        memset(to, 1, s.n);
}

struct jstr jstr_cat(struct jeval *j, struct jstr a, struct jstr b)
{
    char *p;
    uint8_t *mask;
    if (a.n == 0 || b.n == 0)
        return a.n ? a : b;
    struct jstr s = jstr_room(j, a.n + b.n, &p, &mask);
    if (s.p == NULL)
        return s;
    memcpy(p, a.p, a.n);
    memcpy(p + a.n, b.p, b.n);
    mask_copy(mask, a);
    mask_copy(mask + a.n, b);
    return s;
}

struct jstr jstr_cut(struct jstr s, uint64_t from, uint64_t to)
{
    must(from <= to && to <= s.n);
    return (struct jstr){s.p + from, s.mask ? s.mask + from : NULL, to - from};
}

uint64_t jstr_chars(struct jeval *j, struct jstr s)
{
    uint64_t n = 0;
    if (!jwork(j, s.n))
        return 0;
    for (uint64_t i = 0; i < s.n; i++)
        n += (s.p[i] & 0xc0) != 0x80;
    return n;
}

uint64_t jstr_at(struct jstr s, uint64_t chars)
{
    uint64_t i = 0;
    for (; i < s.n; i++)
        if ((s.p[i] & 0xc0) != 0x80 && chars-- == 0)
            break;
    return i;
}

/* --- lists and dicts -------------------------------------------------------------------------- */
struct jval jlist_new(struct jeval *j, uint64_t n)
{
    struct jlist *l = jmem_take(&j->mem, sizeof *l);
    if (n > JINJA_STEPS_MAX)
        return jfail(j, E_LIMIT, "a list of %llu items, at most %d", (unsigned long long)n,
                     JINJA_STEPS_MAX);
    struct jval *v =
        l && jwork(j, n * sizeof *v) ? jmem_take(&j->mem, n * sizeof *v + 1) : NULL;
    if (v == NULL)
        return jnomem(j);
    *l = (struct jlist){v, n};
    return (struct jval){J_LIST, {.list = l}};
}

struct jval jdict_new(struct jeval *j)
{
    struct jdict *d = jmem_take(&j->mem, sizeof *d);
    if (d == NULL)
        return jnomem(j);
    return (struct jval){J_DICT, {.dict = d}};
}

struct jval *jdict_at(struct jeval *j, struct jdict *d, struct jstr key)
{
    if (!jwork(j, d->n * (uint64_t)sizeof *d->key + key.n))
        return NULL;
    for (uint32_t i = 0; i < d->n; i++)
        if (d->key[i].n == key.n && memcmp(d->key[i].p, key.p, key.n) == 0)
            return &d->v[i];
    return NULL;
}

bool jdict_put(struct jeval *j, struct jdict *d, struct jstr key, struct jval v)
{
    struct jval *at = jdict_at(j, d, key);
    if (at) {
        *at = v;
        return true;
    }
    if (j->err)
        return false;
    if (d->n == d->cap) {
        uint32_t cap = d->cap ? d->cap * 2 : 8;
        struct jstr *k = jmem_take(&j->mem, cap * sizeof *k);
        struct jval *n = jmem_take(&j->mem, cap * sizeof *n);
        if (k == NULL || n == NULL) {
            jnomem(j);
            return false;
        }
        if (d->n) {
            memcpy(k, d->key, d->n * sizeof *k);
            memcpy(n, d->v, d->n * sizeof *n);
        }
        d->key = k;
        d->v = n;
        d->cap = cap;
    }
    d->key[d->n] = key;
    d->v[d->n++] = v;
    return true;
}

struct jstr jval_print(struct jeval *j, struct jval v)
{
    char digits[24], *p;
    uint8_t *mask;
    switch (v.kind) {
    case J_UNDEF: return (struct jstr){"", NULL, 0};
    case J_NONE: return jtext("None");
    case J_BOOL: return jtext(v.i ? "True" : "False");
    case J_STR: return v.s;
    case J_INT: break;
    default: jfail(j, E_UNSUPP, "writing out a list or an object"); return (struct jstr){0};
    }
    uint64_t n = (uint64_t)snprintf(digits, sizeof digits, "%lld", (long long)v.i);
    struct jstr s = jstr_room(j, n, &p, &mask);
    if (s.p) {
        memcpy(p, digits, n);
        memset(mask, 1, n);
    }
    return s;
}

/* Python's slice bounds for a sequence of n. */
static int64_t bound_of(struct jeval *j, struct jval v, int64_t n, int64_t missing, int64_t low,
                        int64_t high)
{
    if (v.kind == J_UNDEF || v.kind == J_NONE)
        return missing;
    if (v.kind != J_INT) {
        jfail(j, -EINVAL, "a slice bound that is not a number");
        return missing;
    }
    int64_t i = v.i < 0 ? v.i + n : v.i;
    return i < low ? low : i > high ? high : i;
}

struct jval jslice(struct jeval *j, struct jval of, struct jval from, struct jval to,
                   struct jval step)
{
    int64_t by = step.kind == J_INT ? step.i : 1;
    if (by == 0 || by < -JINJA_STEPS_MAX || by > JINJA_STEPS_MAX)
        return jfail(j, -EINVAL, "a slice with step %lld", (long long)by);
    if (of.kind == J_STR) {
        int64_t n = (int64_t)jstr_chars(j, of.s);
        if (by != 1)
            return jfail(j, E_UNSUPP, "a slice of a string with a step");
        if (!jwork(j, 2 * of.s.n))
            return (struct jval){0};
        int64_t a = bound_of(j, from, n, 0, 0, n), b = bound_of(j, to, n, n, 0, n);
        if (b < a)
            b = a;
        return jval_str(jstr_cut(of.s, jstr_at(of.s, (uint64_t)a), jstr_at(of.s, (uint64_t)b)));
    }
    if (of.kind != J_LIST)
        return jfail(j, -EINVAL, "a slice of something that has no order");
    int64_t n = (int64_t)of.list->n, count = 0;
    int64_t low = by < 0 ? -1 : 0, high = by < 0 ? n - 1 : n;
    int64_t a = bound_of(j, from, n, by < 0 ? n - 1 : 0, low, high);
    int64_t b = bound_of(j, to, n, by < 0 ? -1 : n, low, high);
    for (int64_t i = a; by > 0 ? i < b : i > b; i += by)
        count++;
    struct jval l = jlist_new(j, (uint64_t)count);
    if (l.kind == J_LIST)
        for (int64_t k = 0; k < count; k++)
            l.list->v[k] = of.list->v[a + k * by];
    return l;
}
