#!/usr/bin/env python3
"""make_dequant.py OUT - golden of every block type's dequantisation, by gguf-py.

The file: for each type, little-endian u32 type, rows, cols, bytes; the blocks; then rows *
cols floats as gguf.quants.dequantize gives them.  Blocks are random bytes with plausible
scales, so that every code, sign and sub-scale occurs; zero and subnormal scales included.
Needs numpy and gguf (pip install gguf).  Same bytes on every run.
"""
import sys
import numpy as np
from gguf import GGMLQuantizationType as T, GGML_QUANT_SIZES
from gguf.quants import dequantize

HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
          T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}

rng = np.random.default_rng(20240613)
with open(sys.argv[1], "wb") as f:
    for t in [T.F32, T.F16, T.BF16, *HALVES]:
        block, size = GGML_QUANT_SIZES[t]
        rows, cols = 3, 512
        n = rows * cols // block
        data = rng.integers(0, 256, (n, size), dtype=np.uint8)
        for at in HALVES.get(t, []):
            d = (rng.standard_normal(n) * 0.02).astype(np.float16)
            d[:3] = [0, 6e-8, -3e-6]
            data[:, at:at + 2] = d.view(np.uint8).reshape(n, 2)
        if t in (T.F32, T.F16, T.BF16):
            v = rng.standard_normal(n).astype(np.float32)
            v[:4] = [0, -0.0, 65504, 2**-24]
            raw = {T.F32: v, T.F16: v.astype(np.float16),
                   T.BF16: (v.view(np.uint32) >> 16).astype(np.uint16)}[t]
            data = raw.view(np.uint8).reshape(n, size)
        data = data.reshape(rows, -1)
        values = np.ascontiguousarray(dequantize(data, t), dtype="<f4").reshape(rows, cols)
        f.write(np.array([int(t), rows, cols, data.nbytes], dtype="<u4").tobytes())
        f.write(data.tobytes())
        f.write(values.tobytes())
