"""The cost of a search in replica-steps, and what racing saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from search.analysis.surrogate import seeds_of
from search.ledger.ledger import TrialRecord
from search.space.model import Space


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


def replica_steps(space: Space, records: Sequence[TrialRecord]) -> int:
    """Optimiser steps of all replicas of all trials."""
    return sum(
        round(r.metrics.get("replica_steps", r.steps * len(space.tasks) * len(r.seeds))) for r in records if r.reports
    )
