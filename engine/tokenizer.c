/* tokenizer.c - see tokenizer.h.
 *
 * Text goes three ways down: special tokens are found in it and cut out; what is left is cut
 * into words (pretok.c); words are merged to ids (bpe.c).  The vocabulary writes bytes as
 * printable characters; they are turned back into bytes once, at open, and everything after
 * works on bytes. */
#include "engine/tokenizer.h"
#include "base/bytes.h"
#include "base/check.h"
#include "engine/bpe.h"
#include "engine/gguf.h"
#include "engine/pretok.h"
#include "engine/utf8.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <xxhash.h>

enum {
    TOKENIZER_MAGIC = 0x544f4b31,
    VOCAB_MAX = 1 << 22,
    MERGES_MAX = 1 << 23,
    TEXT_BYTES_MAX = (1 << 30) - 1,
};
enum kind { /* tokenizer.ggml.token_type */
            KIND_NORMAL = 1,
            KIND_UNKNOWN,
            KIND_CONTROL,
            KIND_USER,
            KIND_UNUSED,
            KIND_BYTE,
};

struct tokenizer {
    uint32_t magic, n_vocab;
    char *text;   /* pieces, one after another */
    uint32_t *at; /* n_vocab + 1 offsets into text */
    uint8_t *kind, *end;
    struct pretok *pretok;
    struct bpe *bpe;
    int32_t *special; /* in the order of their bytes, of equal ones by id */
    uint32_t n_special;
    uint32_t by_byte[257]; /* special[by_byte[c]] .. special[by_byte[c + 1]] begin with c */
    int32_t bos, eos;
    bool add_bos;
    uint8_t id[32];
};

/* Tokens that end an answer under whatever type the file gives them: converters mark some of
 * them as plain text. */
static const char *const end_texts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_text|>",
    "</s>",
    "[EOS]",
    "<|return|>",
    "[EOT]",
    "<\xef\xbd\x9c"
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>", /* DeepSeek's */
};

/* --- the vocabulary's alphabet: printable characters for bytes --------------------------- */
/* Bytes that are printable in Latin-1 stand for themselves, the other 68 for U+0100 onward
 * in ascending order. */
static bool self_printing(uint32_t b)
{
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xff && b != 0xad);
}

static int byte_of(uint32_t cp) /* -1: no byte is written so */
{
    if (cp < 256)
        return self_printing(cp) ? (int)cp : -1;
    uint32_t next = 256;
    for (int b = 0; b < 256; b++)
        if (!self_printing((uint32_t)b) && next++ == cp)
            return b;
    return -1;
}

/* Writes the bytes that text spells (never more than text has); false when some character
 * spells none. */
static bool spell(const int16_t *alphabet, const char *text, size_t bytes, char *out,
                  size_t *ret_bytes)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        int len = utf8_status(p + i, bytes - i);
        uint32_t cp = len == 1   ? p[i]
                      : len == 2 ? (uint32_t)(p[i] & 0x1f) << 6 | (p[i + 1] & 0x3f)
                                 : 1024;
        if (len <= 0 || cp >= 1024 || alphabet[cp] < 0)
            return false;
        out[n++] = (char)alphabet[cp];
        i += (size_t)len;
    }
    *ret_bytes = n;
    return true;
}

/* --- open ---------------------------------------------------------------------------------- */
static bool same(struct gguf_str s, const char *text)
{
    return s.bytes == strlen(text) && memcmp(s.p, text, s.bytes) == 0;
}

static bool is_end_text(struct gguf_str s)
{
    for (size_t i = 0; i < sizeof end_texts / sizeof *end_texts; i++)
        if (same(s, end_texts[i]))
            return true;
    return false;
}

static bool printable_ascii(struct gguf_str s)
{
    for (uint64_t i = 0; i < s.bytes; i++)
        if (s.p[i] < 0x21 || s.p[i] > 0x7e)
            return false;
    return true;
}

