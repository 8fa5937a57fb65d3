"""Fetching, against a server on this machine that knows ranges, cuts connections, and serves the wrong
bytes."""

import gzip
import hashlib
import http.server
import io
import json
import threading
import zipfile

import pytest
import yaml
from huggingface_hub import constants

from data_prep import benchmarks, build_tasks, fetch, instructions, preferences
from data_prep.schema import BadInput
from data_prep.sources import SOURCES
from tests.data_prep.test_build_tasks import medqa

CONTENT = bytes(range(256)) * 4000  # a million bytes, no two neighbors alike


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; the first `cuts` answers stop half-way; `asked` lists (path, Range)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.asked, self.ranges = {}, 0, [], True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(content) > 0 and start:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        part = content[start:]
        if server.cuts:
            server.cuts -= 1
            part = part[: len(part) // 2]
            self.close_connection = True
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", 100_000
    )  # bytes between two writes; of real files, 10 MB
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def catalogue(tmp_path, **entries):
    common = {"license": "ours", "access": "public", "page": "https://page.invalid"}
    path = tmp_path / "catalogue.yaml"
    path.write_text(
        yaml.safe_dump({name: common | entry for name, entry in entries.items()}), encoding="utf-8"
    )
    return path


def run(tmp_path, path, *names):
    fetch.main([*names, "--raw", str(tmp_path / "raw"), "--catalogue", str(path)])


def one(server, content=CONTENT, **facts):
    server.files["/a.bin"] = content
    return {"files": [{"path": "set/a.bin", "url": f"{server.url}/a.bin", "seen": "test", **facts}]}


def test_a_file_is_fetched_checked_and_not_fetched_again(tmp_path, server):
    path = catalogue(tmp_path, a=one(server, size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest()))
    for _ in range(2):
        run(tmp_path, path, "a")
    assert (tmp_path / "raw/set/a.bin").read_bytes() == CONTENT and len(server.asked) == 1
    assert [file.name for file in (tmp_path / "raw/set").iterdir()] == ["a.bin"]


def test_a_cut_connection_resumes_by_range(tmp_path, server):
    server.cuts = 2
    run(tmp_path, catalogue(tmp_path, a=one(server, size=len(CONTENT))), "a")
    assert (tmp_path / "raw/set/a.bin").read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0 for _, asked in server.asked]
    assert starts[0] == 0 and starts == sorted(set(starts)) and len(starts) == 3


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_killed_download_resumes_in_the_next_run(tmp_path, server, capsys, ranges):
    server.ranges = ranges
    partial = tmp_path / "raw/set/.a.bin.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:70_001])
    run(tmp_path, catalogue(tmp_path, a=one(server, sha256=hashlib.sha256(CONTENT).hexdigest())), "a")
    assert (tmp_path / "raw/set/a.bin").read_bytes() == CONTENT
    assert server.asked[0][1] == "bytes=70001-" and "resumes at 70,001 bytes" in capsys.readouterr().out


