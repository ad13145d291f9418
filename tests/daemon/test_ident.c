/* test_ident.c - owners of API keys: apart from uids and from each other, the same every time. */
#include "tests/t.h"
#include "daemon/ident.h"
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t secret[16] = "0123456789abcdef", other_store[16] = "0123456789abcdeg";

static void key_of(uint8_t as[IDENT_BYTES], uint32_t n)
{
    memset(as, 0, IDENT_BYTES);
    memcpy(as, &n, sizeof n);
}
static void a_key_has_the_same_owner_in_every_run_and_no_uids(void)
{
    struct idents *t, *again, *other;
    uint8_t as[IDENT_BYTES];
    uint32_t a = 0, b = 0, c = 0, differ = 0;

    CHECK_EQ(idents_open(&t, secret), 0);
    CHECK_EQ(idents_open(&again, secret), 0);
    CHECK_EQ(idents_open(&other, other_store), 0);
    for (uint32_t n = 0; n < 50; n++) {
        key_of(as, n);
        CHECK_EQ(ident_owner(t, 1000, as, &a), 0);
        CHECK(a >= IDENT_FIRST && a != UINT32_MAX);
        key_of(as, 49 - n); /* another order */
        CHECK_EQ(ident_owner(again, 1000, as, &b), 0);
        key_of(as, n);
        CHECK_EQ(ident_owner(t, 1000, as, &b), 0);
        CHECK_EQ(a, b);
        CHECK_EQ(ident_owner(t, 1001, as, &b), 0);
        CHECK(a != b);
        CHECK_EQ(ident_owner(other, 1000, as, &c), 0);
        differ += a != c;
    }
    CHECK(differ >= 49);
    for (uint32_t n = 0; n < 50; n++) {
        key_of(as, n);
        CHECK_EQ(ident_owner(t, 1000, as, &a), 0);
        CHECK_EQ(ident_owner(again, 1000, as, &b), 0);
        CHECK_EQ(a, b);
    }
    idents_close(t);
    idents_close(again);
    idents_close(other);
}
static void an_owner_leads_back_to_the_uid_of_its_key(void)
{
    struct idents *t;
    uint8_t as[IDENT_BYTES];
    uint32_t a = 0, b = 0;

    CHECK_EQ(idents_open(&t, secret), 0);
    key_of(as, 7);
    CHECK_EQ(ident_owner(t, 1000, as, &a), 0);
    CHECK_EQ(ident_owner(t, 1001, as, &b), 0);
    CHECK_EQ(ident_uid(t, a), 1000);
    CHECK_EQ(ident_uid(t, b), 1001);
    CHECK_EQ(ident_uid(t, 1000), 1000); /* a uid is its own */
    CHECK_EQ(ident_uid(NULL, 1000), 1000);
    idents_close(t);
}
static void nobody_tries_keys_without_end(void)
{
    struct idents *t;
    uint8_t as[IDENT_BYTES];
    uint32_t a;

    CHECK_EQ(idents_open(&t, secret), 0);
    for (uint32_t n = 0; n < IDENT_KEYS_MAX; n++) {
        key_of(as, n);
        CHECK_EQ(ident_owner(t, 1000, as, &a), 0);
    }
    key_of(as, IDENT_KEYS_MAX);
    CHECK_EQ(ident_owner(t, 1000, as, &a), -EAGAIN);
    CHECK_EQ(ident_owner(t, 1001, as, &a), 0); /* another user's are counted apart */
    key_of(as, 5);
    CHECK_EQ(ident_owner(t, 1000, as, &a), 0);
    idents_close(t);
}

struct named {
    uint32_t owner, uid, n;
};
static int by_owner(const void *a, const void *b)
{
    const struct named *x = a, *y = b;

    return x->owner < y->owner ? -1 : x->owner > y->owner;
}
/* Two keys that get the same number, each where it is the first: among so many there are some. */
static bool two_that_meet(struct named ret[2])
{
    enum { USERS = (1 << 18) / IDENT_KEYS_MAX, ALL = USERS * IDENT_KEYS_MAX };
    struct named *all = calloc(ALL, sizeof *all);
    uint8_t as[IDENT_BYTES];
    struct idents *t;
    uint32_t i, k = 0;

    for (uint32_t uid = 0; uid < USERS; uid++) {
        CHECK_EQ(idents_open(&t, secret), 0);
        for (uint32_t n = 0; n < IDENT_KEYS_MAX; n++) {
            all[k] = (struct named){.uid = uid, .n = n};
            key_of(as, n);
            CHECK_EQ(ident_owner(t, uid, as, &all[k++].owner), 0);
        }
        idents_close(t);
    }
    qsort(all, k, sizeof *all, by_owner);
    for (i = 1; i < k && all[i].owner != all[i - 1].owner; i++)
        ;
    if (i < k)
        memcpy(ret, &all[i - 1], 2 * sizeof *ret);
    free(all);
    return i < k;
}
static void a_number_that_is_anothers_is_refused(void)
{
    uint8_t as[2][IDENT_BYTES];
    struct named k[2];
    struct idents *t;
    uint32_t owner;

    if (!two_that_meet(k)) {
        t_fail(__FILE__, __LINE__, "no two keys meet");
        return;
    }
    key_of(as[0], k[0].n);
    key_of(as[1], k[1].n);
    for (int first = 0; first < 2; first++) {
        CHECK_EQ(idents_open(&t, secret), 0);
        CHECK_EQ(ident_owner(t, k[first].uid, as[first], &owner), 0);
        CHECK_EQ(owner, k[first].owner);
        owner = 0;
        CHECK_EQ(ident_owner(t, k[!first].uid, as[!first], &owner), -EEXIST);
        CHECK_EQ(owner, 0);
        CHECK_EQ(ident_uid(t, k[first].owner), k[first].uid); /* it stays the first one's */
        CHECK_EQ(ident_owner(t, k[first].uid, as[first], &owner), 0);
        idents_close(t);
    }
}

static void keys_belong_to_their_user(void)
{
    struct idents *t;
    uint8_t as[IDENT_BYTES];
    uint32_t a, b;

    CHECK_EQ(idents_open(&t, secret), 0);
    CHECK(!ident_keys(t, 1000));
    key_of(as, 1);
    CHECK_EQ(ident_owner(t, 1000, as, &a), 0);
    CHECK_EQ(ident_owner(t, 1001, as, &b), 0);
    CHECK_EQ(ident_uid(t, a), 1000);
    CHECK_EQ(ident_uid(t, b), 1001);
    CHECK_EQ(ident_uid(t, 1000), 1000);
    CHECK(ident_keys(t, 1000) && ident_keys(t, 1001) && !ident_keys(t, 1002));
    /* Keys of an earlier life, which nobody has used in this one, are nobody's, together. */
    idents_close(t);
    CHECK_EQ(idents_open(&t, secret), 0);
    CHECK_EQ(ident_uid(t, a), ident_uid(t, b));
    CHECK(ident_uid(t, a) >= IDENT_FIRST);
    CHECK_EQ(ident_uid(NULL, a), ident_uid(t, b));
    idents_close(t);
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(a_key_has_the_same_owner_in_every_run_and_no_uids),
       C(an_owner_leads_back_to_the_uid_of_its_key), C(nobody_tries_keys_without_end),
       C(a_number_that_is_anothers_is_refused), C(keys_belong_to_their_user))
