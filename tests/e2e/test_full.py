#!/usr/bin/env python3
"""test_full.py - turns that found no room wait in memory, and are written, all of them, when there is some again."""
from hearthlib import *
import resource

LOW = 4096  # bytes a file may have: neither log nor index can be written


def may_write(d, yes):
    """As a full disk does: what is written finds no room, or does again."""
    hard = resource.prlimit(d.proc.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(d.proc.pid, resource.RLIMIT_FSIZE, (hard if yes else LOW, hard))


def turn(l, session, prompt, n=6, **kw):
    return generate(l, dict({"model": "m", "create": True, "session": session, "input": "prompt", "prompt": prompt,
                             "params": {"max_tokens": n, "ignore_eos": True, "seed": 7}}, **kw))


def state(l, session):
    """All that a restart must bring back: tokens, and of each turn what it is."""
    s = l.call(SESSION_SHOW, {"session": session, "ids": True})
    keys = ("role", "position", "tokens", "finish")
    return s["_tail"], [[t.get(k) for k in keys] for t in s["turns"]], s["name"], s["pinned"]


def words(s):
    return [w for w in s["warnings"] if "in memory only" in w]


def until_ok(l):
    """Until everything is written: by itself, nobody asks for anything but this."""
    t0 = time.monotonic()
    while True:
        s = l.call(STATUS)
        if s["status"] == "ok" and not words(s):
            return time.monotonic() - t0
        check(time.monotonic() - t0 < 60 * SLOWER, lambda: "still %s: %r" % (s["status"], s["warnings"]))
        time.sleep(0.1)


def refused(l, typ, req):
    try:
        l.call(typ, dict(req, id=new_id()))
    except Error as e:
        return e
    raise Failed("%r was done although turns before it are not on disk" % req)


def kept_turns_are_written_by_themselves():
    d = Daemon().start()
    d.load()
    with d.link() as l:
        turn(l, "a", "The sea is")
        may_write(d, False)
        asked = [("a", "and the sky"), ("a", "and the wind"), ("b", "It was")]
        asked = [(s, p, new_id()) for s, p in asked]
        answers = [turn(l, s, p, id=i) for s, p, i in asked]
        for a in answers:
            said = a.last.get("warnings") or []
            check(a.last["durable"] is False, "an answer is called durable that is not")
            check(any("in memory only" in w and "ulimit -f" in w for w in said), lambda: "warnings: %r" % said)
        s = l.call(STATUS)
        check_eq(s["status"], "degraded", "status while turns wait")
        check(len(words(s)) == 1 and '"a"' in words(s)[0] and '"b"' in words(s)[0], lambda: "warnings: %r" % s["warnings"])
        print("    " + words(s)[0], flush=True)
        before = [state(l, n) for n in "ab"]
        # What would name a branch, or a turn, that is not on disk.
        for typ, req in ((SESSION_FORK, {"session": "a", "name": "f"}), (SESSION_FORK, {"session": "b", "name": "f"}),
                         (SESSION_REWIND, {"session": "a", "to_turn": 2}), (SESSION_RENAME, {"session": "b", "name": "c"}),
                         (SESSION_PIN, {"session": "a", "pinned": True})):
            e = refused(l, typ, req)
            check(e.slug == "disk_full" and "turns before this wait" in str(e), lambda: "%r: %s" % (req, e))
        print("    " + str(e), flush=True)
        check_eq([state(l, n) for n in "ab"], before, "sessions after what was refused")
        may_write(d, True)
        print("    written after %.1f s" % until_ok(l), flush=True)
        check_eq([state(l, n) for n in "ab"], before, "sessions after they were written")
        for n in "ab":
            turns = l.call(SESSION_SHOW, {"session": n})["turns"]
            check(all(t["durable"] for t in turns), lambda: "turns of %s: %r" % (n, turns))
    d.restart(clean=False)
    with d.link() as l:
        check_eq([state(l, n) for n in "ab"], before, "sessions after a kill")
        for (n, p, i), a in zip(asked, answers):  # the requests are on record, too
            check(turn(l, n, p, id=i).same(a), "a request that waited, asked for again")
        check_eq([state(l, n) for n in "ab"], before, "sessions after requests were asked for again")
        a = turn(l, "a", "and the night")
        check(a.last["durable"] is True, "a later turn")
        l.call(SESSION_FORK, {"id": new_id(), "session": "b", "name": "f"})
    d.stop()


def the_next_turn_takes_along_what_waits():
    d = Daemon().start()
    d.load()
    with d.link() as l:
        turn(l, "a", "The sea is")
        for i in range(3):
            may_write(d, False)
            check(turn(l, "a", "and %d" % i).last["durable"] is False, "written without room")
            may_write(d, True)
            a = turn(l, "a", "so %d" % i)
            check(a.last["durable"] is True, lambda: "not durable with room: %r" % a.last.get("warnings"))
            before = state(l, "a")
            d.kill9()
            d.start()
            l = d.link()
            check_eq(state(l, "a"), before, "the session after kill %d" % i)
        # Begun with room, ended without, and the other way round.
        r = l.call(START, {"id": new_id(), "model": "m", "session": "a", "input": "prompt", "prompt": "then",
                           "params": {"max_tokens": 6000, "ignore_eos": True}})
        may_write(d, False)
        l.call(CANCEL, {"stream": r["stream"]})
        a = follow(l, r["stream"])
        check(a.last["durable"] is False, "an answer ended without room")
        may_write(d, True)
        l.call(SESSION_RENAME, {"id": new_id(), "session": "a", "name": "z"})
        before = state(l, "z")
        d.kill9()
        d.start()
        l = d.link()
        check_eq(state(l, "z"), before, "the session after it was renamed")
        l.close()
    d.stop()


def a_stop_writes_what_waits_and_loses_nothing_else():
    d = Daemon().start()
    d.load()
    with d.link() as l:
        turn(l, "a", "The sea is")
        may_write(d, False)
        turn(l, "a", "and the sky")
        before = state(l, "a")
        may_write(d, True)
    d.restart()
    with d.link() as l:
        check_eq(state(l, "a"), before, "the session after a stop")
        may_write(d, False)
        turn(l, "a", "and the wind")
    d.stop()
    d.start()
    with d.link() as l:
        check_eq(state(l, "a"), before, "what the stop could not write is gone, and nothing else")
    d.stop()


def fill(link, tag):
    """Sessions, smaller and smaller ones, until not even a small one is taken."""
    names, e, n = [], None, 0
    for size in (1400, 600, 200, 10):
        full = False
        while not full and n < 20000:
            sent = {}  # many at once: they share a sync
            for _ in range(32):
                name = "%s%05d" % (tag, n)
                n += 1
                sent[link.send(SESSION_OPEN, {"id": new_id(), "name": name, "model": "m", "system": "x" * size})] = name
            for _ in range(32):
                fid, _, status, js, _ = link.reply()
                if status == 0:
                    names.append(sent[fid])
                else:
                    full, e = True, Error(status, js)
    return sorted(names), e


def a_full_limit_is_named_and_sessions_rm_heals():
    d = Daemon("--disk", "4MiB").start()
    with d.link() as l:
        streams = {}
        for n in ("long", "gone"):
            streams[n] = l.call(START, {"id": new_id(), "model": "m", "create": True, "session": n, "input": "prompt", "prompt": "The sea is",
                                        "params": {"max_tokens": 6000, "ignore_eos": True}})["stream"]
            follow(l, streams[n], stop_after=4)
        names, e = fill(l, "s")
        check(e.slug == "disk_full" and "--disk" in str(e) and "4 MiB" in str(e) and "sessions rm" in str(e), lambda: str(e))
        for n, stream in streams.items():
            l.call(CANCEL, {"stream": stream})
            a = follow(l, stream)
            said = a.last.get("warnings") or []
            check(a.last["durable"] is False, lambda: "%s ended on a full store as if it were on disk: %r" % (n, a.last.get("finish")))
            check(any("--disk" in w and "4 MiB" in w and "sessions rm" in w for w in said), lambda: "warnings: %r" % said)
            check(not any("No space left" in w or "quota" in w for w in said), lambda: "not the reason: %r" % said)
        s = l.call(STATUS)
        check_eq(s["status"], "degraded", "status of a full store")
        check(words(s) and '"long"' in words(s)[0] and "--disk" in words(s)[0], lambda: "warnings: %r" % s["warnings"])
        check(not any("file system" in w or "No space left" in w or "disk is full" in w for w in s["warnings"]),
              lambda: "not the reason: %r" % s["warnings"])
        for w in s["warnings"]:
            print("    " + w, flush=True)
        before = state(l, "long")
        l.call(SESSION_REMOVE, {"id": new_id(), "session": "gone"})
        check_eq(d.cli("sessions", "rm", *names[:len(names) // 2]).returncode, 0, "exit code of sessions rm")
        print("    %d sessions; written after %.1f s" % (len(names), until_ok(l)), flush=True)
        check_eq(state(l, "long"), before, "the session after it was written")
    d.restart(clean=False)
    with d.link() as l:
        check_eq(state(l, "long"), before, "the session after a kill")
        have = {s["name"] for s in l.call(SESSION_LIST, {})["sessions"]}
        check_eq(have, {"long"} | set(names[len(names) // 2:]), "sessions after a kill")
    d.stop()



def together(l, *reqs):
    """In one go, so that none has its answer before the last is sent: (status, JSON) of each, in this order."""
    l.s.sendall(b"".join(pack(typ, json.dumps(dict(req, id=new_id())).encode(), b"", 1000 + i) for i, (typ, req) in enumerate(reqs)))
    got = {}
    while len(got) < len(reqs):
        fid, _, status, js, _ = l.reply()
        got[fid] = (status, js)
    return [got[1000 + i] for i in range(len(reqs))]


def changes_that_are_refused_together_leave_no_trace():
    d = Daemon("--threads", "1").start()
    d.load()
    with d.link() as l:
        for i in range(3):
            turn(l, "a", "Question %d" % i)
        before = state(l, "a")
        rewind, rename, pin = ((SESSION_REWIND, {"session": "a", "to_turn": 4}), (SESSION_RENAME, {"session": "a", "name": "b"}),
                               (SESSION_PIN, {"session": "a", "pinned": True}))
        for reqs in ([rewind, (SESSION_REWIND, {"session": "a", "to_turn": 2})], [rename, (SESSION_RENAME, {"session": "b", "name": "c"})],
                     [pin, pin], [pin, rename, (SESSION_REWIND, {"session": "b", "to_turn": 2}), (SESSION_RENAME, {"session": "b", "name": "c"})],
                     [rewind, (SESSION_REWIND, {"session": "a", "to_turn": 3}), pin, (SESSION_REWIND, {"session": "a", "to_turn": 0})]):
            may_write(d, False)
            for status, js in together(l, *reqs):
                check(status and "nothing was changed" in js["message"], lambda: "not refused: %r" % js)
            may_write(d, True)
            check_eq(state(l, "a"), before, "the session after %r were refused" % [r for _, r in reqs])
        until_ok(l)
        turn(l, "a", "Go on.")
        after = state(l, "a")
        check(after[0].startswith(before[0]) and after[1][:len(before[1])] == before[1], "the next turn is not behind the others")
        turns = len(before[1]) + 2
        check_eq(len(after[1]), turns, "turns with the next one")
    d.restart(clean=False)
    with d.link() as l:
        check_eq(state(l, "a"), after, "the session after a kill")
    d.stop()


def what_starts_behind_a_rewind_waits_for_it():
    d = Daemon("--threads", "1").start()
    d.load()
    start = (START, {"session": "a", "model": "m", "input": "prompt", "prompt": "Next.",
                     "params": {"max_tokens": 3, "ignore_eos": True, "seed": 7}})
    with d.link() as l:
        for i in range(3):
            turn(l, "a", "Question %d" % i)
        before = state(l, "a")
        for full, to, turns in ((True, 2, 8), (False, 4, 6)):
            may_write(d, not full)
            (status, js), (ok, r) = together(l, (SESSION_REWIND, {"session": "a", "to_turn": to}), start)
            check_eq(status != 0, full, "whether the rewind was refused")
            check_eq(ok, 0, "status of what was started behind it")
            may_write(d, True)
            follow(l, r["stream"])
            until_ok(l)
            s = state(l, "a")
            check_eq(len(s[1]), turns, "turns")
            kept = turns - 2
            check(s[1][:kept] == before[1][:kept], "the turns it went on from are others")
    d.restart(clean=False)
    with d.link() as l:
        check_eq(state(l, "a"), s, "the session after a kill")
    d.stop()



def cut_short(d, session):
    """An answer that a kill leaves open: its START, as it was asked."""
    req = {"id": new_id(), "session": session, "model": "m", "create": True, "input": "prompt", "prompt": "Tell me a story.",
           "params": {"max_tokens": 60, "ignore_eos": True, "seed": 3}}
    with d.link() as l:
        follow(l, l.call(START, req)["stream"], stop_after=10)
        d.kill9()
    d.start()
    d.load()
    return req


def a_rewind_ends_an_answer_that_was_left_open_or_leaves_it_open():
    d = Daemon("--threads", "1").start()
    d.load()
    with d.link() as l:
        for i in range(2):
            turn(l, "a", "Question %d" % i)
        before = state(l, "a")
    req = cut_short(d, "a")
    with d.link() as l:
        may_write(d, False)
        e = refused(l, SESSION_REWIND, {"session": "a", "to_turn": 2})
        check("nothing was changed" in str(e), lambda: str(e))
        may_write(d, True)
        until_ok(l)
        a = generate(l, req)  # it goes on all the same
        check_eq((len(a.tokens), a.last["finish"]), (60, "length"), "tokens of the answer that went on, and its end")
        whole = state(l, "a")
        check_eq(len(whole[1]), len(before[1]) + 2, "turns")
    req = cut_short(d, "a")
    with d.link() as l:
        l.call(SESSION_REWIND, {"id": new_id(), "session": "a", "to_turn": 4})
        check_eq(state(l, "a"), before, "the session after the rewind")
    d.restart(clean=False)
    d.load()
    with d.link() as l:
        check_eq(state(l, "a"), before, "the session after the rewind and a kill")
        last = follow(l, l.call(START, req)["stream"]).last
        check_eq((last["finish"], last["error"]["slug"]), ("error", "interrupted"), "the answer that the rewind ended")
        check_eq(state(l, "a"), before, "the session after it was asked for again")
    d.stop()


def a_small_limit_has_room_for_some_blocks_or_says_what_has():
    for disk, blocks in ((6, 0), (12, 1), (40, 5)):  # of 5.6 MiB each
        d = Daemon("--disk", "%dMiB" % disk, "--host-memory", "64MiB").start()
        d.load()
        with d.link() as l:
            ids = [rng.randint(300, 40000) for _ in range(256 * 5 + 20)]
            a = generate(l, {"session": "s", "create": True, "model": "m", "input": "tokens", "params": {"max_tokens": 1}}, ids_tail(ids))
            s, t0 = l.call(STATUS), time.monotonic()
            while s["blocks"]["file"] < blocks and time.monotonic() - t0 < 20 * SLOWER:
                s = l.call(STATUS)  # the last of them is on its way
            check_eq(s["blocks"]["file"], blocks, "blocks on a disk limit of %d MiB" % disk)
            for said in (a.last.get("warnings") or [], s["warnings"]):
                said = [w for w in said if "--disk" in w]
                check_eq(len(said), int(blocks < 5), "warnings of the limit")
                check(not said or ("sessions rm" in said[0]) == (blocks > 0), lambda: "advice that does not help: %r" % said)
                check(blocks or "raise it to 9 MiB" in said[0], lambda: "not what has room: %r" % said)
        d.stop()


main(kept_turns_are_written_by_themselves, the_next_turn_takes_along_what_waits, a_stop_writes_what_waits_and_loses_nothing_else,
     changes_that_are_refused_together_leave_no_trace,
     what_starts_behind_a_rewind_waits_for_it, a_rewind_ends_an_answer_that_was_left_open_or_leaves_it_open,
     a_small_limit_has_room_for_some_blocks_or_says_what_has,
     a_full_limit_is_named_and_sessions_rm_heals)
