/* bench_store.c - hearth-bench store: a session's blocks down and up again, beside the disk.
 *
 * Writes the blocks of a session, opens the store anew, restores them once (memory that no
 * one has touched: "first"), and then in turns: restores them, reads a written file of the same
 * size with O_DIRECT in the same pieces and depth, and lets fio do so when it is installed.  Medians
 * of the rounds; the ratio is restore to the faster of fio and plain reads.  A restore
 * verifies every byte and copies it out, as the daemon does; nothing comes from memory. */
#include "base/bounds.h"
#include "base/clock.h"
#include "bench/bench.h"
#include "kvstore/kvstore.h"
#include "kvstore/ring.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Many disks (rented ones, and those with a cache of their own) are faster for a while after a
 * rest: everybody begins after the same. */
enum { REST_S = 1 };
enum { ROUNDS_MAX = 9, DEPTH = 8, CHUNK = 4 << 20, PAGES = 4 };

static const struct {
    const char *name;
    uint64_t hot, cold; /* bytes of one block of 256 tokens */
} layouts[] = {
    {"v4-flash", 118784, 786432}, /* hot: index keys and HCA rows; cold: CSA rows */
    {"llama-8b", 33554432, 0},    /* 32 layers x 2 x 8 heads x 128 x f16 */
    {"smollm2", 5898240, 0},      /* 30 layers x 2 x 3 heads x 64 x f16 */
};

struct bench {
    char dir[3000], flat[3100];
    uint64_t flat_bytes;
    struct kvs_opts o;
    struct kvs_layout l;
    struct kvstore *s;
    struct kvs_open_report rep;
    uint32_t layout, n_blocks;
    uint64_t payload;
    pthread_t io, commit;
    _Atomic bool stop;
    struct kvs_block_req *req;
    uint32_t n_done, n_bad;
    uint8_t *src, *dst; /* one block's bytes; PAGES of them */
};

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "hearth-bench store: %s: %s\n", what, why);
    return 1;
}

static void *io_body(void *arg)
{
    struct bench *b = arg;

    while (!b->stop)
        kvs_io_turn(b->s, 100000000);
    return NULL;
}

static void *commit_body(void *arg)
{
    struct bench *b = arg;

    while (!b->stop)
        kvs_commit_turn(b->s, 100000000);
    return NULL;
}

static int store_open(struct bench *b)
{
    struct errbuf eb = {""};

    if (kvs_open(&b->s, &b->o, &b->rep, &eb) < 0)
        return fail("open", eb.s);
    if (kvs_layout_add(b->s, &b->l, &b->layout, &eb) < 0)
        return fail("layout", eb.s);
    b->stop = false;
    if (pthread_create(&b->io, NULL, io_body, b) ||
        pthread_create(&b->commit, NULL, commit_body, b))
        return fail("threads", "cannot be started");
    return 0;
}

static void store_close(struct bench *b)
{
    b->stop = true;
    kvs_wake(b->s);
    pthread_join(b->io, NULL);
    pthread_join(b->commit, NULL);
    kvs_close(b->s);
    b->s = NULL;
}

static int copy(struct kvs_block_req *r, void *payload)
{
    struct bench *b = r->user;
    uint32_t n = (uint32_t)(r - b->req);

    if (r->put) {
        memcpy(payload, b->src, b->payload);
        memcpy(payload, &n, sizeof n);
    } else {
        memcpy(b->dst + (n % PAGES) * b->payload, payload, b->payload);
    }
    return 0;
}

static void done(struct kvs_block_req *r)
{
    struct bench *b = r->user;

    b->n_done++;
    b->n_bad += r->res != 0;
}

/* All blocks one way; seconds. */
static double all_blocks(struct bench *b, bool put)
{
    uint64_t t0 = now_ns();

    b->n_done = 0;
    for (uint32_t i = 0; i < b->n_blocks; i++) {
        b->req[i].put = put;
        b->req[i].layout = b->layout;
        while (kvs_block_submit(b->s, &b->req[i]) == -EAGAIN)
            kvs_loop_turn(b->s);
    }
    while (b->n_done < b->n_blocks) {
        struct timespec ts = {0, 100000};
        kvs_loop_turn(b->s);
        if (b->n_done < b->n_blocks)
            nanosleep(&ts, NULL);
    }
    return (double)(now_ns() - t0) / 1e9;
}

/* --- the disk alone ------------------------------------------------------------------------- */

