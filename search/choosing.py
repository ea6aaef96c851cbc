"""Which setting to recommend: candidates are run on fresh seeds, and around them; nothing here is about the test split.

The best trial of a search is the luckiest one. So the top trials meet the plateau's setting (`search/plateau.py`) on seeds
that no trial has used, and real runs around it and around the best trial say what is left when all hyperparameters move. The
plateau's setting rests on all trials, not on its own luck: it is recommended unless it is worse than the best there, or the runs
around it are worse than those around another; then it is the best of those that remain, by the 10 % quantile of the runs around.
What the choice is worth is measured afterwards, on other seeds (`search/closing.py`), which had no part in it: that corrects
for having picked the best of several. Only the quantile of the runs around it is that of the choice, and is told as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from search.intervals import paired_difference, tied_with_best
from search.ledger import TrialRecord
from search.plateau import QUANTILE, perturbed, plateau_setting
from search.robust import mean_and_std, per_seed_means, robust_score
from search.space import Space
from search.surface import Surface, seeds_of

PLATEAU = "plateau"
Evaluate = Callable[[Mapping[str, dict[str, Any]], Sequence[int], str], dict[str, list[float]]]
"""(label -> all hyperparameters, seeds, stage) -> label -> shares of full-data accuracy, task-major; NaN where a loss was not
finite."""


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
    around: list[float] = field(default_factory=list)  # mean share of each real run nearby

    @property
    def quantile(self) -> float | None:
        """The 10 % quantile over the runs nearby; None if there were none."""
        return float(np.quantile(self.around, QUANTILE)) if self.around else None


@dataclass(frozen=True)
class Choice:
    """What is recommended, and what it was compared with."""

    chosen: Candidate
    candidates: list[Candidate]
    predicted: float | None  # the plateau's 10 % quantile, as the model had it

    def as_json(self, tasks: int) -> list[dict[str, Any]]:
        """The candidates, best score first."""
        rows = []
        for c in sorted(self.candidates, key=lambda c: -finite(c.score)):
            values = per_seed_means(c.shares, tasks)
            around = None if not c.around else {"quantile": c.quantile, "mean": fmean(c.around), "n": len(c.around)}
            mean, std = mean_and_std(values)
            row = {"label": c.label, "trial": c.trial, "params": c.params, "score": c.score, "perturbed": around}
            row["confirmed"] = {"mean": mean, "std": std, "n": len(values)}
            rows.append({**row, "tied": c.tied, "chosen": c is self.chosen})
        return rows


def choose(
    space: Space, records: Sequence[TrialRecord], surface: Surface | None, evaluate: Evaluate, seeds: Sequence[int]
) -> Choice | None:
    """The recommendation of a search; None if no trial can be recommended. `seeds`: fresh ones, to choose on."""
    candidates = [
        Candidate(f"trial {r.number}", r.number, r.params, r.config)
        for r in best_trials(records, space.confirmation.top_k)
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
    tied = tied_with_best({c.label: per_seed_means(c.shares, tasks) for c in candidates})
    for c in candidates:
        c.tied = c.label in tied
    if surface is not None and space.confirmation.perturbations:
        _run_around(space, candidates, surface, evaluate, seeds)
    return Choice(_chosen(candidates), candidates, predicted)


def _chosen(candidates: Sequence[Candidate]) -> Candidate:
    """The plateau's setting, unless real runs speak against it."""
    best = max(candidates, key=lambda c: finite(c.score))
    rivals = [c for c in candidates if c.tied and c.around and c.label != PLATEAU]
    plateau = next((c for c in candidates if c.label == PLATEAU and c.tied), None)
    if plateau is not None:
        worse = [
            c
            for c in rivals
            if plateau.around and len(c.around) > 1 and paired_difference(plateau.around, c.around).high < 0
        ]
        if not worse:
            return plateau
        rivals = worse
    return max(rivals or [best], key=lambda c: (finite(c.quantile), finite(c.score)))


def _run_around(
    space: Space, candidates: Sequence[Candidate], surface: Surface, evaluate: Evaluate, seeds: Sequence[int]
) -> None:
    """Real runs near three candidates: the search's best, the best on fresh seeds, and the plateau's; the same moves for all."""
    best = max(candidates, key=lambda c: finite(c.score))
    looked_at = list({c.label: c for c in (candidates[0], best, candidates[-1])}.values())
    settings = {}
    for c in looked_at:
        near = perturbed(surface, c.params, space.confirmation.perturbed_decades, space.confirmation.perturbations)
        for i, params in enumerate(near):
            settings[f"{c.label} moved {i}"] = space.hyperparameters(params).model_dump(mode="json")
    results = evaluate(settings, seeds[: space.confirmation.perturbed_seeds], "perturbed")
    for c in looked_at:
        means = [fmean(results[f"{c.label} moved {i}"]) for i in range(space.confirmation.perturbations)]
        c.around = [value if math.isfinite(value) else 0.0 for value in means]  # a loss that was not finite: nothing


def best_trials(records: Sequence[TrialRecord], top_k: int) -> list[TrialRecord]:
    """The trials worth confirming, best first: completed ones with the most seeds, then, where those are too few, those that
    were stopped latest (a confirmation takes all steps). The paper's default is out: its lambdas mean something else.
    """
    inside = [r for r in records if r.status in ("completed", "pruned") and r.name != "paper_default" and r.reports]
    return sorted(inside, key=lambda r: (r.status != "completed", -seeds_of(r), -r.steps, -score_of(r)))[:top_k]


def score_of(record: TrialRecord) -> float:
    """A trial's robust score."""
    return record.metrics["score"] if record.score is None else record.score


def finite(value: float | None) -> float:
    """`value`, or minus infinity for what cannot be compared."""
    return value if value is not None and math.isfinite(value) else -math.inf
