/* guard.c - what happens to the store from outside: who has it, where it is, what time it is.
 *
 * Two locks say that it is ours: on store.lock, which dead I/O keeps, and on the directory
 * itself, which nobody can delete and put back.  What is written is acknowledged only while
 * the names in the directory still lead to the files it went to. */
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/store.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const uint64_t LOCK_WAIT_NS = 2000000000u, LOOK_NS = 1000000000u;
static const uint64_t CLOCK_KEEP_NS = 60000000000u, CLOCK_IDLE_NS = 3600000000000u;

/* --- the locks ------------------------------------------------------------------------------ */

static int lock_path(const struct kvstore *s, char ret[PATH_MAX])
{
    return snprintf(ret, PATH_MAX, "%s/store.lock", s->dir);
}

static long holder(int fd)
{
    char pid[32] = "";
    ssize_t n = fd < 0 ? 0 : pread(fd, pid, sizeof pid - 1, 0);

    pid[n > 0 ? n : 0] = 0;
    return strtol(pid, NULL, 10);
}

static int in_use(const struct kvstore *s, struct errbuf *eb)
{
    char path[PATH_MAX];

    lock_path(s, path);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC); /* a pipe would wait */
    long pid = holder(fd);
    if (fd >= 0)
        close(fd);
    if (pid > 0)
        return err_set(eb, -EBUSY,
                       "the store in %s is in use by process %ld: stop that one, or use "
                       "another directory",
                       s->dir, pid);
    return err_set(eb, -EBUSY,
                   "the store in %s is in use by another process (its store.lock was deleted; "
                   "`fuser %s` names it): stop that one, or use another directory",
                   s->dir, s->dir);
}

static void pid_write(const struct kvstore *s)
{
    char pid[32];
    int n = snprintf(pid, sizeof pid, "%d\n", (int)getpid());

    /* A full disk: the lock holds, only the number is missing. */
    if (ftruncate(s->lock_fd, 0) == 0)
        (void)!pwrite(s->lock_fd, pid, (size_t)n, 0);
}

/* A dying predecessor holds its locks until its last I/O is back: wait for that. */
static int lock_wait(const struct kvstore *s, int fd, uint64_t until, struct errbuf *eb)
{
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        struct timespec pause = {0, 5000000};
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        if (now_ns() > until)
            return in_use(s, eb);
        nanosleep(&pause, NULL);
    }
    return 0;
}

/* The directory first: whoever is refused there has not touched the other lock. */
int guard_take(struct kvstore *s, struct errbuf *eb)
{
    uint64_t until = now_ns() + LOCK_WAIT_NS;
    char path[PATH_MAX];
    int r = 0;

    lock_path(s, path);
    s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0)
        return sys_unread(eb, -errno, s->dir);
    r = lock_wait(s, s->dir_fd, until, eb); /* some file systems lock files only: then */
    if (r == -EBUSY)                        /* the other one has to do */
        return r;
    r = sys_lock_ok(path, eb);
    if (r < 0)
        return r;
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (s->lock_fd < 0) /* it was not there: the directory takes no file */
        return sys_refuse(eb, -errno, "write in", s->dir);
    r = lock_wait(s, s->lock_fd, until, eb);
    if (r == 0)
        pid_write(s);
    return r == 0 || r == -EBUSY ? r : sys_refuse(eb, r, "lock", path);
}

void guard_drop(struct kvstore *s)
{
    /* Nothing is in flight: not to wait for the kernel to take the ring apart. */
    for (int i = 0; i < 2; i++) {
        int fd = i ? s->lock_fd : s->dir_fd;
        if (fd < 0)
            continue;
        (void)flock(fd, LOCK_UN);
        close(fd);
    }
    s->lock_fd = s->dir_fd = -1;
    lived_fini(&s->lived);
}

/* --- the files are where they were ------------------------------------------------------------ */

/* The kernel's name for what a descriptor leads to. */
static void where_now(int fd, char ret[PATH_MAX])
{
    char link[64];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, ret, PATH_MAX - 1);
    ret[n > 0 ? n : 0] = 0;
}

/* A directory without a name.  Some file systems leave it a link: then the kernel says so. */
static bool is_gone(int fd, const char *name)
{
    static const char word[] = " (deleted)";
    size_t n = strlen(name), w = sizeof word - 1;
    struct stat st;

    return fstat(fd, &st) < 0 || st.st_nlink == 0 || n == 0 ||
           (n >= w && strcmp(name + n - w, word) == 0 && !sys_same(name, fd));
}

