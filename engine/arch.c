/* arch.c - the table of families, and reading hyper-parameters with their bounds. */
#include "engine/arch.h"
#include "engine/gguf.h"
#include <stdio.h>
#include <string.h>

static const struct arch_ops *const families[] = {&arch_llama};

enum { FAMILIES = sizeof families / sizeof *families };

/* Text from a file, shown in an error: one line of printable characters. */
static void show(char *to, size_t cap, struct gguf_str s)
{
    size_t n = s.bytes < cap - 1 ? (size_t)s.bytes : cap - 1;

    for (size_t i = 0; i < n; i++)
        to[i] = s.p[i] >= 0x20 && s.p[i] < 0x7f ? s.p[i] : '?';
    to[n] = 0;
}

int arch_find(const struct arch_ops **ret, const struct gguf *g, struct errbuf *eb)
{
    struct gguf_str name;
    char shown[48], known[128] = "";
    uint64_t split = 0;

    if (!gguf_str(g, "general.architecture", &name))
        return err_set(eb, E_CORRUPT, "key general.architecture is missing or not a string");
    if (gguf_u64(g, "split.count", &split) && split > 1)
        return err_set(
            eb, E_UNSUPP,
            "split.count is %llu: the model is in several files, merge them into one",
            (unsigned long long)split);
    for (int i = 0; i < FAMILIES; i++) {
        const char *f = families[i]->name;
        if (name.bytes == strlen(f) && memcmp(name.p, f, strlen(f)) == 0) {
            *ret = families[i];
            return 0;
        }
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", f);
    }
    show(shown, sizeof shown, name);
    return err_set(eb, E_UNSUPP, "general.architecture is '%s', supported: %s", shown, known);
}

static void full_key(char *to, size_t cap, const char *arch, const char *key)
{
    snprintf(to, cap, "%s.%s", arch, key);
}

static bool key_there(const struct gguf *g, const char *key)
{
    for (uint32_t i = 0; i < gguf_n_kv(g); i++) {
        enum gguf_kv_type t;
        struct gguf_str k = gguf_key_at(g, i, &t);
        if (k.bytes == strlen(key) && memcmp(k.p, key, strlen(key)) == 0)
            return true;
    }
    return false;
}

int arch_u32(const struct gguf *g, const char *arch, const char *key, bool optional,
             uint32_t lo, uint32_t hi, uint32_t *ret, struct errbuf *eb)
{
    char k[128];
    uint64_t v = 0;

    full_key(k, sizeof k, arch, key);
    if (!gguf_u64(g, k, &v)) {
        if (key_there(g, k))
            return err_set(eb, E_UNSUPP, "key %s is not a single non-negative integer", k);
        return optional ? 0 : err_set(eb, E_CORRUPT, "key %s is missing", k);
    }
    if (v < lo || v > hi)
        return err_set(eb, E_LIMIT, "%s is %llu, allowed are %u to %u", k,
                       (unsigned long long)v, lo, hi);
    *ret = (uint32_t)v;
    return 0;
}

int arch_f32(const struct gguf *g, const char *arch, const char *key, bool optional, double lo,
             double hi, float *ret, struct errbuf *eb)
{
    char k[128];
    double v = 0;

    full_key(k, sizeof k, arch, key);
    if (!gguf_f64(g, k, &v)) {
        if (key_there(g, k))
            return err_set(eb, E_UNSUPP, "key %s is not a single float", k);
        return optional ? 0 : err_set(eb, E_CORRUPT, "key %s is missing", k);
    }
    if (!(v >= lo && v <= hi)) /* NaN too */
        return err_set(eb, E_LIMIT, "%s is %g, allowed are %g to %g", k, v, lo, hi);
    *ret = (float)v;
    return 0;
}
