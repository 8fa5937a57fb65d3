"""The gate: how much general ability a tuned model may lose. evaluation.forgetting applies it, and a release
reads its verdict.

The loss, base minus tuned, of each task and of their mean is compared with `max_general_drop`:
    failed   the loss is above the limit
    warned   the loss is within the limit, but its interval reaches beyond: too few items to decide
    passed   the whole interval is within the limit
`max_general_perplexity_ratio` is judged alike, on the held-out blocks of the domain "general"; where it was
not measured, it fails. `tasks` must be asked, or evaluation.forgetting does not begin; `models` are those
that are judged (default: every tuned one). A base that does not answer better than by chance warns: it has
nothing to lose. With `uncertain: fail` a warning fails too. The verdict is in forgetting.json.
"""

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from data_prep.schema import BadInput, load
from evaluation.reporting.config import Section
from evaluation.reporting.formats import format_interval
from evaluation.tasks import general

EXAMPLE = "evaluation/gates/default.yaml"
DOMAIN = "general"
LEVELS = ("passed", "warned", "failed")
UNJUDGED = "not judged"
NUMBERS = ("max_general_drop", "max_general_perplexity_ratio")
Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]


class Limits(Section):
    """A YAML of evaluation/gates."""

    max_general_drop: Number | None = None
    max_general_perplexity_ratio: Number | None = None
    tasks: list[Literal[tuple(general.TASKS)]] = []
    models: list[str] = []
    uncertain: Literal["warn", "fail"] = "warn"


def read_limits(path: Path | None, instead: dict, tuned: list[str]) -> dict:
    """The limits of a YAML, with the numbers of `instead` that are not None in place of its own."""
    limits = load(path, Limits, example=EXAMPLE).model_dump() if path else Limits().model_dump()
    if path and not limits_set(limits):
        raise BadInput(f"{path}: sets no limit. Next: max_general_drop: 0.02, as in {EXAMPLE}")
    for name in NUMBERS:
        limits[name] = limits[name] if instead.get(name) is None else instead[name]
    try:
        Limits(**limits)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"--{first['loc'][0]}: {first['msg']}, found {first['input']}") from error
    if unknown := [model for model in limits["models"] if model not in tuned]:
        raise BadInput(f"{path}: '{unknown[0]}' is not one of the tuned models ({', '.join(tuned)})")
    return limits


def limits_set(limits: dict) -> bool:
    return any(limits.get(name) is not None for name in NUMBERS)


def findings(limits: dict, tuned: dict, result: dict) -> list[dict]:
    """[{"level", "sentence"}] of what the gate finds about one model, the worst first."""
    name, uncertain = tuned["name"], "failed" if limits["uncertain"] == "fail" else "warned"
    if not limits_set(limits):
        return []
    if limits["models"] and name not in limits["models"]:
        return [{"level": UNJUDGED, "sentence": f"{name} is not among the models that the gate judges"}]
    found = [*_losses(limits["max_general_drop"], tuned, result, uncertain)]
    found += _perplexity(limits["max_general_perplexity_ratio"], tuned, uncertain)
    if result["limit"]:
        found.append((uncertain, f"{name} was asked the first {result['limit']} items of each set only"))
    return [{"level": lvl, "sentence": s} for lvl, s in sorted(found, key=lambda one: -LEVELS.index(one[0]))]


def _losses(most: float | None, tuned: dict, result: dict, uncertain: str):
    if most is None:
        return
    several = {"the mean over tasks": tuned["mean"]} if len(tuned["differences"]) > 1 else {}
    for task, d in {**tuned["differences"], **several}.items():
        loss = format_interval(-d["difference"], -d["high"], -d["low"])
        if -d["difference"] > most:
            yield "failed", f"{tuned['name']} loses {loss} on {task}, more than max_general_drop {most:g}"
        elif -d["low"] > most:
            reach = f"more than max_general_drop {most:g} cannot be excluded"
            yield uncertain, f"{tuned['name']} loses {loss} on {task}: {reach}"
    for task in result["at_chance"]:
        yield uncertain, f"{task}: the base does not answer it better than by chance, so a loss cannot show"


def _perplexity(most: float | None, tuned: dict, uncertain: str):
    if most is None:
        return
    name, r = tuned["name"], tuned["perplexity"].get(DOMAIN)
    if r is None:
        unknown = (
            "perplexity on general text was not measured on the blocks of the base, and the gate limits it"
        )
        yield "failed", f"{name}: {unknown}"
        return
    ratio = format_interval(r["ratio"], r["low"], r["high"])
    said = f"{name} has {ratio} times the perplexity of the base on general text"
    if r["ratio"] > most:
        yield "failed", f"{said}, more than max_general_perplexity_ratio {most:g}"
    elif r["high"] > most:
        yield uncertain, f"{said}: more than max_general_perplexity_ratio {most:g} cannot be excluded"


def verdict(limits: dict, tuned: list[dict]) -> str | None:
    """The worst level that was found, "passed" where nothing was; None without a limit."""
    found = [f["level"] for one in tuned for f in one["gate"] if f["level"] != UNJUDGED]
    return max(found, key=LEVELS.index, default="passed") if limits_set(limits) else None
