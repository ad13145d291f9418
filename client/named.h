/* named.h - a session as it was typed: its name, its id, or the beginning of one id. */
#ifndef CLIENT_NAMED_H
#define CLIENT_NAMED_H
#include "base/bounds.h"
#include "client/cli.h"

/* Where typed names what is only read, or asked, four digits of an id are enough.  Where it is
 * changed, ended or removed, or a name that there is not is a new session's, no fewer than eight
 * count: a name, or one that has gone, may look like the beginning of another's id. */
enum { NAMED_LEAST = 4, NAMED_LEAST_SURE = 8 };
/* What to ask the daemon for: typed as it is (a name comes before an id), or the whole id of the
 * one session, or with `requests` the one request that runs, that begins so.  CLI_OK, or an exit
 * code: of several the candidates are said. */
int named_session(struct cli *c, const char *typed, size_t least, bool requests,
                  char ret[NAME_BYTES_MAX + 1]);

#endif
