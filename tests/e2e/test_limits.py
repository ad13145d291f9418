#!/usr/bin/env python3
"""test_limits.py - limits of the system and sizes that cannot be: said at once, by name, and lived with."""
from hearthlib import *
import http.client, resource, threading


def under_a_limit_of_file_sizes_it_lives_and_says_so():
    """SIGXFSZ would end the process, and a write past the limit fails with EFBIG."""
    for size in (96 << 10, 4 << 20):
        d = Daemon(preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
        d.start()
        d.load()
        said = [w for w in d.status()["warnings"] if "ulimit -f" in w]
        check(len(said) == 1 and "%.1f MiB" % (size / 2**20) in said[0], lambda: "status does not tell the limit: %r" % d.status()["warnings"])
        refused = done = 0
        with d.link() as l:
            for i in range(3):
                try:
                    a = generate(l, {"model": "m", "input": "messages", "messages": [{"role": "user", "content": text(i, 1500)}],
                                     "params": {"max_tokens": 8, "seed": i, "ignore_eos": True}})
                    done += a.last.get("state") == "done"
                except Error as e:
                    check(e.slug in ("disk_full", "storage_failed", "not_durable"), lambda: "refused with %s" % e)
                    refused += 1
        print("    files of at most %d KiB: %d answers, %d refused" % (size >> 10, done, refused))
        check(done + refused == 3, "only %d of 3 came to an end" % (done + refused))
        check(d.alive(), lambda: "hearthd ended: " + d.log_tail())
        check_eq(d.stop(), 0, "clean stop")
        # What was kept is kept, without the limit.
        d.preexec = None
        d.start()
        check(not any("ulimit" in w for w in d.status()["warnings"]), "the limit is told where there is none")
        check_eq(d.stop(), 0, "clean stop")


def sizes_that_cannot_be_are_refused_at_start():
    for flags, words in ((["--host-memory", "1024TiB"], "host-memory"), (["--disk", "4096TiB"], "disk"), (["--write-budget", "4096TiB"], "write-budget"),
                         (["--page-memory", "1024TiB"], "page-memory"), (["--threads", "99999"], "threads"), (["--context", "99999999"], "context"),
                         (["--step-tokens", "99999999"], "step-tokens"), (["--stop-timeout", "99999999"], "stop-timeout"),
                         (["--keep-alive", "9999999999999d"], "keep-alive")):
        d = Daemon(model_path=None)
        a = [x for x in d.argv() if x not in ("--host-memory", "1GiB", "--disk", "8GiB")] + flags
        r = subprocess.run(a, capture_output=True, text=True, timeout=20)
        check_eq(r.returncode, 2, "exit status with %s: %s" % (flags, r.stderr[-300:]))
        check("--%s: " % words in r.stderr, lambda: "no word about %s: %r" % (words, r.stderr))
    # More than the file system has is possible, and said.
    d = Daemon("--disk", "900TiB", model_path=None).start()
    check(any(w.startswith("disk: ") for w in d.status()["warnings"]), lambda: "warnings: %r" % d.status()["warnings"])
    check_eq(d.stop(), 0, "clean stop")


def ask(port, method, path, body=None, timeout=60):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    c.request(method, path, body, {"Content-Type": "application/json"})
    r = c.getresponse()
    out = r.status, r.read()
    c.close()
    return out


def a_core_that_hangs_is_found_within_two_seconds():
    want = free_port()
    d = Daemon("--http", "127.0.0.1:%d" % want, front=True).start()
    d.load()
    port = http_port(d, want)
    check_eq(ask(port, "GET", "/health")[0], 200, "health")
    d.proc.send_signal(signal.SIGSTOP)
    try:
        for path in ("/health", "/metrics"):
            t0 = time.monotonic()
            code, body = ask(port, "GET", path)
            took = time.monotonic() - t0
            check_eq(code, 503, "status of %s while hearthd is stopped" % path)
            check(b"core_unavailable" in body and took < 2 * SLOWER, lambda: "%s took %.1f s: %r" % (path, took, body))
        if os.environ.get("SOAK_REQUESTS"):  # as long as for a core that is gone
            t0 = time.monotonic()
            code, body = ask(port, "POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}), 90)
            print("    soak: a request to a core that hangs: %d after %.0f s" % (code, time.monotonic() - t0))
            check(code == 503 and b"core_unavailable" in body, lambda: "%d %r" % (code, body))
    finally:
        d.proc.send_signal(signal.SIGCONT)
    check_eq(ask(port, "GET", "/health")[0], 200, "health, once it runs again")
    check_eq(d.stop(), 0, "clean stop")


main(under_a_limit_of_file_sizes_it_lives_and_says_so, sizes_that_cannot_be_are_refused_at_start, a_core_that_hangs_is_found_within_two_seconds)
