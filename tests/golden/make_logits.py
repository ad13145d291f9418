"""make_logits.py MODEL.gguf OUT TEXT TEXT TEXT - what transformers computes, small enough to keep.

For the first 512 tokens of each text: the ids, and at every position the 32 largest logits
and the log-sum-exp of all others; at positions 31 and 63 all logits.  Little-endian:

  "HEARTHGL", u32 version 1, texts, tokens, vocabulary, top, whole; SHA-256 of the model, 32
  per text: name, 64; i32 ids[tokens];
            per token i32 id[top], f32 logit[top], f32 log-sum-exp of the rest;
            per whole position u32 position, f32 logit[vocabulary]

tests/engine/test_golden.c compares with it.  Needs torch, transformers, gguf, accelerate.
"""
import hashlib
import os
import struct
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS, TOP, WHOLE = 512, 32, (31, 63)


def main():
    path, out, texts = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3:]
    folder, name = os.path.split(path)
    tok = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    with open(out, "wb") as f:
        for i, text in enumerate(texts):
            ids = tok(open(text, errors="replace").read(), return_tensors="pt").input_ids[:, :TOKENS]
            if ids.shape[1] != TOKENS:
                sys.exit(f"{text}: only {ids.shape[1]} tokens, {TOKENS} are needed")
            with torch.no_grad():
                logits = model(ids).logits[0].float()
            if i == 0:
                digest = hashlib.sha256(open(path, "rb").read()).digest()
                f.write(b"HEARTHGL" + struct.pack("<6I", 1, len(texts), TOKENS, logits.shape[1], TOP,
                                                  len(WHOLE)) + digest)
            f.write(os.path.basename(text).encode()[:63].ljust(64, b"\0"))
            f.write(ids[0].numpy().astype("<i4").tobytes())
            top = logits.topk(TOP, -1)
            rest = logits.double().scatter(-1, top.indices, -np.inf).logsumexp(-1)
            for t in range(TOKENS):
                f.write(top.indices[t].numpy().astype("<i4").tobytes())
                f.write(top.values[t].numpy().astype("<f4").tobytes())
                f.write(struct.pack("<f", rest[t].item()))
            for t in WHOLE:
                f.write(struct.pack("<I", t) + logits[t].numpy().astype("<f4").tobytes())


main()
