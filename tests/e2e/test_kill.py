#!/usr/bin/env python3
"""test_kill.py - kill -9 of hearthd at random instants; nothing acknowledged is lost.

SOAK_KILLS kills (20 unless set) on each kind of I/O.  A client ingests, generates and forks with
its own ids; after every restart each acknowledged token must be there, and what was under way
goes on by its id to the same answer.  In the end an uninterrupted daemon gives the same tokens.
"""
from hearthlib import *
import threading

KILLS = int(os.environ.get("SOAK_KILLS") or 20)
READY_MAX_S = 2.0


class World:
    """What the client was promised, by session."""

    def __init__(self, r):
        self.r = r
        self.ids = {}      # name -> acknowledged token ids
        self.steps = {}    # name -> [(request, tail ids, answer)] in order
        self.pending = None  # (request, ids, answer so far)
        self.n = 0
        self.acked = 0
        self.forks = []    # (name, from, tokens)

    def next_op(self):
        r = self.r
        live = [n for n, x in self.ids.items() if len(x) < 2500 and n in self.steps]
        if not live or (len(live) < 4 and r.random() < 0.3):
            self.n += 1
            name = "w%d" % self.n
            self.ids[name], self.steps[name] = [], []
        else:
            name = r.choice(live)
        gen = r.random() < 0.6
        n = r.randint(1, 24) if gen else r.randint(40, 500)
        ids = [r.randint(300, 40000) for _ in range(n)]
        par = {"max_tokens": r.randint(4, 60) if gen else 0, "temperature": 0.8, "seed": r.randint(1, 1 << 31),
               "ignore_eos": True}
        req = {"id": new_id(), "session": name, "create": True, "model": "m", "input": "tokens", "params": par}
        self.pending = (req, ids, Answer())

    def run_pending(self, link):
        req, ids, a = self.pending
        s = link.call(START, req, ids_tail(ids))
        follow(link, s["stream"], a)
        check(a.last.get("durable") is True, lambda: "done without durable: %r" % a.last)
        check_eq(len(a.tokens), req["params"]["max_tokens"], "tokens of %s" % req["session"])
        name = req["session"]
        self.ids[name] += ids + a.tokens
        self.steps[name].append((req, ids, a))
        self.pending = None
        self.acked += 1

    def fork(self, link):
        have = [n for n in self.steps if self.ids[n]]
        if not have:
            return
        src = self.r.choice(have)
        name = "f%d" % len(self.forks)
        link.call(SESSION_FORK, {"id": new_id(), "session": src, "name": name})
        self.forks.append(name)
        self.ids[name] = list(self.ids[src])

    def verify(self, link):
        for name, want in self.ids.items():
            pend = self.pending is not None and self.pending[0]["session"] == name
            if not want and pend:
                continue
            r = link.call(SESSION_SHOW, {"session": name, "ids": True})
            got = list(struct.unpack("<%di" % (len(r["_tail"]) // 4), r["_tail"]))
            check(got[:len(want)] == want, lambda: "%s lost acknowledged tokens: %d of %d are there" % (
                name, next((i for i, (x, y) in enumerate(zip(got, want)) if x != y), len(got)), len(want)))
            check(pend or len(got) == len(want), lambda: "%s has %d tokens, %d were acknowledged" % (name, len(got), len(want)))


def kills_on(io):
    r = random.Random(SEED)
    d = Daemon("--io", io, "--threads", "2", "--host-memory", "256MiB")
    d.start()
    d.load()
    w = World(r)
    ready, at_start, when = [], 0, {"ingest": 0, "generate": 0, "idle": 0, "start": 0}
    for k in range(KILLS):
        stop = threading.Event()
        err = []

        def client():
            try:
                with d.link() as l:
                    w.verify(l)
                    if w.pending:
                        w.run_pending(l)
                    while not stop.is_set():
                        if r.random() < 0.08:
                            w.fork(l)
                        w.next_op()
                        w.run_pending(l)
            except Gone:
                pass
            except Exception as e:
                err.append(e)

        t = threading.Thread(target=client)
        t.start()
        time.sleep(rng.random() ** 2 * 4.0)
        p = w.pending
        when["idle" if not p else "generate" if p[0]["params"]["max_tokens"] else "ingest"] += 1
        d.kill9()
        stop.set()
        t.join()
        check(not err, lambda: "kill %d: %r" % (k, err[0]))
        # Some kills hit the next start-up itself.
        while rng.random() < 0.15:
            d.spawn()
            time.sleep(rng.random() * 0.15)
            d.kill9()
            at_start += 1
        d.spawn()
        ready.append(d.wait_ready())
    when["start"] = at_start
    with d.link() as l:
        w.verify(l)
        if w.pending:
            w.run_pending(l)
        w.verify(l)
        st = l.call(STATUS)
        check_eq(st["io"], io, "STATUS.io")
        check_eq(st["blocks"]["corrupt"], 0, "blocks found corrupt")
    check_eq(d.stop(), 0, "clean stop")
    slow = max(ready)
    print("soak: %s: %d kills %r, %d turns acknowledged, %d sessions, ready after median %.2f s, worst %.2f s" % (
        io, KILLS + at_start, when, w.acked, len(w.ids), sorted(ready)[len(ready) // 2], slow), flush=True)
    # The same turns without any kill.
    ref = Daemon("--io", io).start()
    names = sorted(w.steps, key=lambda n: -len(w.ids[n]))[:3 if KILLS <= 50 else 12]
    with ref.link() as l:
        for name in names:
            for req, ids, a in w.steps[name]:
                b = generate(l, dict(req, id=new_id()), ids_tail(ids))
                check(a.same(b), lambda: "%s: %s" % (name, a.diff(b)))
    ref.stop()
    check(slow < READY_MAX_S, lambda: "restart to ready took %.2f s, want < %.1f s" % (slow, READY_MAX_S))


def lost_when_killed_at_the_acknowledgement(tries, *flags, until_first=False):
    """kill -9 in the same breath as `done` arrives: (turns that were gone, tries made)."""
    d = Daemon(*flags).start()
    lost = 0
    for k in range(tries):
        with d.link() as l:
            ids = [rng.randint(300, 40000) for _ in range(20)]
            s = l.call(START, {"id": new_id(), "session": "k%d" % k, "create": True, "model": "m", "input": "tokens",
                               "params": {"max_tokens": 3, "seed": 1, "ignore_eos": True}}, ids_tail(ids))
            a = follow(l, s["stream"])
            d.kill9()
        d.start()
        with d.link() as l:
            try:
                r = l.call(SESSION_SHOW, {"session": "k%d" % k, "ids": True})
                lost += r["_tail"] != ids_tail(ids + a.tokens)
            except Error:
                lost += 1
        if lost and until_first:
            break
    d.kill9()
    return lost, k + 1


def a_turn_killed_at_its_acknowledgement_is_there():
    check_eq(lost_when_killed_at_the_acknowledgement(12), (0, 12), "turns lost, tries")


def the_wrong_order_is_caught_by_the_same_test():
    lost, tries = lost_when_killed_at_the_acknowledgement(60, "--wrong-order", "ack-first", until_first=True)
    print("    acknowledged before the commit: caught by kill %d" % tries)
    check(lost > 0, "acknowledging before the commit was not caught: the test above proves nothing")


def nothing_acknowledged_is_lost_on_io_uring():
    kills_on("uring")


def nothing_acknowledged_is_lost_on_threads():
    kills_on("threads")


main(a_turn_killed_at_its_acknowledgement_is_there, the_wrong_order_is_caught_by_the_same_test,
     nothing_acknowledged_is_lost_on_io_uring, nothing_acknowledged_is_lost_on_threads)
