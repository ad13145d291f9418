/* progress.h - how far a long request is: a bar on a terminal, else a line now and then.
 *
 * Without a terminal a stage has a line every ten seconds, and one at its end if it took longer
 * than one: what is over at once needs no words in a log. */
#ifndef CLIENT_PROGRESS_H
#define CLIENT_PROGRESS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct progress {
    bool tty, quiet, color; /* set by the owner; quiet: nothing is written */
    int width;              /* columns of the terminal; 0: 80 */
    char what[40];          /* "book" - what is worked on; may be empty */
    /* progress.c's own */
    char stage[24];
    bool shown, share;
    double first, total; /* of the stage: done when it was first seen, and of how many */
    uint64_t began_ns;   /* the stage was first seen */
    uint64_t drawn_ns;
};
struct progress_at {
    const char *stage;           /* "prefill" */
    double done, total;          /* tokens; total 0: unknown */
    double tokens_per_s, eta_ms; /* < 0: unknown */
    bool share;                  /* done is a part of total and counts nothing: percent */
};
void progress_show(struct progress *p, const struct progress_at *at);
void progress_clear(struct progress *p); /* takes the bar off the screen; a line stays */
void progress_done(struct progress *p);  /* the same, and the stage came to its end */
void progress_stop(struct progress *p);  /* the same, and it did not: nothing is said of it */

/* The texts themselves, for tests: without newline, never longer than width columns. */
void progress_bar(char *ret, size_t cap, int width, const char *what,
                  const struct progress_at *at);
void progress_line(char *ret, size_t cap, const char *what, const struct progress_at *at);

#endif
