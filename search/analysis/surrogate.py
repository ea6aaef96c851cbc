"""The score as a function of the hyperparameters: a Gaussian process over a search's trials."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from condense.config.models import Hyperparameters
from search.analysis.scores import by_tail
from search.ledger.ledger import TrialRecord
from search.space.model import Robust, Space, is_integer

FEWEST_TRIALS = 8  # with fewer a model says nothing
CHUNK = 8192  # points predicted at a time


@dataclass(frozen=True)
class Scored:
    """A trial: its hyperparameters, its score (`search.analysis.scores.level`), and the standard error of the score."""

    params: Mapping[str, Any]
    mean: float
    standard_error: float


def of_space(space: Space, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials that differ in searched hyperparameters only: elsewhere these do not determine the score."""
    return [r for r in records if space.differs_in_searched_only(Hyperparameters.model_validate(r.config))]


def scored(records: Sequence[TrialRecord], robust: Robust | None = None) -> list[Scored]:
    """The search's trials at their last step.

    A trial that was stopped early gets the median gain of completed trials after that step added; one whose loss was not
    finite counts as the worst. Leaving them out would lose what is known of bad regions. A trial with fewer than three
    seeds gets the median spread of the others.
    """
    target = "score" if robust is not None and by_tail(robust) else "score_mean"
    inside = [r for r in records if r.status in ("completed", "pruned") and r.name != "paper_default" and r.reports]
    completed = [r for r in inside if r.status == "completed"]
    spreads = [r.metrics["score_std"] for r in inside if seeds_of(r) > 2]
    typical = float(np.median(spreads)) if spreads else None

    def gain(step: int) -> float:
        gains = [
            r.metrics[target] - report.metrics[target] for r in completed for report in r.reports if report.step == step
        ]
        return float(np.median(gains)) if gains else 0.0

    def error(r: TrialRecord) -> float:
        known = seeds_of(r) > 2 or typical is None
        return (r.metrics["score_std"] if known or typical is None else typical) / math.sqrt(seeds_of(r))

    known = [
        Scored(r.params, r.metrics[target] + (gain(r.steps) if r.status == "pruned" else 0.0), error(r)) for r in inside
    ]
    if known:
        worst, middle = min(t.mean for t in known), float(np.median([t.standard_error for t in known]))
        known += [Scored(r.params, worst, middle) for r in records if r.diverged and r.name != "paper_default"]
    return known


def seeds_of(record: TrialRecord) -> int:
    """How many seeds a trial's last report covers; racing gives some trials fewer."""
    return int(record.metrics.get("seeds", len(record.seeds)))


