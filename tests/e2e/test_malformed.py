#!/usr/bin/env python3
"""test_malformed.py - bad peers by the thousand on every socket while good streams run.

BAD_PEERS connections on each socket (1,000 unless set), of every kind in turn.  hearthd must not
notice, nor grow; fronts may die and are back at once; every good stream completes with the text it
has without the bad ones.
"""
from hearthlib import *
import http.client, threading

N = int(os.environ.get("BAD_PEERS") or 1000)
SAY = 40
PROMPT = "Describe a quiet harbour in winter."
BACK_MAX_S = 2.0    # a front that died listens again; above a hundred deaths a second it waits for one
GROW_MAX = 24 << 20  # resident, from a quarter of the peers to all of them


# --- kinds: name -> what is sent, made with r -----------------------------------------------
def mutate(r, b):
    b = bytearray(b)
    for _ in range(r.randint(1, 6)):
        k = r.randint(0, 3)
        if k == 0 and b:
            b[r.randrange(len(b))] = r.randrange(256)
        elif k == 1 and b:
            del b[r.randrange(len(b)):]
        elif k == 2:
            i = r.randint(0, len(b))
            b[i:i] = r.randbytes(r.randint(1, 40))
        elif b:
            i = r.randrange(len(b))
            b[i] ^= 1 << r.randrange(8)
    return bytes(b)


def nested(n, closed=True):
    return b'{"a":' * n + (b"1" + b"}" * n if closed else b"")


def any_type(r):
    return r.choice([0, 1, 2, 3, 10, 11, 20, 22, 23, 40, 41, 42, 50, 51, 52, 61, 99, 255])


def any_json(r):
    return r.choice([b"{}", b"", b"[]", b'{"stream":"zz"}', b'{"id":1,"model":[],"input":{}}', b"\xff" * 9, b'{"session":"\\ud800"}',
                     b'{"session":"a\\u0000b"}', json.dumps({"id": new_id(), "input": "prompt", "prompt": 5}).encode()])


def cut(r, b):
    return b[:r.randrange(len(b))]


FRAMES = {
    "random bytes": lambda r: r.randbytes(r.randint(0, 200)),
    "magic": lambda r: pack(any_type(r), any_json(r), magic=r.randbytes(4)),
    "checksum": lambda r: pack(any_type(r), any_json(r), crc=r.getrandbits(32)),
    "version": lambda r: pack(any_type(r), any_json(r), major=r.choice([0, 2, 255])),
    "flags": lambda r: pack(any_type(r), any_json(r), flags=r.randint(1, 65535), status=r.randint(0, 99)),
    "length of JSON": lambda r: pack(any_type(r), any_json(r), json_len=r.choice([0, 1, 300, 8 << 20, (8 << 20) + 1, (1 << 32) - 1])),
    "length of tail": lambda r: pack(any_type(r), any_json(r), tail_len=r.choice([1, 1 << 20, 16 << 20, (16 << 20) + 1, (1 << 32) - 1])),
    "both lengths": lambda r: pack(any_type(r), b"", json_len=(1 << 32) - 1, tail_len=(1 << 32) - 1),
    "cut header": lambda r: pack(any_type(r), b"{}")[:r.randint(1, 31)],
    "cut body": lambda r: cut(r, pack(any_type(r), b'{"model":"m","session":"x"}', r.randbytes(64))),
    "no JSON": lambda r: pack(any_type(r), any_json(r)),
    "deep JSON": lambda r: pack(any_type(r), nested(r.choice([31, 32, 33, 400, 20000]), r.random() < 0.7)),
    "tail of garbage": lambda r: pack(any_type(r), b"{}", r.randbytes(r.randint(1, 5000))),
    "many frames": lambda r: b"".join(pack(any_type(r), any_json(r), r.randbytes(r.randint(0, 64)), fid=i)
                                      for i in range(r.randint(2, 20))),
    "mutated": lambda r: mutate(r, pack(any_type(r), any_json(r))),
}
HELLO_SP = b"\0SP\0" + struct.pack(">HH", 0x30, 0)


def sp(body, size=None, kind=1, rid=None, r=random):
    rid = r.getrandbits(31) | 1 << 31 if rid is None else rid
    body = struct.pack(">I", rid) + body
    return HELLO_SP + bytes([kind]) + struct.pack(">Q", len(body) if size is None else size) + body


