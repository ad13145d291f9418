/* modelfile.c - see modelfile.h. */
#include "daemon/modelfile.h"
#include "base/bytes.h"
#include "base/dirlist.h"
#include "base/text.h"
#include "engine/gguf.h"
#include "engine/source.h"
#include "engine/weights.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

int modelfile_named(const struct dirent *e)
{
    size_t n = strlen(e->d_name);

    return e->d_name[0] != '.' && n > 5 && n - 5 <= NAME_BYTES_MAX &&
           strcasecmp(e->d_name + n - 5, ".gguf") == 0;
}

int modelfile_unreadable(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    struct stat st;

    if (lstat(path, &st) < 0)
        return -1;
    if (text_bad(name, strlen(name)) != strlen(name)) /* nobody could ask for it */
        return EILSEQ;
    if (stat(path, &st) < 0)
        return errno;
    return S_ISDIR(st.st_mode)      ? EISDIR
           : !S_ISREG(st.st_mode)   ? EINVAL
           : access(path, R_OK) < 0 ? errno
                                    : 0;
}

const char *modelfile_why(int why)
{
    return why == EINVAL   ? "not a regular file"
           : why == EILSEQ ? "its name is not UTF-8, rename it"
                           : strerror(why);
}

static bool arch_u64(const struct gguf *g, const char *arch, const char *key, uint64_t *ret)
{
    char name[128];

    snprintf(name, sizeof name, "%s.%s", arch, key);
    return gguf_u64(g, name, ret);
}

/* Any file is named .gguf easily: a half download, a page of HTML, a pointer of git's. */
static int begins_right(const char *path, struct errbuf *eb)
{
    unsigned char b[4] = {0};
    char hex[24] = "", text[8] = "";
    struct source *s = NULL;
    struct errbuf why = {""};
    int r = source_open(&s, path, eb);

    if (r < 0)
        return r;
    size_t n = source_bytes(s) < sizeof b ? (size_t)source_bytes(s) : sizeof b;
    r = source_read(s, 0, b, n, &why);
    source_close(s);
    if (r < 0)
        return err_set(eb, r, "%s: %s", path, why.s);
    if (n == sizeof b && memcmp(b, "GGUF", 4) == 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        snprintf(hex + 3 * i, 4, "%02x ", b[i]);
        text[i] = b[i] >= ' ' && b[i] < 127 ? (char)b[i] : '.';
    }
    if (n == 0)
        return err_set(eb, E_CORRUPT, "%s: not a GGUF file (it is empty); get it again", path);
    return err_set(eb, E_CORRUPT,
                   "%s: not a GGUF file (it begins with \"%s\", %.*s); get it again, or "
                   "convert it to GGUF",
                   path, text, (int)strlen(hex) - 1, hex);
}

int modelfile_read(const char *path, struct modelfile *ret, struct errbuf *eb)
{
    struct modelfile f = {0};
    struct gguf *g;
    struct gguf_str s;
    char arch[64];
    uint64_t layers, heads, kv_heads, embd, k, v, n;
    int r = begins_right(path, eb);

    if (r == 0)
        r = gguf_open(&g, path, eb);
    if (r < 0)
        return r;
    f.file_bytes = gguf_bytes(g);
    f.weight_bytes = weights_need(g, &kern_cpu);
    if (gguf_str(g, "general.architecture", &s) && s.bytes < sizeof arch) {
        memcpy(arch, s.p, s.bytes);
        arch[s.bytes] = 0;
        (void)arch_u64(g, arch, "context_length", &f.context);
        if (arch_u64(g, arch, "block_count", &layers) &&
            arch_u64(g, arch, "attention.head_count", &heads) && heads &&
            arch_u64(g, arch, "embedding_length", &embd)) {
            kv_heads = heads;
            (void)arch_u64(g, arch, "attention.head_count_kv", &kv_heads);
            k = v = embd / heads;
            (void)arch_u64(g, arch, "attention.key_length", &k);
            (void)arch_u64(g, arch, "attention.value_length", &v);
            /* The numbers are the file's: an absurd product is no estimate at all. */
            if (add_ok(k, v, &n) && mul_ok(n, 2, &n) && mul_ok(n, kv_heads, &n) &&
                mul_ok(n, layers, &n) && n < (uint64_t)1 << 40)
                f.token_bytes = n;
        }
    }
    gguf_close(g);
    *ret = f;
    return 0;
}

