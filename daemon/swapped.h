/* swapped.h - a model's name stands for other weights than before.
 *
 * A session goes on by its model's name.  When the file behind it is another one, or this build
 * computes otherwise, nothing of what was kept is taken for its own: all is computed again, and that
 * is said: in the log, in STATUS, and in the first answer of each session that was last used before.
 * Loop thread only. */
#ifndef DAEMON_SWAPPED_H
#define DAEMON_SWAPPED_H
#include <stdint.h>

struct daemon;
struct model;
struct req;

/* A models_on_change callback: compares what is loaded with what the name stood for. */
void swapped_model(struct daemon *d, struct model *m);
/* Warns r, which ends, where its session was last used with what it was before. */
void swapped_warn(struct req *r);

#endif
