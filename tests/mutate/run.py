#!/usr/bin/env python3
"""run.py - breaks the program in one place at a time, and looks whether a test notices.

Reads the *.txt beside it.  An entry is

    [name] file: suite suite ...
    ? why it matters, in a few words
    - old text, which occurs exactly once in the file (white space of any kind is alike)
    + new text (none: the old one goes)
    = only where no test can notice: the reason

Several - or + lines are one text.  A suite is tests/FOLDER/test_X without tests/, with :CASE
for some of its cases (test_x CASE), or a name that a line "NAME = suite suite" has given to several.

The tree is copied to build/mutate/N, one copy a worker, and built once; then each mutation costs
one compile, one link and its suites, the first of which that fails ends it.  A suite that does not
pass in the tree as it is ends the whole.  A suite may take SLACK + FACTOR times what it took there.

    run.py [--jobs N] [--only GLOB,GLOB] [--from NAME]   fails below 95 % caught, or for a survivor without
                                                 a reason; also by JOBS, ONLY and FROM in the environment
    run.py --check                               each entry still fits the code: no build
"""
import argparse
import fnmatch
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
SLACK_S, FACTOR, BUILD_S, WANT = 15, 6, 900, 0.95


class Entry:
    def __init__(self, name, path, suites, where):
        self.name, self.path, self.suites, self.where = name, path, suites, where
        self.why, self.old, self.new, self.reason = [], [], [], []

    def pattern(self):
        words = " ".join(self.old).split()
        return r"\s+".join(re.escape(w) for w in words)


def read_lists():
    entries, groups, e = [], {}, None
    for path in sorted(glob.glob(os.path.join(HERE, "*.txt"))):
        for n, line in enumerate(open(path, encoding="utf-8"), 1):
            line, where = line.rstrip("\n"), "%s:%d" % (os.path.basename(path), n)
            head = re.match(r"\[([a-z0-9-]+)\] ([^ :]+): (.+)$", line)
            group = re.match(r"([A-Z][A-Z_0-9]*) = (.+)$", line)
            if head:
                e = Entry(head[1], head[2], head[3].split(), where)
                entries.append(e)
            elif group:
                groups[group[1]] = group[2].split()
            elif e and re.match(r"[?+=-]( |$)", line):
                {"?": e.why, "-": e.old, "+": e.new, "=": e.reason}[line[:1]].append(line[2:])
            elif line.strip() and not line.startswith("#"):
                sys.exit("%s: not understood: %s" % (where, line))
    def spread(names):
        for s in names:
            yield from spread(groups[s]) if s in groups else [s]
    for e in entries:
        e.suites = list(dict.fromkeys(spread(e.suites)))
    return entries


def mutated(e, text):
    """The file's new text, or None and what is wrong with the entry."""
    if not e.old or not e.why:
        return None, "has no old text or no reason why"
    found = re.findall(e.pattern(), text)
    if len(found) != 1:
        return None, "old text occurs %d times in %s" % (len(found), e.path)
    new = "\n".join(e.new)
    out = re.sub(e.pattern(), lambda m: new, text)
    return (out, None) if out.split() != text.split() else (None, "changes nothing")


def check(entries):
    bad, names = 0, set()
    for e in entries:
        try:
            text = open(os.path.join(TOP, e.path), encoding="utf-8").read()
            wrong = mutated(e, text)[1]
        except OSError as x:
            wrong = str(x)
        if e.name in names:
            wrong = "name is taken twice"
        names.add(e.name)
        for s in e.suites:
            f = os.path.join(TOP, "tests", s.split(":")[0])
            if not os.path.exists(f) and not os.path.exists(f + ".c"):
                wrong = "there is no suite tests/%s" % s
        if wrong:
            print("mutate: %s: [%s] %s" % (e.where, e.name, wrong))
            bad += 1
    return bad


