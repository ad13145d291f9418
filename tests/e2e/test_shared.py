#!/usr/bin/env python3
"""test_shared.py - requests that begin alike, at the same time, do not get in each other's way."""
from hearthlib import *
import threading

PROMPT = "Describe a quiet harbour in winter."
PAR = {"max_tokens": 30, "temperature": 0.8, "seed": 21, "ignore_eos": True}


def together(d, reqs):
    """Runs them all at once; their answers in order."""
    out, bad = [None] * len(reqs), []
    gate = threading.Barrier(len(reqs))

    def one(i):
        try:
            with d.link() as l:
                gate.wait()
                out[i] = generate(l, *reqs[i])
        except Exception as e:
            bad.append(e)

    ts = [threading.Thread(target=one, args=(i,)) for i in range(len(reqs))]
    for t in ts:
        t.start()
    for t in ts:
        t.join()
    if bad:
        raise bad[0]
    return out


def durable(answers):
    for i, a in enumerate(answers):
        check(a.last.get("durable") is True, lambda: "answer %d of %d is not durable: %r" % (i + 1, len(answers), a.last.get("warnings")))


def all_there_after_a_kill(d, answers):
    d.restart(clean=False)
    with d.link() as l:
        for a in answers:
            r = l.call(SESSION_SHOW, {"session": a.last["session"]["id"], "ids": True})
            ids = list(struct.unpack("<%di" % (len(r["_tail"]) // 4), r["_tail"]))
            check(ids[-len(a.tokens):] == a.tokens, "a session does not end with the answer that was acknowledged")


def the_same_question_many_times_at_once():
    d = Daemon().start()
    d.load()
    for keep in (True, False):
        reqs = [({"input": "prompt", "prompt": PROMPT, "keep": keep, "model": "m", "params": PAR},) for _ in range(6)]
        a = together(d, reqs)
        durable(a)
        check(all(x.tokens == a[0].tokens and x.bits == a[0].bits for x in a), "equal requests gave different answers")
        if keep:
            check_eq(len({x.last["session"]["id"] for x in a}), len(a), "sessions of requests that ran at once")
            all_there_after_a_kill(d, a)
            d.load()
    d.stop()


def a_question_that_comes_while_its_beginning_is_being_answered():
    d = Daemon().start()
    d.load()
    got = []
    with d.link() as l, d.link() as l2:
        r = {"input": "prompt", "prompt": PROMPT, "model": "m", "params": dict(PAR, max_tokens=120)}
        s = l.call(START, dict(r, id=new_id()))
        a = follow(l, s["stream"], stop_after=5)
        got.append(generate(l2, r))
        follow(l, s["stream"], a)
        got.append(a)
    durable(got)
    check(got[0].tokens == got[1].tokens, "equal requests gave different answers")
    all_there_after_a_kill(d, got)
    d.stop()


def forks_of_a_session_that_is_answering():
    d = Daemon().start()
    d.load()
    got = []
    with d.link() as l, d.link() as l2:
        r = {"session": "s", "create": True, "input": "prompt", "prompt": PROMPT, "model": "m", "params": dict(PAR, max_tokens=100)}
        s = l.call(START, dict(r, id=new_id()))
        a = follow(l, s["stream"], stop_after=3)
        for n in range(3):
            try:
                f = l2.call(SESSION_FORK, {"id": new_id(), "session": "s", "name": "f%d" % n})
            except Error as e:
                check_eq(e.slug, "session_busy", "a fork of a running session is refused with")
                break
            got.append(generate(l2, {"session": f["name"], "input": "tokens", "params": PAR}, ids_tail([9, 8, 7 + n])))
        follow(l, s["stream"], a)
        got.append(a)
    durable(got)
    all_there_after_a_kill(d, got)
    d.stop()


main(the_same_question_many_times_at_once, a_question_that_comes_while_its_beginning_is_being_answered,
     forks_of_a_session_that_is_answering)
