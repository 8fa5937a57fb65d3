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


def smallest_difference(low: float | None, high: float | None, paired: bool = False) -> float | None:
    """The smallest true difference that a test at 5 % finds with a power of 80 %: 1.96 + 0.84 standard errors
    (minimum detectable effect, Bloom 1995). The standard error is that of the interval; the difference of
    two such scores, taken as independent, has sqrt(2) times it. A paired comparison on the same rows
    finds smaller ones."""
    if low is None:
        return None
    return (1.959964 + 0.841621) * (1 if paired else 2**0.5) * (high - low) / (2 * 1.959964)
