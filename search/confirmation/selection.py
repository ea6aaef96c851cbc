"""Chooses the setting to recommend: runs candidates, and settings around them, on fresh seeds. Never uses the test split.

The best trial of a search is the luckiest one. So the top trials are compared with the plateau's setting
(`search/analysis/robustness.py`) on seeds that no trial has used, and real runs around both show how much of the score remains
when all hyperparameters move. The plateau's setting rests on all trials, not on luck: it is the challenger unless it is worse
than the best one on these seeds, or the runs around it are worse than those around another. Otherwise the challenger is the
best of the rest, by the 10 % quantile of the runs around it.

Published settings (the paper's default, the project's, tuned MMD) run on the same seeds. The challenger is recommended over
the best of them only if it is shown to be better on new items, too, although it is the best of all settings that were tried on
these ones (`search/analysis/paired.py`). Else the published one is kept. The score of what is recommended, and the runs around
it, are then measured on other seeds (`search/confirmation/stages.py`).

Seeds are added only where that is open (`search/confirmation/elimination.py`), and settings are moved only where several of
them are shown to be better: what else runs around would say changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from condense.config.models import Hyperparameters
from search.analysis.paired import Paired
from search.analysis.ranking import best_trials
from search.analysis.robustness import plateau_setting
from search.analysis.scores import by_tail, level, mean_and_std, per_seed_means, per_task, robust_score, tail_mean
from search.analysis.sequential import looks
from search.analysis.statistics import tied_by_score, tied_with_best
from search.analysis.surrogate import Scored, Surface, of_space
from search.confirmation.elimination import Settled, Stopped, compare_in_looks
from search.confirmation.perturbation import CHOOSING, Around, Evaluate, run_around, searched_values
from search.ledger.ledger import TrialRecord
from search.space.model import Space

PLATEAU = "plateau"
Compare = Callable[[Mapping[str, Any], Mapping[str, Any], Sequence[int], int], Paired]
"""(all hyperparameters of a setting, of another, seeds that both have run on, how many the first is the best of) -> their
difference."""

Affords = Callable[[int], bool]
"""Whether so many more runs are within the budget, beside what is needed to report the choice."""

LogLosses = Callable[[Mapping[str, dict[str, Any]]], Mapping[str, float]]
"""label -> all hyperparameters, of settings that have run -> their log-loss scores where all are at the ceiling, else nothing."""


@dataclass
class Candidate:
    """A setting that may be recommended, and how it did."""

    label: str
    trial: int | None  # None: the plateau's and published ones
    params: dict[str, Any]
    config: dict[str, Any]  # all hyperparameters
    shares: list[float] = field(default_factory=list)  # on the choosing seeds, task-major
    score: float = math.nan
    tied: bool = False
    around: Around = field(default_factory=Around)  # real runs around it
    published: bool = False
    mean: float = -math.inf  # what settings are compared by (`search.analysis.scores.level`), if finite

    def take(self, shares: list[float], space: Space) -> None:
        """The results of its runs."""
        self.shares = shares
        self.score = robust_score(shares, len(space.tasks), space.robust)[0]
        self.mean = finite(level(shares, len(space.tasks), space.robust))


@dataclass(frozen=True)
class Choice:
    """The recommended setting, and what it was compared with.

    Attributes:
        predicted: the plateau's 10 % quantile, by the model.
        challenger: the best setting that the search has found; None if none could be run to its end.
        published: the best published setting; None if there was none to compare with.
        difference: the challenger minus that one; simultaneous over the `compared` settings that were tried, and over looks.
        stopped: why no more seeds were added; None if nothing was compared.
    """

    chosen: Candidate
    candidates: list[Candidate]
    predicted: float | None
    challenger: Candidate | None = None
    published: Candidate | None = None
    difference: Paired | None = None
    compared: int = 1
    stopped: Stopped | None = None

    @property
    def keeps_published(self) -> bool:
        return self.chosen.published

    def seeds(self, tasks: int) -> int:
        """On how many the candidates have run at most."""
        return max(len(c.shares) for c in self.candidates) // tasks

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
            rows.append({**row, "tied": c.tied, "chosen": c is self.chosen, "published": c.published})
        return rows


def choose(
    space: Space,
    records: Sequence[TrialRecord],
    surface: Surface | None,
    evaluate: Evaluate,
    seeds: Sequence[int],
    published: Mapping[str, Hyperparameters] | None = None,
    compare: Compare | None = None,
    affords: Affords = lambda _: True,
    log_losses: LogLosses | None = None,
) -> Choice | None:
    """The recommendation of a search; None if no trial can be recommended.

    `seeds`: fresh seeds to choose on, at most. `published`: label -> setting that is kept unless another is shown to be better by
    `compare`; also one that differs from the space in a fixed hyperparameter. Without them, the challenger is recommended.
    `log_losses`: what tells tied settings apart whose accuracy is 1.
    """
    known = {label: own.model_dump(mode="json") for label, own in (published or {}).items()}
    top = best_trials(of_space(space, records), space.confirmation.top_k)
    if not top:
        return None
    challengers = [Candidate(f"trial {r.number}", r.number, r.params, r.config) for r in top]
    predicted = None
    if surface is not None and surface.check.trusted:
        params, predicted = plateau_setting(surface, space.confirmation.perturbed_decades)
        config = space.hyperparameters(params).model_dump(mode="json")
        challengers.append(Candidate(PLATEAU, None, params, config))
    challengers = [c for c in challengers if c.config not in known.values()]
    kept = [
        Candidate(label, None, searched_values(own, space), known[label], published=True)
        for label, own in (published or {}).items()
    ]
    candidates = [*challengers, *kept]

    def run(some: Sequence[Candidate], count: int) -> None:
        results = evaluate({c.label: c.config for c in some}, seeds[:count], "choosing")
        for c in some:
            c.take(results[c.label], space)

    if compare is not None and kept:
        tried = sum(r.status in ("completed", "pruned") and r.name not in known for r in records)
        compared = max(1, tried + (predicted is not None))  # none, where no trial but the defaults has ended
        settled = compare_in_looks(
            challengers, kept, PLATEAU, looks(len(seeds)), compared, run,
            lambda a, b, count, of: compare(a.config, b.config, seeds[:count], of), affords,
        )  # fmt: skip
        if settled.best is not None:
            return _decided(
                space, candidates, settled, compare, seeds, compared, predicted, evaluate, affords, log_losses
            )
    run(candidates, len(seeds))
    if not challengers:
        return Choice(max(kept, key=lambda c: c.mean), candidates, predicted)
    _mark_tied(challengers, _tied(space, challengers))
    _run_around(space, challengers, evaluate, seeds, affords)
    challenger = _chosen(challengers, log_losses)
    return Choice(challenger, candidates, predicted, challenger)


def _decided(
    space: Space,
    candidates: list[Candidate],
    settled: Settled,
    compare: Compare,
    seeds: Sequence[int],
    compared: int,
    predicted: float | None,
    evaluate: Evaluate,
    affords: Affords,
    log_losses: LogLosses | None,
) -> Choice:
    """The challenger if it is shown to be better than the best published setting; else that one."""
    tasks = len(space.tasks)

    def common(*some: Candidate) -> int:
        return min(len(c.shares) for c in some) // tasks

    def apart(a: Candidate, b: Candidate, of: int) -> Paired:
        return compare(a.config, b.config, seeds[: common(a, b)], of)

    published = next(c for c in candidates if c.label == settled.best)
    ran = [c for c in candidates if not c.published and math.isfinite(c.mean)]
    rivals = [c for c in ran if c.label in settled.shown]
    most = max((common(c) for c in ran), default=0)
    challenger = None
    if rivals or ran:
        rivals = rivals or [c for c in ran if common(c) == most]
        _mark_tied(rivals, _tied(space, rivals))
        if settled.shown:
            _run_around(space, rivals, evaluate, seeds, affords)
        challenger = _chosen(rivals, log_losses)
    found = None if challenger is None else settled.found[challenger.label]
    longest = max(common(c) for c in candidates if math.isfinite(c.mean))
    leader = max((c for c in candidates if common(c) == longest), key=lambda c: c.mean)
    behind = [c for c in candidates if c is not leader and not apart(leader, c, len(candidates)).low <= 0]
    _mark_tied(candidates, {c.label for c in candidates if c not in behind})
    chosen = challenger if challenger is not None and settled.shown else published
    return Choice(chosen, candidates, predicted, challenger, published, found, compared, settled.stopped)


def _mark_tied(candidates: Sequence[Candidate], tied: set[str]) -> None:
    for c in candidates:
        c.tied = c.label in tied


def measured(choice: Choice, space: Space) -> list[Scored]:
    """The candidates' results on the choosing seeds, as further data for the model. Diverged ones are left out."""
    found = []
    for c in choice.candidates:
        if c.published and not space.contains(Hyperparameters.model_validate(c.config)):
            continue  # of another space
        _, mean, std = robust_score(c.shares, len(space.tasks), space.robust)
        if math.isfinite(mean):
            seeds = len(c.shares) // len(space.tasks)
            found.append(Scored(c.params, level(c.shares, len(space.tasks), space.robust), std / math.sqrt(seeds)))
    return found


