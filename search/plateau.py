"""How far each hyperparameter may stray from the recommended value: a Gaussian process over the search's trials."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.ledger import TrialRecord
from search.space import Space

FEWEST_TRIALS = 8  # with fewer there is no telling
POINTS = 201  # of a slice through the model


@dataclass(frozen=True)
class Scored:
    """A trial: its hyperparameters, mean score over seeds, and the standard error of that mean."""

    params: Mapping[str, Any]
    mean: float
    standard_error: float


def scored(records: Sequence[TrialRecord]) -> list[Scored]:
    """The search's trials at their last step. To one that was stopped early, what completed trials gained from the step
    it was stopped at (their median) is added: leaving it out would leave out what is known of bad regions.
    """
    inside = [r for r in records if r.status in ("completed", "pruned") and r.name != "paper_default" and r.reports]
    completed = [r for r in inside if r.status == "completed"]

    def gain(step: int) -> float:
        gains = [
            r.metrics["score_mean"] - report.metrics["score_mean"]
            for r in completed
            for report in r.reports
            if report.step == step
        ]
        return float(np.median(gains)) if gains else 0.0

    return [
        Scored(
            r.params,
            r.metrics["score_mean"] + (gain(r.steps) if r.status == "pruned" else 0.0),
            r.metrics["score_std"] / math.sqrt(len(r.seeds)),
        )
        for r in inside
    ]


def robust_region(space: Space, trials: Sequence[Scored], recommended: Mapping[str, Any]) -> dict[str, list[float]]:
    """hyperparameter -> [low, high]: the contiguous range around the recommended value, all others at theirs, in which
    the modelled mean score is within one standard error of the recommended setting's.

    The model is a Gaussian process (Matern 5/2, a length scale per hyperparameter, noise fitted) over the numeric
    hyperparameters, each scaled to [0, 1], on a log scale where the space has one. The standard error is the largest of:
    a trial's over its seeds (median), the fitted noise, the model's own at the recommended setting. Ranges end where
    the space does. Empty with fewer than 8 trials.
    """
    names = [name for name, d in space.search.items() if d.choices is None]
    if len(trials) < FEWEST_TRIALS or not names:
        return {}
    points = np.array([_scaled(space, names, t.params) for t in trials])
    model, noise = _fit(points, np.array([t.mean for t in trials]))
    centre = _scaled(space, names, recommended)
    (best,), (uncertainty,) = model(centre[None])
    enough = best - max(uncertainty, noise, float(np.median([t.standard_error for t in trials])))
    region = {}
    for i, name in enumerate(names):
        grid = np.linspace(0, 1, POINTS)
        slice_ = np.repeat(centre[None], POINTS, 0)
        slice_[:, i] = grid
        good = model(slice_)[0] >= enough
        start = int(np.abs(grid - centre[i]).argmin())
        low = high = start
        while low > 0 and good[low - 1]:
            low -= 1
        while high < POINTS - 1 and good[high + 1]:
            high += 1
        value = float(recommended[name])
        region[name] = [min(value, _value(space, name, grid[low])), max(value, _value(space, name, grid[high]))]
    return region


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], float]:
    """(n, d) in [0, 1], (n,) -> the posterior's mean and std as a function of (m, d); the fitted noise's std."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.full(x.shape[1], 0.5), (0.1, 10), nu=2.5)
    kernel += WhiteKernel(0.05, (1e-4, 1.0))
    spread = float(y.std()) or 1.0
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: the score is flat there
        process.fit(x, (y - y.mean()) / spread)
    noise = process.kernel_.k2.noise_level

    def model(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = process.predict(points, return_std=True)
        return mean * spread + y.mean(), np.sqrt(np.maximum(std**2 - noise, 0)) * spread

    return model, math.sqrt(noise) * spread


def _scaled(space: Space, names: Sequence[str], params: Mapping[str, Any]) -> np.ndarray:
    """(d,) in [0, 1]."""
    scaled = []
    for name in names:
        d, value = space.search[name], float(params[name])
        assert d.low is not None and d.high is not None
        low, high, at = (math.log(d.low), math.log(d.high), math.log(value)) if d.log else (d.low, d.high, value)
        scaled.append((at - low) / (high - low))
    return np.array(scaled)


def _value(space: Space, name: str, at: float) -> float:
    d = space.search[name]
    assert d.low is not None and d.high is not None
    value = math.exp(math.log(d.low) * (1 - at) + math.log(d.high) * at) if d.log else d.low + at * (d.high - d.low)
    return float(min(max(value, d.low), d.high))  # rounding must not leave the space
