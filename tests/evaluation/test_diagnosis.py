"""Clinical cases: from files to rows, from answers to lists, from names to verdicts, from verdicts to
accuracies."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from data_prep import build_cases
from data_prep.demo import sources as make_demo_sources
from data_prep.demo import world
from data_prep.schema import BadInput, check_row
from evaluation import generate, judge, rating_page
from evaluation.diagnosis import section, statistics
from evaluation.diagnosis.differential import parse_differential
from evaluation.diagnosis.matching import Matcher, words
from tests.tiny_model import make_model, read_jsonl

GOLDEN = Path(__file__).parents[1] / "golden" / "differentials.jsonl"
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "case_diagnosis" / "agentclinic_medqa.jsonl"
OSCE = {
    "Objective_for_Doctor": "Find the tavox fever.",
    "Patient_Actor": {
        "Demographics": "40-year-old sailor",
        "Symptoms": {"Secondary_Symptoms": ["a limp", "a cough"]},
    },
    "Physical_Examination_Findings": {"Vital_Signs": {"Heart_Rate": "72 bpm"}},
    "Test_Results": {"Done": True},
    "Correct_Diagnosis": "Tavox fever",
}


def case_of(number, diagnosis="gout", synonyms=(), access="public", text=None):
    return {
        "id": f"c{number}",
        "text": text or f"Case {number}: a red joint.",
        "final_diagnosis": diagnosis,
        "synonyms": list(synonyms),
        "access": access,
        "license": "invented",
        "source": "own",
    }


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(folder, answers, cases, model_access="public"):
    """A folder as evaluation.generate leaves it, with these answers."""
    rows = [
        {
            "id": c["id"],
            "task": "diagnosis",
            "split": "test",
            "scoring": "diagnosis",
            "source": c["source"],
            "license": c["license"],
            "access": c["access"],
            "question": c["text"],
            "synonyms": c["synonyms"],
            "prompt": c["text"] + "\n",
            "completion": c["final_diagnosis"],
            "output": output,
        }
        for c, output in zip(cases, answers, strict=True)
    ]
    write_lines(folder / "diagnosis.jsonl", rows)
    (folder / "run.json").write_text(
        json.dumps({"access": model_access, "model_access": model_access, "tasks": {}})
    )
    return folder


# ---------------------------------------------------------------- cases
def test_every_source_gives_rows_that_ask_for_a_differential(tmp_path, capsys):
    (tmp_path / "nejm").mkdir()
    (tmp_path / "nejm" / "index.csv").write_text(
        "id,final_diagnosis,synonyms\n3-2021,Rilun palsy,RP; palsy of Rilun\n"
    )
    (tmp_path / "nejm" / "3-2021.txt").write_text("A weak grip.\n")
    (tmp_path / "nejm" / "4-2021.txt").write_text("Not in the index.\n")
    (tmp_path / "craft.csv").write_text(
        ",case_vignette,answer,dataset\n0,An itching rash.,Vefus syndrome,derm_public\n"
    )
    sources = {
        "agentclinic": write_lines(tmp_path / "clinic.jsonl", [{"OSCE_Examination": OSCE}]),
        "craftmd": tmp_path / "craft.csv",
        "nejm_cpc": tmp_path / "nejm",
        "medcasereasoning": write_lines(
            tmp_path / "m.jsonl",
            [{"case_prompt": "Black stools.", "final_diagnosis": "Moden fever", "pmcid": "PMC1"}],
        ),
        "cases": write_lines(
            tmp_path / "own.jsonl",
            [case_of(1, access="credentialed"), case_of(2, text="Gout, said the note.")],
        ),
    }
    build_cases.main(
        [*(f"--source={name}={path}" for name, path in sources.items()), "--out", str(tmp_path / "out")]
    )
    rows = read_jsonl(tmp_path / "out" / "diagnosis" / "test.jsonl")
    assert [row["id"] for row in rows] == [
        "agentclinic:1",
        "craftmd:derm_public:1",
        "nejm_cpc:3-2021",
        "medcasereasoning:PMC1",
        "c1",
        "c2",
    ]
    for row in rows:
        check_row(row, "here")
        assert (
            row["prompt"].startswith("Read the case.")
            and row["question"] in row["prompt"]
            and row["scoring"] == "diagnosis"
        )
    osce, _, nejm, *_ = rows
    assert osce["question"] == (
        "Demographics: 40-year-old sailor\nSymptoms:\n  Secondary Symptoms: a limp; a cough\nPhysical "
        "Examination Findings:\n  Vital Signs:\n"
        "    Heart Rate: 72 bpm\nTest Results:\n  Done: yes"
    )
    assert (
        osce["completion"] == "Tavox fever"
        and nejm["access"] == "gated"
        and nejm["synonyms"] == ["RP", "palsy of Rilun"]
    )
    manifest = json.loads((tmp_path / "out" / "diagnosis" / "manifest.json").read_text())
    assert (
        manifest["access"] == "credentialed"
        and manifest["text_holds_diagnosis"] == ["c2"]
        and len(manifest["prompt"]["sha256"]) == 64
    )
    assert manifest["dropped"]["nejm_cpc"]["text without a line in index.csv"]["count"] == 1
    assert "nejm_cpc: 1 cases; the paper has 70" in capsys.readouterr().out


def test_what_is_wrong_with_a_case_is_said_with_its_place(tmp_path):
    def build(*cases, source="cases", more=()):
        path = write_lines(tmp_path / "in.jsonl", cases)
        build_cases.main([f"--source={source}={path}", "--out", str(tmp_path / "out"), *more])

    for cases, message in (
        (
            [{**case_of(1), "access": "open"}],
            r"in.jsonl: line 1: access 'open' is not one of public, gated, credentialed",
        ),
        (
            [{key: value for key, value in case_of(1).items() if key != "license"}],
            "line 1: field 'license' is missing",
        ),
        ([{**case_of(1), "synonyms": "gouty arthritis"}], "line 1: field 'synonyms' must be list"),
        ([case_of(1), case_of(1, text="Other.")], "case c1 is there twice"),
        ([{**case_of(1), "final_diagnosis": " "}], "holds no case with a text and a final diagnosis"),
    ):
        with pytest.raises(SystemExit, match=message):
            build(*cases)
    with pytest.raises(SystemExit, match="line 1: field 'OSCE_Examination' is missing"):
        build(case_of(1), source="agentclinic")
    with pytest.raises(
        SystemExit, match="--source mimic=.*: must be NAME=PATH, NAME one of cases, agentclinic"
    ):
        build(source="mimic")
    (tmp_path / "index.csv").write_text("id,final_diagnosis,synonyms\n3-2021,Rilun palsy,\n")
    with pytest.raises(
        SystemExit,
        match="index.csv: record 1: there is no .*3-2021.txt. Next: put the text of the case there",
    ):
        build_cases.main([f"--source=nejm_cpc={tmp_path}", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    build(
        case_of(1),
        {**case_of(2), "text": "Case 1: a red joint."},
        case_of(3, text="It was GOUT."),
        more=["--drop_named"],
    )
    dropped = json.loads((tmp_path / "out" / "diagnosis" / "manifest.json").read_text())["dropped"]["cases"]
    assert {reason: entry["count"] for reason, entry in dropped.items()} == {
        "the same text as an earlier case": 1,
        "the text holds the diagnosis": 1,
    }


def test_the_real_cases_are_all_read_and_none_shows_its_diagnosis_as_a_field(tmp_path):
    if not REAL.is_file():
        pytest.skip(f"no {REAL}")
    build_cases.main([f"--source=agentclinic={REAL}", "--out", str(tmp_path)])
    rows = read_jsonl(tmp_path / "diagnosis" / "test.jsonl")
    assert len(rows) == 107 and not any(
        "Correct" in row["prompt"] or "Objective" in row["prompt"] for row in rows
    )
    named = json.loads((tmp_path / "diagnosis" / "manifest.json").read_text())["text_holds_diagnosis"]
    assert 10 <= len(named) <= 20 and all(
        row["completion"].split(" (")[0].lower() in row["question"].lower()
        for row in rows
        if row["id"] in named
    )


def test_the_invented_cases_are_of_taught_diseases_and_do_not_name_them(tmp_path):
    import random

    taught = [disease for disease in world.make_world(0) if disease.taught]
    make_demo_sources.write_case_diagnosis(tmp_path, random.Random(0), taught)
    sources = [
        f"--source=agentclinic={tmp_path / 'agentclinic_medqa.jsonl'}",
        f"--source=cases={tmp_path / 'cases.jsonl'}",
    ]
    build_cases.main([*sources, "--out", str(tmp_path / "out")])
    rows = read_jsonl(tmp_path / "out" / "diagnosis" / "test.jsonl")
    assert sorted(row["completion"].lower() for row in rows) == sorted(disease.name for disease in taught)
    assert (
        json.loads((tmp_path / "out" / "diagnosis" / "manifest.json").read_text())["text_holds_diagnosis"]
        == []
    )
    by_name = {disease.name: disease for disease in taught}
    assert all(by_name[row["completion"].lower()].marker in row["question"] for row in rows)


# ---------------------------------------------------------------- lists
@pytest.mark.parametrize("golden", [pytest.param(entry, id=entry["why"]) for entry in read_jsonl(GOLDEN)])
def test_an_answer_is_read_as_a_careful_reader_does(golden):
    found, rule = parse_differential(golden["output"])
    assert found == golden["differential"], rule


def test_the_golden_answers_are_many_and_any_text_at_all_is_read_without_an_error():
    entries = read_jsonl(GOLDEN)
    assert len(entries) >= 60 and sum(entry["differential"] is None for entry in entries) >= 8
    rng = np.random.default_rng(0)
    pieces = [
        "1. ",
        "2) ",
        "- ",
        "**",
        "|",
        "\n",
        "gout",
        "[",
        '{"a": ',
        "]",
        "}",
        ": ",
        "diagnosis",
        "(",
        ")",
        ";",
        ", ",
        "most likely ",
        "\u0000",
        "9" * 30,
    ]
    for text in (
        "[" * 5000,
        "1. Gout \ud83d\n2. Pseudo\udc00gout",
        *("".join(rng.choice(pieces, 25)) for _ in range(300)),
    ):
        found, _ = parse_differential(text)
        assert found is None or (1 <= len(found) <= 5 and len(set(map(words, found))) == len(found))


# ---------------------------------------------------------------- names
@pytest.mark.parametrize(
    ("prediction", "diagnosis", "synonyms", "same"),
    [
        ("Acute lymphoblastic leukaemia (ALL)", "Acute lymphoblastic leukemia", [], True),
        ("Oesophageal perforation (Boerhaave syndrome)", "Boerhaave syndrome", [], True),
        ("Legg-Calve-Perthes disease", "Legg-Calvé-Perthes disease (LCPD)", [], True),
        ("LCPD", "Legg-Calvé-Perthes disease (LCPD)", [], True),
        ("Hirschsprung’s disease", "Hirschsprung disease", [], True),
        ("Crohn's", "Crohn disease", [], True),
        ("Hemorrhoid", "Hemorrhoids", [], True),
        ("Type II diabetes mellitus", "Diabetes mellitus type 2", [], True),
        ("Viral myocarditis", "Myocarditis", [], True),
        ("Haemophilia A", "Hemophilia", [], True),
        ("DLBCL", "Diffuse large B-cell lymphoma", ["DLBCL"], True),
        ("DLBCL", "Diffuse large B-cell lymphoma", [], False),
        ("Wegener's granulomatosis", "Granulomatosis with polyangiitis", ["Wegener granulomatosis"], True),
        ("Lymphoma", "Diffuse large B-cell lymphoma", [], False),
        ("Tuberculosis", "Pulmonary tuberculosis", [], False),
        ("Type 1 diabetes mellitus", "Diabetes mellitus type 2", [], False),
        ("Pseudogout", "Gout", [], False),
        ("Non-Hodgkin lymphoma", "Hodgkin lymphoma", [], False),
        ("Serum sickness-like reaction", "Serum sickness", [], False),
        ("Cushing disease", "Cushing syndrome", [], False),
        ("Hyperparathyroidism", "Secondary hyperparathyroidism", [], False),
        ("Dyspnoea due to heart failure", "Heart failure", [], True),
        ("Hepatitis B", "Hepatitis A", [], False),
        ("Family history of breast cancer", "Breast cancer", [], False),
        ("Gout vs. pseudogout", "Gout", [], False),
        ("Vasculitis (e.g., giant cell arteritis)", "Giant cell arteritis", [], False),
        ("Myocarditis", "Viral myocarditis", [], False),
        ("", "Gout", [], False),
    ],
)
def test_names_of_the_same_disease_are_the_same(prediction, diagnosis, synonyms, same):
    assert Matcher().same(prediction, diagnosis, synonyms)[0] is same


def test_a_table_adds_synonyms_and_makes_another_judge(tmp_path):
    table = tmp_path / "names.tsv"
    table.write_text("# comment\nMyocardial infarction\tHeart attack\tMI\n")
    assert Matcher(table).same("heart attacks", "Myocardial Infarction", []) == (True, "synonym table")
    assert (
        Matcher(table).same("stroke", "Myocardial Infarction", [])[0] is False
        and len(Matcher(table).sha256) == 64
    )
    table.write_text("Myocardial infarction\n")
    with pytest.raises(Exception, match="names.tsv: line 1 has one name"):
        Matcher(table)


# ---------------------------------------------------------------- numbers
@pytest.mark.guarantee(
    "Clinical cases and forgetting", "A verdict that could not be had is missing, never a no."
)
def test_outcomes_are_cumulative_and_a_missing_verdict_is_never_a_no():
    assert list(statistics.outcomes([False, True, False, False, False]).values()) == [
        False,
        True,
        True,
        True,
        True,
    ]
    assert list(statistics.outcomes([None, False, True]).values()) == [None] * 5, (
        "a hit later on does not make it known"
    )
    assert list(statistics.outcomes([True, None]).values()) == [True, None, None, None, None]
    assert list(statistics.outcomes([False, False, None]).values()) == [False, False, None, None, None]
    assert (
        list(statistics.outcomes(None).values()) == list(statistics.outcomes([False]).values()) == [False] * 5
    )
    cases = [statistics.outcomes(v) for v in ([True], [False], [None], None)]
    top = statistics.top_k(cases, 1)
    assert (top["n"], top["right"], top["missing"], top["value"], top["least"], top["most"]) == (
        3,
        1,
        1,
        1 / 3,
        0.25,
        0.5,
    )
    assert statistics.top_k([statistics.outcomes([None])], 1)["value"] is None


def test_intervals_and_tests_have_their_published_values():
    low, high = statistics.wilson(35, 70)
    assert (low, high) == (
        pytest.approx(0.3860, abs=1e-4),
        pytest.approx(0.6140, abs=1e-4),
    )  # some 11 points to each side
    assert statistics.wilson(0, 10)[0] == 0 and statistics.wilson(10, 10)[1] == pytest.approx(1)
    counts = np.array([20, 5, 10, 15])
    assert float(statistics.kappa(counts)) == pytest.approx(
        0.4
    )  # the textbook example: 0.7 observed, 0.5 by chance
    assert statistics.sensitivity(counts) == pytest.approx(20 / 30) and statistics.specificity(
        counts
    ) == pytest.approx(15 / 20)
    assert math.isnan(statistics.kappa(np.array([5, 0, 0, 0])))
    ones = [statistics.outcomes([right]) for right in [True] * 9 + [False] * 11]
    others = [statistics.outcomes([right]) for right in [True] * 1 + [False] * 19]
    compared = statistics.compare(ones, others, 1)
    assert (compared["difference"], compared["only_first"], compared["only_second"]) == (
        pytest.approx(0.4),
        8,
        0,
    )
    assert (
        compared["p"] == pytest.approx(2 * 0.5**8) and 0.15 < compared["low"] < 0.4 < compared["high"] < 0.65
    )


def test_the_corrected_accuracy_is_what_the_clinicians_would_have_found():
    rng = np.random.default_rng(1)
    truth = rng.random(4000) < 0.5
    said = np.where(truth, rng.random(4000) < 0.9, rng.random(4000) < 0.2)
    assert said.mean() > 0.53
    judged = {i: bool(v) for i, v in enumerate(said)}
    rated = {i: [(bool(said[i]), bool(truth[i]))] for i in range(0, 4000, 4)}
    found = statistics.corrected(judged, rated)
    assert (
        found["low"] < truth.mean() < found["high"]
        and found["value"] == pytest.approx(truth.mean(), abs=0.03)
        and found["high"] - found["low"] < 0.12
    )
    useless = {i: [(True, bool(truth[i]))] for i in range(100)}
    assert statistics.corrected(judged, useless)["value"] is None


def test_whole_cases_are_drawn_for_the_interval_of_kappa():
    alone = {i: [(i % 2 == 0, i % 2 == 0 or i % 5 == 0)] for i in range(60)}
    together = {i: alone[i] * 5 for i in alone}
    one, five = statistics.agreement(alone), statistics.agreement(together)
    assert five["pairs"] == 5 * one["pairs"] and five["kappa"] == pytest.approx(
        one["kappa"]
    )  # five copies of a verdict tell no more than one


# ---------------------------------------------------------------- the whole way
CASES = [
    case_of(i, diagnosis, synonyms)
    for i, (diagnosis, synonyms) in enumerate(
        [("Gout", []), ("Measles", ["Rubeola"]), ("Diffuse large B-cell lymphoma", ["DLBCL"]), ("Asthma", [])]
        * 10
    )
]
GOOD = [
    "1. Gout\n2. Pseudogout",
    "1. Rubella\n2. Rubeola",
    "1. Lymphoma\n2. Sarcoidosis\n3. DLBCL",
    "1. COPD\n2. Pneumonia",
] * 10
POOR = ["1. Cellulitis\n2. Gout", "1. Rubella", "1. Lymphoma", "1. COPD"] * 10


def test_top_k_of_two_models_from_the_command(tmp_path, capsys):
    runs = [str(run_of(tmp_path / "good", GOOD, CASES)), str(run_of(tmp_path / "poor", POOR, CASES))]
    judge.main([*runs, "--judge", "string", "--out", str(tmp_path / "judged")])
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text())
    [judged] = summary["judges"]
    values = {
        name: [cell["value"] for cell in entry["top"].values()] for name, entry in judged["models"].items()
    }
    assert values == {"good": [0.25, 0.5, 0.75, 0.75, 0.75], "poor": [0, 0.25, 0.25, 0.25, 0.25]}
    cell = judged["models"]["good"]["top"]["2"]
    assert (
        cell["low"] < 0.5 < cell["high"]
        and cell["wilson_low"] == pytest.approx(0.352, abs=1e-3)
        and cell["missing"] == 0
    )
    [pair] = judged["pairs_of_models"]
    assert (
        pair["top"]["5"]["only_first"] == 20
        and pair["top"]["5"]["only_second"] == 0
        and pair["top"]["5"]["p"] < 1e-5
    )
    first = {path.name: path.read_bytes() for path in (tmp_path / "judged").iterdir()}
    assert set(first) == {
        "summary.json",
        "summary.md",
        "judged.jsonl",
        "verdicts.jsonl",
        "figure3.svg",
        "figure3.pdf",
    }
    assert "| good       |" in capsys.readouterr().out and b"top-5" in first["figure3.svg"]
    judge.main([*runs, "--judge", "string", "--out", str(tmp_path / "judged")])
    second = {path.name: path.read_bytes() for path in (tmp_path / "judged").iterdir()}
    assert second.pop("summary.json") != first.pop("summary.json") and first == second, (
        "nothing was asked again"
    )
    assert json.loads((tmp_path / "judged" / "summary.json").read_text())["judges"][0]["asked_now"] == 0
    read = section.read(tmp_path / "judged")
    assert "0.250 (" in read["markdown"] and "<svg" in read["html"] and read["access"] == "public"
    with pytest.raises(BadInput, match="summary.json: no such file. Next: python -m evaluation.judge RUN"):
        section.read(tmp_path)


def test_unreadable_answers_are_wrong_and_many_of_them_withhold_the_accuracy(tmp_path, capsys):
    answers = [*GOOD[:-4], *["I cannot help with that."] * 4]
    judge.main(
        [
            str(run_of(tmp_path / "shy", answers, CASES)),
            "--judge",
            "string",
            "--out",
            str(tmp_path / "judged"),
        ]
    )
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text())
    assert (
        summary["models"][0]["unparsed"] == 4 and summary["judges"][0]["models"]["shy"]["top"]["1"]["n"] == 40
    )
    assert summary["judges"][0]["models"]["shy"]["top"]["1"]["right"] == 9
    out = capsys.readouterr().out
    assert (
        "withheld" in out
        and "4 of 40 answers (10.0%) hold no readable list" in out
        and not (tmp_path / "judged" / "figure3.svg").exists()
    )


def test_no_name_of_a_credentialed_case_or_model_is_in_the_summary(tmp_path):
    for name, access, model in (("case", "credentialed", "public"), ("model", "public", "credentialed")):
        cases = [case_of(i, "tavox fever", access=access) for i in range(3)]
        judge.main(
            [
                str(run_of(tmp_path / name, ["1. Rilun palsy\n2. Tavox fever"] * 3, cases, model)),
                "--judge",
                "string",
                "--out",
                str(tmp_path / "out" / name),
            ]
        )
        folder = tmp_path / "out" / name
        for path in folder.iterdir():
            if path.suffix != ".pdf":
                assert "ilun" not in path.read_text() and "avox" not in path.read_text(), path
        assert read_jsonl(folder / "judged.jsonl")[0]["verdicts"] == {"string-1.0": [False, True]}
        assert (
            json.loads((folder / "summary.json").read_text())["access"] == "credentialed"
            and folder.stat().st_mode & 0o077 == 0
        )


def test_runs_that_cannot_be_judged_together_are_named(tmp_path):
    good, poor = run_of(tmp_path / "good", GOOD, CASES), run_of(tmp_path / "poor", POOR[:-1], CASES[:-1])
    out = ["--judge", "string", "--out", str(tmp_path / "out")]
    with pytest.raises(
        SystemExit,
        match="good and poor did not answer the same cases .c39 for one.. Next: run both on the same rows",
    ):
        judge.main([str(good), str(poor), *out])
    with pytest.raises(SystemExit, match="two runs are named good"):
        judge.main([str(good), str(run_of(tmp_path / "other" / "good", GOOD, CASES)), *out])
    write_lines(tmp_path / "else" / "medqa.jsonl", [{}])
    with pytest.raises(
        SystemExit,
        match="else: no outputs of diagnosis. Next: python -m evaluation.generate --model .* --tasks "
        "diagnosis --preset",
    ):
        judge.main([str(tmp_path / "else"), *out])
    with pytest.raises(
        SystemExit, match="good: is a run, which holds outputs and nothing else. Next: another --out"
    ):
        judge.main([str(good), "--judge", "string", "--out", str(good)])
    with pytest.raises(SystemExit, match="--judge oracle: must be string"):
        judge.main([str(good), "--judge", "oracle", "--out", str(tmp_path / "out")])
    with pytest.raises(
        SystemExit,
        match="ratings: no such file or folder of ratings. Next: python -m evaluation.rating_page RUN "
        "--out rate.html",
    ):
        judge.main([str(good), "--judge", f"human:{tmp_path / 'ratings'}", "--out", str(tmp_path / "out")])
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="file: is a file, and the output is a folder. Next: another --out"):
        judge.main([str(good), "--judge", "string", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match="good: is a folder, and the page is a file. Next: --out"):
        rating_page.main([str(good), "--out", str(good)])


def test_a_model_answers_cases_through_the_harness(tmp_path, capsys):
    import torch

    torch.set_num_threads(1)
    build_cases.main(
        [f"--source=cases={write_lines(tmp_path / 'own.jsonl', CASES[:4])}", "--out", str(tmp_path / "cases")]
    )
    make_model(tmp_path / "model", positions=512)
    command = [
        "--rows",
        tmp_path / "cases",
        "--tasks",
        "diagnosis",
        "--preset",
        "chat",
        "--max_new_tokens",
        8,
        "--out",
        tmp_path / "run",
    ]
    generate.main([str(a) for a in ["--model", tmp_path / "model", *command]])
    assert "Next: python -m evaluation.judge" in capsys.readouterr().out
    rows = read_jsonl(tmp_path / "run" / "diagnosis.jsonl")
    assert [row["synonyms"] for row in rows] == [[], ["Rubeola"], ["DLBCL"], []] and all(
        isinstance(row["output"], str) for row in rows
    )
    judge.main([str(tmp_path / "run"), "--judge", "string", "--out", str(tmp_path / "judged")])
    assert json.loads((tmp_path / "judged" / "summary.json").read_text())["models"][0]["fingerprint"]


@pytest.mark.parametrize(
    "reasoning", ["A long line of thought here.\n" * 900, "Let me think. " * 1600 + "\n"]
)
def test_the_list_after_long_reasoning_is_read(reasoning):
    assert parse_differential(f"{reasoning}Differential diagnosis:\n1. Gout\n2. Lupus")[0] == [
        "Gout",
        "Lupus",
    ]
