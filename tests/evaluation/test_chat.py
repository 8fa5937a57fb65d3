"""Chat asks what evaluation asks, stops where the model stops, and its page says what it is."""

import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
import uvicorn
from transformers import GenerationMixin
from websockets.sync.client import connect

from evaluation import chat as command
from evaluation import generate
from evaluation.chat_page import application
from evaluation.models.conversation import Chat
from evaluation.models.registry import read_entry
from tests.tiny_model import make_model, make_tokenizer, read_jsonl, rows_of, write_rows

ASKED = [{"role": "user", "content": "Which drug?\n"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    pairs = [(turn["content"].strip(), "A") for turn in ASKED]
    write_rows(folder / "rows", "medqa", rows_of("medqa", "choice", pairs, choices=["A", "B"]))
    make_model(folder / "own")
    make_model(folder / "bare", template=False)
    qwen = make_tokenizer("<|im_start|>", "<|im_end|>", False)
    make_model(folder / "qwen", template=False, architecture="Qwen3ForCausalLM", tokenizer=qwen)
    return folder


def open_chat(world, *arguments):
    args = command.make_parser().parse_intermixed_args([str(a) for a in ("--model", *arguments)])
    return Chat(read_entry(args.model, args.changes), args)


@pytest.mark.guarantee("Serving", "Chat sends a question as the token ids that evaluation sends.")
@pytest.mark.parametrize(("model", "folder"), [
    ("own", "own"), ("llama-2-13b-chat", "bare"), ("me-llama-13b-chat", "bare"), ("qwen3-8b", "qwen"),
])  # fmt: skip
def test_prompt_and_answer_are_those_of_evaluation(world, monkeypatch, model, folder):
    given = [world / model] if model == folder else [model, f"path={world / folder}"]
    seen, real = [], GenerationMixin.generate

    def spy(self, *positional, **named):
        seen.append(named["input_ids"].tolist())
        return real(self, *positional, **named)

    monkeypatch.setattr(GenerationMixin, "generate", spy)
    out = world / "eval" / model
    paths = ["--rows", world / "rows", "--tasks", "medqa", "--preset", "chat", "--out", out]
    sizes = ["--batch_size", 1, "--max_new_tokens", 12]
    generate.main([str(a) for a in ("--model", *given, *paths, *sizes)])
    chat = open_chat(world, *given, "--max_new_tokens", 12)
    ids = chat.prompt(ASKED)
    assert seen == [[ids]]
    assert "".join(chat.answer(ids, threading.Event())) == read_jsonl(out / "medqa.jsonl")[0]["output"]


def test_an_answer_ends_at_any_eos_of_the_model(world, tmp_path):
    chat = open_chat(world, world / "own", "--max_new_tokens", 12)
    ids = chat.prompt(ASKED)
    assert (text := "".join(chat.answer(ids, threading.Event())))
    first = chat.model.generate(chat.model.dummy_inputs["input_ids"].new_tensor([ids]), max_new_tokens=1)
    shutil.copytree(world / "own", tmp_path / "two")
    (tmp_path / "two/generation_config.json").write_text(
        json.dumps({"eos_token_id": [chat.tokenizer.bos_token_id, int(first[0, -1])]})
    )
    two = open_chat(world, tmp_path / "two", "--max_new_tokens", 12)
    assert len(two.stops) == 3  # the tokenizer's own as well
    assert len("".join(two.answer(ids, threading.Event()))) < len(text)


def dialogue(chat, monkeypatch, *lines):
    given = iter(lines)
    monkeypatch.setattr("builtins.input", lambda prompt: next(given, "/exit"))
    command.talk(chat)


def test_a_dialogue_in_the_terminal(world, tmp_path, monkeypatch, capsys):
    chat = open_chat(world, world / "own", "--max_new_tokens", 6, "--system", "Be brief.")
    asked = []
    monkeypatch.setattr(
        chat, "prompt", lambda messages: asked.append(messages) or Chat.prompt(chat, messages)
    )
    file = tmp_path / "talk.jsonl"
    dialogue(chat, monkeypatch, "One?", "Two?", "/save", f"/save {file}", f"/save {file}", "/nope", "/reset",
             "Three?", "long " * 300, "")  # fmt: skip
    said = capsys.readouterr().out
    [saved] = read_jsonl(file)
    assert [turn["role"] for turn in saved["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert saved["access"] == "gated" and "no medical advice" in saved["notice"]
    assert [[turn["content"] for turn in turns if turn["role"] == "user"] for turns in asked[:3]] == [
        ["One?"], ["One?", "Two?"], ["Three?"]]  # fmt: skip
    assert asked[1][:2] == saved["messages"][1:3]
    for sentence in ("nothing to save", "is there already. Next: /save under another name", "/nope is unknown",
                     "The conversation is forgotten.", "tokens, and the model's context 256. Next: /reset"):  # fmt: skip
        assert sentence in said


def test_a_full_disk_is_one_sentence_and_leaves_no_half_conversation(world, tmp_path, monkeypatch, capsys):
    def full(path, rows):
        path.write_text("half")
        raise OSError(28, "No space left on device", str(path))

    chat = open_chat(world, world / "own", "--max_new_tokens", 2)
    monkeypatch.setattr(command, "write_jsonl", full)
    dialogue(chat, monkeypatch, "One?", f"/save {tmp_path / 'talk.jsonl'}")
    assert "talk.jsonl: No space left on device. Next: " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_an_interrupted_answer_is_stopped_and_forgotten(world, monkeypatch, capsys):
    chat = open_chat(world, world / "own", "--max_new_tokens", 200)
    before, real = set(threading.enumerate()), command.visible
    monkeypatch.setattr(command, "visible", lambda text: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert command.turn(chat, ASKED) == [] and "Stopped" in capsys.readouterr().out
    assert set(threading.enumerate()) <= before  # generation has ended; other threads may have as well
    assert real("a\x1b[2Jb\nc\u202e") == "a [2Jb\nc "


def test_what_cannot_be_talked_to_is_refused_in_a_sentence(world, tmp_path):
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/model.gguf").touch()
    (tmp_path / "mute").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "mute" / name).symlink_to(world / "own" / name)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, said in (
            ([world / "bare"], "has no chat template, .*Next: chat_template=FILE"),
            ([tmp_path / "gguf"], "model.gguf: weights of llama.cpp; .*Next: the folder that it was made of"),
            ([tmp_path / "mute"], "mute: its tokenizer cannot be read .*Next: put its base's tokenizer.json"),
            ([tmp_path / "none"], "none: no model here.*Next: "),
            (["gpt-4-0314"], "is on a server. Next: "),
            ([world / "own", "--max_new_tokens", 0], "--max_new_tokens must be 1 or more"),
            ([world / "own", "--web", "--port", port], f"port {port} of 127.0.0.1: .*Next: another --port"),
            (["me-llama-13b-chat", f"path={world / 'bare'}", "--system", "Be brief."],
             "no place for a system prompt. Next: leave --system out"),
        ):  # fmt: skip
            with pytest.raises(SystemExit, match=f"^error: [^\n]*{said}"):
                command.main([str(a) for a in ("--model", *arguments)])


# ---------------------------------------------------------------- the page
@pytest.fixture(scope="module")
def page(world):
    """(address, chat) of a page that is served in this process."""
    chat = open_chat(world, world / "own", "--max_new_tokens", 100)
    config = uvicorn.Config(application(chat, command.NOTICE), host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1], chat
    server.should_exit = True
    thread.join()


def ask(port, body, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/answer", json.dumps(body), {"Content-Type": "application/json"} | headers)
    return connection, connection.getresponse()


def test_the_page_says_what_it_is_and_answers_as_the_terminal(page):
    port, chat = page
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as response:
        html, policy = response.read().decode(), response.headers["Content-Security-Policy"]
    assert "no medical advice" in html and "Access class of the model: <b>gated</b>" in html
    assert "default-src 'none'" in policy and not re.findall(r"(?:src|href)=|https?://", html)
    _, response = ask(port, {"messages": ASKED})
    assert response.read().decode() == "".join(chat.answer(chat.prompt(ASKED), threading.Event()))
    for body, headers, status, said in (
        ({"messages": []}, {}, 400, "not a conversation. Next: reload the page"),
        ({"messages": [{"role": "system", "content": "x"}]}, {}, 400, "not a conversation"),
        ({"messages": [{"role": "user", "content": "long " * 300}]}, {}, 400, "context 256. Next: "),
        ({"messages": ASKED}, {"Content-Type": "text/plain"}, 415, "not JSON"),
        ({"messages": ASKED}, {"Host": "evil.example"}, 400, "Invalid host"),
    ):
        _, response = ask(port, body, **headers)
        assert response.status == status and said in response.read().decode()


def test_a_closed_browser_ends_its_answer(page, monkeypatch, capsys):
    port, chat = page
    ended, real = threading.Event(), chat.answer

    def endless(ids, stop):
        try:
            while not stop.wait(0.02):
                yield "on and "
        finally:
            ended.set()

    monkeypatch.setattr(chat, "answer", endless)
    connection, response = ask(port, {"messages": ASKED})
    assert response.read(4) == b"on a"
    response.close()
    connection.close()
    assert ended.wait(5) and "The browser was closed: its answer was stopped." in capsys.readouterr().out
    monkeypatch.setattr(chat, "answer", real)
    assert ask(port, {"messages": ASKED})[1].read()  # and the next one is answered


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_the_page_in_a_browser(page, tmp_path):
    port, chat = page
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
             "--remote-debugging-port=0", f"--user-data-dir={tmp_path}"]  # fmt: skip
    browser = subprocess.Popen(
        [CHROMIUM, *flags, f"http://127.0.0.1:{port}/"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        debug = next(line for line in browser.stderr if "DevTools listening" in line).split("127.0.0.1:")[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{debug.split('/')[0]}/json") as response:
            [tab] = [tab for tab in json.load(response) if tab["type"] == "page"]
        with connect(tab["webSocketDebuggerUrl"], proxy=None) as socket_:

            def run(code):
                message = {"id": 1, "method": "Runtime.evaluate", "params": {
                    "expression": code, "awaitPromise": True, "returnByValue": True}}  # fmt: skip
                socket_.send(json.dumps(message))
                while "id" not in (answer := json.loads(socket_.recv(60))):
                    pass
                return answer["result"]["result"].get("value")

            while not run("document.readyState == 'complete' && document.getElementById('notice') != null"):
                time.sleep(0.1)
            assert "no medical advice" in run("document.getElementById('notice').textContent")
            run("question.value = 'Which drug?'; document.querySelector('form button').click()")
            while run("messages.length") != 2:
                time.sleep(0.1)
            shown = run("document.querySelector('.assistant').textContent")
            assert shown == "".join(chat.answer(chat.prompt(ASKED), threading.Event()))
            run("document.getElementById('reset').click()")
            assert run("messages.length") == 0 and run("document.querySelectorAll('article').length") == 0
    finally:
        browser.terminate()
        browser.wait()
