#!/usr/bin/env python3
"""peer_speed.py BIN_DIR MODEL.gguf [THREADS [ROUNDS]] - hearth-bench beside llama.cpp, one run.

The two alternate, so that both meet the same machine; per figure the best and the median of all
rounds are printed, with their ratio.  llama.cpp is the wheel xllamacpp (AVX2 and repacking built
in), driven through its own server object: prefill of 512 tokens, decode of 64 after 16.
"""
import json
import os
import statistics
import subprocess
import sys


def peer(model, threads):
    """One measurement in this process; prints JSON and leaves (its threads spin otherwise)."""
    import xllamacpp as x
    p = x.CommonParams()
    p.model.path = model
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_parallel = 2048, 2048, 512, 1
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.warmup = True
    server = x.Server(p)

    def ask(prompt, n):
        r = server.handle_completions({"prompt": prompt, "n_predict": n, "temperature": 0,
                                       "cache_prompt": False, "ignore_eos": True})
        return (json.loads(r) if isinstance(r, str) else r)["timings"]

    pp, tg = [], []
    for k in range(3):
        ids = [((i * 7919) + k * 13) % 30000 + 100 for i in range(512)]
        pp.append(ask(ids, 1)["prompt_per_second"])
        tg.append(ask(ids[:16], 64)["predicted_per_second"])
    print(json.dumps({"prefill": max(pp), "decode": max(tg)}))


def main():
    if sys.argv[1] == "--peer":
        return peer(sys.argv[2], int(sys.argv[3]))
    bin_dir, model = sys.argv[1:3]
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else os.cpu_count()
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    got = {"hearth": {"prefill": [], "decode": []}, "llama.cpp": {"prefill": [], "decode": []}}
    for _ in range(rounds):
        out = subprocess.run([bin_dir + "/hearth-bench", "model", model, "-p", "512", "-n", "64", "-t",
                              str(threads), "--json"], capture_output=True, text=True, check=True).stdout
        j = json.loads(out)
        got["hearth"]["prefill"].append(j["prefill_tok_s"]["best"])
        got["hearth"]["decode"].append(j["decode_tok_s"]["best"])
        out = subprocess.run([sys.executable, __file__, "--peer", model, str(threads)],
                             capture_output=True, text=True, check=True).stdout
        j = json.loads(out.strip().splitlines()[-1])
        got["llama.cpp"]["prefill"].append(j["prefill"])
        got["llama.cpp"]["decode"].append(j["decode"])
    r = {"threads": threads, "rounds": rounds}
    for what in ("prefill", "decode"):
        for f, name in ((max, "best"), (statistics.median, "median")):
            h, p = f(got["hearth"][what]), f(got["llama.cpp"][what])
            r["%s_%s" % (what, name)] = {"hearth": round(h, 1), "llama.cpp": round(p, 1), "ratio": round(h / p, 2)}
    print(json.dumps(r))


main()