static int open_counts(struct tokenizer *t, const struct gguf *g, uint64_t *ret_text,
                       struct errbuf *eb)
{
    struct gguf_str model = {0};
    if (!gguf_str(g, "tokenizer.ggml.model", &model))
        return err_set(eb, E_CORRUPT,
                       "tokenizer.ggml.model: missing; the file has no tokenizer");
    if (!same(model, "gpt2"))
        return err_set(eb, E_UNSUPP,
                       "tokenizer.ggml.model: want \"gpt2\" (byte-level BPE), got \"%.*s\"",
                       (int)(model.bytes < 32 ? model.bytes : 32), model.p);
    int64_t n = gguf_arr(g, "tokenizer.ggml.tokens", GGUF_STR);
    if (n <= 0)
        return err_set(eb, E_CORRUPT, "tokenizer.ggml.tokens: want an array of strings");
    if (n > VOCAB_MAX)
        return err_set(eb, E_LIMIT, "tokenizer.ggml.tokens: %lld entries, at most %d",
                       (long long)n, VOCAB_MAX);
    t->n_vocab = (uint32_t)n;
    int64_t types = gguf_arr(g, "tokenizer.ggml.token_type", GGUF_I32);
    if (types >= 0 && types < n)
        return err_set(eb, E_CORRUPT, "tokenizer.ggml.token_type: %lld entries for %lld tokens",
                       (long long)types, (long long)n);
    uint64_t text = 0;
    for (int64_t i = 0; i < n; i++)
        text += gguf_arr_str(g, "tokenizer.ggml.tokens", (uint64_t)i).bytes;
    if (text > TEXT_BYTES_MAX)
        return err_set(eb, E_LIMIT, "tokenizer.ggml.tokens: %llu bytes of text, at most %d",
                       (unsigned long long)text, TEXT_BYTES_MAX);
    *ret_text = text;
    return 0;
}

/* What one token stands for, written at out; *ret_reach: words can be cut into it. */
static size_t open_piece(const int16_t *alphabet, struct gguf_str s, uint8_t kind, char *out,
                         uint8_t *ret_reach)
{
    size_t n;
    *ret_reach = 0;
    if (kind == KIND_NORMAL || kind == KIND_UNUSED || kind == KIND_BYTE) {
        if (kind == KIND_BYTE && s.bytes == 6 && s.p[0] == '<' && s.p[1] == '0' &&
            s.p[2] == 'x') {
            char hex[3] = {s.p[3], s.p[4], 0}, *end;
            long byte = strtol(hex, &end, 16);
            if (*end == 0) {
                *out = (char)byte;
                return 1;
            }
        }
        if (s.bytes && spell(alphabet, s.p, s.bytes, out, &n)) {
            *ret_reach = 1;
            return n;
        }
    }
    /* Special tokens are spelled as they are.  Letters of ASCII are spelled alike in both. */
    memcpy(out, s.p, s.bytes);
    *ret_reach = s.bytes && kind != KIND_NORMAL && printable_ascii(s);
    return s.bytes;
}

static int open_vocab(struct tokenizer *t, const struct gguf *g, uint64_t text_bytes,
                      uint8_t *reach)
{
    int16_t alphabet[1024];
    bool typed = gguf_arr(g, "tokenizer.ggml.token_type", GGUF_I32) >= 0;

    for (uint32_t cp = 0; cp < 1024; cp++)
        alphabet[cp] = (int16_t)byte_of(cp);
    t->text = malloc(text_bytes + 1);
    t->at = malloc(((size_t)t->n_vocab + 1) * sizeof *t->at);
    t->kind = malloc(t->n_vocab);
    t->end = calloc(t->n_vocab, 1);
    if (!t->text || !t->at || !t->kind || !t->end)
        return -ENOMEM;
    size_t n = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        struct gguf_str s = gguf_arr_str(g, "tokenizer.ggml.tokens", i);
        double type = typed ? gguf_arr_num(g, "tokenizer.ggml.token_type", i) : KIND_NORMAL;
        t->kind[i] = type >= KIND_NORMAL && type <= KIND_BYTE ? (uint8_t)type : KIND_UNUSED;
        if (is_end_text(s)) {
            t->end[i] = 1;
            t->kind[i] = KIND_CONTROL;
        }
        t->at[i] = (uint32_t)n;
        n += open_piece(alphabet, s, t->kind[i], t->text + n, &reach[i]);
    }
    t->at[t->n_vocab] = (uint32_t)n;
    return 0;
}

static int open_merges(struct tokenizer *t, const struct gguf *g, const uint8_t *reach,
                       struct errbuf *eb)
{
    int16_t alphabet[1024];
    int64_t n = gguf_arr(g, "tokenizer.ggml.merges", GGUF_STR);
    char *buf = NULL;
    size_t cap = 0;

