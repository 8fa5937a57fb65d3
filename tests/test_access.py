"""The strictest access class goes along from the publisher's file to the report, and only a person lowers
it."""

import importlib
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import yaml
from safetensors.torch import load_file

from data_prep import build_blocks, build_documents, build_instructions, clean_documents, declassify
from data_prep.files import read_json, read_jsonl, write_jsonl
from data_prep.schema import BadInput
from evaluation.models.registry import read_entry
from tests.lab import PRETRAIN, ROOT, SFT, TASK, recipe, run_json

LICENSE = "agreement 7"
SIGNED = {
    "to": "gated",
    "who": "A. Example, data steward",
    "why": "reviewed, protocol 2026-117",
    "date": "2025-11-01",
}


# ---------------------------------------------------------------- data
@pytest.fixture(scope="module")
def corpus(tmp_path_factory, lab):
    """Documents of a public and a credentialed collection, cleaned."""
    root = tmp_path_factory.mktemp("corpus")
    for name, access, domain in (("open", "public", "general"), ("notes", "credentialed", "clinical")):
        folder = root / "raw" / name
        folder.mkdir(parents=True)
        card = {
            "domain": domain,
            "license": LICENSE if access == "credentialed" else "CC0",
            "access": access,
            "id": "id",
        }
        (folder / "source.yaml").write_text(yaml.safe_dump(card))
        texts = [
            f"The patient {i} was given {i * 3} mg of the drug daily for fever and pain in the {name}." * 4
            for i in range(40)
        ]
        (folder / "a.jsonl").write_text(
            "".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts))
        )
    build_documents.main(["--source", f"plain={root / 'raw'}", "--out", str(root / "documents")])
    (root / "plan.yaml").write_text(yaml.safe_dump({"cleaning": {"encoding": True}}))
    clean_documents.main(
        [
            "--documents",
            str(root / "documents"),
            "--plan",
            str(root / "plan.yaml"),
            "--out",
            str(root / "clean"),
        ]
    )
    return root


def blocks_of(documents, lab, out):
    mixture = {
        "block_length": 32,
        "tokens": 600,
        "ratio": {"clinical": 1, "general": 1},
        "fill": "best_fit",
        "validation_share": 0.1,
        "seed": 0,
    }
    (out.parent / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    build_blocks.main(["--documents", str(documents), "--tokenizer", str(lab / "backbone"), "--mixture", str(out.parent / "mixture.yaml"),
                       "--out", str(out)])  # fmt: skip
    return read_json(out / "manifest.json")


@pytest.mark.guarantee(
    "Credentialed data", "Access class: the strictest input wins, from the publisher's file to packed blocks."
)
def test_every_stage_of_the_corpus_keeps_the_strictest_class(corpus, lab):
    blocks_of(corpus / "clean", lab, corpus / "blocks")
    for stage in ("documents", "clean", "blocks"):
        manifest = read_json(corpus / stage / "manifest.json")
        assert manifest["access"] == "credentialed" and "declassified" not in manifest, stage
        assert {entry["access"] for entry in manifest["inputs"]} == {"public", "credentialed"}
    assert "Access class: **credentialed**" in (corpus / "blocks" / "README.md").read_text()


@pytest.mark.guarantee(
    "Credentialed data",
    "Only a signed entry lowers an access class, and it goes along into all that is made of it.",
)
def test_a_person_lowers_it_and_the_name_goes_along(corpus, lab, capsys):
    out = corpus / "lowered"
    declassify.main(
        [
            str(corpus / "clean"),
            *(part for key, value in SIGNED.items() for part in (f"--{key}", value)),
            "--out",
            str(out),
        ]
    )
    manifest, given = read_json(out / "manifest.json"), read_json(corpus / "clean" / "manifest.json")
    [entry] = manifest["declassified"]
    assert entry | SIGNED == entry and entry["from"] == "credentialed" and manifest["access"] == "gated"
    records = [record for output in manifest["outputs"] for _, record in read_jsonl(out / output["path"])]
    before = [
        record for output in given["outputs"] for _, record in read_jsonl(corpus / "clean" / output["path"])
    ]
    assert [r | {"access": None} for r in records] == [r | {"access": None} for r in before]
    assert {(b["access"], r["access"]) for b, r in zip(before, records, strict=True)} == {
        ("public", "public"),
        ("credentialed", "gated"),
    }

    blocks = blocks_of(out, lab, corpus / "lowered_blocks")
    assert blocks["access"] == "gated" and blocks["declassified"] == [entry]
    shutil.copytree(corpus / "lowered_blocks", lab / "lowered_blocks", dirs_exist_ok=True)
    assert (
        recipe(
            lab,
            "pretrain",
            {**PRETRAIN, "blocks": "lowered_blocks", "output_dir": "lowered_run", "max_steps": 1},
        )
        is None
    )
    run = run_json(lab / "lowered_run")
    assert run["access"] == "gated" and run["declassified"] == [entry]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"who": " "}, "--who and --why must say"), ({"why": ""}, "--who and --why must say"), ({"folder": "lowered"}, "is gated already"),
     *(({"date": date}, f"--date {date}: must be a date up to today") for date in ("2999-01-01", "soon", "01.11.2026", "20251101")),
     ({"folder": "blocks"}, "holds no documents or rows. Next: declassify what it was made of")],
)  # fmt: skip
def test_nobody_lowers_it_in_passing(corpus, tmp_path, change, said):
    given = {**SIGNED, "folder": "clean"} | change
    folder, out = corpus / given.pop("folder"), tmp_path / "out"
    with pytest.raises(SystemExit, match=said):
        declassify.main(
            [
                str(folder),
                *(part for key, value in given.items() for part in (f"--{key}", value)),
                "--out",
                str(out),
            ]
        )
    assert not out.exists()


