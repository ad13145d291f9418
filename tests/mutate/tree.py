"""tree.py - a copy of the tree under build/mutate that is built, mutated and tested."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from entries import TOP

PLACE = os.path.join(TOP, "build", "mutate")
BUILD_S, STOPPED = 1200, 124


def is_script(suite):
    """End-to-end tests need all programs, unit tests their own."""
    return suite.split(":")[0].endswith((".py", ".sh"))


def files():
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=TOP, check=True,
                           stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return sorted(n for n in names if os.path.isfile(os.path.join(TOP, n)))


class Said:
    """What a test printed, line by line: which cases have ended, and the first that failed."""
    def __init__(self):
        self.lines, self.ended, self.failed = [], [], None

    def line(self, s):
        self.lines.append(s)
        m = re.match(r"\s*(ok|FAIL|skip)\s+(\S+)\s*$", s)
        if m:
            self.ended.append(m[2])
            if m[1] == "FAIL" and not self.failed:
                self.failed = m[2]

    def text(self):
        return "".join(self.lines)


class Tree:
    def __init__(self, name, like=None):
        self.dir = os.path.join(PLACE, str(name))
        own = "hearth-mutate-%d-%s" % (os.getpid(), name)
        # Outside the tree: some tests go on as another user, to whom its folders may be closed.
        self.places = [os.path.join(tempfile.gettempdir(), own), os.path.join("/dev/shm", own)]
        self.env = dict(os.environ, TMPDIR=self.places[0], T_MEMORY=self.places[1],
                        HEARTH_BIN=os.path.join(self.dir, "build", "release"),
                        PYTHONDONTWRITEBYTECODE="1")
        for v in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "BUILD", "ONLY", "FROM", "JOBS", "SEED"):
            self.env.pop(v, None)
        self.lock = threading.Lock()
        if not os.path.exists(self.dir):
            if like:
                subprocess.run(["cp", "-a", "--reflink=auto", like.dir, self.dir], check=True)
            else:
                self.copy()
        self.sync()

    def copy(self):
        """Sources and objects with their times: what has been built there is built here."""
        os.makedirs(self.dir)
        for n in files():
            p = os.path.join(self.dir, n)
            os.makedirs(os.path.dirname(p), exist_ok=True)
            shutil.copy2(os.path.join(TOP, n), p)
        if os.path.isdir(os.path.join(TOP, "build", "release")):
            os.makedirs(os.path.join(self.dir, "build"))
            subprocess.run(["cp", "-a", "--reflink=auto", os.path.join(TOP, "build", "release"),
                            os.path.join(self.dir, "build")], check=True)

    def sync(self):
        have = set(files())
        for root, dirs, names in os.walk(self.dir):
            if root == self.dir:
                dirs[:] = [d for d in dirs if d != "build"]
            for f in names:
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

    def mutate(self, path, text):
        """Puts the text in the file's place; what undoes it again."""
        p = os.path.join(self.dir, path)
        was, t = open(p, "rb").read(), os.stat(p)
        obj = os.path.join(self.dir, "build", "release", path + ".o")
        kept = open(obj, "rb").read() if path.endswith(".c") and os.path.exists(obj) and \
            os.stat(obj).st_mtime_ns > t.st_mtime_ns else None
        self.put(path, text.encode())

        def undo():
            # The object first, and as new: a source that is older is not compiled once more,
            # and one that is killed before it is put back is compiled by the next run.
            if kept is not None:
                with open(obj, "wb") as f:
                    f.write(kept)
            self.put(path, was)
            if kept is not None:
                os.utime(p, ns=(t.st_atime_ns, t.st_mtime_ns))
        return undo

    def run(self, cmd, limit, stop=False):
        """The exit status, STOPPED when it had to be stopped, and what was said.  With stop it
        is over with the first case that fails.  Its whole group ends."""
        p = subprocess.Popen(cmd, cwd=self.dir, env=self.env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             errors="replace", start_new_session=True)
        said, until, rc = Said(), time.time() + limit, None

        def read():
            for s in p.stdout:
                said.line(s)
        t = threading.Thread(target=read, daemon=True)
        t.start()
        while rc is None:
            try:
                rc = p.wait(timeout=0.05)
            except subprocess.TimeoutExpired:
                if stop and said.failed:
                    rc = 1
                elif time.time() > until:
                    rc = STOPPED
        try:
            os.killpg(p.pid, signal.SIGKILL)
        except OSError:
            pass
        p.wait()
        t.join(timeout=5)
        return rc, said

    def empty(self, again=True):
        """What a test that was stopped has left goes."""
        for d in self.places:
            shutil.rmtree(d, ignore_errors=True)
            try:
                if again:
                    os.mkdir(d)
                    os.chmod(d, 0o1777)
            except OSError:
                pass  # no memory file system: the tests use another place

    def build(self, suites, jobs=1):
        goals = ["build/release/tests/" + s.split(":")[0] for s in suites if not is_script(s)]
        # Tests of these folders start the programs that lie beside them, or skip.
        if any(is_script(s) or s.startswith(("client/", "front/")) for s in suites):
            goals.append("all")
        if any(s.startswith("daemon/") for s in suites):
            goals.append("build/release/hearthd")
        self.empty()
        cmd = ["make", "-s", "CUDA=0", "-j%d" % jobs] + list(dict.fromkeys(goals))
        if os.environ.get("CC"):
            cmd.append("CC=" + os.environ["CC"])
        rc, said = self.run(cmd, BUILD_S)
        return rc, said.text()

    def test(self, suite, limit):
        name, _, case = suite.partition(":")
        if name.endswith(".py"):
            cmd = [os.environ.get("HEARTH_PY", sys.executable), "tests/" + name]
        elif name.endswith(".sh"):
            cmd = ["tests/" + name, "build/release"]
        else:
            cmd = ["build/release/tests/" + name]
        self.empty()
        t = time.time()
        rc, said = self.run(cmd + ([case] if case else []), limit, stop=True)
        t = time.time() - t
        self.empty(again=False)
        return rc, said, t
