#!/usr/bin/env python3
"""users.py BIN_DIR MODEL.gguf [ONLY,...] - one user's latency beside another's floods, to that on an idle daemon.

One daemon for two users (root is needed to be both).  A asks for an answer every now and then; measured are the time to its
first token (TTFT) and the gaps between its tokens as they arrive, and the time of a PING.  Beside it B floods the daemon:
requests (30 connections with prompts and answers), keys (the same over a hundred `as` keys), ingest (long texts),
tokenize (16 MiB texts), list (SESSION_LIST of 3,200 sessions on 40 connections), frames (STATUS, thousands at once, on 20
connections), links (connections made and dropped), and, no flood, questions (a short one after a short rest, again and
again).  B's processes run with nice 19: what counts is what the daemon does.
The idle daemon and the flood take turns, four times: a machine whose speed changes by the minute is the same for both.
Per flood one JSON object: p95 of each, idle and beside, their ratio, what B got meanwhile, and whether gaps and TTFT are
within twice the idle ones.
"""
import os
import sys

if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__.strip())
    os.environ["HEARTH_BIN"], os.environ["HEARTH_TEST_MODEL"] = os.path.abspath(sys.argv[1]), sys.argv[2]
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "e2e"))
from hearthlib import *
import mmap
import select

A, B, SESSIONS, ANSWERS, ROUNDS, TOKENS, LIMIT = 60001, 60002, 3200, 80, 4, 20, 2.0
asked = 1000 # so that each prompt is its own, and as long as the others
PAR = {"max_tokens": TOKENS, "temperature": 0.8, "seed": 3, "ignore_eos": True}


def p95(v):
    v = sorted(v)
    return v[min(len(v) - 1, int(len(v) * 0.95))]


def empty():
    return {"ttft": [], "gap": [], "ping": []}


def measure(a, ping, seen, answers):
    """Adds to seen, in ms: first tokens, gaps between tokens, PINGs; each answer begins anew (its prompt is short and its own)."""
    global asked
    for asked in range(asked + 1, asked + 1 + answers):
        time.sleep(0.3) # he reads and writes
        t0 = time.monotonic()
        x = generate(a, {"input": "prompt", "prompt": "%d. Tell a story of the sea." % asked, "keep": False, "model": "m", "params": PAR})
        seen["ttft"].append((x.times[0] - t0) * 1000)
        seen["gap"] += [(q - p) * 1000 for p, q in zip(x.times, x.times[1:])]
        for _ in range(5):
            t0 = time.monotonic()
            ping.call(PING)
            seen["ping"].append((time.monotonic() - t0) * 1000)


