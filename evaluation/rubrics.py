"""Judge the answers to conversations by rubrics, as HealthBench does; and the judge by physicians.

    python -m evaluation.generate --model DIR --rows data/tasks --tasks healthbench --preset chat --out RUN
    python -m evaluation.rubrics RUN OTHER --judge hf:models/judge --out outputs/rubrics \
        --meta data/raw/healthbench/2025-05-07-06-14-12_oss_meta_eval.jsonl

Reads   RUN/<task>.jsonl, rows of scoring "rubric" (data_prep/benchmarks/_beyond.py); judges are those of
        evaluation.judge that read a prompt (diagnosis/judges.py)
        META, rows of {prompt, completion, rubric, binary_labels, category}: what physicians said of criteria
Writes  OUT/verdicts.jsonl   every verdict as it comes: the same command again asks nothing twice
        OUT/summary.json and summary.md   scores with intervals, by theme and axis, differences between
                             models, and the judge's agreement with physicians

The score is the publisher's (Arora et al. 2025, arXiv:2505.08775; github.com/openai/simple-evals,
healthbench_eval.py): of an answer the points of the criteria that it meets, over the sum of the positive
points; of a model the mean over conversations, which may hold negative ones, clipped to 0 and 1. An answer
without text meets nothing. A verdict that could not be had is missing, never a no: its conversation is left
out of the score, and the bounds beside it say what the score would be if all that is missing went against or
for the model. The publisher asks again until it can read a verdict.

The judge is measured as in healthbench_meta_eval.py: the mean of the F1 of "met" and of "not met" over all
pairs of a verdict and a physician's label; and the same of physicians among each other. Intervals are
bootstraps over whole conversations. A score of a judge that was not measured says so.

Ours: the wording of the question, and that the judge does not see a criterion's points, so that both
measurements ask alike. The publisher's numbers are of GPT-4.1 with its own wording (--prompt).
"""

import argparse
import collections
import hashlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np

from data_prep import egress
from data_prep.benchmarks import pick
from data_prep.files import check_folder, one_sentence, read_json, read_jsonl, replaced, sha256
from data_prep.schema import BadInput, strictest
from evaluation.diagnosis import judges, statistics
from evaluation.diagnosis import section as pages
from evaluation.diagnosis.verdicts import Log, judge_all
from evaluation.models.registry import asks_server
from evaluation.reporting.formats import format_interval
from evaluation.reporting.intervals import DETECTABLE, detectable, smallest
from evaluation.scoring import metrics, run_outputs

PROMPT = judges.PROMPT.with_name("rubric.txt")
FIELDS = ("criterion", "conversation")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="written by evaluation.generate")
    parser.add_argument("--task", default="healthbench")
    parser.add_argument("--judge", required=True, help="openai:MODEL[@URL], hf:DIR or vote:JUDGE+JUDGE")
    parser.add_argument("--meta", type=Path, help="the publisher's file of physicians' labels")
    parser.add_argument("--meta_rows", type=int, help="that many of its rows, chosen by hash")
    parser.add_argument("--prompt", type=Path, default=PROMPT, help="with {criterion} and {conversation}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--allow_list", type=Path, help="YAML of servers (data_prep/egress.py)")
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with one_sentence():
        summary = judge_runs(args)
    print(markdown(summary), flush=True)


