/* test_say.c - what goes wrong in the store is said when it begins and when it is over, once each,
 * with the file and the reason. */
#include "kvstore/store.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static struct rig g;
static int code;
static const char *where;

/* Writes to a file whose path has this in it fail. */
static int fail(void *user, const struct sys_event *e)
{
    (void)user;
    if (!code || e->after)
        return 0;
    bool here = e->fd >= 0 ? rig_leads(e->fd, where) : e->path && strstr(e->path, where);
    return here && (e->op == SYS_WRITE || e->op == SYS_SYNC || e->op == SYS_COMMIT ||
                    e->op == SYS_ALLOC || e->op == SYS_MAKE)
               ? code
               : 0;
}

static void start(void)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.env.sys_hook = fail;
    code = 0;
    where = "/";
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
    char words[KVS_WORDS];
    while (kvs_note(g.s, words, sizeof words))
        ;
}

/* How many notes of this kind there were with all of these words; prints them. */
static int notes(enum kvs_note kind, const char *a, const char *b, const char *c)
{
    char words[KVS_WORDS];
    enum kvs_note k;
    int n = 0;

    while ((k = kvs_note(g.s, words, sizeof words)) != KVS_NOTE_NONE) {
        printf("    %d %s\n", (int)k, words);
        n += k == kind && strstr(words, a) && strstr(words, b) && strstr(words, c);
    }
    return n;
}

static int standing(const char *a)
{
    struct kvs_stats st;
    int n = 0;

    kvs_stats(g.s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        n += strstr(st.warning[i], a) != NULL;
    return n;
}

/* Which fault the warning with these words is about; 1: none has them. */
static int fault_of(const char *words)
{
    struct kvs_stats st;

    kvs_stats(g.s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        if (strstr(st.warning[i], words))
            return st.warning_fault[i];
    return 1;
}

static void a_write_that_fails_is_said_once_with_its_file_and_reason(void)
{
    static const struct {
        int code;
        const char *file, *why, *todo;
    } row[] = {
        {-EIO, "/log/seg-", "Input/output error", "check the disk"},
        {-EIO, "/index.mdb", "Input/output error", "check the disk"},
        {-EROFS, "/log/seg-", "Read-only file system", "mount the file system for writing"},
        {-EIO, "/kv/test/seg-", "Input/output error", "check the disk"},
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        char file[16];

        start();
        if (i == 3)
            CHECK_EQ(rig_put(&g, 1, 0), 0);
        CHECK_EQ(notes(KVS_NOTE_BEGINS, "", "", ""), 0);
        where = row[i].file;
        code = row[i].code;
        if (i == 3)
            CHECK(rig_put(&g, 1, 1) < 0);
        else
            CHECK(rig_talk(&g, 1, 100, 200) < 0);
        snprintf(file, sizeof file, "%.4s", row[i].file);
        CHECK_EQ(standing(file), 1);
        CHECK_EQ(notes(KVS_NOTE_BEGINS, file, row[i].why, row[i].todo), 1);
        for (int k = 0; k < 3; k++)
            CHECK(rig_talk(&g, 1, 100, 200) < 0);
        CHECK_EQ(notes(KVS_NOTE_BEGINS, "", "", ""), 0); /* said already */
        CHECK_EQ(standing("nothing is written any more"), 1);
        CHECK_EQ(fault_of("nothing is written any more"), -EROFS);
        rig_fini(&g);
    }
}

static void a_full_disk_is_said_when_it_begins_and_when_it_is_over(void)
{
    static const struct {
        int code;
        const char *words, *todo;
    } row[] = {{-ENOSPC, "disk full (writing turns", "free some space"},
               {-EFBIG, "a file has its largest size (writing turns", "LimitFSIZE="}};

    start();
    for (int again = 0; again < 2; again++) {
        code = row[again].code;
        for (int k = 0; k < 3; k++)
            CHECK_EQ(rig_talk(&g, 1, 100, 200), code);
        CHECK_EQ(standing(row[again].words), 1);
        CHECK_EQ(fault_of(row[again].words), -ENOSPC);
        CHECK_EQ(notes(KVS_NOTE_BEGINS, row[again].words, g.dir, row[again].todo), 1);
        code = 0;
        CHECK_EQ(rig_talk(&g, 2 + (uint64_t)again, 0, 100), 0);
        CHECK_EQ(standing(row[again].words), 0);
        CHECK_EQ(notes(KVS_NOTE_OVER, "room again", "", ""), 1);
        CHECK_EQ(rig_talk(&g, 2 + (uint64_t)again, 100, 200), 0);
        CHECK_EQ(notes(KVS_NOTE_OVER, "", "", ""), 0);
    }
    rig_fini(&g);
}

static void a_state_that_stands_is_said_once(void)
{
    start();
    for (int again = 0; again < 2; again++) {
        for (int k = 0; k < 3; k++)
            store_state(g.s, SAY_LOG, "the log, %d", k);
        CHECK_EQ(standing("the log, 2"), 1);
        CHECK_EQ(fault_of("the log, 2"), 0);
        CHECK_EQ(notes(KVS_NOTE_BEGINS, "the log, ", "", ""), 1);
        store_over(g.s, SAY_LOG, "over");
        store_over(g.s, SAY_LOG, "over");
        CHECK_EQ(standing("the log"), 0);
        CHECK_EQ(notes(KVS_NOTE_OVER, "over", "", ""), 1);
    }
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_write_that_fails_is_said_once_with_its_file_and_reason),
       ROW(a_state_that_stands_is_said_once),
       ROW(a_full_disk_is_said_when_it_begins_and_when_it_is_over))
