"""Table 6 for any checkpoints: what is missing is run, what is there is not, and differences are paired."""

import json
import os
import shlex

import pytest
import yaml

import demo
from data_prep import egress
from data_prep.schema import load
from evaluation import ablation, generate
from evaluation.models import registry
from evaluation.reporting import config, paper_claims, tables
from tests.tiny_model import REPO, make_model, read_jsonl, rows_of, write_rows

OPTIONS = {"choices": ["A", "B"], "question": "Which drug?", "options": ["zorimel", "tavoxan forte"]}


def write_plan(folder, **changes):
    models = [
        {"name": name, "label": name.title(), "model": str(folder / name), "preset": "paper"}
        for name in ("first", "second", "third")
    ]
    models[0]["paper"], models[1]["paper"] = "LLaMA2 13B", "Me-LLaMA-13B-chat"
    plan = {
        "title": "Invented",
        "rows": str(folder / "rows"),
        "evaluation": str(folder / "evaluation"),
        "tasks": ["mednli", "medqa_ll", "i2b2"],
        "settings": {"max_new_tokens": 4, "device": "cpu", "allow_overlong": True},
        "models": models,
    }
    plan["differences"] = [
        {"what": "All", "of": "third", "to": "first"},
        {"what": "One", "of": "second", "to": "first"},
    ]
    path = folder / "plan.yaml"
    path.write_text(
        yaml.safe_dump({key: value for key, value in (plan | changes).items() if value is not None})
    )
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ablation")
    write_rows(
        folder / "rows",
        "mednli",
        rows_of(
            "mednli", "choice", [(f"So {i}?", "neutral") for i in range(4)], choices=["entailment", "neutral"]
        ),
    )
    write_rows(
        folder / "rows",
        "medqa",
        rows_of("medqa", "choice", [(f"Which {i}?", "AB"[i % 2]) for i in range(8)], **OPTIONS),
    )
    marked = [("Mark: a cough", '<span class="problem">a cough</span>')]
    write_rows(folder / "rows", "i2b2", rows_of("i2b2", "entities", marked, choices=["problem", "treatment"]))
    for seed, name in enumerate(("first", "second", "third")):
        make_model(folder / name, seed=seed)
    ablation.main(["--plan", str(write_plan(folder)), "--out", str(folder / "out")])
    return folder


def result_of(world):
    return json.loads((world / "out/table6.json").read_text())


def test_the_shape_is_table_6_with_the_papers_columns_beside_ours(world):
    table = result_of(world)["table"]
    assert [(row["task"], row["metric"]) for row in table["rows"]] == [
        ("i2b2", "macro_f1"),
        ("mednli", "macro_f1"),
    ]
    assert table["published"] == ["LLaMA2 13B", "Me-LLaMA-13B-chat"]
    paper = json.loads(tables.PAPER.read_text())["table6_ablation"]["records"]
    for row in table["rows"]:
        for record in row["published"]:
            same = (r for r in paper if (r["dataset"], r["model"]) == (row["task"], record["model"]))
            assert record["value"] == next(same)["value"]
        scores = [
            json.loads((world / "evaluation" / name / "scores.json").read_text())
            for name in ("first", "second", "third")
        ]
        assert [cell["n"] for cell in row["ours"]] == [entry[row["task"]]["n"] for entry in scores]
    assert "i2b2 of Me-LLaMA 13B-chat is 0.166 in Table 5" in (world / "out/table6.md").read_text(), (
        "a known contradiction is named below"
    )
    assert "Me-LLaMA 70B" not in (world / "out/table6.md").read_text()
    assert (world / "out/table6.csv").read_text().count(",paper,") == 4 and r"\begin{table}" in (
        world / "out/table6.tex"
    ).read_text()


