"""The majority class and chance, written as a model's answers are, and scored as they are."""

import json

import pytest

from data_prep.files import write_jsonl
from evaluation import baselines, score


def row(i, split, completion, access="public", scoring="choice"):
    return {
        "id": f"{split}{i}",
        "task": "t",
        "split": split,
        "scoring": scoring,
        "choices": ["A", "B", "C"],
        "source": "s",
        "license": "CC0",
        "access": access,
        "prompt": "Which?",
        "completion": completion,
    }


def test_the_majority_class_and_chance_are_scored_as_models_are(tmp_path, capsys):
    train = [row(i, "train", letter, "gated") for i, letter in enumerate("ABBC")]
    write_jsonl(tmp_path / "rows/t/train.jsonl", train)
    write_jsonl(
        tmp_path / "rows/t/test.jsonl", [row(i, "test", letter) for i, letter in enumerate("BBBA" * 30)]
    )
    write_jsonl(tmp_path / "rows/free/train.jsonl", [row(0, "train", "A", scoring="summary")])
    write_jsonl(tmp_path / "rows/free/test.jsonl", [row(0, "test", "A", scoring="summary")])
    for _ in range(2):  # a second time: the same
        baselines.main(["--rows", str(tmp_path / "rows"), "--out", str(tmp_path / "out")])
    score.main([str(tmp_path / "out" / name) for name in ("majority", "chance")])
    assert json.loads((tmp_path / "out/majority/run.json").read_text())["access"] == "gated"
    scores = {
        name: json.loads((tmp_path / "out" / name / "scores.json").read_text())["t"]["metrics"]["accuracy"]
        for name in ("majority", "chance")
    }
    assert scores["majority"]["value"] == 0.75
    assert 0.2 < scores["chance"]["value"] < 0.47, "a third, within four standard errors"


def test_a_folder_without_multiple_choice_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no multiple-choice task .* Next: python -m data_prep.build_tasks"):
        baselines.main(["--rows", str(tmp_path), "--out", str(tmp_path / "out")])
