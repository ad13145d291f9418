/* disk_sim.h - a power cut for a store that runs on real files: which bytes would be left.
 *
 * Everything the store writes passes here (the sys hook and ring_sim).  A write is pending
 * until its file is synced; at the cut each 512-byte sector of every pending or unfinished
 * write is there or not, by the seed's choice.  The index is LMDB's own: between commits its
 * file is as the last commit left it, so it is copied.  One thread only. */
#ifndef TESTS_SIM_DISK_SIM_H
#define TESTS_SIM_DISK_SIM_H
#include "kvstore/env.h"
#include <stdbool.h>
#include <stdint.h>

struct disk_sim {
    char live[256], cut[256]; /* directories: the store's, and the one to make at the cut */
    uint64_t rand;
    uint64_t events, cut_at; /* counted; the cut comes at this one (0: never) */
    bool cut_done;
    void (*before_cut)(void *user); /* what had been acknowledged by then */
    void *user;
    struct sim_file *files;
    struct io_ring *ring; /* ring_sim's, for what is in flight */
};
void disk_sim_init(struct disk_sim *d, const char *live, const char *cut, uint64_t seed,
                   uint64_t cut_at);
void disk_sim_fini(struct disk_sim *d);
/* An env whose ring and hook are this disk. */
struct kvs_env disk_sim_env(struct disk_sim *d);

/* The third ring: completes what is out in any order, some of it later; io_opts.fault_user is
 * the disk. */
extern const struct io_ops ring_sim;
/* For disk_sim.c: unfinished writes, called with each. */
void ring_sim_out(struct io_ring *r, void (*each)(void *ctx, int fd, const struct io_req *q),
                  void *ctx);
/* For ring_sim.c. */
void disk_sim_event(struct disk_sim *d);
void disk_sim_wrote(struct disk_sim *d, int fd, const void *buf, uint64_t off, uint64_t bytes);
uint64_t disk_sim_rand(struct disk_sim *d);

#endif
