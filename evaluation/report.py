"""One page that says what was run, what it was to show, and whether it did.

    python -m evaluation.report --config evaluation/claims/demo.yaml --evaluation outputs/demo/evaluation --runs outputs/demo \
        --out outputs/demo/report

Reads   CONFIG             the models (name, and the run that trained it), and the claims
        RUNS/<run>/        run.json, trainer_state.json (losses), validation.json where there is one (held-out nats and tokens per block)
        EVALUATION/<model>/  run.json, scores.json, <task>.scored.jsonl
Writes  OUT/report.html (one file that loads nothing), OUT/report.md

A claim of kind "accuracy" is the mean over its tasks of a metric's difference between two models, with a paired bootstrap over rows:
"shown" if the 95 % interval lies above 0, "contradicted" if below, else "not shown". A claim of kind "perplexity" is a ratio on one domain,
with a paired bootstrap over blocks: "shown" if the interval ends at or below the margin, "contradicted" if it begins above it, else
"not shown". Same inputs, same bytes. The texts of rows are left out of a report on credentialed data, unless --show_texts.
"""

import argparse
import io
import math
import re
import sys
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
import yaml
from matplotlib.figure import Figure

from data_prep.contracts import BadInput, strictest
from data_prep.files import read_json, read_jsonl, whole_folder
from evaluation import metrics

MODEL_KEYS = {"name", "label", "run", "preset", "what"}
CLAIM_KEYS = {
    "accuracy": {"name", "statement", "kind", "tasks", "metric", "better", "worse"},
    "perplexity": {"name", "statement", "kind", "domain", "new", "old", "margin"},
}
EXAMPLES = 3
INK = "#010203"  # stands for the colour of the page's text in a drawing
LINES = ("#3b82c4", "#d9822b", "#3fa372", "#a66bd0", "#c0504d")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--show_texts", action="store_true", help="print texts of rows even where access is credentialed; such a page stays on the site"
    )
    args = parser.parse_args(argv)
    try:
        page = read_page(args)
        with whole_folder(args.out, mark="report.html") as folder:
            (folder / "report.md").write_text(markdown(page))
            template = (Path(__file__).resolve().parent / "report.html").read_text()
            environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
            (folder / "report.html").write_text(environment.from_string(template).render(page))
    except BadInput as error:
        sys.exit(f"error: {error}")
    for claim in page["claims"]:
        print(f"{claim['name']:14} {claim['verdict']:13} {claim['numbers']}", flush=True)
    print(f"wrote {args.out / 'report.html'} and report.md", flush=True)


def read_page(args) -> dict:
    """Everything that the page says, as plain values; report.html and markdown() only lay it out."""
    config = read_config(args.config)
    runs = {model["name"]: read_run(args, model) for model in config["models"]}
    evaluations = {model["name"]: read_evaluation(args, config, model) for model in config["models"]}
    tasks = list(dict.fromkeys(task for evaluation in evaluations.values() for task in evaluation["scores"]))
    for task in tasks:  # one line of the table compares like with like
        asked = {name: e["scores"][task]["n"] for name, e in evaluations.items() if task in e["scores"]}
        if len(set(asked.values())) > 1:
            counts = ", ".join(f"{name} {n}" for name, n in asked.items())
            raise BadInput(f"{task}: the models answered different rows ({counts}). Next: python -m evaluation.generate without --limit")
    verdicts = [judge(args, claim, runs, evaluations) for claim in config["claims"]]
    access = strictest(record.get("access", "public") for entry in [*runs.values(), *evaluations.values()] for record in [entry["run"]])
    redacted = access == "credentialed" and not args.show_texts
    return {
        "title": config["title"],
        "about": config["about"],
        "access": access,
        "redacted": redacted,
        "models": config["models"],
        "claims": verdicts,
        "table": [table_row(task, config["models"], evaluations) for task in tasks],
        "curves": [curve(model["label"], runs[model["name"]]) for model in config["models"] if runs[model["name"]]["losses"]],
        "domains": perplexities(config["models"], runs),
        "examples": [] if redacted else [examples(args, task, config["models"], evaluations) for task in tasks],
        "runs": [{"label": model["label"], **run_facts(runs[model["name"]]["run"])} for model in config["models"]],
        "evaluations": [{"label": model["label"], **evaluation_facts(evaluations[model["name"]]["run"])} for model in config["models"]],
        "draws": metrics.DRAWS,
    }


