"""hearthlib.py - starts and stops real daemons in temporary directories, speaks their frames.

Only the standard library.  A test file ends with `main(case, case...)`; a case is a function
whose name states the fact.  check() and the like raise, skip() exits with 77.
"""
import atexit, ctypes, json, os, random, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time, traceback

HELLO, PING, STATUS = 1, 2, 3
MODEL_LIST, MODEL_SHOW, MODEL_LOAD, MODEL_UNLOAD = 10, 11, 12, 13
SESSION_OPEN, SESSION_LIST, SESSION_SHOW, SESSION_FORK, SESSION_REWIND = 20, 21, 22, 23, 24
SESSION_RENAME, SESSION_PIN, SESSION_REMOVE, SESSION_EXPORT = 25, 26, 27, 28
TOKENIZE, DETOKENIZE, COUNT, START, NEXT, CANCEL, WHY, METRICS = 40, 41, 42, 50, 51, 52, 60, 61
STATUS_NAMES = {0: "OK", 1: "CANCELLED", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND",
                6: "ALREADY_EXISTS", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED",
                9: "FAILED_PRECONDITION", 11: "OUT_OF_RANGE", 12: "UNIMPLEMENTED", 13: "INTERNAL",
                14: "UNAVAILABLE", 15: "DATA_LOSS", 16: "UNAUTHENTICATED"}
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BIN = os.environ.get("HEARTH_BIN") or os.path.join(ROOT, "build", "release")
# Sanitizers make the programs many times slower: how much longer they may take for anything.
SLOWER = 10 if os.path.basename(os.path.normpath(BIN)) in ("asan", "tsan") else 1
SEED = int(os.environ.get("SEED") or time.time_ns() % 1_000_000_007)
rng = random.Random(SEED)


class Skip(Exception):
    pass


class Failed(Exception):
    pass


def skip(why):
    raise Skip(why)


def check(cond, words):
    if not cond:
        raise Failed(words() if callable(words) else words)


def check_eq(got, want, words):
    if got != want:
        raise Failed("%s: got %r, want %r" % (words, got, want))


def prog(name):
    p = os.path.join(BIN, name)
    if not os.access(p, os.X_OK):
        skip("%s is not built" % p)
    return p


def model():
    m = os.environ.get("HEARTH_TEST_MODEL")
    if not m:
        skip("HEARTH_TEST_MODEL names no model")
    return m


def new_id():
    return os.urandom(16).hex()


_tmp = []


def tmpdir():
    d = tempfile.mkdtemp(prefix="hearth-e2e-")
    _tmp.append(d)
    return d


# --- frames --------------------------------------------------------------------------------
def _crc_table():
    t = []
    for i in range(256):
        for _ in range(8):
            i = (i >> 1) ^ (0x82F63B78 if i & 1 else 0)
        t.append(i)
    return t


_CRC = _crc_table()


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = (c >> 8) ^ _CRC[(c ^ b) & 255]
    return c ^ 0xFFFFFFFF


def pack(typ, js=b"", tail=b"", fid=1, flags=0, status=0, magic=b"HRT1", major=1, json_len=None, tail_len=None, crc=None):
    """One frame; every field of the header can be made wrong."""
    h = magic + struct.pack("<BBHIIQI", major, typ, flags, len(js) if json_len is None else json_len,
                            len(tail) if tail_len is None else tail_len, fid, status)
    return h + struct.pack("<I", crc32c(h) if crc is None else crc) + js + tail


class Error(Exception):
    """A reply whose status is not OK."""

    def __init__(self, status, js):
        self.status, self.js = status, js
        self.slug, self.message = js.get("slug"), js.get("message")
        super().__init__("%s %s: %s" % (STATUS_NAMES.get(status, status), self.slug, self.message))


class Gone(Exception):
    """The link broke."""


