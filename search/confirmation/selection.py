"""Chooses the setting to recommend: runs candidates, and settings around them, on fresh seeds. Never uses the test split.

The best trial of a search is the luckiest one. So the top trials are compared with the plateau's setting
(`search/analysis/robustness.py`) on seeds that no trial has used, and real runs around both show how much of the score remains
when all hyperparameters move. The plateau's setting rests on all trials, not on luck: it is recommended unless it is worse
than the best one on these seeds, or the runs around it are worse than those around another. Otherwise the best of the rest is
recommended, by the 10 % quantile of the runs around it. Its score, and the runs around it, are then measured on other seeds
(`search/confirmation/stages.py`), which corrects for having picked the best of several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from search.analysis.ranking import best_trials
from search.analysis.robustness import plateau_setting
from search.analysis.scores import by_tail, level, mean_and_std, per_seed_means, per_task, robust_score, tail_mean
from search.analysis.statistics import paired_difference, tied_by_score, tied_with_best
from search.analysis.surrogate import Scored, Surface, of_space
from search.confirmation.perturbation import CHOOSING, Around, Evaluate, run_around
from search.ledger.ledger import TrialRecord
from search.space.model import Space

PLATEAU = "plateau"


@dataclass
class Candidate:
    """A setting that may be recommended, and how it did."""

    label: str
    trial: int | None  # None: the plateau's
    params: dict[str, Any]
    config: dict[str, Any]  # all hyperparameters
    shares: list[float] = field(default_factory=list)  # on the choosing seeds, task-major
    score: float = math.nan
    tied: bool = False
    around: Around = field(default_factory=Around)  # real runs around it


@dataclass(frozen=True)
class Choice:
    """The recommended setting, and what it was compared with."""

    chosen: Candidate
    candidates: list[Candidate]
    predicted: float | None  # the plateau's 10 % quantile, by the model

    def as_json(self, tasks: int) -> list[dict[str, Any]]:
        """The candidates, best score first."""
        rows = []
        for c in sorted(self.candidates, key=lambda c: -finite(c.score)):
            values = per_seed_means(c.shares, tasks)
            near, around = c.around, None
            if near.values:
                around = {"quantile": near.quantile, "mean": fmean(near.values), "n": len(near.values)}
            mean, std = mean_and_std(values)
            row = {"label": c.label, "trial": c.trial, "params": c.params, "score": c.score, "perturbed": around}
            row["confirmed"] = {"mean": mean, "std": std, "n": len(values)}
            rows.append({**row, "tied": c.tied, "chosen": c is self.chosen})
        return rows


def choose(
    space: Space, records: Sequence[TrialRecord], surface: Surface | None, evaluate: Evaluate, seeds: Sequence[int]
) -> Choice | None:
    """The recommendation of a search; None if no trial can be recommended. `seeds`: fresh seeds to choose on.

    A default that differs from the space in a fixed hyperparameter is not a candidate: what the user fixed stays fixed.
    """
    candidates = [
        Candidate(f"trial {r.number}", r.number, r.params, r.config)
        for r in best_trials(of_space(space, records), space.confirmation.top_k)
    ]
    if not candidates:
        return None
    predicted = None
    if surface is not None:
        params, predicted = plateau_setting(surface, space.confirmation.perturbed_decades)
        config = space.hyperparameters(params).model_dump(mode="json")
        candidates.append(Candidate(PLATEAU, None, params, config))
    tasks = len(space.tasks)
    results = evaluate({c.label: c.config for c in candidates}, seeds, "choosing")
    for c in candidates:
        c.shares = results[c.label]
        c.score = robust_score(c.shares, tasks, space.robust)[0]
    tied = _tied(space, candidates)
    for c in candidates:
        c.tied = c.label in tied
    if surface is not None and space.confirmation.perturbations:
        _run_around(space, candidates, surface, evaluate, seeds)
    return Choice(_chosen(candidates), candidates, predicted)


def measured(choice: Choice, space: Space) -> list[Scored]:
    """The candidates' results on the choosing seeds, as further data for the model. Diverged ones are left out."""
    found = []
    for c in choice.candidates:
        _, mean, std = robust_score(c.shares, len(space.tasks), space.robust)
        if math.isfinite(mean):
            seeds = len(c.shares) // len(space.tasks)
            found.append(Scored(c.params, level(c.shares, len(space.tasks), space.robust), std / math.sqrt(seeds)))
    return found


def _chosen(candidates: Sequence[Candidate]) -> Candidate:
    """The plateau's setting, unless real runs speak against it."""
    best = max(candidates, key=lambda c: finite(c.score))
    rivals = [c for c in candidates if c.tied and c.around.values and c.label != PLATEAU]
    plateau = next((c for c in candidates if c.label == PLATEAU and c.tied), None)
    if plateau is not None:
        worse = [c for c in rivals if plateau.around.values and _less_steady(plateau.around, c.around)]
        if not worse:
            return plateau
        rivals = worse
    return max(rivals or [best], key=lambda c: (finite(c.around.quantile), finite(c.score)))


def _less_steady(own: Around, other: Around) -> bool:
    """Whether the runs around a setting are worse than those around another, with the same moves: more of them diverged, or,
    if none did, they score less (95 %)."""
    if own.diverged != other.diverged:
        return own.diverged > other.diverged
    both = [(a, b) for a, b in zip(own.values, other.values, strict=True) if a and b]
    return len(both) > 1 and paired_difference(*map(list, zip(*both, strict=True))).high < 0


def _tied(space: Space, candidates: Sequence[Candidate]) -> set[str]:
    """The settings tied with the best, by their means; by the score if that is made of the lowest replicas."""
    tasks = len(space.tasks)
    if by_tail(space.robust):
        shares = {c.label: per_task(c.shares, tasks) for c in candidates}
        return tied_by_score(shares, lambda values: tail_mean(values, space.robust))
    return tied_with_best({c.label: per_seed_means(c.shares, tasks) for c in candidates})


def _run_around(
    space: Space, candidates: Sequence[Candidate], surface: Surface, evaluate: Evaluate, seeds: Sequence[int]
) -> None:
    """Real runs around three candidates, with the same moves: the search's best, the best on fresh seeds, and the plateau's."""
    best = max(candidates, key=lambda c: finite(c.score))
    looked_at = list({c.label: c for c in (candidates[0], best, candidates[-1])}.values())
    settings = {c.label: c.config for c in looked_at}
    found = run_around(space, surface, settings, evaluate, seeds, space.confirmation.perturbations, CHOOSING)
    for c in looked_at:
        c.around = found[c.label]


def finite(value: float | None) -> float:
    """`value`, or minus infinity if it cannot be compared."""
    return value if value is not None and math.isfinite(value) else -math.inf
