"""A trial as the report shows it: a row of its table, a mark in its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from search.ledger.ledger import TrialRecord

DRAWN = 1000  # trials in a figure, at most
BEST = 100  # of these, by their scores
POINTS = 20_000  # over the steps of all trials that are drawn
Element = TypeVar("Element")
JUDGED = ("accuracy/", "log_loss/", "retrieval/")  # metrics of single seeds begin so


@dataclass(frozen=True)
class Trial:
    """A trial that has ended. Numbers are None where there is none, or it was not finite."""

    number: int
    status: str  # completed, pruned or failed
    params: dict[str, Any]  # the searched hyperparameters
    name: str | None = None  # `default` or `paper_default`
    error: str | None = None
    score: float | None = None  # robust score
    score_mean: float | None = None  # over seeds, as is `score_std`
    score_std: float | None = None
    steps: int = 0
    seconds: float = 0.0
    accuracies: Sequence[float] = ()  # per seed (and task): what the tasks are judged by
    progress: Sequence[tuple[int, float]] = ()  # (step, score), in order

    @classmethod
    def of(cls, record: TrialRecord) -> Trial:
        """What the ledger has of a trial."""
        metrics = record.metrics
        return cls(
            number=record.number,
            status=record.status,
            params=record.params,
            name=record.name,
            error=record.error,
            score=_finite(record.score),
            score_mean=_finite(metrics.get("score_mean")),
            score_std=_finite(metrics.get("score_std")),
            steps=record.steps,
            seconds=record.seconds,
            accuracies=[value for name, value in metrics.items() if name.startswith(JUDGED)],
            progress=[(r.step, score) for r in record.reports if (score := _finite(r.metrics["score"])) is not None],
        )


def scored(trials: Sequence[Trial], status: str | None = None) -> list[tuple[Trial, float]]:
    """(trial, score) of those that have a score, in number order."""
    found = [(t, t.score) for t in trials if t.score is not None and status in (None, t.status)]
    return sorted(found, key=lambda pair: pair[0].number)


def comparable(trials: Sequence[Trial], status: str | None = None) -> list[tuple[Trial, float]]:
    """As `scored`, in the search's own scaling: the same lambda means something else in the paper's."""
    return [(trial, score) for trial, score in scored(trials, status) if trial.name != "paper_default"]


def drawn(trials: Sequence[Trial]) -> list[Trial]:
    """Those that figures show: all, or of more than a thousand the defaults, the best, and evenly many of the others."""
    if len(trials) <= DRAWN:
        return list(trials)
    best = sorted(scored(trials), key=lambda pair: -pair[1])[:BEST]
    kept = {t.number for t, _ in best} | {t.number for t in trials if t.name}
    others = evenly([t for t in trials if t.number not in kept], DRAWN - len(kept))
    kept |= {t.number for t in others}
    return [t for t in trials if t.number in kept]


def evenly(elements: Sequence[Element], most: int) -> list[Element]:
    """At most so many, evenly many from start to end, the last one included."""
    if len(elements) <= most:
        return list(elements)
    return [elements[(i + 1) * len(elements) // most - 1] for i in range(most)]


def varied(trials: Sequence[Trial]) -> list[str]:
    """The hyperparameters that the sampler varied, in the order of the trials' parameters."""
    seen: dict[str, set[str]] = {}
    for trial in trials:
        if not trial.name:
            for name, value in trial.params.items():
                seen.setdefault(name, set()).add(repr(value))
    return [name for name, values in seen.items() if len(values) > 1]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
