/* pretok.c - see pretok.h.
 *
 * Classes are spelled out.  Debian's PCRE2 under UCP lets \s match U+180E, which no tokenizer
 * calls a space, and (?i:'s) match U+017F, the long s; and its Unicode is 14. */
#include "engine/pretok.h"
#include "base/check.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <errno.h>
#include <pcre2.h>
#include <stdlib.h>

enum { PRETOK_MAGIC = 0x50544b31, STAGES_MAX = 6 };

/* Members of a class, to be used inside brackets. */
#define WS                                                                                     \
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
/* Letters and numbers of Unicode 15.0 and 15.1, for a PCRE2 that knows only 14. */
#define LETTER                                                                                 \
    "\\p{L}\\x{1123f}\\x{11240}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}" \
    "\\x{13441}-\\x{13446}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"      \
    "\\x{1e4d0}-\\x{1e4eb}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define NUMBER           "\\p{N}\\x{11f50}-\\x{11f59}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}"
#define CONTRACTION      "'(?:[stmd]|re|ve|ll)"
#define CONTRACTION_CASE "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"

/* A run of spaces gives its last one to the word that follows. */
#define TAIL_SPACES "[" WS "]+(?![^" WS "])|[" WS "]+"

#define GPT2                                                                                   \
    CONTRACTION "| ?[" LETTER "]+| ?[" NUMBER "]+| ?[^" WS LETTER NUMBER "]+|" TAIL_SPACES
/* Numbers stand alone and cut the text before anything else does: no space joins one, and
 * a run of spaces before one is whole, as at the end of the text. */
#define SMOLLM                                                                                 \
    CONTRACTION "| ?[" LETTER "]+|[" NUMBER "]| ?[^" WS LETTER NUMBER "]+|[" WS                \
                "]+(?![^" WS NUMBER "])|[" WS "]+"
#define CL100K(digits)                                                                         \
    CONTRACTION_CASE "|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+|[" NUMBER "]" digits           \
                     "| ?[^" WS LETTER NUMBER "]+[\\r\\n]*|[" WS "]*[\\r\\n]+|" TAIL_SPACES

/* The cased letters as DeepSeek's tokenizer lists them. */
#define DEEPSEEK_LETTERS                                                                       \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"             \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"     \
    "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"              \
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                   \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"             \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"             \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}"    \
    "\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}"     \
    "\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}"             \
    "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"              \
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}"               \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}"    \
    "\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"     \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"              \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"             \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"           \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}"     \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
/* Its CJK class runs from U+0800 and so over the wide spaces, which stay spaces. */
#define DEEPSEEK_CJK                                                                           \
    "\\x{800}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}"              \
    "\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{9fa5}\\x{ac00}-\\x{d7ff}"

/* A rule is a list of stages.  Each cuts the pieces the one before left: a match is a piece,
 * and so is what lies between two matches. */
struct rule {
    const char *name;
    bool ignore_merges, bos;
    const char *stage[STAGES_MAX]; /* "$": spaces at the end of a piece (linear by hand; a
                                    * pattern would try every start) */
};
static const struct rule rules[] = {
    {.name = "smollm", .stage = {SMOLLM}},
    {.name = "gpt-2", .stage = {GPT2}},
    {.name = "llama-bpe", .ignore_merges = true, .bos = true, .stage = {CL100K("{1,3}")}},
    {.name = "dbrx", .stage = {CL100K("{1,3}")}},
    {.name = "qwen2", .stage = {CL100K("")}},
    {.name = "deepseek-llm",
     .stage = {"[\\r\\n]", "[" WS "]?[" DEEPSEEK_LETTERS "]+",
               "[" WS "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}"
               "\\x{3001}\\x{3002}]+",
               "$", "[" DEEPSEEK_CJK "]+", "[" NUMBER "]+"}},
};
static const struct {
    const char *name, *rule;
} names[] = {
    {"smollm", "smollm"},
    {"gpt-2", "gpt-2"},
    {"llama-bpe", "llama-bpe"},
    {"qwen2", "qwen2"},
    {"deepseek-llm", "deepseek-llm"},
    /* Other names for the same cuts and the same flags. */
    {"starcoder", "smollm"},
    {"refact", "smollm"},
    {"command-r", "smollm"},
    {"codeshell", "smollm"},
    {"exaone", "smollm"},
    {"minerva-7b", "smollm"},
    {"phi-2", "gpt-2"},
    {"mpt", "gpt-2"},
    {"olmo", "gpt-2"},
    {"jais", "gpt-2"},
    {"trillion", "gpt-2"},
    {"exaone4", "gpt-2"},
    {"llama3", "llama-bpe"},
    {"llama-v3", "llama-bpe"},
    {"falcon3", "llama-bpe"},
    {"pixtral", "llama-bpe"},
    {"dbrx", "dbrx"},
    {"smaug-bpe", "dbrx"},
    {"stablelm2", "qwen2"},
    {"deepseek-r1-qwen", "qwen2"},
    {"megrez", "qwen2"},
};

