#!/usr/bin/env python3
"""run.py - breaks the program in one place at a time, and looks whether a test notices.

Reads the *.txt beside it.  An entry is

    [name] file: suite suite ...
    ? why it matters, in a few words
    - old text, which occurs exactly once in the file (white space of any kind is alike)
    + new text (none: the old one goes)
    = only where no test can notice: the reason
    @ CPU flags, as in /proc/cpuinfo, that the code wants: elsewhere it is not tried

Several - or + lines are one text.  A suite is tests/FOLDER/test_X without tests/, with :CASE
for some of its cases (test_x CASE), or a name that a line "NAME = suite suite" has given to several.

The tree is copied to build/mutate/clean, which stays as it is, and to build/mutate/N, one copy a
worker.  Each mutation costs one compile, and a link for each suite that is asked.  Asked first is
the case that caught it last (catchers.list, --learn writes it), then its suites in their order;
the first case that fails ends it.

A mutation counts as caught when a case fails twice that passes in the clean copy in this run.  One
that is stopped after SLACK + FACTOR times what the suite takes in the clean copy counts when it
hangs once more by itself and takes far less there at the same time.  A suite that fails in the
clean copy is an error.

Each result is kept in build/mutate/results as soon as it is there: --resume goes on with what a
run on the same tree has left.

    run.py [--jobs N] [--only GLOB,GLOB] [--from NAME] [--resume] [--learn]
                            fails below 95 % caught, or for a survivor without a reason; also by
                            JOBS, ONLY, FROM, RESUME=1 and LEARN=1 in the environment
    run.py --check          each entry still fits the code: no build
"""
import argparse
import fnmatch
import hashlib
import json
import os
import sys
import threading
import time

from entries import TOP, check, mutated, read_lists, write_catchers
from tree import PLACE, STOPPED, Tree, files, is_script

SLACK_S, FACTOR, CLEAN_S, FAR, WANT = 10, 5, 900, 3, 0.95
RESULTS = os.path.join(PLACE, "results")


def judged_hash():
    """Of all that a result depends on, so not of the lists of mutations and of what is only read."""
    h = hashlib.sha256()
    for n in files():
        if not n.startswith(("tests/mutate/", "docs/")) and not n.endswith(".md"):
            h.update(n.encode() + b"\0" + open(os.path.join(TOP, n), "rb").read())
    return h.hexdigest()


def results():
    """What was written whole: a run that was killed may have left a part of a line."""
    try:
        with open(RESULTS, "rb") as f:
            text = f.read()
    except OSError:
        return
    if text and not text.endswith(b"\n"):
        with open(RESULTS, "ab") as f:  # the next one has a line of its own
            f.write(b"\n")
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            print("mutate: a line of %s is torn, it is left out" % RESULTS, flush=True)


class Clean:
    """The copy that is not mutated: what a suite says and takes there."""
    def __init__(self, tree):
        self.tree, self.known, self.lock = tree, {}, threading.Lock()
        self.built = set()

    def build(self, suites, jobs):
        self.built.update(s.split(":")[0] for s in suites)
        rc, out = self.tree.build(suites, jobs)
        if rc:
            sys.exit("mutate: the tree does not build\n" + out[-4000:])

    def look(self, suite, again=False):
        """(exit status, seconds, cases in their order)"""
        with self.lock:
            if suite in self.known and not again:
                return self.known[suite]
            if suite.split(":")[0] not in self.built:
                self.build([suite], 1)
            rc, said, t = self.tree.test(suite, CLEAN_S)
            if rc in (0, 77):
                self.known[suite] = (rc, t, said.ended)
            return rc, t, said.ended