    if (n < 0)
        return err_set(eb, E_CORRUPT, "tokenizer.ggml.merges: want an array of strings");
    if (n > MERGES_MAX)
        return err_set(eb, E_LIMIT, "tokenizer.ggml.merges: %lld entries, at most %d",
                       (long long)n, MERGES_MAX);
    for (uint32_t cp = 0; cp < 1024; cp++)
        alphabet[cp] = (int16_t)byte_of(cp);
    int r = bpe_open(&t->bpe, t->text, t->at, reach, t->n_vocab, (uint32_t)n, eb);
    for (int64_t i = 0; r == 0 && i < n; i++) {
        struct gguf_str s = gguf_arr_str(g, "tokenizer.ggml.merges", (uint64_t)i);
        const char *gap = s.bytes > 2 ? memchr(s.p + 1, ' ', s.bytes - 2) : NULL;
        if (gap == NULL || s.bytes > 65536) {
            r = err_set(eb, E_CORRUPT,
                        "tokenizer.ggml.merges[%lld]: want two strings and a space "
                        "(at most 65536 bytes), got %llu bytes",
                        (long long)i, (unsigned long long)s.bytes);
            break;
        }
        if (cap < s.bytes) {
            char *p = realloc(buf, s.bytes * 2);
            if (p == NULL) {
                r = -ENOMEM;
                break;
            }
            buf = p;
            cap = s.bytes * 2;
        }
        size_t left = (size_t)(gap - s.p), n_left, n_right;
        /* Halves that no bytes can spell are never met; they only keep their rank. */
        if (spell(alphabet, s.p, left, buf, &n_left) &&
            spell(alphabet, gap + 1, s.bytes - left - 1, buf + n_left, &n_right) && n_left &&
            n_right)
            r = bpe_add_merge(t->bpe, buf, n_left, buf + n_left, n_right);
    }
    free(buf);
    return r;
}

static int32_t id_at(const struct tokenizer *t, const struct gguf *g, const char *key)
{
    uint64_t v;
    return gguf_u64(g, key, &v) && v < t->n_vocab ? (int32_t)v : -1;
}

static bool cuts(const struct tokenizer *t, uint32_t i) /* found in text before words are */
{
    return (t->kind[i] == KIND_CONTROL || t->kind[i] == KIND_USER ||
            t->kind[i] == KIND_UNKNOWN) &&
           t->at[i + 1] > t->at[i];
}

struct order { /* a special token with what it is sorted by */
    const char *p;
    uint32_t bytes;
    int32_t id;
};

static int by_bytes_then_id(const void *a, const void *b)
{
    const struct order *x = a, *y = b;
    int r = memcmp(x->p, y->p, x->bytes < y->bytes ? x->bytes : y->bytes);
    if (r != 0)
        return r;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static int open_specials(struct tokenizer *t, const struct gguf *g)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        int32_t id = id_at(t, g, ends[i]);
        if (id >= 0)
            t->end[id] = 1;
    }
    t->bos = id_at(t, g, "tokenizer.ggml.bos_token_id");
    t->eos = id_at(t, g, "tokenizer.ggml.eos_token_id");
    t->add_bos = pretok_wants_bos(t->pretok);
    (void)gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos);
    t->add_bos = t->add_bos && t->bos >= 0;

    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        n += cuts(t, i);
    struct order *o = malloc(((size_t)n + 1) * sizeof *o);
    t->special = malloc(((size_t)n + 1) * sizeof *t->special);
    if (!o || !t->special) {
        free(o);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (cuts(t, i))
            o[t->n_special++] =
                (struct order){t->text + t->at[i], t->at[i + 1] - t->at[i], (int32_t)i};
    qsort(o, n, sizeof *o, by_bytes_then_id);
    for (uint32_t i = 0, c = 0; c < 257; c++) {
        while (i < n && (uint8_t)o[i].p[0] < c)
            i++;
        t->by_byte[c] = i;
    }
    for (uint32_t i = 0; i < n; i++)
        t->special[i] = o[i].id;
    free(o);
    return 0;
}

static void hash_u64(crypto_generichash_state *h, uint64_t v)
{
    uint8_t le[8];
    st64(le, v);
    crypto_generichash_update(h, le, sizeof le);
}

