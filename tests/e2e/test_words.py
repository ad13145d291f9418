#!/usr/bin/env python3
"""test_words.py - what a newcomer is told: where a conversation is, and how it goes on."""
import http.client, shlex, threading

from hearthlib import *


def last_json(p):
    check(p.returncode == 0, lambda: "exit %d: %s" % (p.returncode, p.stderr[-600:]))
    return json.loads(p.stdout.strip().splitlines()[-1])


def serve(*flags, **kw):
    d = Daemon("--http", "off", *flags, **kw).start()
    d.load()
    return d


def names(d):
    return sorted(s["name"] for s in last_json(d.cli("sessions", "ls", "--json"))["sessions"])


def chat_says_where_one_is():
    d = serve()
    p = d.cli("chat", "-s", "first", "-m", "m", "-n", "4", inp="One.\n/fork second\nTwo.\n/save third book\n/fork\nThree.\n/quit\n")
    check_eq(p.returncode, 0, p.stderr)
    for w in ("you are in second now", "first stays as it is", "session second is called third book now, there is no second any more",
              "hearth chat -s 'third book'", "third book stays as it is", "it has no name and will expire; /save NAME keeps it"):
        check(w in p.stderr, lambda: "nobody said %r: %s" % (w, p.stderr))
    check_eq(names(d), ["first", "third book"], "sessions")
    d.stop()


def a_fork_without_a_name_says_that_it_expires():
    d = serve()
    d.cli("ask", "-s", "book", "--create", "-m", "m", "One.", "-n", "4")
    p = d.cli("sessions", "fork", "book")
    check(p.returncode == 0 and "expires" in p.stderr, lambda: p.stderr)
    rename = p.stderr.split("`hearth ")[1].split("`")[0].replace("NAME", "copy")
    check_eq(d.cli(*shlex.split(rename)).returncode, 0, rename)
    check_eq(names(d), ["book", "copy"], "sessions")
    check_eq(d.cli("sessions", "fork", "book", "other").stderr, "", "of one with a name nothing is to be said")
    d.stop()


def a_full_session_has_a_way_on_that_keeps_it():
    d = serve("--context", "512")
    said = "my book"
    p = None
    for i in range(40):
        p = d.cli("ask", "-s", said, "--create", "-m", "m", "Count the stars, number %d, and the rivers." % i, "-n", "60", "--ignore-eos")
        if p.returncode:
            break
    check(p.returncode == 1 and "context_length_exceeded" in p.stderr, lambda: "%d %s" % (p.returncode, p.stderr))
    before = last_json(d.cli("sessions", "show", said, "--json"))["turns"]
    way = p.stderr.split("`hearth ")[1].split("`")[0]
    check(way.startswith("sessions fork 'my book' NEW --turn "), lambda: p.stderr)
    turn = int(way.split()[-1])
    check(0 < turn < len(before) and before[turn - 1]["role"] == "assistant", lambda: "turn %d of %d" % (turn, len(before)))
    check_eq(d.cli(*shlex.split(way.replace("NEW", "on"))).returncode, 0, way)
    check_eq(d.cli("ask", "-s", "on", "And the moons?", "-n", "8").returncode, 0, "a question to the fork")
    check_eq(last_json(d.cli("sessions", "show", said, "--json"))["turns"], before, "the full one's turns")
    j = json.loads(d.cli("ask", "-s", said, "Count the stars, and the rivers.", "-n", "60", "--json").stdout.splitlines()[-1])
    check_eq((j["slug"], j["session"]), ("context_length_exceeded", said), "in JSON")
    # One that would fit only into an empty one is not told to empty this one.
    p = d.cli("ask", "-s", said, "word " * 420)
    check(p.returncode == 1 and "--to 0" not in p.stderr and "--turn 0" not in p.stderr and "another session" in p.stderr, lambda: p.stderr)
    d.stop()


