/* knobs.h - settings of a model file that are not honoured here.
 *
 * Other families, or other programs' versions of the same family, turn these; each changes the
 * mathematics.  A file is taken when its value is the one that changes nothing, and refused by
 * name when it is not: a model that runs otherwise than it was trained is a wrong model. */
#ifndef ENGINE_KNOBS_H
#define ENGINE_KNOBS_H
#include "base/err.h"
#include <stdint.h>

struct gguf;
/* Of ARCH.*.  ctx: the model's context; a window that holds all of it is none.  E_UNSUPP names
 * key and value, and what would be taken. */
int knobs_check(const struct gguf *g, const char *arch, uint32_t ctx, struct errbuf *eb);

#endif