static uint64_t context_bytes(const struct modelfile *f, const struct conf_model *o)
{
    uint64_t ctx = f->context ? f->context : 4096, n;

    if (o->context && o->context < ctx)
        ctx = o->context;
    if (ctx > CTX_TOKENS_MAX)
        ctx = CTX_TOKENS_MAX;
    ctx = (ctx + BLOCK_TOKENS - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
    return mul_ok(ctx, f->token_bytes, &n) ? n : 0;
}

uint64_t modelfile_pages(const struct modelfile *f, const struct conf_model *o, uint64_t ram)
{
    uint64_t one = context_bytes(f, o), n;

    if (o->page_bytes)
        return o->page_bytes;
    if (!one)
        return ram / 4;
    if (!mul_ok(one, 4, &n) || n > ram / 4)
        n = ram / 4;
    if (n < one)
        n = one <= ram / 2 ? one : ram / 2;
    return n;
}

uint64_t modelfile_need(const struct modelfile *f)
{
    uint64_t n;

    /* Scratch, head and tokenizer are small beside the weights of any large model. */
    return add_ok(f->weight_bytes, f->weight_bytes / 16, &n) && add_ok(n, 32 << 20, &n)
               ? n
               : UINT64_MAX;
}

int modelfile_fits(const struct modelfile *f, const struct conf_model *o, uint64_t available,
                   uint64_t promised, uint64_t *pages, struct errbuf *eb)
{
    uint64_t weights = modelfile_need(f), one = context_bytes(f, o), all;
    uint64_t room = available > promised ? available - promised : 0;
    uint64_t least = !o->page_bytes && one && one < *pages ? one : *pages;
    char others[96] = "";

    if (!available || (add_ok(weights, *pages, &all) && all <= room))
        return 0;
    if (add_ok(weights, least, &all) && all <= room) {
        *pages = least;
        return 0;
    }
    if (promised)
        snprintf(others, sizeof others, ", of which %.1f GiB are promised to other models",
                 (double)promised / 0x1p30);
    return err_set(eb, -ENOMEM,
                   "needs about %.1f GiB for weights and %.1f GiB for KV pages, %.1f GiB are "
                   "available%s; unload another model, or lower context or page-memory",
                   (double)weights / 0x1p30, (double)least / 0x1p30, (double)available / 0x1p30,
                   others);
}

cJSON *modelfile_sampling(const struct gguf *g, const struct conf_model *o)
{
    const struct {
        const char *name, *key;
        double set, otherwise; /* what llama.cpp's users expect */
    } m[] = {{"temperature", "general.sampling.temp", o->temperature, 0.8},
             {"top_k", "general.sampling.top_k", o->top_k, 40},
             {"top_p", "general.sampling.top_p", o->top_p, 0.95},
             {"min_p", "general.sampling.min_p", o->min_p, 0.05},
             {"repeat_penalty", "general.sampling.penalty_repeat", o->repeat_penalty, 1}};
    cJSON *j = cJSON_CreateObject();

    for (size_t i = 0; j && i < sizeof m / sizeof *m; i++) {
        double v = m[i].set;
        uint64_t u;

        if (isnan(v) && g && !gguf_f64(g, m[i].key, &v) && gguf_u64(g, m[i].key, &u))
            v = (double)u;
        cJSON_AddNumberToObject(j, m[i].name, isfinite(v) ? v : m[i].otherwise);
    }
    return j;
}

static bool is_of(const char *name, const char *file)
{
    size_t n = strlen(name);

    return strncmp(file, name, n) == 0 && strcasecmp(file + n, ".gguf") == 0;
}

static int is_it(void *ctx, const char *file)
{
    return is_of(ctx, file);
}

/* Where it could not be listed to the end it may be there: nothing is said against it. */
static bool lies_there(const char *dir, const char *name)
{
    int r = dir_list(dir, is_it, (void *)name);

    return r == 1 || (r < 0 && r != -ENOENT && r != -ENOTDIR);
}

int modelfile_check(const struct conf *c, struct errbuf *warn, struct errbuf *eb)
{
    for (uint32_t i = 0; i < c->n_models; i++) {
        const struct conf_model *m = &c->model[i];
        struct modelfile f;
        struct errbuf why = {""};
        int r = m->path ? modelfile_read(m->path, &f, &why) : 0;

        if (r < 0)
            return err_set(eb, r, "model %s: %s", m->name, why.s);
        if (!m->path && !lies_there(c->models, m->name))
            err_set(warn, -ENOENT, "[model %s] has no path and %s has no such file", m->name,
                    c->models);
    }
    return 0;
}