def test_the_class_is_that_of_rows_and_models_also_without_a_run_json(world, tmp_path):
    rows = [
        row | {"output": "neutral"}
        for row in rows_of("mednli", "choice", [("So?", "neutral")], choices=["neutral"])
    ]
    for name, access in (("first", "public"), ("second", "credentialed"), ("third", "public")):
        (tmp_path / "evaluation" / name).mkdir(parents=True)
        (tmp_path / "evaluation" / name / "mednli.jsonl").write_text(
            json.dumps(rows[0] | {"model_access": access}) + "\n"
        )
    plan = write_plan(
        tmp_path, tasks=["mednli"], differences=[{"what": "Public ones", "of": "third", "to": "first"}]
    )
    for _ in range(2):  # the second time no file of the credentialed model is read but its scores
        ablation.main(["--plan", str(plan), "--out", str(tmp_path / "out"), "--scored"])
        egress._blocked = None
        os.umask(0o022)
    assert result_of(tmp_path)["access"] == "credentialed" and not (tmp_path / "out").stat().st_mode & 0o077


def test_differences_are_paired_and_named(world):
    result = result_of(world)
    assert result["access"] == "gated", "that of the models"
    (other,) = result["others"]
    assert (other["task"], other["metric"], other["n"]) == ("medqa_ll", "accuracy", 8)
    whole, one = result["differences"]
    assert (whole["of"], whole["to"], one["of"]) == ("third", "first", "second")
    for pair in (whole, one):
        line = next(line for line in pair["lines"] if line["task"] == "medqa_ll")
        files = [world / "evaluation" / pair[role] / "medqa_ll.scored.jsonl" for role in ("of", "to")]
        rows, others = ({row["id"]: row["score"]["accuracy"] for row in read_jsonl(file)} for file in files)
        assert line["difference"] == pytest.approx(sum(rows[key] - others[key] for key in rows) / 8)
        assert line["mcnemar"]["only_this"] == sum(rows[key] > others[key] for key in rows)
        assert line["low"] <= line["difference"] <= line["high"]
    text = (world / "out/table6.md").read_text()
    assert "All: Third minus First" in text and "†" in text, "tiny random models answer in no form"


