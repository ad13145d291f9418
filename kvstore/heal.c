/* heal.c - an index that others have written to, or that LMDB cannot read, in the open store.
 *
 * Nothing of it is touched until a child process has walked it (index_check.h).  Rows that are
 * hurt are made anew one by one (repair.c).  Where the structure is damaged all of it is made
 * anew from the turn log and what can be read of the old file, as a start would (merge.h), and
 * opened in its place; the same where it is sound and not the newest, so that it would hide what
 * was acknowledged.  Batches and readers wait meanwhile.  Blocks stay known from memory, and
 * have rows again after the next start.  Commit thread. */
#include "base/bytes.h"
#include "base/clock.h"
#include "kvstore/merge.h"
#include "kvstore/repair.h"
#include "kvstore/store.h"
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

/* So often within this time: each keeps a copy of the damaged file. */
static const uint64_t HEALS_NS = 3600000000000u;
static const uint64_t AGAIN_NS = 1000000000u, WANT_AGAIN_NS = 5000000000u;

/* 0: it is sound, but for rows that are noted.  E_STALE: sound, and not what was committed
 * last.  E_CORRUPT; or why it could not be walked. */
static int walked(struct kvstore *s, const char *path, bool broken)
{
    struct index_scrub x;
    int r = index_walk_begin(s->idx);

    if (r == 1)
        store_note(s, "%s-lock was cut short while in use: it is made again", path);
    if (r < 0)
        return r;
    ckpt_stop(s);                /* what it has read may be short */
    index_scrub_stop(&s->scrub); /* this walk is of all of it */
    if (broken)
        return E_CORRUPT;
    r = index_scrub_now(&x, path);
    if (r == 0)
        r = index_is_last(s->idx);
    if (r == 0) {
        index_believe(s->idx, x.n == 0);
        for (uint32_t i = 0; i < x.n && s->fault == 0; i++)
            repair_row(s, (enum index_db)x.v[i].db, x.v[i].key, x.v[i].bytes);
    }
    index_scrub_stop(&x);
    return r;
}

/* What the merge does not know. */
static int settle(struct kvstore *s)
{
    uint8_t none[8] = {0};
    int r = index_begin(s->idx);

    if (r < 0)
        return r;
    r = index_meta_put(s->idx, "clean", none, 8);
    if (r == 0)
        r = guard_clock_put(s);
    if (r == 0)
        r = commit_day(s);
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    return index_commit(s->idx);
}

struct owner {
    const uint8_t *uuid;
    bool other;
};

static int owner_look(void *ctx, bool ok, enum index_db db, const uint8_t *key, size_t n,
                      const uint8_t *v, size_t bytes)
{
    struct owner *x = ctx;

    x->other |= ok && db == DB_META && n == 4 && !memcmp(key, "uuid", 4) && bytes == 16 &&
                memcmp(v, x->uuid, 16);
    return 0;
}

/* Another store's index has nothing of ours: it is kept as ret, and none of its rows are taken. */
static int others_aside(struct kvstore *s, const char *path, char *ret, size_t cap,
                        struct errbuf *eb)
{
    struct owner x = {.uuid = s->uuid};
    bool current;
    int r = index_salvage(path, owner_look, &x, &current, eb);

    ret[0] = 0;
    if (r < 0 || !x.other)
        return r == -ENOENT ? 0 : r;
    return sys_set_aside(&s->sys, path, ret, cap);
}

/* No new one could be made: what is open is to have its name, or it is taken for removed. */
static void others_back(struct kvstore *s, const char *path, const char *aside)
{
    struct stat st;

    if (aside[0] && lstat(path, &st) < 0 && errno == ENOENT && sys_rename_new(aside, path) == 0)
        (void)sys_sync_parent(&s->sys, path);
}

/* All is as it was, and it is tried again: until then who reads or writes hears why. */
static void again_in(struct kvstore *s, int why, uint64_t ns)
{
    s->heal_why = why;
    s->heal_ns = now_ns() + ns;
}

/* It is believed again. */
static void heal_over(struct kvstore *s, const char *words)
{
    s->heal_why = 0;
    s->healed++;
    store_over(s, SAY_INDEX, words);
}

static bool waits_for_room(struct kvstore *s, const char *why, int r, uint64_t began)
{
    bool memory = r == -ENOMEM;

    if (!memory && !sys_full(r))
        return false;
    again_in(s, memory ? -ENOMEM : sys_full_as(r), WANT_AGAIN_NS + (now_ns() - began));
    store_state(s, SAY_INDEX,
                "%s and cannot be made anew for want of %s: nothing that is stored is read or "
                "written until it can, and nothing is lost; free some, it goes on by itself",
                why, memory ? "memory" : "room on the disk");
    return true;
}

