/* test_bpe.c - merging in windows is merging, whatever the merges are. */
#include "engine/bpe.h"
#include "engine/tokenizer.h"
#include "tests/t.h"
#include <stdlib.h>
#include <string.h>

/* A vocabulary of the bytes and of random strings of `letters` letters, merges as they come:
 * none of the order that training gives, so that what a merge does reaches far. */
struct rig {
    char text[256 + 400 * 16];
    uint32_t at[256 + 400 + 1];
    uint8_t reach[256 + 400];
    uint32_t n_vocab;
    struct bpe *b;
};
static uint64_t state;
static uint32_t rnd(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static void rig_open(struct rig *g, uint32_t letters, uint32_t merges)
{
    char made[400][16];
    uint32_t n_made = 0, tried = 0, len[400], left[400], right[400], order[400];

    memset(g, 0, sizeof *g);
    for (uint32_t i = 0; i < 256; i++)
        g->text[i] = (char)i;
    for (uint32_t i = 0; i <= 256; i++)
        g->at[i] = i;
    g->n_vocab = 256;
    while (n_made < merges && tried++ < 20 * merges) {
        /* Halves are letters or earlier products. */
        uint32_t k[2], n = 0;
        char s[32];

        for (int h = 0; h < 2; h++) {
            k[h] = rnd(letters + n_made);
            if (k[h] < letters)
                s[n++] = (char)('a' + k[h]);
            else if (n + len[k[h] - letters] <= 15) {
                memcpy(s + n, made[k[h] - letters], len[k[h] - letters]);
                n += len[k[h] - letters];
            } else
                n = 99;
            if (n > 15)
                break;
        }
        if (n > 15)
            continue;
        memcpy(made[n_made], s, n);
        len[n_made] = n;
        left[n_made] = k[0];
        right[n_made++] = k[1];
    }
    for (uint32_t i = 0; i < n_made; i++) {
        bool twin = false;

        for (uint32_t j = 0; j < i; j++)
            twin |= len[i] == len[j] && memcmp(made[i], made[j], len[i]) == 0;
        if (twin || rnd(8) == 0) /* some are outside the vocabulary */
            continue;
        memcpy(g->text + g->at[g->n_vocab], made[i], len[i]);
        g->at[g->n_vocab + 1] = g->at[g->n_vocab] + len[i];
        g->n_vocab++;
    }
    memset(g->reach, 1, sizeof g->reach);
    CHECK_EQ(bpe_open(&g->b, g->text, g->at, g->reach, g->n_vocab, n_made, NULL), 0);
    /* The list's order is not the making's: a product may outrank its parts. */
    for (uint32_t i = 0; i < n_made; i++)
        order[i] = i;
    for (uint32_t i = 0; i < n_made; i++) {
        uint32_t j = i + rnd(n_made - i), q = order[j], side[2] = {left[q], right[q]};
        const char *p[2];
        size_t n[2];
        char c[2];

        order[j] = order[i];
        for (int h = 0; h < 2; h++) {
            c[h] = (char)('a' + side[h]);
            p[h] = side[h] < letters ? &c[h] : made[side[h] - letters];
            n[h] = side[h] < letters ? 1 : len[side[h] - letters];
        }
        CHECK_EQ(bpe_add_merge(g->b, p[0], n[0], p[1], n[1]), 0);
    }
}

static void windows_of_any_size_give_the_ids_of_the_whole(void)
{
    static const uint32_t windows[] = {49, 64, 200, 0};
    uint64_t seed = t_seed(), words = 0;
    struct rig *g = malloc(sizeof *g);

    state = seed;
    for (int round = 0; round < 150; round++) {
        uint32_t letters = 1 + rnd(4);

        rig_open(g, letters, 5 + rnd(390));
        for (int k = 0; k < 12; k++, words++) {
            size_t n = 50 + rnd(3000);
            char *w = malloc(n);
            struct bpe_scratch whole = {.window = 1 << 20};
            struct tok_ids want = {0};
            uint32_t period = rnd(3) ? 0 : 1 + rnd(60);

            for (size_t i = 0; i < n; i++)
                w[i] = period && i >= period ? w[i - period] : (char)('a' + rnd(letters));
            CHECK_EQ(bpe_encode(g->b, &whole, w, n, &want), 0);
            for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
                struct bpe_scratch s = {.window = windows[i]};
                struct tok_ids got = {0};

                CHECK_EQ(bpe_encode(g->b, &s, w, n, &got), 0);
                if (got.n != want.n || memcmp(got.p, want.p, got.n * sizeof *got.p) != 0)
                    t_fail(__FILE__, __LINE__,
                           "SEED=%llu round %d: %zu bytes in windows of %u: %zu ids, whole %zu",
                           (unsigned long long)seed, round, n, windows[i], got.n, want.n);
                bpe_scratch_fini(&s);
                tok_ids_fini(&got);
            }
            bpe_scratch_fini(&whole);
            tok_ids_fini(&want);
            free(w);
        }
        bpe_close(g->b);
    }
    printf("      %llu words\n", (unsigned long long)words);
    free(g);
}

T_MAIN({"windows_of_any_size_give_the_ids_of_the_whole",
        windows_of_any_size_give_the_ids_of_the_whole})
