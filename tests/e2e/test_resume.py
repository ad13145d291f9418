#!/usr/bin/env python3
"""test_resume.py - a resumed session is the session that never stopped, bit for bit.

Each cut point has a text of its own from its first token on, or, if it is long, from its second
or third block on: nothing is shared between them by accident, and long ones share what sessions
share.  The reference is a daemon that never stops.
"""
import threading
from hearthlib import *

CUTS = [0, 1, 2, 3, 5, 16, 31, 64, 96, 127, 128, 160, 200, 230, 254, 255, 256, 257, 258, 270, 300, 333, 383,
        384, 385, 400, 444, 500, 510, 511, 512, 513, 514, 530, 600, 766, 767, 768, 769, 770, 1023, 1024, 1025]
TAIL = 20  # tokens that come after the cut
SAY = 12   # tokens generated then
PARAMS = {"max_tokens": SAY, "temperature": 0.8, "top_p": 0.95, "seed": 4711, "logprobs": 5, "ignore_eos": True}
assert len(CUTS) >= 40


def texts(link):
    doc = tokens_of(link, text(0) + text(1))
    out = []
    for i, c in enumerate(CUTS):
        off = (i * 53) % 2000
        ids = doc[off:off + c + TAIL]
        check_eq(len(ids), c + TAIL, "length of text %d" % i)
        own = 512 if c >= 766 else 256 if c >= 500 else 0
        ids[:own] = doc[-own:] if own else []
        ids[own] = 1000 + i
        out.append(ids)
    return out


def ingest(link, name, ids):
    if not ids:
        link.call(SESSION_OPEN, {"id": new_id(), "name": name, "model": "m", "create": True})
        return None
    a = generate(link, {"session": name, "create": True, "model": "m", "input": "tokens",
                        "params": {"max_tokens": 0}}, ids_tail(ids))
    check(a.last.get("durable") is True, lambda: "ingest of %s is not durable: %r" % (name, a.last))
    return a


def go_on(link, name, ids, **req):
    return generate(link, dict(req, session=name, input="tokens", params=PARAMS), ids_tail(ids))


def compare(link, all_ids, ref, what, **req):
    bad, reused = [], 0
    for i, c in enumerate(CUTS):
        a = go_on(link, "s%d" % i, all_ids[i][c:], fork=True, **req)
        if not a.same(ref[i]):
            bad.append("cut %d: %s" % (c, a.diff(ref[i])))
        reused += a.last["usage"]["reused"]
    check(not bad, lambda: "%s: %d of %d cuts differ: %s" % (what, len(bad), len(CUTS), "; ".join(bad[:4])))
    print("    %s: %d cuts equal, %d tokens reused" % (what, len(CUTS), reused), flush=True)
    return reused


