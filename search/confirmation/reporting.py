"""What is run to report a choice: on how many seeds, and what else there is a budget for. Settled before any of these runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from condense.config.models import Hyperparameters
from search.analysis.cost import FIRST_SEEDS, fewest_reporting_seeds
from search.analysis.ranking import best_trial
from search.analysis.sequential import seeds_to_report
from search.analysis.surrogate import Surface
from search.confirmation.perturbation import can_move
from search.confirmation.selection import Candidate, Choice, Compare
from search.ledger.ledger import TrialRecord
from search.space.model import Space

FEWEST_MOVED = 8  # runs around a setting: fewer say nothing of their 10 % quantile


@dataclass(frozen=True)
class ReportingPlan:
    """What is run.

    Attributes:
        seeds: of each setting that is compared.
        single: of what single seeds would have chosen; 0: not run.
        moved: runs around a setting; 0: none.
        around: around how many settings: the recommended one, then the search's best trial.
    """

    seeds: int
    single: int
    moved: int
    around: int


def plan_report(
    space: Space, left: int, wanted: int, movable: int, compared: Callable[[int], int], single: Callable[[int], int]
) -> ReportingPlan:
    """`left`: runs that there is a budget for. `wanted`: `wanted_seeds`. `movable`: how many settings there are to move.
    `compared`, `single`: seeds -> runs that these settings still take.

    In this order: the comparison on few seeds; runs around the recommended setting; single seeds' choices; more seeds; runs
    around the best trial.
    """
    c, fewest = space.confirmation, fewest_reporting_seeds(space)
    each, few = min(c.perturbed_seeds, c.seeds), min(FIRST_SEEDS, fewest)
    rest = left - compared(fewest)
    moved = min(c.reported_perturbations, max(0, rest) // each) if movable else 0
    if moved < min(FEWEST_MOVED, c.reported_perturbations):
        moved = 0
    rest -= moved * each
    if single(few) > rest:
        few = 0
    rest -= single(few)
    seeds = max((n for n in range(fewest, wanted + 1) if compared(n) - compared(fewest) <= rest), default=fewest)
    rest -= compared(seeds) - compared(fewest)
    around = 0 if not moved else 2 if movable > 1 and moved * each <= rest else 1
    return ReportingPlan(seeds, few, moved, around)


def wanted_seeds(space: Space, choice: Choice, seeds: Sequence[int], compare: Compare) -> int:
    """With how many seeds the intervals of the chosen setting's differences are hardly wider than with any number of them, by
    what was seen on the choosing `seeds`."""
    fewest, chosen = fewest_reporting_seeds(space), choice.chosen
    wanted = [fewest]
    for c in choice.candidates:
        if c is not chosen and (c.published or c is choice.challenger) and math.isfinite(c.mean):
            both = seeds[: min(len(c.shares), len(chosen.shares)) // len(space.tasks)]
            found = compare(chosen.config, c.config, both, 1)
            wanted.append(seeds_to_report(found, fewest, space.confirmation.seeds))
    return max(wanted)


def known_around(space: Space, chosen: Candidate, surface: Surface | None) -> Surface | None:
    """The model, unless it cannot be trusted, or knows nothing of what is around a setting: a published one of another space."""
    inside = not chosen.published or space.contains(Hyperparameters.model_validate(chosen.config))
    return surface if surface is not None and surface.check.trusted and inside else None


def movable(space: Space, records: Sequence[TrialRecord], choice: Choice) -> dict[str, dict[str, Any]]:
    """What there may be runs around: the recommended setting, a published one included, and, if it is another, the search's best
    trial. Nothing where nothing of the recommended setting can move."""
    chosen, best = choice.chosen, best_trial(records)
    settings = {"recommended": chosen.config}
    if best is not None and best.number != chosen.trial:
        settings["best"] = best.config
    moving = {label: own for label, own in settings.items() if can_move(space, own)}
    return moving if "recommended" in moving else {}
