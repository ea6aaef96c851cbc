"""From replicas to numbers that can be compared: the robust score and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any


def robust_score(per_seed: Sequence[float], k: float) -> tuple[float, float, float]:
    """(mean - k * std, mean, std) over seeds; std with n - 1, and 0 for a single seed."""
    mean = fmean(per_seed)
    std = stdev(per_seed) if len(per_seed) > 1 else 0.0
    return mean - k * std, mean, std


def per_seed_means(values: Sequence[float], tasks: int) -> list[float]:
    """Values of replicas, task-major (tasks x seeds), averaged over tasks -> one per seed.

    Raises ValueError if there are not as many values for every task.
    """
    seeds, rest = divmod(len(values), tasks)
    if rest:
        raise ValueError(f"{len(values)} values cannot be of {tasks} tasks with the same seeds")
    return [fmean(values[task * seeds + seed] for task in range(tasks)) for seed in range(seeds)]


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with Student's 95 % interval (n - 1 degrees of freedom)."""

    mean: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "ci95": [self.low, self.high], "n": self.n}


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """a - b, item by item: both lists are of the same seeds in the same order. Raises ValueError for fewer than 2."""
    from scipy import stats

    if len(a) != len(b) or len(a) < 2:
        raise ValueError(
            f"a paired difference needs two equally long lists of at least 2, but got {len(a)} and {len(b)}"
        )
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = fmean(differences)
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * stdev(differences) / math.sqrt(len(differences))
    return Difference(mean, mean - half, mean + half, len(differences))
