"""demo.py - ingest a document, ask, kill -9 hearthd in mid-answer, restart, finish the answer.

Every number in the table is measured in this run; anything that is off ends it with exit 1.
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "e2e"))
from hearthlib import *

QUESTION = "What does this text say about copying? Answer in a few sentences."
PARAMS = {"max_tokens": 160, "temperature": 0.7, "top_p": 0.95, "seed": 42}
DOCS = ["/usr/share/common-licenses/GPL-2", "/usr/share/common-licenses/GPL-3", os.path.join(ROOT, "docs", "PROTOCOL.md")]
tty = sys.stderr.isatty()


def say(s=""):
    print(s, flush=True)


def document():
    want = os.environ.get("DOC")
    if want:
        check(os.path.exists(want), "DOC=%s: no such file" % want)
        return want
    return next(p for p in DOCS if os.path.exists(p))


def ingest(d, doc):
    """By the command line over nanomsg, as a user would."""
    env = dict(os.environ, HOME=d.dir)
    p = subprocess.Popen([prog("hearth"), "--socket", "ipc://" + d.ipc, "ingest", "-s", "demo", "-m", "m", doc, "--json"],
                         stdout=subprocess.PIPE, text=True, env=env)
    last = {}
    for line in p.stdout:
        last = json.loads(line)
        pr = last.get("progress") or last
        if last.get("type") == "progress" and tty and pr.get("total"):
            print("\r    %d of %d tokens, %.0f tokens/s   " % (pr.get("done", 0), pr["total"], pr.get("tokens_per_s") or 0),
                  end="", file=sys.stderr, flush=True)
    if tty:
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    check(p.wait() == 0 and last.get("type") == "done", lambda: "hearth ingest failed (exit %d): %r" % (p.returncode, last))
    check(last["durable"] is True, "the ingested turn is not durable")
    return last


def settled(d, wait_s=30):
    """Until every finished block is on disk: the kill must find them there."""
    t0 = time.monotonic()
    while time.monotonic() - t0 < wait_s:
        st = d.status()
        if not st["blocks"]["dirty"]:
            return st
        time.sleep(0.05)
    raise Failed("blocks still not on disk after %d s: %r" % (wait_s, st["blocks"]))


def wait_ipc(d):
    t0 = time.monotonic()
    while not os.path.exists(d.ipc):
        check(time.monotonic() - t0 < 20, "hearth-front did not open %s" % d.ipc)
        time.sleep(0.02)


def run():
    doc = document()
    d = Daemon("--http", "off", front=True)
    say("model     %s" % os.path.basename(model()))
    say("document  %s, %d bytes" % (doc, os.path.getsize(doc)))
    d.start()
    wait_ipc(d)
    d.load()
    say("hearthd   pid %d\n" % d.proc.pid)

    say("$ hearth ingest -s demo %s" % os.path.basename(doc))
    done = ingest(d, doc)
    tokens, cold_ms = done["usage"]["prefilled"], done["timings"]["prefill_ms"]
    say("    %d tokens in %.2f s (%.0f tokens/s), durable\n" % (tokens, cold_ms / 1000, tokens / (cold_ms / 1000)))
    check(tokens >= 1000, "the document is only %d tokens; use a longer one" % tokens)

    req = {"session": "demo", "input": "prompt", "prompt": QUESTION, "params": PARAMS}
    with d.link() as l:
        ref = generate(l, dict(req, fork=True))
    check(len(ref.tokens) >= 12, "the model's answer is only %d tokens" % len(ref.tokens))
    st = settled(d)
    written, new = st["written"]["bytes"], st["written"]["new_state_bytes"]

    say("$ hearth ask -s demo \"%s\"" % QUESTION)
    r = dict(req, id=new_id())
    cut = len(ref.tokens) // 3
    l = d.link()
    s = l.call(START, r)
    a = follow(l, s["stream"], stop_after=cut)
    old = d.proc.pid
    d.kill9()
    l.close()
    print(a.text, end="")
    say("\n    --- kill -9 %d after %d tokens ---" % (old, len(a.tokens)))
    seen = len(a.tokens)
    d.spawn()
    ready_s = d.wait_ready()
    t0 = time.monotonic()
    with d.link() as l:
        s2 = l.call(START, r)
        check_eq(s2["stream"], s["stream"], "stream of the same START id")
        follow(l, s["stream"], a)
        say("    --- hearthd pid %d ready after %.2f s, same request goes on ---" % (d.proc.pid, ready_s))
        say("".join(a.pieces[seen:]) + "\n")
        shown = l.call(SESSION_SHOW, {"session": "demo"})
        st2 = l.call(STATUS)
    u, t, src = a.last["usage"], a.last["timings"], a.last["reused_from"]
    # What the client waited from the resent START to the first token it had not seen, without
    # the time to load the weights, which a daemon that keeps them resident pays once.
    first_ms = (a.times[seen] - t0) * 1000 if len(a.times) > seen else t["first_token_ms"]
    resume_ms = max(first_ms - t.get("load_ms", 0), 0.1)
    same = a.tokens == ref.tokens and a.bits == ref.bits
    rows = [("tokens in the session", "%d" % shown["tokens"]),
            ("cold prefill", "%.0f ms for %d tokens" % (cold_ms, tokens)),
            ("restart to ready", "%.0f ms" % (ready_s * 1000)),
            ("weights loaded again", "%.0f ms" % t.get("load_ms", 0)),
            ("resume, to the first new token", "%.0f ms (restore %.0f ms)" % (resume_ms, t.get("restore_ms", 0))),
            ("cold prefill / resume", "%.0f x" % (cold_ms / resume_ms)),
            ("tokens reused / run again", "%d / %d" % (u["reused"], u["prefilled"])),
            ("bytes read from the store", "%s" % size(st2["read"]["bytes"])),
            ("bytes written per byte of new state", "%.3f (%s / %s)" % (written / max(new, 1), size(written), size(new))),
            ("continuation identical", "yes" if same else "NO: " + a.diff(ref))]
    say("+" + "-" * 74 + "+")
    for k, v in rows:
        say("| %-36s %35s |" % (k, v))
    say("+" + "-" * 74 + "+")
    check(same, "the continuation differs from the uninterrupted answer")
    check(src["file"] > 0, lambda: "nothing was reused from the file tier after the restart: %r" % src)
    check(u["reused"] >= tokens // 256 * 256 - 256, lambda: "only %d of %d tokens were reused" % (u["reused"], tokens))
    check(resume_ms < cold_ms, "the resume took longer than the cold prefill")
    check(0 < written / max(new, 1) < 2, "bytes written per byte of new state: %.2f" % (written / max(new, 1)))
    check_eq(d.stop(), 0, "exit status of hearthd")


def size(n):
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return "%.4g %s" % (n, unit)
        n /= 1024
    return "%.4g GiB" % n


try:
    run()
except (Skip, Failed, Error, Gone) as e:
    say("\ndemo: FAILED: %s" % e)
    sys.exit(1)
