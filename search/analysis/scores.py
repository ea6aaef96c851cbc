"""A trial's robust score: one number from its replicas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TypeVar

import numpy as np

from search.space.model import Robust

Value = TypeVar("Value")


def robust_score(shares: Sequence[float], tasks: int, robust: Robust) -> tuple[float, float, float]:
    """(score, mean, std) of the replicas' shares of full-data accuracy, task-major (tasks x seeds).

    Mean and std (n - 1; 0 for a single seed) are of the seeds' values, each the mean over tasks. The score, by rule:
    `mean_std` mean - k * std, `mean`, `worst_case` the lowest replica, `cvar` the mean of the lowest `fraction` of the
    replicas (rounded up; conditional value at risk, Rockafellar and Uryasev 2000). All are NaN if a value is not finite.
    Raises as `per_seed_means`.
    """
    mean, std = mean_and_std(per_seed_means(shares, tasks))
    match robust.rule:
        case "mean_std":
            score = mean - robust.k * std
        case "mean":
            score = mean
        case _:
            score = math.nan if math.isnan(mean) else float(tail_mean(np.asarray(shares)[None], robust)[0])
    return score, mean, std


def tail_mean(shares: np.ndarray, robust: Robust) -> np.ndarray:
    """(n, replicas) -> (n,): the mean of each row's lowest `fraction` of values (`cvar`), or its lowest (`worst_case`)."""
    count = shares.shape[1]
    lowest = 1 if robust.rule == "worst_case" else math.ceil(robust.fraction * count - 1e-9)
    found: np.ndarray = np.sort(shares, axis=1)[:, :lowest].mean(1)
    return found


def level(shares: Sequence[float], tasks: int, robust: Robust) -> float:
    """The value that compares settings with few seeds: the score for `worst_case` and `cvar`, else the mean, because a spread
    over two or three seeds says little. Raises like `per_seed_means`."""
    score, mean, _ = robust_score(shares, tasks, robust)
    return score if by_tail(robust) else mean


def by_tail(robust: Robust) -> bool:
    """Whether the score is made of the lowest replicas instead of a mean."""
    return robust.rule in ("worst_case", "cvar")


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and std (n - 1; 0 for a single value); NaN if a value is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def per_seed_means(values: Sequence[float], tasks: int) -> list[float]:
    """Values of replicas, task-major (tasks x seeds), averaged over tasks -> one per seed.

    Raises ValueError if the number of values is not a multiple of `tasks`.
    """
    return [fmean(column) for column in zip(*per_task(values, tasks), strict=True)]


def per_task(values: Sequence[Value], tasks: int) -> list[list[Value]]:
    """Values of replicas, task-major -> those of each task, by seed. Raises ValueError unless each task has equally many."""
    seeds, rest = divmod(len(values), tasks)
    if rest:
        raise ValueError(f"the number of values must be a multiple of the {tasks} tasks, but got {len(values)}")
    return [list(values[task * seeds : (task + 1) * seeds]) for task in range(tasks)]
