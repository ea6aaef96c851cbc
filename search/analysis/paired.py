"""Differences of settings on held-out items, with intervals for new seeds *and* new items of the same kind.

S  seeds      n  held-out items      G  groups of items, or n where items are drawn by themselves      T  tasks

Seeds and items are crossed: every seed's probe judges the same items. So the difference of one item in one run is

    x_si = mean + a_s + b_g(i) + e_si

and an interval over seeds alone, whose width is that of the a_s, misses the b_g, which seeds cannot average out. The variance of
the mean is that of clustering by seeds plus that of clustering by groups minus that of both (Cameron, Gelbach and Miller 2011,
"Robust inference with multiway clustering"), with Student's t at the degrees of freedom of Satterthwaite (1946).

Why not resample seeds x items: that counts e_si three times (Owen 2007, "The pigeonhole bootstrap"), is too short with
five to ten groups, and the quantile for the best of fifty settings, 0.999, takes a hundred times the resamples.
`tests/search/analysis/test_paired.py` counts how often both the interval and the comparison with the best of many are right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.analysis.scores import per_seed_means
from search.analysis.statistics import LEVEL, Difference, paired_difference

RESAMPLES = 2_000
FEWEST_GROUPS = 5  # with fewer, nothing can be said of new groups


@dataclass(frozen=True)
class Items:
    """The held-out items of one task.

    Attributes:
        count: how many there are.
        full: what scores are a share of: the full data's accuracy; 1 for accuracies as they are.
        groups: (count,) numbers of their groups; None: no groups are known.
        data: equal for tasks that are judged on the same items.
        of_groups: where the items are one fold of several, the number of groups in all of them.
    """

    count: int
    full: float = 1.0
    groups: np.ndarray | None = None
    data: str = ""
    of_groups: int | None = None

    @property
    def number_of_groups(self) -> int | None:
        return None if self.groups is None else len(np.unique(self.groups))

    @property
    def by_group(self) -> bool:
        """Whether whole groups are drawn, rather than items."""
        here = self.number_of_groups or 0
        return here > 1 and (self.of_groups or here) >= FEWEST_GROUPS


@dataclass(frozen=True)
class Outcome:
    """A setting's runs on some seeds.

    Attributes:
        scores: task-major, T x S; those of a method that no seed changes may be one per task.
        hits: of each task (S, n), the items' values, whose mean is the score (bool for an accuracy: which were right); None where
            these are not known.
    """

    scores: Sequence[float]
    hits: Sequence[np.ndarray] | None = None


@dataclass(frozen=True)
class Variance:
    """What a difference's variance is made of.

    Attributes:
        seeds: that of one seed on these items, which more seeds average out.
        items: that of the mean over new items or groups, which they do not.
        freedom: degrees of freedom of `items`.
    """

    seeds: float
    items: float
    freedom: float

    def half(self, quantile: float, seeds: int | None) -> float:
        """Half the width of the interval with so many seeds; None: with any number of them."""
        of_seeds = 0.0 if seeds is None else self.seeds / seeds
        variance = self.items + of_seeds
        if variance <= 0:
            return 0.0
        satterthwaite = self.items**2 / self.freedom + (of_seeds**2 / (seeds - 1) if seeds and seeds > 1 else 0.0)
        return student(quantile, max(1.0, variance**2 / satterthwaite)) * math.sqrt(variance)


@dataclass(frozen=True)
class Paired(Difference):
    """A difference (or a score) with its interval, and what the interval covers: `seeds`, and `items` or `groups`."""

    covers: tuple[str, ...] = ("seeds",)
    variance: Variance | None = None  # None: not known

    def as_json(self) -> dict[str, Any]:
        return {**super().as_json(), "covers": list(self.covers)}


def difference(a: Outcome, b: Outcome | None, items: Sequence[Items], compared: int = 1) -> Paired:
    """a - b, averaged over tasks, paired by seed and by item; of `a` itself where `b` is None.

    `items`: of each task. `compared`: how many settings `a` is the best of, by scores on the same items: the interval is then
    simultaneous over them (Sidak), so that its lower end is above 0 in at most 5 % of searches without a true difference.

    The interval never has width 0: half a discordant item, of the size of the others, is added to either side (Agresti and Min
    2005), and where no item differs it is that of Clopper and Pearson (1934) for none of n. Without hits it is over seeds
    only, and NaN where these do not differ.
    """
    quantile = max((1 + LEVEL) / 2, LEVEL ** (1 / compared))
    if not all(map(math.isfinite, [*a.scores, *(b.scores if b is not None else [])])):
        return Paired(math.nan, math.nan, math.nan, len(a.scores) // len(items))
    if a.hits is None or (b is not None and b.hits is None):
        return _over_seeds(a, b, len(items), quantile)
    other = [np.zeros((1, each.count), dtype=bool) for each in items] if b is None else b.hits
    assert other is not None
    own = [x.astype(float) - y.astype(float) for x, y in zip(a.hits, other, strict=True)]  # (S, n) of each task
    return _over_both(own, items, quantile)


def difference_of_tails(
    a: Outcome, b: Outcome, items: Sequence[Items], tail: Callable[[np.ndarray], np.ndarray], compared: int = 1
) -> Paired:
    """`difference`, of a score that is made of the lowest replicas: `tail` (k, T * S) -> (k,).

    No sum over seeds and items, so its standard error is that over resampled seeds and groups, `RESAMPLES` of them, always the
    same ones; it is a little too long (see above).
    """
    quantile = max((1 + LEVEL) / 2, LEVEL ** (1 / compared))
    seeds = len(a.scores) // len(items)
    if not all(map(math.isfinite, [*a.scores, *b.scores])):
        return Paired(math.nan, math.nan, math.nan, seeds)
    random = np.random.default_rng(0)
    drawn = random.integers(0, seeds, (RESAMPLES, seeds))
    weights: dict[tuple[str, int], np.ndarray] = {}
    for task, each in enumerate(items if a.hits is not None and b.hits is not None else ()):
        weights.setdefault((each.data or f"task {task}", each.count), _drawn_items(each, random))
    found, point, spread = [], [], 0.0
    for own in (a, b):
        columns = []
        for task, each in enumerate(items):
            runs = np.broadcast_to(own.scores[task * seeds : (task + 1) * seeds], (RESAMPLES, seeds))
            if weights:
                assert own.hits is not None
                runs = weights[each.data or f"task {task}", each.count] @ own.hits[task].T.astype(float) / each.full
            columns.append(np.take_along_axis(runs, drawn, 1))
        found.append(tail(np.concatenate(columns, 1)))
        point.append(float(tail(np.asarray(own.scores, dtype=float)[None])[0]))
    mean, spread = point[0] - point[1], float((found[0] - found[1]).std(ddof=1))
    if spread <= 1e-12:
        return Paired(mean, math.nan, math.nan, seeds)
    groups = [int(_numbers(each).max()) + 1 for each in items] if weights else []
    half = student(quantile, max(1, min([seeds, *groups]) - 1)) * spread
    unit = "groups" if all(each.by_group for each in items) else "items"
    return Paired(mean, mean - half, mean + half, seeds, ("seeds", unit) if weights else ("seeds",))


def _drawn_items(items: Items, random: np.random.Generator) -> np.ndarray:
    """(RESAMPLES, n): the weight of every item when whole groups, or items, are drawn as often as there are some."""
    number = _numbers(items)
    groups = int(number.max()) + 1
    weight = random.multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)[:, number].astype(float)
    shares: np.ndarray = weight / weight.sum(1, keepdims=True)
    return shares


def _over_seeds(a: Outcome, b: Outcome | None, tasks: int, quantile: float) -> Paired:
    own = per_seed_means(a.scores, tasks)
    other = per_seed_means(b.scores, tasks) if b is not None else [0.0]
    apart = np.asarray(own) - np.asarray(other)
    n, mean = len(apart), float(apart.mean())
    if n < 2 or float(apart.std()) <= 1e-12:
        return Paired(mean, math.nan, math.nan, n)
    of_seeds = Variance(float(apart.var(ddof=1)), 0.0, 1.0)
    if quantile <= (1 + LEVEL) / 2:
        found = paired_difference(apart.tolist(), [0.0] * n)
        return Paired(found.mean, found.low, found.high, n, variance=of_seeds)
    half = student(quantile, n - 1) * float(apart.std(ddof=1)) / math.sqrt(n)
    return Paired(mean, mean - half, mean + half, n, variance=of_seeds)


def _over_both(own: Sequence[np.ndarray], items: Sequence[Items], quantile: float) -> Paired:
    """`own`: of each task (S, n), the differences of hits."""
    seeds = max(len(x) for x in own)
    shared: dict[tuple[str, int], list[int]] = {}  # tasks that are judged on the same items
    for task, each in enumerate(items):
        shared.setdefault((each.data or f"task {task}", each.count), []).append(task)
    of_seed, of_items, of_cells, satterthwaite, least = np.zeros(seeds), 0.0, 0.0, 0.0, 0.0
    for (_, count), members in shared.items():
        x = np.zeros((seeds, count))
        for task in members:
            x += own[task] / (items[task].full * len(items))
        whole = sum(1 / (items[task].full * len(items)) for task in members)  # what one item counts at most
        of_seed += x.mean(1)
        variance, freedom, cells = _by_groups(x, items[members[0]])
        variance += (whole**2 if x.all() or not x.any() else _size_of_one(x)) / count**2
        of_items, of_cells = of_items + variance, of_cells + cells
        satterthwaite += variance**2 / freedom
        if all((own[task] == own[task].flat[0]).all() for task in members):
            least += whole * -math.expm1(math.log(1 - quantile) / count)
    mean, of_seeds = float(of_seed.mean()), 0.0
    freedom = of_items**2 / satterthwaite
    if seeds > 1:
        of_seeds = float(of_seed.var(ddof=1)) / seeds
        satterthwaite += of_seeds**2 / (seeds - 1)
    variance = max(of_seeds + of_items - of_cells, of_seeds, of_items)
    half = max(student(quantile, max(1.0, variance**2 / satterthwaite)) * math.sqrt(variance), least)
    unit = "groups" if all(each.by_group for each in items) else "items"
    parts = Variance(of_seeds * seeds, max(0.0, of_items - of_cells), freedom)
    return Paired(mean, mean - half, mean + half, seeds, ("seeds", unit) if seeds > 1 else (unit,), parts)


def _size_of_one(x: np.ndarray) -> float:
    """The square of an item's difference, mean over those that differ; of (S, n) values. One whose differences cancel over seeds
    counts as if each of them had the same sign by chance."""
    differs = x[:, x.any(0)]
    return float(np.maximum(differs.mean(0) ** 2, (differs**2).mean(0) / len(x)).mean())


def _by_groups(x: np.ndarray, items: Items) -> tuple[float, float, float]:
    """Of (S, n) values: the variance of their mean by groups, its degrees of freedom, and the part of it that is of cells, one
    seed and one group each, which the variance by seeds has as well.

    Groups of unequal size: `shrunk` is the expectation of the sum of squared residuals over the variance it estimates, and
    the degrees of freedom are those of that many equal groups.
    """
    seeds, n = x.shape
    sums, sizes = x - x.mean(), np.ones(n)
    if items.by_group:
        number = _numbers(items)
        order = np.argsort(number, kind="stable")
        sizes = np.bincount(number).astype(float)
        sums = np.add.reduceat(sums[:, order], np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int), axis=1)
    cells = sums / n  # (S, G): each one's part of the mean
    second, third, fourth = (float((sizes**power).sum()) for power in (2, 3, 4))
    shrunk = 1 - 2 * third / (n * second) + second / n**2
    by_group = cells.mean(0)
    variance = float((by_group**2).sum()) / shrunk
    freedom = max(1.0, second**2 / fourth - 1)
    if seeds < 2:
        return variance, freedom, 0.0
    groups = len(sizes)
    left = cells - by_group - cells.mean(1, keepdims=True) + cells.mean()
    return variance, freedom, groups * float((left**2).sum()) / ((seeds - 1) * (groups - 1)) / seeds


def _numbers(items: Items) -> np.ndarray:
    """(n,) of each item 0 .. G-1: its group, or itself where items are drawn one by one."""
    if items.groups is None or not items.by_group:
        return np.arange(items.count)
    number: np.ndarray = np.unique(items.groups, return_inverse=True)[1]
    return number


def student(quantile: float, freedom: float) -> float:
    """Quantile of Student's t."""
    from scipy import stats

    return float(stats.t.ppf(quantile, freedom))
