"""Documents -> clean documents: what goes is listed with what it collided with, every count adds up, and a
"clean" and a "paper-like" mix come from one corpus."""

import json
import os
import resource

import numpy as np
import pytest
import yaml

from data_prep import build_documents, clean_documents
from data_prep.files import read_jsonl, whole_folder, write_jsonl
from data_prep.manifest import describe, write_manifest
from data_prep.schema import BadInput, CleaningPlan

RNG = np.random.default_rng(0)
WORDS = [
    f"{a}{b}{c}"
    for a in ("car", "neph", "hep", "derm", "oss")
    for b in ("i", "o", "a")
    for c in ("tis", "sis", "log", "mene", "rin", "pathy")
]
DOMAINS = {
    "pubmed": "biomedical",
    "pmc": "biomedical",
    "mimic_iii": "clinical",
    "mimic_iv_note": "clinical",
    "redpajama": "general",
}


def prose(words, seed):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words)) + "."


def document(source, number, text, **meta):
    access = "credentialed" if DOMAINS[source] == "clinical" else "public"
    return {"id": f"{source}:{number}", "text": text, "source": source, "domain": DOMAINS[source], "license": f"L{number % 2}", "access": access,
            "meta": meta}  # fmt: skip


def corpus(folder):
    note = prose(60, 900)
    documents = {
        "pubmed": [document("pubmed", i, prose(80, i)) for i in range(1, 41)],
        "pmc": [document("pmc", 1, "T.\n\n" + prose(80, 1)[:-40] + "\n\n" + prose(900, 101), pmid="1",
                         blocks={"title": 1, "abstract": 1, "further_abstracts": 0, "body": 1})],
        "mimic_iii": [document("mimic_iii", 1, f"Name: [**Known lastname 12**]\n{note} seen by [**Doctor "
                                               f"3**] today")],
        "mimic_iv_note": [document("mimic_iv_note", 1, f"Name: ___\n{note} seen by ___ today"), document("mimic_iv_note", 2, "___ ok")],
        "redpajama": [document("redpajama", i, prose(150, 200 + i)) for i in range(5)],
    }  # fmt: skip
    documents["pubmed"].append(
        document("pubmed", 99, documents["pubmed"][4]["text"].upper())
    )  # exact but for case
    documents["pubmed"].append(
        document("pubmed", 98, documents["pubmed"][6]["text"].replace(".", " and more."))
    )  # near
    documents["redpajama"].append(
        document("redpajama", 9, prose(150, 300) + "\n" + prose(60, 777) + "\n" + prose(300, 301))
    )  # holds a question
    with whole_folder(folder) as out:
        outputs, inputs = [], []
        for source, texts in documents.items():
            for part in range(2):
                path = out / source / f"{part}.jsonl.gz"
                mine = texts[part::2]
                if mine:
                    outputs.append(
                        describe(
                            out,
                            path,
                            records=write_jsonl(path, mine),
                            characters=1,
                            domain=DOMAINS[source],
                            source=source,
                        )
                    )
            inputs.append({"source": source, "path": source, "license": "L", "access": texts[0]["access"]})
        write_manifest(out, stage="build_documents", arguments={}, inputs=inputs, dropped={"pubmed": {"no abstract": {"count": 3, "first": "f", "where": ["f"]}}},
                       outputs=outputs)  # fmt: skip
    return documents


def rows(folder):
    row = {
        "task": "pubmedqa",
        "split": "test",
        "scoring": "choice",
        "source": "pubmedqa",
        "license": "MIT",
        "access": "public",
        "choices": ["yes", "no"],
    }
    asked = {"prompt": "Is it so?\n", "completion": "yes", **row}
    write_jsonl(
        folder / "pubmedqa" / "test.jsonl",
        [{**asked, "id": "pubmedqa:2", "question": prose(30, 901), "options": ["yes", "no"]}],
    )
    question = {
        **row,
        "task": "medqa",
        "source": "medqa",
        "choices": ["A", "B"],
        "completion": "A",
        "prompt": "x\n",
        "id": "medqa:test:0",
    }
    write_jsonl(
        folder / "medqa" / "test.jsonl", [{**question, "question": prose(60, 777), "options": ["one", "two"]}]
    )
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("clean")
    return root, corpus(root / "documents"), rows(root / "rows")


def run(root, plan, out, executor="local"):
    (root / "plan.yaml").write_text(yaml.safe_dump(plan))
    clean_documents.main(
        [
            "--documents",
            str(root / "documents"),
            "--rows",
            str(root / "rows"),
            "--plan",
            str(root / "plan.yaml"),
            "--out",
            str(out),
            "--executor",
            executor,
        ]
    )
    kept = {d["id"]: d for path in sorted(out.glob("*/*.jsonl.gz")) for _, d in read_jsonl(path)}
    removed = {entry["id"]: entry for _, entry in read_jsonl(out / "removed.jsonl.gz")}
    return json.loads((out / "manifest.json").read_text()), kept, removed


CLEAN = {
    "cleaning": {"encoding": {}, "deidentification": {}, "short": {"characters": 30, "words": 5}},
    "decontamination": {},
    "near_duplicates": {},
}


