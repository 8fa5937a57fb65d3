"""The plan says what a corpus will give before it is built, and the audit finds each way in which blocks can
differ from their manifest."""

import gzip
import json
import zipfile

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet
import pytest
import yaml

from data_prep import build_blocks, build_documents, egress
from data_prep.corpus import audit, estimate
from data_prep.corpus.tokenize import DocumentTokenizer
from data_prep.demo import backbone
from data_prep.files import sha256
from data_prep.schema import BadInput
from tests.data_prep.test_sources import article_set, citation

RNG = np.random.default_rng(0)
WORDS = np.array(
    [
        "heart",
        "lung",
        "pain",
        "fever",
        "daily",
        "mg",
        "patient",
        "town",
        "river",
        "boat",
        "the",
        "of",
        "given",
    ]
)
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
        (folder / "source.yaml").write_text(
            yaml.safe_dump({"domain": domain, "license": f"licence {source}", "access": access, "id": "n"})
        )
        lines = [
            {"n": f"{source}{i}", "text": " ".join(RNG.choice(WORDS, RNG.integers(5, 120)))}
            for i in range(count)
        ]
        (folder / f"{source}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sources = [("plain", root / "raw" / source) for source in "abc"]
    build_documents.build(sources, root / "documents")
    backbone.main(
        ["--documents", str(root / "documents"), "--out", str(root / "backbone"), "--vocab_size", "400"]
    )
    (root / "mixture.yaml").write_text(yaml.safe_dump(MIXTURE))
    return root


@pytest.fixture
def blocks(world, tmp_path):
    build_blocks.build(world / "documents", str(world / "backbone"), MIXTURE, tmp_path / "blocks")
    return tmp_path / "blocks"


def test_blocks_that_are_what_they_say_pass(blocks):
    files, order, pieces = audit.audit(blocks)
    assert (
        "11 hashes agree" in files
        and "every prefix of 1,000 blocks or more" in order
        and "are what the tokenizer gives" in pieces
    )


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
            o.update(ids_sha256=sha256(path))
            for o in m["outputs"]
            if str(path).endswith(o["path"].replace(".arrow", ".ids.txt.gz"))
        ],
    )


@pytest.mark.parametrize(
    "tamper, said",
    [
        (one_byte, "not the file that its manifest lists"),
        (missing, "missing, and its manifest lists it"),
        (other_order, "not the order that the blocks, the ratio and the seed give"),
        (other_ratio, "not the order that the blocks, the ratio and the seed give"),
        (other_ids, "are not those of document"),
    ],
)
def test_the_audit_finds(blocks, tamper, said):
    tamper(blocks)
    with pytest.raises(BadInput, match=said):
        audit.audit(blocks)
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        audit.main([str(blocks)])


def test_the_audit_is_of_blocks_alone(world):
    with pytest.raises(
        SystemExit, match="documents: made by build_documents, and holds no packed blocks. Next: python -m"
    ):
        audit.main([str(world / "documents")])


def test_the_card_is_one_that_the_hub_reads_and_datasets_loads(blocks, tmp_path):
    card = huggingface_hub.DatasetCard.load(blocks / "README.md")
    assert card.data.license == "other" and card.data.size_categories == ["n<1K"]
    text = (blocks / "README.md").read_text()
    assert (
        "must not leave the site" in text
        and "| plain | clinical | 12 | 664 | licence b | credentialed |" in text
    )
    rows = datasets.load_dataset(str(blocks), split="train", cache_dir=str(tmp_path / "cache"))
    manifest = json.loads((blocks / "manifest.json").read_text())
    assert len(rows) == sum(o["records"] for o in manifest["outputs"] if o["split"] == "train")


def test_the_plan_agrees_with_what_is_then_built(world, blocks, capsys):
    arguments = [a for source in "abc" for a in ("--source", f"plain={world / 'raw' / source}")]
    estimate.main(
        [*arguments, "--tokenizer", str(world / "backbone"), "--mixture", str(world / "mixture.yaml")]
    )
    said = capsys.readouterr().out
    manifest = json.loads((blocks / "manifest.json").read_text())
    for domain, totals in manifest["domains"].items():
        line = next(line for line in said.splitlines() if line.startswith(domain))
        target, found, passes = (float(cell.replace(",", "")) for cell in line.split()[1:])
        assert target == 40_000 * MIXTURE["ratio"][domain] / 20
        assert found == totals["tokens"] + totals["validation_tokens"]
        assert passes == pytest.approx(target / totals["tokens"], abs=0.01)
    assert "core-seconds" in said and "credentialed" in said


