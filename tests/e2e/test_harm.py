#!/usr/bin/env python3
"""test_harm.py - what others do to the files of a running daemon is noticed, said, and costs no turn."""
from hearthlib import *


def ask(d, words, session):
    with d.link() as l:
        return generate(l, {"id": new_id(), "model": "m", "input": "prompt", "prompt": words, "session": session,
                            "create": True, "params": {"max_tokens": 3, "ignore_eos": True, "temperature": 0}})


def tokens(d):
    with d.link() as l:
        return {s["name"]: s["tokens"] for s in l.call(SESSION_LIST, {"all": True})["sessions"]}


def wait_for(what, cond, wait_s=20):
    t0 = time.monotonic()
    while not cond():
        check(time.monotonic() - t0 < wait_s * SLOWER, what)
        time.sleep(0.05)


def said(d, words):
    wait_for(lambda: "status says %r, got %r" % (words, d.status()["warnings"]),
             lambda: any(words in x for x in d.status()["warnings"]))
    check_eq(logged(d, words), 1, "times that the log says %r" % words)


def logged(d, words):
    with open(d.log, errors="replace") as f:
        return sum(words in x for x in f)


def quiet(path):
    """Nothing has been written to it for a while: the harm falls into no transaction."""
    wait_for("%s is at rest" % path, lambda: time.time() - os.stat(path).st_mtime > 1.5)


def heads(path):
    n = os.path.getsize(path)
    with open(path, "r+b") as f:
        for at in range(8192, n, 4096):
            f.seek(at + 10)
            f.write(b"\xff" * 6)


def cut(path):
    os.truncate(path, 0)


def an_index_damaged_under_the_daemon_is_made_anew(how):
    d = Daemon().start()
    for i in range(3):
        ask(d, "hello %d" % i, "s%d" % i)
    pid, want = d.status()["pid"], tokens(d)
    index = os.path.join(d.state, "index.mdb")
    quiet(index)
    how(index)
    for i in range(3):
        ask(d, "and on", "s%d" % i)  # reads all of it back from the index
    said(d, "damaged in its structure: made anew from the turn log, nothing is missing")
    s = d.status()
    check_eq((s["status"], s["pid"]), ("ok", pid), "state and process afterwards")
    now = tokens(d)
    check(all(now[n] > want[n] for n in want), "the sessions go on: %r, were %r" % (now, want))
    d.restart()
    check_eq(tokens(d), now, "tokens after a restart")
    for i in range(3):
        ask(d, "once more", "s%d" % i)
    d.stop()


def page_heads_overwritten_under_the_daemon():
    an_index_damaged_under_the_daemon_is_made_anew(heads)


def an_index_cut_under_the_daemon():
    an_index_damaged_under_the_daemon_is_made_anew(cut)


def long_ask(d, session, first):
    """Enough for a whole block, which goes down to kv/."""
    with d.link() as l:
        doc = tokens_of(l, text(0))
        return generate(l, {"id": new_id(), "model": "m", "input": "tokens", "session": session, "create": True,
                            "params": {"max_tokens": 3, "ignore_eos": True, "temperature": 0}},
                        ids_tail([first] + doc[:600]))


def on_file(d):
    wait_for("blocks go down", lambda: d.status()["blocks"]["file"] > 0 and d.status()["blocks"]["dirty"] == 0)


def blocks_deleted_under_the_daemon_cost_no_turn():
    d = Daemon().start()
    long_ask(d, "a", 2000)
    on_file(d)
    want = tokens(d)
    shutil.rmtree(os.path.join(d.state, "kv"))
    said(d, "while in use")
    check_eq(d.status()["blocks"]["file"], 0, "blocks on file")
    check_eq(d.status()["status"], "ok", "status: it goes on with new files")
    long_ask(d, "b", 2001)
    on_file(d)
    ask(d, "and on", "a")
    check(tokens(d)["a"] > want["a"], "the session goes on")
    d.stop()
    shutil.rmtree(os.path.join(d.state, "kv"))
    d.start()
    said(d, "files of blocks are not there any more")
    ask(d, "and on", "b")
    d.stop()


def a_file_in_the_place_of_kv_costs_blocks_and_not_the_start():
    d = Daemon().start()
    long_ask(d, "a", 2000)
    on_file(d)
    d.stop()
    kv = os.path.join(d.state, "kv")
    os.rename(kv, d.state + "/away")
    with open(kv, "w") as f:
        f.write("mine")
    d.start()
    said(d, "/kv cannot be read (Not a directory) and is left alone")
    check_eq(d.status()["status"], "degraded", "status")
    ask(d, "and on", "a")
    long_ask(d, "b", 2001)
    with open(d.log, errors="replace") as f:
        check("No space left" not in f.read(), "no word of a full disk")
    d.stop()
    with open(kv) as f:
        check_eq(f.read(), "mine", "what stood there")
    os.unlink(kv)
    os.rename(d.state + "/away", kv)
    d.start()
    d.load()
    s = d.status()
    check_eq(s["status"], "ok", "status once it is back")
    check(s["blocks"]["file"] > 0, "its blocks are there")
    d.stop()


if __name__ == "__main__":
    main(page_heads_overwritten_under_the_daemon, an_index_cut_under_the_daemon,
         blocks_deleted_under_the_daemon_cost_no_turn, a_file_in_the_place_of_kv_costs_blocks_and_not_the_start)
