#!/usr/bin/env python3
"""test_confined.py - children hold no descriptor that they do not need; fronts can open, run and unlink nothing."""
from hearthlib import *
import platform, resource

TRACEME, PEEK, CONT, STEP, GETREGS, SETREGS, DETACH, SETOPTIONS, SEIZE, INTERRUPT = 0, 2, 7, 9, 12, 13, 17, 0x4200, 0x4206, 0x4207
O_FORK, O_VFORK, O_CLONE, O_EXEC, O_EXIT = 2, 4, 8, 16, 64
EVENT_EXEC, EVENT_EXIT = 4, 6
WALL = 0x40000000
REGS = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs").split()
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Regs(ctypes.Structure):
    _fields_ = [(n, ctypes.c_ulonglong) for n in REGS]


def ptrace(what, pid, addr=None, data=None):
    if libc.ptrace(what, pid, addr, data) < 0:
        e = ctypes.get_errno()
        raise Failed("ptrace %d of %d: %s" % (what, pid, os.strerror(e)))


def fds(pid):
    out = {}
    for n in os.listdir("/proc/%d/fd" % pid):
        try:
            out[int(n)] = os.readlink("/proc/%d/fd/%s" % (pid, n))
        except OSError:
            pass
    return out


def cmdline(pid):
    try:
        with open("/proc/%d/cmdline" % pid) as f:
            return f.read().split("\0")
    except OSError:
        return []


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(p) for p in f.read().split()]


def fronts(d):
    t0 = time.monotonic()
    while True:
        have = {f: p for p in children(d.proc.pid) for f in ("--nn", "--http") if f in cmdline(p) and cmdline(p)[0].endswith("hearth-front")}
        if len(have) == 2 and all(status(p, "Seccomp") == "2" for p in have.values()):
            return have
        if time.monotonic() - t0 > 10:
            return have
        time.sleep(0.02)


def status(pid, name):
    with open("/proc/%d/status" % pid) as f:
        return next((l.split()[1] for l in f if l.startswith(name + ":")), None)


def started():
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, front=True, model_path=None).start()
    return d, http_port(d, want)


def need_ptrace():
    if platform.machine() != "x86_64":
        skip("reads the registers of an x86-64")
    if SLOWER > 1:
        skip("sanitizers do not like to be traced")


def watch_children(d):
    """Runs d, traced, until its fronts run. [(words, descriptors)]: of each child as its program begins, of a
    copy of hearthd as it ends."""
    seen, known, ran = [], set(), set()
    d.preexec = lambda: libc.ptrace(TRACEME, 0, None, None)
    d.spawn()
    t0, execs = time.monotonic(), 0
    while time.monotonic() - t0 < 30 and execs < 2:
        pid, st = os.waitpid(-1, WALL | os.WNOHANG)
        if pid == 0:
            time.sleep(0.001)
            continue
        if not os.WIFSTOPPED(st):
            check(pid != d.proc.pid, lambda: "hearthd ended: " + d.log_tail())
            continue
        sig, event = os.WSTOPSIG(st), st >> 16
        if pid not in known:
            known.add(pid)
            if pid == d.proc.pid:
                ptrace(SETOPTIONS, pid, None, O_FORK | O_VFORK | O_CLONE | O_EXEC | O_EXIT)
            sig = 0 if sig in (signal.SIGSTOP, signal.SIGTRAP) else sig
        elif event or sig == signal.SIGTRAP:
            sig = 0
        if event == EVENT_EXEC and pid != d.proc.pid:
            ran.add(pid)
            execs += 1
            seen.append((" ".join(cmdline(pid)[:2]), fds(pid)))
        elif event == EVENT_EXIT and pid not in ran and status(pid, "Tgid") == str(pid) and pid != d.proc.pid:
            seen.append(("a copy of hearthd", fds(pid)))
        ptrace(CONT, pid, None, sig)
    os.kill(d.proc.pid, signal.SIGKILL)
    while True:  # all of them, or Popen would wait for a stopped one
        try:
            pid, st = os.waitpid(-1, WALL)
        except ChildProcessError:
            break
        if os.WIFSTOPPED(st):
            libc.ptrace(CONT, pid, None, signal.SIGKILL)
    d.proc.returncode = -9
    return seen


def children_begin_with_the_standard_descriptors_alone():
    need_ptrace()
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, front=True, model_path=None)
    d.start()
    with d.link() as l:  # something to be walked through at the next start
        l.call(STATUS)
    d.kill9()
    seen = watch_children(d)
    print("    " + "; ".join("%s: %d" % (w, len(f)) for w, f in seen))
    check(sum("hearth-front" in w for w, _ in seen) == 2, lambda: "want two fronts in %r\n%s" % (seen, d.log_tail()))
    check(any(w == "a copy of hearthd" for w, _ in seen), lambda: "the index was not walked by a child: %r" % seen)
    for words, have in seen:
        for fd, to in have.items():
            # What it walks, and the pipe it answers through.
            ours = words == "a copy of hearthd" and (to.startswith(d.state + "/") and "index" in os.path.basename(to) or fd == 3 and to.startswith("pipe:"))
            check(fd <= 2 or ours, lambda: "%s has descriptor %d: %s" % (words, fd, to))


def no_descriptor_of_hearthd_would_pass_to_a_program():
    d, _ = started()
    d.link().call(STATUS)
    n = 0
    for fd in fds(d.proc.pid):
        if fd > 2:
            try:
                with open("/proc/%d/fdinfo/%d" % (d.proc.pid, fd)) as f:
                    flags = int(next(l.split()[1] for l in f if l.startswith("flags")), 8)
            except OSError:
                continue
            n += 1
            to = fds(d.proc.pid).get(fd)
            check(flags & os.O_CLOEXEC, lambda: "descriptor %d (%s) would pass" % (fd, to))
    check(n > 5, "only %d descriptors were looked at" % n)
    d.stop()


