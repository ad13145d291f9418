/* bpe.c - see bpe.h.
 *
 * A short word scans its few pairs for the lowest rank; a longer one keeps a heap of pairs, in
 * which an entry is stale once either half has grown: it then names symbols that are no longer
 * there.  Both take the lowest rank first and of equal ranks the leftmost, so they agree.
 *
 * A word longer than a window is merged window by window.  That is exact, because symbols are
 * what merging makes of their whole text if (and only if) each two neighbours are what merging
 * makes of the text of those two.  Say they are, and look at the first merge of the whole that
 * crosses one of the boundaries: until then the text of its two neighbours went through the
 * same merges in the whole and alone (the lowest of all is the lowest of a part that it lies
 * in), so it is the next of the two alone as well, and they would not stay two.  So a window's
 * result may be cut behind any of its symbols beside which the first symbol of the next
 * window, begun there, stands.  Where no such place is found, what follows has its say far
 * back, and the word is begun again with larger windows. */
#include "engine/bpe.h"
#include "base/check.h"
#include "engine/tokenizer.h"
#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

enum {
    BPE_MAGIC = 0x42504531,
    SHORT_MAX = 48,      /* symbols up to which scanning beats the heap */
    WINDOW_BYTES = 4096, /* of a long word: heap and nodes stay in the cache */
    CUTS_MAX = 5,        /* tried before windows are made larger */
    NO_RANK = -1,
};

struct pair { /* slot of the merge table; key 0 is free (left and right are stored + 1) */
    uint64_t key;
    int32_t rank, made;
};
struct extra { /* a string outside the vocabulary */
    char *p;
    uint32_t bytes;
};
struct bpe {
    uint32_t magic;
    const char *text;
    const uint32_t *at;
    uint32_t n_vocab;
    uint32_t n_merges, merges_max;
    uint32_t n_pairs;
    uint64_t pair_mask, word_mask;
    struct pair *pairs;
    int32_t *words;    /* symbol + 1 by hash of its bytes */
    uint64_t *by_rank; /* key of the merge with this rank */
    struct extra *extra;
    uint32_t n_extra, extra_cap;
    int32_t byte[256]; /* symbol of each single byte */
};

struct node {    /* one symbol of a long word */
    int32_t sym; /* -1: merged away */
    uint32_t prev, next;
};
#define NIL 0xffffffffu

static const char *sym_text(const struct bpe *b, int32_t sym, size_t *ret_bytes)
{
    uint32_t s = (uint32_t)sym;
    if (s < b->n_vocab) {
        *ret_bytes = b->at[s + 1] - b->at[s];
        return b->text + b->at[s];
    }
    *ret_bytes = b->extra[s - b->n_vocab].bytes;
    return b->extra[s - b->n_vocab].p;
}

static int32_t find_symbol(const struct bpe *b, const char *p, size_t bytes, uint64_t *ret_slot)
{
    uint64_t i = XXH3_64bits(p, bytes) & b->word_mask;
    for (; b->words[i] != 0; i = (i + 1) & b->word_mask) {
        size_t n;
        const char *t = sym_text(b, b->words[i] - 1, &n);
        if (n == bytes && memcmp(t, p, n) == 0)
            return b->words[i] - 1;
    }
    if (ret_slot)
        *ret_slot = i;
    return -1;
}

/* The symbol of these bytes, made when there is none. */
static int need_symbol(struct bpe *b, const char *p, size_t bytes, int32_t *ret)
{
    uint64_t slot;
    int32_t sym = find_symbol(b, p, bytes, &slot);
    if (sym < 0) {
        if (b->n_extra == b->extra_cap) {
            uint32_t cap = b->extra_cap ? b->extra_cap * 2 : 64;
            struct extra *e = realloc(b->extra, cap * sizeof *e);
            if (e == NULL)
                return -ENOMEM;
            b->extra = e;
            b->extra_cap = cap;
        }
        char *copy = malloc(bytes ? bytes : 1);
        if (copy == NULL)
            return -ENOMEM;
        memcpy(copy, p, bytes);
        b->extra[b->n_extra] = (struct extra){copy, (uint32_t)bytes};
        sym = (int32_t)(b->n_vocab + b->n_extra++);
        b->words[slot] = sym + 1;
    }
    *ret = sym;
    return 0;
}

static uint64_t key_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)(left + 1) << 32 | (uint32_t)(right + 1);
}

static uint64_t pair_hash(uint64_t key)
{
    key *= 0x9e3779b97f4a7c15u;
    return key ^ key >> 32;
}

static const struct pair *find_pair(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t key = key_of(left, right);
    for (uint64_t i = pair_hash(key) & b->pair_mask; b->pairs[i].key;
         i = (i + 1) & b->pair_mask)
        if (b->pairs[i].key == key)
            return &b->pairs[i];
    return NULL;
}