def judge_runs(args) -> dict:
    """Write OUT and return the summary."""
    if args.judge.split(":")[0] in ("string", "human"):
        raise BadInput(f"--judge {args.judge}: reads no criterion. Next: hf:DIR or openai:MODEL@URL")
    check_folder(args.out)
    runs = {}
    for folder in args.folders:
        runs[folder.resolve().name] = read_run(folder, args.task)
    if len(runs) < len(args.folders):
        raise BadInput("two runs have the same name. Next: rename a folder, a model is named by it")
    wanted = [{row["id"]: row["rubric"] for row in rows} for rows in runs.values()]
    if any(one != wanted[0] for one in wanted):
        raise BadInput(f"{' and '.join(runs)} did not answer the same rows. Next: run both without --limit")
    meta = read_meta(args.meta, args.meta_rows) if args.meta else []
    judge = judges.make_judge(args.judge, args.prompt, args.allow_list, fields=FIELDS)
    access = strictest(
        row[key] for rows in runs.values() for row in rows for key in ("access", "model_access")
    )
    args.out.mkdir(parents=True, exist_ok=True)
    if access == "credentialed":
        args.out.chmod(0o700)
    log = Log(args.out / "verdicts.jsonl")
    try:
        said, facts = {}, {}
        for name, rows in runs.items():
            items = [
                (item["criterion"], case(f"{name}:{row['id']}", row["question"], row["output"], row))
                for row in rows
                if row["output"].strip()
                for item in row["rubric"]
            ]
            said[name], facts[name] = judge_all(judge, items, log)
        pairs, measured = judge_all(judge, [(row["rubric"], row["case"]) for row in meta], log)
    finally:
        log.close()
    graded = {
        name: {row["id"]: grade(row, said[name], f"{name}:{row['id']}") for row in rows}
        for name, rows in runs.items()
    }
    access = strictest([access, *(one["access"] for one in (*facts.values(), measured))])
    if access == "credentialed":
        args.out.chmod(0o700)
    summary = {
        "access": access,
        "task": args.task,
        "conversations": len(wanted[0]),
        "judge": {"id": judge.id, "prompt": judge.prompt, "prompt_sha256": judge.prompt_sha256},
        "models": [model_entry(name, runs[name], graded[name], facts[name]) for name in runs],
        "pairs_of_models": [
            {"first": a, "second": b, **difference(graded[a], graded[b])}
            for a, b in itertools.combinations(runs, 2)
        ],
        "meta": {"sha256": sha256(args.meta), **agreement(meta, pairs), "failed": measured["failed"]}
        if meta
        else None,
    }
    for name, text in (
        ("summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n"),
        ("summary.md", markdown(summary) + "\n"),
    ):
        replaced(args.out / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))
    return summary


# ---------------------------------------------------------------- inputs
def read_run(folder: Path, task: str) -> list[dict]:
    path = run_outputs.task_files(folder).get(task)
    if path is None:
        raise BadInput(
            f"{folder}: no outputs of {task}. Next: {run_outputs.generate_command(folder, task)}, or --task"
        )
    rows = run_outputs.read_rows(path)
    if rows[0]["scoring"] != "rubric" or any("rubric" not in row for row in rows):
        raise BadInput(f"{path}: its rows have no rubric. Next: --task with rows of HealthBench")
    if worthless := [row["id"] for row in rows if not any(item["points"] > 0 for item in row["rubric"])]:
        raise BadInput(f"{path}: row {worthless[0]} has no criterion with points to earn. Next: leave it out")
    return rows


def case(name: str, question: str, answer: str, row: dict) -> dict:
    """What a judge is given: the conversation with the answer, and the classes of both."""
    known = {key: row.get(key, "public") for key in ("access", "model_access")}
    license = row.get("license", "MIT")
    return {"id": name, "completion": f"{question}\n\nassistant: {answer}", "license": license, **known}


def read_meta(path: Path, limit: int | None) -> list[dict]:
    """Rows of {"rubric", "labels", "category", "talk": hash of the conversation, "case"}."""
    rows = []
    for number, record in read_jsonl(path):
        where = f"{path}: line {number}"
        kinds = {"prompt": list, "completion": str, "rubric": str, "binary_labels": list, "category": str}
        prompt, answer, rubric, labels, category = pick(record, where, **kinds)
        turns = [pick(turn, f"{where}: prompt", role=str, content=str) for turn in prompt]
        if not labels or not all(isinstance(label, bool) for label in labels):
            raise BadInput(f"{where}: binary_labels must be true or false of one physician or more")
        question = "\n\n".join(f"{role}: {content}" for role, content in turns)
        talk = hashlib.sha256(question.encode()).hexdigest()
        name = hashlib.sha256(json.dumps([talk, answer, rubric]).encode()).hexdigest()[:16]
        given = case(f"meta:{name}:{number}", question, answer, {})
        rows.append({"rubric": rubric, "labels": labels, "category": category, "talk": talk, "case": given})
    if not rows:
        raise BadInput(f"{path}: holds no rows. Next: the file with oss_meta_eval in its name")
    return sorted(rows, key=lambda row: row["case"]["id"])[:limit]