def a_cancelled_answer_says_so_over_http():
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, front=True).start()
    port = http_port(d, want)
    d.load()
    got = {}

    def post(stream):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=120 * SLOWER)
        c.request("POST", "/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "Count, %s." % stream}], "max_tokens": 7000,
                                                               "stream": stream, "logit_bias": {"2": -100, "0": -100}}),
                  {"Content-Type": "application/json"})
        r = c.getresponse()
        body = r.read().decode()
        got[stream] = (r.status, r.reason, json.loads(body if not stream else [x for x in body.split("\n\n") if "error" in x][-1][6:])["error"])
        c.close()

    with d.link() as l:
        for stream in (False, True):
            t = threading.Thread(target=post, args=(stream,))
            t.start()
            t0, run = time.monotonic(), []
            while not run and time.monotonic() - t0 < 60 * SLOWER:
                run = [s["request"] for s in l.call(SESSION_LIST, {"all": True})["sessions"] if s["running"]]
            check(run, "nothing runs")
            p = d.cli("cancel", run[0][:12])
            check_eq(p.returncode, 0, p.stderr)
            t.join()
            status, reason, e = got[stream]
            check_eq((e["code"], e["type"]), ("cancelled", "request_cancelled"), "error of %r" % (got[stream],))
            check("hearth cancel" in e["message"] and "another client" not in e["message"], lambda: e["message"])
            if not stream:
                check_eq((status, reason), (499, "Cancelled"), "status line")
    d.stop()


def a_model_that_cannot_be_read_is_listed_with_the_reason():
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, front=True).start()
    port = http_port(d, want)
    link = os.path.join(d.models, "away.gguf")
    os.makedirs(d.models, exist_ok=True)
    os.symlink(os.path.join(d.dir, "not-here.gguf"), link)
    m = {x["name"]: x for x in last_json(d.cli("models", "--json"))["models"]}
    check_eq((m["away"]["state"], m["away"]["default"]), ("failed", False), "the model behind a link to nothing")
    check("link" in m["away"]["error"] and "No such file" in m["away"]["error"], lambda: m["away"]["error"])
    check("No such file" in d.cli("models").stdout, "hearth models")
    p = d.cli("run", "away", "Hi.")
    check(p.returncode == 1 and "No such file" in p.stderr, lambda: "%d %s" % (p.returncode, p.stderr))
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60 * SLOWER)
    c.request("GET", "/v1/models")
    data = {x["id"]: x for x in json.loads(c.getresponse().read())["data"]}
    c.close()
    check_eq(data["m"]["created"], int(os.stat(model()).st_mtime), "created of /v1/models")
    # What it leads to has come, and goes again with the link.
    shutil.copy(model(), os.path.join(d.dir, "not-here.gguf"))
    m = {x["name"]: x for x in last_json(d.cli("models", "--json"))["models"]}
    check(m["away"]["state"] == "available" and m["away"]["file_bytes"] > 0 and "error" not in m["away"], lambda: repr(m["away"]))
    os.unlink(link)
    check("away" not in {x["name"] for x in last_json(d.cli("models", "--json"))["models"]}, "it is listed still")
    st = d.cli("status").stdout
    check(sum(x.startswith("disk") for x in st.splitlines()) == 1, lambda: st)
    d.stop()


def a_context_the_model_cannot_have_is_said():
    d = Daemon("--context", "100000").start()
    d.load()
    check(any("context = 100000 is more than it can have; it has 8192" in w for w in d.status()["warnings"]), lambda: repr(d.status()["warnings"]))
    d.stop()


