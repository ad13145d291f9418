/* rundir.h - the runtime directory: made, checked, and held by one daemon. */
#ifndef DAEMON_RUNDIR_H
#define DAEMON_RUNDIR_H
#include "base/err.h"

struct conf;
/* Makes conf->runtime (0700, with --system 0750) where it is missing, refuses one that others could
 * write to or (a user's) look into, and locks it; *ret_lock_fd stays open for the daemon's
 * life.  -EBUSY: another hearthd has it, eb says its pid. */
int rundir_take(const struct conf *c, int *ret_lock_fd, struct errbuf *eb);
/* Refuses a state directory that is another user's or that others could write to.  One that is not
 * there yet is fine. */
int rundir_state(const struct conf *c, struct errbuf *eb);

#endif