# ---------------------------------------------------------------- scores
def grade(row: dict, said: dict, name: str) -> dict:
    """{"value" (None where a verdict is missing), "least", "most", "missing", "tags"} of an answer."""
    answered = bool(row["output"].strip())
    verdicts = [said[name, item["criterion"]] if answered else False for item in row["rubric"]]
    items = list(zip(row["rubric"], verdicts, strict=True))
    tags = {tag for item, _ in items for tag in item["tags"]}
    parts = {tag: points([pair for pair in items if tag in pair[0]["tags"]]) for tag in tags}
    parts |= dict.fromkeys(row.get("tags", ()), points(items))
    return points(items) | {"missing": verdicts.count(None), "answered": answered, "tags": parts}


def points(items: list[tuple[dict, bool | None]]) -> dict | None:
    """Earned over positive points, with its bounds; None without a positive one."""
    positive = sum(max(0, item["points"]) for item, _ in items)
    if not positive:
        return None
    met = sum(item["points"] for item, verdict in items if verdict)
    unknown = [item["points"] for item, verdict in items if verdict is None]
    return {
        "value": None if unknown else met / positive,
        "least": (met + sum(min(0, p) for p in unknown)) / positive,
        "most": (met + sum(max(0, p) for p in unknown)) / positive,
    }


def clipped_mean(total, n):
    return np.clip(total[..., 0] / n, 0, 1)


def score(parts: list[dict]) -> dict:
    """{"n", "value", "low", "high", "least", "most"} of the parts of a model's answers."""
    known = np.array([[part["value"]] for part in parts if part["value"] is not None])
    bounds = {
        key: float(np.clip(np.mean([part[key] for part in parts]), 0, 1)) if parts else None
        for key in ("least", "most")
    }
    found = dict.fromkeys(("value", "low", "high"))
    if len(known):
        drawn = metrics.draws(known, clipped_mean)
        found = metrics.estimate(float(clipped_mean(known.sum(0), len(known))), drawn, len(known))
    return {"n": len(known), **found, **bounds}


def model_entry(name: str, rows: list[dict], graded: dict, facts: dict) -> dict:
    answers = list(graded.values())
    tags = collections.defaultdict(list)
    for answer in answers:
        for tag, part in answer["tags"].items():
            tags[tag] += [part] if part else []
    return {
        "name": name,
        "model_access": rows[0]["model_access"],
        "no_answer": sum(not answer["answered"] for answer in answers),
        "missing": sum(answer["missing"] for answer in answers),
        "criteria": sum(len(row["rubric"]) for row in rows),
        "failed": facts["failed"],
        "first_failure": facts.get("first_failure"),
        "score": score(answers),
        "tags": {tag: score(parts) for tag, parts in sorted(tags.items())},
    }


def difference(first: dict, second: dict) -> dict:
    """The first model's score minus the second's on the conversations that both have all verdicts of."""
    both = [i for i in first if first[i]["value"] is not None and second[i]["value"] is not None]
    if not both:
        return {"n": 0, **dict.fromkeys(("value", "low", "high"))}
    counts = [np.array([[one[i]["value"]] for i in both]) for one in (first, second)]
    value, drawn = metrics.paired(*counts, lambda a, b, n: clipped_mean(a, n) - clipped_mean(b, n))
    return {"n": len(both), **metrics.estimate(value, drawn, len(both), difference=True)}


