/* quota.h - one user's share of the disk (share.h says what a share is).
 *
 * As long as there is plenty, nobody asks who has how much; when sessions have nearly filled the
 * limit, who holds more than his share begins nothing, and what is left is for the others.  There
 * are others on a daemon of the whole machine, and wherever a second user has a session.  A user's
 * keys share what is his in the same way, also where there are no others.  Loop thread only. */
#ifndef DAEMON_QUOTA_H
#define DAEMON_QUOTA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct daemon;

enum { QUOTA_WORDS = 320 };

/* May uid's sessions take more?  false: with words that say what he has and what helps. */
bool quota_turns(struct daemon *d, uint32_t uid, char *words, size_t cap);

/* May a block of uid's go down today?  true: it is counted; quota_back when it was not written.
 * Past the whole budget it is the store that says so.  Counts begin anew with the daemon: what is
 * left of the day is shared among those who write then. */
bool quota_put(struct daemon *d, uint32_t uid, uint64_t bytes);
void quota_back(struct daemon *d, uint32_t uid, uint64_t bytes);
/* Do uid's blocks go down?  false: with words. */
bool quota_puts(struct daemon *d, uint32_t uid, char *words, size_t cap);

#endif