@pytest.mark.guarantee("Corpus", "What is removed is named and counted, with what it collided with.")
def test_everything_that_goes_is_named_and_counted(world, tmp_path):
    root, documents, _ = world
    manifest, kept, removed = run(root, CLEAN, tmp_path / "out")
    assert (
        removed["pubmed:2"]["task"] == "pubmedqa"
        and removed["pubmed:2"]["by"] == "pmid"
        and removed["pubmed:2"]["item"] == "pubmedqa:2"
    )
    assert (removed["pubmed:99"]["kept_id"], removed["pubmed:99"]["kind"]) == ("pubmed:5", "exact")
    assert {removed[i]["kept_id"] for i in ("pubmed:98",) if i in removed} | {
        removed[i]["id"] for i in ("pubmed:7",) if i in removed
    } <= {"pubmed:7"}
    assert ("pubmed:98" in kept) != ("pubmed:7" in kept), "one of two near-duplicates stays"
    assert removed["pubmed:1"]["kind"] == "abstract of pmc:1" and "pmc:1" in kept
    assert removed["mimic_iii:1"]["kept_id"] == "mimic_iv_note:1" and removed["mimic_iii:1"]["kind"] in (
        "exact",
        "near",
    ), "one note in two styles of marks"
    assert "[**" not in kept["mimic_iv_note:1"]["text"] and "mimic_iv_note:2" not in kept
    cut = kept["redpajama:9"]["text"]
    assert (
        removed["redpajama:9"]["action"] == "cut"
        and prose(60, 777)[:200] not in cut
        and prose(300, 301)[-300:] in cut
    )

    for source, texts in documents.items():
        out = sum(o["records"] for o in manifest["outputs"] if o["source"] == source)
        earlier = {"pubmed": 3}.get(source, 0)  # dropped by the stage before
        assert (
            len(texts)
            == out + sum(entry["count"] for entry in manifest["dropped"].get(source, {}).values()) - earlier
        ), source
        assert out == sum(d["source"] == source for d in kept.values())
        assert sum(manifest["document_licenses"][source].values()) == out
    assert sum(o["characters"] for o in manifest["outputs"]) == sum(len(d["text"]) for d in kept.values())
    assert manifest["access"] == "credentialed" and manifest["changed"]["mimic_iii: deidentification"] == 1
    assert not list((tmp_path / "out").rglob("*.npz")) and not (tmp_path / "out" / ".work").exists()


def test_paper_like_reports_and_keeps(world, tmp_path):
    root, documents, _ = world
    manifest, kept, removed = run(
        root, {"cleaning": {"encoding": {}}, "decontamination": {"report_only": True}}, tmp_path / "out"
    )
    assert len(kept) == sum(map(len, documents.values())) and manifest["dropped"].keys() == {"pubmed"}
    assert {entry["action"] for entry in removed.values()} == {"report"} and {
        "pubmed:2",
        "redpajama:9",
    } == set(removed)


def test_the_same_bytes_from_any_number_of_workers(world, tmp_path):
    root, _, _ = world
    run(root, CLEAN, tmp_path / "one")
    run(root, CLEAN, tmp_path / "two", "local:2")
    files = [
        path.relative_to(tmp_path / "one")
        for path in (tmp_path / "one").rglob("*")
        if path.is_file() and path.name != ".identity"
    ]
    assert len(files) == 9 and all(
        (tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files
    )


def test_an_unfinished_build_under_another_plan_is_not_taken_over(world, tmp_path, monkeypatch):
    root, _, _ = world

    def stopped(*given, **more):
        raise BadInput("stopped before the end")

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="stopped before"):
        patch.setattr(clean_documents, "put_in_place", stopped)
        run(root, CLEAN | {"decontamination": {"report_only": True}}, tmp_path / "out")
    assert (tmp_path / ".out.partial").is_dir()
    run(root, CLEAN, tmp_path / "fresh")
    run(root, CLEAN, tmp_path / "out")
    for path in (tmp_path / "fresh").rglob("*.gz"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "fresh")).read_bytes(), (
            path
        )


@pytest.mark.parametrize(
    "plan, said",
    [
        ({"cleanning": {}}, "unknown key 'cleanning' .known: cleaning, decontamination, near_duplicates"),
        ({"cleaning": {"lowercase": {}}}, "unknown step 'lowercase'"),
        ({"cleaning": {"short": {"letters": 3}}}, "short: unknown key 'letters'"),
        ({"decontamination": {"threshold": 1}}, "unknown key 'threshold'"),
        ({"near_duplicates": {"bands": 1}}, "unknown key 'bands'"),
        ({"cleaning": {"short": {"characters": 100000}}}, "not one document is left"),
    ],
)
def test_a_plan_that_cannot_be_used_is_one_sentence(world, tmp_path, plan, said):
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        run(world[0], plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_decontamination_without_rows_says_what_to_do(world, tmp_path):
    with pytest.raises(BadInput, match="needs the evaluation rows. Next: --rows"):
        clean_documents.build(
            world[0] / "documents", None, CleaningPlan(decontamination={}).model_dump(), tmp_path / "out"
        )


def test_shipped_plans_can_be_read():
    from pathlib import Path

    plans = sorted((Path(__file__).resolve().parents[2] / "data_prep" / "cleaning_plans").glob("*.yaml"))
    assert {path.stem for path in plans} == {"clean", "demo", "paper_like", "real"}
    for path in plans:
        assert clean_documents.read_plan(path)["cleaning"]


@pytest.mark.guarantee("Corpus", "More document files than a process may open are cleaned all the same.")
def test_more_files_than_a_process_may_open(tmp_path):
    shared = prose(80, 0)
    for n in range(25):
        lines = [json.dumps({"text": f"{shared} {n}"}) + "\n", json.dumps({"text": prose(30, n + 1)}) + "\n"]
        path = tmp_path / "raw" / f"{n}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines))
    build_documents.build([("redpajama", tmp_path / "raw")], tmp_path / "documents")
    plan = {"cleaning": {"short": [{"characters": 1, "words": 1}]}, "decontamination": None}
    plan["near_duplicates"] = {"runs": [["redpajama"]], "jaccard": 0.9}
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 12, before[1]))
    try:
        manifest = clean_documents.build(tmp_path / "documents", None, plan, tmp_path / "clean")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert manifest["dropped"]["redpajama"]["duplicate (near)"]["count"] == 24
