/* seg.c - see seg.h. */
#include "kvstore/seg.h"
#include "base/check.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t SEG_BYTES_MAX = 1ull << 30;

uint32_t seg_slots(uint64_t slot_bytes, uint64_t disk_bytes)
{
    uint64_t want = disk_bytes / 16 < SEG_BYTES_MAX ? disk_bytes / 16 : SEG_BYTES_MAX;
    uint64_t n = want > 2 * SEG_HEAD_BYTES ? (want - 2 * SEG_HEAD_BYTES) / slot_bytes : 0;

    return n < SEG_SLOTS_MIN ? SEG_SLOTS_MIN : (uint32_t)n;
}

uint64_t seg_bytes(uint32_t n_slots, uint64_t slot_bytes)
{
    return 2 * SEG_HEAD_BYTES + n_slots * slot_bytes;
}

void seg_path(const char *dir, const char *layout, uint32_t number, char *ret, size_t cap)
{
    snprintf(ret, cap, "%s/kv/%s/seg-%04u", dir, layout, number);
}

void seg_close(struct seg *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    free(s->taken);
    free(s);
}

/* Whether a file system takes O_DIRECT at our alignment is known once a read went well. */
static int open_direct(const char *path, bool *ret_direct, uint8_t *head)
{
    struct stat st;
    int r = -EINVAL, fd;

    /* A directory says so when it is opened; a pipe would wait for ever. */
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return -ENXIO;
    fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    *ret_direct = fd >= 0;
    if (fd >= 0)
        r = sys_read(fd, head, SEG_HEAD_BYTES, 0);
    else if (errno != EINVAL)
        return -errno;
    if (r == -EINVAL) {
        if (fd >= 0)
            close(fd);
        *ret_direct = false;
        fd = open(path, O_RDWR | O_CLOEXEC);
        r = fd < 0 ? -errno : sys_read(fd, head, SEG_HEAD_BYTES, 0);
    }
    if (r < 0) {
        if (fd >= 0)
            close(fd);
        return r == -ENODATA ? E_CORRUPT : r;
    }
    return fd;
}

int seg_open(const char *path, struct seg **ret, struct seg_head *ret_head)
{
    struct seg *s = calloc(1, sizeof *s);
    uint8_t *head = NULL;
    int r = s ? 0 : -ENOMEM;

    if (r == 0) {
        s->fd = s->file = -1;
        s->shallow = UINT32_MAX;
        if (posix_memalign((void **)&head, IO_ALIGN, SEG_HEAD_BYTES))
            r = -ENOMEM;
    }
    if (r == 0) {
        s->fd = open_direct(path, &s->direct, head);
        r = s->fd < 0 ? s->fd : seg_head_get(head, ret_head);
    }
    if (r == 0) {
        struct stat st;
        off_t end = lseek(s->fd, 0, SEEK_END);
        if (fstat(s->fd, &st) == 0) {
            s->dev = st.st_dev;
            s->ino = st.st_ino;
        }
        uint64_t whole =
            end < SEG_HEAD_BYTES ? 0 : ((uint64_t)end - SEG_HEAD_BYTES) / ret_head->slot_bytes;
        s->number = ret_head->number;
        s->n_slots = whole < ret_head->n_slots ? (uint32_t)whole : ret_head->n_slots;
        s->n_cut = ret_head->n_slots - s->n_slots;
        s->bytes = end < 0 ? 0 : (uint64_t)end;
        s->taken = calloc(s->n_slots / 64 + 1, 8);
        r = end < 0 ? -errno : s->taken ? 0 : -ENOMEM;
    }
    free(head);
    if (r < 0) {
        seg_close(s);
        return r;
    }
    *ret = s;
    return 0;
}

bool seg_there(const char *path, const struct seg *s)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return errno != ENOENT && errno != ENOTDIR;
    return st.st_dev == s->dev && st.st_ino == s->ino;
}

int seg_wake(const char *dir, const struct layout *l, struct seg *s)
{
    char path[4096];

    if (s->fd >= 0)
        return 0;
    seg_path(dir, l->id, s->number, path, sizeof path);
    s->fd = open(path, O_RDWR | O_CLOEXEC | (s->direct ? O_DIRECT : 0));
    return s->fd < 0 ? -errno : 0;
}

