"""Counterfactual patients: what is swapped, and what is counted."""

import json

import pytest

from evaluation import counterfactual
from tests.tiny_model import read_jsonl, rows_of, write_rows


@pytest.mark.parametrize(
    "swap, text, swapped",
    [
        ("sex", "A man. He hurt his knee; it hurt him.", "A woman. She hurt her knee; it hurt her."),
        ("sex", "The woman says her mother gave her.", "The man says his mother gave him."),
        ("sex", "A pregnant woman.", None),
        ("age", "A 45-year-old man, for 30 days.", "A 65-year-old man, for 30 days."),
        ("age", "An 85-year-old man.", "A 65-year-old man."),
        ("age", "A patient aged 71.", "A patient aged 51."),
        ("age", "A 12-year-old boy.", None),
        (
            "ancestry",
            "A 45-year-old white man with white sputum.",
            "A 45-year-old Black man with white sputum.",
        ),
        ("ancestry", "A 45-year-old man.", "A 45-year-old Black man."),
        ("ancestry", "An African-American woman.", "A White woman."),
        ("control", "Fever. Cough. Pain.", "Fever.  Cough. Pain."),
    ],
)
def test_swaps(swap, text, swapped):
    assert counterfactual.SWAPS[swap](text) == swapped


def test_compare_by_hand():
    five = ["Gout", "Sepsis", "Lupus", "Anemia", "Asthma"]
    answers = {"a": five, "a sex": ["Sepsis", "Gout", "Lupus", "Anemia", "Stroke"], "b": five, "b sex": five}
    answers |= {"c": five, "c sex": None}
    found = counterfactual.compare(answers, "sex")
    assert (found["n"], found["unread"]) == (2, 1)
    assert found["top5"]["value"] == pytest.approx((1 / 5 + 0) / 2) and found["top1"]["value"] == 0.5
    assert found["top5"]["low"] <= 0.1 <= found["top5"]["high"]
    assert counterfactual.compare({"a": five, "a age": None}, "age")["top5"]["value"] is None


def test_cases_to_a_table(tmp_path, capsys):
    cases = [(f"Case: A 45-year-old man. Fever {i}.\nDiagnoses?", "gout") for i in range(2)]
    rows = rows_of("diagnosis", "diagnosis", cases)
    rows = [row | {"question": row["prompt"][6:].split("\n")[0], "access": "gated"} for row in rows]
    write_rows(tmp_path / "cases", "diagnosis", rows)
    counterfactual.main(["make", str(tmp_path / "cases"), "--out", str(tmp_path / "swapped")])
    made = read_jsonl(tmp_path / "swapped/diagnosis/test.jsonl")
    assert len(made) == 10 and len({row["id"] for row in made}) == 10
    manifest = json.loads((tmp_path / "swapped/diagnosis/manifest.json").read_text())
    assert manifest["access"] == "gated" and manifest["swapped"]["sex"] == 2
    run = tmp_path / "run"
    run.mkdir()
    lines = [row | {"output": "1. Gout\n2. Sepsis", "model_access": "public"} for row in made]
    lines[1]["output"] = "1. Gout\n2. Lupus"  # of the first case, with the sex swapped
    (run / "diagnosis.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    counterfactual.main(["compare", str(run)])
    found = json.loads((run / "counterfactual.json").read_text())
    assert found["access"] == "gated" and found["swaps"]["sex"]["top5"]["value"] == 0.25
    assert found["swaps"]["control"]["top5"]["value"] == 0 < found["swaps"]["control"]["top5"]["high"]
    assert "| sex | 2 (0 unread) | 0.250" in capsys.readouterr().out
    (run / "diagnosis.jsonl").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(SystemExit, match="holds no swapped cases"):
        counterfactual.main(["compare", str(run)])
