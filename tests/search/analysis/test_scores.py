"""Replicas become one score: held against numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import StatisticsError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.analysis.scores import level, per_seed_means, per_task, robust_score
from search.space.model import Robust

values = st.floats(-100, 100)
several = st.lists(values, min_size=1, max_size=20)
weights = st.floats(0, 5)


def close(expected: float) -> float:
    return pytest.approx(expected, rel=1e-9, abs=1e-9)


def score_of(per_seed: Sequence[float], k: float) -> tuple[float, float, float]:
    return robust_score(per_seed, 1, Robust(k=k))


@given(per_seed=several, k=weights)
def test_score_is_numpys(per_seed: list[float], k: float) -> None:
    score, mean, std = score_of(per_seed, k)
    assert mean == close(np.mean(per_seed))
    assert std == close(np.std(per_seed, ddof=1) if len(per_seed) > 1 else 0)
    assert score == close(mean - k * std)


@given(per_seed=several, k=weights, shift=values, data=st.data())
def test_score_does_not_depend_on_order_and_moves_with_its_values(
    per_seed: list[float], k: float, shift: float, data: st.DataObject
) -> None:
    score, mean, std = score_of(per_seed, k)
    assert score_of(data.draw(st.permutations(per_seed)), k) == (score, mean, std)
    moved = score_of([value + shift for value in per_seed], k)
    assert moved == (close(score + shift), close(mean + shift), close(std))


@given(per_seed=several, k=weights, more=weights)
def test_spread_costs_and_never_pays(per_seed: list[float], k: float, more: float) -> None:
    assert score_of(per_seed, k + more)[0] <= score_of(per_seed, k)[0] <= score_of(per_seed, 0)[0]


@given(value=values, count=st.integers(1, 20), k=weights)
def test_without_spread_the_score_is_the_value(value: float, count: int, k: float) -> None:
    assert score_of([value] * count, k) == (close(value), close(value), 0)


def test_a_score_needs_a_seed() -> None:
    with pytest.raises(StatisticsError):
        score_of([], 1)


def test_replicas_are_task_major() -> None:
    first, second = [1.0, 2.0, 3.0], [10.0, 20.0, 60.0]
    assert per_seed_means([*first, *second], 2) == [5.5, 11, 31.5]
    assert per_seed_means(first, 1) == first
    assert per_seed_means(first, 3) == [2]


@given(tasks=st.integers(1, 5), seeds=st.integers(1, 6), data=st.data())
def test_means_over_tasks_are_numpys(tasks: int, seeds: int, data: st.DataObject) -> None:
    replicas = data.draw(st.lists(values, min_size=tasks * seeds, max_size=tasks * seeds))
    assert per_seed_means(replicas, tasks) == close(np.reshape(replicas, (tasks, seeds)).mean(0).tolist())


@given(tasks=st.integers(1, 4), seeds=st.integers(1, 8), fraction=st.floats(0.01, 1), data=st.data())
def test_the_other_rules(tasks: int, seeds: int, fraction: float, data: st.DataObject) -> None:
    replicas = data.draw(st.lists(values, min_size=tasks * seeds, max_size=tasks * seeds))
    assert robust_score(replicas, tasks, Robust(rule="mean"))[0] == close(np.mean(replicas))
    worst = robust_score(replicas, tasks, Robust(rule="worst_case"))[0]
    assert worst == min(replicas)
    cvar = robust_score(replicas, tasks, Robust(rule="cvar", fraction=fraction))[0]
    count = next(n for n in range(1, len(replicas) + 1) if n >= fraction * len(replicas) - 1e-9)
    assert cvar == close(np.mean(np.sort(replicas)[:count]))
    assert worst <= cvar + 1e-9 and cvar <= np.mean(replicas) + 1e-9


@pytest.mark.parametrize("rule", ["mean_std", "mean", "worst_case", "cvar"])
def test_a_value_that_is_not_finite_is_never_hidden(rule: Any) -> None:
    assert math.isnan(robust_score([0.5, math.nan, 0.1, 0.9], 2, Robust(rule=rule, fraction=0.25))[0])


def test_values_of_tasks() -> None:
    assert per_task([1, 2, 3, 4, 5, 6], 2) == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(ValueError, match="must be a multiple of the 2 tasks, but got 5"):
        per_task([1, 2, 3, 4, 5], 2)


@pytest.mark.parametrize(("rule", "expected"), [("mean_std", 0.5), ("mean", 0.5), ("worst_case", 0.2), ("cvar", 0.3)])
def test_settings_with_few_seeds_are_compared_without_their_spread(rule: Any, expected: float) -> None:
    """By the mean, or by the lowest values where the score is theirs."""
    assert level([0.2, 0.4, 0.9], 1, Robust(rule=rule, k=2.0, fraction=0.5)) == pytest.approx(expected)
