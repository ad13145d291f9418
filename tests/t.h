/* t.h - the test harness: a table of named cases, three outcomes.
 *
 * A case is a function whose name states the fact it proves.  `test_x NAME` runs the cases
 * whose name contains NAME.  Exits 0, 1, or 77 when every case was skipped. */
#ifndef T_H
#define T_H
#include <stdint.h>
#include <string.h>

struct t_case {
    const char *name;
    void (*run)(void);
};
int t_main(int argc, char **argv, const struct t_case *c, int n);
void t_fail(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Leaves the case.  Nothing of the case is cleaned up: call it first. */
_Noreturn void t_skip(const char *why);
/* The model of HEARTH_TEST_MODEL, or the case is skipped. */
const char *t_model(void);
/* SEED from the environment, else from the clock; said once, so that a failure can be rerun. */
uint64_t t_seed(void);
/* A new directory under $TMPDIR or /tmp, removed with all it holds when the program ends. */
const char *t_tmpdir(void);
/* Where the programs of this build are: HEARTH_BIN, else three levels above this test. */
const char *t_bin(void);
/* How many times longer a wait for the programs may take: sanitizers slow them down. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { T_SLOWER = 10 };
#else
enum { T_SLOWER = 1 };
#endif

#define CHECK(c)                                                                               \
    do {                                                                                       \
        if (!(c))                                                                              \
            t_fail(__FILE__, __LINE__, "%s", #c);                                              \
    } while (0)
#define CHECK_EQ(a, b)                                                                         \
    do {                                                                                       \
        long long x_ = (long long)(a), y_ = (long long)(b);                                    \
        if (x_ != y_)                                                                          \
            t_fail(__FILE__, __LINE__, "%s = %lld, want %lld", #a, x_, y_);                    \
    } while (0)
#define CHECK_STR(a, b)                                                                        \
    do {                                                                                       \
        const char *x_ = (a), *y_ = (b);                                                       \
        if (!x_ || !y_ || strcmp(x_, y_) != 0)                                                 \
            t_fail(__FILE__, __LINE__, "%s = \"%s\", want \"%s\"", #a, x_ ? x_ : "(null)",     \
                   y_ ? y_ : "(null)");                                                        \
    } while (0)
#define T_MAIN(...)                                                                            \
    int main(int argc, char **argv)                                                            \
    {                                                                                          \
        static const struct t_case cases_[] = {__VA_ARGS__};                                   \
        return t_main(argc, argv, cases_, (int)(sizeof cases_ / sizeof *cases_));              \
    }
#endif
