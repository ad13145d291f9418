/* conf.c - see conf.h.
 *
 * Texts are gathered first (file, environment, flags), each with the words that say where it
 * came from; then every row is applied from the weakest source to the strongest, so that a
 * bad value is refused even where a better source would have hidden it. */
#include "daemon/conf.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/confrow.h"
#include "daemon/ini.h"
#include "daemon/units.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* ---- the table -------------------------------------------------------------------------- */
#define C(member) false, offsetof(struct conf, member)
#define M(member) false, offsetof(struct conf_model, member)
#define W(member) true, offsetof(struct raw_conf, member)
static const struct row rows[] = {
    {"config", T_PATH, 0, W(config), NULL, 0, 0, NULL, "INI file with the keys below"},
    {"state", T_PATH, 0, C(state), NULL, 0, 0, NULL, "the store: sessions, blocks, index"},
    {"runtime", T_PATH, 0, C(runtime), NULL, 0, 0, NULL, "sockets and http.port, 0700"},
    {"model", T_MODEL, 0, C(model), NULL, 0, 0, NULL,
     "[NAME=]PATH of a GGUF file, loaded at start; repeatable, the first is the default"},
    {"models", T_PATH, 0, C(models), NULL, 0, 0, NULL,
     "every *.gguf in it is known by its name"},
    {"host-memory", T_SHARE, 0, W(host), "25%", 16 << 20, 0, NULL,
     "host tier: blocks kept in RAM between device and disk"},
    {"disk", T_SHARE, 0, W(disk), "20%", 4 << 20, 0x1p50, NULL,
     "limit of the store on disk; % is of what is free plus what it has"},
    {"write-budget", T_SHARE, 0, W(day), "none", 0, 0x1p50, NULL,
     "bytes the store writes a day, or none; past it no blocks, turns always"},
    {"page-memory", T_SIZE, R_MODEL, M(page_bytes), "auto", 1 << 20, 0x1p42, NULL,
     "KV pages on the device, per model; auto: four contexts, at most a quarter of RAM"},
    {"threads", T_UINT, R_MODEL, M(threads), "0", 0, 1024, NULL,
     "threads that compute; 0: physical cores"},
    {"context", T_UINT, R_MODEL, M(context), "0", 0, CTX_TOKENS_MAX, NULL,
     "longest context in tokens; 0: the model's own"},
    {"device", T_WORD, 0, C(device), "auto", 0, 0, "auto cpu cuda:", "where models run"},
    {"io", T_ENUM, 0, W(io), "auto", 0, 0, "auto uring threads", "how blocks reach the disk"},
    {"http", T_HTTP, 0, W(http), "127.0.0.1:8765", 0, 0, NULL,
     "ADDR:PORT of the OpenAI-compatible front, or off"},
    {"http-any-port", T_BOOL, 0, C(http_any_port), "false", 0, 0, NULL,
     "when another user has that port: take the next free one instead of ending"},
    {"http-origin", T_ORIGINS, 0, C(http_origin), NULL, 0, 0, NULL,
     "web pages that may ask over HTTP, beside this machine's"},
    {"api-key-file", T_PATH, 0, C(api_key_file), NULL, 0, 0, NULL,
     "keys that let HTTP clients of other users in, one a line"},
    {"keep-alive", T_DURATION, R_MODEL, M(keep_alive_s), "-1", 0, 0, NULL,
     "an idle model is unloaded after this; 0: at once, -1: never"},
    {"no-front", T_BOOL, 0, C(no_front), "false", 0, 0, NULL,
     "start no hearth-front (a service manager does, or nobody)"},
    {"system", T_BOOL, 0, C(system), "false", 0, 0, NULL,
     "one daemon for the machine: /run/hearth, /var/lib/hearth, socket for a group, no front"},
    {"socket-mode", T_MODE, 0, W(socket_mode), "auto", 0, 0, NULL,
     "rights of core.sock; auto: 0600, with --system 0660"},
    {"log-level", T_ENUM, 0, W(log_level), "info", 0, 0, "error warn info debug",
     "what is logged"},
    {"anonymous-expire", T_DURATION, 0, C(anonymous_expire_s), "7d", 0, 0, NULL,
     "sessions without a name are removed this long after their last use; -1: never"},
    {"step-tokens", T_UINT, 0, C(step_tokens), "512", 16, STEP_TOKENS_MAX, NULL,
     "most prompt tokens in one step: what a newcomer may have to wait for"},
    {"step-goal", T_UINT, 0, C(step_goal_ms), "60", 5, 10000, NULL,
     "milliseconds a step should take while somebody is being answered"},
    {"stop-timeout", T_UINT, 0, C(stop_timeout_s), "60", 1, 3600, NULL,
     "seconds a graceful stop may take"},
    {"temperature", T_NUM, R_ONLY_MODEL, M(temperature), NULL, 0, 100, NULL,
     "default sampling of this model"},
    {"top-k", T_NUM, R_ONLY_MODEL, M(top_k), NULL, 0, 1 << 20, NULL, "same"},
    {"top-p", T_NUM, R_ONLY_MODEL, M(top_p), NULL, 0, 1, NULL, "same"},
    {"min-p", T_NUM, R_ONLY_MODEL, M(min_p), NULL, 0, 1, NULL, "same"},
    {"repeat-penalty", T_NUM, R_ONLY_MODEL, M(repeat_penalty), NULL, 0, 100, NULL, "same"},
    {"path", T_PATH, R_ONLY_MODEL, M(path), NULL, 0, 0, NULL, "the GGUF file of this section"},
    {"front", T_PATH, R_DIAG, C(front), NULL, 0, 0, NULL,
     "hearth-front program; default: beside hearthd"},
    {"no-fsync", T_BOOL, R_DIAG, C(no_fsync), "false", 0, 0, NULL,
     "acknowledge without the disk's word: benchmarks only, a power cut loses turns"},
    {"plain-c", T_BOOL, R_DIAG, C(plain_c), "false", 0, 0, NULL,
     "kernels in plain C even where AVX2 exists"},
    {"wrong-order", T_ENUM, R_DIAG, W(wrong), "none", 0, 0, "none index-first ack-first",
     "a durability order known to lose data: proves that the tests see it"},
};
#undef C
#undef M
#undef W
enum { ROWS = sizeof rows / sizeof *rows };

