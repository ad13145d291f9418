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
    cJSON *all; /* for --json */
};

static void take(struct found *f, const char *id, const cJSON *s)
{
    size_t at = strlen(f->list);
    cJSON *one;
    if (strlen(id) != ID_DIGITS || strncmp(id, f->typed, f->n) != 0)
        return;
    if (f->count++ == 0)
        snprintf(f->id, sizeof f->id, "%s", id);
    cJSON_AddItemToArray(f->all, one = cJSON_CreateObject());
    cJSON_AddStringToObject(one, "id", id);
    cJSON_AddStringToObject(one, "session", cli_session_name(s));
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
    cJSON *req, *list = NULL, *more;
    const cJSON *s;
    bool name = false;
    snprintf(ret, NAME_BYTES_MAX + 1, "%s", typed);
    if (f.n < least || f.n >= ID_DIGITS || strspn(typed, "0123456789abcdefABCDEF") != f.n)
        return CLI_OK;
    for (size_t i = 0; i < f.n; i++)
        lower[i] = (char)tolower((unsigned char)typed[i]);
    req = cJSON_CreateObject();
    more = cJSON_CreateObject();
    f.all = cJSON_AddArrayToObject(more, "candidates");
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
    if (code == CLI_OK && !name && f.count == 1)
        snprintf(ret, NAME_BYTES_MAX + 1, "%s", f.id);
    c->more = more;
    if (code == CLI_OK && !name && f.count > 1)
        code =
            cli_mistake(c, "--session", "%s is the beginning of %d ids: %s%s; type more of it",
                        typed, f.count, f.list, f.count > SAID_MAX ? ", ..." : "");
    c->more = NULL;
    cJSON_Delete(more);
    return code;
}
