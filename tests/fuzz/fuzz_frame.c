/* fuzz_frame.c - whatever a peer sends down a link: no crash, no leak, and it ends.
 *
 * The bytes go through a real socket into the real link.  The operations are small ones that
 * read every kind of member, since it is the parsing that is under test.  Input that begins
 * with an odd byte has its frames' checksums made right first, so that a fuzzer, which will
 * hardly find a CRC, gets to what lies behind it. */
#include "daemon/call.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/link.h"
#include "daemon/loop.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct call *kept[64];
static int n_kept;

static void forget(struct call *c)
{
    for (int i = 0; i < n_kept; i++)
        if (kept[i] == c)
            kept[i] = kept[--n_kept];
    call_ok(c, NULL, NULL, 0);
}
static void run(struct call *c)
{
    const char *s = NULL;
    uint64_t u;
    double x;
    bool b;
    uint8_t id[16];
    const cJSON *o = NULL, *a = NULL;

    if (want_hex(c, c->json, "id", id, sizeof id) < 0 ||
        want_str(c, c->json, "name", 20, &s) < 0 || want_obj(c, c->json, "params", &o) < 0)
        return;
    if (o && (want_u64(c, o, "params.seed", 0, UINT64_MAX, &u) < 0 ||
              want_num(c, o, "params.top_p", 0, 1, true, &x) < 0 ||
              want_bool(c, o, "params.flag", &b) < 0 || want_arr(c, o, "params.stop", &a) < 0))
        return;
    if (c->type == HRT_NEXT && n_kept < 64) {
        c->on_gone = forget;
        kept[n_kept++] = c;
        return;
    }
    if (c->type == HRT_CANCEL)
        while (n_kept)
            call_fail(kept[--n_kept], HRT_CANCELLED, "cancelled", NULL, "%s", s ? s : "");
    call_ok(c, cJSON_Duplicate(c->json, 1), c->tail, c->tail_bytes);
}
static const struct op any = {0, "any", run};
const struct op *ops_find(uint8_t type)
{
    return type < 100 ? &any : NULL;
}

static void ended(void *user)
{
    struct daemon *d = user;
    struct links_stats st;

    links_stats(d, &st);
    if (!st.links)
        loop_stop(d->loop);
}

static void seal(uint8_t *p, size_t n)
{
    while (n >= HRT_HEAD_BYTES) {
        uint64_t whole = HRT_HEAD_BYTES + (uint64_t)ld32(p + 8) + ld32(p + 12);

        memcpy(p, "HRT1\1", 5);
        st32(p + 28, crc32c(0, p, 28));
        if (whole >= n)
            return;
        p += whole;
        n -= whole;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct conf conf;
    static uint8_t buf[1 << 20];
    struct daemon d = {.conf = &conf, .lock_fd = -1};
    int s[2], big = 4 << 20;

    if (n > 1 << 20 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) < 0)
        return 0;
    if (n && data[0] & 1) {
        n--;
        memcpy(buf, data + 1, n);
        seal(buf, n);
        data = buf;
    }
    (void)setsockopt(s[1], SOL_SOCKET, SO_SNDBUF, &big, sizeof big);
    if (loop_open(&d.loop) < 0 || links_open_bare(&d) < 0 || links_add(&d, s[0], 1) < 0)
        abort();
    loop_after(d.loop, ended, &d);
    (void)!send(s[1], data, n, MSG_NOSIGNAL);
    (void)shutdown(s[1], SHUT_WR);
    loop_run(d.loop);
    if (n_kept)
        abort(); /* a call outlived its link unseen */
    close(s[1]);
    links_close(&d);
    loop_close(d.loop);
    return 0;
}
