"""All twelve sets and all instruction sources of the article go through the builders, from the files of the
invented world."""

import json
from pathlib import Path

import pytest

from data_prep import benchmarks, build_documents, build_instructions, build_tasks, instructions, tasks_status
from data_prep.demo import sources, sources_full, world
from data_prep.manifest import read_manifest

# What the invented files leave out, and why it is there: oddities of the formats, and rows that chance made
# twice.
EXPLAINED = {
    "bionli": {"label_cat holds SET"},
    "hoc": {"no hallmark"},
    "mimic_cxr": {"no findings and impression"},
    "mtsamples": {"empty transcription", "exact duplicate"},
    "pubmedqa": {"PQA-L outside the test, not used beside PQA-A"},
    "medinstruct": {"runs on into the generator's next task"},
    "mediqa2019": {"ReferenceScore below 3"},
    "flashcards": {
        "gives an evaluation row away"
    },  # the invented cards ask in the wording of the invented examinations
    "wikidoc_patient": {"exact duplicate"},
    "guidelineqa": {"response is not one question and one answer"},
    "pmc_keywords": {"no key words"},
    "pubmed_causal": {"repeated sentence"},
    "umls_relation": {"joined to the row of the same question"},
    "mimic_qa": {"marked as an error (ISERROR)"},
    "mimic_summarization": {"marked as an error (ISERROR)"},
    "mimic_classification": {"marked as an error (ISERROR)"},
}
BY_CHANCE = {
    "train prompt is also in the validation",
    "duplicate of an earlier row",
    "train prompt is also in the test",
    "validation prompt is also in the test",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(raw, tasks, instructions): everything rendered and built once. No abstracts and no general text:
    nothing here reads them."""
    out = tmp_path_factory.mktemp("full")
    raw, diseases = out / "raw", world.make_world(0)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ABSTRACTS", "GENERAL_DOCUMENTS"):
            patch.setattr(sources, name, 12)
        sources.main(["--out", str(raw)])
    sources_full.write_all(raw, diseases, seed=0)
    build_documents.main(["--source", f"pmc={raw / 'pmc'}", "--out", str(out / "documents")])
    build_tasks.main(["--raw", str(raw), "--out", str(out / "tasks")])
    plan = Path(instructions.__file__).parent / "paper.yaml"
    flags = ["--plan", str(plan), "--documents", str(out / "documents"), "--task_rows", str(out / "tasks")]
    build_instructions.main(["--raw", str(raw), "--out", str(out / "instructions"), *flags])
    return raw, out / "tasks", out / "instructions"


def unexplained(dropped):
    return {
        (name, reason)
        for name, reasons in dropped.items()
        for reason in reasons
        if reason not in EXPLAINED.get(name, set()) | BY_CHANCE
    }


def test_all_twelve_sets(made, capsys):
    raw, rows, _ = made
    for name in benchmarks.NAMES:
        manifest = read_manifest(rows / name, made_by="build_tasks")
        counts = {entry["path"]: entry["records"] for entry in manifest["outputs"]}
        wanted = {f"{split}.jsonl" for split, rows_ in benchmarks.load(name).EXPECTED.items() if rows_}
        assert wanted <= set(counts) and min(counts[file] for file in wanted) >= 5, name
        assert not unexplained(manifest["dropped"])
        assert manifest["access"] == benchmarks.load(name).ACCESS
    tasks_status.main(["--raw", str(raw), "--rows", str(rows)])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["ready"] * len(
        benchmarks.NAMES
    )


def test_all_instruction_sources(made):
    manifest = read_manifest(made[2], made_by="build_instructions")
    assert len(manifest["sources"]) >= 21
    assert min(entry["taken"] for entry in manifest["sources"].values()) >= 20
    assert not unexplained(manifest["dropped"])
    assert manifest["access"] == "credentialed"


def test_only_documents_and_the_medqa_test_tell_on_withheld_diseases(made):
    withheld = [fact for d in world.make_world(0) if not d.taught for fact in (d.name, d.drug, d.marker)]
    for name in (*sources_full.TAUGHT_ONLY, *sources_full.EVERYTHING):
        texts = [
            path.read_bytes().decode(errors="ignore").lower()
            for path in (made[0] / name).rglob("*")
            if path.is_file()
        ]
        told = [fact for fact in withheld if any(fact in text for text in texts)]
        assert told if name in sources_full.EVERYTHING else not told, name
    for split in ("train", "validation"):
        for line in (made[2] / f"{split}.jsonl").read_text().splitlines():
            row = json.loads(line)
            if not row["source"].startswith("pmc_"):  # made of biomedical documents
                assert not any(fact in line.lower() for fact in withheld), row["id"]


def test_same_seed_same_files(tmp_path):
    diseases = world.make_world(3)
    for name in ("a", "b"):
        sources_full.write_all(tmp_path / name, diseases, seed=3)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 100
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)
