/* test_ledger.c - what is written down of a session's documents, and for how many sessions. */
#include "client/ledger.h"
#include "tests/t.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void a_ledger_survives_and_tells_documents_apart(void)
{
    struct ledger l;
    struct ledger_doc d = {.before = 5, .after = 9, .done = true}, got;
    char h[33], k[33];
    setenv("XDG_STATE_HOME", t_tmpdir(), 1);
    ledger_hash("abc", 3, "text", h);
    ledger_hash("abc", 3, "ids", k);
    CHECK(strcmp(h, k) != 0 && strlen(h) == 32);
    ledger_hash("abd", 3, "text", k);
    CHECK(strcmp(h, k) != 0);
    memcpy(d.hash, h, 33);
    memcpy(d.request, k, 33);
    memcpy(d.ids, k, 33);
    ledger_open(&l, "00ff");
    CHECK(!ledger_find(&l, h, &got));
    CHECK_EQ(ledger_put(&l, &d), 0);
    d.after = 10;
    CHECK_EQ(ledger_put(&l, &d), 0);
    ledger_close(&l);
    ledger_open(&l, "00ff");
    CHECK(ledger_find(&l, h, &got));
    CHECK(got.before == 5 && got.after == 10 && got.done && strcmp(got.request, k) == 0);
    CHECK_EQ(cJSON_GetArraySize(cJSON_GetObjectItem(l.root, "docs")), 1);
    ledger_close(&l);
    FILE *f = fopen(l.path, "we"); /* a damaged one starts empty */
    fputs("{\"docs\":5", f);
    fclose(f);
    ledger_open(&l, "00ff");
    CHECK(!ledger_find(&l, h, &got));
    CHECK_EQ(ledger_put(&l, &d), 0);
    ledger_close(&l);
}

/* A program before wrote ranges of no tokens: they would be found in any session. */
static void no_tokens_prove_nothing(void)
{
    struct ledger l;
    struct ledger_doc d = {.before = 9, .after = 9, .done = true}, got[4];
    char h[33];
    setenv("XDG_STATE_HOME", t_tmpdir(), 1);
    ledger_hash("abc", 3, "text", h);
    for (int i = 0; i < 3; i++)
        memcpy(i == 0 ? d.hash : i == 1 ? d.request : d.ids, h, 33);
    ledger_open(&l, "00aa");
    CHECK_EQ(ledger_put(&l, &d), 0);
    CHECK(ledger_find(&l, h, got) && !got[0].done);
    ledger_close(&l);
    ledger_open(&l, "00bb");
    CHECK_EQ(ledger_elsewhere(&l, h, got, 4), 0);
    ledger_close(&l);
    d.after = 10;
    ledger_open(&l, "00aa");
    CHECK_EQ(ledger_put(&l, &d), 0);
    ledger_close(&l);
    ledger_open(&l, "00bb");
    CHECK_EQ(ledger_elsewhere(&l, h, got, 4), 1);
    ledger_close(&l);
}

static int files(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

/* Sessions go by themselves, or by other programs: nobody tells this user's command. */
static void ledgers_of_sessions_that_went_do_not_pile_up(void)
{
    struct ledger l;
    struct ledger_doc d = {.after = 1, .done = true};
    char dir[300], path[400];
    const char *home = t_tmpdir();
    setenv("XDG_STATE_HOME", home, 1);
    snprintf(dir, sizeof dir, "%s/hearth-cli/ingest", home);
    ledger_hash("abc", 3, "text", d.hash);
    ledger_hash("abc", 3, "ids", d.request);
    ledger_open(&l, "00aa");
    CHECK_EQ(ledger_put(&l, &d), 0);
    ledger_close(&l);
    int had = files(dir);
    for (int i = 0; i < LEDGERS_MAX + 3; i++) { /* the later, the older */
        snprintf(path, sizeof path, "%s/%032x.json", dir, i + 0x100000);
        int fd = open(path, O_WRONLY | O_CREAT, 0600);
        struct timespec when[2] = {{.tv_sec = 1000000 - i}, {.tv_sec = 1000000 - i}};
        CHECK(fd >= 0 && futimens(fd, when) == 0);
        close(fd);
    }
    ledger_open(&l, "00aa");
    CHECK_EQ(files(dir), LEDGERS_MAX);
    CHECK_EQ(access(path, F_OK), -1);
    snprintf(path, sizeof path, "%s/%032x.json", dir, LEDGERS_MAX - had - 1 + 0x100000);
    CHECK_EQ(access(path, F_OK), 0);
    struct ledger_doc got;
    CHECK(ledger_find(&l, d.hash, &got) && got.done);
    ledger_close(&l);
    /* The one that is opened stays, however long ago it was written. */
    struct timespec ago[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    snprintf(path, sizeof path, "%s/00aa.json", dir);
    CHECK_EQ(utimensat(AT_FDCWD, path, ago, 0), 0);
    snprintf(path, sizeof path, "%s/00bb.json", dir);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0);
    close(fd);
    ledger_open(&l, "00aa");
    CHECK(ledger_find(&l, d.hash, &got) && got.done);
    CHECK_EQ(files(dir), LEDGERS_MAX);
    ledger_close(&l);
}

T_MAIN({"a_ledger_survives_and_tells_documents_apart",
        a_ledger_survives_and_tells_documents_apart},
       {"no_tokens_prove_nothing", no_tokens_prove_nothing},
       {"ledgers_of_sessions_that_went_do_not_pile_up",
        ledgers_of_sessions_that_went_do_not_pile_up})
