/* vec_avx2.c - AVX2 kernels: float ones of vec.inc, matmuls of mm_x86.inc. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/v8.h"
/* */
#include "kernels/cpu/vec.inc"
/* */
#include "kernels/cpu/mm_x86.inc"

const struct cpu_vec cpu_vec_avx2 = {
    .name = "cpu-avx2",
    .mm = mm_x86,
    .quant = vec_quant,
    .rms = vec_rms,
    .act = vec_act,
    .rotate = vec_rotate,
    .store = vec_store,
    .attn_block = vec_attn_block,
    .attn_join = vec_attn_join,
};