struct pretok {
    uint32_t magic;
    const struct rule *rule;
    pcre2_code *code[STAGES_MAX]; /* NULL where the stage is "$" */
    pcre2_match_context *mctx;
    uint32_t n_stages;
    bool jit;
    char unicode[16];
};

struct split { /* one call */
    const struct pretok *p;
    const char *text;
    pcre2_match_data *md;
    pretok_word *word;
    void *ctx;
};

static int split_piece(const struct split *s, uint32_t stage, size_t at, size_t end);

const char *pretok_name_at(uint32_t i)
{
    return i < sizeof names / sizeof *names ? names[i].name : NULL;
}

static const struct rule *rule_of(const char *name, size_t bytes)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i].name) == bytes && memcmp(names[i].name, name, bytes) == 0)
            for (size_t k = 0; k < sizeof rules / sizeof *rules; k++)
                if (strcmp(rules[k].name, names[i].rule) == 0)
                    return &rules[k];
    return NULL;
}

static int refuse(const char *name, size_t bytes, struct errbuf *eb)
{
    char list[320];
    size_t n = 0;

    for (size_t i = 0; i < sizeof names / sizeof *names && n < sizeof list - 1; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? " " : "", names[i].name);
    return err_set(eb, E_UNSUPP, "tokenizer.ggml.pre: no pre-tokenizer \"%.*s\"; known: %s",
                   (int)(bytes < 64 ? bytes : 64), name, list);
}

static int stage_open(struct pretok *p, uint32_t i, bool jit, struct errbuf *eb)
{
    /* With one stage every character is somebody's, so a match begins where the last ended. */
    uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_DOLLAR_ENDONLY;
    int code;
    PCRE2_SIZE at;

    if (p->rule->stage[i][0] == '$')
        return 0;
    if (p->n_stages == 1)
        flags |= PCRE2_ANCHORED;
    p->code[i] = pcre2_compile((PCRE2_SPTR)p->rule->stage[i], PCRE2_ZERO_TERMINATED, flags,
                               &code, &at, NULL);
    if (p->code[i] == NULL)
        return code == PCRE2_ERROR_HEAP_FAILED
                   ? -ENOMEM
                   : err_set(eb, E_UNSUPP,
                             "pre-tokenizer %s: PCRE2 refuses stage %u at %zu (code %d)",
                             p->rule->name, i, (size_t)at, code);
    /* Where memory may not become executable this fails, and the interpreter does the work. */
    if (!jit || pcre2_jit_compile(p->code[i], PCRE2_JIT_COMPLETE) != 0)
        p->jit = false;
    return 0;
}

int pretok_open(struct pretok **ret, const char *name, size_t bytes, bool jit,
                struct errbuf *eb)
{
    const struct rule *rule = rule_of(name, bytes);
    if (rule == NULL)
        return refuse(name, bytes, eb);

    struct pretok *p = calloc(1, sizeof *p);
    int r = p ? 0 : -ENOMEM;

    if (r == 0) {
        p->rule = rule;
        p->jit = jit;
        while (p->n_stages < STAGES_MAX && rule->stage[p->n_stages])
            p->n_stages++;
        /* The interpreter's limits are meant for hostile patterns; ours are fixed, and a
         * megabyte of spaces is only long. */
        p->mctx = pcre2_match_context_create(NULL);
        r = p->mctx ? 0 : -ENOMEM;
    }
    if (r == 0) {
        pcre2_set_match_limit(p->mctx, UINT32_MAX);
        pcre2_set_depth_limit(p->mctx, UINT32_MAX);
        char have[64] = "";
        (void)pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, have);
        snprintf(p->unicode, sizeof p->unicode, "%.15s",
                 strtod(have, NULL) > 15.15 ? have : "15.1");
    }
    for (uint32_t i = 0; r == 0 && i < p->n_stages; i++)
        r = stage_open(p, i, jit, eb);
    if (r < 0) {
        pretok_close(p);
        return r;
    }
    p->magic = PRETOK_MAGIC;
    *ret = p;
    return 0;
}

void pretok_close(struct pretok *p)
{
    if (p == NULL)
        return;
    p->magic = 0;
    for (uint32_t i = 0; i < STAGES_MAX; i++)
        pcre2_code_free(p->code[i]);
    pcre2_match_context_free(p->mctx);
    free(p);
}