class Tree:
    """A copy of the tree that is built and mutated."""
    def __init__(self, number, like=None):
        self.dir = os.path.join(TOP, "build", "mutate", str(number))
        self.env = dict(os.environ, TMPDIR=os.path.join(self.dir, "tmp"),
                        HEARTH_BIN=os.path.join(self.dir, "build", "release"),
                        PYTHONDONTWRITEBYTECODE="1")
        for v in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "BUILD"):
            self.env.pop(v, None)
        if like and not os.path.exists(self.dir):
            subprocess.run(["cp", "-a", like.dir, self.dir], check=True)
        self.sync()

    def sync(self):
        names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=TOP,
                               check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        have = set(n for n in names if os.path.exists(os.path.join(TOP, n)))
        for root, dirs, files in os.walk(self.dir):
            if root == self.dir:
                dirs[:] = [d for d in dirs if d not in ("build", "tmp")]
            for f in files:
                p = os.path.join(root, f)
                if os.path.relpath(p, self.dir) not in have:
                    os.unlink(p)
        for n in have:
            self.put(n, open(os.path.join(TOP, n), "rb").read(),
                     os.stat(os.path.join(TOP, n)).st_mode)

    def put(self, name, data, mode=0o644):
        p = os.path.join(self.dir, name)
        try:
            if open(p, "rb").read() == data:
                return
        except OSError:
            os.makedirs(os.path.dirname(p), exist_ok=True)
        with open(p, "wb") as f:
            f.write(data)
        os.chmod(p, mode & 0o777)

    def run(self, cmd, limit):
        """The exit status, 124 when it had to be stopped, and what was said.  Its whole group ends."""
        p = subprocess.Popen(cmd, cwd=self.dir, env=self.env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             errors="replace", start_new_session=True)
        try:
            out, rc = p.communicate(timeout=limit)[0], p.returncode
        except subprocess.TimeoutExpired:
            out, rc = "", 124
        try:
            os.killpg(p.pid, signal.SIGKILL)
        except OSError:
            pass
        if rc == 124:
            p.communicate()
        return rc, out

    def build(self, suites):
        goals = ["build/release/tests/" + s.split(":")[0] for s in suites if not is_script(s)]
        # Tests of these folders start the programs that lie beside them, or skip.
        if any(is_script(s) for s in suites):
            goals.append("all")
        if any(s.startswith("daemon/") for s in suites):
            goals.append("build/release/hearthd")
        os.makedirs(self.env["TMPDIR"], exist_ok=True)
        cmd = ["make", "-s", "CUDA=0", "-j%d" % (os.cpu_count() or 2)] + goals
        if os.environ.get("CC"):
            cmd.append("CC=" + os.environ["CC"])
        return self.run(cmd, BUILD_S)

    def test(self, suite, limit):
        name, _, case = suite.partition(":")
        if name.endswith(".py"):
            cmd = [os.environ.get("HEARTH_PY", sys.executable), "tests/" + name]
        elif name.endswith(".sh"):
            cmd = ["tests/" + name, "build/release"]
        else:
            cmd = ["build/release/tests/" + name]
        shutil.rmtree(self.env["TMPDIR"], ignore_errors=True)
        os.makedirs(self.env["TMPDIR"])
        t = time.time()
        rc, out = self.run(cmd + ([case] if case else []), limit)
        return rc, out, time.time() - t


def is_script(suite):
    """End-to-end tests need all programs, unit tests their own."""
    return suite.split(":")[0].endswith((".py", ".sh"))


def failing_case(out):
    for line in out.splitlines():
        m = re.match(r"\s*FAIL\s+(\S+)", line)
        if m:
            return m[1]
    return ""


