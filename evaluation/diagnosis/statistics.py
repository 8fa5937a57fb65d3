"""Top-k accuracy of judged differentials, tests between models, and how far a judge agrees with clinicians.
Pure functions over verdicts.

An outcome is True, False or None: a case counts for a k only if each of its first k predictions has a
verdict. Else what is missing would take cases without a hit out, and leave those with one in. With 70 cases a
95 % interval is some 11 points to each side. All intervals but Wilson's are percentile bootstraps over cases
(metrics.draws).
"""

import numpy as np

from evaluation.scoring import metrics
from evaluation.scoring.metrics import wilson

K = (1, 2, 3, 4, 5)


def outcomes(verdicts: list[bool | None] | None) -> dict[int, bool | None]:
    """{k: whether one of the first k predictions of a case is right}. None: no differential could be read,
    which is wrong for every k."""
    found, hit, missing = {}, False, False
    for k in K:
        if verdicts and k <= len(verdicts):
            hit, missing = hit or verdicts[k - 1] is True, missing or verdicts[k - 1] is None
        found[k] = None if missing else hit
    return found


def top_k(cases: list[dict], k: int) -> dict:
    """Accuracy of outcomes with both intervals; `least` and `most` are what it would be if all missing cases
    were wrong, or right."""
    known = [case[k] for case in cases if case[k] is not None]
    right, n, missing = sum(known), len(known), len(cases) - len(known)
    facts = {
        "n": n,
        "right": right,
        "missing": missing,
        "least": right / len(cases),
        "most": (right + missing) / len(cases),
    }
    if not known:
        return facts | dict.fromkeys(("value", "low", "high", "wilson_low", "wilson_high"))
    drawn = metrics.draws(np.array(known, dtype=float)[:, None], lambda total, n: total[..., 0] / n)
    low, high = metrics.with_width(right / n, *metrics.interval(drawn), n)
    return facts | {
        "value": right / n,
        "low": low,
        "high": high,
        **dict(zip(("wilson_low", "wilson_high"), wilson(right, n), strict=True)),
    }


def compare(first: list[dict], second: list[dict], k: int) -> dict:
    """Two models on the same cases: difference of their accuracies with its paired interval, and McNemar's
    exact test."""
    pairs = [
        (a[k], b[k]) for a, b in zip(first, second, strict=True) if a[k] is not None and b[k] is not None
    ]
    facts = {
        "n": len(pairs),
        "only_first": sum(a and not b for a, b in pairs),
        "only_second": sum(b and not a for a, b in pairs),
    }
    if not pairs:
        return facts | dict.fromkeys(("difference", "low", "high", "p"))
    counts = np.array(pairs, dtype=float)
    difference = float(np.diff(counts.mean(0)[::-1])[0])
    drawn = metrics.draws(counts, lambda total, n: (total[..., 0] - total[..., 1]) / n)
    low, high = metrics.with_width(difference, *metrics.interval(drawn), len(pairs), difference=True)
    return facts | {
        "difference": difference,
        "low": low,
        "high": high,
        "p": metrics.mcnemar(*zip(*pairs, strict=True)),
    }


# ---------------------------------------------------------------- agreement
RIGHT, OVER, UNDER, WRONG = range(4)  # judge and human yes; only the judge; only the human; neither


def confusion(pairs: list[tuple[bool, bool]]) -> list[int]:
    return [
        sum((judge, human) == cell for judge, human in pairs)
        for cell in ((True, True), (True, False), (False, True), (False, False))
    ]


def kappa(total, n=None):
    """Cohen's kappa of counts [..., 4]; NaN where only one answer was ever given."""
    total = np.asarray(total, dtype=float)
    size, agree = total.sum(-1), total[..., RIGHT] + total[..., WRONG]
    judge, human = total[..., RIGHT] + total[..., OVER], total[..., RIGHT] + total[..., UNDER]
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = (judge * human + (size - judge) * (size - human)) / size**2
        return np.where(chance < 1, (agree / size - chance) / (1 - chance), np.nan)


