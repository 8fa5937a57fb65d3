"""A served model is asked the token ids that evaluation asks, and stays where its access class lets it be."""

import importlib.util
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tokenizers import normalizers, pre_tokenizers

from evaluation import chat, generate, serve
from evaluation.diagnosis.judges import PROMPT, make_judge
from evaluation.models import wrapper
from evaluation.models.conversation import Chat
from evaluation.models.registry import read_entry
from tests import tokenizer_families
from tests.tiny_model import REPO, make_model, make_tokenizer, read_jsonl, rows_of, write_rows

ASKED = [{"role": "user", "content": "Which drug?\n"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    pairs = [(f"Question {i:02}, which drug{'?' * i}", "AB"[i % 2]) for i in range(8)]
    write_rows(folder / "rows", "medqa", rows_of("medqa", "choice", pairs, choices=["A", "B"]))
    make_model(folder / "own", positions=2048)
    make_model(folder / "bare", template=False)
    make_tokenizer("<|im_start|>", "<|im_end|>", False).save_pretrained(folder / "qwen")
    make_tokenizer("<bos>", "<end_of_turn>").save_pretrained(folder / "gemma")
    tokenizer_families.llama2().save_pretrained(folder / "spaces")
    first = (
        tokenizer_families.llama2()
    )  # as LLaMA-2 with "legacy": false: no prefix space after a special token
    first.backend_tokenizer.normalizer = None
    first.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    make_model(folder / "first", template=False, tokenizer=first)
    none = tokenizer_families.llama2()  # as Gemma: no prefix space at all
    none.backend_tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    none.save_pretrained(folder / "none")
    return folder


def run(*arguments):
    serve.main(["--model", *map(str, arguments)])


@pytest.mark.guarantee("Serving", "A server is handed the wrapper that gives the token ids of evaluation.")
@pytest.mark.parametrize(("model", "folder", "handed"), [
    ("own", "own", False), ("llama-2-13b-chat", "bare", True), ("me-llama-13b-chat", "bare", True),
    ("qwen3-8b", "qwen", True), ("medgemma-27b-text-it", "gemma", True),
    *[(name, folder, True) for name in ("llama-2-13b-chat", "me-llama-13b-chat") for folder in ("spaces", "first", "none")],
])  # fmt: skip
def test_the_served_wrapper_gives_the_ids_of_evaluation(world, monkeypatch, model, folder, handed):
    monkeypatch.setattr("evaluation.models.registry.check_folder", lambda folder: None)
    entry = read_entry(*([str(world / model)] if model == folder else [model, [f"path={world / folder}"]]))
    tokenizer = wrapper.open_tokenizer(entry)
    template = wrapper.served_template(tokenizer, entry)
    assert bool(template) == handed and wrapper.drops_prefix_space(tokenizer) == (folder in ("first", "none"))
    served = tokenizer.apply_chat_template(ASKED, chat_template=template, add_generation_prompt=True)
    assert served["input_ids"] == wrapper.prompt_ids(tokenizer, ASKED)


def test_a_wrapper_that_no_server_can_give_is_refused(world, monkeypatch):
    real = wrapper.prompt_ids
    monkeypatch.setattr(wrapper, "prompt_ids", lambda *given: [*real(*given), 7])
    with pytest.raises(
        SystemExit, match="its template gives other token ids than in evaluation. Next: chat_"
    ):
        run(world / "own", "--backend", "vllm")


@pytest.fixture
def fake_server():
    """(URL, {path: function of the body}) of a server that answers what those functions say, else 404."""
    paths = {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, said = paths.get(self.path, lambda body: (404, {}))(body)
            said = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_the_token_ids_of_another_server_are_compared(world, fake_server, monkeypatch, capsys, kind):
    url, paths = fake_server
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # not used for this machine
    tokenizer = wrapper.open_tokenizer(read_entry(str(world / "own")))
    rendered = {"tokenize": False, "add_generation_prompt": True}

    def tokenize(body, before=()):
        text = body.get("content") or tokenizer.apply_chat_template(body["messages"], **rendered)
        return 200, {"tokens": [*before, *tokenizer(text, add_special_tokens=False).input_ids]}

    paths["/tokenize"] = tokenize
    if kind == "llama.cpp":
        paths["/apply-template"] = lambda body: (
            200,
            {"prompt": tokenizer.apply_chat_template(body["messages"], **rendered)},
        )
    for given in (url, f"{url}/", f"{url}/v1", f"{url}/v1/chat/completions"):
        run(world / "own", "--check", given)
        assert "gives the token ids of evaluation: 3 of 3" in capsys.readouterr().out
    paths["/tokenize"] = lambda body: tokenize(body, before=(0,))
    with pytest.raises(
        SystemExit, match=r"reads \['<s>', .* at token 1 where evaluation reads .*Next: restart"
    ):
        run(world / "own", "--check", url)


@pytest.mark.parametrize(("answer", "said"), [
    (None, "returns no token ids. Next: only vLLM and llama.cpp"), ((200, []), "returns no token ids"),
    ((200, {"tokens": 5}), "returns no token ids"), ((200, {"tokens": ["a"]}), "returns no token ids"),
    ((200, b"<html>"), "no JSON. Next: start the server"),
    ((401, {}), "401 .*Next: export OPENAI_API_KEY"), ((500, b"broken\x1b[2J"), "500 broken .2J. Next: read the"),
])  # fmt: skip
def test_a_server_that_gives_no_token_ids_is_one_sentence(world, fake_server, answer, said):
    url, paths = fake_server
    paths |= {"/tokenize": lambda body: answer} if answer else {}
    with pytest.raises(SystemExit, match=f"^error: {url}[^\n]*{said}"):
        run(world / "own", "--check", url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:80a", "127.0.0.1:8000", ""])
def test_a_mistyped_server_is_one_sentence(world, url):
    with pytest.raises(
        SystemExit, match="^error: [^\n]*Next: start the server, then --check http://HOST:PORT"
    ):
        run(world / "own", "--check", url)


def test_a_full_disk_is_one_sentence(world, tmp_path, monkeypatch):
    def full(path, *given, **more):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve.Path, "write_text", full)
    with pytest.raises(SystemExit, match="^error: No space left on device. Next: free space"):
        run("me-llama-13b-chat", f"path={world / 'bare'}", "--backend", "vllm")


@pytest.mark.guarantee("Credentialed data", "A credentialed model is served to this machine only.")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0", "10.1.2.3"])
def test_a_credentialed_model_listens_on_the_loopback_only(world, host):
    with pytest.raises(SystemExit, match=r"is credentialed, and .* would let other machines ask it. Next: "):
        run(world / "own", "access=credentialed", "--host", host)
    with pytest.raises(SystemExit, match="credentialed, and"):
        run("me-llama-13b-chat", f"path={world / 'bare'}", "--host", host, "--backend", "vllm")


def test_what_cannot_be_served_is_refused_in_a_sentence(world, tmp_path, monkeypatch):
    odd = ("a@b", "a b", "a,b")
    for name in odd:
        shutil.copytree(world / "own", tmp_path / name)
    monkeypatch.setattr(serve, "NEEDS", ())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, said in (
            (["gpt-4-0314"], "is on a server already. Next: path=DIR"),
            ([world / "own", "--port", port], f"port {port} of 127.0.0.1: .*Next: another --port"),
            ([world / "own", "--port", 99999], "port 99999 .*Next: another --port"),
            *(([tmp_path / name], "servers split a name at '.'. Next: rename") for name in odd),
            ([world / "bare", "--backend", "vllm"], "has no chat template.*Next: chat_template=FILE"),
        ):
            with pytest.raises(SystemExit, match=f"^error: [^\n]*{said}"):
                run(*arguments)
    monkeypatch.setattr(serve, "NEEDS", ("fastapi_that_is_absent",))
    with pytest.raises(SystemExit, match="fastapi_that_is_absent is not installed. .*requirements-serve.txt"):
        run(world / "own")


def test_the_commands_of_other_servers_name_the_folder_and_the_wrapper(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for backend, program in (
        ("vllm", "vllm serve"),
        ("llama.cpp", "llama-server"),
        ("ollama", "ollama create"),
    ):
        run("me-llama-13b-chat", f"path={world / 'bare'}", "--backend", backend, "--port", 8431)
        said = capsys.readouterr().out
        assert (
            ("untried" in said) == (backend == "ollama") and program in said and str(world / "bare") in said
        )
        assert [shlex.split(line, comments=True) for line in said.splitlines()]
        assert "--override-kv" not in said and ("--check http://127.0.0.1:8431" in said) == (
            backend != "ollama"
        )
        assert ("outputs/serve/me-llama-13b-chat.jinja" in said) == (backend != "ollama")
    run("me-llama-13b-chat", f"path={world / 'first'}", "--backend", "llama.cpp")
    assert "add_space_prefix=bool:false" in capsys.readouterr().out
    assert "Human:" in (tmp_path / "outputs/serve/me-llama-13b-chat.jinja").read_text()


def test_a_judge_is_not_offered_before_the_folder_says_its_class(world):
    entry = read_entry("me-llama-13b-chat", [f"path={world / 'bare'}"])
    args = serve.make_parser().parse_args(["--model", "x"])
    said = serve.describe(entry, args)
    assert "every machine" in serve.describe(
        entry, serve.make_parser().parse_args(["--model", "x", "--host", "::"])
    )
    assert "this machine only" in said and "unavailable until" in said and "access=credentialed" in said
    said = serve.describe(read_entry(str(world / "own")), args)
    assert f"JUDGE=openai:{world / 'own'}@http://127.0.0.1:8000/v1/chat/completions" in said


def test_a_wrapper_that_a_server_would_not_stop_after_is_said(world, tmp_path, capsys):
    run(world / "own", "--backend", "vllm")
    assert "does not stop" not in capsys.readouterr().out
    shutil.copytree(world / "own", tmp_path / "on")
    (tmp_path / "on/generation_config.json").write_text(json.dumps({"eos_token_id": [0]}))
    run(tmp_path / "on", "--backend", "vllm")
    assert "generation_config.json does not stop at </s>" in capsys.readouterr().out


# ---------------------------------------------------------------- end to end
LACKING = [name for name in serve.NEEDS if not importlib.util.find_spec(name)]
served_for_real = pytest.mark.skipif(
    bool(LACKING), reason=f"no {', '.join(LACKING)} here. pip install -r requirements-serve.txt"
)


@pytest.fixture(scope="module")
def server(world):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "-m",
        "evaluation.serve",
        "--model",
        str(world / "own"),
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    with open(world / "log", "w") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=REPO, stdout=log, stderr=log)
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except urllib.error.URLError:
                time.sleep(0.2)
        assert process.poll() is None, (world / "log").read_text()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def evaluate(world, out, preset, *model):
    paths = ["--rows", world / "rows", "--tasks", "medqa", "--out", world / "eval" / out]
    sizes = ["--preset", preset, "--batch_size", 1, "--max_new_tokens", 8]
    generate.main([str(a) for a in ("--model", *model, *paths, *sizes)])
    return [row["output"] for row in read_jsonl(world / "eval" / out / "medqa.jsonl")]


@served_for_real
@pytest.mark.parametrize(("preset", "backend", "endpoint"), [
    ("chat", "chat", "chat/completions"), ("chat", "completions", "completions"),
    ("paper", "completions", "completions"),
])  # fmt: skip
def test_a_served_model_answers_as_the_local_one(world, server, preset, backend, endpoint):
    facts = [f"served={world / 'own'}", f"path={world / 'own'}", "context=2048"]
    there = evaluate(world, f"{preset}-{backend}", preset, "server", f"backend={backend}",
                     f"base_url={server}/{endpoint}", *facts)  # fmt: skip
    assert there == evaluate(world, preset, preset, world / "own") and len(set(there)) > 1
    assert (
        json.loads((world / "eval" / f"{preset}-{backend}/run.json").read_text())["model_access"] == "gated"
    )


@served_for_real
def test_a_served_model_judges_as_the_local_one(world, server):
    judge = make_judge(f"openai:{world / 'own'}@{server}/chat/completions", PROMPT)
    case = {"id": "1", "completion": "migraine", "access": "public", "license": "invented"}
    [(place, verdict)] = judge.ask([("headache", case)])
    args = chat.make_parser().parse_args(["--model", str(world / "own"), "--max_new_tokens", "64"])
    here = Chat(read_entry(args.model), args)
    ids = here.prompt([{"role": "user", "content": judge.question("headache", case)}])
    assert verdict["raw"] == "".join(here.answer(ids, threading.Event())) and place == 0
    assert verdict["model_access"] == "gated"


@served_for_real
def test_no_other_model_is_loaded(world, server):
    body = {"model": "gpt2", "messages": ASKED}
    request = urllib.request.Request(
        f"{server}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    with urllib.request.urlopen(f"{server}/models") as response:
        assert json.load(response)["data"] == []
