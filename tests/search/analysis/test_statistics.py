"""How sure: intervals of paired differences, held against Student's and by counting; settings that cannot be told apart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from search.analysis.scores import tail_mean
from search.analysis.statistics import Difference, paired_difference, tied_by_score, tied_with_best
from search.space.model import Robust

values = st.integers(-6400, 6400).map(lambda i: i / 64)  # sums of these are exact: ties stay ties
pairs = st.lists(st.tuples(values, values), min_size=2, max_size=20)


def close(expected: float) -> float:
    return pytest.approx(expected, rel=1e-6, abs=1e-6)


def unzip(items: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in items], [b for _, b in items]


@given(items=pairs.filter(lambda items: len(items) < 8))
def test_with_few_seeds_the_interval_is_students(items: list[tuple[float, float]]) -> None:
    a, b = unzip(items)
    assume(np.std(np.subtract(a, b)) > 1e-6)  # scipy's test warns where there is no spread
    found, expected = paired_difference(a, b), stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found == Difference(close(np.mean(np.subtract(a, b))), close(expected.low), close(expected.high), len(a))


@settings(max_examples=30)
@given(items=pairs, shift=values)
def test_only_differences_matter(items: list[tuple[float, float]], shift: float) -> None:
    a, b = unzip(items)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.low <= there.mean <= there.high
    assert (back.mean, back.low, back.high) == (close(-there.mean), close(-there.high), close(-there.low))
    moved = paired_difference([value + shift for value in a], [value + shift for value in b])
    assert (moved.mean, moved.low, moved.high) == (close(there.mean), close(there.low), close(there.high))


@given(base=st.lists(st.integers(-100, 100), min_size=2, max_size=20), gain=st.integers(-100, 100))
def test_the_same_gain_on_every_seed_is_certain(base: list[int], gain: int) -> None:
    assert paired_difference([value + gain for value in base], base) == Difference(gain, gain, gain, len(base))


def test_pairing_removes_what_seeds_have_in_common() -> None:
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 1, 10)
    found = paired_difference((luck + 0.1 + rng.normal(0, 0.01, 10)).tolist(), luck.tolist())
    assert 0.08 < found.low < 0.1 < found.high < 0.12


def test_difference_as_json() -> None:
    content = paired_difference([1, 2, 6], [0, 1, 2]).as_json()
    assert json.loads(json.dumps(content)) == content
    assert content == {"mean": 2, "ci95": [pytest.approx(-2.302653), pytest.approx(6.302653)], "n": 3}


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0])])
def test_what_cannot_be_paired_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=f"at least 2, but got {len(a)} and {len(b)}"):
        paired_difference(a, b)


@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_the_intervals_of_ten_seeds_cover_the_truth_95_times_in_100(kind: str) -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(1000):
        apart = rng.normal(0.3, 1, 10)
        # Accuracies come in steps of one validation item: many differences are equal.
        apart = np.round(apart * 2 - 0.6) / 2 + 0.3 if kind == "ties" else apart
        found = paired_difference(apart.tolist(), [0.0] * 10)
        covered += found.low <= 0.3 <= found.high
    print(f"covered: {covered} of 1,000")
    assert 930 <= covered <= 970


def test_the_same_input_gives_the_same_interval() -> None:
    a = np.random.default_rng(3).normal(size=12).tolist()
    assert paired_difference(a, [0.0] * 12) == paired_difference(a, [0.0] * 12)


def test_a_single_seed_that_differs_is_no_certainty() -> None:
    found = paired_difference([0.0] * 9 + [1.0], [0.0] * 10)  # most resamples have no spread
    assert found.low < 0 < found.mean < found.high < 1


def test_the_best_is_among_those_that_cannot_be_told_from_it() -> None:
    rng, kept, alone = np.random.default_rng(0), 0, 0
    for _ in range(200):
        luck = rng.normal(0, 1, 10)
        true = {"a": 0.0, "b": 0.0, "c": -0.1, "d": -5.0}
        tied = tied_with_best({k: (luck + m + rng.normal(0, 0.1, 10)).tolist() for k, m in true.items()})
        assert "d" not in tied
        kept += {"a", "b"} <= tied
        alone += "c" in tied
    assert kept >= 180  # equals are told apart in fewer than 1 of 20 (10 with the luck of 200)
    assert alone < 150  # one that is worse by two standard errors of a difference mostly is


def test_by_the_lowest_values_other_settings_are_tied_than_by_the_mean() -> None:
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.01, (2, 10))

    def tail(shares: np.ndarray) -> np.ndarray:
        return tail_mean(shares, Robust(rule="cvar", fraction=0.25))

    steady, equal = (0.88 + luck + rng.normal(0, 0.003, (2, 10)) for _ in range(2))
    torn = 0.92 + luck + rng.normal(0, 0.12, (2, 10))
    cast = {"steady": steady.tolist(), "equal": equal.tolist(), "torn": torn.tolist()}
    assert tied_by_score(cast, tail) == {"steady", "equal"}
    assert tied_by_score(cast, lambda shares: shares.mean(1)) >= {"torn"}
    assert tied_by_score({"a": [[math.nan, 1.0]], "b": [[0.5, 0.6]]}, tail) == {"b"}
    assert tied_by_score({"a": [[math.nan]]}, tail) == set()


def test_what_has_no_score_cannot_be_tied() -> None:
    assert tied_with_best({"a": [1.0, 1.0], "b": [float("nan"), 1.0]}) == {"a"}
    assert tied_with_best({"a": [float("nan")]}) == set()
    assert tied_with_best({"a": [1.0], "b": [2.0]}) == {"a", "b"}  # one seed tells nothing
    assert tied_with_best({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0], "c": [0.5, 1.5, 2.5]}) == {"a", "b"}


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10])
def test_few_seeds_neither_part_equals_nor_tie_what_is_far_behind(seeds: int) -> None:
    rng, parted, far = np.random.default_rng(0), 0, 0
    for _ in range(150):
        luck = rng.normal(0.9, 0.01, seeds)
        values = {key: (luck + rng.normal(0, 0.01, seeds)).tolist() for key in "abcd"}
        parted += "a" not in tied_with_best(values)
        values["far"] = (luck - 0.1 + rng.normal(0, 0.01, seeds)).tolist()  # by seven standard deviations
        far += "far" in tied_with_best(values)
    assert parted <= 0.08 * 150
    if seeds > 2:  # two tell next to nothing
        assert far <= 0.02 * 150


def test_rounding_ties_nothing() -> None:
    """Differences that are equal but for the last bits: most resamples of seeds have no spread of their own."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        a = rng.integers(100, 200, 10) / 300
        behind = np.full(10, 5 / 300)
        behind[-1] = 4 / 300
        assert tied_with_best({"a": a.tolist(), "b": (a - behind).tolist()}) == {"a"}
