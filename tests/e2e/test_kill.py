#!/usr/bin/env python3
"""test_kill.py - kill -9 of hearthd at random instants; nothing acknowledged is lost.

SOAK_KILLS kills (20 unless set) on each kind of I/O.  A client ingests, generates and forks with
its own ids; after every restart each acknowledged token and turn must be there, and what was under
way goes on by its id to the same answer.  In the end an uninterrupted daemon gives the same tokens.
Every second kill is aimed at what was hit least so far, at a random instant of it.
"""
from hearthlib import *
import threading

KILLS = int(os.environ.get("SOAK_KILLS") or 20)
READY_MAX_S = 2.0 * SLOWER
# What the client waits for: a request to be admitted, a model, the input, the answer, `done`, a
# fork; "start" is hearthd's own.  Admission, `done` and a fork are commits.
PHASES = ("admit", "load", "ingest", "generate", "done", "fork", "idle", "start")
AIMED = ("ingest", "generate", "done", "admit", "fork")


class World:
    """What the client was promised, by session, and what it waits for."""

    def __init__(self, r):
        self.r = r
        self.ids = {}      # name -> acknowledged token ids
        self.turns = {}    # name -> its turns, once shown after the last of them
        self.steps = {}    # name -> [(request, tail ids, answer)] in order
        self.pending = None  # (request, ids, answer so far)
        self.pending_fork = None  # (id, source, name)
        self.n = 0
        self.acked = 0
        self.resumed = {}  # name -> requests that a kill broke
        self.forks = 0
        self.phase, self.since = "idle", 0.0
        self.cond = threading.Condition()
        self.took = {p: [] for p in PHASES}

    def enter(self, phase):
        with self.cond:
            if phase != self.phase:
                now = time.monotonic()
                self.took[self.phase].append(now - self.since)
                self.phase, self.since = phase, now
                self.cond.notify_all()

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

    def saw(self, a, n):
        """The phase that follows a reply of NEXT."""
        s = a.last["state"]
        self.enter("done" if s == "committing" or (n and len(a.tokens) == n) else "generate" if s == "decode" else
                   "ingest" if s == "prefill" else "load")

    def run_pending(self, link):
        req, ids, a = self.pending
        n = req["params"]["max_tokens"]
        self.enter("admit")
        s = link.call(START, req, ids_tail(ids))
        self.enter("load")
        follow(link, s["stream"], a, each=lambda: self.saw(a, n))
        check(a.last.get("durable") is True, lambda: "done without durable: %r" % a.last)
        check_eq(len(a.tokens), n, "tokens of %s" % req["session"])
        name = req["session"]
        self.ids[name] += ids + a.tokens
        self.steps[name].append((req, ids, a))
        self.pending = None
        self.turns.pop(name, None)  # known again once shown
        self.acked += 1
        self.enter("idle")
        self.turns[name] = link.call(SESSION_SHOW, {"session": name})["turns"]
        check_eq(link.call(STATUS)["blocks"]["corrupt"], 0, "blocks found corrupt")

    def fork(self, link):
        have = [n for n in self.steps if self.ids[n]]
        if not self.pending_fork:
            if not have:
                return
            self.forks += 1
            self.pending_fork = (new_id(), self.r.choice(have), "f%d" % self.forks)
        fid, src, name = self.pending_fork
        self.enter("fork")
        link.call(SESSION_FORK, {"id": fid, "session": src, "name": name})
        self.enter("idle")
        self.ids[name] = list(self.ids[src])
        self.turns[name] = link.call(SESSION_SHOW, {"session": name})["turns"]
        self.pending_fork = None

    def verify(self, link):
        """Token for token, and turn for turn."""
        for name, want in self.ids.items():
            pend = self.pending if self.pending is not None and self.pending[0]["session"] == name else None
            if not want and pend:
                continue
            r = link.call(SESSION_SHOW, {"session": name, "ids": True})
            got = list(struct.unpack("<%di" % (len(r["_tail"]) // 4), r["_tail"]))
            check(got[:len(want)] == want, lambda: "%s lost acknowledged tokens: %d of %d are there" % (
                name, next((i for i, (x, y) in enumerate(zip(got, want)) if x != y), len(got)), len(want)))
            more = got[len(want):]
            check(pend or not more, lambda: "%s has %d tokens, %d were acknowledged" % (name, len(got), len(want)))
            if pend:
                begun = pend[1] + pend[2].tokens
                n = min(len(begun), len(more))
                check(more[:n] == begun[:n], lambda: "%s goes on with other tokens than the open request has" % name)
            turns = self.turns.get(name, [])
            # The open request may have lengthened the last of them.
            n = max(len(turns) - 1, 0) if pend else len(turns)
            check(r["turns"][:n] == turns[:n] and len(r["turns"]) >= len(turns),
                  lambda: "%s: turns %r, acknowledged were %r" % (name, r["turns"], turns))
            check(pend or len(r["turns"]) == len(turns) or name not in self.turns, lambda: "%s has %d turns, not %d" % (
                name, len(r["turns"]), len(turns)))

    def ask_again(self, link):
        """An id that was answered before the kill answers the same, and adds nothing."""
        done = [x for s in self.steps.values() for x in s[-2:]]
        if done:
            req, ids, a = self.r.choice(done)
            b = generate(link, req, ids_tail(ids))
            check(b.tokens == a.tokens, lambda: "an answered id gave another answer: " + a.diff(b))


def live(d, w, stop, err):
    """The client, until the link breaks."""
    try:
        with d.link() as l:
            w.phase, w.since = "idle", time.monotonic()  # what the kill cut short took no time
            w.verify(l)
            if w.pending_fork:
                w.fork(l)
            if w.pending:
                w.resumed[w.pending[0]["session"]] = w.resumed.get(w.pending[0]["session"], 0) + 1
                w.run_pending(l)
            if w.r.random() < 0.3:
                w.ask_again(l)
            while not stop.is_set():
                if w.r.random() < 0.15:
                    w.fork(l)
                w.next_op()
                w.run_pending(l)
    except Gone:
        pass
    except Exception as e:
        err.append(e)


def wait_to_kill(w, aim, t):
    """Until a random instant: of the next three seconds, or of the phase aimed at."""
    if not aim:
        return time.sleep(rng.random() ** 2 * 3.0)
    with w.cond:
        w.cond.wait_for(lambda: w.phase == aim or not t.is_alive(), 15)
        took = sorted(w.took[aim])
    if took:
        # Not time.sleep, which is late by more than a commit takes.
        end = time.monotonic() + rng.random() * min(took[len(took) // 2], 4.0)
        while time.monotonic() < end:
            time.sleep(0 if end - time.monotonic() < 0.002 else 0.001)


def kills_on(io):
    r = random.Random(SEED)
    d = Daemon("--io", io, "--threads", "2", "--host-memory", "256MiB")
    d.start()
    d.load()
    w = World(r)
    ready, when = [], {p: 0 for p in PHASES}
    for k in range(KILLS):
        stop = threading.Event()
        err = []
        t = threading.Thread(target=live, args=(d, w, stop, err))
        t.start()
        wait_to_kill(w, min(AIMED, key=lambda p: when[p]) if k % 2 else None, t)
        check(err or d.alive(), lambda: "hearthd ended by itself before kill %d:\n%s" % (k, d.log_tail()))
        d.kill9()
        stop.set()
        t.join()
        if err:
            print("    kill %d" % k, flush=True)
            raise err[0]
        when[w.phase] += 1  # as far as the client was told
        # Some kills hit the next start-up itself.
        while rng.random() < 0.15 or (k == KILLS - 1 and when["start"] < max(1, KILLS // 20)):
            d.spawn()
            time.sleep(rng.random() * (sorted(ready)[len(ready) // 2] if ready else 0.15))
            d.kill9()
            when["start"] += 1
        t0 = time.monotonic()
        d.spawn()
        d.wait_ready()
        ready.append(time.monotonic() - t0)
    with d.link() as l:
        w.verify(l)
        if w.pending_fork:
            w.fork(l)
        if w.pending:
            w.run_pending(l)
        w.verify(l)
        check_eq(l.call(STATUS)["io"], io, "STATUS.io")
    check_eq(d.stop(), 0, "clean stop")
    slow = max(ready)
    print("soak: %s: %d kills %r, %d turns acknowledged, %d requests gone on with, %d sessions, "
          "ready after median %.2f s, worst %.2f s" % (io, sum(when.values()), when, w.acked, sum(w.resumed.values()),
                                                       len(w.ids), sorted(ready)[len(ready) // 2], slow), flush=True)
    # The same turns without any kill, first those that were broken most often.
    ref = Daemon("--io", io).start()
    names = sorted((n for n in w.steps if w.steps[n]), key=lambda n: -w.resumed.get(n, 0))[:2 if KILLS <= 50 else None]
    same = 0
    with ref.link() as l:
        for name in names:
            for req, ids, a in w.steps[name]:
                b = generate(l, dict(req, id=new_id()), ids_tail(ids))
                check(a.same(b), lambda: "%s: %s" % (name, a.diff(b)))
                same += 1
    ref.stop()
    print("soak: %s: %d of them the same, token for token, without a kill" % (io, same), flush=True)
    for p in ("ingest", "generate", "start"):
        check(when[p] >= KILLS // 20, lambda: "only %d kills hit %s: %r" % (when[p], p, when))
    commits = when["admit"] + when["done"] + when["fork"]
    check(commits >= KILLS // 20, lambda: "only %d kills hit a commit: %r" % (commits, when))
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


def damaged_when_killed_as_blocks_are_indexed(tries, *flags, until_first=False):
    """kill -9 just after the index was written while blocks finish: (damaged blocks met, tries made)."""
    d = Daemon(*flags).start()
    index = os.path.join(d.state, "index.mdb")
    bad = 0
    for k in range(tries):
        d.load()
        with d.link() as l:
            ids = [rng.randint(300, 40000) for _ in range(700)]
            l.call(START, {"id": new_id(), "session": "k%d" % k, "create": True, "model": "m", "input": "tokens",
                           "params": {"max_tokens": 0}}, ids_tail(ids))
            # The turn's own commit may come before that of its blocks, or after it.
            for nth in range(1 + k % 2):
                was, until = os.stat(index).st_mtime_ns, time.monotonic() + (20 if nth == 0 else 1)
                while os.stat(index).st_mtime_ns == was and time.monotonic() < until:
                    pass
            time.sleep(rng.random() * 0.02)
            d.kill9()
        d.start()
        d.load()
        with d.link() as l:
            generate(l, {"session": "k%d" % k, "fork": True, "input": "tokens", "params": {"max_tokens": 1}}, ids_tail([5]))
            bad += l.call(STATUS)["blocks"]["corrupt"]
        if bad and until_first:
            break
    d.kill9()
    return bad, k + 1


def a_turn_killed_at_its_acknowledgement_is_there():
    check_eq(lost_when_killed_at_the_acknowledgement(12), (0, 12), "turns lost, tries")


def acknowledging_before_the_commit_is_caught_by_the_same_test():
    lost, tries = lost_when_killed_at_the_acknowledgement(60, "--wrong-order", "ack-first", until_first=True)
    print("soak: acknowledged before the commit: caught by kill %d" % tries)
    check(lost > 0, "acknowledging before the commit was not caught: the test above proves nothing")


def a_block_killed_as_it_is_indexed_is_whole():
    n = 3 if KILLS <= 50 else 20
    for io in ("uring", "threads"):
        check_eq(damaged_when_killed_as_blocks_are_indexed(n, "--io", io), (0, n), "damaged blocks on %s, tries" % io)


def index_before_payload_is_caught_by_the_same_test():
    for io in ("uring", "threads"):
        bad, tries = damaged_when_killed_as_blocks_are_indexed(30, "--io", io, "--wrong-order", "index-first", until_first=True)
        print("soak: %s: index before payload: caught by kill %d" % (io, tries))
        check(bad > 0, "indexing before the payload was not caught: the test above proves nothing")


def nothing_acknowledged_is_lost_on_io_uring():
    kills_on("uring")


def nothing_acknowledged_is_lost_on_threads():
    kills_on("threads")


main(a_turn_killed_at_its_acknowledgement_is_there, acknowledging_before_the_commit_is_caught_by_the_same_test,
     a_block_killed_as_it_is_indexed_is_whole, index_before_payload_is_caught_by_the_same_test,
     nothing_acknowledged_is_lost_on_io_uring, nothing_acknowledged_is_lost_on_threads)
