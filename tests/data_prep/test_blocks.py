"""Packing loses nothing, the mixture holds in every prefix, and what the recipe reads is what was written."""

import gzip
import hashlib
import json

import datasets
import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from data_prep import build_blocks
from data_prep.build_blocks import fill_best_fit, fill_concat, held_out, mix, read_mixture, shuffled
from data_prep.corpus.audit import audit, check_order
from data_prep.demo import backbone
from data_prep.files import whole_folder, write_jsonl
from data_prep.manifest import describe, write_manifest
from data_prep.schema import BadInput

MIXTURE = {
    "block_length": 32,
    "tokens": 8000,
    "ratio": {"biomedical": 15, "clinical": 1, "general": 4},
    "fill": "best_fit",
    "validation_share": 0.1,
    "seed": 0,
}


def write_documents(folder):
    words = [
        "the",
        "heart",
        "lung",
        "liver",
        "pain",
        "fever",
        "given",
        "daily",
        "mg",
        "patient",
        "town",
        "river",
        "boat",
    ]
    with whole_folder(folder) as out:
        outputs = []
        for domain, count in (("biomedical", 60), ("clinical", 20), ("general", 40)):
            rng = np.random.default_rng(len(domain))
            documents = [
                {"id": f"{domain}:{i}", "text": " ".join(rng.choice(words, rng.integers(3, 90))), "source": domain[:3], "domain": domain,
                 "license": "CC0", "access": "gated" if domain == "clinical" else "public", "meta": {}}
                for i in range(count)
            ]  # fmt: skip
            path = out / domain[:3] / "0.jsonl.gz"
            outputs.append(
                describe(out, path, records=write_jsonl(path, documents), domain=domain, source=domain[:3])
            )
        inputs = [
            {"source": d[:3], "path": d, "license": "CC0", "access": "gated" if d == "clinical" else "public"}
            for d in MIXTURE["ratio"]
        ]
        write_manifest(out, stage="build_documents", arguments={}, inputs=inputs, dropped={}, outputs=outputs)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("blocks")
    write_documents(root / "documents")
    backbone.main(
        ["--documents", str(root / "documents"), "--out", str(root / "backbone"), "--vocab_size", "400"]
    )
    (root / "mixture.yaml").write_text(yaml.safe_dump(MIXTURE))
    return root


def run(root, out, mixture="mixture.yaml"):
    arguments = [
        "--documents",
        root / "documents",
        "--tokenizer",
        root / "backbone",
        "--mixture",
        root / mixture,
        "--out",
        out,
    ]
    build_blocks.main([str(a) for a in arguments])
    return json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize("fill", [fill_best_fit, fill_concat])
@pytest.mark.parametrize("lengths", [[3, 5, 40, 1, 8, 8, 8], [1], [16], [17], list(range(1, 60))])
@pytest.mark.guarantee("Corpus", "Every token of a document is in exactly one block.")
def test_every_token_is_in_exactly_one_block(fill, lengths):
    ends = np.cumsum(lengths)
    blocks = fill(ends, 16)
    tokens = [t for spans in blocks for start, stop in spans for t in range(start, stop)]
    assert sorted(tokens) == list(range(ends[-1]))
    assert all(0 < sum(stop - start for start, stop in spans) <= 16 for spans in blocks)
    inside = [sum(start < end < stop for end in ends) for spans in blocks for start, stop in spans]
    assert not any(inside), "a span never crosses the end of a document"


def test_best_fit_keeps_short_documents_whole_and_wastes_little():
    lengths = np.random.default_rng(0).integers(1, 200, 2000)
    ends = np.cumsum(lengths)
    blocks = fill_best_fit(ends, 256)
    spans = {span for block in blocks for span in block}
    assert all(
        (end - length, end) in spans for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
    )
    assert len(blocks) * 256 < 1.01 * ends[-1]


def test_every_prefix_of_the_order_holds_the_ratio():
    sizes = {"biomedical": 3000, "clinical": 90, "general": 2500}
    order, rows = mix(
        {domain: np.ones(size, np.int64) for domain, size in sizes.items()}, MIXTURE["ratio"], 8000, seed=1
    )
    assert {domain: len(taken) for domain, taken in rows.items()} == {
        "biomedical": 6000,
        "clinical": 400,
        "general": 1600,
    }
    domain = np.digitize(order, np.cumsum(list(sizes.values())))
    for d, weight in enumerate(MIXTURE["ratio"].values()):
        error = np.abs(np.cumsum(domain == d) - np.arange(1, len(order) + 1) * weight / 20)
        assert error.max() <= 1, "never more than one block away from 15:1:4"
    counts = np.bincount(order, minlength=5590)
    assert counts[:3000].tolist() == [2] * 3000, "two whole passes, each block once in each"
    assert set(counts[3000:3090]) == {4, 5}


