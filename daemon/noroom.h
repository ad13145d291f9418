/* noroom.h - what to say when something could not be written for want of room: where there is none,
 * and what makes some.  Loop thread only. */
#ifndef DAEMON_NOROOM_H
#define DAEMON_NOROOM_H
#include "base/bounds.h"
#include "daemon/daemon.h"

struct call;
struct model;
struct sess;

enum { NOROOM_WORDS = DAEMON_WHY };
/* res, as the store gave it to a batch or a read: -EDQUOT its limit, -ENOSPC the file system,
 * -EFBIG a limit of file sizes, -EAGAIN the index is not to be had now; others as daemon_why has them. */
const char *noroom_words(struct daemon *d, uint32_t uid, int res, char ret[NOROOM_WORDS]);
bool noroom_is(int res); /* such a one */
/* Of a read that failed: what was to be read is there all the same, and can be had when there is room
 * or, where nothing is written any more, after a restart. */
bool noroom_later(int res);
/* What uid hears who asked for what is stored of s, or NULL: of a request, and res came of that:
 * that it can be had later (noroom_later), and then what helps; else it is lost. */
struct unread {
    uint32_t status;
    const char *slug;
    char words[NOROOM_WORDS + NAME_BYTES_MAX + 64];
};
void noroom_unread(struct daemon *d, uint32_t uid, const struct sess *s, int res,
                   struct unread *ret);
void noroom_fail(struct call *c, const struct sess *s, int res); /* c hears that */
/* The same of m's blocks: E_LIMIT the limit, -EDQUOT the day's budget. */
const char *noroom_block(struct daemon *d, uint32_t uid, const struct model *m, int res,
                         char ret[NOROOM_WORDS]);

#endif
