#!/usr/bin/env python3
"""test_openai.py - the openai package, unmodified, against hearth-front; hearthd is killed in between."""
from hearthlib import *
import threading

PY = os.environ.get("HEARTH_PY")
try:
    import openai
except ImportError:
    venv = os.path.join(ROOT, "build", "venv", "bin", "python3")
    if os.path.exists(venv) and not os.environ.get("HEARTH_PY_TRIED"):
        os.environ["HEARTH_PY_TRIED"] = "1"
        os.execv(venv, [venv] + sys.argv)
    print("the openai package is not installed: scripts/venv.sh")
    sys.exit(77)


def serve():
    d = Daemon().start()
    d.load()
    want = free_port()
    f = Front(d, http="127.0.0.1:%d" % want).start()
    port = http_port(d, want)
    c = openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % port, api_key="none", max_retries=0, timeout=120 * SLOWER)
    return d, f, c


def models_and_whole_chat_work():
    d, f, c = serve()
    names = [m.id for m in c.models.list().data]
    check("m" in names, lambda: "models are %r" % names)
    check_eq(c.models.retrieve("m").id, "m", "models.retrieve")
    r = c.chat.completions.create(model="m", messages=[{"role": "user", "content": "Say hello."}], max_tokens=20, temperature=0)
    check(r.choices[0].message.content and r.choices[0].finish_reason in ("stop", "length"), lambda: repr(r))
    check_eq(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens, "usage adds up")
    r2 = c.chat.completions.create(model="m", messages=[{"role": "user", "content": "Say hello."}], max_tokens=20, temperature=0)
    check_eq(r2.choices[0].message.content, r.choices[0].message.content, "the same question again, greedy")
    lp = c.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], max_tokens=3, temperature=0,
                                   logprobs=True, top_logprobs=2)
    check(len(lp.choices[0].logprobs.content) >= 1, lambda: repr(lp.choices[0].logprobs))
    st = c.chat.completions.create(model="m", messages=[{"role": "user", "content": "Count: 1 2 3 4 5 6 7 8"}], max_tokens=60,
                                   temperature=0, stop=["5"])
    check("5" not in st.choices[0].message.content, lambda: "stop string in %r" % st.choices[0].message.content)
    d.stop(), f.stop()


def what_is_not_honoured_is_refused_by_name():
    d, f, c = serve()
    base = dict(model="m", messages=[{"role": "user", "content": "Hi"}], max_tokens=2)

    def bad(status, word, **kw):
        try:
            c.chat.completions.create(**{**base, **kw})
        except openai.APIStatusError as e:
            check(e.status_code == status and word in str(e), lambda: "%r: %d %s" % (kw, e.status_code, e))
            return
        raise Failed("%r was accepted" % kw)

    bad(400, "tools", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    bad(400, "n", n=2)
    bad(400, "top_p", top_p=7)
    bad(400, "temperature", temperature=-1)
    bad(400, "response_format", response_format={"type": "json_object"})
    bad(400, "frobnicate", extra_body={"frobnicate": 1})
    bad(404, "nosuch", model="nosuch")
    bad(400, "messages", messages=[])
    d.stop(), f.stop()


def ten_streamed_turns_survive_a_kill_in_the_middle():
    d, f, c = serve()
    msgs = [{"role": "system", "content": "You are terse. " + text(1, 1500)}]
    before = 0  # tokens of the conversation after the turn before
    killed = False
    for turn in range(10):
        msgs.append({"role": "user", "content": "Question %d: tell me something about chapter %d of this." % (turn + 1, turn + 3)})
        out, usage, finish, n = "", None, None, 0
        stream = c.chat.completions.create(model="m", messages=msgs, stream=True, temperature=0.8, seed=100 + turn, max_tokens=48,
                                           stream_options={"include_usage": True})
        for ch in stream:
            if ch.usage:
                usage = ch.usage
            if ch.choices:
                out += ch.choices[0].delta.content or ""
                finish = ch.choices[0].finish_reason or finish
                n += 1
                if turn == 4 and n == 6 and not killed:
                    d.kill9()
                    killed = True
                    d.spawn()
        check(finish in ("stop", "length") and usage, lambda: "turn %d ended with %r, usage %r" % (turn + 1, finish, usage))
        cached = usage.prompt_tokens_details.cached_tokens
        if turn:
            new = usage.prompt_tokens - before
            todo = usage.prompt_tokens - cached
            check(todo <= new + 256, lambda: "turn %d prefilled %d tokens, %d are new" % (turn + 1, todo, new))
        print("    turn %2d: %4d prompt, %4d cached, %2d said" % (turn + 1, usage.prompt_tokens, cached, usage.completion_tokens), flush=True)
        before = usage.prompt_tokens + usage.completion_tokens
        msgs.append({"role": "assistant", "content": out})
    check(killed, "hearthd was never killed")
    check(f.alive(), "the front died")
    # The turn that was cut says what it would have said without the kill.
    with d.link() as l:
        sess = l.call(SESSION_LIST, {"all": True})["sessions"]
    check_eq(len([s for s in sess if s["tokens"] > 300]), 1, "one conversation is one session")
    d.stop(), f.stop()


def a_client_that_leaves_stops_its_answer():
    d, f, c = serve()
    stream = c.chat.completions.create(model="m", messages=[{"role": "user", "content": "Write a very long story."}], stream=True,
                                       max_tokens=3000, temperature=1.0)
    for n, _ in enumerate(stream):
        if n == 5:
            break
    stream.close()
    t0 = time.monotonic()
    while d.status()["queue"]["running"] and time.monotonic() - t0 < 20 * SLOWER:
        time.sleep(0.1)
    check_eq(d.status()["queue"]["running"], 0, "requests running 20 s after the client left")
    d.stop(), f.stop()


main(models_and_whole_chat_work, what_is_not_honoured_is_refused_by_name, ten_streamed_turns_survive_a_kill_in_the_middle,
     a_client_that_leaves_stops_its_answer)
