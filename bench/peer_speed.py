#!/usr/bin/env python3
"""peer_speed.py BIN_DIR MODEL.gguf [THREADS [ROUNDS [DEPTH]]] - hearth-bench beside llama.cpp, one run.

The two alternate, so that both meet the same machine; per figure the best and the median of all
rounds are printed, with their ratio.  llama.cpp is the wheel xllamacpp (AVX2 and repacking built
in), driven through its own server object: prefill of 512 tokens, decode of 64 after 16 and, with
DEPTH, decode of 32 after that many.
"""
import json
import os
import statistics
import subprocess
import sys


def peer(model, threads, depth):
    """One measurement in this process; prints JSON and leaves (its threads spin otherwise)."""
    import xllamacpp as x
    p = x.CommonParams()
    p.model.path = model
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_parallel = max(2048, depth + 256), 2048, 512, 1
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.warmup = True
    server = x.Server(p)

    def ask(prompt, n):
        r = server.handle_completions({"prompt": prompt, "n_predict": n, "temperature": 0,
                                       "cache_prompt": False, "ignore_eos": True})
        return (json.loads(r) if isinstance(r, str) else r)["timings"]

    def prompt(k, n):
        return [((i * 7919) + k * 13) % 30000 + 100 for i in range(n)]

    got = {"prefill": max(ask(prompt(k, 512), 1)["prompt_per_second"] for k in range(3)),
           "decode": max(ask(prompt(k, 16), 64)["predicted_per_second"] for k in range(3))}
    if depth:
        got["deep"] = ask(prompt(3, depth), 32)["predicted_per_second"]
    print(json.dumps(got))


def ours(bin_dir, model, threads, depth):
    deep = ["-d", str(depth)] if depth else []
    out = subprocess.run([bin_dir + "/hearth-bench", "model", model, "-p", "512", "-n", "64", "-t", str(threads),
                          "--json"] + deep, capture_output=True, text=True, check=True).stdout
    j = json.loads(out)
    got = {"prefill": j["prefill_tok_s"]["best"], "decode": j["decode_tok_s"]["best"]}
    if depth:
        got["deep"] = j["decode_deep_tok_s"]["best"]
    return got


def theirs(model, threads, depth):
    out = subprocess.run([sys.executable, __file__, "--peer", model, str(threads), str(depth)],
                         capture_output=True, text=True, check=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def main():
    if sys.argv[1] == "--peer":
        return peer(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    bin_dir, model = sys.argv[1:3]
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else os.cpu_count()
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    depth = int(sys.argv[5]) if len(sys.argv) > 5 else 0
    got = {"hearth": [], "llama.cpp": []}
    for _ in range(rounds):
        got["hearth"].append(ours(bin_dir, model, threads, depth))
        got["llama.cpp"].append(theirs(model, threads, depth))
    r = {"threads": threads, "rounds": rounds}
    for what in got["hearth"][0]:
        for f, name in ((max, "best"), (statistics.median, "median")):
            h, p = (f([x[what] for x in got[who]]) for who in ("hearth", "llama.cpp"))
            r["%s_%s" % (what, name)] = {"hearth": round(h, 1), "llama.cpp": round(p, 1), "ratio": round(h / p, 2)}
    print(json.dumps(r))


main()
