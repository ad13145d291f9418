/* rundir.c - see rundir.h.
 *
 * The lock, not the socket, decides between two daemons: a socket is there or not there at
 * the instant of a look, a lock is taken or not. */
#include "daemon/rundir.h"
#include "base/access.h"
#include "base/shell.h"
#include "daemon/conf.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is to be done about the place itself, before another one is named. */
static const char *place_remedy(int e)
{
    return e == EROFS ? "mount its file system for writing, or "
           : e == EIO ? "check the disk (dmesg), or "
                      : "";
}

/* Its parents too, as mkdir -p: an XDG directory of a fresh user may not be there yet. */
static int make_dir(const char *path, mode_t mode, struct errbuf *eb)
{
    char *p = strdup(path);
    int r = p ? 0 : -ENOMEM;

    for (char *s = p ? strchr(p + 1, '/') : NULL; s && r == 0; s = strchr(s + 1, '/')) {
        *s = 0;
        if (mkdir(p, 0755) < 0 && errno != EEXIST)
            r = -errno;
        *s = '/';
    }
    /* The umask may have taken from it what a group needs; one that was there stays as it is. */
    if (r == 0 && (mkdir(path, mode) < 0 ? errno != EEXIST : chmod(path, mode) < 0))
        r = -errno;
    free(p);
    return r < 0 ? err_set(eb, r,
                           "runtime directory %s: cannot be made: %s; %schoose another with "
                           "--runtime",
                           path, strerror(-r), place_remedy(-r))
                 : 0;
}

static int not_open(const char *what, const char *path, const char *flag, int e,
                    struct errbuf *eb)
{
    char todo[400];

    if (e == EACCES && access_remedy(path, todo, sizeof todo))
        return err_set(eb, -e, "%s %s: %s; %s, or choose another with --%s", what, path,
                       strerror(e), todo, flag);
    return err_set(eb, -e, "%s %s: %s; %schoose another with --%s", what, path, strerror(e),
                   place_remedy(e), flag);
}

/* A link on the way in is only followed when it is root's or ours: nobody else can turn it then. */
static int open_dir(const char *what, const char *path, struct errbuf *eb)
{
    const char *flag = what[0] == 's' ? "state" : "runtime";
    struct stat st;
    int fd;

    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && st.st_uid != 0 &&
        st.st_uid != geteuid())
        return err_set(eb, -EPERM,
                       "%s %s: is a link of uid %u; remove it, or choose another with "
                       "--%s",
                       what, path, st.st_uid, flag);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? not_open(what, path, flag, errno, eb) : fd;
}

static int check_dir(const struct conf *c, int fd, struct errbuf *eb)
{
    const mode_t bad = c->system ? 0027 : 0077; /* the system's is for a group */
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_set(eb, -errno, "runtime directory %s: %s", c->runtime, strerror(errno));
    if (st.st_uid != geteuid())
        return err_set(eb, -EPERM,
                       "runtime directory %s: belongs to uid %u, this is uid %u; "
                       "choose another with --runtime",
                       c->runtime, st.st_uid, geteuid());
    if (st.st_mode & bad)
        return err_set(eb, -EPERM,
                       "runtime directory %s: has mode %04o, others could reach the "
                       "sockets in it; chmod %s it, or choose another with --runtime",
                       c->runtime, st.st_mode & 07777, c->system ? "750" : "700");
    return 0;
}

static int take_lock(const struct conf *c, int dir, int *ret, struct errbuf *eb)
{
    char pid[32] = "";
    int fd = openat(dir, "hearthd.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return err_set(eb, -errno, "%s/hearthd.lock: %s", c->runtime, strerror(errno));
    /* One that was just killed holds on until its last I/O is over (some 70 ms): the same
     * patience as the store's lock has. */
    int held = flock(fd, LOCK_EX | LOCK_NB);
    for (int i = 0; i < 40 && held < 0 && errno == EWOULDBLOCK; i++) {
        usleep(50000);
        held = flock(fd, LOCK_EX | LOCK_NB);
    }
    if (held < 0) {
        int r = errno == EWOULDBLOCK ? -EBUSY : -errno;

        if (r == -EBUSY) {
            ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
            pid[n > 0 ? strspn(pid, "0123456789") : 0] = 0;
            err_set(eb, r,
                    "another hearthd%s%s%s runs in %s; stop it, or give this one a "
                    "--runtime and --state of its own",
                    pid[0] ? " (pid " : "", pid, pid[0] ? ")" : "", c->runtime);
        } else {
            err_set(eb, r, "%s/hearthd.lock: flock: %s", c->runtime, strerror(-r));
        }
        close(fd);
        return r;
    }
    int n = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    /* Only for the words above: a lock without a number still locks. */
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)n, 0) < 0)
        errno = 0;
    *ret = fd;
    return 0;
}

int rundir_take(const struct conf *c, int *ret_lock_fd, struct errbuf *eb)
{
    int r = make_dir(c->runtime, c->system ? 0750 : 0700, eb);
    int dir = r < 0 ? -1 : open_dir("runtime directory", c->runtime, eb);

    if (r == 0)
        r = dir < 0 ? dir : check_dir(c, dir, eb);
    if (r == 0)
        r = take_lock(c, dir, ret_lock_fd, eb);
    if (dir >= 0)
        close(dir);
    return r;
}

int rundir_state(const struct conf *c, struct errbuf *eb)
{
    struct stat st;
    char word[SHELL_WORD_BYTES(PATH_MAX)];
    int dir = open_dir("state directory", c->state, eb), r = 0;

    if (dir == -ENOENT)
        return 0; /* the store makes it, for its owner alone */
    if (dir < 0)
        return dir;
    (void)shell_word(word, sizeof word, c->state); /* it was opened, so it is no longer */
    if (fstat(dir, &st) < 0)
        r = err_set(eb, -errno, "state directory %s: %s", c->state, strerror(errno));
    else if (st.st_uid != geteuid())
        r = err_set(
            eb, -EPERM,
            "state directory %s: belongs to uid %u, this is uid %u, and its owner could "
            "change what is kept; run hearthd as its owner, or `sudo chown -R %u %s`, or "
            "choose "
            "another with --state",
            c->state, st.st_uid, geteuid(), geteuid(), word);
    else if (st.st_mode & 0022)
        r = err_set(
            eb, -EPERM,
            "state directory %s: has mode %04o, others could change what is kept; `chmod go-w "
            "%s`, or choose another with --state",
            c->state, st.st_mode & 07777, word);
    else if (faccessat(AT_FDCWD, c->state, R_OK | W_OK | X_OK, AT_EACCESS) < 0)
        r = not_open("state directory", c->state, "state", errno, eb);
    close(dir);
    return r;
}
