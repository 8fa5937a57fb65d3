"""Intervals where the bootstrap has no spread, as cells of the report (the rule: metrics.with_width)."""

from evaluation.scoring import metrics


def with_width(cell: dict, n: int) -> dict:
    """`cell` with {"value", "low", "high"}, in [0, 1], on `n` rows."""
    if cell["low"] is None:
        return cell
    low, high = metrics.with_width(cell["value"], cell["low"], cell["high"], n)
    return cell | {"low": low, "high": high}


def difference_with_width(difference: float, low: float, high: float, n: int) -> tuple[float, float]:
    """(low, high) of a paired difference of scores in [0, 1] on `n` rows."""
    if difference is None or low is None:
        return low, high
    return metrics.with_width(difference, low, high, n, difference=True)
