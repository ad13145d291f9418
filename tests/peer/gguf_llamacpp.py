"""gguf_llamacpp.py HEARTH_EVAL [CASE...] - whole synthetic llama models, three ways.

Writes tiny models with gguf-py (every tensor type, grouped heads, biases, head of its own, every
rope scaling) and compares hearth-eval's logits with
  numpy    an independent forward pass in double over gguf-py's dequantised weights: the oracle
           (--backend ref --act f32 --rows f32) must agree to KL 1e-9;
  llama.cpp (xllamacpp), which also rounds activations to 8 bits, in its own way: KL 1e-2 both
           against the oracle and against the fast path.
Needs numpy, gguf; without xllamacpp that part is skipped and said so.  SEED= for other weights.
"""
import json
import math
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

try:
    import xllamacpp
except ImportError:
    xllamacpp = None

EVAL = sys.argv[1]
SEED = int(os.environ.get("SEED", "1"))
VOCAB, PROMPT, DECODE = 258, 150, 10

# Where a block's f16 scales lie, and how many of their steps make a weight.
SCALES = {
    T.Q4_0: ([0], 8), T.Q4_1: ([0, 2], 8), T.Q5_0: ([0], 16), T.Q5_1: ([0, 2], 16),
    T.Q8_0: ([0], 128), T.Q2_K: ([80, 82], 24), T.Q3_K: ([108], 100), T.Q4_K: ([0, 2], 500),
    T.Q5_K: ([0, 2], 1000), T.Q6_K: ([208], 3000),
}
FLOATS = {T.F32, T.F16, T.BF16}


