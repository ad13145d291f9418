/* chat_job.c - see chat_job.h. */
#include "engine/chat_job.h"
#include "engine/chat_jinja.h"
#include <errno.h>
#include <stdlib.h>

enum { PARSED_MEMORY = 64 << 20 };

struct chat_parsed {
    struct jmem mem;
    struct jnode *t;
    size_t bytes;
    char text[];
};

static void parsed_free(struct chat_parsed *p)
{
    if (p)
        jmem_fini(&p->mem);
    free(p);
}

void chat_jobs_fini(struct chat_jobs *j)
{
    parsed_free(j->last);
    j->last = NULL;
}

static int parsed_get(struct chat_jobs *j, const char *text, size_t n, struct errbuf *eb)
{
    struct chat_parsed *p = j->last;

    if (p && p->bytes == n && memcmp(p->text, text, n) == 0)
        return 0;
    p = n <= JINJA_BYTES_MAX ? calloc(1, sizeof *p + n) : NULL;
    if (!p)
        return n <= JINJA_BYTES_MAX
                   ? -ENOMEM
                   : err_set(eb, E_LIMIT, "%zu bytes, at most %d are read", n, JINJA_BYTES_MAX);
    p->mem.max = PARSED_MEMORY;
    p->bytes = n;
    memcpy(p->text, text, n);
    int r = jinja_parse(&p->t, &p->mem, p->text, n, eb);
    if (r < 0) {
        parsed_free(p);
        return r;
    }
    parsed_free(j->last);
    j->last = p;
    return 0;
}

int chat_job_run(struct chat_jobs *j, const struct chat_job *job, struct chat_text *out,
                 struct errbuf *eb)
{
    struct jvars v = {.msg = job->msg,
                      .n_msgs = job->n_msgs,
                      .prompt = job->prompt,
                      .date = job->date,
                      .bos = {job->bos, NULL, job->bos_bytes},
                      .eos = {job->eos, NULL, job->eos_bytes}};
    int r = parsed_get(j, job->tmpl, job->tmpl_bytes, eb);

    return r < 0 ? r : jinja_render(j->last->t, &v, out, eb);
}
