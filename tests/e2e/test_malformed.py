#!/usr/bin/env python3
"""test_malformed.py - bad peers by the thousand on every socket while good streams run.

BAD_PEERS connections of each kind (1,000 unless set).  hearthd must not notice; fronts may die
and come back; every good stream completes with the text it has without the bad ones.
"""
from hearthlib import *
import http.client, threading

N = int(os.environ.get("BAD_PEERS") or 1000)
SAY = 40
PROMPT = "Describe a quiet harbour in winter."


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


def bad_frame(r):
    js = r.choice([b"{}", b'{"stream":"zz"}', b'{"id":1,"model":[],"input":{}}', b'{"a":' * r.randint(1, 400), b"\xff" * 9,
                   b'{"session":"\\ud800"}', json.dumps({"id": new_id(), "input": "prompt", "prompt": 5}).encode()])
    typ = r.choice([0, 1, 2, 3, 10, 11, 20, 22, 23, 40, 41, 42, 50, 51, 52, 61, 99, 255])
    k = r.randint(0, 6)
    if k == 0:
        return r.randbytes(r.randint(0, 200))
    if k == 1:
        return pack(typ, js, json_len=r.choice([0, 1, len(js) + 50, 1 << 23, (1 << 32) - 1]))
    if k == 2:
        return pack(typ, js, tail_len=r.choice([1, 1 << 20, 1 << 24, (1 << 32) - 1]))
    if k == 3:
        return pack(typ, js, flags=r.randint(0, 65535), status=r.randint(0, 99), major=r.randint(0, 5))
    if k == 4:
        return pack(typ, js)[:r.randint(1, 40)]
    if k == 5:
        return b"".join(pack(typ, js, r.randbytes(r.randint(0, 64)), fid=i) for i in range(r.randint(1, 20)))
    return mutate(r, pack(typ, js))


def bad_nn(r):
    hello = b"\0SP\0" + struct.pack(">HH", 0x30, 0)
    k = r.randint(0, 60)
    if k == 0:  # what makes the library give up: a second header where a message should be
        return hello + r.randbytes(9)
    if k < 10:
        return r.randbytes(r.randint(0, 40))
    if k < 20:
        return b"\0SP\0" + struct.pack(">HH", r.randint(0, 200), r.randint(0, 3))
    body = struct.pack(">I", r.getrandbits(31) | 1 << 31) + bad_frame(r)
    size = len(body) if k < 50 else r.choice([0, 3, len(body) + 10, 1 << 40, 1 << 62])
    return hello + b"\x01" + struct.pack(">Q", size) + body


def bad_http(r, port):
    body = r.choice([b"{", b"[]", b'{"model":7}', b'{"model":"m","messages":[]}', b'{"model":"m","messages":[{"role":"x"}]}',
                     b'{"model":"m","messages":' + b"[" * 3000, r.randbytes(100)])
    path = r.choice(["/v1/chat/completions", "/v1/models/%ff%00", "/../../etc/passwd", "/v1/models", "/" + "a" * 9000, "/health"])
    head = "%s %s HTTP/1.%d\r\nHost: %s\r\n" % (r.choice(["GET", "POST", "PUT", "BREW", "CONNECT"]), path, r.randint(0, 1),
                                            r.choice(["127.0.0.1:%d" % port, "evil.example", "", "localhost"]))
    k = r.randint(0, 5)
    if k == 0:
        return r.randbytes(r.randint(0, 300))
    if k == 1:
        return (head + "Content-Length: %d\r\n\r\n" % r.choice([1 << 40, 5, 99999999, len(body) + 30])).encode() + body
    if k == 2:
        return (head + "Transfer-Encoding: chunked\r\n\r\n").encode() + b"ffffffffff\r\nzz"
    if k == 3:
        return (head + "X-A: %s\r\n" % ("b" * r.choice([10, 20000, 70000]))).encode()
    if k == 4:
        return mutate(r, (head + "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)).encode() + body)
    return (head + "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)).encode() + body


def throw(connect, make, n, seed, seen):
    """n connections; a few stay open half-said, some read what comes back."""
    r = random.Random(seed)
    held = []
    for i in range(n):
        try:
            s = connect()
        except OSError:
            seen["refused"] = seen.get("refused", 0) + 1
            time.sleep(0.01)
            continue
        try:
            s.settimeout(0.5)
            s.sendall(make(r))
            k = r.random()
            if k < 0.3:
                s.shutdown(socket.SHUT_WR)
                s.recv(4096)
            elif k < 0.33 and len(held) < 40:
                held.append(s)
                continue
        except OSError:
            pass
        s.close()
        seen["sent"] = seen.get("sent", 0) + 1
    for s in held:
        s.close()


def unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(2)
    s.connect(path)
    return s


def good_streams_complete_beside_bad_peers():
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, front=True).start()
    d.load()
    port = http_port(d, want)
    par = {"max_tokens": SAY, "temperature": 0.8, "seed": 21, "ignore_eos": True}
    chat = json.dumps({"model": "m", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": SAY, "temperature": 0, "stream": True})

    def by_core():
        with d.link() as l:
            return generate(l, {"input": "prompt", "prompt": PROMPT, "keep": False, "model": "m", "params": par}).text

    def by_nn():
        p = d.cli("run", "m", PROMPT, "-n", SAY, "--temp", "0.8", "--seed", "21", "--ignore-eos", "--json", url="ipc://" + d.ipc, timeout=180)
        check(p.returncode == 0, lambda: "hearth run: exit %d, %s" % (p.returncode, p.stderr[-400:]))
        return json.loads(p.stdout.strip().splitlines()[-1])["text"]

    def by_http():
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
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
    fds0 = len(os.listdir("/proc/%d/fd" % d.proc.pid))
    pid = d.proc.pid
    stop, count, errors = threading.Event(), {n: 0 for n in good}, []

    def keep_asking(n):
        while not stop.is_set():
            try:
                got = good[n]()
            except Exception as e:
                errors.append("%s: %s: %s" % (n, type(e).__name__, e))
                return
            if got != ref[n]:
                errors.append("%s: another text than alone: %r, want %r" % (n, got[:80], ref[n][:80]))
                return
            count[n] += 1

    threads = [threading.Thread(target=keep_asking, args=(n,)) for n in good]
    seen = {"core": {}, "nn": {}, "http": {}}
    bad = [threading.Thread(target=throw, args=(lambda: unix(d.sock), bad_frame, N, SEED + 1, seen["core"])),
           threading.Thread(target=throw, args=(lambda: unix(d.ipc), bad_nn, N, SEED + 2, seen["nn"])),
           threading.Thread(target=throw, args=(lambda: socket.create_connection(("127.0.0.1", port), 2),
                                                lambda r: bad_http(r, port), N, SEED + 3, seen["http"]))]
    for t in threads + bad:
        t.start()
    for t in bad:
        t.join()
    stop.set()
    for t in threads:
        t.join()
    check(d.alive() and d.proc.pid == pid, lambda: "hearthd died:\n" + d.log_tail())
    check(not errors, lambda: "; ".join(errors[:3]))
    time.sleep(1)
    fds1 = len(os.listdir("/proc/%d/fd" % d.proc.pid))
    check(fds1 <= fds0 + 8, lambda: "file descriptors grew from %d to %d" % (fds0, fds1))
    st = d.status()
    check_eq(st["queue"]["running"], 0, "requests left running")
    print("soak: bad peers %r; good streams completed meanwhile: %r" % (seen, count))
    check(all(count.values()), lambda: "a carrier completed no stream: %r" % count)
    d.stop()


main(good_streams_complete_beside_bad_peers)
