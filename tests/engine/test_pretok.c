/* test_pretok.c - how text is cut into words; with and without memory that may be executed. */
#include "engine/pretok.h"
#include "engine/utf8.h"
#include "tests/t.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct cut {
    char s[4096];
    size_t n, at;
    const char *text;
};
static int add_word(void *ctx, size_t at, size_t bytes)
{
    struct cut *c = ctx;
    if (at != c->at || bytes == 0)
        return -EINVAL; /* words tile the text */
    c->at = at + bytes;
    memcpy(c->s + c->n, c->text + at, bytes);
    c->n += bytes;
    c->s[c->n++] = '/';
    c->s[c->n] = 0;
    return 0;
}
static struct pretok *rule(const char *name, bool jit)
{
    struct pretok *p = NULL;
    struct errbuf eb = {""};
    int r = pretok_open(&p, name, strlen(name), jit, &eb);
    if (r < 0)
        t_fail(__FILE__, __LINE__, "%s: %d %s", name, r, eb.s);
    return p;
}
static void cuts(const char *name, const char *text, const char *want)
{
    for (int jit = 0; jit < 2; jit++) {
        struct pretok *p = rule(name, jit);
        struct cut c = {.text = text};
        int r = pretok_split(p, text, strlen(text), add_word, &c);
        if (r != 0 || strcmp(c.s, want) != 0)
            t_fail(__FILE__, __LINE__, "%s%s: \"%s\" is cut %s, want %s (%d)", name,
                   jit ? " jit" : "", text, c.s, want, r);
        pretok_close(p);
    }
}

static void each_rule_cuts_as_its_tokenizer_does(void)
{
    cuts("gpt-2", "it's 12345  ok", "it/'s/ 12345/ / ok/");
    cuts("gpt-2", "IT'S  ", "IT/'/S/  /");
    cuts("smollm", "it's 123  ok", "it/'s/ /1/2/3/ / ok/");
    cuts("smollm", "a  1", "a/  /1/");
    cuts("llama-bpe", "IT'S 12345\n\n ok", "IT/'S/ /123/45/\n\n/ ok/");
    cuts("llama-bpe", "x=(a)\n\ty", "x/=(/a/)\n/\ty/");
    cuts("qwen2", "12345", "1/2/3/4/5/");
    cuts("deepseek-llm", "ab 123\n\n\xe4\xb8\x96\xe7\x95\x8c",
         "ab/ /123/\n/\n/\xe4\xb8\x96\xe7\x95\x8c/");
    cuts("deepseek-llm", "ab  ", "ab/  /");
    cuts("deepseek-llm", "1  2  ", "1/  /2/  /"); /* spaces only end a piece at its end */
}

static void the_long_s_is_no_contraction_and_the_vowel_separator_no_space(void)
{
    cuts("llama-bpe", "a'\xc5\xbf", "a/'\xc5\xbf/");
    cuts("qwen2", "a\xe1\xa0\x8e\xe1\xa0\x8e.", "a/\xe1\xa0\x8e\xe1\xa0\x8e./");
    cuts("gpt-2", "a\xc2\xa0\xe3\x80\x80 b", "a/\xc2\xa0\xe3\x80\x80/ b/");
}

static void letters_newer_than_pcre2_are_letters(void)
{
    cuts("gpt-2", "a\xf0\xae\xaf\xb0", "a\xf0\xae\xaf\xb0/"); /* U+2EBF0, Unicode 15.1 */
    cuts("gpt-2", "1\xf0\x91\xbd\x90", "1\xf0\x91\xbd\x90/"); /* U+11F50, Unicode 15.0 */
}

static void an_empty_text_has_no_words(void)
{
    cuts("gpt-2", "", "");
    cuts("deepseek-llm", "", "");
}

static int stop_at_third(void *ctx, size_t at, size_t bytes)
{
    (void)at, (void)bytes;
    return ++*(int *)ctx == 3 ? 42 : 0;
}
static void a_callback_that_fails_ends_it(void)
{
    const char *names[] = {"gpt-2", "deepseek-llm"};
    for (int i = 0; i < 2; i++) {
        struct pretok *p = rule(names[i], true);
        int n = 0;
        CHECK_EQ(pretok_split(p, "a b c d e", 9, stop_at_third, &n), 42);
        CHECK_EQ(n, 3);
        pretok_close(p);
    }
}

