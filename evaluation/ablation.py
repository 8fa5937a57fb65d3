"""What each stage adds: the article's Table 6 for any checkpoints, with paired differences between them.

    python -m evaluation.ablation --plan evaluation/plans/demo.yaml --out outputs/demo/ablation

Reads   PLAN, a YAML: the checkpoints in the order of the columns (name, label, model as evaluation.generate has it, preset), tasks, rows, the folder of
        their evaluations, settings of evaluation.generate, the differences that matter, and the article's columns to stand beside
Runs    evaluation.generate and evaluation.score for each checkpoint, where its outputs or scores are not there yet or are out of date
Writes  EVALUATION/<name>/    outputs and scores, as these two leave them
        OUT/table6.json, .md, .csv, .tex   values with intervals beside the article's; each difference with its 95 % interval, p-value and McNemar's test

A difference is between two checkpoints on the same rows (compare.py). Where more than 5 % of a checkpoint's outputs hold no readable answer its
value is withheld and the difference is marked: it is then also one of form. No correction for the number of tasks and metrics is made.
"""

import argparse
import json
import sys
from pathlib import Path

from data_prep import egress
from data_prep.files import read_json, read_yaml, sha256, whole_folder
from data_prep.schema import BadInput, strictest
from evaluation import generate, score
from evaluation.models.registry import asks_server
from evaluation.reporting import tables
from evaluation.scoring import compare, run_outputs

