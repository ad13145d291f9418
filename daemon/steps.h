/* steps.h - the clockwork of one model: who runs next, and what a step brought.  Loop thread;
 * for gen.c alone. */
#ifndef DAEMON_STEPS_H
#define DAEMON_STEPS_H
struct gmodel;

/* Gives pages to who waits, plans the next step and submits it, unless one is under way. */
void steps_run(struct gmodel *gm);
#endif
