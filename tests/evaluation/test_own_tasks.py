"""A benchmark of your own, from a table to scores and report, without a file in evaluation/tasks."""

import json
import random
from types import SimpleNamespace

import pytest

from data_prep import build_tasks, describe
from data_prep.demo import sources_full
from evaluation import generate, own_tasks, report, score
from tests.data_prep.test_own_data import write_table
from tests.tiny_model import make_model


def test_own_benchmarks_are_generated_scored_and_reported(tmp_path):
    raw, rows, out = tmp_path / "raw", tmp_path / "rows", tmp_path / "eval/run"
    exam = [{"question": f"Which {i}?", "A": "liver", "B": "heart", "answer": "AB"[i % 2]} for i in range(4)]
    write_table(raw / "our_exam/exam.csv", exam)
    write_table(raw / "our_labels/t.csv", [{"text": f"Text {i}.", "label": "ab"[i % 2]} for i in range(4)])
    for name, kind in (("our_exam", "choice"), ("our_labels", "choice")):
        describe.main([str(raw / name), "--kind", kind, "--access", "public"])
    build_tasks.main(["--raw", str(raw), "--out", str(rows)])
    tasks = own_tasks.names(rows)
    assert tasks == ["our_exam", "our_exam_ll", "our_exam_letters_ll", "our_labels", "our_labels_ll"]

    make_model(tmp_path / "model")
    flags = ["--preset", "paper", "--device", "cpu", "--max_new_tokens", "4", "--out", str(out)]
    model = ["--model", str(tmp_path / "model"), "--rows", str(rows)]
    generate.main([*model, "--tasks", ",".join(tasks), *flags])
    score.main([str(out)])
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert set(scores) == set(tasks)
    assert "accuracy" in json.dumps(scores["our_exam_ll"])
    report.main(["--evaluation", str(out.parent), "--out", str(tmp_path / "report")])
    assert "our_exam_ll" in (tmp_path / "report/report.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="unknown task 'other' .known: .*our_exam_ll"):
        generate.main([*model, "--tasks", "other", *flags])


def test_longhealth_is_asked_and_scored(tmp_path):
    """A benchmark beyond the twelve: no file in evaluation/tasks, and answered like any other."""
    raw, rows, out = tmp_path / "raw", tmp_path / "rows", tmp_path / "run"
    (raw / "longhealth").mkdir(parents=True)
    drugs = [SimpleNamespace(name=f"Disease {i}", drug=f"drug{i}") for i in range(12)]
    sources_full.write_longhealth(raw / "longhealth", random.Random(0), drugs)
    build_tasks.main(["--raw", str(raw), "--tasks", "longhealth", "--out", str(rows)])
    make_model(tmp_path / "model", positions=2048)
    flags = ["--preset", "paper", "--device", "cpu", "--max_new_tokens", "4", "--out", str(out)]
    flags += ["--tasks", "longhealth,longhealth_letters_ll", "--rows", str(rows)]
    generate.main(["--model", str(tmp_path / "model"), *flags])
    score.main([str(out)])
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert {task: entry["n"] for task, entry in scores.items()} == {
        "longhealth": 24,
        "longhealth_letters_ll": 24,
    }
