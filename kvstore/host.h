/* host.h - the host tier's memory: one aligned region, pages of any layout in it.
 *
 * A page is a slot's image (header and payload), IO_ALIGNed, and stays where it is from take
 * to drop.  Pages of one layout are equal, so one layout never fragments the region; several
 * layouts share it by evicting the least recently used until a hole is wide enough.
 * Owner: the io thread.  Never grows past the budget it was opened with. */
#ifndef KVSTORE_HOST_H
#define KVSTORE_HOST_H
#include <stdbool.h>
#include <stdint.h>

struct host;
struct host_page {
    uint8_t *mem;
    uint64_t bytes;
    void *owner;                     /* the taker's; handed to evict() */
    uint32_t pins;                   /* > 0: stays */
    bool dirty;                      /* not on disk yet: stays */
    bool used;                       /* the region's own from here on: taken, or a hole */
    struct host_page *left, *right;  /* neighbours by address */
    struct host_page *newer, *older; /* recency; for holes, the list of holes */
};
/* evict() forgets the page (the region takes it back itself right after). */
int host_open(struct host **ret, uint64_t bytes, void (*evict)(void *ctx, struct host_page *p),
              void *ctx);
void host_close(struct host *h);
/* Evicts clean, unpinned pages, oldest first, as needed.  -EAGAIN: what is here must stay. */
int host_take(struct host *h, uint64_t bytes, void *owner, struct host_page **ret);
void host_drop(struct host *h, struct host_page *p); /* without evict() */
void host_touch(struct host *h, struct host_page *p);
uint64_t host_used(const struct host *h);
uint64_t host_top(const struct host *h); /* no page has ever ended behind this offset */
void *host_base(const struct host *h);
uint64_t host_bytes(const struct host *h);

#endif
