"""Replicas become one score, and paired seeds an interval: held against numpy and scipy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import StatisticsError

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from search.robust import Difference, paired_difference, per_seed_means, robust_score

values = st.floats(-100, 100)
several = st.lists(values, min_size=1, max_size=20)
weights = st.floats(0, 5)
pairs = st.lists(st.tuples(values, values), min_size=2, max_size=20)


def close(expected: float) -> float:
    return pytest.approx(expected, rel=1e-9, abs=1e-9)


def unzip(items: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in items], [b for _, b in items]


@given(per_seed=several, k=weights)
def test_score_is_numpys(per_seed: list[float], k: float) -> None:
    score, mean, std = robust_score(per_seed, k)
    assert mean == close(np.mean(per_seed))
    assert std == close(np.std(per_seed, ddof=1) if len(per_seed) > 1 else 0)
    assert score == close(mean - k * std)


@given(per_seed=several, k=weights, shift=values, data=st.data())
def test_score_does_not_depend_on_order_and_moves_with_its_values(
    per_seed: list[float], k: float, shift: float, data: st.DataObject
) -> None:
    score, mean, std = robust_score(per_seed, k)
    assert robust_score(data.draw(st.permutations(per_seed)), k) == (score, mean, std)
    moved = robust_score([value + shift for value in per_seed], k)
    assert moved == (close(score + shift), close(mean + shift), close(std))


@given(per_seed=several, k=weights, more=weights)
def test_spread_costs_and_never_pays(per_seed: list[float], k: float, more: float) -> None:
    assert robust_score(per_seed, k + more)[0] <= robust_score(per_seed, k)[0] <= robust_score(per_seed, 0)[0]


@given(value=values, count=st.integers(1, 20), k=weights)
def test_without_spread_the_score_is_the_value(value: float, count: int, k: float) -> None:
    assert robust_score([value] * count, k) == (close(value), close(value), 0)


def test_a_score_needs_a_seed() -> None:
    with pytest.raises(StatisticsError):
        robust_score([], 1)


def test_replicas_are_task_major() -> None:
    first, second = [1.0, 2.0, 3.0], [10.0, 20.0, 60.0]
    assert per_seed_means([*first, *second], 2) == [5.5, 11, 31.5]
    assert per_seed_means(first, 1) == first
    assert per_seed_means(first, 3) == [2]


@given(tasks=st.integers(1, 5), seeds=st.integers(1, 6), data=st.data())
def test_means_over_tasks_are_numpys(tasks: int, seeds: int, data: st.DataObject) -> None:
    replicas = data.draw(st.lists(values, min_size=tasks * seeds, max_size=tasks * seeds))
    assert per_seed_means(replicas, tasks) == close(np.reshape(replicas, (tasks, seeds)).mean(0).tolist())


@given(items=pairs)
def test_interval_is_scipys(items: list[tuple[float, float]]) -> None:
    a, b = unzip(items)
    assume(np.std(np.subtract(a, b)) > 1e-6)  # scipy's test warns where there is no spread
    found, expected = paired_difference(a, b), stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found == Difference(close(np.mean(np.subtract(a, b))), close(expected.low), close(expected.high), len(a))


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