/* What damages it again and again fills the disk with copies: then it is left for a while. */
static bool rests(struct kvstore *s, const char *path)
{
    uint64_t now = now_ns(), first = s->heal_at[s->heals % HEALS_MAX]; /* of the last so many */
    char when[32];

    if (s->heals < HEALS_MAX || now >= first + HEALS_NS)
        return false;
    again_in(s, -EAGAIN, first + HEALS_NS - now);
    time_t at = (time_t)((store_wall(s) + first + HEALS_NS - now) / 1000000000u);
    struct tm tm;
    (void)strftime(when, sizeof when, "%H:%M UTC", gmtime_r(&at, &tm));
    store_state(s, SAY_INDEX,
                "%s is damaged again, after %d times within an hour: nothing that is stored is "
                "read or written, and nothing is lost, before it is made anew at %s, or by a "
                "restart; check the disk and the memory of this machine first, and that no "
                "other program writes there",
                path, HEALS_MAX, when);
    return true;
}

static void make_anew(struct kvstore *s, const char *path, const char *matter)
{
    uint64_t began = now_ns();
    struct merge_report m;
    struct errbuf eb = {0};
    char why[PATH_MAX + 64], aside[PATH_MAX + 64];

    if (rests(s, path))
        return;
    snprintf(why, sizeof why, "%s %s", path, matter);
    int r = others_aside(s, path, aside, sizeof aside, &eb);
    /* A log that never had a frame lacks none. */
    if (r == 0)
        r = merge_index(s, why, turnlog_seq(s->log) == 0, &m, &eb);
    if (r < 0)
        others_back(s, path, aside);
    if (r < 0 && waits_for_room(s, why, r, began))
        return;
    if (r == 0) {
        s->heal_at[s->heals++ % HEALS_MAX] = now_ns();
        r = index_open_again(s->idx);
    }
    if (r == 0 && settle(s) < 0)
        s->clock_put_ns = 0; /* with the next commit */
    if (r < 0) {
        store_stop(
            s,
            "%s and cannot be made anew (%.200s): nothing is written any more and nothing is "
            "lost; remove the cause, then restart",
            why, eb.s[0] ? eb.s : err_str(r));
        return;
    }
    if (aside[0])
        store_note(s, "%s was overwritten with another store's index, which is kept as %s",
                   path, aside);
    s->index_bad = false;
    s->acked_seq = m.seq;
    s->acked_lost |= m.lost;
    if (m.blind) { /* the log has a hole, or ends too early: what comes now does not follow it */
        s->log_hurt = true;
        s->ckpt.again_ns = 0;
        turnlog_keep_old(s->log);
    }
    s->n.repaired++;
    heal_over(s, "the index could be made anew");
    if (!m.lost)
        store_note(s,
                   "%s: made anew from the turn log, nothing is missing; check the disk, and "
                   "that no other program writes there",
                   why);
    (void)kept_look(s, true);
    commit_sizes(s);
}

static const char *walk_remedy(int r)
{
    switch (r) {
    case -EMFILE:
    case -ENFILE: return "allow more open files";
    case -ETIMEDOUT: return "check the disk, and what else keeps it busy";
    default: return "free some memory, or allow more processes";
    }
}

static void heal(struct kvstore *s, const char *path, bool broken)
{
    uint64_t began = now_ns();
    int r = walked(s, path, broken);

    if (r == 0) {
        heal_over(s, "the index could be checked");
        return;
    }
    if (r == E_CORRUPT || r == E_STALE || r == -ENOENT) { /* the last: it is empty now */
        if (guard_holds(s))
            make_anew(s, path,
                      r == E_STALE ? "was overwritten with an older copy of it or another index"
                                   : "is damaged in its structure");
        if (s->fault == -EROFS && index_trust(s->idx) != INDEX_FINE) {
            index_doubt(s->idx);
            s->heal_why = -EROFS;
        }
        return;
    }
    /* Nothing else is done while it is walked: as long for the rest. */
    again_in(s, r == -ENOMEM ? -ENOMEM : -EAGAIN, AGAIN_NS + (now_ns() - began));
    store_state(s, SAY_INDEX,
                "%s was written to by another program and cannot be checked now (%s): nothing "
                "that is stored is read or written until it can, and nothing is lost; %s, it "
                "goes on by itself",
                path, err_str(r), walk_remedy(r));
}

void heal_turn(struct kvstore *s)
{
    char name[PATH_MAX];
    enum index_trust t = index_trust(s->idx);

    if (t == INDEX_FINE)
        return;
    /* A file of another name is walked for nothing; guard.c says what happened to ours.  Nor is
     * one that is not sound in a store that makes none anew: whatever it waited for before. */
    snprintf(name, sizeof name, "%s/index.mdb", s->dir);
    bool ours = index_in_place(s->idx, name);
    if (s->fault == -EROFS && (t == INDEX_BROKEN || !ours)) {
        s->heal_why = -EROFS;
        return;
    }
    if (!ours || now_ns() < s->heal_ns)
        return;
    s->healing = true;
    heal(s, s->index, t == INDEX_BROKEN);
    s->healing = false;
}
