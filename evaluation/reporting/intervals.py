"""Intervals where the bootstrap has no spread, as cells of the report (the rule: metrics.with_width); and the
smallest difference that the rows of a table can show (metrics.smallest_difference)."""

from evaluation.reporting.formats import format_interval
from evaluation.scoring import metrics

DETECTABLE = """detectable: the smallest difference of two such scores that a test at 5 % finds with a power
of 80 %; beside a difference, that of its own rows.""".replace("\n", " ")


def smallest(cells: list[dict | None]) -> float | None:
    """The smallest difference that can be shown between any two of the cells of a line."""
    found = [metrics.smallest_difference(cell["low"], cell["high"]) for cell in cells if cell]
    return max((value for value in found if value is not None), default=None)


def detectable(cell: dict | None, paired: bool = False) -> str:
    """The cell of a column `detectable`. `paired`: the interval is that of a difference on the same rows."""
    return format_interval(metrics.smallest_difference(cell["low"], cell["high"], paired) if cell else None)


def can_show(intervals, of: str = "difference") -> str:
    """A sentence for a figure or table without such a column. `intervals`: (low, high) of paired
    comparisons."""
    found = sorted(metrics.smallest_difference(*ends, paired=True) for ends in intervals if None not in ends)
    if not found:
        return ""
    to = f" to {found[-1]:.3f}" if found[-1] - found[0] >= 0.001 else ""
    return f"Smallest {of} that these rows can show (5 %, power of 80 %): {found[0]:.3f}{to}."


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
