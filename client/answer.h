/* answer.h - one START on the user's behalf: its stream, its progress, its end.
 *
 * Goes on across a restart of the daemon by sending the same START again.  Ctrl-C cancels it
 * and keeps what is there. */
#ifndef CLIENT_ANSWER_H
#define CLIENT_ANSWER_H
#include "client/cli.h"

enum { CLI_PROBE_MISSED = -1 };
struct answer_opts {
    const char *what; /* for the progress line; "" for none */
    bool quiet_text;  /* text is collected, not printed */
    bool no_done;     /* in --json: the done object is the caller's business */
    bool logprobs;    /* text lines carry logprob */
    bool probe;       /* an id from before: a refusal or a cancelled end is CLI_PROBE_MISSED */
};
struct answer {
    char request[33];
    char *text; /* terminated; never NULL after answer_run */
    size_t text_n, text_cap;
    int32_t *tokens;
    float *logprobs;
    uint32_t n, cap;
    cJSON *top;   /* [{"index","top":[...]}], or NULL */
    cJSON *start; /* START's reply */
    cJSON *last;  /* the NEXT reply that said done; NULL when there is none */
    bool interrupted;
    bool refused; /* START was, so nothing has begun */
};
/* Takes start (its "id" is the request's); tail may be NULL. An exit code: CLI_OK,
 * CLI_INTERRUPTED with ret->last set when the cancelled answer could be read to its end, or
 * another, with the error said. */
int answer_run(struct cli *c, cJSON *start, const void *tail, size_t tail_bytes,
               const struct answer_opts *o, struct answer *ret);
void answer_fini(struct answer *a);
const char *answer_finish(const struct answer *a); /* "stop" ...; "" when unknown */
/* The done object of CLI.md, one line on stdout. */
void answer_print_done(const struct answer *a, bool top);
/* of: which of several documents it is, "": there is but one. */
void answer_print_stats(struct cli *c, const struct answer *a, const char *of);

/* --- generation flags: into START's members. An exit code. */
extern const struct flag flags_gen[];
int gen_flags(struct cli *c, const struct args *a, cJSON *start);
/* The prompt as START's input: words and after them what is piped in, or ("-" or NULL) stdin
 * alone; ids with --ids. *ret_tail is malloc'd. An exit code. */
int gen_prompt(struct cli *c, const struct args *a, const char *words, cJSON *start,
               void **ret_tail, size_t *ret_bytes);

#endif