KEYS = {"title", "rows", "evaluation", "tasks", "models"}
OPTIONAL = {"settings", "differences"}
MODEL_KEYS = {"name", "label", "model", "preset"}
MODEL_OPTIONAL = {"article", "changes"}
DIFFERENCE_KEYS = {"of", "to", "what"}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plan", type=Path, required=True, help="YAML, as evaluation/plans/demo.yaml")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--scored", action="store_true", help="ask no model: take the outputs that EVALUATION holds"
    )
    args = parser.parse_args(argv)
    try:
        plan = read_plan(args.plan)
        for model in plan["models"]:
            evaluate(plan, model, ask=not args.scored)
        result = measure(plan)
        text = markdown(result)
        with whole_folder(args.out, mark="table6.json") as folder:
            if result["access"] == "credentialed":
                folder.chmod(0o700)
            (folder / "table6.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
            (folder / "table6.md").write_text(text)
            (folder / "table6.csv").write_text(tables.as_csv([result["table"]] if result["table"] else []))
            (folder / "table6.tex").write_text(tables.latex([result["table"]] if result["table"] else []))
    except BadInput as error:
        sys.exit(f"error: {error}")
    print(f"{text}\nwrote {args.out / 'table6.json'}, .md, .csv and .tex", flush=True)


def read_plan(path: Path) -> dict:
    plan = read_yaml(path)
    if not isinstance(plan, dict) or (wrong := sorted((KEYS - set(plan)) | (set(plan) - KEYS - OPTIONAL))):
        wrong = ", ".join(wrong) if isinstance(plan, dict) else "everything"
        raise BadInput(f"{path}: missing or unknown: {wrong}. Next: copy evaluation/plans/demo.yaml")
    for key in ("tasks", "models", *(["differences"] if "differences" in plan else [])):
        if not isinstance(plan[key], list) or not plan[key]:
            raise BadInput(
                f"{path}: '{key}' must be a list that holds something. Next: copy evaluation/plans/demo.yaml"
            )
    if wrong := [task for task in plan["tasks"] if not isinstance(task, str)] + [
        model for model in plan["models"] if not isinstance(model, dict)
    ]:
        raise BadInput(f"{path}: {wrong[0]!r} is no task or model. Next: copy evaluation/plans/demo.yaml")
    if not isinstance(plan.get("settings", {}), dict):
        raise BadInput(f"{path}: settings must be keys and values. Next: copy evaluation/plans/demo.yaml")
    article = read_json(tables.ARTICLE)[tables.TABLES[6]]["models"]
    for number, model in enumerate(plan["models"], 1):
        if wrong := sorted((MODEL_KEYS - set(model)) | (set(model) - MODEL_KEYS - MODEL_OPTIONAL)):
            raise BadInput(
                f"{path}: model {number}: missing or unknown: {', '.join(wrong)}. Next: copy evaluation/plans/demo.yaml"
            )
        if model.get("article") not in (None, *article):
            raise BadInput(
                f"{path}: model {number}: the article's Table 6 has no column '{model['article']}' (it has {', '.join(article)})"
            )
    names = [model["name"] for model in plan["models"]]
    if len(set(names)) < len(names) or len(names) < 2:
        raise BadInput(
            f"{path}: 'models' must be two or more, of different names, found {', '.join(names) or 'none'}"
        )
    first = names[0]
    plan.setdefault(
        "differences", [{"of": name, "to": first, "what": f"{name} minus {first}"} for name in names[1:]]
    )
    for number, pair in enumerate(plan["differences"], 1):
        if set(pair) != DIFFERENCE_KEYS:
            raise BadInput(
                f"{path}: difference {number} must have the keys {', '.join(sorted(DIFFERENCE_KEYS))}, found {', '.join(sorted(pair))}"
            )
        if unknown := [pair[role] for role in ("of", "to") if pair[role] not in names]:
            raise BadInput(
                f"{path}: difference {number}: '{unknown[0]}' is none of the models ({', '.join(names)})"
            )
    return plan


# ---------------------------------------------------------------- run what is missing
def evaluate(plan: dict, model: dict, ask: bool) -> None:
    """Outputs and scores of one checkpoint, made where they are not there."""
    folder, tasks = Path(plan["evaluation"], model["name"]), generate.parse_tasks(",".join(plan["tasks"]))
    if ask:
        command = [
            "--model",
            model["model"],
            *model.get("changes", []),
            "--rows",
            plan["rows"],
            "--tasks",
            ",".join(tasks),
        ]
        command += ["--preset", model["preset"], "--out", str(folder)]
        for name, value in plan.get("settings", {}).items():
            command += [] if value is False else [f"--{name}"] if value is True else [f"--{name}", str(value)]
        print(f"{model['name']}: {model['model']}, preset {model['preset']}", flush=True)
        generate.generate(generate.make_parser().parse_intermixed_args(command))
    if not scored(folder):
        score.score_folder(folder)
    missing = [task for task in tasks if task not in run_outputs.task_files(folder)]
    if missing:
        raise BadInput(f"{folder}: no outputs of {missing[0]}. Next: the same command without --scored")


def scored(folder: Path) -> bool:
    """Whether scores.json is of the outputs that lie there, by the present scorer."""
    path = folder / "scores.json"
    known = read_json(path) if path.is_file() else {}
    files = run_outputs.task_files(folder)
    return set(known) == set(files) and all(
        known[task]["scorer"] == score.SCORER and known[task]["provenance"]["outputs_sha256"] == sha256(file)
        for task, file in files.items()
    )


# ---------------------------------------------------------------- the table
def measure(plan: dict) -> dict:
    """{"title", "table": as tables.py has Table 6 or None, "others": rows of tasks that it has not, "differences"}, as plain values."""
    models, tasks = plan["models"], generate.parse_tasks(",".join(plan["tasks"]))
    folders = {model["name"]: Path(plan["evaluation"], model["name"]) for model in models}
    evaluations = {
        name: {"scores": {t: e for t, e in read_json(folder / "scores.json").items() if t in tasks}}
        for name, folder in folders.items()
    }
    table = next(
        iter(tables.article_tables(models, evaluations, {model["name"]: [6] for model in models})), None
    )
    if table:
        named = [model["article"] for model in models if model.get("article")]
        table["published"] = [name for name in table["published"] if name in named]
        table["rows"] = [row for row in table["rows"] if any(row["ours"])]
        for row in table["rows"]:
            row["published"] = [record for record in row["published"] if record.get("model") in named]
        used = {
            note
            for row in table["rows"]
            for record in row["published"]
            for note in record["footnote"].split(", ")
        }
        table["notes"] = {note: text for note, text in table["notes"].items() if note in used}
        table["cited"] = any(record["cited"] for row in table["rows"] for record in row["published"])
    lines = [(row["task"], row["metric"]) for row in table["rows"]] if table else []
    others = []
    for task in tasks:
        if task not in {line[0] for line in lines}:
            entries = {name: evaluation["scores"][task] for name, evaluation in evaluations.items()}
            metric = next(iter(entries.values()))["primary"]
            cells = [tables.cell(name, task, entry, metric) for name, entry in entries.items()]
            others.append({"task": task, "metric": metric, "n": cells[0]["n"], "ours": cells})
    lines += [(row["task"], row["metric"]) for row in others]
    return {
        "stage": "ablation",
        "access": strictest(
            score.access_of(entry)
            for evaluation in evaluations.values()
            for entry in evaluation["scores"].values()
        ),
        "title": plan["title"],
        "models": models,
        "table": table,
        "others": others,
        "differences": [difference(pair, folders, evaluations, lines) for pair in plan["differences"]],
    }


def difference(pair: dict, folders: dict, evaluations: dict, lines: list) -> dict:
    """One pair of checkpoints on every line of the table: {"of", "to", "what", "lines": [{"task", "metric", "difference", "low", "high", "p", ...}]}."""
    found, done = [], {}
    for task, metric in lines:
        if task not in done:
            rows, others = (score.graded_rows(folders[pair[role]], task) for role in ("of", "to"))
            done[task] = compare.compare(rows, others, f"{task}: {pair['of']} and {pair['to']}")
        undefined = dict.fromkeys(
            ("difference", "low", "high", "p")
        )  # BERTScore may have been made for one only
        values = done[task]["metrics"].get(metric, undefined)
        test = done[task]["mcnemar"]
        withheld = [
            pair[role]
            for role in ("of", "to")
            if evaluations[pair[role]]["scores"][task]["headline"]["withheld"]
        ]
        found.append({"task": task, "metric": metric, "n": done[task]["n"], **values, "withheld": withheld,
                      "mcnemar": test if test and test["metric"] == metric else None})  # fmt: skip
    return pair | {"lines": found}


def markdown(result: dict) -> str:
    labels = {model["name"]: model["label"] for model in result["models"]}
    parts = [f"# {result['title']}\n"]
    if result["table"]:
        parts += [
            f"The shape of the article's {result['table']['title']}; published values beside **ours**.\n",
            tables.markdown(result["table"]),
        ]
    if result["others"]:
        rows = [
            [row["task"], row["metric"], str(row["n"]), *map(tables.in_words, row["ours"])]
            for row in result["others"]
        ]
        parts += [
            "Tasks that are not in it:\n",
            tables.markdown_table(["task", "metric", "rows", *labels.values()], rows),
        ]
    parts += ["## Differences\n", "With the 95 % interval and p-value of a paired bootstrap over rows. † : a value of the two is withheld, so the difference is "
              "also one of form.\n"]  # fmt: skip
    lines = [[line["task"], line["metric"], str(line["n"])] for line in result["differences"][0]["lines"]]
    for pair in result["differences"]:
        for row, line in zip(lines, pair["lines"], strict=True):
            row.append(in_words(line))
    heads = [
        f"{pair['what']}: {labels[pair['of']]} minus {labels[pair['to']]}" for pair in result["differences"]
    ]
    parts += [tables.markdown_table(["task", "metric", "rows", *heads], lines)]
    return "\n".join(parts)


def in_words(line: dict) -> str:
    if line["difference"] is None:
        return "not defined"
    said = f"{line['difference']:+.3f} ({line['low']:+.3f} to {line['high']:+.3f}), p {line['p']:.3f}"
    test = line["mcnemar"]
    said += f"; McNemar {test['only_this']}:{test['only_other']}, p {test['p']:.3f}" if test else ""
    return f"{said} †" if line["withheld"] else said


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput, network=asks_server(sys.argv[1:]))
    main()
