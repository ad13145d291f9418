#!/usr/bin/env python3
"""test_clients.py - what openai, litellm, llm, instructor, langchain-openai and aider send, as recorded.

tests/peer/record_clients.py made the files in clients/ with the real packages.  Each conversation
is sent again as they sent it, with the answers of this run where theirs stood.
"""
from hearthlib import *
import http.client

CLIENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients")


def put_answers(v, answers):
    """v with what was said then replaced by what is said now; also what a client made of it by a strip."""
    if isinstance(v, str):
        for then, now in answers:
            if then and v == then:
                return now
            if then and v == then.strip():
                return now.strip()
        return v
    if isinstance(v, dict):
        return {k: put_answers(x, answers) if k in ("messages", "content", "text") else x for k, x in v.items()}
    return [put_answers(x, answers) for x in v] if isinstance(v, list) else v


def send(port, call, body):
    """(status, text, cached tokens, error)"""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120 * SLOWER)
    headers = {k: v for k, v in call["headers"].items() if k.lower() != "accept-encoding"}
    c.request("POST", call["path"], json.dumps(body).encode(), headers)
    r = c.getresponse()
    got = r.read().decode()
    c.close()
    if not r.getheader("Content-Type", "").startswith("text/event-stream"):
        o = json.loads(got)
        if "error" in o:
            return r.status, None, 0, o["error"]
        return r.status, o["choices"][0]["message"]["content"], o["usage"]["prompt_tokens_details"]["cached_tokens"], None
    text, cached = "", 0
    check(got.endswith("data: [DONE]\n\n"), lambda: "the stream ends with %r" % got[-200:])
    for e in got.split("\n\n"):
        o = json.loads(e[6:]) if e.startswith("data: {") else {}
        check("error" not in o, lambda: "%r" % o)
        text += "".join(c["delta"].get("content") or "" for c in o.get("choices", []))
        if "hearth" in o:
            cached = sum(o["hearth"]["reused_from"].values())
    return r.status, text, cached, None


def conversations_of_real_clients_work():
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, front=True).start()
    port = http_port(d, want)
    d.load()
    files = sorted(os.listdir(CLIENTS))
    check_eq([f[:-5] for f in files], ["aider", "instructor", "langchain", "litellm", "llm", "openai"], "recorded clients")
    for f in files:
        with open(os.path.join(CLIENTS, f)) as fh:
            tape = json.load(fh)
        answers, cached = [], []
        for i, call in enumerate(tape["calls"]):
            status, text, n, err = send(port, call, put_answers(call["body"], answers))
            check_eq((status, err and err["code"]), (call["status"], call.get("code")), "%s, call %d: %r" % (tape["client"], i + 1, err))
            if err:
                check(err["param"] and err["param"] in call["body"], lambda: "%s: the refusal names nothing that was sent: %r" % (f, err))
            else:
                answers.append((call["said"], text))
                cached.append(n)
        print("    %-26s cached %s" % (tape["client"], cached), flush=True)
        check(len(cached) >= 5, lambda: "%s: %d turns" % (f, len(cached)))
        # Each turn finds all of the one before; the answers may be of no length at all.
        check(all(b > a for a, b in zip(cached, cached[1:])), lambda: "%s: cached tokens do not grow: %r" % (f, cached))
    d.stop()


main(conversations_of_real_clients_work)
