"""The cost of a search in replica-steps, and what racing saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from condense.config.published import MMD_LEARNING_RATES
from search.analysis.surrogate import seeds_of
from search.ledger.ledger import TrialRecord
from search.space.model import Space

FIRST_SEEDS = 3  # of the confirmation, for a first look; only the best settings are run on all choosing seeds
LIKELY = 3  # how many settings are run on all choosing seeds
PUBLISHED = 3  # the paper's default, the project's, tuned MMD


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


def most_confirmation_runs(space: Space) -> int:
    """How many runs (a setting with a seed, on all tasks) the confirmation takes at most; equal settings are run once."""
    c, tasks = space.confirmation, len(space.tasks)
    rates = len(MMD_LEARNING_RATES) * FIRST_SEEDS
    choosing = (c.top_k + 1 + PUBLISHED) * c.seeds + (c.top_k + 1) * c.perturbations * min(c.perturbed_seeds, c.seeds)
    tuned = (c.tuned_rates + 2) * FIRST_SEEDS + LIKELY * c.seeds if c.tuned_rates else 0
    # The recommended one, the best, the challenger, the tuned rates, and what single seeds would have chosen.
    reporting = (4 + PUBLISHED + space.seeds) * c.seeds + 2 * c.reported_perturbations * min(c.perturbed_seeds, c.seeds)
    return rates + choosing + tuned + reporting + (tasks * c.seeds if tasks > 1 else 0)


def replica_steps(space: Space, records: Sequence[TrialRecord]) -> int:
    """Optimiser steps of all replicas of all trials."""
    return sum(
        round(r.metrics.get("replica_steps", r.steps * len(space.tasks) * len(r.seeds))) for r in records if r.reports
    )
