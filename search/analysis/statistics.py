"""95 % intervals of paired differences, and which settings are statistically tied with the best."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 9_999
FEWEST_FOR_BOOTSTRAP = 8  # with fewer, resamples are too similar
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "ci95": [self.low, self.high], "n": self.n}


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """a - b, item by item: both lists are of the same seeds in the same order.

    The interval is the bootstrap-t (Efron and Tibshirani 1993, chapter 12.5), which keeps its level with as few as ten
    seeds, where percentile and BCa intervals are too short (tests/search/analysis/test_statistics.py counts). With fewer
    than 8, or where so many differences are equal that resamples lose their spread, Student's t. The same input gives the
    same interval.
    Raises ValueError for fewer than 2.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(
            f"a paired difference needs two equally long lists of at least 2, but got {len(a)} and {len(b)}"
        )
    x = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    n, mean, error = len(x), float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x)))
    if not math.isfinite(mean) or error <= 1e-12 * abs(mean):
        return Difference(mean, mean, mean, n)
    below = above = _student(n, (1 + LEVEL) / 2)
    if n >= FEWEST_FOR_BOOTSTRAP:
        drawn = x[_resamples(n)]
        spread = drawn.std(1, ddof=1) / math.sqrt(n)
        varied = spread > 1e-9 * error  # else the spread is only rounding
        if np.mean(varied) > 0.999:
            with np.errstate(divide="ignore", invalid="ignore"):
                t = (drawn.mean(1) - mean) / spread
            low, high = np.quantile(t[varied], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            below, above = float(high), float(-low)
    return Difference(mean, mean - below * error, mean + above * error, n)


def tied_with_best(values: Mapping[str, Sequence[float]]) -> set[str]:
    """The settings tied with the best one at 95 %, all comparisons together. `values`: per seed, paired.

    Multiple comparisons with the best (Hsu 1981): a setting stays if its mean is within the best one's by the 95 % quantile,
    over resampled seeds, of the largest of all standardised differences; with fewer than 8 seeds, by Student's t, its level
    divided by the number of comparisons (Bonferroni). A setting with a value that is not finite is excluded.
    """
    known = {key: np.asarray(own, dtype=float) for key, own in values.items() if np.isfinite(own).all()}
    if not known:
        return set()
    best = max(known, key=lambda key: float(known[key].mean()))
    others = [key for key in known if key != best]
    apart = np.array([known[best] - known[key] for key in others])  # (k, n)
    if not others or apart.shape[1] < 2:
        return set(known)
    n = apart.shape[1]
    error = apart.std(1, ddof=1) / math.sqrt(n)
    steady = error <= 1e-12
    largest = 0.0
    if n < FEWEST_FOR_BOOTSTRAP:
        largest = _student(n, 1 - (1 - LEVEL) / len(others))
    elif (~steady).any():
        drawn = apart[~steady][:, _resamples(n)]  # (k, resamples, n)
        spread = drawn.std(2, ddof=1) / math.sqrt(n)
        varied = spread > 1e-9 * error[~steady, None]  # else the spread is only rounding
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(varied, (drawn.mean(2) - apart[~steady].mean(1)[:, None]) / spread, 0.0)
        largest = float(np.quantile(t.max(0), LEVEL))
    limit = np.where(steady, 1e-12, max(largest, 0.0) * error)
    return {best} | {key for key, mean, most in zip(others, apart.mean(1), limit, strict=True) if mean <= most}


def tied_by_score(
    shares: Mapping[str, Sequence[Sequence[float]]], score: Callable[[np.ndarray], np.ndarray]
) -> set[str]:
    """Like `tied_with_best`, for a score that is not a mean over seeds.

    `shares`: (tasks, seeds) of each setting, paired; `score`: (n, tasks * seeds) -> (n,). A setting stays unless the best one's
    score is above its own in all but 5 % of the resamplings of seeds, divided by the number of comparisons (Bonferroni).
    """
    known = {key: np.asarray(own, dtype=float) for key, own in shares.items() if np.isfinite(own).all()}
    if not known:
        return set()
    seeds = next(iter(known.values())).shape[1]
    drawn = _resamples(seeds)

    def resampled(values: np.ndarray) -> np.ndarray:
        return score(values[:, drawn].transpose(1, 0, 2).reshape(len(drawn), -1))

    best = max(known, key=lambda key: float(score(known[key].reshape(1, -1))[0]))
    reference = resampled(known[best])
    limit = (1 - LEVEL) / max(1, len(known) - 1)
    return {key for key, own in known.items() if key == best or np.mean(reference <= resampled(own)) > limit}


@functools.cache
def _resamples(n: int) -> np.ndarray:
    """(RESAMPLES, n) indices, the same every time."""
    return np.random.default_rng(n).integers(0, n, (RESAMPLES, n))


def _student(n: int, level: float) -> float:
    """Quantile of Student's t with n - 1 degrees of freedom."""
    from scipy import stats

    return float(stats.t.ppf(level, n - 1))
