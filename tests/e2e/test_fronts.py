#!/usr/bin/env python3
"""test_fronts.py - fronts die: they are back at once, clients get their answer, Ctrl-C works."""
from hearthlib import *
import threading

PROMPT = "Describe a quiet harbour in winter."
BACK_MAX_S = 1.0


def front_pid(d, flag):
    """The pid of hearthd's front with this flag; None while there is none."""
    with open("/proc/%d/task/%d/children" % (d.proc.pid, d.proc.pid)) as f:
        for p in f.read().split():
            try:
                with open("/proc/%s/cmdline" % p) as c:
                    a = c.read().split("\0")
                    # Not yet one that is still a copy of hearthd.
                    if a[0].endswith("hearth-front") and flag in a:
                        return int(p)
            except OSError:
                pass


def until(what, words, wait_s=20):
    t0 = time.monotonic()
    while not what():
        check(time.monotonic() - t0 < wait_s, words)
        time.sleep(0.002)
    return time.monotonic() - t0


def listens(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
        except OSError:
            return False
    return True


def begin(d, verb, *more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "XDG_"))}
    env["HOME"] = d.dir
    return subprocess.Popen([prog("hearth"), "--socket", "ipc://" + d.ipc, verb, "--temp", "0.8", "--seed", "21",
                             "--ignore-eos"] + [str(m) for m in more] + [PROMPT], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def a_front_that_dies_is_back_at_once():
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, front=True).start()
    port = http_port(d, want)
    until(lambda: listens(d.ipc), "no nanomsg front")

    def http_listens():
        try:
            socket.create_connection(("127.0.0.1", port), 2).close()
        except OSError:
            return False
        return True

    for flag, there in (("--nn", lambda: listens(d.ipc)), ("--http", http_listens)):
        worst = 0.0
        for _ in range(10):
            old = front_pid(d, flag)
            os.kill(old, signal.SIGKILL)
            worst = max(worst, until(lambda: front_pid(d, flag) not in (None, old) and there(), "%s front is not back" % flag))
        print("    %-6s back after at most %.2f s" % (flag, worst))
        check(worst < BACK_MAX_S, lambda: "the %s front was away for %.2f s" % (flag, worst))
    check_eq(d.stop(), 0, "clean stop")


def clients_whose_front_dies_get_their_answer():
    d = Daemon("--http", "off", front=True).start()
    d.load()
    until(lambda: listens(d.ipc), "no nanomsg front")
    t0 = time.monotonic()
    want = begin(d, "run", "-n", 60, "m").communicate(timeout=120)[0]
    alone = time.monotonic() - t0
    check(want.strip(), "an empty reference")
    deaths, slowest = 0, 0.0
    for _ in range(4):
        t0 = time.monotonic()
        runs = [begin(d, "run", "-n", 60, "m") for _ in range(4)]
        # Also as they are reached: the first falls among the clients' connects.
        while any(p.poll() is None for p in runs) and time.monotonic() - t0 < 3:
            time.sleep(rng.choice([0.005, 0.02, 0.1, 0.3]))
            p = front_pid(d, "--nn")
            if p:
                os.kill(p, signal.SIGKILL)
                deaths += 1
        for p in runs:
            out, err = p.communicate(timeout=120)
            check_eq(p.returncode, 0, "exit code of hearth run (%s)" % err[-300:])
            check_eq(out, want, "the answer")
        slowest = max(slowest, time.monotonic() - t0)
    print("    16 answers beside %d deaths, slowest %.1f s, one alone %.1f s" % (deaths, slowest, alone))
    d.stop()


def ctrl_c_works(hurt, heal, words):
    """While the front is hurt: one Ctrl-C ends the client soon, and what was generated is kept."""
    d = Daemon().start()
    d.load()
    f = Front(d, nn=True).start()
    until(lambda: listens(d.ipc), "no nanomsg front")
    with d.link() as l:
        l.call(SESSION_OPEN, {"id": new_id(), "name": "s", "model": "m", "create": True})
    p = begin(d, "ask", "-n", 4000, "-s", "s", "-m", "m")
    check(p.stdout.read(1), lambda: "no answer begins: " + p.stderr.read())
    hurt(f)
    time.sleep(0.5)
    check(p.poll() is None, lambda: "hearth did not wait: %s" % p.stderr.read())
    t0 = time.monotonic()
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=60)
    took = time.monotonic() - t0
    print("    %s: gone %.2f s after Ctrl-C" % (words, took))
    check_eq(p.returncode, 130, "exit code after Ctrl-C, %s" % words)
    check(took < 5, lambda: "Ctrl-C took %.1f s, %s" % (took, words))
    heal(f)
    with d.link() as l:
        check(l.call(SESSION_SHOW, {"session": "s"})["tokens"] > 0, "nothing was kept")
    d.stop()


