#!/usr/bin/env python3
"""test_bad_input.py - every bad input gets a clear message with what to do, and the daemon stays up."""
from hearthlib import *
import collections, ctypes, platform, random, threading


def refused(link, typ, js, status, slug, *words, tail=b""):
    """The reply has this status and slug, and its message holds each of words."""
    st, r, _ = link.raw(typ, js, tail)
    if typ == START and st == 0:
        a = Answer()
        follow(link, r["stream"], a)
        e = a.last.get("error") or {}
        check(a.last.get("finish") == "error", lambda: "START %r was carried out: %r" % (js, a.last))
        st = {v: k for k, v in STATUS_NAMES.items()}.get(e.get("status"), e.get("status"))
        r = e
    check(STATUS_NAMES.get(st) == status and r.get("slug") == slug,
          lambda: "%r: got %s %s (%s), want %s %s" % (js, STATUS_NAMES.get(st, st), r.get("slug"), r.get("message"), status, slug))
    for w in words:
        check(w.lower() in r["message"].lower(), lambda: "message %r does not say %r" % (r["message"], w))
    return r


def still_up(d):
    check(d.alive(), lambda: "hearthd ended with %s:\n%s" % (d.proc.returncode, d.log_tail()))
    with d.link(20) as l:
        l.call(PING)


def requests_are_refused_by_name():
    d = Daemon().start()
    d.load()
    ok = {"input": "prompt", "prompt": "Hi", "model": "m", "keep": False, "params": {"max_tokens": 1}}
    with d.link() as l:
        refused(l, START, dict(ok, id=new_id(), model="nosuch"), "NOT_FOUND", "model_not_found", "nosuch")
        refused(l, MODEL_SHOW, {"model": "nosuch"}, "NOT_FOUND", "model_not_found", "nosuch")
        refused(l, SESSION_SHOW, {"session": "nosuch"}, "NOT_FOUND", "session_not_found", "nosuch")
        refused(l, START, dict(ok, id=new_id(), session="nosuch", create=False), "NOT_FOUND", "session_not_found", "nosuch")
        refused(l, NEXT, {"stream": "00" * 16, "cursor": 0, "max_wait_ms": 0}, "NOT_FOUND", "stream_not_found")
        for member, value in (("top_p", "x"), ("top_p", 0), ("top_p", 1.5), ("temperature", -1), ("temperature", "hot"),
                              ("max_tokens", -1), ("max_tokens", 1.5), ("top_k", -2), ("min_p", 2), ("seed", "s"),
                              ("stop", 7), ("logprobs", "y"), ("logit_bias", [1]), ("ignore_eos", 1)):
            refused(l, START, dict(ok, id=new_id(), params={"max_tokens": 1, member: value}),
                    "INVALID_ARGUMENT", "bad_field", "params." + member)
        refused(l, START, dict(ok, id="xyz"), "INVALID_ARGUMENT", "bad_field", "id")
        refused(l, START, dict(ok, id=new_id(), input="telepathy"), "INVALID_ARGUMENT", "bad_field", "input")
        refused(l, START, {"id": new_id(), "model": "m", "input": "tokens", "params": {"max_tokens": 1}},
                "INVALID_ARGUMENT", "bad_field", tail=b"\x01\x02\x03")
        refused(l, START, {"id": new_id(), "model": "m", "input": "tokens", "params": {"max_tokens": 1}},
                "INVALID_ARGUMENT", "bad_field", "token", tail=ids_tail([1, 99999999]))
        for kind in ("prompt", "documents"):
            doc = {"id": new_id(), "model": "m", "session": "noise", "input": kind, "params": {"max_tokens": 0 if kind == "documents" else 1}}
            refused(l, START, doc, "INVALID_ARGUMENT", "bad_field", "UTF-8", "byte 3 ", "0xe9", tail="café".encode("latin1"))
            refused(l, START, doc, "INVALID_ARGUMENT", "bad_field", "byte 2 is zero", tail=b"ab\0cd")
            refused(l, START, doc, "INVALID_ARGUMENT", "bad_field", "byte 1 ", tail=b"a\xed\xa0\x80")
        refused(l, SESSION_SHOW, {"session": "noise"}, "NOT_FOUND", "session_not_found")
        refused(l, NEXT, {"stream": 5, "cursor": 0}, "INVALID_ARGUMENT", "bad_field", "stream")
        refused(l, SESSION_EXPORT, {"session": "x"}, "UNIMPLEMENTED", "unimplemented")
        refused(l, WHY, {"session": "x"}, "UNIMPLEMENTED", "unimplemented")
        st, r, _ = l.raw(200, {})
        check(st in (3, 12), lambda: "unknown type answered %r %r" % (st, r))
        # Longer than the context: refused before any work, with both numbers.
        ctx = l.call(MODEL_SHOW, {"model": "m"})["context"]
        t0 = time.monotonic()
        r = refused(l, START, {"id": new_id(), "model": "m", "input": "tokens", "params": {"max_tokens": 1}},
                    "OUT_OF_RANGE", "context_length_exceeded", str(ctx), str(ctx + 5), tail=ids_tail([700] * (ctx + 5)))
        check_eq((r["tokens"], r["context"]), (ctx + 5, ctx), "numbers of context_length_exceeded")
        check(time.monotonic() - t0 < 2 * SLOWER, "refused after work was done")
        # One running request per session.
        l.call(SESSION_OPEN, {"id": new_id(), "name": "busy", "model": "m", "create": True})
        s = l.call(START, {"id": new_id(), "session": "busy", "input": "tokens",
                           "params": {"max_tokens": 200, "ignore_eos": True}}, ids_tail([5, 6, 7]))
        refused(l, START, {"id": new_id(), "session": "busy", "input": "tokens", "params": {"max_tokens": 1}},
                "FAILED_PRECONDITION", "session_busy", tail=ids_tail([5]))
        l.call(CANCEL, {"stream": s["stream"]})
        follow(l, s["stream"])
        a = generate(l, dict(ok, id=new_id()))
        check_eq(len(a.tokens), 1, "a good request after all the bad ones")
    still_up(d)
    d.stop()