static uint64_t table_size(uint64_t n) /* a power of two at most half full */
{
    uint64_t size = 1024;
    while (size < n * 2)
        size *= 2;
    return size;
}

int bpe_open(struct bpe **ret, const char *text, const uint32_t *at, const uint8_t *reach,
             uint32_t n_vocab, uint32_t n_merges, struct errbuf *eb)
{
    struct bpe *b = calloc(1, sizeof *b);
    int r = b ? 0 : -ENOMEM;

    if (r == 0) {
        b->text = text;
        b->at = at;
        b->n_vocab = n_vocab;
        b->merges_max = n_merges;
        b->pair_mask = table_size(n_merges) - 1;
        /* A merge may name three strings the vocabulary lacks. */
        b->word_mask = table_size((uint64_t)n_vocab + 256 + 3 * (uint64_t)n_merges) - 1;
        b->pairs = calloc(b->pair_mask + 1, sizeof *b->pairs);
        b->words = calloc(b->word_mask + 1, sizeof *b->words);
        b->by_rank = calloc((size_t)n_merges + 1, sizeof *b->by_rank);
        if (!b->pairs || !b->words || !b->by_rank)
            r = -ENOMEM;
    }
    for (uint32_t i = 0; r == 0 && i < n_vocab; i++) {
        uint64_t slot;
        if (!reach[i])
            continue;
        int32_t twin = find_symbol(b, text + at[i], at[i + 1] - at[i], &slot);
        if (twin >= 0)
            r = err_set(eb, E_CORRUPT, "tokenizer.ggml.tokens: %d and %u are the same text",
                        twin, i);
        else
            b->words[slot] = (int32_t)i + 1;
    }
    for (int i = 0; r == 0 && i < 256; i++) {
        char c = (char)i;
        r = need_symbol(b, &c, 1, &b->byte[i]);
    }
    if (r < 0) {
        bpe_close(b);
        return r;
    }
    b->magic = BPE_MAGIC;
    *ret = b;
    return 0;
}

void bpe_close(struct bpe *b)
{
    if (b == NULL)
        return;
    b->magic = 0;
    for (uint32_t i = 0; i < b->n_extra; i++)
        free(b->extra[i].p);
    free(b->extra);
    free(b->pairs);
    free(b->words);
    free(b->by_rank);
    free(b);
}

int bpe_add_merge(struct bpe *b, const char *left, size_t left_bytes, const char *right,
                  size_t right_bytes)
{
    int32_t l_sym, r_sym, made;
    char small[256], *joined = small;
    must_be(b, BPE_MAGIC);
    must(b->n_merges < b->merges_max);

    int32_t rank = (int32_t)b->n_merges++;
    if (left_bytes + right_bytes > sizeof small &&
        (joined = malloc(left_bytes + right_bytes)) == NULL)
        return -ENOMEM;
    memcpy(joined, left, left_bytes);
    memcpy(joined + left_bytes, right, right_bytes);
    int r = need_symbol(b, left, left_bytes, &l_sym);
    if (r == 0)
        r = need_symbol(b, right, right_bytes, &r_sym);
    if (r == 0)
        r = need_symbol(b, joined, left_bytes + right_bytes, &made);
    if (joined != small)
        free(joined);
    if (r < 0)
        return r;

    uint64_t key = key_of(l_sym, r_sym), i = pair_hash(key) & b->pair_mask;
    b->by_rank[rank] = key;
    for (; b->pairs[i].key; i = (i + 1) & b->pair_mask)
        if (b->pairs[i].key == key)
            return 0; /* said twice: the first holds */
    b->pairs[i] = (struct pair){key, rank, made};
    b->n_pairs++;
    return 0;
}

int32_t bpe_find(const struct bpe *b, const char *word, size_t bytes)
{
    int32_t sym = find_symbol(b, word, bytes, NULL);
    return sym >= 0 && (uint32_t)sym < b->n_vocab ? sym : -1;
}

void tok_ids_fini(struct tok_ids *v)
{
    free(v->p);
    *v = (struct tok_ids){0};
}

int tok_ids_push(struct tok_ids *v, int32_t id)
{
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 64;
        int32_t *p = realloc(v->p, cap * sizeof *p);
        if (p == NULL)
            return -ENOMEM;
        v->p = p;
        v->cap = cap;
    }
    v->p[v->n++] = id;
    return 0;
}

void bpe_scratch_fini(struct bpe_scratch *s)
{
    free(s->p);
    *s = (struct bpe_scratch){0};
}

/* A symbol outside the vocabulary falls back to what single-byte tokens there are, as the
 * reference does: those whose byte stands for itself in the vocabulary's alphabet. */
