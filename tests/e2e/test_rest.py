#!/usr/bin/env python3
"""test_rest.py - a clean stop keeps the rows of unfinished blocks; after a crash they are computed again. Same bits."""
from hearthlib import *

BLOCK = 256


def say(d, name, n_in, n_out, seed):
    """One turn of made-up tokens; the answer and where the session rests then."""
    r = random.Random(seed)
    ids = [r.randint(300, 40000) for _ in range(n_in)]
    with d.link() as l:
        a = generate(l, {"session": name, "create": True, "model": "m", "input": "tokens",
                         "params": {"max_tokens": n_out, "temperature": 0.7, "seed": seed, "ignore_eos": True}}, ids_tail(ids))
        return a, l.call(SESSION_SHOW, {"session": name})["tokens"]


def reused(a):
    return a.last["usage"]["reused"]


def the_unfinished_block_is_there_after_a_clean_stop(io, turns):
    one, two = Daemon("--http", "off", "--io", io).start(), Daemon("--http", "off").start()
    one.load()
    two.load()
    rests = {}
    for name, n in (("a", 400), ("b", 250), ("short", 3)):
        x, rests[name] = say(one, name, n, 16, n)
        y, _ = say(two, name, n, 16, n)
        check(x.same(y), lambda: "%s before the stop: %s" % (name, x.diff(y)))
    for turn in range(turns):
        one.restart(clean=True)
        one.load()
        for name in rests:
            x, rest = say(one, name, 12 + turn, 16, 1000 + turn)
            y, _ = say(two, name, 12 + turn, 16, 1000 + turn)
            check(x.same(y), lambda: "%s after stop %d: %s" % (name, turn, x.diff(y)))
            check_eq(reused(x), rests[name] - 1, "tokens that %s found after clean stop %d" % (name, turn))
            rests[name] = rest
        # Taken up once: a kill finds whole blocks only, and loses nothing.
        one.restart(clean=False)
        one.load()
        for name in rests:
            x, rest = say(one, name, 9, 8, 2000 + turn)
            y, _ = say(two, name, 9, 8, 2000 + turn)
            check(x.same(y), lambda: "%s after kill %d: %s" % (name, turn, x.diff(y)))
            check(reused(x) <= (rests[name] - 1) // BLOCK * BLOCK, lambda: "%s found %d of %d after a kill" % (name, reused(x), rests[name]))
            rests[name] = rest
    one.stop()
    two.stop()


def the_unfinished_block_is_there_on_uring():
    the_unfinished_block_is_there_after_a_clean_stop("auto", 2)


def the_unfinished_block_is_there_on_threads():
    the_unfinished_block_is_there_after_a_clean_stop("threads", 1)


def stops_without_use_between_keep_it_and_a_fork_goes_on_from_it():
    d = Daemon("--http", "off").start()
    d.load()
    a, rest = say(d, "s", 350, 20, 5)
    for _ in range(3):
        d.restart(clean=True)
        d.load()
    with d.link() as l:
        l.call(SESSION_FORK, {"id": new_id(), "session": "s", "name": "f"})
    x, _ = say(d, "f", 10, 20, 6)
    y, _ = say(d, "s", 10, 20, 6)
    check_eq(reused(x), rest - 1, "what the fork found")
    check(x.same(y), lambda: "fork and session: " + x.diff(y))
    # The model goes and comes back: the same.
    _, rest = say(d, "s", 5, 5, 7)
    with d.link() as l:
        l.call(MODEL_UNLOAD, {"id": new_id(), "model": "m"})
    d.load()
    z, _ = say(d, "s", 5, 5, 8)
    check_eq(reused(z), rest - 1, "what was found after an unload")
    d.stop()


def what_others_went_on_from_is_still_the_sessions_after_a_stop():
    d = Daemon("--http", "off").start()
    d.load()
    fork = lambda l, n, k, **kw: generate(l, dict({"session": n, "fork": True, "input": "tokens", "params": {"max_tokens": k, "ignore_eos": True}}, **kw),
                                          ids_tail([9, 8, 7]))
    rests = {}
    for name in ("within", "past", "later", "alone"):
        _, rests[name] = say(d, name, 350, 20, len(rests))
    with d.link() as l:
        fork(l, "within", 30)
        fork(l, "past", 170)  # its block is whole now, and the fork's
    for _ in range(2):
        d.restart(clean=True)
        d.load()
        with d.link() as l:  # takes up what was stored of the session
            check_eq(fork(l, "later", 30).last["usage"]["reused"], rests["later"] - 1, "what the fork found")
    d.restart(clean=True)
    d.load()
    for name in rests:
        check_eq(reused(say(d, name, 5, 5, 1)[0]), rests[name] - 1, "what %s found" % name)
    d.stop()


def an_answer_that_a_stop_cut_keeps_the_rows_of_its_block():
    d = Daemon("--http", "off").start()
    d.load()
    start = lambda l, n, i, seed: l.call(START, {"id": i, "session": n, "create": True, "model": "m", "input": "tokens",
                                                 "params": {"max_tokens": 600, "temperature": 0.7, "seed": seed, "ignore_eos": True}}, ids_tail(range(300, 340)))
    ids = {n: new_id() for n in "ab"}
    with d.link() as l:
        for n in ids:
            start(l, n, ids[n], 3 if n == "a" else 4)
            follow(l, ids[n], stop_after=40)
    d.restart(clean=True)
    d.load()
    with d.link() as l:
        at = {n: l.call(SESSION_SHOW, {"session": n})["tokens"] for n in ids}
        check(all(70 < at[n] < 640 for n in ids), lambda: "the stop came too late: %r" % at)
        a = Answer()
        start(l, "a", ids["a"], 3)  # goes on
        follow(l, ids["a"], a)
        check_eq((a.last["usage"]["generated"], reused(a)), (600, 39), "made in all, and found of what was asked")
    x, _ = say(d, "b", 5, 5, 1)
    check_eq(reused(x), at["b"] - 1, "found by who went on instead")
    with d.link() as l:
        whole = generate(l, {"session": "c", "create": True, "model": "m", "input": "tokens",
                             "params": {"max_tokens": 600, "temperature": 0.7, "seed": 3, "ignore_eos": True}}, ids_tail(range(300, 340)))
    check(a.same(whole), lambda: "cut and uncut: " + a.diff(whole))
    d.stop()


def what_was_taken_up_gives_its_space_back():
    d = Daemon("--http", "off").start()
    d.load()
    say(d, "s", 350, 20, 5)
    blocks = []
    for i in range(4):
        d.restart(clean=True)
        d.load()
        say(d, "s", 2, 2, 6 + i)
        t0 = time.monotonic()
        while d.status()["blocks"]["dirty"] and time.monotonic() - t0 < 20 * SLOWER:
            time.sleep(0.05)
        blocks.append(d.status()["blocks"]["file"])
    check_eq(set(blocks), {1}, "blocks in the file after each resume: %r" % blocks)
    d.stop()


main(the_unfinished_block_is_there_on_uring, the_unfinished_block_is_there_on_threads,
     stops_without_use_between_keep_it_and_a_fork_goes_on_from_it, what_was_taken_up_gives_its_space_back,
     what_others_went_on_from_is_still_the_sessions_after_a_stop, an_answer_that_a_stop_cut_keeps_the_rows_of_its_block)
