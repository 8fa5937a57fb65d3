"""The readers of The Pile's PubMed, of guidelines, and of data that a source.yaml describes, on invented
records in their shapes."""

import gzip
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_prep import build_documents
from data_prep.manifest import Drops
from data_prep.schema import BadInput, check_document
from data_prep.sources import guidelines, hub, pile_pubmed, plain

CARD = {"domain": "clinical", "license": "ours", "access": "credentialed"}


def put(path: Path, content) -> Path:
    """Write text or bytes, or JSON lines of a list, compressed as the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "".join(json.dumps(record) + "\n" for record in content)
    content = content.encode() if isinstance(content, str) else content
    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(compress(content))
    return path


def sidecar(folder: Path, **settings) -> Path:
    return put(folder / "source.yaml", json.dumps({**CARD, **settings}))  # JSON is YAML


def read(module, file) -> tuple[list[dict], dict]:
    """(documents, {reason: count}) of one raw file; every document is checked and can be written."""
    drops = Drops()
    documents = [check_document(document, str(file)) for document in module.read(file, drops)]
    json.dumps(documents, ensure_ascii=False).encode()
    return documents, {
        reason: entry["count"] for reasons in drops.as_dict().values() for reason, entry in reasons.items()
    }


# --- The Pile ---


def pile(text, pile_set="PubMed Central") -> dict:
    return {"text": text, "meta": {"pile_set_name": pile_set}}


@pytest.mark.parametrize("name", ["00.jsonl.zst", "val.jsonl", "test.jsonl.gz"])
def test_pile_keeps_its_two_pubmed_sets(tmp_path, name):
    records = [
        pile("An article."),
        pile("An abstract.", "PubMed Abstracts"),
        pile("Code.", "Github"),
        pile("Law.", "FreeLaw"),
        pile("An article."),
    ]
    documents, drops = read(pile_pubmed, put(tmp_path / name, records))
    assert [(d["text"], d["meta"]["pile_set_name"]) for d in documents] == [
        ("An article.", "PubMed Central"),
        ("An abstract.", "PubMed Abstracts"),
        ("An article.", "PubMed Central"),
    ]
    assert documents[0]["id"] == documents[2]["id"] != documents[1]["id"], "an exact repeat has the same id"
    assert drops == {"of another set of The Pile": 2}
    assert pile_pubmed.files(tmp_path) == [tmp_path / name]


def test_pile_bad_records_are_counted_and_the_others_read(tmp_path):
    records = [
        None,
        ["text"],
        {"text": None, "meta": {}},
        pile(7),
        pile(" \n"),
        {"text": "No set."},
        {"text": "Null.", "meta": None},
        pile("Half \ud83d."),
    ]
    as_string = {"text": "Exported.", "meta": json.dumps({"pile_set_name": "PubMed Abstracts"})}
    documents, drops = read(pile_pubmed, put(tmp_path / "a.jsonl", [*records, as_string, pile("Good.")]))
    assert [d["text"] for d in documents] == ["Exported.", "Good."]
    assert drops == {
        "no object with a text in text": 4,
        "empty text": 1,
        "no meta.pile_set_name": 2,
        "not valid Unicode": 1,
    }


def test_a_line_that_is_not_json_is_counted_too(tmp_path):
    content = (
        b'{"text": "One.", "meta": {"pile_set_name": "PubMed Central"}}\n{"text": "cut\n\n'
        + json.dumps(pile("Tw\u00f6.")).encode()
        + b"\n"
    )
    documents, drops = read(pile_pubmed, put(tmp_path / "a.jsonl", content))
    assert [d["text"] for d in documents] == ["One.", "Twö."] and drops == {"not JSON": 1}


@pytest.mark.parametrize("module", [pile_pubmed, guidelines])
def test_a_git_lfs_pointer_is_no_data(tmp_path, module):
    pointer = put(
        tmp_path / "a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13085339\n"
    )
    with pytest.raises(BadInput, match="a.jsonl: this is a Git-LFS pointer"):
        read(module, pointer)


# --- guidelines ---


def test_guidelines_as_published(tmp_path):
    record = {
        "id": "a1",
        "source": "nice",
        "title": "On fever",
        "clean_text": "# On fever\n\nMeasure it.",
        "raw_text": "Cookies? On fever",
        "url": "https://x.invalid/1",
        "overview": "A summary.",
    }
    file = put(
        tmp_path / "open_guidelines.jsonl", [record, {**record, "id": "a2", "source": "who", "url": None}]
    )
    (first, second), drops = read(guidelines, file)
    assert drops == {} and guidelines.files(tmp_path) == [file]
    assert first == {
        "id": "guidelines:a1",
        "text": "# On fever\n\nMeasure it.",
        "source": "guidelines",
        "domain": "biomedical",
        "license": "terms of nice",
        "access": "public",
        "meta": {"publisher": "nice", "title": "On fever", "url": "https://x.invalid/1"},
    }
    assert (second["license"], second["meta"]) == ("terms of who", {"publisher": "who", "title": "On fever"})


def test_guidelines_as_scraped_and_bad_ones(tmp_path):
    records = [
        {"title": "T", "url": "u", "content": "By content."},
        {"title": "T", "doi": "10.1/2", "text": "By text."},
        {"title": "No text at all."},
        {"clean_text": None, "raw_text": "The page around it."},
        {"clean_text": "  "},
        {"clean_text": ["a", "list"]},
        "a string",
    ]
    documents, drops = read(guidelines, put(tmp_path / "rch.jsonl", records))
    assert [(d["text"], d["license"]) for d in documents] == [
        ("By content.", "terms of rch"),
        ("By text.", "terms of rch"),
    ]
    assert (
        documents[1]["meta"] == {"publisher": "rch", "title": "T", "doi": "10.1/2"}
        and documents[0]["id"] != documents[1]["id"]
    )
    assert drops == {"no object with a text in clean_text or content or text": 4, "empty text": 1}


# --- plain ---


def test_plain_json_lines(tmp_path):
    folder = tmp_path / "ward notes"
    sidecar(folder, text="note", id="number", meta=["year"])
    records = [{"number": 1, "note": "One.", "year": 2001, "secret": "x"}, {"number": "b", "note": "Two."}]
    bad = [
        {"number": 3, "note": None},
        {"number": 4, "note": ""},
        {"note": "No number."},
        {"number": "", "note": "Empty."},
        {"number": 5, "text": "Other."},
    ]
    documents, drops = read(plain, put(folder / "deep" / "a.jsonl.gz", records + bad))
    assert documents[0] == {
        "id": "plain:ward notes:1",
        "text": "One.",
        "source": "plain",
        **CARD,
        "meta": {"collection": "ward notes", "year": "2001"},
    }
    assert documents[1]["id"] == "plain:ward notes:b" and len(documents) == 2
    assert drops == {"no object with a text in note": 2, "empty text": 1, "no 'number'": 2}


def test_plain_parquet(tmp_path):
    sidecar(tmp_path)
    table = pyarrow.table({"text": ["One.", None, " ", "Two."], "blob": [b"\xff"] * 4})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    [file] = plain.files(tmp_path)
    documents, drops = read(plain, file)
    assert [d["text"] for d in documents] == ["One.", "Two."] and drops == {
        "no object with a text in text": 1,
        "empty text": 1,
    }
    assert len({d["id"] for d in documents}) == 2 and all(
        d["id"].startswith(f"plain:{tmp_path.name}:") for d in documents
    )
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BadInput, match="a.parquet: not whole Parquet"):
        read(plain, file)


def test_plain_names_a_column_that_is_not_there(tmp_path):
    sidecar(tmp_path, text="note")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["One."]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="a.parquet: no column 'note' .found: text"):
        read(plain, tmp_path / "a.parquet")


def test_the_nearest_sidecar_is_the_one_for_a_file(tmp_path):
    sidecar(tmp_path)
    sidecar(tmp_path / "open", access="public", domain="general")
    files = [
        put(tmp_path / "a.jsonl", [{"text": "One."}]),
        put(tmp_path / "open" / "b.jsonl", [{"text": "Two."}]),
    ]
    assert plain.files(tmp_path) == files
    assert [plain.card(file)["access"] for file in files] == ["credentialed", "public"]
    assert [read(plain, file)[0][0]["access"] for file in files] == ["credentialed", "public"]


def test_nobody_guesses_an_access_class(tmp_path):
    put(tmp_path / "a.jsonl", [{"text": "One."}])
    with pytest.raises(
        BadInput, match="no source.yaml beside it says its domain, licence and access. Next: write one"
    ):
        plain.files(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"access": None}, "access: must be one of public, gated, credentialed, found None"),
        ({"license": ""}, "license: must be the license or agreement"),
        ({"access": "open"}, "access: must be one of public, gated, credentialed, found 'open'"),
        ({"domain": "medical"}, "domain: must be one of biomedical, clinical, general, found 'medical'"),
        ({"acess": "public"}, "unknown key 'acess'"),
        ({"revision": "0" * 40}, "unknown key 'revision'"),
        ({"meta": "year"}, "meta: must be a list of further columns"),
    ],
)
def test_a_sidecar_that_says_too_little_or_something_else_is_refused(tmp_path, settings, message):
    path = sidecar(tmp_path, **settings)
    put(tmp_path / "a.jsonl", [{"text": "One."}])
    with pytest.raises(BadInput, match=f"source.yaml: {message}"):
        plain.files(tmp_path)
    path.write_text("access: [unclosed")
    with pytest.raises(BadInput, match="source.yaml: not YAML"):
        plain.files(tmp_path)
    path.write_text("")
    with pytest.raises(BadInput, match="source.yaml: domain: missing, must be one of biomedical"):
        plain.files(tmp_path)


# --- the Hub ---


def classes(manifest, out) -> set:
    lines = [
        json.loads(line)
        for path in out.rglob("*.jsonl.gz")
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    return {
        manifest["access"],
        *(entry["access"] for entry in manifest["inputs"]),
        *(line["access"] for line in lines),
    }


def test_a_corrected_sidecar_makes_a_complete_folder_anew(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    put(raw / "a.jsonl", [{"text": "One.", "body": "Two."}])
    sidecar(raw, access="public")
    assert classes(build_documents.build([("plain", raw)], out), out) == {"public"}
    sidecar(raw, access="gated")
    assert classes(build_documents.build([("plain", raw)], out), out) == {"gated"}
    sidecar(raw, access="gated", text="body")
    build_documents.build([("plain", raw)], out)
    assert b"Two." in gzip.decompress((out / "plain/a.jsonl.gz").read_bytes())


def test_a_build_that_goes_on_mixes_no_classes(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    put(raw / "a.jsonl", [{"text": "One."}])
    put(raw / "b.jsonl.gz", "").write_bytes(b"\x1f\x8b broken")
    sidecar(raw, access="public")
    with pytest.raises(BadInput, match="b.jsonl.gz"):
        build_documents.build([("plain", raw)], out)
    put(raw / "b.jsonl.gz", [{"text": "Two."}])
    sidecar(raw, access="gated")
    assert classes(build_documents.build([("plain", raw)], out), out) == {"gated"}


def test_a_sidecar_of_the_hub_is_known_by_its_bytes_too(tmp_path):
    settings = {"dataset": "lab/notes", "revision": "0" * 40, "split": "train"}
    file = sidecar(tmp_path, **settings)
    before, time = build_documents.stamp("hub", file), file.stat().st_mtime_ns
    sidecar(tmp_path, **settings, license="mine")
    os.utime(file, ns=(time, time))
    after = build_documents.stamp("hub", file)
    assert before[:3] == after[:3] and before != after


def test_hub_reads_a_folder_as_it_reads_the_hub(tmp_path):
    put(
        tmp_path / "data" / "train.jsonl",
        [{"body": "One.", "key": "a"}, {"body": None, "key": "b"}, {"body": "Two.", "key": "c"}],
    )
    sidecar(
        tmp_path,
        dataset="data",
        revision="local copy of 2024-05-01",
        split="train",
        text="body",
        id="key",
        domain="general",
        access="gated",
    )
    [file] = hub.files(tmp_path)
    documents, drops = read(hub, file)
    assert file.name == "source.yaml" and hub.card(file) == {
        "domain": "general",
        "license": "ours",
        "access": "gated",
    }
    assert [(d["id"], d["text"], d["access"]) for d in documents] == [
        ("hub:data/train:a", "One.", "gated"),
        ("hub:data/train:c", "Two.", "gated"),
    ]
    assert documents[0]["meta"] == {"collection": "data/train", "revision": "local copy of 2024-05-01"}
    assert drops == {"no object with a text in body": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "dataset: missing"),
        ({"dataset": "lab/notes", "split": "train"}, "revision: missing"),
        (
            {"dataset": "lab/notes", "split": "train", "revision": "main"},
            "revision 'main' must be a commit of 40 hexadecimal digits",
        ),
        ({"dataset": "lab/notes", "revision": "0" * 40}, "split: missing"),
    ],
)
def test_hub_needs_a_name_a_commit_and_a_split(tmp_path, settings, message):
    sidecar(tmp_path, **settings)
    with pytest.raises(BadInput, match=f"source.yaml: {message}"):
        hub.files(tmp_path)


def test_hub_dataset_that_cannot_be_had_is_named(tmp_path):
    sidecar(tmp_path, dataset="lab/notes", revision="0" * 40, split="train")
    [file] = hub.files(tmp_path)
    with pytest.raises(BadInput, match="source.yaml: lab/notes cannot be read"):
        read(hub, file)
