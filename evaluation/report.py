"""One page that says what was run, what it was to show, and whether it did; with the article's tables beside it.

    python -m evaluation.report --config evaluation/claims/demo.yaml --evaluation outputs/demo/evaluation --runs outputs/demo \
        --out outputs/demo/report
    python -m evaluation.report --evaluation outputs/evaluation --out outputs/report      # every scored model there, no claims

Reads   CONFIG             the models (name, the run that trained it, the article's tables it belongs in), and the claims
        RUNS/<run>/        run.json, trainer_state.json (losses), validation.json where there is one (held-out nats and tokens per block)
        EVALUATION/<model>/  run.json, scores.json and the outputs of each task
Writes  OUT/report.html (one file that loads nothing: any score opens the rows behind it), OUT/report.md, OUT/tables.csv, OUT/tables.tex,
        OUT/figure2.svg and OUT/forest.svg, each with a PDF

A claim of kind "accuracy" is the mean over its tasks of a metric's difference between two models, with a paired bootstrap over rows:
"shown" if the 95 % interval lies above 0, "contradicted" if below, else "not shown". A claim of kind "perplexity" is a ratio on one domain
of two models that were validated on the same blocks, with a paired bootstrap over them: "shown" if the interval ends at or below the margin,
"contradicted" if it begins above it, else "not shown".

In the article's tables a model of ours stands in Table 4 if it was fine-tuned on a task, in Tables 5 and 6 if it was asked in a chat template
without examples, in Table 6 if it was asked raw; `tables: [...]` of the configuration says otherwise. Same inputs, same bytes. The page holds
the first --rows rows of each task and counts the rest. Texts of credentialed rows, and what a model trained on such data wrote, are left out
unless --show_texts.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import jinja2
import markupsafe
import numpy as np

from data_prep import egress
from data_prep.files import check_out, read_json, read_yaml, whole_folder
from data_prep.schema import BadInput, strictest
from evaluation import score
from evaluation.diagnosis import section as diagnosis_page
from evaluation.reporting import curves, figures, forgetting_page, samples, tables
from evaluation.scoring import metrics, run_outputs

MODEL_KEYS = {"name", "label", "preset", "what"}
MODEL_OPTIONAL = {"run", "tables"}
SAME_BLOCKS = "Each line is of the same blocks; – : not measured on those."
CLAIM_KEYS = {
    "accuracy": {"name", "statement", "kind", "tasks", "metric", "better", "worse"},
    "perplexity": {"name", "statement", "kind", "domain", "new", "old", "margin"},
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--config",
        type=Path,
        help="models and claims; without it: every scored folder of --evaluation, no claims",
    )
    parser.add_argument(
        "--evaluation", type=Path, required=True, help="folder that holds a folder of scores for each model"
    )
    parser.add_argument("--runs", type=Path, help="folder of the training runs that the configuration names")
    parser.add_argument("--forgetting", type=Path, help="forgetting.json of evaluation.forgetting")
    parser.add_argument("--diagnosis", type=Path, help="folder written by evaluation.judge")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100, help="rows of each task that the page holds")
    parser.add_argument(
        "--show_texts",
        action="store_true",
        help="print texts of rows even where access is credentialed; such a page stays on the site",
    )
    args = parser.parse_args(argv)
    try:
        check_out(args.out, "report.html")
        page = read_page(args)
        with whole_folder(args.out, mark="report.html") as folder:
            if page["access"] == "credentialed":
                folder.chmod(0o700)
            (folder / "report.md").write_text(markdown(page))
            (folder / "tables.csv").write_text(tables.as_csv(page["article"]))
            (folder / "tables.tex").write_text(tables.latex(page["article"]))
            for name in ("figure2", "forest"):
                if page[name]:
                    page[name].files(folder, name)
            template = (Path(__file__).resolve().parent / "reporting/report.html").read_text()
            environment = jinja2.Environment(
                autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
            )
            (folder / "report.html").write_text(environment.from_string(template).render(page))
    except BadInput as error:
        sys.exit(f"error: {error}")
    for claim in page["claims"]:
        print(f"{claim['name']:14} {claim['verdict']:13} {claim['numbers']}", flush=True)
    print(f"wrote {args.out / 'report.html'}, report.md, tables.csv and tables.tex", flush=True)


def read_page(args) -> dict:
    """Everything that the page says, as plain values; report.html and markdown() only lay it out."""
    if args.runs and not args.runs.is_dir():
        raise BadInput(
            f"--runs {args.runs}: no such folder. Next: the folder that the training runs lie in, or leave it out"
        )
    if args.forgetting and not args.forgetting.is_file():
        raise BadInput(
            f"--forgetting {args.forgetting}: no such file. Next: python -m evaluation.forgetting --base MODEL --tuned MODEL --out OUT, "
            "and --forgetting OUT/forgetting.json"
        )
    config = read_config(args.config) if args.config else found_models(args.evaluation)
    models = config["models"]
    runs = {model["name"]: read_run(args, model) for model in models}
    evaluations = {model["name"]: read_evaluation(args, config, model) for model in models}
    forgetting = read_json(args.forgetting) if args.forgetting else None
    diagnosis = diagnosis_page.read(args.diagnosis) if args.diagnosis else None
    tasks = list(dict.fromkeys(task for evaluation in evaluations.values() for task in evaluation["scores"]))
    for task in tasks:  # one line of the table compares like with like
        asked = {name: e["scores"][task]["n"] for name, e in evaluations.items() if task in e["scores"]}
        if len(set(asked.values())) > 1:
            counts = ", ".join(f"{name} {n}" for name, n in asked.items())
            raise BadInput(
                f"{task}: the models answered different rows ({counts}). Next: python -m evaluation.generate without --limit"
            )
    answers, browser = read_answers(args, tasks, models, evaluations)
    records = [
        *(entry["run"] for entry in (*runs.values(), *evaluations.values())),
        forgetting or {},
        diagnosis or {},
    ]
    read = [row[name] for rows in answers.values() for row in rows for name in ("access", "model_access")]
    access = strictest([*read, *(record.get("access", "public") for record in records)])
    baseline = next((model for model in models if model["name"] == config.get("baseline")), models[0])
    differences = differences_to(baseline, models, tasks, answers, evaluations)
    of = {
        model["name"]: model.get("tables")
        or places(runs[model["name"]]["run"], evaluations[model["name"]]["run"])
        for model in models
    }
    return {
        "title": config["title"],
        "about": config["about"],
        "access": access,
        "signed": signed(records),
        "redacted": sum(row["hidden"] for task in browser["tasks"].values() for row in task["rows"]),
        "models": models,
        "claims": [judge(args, claim, runs, evaluations, answers) for claim in config.get("claims", [])],
        "table": [table_row(task, models, evaluations) for task in tasks],
        "article": tables.article_tables(models, evaluations, of),
        "reasons": tables.reasons,
        "figure2": figures.figure2(models, figure2_cells(models, evaluations), published_in_figure2()),
        "forest": figures.forest(baseline["label"], differences),
        "baseline": baseline["label"],
        "differences": differences,
        "curves": [
            curve(model["label"], runs[model["name"]]) for model in models if runs[model["name"]]["losses"]
        ],
        "domains": perplexities(models, runs),
        "same_blocks": SAME_BLOCKS,
        "forgetting": forgetting
        and {
            "html": forgetting_page.html(forgetting),
            "markdown": forgetting_page.markdown(forgetting, "##"),
        },
        "diagnosis": diagnosis,
        "browser": browser,
        "data": markupsafe.Markup(
            json.dumps(browser, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        ),
        "runs": [
            {"label": model["label"], **run_facts(runs[model["name"]]["run"])}
            for model in models
            if runs[model["name"]]["run"]
        ],
        "evaluations": [
            {"label": model["label"], **evaluation_facts(evaluations[model["name"]]["run"])}
            for model in models
        ],
        "draws": metrics.DRAWS,
    }


def signed(runs: list[dict]) -> list[str]:
    """What people have signed for the sake of these runs: data that may go to an endpoint, an access class that was lowered."""
    lines = []
    for run in runs:
        lines += [
            f"allowed: {e['endpoint']} ({e['agreement']}; {e['person']}, {e['date']})"
            for e in run.get("allowed", ())
        ]
        lines += [
            f"declassified: {e['from']} to {e['to']} ({e['why']}; {e['who']}, {e['date']})"
            for e in run.get("declassified", ())
        ]
    return list(dict.fromkeys(lines))


# ---------------------------------------------------------------- inputs
def read_config(path: Path) -> dict:
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: --config evaluation/claims/demo.yaml")
    config = read_yaml(path)
    for key in ("title", "about", "models"):
        if not isinstance(config, dict) or not config.get(key):
            raise BadInput(f"{path}: '{key}' is missing")
    for number, model in enumerate(config["models"], 1):
        wrong = sorted((MODEL_KEYS - set(model)) | (set(model) - MODEL_KEYS - MODEL_OPTIONAL))
        if wrong:
            known = ", ".join(sorted(MODEL_KEYS | MODEL_OPTIONAL))
            raise BadInput(
                f"{path}: model {number}: missing or unknown: {', '.join(wrong)} (a model has {known})"
            )
    names = {model["name"] for model in config["models"]}
    if config.get("baseline", config["models"][0]["name"]) not in names:
        raise BadInput(
            f"{path}: baseline '{config['baseline']}' is not one of the models ({', '.join(sorted(names))})"
        )
    for number, claim in enumerate(config.get("claims", []), 1):
        where = f"{path}: claim {number}"
        if claim.get("kind") not in CLAIM_KEYS:
            raise BadInput(f"{where}: kind is '{claim.get('kind')}', must be one of {', '.join(CLAIM_KEYS)}")
        if set(claim) != CLAIM_KEYS[claim["kind"]]:
            wrong = sorted(set(claim) ^ CLAIM_KEYS[claim["kind"]])
            raise BadInput(
                f"{where}: missing or unknown: {', '.join(wrong)} (a claim of kind {claim['kind']} has these keys and no other)"
            )
        for role in ("better", "worse") if claim["kind"] == "accuracy" else ("new", "old"):
            if claim[role] not in names:
                raise BadInput(
                    f"{where}: '{claim[role]}' is not one of the models ({', '.join(sorted(names))})"
                )
    return config


def found_models(folder: Path) -> dict:
    """A configuration of every scored model in a folder."""
    models = []
    for path in sorted(folder.glob("*/scores.json")):
        run = read_json(path.parent / "run.json") if (path.parent / "run.json").is_file() else {}
        preset = run.get("settings", {}).get("preset")
        what = ", ".join(
            filter(
                None,
                (
                    run.get("name"),
                    preset and f"preset {preset}",
                    f"fingerprint {run.get('fingerprint', 'unknown')[:12]}",
                ),
            )
        )
        models.append({"name": path.parent.name, "label": path.parent.name, "preset": preset, "what": what})
    if not models:
        raise BadInput(f"{folder}: no scored model here. Next: python -m evaluation.score {folder}/MODEL")
    return {
        "title": f"Evaluation of {len(models)} models",
        "about": f"Every scored model of {folder}.",
        "models": models,
    }


def read_run(args, model: dict) -> dict:
    """{"folder", "run", "losses": [(name, steps, values)], "validation"} of a training run; what the run did not write is empty."""
    if "run" not in model:
        return {"folder": None, "run": {}, "losses": [], "validation": {}}
    if not args.runs:
        raise BadInput(
            f"{args.config}: model {model['name']} names the run {model['run']}. Next: --runs FOLDER, the folder it lies in"
        )
    folder = args.runs / model["run"]
    if not (folder / "run.json").is_file():
        raise BadInput(
            f"{folder / 'run.json'}: no such run. Next: make demo, or the recipe that writes output_dir {folder}"
        )
    optional = {
        name: read_json(folder / name) if (folder / name).is_file() else {}
        for name in ("trainer_state.json", "validation.json")
    }
    losses = {}
    for entry in optional["trainer_state.json"].get("log_history", []):
        for key, value in entry.items():
            if key == "loss" or re.fullmatch(r"eval_(.+_)?loss", key):
                name = (
                    "training"
                    if key == "loss"
                    else key.removeprefix("eval_").removesuffix("loss").strip("_") or "validation"
                )
                losses.setdefault(name, {})[entry["step"]] = (
                    value  # an evaluation repeated at the last step replaces the first
                )
    return {
        "folder": folder,
        "run": read_json(folder / "run.json"),
        "losses": [(name, list(points), list(points.values())) for name, points in losses.items()],
        "validation": optional["validation.json"],
    }


def read_evaluation(args, config: dict, model: dict) -> dict:
    folder = args.evaluation / model["name"]
    needed = [
        claim["tasks"]
        for claim in config.get("claims", [])
        if model["name"] in (claim.get("better"), claim.get("worse"))
    ]
    tasks = ",".join(dict.fromkeys(task for group in needed for task in group)) or "TASKS"
    if not (folder / "run.json").is_file() and not (folder / "scores.json").is_file():
        where = args.runs / model["name"] if args.runs else "MODEL"
        raise BadInput(
            f"{folder}: no answers of this model. Next: python -m evaluation.generate --model {where} --rows ROWS "
            f"--tasks {tasks} --preset {model['preset']} --out {folder}"
        )
    if not (folder / "scores.json").is_file():
        raise BadInput(f"{folder / 'scores.json'}: no such file. Next: python -m evaluation.score {folder}")
    run = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    if run.get("settings", {}).get("preset", model["preset"]) != model["preset"]:
        raise BadInput(
            f"{folder}: was asked with preset {run['settings']['preset']}, {args.config} says {model['preset']}. Next: make them equal"
        )
    return {"run": run, "scores": read_json(folder / "scores.json"), "folder": folder}


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
                kept["rows"] = [
                    samples.question(row, row["access"] == "credentialed" and not args.show_texts)
                    for row in first
                ]
            if [row["id"] for row in first] == [row["id"] for row in kept["rows"]]:
                kept["outputs"][name] = [
                    samples.reply(row, run_outputs.closed(row) and not args.show_texts) for row in first
                ]
            answers[name, task] = [samples.slim(row) for row in rows]
        shown[task] = kept
    return answers, {"models": {model["name"]: model["label"] for model in models}, "tasks": shown}


# ---------------------------------------------------------------- claims
def judge(args, claim: dict, runs: dict, evaluations: dict, answers: dict) -> dict:
    """The claim with its estimate, 95 % interval and verdict."""
    try:
        judged = (
            accuracy_claim(args, claim, evaluations, answers)
            if claim["kind"] == "accuracy"
            else perplexity_claim(claim, runs)
        )
    except ValueError as error:
        raise BadInput(
            f"claim '{claim['name']}': {error}. Next: run both models again on the same rows and blocks"
        ) from error
    return {**claim, **judged}


def accuracy_claim(args, claim: dict, evaluations: dict, answers: dict) -> dict:
    differences, draws, parts = [], [], []
    for number, task in enumerate(claim["tasks"]):
        better, worse = (
            rows_of(args, answers, evaluations, claim[role], task) for role in ("better", "worse")
        )
        metric = metrics.primary(better) if claim["metric"] == "primary" else claim["metric"]
        known = metrics.names(better)
        if metric not in known:
            raise BadInput(
                f"claim '{claim['name']}': {task} has no metric '{metric}' (it has {', '.join(known)})"
            )
        difference, values = metrics.paired_difference(better, worse, metric, seed=number)
        differences.append(difference)
        draws.append(values)
        parts.append(f"{task} {metric} {difference:+.3f} ({len(better)} rows)")
    low, high = metrics.interval(np.mean(draws, axis=0))
    estimate = float(np.mean(differences))
    return {
        "estimate": estimate, "low": low, "high": high, "reference": 0.0,
        "verdict": "shown" if low > 0 else "contradicted" if high < 0 else "not shown",
        "numbers": f"{claim['better']} minus {claim['worse']}: {estimate:+.3f} ({low:+.3f} to {high:+.3f})",
        "detail": "; ".join(parts),
    }  # fmt: skip


def rows_of(args, answers: dict, evaluations: dict, name: str, task: str) -> list[dict]:
    if (name, task) not in answers:
        folder, preset = (
            evaluations[name]["folder"],
            evaluations[name]["run"].get("settings", {}).get("preset", "PRESET"),
        )
        raise BadInput(
            f"{folder}: no scores of {task}. Next: python -m evaluation.generate --model {args.runs / name if args.runs else 'MODEL'} --rows ROWS "
            f"--tasks {task} --preset {preset} --out {folder}, then python -m evaluation.score {folder}"
        )
    return answers[name, task]


def perplexity_claim(claim: dict, runs: dict) -> dict:
    new, old = (runs[claim[role]] for role in ("new", "old"))
    for role, run in (("new", new), ("old", old)):
        if claim["domain"] not in run["validation"]:
            where = Path(run["folder"] or claim[role], "validation.json")
            raise BadInput(
                f"{where}: no losses on domain '{claim['domain']}'. Next: train {claim[role]} with blocks that hold it out"
            )
    if not curves.same_blocks(new["folder"], old["folder"], claim["domain"]):
        raise ValueError(
            "the two models were not validated on the same blocks, or these are not what they were"
        )
    pair = [run["validation"][claim["domain"]] for run in (new, old)]
    estimate, draws = metrics.ratio_of_perplexities(*pair)
    low, high = metrics.interval(draws)
    margin = float(claim["margin"])
    return {
        "estimate": estimate, "low": low, "high": high, "reference": margin,
        "verdict": "shown" if high <= margin else "contradicted" if low > margin else "not shown",
        "numbers": f"perplexity of {claim['new']} over {claim['old']}: {estimate:.3f} ({low:.3f} to {high:.3f}), margin {margin:.2f}",
        "detail": f"domain {claim['domain']}, {len(pair[0]['tokens'])} blocks, {sum(pair[0]['tokens']):,} predicted tokens",
    }  # fmt: skip


# ---------------------------------------------------------------- tables, pictures, provenance
def table_row(task: str, models: list, evaluations: dict) -> dict:
    """A task's primary metric for every model; a model that did not answer the task has no cell."""
    entries = [evaluations[model["name"]]["scores"].get(task) for model in models]
    metric = next(entry["primary"] for entry in entries if entry)
    cells = [
        tables.cell(model["name"], task, entry, metric) for model, entry in zip(models, entries, strict=True)
    ]
    best = max((c["value"] for c in cells if c and c["value"] is not None), default=None)
    for c in filter(None, cells):
        c["best"] = c["value"] is not None and c["value"] == best
    return {"task": task, "metric": metric, "n": next(c["n"] for c in cells if c), "cells": cells}


