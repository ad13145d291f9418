/* none.c - the CUDA backend of a build without nvcc: there is none, and open() says so. */
#include "kernels/kern.h"
#include <errno.h>

static int none_open(struct kern **ret, const struct kern_opts *o, struct errbuf *eb)
{
    (void)ret, (void)o;
    return err_set(eb, -ENODEV, "this build has no CUDA (no nvcc was found when it was made)");
}

const struct kern_ops kern_cuda = {.name = "cuda", .open = none_open};
