"""Looks at growing numbers of seeds: what they may err by, and what more seeds could still change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from search.analysis.paired import Items, Outcome, Paired, Variance, difference
from search.analysis.sequential import as_compared, looks, may_turn, seeds_to_report, spent, standing


def found(mean: float, half: float, n: int, seeds: float, items: float, freedom: float = 1000.0) -> Paired:
    return Paired(mean, mean - half, mean + half, n, ("seeds", "items"), Variance(seeds, items, freedom))


@pytest.mark.parametrize(("most", "counts"), [(2, [2]), (5, [5]), (10, [4, 6, 10]), (20, [4, 7, 12, 20])])
def test_looks_end_with_all_seeds(most: int, counts: list[int]) -> None:
    assert looks(most) == counts


def test_shares_of_the_error_add_up() -> None:
    errors = [1 - 0.95 ** (1 / as_compared(41, share)) for share in (0.09, 0.12, 0.26, 0.53)]
    assert 0.99 * (1 - 0.95 ** (1 / 41)) < sum(errors) <= 1 - 0.95 ** (1 / 41)
    assert as_compared(41, 1.0) == 41


def test_a_true_null_is_rejected_at_any_look_as_often_as_allowed() -> None:
    """Against simulated means whose looks share their seeds, from all the variance in seeds to hardly any."""
    rng = np.random.default_rng(0)
    most = 20
    for items in (0.0, 0.05, 1.0):  # variance of items; that of a seed is 1
        seeds = rng.normal(0, 1, (40_000, most))
        shared = rng.normal(0, math.sqrt(items), 40_000)
        ever, before = np.zeros(40_000, dtype=bool), 0.0
        for n in looks(most):
            now = spent(n, most)
            z = (seeds[:, :n].mean(1) + shared) / math.sqrt(1 / n + items)
            ever |= z > norm.ppf(0.95 ** (1 / as_compared(2, now - before)))
            before = now
        assert ever.mean() <= 1 - 0.95 ** (1 / 2) + 0.003


def test_what_more_seeds_could_change() -> None:
    assert standing(found(0.10, 0.05, 4, 0.01, 1e-4), 20, 40) == "shown"
    assert standing(found(0.05, 0.20, 4, 0.01, 1e-4), 20, 40) == "open"  # 20 seeds may narrow that
    assert standing(found(0.05, 0.20, 20, 0.01, 1e-4), 20, 40) in ("seeds", "items")  # there are no more
    assert standing(found(0.00, 0.20, 4, 1e-6, 1e-2), 20, 40) == "items"
    assert standing(found(-0.30, 0.10, 4, 0.01, 1e-4), 20, 40) == "items"
    assert standing(found(0.01, 1.00, 4, 0.4, 1e-6), 8, 40) == "seeds"  # hundreds would be needed
    assert standing(found(math.nan, 0.1, 4, 0.1, 0.1), 20, 40) == "seeds"


def test_only_a_close_difference_may_turn() -> None:
    assert may_turn(found(0.01, 0.2, 4, 0.01, 1e-4), 20) and not may_turn(found(0.5, 0.2, 4, 0.01, 1e-4), 20)
    assert not may_turn(found(0.01, 0.2, 20, 0.01, 1e-4), 20)


def test_more_seeds_are_reported_where_they_narrow_the_interval() -> None:
    assert seeds_to_report(found(0.1, 0.1, 4, 1e-6, 1e-2), 4, 20) == 4
    assert seeds_to_report(found(0.1, 0.1, 4, 1.0, 1e-2), 4, 20) == 20
    n = seeds_to_report(found(0.1, 0.1, 4, 0.05, 1e-2), 4, 20)
    own = Variance(0.05, 1e-2, 1000.0)
    assert n == 10 and own.half(0.975, n) == pytest.approx(1.25 * own.half(0.975, None), rel=0.05)


def test_the_interval_with_more_seeds_is_foreseen() -> None:
    """From four seeds, on average that of twenty; from twenty, itself."""
    rng, ratios = np.random.default_rng(1), []
    for _ in range(60):
        middle = rng.normal(1, 1, 400) + rng.normal(0, 0.3, (2, 400))
        runs = middle[:, None] + rng.normal(0, 0.15, (2, 20, 1)) + rng.normal(0, 0.3, (2, 20, 400)) > 0

        def apart(n: int, runs: np.ndarray = runs) -> Paired:
            a, b = (Outcome(own[:n].mean(1).tolist(), [own[:n]]) for own in runs)
            return difference(a, b, [Items(400)])

        few, all_of_them = apart(4), apart(20)
        assert few.variance is not None and all_of_them.variance is not None
        half = (all_of_them.high - all_of_them.low) / 2
        assert all_of_them.variance.half(0.975, 20) == pytest.approx(half, rel=0.05)
        ratios.append(few.variance.half(0.975, 20) / half)
    assert 0.85 < np.mean(ratios) < 1.15
