"""No test may reach the network, and no recipe that a test starts may either: the socket guard of this
process and an offline hub for all."""

import os
import shutil
import socket
import sys
import threading

import pytest

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # peft imports bitsandbytes, which imports the compiler: half of a start
    "EGRESS": "hook",  # a main() that forks would take this process along
}
connect = socket.socket.connect


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def as_before():
    """egress closes a process for good; this process is also the next test's."""
    environment, mask = dict(os.environ), os.umask(0)
    os.umask(mask)
    yield
    for name in ("egress", "data_prep.egress"):
        if name in sys.modules:
            sys.modules[name]._blocked = None
    sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
    os.umask(mask)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module", autouse=True)
def environment_of_the_file():
    """What a fixture of a whole file sets is not the next file's."""
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def built_lab(tmp_path_factory):
    from tests.lab import build_lab  # imports transformers: only for the files that ask

    return build_lab(tmp_path_factory.mktemp("built_lab"))


@pytest.fixture(scope="module")
def lab(built_lab, tmp_path_factory):
    """A copy of tests.lab for each file: what one trains there, no other finds."""
    return shutil.copytree(built_lab, tmp_path_factory.mktemp("lab") / "lab")
