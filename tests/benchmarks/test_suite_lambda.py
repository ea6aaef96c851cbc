"""What the suite says about lambda: the transfer matrix, and the good range around the default."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from suite_lambda import SLICES, carried, good_range


def test_the_best_is_chosen_on_half_of_the_seeds_and_compared_on_the_others() -> None:
    # Setting 0 looks best on a's even seeds and is the worst on its odd ones; on b setting 1 is the best on all.
    scores = {"a": [[0.9, 0.1], [0.5, 0.6]], "b": [[0.2, 0.3], [0.8, 0.7]]}
    found = carried(scores)
    assert found["a"]["a"] == found["b"]["b"] == 0.0
    assert found["a"]["b"] == pytest.approx(0.7 - 0.3)
    assert found["b"]["a"] == pytest.approx(0.1 - 0.6)  # luck of the choice shows as a negative loss


def test_a_diverged_setting_is_never_the_best() -> None:
    found = carried({"a": [[float("nan"), float("nan")], [0.1, 0.2]], "b": [[0.4, 0.4], [0.3, 0.3]]})
    assert found["a"]["b"] == pytest.approx(0.1)
    assert found["b"]["a"] == pytest.approx(0.2)


def test_the_good_range_ends_where_a_value_is_shown_to_be_worse() -> None:
    high = {0: -0.1, 0.01: 0.1, 0.03: 0.1, 0.1: 0.1, 0.3: 0.1, 1: -0.01, 3: 0.2, 10: 0.2}
    moved = {
        f"lambda_cross = {value:g}": {"difference": {"mean": 0.0, "ci95": [-1.0, high[value]]}}
        for value in SLICES["lambda_cross"]
    }
    assert good_range("lambda_cross", {"moved": moved}) == (0.01, 0.3)  # 3 and 10 lie behind a bad value
