/* chat_job.h - one rendering of a template as a piece of work that can be done elsewhere.
 *
 * Templates are programs of strangers.  A program that has its own life to lose gives them to a
 * host: another process, say, where a fault costs one rendering.  Without one they run in the
 * caller's thread. */
#ifndef ENGINE_CHAT_JOB_H
#define ENGINE_CHAT_JOB_H
#include "base/err.h"
#include "engine/chat.h"
#include <stdbool.h>
#include <stddef.h>

struct chat_job { /* borrowed for the call */
    const char *tmpl;
    size_t tmpl_bytes;
    const char *bos, *eos; /* 0 bytes: the model has none */
    size_t bos_bytes, eos_bytes;
    const struct chat_msg *msg;
    size_t n_msgs;
    bool prompt;
    const char *date; /* "YYYY-MM-DD" or NULL */
};
/* Keeps the template parsed last; zero-initialise.  One thread at a time. */
struct chat_jobs {
    struct chat_parsed *last;
};
/* Parses and renders here.  Appends to out; on failure out is untouched: -EINVAL (the template
 * raises), E_UNSUPP, E_LIMIT, -ENOMEM, with words. */
int chat_job_run(struct chat_jobs *j, const struct chat_job *job, struct chat_text *out,
                 struct errbuf *eb);
void chat_jobs_fini(struct chat_jobs *j);

struct chat_host {
    /* As chat_job_run, and -ECHILD: it was lost on the way; the words say how.  Any thread. */
    int (*run)(void *ctx, const struct chat_job *job, struct chat_text *out, struct errbuf *eb);
    void *ctx;
};
/* For all chats opened from here on; NULL: none.  Before threads, or when no chat is open. */
void chat_host_set(const struct chat_host *h);

#endif