class Model:
    def __init__(self, rng, **kw):
        self.rng = rng
        self.layers, self.embd, self.ff, self.head, self.kv, self.dim = 2, 256, 256, 8, 4, 32
        self.type, self.tied, self.bias, self.scaling, self.freqs = T.Q8_0, True, False, {}, None
        self.rope_dims, self.base, self.ctx = None, 10000.0, 1024
        self.__dict__.update(kw)
        self.rope_dims = self.rope_dims or self.dim
        self.w, self.raw = {}, []
        amp = 1.7 / math.sqrt(self.embd)
        self.matrix("token_embd.weight", VOCAB, self.embd, 0.15)
        for i in range(self.layers):
            b = f"blk.{i}."
            self.vector(b + "attn_norm.weight", self.embd, 0.3, 1)
            self.vector(b + "ffn_norm.weight", self.embd, 0.3, 1)
            for n, rows in (("q", self.head), ("k", self.kv), ("v", self.kv)):
                self.matrix(b + f"attn_{n}.weight", rows * self.dim, self.embd, 1.2 * amp)
                if self.bias:
                    self.vector(b + f"attn_{n}.bias", rows * self.dim, 0.5, 0)
            self.matrix(b + "attn_output.weight", self.embd, self.head * self.dim, amp)
            if self.bias:
                self.vector(b + "attn_output.bias", self.embd, 0.5, 0)
            self.matrix(b + "ffn_gate.weight", self.ff, self.embd, amp)
            self.matrix(b + "ffn_up.weight", self.ff, self.embd, amp)
            self.matrix(b + "ffn_down.weight", self.embd, self.ff, amp)
        self.vector("output_norm.weight", self.embd, 0.3, 1)
        if not self.tied:
            self.matrix("output.weight", VOCAB, self.embd, 2 * amp)
        if self.freqs:
            self.vector("rope_freqs.weight", self.rope_dims // 2, 1, 2)

    def vector(self, name, n, amp, base):
        v = (base + amp * self.rng.uniform(-1, 1, n)).astype(np.float32)
        self.w[name] = v.astype(np.float64)
        self.raw.append((name, v, None))

    def matrix(self, name, rows, cols, amp):
        t = self.type
        if t in FLOATS:
            v = (amp * self.rng.uniform(-1, 1, (rows, cols))).astype(np.float32)
            if t == T.F16:
                v = v.astype(np.float16)
            data = gguf.quants.quantize(v, t) if t == T.BF16 else v
        else:
            block, size = gguf.GGML_QUANT_SIZES[t]
            data = self.rng.integers(0, 256, (rows * cols // block, size), dtype=np.uint8)
            at, steps = SCALES[t]
            for j, off in enumerate(at):
                d = (amp / steps * self.rng.uniform(0.5, 1, len(data))).astype(np.float16)
                if j == 1 and t in (T.Q4_1, T.Q5_1):  # the minimum: values straddle zero
                    d = (-d * (7.5 if t == T.Q4_1 else 15.5)).astype(np.float16)
                data[:, off:off + 2] = d.view(np.uint8).reshape(-1, 2)
            data = data.reshape(rows, cols // block * size)
        self.w[name] = gguf.quants.dequantize(data, t).reshape(rows, cols).astype(np.float64)
        self.raw.append((name, data, t))

    def write(self, path):
        w = gguf.GGUFWriter(path, "llama")
        w.add_name("synthetic")
        w.add_block_count(self.layers)
        w.add_context_length(self.ctx)
        w.add_embedding_length(self.embd)
        w.add_feed_forward_length(self.ff)
        w.add_head_count(self.head)
        w.add_head_count_kv(self.kv)
        w.add_layer_norm_rms_eps(1e-5)
        w.add_vocab_size(VOCAB)
        w.add_key_length(self.dim)
        w.add_value_length(self.dim)
        w.add_rope_dimension_count(self.rope_dims)
        w.add_rope_freq_base(self.base)
        for k, v in self.scaling.items():
            key = "llama.rope.scaling." + k
            w.add_string(key, v) if isinstance(v, str) else (
                w.add_uint32(key, v) if isinstance(v, int) else w.add_float32(key, v))
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        odd = iter(range(256, 512))
        tokens = [chr(b) if b in plain else chr(next(odd)) for b in range(256)] + ["<|end|>", "ab"]
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("gpt-2")
        w.add_token_list(tokens)
        # Halves of characters are marked as control tokens: the server does not wait for the rest.
        w.add_token_types([1] * 128 + [3] * 128 + [3, 1])
        w.add_token_merges(["a b"])
        w.add_eos_token_id(256)
        w.add_bos_token_id(256)
        for name, data, t in self.raw:
            w.add_tensor(name, data, raw_dtype=t if t and t not in (T.F32, T.F16) else None)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()

    def frequencies(self):
        """Inverse frequencies and the factor on sin and cos, from the papers' formulas."""
        d, s = self.rope_dims, self.scaling
        inv = self.base ** (-np.arange(0, d, 2) / d)
        if self.freqs:
            inv = inv / self.w["rope_freqs.weight"]
        factor, kind, mscale = s.get("factor", 1.0), s.get("type", "linear"), s.get("attn_factor", 1.0)
        if kind == "none":
            factor = 1.0
        if kind != "yarn":
            return inv / factor, mscale
        orig = s.get("original_context_length", self.ctx)
        pair = lambda turns: d * math.log(orig / (turns * 2 * math.pi)) / (2 * math.log(self.base))
        lo = max(0, math.floor(pair(s.get("yarn_beta_fast", 32.0))))
        hi = min(d - 1, math.ceil(pair(s.get("yarn_beta_slow", 1.0))))
        keep = 1 - np.clip((np.arange(d // 2) - lo) / max(0.001, hi - lo), 0, 1)
        return inv / factor * (1 - keep) + inv * keep, mscale * (1 + 0.1 * math.log(factor))

    def forward(self, ids):
        w, n = self.w, len(ids)
        inv, mscale = self.frequencies()
        angle = np.arange(n)[:, None] * inv[None, :]
        cos, sin = np.cos(angle) * mscale, np.sin(angle) * mscale

        def rope(v, heads):
            v = v.reshape(n, heads, self.dim).copy()
            a, b = v[..., 0:self.rope_dims:2].copy(), v[..., 1:self.rope_dims:2].copy()
            v[..., 0:self.rope_dims:2] = a * cos[:, None] - b * sin[:, None]
            v[..., 1:self.rope_dims:2] = a * sin[:, None] + b * cos[:, None]
            return v

        def norm(v, name):
            return v / np.sqrt((v * v).mean(-1, keepdims=True) + 1e-5) * w[name]

        x = w["token_embd.weight"][ids]
        mask = np.triu(np.full((n, n), -np.inf), 1)
        for i in range(self.layers):
            b = f"blk.{i}."
            h = norm(x, b + "attn_norm.weight")
            q, k, v = (h @ w[b + f"attn_{c}.weight"].T + w.get(b + f"attn_{c}.bias", 0) for c in "qkv")
            q, k, v = rope(q, self.head), rope(k, self.kv), v.reshape(n, self.kv, self.dim)
            k, v = (np.repeat(t, self.head // self.kv, axis=1) for t in (k, v))
            s = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(self.dim) + mask
            p = np.exp(s - s.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            o = np.einsum("hij,jhd->ihd", p, v).reshape(n, -1)
            x = x + o @ w[b + "attn_output.weight"].T + w.get(b + "attn_output.bias", 0)
            h = norm(x, b + "ffn_norm.weight")
            g = h @ w[b + "ffn_gate.weight"].T
            x = x + (g / (1 + np.exp(-g)) * (h @ w[b + "ffn_up.weight"].T)) @ w[b + "ffn_down.weight"].T
        h = norm(x, "output_norm.weight")
        return h @ w["token_embd.weight" if self.tied else "output.weight"].T


CASES = {t.name: dict(type=t) for t in [*SCALES, *FLOATS]}
CASES.update({
    "heads-equal": dict(kv=8), "one-kv-head": dict(kv=1), "own-head": dict(tied=False),
    "biases": dict(bias=True, type=T.Q4_0), "wide-heads": dict(head=4, kv=2, dim=128),
    "narrow-rope": dict(rope_dims=16), "base-1e6": dict(base=1e6),
    "linear": dict(scaling={"type": "linear", "factor": 4.0}),
    "untyped-factor": dict(scaling={"factor": 3.0}),
    "none": dict(scaling={"type": "none", "factor": 4.0}),
    "yarn": dict(scaling={"type": "yarn", "factor": 4.0, "original_context_length": 256}),
    "yarn-betas": dict(scaling={"type": "yarn", "factor": 8.0, "original_context_length": 128,
                                "yarn_beta_fast": 8.0, "yarn_beta_slow": 2.0}),
    "yarn-attn": dict(scaling={"type": "yarn", "factor": 4.0, "original_context_length": 256,
                               "attn_factor": 1.2}),
    "rope-factors": dict(freqs=True, type=T.F32), "rope-factors-q": dict(freqs=True, base=5e5),
})


# llama.cpp rotates whole heads only, and ignores the betas in the file (transformers does not).
NUMPY_ONLY = {"narrow-rope", "yarn-betas"}


def log_softmax(v):
    v = v.astype(np.float64)
    v = v - v.max(-1, keepdims=True)
    return v - np.log(np.exp(v).sum(-1, keepdims=True))


def kl(a, b):
    return float((np.exp(a) * (a - b)).sum(-1).mean())


def ours(tmp, path, ids, *extra):
    np.array(ids, np.int32).tofile(tmp + "/ids")
    subprocess.run([EVAL, path, "--ids", tmp + "/ids", "--logits", tmp + "/out", *extra], check=True,
                   stdout=subprocess.DEVNULL)
    return log_softmax(np.fromfile(tmp + "/out", np.float32).reshape(len(ids), -1))


def llamacpp(path, prompt):
    """Ids it decodes after the prompt, and the whole distribution before each."""
    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.verbosity = path, 512, 1, False, -1
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    r = xllamacpp.Server(p).handle_completions(
        {"prompt": prompt, "n_predict": DECODE, "temperature": 0, "n_probs": VOCAB,
         "ignore_eos": False, "return_tokens": True})
    r = json.loads(r) if isinstance(r, str) else r
    ids, dist = [], []
    if not r["choices"][0]["logprobs"]:  # the first token was the end
        return [], None
    for step in r["choices"][0]["logprobs"]["content"]:
        row = np.full(VOCAB, -100.0)
        for c in step["top_logprobs"]:
            row[c["id"]] = c["logprob"]
        ids.append(step["id"])
        dist.append(row)
    return ids, log_softmax(np.array(dist))


def main():
    bad = 0
    for name, kw in CASES.items():
        if len(sys.argv) > 2 and name not in sys.argv[2:]:
            continue
        rng = np.random.default_rng([SEED, *name.encode()])
        m = Model(rng, **kw)
        prompt = [int(i) for i in rng.integers(0, 256, PROMPT)]
        with tempfile.TemporaryDirectory() as tmp:
            path = tmp + "/model.gguf"
            m.write(path)
            oracle = ours(tmp, path, prompt, "--backend", "ref", "--act", "f32", "--rows", "f32")
            res = {"case": name, "numpy": kl(log_softmax(m.forward(prompt)), oracle)}
            ok = res["numpy"] <= 1e-9
            res["fast"] = kl(oracle, ours(tmp, path, prompt))
            ok &= res["fast"] <= 1e-2
            if xllamacpp and name not in NUMPY_ONLY:
                for _ in range(9):
                    ids, dist = llamacpp(path, prompt)
                    if ids:
                        break
                    prompt = [int(i) for i in rng.integers(0, 256, PROMPT)]
                whole = prompt + ids[:-1]
                at = slice(PROMPT - 1, PROMPT - 1 + len(ids))
                res["llamacpp"] = kl(dist, ours(tmp, path, whole, "--backend", "ref", "--act", "f32",
                                                "--rows", "f32")[at])
                res["llamacpp_fast"] = kl(dist, ours(tmp, path, whole)[at])
                ok &= len(ids) > 0 and res["llamacpp"] <= 1e-2 and res["llamacpp_fast"] <= 1e-2
        bad += not ok
        print(json.dumps({**res, "ok": bool(ok)}), flush=True)
    if not xllamacpp:
        print("xllamacpp is not installed: compared with numpy only")
    sys.exit(bad > 0)


main()