def test_the_plan_warns_of_text_that_repeats_and_of_a_domain_without_text(world, capsys):
    (world / "long.yaml").write_text(yaml.safe_dump(MIXTURE | {"tokens": 4_000_000}))
    estimate.main(
        [
            "--source",
            f"plain={world / 'raw' / 'a'}",
            "--tokenizer",
            str(world / "backbone"),
            "--mixture",
            str(world / "long.yaml"),
        ]
    )
    said = capsys.readouterr().out
    assert "warning: biomedical text would be repeated" in said and "warning: no clinical source" in said


def collection(folder, texts, parquet=False, **card):
    """A folder with one file of `texts`, and a source.yaml."""
    folder.mkdir(parents=True)
    (folder / "source.yaml").write_text(
        yaml.safe_dump({"domain": "general", "license": "agreement 7", "access": "public", **card})
    )
    if parquet:
        pyarrow.parquet.write_table(
            pyarrow.table({"text": texts}), folder / "a.parquet", compression="none", use_dictionary=False
        )
    else:
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(folder)


@pytest.fixture
def tokenizer(world):
    return DocumentTokenizer(str(world / "backbone"))


@pytest.fixture
def texts():
    numbers = np.random.default_rng(1)
    return [" ".join(numbers.choice(WORDS, 60)) for _ in range(2000)]


def test_the_first_bytes_of_a_file_have_its_card(tokenizer, texts, tmp_path, monkeypatch):
    path = collection(tmp_path / "raw", texts)
    whole = estimate.sample("plain", path, tokenizer)
    monkeypatch.setattr(estimate, "SAMPLE_BYTES", 50_000)
    head = estimate.sample("plain", path, tokenizer)
    assert head["sampled"] < 0.1 and whole["sampled"] == 1 and not head["open"]
    assert head["tokens"] == pytest.approx(whole["tokens"], rel=0.02) and head["documents"] == pytest.approx(
        2000, rel=0.02
    )


@pytest.mark.parametrize("source", ["plain", "mimic_cxr"])
def test_what_cannot_be_cut_is_read_to_a_number_of_characters(
    tokenizer, texts, tmp_path, monkeypatch, source
):
    path = collection(tmp_path / "raw", texts, parquet=True)
    if source == "mimic_cxr":
        with zipfile.ZipFile(
            tmp_path / "raw" / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED
        ) as archive:
            for number, text in enumerate(texts):
                archive.writestr(f"files/p10/p1/s{50_000_000 + number}.txt", text)
    whole = estimate.sample(source, path, tokenizer)
    monkeypatch.setattr(estimate, "SAMPLE_CHARACTERS", 30_000)
    part = estimate.sample(source, path, tokenizer)
    assert (
        whole["sampled"] == 1 and part["sampled"] < 0.06 and part["documents"] == whole["documents"] == 2000
    )
    assert part["tokens"] == pytest.approx(whole["tokens"], rel=0.03) and not part["open"]


def test_how_much_the_hub_holds_is_said_to_be_unknown(world, texts, tmp_path, monkeypatch, capsys):
    collection(tmp_path / "raw" / "data", texts)
    settings = {
        "dataset": "data",
        "revision": "none",
        "split": "train",
        "domain": "general",
        "license": "l",
        "access": "gated",
    }
    (tmp_path / "raw" / "data" / "source.yaml").unlink()
    (tmp_path / "raw" / "source.yaml").write_text(yaml.safe_dump(settings))
    arguments = [
        "--source",
        f"hub={tmp_path / 'raw'}",
        "--tokenizer",
        str(world / "backbone"),
        "--mixture",
        str(world / "mixture.yaml"),
    ]
    estimate.main(arguments)
    assert ">" not in capsys.readouterr().out, "read to its end"
    monkeypatch.setattr(estimate, "SAMPLE_CHARACTERS", 5_000)
    estimate.main(arguments)
    said = capsys.readouterr().out
    [domain] = [line.split() for line in said.splitlines() if line.startswith("general")]
    [source] = [line.split() for line in said.splitlines() if line.startswith("hub ")]
    assert domain[2] == source[6] == ">" and domain[4] == source[8] == "<" and source[-2:] == ["?", "gated"]
    assert (
        "warning: hub: read to 5,000 characters, and nothing says how much more there is" in said
        and "general text would be repeated" not in said
    )