static void every_name_opens_and_an_unknown_one_lists_them(void)
{
    struct errbuf eb = {""};
    struct pretok *p = NULL;
    const char *name;
    CHECK_EQ(pretok_open(&p, "nope", 4, true, &eb), E_UNSUPP);
    CHECK(strstr(eb.s, "\"nope\"") != NULL);
    for (uint32_t i = 0; (name = pretok_name_at(i)); i++) {
        p = rule(name, false);
        CHECK(pretok_ignore_merges(p) == (strcmp(pretok_rule(p), "llama-bpe") == 0));
        CHECK(strstr(eb.s, name) != NULL);
        pretok_close(p);
    }
    CHECK_EQ(pretok_open(&p, "", 0, true, &eb), E_UNSUPP);
    CHECK_EQ(pretok_open(&p, "gpt-2\0x", 7, true, &eb), E_UNSUPP);
    CHECK_EQ(pretok_open(&p, "gpt", 3, true, &eb), E_UNSUPP);
}

/* From here on the process may not make memory executable, as under MemoryDenyWriteExecute. */
static int deny_executable_memory(void)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), /* system call number */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_mmap, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_mprotect, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 32), /* third argument, low half: protection */
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {sizeof f / sizeof *f, f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -errno;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0 ? -errno : 0;
}

static void without_executable_memory_the_words_are_the_same(void)
{
    const char *text =
        "It's 12345  \xe4\xb8\x96\xe7\x95\x8c'LL\n\n \tx = f(a+b);\r\n  \xc2\xa0 done...  ";
    const char *name;
    for (uint32_t i = 0; (name = pretok_name_at(i)); i++) {
        struct pretok *p = rule(name, true);
        struct cut want = {.text = text};
        CHECK_EQ(pretok_split(p, text, strlen(text), add_word, &want), 0);
        pid_t child = fork();
        if (child == 0) {
            struct pretok *q = NULL;
            struct cut got = {.text = text};
            if (deny_executable_memory() < 0)
                _exit(77);
            /* Executable memory that was got before is still there: use it up. */
            for (int k = 0; k < 2000 && (q == NULL || pretok_is_jit(q)); k++)
                if (pretok_open(&q, name, strlen(name), true, NULL) < 0)
                    _exit(1);
            if (pretok_is_jit(q))
                _exit(2);
            if (pretok_split(q, text, strlen(text), add_word, &got) != 0)
                _exit(3);
            _exit(strcmp(got.s, want.s) == 0 ? 0 : 4);
        }
        int status = 0;
        pretok_close(p);
        if (child < 0 || waitpid(child, &status, 0) < 0)
            return t_fail(__FILE__, __LINE__, "fork: %d", errno);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
            t_skip("seccomp filters are not allowed here");
        CHECK(WIFEXITED(status));
        CHECK_EQ(WEXITSTATUS(status), 0);
    }
}

static void mending_gives_strict_text_at_the_same_offsets(void)
{
    const char in[] = "a\xff\xc3(\xed\xa0\x80\xf4\x90\x80\x80\xc0\x80\xe2\x82";
    char out[64], shadow[64];
    size_t n = utf8_mend(in, sizeof in - 1, out, shadow);
    CHECK(utf8_is_strict(shadow, n));
    CHECK(!utf8_is_strict(out, n)); /* the surrogate stays */
    CHECK(memcmp(out, "a\xef\xbf\xbd\xef\xbf\xbd(\xed\xa0\x80", 11) == 0);
    CHECK(memcmp(shadow + 8, "\xef\xbf\xbd", 3) == 0);
    CHECK(memchr(out, 0, n) != NULL); /* the overlong zero became a zero */
    CHECK(utf8_is_strict("", 0));
    CHECK(utf8_is_strict("\xf4\x8f\xbf\xbf", 4));
    CHECK(!utf8_is_strict("\xf4\x90\x80\x80", 4));
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(each_rule_cuts_as_its_tokenizer_does),
       CASE(the_long_s_is_no_contraction_and_the_vowel_separator_no_space),
       CASE(letters_newer_than_pcre2_are_letters), CASE(an_empty_text_has_no_words),
       CASE(a_callback_that_fails_ends_it),
       CASE(every_name_opens_and_an_unknown_one_lists_them),
       CASE(without_executable_memory_the_words_are_the_same),
       CASE(mending_gives_strict_text_at_the_same_offsets))
