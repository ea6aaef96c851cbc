"""The score as a function of the hyperparameters: a Gaussian process over a search's trials."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from condense.config.models import Hyperparameters
from search.analysis.coordinates import Coordinates
from search.analysis.scores import by_tail
from search.ledger.ledger import TrialRecord
from search.space.model import Robust, Space

DEFAULTS = ("paper_default", "default")  # are of no range
FEWEST_TRIALS = 8  # with fewer a model says nothing
MOST_TRIALS = 500  # that a model is of, as its time is cubic in them
BEST_SHARE = 0.3  # of these, the best by their scores
LEAST_COVERAGE = 0.85  # of a model that may be trusted
CHUNK = 8192  # points predicted at a time


@dataclass(frozen=True)
class Scored:
    """A trial: its hyperparameters, its score (`search.analysis.scores.level`), and the standard error of the score."""

    params: Mapping[str, Any]
    mean: float
    standard_error: float


def of_space(space: Space, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials that differ in searched hyperparameters only: elsewhere these do not determine the score. Not those that lie
    outside of ranges or constraints which have been changed since. Their `params` are of what is searched now."""
    found = []
    for record in records:
        setting = Hyperparameters.model_validate(record.config)
        params = space.params_of(setting)
        if space.differs_in_searched_only(setting) and (record.name in DEFAULTS or space.admits(params)):
            found.append(record if params == record.params else replace(record, params=params))
    return found


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

    gains: dict[int, list[float]] = defaultdict(list)
    for r in completed:
        for report in r.reports:
            gains[report.step].append(r.metrics[target] - report.metrics[target])
    gain = {step: float(np.median(own)) for step, own in gains.items()}

    def error(r: TrialRecord) -> float:
        known = seeds_of(r) > 2 or typical is None
        return (r.metrics["score_std"] if known or typical is None else typical) / math.sqrt(seeds_of(r))

    known = [
        Scored(r.params, r.metrics[target] + (gain.get(r.steps, 0.0) if r.status == "pruned" else 0.0), error(r))
        for r in inside
    ]
    if known:
        worst, middle = min(t.mean for t in known), float(np.median([t.standard_error for t in known]))
        known += [Scored(r.params, worst, middle) for r in records if r.diverged and r.name != "paper_default"]
    return known


def informative(space: Space, trials: Sequence[Scored], most: int = MOST_TRIALS) -> list[Scored]:
    """At most `most` trials for a model, in their order: the best, and of the others those that fill the space, each the one
    farthest from all that are chosen (Gonzalez 1985). The same every time; all of them where they are no more than `most`."""
    if len(trials) <= most:
        return list(trials)
    coordinates = Coordinates(space)
    points = np.array([coordinates.at(t.params) for t in trials])
    chosen = np.argsort([-t.mean for t in trials], kind="stable")[: round(BEST_SHARE * most)].tolist()
    apart = np.full(len(points), np.inf)
    for i in chosen:
        apart = np.minimum(apart, ((points - points[i]) ** 2).sum(1))
    while len(chosen) < most:
        apart[chosen] = -1.0  # several trials may share a point
        chosen.append(int(np.argmax(apart)))
        apart = np.minimum(apart, ((points - points[chosen[-1]]) ** 2).sum(1))
    return [trials[i] for i in sorted(chosen)]


def left_out(trials: Sequence[Scored]) -> dict[str, int]:
    """How many trials `informative` leaves out, for `search.report.model.Surrogate`; {} for none."""
    return {"left_out": len(trials) - MOST_TRIALS} if len(trials) > MOST_TRIALS else {}


def seeds_of(record: TrialRecord) -> int:
    """How many seeds a trial's last report covers; racing gives some trials fewer."""
    return int(record.metrics.get("seeds", len(record.seeds)))


@dataclass(frozen=True)
class LeaveOneOut:
    """How well each trial is predicted by a model of the others.

    Attributes:
        trials: their number.
        rmse: root mean squared error, in units of the score.
        r2: 1 minus the mean squared error over the variance of the scores: 0 for a prediction that is no better than their mean.
        coverage: share of the scores within the 95 % band of their prediction.
    """

    trials: int
    rmse: float
    r2: float
    coverage: float

    @property
    def trusted(self) -> bool:
        """Whether the model may be used: its predictions are better than the mean, and its bands cover.

        A model of nothing but noise passes in up to three cases of ten with 20 trials, in one of ten with 48 (benchmarks/LOG.md):
        the kernel has been fitted to the trial that is left out, too. So real runs judge what a model proposes.
        """
        return self.r2 >= 0.2 + 2 / self.trials and self.coverage >= LEAST_COVERAGE

    def as_json(self) -> dict[str, Any]:
        """`search.report.model.Surrogate`."""
        own = {"trials": self.trials, "loo_rmse": self.rmse, "loo_r2": self.r2, "coverage": self.coverage}
        return {**own, "trusted": self.trusted}


