"""How long a search has not come further.

Optuna's terminator was looked at: its regret bound is for one objective, needs a Gaussian process for each trial, and compares
it with an error that it knows of cross-validated scores only. Replicas over seeds give each score its standard error as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.analysis.surrogate import seeds_of
from search.ledger.ledger import TrialRecord


def trials_without_progress(records: Sequence[TrialRecord]) -> int:
    """How many trials in a row, up to the last that has ended, were not better than the best one before them by more than the
    standard error of that one's score. Small steps add up: the best one is that of the last progress, not the luckiest since.

    The settings that a search begins with (defaults, `warm_start`) count as the best, but not as trials without progress.
    """
    best: TrialRecord | None = None
    idle = 0
    for record in sorted((r for r in records if r.status != "unfinished"), key=lambda r: (r.finished or 0.0, r.number)):
        counts = record.status == "completed" and record.score is not None and record.name != "paper_default"
        if counts and (best is None or record.score > best.score + _error(best)):  # type: ignore[operator]
            best, idle = record, 0
        elif record.name is None:
            idle += 1
    return idle


def _error(record: TrialRecord) -> float:
    """The standard error over seeds; 0 of a single one."""
    spread = record.metrics.get("score_std", 0.0)
    return spread / math.sqrt(seeds_of(record)) if math.isfinite(spread) else 0.0
