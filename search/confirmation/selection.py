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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from condense.config.modalities import RATE
from condense.config.models import Hyperparameters
from search.analysis.paired import Paired
from search.analysis.ranking import best_trials
from search.analysis.robustness import plateau_setting
from search.analysis.scores import by_tail, level, mean_and_std, per_seed_means, per_task, robust_score, tail_mean
from search.analysis.statistics import paired_difference, tied_by_score, tied_with_best
from search.analysis.surrogate import Scored, Surface, of_space
from search.confirmation.perturbation import CHOOSING, Around, Evaluate, run_around
from search.ledger.ledger import TrialRecord
from search.space.model import CF_ONLY, Space

PLATEAU = "plateau"
Compare = Callable[[Mapping[str, Any], Mapping[str, Any], int], Paired]
"""(all hyperparameters of a setting, of another, how many the first is the best of) -> their difference on the choosing seeds."""

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


@dataclass(frozen=True)
class Choice:
    """The recommended setting, and what it was compared with.

    Attributes:
        predicted: the plateau's 10 % quantile, by the model.
        challenger: the best setting that the search has found; None if none could be run to its end.
        published: the best published setting; None if there was none to compare with.
        difference: the challenger minus that one; simultaneous over the `compared` settings that were tried.
    """

    chosen: Candidate
    candidates: list[Candidate]
    predicted: float | None
    challenger: Candidate | None = None
    published: Candidate | None = None
    difference: Paired | None = None
    compared: int = 1

    @property
    def keeps_published(self) -> bool:
        return self.chosen.published

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
    log_losses: LogLosses | None = None,
) -> Choice | None:
    """The recommendation of a search; None if no trial can be recommended.

    `seeds`: fresh seeds to choose on. `published`: label -> setting that is kept unless another is shown to be better by
    `compare`; also one that differs from the space in a fixed hyperparameter. Without them, the challenger is recommended.
    `log_losses`: what tells tied settings apart whose accuracy is 1.
    """
    known = {label: own.model_dump(mode="json") for label, own in (published or {}).items()}
    top = best_trials(of_space(space, records), space.confirmation.top_k)
    if not top:
        return None
    challengers = [Candidate(f"trial {r.number}", r.number, r.params, r.config) for r in top]
    predicted = None
    if surface is not None:
        params, predicted = plateau_setting(surface, space.confirmation.perturbed_decades)
        config = space.hyperparameters(params).model_dump(mode="json")
        challengers.append(Candidate(PLATEAU, None, params, config))
    challengers = [c for c in challengers if c.config not in known.values()]
    kept = [
        Candidate(label, None, applied(own, space.search), known[label], published=True)
        for label, own in (published or {}).items()
    ]
    candidates = [*challengers, *kept]
    results = evaluate({c.label: c.config for c in candidates}, seeds, "choosing")
    for c in candidates:
        c.shares = results[c.label]
        c.score = robust_score(c.shares, len(space.tasks), space.robust)[0]
    challenger = None
    if challengers:
        _mark_tied(challengers, _tied(space, challengers))
        if surface is not None and space.confirmation.perturbations:
            _run_around(space, challengers, surface, evaluate, seeds)
        challenger = _chosen(challengers, log_losses)
    ran = [c for c in kept if math.isfinite(c.score)]
    if challenger is None or not ran or compare is None:
        best = challenger or max(kept, key=lambda c: finite(c.score))
        return Choice(best, candidates, predicted, challenger)
    tried = sum(r.status in ("completed", "pruned") and r.name not in known for r in records)
    return _decided(space, candidates, challenger, compare, tried + (surface is not None), predicted)


def _decided(
    space: Space,
    candidates: list[Candidate],
    challenger: Candidate,
    compare: Compare,
    compared: int,
    predicted: float | None,
) -> Choice:
    """The challenger, or another that is shown to be better than the best published setting; else that one."""

    def mean(c: Candidate) -> float:
        return finite(level(c.shares, len(space.tasks), space.robust))

    published = max((c for c in candidates if c.published), key=mean)
    others = sorted((c for c in candidates if not c.published and c is not challenger), key=lambda c: -finite(c.score))
    chosen, found = published, compare(challenger.config, published.config, compared)
    for c in (challenger, *others):
        own = found if c is challenger else compare(c.config, published.config, compared)
        if own.low > 0:
            chosen, challenger, found = c, c, own
            break
    leader = max(candidates, key=mean)
    apart = {c.label: compare(leader.config, c.config, len(candidates)) for c in candidates if c is not leader}
    _mark_tied(candidates, {leader.label} | {label for label, own in apart.items() if own.low <= 0})
    return Choice(chosen, candidates, predicted, challenger, published, found, compared)


def _mark_tied(candidates: Sequence[Candidate], tied: set[str]) -> None:
    for c in candidates:
        c.tied = c.label in tied


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
