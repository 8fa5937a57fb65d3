"""Score what evaluation.generate wrote, from the logged outputs alone: no model is needed.

    python -m evaluation.score outputs/demo/evaluation/backbone outputs/demo/evaluation/chat

Reads   DIR/<task>.jsonl: rows with `output`. The row's `scoring` decides how it is scored (metrics.py).
Writes  DIR/scores.json            {task: {"n", "metrics": {name: {"value", "low", "high"}}, "primary", "unparsed", "scoring"}}
        DIR/<task>.scored.jsonl    the rows, each with `parsed` and `score`

`low` and `high` are a 95 % percentile bootstrap interval over rows. `unparsed` counts outputs without a readable answer: wrong answers.
Same outputs, same bytes.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from data_prep.contracts import SCORINGS, BadInput
from data_prep.files import read_jsonl, write_jsonl
from evaluation import metrics

NEEDED = ("id", "scoring", "completion", "output")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders written by evaluation.generate")
    args = parser.parse_args(argv)
    try:
        for folder in args.folders:
            score_folder(folder)
    except BadInput as error:
        sys.exit(f"error: {error}")


def score_folder(folder: Path) -> dict:
    """Write scores.json and the scored rows of one folder, and print its table. Nothing is written if any task cannot be scored."""
    files = sorted(path for path in folder.glob("*.jsonl") if not path.name.endswith(".scored.jsonl"))
    if not files:
        raise BadInput(
            f"{folder}: nothing to score. Next: python -m evaluation.generate --model MODEL --rows ROWS --tasks TASKS --out {folder}"
        )
    graded = {path.stem: grade_file(path) for path in files}
    scores = {task: score_task(rows) for task, rows in graded.items()}
    for task, rows in graded.items():
        _replace(folder / f"{task}.scored.jsonl", lambda path, rows=rows: write_jsonl(path, rows))
    _replace(folder / "scores.json", lambda path: path.write_text(json.dumps(scores, indent=1) + "\n"))
    print(table(folder.name, scores), flush=True)
    return scores


def grade_file(path: Path) -> list[dict]:
    rows = []
    for number, row in read_jsonl(path):
        where = f"{path}: line {number}"
        missing = [field for field in NEEDED if not isinstance(row, dict) or field not in row]
        if missing:
            raise BadInput(f"{where}: field '{missing[0]}' is missing. Next: python -m evaluation.generate --out {path.parent} ...")
        if row["scoring"] not in SCORINGS or row["scoring"] == "none":
            raise BadInput(f"{where}: scoring '{row['scoring']}' has no metric (row {row['id']})")
        rows.append({**row, **metrics.grade(row)})
    if not rows:
        raise BadInput(f"{path}: no rows. Next: python -m evaluation.generate --out {path.parent} ...")
    if len({(row["scoring"], isinstance(row["output"], list)) for row in rows}) > 1:
        raise BadInput(f"{path}: rows of different scorings in one task. Next: python -m evaluation.generate --out {path.parent} ...")
    return rows


def score_task(rows: list[dict]) -> dict:
    """The entry of one task in scores.json, from graded rows. A metric that is not defined on these rows is null."""
    values = {}
    for name, (counts, finish) in metrics.statistics(rows).items():
        numbers = float(finish(counts.sum(0), len(rows))), *metrics.interval(metrics.draws(counts, finish))
        values[name] = {key: None if math.isnan(x) else x for key, x in zip(("value", "low", "high"), numbers, strict=True)}
    unparsed = sum(row["parsed"] is None for row in rows)
    return {"n": len(rows), "metrics": values, "primary": metrics.primary(rows), "unparsed": unparsed, "scoring": rows[0]["scoring"]}


def table(title: str, scores: dict) -> str:
    lines = [f"{title:20} {'n':>6} {'unparsed':>8}  metric         value  95 % interval"]
    for task, entry in scores.items():
        for name, v in entry["metrics"].items():
            head = f"{task:20} {entry['n']:6} {entry['unparsed']:8}" if name == next(iter(entry["metrics"])) else " " * 36
            numbers = "not defined" if v["value"] is None else f"{v['value']:.3f}  {v['low']:.3f} to {v['high']:.3f}"
            lines.append(f"{head}  {name:13}  {numbers}{'  *' if name == entry['primary'] else ''}")
    return "\n".join([*lines, "* stands for the task in the report"])


def _replace(path: Path, write) -> None:
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)


if __name__ == "__main__":
    main()
