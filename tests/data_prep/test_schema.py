"""The document, the row, opening files and writing folders: what is refused, and with which words."""

import gzip
import json

import pytest
import zstandard

from data_prep import build_cases, build_documents, build_instructions, build_tasks
from data_prep.files import open_bytes, open_text, read_json, read_jsonl, read_yaml, whole_folder, write_jsonl
from data_prep.manifest import Drops, describe, read_manifest, write_manifest
from data_prep.schema import (
    BadInput,
    CleaningPlan,
    Mixture,
    check_document,
    check_row,
    load,
    parse,
    strictest,
)

DOCUMENT = {
    "id": "a:1",
    "text": "x",
    "source": "a",
    "domain": "general",
    "license": "MIT",
    "access": "public",
    "meta": {},
}
ROW = {"id": "t:1", "task": "t", "split": "test", "prompt": "Is it?\n", "completion": "yes", "scoring": "choice",
       "choices": ["yes", "no"], "source": "t", "license": "MIT", "access": "public"}  # fmt: skip
CHAT = {key: ROW[key] for key in ("id", "task", "split", "source", "license", "access")} | {"scoring": "none"}


def test_a_right_document_and_row_pass():
    assert check_document(DOCUMENT, "f") is DOCUMENT
    assert check_row(ROW, "f") is ROW
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    assert check_row(CHAT | {"messages": turns}, "f")
    assert check_row(ROW | {"question": "q", "options": ["a", "b"]}, "f")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"domain": "medical"}, "'domain' is 'medical'"),
        ({"access": "secret"}, "'access' is 'secret'"),
        ({"text": " "}, "'text' is empty"),
        ({"id": "a:1\r"}, "'id' holds a line end"),
        ({"id": "a:\x851"}, "'id' holds a line end"),
        ({"id": "a:1\u2028b"}, "'id' holds a line end"),
        ({"meta": None}, "'meta' must be dict"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_a_wrong_document_is_named_by_place_and_field(change, said):
    with pytest.raises(BadInput, match=f"file: record 3.*{said}"):
        check_document(DOCUMENT | change, "file: record 3")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROW | {"completion": "maybe"}, "'maybe' is not among the choices"),
        (ROW | {"prompt": "no newline"}, "must be text that ends in a newline"),
        (ROW | {"completion": ""}, "'completion' is missing or empty"),
        (ROW | {"split": "dev"}, "'split' is 'dev'"),
        (ROW | {"choices": []}, "needs 'choices'"),
        (ROW | {"question": "q", "options": ["a"]}, "'options' needs"),
        (ROW | {"choices": ["no", "no"], "completion": "no"}, "a label twice"),
        (
            ROW | {"choices": ["①", "②"], "completion": "①", "question": "q", "options": ["a", "b"]},
            "'①' is no letter or number",
        ),
        (CHAT, "either 'prompt' and 'completion' or 'messages'"),
        (CHAT | {"messages": [{"role": "user", "content": "u"}]}, "must alternate"),
        (
            CHAT | {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "u"}]},
            "must alternate",
        ),
        (CHAT | {"messages": []}, "must alternate"),
    ],
)
def test_a_wrong_row_is_named_by_place_and_field(row, said):
    with pytest.raises(BadInput, match=f"file: record 3.*{said}"):
        check_row(row, "file: record 3")


def test_the_strictest_access_wins():
    assert strictest(["public", "credentialed", "gated"]) == "credentialed"
    assert strictest([]) == "public"


def test_compressed_files_read_alike(tmp_path):
    lines = b'{"a": 1}\n\n{"a": 2}\n'
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + lines)
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(lines))
    frames = zstandard.ZstdCompressor().compress(lines[:9]) + zstandard.ZstdCompressor().compress(lines[9:])
    (tmp_path / "z.jsonl.zst").write_bytes(frames)  # two frames, as zstd -T writes them
    for path in tmp_path.iterdir():
        assert list(read_jsonl(path)) == [(1, {"a": 1}), (3, {"a": 2})], path


def cut(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("empty.jsonl", b"", "empty"),
        ("pointer.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (
            "cut.jsonl.gz",
            cut(gzip.compress(b'{"a": "' + bytes(range(97, 123)) * 400 + b'"}\n', mtime=0)),
            "cannot be read to its end",
        ),
        (
            "cut.jsonl.zst",
            cut(zstandard.compress(json.dumps(list(range(5000))).encode())),
            "cannot be read to its end",
        ),
        ("not.jsonl.gz", b"not gzip at all", "cannot be read to its end"),
        ("bad.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
    ],
)
@pytest.mark.guarantee("Files", "A damaged file is refused by name.")
def test_a_damaged_file_is_refused_by_name(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=f"{name}.*{said}"):
        list(read_jsonl(tmp_path / name))


def test_missing_file_and_bad_encoding(tmp_path):
    with pytest.raises(BadInput, match="nothing.json: no such file"):
        read_json(tmp_path / "nothing.json")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with (
        pytest.raises(BadInput, match="latin.txt: line 1 is not UTF-8"),
        open_text(tmp_path / "latin.txt") as text,
    ):
        text.read()