def some_frame(r):
    return FRAMES[r.choice(list(FRAMES))](r)


NN = {
    "random bytes": lambda r: r.randbytes(r.randint(0, 40)),
    "header's magic": lambda r: mutate(r, HELLO_SP),
    "header's protocol": lambda r: b"\0SP\0" + struct.pack(">HH", r.choice([0, 0x10, 0x31, 0x50, 0xffff]), r.randint(0, 3)),
    "half a header": lambda r: HELLO_SP[:r.randint(0, 7)],
    "header alone": lambda r: HELLO_SP,
    "size": lambda r: sp(some_frame(r), size=r.choice([0, 3, 4, 40000, (24 << 20) + 33, 1 << 40, (1 << 64) - 1]), r=r),
    "half a size": lambda r: HELLO_SP + b"\1" + r.randbytes(r.randint(0, 7)),
    "cut message": lambda r: cut(r, sp(some_frame(r), r=r)),
    "no request id": lambda r: sp(b"", size=r.randint(0, 3), r=r),
    "endless stack of ids": lambda r: sp(struct.pack(">I", 7) * r.randint(1, 3000), rid=5, r=r),
    "mutated": lambda r: mutate(r, sp(some_frame(r), r=r)),
}
NN.update({"frame: " + k: (lambda r, f=f: sp(f(r), r=r)) for k, f in FRAMES.items()})
# What makes the library end its process: another kind of message than it knows.
DEADLY = lambda r: HELLO_SP + bytes([r.choice([0, 2, 255])]) + r.randbytes(8)

CHAT = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"max_tokens":1}'


def head(r, verb="POST", path="/v1/chat/completions", version="1.1", more=""):
    return ("%s %s HTTP/%s\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%s" % (verb, path, version, more)).encode()


def posted(r, body, length=None, more=""):
    return head(r, more="Content-Length: %s\r\n%s" % (len(body) if length is None else length, more)) + b"\r\n" + body


def chunked(*chunks):
    return head(None, more="Transfer-Encoding: chunked\r\n") + b"\r\n" + b"".join(chunks)


