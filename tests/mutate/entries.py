"""entries.py - the lists of mutations beside this file, and what is known of who catches them."""
import glob
import hashlib
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
CATCHERS = os.path.join(HERE, "catchers.list")


class Entry:
    def __init__(self, name, path, suites, where):
        self.name, self.path, self.suites, self.where = name, path, suites, where
        self.why, self.old, self.new, self.reason, self.cpu = [], [], [], [], []
        self.catcher = None  # SUITE:CASE that caught it last

    def here(self):
        """Does this machine run what is mutated?"""
        flags = open("/proc/cpuinfo", encoding="utf-8").read().split() if self.cpu else []
        return all(f in flags for f in " ".join(self.cpu).split())

    def pattern(self):
        words = " ".join(self.old).split()
        return r"\s+".join(re.escape(w) for w in words)

    def key(self, tree):
        """The same entry in the same tree has the same result."""
        text = "\n".join([tree, self.name, self.path] + self.suites + self.old + ["+"] + self.new)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


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
            elif e and re.match(r"[?+=@-]( |$)", line):
                {"?": e.why, "-": e.old, "+": e.new, "=": e.reason, "@": e.cpu}[line[:1]].append(line[2:])
            elif line.strip() and not line.startswith("#"):
                sys.exit("%s: not understood: %s" % (where, line))

    def spread(names):
        for s in names:
            yield from spread(groups[s]) if s in groups else [s]
    for e in entries:
        e.suites = list(dict.fromkeys(spread(e.suites)))
    known = read_catchers()
    for e in entries:
        e.catcher = known.get(e.name)
    return entries


def read_catchers():
    try:
        lines = open(CATCHERS, encoding="utf-8").read().splitlines()
    except OSError:
        return {}
    return dict(x.split() for x in lines if x and not x.startswith("#"))


def write_catchers(entries, found):
    """Those found in this run, and those known of entries that are still there."""
    known = dict(read_catchers(), **found)
    names = {e.name for e in entries}
    with open(CATCHERS, "w", encoding="utf-8") as f:
        f.write("# Who caught a mutation last, and is asked first: written by run.py --learn.\n")
        for n in sorted(known):
            if n in names:
                f.write("%s %s\n" % (n, known[n]))


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
