#!/usr/bin/env python3
"""record_clients.py - what real clients send: five turns of each, recorded for tests/e2e/test_clients.py.

    python3 -m venv v && v/bin/pip install openai litellm llm instructor langchain-openai
    python3 -m venv w && w/bin/pip install aider-chat
    HEARTH_TEST_MODEL=FILE tests/peer/record_clients.py v/bin/python3 openai litellm llm instructor langchain
    HEARTH_TEST_MODEL=FILE tests/peer/record_clients.py w/bin/python3 aider

Each client talks to a real daemon through a proxy that writes down what passes.  Prints per turn
what was reused.  With --write the fixtures in tests/e2e/clients/ are written anew.
"""
import http.client, http.server, json, os, subprocess, sys, threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
OUT = os.path.join(HERE, "..", "e2e", "clients")
TURNS = ["Name a colour.", "Name another one.", "And a third?", "Which was the first?", "Thank you, good bye."]
CONTENT_MAX = 1200  # a longer text is cut in its middle: its shape matters, not its words


# --- the clients: each in its own process, with its own packages ------------------------------
def c_openai(url):
    import openai
    c = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    msgs = [{"role": "system", "content": "You are terse."}]
    for i, t in enumerate(TURNS):
        msgs.append({"role": "user", "content": t})
        if i % 2:
            out = ""
            for ch in c.chat.completions.create(model="m", messages=msgs, stream=True, max_completion_tokens=24, seed=-7,
                                                stream_options={"include_usage": True}):
                out += ch.choices[0].delta.content or "" if ch.choices else ""
            msgs.append({"role": "assistant", "content": out})
        else:
            r = c.chat.completions.create(model="m", messages=msgs, max_tokens=24, temperature=0.7, user="ann", metadata={"a": "b"}, store=False)
            msgs.append(r.choices[0].message)  # the object itself, with all its members
    return openai.__version__


def c_litellm(url):
    import importlib.metadata, litellm
    msgs = []
    for i, t in enumerate(TURNS):
        msgs.append({"role": "user", "content": t})
        kw = dict(model="openai/m", api_base=url, api_key="none", messages=msgs, max_tokens=24)
        if i % 2:
            chunks = list(litellm.completion(stream=True, stream_options={"include_usage": True}, **kw))
            msgs.append(litellm.stream_chunk_builder(chunks).choices[0].message.model_dump())
        else:
            msgs.append(litellm.completion(**kw).choices[0].message.model_dump())
    try:
        litellm.completion(model="openai/m", api_base=url, api_key="none", messages=[{"role": "user", "content": "a b " * 40000}], max_tokens=4)
    except litellm.ContextWindowExceededError:
        print("litellm knows the context error")
    return importlib.metadata.version("litellm")


def c_llm(url):
    import importlib.metadata, tempfile
    home = tempfile.mkdtemp()
    os.environ["LLM_USER_PATH"] = home
    with open(os.path.join(home, "extra-openai-models.yaml"), "w") as f:
        f.write("- model_id: m\n  model_name: m\n  api_base: %s\n" % url)
    import llm
    m = llm.get_model("m")
    m.key = "none"
    talk = m.conversation()
    for i, t in enumerate(TURNS):
        talk.prompt(t, system="You are terse." if i == 0 else None, stream=i % 2 == 0, max_tokens=24).text()
    return importlib.metadata.version("llm")


def c_instructor(url):
    import importlib.metadata, instructor, openai, pydantic

    class Colour(pydantic.BaseModel):
        name: str

    plain = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    try:  # its default is tools, which the daemon does not have
        instructor.from_openai(plain).chat.completions.create(model="m", max_retries=0, response_model=Colour, max_tokens=4,
                                                              messages=[{"role": "user", "content": "red"}])
        print("tools were accepted")
    except Exception as e:
        print("tools: %s" % str(e).splitlines()[0][:200])
    c = instructor.from_openai(plain, mode=instructor.Mode.MD_JSON)
    msgs = []
    for t in TURNS:
        msgs.append({"role": "user", "content": t})
        try:
            r = c.chat.completions.create(model="m", messages=list(msgs), response_model=Colour, max_retries=0, max_tokens=24)
            said = r.model_dump_json()
        except Exception as e:  # a small model's JSON is none; what was sent is what counts
            if "Error code" in str(e):
                raise
            said = e.last_completion.choices[0].message.content
        msgs.append({"role": "assistant", "content": said})
    return importlib.metadata.version("instructor")


def c_langchain(url):
    import importlib.metadata
    from langchain_core.messages import HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI
    m = ChatOpenAI(base_url=url, api_key="none", model="m", max_tokens=24, max_retries=0)
    msgs = [SystemMessage("You are terse.")]
    for i, t in enumerate(TURNS):
        msgs.append(HumanMessage(t, name="ann") if i == 3 else HumanMessage(t))
        if i % 2:
            full = None
            for ch in m.stream(msgs):
                full = ch if full is None else full + ch
            msgs.append(full)
        else:
            msgs.append(m.invoke(msgs))
    return importlib.metadata.version("langchain-openai")