def kill9(f):
    f.proc.kill()
    f.proc.wait()


def ctrl_c_works_while_the_front_is_gone():
    ctrl_c_works(kill9, lambda f: None, "front gone")


def ctrl_c_works_while_the_front_is_silent():
    ctrl_c_works(lambda f: f.proc.send_signal(signal.SIGSTOP), lambda f: f.proc.send_signal(signal.SIGCONT), "front silent")


def a_port_that_another_user_has_ends_the_start():
    if os.geteuid() != 0:
        skip("wants root, to be another user")
    port = free_port()
    squatter = subprocess.Popen([sys.executable, "-c", "import os, socket; os.setuid(12345); s = socket.socket();"
                                 "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', %d)); s.listen();"
                                 "print('up', flush=True); input()" % port], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                preexec_fn=die_with_parent)
    check_eq(squatter.stdout.readline(), b"up\n", "the other user's program")
    d = Daemon("--http", "127.0.0.1:%d" % port, front=True, model_path=None)
    d.spawn()
    check_eq(d.proc.wait(30 * SLOWER), 1, "exit code beside another user's program")
    log = d.log_tail()
    for w in ("port %d is taken by pid %d" % (port, squatter.pid), "uid 12345", "--http-any-port"):
        check(w in log, lambda: "the log does not say %r: %s" % (w, log))
    p = d.cli("serve", "--detach", "--json", *d.argv()[1:])
    check(p.returncode == 1 and "port %d is taken by" % port in json.loads(p.stdout)["message"],
          lambda: "serve --detach: %d %s %s" % (p.returncode, p.stdout, p.stderr))
    d.start("--http-any-port")
    until(lambda: d.status()["http"], "no HTTP front")
    got = int(d.status()["http"].rsplit(":", 1)[1])
    check(port < got <= port + 100, lambda: "HTTP is at %d" % got)
    check_eq(d.stop(), 0, "exit status")
    squatter.kill()
    squatter.wait()
    d.start()
    # Until its front is there, what is told is where the last one was.
    until(lambda: (d.status()["http"] or "").endswith(":%d" % port), "the port that is free again is not taken")
    check_eq(d.stop(), 0, "exit status")


def end_pid(pid):
    os.kill(pid, signal.SIGTERM)
    until(lambda: state_of(pid) in ("Z", "gone"), "hearthd does not end", 60 * SLOWER)


def a_port_that_ones_own_program_has_is_said_where_one_looks():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        d = Daemon("--http", "127.0.0.1:%d" % port, front=True, model_path=None).start()
        until(lambda: d.status()["http"], "no HTTP front")
        st = d.status()
        got = int(st["http"].rsplit(":", 1)[1])
        check(port < got <= port + 100, lambda: "HTTP is at %d" % got)
        check_eq(st["http_set"], "127.0.0.1:%d" % port, "what was set")
        want = "HTTP is served on port %d: port %d was taken" % (got, port)
        check(any(want in w for w in st["warnings"]), lambda: "status lacks %r: %r" % (want, st["warnings"]))
        p = d.cli("status")
        check("127.0.0.1:%d, since 127.0.0.1:%d was taken" % (got, port) in p.stdout, lambda: "status: " + p.stdout)
        p = d.cli("doctor")
        check(want in p.stdout and "served at 127.0.0.1:%d" % got in p.stdout, lambda: "doctor: " + p.stdout)
        check_eq(d.stop(), 0, "exit status")
        check(not os.path.exists(os.path.join(d.runtime, "http.port")), "the port that was served stays written down")
        for how in (["--json"], []):
            p = d.cli("serve", "--detach", *how, *d.argv()[1:])
            check(p.returncode == 0, lambda: "serve --detach: %d %s %s" % (p.returncode, p.stdout, p.stderr))
            j = d.cli("status", "--json")
            j = json.loads(j.stdout)
            end_pid(j["pid"])
            if how:
                o = json.loads(p.stdout)
                check_eq(o["http"], j["http"], "serve's http")
                check(any("port %d was taken" % port in w for w in o["warnings"]), lambda: "serve: " + p.stdout)
            else:
                check("HTTP at " + j["http"] in p.stderr and "port %d was taken" % port in p.stderr, lambda: "serve: " + p.stderr)
    # Free again: nothing to say.
    d.start()
    until(lambda: d.status()["http"], "no HTTP front")
    st = d.status()
    if st["http"] == st["http_set"]:  # unless somebody has been quicker
        check(not any("was taken" in w for w in st["warnings"]), lambda: "with the port free: %r" % st["warnings"])
    d.stop()


