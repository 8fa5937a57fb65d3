"""Score a run from its outputs alone: no model is needed, and the same outputs give the same bytes.

    python -m evaluation.score outputs/demo/evaluation/backbone outputs/demo/evaluation/chat
    python -m evaluation.score outputs/demo/evaluation/chat --against outputs/demo/evaluation/backbone

Reads   RUN/<task>.jsonl and run.json, as evaluation.generate writes them, or what `lm_eval run --log_samples`
        leaves in RUN (scoring/run_outputs.py)
        RUN/<task>.bertscore.json where there is one (bertscore.py)
Writes  RUN/scores.json            for each task: the strict metrics and the paper's, each with a 95 %
                                   interval; unparsed outputs; the headline; a table of its labels; scorer and
                                   parser version; where the outputs come from
        RUN/<task>.scored.jsonl    the rows, each with `parsed`, `score` and `paper`
        RUN/against_<run>.json     with --against: the differences, with paired tests (compare.py)

Intervals are percentile bootstraps over rows, and Wilson's where all draws agree. An output without a
readable answer is unparsed, and wrong; where more than 5 % are, the headline is withheld: it would tell how a
model writes and not what it knows.

Rows of access class credentialed, and those of a model that was trained on such data or of which nothing is
known, are redacted: ids, hashes and verdicts, no text and no label. --show_texts keeps them whole, --redact
redacts every row. The outputs themselves are left as they are.
"""

import argparse
import collections
import hashlib
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

from data_prep import egress
from data_prep.files import one_sentence, read_json, read_jsonl, replaced, sha256, write_jsonl
from data_prep.schema import BadInput
from evaluation.scoring import calibration, metrics, parsing, reference_scorer, run_outputs

UNPARSED_LIMIT = 0.05
SCORER = {
    "scorer_version": "2.4",
    "parser_version": parsing.PARSER_VERSION,
    "paper_version": reference_scorer.PAPER_VERSION,
    "draws": metrics.DRAWS,
    "level": metrics.LEVEL,
    "seed": 0,
}
PROVENANCE = (
    "model",
    "fingerprint",
    "revision",
    "access",
    "preset",
    "settings",
    "template",
    "shots",
    "decoding",
    "dataset",
    "rows",
    "rows_sha256",
    "outputs_sha256",
    "prompts_sha256",
    "first_prompt",
    "first_prompt_sha256",
    "n_overlong",
    "hardware",
    "versions",
)
JUDGED = {  # scoring: the command that judges it
    "diagnosis": "python -m evaluation.judge {run} --judge string",
    "rubric": "python -m evaluation.rubrics {run} --task {task} --judge hf:DIR",
}
PAPER_BERTSCORE = ("bert-base-multilingual-cased", 9)  # the paper's encoder and layer


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders written by evaluation.generate or lm_eval",
    )
    parser.add_argument(
        "--against", type=Path, metavar="OTHER_RUN", help="compare each RUN with this one, row by row"
    )
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument(
        "--redact", action="store_true", help="no text and no label of any row in the files written"
    )
    texts.add_argument(
        "--show_texts",
        action="store_true",
        help="keep the texts of credentialed rows; such files stay on the site",
    )
    args = parser.parse_args(argv)
    with one_sentence():
        for folder in dict.fromkeys([*args.folders, *([args.against] if args.against else [])]):
            score_folder(folder, redact=True if args.redact else False if args.show_texts else None)
        if args.against:
            from evaluation.scoring import compare

            for folder in args.folders:
                print(compare.compare_folders(folder, args.against), flush=True)


def score_folder(folder: Path, redact: bool | None = None) -> dict:
    """Write scores.json and the scored rows of one run, and print its table. Nothing is written if any task
    cannot be scored; tasks that a judge scores are named and left to it. `redact`: every row, none, or by
    default those whose access class is credentialed."""
    scores, scored, judged = {}, {}, []
    for task, path in run_outputs.task_files(folder).items():
        rows = run_outputs.read_rows(path)
        if command := JUDGED.get(rows[0]["scoring"]):
            command = f"{command.format(run=folder, task=task)} --out {folder}_judged"
            judged.append(f"{path}: is judged, not scored. Next: {command}")
            continue
        facts = run_outputs.read_facts(folder, task, path, rows)
        rows = [_graded(row) for row in rows]
        bertscore = add_bertscore(folder, task, path, rows)
        hidden = [run_outputs.closed(row) if redact is None else redact for row in rows]
        scores[task] = score_task(rows) | {
            "bertscore": bertscore,
            "scorer": SCORER,
            "provenance": provenance(facts, path, hide_prompt=any(hidden)),
            "redacted": any(hidden),
        }
        scored[task] = [redacted(row) if hide else row for row, hide in zip(rows, hidden, strict=True)]
    if judged and not scores:
        raise BadInput(judged[0])
    for sentence in judged:
        print(sentence, flush=True)
    for task, rows in scored.items():
        replaced(folder / f"{task}.scored.jsonl", lambda path, rows=rows: write_jsonl(path, rows))
    replaced(
        folder / "scores.json",
        lambda path: path.write_text(
            json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        ),
    )
    print(table(folder.name, scores), flush=True)
    return scores