static bool dir_lost(struct kvstore *s)
{
    char now[PATH_MAX];

    if (sys_same(s->dir, s->dir_fd))
        return false;
    where_now(s->dir_fd, now);
    bool gone = is_gone(s->dir_fd, now);
    if (!gone &&
        !sys_same(now, s->dir_fd)) /* of what is not mounted the kernel has half a name */
        store_stop(
            s,
            "the state directory %s is not to be seen any more while in use: its file "
            "system was unmounted, or another one mounted over it; nothing is written any "
            "more, what was kept before is whole; mount it there again, and nothing over "
            "it, then restart",
            s->dir);
    else if (!gone)
        store_stop(
            s,
            "the state directory %s was moved to %s while in use: nothing is written "
            "any more, what was kept before is whole; `mv %s %s`, or set --state=%s, then "
            "restart",
            s->dir, now, now, s->dir, now);
    else
        store_stop(s,
                   "the state directory %s was removed or replaced while in use: nothing is "
                   "written any more; put it back from a copy, or copy its files out of "
                   "/proc/%d/fd while process %d runs, then restart (without them it begins "
                   "empty)",
                   s->dir, (int)getpid(), (int)getpid());
    return true;
}

bool guard_holds(struct kvstore *s)
{
    char name[PATH_MAX];

    if (s->fault == -EROFS)
        return false;
    if (dir_lost(s))
        return false;
    snprintf(name, sizeof name, "%s/index.mdb", s->dir);
    bool index = index_in_place(s->idx, name);
    if (index && turnlog_in_place(s->log))
        return true;
    store_stop(
        s,
        "%s/%s was removed, moved or replaced while in use: nothing is written any more; "
        "put it back and restart, or restart without it: it is made anew from the %s, if that "
        "is still there",
        s->dir, index ? "log" : "index.mdb", index ? "index" : "turn log");
    return false;
}

/* A descriptor, or why there is none.  What is no plain file refuses every start: it is kept under
 * another name, and nothing is waited for at its other end nor written through it. */
static int lock_make(struct kvstore *s, const char *path)
{
    char aside[PATH_MAX + 64];
    struct stat st;
    int r = lstat(path, &st) == 0 && !S_ISREG(st.st_mode)
                ? sys_set_aside(&s->sys, path, aside, sizeof aside)
                : 0;

    if (r < 0)
        return r;
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    close(fd);
    return -ENXIO; /* another one already */
}

/* Nobody can tell: it may be there as it was, and the directory has a lock of its own. */
static void lock_unseen(struct kvstore *s, const char *path, int why)
{
    char typed[400];

    if (!s->lock_said)
        store_note(s, "%s cannot be looked at (%s): whether it is still there is not known; %s",
                   path, err_str(why), sys_remedy(why, path, typed, sizeof typed));
    s->lock_said = true;
}

/* The lock's file is gone: it is made again, unless somebody has been quicker. */
static void lock_again(struct kvstore *s)
{
    char path[PATH_MAX], typed[400];

    lock_path(s, path);
    int fd = lock_make(s, path);
    if (fd < 0) {
        if (!s->lock_said)
            store_note(
                s,
                "%s was deleted or replaced while in use and cannot be made again (%s): it "
                "is tried again; %s",
                path, err_str(fd), sys_remedy(fd, s->dir, typed, sizeof typed));
        s->lock_said = true;
        return;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        must(dup2(fd, s->lock_fd) == s->lock_fd);
        (void)fcntl(s->lock_fd, F_SETFD, FD_CLOEXEC);
        pid_write(s);
        store_note(s,
                   "%s was deleted or replaced while in use: it is made again, leave it "
                   "where it is",
                   path);
    } else {
        store_stop(s,
                   "%s was replaced and process %ld has locked it: two programs on one store; "
                   "nothing is written any more by this one; stop the other, then restart",
                   path, holder(fd));
    }
    close(fd);
}

static void lock_look(struct kvstore *s)
{
    char path[PATH_MAX];

    lock_path(s, path);
    int r = sys_plain(path); /* a link to it refuses a start, and so does what is no file */
    if (r < 0 && r != -ELOOP && r != -EISDIR && r != -ENXIO)
        lock_unseen(s, path, r);
    else if (r < 0 || !sys_same(path, s->lock_fd))
        lock_again(s);
    else
        s->lock_said = false;
}

