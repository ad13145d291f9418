/* test_held.c - room for frames: what of one user's is held, large ones and small. */
#include "base/bounds.h"
#include "daemon/held.h"
#include "tests/t.h"

static int rooms;
static void room(void *ctx)
{
    (void)ctx;
    rooms++;
}

/* So that long polls and cancels go on while large frames wait. */
static void small_frames_have_room_of_their_own_and_no_more(void)
{
    struct held *h;
    struct held_user *u, *v;
    uint64_t small = 0;

    CHECK_EQ(held_open(&h, room, NULL), 0);
    u = held_take(h, 1000);
    v = held_take(h, 1001);
    CHECK(held_add(u, HELD_USER_MAX)); /* all that large ones may have */
    CHECK(!held_add(u, HELD_SMALL_BYTES + 1));
    while (small <= HELD_SMALL_MAX && held_add(u, HELD_SMALL_BYTES))
        small += HELD_SMALL_BYTES;
    CHECK_EQ(small, HELD_SMALL_MAX);
    CHECK(!held_add(u, 1));
    CHECK(held_add(v, HELD_SMALL_BYTES)); /* another's are not his */
    CHECK_EQ(held_bytes(h), HELD_USER_MAX + HELD_SMALL_MAX + HELD_SMALL_BYTES);
    /* What a large one gives back is not the small ones' before that is below their bound. */
    rooms = 0;
    held_sub(u, HELD_SMALL_BYTES);
    CHECK_EQ(rooms, 1);
    CHECK(!held_add(u, HELD_SMALL_BYTES + 1));
    CHECK(held_add(u, HELD_SMALL_BYTES));
    held_sub(u, HELD_USER_MAX + HELD_SMALL_MAX);
    held_sub(v, HELD_SMALL_BYTES);
    CHECK_EQ(held_bytes(h), 0);
    held_drop(u);
    held_drop(v);
    held_close(h);
}

static void who_holds_nothing_is_never_told_no(void)
{
    struct held *h;
    struct held_user *u[6];

    CHECK_EQ(held_open(&h, room, NULL), 0);
    for (uint32_t i = 0; i < 6; i++) {
        u[i] = held_take(h, i);
        CHECK(held_add(u[i], HELD_USER_MAX)); /* the last of them beyond HELD_ALL_MAX */
    }
    CHECK(held_bytes(h) > HELD_ALL_MAX);
    CHECK(!held_add(u[5], HELD_SMALL_BYTES + 1));
    held_sub(u[5], HELD_USER_MAX);
    CHECK(held_add(u[5], HELD_SMALL_BYTES));
    CHECK(!held_add(u[5], HELD_SMALL_BYTES + 1)); /* of all there is too much yet */
    held_sub(u[5], HELD_SMALL_BYTES);
    for (int i = 0; i < 6; i++) {
        if (i < 5)
            held_sub(u[i], HELD_USER_MAX);
        held_drop(u[i]);
    }
    held_close(h);
}

T_MAIN({"small_frames_have_room_of_their_own_and_no_more",
        small_frames_have_room_of_their_own_and_no_more},
       {"who_holds_nothing_is_never_told_no", who_holds_nothing_is_never_told_no})