HTTP = {
    "random bytes": lambda r: r.randbytes(r.randint(0, 300)),
    "request line": lambda r: r.choice([b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n", b"get / http/1.1\r\n\r\n",
                                        b"GET / HTTP/1.1 extra\r\n\r\n", b"POST  /v1/models  HTTP/1.1\r\n\r\n", b" / HTTP/1.1\r\n\r\n",
                                        b"GET http://[::1/x HTTP/1.1\r\n\r\n", b"G" * 70000]),
    "verb": lambda r: head(r, verb=r.choice(["BREW", "CONNECT", "TRACE", "PUT", "DELETE", "PATCH", "OPTIONS", "M-SEARCH"])) + b"\r\n",
    "path": lambda r: head(r, "GET", r.choice(["/v1/models/%ff%00", "/../../etc/passwd", "/" + "a" * 9000, "/%", "/%zz", "//", "*", "/v1/models?" + "&" * 3000])) + b"\r\n",
    "host": lambda r: ("GET /v1/models HTTP/1.1\r\nHost: %s\r\n\r\n" % r.choice(["evil.example", "", "127.0.0.1:1:2", "x" * 5000])).encode(),
    "huge header": lambda r: head(r, "GET", "/health", more="X-A: %s\r\n" % ("b" * r.choice([20000, 70000, 300000]))) + b"\r\n",
    "many headers": lambda r: head(r, "GET", "/health", more="X-A: b\r\n" * r.choice([100, 1000, 20000])) + b"\r\n",
    "broken header": lambda r: head(r, "GET", "/health", more=r.choice([": x\r\n", "X\r\n", "X-A: \0\r\n", " folded\r\n", "X-A: b\n\n"])) + b"\r\n",
    "longer than it says": lambda r: posted(r, CHAT, r.choice([0, 1, 5, len(CHAT) - 1])),
    "shorter than it says": lambda r: posted(r, CHAT, len(CHAT) + r.choice([1, 30, 9000])),
    "absurd length": lambda r: posted(r, CHAT, r.choice([-1, "abc", 1 << 40, 99999999, 1 << 64, "5, 5", "+5", "0x5", ""])),
    "two lengths": lambda r: posted(r, CHAT, 5, "Content-Length: %d\r\n" % len(CHAT)),
    "length and chunks": lambda r: posted(r, b"0\r\n\r\n" + CHAT, 5, "Transfer-Encoding: chunked\r\n"),
    "chunk size": lambda r: chunked(r.choice([b"ffffffffff\r\nzz", b"-5\r\nhello\r\n", b"zz\r\nhello\r\n", b"5;" + b"x" * 9000 + b"\r\nhello\r\n", b"\r\n\r\n",
                                             b"fffffffffffffffffff\r\n", b"5hello\r\n", b"0x5\r\nhello\r\n"])),
    "cut chunks": lambda r: cut(r, chunked(b"%x\r\n" % len(CHAT), CHAT, b"\r\n0\r\n\r\n")),
    "tiny chunks": lambda r: chunked(*[b"1\r\n%c\r\n" % c for c in CHAT]) + b"0\r\n\r\n",
    "pipelined": lambda r: b"".join(r.choice([head(r, "GET", "/health") + b"\r\n", head(r, "GET", "/nowhere") + b"\r\n", posted(r, b"{"), posted(r, b'{"model":7}')])
                                    for _ in range(r.randint(2, 60))),
    "pipelined garbage": lambda r: head(r, "GET", "/health") + b"\r\n" + r.randbytes(r.randint(1, 300)),
    "no JSON": lambda r: posted(r, r.choice([b"", b"{", b"[]", b"null", b"\xff\xfe", r.randbytes(100), CHAT[:-1], CHAT + b"}"])),
    "wrong members": lambda r: posted(r, r.choice([b'{"model":7}', b'{"model":"m","messages":[]}', b'{"model":"m","messages":[{"role":"x"}]}', b'{"model":"m","messages":{}}',
                                                   b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":-1}',
                                                   b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[1]}'])),
    "deep JSON": lambda r: posted(r, r.choice([nested(33), nested(5000), nested(100000, False), b'{"model":"m","messages":' + b"[" * 3000])),
    "expect": lambda r: head(r, more="Content-Length: 9999999\r\nExpect: 100-continue\r\n") + b"\r\n",
    "mutated": lambda r: mutate(r, posted(r, CHAT.replace(b'"m"', b'"n"'))),
}


# --- peers ------------------------------------------------------------------------------------
class Bad:
    """One socket's bad peers: each kind in turn, each ends in one of several manners."""

    def __init__(self, name, connect, kinds, seed, deadly=0):
        self.name, self.connect, self.kinds = name, connect, list(kinds.items())
        self.r, self.deadly = random.Random(seed), deadly
        self.sent, self.manner, self.reached = {}, {}, 0
        self.slow = []  # (socket, bytes left, until)

    def reach(self):
        until = time.monotonic() + 10
        while True:
            s = None
            try:
                s = self.connect()
                s.settimeout(0.03)
                return s
            except OSError:
                if time.monotonic() > until:
                    raise Failed("%s: nobody listens for 10 s" % self.name)
                time.sleep(0.005)

    def drip(self):
        """A byte more from one of the slow ones; who is over time goes."""
        if not self.slow:
            return
        i = self.r.randrange(len(self.slow))
        s, left, until = self.slow[i]
        try:
            s.send(left[:1])
            self.slow[i] = (s, left[1:], until)
        except OSError:
            until = 0
        if not left or time.monotonic() > until:
            s.close()
            self.slow.pop(i)

    def one(self, i):
        r = self.r
        name, make = self.kinds[i % len(self.kinds)]
        if self.deadly and i % self.deadly == self.deadly - 1:
            name, make = "deadly", DEADLY
        b, s = make(r), self.reach()
        self.reached += 1
        manner = r.choice(["closed at once", "half closed", "half closed", "read", "slow", "silent"])
        if manner in ("slow", "silent") and len(self.slow) >= 60:
            manner = "closed at once"
        self.sent[name] = self.sent.get(name, 0) + 1
        self.manner[manner] = self.manner.get(manner, 0) + 1
        if manner == "slow":
            self.slow.append((s, b, time.monotonic() + r.random() * 20))
            return
        try:
            s.sendall(b)
            if manner == "silent":
                self.slow.append((s, b"", time.monotonic() + r.random() * 20))
                return
            if manner == "half closed":
                s.shutdown(socket.SHUT_WR)
            if manner != "closed at once":
                s.recv(4096)
        except OSError:
            pass
        s.close()

    def run(self, errors):
        try:
            for i in range(N):
                self.one(i)
                self.drip()
        except Failed as e:
            errors.append(str(e))
        for s, _, _ in self.slow:
            s.close()


def unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(2)
    try:
        s.connect(path)
    except OSError:
        s.close()
        raise
    return s


class Watch:
    """Memory, descriptors and deaths of hearthd and its fronts; how long nobody listened."""

    def __init__(self, d, port):
        self.d, self.pid, self.port = d, d.proc.pid, port
        self.stop, self.first, self.last, self.most = threading.Event(), {}, {}, {}
        self.down = {"nn": 0.0, "http": 0.0}
        self.pids = {"nn": set(), "http": set()}

    def procs(self):
        out = {"hearthd": self.pid}
        with open("/proc/%d/task/%d/children" % (self.pid, self.pid)) as f:
            for p in f.read().split():
                try:
                    with open("/proc/%s/cmdline" % p) as c:
                        a = c.read().split("\0")
                except OSError:
                    continue
                for k in ("nn", "http"):
                    # Not yet one that is still a copy of hearthd.
                    if a[0].endswith("hearth-front") and "--" + k in a:
                        out[k] = int(p)
                        self.pids[k].add(int(p))
        return out

    def look(self):
        for k, p in self.procs().items():
            try:
                with open("/proc/%d/statm" % p) as f:
                    rss = int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
                fds = len(os.listdir("/proc/%d/fd" % p))
            except OSError:
                continue
            self.last[k] = (rss, fds)
            m = self.most.get(k, (0, 0))
            self.most[k] = (max(m[0], rss), max(m[1], fds))
        return dict(self.last)

    def listens(self, k):
        try:
            (unix(self.d.ipc) if k == "nn" else socket.create_connection(("127.0.0.1", self.port), 2)).close()
        except BlockingIOError:
            pass  # its backlog is full: it is there
        except OSError:
            return False
        return True

    def run(self):
        gone, n = {"nn": None, "http": None}, 0
        while not self.stop.wait(0.01):
            for k in gone:
                now = time.monotonic()
                if self.listens(k):
                    gone[k] = None
                else:
                    gone[k] = gone[k] or now
                    self.down[k] = max(self.down[k], now - gone[k])
            n += 1
            if n % 10 == 0:
                self.look()


def good_streams_complete_beside_bad_peers():
    want = free_port()
    # Small caches, full before anything is measured.
    d = Daemon("--http", "127.0.0.1:%d" % want, "--host-memory", "32MiB", "--page-memory", "48MiB", "--context", "1024",
               front=True).start()
    d.load()
    with d.link() as l:
        for _ in range(6):
            generate(l, {"input": "tokens", "model": "m", "keep": False, "params": {"max_tokens": 1}},
                     ids_tail([rng.randint(300, 40000) for _ in range(900)]))
    port = http_port(d, want)
    par = {"max_tokens": SAY, "temperature": 0.8, "seed": 21, "ignore_eos": True}
    chat = json.dumps({"model": "m", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": SAY, "temperature": 0, "stream": True})

    def by_core():
        with d.link() as l:
            return generate(l, {"input": "prompt", "prompt": PROMPT, "keep": False, "model": "m", "params": par}).text

    def by_nn():
        for _ in range(SLOWER):  # a first call waits 0.4 s for a listener: a front with a sanitizer takes longer to come back
            p = d.cli("run", "m", PROMPT, "-n", SAY, "--temp", "0.8", "--seed", "21", "--ignore-eos", "--json", url="ipc://" + d.ipc, timeout=180)
            if p.returncode != 3:
                break
        check(p.returncode == 0, lambda: "hearth run: exit %d, %s" % (p.returncode, (p.stderr + p.stdout)[-400:]))
        return json.loads(p.stdout.strip().splitlines()[-1])["text"]

    def by_http():
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=120 * SLOWER)
        c.request("POST", "/v1/chat/completions", chat, {"Content-Type": "application/json"})
        r = c.getresponse()
        check_eq(r.status, 200, "HTTP status")
        out, done = "", False
        for line in r.read().decode().splitlines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                ch = json.loads(line[6:])
                check("error" not in ch, lambda: "error in the stream: %s" % line)
                if ch.get("choices"):
                    out += ch["choices"][0]["delta"].get("content") or ""
        check(done, "the HTTP stream has no [DONE]")
        c.close()
        return out

    good = {f.__name__: f for f in (by_core, by_nn, by_http)}
    ref = {n: f() for n, f in good.items()}
    check(all(ref.values()), lambda: "empty reference: %r" % ref)
    stop, count, slowest, errors = threading.Event(), {n: 0 for n in good}, {n: 0.0 for n in good}, []

    def keep_asking(n):
        while not stop.is_set():
            t0 = time.monotonic()
            try:
                got = good[n]()
            except Exception as e:
                errors.append("%s: %s: %s" % (n, type(e).__name__, e))
                return
            if got != ref[n]:
                errors.append("%s: another text than alone: %r, want %r" % (n, got[:80], ref[n][:80]))
                return
            count[n] += 1
            slowest[n] = max(slowest[n], time.monotonic() - t0)

    w = Watch(d, port)
    before = w.look()
    bad = [Bad("core.sock", lambda: unix(d.sock), FRAMES, SEED + 1), Bad("hearth.ipc", lambda: unix(d.ipc), NN, SEED + 2, deadly=61),
           Bad("HTTP", lambda: socket.create_connection(("127.0.0.1", port), 2), HTTP, SEED + 3)]
    threads = [threading.Thread(target=keep_asking, args=(n,)) for n in good]
    peers = [threading.Thread(target=b.run, args=(errors,)) for b in bad]
    watch = threading.Thread(target=w.run)
    for t in threads + peers + [watch]:
        t.start()
    while sum(b.reached for b in bad) < len(bad) * N // 4 and any(t.is_alive() for t in peers):
        time.sleep(0.05)
    quarter = w.look()
    for t in peers:
        t.join()
    stop.set()
    for t in threads:
        t.join()
    w.stop.set()
    watch.join()
    check(d.alive() and d.proc.pid == w.pid, lambda: "hearthd died:\n" + d.log_tail())
    until = time.monotonic() + 30
    after = w.look()
    while any(after[k][1] > before[k][1] + 8 for k in before) and time.monotonic() < until:
        time.sleep(0.1)
        after = w.look()
    mib = lambda t: {k: "%.1f MiB, %d fds" % (v[0] / (1 << 20), v[1]) for k, v in sorted(t.items())}
    for b in bad:
        print("soak: %d bad peers on %s, of each kind %d to %d, %r" % (b.reached, b.name, min(b.sent.values()), max(b.sent.values()), b.manner))
    print("soak: good streams completed meanwhile: %r, slowest %s s" % (count, {n: round(x, 1) for n, x in slowest.items()}))
    restarts = next(float(x.split()[-1]) for x in metrics(d).splitlines() if x.startswith("hearth") and "front_restarts_total" in x)
    print("soak: %d deaths of fronts, back after at most %.2f s (nanomsg), %.2f s (HTTP)" % (restarts, w.down["nn"], w.down["http"]))
    with open(d.log, errors="replace") as f:
        late = [x for x in f if "front: " in x and "in 1 s" in x]
    print("".join("    " + x for x in late[:5]), end="")
    for n, t in (("before", before), ("at a quarter", quarter), ("after", after), ("at most", w.most)):
        print("soak: %-12s %r" % (n, mib(t)), flush=True)
    check(not errors, lambda: "; ".join(errors[:3]))
    # One whose front has just died is given four seconds to be found again.
    until = time.monotonic() + 6 * SLOWER
    while d.status()["queue"]["running"] and time.monotonic() < until:
        time.sleep(0.1)
    check_eq(d.status()["queue"]["running"], 0, "requests left running")
    check(all(count.values()), lambda: "a carrier completed no stream: %r" % count)
    check(all(b.reached == N for b in bad), "not every bad peer was there")
    check(restarts >= N // 100, lambda: "only %d deaths of a front: the deadly ones do not work" % restarts)
    check(max(w.down.values()) < BACK_MAX_S, lambda: "a front was away for %r s" % w.down)
    for k in before:
        check(after[k][1] <= before[k][1] + 8, lambda: "%s: file descriptors grew from %d to %d" % (k, before[k][1], after[k][1]))
        check(after[k][0] <= quarter[k][0] + GROW_MAX, lambda: "%s: grew from %r to %r" % (k, mib(quarter)[k], mib(after)[k]))
    d.stop()


def metrics(d):
    with d.link() as l:
        return l.call(METRICS)["_tail"].decode()


main(good_streams_complete_beside_bad_peers)