def a_stopped_document_that_was_asked_about_goes_in_once():
    d = serve()
    doc = os.path.join(d.dir, "stars.txt")
    with open(doc, "w") as f:
        f.write("The stars are many and the rivers run. " * 150)
    args = [prog("hearth"), "--socket", "unix://" + d.sock, "ingest", "-s", "part", doc]
    p = subprocess.Popen(args, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={"HOME": d.dir})
    t0 = time.monotonic()
    with d.link() as l:  # until it reads the document: then the stop is the request's end, too
        while p.poll() is None and time.monotonic() - t0 < 60 * SLOWER:
            s = l.call(SESSION_LIST, {"all": True})["sessions"]
            if s and s[0]["running"]:
                r = l.call(NEXT, {"stream": s[0]["request"], "cursor": 0, "max_wait_ms": 0})
                if r["state"] == "prefill":
                    break
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=60 * SLOWER)[1]
        check(p.returncode in (130, 0), err)  # 0: it was in before the stop came
        while l.call(SESSION_SHOW, {"session": "part"})["running"]:
            pass
    p = d.cli("ask", "-s", "part", "What runs?", "-n", "4")
    check_eq(p.returncode, 0, p.stderr)
    before = last_json(d.cli("sessions", "show", "part", "--json"))["tokens"]
    own = last_json(d.cli("sessions", "show", "part", "--json"))["turns"][0]["tokens"]
    for i in range(3):  # proved by its text, then by what was written down of it
        if i == 2:  # without the question
            check_eq(d.cli("sessions", "rewind", "part", "--to", "1").returncode, 0, "rewind")
            before = own
            check_eq(d.cli("ingest", "-s", "part", doc).returncode, 0, "what was not read of it by itself")
            check("ingest" not in last_json(d.cli("sessions", "show", "part", "--json")), "is still partial")
        p = d.cli("ingest", "-s", "part", doc)
        check(p.returncode == 0 and "stars.txt is in session part already ({:,} tokens)".format(own) in p.stderr, lambda: p.stderr)
        check_eq(last_json(d.cli("sessions", "show", "part", "--json"))["tokens"], before, "tokens of the session")
    # What the command has written down of a session goes with it.
    kept = lambda: [f for _, _, fs in os.walk(os.path.join(d.dir, ".local")) for f in fs if f.endswith(".json")]
    check_eq(len(kept()), 1, "what is written down of one session's documents")
    check_eq(d.cli("sessions", "rm", "part").returncode, 0, "sessions rm")
    check_eq(kept(), [], "what is written down of a session that is gone")
    d.stop()


def stop_reading(d, session, doc, *more):
    """An ingest that is stopped while it reads a document that no other session has read."""
    with open(doc, "w") as f:
        f.write("In %s the stars are many. " % session + "The stars are many and the rivers run. " * 200)
    p = subprocess.Popen([prog("hearth"), "--socket", "unix://" + d.sock, "ingest", "-s", session, doc, *more], stdin=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True, env={"HOME": d.dir})
    t0 = time.monotonic()
    with d.link() as l:
        while p.poll() is None and time.monotonic() - t0 < 60 * SLOWER:
            s = [x for x in l.call(SESSION_LIST, {"all": True})["sessions"] if x["name"] == session and x["running"]]
            if s and l.call(NEXT, {"stream": s[0]["request"], "cursor": 0, "max_wait_ms": 0})["state"] == "prefill":
                break
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=60 * SLOWER)[1]
        while l.call(SESSION_SHOW, {"session": session})["running"]:
            pass
    if p.returncode == 0:
        skip("the document was read before it could be stopped")
    check_eq(p.returncode, 130, err)


def nothing_that_came_behind_a_stopped_document_is_taken_back():
    d = serve()
    docs = {}
    for name, words in (("r.txt", ""), ("d1.txt", "One duck swims.\n"), ("d2.txt", "Two dogs bark.\n")):
        docs[name] = os.path.join(d.dir, name)
        with open(docs[name], "w") as f:
            f.write(words)
    show = lambda s: last_json(d.cli("sessions", "show", s, "--text", "--json"))["turns"]
    said = lambda s: [[w for w in ("stars", "duck", "dogs") if w in t["text"]] for t in show(s)]
    # Documents that were acknowledged since; the stopped one is whole, read to its end by what came.
    stop_reading(d, "wk", docs["r.txt"])
    for n in ("d1.txt", "d2.txt"):
        check_eq(d.cli("ingest", "-s", "wk", docs[n]).returncode, 0, n)
    for how in ([], ["--json"], []):
        p = d.cli("ingest", "-s", "wk", docs["r.txt"], *how)
        check(p.returncode == 0 and (how or "r.txt is in session wk already" in p.stderr), lambda: p.stdout + p.stderr)
        check_eq(said("wk"), [["stars"], ["duck"], ["dogs"]], "documents of wk")
    # The other way round within one command.
    stop_reading(d, "k", docs["r.txt"], docs["d1.txt"])
    p = d.cli("ingest", "-s", "k", docs["d1.txt"], docs["r.txt"])
    check_eq((p.returncode, said("k")), (0, [["stars"], ["duck"]]), "documents of k: " + p.stderr)
    # One that is not whole any more goes in again, behind what came since; that is said.
    for how in ([], ["--json"]):
        s = "cut%d" % len(how)
        stop_reading(d, s, docs["r.txt"])
        check_eq(d.cli("sessions", "rewind", s, "--tokens", "300").returncode, 0, "rewind")
        check_eq(d.cli("ingest", "-s", s, docs["d1.txt"]).returncode, 0, "d1.txt")
        p = d.cli("ingest", "-s", s, docs["r.txt"], *how)
        words = "r.txt was stopped, is not whole in session " + s
        check(p.returncode == 0 and (words in last_json(p)["warnings"][0] if how else words in p.stderr), lambda: p.stdout + p.stderr)
        check_eq(said(s), [["stars"], ["duck"], ["stars"]], "documents of " + s)
    # With nothing behind it it goes on where it was.
    stop_reading(d, "alone", docs["r.txt"])
    check_eq(d.cli("ingest", "-s", "alone", docs["r.txt"]).returncode, 0, "alone")
    check_eq(said("alone"), [["stars"]], "documents of alone")
    d.stop()