def places(run: dict, evaluation: dict) -> list[int]:
    """The article's tables in which a model belongs, as far as its runs tell."""
    settings = evaluation.get("settings", {})
    if run.get("stage") == "finetune_task":
        return [4]
    if settings.get("num_fewshot"):
        return []
    return [5, 6] if settings.get("chat_template") else [6]


def figure2_cells(models: list, evaluations: dict) -> dict:
    found = {}
    for model in models:
        for task, metric in figures.FIGURE2.items():
            one = tables.cell(model["name"], task, evaluations[model["name"]]["scores"].get(task), metric)
            found |= {(model["name"], task): one} if one else {}
    return found


def published_in_figure2() -> list[dict]:
    """The article's own models, from its tables: its Figure 2 is a picture, and the values of ChatGPT and GPT-4 stand there alone."""
    article, found = read_json(tables.ARTICLE), []
    for key, how in (("table5_zero_shot", "zero-shot"), ("table4_supervised", "fine-tuned")):
        for name in article[key]["models"]:
            if name.startswith("Me-LLaMA"):
                records = {
                    (tables.TASK.get(r["dataset"], r["dataset"]), r["metric"]): r["value"]
                    for r in article[key]["records"]
                    if r["model"] == name
                }
                values = {task: records.get((task, metric)) for task, metric in figures.FIGURE2.items()}
                found.append({"label": f"{name}, {how} (article)", "values": values})
    return found


