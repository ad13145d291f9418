/* limit.c - turns, the log and the index inside the store's limit (commit thread).
 *
 * Everything on disk is one account.  Segments give way to turns; turns stop where the log
 * could no longer be compacted: the room for a whole second log is always left.  What removes
 * sessions may go further, into that room, so that a full store can be emptied. */
#include "base/clock.h"
#include "kvstore/codec.h"
#include "kvstore/store.h"

/* What an index transaction may touch beside the records themselves. */
enum { INDEX_TOUCH_BYTES = 96 << 10, FREEING_MAX = 8 };
enum { SHRINK_MIN = 1 << 20, SHRINK_USED_MAX = 16 << 20, SHRINK_SPARE_MIN = 4 << 20 };
static const uint64_t SHRINK_REST_NS = 60000000000u; /* while nobody wants the room */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t all_bytes(const struct kvstore *s)
{
    return s->o.disk_bytes > s->reserve_bytes ? s->o.disk_bytes - s->reserve_bytes : 0;
}

static uint64_t slack_bytes(const struct kvstore *s)
{
    return least(most(all_bytes(s) / 32, 128 << 10), 4 << 20);
}

/* What the log may come to while it is compacted, beyond what it takes now. */
static uint64_t second_log(const struct kvstore *s)
{
    uint64_t n = turnlog_base_bytes(s->log) + turnlog_grown_bytes(s->log);
    uint64_t less = ckpt_busy(s) ? turnlog_checkpoint_bytes(s->log) : s->collect.freed_bytes;

    return n > less ? n - less : 0;
}

/* With bytes more of frames; log and index alone. */
static uint64_t with(const struct kvstore *s, uint64_t bytes)
{
    uint64_t index = 2 * bytes + INDEX_TOUCH_BYTES;

    return turnlog_bytes(s->log) + turnlog_need(s->log, bytes) + index_bytes(s->idx) + index -
           least(index, index_spare_bytes(s->idx));
}

static bool fits(const struct kvstore *s, uint64_t bytes, uint64_t segments)
{
    return with(s, bytes) + second_log(s) + bytes + slack_bytes(s) + segments <= all_bytes(s);
}

/* Removing a session makes room, even when it needs some first. */
static bool frees(const struct kvs_batch *b)
{
    bool rm = false;

    for (uint32_t i = 0; i < b->n_rec; i++) {
        rm |= b->rec[i].kind == KVS_REC_SESSION_RM;
        if (b->rec[i].kind != KVS_REC_SESSION_RM && b->rec[i].kind != KVS_REC_REQ)
            return false;
    }
    return rm && b->n_rec <= FREEING_MAX;
}

static uint64_t batch_bytes(const struct kvs_batch *b)
{
    uint64_t n = LOG_FRAME_HEAD_BYTES + 8;

    for (uint32_t i = 0; i < b->n_rec; i++)
        n += codec_size(&b->rec[i]);
    return n;
}

bool limit_takes(const struct kvstore *s, const struct kvs_batch *b, uint64_t *sum)
{
    uint64_t bytes = batch_bytes(b);

    /* Segments that cannot be given back stay in the account. */
    uint64_t stuck = s->space == SPACE_NONE ? s->file_bytes : 0;

    if (!frees(b) && !fits(s, *sum + bytes, stuck))
        return false;
    *sum += bytes;
    return true;
}

bool limit_wants_segments(const struct kvstore *s, uint64_t bytes)
{
    return s->file_bytes && !fits(s, bytes, s->file_bytes);
}

/* Is it time to compact the log, and is there room for it? */
bool limit_log_due(const struct kvstore *s, bool pressed)
{
    uint64_t base = turnlog_base_bytes(s->log), grown = turnlog_grown_bytes(s->log);
    uint64_t all = all_bytes(s), log = turnlog_bytes(s->log);
    uint64_t now = log + index_bytes(s->idx), freed = s->collect.freed_bytes;
    uint64_t some = base / 4 + (64 << 10), little = base / 64 + (16 << 10);
    bool tight = pressed || !fits(s, all / 16, 0), due;

    due = grown > most(4 * base, s->log_budget / 2) ||
          (log > s->log_budget && grown > base + (64 << 10)) ||
          (!collect_gains(s) && /* else there is more to be gained in a moment */
           (freed > some || (tight && (grown > some || freed > little))));
    /* Over the limit already (it was lowered): only this brings it back. */
    return due && now_ns() >= s->ckpt.again_ns &&
           (now > all || now + second_log(s) + s->file_bytes <= all);
}

/* Is over half of the index free, and little enough in use to be copied between two groups?  Any
 * time when turns want the room; else when nobody waits, seldom, and not the megabytes that each
 * commit takes and gives back: they would be there again at once. */
bool limit_index_due(const struct kvstore *s, bool idle)
{
    uint64_t taken = index_bytes(s->idx), spare, all = all_bytes(s), now;
    bool wanted = s->turns_short || s->limit_hold;

    if (taken < SHRINK_MIN || (!idle && !wanted) ||
        now_ns() < s->shrink_ns + (wanted ? 0 : SHRINK_REST_NS))
        return false;
    spare = index_spare_bytes(s->idx);
    if (!wanted && spare < SHRINK_SPARE_MIN)
        return false;
    now = turnlog_bytes(s->log) + taken + s->file_bytes;
    return spare > taken / 2 && taken - spare <= SHRINK_USED_MAX &&
           (now > all || now + (taken - spare) <= all);
}

/* What a compaction has written is more than was thought. */
bool limit_passed(const struct kvstore *s)
{
    uint64_t now = turnlog_bytes(s->log) + index_bytes(s->idx) + s->file_bytes;

    return now > all_bytes(s) && now - turnlog_checkpoint_bytes(s->log) <= all_bytes(s);
}

void limit_look(struct kvstore *s)
{
    uint64_t base = turnlog_base_bytes(s->log), grown = turnlog_grown_bytes(s->log);
    uint64_t all = all_bytes(s), now = turnlog_bytes(s->log) + index_bytes(s->idx);
    uint64_t bytes = least(all / 64, 16 << 20); /* each takes four of the account */
    bool full = !fits(s, bytes, 0), nearly = full || !fits(s, 3 * bytes, 0);

    /* A log that has grown will be smaller in a moment. */
    if (nearly && now <= all && (ckpt_busy(s) || (grown > base / 2 && limit_log_due(s, true))))
        full = nearly = false;
    s->log_want = turnlog_bytes(s->log) + second_log(s) + slack_bytes(s);
    s->turns_full = full;
    s->turns_short = nearly;
    if (full)
        store_state(
            s, SAY_TURNS,
            "sessions fill the disk limit of %.*f MiB (in %.300s): what is free of it is "
            "kept for a second copy of the turn log, which compacting it takes; nothing "
            "new is begun until some are removed or the limit is raised",
            s->o.disk_bytes % (1 << 20) != 0, (double)s->o.disk_bytes / (1 << 20), s->dir);
    else if (!nearly)
        store_over(s, SAY_TURNS, "sessions have room again");
}