def test_a_model_has_no_cell_on_a_task_that_it_was_not_made_for(world, tmp_path):
    plan = yaml.safe_load((world / "plan.yaml").read_text())
    plan["models"][0]["tasks"] = ["medqa_ll"]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    ablation.main(["--plan", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--scored"])
    result = result_of(tmp_path)
    assert all(row["ours"][0] is None and row["ours"][1] for row in result["table"]["rows"])
    compared = {line["task"] for line in result["differences"][0]["lines"] if line["n"]}
    assert compared == {"medqa_ll"}, "to the first model"
    differences = (tmp_path / "out/table6.md").read_text().split("## Differences")[1]
    assert "| medqa_ll |" in differences and "mednli" not in differences, "no line without a difference"


def test_what_is_done_is_not_done_again(world, monkeypatch, capsys):
    before = (world / "out/table6.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(generate, "answer", lambda *_: pytest.fail("a model was asked"))
        patch.setattr(ablation.score, "score_folder", lambda *_: pytest.fail("was scored again"))
        ablation.main(["--plan", str(write_plan(world)), "--out", str(world / "out")])
    assert (world / "out/table6.json").read_bytes() == before
    (world / "evaluation/third/scores.json").unlink()
    monkeypatch.setattr(generate, "generate", lambda *_: pytest.fail("a model was asked"))
    ablation.main(["--plan", str(write_plan(world)), "--out", str(world / "out"), "--scored"])
    assert (world / "out/table6.json").read_bytes() == before, "only scored again"
    assert "wrote" in capsys.readouterr().out


def test_a_wrong_plan_is_refused(world):
    model = {"name": "a", "label": "A", "model": "m", "preset": "paper"}
    pair = {"of": "first", "to": "fourth", "what": "x"}
    for changes, said in (
        ({"tasks": None}, "plan.yaml: tasks: missing"),
        ({"tasks": []}, "tasks: must be a list of at least one task, found []"),
        ({"seed": 1}, "unknown key 'seed' (known: title, "),
        ({"models": [model]}, "models: must be a list of at least two models"),
        ({"models": [model, {**model}]}, "two are called 'a'"),
        ({"models": [model, {**model, "name": "b", "paper": "GPT-4"}]}, "no column 'GPT-4'"),
        ({"models": [model, {**model, "shots": 1}]}, "models: 1: unknown key 'shots'"),
        ({"differences": [pair]}, "'fourth' is not one of the models"),
        ({"differences": [{"of": "first"}]}, "differences: 0: what: missing"),
        ({"tasks": ["mednli", "hoc"]}, "hoc"),
        ({"table": 4, "models": [model, {**model, "name": "b"}], "differences": None}, "is for table 4"),
        ({"settings": ["x"]}, "settings: must be a valid dictionary"),
    ):
        with pytest.raises(SystemExit, match="error: ") as stop:
            ablation.main(
                ["--plan", str(write_plan(world, **changes)), "--out", str(world / "refused"), "--scored"]
            )
        assert said in str(stop.value)
    assert not (world / "refused").exists()


@pytest.mark.parametrize(
    "path",
    sorted({*(REPO / "evaluation/plans").glob("*.yaml")} - {REPO / "evaluation/plans/forgetting.yaml"}),
    ids=lambda path: path.stem,
)
def test_the_plans_name_tasks_models_and_settings_that_exist(path):
    plan = load(path, config.Plan).model_dump()
    known = registry.families(sorted(registry.FOLDER.glob("*.yaml")))
    for model in plan["models"]:
        assert model["model"].startswith("outputs/") or model["model"] in known
        arguments = [
            "--model",
            model["model"],
            "--rows",
            "rows",
            "--tasks",
            ",".join(plan["tasks"]),
            "--preset",
            model["preset"],
            "--out",
            "out",
        ]
        arguments += [str(part) for name, value in plan["settings"].items() for part in (f"--{name}", value)]
        generate.parse_tasks(generate.make_parser().parse_intermixed_args(arguments).tasks)
    if plan["training"]:
        files = [plan["training"][key] for key in ("recipe", "config", "accelerate")]
        assert all((REPO / file).is_file() for file in (*files, *plan["training"]["large"].values()))
        assert set(plan["training"]["large"]) <= {model["name"] for model in plan["models"]}
    if path.stem == "demo":  # the demo has asked these models in this way
        stages = {stage.name: stage.commands()[0] for stage in demo.STAGES}
        for model in plan["models"]:
            asked = shlex.join(stages[f"evaluation_{model['name']}"])
            tasks = asked.split("--tasks ")[1].split()[0].split(",")
            assert set(model["tasks"] or plan["tasks"]) <= set(tasks)
            for flag, value in {
                "model": model["model"],
                "preset": model["preset"],
                **plan["settings"],
            }.items():
                assert f"--{flag} {value} " in asked


# ---------------------------------------------------------------- Table 4, costs, and the paper's claims
RECIPE = """import json, shutil, sys
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = Path(given["--output_dir"])
shutil.copytree(given["--model_name_or_path"], out)
run = {"status": "complete", "stage": "sft", "arguments": {"rows": given["--rows"]}}
(out / "run.json").write_text(json.dumps(run))
"""


def test_table_4_trains_each_model_on_each_task_once_and_asks_it_that_task(
    world, tmp_path, monkeypatch, capsys
):
    (tmp_path / "recipe.py").write_text(RECIPE)
    training = {
        "recipe": str(tmp_path / "recipe.py"),
        "out": str(tmp_path / "trained"),
        "config": "c",
        "accelerate": "a",
    }
    models = [{"name": name, "label": name, "model": str(world / name)} for name in ("first", "second")]
    models[0]["paper"] = "LLaMA2 13B"
    changes = {"tasks": ["mednli", "i2b2"], "table": 4, "models": models, "training": training}
    plan = write_plan(world, **changes, differences=None, evaluation=str(tmp_path / "evaluation"))
    launched, run = [], ablation.subprocess.run

    def launch(command):
        launched.append(command)
        return run([command[0], *command[command.index(training["recipe"]) :]])

    monkeypatch.setattr(ablation.subprocess, "run", launch)
    for _ in range(2):
        ablation.main(["--plan", str(plan), "--out", str(tmp_path / "out")])
    assert len(launched) == 4 and (tmp_path / "trained/second/i2b2/run.json").is_file()
    asked = sorted(
        path.relative_to(tmp_path / "evaluation").as_posix()
        for path in tmp_path.glob("evaluation/*/*/*.scored.jsonl")
    )
    assert asked == [
        f"{name}/{task}/{task}.scored.jsonl" for name in ("first", "second") for task in ("i2b2", "mednli")
    ]
    table = json.loads((tmp_path / "out/table4.json").read_text())["table"]
    assert [row["task"] for row in table["rows"]] == ["i2b2", "mednli"] and table["published"] == [
        "LLaMA2 13B"
    ]
    said = capsys.readouterr().out
    assert "| first | size unknown | 2 of 2 |" in said and "| first | size unknown | 0 of 2 |" in said


def test_the_cost_is_printed_and_nothing_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablation.subprocess, "run", lambda *_: pytest.fail("something was started"))
    ablation.main(["--plan", str(REPO / "evaluation/plans/table4.yaml"), "--cost"])
    said = capsys.readouterr().out
    assert (
        "| Me-LLaMA 70B | 70B | 12 of 12 |" in said
        and "a planning figure" in said
        and not list(tmp_path.iterdir())
    )


def test_the_papers_claims_are_confirmed_or_contradicted_by_its_own_tables():
    checked = {claim["quote"]: claim for claim in paper_claims.check_paper()}
    marks = {"confirmed": "+", "contradicted": "-", "cannot be recomputed": "?"}
    assert "".join(marks[claim["verdict"]] for claim in checked.values()) == "++++-+++--+--???"
    release = checked["on 9 out of 12 datasets (except for MedMCQA, 2010 i2b2 and MIMIC-CXR)"]
    assert "PubMed ROUGE-L 0.209 against 0.211" in release["cells"], "PubMed is the third, not MIMIC-CXR"
    written = next(
        claim for quote, claim in checked.items() if "LLaMA2 13B model" in quote and claim["table"] == 6
    )
    assert "to 46.6 (PubMedQA accuracy)" in written["cells"], "55 is the difference to LLaMA2 70B"


def test_the_papers_claims_on_our_values_need_all_datasets():
    paper = json.loads(tables.PAPER.read_text())
    models = [{"name": str(i), "paper": name} for i, name in enumerate(paper["table4_supervised"]["models"])]
    columns = {model["paper"]: model["name"] for model in models}
    rows = {}
    for r in paper["table4_supervised"]["records"]:
        key = (
            tables.TASK.get(r["dataset"], r["dataset"]),
            tables.METRIC.get((r["dataset"], r["metric"]), r["metric"]),
        )
        rows.setdefault(key, []).append({"model": columns[r["model"]], "value": r["value"]})
    table = {
        "number": 4,
        "rows": [{"task": task, "metric": metric, "ours": cells} for (task, metric), cells in rows.items()],
    }
    known = [c["verdict"] for c in paper_claims.check_paper() if c["table"] == 4]
    assert [c["verdict"] for c in paper_claims.check_ours(table, models)] == known
    table["rows"] = table["rows"][2:]
    assert {c["verdict"] for c in paper_claims.check_ours(table, models)} == {"undecided"}
    assert paper_claims.check_ours(table, models[:1]) == []


def test_few_shot_is_a_preset_with_a_folder_of_its_own(monkeypatch):
    seen = []
    monkeypatch.setattr(ablation.cost, "table", lambda plan, *_: seen.append(plan) or "")
    command = ["--plan", str(REPO / "evaluation/plans/table5.yaml"), "--cost"]
    for more in ([], ["--shots", "5"]):
        ablation.main([*command, *more])
    assert [plan.evaluation for plan in seen] == ["outputs/evaluation", "outputs/evaluation_5shot"]
    assert [plan.settings.get("num_fewshot") for plan in seen] == [None, 5]
    with pytest.raises(SystemExit, match="--shots -1: must be 0 or more"):
        ablation.main([*command, "--shots", "-1"])
