/* ledger.c - see ledger.h. */
#include "client/ledger.h"
#include "client/place.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LEDGER_BYTES_MAX = 4 << 20 };

void ledger_hash(const void *p, size_t n, const char *seed, char ret[33])
{
    typedef unsigned __int128 u128;
    const u128 prime = ((u128)1 << 88) | 0x13b;
    u128 h = ((u128)0x6c62272e07bb0142u << 64) | 0x62b821756295c58du;
    for (; *seed; seed++)
        h = (h ^ (unsigned char)*seed) * prime;
    h = (h ^ 0xff) * prime;
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const unsigned char *)p)[i]) * prime;
    snprintf(ret, 33, "%016llx%016llx", (unsigned long long)(h >> 64), (unsigned long long)h);
}

/* Where a session's ledger is, "": nowhere; made: with its directory. */
static void path_of(const char *session_id, bool make, char *ret, size_t cap)
{
    char dir[3800], text_path[4096];
    ret[0] = 0;
    if (place_state(dir, sizeof dir) < 0 || !session_id[0] ||
        strspn(session_id, "0123456789abcdef") != strlen(session_id))
        return;
    snprintf(text_path, sizeof text_path, "%s/ingest", dir);
    if (!make || place_make(text_path) == 0)
        snprintf(ret, cap, "%s/ingest/%.64s.json", dir, session_id);
}

void ledger_unlink(const char *session_id)
{
    char path[4096];
    path_of(session_id, false, path, sizeof path);
    if (path[0])
        (void)unlink(path);
}

/* The one written longest ago goes, but for keep's; whether there are still too many. */
static bool one_goes(const char *dir, const char *keep)
{
    char oldest[NAME_MAX + 1] = "";
    struct timespec then = {0};
    struct dirent *e;
    struct stat st;
    int n = 0;
    DIR *d = opendir(dir);
    while (d && (e = readdir(d)) != NULL) {
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
            continue;
        n++;
        if (strcmp(e->d_name, keep) == 0)
            continue;
        if (!oldest[0] || st.st_mtim.tv_sec < then.tv_sec ||
            (st.st_mtim.tv_sec == then.tv_sec && st.st_mtim.tv_nsec < then.tv_nsec)) {
            then = st.st_mtim;
            snprintf(oldest, sizeof oldest, "%s", e->d_name);
        }
    }
    bool went = n > LEDGERS_MAX && oldest[0] && unlinkat(dirfd(d), oldest, 0) == 0;
    if (d)
        closedir(d);
    return went && n - 1 > LEDGERS_MAX;
}

/* NULL: it cannot be read, or does not have that word in it. */
static cJSON *load(const char *path, const char *word)
{
    FILE *f = fopen(path, "re");
    char *text = f ? malloc(LEDGER_BYTES_MAX) : NULL;
    cJSON *root = NULL;
    size_t n = text ? fread(text, 1, LEDGER_BYTES_MAX, f) : 0;
    if (n && memmem(text, n, word, strlen(word)))
        root = cJSON_ParseWithLength(text, n);
    free(text);
    if (f)
        fclose(f);
    return root;
}

void ledger_open(struct ledger *l, const char *session_id)
{
    char dir[3800], all[4096];
    *l = (struct ledger){0};
    path_of(session_id, true, l->path, sizeof l->path);
    if (place_state(dir, sizeof dir) == 0) {
        snprintf(all, sizeof all, "%s/ingest", dir);
        while (one_goes(all, l->path[0] ? strrchr(l->path, '/') + 1 : ""))
            ;
    }
    l->root = l->path[0] ? load(l->path, "") : NULL;
    if (!cJSON_IsArray(cJSON_GetObjectItemCaseSensitive(l->root, "docs"))) {
        cJSON_Delete(l->root);
        l->root = cJSON_CreateObject();
        cJSON_AddArrayToObject(l->root, "docs");
    }
}

void ledger_close(struct ledger *l)
{
    cJSON_Delete(l->root);
    l->root = NULL;
}

