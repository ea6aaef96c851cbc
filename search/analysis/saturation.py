"""Whether a search's score is at its ceiling or floor, where the best trials cannot be told apart however many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from search.analysis.metrics import replica_values
from search.analysis.ranking import score_of
from search.ledger.ledger import TrialRecord
from search.space.plan import Plan

CEILING = 0.99  # of accuracy or recall: what is above cannot be told apart on a few hundred items
ABOVE_CHANCE = 1.1  # an accuracy up to so many times chance is at its floor
FEWEST = 4  # completed trials, of which the best quarter is one
Limit = Literal["ceiling", "floor"]
WHAT_HELPS = {
    "ceiling": "`metric: log_loss` where it is accuracy, fewer synthetic items per class (smaller `dpc`), "
    "a `group` for each item, or a harder split",
    "floor": "more synthetic items per class (larger `dpc`), more steps, or another encoder",
}


@dataclass(frozen=True)
class Saturation:
    """Looks at the best quarter of the completed trials. `classes`: of each task."""

    plan: Plan
    classes: Sequence[int]

    def of(self, records: Sequence[TrialRecord]) -> Limit | None:
        """`ceiling` if all of them have a mean accuracy (or recall) of 0.99 or more in every task, `floor` if all are at chance
        in every task that is judged by accuracy, and all tasks are; else None."""
        completed = [r for r in records if r.status == "completed" and r.reports]
        if len(completed) < FEWEST:
            return None
        best = sorted(completed, key=lambda r: -score_of(r))[: math.ceil(len(completed) / 4)]
        means = [self._means(r) for r in best]
        if all(mean >= CEILING for own in means for mean in own):
            return "ceiling"
        floors = [ABOVE_CHANCE / count for count in self.classes]
        by_accuracy = all(metric == "accuracy" for metric in self.plan.judged)
        if by_accuracy and all(mean <= low for own in means for mean, low in zip(own, floors, strict=True)):
            return "floor"
        return None

    def line(self, records: Sequence[TrialRecord]) -> str | None:
        """What to tell a user while the search runs; None where there is nothing to tell."""
        limit = self.of(records)
        if limit is None:
            return None
        completed = sum(r.status == "completed" for r in records)
        return f"{at_limit(limit, f'the best quarter of {completed} trials')}; what helps: {WHAT_HELPS[limit]}"

    def _means(self, record: TrialRecord) -> list[float]:
        values = replica_values(record.metrics, self.plan, "judged")
        seeds = len(values) // len(self.classes)
        return [fmean(values[task * seeds : (task + 1) * seeds]) for task in range(len(self.classes))]


def at_limit(limit: Limit, which: str) -> str:
    """`the score is at its ceiling: ...`."""
    if limit == "ceiling":
        return (
            f"the score is at its ceiling ({which}: {CEILING:.0%} right or more), where settings cannot be told apart"
        )
    return f"the score is at its floor ({which}: no better than chance), where settings cannot be told apart"
