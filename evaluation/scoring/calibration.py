"""How far the confidence of a likelihood task can be trusted, from the log-likelihoods of each row's answers.

The probability of an answer is the softmax over the row's answers of their summed log-likelihoods (nats), so
the likeliest answer is the one that `accuracy` scores, and the confidence is its probability.

ECE              expected calibration error, 10 bins of equal width, in [0, 1] (Guo et al. 2017)
Brier            squared error over all answers of a row, in [0, 2], mean over rows (Brier 1950)
AURC             area under the risk-coverage curve: the error among the rows kept, averaged over all numbers
                 of rows kept, the most confident first (Geifman and El-Yaniv 2017). Rows of equal confidence
                 count with their mean error: their order is nothing that the model says
coverage_at      {largest error allowed: the largest share of rows that may be answered, the others abstained
                 from}. The threshold is chosen on the same rows, so on other rows the error may be larger
ties             rows in which the likeliest answer has an equal; the first of them is what was scored

Rows that were not asked (over-long) have no likelihoods: they are left out and counted.
"""

import re

import numpy as np

from evaluation.scoring import metrics

BINS = 10
RISKS = (0.05, 0.1, 0.2)


def probabilities(nats) -> np.ndarray:
    """The softmax of the log-likelihoods of a row's answers."""
    weights = np.exp(np.asarray(nats, dtype=float) - max(nats))
    return weights / weights.sum()


def ece(confidence: np.ndarray, right: np.ndarray) -> float:
    """Of [rows] confidences and [rows] 0 or 1; a confidence on the edge of two bins is in the lower one."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, right, BINS) - np.bincount(bins, confidence, BINS)
    return float(np.abs(gaps).sum() / len(right))


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(risks, ends): the error among the 1, 2, ... most confident rows, and whether a number of rows ends
    where the confidence changes, so that a threshold can keep exactly these."""
    order = np.argsort(-confidence, kind="stable")
    values, wrong = confidence[order], 1.0 - right[order]
    _, group, size = np.unique(-values, return_inverse=True, return_counts=True)
    mean_wrong = (np.bincount(group, wrong) / size)[group]
    kept = np.arange(1, len(wrong) + 1)
    return np.cumsum(mean_wrong) / kept, np.append(values[1:] != values[:-1], True)


def of_rows(rows: list[dict]) -> dict | None:
    """What scores.json says of graded rows of one likelihood task; None for other tasks, or if no row was
    asked."""
    asked = [row for row in rows if isinstance(row["output"], list) and len(row["output"]) > 1]
    if not asked:
        return None
    nats = [[pair[0] for pair in row["output"]] for row in asked]
    spread = [probabilities(of_row) for of_row in nats]
    right = np.array([row["score"]["accuracy"] for row in asked])
    confidence = np.array([p.max() for p in spread])
    brier = np.array(
        [
            [((p - [choice == row["completion"] for choice in row["choices"]]) ** 2).sum()]
            for p, row in zip(spread, asked, strict=True)
        ]
    )
    mean, draws = float(brier.mean()), metrics.draws(brier, lambda total, n: total[..., 0] / n)
    low, high = metrics.interval(draws)
    risks, ends = risk_coverage(confidence, right)
    kept = np.arange(1, len(asked) + 1)
    allowed = {str(risk): kept[ends & (risks <= risk + 1e-12)] for risk in RISKS}
    return {
        "n": len(asked),
        "left_out": len(rows) - len(asked),
        "ece": ece(confidence, right),
        "brier": {"value": mean, "low": low, "high": high},
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "aurc": float(risks.mean()),
        "coverage_at": {risk: float(k.max() / len(asked)) if len(k) else 0.0 for risk, k in allowed.items()},
        "ties": sum(sorted(of_row)[-1] == sorted(of_row)[-2] for of_row in nats),
    }


ABSTAINS = re.compile(r"(?i)\bi (?:do not|don.?t) know\b|\bcannot (?:answer|be answered)\b")


def abstention(rows: list[dict]) -> dict | None:
    """How often graded rows of one task choose an option that says that one cannot know (MetaMedQA), how
    often that is the right one, and the accuracy on the others; None where no row has such an option."""
    offered = {
        row["id"]: {
            c for c, text in zip(row["choices"], row["options"], strict=True) if ABSTAINS.search(text)
        }
        for row in rows
        if row.get("options")
    }
    if not any(offered.values()):
        return None
    chosen = [row for row in rows if row["parsed"] in offered.get(row["id"], ())]
    others = [row for row in rows if row["parsed"] not in offered.get(row["id"], ())]
    right = [row["score"]["accuracy"] for row in others]
    return {
        "offered": sum(map(bool, offered.values())),
        "right_to_abstain": sum(row["completion"] in offered.get(row["id"], ()) for row in rows),
        "abstained": len(chosen),
        "rightly": sum(row["score"]["accuracy"] == 1 for row in chosen),
        "accuracy_of_the_others": float(np.mean(right)) if right else None,
    }


HEAD = (
    "task",
    "model",
    "rows",
    "accuracy",
    "confidence",
    "ECE",
    "Brier (95 % interval)",
    "detectable",
    "AURC",
    "answerable",
)
ABOUT = (
    "Of the likelihood tasks: probabilities are a softmax over the answers of a row. ECE: 10 bins; Brier: "
    "0 to 2; AURC: the error averaged over all coverages. Answerable: the share of rows that can be answered "
    "with at most 5, 10, 20 % of errors if the model abstains on the others, with the threshold chosen on "
    "these rows. ties: rows in which the likeliest answer has an equal."
)


def table_row(task: str, model: str, entry: dict) -> tuple:
    """The cells of HEAD."""
    brier, rows = entry["brier"], f"{entry['n']:,}" + (f", {entry['ties']} ties" if entry["ties"] else "")
    return (
        task,
        model,
        rows,
        *(f"{entry[name]:.3f}" for name in ("accuracy", "confidence", "ece")),
        f"{brier['value']:.3f} ({brier['low']:.3f} to {brier['high']:.3f})",
        f"{metrics.smallest_difference(brier['low'], brier['high']):.3f}",
        f"{entry['aurc']:.3f}",
        ", ".join(f"{share:.0%}" for share in entry["coverage_at"].values()),
    )
