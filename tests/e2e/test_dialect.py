#!/usr/bin/env python3
"""test_dialect.py - what HTTP clients look for in words, codes and answers; plain HTTP, a real model."""
from hearthlib import *
import http.client, threading


def serve(*flags, **kw):
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, *flags, front=True, **kw).start()
    port = http_port(d, want)
    d.load()
    return d, port


def post(port, body, host="127.0.0.1", headers=None):
    """(status, parsed body) of a whole answer; of a stream: (status, list of its events)."""
    c = http.client.HTTPConnection(host, port, timeout=120 * SLOWER)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    c.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json", **(headers or {})})
    r = c.getresponse()
    got = r.read().decode()
    c.close()
    if r.getheader("Content-Type", "").startswith("text/event-stream"):
        ev = [e[6:] for e in got.split("\n\n") if e.startswith("data: ")]
        return r.status, [json.loads(e) if e != "[DONE]" else e for e in ev]
    return r.status, json.loads(got) if got else None


def user(s):
    return {"role": "user", "content": s}


def assistant(s):
    return {"role": "assistant", "content": s}


def said(r):
    check_eq(r[0], 200, "status of %r" % (r[1],))
    return r[1]["choices"][0]["message"]["content"]


def too_long_a_prompt_is_said_in_the_words_programs_look_for():
    d, port = serve("--context", "512")
    for stream in (False, True):
        code, r = post(port, {"messages": [user("a b " * 800)], "stream": stream})
        e = r["error"] if isinstance(r, dict) else r[0]["error"]
        check_eq((code, e["code"]), (400, "context_length_exceeded"), "code")
        check("this model's maximum context length is 512 tokens (by the setting `context`, its file allows 8192), the"
              in e["message"], lambda: e["message"])
    d.stop()


def half_a_surrogate_pair_does_not_end_a_conversation():
    d, port = serve()
    body = b'{"messages":[{"role":"user","content":"cut: \\ud83d"}],"max_tokens":5,"temperature":0}'
    first = said(post(port, body))
    check_eq(said(post(port, {"messages": [user("cut: \ufffd")], "max_tokens": 5, "temperature": 0})), first, "as U+FFFD")
    # The same over the daemon's own protocol.
    with d.link() as l:
        fid = l.n = 1
        l.s.sendall(pack(START, b'{"id":"%s","model":"m","input":"messages","messages":[{"role":"user","content":"\\udc00"}],'
                         b'"params":{"max_tokens":2}}' % new_id().encode(), fid=fid))
        check_eq(l.reply()[2], 0, "status of a START with half a pair")
    d.stop()


def a_template_that_cannot_be_run_is_not_no_template():
    with open(model(), "rb") as f:
        b = f.read()
    mark = b"{% for message in messages %}"
    at = b.find(mark)
    check(at > 0, "the model's template is another one")
    # As long as what it takes the place of.
    text = b"{% import 'x' as y %}"
    path = os.path.join(tmpdir(), "other.gguf")
    with open(path, "wb") as f:
        f.write(b[:at] + text + b" " * (len(mark) - len(text)) + b[at + len(mark):])
    d, port = serve(model_path=path)
    code, r = post(port, {"messages": [user("hi")], "max_tokens": 2})
    check_eq(r["error"]["code"], "template_not_supported", "code of %r" % r)
    check("import" in r["error"]["message"], lambda: "the construct is not named: %s" % r["error"]["message"])
    p = d.cli("run", "m", "hi", url="unix://" + d.sock)
    check(p.returncode and "import" in p.stderr and "--raw" in p.stderr, lambda: p.stderr)
    check_eq(d.cli("run", "--raw", "-n", "2", "m", "hi").returncode, 0, "exit code with --raw")
    d.stop()