def a_document_is_in_where_its_turn_is_and_nowhere_else():
    d = serve()
    doc, small, other = (os.path.join(d.dir, n) for n in ("r.txt", "small.txt", "other.txt"))
    for path, words in ((small, "It rains.\n"), (other, "".join("Line %d of another text.\n" % i for i in range(500)))):
        with open(path, "w") as f:
            f.write(words)
    tokens = lambda s: last_json(d.cli("sessions", "show", s, "--json"))["tokens"]
    text = lambda s: "".join(t["text"] for t in last_json(d.cli("sessions", "show", s, "--text", "--json"))["turns"])
    into = lambda s, path: d.cli("ingest", "-s", s, "-m", "m", path)
    # The daemon goes on with a turn that another request has begun: in a fork, for one.
    stop_reading(d, "w1", doc)
    check_eq(d.cli("sessions", "fork", "w1", "w2").returncode, 0, "fork")
    check_eq(into("w2", doc).returncode, 0, "goes on in the fork")
    n = tokens("w2")
    check_eq(text("w2").count("stars"), text("w1").count("stars"), "once")
    p = into("w2", doc)
    check(p.returncode == 0 and "is in session w2 already" in p.stderr and "(0 tokens)" not in p.stderr, lambda: p.stderr)
    check_eq(tokens("w2"), n, "once")
    # That proves nothing of a session that never had it.
    check_eq(into("fresh", other).returncode, 0, "another text")
    check(tokens("fresh") > n, "not long enough")
    p = into("fresh", doc)
    check(p.returncode == 0 and "already" not in p.stderr and "stars" in text("fresh"), lambda: p.stderr)
    # Nor does what stands before it: one that was taken back goes in again.
    before = tokens("fresh")
    check_eq(into("fresh", small).returncode, 0, "small.txt")
    check_eq(d.cli("sessions", "rewind", "fresh", "--tokens", str(before)).returncode, 0, "rewind")
    p = into("fresh", small)
    check(p.returncode == 0 and "already" not in p.stderr and "It rains." in text("fresh"), lambda: p.stderr)
    # Who took back what had read it to its end: the same command reads the rest.
    stop_reading(d, "v", doc)
    check_eq(d.cli("ask", "-s", "v", "-n", "2", "hi").returncode, 0, "ask")
    check("already" in into("v", doc).stderr, "in")
    s = last_json(d.cli("sessions", "show", "v", "--json"))
    check_eq(d.cli("sessions", "rewind", "v", "--to", "1").returncode, 0, "rewind")
    check_eq(into("v", doc).returncode, 0, "the rest")
    s = last_json(d.cli("sessions", "show", "v", "--json"))
    check("ingest" not in s and text("v").count("stars") == text("w1").count("stars"), lambda: repr(s))
    # What was refused has not begun: no word of that later, and no other text passes for it.
    check_eq(d.cli("ask", "-s", "r", "--create", "-m", "m", "-n", "2", "hi").returncode, 0, "r")
    with d.link() as l:
        x = new_id()
        l.call(START, {"id": x, "session": "r", "model": "m", "input": "messages", "messages": [{"role": "user", "content": "Count."}],
                       "params": {"ignore_eos": True, "max_tokens": 7000}})
        check_eq(into("r", small).returncode, 75, "busy")
        l.call(CANCEL, {"stream": x})
    until = time.monotonic() + 20 * SLOWER
    while last_json(d.cli("sessions", "show", "r", "--json"))["running"] and time.monotonic() < until:
        time.sleep(0.1)
    p = into("r", small)
    check(p.returncode == 0 and "warning" not in p.stderr and "already" not in p.stderr, lambda: p.stderr)
    check("It rains." in text("r"), "small.txt")
    # A rewind that is meant for a session as it was seen.
    with d.link() as l:
        for want, status in ((tokens("r") - 1, 9), (tokens("r"), 0)):
            st, o, _ = l.raw(SESSION_REWIND, {"id": new_id(), "session": "r", "to_turn": 1, "if_tokens": want})
            check((st != 0) == (status != 0) and (st == 0 or (o["slug"] == "session_changed" and o["tokens"] == tokens("r"))), lambda: repr((st, o)))
    d.stop()


