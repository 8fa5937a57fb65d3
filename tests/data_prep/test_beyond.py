"""Benchmarks beyond the twelve: invented records in the publishers' form to rows, and their scores."""

import csv
import json

import pyarrow.parquet
import pytest

from data_prep import build_tasks
from data_prep.corpus import decontamination
from evaluation import own_tasks
from evaluation.scoring import calibration, metrics, parsing
from tests.tiny_model import read_jsonl

UNKNOWN = "I don't know or cannot answer"


def publish(raw):
    def lines(path, *records):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    ten = {letter: f"drug {letter}" for letter in "ABCDEFGHIJ"}
    question = "Which drug?\nAnswer Choices: (A) drug A (B) drug B"
    lines(
        raw / "medxpertqa/Text/test.jsonl",
        {"id": "Text-0", "question": question, "options": ten, "label": "J"},
        {"id": "Text-1", "question": question + "?", "options": ten, "label": "K"},
    )
    pictured = raw / "medxpertqa/MM/test.jsonl"  # the folder with pictures of the same set
    lines(pictured, {"id": "MM-0", "question": question, "options": ten, "label": "J", "images": ["a.jpg"]})
    options = {"A": "liver", "B": "heart", "C": UNKNOWN}
    records = [
        {"question": f"Q{i}?", "options": options, "answer_idx": letter} for i, letter in enumerate("ACB")
    ]
    (raw / "metamedqa").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(records), raw / "metamedqa/test-00000-of-00001.parquet"
    )
    turns = ["My chest hurts.", "Since when?", "Since an hour."]
    talk = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant", "user"), turns, strict=True)
    ]
    rubric = [
        {"criterion": "Advises to call an ambulance", "points": 7, "tags": ["axis:accuracy"]},
        {"criterion": "Names a dose", "points": -3, "tags": []},
    ]
    record = {"prompt_id": "p1", "prompt": talk, "rubrics": rubric, "example_tags": ["theme:emergency"]}
    lines(
        raw / "healthbench/2025_oss_eval.jsonl",
        record,
        record | {"prompt_id": "p2", "rubrics": rubric[1:]},  # nothing to earn
        record | {"prompt_id": "p3", "prompt": talk[:2]},  # no question at the end
    )
    (raw / "careqa").mkdir()
    record = {"question": "Q?", "op1": "a", "op2": "b", "op3": "c", "op4": "d", "unique_id": "u"}
    (raw / "careqa/CareQA_en.json").write_text(json.dumps([record | {"cop": 4}]))
    head = ["Row Number", "Patient Note", "Question", "Output Type"]
    head += ["Ground Truth Answer", "Lower Limit", "Upper Limit"]
    (raw / "medcalc").mkdir()
    with (raw / "medcalc/test_data.csv").open("w", newline="") as file:
        rows = [
            ["1", "A man, 60.", "Clearance in mL/min?", "decimal", "100.0", "95.0", "105.0"],
            ["2", "A man.", "Score?", "integer", "3", "3", "3"],
            ["5", "A man.", "Base excess?", "decimal", "-10", "-9.5", "-10.5"],
            ["3", "A woman.", "Due date?", "date", "05/13/2022", "05/13/2022", "05/13/2022"],
            ["4", "A woman.", "Gestational age?", "date", "('4 weeks', '3 days')", "", ""],
        ]
        csv.writer(file).writerows([head, *rows])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beyond")
    publish(folder / "raw")
    build_tasks.main(["--raw", str(folder / "raw"), "--out", str(folder / "rows")])
    return folder