def logprobs_carry_the_tokens_bytes_and_end_with_the_text():
    d, port = serve()

    def tokens(r):
        if isinstance(r[1], dict):
            return r[1]["choices"][0]["logprobs"]["content"], said(r)
        ch = [e["choices"][0] for e in r[1] if e != "[DONE]" and e["choices"]]
        return [t for c in ch for t in (c["logprobs"] or {"content": []})["content"]], "".join(c["delta"].get("content", "") for c in ch)

    for stream in (False, True):
        # An emoji is several tokens here: each has its own bytes.
        body = {"messages": [user("Repeat exactly: 🦔🦔🦔"), assistant("🦔🦔🦔"), user("Again: 🦔🦔🦔")], "max_tokens": 24,
                "temperature": 0, "logprobs": True, "top_logprobs": 3, "stream": stream}
        t, text = tokens(post(port, body))
        check_eq(bytes(b for x in t for b in x["bytes"]), text.encode(), "bytes of all tokens, stream=%s" % stream)
        check(all(len(x["top_logprobs"]) == 3 for x in t), "three alternatives each")
        # Up to a stop string, and not its own tokens; the end of the turn is none either.
        for stop, prompt in ((["7"], "Count: 1 2 3 4 5 6 7 8 9"), ([" quick brown"], "Say: the quick brown fox"), (None, "Say hello.")):
            body = {"messages": [user(prompt)], "max_tokens": 60, "temperature": 0, "logprobs": True, "stop": stop, "stream": stream}
            t, text = tokens(post(port, body))
            check_eq(bytes(b for x in t for b in x["bytes"]), text.encode(), "bytes of all tokens, stop %r, stream=%s" % (stop, stream))
            check(all(x["top_logprobs"] == [] for x in t), "alternatives that were not asked for")
    d.stop()


def a_last_message_of_the_assistants_is_gone_on_with():
    d, port = serve()
    head = [{"role": "system", "content": "Be terse."}, user("Name a colour.")]
    begun = "The colour of the sky at"
    r = post(port, {"messages": head + [assistant(begun)], "max_tokens": 12, "temperature": 0})
    with d.link() as l:
        want = generate(l, {"model": "m", "input": "prompt", "raw": True, "special": True, "params": {"max_tokens": 12, "temperature": 0},
                            "prompt": "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nName a colour.<|im_end|>\n"
                                      "<|im_start|>assistant\n" + begun})
    check_eq(said(r), want.text, "what follows the beginning")
    # The same conversation goes on: all but the newest message is there already.
    r = post(port, {"messages": head + [assistant(begun + said(r)), user("Another.")], "max_tokens": 4, "temperature": 0})
    u = r[1]["usage"]
    check(u["prompt_tokens"] - u["prompt_tokens_details"]["cached_tokens"] < 30, lambda: "%r" % u)
    d.stop()


def a_conversation_that_ends_at_stop_strings_is_one_session():
    d, port = serve()
    for n, (stop, strip) in enumerate(((["."], False), (["."], True), ([" the", "\n"], False), (["ing", "ed", "e "], False))):
        msgs = [{"role": "system", "content": "Conversation %d. %s" % (n, text(1, 1500))}]
        cached = prompt = before = 0
        stops = 0
        for turn in range(5):
            msgs.append(user("Question %d: say something about part %d, at length." % (turn + 1, turn + 2)))
            r = post(port, {"messages": msgs, "max_tokens": 60, "temperature": 0, "stop": stop})
            u, a = r[1]["usage"], said(r)
            check(not any(s in a for s in stop), lambda: "%r has a stop string" % a)
            stops += r[1]["choices"][0]["finish_reason"] == "stop"
            if turn:
                check_eq(r[1]["hearth"]["session"]["id"], sess, "session of turn %d, stop %r, strip %s" % (turn + 1, stop, strip))
                now = u["prompt_tokens_details"]["cached_tokens"]
                # Behind a restart it is whole blocks.
                check(now > (250 if turn == 3 and n == 0 else cached), lambda: "turn %d: %d cached tokens after %d" % (turn + 1, now, cached))
                check(u["prompt_tokens"] - now <= u["prompt_tokens"] - before + 256, lambda: "turn %d: %r" % (turn + 1, u))
                cached = now
            sess, before = r[1]["hearth"]["session"]["id"], u["prompt_tokens"]
            msgs.append(assistant(a.strip() if strip else a))
            if turn == 2 and n == 0:
                check_eq(d.stop(), 0, "clean stop")
                d.start()
                d.load()
                http_port(d, port)
        check(stops >= 3, "hardly anything ended at its stop string: %d of 5" % stops)
        with d.link() as l:
            t = l.call(SESSION_SHOW, {"session": sess})["turns"]
            check_eq([x["role"] for x in t], ["user", "assistant"] * 5, "roles of its turns")
    with d.link() as l:
        check_eq(len(l.call(SESSION_LIST, {"all": True})["sessions"]), 4, "sessions of four conversations")
    # An edit is none: the end that was cut off was there to be seen.
    r = post(port, {"messages": [user("Tell me of Rome.")], "max_tokens": 60, "temperature": 0, "stop": ["."]})
    cut = " ".join(said(r).split()[:3])
    r2 = post(port, {"messages": [user("Tell me of Rome."), assistant(cut), user("Go on.")], "max_tokens": 4, "temperature": 0})
    check(r2[1]["hearth"]["session"]["id"] != r[1]["hearth"]["session"]["id"], "an edited conversation took the other's place")
    d.stop()