void seg_rest(struct seg *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

int seg_make(struct sys *y, const char *dir, const uint8_t uuid[16], const struct layout *l,
             uint32_t number, uint32_t n_slots, struct seg **ret)
{
    char path[4096];
    uint8_t head[SEG_HEAD_BYTES];
    struct stat st;
    struct seg_head h = {.hot_bytes = l->hot_bytes,
                         .cold_bytes = l->cold_bytes,
                         .slot_bytes = l->slot_bytes,
                         .n_slots = n_slots,
                         .number = number};

    memcpy(h.uuid, uuid, 16);
    memcpy(h.layout, l->id, LAYOUT_ID_BYTES);
    seg_head_put(head, &h);
    seg_path(dir, l->id, number, path, sizeof path);
    if (lstat(path, &st) == 0)
        return -EEXIST; /* whatever it is: it is not ours to replace */
    int r = sys_make_twice(y, path, head, sizeof head, seg_bytes(n_slots, l->slot_bytes));
    if (r == 0) {
        r = seg_open(path, ret, &h);
        if (r < 0)
            (void)unlink(path);
    }
    return r;
}

int layout_add_seg(struct layout *l, struct seg *s)
{
    if (l->n_seg == l->cap_seg) {
        uint32_t cap = l->cap_seg ? 2 * l->cap_seg : 16;
        struct seg **v = realloc(l->seg, cap * sizeof(void *));
        if (!v)
            return -ENOMEM;
        l->seg = v;
        l->cap_seg = cap;
    }
    uint32_t i = l->n_seg++;
    for (; i > 0 && l->seg[i - 1]->number > s->number; i--)
        l->seg[i] = l->seg[i - 1];
    l->seg[i] = s;
    l->full_to = 0;
    l->n_slots += s->n_slots;
    l->n_taken += s->n_taken;
    if (s->number >= l->next_number)
        l->next_number = s->number + 1;
    return 0;
}

void layout_del_seg(struct layout *l, struct seg *s)
{
    uint32_t i = 0;

    while (i < l->n_seg && l->seg[i] != s)
        i++;
    must(i < l->n_seg);
    l->n_seg--;
    l->full_to = 0;
    for (; i < l->n_seg; i++)
        l->seg[i] = l->seg[i + 1];
    l->n_slots -= s->n_slots;
    l->n_taken -= s->n_taken;
}

struct seg *layout_seg(const struct layout *l, uint32_t number)
{
    uint32_t lo = 0, hi = l->n_seg;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (l->seg[mid]->number < number)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < l->n_seg && l->seg[lo]->number == number ? l->seg[lo] : NULL;
}

int slot_claim(struct layout *l, struct seg *s, uint32_t slot)
{
    uint64_t bit = 1ull << slot % 64;

    if (s->taken[slot / 64] & bit)
        return -EEXIST;
    s->taken[slot / 64] |= bit;
    s->n_taken++;
    l->n_taken++;
    return 0;
}

int slot_take(struct layout *l, struct seg **ret, uint32_t *ret_slot)
{
    for (uint32_t i = l->full_to; i < l->n_seg; i++) {
        struct seg *s = l->seg[i];
        if (s->dying || s->lost || s->n_taken == s->n_slots) {
            if (i == l->full_to)
                l->full_to++;
            continue;
        }
        uint32_t words = (s->n_slots + 63) / 64;
        for (uint32_t w = 0; w < words; w++) {
            uint32_t at = (s->hint + w) % words;
            uint64_t idle = ~s->taken[at];
            if (at == words - 1 && s->n_slots % 64)
                idle &= (1ull << s->n_slots % 64) - 1;
            if (!idle)
                continue;
            uint32_t slot = at * 64 + (uint32_t)__builtin_ctzll(idle);
            s->hint = at;
            must(slot_claim(l, s, slot) == 0);
            *ret = s;
            *ret_slot = slot;
            return 0;
        }
    }
    return -EAGAIN;
}

void slot_give(struct layout *l, struct seg *s, uint32_t slot)
{
    uint64_t bit = 1ull << slot % 64;

    must(slot < s->n_slots && (s->taken[slot / 64] & bit));
    s->taken[slot / 64] &= ~bit;
    s->n_taken--;
    l->n_taken--;
    l->full_to = 0;
    if (s->n_taken == 0)
        s->young = 0, s->shallow = UINT32_MAX;
}
