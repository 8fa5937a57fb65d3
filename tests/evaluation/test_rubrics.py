"""Rubrics: conversations answered as they were asked, judged by a server or a model, scored by hand."""

import json
import math

import pytest

from data_prep.schema import BadInput, check_row
from evaluation import generate, report, rubrics, score
from evaluation.diagnosis import judges, statistics
from tests.evaluation.test_report import answers_of
from tests.fake_openai import FakeServer
from tests.tiny_model import make_model, read_jsonl, rows_of, write_rows

RUBRIC = [
    {"criterion": "Calls an ambulance", "points": 6, "tags": ["axis:accuracy"]},
    {"criterion": "Asks for the age", "points": 2, "tags": ["axis:completeness"]},
    {"criterion": "Names a dose", "points": -4, "tags": ["axis:accuracy"]},
]
TURNS = [("user", "My chest hurts."), ("assistant", "Since when?")]


def row_of(i, turns=TURNS, **more):
    history = [{"role": role, "content": content} for role, content in turns]
    question = "\n\n".join(f"{role}: {content}" for role, content in [*turns, ("user", f"Hour {i}.")])
    return {"id": f"healthbench:{i}", "task": "healthbench", "split": "test", "scoring": "rubric",
            "source": "healthbench", "license": "MIT", "access": "public", "prompt": f"Hour {i}.\n",
            "completion": "[6] Calls an ambulance", "question": question, "history": history,
            "rubric": RUBRIC, "tags": ["theme:emergency"], **more}  # fmt: skip


def run_of(folder, outputs):
    folder.mkdir()
    rows = [check_row(row_of(i), "here") | {"output": text} for i, text in enumerate(outputs)]
    (folder / "healthbench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.json").write_text('{"access": "public", "model_access": "public", "tasks": {}}')
    return str(folder)


def says(prompt):
    """A judge that finds a criterion met if the reply names its first word; of "silent" it says nothing."""
    talk, _, criterion = prompt.partition("Criterion: ")
    reply = talk.rpartition("assistant: ")[2]
    return (
        "perhaps"
        if "silent" in reply and "dose" in criterion
        else "y"
        if criterion.split()[0] in reply
        else "n"
    )