def sensitivity(total, n=None):
    with np.errstate(invalid="ignore", divide="ignore"):
        return total[..., RIGHT] / (total[..., RIGHT] + total[..., UNDER])


def specificity(total, n=None):
    with np.errstate(invalid="ignore", divide="ignore"):
        return total[..., WRONG] / (total[..., WRONG] + total[..., OVER])


def macro_f1(total, n=None):
    """The mean of the F1 of yes and of no; NaN where one of them was never said by either."""
    total = np.asarray(total, dtype=float)
    wrong = total[..., OVER] + total[..., UNDER]
    with np.errstate(invalid="ignore"):
        return sum(2 * total[..., cell] / (2 * total[..., cell] + wrong) for cell in (RIGHT, WRONG)) / 2


def macro_f1_of(by_case: dict[str, list[tuple[bool, bool]]]) -> dict:
    """{"value", "low", "high", "pairs"} of macro_f1, whole cases drawn."""
    counts = np.array([confusion(pairs) for pairs in by_case.values() if pairs], dtype=float).reshape(-1, 4)
    return estimate(counts, macro_f1) | {"pairs": int(counts.sum())}


def agreement(by_case: dict[str, list[tuple[bool, bool]]]) -> dict:
    """Of (judge, human) verdicts on predictions, by case: kappa, sensitivity and specificity. Verdicts on one
    case are not independent: whole cases are drawn."""
    counts = np.array([confusion(pairs) for pairs in by_case.values() if pairs], dtype=float).reshape(-1, 4)
    facts = {
        "cases": len(counts),
        "pairs": int(counts.sum()),
        "confusion": counts.sum(0).astype(int).tolist(),
    }
    for name, measure in (("kappa", kappa), ("sensitivity", sensitivity), ("specificity", specificity)):
        facts[name] = estimate(counts, measure)
    return facts


def changed(by_case: dict[str, list[tuple[bool, bool]]]) -> dict:
    """{"pairs", "changed", "value", "low", "high"}: the share of verdicts that are another the second time,
    whole cases drawn."""
    counts = np.array([confusion(pairs) for pairs in by_case.values() if pairs], dtype=float).reshape(-1, 4)
    n, other = int(counts.sum()), int(counts[:, [OVER, UNDER]].sum())

    def share(total, cases):
        return (total[..., OVER] + total[..., UNDER]) / total.sum(-1)

    facts = {"pairs": n, "changed": other, **estimate(counts, share)}
    if n:
        facts["low"], facts["high"] = metrics.with_width(facts["value"], facts["low"], facts["high"], n)
    return facts


def corrected(judged: dict[str, bool], rated: dict[str, list[tuple[bool, bool]]]) -> dict:
    """Top-k accuracy as the clinicians would have found it (Rogan and Gladen 1978): the judge's share of
    right cases, corrected by its sensitivity and specificity over whole cases. Both of one model: `judged`
    {case: outcome of the judge}, `rated` {case: [(judge, human) outcomes]} of the cases that clinicians rated
    too, drawn at random. A judge errs otherwise on another model, so its rates are not borrowed from
    there."""
    names = list(dict.fromkeys([*judged, *rated]))
    counts = np.array(
        [[judged.get(name, False), name in judged, *confusion(rated.get(name, []))] for name in names],
        dtype=float,
    ).reshape(-1, 6)

    def finish(total, n):
        with np.errstate(invalid="ignore", divide="ignore"):
            share, sure, wrong = (
                total[..., 0] / total[..., 1],
                sensitivity(total[..., 2:]),
                specificity(total[..., 2:]),
            )
            return np.where(sure + wrong > 1, np.clip((share + wrong - 1) / (sure + wrong - 1), 0, 1), np.nan)

    return estimate(counts, finish)


def estimate(counts: np.ndarray, finish) -> dict:
    """{"value", "low", "high"}; None where it is not defined on these counts."""
    if not len(counts):
        return dict.fromkeys(("value", "low", "high"))
    return metrics.estimate(float(finish(counts.sum(0), len(counts))), metrics.draws(counts, finish))
