#!/usr/bin/env python3
"""test_gone.py - clients that leave, over HTTP and over nanomsg: their requests end with them, in any phase."""
from hearthlib import *

HTTP_MAX_S = 1.0
SLACK_S = 3.0  # beside other work a step of prefill takes long
NN_MAX_S = 5.0


def serve(*flags):
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, *flags, front=True).start()
    return d, http_port(d, want)


def busy(d):
    q = d.status()["queue"]
    return q["running"] + q["waiting"]


def until_busy(d):
    t0 = time.monotonic()
    while not busy(d):
        check(time.monotonic() - t0 < 20 * SLOWER, "the request never began")
        time.sleep(0.01)


def ends(d, words, limit):
    t0 = time.monotonic()
    while busy(d):
        check(time.monotonic() - t0 < (limit + SLACK_S) * SLOWER, "%s: still there after %.1f s" % (words, limit + SLACK_S))
        time.sleep(0.02)
    print("    %-32s over %.2f s after its client" % (words, time.monotonic() - t0), flush=True)


def post(port, prompt, stream=False, turns=()):
    msgs = list(turns) + [{"role": "user", "content": prompt}]
    # Token 2 ends an answer, token 0 a text: without them it goes on.
    b = json.dumps({"model": "m", "messages": msgs, "stream": stream, "max_tokens": 3000, "temperature": 1,
                    "logit_bias": {"2": -100, "0": -100}}).encode()
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(b), b))
    return s


def http_clients_that_leave_end_their_request():
    d, port = serve()
    s = post(port, "Write a novel.")
    until_busy(d)
    s.close()
    ends(d, "whole, as the model loads", HTTP_MAX_S)
    d.load()
    for stream in (False, True):
        how = "stream" if stream else "whole"
        s = post(port, "Write a novel.", stream)
        until_busy(d)
        time.sleep(1.5)
        check_eq(busy(d), 1, "requests while the client waits")
        s.close()
        ends(d, how + ", decode", HTTP_MAX_S)
        s = post(port, "%d %s" % (stream, text(0, 20000)), stream)
        until_busy(d)
        time.sleep(0.3)
        s.close()
        ends(d, how + ", prefill", HTTP_MAX_S)
    many = [post(port, "Write novel %d." % i) for i in range(12)]
    until_busy(d)
    time.sleep(0.5)
    for s in many:
        s.close()
    ends(d, "twelve at once", HTTP_MAX_S + 0.5)
    d.stop()


def who_sends_nothing_more_gets_his_answer():
    d, port = serve()
    d.load()
    for stream in (False, True):
        b = json.dumps({"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 30, "temperature": 0, "stream": stream}).encode()
        s = socket.create_connection(("127.0.0.1", port))
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                  b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(b), b))
        s.shutdown(socket.SHUT_WR)
        s.settimeout(60 * SLOWER)
        got = b""
        while True:
            x = s.recv(65536)
            if not x:
                break
            got += x
        s.close()
        check(b"[DONE]" in got if stream else b'"finish_reason":"' in got, lambda: "%r" % got[-300:])
    d.stop()


def nanomsg_clients_that_die_end_their_request():
    d, _ = serve()
    d.load()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "XDG_"))}
    env["HOME"] = d.dir
    doc = os.path.join(d.dir, "doc.txt")
    with open(doc, "w") as f:
        f.write(text(0, 20000))
    for words, wait, args in (("decode", 1.5, ["run", "m", "Write a novel."]),
                              ("prefill", 0.3, ["run", "m", text(1, 9000)]),
                              ("ingest", 0.3, ["ingest", "-s", "book", "-m", "m", doc])):
        more = [] if args[0] == "ingest" else ["-n", "3000", "--ignore-eos"]
        p = subprocess.Popen([prog("hearth"), "--socket", "ipc://" + d.ipc, args[0]] + more + args[1:],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        until_busy(d)
        time.sleep(wait)
        p.kill()  # and nobody waits for it: its parent is busy
        ends(d, "nanomsg, " + words, NN_MAX_S)
        p.wait()
    d.stop()


main(http_clients_that_leave_end_their_request, who_sends_nothing_more_gets_his_answer, nanomsg_clients_that_die_end_their_request)
