"""The runs on fresh seeds, compared item by item: on validation in shares of the full data's accuracy, on test as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.analysis.paired import Items, Outcome, Paired, difference, difference_of_tails
from search.analysis.scores import by_tail, per_task, tail_mean
from search.engine.hits import unpack_hits
from search.space.model import Robust

Result = Mapping[str, Any]  # of a setting, by `search.confirmation.reruns.Reruns.run`
Method = Mapping[str, Sequence[Any]]  # {scores, hits}: of a baseline, over seeds


class HeldOut:
    """The items of one split, of all tasks, and what settings' runs say on them."""

    def __init__(
        self, items: Sequence[Items], robust: Robust, labels: Sequence[Sequence[int] | None] | None = None
    ) -> None:
        """`labels`: of each task's items, where its metric is accuracy and its classes are not about as large as one another."""
        self.items, self.robust = list(items), robust
        self.labels = [None] * len(self.items) if labels is None else list(labels)

    @staticmethod
    def of(
        described: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]], robust: Robust, shares: bool
    ) -> HeldOut:
        """`described`: of each task its items (`EngineActor.items`); `tasks`: `EngineActor.describe`. `shares`: whether
        scores are shares of the full data's on validation."""
        items = [
            Items(
                own["count"],
                float(task["full_score"]) if shares else 1.0,
                None if own["groups"] is None else np.asarray(own["groups"]),
                own["data"],
                own["of_groups"],
            )
            for own, task in zip(described, tasks, strict=True)
        ]
        labels = [
            own["labels"] if task["metric"] == "accuracy" else None for own, task in zip(described, tasks, strict=True)
        ]
        return HeldOut(items, robust, labels)

    def compared(self, a: Result, b: Result, of: int = 1) -> Paired:
        """Robust scores on validation, a - b: of means over seeds, or by a rule of the lowest replicas. `of`: how many settings
        `a` is the best of."""
        if by_tail(self.robust):
            return difference_of_tails(
                self.on_validation(a), self.on_validation(b), self.items, lambda x: tail_mean(x, self.robust), of
            )
        return self.gain(a, b, of)

    def gain(self, a: Result, b: Result, of: int = 1) -> Paired:
        """Mean shares on validation, a - b."""
        return difference(self.on_validation(a), self.on_validation(b), self.items, of)

    def on_validation(self, result: Result) -> Outcome:
        """A setting's runs."""
        return Outcome(result["shares"], self._hits(result["hits"]))

    def on_test(self, result: Result) -> Outcome:
        """A setting's runs."""
        return Outcome(result["test"], self._hits(result["test_hits"]))

    def of_baseline(self, method: Sequence[Method]) -> Outcome:
        """A baseline's, `method`: of each task."""
        return Outcome(
            [value for own in method for value in own["scores"]],
            self._hits([hits for own in method for hits in own["hits"]]),
        )

    def score(self, outcome: Outcome) -> Paired:
        """The score itself, with its interval."""
        return difference(outcome, None, self.items)

    def balanced(self, outcome: Outcome) -> float | None:
        """The accuracy as a mean over classes, seeds and tasks; None where the classes are about as large as one another."""
        if outcome.hits is None or all(labels is None for labels in self.labels):
            return None
        found = []
        for right, labels in zip(outcome.hits, self.labels, strict=True):
            own = right.mean(axis=0)  # (items,): over seeds
            each = np.zeros(len(own), dtype=int) if labels is None else np.unique(labels, return_inverse=True)[1]
            found.append((np.bincount(each, own) / np.bincount(each)).mean())
        return float(np.mean(found))

    def apart(self, a: Outcome, b: Outcome) -> Paired:
        """a - b."""
        return difference(a, b, self.items)

    @property
    def groups(self) -> int | None:
        """How many there are, over all tasks on different data; None where not all tasks' data have groups."""
        known = {each.data: each.number_of_groups for each in self.items}
        return None if any(count is None for count in known.values()) else sum(count or 0 for count in known.values())

    def _hits(self, packed: Sequence[str | None]) -> list[np.ndarray] | None:
        """`packed`: task-major."""
        if any(text is None for text in packed):
            return None
        return [
            np.stack([unpack_hits(text, each.count) for text in own if text is not None])
            for own, each in zip(per_task(packed, len(self.items)), self.items, strict=True)
        ]
