"""The cost of a search in replica-steps, what racing saved, and what the confirmation may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from condense.config.published import MMD_LEARNING_RATES
from search.analysis.sequential import FIRST_LOOK, looks
from search.analysis.surrogate import seeds_of
from search.ledger.ledger import TrialRecord
from search.space.model import Space

FIRST_SEEDS = 3  # of settings that only a first look is taken at
LIKELY = 3  # how many of the tuned learning rates are looked at again
LIKELY_MMD = 2
PUBLISHED = 3  # the paper's default, the project's, tuned MMD
REPORTED = PUBLISHED + 2  # and what the search has found: the challenger, the best trial


def race(space: Space, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """The number of trials that ended with each number of seeds, and their replica-steps against all seeds for every trial."""
    if space.racing is None:
        return None
    ended = [r for r in records if r.reports]
    seeds = Counter(map(seeds_of, ended))
    tasks = len(space.tasks)
    full = sum(min(r.steps, space.steps) * tasks * space.seeds for r in ended)
    return {
        "seeds": {str(n): seeds[n] for n in sorted(seeds)},
        "replica_steps": replica_steps(space, ended),
        "full": full,
    }


def confirmation_budget(space: Space, records: Sequence[TrialRecord], folds: int = 1) -> int:
    """How many runs (a setting with a seed, on all tasks) the confirmation may take: `confirmation.budget`, or as many
    replica-steps as the trials took; but not fewer than it needs at least."""
    own = space.confirmation.budget
    steps = replica_steps(space, records) if own is None else own
    return max(steps // (space.steps * len(space.tasks)), fewest_confirmation_runs(space, folds))


def fewest_confirmation_runs(space: Space, folds: int = 1) -> int:
    """What the confirmation needs at least: the first look, and a report on few seeds."""
    return _mmd_rates() + _candidates(space) * looks(space.confirmation.seeds)[0] + reserved_runs(space, folds)


def reserved_runs(space: Space, folds: int = 1) -> int:
    """What is needed to report a choice, whatever it is. `folds`: of each task, which are tasks of `space`."""
    tasks = len(space.tasks) // folds
    across = tasks * looks(space.confirmation.seeds)[0] if tasks > 1 else 0  # `search.analysis.transfer`
    return REPORTED * fewest_reporting_seeds(space) + across


def fewest_reporting_seeds(space: Space) -> int:
    """On how many seeds a choice is reported at least."""
    return min(FIRST_LOOK, space.confirmation.seeds)


def tuned_rates_runs(space: Space) -> int:
    """What tuning the default's learning rates takes at most."""
    c = space.confirmation
    again = LIKELY * (min(FIRST_LOOK, c.seeds) - 1)
    return c.tuned_rates + 2 + again if c.tuned_rates else 0


def most_confirmation_runs(space: Space, records: Sequence[TrialRecord], folds: int = 1) -> int:
    """How many runs the confirmation takes at most; equal settings are run once."""
    c, few = space.confirmation, min(FIRST_SEEDS, space.confirmation.seeds)
    choosing = _mmd_rates() + _candidates(space) * c.seeds
    choosing += (c.top_k + 1) * c.perturbations * min(c.perturbed_seeds, c.seeds)
    tuned = tuned_rates_runs(space) + c.seeds * bool(c.tuned_rates)
    reporting = REPORTED * c.seeds + space.seeds * few + 2 * c.reported_perturbations * min(c.perturbed_seeds, c.seeds)
    across = reserved_runs(space, folds) - REPORTED * fewest_reporting_seeds(space)
    return min(choosing + tuned + reporting + across, confirmation_budget(space, records, folds))


def _mmd_rates() -> int:
    return len(MMD_LEARNING_RATES) + LIKELY_MMD * (FIRST_SEEDS - 1)


def _candidates(space: Space) -> int:
    """The best trials, the plateau's setting, and the published ones."""
    return space.confirmation.top_k + 1 + PUBLISHED


def replica_steps(space: Space, records: Sequence[TrialRecord]) -> int:
    """Optimiser steps of all replicas of all trials."""
    return sum(
        round(r.metrics.get("replica_steps", r.steps * len(space.tasks) * len(r.seeds))) for r in records if r.reports
    )
