/* helper.h - one thread beside the io thread: checks what was read, warms memory.
 *
 * Checking a block costs a pass over its bytes, and first touching memory costs more than
 * reading it from a disk; done here, both leave the io thread free to keep the disk busy.
 * Checks come before warming.  Owner: the io thread, except where marked. */
#ifndef KVSTORE_HELPER_H
#define KVSTORE_HELPER_H
#include <stdint.h>

struct helper;
struct helper_job { /* the caller's until run() */
    struct helper_job *next;
    void (*run)(struct helper_job *j); /* on the helper's thread */
};
/* Warms [mem, mem + bytes) from its start, never more than ahead bytes beyond helper_used. */
int helper_open(struct helper **ret, void *mem, uint64_t bytes, uint64_t ahead);
void helper_close(struct helper *h); /* jobs that were accepted have run */
void helper_submit(struct helper *h, struct helper_job *j);
void helper_used(struct helper *h, uint64_t end); /* memory up to here is in use */

#endif
