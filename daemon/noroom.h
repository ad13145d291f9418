/* noroom.h - what to say when something could not be written for want of room: where there is none,
 * and what makes some.  Loop thread only. */
#ifndef DAEMON_NOROOM_H
#define DAEMON_NOROOM_H
#include "daemon/daemon.h"

enum { NOROOM_WORDS = DAEMON_WHY };
/* res, as the store gave it to a batch: -EDQUOT its limit, -ENOSPC the file system or a limit of file
 * sizes; others as daemon_why has them. */
const char *noroom_words(struct daemon *d, uint32_t uid, int res, char ret[NOROOM_WORDS]);
bool noroom_is(int res); /* such a one */
/* The same of a block: E_LIMIT the limit, -EDQUOT the day's budget. */
const char *noroom_block(struct daemon *d, uint32_t uid, int res, char ret[NOROOM_WORDS]);

#endif
