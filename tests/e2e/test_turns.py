#!/usr/bin/env python3
"""test_turns.py - a turn is one message, whoever else's tokens it shares."""
from hearthlib import *

RHINE, RHONE = "Tell me of the river Rhine and of its towns.", "Tell me of the river Rhone and of its towns."


def user(s):
    return {"role": "user", "content": s}


def assistant(s):
    return {"role": "assistant", "content": s}


def start(n=6, **kw):
    return dict({"id": new_id(), "model": "m", "params": dict(max_tokens=n, temperature=0)}, **kw)


def prompt(s, n=6, **kw):
    return start(n, input="prompt", prompt=s, **kw)


def messages(m, n=6, **kw):
    return start(n, input="messages", messages=m, **kw)


def turns(d, session):
    p = d.cli("sessions", "show", session, "--text", "--json")
    check_eq(p.returncode, 0, "sessions show: " + p.stderr)
    return json.loads(p.stdout)["turns"]


def says(t, words, what):
    """Roles and texts as they were said, one turn each, from the first token to the last."""
    check_eq([x["role"] for x in t], [w[0] for w in words], what + ": roles")
    check_eq([x["n"] for x in t], list(range(1, len(t) + 1)), what + ": numbers")
    for i, (x, (_, w)) in enumerate(zip(t, words)):
        check(w in x["text"], lambda: "%s: turn %d lacks %r: %r" % (what, i + 1, w, x["text"]))
        for k, (_, o) in enumerate(words):
            check(k == i or o in w or o not in x["text"], lambda: "%s: turn %d has turn %d's %r: %r" % (what, i + 1, k + 1, o, x["text"]))
        check_eq(x["position"], t[i - 1]["position"] + t[i - 1]["tokens"] if i else 0, "%s: turn %d begins" % (what, i + 1))


def a_question_that_begins_as_anothers_is_one_turn():
    d = Daemon("--http", "off").start()
    d.load()
    with d.link() as l:
        generate(l, prompt(RHINE))
        began = time.time()
        a = generate(l, prompt(RHONE))
        check(a.start["reused"] > 5, lambda: "nothing was shared: %r" % a.start)
        same = generate(l, prompt(RHINE))  # all of it is there already
        for x, q in ((a, RHONE), (same, RHINE)):
            t = turns(d, x.last["session"]["id"])
            says(t, [("user", q), ("assistant", x.text.strip())], q)
            check(t[0]["time"] >= began - 0.01, lambda: "turn 1 is of %r, asked after %r" % (t[0]["time"], began))
            check_eq(x.last["turn"], 2, "turn in the done object")
        s = a.last["session"]["id"]
        before = turns(d, s)
    d.restart(clean=False)
    check_eq(turns(d, s), before, "after kill -9")
    d.stop()


def chat_without_a_name_takes_whole_questions_back():
    d = Daemon("--http", "off").start()
    d.load()
    chat = lambda lines: d.cli("chat", "-m", "m", "-n", "6", "--greedy", inp="\n".join(lines) + "\n")
    chat([RHINE])
    p = chat([RHONE, "/rewind", RHINE + " And its source?", "How long is it?", "/rewind", "How old is it?"])
    check_eq(p.returncode, 0, p.stderr)
    ls = json.loads(d.cli("sessions", "ls", "--all", "--json").stdout)["sessions"]
    t = turns(d, max(ls, key=lambda s: s["used"])["id"])
    check_eq([x["role"] for x in t], ["user", "assistant"] * 2, "roles")
    check(RHINE + " And its source?" in t[0]["text"] and "Rhone" not in t[0]["text"], lambda: t[0]["text"])
    check("How old is it?" in t[2]["text"] and "How long" not in t[2]["text"], lambda: t[2]["text"])
    d.stop()


def each_message_sent_is_a_turn():
    d = Daemon("--http", "off").start()
    d.load()
    m = [{"role": "system", "content": "Be brief."}, user("One river?"), assistant("The Rhine."), user("Two?"), user("I mean towns."),
         assistant("Basel, Mainz."), user("Three?")]
    words = [("user", "One river?"), ("assistant", "The Rhine."), ("user", "Two?"), ("user", "I mean towns."), ("assistant", "Basel, Mainz."),
             ("user", "Three?")]
    with d.link() as l:
        a = generate(l, messages(m))
        s = a.last["session"]["id"]
        says(turns(d, s), words + [("assistant", a.text.strip())], "sent at once")
        check("Be brief." in turns(d, s)[0]["text"], "the system message is not in the first turn")
        check_eq(a.last["turn"], 7, "turn")
        # Another end: what is the same stays, what differs is new, and the session is another.
        b = generate(l, messages(m[:-1] + [user("Thrice?")]))
        check(b.last["session"]["id"] != s, "an edited conversation took the other's place")
        t = turns(d, b.last["session"]["id"])
        says(t, words[:-1] + [("user", "Thrice?"), ("assistant", b.text.strip())], "another end")
        check_eq([x["time"] for x in t[:5]], [x["time"] for x in turns(d, s)[:5]], "when it was said first")
        # A change in the middle.
        c = generate(l, messages(m[:5] + [assistant("Basel, Bonn."), user("Three?")]))
        says(turns(d, c.last["session"]["id"]), words[:4] + [("assistant", "Basel, Bonn."), ("user", "Three?"), ("assistant", c.text.strip())],
             "another middle")
        # To a session of a name, and to one that has begun.
        n = generate(l, messages(m, session="n"))
        says(turns(d, "n"), words + [("assistant", n.text.strip())], "named")
        n = generate(l, messages(m[3:], session="n"))
        says(turns(d, "n")[7:] and [dict(x, n=i + 1, position=x["position"] - turns(d, "n")[7]["position"]) for i, x in enumerate(turns(d, "n")[7:])],
             words[2:] + [("assistant", n.text.strip())], "named, gone on with")
        # Whoever goes back to a turn goes on as if no more had been said.
        for k in (2, 3, 5):
            ref = generate(l, messages(m[:k + 1] + [user("And now?")]))
            l.call(SESSION_FORK, {"id": new_id(), "session": s, "name": "f%d" % k, "turn": k})
            f = generate(l, messages([user("And now?")], session="f%d" % k))
            check_eq(f.tokens, ref.tokens, "the answer after turn %d" % k)
            check_eq(f.last["usage"]["context"], ref.last["usage"]["context"], "the context after turn %d" % k)
        before = [turns(d, x) for x in (s, "n", "f3")]
    d.restart(clean=False)
    check_eq([turns(d, x) for x in (s, "n", "f3")], before, "after kill -9")
    d.stop()


def a_question_cut_by_a_rewind_goes_on_as_the_same_turn():
    d = Daemon("--http", "off").start()
    d.load()
    with d.link() as l:
        generate(l, prompt(RHINE, session="s"))
        t = turns(d, "s")
        l.call(SESSION_REWIND, {"id": new_id(), "session": "s", "to_tokens": t[0]["tokens"] - 10})
        a = generate(l, prompt("And now?", session="s"))
        t = turns(d, "s")
        check_eq([x["role"] for x in t], ["user", "assistant"], "roles")
        check("river Rhine" in t[0]["text"] and "And now?" in t[0]["text"], lambda: t[0]["text"])
        before = turns(d, "s")
    d.restart(clean=False)
    check_eq(turns(d, "s"), before, "after kill -9")
    d.stop()


main(a_question_that_begins_as_anothers_is_one_turn, chat_without_a_name_takes_whole_questions_back, each_message_sent_is_a_turn,
     a_question_cut_by_a_rewind_goes_on_as_the_same_turn)
