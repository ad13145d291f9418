#!/usr/bin/env python3
"""test_room.py - a session does not end by one answer, and says the way on before it is full."""
from hearthlib import *

CONTEXT = 768


def last_json(p):
    check(p.returncode == 0, lambda: "exit %d: %s%s" % (p.returncode, p.stderr[-600:], p.stdout[-600:]))
    return json.loads(p.stdout.strip().splitlines()[-1])


def an_answer_without_a_limit_leaves_room_for_the_next_question():
    d = Daemon("--http", "off", "--context", str(CONTEXT)).start()
    d.load()
    ask = lambda *a: d.cli("ask", "-s", "s", "--create", "-m", "m", "Count.", "--ignore-eos", "--greedy", "--json", *a)
    before = 0
    for i in range(5):
        j = last_json(ask())
        total = j["usage"]["context"] + j["usage"]["generated"]
        room = CONTEXT - j["usage"]["context"]
        check_eq(j["finish"], "length", "finish")
        check(0 < j["usage"]["generated"] <= room // 2, lambda: "question %d: %r of %d" % (i, j["usage"], room))
        check(any("-n N" in w for w in j["warnings"]), lambda: "no word about the limit: %r" % j["warnings"])
        nearly = total > CONTEXT * 7 // 8
        check_eq(any("before it is full" in w for w in j["warnings"]), nearly, "a warning at %d of %d tokens" % (total, CONTEXT))
        check(total > before, "the session did not grow")
        before = total
    # A limit of its own is kept to, and what has no session is not bounded.
    j = last_json(d.cli("ask", "-s", "t", "--create", "-m", "m", "Count.", "--ignore-eos", "--greedy", "-n", "600", "--json"))
    check_eq((j["usage"]["generated"], j["finish"]), (600, "length"), "an answer with -n 600")
    check(not any("-n N" in w for w in j.get("warnings", [])), lambda: repr(j["warnings"]))
    j = last_json(d.cli("ask", "-s", "t", "Count.", "--ignore-eos", "--greedy", "-n", str(CONTEXT), "--json"))
    check_eq(j["usage"]["context"] + j["usage"]["generated"], CONTEXT, "a session that is full")
    check(any("session is full" in w and "--turn N" in w for w in j["warnings"]) and not any("before it is full" in w for w in j["warnings"]), lambda: repr(j["warnings"]))
    j = last_json(d.cli("run", "m", "Count.", "--ignore-eos", "--greedy", "--json"))
    check_eq(j["usage"]["context"] + j["usage"]["generated"], CONTEXT, "hearth run goes to the end of the context")
    d.stop()


def a_bound_survives_a_crash():
    d = Daemon("--http", "off", "--context", str(CONTEXT)).start()
    d.load()
    with d.link() as l:
        req = {"id": new_id(), "session": "s", "model": "m", "input": "prompt", "prompt": "Count.",
               "params": {"temperature": 0, "ignore_eos": True}}
        r = l.call(START, req)
        follow(l, r["stream"], stop_after=20)
    d.restart(clean=False)
    d.load()
    with d.link() as l:
        a = generate(l, req)
    check(a.last["finish"] == "length" and a.last["usage"]["context"] + len(a.tokens) <= CONTEXT * 2 // 3 + 40, lambda: repr(a.last))
    check(any("-n N" in w for w in a.last["warnings"]), lambda: repr(a.last.get("warnings")))
    d.stop()


def a_full_session_offers_the_way_on():
    d = Daemon("--http", "off", "--context", str(CONTEXT)).start()
    d.load()
    ask = lambda name, *a: d.cli("ask", "-s", name, "--create", "-m", "m", "Say something about the sea and the wind.", "--ignore-eos",
                                 "--greedy", "-n", "150", "--json", *a)
    for i in range(9):
        p = ask("s")
        if p.returncode:
            break
    e = json.loads(p.stdout.strip().splitlines()[-1])
    check_eq((p.returncode, e["slug"], e["context"]), (1, "context_length_exceeded", CONTEXT), "what a full session answers")
    check(e["turn"] > 0 and "after turn %d" % e["turn"] in e["message"] and "hearth sessions rewind" in e["hint"], lambda: repr(e))
    for advice in e["hint"].split("`")[3], e["hint"].split("`")[1]:
        words = advice.replace("NAME", "s").replace("NEW", "new").split()[1:]
        p = d.cli(*words)
        check(p.returncode == 0, lambda: "%s: %d %s" % (advice, p.returncode, p.stderr))
        last_json(ask("new" if "fork" in words else "s"))
    d.stop()


def a_long_document_is_refused_with_the_way_to_split_it():
    d = Daemon("--http", "off", "--context", str(CONTEXT)).start()
    d.load()
    said = text(0, 9000)
    doc = os.path.join(d.dir, "long.txt")
    with open(doc, "w") as f:
        f.write(said)
    p = d.cli("ingest", "-s", "book", "-m", "m", doc)
    check(p.returncode == 1 and "--split" in p.stderr and "% of it would fit" in p.stderr.replace("%%", "%").replace(" %", "%"),
          lambda: "%d %s" % (p.returncode, p.stderr))
    p = d.cli("ingest", "-s", "book", "-m", "m", doc, "--split", "--json")
    done = [json.loads(x) for x in p.stdout.splitlines() if '"type":"done"' in x]
    check(p.returncode == 0 and len(done) >= 3, lambda: "%d %s %s" % (p.returncode, p.stderr, p.stdout[-500:]))
    check_eq([x["session"] for x in done], ["book-%d" % (i + 1) for i in range(len(done))], "sessions of the parts")
    check_eq(d.cli("sessions", "show", "book").returncode, 4, "a session for the whole")
    p = d.cli("ingest", "-s", "book", "-m", "m", doc, "--split", "--json")  # those that are in are listed, too
    again = [json.loads(x) for x in p.stdout.splitlines() if '"type":"done"' in x]
    check_eq([(x["session"], x["durable"], x["usage"]["prefilled"]) for x in again], [(x["session"], True, 0) for x in done], "parts that are in")
    for all_of, already in ((done, False), (again, True)):
        check_eq([[(t["document"], t["part"], t["parts"], t["session"], t["already"]) for t in x["documents"]] for x in all_of],
                 [[(doc, i + 1, len(done), x["session"], already)] for i, x in enumerate(done)], "what each part is")
    whole = ""
    for x in done:
        check(x["usage"]["context"] <= CONTEXT * 3 // 4 + 40, lambda: "%s has %r" % (x["session"], x["usage"]))
        t = json.loads(d.cli("sessions", "show", x["session"], "--text", "--json").stdout)["turns"][0]["text"]
        whole += t.split("user\n", 1)[1]
    check("".join(whole.split()) == "".join(said.split()), "the parts do not make up the document")
    last_json(d.cli("ask", "-s", "book-2", "What is this?", "--json"))
    p = d.cli("ingest", "-s", "book", "-m", "m", doc, "--split")
    check(p.returncode == 0 and p.stderr.count("already") == len(done), lambda: p.stderr)
    with open(doc, "w") as f:
        f.write("It rains.\n")
    last_json(d.cli("ingest", "-s", "short", "-m", "m", doc, "--split", "--json"))
    check_eq(d.cli("sessions", "show", "short").returncode, 0, "what fits goes into one session")
    d.stop()


main(a_long_document_is_refused_with_the_way_to_split_it, an_answer_without_a_limit_leaves_room_for_the_next_question, a_bound_survives_a_crash, a_full_session_offers_the_way_on)