@pytest.mark.guarantee(
    "Credentialed data",
    "Documents and rows of ours that are read again as your own data keep their class, whatever source.yaml "
    "says.",
)
@pytest.mark.parametrize("beside", ["their manifest", "the record alone"])
def test_documents_and_rows_read_again_keep_their_class(corpus, tmp_path, beside):
    again = tmp_path / "again"
    shutil.copytree(corpus / "clean", again)
    if beside == "the record alone":
        (again / "manifest.json").unlink()
        for file in again.rglob("*.gz"):
            if {row["access"] for _, row in read_jsonl(file)} != {"credentialed"}:
                file.unlink()
    for name, kind in (
        ("plain", {"domain": "clinical", "id": "id"}),
        ("notes", {"kind": "notes", "id": "id"}),
    ):
        (again / "source.yaml").write_text(yaml.safe_dump({"license": "CC0", "access": "public", **kind}))
        build_documents.main(["--source", f"{name}={again}", "--out", str(tmp_path / name)])
        assert read_json(tmp_path / name / "manifest.json")["access"] == "credentialed"
        files = (tmp_path / name / name).glob("*.gz")
        assert {row["access"] for file in files for _, row in read_jsonl(file)} == {"credentialed"}


def test_a_record_that_is_stricter_than_its_table_is_refused(tmp_path):
    rows = [{"id": i, "text": "t", "access": access} for i, access in enumerate(("public", "credentialed"))]
    write_jsonl(tmp_path / "raw" / "a.jsonl", rows)
    for name, kind in (("plain", {"domain": "clinical"}), ("notes", {"kind": "notes"})):
        card = yaml.safe_dump({"license": "CC0", "access": "public", **kind})
        (tmp_path / "raw" / "source.yaml").write_text(card)
        with pytest.raises(
            SystemExit, match="a.jsonl.*2: the record is credentialed, source.yaml says public"
        ):
            build_documents.main(["--source", f"{name}={tmp_path / 'raw'}", "--out", str(tmp_path / "out")])


def test_rows_that_a_credentialed_model_wrote_are_credentialed_instruction_rows(tmp_path):
    row = {"task": "ddi", "source": "ddi", "license": "CC0", "access": "public", "split": "train"}
    row |= {"scoring": "none", "completion": "It is.", "model_access": "credentialed"}
    rows = [row | {"id": str(i), "prompt": f"Is it {i}?\n"} for i in range(3)]
    write_jsonl(tmp_path / "tasks" / "ddi" / "train.jsonl", rows)
    write_jsonl(
        tmp_path / "tasks" / "ddi" / "test.jsonl", [rows[0] | {"id": "t", "split": "test", "prompt": "?\n"}]
    )
    argv = ["--raw", str(tmp_path), "--sources", "", "--task_rows", str(tmp_path / "tasks")]
    build_instructions.main([*argv, "--task_names", "ddi", "--out", str(tmp_path / "out")])
    assert read_json(tmp_path / "out" / "manifest.json")["access"] == "credentialed"
    assert (tmp_path / "out").stat().st_mode & 0o77 == 0


# ---------------------------------------------------------------- models
@pytest.fixture(scope="module")
def trained(lab):
    """An adapter trained on credentialed rows whose manifest does not say so: the rows do."""
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (lab / "task_rows" / f"{split}.jsonl").read_text().splitlines()]
        write_jsonl(
            lab / "notes" / f"{split}.jsonl",
            [row | {"access": "credentialed", "license": LICENSE} for row in rows],
        )
    (lab / "notes" / "manifest.json").write_text(json.dumps({"access": "public"}))
    assert (
        recipe(
            lab,
            "sft",
            {**SFT, "rows": "notes", "output_dir": "notes_adapter", "max_steps": 2, "save_steps": 1},
        )
        is None
    )
    assert recipe(lab, "merge_adapter", {"adapter": "notes_adapter", "output_dir": "notes_chat"}) is None
    return lab