@pytest.mark.parametrize("ratio", [(15, 1, 4), (99, 0.5, 0.5), (1, 1, 1)])
@pytest.mark.guarantee(
    "Corpus", "Every prefix of at least 1,000 blocks holds the ratio in tokens within 0.1 percentage point."
)
def test_every_prefix_of_1000_blocks_holds_the_ratio_in_tokens(ratio):
    rng = np.random.default_rng(
        0
    )  # blocks of best_fit: nearly full; blocks that are far from it in one domain
    used = {
        "biomedical": rng.integers(4000, 4097, 9000),
        "clinical": rng.integers(2000, 4097, 900),
        "general": rng.integers(3900, 4097, 3000),
    }
    ratio = dict(zip(used, ratio, strict=True))
    order, _ = mix(used, ratio, 80_000_000, seed=3)
    tokens, domain = (
        np.concatenate(list(used.values()))[order],
        np.digitize(order, np.cumsum([len(u) for u in used.values()])),
    )
    total = np.cumsum(tokens)[999:]
    assert len(total) > 10_000
    for d, weight in enumerate(ratio.values()):
        share = np.cumsum(np.where(domain == d, tokens, 0))[999:] / total
        assert np.abs(share - weight / sum(ratio.values())).max() < 0.001


@pytest.mark.guarantee(
    "Corpus",
    "The training order is a function of manifest and seed alone, and the blocks do not depend on the "
    "number of workers.",
)
def test_the_order_is_a_function_of_the_seed_alone():
    arguments = ({"general": np.ones(500, np.int64)}, {"general": 1}, 1000)
    first, again, other = (mix(*arguments, seed=seed)[0] for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert hashlib.sha256(first.tobytes()).hexdigest()[:12] == ORDER_HASH, (
        "the shuffle changed: every running experiment would lose its place"
    )
    assert sorted(shuffled(1000, "k")) == list(range(1000))


ORDER_HASH = "b2a44f5123ba"


def test_blocks_on_disk_are_the_documents(folders, tmp_path):
    from transformers import AutoTokenizer

    manifest = run(folders, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(folders / "backbone")
    texts = []
    for output in manifest["outputs"]:
        rows = datasets.Dataset.from_file(str(tmp_path / "out" / output["path"]))
        assert len(rows) == output["records"] and rows.features["input_ids"].feature.dtype == "uint16"
        for row in rows:
            assert sum(row["seq_lengths"]) <= 32 == len(row["input_ids"])
            start = 0
            for length in row["seq_lengths"]:
                texts.append(row["input_ids"][start : start + length])
                start += length
    whole = [ids for ids in texts if ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id]
    from data_prep.files import read_jsonl

    written = {d["text"] for file in (folders / "documents").rglob("*.jsonl.gz") for _, d in read_jsonl(file)}
    decoded = [tokenizer.decode(ids, skip_special_tokens=True) for ids in whole]
    assert len(decoded) > 20 and set(decoded) <= written
    assert sum(ids[0] == tokenizer.bos_token_id for ids in texts) == 120, (
        "one BOS for each document, none for the rest of a split one"
    )
    assert manifest["access"] == "gated" and manifest["domains"]["clinical"]["passes"] > 0
    shares = [manifest["domains"][d]["share"] for d in MIXTURE["ratio"]]
    assert shares == pytest.approx([0.75, 0.05, 0.2], abs=0.01)
    assert len(np.load(tmp_path / "out" / "order.npy")) == manifest["order"]["blocks"]


def test_same_input_same_bytes_and_validation_is_apart(folders, tmp_path, capsys):
    first, second = run(folders, tmp_path / "a"), run(folders, tmp_path / "b")
    assert first["outputs"] == second["outputs"] and first["order"] == second["order"]
    manifest = folders / "documents" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("{\n", '{\n "egress": "hook",\n', 1))
    run(folders, tmp_path / "a")  # the wall under which the documents were made is no other data
    assert "a: already complete" in capsys.readouterr().out
    (folders / "general.yaml").write_text(
        yaml.safe_dump(MIXTURE | {"ratio": {"general": 1}, "tokens": 900, "seed": 5})
    )
    alone = run(folders, tmp_path / "c", "general.yaml")
    held = [o["sha256"] for o in first["outputs"] if o["split"] == "validation" and o["domain"] == "general"]
    assert held == [o["sha256"] for o in alone["outputs"] if o["split"] == "validation"], (
        "the same documents are held out of every mixture"
    )
    assert 0.05 < np.mean([held_out("s", str(i), 0.1) for i in range(2000)]) < 0.15


def test_one_pass_takes_every_block_once(folders, tmp_path):
    (folders / "one_pass.yaml").write_text(
        yaml.safe_dump(MIXTURE | {"ratio": "as_found", "tokens": "one_pass"})
    )
    manifest = run(folders, tmp_path / "out", "one_pass.yaml")
    order = np.load(tmp_path / "out" / "order.npy")
    assert sorted(order) == list(
        range(sum(o["records"] for o in manifest["outputs"] if o["split"] == "train"))
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocklength": 3}, "unknown key 'blocklength'"),
        ({"tokens": "many"}, "tokens: must be a whole number, or one_pass, found 'many'"),
        ({"ratio": {"medical": 1}}, "ratio: must be as_found"),
        ({"ratio": {}}, "ratio: must be as_found"),
        ({"ratio": {"biomedical": 0}}, "above 0"),
        ({"fill": "truncate"}, "fill: must be best_fit, long_first or concat"),
        ({"seed": None}, "seed: must be a whole number"),
        ({"block_length": 0}, "block_length: must be a whole number of at least 2"),
        ({"validation_share": 1}, "validation_share: must be a share"),
    ],
)
def test_a_wrong_mixture_is_named_by_key(tmp_path, change, said):
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(MIXTURE | change))
    with pytest.raises(BadInput, match=f"m.yaml.*{said}"):
        read_mixture(tmp_path / "m.yaml")