def gguf_first_tensor_type(path):
    """Offset of the first tensor's type in the file, and the offset of the tensor data count."""
    f = open(path, "rb")
    u = lambda fmt: struct.unpack("<" + fmt, f.read(struct.calcsize("<" + fmt)))[0]
    f.read(8)
    n_tensors, n_kv = u("Q"), u("Q")
    size = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def value(t):
        if t == 8:
            f.seek(u("Q"), 1)
        elif t == 9:
            et, n = u("I"), u("Q")
            if et == 8:
                for _ in range(n):
                    f.seek(u("Q"), 1)
            else:
                f.seek(size[et] * n, 1)
        else:
            f.seek(size[t], 1)

    for _ in range(n_kv):
        f.seek(u("Q"), 1)
        value(u("I"))
    f.seek(u("Q"), 1)
    dims = u("I")
    f.seek(8 * dims, 1)
    off = f.tell()
    f.close()
    return off


def broken_models_say_what_is_wrong_with_them():
    good = model()
    d = Daemon()
    path = lambda n: os.path.join(d.models, n + ".gguf")
    with open(good, "rb") as f:
        head = f.read(12 << 20)
    with open(path("noise"), "wb") as f:
        f.write(rng.randbytes(1 << 16))
    with open(path("empty"), "wb") as f:
        pass
    with open(path("cut"), "wb") as f:
        f.write(head)
    with open(path("header-only"), "wb") as f:
        f.write(head[:40])
    off = gguf_first_tensor_type(good)
    shutil.copyfile(good, path("strange-type"))
    with open(path("strange-type"), "r+b") as f:
        f.seek(off)
        f.write(struct.pack("<I", 16))
    shutil.copyfile(good, path("version"))
    with open(path("version"), "r+b") as f:
        f.seek(4)
        f.write(struct.pack("<I", 77))
    with open(path("counts"), "wb") as f:
        f.write(head[:8] + struct.pack("<QQ", 1 << 60, 1 << 60) + head[24:1 << 20])
    d.start()
    with d.link() as l:
        for name, words in (("noise", ()), ("empty", ()), ("cut", ()), ("header-only", ()), ("strange-type", ("type",)),
                            ("version", ("version", "77")), ("counts", ())):
            r = refused(l, START, {"id": new_id(), "model": name, "input": "prompt", "prompt": "x", "raw": True,
                                   "params": {"max_tokens": 1}},
                        "FAILED_PRECONDITION", "model_load_failed", *words)
            print("    %-12s %s" % (name, r["message"]))
        a = generate(l, {"id": new_id(), "model": "m", "input": "prompt", "prompt": "Hi", "params": {"max_tokens": 2}})
        check(len(a.tokens) >= 1, "the good model answers after the bad ones")
    still_up(d)
    d.stop()


