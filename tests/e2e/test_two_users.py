#!/usr/bin/env python3
"""test_two_users.py - one daemon for the machine, two users of it: neither gets in the other's way or learns of him.

Needs root, to be two users; the uids are made up.  Nothing is judged by the clock alone: what counts is which came
first, or how two measurements of one run compare.
"""
from hearthlib import *
import threading

A, B = 60001, 60002
_as_user = threading.Lock()


def link_as(d, uid, timeout=120):
    """A connection that the kernel vouches for as uid's."""
    with _as_user:
        os.seteuid(uid)
        try:
            return Link(d.sock, timeout)
        finally:
            os.seteuid(0)


def shared(*flags):
    """The system's layout: one daemon, its socket open to others."""
    if os.geteuid() != 0:
        skip("two users need root")
    d = Daemon("--system", "--socket-mode", "0666", *flags)
    os.chmod(d.runtime, 0o755)
    p = d.runtime
    while p != "/":
        if p.startswith(d.dir):
            os.chmod(p, 0o755)
        if not os.stat(p).st_mode & 1:
            skip("%s is closed to other users; set TMPDIR" % p)
        p = os.path.dirname(p)
    d.start()
    d.load()
    return d


def readable(l, s=0.0):
    import select
    return bool(select.select([l.s], [], [], s)[0])


def a_flood_of_text_to_tokenise_does_not_hold_another_user():
    d = shared()
    for what in (b"a", b".", " ".encode(), "\U0001f600".encode(), os.urandom(1 << 16)):
        with link_as(d, A) as a, link_as(d, B) as b:
            big = (what * (16 << 20))[:16 << 20] if len(what) < 9 else what * 256
            b.send(TOKENIZE, {"model": "m"}, big)
            for n in range(5):
                a.call(TOKENIZE, {"model": "m"}, b"How are you today? %d" % n)
            check(not readable(b), "five short texts of one user waited for the 16 MiB of another (%r)" % what[:4])
    d.stop()


main(a_flood_of_text_to_tokenise_does_not_hold_another_user)