class Run:
    def __init__(self, entries, clean, tree):
        self.todo, self.clean, self.tree = list(entries), clean, tree
        self.lock, self.done, self.stop = threading.Lock(), [], False
        self.found = {}

    def ask(self, tree, suite, patience=1):
        """None: it did not notice; else (word, what, which case)."""
        rc0, took, cases = self.clean.look(suite)
        if rc0 == 77:
            return None
        if rc0:
            return "error", "%s fails without any mutation (%d)" % (suite, rc0), None
        rc, out = tree.build([suite])
        if rc:
            tail = [x for x in out.splitlines() if "error" in x or "undefined" in x]
            return "error", "does not build: " + (tail[0] if tail else out[-200:]), None
        limit = patience * (SLACK_S + FACTOR * took)
        rc, said, _ = tree.test(suite, limit)
        if rc in (0, 77):
            return None
        # A program that ended or hangs did so in the case after the last that ended.
        under_way = cases[len(said.ended)] if len(said.ended) < len(cases) else None
        case = said.failed or under_way
        who = suite if is_script(suite) or ":" in suite or not case else suite + ":" + case
        if rc == STOPPED:
            return self.stopped(tree, suite, who, limit, patience)
        rc0 = self.clean.look(who)[0]
        if rc0 and who != suite:  # a case that does not stand alone
            who, rc0 = suite, self.clean.look(suite)[0]
        if rc0:
            return "error", "%s fails without any mutation (%d)" % (who, rc0), None
        how = "" if said.failed else " signal %d" % -rc if rc < 0 else " exit %d" % rc
        # Twice: on a busy machine a case may fail once for want of time.
        for again in dict.fromkeys((who, suite)):
            if tree.test(again, limit)[0] not in (0, 77):
                return "caught", who + how, who
        return None

    def stopped(self, tree, suite, who, limit, patience):
        """It hangs, or the machine is busy: what does the same take now where nothing is wrong?"""
        rc0, took, _ = self.clean.look(who, again=True)
        if rc0:
            return "error", "%s fails without any mutation (%d)" % (who, rc0), None
        if FAR * took <= limit and who == suite:
            return "caught", "%s hangs" % who, who
        if FAR * took <= limit:
            rc, said, _ = tree.test(who, SLACK_S + FACTOR * took)
            if rc not in (0, 77):
                return "caught", who + ("" if said.failed else " hangs"), who
        if patience > 1:
            return "error", "%s was stopped after %.0f s: too slow to judge" % (suite, limit), None
        return self.ask(tree, suite, patience=4)

    def one(self, tree, e):
        if not e.here():
            return "not-here", "wants a CPU with " + " ".join(e.cpu), None
        src = os.path.join(tree.dir, e.path)
        new, wrong = mutated(e, open(src, encoding="utf-8").read())
        if wrong:
            return "error", wrong, None
        undo = tree.mutate(e.path, new)
        try:
            ran = 0
            for s in ([e.catcher] if e.catcher else []) + e.suites:
                said = self.ask(tree, s)
                if said:
                    return said
                ran += self.clean.look(s)[0] == 0
            if not ran:
                return "error", "none of its suites can run here", None
            return ("explained" if e.reason else "SURVIVED"), " ".join(e.reason) or "no suite", None
        finally:
            undo()

    def worker(self, tree):
        while True:
            with self.lock:
                if not self.todo or self.stop:
                    return
                e = self.todo.pop(0)
            t = time.time()
            try:
                word, what, who = self.one(tree, e)
            except BaseException as x:  # said, not swallowed: the run as a whole fails
                word, what, who = "error", repr(x), None
            with self.lock:
                self.note(word, e, what)
                if who:
                    self.found[e.name] = who
                with open(RESULTS, "a", encoding="utf-8") as f:
                    f.write(json.dumps({"key": e.key(self.tree), "name": e.name, "word": word,
                                        "what": what, "who": who}) + "\n")
                print("%-9s %-28s %-28s %4.0f s  %s" % (word, e.name, e.path, time.time() - t, what),
                      flush=True)

    def note(self, word, e, what):
        self.done.append((word, e, what))

    def resume(self):
        """Takes the results that a run on this tree has left."""
        had = {x["key"]: x for x in results() if x["word"] not in ("error", "not-here")}
        for e in list(self.todo):
            x = had.get(e.key(self.tree))
            if x:
                self.todo.remove(e)
                word = x["word"] if x["word"] == "caught" else "explained" if e.reason else "SURVIVED"
                self.note(word, e, x["what"])
                if x["who"]:
                    self.found[e.name] = x["who"]

    def all(self, trees):
        ts = [threading.Thread(target=self.worker, args=(t,)) for t in trees]
        for t in ts:
            t.start()
        try:
            for t in ts:
                t.join()
        except KeyboardInterrupt:
            self.stop = True
            print("mutate: ends with what is under way; --resume (RESUME=1) goes on", flush=True)
            for t in ts:
                t.join()

    def table(self):
        words = ("caught", "explained", "SURVIVED", "error", "not-here")
        rows = {}
        for word, e, _ in self.done:
            for folder in (os.path.dirname(e.path), "all"):
                rows.setdefault(folder, dict.fromkeys(words, 0))[word] += 1
        print("\n%-22s %9s %9s %12s %9s %9s %9s" % ("folder", "mutations", "caught", "survive with",
                                                    "without", "errors", "not here"))
        print("%-22s %9s %9s %12s %9s" % ("", "", "", "a reason", ""))
        for folder in sorted(rows, key=lambda f: (f == "all", f)):
            n = rows[folder]
            print("%-22s %9d %8.1f%% %12d %9d %9d %9d" % (
                folder, sum(n.values()), 100 * share(n), n["explained"], n["SURVIVED"], n["error"], n["not-here"]))
        return rows.get("all") or dict.fromkeys(words, 0)