def differences_to(baseline: dict, models: list, tasks: list, answers: dict, evaluations: dict) -> list[dict]:
    """The primary metric of each other model minus that of the baseline, on each task that both answered, with a paired interval."""
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
                    f"{task}: {baseline['name']} and {model['name']}: {error}. Next: run both on the same rows"
                ) from error
            low, high = metrics.interval(draws)
            if math.isnan(difference) or math.isnan(low):
                continue
            withheld = [
                m["label"]
                for m in (model, baseline)
                if evaluations[m["name"]]["scores"][task]["headline"]["withheld"]
            ]
            found.append({
                "task": task, "metric": metric, "model": model["label"], "number": number, "difference": difference, "low": low, "high": high,
                "withheld": withheld,
            })  # fmt: skip
    return found


def perplexities(models: list, runs: dict) -> list[dict]:
    """exp(nats / tokens) per domain, for the models that were validated on blocks. A line is of the same blocks: those of its first model; a model that was
    validated on others, or of which nobody can tell any more, has no value there."""
    measured = [model for model in models if runs[model["name"]]["validation"]]
    domains = sorted({domain for model in measured for domain in runs[model["name"]]["validation"]})
    rows = []
    for domain in domains:
        cells, first = [], None
        for model in measured:
            run = runs[model["name"]]
            loss = run["validation"].get(domain)
            first = first or (loss and run["folder"])
            comparable = loss and (run["folder"] == first or curves.same_blocks(run["folder"], first, domain))
            cells.append(
                {
                    "label": model["label"],
                    "value": math.exp(sum(loss["nll"]) / sum(loss["tokens"])) if comparable else None,
                }
            )
        rows.append({"domain": domain, "cells": cells})
    return rows