def a_model_that_is_written_to_while_it_loads_ends_nothing():
    """Truncated, filled again, replaced, in a loop while it is being loaded: each load ends well or
    with words, and the other model goes on answering."""
    good = model()
    with open(good, "rb") as f:
        whole = f.read()
    d = Daemon()
    victim = os.path.join(d.models, "victim.gguf")
    shutil.copyfile(good, victim)
    d.start()
    d.load()
    done = threading.Event()

    def vandal():
        r = random.Random(SEED)
        while not done.is_set():
            what = r.randrange(4)
            if what == 0:  # a download that starts again
                with open(victim, "r+b") as f:
                    f.truncate(r.randrange(len(whole)))
                    time.sleep(r.random() * 0.05)
                    f.seek(0)
                    f.write(whole)
            elif what == 1:  # a copy by rename, as it should be
                with open(victim + ".new", "wb") as f:
                    f.write(whole)
                os.rename(victim + ".new", victim)
            elif what == 2:
                with open(victim, "r+b") as f:
                    f.seek(r.randrange(4 << 20, len(whole)))
                    f.write(b"x")
                time.sleep(r.random() * 0.2)
                with open(victim, "r+b") as f:
                    f.write(whole)
            else:
                time.sleep(r.random() * 0.5)

    t = threading.Thread(target=vandal)
    t.start()
    ends = collections.Counter()
    words = set()
    try:
        with d.link() as l:
            for i in range(12):
                s = l.call(MODEL_LOAD, {"id": new_id(), "model": "victim"})
                a = Answer()
                follow(l, s["stream"], a)
                e = a.last.get("error") or {}
                ends[a.last.get("finish")] += 1
                if e:
                    check(e.get("slug") == "model_load_failed" and "victim" in e["message"], lambda: "load ended with %r" % e)
                    words.add(e["message"].split(": ", 2)[-1][:150])
                else:
                    while l.raw(MODEL_UNLOAD, {"model": "victim"})[0] != 0:
                        time.sleep(0.02)
                    while l.call(MODEL_SHOW, {"model": "victim"})["state"] != "available":
                        time.sleep(0.02)
                b = generate(l, {"id": new_id(), "model": "m", "input": "prompt", "prompt": "Hi", "params": {"max_tokens": 1}})
                check_eq(len(b.tokens), 1, "tokens of the model that was left alone")
    finally:
        done.set()
        t.join()
    print("    %s" % dict(ends))
    for w in sorted(words):
        print("    %s" % w)
    check(ends["error"] > 0, "no load was ever disturbed")
    with open(victim, "wb") as f:
        f.write(whole)
    d.load("victim")
    still_up(d)
    d.stop()


def a_model_that_became_a_pipe_is_refused_at_once():
    """Known as a file, and then it is none: nobody waits for somebody to write into it."""
    d = Daemon()
    path = lambda n: os.path.join(d.models, n + ".gguf")
    for name in ("pipe", "zero", "folder"):
        shutil.copyfile(model(), path(name))
    d.start()
    with d.link() as l:
        l.call(MODEL_LIST)
        for name in ("pipe", "zero", "folder"):
            os.unlink(path(name))
        os.mkfifo(path("pipe"))
        os.symlink("/dev/zero", path("zero"))
        os.mkdir(path("folder"))
        for name, words in (("pipe", "regular file"), ("zero", "regular file"), ("folder", "directory")):
            r = refused(l, START, {"id": new_id(), "model": name, "input": "prompt", "prompt": "x", "raw": True,
                                   "params": {"max_tokens": 1}}, "FAILED_PRECONDITION", "model_load_failed", path(name), words)
            print("    %-8s %s" % (name, r["message"]))
        a = generate(l, {"id": new_id(), "model": "m", "input": "prompt", "prompt": "Hi", "params": {"max_tokens": 2}})
        check(len(a.tokens) >= 1, "the good model answers after the bad ones")
    still_up(d)
    d.stop()