def what_cannot_be_meant_is_answered_with_what_can():
    d = serve()
    d.cli("ask", "-s", "book", "--create", "-m", "m", "One.", "-n", "4")
    for verb in ("rename", "fork"):
        p = d.cli("sessions", verb, "book", "book")
        check(p.returncode == 2 and "name" in p.stderr and "sessions rm" not in p.stderr, lambda: "%d %s" % (p.returncode, p.stderr))
    p = d.cli("chat", "-s", "book", inp="/save book\n/etc/passwd\n/quit\n")
    check("it is called book already" in p.stderr and "behind a blank" in p.stderr, lambda: p.stderr)
    check_eq(names(d), ["book"], "sessions")
    p = d.cli("plan", "m", "--tokens", "999999")
    check("fits: no: the model's context has 8,192 tokens" in p.stdout, lambda: p.stdout)
    check(last_json(d.cli("plan", "m", "--tokens", "999999", "--json"))["fits"] is False, "fits in JSON")
    # The flags' names, also for who reads JSON; an empty name is a mistake everywhere.
    for args, field in ((["ask", "-s", "book", "--samplers", "foo", "x"], "--samplers"), (["sessions", "rewind", "book", "--to", "99"], "--to"),
                        (["sessions", "fork", "book", "--turn", "9"], "--turn"), (["sessions", "fork", "book", "--tokens", "99999"], "--tokens")):
        j = json.loads(d.cli(*args, "--json").stdout.splitlines()[-1])
        check(j.get("field") == field and j["message"].startswith(field + ": "), lambda: "%r: %r" % (args, j))
        check(field + ": " in d.cli(*args).stderr, args)
    for args in (["sessions", "fork", "book", ""], ["sessions", "rename", "book", ""], ["chat", "-s", ""], ["ask", "-s", "", "x"]):
        p = d.cli(*args)
        check(p.returncode == 2, lambda: "%r: %d %s" % (args, p.returncode, p.stderr))
    check("context has" not in d.cli("plan", "m", "--tokens", "512").stdout, "one that fits")
    # Two that run: which of them is meant has to be said, with the names in JSON, too.
    with d.link() as l, d.link() as l2:
        for x, name in ((l, "one"), (l2, "two")):
            x.call(START, {"id": new_id(), "session": name, "create": True, "model": "m", "input": "prompt", "prompt": "Count.",
                           "params": {"ignore_eos": True, "max_tokens": 7000}})
        p = d.cli("cancel", "--json")
        e = json.loads(p.stdout.splitlines()[-1])
        check(p.returncode == 2 and sorted(x["session"] for x in e["requests"]) == ["one", "two"], lambda: p.stdout)
        for name in ("one", "two"):
            d.cli("cancel", name)
    # Nobody reads what is written: 130, as the manual has it, and not a word.
    r, w = os.pipe()
    os.close(r)
    p = subprocess.run([prog("hearth"), "--socket", "unix://" + d.sock, "sessions"], stdout=w, stderr=subprocess.PIPE,
                       stdin=subprocess.DEVNULL, env={"HOME": d.dir}, timeout=120 * SLOWER)
    os.close(w)
    check_eq((p.returncode, p.stderr), (130, b""), "a closed pipe")
    d.stop()


main(a_context_the_model_cannot_have_is_said, chat_says_where_one_is, a_fork_without_a_name_says_that_it_expires, a_full_session_has_a_way_on_that_keeps_it,
     a_cancelled_answer_says_so_over_http, a_model_that_cannot_be_read_is_listed_with_the_reason,
     a_stopped_document_that_was_asked_about_goes_in_once, nothing_that_came_behind_a_stopped_document_is_taken_back,
     a_document_is_in_where_its_turn_is_and_nowhere_else,
     what_cannot_be_meant_is_answered_with_what_can)