static void hash_str(crypto_generichash_state *h, const char *p, uint64_t bytes)
{
    hash_u64(h, bytes); /* lengths first, or "a" "bc" and "ab" "c" would be the same */
    crypto_generichash_update(h, (const uint8_t *)p, bytes);
}

/* All that decides ids, and the version of this code's reading of it. */
static void open_id(struct tokenizer *t, const struct gguf *g)
{
    crypto_generichash_state h;
    static const char domain[] = "hearth tokenizer 1";
    const char *rule = pretok_rule(t->pretok), *unicode = pretok_unicode(t->pretok);
    int64_t n_merges = gguf_arr(g, "tokenizer.ggml.merges", GGUF_STR);

    must(sodium_init() >= 0);
    crypto_generichash_init(&h, NULL, 0, sizeof t->id);
    hash_str(&h, domain, sizeof domain);
    hash_str(&h, rule, strlen(rule));
    hash_str(&h, unicode, strlen(unicode));
    hash_u64(&h, t->add_bos);
    hash_u64(&h, (uint64_t)(int64_t)t->bos);
    hash_u64(&h, t->n_vocab);
    crypto_generichash_update(&h, t->kind, t->n_vocab);
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        struct gguf_str s = gguf_arr_str(g, "tokenizer.ggml.tokens", i);
        hash_str(&h, s.p, s.bytes);
    }
    hash_u64(&h, (uint64_t)n_merges);
    for (int64_t i = 0; i < n_merges; i++) {
        struct gguf_str s = gguf_arr_str(g, "tokenizer.ggml.merges", (uint64_t)i);
        hash_str(&h, s.p, s.bytes);
    }
    crypto_generichash_final(&h, t->id, sizeof t->id);
}

int tok_open(struct tokenizer **ret, const struct gguf *g, struct errbuf *eb)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    struct gguf_str pre = {0};
    uint8_t *reach = NULL;
    uint64_t text_bytes = 0;
    int r = t ? open_counts(t, g, &text_bytes, eb) : -ENOMEM;

    if (r == 0 && !gguf_str(g, "tokenizer.ggml.pre", &pre))
        r = err_set(eb, E_UNSUPP,
                    "tokenizer.ggml.pre: missing, and how the words of this model "
                    "are cut cannot be guessed; convert the model again");
    if (r == 0)
        r = pretok_open(&t->pretok, pre.p, pre.bytes, true, eb);
    if (r == 0)
        r = (reach = malloc(t->n_vocab)) ? open_vocab(t, g, text_bytes, reach) : -ENOMEM;
    if (r == 0)
        r = open_merges(t, g, reach, eb);
    if (r == 0)
        r = open_specials(t, g);
    free(reach);
    if (r < 0) {
        tok_close(t);
        return r;
    }
    open_id(t, g);
    t->magic = TOKENIZER_MAGIC;
    *ret = t;
    return 0;
}

void tok_close(struct tokenizer *t)
{
    if (t == NULL)
        return;
    t->magic = 0;
    pretok_close(t->pretok);
    bpe_close(t->bpe);
    free(t->text);
    free(t->at);
    free(t->kind);
    free(t->end);
    free(t->special);
    free(t);
}

/* --- encode -------------------------------------------------------------------------------- */
/* Text repeats its words: a long one remembers what they became.  One call's own. */
struct seen {
    char word[16];
    uint8_t bytes, n;
    int32_t id[5];
};
enum { SEEN_COUNT = 4096, SEEN_WORTH_BYTES = 4096 };
enum { TURN_BYTES = 64 << 10, TURN_WORDS_BYTES = 4 << 10 }; /* looked at, tokenised */

struct encode { /* one call */
    const struct tokenizer *t;
    const char *text;
    bool whole_words;
    struct bpe_scratch scratch;
    struct seen *seen; /* NULL: not worth it */
    const struct tok_pause *pause;
    size_t since;  /* bytes of words since the last turn */
    size_t looked; /* and those that were looked at */
    struct tok_ids *out;
};

