#!/usr/bin/env python3
"""restore.py BIN_DIR MODEL.gguf [TOKENS [SESSIONS]] - a session's first token after a clean restart.

Ingests sessions of TOKENS tokens that end at a block's edge, and as many that end in the middle of a
block, stops hearthd, starts it again and takes one token from each.  Beside them, in the same
run: the rate at which fio, or a plain reader if that is faster, reads the same disk (hearth-bench
store) and one decode step.  Prints, per kind, the median time from START to the first token, its
bound (bytes / the disk's rate + one step + 50 ms, and for the middle of a block the replay of its
rows) and whether it was kept.
"""
import os
import statistics
import sys

if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__.strip())
    os.environ["HEARTH_BIN"], os.environ["HEARTH_TEST_MODEL"] = os.path.abspath(sys.argv[1]), sys.argv[2]
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "e2e"))
from hearthlib import *

BLOCK = 256
REST_S = 1  # as in hearth-bench store: a disk that has just worked may be slower
ONE = {"max_tokens": 1, "ignore_eos": True, "temperature": 0}


def disk_gib_s(tokens, where):
    out = subprocess.run([prog("hearth-bench"), "store", "--layout", "smollm2", "--tokens", str(max(tokens, 8192)), "--dir", where,
                          "--json"], capture_output=True, text=True, check=True).stdout
    r = json.loads(out)
    return max(r["fio_gib_s"], r["plain_gib_s"])


def first_token(link, name, token):
    time.sleep(REST_S)
    t0 = time.monotonic()
    a = generate(link, {"session": name, "input": "tokens", "fork": True, "params": ONE}, ids_tail([token]))
    return (a.times[0] - t0) * 1000, a.last


def measure(tokens, n):
    d = Daemon("--threads", str(os.cpu_count())).start()
    d.load()
    kinds = {"edge": tokens // BLOCK * BLOCK + 1, "inside": tokens // BLOCK * BLOCK + BLOCK // 2 + 1}
    with d.link() as l:
        doc = [t for i in range(3) for t in tokens_of(l, text(i))]
        while len(doc) < max(kinds.values()) + 997 * n:
            doc += doc
        for kind, length in kinds.items():
            for i in range(n):  # the first token is the session's own: nothing is shared
                ids = [1000 + i + 500 * (kind == "edge")] + doc[997 * i:997 * i + length - 1]
                generate(l, {"session": kind + str(i), "create": True, "model": "m", "input": "tokens",
                             "params": {"max_tokens": 0}}, ids_tail(ids))
    check_eq(d.stop(), 0, "exit status of a clean stop")
    disk = disk_gib_s(tokens, d.dir)
    d.start()
    d.load()
    with d.link() as l:
        step = generate(l, {"input": "tokens", "keep": False, "model": "m", "params": dict(ONE, max_tokens=32)},
                        ids_tail(doc[:tokens]))
        block_bytes = l.call(MODEL_SHOW, {"model": "m"})["block_bytes"]
        for kind, length in kinds.items():
            ms, last = zip(*(first_token(l, kind + str(i), 700) for i in range(n)))
            blocks = (length - 1) // BLOCK
            check(all(x["reused_from"]["file"] == blocks * BLOCK for x in last), lambda: "not from the file: %r" % last[0])
            step_ms = step.last["timings"]["decode_ms"] / 31
            replay, replay_ms = last[0]["usage"]["prefilled"], 0
            if replay > 2:  # as many tokens after as many that are there already
                a = generate(l, {"session": "edge0", "input": "tokens", "fork": True, "params": ONE}, ids_tail(doc[:replay]))
                replay_ms = a.last["timings"]["prefill_ms"]
            bound = blocks * block_bytes / disk / 2**30 * 1000 + step_ms + 50 + replay_ms
            got = statistics.median(ms)
            print(json.dumps({"cut": kind, "tokens": length, "sessions": n, "bytes": blocks * block_bytes,
                              "first_token_ms": round(got, 1), "restore_ms": round(statistics.median(
                                  x["timings"]["restore_ms"] for x in last), 1), "replayed": replay, "replay_ms": round(replay_ms, 1),
                              "disk_gib_s": round(disk, 2), "step_ms": round(step_ms, 1),
                              "bound_ms": round(bound, 1), "kept": got <= bound}), flush=True)
    d.stop()


if __name__ == "__main__":
    measure(int(sys.argv[3]) if len(sys.argv) > 3 else 4096, int(sys.argv[4]) if len(sys.argv) > 4 else 3)
