#!/usr/bin/env python3
"""test_cli.py - the verbs people type, against a real daemon: JSON keys, exit codes, both carriers."""
import pty

from hearthlib import *


def last_json(p):
    check(p.returncode == 0, lambda: "exit %d: %s" % (p.returncode, p.stderr[-600:]))
    return json.loads(p.stdout.strip().splitlines()[-1])


def verbs_work_over(url_of):
    d = Daemon("--http", "off", front=True).start()
    d.load()
    url = url_of(d)
    if url.startswith("ipc://"):
        t0 = time.monotonic()
        while not os.path.exists(d.ipc) and time.monotonic() - t0 < 20 * SLOWER:
            time.sleep(0.02)
    h = lambda *a, **k: d.cli(*a, url=url, **k)
    j = last_json(h("run", "m", "Say hello.", "-n", "8", "--greedy", "--json"))
    for k in ("type", "model", "text", "tokens", "logprobs", "finish", "turn", "durable", "usage", "reused_from", "timings"):
        check(k in j, lambda: "run --json lacks %r: %r" % (k, sorted(j)))
    check_eq(j["type"], "done", "type")
    check_eq(j["usage"]["generated"], len(j["tokens"]), "usage.generated")
    check_eq(len(j["logprobs"]), len(j["tokens"]), "logprobs")
    p = h("run", "m", "Say hello.", "-n", "8", "--greedy", "-q")
    check_eq((p.returncode, p.stdout.strip()), (0, j["text"].strip()), "run prints the answer on stdout")
    doc = os.path.join(d.dir, "doc.txt")
    with open(doc, "w") as f:
        f.write(text(0, 5000))
    j = last_json(h("ingest", "-s", "book", "-m", "m", doc, "--json"))
    check(j["durable"] is True and j["usage"]["generated"] == 0 and j["usage"]["context"] > 500, lambda: repr(j))
    n = j["usage"]["context"]
    j = last_json(h("ask", "-s", "book", "What is this?", "-n", "12", "--seed", "1", "--json"))
    check(j["usage"]["reused"] >= n - 257 and j["durable"], lambda: repr(j["usage"]))
    s = last_json(h("sessions", "show", "book", "--json", "--ids"))
    for k in ("id", "name", "owner", "model", "tokens", "turns", "bytes", "pinned", "created", "used", "ids"):
        check(k in s, lambda: "sessions show --json lacks %r" % k)
    check_eq(len(s["ids"]), s["tokens"], "ids of the session")
    p = h("sessions", "show", "book", "--text")
    check("[1 user]" in p.stdout and text(0, 5000)[:60] in p.stdout and "What is this?" in p.stdout and j["text"].strip() in p.stdout,
          lambda: p.stdout[-800:] + p.stderr)
    t = last_json(h("sessions", "show", "book", "--text", "--json"))["turns"]
    check(t[-1]["role"] == "assistant" and j["text"].strip() in t[-1]["text"] and "What is this?" in t[-2]["text"], lambda: repr(t[1:]))
    before = s["tokens"]
    last_json(h("ask", "-s", "book", "--fork", "And now?", "-n", "4", "--json"))
    check_eq(last_json(h("sessions", "show", "book", "--json"))["tokens"], before, "tokens after ask --fork")
    for a in (("sessions", "fork", "book", "copy"), ("sessions", "rename", "copy", "copy2"), ("sessions", "pin", "copy2"),
              ("sessions", "unpin", "copy2"), ("sessions", "rewind", "copy2", "--tokens", "300")):
        p = h(*a)
        check(p.returncode == 0, lambda: "%s: exit %d %s" % (" ".join(a), p.returncode, p.stderr))
    check_eq(last_json(h("sessions", "show", "copy2", "--json"))["tokens"], 300, "tokens after rewind")
    names = [x["name"] for x in last_json(h("sessions", "ls", "--json"))["sessions"]]
    check("book" in names and "copy2" in names, lambda: repr(names))
    p = h("sessions", "rm", "copy2")
    check(p.returncode == 0 and "removed copy2, id " in p.stderr, lambda: "rm: %d %s" % (p.returncode, p.stderr))
    check_eq(h("sessions", "show", "copy2").returncode, 4, "exit code for a session that is gone")
    check_eq(h("run", "nosuch", "x").returncode, 4, "exit code for a model that is not there")
    check_eq(h("frobnicate").returncode, 2, "exit code for an unknown verb")
    check_eq(h("run").returncode, 2, "exit code for a missing argument")
    check_eq(d.cli("status", url="unix://" + d.dir + "/nobody.sock", timeout=90).returncode, 3, "exit code without a daemon")
    st = last_json(h("status", "--json"))
    for k in ("status", "pid", "version", "models", "sessions", "tiers", "written", "queue", "warnings"):
        check(k in st, lambda: "status --json lacks %r" % k)
    check_eq(st["pid"], d.proc.pid, "status.pid")
    t = st["tiers"]["file"]
    check(0 < t["used"] < t["allocated"] <= t["limit"], lambda: "the disk's tier: %r" % (t,))
    p = h("tokenize", "-m", "m", "hello world", "--json")
    check(p.returncode == 0, lambda: "tokenize: %s" % p.stderr)
    for a in (("models",), ("show", "m"), ("ps",), ("status",), ("doctor",), ("version",), ("unload", "m"), ("load", "m"),
              ("help",), ("completion", "bash"), ("sessions",)):
        p = h(*a)
        check(p.returncode == 0, lambda: "%s: exit %d %s" % (" ".join(a), p.returncode, p.stderr[-300:]))
    d.stop()