def a_stop_is_said_to_whoever_waits():
    d, port = serve()
    got = {}

    def ask(stream):
        body = {"messages": [user("Write a novel.")], "max_tokens": 3000, "temperature": 1, "stream": stream, "logit_bias": {"2": -100, "0": -100}}
        got[stream] = post(port, body)

    ts = [threading.Thread(target=ask, args=(s,)) for s in (False, True)]
    for t in ts:
        t.start()
    time.sleep(1)
    check_eq(d.stop(), 0, "clean stop")
    for t in ts:
        t.join(10)
    code, r = got.get(False, (0, None))
    check(code == 503 and r["error"]["code"] == "shutting_down", lambda: "whole: %r %r" % (code, r))
    code, ev = got.get(True, (0, None))
    check(code == 200 and "error" in ev[-1] and ev[-1]["error"]["code"] == "shutting_down", lambda: "stream: %r ... %r" % (code, ev and ev[-1]))


def localhost_is_served_over_ipv6_too():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        skip("no IPv6 here")
    d, port = serve()
    said(post(port, {"messages": [user("hi")], "max_tokens": 2}, host="::1"))
    if os.getuid() == 0:  # the kernel's word on who calls holds there, too
        code = ("import os,sys,encodings.idna,http.client as h; os.setgid(65534); os.setuid(65534); c = h.HTTPConnection('::1', %d); "
                "c.request('GET', '/v1/models'); sys.exit(c.getresponse().status != 401)" % port)
        check_eq(subprocess.run([sys.executable, "-c", code]).returncode, 0, "another user's call over IPv6")
    d.stop()
    # Taken by another user, it is as if 127.0.0.1 were: what is sent to localhost would be his.
    if os.getuid() == 0:
        want = free_port()
        p = subprocess.Popen([sys.executable, "-c", "import os, socket; os.setuid(12345); s = socket.socket(socket.AF_INET6); "
                              "s.bind(('::1', %d)); s.listen(); print('up', flush=True); input()" % want],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        check_eq(p.stdout.readline(), b"up\n", "the other user's program")
        d = Daemon("--http", "127.0.0.1:%d" % want, front=True).spawn()
        check_eq(d.proc.wait(30 * SLOWER), 1, "exit code beside another user's ::1")
        check("of ::1 is taken by another user" in d.log_tail(), "the log does not say why")
        d.start("--http-any-port")
        http_port(d, want)
        d.stop()
        p.kill()
        p.wait()
    # Taken by a program of one's own: said, and no reason not to serve.
    with socket.socket(socket.AF_INET6) as s:
        s.bind(("::1", 0))
        s.listen()
        want = s.getsockname()[1]
        d = Daemon("--http", "127.0.0.1:%d" % want, front=True).start()
        http_port(d, want)
        t0 = time.monotonic()
        while "of ::1 is taken" not in d.log_tail():
            check(time.monotonic() - t0 < 10 * SLOWER, "no word of the port that is taken")
            time.sleep(0.05)
        d.stop()


main(too_long_a_prompt_is_said_in_the_words_programs_look_for, half_a_surrogate_pair_does_not_end_a_conversation,
     a_template_that_cannot_be_run_is_not_no_template, logprobs_carry_the_tokens_bytes_and_end_with_the_text,
     a_last_message_of_the_assistants_is_gone_on_with, a_conversation_that_ends_at_stop_strings_is_one_session,
     a_stop_is_said_to_whoever_waits, localhost_is_served_over_ipv6_too)