# ---------------------------------------------------------------- the judge
def agreement(meta: list[dict], said: dict) -> dict:
    """The judge against physicians, and physicians against each other, whole conversations drawn."""
    ours, theirs = collections.defaultdict(list), collections.defaultdict(list)
    categories, missing = collections.defaultdict(list), 0
    for row in meta:
        theirs[row["talk"]] += itertools.permutations(row["labels"], 2)
        verdict = said[row["case"]["id"], row["rubric"]]
        if verdict is None:
            missing += 1
            continue
        pairs = [(verdict, label) for label in row["labels"]]
        ours[row["talk"]] += pairs
        categories[row["category"]] += pairs
    by_category = {
        name: float(statistics.macro_f1(np.array(statistics.confusion(pairs))))
        for name, pairs in sorted(categories.items())
    }
    return {
        "rows": len(meta),
        "conversations": len(theirs),
        "missing": missing,
        "judge": statistics.macro_f1_of(ours),
        "physicians": statistics.macro_f1_of(theirs),
        "categories": {name: None if value != value else value for name, value in by_category.items()},
    }


# ---------------------------------------------------------------- page
def shown(cell: dict, signed: bool = False) -> str:
    return format_interval(cell["value"], cell["low"], cell["high"], signed=signed)


def section(folder: Path) -> dict:
    """OUT as a section of the report: {"html", "markdown", "access"}."""
    if not (folder / "summary.json").is_file():
        raise BadInput(
            f"{folder}: no summary.json. Next: python -m evaluation.rubrics RUN --out {folder} ..."
        )
    summary = read_json(folder / "summary.json")
    html = pages.html_of(tables(summary), notes(summary))
    return {"access": summary["access"], "markdown": markdown(summary), "html": html}


def markdown(summary: dict) -> str:
    return pages.markdown_of(tables(summary), notes(summary))


def tables(summary: dict) -> list[tuple[str, tuple, list[tuple]]]:
    """[(title, head, rows)]."""
    meta, models = summary["meta"], summary["models"]
    told = shown(meta["judge"]) if meta else "not measured"
    head = ("model", "score", "bounds", "missing", "no answer", "judge against physicians", "detectable")
    rows = [
        (
            one["name"],
            shown(one["score"]),
            f"{one['score']['least']:.3f} to {one['score']['most']:.3f}",
            f"{one['missing']} of {one['criteria']}",
            f"{one['no_answer']} of {summary['conversations']}",
            told,
            detectable(one["score"]),
        )
        for one in models
    ]
    pairs = [
        (f"{pair['first']} - {pair['second']}", shown(pair, signed=True), detectable(pair, paired=True))
        for pair in summary["pairs_of_models"]
    ]
    tags = {tag: [one["tags"][tag] for one in models] for one in models for tag in one["tags"]}
    by_tag = [
        (tag, *map(shown, cells), format_interval(smallest(cells)))
        for tag, cells in sorted(tags.items())
        if tag.startswith(("theme:", "axis:"))
    ]
    found = [
        (f"{summary['task']}, judged by {summary['judge']['id']}", head, rows),
        ("Differences", ("models", "difference", "detectable"), pairs),
        ("By theme and axis", ("tag", *(one["name"] for one in models), "detectable"), by_tag),
    ]
    return [table for table in found if table[2]]


def notes(summary: dict) -> list[str]:
    """What must be read beside the numbers."""
    said = [
        "Score: earned over positive points of each conversation, their mean clipped to 0 and 1. Bounds: all "
        "missing verdicts against the model, or for it.",
        DETECTABLE,
    ]
    if meta := summary["meta"]:
        known = [(value, name) for name, value in meta["categories"].items() if value is not None]
        lowest = "; the lowest category is {1}, {0:.3f}".format(*min(known)) if known else ""
        said.append(
            f"Judge against physicians: macro-F1 on {meta['rows'] - meta['missing']} of {meta['rows']} "
            f"criteria in {meta['conversations']} conversations, {meta['missing']} without a verdict; "
            f"physicians among each other {shown(meta['physicians'])}{lowest}."
        )
    else:
        said.append("The judge was not measured against physicians. Next: --meta FILE.")
    return said + [
        f"{one['name']}: {one['failed']} questions got no answer ({one['first_failure']})."
        for one in summary["models"]
        if one["failed"]
    ]


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput, network=asks_server(sys.argv[1:]))
    main()