/* A file of as many bytes as the blocks take, every one of them written: preallocated space
 * that was never written answers reads without the disk, so the store's own segments would
 * flatter whoever reads them whole. */
static int flat_make(struct bench *b, uint32_t chunk)
{
    uint64_t bytes = b->n_blocks * (b->payload + 4096) / chunk * chunk;
    uint8_t *buf = NULL;

    snprintf(b->flat, sizeof b->flat, "%s/flat", b->dir);
    int fd = open(b->flat, O_WRONLY | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EINVAL) /* a file system in memory */
        fd = open(b->flat, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || posix_fallocate(fd, 0, (off_t)bytes) != 0 ||
        posix_memalign((void **)&buf, 2 << 20, chunk))
        return fail("flat file", strerror(errno));
    for (uint32_t i = 0; i + 8 <= chunk; i += 8)
        memcpy(buf + i, b->src + i % (b->payload / 8 * 8), 8);
    for (b->flat_bytes = 0; b->flat_bytes < bytes; b->flat_bytes += chunk)
        if (pwrite(fd, buf, chunk, (off_t)b->flat_bytes) != (ssize_t)chunk)
            return fail("flat file", strerror(errno));
    free(buf);
    return fsync(fd) < 0 || close(fd) < 0 ? fail("flat file", strerror(errno)) : 0;
}

static uint32_t plain_out;
static int plain_bad;
static void plain_done(struct io_req *q)
{
    plain_out--;
    if (q->res < 0)
        plain_bad = q->res;
}

/* The same bytes in the same pieces at the same depth, and nothing else.  Seconds, or < 0. */
static double plain_reads(const struct bench *b, const struct io_ops *ops, uint32_t chunk,
                          uint32_t depth)
{
    static struct io_req q[IO_INFLIGHT_MAX];
    struct io_opts o = {.depth = depth};
    struct io_ring *ring;
    uint8_t *buf;
    uint64_t t0;

    int fd = open(b->flat, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0 || ops->open(&ring, &o) < 0 ||
        posix_memalign((void **)&buf, 2 << 20, (size_t)depth * chunk))
        return -1;
    (void)madvise(buf, (size_t)depth * chunk, MADV_HUGEPAGE); /* as the store's own memory */
    memset(buf, 1, (size_t)depth * chunk);
    memset(q, 0, sizeof q);
    t0 = now_ns();
    int file = ops->add_file(ring, fd);
    for (uint64_t at = 0; file >= 0 && at < b->flat_bytes; at += chunk) {
        uint32_t i = 0;
        while (plain_out == depth)
            (void)ops->poll(ring, 100000000);
        while (q[i].state != IO_IDLE)
            i++;
        q[i] = (struct io_req){.op = IO_READ,
                               .file = (uint16_t)file,
                               .len = chunk,
                               .off = at,
                               .buf = buf + (size_t)i * chunk,
                               .done = plain_done};
        plain_out++;
        if (ops->submit(ring, &q[i]) < 0)
            plain_out--, plain_bad = -EIO;
    }
    while (plain_out)
        (void)ops->poll(ring, 100000000);
    double s = (double)(now_ns() - t0) / 1e9;
    if (file >= 0)
        ops->del_file(ring, file);
    ops->close(ring);
    close(fd);
    free(buf);
    return file < 0 || plain_bad ? -1 : s;
}

/* Bytes a second as fio sees it, or 0 when there is none. */
static double fio_rate(const struct bench *b, bool uring, uint32_t chunk, uint32_t depth)
{
    char cmd[4096];
    double rate = 0;

    if (strpbrk(b->flat, "':\\")) /* fio splits names there, the shell ends them */
        return 0;
    snprintf(
        cmd, sizeof cmd,
        "command -v fio >/dev/null && fio --name=r --readonly --rw=read --direct=1 --bs=%u "
        "--iodepth=%u --ioengine=%s --numjobs=%u --size=%llu --group_reporting "
        "--output-format=terse --terse-version=3 --filename='%s' 2>/dev/null",
        chunk, uring ? depth : 1, uring ? "io_uring" : "psync", uring ? 1 : 4,
        (unsigned long long)b->flat_bytes, b->flat);
    FILE *p = popen(cmd, "r");
    if (!p)
        return 0;
    static char terse[1 << 16];
    size_t n = fread(terse, 1, sizeof terse - 1, p);
    if (pclose(p) != 0)
        return 0;
    terse[n] = 0;
    /* Field 7 of terse version 3: read bandwidth in KiB/s. */
    char *field = terse;
    for (int f = 1; f < 7 && field; f++)
        field = strchr(field, ';') ? strchr(field, ';') + 1 : NULL;
    if (field)
        rate = strtod(field, NULL) * 1024;
    return rate;
}

