"""Intervals of differences on finite sets of items, in groups and over seeds: how often they are right, on a truth that is known.

A run gets an item right where a sum of normal parts is above 0: the setting's, the item's, its group's, the seed's, and one of
seed and item together. So the accuracy on new items is a value of the normal distribution function.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import norm

from search.analysis.paired import Items, Outcome, difference, difference_of_tails
from search.analysis.scores import tail_mean
from search.space.model import Robust


def outcome(hits: np.ndarray) -> Outcome:
    return Outcome(hits.mean(1).tolist(), [hits])


def grouped(rng: np.random.Generator, n: int, count: int, equal: bool = True) -> np.ndarray:
    if equal:
        return np.arange(n) % count
    return np.unique(rng.choice(count, n, p=rng.dirichlet(np.full(count, 3.0))), return_inverse=True)[1]


class World:
    """Settings on one validation set; new runs at every call."""

    def __init__(self, seed: int, means: Sequence[float], n: int, groups: int | None, equal: bool = True) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.n, self.seed_variance, self.cell_variance = n, 0.02, 0.1
        number = np.arange(n) if groups is None else grouped(rng, n, groups, equal)
        self.items = Items(n, 1.0, None if groups is None else number)
        count, has = int(number.max()) + 1, groups is not None
        common = rng.normal(0, 1, n) + has * rng.normal(0, math.sqrt(0.25), count)[number]
        own = rng.normal(0, math.sqrt(0.1), (len(means), n)) + has * rng.normal(0, 0.2, (len(means), count))[:, number]
        self.middle = np.asarray(means)[:, None] + common + own
        self.spread = math.sqrt(1 + 0.1 + has * (0.25 + 0.04) + self.seed_variance + self.cell_variance)

    def run(self, setting: int, seeds: int = 20) -> Outcome:
        of_seed = self.rng.normal(0, math.sqrt(self.seed_variance), (seeds, 1))
        of_cell = self.rng.normal(0, math.sqrt(self.cell_variance), (seeds, self.n))
        return outcome(self.middle[setting] + of_seed + of_cell > 0)

    def accuracy(self, mean: float) -> float:
        """On new items, groups and seeds."""
        return float(norm.cdf(mean / self.spread))


@pytest.mark.parametrize(
    ("n", "groups", "equal", "means"),
    [(300, None, True, (1.5, 1.3)), (300, None, True, (2.8, 2.7)), (400, 8, True, (1.5, 1.3)), (400, 20, True, (1.5, 1.5)),
     (400, 20, False, (1.5, 1.3)), (300, 5, True, (1.2, 1.3))],
)  # fmt: skip
def test_intervals_cover_the_difference_on_new_data(
    n: int, groups: int | None, equal: bool, means: tuple[float, float]
) -> None:
    covered = alone = 0
    for seed in range(1000):
        world = World(seed, means, n, groups, equal)
        truth = world.accuracy(means[0]) - world.accuracy(means[1])
        a, b = world.run(0), world.run(1)
        found = difference(a, b, [world.items])
        covered += found.low <= truth <= found.high
        assert found.covers == ("seeds", "groups" if groups else "items")
        if seed < 200:
            over_seeds = difference(Outcome(a.scores), Outcome(b.scores), [world.items])
            alone += over_seeds.low <= truth <= over_seeds.high
            assert over_seeds.covers == ("seeds",)
    assert 930 <= covered <= 970
    if means[0] < 2:
        assert alone < 170  # of 200: what seeds alone say is too short


def recommended(seed: int, n: int, groups: int | None, better: float, trials: int = 40) -> bool:
    """Whether one of the four best of a search is shown to be better than the best of three published settings."""
    world = World(seed, [1.4] * 3 + [1.4 + better] * 4 + [1.4] * (trials - 4), n, groups)
    first = [float(np.mean(world.run(3 + i, 3).scores)) for i in range(trials)]
    top = [3 + int(i) for i in np.argsort(first)[::-1][:4]]
    published = max((world.run(i) for i in range(3)), key=lambda own: float(np.mean(own.scores)))
    return any(difference(world.run(i), published, [world.items], compared=trials + 1).low > 0 for i in top)


@pytest.mark.parametrize(("n", "groups"), [(300, None), (300, 8), (500, 20)])
def test_of_forty_equal_settings_none_is_recommended(n: int, groups: int | None) -> None:
    assert sum(recommended(seed, n, groups, 0.0) for seed in range(200)) <= 10


@pytest.mark.parametrize(("n", "groups", "better"), [(300, None, 0.5), (1000, 50, 0.4)])
def test_what_the_data_can_show_is_recommended(n: int, groups: int | None, better: float) -> None:
    assert sum(recommended(seed, n, groups, better) for seed in range(40)) >= 34


def test_it_is_what_is_shown_and_the_same_every_time() -> None:
    world = World(0, (1.5, 1.3), 200, 10)
    a, b = world.run(0), world.run(1)
    found = difference(a, b, [world.items])
    assert found == difference(a, b, [world.items])
    assert found.mean == pytest.approx(float(np.mean(a.scores) - np.mean(b.scores)))
    assert found.as_json() == {
        "mean": found.mean,
        "ci95": [found.low, found.high],
        "n": 20,
        "covers": ["seeds", "groups"],
    }
    turned = difference(b, a, [world.items])
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    wide = difference(a, b, [world.items], compared=40)
    assert wide.mean == found.mean and wide.high - wide.low > 1.3 * (found.high - found.low)
    half = difference(a, b, [Items(200, 0.5, world.items.groups)])  # shares of a full-data accuracy of one half
    assert (half.mean, half.low) == pytest.approx((2 * found.mean, 2 * found.low))
    few = difference(a, b, [Items(200, 1.0, np.arange(200) % 4)])
    assert few.covers == ("seeds", "items")


def test_no_interval_has_width_zero() -> None:
    same = np.zeros((20, 400), dtype=bool)
    same[:, :397] = True
    found = difference(outcome(same), outcome(same.copy()), [Items(400)])
    assert found.mean == 0
    assert -found.low == found.high == pytest.approx(3.69 / 400, rel=0.01)  # none of 400: the rule of three
    other = same.copy()
    other[:, 0] = False  # one item, whatever the seed
    found = difference(outcome(same), outcome(other), [Items(400)])
    assert found.low < 0 < found.mean < found.high
    perfect = difference(outcome(np.ones((20, 400), dtype=bool)), None, [Items(400)])
    assert perfect.mean == 1 and perfect.low == pytest.approx(1 - 3.69 / 400, abs=1e-4)
    unknown = difference(Outcome([0.9] * 5), Outcome([0.9] * 5), [Items(400)])
    assert math.isnan(unknown.low) and math.isnan(unknown.high) and unknown.mean == 0


@given(
    st.integers(1, 4).flatmap(
        lambda seeds: st.integers(2, 9).flatmap(
            lambda n: st.tuples(
                *[st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=seeds, max_size=seeds)] * 2
            )
        )
    ),
    st.booleans(),
)
@example(
    ([[True, False], [False, False]], [[False, False], [True, False]]), False
)  # differences that cancel over seeds
def test_of_whatever_hits_there_is_an_interval(
    hits: tuple[list[list[bool]], list[list[bool]]], in_groups: bool
) -> None:
    a, b = (outcome(np.array(own, dtype=bool)) for own in hits)
    n = len(hits[0][0])
    found = difference(a, b, [Items(n, 0.9, np.arange(n) // 2 if in_groups else None)])
    assert found.low < found.mean < found.high
    assert found.variance is not None and found.variance.items >= 0


def test_a_method_that_no_seed_changes_is_paired_with_every_seed() -> None:
    world = World(1, (1.5, 1.3), 300, None)
    many, once = world.run(0), world.run(1, 1)
    found = difference(many, once, [world.items])
    assert found.n == 20 and found.mean == pytest.approx(float(np.mean(many.scores)) - once.scores[0])
    alone = difference(once, None, [world.items])
    p = once.scores[0]
    assert alone.covers == ("items",)
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / 300), rel=0.05)


def test_tasks_on_the_same_items_share_them() -> None:
    """Two tasks whose hits are the same say no more than one; on other items, they do."""
    world = World(2, (1.5, 1.3), 300, None)
    a, b = world.run(0), world.run(1)
    assert a.hits is not None and b.hits is not None
    twice = [Outcome([*own.scores, *own.scores], [own.hits[0], own.hits[0]]) for own in (a, b)]
    one = difference(a, b, [world.items])
    shared = difference(*twice, [Items(300, data="x"), Items(300, data="x")])
    apart = difference(*twice, [Items(300, data="x"), Items(300, data="y")])
    assert (shared.mean, shared.low, shared.high) == pytest.approx((one.mean, one.low, one.high))
    assert apart.high - apart.low < 0.9 * (one.high - one.low)


def test_a_loss_that_was_not_finite_has_no_difference() -> None:
    found = difference(Outcome([math.nan, 0.9]), Outcome([0.9, 0.8]), [Items(10)])
    assert math.isnan(found.mean) and math.isnan(found.low) and not found.low > 0


def test_a_score_of_the_lowest_replicas_has_an_interval_over_items_too() -> None:
    robust = Robust(rule="worst_case")
    world = World(3, (1.5, 0.9), 300, None)
    a, b = world.run(0), world.run(1)
    found = difference_of_tails(a, b, [world.items], lambda x: tail_mean(x, robust))
    assert found.mean == pytest.approx(min(a.scores) - min(b.scores))
    assert found.covers == ("seeds", "items") and 0 < found.low < found.mean < found.high
    shares = difference_of_tails(Outcome(a.scores), Outcome(b.scores), [world.items], lambda x: tail_mean(x, robust))
    assert shares.covers == ("seeds",) and shares.mean == found.mean and shares.low > found.low


def test_thousands_of_items_take_no_time() -> None:
    world = World(4, (1.5, 1.3), 5000, 100)
    a, b = world.run(0), world.run(1)
    started = time.perf_counter()
    difference(a, b, [world.items])
    assert time.perf_counter() - started < 1
