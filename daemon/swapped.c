/* swapped.c - see swapped.h. */
#include "daemon/swapped.h"
#include "base/clock.h"
#include "daemon/daemon.h"
#include "daemon/model.h"
#include "daemon/req.h"
#include "daemon/sess.h"
#include "kvstore/kvstore.h"
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* What a name stands for: a fact of the store, by the name's hash (a fact's name is short). */
struct stands_for {
    uint8_t fingerprint[32];
    uint64_t variant, since_ns; /* wall clock; 0: it never was another */
};

static void fact_name(const struct model *m, char ret[64])
{
    XXH128_hash_t h = XXH3_128bits(m->name, strlen(m->name));

    snprintf(ret, 64, "name/%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}

void swapped_model(struct daemon *d, struct model *m)
{
    struct stands_for now = {.variant = m->variant}, was;
    char name[64], words[NAME_BYTES_MAX + 16];

    if (m->state != MODEL_LOADED || !m->keyed || m->compared)
        return;
    m->compared = true;
    memcpy(now.fingerprint, m->fingerprint, sizeof now.fingerprint);
    fact_name(m, name);
    bool known = kvs_meta_get(d->store, name, &was, sizeof was) == (int)sizeof was;
    bool weights = known && memcmp(was.fingerprint, now.fingerprint, sizeof now.fingerprint);

    if (known && !weights && was.variant == now.variant) {
        m->swapped_ns = was.since_ns;
        return;
    }
    if (known) {
        now.since_ns = m->swapped_ns = m->loaded_ns;
        snprintf(words, sizeof words, "model %s: ", m->name);
        daemon_unwarn(d, words); /* of what was said before */
        daemon_warn(d,
                    "model %s: %s; what its sessions had computed is computed again as they "
                    "are used",
                    m->name,
                    weights ? "its file holds other weights than before"
                            : "this hearthd computes otherwise than the one before");
    }
    (void)kvs_meta_put(d->store, name, &now,
                       sizeof now); /* else it is said at the next start */
}

void swapped_warn(struct req *r)
{
    const struct model *m = r->m;
    uint64_t used_ns = r->s->told_ns ? r->s->told_ns : r->sess_used_ns;

    /* The weights are hashed behind the load: what answers before that is known is told the next
     * time, as if it had not been used since. */
    r->s->told_ns = m->compared ? 0 : used_ns;
    /* By the store's clock, which a wrong wall clock does not move. */
    if (m->compared && used_ns && m->swapped_ns &&
        kvs_age_ns(r->d->store, used_ns) > kvs_age_ns(r->d->store, m->swapped_ns))
        req_warn(
            r,
            "model %s is not what it was when this session was last used (another file, or "
            "another build): its tokens were computed again with what there is now",
            m->name);
}