/* --- the clock ----------------------------------------------------------------------------------- */

static void now_read(const struct kvstore *s, struct lived_now *ret)
{
    lived_read(ret);
    ret->wall_ns = store_wall(s);
}

static void set_said(struct kvstore *s, int64_t set)
{
    const int64_t hour = 3600000000000, day = 24 * hour;
    int64_t by = set < 0 ? -set : set;
    time_t now = (time_t)(store_wall(s) / 1000000000u);
    char date[40];
    struct tm tm;

    if (by < hour)
        return;
    /* With the date, or a second one by as much would be the same sentence, which is said once. */
    (void)strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    store_note(
        s,
        "the clock was set %s by %lld %s, to %s: check the date; nothing expires by that, "
        "ages count the time that has passed",
        set < 0 ? "back" : "forward",
        (long long)(by < 2 * day ? (by + hour / 2) / hour : (by + day / 2) / day),
        by < 2 * day ? "hours" : "days", date);
}

void guard_clock_open(struct kvstore *s)
{
    uint8_t b[LIVED_BYTES];
    struct lived_now now;
    int n = index_meta_get(s->idx, INDEX_LOOP, "clock", b, sizeof b);

    now_read(s, &now);
    int64_t set = lived_begin(&s->lived, b, n > 0 ? (size_t)n : 0, s->env.lived_ns, &now);
    set_said(s, set);
    s->clock_set = set != 0;
    s->clock_idle_ns = set ? 0 : now_ns() + CLOCK_IDLE_NS;
}

int guard_clock_put(struct kvstore *s)
{
    uint8_t b[LIVED_BYTES];

    return index_meta_put(s->idx, "clock", b, lived_pack(&s->lived, b));
}

bool guard_clock_due(struct kvstore *s)
{
    uint64_t now = now_ns();

    if (now < s->clock_put_ns)
        return false;
    s->clock_put_ns = now + CLOCK_KEEP_NS;
    s->clock_idle_ns = now + CLOCK_IDLE_NS;
    return true;
}

/* A change of day by the clock's own going begins a new count; one by setting it does not. */
static void day_turn(struct kvstore *s, bool set)
{
    uint64_t day = store_day_now(s);

    if (s->day == day)
        return;
    if (!set)
        s->day_mark = s->sys.bytes_written;
    s->day = day;
}

static int clock_commit(struct kvstore *s, bool grow)
{
    int r = index_begin(s->idx);

    if (r < 0)
        return r;
    s->clock_put_ns = 0;
    (void)guard_clock_due(s);
    r = grow ? index_room(s->idx) : 0;
    if (r == 0)
        r = guard_clock_put(s);
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    return index_commit(s->idx);
}

/* Where nothing waits nobody finds out that there is room again: a store that was full tries. */
static void room_asked(struct kvstore *s)
{
    if (s->fault != -ENOSPC || now_ns() < s->room_ns)
        return;
    s->room_ns = now_ns() + ROOM_AGAIN_NS;
    logwatch_look(s);
    int r = turnlog_room(s->log);
    logwatch_keep(s); /* it writes there */
    if (r == 0 && clock_commit(s, true) == 0)
        store_recovered(s);
}

void guard_turn(struct kvstore *s)
{
    struct lived_now now;

    if (now_ns() < s->guard_ns)
        return;
    s->guard_ns = now_ns() + LOOK_NS;
    now_read(s, &now);
    int64_t set = lived_tick(&s->lived, &now);
    set_said(s, set);
    if (set)
        s->clock_put_ns = s->clock_idle_ns = 0; /* what is stamped now is of another epoch */
    day_turn(s, set != 0);
    if (!guard_holds(s))
        return;
    ckpt_look(s);
    lock_look(s);
    /* An idle store keeps its clock too, now and then. */
    if (now_ns() > s->clock_idle_ns && s->fault == 0)
        (void)clock_commit(s, false);
    room_asked(s);
}

uint64_t kvs_age_ns(struct kvstore *s, uint64_t wall_ns)
{
    return lived_age(&s->lived, wall_ns);
}

uint64_t kvs_lived_ns(struct kvstore *s, uint64_t wall_ns)
{
    return lived_at(&s->lived, wall_ns);
}
