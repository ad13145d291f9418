/* test_load.c - a model file that is cut, replaced or written to while it is loaded, or a disk
 * that fails under it, is an error with words; whatever happens before which read. */
#include "engine/source.h"
#include "tests/engine/tiny.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* The C library's own entry point, so that something can happen before the n-th read. */
ssize_t pread(int fd, void *buf, size_t bytes, off_t off);

static struct {
    int (*event)(void); /* returns an errno for this read, or 0: it goes on */
    int at;             /* before which read; -1: never */
    int reads;          /* atomic: workers read at once */
    size_t bytes_max;   /* of one read; 0: no bound */
    int interrupts;     /* every n-th is interrupted; 0: none */
} hook = {.at = -1};

ssize_t pread(int fd, void *buf, size_t bytes, off_t off)
{
    int n = __atomic_fetch_add(&hook.reads, 1, __ATOMIC_SEQ_CST), e = 0;

    if (n == hook.at)
        e = hook.event();
    if (hook.interrupts && n % hook.interrupts == 0)
        e = EINTR;
    if (e) {
        errno = e;
        return -1;
    }
    if (hook.bytes_max && bytes > hook.bytes_max)
        bytes = hook.bytes_max;
    return syscall(SYS_pread64, fd, buf, bytes, off);
}

static char path[64], other[64];
static struct mk file;
static off_t cut_to;

/* The model file, new; old by its time, so that whoever writes to it changes that. */
static void make_file(void)
{
    struct timespec old[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};

    if (!file.p)
        mk_llama(&file, &tiny_default);
    mk_file(&file, path, sizeof path);
    CHECK_EQ(utimensat(AT_FDCWD, path, old, 0), 0);
}

static int cut_it(void)
{
    CHECK_EQ(truncate(path, cut_to), 0);
    return 0;
}
static int replace_it(void)
{
    mk_file(&file, other, sizeof other);
    CHECK_EQ(rename(other, path), 0);
    return 0;
}
static int write_to_it(void)
{
    int fd = open(path, O_WRONLY);

    CHECK(fd >= 0 && pwrite(fd, "x", 1, (off_t)file.n - 1) == 1);
    close(fd);
    return 0;
}
static int lengthen_it(void)
{
    CHECK_EQ(truncate(path, (off_t)file.n + 1), 0);
    return 0;
}
static int remove_it(void)
{
    CHECK_EQ(unlink(path), 0);
    return 0;
}
static int fail_it(void)
{
    return EIO;
}

/* Loads a new file with the event before read n; true when the load got that far. */
static bool load(const struct kern_ops *kern, int (*event)(void), int n, int *ret_r,
                 struct errbuf *eb)
{
    struct eng_opts o = {.kern = kern, .threads = 2, .path = path};
    struct engine *e = NULL;

    make_file();
    eb->s[0] = 0;
    hook.event = event;
    hook.reads = 0;
    hook.at = n;
    *ret_r = eng_open(&e, &o, eb);
    bool reached = hook.reads > n;
    hook.at = -1;
    eng_close(e);
    unlink(path);
    return reached;
}

/* Which reads there are: all of the cpu's, some of the oracle's, which takes row by row. */
static int next_read(const struct kern_ops *kern, int n)
{
    return n + 1 + (kern == &kern_ref ? n / 4 : 0);
}

static const struct kern_ops *const backends[] = {&kern_cpu, &kern_ref};

static void a_file_cut_before_any_read_is_an_error_that_names_it(void)
{
    struct errbuf eb;
    int r = 0, worded = 0;

    mk_llama(&file, &tiny_default);
    for (int b = 0; b < 2; b++)
        for (int c = 0; c <= 6; c++) {
            bool reached = true;
            cut_to = c < 6 ? (off_t)(file.n * (size_t)c / 6) : (off_t)file.n - 1;
            for (int n = 0; reached; n = next_read(backends[b], n)) {
                reached = load(backends[b], cut_it, n, &r, &eb);
                bool right = reached ? r == E_CORRUPT || r == -ESTALE : r == 0;
                if (!right || (reached && !strstr(eb.s, path)))
                    t_fail(__FILE__, __LINE__, "cut to %lld before read %d: %d '%s'",
                           (long long)cut_to, n, r, eb.s);
                char words[64];
                snprintf(words, sizeof words, "the file ended at %lld", (long long)cut_to);
                worded += strstr(eb.s, words) && strstr(eb.s, "tensor ");
            }
        }
    CHECK(worded > 50); /* most are found by a tensor that lies behind the end */
}

