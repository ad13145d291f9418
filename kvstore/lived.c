/* lived.c - see lived.h. */
#include "kvstore/lived.h"
#include "base/bytes.h"
#include "base/clock.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int64_t SET_NS = 10000000000;     /* more than drift between two looks */
static const uint64_t EDGE_NS = 120000000000u; /* a record's time may be this far outside */
static const uint64_t SAID_NS =
    30 * 86400ull * 1000000000u; /* after a boot nobody can know less */
static const uint64_t SPAN_MAX = 1ull << 62;

static struct lived_epoch *newest(struct lived *c)
{
    return &c->v[c->n - 1];
}

/* The shortest one makes room: least is lost with it. */
static void epoch_add(struct lived *c, uint64_t at, uint64_t wall)
{
    if (c->n == LIVED_EPOCHS) {
        uint32_t k = 0;
        for (uint32_t i = 1; i < c->n; i++)
            if (c->v[i].to - c->v[i].from < c->v[k].to - c->v[k].from)
                k = i;
        if (c->v[k].to > c->lost_to)
            c->lost_to = c->v[k].to;
        c->n--;
        memmove(&c->v[k], &c->v[k + 1], (c->n - k) * sizeof c->v[0]);
    }
    c->v[c->n++] = (struct lived_epoch){at, at, wall, wall};
}

static int64_t advance(struct lived *c, const struct lived_now *now)
{
    struct lived_epoch *e = newest(c);
    uint64_t dt = now->uptime_ns > c->last.uptime_ns ? now->uptime_ns - c->last.uptime_ns : 0;
    int64_t set = (int64_t)(now->wall_ns - (e->wall_to + dt));

    e->to += dt;
    c->last = *now;
    if (set >= -SET_NS && set <= SET_NS) {
        e->wall_to = now->wall_ns;
        return 0;
    }
    e->wall_to += dt; /* when it was set is not known: up to now */
    epoch_add(c, e->to, now->wall_ns);
    return set;
}

static int unpack(struct lived *c, const uint8_t *b, size_t n)
{
    if (n < 40 || n > LIVED_BYTES || (n - 40) % 32 || n == 40)
        return -1;
    c->lost_to = ld64(b);
    memcpy(c->last.boot, b + 8, 16);
    c->last.uptime_ns = ld64(b + 24);
    for (size_t at = 40; at < n; at += 32) {
        struct lived_epoch *e = &c->v[c->n++];
        *e = (struct lived_epoch){ld64(b + at), ld64(b + at + 8), ld64(b + at + 16),
                                  ld64(b + at + 24)};
        if (e->from > e->to || e->to > SPAN_MAX)
            return -1;
    }
    return 0;
}

int64_t lived_begin(struct lived *c, const uint8_t *b, size_t n, uint64_t gone_ns,
                    const struct lived_now *now)
{
    static const uint8_t unknown[16];
    int64_t set = 0;

    memset(c, 0, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    if (unpack(c, b, n) < 0) {
        c->n = 0;
        c->lost_to = 0;
        if (gone_ns)
            c->v[c->n++] =
                (struct lived_epoch){0, gone_ns, now->wall_ns - gone_ns, now->wall_ns};
        epoch_add(c, gone_ns, now->wall_ns);
        c->last = *now;
        return 0;
    }
    if (memcmp(c->last.boot, now->boot, 16) == 0 && memcmp(now->boot, unknown, 16) &&
        now->uptime_ns >= c->last.uptime_ns)
        return advance(c, now);
    /* Another boot: how long the machine was off only the wall clock says. */
    uint64_t was = newest(c)->wall_to;
    if (now->wall_ns + (uint64_t)SET_NS < was || now->wall_ns > was + SAID_NS)
        set = (int64_t)(now->wall_ns - was);
    c->last = *now;
    epoch_add(c, newest(c)->to, now->wall_ns);
    return set;
}

int64_t lived_tick(struct lived *c, const struct lived_now *now)
{
    pthread_mutex_lock(&c->lock);
    int64_t set = advance(c, now);
    pthread_mutex_unlock(&c->lock);
    return set;
}

uint64_t lived_at(struct lived *c, uint64_t wall)
{
    pthread_mutex_lock(&c->lock);
    uint64_t at = c->lost_to, latest = 0;
    for (uint32_t i = c->n; i-- > 0;) {
        const struct lived_epoch *e = &c->v[i];
        latest = e->wall_to > latest ? e->wall_to : latest;
        if (wall + EDGE_NS < e->wall_from || wall > e->wall_to + EDGE_NS)
            continue;
        uint64_t off = wall > e->wall_from ? wall - e->wall_from : 0, len = e->to - e->from;
        if (i + 1 == c->n)
            len += EDGE_NS; /* it goes on between two looks */
        at = e->from + (off < len ? off : len);
        latest = UINT64_MAX;
        break;
    }
    if (wall > latest) /* a clock that ran ahead, in a moment that was not put down */
        at = newest(c)->from;
    pthread_mutex_unlock(&c->lock);
    return at;
}

uint64_t lived_span(struct lived *c)
{
    pthread_mutex_lock(&c->lock);
    uint64_t to = newest(c)->to;
    pthread_mutex_unlock(&c->lock);
    return to;
}

uint64_t lived_age(struct lived *c, uint64_t wall)
{
    uint64_t span = lived_span(c), at = lived_at(c, wall);

    return span > at ? span - at : 0;
}

size_t lived_pack(struct lived *c, uint8_t b[LIVED_BYTES])
{
    pthread_mutex_lock(&c->lock);
    st64(b, c->lost_to);
    memcpy(b + 8, c->last.boot, 16);
    st64(b + 24, c->last.uptime_ns);
    st64(b + 32, 0);
    size_t n = 40;
    for (uint32_t i = 0; i < c->n; i++, n += 32) {
        st64(b + n, c->v[i].from);
        st64(b + n + 8, c->v[i].to);
        st64(b + n + 16, c->v[i].wall_from);
        st64(b + n + 24, c->v[i].wall_to);
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

void lived_fini(struct lived *c)
{
    if (c->n)
        pthread_mutex_destroy(&c->lock);
}

static ssize_t small_file(const char *path, char *ret, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, ret, cap - 1);

    if (fd >= 0)
        close(fd);
    ret[n > 0 ? n : 0] = 0;
    return n;
}

/* From the kernel's files first: what a program is told when it asks for a clock can be bent. */
void lived_read(struct lived_now *ret)
{
    char b[64], *end;

    memset(ret, 0, sizeof *ret);
    ret->wall_ns = wall_ns();
    ret->uptime_ns = clock_at(CLOCK_BOOTTIME);
    if (small_file("/proc/uptime", b, sizeof b) > 0) {
        uint64_t s = strtoull(b, &end, 10), cs = *end == '.' ? strtoull(end + 1, NULL, 10) : 0;
        ret->uptime_ns = s * 1000000000u + cs * 10000000u;
    }
    if (small_file("/proc/sys/kernel/random/boot_id", b, sizeof b) < 36)
        return;
    for (int i = 0, k = 0; i < 36 && k < 32; i++) {
        int d = b[i] >= '0' && b[i] <= '9' ? b[i] - '0' : b[i] >= 'a' ? b[i] - 'a' + 10 : -1;
        if (d < 0)
            continue;
        ret->boot[k / 2] = (uint8_t)(ret->boot[k / 2] << 4 | d);
        k++;
    }
}