static int merge_word(struct encode *e, const char *word, size_t bytes)
{
    if (e->seen == NULL || bytes < 2 || bytes > sizeof e->seen->word)
        return bpe_encode(e->t->bpe, &e->scratch, word, bytes, e->out);
    struct seen *s = &e->seen[XXH3_64bits(word, bytes) % SEEN_COUNT];
    size_t before = e->out->n;
    int r = 0;
    if (s->bytes == bytes && memcmp(s->word, word, bytes) == 0) {
        for (int i = 0; r == 0 && i < s->n; i++)
            r = tok_ids_push(e->out, s->id[i]);
        return r;
    }
    r = bpe_encode(e->t->bpe, &e->scratch, word, bytes, e->out);
    size_t n = e->out->n - before;
    if (r == 0 && n <= sizeof s->id / sizeof *s->id) {
        memcpy(s->word, word, bytes);
        s->bytes = (uint8_t)bytes;
        s->n = (uint8_t)n;
        if (n)
            memcpy(s->id, e->out->p + before, n * sizeof *s->id);
    }
    return r;
}

static int turn(const struct tok_pause *pause)
{
    return pause ? pause->fn(pause->ctx) : 0;
}

static int encode_word(void *ctx, size_t at, size_t bytes)
{
    struct encode *e = ctx;
    e->since += bytes;
    if (e->since >= TURN_WORDS_BYTES) {
        int r = turn(e->pause);
        if (r < 0)
            return r;
        e->since = 0;
    }
    if (e->whole_words) {
        int32_t id = bpe_find(e->t->bpe, e->text + at, bytes);
        if (id >= 0)
            return tok_ids_push(e->out, id);
    }
    return merge_word(e, e->text + at, bytes);
}

static int encode_plain(struct encode *e, const char *text, size_t bytes)
{
    if (utf8_is_strict(text, bytes)) {
        e->text = text;
        return pretok_split(e->t->pretok, text, bytes, encode_word, e);
    }
    /* Words are found in a strict shadow of the text and taken from the text itself. */
    char *mended = malloc(bytes * 3), *shadow = malloc(bytes * 3);
    int r = mended && shadow ? 0 : -ENOMEM;
    if (r == 0) {
        size_t n = utf8_mend(text, bytes, mended, shadow);
        e->text = mended;
        r = pretok_split(e->t->pretok, shadow, n, encode_word, e);
    }
    free(mended);
    free(shadow);
    return r;
}

/* --- special tokens in the text --------------------------------------------------------------- */
static bool allowed(const struct tokenizer *t, int32_t id, const uint8_t *special, size_t bytes)
{
    if (t->kind[id] == KIND_USER)
        return true;
    return special && memchr(special, 0, bytes) == NULL;
}

static size_t special_bytes(const struct tokenizer *t, uint32_t k)
{
    int32_t id = t->special[k];
    return t->at[id + 1] - t->at[id];
}

/* The special tokens that begin as the text does: those of [lo, hi) have depth bytes of it. */
struct probe {
    uint32_t lo, hi;
    size_t depth, found; /* what it has cost so far */
};

static void probe_begin(const struct tokenizer *t, uint8_t first, struct probe *p)
{
    *p = (struct probe){t->by_byte[first], t->by_byte[first + 1], 1, 0};
}