static void a_file_that_is_another_at_the_end_is_stale(void)
{
    static const struct {
        int (*event)(void);
        const char *words;
    } t[] = {{replace_it, "another file took its place"},
             {write_to_it, "the file changed"},
             {lengthen_it, "the file changed"},
             {remove_it, "the file went away"}};
    struct errbuf eb;
    int r = 0;

    for (int i = 0; i < 4; i++) {
        bool reached = true;
        for (int n = 0; reached; n++) {
            reached = load(&kern_cpu, t[i].event, n, &r, &eb);
            if (r != (reached ? -ESTALE : 0) || (reached && !strstr(eb.s, t[i].words)))
                t_fail(__FILE__, __LINE__, "event %d before read %d: %d '%s'", i, n, r, eb.s);
        }
    }
}

static void a_disk_that_fails_at_any_read_is_eio_with_words(void)
{
    struct errbuf eb;
    int r = 0, tensors = 0;

    for (int b = 0; b < 2; b++) {
        bool reached = true;
        for (int n = 0; reached; n = next_read(backends[b], n)) {
            reached = load(backends[b], fail_it, n, &r, &eb);
            if (r != (reached ? -EIO : 0) ||
                (reached && (!strstr(eb.s, path) || !strstr(eb.s, "cannot be read"))))
                t_fail(__FILE__, __LINE__, "read %d: %d '%s'", n, r, eb.s);
            tensors += strstr(eb.s, "tensor blk.1.ffn_up.weight: bytes ") != NULL;
        }
    }
    CHECK(tensors > 0);
}

/* What a network or a signal may do to a read changes nothing. */
static void short_and_interrupted_reads_load_the_same_model(void)
{
    struct tiny a, b;
    struct eng_opts o = {.kern = &kern_cpu, .threads = 2};
    struct engine *e[2];

    e[0] = tiny_open(&tiny_default, &o);
    hook.bytes_max = 1000;
    hook.interrupts = 3;
    e[1] = tiny_open(&tiny_default, &o);
    hook.bytes_max = 0;
    hook.interrupts = 0;
    if (!e[0] || !e[1])
        return;
    tiny_init(&a, e[0], 3);
    tiny_init(&b, e[1], 3);
    CHECK_EQ(tiny_run(&a, 0, 100, 100), 0);
    CHECK_EQ(tiny_run(&b, 0, 100, 100), 0);
    CHECK(tiny_same(&a, &b, 0, 100) && tiny_alive(&a, 0, 100));
    tiny_fini(&a);
    tiny_fini(&b);
    eng_close(e[0]);
    eng_close(e[1]);
}

static void what_is_not_a_file_is_refused_and_waits_for_nobody(void)
{
    struct eng_opts o = {.kern = &kern_ref, .path = other};
    struct engine *e = NULL;
    struct errbuf eb = {""};
    uint8_t id[16];

    snprintf(other, sizeof other, "/tmp/hearth-test-pipe-%d", (int)getpid());
    CHECK_EQ(mkfifo(other, 0600), 0);
    CHECK_EQ(eng_open(&e, &o, &eb), -EINVAL);
    CHECK(strstr(eb.s, other) && strstr(eb.s, "not a regular file"));
    CHECK_EQ(eng_weights_id(other, NULL, id, &eb), -EINVAL);
    unlink(other);
    CHECK_EQ(mkdir(other, 0700), 0);
    CHECK_EQ(eng_open(&e, &o, &eb), -EISDIR);
    CHECK_EQ(eng_weights_id(other, NULL, id, &eb), -EISDIR);
    rmdir(other);
}

static void a_hash_of_a_file_that_changes_is_no_hash(void)
{
    int (*const events[])(void) = {cut_it, replace_it, write_to_it, lengthen_it, fail_it};
    const int codes[] = {E_CORRUPT, -ESTALE, -ESTALE, -ESTALE, -EIO};
    struct errbuf eb = {""};
    uint8_t id[16], same[16];

    cut_to = 0;
    for (int i = 0; i < 5; i++) {
        make_file();
        hook.event = events[i];
        hook.reads = 0;
        hook.at = 0;
        memset(id, 0, sizeof id);
        CHECK_EQ(eng_weights_id(path, NULL, id, &eb), codes[i]);
        CHECK(strstr(eb.s, path) && id[0] == 0 && memcmp(id, id + 1, 15) == 0);
        hook.at = -1;
        unlink(path);
    }
    make_file();
    CHECK_EQ(eng_weights_id(path, NULL, id, &eb), 0);
    hook.bytes_max = 777;
    CHECK_EQ(eng_weights_id(path, NULL, same, &eb), 0);
    hook.bytes_max = 0;
    CHECK(memcmp(id, same, 16) == 0);
    unlink(path);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(a_file_cut_before_any_read_is_an_error_that_names_it),
       CASE(a_file_that_is_another_at_the_end_is_stale),
       CASE(a_disk_that_fails_at_any_read_is_eio_with_words),
       CASE(short_and_interrupted_reads_load_the_same_model),
       CASE(what_is_not_a_file_is_refused_and_waits_for_nobody),
       CASE(a_hash_of_a_file_that_changes_is_no_hash))