def graded_rows(folder: Path, task: str) -> list[dict]:
    """The rows of a task of a scored run, whole, as the present parser reads them: from the scored file, or
    from the outputs where that file is redacted or of an earlier parser."""
    path = run_outputs.task_files(folder).get(task)
    if path is None:
        raise BadInput(f"{folder}: no outputs of {task}. Next: {run_outputs.generate_command(folder, task)}")
    entry = read_json(folder / "scores.json").get(task, {}) if (folder / "scores.json").is_file() else {}
    file, scored = folder / f"{task}.scored.jsonl", []
    if (
        file.is_file()
        and entry.get("scorer") == SCORER
        and entry["provenance"]["outputs_sha256"] == sha256(path)
    ):
        scored = [row for _, row in read_jsonl(file)]
        if not any(row.get("redacted") for row in scored):
            return run_outputs.written(path, scored)
    known = {row["id"]: row["score"] for row in scored if row["scoring"] == "summary"}
    rows = [_graded(row, known.get(row["id"])) for row in run_outputs.read_rows(path)]
    add_bertscore(folder, task, path, rows)
    return rows


def _graded(row, rouge=None):
    rouge = {name: rouge[name] for name in metrics.NAMES["summary"]} if rouge else None
    row = row | metrics.grade(row, rouge)
    return row | {"paper": reference_scorer.grade(row) if reference_scorer.applies(row) else None}


# ---------------------------------------------------------------- a task
def score_task(rows: list[dict]) -> dict:
    """What scores.json says of the outputs of one task, from graded rows. A metric that is not defined on
    these rows is null."""
    values = {}
    for name, (counts, finish) in metrics.statistics(rows).items():
        values[name] = metrics.estimate(
            float(finish(counts.sum(0), len(rows))), metrics.draws(counts, finish), len(rows)
        )
    unparsed, primary = sum(row["parsed"] is None for row in rows), metrics.primary(rows)
    rate, withheld = unparsed / len(rows), None
    if rate > UNPARSED_LIMIT:
        withheld = f"{unparsed} of {len(rows)} outputs ({rate:.1%}) hold no readable answer, "
        withheld += f"more than {UNPARSED_LIMIT:.0%}"
    headline = dict.fromkeys(("value", "low", "high")) if withheld else values[primary]
    return {
        "n": len(rows),
        "scoring": rows[0]["scoring"],
        "primary": primary,
        "headline": {"metric": primary, **headline, "withheld": withheld},
        "metrics": values,
        "unparsed": unparsed,
        "unparsed_rate": rate,
        "paper": paper_entry(rows),
        "calibration": calibration.of_rows(rows),
        "abstention": calibration.abstention(rows),
        "classes": metrics.classes(rows),
        "confusion": metrics.confusion(rows),
        "one_answer": metrics.one_answer(rows),
        "rules": dict(collections.Counter(row["rule"] for row in rows).most_common())
        if "rule" in rows[0]
        else None,
    }


def paper_entry(rows: list[dict]) -> dict | None:
    """What the paper's scorer gives for the same outputs; None if it has no rule for them."""
    if rows[0]["paper"] is None:
        return None
    values = {}
    for name, (counts, finish) in reference_scorer.statistics(rows).items():
        drawn = metrics.draws(counts, finish)
        values[name] = metrics.estimate(reference_scorer.point(name, counts, finish, drawn), drawn, len(rows))
    missing = sum(row["paper"]["parsed"] is None for row in rows) if rows[0]["scoring"] == "choice" else None
    return {
        "metrics": values,
        "missing": missing,
        "missing_rate": None if missing is None else missing / len(rows),
        "faults": reference_scorer.FAULTS[rows[0]["task"]].split(),
        "notes": reference_scorer.NOTES.get(rows[0]["task"], {}),
    }


