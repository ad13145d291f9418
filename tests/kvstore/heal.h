/* heal.h - what the tests of healing share: a store with known sessions, and hands that write to its
 * index while it is open.  In one source of a test, which gets all of it as its own. */
#ifndef TESTS_KVSTORE_HEAL_H
#define TESTS_KVSTORE_HEAL_H
#include "base/clock.h"
#include "kvstore/index_env.h"
#include "kvstore/store.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TOKENS = 1000, SESSIONS = 6, PAGE = 4096 };

static struct rig g;

__attribute__((unused)) static void open_rig(bool threads)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.threads = threads;
    CHECK_EQ(rig_open(&g), 0);
    for (uint64_t s = 1; s <= SESSIONS; s++)
        for (uint64_t at = 0; at < TOKENS; at += 250)
            CHECK_EQ(rig_talk(&g, s, at, at + 250), 0);
    CHECK_EQ(rig_put(&g, 7, 0), 0);
}

__attribute__((unused)) static int index_fd(void)
{
    char path[512];

    snprintf(path, sizeof path, "%.400s/index.mdb", g.dir);
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    return fd;
}

/* A clock of the file system that stands still between two writes would hide the second. */
__attribute__((unused)) static void past(int fd)
{
    struct stat st;
    char path[512];

    CHECK_EQ(fstat(fd, &st), 0);
    snprintf(path, sizeof path, "%.400s/tick", g.dir);
    for (;;) {
        struct stat now;
        int t = open(path, O_RDWR | O_CREAT, 0600);
        CHECK(t >= 0 && write(t, "x", 1) == 1 && fstat(t, &now) == 0);
        close(t);
        if (now.st_mtim.tv_sec != st.st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != st.st_mtim.tv_nsec)
            break;
    }
    unlink(path);
}

/* What is written into each page: six bytes of its head, all of it, or its middle. */
__attribute__((unused)) static void heads(int fd, off_t at)
{
    CHECK_EQ(pwrite(fd, "\xff\xff\xff\xff\xff\xff", 6, at + 10), 6);
}
__attribute__((unused)) static void whole(int fd, off_t at)
{
    uint8_t b[PAGE];

    memset(b, 0x5a, sizeof b);
    CHECK_EQ(pwrite(fd, b, sizeof b, at), PAGE);
}
__attribute__((unused)) static void zeros(int fd, off_t at)
{
    uint8_t b[PAGE] = {0};

    CHECK_EQ(pwrite(fd, b, sizeof b, at), PAGE);
}

__attribute__((unused)) static void pages_hurt(void (*how)(int fd, off_t at), off_t from)
{
    struct stat st;
    int fd = index_fd();

    past(fd);
    CHECK_EQ(fstat(fd, &st), 0);
    for (off_t at = from; at + PAGE <= st.st_size; at += PAGE)
        how(fd, at);
    close(fd);
}

__attribute__((unused)) static bool said(const char *words)
{
    char note[512];
    bool any = false;

    while (kvs_note(g.s, note, sizeof note))
        any |= strstr(note, words) != NULL;
    return any;
}

/* Who waits for the index to be made anew goes on a moment before that is said. */
__attribute__((unused)) static bool said_soon(const char *words)
{
    uint64_t until = now_ns() + 20000000000u * T_SLOWER;
    bool is = said(words);

    while (!is && g.threads && now_ns() < until) {
        usleep(1000);
        is = said(words);
    }
    return is;
}

__attribute__((unused)) static int count_session(void *ctx, const struct kvs_session *s)
{
    (void)s;
    (*(int *)ctx)++;
    return 0;
}

__attribute__((unused)) static void all_is_there(void)
{
    int n = 0;

    CHECK_EQ(kvs_sessions(g.s, count_session, &n), 0);
    CHECK_EQ(n, SESSIONS);
    for (uint64_t s = 1; s <= SESSIONS; s++)
        CHECK(rig_tokens_ok(&g, s, TOKENS));
}

__attribute__((unused)) static bool index_hurt(void)
{
    struct kvs_stats st;

    kvs_stats(g.s, &st);
    return st.index_hurt;
}

__attribute__((unused)) static void touched(void)
{
    int fd = index_fd();
    uint8_t b;

    past(fd);
    CHECK(pread(fd, &b, 1, 3 * PAGE) == 1 && pwrite(fd, &b, 1, 3 * PAGE) == 1);
    close(fd);
}

__attribute__((unused)) static uint8_t *index_read(const char *dir, size_t *ret_bytes)
{
    char path[512];
    struct stat st;

    snprintf(path, sizeof path, "%.400s/index.mdb", dir);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *b = malloc((size_t)st.st_size);
    CHECK(b && pread(fd, b, (size_t)st.st_size, 0) == st.st_size);
    close(fd);
    *ret_bytes = (size_t)st.st_size;
    return b;
}

__attribute__((unused)) static void index_put_back(const uint8_t *b, size_t bytes)
{
    int fd = index_fd();

    past(fd);
    CHECK_EQ(pwrite(fd, b, bytes, 0), (ssize_t)bytes);
    close(fd);
}

#endif
