/* t.c - the test harness: runs cases, counts, and lends them a seed, a model, a directory. */
#include "tests/t.h"
#include "base/log.h"
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static jmp_buf out;
static int failed;

/* Libraries under test may log; a program that brings its own log_at wins over this one. */
__attribute__((weak, format(printf, 2, 3))) void log_at(enum log_level level, const char *fmt,
                                                        ...)
{
    va_list ap;

    if (!getenv("T_LOG"))
        return;
    va_start(ap, fmt);
    printf("    log %d: ", level);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
}

void t_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    printf("    %s:%d: ", file, line);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
    failed = 1;
}

void t_skip(const char *why)
{
    printf("    skipped: %s\n", why);
    longjmp(out, 77);
}

const char *t_model(void)
{
    const char *m = getenv("HEARTH_TEST_MODEL");

    if (!m || !*m)
        t_skip("HEARTH_TEST_MODEL names no model");
    return m;
}

uint64_t t_seed(void)
{
    static uint64_t seed;
    const char *s = getenv("SEED");

    if (!seed) {
        struct timespec ts;
        clock_gettime(CLOCK_REALTIME, &ts);
        seed =
            s ? strtoull(s, NULL, 0) : (uint64_t)ts.tv_nsec * 2654435761u + (uint64_t)ts.tv_sec;
        seed += !seed;
        printf("    SEED=%llu\n", (unsigned long long)seed);
    }
    return seed;
}

static char made[64][PATH_MAX];
static int n_made;
static pid_t made_by;

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void remove_made(void)
{
    /* A child that was forked off leaves its parent's directories alone. */
    if (getpid() != made_by)
        return;
    while (n_made > 0)
        nftw(made[--n_made], remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *t_tmpdir(void)
{
    const char *base = getenv("TMPDIR");

    if (n_made == 0) {
        made_by = getpid();
        atexit(remove_made);
    }
    if (n_made == (int)(sizeof made / sizeof *made)) {
        printf("    t_tmpdir: more than %d directories\n", n_made);
        exit(1);
    }
    snprintf(made[n_made], sizeof made[0], "%s/hearth-test-XXXXXX",
             base && *base ? base : "/tmp");
    if (!mkdtemp(made[n_made])) {
        perror(made[n_made]);
        exit(1);
    }
    return made[n_made++];
}

const char *t_bin(void)
{
    static char dir[PATH_MAX];
    const char *e = getenv("HEARTH_BIN");

    if (e && *e)
        return e;
    ssize_t n = readlink("/proc/self/exe", dir, sizeof dir - 1);
    dir[n > 0 ? n : 0] = 0;
    for (int up = 0; up < 3; up++) {
        char *slash = strrchr(dir, '/');
        if (slash)
            *slash = 0;
    }
    return dir;
}

int t_main(int argc, char **argv, const struct t_case *c, int n)
{
    static int bad, ran;

    setvbuf(stdout, NULL, _IOLBF, 0);
    /* volatile: a skipped case comes back here by longjmp. */
    for (volatile int i = 0; i < n; i++) {
        if (argc > 1 && !strstr(c[i].name, argv[1]))
            continue;
        failed = 0;
        int r = setjmp(out);
        if (r == 0)
            c[i].run();
        printf("%-5s %s\n", failed ? "FAIL" : r == 77 ? "skip" : "ok", c[i].name);
        bad += failed;
        ran += r != 77;
    }
    return bad ? 1 : ran ? 0 : 77;
}
