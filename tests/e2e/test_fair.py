#!/usr/bin/env python3
"""test_fair.py - while one session prefills 4K tokens another decodes on, and says the same.

The bar of 120 ms a token (p95) is for two idle cores; on a busy machine the best of three counts.
"""
from hearthlib import *
import threading

P95_MS = float(os.environ.get("FAIR_P95_MS") or 120)


def decode_goes_on_during_a_long_prefill_with_the_same_bits():
    d = Daemon("--threads", "2").start()
    d.load()
    say = 400
    req = {"input": "prompt", "prompt": "Tell a long story about a lighthouse.", "keep": False, "model": "m",
           "params": {"max_tokens": say, "temperature": 0.8, "seed": 3, "ignore_eos": True, "logprobs": 2}}
    with d.link() as l:
        alone = generate(l, req)
        doc = tokens_of(l, text(0) + text(1) + text(2))[:6000]
        best = None
        for attempt in range(3):
            mark = {}

            def prefill():
                ids = [500 + attempt] + doc[attempt * 300:attempt * 300 + 4095]
                with d.link() as l2:
                    mark["t0"] = time.monotonic()
                    generate(l2, {"session": "big%d" % attempt, "create": True, "model": "m", "input": "tokens",
                                  "params": {"max_tokens": 0}}, ids_tail(ids))
                    mark["t1"] = time.monotonic()

            a = Answer()
            s = l.call(START, dict(req, id=new_id()))
            follow(l, s["stream"], a, stop_after=20)
            t = threading.Thread(target=prefill)
            t.start()
            follow(l, s["stream"], a)
            t.join()
            check(a.same(alone), lambda: "beside a prefill the answer " + a.diff(alone))
            gaps = [(y - x) * 1000 for x, y in zip(a.times, a.times[1:]) if x >= mark["t0"] and y <= mark["t1"]]
            check(len(gaps) >= 20, lambda: "only %d tokens came during the prefill of %.1f s" % (len(gaps), mark["t1"] - mark["t0"]))
            p95 = sorted(gaps)[int(len(gaps) * 0.95)]
            print("    attempt %d: %d tokens during %.1f s of prefill, p50 %.0f ms, p95 %.0f ms, worst %.0f ms" % (
                attempt, len(gaps), mark["t1"] - mark["t0"], sorted(gaps)[len(gaps) // 2], p95, max(gaps)), flush=True)
            best = min(best, p95) if best is not None else p95
            if best <= P95_MS:
                break
        check(best <= P95_MS, lambda: "p95 %.0f ms a token during a prefill, want <= %.0f" % (best, P95_MS))
    d.stop()


def two_prefills_share_and_both_finish():
    d = Daemon("--threads", "2").start()
    d.load()
    with d.link() as l:
        doc = tokens_of(l, text(1) + text(2))[:3000]
    done = {}

    def one(n):
        with d.link() as l2:
            generate(l2, {"session": "p%d" % n, "create": True, "model": "m", "input": "tokens",
                          "params": {"max_tokens": 0}}, ids_tail([700 + n] + doc[:2047]))
            done[n] = time.monotonic()

    ts = [threading.Thread(target=one, args=(i,)) for i in range(2)]
    t0 = time.monotonic()
    for t in ts:
        t.start()
    for t in ts:
        t.join()
    check_eq(len(done), 2, "prefills done")
    took = sorted(x - t0 for x in done.values())
    print("    finished after %.1f s and %.1f s" % tuple(took))
    d.stop()


main(decode_goes_on_during_a_long_prefill_with_the_same_bits, two_prefills_share_and_both_finish)
