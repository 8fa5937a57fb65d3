"""Scoring from logged outputs alone: what the files say, what is withheld or redacted, two runs compared, and
bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import egress
from data_prep.files import replaced
from data_prep.schema import BadInput
from evaluation import bertscore, score
from evaluation.scoring import compare, metrics, run_outputs

REPO = Path(__file__).resolve().parents[2]
NLI = ["entailment", "contradiction", "neutral"]


def rows_of(task, scoring, pairs, access="public", **extra):
    """Rows with outputs, from (output, gold)."""
    base = {
        "task": task,
        "split": "test",
        "scoring": scoring,
        "source": task,
        "license": "invented",
        "access": access,
        **extra,
    }
    return [
        {
            "id": f"{task}:{i}",
            **base,
            "prompt": f"A secret note, number {i}.\n",
            "completion": gold,
            "output": output,
        }
        for i, (output, gold) in enumerate(pairs)
    ]


def write_run(folder, *tasks, access="public"):
    """A run folder as generate leaves it; each of `tasks` is a list of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {}
    for rows in tasks:
        name = rows[0]["task"] + ("_ll" if isinstance(rows[0]["output"], list) else "")
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        facts[name] = {
            "n": len(rows),
            "n_overlong": 0,
            "first_prompt": rows[0]["prompt"],
            "first_prompt_sha256": "f" * 64,
            "rows_sha256": "e" * 64,
            "template": {"name": "chat_template", "sha256": "d" * 64},
            "shots": {"number": 0, "ids": []},
            "decoding": {"do_sample": False, "max_gen_toks": 64},
            "outputs_sha256": score.sha256(folder / f"{name}.jsonl"),
        }
    run = {
        "access": access,
        "model": "models/x",
        "fingerprint": "c" * 64,
        "settings": {"preset": "chat"},
        "machine": "a machine",
        "versions": {"torch": "2"},
        "tasks": facts,
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def nli(right, wrong=0, unparsed=0, **more):
    pairs = (
        [("neutral", "neutral")] * right
        + [("entailment", "neutral")] * wrong
        + [("I cannot tell", "contradiction")] * unparsed
    )
    return rows_of("mednli", "choice", pairs, choices=NLI, **more)


def everything(access="public"):
    entities = '<span class="problem">a cough</span> and <span class="test">a scan</span>'
    likelihoods = rows_of(
        "medqa",
        "choice",
        [([[-1.0, 2], [-3.0, 9]], "A"), ([], "B")],
        access,
        choices=["A", "B"],
        options=["xy", "long enough"],
    )
    return [
        nli(15, 4, 1, access=access),
        rows_of(
            "medqa",
            "choice",
            [("Answer: B", "B"), ("A", "B"), ("long enough", "B")],
            access,
            choices=["A", "B"],
            options=["xy", "long enough"],
        ),
        likelihoods,
        rows_of(
            "ddi",
            "choice",
            [("DDI-int", "DDI-int"), ("false", "DDI-false")],
            access,
            choices=["DDI-int", "DDI-false"],
        ),
        rows_of(
            "hoc",
            "labels",
            [("resisting; evading", "evading"), ("", "evading")],
            access,
            choices=["resisting", "evading", "inducing"],
        ),
        rows_of("emrqa", "span", [("5.0 mg daily", "5.0 mg"), ("", "aspirin")], access),
        rows_of(
            "i2b2",
            "entities",
            [(entities, entities), ("a cough", entities)],
            access,
            choices=["problem", "treatment", "test"],
        ),
        rows_of(
            "mimic_cxr",
            "summary",
            [("No acute process.", "No acute process."), ("", "Clear."), ("β", "α")],
            access,
        ),
    ]


def read_scores(folder):
    return json.loads((folder / "scores.json").read_text())


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------- the numbers
@pytest.mark.guarantee("Evaluation", "Scores need no model and are the same every time.")
def test_scores_need_no_model_and_are_the_same_every_time(tmp_path):
    folder = write_run(tmp_path / "run", *everything())
    command = "import sys; from evaluation import score; score.main(sys.argv[1:]); assert not {'torch', 'transformers', 'lm_eval'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command, folder],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    score.main([str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    for task, entry in read_scores(folder).items():
        rows = score.graded_rows(folder, task)
        assert rows == read_jsonl(folder / f"{task}.scored.jsonl") and tuple(
            entry["metrics"]
        ) == metrics.names(rows)
        assert entry["n"] == len(rows) and entry["unparsed"] == sum(row["parsed"] is None for row in rows)
        for name, v in entry["metrics"].items():
            assert v["value"] == metrics.value(rows, name) and v["low"] <= v["value"] <= v["high"]
        assert (entry["paper"] is None) == task.endswith("_ll")
    assert read_scores(folder)["mednli"]["metrics"]["accuracy"]["value"] == 0.75


def test_the_two_scorers_stand_side_by_side(tmp_path, capsys):
    folder = write_run(tmp_path / "run", *everything())
    scores = score.score_folder(folder)
    assert (
        scores["medqa"]["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)
        and scores["medqa"]["paper"]["metrics"]["accuracy"]["value"] == 0.0
    )
    assert (
        scores["medqa"]["paper"]["faults"] == ["C1", "C2", "C5"] and scores["medqa"]["paper"]["missing"] == 1
    )
    assert scores["i2b2"]["paper"]["metrics"]["macro_f1"]["value"] == pytest.approx(2 * 2 / (2 + 3))
    assert (
        scores["i2b2"]["metrics"]["micro_f1"]["value"] == pytest.approx(2 * 2 / (2 + 4))
        and "N1" in scores["i2b2"]["paper"]["notes"]["macro_f1"]
    )
    assert (
        scores["mimic_cxr"]["paper"]["metrics"]["rouge1"]["value"]
        < scores["mimic_cxr"]["metrics"]["rouge1"]["value"] + 1e-9
    )
    assert [label["label"] for label in scores["ddi"]["classes"]] == ["DDI-int", "DDI-false"] and scores[
        "hoc"
    ]["confusion"] is None
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.startswith("mednli")]
    numbers = ["mednli", "20", "5.0%", "accuracy", "0.750", "0.550", "to", "0.950", "0.750", "0.404"]
    assert line.split() == numbers, "the last: 2.8 times the square root of 2 standard errors"
    assert any(line.split()[:4] == ["macro_f1", "*", "0.294", "0.253"] for line in lines)


@pytest.mark.guarantee("Evaluation", "A headline is withheld where more than 5 % is unparsed.")
def test_a_headline_is_withheld_where_more_than_5_percent_is_unparsed(tmp_path, capsys):
    at_most = score.score_folder(write_run(tmp_path / "a", nli(95, 0, 5)))["mednli"]["headline"]
    assert at_most["withheld"] is None and at_most["value"] is not None
    entry = score.score_folder(write_run(tmp_path / "b", nli(94, 0, 6)))["mednli"]
    assert entry["headline"] == {
        "metric": "macro_f1",
        "value": None,
        "low": None,
        "high": None,
        "withheld": "6 of 100 outputs (6.0%) hold no readable answer, more than 5%",
    }
    assert entry["metrics"]["accuracy"]["value"] == 0.94 and entry["unparsed_rate"] == 0.06
    out = capsys.readouterr().out.partition("\nb ")[2]
    assert (
        "6 of 100 outputs (6.0%) hold no readable answer" in out and "withheld" in out and "0.94 " not in out
    )


def test_every_score_says_where_it_comes_from(tmp_path, capsys):
    folder = write_run(tmp_path / "run", nli(3))
    entry = score.score_folder(folder)["mednli"]
    known = entry["provenance"]
    assert known["first_prompt"] == "A secret note, number 0.\n" and known["first_prompt_sha256"] == "f" * 64
    assert (
        known["template"]["name"] == "chat_template"
        and known["shots"] == {"number": 0, "ids": []}
        and known["decoding"]["max_gen_toks"] == 64
    )
    assert (
        known["model"] == "models/x"
        and known["fingerprint"] == "c" * 64
        and known["rows_sha256"] == "e" * 64
        and known["preset"] == "chat"
    )
    assert (
        known["hardware"] == "a machine"
        and known["versions"] == {"torch": "2"}
        and known["scored_with"]["numpy"]
    )
    assert (
        known["dataset"] == {"source": "mednli", "license": "invented"} and known["outputs_changed"] is False
    )
    assert entry["scorer"] == score.SCORER and entry["scorer"]["parser_version"] and not entry["redacted"]
    (folder / "mednli.jsonl").write_text("".join(json.dumps(row) + "\n" for row in nli(2, 1)))
    assert score.score_folder(folder)["mednli"]["provenance"]["outputs_changed"] is True
    assert "the outputs were changed after they were made" in capsys.readouterr().out
    (folder / "run.json").unlink()
    known = score.score_folder(folder)["mednli"]["provenance"]
    assert (
        known["model"] is None
        and known["outputs_sha256"]
        and set(known) == {*score.PROVENANCE, "outputs_changed", "scored_with"}
    )


# ---------------------------------------------------------------- redaction
SECRETS = ("secret", "cough", "aspirin", "5.0 mg", "acute", "I cannot tell", "β", "resisting;")


@pytest.mark.parametrize(
    "rows_access, run_access",
    [("credentialed", "credentialed"), ("public", "credentialed"), ("credentialed", "public")],
)
@pytest.mark.guarantee(
    "Credentialed data",
    "Scored rows of credentialed data, and what a model of such data wrote, are redacted unless asked.",
)
def test_credentialed_rows_are_redacted_unless_asked_otherwise(tmp_path, rows_access, run_access):
    folder = write_run(tmp_path / "run", *everything(rows_access), access=run_access)
    whole = score.score_folder(folder, redact=False)
    rows = {task: score.graded_rows(folder, task) for task in whole}
    assert rows["emrqa"][0]["output"] == "5.0 mg daily" and whole["emrqa"]["provenance"]["first_prompt"]
    score.main([str(folder)])
    scores = read_scores(folder)
    written = "".join(
        path.read_text()
        for path in folder.iterdir()
        if path.name.endswith(".scored.jsonl") or path.name == "scores.json"
    )
    assert not [text for text in SECRETS if text in written]
    for task, entry in scores.items():
        assert (
            entry["redacted"]
            and entry["provenance"]["first_prompt"] is None
            and entry["provenance"]["first_prompt_sha256"]
        )
        assert {key: entry[key] for key in ("metrics", "paper", "unparsed", "classes")} == {
            key: whole[task][key] for key in ("metrics", "paper", "unparsed", "classes")
        }
        for row, known in zip(read_jsonl(folder / f"{task}.scored.jsonl"), rows[task], strict=True):
            assert (
                row["id"] == known["id"]
                and row["score"] == known["score"]
                and row["answered"] == (known["parsed"] is not None)
            )
            assert not {
                "prompt",
                "completion",
                "output",
                "parsed",
                "choices",
                "options",
                "question",
                "rule",
            } & set(row)
        assert score.graded_rows(folder, task) == rows[task]  # whole again, from the outputs


def test_public_rows_are_redacted_on_demand(tmp_path):
    folder = write_run(tmp_path / "run", nli(3))
    score.main([str(folder), "--redact"])
    row = read_jsonl(folder / "mednli.scored.jsonl")[0]
    assert row["redacted"] and "secret" not in json.dumps(row) and "neutral" not in json.dumps(row)
    assert (
        len({row["prompt_sha256"], row["row_sha256"], row["output_sha256"]}) == 3
    )  # output and gold are equal, their hashes are not
    score.main([str(folder)])
    assert read_jsonl(folder / "mednli.scored.jsonl")[0]["output"] == "neutral"


@pytest.mark.guarantee(
    "Credentialed data",
    "An output has the class of the model that wrote it, also as a copy without its run.json.",
)
def test_a_copy_of_the_outputs_alone_keeps_the_class_of_the_model(tmp_path, capsys):
    """The strictest that rows and run.json say; where neither says anything, credentialed."""
    older, told, loose = nli(2), nli(2, model_access="credentialed"), nli(2, model_access="public")
    for number, (rows, run_access, wanted) in enumerate(
        (
            (older, "public", "public"),
            (older, "credentialed", "credentialed"),
            (told, "public", "credentialed"),
            (loose, "credentialed", "credentialed"),
            (told, None, "credentialed"),
            (loose, None, "public"),
            (older, None, "credentialed"),
            (loose[:1] + older[1:], None, "credentialed"),
        )
    ):
        egress._blocked = None
        folder = write_run(tmp_path / f"run{number}", rows, access=run_access or "public")
        if not run_access:
            (folder / "run.json").unlink()
        [path] = run_outputs.task_files(folder).values()
        assert {row["model_access"] for row in run_outputs.read_rows(path)} == {wanted}, number
        entry = score.score_folder(folder)["mednli"]
        assert (
            entry["redacted"] == (wanted == "credentialed") == bool(egress.agreements())
            and entry["provenance"]["access"] == wanted
        )
        unknown = "mednli.jsonl: nothing tells what the model that wrote it was trained on, so it is kept as credentialed. Next: put the run.json"
        assert capsys.readouterr().out.count(unknown) == (
            run_access is None and wanted == "credentialed" and rows is not told
        )
        shown = score.score_folder(folder, redact=False) and read_jsonl(folder / "mednli.scored.jsonl")
        assert [row["model_access"] for row in shown] == [wanted] * 2
        egress._blocked = None
        score.graded_rows(folder, "mednli")
        assert bool(egress.agreements()) == (wanted == "credentialed"), (
            "rows that a scored file holds whole close a process too"
        )


def test_what_is_left_of_a_killed_run_opens_nothing(tmp_path):
    """A partial file that anybody can read, and a link in its place."""
    egress.block_egress(["the agreement"], BadInput)
    elsewhere, partial = tmp_path / "elsewhere", tmp_path / ".note.partial"
    for plant in (lambda: partial.touch(), lambda: partial.symlink_to(elsewhere)):
        plant()
        if not partial.is_symlink():
            partial.chmod(0o644)
        replaced(tmp_path / "note", lambda path: path.write_text("secret"))
        assert (tmp_path / "note").read_text() == "secret" and not (tmp_path / "note").lstat().st_mode & 0o077
    assert not elsewhere.exists() and not (tmp_path / "note").is_symlink()


# ---------------------------------------------------------------- two runs
def test_two_runs_are_compared_row_by_row(tmp_path, capsys):
    better, worse = (
        write_run(tmp_path / "better", nli(36, 4)),
        write_run(tmp_path / "worse", list(reversed(nli(24, 16)))),
    )
    score.main([str(better), "--against", str(worse)])
    entry = json.loads((better / "against_worse.json").read_text())["tasks"]["mednli"]
    accuracy = entry["metrics"]["accuracy"]
    assert (
        accuracy["difference"] == pytest.approx(0.3)
        and 0 < accuracy["low"] < 0.3 < accuracy["high"]
        and accuracy["p"] < 0.01
    )
    assert entry["mcnemar"] == {
        "metric": "accuracy",
        "only_this": 12,
        "only_other": 0,
        "p": pytest.approx(2 / 2**12),
    }
    assert entry["n"] == 40 and entry["unparsed_rate"] == [0.0, 0.0]
    assert json.loads((better / "against_worse.json").read_text())["access"] == "public"
    out = capsys.readouterr().out
    assert "better - worse" in out and "+0.300" in out and "12:0, p 0.000" in out
    assert (
        compare.compare(score.graded_rows(better, "mednli"), score.graded_rows(better, "mednli"))["metrics"][
            "accuracy"
        ]["p"]
        == 1.0
    )


def test_a_model_that_gives_one_answer_to_everything_is_named(tmp_path, capsys):
    gold = [NLI[i % 3 // 2] for i in range(30)]  # two thirds entailment
    collapsed, varied = tmp_path / "collapsed", tmp_path / "varied"
    write_run(collapsed, rows_of("mednli", "choice", [("entailment", g) for g in gold], choices=NLI))
    write_run(varied, rows_of("mednli", "choice", [(g, g) for g in gold], choices=NLI))
    score.main([str(collapsed), "--against", str(varied)])
    printed = capsys.readouterr().out
    assert "always the majority answer: 0.667; collapsed to one answer in 100.0%" in printed
    assert (
        "collapsed collapsed to one answer in 100.0% of the rows" in printed
        and "varied collapsed" not in printed
    )
    entries = [json.loads((run / "scores.json").read_text())["mednli"] for run in (collapsed, varied)]
    assert [entry["one_answer"]["collapsed"] for entry in entries] == [True, False]
    assert entries[1]["one_answer"]["share"] == entries[1]["one_answer"]["majority"] == pytest.approx(2 / 3)


def test_a_likelihood_twin_that_collapsed_shows_in_its_macro_f1(tmp_path, capsys):
    gold = [NLI[i % 3 // 2] for i in range(30)]
    nats = [[-1.0, 1], *[[-2.0, 1]] * (len(NLI) - 1)]
    run = write_run(tmp_path / "twin", rows_of("mednli", "choice", [(nats, g) for g in gold], choices=NLI))
    score.main([str(run)])
    assert "always the majority answer: 0.667; collapsed to one answer in 100.0%" in capsys.readouterr().out
    metrics = json.loads((run / "scores.json").read_text())["mednli_ll"]["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(2 / 3)
    assert metrics["macro_f1"]["value"] == pytest.approx(0.8 / 2)  # F1 of the labels that occur: 0.8 and 0


def test_what_cannot_be_compared_is_said(tmp_path, capsys):
    run = write_run(tmp_path / "run", nli(10, 1), rows_of("emrqa", "span", [("x", "x")]))
    with pytest.raises(SystemExit, match="is the run itself"):
        score.main([str(run), "--against", str(run)])
    other = write_run(tmp_path / "other", nli(9, 1))
    with pytest.raises(
        SystemExit,
        match=r"mednli: .*run and .*other: 1 rows are in only one run, e.g. mednli:10. Next: run both",
    ):
        score.main([str(run), "--against", str(other)])
    write_run(other, nli(11, 0))
    score.main([str(run), "--against", str(other)])
    assert "not compared: emrqa only in run" in capsys.readouterr().out
    changed = nli(11)
    changed[3]["completion"] = "contradiction"
    write_run(other, changed)
    with pytest.raises(SystemExit, match="row mednli:3 is not the same in both"):
        score.main([str(run), "--against", str(other)])
    alone = write_run(tmp_path / "alone", rows_of("hoc", "labels", [("x", "x")], choices=["x", "y"]))
    with pytest.raises(SystemExit, match="no task in common"):
        score.main([str(run), "--against", str(alone)])


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"output": None},
            r"mednli.jsonl: line 2: field 'output' is missing \(row mednli:1\). Next: python -m "
            r"evaluation.generate",
        ),
        ({"completion": ...}, "line 2: field 'completion' is missing"),
        ({"access": ...}, "line 2: field 'access' is missing"),
        ({"access": "open"}, "access 'open' is not one of public, gated, credentialed"),
        ({"model_access": "open"}, "line 2: model_access 'open' is not one of public, gated, credentialed"),
        (
            {"model_access": ["public"]},
            "line 2: model_access '.'public'.' is not one of public, gated, credentialed",
        ),
        ({"choices": ...}, "scoring 'choice' needs 'choices'"),
        ({"completion": "maybe"}, "completion 'maybe' is not among the choices"),
        ({"scoring": "none"}, "scoring 'none' has no metric"),
        ({"id": "mednli:0"}, "line 2: row mednli:0 is also in line 1"),
        ({"id": 7}, "field 'id' must be str, found int"),
        ({"output": 3}, "'output' must be text, found int"),
        ({"output": [[-1.0, 3]]}, r"'output' must be \[nats, bytes\] for each of the choices"),
        ({"output": []}, "rows of different tasks or scorings in one file"),
        ({"task": "bionli"}, "rows of different tasks or scorings in one file"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named_and_nothing_is_written(tmp_path, change, message):
    rows = nli(4)
    rows[1] = {key: value for key, value in {**rows[1], **change}.items() if value is not ...}
    folder = write_run(tmp_path / "run", rows, rows_of("emrqa", "span", [("x", "x")]))
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit, match=message) as error:
        score.main([str(folder)])
    assert str(error.value).startswith("error: ") and "\n" not in str(error.value)
    assert sorted(folder.iterdir()) == before


def test_folders_that_cannot_be_scored(tmp_path):
    with pytest.raises(SystemExit, match="nothing to score. Next: python -m evaluation.generate"):
        score.main([str(tmp_path / "nowhere")])
    folder = write_run(tmp_path / "run", nli(4), access="open")
    with pytest.raises(
        SystemExit, match="run.json: access 'open' is not one of public, gated, credentialed. Next: "
    ):
        score.main([str(folder)])
    (folder / "samples_mibe_mednli_2026-01-02T03-04-05.678.jsonl").write_text("{}\n")
    with pytest.raises(
        SystemExit, match="two files of mednli, mednli.jsonl and samples_mibe_mednli_.*Next: leave one"
    ):
        score.main([str(folder)])
    (folder / "mednli.jsonl").unlink()
    with pytest.raises(SystemExit, match="line 1: no sample of one of our tasks"):
        score.main([str(folder)])
    (folder / "samples_mibe_mednli_2026-01-02T03-04-05.678.jsonl").write_text("")
    with pytest.raises(SystemExit, match="the file is empty"):
        score.main([str(folder)])


def test_an_empty_output_is_a_wrong_answer_of_every_scoring(tmp_path):
    tasks = [
        [{**row, "output": "" if isinstance(row["output"], str) else []} for row in rows]
        for rows in everything()
    ]
    for task, entry in score.score_folder(write_run(tmp_path / "run", *tasks)).items():
        assert entry["unparsed"] == entry["n"] and entry["headline"]["withheld"]
        assert all(v["value"] == 0.0 for v in entry["metrics"].values()), task


# ---------------------------------------------------------------- what the harness alone leaves
def test_logged_samples_of_the_harness_score_alike(tmp_path, monkeypatch):
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    asked = {
        "choices": ["A", "B"],
        "question": "Which drug?",
        "options": ["zorimel", "tavoxan forte"],
        "access": "credentialed",
    }
    rows = [
        {key: value for key, value in row.items() if key != "output"}
        for row in rows_of("medqa", "choice", [("", "A"), ("", "B")], **asked)
    ]
    (tmp_path / "rows" / "medqa").mkdir(parents=True)
    (tmp_path / "rows" / "medqa" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("MIBE_ROWS", str(tmp_path / "rows"))
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    manager = TaskManager(include_path=str(REPO / "evaluation" / "tasks"), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model="dummy",
        tasks=["mibe_medqa", "mibe_medqa_ll"],
        task_manager=manager,
        bootstrap_iters=0,
        evaluation_tracker=tracker,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in samples:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    scores = score.score_folder(tmp_path / "out")
    assert (
        list(scores) == ["medqa", "medqa_ll"] and scores["medqa"]["n"] == scores["medqa"]["unparsed"] == 2
    )  # the dummy says "lol"
    assert (
        scores["medqa_ll"]["metrics"]["accuracy"]["value"]
        == results["results"]["mibe_medqa_ll"]["accuracy,none"]
    )
    known = scores["medqa"]["provenance"]
    assert (
        known["first_prompt"] is None
        and known["first_prompt_sha256"]
        and known["decoding"]["max_gen_toks"] == 64
        and scores["medqa"]["redacted"]
    )
    assert known["versions"]["lm_eval"] and known["shots"]["number"] == 0
    whole = score.graded_rows(tmp_path / "out", "medqa")
    assert [{key: value for key, value in row.items() if key in rows[0]} for row in whole] == rows and whole[
        0
    ]["output"] == "lol"


def samples_of(folder, **config):
    """What the harness leaves of two answered rows: samples, and results with this config."""
    folder.mkdir()
    docs = [{key: value for key, value in row.items() if key != "output"} for row in nli(2)]
    lines = [{"doc": doc, "resps": [["neutral"]], "arguments": {}} for doc in docs]
    (folder / "samples_mibe_mednli_2026.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if config:
        (folder / "results_2026.json").write_text(
            json.dumps({"model_name": "x", "config": {"model": "hf", **config}})
        )
    return folder


@pytest.mark.guarantee(
    "Credentialed data", "An access class that is missing or unknown is never taken for public."
)
def test_the_harness_alone_names_the_weights_and_their_class_counts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, access in (("notes", "credentialed"), ("open", None), ("adapter", "credentialed")):
        (tmp_path / "models" / name).mkdir(parents=True)
        file = "adapter_config.json" if name == "adapter" else "config.json"
        (tmp_path / "models" / name / file).write_text(json.dumps({"access": access} if access else {}))
    wanted = {  # arguments -> class, and whether a warning says that the class is unknown
        "pretrained=models/notes,dtype=float32": ("credentialed", False),
        "pretrained=models/open": ("public", False),
        "pretrained=models/open,peft=models/adapter": ("credentialed", False),
        "pretrained=org/name": ("public", False),
        "pretrained=gpt2,revision=main": ("public", False),
        "pretrained=org/name,peft=/gone/adapter": ("credentialed", True),
        "pretrained=models/gone": ("credentialed", True),
        "pretrained=/models/gone": ("credentialed", True),
        "pretrained=./gone": ("credentialed", True),
        "pretrained=org/name,base_url=http://127.0.0.1:8000/v1": ("credentialed", True),
        "model=org/name": ("credentialed", True),
        "": ("credentialed", True),
    }
    for number, (arguments, (access, unknown)) in enumerate(wanted.items()):
        as_dict = dict(part.split("=", 1) for part in arguments.split(",") if part)
        for form in (arguments, as_dict):
            egress._blocked = None
            os.umask(0o022)
            folder = samples_of(tmp_path / f"run{number}{type(form).__name__}", model_args=form)
            entry = score.score_folder(folder)["mednli"]
            assert (entry["provenance"]["access"], entry["redacted"], bool(egress.agreements())) == (
                access,
                *[access == "credentialed"] * 2,
            ), arguments
            assert bool((folder / "scores.json").stat().st_mode & 0o077) == (access == "public"), arguments
            said = capsys.readouterr().out
            assert (
                said.count("so it is kept as credentialed. Next: score a folder made by evaluation.generate")
                == unknown
            ), arguments
    for folder in (
        samples_of(tmp_path / "server", model="local-completions", model_args={"pretrained": "org/name"}),
        samples_of(tmp_path / "alone"),
    ):
        assert score.score_folder(folder)["mednli"]["redacted"]


# ---------------------------------------------------------------- BERTScore
@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "no",
        "acute",
        "process",
        "in",
        "the",
        "lungs",
        "clear",
        "effusion",
    ]
    vocabulary = {word: number for number, word in enumerate(words)}
    engine = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=engine, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_bertscore_is_a_greedy_match_of_tokens(encoder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    predictions, references = (
        ["lungs clear", "no effusion in the lungs", ""],
        ["the lungs clear", "no acute process", "clear"],
    )
    scores = bertscore.Encoder(str(encoder), layer=2, batch_size=2).score(predictions, references)
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    for prediction, reference, found in zip(predictions[:2], references[:2], scores, strict=False):
        with torch.no_grad():
            one, two = (
                model(**tokenizer(t, return_tensors="pt"), output_hidden_states=True).hidden_states[2][0]
                for t in (prediction, reference)
            )
        cosine = torch.nn.functional.cosine_similarity(one[:, None], two[None], dim=-1)
        precision, recall = (
            float(cosine[1:-1].max(1).values.mean()),
            float(cosine[:, 1:-1].max(0).values.mean()),
        )  # [CLS] and [SEP] do not count
        assert found == pytest.approx(
            (precision, recall, 2 * precision * recall / (precision + recall)), abs=1e-5
        )
    assert scores[2] == (0.0, 0.0, 0.0)
    assert bertscore.Encoder(str(encoder), layer=2).score(["clear"], ["clear"])[0][2] == pytest.approx(
        1.0, abs=1e-5
    )


def test_bertscore_is_taken_up_by_score_with_its_settings(tmp_path, encoder, capsys):
    rows = rows_of(
        "mimic_cxr",
        "summary",
        [("lungs clear", "the lungs clear"), ("", "clear"), ("no " * 20, "no acute process")],
    )
    folder = write_run(tmp_path / "run", rows, nli(2))
    bertscore.main([str(folder), "--model", str(encoder), "--layer", "2"])
    assert "1 outputs and 0 references longer than 12 tokens" in capsys.readouterr().out
    entry = score.score_folder(folder)["mimic_cxr"]
    made = entry["bertscore"]
    assert (
        made["layer"],
        made["max_length"],
        made["truncated_predictions"],
        made["truncated_references"],
        made["empty_predictions"],
    ) == (2, 12, 1, 0, 1)
    assert made["fingerprint"] and "revision" in made and made["versions"]["transformers"]
    scored = score.graded_rows(folder, "mimic_cxr")
    assert scored[1]["score"]["bertscore"] == 0.0 and entry["metrics"]["bertscore"]["value"] == pytest.approx(
        made["value"]["f1"]
    )
    assert "bertscore" not in entry["paper"]["metrics"]  # another encoder than the paper's
    file = folder / "mimic_cxr.bertscore.json"
    file.write_text(
        json.dumps(
            json.loads(file.read_text()) | {"model": "models/bert-base-multilingual-cased", "layer": 9}
        )
    )
    entry = score.score_folder(folder)["mimic_cxr"]
    assert entry["paper"]["metrics"]["bertscore"] == entry["metrics"]["bertscore"]
    (folder / "mimic_cxr.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert score.score_folder(folder)["mimic_cxr"]["bertscore"] is None
    assert (
        "made from other outputs, left out. Next: python -m evaluation.bertscore" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "ENCODER"], "no layer is known for it. Next: --layer N"),
        (["--model", "ENCODER", "--layer", "9"], "--layer 9: .* has 3 layers. Next: --layer 3 or less"),
        (["--model", "RUN", "--layer", "2"], r"no model here \(no config.json\)"),
        (["--model", "nobody/nothing", "--layer", "2"], "no such folder, and the Hub did not give it"),
    ],
)
def test_bertscore_says_what_is_wrong(tmp_path, encoder, arguments, message):
    folder = write_run(tmp_path / "run", rows_of("mimic_cxr", "summary", [("x", "y")]))
    arguments = [a.replace("ENCODER", str(encoder)).replace("RUN", str(folder)) for a in arguments]
    with pytest.raises(SystemExit, match=message):
        bertscore.main([str(folder), *arguments])
    assert not list(folder.glob("*.bertscore.json"))


def test_bertscore_needs_summaries(tmp_path, encoder):
    with pytest.raises(SystemExit, match="no task with summaries"):
        bertscore.main([str(write_run(tmp_path / "run", nli(2))), "--model", str(encoder), "--layer", "2"])


# ---------------------------------------------------------------- the evaluate library
def test_the_metrics_load_as_an_evaluate_module_offline(tmp_path, monkeypatch):
    import evaluate

    for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE"):
        monkeypatch.setattr(evaluate.config, name, tmp_path / name)
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = str(REPO / "evaluation" / "evaluate_modules" / "mibe")
    choice = evaluate.load(module, "choice").compute(
        predictions=["Answer: C", "secret"], references=["C", "A"], choices=["A", "B", "C"]
    )
    assert choice == {"accuracy": 0.5, "macro_f1": 0.5, "unparsed": 0.5}
    span = evaluate.load(module, "span", keep_in_memory=False)
    span.add_batch(predictions=["secret pain"], references=["pain secret"])
    assert span.compute() == {"exact_match": 0.0, "word_f1": 1.0, "unparsed": 0.0}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    with pytest.raises(ValueError, match="with one of choice, labels, span, entities, summary"):
        evaluate.load(module)
    with pytest.raises(ValueError, match="needs choices"):
        evaluate.load(module, "labels").compute(predictions=["x"], references=["x"])


def test_task_files_of_both_kinds(tmp_path):
    folder = write_run(tmp_path / "run", nli(2))
    score.score_folder(folder)
    (folder / "model").mkdir()
    (folder / "model" / "samples_mibe_medqa_ll_2026-01-02T03-04-05.678.jsonl").write_text("{}\n")
    assert {task: path.name for task, path in run_outputs.task_files(folder).items()} == {
        "mednli": "mednli.jsonl",
        "medqa_ll": "samples_mibe_medqa_ll_2026-01-02T03-04-05.678.jsonl",
    }
