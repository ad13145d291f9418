/* hurt.c - see hurt.h. */
#include "tests/kvstore/hurt.h"
#include "tests/t.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- a store and what it holds ------------------------------------------------------------------ */

void hurt_path(const struct rig *g, const char *sub, char ret[512])
{
    snprintf(ret, 512, "%.250s/%s", g->dir, sub);
}

void hurt_make(struct rig *g)
{
    rig_init(g, KVS_IO_THREADS, true);
    g->o.disk_bytes = 16 << 20;
    CHECK_EQ(rig_open(g), 0);
    hurt_fill(g);
    rig_close(g);
}

void hurt_fill(struct rig *g)
{
    for (uint64_t t = 0; t < HURT_TURNS; t++)
        for (uint64_t s = 1; s <= HURT_SESSIONS; s++)
            CHECK_EQ(rig_talk(g, s, t * HURT_TURN, (t + 1) * HURT_TURN), 0);
}

uint64_t hurt_whole(struct rig *g, uint64_t s)
{
    static int32_t ids[HURT_TURNS * HURT_TURN];
    struct kvs_id id = rig_id(s, 0);
    uint64_t end = 0, ok = 0;

    if (kvs_branch_end(g->s, &id, &end) < 0)
        return 0;
    CHECK(end <= HURT_TURNS * HURT_TURN);
    CHECK_EQ(kvs_tokens(g->s, &id, 0, end, ids), 0);
    while (ok < end && ids[ok] == rig_token(s, ok))
        ok++;
    CHECK_EQ(ok, end); /* never a wrong one */
    return end;
}

int hurt_have_each(void *ctx, const struct kvs_session *x)
{
    struct hurt_have *h = ctx;

    if (h->n < HURT_SESSIONS * 2)
        h->s[h->n++] = *x;
    return 0;
}

static int count_turn(void *ctx, const struct kvs_turn *t)
{
    (void)t;
    (*(int *)ctx)++;
    return 0;
}

int hurt_marked(struct rig *g, const char *what, int *ret_marked)
{
    static struct hurt_have h;
    int n = HURT_SESSIONS;

    h.n = 0;
    CHECK_EQ(kvs_sessions(g->s, hurt_have_each, &h), 0);
    for (uint32_t i = 0; i < h.n; i++) {
        uint64_t s = strtoull(h.s[i].name + 1, NULL, 10);
        if (s > HURT_SESSIONS) /* a case's own */
            continue;
        uint64_t end = hurt_whole(g, s);
        struct kvs_id id = rig_id(s, 0);
        int turns = 0;
        bool lost = (h.s[i].flags & KVS_SESS_LOST) != 0;
        if (end)
            CHECK_EQ(kvs_turns(g->s, &id, end, count_turn, &turns), 0);
        bool all = h.s[i].head == HURT_TURNS * HURT_TURN && end == HURT_TURNS * HURT_TURN &&
                   turns == HURT_TURNS;
        n -= all;
        *ret_marked += all && lost;
        if (!all && !lost)
            t_fail(__FILE__, __LINE__, "%s: %s: head %llu, %llu tokens, %d turns, marked %d",
                   what, h.s[i].name, (unsigned long long)h.s[i].head, (unsigned long long)end,
                   turns, lost);
    }
    return n;
}

bool hurt_is_marked(struct rig *g, uint64_t s)
{
    static struct hurt_have h;
    char name[32];

    h.n = 0;
    snprintf(name, sizeof name, "s%llu", (unsigned long long)s);
    CHECK_EQ(kvs_sessions(g->s, hurt_have_each, &h), 0);
    for (uint32_t i = 0; i < h.n; i++)
        if (!strcmp(h.s[i].name, name))
            return h.s[i].flags & KVS_SESS_LOST;
    CHECK(false);
    return false;
}

int hurt_lost(struct rig *g, const char *what)
{
    int marked = 0, n = hurt_marked(g, what, &marked);

    if (marked)
        t_fail(__FILE__, __LINE__, "%s: %d sessions are marked and lack nothing", what, marked);
    return n;
}

