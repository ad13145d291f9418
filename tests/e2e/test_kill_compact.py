#!/usr/bin/env python3
"""test_kill_compact.py - kill -9 while the turn log is compacted, and in the first start on an old store.

SOAK_KILLS kills of each on each kind of I/O (8 and 16 unless set).  The store is small and its
sessions come, change and go, so that it is compacted, collected and shrunk all the time; three
kills of four wait for a checkpoint or an index being copied, and fall at a random instant of it.
Now and then the index is taken away as well, so that the log must hold everything by itself.
After each, all that was acknowledged must be there, token for token, and nothing said as lost.
"""
from hearthlib import *

sys.setswitchinterval(0.0005)  # who kills is not to wait for those who ask
SOAK = int(os.environ.get("SOAK_KILLS") or 0)
KILLS, STARTS = SOAK or 8, SOAK or 16
DISK = 16 << 20
KILLS_A_STORE = 25  # the requests' own records are kept for a day: a store fills in the end
WRITERS = 10
DAMAGE = ("lost", "damage", "corrupt", ".bad-", "cannot be read", "set aside")


class Client:
    """One connection's sessions: what it was promised, and the call it waits for."""

    def __init__(self, n, seed, talks):
        self.n, self.talks, self.r = n, talks, random.Random(seed)
        self.have = {}       # name -> [acknowledged ids, pinned]
        self.pending = None  # (call, request, tail ids, name, what is true once it is answered)
        self.names = self.acked = self.turns = 0
        self.full = False
        self.empties = False  # only removes, then waits: the index gets free pages, and time to be copied smaller

    def new_name(self):
        self.names += 1
        return "c%d-%05d" % (self.n, self.names)

    def next_op(self):
        r = self.r
        name = r.choice(sorted(self.have)) if self.have else None
        if self.empties:
            return (SESSION_REMOVE, {"session": name}, (), name, None) if len(self.have) > 1 else None
        what = r.random()
        if not name or what < (0.3 if len(self.have) < 12 else 0.0):
            name = self.new_name()
            if self.talks:
                return self.turn(name)
            words = "%s %s" % (name, r.randbytes(700).hex())
            return SESSION_OPEN, {"name": name, "model": "m", "system": words}, (), name, [[], False]
        ids, pinned = self.have[name]
        if what < 0.35:
            new = self.new_name()
            return SESSION_FORK, {"session": name, "name": new}, (), new, [list(ids), None]
        if what < 0.45 or len(self.have) > 14:
            return SESSION_REMOVE, {"session": name}, (), name, None
        if self.talks and what < 0.8:
            return self.turn(name if len(ids) < 60 else self.new_name())
        if ids and what < 0.85:
            to = r.randrange(len(ids))
            return SESSION_REWIND, {"session": name, "to_tokens": to}, (), name, [ids[:to], pinned]
        return SESSION_PIN, {"session": name, "pinned": not pinned}, (), name, [ids, not pinned]

    def turn(self, name):
        add = [self.r.randint(300, 40000) for _ in range(self.r.randint(2, 10))]
        ids, pinned = self.have.get(name, [[], False])
        return START, {"session": name, "create": True, "model": "m", "input": "tokens",
                       "params": {"max_tokens": 0}}, tuple(add), name, [ids + add, pinned]

    def run_pending(self, link):
        call, req, add, name, after = self.pending
        a = link.call(call, req, ids_tail(add))
        if call == START:
            self.turns += 1
            check(follow(link, a["stream"]).last.get("durable") is True, "done without durable")
        if after is None:
            del self.have[name]
        else:
            if after[1] is None:
                after[1] = a["pinned"]
            self.have[name] = after
        self.pending = None
        self.acked += 1

    def go_on(self, link):
        try:
            self.run_pending(link)
        except Error as e:
            if e.slug != "disk_full":
                raise
            self.pending, self.full = None, True  # nothing was changed

    def live(self, d, stop, err):
        try:
            with d.link() as l:
                if self.pending:
                    self.go_on(l)
                while not stop.is_set() and not self.full:
                    op = self.next_op()
                    if not op:
                        time.sleep(0.01)
                        continue
                    op[1]["id"] = new_id()
                    self.pending = op
                    self.go_on(l)
        except Gone:
            pass
        except Exception as e:
            err.append(e)

    def verify(self, link, listed):
        """All of it, but for what an open call may have done or not."""
        open_name = self.pending[3] if self.pending else None
        mine = {n for n in listed if n.startswith("c%d-" % self.n)}
        want = set(self.have)
        check(mine - {open_name} == want - {open_name}, lambda: "sessions gone: %r, sessions too many: %r" % (
            sorted(want - mine)[:5], sorted(mine - want)[:5]))
        for name in sorted(mine):
            r = link.call(SESSION_SHOW, {"session": name, "ids": True})
            check("lost" not in r, lambda: "%s is marked: %r" % (name, r["lost"]))
            got = list(struct.unpack("<%di" % (len(r["_tail"]) // 4), r["_tail"]))
            may = [self.have[name]] if name in self.have else []
            if name == open_name:
                after = self.pending[4]
                may += [after] if after else []
                if self.pending[0] == START:  # its input may be there in part, as of an answer that goes on
                    old = may[0][0] if name in self.have else []
                    check(after[0][:len(got)] == got and got[:len(old)] == old, lambda: "%s has %r" % (name, got))
                    continue
            check(any(got == ids and pinned in (None, r["pinned"]) for ids, pinned in may),
                  lambda: "%s has %r, pinned %r; acknowledged was %r" % (name, got, r["pinned"], may))
            turns = r["turns"]
            check_eq(sum(t["tokens"] for t in turns), len(got), "tokens in the turns of %s" % name)


def all_names(link):
    out, after = [], {}
    while True:
        r = link.call(SESSION_LIST, after)
        out += [s["name"] for s in r["sessions"]]
        if not r.get("next"):
            return out
        after = {"after": r["next"]}


def nothing_said(d, link, from_byte, but=""):
    """No word of a loss; with `but`, that much."""
    words = link.call(STATUS)["warnings"]
    with open(d.log) as f:
        f.seek(from_byte)
        words += f.readlines()
    said = [w for w in words if any(x in w.lower().replace(d.state, "") for x in DAMAGE)]
    check(not said, lambda: "said after a kill: %r" % said)
    check(any(but in w for w in words), lambda: "not said: %s; but %r" % (but, words))
    aside = [f for _, _, fs in os.walk(d.state) for f in fs if ".bad-" in f]
    check(not aside, lambda: "set aside after a kill: %r" % aside)


def log_files(d):
    return os.listdir(os.path.join(d.state, "log"))


def checkpoint_number(d):
    """(number of the newest checkpoint, whether files that it replaces are still there)"""
    newest, files = 0, sorted(f for f in log_files(d) if "." not in f)  # as many digits in each
    for f in files:
        with open(os.path.join(d.state, "log", f), "rb") as g:
            head = g.read(48)
        if head[:8] == b"HRTHLOG1" and head[36] == 1:
            newest = int(f.split("-")[1])
    return newest, bool(newest) and int(files[0].split("-")[1]) < newest


def torn_end(d):
    """A frame that the kill cut: without the index nobody can tell that from damage, and it is said."""
    files = [f for f in log_files(d) if "." not in f]
    if not files:
        return True  # nothing was written yet: there is no log to take the index's place
    with open(os.path.join(d.state, "log", max(files)), "rb") as f:
        b = f.read().rstrip(b"\0")
    at = 4096
    while b[at:at + 4] == b"HFRM":
        at += (24 + struct.unpack_from("<I", b, at + 4)[0] + 4 + 7) // 8 * 8
    return at > len(b) + 8 or b[at:] != b""


def under_way(d):
    """What was being done when it was killed, by what lies there."""
    if checkpoint_there(d):
        return "checkpoint"
    if copy_there(d):
        return "index copy"
    return "files to go" if checkpoint_number(d)[1] else "other"


class Aim:
    """Kills while a .tmp file is there; how long they wait follows from how often they were late.  A process of its own
    looks, and kills: what asks meanwhile would hold it up for longer than a compaction takes."""

    def __init__(self, there):
        self.there, self.span = there, 0.0008

    def kill(self, d, r, alive):
        wait, pid = r.random() * self.span, os.fork()
        if pid == 0:
            end = time.monotonic() + 4
            while time.monotonic() < end and os.getppid() > 1:
                if self.there(d):
                    until = time.monotonic() + wait
                    while time.monotonic() < until:
                        pass
                    os.kill(d.proc.pid, signal.SIGKILL)
                    os._exit(0)
            os._exit(1)
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if not alive():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)

    def learn(self, hit):
        self.span = min(max(self.span * (1.2 if hit else 0.5), 0.00005), 0.5)


def checkpoint_there(d):
    return any(f.endswith(".tmp") for f in log_files(d))


def copy_there(d):
    return os.path.exists(os.path.join(d.state, "index.mdb.tmp"))


def compactions_killed_on(io):
    r = random.Random(SEED)
    seen = {"checkpoint": 0, "files to go": 0, "index copy": 0, "other": 0}
    compacted = acked = stores = killed = again = copied = bares = turns = 0
    aims, d = {"checkpoint": Aim(checkpoint_there), "index copy": Aim(copy_there)}, None
    hits = lambda: killed - seen["other"]
    while killed < KILLS or (hits() < KILLS // 4 and killed < 3 * KILLS):
        if not d or killed_here >= KILLS_A_STORE or any(c.full for c in clients):
            if d:
                acked, turns = acked + sum(c.acked for c in clients), turns + sum(c.turns for c in clients)
                check_eq(d.stop(), 0, "clean stop")
                shutil.rmtree(d.state)
            d = Daemon("--io", io, "--threads", "1", "--disk", str(DISK), "--host-memory", "128MiB", model_path=None)
            os.symlink(model(), os.path.join(d.models, "m.gguf"))  # loaded once it is used
            clients = [Client(i, SEED + stores * 10 + i, talks=i == 0) for i in range(WRITERS)]
            stores, killed_here = stores + 1, 0
            d.start()
        base = checkpoint_number(d)[0]
        stop, err = threading.Event(), []
        aim = (None, "checkpoint", "checkpoint", "index copy", None, "checkpoint", "checkpoint", "checkpoint")[killed % 8]
        talk = r.random() < 0.5  # else no model need be loaded, and the calls come faster
        ts = [threading.Thread(target=c.live, args=(d, stop, err)) for c in clients if talk or not c.talks]
        for t in ts:
            t.start()
        if aim != "checkpoint":
            time.sleep(r.random() * 1.2)
        if aim:
            for c in clients:
                c.empties = aim == "index copy"
            aims[aim].kill(d, r, lambda: not err)
        check(err or d.proc.poll() in (None, -signal.SIGKILL), lambda: "hearthd ended by itself before kill %d:\n%s" % (killed, d.log_tail()))
        d.kill9()
        stop.set()
        for t in ts:
            t.join()
        if err:
            raise err[0]
        killed, killed_here = killed + 1, killed_here + 1
        was = under_way(d)
        seen[was] += 1
        if aim:
            aims[aim].learn(was == aim)
        for c in clients:
            c.empties = False
        compacted += checkpoint_number(d)[0] > base
        bare = r.random() < 0.3 and not torn_end(d)  # the log alone has it all, whichever files of it are there
        if bare:
            os.unlink(os.path.join(d.state, "index.mdb"))
            bares += 1
        said, before = os.path.getsize(d.log), again
        while r.random() < 0.2:  # the start that tidies up is killed as well
            d.spawn()
            time.sleep(r.random() * 0.1)
            d.kill9()
            again += 1
            copied += copy_there(d)
        d.start()
        with d.link() as l:
            names = all_names(l)
            for c in clients:
                c.verify(l, names)
            for c in clients:
                if c.pending and c.pending[0] != START:
                    c.go_on(l)
            names = all_names(l)
            for c in clients:
                c.verify(l, names)
            # A start that was killed may have put the new index in its place, and the next finds it whole.
            nothing_said(d, l, said, "nothing is missing" if bare and again == before else "")
            check_eq(l.call(STATUS)["io"], io, "STATUS.io")
    acked, turns = acked + sum(c.acked for c in clients), turns + sum(c.turns for c in clients)
    check_eq(d.stop(), 0, "clean stop")
    print("soak: %s: %d kills while a log is compacted (%r), %d of starts behind them (%d while the index is copied), "
          "%d without an index, %d stores, %d lives with a whole compaction, %d calls and %d turns acknowledged, nothing lost" % (
              io, killed, seen, again, copied, bares, stores, compacted, acked - turns, turns), flush=True)
    check(hits() >= KILLS // 4, lambda: "few kills hit a compaction: %r" % seen)


# --- the first start on a store of the program before ------------------------------------------
OWNER, SESSIONS, TOKENS = 1000, ("s1", "s2", "s3"), 600
M64 = (1 << 64) - 1


def rig_token(seed, pos):
    """Token of session `seed` of the old store: tests/kvstore/rig.c chose them so."""
    z = (seed + pos * 77 + 0x9e3779b97f4a7c15) & M64
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9 & M64
    z = (z ^ z >> 27) * 0x94d049bb133111eb & M64
    return (z ^ z >> 31) % 49152


def old_store(d):
    os.makedirs(d.state, exist_ok=True)
    subprocess.run(["tar", "-xzf", os.path.join(ROOT, "tests", "golden", "store-v2.tar.gz"), "-C", d.state], check=True)


def all_of_it(d, also=()):
    """What each session of the old store says, for its owner; its block and its request."""
    out = {}
    with link_as(d, OWNER) as l:
        names = all_names(l)
        check_eq(sorted(names), sorted(SESSIONS + tuple(also)), "sessions of the old store")
        for n in names:
            s = l.call(SESSION_SHOW, {"session": n, "ids": True})
            check("lost" not in s, lambda: "%s is marked: %r" % (n, s["lost"]))
            check_eq(s["tokens"], TOKENS, "tokens of %s" % n)
            out[n] = (s["_tail"], s["model"], [(t["n"], t["role"], t["position"], t["tokens"]) for t in s["turns"]])
            out[n + " pinned"] = s["pinned"]
    with d.link() as l:
        out["blocks"] = l.call(STATUS)["blocks"]["file"]
    check_eq(out["blocks"], 1, "blocks of the old store")
    with open(os.path.join(d.state, "index.mdb"), "rb") as f:
        b = f.read()
    check(b'{"a":1}' in b and b"part" in b, "the old store's request is gone from the index")
    return out


def migrations_killed_on(io):
    r = random.Random(SEED + 1)
    want, killed, opening, copies, open_s = None, 0, 0, 0, 0.1
    while killed < STARTS or copies < 2 or (opening < STARTS // 8 and copies < 2 * STARTS):
        d = Daemon("--io", io, "--threads", "1", "--system", "--socket-mode", "0666", model_path=None)
        d.open_to_users()
        old_store(d)
        if want is None:  # as it is without any kill
            d.start()
            want = all_of_it(d)
            for seed in (1, 2, 3):
                check_eq(want["s%d" % seed][0], ids_tail([rig_token(seed, i) for i in range(TOKENS)]), "tokens of s%d" % seed)
            d.stop()
            shutil.rmtree(d.state)
            old_store(d)
        if copies % 2:
            os.unlink(os.path.join(d.state, "index.mdb"))
        for _ in range(r.randint(1, 3)):
            at = os.path.getsize(d.log) if os.path.exists(d.log) else 0
            d.spawn()
            time.sleep(r.random() * open_s)
            check(d.alive(), lambda: "a start ended by itself:\n%s" % d.log_tail())
            d.kill9()
            killed += 1
            with open(d.log) as f:
                f.seek(at)
                opening += ": open in" not in f.read()
        d.spawn()
        open_s = 0.5 * (open_s + d.wait_ready())
        check_eq(all_of_it(d), want, "the old store after %d kills" % killed)
        # Written by the new program, and killed with its acknowledgement.
        with link_as(d, OWNER) as l:
            l.call(SESSION_PIN, {"id": new_id(), "session": "s1", "pinned": True})
            l.call(SESSION_FORK, {"id": new_id(), "session": "s2", "name": "more"})
            d.kill9()
        killed += 1
        d.start()
        got = all_of_it(d, ["more"])
        check_eq(got.pop("s1 pinned"), True, "s1 pinned")
        check_eq(got.pop("more"), want["s2"], "the fork of s2")
        check(all(got[k] == v for k, v in want.items() if k != "s1 pinned"), "the old store changed with a new turn")
        with d.link() as l:
            nothing_said(d, l, 0)
        check(not [f for f in os.listdir(d.state) if ".new" in f], "a half-made index was left behind")
        check_eq(d.stop(), 0, "clean stop")
        shutil.rmtree(d.state)
        copies += 1
    print("soak: %s: %d kills of a first start on %d copies of an old store, %d of them before it was open, nothing lost" % (
        io, killed, copies, opening), flush=True)
    check(opening >= STARTS // 8, lambda: "only %d of %d kills hit the opening" % (opening, killed))


def a_compaction_killed_at_any_instant_loses_nothing_uring():
    compactions_killed_on("uring")


def a_compaction_killed_at_any_instant_loses_nothing_threads():
    compactions_killed_on("threads")


def an_old_stores_first_start_killed_at_any_instant_loses_nothing_uring():
    migrations_killed_on("uring")


def an_old_stores_first_start_killed_at_any_instant_loses_nothing_threads():
    migrations_killed_on("threads")


main(a_compaction_killed_at_any_instant_loses_nothing_uring, a_compaction_killed_at_any_instant_loses_nothing_threads,
     an_old_stores_first_start_killed_at_any_instant_loses_nothing_uring,
     an_old_stores_first_start_killed_at_any_instant_loses_nothing_threads)
