"""The invented world keeps its one promise: facts of withheld diseases stand in biomedical documents and in
the MedQA test file only."""

import hashlib
import json

import pytest

from data_prep.build_documents import main as build_documents
from data_prep.demo import sources as make_demo_sources
from data_prep.demo import world as demo_world
from data_prep.files import open_bytes, read_jsonl


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "raw"
    make_demo_sources.main(["--out", str(folder)])
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def text_of(path):
    with open_bytes(path) as stream:
        return stream.read().decode().lower()


def test_the_same_seed_gives_the_same_bytes(raw, tmp_path):
    make_demo_sources.main(["--out", str(tmp_path / "again")])
    assert contents(raw) == contents(tmp_path / "again")
    make_demo_sources.main(["--out", str(tmp_path / "other"), "--seed", "1"])
    assert contents(raw)["medqa/US/test.jsonl"] != contents(tmp_path / "other")["medqa/US/test.jsonl"]


def test_names_are_distinct_and_every_relation_is_one_to_one():
    world = demo_world.make_world(0)
    for names in ([d.name for d in world], [d.drug for d in world], [d.marker for d in world]):
        assert len(set(names)) == len(names) == 72
    assert sum(d.taught for d in world) == 24 and {d.specialty for d in world} == set(demo_world.SPECIALTIES)


def test_withheld_facts_stand_in_biomedical_documents_only(raw):
    withheld = [d for d in demo_world.make_world(0) if not d.taught]
    stated = 0
    for path in sorted(raw.rglob("*")):
        if not path.is_file():
            continue
        where, text = path.relative_to(raw).as_posix(), text_of(path)
        told = [d.name for d in withheld if d.name in text]
        if where.startswith(("pubmed/", "pmc/")):
            stated += len(told)
        elif where == "medqa/US/test.jsonl":
            assert len(told) == len(withheld)
        else:
            assert not told, f"{where} names withheld diseases: {told[:3]}"
    assert stated > len(withheld)


def test_each_withheld_fact_is_asked_once_in_words_of_its_own(raw):
    world = demo_world.make_world(0)
    by_name = {d.name: d for d in world}
    asked = set()
    for _, row in read_jsonl(raw / "medqa/US/test.jsonl"):
        (name,) = [n for n in by_name if n in row["question"]]
        answer = row["options"][row["answer_idx"]]
        assert answer == row["answer"] and answer in (by_name[name].drug, by_name[name].marker)
        kind = "drug" if answer == by_name[name].drug else "marker"
        assert all(any(option == getattr(d, kind) for d in world) for option in row["options"].values()), (
            "options are of one kind"
        )
        asked.add((name, kind))
    assert len(asked) == 2 * 48
    biomedical = text_of(raw / "pubmed/pubmed26n0001.xml.gz")
    for template in (*demo_world.TREATMENT_QUESTIONS, *demo_world.DIAGNOSIS_QUESTIONS):
        assert template.split("{")[-1].split("}")[-1].lower() not in biomedical


def test_every_fact_is_stated_often_and_in_many_wordings(raw):
    biomedical = "".join(text_of(path) for source in ("pubmed", "pmc") for path in (raw / source).iterdir())
    for disease in demo_world.make_world(0):
        for templates in (demo_world.TREATMENT, demo_world.DIAGNOSIS):
            told = [
                t.format(disease=disease.name, drug=disease.drug, marker=disease.marker).lower()
                for t in templates[:8]
            ]
            assert sum(phrase in biomedical for phrase in told) >= 6, disease


def test_the_readers_account_for_every_invented_record(raw, tmp_path, capsys):
    sources = ("pubmed", "pmc", "mimic_iii", "mimic_iv_note", "mimic_cxr", "redpajama")
    build_documents(
        [*[a for s in sources for a in ("--source", f"{s}={raw / s}")], "--out", str(tmp_path / "documents")]
    )
    manifest = json.loads((tmp_path / "documents" / "manifest.json").read_text())
    assert manifest["access"] == "credentialed"
    records_in = sum(i["records"] for i in manifest["inputs"])
    dropped = sum(r["count"] for reasons in manifest["dropped"].values() for r in reasons.values())
    assert records_in - dropped == sum(o["records"] for o in manifest["outputs"]) > 7000
    assert {"no abstract", "not English", "deleted by NLM"} <= manifest["dropped"]["pubmed"].keys()
    asked = {
        f"mimic_cxr:s{line.split(',')[1]}"
        for line in (raw / "mimic_cxr/mimic-cxr-2.0.0-split.csv").read_text().splitlines()
        if line.endswith(",test")
    }
    reports = {
        document["id"]
        for file in (tmp_path / "documents/mimic_cxr").iterdir()
        for _, document in read_jsonl(file)
    }
    assert asked and reports and not asked & reports, "what the evaluation asks for is not in the corpus"
    for output in manifest["outputs"]:
        assert (
            hashlib.sha256((tmp_path / "documents" / output["path"]).read_bytes()).hexdigest()
            == output["sha256"]
        )