int hurt_notes(struct rig *g, char *ret, size_t cap)
{
    char words[KVS_WORDS];
    int n = 0;

    ret[0] = 0;
    while (kvs_note(g->s, words, sizeof words)) {
        snprintf(ret + strlen(ret), cap - strlen(ret), "%s\n", words);
        n++;
    }
    return n;
}

int hurt_count(const char *dir, const char *part)
{
    DIR *d = opendir(dir);
    int n = 0;

    for (struct dirent *e; d && (e = readdir(d));)
        n += strstr(e->d_name, part) != NULL;
    if (d)
        closedir(d);
    return n;
}

uint8_t *hurt_load(const char *path, size_t *n)
{
    struct stat st;
    int fd = open(path, O_RDONLY);

    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *b = malloc((size_t)st.st_size + 8);
    *n = (size_t)st.st_size;
    CHECK(syscall(SYS_pread64, fd, b, *n, 0) == (ssize_t)*n);
    close(fd);
    return b;
}

void hurt_xor(const char *path, uint64_t at, uint8_t x)
{
    int fd = open(path, O_RDWR);
    uint8_t b;

    CHECK(fd >= 0 && syscall(SYS_pread64, fd, &b, 1, at) == 1);
    b ^= x;
    CHECK(pwrite(fd, &b, 1, (off_t)at) == 1);
    close(fd);
}

uint64_t hurt_sum(const char *dir)
{
    char cmd[700], out[64] = "";
    snprintf(cmd, sizeof cmd,
             "cd '%s' && find . -type f ! -name store.lock ! -name '*-lock' -exec cksum {} + | "
             "sort | cksum",
             dir);
    FILE *p = popen(cmd, "r");
    CHECK(p && fgets(out, sizeof out, p));
    pclose(p);
    return strtoull(out, NULL, 10);
}

/* --- damage ------------------------------------------------------------------------------------- */

int hurt_log(struct rig *g, const void *bytes, size_t n_bytes, size_t off, bool first)
{
    int n = 0;

    for (int i = 1; i < 10; i++) {
        char path[512], sub[32];
        size_t size;
        snprintf(sub, sizeof sub, "log/seg-%04d", i);
        hurt_path(g, sub, path);
        if (access(path, F_OK))
            continue;
        uint8_t *b = hurt_load(path, &size);
        for (size_t at = 4096; at + n_bytes <= size; at++)
            if (memcmp(b + at, bytes, n_bytes) == 0) {
                hurt_xor(path, at + off, 0x10);
                n++;
                if (first)
                    break;
            }
        free(b);
    }
    return n;
}

int hurt_frame(struct rig *g, uint64_t s, uint64_t first)
{
    int32_t want[4];

    for (uint64_t i = 0; i < 4; i++)
        want[i] = rig_token(s, first + i);
    return hurt_log(g, want, sizeof want, 0, false);
}

int hurt_row(struct rig *g, const void *bytes, size_t n_bytes, size_t off)
{
    char path[512];
    size_t n;
    int done = 0;

    hurt_path(g, "index.mdb", path);
    uint8_t *b = hurt_load(path, &n);
    for (size_t at = 2 * 4096; at + n_bytes <= n; at++)
        if (memcmp(b + at, bytes, n_bytes) == 0) {
            hurt_xor(path, at + off, 0x10);
            done++;
        }
    free(b);
    return done;
}

int hurt_tokens(struct rig *g, uint64_t s, uint64_t at)
{
    int32_t want[4];

    for (uint64_t i = 0; i < 4; i++)
        want[i] = rig_token(s, at + i);
    return hurt_row(g, want, sizeof want, 3);
}

int hurt_session_row(struct rig *g, uint64_t s)
{
    uint8_t key[16 + 4];
    struct kvs_id id = rig_id(s, 1000);

    memcpy(key, id.b, 16); /* the id twice: as the key, and at the value's beginning */
    memcpy(key + 16, id.b, 4);
    return hurt_row(g, key, sizeof key, 16 + 2);
}