def beside(a, ping, works, seen):
    """The same while B is at work: (what B got, in how many seconds)."""
    count = mmap.mmap(-1, 64)
    pids = [flood(w, count, 4 * i) for i, w in enumerate(works)]
    time.sleep(2)
    before, t0 = sum(struct.unpack("<16I", count[:])), time.monotonic()
    measure(a, ping, seen, ANSWERS // ROUNDS)
    got = sum(struct.unpack("<16I", count[:])) - before
    took = time.monotonic() - t0
    for p in pids:
        os.kill(p, signal.SIGKILL)
        os.waitpid(p, 0)
    for _ in range(600): # its requests end
        if not a.call(STATUS)["queue"]["running"]:
            break
        time.sleep(0.1)
    return got, took


def frames(d, typ, js, links, depth=1):
    """Keeps depth frames under way on each connection and throws the replies away; yields once per whole reply."""
    poll, state = select.poll(), {}
    for _ in range(links):
        l = link_as(d, B)
        l.s.setblocking(False)
        state[l.s.fileno()] = [l, b"", 0, pack(typ, json.dumps(js).encode()) * depth]
        poll.register(l.s.fileno(), select.POLLIN | select.POLLOUT)
    under_way = dict.fromkeys(state, 0)
    while True:
        for fd, ev in poll.poll(500):
            l, head, left, out = state[fd]
            if ev & select.POLLOUT:
                sent = l.s.send(out)
                state[fd][3] = out = out[sent:]
                if not out:
                    poll.modify(fd, select.POLLIN)
                    under_way[fd] = depth
                continue
            x = l.s.recv(1 << 20)
            while x:
                if left == 0:
                    head, x = head + x[:32 - len(head)], x[32 - len(head):]
                    if len(head) == 32:
                        left = sum(struct.unpack_from("<II", head, 8))
                        head = b""
                        if left:
                            continue
                    else:
                        continue
                took = min(left, len(x))
                left, x = left - took, x[took:]
                if left == 0:
                    yield
                    under_way[fd] -= 1
            state[fd][1:3] = [head, left]
            if under_way[fd] == 0:
                state[fd][3] = pack(typ, json.dumps(js).encode()) * depth
                poll.modify(fd, select.POLLIN | select.POLLOUT)


def asking(d, n, keys, ingest):
    """n connections in this process; their prompts and answers, one after another; yields per answer."""
    links = [link_as(d, B) for _ in range(n)]
    doc = (text(0) + text(1) + text(2))
    at, streams = 0, {}
    while True:
        for i, l in enumerate(links):
            who = {"as": "%032x" % (at % 100)} if keys else {}
            if i not in streams:
                at += 1
                long = ingest or at % 3 == 0
                cut = at * 700 % 3000
                par = {"max_tokens": 0} if ingest else {"max_tokens": 60, "ignore_eos": True}
                status, r, _ = l.raw(START, dict(who, id=new_id(), input="prompt", prompt=doc[cut:cut + (8000 if long else 200)], keep=False,
                                                 model="m", params=par))
                if status == 0:
                    streams[i] = (r["stream"], who)
                continue
            stream, who = streams[i]
            status, r, _ = l.raw(NEXT, dict(who, stream=stream, cursor=0, max_wait_ms=0))
            if status or r["state"] == "done":
                del streams[i]
                yield
        time.sleep(0.01)


def connecting(d):
    while True:
        ls = []
        for _ in range(50):
            try:
                ls.append(link_as(d, B))
                ls[-1].send(PING)
                yield
            except Exception:
                pass
        for l in ls:
            l.close()


def tokenizing(d):
    big = (b"international relations " * (1 << 20))[:16 << 20]
    l = link_as(d, B)
    while True:
        l.call(TOKENIZE, {"model": "m"}, big)
        yield


def resting(d):
    """Rests for some fifteen of A's tokens before each question, and so may begin at once with what he rested."""
    l = link_as(d, B)
    n = 0
    while True:
        n += 1
        generate(l, {"input": "prompt", "prompt": "%d. And what of the hills?" % n, "keep": False, "model": "m",
                     "params": {"max_tokens": 4, "ignore_eos": True}})
        yield
        time.sleep(0.15)


FLOODS = {
    "requests": lambda d: [(lambda: asking(d, 10, False, False))] * 3,
    "keys": lambda d: [(lambda: asking(d, 34, True, False))] * 3,
    "ingest": lambda d: [(lambda: asking(d, 3, False, True))],
    "tokenize": lambda d: [(lambda: tokenizing(d))] * 3,
    "list": lambda d: [(lambda: frames(d, SESSION_LIST, {"all": True}, 40))],
    "frames": lambda d: [(lambda: frames(d, STATUS, {}, 20, 500))],
    "links": lambda d: [(lambda: connecting(d))],
    "questions": lambda d: [(lambda: resting(d))],
}


def flood(work, count, at):
    pid = os.fork()
    if pid:
        return pid
    try:
        os.nice(19)
        for _ in work():
            count[at:at + 4] = struct.pack("<I", struct.unpack("<I", count[at:at + 4])[0] + 1)
    except BaseException as e:
        print("# flood: %r" % e, flush=True)
    os._exit(0)


def main():
    if os.geteuid() != 0:
        print("# users.py: skipped, it wants root to be two users")
        return 0
    only = sys.argv[3].split(",") if len(sys.argv) > 3 else list(FLOODS)
    d = Daemon("--system", "--socket-mode", "0666", "--threads", str(os.cpu_count()))
    d.open_to_users()
    d.start()
    d.load()
    if "list" in only:
        with link_as(d, B) as b:
            for i in range(SESSIONS):
                b.call(SESSION_OPEN, {"id": new_id(), "name": "s%05d" % i, "model": "m"})
    bad = 0
    with link_as(d, A) as a, link_as(d, A) as ping:
        measure(a, ping, empty(), 5)
        for name in only:
            idle, with_b, got, took = empty(), empty(), 0, 0.0
            for _ in range(ROUNDS):
                measure(a, ping, idle, ANSWERS // ROUNDS)
                n, s = beside(a, ping, FLOODS[name](d), with_b)
                got, took = got + n, took + s
            idle, with_b = ({k: p95(v) for k, v in x.items()} for x in (idle, with_b))
            r = {k: with_b[k] / idle[k] for k in idle}
            ok = r["ttft"] <= LIMIT and r["gap"] <= LIMIT and got > 0
            bad += not ok
            print(json.dumps(dict({"bench": "users", "flood": name, "result": "PASS" if ok else "FAIL"},
                                  **{"%s_%s" % (k, w): round(v[k], 2) for w, v in (("idle_ms", idle), ("beside_ms", with_b), ("ratio", r))
                                     for k in ("ttft", "gap", "ping")},
                                  b_per_s=round(got / took, 1))), flush=True)
    d.stop()
    return 1 if bad else 0


sys.exit(main())
