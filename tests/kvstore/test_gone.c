/* test_gone.c - files of blocks that others take away while the store is open: what the io thread
 * does about them, turn by turn. */
#include "base/clock.h"
#include "kvstore/store.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MANY = 100000 }; /* on the shelf: more than one turn walks */

static struct rig g;

static void start(void)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.threads = false;
    g.o.no_fsync = true;
    CHECK_EQ(rig_open(&g), 0);
}

static uint32_t on_shelf(uint32_t n)
{
    struct rig_block b;

    rig_block_set(&g, &b, 1, n);
    return shelf_find(&g.s->shelf, b.r.key.b, b.r.variant);
}

/* In a segment that nobody has: they are walked over, and no more. */
static void shelve_many(void)
{
    struct shelf_blk like = {.segment = 9999, .layout = (uint8_t)g.layout};
    struct kvs_key key = {{0}};

    for (uint32_t i = 0; i < MANY; i++) {
        key.b[0] = 1;
        memcpy(key.b + 4, &i, sizeof i);
        CHECK(room_shelve(g.s, &key, 7, &like) != 0);
    }
}

static void take_away(void)
{
    char path[400];

    snprintf(path, sizeof path, "%s/kv/test/seg-0001", g.dir);
    CHECK_EQ(unlink(path), 0);
}

static bool noticed(void)
{
    return g.s->io.n_gone > 0;
}
static bool off_shelf(void)
{
    return !on_shelf(0);
}
static bool forgotten(void)
{
    return g.s->io.n_gone == 0 && !room_busy(g.s);
}
static bool written(void)
{
    pthread_mutex_lock(&g.s->to_commit.lock);
    bool yes = g.s->to_commit.jobs.head != NULL;
    pthread_mutex_unlock(&g.s->to_commit.lock);
    return yes;
}

/* The io thread alone takes turns. */
static void until(bool (*so)(void))
{
    uint64_t end = now_ns() + 60000000000u * T_SLOWER;

    while (!so() && now_ns() < end)
        kvs_io_turn(g.s, 1000000);
    CHECK(so());
}

static void a_large_shelf_is_walked_some_at_a_time(void)
{
    start();
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    shelve_many();
    CHECK_EQ(rig_put(&g, 1, 1), 0);
    take_away();
    until(noticed);
    CHECK(!on_shelf(0) && on_shelf(1));
    CHECK(room_busy(g.s)); /* nobody sleeps before it is through */
    until(forgotten);
    CHECK(!on_shelf(1));
    CHECK_EQ(g.s->n.blocks, MANY);
    CHECK(!layout_seg(g.s->layout[g.layout], 1));
    CHECK_EQ(g.s->file_bytes, 0); /* what it took of the limit is free again */
    rig_fini(&g);
}

static bool going(void)
{
    return g.s->io.n_dying > 0;
}

/* It was being emptied to make room: nobody waits for that any more. */
static void a_file_that_goes_while_it_is_emptied_is_waited_for_no_longer(void)
{
    int r = 0;

    rig_init(&g, KVS_IO_THREADS, true);
    g.threads = false;
    g.o.no_fsync = true;
    g.o.disk_bytes = 8 << 20;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    g.s->space = SPACE_WANTED; /* as a batch that finds none says */
    until(going);
    take_away();
    until(noticed);
    for (uint64_t end = now_ns() + 60000000000u * T_SLOWER; !forgotten() && now_ns() < end;)
        rig_turn(&g);
    CHECK(forgotten() && !on_shelf(0));
    CHECK_EQ(g.s->file_bytes, 0);
    for (uint32_t n = 1; n < 700 && r == 0; n++)
        r = rig_put(&g, 1, n);
    CHECK_EQ(r, E_LIMIT); /* and is told so */
    rig_fini(&g);
}

static bool to_unlink(void)
{
    pthread_mutex_lock(&g.s->to_commit.lock);
    const struct job *j = g.s->to_commit.jobs.head;
    bool yes = j && j->kind == JOB_UNLINK;
    pthread_mutex_unlock(&g.s->to_commit.lock);
    return yes;
}

/* It is empty and about to be removed, and nobody has looked since: what stands there is not ours. */
static void what_took_the_place_of_an_emptied_file_is_not_removed(void)
{
    char path[400];
    FILE *f;

    rig_init(&g, KVS_IO_THREADS, true);
    g.threads = false;
    g.o.no_fsync = true;
    g.o.disk_bytes = 8 << 20;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    g.s->io.look_ns = UINT64_MAX;
    g.s->space = SPACE_WANTED;
    for (uint64_t end = now_ns() + 60000000000u * T_SLOWER; !to_unlink() && now_ns() < end;) {
        kvs_commit_turn(g.s, 0);
        kvs_io_turn(g.s, 1000000);
    }
    CHECK(to_unlink());
    take_away();
    snprintf(path, sizeof path, "%s/kv/test/seg-0001", g.dir);
    CHECK((f = fopen(path, "w")) && fputs("other", f) > 0 && fclose(f) == 0);
    kvs_commit_turn(g.s, 0);
    kvs_io_turn(g.s, 0);
    CHECK(access(path, F_OK) == 0 && g.s->n_layouts && !layout_seg(g.s->layout[g.layout], 1));
    CHECK_EQ(g.s->file_bytes, 0);
    rig_fini(&g);
}

/* Its slot was written and is in no row yet when the walk begins; it comes to the shelf where the
 * walk has been already. */
static void what_is_being_written_when_its_file_goes_is_forgotten_as_well(void)
{
    struct rig_block b;

    start();
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    shelve_many();
    rig_block_set(&g, &b, 1, 1);
    rig_submit(&g, &b, true);
    until(written);
    take_away();
    until(noticed);
    uint32_t at = g.s->io.gone_at;
    CHECK(at > 0);
    kvs_commit_turn(g.s, 0);
    kvs_io_turn(g.s, 0);
    CHECK(on_shelf(1) && on_shelf(1) < at && g.s->io.gone_at > 0);
    until(forgotten);
    CHECK(!on_shelf(1));
    CHECK(!layout_seg(g.s->layout[g.layout], 1));
    rig_wait(&g);
    CHECK_EQ(b.r.res, 0);
    rig_fini(&g);
}

/* Memory has it still: as one that is on no file, or nobody would ever write it again. */
static void a_block_in_memory_is_put_into_another_file(void)
{
    start();
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    take_away();
    until(off_shelf);
    CHECK_EQ(rig_get(&g, 1, 0, NULL), 0);
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    CHECK(on_shelf(0));
    rig_reopen(&g);
    CHECK_EQ(rig_get(&g, 1, 0, NULL), 0);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_large_shelf_is_walked_some_at_a_time),
       ROW(a_file_that_goes_while_it_is_emptied_is_waited_for_no_longer),
       ROW(what_took_the_place_of_an_emptied_file_is_not_removed),
       ROW(what_is_being_written_when_its_file_goes_is_forgotten_as_well),
       ROW(a_block_in_memory_is_put_into_another_file))
