/* confvalue.c - see confrow.h: one text, one value, or words that say what was wanted. */
#include "daemon/confrow.h"
#include "daemon/units.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *confrow_name(const char *where, const char *name, char ret[CONFROW_NAME_BYTES])
{
    bool named = strncmp(where, "--", 2) == 0 || strncmp(where, "HEARTH_", 7) == 0;

    snprintf(ret, CONFROW_NAME_BYTES, "%s%s", named ? "" : name, named ? "" : ": ");
    return ret;
}

static int want(const struct row *row, const struct text *t, struct errbuf *eb, const char *fmt,
                ...) __attribute__((format(printf, 4, 5)));
static int want(const struct row *row, const struct text *t, struct errbuf *eb, const char *fmt,
                ...)
{
    char words[256], name[CONFROW_NAME_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    return err_set(eb, -EINVAL, "%s: %swant %s, got \"%.80s\"", t->where,
                   confrow_name(t->where, row->name, name), words, t->s);
}

static bool word_at(const char *words, const char *s, uint32_t *ret_place)
{
    size_t n = strlen(s);

    for (uint32_t i = 0; *words; i++) {
        size_t k = strcspn(words, " ");

        if (k == n && strncmp(words, s, n) == 0) {
            *ret_place = i;
            return true;
        }
        words += k + (words[k] == ' ');
    }
    return false;
}

static char *path_abs(const char *s, const char *dir)
{
    char *p = NULL, cwd[4096];

    if (s[0] == '/')
        p = strdup(s);
    else if (dir && dir[0] == '/')
        p = asprintf(&p, "%s/%s", dir, s) < 0 ? NULL : p;
    else if (getcwd(cwd, sizeof cwd))
        p = asprintf(&p, "%s%s%s/%s", cwd, dir ? "/" : "", dir ? dir : "", s) < 0 ? NULL : p;
    for (size_t n = p ? strlen(p) : 0; n > 1 && p[n - 1] == '/'; n--)
        p[n - 1] = 0;
    return p;
}

static int put_path(char **at, const struct row *row, const struct text *t, const char *dir,
                    struct errbuf *eb)
{
    const char *home = getenv("HOME"), *s = t->s;
    char *whole = NULL;
    if (!*s)
        return want(row, t, eb, "a path");
    /* No shell has seen what stands in a file, or behind a flag's "=". */
    if (s[0] == '~' && s[1] && s[1] != '/')
        return want(row, t, eb,
                    "a path (~/... is below $HOME; another user's ~NAME is not known)");
    if (s[0] == '~' && (!home || home[0] != '/'))
        return want(row, t, eb, "an absolute path, since $HOME is not set");
    if (s[0] == '~' && asprintf(&whole, "%s%s", home, s + 1) < 0)
        return err_set(eb, -ENOMEM, "%s: %s", t->where, strerror(errno));
    char *p = path_abs(whole ? whole : s, dir);
    free(whole);
    if (!p)
        return err_set(eb, -ENOMEM, "%s: %s", t->where, strerror(errno));
    free(*at);
    *at = p;
    return 0;
}

static int put_http(struct http *h, const struct row *row, const struct text *t,
                    struct errbuf *eb)
{
    const char *colon = strrchr(t->s, ':'), *from = t->s;
    uint64_t port;

    if (strcmp(t->s, "off") == 0) {
        h->on = false;
        return 0;
    }
    if (!colon || colon == t->s || !units_u64(colon + 1, &port) || port > 65535)
        return want(row, t, eb, "ADDR:PORT with a port of 0 to 65535, or off");
    size_t n = (size_t)(colon - from);
    if (n >= 2 && from[0] == '[' && from[n - 1] == ']') {
        from++;
        n -= 2;
    }
    if (n >= sizeof h->addr)
        return want(row, t, eb, "an address of at most %zu bytes", sizeof h->addr - 1);
    memcpy(h->addr, from, n);
    h->addr[n] = 0;
    h->port = (uint16_t)port;
    h->on = true;
    return 0;
}

static int put_share(struct share *sh, const struct row *row, const struct text *t,
                     struct errbuf *eb)
{
    struct share v = {0};
    bool day = strcmp(row->name, "write-budget") == 0;

    if (day && strcmp(t->s, "none") == 0) {
        *sh = v;
        return 0;
    }
    if (!units_size(t->s, &v.bytes) && (day || !units_percent(t->s, &v.percent)))
        return day ? want(row, t, eb, "a size (50GiB) or none")
                   : want(row, t, eb, "a size (8GiB, 512MiB) or a percentage (25%%)");
    if (v.percent == 0 && (double)v.bytes < row->min)
        return want(row, t, eb, "at least %.0f bytes", row->min);
    if (row->max > 0 && (double)v.bytes > row->max)
        return want(row, t, eb, "at most %.0fTiB", row->max / 0x1p40);
    *sh = v;
    return 0;
}

int confvalue_put(void *base, const struct row *row, const struct text *t, const char *dir,
                  struct errbuf *eb)
{
    void *at = (char *)base + row->at;
    uint32_t *u32 = at;
    double *num = at;
    uint64_t u;
    double d;

    switch (row->type) {
    case T_PATH: return put_path(at, row, t, dir, eb);
    case T_ORIGINS: {
        char *s = strstr(t->s, "://") && strlen(t->s) < 4096 ? strdup(t->s) : NULL;

        if (!s)
            return want(row, t, eb, "origins like app://obsidian.md, https://chat.example");
        free(*(char **)at);
        *(char **)at = s;
        return 0;
    }
    case T_WORD: {
        uint32_t place;
        const char *colon = strchr(t->s, ':');
        bool ok = word_at(row->words, t->s, &place);

        if (!ok && colon && units_u64(colon + 1, &u)) {
            char head[32];
            snprintf(head, sizeof head, "%.*s", (int)(colon - t->s) + 1, t->s);
            ok = word_at(row->words, head, &place) && u < 1024;
        }
        if (!ok || strlen(t->s) >= 32 || t->s[strlen(t->s) - 1] == ':')
            return want(row, t, eb, "auto, cpu or cuda:N");
        snprintf(at, 32, "%s", t->s);
        return 0;
    }
    case T_ENUM:
        return word_at(row->words, t->s, u32) ? 0 : want(row, t, eb, "one of: %s", row->words);
    case T_BOOL:
        if (strcmp(t->s, "true") != 0 && strcmp(t->s, "false") != 0 && strcmp(t->s, "1") != 0 &&
            strcmp(t->s, "0") != 0)
            return want(row, t, eb, "true or false");
        *(bool *)at = t->s[0] == 't' || t->s[0] == '1';
        return 0;
    case T_UINT:
        if (!units_u64(t->s, &u) || (double)u < row->min || (double)u > row->max)
            return want(row, t, eb, "a whole number in [%.0f,%.0f]", row->min, row->max);
        *u32 = (uint32_t)u;
        return 0;
    case T_NUM:
        if (!units_num(t->s, &d) || d < row->min || d > row->max)
            return want(row, t, eb, "a number in [%g,%g]", row->min, row->max);
        *num = d;
        return 0;
    case T_SIZE:
        if (strcmp(t->s, "auto") == 0)
            u = 0;
        else if (!units_size(t->s, &u) || (double)u < row->min || (double)u > row->max)
            return want(row, t, eb, "a size of %.0fMiB to %.0fTiB, or auto", row->min / 0x1p20,
                        row->max / 0x1p40);
        *(uint64_t *)at = u;
        return 0;
    case T_SHARE: return put_share(at, row, t, eb);
    case T_DURATION:
        if (!units_duration(t->s, &d))
            return want(row, t, eb, "a duration (90s, 5m, 1h30m, 7d), 0 or -1");
        *num = d;
        return 0;
    case T_MODE: {
        char *end;
        unsigned long m = strcmp(t->s, "auto") == 0 ? 0 : strtoul(t->s, &end, 8);

        if (strcmp(t->s, "auto") != 0 && (*end || m < 0600 || m > 0777 || m & 0111))
            return want(row, t, eb, "an octal mode from 0600 to 0666, or auto");
        *u32 = (uint32_t)m;
        return 0;
    }
    case T_HTTP: return put_http(at, row, t, eb);
    case T_MODEL: break;
    }
    return 0;
}
