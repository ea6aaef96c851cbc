"""Where the score is good and stays good: the plateau's setting, its tolerances, and what each hyperparameter is worth.

All of it comes from the model in `search/analysis/surrogate.py`; `search/confirmation/selection.py` checks it with real runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.analysis.coordinates import sobol_points
from search.analysis.surrogate import FEWEST_TRIALS, Surface, informative, of_space, scored
from search.ledger.ledger import TrialRecord
from search.space.model import Space

POINTS = 201  # of a slice through the model
CURVE, MAP = 41, 21  # points of a drawn curve, and of a side of a drawn map
QUANTILE = 0.1
CANDIDATES, MOVES = 1024, 64


def surface_of(space: Space, records: Sequence[TrialRecord]) -> Surface | None:
    """The model of a search, of its most informative trials where there are many; None if it has too few."""
    trials = scored(of_space(space, records), space.robust)
    if len(trials) < FEWEST_TRIALS or all(d.choices is not None for d in space.search.values()):
        return None
    return Surface(space, informative(space, trials))


def plateau_setting(surface: Surface, decades: float) -> tuple[dict[str, Any], float]:
    """The setting with the highest 10 % quantile of the score while all hyperparameters move by up to `decades`, and that
    quantile, both by the model.

    The choice uses the model's mean minus one standard deviation: a region without trials is not known to be good.
    """
    numeric = len(surface.names)
    known = surface.points[[surface.is_proposable(point) for point in surface.points]]
    combinations = np.unique(known[:, numeric:], axis=0)
    spread = sobol_points(numeric, CANDIDATES, 0)
    candidates = np.concatenate([np.hstack([spread, combinations[np.arange(len(spread)) % len(combinations)]]), known])
    around = _moves(surface, decades, MOVES)

    def quantiles(points: np.ndarray, careful: bool) -> np.ndarray:
        near = np.clip(points[:, None] + around, 0, 1).reshape(-1, points.shape[1])
        mean, std = surface.predict(near) if careful else (surface.mean(near), 0.0)
        found: np.ndarray = np.quantile((mean - std).reshape(len(points), -1), QUANTILE, axis=1)
        return found

    candidates = candidates[[surface.is_proposable(point) for point in candidates]]
    # Most candidates are far from good: the deviation is only computed for the best hundred by the mean.
    likely = candidates[np.argsort(-quantiles(candidates, careful=False), kind="stable")[:100]]
    best = likely[int(np.argmax(quantiles(likely, careful=True)))]
    for shrink in (1.0, 0.5, 0.25):
        near = np.clip(best + shrink * _moves(surface, decades, 32, seed=2), 0, 1)
        near = np.concatenate([best[None], near[[surface.is_proposable(point) for point in near]]])
        best = near[int(np.argmax(quantiles(near, careful=True)))]
    return surface.params(best), float(quantiles(best[None], careful=False)[0])


def around(surface: Surface | None, setting: Mapping[str, Any]) -> dict[str, Any]:
    """What the model says around a setting, as in report.json."""
    return {
        "robust_region": robust_region(surface, setting),
        "response": responses(surface, setting),
        "response_pairs": response_pairs(surface, setting),
    }


def robust_region(surface: Surface | None, recommended: Mapping[str, Any]) -> dict[str, list[float]]:
    """hyperparameter -> [low, high]: the contiguous range around the recommended value, all others fixed, in which
    the modelled mean score is within one standard error of the recommended setting's.

    The standard error is the largest of: a trial's over its seeds (median), the fitted noise, and the model's at the
    recommended setting. Ranges end where the space does. Empty without a model.
    """
    if surface is None:
        return {}
    centre = surface.at(recommended)
    (best,), (uncertainty,) = surface.predict(centre[None])
    enough = best - max(uncertainty, surface.noise, surface.standard_error)
    region = {}
    for i, name in _searched(surface, recommended):
        grid = np.linspace(0, 1, POINTS)
        along = _slice(centre, i, grid)
        good = (surface.mean(along) >= enough) & _kept(surface, along)
        low = high = int(np.abs(grid - centre[i]).argmin())
        while low > 0 and good[low - 1]:
            low -= 1
        while high < POINTS - 1 and good[high + 1]:
            high += 1
        value = float(recommended[name])
        region[name] = [min(value, surface.value(name, grid[low])), max(value, surface.value(name, grid[high]))]
    return region


def responses(surface: Surface | None, recommended: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """hyperparameter -> {values, mean, low, high}: the modelled score along it, others as recommended, and a band of two
    standard deviations of the model on either side."""
    if surface is None:
        return {}
    curves = {}
    grid = np.linspace(0, 1, CURVE)
    for i, name in _searched(surface, recommended):
        mean, std = surface.predict(_slice(surface.at(recommended), i, grid))
        values = [float(surface.value(name, x)) for x in grid]
        curves[name] = {"values": values, "mean": mean.tolist()}
        curves[name] |= {"low": (mean - 2 * std).tolist(), "high": (mean + 2 * std).tolist()}
    return curves


def response_pairs(surface: Surface | None, recommended: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Maps of the modelled score over each pair of the lambdas and sigma: {x, y, xs, ys, mean: a row for each of ys}; None where
    `constraints` do not hold."""
    if surface is None:
        return []
    names = [
        name for _, name in _searched(surface, recommended) if name.startswith("lambda") or name == "frequency_scale"
    ]
    grid = np.linspace(0, 1, MAP)
    maps = []
    for x, y in itertools.combinations(names, 2):
        points = np.repeat(surface.at(recommended)[None], MAP * MAP, 0)
        points[:, surface.names.index(x)] = np.tile(grid, MAP)
        points[:, surface.names.index(y)] = np.repeat(grid, MAP)
        sides = {"xs": [float(surface.value(x, g)) for g in grid], "ys": [float(surface.value(y, g)) for g in grid]}
        mean = [
            m if kept else None for m, kept in zip(surface.mean(points).tolist(), _kept(surface, points), strict=True)
        ]
        maps.append({"x": x, "y": y, **sides, "mean": [mean[i : i + MAP] for i in range(0, MAP * MAP, MAP)]})
    return maps


