/* seg.h - segments: files of equal slots, and which slots are free.
 *
 * A layout's segments lie in kv/<layout id>/seg-NNNN, preallocated, never extended; a freed
 * slot is used again.  Free maps live in memory only and are rebuilt from the index at open.
 * Owner: the io thread (open, then only it); the commit thread makes and removes the files
 * and reads a segment's fd. */
#ifndef KVSTORE_SEG_H
#define KVSTORE_SEG_H
#include "base/err.h"
#include "kvstore/slot.h"
#include <stdbool.h>
#include <stdint.h>

struct sys;
enum {
    LAYOUTS_MAX = 64,
    SEGS_PER_LAYOUT_MAX = 65536,
    SEG_SLOTS_MIN = 8,
    SEGS_OPEN_MAX = 48, /* files open at a time, whatever the store's size */
};

struct seg {
    int fd;         /* O_DIRECT where the file system takes it; -1 while it is not open */
    int file;       /* the ring's number; -1 likewise */
    uint32_t users; /* tasks that need it open (io thread) */
    uint64_t tick;  /* when it was last asked for */
    uint32_t number, n_slots, n_taken;
    uint32_t hint;    /* where to look for a free slot */
    uint32_t tasks;   /* that read or write in it */
    uint32_t young;   /* its youngest block was used then, or before; */
    uint32_t shallow; /* its shallowest is as deep as this, or deeper */
    bool direct;
    bool dying; /* takes nothing new; its file goes when the last slot is given back */
    bool lost;  /* could not be opened: takes nothing new in this run */
    bool stuck; /* has slots that cannot be given back before the next open */
    bool gone;  /* its name leads elsewhere, or nowhere; */
    bool held;  /* and there are blocks of it in transfer */
    uint64_t dev, ino;
    uint32_t n_cut; /* slots its header promises and the file does not hold */
    uint64_t bytes, synced_group;
    uint64_t *taken; /* one bit a slot */
};
struct layout {
    char id[LAYOUT_ID_BYTES];
    uint64_t tag, hot_bytes, cold_bytes, slot_bytes;
    uint16_t index;
    struct seg **seg; /* in order of number */
    uint32_t n_seg, cap_seg, next_number;
    uint32_t full_to; /* segments before this one have no free slot */
    uint64_t n_slots, n_taken;
    int barred;   /* why it gets no new segments, or 0: what lies in its folder is not known */
    bool growing; /* a new segment is being made */
    uint32_t dropping;      /* drops on their way through the commit thread */
    uint64_t full_until_ns; /* no segment could be made: do not ask before; */
    int full_why;           /* why */
};

/* Slots of a new segment under a limit of disk_bytes, and its size. */
uint32_t seg_slots(uint64_t slot_bytes, uint64_t disk_bytes);
uint64_t seg_bytes(uint32_t n_slots, uint64_t slot_bytes);
void seg_path(const char *dir, const char *layout, uint32_t number, char *ret, size_t cap);
/* Makes the file (commit thread) and opens it.  -EEXIST: there is one of that name. */
int seg_make(struct sys *y, const char *dir, const uint8_t uuid[16], const struct layout *l,
             uint32_t number, uint32_t n_slots, struct seg **ret);
/* Opens an existing file and checks its header.  A file that was cut short has the slots it
 * still holds.  E_CORRUPT: not a segment, or its header is damaged; E_VERSION; -errno: the
 * file could not be read, which says nothing about what is in it. */
int seg_open(const char *path, struct seg **ret, struct seg_head *ret_head);
void seg_close(struct seg *s);
/* Only so many files are open at a time: this one again (0, -errno), and no more. */
int seg_wake(const char *dir, const struct layout *l, struct seg *s);
void seg_rest(struct seg *s);
/* Whether the name leads to its file; also when nobody can tell. */
bool seg_there(const char *path, const struct seg *s);
int layout_add_seg(struct layout *l, struct seg *s); /* keeps order; takes s */
void layout_del_seg(struct layout *l, struct seg *s);
struct seg *layout_seg(const struct layout *l, uint32_t number); /* or NULL */
/* -EAGAIN: all taken.  The caller accounts for it with slot_give. */
int slot_take(struct layout *l, struct seg **ret, uint32_t *ret_slot);
/* A slot known to be in use (at open): -EEXIST when it is already. */
int slot_claim(struct layout *l, struct seg *s, uint32_t slot);
void slot_give(struct layout *l, struct seg *s, uint32_t slot);
static inline uint64_t slot_off(const struct layout *l, uint32_t slot)
{
    return SEG_HEAD_BYTES + slot * l->slot_bytes;
}

#endif
