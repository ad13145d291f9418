#!/usr/bin/env python3
"""test_recover.py - both copies of the turns hurt, starts killed while they put them together.

SOAK_KILLS starts are killed on each kind of I/O (16 unless set), at random instants between the
first system call and the answer to HELLO, with an index that is gone, cut, overwritten or flipped;
nothing acknowledged may be missing, and no session may be marked.  What both copies lost is said:
in the log, in STATUS, in the session, in its next answer.
"""
from hearthlib import *

KILLS = int(os.environ.get("SOAK_KILLS") or 16)
NAMES = ("s0", "s1", "s2", "s3")


_filled = []


def filled(*flags):
    """A daemon that is not running, on a copy of one and the same store, and what that holds."""
    if not _filled:
        d = Daemon().start()
        d.load()
        with d.link() as l:
            for turn in range(3):
                for i, n in enumerate(NAMES):
                    generate(l, {"session": n, "create": True, "model": "m", "input": "tokens",
                                 "params": {"max_tokens": 8, "temperature": 0.8, "seed": i + 1, "ignore_eos": True}},
                             ids_tail([rng.randint(300, 40000) for _ in range(250)]))
                    # A record that fits any state: applied again, it would put the session back.
                    l.call(SESSION_PIN, {"id": new_id(), "session": n, "pinned": turn < 2})
        d.restart()  # what is shown is what is on disk
        _filled.append((d.state, snapshot(d)))
        d.stop()
    d = Daemon(*flags)
    shutil.copytree(_filled[0][0], d.state)
    return d, _filled[0][1]


def snapshot(d):
    out = {}
    with d.link() as l:
        for n in NAMES:
            r = l.call(SESSION_SHOW, {"session": n, "ids": True})
            check("lost" not in r, lambda: "%s is marked: %r" % (n, r["lost"]))
            out[n] = (r["_tail"], [(t["n"], t["role"], t["position"], t["tokens"]) for t in r["turns"]])
    return out


def path(d, *names):
    return os.path.join(d.state, *names)


def harm_index(d, how, r):
    p = path(d, "index.mdb")
    n = os.path.getsize(p)
    if how == "gone":
        os.unlink(p)
    elif how == "cut":
        os.truncate(p, r.randrange(3 * 4096, n))
    else:
        with open(p, "r+b") as f:
            if how == "overwritten":
                f.seek(2 * 4096)
                f.write(r.randbytes(n - 2 * 4096))
            for _ in range(40 if how == "flipped" else 0):
                at = r.randrange(2 * 4096, n)
                f.seek(at)
                b = f.read(1)[0]
                f.seek(at)
                f.write(bytes([b ^ 1 << r.randrange(8)]))


def kills_on(io):
    r = random.Random(SEED)
    d, want = filled("--io", io, "--threads", "1")
    model, d.extra = d.extra, []  # a start that loads no model is all recovery
    open_s, killed, rounds = 0.3, 0, 0
    while killed < KILLS:
        how = ("gone", "cut", "overwritten", "flipped")[rounds % 4]
        harm_index(d, how, r)
        rounds += 1
        for _ in range(4):
            d.spawn()
            time.sleep(r.random() * open_s)
            check(d.alive(), lambda: "a start ended by itself (%s):\n%s" % (how, d.log_tail()))
            d.kill9()
            killed += 1
        d.spawn()
        open_s = 0.5 * (open_s + d.wait_ready())
        got = snapshot(d)
        check(got == want, lambda: "after %d kills (index %s): sessions came back different: %r" % (
            killed, how, [n for n in want if got[n] != want[n]]))
        check(not [f for f in os.listdir(d.state) if ".new" in f], "a half-made index was left behind")
        d.stop()
    d.extra = model
    d.start()
    d.load()
    with d.link() as l:
        a = generate(l, {"session": "s1", "fork": True, "input": "tokens",
                         "params": {"max_tokens": 2, "temperature": 0, "ignore_eos": True}}, ids_tail([11]))
    whole = len(want["s1"][0]) // 4 // 256 * 256
    check(a.last["usage"]["reused"] >= whole, lambda: "%d tokens reused, whole blocks hold %d" % (
        a.last["usage"]["reused"], whole))
    d.stop()
    print("soak: %d starts killed on %s, %d damaged indexes, nothing lost" % (killed, io, rounds))


def a_start_killed_at_any_instant_loses_nothing_uring():
    kills_on("uring")


def a_start_killed_at_any_instant_loses_nothing_threads():
    kills_on("threads")


