"""The claims of a report, judged.

A claim of kind "accuracy" is the mean over its tasks of a metric's difference between two models, with a
paired bootstrap over rows: "shown" if the 95 % interval lies above 0, "contradicted" if below, else "not
shown". A claim of kind "margin" is the same of by how many nats the right answer is likelier than the
likeliest wrong one (mean over rows). One of kind "kept" is that nothing is lost: the difference of "accuracy"
between a new model and the old one, "shown" if its interval lies above minus the margin, "contradicted" if
below. A claim of kind "perplexity" is a ratio on one domain of two models that
were validated on the same blocks, with a paired bootstrap over them: "shown" if the interval ends at or below
the margin, "contradicted" if it begins above it, else "not shown".
"""

from pathlib import Path

import numpy as np

from data_prep.schema import BadInput
from evaluation.reporting import curves
from evaluation.reporting.formats import format_interval
from evaluation.reporting.intervals import difference_with_width
from evaluation.scoring import metrics


def judge(claim: dict, runs: dict, evaluations: dict, answers: dict) -> dict:
    """The claim with its estimate, 95 % interval and verdict. `answers`: graded rows by (model, task)."""
    try:
        if claim["kind"] == "accuracy":
            return claim | judge_accuracy(claim, evaluations, answers)
        if claim["kind"] == "kept":
            roles = {"better": claim["new"], "worse": claim["old"]}
            return claim | judge_accuracy(claim | roles, evaluations, answers, least=-claim["margin"])
        if claim["kind"] == "margin":
            return claim | judge_margin(claim, evaluations, answers)
        return claim | judge_perplexity(claim, runs)
    except ValueError as error:
        raise BadInput(
            f"claim '{claim['name']}': {error}. Next: run both models again on the same rows and blocks"
        ) from error


def judge_accuracy(claim: dict, evaluations: dict, answers: dict, least: float = 0.0) -> dict:
    differences, draws, parts, sizes = [], [], [], []
    for number, task in enumerate(claim["tasks"]):
        pair = [_answers(answers, evaluations, claim[role], task) for role in ("better", "worse")]
        metric = metrics.primary(pair[0]) if claim["metric"] == "primary" else claim["metric"]
        known = metrics.names(pair[0])
        if metric not in known:
            raise BadInput(
                f"claim '{claim['name']}': {task} has no metric '{metric}' (it has {', '.join(known)})"
            )
        difference, values = metrics.paired_difference(*pair, metric, seed=number)
        differences.append(difference)
        sizes.append(len(pair[0]))
        draws.append(values)
        parts.append(f"{task} {metric} {difference:+.3f} ({len(pair[0])} rows)")
    estimate = float(np.mean(differences))
    low, high = metrics.interval(np.mean(draws, axis=0))
    low, high = difference_with_width(estimate, low, high, min(sizes))
    numbers = format_interval(estimate, low, high, signed=True)
    return {
        "estimate": estimate,
        "low": low,
        "high": high,
        "reference": least,
        "verdict": "shown" if low > least else "contradicted" if high < least else "not shown",
        "numbers": f"{claim['better']} minus {claim['worse']}: {numbers}"
        + (f", margin {-least:g}" if least else ""),
        "detail": "; ".join(parts),
    }


def judge_margin(claim: dict, evaluations: dict, answers: dict) -> dict:
    """By how many nats the right answer is likelier than the likeliest wrong one: mean paired difference."""
    found = {}
    for role in ("better", "worse"):
        for task in claim["tasks"]:
            for row in _answers(answers, evaluations, claim[role], task):
                if row.get("margin") is None:
                    raise BadInput(
                        f"claim '{claim['name']}': {task} has no log-likelihoods of its answers. Next: a "
                        "task ending in _ll"
                    )
                found.setdefault((task, row["id"]), {})[role] = row["margin"]
    pairs = [pair for pair in found.values() if len(pair) == 2]
    differences = np.array([pair["better"] - pair["worse"] for pair in pairs])
    sampled = np.random.default_rng(0).integers(len(differences), size=(metrics.DRAWS, len(differences)))
    low, high = metrics.interval(differences[sampled].mean(1))
    estimate = float(differences.mean())
    return {
        "estimate": estimate,
        "low": low,
        "high": high,
        "reference": 0.0,
        "verdict": "shown" if low > 0 else "contradicted" if high < 0 else "not shown",
        "numbers": f"{claim['better']} minus {claim['worse']}, nats: "
        + format_interval(estimate, low, high, signed=True),
        "detail": f"{', '.join(claim['tasks'])}, {len(pairs)} rows",
    }


def _answers(answers: dict, evaluations: dict, name: str, task: str) -> list[dict]:
    if (name, task) in answers:
        return answers[name, task]
    evaluation = evaluations[name]
    if task in evaluation["left_out"]:
        own = evaluation["task"]
        raise BadInput(
            f"{evaluation['folder']}: was fine-tuned on {own}, and {task} is another task. Next: a claim "
            f"about {own}"
        )
    raise BadInput(
        f"{evaluation['folder']}: no scores of {task}. Next: {evaluation['command']} --tasks {task}, "
        f"then python -m evaluation.score {evaluation['folder']}"
    )


def judge_perplexity(claim: dict, runs: dict) -> dict:
    new, old = (runs[claim[role]] for role in ("new", "old"))
    for role, run in (("new", new), ("old", old)):
        if claim["domain"] not in run["validation"]:
            where = Path(run["folder"] or claim[role], "validation.json")
            raise BadInput(
                f"{where}: no losses on domain '{claim['domain']}'. Next: train {claim[role]} on blocks with "
                "a validation_share of it"
            )
    if not curves.same_blocks(new["folder"], old["folder"], claim["domain"]):
        raise ValueError("the two models were not validated on the same blocks, or the blocks have changed")
    pair = [run["validation"][claim["domain"]] for run in (new, old)]
    estimate, draws = metrics.ratio_of_perplexities(*pair)
    low, high = metrics.interval(draws)
    margin, ratio = claim["margin"], format_interval(estimate, low, high)
    tokens = f"{len(pair[0]['tokens'])} blocks, {sum(pair[0]['tokens']):,} predicted tokens"
    return {
        "estimate": estimate,
        "low": low,
        "high": high,
        "reference": margin,
        "verdict": "shown" if high <= margin else "contradicted" if low > margin else "not shown",
        "numbers": f"perplexity of {claim['new']} over {claim['old']}: {ratio}, margin {margin:.2f}",
        "detail": f"domain {claim['domain']}, {tokens}",
    }