/* --- all of it ---------------------------------------------------------------------------------- */

static uint64_t storage_written(void)
{
    char b[512] = "";
    FILE *f = fopen("/proc/self/io", "r");
    size_t n = f ? fread(b, 1, sizeof b - 1, f) : 0;

    if (f)
        fclose(f);
    b[n] = 0;
    const char *w = strstr(b, "\nwrite_bytes: ");
    return w ? strtoull(w + 14, NULL, 10) : 0;
}

static int up(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, up);
    return n ? v[n / 2] : 0;
}

static int rm_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

static int setup(struct bench *b)
{
    uint8_t fp[32] = {1};
    struct kvs_key root;

    b->req = calloc(b->n_blocks, sizeof *b->req);
    b->src = malloc(b->payload);
    b->dst = malloc(PAGES * b->payload);
    if (!b->req || !b->src || !b->dst)
        return fail("memory", "not enough");
    memset(b->dst, 1, PAGES * b->payload);
    for (uint64_t i = 0, x = 88172645463325252u; i + 8 <= b->payload; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(b->src + i, &x, 8);
    }
    kvs_key_root(fp, 1, &root);
    for (uint32_t i = 0; i < b->n_blocks; i++) {
        struct kvs_block_req *r = &b->req[i];
        for (int k = 0; k < BLOCK_TOKENS; k++)
            r->ids[k] = (int32_t)(i * BLOCK_TOKENS) + k;
        r->parent = i ? b->req[i - 1].key : root;
        kvs_key_next(&r->parent, r->ids, BLOCK_TOKENS, &r->key);
        r->first_pos = (uint64_t)i * BLOCK_TOKENS;
        r->copy = copy;
        r->done = done;
        r->user = b;
    }
    return 0;
}

static int measure(struct bench *b, int rounds, bool json)
{
    double restore[ROUNDS_MAX], plain[ROUNDS_MAX], fio[ROUNDS_MAX];
    uint64_t slot = b->payload + 4096;
    uint32_t pieces = (uint32_t)((slot + CHUNK - 1) / CHUNK);
    uint32_t chunk = (uint32_t)((slot / pieces + 4095) / 4096 * 4096);
    uint32_t depth = slot < 1 << 20 ? 2 * DEPTH : DEPTH;
    double gib = (double)(b->n_blocks * b->payload) / (1 << 30);
    struct kvs_stats st;
    int n_fio = 0;

    if (flat_make(b, chunk) || store_open(b))
        return 1;
    bool uring = strcmp(b->rep.io, "uring") == 0;
    uint64_t w0 = storage_written();
    double put_s = all_blocks(b, true);
    uint64_t wrote = storage_written() - w0;
    kvs_stats(b->s, &st);
    store_close(b);
    if (b->n_bad)
        return fail("write", "some blocks did not go down; is the disk full?");
    if (wrote < st.new_state_bytes) /* a file system in memory counts none */
        wrote = st.bytes_written;
    uint64_t state = st.new_state_bytes;
    uint64_t t0 = now_ns();
    if (store_open(b))
        return 1;
    double open_ms = (double)(now_ns() - t0) / 1e6;
    double first = gib / all_blocks(b, false);
    for (int i = 0; i < rounds; i++) {
        sleep(REST_S);
        restore[i] = gib / all_blocks(b, false);
        sleep(REST_S);
        double s = plain_reads(b, uring ? &ring_uring : &ring_pool, chunk, depth);
        plain[i] = s > 0 ? (double)b->flat_bytes / (1 << 30) / s : 0;
        sleep(REST_S);
        double f = fio_rate(b, uring, chunk, depth);
        if (f > 0)
            fio[n_fio++] = f / (1 << 30);
    }
    kvs_stats(b->s, &st);
    bool from_file = st.hits_host < st.hits_file / 8;
    store_close(b);
    if (b->n_bad || !from_file)
        return fail("restore", "some blocks did not come back from the disk");
    double r = median(restore, rounds), p = median(plain, rounds), f = median(fio, n_fio);
    double base = f > p ? f : p; /* whoever reads faster shows what the disk can do */
    if (json)
        printf("{\"layout\":\"%s\",\"blocks\":%u,\"bytes\":%llu,\"io\":\"%s\",\"direct\":%s,"
               "\"write_gib_s\":%.3f,\"first_restore_gib_s\":%.3f,\"restore_gib_s\":%.3f,"
               "\"plain_gib_s\":%.3f,"
               "\"fio_gib_s\":%.3f,\"ratio\":%.3f,\"written_per_new_byte\":%.4f,"
               "\"open_ms\":%.1f,\"rounds\":%d}\n",
               b->l.id, b->n_blocks, (unsigned long long)(b->n_blocks * b->payload),
               uring ? "uring" : "threads", st.direct ? "true" : "false", gib / put_s, first, r,
               p, f, base > 0 ? r / base : 0, (double)wrote / (double)state, open_ms, rounds);
    else
        printf("%s, %u blocks, %.2f GiB, %s: write %.2f GiB/s, first restore %.2f, restore "
               "%.2f GiB/s, plain "
               "%.2f GiB/s, fio %.2f GiB/s, ratio %.3f, written per new byte %.4f, open %.1f "
               "ms\n",
               b->l.id, b->n_blocks, gib, uring ? "uring" : "threads", gib / put_s, first, r, p,
               f, base > 0 ? r / base : 0, (double)wrote / (double)state, open_ms);
    return 0;
}