def sensitivity(
    surface: Surface | None, recommended: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, float]:
    """hyperparameter -> loss of the modelled score if it is left at the default, others as recommended. A default outside
    the space is moved to its border."""
    if surface is None:
        return {}
    centre = surface.at(recommended)
    lost = {}
    for i, name in _searched(surface, recommended):
        at = min(max(surface.position(name, float(default[name])), 0.0), 1.0)
        there, here = surface.mean(np.vstack([_slice(centre, i, np.array([at])), centre]))
        lost[name] = float(here - there)
    return lost


def _searched(surface: Surface, recommended: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Column and name of the numeric hyperparameters that the recommended setting has a value of."""
    return [(i, name) for i, name in enumerate(surface.names) if recommended.get(name) is not None]


def _kept(surface: Surface, points: np.ndarray) -> np.ndarray:
    """(n, d) -> (n,): whether `constraints` hold there."""
    if not surface.space.constraints:
        return np.ones(len(points), dtype=bool)
    return np.array([surface.space.keeps_constraints(surface.params(point)) for point in points])


def _slice(centre: np.ndarray, column: int, grid: np.ndarray) -> np.ndarray:
    """(len(grid), d): the centre, with one column along `grid`."""
    points = np.repeat(centre[None], len(grid), 0)
    points[:, column] = grid
    return points


def _moves(surface: Surface, decades: float, count: int, seed: int = 0) -> np.ndarray:
    """(count, d): `Coordinates.moves`, with the columns of choices, which do not move."""
    moves = surface.moves(decades, count, seed)
    return np.hstack([moves, np.zeros((count, surface.points.shape[1] - moves.shape[1]))])