def test_a_download_that_was_whole_is_only_checked(tmp_path, server):
    partial = tmp_path / "raw/set/.a.bin.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT)
    run(tmp_path, catalogue(tmp_path, a=one(server, sha256=hashlib.sha256(CONTENT).hexdigest())), "a")
    assert (tmp_path / "raw/set/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "name, content, facts, said",
    [
        ("a.bin", b"other", {"sha256": "0" * 64}, "has the sha256 .*, must have 0000"),
        ("a.bin", b"other", {"size": 6}, "should be of size 6 but has size"),
        ("a.json", b'{"cut": ', {}, "is not a whole file of its kind"),
        ("a.xml.gz", gzip.compress(CONTENT)[:-20], {}, "is not a whole file of its kind"),
        ("a.zip", b"PK no archive", {}, "is not a whole file of its kind"),
        ("a.parquet", b"PAR1 cut", {}, "is not whole Parquet"),
        ("a.jsonl", b"{}\n{}\n", {"lines": 3}, "has 2 lines, must have 3"),
        ("a.jsonl", b"<!DOCTYPE html><html>Sign in</html>", {}, "is a web page, not the data"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", {}, "is a Git-LFS pointer"),
    ],
)
def test_wrong_bytes_take_no_name(tmp_path, server, name, content, facts, said):
    server.files[f"/{name}"] = content
    entry = {"files": [{"path": f"set/{name}", "url": f"{server.url}/{name}", "seen": "test", **facts}]}
    with pytest.raises(SystemExit, match=said):
        run(tmp_path, catalogue(tmp_path, a=entry), "a")
    assert not (tmp_path / "raw/set" / name).exists()


def test_wrong_bytes_are_kept_aside_and_the_next_run_starts_anew(tmp_path, server):
    path = catalogue(tmp_path, a=one(server, b"wrong", sha256=hashlib.sha256(b"right").hexdigest()))
    with pytest.raises(SystemExit, match="It is kept as .*a.bin.wrong"):
        run(tmp_path, path, "a")
    server.files["/a.bin"] = b"right"
    run(tmp_path, path, "a")
    assert (tmp_path / "raw/set/a.bin").read_bytes() == b"right" and server.asked[-1][1] is None


def test_a_file_that_is_there_is_never_replaced(tmp_path, server):
    own = tmp_path / "raw/set/a.bin"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(SystemExit, match="is there already, and has the sha256 .* Next: move it elsewhere"):
        run(tmp_path, catalogue(tmp_path, a=one(server, sha256="0" * 64)), "a")
    assert own.read_bytes() == b"mine" and not server.asked


def test_one_set_that_fails_does_not_stop_the_others(tmp_path, server):
    bad = {"files": [{"path": "b/b", "url": f"{server.url}/missing", "seen": "test"}]}
    with pytest.raises(SystemExit, match="1 of 2 sets not fetched: b: .*/missing: the server answers 404"):
        run(tmp_path, catalogue(tmp_path, b=bad, a=one(server)), "b", "a")
    assert (tmp_path / "raw/set/a.bin").exists()


def test_a_set_of_many_files_with_checksums_of_the_publisher(tmp_path, server):
    for number in (1, 2, 3):
        content = gzip.compress(f"<a>{number}</a>".encode())
        server.files[f"/p{number:02d}.xml.gz"] = content
        server.files[f"/p{number:02d}.md5"] = f"MD5(p)= {hashlib.md5(content).hexdigest()}\n".encode()
    file = {"path": "p/p{n:02d}.xml.gz", "url": server.url + "/p{n:02d}.xml.gz", "seen": "test"}
    path = catalogue(tmp_path, p={"count": 3, "files": [file | {"md5_url": server.url + "/p{n:02d}.md5"}]})
    run(tmp_path, path, "p:2")
    assert sorted(file.name for file in (tmp_path / "raw/p").iterdir()) == ["p01.xml.gz", "p02.xml.gz"]
    server.files["/p03.md5"] = b"MD5(p)= 0\n"
    with pytest.raises(SystemExit, match="has the md5 .*, which .*/p03.md5 does not name"):
        run(tmp_path, path, "p:3")
    with pytest.raises(SystemExit, match="'p:4': p has 3 files"):
        run(tmp_path, path, "p:4")


def test_a_set_that_is_listed(tmp_path, server):
    listing = (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><CommonPrefixes><Prefix>'
        "PMC{}.1/</Prefix>"
    )
    server.files["/?list&max=1"] = (
        (listing + "</CommonPrefixes><NextContinuationToken>a+b</NextContinuationToken></ListBucketResult>")
        .format(1)
        .encode()
    )
    server.files["/?list&max=1&continuation-token=a%2Bb"] = (
        (listing + "</CommonPrefixes></ListBucketResult>").format(2).encode()
    )
    for key in ("PMC1.1", "PMC2.1"):
        server.files[f"/{key}/{key}.xml"] = b"<article/>"
    file = {"path": "pmc/{key}.xml", "url": server.url + "/{key}/{key}.xml", "seen": "test"}
    entry = {"count": 5, "listing": f"{server.url}/?list&max=1", "files": [file]}
    run(tmp_path, catalogue(tmp_path, pmc=entry), "pmc:2")
    assert sorted(file.name for file in (tmp_path / "raw/pmc").iterdir()) == ["PMC1.1.xml", "PMC2.1.xml"]


def zipped(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_from_nothing_to_rows_in_two_commands(tmp_path, server):
    lines = "".join(json.dumps(medqa(f"Which {i}?")) + "\n" for i in range(3))
    server.files["/d.zip"] = zipped(**{"d/US/test.jsonl": lines, "d/US/4_options/x.jsonl": "{}"})
    member = {"member": "d/US/test.jsonl", "path": "medqa/US/test.jsonl", "lines": 3}
    file = {"path": "medqa/d.zip", "url": f"{server.url}/d.zip", "seen": "test", "unpack": [member]}
    run(tmp_path, catalogue(tmp_path, medqa={"files": [file]}), "medqa")
    build_tasks.main(["--raw", str(tmp_path / "raw"), "--tasks", "all", "--out", str(tmp_path / "tasks")])
    assert len((tmp_path / "tasks/medqa/test.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_an_archive_does_not_write_outside(tmp_path, server):
    server.files["/d.zip"] = zipped(**{"d/../../../evil.txt": "x"})
    file = {
        "path": "s/d.zip",
        "url": f"{server.url}/d.zip",
        "seen": "test",
        "unpack": [{"member": "d/*", "path": "s"}],
    }
    with pytest.raises(SystemExit, match="leads out of the folder"):
        run(tmp_path, catalogue(tmp_path, a={"files": [file]}), "a")
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.guarantee("Credentialed data", "Nothing of a gated or credentialed set is fetched.")
def test_gated_and_credentialed_sets_are_not_fetched(tmp_path, server, capsys):
    entry = {"access": "credentialed", "get": "needs a signed agreement; put x into notes/"}
    run(tmp_path, catalogue(tmp_path, notes=entry), "notes")
    shown = capsys.readouterr().out
    assert (
        "https://page.invalid" in shown
        and "not fetched: needs a signed agreement; put x into notes/" in shown
    )
    with pytest.raises(SystemExit, match="notes: Value error, only public files are fetched"):
        run(tmp_path, catalogue(tmp_path, notes=one(server) | {"access": "gated"}), "notes")
    assert not server.asked
    for name, entry in fetch.read_catalogue().items():
        assert entry.access == "public" or not entry.files, name


def test_the_catalogue_knows_the_readers():
    catalogue = fetch.read_catalogue()
    assert not set(benchmarks.NAMES) - set(catalogue)
    for name, entry in catalogue.items():
        module = SOURCES.get({"pmc_oa": "pmc"}.get(name, name))
        rooms = (room for room in (preferences, instructions) if name in room.NAMES)
        module = module or next(rooms, benchmarks).load(name)
        assert entry.access == module.ACCESS, name
        for file in entry.files:
            assert file.url.startswith("https://") and file.seen, name
            assert file.path.startswith("pmc/" if name == "pmc_oa" else f"{name}/"), file.path


def test_a_wrong_catalogue_is_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "a: {license: x, access: public, page: y, files: [{path: p, url: u, seen: s, shasum: z}]}"
    )
    with pytest.raises(BadInput, match=r"c.yaml: a.files.0.shasum: Extra inputs"):
        fetch.read_catalogue(path)
