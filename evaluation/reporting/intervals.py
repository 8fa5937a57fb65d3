"""Intervals where the bootstrap has no spread: all rows right, all wrong, or two models that differ on no
row.

A percentile interval then has no width, as if 20 rows were certain. In its place: Wilson's score interval of
a proportion of n rows (Wilson 1927), and for a difference that of a discordant share of 0 among n.
"""

from evaluation.diagnosis.statistics import wilson


def with_width(cell: dict, n: int) -> dict:
    """`cell` with {"value", "low", "high"}, in [0, 1], on `n` rows."""
    if cell["low"] is None or cell["low"] < cell["high"]:
        return cell
    low, high = wilson(min(1.0, max(0.0, cell["value"])) * n, n)
    return cell | {"low": low, "high": high}


def difference_with_width(difference: float, low: float, high: float, n: int) -> tuple[float, float]:
    """(low, high) of a paired difference of scores in [0, 1] on `n` rows."""
    if difference is None or low is None or low < high or low != low:
        return low, high
    beyond = wilson(0, n)[1]
    return max(-1.0, difference - beyond), min(1.0, difference + beyond)