def share(n):
    counted = n["caught"] + n["SURVIVED"] + n["explained"]
    return n["caught"] / counted if counted else 0


def chosen(entries, only, start):
    names = [e.name for e in entries]
    if start:
        if start not in names:
            sys.exit("mutate: FROM=%s: there is no such entry" % start)
        entries = entries[names.index(start):]
    entries = [e for e in entries if any(fnmatch.fnmatch(x, p) for p in only.split(",")
                                         for x in (e.name, e.path))]
    if not entries:
        sys.exit("mutate: ONLY=%s: no entry" % only)
    return entries


def main():
    env = os.environ.get
    ap = argparse.ArgumentParser()
    ap.add_argument("--check", action="store_true")
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--only", default=env("ONLY") or "*")
    ap.add_argument("--from", dest="start", default=env("FROM") or "")
    ap.add_argument("--jobs", type=int, default=int(env("JOBS") or 1))
    ap.add_argument("--resume", action="store_true", default=env("RESUME") == "1")
    ap.add_argument("--learn", action="store_true", default=env("LEARN") == "1")
    a = ap.parse_args()
    entries = read_lists()
    bad = check(entries)
    if a.check or a.list:
        for e in entries if a.list else []:
            print("%-28s %-28s %s" % (e.name, e.path, " ".join(e.why)))
        print("mutate: %d entries, %d do not fit" % (len(entries), bad))
        return 1 if bad else 0
    if bad:
        return 1
    t = time.time()
    clean = Clean(Tree("clean"))
    run = Run(chosen(entries, a.only, a.start), clean, judged_hash())
    if a.resume:
        run.resume()
    elif os.path.exists(RESULTS):
        os.replace(RESULTS, RESULTS + ".last")
    if run.todo:
        clean.build(list(dict.fromkeys(s for e in run.todo for s in e.suites)), os.cpu_count() or 2)
        trees = [Tree(i, clean.tree) for i in range(max(1, min(a.jobs, len(run.todo))))]
        print("mutate: built in %.0f s, %d mutations to try" % (time.time() - t, len(run.todo)),
              flush=True)
        run.all(trees)
        for x in trees + [clean.tree]:
            x.empty(again=False)
    if a.learn:
        write_catchers(entries, run.found)
    n = run.table()
    for word, e, what in run.done:
        if word in ("SURVIVED", "error"):
            print("%s: %s: [%s] %s: %s" % (word, e.where, e.name, " ".join(e.why), what))
    print("mutate: %d mutations: %d caught (%.1f %%), %d survive with a reason, %d without, %d errors, "
          "%d not for this CPU, in %.1f min" % (len(run.done), n["caught"], 100 * share(n), n["explained"],
                                                n["SURVIVED"], n["error"], n["not-here"], (time.time() - t) / 60))
    return 0 if share(n) >= WANT and not n["SURVIVED"] and not n["error"] and not run.todo else 1


if __name__ == "__main__":
    sys.exit(main())
