/* kept.c - damaged files that were set aside, and what was lost with them.
 *
 * Both are said as long as the files are there, at every start: deleting them is how somebody says
 * that nothing is missed.  That is noticed while the store is open, too (commit thread). */
#include "base/clock.h"
#include "kvstore/merge.h"
#include "kvstore/store.h"
#include <dirent.h>
#include <string.h>

static const uint64_t LOOK_NS = 2000000000u;

struct bad {
    uint32_t n;
    uint64_t bytes;
};

static void bad_in(const char *dir, struct bad *x)
{
    char path[PATH_MAX];
    DIR *d = opendir(dir);

    for (struct dirent *e; d && (e = readdir(d));)
        if (strstr(e->d_name, ".bad-") &&
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name) < PATH_MAX) {
            x->n++;
            x->bytes += sys_taken_bytes(path);
        }
    if (d)
        closedir(d);
}

/* What is missing of sessions may be in these. */
static struct bad bad_rows(const struct kvstore *s)
{
    char dir[PATH_MAX];
    struct bad x = {0};

    snprintf(dir, sizeof dir, "%s/log", s->dir);
    bad_in(s->dir, &x);
    bad_in(dir, &x);
    return x;
}

/* Files of blocks: nothing is lost with them, they only take their room. */
static void bad_blocks(const struct kvstore *s, struct bad *x)
{
    char kv[PATH_MAX], path[PATH_MAX];

    snprintf(kv, sizeof kv, "%s/kv", s->dir);
    DIR *d = opendir(kv);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' &&
            snprintf(path, sizeof path, "%s/%s", kv, e->d_name) < PATH_MAX)
            bad_in(path, x);
    if (d)
        closedir(d);
}

static int lost_forget(struct kvstore *s)
{
    int r = index_begin(s->idx);

    if (r == 0)
        r = index_row_del(s->idx, DB_META, "lost", 4);
    if (r == 0)
        return index_commit(s->idx);
    index_abort(s->idx);
    return r;
}

int kept_look(struct kvstore *s, bool rebuilt)
{
    char lost[LOST_BYTES] = "";
    struct bad all = bad_rows(s);
    uint32_t n = all.n;
    int got = index_meta_get(s->idx, INDEX_COMMIT, "lost", lost, sizeof lost - 1);

    bad_blocks(s, &all);
    s->kept = all.n > 0;
    if (all.n)
        store_state(s, SAY_KEPT,
                    "%u damaged file%s kept, %.1f MiB; when nothing is missed: find '%.300s' "
                    "-name '*.bad-*' -type f -delete",
                    all.n, all.n > 1 ? "s are" : " is", (double)all.bytes / (1 << 20), s->dir);
    if (got > 0 && n)
        store_state(s, SAY_LOST,
                    "%s. To have this said no more delete the damaged files (*.bad-* in %.200s "
                    "and its log/)",
                    lost, s->dir);
    else if (got > 0 && rebuilt)
        store_state(s, SAY_LOST, "%s. This is said until the next start", lost);
    return got > 0 && !n && !rebuilt ? lost_forget(s) : 0;
}

void kept_turn(struct kvstore *s)
{
    struct bad all;

    if (!s->kept || now_ns() < s->kept_ns || s->fault)
        return;
    s->kept_ns = now_ns() + LOOK_NS;
    all = bad_rows(s);
    if (all.n == 0)
        bad_blocks(s, &all);
    if (all.n || lost_forget(s) < 0)
        return;
    s->kept = false;
    store_over(s, SAY_KEPT, "the damaged files were deleted");
    store_over(s, SAY_LOST, "the damaged files were deleted: what was lost is said no more");
}
