#!/usr/bin/env python3
"""test_limit.py - sessions fill the disk limit: nothing more is taken, the advice works, nothing is lost."""
from hearthlib import *
import json, re

LIMIT = 6 << 20
TALK = {"model": "m", "create": True, "input": "prompt", "prompt": "The sea is", "params": {"max_tokens": 3}}


def du(path):
    n = 0
    for d, _, files in os.walk(path):
        for f in files:
            try:
                n += os.lstat(os.path.join(d, f)).st_blocks * 512
            except OSError:
                pass
    return n


def fill(link):
    """Sessions with long system texts until one is refused; their names and the refusal."""
    names, words = [], "x" * 1400
    while len(names) < 20000:
        name = "s%05d" % len(names)
        try:
            link.call(SESSION_OPEN, {"id": new_id(), "name": name, "model": "m", "system": "%05d %s" % (len(names), words)})
        except Error as e:
            return names, e
        names.append(name)
    raise Failed("20000 sessions of 1.4 KB fit %d bytes" % LIMIT)


def a_full_limit_refuses_and_sessions_rm_makes_room():
    d = Daemon("--disk", str(LIMIT)).start()
    most = 0
    with d.link() as l:
        generate(l, dict(TALK, session="first"))
        before = l.call(SESSION_SHOW, {"session": "first"})
        names, e = fill(l)
        most = max(most, du(d.state))
        check_eq(e.slug, "disk_full", "slug of the refused session")
        check(len(names) > 300, lambda: "only %d sessions fit" % len(names))
        s = l.call(STATUS)
        check_eq(s["status"], "degraded", "status of a full store")
        check(any("sessions rm" in w for w in s["warnings"]), lambda: "no advice in %r" % s["warnings"])
        full = s["tiers"]["file"]
        check_eq(full["allocated"] + full["kept"], LIMIT, "what is taken and what is kept free, of the limit")
    p = d.cli("status")
    check(p.returncode == 0 and "of the disk's limit free, to compact the turn log" in p.stdout, lambda: p.stdout)
    r = d.cli("ask", "-s", "first", "Hello")
    check(r.returncode != 0 and "--disk" in r.stderr and "hearth sessions rm" in r.stderr,
          lambda: "ask on a full store: %d %s" % (r.returncode, r.stderr))
    said = [float(x) for x in re.findall(r"([0-9.]+) MiB", r.stderr)]
    check(len(said) == 3 and said[0] == LIMIT / 2**20 and abs(said[0] - said[1] - said[2]) < 0.15 and said[2] > 0,
          lambda: "the numbers do not add up: %s" % r.stderr)
    print("    %d sessions; %s" % (len(names), r.stderr.strip().splitlines()[0]), flush=True)
    d.restart()
    r = d.cli("ask", "-s", "first", "Hello")
    check(r.returncode != 0 and "hearth sessions rm" in r.stderr, lambda: "after a restart: %s" % r.stderr)
    # What the words say, and nothing else.
    check_eq(d.cli("sessions", "rm", *names[:len(names) // 2]).returncode, 0, "exit code of sessions rm")
    with d.link() as l:
        for i in range(200):
            s = l.call(STATUS)
            most = max(most, du(d.state))
            if s["status"] == "ok" and s["tiers"]["file"]["used"] < 0.95 * full["used"]:
                break
            time.sleep(0.1)
        check_eq(s["status"], "ok", "status when half of them are gone: %r" % s["warnings"])
        # The requests' own records are kept for a day.
        check(s["tiers"]["file"]["used"] < 0.95 * full["used"],
              lambda: "used %d of %d before" % (s["tiers"]["file"]["used"], full["used"]))
        a = generate(l, dict(TALK, session="another"))
        check_eq(len(a.tokens), 3, "tokens of the answer")
    # Blocks that found no room may go to the file tier now: what `du` says lies between two looks.
    with d.link() as l:
        for _ in range(50):
            a, out, b = (l.call(STATUS), json.loads(d.cli("--json", "du").stdout), l.call(STATUS))
            a, out, b = (x["tiers"]["file"]["used"] for x in (a, out, b))
            if a == b:
                break
            time.sleep(0.1)
        check(min(a, b) <= out <= max(a, b), lambda: "hearth du says %d bytes, STATUS %d and %d" % (out, a, b))
    d.restart(clean=False)
    with d.link() as l:
        after = l.call(SESSION_SHOW, {"session": "first"})
        check_eq(after["tokens"], before["tokens"], "tokens of the first session")
        check_eq(l.call(SESSION_SHOW, {"session": names[-1]})["name"], names[-1], "a session that stays")
        left = l.call(SESSION_LIST, {})["sessions"]
        check_eq(len(left), len(names) - len(names) // 2 + 2, "sessions left")
    most = max(most, du(d.state))
    print("    at most %d of %d bytes on disk" % (most, LIMIT), flush=True)
    check(most <= LIMIT + 65536, lambda: "%d bytes on disk, the limit is %d" % (most, LIMIT))
    d.stop()


def asked_and_left(link, n):
    """n sessions with a long prompt each, that somebody stopped waiting for."""
    names = ["asked%d" % i for i in range(n)]
    ids = tokens_of(link, "first")
    ids = (ids * (7000 // len(ids) + 1))[:7000]
    for i, name in enumerate(names):
        r = link.call(START, {"id": new_id(), "model": "m", "create": True, "session": name, "input": "tokens", "params": {"max_tokens": 1}},
                      ids_tail([ids[i]] + ids))
        link.call(CANCEL, {"stream": r["stream"]})
        follow(link, r["stream"])
        got = link.call(SESSION_SHOW, {"session": name})["tokens"]
        check(got >= 7000, lambda: "%s has %d tokens" % (name, got))
    return names


def what_was_asked_a_moment_ago_makes_room_when_it_is_removed():
    d = Daemon("--disk", str(4 << 20)).start()
    with d.link() as l:
        generate(l, dict(TALK, session="first"))
        asked = asked_and_left(l, 8)
        names, e = fill(l)
        check_eq(e.slug, "disk_full", "slug of the refused session")
        full = l.call(STATUS)["tiers"]["file"]["used"]
    # The daemon is the one that answered them.
    check_eq(d.cli("sessions", "rm", *asked).returncode, 0, "exit code of sessions rm")
    with d.link() as l:
        until = time.time() + 120
        while time.time() < until:
            s = l.call(STATUS)
            if s["status"] == "ok":
                break
            time.sleep(0.1)
        check_eq(s["status"], "ok", "status when they are gone: %r" % s["warnings"])
        print("    %d other sessions, %d bytes used, %d then" % (len(names), full, s["tiers"]["file"]["used"]), flush=True)
        a = generate(l, dict(TALK, session="another"))
        check_eq(len(a.tokens), 3, "tokens of the answer")
    d.stop()


def what_is_removed_before_its_model_is_loaded_frees_its_blocks():
    d = Daemon("--disk", "256MiB", model_path=None)
    os.symlink(model(), os.path.join(d.models, "m.gguf"))
    d.start()
    with d.link() as l:
        for name, start in (("long", 0), ("other", 20000)):
            generate(l, {"model": "m", "create": True, "session": name, "input": "prompt", "prompt": text(0)[start:start + 6000], "params": {"max_tokens": 1}})
    d.restart()
    with d.link() as l:
        shown = {n: l.call(SESSION_SHOW, {"session": n})["bytes"]["file"] for n in ("long", "other")}
        check(all(shown.values()), lambda: "bytes of sessions whose model is not loaded: %r" % shown)
        used = l.call(STATUS)["tiers"]["file"]["used"]
        l.call(SESSION_REMOVE, {"id": new_id(), "session": "long"})
        t0 = time.monotonic()
        while l.call(STATUS)["tiers"]["file"]["used"] > used - shown["long"]:
            check(time.monotonic() - t0 < 10 * SLOWER, lambda: "%d used, %d before" % (l.call(STATUS)["tiers"]["file"]["used"], used))
            time.sleep(0.1)
        check_eq(l.call(SESSION_SHOW, {"session": "other"})["bytes"]["file"], shown["other"], "bytes of the other")
        check_eq([m["state"] for m in l.call(MODEL_LIST)["models"]], ["available"], "state of the model")
    d.stop()


def a_limit_below_what_is_there_is_said():
    d = Daemon("--disk", "256MiB").start()
    with d.link() as l:
        generate(l, {"model": "m", "create": True, "session": "long", "input": "prompt", "prompt": text(0)[:6000], "params": {"max_tokens": 1}})
        for _ in range(100):
            used = l.call(STATUS)["tiers"]["file"]["used"]
            if used > 24 << 20:
                break
            time.sleep(0.1)
        check(used > 24 << 20, "only %d bytes are on disk" % used)
        check(not any("--disk" in w for w in l.call(STATUS)["warnings"]), "a warning without a cause")
    d.stop()
    d.flags = ["--disk", "16MiB"]
    d.start()
    with d.link() as l:
        w = [w for w in l.call(STATUS)["warnings"] if "whole files of KV" in w]
        check(len(w) == 1 and "allows 16 MiB" in w[0] and " until it fits" in w[0] and "raise --disk" in w[0], lambda: "warnings: %r" % l.call(STATUS)["warnings"])
        print("    " + w[0], flush=True)
        check_eq(l.call(SESSION_SHOW, {"session": "long"})["turns"][-1]["role"], "assistant", "the session is whole")
    d.stop()


def blocks_that_find_no_room_are_said_by_status():
    d = Daemon("--disk", "8MiB").start()
    d.load()
    doc = os.path.join(d.dir, "doc.txt")
    with open(doc, "w") as f:
        f.write("The sea is wide and the wind is cold. " * 150)
    p = d.cli("ingest", "-s", "doc", "-m", "m", doc)
    check_eq(p.returncode, 0, p.stderr)
    with d.link() as l:
        t0, w = time.monotonic(), []
        while not w and time.monotonic() - t0 < 60 * SLOWER:  # they go down beside the answers
            w = [x for x in l.call(STATUS)["warnings"] if "do not reach the disk" in x]
    check(w and "model m" in w[0] and "raise it to 9 MiB" in w[0], lambda: repr(w))
    check("sessions rm" not in w[0], lambda: "advice that cannot help: " + w[0])
    d.stop()


def a_limit_too_small_is_refused_by_name():
    d = Daemon("--disk", "1MiB")
    d.spawn()
    d.proc.wait(30)
    check("disk" in d.log_tail() and "4" in d.log_tail(), lambda: d.log_tail())
    check(d.proc.returncode not in (0, -6, -11), lambda: "ended with %d" % d.proc.returncode)
    print("    " + d.log_tail().strip().splitlines()[-1], flush=True)


main(a_full_limit_refuses_and_sessions_rm_makes_room, what_was_asked_a_moment_ago_makes_room_when_it_is_removed,
     what_is_removed_before_its_model_is_loaded_frees_its_blocks, a_limit_below_what_is_there_is_said,
     a_limit_too_small_is_refused_by_name, blocks_that_find_no_room_are_said_by_status)