def curve(label: str, run: dict) -> dict:
    """The losses of a run as a picture, with the last values in words."""
    last = ", ".join(f"{name} {values[-1]:.3f}" for name, _, values in run["losses"])
    return {"label": label, "svg": figures.curve(label, run["losses"]), "last": last}


def run_facts(run: dict) -> dict:
    names = (
        "stage",
        "access",
        "machine",
        "ranks",
        "steps",
        "tokens_seen",
        "seconds",
        "peak_memory_bytes",
        "commit",
    )
    facts = {name.replace("_", " "): run[name] for name in names if run.get(name) is not None}
    if "peak memory bytes" in facts:
        facts["peak memory"] = f"{facts.pop('peak memory bytes') / 2**20:,.0f} MiB"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    facts["inputs"] = ", ".join(
        f"{path} (sha256 {digest[:12]})" for path, digest in run.get("inputs", {}).items()
    )
    return {
        "facts": {
            name: f"{value:,}" if isinstance(value, int) else str(value)
            for name, value in facts.items()
            if value != ""
        }
    }


def evaluation_facts(run: dict) -> dict:
    settings, tasks = run.get("settings", {}), run.get("tasks", {})
    limits = sorted({facts["max_new_tokens"] for task, facts in tasks.items() if not task.endswith("_ll")})
    template = settings.get("template", {})
    facts = {
        "model": run.get("name"),
        "preset": settings.get("preset"),
        "backend": settings.get("backend"),
        "prompt wrapper": f"{template.get('name')} {(template.get('sha256') or '')[:12]}".strip()
        if template
        else None,
        "new tokens": ", ".join(map(str, limits)),
        "examples in the prompt": settings.get("num_fewshot"),
        "rows": run.get("n"),
        "over-long prompts": sum(facts["n_overlong"] for facts in tasks.values()),
        "failed requests": sum(facts.get("n_failed", 0) for facts in tasks.values()),
        "access": run.get("access"),
        "fingerprint of the model": run.get("fingerprint", "")[:12],
        "seconds": run.get("seconds"),
        "machine": run.get("machine"),
        "versions": ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items()),
    }
    return {"facts": {name: str(value) for name, value in facts.items() if value not in (None, "")}}