static int emit(const struct bpe *b, int32_t sym, struct tok_ids *out)
{
    if ((uint32_t)sym < b->n_vocab)
        return tok_ids_push(out, sym);
    size_t bytes;
    const char *p = sym_text(b, sym, &bytes);
    int r = 0;
    for (size_t i = 0; r == 0 && i < bytes; i++) {
        uint8_t c = (uint8_t)p[i];
        if (c > 0x20 && c < 0x7f && (uint32_t)b->byte[c] < b->n_vocab)
            r = tok_ids_push(out, b->byte[c]);
    }
    return r;
}

/* Merges w into sym, which has room for n; returns how many are left. */
static uint32_t merge_short(const struct bpe *b, const uint8_t *w, uint32_t n, int32_t *sym)
{
    int32_t rank[SHORT_MAX], made[SHORT_MAX];

    for (uint32_t i = 0; i < n; i++)
        sym[i] = b->byte[w[i]];
    for (uint32_t i = 0; i + 1 < n; i++) {
        const struct pair *p = find_pair(b, sym[i], sym[i + 1]);
        rank[i] = p ? p->rank : NO_RANK;
        made[i] = p ? p->made : 0;
    }
    while (n > 1) {
        uint32_t best = 0, low = UINT32_MAX; /* NO_RANK is the largest as unsigned */
        for (uint32_t i = 0; i + 1 < n; i++)
            if ((uint32_t)rank[i] < low) {
                low = (uint32_t)rank[i];
                best = i;
            }
        if (low == UINT32_MAX)
            break;
        sym[best] = made[best];
        uint32_t after = n - best - 2; /* symbols beyond the pair */
        memmove(sym + best + 1, sym + best + 2, after * sizeof *sym);
        memmove(rank + best, rank + best + 1, after * sizeof *rank);
        memmove(made + best, made + best + 1, after * sizeof *made);
        n--;
        /* rank[best] now belongs to (best, best + 1), and its left neighbour's changed too. */
        for (uint32_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const struct pair *p = find_pair(b, sym[i], sym[i + 1]);
            rank[i] = p ? p->rank : NO_RANK;
            made[i] = p ? p->made : 0;
        }
    }
    return n;
}

/* --- long words: a binary heap of (rank, position of the left half), smallest first -------- */
static void sift_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t v = h[i];
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= n)
            break;
        if (c + 1 < n && h[c + 1] < h[c])
            c++;
        if (h[c] >= v)
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = v;
}

