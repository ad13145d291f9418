#!/usr/bin/env python3
"""test_stop.py - told to stop at random instants of its work, hearthd ends in time and ends well.

STOPS times (8 unless set).  The exit status is 0 only if nothing was left behind or raced where
a build with sanitizers looks for it.  What was asked for goes on by its id after the next start.
"""
from hearthlib import *
import threading

STOPS = int(os.environ.get("STOPS") or 8)
LONG = (text(0) + text(1))[:200000]
# What a daemon that stops, or a session two clients meet in, may answer.
FINE = ("UNAVAILABLE", "CANCELLED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "NOT_FOUND", "ALREADY_EXISTS",
        "OUT_OF_RANGE")


def an_op(l, r, open_ids):
    k = r.randint(0, 9)
    name = "s%d" % r.randint(0, 5)
    if k == 0:
        l.call(COUNT, {"model": "m", "prompt": LONG, "raw": True})
    elif k == 1:
        l.call(TOKENIZE, {"model": "m"}, LONG.encode())
    elif k == 2:
        l.call(SESSION_FORK, {"id": new_id(), "session": name, "name": "f%d" % r.randint(0, 1 << 30)})
    elif k == 3:
        l.call(MODEL_UNLOAD, {"model": "m"})
    elif k == 4 and open_ids:
        l.call(CANCEL, {"stream": r.choice(open_ids)})
    elif k == 5 and open_ids:  # of before the restart, too
        l.call(NEXT, {"stream": r.choice(open_ids), "cursor": 0, "max_wait_ms": r.randint(0, 500)})
    else:
        sid = new_id()
        open_ids[:] = open_ids[-5:] + [sid]
        req = {"id": sid, "model": "m", "input": "prompt", "prompt": LONG[:r.choice([40, 400, 4000, 100000])],
               "params": {"max_tokens": r.choice([0, 3, 60]), "ignore_eos": True}}
        if r.random() < 0.5:
            req.update(session=name, create=True)
        l.send(START, req)
        if r.random() < 0.7:
            l.reply()
            l.send(NEXT, {"stream": sid, "cursor": 0, "max_wait_ms": 2000})
            if r.random() < 0.5:
                l.reply()
        raise Gone("leaves in the middle")


def keep_asking(d, seed, open_ids, end, bad):
    r = random.Random(seed)
    while not end.is_set():
        try:
            with d.link() as l:
                for _ in range(5):
                    an_op(l, r, open_ids)
        except Error as e:
            if STATUS_NAMES.get(e.status) not in FINE:
                bad.append(str(e))
        except Gone:
            time.sleep(0.002)
        except Exception as e:
            bad.append(repr(e))


def a_stop_at_any_instant_ends_well():
    d = Daemon("--threads", "2", "--host-memory", "256MiB")
    open_ids = [[], [], []]
    for k in range(STOPS):
        d.start()
        end, bad = threading.Event(), []
        threads = [threading.Thread(target=keep_asking, args=(d, SEED * 1000 + k * 10 + i, open_ids[i], end, bad)) for i in range(3)]
        for t in threads:
            t.start()
        time.sleep(rng.random() ** 2 * 3.0 * min(SLOWER, 3))
        code = d.stop()
        end.set()
        for t in threads:
            t.join()
        check_eq(code, 0, "exit status of stop %d" % k)
        check(not bad, lambda: "stop %d: %s" % (k, "; ".join(bad[:3])))
    print("    %d stops" % STOPS)


main(a_stop_at_any_instant_ends_well)
