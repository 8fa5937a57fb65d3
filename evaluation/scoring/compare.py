"""Two runs on the same rows: is the difference more than chance?

`python -m evaluation.score RUN --against OTHER` calls this, after both are scored. For each task that both
answered: the difference of every metric (RUN minus OTHER) with the 95 % interval and the p-value of a paired
bootstrap over rows, and for answers that are right or wrong McNemar's exact test. No correction for the
number of tasks and metrics is made.
"""

import json
from pathlib import Path

from data_prep.files import read_json, replaced
from data_prep.schema import BadInput, strictest
from evaluation import score
from evaluation.scoring import metrics, run_outputs

RIGHT_OR_WRONG = ("accuracy", "exact_match")


def compare_folders(folder: Path, other: Path) -> str:
    """Write RUN/against_<OTHER>.json, and return its table. BadInput if a task was not asked of the same
    rows."""
    if folder.resolve() == other.resolve():
        raise BadInput(f"--against {other}: is the run itself. Next: another run")
    asked, theirs = run_outputs.task_files(folder), run_outputs.task_files(other)
    shared = [task for task in asked if task in theirs]
    if not shared:
        raise BadInput(
            f"{folder} and {other}: no task in common ({', '.join(asked)} / {', '.join(theirs)}). Next: "
            f"run both on the same tasks"
        )
    found = {
        task: compare(
            score.graded_rows(folder, task), score.graded_rows(other, task), f"{task}: {folder} and {other}"
        )
        for task in shared
    }
    entries = {task: [read_json(run / "scores.json")[task] for run in (folder, other)] for task in shared}
    for task in shared:
        found[task]["unparsed_rate"] = [entry["unparsed_rate"] for entry in entries[task]]
        found[task]["collapsed"] = [
            {"run": run.name, "share": entry["one_answer"]["share"]}
            for run, entry in zip((folder, other), entries[task], strict=True)
            if entry["one_answer"] and entry["one_answer"]["collapsed"]
        ]
    access = strictest(score.access_of(entry) for pair in entries.values() for entry in pair)
    result = {
        "access": access,
        "run": str(folder),
        "against": str(other),
        "scorer": score.SCORER,
        "tasks": found,
    }
    replaced(
        folder / f"against_{other.name}.json",
        lambda path: path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8"),
    )
    alone = [
        f"{task} only in {run.name}"
        for run, own, foreign in ((folder, asked, theirs), (other, theirs, asked))
        for task in own
        if task not in foreign
    ]
    return table(f"{folder.name} - {other.name}", found, alone)


def compare(rows: list[dict], others: list[dict], where: str = "the two runs") -> dict:
    """{"n", "metrics": {name: {"difference", "low", "high", "p"}}, "mcnemar"} of graded rows of one task by
    two models."""
    by_id = {row["id"]: row for row in others}
    unmatched = [row["id"] for row in rows if row["id"] not in by_id] + sorted(
        set(by_id) - {row["id"] for row in rows}
    )
    if unmatched:
        raise BadInput(
            f"{where}: {len(unmatched)} rows are in only one run, e.g. {unmatched[0]}. Next: run both on "
            f"the same rows, without --limit"
        )
    others = [by_id[row["id"]] for row in rows]
    for row, other in zip(rows, others, strict=True):
        if any(
            row.get(field) != other.get(field) for field in ("completion", "choices", "scoring")
        ) or metrics.kind(row) != metrics.kind(other):
            raise BadInput(
                f"{where}: row {row['id']} is not the same in both. Next: run both on the same rows"
            )
    shared = [name for name in metrics.names(rows) if name in metrics.names(others)]
    differences = {}
    for name in shared:
        difference, drawn = metrics.paired_difference(rows, others, name)
        differences[name] = metrics.estimate(difference, drawn, len(rows), difference=True) | {
            "p": metrics.p_value(drawn)
        }
        differences[name]["difference"] = differences[name].pop("value")
        low, high = differences[name]["low"], differences[name]["high"]
        differences[name]["detectable"] = metrics.smallest_difference(low, high, paired=True)
    tested = next((name for name in RIGHT_OR_WRONG if name in shared), None)
    return {"n": len(rows), "metrics": differences, "mcnemar": tested and mcnemar(rows, others, tested)}


def mcnemar(rows: list[dict], others: list[dict], name: str) -> dict:
    right, other_right = ([bool(row["score"][name]) for row in those] for those in (rows, others))
    pairs = list(zip(right, other_right, strict=True))
    return {
        "metric": name,
        "only_this": sum(a and not b for a, b in pairs),
        "only_other": sum(b and not a for a, b in pairs),
        "p": metrics.mcnemar(right, other_right),
    }


def table(title: str, found: dict, alone: list[str]) -> str:
    lines = [f"{title:32} {'n':>6}  {'metric':19} difference  95 % interval         p  detectable  McNemar"]
    for task, entry in found.items():
        for place, (name, v) in enumerate(entry["metrics"].items()):
            head = f"{task:32} {entry['n']:6}" if place == 0 else " " * 39
            numbers = (
                "not defined"
                if v["difference"] is None
                else f"{v['difference']:+10.3f}  {v['low']:+.3f} to {v['high']:+.3f}  {v['p']:8.3f}  "
                f"{v['detectable']:10.3f}"
            )
            test = entry["mcnemar"] if entry["mcnemar"] and entry["mcnemar"]["metric"] == name else None
            lines.append(
                f"{head}  {name:19} {numbers}"
                + (f"  {test['only_this']}:{test['only_other']}, p {test['p']:.3f}" if test else "")
            )
        if max(entry["unparsed_rate"]) > score.UNPARSED_LIMIT:
            rates = " and ".join(f"{rate:.1%}" for rate in entry["unparsed_rate"])
            lines.append(f"{'':39}  unparsed: {rates}. The difference is also one of form")
        for one in entry["collapsed"]:
            lines.append(f"{'':39}  {one['run']} collapsed to one answer in {one['share']:.1%} of the rows")
    return "\n".join(lines + [f"not compared: {', '.join(alone)}"] * bool(alone))
