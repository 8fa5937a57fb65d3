"""Calibration, against values computed by hand."""

import math

import numpy as np
import pytest

from evaluation.scoring import calibration, metrics


def row(number, probabilities, gold="A"):
    letters = list("ABCD")[: len(probabilities)]
    graded = {"id": str(number), "scoring": "choice", "choices": letters, "completion": gold}
    graded["output"] = [[math.log(p) - 7, 1] for p in probabilities]
    return graded | metrics.grade(graded)


def test_by_hand():
    rows = [row(0, [0.95, 0.05]), row(1, [0.85, 0.15], "B"), row(2, [0.65, 0.35]), row(3, [0.25, 0.75])]
    found = calibration.of_rows(rows)
    # bins: 0.95 right, 0.85 wrong, 0.65 right, 0.75 wrong, each alone in its bin
    assert found["ece"] == pytest.approx((0.05 + 0.85 + 0.35 + 0.75) / 4)
    assert found["brier"]["value"] == pytest.approx(2 * (0.0025 + 0.7225 + 0.1225 + 0.5625) / 4)
    assert found["brier"]["low"] <= found["brier"]["value"] <= found["brier"]["high"]
    # errors among the first 1, 2, 3, 4: 0, 1/2, 2/3, 2/4
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 2 / 3 + 1 / 2) / 4)
    assert found["coverage_at"] == {"0.05": 0.25, "0.1": 0.25, "0.2": 0.25}
    assert (found["accuracy"], found["ties"], found["left_out"]) == (0.5, 0, 0)
    assert found["confidence"] == pytest.approx(0.8)


def test_two_rows_of_one_bin_are_averaged_before_the_gap():
    # 0.62 right and 0.66 wrong: |1 - 1.28| / 2
    assert calibration.ece(np.array([0.62, 0.66]), np.array([1.0, 0.0])) == pytest.approx(0.14)
    assert calibration.ece(np.array([0.6, 0.66]), np.array([1.0, 0.0])) == pytest.approx((0.4 + 0.66) / 2)


def test_equal_confidences_have_no_order_and_ties_are_counted():
    rows = [row(0, [0.5, 0.5]), row(1, [0.5, 0.5], "B"), {**row(2, [0.9, 0.1]), "output": []}]
    found = calibration.of_rows(rows)
    assert (found["n"], found["left_out"], found["ties"]) == (2, 1, 2)
    assert found["aurc"] == 0.5 == calibration.of_rows(rows[::-1])["aurc"]
    assert found["coverage_at"]["0.2"] == 0.0  # no threshold keeps one of the two
    assert calibration.of_rows(rows[2:]) is None
    assert calibration.of_rows([row(0, [0.9, 0.1]) | {"output": "A"}]) is None


def test_smallest_difference():
    # accuracy 0.5 on 100 rows: standard error 0.05, so (1.96 + 0.8416) * sqrt(2) * 0.05
    assert metrics.smallest_difference(0.5 - 1.959964 * 0.05, 0.5 + 1.959964 * 0.05) == pytest.approx(
        0.1981, abs=1e-4
    )
    assert metrics.smallest_difference(-1.959964, 1.959964, paired=True) == pytest.approx(2.8016, abs=1e-4)
    assert metrics.smallest_difference(None, None) is None