struct named { /* one --model, HEARTH_MODEL, or `model =` */
    char *s, *dir;
    char where[160];
};
struct section {
    char name[NAME_BYTES_MAX + 1];
    struct text t[ROWS];
};
struct gather {
    const char *(*env)(const char *);
    struct text file[ROWS], envv[ROWS], flag[ROWS];
    struct section section[MODELS_MAX];
    uint32_t n_sections;
    int32_t section_now;               /* -1: global */
    struct named named[3][MODELS_MAX]; /* by source: flag, environment, file */
    uint32_t n_named[3];
    char *file_dir;
};
enum { BY_FLAG, BY_ENV, BY_FILE };
/* A percentage of nearly nothing: the store then says what it lacks better than a limit. */
enum { SHARE_LEAST = 64 << 20 };

static const char *env_real(const char *name)
{
    return getenv(name);
}

static const struct row *row_find(const char *name)
{
    for (size_t i = 0; i < ROWS; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

/* where: NULL, or the place in a file. */
static int unknown(const char *where, const char *kind, const char *name, bool in_model,
                   struct errbuf *eb)
{
    const char *list[ROWS], *colon = where ? ": " : "";
    uint32_t n = 0;

    where = where ? where : "";
    for (size_t i = 0; i < ROWS; i++)
        if (in_model ? rows[i].flags & (R_MODEL | R_ONLY_MODEL)
                     : !(rows[i].flags & R_ONLY_MODEL))
            list[n++] = rows[i].name;
    const char *near = units_nearest(name, list, n);
    if (near)
        return err_set(eb, -EINVAL, "%s%sunknown %s \"%.60s\"; did you mean \"%s\"?", where,
                       colon, kind, name, near);
    return err_set(eb, -EINVAL, "%s%sunknown %s \"%.60s\" (hearthd --help lists them all)",
                   where, colon, kind, name);
}

static int text_set(struct text *t, const char *s, const char *where)
{
    char *p = strdup(s);

    if (!p)
        return -ENOMEM;
    free(t->s);
    t->s = p;
    snprintf(t->where, sizeof t->where, "%s", where);
    return 0;
}

static int named_add(struct gather *g, int by, const char *s, const char *dir,
                     const char *where, struct errbuf *eb)
{
    if (g->n_named[by] == MODELS_MAX)
        return err_set(eb, -EINVAL, "%s: more than %d models", where, MODELS_MAX);
    struct named *n = &g->named[by][g->n_named[by]];
    n->s = strdup(s);
    n->dir = dir ? strdup(dir) : NULL;
    if (!n->s || (dir && !n->dir)) {
        free(n->s);
        return err_set(eb, -ENOMEM, "no memory");
    }
    snprintf(n->where, sizeof n->where, "%s", where);
    g->n_named[by]++;
    return 0;
}

static void gather_fini(struct gather *g)
{
    for (size_t i = 0; i < ROWS; i++) {
        free(g->file[i].s);
        free(g->envv[i].s);
        free(g->flag[i].s);
        for (uint32_t k = 0; k < g->n_sections; k++)
            free(g->section[k].t[i].s);
    }
    for (int by = 0; by < 3; by++)
        for (uint32_t i = 0; i < g->n_named[by]; i++) {
            free(g->named[by][i].s);
            free(g->named[by][i].dir);
        }
    free(g->file_dir);
}

/* ---- gathering: flags ------------------------------------------------------------------- */
static int gather_flags(struct gather *g, struct conf *c, int argc, char *const *argv,
                        struct errbuf *eb)
{
    char name[64], where[160];
    int r = 0;

    for (int i = 1; i < argc && r == 0; i++) {
        const char *a = argv[i], *eq, *value = NULL;

        if (strcmp(a, "-h") == 0 || strcmp(a, "--help") == 0) {
            c->does = CONF_HELP;
            return 0;
        }
        if (strcmp(a, "--version") == 0) {
            c->does = CONF_VERSION;
            return 0;
        }
        if (strcmp(a, "--check-config") == 0) {
            c->does = CONF_CHECK;
            continue;
        }
        if (strncmp(a, "--", 2) != 0 || !a[2])
            return err_set(eb, -EINVAL,
                           "unexpected argument \"%.60s\"; settings are --name value", a);
        eq = strchr(a, '=');
        snprintf(name, sizeof name, "%.*s", eq ? (int)(eq - a - 2) : 63, a + 2);
        value = eq ? eq + 1 : NULL;
        snprintf(where, sizeof where, "--%s", name);
        const struct row *row = row_find(name);
        if (!row || row->flags & R_ONLY_MODEL)
            return unknown(NULL, "flag", name, false, eb);
        if (!value && row->type == T_BOOL)
            value = "true";
        if (!value && i + 1 < argc)
            value = argv[++i];
        if (!value)
            return err_set(eb, -EINVAL, "%s: wants a value", where);
        r = row->type == T_MODEL ? named_add(g, BY_FLAG, value, NULL, where, eb)
                                 : text_set(&g->flag[row - rows], value, where);
    }
    return r;
}

/* ---- gathering: environment ------------------------------------------------------------- */
static void env_name(const struct row *row, char ret[64])
{
    size_t n = (size_t)snprintf(ret, 64, "HEARTH_");

    for (const char *p = row->name; *p; p++)
        ret[n++] = *p == '-' ? '_' : (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
    ret[n] = 0;
}

uint32_t confrow_env(char ret[CONF_ROWS_MAX][64])
{
    uint32_t n = 0;

    _Static_assert((int)ROWS <= (int)CONF_ROWS_MAX, "a name for each row");
    for (size_t i = 0; i < ROWS; i++)
        if (!(rows[i].flags & R_ONLY_MODEL))
            env_name(&rows[i], ret[n++]);
    return n;
}

static int gather_env(struct gather *g, struct errbuf *eb)
{
    int r = 0;

    for (size_t i = 0; i < ROWS && r == 0; i++) {
        char name[64];

        if (rows[i].flags & R_ONLY_MODEL)
            continue;
        env_name(&rows[i], name);
        const char *v = g->env(name);
        if (!v || !*v)
            continue;
        r = rows[i].type == T_MODEL ? named_add(g, BY_ENV, v, NULL, name, eb)
                                    : text_set(&g->envv[i], v, name);
    }
    return r;
}

/* ---- gathering: the file ---------------------------------------------------------------- */
static int section_begin(struct gather *g, const struct ini_line *l, struct errbuf *eb)
{
    const char *name = l->section;

    g->section_now = -1;
    if (strcmp(name, "hearthd") == 0)
        return 0;
    if (strncmp(name, "model", 5) != 0 || (name[5] != ' ' && name[5] != '\t'))
        return err_set(eb, -EINVAL,
                       "%s:%u: unknown section [%.60s]; there are [hearthd] and "
                       "[model NAME]",
                       l->file, l->line, name);
    name += 5;
    name += strspn(name, " \t");
    if (!*name || strlen(name) > NAME_BYTES_MAX)
        return err_set(eb, -EINVAL, "%s:%u: [model NAME]: want a name of 1 to %d bytes",
                       l->file, l->line, NAME_BYTES_MAX);
    for (uint32_t i = 0; i < g->n_sections; i++)
        if (strcmp(g->section[i].name, name) == 0)
            return err_set(eb, -EINVAL, "%s:%u: section [model %.60s] is there twice", l->file,
                           l->line, name);
    if (g->n_sections == MODELS_MAX)
        return err_set(eb, -EINVAL, "%s:%u: more than %d model sections", l->file, l->line,
                       MODELS_MAX);
    g->section_now = (int32_t)g->n_sections;
    snprintf(g->section[g->n_sections++].name, sizeof g->section[0].name, "%s", name);
    return 0;
}

static int file_line(void *ctx, const struct ini_line *l, struct errbuf *eb)
{
    struct gather *g = ctx;
    const struct row *row;
    struct text *t;
    char where[160];

    if (!l->key)
        return section_begin(g, l, eb);
    snprintf(where, sizeof where, "%.*s:%u", (int)sizeof where - 16, l->file, l->line);
    bool in_model = g->section_now >= 0;
    row = row_find(l->key);
    if (!row ||
        (in_model ? !(row->flags & (R_MODEL | R_ONLY_MODEL)) : row->flags & R_ONLY_MODEL)) {
        if (row && in_model)
            return err_set(eb, -EINVAL,
                           "%s: \"%s\" belongs before the sections, not into a model's", where,
                           l->key);
        if (row)
            return err_set(eb, -EINVAL, "%s: \"%s\" belongs into a [model NAME] section", where,
                           l->key);
        return unknown(where, "key", l->key, in_model, eb);
    }
    if (strcmp(row->name, "config") == 0)
        return err_set(eb, -EINVAL, "%s: \"config\" cannot be set in a configuration file",
                       where);
    if (row->type == T_MODEL)
        return named_add(g, BY_FILE, l->value, g->file_dir, where, eb);
    t = in_model ? &g->section[g->section_now].t[row - rows] : &g->file[row - rows];
    if (t->s)
        return err_set(eb, -EINVAL, "%s: \"%s\" was set already at %s", where, l->key,
                       t->where);
    return text_set(t, l->value, where);
}

static int file_read(struct gather *g, const char *path, struct errbuf *eb)
{
    char *text = NULL;
    FILE *f = fopen(path, "re");
    int r;

    if (!f)
        return err_set(eb, -errno, "configuration %s: %s", path, strerror(errno));
    text = malloc(INI_BYTES_MAX + 1);
    size_t n = text ? fread(text, 1, INI_BYTES_MAX + 1, f) : 0;
    if (!text)
        r = err_set(eb, -ENOMEM, "configuration %s: no memory", path);
    else if (ferror(f))
        r = err_set(eb, -EIO, "configuration %s: cannot be read", path);
    else
        r = 0;
    fclose(f);
    if (r == 0) {
        const char *slash = strrchr(path, '/');

        g->file_dir = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
        g->section_now = -1;
        r = ini_parse(path, text, n, file_line, g, eb);
    }
    free(text);
    return r;
}

/* ---- putting it together ------------------------------------------------------------------ */
/* A model-level row for one model: default < file < section < environment < flag. */
static int put_model(struct conf_model *m, const struct gather *g, const struct section *s,
                     struct errbuf *eb)
{
    m->temperature = m->top_k = m->top_p = m->min_p = m->repeat_penalty = NAN;
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        struct text def = {(char *)(uintptr_t)row->def, "default"};
        const struct text *from[] = {&def, &g->file[i], s ? &s->t[i] : NULL, &g->envv[i],
                                     &g->flag[i]};

        if (!(row->flags & (R_MODEL | R_ONLY_MODEL)))
            continue;
        for (size_t k = 0; k < 5; k++) {
            if (!from[k] || !from[k]->s)
                continue;
            int r = confvalue_put(m, row, from[k], k <= 2 ? g->file_dir : NULL, eb);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int put_all(struct conf *c, struct raw_conf *w, const struct gather *g,
                   struct errbuf *eb)
{
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        struct text def = {(char *)(uintptr_t)row->def, "default"};
        const struct text *from[] = {&def, &g->file[i], &g->envv[i], &g->flag[i]};

        if (row->flags & (R_MODEL | R_ONLY_MODEL) || row->type == T_MODEL)
            continue;
        for (size_t k = 0; k < 4; k++) {
            if (!from[k]->s)
                continue;
            int r = confvalue_put(row->raw ? (void *)w : (void *)c, row, from[k],
                                  k == 1 ? g->file_dir : NULL, eb);
            if (r < 0)
                return r;
        }
    }
    return put_model(&c->any, g, NULL, eb);
}

/* The file's own name without ".gguf", as models are called that nobody named. */
static void name_of(const char *path, char ret[NAME_BYTES_MAX + 1])
{
    const char *slash = strrchr(path, '/');

    snprintf(ret, NAME_BYTES_MAX + 1, "%s", slash ? slash + 1 : path);
    size_t n = strlen(ret);
    if (n > 5 && strcasecmp(ret + n - 5, ".gguf") == 0)
        ret[n - 5] = 0;
}

static const struct section *section_of(const struct gather *g, const char *name)
{
    for (uint32_t i = 0; i < g->n_sections; i++)
        if (strcmp(g->section[i].name, name) == 0)
            return &g->section[i];
    return NULL;
}

static int model_add(struct conf *c, const struct gather *g, const char *name,
                     const char *where, struct conf_model **ret, struct errbuf *eb)
{
    for (uint32_t i = 0; i < c->n_models; i++)
        if (strcmp(c->model[i].name, name) == 0) {
            *ret = &c->model[i];
            return 1;
        }
    if (c->n_models == MODELS_MAX)
        return err_set(eb, -EINVAL, "%s: more than %d models", where, MODELS_MAX);
    struct conf_model *m = &c->model[c->n_models++];
    snprintf(m->name, sizeof m->name, "%s", name);
    *ret = m;
    return put_model(m, g, section_of(g, name), eb);
}

static int put_models(struct conf *c, const struct gather *g, struct errbuf *eb)
{
    struct conf_model *m;

    for (int by = BY_FLAG; by <= BY_FILE; by++)
        for (uint32_t i = 0; i < g->n_named[by]; i++) {
            const struct named *n = &g->named[by][i];
            const char *eq = strchr(n->s, '='), *slash = strchr(n->s, '/');
            bool has_name = eq && (!slash || eq < slash);
            struct text t = {.s = n->s + (has_name ? eq - n->s + 1 : 0)};
            char name[NAME_BYTES_MAX + 1];

            snprintf(t.where, sizeof t.where, "%s", n->where);
            if (has_name && (eq == n->s || eq - n->s > NAME_BYTES_MAX))
                return err_set(eb, -EINVAL, "%s: want [NAME=]PATH, got \"%.80s\"", n->where,
                               n->s);
            if (has_name)
                snprintf(name, sizeof name, "%.*s", (int)(eq - n->s), n->s);
            else
                name_of(n->s, name);
            int r = model_add(c, g, name, n->where, &m, eb);
            if (r == 1) /* a stronger source has named it already */
                continue;
            if (r == 0) {
                free(m->path); /* a section's */
                m->path = NULL;
                r = confvalue_put(m, row_find("path"), &t, n->dir, eb);
                m->bare = !strchr(t.s, '/');
            }
            if (r < 0)
                return r;
        }
    for (uint32_t i = 0; i < g->n_sections; i++) {
        int r = model_add(c, g, g->section[i].name, "configuration", &m, eb);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A file's name alone may also be one of the models' directory. */
static int find_bare(struct conf *c, struct errbuf *eb)
{
    for (uint32_t i = 0; i < c->n_models; i++) {
        struct conf_model *m = &c->model[i];
        char *there = NULL;

        if (!m->bare || access(m->path, F_OK) == 0)
            continue;
        if (asprintf(&there, "%s/%s", c->models, strrchr(m->path, '/') + 1) < 0)
            return err_set(eb, -ENOMEM, "no memory");
        if (access(there, F_OK) < 0) {
            free(there);
            continue;
        }
        free(m->path);
        m->path = there;
    }
    return 0;
}

static uint64_t share_of(const struct share *s, uint64_t whole, uint64_t least)
{
    uint64_t part = (uint64_t)((double)whole * s->percent / 100);

    if (!(s->percent > 0))
        return s->bytes;
    return part > least ? part : least;
}

/* The front would refuse too, but as a child that ends and is started again. */
static int check_http(const struct conf *c, struct errbuf *eb)
{
    const char *a = c->http_addr;
    bool here =
        strncmp(a, "127.", 4) == 0 || strcmp(a, "::1") == 0 || strcmp(a, "localhost") == 0;

    if (!c->http || c->no_front || here || c->api_key_file)
        return 0;
    return err_set(eb, -EPERM,
                   "http: %s can be reached from other machines; that wants an api-key-file",
                   a);
}

/* Who said it last. */
static const char *where_of(const struct gather *g, const char *name)
{
    const size_t i = (size_t)(row_find(name) - rows);

    return g->flag[i].s   ? g->flag[i].where
           : g->envv[i].s ? g->envv[i].where
           : g->file[i].s ? g->file[i].where
                          : "default";
}

/* More than there is would be given out until the kernel ends the process. */
static int check_memory(const struct conf *c, const struct gather *g, struct errbuf *eb)
{
    const uint64_t ram = conf_ram_bytes(), most = ram / 10 * 9;
    const double gib = 1 << 30;
    char name[CONFROW_NAME_BYTES];

    if (c->host_bytes > most)
        return err_set(
            eb, -EINVAL,
            "%s: %s%.1f GiB is more than nine tenths of the %.1f GiB of memory "
            "that this machine, or its control group, has; want at most %llu MiB, or a "
            "share such as 25%%",
            where_of(g, "host-memory"),
            confrow_name(where_of(g, "host-memory"), "host-memory", name),
            (double)c->host_bytes / gib, (double)ram / gib, (unsigned long long)(most >> 20));
    for (uint32_t i = 0; i <= c->n_models && strcmp(c->device, "cpu") == 0; i++) {
        const struct conf_model *m = i < c->n_models ? &c->model[i] : &c->any;

        if (m->page_bytes > most)
            return err_set(
                eb, -EINVAL,
                "%s: %s%.1f GiB%s%s is more than nine tenths of the %.1f GiB of "
                "memory that this machine, or its control group, has; want at most %llu "
                "MiB, or auto",
                where_of(g, "page-memory"),
                confrow_name(where_of(g, "page-memory"), "page-memory", name),
                (double)m->page_bytes / gib, m->name[0] ? " of model " : "", m->name,
                (double)ram / gib, (unsigned long long)(most >> 20));
    }
    return 0;
}

static int resolve(struct conf *c, const struct raw_conf *w, const struct gather *g,
                   struct errbuf *eb)
{
    static const int level[] = {LOG_ERROR_, LOG_WARN_, LOG_INFO_, LOG_DEBUG_};
    int r = confplace_paths(c, g->env, eb);
    uint64_t u;

    if (r < 0)
        return r;
    c->threads = c->any.threads;
    c->host_bytes = share_of(&w->host, conf_ram_bytes(), SHARE_LEAST);
    c->disk_bytes =
        share_of(&w->disk, w->disk.percent > 0 ? confplace_disk(c->state) : 0, SHARE_LEAST);
    c->day_bytes = w->day.bytes;
    c->io = (enum conf_io)w->io;
    c->wrong = (enum conf_wrong)w->wrong;
    c->log_level = level[w->log_level];
    c->http = w->http.on;
    memcpy(c->http_addr, w->http.addr, sizeof c->http_addr);
    c->http_port = w->http.port;
    c->socket_mode = w->socket_mode ? w->socket_mode : c->system ? 0660 : 0600;
    c->no_front = c->no_front || c->system;
    r = find_bare(c, eb);
    if (r == 0)
        r = check_http(c, eb);
    if (r == 0)
        r = check_memory(c, g, eb);
    if (r < 0)
        return r;
    /* What the service manager said. */
    const char *v = g->env("NOTIFY_SOCKET");
    if (v && *v && !(c->notify_socket = strdup(v)))
        return err_set(eb, -ENOMEM, "no memory");
    v = g->env("WATCHDOG_PID");
    bool ours = !v || (units_u64(v, &u) && u == (uint64_t)getpid());
    v = g->env("WATCHDOG_USEC");
    if (ours && v && units_u64(v, &u))
        c->watchdog_us = u;
    v = g->env("LISTEN_PID");
    if (v && units_u64(v, &u) && u == (uint64_t)getpid()) {
        v = g->env("LISTEN_FDS");
        if (v && units_u64(v, &u) && u <= 64)
            c->listen_fds = (uint32_t)u;
    }
    c->journal = g->env("JOURNAL_STREAM") != NULL && !isatty(STDERR_FILENO);
    return 0;
}

/* ---- the door ------------------------------------------------------------------------------ */
/* The `system` row alone, early: it decides which file and which directories are default. */
static bool early_system(const struct gather *g)
{
    const size_t i = (size_t)(row_find("system") - rows);
    const char *s = g->flag[i].s ? g->flag[i].s : g->envv[i].s;

    return s && (s[0] == 't' || s[0] == '1');
}

int conf_open(struct conf **ret, int argc, char *const *argv,
              const char *(*env)(const char *name), struct errbuf *eb)
{
    struct conf *c = calloc(1, sizeof *c);
    struct gather *g = calloc(1, sizeof *g);
    struct raw_conf w = {0};
    int r = c && g ? 0 : err_set(eb, -ENOMEM, "no memory");

    if (r == 0) {
        g->env = env ? env : env_real;
        r = gather_flags(g, c, argc, argv, eb);
    }
    if (r == 0 && (c->does == CONF_RUN || c->does == CONF_CHECK)) {
        r = gather_env(g, eb);
        const size_t i = (size_t)(row_find("config") - rows);
        const struct text *t = g->flag[i].s ? &g->flag[i] : g->envv[i].s ? &g->envv[i] : NULL;

        if (r == 0)
            r = t ? confvalue_put(&w, &rows[i], t, NULL, eb) : 0;
        if (r == 0 && t) {
            c->file = w.config;
            w.config = NULL;
        } else if (r == 0) {
            confplace_file(g->env, early_system(g), &c->file);
        }
        if (r == 0 && c->file)
            r = file_read(g, c->file, eb);
        if (r == 0)
            r = put_all(c, &w, g, eb);
        if (r == 0)
            r = put_models(c, g, eb);
        if (r == 0)
            r = resolve(c, &w, g, eb);
    }
    if (g)
        gather_fini(g);
    free(g);
    free(w.config);
    if (r < 0) {
        conf_close(c);
        return r;
    }
    *ret = c;
    return 0;
}

void conf_close(struct conf *c)
{
    if (!c)
        return;
    char *own[] = {c->file,  c->state,        c->runtime,       c->models,   c->core_path,
                   c->front, c->api_key_file, c->notify_socket, c->any.path, c->http_origin};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        free(own[i]);
    for (uint32_t i = 0; i < c->n_models; i++)
        free(c->model[i].path);
    free(c);
}

const struct conf_model *conf_model(const struct conf *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_models; i++)
        if (strcmp(c->model[i].name, name) == 0)
            return &c->model[i];
    return &c->any;
}

static const char *no_env(const char *name)
{
    (void)name;
    return NULL;
}

int conf_parse_check(const char *text, uint64_t bytes, struct errbuf *eb)
{
    struct conf *c = calloc(1, sizeof *c);
    struct gather *g = calloc(1, sizeof *g);
    struct raw_conf w = {0};
    int r = c && g ? 0 : -ENOMEM;

    if (r == 0) {
        g->env = no_env;
        g->section_now = -1;
        r = ini_parse("text", text, bytes, file_line, g, eb);
    }
    if (r == 0)
        r = put_all(c, &w, g, eb);
    if (r == 0)
        r = put_models(c, g, eb);
    if (g)
        gather_fini(g);
    free(g);
    free(w.config);
    conf_close(c);
    return r;
}

void conf_help(void)
{
    printf(
        "hearthd %s - keeps language models and conversations with them\n\n"
        "usage: hearthd [--config FILE] [--check-config] [--version] [--NAME VALUE]...\n\n"
        "A flag --some-name is also $HEARTH_SOME_NAME and the key some-name of the\n"
        "configuration file; flag > environment > [model NAME] section > file > default.\n\n",
        HEARTH_VERSION);
    for (int part = 0; part < 3; part++) {
        static const char *const head[] = {
            "settings (* also in a [model NAME] section):",
            "\nkeys of a [model NAME] section only:", "\ndiagnostics:"};
        puts(head[part]);
        for (size_t i = 0; i < ROWS; i++) {
            int of = rows[i].flags & R_DIAG ? 2 : rows[i].flags & R_ONLY_MODEL ? 1 : 0;

            if (of != part)
                continue;
            printf("  %s%-18s%s %s%s%s%s\n", part == 1 ? "  " : "--", rows[i].name,
                   rows[i].flags & R_MODEL ? "*" : " ", rows[i].reason, rows[i].def ? " [" : "",
                   rows[i].def ? rows[i].def : "", rows[i].def ? "]" : "");
        }
    }
}

/* In the largest unit that does not hide much: whole, or of four digits at least. */
static void print_size(const char *name, uint64_t bytes, const char *zero)
{
    static const char *const unit[] = {"", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;

    if (!bytes) {
        printf("%s = %s\n", name, zero);
        return;
    }
    while (u < 4 && bytes >= 1024 && (bytes % 1024 == 0 || bytes >= 10000)) {
        bytes /= 1024;
        u++;
    }
    printf("%s = %llu%s\n", name, (unsigned long long)bytes, unit[u]);
}

static void print_duration(const char *name, double s)
{
    static const struct {
        double s;
        char c;
    } unit[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};

    for (size_t i = 0; s > 0 && i < sizeof unit / sizeof *unit; i++)
        if (fmod(s, unit[i].s) == 0) {
            printf("%s = %.0f%c\n", name, s / unit[i].s, unit[i].c);
            return;
        }
    printf("%s = %g\n", name, s);
}

/* What a file or a flag said may hold anything. */
static void print_text(const char *before, const char *v, const char *after)
{
    char shown[4 * PATH_MAX];

    (void)text_show(shown, sizeof shown, v, strlen(v), false);
    printf("%s%s%s\n", before, shown, after);
}

static void print_model(const struct conf_model *m)
{
    const struct {
        const char *name;
        double v;
    } num[] = {{"temperature", m->temperature},
               {"top-k", m->top_k},
               {"top-p", m->top_p},
               {"min-p", m->min_p},
               {"repeat-penalty", m->repeat_penalty}};

    print_size("page-memory", m->page_bytes, "auto");
    printf("threads = %u\ncontext = %u\n", m->threads, m->context);
    print_duration("keep-alive", m->keep_alive_s);
    for (size_t i = 0; i < sizeof num / sizeof *num; i++)
        if (!isnan(num[i].v))
            printf("%s = %g\n", num[i].name, num[i].v);
}

void conf_print(const struct conf *c)
{
    static const char *const io[] = {"auto", "uring", "threads"};
    static const char *const level[] = {"error", "warn", "info", "debug"};
    const char *word = "info";

    switch (c->log_level) {
    case LOG_ERROR_: word = level[0]; break;
    case LOG_WARN_: word = level[1]; break;
    case LOG_DEBUG_: word = level[3]; break;
    default: break;
    }
    print_text("# ", c->file ? c->file : "no configuration file", "");
    print_text("state = ", c->state, "");
    print_text("runtime = ", c->runtime, "");
    print_text("models = ", c->models, "");
    print_size("host-memory", c->host_bytes, "0");
    print_size("disk", c->disk_bytes, "0");
    print_size("write-budget", c->day_bytes, "none");
    print_text("device = ", c->device, "");
    printf("io = %s\nlog-level = %s\n", io[c->io], word);
    if (c->http)
        printf(strchr(c->http_addr, ':') ? "http = [%s]:%u\n" : "http = %s:%u\n", c->http_addr,
               c->http_port);
    else
        puts("http = off");
    printf("http-any-port = %s\n", c->http_any_port ? "true" : "false");
    print_text(c->http_origin ? "http-origin = " : "# no http-origin",
               c->http_origin ? c->http_origin : "", "");
    print_text(c->api_key_file ? "api-key-file = " : "# no api-key-file",
               c->api_key_file ? c->api_key_file : "", "");
    printf("no-front = %s\nsystem = %s\nsocket-mode = 0%o\n", c->no_front ? "true" : "false",
           c->system ? "true" : "false", c->socket_mode);
    print_duration("anonymous-expire", c->anonymous_expire_s);
    printf("step-tokens = %u\nstep-goal = %u\nstop-timeout = %u\n", c->step_tokens,
           c->step_goal_ms, c->stop_timeout_s);
    print_model(&c->any);
    for (uint32_t i = 0; i < c->n_models; i++) {
        print_text("[model ", c->model[i].name, "]");
        if (c->model[i].path)
            print_text("path = ", c->model[i].path, "");
        print_model(&c->model[i]);
    }
}

int conf_models_dir(const struct conf *c, struct errbuf *eb)
{
    int fd = open(c->models, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return err_set(eb, -errno, "models: %s: %s; no model is found there", c->models,
                       strerror(errno));
    close(fd);
    return 0;
}