# ---------------------------------------------------------------- inputs
def read_config(path: Path) -> dict:
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: --config evaluation/claims/demo.yaml")
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    for key in ("title", "about", "models", "claims"):
        if not isinstance(config, dict) or not config.get(key):
            raise BadInput(f"{path}: '{key}' is missing")
    for number, model in enumerate(config["models"], 1):
        if set(model) != MODEL_KEYS:
            wrong = ", ".join(sorted(set(model) ^ MODEL_KEYS))
            raise BadInput(f"{path}: model {number}: missing or unknown: {wrong} (a model has {', '.join(sorted(MODEL_KEYS))})")
    names = {model["name"] for model in config["models"]}
    for number, claim in enumerate(config["claims"], 1):
        where = f"{path}: claim {number}"
        if claim.get("kind") not in CLAIM_KEYS:
            raise BadInput(f"{where}: kind is '{claim.get('kind')}', must be one of {', '.join(CLAIM_KEYS)}")
        if set(claim) != CLAIM_KEYS[claim["kind"]]:
            wrong = sorted(set(claim) ^ CLAIM_KEYS[claim["kind"]])
            raise BadInput(f"{where}: missing or unknown: {', '.join(wrong)} (a claim of kind {claim['kind']} has these keys and no other)")
        for role in ("better", "worse") if claim["kind"] == "accuracy" else ("new", "old"):
            if claim[role] not in names:
                raise BadInput(f"{where}: '{claim[role]}' is not one of the models ({', '.join(sorted(names))})")
    return config


def read_run(args, model: dict) -> dict:
    """{"run", "losses": [(name, steps, values)], "validation"} of a training run; what the run did not write is empty."""
    folder = args.runs / model["run"]
    if not (folder / "run.json").is_file():
        raise BadInput(f"{folder / 'run.json'}: no such run. Next: make demo, or the recipe that writes output_dir {folder}")
    optional = {name: read_json(folder / name) if (folder / name).is_file() else {} for name in ("trainer_state.json", "validation.json")}
    losses = {}
    for entry in optional["trainer_state.json"].get("log_history", []):
        for key, value in entry.items():
            if key == "loss" or re.fullmatch(r"eval_(.+_)?loss", key):
                name = "training" if key == "loss" else key.removeprefix("eval_").removesuffix("loss").strip("_") or "validation"
                losses.setdefault(name, {})[entry["step"]] = value  # an evaluation repeated at the last step replaces the first
    return {
        "run": read_json(folder / "run.json"),
        "losses": [(name, list(points), list(points.values())) for name, points in losses.items()],
        "validation": optional["validation.json"],
    }


def read_evaluation(args, config: dict, model: dict) -> dict:
    folder = args.evaluation / model["name"]
    needed = [claim["tasks"] for claim in config["claims"] if model["name"] in (claim.get("better"), claim.get("worse"))]
    tasks = ",".join(dict.fromkeys(task for group in needed for task in group)) or "TASKS"
    if not (folder / "run.json").is_file():
        raise BadInput(
            f"{folder}: no answers of this model. Next: python -m evaluation.generate --model {args.runs / model['name']} --rows ROWS "
            f"--tasks {tasks} --preset {model['preset']} --out {folder}"
        )
    if not (folder / "scores.json").is_file():
        raise BadInput(f"{folder / 'scores.json'}: no such file. Next: python -m evaluation.score {folder}")
    run = read_json(folder / "run.json")
    if run.get("settings", {}).get("preset", model["preset"]) != model["preset"]:
        raise BadInput(
            f"{folder}: was asked with preset {run['settings']['preset']}, {args.config} says {model['preset']}. Next: make them equal"
        )
    return {"run": run, "scores": read_json(folder / "scores.json"), "folder": folder}


def scored_rows(args, evaluation: dict, task: str) -> list[dict]:
    folder = evaluation["folder"]
    if task not in evaluation["scores"]:
        preset = evaluation["run"].get("settings", {}).get("preset", "PRESET")
        raise BadInput(
            f"{folder}: no scores of {task}. Next: python -m evaluation.generate --model {args.runs / folder.name} --rows ROWS "
            f"--tasks {task} --preset {preset} --out {folder}, then python -m evaluation.score {folder}"
        )
    if not (folder / f"{task}.scored.jsonl").is_file():
        raise BadInput(f"{folder / task}.scored.jsonl: no such file. Next: python -m evaluation.score {folder}")
    return [row for _, row in read_jsonl(folder / f"{task}.scored.jsonl")]


# ---------------------------------------------------------------- claims
def judge(args, claim: dict, runs: dict, evaluations: dict) -> dict:
    """The claim with its estimate, 95 % interval and verdict."""
    try:
        judged = accuracy_claim(args, claim, evaluations) if claim["kind"] == "accuracy" else perplexity_claim(args, claim, runs)
    except ValueError as error:
        raise BadInput(f"claim '{claim['name']}': {error}. Next: run both models again on the same rows and blocks") from error
    return {**claim, **judged}


