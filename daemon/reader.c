/* reader.c - who reads a stream, and is he still there?
 *
 * A reader on a link of its own is gone when the link closes.  Behind a front many share one
 * link, and nanomsg tells nobody that a peer has left: a client that says its pid in START and
 * NEXT is gone when that process has ended.  A pid of another namespace is somebody else's here, or
 * nobody's: it counts as none, and nothing is computed for such a reader while he is silent.  Who
 * else is only silent (a slow terminal, a pager, a stopped job) is looked after in gen.c. */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/ident.h"
#include "daemon/req.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEFT_NS (4 * 1000000000ull) /* a front that died is back sooner, its clients with it */

/* Also of one that its parent has not waited for yet, which kill() would find alive. */
static bool process_ended(int32_t pid)
{
    int fd = pidfd_open(pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    bool ended;

    if (fd < 0)
        return errno == ESRCH;
    ended = poll(&p, 1, 0) > 0;
    close(fd);
    return ended;
}

/* This process's pid namespace; 0: unknown (no /proc). */
static uint64_t own_ns(void)
{
    struct stat st;

    return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

/* Does a process of that user have it?  A number from another namespace mostly names one of another
 * user's here.  Where /proc does not tell, it is believed. */
static bool process_of(int32_t pid, uint32_t uid)
{
    char name[40], line[256];
    unsigned real, eff;
    bool theirs = false;

    snprintf(name, sizeof name, "/proc/%d/status", (int)pid);
    FILE *f = fopen(name, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Uid: %u %u", &real, &eff) == 2) {
            theirs = real != uid && eff != uid;
            break;
        }
    if (f)
        fclose(f);
    return !theirs;
}

/* Can the end of what this call says is its process be seen? */
static bool process_seen(const struct call *c, int32_t pid, uint64_t ns)
{
    return !process_ended(pid) && (!ns || !own_ns() || ns == own_ns()) &&
           process_of(pid, ident_uid(c->d->idents, c->uid));
}

int reader_said(struct call *c, uint64_t *ret_pid, uint64_t *ret_ns)
{
    return want_u64(c, c->json, "pid", 1, INT32_MAX, ret_pid) < 0 ||
                   want_u64(c, c->json, "pid_ns", 0, UINT32_MAX, ret_ns) < 0
               ? -EINVAL
               : 0;
}

int reader_came(struct req *r, struct call *c)
{
    uint64_t pid = 0, ns = 0;

    if (reader_said(c, &pid, &ns) < 0)
        return -EINVAL;
    r->reader_unseen = false;
    if ((int32_t)pid != r->reader_pid && pid && !process_seen(c, (int32_t)pid, ns)) {
        pid = 0;
        r->reader_unseen = true;
    }
    r->reader_pid = (int32_t)pid;
    r->reader = c->link;
    r->left_ns = 0;
    r->read_ns = now_ns();
    return 0;
}

void readers_link_gone(struct daemon *d, const void *link)
{
    for (struct req *r = d->gen ? d->gen->reqs : NULL; r; r = r->next)
        if (r->reader == link) {
            r->reader = NULL;
            r->left_ns = now_ns();
        }
}

bool reader_gone(const struct req *r, uint64_t now)
{
    must_be(r, REQ_MAGIC);
    if (r->reader_pid)
        return process_ended(r->reader_pid);
    return r->left_ns && !r->waits && now - r->left_ns > LEFT_NS;
}
