"""Table 6 for any checkpoints: what is missing is run, what is there is not, and differences are paired."""

import json
import os

import pytest
import yaml
from tiny_model import REPO, make_model, read_jsonl, rows_of, write_rows

import demo
from data_prep import egress
from evaluation import ablation, generate
from evaluation.models import registry
from evaluation.reporting import tables

OPTIONS = {"choices": ["A", "B"], "question": "Which drug?", "options": ["zorimel", "tavoxan forte"]}


def write_plan(folder, **changes):
    models = [
        {"name": name, "label": name.title(), "model": str(folder / name), "preset": "paper"}
        for name in ("first", "second", "third")
    ]
    models[0]["article"], models[1]["article"] = "LLaMA2 13B", "Me-LLaMA-13B-chat"
    plan = {"title": "Invented", "rows": str(folder / "rows"), "evaluation": str(folder / "evaluation"), "tasks": ["mednli", "medqa_ll", "i2b2"],
            "settings": {"max_new_tokens": 4, "device": "cpu", "allow_overlong": True}, "models": models}  # fmt: skip
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


def test_the_shape_is_table_6_with_the_articles_columns_beside_ours(world):
    table = result_of(world)["table"]
    assert [(row["task"], row["metric"]) for row in table["rows"]] == [
        ("i2b2", "macro_f1"),
        ("mednli", "macro_f1"),
    ]
    assert table["published"] == ["LLaMA2 13B", "Me-LLaMA-13B-chat"]
    article = json.loads(tables.ARTICLE.read_text())["table6_ablation"]["records"]
    for row in table["rows"]:
        for record in row["published"]:
            assert {"dataset": row["task"], "model": record["model"], "value": record["value"]}.items() <= next(
                r for r in article if (r["dataset"], r["model"]) == (row["task"], record["model"])).items()  # fmt: skip
        scores = [
            json.loads((world / "evaluation" / name / "scores.json").read_text())
            for name in ("first", "second", "third")
        ]
        assert [cell["n"] for cell in row["ours"]] == [entry[row["task"]]["n"] for entry in scores]
    assert "i2b2 of Me-LLaMA 13B-chat is 0.166 in Table 5" in (world / "out/table6.md").read_text(), (
        "a known contradiction stands below"
    )
    assert "Me-LLaMA 70B" not in (world / "out/table6.md").read_text()
    assert (world / "out/table6.csv").read_text().count("article") == 4 and r"\begin{table}" in (
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
        egress._inside = None
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
        rows, others = ({row["id"]: row["score"]["accuracy"] for row in read_jsonl(world / "evaluation" / pair[role] / "medqa_ll.scored.jsonl")}
                        for role in ("of", "to"))  # fmt: skip
        assert line["difference"] == pytest.approx(sum(rows[key] - others[key] for key in rows) / 8)
        assert line["mcnemar"]["only_this"] == sum(rows[key] > others[key] for key in rows)
        assert line["low"] <= line["difference"] <= line["high"]
    text = (world / "out/table6.md").read_text()
    assert "All: Third minus First" in text and "†" in text, "tiny random models answer in no form"


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
    pair = {"of": "first", "to": "nobody", "what": "x"}
    for changes, said in (({"tasks": None}, "missing or unknown: tasks"), ({"tasks": []}, "'tasks' must be a list"), ({"seed": 1}, "missing or unknown: seed"),
                          ({"models": [model]}, "two or more"), ({"models": [model, {**model, "article": "GPT-4"}]}, "no column 'GPT-4'"),
                          ({"models": [model, {**model, "shots": 1}]}, "model 2: missing or unknown: shots"),
                          ({"differences": [pair]}, "'nobody' is none of the models"), ({"differences": [{"of": "first"}]}, "must have the keys"),
                          ({"tasks": ["mednli", "hoc"]}, "hoc")):  # fmt: skip
        with pytest.raises(SystemExit, match="error: ") as stop:
            ablation.main(
                ["--plan", str(write_plan(world, **changes)), "--out", str(world / "refused"), "--scored"]
            )
        assert said in str(stop.value)
    assert not (world / "refused").exists()


@pytest.mark.parametrize(
    "path", sorted((REPO / "evaluation/plans").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_plans_name_tasks_models_and_settings_that_exist(path):
    plan = ablation.read_plan(path)
    known = registry.families(sorted(registry.FOLDER.glob("*.yaml")))
    for model in plan["models"]:
        assert model["model"].startswith("outputs/demo/") or model["model"] in known
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
    if path.stem == "demo":  # the demo has asked these models in this way
        stages = {stage.name: stage.commands()[0] for stage in demo.STAGES}
        for model in plan["models"]:
            asked = " ".join(stages[f"evaluation_{model['name']}"])
            for flag, value in {
                "model": model["model"],
                "preset": model["preset"],
                **plan["settings"],
            }.items():
                assert f"--{flag} {value} " in asked
            assert f"--tasks {','.join(plan['tasks'])} " in asked