def test_the_plan_holds_what_is_credentialed_and_names_folders_of_several_domains(tokenizer, texts, tmp_path):
    collection(tmp_path / "raw" / "a", texts[:20])
    collection(tmp_path / "raw" / "b", texts[:20], access="credentialed")
    assert estimate.sample("plain", str(tmp_path / "raw"), tokenizer)[
        "access"
    ] == "credentialed" and egress.agreements() == ["agreement 7"]
    collection(tmp_path / "raw" / "c", texts[:20], domain="clinical")
    with pytest.raises(BadInput, match="holds clinical and general text. Next: one --source"):
        estimate.sample("plain", str(tmp_path / "raw"), tokenizer)


def test_the_backbone_has_the_class_of_the_documents_that_its_words_are_of(world):
    assert json.loads((world / "backbone" / "config.json").read_text())["access"] == "credentialed"


def test_the_plan_of_the_article(capsys):
    estimate.main(["--mixture", "data_prep/mixtures/paper.yaml"])
    said = capsys.readouterr().out
    assert all(number in said for number in ("96,750,000,000", "6,450,000,000", "25,800,000,000", "258.0 GB"))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--source", "plain=x"], "needs --tokenizer"),
        (["--source", "plane=x", "--tokenizer", "t"], "no tokenizer here|NAME=PATH"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_sentence(world, arguments, said):
    with pytest.raises(SystemExit, match=f"error: .*({said})"):
        estimate.main([*arguments, "--mixture", str(world / "mixture.yaml")])


def test_the_plan_leaves_out_records_that_a_later_file_replaces(tokenizer, tmp_path, monkeypatch):
    for number, title in enumerate(("Old.", "New.")):
        records = [citation(str(i), title=title) for i in range(20)]
        (tmp_path / f"pubmed26n000{number + 1}.xml").write_text(article_set(*records))
    planned = estimate.sample("pubmed", tmp_path, tokenizer)
    made = build_documents.build([("pubmed", tmp_path)], tmp_path / "out")
    assert planned["documents"] == sum(output["records"] for output in made["outputs"]) == 20
    apart = [tmp_path / f"pubmed26n000{number}.xml" for number in (1, 2)]
    assert estimate.sample("pubmed", apart, tokenizer)["documents"] == 20, "SOURCES='pubmed=a pubmed=b'"
    monkeypatch.setattr(estimate, "SCAN_BYTES", 10)
    planned = estimate.sample("pubmed", tmp_path, tokenizer)
    assert not planned["scanned"]
    assert "records that a later file replaces are counted twice" in estimate.report(MIXTURE, [planned], 2)


def test_the_plan_counts_what_make_corpus_keeps(tokenizer, tmp_path, capsys):
    """Own notes with empty ones, an id that comes again, and patients; PubMed in two folders, with a
    replaced record and a retracted one; what is held out for validation is not in the run."""
    notes = "".join(f"n{i % 50},p{i // 4},{'A note. ' if i % 7 else ''}\n" for i in range(60))
    for path, content in {
        "notes/a.csv": f"id,patient,text\n{notes}",
        "notes/source.yaml": "kind: notes\nlicense: ours\naccess: gated\nid: id\npatient: patient\ndomain: biomedical\n",
        "texts/a.txt": "One.",
        "texts/b.txt": "",
        "texts/source.yaml": "kind: notes\nlicense: ours\naccess: gated\ndomain: biomedical\n",
        "base/pubmed26n0001.xml": article_set(*(citation(str(i), title="Old.") for i in range(20))),
        "new/pubmed26n1400.xml": article_set(*(citation(str(i), title="New.") for i in range(5))),
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    (tmp_path / "mixture.yaml").write_text(
        "block_length: 64\ntokens: one_pass\nratio: as_found\nfill: concat\nvalidation_share: 0.2\nseed: 0\n"
    )
    names = {"notes": "notes", "texts": "notes", "base": "pubmed", "new": "pubmed"}
    paths = [(source, str(tmp_path / folder)) for folder, source in names.items()]
    flags = [text for source, path in paths for text in ("--source", f"{source}={path}")]
    tail = ["--tokenizer", str(tokenizer.hf.name_or_path), "--mixture", str(tmp_path / "mixture.yaml")]
    estimate.main([*flags, *tail])
    said = capsys.readouterr().out
    build_documents.build(paths, tmp_path / "documents")
    build_blocks.main(["--documents", str(tmp_path / "documents"), *tail, "--out", str(tmp_path / "blocks")])
    [totals] = json.loads((tmp_path / "blocks/manifest.json").read_text())["domains"].values()
    assert totals["validation_tokens"]
    run = next(line for line in said.splitlines() if line.startswith("run"))
    assert run.split()[1].replace(",", "") == str(totals["tokens"])
    assert run.endswith(f"{totals['validation_tokens']:,} more are held out")
