/* ring.h - asynchronous block I/O for one thread.
 *
 * Ownership: the caller owns an io_req and the memory it points at, and must not touch either
 * from submit() until done() runs.  The ring allocates nothing after open().  Callbacks run
 * inside poll(), on the polling thread, exactly once per accepted request, in completion
 * order; a callback may submit again.  Short transfers are continued inside, EINTR and EAGAIN
 * are tried again (bounded): res is all of len, or an error.  A read that meets the end of
 * the file is -ENODATA.
 *
 * Threads: open(), the first add_file() calls and close() by anyone while nothing runs; then
 * add_file, del_file, submit and poll by one and the same thread; wake by any.
 *
 * Same contract, same tests, three implementations:
 *   ring_uring.c         io_uring: one owner, registered files
 *   ring_pool.c          four threads with pread/pwrite: where io_uring is refused
 *   tests/sim/ring_sim.c seeded: reorders, delays, fails, forgets at power loss */
#ifndef KVSTORE_RING_H
#define KVSTORE_RING_H
#include "base/bounds.h"
#include <stdint.h>

struct io_ring;

enum io_op { IO_READ, IO_WRITE };
enum io_state { IO_IDLE, IO_OUT };
enum { IO_FILES_MAX = 4096, IO_TRIES_MAX = 100 };

struct io_req {
    uint8_t op;                     /* enum io_op */
    uint8_t state;                  /* the ring's: catches reuse while out */
    uint16_t file;                  /* from add_file() */
    uint32_t len;                   /* bytes, IO_ALIGN multiple */
    uint64_t off;                   /* bytes, IO_ALIGN multiple */
    void *buf;                      /* IO_ALIGNed */
    int32_t res;                    /* set before done(): len, or a negative code */
    void (*done)(struct io_req *r); /* runs in poll() */
    void *user;
    struct io_req *next; /* the ring's */
};

struct io_opts {
    uint32_t depth; /* requests out at once, <= IO_INFLIGHT_MAX */
    /* Tests: asked before every attempt at a transfer of *len bytes.  May shorten *len; a
     * nonzero return ends the attempt with that code and moves nothing.  With the pool this
     * runs on its threads. */
    int (*fault)(void *user, const struct io_req *q, uint32_t *len);
    void *fault_user;
};

struct io_ops {
    const char *name;
    int (*open)(struct io_ring **ret, const struct io_opts *o);
    void (*close)(struct io_ring *r);           /* must be idle; NULL ok */
    int (*add_file)(struct io_ring *r, int fd); /* borrows fd until del_file; index >= 0 */
    void (*del_file)(struct io_ring *r, int file);
    int (*submit)(struct io_ring *r, struct io_req *q); /* 0, -EAGAIN if full, -EIO if broken */
    /* Waits up to wait_ns for something to complete; returns how many callbacks ran, or -EIO
     * when the ring is broken and nothing is out any more: close it and use another kind. */
    int (*poll)(struct io_ring *r, uint64_t wait_ns);
    void (*wake)(struct io_ring *r); /* any thread: ends a poll that waits, now or next */
};

extern const struct io_ops ring_uring, ring_pool;

#endif