/* The first of [lo, hi) whose byte at depth is c or more. */
static uint32_t probe_from(const struct tokenizer *t, const struct probe *p, uint32_t c)
{
    uint32_t lo = p->lo, hi = p->hi;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if ((uint8_t)t->text[(size_t)t->at[t->special[mid]] + p->depth] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The next token (its place in special) that the left bytes of text begin with; shorter ones
 * come first. */
static bool probe_next(const struct tokenizer *t, const char *text, size_t left,
                       const uint8_t *special, struct probe *p, uint32_t *ret)
{
    while (p->lo < p->hi) {
        /* Those that end here stand before those that go on. */
        if (special_bytes(t, p->lo) == p->depth) {
            *ret = p->lo++;
            p->found++;
            if (allowed(t, t->special[*ret], special, p->depth))
                return true;
            continue;
        }
        if (p->depth == left)
            return false;
        uint8_t c = (uint8_t)text[p->depth];
        uint32_t lo = probe_from(t, p, c);
        p->hi = probe_from(t, p, (uint32_t)c + 1);
        p->lo = lo;
        p->depth++;
    }
    return false;
}

/* Looking at a text takes time too, and a model file says how much at each of its bytes: a turn
 * for each TURN_BYTES that are looked at. */
static int looked(struct encode *e, size_t bytes)
{
    e->looked += bytes;
    if (e->looked < TURN_BYTES)
        return 0;
    e->looked = 0;
    return turn(e->pause);
}
static size_t probe_cost(const struct probe *p)
{
    return p->depth + p->found;
}

/* Which special tokens are anywhere in the text (seen, one byte each), and whether any two
 * places overlap. */
static int find_specials(struct encode *e, const char *text, size_t bytes,
                         const uint8_t *special, uint8_t *seen, bool *ret_clash)
{
    const struct tokenizer *t = e->t;
    size_t end = 0;
    int r = 0;
    for (size_t i = 0; i < bytes && r == 0; i++) {
        struct probe p;
        uint32_t k;
        probe_begin(t, (uint8_t)text[i], &p);
        while (probe_next(t, text + i, bytes - i, special ? special + i : NULL, &p, &k)) {
            seen[k] = 1;
            *ret_clash |= i < end;
            end = i + special_bytes(t, k);
        }
        r = looked(e, probe_cost(&p));
    }
    return r;
}

enum { FREE, BEGINS, GOES_ON }; /* what a byte of the text is to a special token */

static int settle_one(struct encode *e, int32_t id, const char *text, size_t bytes,
                      const uint8_t *special, uint8_t *taken)
{
    const struct tokenizer *t = e->t;
    size_t n = t->at[id + 1] - t->at[id], i = 0;
    const char *piece = t->text + t->at[id];
    while (i + n <= bytes) {
        const char *at = memchr(text + i, piece[0], bytes - n + 1 - i);
        if (at == NULL)
            return 0;
        int r = looked(e, (size_t)(at - text) - i + n);
        if (r < 0)
            return r;
        i = (size_t)(at - text);
        /* What has been taken is as long at least: it covers one end of what it overlaps. */
        if (taken[i] || taken[i + n - 1] || memcmp(at, piece, n) != 0 ||
            !allowed(t, id, special ? special + i : NULL, n)) {
            i++;
            continue;
        }
        memset(taken + i, GOES_ON, n);
        taken[i] = BEGINS;
        i += n;
    }
    return 0;
}

static int longest_first(const void *a, const void *b)
{
    const struct order *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Longer tokens take their place before shorter ones, wherever they are, and equally long ones
 * by id, each from left to right. */
static int settle(struct encode *e, const char *text, size_t bytes, const uint8_t *special,
                  const uint8_t *seen, uint8_t *taken)
{
    const struct tokenizer *t = e->t;
    uint32_t n = 0;
    struct order *o = malloc(((size_t)t->n_special + 1) * sizeof *o);
    int r = 0;

    if (o == NULL)
        return -ENOMEM;
    for (uint32_t k = 0; k < t->n_special; k++)
        if (seen[k])
            o[n++] = (struct order){NULL, (uint32_t)special_bytes(t, k), t->special[k]};
    qsort(o, n, sizeof *o, longest_first);
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        r = settle_one(e, o[i].id, text, bytes, special, taken);
        if (r == 0)
            r = turn(e->pause);
    }
    free(o);
    return r;
}

/* The special token at text[i] that counts: where tokens clash, the one that was settled on. */
static bool special_here(const struct tokenizer *t, const char *text, size_t bytes,
                         const uint8_t *special, const uint8_t *taken, size_t i, uint32_t *ret,
                         size_t *ret_cost)
{
    struct probe p;
    bool here = false;
    *ret_cost = 1;
    if (taken) {
        size_t n = 1;
        if (taken[i] != BEGINS)
            return false;
        while (i + n < bytes && taken[i + n] == GOES_ON)
            n++;
        probe_begin(t, (uint8_t)text[i], &p);
        while (!here && probe_next(t, text + i, n, special ? special + i : NULL, &p, ret))
            here = special_bytes(t, *ret) == n;
    } else {
        probe_begin(t, (uint8_t)text[i], &p);
        here = probe_next(t, text + i, bytes - i, special ? special + i : NULL, &p, ret);
    }
    *ret_cost = probe_cost(&p);
    return here;
}

static int encode_text(struct encode *e, const char *text, size_t bytes, const uint8_t *special,
                       const uint8_t *taken)
{
    const struct tokenizer *t = e->t;
    size_t done = 0, cost;
    int r = 0;
    for (size_t i = 0; r == 0 && i < bytes;) {
        uint32_t k;
        bool here = special_here(t, text, bytes, special, taken, i, &k, &cost);
        r = looked(e, cost);
        if (r < 0)
            break;
        if (!here) {
            i++;
            continue;
        }
        r = encode_plain(e, text + done, i - done);
        if (r == 0)
            r = tok_ids_push(e->out, t->special[k]);
        i += special_bytes(t, k);
        done = i;
    }
    return r == 0 ? encode_plain(e, text + done, bytes - done) : r;
}

int tok_encode_in_turns(const struct tokenizer *t, const char *text, size_t bytes,
                        const uint8_t *special, bool bos, const struct tok_pause *pause,
                        struct tok_ids *out)
{
    must_be(t, TOKENIZER_MAGIC);
    if (bytes > TEXT_BYTES_MAX)
        return E_LIMIT;
    struct encode e = {
        .t = t, .out = out, .pause = pause, .whole_words = pretok_ignore_merges(t->pretok)};
    size_t before = out->n;
    bool clash = false;
    uint8_t *seen = calloc((size_t)t->n_special + 1, 1), *taken = NULL;
    int r = seen ? 0 : -ENOMEM;

    if (pause) {
        e.scratch.pause = pause->fn;
        e.scratch.ctx = pause->ctx;
    }
    if (bytes >= SEEN_WORTH_BYTES) /* without it, slower and the same */
        e.seen = calloc(SEEN_COUNT, sizeof *e.seen);
    if (r == 0 && bos && t->add_bos)
        r = tok_ids_push(out, t->bos);
    if (r == 0)
        r = find_specials(&e, text, bytes, special, seen, &clash);
    if (r == 0 && clash)
        r = (taken = calloc(bytes, 1)) ? settle(&e, text, bytes, special, seen, taken)
                                       : -ENOMEM;
    if (r == 0)
        r = encode_text(&e, text, bytes, special, taken);
    if (r < 0)
        out->n = before;
    bpe_scratch_fini(&e.scratch);
    free(e.seen);
    free(seen);
    free(taken);
    return r;
}

int tok_encode(const struct tokenizer *t, const char *text, size_t bytes,
               const uint8_t *special, bool bos, struct tok_ids *out)
{
    return tok_encode_in_turns(t, text, bytes, special, bos, NULL, out);
}

/* --- what a token is ------------------------------------------------------------------------ */
static bool in_vocab(const struct tokenizer *t, int32_t id)
{
    must_be(t, TOKENIZER_MAGIC);
    return id >= 0 && (uint32_t)id < t->n_vocab;
}

const char *tok_piece(const struct tokenizer *t, int32_t id, bool special, size_t *ret_bytes)
{
    if (!in_vocab(t, id))
        return NULL;
    bool silent = t->kind[id] == KIND_UNUSED || (!special && tok_is_special(t, id));
    *ret_bytes = silent ? 0 : t->at[id + 1] - t->at[id];
    return silent ? "" : t->text + t->at[id];
}

uint32_t tok_n_vocab(const struct tokenizer *t)
{
    must_be(t, TOKENIZER_MAGIC);
    return t->n_vocab;
}

int32_t tok_bos(const struct tokenizer *t)
{
    must_be(t, TOKENIZER_MAGIC);
    return t->bos;
}

int32_t tok_eos(const struct tokenizer *t)
{
    must_be(t, TOKENIZER_MAGIC);
    return t->eos;
}

bool tok_is_end(const struct tokenizer *t, int32_t id)
{
    return in_vocab(t, id) && t->end[id];
}

bool tok_is_special(const struct tokenizer *t, int32_t id)
{
    return in_vocab(t, id) && (t->kind[id] == KIND_CONTROL || t->kind[id] == KIND_UNKNOWN);
}

int32_t tok_find(const struct tokenizer *t, const char *piece)
{
    must_be(t, TOKENIZER_MAGIC);
    size_t n = strlen(piece);
    uint8_t c = (uint8_t)piece[0];
    for (uint32_t k = t->by_byte[c]; n && k < t->by_byte[c + 1]; k++) {
        int32_t id = t->special[k];
        if (t->at[id + 1] - t->at[id] == n && memcmp(t->text + t->at[id], piece, n) == 0)
            return id;
    }
    return -1;
}

const uint8_t *tok_id(const struct tokenizer *t)
{
    must_be(t, TOKENIZER_MAGIC);
    return t->id;
}
