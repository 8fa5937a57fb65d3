"""evaluation.stock: the harness's medical tasks, asked here and by plain lm-eval of the same model."""

import csv
import json

import pytest

from evaluation import generate, score, stock
from evaluation.tasks import general
from tests.tiny_model import make_model, read_jsonl

WORDS = ["aspirin", "zorimel", "liver", "heart"]


def publish(folder):
    """The publishers' files of all ten tasks, with invented questions whose texts have blanks at their ends."""

    def options(i):
        return [f"{WORDS[(i + j) % 4]} {i}{' ' * (j % 2)}" for j in range(4)]

    def lines(path, records):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    for split, start in (("test", 0), ("train", 10)):
        lines(
            folder / f"medqa/US/4_options/phrases_no_exclude_{split}.jsonl",
            [
                {
                    "question": f"Which {i}?\nNow. ",
                    "options": dict(zip("ABCD", options(i), strict=True)),
                    "answer_idx": "ABCD"[i % 4],
                }
                for i in range(start, start + 5)
            ],
        )
    lines(
        folder / "medmcqa/dev.json",
        [
            {
                "id": str(i),
                "question": f"Which {i}",
                "cop": 1 + i % 4,
                **dict(zip(("opa", "opb", "opc", "opd"), options(i), strict=True)),
            }
            for i in range(4)
        ],
    )
    (folder / "careqa").mkdir()
    (folder / "careqa/CareQA_en.json").write_text(
        json.dumps(
            [
                {
                    "question": f"Which {i}",
                    "cop": 1 + i % 4,
                    **{f"op{j + 1}": option for j, option in enumerate(options(i))},
                }
                for i in range(4)
            ],
            indent=1,
        )
    )
    (folder / "pubmedqa").mkdir()
    labelled = {
        str(i): {
            "QUESTION": f"Does {i}?",
            "CONTEXTS": ["First.", f"Then {i}."],
            "final_decision": ["yes", "no", "maybe"][i % 3],
        }
        for i in range(6)
    }
    (folder / "pubmedqa/ori_pqal.json").write_text(json.dumps(labelled, indent=1))
    (folder / "pubmedqa/test_ground_truth.json").write_text(
        json.dumps({i: labelled[i]["final_decision"] for i in ("4", "1", "2")})
    )
    for task in general.MEDICAL:
        if subject := task.removeprefix("mmlu_") if task.startswith("mmlu_") else "":
            for split in ("test", "dev"):
                path = folder / f"mmlu/{split}/{subject}_{split}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("w", newline="") as file:
                    rows = [[f" Which {split} {i}? ", *options(i), "ABCD"[i % 4]] for i in range(2)]
                    csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    publish(folder / "raw")
    make_model(folder / "model")
    return folder


def ask(world, rows, *more):
    out = world / "eval" / rows
    flags = ["--preset", "paper", "--device", "cpu", "--out", str(out), "--tasks", "stock"]
    generate.main(["--model", str(world / "model"), "--rows", str(world / rows), *flags, *more])
    score.main([str(out)])
    return json.loads((out / "run.json").read_text()), json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize("shots", [None, 2])
def test_prompts_and_scores_are_those_of_plain_lm_eval(world, shots):
    import lm_eval

    tasks = general.MEDICAL if shots is None else ["medqa_4options", "mmlu_anatomy"]
    rows, more = f"rows_{shots}", ["--num_fewshot", str(shots)] if shots else []
    stock.main(["--data", str(world / "raw"), "--out", str(world / rows), "--tasks", ",".join(tasks), *more])
    run, scores = ask(world, rows, "--reproducible")
    loaded = [general.load(task, world / "raw", shots)[0][task] for task in tasks]
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(world / "model"), "dtype": "float32"},
        tasks=loaded,
        batch_size=1,
        device="cpu",
        bootstrap_iters=0,
        num_fewshot=shots,
        log_samples=True,
    )
    for task in tasks:
        name = f"stock_{task}_letters_ll"
        ours = read_jsonl(world / "eval" / rows / f"{name}.jsonl")
        samples = theirs["samples"][task]
        assert len(ours) == len(samples) > 1
        for row, sample in zip(ours, sorted(samples, key=lambda s: s["doc_id"]), strict=True):
            asked = [tuple(pair) for pair in sample["arguments"]]
            assert asked == [(row["prompt"][:-1], f" {choice}") for choice in row["choices"]]
            assert [nats for nats, _ in row["output"]] == [float(r[0][0]) for r in sample["resps"]]
        assert scores[name]["metrics"]["accuracy"]["value"] == theirs["results"][task]["acc,none"]
        assert run["tasks"][name]["first_prompt"] == ours[0]["prompt"][:-1]
    assert run["settings"]["batch_size"] == "1" and run["settings"]["device"] == "cpu"
    if shots:
        assert ours[0]["prompt"].count("Answer:") == 3
    else:
        assert len(tasks) == 10
        assert {tuple(row["choices"]) for row in read_jsonl(world / rows / "stock_pubmedqa/test.jsonl")} == {
            ("yes", "no", "maybe")
        }


def test_what_is_missing_or_wrong_is_said(world, tmp_path, capsys):
    with pytest.raises(SystemExit, match="unknown task 'mmlu'"):
        stock.main(["--data", str(world / "raw"), "--out", str(tmp_path / "o"), "--tasks", "mmlu"])
    with pytest.raises(SystemExit, match="holds the files of none of these tasks"):
        stock.main(["--data", str(tmp_path), "--out", str(tmp_path / "o")])
    assert "careqa_en: left out, no " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="medmcqa: 0 examples are to be had, not 2"):
        stock.main(
            ["--data", str(world / "raw"), "--out", str(tmp_path / "o"), "--tasks", "medmcqa"]
            + ["--num_fewshot", "2"]
        )
    (tmp_path / "medmcqa").mkdir()
    record = {"id": "1", "question": "?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 0}
    (tmp_path / "medmcqa/dev.json").write_text(json.dumps(record) + "\n")
    with pytest.raises(SystemExit, match="record 1 is not as published .cop is not 1 to 4"):
        stock.main(["--data", str(tmp_path), "--out", str(tmp_path / "o"), "--tasks", "medmcqa"])
