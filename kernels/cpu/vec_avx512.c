/* vec_avx512.c - the AVX2 kernels again for machines with AVX-512 VNNI, whose dot products
 * are exact int32 and so give the same bits in a third of the instructions. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/v8.h"
/* */
#include "kernels/cpu/vec.inc"
/* */
#include "kernels/cpu/mm_x86.inc"

const struct cpu_vec cpu_vec_avx512 = {
    .name = "cpu-avx512",
    .mm = mm_x86,
    .quant = vec_quant,
    .rms = vec_rms,
    .act = vec_act,
    .rotate = vec_rotate,
    .store = vec_store,
    .attn_block = vec_attn_block,
    .attn_join = vec_attn_join,
};