def verbs_work_straight_to_the_core():
    verbs_work_over(lambda d: "unix://" + d.sock)


def verbs_work_over_nanomsg():
    verbs_work_over(lambda d: "ipc://" + d.ipc)


def an_answer_that_nobody_goes_on_with_is_shown_as_interrupted():
    d = Daemon("--http", "off").start()
    p = subprocess.Popen([prog("hearth"), "--socket", "unix://" + d.sock, "ask", "-s", "cut", "--create", "--ignore-eos", "Count."],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={"HOME": d.dir})
    p.stdout.read(20)
    word = lambda: d.cli("sessions", "show", "cut").stdout.count("interrupted")
    check_eq(word(), 0, "says it while it is made")
    d.stop()
    p.kill()
    p.wait()
    d.start()
    check_eq(word(), 1, "says it at once")
    check_eq(d.cli("ask", "-s", "cut", "-n", "2", "More.").returncode, 0, "who goes on")
    check_eq(word(), 1, "and afterwards")
    d.stop()


def an_interrupted_ingest_goes_on_where_it_was():
    d = Daemon().start()
    d.load()
    doc = os.path.join(d.dir, "doc.txt")
    with open(doc, "w") as f:
        f.write(text(0, 12000))
    env = dict(os.environ, HOME=d.dir)
    p = subprocess.Popen([prog("hearth"), "--socket", "unix://" + d.sock, "ingest", "-s", "b", "-m", "m", doc, "--json"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    t0 = time.monotonic()
    for line in p.stdout:
        j = json.loads(line)
        if j["type"] == "progress" and (j.get("done") or (j.get("progress") or {}).get("done") or 0) >= 1024:
            break
        if time.monotonic() - t0 > 60 * SLOWER:
            break
    check(p.poll() is None, "the ingest was over before it could be interrupted")
    p.send_signal(signal.SIGINT)
    p.stdout.read()
    check_eq(p.wait(60), 130, "exit code of an interrupted ingest")

    def partial(when):
        g = last_json(d.cli("sessions", "show", "b", "--json")).get("ingest") or {}
        check(1024 <= (g.get("done") or 0) < g.get("total", 0), lambda: "%s: %r" % (when, g))
        check("partial: read " in d.cli("sessions").stdout and "partial: read " in d.cli("sessions", "show", "b").stdout, when)

    partial("after Ctrl-C")
    d.restart(clean=False)
    d.load()
    partial("after kill -9")
    j = last_json(d.cli("ingest", "-s", "b", "-m", "m", doc, "--json"))
    check(j["usage"]["reused"] >= 1024 - 256, lambda: "went on with %r" % j["usage"])
    check("partial" not in d.cli("sessions").stdout and "ingest" not in last_json(d.cli("sessions", "show", "b", "--json")), "it is whole now")
    with d.link() as l:
        whole = l.call(SESSION_SHOW, {"session": "b", "ids": True})
        one = Daemon().start()
    one.load()
    j2 = last_json(one.cli("ingest", "-s", "b", "-m", "m", doc, "--json"))
    with one.link() as l:
        ref = l.call(SESSION_SHOW, {"session": "b", "ids": True})
    check(ref["_tail"] == whole["_tail"], "the session differs from one that was ingested at once")
    one.stop()
    d.stop()


def a_refused_ingest_leaves_no_session():
    d = Daemon("--http", "off").start()
    d.load()
    doc = os.path.join(tmpdir(), "long.txt")
    with open(doc, "w") as f:
        f.write("one two three four five\n" * 3000)
    p = d.cli("ingest", "-s", "fresh", "-m", "m", doc)
    check(p.returncode != 0 and "context" in p.stderr and "rewind" not in p.stderr, lambda: "%d: %s" % (p.returncode, p.stderr))
    p = d.cli("sessions", "show", "fresh")
    check_eq(p.returncode, 4, "sessions show of what was refused")
    with open(doc, "w") as f:
        f.write("It rains.\n")
    last_json(d.cli("ingest", "-s", "fresh", "-m", "m", doc, "--json"))
    with open(doc, "w") as f:
        f.write("one two three four five\n" * 3000)
    p = d.cli("ingest", "-s", "fresh", doc)
    check(p.returncode != 0 and "--split" in p.stderr, lambda: "%d: %s" % (p.returncode, p.stderr))
    check_eq(d.cli("sessions", "show", "fresh").returncode, 0, "sessions show of one that has tokens")


def what_a_session_had_its_fork_has():
    d = Daemon("--http", "off").start()
    d.load()
    doc = os.path.join(d.dir, "doc.txt")
    with open(doc, "w") as f:
        f.write("The stars are many and the rivers run. " * 20)
    for name in ("one", "other"):
        check_eq(d.cli("ingest", "-q", "-s", name, "-m", "m", doc).returncode, 0, "ingest into " + name)
    check_eq(d.cli("ask", "-s", "one", "What runs?", "-n", "4").returncode, 0, "ask")
    for at in (("--turn", "1"), ()):
        name = "fork%d" % len(at)
        check_eq(d.cli("sessions", "fork", "one", name, *at).returncode, 0, "fork")
        before = last_json(d.cli("sessions", "show", name, "--json"))["tokens"]
        for _ in range(2):  # proved by its ids, then by what was written down of it
            p = d.cli("ingest", "-s", name, doc)
            check(p.returncode == 0 and "doc.txt is in session %s already" % name in p.stderr, lambda: p.stderr)
            check_eq(last_json(d.cli("sessions", "show", name, "--json"))["tokens"], before, "tokens of the fork")
    # One that began with something else has not got it, nor one that was taken back.
    check_eq(d.cli("ask", "-s", "third", "--create", "-m", "m", "Hello.", "-n", "60", "--ignore-eos").returncode, 0, "ask")
    p = d.cli("ingest", "-s", "third", doc)
    check(p.returncode == 0 and "already" not in p.stderr, lambda: p.stderr)
    check_eq(d.cli("sessions", "fork", "one", "half", "--tokens", "30").returncode, 0, "fork")
    p = d.cli("ingest", "-s", "half", doc)
    check(p.returncode == 0 and "already" not in p.stderr, lambda: p.stderr)
    d.stop()


def one_end_of_input_on_a_terminal_is_enough():
    d = Daemon("--http", "off").start()
    d.load()
    for args in (["tokenize", "-m", "m"], ["run", "m", "-", "-n", "2"]):
        try:
            pid, fd = pty.fork()
        except OSError as e:
            skip("no terminal can be made here (is /dev/pts mounted?): %s" % e)
        if pid == 0:
            os.environ.update(HOME=d.dir, TERM="dumb")
            os.execv(prog("hearth"), ["hearth", "--socket", "unix://" + d.sock] + args)
        time.sleep(0.5)
        os.write(fd, b"hello\n\x04")
        t0, over = time.monotonic(), (0, 0)
        while over[0] == 0 and time.monotonic() - t0 < 30 * SLOWER:
            over = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)
        if over[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        check(over == (pid, 0), lambda: "%r: %r" % (args, over))
        os.close(fd)
    d.stop()


def an_output_that_is_closed_is_an_error():
    d = Daemon("--http", "off").start()
    d.load()
    for args in (["sessions", "--json"], ["status"], ["help"], ["ask", "-s", "q", "--create", "-m", "m", "One.", "-n", "2"]):
        p = subprocess.run([prog("hearth"), "--socket", "unix://" + d.sock] + args, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                           text=True, env={"HOME": d.dir}, timeout=60 * SLOWER, preexec_fn=lambda: os.close(1))
        check(p.returncode == 1 and "cannot write the output" in p.stderr, lambda: "%r: %d %s" % (args, p.returncode, p.stderr))
    d.stop()


def parts_that_are_in_are_said_once():
    d = Daemon("--http", "off", "--context", "512").start()
    d.load()
    doc = os.path.join(d.dir, "long.txt")
    with open(doc, "w") as f:
        f.write("".join("%d bottles stand on a wall.\n" % i for i in range(120)))
    for again in (False, True):
        p = d.cli("ingest", "-s", "shelf", "-m", "m", "--split", doc)
        said = [x for x in p.stderr.splitlines() if "is in session shelf-" in x]
        check(p.returncode == 0 and len(said) > 1 and len(set(x.split(" is in")[0] for x in said)) == len(said), lambda: p.stderr)
        check(all((" already (" in x) == again for x in said), lambda: p.stderr)
    d.stop()


def a_split_goes_on_with_its_own_parts_only():
    d = Daemon("--http", "off", "--context", "512").start()
    d.load()
    doc = {}
    for name in ("d1", "d2", "q3", "q4"):
        doc[name] = os.path.join(d.dir, name + ".txt")
        with open(doc[name], "w") as f:
            f.write("".join("%s: %d bottles stand on a wall.\n" % (name, i) for i in range(10)))
    split = lambda name, *docs: d.cli("ingest", "-s", name, "-m", "m", "--split", *[doc[x] for x in docs])
    tokens = lambda: {s["name"]: s["tokens"] for s in last_json(d.cli("sessions", "--json"))["sessions"]}
    p = split("sp", "d1", "d2")
    check(p.returncode == 0 and "d1.txt (1 of 2) is in session sp-1\n" in p.stderr and "part 1" not in p.stderr, lambda: p.stderr)
    check("d1.txt (1 of 2): [stop] context" in p.stderr and "d2.txt (2 of 2): [stop] context" in p.stderr, lambda: p.stderr)
    # Other documents of the same name are refused before anything is written, also where only a later name is taken.
    check_eq(d.cli("sessions", "rename", "sp-2", "so-2").returncode, 0, "rename")
    before = tokens()
    for name, taken in (("sp", "sp-1"), ("so", "so-2")):
        p = split(name, "q3", "q4")
        check(p.returncode == 1 and "session %s has something else in it than q" % taken in p.stderr and "sessions rm " + taken in p.stderr, lambda: p.stderr)
    check_eq(tokens(), before, "sessions after what was refused")
    # Its own go on, also in a fork of them, and after a question.
    check_eq(d.cli("sessions", "fork", "so-2", "sp-2").returncode, 0, "fork")
    check_eq(d.cli("ask", "-s", "sp-1", "What stands there?", "-n", "4").returncode, 0, "ask")
    p = split("sp", "d1", "d2")
    check(p.returncode == 0 and p.stderr.count(" already (") == 2, lambda: p.stderr)
    # One that is all one part goes into the session that was named; that this is not empty is said.
    check_eq(d.cli("ask", "-s", "one", "--create", "-m", "m", "word " * 400, "-n", "4").returncode, 0, "ask")
    p = split("one", "q3")
    check(p.returncode == 1 and "other text in it already; give this split another NAME" in p.stderr, lambda: p.stderr)
    d.stop()


def an_answer_that_was_left_while_the_daemon_was_gone_does_not_go_on():
    d = Daemon("--http", "off").start()
    d.load()
    p = subprocess.Popen([prog("hearth"), "--socket", "unix://" + d.sock, "ask", "-s", "left", "--create", "-m", "m", "Count.", "--ignore-eos"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"HOME": d.dir})
    p.stdout.read(40)
    d.kill9()
    time.sleep(0.3)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=60 * SLOWER)[1]
    check(p.returncode == 130 and "does not go on with it, now or after a restart" in err, lambda: "%d %s" % (p.returncode, err))
    d.start()
    d.load()
    seen = [last_json(d.cli("sessions", "show", "left", "--json")) for _ in (time.sleep(0), time.sleep(2))]
    check(not any(s["running"] for s in seen) and seen[0]["tokens"] == seen[1]["tokens"] and len(seen[0]["turns"]) == 2, lambda: repr(seen))
    d.stop()


def a_chat_that_goes_on_shows_where_it_was():
    try:
        for fd in pty.openpty():
            os.close(fd)
    except OSError as e:
        skip("no terminal can be made here (is /dev/pts mounted?): %s" % e)
    d = Daemon("--http", "off").start()
    d.load()
    said = last_json(d.cli("ask", "-s", "talk", "--create", "-m", "m", "Say hello.", "-n", "8", "--greedy", "--json"))["text"].strip()
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(HOME=d.dir, TERM="dumb")
        os.execv(prog("hearth"), ["hearth", "--socket", "unix://" + d.sock, "chat", "-s", "talk"])
    out, t0 = "", time.monotonic()
    while "> " not in out and time.monotonic() - t0 < 30 * SLOWER:
        out += os.read(fd, 4096).decode(errors="replace")
    os.write(fd, b"/quit\r")
    try:
        while os.read(fd, 4096):
            pass
    except OSError:
        pass
    os.waitpid(pid, 0)
    check(said.splitlines()[-1] in out and "talk with m: " in out, lambda: "%r lacks %r" % (out, said))
    d.stop()


def a_second_daemon_is_refused_by_name_and_the_next_begins():
    d = Daemon("--http", "off", model_path=None).start()
    flags = ["--detach", "--json", "--models", d.models, "--state", d.state, "--runtime", d.runtime, "--http", "off", "--no-front",
             "--host-memory", "1GiB", "--disk", "8GiB"]
    p = d.cli("serve", *flags)
    j = json.loads(p.stdout)
    check_eq((p.returncode, j["status"], j["slug"]), (1, "ALREADY_EXISTS", "daemon_runs"), "with one running")
    # The same words whichever way it is refused.
    want = "another hearthd (pid %d) runs in %s" % (d.proc.pid, d.runtime), "stop it, or give this one a --runtime and --state of its own"
    check_eq((j["message"], j["hint"]), want, "what serve --detach --json says")
    for how in (flags[:1] + flags[2:], flags[2:]):
        p = d.cli("serve", *how)
        check(p.returncode == 1 and "; ".join(want) in p.stderr, lambda: "%r: %d %s" % (how, p.returncode, p.stderr))
    check_eq(d.stop(), 0, "exit status of a clean stop")
    time.sleep(0.5)
    check(not os.path.exists(d.sock) or d.cli("status").returncode == 3, "the refused daemon runs after all")
    p = d.cli("serve", *flags)
    check(p.returncode == 0, lambda: p.stdout + p.stderr)
    os.kill(json.loads(p.stdout)["pid"], signal.SIGTERM)


def ended(pid):
    try:
        with open("/proc/%d/status" % pid) as f:
            return "\nState:\tZ" in f.read()
    except OSError:
        return True


def what_serve_warns_of_is_the_same_in_words_and_in_json():
    d = Daemon("--http", "off", model_path=None)
    os.makedirs(d.models, exist_ok=True)
    os.symlink(os.path.join(d.dir, "not-here.gguf"), os.path.join(d.models, "away.gguf"))
    d.flags += ["--model", "none=/nonexistent.gguf", "--model", "text=" + os.path.abspath(__file__)]
    said = []
    for how in (["--json"], []):
        p = d.cli("serve", "--detach", *how, *d.argv()[1:], "--no-fsync")
        check(p.returncode == 0, lambda: p.stdout + p.stderr)
        pid = json.loads(d.cli("status", "--json").stdout)["pid"]
        os.kill(pid, signal.SIGTERM)
        while not ended(pid):
            time.sleep(0.01)
        head = "hearth: warning: "
        said.append(json.loads(p.stdout)["warnings"] if how else [x[len(head):] for x in p.stderr.splitlines() if x.startswith(head)])
    check_eq(said[0], said[1], "warnings")
    check(any("no-fsync" in w for w in said[0]) and all(any(w.startswith("model %s cannot be loaded: " % m) for w in said[0])
                                                    for m in ("away", "none", "text")), lambda: repr(said))


def what_runs_can_be_ended_as_rm_and_unload_advise():
    d = Daemon("--http", "off").start()
    d.load()
    for verb in (("sessions", "rm", "long"), ("unload", "m")):
        p = subprocess.Popen([prog("hearth"), "--socket", "unix://" + d.sock, "ask", "-s", "long", "--create", "-m", "m", "Count.",
                              "-n", "5000", "--ignore-eos", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                             env=dict(os.environ, HOME=d.dir))
        for line in p.stdout:
            if json.loads(line)["type"] == "text":
                break
        r = d.cli(*verb)
        check(r.returncode == 75 and "hearth cancel" in r.stderr, lambda: "%s: %d %s" % (verb[0], r.returncode, r.stderr))
        advice = r.stderr.split("`hearth ")[1].split("`")[0].split()
        r = d.cli(*advice)
        check(r.returncode == 0 and "cancelled" in r.stderr, lambda: "%r: %d %s" % (advice, r.returncode, r.stderr))
        last = json.loads(p.stdout.read().splitlines()[-1])
        check_eq(p.wait(60), 130, "exit code of the answer that was cancelled: %r" % last)
        check_eq((last["type"], last["finish"], last["session"]), ("done", "cancelled", "long"), "its last object")
        r = d.cli(*verb)
        check_eq(r.returncode, 0, "%s afterwards: %s" % (verb[0], r.stderr))
    check_eq(d.cli("sessions", "show", "long").returncode, 0, "the cancelled session stays")
    j = last_json(d.cli("cancel", "long", "--json"))
    check_eq((j["state"], "stream" in j), ("idle", False), "cancel of a session at rest")
    check_eq(d.cli("cancel").returncode, 0, "cancel when nothing runs")
    check_eq(d.cli("cancel", "nosuch").returncode, 4, "cancel of a session that is not there")
    for what in ("0" * 32, "0123456789abcdef"):
        p = d.cli("cancel", what)
        check(p.returncode == 4 and "there is neither a request nor a session " + what in p.stderr, lambda: "%d %s" % (p.returncode, p.stderr))
    d.stop()


def what_nobody_reads_on_is_over_when_hearth_ends():
    d = Daemon("--http", "off").start()
    d.load()
    env = dict(os.environ, HOME=d.dir, H=prog("hearth"), U="unix://" + d.sock)
    for how in ("run m 'Go on about the sea' --ignore-eos -n 2000", "ask -s q1 --create 'Go on about the sea' --ignore-eos -n 2000",
                "chat -s q1 --ignore-eos -n 1000 <in"):
        for flag in ("", " --json"):
            with open(os.path.join(d.dir, "in"), "w") as f:
                f.write("Go on.\nMore.\n")
            p = subprocess.run("(\"$H\" --socket \"$U\" %s %s; echo $? >rc) | head -c 20" % (how, flag), shell=True, cwd=d.dir,
                               env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=120 * SLOWER)
            with open(os.path.join(d.dir, "rc")) as f:
                check_eq(f.read().strip(), "130", "exit code of hearth %s%s, which said %r" % (how, flag, p.stderr))
            check("cannot write" not in p.stderr, lambda: p.stderr)
            with d.link() as l:
                check(not any(s.get("running") for s in l.call(SESSION_LIST, {"all": True})["sessions"]), "%s%s still runs" % (how, flag))
    p = d.cli("ask", "-s", "q1", "More", "-n", "3")
    check_eq(p.returncode, 0, "the next question: %s" % p.stderr)
    d.stop()


def text_in_another_encoding_is_converted_or_refused():
    d = Daemon("--http", "off").start()
    d.load()
    said = "Müller grüßt die Bäckerei, zehn Brötchen kosten fünf Taler. " * 4

    def doc(name, data):
        with open(os.path.join(d.dir, name), "wb") as f:
            f.write(data)
        return f.name

    plain = doc("plain.txt", said.encode())
    for name in ("utf-16", "utf-16-le", "utf-8-sig"):
        p = d.cli("ingest", "-s", name, "-m", "m", doc(name, said.encode(name)), "--json")
        check(p.returncode == 0 and ("converted" in p.stderr or "left out" in p.stderr), lambda: "%s: %d %s" % (name, p.returncode, p.stderr))
        p = d.cli("sessions", "show", name, "--text")
        check(said.strip() in p.stdout, lambda: "%s became %r" % (name, p.stdout))
    for name in ("latin1", "cp1250"):
        f = doc(name, said.encode(name))
        for args in (("ingest", "-s", name, "-m", "m", f), ("ingest", "-s", name, "-m", "m", plain, f)):
            p = d.cli(*args)
            check(p.returncode == 1 and "0xfc at 1" in p.stderr and "--encoding" in p.stderr, lambda: "%d %s" % (p.returncode, p.stderr))
        check_eq(d.cli("sessions", "show", name).returncode, 4, "nothing is left of what was refused")
        p = d.cli("ingest", "-s", name, "-m", "m", "--encoding", name, f)
        check(p.returncode == 0, lambda: "--encoding %s: %d %s" % (name, p.returncode, p.stderr))
        check(said.strip() in d.cli("sessions", "show", name, "--text").stdout, name)
    p = d.cli("ingest", "-s", "zero", "-m", "m", doc("zero", said.encode() + bytes(40) + b"end"))
    check(p.returncode == 1 and "zero byte" in p.stderr, lambda: "%d %s" % (p.returncode, p.stderr))
    for args, data, code, words in ((("run", "m"), said.encode("latin1"), 1, "--encoding"),
                                    (("ask", "-s", "plain", "--create", "-m", "m", "What?"), said.encode("latin1"), 1, "--encoding"),
                                    (("ask", "-s", "plain", "--create", "-m", "m", "What?"), b"a\0b", 1, "zero byte"),
                                    (("ask", "-s", "plain", "--create", "-m", "m", b"Gr\xfc\xdfe"), b"", 2, "0xfc at 2"),
                                    (("run", "m", "Hi", "--system", b"\xff"), b"", 2, "--system"),
                                    (("chat", "-m", "m"), b"caf\xe9\n", 2, "0xe9 at 3"),
                                    (("chat", "-m", "m"), b"caf\0e\n", 1, "zero byte"),
                                    (("tokenize", "-m", "m"), b"caf\xe9", 1, "--encoding"),
                                    (("run", "m", "Hi", "-n", "1", "--encoding", "latin1"), b"caf\xe9", 0, "converted from latin1")):
        p = subprocess.run([prog("hearth").encode(), b"--socket", b"unix://" + d.sock.encode()] + [a if isinstance(a, bytes) else a.encode() for a in args],
                           input=data, capture_output=True, env=dict(os.environ, HOME=d.dir), timeout=60 * SLOWER)
        check(p.returncode == code and words in p.stderr.decode(), lambda: "%r: %d %r" % (args, p.returncode, p.stderr))
    check_eq(d.cli("sessions", "show", "plain").returncode, 4, "nothing was asked with noise")
    d.stop()


def sessions_without_a_name_are_removed_in_bulk():
    d = Daemon("--http", "off").start()
    d.load()
    with d.link() as l:
        for i in range(5):
            generate(l, {"model": "m", "input": "prompt", "prompt": "Number %d." % i, "params": {"max_tokens": 2}})
        generate(l, {"model": "m", "session": "named", "input": "prompt", "prompt": "Stay.", "params": {"max_tokens": 2}})
        ids = [s["id"] for s in l.call(SESSION_LIST, {"all": True})["sessions"] if s["anonymous"]]
        check_eq(len(ids), 5, "anonymous sessions")
        l.call(SESSION_PIN, {"id": new_id(), "session": ids[0], "pinned": True})
        j = last_json(d.cli("sessions", "rm", "--anonymous", "--older", "1h", "--json"))
        check_eq((j["removed"], j["kept"]), (0, 5), "none is an hour old")
        p = d.cli("sessions", "rm", "--anonymous")
        check(p.returncode == 0 and "removed 4 sessions" in p.stderr and "1 kept" in p.stderr, lambda: "%d %s" % (p.returncode, p.stderr))
        left = l.call(SESSION_LIST, {"all": True})["sessions"]
        check_eq(sorted(s["name"] or s["id"] for s in left), sorted(["named", ids[0]]), "what is left")
    check_eq(d.cli("sessions", "rm").returncode, 2, "rm without a name")
    check_eq(d.cli("sessions", "rm", "named", "--anonymous").returncode, 2, "rm with both")
    check_eq(d.cli("sessions", "rm", "--anonymous", "--older", "soon").returncode, 2, "--older soon")
    d.stop()


main(what_runs_can_be_ended_as_rm_and_unload_advise, sessions_without_a_name_are_removed_in_bulk,
     what_nobody_reads_on_is_over_when_hearth_ends, text_in_another_encoding_is_converted_or_refused,
     a_chat_that_goes_on_shows_where_it_was, a_second_daemon_is_refused_by_name_and_the_next_begins,
     what_serve_warns_of_is_the_same_in_words_and_in_json,
     verbs_work_straight_to_the_core, verbs_work_over_nanomsg, an_answer_that_nobody_goes_on_with_is_shown_as_interrupted, an_interrupted_ingest_goes_on_where_it_was,
     what_a_session_had_its_fork_has, one_end_of_input_on_a_terminal_is_enough, an_output_that_is_closed_is_an_error,
     a_refused_ingest_leaves_no_session, parts_that_are_in_are_said_once,
     a_split_goes_on_with_its_own_parts_only, an_answer_that_was_left_while_the_daemon_was_gone_does_not_go_on)