class Link:
    """One connection to core.sock, one call at a time."""

    def __init__(self, path, timeout=60):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.s.settimeout(timeout * SLOWER)
        self.n = 0
        try:
            self.s.connect(path)
        except OSError as e:
            self.s.close()
            raise Gone(str(e))

    def close(self):
        self.s.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def recv(self, n):
        b = bytearray()
        while len(b) < n:
            try:
                x = self.s.recv(min(n - len(b), 1 << 20))
            except socket.timeout:
                raise Failed("no reply within %s s" % self.s.gettimeout())
            except OSError as e:
                raise Gone(str(e))
            if not x:
                raise Gone("closed by the other side")
            b += x
        return bytes(b)

    def send(self, typ, js=None, tail=b""):
        self.n += 1
        try:
            self.s.sendall(pack(typ, json.dumps(js or {}).encode(), tail, self.n))
        except OSError as e:
            raise Gone(str(e))
        return self.n

    def reply(self):
        h = self.recv(32)
        magic, major, typ, flags, jl, tl, fid, status, crc = struct.unpack("<4sBBHIIQII", h)
        check(magic == b"HRT1" and crc == crc32c(h[:28]) and flags == 1, lambda: "bad reply header %r" % h)
        body = self.recv(jl + tl)
        js = json.loads(body[:jl]) if jl else {}
        return fid, typ, status, js, body[jl:]

    def raw(self, typ, js=None, tail=b""):
        """(status, json, tail) of the reply."""
        fid = self.send(typ, js, tail)
        rid, rt, status, rj, rtail = self.reply()
        check(rid == fid and rt == typ, lambda: "reply is to %d/%d, want %d/%d" % (rid, rt, fid, typ))
        return status, rj, rtail

    def call(self, typ, js=None, tail=b""):
        status, rj, rtail = self.raw(typ, js, tail)
        if status:
            raise Error(status, rj)
        rj["_tail"] = rtail
        return rj


def records(tail):
    """NEXT's tail as (index, token, logprob bits, text)."""
    out, i = [], 0
    while i < len(tail):
        index, token, bits, n, kind, zero = struct.unpack_from("<IiIHBB", tail, i)
        text = tail[i + 16:i + 16 + n]
        check(len(text) == n and zero == 0, lambda: "record %d is cut or has a nonzero pad" % index)
        out.append((index, token, bits, text.decode()))
        i += 16 + n
    return out


class Answer:
    """What a stream came to: tokens, bits of their logprobs, text, arrival times, the last reply."""

    def __init__(self):
        self.tokens, self.bits, self.pieces, self.times, self.top = [], [], [], [], []
        self.last, self.start, self.stream, self.replies = {}, {}, None, []

    @property
    def text(self):
        return "".join(self.pieces)

    def same(self, o):
        return self.tokens == o.tokens and self.bits == o.bits and self.top == o.top

    def diff(self, o):
        for i, (a, b) in enumerate(zip(zip(self.tokens, self.bits), zip(o.tokens, o.bits))):
            if a != b:
                return "differs at token %d: %r (%.9g) against %r (%.9g)" % (i, a[0], bits_f(a[1]), b[0], bits_f(b[1]))
        if len(self.tokens) != len(o.tokens):
            return "%d tokens against %d" % (len(self.tokens), len(o.tokens))
        return "same tokens and logprobs" if self.top == o.top else "top logprobs differ"


def bits_f(b):
    return struct.unpack("<f", struct.pack("<I", b))[0]


def follow(link, stream, a=None, stop_after=None, max_wait_ms=20000, each=None):
    """Pulls from a's cursor until done, or until stop_after records are here; each() after every reply."""
    a = a or Answer()
    a.stream = stream
    while True:
        r = link.call(NEXT, {"stream": stream, "cursor": len(a.tokens), "max_wait_ms": max_wait_ms})
        now = time.monotonic()
        for index, token, bits, text in records(r["_tail"]):
            check_eq(index, len(a.tokens), "record's index")
            a.tokens.append(token)
            a.bits.append(bits)
            a.pieces.append(text)
            a.times.append(now)
        for t in r.get("logprobs") or []:
            a.top.append((t["index"], tuple((x["id"], x["logprob"]) for x in t["top"])))
        check_eq(r["cursor"], len(a.tokens), "NEXT's cursor")
        a.last = r
        a.replies.append({k: v for k, v in r.items() if k != "_tail"})
        if each:
            each()
        if r["state"] == "done" or (stop_after is not None and len(a.tokens) >= stop_after):
            return a


def generate(link, req, tail=b"", **kw):
    req = dict(req)
    req.setdefault("id", new_id())
    r = link.call(START, req, tail)
    a = Answer()
    a.start = r
    follow(link, r["stream"], a, **kw)
    if a.last.get("finish") == "error" or a.last.get("error"):
        e = a.last.get("error") or {}
        raise Failed("stream ended with %r" % e)
    return a


def flip_each(p, what):
    """Turns one bit in each place where these bytes are; how many."""
    with open(p, "rb") as f:
        b = bytearray(f.read())
    n, at = 0, b.find(what)
    while at >= 0:
        b[at + 1] ^= 0x10
        n += 1
        at = b.find(what, at + len(what))
    if n:
        with open(p, "r+b") as f:
            f.write(b)
    return n


def ids_tail(ids):
    return struct.pack("<%di" % len(ids), *ids)


# --- daemons -------------------------------------------------------------------------------
_running = []
_libc = ctypes.CDLL(None)


def die_with_parent():
    """Between fork and exec: a test that is killed leaves no daemon behind."""
    _libc.prctl(1, signal.SIGKILL, 0, 0, 0)


