/* busfault.h - the last words when a mapped file fails under us. */
#ifndef DAEMON_BUSFAULT_H
#define DAEMON_BUSFAULT_H
#include <stdbool.h>

/* From here on a SIGBUS says which files it may be and what to do, on stderr, before it ends the
 * process as ever.  state: the state directory; journal: lines begin with a level.  Once, main
 * thread; programs started later and children that set their own handlers do without. */
void busfault_open(const char *state, bool journal);

#endif
