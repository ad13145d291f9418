"""logits_transformers.py HEARTH_EVAL MODEL.gguf TEXT... - hearth-eval against transformers.

For each text, the first TOKENS tokens (default 512): mean KL(transformers || ours) and how often
the likeliest token agrees, for the oracle (f32 rows, f32 activations), the oracle with f16 rows
and the fast path; then that chunk and thread counts do not change a bit.  Needs torch, transformers, gguf, numpy.  MODES=oracle,f16,fast,bits,twin chooses.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

EVAL, MODEL, TEXTS = sys.argv[1], os.path.abspath(sys.argv[2]), sys.argv[3:]
TOKENS = int(os.environ.get("TOKENS", "512"))
MODES = os.environ.get("MODES", "oracle,f16,fast,bits").split(",")
ORACLE = ["--backend", "ref", "--act", "f32"]
BARS = {  # name: (arguments, KL at most, top-1 at least)
    "oracle": (ORACLE + ["--rows", "f32"], 1e-9, None),
    "f16": (ORACLE + ["--rows", "f16"], 5e-6, 0.99),
    "fast": ([], 8e-3, 0.92),
}
BITS = [["--chunk", c] for c in ("1", "37", "256")] + [["--threads", "1"], ["--threads", "2"]]
TWIN = [["--backend", "cpu-c"]]  # the plain-C twin: minutes a text


def ours(tmp, extra, n):
    subprocess.run([EVAL, MODEL, "--ids", tmp + "/ids", "--logits", tmp + "/out"] + extra,
                   check=True, stdout=subprocess.DEVNULL)
    return np.fromfile(tmp + "/out", np.float32).reshape(n, -1)


def compare(ref, got):
    b = torch.log_softmax(torch.from_numpy(got.astype(np.float64)), -1)
    kl = (ref.exp() * (ref - b)).sum(-1)
    top = ref.topk(2, -1)
    same = ref.argmax(-1) == b.argmax(-1)
    clear = (top.values[:, 0] - top.values[:, 1]) > 1e-3
    return {"kl": kl.mean().item(), "kl_max": kl.max().item(), "top1": same.double().mean().item(),
            "differ_where_clear": int((clear & ~same).sum())}


def main():
    folder, name = os.path.split(MODEL)
    tok = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    bad = False
    for text in TEXTS:
        ids = tok(open(text, errors="replace").read(), return_tensors="pt").input_ids[:, :TOKENS]
        n = ids.shape[1]
        with torch.no_grad():
            ref = torch.log_softmax(model(ids).logits[0].double(), -1)
        with tempfile.TemporaryDirectory() as tmp:
            ids[0].numpy().astype(np.int32).tofile(tmp + "/ids")
            for mode, (extra, kl_max, top1_min) in BARS.items():
                if mode not in MODES:
                    continue
                r = compare(ref, ours(tmp, extra, n))
                ok = r["kl"] <= kl_max and (top1_min is None or r["top1"] >= top1_min)
                ok = ok and (mode != "oracle" or r["differ_where_clear"] == 0)
                bad |= not ok
                print(json.dumps({"text": os.path.basename(text), "tokens": n, "mode": mode,
                                  "ok": ok, **r}), flush=True)
            if "bits" in MODES:
                first = ours(tmp, [], n).view(np.uint32)
                for extra in BITS + (TWIN if "twin" in MODES else []):
                    ok = bool((ours(tmp, extra, n).view(np.uint32) == first).all())
                    bad |= not ok
                    print(json.dumps({"text": os.path.basename(text), "bits": " ".join(extra),
                                      "ok": ok}), flush=True)
    sys.exit(bad)


main()
