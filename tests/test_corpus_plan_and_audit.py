"""The plan says what a corpus will give before it is built, and the audit finds each way in which blocks can differ from their manifest."""

import gzip
import json

import datasets
import huggingface_hub
import numpy as np
import pytest
import yaml

from data_prep import build_blocks, build_documents, corpus_audit, corpus_plan, make_demo_backbone
from data_prep.contracts import BadInput
from data_prep.files import sha256

RNG = np.random.default_rng(0)
WORDS = np.array(["heart", "lung", "pain", "fever", "daily", "mg", "patient", "town", "river", "boat", "the", "of", "given"])
MIXTURE = {
    "block_length": 32,
    "tokens": 40_000,
    "ratio": {"biomedical": 15, "clinical": 1, "general": 4},
    "fill": "best_fit",
    "validation_share": 0.1,
    "seed": 0,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for source, domain, access, count in (
        ("a", "biomedical", "public", 300),
        ("b", "clinical", "credentialed", 12),
        ("c", "general", "public", 200),
    ):
        folder = root / "raw" / source
        folder.mkdir(parents=True)
        (folder / "source.yaml").write_text(yaml.safe_dump({"domain": domain, "license": f"licence {source}", "access": access, "id": "n"}))
        lines = [{"n": f"{source}{i}", "text": " ".join(RNG.choice(WORDS, RNG.integers(5, 120)))} for i in range(count)]
        (folder / f"{source}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sources = [("plain", root / "raw" / source) for source in "abc"]
    build_documents.build(sources, root / "documents")
    make_demo_backbone.main(["--documents", str(root / "documents"), "--out", str(root / "backbone"), "--vocab_size", "400"])
    (root / "mixture.yaml").write_text(yaml.safe_dump(MIXTURE))
    return root


@pytest.fixture
def blocks(world, tmp_path):
    build_blocks.build(world / "documents", str(world / "backbone"), MIXTURE, tmp_path / "blocks")
    return tmp_path / "blocks"


def test_blocks_that_are_what_they_say_pass(blocks):
    files, order, pieces = corpus_audit.audit(blocks)
    assert "11 hashes agree" in files and "every prefix of 1,000 blocks or more" in order and "are what the tokenizer gives" in pieces


def rewrite(blocks, change):
    path = blocks / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def one_byte(blocks):
    path = next(blocks.glob("train/general/*.arrow"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def missing(blocks):
    next(blocks.glob("train/clinical/*.arrow")).unlink()


def other_order(blocks):
    order = np.load(blocks / "order.npy")
    np.save(blocks / "order.npy", order[::-1])
    rewrite(blocks, lambda m: m["order"].update(sha256=sha256(blocks / "order.npy")))


def other_ratio(blocks):
    rewrite(blocks, lambda m: m["arguments"]["mixture"]["ratio"].update(general=5))


def other_ids(blocks):
    path = next(blocks.glob("train/general/*.ids.txt.gz"))
    ids = gzip.decompress(path.read_bytes()).decode().split("\n")
    path.write_bytes(gzip.compress("\n".join([*ids[1:-1], ids[0], ""]).encode()))
    rewrite(
        blocks,
        lambda m: [
            o.update(ids_sha256=sha256(path)) for o in m["outputs"] if str(path).endswith(o["path"].replace(".arrow", ".ids.txt.gz"))
        ],
    )


@pytest.mark.parametrize(
    "tamper, said",
    [
        (one_byte, "not the bytes that the manifest lists"),
        (missing, "missing, and the manifest lists it"),
        (other_order, "not the order that the blocks, the ratio and the seed give"),
        (other_ratio, "not the order that the blocks, the ratio and the seed give"),
        (other_ids, "are not those of document"),
    ],
)
def test_the_audit_finds(blocks, tamper, said):
    tamper(blocks)
    with pytest.raises(BadInput, match=said):
        corpus_audit.audit(blocks)
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        corpus_audit.main([str(blocks)])


def test_the_card_is_one_that_the_hub_reads_and_datasets_loads(blocks, tmp_path):
    card = huggingface_hub.DatasetCard.load(blocks / "README.md")
    assert card.data.license == "other" and card.data.size_categories == ["n<1K"]
    text = (blocks / "README.md").read_text()
    assert "must not leave the site" in text and "| plain | clinical | 12 | 664 | licence b | credentialed |" in text
    rows = datasets.load_dataset(str(blocks), split="train", cache_dir=str(tmp_path / "cache"))
    manifest = json.loads((blocks / "manifest.json").read_text())
    assert len(rows) == sum(o["records"] for o in manifest["outputs"] if o["split"] == "train")


def test_the_plan_agrees_with_what_is_then_built(world, blocks, capsys):
    arguments = [a for source in "abc" for a in ("--source", f"plain={world / 'raw' / source}")]
    corpus_plan.main([*arguments, "--tokenizer", str(world / "backbone"), "--mixture", str(world / "mixture.yaml")])
    said = capsys.readouterr().out
    manifest = json.loads((blocks / "manifest.json").read_text())
    for domain, totals in manifest["domains"].items():
        line = next(line for line in said.splitlines() if line.startswith(domain))
        target, found, passes = (float(cell.replace(",", "")) for cell in line.split()[1:])
        assert target == 40_000 * MIXTURE["ratio"][domain] / 20
        assert found == totals["tokens"] + totals["validation_tokens"] and passes == pytest.approx(target / found, abs=0.01)
    assert "core-seconds" in said and "credentialed" in said


def test_the_plan_warns_of_text_that_repeats_and_of_a_domain_without_text(world, capsys):
    (world / "long.yaml").write_text(yaml.safe_dump(MIXTURE | {"tokens": 4_000_000}))
    corpus_plan.main(
        ["--source", f"plain={world / 'raw' / 'a'}", "--tokenizer", str(world / "backbone"), "--mixture", str(world / "long.yaml")]
    )
    said = capsys.readouterr().out
    assert "warning: biomedical text would be repeated" in said and "warning: no clinical source" in said


def test_the_plan_of_the_article(capsys):
    corpus_plan.main(["--mixture", "data_prep/mixtures/paper.yaml"])
    said = capsys.readouterr().out
    assert all(number in said for number in ("96,750,000,000", "6,450,000,000", "25,800,000,000", "258.0 GB"))


@pytest.mark.parametrize(
    "arguments, said",
    [(["--source", "plain=x"], "needs --tokenizer"), (["--source", "plane=x", "--tokenizer", "t"], "no tokenizer here|NAME=PATH")],
)
def test_a_plan_that_cannot_be_made_is_one_sentence(world, arguments, said):
    with pytest.raises(SystemExit, match=f"error: .*({said})"):
        corpus_plan.main([*arguments, "--mixture", str(world / "mixture.yaml")])