def c_aider(url):
    import importlib.metadata, tempfile
    os.chdir(tempfile.mkdtemp())
    os.environ.update(OPENAI_API_BASE=url, OPENAI_API_KEY="none", AIDER_ANALYTICS="false", AIDER_CHECK_UPDATE="false")
    from aider.coders import Coder
    from aider.io import InputOutput
    from aider.models import Model
    m = Model("openai/m", weak_model="openai/m", editor_model="openai/m")
    m.info["max_input_tokens"] = 8192
    m.extra_params = {"max_tokens": 24}
    coder = Coder.create(main_model=m, edit_format="ask", io=InputOutput(yes=True, pretty=False, fancy_input=False), use_git=False, stream=True)
    for t in TURNS:
        coder.run(t)
    return importlib.metadata.version("aider-chat")


# --- the proxy ------------------------------------------------------------------------------------
class Tape(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    port, seen = 0, []

    def log_message(self, *_):
        pass

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        c.request(self.command, self.path, body, {"Content-Type": self.headers.get("Content-Type", "")} if body else {})
        r = c.getresponse()
        got = r.read()
        self.seen.append((self.command, self.path, dict(self.headers), body, r.status, r.getheader("Content-Type", ""), got))
        self.send_response(r.status)
        for h in ("Content-Type", "Retry-After"):
            if r.getheader(h):
                self.send_header(h, r.getheader(h))
        self.send_header("Content-Length", str(len(got)))
        self.end_headers()
        self.wfile.write(got)

    do_GET = do_POST = pass_on


def outcome(kind, got):
    """(text, cached tokens, error code) of an answer."""
    if not kind.startswith("text/event-stream"):
        o = json.loads(got)
        if "error" in o:
            return None, 0, o["error"]["code"]
        return o["choices"][0]["message"]["content"], o["usage"]["prompt_tokens_details"]["cached_tokens"], None
    text, cached = "", 0
    for e in got.decode().split("\n\n"):
        if not e.startswith("data: {"):
            continue
        o = json.loads(e[6:])
        text += "".join(c["delta"].get("content") or "" for c in o["choices"])
        if "hearth" in o:
            cached = sum(o["hearth"]["reused_from"].values())
    return text, cached, None


def shorten(v):
    if isinstance(v, str) and len(v) > CONTENT_MAX:
        return v[:CONTENT_MAX // 2] + " [...] " + v[-CONTENT_MAX // 2:]
    if isinstance(v, dict):
        return {k: shorten(x) for k, x in v.items()}
    return [shorten(x) for x in v] if isinstance(v, list) else v


def record(python, name, port, write):
    Tape.port, Tape.seen = port, []
    srv = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tape)
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONDONTWRITEBYTECODE": "1"}
    p = subprocess.run([python, os.path.abspath(__file__), "--client", name, "http://127.0.0.1:%d/v1" % srv.server_port],
                       capture_output=True, text=True, timeout=600, env=env)
    srv.shutdown()
    print("%s: exit %d, %s" % (name, p.returncode, (p.stdout.strip() or p.stderr.strip()[-1500:]).replace("\n", "\n    ")))
    calls = []
    for method, path, headers, body, status, kind, got in Tape.seen:
        text, cached, code = outcome(kind, got) if path.endswith("/chat/completions") else (None, 0, None)
        print("    %s %s: %d, %d cached%s" % (method, path, status, cached, ", " + code if code else ""))
        if not body or len(body) > 100000:
            continue
        keep = {k: v for k, v in headers.items() if k.lower() in ("accept", "content-type", "user-agent", "accept-encoding")}
        call = {"path": path, "headers": keep, "body": shorten(json.loads(body)), "status": status}
        calls.append({**call, **({"said": text} if code is None else {"code": code})})
    if write and p.returncode == 0:
        version = p.stdout.strip().splitlines()[-1]
        with open(os.path.join(OUT, name + ".json"), "w") as f:
            json.dump({"client": "%s %s" % (name, version), "calls": calls}, f, indent=1, ensure_ascii=False)
            f.write("\n")
    return p.returncode


def main():
    import hearthlib as h
    write = "--write" in sys.argv
    python, names = sys.argv[1], [a for a in sys.argv[2:] if not a.startswith("--")]
    want = h.free_port()
    d = h.Daemon("--http", "127.0.0.1:%d" % want, front=True).start()
    port = h.http_port(d, want)
    d.load()
    bad = sum(record(python, n, port, write) != 0 for n in names)
    d.stop()
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    if sys.argv[1] == "--client":
        sys.path.pop(0)
        print(globals()["c_" + sys.argv[2]](sys.argv[3]))
    else:
        main()