def add_bertscore(folder: Path, task: str, path: Path, rows: list[dict]) -> dict | None:
    """Give each row its BERTScore, where bertscore.py made them from these outputs, and return how they were
    made."""
    file = folder / f"{task}.bertscore.json"
    if not file.is_file() or rows[0]["scoring"] != "summary":
        return None
    made = read_json(file)
    if made.get("outputs_sha256") != sha256(path):
        print(
            f"{file}: made from other outputs, left out. Next: python -m evaluation.bertscore {folder} "
            f"--model {made.get('model')}"
        )
        return None
    f1 = made.pop("f1")
    for row in rows:
        row["score"]["bertscore"] = f1[row["id"]]
    read_alike = all(row["paper"] and row["output"].strip() == (row["parsed"] or "") for row in rows)
    if (Path(made["model"]).name, made["layer"]) == PAPER_BERTSCORE and read_alike:
        for row in rows:
            row["paper"]["score"]["bertscore"] = f1[row["id"]]
    return made


# ---------------------------------------------------------------- where the outputs come from, and what of
# them is shown
def provenance(facts: dict, path: Path, hide_prompt: bool) -> dict:
    digest = sha256(path)
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "rouge-score")}
    known = {name: facts.get(name) for name in PROVENANCE} | {
        "outputs_sha256": digest,
        "outputs_changed": facts.get("outputs_sha256") not in (None, digest),
        "scored_with": {"python": platform.python_version(), **packages},
    }
    return known | ({"first_prompt": None} if hide_prompt else {})


def access_of(entry: dict) -> str:
    """The class of an entry of scores.json; older ones of the harness alone do not say it."""
    return entry["provenance"]["access"] or "credentialed"


def redacted(row: dict) -> dict:
    """What may leave the site of a row: no text, and no label, as the labels are a part of the data. Each
    hash is over the prompt too, so that a label cannot be found from it by trying."""
    prompt = row.get("prompt", "")
    output = row["output"] if isinstance(row["output"], str) else json.dumps(row["output"])
    return {
        **{
            name: row[name]
            for name in ("id", "task", "split", "scoring", "source", "license", "access", "model_access")
            if name in row
        },
        "redacted": True,
        "answered": row["parsed"] is not None,
        "score": row["score"],
        "paper": row["paper"] and {"score": row["paper"]["score"]},
        "prompt_sha256": _hash("prompt", prompt),
        "row_sha256": _hash("row", prompt, row["completion"]),
        "output_sha256": _hash("output", prompt, output),
        "output_chars": len(output),
    }


def _hash(*texts):
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


# ---------------------------------------------------------------- print
def table(title: str, scores: dict) -> str:
    """The strict metrics with their intervals, and the paper's values beside them."""
    lines = [
        f"{title:20} {'n':>6} {'unparsed':>9}  {'metric':19} {'strict':>7}  95 % interval    {'paper':>6}"
        "  detectable"
    ]
    for task, entry in scores.items():
        paper = entry["paper"] or {"metrics": {}}
        withheld = entry["headline"]["withheld"]
        for place, (name, v) in enumerate(entry["metrics"].items()):
            head = f"{task:20} {entry['n']:6} {entry['unparsed_rate']:9.1%}" if place == 0 else " " * 37
            mark = " *" if name == entry["primary"] else ""
            theirs = f"{paper['metrics'][name]['value']:6.3f}" if name in paper["metrics"] else ""
            numbers = (
                "withheld"
                if withheld
                else "not defined"
                if v["value"] is None
                else f"{v['value']:7.3f}  {v['low']:.3f} to {v['high']:.3f}"
            )
            apart = None if withheld else metrics.smallest_difference(v["low"], v["high"])
            shown = "" if apart is None else f"{apart:10.3f}"
            lines.append(f"{head}  {name + mark:19} {numbers:24}  {theirs:6}  {shown}".rstrip())
        if withheld:
            lines.append(f"{'':37}  {withheld}")
        if one := entry["one_answer"]:
            collapsed = f"; collapsed to one answer in {one['share']:.1%}" if one["collapsed"] else ""
            lines.append(f"{'':37}  always the majority answer: {one['majority']:.3f}{collapsed}")
        if c := entry["calibration"]:
            lines.append(
                f"{'':37}  ECE {c['ece']:.3f}, Brier {c['brier']['value']:.3f}, AURC {c['aurc']:.3f}, "
                f"{c['ties']} ties"
            )
        if entry["provenance"]["outputs_changed"]:
            lines.append(f"{'':37}  the outputs were changed after they were made")
    if any(entry["redacted"] for entry in scores.values()):
        lines.append("the scored rows hold no text of credentialed rows; --show_texts keeps it")
    return "\n".join(
        [
            *lines,
            "* headline metric. unparsed: no readable answer, scored as wrong. paper: the paper's scorer "
            "on the same outputs. detectable: the smallest difference of two such scores that a test at 5 % "
            "finds with a power of 80 %",
        ]
    )


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
