"""make release: a folder that says what is in it, refuses what its data forbids, and is proven before anybody
gets it.

The runs are tiny models with run.json of run_record.py and manifests of data_prep; numbers in them are
invented, and looked for in the card."""

import ast
import importlib
import json
import re
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from data_prep import benchmarks, instructions, sources
from data_prep.files import sha256, write_jsonl
from data_prep.manifest import write_manifest
from evaluation.models.registry import fingerprint
from recipes.release import __main__ as command_line
from recipes.release import build, licences, private, push, runs, verify
from recipes.release.card import card, render
from recipes.release.files import Refused
from tests.tiny_model import make_model

ROOT = Path(__file__).resolve().parents[2]
TRAINED = {
    "learning_rate": 8e-6,
    "lr_scheduler_type": "cosine",
    "weight_decay": 1e-5,
    "num_train_epochs": 1,
    "use_peft": False,
    "seed": 7,
}


def command(*arguments):
    """What the command exits with: None, or its sentence."""
    try:
        command_line.main(command_line.make_parser().parse_args([str(argument) for argument in arguments]))
    except Refused as error:
        return str(error)


def finished(stage, folder, parent, reads, facts=(), **arguments):
    """A finished run as the recipes record it; what it took is invented."""
    given = SimpleNamespace(
        **({} if stage == "merge_adapter" else TRAINED) | arguments, output_dir=str(folder)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes"))
        open_run = importlib.import_module("run_record").open_run
    run = open_run(str(ROOT / f"recipes/{stage}.py"), (given,), parent, reads)
    run.record["sessions"][0] |= {"machine": "NVIDIA A100-SXM4-80GB", "ranks": 8}
    run.finish(steps=1234, tokens_seen=56_789_012, metrics={"train_loss": 1.875}, **dict(facts))
    record = json.loads(Path(folder, "run.json").read_text())
    record["sessions"][0]["seconds"] = 5400.0
    Path(folder, "run.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Foundation -> chat adapter -> merged chat model on invented data of several licences, all public, with
    scores and a report on forgetting."""
    root = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        raw = [{"path": str(root / "raw/x.xml"), "sha256": "0" * 64, "records": 120, "source": name, "domain": domain, "license": said, "access": "public"}
               for name, domain, said in (("pmc", "biomedical", "per article"), ("redpajama", "general", "per slice, see the RedPajama-Data-1T page"))]  # fmt: skip
        for folder in ("clean", "blocks", "rows"):
            Path(folder).mkdir()
        dropped = {
            "pmc": {
                "evaluation row (medqa, by words)": {
                    "count": 37,
                    "first": f"{root}/raw/x.xml: 5",
                    "where": [],
                }
            }
        }
        facts = {"items": {"medqa": 1273}, "ids": {}, "missing": ["hoc"], "settings": {"report_only": False}}
        write_manifest(
            Path("clean"),
            stage="clean_documents",
            arguments={},
            inputs=raw,
            dropped=dropped,
            outputs=[],
            decontamination=facts,
        )
        Path("blocks/t.arrow").touch()
        outputs = [{"path": "t.arrow", "sha256": sha256("blocks/t.arrow"), "split": split, "source": name, "domain": domain, "documents": n, "tokens": 1000 * n, "records": n}
                   for split in ("train", "validation") for name, domain, n in (("pmc", "biomedical", 83), ("redpajama", "general", 31))]  # fmt: skip
        domains = {
            "biomedical": {"tokens_in_run": 41_500, "passes": 0.5, "share": 0.57241},
            "general": {"tokens_in_run": 31_000, "passes": 1.0, "share": 0.42759},
        }
        write_manifest(Path("blocks"), stage="build_blocks", arguments={"documents": "clean", "tokenizer": str(root / "base")}, inputs=raw, dropped=dropped,
                       outputs=outputs, domains=domains, documents_sha256=sha256("clean/manifest.json"), document_licenses={"pmc": {"CC BY": 80, "CC0": 3}})  # fmt: skip
        finished("pretrain", "foundation", "Qwen/Qwen3-8B", "blocks", global_batch_tokens=4096)
        common = {
            "task": "instruction",
            "split": "train",
            "scoring": "none",
            "access": "public",
            "prompt": "a\n",
            "completion": "b",
        }
        said = [("dolly", "CC-BY-SA-3.0")] * 19 + [("sharegpt", "Apache-2.0")] * 23
        write_jsonl(
            Path("rows/train.jsonl"),
            [{"id": f"{i}", "source": s, "license": n, **common} for i, (s, n) in enumerate(said)],
        )
        write_manifest(Path("rows"), stage="build_instructions", arguments={"raw": "raw"}, inputs=[{**raw[0], "license": "CC-BY-SA-3.0"}], dropped={},
                       outputs=[], decontamination={"rule": "exact prompt", "removed": [{"id": "secret-row"}] * 5})  # fmt: skip
        finished("sft", "adapter", "foundation", "rows", assistant_only_loss=True, use_peft=True, lora_r=48)
        Path("adapter/adapter_config.json").write_text("{}")
        finished(
            "merge_adapter",
            "chat",
            "adapter",
            "adapter/adapter_config.json",
            {"parity": {"max_logit_difference": 3.25e-5}},
        )
        make_model(root / "made")
        for path in (root / "made").iterdir():
            if path.name != "run.json":
                shutil.copy(path, "chat")
        score = {
            "n": 1273,
            "unparsed_rate": 0.0094,
            "metrics": {"macro_f1": {"value": 0.7777}},
            "scorer": {"level": 0.95, "scorer_version": "2.0"},
        }
        origin = {
            "fingerprint": fingerprint(SimpleNamespace(path=root / "chat", on_server=False)),
            "preset": "chat",
            "shots": {"number": 0, "ids": []},
        }
        shown = {"metric": "accuracy", "value": 0.6125, "low": 0.5871, "high": 0.6394, "withheld": None}
        hidden = {
            "metric": "macro_f1",
            "value": None,
            "low": None,
            "high": None,
            "withheld": "64 of 100 outputs (64.0%) hold no readable answer",
        }
        scores = {
            task: score | {"headline": head, "provenance": origin}
            for task, head in (("medqa", shown), ("hoc", hidden))
        }
        Path("scores.json").write_text(json.dumps(scores))
        drop = {"difference": -0.0123, "low": -0.0241, "high": 0.0017, "p": 0.09}
        warned = {"level": "warned", "sentence": "arc: more cannot be excluded"}
        tuned = {
            "fingerprint": origin["fingerprint"],
            "differences": {"arc": drop},
            "mean": drop,
            "perplexity": {},
            "gate": [warned],
        }
        report = {
            "base": {"name": "Qwen3-8B"},
            "tuned": [tuned],
            "gate": {"limits": {"max_general_drop": 0.02}, "verdict": "warned"},
        }
        Path("forgetting.json").write_text(json.dumps(report))
        assert (
            command(
                "build",
                "release/demo",
                "--run",
                "chat",
                "--scores",
                "scores.json",
                "--forgetting",
                "forgetting.json",
            )
            is None
        )
    return root


@pytest.fixture
def at(lab, monkeypatch, tmp_path):
    """The lab's folder as the current one, and a release and a run of this test's own to be spoilt."""
    monkeypatch.chdir(lab)
    shutil.copytree(lab / "release/demo", tmp_path / "demo")
    shutil.copytree(lab / "chat", tmp_path / "chat")
    return tmp_path


def spoil_json(path, **changes):
    path.write_text(
        json.dumps(
            {
                key: value
                for key, value in (json.loads(path.read_text()) | changes).items()
                if value is not ...
            }
        )
    )


def failed(folder, run=None):
    return {what: wrong for what, wrong in verify.checks(folder, run) if wrong}


# ---------------------------------------------------------------- what a release says
def test_the_card_says_the_numbers_of_the_files(lab):
    card = (lab / "release/demo/README.md").read_text()
    for said in (
        "| sft | dolly |  | 19 rows | not recorded | CC-BY-SA-3.0 | public |",
        "| pretrain | pmc | biomedical | 83 documents | 83,000 | CC BY, CC0 | public |",
        "biomedical 41,500 tokens (0.50 passes, 57.24 %)",
        "**pretrain**: 1,234 steps, 56,789,012 tokens seen; train_loss 1.875; learning_rate 8e-06",
        "lora_r 48",
        "logit to the adapter 3.25e-05",
        "| medqa | 1,273 | accuracy | 0.613 (0.587 to 0.639) | 0.9% | 0 | chat |",
        "withheld: 64 of 100 outputs (64.0%) hold no readable answer",
        "value (95 % interval)",
        "| arc | -0.012 (-0.024 to 0.002) |",
        "| general task | this model minus Qwen3-8B |",
        "Gate: arc: more cannot be excluded.",
        "looked for: medqa 1,273; 37 documents that hold one were left out; not looked for: hoc",
        "Rows: 5 that give an evaluation row away were left out",
        "| pretrain | NVIDIA A100-SXM4-80GB | 8 | 1.500 | 12.00 |",
        "In all 36.00 GPU-hours",
        f"torch {torch.__version__}",
        "doi     = {10.21203/rs.3.rs-5456223/v1}",
    ):
        assert said in card, said
    assert card.count("lora_") == 1, "only where LoRA was used"


@pytest.mark.guarantee("Release", "The card's own code runs on the released folder, and both its ways agree.")
def test_the_code_of_the_card_runs_and_its_prompt_is_the_trained_one(lab, monkeypatch, capsys):
    monkeypatch.chdir(lab / "release")
    card = Path("demo/README.md").read_text()
    assert "the question below becomes\n\n```text\n<s>[INST] What is hypertension? [/INST]\n```" in card
    found = {}
    exec(re.search(r"```python\n(.*?)```", card, re.S)[1], found)
    turns = ast.literal_eval(capsys.readouterr().out.splitlines()[0])
    answer = found["tokens"][0][found["inputs"]["input_ids"].shape[1] :]
    said = found["tokenizer"].decode(answer, skip_special_tokens=True)
    assert turns[-1] == {"role": "assistant", "content": said} and len(answer) > 1


def test_the_code_of_the_papers_release_page_runs(lab):
    """`pipeline` and `AutoModelForCausalLM` on a folder, with plain text (PhysioNet, Me-LLaMA 1.0.0)."""
    folder, prompt = str(lab / "release/demo"), "The medical condition is characterized by"
    piped = transformers.pipeline("text-generation", model=folder)(prompt, num_return_sequences=1)
    assert piped[0]["generated_text"].startswith(prompt) and piped[0]["generated_text"] != prompt
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    tokens = model.generate(ids, max_length=50)[0]
    assert ids.shape[1] < len(tokens) <= 50
    assert tokenizer.decode(tokens, skip_special_tokens=True).startswith(prompt)


@pytest.mark.parametrize(("tasks", "said"), [
    (["medqa"], "data_prep/prompts of the recipes has the wording of medqa."), ([], "it continues what it is given."),
])  # fmt: skip
def test_the_card_of_a_model_without_a_wrapper_says_how_to_ask_it(lab, tasks, said):
    facts = json.loads((lab / "release/demo/provenance.json").read_text()) | {"chat": False, "wrapped": None}
    facts["manifests"] += [{"task": task} for task in tasks]
    assert said in render("card.md", facts | card(facts))


def test_no_decontamination_is_said(lab, monkeypatch):
    monkeypatch.chdir(lab)
    rows, blocks = (json.loads(Path(folder, "manifest.json").read_text()) for folder in ("rows", "blocks"))
    without = {"decontamination": {"rule": "none: no --task_rows", "removed": []}}
    assert runs.contamination(rows | without) == ["build_instructions: no decontamination was made."]
    assert "not recorded" in runs.contamination(blocks | {"documents_sha256": "0"})[0]
    rows |= {
        "stage": "build_tasks",
        "task": "medqa",
        "decontamination": None,
        "near_duplicates": {"train": {"count": 4}},
    }
    assert runs.contamination(rows) == ["Rows of medqa: much like a test text, and kept: train 4."]


def test_the_front_matter_is_the_hubs(lab):
    found = ModelCard((lab / "release/demo/README.md").read_text()).data
    assert (found.license, found.base_model, found.pipeline_tag, found.language) == (
        "cc-by-sa-3.0",
        "Qwen/Qwen3-8B",
        "text-generation",
        ["en"],
    )
    assert (
        found.datasets == ["databricks/databricks-dolly-15k", "togethercomputer/RedPajama-Data-1T"]
        and "conversational" in found.tags
    )


def test_what_was_not_measured_says_so(at):
    spoil_json(
        at / "chat/run.json",
        sessions=[{"machine": "NVIDIA A100-SXM4-80GB", "ranks": 8}],
        commit="",
        peak_memory_bytes=...,
    )
    assert command("build", at / "bare", "--run", at / "chat") is None
    card = (at / "bare/README.md").read_text()
    assert (
        "| merge_adapter | NVIDIA A100-SXM4-80GB | 8 | not recorded | not recorded | not recorded |" in card
    )
    assert "GPU-hours in all: not recorded" in card
    assert "## Evaluation\n\nNot measured." in card and "## Forgetting\n\nNot measured." in card


def test_nothing_of_the_site_gets_out(lab):
    for path in (lab / "release/demo").iterdir():
        text = path.read_bytes().decode(errors="replace")
        assert str(lab) not in text and "secret-row" not in text and "hub_token" not in text, path.name
    facts = json.loads((lab / "release/demo/provenance.json").read_text())
    assert facts["scores"]["medqa"]["metrics"] and facts["scores"]["hoc"]["metrics"] is None, (
        "what is withheld stays withheld"
    )
    assert facts["manifests"][1]["arguments"] == {"documents": "clean", "tokenizer": "base"}
    assert [run["stage"] for run in facts["runs"]] == ["merge_adapter", "sft", "pretrain"]


@pytest.mark.parametrize(("text", "kept"), [
    ("/institute/jane/models/base", "base"), ("../../jane/x.json", "x.json"), ("~/runs/x", "x"), ("see /institute/data/a.json: row 5", "see a.json: row 5"),
    ("host:/srv/a/b", "host:b"), ("file:///srv/jane/c", "c"), ("https://example.org/a/b", None), ("org/name", None), ("data/demo/x", None), ("</s> [/INST] and/or", None),
])  # fmt: skip
def test_paths_are_shortened(text, kept):
    assert private.scrub({"x": [text], "hub_token": "t"}) == {"x": [kept or text]}


@pytest.mark.parametrize(("text", "found"), [
    ("at /srv/jane/x", "/srv/jane/x"), ("file:///srv/jane/x", "/srv/jane/x"), ("host:/srv/jane", "/srv/jane"), ("~/runs/x", "~/runs/x"),
    ("https://example.org/a/b and/or </s> [/INST] a/b/c", None), ("1/2 and 3 / 4 // 5", None),
])  # fmt: skip
def test_paths_are_seen(text, found):
    assert (private.leaks(text) or "").removeprefix("the path ").removeprefix("file://") == (found or "")


def test_paths_below_the_current_folder_start_there(at, lab):
    assert private.scrub(str(lab / "chat/run.json")) == "chat/run.json"


# ---------------------------------------------------------------- verify, and each fault
def test_a_release_verifies_and_is_the_run(lab, capsys):
    assert command("verify", lab / "release/demo", "--run", lab / "chat") is None
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 9 and all(line.startswith("ok") for line in said)
    ours, theirs = (load_file(lab / folder / "model.safetensors") for folder in ("release/demo", "chat"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_are_cut_into_shards_that_load(at, monkeypatch):
    monkeypatch.setattr(build, "SHARD", 40_000)
    assert command("build", at / "shards", "--run", "chat") is None
    assert (
        len(list((at / "shards").glob("model-*-of-*.safetensors"))) > 1
        and failed(at / "shards", Path("chat")) == {}
    )


def test_the_tokenizer_is_the_runs_file_by_file(lab):
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (lab / "release/demo" / name).read_bytes() == (lab / "chat" / name).read_bytes()


def test_left_over_weights_are_refused(at):
    shutil.copy(at / "chat/model.safetensors", at / "chat/model-00001-of-00002.safetensors")
    assert "is in another file as well" in command("build", at / "new", "--run", at / "chat")


@pytest.mark.guarantee("Release", "One flipped byte is found by verify.")
def test_one_flipped_byte_is_found(at):
    path = at / "demo/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    wrong = failed(at / "demo")
    assert (
        wrong["files are those of SHA256SUMS.txt"] == "model.safetensors has changed"
        and "weights are the recorded ones" in wrong
    )
    assert "not tried" in wrong["template and first generation"]


def spoil_weights(folder, value):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][3, 4] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_nan_is_found_even_with_new_sums(at):
    spoil_weights(at / "demo", float("nan"))
    verify.write_sums(at / "demo")
    assert failed(at / "demo")["weights are finite"] == "lm_head.weight holds NaN or infinity"


@pytest.mark.guarantee(
    "Release", "The weights of a release are those of its run, tensor by tensor, and finite."
)
def test_other_weights_than_the_runs_are_found(at):
    spoil_weights(at / "chat", 1.0)
    assert list(failed(at / "demo", at / "chat")) == [
        f"weights are those of {at / 'chat'}",
        "template and first generation",
    ]


@pytest.mark.guarantee(
    "Release", "The weights of a release are those of its run, tensor by tensor, and finite."
)
def test_a_run_with_nan_is_not_released(at):
    spoil_weights(at / "chat", float("inf"))
    assert "lm_head.weight holds NaN or infinity" in command("build", at / "new", "--run", at / "chat")
    assert not (at / "new").exists() and not list(at.glob(".*")), "whole or not at all"


def test_a_missing_template_is_found(at):
    (at / "demo/chat_template.jinja").unlink()
    verify.write_sums(at / "demo")
    assert "no chat template" in failed(at / "demo")["chat template ends at the trained EOS"]
    (at / "chat/chat_template.jinja").unlink()
    assert "no chat template" in command("build", at / "new", "--run", at / "chat")


def test_an_eos_that_generation_does_not_know_is_found(at):
    spoil_json(at / "demo/generation_config.json", eos_token_id=[299])
    verify.write_sums(at / "demo")
    assert "generation ends at [299]" in failed(at / "demo")["chat template ends at the trained EOS"]


@pytest.mark.parametrize("name", ["extra.pkl", "pytorch_model.bin", "modeling.py", "training_args.pt"])
@pytest.mark.guarantee("Release", "A release has its weights as safetensors, and neither pickle nor code.")
def test_code_and_pickles_are_found(at, name):
    (at / "demo" / name).write_bytes(b"\x80\x04.")
    assert failed(at / "demo")["files are those of SHA256SUMS.txt"] == f"{name} is not listed"
    verify.write_sums(at / "demo")
    assert name in failed(at / "demo")["safetensors only, no code, no pickle"]


def test_links_and_lost_files_are_found(at):
    (at / "demo/LICENSE.md").unlink()
    assert failed(at / "demo")["files are those of SHA256SUMS.txt"] == "LICENSE.md is missing"
    (at / "demo/LICENSE.md").symlink_to("/etc/hostname")
    assert failed(at / "demo")["files are those of SHA256SUMS.txt"] == "LICENSE.md is a link"


def test_a_path_in_the_papers_is_found(at):
    with (at / "demo/README.md").open("a") as card:
        card.write("\nSee /institute/jane/notes/results.txt.\n")
    verify.write_sums(at / "demo")
    assert failed(at / "demo") == {
        "no path, machine or person of this site": "README.md holds the path "
        "/institute/jane/notes/results.txt"
    }


# ---------------------------------------------------------------- what is not released
def test_runs_that_are_not_finished_whole_models_are_refused(at):
    spoil_json(at / "chat/run.json", status="running")
    assert "status is running" in command("build", at / "new", "--run", at / "chat")
    assert "merge_adapter.py" in command("build", at / "new", "--run", "adapter")
    spoil_json(at / "chat/run.json", status="complete", sessions=None)
    assert "not as the recipes write it" in command("build", at / "new", "--run", at / "chat")
    spoil_json(at / "chat/run.json", access=...)
    assert "never taken as public" in command("build", at / "new", "--run", at / "chat")
    shutil.copy("scores.json", at / "demo.txt")
    (at / "full").mkdir()
    (at / "full/thesis.txt").write_text("mine")
    assert (
        "left alone" in command("build", at / "full", "--run", "chat") and (at / "full/thesis.txt").is_file()
    )


@pytest.mark.parametrize(
    "changed",
    [
        "adapter/run.json",
        "foundation/run.json",
        "blocks/manifest.json",
        "rows/manifest.json",
        "rows/train.jsonl",
    ],
)
def test_what_has_changed_since_it_was_read_is_refused(at, lab, changed):
    before = (lab / changed).read_text()
    (lab / changed).write_text(before + "\n")
    try:
        assert re.search(rf"{changed}.*changed since", command("build", at / "new", "--run", "chat"))
    finally:
        (lab / changed).write_text(before)


def test_scores_of_another_model_and_a_failed_gate_are_refused(at):
    spoil_weights(at / "chat", 2.0)
    assert "another model" in command("build", at / "new", "--run", at / "chat", "--scores", "scores.json")
    report = json.loads(Path("forgetting.json").read_text())
    for changed, said in (
        ({"gate": [{"level": "failed", "sentence": "arc lost"}]}, "arc lost"),
        ({"fingerprint": "0"}, "says nothing of"),
    ):
        spoilt = report | {"tuned": [report["tuned"][0] | changed]}
        (at / "forgetting.json").write_text(json.dumps(spoilt))
        assert said in command("build", at / "new", "--run", "chat", "--forgetting", at / "forgetting.json")


# ---------------------------------------------------------------- licences
def rolled(*names, base=(), asked=None, access="public"):
    known = licences.read_terms()
    stated = [
        {"source": f"source{i}", "licences": [name], "declassified": False} for i, name in enumerate(names)
    ]
    base = [licences.find_licence(name, known, "base") for name in base]
    used, closed = licences.licences_in(stated, {"name": "org/base"}, base, [], known)
    return licences.roll_up(used, closed, asked, access, known)


def refused(*names, **given):
    with pytest.raises(Refused) as error:
        rolled(*names, **given)
    return str(error.value)


def test_the_strictest_licence_wins():
    assert rolled("MIT", "CC BY 4.0")["release"] in ("MIT", "CC-BY-4.0")
    assert rolled("MIT", "CC-BY-NC-4.0")["release"] == "CC-BY-NC-4.0"
    assert rolled("MIT", base=["Llama 2 Community License"])["release"] == "Llama 2 Community License"
    mixed = rolled("GPL-3.0", "CC-BY-NC-4.0", base=["Llama 2 Community License"])
    assert mixed["release"] == mixed["card"] == "other" and len(mixed["terms"]) == 4
    assert "yours to choose" in refused("CC0", "invented")
    assert (
        rolled("MIT", asked="other")["release"] == "other"
        and rolled("invented", asked="apache-2.0")["release"] == "Apache-2.0"
    )


@pytest.mark.parametrize(("names", "base", "asked", "because"), [
    (["CC-BY-NC-4.0"], [], "MIT", "source0: no commercial use"), (["CC-BY-SA-3.0"], [], "Apache-2.0", "same licence"),
    (["CC BY"], [], "CC0-1.0", "authors"), (["MIT"], ["Llama 3.1 Community License"], "Apache-2.0", "org/base: Meta's acceptable use"),
    (["CC-BY-NC-4.0"], ["Llama 2 Community License"], "cc-by-nc-4.0", "org/base"), (["MIT"], [], "n2c2 Data Use Agreement", "no model is released"),
])  # fmt: skip
@pytest.mark.guarantee("Release", "A licence looser than the strictest of data and base model is refused.")
def test_a_looser_licence_is_refused(names, base, asked, because):
    assert because in refused(*names, base=base, asked=asked)


@pytest.mark.guarantee("Release", "A licence looser than the strictest of data and base model is refused.")
def test_a_looser_licence_stops_the_build(at):
    assert (
        "looser than dolly, redpajama" in command("build", at / "new", "--run", "chat", "--license", "MIT")
        and not (at / "new").exists()
    )


def test_a_licence_nobody_knows_is_refused_with_the_line_to_add(at, monkeypatch):
    said = refused("our hospital's agreement 7")
    line = re.search(r"`  (.*?)`", said)[1].replace("ADDRESS", "https://example.org")
    own = yaml.safe_load(licences.TERMS.read_text())
    own["licences"] |= yaml.safe_load(line)
    (at / "own.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.setattr(licences, "TERMS", at / "own.yaml")
    assert [entry["term"] for entry in rolled("our hospital's agreement 7", asked="MIT")["terms"]] == [
        "attribution"
    ]


def test_what_nobody_may_publish_needs_its_owners_word(at, monkeypatch):
    found = rolled("unknown", "reserved by HealthCareMagic and Icliniq", "CC BY-NC-ND", asked="other")
    with pytest.raises(Refused, match="let nobody publish") as error:
        licences.check_release(found, "public", "name")
    own = yaml.safe_load(licences.TERMS.read_text())
    own["permissions"] = {
        "source0": "a letter",
        "source1": "counsel",
        **yaml.safe_load(re.search(r"`  (.*?)`", str(error.value))[1]),
    }
    own["permissions"]["source2"] = "counsel"
    (at / "own.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.setattr(licences, "TERMS", at / "own.yaml")
    found = rolled("unknown", "reserved by HealthCareMagic and Icliniq", "CC BY-NC-ND", asked="other")
    licences.check_release(found, "public", "name")
    assert found["permissions"]["source1"] == "counsel"


def test_llamas_terms(at):
    for licence, name, shown in (
        ("Llama 3.1 Community License", "Llama-doctor", "Built with Llama"),
        ("Llama 3 Community License", "Llama-3-doctor", "Built with Meta Llama 3"),
    ):
        found = rolled("MIT", base=[licence])
        with pytest.raises(Refused, match=f"--name {name}"):
            licences.check_release(found, "public", "doctor")
        licences.check_release(found, "public", name)
        assert found["shown"] == [shown] and "Meta Platforms" in found["notices"][0]
    base = {"name": "meta-llama/Llama-2-13b-hf", "path": None, "from_scratch": False}
    two = rolled("MIT", base=licences.base_licences(base, None, licences.read_terms()))
    with pytest.raises(Refused, match="--license_files"):
        licences.base_files(base, two, None)
    (at / "LICENSE.txt").write_text("terms")
    (at / "USE_POLICY.md").write_text("policy")
    assert [path.name for path in licences.base_files(base, two, at)] == ["LICENSE.txt", "USE_POLICY.md"]


def test_a_base_is_known_by_its_name_or_its_card(tmp_path):
    known, base = licences.read_terms(), {"name": "ours", "path": str(tmp_path), "from_scratch": False}
    with pytest.raises(Refused, match="--base_license"):
        licences.base_licences(base, None, known)
    (tmp_path / "README.md").write_text("---\nlicense: llama3.1\n---\n# ours\n")
    assert licences.base_licences(base, None, known) == ["Llama 3.1 Community License"]
    assert licences.base_licences(base, "Apache-2.0", known) == [
        "Llama 3.1 Community License",
        "Apache-2.0",
    ], "it adds, and replaces nothing"
    assert licences.base_licences({**base, "path": None, "from_scratch": True}, None, known) == []


def test_the_table_knows_every_licence_of_the_repository():
    known = licences.read_terms()
    modules = [sources.SOURCES[name] for name in sources.SOURCES] + [
        benchmarks.load(name) for name in benchmarks.NAMES
    ]
    modules += [instructions.load(path.stem) for path in (ROOT / "data_prep/instructions").glob("[a-z]*.py")]
    named = {module.LICENSE for module in modules if hasattr(module, "LICENSE")} | {
        *sources.SOURCES["pmc"].LICENSES
    }
    assert len(named) > 20
    for name in named:
        key = licences.find_licence(name, known, "here")
        closed = any(
            getattr(module, "LICENSE", None) == name and module.ACCESS == "credentialed" for module in modules
        )
        assert (known["licences"][key].get("access") == "credentialed") == closed, name
    for entry in known["licences"].values():
        assert set(entry["terms"]) <= set(known["terms"]) and entry["url"]
    for path in (ROOT / "evaluation/models").glob("*.yaml"):
        family = yaml.safe_load(path.read_text())
        for name, model in family["models"].items():
            base, said = (
                {"name": model.get("hub", name), "path": None, "from_scratch": False},
                model.get("license", family["license"]),
            )
            if said in known["licences"]:
                assert said in licences.base_licences(base, None, known), name


# ---------------------------------------------------------------- credentialed, gated, push
@pytest.fixture
def bundle(at):
    opened = {
        "endpoint": "https://llm.hospital.example/v1",
        "agreement": "Contract 7",
        "person": "A. Steward",
        "date": "2026-11-01",
    }
    spoil_json(at / "chat/run.json", access="credentialed", allowed=[opened])
    assert command("build", at / "bundle", "--run", at / "chat", "--name", "ward-chat") is None
    return at / "bundle"


class Hub:
    """Stands for huggingface_hub.HfApi: remembers what it was asked."""

    calls, private = [], True

    def __init__(self, token):
        self.calls.append(("token", token))

    def __getattr__(self, name):
        def call(*given, **named):
            self.calls.append((name, named))
            return SimpleNamespace(private=self.private)

        return call


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(push, "HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setenv("HF_TOKEN", "secret")
    return Hub


@pytest.mark.guarantee(
    "Release",
    "A run on credentialed data becomes a bundle that its owner alone can read, and is never pushed.",
)
def test_credentialed_runs_become_a_local_bundle(bundle):
    assert sorted(path.name for path in bundle.iterdir()) == [
        "LICENSE.txt", "README.md", "RECORDS", "SHA256SUMS.txt", "provenance.json", "ward-chat"
    ]  # fmt: skip
    assert "PhysioNet Credentialed Health Data License 1.5.0" in (bundle / "LICENSE.txt").read_text()
    card = (bundle / "README.md").read_text()
    headings = re.findall(r"^## (.*)", card, re.M)
    assert (
        headings[:4] == ["Abstract", "Background", "Model Description", "Technical Implementation"]
        and "83 documents" in card
    )
    assert "https://llm.hospital.example/v1: Contract 7, A. Steward, 2026-11-01" in card
    assert (bundle / "RECORDS").read_text() == "ward-chat/model.safetensors\n"
    assert all(not stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (bundle, *bundle.rglob("*")))
    assert failed(bundle) == {}
    (bundle / "README.md").chmod(0o644)
    assert failed(bundle)["readable by the owner alone"] == f"{bundle / 'README.md'} is open to others"


@pytest.mark.guarantee(
    "Release",
    "A run on credentialed data becomes a bundle that its owner alone can read, and is never pushed.",
)
def test_a_bundle_is_never_pushed(bundle, hub):
    assert "never pushed" in command("push", bundle, "--repo", "org/name")
    spoil_json(bundle / "provenance.json", access="public")
    assert "never pushed" in command("push", bundle, "--repo", "org/name"), "its runs say it still"
    assert "never pushed" in command("push", bundle, "--repo", "org/name", "--public") and hub.calls == []
    spoil_json(bundle / "provenance.json", access="credentialed", name="../demo")
    assert "--name ../demo" in command("verify", bundle), "a bundle leads to no other folder"


def test_a_credentialed_licence_closes_it_whatever_the_run_says(at, monkeypatch):
    """Unless somebody signed for it, which the card then says."""
    (at / "rows").mkdir()
    row = {
        "id": "1",
        "task": "t",
        "split": "train",
        "scoring": "none",
        "access": "public",
        "source": "mimic",
        "license": licences.PHYSIONET,
    }
    write_jsonl(at / "rows/train.jsonl", [row])
    given = {"path": "x", "license": licences.PHYSIONET, "access": "public"}
    signed = {
        "from": "credentialed",
        "to": "public",
        "who": "A. Steward",
        "why": "protocol 7",
        "date": "2026-11-01",
    }
    for entry, name in ((given, "closed"), (given | {"declassified": [signed]}, "open")):
        write_manifest(
            at / "rows",
            stage="build_tasks",
            arguments={},
            inputs=[entry],
            dropped={},
            outputs=[],
            **({} if name == "closed" else {"declassified": [signed]}),
        )
        run = json.loads((at / "chat/run.json").read_text())
        run["inputs"] |= {str(path): sha256(path) for path in (at / "rows").iterdir()}
        (at / "chat/run.json").write_text(json.dumps(run))
        assert command("build", at / name, "--run", at / "chat", "--name", "m") is None
        assert json.loads((at / name / "provenance.json").read_text())["access"] == (
            "credentialed" if name == "closed" else "public"
        )
    assert "PhysioNet Credentialed Health Data Use Agreement 1.5.0" in (at / "closed/LICENSE.txt").read_text()
    assert (
        "credentialed to public by A. Steward on 2026-11-01: protocol 7"
        in (at / "open/README.md").read_text()
    )
    assert "only PhysioNet" in refused(licences.PHYSIONET, asked="MIT", access="credentialed")


@pytest.mark.parametrize("where", ["run.json", "config.json"])
def test_the_stricter_of_run_and_config_counts_and_goes_along(at, hub, where):
    spoil_json(at / "chat" / where, access="credentialed")
    assert command("build", at / "bundle", "--run", at / "chat", "--name", "m") is None
    assert (
        json.loads((at / "bundle/m/config.json").read_text())["access"] == "credentialed"
        and failed(at / "bundle") == {}
    )
    spoil_json(at / "bundle/m/config.json", access=...)
    verify.write_sums(at / "bundle")
    assert list(failed(at / "bundle"))[0] == "config.json needs no code and says the access class"
    spoil_json(at / "demo/config.json", access="credentialed")
    assert "never pushed" in command("push", at / "demo", "--repo", "org/name") and hub.calls == []


def test_agreements_of_a_run_close_it_and_its_signatures_are_shown(at):
    signed = {
        "from": "credentialed",
        "to": "public",
        "who": "B. Steward",
        "why": "protocol 8",
        "date": "2026-11-02",
        "manifest_sha256": "0",
    }
    spoil_json(at / "chat/run.json", agreements=["n2c2 Data Use Agreement"], declassified=[signed])
    assert command("build", at / "bundle", "--run", at / "chat", "--name", "m") is None
    assert "Data use agreements: n2c2 Data Use Agreement\n" in (at / "bundle/LICENSE.txt").read_text()
    card = (at / "bundle/README.md").read_text()
    assert (
        "- credentialed to public by B. Steward on 2026-11-02: protocol 8\n" in card
        and "(what merge_adapter read)" in card
    )
    spoil_json(at / "chat/run.json", agreements=["the agreement of ward 7"])
    assert "run.json of merge_adapter: its licence 'the agreement of ward 7' is not known" in command(
        "build", at / "new", "--run", at / "chat"
    )


@pytest.mark.guarantee(
    "Release", "A release is verified before it is pushed, and is private unless somebody asks otherwise."
)
def test_public_ones_are_pushed_privately_and_verified_first(at, hub, monkeypatch):
    assert command("push", at / "demo", "--repo", "org/name") is None
    named = dict(hub.calls)
    assert (
        named["token"] == "secret"
        and named["create_repo"]["private"]
        and [name for name, _ in hub.calls][-1] == "upload_folder"
    )
    hub.calls.clear()
    monkeypatch.setattr(Hub, "private", False)
    assert "is public" in command("push", at / "demo", "--repo", "org/name") and "upload_folder" not in dict(
        hub.calls
    )
    hub.calls.clear()
    (at / "demo/notes.md").write_text("x")
    assert "not listed" in command("push", at / "demo", "--repo", "org/name") and hub.calls == []
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN" in command("push", at / "demo", "--repo", "org/name") and hub.calls == []
    assert "organisation/name" in command("push", at / "demo", "--repo", "name") and hub.calls == []


def test_a_gated_model_is_pushed_behind_its_terms_only(at, hub):
    spoil_json(at / "chat/run.json", access="gated")
    assert command("build", at / "gated", "--run", at / "chat") is None
    assert "terms" in command("push", at / "gated", "--repo", "org/name") and hub.calls == []
    assert (
        command("build", at / "gated", "--run", at / "chat", "--terms", "For research at hospitals.") is None
    )
    assert (
        ModelCard((at / "gated/README.md").read_text()).data.to_dict()["extra_gated_prompt"]
        == "For research at hospitals."
    )
    assert command("push", at / "gated", "--repo", "org/name") is None
    assert dict(hub.calls)["update_repo_settings"] == {"gated": "manual"}


def test_unknown_access_is_never_public(at, hub):
    spoil_json(at / "demo/provenance.json", access="open")
    assert "never taken as public" in command("push", at / "demo", "--repo", "org/name") and hub.calls == []


# ---------------------------------------------------------------- command line
@pytest.mark.parametrize(("given", "said"), [
    (["build", "x"], "required: --run"), (["push", "x"], "required: --repo"), (["verify", "x", "--repo", "a/b"], "unrecognized arguments: --repo"),
    (["push", "x", "--repo", "a/b", "--license", "MIT"], "unrecognized arguments: --license"),
])  # fmt: skip
def test_commands_that_cannot_be_meant_are_refused(capsys, given, said):
    with pytest.raises(SystemExit):
        command(*given)
    assert said in capsys.readouterr().err


def test_a_folder_that_is_no_release_is_named(tmp_path):
    assert "provenance.json: cannot be read" in command("verify", tmp_path / "nowhere")


def test_a_release_that_was_killed_between_its_two_renames_is_restored(tmp_path):
    for state in ("old", "partial"):
        (tmp_path / f".model.{state}").mkdir()
        (tmp_path / f".model.{state}" / state).touch()
    with pytest.raises(ZeroDivisionError), build.whole(tmp_path / "model", False):
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["partial"], "which was whole"
