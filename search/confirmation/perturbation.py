"""How much of the score remains when all hyperparameters move at once: real runs around a setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from search.analysis.robustness import QUANTILE, perturbed
from search.analysis.scores import level
from search.analysis.surrogate import Surface
from search.space.model import Space

CHOOSING, REPORTING = 1, 4  # which random moves: the reported ones take no part in the choice
Evaluate = Callable[[Mapping[str, dict[str, Any]], Sequence[int], str], dict[str, list[float]]]
"""(label -> all hyperparameters, seeds, stage) -> label -> shares of full-data accuracy, task-major; NaN where a loss was not
finite."""


@dataclass(frozen=True)
class Around:
    """The runs near a setting.

    Attributes:
        values: each run's score (`search.analysis.scores.level`); 0 if its loss was not finite.
        diverged: the number of runs whose loss was not finite.
    """

    values: list[float] = field(default_factory=list)
    diverged: int = 0

    @property
    def quantile(self) -> float | None:
        """The 10 % quantile; None if there were no runs."""
        return float(np.quantile(self.values, QUANTILE)) if self.values else None

    def as_json(self) -> dict[str, Any]:
        """{quantile, mean, worst, values, diverged}."""
        own = {"mean": fmean(self.values), "worst": min(self.values), "values": list(self.values)}
        return {"quantile": self.quantile, **own, "diverged": self.diverged}


def run_around(
    space: Space,
    surface: Surface,
    settings: Mapping[str, Mapping[str, Any]],
    evaluate: Evaluate,
    seeds: Sequence[int],
    count: int,
    draw: int,
) -> dict[str, Around]:
    """label -> the runs around each of `settings` (all hyperparameters, of which the searched ones move): the same `count` random
    moves for all, each on the first `confirmation.perturbed_seeds` of `seeds`. `draw`: which moves."""
    if not count:
        return {label: Around() for label in settings}
    moved = {}
    for label, config in settings.items():
        near = perturbed(
            surface, {name: config[name] for name in space.search}, space.confirmation.perturbed_decades, count, draw
        )
        for i, own in enumerate(near):
            moved[f"{label} moved {i}"] = {**config, **own}
    results = evaluate(moved, seeds[: space.confirmation.perturbed_seeds], "perturbed")
    found = {}
    for label in settings:
        scores = [level(results[f"{label} moved {i}"], len(space.tasks), space.robust) for i in range(count)]
        known = [score if math.isfinite(score) else 0.0 for score in scores]
        found[label] = Around(known, sum(not math.isfinite(score) for score in scores))
    return found