def a_model_larger_than_memory_is_refused_before_anything_is_taken():
    """Sparse, twice the machine's memory, and right in every field that is looked at first."""
    d = Daemon()
    s = lambda x: struct.pack("<Q", len(x)) + x
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cols = 1 << 16
    rows = 2 * ram // (cols * 2)
    u32 = {"context_length": 4096, "block_count": 32, "embedding_length": 4096, "attention.head_count": 32}
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1 + len(u32)) + s(b"general.architecture") + struct.pack("<I", 8) + s(b"llama")
    for k, v in u32.items():
        head += s(b"llama." + k.encode()) + struct.pack("<II", 4, v)
    head += s(b"token_embd.weight") + struct.pack("<IQQIQ", 2, cols, rows, 1, 0)
    head += b"\0" * (-len(head) % 32)
    with open(os.path.join(d.models, "huge.gguf"), "wb") as f:
        f.write(head)
        try:
            f.truncate(len(head) + rows * cols * 2)
        except OSError as e:
            skip("no sparse file of %d GiB here: %s" % (2 * ram >> 30, e))
    d.start()
    d.load()
    rss = lambda: int(next(x for x in open("/proc/%d/status" % d.proc.pid) if x.startswith("VmHWM")).split()[1]) >> 10
    before = rss()
    with d.link() as l:
        r = refused(l, START, {"id": new_id(), "model": "huge", "input": "prompt", "prompt": "x", "raw": True,
                               "params": {"max_tokens": 1}},
                    "FAILED_PRECONDITION", "model_load_failed", "GiB for weights", "GiB for KV pages", "GiB are available")
        print("    %s" % r["message"])
        check(rss() - before < 16, lambda: "%d MiB were taken for it" % (rss() - before))
        a = generate(l, {"id": new_id(), "model": "m", "input": "prompt", "prompt": "Hi", "params": {"max_tokens": 2}})
        check(len(a.tokens) >= 1, "the good model answers after it")
    still_up(d)
    d.stop()