def _chosen(candidates: Sequence[Candidate], log_losses: LogLosses | None = None) -> Candidate:
    """The plateau's setting, unless real runs speak against it. At the ceiling, the tied one with the best log-loss."""
    at_ceiling = log_losses({c.label: c.config for c in candidates if c.tied}) if log_losses is not None else {}
    if at_ceiling:
        return max((c for c in candidates if c.label in at_ceiling), key=lambda c: at_ceiling[c.label])
    best = max(candidates, key=lambda c: finite(c.score))
    rivals = [c for c in candidates if c.tied and c.around.values and c.label != PLATEAU]
    plateau = next((c for c in candidates if c.label == PLATEAU and c.tied), None)
    if plateau is not None:
        rivals = _steadier(plateau, rivals)
        if not rivals:
            return plateau
    return max(rivals or [best], key=lambda c: (finite(c.around.quantile), finite(c.score)))


def _steadier(own: Candidate, others: Sequence[Candidate]) -> list[Candidate]:
    """Those around which the runs are better than around `own`, with the same moves: fewer of them diverged, or, if as many did,
    `own` is behind the best of these (95 %, all comparisons together) by the moves that none of them diverged at."""
    if not own.around.values:
        return []
    calmer = [c for c in others if c.around.diverged < own.around.diverged]
    alike = {c.label: c.around.values for c in (own, *others) if c.around.diverged == own.around.diverged}
    both = [i for i, values in enumerate(zip(*alike.values(), strict=True)) if all(values)]
    kept = {label: [values[i] for i in both] for label, values in alike.items()}
    if calmer or len(both) < 2 or own.label in tied_with_best(kept):
        return calmer
    return [c for c in others if c.label in kept and fmean(kept[c.label]) > fmean(kept[own.label])]


