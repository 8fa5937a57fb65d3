"""General tasks before and after training: the harness's definitions on local files, differences, curves, the
gate."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import datasets
import pytest
import yaml

from data_prep import egress
from data_prep.demo import sources
from data_prep.demo import world as demo_world
from data_prep.files import sha256
from data_prep.schema import BadInput, load
from evaluation import forgetting, generate
from evaluation.models import registry
from evaluation.reporting import config, curves, forgetting_page, formats
from evaluation.scoring import gate
from evaluation.tasks import general
from tests.tiny_model import REPO, make_model, read_jsonl

REAL = REPO.parent / "shared" / "data"
QUESTIONS = [[f"What is sold in town {i}?", "salt", "wool", "oats", "rope", "ABCD"[i % 4]] for i in range(7)]


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def write_jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("forgetting")
    write_csv(folder / "data/mmlu/test/anatomy_test.csv", QUESTIONS)
    write_csv(folder / "data/mmlu/test/virology_test.csv", QUESTIONS[:3])
    write_csv(
        folder / "data/mmlu/dev/anatomy_dev.csv",
        [[f"Which trade is number {i}?", "mason", "miller", "baker", "smith", "B"] for i in range(5)],
    )
    write_jsonl(
        folder / "data/gsm8k/train.jsonl",
        [{"question": f"{i} ropes and a rope?", "answer": f"One more.\n#### {i + 1}"} for i in range(9)],
    )
    write_jsonl(
        folder / "data/gsm8k/test.jsonl",
        [{"question": "2 ropes and 3 ropes?", "answer": "2+3=<<2+3=5>>5\n#### 5"}],
    )
    for seed, name in enumerate(("base", "tuned")):
        make_model(folder / name, seed=seed, positions=1024, template=False)
    blocks = {"general": {"nll": [20.0, 22.0, 21.0], "tokens": [10, 10, 10]}}
    manifest = folder / "blocks" / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text(
        json.dumps({"outputs": [{"split": "validation", "domain": "general", "sha256": "a"}]})
    )
    record = {
        "access": "public",
        "arguments": {"blocks": str(manifest.parent)},
        "inputs": {str(manifest): sha256(manifest)},
    }
    for name in ("base", "tuned"):
        (folder / name / "run.json").write_text(json.dumps(record))
    (folder / "base/validation.json").write_text(json.dumps(blocks))
    (folder / "tuned/validation.json").write_text(
        json.dumps({"general": {**blocks["general"], "nll": [21.0, 23.0, 22.0]}})
    )
    forgetting.main(command(folder, "out", "--max_general_drop", "1.0"))
    return folder


def command(world, out, *more, tasks="mmlu,gsm8k", data="data"):
    arguments = [
        "--base",
        world / "base",
        "--tuned",
        world / "tuned",
        "--tasks",
        tasks,
        "--out",
        world / out,
        "--device",
        "cpu",
    ]
    return [str(a) for a in [*arguments, *(["--data", world / data] if data else []), *more]]


def result_of(world, out="out"):
    return json.loads((world / out / "forgetting.json").read_text())


def refusal(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        forgetting.main(arguments)
    capsys.readouterr()
    return str(stop.value)


# ---------------------------------------------------------------- asking
@pytest.mark.guarantee(
    "Clinical cases and forgetting", "General tasks are scored as the harness scores them."
)
def test_prompts_and_scores_are_those_of_the_harness(world):
    import lm_eval.tasks
    from lm_eval.models.huggingface import HFLM

    result, run = result_of(world), json.loads((world / "out/tuned/run.json").read_text())
    shot = "Which trade is number {}?\nA. mason\nB. miller\nC. baker\nD. smith\nAnswer: B\n\n"
    assert run["tasks"]["mmlu"]["first_prompt"] == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        + "".join(shot.format(i) for i in range(5))
        + "What is sold in town 0?\nA. salt\nB. wool\nC. oats\nD. rope\nAnswer:"
    )
    assert run["tasks"]["gsm8k"]["first_prompt"].count("#### ") == 5
    assert result["asked"]["mmlu"]["shots"] == [0, 5] and "no file" in result["asked"]["mmlu"]["note"]
    tasks = [task for name in ("mmlu", "gsm8k") for task in general.load(name, world / "data")[0].values()]
    lm = HFLM(pretrained=str(world / "tuned"), device="cpu", dtype="auto")
    nothing_else = lm_eval.tasks.TaskManager(include_defaults=False)  # the index of all tasks takes seconds
    theirs = lm_eval.simple_evaluate(lm, tasks=tasks, bootstrap_iters=0, task_manager=nothing_else)
    ours = result["tuned"][0]["tasks"]["mmlu"]["acc,none"]["value"]
    of_sets = [theirs["results"][name]["acc,none"] for name in ("mmlu_anatomy", "mmlu_virology")]
    assert ours == pytest.approx((7 * of_sets[0] + 3 * of_sets[1]) / 10)
    (item,), (sample, *_) = read_jsonl(world / "out/tuned/gsm8k.jsonl"), theirs["samples"]["gsm8k"]
    assert (item["prompt_hash"], item["output"]) == (sample["prompt_hash"], sample["resps"][0]), (
        "the examples are the harness's too"
    )


def test_every_item_is_kept_and_the_difference_is_theirs(world):
    result = result_of(world)
    base, tuned = (read_jsonl(world / "out" / name / "mmlu.jsonl") for name in ("base", "tuned"))
    assert [item["id"] for item in base] == [f"mmlu_anatomy:{i}" for i in range(7)] + [
        f"mmlu_virology:{i}" for i in range(3)
    ]
    assert [(a["doc_hash"], a["prompt_hash"]) for a in base] == [
        (b["doc_hash"], b["prompt_hash"]) for b in tuned
    ]
    assert all(len(item["output"]) == 4 for item in base)
    right = [[item["score"]["acc,none"] for item in items] for items in (base, tuned)]
    difference = result["tuned"][0]["differences"]["mmlu"]
    assert difference["difference"] == pytest.approx((sum(right[1]) - sum(right[0])) / 10)
    assert difference["low"] <= difference["difference"] <= difference["high"]
    assert difference["mcnemar"]["only_other"] == sum(a > b for a, b in zip(*right, strict=True))
    both = [entry["difference"] for entry in result["tuned"][0]["differences"].values()]
    assert result["tuned"][0]["mean"]["difference"] == pytest.approx(sum(both) / 2)
    (item,) = read_jsonl(world / "out/base/gsm8k.jsonl")
    assert set(item["score"]) == {"exact_match,strict-match", "exact_match,flexible-extract"} and isinstance(
        item["output"][0], str
    )


def test_what_was_asked_is_not_asked_again(world, monkeypatch):
    shutil.copytree(world / "out", world / "again")
    monkeypatch.setattr(generate, "load_model", lambda *_: pytest.fail("a model was loaded"))
    forgetting.main(command(world, "again"))
    old, new = result_of(world), result_of(world, "again")
    assert old["tuned"][0]["differences"] == new["tuned"][0]["differences"]
    forgetting.main(command(world, "again", tasks="gsm8k"))  # fewer tasks leave the others where they are
    assert (world / "again/base/mmlu.jsonl").is_file()
    changed = world / "changed"
    shutil.copytree(world / "data", changed)
    write_csv(changed / "mmlu/test/virology_test.csv", [["Another question?", *QUESTIONS[0][1:]]])
    with pytest.raises(pytest.fail.Exception, match="a model was loaded"):
        forgetting.main(command(world, "again", data="changed"))


def test_a_killed_run_goes_on_from_its_responses(world, monkeypatch):
    from evaluation.models.response_cache import Responses

    shutil.copytree(world / "out/.responses", world / "killed/.responses")
    monkeypatch.setattr(Responses, "add_partial", lambda *_: pytest.fail("was asked again"))
    forgetting.main(command(world, "killed"))
    assert (
        result_of(world, "killed")["tuned"][0]["differences"] == result_of(world)["tuned"][0]["differences"]
    )


def test_missing_tasks_are_named(world, capsys):
    forgetting.main(command(world, "general", "--limit", "1", tasks="general"))
    printed = capsys.readouterr().out
    missing = result_of(world, "general")["not_asked"]
    assert set(missing) == {"hellaswag", "arc", "winogrande", "truthfulqa", "ifeval"}
    assert (
        str(world / "data/hellaswag/hellaswag_val.jsonl") in missing["hellaswag"]
        and "hellaswag: not asked" in printed
    )
    assert result_of(world, "general")["asked"]["mmlu"]["n"] == 2
    said = refusal(capsys, command(world, "x", tasks="mmlu,winogrande"))
    assert said.startswith("error: winogrande: no ") and "Next:" in said
    said = refusal(capsys, command(world, "x", data=None, tasks="hellaswag"))
    assert "hellaswag: the Hub's data set could not be loaded" in said and "Next: --data DIR" in said
    assert "known: general" in refusal(capsys, command(world, "x", tasks="mmlu,trivia"))
    assert not (world / "x").exists()


def test_prompts_that_do_not_fit_are_refused(world, capsys):
    make_model(world / "short", positions=64, template=False)
    said = refusal(
        capsys,
        [a if a != str(world / "base") else str(world / "short") for a in command(world, "x", tasks="mmlu")],
    )
    assert "do not fit into the model's 64" in said and "--num_fewshot" in said


def test_what_no_backend_knows_is_said_before_the_tasks_are_read(world, capsys):
    for flag, given in (
        ("batch_size", "many"),
        ("dtype", "float99"),
        ("device", "gpu"),
        ("backend_args", "foo"),
    ):
        said = refusal(capsys, command(world, "x", f"--{flag}", given, tasks="nowhere"))
        assert said.startswith(f"error: --{flag}") and given in said and ". Next: " in said


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_no_items_are_not_asked(world, capsys, limit):
    said = refusal(capsys, command(world, "x", "--limit", limit))
    assert said == f"error: --limit {limit}: must be 1 or more. Next: leave it out, or --limit 1"


@pytest.mark.guarantee(
    "Credentialed data",
    "A model that was trained on credentialed data closes the process that asks it: generation, forgetting, "
    "judges.",
)
def test_a_credentialed_model_closes_the_process_and_its_items_say_so(world, capsys, monkeypatch):
    shutil.copytree(world / "tuned", world / "notes")
    (world / "notes/run.json").write_text(json.dumps({"access": "credentialed"}))
    asked = [
        a if a != str(world / "tuned") else str(world / "notes")
        for a in command(world, "closed", tasks="gsm8k")
    ]
    forgetting.main(asked)
    assert (
        egress.agreements() == ["what notes was trained under"]
        and result_of(world, "closed")["access"] == "credentialed"
    )
    items = {name: read_jsonl(world / "closed" / name / "gsm8k.jsonl") for name in ("base", "notes")}
    assert {name: {item["model_access"] for item in those} for name, those in items.items()} == {
        "base": {"public"},
        "notes": {"credentialed"},
    }
    assert not [path for path in (world / "closed").rglob("*") if path.stat().st_mode & 0o077]

    (world / "notes/run.json").write_text(json.dumps({"access": "gated"}))
    with pytest.raises(pytest.fail.Exception, match="a model was loaded"), monkeypatch.context() as patch:
        patch.setattr(generate, "load_model", lambda *_: pytest.fail("a model was loaded"))
        forgetting.main(asked)  # what was written as of another class is written anew, from the responses
    (world / "notes/run.json").write_text(json.dumps({"access": "credentialed"}))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    arguments = [
        a if a != str(world / "tuned") else str(world / "notes")
        for a in command(world, "x", data=None, tasks="hellaswag")
    ]
    said = refusal(capsys, arguments)
    assert "a credentialed model is asked, so nothing is fetched" in said and "Next: --data DIR" in said


def test_two_models_of_one_name_are_refused(world, capsys):
    said = refusal(capsys, [*command(world, "x"), "--tuned", str(world / "base")])
    assert "two models are called 'base'" in said


# ---------------------------------------------------------------- the publishers' files
def test_the_publishers_files_are_read_into_the_harness(world):
    tmp_path = world / "published"
    write_jsonl(
        tmp_path / "hellaswag/hellaswag_val.jsonl",
        [
            {
                "ind": 1,
                "activity_label": "Baking",
                "ctx_a": "A baker mixes oats.",
                "ctx_b": "the oven",
                "ctx": "x",
                "split": "val",
                "label": 2,
                "endings": ["is cold.", "sings.", "is hot.", "runs [step] off."],
                "source_id": "invented",
            }
        ],
    )
    question = {
        "stem": "What melts?",
        "choices": [{"text": "frost", "label": "1"}, {"text": "slate", "label": "2"}],
    }
    write_jsonl(
        tmp_path / "arc/ARC-V1/ARC-Challenge-Test.jsonl",
        [{"id": "q1", "question": question, "answerKey": "1"}],
    )
    write_jsonl(
        tmp_path / "winogrande/dev.jsonl",
        [
            {
                "qID": "1",
                "sentence": "The rope fits the barrel as the _ is long.",
                "option1": "rope",
                "option2": "barrel",
                "answer": "1",
            }
        ],
    )
    targets = {"mc1_targets": {"Salt.": 1, "Fog.": 0}, "mc2_targets": {"Salt.": 1, "Fog.": 0}}
    (tmp_path / "truthfulqa").mkdir()
    (tmp_path / "truthfulqa/mc_task.json").write_text(json.dumps([{"question": "What is sold?", **targets}]))
    asked = {}
    for name in ("hellaswag", "arc", "winogrande", "truthfulqa"):
        (task,) = general.load(name, tmp_path)[0].values()
        task.build_all_requests()
        asked[name] = [instance.args for instance in task.instances], task.doc_to_target(task.eval_docs[0])
        assert task.get_config("num_fewshot") == 0
    assert (
        asked["hellaswag"][0][2] == ("Baking: A baker mixes oats. The oven", " is hot.")
        and int(asked["hellaswag"][1]) == 2
    )
    assert asked["hellaswag"][0][3][1] == " runs off."
    assert asked["arc"] == (
        [("Question: What melts?\nAnswer:", " frost"), ("Question: What melts?\nAnswer:", " slate")],
        0,
    )
    assert asked["winogrande"][0][1] == ("The rope fits the barrel as the barrel", " is long.")
    forgetting.main(command(world, "published_out", tasks=",".join(asked), data="published"))
    for task, metric in (
        ("hellaswag", "acc_norm,none"),
        ("arc", "acc_norm,none"),
        ("winogrande", "acc,none"),
        ("truthfulqa", "acc,none"),
    ):
        assert 0 <= result_of(world, "published_out")["tuned"][0]["tasks"][task][metric]["value"] <= 1
    assert (
        asked["truthfulqa"][0][0][0].endswith("\n\nQ: What is sold?\nA:")
        and asked["truthfulqa"][0][0][1] == " Salt."
    )


def test_every_definition_is_one_of_the_harness():
    import lm_eval.tasks

    for task in general.TASKS.values():
        manager = lm_eval.tasks.TaskManager(
            include_path=str(Path(lm_eval.tasks.__file__).parent / task.folder), include_defaults=False
        )
        assert {task.group, task.harness.format("anatomy")} <= set(manager.all_tasks)


@pytest.mark.parametrize(
    ("task", "path", "text", "where"),
    [
        ("mmlu", "mmlu/test/anatomy_test.csv", "What?,a,b,c,d,A\nWhat?,a,b,c,A\n", "record 2"),
        ("mmlu", "mmlu/test/anatomy_test.csv", "What?,a,b,c,d,E\n", "record 1"),
        ("gsm8k", "gsm8k/test.jsonl", '{"question": "?"}\n', "'answer'"),
        (
            "winogrande",
            "winogrande/dev.jsonl",
            '{"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"}\n',
            "no blank",
        ),
        ("mmlu", "mmlu/test/alchemy_test.csv", "What?,a,b,c,d,A\n", "no definition 'mmlu_alchemy'"),
    ],
)
def test_a_bad_record_is_named(tmp_path, task, path, text, where):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    with pytest.raises(BadInput, match=where) as error:
        general.load(task, tmp_path)
    assert str(tmp_path / path).removesuffix("/test/alchemy_test.csv") in str(error.value) and "Next:" in str(
        error.value
    )


@pytest.mark.skipif(not (REAL / "mmlu").is_dir(), reason="the public files are not here")
def test_real_files(world):
    sizes = {name: len(task.eval_docs) for name, task in general.load("mmlu", REAL)[0].items()}
    assert sizes["mmlu_anatomy"] == 135 and sizes["mmlu_clinical_knowledge"] == 265
    assert len(general.load("gsm8k", REAL)[0]["gsm8k"].eval_docs) == 1319
    forgetting.main(
        [
            *command(world, "real", "--limit", "2", "--num_fewshot", "0", tasks="mmlu", data=None),
            "--data",
            str(REAL),
        ]
    )
    assert result_of(world, "real")["asked"]["mmlu"]["n"] == 2 * len(sizes)


def test_the_questions_of_the_demo_can_be_asked(tmp_path):
    import random

    sources.write_general_questions(tmp_path, random.Random(0))
    (task,) = general.load("mmlu_answers", tmp_path)[0].values()
    assert len(task.eval_docs) == 5 * sources.GENERAL_QUESTIONS
    for doc in task.eval_docs:
        assert len(set(doc["choices"])) == 4
        (kind, frame) = next(
            (kind, frame)
            for question, frame, kind in demo_world.GENERAL_QUESTIONS
            if doc["question"].startswith(question[:8])
        )
        right = doc["choices"][doc["answer"]]
        assert sum(word in right for word in demo_world.KINDS_OF_WORDS[kind]), (
            "the answer has a word of the kind that belongs there"
        )


# ---------------------------------------------------------------- the gate
def tuned(name="t", drop=0.0, half=0.0, ratio=None):
    d = {"difference": -drop, "low": -drop - half, "high": -drop + half}
    measured = (
        {"general": {"ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01, "blocks": 9}} if ratio else {}
    )
    return {"name": name, "differences": {"mmlu": d}, "mean": d, "perplexity": measured}


LIMITS = gate.Limits().model_dump()


def verdicts(limits, one, **facts):
    result = {"asked": {"mmlu": {}}, "at_chance": [], "limit": None, **facts}
    return [finding["level"] for finding in gate.findings(LIMITS | limits, one, result)]


def test_the_gate_tells_lost_from_kept_and_from_not_known():
    limits = {"max_general_drop": 0.02}
    assert verdicts({}, tuned(drop=0.5)) == []
    assert verdicts(limits, tuned(drop=0.01, half=0.005)) == []
    assert verdicts(limits, tuned(drop=-0.10, half=0.05)) == [], "a gain is no loss"
    assert verdicts(limits, tuned(drop=0.02)) == [], "the limit itself is tolerated"
    assert verdicts(limits, tuned(drop=0.01, half=0.02)) == ["warned"]
    assert verdicts(limits | {"uncertain": "fail"}, tuned(drop=0.01, half=0.02)) == ["failed"]
    assert verdicts(limits, tuned(drop=0.03, half=0.05)) == ["failed"]
    assert verdicts(limits | {"models": ["other"]}, tuned(drop=0.5)) == ["not judged"]
    assert gate.verdict(LIMITS | limits, [{"gate": [{"level": "not judged"}]}, {"gate": []}]) == "passed"
    two = tuned(drop=0.01) | {
        "differences": {"mmlu": tuned(drop=0.03)["mean"], "arc": tuned(drop=-0.01)["mean"]}
    }
    assert verdicts(limits, two) == ["failed"], "one task is enough"
    assert verdicts(limits, two | {"mean": tuned(drop=0.03)["mean"]}) == ["failed"] * 2
    assert verdicts(limits, tuned(), at_chance=["mmlu"]) == ["warned"]
    assert verdicts(limits, tuned(), limit=5) == ["warned"]
    limits = {"max_general_perplexity_ratio": 1.1}
    assert [verdicts(limits, tuned(ratio=ratio)) for ratio in (1.05, 1.095, 1.2, None)] == [
        [],
        ["warned"],
        ["failed"],
        ["failed"],
    ]


def test_a_task_that_the_gate_wants_must_be_there(world, capsys):
    (world / "gate.yaml").write_text("max_general_drop: 0.02\ntasks: [winogrande]\n")
    said = refusal(capsys, command(world, "x", "--gate", str(world / "gate.yaml")))
    assert "gate.yaml: wants winogrande, which cannot be asked here" in said and not (world / "x").exists()


@pytest.mark.guarantee(
    "Clinical cases and forgetting", "A gate that fails ends with a sentence and leaves its verdict."
)
def test_a_failed_gate_ends_with_a_sentence_and_leaves_its_verdict(world, capsys):
    (world / "gate.yaml").write_text(
        "max_general_drop: -1.0\n"
    )  # whatever the models do, it is a greater loss than a gain of everything
    said = refusal(capsys, command(world, "out", "--gate", str(world / "gate.yaml")))
    assert said.startswith("gate failed: tuned loses ") and " on mmlu, more than max_general_drop -1" in said
    assert (
        result_of(world)["gate"]["verdict"] == "failed"
        and "**failed**" in (world / "out/forgetting.md").read_text()
    )
    forgetting.main(command(world, "out", "--max_general_drop", "1.0"))
    assert result_of(world)["gate"]["verdict"] in ("passed", "warned")
    forgetting.main(command(world, "out"))
    assert result_of(world)["gate"]["verdict"] is None


def test_gates_are_checked(world, capsys):
    for path in sorted((REPO / "evaluation/gates").glob("*.yaml")):
        if "foundation" in path.read_text():
            with pytest.raises(BadInput, match="'foundation' is not one of the tuned models"):
                gate.read_limits(path, {}, ["tuned"])
        tuned = ["tuned", "foundation", *(["dpo", "grpo"] if "alignment" in path.name else [])]
        assert gate.read_limits(path, {}, tuned)["max_general_drop"] > 0
    with pytest.raises(BadInput, match="--max_general_drop: Input should be a finite number"):
        gate.read_limits(None, {"max_general_drop": math.nan}, [])
    assert gate.read_limits(path, {"max_general_drop": 0.5}, tuned)["max_general_drop"] == 0.5
    for text, said in (
        ("max_drop: 1", "gate.yaml: unknown key 'max_drop' (known: max_general_drop, "),
        ("max_general_drop: 1\nmax_drop: 1", "unknown key 'max_drop'"),
        ("", "gate.yaml: must be keys and values"),
        ("uncertain: warn", "gate.yaml: sets no limit. Next: max_general_drop: 0.02"),
        ("max_general_drop: many", "max_general_drop: must be a valid number"),
        ("max_general_drop: true", "max_general_drop: must be a valid number"),
        ("max_general_drop: .nan", "max_general_drop: must be a finite number"),
        ("max_general_drop: 1\nuncertain: maybe", "uncertain: must be 'warn' or 'fail'"),
        ("max_general_drop: 1\ntasks: [trivia]", "tasks: 0: must be 'mmlu', "),
        ("max_general_drop: 1\ntasks: mmlu", "tasks: must be a valid list"),
    ):
        (world / "gate.yaml").write_text(text)
        assert said in refusal(capsys, command(world, "x", "--gate", str(world / "gate.yaml")))


def test_a_base_at_chance_has_nothing_to_lose():
    def items(right, options=4):
        return [{"output": [0] * options, "score": {"acc": float(i < right)}} for i in range(40)]

    assert forgetting.at_chance(items(10), "acc") and not forgetting.at_chance(items(30), "acc")
    assert forgetting.at_chance(items(20, options=2), "acc") and forgetting.at_chance(
        items(0, options=1), "acc"
    )
    assert not forgetting.at_chance(items(10, options=1), "acc"), "what is generated is not right by chance"


# ---------------------------------------------------------------- perplexity, and the page
def test_perplexity_of_any_model_on_held_out_blocks(world, tmp_path):
    """--blocks: each document alone, whatever the runs logged; the same model twice is a ratio of exactly 1."""
    ids = [5, 6, 7, 8, 9, 10, 5, 6, 7, 8]
    rows = {"input_ids": [ids] * 3, "seq_lengths": [[6, 4], [10], [9]]}
    (tmp_path / "blocks").mkdir()
    writer = datasets.arrow_writer.ArrowWriter(path=str(tmp_path / "blocks/v.arrow"))
    writer.write_table(datasets.Dataset.from_dict(rows).data.table)
    writer.finalize()
    output = {"split": "validation", "domain": "general", "path": "v.arrow", "sha256": "s", "records": 3}
    manifest = {"stage": "build_blocks", "access": "gated", "arguments": {}, "inputs": [], "dropped": {}}
    manifest |= {"domains": {"general": {}}, "outputs": [output]}
    (tmp_path / "blocks/manifest.json").write_text(json.dumps(manifest))
    forgetting.main(command(world, "measured", "--blocks", tmp_path / "blocks", "--limit", "2", tasks="mmlu"))
    result = result_of(world, "measured")
    assert result["access"] == "gated" and result["blocks"] == str(tmp_path / "blocks")
    found = result["tuned"][0]["perplexity"]["general"]
    assert found["blocks"] == 3 and found["low"] <= found["ratio"] <= found["high"]

    import torch
    from transformers import AutoModelForCausalLM

    nats = []
    for name in ("tuned", "base"):
        model = AutoModelForCausalLM.from_pretrained(world / name).eval()
        parts = [torch.tensor([part]) for part in (ids[:6], ids[6:], ids, ids[:9])]
        with torch.no_grad():
            nats.append(sum(model(x, labels=x).loss.item() * (x.shape[1] - 1) for x in parts))
    assert found["ratio"] == pytest.approx(math.exp((nats[0] - nats[1]) / (5 + 3 + 9 + 8)), rel=1e-4)


def test_perplexity_ratio_and_curves(world, capsys):
    assert result_of(world)["tuned"][0]["perplexity"]["general"]["ratio"] == pytest.approx(math.exp(3 / 30))
    run = world / "run"
    run.mkdir()
    log = [
        {"step": 10, "tokens_seen": 1000, "loss": 2.0},
        {"step": 15, "eval_general_perplexity": 9.0},
        {"step": 20, "tokens_seen": 3000},
        {"step": 25, "eval_general_perplexity": 8.5},
        {"step": 25, "eval_general_perplexity": 8.5},
    ]
    (run / "trainer_state.json").write_text(
        json.dumps({"log_history": log, "global_step": 25, "num_input_tokens_seen": 4000})
    )
    record = json.loads((world / "base/run.json").read_text())
    record["arguments"]["model_name_or_path"] = str(world / "base")
    (run / "run.json").write_text(json.dumps(record | {"access": "credentialed"}))
    curves.main([str(run), "--out", str(world / "curves")])
    (curve,) = json.loads((world / "curves/perplexity.json").read_text())
    assert curve["run"] == "run" and curve["domain"] == "general" and curve["tokens"] == [0, 2000, 4000]
    assert curve["perplexity"] == pytest.approx([math.exp(63 / 30), 9.0, 8.5])
    assert (world / "curves/perplexity.png").read_bytes().startswith(b"\x89PNG")
    assert curve["access"] == "credentialed" and not (world / "curves").stat().st_mode & 0o077
    shutil.copytree(run, world / "run2")
    curves.main([str(run), str(world / "run2"), "--out", str(world / "curves")])
    assert "do not compare" not in capsys.readouterr().out

    # the blocks are made anew: which ones the older runs were validated on is unknown
    manifest = world / "blocks" / "manifest.json"
    manifest.write_text(
        json.dumps({"outputs": [{"split": "validation", "domain": "general", "sha256": "b"}]})
    )
    assert forgetting.perplexity_ratios(world / "tuned", world / "base") == {}
    (world / "run2/run.json").write_text(json.dumps(record | {"inputs": {str(manifest): sha256(manifest)}}))
    curves.main([str(run), str(world / "run2"), "--out", str(world / "curves")])
    assert "general: run, run2 were validated on different or unknown blocks" in capsys.readouterr().out
    for curve in json.loads((world / "curves/perplexity.json").read_text()):
        assert curve["tokens"] == [2000, 4000], "the perplexity of the parent is of other blocks"
    with pytest.raises(SystemExit, match="trainer_state.json: no such file"):
        curves.main([str(world / "data"), "--out", str(world / "curves")])


def test_the_section_of_the_report(world):
    result = result_of(world)
    result["curves"] = [{"run": "run", "domain": "general", "tokens": [0, 10], "perplexity": [9.0, 8.0]}]
    result["tuned"][0]["name"] = "<tuned>"
    result["gate"] |= {"verdict": "failed"}
    result["tuned"][0]["gate"] = [{"level": "failed", "sentence": "it loses"}]
    page, text = str(forgetting_page.html(result)), forgetting_page.markdown(result, "##")
    assert (
        "&lt;tuned&gt;" in page
        and "<tuned>" not in page
        and "<svg" in page
        and 'class="claim contradicted"' in page
    )
    assert text.startswith("## Forgetting") and "**failed**" in text and "- it loses" in text
    for shown in (page, text):
        assert formats.format_difference(
            result["tuned"][0]["differences"]["mmlu"]
        ) in shown and "9.00 -&gt; 8.00" in shown.replace("->", "-&gt;")


def test_a_plan_measures_each_base_and_shows_the_papers_change_beside(world, capsys):
    comparison = {
        "base": str(world / "base"),
        "tuned": [{"model": str(world / "tuned"), "published": "PMC-LLaMA 13B"}],
    }
    plan, more = world / "plan.yaml", ["--data", str(world / "data"), "--device", "cpu"]
    plan.write_text(yaml.safe_dump({"tasks": "mmlu", "comparisons": [comparison]}))
    forgetting.main(["--plan", str(plan), "--out", str(world / "planned"), *more])
    text = (world / "planned/forgetting.md").read_text()
    assert re.search(
        r"\| tuned \| base \| [+-]0\.\d{3} \(.*\) \| 0\.\d{3} \| -2\.7 %, medical to general text 19:1", text
    )
    assert result_of(world, "planned/base")["tuned"][0]["published"]["points"] == -2.7
    assert "tuned in the paper: -2.7 %" in (world / "planned/base/forgetting.md").read_text()
    comparison["tuned"][0]["published"] = "GPT-5"
    plan.write_text(yaml.safe_dump({"comparisons": [comparison]}))
    assert "the paper says nothing about 'GPT-5'" in refusal(
        capsys, ["--plan", str(plan), "--out", str(world / "x")]
    )
    for wrong in ([], ["--base", "a", "--tuned", "b", "--plan", str(plan)]):
        with pytest.raises(SystemExit):
            forgetting.main([*wrong, "--out", str(world / "x")])


def test_the_plan_of_the_paper_names_models_that_exist():
    plan = load(REPO / "evaluation/plans/forgetting.yaml", config.ForgettingPlan)
    known = registry.families(sorted(registry.FOLDER.glob("*.yaml")))
    assert {model for one in plan.comparisons for model in (one.base, *(t.model for t in one.tuned))} <= set(
        known
    )
    assert (REPO / plan.gate).is_file()