def children_hold_sockets_and_nothing_of_the_store():
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, front=True).start()
    d.load()
    with d.link() as l:  # so that whoever helps with an answer is there
        generate(l, {"model": "m", "input": "messages", "messages": [{"role": "user", "content": "Hi"}], "params": {"max_tokens": 2}})
    if os.getuid() != 0:
        skip("the descriptors of a front are shown to root alone")
    fronts(d)
    all_ = [int(p) for t in os.listdir("/proc/%d/task" % d.proc.pid)
            for p in open("/proc/%d/task/%s/children" % (d.proc.pid, t)).read().split()]
    print("    " + ", ".join(" ".join(cmdline(p)[:2]) for p in all_))
    check(len(all_) >= 2, "hearthd has no children")
    for pid in all_:
        for fd, to in fds(pid).items():
            ok = fd <= 2 or to.startswith(("socket:", "anon_inode:", "pipe:")) or to.endswith(("/net/tcp", "/net/tcp6"))
            check(ok and not to.startswith(d.state), lambda: "%s holds %d: %s" % (cmdline(pid)[:2], fd, to))
    d.stop()


def inject(pid, calls):
    """Makes the process do system calls (number, arguments; bytes become a path); their results."""
    ptrace(SEIZE, pid)
    ptrace(INTERRUPT, pid)
    os.waitpid(pid, WALL)
    old, r = Regs(), Regs()
    ptrace(GETREGS, pid, None, ctypes.addressof(old))
    out = []
    with open("/proc/%d/mem" % pid, "r+b", buffering=0) as mem:
        mem.seek(old.rip)
        code = mem.read(2)
        mem.seek(old.rip)
        mem.write(b"\x0f\x05")
        for nr, *args in calls:
            ctypes.memmove(ctypes.addressof(r), ctypes.addressof(old), ctypes.sizeof(r))
            r.rax, r.orig_rax, at = nr, 2**64 - 1, old.rsp - 4096
            for name, a in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), args):
                if isinstance(a, bytes):
                    mem.seek(at)
                    mem.write(a + b"\0")
                    a, at = at, at - 1024
                setattr(r, name, a & (2**64 - 1))
            ptrace(SETREGS, pid, None, ctypes.addressof(r))
            ptrace(STEP, pid)
            os.waitpid(pid, WALL)
            ptrace(GETREGS, pid, None, ctypes.addressof(r))
            out.append(ctypes.c_longlong(r.rax).value)
        mem.seek(old.rip)
        mem.write(code)
    ptrace(SETREGS, pid, None, ctypes.addressof(old))
    ptrace(DETACH, pid)
    return out


def a_front_taken_over_can_reach_nothing():
    need_ptrace()
    if os.getuid() != 0:
        skip("a front can be traced by root alone")
    d, port = started()
    index = os.path.join(d.state, "index.mdb").encode()
    check(os.path.exists(index), "no index.mdb to try it on")
    calls = [("getpid", (39,), None), ("open of index.mdb", (2, index, 0, 0), -1), ("openat of it", (257, -100, index, 2, 0), -1),
             ("a new file in the store", (257, -100, d.state.encode() + b"/x", 0o102, 0o600), -1), ("execve", (59, b"/bin/true", 0, 0), -1),
             ("unlink of core.sock", (87, d.sock.encode()), -1), ("fork", (57,), -1), ("a TCP socket", (41, 2, 1, 0), -1),
             ("another local socket", (41, 1, 1, 0), -1), ("kill of hearthd", (62, d.proc.pid, 0), -1), ("prlimit of hearthd", (302, d.proc.pid, 7, 0, 0), -1)]
    have = fronts(d)
    check_eq(sorted(have), ["--http", "--nn"], "fronts")
    for flag, pid in have.items():
        check_eq((status(pid, "Seccomp"), status(pid, "NoNewPrivs")), ("2", "1"), "Seccomp and NoNewPrivs of the front " + flag)
        got = inject(pid, [c for _, c, _ in calls])
        for (words, _, want), r in zip(calls, got):
            check_eq(r, pid if want is None else want, "%s by the front %s" % (words, flag))
        with open("/proc/%d/limits" % pid) as f:
            lim = {l[:26].strip(): l[26:].split()[:2] for l in f.readlines()[1:]}
        check_eq((lim["Max core file size"], lim["Max processes"]), (["0", "0"], ["0", "0"]), "limits of the front " + flag)
        check("unlimited" not in lim["Max address space"] + lim["Max data size"], "the front's memory has no limit")
        check_eq(os.stat("/proc/%d/fd" % pid).st_uid, 0, "owner of the front's /proc (a process that cannot be dumped is root's)")
    # They work on, as they did.
    socket.create_connection(("127.0.0.1", port), 5).close()
    r = d.cli("status", "--json", url="ipc://" + d.ipc)
    check_eq(r.returncode, 0, "status through the nanomsg front: " + r.stderr)
    check_eq(children(d.proc.pid) and sorted(fronts(d).values()), sorted(have.values()), "the fronts' pids")
    d.stop()
    check(not os.path.exists(d.ipc), "hearth.ipc is left behind by a clean stop")


main(children_begin_with_the_standard_descriptors_alone, no_descriptor_of_hearthd_would_pass_to_a_program,
     children_hold_sockets_and_nothing_of_the_store, a_front_taken_over_can_reach_nothing)