def test_missing_inputs_leave_no_folder(folders, tmp_path):
    with pytest.raises(SystemExit, match="no such file. Next: python -m data_prep.build_documents"):
        build_blocks.main(
            [
                "--documents",
                str(tmp_path),
                "--tokenizer",
                "x",
                "--mixture",
                str(folders / "mixture.yaml"),
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- long documents
def test_long_documents_come_first_and_notes_of_a_patient_are_one(tmp_path):
    """Of each domain the run takes the blocks with the longest documents, in the ratio; the notes of a patient
    are one document in the order of their dates; the audit agrees, and the card says the lengths."""
    rng, names = np.random.default_rng(0), ("the", "heart", "lung", "pain", "fever")
    with whole_folder(tmp_path / "documents") as out:
        outputs, inputs = [], []
        for domain in MIXTURE["ratio"]:
            facts = {"source": domain[:3], "domain": domain, "license": "CC0", "access": "public"}
            documents = [
                {
                    "id": f"{domain}:{i}",
                    "text": " ".join(rng.choice(names, 700 if i % 4 == 0 else 9)),
                    **facts,
                }
                for i in range(200)
            ]
            for i, document in enumerate(documents):
                document["meta"] = {}
                if domain == "clinical":  # three notes of each, the last first in the file
                    document["meta"] = {"subject_id": str(i // 3), "charttime": f"2150-01-0{3 - i % 3}"}
                    document["text"] = f"note {3 - i % 3} " * 40
            path = out / domain[:3] / "0.jsonl.gz"
            described = {"records": write_jsonl(path, documents), "domain": domain, "source": domain[:3]}
            outputs.append(describe(out, path, **described))
            inputs.append({**facts, "path": domain})
        write_manifest(out, stage="build_documents", arguments={}, inputs=inputs, dropped={}, outputs=outputs)
    arguments = ["--documents", str(tmp_path / "documents"), "--out", str(tmp_path / "backbone")]
    backbone.main([*arguments, "--vocab_size", "300"])
    folder = tmp_path / "blocks"
    shares = {}
    for fill in ("long_first", "best_fit"):
        mixture = {**MIXTURE, "block_length": 1024, "tokens": 40_000, "fill": fill}
        (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(mixture))
        build_blocks.main([f"--{name}={tmp_path / path}" for name, path in (
            ("documents", "documents"), ("tokenizer", "backbone"), ("mixture", "mixture.yaml"),
            ("out", "blocks" if fill == "long_first" else "usual"))])  # fmt: skip
        facts = json.loads(
            ((tmp_path / "usual" if fill == "best_fit" else folder) / "manifest.json").read_text()
        )
        counts = facts["domains"]["biomedical"]["tokens_by_length"]
        shares[fill] = 1 - counts["0"] / sum(counts.values())
        found = {domain: facts["domains"][domain]["share"] for domain in MIXTURE["ratio"]}
        assert found == pytest.approx({"biomedical": 0.75, "clinical": 0.05, "general": 0.2}, abs=0.02)
    assert shares["long_first"] > shares["best_fit"] + 0.02

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "backbone")
    clinical = next(folder.glob("train/clinical/*.arrow"))
    text = tokenizer.decode(datasets.Dataset.from_file(str(clinical))[0]["input_ids"])
    first, second, third = (text.index(f"note {n} ") for n in (1, 2, 3))
    assert first < second < third
    names = (
        gzip.decompress(next(folder.glob("train/clinical/*.ids.txt.gz")).read_bytes()).decode().split("\n")
    )
    assert len(names) - 1 < 67 and all(name.startswith("patient ") for name in names[:-1])
    assert any("taken at random" in line for line in audit(folder, 8, 0))
    assert "| tokens of the document in its block |" in (folder / "README.md").read_text()
    with pytest.raises(BadInput, match="order"):
        order = np.load(folder / "order.npy")
        np.save(folder / "order.npy", order[::-1])
        check_order(folder, json.loads((folder / "manifest.json").read_text()))