class Surface:
    """A Gaussian process (Matern 5/2, a length scale per hyperparameter, noise fitted) over trials' mean scores.

    Points are (d,) in [0, 1]: the numeric hyperparameters, on a log scale where the space has one, then a column of 0 or 1 for
    each value of those with choices. The variance of a trial's mean over its seeds is known to the model.

    Attributes:
        names: the numeric hyperparameters, in the order of the columns.
        noise: standard deviation that neither the hyperparameters nor the spread over seeds explain.
        standard_error: a trial's, over its seeds (median).
    """

    def __init__(self, space: Space, trials: Sequence[Scored]) -> None:
        """Raises ValueError for fewer than 8 trials, or a space without numeric hyperparameters."""
        self.space = space
        self.names = [name for name, d in space.search.items() if d.choices is None]
        self.choices = {name: list(d.choices) for name, d in space.search.items() if d.choices is not None}
        if len(trials) < FEWEST_TRIALS or not self.names:
            raise ValueError(
                f"{len(trials)} trials over {len(self.names)} numeric hyperparameters are too few for a model"
            )
        self.standard_error = float(np.median([t.standard_error for t in trials]))
        self.points = np.array([self.at(t.params) for t in trials])
        y = np.array([t.mean for t in trials])
        self._middle, self._spread = float(y.mean()), float(y.std()) or 1.0
        self._process = _fit(
            self.points,
            (y - self._middle) / self._spread,
            np.array([t.standard_error for t in trials]) / self._spread,
        )
        self._noise = float(self._process.kernel_.k2.noise_level)
        self.noise = math.sqrt(self._noise) * self._spread

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) -> mean (n,) and standard deviation (n,) of the score's expectation there."""
        means, stds = [], []
        for start in range(0, len(points), CHUNK):
            mean, std = self._process.predict(points[start : start + CHUNK], return_std=True)
            means.append(mean * self._spread + self._middle)
            stds.append(np.sqrt(np.maximum(std**2 - self._noise, 0)) * self._spread)
        return np.concatenate(means), np.concatenate(stds)

    def mean(self, points: np.ndarray) -> np.ndarray:
        """(n, d) -> (n,): `predict` without the deviation, which costs most."""
        parts = [self._process.predict(points[start : start + CHUNK]) for start in range(0, len(points), CHUNK)]
        return np.concatenate(parts) * self._spread + self._middle

    def at(self, params: Mapping[str, Any]) -> np.ndarray:
        """(d,): the point of a setting."""
        numeric = [self.position(name, float(params[name])) for name in self.names]
        chosen = [float(params[name] == value) for name, values in self.choices.items() for value in values]
        return np.array([*numeric, *chosen])

    def params(self, point: np.ndarray) -> dict[str, Any]:
        """Inverse of `at`, in the order of the space."""
        known: dict[str, Any] = {name: self.value(name, x) for name, x in zip(self.names, point, strict=False)}
        column = len(self.names)
        for name, values in self.choices.items():
            known[name] = values[int(np.argmax(point[column : column + len(values)]))]
            column += len(values)
        return {name: known[name] for name in self.space.search}

    def is_proposable(self, point: np.ndarray) -> bool:
        """Whether each hyperparameter with choices has one of them as its value; a default may not."""
        return float(point[len(self.names) :].sum()) == len(self.choices)

    def position(self, name: str, value: float) -> float:
        """Where a value of a numeric hyperparameter lies in its range: 0 at the low end, 1 at the high one."""
        d = self.space.search[name]
        assert d.low is not None and d.high is not None
        low, high, at = (math.log(d.low), math.log(d.high), math.log(value)) if d.log else (d.low, d.high, value)
        return (at - low) / (high - low)

    def value(self, name: str, at: float) -> Any:
        """Inverse of `position`; never outside the range."""
        d = self.space.search[name]
        assert d.low is not None and d.high is not None
        value = math.exp(math.log(d.low) * (1 - at) + math.log(d.high) * at) if d.log else d.low + at * (d.high - d.low)
        value = float(min(max(value, d.low), d.high))  # rounding must not leave the space
        return round(value) if is_integer(name) else value

    def spread(self, names: Sequence[str], count: int) -> list[dict[str, Any]]:
        """`count` settings of these numeric hyperparameters, spread evenly over their ranges."""
        return [
            {name: self.value(name, x) for name, x in zip(names, row, strict=True)}
            for row in sobol_points(len(names), count, 3)
        ]

    def reach(self, decades: float) -> np.ndarray:
        """(numeric,): how far `decades` are on each scale; on one that is not log, that share of the range."""
        reach = []
        for name in self.names:
            d = self.space.search[name]
            assert d.low is not None and d.high is not None
            reach.append(decades / math.log10(d.high / d.low) if d.log else decades)
        return np.array(reach)


def _fit(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.full(x.shape[1], 0.5), (0.1, 10), nu=2.5)
    kernel += WhiteKernel(0.05, (1e-4, 1.0))
    process = GaussianProcessRegressor(kernel, alpha=error**2 + 1e-10, n_restarts_optimizer=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: the score is flat there
        return process.fit(x, y)


def sobol_points(dimensions: int, count: int, seed: int) -> np.ndarray:
    """(count, dimensions) in [0, 1): a scrambled Sobol sequence, the same every time."""
    from scipy.stats import qmc

    power = max(0, int(np.ceil(np.log2(count))))
    points: np.ndarray = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed)).random_base2(power)
    return points[:count]
