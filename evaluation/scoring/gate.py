"""The gate: how much general ability a tuned model may lose. evaluation.forgetting asks it, and a release reads its verdict.

It compares the loss, base minus tuned, of each task and of their mean with `max_general_drop`:
    failed   the loss is above the limit
    warned   the loss is within the limit, but its interval reaches beyond: there are too few items to tell
    passed   the whole interval is within
`max_general_perplexity_ratio` is judged alike, on the held-out blocks of the domain "general"; where it was not measured it fails. `tasks` of a gate
are those without which evaluation.forgetting does not begin, `models` those that are judged (default: every tuned one). A base that does not answer
better than by chance warns: it has nothing to lose. With `uncertain: fail` a warning fails too. The verdict stands in forgetting.json.
"""

import math
from pathlib import Path

from data_prep.files import read_yaml
from data_prep.schema import BadInput
from evaluation.tasks import general

DOMAIN = "general"
LEVELS = ("passed", "warned", "failed")
UNJUDGED = "not judged"
NUMBERS = ("max_general_drop", "max_general_perplexity_ratio")
LIMITS = dict.fromkeys(NUMBERS) | {"tasks": [], "models": [], "uncertain": "warn"}


def read_limits(path: Path | None, instead: dict, tuned: list[str]) -> dict:
    """The limits of a YAML, with the numbers of `instead` that are not None in place of its own. BadInput names a key that is no limit."""
    given = read_yaml(path) if path else {}
    if not isinstance(given, dict) or (path and not limits_set(given)):
        raise BadInput(
            f"{path}: names no limit. Next: max_general_drop: 0.02, as in evaluation/gates/default.yaml"
        )
    if unknown := sorted(set(given) - set(LIMITS)):
        raise BadInput(f"{path}: unknown key '{unknown[0]}' (known: {', '.join(LIMITS)})")
    limits = LIMITS | given
    for name in NUMBERS:
        limits[name] = limits[name] if instead.get(name) is None else instead[name]
        value = limits[name]
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        ):
            raise BadInput(f"{path or '--' + name}: {name} must be a number, found {value!r}")
    if limits["uncertain"] not in ("warn", "fail"):
        raise BadInput(f"{path}: uncertain must be warn or fail, found {limits['uncertain']!r}")
    for name in ("tasks", "models"):
        if not isinstance(limits[name], list):
            raise BadInput(f"{path}: {name} must be a list, found {limits[name]!r}")
    if unknown := [task for task in limits["tasks"] if str(task) not in general.TASKS]:
        raise BadInput(f"{path}: unknown task '{unknown[0]}' (known: {', '.join(general.TASKS)})")
    if unknown := [model for model in limits["models"] if model not in tuned]:
        raise BadInput(f"{path}: '{unknown[0]}' is none of the tuned models ({', '.join(tuned)})")
    return limits


def limits_set(limits: dict) -> bool:
    return any(limits.get(name) is not None for name in NUMBERS)


def findings(limits: dict, tuned: dict, result: dict) -> list[dict]:
    """[{"level", "sentence"}] of what the gate has to say of one model, the worst first."""
    name, uncertain = tuned["name"], "failed" if limits["uncertain"] == "fail" else "warned"
    if not limits_set(limits):
        return []
    if limits["models"] and name not in limits["models"]:
        return [{"level": UNJUDGED, "sentence": f"{name} is not among the models that the gate judges"}]
    found = []
    most = limits["max_general_drop"]
    if most is not None:
        several = {"the mean over tasks": tuned["mean"]} if len(tuned["differences"]) > 1 else {}
        for task, d in {**tuned["differences"], **several}.items():
            loss = f"{name} loses {-d['difference']:.3f} ({-d['high']:.3f} to {-d['low']:.3f}) on {task}"
            if -d["difference"] > most:
                found.append(("failed", f"{loss}, more than max_general_drop {most:g}"))
            elif -d["low"] > most:
                found.append((uncertain, f"{loss}: more than max_general_drop {most:g} cannot be excluded"))
        for task in result["at_chance"]:
            found.append(
                (
                    uncertain,
                    f"{task}: the base does not answer it better than by chance, so a loss cannot show",
                )
            )
    most = limits["max_general_perplexity_ratio"]
    if most is not None:
        r = tuned["perplexity"].get(DOMAIN)
        said = (
            r
            and f"{name} has {r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f}) times the perplexity of the base on general text"
        )
        if r is None:
            found.append(
                (
                    "failed",
                    f"{name}: perplexity on general text was not measured on the blocks of the base, and the gate limits it",
                )
            )
        elif r["ratio"] > most:
            found.append(("failed", f"{said}, more than max_general_perplexity_ratio {most:g}"))
        elif r["high"] > most:
            found.append(
                (uncertain, f"{said}: more than max_general_perplexity_ratio {most:g} cannot be excluded")
            )
    if result["limit"]:
        found.append((uncertain, f"{name} was asked the first {result['limit']} items of each set only"))
    return [{"level": lvl, "sentence": s} for lvl, s in sorted(found, key=lambda one: -LEVELS.index(one[0]))]


def verdict(limits: dict, tuned: list[dict]) -> str | None:
    """The worst level that was found, "passed" where nothing was; None without a limit."""
    worst = max(
        (LEVELS.index(f["level"]) for one in tuned for f in one["gate"] if f["level"] != UNJUDGED), default=0
    )
    return LEVELS[worst] if limits_set(limits) else None