def test_an_error_of_the_caller_is_not_blamed_on_the_file(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(BadInput, match="my words"), open_bytes(tmp_path / "a.txt"):
        raise BadInput("my words")


@pytest.mark.guarantee("Files", "An output exists whole or not at all; a failed build keeps the earlier one.")
def test_a_folder_exists_whole_or_not_at_all(tmp_path):
    with whole_folder(tmp_path / "out") as out:
        (out / "a").write_text("1")
    with pytest.raises(BadInput, match="holds files and no manifest.json"), whole_folder(tmp_path / "out"):
        pass
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "out", mark="a") as out:
        (out / "b").write_text("2")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


@pytest.mark.parametrize("below", ["", "below"])
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (build_documents, ["--source", "redpajama=RAW/good.jsonl"]),
        (build_tasks, ["--raw", "RAW"]),
        (build_instructions, ["--raw", "RAW", "--sources", "sharegpt"]),
        (build_cases, ["--source", "cases=RAW/bad.jsonl"]),
    ],
)
def test_an_output_that_is_a_file_is_left_alone_before_anything_is_read(tmp_path, command, arguments, below):
    raw, out = tmp_path / "raw", tmp_path / "thesis"
    for name, content in (
        ("good.jsonl", '{"text": "x"}'),
        ("bad.jsonl", "{"),
        ("medqa/US/test.jsonl", "{"),
        ("sharegpt/a.json", "{"),
    ):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text(content)
    out.write_text("years of work")
    with pytest.raises(
        SystemExit, match="error: .*thesis: is a file, and the output is a folder. Next: another --out"
    ):
        command.main(
            [*(argument.replace("RAW", str(raw)) for argument in arguments), "--out", str(out / below)]
        )
    assert out.read_text() == "years of work" and sorted(tmp_path.iterdir()) == [raw, out]


def test_same_records_same_bytes_and_a_manifest_that_says_so(tmp_path):
    with whole_folder(tmp_path / "out") as out:
        first, second = out / "1.jsonl.gz", out / "2.jsonl.gz"
        assert write_jsonl(first, [{"a": "é"}]) == 1
        write_jsonl(second, [{"a": "é"}])
        drops = Drops()
        drops.add("s", "empty", "f: record 1")
        drops.add("s", "empty", "f: record 2")
        inputs = [
            {"path": "x", "license": "MIT", "access": "gated"},
            {"path": "y", "license": "CC0", "access": "public"},
        ]
        outputs = [describe(out, first, records=1), describe(out, second, records=1)]
        write_manifest(out, stage="s", arguments={}, inputs=inputs, dropped=drops.as_dict(), outputs=outputs)
    manifest = read_manifest(tmp_path / "out", made_by="python -m this")
    assert manifest["access"] == "gated" and manifest["licenses"] == ["CC0", "MIT"]
    assert manifest["outputs"][0]["sha256"] == manifest["outputs"][1]["sha256"]
    assert manifest["dropped"] == {
        "s": {"empty": {"count": 2, "first": "f: record 1", "where": ["f: record 1", "f: record 2"]}}
    }
    with pytest.raises(BadInput, match="Next: python -m this"):
        read_manifest(tmp_path / "none", made_by="python -m this")


# ---------------------------------------------------------------- YAML
WHOLE = "block_length: 8\ntokens: one_pass\nratio: as_found\nfill: concat\nvalidation_share: 0\nseed: 0\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "seed: 1\nblock_length: 2\nseed: 3\n",
            "m.yaml: not YAML .key 'seed' is in line 1 and again in line 3",
        ),
        ("ratio: {biomedical: 1, biomedical: 2}\n", "key 'biomedical' is in line 1 and again in line 1"),
        (f"{WHOLE}seeds: 2\n", "m.yaml: unknown key 'seeds' .known: block_length, tokens"),
        ("- 1\n", "m.yaml: must be keys and values, found list"),
    ],
)
def test_a_mixture_that_cannot_be_read_is_one_sentence(tmp_path, text, said):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(BadInput, match=said):
        load(tmp_path / "m.yaml", Mixture)


def test_only_true_and_false_are_booleans_in_our_yaml(tmp_path):
    (tmp_path / "a.yaml").write_text("a: no\nb: [yes, off, On]\nc: true\nd: False\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": "no", "b": ["yes", "off", "On"], "c": True, "d": False}
    said = "ids: must be a valid boolean, found 'no' .only true and false are booleans here"
    with pytest.raises(BadInput, match=f"plan: decontamination: {said}"):
        parse({"decontamination": {"ids": "no"}}, CleaningPlan, "plan")


def test_a_file_that_no_yaml_was_copied_to_names_the_example(tmp_path):
    with pytest.raises(BadInput, match="no such file. Next: copy this.yaml and fill it in"):
        load(tmp_path / "none.yaml", Mixture, example="this.yaml")


def test_errors_about_rows_quote_no_long_text():
    with pytest.raises(BadInput) as raised:
        check_row(ROW | {"split": "The patient was seen in the ward."}, "f")
    assert "patient" not in str(raised.value) and "'split' is a longer text" in str(raised.value)
