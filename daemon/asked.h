/* asked.h - what a START asks for, as a hash: whether an id seen before means the same.
 *
 * Over what the members say and not how they are written: their order, spaces, how a number is
 * spelled, null or absent, a true or false that is the default anyway, text or parts of text
 * make no difference, and members that START does not know and hints do not count.  What the
 * daemon adds (a model's defaults, a session's place) does not count either: it may be another
 * by the time the request is sent again.  docs/PROTOCOL.md says which members count.
 * No state; any thread. */
#ifndef DAEMON_ASKED_H
#define DAEMON_ASKED_H
#include <stdint.h>

struct call;
enum { ASKED_BYTES = 16 };

/* Members of a wrong type count as what they are: whoever carries the request out refuses
 * them.  -ENOMEM. */
int asked_hash(const struct call *c, uint8_t ret[ASKED_BYTES]);

#endif