class Daemon:
    """hearthd on its own state and runtime directories; restart() keeps both."""

    def __init__(self, *flags, model_path="default", state=None, front=False, env=None, name="m", preexec=None):
        self.dir = tmpdir()
        self.state = state or os.path.join(self.dir, "state")
        self.runtime = os.path.join(self.dir, "run")
        os.makedirs(self.runtime, mode=0o700, exist_ok=True)
        self.models = os.path.join(self.dir, "models")
        os.makedirs(self.models, exist_ok=True)
        self.sock = os.path.join(self.runtime, "core.sock")
        self.ipc = os.path.join(self.runtime, "hearth.ipc")
        self.log = os.path.join(self.dir, "log")
        self.flags = list(flags)
        self.front = front
        self.env = env
        self.preexec = preexec
        self.proc = None
        self.extra = []
        if model_path:
            self.extra += ["--model", "%s=%s" % (name, model() if model_path == "default" else model_path)]

    def argv(self, extra=()):
        a = [prog("hearthd"), "--state", self.state, "--runtime", self.runtime, "--models", self.models]
        if not any(str(f).startswith("--host-memory") for f in self.flags):
            a += ["--host-memory", "1GiB"]
        if not any(str(f).startswith("--disk") for f in self.flags):
            a += ["--disk", "8GiB"]
        if not self.front:
            a += ["--no-front"]
        return a + self.extra + self.flags + list(extra)

    def spawn(self, *extra):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "XDG_", "NOTIFY_"))}
        env["HOME"] = self.dir
        env.update(self.env or {})

        def before():
            die_with_parent()
            if self.preexec:
                self.preexec()

        with open(self.log, "ab") as f:
            self.proc = subprocess.Popen(self.argv(extra), stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                                         env=env, preexec_fn=before)
        _running.append(self)
        return self

    def start(self, *extra, ready_s=60):
        self.spawn(*extra)
        self.wait_ready(ready_s)
        return self

    def wait_ready(self, ready_s=60):
        """Until HELLO is answered; returns the seconds it took."""
        t0 = time.monotonic()
        while True:
            if self.proc.poll() is not None:
                raise Failed("hearthd ended with %s at start:\n%s" % (self.proc.returncode, self.log_tail()))
            try:
                with Link(self.sock, timeout=10) as l:
                    l.call(HELLO, {"min": 1, "max": 1, "client": "e2e"})
                return time.monotonic() - t0
            except Gone:
                pass
            if time.monotonic() - t0 > ready_s * SLOWER:
                raise Failed("hearthd not ready after %s s:\n%s" % (ready_s, self.log_tail()))
            time.sleep(0.005)

    def link(self, timeout=120):
        return Link(self.sock, timeout)

    def open_to_users(self):
        """Before a start with --system: other users reach its socket."""
        if os.geteuid() != 0:
            skip("two users need root")
        os.chown(self.runtime, 0, GROUP)
        os.chmod(self.runtime, 0o750)
        os.chmod(self.dir, 0o755)
        p = self.dir
        while p != "/":
            if not os.stat(p).st_mode & 1:
                skip("%s is closed to other users; set TMPDIR" % p)
            p = os.path.dirname(p)

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def kill9(self):
        self.proc.send_signal(signal.SIGKILL)
        self.proc.wait()

    def stop(self, timeout=30):
        if self.proc is None or self.proc.poll() is not None:
            return self.proc.returncode if self.proc else None
        self.proc.terminate()
        try:
            return self.proc.wait(timeout * SLOWER)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise Failed("hearthd did not stop within %d s of SIGTERM:\n%s" % (timeout, self.log_tail()))

    def restart(self, *extra, clean=True):
        if self.alive():
            if clean:
                check_eq(self.stop(), 0, "exit status of a clean stop")
            else:
                self.kill9()
        return self.start(*extra)

    def log_tail(self, n=30):
        try:
            with open(self.log, errors="replace") as f:
                return "".join(f.readlines()[-n:])
        except OSError:
            return "(no log)"

    def load(self, name="m", timeout=120):
        """Loads the model and waits until its weights id is known, so that KV is kept."""
        with self.link() as l:
            r = l.call(MODEL_LOAD, {"id": new_id(), "model": name})
            t0 = time.monotonic()
            while True:
                m = l.call(MODEL_SHOW, {"model": name})
                if m["state"] == "failed":
                    raise Failed("model failed to load: %s" % m.get("error"))
                if m["state"] == "loaded" and m.get("weights_id"):
                    return m
                check(time.monotonic() - t0 < timeout * SLOWER, lambda: "model not loaded and hashed: %r" % m)
                time.sleep(0.02)
        return r

    def status(self):
        with self.link() as l:
            return l.call(STATUS)

    def cli(self, *args, inp=None, timeout=120, url=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "XDG_"))}
        env["HOME"] = self.dir
        return subprocess.run([prog("hearth"), "--socket", url or "unix://" + self.sock] + [str(a) for a in args],
                              input=inp or "", capture_output=True, text=True, timeout=timeout * SLOWER, env=env)


