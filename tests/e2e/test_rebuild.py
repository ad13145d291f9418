#!/usr/bin/env python3
"""test_rebuild.py - the index is derived: lost or damaged, it comes back from slots and turn log."""
from hearthlib import *


def fill(d):
    with d.link() as l:
        doc = tokens_of(l, text(0) + text(1))
        for i, n in enumerate((300, 1100, 700)):
            generate(l, {"session": "s%d" % i, "create": True, "model": "m", "input": "tokens",
                         "params": {"max_tokens": 8, "temperature": 0.8, "seed": i + 1, "ignore_eos": True}},
                     ids_tail([2000 + i] + doc[i * 100:i * 100 + n]))
        l.call(SESSION_FORK, {"id": new_id(), "session": "s1", "name": "forked"})
        l.call(SESSION_REWIND, {"id": new_id(), "session": "forked", "to_tokens": 600})
        l.call(SESSION_RENAME, {"id": new_id(), "session": "s2", "name": "renamed"})
        l.call(SESSION_PIN, {"id": new_id(), "session": "s0", "pinned": True})


def snapshot(d):
    out = {}
    with d.link() as l:
        for s in l.call(SESSION_LIST, {"all": True})["sessions"]:
            r = l.call(SESSION_SHOW, {"session": s["id"], "ids": True})
            out[s["name"] or s["id"]] = (s["tokens"], s["pinned"], r["_tail"],
                                         [(t["n"], t["role"], t["position"], t["tokens"]) for t in r["turns"]])
    return out


def answer(d, name):
    with d.link() as l:
        return generate(l, {"session": name, "fork": True, "input": "tokens",
                            "params": {"max_tokens": 10, "temperature": 0.8, "seed": 8, "ignore_eos": True}},
                        ids_tail([11, 12, 13]))


def index_files(d):
    return [os.path.join(d.state, f) for f in os.listdir(d.state) if f.startswith("index.mdb")]


def rebuilt(damage, what):
    d = Daemon().start()
    d.load()
    fill(d)
    want = snapshot(d)
    ref = {n: answer(d, n) for n in ("s0", "s1", "renamed", "forked")}
    d.stop()
    damage(d)
    d.start()
    got = snapshot(d)
    for n in want:
        if n in ("s0", "s1", "renamed", "forked"):
            check(got.get(n) == want[n], lambda: "%s: session %s came back different: %r, want %r" % (
                what, n, got.get(n) and got[n][0::3], want[n][0::3]))
    d.load()
    for n, a in ref.items():
        b = answer(d, n)
        check(b.same(a), lambda: "%s: %s: %s" % (what, n, b.diff(a)))
        whole = (want[n][0] - 1) // 256 * 256
        check(b.last["usage"]["reused"] >= whole, lambda: "%s: %s reused %d tokens, its whole blocks hold %d" % (
            what, n, b.last["usage"]["reused"], whole))
    d.stop()


def a_deleted_index_is_rebuilt():
    def damage(d):
        files = index_files(d)
        check(files, "no index file in the state directory")
        for f in files:
            os.unlink(f)
    rebuilt(damage, "index deleted")


def an_index_of_garbage_is_rebuilt():
    def damage(d):
        for f in index_files(d):
            if not f.endswith("-lock"):
                n = os.path.getsize(f)
                with open(f, "r+b") as fh:
                    fh.write(rng.randbytes(min(n, 1 << 20)))
    rebuilt(damage, "index overwritten")


def a_flipped_block_is_recomputed_and_said():
    d = Daemon().start()
    d.load()
    fill(d)
    ref = answer(d, "s1")
    d.stop()
    segs = [os.path.join(r, f) for r, _, fs in os.walk(os.path.join(d.state, "kv")) for f in fs]
    check(segs, "no segments")
    for s in segs:
        size = os.path.getsize(s)
        with open(s, "r+b") as f:
            for off in range(1 << 20, size, 1 << 20):
                f.seek(off)
                b = f.read(1)
                if b:
                    f.seek(off)
                    f.write(bytes([b[0] ^ 0x40]))
    d.start()
    d.load()
    a = answer(d, "s1")
    check(a.same(ref), lambda: "wrong bytes became wrong tokens: " + a.diff(ref))
    st = d.status()
    check(st["blocks"]["corrupt"] >= 1, lambda: "STATUS.blocks.corrupt is %r" % st["blocks"]["corrupt"])
    check(any("did not pass the check" in w for w in st["warnings"]), lambda: repr(st["warnings"]))
    p = d.cli("doctor")
    check("did not pass the check" in p.stdout, lambda: p.stdout)
    d.stop()


main(a_deleted_index_is_rebuilt, an_index_of_garbage_is_rebuilt, a_flipped_block_is_recomputed_and_said)
