/* sandbox.h - a front gives up what it will not need: files, programs, processes, new rights.
 *
 * Its peers are strangers and its libraries are attack surface.  When the doors are open and
 * the link to hearthd stands, nothing is left that wants a path, so none is allowed any more:
 * the kernel refuses every call that is not on a short list (EPERM). */
#ifndef FRONT_SANDBOX_H
#define FRONT_SANDBOX_H
#include <stdbool.h>

/* First thing in main(): no core files, no debugger of the same user, no rights by exec, as
 * many descriptors as there may be. */
void sandbox_begin(void);
/* For the whole process, also threads that run already, and for good.  reconnects: new links to
 * hearthd must be possible (a front that outlives it).  A kernel that refuses gets one warning, and
 * the front works on without. */
void sandbox_enter(bool reconnects);

#endif