class Surface(Coordinates):
    """A Gaussian process (Matern 5/2, a length scale per hyperparameter, noise fitted) over trials' mean scores.

    The variance of a trial's mean over its seeds is known to the model. Scores more than three times as far below the median as
    the best one is above it count as that far below: a cliff in a bad region would shorten the length scales in the good one.
    No mean above the best trial's is predicted: what lies between the trials is not known to be better than all of them.

    Attributes:
        noise: standard deviation that neither the hyperparameters nor the spread over seeds explain.
        standard_error: a trial's, over its seeds (median).
        check: leave-one-out.
    """

    def __init__(self, space: Space, trials: Sequence[Scored]) -> None:
        """Raises ValueError for fewer than 8 trials, or a space without numeric hyperparameters."""
        super().__init__(space)
        if len(trials) < FEWEST_TRIALS or not self.names:
            raise ValueError(
                f"{len(trials)} trials over {len(self.names)} numeric hyperparameters are too few for a model"
            )
        self.standard_error = float(np.median([t.standard_error for t in trials]))
        self.points = np.array([self.at(t.params) for t in trials])
        y, error = top_part(np.array([t.mean for t in trials]), np.array([t.standard_error for t in trials]))
        self._middle, self._spread = float(y.mean()), float(y.std()) or 1.0
        self._process = _fit(self.points, (y - self._middle) / self._spread, error / self._spread)
        self._noise = float(self._process.kernel_.k2.noise_level)
        self.noise = math.sqrt(self._noise) * self._spread
        self._highest = float(self._process.predict(self.points).max())
        self.check = _leave_one_out(self._process, self._spread)

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) -> mean (n,) and standard deviation (n,) of the score's expectation there."""
        points = self.settled(points)
        means, stds = [], []
        for start in range(0, len(points), CHUNK):
            mean, std = self._process.predict(points[start : start + CHUNK], return_std=True)
            means.append(np.minimum(mean, self._highest) * self._spread + self._middle)
            stds.append(np.sqrt(np.maximum(std**2 - self._noise, 0)) * self._spread)
        return np.concatenate(means), np.concatenate(stds)

    def mean(self, points: np.ndarray) -> np.ndarray:
        """(n, d) -> (n,): `predict` without the deviation, which costs most."""
        points = self.settled(points)
        parts = [self._process.predict(points[start : start + CHUNK]) for start in range(0, len(points), CHUNK)]
        return np.minimum(np.concatenate(parts), self._highest) * self._spread + self._middle


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


def top_part(y: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and their standard errors, (n,) each -> the same, none further below the median than three times what the best is
    above it. What is clipped is as sure as a normal variable clipped there (its standard deviation)."""
    from scipy.stats import norm

    middle = np.median(y)
    floor = middle - 3 * (y.max() - middle)
    z = (y - floor) / np.maximum(error, 1e-12)
    above, density = norm.cdf(z), norm.pdf(z)
    variance = (z**2 + 1) * above + z * density - (z * above + density) ** 2
    return np.maximum(y, floor), error * np.sqrt(np.clip(variance, 0, 1))


def _leave_one_out(process: Any, spread: float) -> LeaveOneOut:
    """In closed form, with the kernel as fitted to all (Rasmussen and Williams 2006, equation 5.12)."""
    y = process.y_train_
    inverse = np.linalg.inv(process.kernel_(process.X_train_) + np.diag(process.alpha))
    precision = np.diag(inverse)
    error = inverse @ y / precision  # of each score to its prediction
    r2 = 1 - float(np.mean(error**2) / y.var()) if y.var() else 0.0
    covered = float(np.mean(np.abs(error) * np.sqrt(precision) <= 1.96))
    return LeaveOneOut(len(y), float(np.sqrt(np.mean(error**2))) * spread, r2, covered)