GROUP = 60000
_as_user = threading.Lock()


def link_as(d, uid, timeout=120):
    """A connection that the kernel vouches for as uid's."""
    with _as_user:
        os.setegid(GROUP)
        os.seteuid(uid)
        try:
            return Link(d.sock, timeout)
        finally:
            os.seteuid(0)
            os.setegid(0)


class Front:
    """hearth-front on its own, as under a service manager: it outlives hearthd."""

    def __init__(self, daemon, http=None, nn=False, extra=()):
        self.d, self.http, self.nn, self.extra = daemon, http, nn, list(extra)
        self.proc = None

    def start(self):
        a = [prog("hearth-front"), "--core", self.d.sock, "--runtime", self.d.runtime] + self.extra
        if self.http:
            a += ["--http", self.http]
        if self.nn:
            a += ["--nn", "ipc://" + self.d.ipc]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "XDG_", "NOTIFY_"))}
        with open(self.d.log, "ab") as f:
            self.proc = subprocess.Popen(a, stdin=subprocess.DEVNULL, stdout=f, stderr=f, env=env,
                                         preexec_fn=die_with_parent)
        _running.append(self)
        return self

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def stop(self):
        if self.alive():
            self.proc.terminate()
            try:
                self.proc.wait(10 * SLOWER)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()

    kill9 = stop


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def http_port(d, want, wait_s=30):
    """Until something listens on the port the front wrote down (or the wanted one)."""
    t0 = time.monotonic()
    while time.monotonic() - t0 < wait_s * SLOWER:
        port = want
        try:
            with open(os.path.join(d.runtime, "http.port")) as f:
                port = int(f.read().strip().rsplit(":", 1)[-1])
        except (OSError, ValueError):
            pass
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return port
        except OSError:
            time.sleep(0.02)
    raise Failed("no HTTP front on port %d after %d s:\n%s" % (want, wait_s, d.log_tail()))


def cleanup():
    for r in _running:
        if r.alive():
            r.proc.kill()
            r.proc.wait()
    if os.environ.get("KEEP"):
        print("kept: " + " ".join(_tmp))
        return
    for d in _tmp:
        shutil.rmtree(d, ignore_errors=True)


atexit.register(cleanup)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

# --- text to work on: files every Debian has, else this tree's own -------------------------
_TEXTS = ["/usr/share/common-licenses/GPL-3", "/usr/share/common-licenses/GPL-2",
          "/usr/share/common-licenses/LGPL-2.1", "/usr/share/common-licenses/Apache-2.0",
          os.path.join(ROOT, "docs", "PROTOCOL.md"), os.path.join(ROOT, "README.md")]


def text(which=0, chars=None):
    have = [p for p in _TEXTS if os.path.exists(p)]
    with open(have[which % len(have)], errors="replace") as f:
        s = f.read()
    return s[:chars] if chars else s


def tokens_of(link, s, name="m"):
    r = link.call(TOKENIZE, {"model": name, "special": False}, s.encode())
    ids = list(struct.unpack("<%di" % (len(r["_tail"]) // 4), r["_tail"]))
    check_eq(len(ids), r["count"], "TOKENIZE's count")
    return ids


# --- run -----------------------------------------------------------------------------------
def main(*cases):
    print("SEED=%d" % SEED, flush=True)
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    bad = ran = 0
    why = ""
    for c in cases:
        if only not in c.__name__:
            continue
        t0 = time.monotonic()
        try:
            c()
            word, ran = "ok", ran + 1
        except Skip as e:
            word, why = "skip", str(e)
        except Exception as e:
            word, bad, ran = "FAIL", bad + 1, ran + 1
            if not isinstance(e, Failed):
                traceback.print_exc(file=sys.stdout)
            print("    %s: %s" % (type(e).__name__, e))
            for r in _running[-2:]:
                if isinstance(r, Daemon):
                    print("    -- log of %s\n%s" % (r.dir, r.log_tail()))
        finally:
            for r in list(_running):
                if r.alive():
                    r.proc.kill()
                    r.proc.wait()
                _running.remove(r)
        print("%-5s %s (%.1f s)%s" % (word, c.__name__, time.monotonic() - t0, "  " + why if word == "skip" else ""), flush=True)
    sys.stdout.flush()
    if not bad and not ran:
        print(why or "nothing ran")
    sys.exit(1 if bad else 0 if ran else 77)