def what_both_copies_lost_is_said_everywhere():
    d, want = filled()
    ids = want["s2"][0]
    at = 700
    piece = ids[4 * at:4 * at + 32]
    check(flip_each(path(d, "index.mdb"), piece), "the tokens are not in the index")
    for f in os.listdir(path(d, "log")):
        flip_each(path(d, "log", f), piece)
    d.start()
    d.load()
    with d.link() as l:
        r = l.call(SESSION_SHOW, {"session": "s2", "ids": True})
        check(0 < r["tokens"] <= at and r["_tail"] == ids[:4 * r["tokens"]],
              lambda: "s2 has %r tokens, damage was at %d" % (r["tokens"], at))
        check_eq(r["lost"], {"from": r["tokens"], "to": len(ids) // 4}, "what s2 says it lost")
        for n in ("s0", "s1", "s3"):
            o = l.call(SESSION_SHOW, {"session": n, "ids": True})
            check(o["_tail"] == want[n][0] and "lost" not in o, lambda: "%s was not hurt: %r" % (n, o.get("lost")))
        st = l.call(STATUS)
        words = "\n".join(st["warnings"])
        check("damage on disk took turns of 1 session" in words and ".bad-" in words,
              lambda: "STATUS.warnings: %s" % words)
        check('"s2"' in words, lambda: "who runs the daemon is not told which: %s" % words)
        a = generate(l, {"session": "s2", "input": "tokens", "params": {"max_tokens": 3, "ignore_eos": True}},
                     ids_tail([11, 12]))
        said = "\n".join((a.start.get("warnings") or []) + (a.last.get("warnings") or []))
        check("\"s2\"" in said and "lost to damage" in said, lambda: "the answer's warnings: %s" % said)
        b = generate(l, {"session": "s2", "input": "tokens", "params": {"max_tokens": 3, "ignore_eos": True}},
                     ids_tail([13]))
        check(not b.last.get("warnings"), lambda: "said again: %r" % b.last["warnings"])
        check("lost" not in l.call(SESSION_SHOW, {"session": "s2"}), "still marked after it was said")
    with open(d.log) as f:
        check("session \"s2\"" in f.read(), "the log does not name the session")
    d.stop()


def a_session_of_which_nothing_is_left_is_refused():
    d, want = filled()
    piece = want["s3"][0][:32]
    check(flip_each(path(d, "index.mdb"), piece), "the tokens are not in the index")
    for f in os.listdir(path(d, "log")):
        flip_each(path(d, "log", f), piece)
    d.start()
    d.load()
    with d.link() as l:
        r = l.call(SESSION_SHOW, {"session": "s3"})
        check_eq((r["tokens"], r["lost"]["from"], r["lost"]["to"]), (0, 0, len(want["s3"][0]) // 4), "s3")
        req = {"session": "s3", "input": "tokens", "params": {"max_tokens": 3, "ignore_eos": True}}
        try:
            generate(l, req, ids_tail([11, 12]))
            raise Failed("s3 went on without a word")
        except Error as e:
            check(e.slug == "data_loss" and "rewind" in e.message, lambda: str(e))
        # The advice works.
        l.call(SESSION_REWIND, {"id": new_id(), "session": "s3", "to_tokens": 0})
        check(not generate(l, req, ids_tail([11, 12])).last.get("warnings"), "it still warns")
    d.stop()


def what_cannot_be_read_stops_the_start_and_stays():
    d, want = filled()
    seg = path(d, "log", sorted(f for f in os.listdir(path(d, "log")))[0])
    for p in (seg, path(d, "index.mdb")):
        os.rename(p, p + ".away")
        os.mkdir(p)
        before = sorted(os.listdir(d.state)) + sorted(os.listdir(path(d, "log")))
        n = os.path.getsize(d.log) if os.path.exists(d.log) else 0
        d.spawn()
        check(d.proc.wait(30 * SLOWER) != 0, "it started")
        with open(d.log) as f:
            said = f.read()[n:]
        check(p in said and "directory" in said and "move it away" in said, lambda: "it says: %s" % said)
        after = sorted(os.listdir(d.state)) + sorted(os.listdir(path(d, "log")))
        check_eq(after, before, "files")
        os.rmdir(p)
        os.rename(p + ".away", p)
    d.start()
    check(snapshot(d) == want, "sessions came back different")
    d.stop()


main(a_start_killed_at_any_instant_loses_nothing_uring, a_start_killed_at_any_instant_loses_nothing_threads,
     what_both_copies_lost_is_said_everywhere, a_session_of_which_nothing_is_left_is_refused,
     what_cannot_be_read_stops_the_start_and_stays)
