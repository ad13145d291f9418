/* test_weightsid.c - the hash of a file belongs to the file that was meant, or to none. */
#include "daemon/loop.h"
#include "daemon/weightsid.h"
#include "engine/engine.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static struct loop *l;
static int res;
static uint8_t got[16];

static void said(void *user, int r, const uint8_t id[16], const char *words)
{
    (void)user;
    res = r;
    memcpy(got, id, 16);
    CHECK(r == 0 || words[0]);
    loop_stop(l);
}

static void put(const char *path, const char *bytes)
{
    FILE *f = fopen(path, "wb");

    CHECK(f && fwrite(bytes, 1, strlen(bytes), f) == strlen(bytes) && fclose(f) == 0);
}

static void a_file_that_is_another_by_now_is_not_hashed_in_its_name(void)
{
    struct file_stamp f = {0};
    struct errbuf eb = {""};
    struct weightsid *w;
    uint8_t want[16];
    char path[200], other[200];

    snprintf(path, sizeof path, "%s/model", t_tmpdir());
    snprintf(other, sizeof other, "%s/other", t_tmpdir());
    put(path, "these weights");
    CHECK_EQ(stamp_read(path, &f), 0);
    CHECK_EQ(eng_weights_id(path, NULL, want, &eb), 0);
    for (int turn = 0; turn < 3; turn++) {
        if (turn == 1)
            put(path, "these weights, and more");
        if (turn == 2) {
            put(other, "those weights"); /* of the same length, in its place */
            CHECK_EQ(rename(other, path), 0);
        }
        CHECK_EQ(loop_open(&l), 0);
        CHECK_EQ(weightsid_open(&w, l), 0);
        res = 1;
        CHECK_EQ(weightsid_submit(w, path, &f, said, NULL), 0);
        CHECK_EQ(loop_run(l), 0);
        CHECK_EQ(res, turn ? -ESTALE : 0);
        CHECK(turn || memcmp(got, want, 16) == 0);
        weightsid_close(w);
        loop_close(l);
    }
}

T_MAIN({"a_file_that_is_another_by_now_is_not_hashed_in_its_name",
        a_file_that_is_another_by_now_is_not_hashed_in_its_name})
