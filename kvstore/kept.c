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

static uint32_t bad_files(const char *dir, char ret_first[PATH_MAX])
{
    DIR *d = opendir(dir);
    uint32_t n = 0;

    for (struct dirent *e; d && (e = readdir(d));)
        if (strstr(e->d_name, ".bad-") && n++ == 0 && !ret_first[0])
            (void)!snprintf(ret_first, PATH_MAX, "%s/%s", dir, e->d_name);
    if (d)
        closedir(d);
    return n;
}

static uint32_t all_bad(const struct kvstore *s, char ret_first[PATH_MAX])
{
    char dir[PATH_MAX];

    ret_first[0] = 0;
    snprintf(dir, sizeof dir, "%s/log", s->dir);
    return bad_files(s->dir, ret_first) + bad_files(dir, ret_first);
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
    char first[PATH_MAX], lost[LOST_BYTES] = "";
    uint32_t n = all_bad(s, first);
    int got = index_meta_get(s->idx, INDEX_COMMIT, "lost", lost, sizeof lost - 1);

    s->kept = n > 0;
    if (n)
        store_state(s, SAY_KEPT, "%u damaged file%s kept (%.300s%s): delete what nobody misses",
                    n, n > 1 ? "s are" : " is", first, n > 1 ? ", ..." : "");
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
    char first[PATH_MAX];

    if (!s->kept || now_ns() < s->kept_ns || s->fault)
        return;
    s->kept_ns = now_ns() + LOOK_NS;
    if (all_bad(s, first) || lost_forget(s) < 0)
        return;
    s->kept = false;
    store_over(s, SAY_KEPT, "the damaged files were deleted");
    store_over(s, SAY_LOST, "the damaged files were deleted: what was lost is said no more");
}
