/* pace.c - see pace.h. */
#include "daemon/pace.h"
#include "base/clock.h"
#include "daemon/daemon.h"
#include "daemon/gen.h"
#include "daemon/loop.h"

void pace_frame(struct pace *p, const struct daemon *d, uint32_t uid, uint64_t from_ns)
{
    uint64_t round = loop_round(d->loop), now = now_ns();

    p->ns = now - from_ns + (p->round == round ? p->ns : 0);
    p->round = round;
    if (p->ns >= PACE_NS && gen_others(d, uid))
        p->until_ns = now + PACE_REST * p->ns;
}

uint64_t pace_late(const struct pace *p, const struct daemon *d)
{
    uint64_t now = now_ns();

    if (now < p->until_ns)
        return p->until_ns;
    return p->round == loop_round(d->loop) && p->ns >= PACE_NS ? now : 0;
}
