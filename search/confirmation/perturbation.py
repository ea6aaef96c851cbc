"""How much of the score remains when all hyperparameters move at once: real runs around a setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from condense.config.modalities import RATE
from condense.config.models import Hyperparameters
from search.analysis.coordinates import Coordinates
from search.analysis.robustness import QUANTILE
from search.analysis.scores import level
from search.space.model import CF_ONLY, Space

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
    settings: Mapping[str, Mapping[str, Any]],
    evaluate: Evaluate,
    seeds: Sequence[int],
    count: int,
    draw: int,
) -> dict[str, Around]:
    """label -> the runs around each of `settings` (all hyperparameters, of which the searched ones move): the same `count` random
    moves for all, each on the first `confirmation.perturbed_seeds` of `seeds`. `draw`: which moves. No runs around a setting of
    which nothing can move: `Coordinates.perturbed`."""
    coordinates, moved = Coordinates(space), {}
    moving = [label for label, config in settings.items() if can_move(space, config)]
    for label in moving if count else ():
        config, decades = settings[label], space.confirmation.perturbed_decades
        values = searched_values(Hyperparameters.model_validate(config), space)
        for i, own in enumerate(coordinates.perturbed(values, decades, count, draw)):
            moved[f"{label} moved {i}"] = {**config, **{name: x for name, x in own.items() if x is not None}}
    found = {label: Around() for label in settings}
    if not moved:
        return found
    results = evaluate(moved, seeds[: space.confirmation.perturbed_seeds], "perturbed")
    for label in moving:
        scores = [level(results[f"{label} moved {i}"], len(space.tasks), space.robust) for i in range(count)]
        known = [score if math.isfinite(score) else 0.0 for score in scores]
        found[label] = Around(known, sum(not math.isfinite(score) for score in scores))
    return found


def can_move(space: Space, config: Mapping[str, Any]) -> bool:
    """Whether there are other settings around this one (all hyperparameters)."""
    coordinates, own = Coordinates(space), searched_values(Hyperparameters.model_validate(config), space)
    return any(coordinates.can_move(name, own.get(name)) for name in coordinates.names)


def searched_values(setting: Hyperparameters, space: Space) -> dict[str, Any]:
    """`applied`, of what is searched in such a setting."""
    values = applied(setting, space.search)
    return {name: values[name] for name in space.searched(values)}


def applied(setting: Hyperparameters, names: Iterable[str]) -> dict[str, Any]:
    """The values of these hyperparameters in any setting: a modality's learning rate is the common one where it has none of its
    own, and what has no effect, as frequencies under MMD, is None."""
    values: dict[str, Any] = {}
    for name in names:
        if name.startswith(RATE):
            values[name] = setting.learning_rate_of(name.removeprefix(RATE))
        else:
            values[name] = None if name in CF_ONLY and setting.discrepancy == "mmd" else getattr(setting, name, None)
    return values