static cJSON *docs(const struct ledger *l)
{
    return cJSON_GetObjectItemCaseSensitive(l->root, "docs");
}
static const char *str(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsString(v) && strlen(v->valuestring) == 32 ? v->valuestring : "";
}
static uint64_t num(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < 1e15
               ? (uint64_t)v->valuedouble
               : 0;
}

bool ledger_find(const struct ledger *l, const char *hash, struct ledger_doc *ret)
{
    const cJSON *e;
    cJSON_ArrayForEach(e, docs(l))
    {
        if (strcmp(str(e, "hash"), hash) != 0 || !str(e, "request")[0])
            continue;
        *ret = (struct ledger_doc){
            .before = num(e, "before"),
            .after = num(e, "after"),
            .done = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(e, "done")) &&
                    num(e, "after") > num(e, "before")}; /* a program before wrote empty ones */
        snprintf(ret->hash, sizeof ret->hash, "%s", hash);
        snprintf(ret->request, sizeof ret->request, "%s", str(e, "request"));
        snprintf(ret->ids, sizeof ret->ids, "%s", str(e, "ids"));
        return true;
    }
    return false;
}

static bool alike(const struct ledger_doc *a, const struct ledger_doc *b)
{
    return a->before == b->before && a->after == b->after && strcmp(a->ids, b->ids) == 0;
}

int ledger_elsewhere(const struct ledger *l, const char *hash, struct ledger_doc *ret, int max)
{
    const char *slash = strrchr(l->path, '/');
    char dir[4096], path[4096 + NAME_MAX + 2];
    struct dirent *e;
    int n = 0;
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - l->path) : 0, l->path);
    DIR *d = opendir(dir);
    while (d && n < max && (e = readdir(d)) != NULL) {
        size_t len = strlen(e->d_name);
        if (len < 5 || strcmp(e->d_name + len - 5, ".json") ||
            strcmp(e->d_name, slash + 1) == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        struct ledger other = {.root = load(path, hash)};
        bool known = ledger_find(&other, hash, &ret[n]) && ret[n].done && ret[n].ids[0];
        for (int i = 0; i < n && known; i++)
            known = !alike(&ret[i], &ret[n]);
        n += known;
        cJSON_Delete(other.root);
    }
    if (d)
        closedir(d);
    return n;
}

static void forget(struct ledger *l, const char *hash)
{
    cJSON *list = docs(l);
    for (int i = cJSON_GetArraySize(list); i-- > 0;)
        if (strcmp(str(cJSON_GetArrayItem(list, i), "hash"), hash) == 0)
            cJSON_DeleteItemFromArray(list, i);
}

static int save(const struct ledger *l)
{
    char tmp[4096 + 16];
    if (!l->path[0])
        return -ENOENT;
    char *text = cJSON_PrintUnformatted(l->root);
    snprintf(tmp, sizeof tmp, "%s.%d", l->path, (int)getpid());
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), r = 0;
    ssize_t n = text ? (ssize_t)strlen(text) : -1;
    if (fd < 0 || n < 0 || write(fd, text, (size_t)n) != n || rename(tmp, l->path) < 0)
        r = errno ? -errno : -EIO;
    if (fd >= 0)
        close(fd);
    if (r < 0)
        (void)unlink(tmp);
    free(text);
    return r;
}

int ledger_put(struct ledger *l, const struct ledger_doc *d)
{
    forget(l, d->hash);
    cJSON *e = cJSON_CreateObject();
    cJSON_AddStringToObject(e, "hash", d->hash);
    cJSON_AddStringToObject(e, "request", d->request);
    cJSON_AddNumberToObject(e, "before", (double)d->before);
    cJSON_AddNumberToObject(e, "after", (double)d->after);
    cJSON_AddStringToObject(e, "ids", d->ids);
    cJSON_AddBoolToObject(e, "done", d->done);
    cJSON_AddItemToArray(docs(l), e);
    return save(l);
}
void ledger_drop(struct ledger *l, const char *hash)
{
    forget(l, hash);
    (void)save(l);
}