def accuracy_claim(args, claim: dict, evaluations: dict) -> dict:
    differences, draws, parts = [], [], []
    for number, task in enumerate(claim["tasks"]):
        better, worse = (scored_rows(args, evaluations[claim[role]], task) for role in ("better", "worse"))
        metric = metrics.primary(better) if claim["metric"] == "primary" else claim["metric"]
        known = metrics.NAMES[metrics.kind(better[0])]
        if metric not in known:
            raise BadInput(f"claim '{claim['name']}': {task} has no metric '{metric}' (it has {', '.join(known)})")
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


def perplexity_claim(args, claim: dict, runs: dict) -> dict:
    pair = []
    for role in ("new", "old"):
        path = args.runs / claim[role] / "validation.json"
        if claim["domain"] not in runs[claim[role]]["validation"]:
            raise BadInput(f"{path}: no losses on domain '{claim['domain']}'. Next: train {claim[role]} with blocks that hold it out")
        pair.append(runs[claim[role]]["validation"][claim["domain"]])
    estimate, draws = metrics.ratio_of_perplexities(*pair)
    low, high = metrics.interval(draws)
    margin = float(claim["margin"])
    return {
        "estimate": estimate, "low": low, "high": high, "reference": margin,
        "verdict": "shown" if high <= margin else "contradicted" if low > margin else "not shown",
        "numbers": f"perplexity of {claim['new']} over {claim['old']}: {estimate:.3f} ({low:.3f} to {high:.3f}), margin {margin:.2f}",
        "detail": f"domain {claim['domain']}, {len(pair[0]['tokens'])} blocks, {sum(pair[0]['tokens']):,} predicted tokens",
    }  # fmt: skip


# ---------------------------------------------------------------- tables, curves, examples, provenance
def table_row(task: str, models: list, evaluations: dict) -> dict:
    """A task's primary metric for every model; a model that did not answer the task has no cell."""
    entries = [evaluations[model["name"]]["scores"].get(task) for model in models]
    known = [entry for entry in entries if entry]
    metric = known[0]["primary"]
    cells = [entry and {**entry["metrics"][metric], "unparsed": entry["unparsed"]} for entry in entries]
    best = max((cell["value"] for cell in cells if cell and cell["value"] is not None), default=None)
    for cell in cells:
        if cell:
            cell["best"] = cell["value"] is not None and cell["value"] == best
    return {"task": task, "metric": metric, "n": known[0]["n"], "cells": cells}


def perplexities(models: list, runs: dict) -> list[dict]:
    """exp(nats / tokens) per domain, for the models that were validated on blocks; and how many blocks."""
    measured = [model for model in models if runs[model["name"]]["validation"]]
    domains = sorted({domain for model in measured for domain in runs[model["name"]]["validation"]})
    rows = []
    for domain in domains:
        losses = [runs[model["name"]]["validation"].get(domain) for model in measured]
        values = [math.exp(sum(loss["nll"]) / sum(loss["tokens"])) if loss else None for loss in losses]
        rows.append({"domain": domain, "cells": [{"label": m["label"], "value": v} for m, v in zip(measured, values, strict=True)]})
    return rows


