/* logend.h - which file of the turn log was its newest, written down beside them: STATE/log.end.
 *
 * The index knows how far the log reached.  Without an index nothing in the log would say that its
 * newest file is missing; this does.  A hint: it may lag behind, be missing or hurt, and then says
 * nothing.  Offset table: docs/FORMATS.md. */
#ifndef KVSTORE_LOGEND_H
#define KVSTORE_LOGEND_H
#include <stdint.h>

struct sys;
/* dir: STATE/log.  The number that was written last; 0: not known. */
uint32_t logend_get(const char *dir);
/* Written and synced, or as it was. */
int logend_put(struct sys *y, const char *dir, uint32_t number);

#endif