def a_start_that_fails_says_why_to_who_started_it():
    d = Daemon("--http", "off", model_path=None)
    os.makedirs(d.state)
    os.chmod(d.state, 0o777)
    for more, code, slug, words in (((), 1, "hearthd_ended", "state directory %s: has mode 0777" % d.state), (("--disk=lots",), 2, "usage", "lots")):
        p = d.cli("serve", "--detach", "--json", *d.argv()[1:], *more)
        o = json.loads(p.stdout)
        check_eq((p.returncode, o["type"], o["slug"]), (code, "error", slug), "serve --detach --json")
        check(o["log"] in o["hint"] and o["log"] not in o["message"], lambda: "no hint: " + p.stdout)
        check(words in o["message"] and any(words in r for r in o["reason"]), lambda: "no reason: " + p.stdout)
        check(os.path.exists(o["log"]), "no log at " + o["log"])
        p = d.cli("serve", "--detach", *d.argv()[1:], *more)
        check_eq(p.returncode, code, "exit code of serve --detach")
        check(words in p.stderr and not p.stdout, lambda: "no reason: %r %r" % (p.stdout, p.stderr))


def what_the_front_would_refuse_ends_the_start():
    d = Daemon(model_path=None, front=True)
    keys = os.path.join(d.dir, "keys")
    d.flags = ["--http", "127.0.0.1:%d" % free_port(), "--api-key-file", keys]
    for text, mode, words in ((None, 0, "No such file"), ("a-key-of-some-length-1\n", 0o644, "chmod 600"),
                              ("short\n", 0o600, "16 to 256 bytes"), ("", 0o600, "holds no key"),
                              # Taken up to there they would be other keys, shorter ones.
                              ("a-key-of-some-length-1\0and-more\n", 0o600, "keys:1: want a key"),
                              ("a-key-of-some-length-1\n# \0\na-key-of-some-length-2\rand-more\n", 0o600, "keys:3: want a key"),
                              ("a-key-of-some-length-1\n\na-key-of-some-length-1\n", 0o600, "lines 1 and 3 hold the same key"),
                              ("a-key-of-some\tlength-1\n", 0o600, "keys:1: want a key"),
                              ("k" * (1 << 21), 0o600, "more than 1024 KiB"), (None, 0o600, "not a regular file")):
        if text is None and mode:
            os.unlink(keys)
            os.mkfifo(keys, mode)
        elif text is not None:
            with open(keys, "w") as f:
                os.fchmod(f.fileno(), mode)
                f.write(text)
        for how in ([d.argv(), 0], [d.argv() + ["--check-config"], 0], [[prog("hearth"), "serve", "--detach"] + d.argv()[1:], 1]):
            t0 = time.monotonic()
            p = subprocess.run(how[0], env={"HOME": d.dir, "PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60 * SLOWER)
            check_eq(p.returncode, 2, "exit code of %r: %s" % (how[0], p.stderr))
            check(words in p.stderr and keys in p.stderr, lambda: "%r says %r" % (how[0], p.stderr))
            check(time.monotonic() - t0 < 10 * SLOWER, "refused after %.1f s" % (time.monotonic() - t0))
    # By itself it ends with what the units take for a mistake, which is not tried again.
    with open(keys + "2", "w") as f:
        os.fchmod(f.fileno(), 0o600)
        f.write("short\n")
    p = subprocess.run([prog("hearth-front"), "--http", "127.0.0.1:0", "--core", d.dir + "/none", "--runtime", d.dir,
                        "--api-key-file", keys + "2"], capture_output=True, text=True, timeout=60 * SLOWER)
    check(p.returncode == 2 and "16 to 256 bytes" in p.stderr, lambda: "%d %s" % (p.returncode, p.stderr))
    os.chmod(keys + "2", 0o644)
    for f in (keys + "2", d.dir + "/no-such-file"):
        p = subprocess.run([prog("hearth-front"), "--http", "127.0.0.1:0", "--core", d.dir + "/none", "--runtime", d.dir,
                            "--api-key-file", f], capture_output=True, text=True, timeout=60 * SLOWER)
        check_eq(p.returncode, 2, p.stderr)
    for unit in ("hearth-front.service", "user/hearth-front-http.service"):
        with open(os.path.join(os.path.dirname(__file__), "../../systemd", unit)) as f:
            check("RestartPreventExitStatus=2 3\n" in f.read(), unit)
    # So is whatever else the front would end for.
    for more in ([], ["--check-config"]):
        p = subprocess.run(d.argv()[:-4] + ["--http", "127.0.0.1:0", "--http-origin", "https://a.example nonsense"] + more, env={"HOME": d.dir},
                           capture_output=True, text=True, timeout=60 * SLOWER)
        check(p.returncode == 2 and '--http-origin: want origins like' in p.stderr and '"nonsense"' in p.stderr, lambda: "%d %s" % (p.returncode, p.stderr))


def an_address_that_cannot_be_had_stands_in_the_status():
    d = Daemon(model_path=None, front=True)
    keys = os.path.join(d.dir, "keys")
    with open(keys, "w") as f:
        os.fchmod(f.fileno(), 0o600)
        f.write("a-key-of-some-length-1\n")
    d.flags = ["--http", "192.0.2.1:8765", "--api-key-file", keys]
    t0 = time.monotonic()
    p = d.cli("serve", "--detach", "--json", *d.argv()[1:])
    check(p.returncode == 0 and time.monotonic() - t0 < 15 * SLOWER, lambda: "%d after %.1f s: %s" % (p.returncode, time.monotonic() - t0, p.stdout))
    j = json.loads(p.stdout)
    check(any("cannot listen on 192.0.2.1 port 8765" in w for w in j["warnings"]), lambda: p.stdout)
    time.sleep(max(0, t0 + 5 - time.monotonic()))  # in which it has been tried three times
    st = d.status()
    check("192.0.2.1" in st["http_error"] and sum("192.0.2.1" in w for w in st["warnings"]) == 1, lambda: repr(st))
    check("not served, see the warnings" in d.cli("status").stdout, "hearth status")
    check("-> see the warning" in d.cli("doctor").stdout, lambda: d.cli("doctor").stdout)
    with open(j["log"]) as f:
        check_eq(sum("cannot listen on 192.0.2.1" in x for x in f), 1, "lines of the log")
    end_pid(j["pid"])


def state_of(pid):
    """'Z' once it has ended and its parent has not looked yet."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def sigint_ignored(pid):
    with open("/proc/%d/status" % pid) as f:
        mask = [l.split()[1] for l in f if l.startswith("SigIgn:")][0]
    return int(mask, 16) >> (signal.SIGINT - 1) & 1


def a_stop_of_all_is_not_taken_for_a_front_that_failed():
    d = Daemon("--http", "127.0.0.1:0", front=True, model_path=None).start()
    fronts = []
    for flag in ("--nn", "--http"):
        until(lambda: front_pid(d, flag), "no %s front" % flag)
        fronts.append(front_pid(d, flag))
    until(lambda: d.status()["http"] and listens(d.ipc), "the fronts are not there")
    # A terminal's Ctrl-C goes to all of them: hearthd answers it.
    for p in fronts:
        check(sigint_ignored(p), "a front of hearthd's ends by Ctrl-C")
    # What systemd does: all are told, and the fronts are quicker.
    d.proc.send_signal(signal.SIGSTOP)
    until(lambda: state_of(d.proc.pid) == "T", "hearthd is not held")
    for p in fronts:
        os.kill(p, signal.SIGTERM)
    until(lambda: all(state_of(p) == "Z" for p in fronts), "the fronts do not end")
    d.proc.send_signal(signal.SIGTERM)
    d.proc.send_signal(signal.SIGCONT)
    check_eq(d.proc.wait(60 * SLOWER), 0, "exit status")
    check("starting it again" not in d.log_tail(), lambda: "the log has a front that failed: " + d.log_tail())
    # A front alone that is told to end comes back, and that is said.
    d.start()
    until(lambda: listens(d.ipc) and front_pid(d, "--nn"), "no nanomsg front")
    old = front_pid(d, "--nn")
    os.kill(old, signal.SIGTERM)
    until(lambda: front_pid(d, "--nn") not in (None, old), "the nanomsg front is not back")
    check("nanomsg front: ended, told to or without its link, starting it again" in d.log_tail(), lambda: "not said: " + d.log_tail())
    check_eq(d.stop(), 0, "exit status")


main(a_port_that_another_user_has_ends_the_start, a_port_that_ones_own_program_has_is_said_where_one_looks,
     a_start_that_fails_says_why_to_who_started_it, what_the_front_would_refuse_ends_the_start,
     an_address_that_cannot_be_had_stands_in_the_status, a_stop_of_all_is_not_taken_for_a_front_that_failed, a_front_that_dies_is_back_at_once, clients_whose_front_dies_get_their_answer, ctrl_c_works_while_the_front_is_gone,
     ctrl_c_works_while_the_front_is_silent)