static int usage(const char *why)
{
    fprintf(
        stderr,
        "hearth-bench store: %s\n"
        "usage: hearth-bench store [--dir DIR] [--layout v4-flash|llama-8b|smollm2]\n"
        "         [--tokens N] [--io auto|uring|threads] [--rounds N] [--host-memory BYTES]\n"
        "         [--json]\n",
        why);
    return 2;
}

int bench_store(int argc, char **argv)
{
    struct bench b = {.o = {.io = KVS_IO_AUTO}};
    const char *dir = "/var/tmp", *layout = "smollm2";
    uint64_t tokens = 0, host = 0;
    int rounds = 5;
    bool json = false;

    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
            continue;
        }
        if (!v)
            return usage("an option misses its value");
        i++;
        if (strcmp(argv[i - 1], "--dir") == 0)
            dir = v;
        else if (strcmp(argv[i - 1], "--layout") == 0)
            layout = v;
        else if (strcmp(argv[i - 1], "--tokens") == 0)
            tokens = strtoull(v, NULL, 10);
        else if (strcmp(argv[i - 1], "--host-memory") == 0)
            host = strtoull(v, NULL, 10);
        else if (strcmp(argv[i - 1], "--rounds") == 0)
            rounds = (int)strtol(v, NULL, 10);
        else if (strcmp(argv[i - 1], "--io") == 0)
            b.o.io = strcmp(v, "uring") == 0     ? KVS_IO_URING
                     : strcmp(v, "threads") == 0 ? KVS_IO_THREADS
                                                 : KVS_IO_AUTO;
        else
            return usage("unknown option");
    }
    if (rounds < 1 || rounds > ROUNDS_MAX)
        return usage("--rounds: want 1 to 9");
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (strcmp(layouts[i].name, layout) == 0) {
            snprintf(b.l.id, sizeof b.l.id, "%s", layout);
            b.l.hot_bytes = layouts[i].hot;
            b.l.cold_bytes = layouts[i].cold;
        }
    if (!b.l.id[0])
        return usage("--layout: want v4-flash, llama-8b or smollm2");
    b.payload = b.l.hot_bytes + b.l.cold_bytes;
    if (tokens == 0)
        tokens = (512ull << 20) / b.payload * BLOCK_TOKENS;
    b.n_blocks = (uint32_t)((tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS);
    if (b.n_blocks == 0 || b.n_blocks > 1 << 20)
        return usage("--tokens: want 1 to 268435456");
    /* Little enough that nothing stays from one round to the next. */
    b.o.host_bytes = host ? host : (b.payload + 4096) * (b.n_blocks / 16 + 12);
    /* Segments of a GiB, as on a disk worth the name. */
    b.o.disk_bytes = (b.payload + 4096) * (b.n_blocks + 16) * 2 + (20ull << 30);
    snprintf(b.dir, sizeof b.dir, "%s/hearth-bench-XXXXXX", dir);
    if (!mkdtemp(b.dir))
        return fail(b.dir, strerror(errno));
    b.o.dir = b.dir;
    int r = setup(&b);
    if (r == 0)
        r = measure(&b, rounds, json);
    nftw(b.dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
    free(b.req);
    free(b.src);
    free(b.dst);
    return r;
}