class Run:
    def __init__(self, entries, trees):
        self.todo, self.trees, self.lock = list(entries), trees, threading.Lock()
        self.took, self.done, self.failed = {}, [], None

    def baseline(self, tree, times):
        suites = list(dict.fromkeys(s for e in self.todo for s in e.suites))
        rc, out = tree.build(suites)
        if rc:
            sys.exit("mutate: the tree does not build\n" + out[-4000:])
        for s in suites:
            for _ in range(times):
                rc, out, t = tree.test(s, 600)
                if rc not in (0, 77):
                    sys.exit("mutate: %s fails without any mutation (%d)\n%s" % (s, rc, out[-4000:]))
                self.took[s] = None if rc == 77 else max(t, self.took.get(s) or 0)
            print("%-44s %s" % (s, "%5.1f s" % self.took[s] if self.took[s] else "skipped here"),
                  flush=True)

    def one(self, tree, e):
        src = os.path.join(tree.dir, e.path)
        text = open(src, encoding="utf-8").read()
        new, wrong = mutated(e, text)
        if wrong:
            return "error", wrong
        tree.put(e.path, new.encode())
        try:
            runs = [s for s in e.suites if self.took.get(s)]
            if not runs:
                return "error", "none of its suites can run here"
            rc, out = tree.build(runs)
            if rc:
                tail = [x for x in out.splitlines() if "error" in x or "undefined" in x]
                return "error", "does not build: " + (tail[0] if tail else out[-200:])
            for s in runs:
                rc, out, _ = tree.test(s, SLACK_S + FACTOR * self.took[s])
                if rc == 124:
                    return "caught", "%s hangs" % s
                if rc not in (0, 77):
                    how = failing_case(out) or ("signal %d" % -rc if rc < 0 else "exit %d" % rc)
                    return "caught", "%s: %s" % (s, how)
            return "SURVIVED", " ".join(e.reason) or "by no suite"
        finally:
            tree.put(e.path, text.encode())

    def worker(self, tree):
        while True:
            with self.lock:
                if not self.todo or self.failed:
                    return
                e = self.todo.pop(0)
            t = time.time()
            try:
                word, what = self.one(tree, e)
            except Exception as x:  # said, not swallowed: the run as a whole fails
                word, what = "error", repr(x)
            if word == "SURVIVED" and e.reason:
                word = "explained"
            with self.lock:
                self.done.append((word, e, what))
                print("%-9s %-28s %-26s %4.0f s  %s" % (word, e.name, e.path, time.time() - t, what),
                      flush=True)

    def all(self):
        ts = [threading.Thread(target=self.worker, args=(t,)) for t in self.trees]
        for t in ts:
            t.start()
        for t in ts:
            t.join()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--check", action="store_true")
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--only", default=os.environ.get("ONLY") or "*")
    ap.add_argument("--from", dest="start", default=os.environ.get("FROM") or "")
    ap.add_argument("--jobs", type=int, default=int(os.environ.get("JOBS") or 1))
    ap.add_argument("--times", type=int, default=1)
    a = ap.parse_args()
    entries = read_lists()
    bad = check(entries)
    if a.check or a.list:
        for e in entries if a.list else []:
            print("%-28s %-26s %s" % (e.name, e.path, " ".join(e.why)))
        print("mutate: %d entries, %d do not fit" % (len(entries), bad))
        return 1 if bad else 0
    if bad:
        return 1
    names = [e.name for e in entries]
    if a.start:
        if a.start not in names:
            sys.exit("mutate: FROM=%s: there is no such entry" % a.start)
        entries = entries[names.index(a.start):]
    entries = [e for e in entries if any(fnmatch.fnmatch(x, p) for p in a.only.split(",")
                                         for x in (e.name, e.path))]
    if not entries:
        sys.exit("mutate: ONLY=%s: no entry" % a.only)
    t = time.time()
    first = Tree(0)
    run = Run(entries, [first])
    run.baseline(first, a.times)
    run.trees += [Tree(i, first) for i in range(1, min(a.jobs, len(entries)))]
    run.all()
    n = {w: sum(1 for d in run.done if d[0] == w) for w in ("caught", "SURVIVED", "explained", "error")}
    counted = n["caught"] + n["SURVIVED"] + n["explained"]
    share = n["caught"] / counted if counted else 0
    for word, e, what in run.done:
        if word in ("SURVIVED", "error"):
            print("%s: %s: [%s] %s: %s" % (word, e.where, e.name, " ".join(e.why), what))
    print("mutate: %d mutations: %d caught (%.1f %%), %d survive with a reason, %d without, %d errors, in %d min"
          % (len(run.done), n["caught"], 100 * share, n["explained"], n["SURVIVED"], n["error"],
             (time.time() - t) / 60))
    return 0 if share >= WANT and not n["SURVIVED"] and not n["error"] else 1


if __name__ == "__main__":
    sys.exit(main())