def test_records_become_rows_that_are_asked_and_kept_out_of_the_corpus(rows):
    made = {path.parent.name: read_jsonl(path) for path in (rows / "rows").glob("*/test.jsonl")}
    assert {name: len(found) for name, found in made.items()} == {
        "medxpertqa": 1,
        "metamedqa": 3,
        "careqa": 1,
        "medcalc": 5,
        "healthbench": 1,
    }
    (ten,) = made["medxpertqa"]
    assert ten["completion"] == "J" and len(ten["options"]) == 10 and "Answer Choices" not in ten["prompt"]
    manifest = json.loads((rows / "rows/medxpertqa/manifest.json").read_text())
    assert "no question, an empty option, or an answer outside the options" in json.dumps(manifest["dropped"])
    assert manifest["access"] == "public" and manifest["licenses"] == ["MIT"]
    assert made["careqa"][0]["completion"] == "D"
    limits = [row.get("limits") for row in made["medcalc"]]
    assert limits == [[95.0, 105.0], [2.5, 3.5], [-10.5, -9.5], None, None]
    (talk,) = made["healthbench"]
    assert talk["prompt"] == "Since an hour.\n" and [turn["role"] for turn in talk["history"]] == [
        "user",
        "assistant",
    ]
    assert talk["question"].endswith("assistant: Since when?\n\nuser: Since an hour.")
    assert [item["points"] for item in talk["rubric"]] == [7, -3] and talk["tags"] == ["theme:emergency"]
    tasks = own_tasks.names(rows / "rows")
    assert {"medxpertqa", "medxpertqa_ll", "medxpertqa_letters_ll", "medcalc"} <= set(tasks)
    assert "medcalc_ll" not in tasks
    blocked = {path.parent.name for path in decontamination.row_files(rows / "rows", ("test",))}
    assert blocked == set(made)


def test_a_number_is_right_within_its_limits(rows):
    decimal, integer, _, day, weeks = read_jsonl(rows / "rows/medcalc/test.jsonl")
    for row, output, parsed, right in (
        (decimal, "The creatinine is 1.2, so the answer is 104.9 mL/min.", 104.9, 1),
        (decimal, "**95**", 95, 1),
        (decimal, '{"answer": "1,050.5"}', 1050.5, 0),
        (decimal, "The values 98 and 99 fit.", None, 0),
        (decimal, "<think>The answer is 100", None, 0),
        (integer, "3 points", 3, 1),
        (integer, "3.4", 3.4, 1),
        (integer, "Score: -3", -3, 0),
        (day, "It is 5/13/2022.", [5, 13, 2022], 1),
        (day, "05/13/2022 or 05/14/2022", None, 0),
        (weeks, "4 weeks and 3 days", [4, 3], 1),
        (weeks, "4 weeks, 2 days", [4, 2], 0),
    ):
        graded = metrics.grade(row | {"output": output})
        assert (graded["parsed"], graded["score"]["accuracy"]) == (parsed, right), output
    graded = [decimal | {"output": "100"}, integer | {"output": "none"}]
    graded = [row | metrics.grade(row) for row in graded]
    assert metrics.primary(graded) == "accuracy" and metrics.value(graded, "accuracy") == 0.5
    assert parsing.parse_number("risk 12 % of 10") is None


def test_abstention_is_counted(rows):
    asked = read_jsonl(rows / "rows/metamedqa/test.jsonl")
    graded = [row | {"output": letter} for row, letter in zip(asked, "ACC", strict=True)]
    graded = [row | metrics.grade(row) for row in graded]
    assert calibration.abstention(graded) == {
        "offered": 3,
        "right_to_abstain": 1,
        "abstained": 2,
        "rightly": 1,
        "accuracy_of_the_others": 1.0,
    }
    assert calibration.abstention([row | {"options": ["a", "b", "c"]} for row in graded]) is None


def test_a_record_in_another_form_is_refused_by_its_place(tmp_path):
    (tmp_path / "careqa").mkdir()
    (tmp_path / "careqa/CareQA_en.json").write_text('[{"question": "Q?"}]')
    with pytest.raises(SystemExit, match="CareQA_en.json: record 1: field 'op1' is missing"):
        build_tasks.main(["--raw", str(tmp_path), "--tasks", "careqa", "--out", str(tmp_path / "rows")])
