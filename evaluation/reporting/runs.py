"""The folders that a report reads: training runs and scored models, and what their records say of the model.

A model that was fine-tuned on one task says something about that task only. Its run record tells: the stage,
and the manifest of the rows. Scores on other tasks are left out of every table, figure and claim, and named.
"""

import re
from pathlib import Path

from data_prep.files import read_json
from data_prep.schema import BadInput
from evaluation import generate
from evaluation.reporting import tables
from evaluation.reporting.curves import read_optional
from evaluation.reporting.formats import printable

FINE_TUNING = (
    "sft",
    "finetune_task",
)  # stages; finetune_task is the name before sft.py took both kinds of rows


WATCHED = {  # what recipes/dpo.py and recipes/grpo.py log beside the loss: axis, keys of the log
    "reward": r"reward|rewards/[^/]+/mean",
    "margin (beta x nats)": r"(eval_)?rewards/margins",
    "share": r"(eval_)?rewards/accuracies|heldout/ll_accuracy|frac_reward_zero_std",
    "KL (nats)": r"kl|eval_kl",
    "tokens of a completion": r"completions/mean_length",
}


def found_models(folder: Path) -> dict:
    """A configuration of every scored model in a folder."""
    models = []
    for path in sorted(folder.glob("*/scores.json")):
        name = path.parent.name
        if printable(name) != name:
            raise BadInput(f"{folder}: folder {name!a} has a name that cannot be printed. Next: rename it")
        run = read_optional(path.parent / "run.json")
        preset = run.get("settings", {}).get("preset")
        facts = (
            run.get("name"),
            preset and f"preset {preset}",
            f"fingerprint {run.get('fingerprint', 'unknown')[:12]}",
        )
        models.append({"name": name, "label": name, "preset": preset, "what": ", ".join(filter(None, facts))})
    if not models:
        raise BadInput(f"{folder}: no scored model here. Next: python -m evaluation.score {folder}/MODEL")
    about = f"Every scored model of {folder}."
    return {"title": f"Evaluation of {len(models)} models", "about": about, "models": models}


# ---------------------------------------------------------------- training
def read_run(folder: Path | None) -> dict:
    """{"folder", "run", "losses": [(name, steps, values)], "validation"} of a training run; what it did not
    write is empty."""
    if folder is None:
        return {"folder": None, "run": {}, "losses": [], "validation": {}, "watched": []}
    if not (folder / "run.json").is_file():
        raise BadInput(
            f"{folder / 'run.json'}: no such run. Next: make demo, or the recipe that writes output_dir "
            f"{folder}"
        )
    losses, log = {}, read_optional(folder / "trainer_state.json").get("log_history", [])
    for entry in log:
        for key, value in entry.items():
            if key == "loss" or re.fullmatch(r"eval_(.+_)?loss", key):
                domain = key.removeprefix("eval_").removesuffix("loss").strip("_") or "validation"
                points = losses.setdefault("training" if key == "loss" else domain, {})
                points[entry["step"]] = value  # the evaluation after training repeats that of the last step
    return {
        "folder": folder,
        "run": read_json(folder / "run.json"),
        "losses": [(name, list(points), list(points.values())) for name, points in losses.items()],
        "validation": read_optional(folder / "validation.json"),
        "watched": [found for found in map(lambda kind: watched(kind, log), WATCHED) if found[1]],
    }


def watched(kind: str, log: list[dict]) -> tuple[str, list]:
    """(what is on the axis, [(name, steps, values)]) of one kind of WATCHED in the log of DPO or GRPO."""
    found = {}
    for entry in log:
        for key, value in entry.items():
            if value is not None and re.fullmatch(WATCHED[kind], key):
                name = "held-out " * key.startswith("eval_") + key.removeprefix("eval_")
                found.setdefault(name.replace("rewards/", "").removesuffix("/mean"), {})[entry["step"]] = (
                    value
                )
    return kind, [(name, list(points), list(points.values())) for name, points in found.items()]


def supervised_task(run: dict) -> str | None:
    """The task that the model of a run record was fine-tuned on; None of a model of conversations, or of
    another stage."""
    arguments = run.get("arguments", {})
    if run.get("stage") == "merge_adapter":
        return supervised_task(read_optional(Path(arguments.get("adapter", ""), "run.json")))
    if run.get("stage") == "grpo":  # rewarded on the training rows of a task: not zero-shot on it
        return read_optional(Path(arguments.get("rows", ""), "manifest.json")).get("task")
    if (
        run.get("stage") not in FINE_TUNING
        or arguments.get("chat_template_path")
        or not arguments.get("rows")
    ):
        return None
    rows = Path(arguments["rows"])
    known = read_optional(rows / "manifest.json")
    if known:
        return known.get("task")
    return rows.name if run["stage"] == "finetune_task" or rows.name in generate.KNOWN else None