# ---------------------------------------------------------------- report.md
def markdown(page: dict) -> str:
    """The same page without pictures and rows, for a terminal or a repository."""
    table = tables.markdown_table
    parts = [
        f"# {page['title']}\n",
        page["about"] + "\n",
        f"Access class of this report: **{page['access']}**.\n",
    ]
    parts += ["".join(f"- {line}\n" for line in page["signed"])] if page["signed"] else []
    parts += [
        "".join(f"- **{model['label']}** (`{model['name']}`): {model['what']}\n" for model in page["models"])
    ]
    if page["claims"]:
        rows = [
            (f"**{c['name']}**: {c['statement']}", c["verdict"], c["numbers"], c["detail"])
            for c in page["claims"]
        ]
        parts += ["## Claims\n", table(("claim", "verdict", "estimate (95 % interval)", "from"), rows)]
    head = ("task", "metric", "rows", *(model["label"] for model in page["models"]))
    parts += ["## Scores\n", f"Value (95 % interval, percentile bootstrap over rows, {page['draws']} draws); the article's scorer on the same "
              "outputs; outputs without a readable answer. – : not asked.\n"]  # fmt: skip
    parts += [
        table(
            head,
            [
                (row["task"], row["metric"], str(row["n"]), *map(tables.in_words, row["cells"]))
                for row in page["table"]
            ],
        )
    ]
    for one in page["article"]:
        parts += [
            f"## The article's {one['title']}\n",
            f"Published values ({one['source']}) beside **ours**.\n",
            tables.markdown(one),
        ]
    if page["differences"]:
        rows = [(d["task"], d["metric"], d["model"], f"{d['difference']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})",
                 f"headline withheld: {', '.join(d['withheld'])}" if d["withheld"] else "") for d in page["differences"]]  # fmt: skip
        parts += [
            f"## Differences to {page['baseline']}\n",
            table(("task", "metric", "model", "difference (95 % interval)", "note"), rows),
        ]
    if page["domains"]:
        head = ("domain", *(c["label"] for c in page["domains"][0]["cells"]))
        rows = [
            (row["domain"], *("–" if c["value"] is None else f"{c['value']:.2f}" for c in row["cells"]))
            for row in page["domains"]
        ]
        parts += ["## Perplexity of held-out text\n", SAME_BLOCKS + "\n", table(head, rows)]
    parts += [page["forgetting"]["markdown"]] if page["forgetting"] else []
    parts += ["## Clinical cases\n", page["diagnosis"]["markdown"]] if page["diagnosis"] else []
    if page["curves"]:
        parts += ["## Last losses\n", "".join(f"- {c['label']}: {c['last']}\n" for c in page["curves"])]
    for title, entries in (("Training runs", page["runs"]), ("Evaluation", page["evaluations"])):
        if entries:
            parts += [f"## {title}\n"]
        parts += [
            f"- **{e['label']}**: "
            + "; ".join(f"{name} {value}" for name, value in e["facts"].items())
            + "\n"
            for e in entries
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
