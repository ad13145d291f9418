/* ini.c - see ini.h. */
#include "daemon/ini.h"
#include <errno.h>
#include <stdbool.h>
#include <string.h>

static char *trim(char *s)
{
    size_t n;

    while (*s == ' ' || *s == '\t')
        s++;
    n = strlen(s);
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\r'))
        n--;
    s[n] = 0;
    return s;
}

/* Taken for a part of the value it would make another path of it, without a word. */
static bool comment_in(const char *v)
{
    for (; (v = strchr(v, '#')) != NULL; v++)
        if (v[-1] == ' ' || v[-1] == '\t')
            return true;
    return false;
}

static int one_line(struct ini_line *l, char *s, char section[INI_LINE_MAX + 1],
                    int (*each)(void *ctx, const struct ini_line *l, struct errbuf *eb),
                    void *ctx, struct errbuf *eb)
{
    char *eq;

    s = trim(s);
    if (!*s || *s == '#' || *s == ';')
        return 0;
    if (*s == '[') {
        size_t n = strlen(s);

        if (s[n - 1] != ']')
            return err_set(eb, -EINVAL, "%s:%u: a section wants ']' at the end", l->file,
                           l->line);
        s[n - 1] = 0;
        s = trim(s + 1);
        if (!*s)
            return err_set(eb, -EINVAL, "%s:%u: a section wants a name", l->file, l->line);
        memcpy(section, s, strlen(s) + 1);
        l->key = l->value = NULL;
        return each(ctx, l, eb);
    }
    eq = strchr(s, '=');
    if (!eq)
        return err_set(eb, -EINVAL, "%s:%u: want \"key = value\", got \"%.60s\"", l->file,
                       l->line, s);
    *eq = 0;
    l->key = trim(s);
    char *v = trim(eq + 1);
    size_t n = strlen(v);
    if (n >= 2 && v[0] == '"' && v[n - 1] == '"') {
        v[n - 1] = 0;
        v++;
    } else if (comment_in(v)) {
        return err_set(eb, -EINVAL,
                       "%s:%u: \"%.60s\": a comment stands on a line of its own; a value with "
                       "\" #\" in it stands in quotes",
                       l->file, l->line, v);
    }
    l->value = v;
    if (!*l->key)
        return err_set(eb, -EINVAL, "%s:%u: a key is missing before '='", l->file, l->line);
    return each(ctx, l, eb);
}

int ini_parse(const char *file, const char *text, uint64_t bytes,
              int (*each)(void *ctx, const struct ini_line *l, struct errbuf *eb), void *ctx,
              struct errbuf *eb)
{
    char line[INI_LINE_MAX + 1], section[INI_LINE_MAX + 1] = "";
    struct ini_line l = {.file = file, .section = section};
    const char *p = text, *end = text + bytes;

    if (bytes > INI_BYTES_MAX)
        return err_set(eb, -EINVAL, "%s: %llu bytes, the limit is %d", file,
                       (unsigned long long)bytes, INI_BYTES_MAX);
    if (bytes >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
        p += 3;
    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - p);

        l.line++;
        if (n > INI_LINE_MAX)
            return err_set(eb, -EINVAL, "%s:%u: a line of %zu bytes, the limit is %d", file,
                           l.line, n, INI_LINE_MAX);
        if (memchr(p, 0, n))
            return err_set(eb, -EINVAL, "%s:%u: a zero byte", file, l.line);
        memcpy(line, p, n);
        line[n] = 0;
        int r = one_line(&l, line, section, each, ctx, eb);
        if (r)
            return r;
        p += n + (nl != NULL);
    }
    return 0;
}
