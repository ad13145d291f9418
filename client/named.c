/* named.c - see named.h. */
#include "client/named.h"
#include "client/say.h"
#include <ctype.h>

enum { ID_DIGITS = 32, SAID_MAX = 6 };

struct found {
    const char *typed;
    size_t n;
    int count;
    char id[ID_DIGITS + 1]; /* the first */
    char list[600];
};

static void take(struct found *f, const char *id, const cJSON *s)
{
    size_t at = strlen(f->list);
    if (strlen(id) != ID_DIGITS || strncmp(id, f->typed, f->n) != 0)
        return;
    if (f->count++ == 0)
        snprintf(f->id, sizeof f->id, "%s", id);
    if (f->count > SAID_MAX) /* the rest is counted */
        return;
    snprintf(f->list + at, sizeof f->list - at, "%s%.12s%s%.40s%s", at ? ", " : "", id,
             j_str(s, "name", "")[0] ? " (" : "", j_str(s, "name", ""),
             j_str(s, "name", "")[0] ? ")" : "");
}

int named_session(struct cli *c, const char *typed, size_t least, bool requests,
                  char ret[NAME_BYTES_MAX + 1])
{
    char lower[ID_DIGITS + 1] = "";
    struct found f = {.typed = lower, .n = strlen(typed)};
    cJSON *req, *list = NULL;
    const cJSON *s;
    bool name = false;
    snprintf(ret, NAME_BYTES_MAX + 1, "%s", typed);
    if (f.n < least || f.n >= ID_DIGITS || strspn(typed, "0123456789abcdefABCDEF") != f.n)
        return CLI_OK;
    for (size_t i = 0; i < f.n; i++)
        lower[i] = (char)tolower((unsigned char)typed[i]);
    req = cJSON_CreateObject();
    cJSON_AddTrueToObject(req, "all");
    int code = cli_sessions(c, req, &list);
    cJSON_ArrayForEach(s, j_get(list, "sessions"))
    {
        name |= strcmp(j_str(s, "name", ""), typed) == 0;
        take(&f, j_str(s, "id", ""), s);
        if (requests)
            take(&f, j_str(s, "request", ""), s);
    }
    cJSON_Delete(list);
    if (code != CLI_OK || name || f.count == 0)
        return code;
    if (f.count == 1) {
        snprintf(ret, NAME_BYTES_MAX + 1, "%s", f.id);
        return CLI_OK;
    }
    return cli_mistake(c, "--session", "%s is the beginning of %d ids: %s%s; type more of it",
                       typed, f.count, f.list, f.count > SAID_MAX ? ", ..." : "");
}