const char *pretok_rule(const struct pretok *p)
{
    must_be(p, PRETOK_MAGIC);
    return p->rule->name;
}

bool pretok_ignore_merges(const struct pretok *p)
{
    must_be(p, PRETOK_MAGIC);
    return p->rule->ignore_merges;
}

bool pretok_wants_bos(const struct pretok *p)
{
    must_be(p, PRETOK_MAGIC);
    return p->rule->bos;
}

bool pretok_is_jit(const struct pretok *p)
{
    must_be(p, PRETOK_MAGIC);
    return p->jit;
}

const char *pretok_unicode(const struct pretok *p)
{
    must_be(p, PRETOK_MAGIC);
    return p->unicode;
}

/* A match of this stage at or after `from` and inside the piece, or no match (false).  The
 * piece is the whole subject: nothing looks past its end. */
static int next_match(const struct split *s, uint32_t stage, size_t at, size_t end, size_t from,
                      size_t *ret_from, size_t *ret_end)
{
    const struct pretok *p = s->p;
    PCRE2_SPTR piece = (PCRE2_SPTR)s->text + at;
    int r = PCRE2_ERROR_JIT_STACKLIMIT;

    if (p->jit)
        r = pcre2_jit_match(p->code[stage], piece, end - at, from - at, PCRE2_NO_UTF_CHECK,
                            s->md, p->mctx);
    if (r == PCRE2_ERROR_JIT_STACKLIMIT)
        r = pcre2_match(p->code[stage], piece, end - at, from - at,
                        PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->md, p->mctx);
    if (r == PCRE2_ERROR_NOMATCH)
        return 0;
    if (r < 0)
        return -ENOMEM; /* the only failure left to a fixed pattern on checked text */
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(s->md);
    must(o[0] + at >= from && o[1] > o[0]);
    *ret_from = at + o[0];
    *ret_end = at + o[1];
    return 1;
}

static bool space_ends(const char *text, size_t at, size_t end, size_t *ret_bytes)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n = 1;
    while (n < 4 && end - n > at && (p[end - n] & 0xc0) == 0x80)
        n++;
    const uint8_t *c = p + end - n;
    *ret_bytes = n;
    switch (n) {
    case 1: return c[0] == ' ' || (c[0] >= 9 && c[0] <= 13);
    case 2: return c[0] == 0xc2 && (c[1] == 0x85 || c[1] == 0xa0);
    case 3:
        if (c[0] == 0xe2)
            return (c[1] == 0x80 &&
                    (c[2] <= 0x8a || c[2] == 0xa8 || c[2] == 0xa9 || c[2] == 0xaf)) ||
                   (c[1] == 0x81 && c[2] == 0x9f);
        return (c[0] == 0xe1 && c[1] == 0x9a && c[2] == 0x80) ||
               (c[0] == 0xe3 && c[1] == 0x80 && c[2] == 0x80);
    default: return false;
    }
}

static int split_tail_spaces(const struct split *s, uint32_t stage, size_t at, size_t end)
{
    size_t cut = end, n;
    while (cut > at && space_ends(s->text, at, cut, &n))
        cut -= n;
    int r = cut > at ? split_piece(s, stage + 1, at, cut) : 0;
    if (r == 0 && cut < end)
        r = split_piece(s, stage + 1, cut, end);
    return r;
}

static int split_piece(const struct split *s, uint32_t stage, size_t at, size_t end)
{
    if (stage == s->p->n_stages)
        return s->word(s->ctx, at, end - at);
    if (s->p->code[stage] == NULL)
        return split_tail_spaces(s, stage, at, end);
    size_t done = at;
    while (done < end) {
        size_t from, to;
        int r = next_match(s, stage, at, end, done, &from, &to);
        if (r == 0)
            break;
        if (r > 0)
            r = from > done ? split_piece(s, stage + 1, done, from) : 0;
        if (r == 0)
            r = split_piece(s, stage + 1, from, to);
        if (r != 0)
            return r;
        done = to;
    }
    return done < end ? split_piece(s, stage + 1, done, end) : 0;
}

int pretok_split(const struct pretok *p, const char *text, size_t bytes, pretok_word *word,
                 void *ctx)
{
    must_be(p, PRETOK_MAGIC);
    if (bytes == 0)
        return 0;
    struct split s = {.p = p, .text = text, .word = word, .ctx = ctx};
    s.md = pcre2_match_data_create(1, NULL);
    if (s.md == NULL)
        return -ENOMEM;
    int r = split_piece(&s, 0, 0, bytes);
    pcre2_match_data_free(s.md);
    return r;
}
