"""The paper's Table 4, 5 or 6 for any checkpoints, with paired differences between them: one command each.

    python -m evaluation.ablation --plan evaluation/plans/demo.yaml --out outputs/demo/ablation
    python -m evaluation.ablation --plan evaluation/plans/table5.yaml --cost   # what is missing, at what cost
    python -m evaluation.ablation --plan evaluation/plans/table5.yaml --out outputs/table5

Reads   PLAN, a YAML (evaluation/reporting/config.py): the checkpoints in the order of the columns, tasks,
rows, the folder of their
        evaluations, settings of evaluation.generate, the differences that matter, and the paper's columns to
        show next to ours
Runs    for Table 4, the plan's recipe for each checkpoint and task without a complete run in
TRAINING.out/<name>/<task>
        evaluation.generate and evaluation.score, where outputs or scores are missing or out of date
Writes  EVALUATION/<name>/          outputs and scores; for Table 4 EVALUATION/<name>/<task>/
        OUT/table<N>.json, .md, .csv, .tex   values with intervals beside the paper's; each difference with
        its 95 % interval, p-value
                                    and McNemar's test; the paper's countable claims on these values
                                    (claims/paper.yaml)

Resumable: the same command does what is still missing. A difference is between two checkpoints on the same
rows (scoring/compare.py). Where more than 5 % of a checkpoint's outputs hold no readable answer, its value is
withheld and the difference is marked: it is then also one of form. No correction for the number of tasks and
metrics is made.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from data_prep import egress
from data_prep.files import one_sentence, read_json, sha256, whole_folder
from data_prep.schema import BadInput, load, strictest
from evaluation import generate, score
from evaluation.models.registry import asks_server
from evaluation.reporting import config, cost, paper_claims, tables
from evaluation.reporting.curves import read_optional
from evaluation.reporting.formats import format_difference, format_interval, markdown_table, markdown_text
from evaluation.reporting.intervals import DETECTABLE, detectable, difference_with_width
from evaluation.scoring import compare, run_outputs

EXAMPLE = "evaluation/plans/demo.yaml"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plan", type=Path, required=True, help=f"YAML, as {EXAMPLE}")
    parser.add_argument("--out", type=Path, help="needed unless --cost is given")
    parser.add_argument("--scored", action="store_true", help="run no model: use the outputs in EVALUATION")
    parser.add_argument(
        "--cost", action="store_true", help="print what is missing and what it will take, and stop"
    )
    parser.add_argument(
        "--shots", type=int, default=0, help="examples in each prompt, in an EVALUATION folder of their own"
    )
    parser.add_argument(
        "--gpu_tflops", type=float, default=312, help="dense bf16 peak of a GPU (default: A100)"
    )
    parser.add_argument(
        "--gpu_gbps", type=float, default=2039, help="its memory bandwidth (default: A100 80 GB)"
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="assumed share of the peak that training reaches"
    )
    return parser


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if not (args.cost or args.out):
        parser.error("--out is needed, or --cost")
    with one_sentence():
        plan = load(args.plan, config.Plan, example=EXAMPLE)
        if args.shots < 0:
            raise BadInput(f"--shots {args.shots}: must be 0 or more. Next: leave it out, or --shots 5")
        if args.shots:
            plan.settings |= {"num_fewshot": args.shots}
            plan.evaluation = f"{plan.evaluation.rstrip('/')}_{args.shots}shot"
        tasks = generate.parse_tasks(",".join(plan.tasks))
        if args.cost or not args.scored:
            print(cost.table(plan, tasks, args, done), flush=True)
        if args.cost:
            return
        for model in plan.models:
            evaluate(plan, model, model.asked(tasks), ask=not args.scored)
        result = measure(plan, tasks)
        text = markdown(result)
        write(args.out, result, text)
    print(f"{text}\nwrote {args.out / mark(result)}, .md, .csv and .tex", flush=True)


def mark(result: dict) -> str:
    return f"table{result['number']}.json"


def write(out: Path, result: dict, text: str) -> None:
    table = [result["table"]] if result["table"] else []
    with whole_folder(out, mark=mark(result)) as folder:
        if result["access"] == "credentialed":
            folder.chmod(0o700)
        name = folder / mark(result)
        name.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for suffix, content in ((".md", text), (".csv", tables.as_csv(table)), (".tex", tables.latex(table))):
            name.with_suffix(suffix).write_text(content, encoding="utf-8")


# ---------------------------------------------------------------- run what is missing
def folder_of(plan: config.Plan, name: str, task: str) -> Path:
    """Where the outputs of a checkpoint on a task are: in Table 4 every task has a checkpoint of its own."""
    return Path(plan.evaluation, name, task) if plan.training else Path(plan.evaluation, name)


def trained(plan: config.Plan, name: str, task: str) -> Path:
    return Path(plan.training.out, name, task)


def done(plan: config.Plan, model: config.PlanModel, task: str) -> tuple[bool, bool]:
    """Whether a checkpoint is there to be asked, and whether it has answered the task."""
    ready = (
        not plan.training
        or read_optional(trained(plan, model.name, task) / "run.json").get("status") == "complete"
    )
    return ready, (folder_of(plan, model.name, task) / f"{task}.jsonl").is_file()


def evaluate(plan: config.Plan, model: config.PlanModel, tasks: list[str], ask: bool) -> None:
    """Outputs and scores of one checkpoint, made where they are missing."""
    if plan.training:
        parts = [
            (folder_of(plan, model.name, task), [task], str(trained(plan, model.name, task)))
            for task in tasks
        ]
    else:
        parts = [(Path(plan.evaluation, model.name), tasks, model.model)]
    for folder, asked, weights in parts:
        if ask and plan.training:
            train(plan, model, asked[0])
        if ask:
            print(f"{model.name}: {weights}, preset {model.preset}", flush=True)
            generate.generate(
                generate.make_parser().parse_intermixed_args(command(plan, model, weights, asked, folder))
            )
        if not scored(folder):
            score.score_folder(folder)
        if missing := [task for task in asked if task not in run_outputs.task_files(folder)]:
            raise BadInput(f"{folder}: no outputs of {missing[0]}. Next: the same command without --scored")


def command(plan, model, weights: str, tasks: list[str], folder: Path) -> list[str]:
    """The arguments of evaluation.generate."""
    changes = [] if plan.training else model.changes
    given = ["--model", weights, *changes, "--rows", plan.rows, "--tasks", ",".join(tasks)]
    given += ["--preset", model.preset, "--out", str(folder)]
    for name, value in plan.settings.items():
        given += [] if value is False else [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return given


def train(plan: config.Plan, model: config.PlanModel, task: str) -> None:
    """Fine-tune a checkpoint on a task, unless that run is complete; the recipe itself resumes a run that was
    killed."""
    if done(plan, model, task)[0]:
        return
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", plan.training.accelerate]
    launch += [plan.training.recipe, "--config", plan.training.large.get(model.name, plan.training.config)]
    launch += ["--model_name_or_path", model.model, "--rows", str(Path(plan.rows, task))]
    launch += ["--output_dir", str(trained(plan, model.name, task))]
    print(" ".join(launch), flush=True)
    if subprocess.run(launch).returncode:
        raise BadInput(
            f"{trained(plan, model.name, task)}: the training failed (see above). Next: the same command "
            "resumes it"
        )


def scored(folder: Path) -> bool:
    """Whether scores.json is of the outputs in the folder, by the present scorer."""
    known, files = read_optional(folder / "scores.json"), run_outputs.task_files(folder)
    return set(known) == set(files) and all(
        known[task]["scorer"] == score.SCORER and known[task]["provenance"]["outputs_sha256"] == sha256(file)
        for task, file in files.items()
    )


# ---------------------------------------------------------------- the table
def measure(plan: config.Plan, tasks: list[str]) -> dict:
    """{"number", "title", "table": as tables.py has it or None, "others": rows of tasks that it has not,
    "differences", "claims"}."""
    models = [model.model_dump() for model in plan.models]
    evaluations = {
        model.name: {
            "scores": {
                task: read_json(folder_of(plan, model.name, task) / "scores.json")[task]
                for task in model.asked(tasks)
            }
        }
        for model in plan.models
    }
    places = {model["name"]: [plan.table] for model in models}
    table = next(iter(tables.paper_tables(models, evaluations, places)), None)
    if table:
        keep_columns(table, [model["paper"] for model in models if model["paper"]])
    lines = [(row["task"], row["metric"]) for row in table["rows"]] if table else []
    known = {task for task, _ in lines}
    asked = {task for evaluation in evaluations.values() for task in evaluation["scores"]}
    others = tables.scores_table(models, evaluations, [t for t in tasks if t in asked - known])
    lines += [(row["task"], row["metric"]) for row in others]
    entries = [entry for evaluation in evaluations.values() for entry in evaluation["scores"].values()]
    return {
        "stage": "ablation",
        "number": plan.table,
        "access": strictest(map(score.access_of, entries)),
        "title": plan.title,
        "models": models,
        "table": table,
        "others": others,
        "differences": [difference(plan, pair, evaluations, lines) for pair in plan.differences],
        "claims": paper_claims.check_ours(table, models) if table else [],
    }


def keep_columns(table: dict, columns: list[str]) -> None:
    """Of a table of tables.py, the rows that were asked and the published columns that the plan names."""
    table["published"] = [name for name in table["published"] if name in columns]
    table["rows"] = [row for row in table["rows"] if any(row["ours"])]
    for row in table["rows"]:
        row["published"] = [record for record in row["published"] if record["model"] in columns]
    records = [record for row in table["rows"] for record in row["published"]]
    used = {letter for record in records for letter in record["footnote"].split(", ")}
    table["notes"] = {letter: text for letter, text in table["notes"].items() if letter in used}
    table["cited"] = any(record["cited"] for record in records)


def difference(plan: config.Plan, pair: config.Difference, evaluations: dict, lines: list) -> dict:
    """One pair of checkpoints on every line: {"of", "to", "what", "lines": [{"task", "metric", "difference",
    "low", "high", "p", ...}]}."""
    found, compared = [], {}
    for task, metric in lines:
        if any(task not in evaluations[name]["scores"] for name in (pair.of, pair.to)):
            found.append({"task": task, "metric": metric, "n": None})
            continue
        if task not in compared:
            rows, others = (
                score.graded_rows(folder_of(plan, name, task), task) for name in (pair.of, pair.to)
            )
            compared[task] = compare.compare(rows, others, f"{task}: {pair.of} and {pair.to}")
        # BERTScore may have been made for one of the two only
        undefined = dict.fromkeys(("difference", "low", "high", "p"))
        d = compared[task]["metrics"].get(metric, undefined)
        low, high = difference_with_width(d["difference"], d["low"], d["high"], compared[task]["n"])
        test = compared[task]["mcnemar"]
        headlines = {name: evaluations[name]["scores"][task]["headline"] for name in (pair.of, pair.to)}
        found.append(
            {
                "task": task,
                "metric": metric,
                "n": compared[task]["n"],
                **d | {"low": low, "high": high},
                "withheld": [name for name, headline in headlines.items() if headline["withheld"]],
                "mcnemar": test if test and test["metric"] == metric else None,
            }
        )
    return pair.model_dump() | {"lines": found}


def markdown(result: dict) -> str:
    labels = {model["name"]: model["label"] for model in result["models"]}
    parts = [f"# {markdown_text(result['title'])}\n"]
    if result["table"]:
        about = f"After the paper's {result['table']['title']}; published values beside **ours**.\n"
        parts += [about, tables.markdown(result["table"])]
    if result["others"]:
        rows = [
            [r["task"], r["metric"], str(r["n"]), format_interval(r["smallest"])]
            + list(map(tables.format_cell, r["cells"]))
            for r in result["others"]
        ]
        parts += [
            "Tasks that are not in it:\n",
            markdown_table(["task", "metric", "rows", "detectable", *labels.values()], rows),
        ]
    about = "With the 95 % interval and p-value of a paired bootstrap over rows. †: a value of the two is "
    about += f"withheld, so the difference is also one of form. {DETECTABLE}\n"
    parts += ["## Differences\n", about]
    every = zip(*(pair["lines"] for pair in result["differences"]), strict=True)
    lines = [
        [same[0]["task"], same[0]["metric"], str(max(line["n"] or 0 for line in same))]
        + [format_line(line) for line in same]
        for same in every
        if any(line["n"] for line in same)
    ]
    heads = [
        f"{pair['what']}: {labels[pair['of']]} minus {labels[pair['to']]}" for pair in result["differences"]
    ]
    parts += [markdown_table(["task", "metric", "rows", *heads], lines)]
    if result["claims"]:
        parts += ["## The paper's claims on these values\n", paper_claims.markdown(result["claims"])]
    return "\n".join(parts)


def format_line(line: dict) -> str:
    if line["n"] is None:
        return "–"
    if line["difference"] is None:
        return "not defined"
    test = line["mcnemar"]
    mcnemar = f"; McNemar {test['only_this']}:{test['only_other']}, p {test['p']:.3f}" if test else ""
    said = (
        f"{format_difference(line)}, p {line['p']:.3f}; detectable {detectable(line, paired=True)}{mcnemar}"
    )
    return said + (" †" if line["withheld"] else "")


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput, network=asks_server(sys.argv[1:]))
    main()
