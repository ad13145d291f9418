/* r0001_weightsid_stop.c - closing while a file is hashed: told to stop across threads, no race. */
#include "daemon/loop.h"
#include "daemon/weightsid.h"
#include "tests/t.h"
#include <fcntl.h>
#include <unistd.h>

static void never(void *user, int res, const uint8_t id[16], const char *words)
{
    (void)user, (void)res, (void)id, (void)words;
    t_fail(__FILE__, __LINE__, "done was called by close");
}

static void closing_ends_the_hash_in_hand(void)
{
    struct file_stamp f = {0};
    struct weightsid *w;
    struct loop *l;
    char path[128];
    int fd;

    snprintf(path, sizeof path, "%s/big", t_tmpdir());
    fd = open(path, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, 64ll << 30), 0); /* all hole: more than can be hashed meanwhile */
    close(fd);
    CHECK_EQ(stamp_read(path, &f), 0);
    CHECK_EQ(loop_open(&l), 0);
    CHECK_EQ(weightsid_open(&w, l), 0);
    CHECK_EQ(weightsid_submit(w, path, &f, never, NULL), 0); /* in hand by then */
    CHECK_EQ(weightsid_submit(w, path, &f, never, NULL), 0); /* waits */
    usleep(50000);
    weightsid_close(w);
    loop_close(l);
}

T_MAIN({"closing_ends_the_hash_in_hand", closing_ends_the_hash_in_hand})