def memory_that_a_model_has_not_touched_yet_is_not_given_to_another():
    """KV pages take memory when they are used: until then the machine counts them as available."""
    avail = int(next(x for x in open("/proc/meminfo") if x.startswith("MemAvailable")).split()[1]) << 10
    d = Daemon("--page-memory", "%dMiB" % (avail * 6 // 10 >> 20))
    os.symlink(model(), os.path.join(d.models, "second.gguf"))
    d.start()
    d.load()
    with d.link() as l:
        r = refused(l, START, {"id": new_id(), "model": "second", "input": "prompt", "prompt": "x", "params": {"max_tokens": 1}},
                    "FAILED_PRECONDITION", "model_load_failed", "promised to other models", "GiB for KV pages")
        print("    %s" % r["message"])
        while l.raw(MODEL_UNLOAD, {"model": "m"})[0] != 0:
            time.sleep(0.02)
        while l.call(MODEL_SHOW, {"model": "m"})["state"] != "available":
            time.sleep(0.02)
    d.load("second")
    still_up(d)
    d.stop()


def a_model_that_was_deleted_is_not_listed():
    d = Daemon().start()
    path = os.path.join(d.models, "extra.gguf")
    names = lambda l, typ=MODEL_LIST: sorted(m["name"] for m in l.call(typ)["models"])
    with d.link() as l:
        check_eq(names(l), ["m"], "the models")
        os.symlink(model(), path)
        check_eq(names(l), ["extra", "m"], "the models when one was added")
        d.load("extra")
        os.unlink(path)
        check_eq(names(l), ["extra", "m"], "the models when a loaded one was deleted")
        l.call(MODEL_UNLOAD, {"id": new_id(), "model": "extra"})
        t0 = time.monotonic()
        while names(l) != ["m"] and time.monotonic() - t0 < 10 * SLOWER:
            time.sleep(0.05)
        check_eq((names(l), names(l, STATUS)), (["m"], ["m"]), "the models when it was unloaded")
        refused(l, START, {"id": new_id(), "model": "extra", "input": "prompt", "prompt": "Hi"}, "NOT_FOUND", "model_not_found", "extra")
        os.symlink(model(), path)
        check_eq(names(l), ["extra", "m"], "the models when it is back")
        generate(l, {"model": "extra", "input": "prompt", "prompt": "Hi", "params": {"max_tokens": 1}})


def run_once(*argv, timeout=20, **kw):
    p = subprocess.run([prog("hearthd")] + list(argv), capture_output=True, text=True, timeout=timeout * SLOWER, **kw)
    return p.returncode, p.stdout + p.stderr


def two_daemons_on_one_store_or_socket_are_refused():
    d = Daemon().start()
    other = tmpdir()
    rc, out = run_once("--state", d.state, "--runtime", os.path.join(other, "run"), "--no-front")
    check(rc not in (0, 2) and str(d.proc.pid) in out, lambda: "second daemon on the store: exit %d, %s" % (rc, out))
    print("    store:  " + out.strip().splitlines()[-1])
    rc, out = run_once("--state", os.path.join(other, "state"), "--runtime", d.runtime, "--no-front")
    check(rc not in (0, 2) and str(d.proc.pid) in out, lambda: "second daemon on the socket: exit %d, %s" % (rc, out))
    print("    socket: " + out.strip().splitlines()[-1])
    still_up(d)
    d.stop()


def directories_that_cannot_be_used_are_named():
    base = tmpdir()
    file = os.path.join(base, "file")
    open(file, "w").close()
    rc, out = run_once("--state", file + "/x", "--runtime", os.path.join(base, "run"), "--no-front", "--models", base + "/none")
    check("warn  models: %s/none: No such file" % base in out, lambda: "no models' directory: %s" % out)
    check(rc not in (0, 2) and file in out, lambda: "state below a file: exit %d, %s" % (rc, out))
    print("    " + out.strip().splitlines()[-1])
    long = os.path.join(base, "d" * 120)
    rc, out = run_once("--state", os.path.join(base, "state"), "--runtime", long, "--no-front")
    check(rc != 0 and ("long" in out or "10" in out), lambda: "a runtime path that is too long: exit %d, %s" % (rc, out))
    print("    " + out.strip().splitlines()[-1])
    if os.getuid() == 0:
        os.chmod(base, 0o755)
        locked = os.path.join(base, "locked")
        os.mkdir(locked, 0o755)
        run = os.path.join(base, "run2")
        os.mkdir(run, 0o700)
        os.chown(run, 65534, 65534)

        def drop():
            os.setgid(65534)
            os.setuid(65534)

        # The program must be readable for the other user; the build may lie below a private home.
        exe = os.path.join(base, "hearthd")
        shutil.copyfile(prog("hearthd"), exe)
        os.chmod(exe, 0o755)
        p = subprocess.run([exe, "--state", locked + "/state", "--runtime", run, "--models", base, "--no-front"],
                           capture_output=True, text=True, timeout=20 * SLOWER, preexec_fn=drop, cwd="/", env={"PATH": "/usr/bin:/bin"})
        out = p.stdout + p.stderr
        check(p.returncode not in (0, 2) and locked in out and "ermission" in out,
              lambda: "unwritable state: exit %d, %s" % (p.returncode, out))
        print("    " + out.strip().splitlines()[-1])


def configuration_errors_name_file_line_and_nearest_key():
    base = tmpdir()
    f = os.path.join(base, "hearth.conf")
    for body, words in (("threads = 2\nhost-memry = 1GiB\n", (f + ":2", "host-memory")),
                        ("threads = many\n", (f + ":1", "threads")),
                        ("host-memory = 12 parsecs\n", (f + ":1", "host-memory")),
                        ("[modle x]\npath = /x\n", (f + ":1",)),
                        ("no equals sign here\n", (f + ":1",))):
        with open(f, "w") as fh:
            fh.write(body)
        rc, out = run_once("--config", f, "--check-config")
        check(rc == 2, lambda: "%r: exit %d, %s" % (body, rc, out))
        for w in words:
            check(w in out, lambda: "%r: %r does not say %r" % (body, out, w))
    rc, out = run_once("--http", "0.0.0.0:0", "--check-config")
    check(rc == 2 and "http" in out and "api-key-file" in out, lambda: "HTTP for everybody: exit %d, %s" % (rc, out))
    rc, out = run_once("--http", "0.0.0.0:0")
    check(rc == 2 and "http" in out and "api-key-file" in out, lambda: "HTTP for everybody: exit %d, %s" % (rc, out))
    for body, rc0, words in (("state = %s/st # mine\n" % base, 2, (f + ":1", "a line of its own")), ("state = # mine\n", 2, ("a line of its own",)),
                             ('state = "%s/st # mine"\n' % base, 0, ("state = %s/st # mine" % base,)),
                             ("state = %s/st#mine\n" % base, 0, ("state = %s/st#mine\n" % base,)),
                             ("state = ~/st\n", 0, ("state = %s/st\n" % os.environ["HOME"],)), ("state = ~none/st\n", 2, (f + ":1", "~NAME")),
                             ("models = %s\n[model nosuch]\ncontext = 512\n" % base, 0, ("warning: [model nosuch] has no path and %s has no" % base,)),
                             ("model = /etc/passwd\n", 2, ("model passwd", "not a GGUF file"))):
        with open(f, "w") as fh:
            fh.write(body)
        rc, out = run_once("--config", f, "--check-config")
        check(rc == rc0 and all(w in out for w in words), lambda: "%r: exit %d, %s" % (body, rc, out))
    # A file's name alone is one of the models' directory, where it is none of the working directory.
    os.symlink(model(), os.path.join(base, "Here.gguf"))
    rc, out = run_once("--models", base, "--model", "Here.gguf", "--check-config")
    check(rc == 0 and "[model Here]\npath = %s/Here.gguf\n" % base in out, lambda: "exit %d, %s" % (rc, out))
    rc, out = run_once("--models", base, "--model", "./Here.gguf", "--check-config")
    check(rc == 2 and "No such file" in out, lambda: "exit %d, %s" % (rc, out))
    p = subprocess.run([prog("hearth-front"), "--check", "--http", "0.0.0.0:0"], capture_output=True, text=True)
    check(p.returncode != 0 and "api-key-file" in p.stdout, lambda: "front: exit %d, %s" % (p.returncode, p.stdout))
    rc, out = run_once("--models", base + "/none", "--check-config")
    check(rc == 0 and "warning: models: " + base + "/none" in out, lambda: "no models' directory: exit %d, %s" % (rc, out))
    rc, out = run_once("--stat", "x")
    check(rc == 2 and "state" in out and "did you mean" in out, lambda: "unknown flag: exit %d, %s" % (rc, out))
    rc, out = run_once("--config", os.path.join(base, "missing.conf"))
    check(rc == 2 and "missing.conf" in out, lambda: "missing file: exit %d, %s" % (rc, out))


def no_io_uring():
    """Before exec: io_uring_setup answers EPERM, as a container's or unit's filter would."""
    libc = ctypes.CDLL(None, use_errno=True)
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[platform.machine()]
    ins = [(0x20, 0, 0, 4), (0x15, 0, 3, arch), (0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("<HBBI", *i) for i in ins)
    buf = ctypes.create_string_buffer(code)

    class Prog(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    p = Prog(len(ins), ctypes.cast(buf, ctypes.c_void_p))
    if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, ctypes.byref(p), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def without_io_uring_threads_take_over():
    if platform.machine() not in ("x86_64", "aarch64"):
        skip("no seccomp filter for this machine")
    d = Daemon("--io", "auto", preexec=no_io_uring).start()
    d.load()
    with d.link() as l:
        doc = tokens_of(l, text(0, 4000))[:600]
        generate(l, {"session": "s", "create": True, "model": "m", "input": "tokens", "params": {"max_tokens": 4}}, ids_tail(doc))
        st = l.call(STATUS)
    check_eq(st["io"], "threads", "STATUS.io")
    check(any("io_uring" in w for w in st["warnings"]), lambda: "no warning names io_uring: %r" % st["warnings"])
    print("    warning: " + next(w for w in st["warnings"] if "io_uring" in w))
    d.restart()
    d.load()
    with d.link() as l:
        a = generate(l, {"session": "s", "input": "tokens", "params": {"max_tokens": 1}}, ids_tail([5]))
    check(a.last["usage"]["reused"] >= 512, lambda: "reused %r" % a.last["usage"])
    d.stop()


def a_full_disk_degrades_says_so_and_recovers():
    if os.getuid() != 0:
        skip("mounting a small tmpfs needs root")
    base = tmpdir()
    mnt = os.path.join(base, "small")
    os.mkdir(mnt)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", mnt], capture_output=True).returncode != 0:
        skip("mount is not allowed here")
    try:
        d = Daemon("--disk", "4GiB", "--host-memory", "128MiB", state=os.path.join(mnt, "state")).start()
        d.load()
        with d.link() as l:
            doc = tokens_of(l, text(0) + text(1) + text(2))
            # Someone else takes what is left of the disk.
            with open(os.path.join(mnt, "filler"), "wb") as f:
                try:
                    while True:
                        f.write(b"\0" * (1 << 20))
                        f.flush()
                except OSError:
                    pass
            said, unwritten = [], None
            for i in range(6):
                a = generate(l, {"session": "s%d" % i, "create": True, "model": "m", "input": "tokens",
                                 "params": {"max_tokens": 4, "ignore_eos": True}}, ids_tail([800 + i] + doc[i * 500:i * 500 + 1300]))
                check_eq(len(a.tokens), 4, "tokens although the disk is full")
                said += a.last.get("warnings") or []
                if a.last.get("durable") is False:
                    unwritten = "s%d" % i
            st = l.call(STATUS)
            check(st["status"] != "ok" or st["warnings"] or said, lambda: "a full disk is not mentioned: %r" % st["warnings"])
            print("    said: %s" % "; ".join((st["warnings"] or said)[:2]))
            check(unwritten, "no turn was refused by the full disk")
            full = "the file system of %s is full" % d.state
            check(any("in memory only" in w and full in w for w in said), lambda: "why turns are in memory only: %r" % said)
            check(any(full in w and "free some space" in w for w in st["warnings"]), lambda: "status: %r" % st["warnings"])
            check(not any("No such file" in w or "Invalid arg" in w for w in said), lambda: "not the reason: %r" % said)
            # Said at the start, and as true when there is room again: the limit is no part of this.
            too_big = [w for w in st["warnings"] if w.startswith("disk: 4096 MiB are more than the file system")]
            check_eq(len(too_big), 1, "a limit above what the file system has is said")
            still_up(d)
            # Room again: no restart needed.
            os.unlink(os.path.join(mnt, "filler"))
            subprocess.run(["mount", "-o", "remount,size=600m", mnt], check=True)
            t0, ok = time.monotonic(), False
            while time.monotonic() - t0 < 40 * SLOWER and not ok:
                a = generate(l, {"session": "again", "create": True, "model": "m", "input": "tokens",
                                 "params": {"max_tokens": 4, "ignore_eos": True}}, ids_tail(doc[:300]))
                ok = a.last.get("durable") is True and l.call(STATUS)["warnings"] == too_big
                time.sleep(0.5)
            check(ok, lambda: "with room again the store stays degraded: durable %r, status %r, %r" % (
                a.last.get("durable"), l.call(STATUS)["status"], l.call(STATUS)["warnings"]))
            with open(d.log, errors="replace") as f:
                log = f.read()
            full, over = log.count("store: disk full ("), log.count("the disk has room again")
            check(0 < full == over, lambda: "the log says that it was full %d times, and %d times that it is over" % (full, over))
            # What was refused then is on the disk now, and so is what follows it.
            a = generate(l, {"session": unwritten, "input": "tokens", "params": {"max_tokens": 2, "ignore_eos": True}}, ids_tail([7]))
            check(a.last.get("durable") is True, lambda: "a turn behind one that waited: %r" % a.last.get("warnings"))
            have = [l.call(SESSION_SHOW, {"session": "s%d" % i})["tokens"] for i in range(6)]
        d.restart(clean=False)
        with d.link() as l:
            check_eq([l.call(SESSION_SHOW, {"session": "s%d" % i})["tokens"] for i in range(6)], have, "tokens after a kill")
        check_eq(d.stop(), 0, "clean stop")
        d.start()
        with d.link() as l:
            r = l.call(SESSION_SHOW, {"session": "again"})
            check(r["tokens"] >= 304, lambda: "session after recovery: %r" % r)
        d.stop()
    finally:
        for r in list(_running_daemons()):
            r.kill9()
        subprocess.run(["umount", "-l", mnt], capture_output=True)


def _running_daemons():
    import hearthlib
    return [r for r in hearthlib._running if isinstance(r, Daemon) and r.alive()]


def malformed_frames_are_answered_or_cut():
    d = Daemon().start()

    def exchange(b, expect_reply):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(10 * SLOWER)
        s.connect(d.sock)
        s.sendall(b)
        s.shutdown(socket.SHUT_WR)
        got = b""
        try:
            while True:
                x = s.recv(65536)
                if not x:
                    break
                got += x
        except (ConnectionResetError, BrokenPipeError):
            pass
        s.close()
        check(not expect_reply or len(got) > 32, lambda: "no error reply to %r" % b[:40])
        return got

    for b in (pack(PING, magic=b"XXXX"), pack(PING, crc=1), pack(PING, major=9), pack(PING, flags=8), pack(PING, status=3),
              pack(PING, json_len=1 << 31), pack(PING, tail_len=1 << 31), rng.randbytes(64), b"GET / HTTP/1.1\r\n\r\n" * 4):
        exchange(b, False)
    for js in (b"{", b"[]", b"nul", b'{"a":' * 60 + b"1" + b"}" * 60, b"\xff\xfe{}", b'{"a":1}x'):
        got = exchange(pack(STATUS, js), True)
        check(b'"slug":"bad_json"' in got.replace(b" ", b""), lambda: "%r answered with %r" % (js, got[32:200]))
    exchange(pack(PING)[:20], False)
    exchange(b"", False)
    still_up(d)
    d.stop()


def two_hundred_large_frames_and_no_reply_read_leave_room_for_others():
    d = Daemon().start()
    d.load()
    doc = (text(0) + text(1)) * 200
    doc = doc.encode()[:6 << 20]

    def rss():
        return int(next(x for x in open("/proc/%d/status" % d.proc.pid) if x.startswith("VmRSS")).split()[1]) >> 10

    with d.link() as other:
        want = generate(other, {"model": "m", "input": "prompt", "prompt": "Hi", "keep": False,
                                "params": {"max_tokens": 8, "temperature": 0, "ignore_eos": True}})
        before, most, slowest, n = rss(), 0, 0, 0
        ends = []

        def flood():
            s = socket.socket(socket.AF_UNIX)
            s.connect(d.sock)
            try:
                for i in range(200):
                    js = json.dumps({"id": new_id(), "model": "m", "input": "documents", "params": {"max_tokens": 0}})
                    s.sendall(pack(START, js.encode(), doc, fid=i))
            except OSError:
                pass  # closed below
            ends.append(s)

        t = threading.Thread(target=flood, daemon=True)
        t.start()
        t0 = time.monotonic()
        while time.monotonic() - t0 < 12 * min(SLOWER, 3):
            t1 = time.monotonic()
            got = generate(other, {"model": "m", "input": "prompt", "prompt": "Hi", "keep": False,
                                   "params": {"max_tokens": 8, "temperature": 0, "ignore_eos": True}})
            slowest, n, most = max(slowest, time.monotonic() - t1), n + 1, max(most, rss())
            check_eq(got.tokens, want.tokens, "tokens beside the flood")
        print("    %d answers meanwhile, the slowest %.1f s; %d MiB more resident" % (n, slowest, most - before), flush=True)
        check(SLOWER > 1 or most - before < 400, lambda: "%d MiB more are resident" % (most - before))
    still_up(d)
    d.stop()


main(requests_are_refused_by_name, broken_models_say_what_is_wrong_with_them,
     a_model_that_is_written_to_while_it_loads_ends_nothing, a_model_that_became_a_pipe_is_refused_at_once,
     a_model_larger_than_memory_is_refused_before_anything_is_taken,
     memory_that_a_model_has_not_touched_yet_is_not_given_to_another,
     two_daemons_on_one_store_or_socket_are_refused,
     directories_that_cannot_be_used_are_named, a_model_that_was_deleted_is_not_listed,
     configuration_errors_name_file_line_and_nearest_key,
     without_io_uring_threads_take_over, a_full_disk_degrades_says_so_and_recovers,
     two_hundred_large_frames_and_no_reply_read_leave_room_for_others, malformed_frames_are_answered_or_cut)