# ---------------------------------------------------------------- evaluation
def read_evaluation(folder: Path, model: dict, run: dict, source: str, tasks: str) -> dict:
    """{"run", "scores", "folder", "task", "left_out", "command"} of a scored model. `run`: its training
    record, if it is known; `source`: the file that says which preset was used; `tasks`: those that a claim
    needs."""
    where = run["folder"] or "MODEL"
    command = (
        f"python -m evaluation.generate --model {where} --rows ROWS --preset {model['preset']} --out {folder}"
    )
    record = read_optional(folder / "run.json")
    if not record and not (folder / "scores.json").is_file():
        raise BadInput(f"{folder}: no answers of this model. Next: {command} --tasks {tasks}")
    if not (folder / "scores.json").is_file():
        raise BadInput(f"{folder / 'scores.json'}: no such file. Next: python -m evaluation.score {folder}")
    asked = record.get("settings", {}).get("preset", model["preset"])
    if asked != model["preset"]:
        raise BadInput(
            f"{folder}: was asked with preset {asked}, {source} says {model['preset']}. Next: make them equal"
        )
    scores = read_json(folder / "scores.json")
    task = supervised_task(run["run"] or read_optional(Path(record.get("model") or "", "run.json")))
    kept = {name: entry for name, entry in scores.items() if task in (None, generate.rows_name(name))}
    return {
        "run": record,
        "scores": kept,
        "folder": folder,
        "task": task,
        "left_out": [name for name in scores if name not in kept],
        "command": command,
    }


def places(evaluation: dict) -> list:
    """The paper's tables in which a model belongs, as far as its records tell."""
    settings = evaluation["run"].get("settings", {})
    if evaluation["task"]:
        return [4]
    if settings.get("num_fewshot"):
        return [tables.FEW_SHOT]
    return [5, 6] if settings.get("chat_template") else [6]


# ---------------------------------------------------------------- provenance
FACTS = (
    "stage",
    "access",
    "egress",
    "machine",
    "ranks",
    "steps",
    "tokens_seen",
    "seconds",
    "peak_memory_bytes",
    "commit",
)


def run_facts(run: dict) -> dict:
    facts = {name.replace("_", " "): run.get(name) for name in FACTS}
    if peak := facts.pop("peak memory bytes"):
        facts["peak memory"] = f"{peak / 2**20:,.0f} MiB"
    facts["versions"] = _versions(run)
    inputs = run.get("inputs", {})
    facts["inputs"] = ", ".join(f"{path} (sha256 {digest[:12]})" for path, digest in inputs.items())
    return _printed(facts)


def evaluation_facts(evaluation: dict) -> dict:
    run = evaluation["run"]
    settings, tasks = run.get("settings", {}), run.get("tasks", {})
    limits = sorted({facts["max_new_tokens"] for task, facts in tasks.items() if not task.endswith("_ll")})
    template = settings.get("template") or {}
    return _printed(
        {
            "model": run.get("name"),
            "preset": settings.get("preset"),
            "backend": settings.get("backend"),
            "prompt wrapper": f"{template.get('name', '')} {(template.get('sha256') or '')[:12]}".strip(),
            "new tokens": ", ".join(map(str, limits)),
            "examples in the prompt": settings.get("num_fewshot"),
            "rows": run.get("n"),
            "over-long prompts": sum(facts["n_overlong"] for facts in tasks.values()),
            "failed requests": sum(facts.get("n_failed", 0) for facts in tasks.values()),
            "fine-tuned on": evaluation["task"],
            "left out": ", ".join(evaluation["left_out"]),
            "access": run.get("access"),
            "egress": run.get("egress"),
            "fingerprint of the model": run.get("fingerprint", "")[:12],
            "seconds": run.get("seconds"),
            "machine": run.get("machine"),
            "versions": _versions(run),
        }
    )


def _versions(run: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())


def _printed(facts: dict) -> dict:
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    return {name: f"{v:,}" if isinstance(v, int) else printable(v) for name, v in known.items()}


def signed(records: list[dict]) -> list[str]:
    """What people have signed for these records: data that may go to an endpoint, an access class that was
    lowered."""
    lines = []
    for record in records:
        for e in record.get("allowed", ()):
            lines.append(f"allowed: {e['endpoint']} ({e['agreement']}; {e['person']}, {e['date']})")
        for e in record.get("declassified", ()):
            lines.append(f"declassified: {e['from']} to {e['to']} ({e['why']}; {e['who']}, {e['date']})")
    return list(dict.fromkeys(lines))