def _tied(space: Space, candidates: Sequence[Candidate]) -> set[str]:
    """The settings tied with the best, by their means; by the score if that is made of the lowest replicas."""
    tasks = len(space.tasks)
    if by_tail(space.robust):
        shares = {c.label: per_task(c.shares, tasks) for c in candidates}
        return tied_by_score(shares, lambda values: tail_mean(values, space.robust))
    return tied_with_best({c.label: per_seed_means(c.shares, tasks) for c in candidates})


def _run_around(
    space: Space, candidates: Sequence[Candidate], evaluate: Evaluate, seeds: Sequence[int], affords: Affords
) -> None:
    """Real runs around all tied candidates, with the same moves; as many as the budget allows, the plateau's setting first, then
    the best. Around none where one alone is left to choose."""
    each = space.confirmation.perturbations * min(space.confirmation.perturbed_seeds, len(seeds))
    looked_at = sorted((c for c in candidates if c.tied), key=lambda c: (c.label != PLATEAU, -finite(c.score)))
    while len(looked_at) > 1 and not affords(len(looked_at) * each):
        looked_at.pop()
    if len(looked_at) < 2:
        return
    settings = {c.label: c.config for c in looked_at}
    found = run_around(space, settings, evaluate, seeds, space.confirmation.perturbations, CHOOSING)
    for c in looked_at:
        c.around = found[c.label]


def finite(value: float | None) -> float:
    """`value`, or minus infinity if it cannot be compared."""
    return value if value is not None and math.isfinite(value) else -math.inf