def curve(label: str, run: dict) -> dict:
    """The losses of a run as inline SVG (the same bytes every time), with the last values in words."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 9, "font.family": "DejaVu Sans"}  # the font matplotlib brings
    colours = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with matplotlib.rc_context({**settings, **colours}):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot(facecolor="none")
        for number, (name, steps, values) in enumerate(run["losses"]):
            style = {"color": LINES[number % len(LINES)], "linewidth": 1.4}
            held_out = {} if name == "training" else {"marker": "o", "markersize": 3}
            axes.plot(steps, values, label=name if name in ("training", "validation") else f"held-out {name}", **style, **held_out)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15, color=INK)
        axes.set(xlabel="step", ylabel="loss (nats per token)")
        axes.legend(frameon=False, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL).replace(INK, "currentColor")
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="loss curves of {label}"', svg, count=1)
    last = ", ".join(f"{name} {values[-1]:.3f}" for name, _, values in run["losses"])
    return {"label": label, "svg": _Safe(svg), "last": last}


class _Safe(str):
    """Text that jinja2 puts on the page as it is."""

    def __html__(self):
        return self


def examples(args, task: str, models: list, evaluations: dict) -> dict:
    """The first rows of a task with what every model wrote."""
    answered = [model for model in models if task in evaluations[model["name"]]["scores"]]
    rows = {model["label"]: scored_rows(args, evaluations[model["name"]], task)[:EXAMPLES] for model in answered}
    first = next(iter(rows.values()))
    return {
        "task": task,
        "rows": [
            {
                "id": row["id"],
                "prompt": row["question"] + "\n" + "\n".join(row["options"]) if isinstance(row["output"], list) else row["prompt"],
                "gold": row["options"][row["choices"].index(row["completion"])] if isinstance(row["output"], list) else row["completion"],
                "outputs": [{"label": label, **shown(theirs[i])} for label, theirs in rows.items() if i < len(theirs)],
            }
            for i, row in enumerate(first)
        ],
    }


def shown(row: dict) -> dict:
    """An output as text, and whether an answer could be read from it."""
    if not isinstance(row["output"], list):
        return {"text": row["output"], "unparsed": row["parsed"] is None}
    pairs = zip(row.get("options", []), row["output"], strict=False)
    return {"text": "\n".join(f"{nats:8.2f}  {option}" for option, (nats, _) in pairs), "unparsed": row["parsed"] is None}


def run_facts(run: dict) -> dict:
    names = ("stage", "access", "machine", "ranks", "steps", "tokens_seen", "seconds", "peak_memory_bytes", "commit")
    facts = {name.replace("_", " "): run[name] for name in names if run.get(name) is not None}
    if "peak memory bytes" in facts:
        facts["peak memory"] = f"{facts.pop('peak memory bytes') / 2**20:,.0f} MiB"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    facts["inputs"] = ", ".join(f"{path} (sha256 {digest[:12]})" for path, digest in run.get("inputs", {}).items())
    return {"facts": {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in facts.items() if value != ""}}


def evaluation_facts(run: dict) -> dict:
    settings = run.get("settings", {})
    limits = sorted({facts["max_new_tokens"] for task, facts in run["tasks"].items() if not task.endswith("_ll")})
    facts = {
        "preset": settings.get("preset"),
        "chat template": "yes" if settings.get("chat_template") else "no",
        "new tokens": ", ".join(map(str, limits)),
        "examples in the prompt": settings.get("num_fewshot"),
        "rows": run.get("n"),
        "over-long prompts": sum(facts["n_overlong"] for facts in run["tasks"].values()),
        "access": run.get("access"),
        "fingerprint of the model": run.get("fingerprint", "")[:12],
        "seconds": run.get("seconds"),
        "machine": run.get("machine"),
        "versions": ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items()),
    }
    return {"facts": {name: str(value) for name, value in facts.items() if value not in (None, "")}}


# ---------------------------------------------------------------- report.md
def markdown(page: dict) -> str:
    """The same page without curves and examples, for a terminal or a repository."""

    def table(head, rows):
        return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""])

    def cell(c):
        if not c:
            return "–"
        return "not defined" if c["value"] is None else f"{c['value']:.3f} ({c['low']:.3f} to {c['high']:.3f})"

    parts = [f"# {page['title']}\n", page["about"] + "\n", f"Access class of this report: **{page['access']}**.\n"]
    parts += ["".join(f"- **{model['label']}** (`{model['name']}`): {model['what']}\n" for model in page["models"])]
    parts += ["## Claims\n", table(("claim", "verdict", "estimate (95 % interval)", "from"), [
        (f"**{c['name']}**: {c['statement']}", c["verdict"], c["numbers"], c["detail"]) for c in page["claims"]
    ])]  # fmt: skip
    head = ("task", "metric", "rows", *(model["label"] for model in page["models"]))
    parts += ["## Scores\n", f"Value (95 % interval, percentile bootstrap over rows, {page['draws']} draws). – : not asked.\n"]
    parts += [table(head, [(row["task"], row["metric"], str(row["n"]), *map(cell, row["cells"])) for row in page["table"]])]
    if page["domains"]:
        head = ("domain", *(c["label"] for c in page["domains"][0]["cells"]))
        rows = [(row["domain"], *("–" if c["value"] is None else f"{c['value']:.2f}" for c in row["cells"])) for row in page["domains"]]
        parts += ["## Perplexity of held-out text\n", table(head, rows)]
    parts += ["## Last losses\n", "".join(f"- {c['label']}: {c['last']}\n" for c in page["curves"])]
    for title, entries in (("Training runs", page["runs"]), ("Evaluation", page["evaluations"])):
        parts += [f"## {title}\n"]
        parts += [f"- **{e['label']}**: " + "; ".join(f"{name} {value}" for name, value in e["facts"].items()) + "\n" for e in entries]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