@pytest.mark.guarantee(
    "Credentialed data",
    "A model has the class of its strictest row, also as a checkpoint or a copy without its run.json.",
)
def test_a_model_has_the_class_of_its_strictest_row(trained):
    for folder in ("notes_adapter", "notes_chat"):
        run = run_json(trained / folder)
        assert (run["access"], run["agreements"], run["allowed"]) == ("credentialed", [LICENSE], [])
    assert read_json(trained / "notes_chat" / "config.json")["access"] == "credentialed"
    assert read_json(trained / "notes_adapter" / "checkpoint-1" / "complete.json")["access"] == "credentialed"
    assert read_entry(str(trained / "notes_chat")).access == "credentialed"


def test_it_outlives_the_run_json(trained):
    """Copied weights, a checkpoint taken out of its run, and what is trained further from either."""
    shutil.copytree(trained / "notes_chat", trained / "copied", ignore=shutil.ignore_patterns("run.json"))
    assert read_entry(str(trained / "copied")).access == "credentialed"
    further = {**TASK, "model_name_or_path": "copied", "output_dir": "further", "max_steps": 2}
    assert (
        recipe(trained, "sft", further) is None and run_json(trained / "further")["access"] == "credentialed"
    )
    assert (trained / "further" / "checkpoint-2" / "config.json").is_file()
    assert read_json(trained / "further" / "checkpoint-2" / "config.json")["access"] == "credentialed"
    shutil.copytree(trained / "notes_adapter" / "checkpoint-1", trained / "alone")
    for lost in ("run.json", "complete.json"):  # what PEFT itself writes of an adapter is left
        (trained / "alone" / lost).unlink(missing_ok=True)
    assert recipe(trained, "merge_adapter", {"adapter": "alone", "output_dir": "alone_chat"}) is None
    assert (
        run_json(trained / "alone_chat")["access"]
        == read_json(trained / "alone_chat" / "config.json")["access"]
        == "credentialed"
    )


@pytest.mark.guarantee(
    "Credentialed data", "An access class that is missing or unknown is never taken for public."
)
def test_a_manifest_that_says_nothing_or_nonsense_is_refused(lab):
    for access, said in ((None, "access is missing"), ("open", "access is open")):
        shutil.copytree(lab / "rows", lab / "odd", dirs_exist_ok=True)
        (lab / "odd" / "manifest.json").write_text(json.dumps({} if access is None else {"access": access}))
        stopped = recipe(lab, "sft", {**SFT, "rows": "odd", "output_dir": "odd_run"})
        assert (
            f"{said}, must be one of public, gated, credentialed" in stopped
            and not (lab / "odd_run").exists()
        )


def test_a_row_that_states_no_class_is_refused_beside_a_manifest(lab):
    rows = [json.loads(line) for line in (lab / "task_rows" / "train.jsonl").read_text().splitlines()]
    rows[3].pop("access", None)
    write_jsonl(lab / "silent" / "train.jsonl", rows)
    (lab / "silent" / "manifest.json").write_text(json.dumps({"access": "public"}))
    stopped = recipe(lab, "sft", {**TASK, "rows": "silent", "output_dir": "silent_run"})
    assert re.search(r"train.jsonl: line \d+: access is missing, must be one of", stopped)


def test_a_manifest_that_says_less_than_its_inputs_changes_nothing(lab):
    shutil.copytree(lab / "blocks", lab / "understated")
    manifest = read_json(lab / "understated" / "manifest.json")
    for entry in manifest["inputs"]:
        entry |= {"access": "credentialed", "license": LICENSE}
    (lab / "understated" / "manifest.json").write_text(json.dumps(manifest | {"access": "public"}))
    assert (
        recipe(
            lab,
            "pretrain",
            {**PRETRAIN, "blocks": "understated", "output_dir": "understated_run", "max_steps": 1},
        )
        is None
    )
    assert (run_json(lab / "understated_run")["access"], run_json(lab / "understated_run")["agreements"]) == (
        "credentialed",
        [LICENSE],
    )


def test_a_model_in_the_cache_of_the_hub_has_its_class(trained, monkeypatch):
    """Named as on the Hub, not by a folder: its config.json is in the local cache."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes"))
        patch.chdir(trained)
        run_record = importlib.import_module("run_record")
        patch.setattr(
            run_record,
            "try_to_load_from_cache",
            lambda model, file, revision: str(trained / "notes_chat" / file),
        )
        args = (SimpleNamespace(output_dir="from_cache"),)
        run = run_record.open_run(run_record.__file__, args, "org/notes", "task_rows")
    assert run.record["access"] == "credentialed"


def test_an_unknown_class_in_a_model_is_refused(trained):
    shutil.copytree(trained / "copied", trained / "nonsense")
    config = read_json(trained / "nonsense" / "config.json") | {"access": "anyone"}
    (trained / "nonsense" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="config.json: access 'anyone' is not one of"):
        read_entry(str(trained / "nonsense"))
    assert load_file(trained / "nonsense" / "model.safetensors")
