"""test_tree.py - sessions that share a beginning: nobody's tokens get into another's answer."""
import threading, time
from hearthlib import *


def ask(text, n, **kw):
    p = dict(max_tokens=n, ignore_eos=True, seed=kw.pop("seed", 5), temperature=0.9)
    return dict({"input": "prompt", "prompt": text, "params": p}, **kw)


def ids_of(link, session):
    st, j, tail = link.raw(SESSION_SHOW, {"session": session, "ids": True})
    check_eq(st, 0, "SESSION_SHOW")
    return j, list(struct.unpack("<%di" % (len(tail) // 4), tail))


def turns_of(link, session):
    return [(t["role"], t["position"], t["tokens"], t.get("finish"))
            for t in ids_of(link, session)[0]["turns"]]


def a_fork_of_a_running_session_appends_elsewhere():
    d = Daemon("--threads", "2").start()
    d.load()
    l = d.link()
    alone = generate(l, ask("Tell me a story about a dog.", 60, session="alone"))
    a, f, A, F = new_id(), new_id(), Answer(), Answer()
    l.raw(START, ask("Tell me a story about a dog.", 60, session="A", id=a))
    st, j, _ = l.raw(START, ask("And now about a cat.", 40, session="A", fork=True, id=f))
    check_eq(st, 0, "the fork's START")
    other = threading.Thread(target=follow, args=(d.link(), f, F))
    other.start()
    follow(l, a, A)
    other.join()
    check_eq(A.tokens, alone.tokens, "the answer beside a fork")
    check(A.last["durable"] and F.last["durable"], "both are durable")
    fork = F.last["session"]["id"]
    before = ids_of(l, "A")[1], ids_of(l, fork)[1]
    d.restart(clean=False)
    d.load()
    l = d.link()
    check_eq((ids_of(l, "A")[1], ids_of(l, fork)[1]), before, "the tokens after a kill")


def an_open_answer_goes_on_beside_a_fork_of_it():
    d = Daemon("--threads", "2").start()
    d.load()
    l = d.link()
    alone = generate(l, ask("Tell me a long story about a dog.", 500, session="alone"))
    a, A, again = new_id(), Answer(), Answer()
    l.raw(START, ask("Tell me a long story about a dog.", 500, session="A", id=a))
    follow(l, a, A, stop_after=40)
    d.restart(clean=False)
    d.load()
    l = d.link()
    l.call(SESSION_FORK, {"id": new_id(), "session": "A", "name": "F"})
    generate(l, ask("And now about a cat.", 20, session="F"))
    follow(l, a, again)
    check_eq(again.tokens, alone.tokens, "the answer that went on")
    check(again.last["durable"], "it is durable")


def turns_cut_by_a_rewind_are_the_same_after_a_restart():
    d = Daemon("--threads", "2").start()
    d.load()
    l = d.link()
    for i in range(2):
        generate(l, ask("Tell me about number %d." % i, 40, session="A"))
    at = turns_of(l, "A")[3][1] + 5
    l.call(SESSION_REWIND, {"id": new_id(), "session": "A", "to_tokens": at})
    generate(l, ask("Go on.", 10, session="A"))
    before = turns_of(l, "A")
    d.restart()
    d.load()
    l = d.link()
    check_eq(turns_of(l, "A"), before, "the turns after a restart")
    st, j, _ = l.raw(SESSION_FORK, {"id": new_id(), "session": "A", "name": "F", "turn": 4})
    check_eq((st, j.get("tokens")), (0, at), "a fork at the turn that was cut")
    st, j, _ = l.raw(SESSION_REWIND, {"id": new_id(), "session": "A", "to_turn": 4})
    check_eq((st, j.get("tokens")), (0, at), "a rewind to the turn that was cut")


def a_new_request_after_a_crash_closes_the_old_one():
    d = Daemon("--threads", "2").start()
    d.load()
    l = d.link()
    a, b, A, B = new_id(), new_id(), Answer(), Answer()
    l.raw(START, ask("Tell me a long story about a dog.", 500, session="A", id=a))
    follow(l, a, A, stop_after=20)
    d.restart(clean=False)
    l, l2 = d.link(), d.link()
    l.send(START, ask("And now about a cat.", 20, session="A", id=b))
    time.sleep(0.05)
    st, j, _ = l2.raw(NEXT, {"stream": a, "cursor": 0, "max_wait_ms": 100})
    check(st == 0 or j.get("slug") in ("session_busy", "stream_expired"),
          lambda: "NEXT beside a new START: %r" % (j,))
    st = l.reply()[2]
    if st == 0:
        follow(l, b, B)
        check(B.last["durable"], "the new answer is durable")
        st, j, _ = l2.raw(NEXT, {"stream": a, "cursor": 0, "max_wait_ms": 0})
        check_eq(j.get("finish"), "error", "the old answer's end")
    check(d.alive(), "the daemon lives")


def an_answer_cancelled_before_it_began_is_a_turn_after_a_restart():
    d = Daemon("--threads", "2").start()
    d.load()

    def seen(l):
        turns = {s: [(t["role"], t["position"], t["tokens"]) for t in l.call(SESSION_SHOW, {"session": s})["turns"]]
                 for s in ("A", "F", "G")}
        # The next question comes to as many tokens: what it closes is the same.
        return turns, {s: generate(l, ask("What is a river?", 4, session=s, fork=True)).start["context"] for s in turns}

    with d.link() as l:
        ids = tokens_of(l, text(0))[:1500]
        r = l.call(START, {"id": new_id(), "session": "A", "create": True, "model": "m", "input": "tokens",
                           "params": {"max_tokens": 50, "temperature": 0}}, ids_tail(ids))
        l.call(SESSION_FORK, {"id": new_id(), "session": "A", "name": "F"})
        l.call(CANCEL, {"stream": r["stream"]})
        a = follow(l, r["stream"])
        check_eq((a.last["finish"], len(a.tokens), a.last["durable"]), ("cancelled", 0, True), "the cancelled answer")
        l.call(SESSION_FORK, {"id": new_id(), "session": "A", "name": "G"})
        before = seen(l)
        check_eq(before[0]["A"][-1], ("assistant", 1500, 0), "the last turn")
    d.restart(clean=False)
    d.load()
    with d.link() as l:
        check_eq(seen(l), before, "turns and the next question after kill -9")
        generate(l, ask("And a lake?", 4, session="A"))  # goes on elsewhere: F and G keep their turn
        after = seen(l)[0]
        check_eq((after["F"], after["G"]), (before[0]["F"], before[0]["G"]), "the turns of those who stay")
    d.stop()


def an_open_of_a_session_that_is_being_made_is_not_acknowledged():
    d = Daemon("--threads", "2").start()
    d.load()
    with d.link() as l, d.link() as l2:
        l.send(START, ask(" " * 7000000, 2, session="X", create=True))
        acked, t0 = False, time.monotonic()
        while time.monotonic() - t0 < 20 and not acked:
            st, j, _ = l2.raw(SESSION_OPEN, {"id": new_id(), "name": "X", "model": "m"})
            acked = st == 0
            check(acked or j["slug"] == "session_busy", lambda: "OPEN says %r" % (j,))
        check(l.reply()[2] != 0, "a prompt beyond the context is refused")
        check(acked, "OPEN is answered once the other request is refused")
        check_eq(l2.call(SESSION_SHOW, {"session": "X"})["tokens"], 0, "tokens of what was opened")
    d.stop()


def a_fork_of_an_ingest_learns_that_it_ended():
    d = Daemon("--threads", "2").start()
    d.load()
    l = d.link()
    doc = {"input": "documents", "params": {"max_tokens": 0}}
    words = text(0, 3000)
    a = new_id()
    l.call(START, dict(doc, id=a, session="A"), words.encode())
    for n in "FGH":
        l.call(SESSION_FORK, {"id": new_id(), "session": "A", "name": n})
    generate(l, ask("What is it?", 3, session="H"))
    follow(l, a)
    before = turns_of(l, "A"), turns_of(l, "F"), turns_of(l, "H")
    check_eq(before[1], before[0], "the fork's turns")
    for n in "AFH":
        for t in ids_of(l, n)[0]["turns"]:
            check(t["durable"], lambda: "a turn of %s that ended: %r" % (n, t))
    f = generate(l, dict(doc, session="F"), words.encode())
    d.restart()
    d.load()
    l = d.link()
    check_eq((turns_of(l, "A"), turns_of(l, "G"), turns_of(l, "H")), before, "the turns after a restart")
    g = generate(l, dict(doc, session="G"), words.encode())
    check_eq(g.start["context"], f.start["context"], "the same documents once more, after a restart")


def a_session_that_is_being_begun_can_be_read():
    d = Daemon("--threads", "2").start()
    d.load()
    l, l2 = d.link(), d.link()
    for i in range(40):
        k, forks = "s%d" % i, []
        l.send(START, ask("Tell me %d." % i, 3, session=k, id=new_id()))
        for j in range(12):
            st, r, _ = l2.raw(SESSION_SHOW, {"session": k, "ids": True})
            check(st == 0 or r["slug"] == "session_not_found", lambda: "SESSION_SHOW: %r" % (r,))
            st, r, _ = l2.raw(SESSION_FORK, {"id": new_id(), "session": k})
            check(st == 0 or r["slug"] == "session_not_found", lambda: "SESSION_FORK: %r" % (r,))
            if st == 0:
                forks.append(r)
        st, r, _ = l2.raw(START, ask("More.", 2, session=k, fork=True, id=new_id()))
        check(st == 0 or r["slug"] == "session_not_found", lambda: "a fork's START: %r" % (r,))
        st, r, _ = l.reply()[2:5]
        check_eq(st, 0, "START")
        follow(l, r["stream"])
        for f in forks:
            check_eq(len(ids_of(l, f["id"])[1]), f["tokens"], "the tokens of a fork")


def an_answer_that_nobody_reads_gives_way():
    d = Daemon("--threads", "2").start()
    d.load()
    l = d.link()
    a, A = new_id(), Answer()
    with d.link() as gone:
        gone.raw(START, ask("Tell me a long story about a dog.", 7000, session="A", id=a))
        follow(gone, a, A, stop_after=10)
        t = ids_of(l, "A")[0]["turns"][-1]
        check(t["role"] == "assistant" and t["tokens"] >= 10, lambda: "the open turn: %r" % (t,))
    st, j, _ = l.raw(START, ask("And a cat?", 5, session="A", id=new_id()))
    check_eq((st != 0, j.get("slug")), (True, "session_busy"), "START at once")
    check(0 < j["retry_after_ms"] <= 5001 and "nobody reads" in j["message"], lambda: "%r" % (j,))
    time.sleep(j["retry_after_ms"] / 1000 + 0.2)
    b = generate(l, ask("And a cat?", 5, session="A"))
    check(b.last["durable"], "the new answer is durable")
    t = turns_of(l, "A")
    check_eq(([x[0] for x in t], t[1][3]), (["user", "assistant"] * 2, "cancelled"), "the turns")
    st, j, _ = l.raw(NEXT, {"stream": a, "cursor": 7000, "max_wait_ms": 0})
    check_eq((j.get("state"), j.get("finish"), j.get("durable")), ("done", "cancelled", True), "the old answer's end")


main(a_fork_of_a_running_session_appends_elsewhere,
     an_answer_cancelled_before_it_began_is_a_turn_after_a_restart,
     an_open_of_a_session_that_is_being_made_is_not_acknowledged,
     an_open_answer_goes_on_beside_a_fork_of_it,
     turns_cut_by_a_rewind_are_the_same_after_a_restart,
     a_new_request_after_a_crash_closes_the_old_one,
     a_fork_of_an_ingest_learns_that_it_ended,
     a_session_that_is_being_begun_can_be_read,
     an_answer_that_nobody_reads_gives_way)