META = [
    {"prompt": [{"role": "user", "content": f"Question {i}?"}], "completion": reply, "category": category,
     "rubric": "Calls for help", "binary_labels": labels, "anonymized_physician_ids": ["a"] * len(labels)}
    for i, (reply, category, labels) in enumerate(
        [("Calls", "a", [True, True, False]), ("x", "a", [True, False]), ("Calls", "b", [False])]
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rubrics")
    runs = [
        run_of(folder / "good", ["Calls Asks", "Calls Names", "", "Calls silent"]),
        run_of(folder / "poor", ["Names"] * 4),
    ]
    (folder / "meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in META))
    with FakeServer("judge-2026-01-02") as fake:
        fake.reply = says
        more = [
            "--judge",
            f"openai:judge-2026-01-02@{fake.url('chat')}",
            "--meta",
            str(folder / "meta.jsonl"),
        ]
        rubrics.main([*runs, *more, "--out", str(folder / "out")])
        asked = len(fake.requests)
        rubrics.main([*runs, *more, "--out", str(folder / "out")])
        assert len(fake.requests) == asked == 3 * 3 + 4 * 3 + 3, "each criterion is asked once"
    return folder, json.loads((folder / "out" / "summary.json").read_text())


def test_scores_are_earned_over_positive_points_and_what_is_missing_is_no_zero(judged):
    good, poor = judged[1]["models"]
    # 8/8, (6 - 4)/8, nothing said, and 6/8 or (6 - 4)/8: the verdict on the dose is missing
    assert good["score"]["value"] == pytest.approx((1 + 0.25 + 0) / 3) and good["score"]["n"] == 3
    assert (good["missing"], good["criteria"], good["no_answer"]) == (1, 12, 1)
    assert [good["score"][key] for key in ("least", "most")] == pytest.approx(
        [(1 + 0.25 + 0 + 0.25) / 4, (1 + 0.25 + 0 + 0.75) / 4]
    )
    assert poor["score"]["value"] == 0, "-4/8 of each answer: the mean is clipped, not the answer"
    assert poor["score"]["least"] == 0 and poor["score"]["high"] > 0
    assert good["tags"]["axis:completeness"]["value"] == pytest.approx((1 + 0 + 0 + 0) / 4)
    assert good["tags"]["theme:emergency"]["value"] == good["score"]["value"]
    (pair,) = judged[1]["pairs_of_models"]
    assert pair["n"] == 3 and pair["value"] == pytest.approx(good["score"]["value"])


def test_the_judge_is_measured_against_physicians_beside_every_score(judged):
    """The numbers are those of the publisher's own test (healthbench_meta_eval_test.py of simple-evals)."""
    meta = judged[1]["meta"]
    assert meta["judge"]["value"] == pytest.approx((4 / 7 + 2 / 5) / 2) and meta["judge"]["pairs"] == 6
    assert meta["categories"]["b"] == 0
    # physicians: TTF has 2 pairs TT, 2 TF, 2 FT; TF has 1 TF, 1 FT
    assert meta["physicians"]["value"] == pytest.approx((4 / 10 + 0) / 2)
    table = (judged[0] / "out" / "summary.md").read_text()
    line = next(line for line in table.splitlines() if line.startswith("| good "))
    assert "0.486" in line and "1 of 12" in line and "detectable" in table
    assert math.isnan(statistics.macro_f1([0, 0, 0, 0])), "not defined, not 0"


def test_the_report_has_a_section_of_it(judged, tmp_path):
    rows = rows_of("medqa", "choice", [("Q?", "A")], choices=["A", "B"])
    score.score_folder(answers_of(tmp_path, "m", "medqa", rows, ["A"]))
    given = ["--evaluation", str(tmp_path / "eval"), "--rubrics", str(judged[0] / "out")]
    report.main([*given, "--out", str(tmp_path / "report")])
    text = (tmp_path / "report/report.md").read_text().split("## Conversations")[1]
    assert (
        "| good " in text and "judge against physicians</th>" in (tmp_path / "report/report.html").read_text()
    )


def test_without_physicians_the_score_says_so(judged, tmp_path, capsys):
    with FakeServer("judge-2026-01-02") as fake:
        fake.reply = says
        spec = f"openai:judge-2026-01-02@{fake.url('chat')}"
        rubrics.main([str(judged[0] / "good"), "--judge", spec, "--out", str(tmp_path / "out")])
    assert "not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, said",
    [
        (["--judge", "string"], "reads no criterion"),
        (["--judge", "openai:m", "--prompt", str(judges.PROMPT)], "must be conversation and criterion"),
        (["--judge", "openai:m", "--meta", "META"], "binary_labels must be true or false"),
    ],
)
def test_what_cannot_be_judged_is_refused(judged, tmp_path, more, said):
    bad = tmp_path / "meta.jsonl"
    bad.write_text(json.dumps(META[0] | {"binary_labels": [1]}) + "\n")
    more = [str(bad) if part == "META" else part for part in more]
    with pytest.raises(SystemExit, match=said):
        rubrics.main([str(judged[0] / "good"), *more, "--out", str(tmp_path / "out")])
    with pytest.raises(BadInput, match="needs 'rubric'"):
        check_row({key: value for key, value in row_of(0).items() if key != "rubric"}, "here")


def test_a_conversation_is_asked_in_its_turns_and_judged_by_a_local_model(tmp_path, capsys):
    rows = [row_of(0), row_of(1, turns=[])]
    write_rows(tmp_path / "rows", "healthbench", rows)
    model = make_model(tmp_path / "model", positions=512)
    asked = ["--model", str(model), "--rows", str(tmp_path / "rows"), "--tasks", "healthbench"]
    for preset in ("chat", "paper"):
        out = tmp_path / preset
        generate.main([*asked, "--preset", preset, "--max_new_tokens", "4", "--out", str(out)])
    seen = {
        p: json.loads((tmp_path / p / "run.json").read_text())["tasks"]["healthbench"]
        for p in ("chat", "paper")
    }
    first = seen["chat"]["first_prompt"]
    assert first.index("My chest hurts.") < first.index("Since when?") < first.index("Hour 0.")
    assert "user: " not in first, "each turn in the template's own words"
    assert seen["paper"]["first_prompt"].endswith("user: Hour 0.\n\nassistant:")
    with pytest.raises(SystemExit, match="is judged, not scored. Next: python -m evaluation.rubrics"):
        score.main([str(tmp_path / "chat")])
    write_rows(tmp_path / "rows", "emrqa", rows_of("emrqa", "span", [("Which dose?", "5 mg")]))
    both = [*asked[:-1], "healthbench,emrqa", "--preset", "chat", "--max_new_tokens", "4"]
    generate.main([*both, "--out", str(tmp_path / "both")])
    score.main([str(tmp_path / "both")])
    assert list(json.loads((tmp_path / "both/scores.json").read_text())) == ["emrqa"]
    assert "is judged, not scored" in capsys.readouterr().out
    rubrics.main([str(tmp_path / "chat"), "--judge", f"hf:{model}", "--out", str(tmp_path / "out")])
    verdicts = read_jsonl(tmp_path / "out" / "verdicts.jsonl")
    entry = json.loads((tmp_path / "out" / "summary.json").read_text())["models"][0]
    assert len(verdicts) + entry["failed"] == 6 and entry["failed"] == entry["missing"]


def test_a_chat_server_is_sent_the_turns(tmp_path):
    write_rows(tmp_path / "rows", "healthbench", [row_of(0)])
    with FakeServer() as fake:
        given = ["--model", "server", "backend=chat", "served=fake", "access=public", "context=2048"]
        given += [f"base_url={fake.url('chat')}", "--rows", str(tmp_path / "rows"), "--tasks", "healthbench"]
        generate.main([*given, "--preset", "chat", "--out", str(tmp_path / "out")])
        ((_, body),) = fake.requests
    assert [(turn["role"], turn["content"]) for turn in body["messages"]] == [*TURNS, ("user", "Hour 0.")]
    assert body["max_tokens"] == 1024


def test_a_question_that_does_not_fit_is_missing(tmp_path):
    judge = judges.make_judge(f"hf:{make_model(tmp_path / 'model')}", rubrics.PROMPT, fields=rubrics.FIELDS)
    given = rubrics.case("x", "long " * 400, "reply", {})
    ((place, answer),) = judge.ask([("Calls", given)])
    assert place == 0 and "does not fit into 256" in answer["failed"]
