/* say.c - what the store has to say: things that happened, and states that stand until they pass.
 *
 * A thing that happened is a note, handed out once (kvs_note), and the daemon keeps it in its
 * status.  A state is in the statistics as long as it stands; that it began and that it ended
 * are notes too, for the log.  Any thread. */
#include "base/clock.h"
#include "kvstore/store.h"
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

void store_event(struct kvstore *s)
{
    uint64_t one = 1;

    (void)!write(s->event_fd, &one, sizeof one);
}

/* --- notes ----------------------------------------------------------------------------------------- */

static void note_add(struct kvstore *s, enum kvs_note kind, const char *words)
{
    pthread_mutex_lock(&s->to_loop.lock);
    if (s->to_loop.n_notes < NOTES_MAX) {
        struct note *n = &s->to_loop.note[s->to_loop.n_notes++];
        n->kind = kind;
        snprintf(n->words, sizeof n->words, "%s", words);
    } else {
        s->to_loop.notes_over++;
    }
    pthread_mutex_unlock(&s->to_loop.lock);
    store_event(s);
}

void store_note(struct kvstore *s, const char *fmt, ...)
{
    char words[NOTE_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    note_add(s, KVS_NOTE_STANDS, words);
}

enum kvs_note kvs_note(struct kvstore *s, char *ret, size_t cap)
{
    enum kvs_note kind = KVS_NOTE_NONE;

    pthread_mutex_lock(&s->to_loop.lock);
    if (s->to_loop.n_notes) {
        kind = s->to_loop.note[0].kind;
        snprintf(ret, cap, "%s", s->to_loop.note[0].words);
        s->to_loop.n_notes--;
        memmove(s->to_loop.note, s->to_loop.note + 1,
                s->to_loop.n_notes * sizeof *s->to_loop.note);
    } else if (s->to_loop.notes_over) {
        kind = KVS_NOTE_STANDS;
        snprintf(ret, cap, "%u more things like these happened in the store",
                 s->to_loop.notes_over);
        s->to_loop.notes_over = 0;
    }
    pthread_mutex_unlock(&s->to_loop.lock);
    return kind;
}

/* --- states ---------------------------------------------------------------------------------------- */

void store_state(struct kvstore *s, enum say k, const char *fmt, ...)
{
    char words[NOTE_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&s->to_loop.lock);
    bool begins = !s->to_loop.state[k][0];
    snprintf(s->to_loop.state[k], sizeof s->to_loop.state[k], "%s", words);
    pthread_mutex_unlock(&s->to_loop.lock);
    if (begins)
        note_add(s, KVS_NOTE_BEGINS, words);
}

void store_over(struct kvstore *s, enum say k, const char *words)
{
    pthread_mutex_lock(&s->to_loop.lock);
    bool stood = s->to_loop.state[k][0];
    s->to_loop.state[k][0] = 0;
    pthread_mutex_unlock(&s->to_loop.lock);
    if (stood)
        note_add(s, KVS_NOTE_OVER, words);
}

uint32_t store_states(struct kvstore *s, char ret[SAY_SEEN][KVS_WORDS], int fault[SAY_SEEN])
{
    static const int of[SAY_SEEN] = {[SAY_FAULT] = -EROFS, [SAY_FULL] = -ENOSPC};
    uint32_t n = 0;

    pthread_mutex_lock(&s->to_loop.lock);
    for (int k = 0; k < SAY_SEEN; k++)
        if (s->to_loop.state[k][0]) {
            fault[n] = of[k];
            snprintf(ret[n++], KVS_WORDS, "%s", s->to_loop.state[k]);
        }
    pthread_mutex_unlock(&s->to_loop.lock);
    return n;
}

/* --- faults ---------------------------------------------------------------------------------------- */

void store_stop(struct kvstore *s, const char *fmt, ...)
{
    char words[NOTE_BYTES];
    va_list ap;

    if (atomic_exchange(&s->fault, -EROFS) == -EROFS)
        return;
    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    store_state(s, SAY_FAULT, "%s", words);
}

static const char *remedy(int why)
{
    switch (why) {
    case -EROFS: return "mount the file system for writing";
    case -EACCES:
    case -EPERM: return "give the daemon's user the right to write it";
    case -EMFILE:
    case -ENFILE: return "raise the limit of open files";
    case -ENOMEM: return "free some memory";
    case -EEXIST:
        return "a file that this program did not make has the next number there: a start reads "
               "it, or move it away";
    default: return "check the disk (dmesg)";
    }
}

void store_fault(struct kvstore *s, int why, const char *doing, const char *file)
{
    store_stop(s,
               "%s failed (%s%s%.300s): nothing is written any more, reads go on and nothing "
               "that was acknowledged is lost; %s, then restart",
               doing, err_str(why), file ? ", " : "", file ? file : "", remedy(why));
}

void store_full(struct kvstore *s, int why, const char *doing)
{
    const char *what = why == -EFBIG ? "a file has its largest size" : "disk full";
    int was = s->fault;

    s->full_why = sys_full_as(why);
    /* Read-only is for good; a full disk is not. */
    while (was != -EROFS && was != -ENOSPC &&
           !atomic_compare_exchange_weak(&s->fault, &was, -ENOSPC))
        ;
    s->room_ns = now_ns() + ROOM_AGAIN_NS; /* until then who writes sees for himself */
    if (was != -ENOSPC && was != -EROFS)
        store_state(s, SAY_FULL, "%s (%s, in %.300s): %s, writing goes on by itself", what,
                    doing, s->dir, sys_remedy(why, s->dir, NULL, 0));
}

void store_recovered(struct kvstore *s)
{
    int full = -ENOSPC;

    if (atomic_compare_exchange_strong(&s->fault, &full, 0))
        store_over(s, SAY_FULL, "the disk has room again, writing goes on");
}

bool kvs_stopped(struct kvstore *s, char *ret, size_t cap)
{
    pthread_mutex_lock(&s->to_loop.lock);
    bool stopped = s->to_loop.state[SAY_FAULT][0];
    if (stopped)
        snprintf(ret, cap, "%s", s->to_loop.state[SAY_FAULT]);
    pthread_mutex_unlock(&s->to_loop.lock);
    return stopped;
}
