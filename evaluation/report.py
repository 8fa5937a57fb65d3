"""One page that says what was run, what it was meant to show, and whether it did, next to the paper's tables.

    python -m evaluation.report --config evaluation/claims/demo.yaml --runs outputs/demo \\
        --evaluation outputs/demo/evaluation --out outputs/demo/report
    python -m evaluation.report --evaluation outputs/evaluation --out outputs/report

The second shows every scored model, without claims.

Reads   CONFIG               the models and the claims (evaluation/reporting/config.py)
        RUNS/<run>/          run.json, losses of trainer_state.json, held-out blocks of validation.json
        EVALUATION/<model>/  run.json, scores.json and the outputs of each task
Writes  OUT/report.html      one file that loads nothing: any score opens the rows behind it
        OUT/report.md, tables.csv, tables.tex
        OUT/{overview,figure2,forest}.svg, each with a PDF; PICTURE, the overview on white, for a README

In the paper's tables a model of ours is in Table 4 if it was fine-tuned on a task, and there on that task
alone; in Tables 5 and 6 if it was asked in a chat template without examples; in Table 6 if it was asked raw;
in a table of its own if it was given examples. `tables: [...]` in CONFIG overrides that. Same inputs, same
bytes. The page holds the first --rows rows of each task and counts the rest. Texts of credentialed rows, and
the outputs of models trained on such data, are left out unless --show_texts is given.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import jinja2
import markupsafe

from data_prep import egress
from data_prep.files import check_out, one_sentence, read_json, whole_folder
from data_prep.schema import BadInput, load, strictest
from evaluation import long_context, rubrics, score
from evaluation.diagnosis import section as diagnosis_page
from evaluation.reporting import (
    claims,
    config,
    curves,
    figures,
    forgetting_page,
    paper_claims,
    runs,
    samples,
    tables,
)
from evaluation.reporting.formats import format_difference, format_interval, markdown_table, markdown_text
from evaluation.reporting.intervals import DETECTABLE, can_show, detectable, difference_with_width
from evaluation.scoring import calibration, metrics, run_outputs

SAME_BLOCKS = "Each line is of the same blocks; –: not measured on them."


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--config",
        type=Path,
        help="models and claims; default: every scored folder of --evaluation, no claims",
    )
    add("--evaluation", type=Path, required=True, help="folder with a folder of scores for each model")
    add("--runs", type=Path, help="folder of the training runs that the configuration names")
    add("--forgetting", type=Path, help="forgetting.json of evaluation.forgetting")
    add(
        "--long_context",
        type=Path,
        nargs="*",
        default=[],
        help="long_context.json of evaluation.long_context",
    )
    add("--diagnosis", type=Path, help="folder written by evaluation.judge")
    add("--rubrics", type=Path, help="folder written by evaluation.rubrics")
    add("--out", type=Path, required=True)
    add("--picture", type=Path, metavar="SVG", help="write the overview here too (numbers only)")
    add("--rows", type=int, default=100, help="rows of each task that the page holds")
    add(
        "--show_texts",
        action="store_true",
        help="print texts of credentialed rows too; keep such a page on the site",
    )
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with one_sentence():
        check_out(args.out, "report.html")
        page = read_page(args)
        with whole_folder(args.out, mark="report.html") as folder:
            if page["access"] == "credentialed":
                folder.chmod(0o700)
            write(folder, page)
        if args.picture and page["overview"]:
            page["overview"].save(args.picture, background="white")
    for claim in page["claims"]:
        print(f"{claim['name']:14} {claim['verdict']:13} {claim['numbers']}", flush=True)
    print(f"wrote {args.out / 'report.html'}, report.md, tables.csv and tables.tex", flush=True)


def write(folder: Path, page: dict) -> None:
    texts = {"report.md": markdown(page), "tables.csv": tables.as_csv(page["paper_tables"])}
    texts |= {"tables.tex": tables.latex(page["paper_tables"])}
    for name in ("overview", "figure2", "forest"):
        if page[name]:
            page[name].files(folder, name)
    template = Path(__file__).resolve().parent / "reporting/report.html"
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    texts["report.html"] = environment.from_string(template.read_text(encoding="utf-8")).render(page)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- inputs
def read_page(args) -> dict:
    """Everything that the page says, as plain values; report.html and markdown() only lay it out."""
    check_paths(args)
    settings = load(args.config, config.ReportConfig).model_dump() if args.config else None
    settings = settings or config.ReportConfig(**runs.found_models(args.evaluation)).model_dump()
    models = settings["models"]
    trained = {model["name"]: runs.read_run(run_folder(args, model)) for model in models}
    evaluations = {}
    for model in models:
        name, needed = model["name"], tasks_of(model["name"], settings["claims"])
        evaluations[name] = runs.read_evaluation(
            args.evaluation / name, model, trained[name], args.config, needed
        )
    tasks = list(dict.fromkeys(task for evaluation in evaluations.values() for task in evaluation["scores"]))
    check_counts(tasks, evaluations)
    answers, browser = read_answers(args, tasks, models, evaluations)
    forgetting = read_json(args.forgetting) if args.forgetting else None
    diagnosis = diagnosis_page.read(args.diagnosis) if args.diagnosis else None
    judged_talks = rubrics.section(args.rubrics) if args.rubrics else None
    records = [entry["run"] for entry in (*trained.values(), *evaluations.values())]
    contexts = [read_json(path) for path in args.long_context]
    records += [record for record in (forgetting, diagnosis, judged_talks, *contexts) if record]
    access = [row[name] for rows in answers.values() for row in rows for name in ("access", "model_access")]
    access += [record.get("access", "public") for record in records]
    baseline = next((model for model in models if model["name"] == settings["baseline"]), models[0])
    judged = [claims.judge(claim, trained, evaluations, answers) for claim in settings["claims"]]
    evaluations = {m["name"]: made_for(m, evaluations[m["name"]]) for m in models}
    shown = {task for evaluation in evaluations.values() for task in evaluation["scores"]}
    tasks = [task for task in tasks if task in shown]
    answers = {pair: rows for pair, rows in answers.items() if pair[1] in evaluations[pair[0]]["scores"]}
    differences = differences_to(baseline, models, tasks, answers, evaluations)
    places = {m["name"]: m["tables"] or runs.places(evaluations[m["name"]]) for m in models}
    scores = tables.scores_table(models, evaluations, tasks)
    return {
        "title": settings["title"],
        "about": settings["about"],
        "access": strictest(access),
        "signed": runs.signed(records),
        "redacted": sum(row["hidden"] for task in browser["tasks"].values() for row in task["rows"]),
        "models": models,
        "claims": judged,
        "table": scores,
        "left_out": left_out(models, evaluations),
        "models_table": tables.models_table(models, trained),
        "paper_tables": (paper := tables.paper_tables(models, evaluations, places)),
        "paper_claims": paper_claims.check_paper() if paper else [],
        "notes_below": tables.notes_below,
        "overview": figures.overview(models, scores, judged),
        "figure2": figures.figure2(models, figure2_cells(models, evaluations), published_in_figure2()),
        "forest": figures.forest(baseline["label"], differences),
        "calibration": [
            calibration.table_row(task, model["label"], entry["calibration"])
            for task in tasks
            for model in models
            if (entry := evaluations[model["name"]]["scores"].get(task)) and entry.get("calibration")
        ],
        "calibration_head": calibration.HEAD,
        "calibration_about": calibration.ABOUT,
        "baseline": baseline["label"],
        "differences": differences,
        "curves": [
            drawn
            for m in models
            if trained[m["name"]]["losses"]
            for drawn in curves_of(m["label"], trained[m["name"]])
        ],
        "domains": (domains := perplexities(models, trained)),
        "same_blocks": same_blocks(domains),
        "forgetting": forgetting and forgetting_page.section(forgetting),
        "long_context": contexts and long_context.section(contexts),
        "diagnosis": diagnosis,
        "rubrics": judged_talks,
        "browser": browser,
        "data": markupsafe.Markup(
            json.dumps(browser, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        ),
        "runs": [
            {"label": model["label"], "facts": runs.run_facts(trained[model["name"]]["run"])}
            for model in models
            if trained[model["name"]]["run"]
        ],
        "evaluations": [
            {"label": model["label"], "facts": runs.evaluation_facts(evaluations[model["name"]])}
            for model in models
        ],
        "draws": metrics.DRAWS,
        "detectable": DETECTABLE,
    }


def check_paths(args) -> None:
    if args.runs and not args.runs.is_dir():
        raise BadInput(
            f"--runs {args.runs}: no such folder. Next: the folder of the training runs, or leave it out"
        )
    if args.forgetting and not args.forgetting.is_file():
        raise BadInput(
            f"--forgetting {args.forgetting}: no such file. Next: python -m evaluation.forgetting --base "
            "MODEL "
            "--tuned MODEL --out OUT, and --forgetting OUT/forgetting.json"
        )
    for path in args.long_context:
        if not path.is_file():
            raise BadInput(f"--long_context {path}: no such file. Next: python -m evaluation.long_context -h")


def run_folder(args, model: dict) -> Path | None:
    if model["run"] and not args.runs:
        raise BadInput(
            f"{args.config}: model {model['name']} names the run {model['run']}. Next: --runs FOLDER"
        )
    return args.runs / model["run"] if model["run"] else None


def tasks_of(name: str, claims: list[dict]) -> str:
    """The tasks of a model that the claims are about, as --tasks has them."""
    roles = ("better", "worse", "new", "old")
    needed = [claim.get("tasks") or () for claim in claims if name in map(claim.get, roles)]
    return ",".join(dict.fromkeys(task for tasks in needed for task in tasks)) or "TASKS"


def check_counts(tasks: list[str], evaluations: dict) -> None:
    """A line of a table compares models on the same number of rows."""
    for task in tasks:
        asked = {name: e["scores"][task]["n"] for name, e in evaluations.items() if task in e["scores"]}
        if len(set(asked.values())) > 1:
            counts = ", ".join(f"{name} {n}" for name, n in asked.items())
            raise BadInput(
                f"{task}: the models answered different rows ({counts}). Next: python -m evaluation.generate "
                "without --limit"
            )


def read_answers(args, tasks: list[str], models: list[dict], evaluations: dict) -> tuple[dict, dict]:
    """({(model, task): graded rows without their texts}, what the page shows of the rows)."""
    answers, shown = {}, {}
    for task in tasks:
        answered = [model["name"] for model in models if task in evaluations[model["name"]]["scores"]]
        kept = {"n": evaluations[answered[0]]["scores"][task]["n"], "rows": [], "outputs": {}}
        for name in answered:
            rows = score.graded_rows(evaluations[name]["folder"], task)
            first = rows[: args.rows]
            if not kept["rows"]:
                hide = [row["access"] == "credentialed" and not args.show_texts for row in first]
                kept["rows"] = [
                    samples.question(row, hidden) for row, hidden in zip(first, hide, strict=True)
                ]
            if [row["id"] for row in first] == [row["id"] for row in kept["rows"]]:
                kept["outputs"][name] = [
                    samples.reply(row, run_outputs.closed(row) and not args.show_texts) for row in first
                ]
            answers[name, task] = [samples.slim(row) for row in rows]
        shown[task] = kept
    return answers, {"models": {model["name"]: model["label"] for model in models}, "tasks": shown}


def made_for(model: dict, evaluation: dict) -> dict:
    """`evaluation` without the scores on tasks that the model was not made for, as the config says."""
    wanted = evaluation["scores"] if model["tasks"] is None else model["tasks"]
    scores = {task: entry for task, entry in evaluation["scores"].items() if task in wanted}
    return evaluation | {"scores": scores, "others": [t for t in evaluation["scores"] if t not in scores]}


def left_out(models: list[dict], evaluations: dict) -> list[str]:
    """A sentence for each model whose scores on other tasks than its own are not shown."""
    known = [(model["label"], evaluations[model["name"]]) for model in models]
    return [
        f"{label} was fine-tuned on {e['task']}: its scores on {', '.join(e['left_out'])} are left out"
        for label, e in known
        if e["left_out"]
    ] + [
        f"{label} was not made for {', '.join(e['others'])}: its scores there are left out"
        for label, e in known
        if e["others"]
    ]


# ---------------------------------------------------------------- figures and tables
def figure2_cells(models: list, evaluations: dict) -> dict:
    cells = {
        (model["name"], task): tables.cell(
            model["name"], task, evaluations[model["name"]]["scores"].get(task), metric
        )
        for model in models
        for task, metric in figures.FIGURE2.items()
    }
    return {key: cell for key, cell in cells.items() if cell}


def published_in_figure2() -> list[dict]:
    """The paper's own models, from its tables: Figure 2 is printed as a picture, with the only values of
    ChatGPT and GPT-4."""
    paper, found = read_json(tables.PAPER), []
    for number, how in ((5, "zero-shot"), (4, "fine-tuned")):
        table = paper[tables.TABLES[number]]
        for name in (name for name in table["models"] if name.startswith("Me-LLaMA")):
            values = {
                (tables.TASK.get(r["dataset"], r["dataset"]), r["metric"]): r["value"]
                for r in table["records"]
                if r["model"] == name
            }
            of_figure = {task: values.get((task, metric)) for task, metric in figures.FIGURE2.items()}
            found.append({"label": f"{name}, {how} (paper)", "values": of_figure})
    return found


def differences_to(baseline: dict, models: list, tasks: list, answers: dict, evaluations: dict) -> list[dict]:
    """The primary metric of each other model minus that of the baseline, on each task that both answered,
    with a paired interval."""
    found = []
    for number, model in enumerate(models):
        for task in tasks:
            pair = answers.get((model["name"], task)), answers.get((baseline["name"], task))
            if model is baseline or None in pair:
                continue
            metric = metrics.primary(pair[0])
            try:
                difference, draws = metrics.paired_difference(*pair, metric)
            except ValueError as error:
                raise BadInput(
                    f"{task}: {baseline['name']} and {model['name']}: {error}. Next: run both on the same "
                    "rows"
                ) from error
            low, high = difference_with_width(difference, *metrics.interval(draws), len(pair[0]))
            if math.isnan(difference) or math.isnan(low):
                continue
            headlines = [
                (m["label"], evaluations[m["name"]]["scores"][task]["headline"]) for m in (model, baseline)
            ]
            found.append(
                {
                    "task": task,
                    "metric": metric,
                    "model": model["label"],
                    "number": number,
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "withheld": [label for label, headline in headlines if headline["withheld"]],
                    "collapsed": [
                        m["label"]
                        for m in (model, baseline)
                        if (evaluations[m["name"]]["scores"][task].get("one_answer") or {}).get("collapsed")
                    ],
                }
            )
    return found


def perplexities(models: list, trained: dict) -> list[dict]:
    """exp(nats / tokens) per domain, for the models that were validated on blocks. A line is of the same
    blocks, those of its first model; a model that was validated on others, or whose validation blocks are
    unknown, has no value there."""
    measured = [
        (model["label"], trained[model["name"]]) for model in models if trained[model["name"]]["validation"]
    ]
    rows = []
    for domain in sorted({domain for _, run in measured for domain in run["validation"]}):
        cells, first, ratios = [], None, []
        for label, run in measured:
            loss = run["validation"].get(domain)
            first = first or (loss and run)
            comparable = loss and (run is first or curves.same_blocks(run["folder"], first["folder"], domain))
            if comparable and run is not first:
                _, drawn = metrics.ratio_of_perplexities(loss, first["validation"][domain])
                ratios.append(metrics.interval(drawn))
            value = math.exp(sum(loss["nll"]) / sum(loss["tokens"])) if comparable else None
            cells.append({"label": label, "value": value})
        rows.append({"domain": domain, "cells": cells, "ratios": ratios})
    return rows


def same_blocks(domains: list[dict]) -> str:
    apart = can_show((ends for row in domains for ends in row["ratios"]), "change of the ratio of two")
    return f"{SAME_BLOCKS} {apart}".strip()


def curves_of(label: str, run: dict) -> list[dict]:
    """The losses of a run as a figure, and what DPO and GRPO log beside them; the last values as text."""
    unit = "loss" if run["watched"] else "loss (nats per token)"
    return [
        {
            "label": label,
            "svg": figures.curve(label, series, what),
            "last": ", ".join(f"{name} {values[-1]:.3f}" for name, _, values in series),
        }
        for what, series in [(unit, run["losses"]), *run["watched"]]
    ]


# ---------------------------------------------------------------- report.md
def markdown(page: dict) -> str:
    """The same page without figures and rows, for a terminal or a repository."""
    parts = [f"# {markdown_text(page['title'])}\n", page["about"] + "\n"]
    parts += [f"Access class of this report: **{page['access']}**.\n"]
    parts += [bullets(page["signed"])] if page["signed"] else []
    parts += [bullets(f"**{m['label']}** (`{m['name']}`): {m['what']}" for m in page["models"])]
    if page["claims"]:
        rows = [
            (f"**{c['name']}**: {c['statement']}", c["verdict"], c["numbers"], c["detail"])
            for c in page["claims"]
        ]
        parts += [
            "## Claims\n",
            markdown_table(("claim", "verdict", "estimate (95 % interval)", "from"), rows),
        ]
    parts += ["## Scores\n", *markdown_scores(page)]
    for one in page["paper_tables"]:
        source = [f"Published values ({one['source']}) beside **ours**.\n"] if one["published"] else []
        parts += [f"## {one['heading']}\n", *source, tables.markdown(one)]
    if page["paper_tables"]:
        parts += ["## The paper's Table 1, with ours\n", markdown_table(*page["models_table"])]
        parts += ["## The paper's claims on its own tables\n", paper_claims.markdown(page["paper_claims"])]
    if page["differences"]:
        parts += [
            f"## Differences to {markdown_text(page['baseline'])}\n",
            markdown_differences(page["differences"]),
        ]
    if page["calibration"]:
        table = markdown_table(calibration.HEAD, page["calibration"])
        parts += ["## Calibration and abstention\n", calibration.ABOUT + "\n", table]
    if page["domains"]:
        head = ("domain", *(c["label"] for c in page["domains"][0]["cells"]))
        rows = [
            (row["domain"], *("–" if c["value"] is None else f"{c['value']:.2f}" for c in row["cells"]))
            for row in page["domains"]
        ]
        parts += ["## Perplexity of held-out text\n", page["same_blocks"] + "\n", markdown_table(head, rows)]
    parts += [page["forgetting"]["markdown"]] if page["forgetting"] else []
    parts += [page["long_context"]["markdown"]] if page["long_context"] else []
    parts += ["## Clinical cases\n", page["diagnosis"]["markdown"] + "\n"] if page["diagnosis"] else []
    parts += ["## Conversations\n", page["rubrics"]["markdown"] + "\n"] if page["rubrics"] else []
    if page["curves"]:
        parts += [
            "## Last losses and rewards\n",
            bullets(f"{c['label']}: {c['last']}" for c in page["curves"]),
        ]
    for title, entries in (("Training runs", page["runs"]), ("Evaluation", page["evaluations"])):
        facts = [
            (e["label"], "; ".join(f"{name} {value}" for name, value in e["facts"].items())) for e in entries
        ]
        parts += [f"## {title}\n", bullets(f"**{label}**: {text}" for label, text in facts)] if facts else []
    return "\n".join(parts)


def bullets(lines) -> str:
    return "".join(f"- {markdown_text(line)}\n" for line in lines)


def markdown_scores(page: dict) -> list[str]:
    head = ("task", "metric", "rows", "detectable", *(model["label"] for model in page["models"]))
    rows = [
        (r["task"], r["metric"], str(r["n"]), format_interval(r["smallest"]))
        + tuple(map(tables.format_cell, r["cells"]))
        for r in page["table"]
    ]
    about = f"Value (95 % interval, percentile bootstrap over rows, {page['draws']} draws); the paper's "
    about += f"scorer on the same outputs; outputs without a readable answer. –: not asked. {DETECTABLE}\n"
    return [about, markdown_table(head, rows), *([bullets(page["left_out"])] if page["left_out"] else [])]


def markdown_differences(differences: list[dict]) -> str:
    rows = []
    for d in differences:
        notes = (("headline withheld", d["withheld"]), ("collapsed to one answer", d["collapsed"]))
        note = "; ".join(f"{what}: {', '.join(labels)}" for what, labels in notes if labels)
        rows.append((d["task"], d["metric"], d["model"], format_difference(d), detectable(d, True), note))
    head = ("task", "metric", "model", "difference (95 % interval)", "detectable", "note")
    return markdown_table(head, rows)


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