static void sift_up(uint64_t *h, size_t i)
{
    uint64_t v = h[i];
    for (; i && h[(i - 1) / 2] > v; i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = v;
}

static void offer(const struct bpe *b, const struct node *v, uint64_t *h, size_t *n,
                  uint32_t left)
{
    if (left == NIL || v[left].next == NIL)
        return;
    const struct pair *p = find_pair(b, v[left].sym, v[v[left].next].sym);
    if (p) {
        h[*n] = (uint64_t)(uint32_t)p->rank << 32 | left;
        sift_up(h, (*n)++);
    }
}

/* One window of a word and what it was merged to. */
struct window {
    uint32_t n, bytes;
    int32_t *sym;
    uint32_t *at; /* where each begins */
};
struct room { /* for windows of up to cap bytes */
    uint32_t cap;
    uint64_t *heap;
    struct node *node;
    struct window win[3]; /* this, the next, a pair */
};

static int room_make(struct bpe_scratch *s, uint32_t cap, struct room *ret)
{
    /* At most n - 1 entries at first; each of the n - 1 merges takes one out and puts in two. */
    size_t heap = 2 * (size_t)cap * sizeof *ret->heap, node = cap * sizeof *ret->node,
           list = cap * sizeof(uint32_t), want = heap + node + 6 * list;
    uint8_t *p;

    if (s->bytes < want) {
        free(s->p);
        s->bytes = 0;
        if ((s->p = malloc(want)) == NULL)
            return -ENOMEM;
        s->bytes = want;
    }
    p = s->p;
    ret->cap = cap;
    ret->heap = (uint64_t *)p;
    ret->node = (struct node *)(p + heap);
    for (int i = 0; i < 3; i++) {
        ret->win[i].sym = (int32_t *)(p + heap + node + 2 * (size_t)i * list);
        ret->win[i].at = (uint32_t *)(p + heap + node + (2 * (size_t)i + 1) * list);
    }
    return 0;
}

static void merge_long(const struct bpe *b, const struct room *m, const uint8_t *w, uint32_t n,
                       struct window *ret)
{
    uint64_t *h = m->heap;
    struct node *v = m->node;
    size_t n_heap = 0;

    for (uint32_t i = 0; i < n; i++)
        v[i] = (struct node){b->byte[w[i]], i ? i - 1 : NIL, i + 1 < n ? i + 1 : NIL};
    for (uint32_t i = 0; i + 1 < n; i++) {
        const struct pair *p = find_pair(b, v[i].sym, v[i + 1].sym);
        if (p)
            h[n_heap++] = (uint64_t)(uint32_t)p->rank << 32 | i;
    }
    for (size_t i = n_heap / 2; i-- > 0;)
        sift_down(h, n_heap, i);
    while (n_heap) {
        uint32_t rank = (uint32_t)(h[0] >> 32), left = (uint32_t)h[0];
        h[0] = h[--n_heap];
        if (n_heap)
            sift_down(h, n_heap, 0);
        uint32_t right = v[left].sym < 0 ? NIL : v[left].next;
        if (right == NIL || key_of(v[left].sym, v[right].sym) != b->by_rank[rank])
            continue; /* stale */
        v[left].sym = find_pair(b, v[left].sym, v[right].sym)->made;
        v[right].sym = -1;
        v[left].next = v[right].next;
        if (v[left].next != NIL)
            v[v[left].next].prev = left;
        must(n_heap + 2 <= 2 * (size_t)n);
        offer(b, v, h, &n_heap, v[left].prev);
        offer(b, v, h, &n_heap, left);
    }
    ret->n = 0;
    ret->bytes = n;
    for (uint32_t i = 0; i != NIL; i = v[i].next) {
        ret->sym[ret->n] = v[i].sym;
        ret->at[ret->n++] = i;
    }
}

/* Are left and right, side by side, what merging makes of their text?  w is that text. */
static bool stand(const struct bpe *b, struct room *m, const uint8_t *w, uint32_t n,
                  int32_t left, int32_t right)
{
    struct window *x = &m->win[2];

    if (n <= SHORT_MAX)
        x->n = merge_short(b, w, n, x->sym);
    else
        merge_long(b, m, w, n, x);
    return x->n == 2 && x->sym[0] == left && x->sym[1] == right;
}

/* Finds where this window's result may be cut, and merges the next window from there on; w is
 * where this one begins, with left bytes of the word.  0: nowhere near its end. */
static uint32_t cut_find(const struct bpe *b, struct room *m, const uint8_t *w, uint32_t left)
{
    struct window *x = &m->win[0], *y = &m->win[1];
    uint32_t back = 2;

    for (int i = 0; i < CUTS_MAX && back < x->n / 2; i++, back *= 3) {
        uint32_t c = x->n - back, at = x->at[c], rest = left - at, from = x->at[c - 1], n;

        merge_long(b, m, w + at, rest < m->cap ? rest : m->cap, y);
        n = (y->n > 1 ? y->at[1] : y->bytes) + at - from;
        if (n <= m->cap && stand(b, m, w + from, n, x->sym[c - 1], y->sym[0]))
            return c;
    }
    return 0;
}

static int emit_all(const struct bpe *b, const struct window *x, uint32_t n,
                    struct tok_ids *out)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < n; i++)
        r = emit(b, x->sym[i], out);
    return r;
}

/* 0, 1: these windows are too small, an error. */
static int encode_windows(const struct bpe *b, struct bpe_scratch *s, const uint8_t *w,
                          uint32_t n, uint32_t size, struct tok_ids *out)
{
    struct room m;
    int r = room_make(s, size, &m);

    if (r == 0)
        merge_long(b, &m, w, size, &m.win[0]);
    while (r == 0 && m.win[0].bytes < n) {
        uint32_t c = cut_find(b, &m, w, n);
        struct window x = m.win[0];

        r = c ? emit_all(b, &x, c, out) : 1;
        if (r == 0 && s->pause)
            r = s->pause(s->ctx);
        if (r != 0)
            break;
        w += x.at[c];
        n -= x.at[c];
        m.win[0] = m.win[1];
        m.win[1] = x;
    }
    return r == 0 ? emit_all(b, &m.win[0], m.win[0].n, out) : r;
}

static int encode_long(const struct bpe *b, struct bpe_scratch *s, const uint8_t *w, uint32_t n,
                       struct tok_ids *out)
{
    uint32_t size = s->window > SHORT_MAX ? s->window : WINDOW_BYTES;
    size_t before = out->n;
    int r;

    while ((r = encode_windows(b, s, w, n, size < n ? size : n, out)) == 1) {
        out->n = before;
        size *= 2;
    }
    return r;
}

int bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t bytes,
               struct tok_ids *out)
{
    int32_t sym[SHORT_MAX];
    int r = 0;

    must_be(b, BPE_MAGIC);
    if (bytes == 0)
        return 0;
    if (bytes >= 1u << 30)
        return E_LIMIT;
    if (bytes > SHORT_MAX)
        return encode_long(b, s, (const uint8_t *)word, (uint32_t)bytes, out);
    uint32_t n = merge_short(b, (const uint8_t *)word, (uint32_t)bytes, sym);
    for (uint32_t i = 0; r == 0 && i < n; i++)
        r = emit(b, sym[i], out);
    return r;
}
