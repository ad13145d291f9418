/* kept.c - damaged files that were set aside, and what was lost with them.
 *
 * Both are said as long as the files are there, at every start: deleting them is how somebody says
 * that nothing is missed.  That is noticed while the store is open, too (commit thread).  A
 * directory that cannot be listed may hold some: then all stays as it is, and that is said. */
#include "base/clock.h"
#include "base/dirlist.h"
#include "kvstore/merge.h"
#include "kvstore/store.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t LOOK_NS = 2000000000u;

struct bad {
    uint32_t n, apart; /* these are beside the index, where a link leads to that */
    uint64_t bytes;
    const char *index;
    int why; /* one directory could not be listed; 0: all were */
    char where[PATH_MAX];
};

/* --- looking ------------------------------------------------------------------------------------ */

struct look {
    const char *dir;
    void (*each)(const char *path, struct bad *x);
    struct bad *x;
};

static int look_one(void *ctx, const char *name)
{
    struct look *l = ctx;
    char path[PATH_MAX];

    if (name[0] != '.' && snprintf(path, sizeof path, "%s/%s", l->dir, name) < PATH_MAX)
        l->each(path, l->x);
    return 0;
}

static void each_in(const char *dir, void (*each)(const char *path, struct bad *x),
                    struct bad *x)
{
    struct look l = {dir, each, x};
    int why = dir_list(dir, look_one, &l);

    if (why < 0 && !x->why) {
        x->why = why;
        snprintf(x->where, sizeof x->where, "%s", dir);
    }
}

/* Only what the command that is said deletes; one that is a link to a file by its name. */
static void bad_any(const char *path, struct bad *x)
{
    struct stat st;

    if (!strstr(strrchr(path, '/'), ".bad-") ||
        (stat(path, &st) < 0 ? errno == ENOENT : !S_ISREG(st.st_mode)))
        return;
    x->n++;
    x->bytes += sys_taken_bytes(path);
}

/* Nor in the state directory itself: a pipe or a link that stood in a file's place (guard.c) holds
 * nothing of ours. */
static void bad_file(const char *path, struct bad *x)
{
    if (sys_plain(path) != -ELOOP)
        bad_any(path, x);
}

/* What else lies there is others'. */
static void bad_index(const char *path, struct bad *x)
{
    size_t n = strlen(x->index);
    uint32_t had = x->n;

    if (strncmp(path, x->index, n) == 0 && strncmp(path + n, ".bad-", 5) == 0)
        bad_file(path, x);
    x->apart += x->n - had;
}

/* What is no folder holds none. */
static void bad_folder(const char *path, struct bad *x)
{
    struct stat st;

    if (stat(path, &st) < 0 ? errno != ENOENT : S_ISDIR(st.st_mode))
        each_in(path, bad_any, x);
}

/* What is missing of sessions may be in these; */
static struct bad bad_rows(const struct kvstore *s)
{
    char dir[PATH_MAX];
    struct bad x = {.index = s->index};

    snprintf(dir, sizeof dir, "%s/log", s->dir);
    each_in(s->dir, bad_file, &x);
    each_in(dir, bad_any, &x);
    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(s->index, '/') - s->index), s->index);
    if (strcmp(dir, s->dir) != 0)
        each_in(dir[0] ? dir : "/", bad_index, &x);
    return x;
}

/* and with files of blocks nothing is lost: they only take their room. */
static struct bad bad_all(const struct kvstore *s, const struct bad *rows)
{
    char kv[PATH_MAX];
    struct bad x = *rows;

    snprintf(kv, sizeof kv, "%s/kv", s->dir);
    if (access(kv, F_OK) == 0 || errno != ENOENT)
        each_in(kv, bad_folder, &x);
    return x;
}

static bool may_be(const struct bad *x)
{
    return x->n || x->why;
}

/* --- saying ------------------------------------------------------------------------------------- */

/* That kv/ cannot be listed is said where blocks are missed. */
static void files_said(struct kvstore *s, const struct bad *rows, const struct bad *all)
{
    char beside[PATH_MAX] = "";

    if (all->apart)
        snprintf(beside, sizeof beside, " '%.300s'.bad-*", s->index);
    if (rows->why)
        store_state(s, SAY_KEPT,
                    "whether damaged files are kept in %.300s cannot be seen (%s): it is tried "
                    "again, and what was lost stays said",
                    rows->where, err_str(rows->why));
    else if (all->n)
        store_state(
            s, SAY_KEPT,
            "%u damaged file%s kept, %.1f MiB; when nothing is missed: find -L '%.300s'%s "
            "-name '*.bad-*' -type f -delete",
            all->n, all->n > 1 ? "s are" : " is", (double)all->bytes / (1 << 20), s->dir,
            beside);
    else
        store_over(s, SAY_KEPT,
                   all->why ? "no damaged file can be seen any more"
                            : "no damaged file is kept any more");
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
    struct bad rows = bad_rows(s), all = bad_all(s, &rows);
    int got = index_meta_get(s->idx, INDEX_COMMIT, "lost", lost, sizeof lost - 1);

    s->kept = may_be(&all);
    s->lost = got > 0 && may_be(&rows);
    files_said(s, &rows, &all);
    if (s->lost)
        store_state(s, SAY_LOST,
                    "%s. To have this said no more delete the damaged files (*.bad-* in %.200s "
                    "and its log/)",
                    lost, s->dir);
    else if (got > 0 && rebuilt)
        store_state(s, SAY_LOST, "%s. This is said until the next start", lost);
    return got > 0 && !s->lost && !rebuilt ? lost_forget(s) : 0;
}

void kept_turn(struct kvstore *s)
{
    if (!s->kept || now_ns() < s->kept_ns || s->fault)
        return;
    s->kept_ns = now_ns() + LOOK_NS;
    struct bad rows = bad_rows(s), all = bad_all(s, &rows);
    files_said(s, &rows, &all);
    if (s->lost && !may_be(&rows) && lost_forget(s) == 0) {
        s->lost = false;
        store_over(s, SAY_LOST,
                   "the damaged files were deleted: what was lost is said no more");
    }
    s->kept = s->lost || may_be(&all);
}
