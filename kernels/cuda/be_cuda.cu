/* be_cuda.cu - the CUDA backend: finds devices; operations are not built yet, and open() says so. */
#include "kernels/kern.h"
#include <cuda_runtime_api.h>
#include <errno.h>

static int cuda_open(struct kern **ret, const struct kern_opts *o, struct errbuf *eb)
{
    cudaDeviceProp prop;
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    (void)ret, (void)o;
    if (e != cudaSuccess || n == 0)
        return err_set(eb, -ENODEV, "no CUDA device: %s",
                       e == cudaSuccess ? "none found" : cudaGetErrorString(e));
    e = cudaGetDeviceProperties(&prop, 0);
    if (e != cudaSuccess)
        return err_set(eb, E_DEVICE, "CUDA device 0 of %d: %s", n, cudaGetErrorString(e));
    return err_set(eb, -ENODEV,
                   "%d CUDA device(s), the first %s with %zu MiB, but this build has no "
                   "operations for them: use the cpu backend",
                   n, prop.name, prop.totalGlobalMem >> 20);
}

static constexpr struct kern_ops table()
{
    struct kern_ops t = {};
    t.name = "cuda";
    t.open = cuda_open;
    return t;
}

extern constinit const struct kern_ops kern_cuda = table();
