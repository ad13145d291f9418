#!/usr/bin/env python3
"""test_guard.py - a wrong clock, a second daemon, a state directory that is moved: noticed, said, nothing lost."""
from hearthlib import *

FAKETIME = [p for p in ("/usr/lib/%s/faketime/libfaketime.so.1" % a for a in ("x86_64-linux-gnu", "aarch64-linux-gnu"))
            if os.path.exists(p)]


def ask(d, words, session=None):
    req = {"id": new_id(), "model": "m", "input": "prompt", "prompt": words,
           "params": {"max_tokens": 3, "ignore_eos": True, "temperature": 0}}
    if session:
        req.update(session=session, create=True)
    with d.link() as l:
        return generate(l, req)


def sessions(d):
    with d.link() as l:
        return l.call(SESSION_LIST, {"all": True})["sessions"]


def said(d, words, wait_s=10):
    t0 = time.monotonic()
    while time.monotonic() - t0 < wait_s * SLOWER:
        w = d.status()["warnings"]
        if any(words in x for x in w):
            break
        time.sleep(0.05)
    check(any(words in x for x in w), "status says %r, got %r" % (words, w))
    with open(d.log, errors="replace") as f:
        check(words in f.read(), "the log says %r" % words)


def a_wrong_clock_erases_no_conversation():
    if not FAKETIME:
        skip("libfaketime is not installed")
    for days, words in ((-400, "set forward by"), (400, "set back by")):
        d = Daemon(env={"LD_PRELOAD": FAKETIME[0], "FAKETIME": "%+dd" % days, "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
        d.start()
        ask(d, "hello")
        ask(d, "a named one", "kept")
        check_eq(len(sessions(d)), 2, "sessions while the clock was wrong")
        check_eq(d.stop(), 0, "exit status")
        d.env = None
        d.start()
        said(d, words)
        ask(d, "good morning")
        time.sleep(3.5)  # what is too old goes every second
        check_eq(len(sessions(d)), 3, "sessions once the clock was right (%+d days before)" % days)
        p = d.cli("sessions", "rm", "--anonymous", "--older", "1d", "--json")
        check_eq(json.loads(p.stdout)["removed"], 0, "sessions of a minute ago removed as older than a day (%+d days)" % days)
        check(all(0 <= s["idle_s"] < 3600 * SLOWER for s in sessions(d)), lambda: "ages: %r" % [s["idle_s"] for s in sessions(d)])
        d.stop()


def a_second_daemon_is_refused_whatever_was_deleted():
    d = Daemon().start()
    ask(d, "hello", "a")
    link = d.state + "-link"
    os.symlink(d.state, link)
    os.unlink(os.path.join(d.state, "store.lock"))
    e = Daemon(state=link)
    e.spawn()
    check(e.proc.wait(60 * SLOWER) != 0, "a second daemon on one store ends")
    check("in use by" in e.log_tail(), "it says why:\n" + e.log_tail())
    said(d, "store.lock was deleted")
    ask(d, "once more", "a")
    d.restart()
    check_eq(len(sessions(d)), 1, "sessions")
    d.stop()


def a_state_directory_that_is_moved_is_said_and_nothing_is_lost():
    d = Daemon().start()
    ask(d, "hello", "a")
    before = sessions(d)[0]["tokens"]
    os.rename(d.state, d.state + "-moved")
    said(d, "was moved to " + d.state + "-moved")
    one_sentence(d, "was moved to " + d.state + "-moved")
    d.stop()
    os.rename(d.state + "-moved", d.state)
    d.start()
    check_eq([s["tokens"] for s in sessions(d)], [before], "what was acknowledged is there, and only that")
    ask(d, "and on", "a")
    d.stop()


def one_sentence(d, words):
    """Whoever asks hears what happened in the same words, and nothing that is not so."""
    st = d.status()
    check_eq(st["status"], "degraded", "status")
    check_eq(len([w for w in st["warnings"] if words in w or "persistence" in w or "survives" in w]), 1, "warnings of it in %r" % st["warnings"])
    with d.link() as l:
        status, js, _ = l.raw(SESSION_REMOVE, {"id": new_id(), "session": "a"})
        check_eq(STATUS_NAMES.get(status), "FAILED_PRECONDITION", "removing a session")
    a = ask(d, "answers go on", "a")
    heard = [js["message"], a.last["warnings"][0]]
    for said in heard:
        check(words in said and d.state in said and "restart" in said, lambda: "%r is not the sentence" % said)
    with open(d.log, errors="replace") as f:
        log = f.read()
    check(not any("Read-only" in x for x in heard + st["warnings"] + [log]), lambda: "a read-only file system: %r %s" % (heard, log))


def a_state_directory_that_is_removed_is_said():
    d = Daemon().start()
    ask(d, "hello", "a")
    os.rename(d.state, d.state + "-moved")  # at once: rm -r takes one file after another
    shutil.rmtree(d.state + "-moved")
    said(d, "was removed or replaced while in use")
    one_sentence(d, "was removed or replaced while in use")
    p = d.cli("doctor")
    check("%s: is gone while a daemon uses it" % d.state in p.stdout, lambda: "doctor: " + p.stdout)
    d.stop()


if __name__ == "__main__":
    main(a_wrong_clock_erases_no_conversation, a_second_daemon_is_refused_whatever_was_deleted,
         a_state_directory_that_is_moved_is_said_and_nothing_is_lost, a_state_directory_that_is_removed_is_said)
