/* daemon.h - everything of one hearthd, in one place: who owns what, by pointer.
 *
 * Loop thread only.  Each part's header says what it does; main.c opens them in this order
 * and closes them in reverse. */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H
#include <stdbool.h>
#include <stdint.h>

struct conf;
struct links;
struct loop;
struct kvstore;
struct model_table;
struct sess_table;
struct gen;
struct outbox;
struct stored;
struct prep;
struct fronts;
struct weightsid;
struct notify;

struct daemon {
    const struct conf *conf; /* conf.h: immutable after start */
    struct loop *loop;       /* loop.h */
    struct kvstore *store;   /* kvstore.h; NULL never: a store that cannot open ends start-up */
    struct model_table *models; /* model.h */
    struct idents *idents;      /* ident.h: owners of API keys; NULL: no keys are known */
    struct sess_table *sess;    /* sess.h: sessions by id and by owner and name */
    struct outbox *outbox;      /* outbox.h: what is on its way to the store */
    struct gen *gen;            /* gen.h: requests, streams, the scheduler's clockwork */
    struct links *links;        /* link.h: peers */
    struct stored *stored;      /* stored.h: the io and commit threads of the store */
    struct prep *prep;          /* prep.h: jobs too long for the loop */
    struct chores *chores;      /* chores.h: long work that the loop itself must do */
    struct fronts *fronts;      /* frontchild.h: hearth-front processes we started, or NULL */
    struct weightsid *wid;      /* weightsid.h: hashes of model files, in the background */
    struct notify *notify;      /* sdnotify.h: what the service manager hears */
    uint32_t uid;               /* the daemon's own */
    uint64_t started_ns;        /* now_ns() */
    uint64_t epoch;             /* numerics epoch of the backend in use */
    char backend[32];           /* of the model loaded last: "cpu-avx2" */
    bool stopping;
    int lock_fd;            /* rundir.h: held for life */
    char http[64];          /* "127.0.0.1:8765" once the front has said so */
    char warnings[16][512]; /* standing warnings for status */
    uint32_t n_warnings;
};
/* Who may see and steer what is of all users: root, and who the daemon runs as. */
static inline bool daemon_trusts(const struct daemon *d, uint32_t uid)
{
    return uid == 0 || uid == d->uid;
}
/* Says it once in the log and keeps it for status; the same words twice are kept once. */
void daemon_warn(struct daemon *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Takes standing warnings that begin with these words away again. */
void daemon_unwarn(struct daemon *d, const char *begin);
/* What a store's answer means, for uid: why it writes nothing any more and what to do (ret holds
 * it), or the error's own words.  After "…: ". */
enum { DAEMON_WHY = 512 };
const char *daemon_why(struct daemon *d, uint32_t uid, int res, char ret[DAEMON_WHY]);

#endif