def continuation_equals_one_that_never_stopped_at_every_cut():
    ref_d = Daemon("--threads", "2").start()
    ref_d.load()
    with ref_d.link() as l:
        all_ids = texts(l)
        ref = []
        for i, c in enumerate(CUTS):
            ingest(l, "s%d" % i, all_ids[i][:c])
            ref.append(go_on(l, "s%d" % i, all_ids[i][c:]))
            check_eq(len(ref[-1].tokens), SAY, "tokens generated")
    ref_d.stop()

    d = Daemon("--threads", "2").start()
    d.load()
    with d.link() as l:
        for i, c in enumerate(CUTS):
            ingest(l, "s%d" % i, all_ids[i][:c])
    d.restart()
    d.load()
    with d.link() as l:
        reused = compare(l, all_ids, ref, "after a clean restart")
    whole = sum(max(c - 1, 0) // 256 * 256 for c in CUTS)
    check(reused >= whole, lambda: "a clean restart must reuse every whole block: %d of %d tokens" % (reused, whole))
    with d.link() as l:
        l.call(MODEL_UNLOAD, {"id": new_id(), "model": "m"})
        d.load()
        compare(l, all_ids, ref, "model unloaded and loaded")
    d.restart("--threads", "1", clean=False)
    d.load()
    with d.link() as l:
        compare(l, all_ids, ref, "after kill -9, one thread")
    d.restart("--threads", "2")
    d.load()
    # Another session decodes in the same batches all the time.
    stop = threading.Event()
    failed = []

    def other():
        try:
            with d.link() as l2:
                while not stop.is_set():
                    generate(l2, {"input": "tokens", "keep": False, "model": "m",
                                  "params": {"max_tokens": 300, "ignore_eos": True, "temperature": 1.0}},
                             ids_tail([900, 901, 902]))
        except Exception as e:
            if not stop.is_set():
                failed.append(e)

    t = threading.Thread(target=other)
    t.start()
    try:
        with d.link() as l:
            compare(l, all_ids, ref, "with another session in the batch")
    finally:
        stop.set()
        t.join()
    check(not failed, lambda: "the other session failed: %r" % failed)
    d.stop()


def an_answer_cut_by_kill_goes_on_by_its_id():
    ref_d = Daemon().start()
    ref_d.load()
    say = 48
    req = {"session": "g", "create": True, "model": "m", "input": "tokens",
           "params": dict(PARAMS, max_tokens=say)}
    with ref_d.link() as l:
        doc = tokens_of(l, text(0, 6000))[:234]
        ref = generate(l, req, ids_tail(doc))
    ref_d.stop()
    check_eq(len(ref.tokens), say, "tokens of the reference")
    for cut in (0, 1, 7, 20, 21, 22, 23, 30, 47):
        d = Daemon().start()
        d.load()
        r = dict(req, id=new_id())
        l = d.link()
        s = l.call(START, r, ids_tail(doc))
        a = follow(l, s["stream"], stop_after=cut) if cut else Answer()
        d.kill9()
        l.close()
        d.start()
        with d.link() as l:
            s2 = l.call(START, r, ids_tail(doc))
            check_eq(s2["stream"], s["stream"], "stream id after the restart")
            # From where the client was, and once more from the start.  The lists of likely tokens
            # are said once, while the stream lives; they are not kept for a token that is durable.
            b = follow(l, s["stream"], a)
            b.top = ref.top
            check(b.same(ref), lambda: "kill after %d: %s" % (cut, b.diff(ref)))
            c = follow(l, s["stream"])
            c.top = ref.top
            check(c.same(ref), lambda: "kill after %d, read again: %s" % (cut, c.diff(ref)))
            check_eq(c.last["finish"], "length", "finish")
        d.stop()
    print("    9 kills in the middle of an answer, crossing a block edge")


def a_clean_stop_in_the_middle_of_an_answer_goes_on_too():
    d = Daemon().start()
    d.load()
    req = {"session": "g", "create": True, "model": "m", "input": "prompt", "prompt": "Count from one to fifty.",
           "params": {"max_tokens": 60, "temperature": 0.7, "seed": 5, "ignore_eos": True}}
    with d.link() as l:
        ref = generate(l, dict(req, session="ref"))
    r = dict(req, id=new_id())
    l = d.link()
    s = l.call(START, r)
    a = follow(l, s["stream"], stop_after=10)
    check_eq(d.stop(), 0, "exit status")
    l.close()
    d.start()
    with d.link() as l:
        l.call(START, r)
        b = follow(l, s["stream"], a)
        check(b.same(ref), lambda: b.diff(ref))
    d.stop()


def a_conversation_goes_on_after_each_turn():
    asks = ["Name three rivers.", "Which of them is the longest?", "Write one sentence about it.", "Thank you."]
    par = {"max_tokens": 24, "temperature": 0.8, "seed": 99}

    def run(stops):
        d = Daemon().start()
        d.load()
        out = []
        for q in asks:
            with d.link() as l:
                out.append(generate(l, {"session": "c", "create": True, "model": "m", "input": "prompt",
                                        "prompt": q, "params": par}))
            if stops:
                d.restart(clean=len(out) % 2 == 0)
                d.load()
        with d.link() as l:
            shown = l.call(SESSION_SHOW, {"session": "c", "ids": True})
        d.stop()
        return out, shown["_tail"]

    a, ids_a = run(False)
    b, ids_b = run(True)
    for n, (x, y) in enumerate(zip(a, b)):
        check(x.same(y), lambda: "turn %d: %s" % (n + 1, y.diff(x)))
    check(ids_a == ids_b, "the sessions' tokens differ")


main(continuation_equals_one_that_never_stopped_at_every_cut, an_answer_cut_by_kill_goes_on_by_its_id,
     a_clean_stop_in_the_middle_of_an_answer_goes_on_too, a_conversation_goes_on_after_each_turn)
