/* logwatch.c - a turn log that others write to while the store is open.
 *
 * Its files change by the commit thread alone: a length or a time of change that this has not left
 * is somebody else's doing.  Then all of it is read as a start would read it, and what lacks
 * something is made anew from the index (ckpt_look), before that is damaged too.  Bytes that
 * change without a write are for the next start to find.  Commit thread. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "kvstore/logfile.h"
#include "kvstore/store.h"
#include <dirent.h>
#include <sys/stat.h>

/* Of all its files, in whatever order; 0: there are none, or nobody can tell. */
static uint64_t stamp(const struct kvstore *s)
{
    char dir[PATH_MAX];
    uint64_t sum = 0;

    snprintf(dir, sizeof dir, "%s/log", s->dir);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        uint32_t number;
        uint8_t b[40];
        struct stat st;
        char end;
        if (sscanf(e->d_name, "seg-%9u%c", &number, &end) != 1 ||
            fstatat(dirfd(d), e->d_name, &st, 0) < 0)
            continue;
        st64(b, number);
        st64(b + 8, (uint64_t)st.st_ino);
        st64(b + 16, (uint64_t)st.st_size);
        st64(b + 24, (uint64_t)st.st_mtim.tv_sec);
        st64(b + 32, (uint64_t)st.st_mtim.tv_nsec);
        sum += (uint64_t)crc32c(0, b, sizeof b) << 16 | 1;
    }
    if (d)
        closedir(d);
    return sum;
}

void logwatch_look(struct kvstore *s)
{
    if (s->log_stamp && stamp(s) != s->log_stamp)
        s->log_touched = true;
}

void logwatch_keep(struct kvstore *s)
{
    s->log_stamp = stamp(s);
}

bool logwatch_hurt(struct kvstore *s)
{
    struct turnlog_report rep;
    char dir[PATH_MAX];

    if (!s->log_touched)
        return false;
    snprintf(dir, sizeof dir, "%s/log", s->dir);
    if (log_salvage(dir, NULL, NULL, &rep, NULL) < 0)
        return false; /* cannot be told now */
    s->log_touched = false;
    return rep.damaged || rep.last_seq < turnlog_seq(s->log);
}
